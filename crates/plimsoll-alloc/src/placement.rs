//! Where a block keeps the tag that says whose it is.

use std::alloc::Layout;

/// Blocks of a page and more have their tags in the map of [pages](crate::pages), so that buffers
/// of a power of two stay in their size class.
const PAGE: usize = crate::pages::PAGE;

/// Bytes of a tag.
const TAG: usize = size_of::<u64>();

/// Where the tag is. A pure function of the layout, which whoever frees a block knows as well.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Placement {
    /// In the 8 bytes before the block, which begins so many bytes into what the inner allocator
    /// gave.
    Before(usize),
    /// In the map of pages. No two such blocks begin in the same page, since each is a page long,
    /// or made [so](a_page).
    ByPage,
}

impl Placement {
    #[inline(always)]
    pub(crate) const fn of(layout: Layout) -> Self {
        let align = layout.align();
        if layout.size() >= PAGE || align >= PAGE {
            Self::ByPage
        } else if align > TAG {
            // The block has to stay aligned.
            Self::Before(align)
        } else {
            Self::Before(TAG)
        }
    }
}

/// The layout to ask the inner allocator for, of a block behind `before` bytes.
///
/// Such a block is smaller than a page and is aligned to less than one, so nothing overflows.
#[inline(always)]
pub(crate) const fn with_tag(layout: Layout, before: usize) -> Layout {
    let align = if layout.align() < TAG {
        TAG
    } else {
        layout.align()
    };
    // SAFETY: `align` is a power of two, as that of a layout and 8 are; the size is below two
    // pages, and so does not overflow when it is rounded up.
    unsafe { Layout::from_size_align_unchecked(layout.size() + before, align) }
}

/// The layout to ask the inner allocator for, of a block that has its tag in the map of pages. One
/// that is aligned to a page and shorter is made as long, or another could begin in the same page.
#[inline(always)]
pub(crate) const fn a_page(layout: Layout) -> Layout {
    if layout.size() >= PAGE {
        return layout;
    }
    // SAFETY: the alignment is that of a layout. Where the size is less than a page, it is a page
    // at least, and a page rounded up to it is the alignment itself, which does not overflow.
    unsafe { Layout::from_size_align_unchecked(PAGE, layout.align()) }
}

#[cfg(all(test, not(plimsoll_loom)))]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("a layout")
    }

    #[test]
    fn small_blocks_have_their_tag_in_front_and_stay_aligned() {
        for align in [1, 2, 4, 8, 16, 64, 2_048] {
            for size in [1, 7, 8, 24, 4_095] {
                let Placement::Before(before) = Placement::of(layout(size, align)) else {
                    panic!("{size} {align}");
                };
                assert!(
                    before >= TAG && before.is_multiple_of(align),
                    "{size} {align}"
                );
                let outer = with_tag(layout(size, align), before);
                assert_eq!(outer.size(), size + before);
                assert!(outer.align() >= align.max(TAG));
            }
        }
        // What the system's allocator rounds up anyway is what the tag takes.
        assert_eq!(Placement::of(layout(64, 8)), Placement::Before(8));
    }

    #[test]
    fn blocks_of_a_page_and_more_are_what_was_asked_for() {
        for (size, align) in [
            (4_096, 1),
            (4_096, 16),
            (65_536, 8),
            (1, 4_096),
            (64, 2 << 20),
        ] {
            let asked = layout(size, align);
            assert_eq!(Placement::of(asked), Placement::ByPage);
            assert_eq!(a_page(asked), layout(size.max(PAGE), align));
        }
    }
}
