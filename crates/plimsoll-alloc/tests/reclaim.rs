//! Memory given back by allocators other than the system's, which are not installed here.
#![cfg(all(
    any(feature = "jemalloc", feature = "mimalloc"),
    target_os = "linux",
    not(any(plimsoll_loom, miri))
))]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_alloc::{CountingAllocator, MemoryScope, Reclaim, TrackingAllocator};
use std::{
    alloc::{GlobalAlloc, Layout},
    sync::{Mutex, PoisonError},
};

/// What is resident is so for the process, so nothing may run beside a test.
static ONE: Mutex<()> = Mutex::new(());

fn gives_back(allocator: &(impl GlobalAlloc + Reclaim), has_figures: bool) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let figures = || allocator.figures().unwrap_or_default();
    let before = figures();
    let layout = Layout::new::<[u8; 2_000]>();
    let scope = MemoryScope::new();
    let blocks: Vec<_> = scope.run(|| {
        (0..40_000)
            .map(|_| {
                // SAFETY: it is not empty, and written to as long as it is.
                unsafe {
                    let block = allocator.alloc(layout);
                    block.write_bytes(1, layout.size());
                    block
                }
            })
            .collect()
    });
    assert!(scope.usage().live >= 80_000_000);
    let full = figures();
    if has_figures {
        assert!(full.allocated >= before.allocated + 80_000_000, "{full:?}");
        let all = [Some(full.allocated), full.active, full.resident];
        assert!(all.is_sorted() && all[1].is_some(), "{full:?}");
        assert!(full.mapped >= full.active.unwrap(), "{full:?}");
    } else {
        assert_eq!(allocator.figures(), None);
    }
    for block in blocks {
        // SAFETY: it has that layout, and is not used again.
        unsafe { allocator.dealloc(block, layout) };
    }
    let reclaimed = allocator.reclaim();
    assert!(reclaimed.freed().unwrap() > 60_000_000, "{reclaimed:?}");
    if has_figures {
        let after = figures();
        assert!(after.allocated < before.allocated + 10_000_000, "{after:?}");
        assert!(
            after.resident.unwrap() + 60_000_000 < full.resident.unwrap(),
            "{after:?}"
        );
    }
}

#[test]
#[cfg(feature = "jemalloc")]
fn jemalloc_gives_free_memory_back() {
    let jemalloc = TrackingAllocator::new(tikv_jemallocator::Jemalloc);
    gives_back(&CountingAllocator::new(jemalloc), true);
}

#[test]
#[cfg(feature = "mimalloc")]
fn mimalloc_gives_free_memory_back() {
    gives_back(&TrackingAllocator::new(mimalloc::MiMalloc), false);
}
