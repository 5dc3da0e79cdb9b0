//! What a benchmark of an allocator needs `unsafe` for.

use crate::{MemoryScope, TrackingAllocator};
use std::{
    alloc::{GlobalAlloc, Layout, handle_alloc_error},
    hint::black_box,
    mem::MaybeUninit,
    slice,
};

/// Allocates and frees a block, `n` times.
///
/// # Panics
///
/// When the layout is empty. When there is no memory, the process is ended.
pub fn pairs<A: GlobalAlloc>(allocator: &A, layout: Layout, n: u64) {
    assert!(layout.size() > 0, "the layout is empty; ask for a byte");
    for _ in 0..n {
        // SAFETY: the layout is not empty.
        let block = black_box(unsafe { allocator.alloc(black_box(layout)) });
        if block.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: it was allocated with this layout just now.
        unsafe { allocator.dealloc(block, layout) };
    }
}

/// Allocates a block in a scope and frees it outside, `n` times.
///
/// # Panics
///
/// As [`pairs`].
pub fn freed_outside<A: GlobalAlloc>(allocator: &A, scope: &MemoryScope, layout: Layout, n: u64) {
    assert!(layout.size() > 0, "the layout is empty; ask for a byte");
    for _ in 0..n {
        // SAFETY: the layout is not empty.
        let block = scope.run(|| black_box(unsafe { allocator.alloc(black_box(layout)) }));
        if block.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: it was allocated with this layout just now.
        unsafe { allocator.dealloc(block, layout) };
    }
}

/// A block of bytes of an allocator, until it is dropped.
#[derive(Debug)]
pub struct Bytes<'a, A: GlobalAlloc> {
    allocator: &'a A,
    bytes: &'a mut [MaybeUninit<u8>],
}

impl<'a, A: GlobalAlloc> Bytes<'a, A> {
    /// Allocates so many, and writes all of them.
    ///
    /// # Panics
    ///
    /// When there are none, or more than there may be. When there is no memory, the process is ended.
    pub fn filled(allocator: &'a A, len: usize, byte: u8) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout is not empty.
        let block = unsafe { allocator.alloc(layout) };
        if block.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: the block is as long, and is this one's until it is dropped.
        let bytes = unsafe { slice::from_raw_parts_mut(block.cast::<MaybeUninit<u8>>(), len) };
        bytes.fill(MaybeUninit::new(byte));
        Self { allocator, bytes }
    }

    /// The sum of them.
    #[must_use]
    pub fn sum(&self) -> u64 {
        // SAFETY: all of them were written.
        let bytes = self.bytes.iter().map(|byte| unsafe { byte.assume_init() });
        bytes.map(u64::from).sum()
    }

    fn layout(len: usize) -> Layout {
        assert!(len > 0, "the block is empty; ask for a byte");
        Layout::array::<u8>(len).expect("no more than there may be")
    }
}

impl<A: GlobalAlloc> Drop for Bytes<'_, A> {
    fn drop(&mut self) {
        let block = self.bytes.as_mut_ptr().cast();
        // SAFETY: it was allocated with this layout, and is not used again.
        unsafe {
            self.allocator
                .dealloc(block, Self::layout(self.bytes.len()))
        };
    }
}

/// Says how long a block is that an allocator gives.
pub trait Usable: GlobalAlloc {
    /// Bytes that may be used of a block of this layout: those of its size class. None where the
    /// allocator does not tell.
    ///
    /// # Panics
    ///
    /// When the layout is empty. When there is no memory, the process is ended.
    fn usable(&self, layout: Layout) -> Option<usize>;
}

impl<A: Usable> TrackingAllocator<A> {
    /// Bytes that the inner allocator takes for a block of this layout, with its tag, as
    /// [`Usable::usable`] tells them.
    ///
    /// # Panics
    ///
    /// As [`Usable::usable`].
    pub fn taken(&self, layout: Layout) -> Option<usize> {
        self.inner().usable(Self::asked_for(layout))
    }
}

impl Usable for std::alloc::System {
    fn usable(&self, layout: Layout) -> Option<usize> {
        #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
        {
            use std::ffi::c_void;

            unsafe extern "C" {
                fn malloc_usable_size(block: *mut c_void) -> usize;
            }
            // SAFETY: a block of the system's allocator is one of `malloc`, and lives.
            let usable = |block: *mut u8| unsafe { malloc_usable_size(block.cast()) };
            Some(with_block(self, layout, usable))
        }
        #[cfg(not(all(target_os = "linux", target_env = "gnu", not(miri))))]
        {
            let _ = layout;
            None
        }
    }
}

#[cfg(feature = "jemalloc")]
impl Usable for tikv_jemallocator::Jemalloc {
    fn usable(&self, layout: Layout) -> Option<usize> {
        // SAFETY: the block is jemalloc's, and lives.
        let usable =
            |block: *mut u8| unsafe { tikv_jemalloc_sys::malloc_usable_size(block.cast()) };
        Some(with_block(self, layout, usable))
    }
}

#[cfg(feature = "mimalloc")]
impl Usable for mimalloc::MiMalloc {
    fn usable(&self, layout: Layout) -> Option<usize> {
        use std::ffi::c_void;

        unsafe extern "C" {
            fn mi_usable_size(block: *const c_void) -> usize;
        }
        // SAFETY: the block is mimalloc's, and lives.
        let usable = |block: *mut u8| unsafe { mi_usable_size(block.cast()) };
        Some(with_block(self, layout, usable))
    }
}

#[cfg(any(
    feature = "jemalloc",
    feature = "mimalloc",
    all(target_os = "linux", target_env = "gnu", not(miri))
))]
fn with_block<A: GlobalAlloc, T>(
    allocator: &A,
    layout: Layout,
    look: impl FnOnce(*mut u8) -> T,
) -> T {
    assert!(layout.size() > 0, "the layout is empty; ask for a byte");
    // SAFETY: the layout is not empty.
    let block = unsafe { allocator.alloc(layout) };
    if block.is_null() {
        handle_alloc_error(layout);
    }
    let seen = look(block);
    // SAFETY: it was allocated with this layout.
    unsafe { allocator.dealloc(block, layout) };
    seen
}
