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
    /// In the map of pages. No two such blocks begin in the same page, since each is a page long or
    /// begins with one.
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

#[cfg(test)]
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
    fn blocks_of_a_page_are_what_was_asked_for() {
        for (size, align) in [
            (4_096, 1),
            (4_096, 16),
            (65_536, 8),
            (1, 4_096),
            (64, 2 << 20),
        ] {
            assert_eq!(Placement::of(layout(size, align)), Placement::ByPage);
        }
    }
}
