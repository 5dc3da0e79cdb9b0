//! What a breaker allocates: nothing for a call once its history is full, exactly what it says in
//! all, and nothing that is left behind.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use libtest_mimic::{Arguments, Failed, Trial};
use plimsoll_breaker::{
    CallsQuery, CircuitBreaker, CircuitBreakerConfig, CircuitBreakerLayer, Event, HistoryConfig,
    OnOpen, Outcome, ProbeRule, State, Window,
};
use plimsoll_core::{
    Holding,
    test_util::{CountingAllocator, assert_live_bytes_return},
};
use std::{
    convert::Infallible,
    fmt,
    future::{Ready, ready},
    process::ExitCode,
    sync::Barrier,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};
use tokio::{
    runtime::{self, Handle},
    time::{Instant, advance},
};
use tower::{Layer, Service};

#[global_allocator]
static ALLOC: CountingAllocator = CountingAllocator::system();

const MILLION: usize = 1_000_000;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The allocator counts for the whole process, so nothing may run beside a test.
    arguments.test_threads = Some(1);
    let trials = vec![
        trial("calls_at_the_cap_allocate_nothing", at_cap),
        trial("calls_without_a_history_allocate_nothing", no_history),
        trial("refused_calls_allocate_nothing", refused),
        trial("calls_through_the_service_allocate_nothing", service),
        trial("new_breaker_is_as_large_as_it_says", new),
        trial("breaker_is_as_large_as_it_says_all_its_life", lived),
        trial("reconfigured_breaker_is_as_large_as_it_says", reconfigured),
        trial("breaker_that_threads_share_is_as_large_as_it_says", threads),
        trial("small_breaker_takes_less_than_a_kibibyte", small),
        trial("full_history_takes_what_its_cap_says", bounded),
        trial(
            "million_calls_of_every_kind_leave_no_more_than_the_first",
            flat,
        ),
        trial(
            "million_idle_rounds_of_a_time_window_leave_nothing",
            windows,
        ),
        trial("breakers_that_are_gone_leave_nothing", gone),
        trial("breaker_that_threads_shared_leaves_nothing", threads_gone),
        trial("services_that_waited_leave_nothing", waited),
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
        runtime.block_on(async {
            // What the clock of the runtime makes once is made here.
            advance(MS).await;
            test().await;
        });
        Ok(())
    })
}

/// A breaker that no rate opens.
fn config() -> CircuitBreakerConfig {
    CircuitBreakerConfig::new()
        .failure_rate(None)
        .jitter(0.0)
        .open_for(5 * SECOND)
}

fn breaker(config: CircuitBreakerConfig) -> CircuitBreaker {
    CircuitBreaker::new("memory", config).unwrap()
}

/// One of every ten calls fails, one is ignored, and one is dropped.
fn call(breaker: &CircuitBreaker, n: usize) {
    let permit = breaker.try_acquire().unwrap();
    match n % 10 {
        3 => permit.record(Outcome::Failure),
        5 => permit.record(Outcome::Ignore),
        7 => drop(permit),
        _ => permit.record(Outcome::Success),
    }
}

fn calls(breaker: &CircuitBreaker, calls: usize) {
    for n in 0..calls {
        call(breaker, n);
    }
}

/// How often `work` asks for memory.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOC.allocations();
    work();
    ALLOC.allocations() - before
}

// T2
async fn at_cap() {
    let kinds = [
        config(),
        config().slow_calls(SECOND, 100.0),
        config().window(Window::Calls(65_536)),
        config().window(Window::Time(SECOND)),
        config().window(Window::Time(60 * SECOND)),
        config().overdue_calls(SECOND, 1_000),
        config().history(HistoryConfig::local().calls(33)),
        config().history(HistoryConfig::local().calls(1)),
    ];
    for config in kinds {
        for metrics_only in [false, true] {
            let breaker = breaker(config.clone());
            if metrics_only {
                breaker.metrics_only();
            }
            calls(&breaker, 11_000);
            let bytes = breaker.bytes();
            let mut made = 0;
            // Time goes on between, for windows to roll.
            for _ in 0..100 {
                advance(13 * MS).await;
                made += allocations(|| calls(&breaker, MILLION / 1_000));
            }
            assert_eq!(made, 0, "{config:?}");
            assert_eq!(breaker.bytes(), bytes, "{config:?}");
        }
    }
    // The default, and a window of time, for a million calls each.
    for window in [Window::Calls(100), Window::Time(10 * SECOND)] {
        let breaker = breaker(config().window(window));
        calls(&breaker, 11_000);
        let live = ALLOC.live_bytes();
        let mut made = 0;
        for _ in 0..1_000 {
            advance(MS).await;
            made += allocations(|| calls(&breaker, MILLION / 1_000));
        }
        assert_eq!((made, ALLOC.live_bytes()), (0, live), "{window:?}");
        assert_eq!(breaker.history_usage().calls, 10_000);
    }
}

async fn no_history() {
    let breaker = breaker(config().history(HistoryConfig::disabled()));
    assert_eq!(allocations(|| calls(&breaker, MILLION)), 0);
}

async fn refused() {
    let breaker = breaker(config());
    breaker.open_for(HOUR).unwrap();
    let refuse = || {
        let refused = (0..MILLION).filter(|_| breaker.try_acquire().is_err());
        assert_eq!(refused.count(), MILLION);
    };
    assert_eq!(allocations(refuse), 0);
    breaker.force_open();
    assert_eq!(allocations(refuse), 0);
}

#[derive(Clone, Debug)]
struct Answer;

impl Service<()> for Answer {
    type Response = u32;
    type Error = Infallible;
    type Future = Ready<Result<u32, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(7))
    }
}

async fn service() {
    let breaker = breaker(config());
    let mut service = CircuitBreakerLayer::new(breaker.clone()).layer(Answer);
    let mut run = |calls: usize| {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..calls {
            assert!(service.poll_ready(&mut cx).is_ready());
            let future = std::pin::pin!(service.call(()));
            assert!(matches!(future.poll(&mut cx), Poll::Ready(Ok(7))));
        }
    };
    run(11_000);
    assert_eq!(allocations(|| run(100_000)), 0);
}

/// Asserts that it says what is allocated since `start`.
fn assert_exact(breaker: &CircuitBreaker, start: u64, context: impl fmt::Display) {
    let live = ALLOC.live_bytes() - start;
    assert_eq!(breaker.bytes(), live, "{context}");
    assert_eq!(breaker.snapshot().bytes, live, "{context}");
    assert_eq!(breaker.bounded().usage().bytes, live, "{context}");
}

fn kinds() -> Vec<(&'static str, CircuitBreakerConfig)> {
    let history = HistoryConfig::local;
    vec![
        ("default", config()),
        ("largest window", config().window(Window::Calls(65_536))),
        ("window of one", config().window(Window::Calls(1))),
        ("window of time", config().window(Window::Time(10 * SECOND))),
        ("overdue calls", config().overdue_calls(SECOND, 1_000)),
        (
            "short history",
            config().history(history().calls(5).transitions(2)),
        ),
        (
            "no cap",
            config().history(history().calls(0).transitions(0)),
        ),
        ("no history", config().history(HistoryConfig::disabled())),
    ]
}

async fn new() {
    // The first of all interns its name and reads the clock.
    drop(breaker(config()));
    for (kind, config) in kinds() {
        let start = ALLOC.live_bytes();
        let config = std::hint::black_box(config);
        let breaker = breaker(config);
        assert_exact(&breaker, start, kind);
        drop(breaker);
        assert_eq!(ALLOC.live_bytes(), start, "{kind}");
    }
}

async fn lived() {
    drop(breaker(config()));
    for (kind, config) in kinds() {
        let start = ALLOC.live_bytes();
        let breaker = breaker(config.probes(100).probe_rule(ProbeRule::AllMustSucceed));
        calls(&breaker, 10);
        assert_exact(&breaker, start, format_args!("{kind}, 10 calls"));
        calls(&breaker, 20_000);
        assert_exact(&breaker, start, format_args!("{kind}, 20 000 calls"));
        for n in 0..50 {
            breaker.open().unwrap();
            assert_exact(&breaker, start, format_args!("{kind}, opened {n} times"));
            breaker.half_open().unwrap();
            breaker.try_acquire().unwrap().record(Outcome::Success);
            breaker.close();
            assert_exact(&breaker, start, format_args!("{kind}, closed {n} times"));
        }
        breaker.open().unwrap();
        breaker.half_open().unwrap();
        let live = ALLOC.live_bytes();
        let mut probes = Vec::with_capacity(100);
        let list = ALLOC.live_bytes() - live;
        probes.extend((0..100).map(|_| breaker.try_acquire().unwrap()));
        assert_exact(&breaker, start + list, format_args!("{kind}, with probes"));
        drop(probes);
        breaker.metrics_only();
        calls(&breaker, 1_000);
        assert_exact(&breaker, start, format_args!("{kind}, metrics only"));
        breaker.disable();
        breaker.force_open();
        breaker.reset();
        assert_exact(&breaker, start, format_args!("{kind}, reset"));
        let _ = breaker.trim(500, 5);
        assert_exact(&breaker, start, format_args!("{kind}, trimmed"));
        let _ = breaker.bounded().shrink(0.5, 1_000);
        assert_exact(&breaker, start, format_args!("{kind}, shrunk"));
        calls(&breaker, 1_000);
        advance(25 * HOUR).await;
        calls(&breaker, 10);
        assert_exact(&breaker, start, format_args!("{kind}, a day later"));
        let _ = breaker.cleanup();
        assert_exact(&breaker, start, format_args!("{kind}, swept"));
        advance(25 * HOUR).await;
        let _ = breaker.cleanup();
        assert_exact(&breaker, start, format_args!("{kind}, empty again"));
        calls(&breaker, 1_000);
        drop(breaker.calls(&CallsQuery::new()));
        drop(breaker.transitions());
        assert_exact(&breaker, start, format_args!("{kind}, read"));
        breaker.bounded().close(Instant::now()).await;
        assert_exact(&breaker, start, format_args!("{kind}, closed"));
        calls(&breaker, 1_000);
        assert_exact(&breaker, start, format_args!("{kind}, closed and used"));
        drop(breaker);
        assert_eq!(ALLOC.live_bytes(), start, "{kind}");
    }
}

async fn reconfigured() {
    drop(breaker(config()));
    for (from, first) in kinds() {
        for (to, second) in kinds() {
            let start = ALLOC.live_bytes();
            let breaker = breaker(first.clone());
            calls(&breaker, 1_000);
            breaker.reconfigure(second).unwrap();
            assert_exact(&breaker, start, format_args!("from {from} to {to}"));
            calls(&breaker, 1_000);
            assert_exact(&breaker, start, format_args!("from {from} to {to}, later"));
            drop(breaker);
            assert_eq!(ALLOC.live_bytes(), start, "from {from} to {to}");
        }
    }
}

/// Has so many threads take turns on a breaker.
fn share(breaker: &CircuitBreaker, threads: usize) {
    let runtime = Handle::current();
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        let work = || {
            let _entered = runtime.enter();
            for _ in 0..100 {
                barrier.wait();
                calls(breaker, 30);
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            // The end of a scope would not wait for what a thread frees last.
            thread.join().unwrap();
        }
    });
}

async fn threads() {
    // What the runtime and the standard library make once is made here.
    share(&breaker(config()), 8);
    for (kind, config) in kinds() {
        let start = ALLOC.live_bytes();
        let breaker = breaker(config);
        calls(&breaker, 100);
        let before = breaker.bytes();
        share(&breaker, 8);
        assert_exact(&breaker, start, kind);
        assert!(breaker.bytes() > before, "threads that meet have stripes");
        assert_eq!(breaker.snapshot().in_flight, 0);
        breaker.force_open();
        breaker.close();
        advance(25 * HOUR).await;
        let _ = breaker.cleanup();
        assert_exact(&breaker, start, format_args!("{kind}, swept"));
        share(&breaker, 8);
        breaker.bounded().close(Instant::now()).await;
        assert_exact(&breaker, start, format_args!("{kind}, closed"));
        drop(breaker);
        assert_eq!(ALLOC.live_bytes(), start, "{kind}");
    }
}

async fn small() {
    let breaker = breaker(config().window(Window::Calls(100)));
    assert!(breaker.bytes() <= 1_024, "{}", breaker.bytes());
}

async fn bounded() {
    let breaker = breaker(config());
    let new = breaker.bytes();
    calls(&breaker, 50_000);
    let history = breaker.bytes() - new;
    // 12 bytes for each of 10 000 calls, and an eighth in chunks.
    assert!(history >= 10_000 * 12, "{history}");
    assert!(history <= 10_000 * 12 * 9 / 8 + 10_000, "{history}");
}

/// What can happen to a breaker.
async fn live_through(breaker: &CircuitBreaker) {
    calls(breaker, 100);
    while breaker.state() == State::Closed {
        breaker.try_acquire().unwrap().record(Outcome::Failure);
    }
    for _ in 0..100 {
        breaker.try_acquire().unwrap_err();
    }
    advance(5 * SECOND).await;
    drop(breaker.try_acquire().unwrap());
    let hung = breaker.try_acquire().unwrap();
    for n in [5, 3] {
        call(breaker, n);
    }
    advance(HOUR).await;
    assert_eq!(breaker.state(), State::HalfOpen);
    hung.record(Outcome::Success);
    for _ in 0..2 {
        if let Ok(permit) = breaker.try_acquire() {
            permit.record(Outcome::Success);
        }
    }
    breaker.metrics_only();
    calls(breaker, 50);
    breaker.reset();
}

/// Memory after the first hundred thousand calls, and after a million.
async fn flat() {
    let config = CircuitBreakerConfig::new()
        .jitter(0.0)
        .open_for(5 * SECOND)
        .open_factor(1.0)
        .window(Window::Calls(20))
        .failure_rate(50.0)
        .history(HistoryConfig::local().retention(Duration::ZERO));
    let breaker = breaker(config);
    let mut measured = Vec::with_capacity(10);
    for _ in 0..10 {
        for _ in 0..550 {
            live_through(&breaker).await;
        }
        measured.push((breaker.bytes(), ALLOC.live_bytes()));
    }
    let totals = breaker.snapshot().totals;
    let ended = totals.successes + totals.failures + totals.ignored + totals.dropped;
    assert!(ended + totals.rejected() > MILLION as u64, "{totals:?}");
    assert!(totals.stale > 0);
    let first = measured[0];
    assert!(measured.iter().all(|at| at.0 == first.0), "{measured:?}");
    assert!(measured.iter().all(|at| at.1 <= first.1), "{measured:?}");
    assert_eq!(breaker.history_usage().calls, 10_000);
    assert_eq!(breaker.history_usage().transitions, 1_000);
}

async fn windows() {
    let breaker = breaker(config().window(Window::Time(10 * MS)));
    calls(&breaker, 11_000);
    let live = ALLOC.live_bytes();
    for _ in 0..1_000 {
        advance(7 * MS).await;
        for _ in 0..1_000 {
            assert!(breaker.state() == State::Closed);
        }
        calls(&breaker, 1);
    }
    assert_eq!(ALLOC.live_bytes(), live);
}

async fn gone() {
    let config = CircuitBreakerConfig::new().window(Window::Calls(20));
    assert_live_bytes_return(&ALLOC, 10, 1_000, 0, || async {
        let breaker = breaker(config.clone().jitter(0.0).open_for(5 * SECOND));
        let events = breaker.events();
        let watched = breaker.bytes();
        breaker
            .observe(move |_: &Event| assert!(watched > 0))
            .unwrap();
        live_through(&breaker).await;
        let permit = breaker.try_acquire().unwrap();
        drop(breaker);
        // The last of it goes with its last call.
        permit.record(Outcome::Failure);
        drop(events);
    })
    .await;
}

async fn threads_gone() {
    assert_live_bytes_return(&ALLOC, 3, 20, 0, || async {
        let breaker = breaker(config());
        share(&breaker, 4);
    })
    .await;
}

async fn waited() {
    let breaker = breaker(config());
    let layer = CircuitBreakerLayer::new(breaker.clone()).on_open(OnOpen::NotReady);
    assert_live_bytes_return(&ALLOC, 10, 1_000, 0, || async {
        breaker.open().unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut services = vec![layer.layer(Answer); 10];
        for service in &mut services {
            assert!(service.poll_ready(&mut cx).is_pending());
        }
        services.truncate(5);
        advance(6 * SECOND).await;
        for service in &mut services {
            assert!(service.poll_ready(&mut cx).is_ready());
        }
        breaker.close();
        // So that records of the history are those of the beginning.
        let _ = breaker.trim(0, 0);
    })
    .await;
}
