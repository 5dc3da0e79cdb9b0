//! What depends on the process as a whole: its places for scopes, how the allocator counts, the time
//! it is told, and every byte that is held. One test at a time.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use libtest_mimic::{Arguments, Failed, Trial};
use plimsoll_alloc::{
    CountingAllocator, MemoryScope, Mode, Reclaim as _, Retained, TrackingAllocator, process_usage,
    set_mode,
};
use plimsoll_core::{BoxError, Holding as _, Name, test_util::assert_live_bytes_return};
use plimsoll_memory::{
    Admission, AdmissionConfig, AdmissionLayer, AdmissionMode, Ask, Attribution, Budget, BudgetKey,
    HeavyLog, HeavyRequest, MemoryConfig, MemoryLayer, MemoryManager, MemoryStats, MonitorConfig,
    PressureLevel, Weigher, process,
};
use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    hint::black_box,
    iter,
    process::ExitCode,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    thread,
    time::Duration,
};
use tokio::{
    runtime,
    time::{Instant, sleep},
};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

#[global_allocator]
static ALLOC: CountingAllocator<TrackingAllocator> =
    CountingAllocator::new(TrackingAllocator::system());

/// Scopes and groups that there can be at a time.
const PLACES: usize = 65_535;

const MIB: u64 = 1 << 20;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // All of it is the process's, so nothing may run beside a test.
    arguments.test_threads = Some(1);
    let trials = vec![
        trial("what_a_cache_keeps_is_retained_until_it_is_evicted", cache),
        trial("requests_without_a_place_are_estimated", no_place),
        trial("first_request_without_a_place_is_not_the_rule", no_group),
        trial("allocator_that_is_told_to_stop_leaves_estimates", off),
        trial(
            "request_that_is_only_counted_has_allocated_and_nothing_else_is_said",
            only_counted,
        ),
        trial(
            "request_is_estimated_if_the_mode_was_set_meanwhile",
            set_meanwhile,
        ),
        trial("mode_can_be_switched_under_load", switched),
        trial("heavy_log_holds_what_it_says_and_no_more", heavy_bytes),
        trial("calls_that_are_over_leave_nothing", soak),
        trial(
            "memory_that_the_allocator_keeps_is_no_pressure_and_is_given_back",
            kept_by_the_allocator,
        ),
        trial("those_who_do_not_wait_any_longer_are_forgotten", gone),
        trial("those_who_have_ended_leave_their_place_to_others", ended),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial<F>(name: &str, test: fn() -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    Trial::test(name, move || {
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(Failed::from)?;
        runtime.block_on(test());
        Ok(())
    })
}

/// So many bytes on the heap, in one block.
fn bytes(length: usize) -> Vec<u8> {
    black_box(Vec::with_capacity(black_box(length)))
}

fn retained(stats: &MemoryStats) -> [(u64, u64); 4] {
    let by_age = stats.retained_by_age.unwrap();
    by_age.map(|Retained { scopes, bytes, .. }| (scopes, bytes))
}

async fn cache() {
    let layer = MemoryLayer::new("cache");
    let service = layer.layer(service_fn(async |length: usize| {
        Ok::<_, Infallible>(bytes(length))
    }));
    let stats = || layer.stats();
    let first = service.clone().oneshot(1_000).await.unwrap();
    // Nobody tells the time.
    assert_eq!(
        (stats().retained.bytes, stats().retained_by_age),
        (1_000, None)
    );
    drop(first);

    let watching = tokio::spawn(process::watch(Duration::from_secs(1)));
    // Between two looks, so that it does not matter who is woken first.
    sleep(Duration::from_millis(100_500)).await;
    assert_eq!(retained(&stats()), [(0, 0); 4]);
    let evicted = service.clone().oneshot(70_000).await.unwrap();
    let mut passed = 0;
    for (seconds, class) in [
        (0, 0),
        (60, 0),
        (61, 1),
        (600, 1),
        (601, 2),
        (3_600, 2),
        (3_601, 3),
        (9_000, 3),
    ] {
        sleep(Duration::from_secs(seconds - passed)).await;
        passed = seconds;
        let mut expected = [(0, 0); 4];
        expected[class] = (1, 70_000);
        assert_eq!(retained(&stats()), expected, "after {seconds} s");
    }
    let kept = [
        service.clone().oneshot(200).await.unwrap(),
        service.oneshot(30).await.unwrap(),
    ];
    assert_eq!(retained(&stats()), [(2, 230), (0, 0), (0, 0), (1, 70_000)]);
    assert_eq!(
        (stats().retained.scopes, stats().retained.bytes),
        (3, 70_230)
    );
    drop(evicted);
    assert_eq!(retained(&stats()), [(2, 230), (0, 0), (0, 0), (0, 0)]);
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(retained(&stats()), [(0, 0), (0, 0), (2, 230), (0, 0)]);
    drop(kept);
    // What nobody retains has no age, which is something else than one that nobody knows.
    assert_eq!((stats().live, retained(&stats())), (0, [(0, 0); 4]));
    assert_eq!(stats().left.sum, 1_000 + 70_230);
    watching.abort();
    assert!(watching.await.unwrap_err().is_cancelled());
    assert_eq!((stats().retained_by_age, process::resident()), (None, None));
}

/// Waits once, then answers how long what it holds is.
async fn hold(length: usize) -> Result<usize, Infallible> {
    let held = bytes(length);
    let mut waited = false;
    poll_fn(|_| match waited {
        true => Poll::Ready(()),
        false => {
            waited = true;
            Poll::Pending
        }
    })
    .await;
    Ok(held.capacity())
}

async fn no_place() {
    const MORE: usize = 1_000;
    let layer = MemoryLayer::new("many").budget(Budget::enforce(100));
    let mut service = layer.layer(service_fn(hold));
    let refused = process_usage().refused;
    let mut calls: Vec<_> = (0..PLACES + MORE)
        .map(|_| task::spawn(service.call(50)))
        .collect();
    // The group has two places as well.
    assert_eq!(process_usage().refused - refused, MORE as u64 + 2);
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    // Whoever is not counted holds as much as it likes.
    let mut late = task::spawn(service.call(1_000_000));
    assert_pending!(late.poll());
    assert_eq!(assert_ready_ok!(late.poll()), 1_000_000);
    assert_eq!(layer.stats().live, 50 * (PLACES as u64 - 2));
    for call in &mut calls {
        assert_eq!(assert_ready_ok!(call.poll()), 50);
    }
    let stats = layer.stats();
    let attributed = |attribution| stats.attributed(attribution);
    assert_eq!(attributed(Attribution::Exact), PLACES as u64 - 2);
    assert_eq!(attributed(Attribution::ProcessOnly), MORE as u64 + 3);
    assert_eq!(stats.attribution(), Some(Attribution::ProcessOnly));
    assert_eq!((stats.refused, stats.live), (0, 0));
    // There are places again.
    let mut next = task::spawn(service.call(101));
    assert_ready_err!(next.poll());
    assert_eq!(layer.stats().refused, 1);
}

async fn no_group() {
    let places: Vec<_> = iter::repeat_with(MemoryScope::new)
        .take_while(MemoryScope::is_counted)
        .collect();
    let layer = MemoryLayer::new("late");
    let service = layer.layer(service_fn(async |length: usize| {
        Ok::<_, Infallible>(bytes(length))
    }));
    drop(service.clone().oneshot(100).await.unwrap());
    assert_eq!(layer.stats().attributed(Attribution::ProcessOnly), 1);
    assert!(layer.weigher().group().is_none());
    // The group is made as soon as there is a place, and knows what it holds from then on.
    drop(places);
    let kept = service.oneshot(100).await.unwrap();
    let stats = layer.stats();
    assert_eq!(stats.attributed(Attribution::Exact), 1);
    assert_eq!((stats.live, stats.retained.bytes), (100, 100));
    drop(kept);
}

async fn off() {
    let layer = MemoryLayer::new("off").budget(Budget::enforce(1_000));
    let mut service = layer.layer(service_fn(hold));
    let mut begun = task::spawn(service.call(900));
    assert_pending!(begun.poll());
    let mut over = layer.layer(service_fn(|length: usize| {
        let held = bytes(length);
        async move { hold(held.capacity()).await }
    }));
    let mut over = task::spawn(over.call(1_001));
    set_mode(Mode::Off);
    assert_eq!(answer(service.clone().oneshot(5_000)), 5_000);
    let stats = layer.stats();
    assert_eq!(stats.attributed(Attribution::ProcessOnly), 1);
    assert_eq!(stats.peak.max, 0);
    // It began when they were counted, and is not exact any more; so its budget does not end it.
    assert_pending!(over.poll());
    assert_ready_ok!(over.poll());
    assert_eq!(assert_ready_ok!(begun.poll()), 900);
    let stats = layer.stats();
    assert_eq!(stats.attributed(Attribution::Estimated), 2);
    assert_eq!(stats.attributed(Attribution::Exact), 0);
    assert_eq!((stats.refused, stats.live), (0, 0));

    set_mode(Mode::Precise);
    let mut counted = task::spawn(service.call(1_001));
    assert_ready_err!(counted.poll());
    drop(counted);
    let stats = layer.stats();
    assert_eq!(stats.attributed(Attribution::Exact), 1);
    assert_eq!((stats.requests(), stats.refused), (4, 1));
}

/// The answer of a call that waits once.
fn answer(call: impl Future<Output = Result<usize, BoxError>>) -> usize {
    let mut call = task::spawn(call);
    assert_pending!(call.poll());
    assert_ready_ok!(call.poll())
}

async fn only_counted() {
    set_mode(Mode::Counters);
    let layer = MemoryLayer::new("counted").budget(Budget::enforce(100));
    let service = layer.layer(service_fn(async |length: usize| {
        let held = bytes(length);
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(held.capacity())
    }));
    assert_eq!(service.oneshot(50_000).await.unwrap(), 50_000);
    set_mode(Mode::Precise);
    let stats = layer.stats();
    assert_eq!(stats.attribution(), Some(Attribution::AllocatedOnly));
    assert!((50_000..60_000).contains(&stats.allocated.sum), "{stats:?}");
    assert!(!stats.is_exact());
    assert_eq!((stats.peak.max, stats.live, stats.refused), (0, 0, 0));
}

async fn set_meanwhile() {
    let layer = MemoryLayer::new("set").budget(Budget::enforce(100));
    let service = layer.layer(service_fn(async |()| {
        set_mode(Mode::Off);
        let held = bytes(50_000);
        set_mode(Mode::Precise);
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(held.capacity())
    }));
    // It holds too much, of which nobody knows.
    assert_eq!(service.oneshot(()).await.unwrap(), 50_000);
    let stats = layer.stats();
    assert_eq!(stats.attribution(), Some(Attribution::Estimated));
}

async fn switched() {
    const CALLS: u64 = 20_000;
    let layer = MemoryLayer::new("switched").budget(Budget::enforce(1 << 20));
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        let busy: Vec<_> = (0..3)
            .map(|_| {
                let service = layer.layer(service_fn(hold));
                threads.spawn(move || {
                    for n in 0..CALLS {
                        let length = n as usize;
                        assert_eq!(answer(service.clone().oneshot(length)), length);
                    }
                })
            })
            .collect();
        let switches = threads.spawn(|| {
            while !done.load(Relaxed) {
                set_mode(Mode::Off);
                thread::yield_now();
                set_mode(Mode::Precise);
                thread::yield_now();
            }
        });
        for busy in busy {
            busy.join().unwrap();
        }
        done.store(true, Relaxed);
        switches.join().unwrap();
    });
    let stats = layer.stats();
    assert_eq!((stats.requests(), stats.refused), (3 * CALLS, 0));
    assert_eq!(
        (stats.live, stats.attributed(Attribution::AllocatedOnly)),
        (0, 0)
    );
    assert!(stats.peak.max < CALLS);
}

/// Ends a request that held so much.
fn weigh(weigher: &Weigher, length: usize) {
    let Some(weighing) = weigher.begin(None) else {
        panic!("the allocator counts");
    };
    let _entered = weighing.enter();
    drop(bytes(length));
}

async fn heavy_bytes() {
    const ENTRY: u64 = size_of::<HeavyRequest>() as u64;
    const { assert!(ENTRY <= 170, "the docs say 170") };
    let start = ALLOC.live_bytes();
    let minute = Duration::from_secs(60);
    let heavy = HeavyLog::new(10, 1_000, minute);
    let bounded = heavy.bounded();
    // A first request makes what its kind keeps, which is not of the log.
    let weigher = Weigher::new(Name::from_static("heavy"), heavy.clone(), None);
    weigh(&weigher, 5);
    let empty = ALLOC.live_bytes();
    assert_eq!(bounded.usage().bytes, 0);
    let check = |entries: u64| {
        let usage = bounded.usage();
        assert_eq!(usage.entries, entries);
        assert_eq!(ALLOC.live_bytes(), empty + usage.bytes);
        assert!(usage.bytes >= entries * ENTRY, "{usage:?}");
        // Never more room than for all, and most of it is used.
        let most = usage.max_entries.unwrap().min((4 * entries).max(4));
        assert!(usage.bytes <= most * ENTRY, "{usage:?}");
    };
    // Not of the request that one is part of, either.
    let around = MemoryScope::new();
    around.run(|| weigh(&weigher, 11));
    assert_eq!((around.usage().live, heavy.total()), (0, 1));
    for n in 2..=1_100 {
        weigh(&weigher, 11);
        check(n.min(1_000));
    }
    assert_eq!(bounded.usage().bytes, 1_000 * ENTRY);
    // None of it is of a request.
    assert_eq!(weigher.stats().live, 0);
    heavy.reconfigure(10, 300, minute);
    check(300);
    assert_eq!(bounded.usage().bytes, 300 * ENTRY);
    let _ = bounded.shrink(0.5, usize::MAX);
    check(150);
    sleep(Duration::from_secs(30)).await;
    (0..5).for_each(|_| weigh(&weigher, 11));
    sleep(Duration::from_secs(30)).await;
    // What is too old is given back with its room, without anybody who comes or looks.
    while bounded.usage().entries > 5 {
        let _ = bounded.sweep(Instant::now(), 10);
    }
    check(5);
    sleep(Duration::from_secs(30)).await;
    assert!(heavy.newest(10).is_empty());
    check(0);
    assert_eq!(bounded.usage().bytes, 0);
    weigh(&weigher, 11);
    MemoryConfig::new().max_heavy(0).heavy(10).apply_to(&heavy);
    check(0);
    weigh(&weigher, 11);
    check(0);
    drop((bounded, heavy, weigher));
    assert_eq!(ALLOC.live_bytes(), start);
}

async fn soak() {
    // Longer than the log of heavy ones: it is full when it is warm.
    const WARM_UP: usize = 1_100;
    const ROUNDS: usize = 10_000;
    let layer = MemoryLayer::with_weigher(Weigher::new(
        "soaked".into(),
        HeavyLog::new(10, 1_000, Duration::from_secs(3_600)),
        Some(Budget::enforce(1_000)),
    ));
    let service = layer.layer(service_fn(async |length: usize| {
        let held = bytes(length);
        if length == 20 {
            pending::<()>().await;
        }
        Ok::<_, Infallible>(held)
    }));
    assert_live_bytes_return(&ALLOC, WARM_UP, ROUNDS, 0, || async {
        assert!(service.clone().oneshot(500).await.is_ok());
        assert!(service.clone().oneshot(2_000).await.is_err());
        let mut dropped = task::spawn(service.clone().oneshot(20));
        assert_pending!(dropped.poll());
    })
    .await;
    let stats = layer.stats();
    assert_eq!(stats.requests(), 3 * (WARM_UP + ROUNDS) as u64);
    assert_eq!((stats.live, stats.retained.scopes), (0, 0));
}

/// What 16 threads have allocated in small blocks and freed, but for one block of each page or so of
/// which the allocator cannot give anything back.
async fn kept_by_the_allocator() {
    const MIB: u64 = 1 << 20;
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        return;
    }
    let resident = || plimsoll_alloc::resident_bytes().unwrap();
    // What tests before have left free would be used again.
    ALLOC.release();
    let base = resident();
    // Blocks that stay, each after 200 KB that go, so that no heap can shrink by itself. All is there
    // at once, so that none is made of what another has freed.
    let full = Barrier::new(16);
    let fill = || {
        // With room for all, since small blocks would go into what these leave when they grow.
        let (mut stay, mut go) = (Vec::with_capacity(60), Vec::with_capacity(60 * 50));
        for _ in 0..60 {
            go.extend((0..50).map(|_| black_box(vec![1_u8; 4_000])));
            stay.push(black_box(vec![1_u8; 100]));
        }
        full.wait();
        stay
    };
    let stay = thread::scope(|scope| {
        let threads = [(); 16].map(|()| scope.spawn(fill));
        threads.map(|thread| thread.join().unwrap())
    });
    let kept = resident() - base;
    assert!(kept > 100 * MIB, "{kept} bytes are kept by the allocator");

    // What is kept makes for 90 % of the line and more; what is held is next to nothing.
    let limit = (base + kept) * 100 / 90;
    let config = MonitorConfig::new()
        .limit(limit)
        .line(100.0)
        .log_every(None);
    let (memory, guard) = MemoryManager::builder(config).start().unwrap();
    let patience = Duration::from_secs(60);
    let begin = std::time::SystemTime::now();
    let stats = loop {
        let stats = memory.stats();
        let used = stats.figures.used;
        if stats.purged_bytes > kept / 2 && used.is_some_and(|used| used < base + kept / 4) {
            break stats;
        }
        assert!(begin.elapsed().unwrap() < patience, "{stats:?}");
        thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(stats.figures.level, PressureLevel::Normal);
    drop((guard, stay));
}

async fn gone() {
    let config = AdmissionConfig::new().mode(AdmissionMode::Enforce);
    let admission = Admission::with_config(&config).unwrap();
    admission.set_line(Some(1));
    let layer = AdmissionLayer::new("gone", &admission);
    let mut service = layer.layer(service_fn(|()| pending::<Result<(), BoxError>>()));
    // It is not let in, and those behind it come and go.
    let mut first = task::spawn(service.call(()));
    assert_pending!(first.poll());
    let mut go = |times| {
        for _ in 0..times {
            let mut call = task::spawn(service.call(()));
            assert_pending!(call.poll());
        }
    };
    go(100);
    let before = process_usage().unscoped;
    go(100_000);
    let kept = process_usage().unscoped.saturating_sub(before);
    // Some twenty of them, and places for them.
    assert!(kept < 16 << 10, "{kept}");
    let stats = admission.stats();
    assert_eq!((stats.waiting, stats.waited), (1, 100_101));
}

async fn ended() {
    let admission = Admission::new();
    admission.set_line(Some(1 << 20));
    let ask = |_: &()| Ask {
        declared: Some(MIB),
        key: Some(BudgetKey::new("one")),
        ..Ask::default()
    };
    let layer = AdmissionLayer::new("ended", &admission).ask(ask);
    let mut service = layer.layer(service_fn(async |()| {
        Ok::<_, Infallible>(bytes(MIB as usize).len())
    }));
    let mut go = |times| {
        for _ in 0..times {
            assert_ready_ok!(task::spawn(service.call(())).poll());
        }
    };
    go(100);
    let before = process_usage().unscoped;
    go(20_000);
    let kept = process_usage().unscoped.saturating_sub(before);
    assert!(kept < 4 << 10, "{kept}");
    assert_eq!(
        (admission.stats().running, admission.stats().admitted),
        (0, 20_100)
    );
}
