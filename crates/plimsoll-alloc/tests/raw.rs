//! The allocator as whoever calls it by hand sees it: what it asks of the one inside, and what it
//! does when that one refuses.
#![cfg(not(plimsoll_loom))]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_alloc::{CountingAllocator, MemoryScope, TrackingAllocator};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::BTreeMap,
    ptr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

const PAGE: usize = 4_096;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// The allocator that is tested, called as its contract asks for.
struct Heap<A>(TrackingAllocator<A>);

#[derive(Clone, Copy, Debug)]
struct Block {
    at: *mut u8,
    layout: Layout,
}

// SAFETY: a block belongs to whoever has it, as a box does.
unsafe impl Send for Block {}

impl<A: GlobalAlloc> Heap<A> {
    const fn of(inner: A) -> Self {
        Self(TrackingAllocator::new(inner))
    }

    fn try_alloc(&self, size: usize, align: usize) -> Option<Block> {
        let layout = layout(size, align);
        // SAFETY: no test asks for nothing.
        let at = unsafe { self.0.alloc(layout) };
        (!at.is_null()).then_some(Block { at, layout })
    }

    fn try_zeroed(&self, size: usize, align: usize) -> Option<Block> {
        let layout = layout(size, align);
        // SAFETY: no test asks for nothing.
        let at = unsafe { self.0.alloc_zeroed(layout) };
        (!at.is_null()).then_some(Block { at, layout })
    }

    fn alloc(&self, size: usize, align: usize) -> Block {
        let block = self.try_alloc(size, align).unwrap();
        block.fill();
        block
    }

    fn try_resize(&self, block: Block, size: usize) -> Option<Block> {
        // SAFETY: the block is of this heap, with its layout; nobody uses it after it was moved.
        let at = unsafe { self.0.realloc(block.at, block.layout, size) };
        let layout = layout(size, block.layout.align());
        (!at.is_null()).then_some(Block { at, layout })
    }

    fn free(&self, block: Block) {
        block.give_back(&self.0);
    }
}

impl Block {
    const fn byte(n: usize) -> u8 {
        (n % 251) as u8
    }

    fn fill(&self) {
        for n in 0..self.layout.size() {
            // SAFETY: it is that long.
            unsafe { self.at.add(n).write(Self::byte(n)) };
        }
    }

    fn assert_filled(&self, len: usize) {
        for n in 0..len {
            // SAFETY: it is that long, and was filled.
            assert_eq!(unsafe { self.at.add(n).read() }, Self::byte(n), "byte {n}");
        }
    }

    fn assert_zero(&self) {
        for n in 0..self.layout.size() {
            // SAFETY: it is that long, and was zeroed.
            assert_eq!(unsafe { self.at.add(n).read() }, 0, "byte {n}");
        }
    }

    fn give_back<A: GlobalAlloc>(self, allocator: &A) {
        // SAFETY: the block is of this allocator, with its layout; it is not used again.
        unsafe { allocator.dealloc(self.at, self.layout) };
    }

    fn assert_aligned(&self) {
        assert!(self.at.addr().is_multiple_of(self.layout.align()));
    }
}

/// Refuses when it is told to.
struct Moody {
    refuses: AtomicBool,
}

impl Moody {
    const fn new() -> Self {
        Self {
            refuses: AtomicBool::new(false),
        }
    }
}

// SAFETY: passes everything on to the system's allocator, or gives null.
unsafe impl GlobalAlloc for Moody {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.refuses.load(Relaxed) {
            true => ptr::null_mut(),
            // SAFETY: the caller keeps the contract.
            false => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match self.refuses.load(Relaxed) {
            true => ptr::null_mut(),
            // SAFETY: the caller keeps the contract.
            false => unsafe { System.realloc(block, layout, size) },
        }
    }
}

/// Checks that each block comes back with the layout it was asked for, gives blocks that are dirty
/// unless they were to be zeroed, and moves whatever is resized.
#[derive(Default)]
struct Strict {
    blocks: Mutex<BTreeMap<usize, Layout>>,
    zeroed: AtomicUsize,
    resized: AtomicUsize,
}

impl Strict {
    fn give(&self, at: *mut u8, layout: Layout) -> *mut u8 {
        assert!(layout.size() > 0);
        assert_eq!(self.blocks.lock().unwrap().insert(at.addr(), layout), None);
        at
    }

    fn take(&self, at: *mut u8, layout: Layout) {
        let given = self.blocks.lock().unwrap().remove(&at.addr());
        assert_eq!(given, Some(layout));
    }

    fn is_empty(&self) -> bool {
        self.blocks.lock().unwrap().is_empty()
    }
}

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Strict {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            // SAFETY: it is that long.
            unsafe { block.write_bytes(0xaa, layout.size()) };
        }
        self.give(block, layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.zeroed.fetch_add(1, Relaxed);
        // SAFETY: the caller keeps the contract.
        self.give(unsafe { System.alloc_zeroed(layout) }, layout)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.take(block, layout);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.resized.fetch_add(1, Relaxed);
        let new = Layout::from_size_align(size, layout.align()).unwrap();
        // SAFETY: the new layout is not empty, as the caller says.
        let moved = unsafe { self.alloc(new) };
        // SAFETY: both are that long, and they are two.
        unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
        // SAFETY: the caller gives it up.
        unsafe { self.dealloc(block, layout) };
        moved
    }
}

/// Gives blocks one after the other, as near as their alignment allows.
struct Tight {
    arena: Block,
    next: AtomicUsize,
}

// SAFETY: the blocks do not overlap, are aligned, and are in the arena, which outlives them.
unsafe impl GlobalAlloc for Tight {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.arena.at.addr();
        let start = (base + self.next.load(Relaxed)).next_multiple_of(layout.align()) - base;
        assert!(start + layout.size() <= self.arena.layout.size());
        self.next.store(start + layout.size(), Relaxed);
        // SAFETY: it is in the arena.
        unsafe { self.arena.at.add(start) }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

/// Gives an address that nothing is at, and moves blocks beyond those whose tags can be remembered.
struct Far(usize);

// SAFETY: nobody looks at what is there.
unsafe impl GlobalAlloc for Far {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        ptr::without_provenance_mut(self.0)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}

    unsafe fn realloc(&self, _: *mut u8, _: Layout, _: usize) -> *mut u8 {
        ptr::without_provenance_mut(1 << 50)
    }
}

/// Puts 32 bytes of its own in front of every block, as others that wrap do.
struct Headed<A>(A);

impl<A> Headed<A> {
    fn outer(inner: Layout) -> (Layout, usize) {
        let before = inner.align().max(32);
        let outer = Layout::from_size_align(inner.size() + before, before).unwrap();
        (outer, before)
    }
}

// SAFETY: a block is the rest of what `A` gave, aligned to the most of what is asked for.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Headed<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (outer, before) = Self::outer(layout);
        // SAFETY: it is not empty.
        let block = unsafe { self.0.alloc(outer) };
        // SAFETY: it is longer than that; no test asks for more than there is.
        unsafe {
            block.write_bytes(0x55, before);
            block.add(before)
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let (outer, before) = Self::outer(layout);
        // SAFETY: this is what `A` gave.
        unsafe {
            let block = block.sub(before);
            assert_eq!(block.add(before - 1).read(), 0x55);
            self.0.dealloc(block, outer);
        }
    }
}

/// Sizes and alignments on both sides of every limit.
fn layouts() -> impl Iterator<Item = (usize, usize)> {
    // Miri looks at each byte.
    let most = if cfg!(miri) { 4 * PAGE } else { 2 << 20 };
    let aligns = [1, 2, 8, 16, 64, 2_048, PAGE, 2 * PAGE, most];
    let sizes = [1, 7, 8, 9, 100, PAGE - 8, PAGE - 1, PAGE, PAGE + 1, 20_000];
    aligns
        .into_iter()
        .flat_map(move |align| sizes.map(|size| (size, align)))
}

#[test]
fn refusal_is_passed_on_and_leaves_everything_as_it_was() {
    let heap = Heap::of(Moody::new());
    let scope = MemoryScope::new();
    for (size, new_sizes) in [
        (64, [1, 100, PAGE, 2 * PAGE]),
        (PAGE, [1, 100, PAGE + 1, 2 * PAGE]),
    ] {
        scope.run(|| {
            let block = heap.alloc(size, 8);
            let before = scope.usage();
            heap.0.inner().refuses.store(true, Relaxed);
            for asked in [8, 64, PAGE, 1 << 20] {
                assert!(heap.try_alloc(asked, 8).is_none());
                assert!(heap.try_zeroed(asked, 64).is_none());
            }
            for new_size in new_sizes {
                assert!(heap.try_resize(block, new_size).is_none());
            }
            heap.0.inner().refuses.store(false, Relaxed);
            assert_eq!(scope.usage(), before);
            block.assert_filled(size);
            heap.free(block);
        });
        assert_eq!(scope.usage().live, 0);
    }
}

#[test]
// Miri ends the process there.
#[cfg(not(miri))]
fn sizes_that_nobody_has_are_refused() {
    let heap = Heap::of(System);
    let scope = MemoryScope::new();
    scope.run(|| {
        for (size, align) in [
            (isize::MAX as usize - 8, 1),
            (isize::MAX as usize - 8, 8),
            (isize::MAX as usize, 1),
            (isize::MAX as usize + 1 - PAGE, PAGE),
        ] {
            assert!(heap.try_alloc(size, align).is_none());
            assert!(heap.try_zeroed(size, align).is_none());
            for held in [8, PAGE] {
                let block = heap.alloc(held, align);
                assert!(heap.try_resize(block, size).is_none());
                block.assert_filled(held);
                heap.free(block);
            }
        }
    });
    assert_eq!(scope.usage().live, 0);
}

#[test]
fn blocks_are_as_long_and_as_aligned_as_they_have_to_be_and_counted_to_the_byte() {
    let heap = Heap::of(Strict::default());
    let scope = MemoryScope::new();
    let mut sum = 0;
    let blocks: Vec<_> = layouts()
        .flat_map(|(size, align)| {
            sum += 2 * size as u64;
            let (one, two) = scope.run(|| (heap.alloc(size, align), heap.try_zeroed(size, align)));
            [one, two.unwrap()]
        })
        .collect();
    assert_eq!(scope.usage().live, sum);
    assert_eq!(scope.usage().allocated, sum);
    for pair in blocks.chunks(2) {
        pair[0].assert_filled(pair[0].layout.size());
        pair[1].assert_zero();
        pair[1].fill();
        pair.iter().for_each(Block::assert_aligned);
    }
    for block in blocks {
        block.assert_filled(block.layout.size());
        heap.free(block);
    }
    assert_eq!(scope.usage().live, 0);
    assert!(heap.0.inner().is_empty());
    // By the inner allocator, which knows what is zero already.
    assert_eq!(heap.0.inner().zeroed.load(Relaxed), layouts().count());
}

#[test]
fn small_block_that_is_aligned_to_a_page_has_the_page_to_itself() {
    let arena = layout(64 * PAGE, PAGE);
    // SAFETY: it is not empty.
    let at = unsafe { System.alloc(arena) };
    let arena = Block { at, layout: arena };
    let heap = Heap::of(Tight {
        arena,
        next: AtomicUsize::new(0),
    });
    let [one, two] = [(); 2].map(|()| MemoryScope::new());
    let aligned = one.run(|| heap.alloc(64, PAGE));
    // Just behind, were the first as short as it was asked for.
    let long = two.run(|| heap.alloc(PAGE, 8));
    let resized = two.run(|| heap.try_resize(aligned, 100).unwrap());
    resized.assert_filled(64);
    assert_eq!(one.usage().live, 100);
    heap.free(resized);
    assert_eq!([one.usage().live, two.usage().live], [0, PAGE as u64]);
    heap.free(long);
    assert_eq!([one.usage().live, two.usage().live], [0, 0]);
    // SAFETY: nothing in it is used any more.
    unsafe { System.dealloc(arena.at, arena.layout) };
}

#[test]
fn resized_block_keeps_its_owner_and_its_contents_whoever_resizes_it() {
    let heap = Heap::of(Strict::default());
    let sizes = [1, 8, 100, PAGE - 1, PAGE, PAGE + 1, 65_536, 70_000];
    for align in [1, 16, 64, PAGE] {
        for (from, to) in sizes.iter().flat_map(|from| sizes.map(|to| (*from, to))) {
            let [owner, other] = [(); 2].map(|()| MemoryScope::new());
            let block = owner.run(|| heap.alloc(from, align));
            let block = other.run(|| heap.try_resize(block, to).unwrap());
            block.assert_aligned();
            block.assert_filled(from.min(to));
            let live = [owner.usage().live, other.usage().live];
            assert_eq!(live, [to as u64, 0], "{from} to {to}");
            // One block that moves is not two.
            assert_eq!(owner.usage().peak, from.max(to) as u64, "{from} to {to}");
            assert_eq!(owner.usage().allocated, (from + to) as u64);
            let theirs = other.usage();
            assert_eq!([theirs.peak, theirs.allocated], [0, 0], "{from} to {to}");
            other.run(|| heap.free(block));
            assert_eq!([owner.usage().live, other.usage().live], [0, 0]);
        }
    }
    assert!(heap.0.inner().is_empty());
}

#[test]
fn resized_block_is_counted_by_a_thread_in_its_scope_as_well() {
    let heap = Heap::of(System);
    let scope = MemoryScope::new();
    scope.run(|| {
        let mut block = heap.alloc(16, 8);
        for size in [100, PAGE, 3 * PAGE, 40, PAGE - 1, 8] {
            block = heap.try_resize(block, size).unwrap();
            assert_eq!(scope.usage().live, size as u64);
        }
        assert_eq!(scope.usage().peak, 3 * PAGE as u64);
        heap.free(block);
        assert_eq!(scope.usage().live, 0);
    });
}

#[test]
fn blocks_are_resized_by_the_inner_allocator_on_their_side_of_a_page() {
    let heap = Heap::of(Strict::default());
    let resized = |size, align, new_size| {
        let before = heap.0.inner().resized.load(Relaxed);
        let block = heap.alloc(size, align);
        heap.free(heap.try_resize(block, new_size).unwrap());
        heap.0.inner().resized.load(Relaxed) - before
    };
    assert_eq!(resized(16, 8, 2_000), 1);
    assert_eq!(resized(PAGE, 8, 1 << 20), 1);
    assert_eq!(resized(64, PAGE, 128), 1);
    assert_eq!(resized(100, 8, PAGE), 0);
    assert_eq!(resized(PAGE, 8, 100), 0);
}

#[test]
fn block_whose_tag_cannot_be_remembered_is_not_counted() {
    let heap = Heap::of(Far(1 << 50));
    let scope = MemoryScope::new();
    scope.run(|| {
        let block = heap.try_alloc(2 * PAGE, 8).unwrap();
        let block = heap.try_resize(block, 3 * PAGE).unwrap();
        assert_eq!(scope.usage().allocated, 0);
        heap.free(block);
    });
    heap.free(heap.try_alloc(1 << 20, 8).unwrap());
    let usage = scope.usage();
    assert_eq!([usage.live, usage.peak, usage.allocated], [0; 3]);

    // One that is moved there is not counted any more.
    let heap = Heap::of(Far(0x1234_5000_0000));
    let block = scope.run(|| heap.try_alloc(2 * PAGE, 8).unwrap());
    assert_eq!(scope.usage().live, 2 * PAGE as u64);
    let block = heap.try_resize(block, 3 * PAGE).unwrap();
    assert_eq!(scope.usage().live, 0);
    heap.free(block);
    assert_eq!(scope.usage().live, 0);
}

#[test]
fn composes_with_others_that_wrap_inside_and_outside() {
    fn exercise<A: GlobalAlloc + Sync>(allocator: &A, extra: impl Fn(usize, usize) -> usize) {
        let scope = MemoryScope::new();
        let sizes = layouts().filter(|(_, align)| *align <= PAGE);
        for (size, align) in sizes {
            let layout = layout(size, align);
            let block = scope.run(|| {
                // SAFETY: it is not empty.
                let at = unsafe { allocator.alloc(layout) };
                Block { at, layout }
            });
            block.assert_aligned();
            block.fill();
            let counted = size + extra(size, align);
            assert_eq!(scope.usage().live, counted as u64, "{size} {align}");
            // SAFETY: the block has that layout, and the new size is not zero.
            let at = unsafe { allocator.realloc(block.at, layout, 2 * size) };
            let layout = self::layout(2 * size, align);
            let block = Block { at, layout };
            block.assert_filled(size);
            thread::scope(|threads| {
                threads.spawn(move || block.give_back(allocator));
            });
            assert_eq!(scope.usage().live, 0, "{size} {align}");
        }
    }

    // Outside of others, what they add is theirs; inside, it is counted.
    exercise(&TrackingAllocator::new(Headed(System)), |_, _| 0);
    exercise(&Headed(TrackingAllocator::system()), |_, align| {
        align.max(32)
    });

    let outside = CountingAllocator::new(TrackingAllocator::system());
    exercise(&outside, |_, _| 0);
    assert_eq!(outside.live_bytes(), 0);
    let inside = TrackingAllocator::new(CountingAllocator::system());
    exercise(&inside, |_, _| 0);
    assert_eq!(inside.inner().live_bytes(), 0);
}

#[test]
fn blocks_of_a_page_and_more_cost_nothing_and_smaller_ones_eight_bytes() {
    type Tracking = TrackingAllocator;
    for (asked, taken) in [
        ((16, 8), (24, 8)),
        ((64, 8), (72, 8)),
        ((64, 1), (72, 8)),
        ((64, 64), (128, 64)),
        ((PAGE - 1, 1), (PAGE + 7, 8)),
        ((PAGE, 1), (PAGE, 1)),
        ((65_536, 8), (65_536, 8)),
        ((1 << 20, 16), (1 << 20, 16)),
        ((64, PAGE), (PAGE, PAGE)),
        ((64, 2 << 20), (PAGE, 2 << 20)),
    ] {
        let asked = layout(asked.0, asked.1);
        assert_eq!(Tracking::asked_for(asked), layout(taken.0, taken.1));
    }
}
