//! Any order of allocating, resizing, freeing, entering, leaving and ending, over several threads,
//! keeps contents and totals: each scope holds what a table says, those within it included, and all
//! together what another allocator around ours counts.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]
#![cfg_attr(
    plimsoll_loom,
    allow(dead_code, reason = "atomics are the model checker's")
)]

use libtest_mimic::{Arguments, Failed, Trial};
use plimsoll_alloc::{
    CountingAllocator, MemoryGroup, MemoryScope, MemoryUsage, TrackingAllocator, live_bytes,
    process_usage, untracked,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use std::{
    alloc::{GlobalAlloc, Layout},
    array::from_fn,
    process::ExitCode,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

#[global_allocator]
static ALLOC: CountingAllocator<TrackingAllocator> =
    CountingAllocator::new(TrackingAllocator::system());

const THREADS: usize = 3;
const SCOPES: usize = 4;
const BATCH: i64 = 64 << 10;
const CASES: u32 = if cfg!(miri) { 4 } else { 100 };
const STEPS: usize = if cfg!(miri) { 40 } else { 200 };

fn main() -> ExitCode {
    if cfg!(plimsoll_loom) {
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // Totals are those of the process, so nothing may run beside a test.
    arguments.test_threads = Some(1);
    let trials = vec![
        Trial::test("any_schedule_keeps_contents_and_totals", || {
            run(prop::collection::vec(steps(), 1..STEPS), |steps| {
                Model::run(&steps);
            })
        }),
        Trial::test("threads_that_run_free_keep_contents_and_totals", || {
            let each = prop::collection::vec(steps(), 1..STEPS);
            run(prop::collection::vec(each, THREADS), |steps| {
                run_free(&steps);
            })
        }),
    ];
    #[cfg(all(feature = "profile", not(miri)))]
    let trials = trials.into_iter().chain(sampled::trials()).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run<S: Strategy>(strategy: S, test: impl Fn(S::Value)) -> Result<(), Failed> {
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let check = |value| {
        test(value);
        Ok(())
    };
    TestRunner::new(config).run(&strategy, check)?;
    Ok(())
}

/// What one of the threads does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc(Shape, bool),
    /// Any of the blocks there are.
    Resize(usize, usize),
    Free(usize),
    Enter(usize),
    EnterNone,
    Leave,
    Clone(usize),
    /// One of the handles of a scope. If it was the last, the next one in this place is within that
    /// of another one, or by itself.
    Drop(usize, Option<usize>),
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    size: usize,
    align: usize,
}

fn size() -> impl Strategy<Value = usize> {
    // Miri looks at each byte, and no block is large there.
    let most = if cfg!(miri) { 100_000_usize } else { 3_000_000 };
    prop_oneof![
        8_u32 => 1..200_usize,
        4 => 4_000..4_200_usize,
        2 => 1..100_000_usize,
        1 => 1..most,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let shape = (size(), 0..14_u32).prop_map(|(size, bits)| Shape {
        size,
        // Most are aligned to little.
        align: 1 << if bits < 8 { bits % 5 } else { bits },
    });
    prop_oneof![
        6 => (shape, any::<bool>()).prop_map(|(shape, zeroed)| Step::Alloc(shape, zeroed)),
        4 => (any::<usize>(), size()).prop_map(|(which, size)| Step::Resize(which, size)),
        4 => any::<usize>().prop_map(Step::Free),
        3 => (0..SCOPES).prop_map(Step::Enter),
        1 => Just(Step::EnterNone),
        3 => Just(Step::Leave),
        1 => (0..SCOPES).prop_map(Step::Clone),
        2 => (0..SCOPES, prop::option::of(0..SCOPES))
            .prop_map(|(place, within)| Step::Drop(place, within)),
    ]
}

fn steps() -> impl Strategy<Value = (usize, Step)> {
    (0..THREADS, step())
}

/// A block of the allocator, filled with a byte, and the scope it was allocated in.
#[derive(Debug)]
struct Block {
    at: *mut u8,
    layout: Layout,
    fill: u8,
    owner: Option<usize>,
}

// SAFETY: a block belongs to whoever has it, as a box does.
unsafe impl Send for Block {}

impl Block {
    fn new(Shape { size, align }: Shape, zeroed: bool, owner: Option<usize>) -> Self {
        let layout = Layout::from_size_align(size, align).unwrap();
        // SAFETY: there is a byte at least.
        let at = unsafe {
            match zeroed {
                true => ALLOC.alloc_zeroed(layout),
                false => ALLOC.alloc(layout),
            }
        };
        assert!(at.addr().is_multiple_of(align));
        let mut block = Self {
            at,
            layout,
            fill: 0,
            owner,
        };
        if zeroed {
            block.check(size);
        }
        block.fill(size as u8 | 1);
        block
    }

    fn bytes(&self, len: usize) -> &[u8] {
        // SAFETY: it is that long, or longer, and as much was written; nobody else has it.
        unsafe { std::slice::from_raw_parts(self.at, len) }
    }

    fn fill(&mut self, fill: u8) {
        self.fill = fill;
        // SAFETY: it is that long.
        unsafe { self.at.write_bytes(fill, self.layout.size()) };
    }

    fn check(&self, len: usize) {
        let page = [self.fill; 4_096];
        let mut pages = self.bytes(len).chunks(page.len());
        assert!(pages.all(|some| some == &page[..some.len()]));
    }

    fn resize(&mut self, size: usize) {
        let kept = self.layout.size().min(size);
        self.check(kept);
        // SAFETY: it has that layout, and the size is not zero.
        let at = unsafe { ALLOC.realloc(self.at, self.layout, size) };
        let layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        assert!(at.addr().is_multiple_of(layout.align()));
        (self.at, self.layout) = (at, layout);
        self.check(kept);
        self.fill(size as u8 | 1);
    }

    fn free(self) {
        self.check(self.layout.size());
        // SAFETY: it has that layout, and is not used again.
        unsafe { ALLOC.dealloc(self.at, self.layout) };
    }
}

/// Work for a thread, and back. Waiting at it allocates nothing.
#[derive(Default)]
struct Desk {
    job: Mutex<Option<Job>>,
    changed: Condvar,
}

enum Job {
    Alloc(Shape, bool, Option<usize>),
    Resize(Block, usize),
    Free(Block),
    Enter(Option<MemoryScope>),
    Leave,
    Done(Option<Block>),
}

impl Desk {
    fn put(&self, job: Job) {
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job);
        self.changed.notify_all();
    }

    fn take(&self, wanted: impl Fn(&Job) -> bool) -> Job {
        let mut job = self.job.lock().unwrap();
        loop {
            match job.take_if(|job| wanted(job)) {
                Some(job) => return job,
                None => job = self.changed.wait(job).unwrap(),
            }
        }
    }

    /// Has a job done.
    fn ask(&self, job: Job) -> Option<Block> {
        self.put(job);
        match self.take(|job| matches!(job, Job::Done(_))) {
            Job::Done(block) => block,
            _ => None,
        }
    }

    /// Works until it is told to leave.
    fn work(&self) {
        loop {
            let done = match self.take(|job| !matches!(job, Job::Done(_))) {
                Job::Alloc(shape, zeroed, owner) => Some(Block::new(shape, zeroed, owner)),
                Job::Resize(mut block, size) => {
                    block.resize(size);
                    Some(block)
                }
                Job::Free(block) => {
                    block.free();
                    None
                }
                Job::Enter(scope) => {
                    // Once it is in, and has told what it had.
                    let inside = || {
                        self.put(Job::Done(None));
                        self.work();
                    };
                    match scope {
                        Some(scope) => scope.run(inside),
                        None => untracked(inside),
                    }
                    None
                }
                Job::Leave => return,
                Job::Done(_) => None,
            };
            self.put(Job::Done(done));
        }
    }
}

/// What there is, and what there should be.
struct Model {
    group: MemoryGroup,
    /// The group of some of those that are within others.
    inner_group: MemoryGroup,
    /// The handles of each scope.
    scopes: Vec<Vec<MemoryScope>>,
    blocks: Vec<Block>,
    /// Which scopes each thread is in, by number, the innermost last.
    inside: Vec<Vec<Option<usize>>>,
    /// Number of the scope that each place has by now.
    numbers: Vec<usize>,
    /// Of each scope there ever was, by number.
    above: Vec<Above>,
}

#[derive(Clone, Copy, Default)]
struct Above {
    /// The number of the scope that it is within.
    outer: Option<usize>,
    in_group: bool,
}

impl Model {
    /// What was told after each step.
    fn run(steps: &[(usize, Step)]) -> Vec<MemoryUsage> {
        let desks: Vec<_> = (0..THREADS).map(|_| Arc::new(Desk::default())).collect();
        let threads: Vec<_> = desks
            .iter()
            .map(|desk| {
                let desk = Arc::clone(desk);
                thread::spawn(move || desk.work())
            })
            .collect();
        let group = MemoryGroup::new();
        let mut model = Self {
            scopes: (0..SCOPES).map(|_| vec![group.scope()]).collect(),
            group,
            inner_group: MemoryGroup::new(),
            blocks: Vec::new(),
            inside: vec![Vec::new(); THREADS],
            numbers: (0..SCOPES).collect(),
            above: vec![Above::default(); SCOPES],
        };
        let mut told = Vec::new();
        for (thread, step) in steps {
            model.step(*thread, &desks[*thread], *step);
            model.check(BATCH * THREADS as i64);
            told.extend(model.scopes.iter().map(|handles| handles[0].usage()));
            told.push(model.group.usage());
        }
        for (desk, inside) in desks.iter().zip(&mut model.inside) {
            inside.drain(..).for_each(|_| {
                desk.ask(Job::Leave);
            });
            desk.put(Job::Leave);
        }
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        model.check(0);
        model.check_truth();
        // What is there then is retained.
        model.scopes.clear();
        model.check_truth();
        let owned = model.blocks.iter().filter(|block| block.owner.is_some());
        let retained: usize = owned.map(|block| block.layout.size()).sum();
        assert_eq!(model.group.retained().bytes, retained as u64);
        let inner = model.inner_group.usage().live;
        assert_eq!(model.inner_group.retained().bytes, inner);
        model.blocks.drain(..).for_each(Block::free);
        for group in [&model.group, &model.inner_group] {
            assert_eq!(group.usage().live, 0);
            assert_eq!(group.retained().scopes, 0);
        }
        model.check_truth();
        told
    }

    fn step(&mut self, thread: usize, desk: &Desk, step: Step) {
        let any = |which: usize, blocks: &mut Vec<Block>| {
            (!blocks.is_empty()).then(|| blocks.swap_remove(which % blocks.len()))
        };
        match step {
            Step::Alloc(shape, zeroed) => {
                let owner = self.inside[thread].last().copied().flatten();
                self.blocks
                    .extend(desk.ask(Job::Alloc(shape, zeroed, owner)));
            }
            Step::Resize(which, size) => {
                if let Some(block) = any(which, &mut self.blocks) {
                    self.blocks.extend(desk.ask(Job::Resize(block, size)));
                }
            }
            Step::Free(which) => {
                if let Some(block) = any(which, &mut self.blocks) {
                    desk.ask(Job::Free(block));
                }
            }
            Step::Enter(place) => {
                desk.ask(Job::Enter(Some(self.scopes[place][0].clone())));
                self.inside[thread].push(Some(self.numbers[place]));
            }
            Step::EnterNone => {
                desk.ask(Job::Enter(None));
                self.inside[thread].push(None);
            }
            Step::Leave => {
                if self.inside[thread].pop().is_some() {
                    desk.ask(Job::Leave);
                }
            }
            Step::Clone(place) => {
                let handle = self.scopes[place][0].clone();
                self.scopes[place].push(handle);
            }
            Step::Drop(place, within) => {
                self.scopes[place].pop();
                if self.scopes[place].is_empty() {
                    // The one that was here is gone, and nothing can be within it.
                    let within = within.filter(|within| *within != place);
                    let (scope, above) = self.open(within);
                    self.scopes[place].push(scope);
                    self.numbers[place] = self.above.len();
                    self.above.push(above);
                }
            }
        }
    }

    fn open(&self, within: Option<usize>) -> (MemoryScope, Above) {
        let Some(within) = within else {
            return (self.group.scope(), Above::default());
        };
        let above = Above {
            outer: Some(self.numbers[within]),
            in_group: self.above.len().is_multiple_of(2),
        };
        let outer = &self.scopes[within][0];
        let scope = match above.in_group {
            true => self.inner_group.scope_within(outer),
            false => outer.child(),
        };
        (scope, above)
    }

    /// What is held by those scopes that are such, or within one that is.
    fn held(&self, such: impl Fn(usize) -> bool) -> i64 {
        let such = |number: usize| {
            let outwards = |number: &usize| self.above[*number].outer;
            std::iter::successors(Some(number), outwards).any(&such)
        };
        let own = self
            .blocks
            .iter()
            .filter(|block| block.owner.is_some_and(such));
        own.map(|block| block.layout.size() as i64).sum()
    }

    /// Each scope holds what it should, but for what threads in it have to tell.
    fn check(&self, off: i64) {
        for (handles, number) in self.scopes.iter().zip(&self.numbers) {
            let live = handles[0].usage().live as i64;
            let held = self.held(|such| such == *number);
            assert!((live - held).abs() <= off, "{live} for {held} of {number}");
        }
        let in_group = |number: usize| self.above[number].in_group;
        for (group, all) in [
            (&self.group, self.held(|_| true)),
            (&self.inner_group, self.held(in_group)),
        ] {
            let live = group.usage().live as i64;
            assert!((live - all).abs() <= off, "{live} for {all} of a group");
        }
    }

    /// Everything that lives is counted once.
    fn check_truth(&self) {
        let process = process_usage();
        let counted = process.unscoped + process.orphaned + self.group.usage().live;
        assert_eq!(counted, ALLOC.live_bytes());
        assert_eq!(live_bytes(), ALLOC.live_bytes());
    }
}

/// Blocks that threads pass on to each other.
type Shared = Mutex<Vec<Block>>;

fn run_free(steps: &[Vec<(usize, Step)>]) {
    let group = MemoryGroup::new();
    // The last is within the one before, and that within the one before.
    let [one, two] = [(); 2].map(|()| group.scope());
    let inner = two.child();
    let innermost = group.scope_within(&inner);
    let scopes = Arc::new([one, two, inner, innermost]);
    // Long enough not to grow in a scope.
    let blocks: Arc<Shared> = Arc::new(Mutex::new(Vec::with_capacity(THREADS * STEPS)));
    let threads: Vec<_> = steps
        .iter()
        .map(|steps| {
            let (steps, scopes, blocks) = (steps.clone(), Arc::clone(&scopes), Arc::clone(&blocks));
            thread::spawn(move || {
                let mut steps = steps.iter();
                while free(&mut steps, &*scopes, &blocks, None) {}
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let held = |number: usize| {
        let blocks = blocks.lock().unwrap();
        let own = blocks.iter().filter(|block| block.owner == Some(number));
        own.map(|block| block.layout.size() as u64).sum::<u64>()
    };
    let own: [u64; SCOPES] = from_fn(held);
    let [one, two, inner, innermost] = own;
    let live = from_fn(|number| scopes[number].usage().live);
    let within = inner + innermost;
    assert_eq!(live, [one, two + within, within, innermost]);
    let all = one + two + within;
    assert_eq!(group.usage().live, all);
    let truth = || {
        let process = process_usage();
        let counted = process.unscoped + process.orphaned + group.usage().live;
        assert_eq!(counted, ALLOC.live_bytes());
    };
    truth();
    drop(scopes);
    truth();
    assert_eq!(group.retained().bytes, all);
    blocks.lock().unwrap().drain(..).for_each(Block::free);
    assert_eq!(group.usage().live, 0);
    truth();
}

/// Does the steps until one leaves. Whether there are more.
fn free(
    steps: &mut std::slice::Iter<'_, (usize, Step)>,
    scopes: &[MemoryScope],
    blocks: &Shared,
    owner: Option<usize>,
) -> bool {
    let any = |which: usize| {
        let mut blocks = blocks.lock().unwrap();
        let len = blocks.len();
        (len > 0).then(|| blocks.swap_remove(which % len))
    };
    let put = |block| blocks.lock().unwrap().push(block);
    while let Some((_, step)) = steps.next() {
        match *step {
            Step::Alloc(shape, zeroed) => put(Block::new(shape, zeroed, owner)),
            Step::Resize(which, size) => {
                if let Some(mut block) = any(which) {
                    block.resize(size);
                    put(block);
                }
            }
            Step::Free(which) => any(which).into_iter().for_each(Block::free),
            Step::Enter(place) => {
                let scope = scopes[place].clone();
                scope.run(|| free(steps, scopes, blocks, Some(place)));
            }
            Step::EnterNone => {
                untracked(|| free(steps, scopes, blocks, None));
            }
            Step::Clone(place) => drop(scopes[place].clone()),
            Step::Drop(..) => drop(MemoryScope::current()),
            Step::Leave => return true,
        }
    }
    false
}

/// The same while blocks are sampled, nearly all of them or few.
#[cfg(all(feature = "profile", not(miri)))]
mod sampled {
    use super::*;
    use plimsoll_alloc::profile::{self, Sampling};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    pub(crate) fn trials() -> Vec<Trial> {
        vec![
            Trial::test("counts_are_the_same_sampled_or_not", || {
                run(prop::collection::vec(steps(), 1..STEPS), |steps| {
                    let without = Model::run(&steps);
                    for mean in [1 << 10, 64 << 10] {
                        start(mean);
                        let is_same = Model::run(&steps) == without;
                        profile::stop();
                        assert!(is_same);
                        assert_none_is_left();
                    }
                })
            }),
            Trial::test("threads_that_run_free_are_sampled_on_and_off", || {
                let each = prop::collection::vec(steps(), 1..STEPS);
                run(prop::collection::vec(each, THREADS), |steps| {
                    switched_while(|| run_free(&steps));
                    assert_none_is_left();
                })
            }),
        ]
    }

    fn start(mean: u64) {
        profile::start(Sampling::new().mean_bytes(mean).unwrap());
    }

    fn switched_while(work: impl FnOnce()) {
        let done = AtomicBool::new(false);
        start(1 << 10);
        // It allocates nothing: what is told of the process has to be whole.
        let switch = || {
            while !done.load(Relaxed) {
                profile::stop();
                thread::yield_now();
                start(1 << 10);
                thread::yield_now();
            }
        };
        thread::scope(|threads| {
            let switches = threads.spawn(switch);
            work();
            done.store(true, Relaxed);
            switches.join().unwrap();
        });
        profile::stop();
    }

    /// Nothing of what the test is made of stays either.
    fn assert_none_is_left() {
        let stats = profile::stats();
        assert_eq!((stats.in_use, stats.dropped), (0, 0));
    }
}
