//! The history: its caps, its age, its sweeps, and what readers see.

use crate::common::{
    HOUR, MINUTE, MS, NANOSECOND, Play, SECOND, breaker, of_calls, plain, record, seen,
};
use plimsoll_breaker::{
    CallOutcome, CallRecord, CallsQuery, CircuitBreaker, CircuitBreakerConfig, HistoryConfig,
    Outcome, Reason, State, Window,
};
use plimsoll_core::{
    Holding, Next, Registry, RegistryConfig, RemovalReason, test_util::assert_balanced,
};
use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, SystemTime},
};
use tokio::{
    runtime::Handle,
    time::{Instant, advance},
};

const MICROSECOND: Duration = Duration::from_micros(1);
/// What the time a call ended is exact to.
const EXACT: Duration = Duration::from_nanos(64);

/// A breaker that no failure opens, with this history.
fn remembering(history: HistoryConfig) -> CircuitBreaker {
    breaker(plain().failure_rate(None).history(history))
}

fn all(breaker: &CircuitBreaker) -> Vec<CallRecord> {
    let read = breaker.calls(&CallsQuery::new());
    assert_eq!(read.matching, read.calls.len());
    read.calls
}

/// Makes a call each microsecond. Every third fails.
async fn record_spaced(breaker: &CircuitBreaker, calls: usize) {
    for n in 0..calls {
        let outcome = match n % 3 {
            0 => Outcome::Failure,
            _ => Outcome::Success,
        };
        record(breaker, 1, outcome);
        advance(MICROSECOND).await;
    }
}

/// Asserts that the history shows the newest `calls` calls of [`record_spaced`].
fn assert_newest(breaker: &CircuitBreaker, calls: usize, context: &str) {
    let records = all(breaker);
    assert_eq!(records.len(), calls, "{context}");
    assert_eq!(breaker.history_usage().calls, calls as u64, "{context}");
    for (n, call) in records.iter().enumerate() {
        let age = (n as u32 + 1) * MICROSECOND;
        assert!(call.age >= age, "{context}: {n} is {:?} old", call.age);
        assert!(
            call.age < age + EXACT,
            "{context}: {n} is {:?} old",
            call.age
        );
    }
    assert_balanced(breaker);
}

#[tokio::test(start_paused = true)]
async fn exactly_the_newest_calls_up_to_the_cap_are_shown() {
    for cap in [1, 2, 5, 16, 31, 33, 100, 1_000] {
        let breaker = remembering(HistoryConfig::local().calls(cap));
        assert_newest(&breaker, 0, "new");
        for made in 1..=2 * cap + 70 {
            record_spaced(&breaker, 1).await;
            // Each, as long as that is quick.
            if cap <= 100 || made % 37 == 0 || made.abs_diff(cap) < 3 {
                let context = format!("{made} calls, cap {cap}");
                assert_newest(&breaker, made.min(cap), &context);
            }
        }
        assert_eq!(breaker.history_usage().max_calls, cap as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn cap_of_zero_is_none() {
    let history = HistoryConfig::local().calls(0).transitions(0);
    let breaker = remembering(history);
    record_spaced(&breaker, 20_000).await;
    assert_newest(&breaker, 20_000, "no cap");
    for _ in 0..2_000 {
        breaker.open().unwrap();
        breaker.close();
    }
    assert_eq!(breaker.transitions().len(), 4_000);
    let usage = breaker.history_usage();
    assert_eq!((usage.max_calls, usage.max_transitions), (0, 0));
    assert_eq!(breaker.bounded().usage().max_entries, None);
    assert_eq!(breaker.bounded().usage().entries, 24_000);
    assert_balanced(&breaker);
    // One without a cap is enough for there to be no limit.
    for history in [
        HistoryConfig::local().calls(0),
        HistoryConfig::local().transitions(0),
    ] {
        let usage = remembering(history).bounded().usage();
        assert_eq!(usage.max_entries, None);
    }
}

#[tokio::test(start_paused = true)]
async fn exactly_the_newest_transitions_up_to_the_cap_are_shown() {
    for cap in [1, 2, 3, 10, 100] {
        let breaker = remembering(HistoryConfig::local().transitions(cap));
        for made in 1..=2 * cap + 3 {
            match made % 2 {
                1 => breaker.force_open(),
                _ => breaker.close(),
            }
            advance(SECOND).await;
            let transitions = breaker.transitions();
            assert_eq!(transitions.len(), made.min(cap));
            for (n, transition) in transitions.iter().enumerate() {
                assert_eq!(transition.age, (n as u32 + 1) * SECOND);
            }
            let usage = breaker.history_usage();
            assert_eq!(usage.transitions, made.min(cap) as u64);
            assert_eq!(usage.max_transitions, cap as u64);
            assert_balanced(&breaker);
        }
    }
}

/// Threads that make a call each when they are told to, one after the other, on a paused clock.
#[tokio::test(start_paused = true)]
async fn newest_calls_are_shown_in_the_order_in_which_threads_took_turns() {
    const THREADS: usize = 6;
    for cap in [1, 5, 33, 100, 600] {
        let breaker = remembering(HistoryConfig::local().calls(cap));
        let runtime = Handle::current();
        let mut crew = Vec::new();
        for _ in 0..THREADS {
            let (work, orders) = std::sync::mpsc::sync_channel::<Option<Outcome>>(0);
            let (done, answers) = std::sync::mpsc::sync_channel(0);
            let (breaker, runtime) = (breaker.clone(), runtime.clone());
            let thread = thread::spawn(move || {
                let _entered = runtime.enter();
                while let Ok(order) = orders.recv() {
                    let permit = breaker.try_acquire().unwrap();
                    match order {
                        Some(outcome) => permit.record(outcome),
                        None => drop(permit),
                    }
                    done.send(()).unwrap();
                }
            });
            crew.push((work, answers, thread));
        }
        let mut expected = std::collections::VecDeque::new();
        let mut random = 7_u32;
        let mut next = move |below: usize| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) as usize % below
        };
        for round in 0..400 {
            // All take turns at first, so that they meet; then some are seldom heard of.
            let (thread, burst) = match round {
                0..200 => (round % THREADS, 1),
                _ => (next(THREADS).min(next(THREADS)), 1 + next(9)),
            };
            for _ in 0..burst {
                advance(MICROSECOND).await;
                let (order, outcome) = match next(4) {
                    0 => (Some(Outcome::Success), CallOutcome::Success),
                    1 => (Some(Outcome::Failure), CallOutcome::Failure),
                    2 => (Some(Outcome::Ignore), CallOutcome::Ignored),
                    _ => (None, CallOutcome::Dropped),
                };
                crew[thread].0.send(order).unwrap();
                crew[thread].1.recv().unwrap();
                expected.push_front(outcome);
                expected.truncate(cap);
            }
            let shown = all(&breaker);
            let outcomes: Vec<_> = shown.iter().map(|call| call.outcome).collect();
            assert_eq!(expected, outcomes, "cap {cap}, round {round}");
            assert_eq!(breaker.history_usage().calls, expected.len() as u64);
        }
        assert_balanced(&breaker);
        for (work, _, thread) in crew {
            drop(work);
            thread.join().unwrap();
        }
    }
}

/// Makes `calls` calls on each of so many threads at once, on the machine's own clock.
fn record_on_threads(breaker: &CircuitBreaker, threads: usize, calls: usize, outcome: Outcome) {
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                barrier.wait();
                record(breaker, calls, outcome);
            });
        }
    });
}

#[test]
fn newest_calls_are_shown_whichever_threads_made_them() {
    for cap in [1, 5, 33, 100, 1_000] {
        let breaker = remembering(HistoryConfig::local().calls(cap));
        record_on_threads(&breaker, 8, 500, Outcome::Success);
        assert_eq!(all(&breaker).len(), cap.min(4_000));
        assert_eq!(breaker.history_usage().calls, cap as u64);
        // Each thread leaves calls behind in what it was filling: they are older than these.
        for newer in 1..=cap + 1 {
            record(&breaker, 1, Outcome::Failure);
            if cap > 100 && newer % 50 != 0 && newer < cap {
                continue;
            }
            let records = all(&breaker);
            assert_eq!(records.len(), cap, "cap {cap}");
            let failed = |call: &CallRecord| call.outcome == CallOutcome::Failure;
            let newest = records.iter().take_while(|call| failed(call)).count();
            assert_eq!(newest, newer.min(cap), "cap {cap}");
            assert!(records.is_sorted_by_key(|call| call.age));
        }
        assert_balanced(&breaker);
        let totals = breaker.bounded().totals();
        assert_eq!(totals.inserted, 4_000 + cap as u64 + 1);
        let capacity = totals.removed.get(RemovalReason::Capacity);
        assert_eq!(capacity, totals.inserted - cap as u64);
    }
}

#[test]
fn readers_beside_writers_see_whole_histories_within_the_cap() {
    let cap = 200;
    let breaker = remembering(HistoryConfig::local().calls(cap));
    record(&breaker, cap, Outcome::Success);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| record(&breaker, 20_000, Outcome::Success)))
            .collect();
        scope.spawn(|| {
            while !done.load(Relaxed) {
                let records = all(&breaker);
                assert!(records.len() <= cap);
                assert!(records.is_sorted_by_key(|call| call.age));
                assert!(breaker.snapshot().history.calls <= cap as u64);
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Relaxed);
    });
    assert_eq!(all(&breaker).len(), cap);
    assert_eq!(breaker.snapshot().totals.successes, 80_200);
    assert_balanced(&breaker);
}

#[tokio::test(start_paused = true)]
async fn record_says_what_the_call_was() {
    let config = of_calls(10)
        .slow_calls(SECOND, 100.0)
        .dropped_fails_after(HOUR)
        .probes(3);
    let mut play = Play::new(config);
    let breaker = play.breaker.clone();
    // A call that ends after the others, when the breaker is another.
    let stale = breaker.try_acquire().unwrap();
    play.run("S0.25 E2 I0.5 A+ +3s release open half A+ +1s release +1ms S")
        .await;
    advance(MS).await;
    stale.record(Outcome::Failure);
    let calls = all(&breaker);
    let told: Vec<_> = (calls.iter())
        .map(|call| {
            (
                call.outcome,
                call.duration,
                call.slow,
                call.probe,
                call.stale,
            )
        })
        .collect();
    use CallOutcome::{Dropped, Failure, Ignored, Success};
    let long = Duration::from_millis(6_752);
    let expected = [
        (Failure, long, true, false, true),
        (Success, Duration::ZERO, false, true, false),
        (Dropped, SECOND, false, true, false),
        (Dropped, 3 * SECOND, true, false, false),
        (Ignored, SECOND / 2, false, false, false),
        (Failure, 2 * SECOND, true, false, false),
        (Success, SECOND / 4, false, false, false),
    ];
    assert_eq!(told.len(), expected.len());
    for ((outcome, took, slow, probe, stale), expected) in told.into_iter().zip(expected) {
        assert_eq!(
            (outcome, slow, probe, stale),
            (expected.0, expected.2, expected.3, expected.4)
        );
        // One part in 67 million above 134 ms.
        let off = expected.1.saturating_sub(took);
        assert!(took <= expected.1 && off < 200 * NANOSECOND, "{took:?}");
    }
    // All by the same look at the clock on the wall, which was just now.
    let read = calls[0].ended_at + calls[0].age;
    assert!(calls.iter().all(|call| call.ended_at + call.age == read));
    let off = SystemTime::now().duration_since(read);
    assert!(off.unwrap_or_else(|early| early.duration()) < HOUR);
}

#[tokio::test(start_paused = true)]
async fn durations_are_exact_while_they_are_short() {
    let breaker = remembering(HistoryConfig::local());
    for nanos in [0, 1, 63, 64, 999, 1_000_001, 134_217_727] {
        let permit = breaker.try_acquire().unwrap();
        advance(Duration::from_nanos(nanos)).await;
        permit.record(Outcome::Success);
        assert_eq!(all(&breaker)[0].duration.as_nanos(), u128::from(nanos));
    }
    for days in [1, 30, 365] {
        let day = Duration::from_secs(86_400);
        let permit = breaker.try_acquire().unwrap();
        advance(days * day).await;
        permit.record(Outcome::Success);
        let took = all(&breaker)[0].duration;
        assert!(
            took <= days * day && took >= days * day - days * 2 * MS,
            "{took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_are_too_old_are_not_shown_swept_or_not() {
    let history = HistoryConfig::local().retention(10 * SECOND);
    let breaker = remembering(history);
    for _ in 0..5 {
        record(&breaker, 1, Outcome::Success);
        match breaker.state() {
            State::Disabled => breaker.close(),
            _ => {
                breaker.disable();
                breaker.close();
            }
        }
        advance(3 * SECOND).await;
    }
    // They are 3, 6, 9, 12 and 15 seconds old.
    assert_eq!(all(&breaker).len(), 3);
    assert_eq!(breaker.transitions().len(), 6);
    assert!(all(&breaker).iter().all(|call| call.age <= 10 * SECOND));
    let oldest = breaker.transitions().last().unwrap().age;
    assert_eq!(oldest, 9 * SECOND);
    advance(HOUR).await;
    assert_eq!(all(&breaker).len(), 0);
    assert_eq!(breaker.transitions().len(), 0);
    assert_balanced(&breaker);
}

#[tokio::test(start_paused = true)]
async fn sweep_drops_what_is_too_old_and_says_when_to_come_again() {
    let history = HistoryConfig::local()
        .retention(10 * SECOND)
        .sweep_interval(MINUTE);
    let breaker = remembering(history);
    let bounded = breaker.bounded();
    assert_eq!(bounded.name(), "test");
    record_spaced(&breaker, 500).await;
    breaker.disable();
    breaker.close();
    advance(20 * SECOND).await;
    record_spaced(&breaker, 100).await;
    breaker.disable();
    breaker.close();
    assert_eq!(breaker.history_usage().last_sweep, None);
    assert_eq!(bounded.usage().entries, 604);
    let before = bounded.usage().bytes;
    let now = Instant::now();
    let step = bounded.sweep(now, 1_000);
    assert_eq!(step.removed.get(RemovalReason::Expired), 502);
    assert_eq!(step.removed.total(), 502);
    assert_eq!(step.next, Next::At(now + MINUTE));
    assert_eq!(bounded.usage().entries, 102);
    assert!(bounded.usage().bytes < before);
    assert_eq!(bounded.totals().removed, step.removed);
    assert_eq!(breaker.history_usage().last_sweep, Some(Duration::ZERO));
    assert_balanced(&breaker);
    // Again, or early, is harmless.
    let step = bounded.sweep(now, 1_000);
    assert_eq!(step.removed.total(), 0);
    assert_newest(&breaker, 100, "after a sweep");
    advance(20 * SECOND).await;
    assert_eq!(breaker.history_usage().last_sweep, Some(20 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn sweep_drops_exactly_what_is_too_old() {
    let history = HistoryConfig::local().retention(10 * SECOND);
    let breaker = remembering(history);
    for _ in 0..20 {
        record(&breaker, 1, Outcome::Success);
        breaker.disable();
        breaker.close();
        advance(SECOND).await;
    }
    let removed = breaker.cleanup();
    // Ten calls and twice as many transitions are 11 to 20 seconds old.
    assert_eq!(removed.get(RemovalReason::Expired), 30);
    assert_eq!(breaker.bounded().usage().entries, 30);
    assert_eq!(all(&breaker).len(), 10);
    assert_eq!(breaker.transitions().len(), 20);
    assert_balanced(&breaker);
}

#[tokio::test(start_paused = true)]
async fn history_goes_on_exactly_after_sweeps_in_the_midst_of_it() {
    let history = HistoryConfig::local()
        .calls(100)
        .retention(SECOND)
        .transitions(0);
    let breaker = remembering(history);
    let (mut made, mut removed) = (0, 0);
    for round in 0..200 {
        let context = format!("round {round}");
        let (old, young) = (1 + round * 7 % 45, 1 + round * 11 % 47);
        record_spaced(&breaker, old).await;
        advance(600 * MS).await;
        record_spaced(&breaker, young).await;
        advance(600 * MS).await;
        made += (old + young) as u64;
        removed += breaker.cleanup().get(RemovalReason::Expired);
        assert_eq!(all(&breaker).len(), young, "{context}");
        let usage = breaker.history_usage();
        assert_eq!(usage.calls, young as u64, "{context}");
        let totals = breaker.bounded().totals();
        assert_eq!(totals.inserted, made, "{context}");
        assert_eq!(totals.removed.get(RemovalReason::Expired), removed);
        assert_balanced(&breaker);
        for further in [1, 3, 50, 100] {
            record_spaced(&breaker, further).await;
            made += further as u64;
            assert_balanced(&breaker);
        }
        assert_newest(&breaker, 100, &context);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_over_the_cap_do_not_expire_again() {
    for cap in [1, 5, 100, 333] {
        let history = HistoryConfig::local().calls(cap).retention(SECOND);
        let breaker = remembering(history);
        record_spaced(&breaker, 1_000).await;
        advance(MINUTE).await;
        assert_eq!(breaker.cleanup().get(RemovalReason::Expired), cap as u64);
        let removed = breaker.bounded().totals().removed;
        assert_eq!(removed.get(RemovalReason::Capacity), 1_000 - cap as u64);
        assert_balanced(&breaker);
    }
}

#[tokio::test(start_paused = true)]
async fn sweep_goes_by_its_budget() {
    let history = HistoryConfig::local().retention(SECOND);
    let breaker = remembering(history);
    let bounded = breaker.bounded();
    record_spaced(&breaker, 5_000).await;
    for _ in 0..150 {
        breaker.disable();
        breaker.close();
    }
    advance(MINUTE).await;
    let (mut slices, mut removed) = (0, 0);
    loop {
        let step = bounded.sweep(Instant::now(), 100);
        slices += 1;
        // A chunk goes as a whole.
        assert!(step.removed.total() <= 200, "{}", step.removed);
        removed += step.removed.total();
        assert_balanced(&breaker);
        match step.next {
            Next::More => assert!(slices < 1_000),
            _ => break,
        }
    }
    assert_eq!(removed, 5_300);
    assert!(slices >= 5_300 / 200);
    assert_eq!(bounded.usage().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn sweep_drops_what_threads_left_half_filled() {
    let history = HistoryConfig::local().retention(10 * SECOND);
    let breaker = remembering(history);
    let runtime = Handle::current();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let _entered = runtime.enter();
                record(&breaker, 1_001, Outcome::Success);
            });
        }
    });
    advance(20 * SECOND).await;
    record(&breaker, 3, Outcome::Failure);
    assert_eq!(breaker.cleanup().get(RemovalReason::Expired), 8_008);
    assert_eq!(breaker.history_usage().calls, 3);
    assert_eq!(all(&breaker).len(), 3);
    assert_balanced(&breaker);
}

#[tokio::test(start_paused = true)]
async fn cleanup_by_hand_does_it_all_at_once() {
    let history = HistoryConfig::local().retention(SECOND);
    let breaker = remembering(history);
    record_spaced(&breaker, 5_000).await;
    breaker.disable();
    breaker.close();
    advance(MINUTE).await;
    let removed = breaker.cleanup();
    assert_eq!(removed.get(RemovalReason::Expired), 5_002);
    assert_eq!(removed.total(), 5_002);
    assert_eq!(breaker.history_usage().last_sweep, Some(Duration::ZERO));
    assert_eq!(breaker.cleanup().total(), 0);
    assert_balanced(&breaker);
}

#[tokio::test(start_paused = true)]
async fn history_without_retention_is_never_swept() {
    let breaker = remembering(HistoryConfig::local().retention(Duration::ZERO));
    record(&breaker, 10, Outcome::Success);
    advance(Duration::from_secs(3_650 * 86_400)).await;
    let step = breaker.bounded().sweep(Instant::now(), 1_000);
    assert_eq!((step.removed.total(), step.next), (0, Next::Idle));
    assert_eq!(breaker.cleanup().total(), 0);
    assert_eq!(all(&breaker).len(), 10);
}

#[tokio::test(start_paused = true)]
async fn sweep_notices_that_a_wait_is_over() {
    let breaker = remembering(HistoryConfig::local());
    breaker.open().unwrap();
    advance(5 * SECOND).await;
    let mut events = breaker.events();
    let _ = breaker.bounded().sweep(Instant::now(), 1_000);
    let waited = (State::Open, State::HalfOpen, Reason::WaitElapsed);
    assert_eq!(
        crate::common::moves(&crate::common::drain(&mut events)),
        [waited]
    );
}

#[tokio::test(start_paused = true)]
async fn registered_breaker_is_swept_without_traffic() {
    let history = HistoryConfig::local()
        .retention(MINUTE)
        .sweep_interval(MINUTE);
    let registry = Registry::with_config(RegistryConfig::default());
    let sweeper = tokio::spawn(registry.sweeper());
    let held = registry.register(remembering(history)).unwrap();
    record_spaced(&held, 1_000).await;
    for _ in 0..5 {
        tokio::time::sleep(MINUTE).await;
    }
    assert_eq!(held.history_usage().calls, 0);
    assert_eq!(
        held.bounded().totals().removed.get(RemovalReason::Expired),
        1_000
    );
    sweeper.abort();
}

#[tokio::test(start_paused = true)]
async fn presets_are_as_documented() {
    let hours = |hours: u32| hours * HOUR;
    for (config, interval, retention, calls, transitions) in [
        (CircuitBreakerConfig::high_traffic(), 30, 12, 5_000, 500),
        (CircuitBreakerConfig::low_traffic(), 120, 48, 10_000, 1_000),
        (CircuitBreakerConfig::network(), 30, 12, 5_000, 500),
        (CircuitBreakerConfig::local(), 60, 24, 10_000, 1_000),
        (CircuitBreakerConfig::new(), 60, 24, 10_000, 1_000),
        (CircuitBreakerConfig::default(), 60, 24, 10_000, 1_000),
    ] {
        let breaker = breaker(config);
        let usage = breaker.history_usage();
        assert_eq!(usage.sweep_interval, interval * MINUTE);
        assert_eq!(breaker.sweep_interval(), interval * MINUTE);
        assert_eq!(usage.retention, hours(retention));
        assert_eq!(
            (usage.max_calls, usage.max_transitions),
            (calls, transitions)
        );
        assert_eq!(
            breaker.bounded().usage().max_entries,
            Some(calls + transitions)
        );
        assert_eq!(
            (usage.calls, usage.transitions, usage.last_sweep),
            (0, 0, None)
        );
        assert_eq!(breaker.snapshot().history, usage);
    }
    assert_eq!(HistoryConfig::default(), HistoryConfig::local());
}

#[tokio::test(start_paused = true)]
async fn query_chooses_by_outcome_slowness_and_age() {
    let config = of_calls(100).slow_calls(SECOND, 100.0);
    let mut play = Play::new(config);
    // Ages when all is done: 10, 8, 5, 4, 2, 0 seconds.
    play.run("S E2 S3 I1 S2 E2").await;
    let count = |query: CallsQuery| play.breaker.calls(&query).matching;
    let query = CallsQuery::new;
    assert_eq!(count(query()), 6);
    assert_eq!(count(CallsQuery::default()), 6);
    assert_eq!(count(query().outcome(CallOutcome::Success)), 3);
    assert_eq!(count(query().outcome(CallOutcome::Failure)), 2);
    assert_eq!(count(query().outcome(CallOutcome::Ignored)), 1);
    assert_eq!(count(query().outcome(CallOutcome::Dropped)), 0);
    assert_eq!(count(query().slow(true)), 4);
    assert_eq!(count(query().slow(false)), 2);
    assert_eq!(count(query().within(5 * SECOND + MS)), 4);
    assert_eq!(count(query().within(Duration::ZERO)), 1);
    let slow_successes = query().outcome(CallOutcome::Success).slow(true);
    assert_eq!(count(slow_successes), 2);
    assert_eq!(count(slow_successes.within(3 * SECOND)), 1);
}

#[tokio::test(start_paused = true)]
async fn query_pages_through_what_matches() {
    let breaker = remembering(HistoryConfig::local());
    record_spaced(&breaker, 100).await;
    let whole = all(&breaker);
    let failures = CallsQuery::new().outcome(CallOutcome::Failure);
    for (query, of) in [
        (CallsQuery::new(), whole.clone()),
        (
            failures,
            (whole.iter().copied())
                .filter(|call| call.outcome == CallOutcome::Failure)
                .collect(),
        ),
    ] {
        for (skip, limit) in [
            (0, 7),
            (7, 7),
            (30, 7),
            (95, 50),
            (100, 1),
            (1_000, 1),
            (3, 0),
        ] {
            let page = breaker.calls(&query.skip(skip).limit(limit));
            assert_eq!(page.matching, of.len());
            let expected: Vec<_> = of.iter().skip(skip).take(limit).map(|c| c.age).collect();
            let ages: Vec<_> = page.calls.iter().map(|call| call.age).collect();
            assert_eq!(ages, expected, "skip {skip}, limit {limit}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn transition_says_what_the_breaker_knew() {
    let config = of_calls(10)
        .minimum_calls(5)
        .slow_calls(SECOND, 100.0)
        .probes(2);
    let mut play = Play::new(config);
    play.run("E2 E S S2 E A- A- A- +5s S E").await;
    advance(SECOND).await;
    let transitions = play.breaker.transitions();
    let told: Vec<_> = (transitions.iter())
        .map(|transition| (transition.from, transition.to, transition.reason))
        .collect();
    assert_eq!(
        told,
        [
            (State::HalfOpen, State::Open, Reason::FailureRate),
            (State::Open, State::HalfOpen, Reason::WaitElapsed),
            (State::Closed, State::Open, Reason::FailureRate),
        ]
    );
    let ages: Vec<_> = transitions.iter().map(|t| t.age).collect();
    assert_eq!(ages, [SECOND, SECOND, 6 * SECOND]);
    let opened = transitions[2].evidence;
    assert_eq!((opened.calls, opened.failures), (5, 3));
    assert_eq!((opened.slow, opened.slow_failures), (2, 1));
    assert_eq!(
        (opened.failure_rate, opened.slow_rate),
        (Some(60.0), Some(40.0))
    );
    assert_eq!(
        (opened.rejected, opened.generation, opened.attempt),
        (0, 1, 1)
    );
    assert_eq!(opened.open_for, Some(5 * SECOND));
    let probing = transitions[1].evidence;
    assert_eq!(
        (probing.rejected, probing.generation, probing.attempt),
        (3, 2, 1)
    );
    assert_eq!(probing.open_for, None);
    let reopened = transitions[0].evidence;
    assert_eq!((reopened.calls, reopened.failures), (2, 1));
    assert_eq!(reopened.failure_rate, Some(50.0));
    assert_eq!((reopened.generation, reopened.attempt), (3, 2));
    // What opened it is seen while it is open.
    assert_eq!(seen(&play.breaker.snapshot()), "open 50 1 2 1 0");
    let counts = play.breaker.snapshot().transitions;
    assert_eq!(counts.len(), 3);
    assert!(counts.iter().all(|count| count.count == 1));
}

#[tokio::test(start_paused = true)]
async fn disabled_history_keeps_nothing_and_takes_no_memory() {
    let breaker = remembering(HistoryConfig::disabled());
    record(&breaker, 1, Outcome::Success);
    let bytes = breaker.bytes();
    record(&breaker, 1_000, Outcome::Success);
    record(&breaker, 1_000, Outcome::Failure);
    assert_eq!(breaker.bytes(), bytes);
    breaker.force_open();
    breaker.close();
    assert_eq!(all(&breaker).len(), 0);
    assert_eq!(breaker.transitions().len(), 0);
    assert_eq!(breaker.bounded().usage().entries, 0);
    assert_eq!(breaker.bounded().totals().inserted, 0);
    // All else works.
    assert_eq!(breaker.snapshot().totals.failures, 1_000);
    assert_eq!(breaker.snapshot().transitions.len(), 2);
    let step = breaker.bounded().sweep(Instant::now(), 1_000);
    assert_eq!(step.next, Next::Idle);
    assert_balanced(&breaker);
}

#[tokio::test(start_paused = true)]
async fn closing_the_holding_ends_the_history_and_not_the_breaker() {
    let breaker = breaker(of_calls(10));
    let new = breaker.bytes();
    record(&breaker, 1_000, Outcome::Success);
    breaker.disable();
    breaker.close();
    record(&breaker, 5, Outcome::Failure);
    let bounded = breaker.bounded();
    let report = bounded.clone().close(Instant::now()).await;
    assert_eq!((report.dropped, report.flushed, report.lost), (1_007, 0, 0));
    assert!(report.is_clean());
    assert_eq!(bounded.usage().entries, 0);
    assert_eq!(bounded.totals().removed.get(RemovalReason::Closed), 1_007);
    assert_balanced(&breaker);
    record(&breaker, 4, Outcome::Success);
    record(&breaker, 1, Outcome::Failure);
    assert_eq!(seen(&breaker.snapshot()), "open 60 4 10 6 0");
    breaker.try_acquire().unwrap_err();
    breaker.close();
    record(&breaker, 100, Outcome::Success);
    assert_eq!(all(&breaker).len(), 0);
    assert_eq!(breaker.transitions().len(), 0);
    assert_balanced(&breaker);
    // What it has besides is how often it went where.
    assert!(breaker.bytes() <= new + 512, "{} of {new}", breaker.bytes());
    assert_eq!(bounded.close(Instant::now()).await.dropped, 0);
}

// "Closing it ends the history": nothing would sweep what was kept after.
#[tokio::test(start_paused = true)]
async fn closed_history_stays_so_when_the_breaker_is_reconfigured() {
    let breaker = remembering(HistoryConfig::local());
    breaker.bounded().close(Instant::now()).await;
    breaker.reconfigure(plain()).unwrap();
    record(&breaker, 10, Outcome::Success);
    breaker.disable();
    assert_eq!(breaker.bounded().usage().entries, 0);
}

#[test]
fn history_can_be_closed_while_calls_end() {
    for _ in 0..200 {
        // Short chunks, so that threads hand one over at each call.
        let breaker = remembering(HistoryConfig::local().calls(8));
        let barrier = Barrier::new(4);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    barrier.wait();
                    record(&breaker, 300, Outcome::Success);
                });
            }
            barrier.wait();
            let closing = breaker.bounded().close(Instant::now());
            assert!(tokio_test::block_on(closing).is_clean());
        });
        assert_eq!(all(&breaker).len(), 0);
        assert_eq!(breaker.bounded().usage().entries, 0);
        assert_balanced(&breaker);
    }
}

#[tokio::test(start_paused = true)]
async fn shrink_gives_up_the_oldest_share() {
    let breaker = remembering(HistoryConfig::local());
    record_spaced(&breaker, 3_200).await;
    for _ in 0..50 {
        breaker.disable();
        breaker.close();
    }
    let bounded = breaker.bounded();
    let before = bounded.usage();
    let step = bounded.shrink(0.5, 1_000);
    let pressed = step.removed.get(RemovalReason::Pressure);
    // A chunk of calls goes as a whole.
    assert!((1_650..=1_650 + 32).contains(&pressed), "{pressed}");
    assert_eq!(step.removed.total(), pressed);
    assert_eq!(bounded.usage().entries, before.entries - pressed);
    assert_eq!(bounded.usage().entries, 3_300 - pressed);
    assert!(bounded.usage().bytes + 1_600 * 12 <= before.bytes);
    assert_eq!(breaker.transitions().len(), 50);
    let calls = all(&breaker);
    assert_newest(&breaker, calls.len(), "after a shrink");
    assert_balanced(&breaker);
    assert_eq!(bounded.shrink(0.0, 1_000).removed.total(), 0);
    let step = bounded.shrink(1.0, 1_000);
    assert_eq!(step.removed.total(), 3_300 - pressed);
    assert_eq!(bounded.usage().entries, 0);
    assert_balanced(&breaker);
    record_spaced(&breaker, 100).await;
    assert_newest(&breaker, 100, "goes on");
}

#[tokio::test(start_paused = true)]
async fn trim_keeps_about_the_newest_records() {
    let breaker = remembering(HistoryConfig::local());
    record_spaced(&breaker, 1_000).await;
    for _ in 0..20 {
        breaker.disable();
        breaker.close();
    }
    let removed = breaker.trim(100, 7);
    assert_eq!(breaker.transitions().len(), 7);
    let kept = all(&breaker).len();
    assert!((69..=100).contains(&kept), "{kept}");
    assert_eq!(removed.get(RemovalReason::Manual), 1_000 - kept as u64 + 33);
    assert_newest(&breaker, kept, "after a trim");
    assert_eq!(breaker.trim(1_000, 1_000).total(), 0);
    assert_eq!(breaker.trim(0, 0).total(), kept as u64 + 7);
    assert_eq!(breaker.bounded().usage().entries, 0);
    assert_balanced(&breaker);
}

#[tokio::test(start_paused = true)]
async fn trims_that_find_nothing_to_drop_take_no_memory() {
    let breaker = remembering(HistoryConfig::local().calls(1_000));
    record_spaced(&breaker, 3_000).await;
    let full = breaker.bytes();
    for _ in 0..2_000 {
        record_spaced(&breaker, 1).await;
        let _ = breaker.trim(usize::MAX, usize::MAX);
        let _ = breaker.bounded().shrink(0.0, 1_000);
    }
    // A chunk goes as a whole, so that a few more may be gone.
    let shown = all(&breaker).len();
    assert!((968..=1_000).contains(&shown), "{shown}");
    assert!(breaker.bytes() <= 2 * full, "{} of {full}", breaker.bytes());
}

#[tokio::test(start_paused = true)]
async fn memory_goes_back_to_what_the_cap_takes_after_trims() {
    let breaker = remembering(HistoryConfig::local().calls(1_000));
    record_spaced(&breaker, 3_000).await;
    let full = breaker.bytes();
    for _ in 0..200 {
        record_spaced(&breaker, 1).await;
        let _ = breaker.trim(999, usize::MAX);
    }
    record_spaced(&breaker, 20_000).await;
    assert_newest(&breaker, 1_000, "trimmed long ago");
    let most = full * 11 / 10;
    assert!(breaker.bytes() <= most, "{} of {full}", breaker.bytes());
}

#[tokio::test(start_paused = true)]
async fn lower_caps_hold_at_once_when_reconfigured() {
    let config = plain().failure_rate(None);
    let breaker = breaker(config.clone());
    record_spaced(&breaker, 500).await;
    for _ in 0..20 {
        breaker.disable();
        breaker.close();
    }
    let history = HistoryConfig::local().calls(100).transitions(5);
    breaker.reconfigure(config.history(history)).unwrap();
    let bytes = breaker.bytes();
    assert_newest(&breaker, 100, "lower cap");
    record_spaced(&breaker, 1_000).await;
    assert_newest(&breaker, 100, "lower cap, later");
    assert!(breaker.bytes() < bytes + 1_000);
    assert_eq!(breaker.history_usage().max_transitions, 5);
    assert_eq!(breaker.transitions().len(), 5);
    assert_eq!(breaker.history_usage().transitions, 5);
    assert!(breaker.bounded().usage().utilisation().unwrap() <= 1.0);
    assert_balanced(&breaker);
}

#[tokio::test(start_paused = true)]
async fn higher_caps_hold_from_then_on() {
    let config = plain().failure_rate(None);
    let short = HistoryConfig::local().calls(10).transitions(2);
    let breaker = breaker(config.clone().history(short));
    record_spaced(&breaker, 100).await;
    breaker.reconfigure(config).unwrap();
    record_spaced(&breaker, 1_000).await;
    let shown = all(&breaker).len();
    assert!((1_010..=1_012).contains(&shown), "{shown}");
    for _ in 0..10 {
        breaker.disable();
        breaker.close();
    }
    assert_eq!(breaker.transitions().len(), 20);
    assert_balanced(&breaker);
}

// "Keeps nothing, and takes no memory", whenever that is asked for.
#[tokio::test(start_paused = true)]
async fn history_that_is_turned_off_lets_go_of_what_it_has() {
    let config = plain().failure_rate(None);
    let breaker = breaker(config.clone());
    let new = breaker.bytes();
    record(&breaker, 5_000, Outcome::Success);
    breaker.disable();
    breaker.close();
    let off = config.clone().history(HistoryConfig::disabled());
    breaker.reconfigure(off).unwrap();
    assert_eq!(all(&breaker).len(), 0);
    assert_eq!(breaker.transitions().len(), 0);
    assert_eq!(breaker.bounded().usage().entries, 0);
    assert!(breaker.bytes() <= new + 512, "{} of {new}", breaker.bytes());
    assert_balanced(&breaker);
    // And on again.
    breaker.reconfigure(config).unwrap();
    record(&breaker, 3, Outcome::Success);
    assert_eq!(all(&breaker).len(), 3);
    assert_balanced(&breaker);
}

#[tokio::test(start_paused = true)]
async fn reconfigured_breaker_keeps_its_state_its_deadline_and_its_past() {
    let mut play = Play::new(of_calls(10).open_factor(2.0));
    play.run("E E S +1s open half open +1s").await;
    let before = play.breaker.snapshot();
    let config = of_calls(10).open_for(MINUTE).open_max(HOUR);
    play.breaker.reconfigure(config.clone()).unwrap();
    assert_eq!(play.breaker.config(), config);
    let after = play.breaker.snapshot();
    assert_eq!(after.state, State::Open);
    assert_eq!(after.retry_after, Some(9 * SECOND));
    assert_eq!((after.attempt, after.generation), (2, before.generation));
    assert_eq!(after.window, before.window);
    assert_eq!(after.totals, before.totals);
    assert_eq!(play.breaker.transitions().len(), 3);
    assert_eq!(all(&play.breaker).len(), 3);
    // A bad one changes nothing.
    let bad = config.clone().probes(0);
    play.breaker.reconfigure(bad).unwrap_err();
    assert_eq!(play.breaker.config(), config);
}

#[tokio::test(start_paused = true)]
async fn reconfigured_window_keeps_the_newest_calls_that_fit() {
    let mut play = Play::new(of_calls(10).failure_rate(None).minimum_calls(1));
    let resize = |breaker: &CircuitBreaker, window: Window| {
        let config = of_calls(1).failure_rate(None).window(window);
        breaker.reconfigure(config).unwrap();
    };
    play.run("S S S S S E S E E E => closed 40 6 10 4 0").await;
    // Not at the beginning of what it has, which is a ring.
    play.run("S S S S E => closed 50 5 10 5 0").await;
    resize(&play.breaker, Window::Calls(100));
    play.run("=> closed 50 5 10 5 0").await;
    resize(&play.breaker, Window::Calls(7));
    play.run("=> closed 42.86 4 7 3 0").await;
    // In the order they came: what leaves is E E S S S S.
    play.run(
        "S => closed 28.57 5 7 2 0
         E => closed 28.57 5 7 2 0
         S S S S => closed 28.57 5 7 2 0
         S => closed 14.29 6 7 1 0",
    )
    .await;
    resize(&play.breaker, Window::Time(10 * SECOND));
    play.run("=> closed - 0 0 0 0").await;
    play.run("E +5s S +4s E => closed 66.67 1 3 2 0").await;
    resize(&play.breaker, Window::Time(20 * SECOND));
    play.run("=> closed 66.67 1 3 2 0").await;
    resize(&play.breaker, Window::Time(6 * SECOND));
    play.run(
        "     => closed 50 1 2 1 0
         +1.9s => closed 100 0 1 1 0
         +3s  => closed 100 0 1 1 0
         +1.2s => closed - 0 0 0 0",
    )
    .await;
    // What is too old for the new one, at the very beginning of a bucket.
    let mut play = Play::new(
        of_calls(1)
            .failure_rate(None)
            .window(Window::Time(10 * SECOND)),
    );
    play.run("E +9s S => closed 50 1 2 1 0").await;
    resize(&play.breaker, Window::Time(6 * SECOND));
    play.run("=> closed 0 1 1 0 0").await;
}
