//! The races for a breaker, in every order.
//!
//! Locks and the atomics of a stripe are under the model checker. The clock stands still; where
//! time matters it is given. There are two stripes, whatever the machine has.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use crate::{
    CallsQuery, CircuitBreaker, CircuitBreakerConfig, CircuitBreakerLayer, HistoryConfig, OnOpen,
    Outcome, Permit, Reason, State, Window,
    breaker::{Member, Shared},
    stripe::End,
    waiters::Waiters,
};
use ::loom::{model::Builder, thread};
use plimsoll_core::{Clock, Name};
use std::{
    collections::BTreeSet,
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};
use tower::{Layer, Service, service_fn};

const MS: Duration = Duration::from_millis(1);
/// What the clock says, in ticks.
const NOW: u64 = 1_000_000_000;

/// Checks every order with a few switches of threads where none is needed.
fn check(preemptions: usize, test: impl Fn(&Clock) + Send + Sync + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let clock = runtime.block_on(async {
        let clock = Clock::new();
        tokio::time::advance(Duration::from_nanos(NOW)).await;
        clock
    });
    // The clock asks the runtime that it was paused by.
    let _context = runtime.enter();
    let mut model = Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || test(&clock));
}

/// A breaker of two stripes.
fn breaker(clock: &Clock, config: &CircuitBreakerConfig) -> CircuitBreaker {
    let member = Member {
        clock: Some(clock.clone()),
        ..Member::default()
    };
    let breaker =
        CircuitBreaker::of_checked(Name::new("loom"), &config.clone().jitter(0.0), member);
    breaker.shared().grow();
    assert_eq!(breaker.shared().stripes().len(), 2);
    breaker
}

fn without_history() -> CircuitBreakerConfig {
    CircuitBreakerConfig::new().history(HistoryConfig::disabled())
}

fn acquire(breaker: &CircuitBreaker, stripe: usize, now: u64) -> Option<Permit> {
    let shared = breaker.shared();
    let stripe = &shared.stripes()[stripe];
    match stripe.pass() {
        Some(permit) => Some(permit),
        None => stripe.acquire(shared, now).ok(),
    }
}

/// Ends a call of the first generation that began with the clock.
fn settle(breaker: &Shared, stripe: usize, outcome: Outcome) {
    let stripe = &breaker.stripes()[stripe];
    stripe.settle(0, 0, NOW, NOW, End::Judged(outcome));
}

fn in_thread<T: 'static>(
    breaker: &CircuitBreaker,
    run: impl FnOnce(&CircuitBreaker) -> T + 'static,
) -> thread::JoinHandle<T> {
    let breaker = breaker.clone();
    thread::spawn(move || run(&breaker))
}

fn join(threads: [thread::JoinHandle<()>; 2]) {
    for thread in threads {
        thread.join().unwrap();
    }
}

// === permits ===

#[test]
fn at_the_deadline_no_more_probes_pass_than_may() {
    for probes in [1, 2] {
        check(3, move |clock| {
            let breaker = breaker(clock, &without_history().probes(probes));
            breaker.open_for(MS).unwrap();
            let due = NOW + 1_000_000;
            let threads =
                [0, 1].map(|stripe| in_thread(&breaker, move |b| acquire(b, stripe, due)));
            let mut admitted = vec![acquire(&breaker, 0, due)];
            admitted.extend(threads.map(|thread| thread.join().unwrap()));
            admitted.retain(Option::is_some);
            assert_eq!(admitted.len(), probes as usize);
            assert!(admitted.iter().flatten().all(Permit::is_probe));
            let view = breaker.shared().peek(super::machine::Machine::view);
            assert_eq!((view.state, view.generation), (State::HalfOpen, 2));
            assert_eq!((view.probes_in_flight, view.probes_free), (probes, 0));
            // A call that saw the old gate beside the new deadline is refused as by an open circuit.
            let refused = breaker.snapshot().totals.rejected();
            assert_eq!(refused, u64::from(3 - probes));
        });
    }
}

#[test]
fn the_place_of_a_dropped_probe_is_taken_once() {
    check(3, |clock| {
        let breaker = breaker(clock, &without_history().probes(1));
        breaker.open_for(Duration::ZERO).unwrap();
        let probe = acquire(&breaker, 1, NOW);
        assert!(probe.is_some());
        assert!(acquire(&breaker, 0, NOW).is_none());
        let dropping = thread::spawn(move || drop(probe));
        let other = in_thread(&breaker, |breaker| acquire(breaker, 1, NOW));
        let here = acquire(&breaker, 0, NOW);
        let there = other.join().unwrap();
        dropping.join().unwrap();
        assert!(here.is_none() || there.is_none());
        let later = acquire(&breaker, 0, NOW);
        assert_eq!(later.is_some(), here.is_none() && there.is_none());
    });
}

// === generations ===

#[test]
fn of_failures_at_the_threshold_exactly_one_opens() {
    check(4, |clock| {
        let config = without_history().consecutive_failures(2).minimum_calls(20);
        let breaker = breaker(clock, &config);
        let threads = [0, 1].map(|stripe| {
            in_thread(&breaker, move |b| {
                settle(b.shared(), stripe, Outcome::Failure);
            })
        });
        settle(breaker.shared(), 1, Outcome::Failure);
        join(threads);
        let snapshot = breaker.snapshot();
        assert_eq!((snapshot.state, snapshot.generation), (State::Open, 1));
        assert_eq!(snapshot.reason, Reason::ConsecutiveFailures);
        assert_eq!((snapshot.totals.failures, snapshot.totals.stale), (2, 1));
        assert_eq!(
            snapshot
                .transitions
                .iter()
                .map(|moved| moved.count)
                .sum::<u64>(),
            1
        );
    });
}

#[test]
fn a_call_that_ends_after_a_reset_decides_nothing() {
    for outcome in [Outcome::Failure, Outcome::Success] {
        check(4, move |clock| {
            let config = without_history().consecutive_failures(2).minimum_calls(20);
            let breaker = breaker(clock, &config);
            let threads = [0, 1]
                .map(|stripe| in_thread(&breaker, move |b| settle(b.shared(), stripe, outcome)));
            breaker.reset();
            join(threads);
            let snapshot = breaker.snapshot();
            assert_eq!(snapshot.state, State::Closed);
            assert_eq!(snapshot.window.calls, 0);
            assert_eq!(snapshot.consecutive_failures, 0);
            let totals = snapshot.totals;
            assert_eq!(totals.successes + totals.failures + totals.stale, 2);
        });
    }
}

#[test]
fn a_call_that_ends_after_the_circuit_opened_is_stale_in_the_next_generation() {
    check(3, |clock| {
        let config = without_history().consecutive_failures(1).probes(1);
        let breaker = breaker(clock, &config);
        let late = in_thread(&breaker, |b| settle(b.shared(), 1, Outcome::Success));
        let due = NOW + 30_000_000_000;
        let probing = in_thread(&breaker, move |b| acquire(b, 1, due));
        settle(breaker.shared(), 0, Outcome::Failure);
        late.join().unwrap();
        let probe = probing.join().unwrap();
        let view = breaker.shared().peek(super::machine::Machine::view);
        // Whatever the late call said, the circuit is half open if a probe passed, and waits.
        match probe.as_ref().filter(|permit| permit.is_probe()) {
            Some(_) => assert_eq!((view.state, view.probes_in_flight), (State::HalfOpen, 1)),
            None => assert_eq!(view.state, State::Open),
        }
        drop(probe);
        let totals = breaker.snapshot().totals;
        assert_eq!(totals.failures, 1);
        assert_eq!(
            totals.successes + totals.stale,
            1 + u64::from(totals.dropped == 0)
        );
    });
}

// === counts ===

#[test]
fn no_success_is_lost_or_counted_twice() {
    check(4, |clock| {
        let breaker = breaker(clock, &without_history().minimum_calls(20));
        let threads = [0, 1].map(|stripe| {
            in_thread(&breaker, move |b| {
                settle(b.shared(), stripe, Outcome::Success);
                settle(b.shared(), stripe, Outcome::Success);
            })
        });
        settle(breaker.shared(), 1, Outcome::Failure);
        join(threads);
        let snapshot = breaker.snapshot();
        assert_eq!((snapshot.window.calls, snapshot.window.failures), (5, 1));
        assert_eq!(
            (snapshot.totals.successes, snapshot.totals.failures),
            (4, 1)
        );
        assert_eq!(snapshot.totals.stale, 0);
    });
}

#[test]
fn a_success_that_completes_the_minimum_is_judged() {
    // Whichever comes last, three calls with a failure are at the threshold.
    check(4, |clock| {
        let config = without_history().minimum_calls(3).failure_rate(30.0);
        let breaker = breaker(clock, &config);
        let threads = [0, 1].map(|stripe| {
            in_thread(&breaker, move |b| {
                settle(b.shared(), stripe, Outcome::Success);
            })
        });
        settle(breaker.shared(), 0, Outcome::Failure);
        join(threads);
        let snapshot = breaker.snapshot();
        assert_eq!(
            (snapshot.state, snapshot.reason),
            (State::Open, Reason::FailureRate)
        );
        assert_eq!((snapshot.window.calls, snapshot.window.failures), (3, 1));
        assert_eq!(
            (snapshot.totals.successes, snapshot.totals.failures),
            (2, 1)
        );
        assert_eq!(snapshot.generation, 1);
    });
}

#[test]
fn a_success_is_counted_once_while_the_window_rolls() {
    check(4, |clock| {
        let config = without_history().window(Window::Time(10 * MS));
        let breaker = breaker(clock, &config);
        let threads = [0, 1].map(|stripe| {
            in_thread(&breaker, move |b| {
                settle(b.shared(), stripe, Outcome::Success);
            })
        });
        // Two buckets later.
        let shared = breaker.shared();
        let now = NOW + 2_000_000;
        shared.stripes()[0].settle(0, 0, NOW, now, End::Judged(Outcome::Failure));
        join(threads);
        let snapshot = breaker.snapshot();
        assert_eq!((snapshot.window.calls, snapshot.window.failures), (3, 1));
        assert_eq!(
            (snapshot.totals.successes, snapshot.totals.failures),
            (2, 1)
        );
    });
}

#[test]
fn a_refusal_is_counted_once() {
    check(3, |clock| {
        let breaker = breaker(clock, &without_history());
        breaker.force_open();
        let threads = [0, 1].map(|stripe| in_thread(&breaker, move |b| acquire(b, stripe, NOW)));
        assert_eq!(breaker.state(), State::ForcedOpen);
        for thread in threads {
            assert!(thread.join().unwrap().is_none());
        }
        assert_eq!(breaker.snapshot().totals.rejected_forced_open, 2);
    });
}

// === the history ===

/// Ends a good call that took so many nanoseconds and ended at a time told by that.
fn remember(breaker: &CircuitBreaker, stripe: usize, took: u64) {
    let ended = NOW - 64_000 + took * 64;
    let stripe = &breaker.shared().stripes()[stripe];
    stripe.settle(0, 0, ended - took, ended, End::Judged(Outcome::Success));
}

/// How long each call took that a reader sees, newest first. No call is seen twice.
fn remembered(breaker: &CircuitBreaker) -> Vec<u64> {
    let calls = breaker.calls(&CallsQuery::new());
    assert_eq!(calls.matching, calls.calls.len());
    let calls: Vec<_> = calls
        .calls
        .iter()
        .map(|call| call.duration.as_nanos() as u64)
        .collect();
    assert!(
        calls.is_sorted_by(|newer, older| newer > older),
        "{calls:?}"
    );
    calls
}

#[test]
fn no_record_is_lost_while_chunks_are_handed_over() {
    check(3, |clock| {
        // Chunks of two calls.
        let history = HistoryConfig::local().calls(32);
        let breaker = breaker(clock, &CircuitBreakerConfig::new().history(history));
        remember(&breaker, 0, 1);
        remember(&breaker, 1, 2);
        let threads = [0, 1].map(|stripe| {
            in_thread(&breaker, move |breaker| {
                remember(breaker, stripe, 3 + stripe as u64);
                remember(breaker, stripe, 5 + stripe as u64);
            })
        });
        let seen = remembered(&breaker);
        assert!(seen.ends_with(&[2, 1]), "{seen:?}");
        join(threads);
        assert_eq!(remembered(&breaker), [6, 5, 4, 3, 2, 1]);
    });
}

#[test]
fn a_full_history_keeps_the_newest_calls() {
    check(3, |clock| {
        // Chunks of one call.
        let history = HistoryConfig::local().calls(2);
        let breaker = breaker(clock, &CircuitBreakerConfig::new().history(history));
        remember(&breaker, 0, 1);
        remember(&breaker, 0, 2);
        remember(&breaker, 1, 3);
        let threads = [0, 1].map(|stripe| {
            in_thread(&breaker, move |breaker| {
                remember(breaker, stripe, 4 + stripe as u64);
                remember(breaker, stripe, 6 + stripe as u64);
            })
        });
        let seen = remembered(&breaker);
        assert!(seen.len() == 2 && seen[1] >= 2, "{seen:?}");
        join(threads);
        assert_eq!(remembered(&breaker), [7, 6]);
        assert_eq!(breaker.history_usage().calls, 2);
    });
}

#[test]
fn a_sweep_takes_what_is_too_old_and_nothing_else() {
    check(3, |clock| {
        let history = HistoryConfig::local().calls(32).retention(500 * MS);
        let breaker = breaker(clock, &CircuitBreakerConfig::new().history(history));
        for stripe in [0, 1] {
            let stripe = &breaker.shared().stripes()[stripe];
            stripe.settle(0, 0, 0, 100_000_000, End::Judged(Outcome::Success));
        }
        let sweeping = in_thread(&breaker, |breaker| breaker.cleanup().total());
        let writing = in_thread(&breaker, |breaker| {
            remember(breaker, 1, 1);
            remember(breaker, 1, 2);
        });
        let seen: BTreeSet<_> = remembered(&breaker).into_iter().collect();
        assert!(seen.is_subset(&BTreeSet::from([1, 2])), "{seen:?}");
        let swept = sweeping.join().unwrap();
        writing.join().unwrap();
        assert_eq!(remembered(&breaker), [2, 1]);
        assert_eq!(swept + breaker.cleanup().total(), 2);
        assert_eq!(breaker.history_usage().calls, 2);
    });
}

// === those who wait ===

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_change_wakes_whoever_did_not_see_it() {
    check(4, |clock| {
        let breaker = breaker(clock, &without_history());
        breaker.force_open();
        let inner = service_fn(|()| -> Ready<Result<(), Infallible>> { ready(Ok(())) });
        let layer = CircuitBreakerLayer::new(breaker.clone()).on_open(OnOpen::NotReady);
        let mut service = layer.layer(inner);
        // It is known that somebody waits: a lock that is made once is not under the model checker.
        let _waiters = breaker.shared().waiters();
        let closing = in_thread(&breaker, CircuitBreaker::close);
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(flag.clone());
        let polled = service.poll_ready(&mut Context::from_waker(&waker));
        closing.join().unwrap();
        assert!(polled.is_ready() || flag.0.load(Relaxed), "nobody wakes it");
        assert!(
            service
                .poll_ready(&mut Context::from_waker(&waker))
                .is_ready()
        );
    });
}

#[test]
fn every_waiter_is_woken_and_one_that_has_gone_is_not() {
    check(4, |_| {
        let waiters = Arc::new(Waiters::default());
        let (stays, goes) = (waiters.join(), waiters.join());
        let [stays_flag, goes_flag] = [(); 2].map(|()| Arc::new(Flag::default()));
        stays.listen(&Waker::from(stays_flag.clone()));
        goes.listen(&Waker::from(goes_flag.clone()));
        let going = thread::spawn(move || drop(goes));
        let waking = {
            let waiters = waiters.clone();
            thread::spawn(move || waiters.wake())
        };
        going.join().unwrap();
        waking.join().unwrap();
        assert!(stays_flag.0.load(Relaxed));
        goes_flag.0.store(false, Relaxed);
        stays_flag.0.store(false, Relaxed);
        waiters.wake();
        assert!(!goes_flag.0.load(Relaxed));
        assert!(!stays_flag.0.load(Relaxed), "it asked once");
    });
}
