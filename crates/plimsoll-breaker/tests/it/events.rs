//! Observers and the stream of events.

use crate::common::{Play, SECOND, breaker, drain, moves, of_calls, plain, record};
use plimsoll_breaker::{
    CircuitBreaker, Event, EventKind, Observer, Outcome, Reason, State, event::Received,
};
use std::{
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready, task};

/// Remembers what it was told.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<EventKind>>>);

impl Observer for Log {
    fn on_event(&self, event: &Event) {
        self.0.lock().unwrap().push(event.kind);
    }
}

impl Log {
    fn moves(&self) -> Vec<(State, State, Reason)> {
        moves(&self.0.lock().unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn observers_are_told_of_transitions_in_order() {
    let mut play = Play::new(of_calls(2).probes(1));
    let logs = [Log::default(), Log::default()];
    for log in &logs {
        play.breaker.observe(log.clone()).unwrap();
    }
    play.run("E E +5s S force close disable metrics close")
        .await;
    let expected = [
        (State::Closed, State::Open, Reason::FailureRate),
        (State::Open, State::HalfOpen, Reason::WaitElapsed),
        (State::HalfOpen, State::Closed, Reason::ProbesSucceeded),
        (State::Closed, State::ForcedOpen, Reason::Manual),
        (State::ForcedOpen, State::Closed, Reason::Manual),
        (State::Closed, State::Disabled, Reason::Manual),
        (State::Disabled, State::MetricsOnly, Reason::Manual),
        (State::MetricsOnly, State::Closed, Reason::Manual),
    ];
    for log in logs {
        assert_eq!(log.moves(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn event_says_which_breaker_and_what_it_knew() {
    let breaker = CircuitBreaker::new("orders", of_calls(2)).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    let observer = move |event: &Event| log.lock().unwrap().push(event.clone());
    breaker.observe(observer).unwrap();
    record(&breaker, 2, Outcome::Failure);
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].breaker.as_str(), "orders");
    assert_eq!(told[0].key, None);
    let EventKind::Transition(transition) = told[0].kind else {
        panic!("{:?}", told[0]);
    };
    assert_eq!(transition.evidence, breaker.transitions()[0].evidence);
    assert_eq!(transition.evidence.failures, 2);
}

#[tokio::test(start_paused = true)]
async fn observer_may_change_the_breaker() {
    let breaker = breaker(of_calls(1));
    let (before, after) = (Log::default(), Log::default());
    breaker.observe(before.clone()).unwrap();
    let told = breaker.clone();
    breaker
        .observe(move |_: &Event| {
            // Everything that takes a lock, and what tells of another event meanwhile.
            let snapshot = told.snapshot();
            assert_eq!(told.calls(&plimsoll_breaker::CallsQuery::new()).matching, 1);
            assert!(!told.transitions().is_empty());
            let _ = told.cleanup();
            let _ = told.events();
            let _ = told.try_acquire();
            if snapshot.state == State::Open {
                told.force_open();
            }
        })
        .unwrap();
    breaker.observe(after.clone()).unwrap();
    record(&breaker, 1, Outcome::Failure);
    assert_eq!(breaker.state(), State::ForcedOpen);
    let expected = [
        (State::Closed, State::Open, Reason::FailureRate),
        (State::Open, State::ForcedOpen, Reason::Manual),
    ];
    // Those after it are told in the same order, for one event is told at a time.
    assert_eq!(before.moves(), expected);
    assert_eq!(after.moves(), expected);
}

#[tokio::test(start_paused = true)]
async fn observer_that_panics_hinders_nobody() {
    let breaker = breaker(of_calls(1));
    let (before, after) = (Log::default(), Log::default());
    let panics = Arc::new(AtomicUsize::new(0));
    let count = panics.clone();
    breaker.observe(before.clone()).unwrap();
    breaker
        .observe(move |_: &Event| {
            count.fetch_add(1, Relaxed);
            panic!("in an observer");
        })
        .unwrap();
    breaker.observe(after.clone()).unwrap();
    let mut events = breaker.events();
    record(&breaker, 1, Outcome::Failure);
    breaker.close();
    record(&breaker, 1, Outcome::Failure);
    assert_eq!(panics.load(Relaxed), 3, "it is told of the next event, too");
    assert_eq!(before.moves().len(), 3);
    assert_eq!(after.moves().len(), 3);
    assert_eq!(drain(&mut events).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn breaker_has_sixteen_observers_at_most() {
    let breaker = breaker(plain());
    let log = Log::default();
    for _ in 0..16 {
        breaker.observe(log.clone()).unwrap();
    }
    let error = breaker.observe(log.clone()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a circuit breaker has at most 16 observers; let one hand events on"
    );
    breaker.open().unwrap();
    assert_eq!(log.moves().len(), 16);
}

#[tokio::test(start_paused = true)]
async fn stream_has_the_events_since_it_was_asked_for() {
    let breaker = breaker(plain());
    breaker.force_open();
    let mut first = breaker.events();
    breaker.close();
    let mut second = breaker.events();
    breaker.disable();
    let closed = (State::ForcedOpen, State::Closed, Reason::Manual);
    let disabled = (State::Closed, State::Disabled, Reason::Manual);
    assert_eq!(moves(&drain(&mut first)), [closed, disabled]);
    assert_eq!(moves(&drain(&mut second)), [disabled]);
    // Waiting for the next is cancelled without a loss, and ends with the breaker.
    let mut next = task::spawn(async {
        let _ = first.next().await;
        first
    });
    assert_pending!(next.poll());
    breaker.close();
    assert!(next.is_woken());
    let mut first = assert_ready!(next.poll());
    let mut next = task::spawn(first.next());
    assert_pending!(next.poll());
    drop(next);
    breaker.disable();
    let received = first.next().await.unwrap();
    assert!(matches!(received, Received::Event(event) if moves(&[event.kind]) == [disabled]));
    drop(breaker);
    assert!(first.next().await.is_none());
    assert!(first.try_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn stream_that_is_not_read_loses_the_oldest_and_says_how_many() {
    let breaker = breaker(plain());
    let mut events = breaker.events();
    for _ in 0..50 {
        breaker.force_open();
        breaker.close();
    }
    let first = events.next().await;
    assert!(matches!(first, Some(Received::Missed(36))), "{first:?}");
    let rest = drain(&mut events);
    assert_eq!(rest.len(), 64);
    let last = (State::ForcedOpen, State::Closed, Reason::Manual);
    assert_eq!(moves(&rest).last(), Some(&last));
    // Told anew from then on.
    breaker.disable();
    assert_eq!(drain(&mut events).len(), 1);
    assert_eq!(breaker.snapshot().lost_events, 0, "observers lost none");
}

#[tokio::test(start_paused = true)]
async fn stream_that_is_read_by_polling_says_what_it_missed() {
    let breaker = breaker(plain());
    let mut events = breaker.events();
    for _ in 0..33 {
        breaker.force_open();
        breaker.close();
    }
    assert!(matches!(events.try_next(), Some(Received::Missed(2))));
    assert_eq!(drain(&mut events).len(), 64);
}

#[tokio::test(start_paused = true)]
async fn events_that_no_observer_was_told_of_are_counted() {
    let breaker = breaker(plain());
    let log = Log::default();
    let told = breaker.clone();
    let nested = AtomicUsize::new(0);
    breaker
        .observe(move |_: &Event| {
            // While one is told, the others wait: 64 at most.
            if nested.fetch_add(1, Relaxed) == 0 {
                for _ in 0..50 {
                    told.close();
                    told.force_open();
                }
            }
        })
        .unwrap();
    breaker.observe(log.clone()).unwrap();
    breaker.force_open();
    assert_eq!(breaker.snapshot().lost_events, 36);
    assert_eq!(log.moves().len(), 1 + 64);
    let last = (State::Closed, State::ForcedOpen, Reason::Manual);
    assert_eq!(log.moves().last(), Some(&last));
}

#[tokio::test(start_paused = true)]
async fn threshold_is_told_of_once_until_the_state_is_entered_again() {
    let mut play = Play::new(of_calls(2).slow_calls(SECOND, 100.0));
    let mut events = play.breaker.events();
    let told = |events: &mut _| -> Vec<Reason> {
        let kinds = drain(events).into_iter();
        let reasons = kinds.filter_map(|kind| match kind {
            EventKind::ThresholdReached { reason, evidence } => {
                assert_eq!(evidence.calls, 2);
                Some(reason)
            }
            _ => None,
        });
        reasons.collect()
    };
    for _ in 0..2 {
        play.run("metrics E").await;
        assert_eq!(told(&mut events), []);
        play.run("E").await;
        assert_eq!(told(&mut events), [Reason::FailureRate]);
        play.run("E E S S S S E E +1h E E").await;
        assert_eq!(told(&mut events), [], "told already");
        play.run("S2 S2").await;
        assert_eq!(told(&mut events), [Reason::SlowCallRate]);
        play.run("S2 S2 E E disable").await;
        assert_eq!(told(&mut events), []);
    }
}

#[tokio::test(start_paused = true)]
async fn reset_is_told_of_in_any_state() {
    let breaker = breaker(plain());
    let mut events = breaker.events();
    breaker.reset();
    assert_eq!(drain(&mut events), [EventKind::Reset]);
    breaker.open().unwrap();
    drain(&mut events);
    breaker.reset();
    let kinds = drain(&mut events);
    assert_eq!(kinds.len(), 2);
    let closed = (State::Open, State::Closed, Reason::Manual);
    assert_eq!(moves(&kinds[..1]), [closed]);
    assert_eq!(kinds[1], EventKind::Reset);
}

#[test]
fn events_of_many_threads_come_one_at_a_time_and_each_follows_from_the_last() {
    let breaker = breaker(of_calls(1));
    let (log, telling) = (Log::default(), Arc::new(AtomicUsize::new(0)));
    breaker
        .observe(move |_: &Event| {
            assert_eq!(telling.fetch_add(1, Relaxed), 0, "one at a time");
            thread::yield_now();
            telling.fetch_sub(1, Relaxed);
        })
        .unwrap();
    breaker.observe(log.clone()).unwrap();
    let barrier = Barrier::new(8);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                for _ in 0..200 {
                    breaker.force_open();
                    breaker.close();
                }
            });
        }
    });
    let moves = log.moves();
    let lost = breaker.snapshot().lost_events;
    let counted = crate::common::transitions(&breaker);
    assert_eq!(moves.len() as u64 + lost, counted);
    if lost == 0 {
        assert!(moves.windows(2).all(|pair| pair[0].1 == pair[1].0));
    }
    // However many were lost, the last is the last.
    assert_eq!(moves.last().unwrap().1, State::Closed);
}

#[tokio::test(start_paused = true)]
async fn waits_that_are_over_are_told_of_when_somebody_looks() {
    let breaker = breaker(plain());
    let log = Log::default();
    breaker.open().unwrap();
    breaker.observe(log.clone()).unwrap();
    advance(10 * SECOND).await;
    assert_eq!(log.moves(), []);
    assert_eq!(breaker.state(), State::HalfOpen);
    let waited = (State::Open, State::HalfOpen, Reason::WaitElapsed);
    assert_eq!(log.moves(), [waited]);
}
