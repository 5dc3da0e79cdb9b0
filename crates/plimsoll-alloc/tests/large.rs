//! Large blocks, in memory: what is in them, what of them stays, and what the system refuses. One test at
//! a time, since they look at what the process has.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", not(miri), not(plimsoll_loom)))]
    return linux::run();
    // No block is large there.
    #[cfg(not(all(target_os = "linux", not(miri), not(plimsoll_loom))))]
    ExitCode::SUCCESS
}

#[cfg(all(target_os = "linux", not(miri), not(plimsoll_loom)))]
mod linux {
    use libtest_mimic::{Arguments, Trial};
    use plimsoll_alloc::{
        CountingAllocator, LargeBlockUsage, LargeBlocks, Reclaim, resident_bytes,
    };
    use rustix::{
        mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect},
        process::{Resource, Rlimit, setrlimit},
    };
    use std::{
        alloc::{GlobalAlloc, Layout},
        ffi::{c_int, c_uint, c_void},
        fs,
        panic::{self, AssertUnwindSafe},
        process::ExitCode,
        ptr,
        sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        thread,
    };

    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;
    /// Seconds after which a child is taken to hang.
    const HANGS: c_uint = 300;

    pub(crate) fn run() -> ExitCode {
        let mut arguments = Arguments::from_args();
        arguments.test_threads = Some(1);
        handle_forks();
        let trials: &[(&str, fn())] = &[
            ("contents_survive_however_a_block_is_resized", resized),
            ("block_grows_into_what_is_kept_behind_it", grown),
            ("block_that_is_a_mapping_is_lengthened", lengthened),
            ("block_of_pieces_is_copied_to_grow", copied),
            ("block_shrinks_where_it_is", shrunk),
            ("pages_are_moved_for_a_block_that_is_longer", moved),
            ("zeroed_block_is_zero_whatever_was_there", zeroed),
            ("what_is_new_of_a_zeroed_block_is_not_touched", untouched),
            ("inner_allocator_has_all_that_is_not_large", inner),
            ("what_is_freed_stays_as_far_as_there_is_room", room),
            ("what_is_new_takes_the_room_of_what_is_kept", room_of_new),
            ("all_that_is_kept_is_given_back_when_asked_for", given_back),
            ("sizes_that_nobody_has_are_refused", absurd),
            ("kept_memory_goes_before_an_allocation_fails", addresses),
            ("kept_memory_goes_before_a_small_block_fails", small),
            ("mappings_that_the_program_splits_do_no_harm", split),
            ("mappings_that_run_out_do_no_harm", mappings),
            ("addresses_that_are_lost_are_few", lost),
            ("mappings_do_not_add_up", long_run),
            ("child_of_a_fork_has_blocks_of_its_own", fork),
            ("forks_wait_for_threads_that_have_the_lock", forks),
            ("handlers_of_a_fork_may_have_large_blocks", handlers),
            ("handler_of_a_signal_may_fork", signal),
            ("threads_have_blocks_to_themselves", threads),
        ];
        let trial = |(name, test): &(&str, fn())| {
            let test = *test;
            Trial::test(*name, move || {
                test();
                Ok(())
            })
        };
        libtest_mimic::run(&arguments, trials.iter().map(trial).collect()).exit_code()
    }

    struct Heap(LargeBlocks<CountingAllocator>);

    #[derive(Clone, Copy, Debug)]
    struct Block {
        at: *mut u8,
        layout: Layout,
        seed: u8,
    }

    // SAFETY: a block belongs to whoever has it, as a box does.
    unsafe impl Send for Block {}

    impl Heap {
        const fn with_room(room: usize) -> Self {
            Self(LargeBlocks::with_room(CountingAllocator::system(), room))
        }

        const fn roomy() -> Self {
            Self::with_room(usize::MAX)
        }

        fn try_alloc(&self, layout: Layout) -> Option<Block> {
            // SAFETY: no test asks for nothing.
            let at = unsafe { self.0.alloc(layout) };
            Block::new(at, layout)
        }

        fn try_zeroed(&self, layout: Layout) -> Option<Block> {
            // SAFETY: no test asks for nothing.
            let at = unsafe { self.0.alloc_zeroed(layout) };
            Block::new(at, layout)
        }

        /// One that is marked.
        fn alloc(&self, size: usize) -> Block {
            self.try_alloc(layout(size, 8)).unwrap().marked()
        }

        fn zeroed(&self, size: usize) -> Block {
            self.try_zeroed(layout(size, 8)).unwrap()
        }

        fn try_resize(&self, block: Block, size: usize) -> Option<Block> {
            // SAFETY: the block is of this heap; nobody uses it after it was moved.
            let at = unsafe { self.0.realloc(block.at, block.layout, size) };
            let layout = layout(size, block.layout.align());
            let seed = block.seed;
            Block::new(at, layout).map(|block| Block { seed, ..block })
        }

        /// Resizes a block whose marks have to be right before and after.
        fn resize(&self, block: Block, size: usize) -> Block {
            block.check(block.layout.size());
            let resized = self.try_resize(block, size).unwrap();
            resized.check(size.min(block.layout.size()));
            resized.marked()
        }

        fn free(&self, block: Block) {
            // SAFETY: the block is of this heap, and not used again.
            unsafe { self.0.dealloc(block.at, block.layout) };
        }

        fn free_marked(&self, block: Block) {
            block.check(block.layout.size());
            self.free(block);
        }

        fn usage(&self) -> LargeBlockUsage {
            self.0.usage()
        }

        /// What lives, and what is kept, in MiB.
        fn has(&self) -> (f64, f64) {
            let mib = |bytes: u64| bytes as f64 / MIB as f64;
            (mib(self.usage().live), mib(self.usage().kept))
        }

        /// Given out of what was kept, moved, and new, in MiB.
        fn given(&self) -> (f64, f64, f64) {
            let usage = self.usage();
            let mib = |bytes: u64| bytes as f64 / MIB as f64;
            (mib(usage.reused), mib(usage.moved), mib(usage.fresh))
        }

        /// Everything was freed, and is given back.
        fn end(self) {
            self.0.release();
            assert_eq!(self.has(), (0.0, 0.0));
            assert_eq!(self.0.inner().live_bytes(), 0);
        }
    }

    static SEED: AtomicUsize = AtomicUsize::new(1);

    impl Block {
        fn new(at: *mut u8, layout: Layout) -> Option<Self> {
            assert!(at.addr().is_multiple_of(layout.align()));
            let seed = SEED.fetch_add(1, Relaxed) as u8;
            (!at.is_null()).then_some(Self { at, layout, seed })
        }

        /// What is written to: some of each page.
        fn places(len: usize) -> impl Iterator<Item = usize> {
            (0..len).step_by(1_021)
        }

        fn byte(&self, place: usize) -> u8 {
            // No two pages are the same, nor are two blocks.
            ((place / 1_021 * 0x9e37_79b9) >> 8) as u8 ^ self.seed
        }

        fn marked(self) -> Self {
            for place in Self::places(self.layout.size()) {
                // SAFETY: it is that long.
                unsafe { self.at.add(place).write(self.byte(place)) };
            }
            self
        }

        fn check(&self, len: usize) {
            for place in Self::places(len) {
                // SAFETY: it is that long, and was marked.
                let byte = unsafe { self.at.add(place).read() };
                assert_eq!(byte, self.byte(place), "at {place} of {self:?}");
            }
        }

        fn bytes(&self) -> &[u8] {
            // SAFETY: it is that long, and was written or zeroed.
            unsafe { std::slice::from_raw_parts(self.at, self.layout.size()) }
        }

        fn is_zero(&self) -> bool {
            let zero = [0; 4_096];
            self.bytes()
                .chunks(zero.len())
                .all(|some| some == &zero[..some.len()])
        }

        /// Writes all of it.
        fn fill(&self) {
            // SAFETY: it is that long.
            unsafe { self.at.write_bytes(0xa5, self.layout.size()) };
        }

        /// Makes some pages in the middle a mapping of their own, as programs may.
        fn split(&self) {
            // SAFETY: it is longer than that, and nobody forks meanwhile.
            unsafe {
                let at = self
                    .at
                    .add((self.layout.size() / 2).next_multiple_of(64 * KIB));
                madvise(at.cast(), 64 * KIB, Advice::LinuxDontFork).unwrap();
            }
        }
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    fn resident() -> usize {
        resident_bytes().unwrap() as usize
    }

    /// Bytes of addresses that the process has.
    fn mapped() -> usize {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmSize:"));
        let kib: usize = line.unwrap()[7..]
            .trim_end_matches("kB")
            .trim()
            .parse()
            .unwrap();
        kib * KIB
    }

    /// Numbers that are the same each time.
    struct Random(u64);

    impl Random {
        fn below(&mut self, most: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 16) as usize % most
        }
    }

    fn resized() {
        let sizes = [
            1,
            100 * KIB,
            512 * KIB - 1,
            512 * KIB,
            512 * KIB + 1,
            MIB,
            3 * MIB + 5,
            9 * MIB,
        ];
        for room in [0, 4 * MIB, usize::MAX] {
            let heap = Heap::with_room(room);
            for (from, to) in sizes.iter().flat_map(|from| sizes.map(|to| (*from, to))) {
                let block = heap.resize(heap.alloc(from), to);
                let neighbour = heap.alloc(2 * MIB);
                let block = heap.resize(heap.resize(block, from), to);
                heap.free_marked(neighbour);
                heap.free_marked(block);
                assert_eq!(heap.0.inner().live_bytes(), 0);
            }
            heap.end();
        }
    }

    fn grown() {
        let heap = Heap::roomy();
        let block = heap.resize(heap.alloc(8 * MIB), 2 * MIB);
        let grown = heap.resize(block, 5 * MIB);
        assert_eq!(grown.at, block.at);
        assert_eq!(heap.given(), (3.0, 0.0, 8.0));
        assert_eq!(heap.has(), (5.0, 3.0));
        heap.free_marked(grown);
        heap.end();
    }

    fn lengthened() {
        let heap = Heap::roomy();
        let block = heap.alloc(8 * MIB);
        // Where nothing can be behind it.
        let wall = heap.alloc(4 * MIB);
        let before = resident();
        let block = heap.resize(block, 64 * MIB);
        assert_eq!(heap.given(), (0.0, 0.0, 68.0));
        assert_eq!(heap.has(), (68.0, 0.0));
        assert!(resident() < before + 60 * MIB, "no page was copied");
        heap.free_marked(wall);
        heap.free_marked(block);
        heap.end();
    }

    /// Two that are kept and do not touch, of 2 MiB each, and the one between them.
    fn apart(heap: &Heap) -> Block {
        let block = heap.alloc(6 * MIB);
        let front = heap.resize(block, 2 * MIB);
        let middle = heap.alloc(2 * MIB);
        assert_eq!(middle.at.addr(), front.at.addr() + 2 * MIB);
        heap.free_marked(front);
        assert_eq!(heap.has(), (2.0, 4.0));
        middle
    }

    fn copied() {
        let heap = Heap::roomy();
        let between = apart(&heap);
        let block = heap.alloc(4 * MIB);
        assert_eq!(heap.given(), (2.0, 4.0, 6.0));
        let block = heap.resize(block, 10 * MIB);
        assert_eq!(heap.given(), (2.0, 4.0, 16.0));
        assert_eq!(heap.has(), (12.0, 4.0));
        heap.free_marked(between);
        heap.free_marked(block);
        heap.end();
    }

    fn shrunk() {
        let heap = Heap::roomy();
        let mut block = heap.alloc(4 * MIB);
        let at = block.at;
        for (size, has) in [
            (4 * MIB - 100, (4.0, 0.0)),
            (3 * MIB + 1, (3.125, 0.875)),
            (MIB, (1.0, 3.0)),
            (512 * KIB, (0.5, 3.5)),
        ] {
            block = heap.resize(block, size);
            assert_eq!(block.at, at);
            assert_eq!(heap.has(), has);
        }
        block = heap.resize(block, 511 * KIB);
        assert_ne!(block.at, at);
        assert_eq!(heap.has(), (0.0, 4.0));
        assert_eq!(heap.0.inner().live_bytes(), 511 << 10);
        heap.free_marked(block);
        heap.end();
    }

    fn moved() {
        let heap = Heap::roomy();
        let kept = heap.alloc(64 * MIB);
        // No two that are mapped one after the other touch for sure, but these do not.
        let wall = heap.alloc(MIB);
        let more = heap.alloc(64 * MIB);
        kept.fill();
        more.fill();
        heap.resize(more.marked(), 60 * MIB);
        let more = Block {
            layout: layout(60 * MIB, 8),
            ..more
        };
        heap.free(kept);
        let tail = heap.alloc(4 * MIB);
        heap.free(more);
        let before = resident();
        let block = heap.try_alloc(layout(120 * MIB, 8)).unwrap();
        // Of what was written before, wherever it is now.
        let written = block.bytes().iter().step_by(4_096);
        let written = written.filter(|byte| **byte != 0).count();
        assert_eq!(written * 4_096, 120 * MIB);
        assert!(resident() < before + 16 * MIB);
        for block in [wall, tail] {
            heap.free_marked(block);
        }
        heap.free(block);
        heap.end();
    }

    fn zeroed() {
        let heap = Heap::roomy();
        let new = heap.zeroed(3 * MIB);
        assert!(new.is_zero());
        new.fill();
        heap.free(new);
        // As a whole.
        let block = heap.zeroed(3 * MIB - 5);
        assert_eq!(block.at, new.at);
        assert!(block.is_zero());
        block.fill();
        heap.free(block);
        // With new memory behind it.
        let block = heap.zeroed(5 * MIB);
        assert_eq!(heap.given(), (3.0, 3.0, 5.0));
        assert!(block.is_zero());
        block.fill();
        heap.free(block);
        // Of pieces.
        let between = apart(&heap);
        let block = heap.zeroed(7 * MIB);
        assert!(block.is_zero());
        heap.free_marked(between);
        heap.free(block);
        heap.end();
    }

    fn untouched() {
        let heap = Heap::roomy();
        let dirty = heap.alloc(MIB);
        heap.free(dirty);
        let before = resident();
        let block = heap.zeroed(512 * MIB);
        assert_eq!(heap.given(), (0.0, 1.0, 512.0));
        assert!(resident() < before + 32 * MIB);
        // Nor is one as a whole that is new.
        let other = heap.zeroed(512 * MIB);
        assert!(resident() < before + 32 * MIB);
        heap.free(block);
        heap.free(other);
        heap.end();
    }

    fn inner() {
        let heap = Heap::roomy();
        let inner = || heap.0.inner().live_bytes() as usize;
        for align in [1, 8, 4 * KIB] {
            let layout = layout(512 * KIB, align);
            let block = heap.try_alloc(layout).unwrap();
            assert_eq!((inner(), heap.has().0), (0, 0.5));
            heap.free(block);
        }
        for (size, align) in [(512 * KIB - 1, 1), (MIB, 8 * KIB), (MIB, 2 * MIB)] {
            let block = heap.try_alloc(layout(size, align)).unwrap().marked();
            assert_eq!((inner(), heap.has().0), (size, 0.0));
            heap.free_marked(block);
            let block = heap.try_zeroed(layout(size, align)).unwrap();
            assert!(block.is_zero());
            assert_eq!((inner(), heap.has().0), (size, 0.0));
            if align > 1 {
                let block = heap.resize(block.marked(), 2 * MIB);
                assert_eq!((inner(), heap.has().0), (2 * MIB, 0.0));
                heap.free_marked(block);
            } else {
                heap.free(block);
            }
        }
        heap.end();
    }

    fn room() {
        let heap = Heap::with_room(160 * MIB);
        let blocks = [(); 3].map(|()| heap.alloc(64 * MIB));
        let full = resident();
        let [one, two, three] = blocks;
        // Two live, and half of the third may stay.
        heap.free_marked(one);
        assert_eq!(heap.has(), (128.0, 32.0));
        let half = resident();
        assert!((24 * MIB..40 * MIB).contains(&(full - half)));
        heap.free_marked(two);
        heap.free_marked(three);
        assert_eq!(heap.has(), (0.0, 160.0));
        assert!(resident().abs_diff(half) < 8 * MIB);
        // A block that is longer takes its room before it is there.
        let block = heap.alloc(200 * MIB);
        assert_eq!(heap.has(), (200.0, 0.0));
        heap.free_marked(block);
        assert_eq!(heap.has(), (0.0, 160.0));
        heap.end();
    }

    /// Blocks by their addresses.
    fn by_address(heap: &Heap, size: usize, count: usize) -> Vec<Block> {
        let mut blocks: Vec<_> = (0..count).map(|_| heap.alloc(size)).collect();
        blocks.sort_unstable_by_key(|block| block.at.addr());
        blocks
    }

    fn room_of_new() {
        // Of more pieces than a block is made of.
        let heap = Heap::with_room(76 * MIB);
        let mut blocks = by_address(&heap, 512 * KIB, 140);
        for at in (0..70).rev() {
            heap.free_marked(blocks.remove(2 * at));
        }
        assert_eq!(heap.has(), (35.0, 35.0));
        blocks.push(heap.alloc(40 * MIB));
        assert_eq!(heap.given().1, 32.0);
        assert_eq!(heap.has(), (75.0, 1.0));
        blocks.into_iter().for_each(|block| heap.free_marked(block));
        heap.end();

        // By as much as a block is longer.
        let heap = Heap::with_room(12 * MIB);
        let blocks = by_address(&heap, 4 * MIB, 3);
        heap.free_marked(blocks[0]);
        assert_eq!(heap.has(), (8.0, 4.0));
        let longer = heap.resize(blocks[2], 7 * MIB);
        assert_eq!(heap.given(), (0.0, 0.0, 15.0));
        assert_eq!(heap.has(), (11.0, 1.0));
        heap.free_marked(blocks[1]);
        heap.free_marked(longer);
        heap.end();
    }

    fn given_back() {
        type GiveBack = fn(&LargeBlocks<CountingAllocator>);
        let ways: [GiveBack; 2] = [|blocks| blocks.set_room(0), Reclaim::release];
        for give_back in ways {
            let heap = Heap::roomy();
            let lives = heap.alloc(2 * MIB);
            let empty = resident();
            heap.free(heap.alloc(128 * MIB));
            assert_eq!(heap.has(), (2.0, 128.0));
            assert!(resident() > empty + 112 * MIB);
            give_back(&heap.0);
            assert_eq!(heap.has(), (2.0, 0.0));
            assert!(resident() < empty + 16 * MIB);
            // It goes on.
            heap.free_marked(heap.alloc(4 * MIB));
            let kept = if heap.usage().room == 0 { 0.0 } else { 4.0 };
            assert_eq!(heap.has(), (2.0, kept));
            heap.free_marked(lives);
            heap.end();
        }
    }

    fn absurd() {
        let heap = Heap::roomy();
        let most = isize::MAX as usize;
        for (size, align) in [(most, 1), (most - 7, 8), (most - 4_095, 4_096)] {
            assert!(heap.try_alloc(layout(size, align)).is_none());
            assert!(heap.try_zeroed(layout(size, align)).is_none());
            for held in [8, MIB] {
                let block = heap.try_alloc(layout(held, align)).unwrap().marked();
                assert!(heap.try_resize(block, size).is_none());
                heap.free_marked(block);
            }
        }
        heap.end();
    }

    /// Lets the process have so many bytes of addresses more than it has.
    fn leave_addresses(bytes: usize) {
        let most = Some((mapped() + bytes) as u64);
        let limit = Rlimit {
            current: most,
            maximum: most,
        };
        setrlimit(Resource::As, limit).unwrap();
    }

    fn addresses() {
        in_child(|| {
            let heap = Heap::roomy();
            let lives = heap.alloc(MIB);
            heap.free(heap.alloc(128 * MIB));
            leave_addresses(64 * MIB);

            // There are addresses for it only without those that are kept.
            let before = heap.usage();
            assert_eq!(before.kept, 128 << 20);
            let block = heap.alloc(160 * MIB);
            let after = heap.usage();
            assert_eq!((after.kept, after.moved), (0, before.moved));
            assert!(heap.try_alloc(layout(64 * MIB, 8)).is_none());
            assert!(heap.try_zeroed(layout(64 * MIB, 8)).is_none());
            let size = block.layout.size();
            assert!(heap.try_resize(block, size + 64 * MIB).is_none());
            let block = heap.resize(block, size + 16 * MIB);
            assert_eq!(heap.usage().live as usize, size + 17 * MIB);
            lives.check(MIB);
            heap.free_marked(block);
            // That is kept, and goes again.
            let block = heap.alloc(size + 20 * MIB);
            heap.free_marked(lives);
            heap.free_marked(block);
            heap.end();
        });
    }

    fn small() {
        in_child(|| {
            let heap = Heap::roomy();
            heap.free(heap.alloc(128 * MIB));
            leave_addresses(64 * MIB);
            let blocks = (0..600).map_while(|_| heap.try_alloc(layout(256 * KIB, 8)));
            let blocks: Vec<_> = blocks.collect();
            assert_eq!(blocks.len(), 600);
            assert_eq!(heap.usage().kept, 0);
            blocks.into_iter().for_each(|block| heap.free(block));
        });
    }

    fn split() {
        let heap = Heap::roomy();
        // One that is to be lengthened.
        let block = heap.alloc(4 * MIB);
        block.split();
        let block = heap.resize(block, 64 * MIB);
        assert_eq!(heap.has().0, 64.0);
        heap.free_marked(block);
        heap.0.release();
        // Pages that are to be moved.
        let mut random = Random(0x5eed);
        let mut blocks: Vec<Block> = Vec::new();
        for _ in 0..200 {
            if blocks.len() == 12 {
                heap.free_marked(blocks.swap_remove(random.below(12)));
            }
            let size = MIB + random.below(8 * MIB);
            let block = heap.zeroed(size);
            assert!(block.is_zero());
            block.split();
            blocks.push(block.marked());
            let block = blocks.swap_remove(random.below(blocks.len()));
            blocks.push(heap.resize(block, MIB + random.below(8 * MIB)));
        }
        assert!(heap.usage().moved > 0);
        blocks.into_iter().for_each(|block| heap.free_marked(block));
        heap.end();
    }

    /// Mappings that take all there may be, but for some.
    struct Taken {
        pages: *mut c_void,
        count: usize,
    }

    impl Taken {
        const PAGE: usize = 64 * KIB;

        /// None where there may be too many to try.
        fn all() -> Option<Self> {
            let most = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
            let most: usize = most.trim().parse().unwrap();
            if most > 200_000 {
                return None;
            }
            // SAFETY: nobody has what the system finds a place for.
            let pages = unsafe {
                let len = most * Self::PAGE;
                let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
                mmap_anonymous(ptr::null_mut(), len, ProtFlags::empty(), flags)
            };
            let mut taken = Self {
                pages: pages.unwrap(),
                count: 0,
            };
            taken.take();
            assert!(2 * taken.count > most / 2);
            Some(taken)
        }

        /// Takes what there is again.
        fn take(&mut self) {
            while self.protect(self.count, MprotectFlags::READ) {
                self.count += 1;
            }
        }

        /// Leaves two more.
        fn leave_two(&mut self) {
            self.count -= 1;
            assert!(self.protect(self.count, MprotectFlags::empty()));
        }

        /// Every other page, so that each makes two.
        fn protect(&self, page: usize, access: MprotectFlags) -> bool {
            // SAFETY: nobody has it, and nothing is in it.
            let protected = unsafe {
                let at = self.pages.byte_add((2 * page + 1) * Self::PAGE);
                mprotect(at, Self::PAGE, access)
            };
            protected.is_ok()
        }
    }

    fn mappings() {
        in_child(|| {
            let heap = Heap::roomy();
            let mut random = Random(0x5eed);
            let mut blocks: Vec<_> = (0..40)
                .map(|_| heap.alloc(MIB + random.below(4 * MIB)))
                .collect();
            let before = resident() - blocks.iter().map(|it| it.layout.size()).sum::<usize>();
            let Some(mut taken) = Taken::all() else {
                return;
            };
            let mut refused = 0;
            for round in 0..300 {
                // Sometimes there are none at all, and sometimes a few.
                if round % 20 == 19 {
                    taken.leave_two();
                }
                if blocks.len() > 20 {
                    let block = blocks.swap_remove(random.below(blocks.len()));
                    heap.free_marked(block);
                }
                match heap.try_zeroed(layout(MIB + random.below(8 * MIB), 8)) {
                    Some(block) => {
                        assert!(block.is_zero());
                        blocks.push(block.marked());
                    }
                    None => refused += 1,
                }
                if !blocks.is_empty() {
                    let block = blocks.swap_remove(random.below(blocks.len()));
                    let size = MIB + random.below(8 * MIB);
                    let resized = heap.try_resize(block, size);
                    resized
                        .unwrap_or(block)
                        .check(size.min(block.layout.size()));
                    blocks.push(resized.map_or(block, Block::marked));
                }
                if round % 50 == 49 {
                    heap.0.release();
                }
            }
            assert!(refused > 0);
            for _ in 0..1_000 {
                taken.leave_two();
            }
            blocks.push(heap.alloc(64 * MIB));
            blocks.into_iter().for_each(|block| heap.free_marked(block));
            heap.end();
            // Addresses that could not be given back are lost, what was there is not.
            assert!(resident() < before + 16 * MIB);
        });
    }

    fn lost() {
        in_child(|| {
            let heap = Heap::roomy();
            let lives = heap.alloc(MIB);
            let Some(mut taken) = Taken::all() else {
                return;
            };
            let before = mapped();
            for _ in 0..100 {
                // Enough for a block to be mapped, and too few for pages to be moved there.
                taken.take();
                taken.leave_two();
                for size in [MIB, 9 * MIB] {
                    if let Some(block) = heap.try_alloc(layout(size, 8)) {
                        heap.free_marked(block.marked());
                    }
                }
                heap.0.release();
            }
            assert_eq!(heap.usage().moved, 0);
            let lost = mapped() - before;
            assert!((MIB..40 * MIB).contains(&lost), "{lost} bytes");
            heap.free_marked(lives);
            heap.end();
        });
    }

    fn count_mappings() -> usize {
        fs::read_to_string("/proc/self/maps")
            .unwrap()
            .lines()
            .count()
    }

    fn long_run() {
        let heap = Heap::with_room(256 * MIB);
        let before = count_mappings();
        let addresses = mapped();
        let mut random = Random(0x5eed);
        let mut blocks: Vec<Block> = Vec::new();
        let mut most = 0;
        for round in 0..20_000 {
            if blocks.len() == 24 {
                heap.free(blocks.swap_remove(random.below(24)));
            }
            // As many of each power of two.
            let size = ((512 * KIB) << random.below(5)) + random.below(512 * KIB);
            blocks.push(heap.try_alloc(layout(size, 8)).unwrap());
            if round % 100 == 0 {
                most = most.max(count_mappings() - before);
            }
        }
        assert!(heap.usage().moved > 0);
        assert!(most < 1_500, "{most} mappings");
        blocks.into_iter().for_each(|block| heap.free(block));
        heap.0.release();
        // Whoever reads how many there are may have some more.
        assert!(count_mappings() < before + 64);
        assert!(mapped() < addresses + 4 * MIB);
        heap.end();
    }

    fn fork() {
        let heap = Heap::roomy();
        let between = apart(&heap);
        let lives = heap.alloc(3 * MIB);
        in_child(|| {
            lives.check(3 * MIB);
            let block = heap.alloc(5 * MIB);
            let other = heap.alloc(MIB);
            let moved = heap.resize(lives, 6 * MIB);
            for block in [block, other, moved, between] {
                heap.free_marked(block);
            }
            heap.0.release();
            assert_eq!(heap.has(), (0.0, 0.0));
        });
        assert_eq!(heap.has(), (5.0, 1.0));
        heap.free_marked(lives);
        heap.free_marked(between);
        heap.end();
    }

    /// Runs something while a thread allocates and frees large blocks all the time.
    fn beside_a_busy_thread(heap: &Heap, work: impl FnOnce()) {
        let ends = AtomicBool::new(false);
        thread::scope(|threads| {
            threads.spawn(|| {
                while !ends.load(Relaxed) {
                    heap.free(heap.try_alloc(layout(MIB, 8)).unwrap());
                }
            });
            let done = panic::catch_unwind(AssertUnwindSafe(work));
            ends.store(true, Relaxed);
            done.unwrap();
        });
    }

    fn forks() {
        let heap = Heap::roomy();
        let lives = heap.alloc(MIB);
        beside_a_busy_thread(&heap, || {
            for _ in 0..500 {
                in_child(|| {
                    let block = heap.alloc(2 * MIB);
                    heap.free_marked(lives);
                    heap.free_marked(block);
                });
            }
        });
        heap.free_marked(lives);
        heap.end();
    }

    /// What handlers of a fork and of signals have, which are known to the process for ever.
    static HANDLED: Heap = Heap::roomy();
    static IS_HANDLED: AtomicBool = AtomicBool::new(false);
    /// How often handlers were called, here and in the parent until there was a child.
    static CALLS: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn at_fork() {
        if IS_HANDLED.load(Relaxed) {
            // Children are here before they can see to that themselves.
            libc::alarm(HANGS);
            HANDLED.free_marked(HANDLED.alloc(MIB));
            CALLS.fetch_add(1, Relaxed);
        }
    }

    /// Has large blocks taken at forks, between the handlers of the lock, which come with the first block.
    fn handle_forks() {
        assert_eq!(libc::pthread_atfork(at_fork, at_fork, at_fork), 0);
    }

    fn handlers() {
        IS_HANDLED.store(true, Relaxed);
        beside_a_busy_thread(&HANDLED, || {
            for forks in 1..50 {
                in_child(|| assert_eq!(CALLS.load(Relaxed), 2 * forks));
            }
        });
        IS_HANDLED.store(false, Relaxed);
        libc::alarm(0);
        HANDLED.0.release();
        assert_eq!(HANDLED.has(), (0.0, 0.0));
    }

    static IS_CHILD: AtomicBool = AtomicBool::new(false);

    extern "C" fn fork_at_signal(_: c_int) {
        // SAFETY: there is no other thread.
        let child = unsafe { libc::fork() };
        if child == 0 {
            IS_CHILD.store(true, Relaxed);
        } else {
            wait_for(child);
            CALLS.fetch_add(1, Relaxed);
        }
    }

    fn signal() {
        // The timer counts what it runs.
        const SIGVTALRM: c_int = 26;
        in_child(|| {
            let forks = || CALLS.load(Relaxed);
            let before = forks();
            libc::signal(SIGVTALRM, fork_at_signal);
            libc::tick(1_000);
            while forks() < before + 200 && !IS_CHILD.load(Relaxed) {
                HANDLED.free(HANDLED.try_alloc(layout(MIB, 8)).unwrap());
            }
            libc::tick(0);
            HANDLED.free_marked(HANDLED.alloc(2 * MIB));
            HANDLED.0.release();
            assert_eq!(HANDLED.has(), (0.0, 0.0));
        });
    }

    fn threads() {
        let heap = Heap::with_room(64 * MIB);
        let running = AtomicUsize::new(4);
        thread::scope(|threads| {
            for seed in 1..5 {
                let (heap, running) = (&heap, &running);
                threads.spawn(move || {
                    let mut random = Random(seed * 0x9e37_79b9);
                    let mut blocks: Vec<Block> = Vec::new();
                    for _ in 0..400 {
                        if blocks.len() == 6 {
                            heap.free_marked(blocks.swap_remove(random.below(6)));
                        }
                        let size = 512 * KIB + random.below(7 * MIB);
                        match random.below(3) {
                            0 if !blocks.is_empty() => {
                                let block = blocks.swap_remove(random.below(blocks.len()));
                                blocks.push(heap.resize(block, size));
                            }
                            1 => {
                                let block = heap.zeroed(size);
                                assert!(block.is_zero());
                                blocks.push(block.marked());
                            }
                            _ => blocks.push(heap.alloc(size)),
                        }
                    }
                    blocks.into_iter().for_each(|block| heap.free_marked(block));
                    running.fetch_sub(1, Relaxed);
                });
            }
            let mut random = Random(7);
            while running.load(Relaxed) > 0 {
                match random.below(8) {
                    0 => heap.0.release(),
                    _ => heap.0.set_room(random.below(200 * MIB)),
                }
                thread::yield_now();
            }
        });
        assert_eq!(heap.usage().live, 0);
        heap.end();
    }

    /// Runs something in a process of its own, which has only this thread.
    fn in_child(test: impl FnOnce()) {
        // SAFETY: nothing else runs that could have a lock; the child ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // Stacks take memory, which there may be none of.
            panic::set_hook(Box::new(|info| eprintln!("{info}")));
            libc::alarm(HANGS);
            let failed = panic::catch_unwind(AssertUnwindSafe(test)).is_err();
            // SAFETY: it ends the process at once.
            unsafe { libc::_exit(c_int::from(failed)) };
        }
        wait_for(child);
    }

    fn wait_for(child: c_int) {
        let mut status = -1;
        // SAFETY: the status lives as long.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
    }

    mod libc {
        use std::{
            ffi::{c_int, c_long, c_uint},
            ptr,
        };

        unsafe extern "C" {
            pub(crate) safe fn alarm(seconds: c_uint) -> c_uint;
            pub(crate) fn fork() -> c_int;
            pub(crate) safe fn pthread_atfork(
                before: extern "C" fn(),
                in_parent: extern "C" fn(),
                in_child: extern "C" fn(),
            ) -> c_int;
            pub(crate) safe fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
            fn setitimer(
                which: c_int,
                every: *const [c_long; 4],
                before: *mut [c_long; 4],
            ) -> c_int;
            pub(crate) fn waitpid(child: c_int, status: *mut c_int, options: c_int) -> c_int;
            pub(crate) fn _exit(status: c_int) -> !;
        }

        /// Has a signal come each time that so many microseconds of the processor were used.
        pub(crate) fn tick(micros: c_long) {
            const ITIMER_VIRTUAL: c_int = 1;
            // SAFETY: two times of two numbers each.
            let set =
                unsafe { setitimer(ITIMER_VIRTUAL, &[0, micros, 0, micros], ptr::null_mut()) };
            assert_eq!(set, 0);
        }
    }
}
