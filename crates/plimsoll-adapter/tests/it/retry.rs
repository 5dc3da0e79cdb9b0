//! Calls that failed are tried again if they may be.

use crate::support::{Downstream, MS, SECOND, Text, assert_idle, builder};
use plimsoll_adapter::{Adapter, RetryConfig};
use plimsoll_breaker::{CircuitBreakerConfig, Outcome, State};
use plimsoll_core::BoxError;
use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task::spawn};

#[allow(clippy::ptr_arg, reason = "it is the request")]
fn reads(request: &String) -> Option<String> {
    request.starts_with("get").then(|| request.clone())
}

fn config() -> RetryConfig {
    RetryConfig::new().jitter(0.0).floor(1_000)
}

/// Fails so many times, and then answers.
fn failing(times: u64, config: RetryConfig) -> (Adapter<String, String>, Arc<AtomicU64>) {
    let attempts = Arc::new(AtomicU64::new(0));
    let counted = attempts.clone();
    let function = move |request: String| {
        let attempt = counted.fetch_add(1, SeqCst);
        async move {
            match attempt < times {
                true => Err(format!("attempt {attempt}").into()),
                false => Text::Ok(request),
            }
        }
    };
    let closed = CircuitBreakerConfig::new().failure_rate(None);
    let limits = builder().circuit_breaker(closed).retry(config, reads);
    (limits.function(function).unwrap(), attempts)
}

#[tokio::test(start_paused = true)]
async fn idempotent_request_is_tried_again_after_growing_waits() {
    let (adapter, attempts) = failing(2, config());
    let start = Instant::now();
    assert_eq!(adapter.call("get".into()).await.unwrap(), "get");
    assert_eq!(Instant::now().saturating_duration_since(start), 150 * MS);
    assert_eq!(attempts.load(SeqCst), 3);
    let snapshot = assert_idle(&adapter);
    assert_eq!(
        (snapshot.succeeded, snapshot.failed, snapshot.retries),
        (1, 0, 2)
    );
    assert_eq!(snapshot.breaker.totals.failures, 2);
}

#[tokio::test(start_paused = true)]
async fn other_requests_are_not() {
    let (adapter, attempts) = failing(1, config());
    adapter.call("put".into()).await.unwrap_err();
    assert_eq!(attempts.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn last_failure_is_returned_when_all_retries_fail() {
    let (adapter, attempts) = failing(100, config().retries(3));
    let error = adapter.call("get".into()).await.unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "attempt 3");
    assert_eq!(attempts.load(SeqCst), 4);
    assert_eq!(assert_idle(&adapter).failed, 1);
}

#[tokio::test(start_paused = true)]
async fn retries_are_within_the_budget() {
    let (adapter, attempts) = failing(u64::MAX, config().floor(0).percent(10.0));
    // Every call wants two, and together they have earned ten.
    for _ in 0..100 {
        adapter.call("get".into()).await.unwrap_err();
    }
    assert_eq!(attempts.load(SeqCst), 110);
    assert_eq!(adapter.snapshot().retries, 10);
}

#[tokio::test(start_paused = true)]
async fn call_that_waits_to_try_again_keeps_its_slot_and_gives_it_back_when_dropped() {
    let (adapter, _) = failing(1, config());
    let mut call = spawn(adapter.call("get".into()));
    assert_pending!(call.poll());
    let snapshot = adapter.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.breaker.in_flight), (1, 0));
    drop(call);
    assert_eq!(assert_idle(&adapter).cancelled, 1);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_the_whole_timeout() {
    let down = Downstream::default();
    let limits = builder().retry(config(), reads);
    let adapter = limits.function(down.function()).unwrap();
    let mut call = spawn(adapter.call("get".into()));
    assert_pending!(call.poll());
    advance(2 * SECOND).await;
    assert_pending!(call.poll());
    advance(50 * MS).await;
    assert_pending!(call.poll());
    advance(2 * SECOND - MS).await;
    assert_pending!(call.poll());
    assert_eq!(down.asked().len(), 2);
    // The first was given up.
    assert!(!down.answer(Ok(String::new())));
    down.answer(Ok("second".into()));
    assert_eq!(assert_ready_ok!(call.poll()), "second");
}

#[tokio::test(start_paused = true)]
async fn answer_that_was_judged_a_failure_is_tried_again_and_returned_when_that_was_the_last() {
    let judge = |_: Result<&String, &BoxError>, _: Duration| Outcome::Failure;
    let limits = builder().classify(judge).retry(config(), reads);
    let adapter = limits.function(|request: String| async { Text::Ok(request) });
    let adapter = adapter.unwrap();
    assert_eq!(adapter.call("get".into()).await.unwrap(), "get");
    let snapshot = assert_idle(&adapter);
    assert_eq!((snapshot.succeeded, snapshot.retries), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn answers_that_ask_for_none_are_not_tried_again() {
    for outcome in [Outcome::Ignore, Outcome::OpenFor(SECOND)] {
        let judge = move |_: Result<&String, &BoxError>, _: Duration| outcome;
        let limits = builder().classify(judge).retry(config(), reads);
        let function = |_: String| async { Text::Err("no".into()) };
        let adapter = limits.function(function).unwrap();
        adapter.call("get".into()).await.unwrap_err();
        assert_eq!(assert_idle(&adapter).retries, 0, "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn panic_is_not_tried_again() {
    let function = |_: String| async { panic!("always") };
    let limits = builder().retry(config(), reads);
    let adapter: Adapter<String, String> =
        limits.function::<_, _, _, _, BoxError>(function).unwrap();
    adapter.call("get".into()).await.unwrap_err();
    let snapshot = assert_idle(&adapter);
    assert_eq!((snapshot.panicked, snapshot.retries), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn circuit_that_opens_meanwhile_ends_with_what_the_service_said() {
    let attempts = Arc::new(AtomicU64::new(0));
    let counted = attempts.clone();
    let function = move |_: String| {
        counted.fetch_add(1, SeqCst);
        async { Text::Err("down".into()) }
    };
    let circuit = CircuitBreakerConfig::new().consecutive_failures(1);
    let limits = builder().circuit_breaker(circuit).retry(config(), reads);
    let adapter = limits.function(function).unwrap();
    let mut call = spawn(adapter.call("get".into()));
    assert_pending!(call.poll());
    assert_eq!(adapter.breaker().state(), State::Open);
    advance(50 * MS).await;
    let error = assert_ready_err!(call.poll());
    assert_eq!(error.source().unwrap().to_string(), "down");
    assert_eq!(attempts.load(SeqCst), 1);
    let snapshot = assert_idle(&adapter);
    assert_eq!((snapshot.failed, snapshot.rejected.total()), (1, 0));
}
