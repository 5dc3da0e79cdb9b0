use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Wraps an allocator and counts what is allocated and freed through it.
///
/// Bytes are those asked for, not those of the inner allocator's size classes.
#[derive(Debug)]
pub struct CountingAllocator<A = System> {
    inner: A,
    allocated: AtomicU64,
    freed: AtomicU64,
    calls: AtomicU64,
}

impl CountingAllocator {
    /// Counts what goes through the system's allocator.
    #[must_use]
    pub const fn system() -> Self {
        Self::new(System)
    }
}

impl<A> CountingAllocator<A> {
    /// Counts what goes through `inner`.
    #[must_use]
    pub const fn new(inner: A) -> Self {
        Self {
            inner,
            allocated: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        }
    }

    /// The allocator inside.
    #[must_use]
    pub const fn inner(&self) -> &A {
        &self.inner
    }

    /// Bytes allocated and not yet freed. Exact when no other thread allocates meanwhile.
    pub fn live_bytes(&self) -> u64 {
        // Freed first: read the other way round, a free in between would count without its
        // allocation.
        let freed = self.freed.load(Relaxed);
        self.allocated.load(Relaxed).saturating_sub(freed)
    }

    /// How often memory was asked for, growing and shrinking included.
    pub fn allocations(&self) -> u64 {
        self.calls.load(Relaxed)
    }

    fn count(&self, allocated: usize, freed: usize) {
        self.calls.fetch_add(1, Relaxed);
        self.allocated.fetch_add(allocated as u64, Relaxed);
        self.freed.fetch_add(freed as u64, Relaxed);
    }
}

// SAFETY: every call is passed on to `inner` unchanged and its answer is returned unchanged, so
// whatever `inner` guarantees holds here. Counting neither allocates nor panics.
unsafe impl<A: GlobalAlloc> GlobalAlloc for CountingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `alloc`'s contract, which is `inner`'s.
        let block = unsafe { self.inner.alloc(layout) };
        if !block.is_null() {
            self.count(layout.size(), 0);
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `alloc_zeroed`'s contract, which is `inner`'s.
        let block = unsafe { self.inner.alloc_zeroed(layout) };
        if !block.is_null() {
            self.count(layout.size(), 0);
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller keeps `realloc`'s contract, which is `inner`'s; `block` came from
        // `inner`, for this allocator hands out nothing else.
        let moved = unsafe { self.inner.realloc(block, layout, new_size) };
        if !moved.is_null() {
            self.count(new_size, layout.size());
        }
        moved
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.freed.fetch_add(layout.size() as u64, Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract; `block` came from `inner`.
        unsafe { self.inner.dealloc(block, layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_every_way_to_allocate_and_returns_to_the_start() {
        let counting = CountingAllocator::system();
        let layout = Layout::from_size_align(64, 8).expect("a valid layout");
        // SAFETY: the layout is not empty, and each block is freed once with its last layout.
        unsafe {
            let one = counting.alloc(layout);
            let two = counting.alloc_zeroed(layout);
            assert_eq!(counting.live_bytes(), 128);
            let one = counting.realloc(one, layout, 256);
            assert_eq!(counting.live_bytes(), 320);
            assert_eq!(counting.allocations(), 3);
            counting.dealloc(
                one,
                Layout::from_size_align(256, 8).expect("a valid layout"),
            );
            counting.dealloc(two, layout);
        }
        assert_eq!(counting.live_bytes(), 0);
    }
}
