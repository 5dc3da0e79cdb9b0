//! Breakers by key: how many there may be, who goes first, and what becomes of the others.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_breaker::{
    CircuitBreaker, CircuitBreakerConfig, Event, EventKind, HistoryConfig, KeyedBreakerLayer,
    KeyedBreakers, KeyedConfig, Outcome, Overflow, State,
};
use plimsoll_core::{
    BoxError, Holding, Rejected, RemovalReason, Removed, Step, Usage, test_util::assert_balanced,
};
use std::{
    collections::BTreeSet,
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt};

const SECOND: Duration = Duration::from_secs(1);
const BUDGET: usize = 1_000;

/// Opens after two failures in a row, for ten seconds.
fn config(max_keys: usize) -> KeyedConfig {
    let breaker = CircuitBreakerConfig::new()
        .consecutive_failures(2)
        .open_for(10 * SECOND)
        .jitter(0.0)
        .history(HistoryConfig::disabled());
    KeyedConfig::new().max_keys(max_keys).breaker(breaker)
}

fn keyed(config: KeyedConfig) -> KeyedBreakers {
    KeyedBreakers::new("tenants", config).unwrap()
}

fn keys(breakers: &KeyedBreakers) -> String {
    let list = breakers.list();
    let keys: BTreeSet<_> = list.iter().map(|breaker| breaker.key().unwrap()).collect();
    let keys: Vec<_> = keys.into_iter().map(|key| &**key).collect();
    assert_eq!(keys.len(), breakers.len());
    keys.join(" ")
}

fn record(breaker: &CircuitBreaker, outcome: Outcome) {
    breaker.try_acquire().unwrap().record(outcome);
}

/// Makes a key whose breaker has counted a call.
fn use_key(breakers: &KeyedBreakers, key: &str) -> CircuitBreaker {
    let breaker = breakers.get(key);
    record(&breaker, Outcome::Success);
    assert_eq!(breaker.key().map(|key| &**key), Some(key));
    breaker
}

fn usage(breakers: &KeyedBreakers) -> Usage {
    breakers.bounded().usage()
}

fn sweep(breakers: &KeyedBreakers) -> Step {
    breakers.bounded().sweep(Instant::now(), BUDGET)
}

fn removed(breakers: &KeyedBreakers) -> Removed {
    breakers.bounded().totals().removed
}

fn is_overflow(breakers: &KeyedBreakers, breaker: &CircuitBreaker) -> bool {
    assert_eq!(breaker.name(), breakers.name());
    breaker.key().is_none()
}

// === the bound ===

#[tokio::test(start_paused = true)]
async fn the_oldest_key_that_is_as_good_as_new_makes_room() {
    let breakers = keyed(config(3));
    for key in ["a", "b", "c", "d"] {
        let _ = breakers.get(key);
    }
    assert_eq!(keys(&breakers), "b c d");
    let _ = use_key(&breakers, "b");
    let _ = breakers.get("e");
    assert_eq!(keys(&breakers), "b d e", "b has something to forget");
    assert_eq!(breakers.overflowed(), 0);
    assert_eq!(removed(&breakers), Removed::of(RemovalReason::Capacity, 2));
    assert_balanced(&breakers);
}

// What went wrong: whoever looked for one that is as good as new took away from all the others that
// they had been asked for, so that the oldest went though it was in use.
#[tokio::test(start_paused = true)]
async fn a_closed_circuit_that_was_asked_for_has_a_second_chance() {
    let breakers = keyed(config(3));
    for key in ["a", "b", "c"] {
        let _ = use_key(&breakers, key);
    }
    let _ = breakers.get("a");
    let _ = use_key(&breakers, "d");
    assert_eq!(keys(&breakers), "a c d");
    let _ = breakers.get("c");
    let _ = use_key(&breakers, "e");
    assert!(keys(&breakers).contains('c'), "{}", keys(&breakers));
    assert_eq!(breakers.len(), 3);
    // Where all were asked for, one goes.
    for key in keys(&breakers).split(' ') {
        let _ = breakers.get(key);
    }
    let _ = use_key(&breakers, "f");
    assert_eq!(breakers.len(), 3);
    assert!(breakers.find("f").is_some());
    assert_eq!(breakers.overflowed(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_is_open_is_not_forgotten_before_its_wait_is_over() {
    for overflow in [Overflow::Shared, Overflow::Pass, Overflow::Reject] {
        let breakers = keyed(config(2).overflow(overflow));
        for key in ["a", "b"] {
            let breaker = breakers.get(key);
            record(&breaker, Outcome::Failure);
            record(&breaker, Outcome::Failure);
            assert_eq!(breaker.state(), State::Open);
        }
        for n in 1..=3 {
            let breaker = breakers.get("c");
            assert!(is_overflow(&breakers, &breaker));
            assert_eq!(breakers.overflowed(), n);
            match overflow {
                Overflow::Shared => {
                    let outcome = breaker
                        .try_acquire()
                        .map(|permit| permit.record(Outcome::Failure));
                    assert_eq!(outcome.is_ok(), n < 3, "they share one circuit");
                    assert_eq!(breakers.overflow().state() == State::Open, n >= 2);
                }
                Overflow::Pass => record(&breaker, Outcome::Failure),
                _ => assert_eq!(
                    breaker.try_acquire().unwrap_err().state(),
                    State::ForcedOpen
                ),
            }
        }
        assert!(breakers.find("c").is_none());
        advance(10 * SECOND - Duration::from_nanos(1)).await;
        assert!(is_overflow(&breakers, &breakers.get("c")), "{overflow:?}");
        assert_eq!(keys(&breakers), "a b");
        advance(Duration::from_nanos(1)).await;
        assert!(!is_overflow(&breakers, &breakers.get("c")), "{overflow:?}");
        assert_eq!(keys(&breakers), "b c");
        assert_eq!(breakers.overflowed(), 4);
        assert_balanced(&breakers);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_set_by_hand_or_probes_is_not_forgotten() {
    type Set = fn(&CircuitBreaker);
    let set: [(&str, Set); 4] = [
        ("forced", CircuitBreaker::force_open),
        ("disabled", CircuitBreaker::disable),
        ("metrics", CircuitBreaker::metrics_only),
        ("until told", |breaker| {
            breaker.open_for(Duration::MAX).unwrap();
        }),
    ];
    let breakers = keyed(config(5).idle(SECOND));
    for (key, set) in set {
        set(&breakers.get(key));
    }
    let probing = breakers.get("probing");
    probing.open_for(SECOND).unwrap();
    advance(SECOND).await;
    let probe = probing.try_acquire().unwrap();
    assert!(probe.is_probe());
    advance(3_600 * SECOND).await;
    assert!(is_overflow(&breakers, &breakers.get("other")));
    assert_eq!(sweep(&breakers).removed, Removed::NONE);
    assert_eq!(breakers.len(), 5);
    drop(probe);
    advance(SECOND).await;
    let _ = breakers.get("other");
    assert_eq!(keys(&breakers), "disabled forced metrics other until told");
    for key in ["disabled", "forced", "metrics", "until told"] {
        assert!(breakers.remove(key), "by hand, everything goes");
    }
}

#[tokio::test(start_paused = true)]
async fn there_is_a_place_a_second_after_there_was_none() {
    let breakers = keyed(config(1));
    let only = breakers.get("a");
    only.force_open();
    assert!(is_overflow(&breakers, &breakers.get("b")));
    only.close();
    assert!(
        is_overflow(&breakers, &breakers.get("b")),
        "nobody looks again so soon"
    );
    advance(SECOND).await;
    assert!(!is_overflow(&breakers, &breakers.get("b")));
    // A key that is removed makes room at once.
    breakers.get("b").force_open();
    assert!(is_overflow(&breakers, &breakers.get("c")));
    assert!(breakers.remove("b") && !breakers.remove("b"));
    assert!(!is_overflow(&breakers, &breakers.get("c")));
    assert_balanced(&breakers);
}

#[test]
fn a_flood_of_keys_stays_within_the_bound() {
    let breakers = keyed(config(1_000));
    let mut most = 0;
    for key in 0..1_000_000 {
        let breaker = breakers.get(&key.to_string());
        assert!(breaker.key().is_some());
        if key % 50_000 == 0 {
            assert!(breakers.len() <= 1_000);
            most = most.max(usage(&breakers).bytes);
        }
    }
    assert_eq!(breakers.len(), 1_000);
    let usage = usage(&breakers);
    assert_eq!((usage.entries, usage.max_entries), (1_000, Some(1_000)));
    assert!(most <= 1_600_000, "{most} bytes");
    assert_eq!(breakers.overflowed(), 0);
    assert_eq!(removed(&breakers).get(RemovalReason::Capacity), 999_000);
    assert_balanced(&breakers);
}

#[test]
fn a_key_that_is_too_long_finds_no_place() {
    let breakers = keyed(config(10).max_key_bytes(4));
    assert!(!is_overflow(&breakers, &breakers.get("four")));
    assert!(!is_overflow(&breakers, &breakers.get("")));
    assert!(is_overflow(&breakers, &breakers.get("fives")));
    assert!(
        is_overflow(&breakers, &breakers.get("ÄÖÜ")),
        "bytes, not letters"
    );
    assert_eq!((breakers.len(), breakers.overflowed()), (2, 2));
    assert!(breakers.find("fives").is_none());
}

#[test]
fn values_out_of_range_are_refused() {
    let wrong = [
        config(0),
        config(1_000_001),
        config(1).idle(Duration::from_millis(999)),
        config(1).idle(8 * 86_400 * SECOND),
        config(1).max_key_bytes(0),
        config(1).max_key_bytes(65_537),
        config(1).breaker(CircuitBreakerConfig::new().probes(0)),
    ];
    for config in wrong {
        let error = KeyedBreakers::new("tenants", config).unwrap_err();
        assert_eq!(error.problems().len(), 1, "{error}");
    }
}

// === idle keys ===

#[tokio::test(start_paused = true)]
async fn keys_that_were_idle_are_forgotten_and_others_are_not() {
    let breakers = keyed(config(10).idle(60 * SECOND));
    for key in ["idle", "used", "late"] {
        let _ = use_key(&breakers, key);
    }
    let _ = breakers.get("new");
    breakers.get("open").open_for(90 * SECOND).unwrap();
    advance(59 * SECOND).await;
    assert_eq!(sweep(&breakers).removed, Removed::NONE);
    let _ = breakers.get("used");
    let swept = sweep(&breakers);
    assert_eq!(swept.removed, Removed::NONE);
    assert_eq!(swept, Step::at(Removed::NONE, Instant::now() + 30 * SECOND));
    // The look at it counts as the time when it was asked for.
    advance(SECOND).await;
    assert_eq!(sweep(&breakers).removed, Removed::expired(3));
    assert_eq!(keys(&breakers), "open used");
    advance(30 * SECOND).await;
    assert_eq!(
        sweep(&breakers).removed,
        Removed::expired(1),
        "the wait is over"
    );
    assert_eq!(keys(&breakers), "used");
    advance(28 * SECOND).await;
    assert_eq!(sweep(&breakers).removed, Removed::NONE);
    advance(SECOND).await;
    assert_eq!(sweep(&breakers).removed, Removed::expired(1));
    assert!(breakers.is_empty());
    assert_eq!(removed(&breakers), Removed::expired(5));
    assert_balanced(&breakers);
}

#[tokio::test(start_paused = true)]
async fn a_sweep_goes_on_where_it_was() {
    let breakers = keyed(config(100).idle(60 * SECOND));
    for key in 0..25 {
        let _ = breakers.get(&key.to_string());
    }
    advance(60 * SECOND).await;
    let _ = breakers.get("7");
    let bounded = breakers.bounded();
    let now = Instant::now();
    assert_eq!(bounded.sweep(now, 10), Step::more(Removed::expired(9)));
    assert_eq!(bounded.sweep(now, 10), Step::more(Removed::expired(10)));
    let last = bounded.sweep(now, 10);
    assert_eq!(last.removed, Removed::expired(5));
    assert_eq!(keys(&breakers), "7");
    assert_balanced(&breakers);
}

#[tokio::test(start_paused = true)]
async fn a_sweep_drops_records_that_are_too_old() {
    let history = HistoryConfig::local().retention(60 * SECOND);
    let breaker = CircuitBreakerConfig::new().history(history);
    let breakers = keyed(config(10).breaker(breaker).idle(3_600 * SECOND));
    let breaker = use_key(&breakers, "a");
    assert_eq!(breaker.history_usage().calls, 1);
    advance(61 * SECOND).await;
    let _ = sweep(&breakers);
    assert_eq!(breaker.history_usage().calls, 0);
    assert_eq!(breakers.len(), 1);
}

// === what a key takes with it ===

#[tokio::test(start_paused = true)]
async fn a_call_in_flight_outlives_its_key_and_decides_nothing() {
    let breakers = keyed(config(10));
    let old = breakers.get("a");
    record(&old, Outcome::Failure);
    let call = old.try_acquire().unwrap();
    assert!(breakers.remove("a"));
    assert!(breakers.find("a").is_none());
    let new = breakers.get("a");
    record(&new, Outcome::Failure);
    call.record(Outcome::Failure);
    assert_eq!((old.state(), new.state()), (State::Open, State::Closed));
    assert_eq!(new.snapshot().totals.failures, 1);
    assert_balanced(&breakers);
}

#[test]
fn a_call_in_flight_keeps_its_key_from_being_as_good_as_new() {
    let breakers = keyed(config(2));
    let call = breakers.get("a").try_acquire().unwrap();
    let _ = breakers.get("b");
    let _ = breakers.get("c");
    assert_eq!(keys(&breakers), "a c");
    drop(call);
}

#[test]
fn keys_are_counted_in_bytes() {
    let bytes = |key: &str| {
        let breakers = keyed(config(10).max_key_bytes(4_096));
        let _ = breakers.get(key);
        usage(&breakers).bytes
    };
    assert_eq!(bytes(&"long".repeat(1_000)), bytes("shortest") + 4_000 - 8);
}

#[test]
fn bytes_go_back_when_keys_go() {
    let breakers = keyed(config(100));
    let empty = usage(&breakers).bytes;
    for round in 0..20 {
        for key in 0..100 {
            let _ = breakers.get(&format!("{round} {key}"));
        }
    }
    assert!(usage(&breakers).bytes > empty + 100 * 1_000);
    for breaker in breakers.list() {
        assert!(breakers.remove(breaker.key().unwrap()));
    }
    while sweep(&breakers).next == plimsoll_core::Next::More {}
    let left = usage(&breakers).bytes;
    assert!(
        left <= empty + 1_000,
        "{left} bytes for nothing, {empty} at first"
    );
    assert_balanced(&breakers);
}

// === the end, and pressure ===

#[tokio::test(start_paused = true)]
async fn closed_breakers_hold_nothing_and_keys_find_no_place() {
    let breakers = keyed(config(10));
    let held = use_key(&breakers, "a");
    breakers.get("b").force_open();
    let report = breakers.bounded().close(Instant::now()).await;
    assert_eq!(report.dropped, 2);
    assert!(breakers.is_empty() && breakers.list().is_empty());
    assert!(breakers.find("a").is_none());
    assert!(is_overflow(&breakers, &breakers.get("a")));
    record(&held, Outcome::Success);
    assert_eq!(removed(&breakers), Removed::of(RemovalReason::Closed, 2));
    let again = breakers.bounded().close(Instant::now()).await;
    assert_eq!(again.dropped, 0);
    let _ = sweep(&breakers);
    assert!(!breakers.remove("a"));
    assert_balanced(&breakers);
}

#[tokio::test(start_paused = true)]
async fn under_pressure_what_would_not_be_missed_goes() {
    let breakers = keyed(config(10));
    for key in ["a", "b", "c", "d"] {
        let _ = breakers.get(key);
    }
    let _ = use_key(&breakers, "a");
    breakers.get("b").force_open();
    let bounded = breakers.bounded();
    let step = bounded.shrink(0.5, BUDGET);
    assert_eq!(step.removed, Removed::of(RemovalReason::Pressure, 2));
    assert_eq!(keys(&breakers), "a b");
    let step = bounded.shrink(1.0, BUDGET);
    assert_eq!(step.removed, Removed::of(RemovalReason::Pressure, 1));
    assert_eq!(keys(&breakers), "b");
    assert_eq!(bounded.shrink(1.0, BUDGET).removed, Removed::NONE);
    let _ = breakers.get("e");
    assert_eq!(bounded.shrink(0.0, BUDGET).removed, Removed::NONE);
    assert_eq!(keys(&breakers), "b e");
    assert_balanced(&breakers);
}

// === threads and observers ===

#[test]
fn threads_that_ask_for_a_new_key_at_once_get_one_breaker() {
    for round in 0..50 {
        let breakers = keyed(config(10));
        let barrier = Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    breakers
                        .get("a")
                        .try_acquire()
                        .unwrap()
                        .record(Outcome::Ignore);
                });
            }
        });
        assert_eq!(breakers.len(), 1);
        assert_eq!(
            breakers.get("a").snapshot().totals.ignored,
            4,
            "round {round}"
        );
        assert_eq!(breakers.bounded().totals().inserted, 1);
    }
}

#[test]
fn threads_that_come_and_go_leave_the_books_in_order() {
    let breakers = keyed(config(8).idle(SECOND));
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let breakers = &breakers;
            scope.spawn(move || {
                for n in 0..2_000 {
                    let key = (n * 7 + thread * 3) % 24;
                    let breaker = breakers.get(&key.to_string());
                    if let Ok(permit) = breaker.try_acquire() {
                        let failed = n % 3 == 0;
                        permit.record(if failed {
                            Outcome::Failure
                        } else {
                            Outcome::Success
                        });
                    }
                    match n % 97 {
                        0 => drop(breakers.remove(&key.to_string())),
                        1 => drop(breakers.list()),
                        2 => assert!(usage(breakers).entries <= 8),
                        3 => drop(breakers.bounded().shrink(0.2, BUDGET).removed),
                        4 => drop(breakers.bounded().sweep(Instant::now(), 5).removed),
                        _ => {}
                    }
                }
            });
        }
    });
    assert!(breakers.len() <= 8);
    assert_eq!(breakers.list().len(), breakers.len());
    assert_balanced(&breakers);
}

fn moves(heard: &Mutex<Vec<Event>>) -> Vec<(Option<String>, State)> {
    let heard = heard.lock().unwrap();
    let moves = heard.iter().filter_map(|event| match event.kind {
        EventKind::Transition(moved) => Some((event.key.as_deref().map(str::to_owned), moved.to)),
        _ => None,
    });
    moves.collect()
}

#[test]
fn observers_hear_of_every_key_made_before_or_after() {
    let breakers = keyed(config(10));
    let before = breakers.get("before");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let heard_too = heard.clone();
    let observed =
        breakers.observe(move |event: &Event| heard_too.lock().unwrap().push(event.clone()));
    observed.unwrap();
    before.force_open();
    breakers.get("after").disable();
    breakers.overflow().metrics_only();
    let key = |key: &str| Some(key.to_owned());
    let expected = [
        (key("before"), State::ForcedOpen),
        (key("after"), State::Disabled),
        (None, State::MetricsOnly),
    ];
    assert_eq!(moves(&heard), expected);
    for _ in 1..16 {
        breakers.observe(|_: &Event| ()).unwrap();
    }
    breakers.observe(|_: &Event| ()).unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_use_the_breakers() {
    let breakers = keyed(config(2).idle(SECOND));
    let called = Arc::new(AtomicUsize::new(0));
    let (theirs, count) = (breakers.clone(), called.clone());
    let observed = breakers.observe(move |event: &Event| {
        count.fetch_add(1, SeqCst);
        let key = event.key.as_deref().unwrap_or("none");
        let _ = theirs.find(key);
        let _ = (theirs.len(), theirs.list().len(), theirs.overflowed());
        let _ = theirs.get("made by an observer");
        let _ = theirs.remove("made by an observer");
        let _ = theirs.bounded().usage();
        let _ = theirs.bounded().sweep(Instant::now(), BUDGET);
        let _ = theirs.bounded().shrink(0.1, BUDGET);
    });
    observed.unwrap();
    let breaker = breakers.get("a");
    record(&breaker, Outcome::Failure);
    record(&breaker, Outcome::Failure);
    assert_eq!(called.load(SeqCst), 1);
    advance(10 * SECOND).await;
    assert_eq!(breaker.state(), State::HalfOpen);
    assert_eq!(called.load(SeqCst), 2);
    for key in ["b", "c", "d"] {
        breakers.get(key).force_open();
    }
    assert_balanced(&breakers);
}

/// Uses the breakers when it is dropped.
struct Leaving(KeyedBreakers);

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = self.0.len();
    }
}

// What went wrong: a breaker that was forgotten was dropped under the locks of the keys, with the
// observers that it alone had.
#[tokio::test(start_paused = true)]
async fn an_observer_that_goes_with_its_key_may_use_the_breakers() {
    let breakers = keyed(config(2).idle(SECOND));
    let watch = |key: &str| {
        let leaving = Leaving(breakers.clone());
        let observed = breakers.get(key).observe(move |_: &Event| {
            let _ = leaving.0.len();
        });
        observed.unwrap();
    };
    watch("a");
    watch("b");
    watch("c");
    assert_eq!(keys(&breakers), "b c");
    advance(SECOND).await;
    assert_eq!(sweep(&breakers).removed, Removed::expired(2));
    watch("d");
    assert_eq!(breakers.bounded().shrink(1.0, BUDGET).removed.total(), 1);
    watch("e");
    assert!(breakers.remove("e"));
    watch("f");
    breakers.bounded().close(Instant::now()).await;
    assert!(breakers.is_empty());
}

// === the layer ===

/// Counts calls and what it has reserved for calls that were not made yet.
#[derive(Debug, Default)]
struct Counts {
    calls: AtomicUsize,
    reserved: AtomicUsize,
    unready_calls: AtomicUsize,
}

#[derive(Debug)]
struct Inner {
    counts: Arc<Counts>,
    reserved: bool,
}

impl Clone for Inner {
    fn clone(&self) -> Self {
        Self {
            counts: self.counts.clone(),
            reserved: false,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.reserved {
            self.counts.reserved.fetch_sub(1, SeqCst);
        }
    }
}

impl Service<(&'static str, bool)> for Inner {
    type Response = ();
    type Error = BoxError;
    type Future = Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if !std::mem::replace(&mut self.reserved, true) {
            self.counts.reserved.fetch_add(1, SeqCst);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (_, ok): (&'static str, bool)) -> Self::Future {
        self.counts.calls.fetch_add(1, SeqCst);
        if std::mem::replace(&mut self.reserved, false) {
            self.counts.reserved.fetch_sub(1, SeqCst);
        } else {
            self.counts.unready_calls.fetch_add(1, SeqCst);
        }
        ready(if ok { Ok(()) } else { Err("down".into()) })
    }
}

fn key_of<'a>(request: &'a (&'static str, bool)) -> &'a str {
    request.0
}

#[tokio::test(start_paused = true)]
async fn the_layer_admits_by_key() {
    let breakers = keyed(config(10));
    let counts = Arc::new(Counts::default());
    let inner = Inner {
        counts: counts.clone(),
        reserved: false,
    };
    let mut service = KeyedBreakerLayer::new(breakers.clone(), key_of).layer(inner);
    for _ in 0..2 {
        service
            .ready()
            .await
            .unwrap()
            .call(("bad", false))
            .await
            .unwrap_err();
    }
    let calls = counts.calls.load(SeqCst);
    let mut other = service.clone();
    for service in [&mut service, &mut other] {
        let service = service.ready().await.unwrap();
        assert_eq!(counts.reserved.load(SeqCst), 1);
        let refused = service.call(("bad", true));
        assert_eq!(
            counts.reserved.load(SeqCst),
            0,
            "it is free before the answer is taken"
        );
        let error = refused.await.unwrap_err();
        assert_eq!(
            Rejected::find(&*error).unwrap().retry_after(),
            Some(10 * SECOND)
        );
        service
            .ready()
            .await
            .unwrap()
            .call(("good", true))
            .await
            .unwrap();
    }
    assert_eq!(counts.calls.load(SeqCst), calls + 2);
    assert_eq!(counts.unready_calls.load(SeqCst), 0);
    assert_eq!(counts.reserved.load(SeqCst), 0);
    assert_eq!(keys(&breakers), "bad good");
    assert_eq!(breakers.get("bad").snapshot().totals.rejected_open, 2);
    assert_eq!(breakers.get("good").snapshot().totals.successes, 2);
}

#[tokio::test]
async fn a_call_that_is_dropped_gives_its_permit_back() {
    let breakers = keyed(config(10));
    let inner = tower::service_fn(|_: (&'static str, bool)| {
        std::future::pending::<Result<(), Infallible>>()
    });
    let mut service = KeyedBreakerLayer::new(breakers.clone(), key_of).layer(inner);
    let call = service.ready().await.unwrap().call(("a", true));
    assert_eq!(breakers.get("a").in_flight(), 1);
    drop(call);
    assert_eq!(breakers.get("a").in_flight(), 0);
    assert_eq!(breakers.get("a").snapshot().totals.dropped, 1);
}

#[test]
#[should_panic(expected = "`poll_ready` must be ready before `call`")]
fn a_clone_is_not_ready() {
    let breakers = keyed(config(10));
    let inner = Inner {
        counts: Arc::default(),
        reserved: false,
    };
    let mut service = KeyedBreakerLayer::new(breakers, key_of).layer(inner);
    assert!(
        service
            .poll_ready(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    );
    drop(service.clone().call(("a", true)));
}
