use crate::{
    local, pages,
    placement::{Placement, with_tag},
    slot::UNCOUNTED,
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

/// Wraps an allocator, and knows whose every block is.
///
/// A block belongs to the [scope](crate::MemoryScope) that its thread was in when it was allocated,
/// until it is freed, wherever that happens and whoever has it by then. Bytes are those asked for,
/// not those of the inner allocator's size classes.
///
/// ```
/// use plimsoll_alloc::{MemoryScope, TrackingAllocator};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// fn main() {
///     let scope = MemoryScope::new();
///     let kept = scope.run(|| vec![0_u8; 4_096]);
///     assert_eq!(scope.usage().live, 4_096);
///     drop(kept);
///     assert_eq!(scope.usage().live, 0);
///     assert_eq!(scope.usage().peak, 4_096);
/// }
/// ```
///
/// # Cost
///
/// 8 bytes in front of a block below 4 KiB (its alignment, where that is more), which the system's
/// allocator has to spare in every other size class; 8 bytes in a table for each page of a larger
/// one. A thread counts for itself, and tells the scope when it leaves it, or has 64 KiB to tell.
///
/// # Use
///
/// One for a process: what scopes hold is counted in one place. It composes with other allocators
/// that wrap: the outermost decides what is asked for.
#[derive(Debug)]
pub struct TrackingAllocator<A = System> {
    inner: A,
}

/// How much is counted. See [`set_mode`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Mode {
    /// Nothing. Blocks that were counted before are still counted when they are freed.
    Off = 1,
    /// What lives, what lived at most, and what was allocated.
    #[default]
    Precise = 0,
}

static MODE: AtomicU8 = AtomicU8::new(Mode::Precise as u8);

/// Sets how much is counted from now on, by all threads.
///
/// The layout of blocks is the same in every mode, so that it can be changed at any time.
pub fn set_mode(mode: Mode) {
    MODE.store(mode as u8, Relaxed);
}

/// How much is counted.
pub fn mode() -> Mode {
    match MODE.load(Relaxed) {
        0 => Mode::Precise,
        _ => Mode::Off,
    }
}

impl TrackingAllocator {
    /// Wraps the allocator of the system.
    #[must_use]
    pub const fn system() -> Self {
        Self::new(System)
    }
}

impl<A> TrackingAllocator<A> {
    /// Wraps `inner`.
    #[must_use]
    pub const fn new(inner: A) -> Self {
        Self { inner }
    }

    /// The allocator inside.
    #[must_use]
    pub const fn inner(&self) -> &A {
        &self.inner
    }
}

/// Counts a block that was allocated. Its tag.
#[inline(always)]
fn count(bytes: usize) -> u64 {
    match MODE.load(Relaxed) {
        0 => local::allocated(bytes),
        _ => UNCOUNTED,
    }
}

/// Remembers whose a large block is. One that cannot be remembered is not counted.
#[inline]
fn remember(block: *mut u8, bytes: usize) {
    let tag = count(bytes);
    if !pages::set(block, tag) {
        local::freed(tag, bytes);
    }
}

/// The tag of a block that stands in front of it.
///
/// # Safety
///
/// The 8 bytes before `block` must be a tag, aligned, that nobody writes meanwhile.
#[inline(always)]
unsafe fn tag_before(block: *mut u8) -> *mut u64 {
    // SAFETY: they are in the allocation of the block, as the caller says.
    unsafe { block.sub(size_of::<u64>()) }.cast()
}

impl<A: GlobalAlloc> TrackingAllocator<A> {
    /// Allocates by `allocate`, which gets the layout to ask the inner allocator for.
    ///
    /// # Safety
    ///
    /// `allocate` must give null or a block of the layout it is given; `layout` must not be empty.
    #[inline(always)]
    unsafe fn allocate(&self, layout: Layout, allocate: impl FnOnce(Layout) -> *mut u8) -> *mut u8 {
        match Placement::of(layout) {
            Placement::ByPage => {
                let block = allocate(layout);
                if !block.is_null() {
                    remember(block, layout.size());
                }
                block
            }
            Placement::Before(before) => {
                let outer = allocate(with_tag(layout, before));
                if outer.is_null() {
                    return outer;
                }
                // SAFETY: the outer block is `before` bytes longer than what was asked for.
                let block = unsafe { outer.add(before) };
                // SAFETY: `before` is at least the size of a tag, and a multiple of its alignment,
                // as the outer block's is; nobody else knows the block yet.
                unsafe { tag_before(block).write(count(layout.size())) };
                block
            }
        }
    }
}

// SAFETY: a block is what the inner allocator gave for this layout, or the rest of what it gave
// for a larger one, aligned as asked for, with the tag in front of it, which belongs to nobody
// else. What is given back to the inner allocator is what it gave, with the layout that it was
// asked for: `Placement` depends on the layout alone. Counting neither allocates nor unwinds.
unsafe impl<A: GlobalAlloc> GlobalAlloc for TrackingAllocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `alloc`'s contract: the layout is not empty, and one that is
        // longer is not, either.
        unsafe { self.allocate(layout, |layout| self.inner.alloc(layout)) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`. The tag overwrites what is not part of the block.
        unsafe { self.allocate(layout, |layout| self.inner.alloc_zeroed(layout)) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match Placement::of(layout) {
            Placement::ByPage => {
                // Before it is given back: somebody else may have it at once.
                local::freed(pages::get(block), layout.size());
                // SAFETY: it came from the inner allocator, for this layout.
                unsafe { self.inner.dealloc(block, layout) };
            }
            Placement::Before(before) => {
                // SAFETY: `allocate` wrote it for this layout, and the caller owns the block.
                local::freed(unsafe { tag_before(block).read() }, layout.size());
                // SAFETY: this is what the inner allocator gave, `before` bytes in front, for that
                // layout.
                unsafe {
                    self.inner
                        .dealloc(block.sub(before), with_tag(layout, before))
                };
            }
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller says that the new size, rounded up to the alignment, does not
        // overflow.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (Placement::of(layout), Placement::of(new)) {
            (Placement::ByPage, Placement::ByPage) => {
                let tag = pages::get(block);
                // SAFETY: it came from the inner allocator, for this layout; the caller keeps the
                // rest of the contract.
                let moved = unsafe { self.inner.realloc(block, layout, new_size) };
                if !moved.is_null() {
                    match pages::set(moved, tag) {
                        true => local::resized(tag, layout.size(), new_size),
                        false => local::freed(tag, layout.size()),
                    }
                }
                moved
            }
            (Placement::Before(before), Placement::Before(_)) => {
                // SAFETY: `allocate` wrote it for this layout.
                let tag = unsafe { tag_before(block).read() };
                let (outer, size) = (with_tag(layout, before), new_size + before);
                // SAFETY: this is what the inner allocator gave, for that layout; both are below
                // two pages, and not empty.
                let moved = unsafe { self.inner.realloc(block.sub(before), outer, size) };
                if moved.is_null() {
                    return moved;
                }
                local::resized(tag, layout.size(), new_size);
                // SAFETY: the tag was moved with the rest; `before` depends on the alignment,
                // which is the same.
                unsafe { moved.add(before) }
            }
            // Less than a page is moved, into the name of whoever had it.
            (from, to) => {
                // SAFETY: as for `dealloc`.
                let tag = match from {
                    Placement::ByPage => pages::get(block),
                    Placement::Before(_) => unsafe { tag_before(block).read() },
                };
                // SAFETY: the new layout is not empty.
                let moved = unsafe { self.alloc(new) };
                if moved.is_null() {
                    return moved;
                }
                let both = layout.size().min(new_size);
                // SAFETY: both blocks are that long, and they are two.
                unsafe { ptr::copy_nonoverlapping(block, moved, both) };
                // SAFETY: the caller gives the old block up.
                unsafe { self.dealloc(block, layout) };
                let mine = match to {
                    Placement::ByPage => pages::get(moved),
                    // SAFETY: `alloc` wrote it.
                    Placement::Before(_) => unsafe { tag_before(moved).read() },
                };
                if mine != tag {
                    local::freed(mine, new_size);
                    local::given(tag, new_size);
                    match to {
                        Placement::ByPage => {
                            pages::set(moved, tag);
                        }
                        // SAFETY: nobody else knows the block yet.
                        Placement::Before(_) => unsafe { tag_before(moved).write(tag) },
                    }
                }
                moved
            }
        }
    }
}
