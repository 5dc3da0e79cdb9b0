use crate::{
    LargeBlocks, local, pages,
    placement::{Placement, a_page, with_tag},
    slot::UNCOUNTED,
};
#[cfg(feature = "profile")]
use crate::{
    profile,
    records::{self, is_sampled},
};
use std::{
    alloc::{GlobalAlloc, Layout},
    ptr,
    sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed},
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
/// that wrap, in either order. Outside of them it counts what the program asks for, and they see
/// tags as well; inside, it counts what they add, too.
///
/// On Linux with glibc a thread that ends tells everything it has counted. Elsewhere up to 64 KiB
/// of what it allocated in no scope may be missing for ever. Blocks of a page and more that lie
/// beyond 48 bits of address are not counted.
#[derive(Debug)]
pub struct TrackingAllocator<A = LargeBlocks> {
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
    /// What was allocated, in the name of the scope that the thread is in: a resized block, too, by
    /// its new size. What is allocated in this mode never lives, so that there is no peak of it, it
    /// is not retained, and no limit is met by it. Blocks that were counted before are counted on.
    Counters = 2,
}

const PRECISE: u8 = Mode::Precise as u8;
const COUNTERS: u8 = Mode::Counters as u8;

/// Blocks are sampled, whatever is counted.
const WATCHED: u8 = 1 << 7;

/// One of the modes, and perhaps that. All that is asked for each block is whether this is 0.
static MODE: AtomicU8 = AtomicU8::new(PRECISE);

fn change(change: impl Fn(u8) -> u8) {
    let mut before = MODE.load(Relaxed);
    while let Err(now) = MODE.compare_exchange_weak(before, change(before), Relaxed, Relaxed) {
        before = now;
    }
}

/// Has blocks sampled from now on, or not.
#[cfg(feature = "profile")]
pub(crate) fn watch(watched: bool) {
    change(|before| match watched {
        true => before | WATCHED,
        false => before & !WATCHED,
    });
}

/// Whether blocks are sampled.
#[cfg(feature = "profile")]
pub(crate) fn is_watched() -> bool {
    MODE.load(Relaxed) & WATCHED != 0
}

/// Sets how much is counted from now on, by all threads.
///
/// The layout of blocks is the same in every mode, so that it can be changed at any time.
pub fn set_mode(mode: Mode) {
    SWITCHES.fetch_add(1, Relaxed);
    change(|before| before & WATCHED | mode as u8);
}

/// How often the [mode was set](set_mode). What was counted while that changed may not be all.
#[must_use]
#[inline]
pub fn mode_switches() -> u32 {
    SWITCHES.load(Relaxed)
}

/// It wraps.
static SWITCHES: AtomicU32 = AtomicU32::new(0);

/// Whether a [`TrackingAllocator`] is the program's allocator, and counts. Without one, scopes hold
/// nothing.
#[must_use]
pub fn is_installed() -> bool {
    let before = local::allocated_here();
    // Unseen by the optimiser, which may take an allocation away that nobody looks at.
    drop(std::hint::black_box(Box::new([0_u8; 64])));
    local::allocated_here() != before
}

/// How much is counted.
pub fn mode() -> Mode {
    match MODE.load(Relaxed) & !WATCHED {
        PRECISE => Mode::Precise,
        COUNTERS => Mode::Counters,
        _ => Mode::Off,
    }
}

impl TrackingAllocator {
    /// Wraps the allocator of the system, with [large blocks](LargeBlocks) by ourselves.
    ///
    /// Without these it is `TrackingAllocator::new(std::alloc::System)`.
    #[must_use]
    pub const fn system() -> Self {
        Self::new(LargeBlocks::system())
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

    /// The layout that the inner allocator is asked for, for this one.
    #[must_use]
    #[cfg(feature = "test-util")]
    pub const fn asked_for(layout: Layout) -> Layout {
        match Placement::of(layout) {
            Placement::ByPage => a_page(layout),
            Placement::Before(before) => with_tag(layout, before),
        }
    }
}

/// Counts a block that was allocated. Its tag.
#[inline(always)]
fn count(bytes: usize) -> u64 {
    match MODE.load(Relaxed) {
        PRECISE => local::allocated(bytes),
        mode => count_otherwise(mode, bytes),
    }
}

#[inline(never)]
fn count_otherwise(mode: u8, bytes: usize) -> u64 {
    let tag = match mode & !WATCHED {
        PRECISE => local::allocated(bytes),
        COUNTERS => {
            local::allocated_only(bytes);
            UNCOUNTED
        }
        _ => UNCOUNTED,
    };
    #[cfg(feature = "profile")]
    if mode & WATCHED != 0 && profile::is_hit(bytes) {
        return profile::sample(tag, bytes);
    }
    tag
}

/// Counts a block that was resized. Its tag from now on.
#[inline(always)]
fn resized(tag: u64, old: usize, new: usize) -> u64 {
    match MODE.load(Relaxed) {
        PRECISE if !is_sampled(tag) => {
            local::resized(tag, old, new);
            tag
        }
        mode => resized_otherwise(mode, tag, old, new),
    }
}

#[inline(never)]
fn resized_otherwise(mode: u8, tag: u64, old: usize, new: usize) -> u64 {
    match counted_by(tag) {
        UNCOUNTED if mode & !WATCHED == COUNTERS => local::allocated_only(new),
        UNCOUNTED => {}
        counted_by => local::resized(counted_by, old, new),
    }
    #[cfg(feature = "profile")]
    if is_sampled(tag) {
        return profile::resized(tag, new, mode & WATCHED != 0);
    } else if mode & WATCHED != 0 && new > old && profile::is_hit(new - old) {
        return profile::sample(tag, new);
    }
    tag
}

/// Without a sample no block is in one.
#[cfg(not(feature = "profile"))]
const fn is_sampled(_: u64) -> bool {
    false
}

#[cfg(not(feature = "profile"))]
const fn counted_by(tag: u64) -> u64 {
    tag
}

/// What a block is counted by that has this tag.
#[cfg(feature = "profile")]
fn counted_by(tag: u64) -> u64 {
    match is_sampled(tag) {
        true => records::counted_by(tag),
        false => tag,
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

/// Allocates a large block, and remembers its tag, if there is room for it. Not part of its callers,
/// of which most have small blocks.
#[inline(never)]
fn allocate_pages(
    layout: Layout,
    allocate: impl FnOnce(Layout) -> *mut u8,
    tag: impl FnOnce() -> u64,
) -> *mut u8 {
    let block = allocate(a_page(layout));
    if !block.is_null()
        && let Some(entry) = pages::entry(block)
    {
        entry.set(tag());
    }
    block
}

/// The tag of a block.
///
/// # Safety
///
/// The block must be one that [`TrackingAllocator`] gave for this layout, and that nobody frees
/// meanwhile.
#[inline(always)]
unsafe fn tag_of(block: *mut u8, layout: Layout) -> u64 {
    match Placement::of(layout) {
        Placement::ByPage => pages::get(block),
        // SAFETY: `allocate` wrote it for this layout, as the caller says.
        Placement::Before(_) => unsafe { tag_before(block).read() },
    }
}

impl<A: GlobalAlloc> TrackingAllocator<A> {
    /// Allocates by `allocate`, which gets the layout to ask the inner allocator for, and remembers
    /// what `tag` says, which is not asked when that is not possible.
    ///
    /// # Safety
    ///
    /// `allocate` must give null or a block of the layout it is given; `layout` must not be empty.
    #[inline(always)]
    unsafe fn allocate(
        layout: Layout,
        allocate: impl FnOnce(Layout) -> *mut u8,
        tag: impl FnOnce() -> u64,
    ) -> *mut u8 {
        match Placement::of(layout) {
            Placement::ByPage => allocate_pages(layout, allocate, tag),
            Placement::Before(before) => {
                let outer = allocate(with_tag(layout, before));
                if outer.is_null() {
                    return outer;
                }
                // SAFETY: the outer block is `before` bytes longer than what was asked for.
                let block = unsafe { outer.add(before) };
                // SAFETY: `before` is at least the size of a tag, and a multiple of its alignment,
                // as the outer block's address is; nobody else knows the block yet.
                unsafe { tag_before(block).write(tag()) };
                block
            }
        }
    }

    /// Gives a block back to the inner allocator.
    ///
    /// # Safety
    ///
    /// The block must be one that this allocator gave for this layout, and that nobody uses any
    /// more.
    #[inline(always)]
    unsafe fn give_back(&self, block: *mut u8, layout: Layout) {
        let (outer, layout) = match Placement::of(layout) {
            Placement::ByPage => (block, a_page(layout)),
            // SAFETY: what the inner allocator gave begins so many bytes in front.
            Placement::Before(before) => (unsafe { block.sub(before) }, with_tag(layout, before)),
        };
        // SAFETY: this is what the inner allocator gave, with the layout that it was asked for.
        unsafe { self.inner.dealloc(outer, layout) };
    }
}

// SAFETY: a block is what the inner allocator gave for this layout, or for one that is longer, or
// the rest of what it gave, aligned as asked for, with the tag in front of it, which belongs to
// nobody else. What is given back to the inner allocator is what it gave, with the layout that it
// was asked for: `Placement` depends on the layout alone. Counting neither allocates through this
// allocator nor unwinds.
unsafe impl<A: GlobalAlloc> GlobalAlloc for TrackingAllocator<A> {
    // Always: the shims that the compiler makes of these for a program are where they are called, and
    // a call more takes as long as what is counted.
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let inner = move |layout| {
            // SAFETY: the caller keeps `alloc`'s contract: the layout is not empty, and one that is
            // longer is not, either.
            unsafe { self.inner.alloc(layout) }
        };
        // SAFETY: that is what the inner allocator gives.
        unsafe { Self::allocate(layout, inner, move || count(layout.size())) }
    }

    #[inline(always)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let inner = move |layout| {
            // SAFETY: as for `alloc`.
            unsafe { self.inner.alloc_zeroed(layout) }
        };
        // SAFETY: as for `alloc`. The tag overwrites what is not part of the block.
        unsafe { Self::allocate(layout, inner, move || count(layout.size())) }
    }

    #[inline(always)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // One match, for this is what every block comes to. Counted before it is given back:
        // somebody else may have it at once.
        match Placement::of(layout) {
            Placement::ByPage => {
                local::freed(pages::get(block), layout.size());
                // SAFETY: it came from the inner allocator, for that layout.
                unsafe { self.inner.dealloc(block, a_page(layout)) };
            }
            Placement::Before(before) => {
                // SAFETY: `allocate` wrote it for this layout, and the caller owns the block.
                local::freed(unsafe { tag_before(block).read() }, layout.size());
                // SAFETY: this is what the inner allocator gave, `before` bytes in front, for that
                // layout.
                unsafe {
                    self.inner
                        .dealloc(block.sub(before), with_tag(layout, before));
                }
            }
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller says that the new size, rounded up to the alignment, does not
        // overflow.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: the caller has a block of this allocator, with its layout.
        let tag = unsafe { tag_of(block, layout) };
        match (Placement::of(layout), Placement::of(new)) {
            (Placement::ByPage, Placement::ByPage) => {
                let (outer, size) = (a_page(layout), a_page(new).size());
                // SAFETY: the block came from the inner allocator, for that layout; the caller
                // keeps the rest of the contract, and a page instead of less does, too.
                let moved = unsafe { self.inner.realloc(block, outer, size) };
                if moved.is_null() {
                    return moved;
                }
                match pages::entry(moved) {
                    Some(entry) => {
                        entry.set(resized(tag, layout.size(), new_size));
                    }
                    None => local::freed(tag, layout.size()),
                }
                moved
            }
            (Placement::Before(before), Placement::Before(_)) => {
                let (outer, size) = (with_tag(layout, before), new_size + before);
                // SAFETY: this is what the inner allocator gave, for that layout; both are below
                // two pages, and not empty.
                let moved = unsafe { self.inner.realloc(block.sub(before), outer, size) };
                if moved.is_null() {
                    return moved;
                }
                // SAFETY: the tag was moved with the rest; `before` depends on the alignment,
                // which is the same.
                let block = unsafe { moved.add(before) };
                let now = resized(tag, layout.size(), new_size);
                if now != tag {
                    // SAFETY: as for `allocate`.
                    unsafe { tag_before(block).write(now) };
                }
                block
            }
            // Less than a page is moved, for one of the two is shorter.
            _ => {
                let mut remembered = false;
                let inner = |layout| {
                    // SAFETY: the new layout is not empty.
                    unsafe { self.inner.alloc(layout) }
                };
                let tag_again = || {
                    remembered = true;
                    resized(tag, layout.size(), new_size)
                };
                // SAFETY: that is what the inner allocator gives.
                let moved = unsafe { Self::allocate(new, inner, tag_again) };
                if moved.is_null() {
                    return moved;
                }
                let both = layout.size().min(new_size);
                // SAFETY: both blocks are that long, and they are two.
                unsafe { ptr::copy_nonoverlapping(block, moved, both) };
                if !remembered {
                    local::freed(tag, layout.size());
                }
                // SAFETY: the caller gives the old block up.
                unsafe { self.give_back(block, layout) };
                moved
            }
        }
    }
}
