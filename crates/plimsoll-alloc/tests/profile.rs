//! The sample of blocks that live. One test at a time, for there is one sample, and totals are those
//! of the process.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]
#![cfg_attr(
    plimsoll_loom,
    allow(dead_code, reason = "atomics are the model checker's")
)]

use libtest_mimic::{Arguments, Trial};
use plimsoll_alloc::{
    CountingAllocator, MemoryGroup, MemoryScope, Mode, TrackingAllocator, process_usage,
    profile::{self, Profile, Sample, Sampling},
    set_mode, set_now,
};
use std::{
    alloc::System,
    cell::RefCell,
    ffi::c_int,
    hint::black_box,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

// Without large blocks by ourselves: LeakSanitizer does not look there for what points to others, and
// what makes names of stacks keeps much of it.
#[global_allocator]
static ALLOC: CountingAllocator<TrackingAllocator<System>> =
    CountingAllocator::new(TrackingAllocator::new(System));

fn main() -> ExitCode {
    // Nothing walks stacks there.
    if cfg!(plimsoll_loom) || cfg!(miri) {
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let mut trials = vec![
        trial("nothing_is_sampled_before_it_is_started", not_started),
        trial("mean_is_between_1_kib_and_1_gib", means),
        trial(
            "sample_is_of_whoever_allocated_and_says_where_and_when",
            one_block,
        ),
        trial("large_blocks_are_in_the_sample_by_every_way", every_way),
        trial("stack_that_is_too_deep_keeps_its_inner_end", deep),
        trial("resized_block_stays_in_the_sample_as_it_grows", resized),
        trial(
            "blocks_that_shrink_stay_as_often_as_any_of_their_size_are_there",
            shrunk,
        ),
        trial("weights_add_up_to_what_lives", unbiased),
        trial(
            "weights_add_up_where_blocks_grow_and_shrink",
            unbiased_resized,
        ),
        trial(
            "sample_stays_after_the_stop_and_goes_on_at_the_start",
            stopped,
        ),
        trial(
            "mean_changes_for_threads_that_are_far_from_the_next_hit",
            mean_changes,
        ),
        trial("blocks_are_sampled_in_every_mode", modes),
        trial("groups_and_ends_are_those_of_the_scope", groups),
        trial(
            "blocks_that_grow_after_the_stop_weigh_what_they_are",
            grown_after_the_stop,
        ),
        trial(
            "block_of_a_call_is_of_its_request_as_long_as_that_goes_on_in_every_mode",
            ends_of_calls,
        ),
        trial(
            "block_of_a_scope_within_another_has_the_groups_of_both_and_ends_with_the_outer",
            groups_of_both,
        ),
        trial("reading_the_sample_is_not_in_it", reading),
        trial("block_without_a_record_is_counted_and_not_lost", exhausted),
        trial("sample_can_be_switched_and_read_under_load", switched),
        trial("threads_that_end_may_be_sampled_to_the_last", thread_ends),
    ];
    if cfg!(target_os = "linux") {
        trials.push(trial("child_of_a_fork_samples_on", fork));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// After each of them nothing is sampled, everything is counted once, and every record is free.
fn trial(name: &str, test: fn()) -> Trial {
    Trial::test(name, move || {
        test();
        profile::stop();
        assert_truth(&[]);
        assert_eq!(profile::stats().in_use, 0);
        Ok(())
    })
}

/// Everything that lives is counted once. Only while no other thread has something to tell.
fn assert_truth(scopes: &[&MemoryScope]) {
    let process = process_usage();
    let scopes = scopes.iter().map(|scope| scope.usage().live);
    let counted = process.unscoped + process.orphaned + scopes.sum::<u64>();
    assert_eq!(counted, ALLOC.live_bytes());
}

/// So many bytes on the heap, in one block.
fn bytes(len: usize) -> Vec<u8> {
    black_box(Vec::with_capacity(black_box(len)))
}

fn every(mean: u64) -> Sampling {
    Sampling::new().mean_bytes(mean).unwrap()
}

/// The one sample of a size.
fn of_size(profile: &Profile, size: u64) -> &Sample {
    let mut found = profile.samples.iter().filter(|sample| sample.size == size);
    let one = found.next().unwrap_or_else(|| panic!("none of {size}"));
    assert!(found.next().is_none());
    one
}

fn has_size(size: u64) -> bool {
    let profile = profile::snapshot();
    profile.samples.iter().any(|sample| sample.size == size)
}

/// What the functions of frames are called, the innermost first, without those that became part of
/// others. Sampling is off then, for what finds that out keeps much of what it reads.
fn names(frames: &[usize]) -> Vec<String> {
    profile::stop();
    let name = |frame: &usize| {
        let mut name = String::new();
        // A return address is behind the call.
        backtrace::resolve(std::ptr::without_provenance_mut(frame - 1), |symbol| {
            name = symbol
                .name()
                .map(|name| name.to_string())
                .unwrap_or_default();
        });
        name
    };
    frames.iter().map(name).collect()
}

/// Many means: one that is not hit has not been seen yet.
const LARGE: usize = 1 << 20;

fn not_started() {
    assert!(!profile::is_sampling());
    let kept = bytes(50 << 20);
    let profile = profile::snapshot();
    assert_eq!(profile.samples, []);
    assert_eq!([profile.mean_bytes, profile.dropped], [512 << 10, 0]);
    let stats = profile::stats();
    assert_eq!(
        [stats.in_use, stats.capacity, stats.dropped],
        [0, 16_384, 0]
    );
    drop(kept);
    profile::stop();
    assert!(!profile::is_sampling());
}

fn means() {
    assert_eq!(Sampling::new(), every(512 << 10));
    for bytes in [1 << 10, 1 << 30] {
        let _ = every(bytes);
    }
    for bytes in [0, 1_023, (1 << 30) + 1, u64::MAX] {
        let refused = Sampling::new().mean_bytes(bytes).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("{bytes} bytes from one sample to the next; between 1 KiB and 1 GiB may be")
        );
    }
}

#[inline(never)]
fn a_caller_of_ours() -> Vec<u8> {
    black_box(bytes(black_box(LARGE)))
}

fn one_block() {
    set_now(7);
    profile::start(every(1 << 10));
    assert!(profile::is_sampling());
    let (group, other) = (MemoryGroup::new(), MemoryScope::new());
    let scope = group.scope();
    let kept = scope.run(a_caller_of_ours);
    set_now(8);
    let profile = profile::snapshot();
    assert_eq!(profile.mean_bytes, 1 << 10);
    let sample = of_size(&profile, LARGE as u64);
    assert_eq!(sample.born, 7);
    assert!(!sample.ended && !sample.is_cut);
    assert!((sample.weight_objects - 1.0).abs() < 1e-9);
    assert!((sample.weight_bytes - LARGE as f64).abs() < 1e-3);
    let names = names(&sample.frames);
    assert!(
        names.iter().any(|name| name.contains("a_caller_of_ours")),
        "{names:#?}"
    );
    // It is counted as ever, and by whoever frees it.
    assert_eq!(scope.usage().live, LARGE as u64);
    other.run(|| drop(kept));
    assert_eq!([scope.usage().live, other.usage().live], [0, 0]);
    assert!(!has_size(LARGE as u64));
    set_now(0);
}

fn every_way() {
    profile::start(every(1 << 10));
    // On either side of a page; of the small ones none is all but sure to be hit.
    let mut zeroed = black_box(vec![0_u8; LARGE]);
    let grown = {
        let mut grown = bytes(LARGE);
        grown.reserve_exact(black_box(LARGE + 1_000));
        grown
    };
    let moved = {
        let mut moved = bytes(100);
        moved.reserve_exact(black_box(LARGE + 2_000));
        moved
    };
    let small: Vec<_> = (0..100).map(|_| bytes(3_000)).collect();
    zeroed[0] = 1;
    let profile = profile::snapshot();
    let small = (small, 3_000);
    let seen = |size: u64| {
        let mut of = profile.samples.iter().filter(move |one| one.size == size);
        of.next().unwrap_or_else(|| panic!("none of {size}"))
    };
    for size in [LARGE, LARGE + 1_000, LARGE + 2_000, small.1] {
        let names = names(&seen(size as u64).frames);
        let ours = [
            "plimsoll_alloc::",
            "backtrace::backtrace",
            "__rust_alloc",
            "__rust_realloc",
        ];
        let inner = names
            .iter()
            .find(|name| ours.iter().any(|ours| name.contains(ours)));
        assert_eq!(inner, None, "{size}: {names:#?}");
        assert!(
            names.iter().any(|name| name.contains("every_way")),
            "{names:#?}"
        );
    }
    drop((zeroed, grown, moved, small));
}

#[inline(never)]
fn nested(depth: usize) -> Vec<u8> {
    if depth == 0 {
        return a_caller_of_ours();
    }
    let mut kept = nested(black_box(depth - 1));
    kept.push(0);
    black_box(kept)
}

fn deep() {
    profile::start(every(1 << 10));
    let kept = nested(100);
    let profile = profile::snapshot();
    let sample = of_size(&profile, LARGE as u64);
    assert!(sample.is_cut);
    assert_eq!(sample.frames.len(), 64);
    let names = names(&sample.frames);
    assert!(names.iter().any(|name| name.contains("a_caller_of_ours")));
    assert!(names.last().unwrap().contains("nested"), "{names:#?}");
    drop(kept);
}

fn resized() {
    profile::start(every(1 << 10));
    let (scope, other) = (MemoryScope::new(), MemoryScope::new());
    set_now(3);
    let mut kept = scope.run(a_caller_of_ours);
    set_now(4);
    let before = of_size(&profile::snapshot(), LARGE as u64).clone();
    other.run(|| kept.reserve_exact(2 * LARGE));
    profile::stop();
    thread::scope(|threads| {
        threads
            .spawn(|| kept.reserve_exact(3 * LARGE))
            .join()
            .unwrap();
    });
    let profile = profile::snapshot();
    let sample = of_size(&profile, 3 * LARGE as u64);
    assert_eq!([sample.born, before.born], [3, 3]);
    assert_eq!(sample.frames, before.frames);
    assert_eq!(scope.usage().live, 3 * LARGE as u64);
    assert_eq!(scope.usage().allocated, 6 * LARGE as u64);
    assert_eq!(other.usage().allocated, 0);
    // Still many means.
    kept.shrink_to(LARGE);
    of_size(&profile::snapshot(), LARGE as u64);
    assert_eq!(scope.usage().live, LARGE as u64);
    drop(kept);
    assert_eq!([scope.usage().live, other.usage().live], [0, 0]);
    set_now(0);
}

/// Blocks of a hundredth of a mean that were large, and so all in the sample.
fn shrunk() {
    profile::start(every(8 << 10));
    let scope = MemoryScope::new();
    let mut blocks: Vec<_> = (0..5_000)
        .map(|_| scope.run(|| bytes(200_000 + black_box(1))))
        .collect();
    let of = |size: u64| {
        let profile = profile::snapshot();
        let of = profile.samples.iter().filter(|one| one.size == size);
        of.count()
    };
    assert_eq!(of(200_001), 5_000);
    blocks.iter_mut().for_each(|block| block.shrink_to(800));
    // 9.3 % of them: 465, give or take 21.
    let left = of(800);
    assert!((360..570).contains(&left), "{left}");
    assert_eq!(scope.usage().live, 5_000 * 800);
    drop(blocks);
    assert_eq!(scope.usage().live, 0);
}

/// Sizes that programs have, each of which is to make up a twelfth.
const SIZES: [usize; 6] = [24, 100, 1_000, 4_096, 20_000, 300_000];
/// Bytes of each size.
const EACH: usize = 6 << 20;

/// In a thread that draws the same numbers each time.
fn with_seed<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    profile::start(every(8 << 10).seed(1));
    thread::scope(|threads| threads.spawn(work).join().unwrap())
}

/// What the weights of blocks of a size are, against what they should be.
fn assert_weights(profile: &Profile, size: usize, blocks: usize) -> f64 {
    let of = profile.samples.iter().filter(|one| one.size == size as u64);
    let (mut bytes, mut objects, mut seen) = (0.0, 0.0, 0);
    for sample in of {
        bytes += sample.weight_bytes;
        objects += sample.weight_objects;
        seen += 1;
    }
    let truth = (size * blocks) as f64;
    assert!((objects * size as f64 - bytes).abs() < 1.0);
    // 768 samples at the most, of which the smallest are hit at random: within 4 of 3.6 %.
    let off = (bytes - truth).abs() / truth;
    assert!(off < 0.15, "{size}: {bytes} for {truth}, by {seen}");
    bytes
}

fn unbiased() {
    let kept = with_seed(|| {
        let mut kept = Vec::with_capacity(400_000);
        let mut left = SIZES.map(|size| EACH / size);
        // In turn, so that no size has hits for itself.
        while left.iter().any(|left| *left > 0) {
            for (size, left) in SIZES.iter().zip(&mut left) {
                let now = (300_000 / size).min(*left);
                kept.extend((0..now).map(|_| bytes(*size)));
                *left -= now;
            }
        }
        kept
    });
    let profile = profile::snapshot();
    let sums = SIZES.map(|size| assert_weights(&profile, size, EACH / size));
    let (sum, truth) = (sums.iter().sum::<f64>(), (SIZES.len() * EACH) as f64);
    assert!((sum - truth).abs() / truth < 0.05, "{sum} for {truth}");
    assert_eq!(profile.dropped, 0);
    drop(kept);
}

fn unbiased_resized() {
    let kept = with_seed(|| {
        let mut kept = Vec::with_capacity(400_000);
        for size in SIZES {
            for n in 0..EACH / size {
                let mut block = bytes(1 + n % 8);
                // By doubling, too far, back, to a little, and there.
                while block.capacity() < size / 2 {
                    block.reserve_exact(block.capacity() * 2);
                }
                block.reserve_exact(size * 3);
                block.shrink_to(size / 3);
                block.reserve_exact(size);
                kept.push(block);
            }
        }
        kept
    });
    let profile = profile::snapshot();
    let sums = SIZES.map(|size| assert_weights(&profile, size, EACH / size));
    let (sum, truth) = (sums.iter().sum::<f64>(), (SIZES.len() * EACH) as f64);
    assert!((sum - truth).abs() / truth < 0.05, "{sum} for {truth}");
    assert_eq!(profile.dropped, 0);
    drop(kept);
}

fn stopped() {
    profile::start(every(1 << 10));
    let first = a_caller_of_ours();
    profile::stop();
    assert!(!profile::is_sampling());
    let second = bytes(LARGE + 1);
    assert!(has_size(LARGE as u64));
    assert!(!has_size(LARGE as u64 + 1));
    profile::start(every(1 << 10));
    let third = bytes(LARGE + 2);
    assert!(has_size(LARGE as u64) && has_size(LARGE as u64 + 2));
    assert!(!has_size(LARGE as u64 + 1));
    profile::stop();
    drop((first, second));
    assert!(!has_size(LARGE as u64));
    assert!(has_size(LARGE as u64 + 2));
    drop(third);
}

fn mean_changes() {
    profile::start(every(1 << 30));
    let far = bytes(10);
    profile::start(every(1 << 10));
    // A thread that went on to where it was to be hit before would not see it.
    let near = a_caller_of_ours();
    let profile = profile::snapshot();
    assert_eq!(profile.mean_bytes, 1 << 10);
    of_size(&profile, LARGE as u64);
    // What a sample stands for is by the mean of its time.
    profile::start(every(1 << 30));
    let weight = of_size(&profile::snapshot(), LARGE as u64).weight_objects;
    assert!((weight - 1.0).abs() < 1e-9);
    drop((far, near));
}

fn modes() {
    let group = MemoryGroup::new();
    let scope = group.scope();
    profile::start(every(1 << 10));
    for (n, mode) in [Mode::Off, Mode::Counters, Mode::Precise]
        .into_iter()
        .enumerate()
    {
        set_mode(mode);
        assert!(profile::is_sampling());
        let size = LARGE + n;
        let mut kept = scope.run(|| bytes(size));
        set_mode(Mode::Precise);
        let sample = of_size(&profile::snapshot(), size as u64).clone();
        assert!(sample.groups[0].is_some());
        let live = if mode == Mode::Precise {
            size as u64
        } else {
            0
        };
        assert_eq!(scope.usage().live, live);
        // As one that is not in the sample.
        kept.reserve_exact(2 * LARGE);
        let live = if mode == Mode::Precise {
            2 * LARGE as u64
        } else {
            0
        };
        assert_eq!(scope.usage().live, live);
        drop(kept);
        assert_eq!(scope.usage().live, 0);
    }
    let before = scope.usage().allocated;
    set_mode(Mode::Counters);
    let mut kept = scope.run(|| bytes(LARGE));
    scope.run(|| kept.reserve_exact(2 * LARGE));
    assert_eq!(scope.usage().allocated, before + 3 * LARGE as u64);
    set_mode(Mode::Precise);
    drop(kept);
}

fn grown_after_the_stop() {
    const BLOCKS: usize = 20_000;
    let blocks = with_seed(|| {
        let mut blocks = Vec::with_capacity(BLOCKS);
        blocks.resize_with(BLOCKS, || Vec::<u8>::with_capacity(2_000));
        profile::stop();
        for block in &mut blocks {
            block.reserve_exact(20_000);
        }
        blocks
    });
    let profile = profile::snapshot();
    let grown = profile
        .samples
        .iter()
        .filter(|sample| sample.size == 20_000);
    let told: f64 = grown.map(|sample| sample.weight_bytes).sum();
    let truth = (BLOCKS * 20_000) as f64;
    assert!((told / truth - 1.0).abs() < 0.05, "{told} of {truth}");
    drop(blocks);
}

fn ends_of_calls() {
    profile::start(every(1 << 10));
    for mode in [Mode::Precise, Mode::Counters, Mode::Off] {
        set_mode(mode);
        let [route, adapter] = [MemoryGroup::new(), MemoryGroup::new()];
        let request = route.scope();
        let call = adapter.scope_within(&request);
        let kept = call.run(|| bytes(LARGE));
        drop(call);
        let ended = || of_size(&profile::snapshot(), LARGE as u64).ended;
        assert!(!ended(), "{mode:?}");
        drop(request);
        assert!(ended(), "{mode:?}");
        drop(kept);
    }
    set_mode(Mode::Precise);
}

fn groups_of_both() {
    profile::start(every(1 << 10));
    let [route, adapter] = [MemoryGroup::new(), MemoryGroup::new()];
    let request = route.scope();
    let call = adapter.scope_within(&request);
    let kept = call.run(|| bytes(LARGE));
    let read = || {
        let profile = profile::snapshot();
        let sample = of_size(&profile, LARGE as u64);
        (sample.groups, sample.ended)
    };
    let both = [route.id(), adapter.id()];
    assert_eq!(read(), (both, false));
    drop(call);
    assert_eq!(read(), (both, false), "the request goes on");
    drop(request);
    assert_eq!(read(), (both, true));
    drop(kept);
}

fn groups() {
    profile::start(every(1 << 10));
    let groups = [MemoryGroup::new(), MemoryGroup::new()];
    let [one, same, other, alone] = [
        groups[0].scope(),
        groups[0].scope(),
        groups[1].scope(),
        MemoryScope::new(),
    ];
    let mut kept = Vec::new();
    for (n, scope) in [&one, &same, &other, &alone].into_iter().enumerate() {
        kept.push(scope.run(|| bytes(LARGE + n)));
    }
    kept.push(bytes(LARGE + 4));
    let read = || {
        let profile = profile::snapshot();
        [0, 1, 2, 3, 4].map(|n| {
            let sample = of_size(&profile, (LARGE + n) as u64);
            (sample.groups, sample.ended)
        })
    };
    let before = read();
    assert!(before.iter().all(|(_, ended)| !ended));
    let groups_of = before.map(|(groups, _)| groups[0]);
    assert!(groups_of[0].is_some() && groups_of[2].is_some());
    assert_eq!(groups_of[0], groups_of[1]);
    assert_ne!(groups_of[0], groups_of[2]);
    assert_eq!(groups_of[3..], [None, None]);
    // They are retained, and of the group still; others have nothing to do with it.
    drop((one, other, alone));
    let after = read();
    assert_eq!(after.map(|(groups, _)| groups[0]), groups_of);
    assert_eq!(
        after.map(|(_, ended)| ended),
        [true, false, true, true, false]
    );
    // Nor has whoever takes the place of one that was given up.
    let mut scopes = Vec::with_capacity(65_535);
    while scopes.last().is_none_or(MemoryScope::is_counted) {
        scopes.push(MemoryScope::new());
    }
    assert_eq!(groups[0].retained().scopes, 0);
    assert_eq!(read(), after);
    drop((scopes, same, groups));
    assert!(read()[1].1);
    drop(kept);
}

fn reading() {
    profile::start(every(1 << 10));
    let kept: Vec<_> = (0..500).map(|_| bytes(10_000)).collect();
    let before = profile::stats().in_use;
    let profile = profile::snapshot();
    assert!(profile.samples.len() >= 490);
    assert_eq!(profile.samples.len() as u64, before);
    assert_eq!(profile::stats().in_use, before);
    drop((kept, profile));
}

fn exhausted() {
    profile::start(every(1 << 10));
    let scope = MemoryScope::new();
    let before = profile::stats().dropped;
    let mut kept = Vec::with_capacity(20_000);
    kept.extend((0..20_000).map(|_| scope.run(|| bytes(8_192))));
    let stats = profile::stats();
    assert_eq!(stats.in_use, stats.capacity);
    // All but one in 3 000.
    let dropped = stats.dropped - before;
    assert!((3_500..=3_650).contains(&dropped), "{dropped}");
    assert_eq!(profile::snapshot().dropped, stats.dropped);
    assert_eq!(scope.usage().live, 20_000 * 8_192);
    assert_truth(&[&scope]);
    // One that is freed makes room for one.
    drop(kept.drain(..100).collect::<Vec<_>>());
    assert!(profile::stats().in_use <= stats.capacity - 90);
    let again = a_caller_of_ours();
    assert!(has_size(LARGE as u64));
    drop(again);
    kept.clear();
    assert_eq!(scope.usage().live, 0);
}

fn switched() {
    const SOME: [usize; 4] = [48, 700, 5_000, 40_000];
    let scopes: Vec<_> = (0..3).map(|_| MemoryScope::new()).collect();
    let (done, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    let shared = Mutex::new(Vec::with_capacity(100_000));
    thread::scope(|threads| {
        let busy: Vec<_> = (0..3)
            .map(|thread: usize| {
                let (scopes, shared, seen) = (&scopes, &shared, &seen);
                threads.spawn(move || {
                    for n in 0..20_000_000 {
                        // Whoever switches may come late to the processor.
                        if n >= 20_000 && seen.load(Relaxed) > 0 {
                            break;
                        }
                        let size = SOME[(n + thread) % 4];
                        let mut block = scopes[n % 3].run(|| bytes(size));
                        if n % 5 == 0 {
                            block.reserve_exact(SOME[n % 4]);
                        }
                        // Freed by whoever comes next.
                        let mut shared = shared.lock().unwrap();
                        let at = n * 7 % (shared.len() + 1);
                        let old = match shared.len() > 200 && at < shared.len() {
                            true => Some(shared.swap_remove(at)),
                            false => None,
                        };
                        shared.push(block);
                        drop(shared);
                        drop(old);
                    }
                })
            })
            .collect();
        let switches = threads.spawn(|| {
            while !done.load(Relaxed) {
                profile::start(every(1 << 10));
                thread::yield_now();
                profile::start(every(4 << 10));
                seen.fetch_add(check(&profile::snapshot()), Relaxed);
                profile::stop();
                seen.fetch_add(check(&profile::snapshot()), Relaxed);
            }
        });
        busy.into_iter().for_each(|thread| thread.join().unwrap());
        done.store(true, Relaxed);
        switches.join().unwrap();
        assert!(seen.load(Relaxed) > 0);
    });
    fn check(profile: &Profile) -> usize {
        for sample in &profile.samples {
            assert!(sample.size > 0 && sample.weight_objects >= 1.0);
            assert!(sample.frames.iter().all(|frame| *frame != 0));
            assert!((1..=64).contains(&sample.frames.len()));
        }
        profile.samples.len()
    }
    profile::stop();
    assert_truth(&scopes.iter().collect::<Vec<_>>());
    let sampled = check(&profile::snapshot()) as u64;
    assert_eq!(sampled, profile::stats().in_use);
    drop(shared);
    assert!(scopes.iter().all(|scope| scope.usage().live == 0));
}

/// Allocates and frees when its thread ends.
struct Last(RefCell<Vec<Vec<u8>>>, MemoryScope);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.borrow_mut().clear();
        let kept = self.1.run(|| bytes(100_000));
        drop(bytes(30_000));
        self.0.borrow_mut().push(kept);
    }
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

fn thread_ends() {
    profile::start(every(1 << 10));
    let scope = MemoryScope::new();
    for _ in 0..20 {
        let held = RefCell::new(vec![scope.run(|| bytes(50_000)), bytes(50_000)]);
        let last = Last(held, scope.clone());
        let handle = thread::spawn(move || {
            LAST.set(Some(last));
            // The first that it samples.
            (a_caller_of_ours(), bytes(100))
        });
        let kept = handle.join().unwrap();
        assert!(has_size(LARGE as u64));
        drop(kept);
    }
    assert_eq!(scope.usage().live, 0);
}

fn fork() {
    profile::start(every(1 << 10));
    let scope = MemoryScope::new();
    let kept = scope.run(a_caller_of_ours);
    // SAFETY: the child allocates, which glibc allows it, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let more = scope.run(|| bytes(2 * LARGE));
        let right = has_size(LARGE as u64) && has_size(2 * LARGE as u64);
        drop((kept, more));
        let right = right && !has_size(LARGE as u64) && scope.usage().live == 0;
        // SAFETY: it ends the process at once.
        unsafe { libc::_exit(c_int::from(!right)) };
    }
    let mut status = -1;
    // SAFETY: the status lives as long.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    assert!(has_size(LARGE as u64));
    drop(kept);
}

mod libc {
    use std::ffi::c_int;

    unsafe extern "C" {
        pub(crate) fn fork() -> c_int;
        pub(crate) fn waitpid(child: c_int, status: *mut c_int, options: c_int) -> c_int;
        pub(crate) fn _exit(status: c_int) -> !;
    }
}
