//! One breaker and many readers, threads and stripes: who looks changes nothing, who counts is
//! counted once.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_breaker::{
    CircuitBreaker, CircuitBreakerConfig, Outcome, Permit, Reason, State, Window,
};
use std::time::Duration;
use tokio::time::advance;

const MS: Duration = Duration::from_millis(1);

fn breaker(config: CircuitBreakerConfig) -> CircuitBreaker {
    CircuitBreaker::new("orders", config.jitter(0.0)).unwrap()
}

fn acquire(breaker: &CircuitBreaker) -> Permit {
    breaker.try_acquire().unwrap()
}

fn record(breaker: &CircuitBreaker, outcome: Outcome) {
    acquire(breaker).record(outcome);
}

/// Two calls whose rate is at the threshold once the good one has left the window.
async fn with_a_rate_that_rises_by_itself(breaker: &CircuitBreaker) {
    record(breaker, Outcome::Success);
    advance(20 * MS).await;
    record(breaker, Outcome::Failure);
    advance(85 * MS).await;
}

// What went wrong: a reader that came when good calls had left the window judged what was left,
// and opened the circuit, though no call had said anything.
#[tokio::test(start_paused = true)]
async fn a_reader_opens_nothing() {
    let config = CircuitBreakerConfig::new()
        .window(Window::Time(100 * MS))
        .minimum_calls(1)
        .failure_rate(60.0);
    let breaker = breaker(config);
    with_a_rate_that_rises_by_itself(&breaker).await;
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.window.failure_rate, Some(100.0));
    assert_eq!(snapshot.state, State::Closed);
    assert_eq!(breaker.state(), State::Closed);
    record(&breaker, Outcome::Failure);
    assert_eq!(breaker.state(), State::Open, "the next result is judged");
}

// What went wrong: the same with metrics only. A reader began the time for which calls would be
// refused anew.
#[tokio::test(start_paused = true)]
async fn a_reader_refuses_nothing_in_the_shadow() {
    let config = CircuitBreakerConfig::new()
        .window(Window::Time(100 * MS))
        .minimum_calls(1)
        .failure_rate(60.0);
    let breaker = breaker(config);
    breaker.metrics_only();
    with_a_rate_that_rises_by_itself(&breaker).await;
    assert_eq!(breaker.snapshot().window.failure_rate, Some(100.0));
    let _call = acquire(&breaker);
    assert_eq!(breaker.snapshot().would_reject(), 0);
}

// What went wrong: some changes of the configuration judged the window at once, and others left
// it to the next call, by whether the stripes had to be told of them.
#[test]
fn a_new_threshold_is_for_the_next_result() {
    for minimum in [1, 3] {
        let lenient = CircuitBreakerConfig::new()
            .minimum_calls(minimum)
            .failure_rate(100.0);
        let breaker = breaker(lenient.clone());
        record(&breaker, Outcome::Success);
        record(&breaker, Outcome::Failure);
        let strict = lenient.minimum_calls(1).failure_rate(10.0);
        breaker.reconfigure(strict).unwrap();
        assert_eq!(breaker.state(), State::Closed, "the state stays");
        record(&breaker, Outcome::Success);
        assert_eq!(breaker.state(), State::Open);
    }
}

// What went wrong: a reset did not notice a wait that was over, so that a generation was missing.
#[tokio::test(start_paused = true)]
async fn a_reset_comes_after_what_was_due() {
    let breaker = breaker(CircuitBreakerConfig::new().probes(1).probe_lease(MS));
    breaker.open_for(MS).unwrap();
    advance(MS).await;
    breaker.reset();
    let moves = breaker.transitions();
    let moves: Vec<_> = moves
        .iter()
        .rev()
        .map(|moved| (moved.to, moved.reason))
        .collect();
    let expected = [
        (State::Open, Reason::Manual),
        (State::HalfOpen, Reason::WaitElapsed),
        (State::Closed, Reason::Manual),
    ];
    assert_eq!(moves, expected);
}

// What went wrong: the evidence held calls that had left the window.
#[tokio::test(start_paused = true)]
async fn overdue_calls_open_with_the_evidence_of_now() {
    let config = CircuitBreakerConfig::new()
        .window(Window::Time(10 * MS))
        .minimum_calls(1)
        .overdue_calls(8 * MS, 1);
    let breaker = breaker(config);
    record(&breaker, Outcome::Success);
    let _hangs = acquire(&breaker);
    advance(10 * MS).await;
    assert_eq!(breaker.state(), State::Open);
    let opened = breaker.transitions()[0];
    assert_eq!(opened.reason, Reason::OverdueCalls);
    assert_eq!(opened.evidence.calls, 0);
}

// What went wrong: with metrics only, overdue calls counted for nothing.
#[tokio::test(start_paused = true)]
async fn overdue_calls_would_have_calls_refused_in_the_shadow() {
    let config = CircuitBreakerConfig::new()
        .overdue_calls(8 * MS, 1)
        .open_for(5 * MS);
    let breaker = breaker(config);
    breaker.metrics_only();
    let hangs = acquire(&breaker);
    advance(10 * MS).await;
    let _call = acquire(&breaker);
    assert_eq!(breaker.snapshot().would_reject(), 1);
    drop(hangs);
    advance(5 * MS).await;
    let _later = acquire(&breaker);
    assert_eq!(breaker.snapshot().would_reject(), 1, "that is over");
}

// What went wrong: a call that had begun before overdue calls were counted was taken out of those
// that are when it ended, in place of one that hangs.
#[tokio::test(start_paused = true)]
async fn a_call_that_was_not_counted_is_not_taken_out() {
    let config = CircuitBreakerConfig::new();
    let breaker = breaker(config.clone());
    let earlier = acquire(&breaker);
    let config = config.jitter(0.0).overdue_calls(80 * MS, 1);
    breaker.reconfigure(config).unwrap();
    advance(MS).await;
    let hangs = acquire(&breaker);
    earlier.record(Outcome::Success);
    advance(90 * MS).await;
    assert_eq!(breaker.state(), State::Open);
    assert_eq!(breaker.snapshot().reason, Reason::OverdueCalls);
    drop(hangs);
}
