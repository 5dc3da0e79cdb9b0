//! What a call allocates: one box, and nothing that is left behind, whether it is weighed or not.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use libtest_mimic::{Arguments, Failed, Trial};
use plimsoll_adapter::{Adapter, AdapterBuilder, Adapters, RetryConfig, future::CallFuture};
use plimsoll_alloc::{Mode, TrackingAllocator, set_mode};
use plimsoll_breaker::{CircuitBreakerConfig, HistoryConfig};
use plimsoll_core::test_util::{CountingAllocator, assert_live_bytes_return};
use std::{
    convert::Infallible,
    future::{Pending, Ready, pending, ready},
    pin::pin,
    process::ExitCode,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{runtime, time::advance};

#[global_allocator]
static ALLOC: CountingAllocator<TrackingAllocator> =
    CountingAllocator::new(TrackingAllocator::system());

const MS: Duration = Duration::from_millis(1);

type Number = Result<u64, Infallible>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The allocator counts for the whole process, so nothing may run beside a test.
    arguments.test_threads = Some(1);
    let mut trials = trials_in(Mode::Off);
    trials.extend(trials_in(Mode::Precise));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trials_in(mode: Mode) -> Vec<Trial> {
    vec![
        trial(mode, "ready_call_allocates_one_box", ready_call),
        trial(
            mode,
            "ready_call_with_every_limit_allocates_one_box",
            every_limit,
        ),
        trial(
            mode,
            "ready_call_at_the_cap_of_the_history_allocates_one_box",
            at_cap,
        ),
        trial(mode, "ready_call_by_name_allocates_one_box", by_name),
        trial(
            mode,
            "call_that_waits_and_is_pending_allocates_one_box",
            waits,
        ),
        trial(
            mode,
            "call_to_a_service_that_is_not_ready_allocates_nothing_when_polled_again",
            not_ready,
        ),
        trial(mode, "line_that_comes_and_goes_allocates_nothing", line),
        trial(mode, "changed_limits_leave_nothing", changed),
        trial(mode, "open_circuit_allocates_one_box", open),
        trial(mode, "calls_of_every_kind_leave_nothing", leave_nothing),
        trial(
            mode,
            "adapters_that_came_and_went_leave_nothing",
            came_and_went,
        ),
    ]
}

fn trial<F>(mode: Mode, name: &str, test: fn() -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    let weighed = match mode {
        Mode::Off => "",
        _ => "weighed_",
    };
    Trial::test(format!("{weighed}{name}"), move || {
        set_mode(mode);
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

fn builder(history: HistoryConfig) -> AdapterBuilder {
    let circuit = CircuitBreakerConfig::new().failure_rate(None);
    Adapter::builder("memory").circuit_breaker(circuit.history(history))
}

fn double(n: u64) -> Ready<Number> {
    ready(Ok(2 * n))
}

fn never(_: u64) -> Pending<Number> {
    pending()
}

fn poll<F: Future + Unpin>(call: &mut F) -> Poll<F::Output> {
    pin!(call).poll(&mut Context::from_waker(Waker::noop()))
}

/// How often `work` asks for memory.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOC.allocations();
    work();
    ALLOC.allocations() - before
}

fn assert_one_each(adapter: &Adapter<u64, u64>) {
    // Those who weigh it are made by the first.
    assert!(poll(&mut adapter.call(0)).is_ready());
    let made = allocations(|| {
        for n in 0..1_000 {
            let Poll::Ready(Ok(answer)) = poll(&mut adapter.call(n)) else {
                panic!("it is ready");
            };
            assert_eq!(answer, 2 * n);
        }
    });
    assert_eq!(made, 1_000);
}

async fn ready_call() {
    let adapter = builder(HistoryConfig::disabled()).function(double).unwrap();
    assert_one_each(&adapter);
}

async fn every_limit() {
    let adapter = builder(HistoryConfig::disabled())
        .max_queued_bytes(1_000, |_: &u64| 8)
        .retry(RetryConfig::new(), |n: &u64| Some(*n))
        .function(double)
        .unwrap();
    assert_one_each(&adapter);
}

async fn at_cap() {
    let adapter = builder(HistoryConfig::local().calls(100)).function(double);
    let adapter = adapter.unwrap();
    for n in 0..1_000 {
        assert!(poll(&mut adapter.call(n)).is_ready());
    }
    assert_one_each(&adapter);
}

async fn by_name() {
    let adapter = builder(HistoryConfig::disabled()).function(double);
    let adapters = Adapters::new([adapter.unwrap()]).unwrap();
    assert!(adapters.call("memory", 0).await.is_ok());
    let made = allocations(|| {
        for n in 0..1_000 {
            let mut call = pin!(adapters.call("memory", n));
            assert!(poll(&mut call.as_mut()).is_ready());
        }
    });
    assert_eq!(made, 1_000);
}

async fn waits() {
    let adapter = builder(HistoryConfig::disabled()).max_in_flight(1);
    let adapter = adapter.function(never).unwrap();
    // The line has its places from the first who waits.
    let (mut running, mut waiting) = (adapter.call(0), adapter.call(0));
    assert!(poll(&mut running).is_pending() && poll(&mut waiting).is_pending());
    drop((running, waiting));
    let made = allocations(|| {
        let (mut running, mut waiting) = (adapter.call(0), adapter.call(0));
        assert!(poll(&mut running).is_pending());
        assert!(poll(&mut waiting).is_pending());
    });
    // The clock of the runtime has one for each timer that is waited for.
    let timers = allocations(|| {
        for _ in 0..2 {
            let mut sleep = pin!(tokio::time::sleep(Duration::from_secs(2)));
            assert!(poll(&mut sleep.as_mut()).is_pending());
        }
    });
    assert_eq!(made - timers, 2);
}

/// Is never ready.
#[derive(Clone)]
struct Unready;

impl tower::Service<u64> for Unready {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Number>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, n: u64) -> Self::Future {
        ready(Ok(n))
    }
}

async fn not_ready() {
    let adapter = builder(HistoryConfig::disabled()).service(Unready).unwrap();
    let mut call = adapter.call(0);
    assert!(poll(&mut call).is_pending());
    let made = allocations(|| (0..1_000).for_each(|_| assert!(poll(&mut call).is_pending())));
    assert_eq!(made, 0);
}

async fn line() {
    let adapter = builder(HistoryConfig::disabled()).max_in_flight(1);
    let adapter = adapter.function(never).unwrap();
    let fill = |calls: &mut [CallFuture<u64>]| {
        for call in calls.iter_mut() {
            *call = adapter.call(0);
            assert!(poll(call).is_pending());
        }
    };
    let mut calls: Vec<_> = (0..32).map(|_| adapter.call(0)).collect();
    fill(&mut calls);
    // One box for each call, and none for its place; each has its timer besides.
    let made = allocations(|| fill(&mut calls));
    let timers = allocations(|| {
        for _ in 0..32 {
            let mut sleep = pin!(tokio::time::sleep(Duration::from_secs(2)));
            assert!(poll(&mut sleep.as_mut()).is_pending());
        }
    });
    assert_eq!(made - timers, 32);
}

async fn changed() {
    let adapter = builder(HistoryConfig::disabled()).function(double).unwrap();
    let work = || async {
        for slots in [1, 9, 64] {
            let limits = adapter.config().max_in_flight(slots);
            adapter.reconfigure(limits).unwrap();
        }
        assert!(adapter.call(1).await.is_ok());
    };
    assert_live_bytes_return(&ALLOC, 100, 1_000, 0, work).await;
}

async fn open() {
    let adapter = builder(HistoryConfig::disabled()).function(double).unwrap();
    adapter.breaker().force_open();
    let made = allocations(|| {
        for _ in 0..1_000 {
            assert!(matches!(poll(&mut adapter.call(0)), Poll::Ready(Err(_))));
        }
    });
    assert_eq!(made, 1_000);
}

async fn leave_nothing() {
    let adapter = Adapter::builder("kinds")
        .circuit_breaker(
            CircuitBreakerConfig::new()
                .failure_rate(None)
                .history(HistoryConfig::local().calls(64)),
        )
        .max_in_flight(1)
        .max_queued(1)
        .function(|n: u64| async move {
            match n {
                0 => pending().await,
                1 => Err("no"),
                n => Ok(n),
            }
        })
        .unwrap();
    let work = || async {
        for n in 1..4 {
            let _ = adapter.call(n).await;
        }
        drop(adapter.call(0));
        let (mut running, mut waiting) = (adapter.call(0), adapter.call(0));
        let _ = (poll(&mut running), poll(&mut waiting));
        let _ = poll(&mut adapter.call(0));
        drop((running, waiting));
        assert!(adapter.call(0).await.is_err());
    };
    assert_live_bytes_return(&ALLOC, 1_000, 1_000, 0, work).await;
}

async fn came_and_went() {
    let adapter = |name: &'static str| {
        let circuit = CircuitBreakerConfig::new().history(HistoryConfig::disabled());
        let builder = Adapter::builder(name).circuit_breaker(circuit);
        builder.function(|n: u64| ready(Number::Ok(n))).unwrap()
    };
    let adapters = Adapters::new([adapter("stays")]).unwrap();
    let work = || async {
        adapters.add(adapter("goes")).unwrap();
        adapters.call_all(1, Some(MS)).await;
        adapters.replace(adapter("goes"));
        adapters.remove("goes");
        let other = Adapters::new(adapters.list()).unwrap();
        assert_eq!(other.call_many(["stays"], 1, None).await.len(), 1);
    };
    assert_live_bytes_return(&ALLOC, 100, 1_000, 0, work).await;
}
