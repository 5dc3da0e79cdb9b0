//! What the process holds in all: the sum of scopes, of what belongs to none, and of orphans is what
//! another allocator around ours counts. One test at a time.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]
#![cfg_attr(
    plimsoll_loom,
    allow(dead_code, reason = "atomics are the model checker's")
)]

use libtest_mimic::{Arguments, Trial};
use plimsoll_alloc::{
    CountingAllocator, MemoryGroup, MemoryScope, Mode, Reclaim, TrackingAllocator, is_installed,
    live_bytes, mode, process_usage, set_mode, set_now, untracked,
};
use std::{
    cell::RefCell,
    ffi::c_int,
    fs,
    hint::black_box,
    process::{self, ExitCode},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

#[global_allocator]
static ALLOC: CountingAllocator<TrackingAllocator> =
    CountingAllocator::new(TrackingAllocator::system());

/// Scopes and groups there can be at a time.
/// A group takes two, if one thread opens its scopes.
const PLACES: usize = if FEW { 1_023 } else { 65_535 };
const FEW: bool = cfg!(miri);

fn main() -> ExitCode {
    if cfg!(plimsoll_loom) {
        return ExitCode::SUCCESS;
    }
    at_exit();
    let mut arguments = Arguments::from_args();
    // Totals are those of the process, so nothing may run beside a test.
    arguments.test_threads = Some(1);
    let mut trials = vec![
        trial("everything_that_lives_is_told_in_one_figure", one_figure),
        trial("threads_that_end_tell_everything", threads),
        trial(
            "thread_locals_may_allocate_and_free_to_the_last",
            thread_locals,
        ),
        trial(
            "mode_off_counts_nothing_new_and_frees_what_was_counted",
            off,
        ),
        trial(
            "mode_counters_counts_what_is_allocated_and_nothing_that_lives",
            counters,
        ),
        trial("mode_can_be_switched_under_load", switched),
        trial("places_of_scopes_that_ended_are_used_again", places),
        trial("places_that_threads_keep_are_free_when_they_end", kept),
        trial(
            "thread_without_a_stripe_of_its_own_counts_in_another_one",
            other_stripe,
        ),
        trial("scopes_without_a_place_count_nothing_and_say_so", refused),
        trial(
            "oldest_of_what_is_retained_is_given_up_for_a_new_scope",
            given_up,
        ),
        trial("late_frees_of_a_given_up_scope_harm_nobody", late_frees),
        trial(
            "scope_and_the_one_it_is_within_are_given_up_one_after_the_other",
            given_up_within,
        ),
        trial("scope_within_one_without_a_place_is_by_itself", within_none),
        trial("forgotten_guard_loses_nothing", forgotten),
        trial("million_scopes_leave_nothing", soak),
    ];
    if !FEW && cfg!(target_os = "linux") {
        trials.push(trial("child_of_a_fork_counts_on", fork));
        trials.push(trial("free_memory_is_given_back", reclaimed));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        test();
        assert_truth(&[]);
        Ok(())
    })
}

/// So many bytes on the heap, in one block.
fn bytes(len: usize) -> Vec<u8> {
    black_box(Vec::with_capacity(black_box(len)))
}

fn counted(scopes: &[&MemoryScope]) -> u64 {
    let process = process_usage();
    let scopes = scopes.iter().map(|scope| scope.usage().live);
    process.unscoped + process.orphaned + scopes.sum::<u64>()
}

fn one_figure() {
    let (group, alone) = (MemoryGroup::new(), MemoryScope::new());
    let open = group.scope();
    let inner = MemoryGroup::new().scope_within(&open);
    let ended = group.scope();
    let kept = [
        bytes(1_000),
        open.run(|| bytes(20_000)),
        alone.run(|| bytes(300_000)),
        group.scope().run(|| bytes(4_000_000)),
        inner.run(|| bytes(50_000_000)),
        inner.child().run(|| bytes(60_000)),
        ended.child().run(|| bytes(70_000)),
    ];
    drop(ended);
    assert_eq!(live_bytes(), ALLOC.live_bytes());
    drop(kept);
    assert_eq!(live_bytes(), ALLOC.live_bytes());
}

/// Everything that lives is counted once. Only while no other thread has something to tell.
fn assert_truth(scopes: &[&MemoryScope]) {
    assert_eq!(counted(scopes), ALLOC.live_bytes());
}

/// Allocates and frees in and out of scopes, and keeps something of each.
fn busy(scope: &MemoryScope) -> Vec<Vec<u8>> {
    let rounds = if FEW { 3 } else { 300 };
    let mut kept = Vec::new();
    for n in 0..rounds {
        let some = bytes(1 + n * 7);
        let mine = scope.run(|| {
            drop(some);
            drop(untracked(|| bytes(100_000)));
            let mut grows = bytes(10);
            (0..n).for_each(|n| grows.push(n as u8));
            grows
        });
        kept.push(mine);
        kept.push(bytes(n * 31));
    }
    kept
}

fn threads() {
    let scope = MemoryScope::new();
    let kept: Vec<_> = (0..4)
        .map(|_| {
            let scope = scope.clone();
            thread::spawn(move || busy(&scope)).join().unwrap()
        })
        .collect();
    assert!(scope.usage().live > 0);
    assert_truth(&[&scope]);
    let side_by_side: Vec<_> = (0..4)
        .map(|_| {
            let scope = scope.clone();
            thread::spawn(move || busy(&scope))
        })
        .collect();
    let more: Vec<_> = side_by_side
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    assert_truth(&[&scope]);
    thread::spawn(move || drop((kept, more))).join().unwrap();
    assert_eq!(scope.usage().live, 0);
    assert_truth(&[&scope]);
}

/// Allocates, frees and enters a scope when its thread ends.
struct Last {
    held: RefCell<Vec<Vec<u8>>>,
    scope: MemoryScope,
}

impl Drop for Last {
    fn drop(&mut self) {
        self.held.borrow_mut().clear();
        drop(bytes(3_000));
        self.scope.run(|| {
            drop(bytes(10_000));
            self.held.borrow_mut().push(bytes(500));
        });
        self.held.borrow_mut().push(bytes(70_000));
        // One that is large, and is moved.
        let mut large = bytes(1 << 20);
        large.reserve_exact(3 << 20);
        self.held.borrow_mut().push(large);
    }
}

thread_local! {
    static ONE: RefCell<Option<Last>> = const { RefCell::new(None) };
    static TWO: RefCell<Option<Last>> = const { RefCell::new(None) };
}

fn thread_locals() {
    let scope = MemoryScope::new();
    let last = |kept: usize| Last {
        held: RefCell::new(vec![scope.run(|| bytes(kept)), bytes(kept)]),
        scope: scope.clone(),
    };
    let [one, two] = [last(100), last(5_000)];
    let ends = thread::spawn(move || {
        // One before anything is written down, one after.
        ONE.set(Some(one));
        drop(bytes(1 << 20));
        TWO.set(Some(two));
        drop(bytes(10));
    });
    ends.join().unwrap();
    assert_eq!(scope.usage().live, 0);
    assert!(scope.usage().allocated >= 5_100 + 2 * 10_500);
    assert_truth(&[&scope]);
}

fn off() {
    let scope = MemoryScope::new();
    assert_eq!(mode(), Mode::Precise);
    let before = counted(&[&scope]);
    let [one, two] = scope.run(|| [bytes(1_000), bytes(10_000)]);
    set_mode(Mode::Off);
    assert_eq!(mode(), Mode::Off);
    assert!(!is_installed());
    // Each is as long, and found when it is freed, whatever the mode was.
    let mut small = scope.run(|| bytes(100));
    let mut large = scope.run(|| bytes(9_000));
    assert_eq!(scope.charge(50).bytes(), 0);
    assert_eq!(scope.try_charge(u64::MAX).unwrap().bytes(), 0);
    assert_eq!(scope.usage().allocated, 11_000);
    drop(one);
    assert_eq!(scope.usage().live, 10_000);
    set_mode(Mode::Precise);
    // What was not counted is not when it grows, on either side of a page.
    scope.run(|| {
        small.reserve_exact(500);
        large.reserve_exact(20_000);
        large.shrink_to(1_000);
        small.reserve_exact(30_000);
    });
    assert_eq!(scope.usage().allocated, 11_000);
    assert_eq!(scope.usage().live, 10_000);
    scope.run(|| drop((small, large)));
    drop(two);
    assert_eq!(scope.usage().live, 0);
    assert_eq!(counted(&[&scope]), before);
}

fn counters() {
    let (group, other) = (MemoryGroup::new(), MemoryScope::new());
    let scope = group.scope();
    scope.set_limit(20_000);
    let before = counted(&[&scope]);
    let [one, two] = scope.run(|| [bytes(1_000), bytes(10_000)]);
    set_mode(Mode::Counters);
    assert_eq!(mode(), Mode::Counters);
    assert!(is_installed());
    let [mut small, large] = scope.run(|| [bytes(100), bytes(90_000)]);
    let usage = || scope.usage();
    assert_eq!(usage().allocated, 101_100);
    assert_eq!([usage().live, usage().peak], [11_000, 11_000]);
    scope.check().unwrap();
    // By its new size, for whoever resizes it, on either side of a page.
    scope.run(|| {
        small.reserve_exact(500);
        assert_eq!(usage().allocated, 101_600);
    });
    other.run(|| small.reserve_exact(5_000));
    other.run(|| small.reserve_exact(9_000));
    other.run(|| small.shrink_to(40));
    assert_eq!(usage().allocated, 101_600);
    assert_eq!(other.usage().allocated, 14_040);
    assert_eq!([other.usage().live, other.usage().peak], [0, 0]);
    // What was counted before is counted on.
    let mut one = one;
    other.run(|| one.reserve_exact(2_000));
    assert_eq!(usage().allocated, 103_600);
    assert_eq!(usage().live, 12_000);
    drop(one);
    assert_eq!(usage().live, 10_000);
    let charge = scope.charge(50);
    assert_eq!(charge.bytes(), 0);
    assert_eq!(usage().allocated, 103_650);
    drop(charge);
    assert_eq!(usage().live, 10_000);
    assert_eq!(group.usage().allocated, 103_650);
    set_mode(Mode::Precise);
    scope.run(|| small.reserve_exact(7_000));
    assert_eq!(usage().allocated, 103_650);
    scope.run(|| drop((small, large)));
    assert_eq!(usage().live, 10_000);
    drop(two);
    assert_eq!(counted(&[&scope]), before);
    // Nothing of it is retained.
    set_mode(Mode::Counters);
    let kept = group.scope().run(|| bytes(100));
    set_mode(Mode::Precise);
    assert_eq!(group.retained().scopes, 0);
    drop(kept);
}

fn switched() {
    let scope = MemoryScope::new();
    let before = counted(&[&scope]);
    let done = AtomicBool::new(false);
    let kept: Vec<_> = thread::scope(|threads| {
        let busy: Vec<_> = (0..2)
            .map(|_| threads.spawn(|| (0..10).map(|_| busy(&scope)).collect::<Vec<_>>()))
            .collect();
        let switches = threads.spawn(|| {
            while !done.load(Relaxed) {
                for mode in [Mode::Off, Mode::Precise, Mode::Counters, Mode::Precise] {
                    set_mode(mode);
                    thread::yield_now();
                }
            }
        });
        let kept = busy
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        done.store(true, Relaxed);
        switches.join().unwrap();
        kept
    });
    assert_eq!(mode(), Mode::Precise);
    scope.run(|| drop(kept));
    assert_eq!(scope.usage().live, 0);
    // Of what the threads themselves are made of, some was not counted; all of it is freed.
    assert_eq!(counted(&[&scope]), before);
}

fn all_places() -> Vec<MemoryScope> {
    let mut scopes = Vec::with_capacity(PLACES);
    while scopes.last().is_none_or(MemoryScope::is_counted) {
        scopes.push(MemoryScope::new());
    }
    scopes.pop();
    scopes
}

fn places() {
    let before = process_usage();
    assert_eq!(all_places().len(), PLACES);
    // All of them are free again.
    let scopes = all_places();
    assert_eq!(scopes.len(), PLACES);
    drop(scopes);
    // And those of threads that freed what was retained.
    let (scopes, kept): (Vec<_>, Vec<_>) = (0..100)
        .map(|n| {
            let scope = MemoryScope::new();
            let kept = scope.run(|| bytes(1 + n * 100));
            (scope, kept)
        })
        .unzip();
    drop(scopes);
    thread::spawn(move || drop(kept)).join().unwrap();
    assert_eq!(all_places().len(), PLACES);
    assert_eq!(process_usage().given_up, before.given_up);
    assert_eq!(process_usage().refused, before.refused + 3);
}

fn kept() {
    let threads: Vec<_> = (0..20)
        .map(|_| thread::spawn(|| drop((bytes(100), MemoryScope::new()))))
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(all_places().len(), PLACES);
}

fn other_stripe() {
    let group = MemoryGroup::new();
    let mut scopes = all_places();
    // The first place is kept by this thread.
    scopes.truncate(scopes.len() - 2);
    let before = process_usage().refused;
    let other = thread::scope(|threads| {
        let opened = threads.spawn(|| {
            let scope = group.scope();
            let kept = scope.run(|| bytes(1_000));
            (scope.is_counted(), scope, kept)
        });
        opened.join().unwrap()
    });
    assert!(other.0);
    assert_eq!(process_usage().refused, before);
    assert_eq!(group.usage().live, 1_000);
}

/// What this thread has used of processors, however many others wait for one; nothing where the system does
/// not say.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn refused() {
    let group = MemoryGroup::new();
    let scopes = all_places();
    let before = process_usage();
    let (scope, late) = (group.scope(), MemoryGroup::new());
    assert!(!scope.is_counted());
    assert_eq!(process_usage().refused, before.refused + 2);
    let unscoped = process_usage().unscoped;
    let kept = scope.run(|| {
        assert!(MemoryScope::current().is_none());
        scope.set_limit(1);
        scope.check().unwrap();
        bytes(1_000)
    });
    let charge = scope.charge(10);
    assert_eq!(charge.bytes(), 0);
    assert_eq!(scope.usage(), late.usage());
    assert_eq!(scope.usage().live, 0);
    assert_eq!(late.retained().scopes, 0);
    // It is of the process.
    assert_eq!(process_usage().unscoped, unscoped + 1_000);
    drop((kept, charge, scope.clone(), scope, late.scope(), late));

    let before = cpu_time();
    for _ in 0..if FEW { 10 } else { 1_000_000 } {
        assert!(!MemoryScope::new().is_counted());
    }
    // Looking at all of them each time takes a minute and more.
    let took = cpu_time().saturating_sub(before);
    assert!(took < Duration::from_secs(20), "{took:?}");
    drop(scopes);
    assert!(group.scope().is_counted());
}

fn given_up() {
    let (group, other) = (MemoryGroup::new(), MemoryGroup::new());
    let before = process_usage();
    let retain = |group: &MemoryGroup, now, len| {
        set_now(now);
        group.scope().run(|| bytes(len))
    };
    let younger = retain(&group, 7, 70);
    let oldest = retain(&other, 3, 30);
    let old = retain(&group, 5, 5_000);
    let mut ended = Vec::new();
    group.each_retained(|since, bytes| ended.push((since, bytes)));
    ended.sort_unstable();
    assert_eq!(ended, [(5, 5_000), (7, 70)]);

    let scopes = all_places();
    // Those three were given up as well, the oldest first.
    assert_eq!(scopes.len(), PLACES - 4);
    let now = process_usage();
    assert_eq!(now.given_up, before.given_up + 3);
    assert_eq!(now.orphaned, before.orphaned + 5_100);
    assert_eq!([group.usage().live, other.usage().live], [0, 0]);
    assert_eq!(group.retained().scopes, 0);
    assert_truth(&[]);
    drop(younger);
    assert_eq!(process_usage().orphaned, before.orphaned + 5_030);
    drop(scopes);

    // One at a time.
    let younger = retain(&group, 7, 70);
    let older = retain(&group, 4, 40);
    let mut scopes = Vec::with_capacity(PLACES);
    while process_usage().given_up == before.given_up + 3 {
        scopes.push(MemoryScope::new());
    }
    assert_eq!(group.retained().bytes, 70);
    drop((oldest, old, younger, older, scopes));
    assert_eq!(process_usage().orphaned, before.orphaned);
}

fn late_frees() {
    let before = process_usage().orphaned;
    let kept: Vec<_> = (0..1_000)
        .map(|n| MemoryScope::new().run(|| bytes(1 + n * 9)))
        .collect();
    let scopes = all_places();
    assert_eq!(scopes.len(), PLACES);
    let mut kept = kept.into_iter();
    // Grown by whoever has a place by now, and freed there.
    scopes[0].run(|| {
        let mut one = kept.next_back().unwrap();
        one.reserve_exact(50_000);
        assert_truth(&[&scopes[0]]);
        drop(one);
    });
    thread::spawn(move || kept.for_each(drop)).join().unwrap();
    assert_eq!(process_usage().orphaned, before);
    assert!(scopes.iter().all(|scope| scope.usage().live == 0));
    assert!(scopes.iter().all(|scope| scope.usage().peak == 0));
    assert!(scopes.iter().all(|scope| scope.usage().allocated == 0));
}

fn given_up_within() {
    let (route, adapter) = (MemoryGroup::new(), MemoryGroup::new());
    let before = process_usage();
    for (inner_ends, outer_ends) in [(1, 2), (2, 1)] {
        let request = route.scope();
        let call = adapter.scope_within(&request);
        let own = request.run(|| bytes(1_000));
        let theirs = call.run(|| [bytes(300), bytes(20)]);
        set_now(inner_ends);
        drop(call);
        set_now(outer_ends);
        drop(request);
        let given_up = process_usage().given_up;
        let mut scopes = Vec::with_capacity(PLACES);
        while process_usage().given_up == given_up {
            scopes.push(MemoryScope::new());
        }
        let orphaned = process_usage().orphaned - before.orphaned;
        let held = [route.usage().live, adapter.usage().live];
        // Of a few, that ended first: which few depends on where they are.
        match held {
            [1_000, _] => assert_eq!((orphaned, held), (320, [1_000, 0])),
            _ => assert_eq!((orphaned, held), (1_320, [0, 320])),
        }
        assert_eq!(live_bytes(), ALLOC.live_bytes());
        let [one, mut two] = theirs;
        drop(one);
        two.reserve_exact(70_000);
        assert_eq!(live_bytes(), ALLOC.live_bytes());
        while process_usage().given_up == given_up + 1 {
            scopes.push(MemoryScope::new());
        }
        assert_eq!(process_usage().orphaned, before.orphaned + 71_000);
        assert_eq!([route.usage().live, adapter.usage().live], [0, 0]);
        assert_eq!(live_bytes(), ALLOC.live_bytes());
        thread::spawn(move || drop((own, two))).join().unwrap();
        assert_eq!(process_usage().orphaned, before.orphaned);
        assert!(scopes.iter().all(|scope| scope.usage().live == 0));
    }
    assert_eq!(all_places().len(), PLACES - 4);
}

fn within_none() {
    let group = MemoryGroup::new();
    let mut scopes = all_places();
    let (none, no_group) = (MemoryScope::new(), MemoryGroup::new());
    assert!(!none.is_counted());
    assert_eq!(no_group.id(), None);
    assert!(!group.scope_within(&scopes[0]).is_counted());
    assert_eq!(none.try_charge(u64::MAX).unwrap().bytes(), 0);
    // There is one again.
    scopes.pop();
    for in_group in [false, true] {
        let scope = match in_group {
            true => group.scope_within(&none),
            false => none.child(),
        };
        assert!(scope.is_counted());
        let kept = scope.run(|| bytes(1_000));
        assert_eq!(live_bytes(), ALLOC.live_bytes());
        drop(kept);
    }
    let scope = no_group.scope_within(&scopes[0]);
    let kept = scope.run(|| bytes(1_000));
    assert_eq!(scopes[0].usage().live, 1_000);
    drop(kept);
}

fn forgotten() {
    let kept = thread::spawn(|| {
        let scope = MemoryScope::new();
        std::mem::forget(scope.enter());
        let first = bytes(100);
        drop(scope);
        let next = untracked(MemoryScope::new);
        (first, bytes(300_000), next, bytes(7))
    });
    let (first, second, next, third) = kept.join().unwrap();
    assert_eq!(next.usage().live, 0);
    assert_truth(&[&next]);
    drop((first, second, third));
    assert_truth(&[&next]);
    assert_eq!(process_usage().orphaned, 0);
}

fn soak() {
    let (group, other) = (MemoryGroup::new(), MemoryGroup::new());
    let before = ALLOC.live_bytes();
    let rounds = if FEW { 200 } else { 1_000_000 };
    let mut kept = Vec::new();
    for n in 0..rounds {
        let scope = group.scope();
        let inner = other.scope_within(&scope);
        kept = inner.run(|| bytes(n % 100));
    }
    drop(kept);
    assert_eq!(ALLOC.live_bytes(), before);
    assert_eq!(group.usage().live, 0);
    assert_eq!(group.retained().scopes, 0);
    assert_eq!(other.usage().live, 0);
    // The slots of a few took turns.
    let first = process_usage();
    let scopes = all_places();
    assert_eq!(scopes.len(), PLACES - 4);
    assert_eq!(process_usage().given_up, first.given_up);
}

fn fork() {
    let scope = MemoryScope::new();
    let kept = scope.run(|| bytes(1_000));
    // Threads that were in the scope are not in the child.
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        let other = threads.spawn(|| {
            while !done.load(Relaxed) {
                drop(busy(&MemoryScope::new()));
            }
        });
        // SAFETY: the child allocates, which glibc allows it, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let more = scope.run(|| bytes(500));
            let own = MemoryScope::new();
            let mine = own.run(|| bytes(70_000));
            let right = scope.usage().live == 1_500 && own.usage().live == 70_000;
            drop((kept, more, mine));
            let right = right && scope.usage().live == 0 && own.usage().live == 0;
            // SAFETY: it ends the process at once.
            unsafe { libc::_exit(c_int::from(!right)) };
        }
        let mut status = -1;
        // SAFETY: the status lives as long.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        done.store(true, Relaxed);
        // A scope of threads does not wait for what they do last.
        other.join().unwrap();
        assert_eq!(status, 0);
        assert_eq!(scope.usage().live, 1_000);
        drop(kept);
    });
}

/// What is left when the process ends still finds its owner.
fn at_exit() {
    extern "C" fn last() {
        let scope = MemoryScope::new();
        let kept = scope.run(|| bytes(5_000));
        let right = scope.usage().live == 5_000;
        drop(kept);
        drop(bytes(1 << 20));
        if !right || scope.usage().live != 0 {
            process::abort();
        }
    }
    if !FEW {
        // SAFETY: it is a function of the program, and does not unwind.
        assert_eq!(unsafe { libc::atexit(last) }, 0);
    }
}

fn reclaimed() {
    let block = || vec![1_u8; 2_000];
    let blocks: Vec<_> = (0..40_000).map(|_| black_box(block())).collect();
    // What lies behind all of them keeps the heap from shrinking by itself.
    let last = black_box(block());
    let full = ALLOC.figures();
    drop(blocks);
    let reclaimed = ALLOC.reclaim();
    let freed = reclaimed.freed().unwrap();
    assert!(freed > 60_000_000, "{reclaimed:?}");
    // Of glibc before 2.33 there are none.
    if let Some((full, after)) = full.zip(ALLOC.figures()) {
        let allocated = full.allocated.saturating_sub(after.allocated);
        assert!(
            (80_000_000..90_000_000).contains(&allocated),
            "{full:?} {after:?}"
        );
        assert!(full.mapped >= full.allocated && full.allocated >= 80_000_000);
    }
    assert!(ALLOC.reclaim().freed().unwrap() < 10_000_000);
    drop(last);
}

mod libc {
    use std::ffi::c_int;

    unsafe extern "C" {
        pub(crate) fn atexit(last: extern "C" fn()) -> c_int;
        pub(crate) fn fork() -> c_int;
        pub(crate) fn waitpid(child: c_int, status: *mut c_int, options: c_int) -> c_int;
        pub(crate) fn _exit(status: c_int) -> !;
    }
}
