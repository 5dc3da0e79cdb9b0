//! What circuit breakers get wrong, T1 to T38: those that need no service. Those of a service are
//! with the Tower contract, those of memory in a binary of their own.

use crate::common::{
    DAY, HOUR, MS, NANOSECOND, Play, SECOND, breaker, drain, moves, of_calls, plain, record, seen,
    take_all, transitions,
};
use plimsoll_breaker::{
    AfterHalfOpen, CallOutcome, CallsQuery, CircuitBreaker, Event, Outcome, ProbeRule, Reason,
    State, Window,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Barrier, Mutex},
    thread,
    time::Duration,
};
use tokio::{runtime::Handle, time::advance};

/// Runs `work` on so many threads at once, on the clock of the current runtime.
fn on_threads<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let runtime = Handle::current();
    let (barrier, work) = (Barrier::new(threads), &work);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|number| {
                let (runtime, barrier) = (&runtime, &barrier);
                scope.spawn(move || {
                    let _entered = runtime.enter();
                    barrier.wait();
                    work(number)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// A breaker that is half open.
fn half_open(config: plimsoll_breaker::CircuitBreakerConfig) -> CircuitBreaker {
    let breaker = breaker(config);
    breaker.open().unwrap();
    breaker.half_open().unwrap();
    breaker
}

// T1
#[tokio::test(start_paused = true)]
async fn thousand_successes_do_not_outweigh_a_full_window() {
    let breaker = breaker(of_calls(10));
    record(&breaker, 1_000, Outcome::Success);
    record(&breaker, 4, Outcome::Failure);
    assert_eq!(seen(&breaker.snapshot()), "closed 40 6 10 4 0");
    record(&breaker, 1, Outcome::Failure);
    assert_eq!(seen(&breaker.snapshot()), "open 50 5 10 5 0");
}

// T1
#[tokio::test(start_paused = true)]
async fn count_window_of_any_size_is_exact() {
    // Words of bits have 64 places.
    for size in [1, 2, 3, 10, 63, 64, 65, 100, 128, 1_000, 65_536] {
        let breaker = breaker(of_calls(size).failure_rate(100.0).minimum_calls(1));
        breaker.metrics_only();
        let mut calls = Vec::new();
        // Runs of good calls of many lengths between failures, more than the window holds.
        let mut run = 1;
        while calls.len() < 3 * size as usize + 10 {
            calls.push(false);
            calls.extend(std::iter::repeat_n(true, run % 97));
            run += 13;
        }
        for (n, good) in calls.iter().enumerate() {
            let outcome = match good {
                true => Outcome::Success,
                false => Outcome::Failure,
            };
            record(&breaker, 1, outcome);
            // Not after each: whoever looks merges what is counted.
            let often = if size < 2_000 { 50 } else { 10_000 };
            if n % often == often - 1 || n + 1 == calls.len() || size < 4 {
                let seen = breaker.snapshot().window;
                let newest = &calls[(n + 1).saturating_sub(size as usize)..=n];
                let failures = newest.iter().filter(|good| !**good).count();
                assert_eq!(seen.calls as usize, newest.len(), "window of {size}");
                assert_eq!(seen.failures as usize, failures, "window of {size}");
            }
        }
    }
}

// T1
#[tokio::test(start_paused = true)]
async fn count_window_forgets_slow_calls_as_exactly_as_failures() {
    for size in [1, 2, 3, 10, 64, 65] {
        let config = of_calls(size).slow_calls(MS, 100.0);
        let breaker = breaker(config);
        breaker.metrics_only();
        let mut calls = Vec::new();
        for n in 0..4 * size as usize + 7 {
            let (failed, slow) = (n % 3 == 0, n % 5 < 2);
            let permit = breaker.try_acquire().unwrap();
            if slow {
                advance(2 * MS).await;
            }
            permit.record(match failed {
                true => Outcome::Failure,
                false => Outcome::Success,
            });
            calls.push((failed, slow));
            let newest = &calls[(n + 1).saturating_sub(size as usize)..];
            let count = |wanted: fn(&(bool, bool)) -> bool| {
                let wanted = newest.iter().filter(|call| wanted(call));
                wanted.count() as u32
            };
            let window = breaker.snapshot().window;
            assert_eq!(window.failures, count(|call| call.0), "window of {size}");
            assert_eq!(window.slow, count(|call| call.1), "window of {size}");
            let both = count(|call| call.0 && call.1);
            assert_eq!(window.slow_failures, both, "window of {size}");
        }
    }
}

// T1, T19
#[tokio::test(start_paused = true)]
async fn nothing_of_a_window_that_was_cleared_comes_back() {
    let breaker = breaker(of_calls(10).failure_rate(None));
    record(&breaker, 10, Outcome::Failure);
    breaker.reset();
    for n in 0..40 {
        let (outcome, expected) = match n % 10 {
            9 => (Outcome::Failure, 1),
            // That of the round before is there until the next one comes.
            _ => (Outcome::Success, u32::from(n >= 10)),
        };
        record(&breaker, 1, outcome);
        let window = breaker.snapshot().window;
        assert_eq!((window.calls, window.failures), (10.min(n + 1), expected));
    }
}

// T3
#[tokio::test(start_paused = true)]
async fn calls_nobody_looked_at_are_of_the_time_they_came_in() {
    let config = plain().window(Window::Time(10 * SECOND)).minimum_calls(1);
    let breaker = breaker(config);
    record(&breaker, 1, Outcome::Success);
    advance(1_500 * MS).await;
    record(&breaker, 1, Outcome::Success);
    advance(9 * SECOND).await;
    assert_eq!(seen(&breaker.snapshot()), "closed 0 1 1 0 0");
}

// T3
#[tokio::test(start_paused = true)]
async fn idle_time_window_is_seen_as_empty() {
    let mut play = Play::new(
        plain()
            .window(Window::Time(SECOND))
            .minimum_calls(1)
            .failure_rate(None),
    );
    play.run(
        "E E E S S => closed 60 2 5 3 0
         +899ms    => closed 60 2 5 3 0
         +101ms    => closed -  0 0 0 0",
    )
    .await;
}

// T4
#[tokio::test(start_paused = true)]
async fn time_window_counts_on_after_months_of_idleness() {
    let config = plain()
        .window(Window::Time(10 * MS))
        .minimum_calls(1)
        .failure_rate(None);
    let breaker = breaker(config);
    record(&breaker, 3, Outcome::Failure);
    // More buckets of a millisecond than 32 bits can count, and one more than those.
    for idle in [60 * DAY, MS * u32::MAX + 2 * MS] {
        advance(idle).await;
        record(&breaker, 2, Outcome::Failure);
        assert_eq!(seen(&breaker.snapshot()), "closed 100 0 2 2 0");
    }
    advance(10 * MS).await;
    assert_eq!(seen(&breaker.snapshot()), "closed - 0 0 0 0");
}

// T5
#[tokio::test(start_paused = true)]
async fn minimum_above_the_window_still_opens_the_circuit() {
    let breaker = breaker(of_calls(10).minimum_calls(u32::MAX));
    record(&breaker, 9, Outcome::Failure);
    assert_eq!(breaker.snapshot().window.failure_rate, None);
    record(&breaker, 1, Outcome::Failure);
    assert_eq!(breaker.state(), State::Open);
}

// T6
#[tokio::test(start_paused = true)]
async fn call_that_takes_exactly_as_long_as_it_may_is_not_slow() {
    let config = of_calls(2)
        .minimum_calls(1)
        .failure_rate(None)
        .slow_calls(SECOND, 100.0);
    let breaker = breaker(config);
    let permit = breaker.try_acquire().unwrap();
    advance(SECOND).await;
    permit.record(Outcome::Success);
    let permit = breaker.try_acquire().unwrap();
    advance(SECOND).await;
    permit.record(Outcome::Failure);
    assert_eq!(breaker.snapshot().window.slow, 0);
    assert_eq!(breaker.state(), State::Closed);
    let permit = breaker.try_acquire().unwrap();
    advance(SECOND + NANOSECOND).await;
    permit.record(Outcome::Success);
    assert_eq!(breaker.snapshot().window.slow, 1);
}

// T6
#[tokio::test(start_paused = true)]
async fn rate_exactly_at_its_threshold_opens() {
    for (threshold, state) in [(30.0, State::Open), (30.1, State::Closed)] {
        let failing = breaker(of_calls(10).failure_rate(threshold));
        record(&failing, 7, Outcome::Success);
        record(&failing, 3, Outcome::Failure);
        assert_eq!(failing.state(), state, "threshold of {threshold} %");

        let config = of_calls(10).failure_rate(None).slow_calls(MS, threshold);
        let mut slow = Play::new(config);
        slow.run("S S S S S S S S0.1 S0.1 S0.1").await;
        assert_eq!(slow.breaker.state(), state, "threshold of {threshold} %");
    }
}

// T7
#[tokio::test(start_paused = true)]
async fn success_completes_the_minimum_however_many_came_before() {
    for successes in 1..=5 {
        let failures = 10 - successes;
        let breaker = breaker(plain().window(Window::Calls(100)).minimum_calls(10));
        record(&breaker, failures, Outcome::Failure);
        record(&breaker, successes - 1, Outcome::Success);
        assert_eq!(breaker.state(), State::Closed);
        record(&breaker, 1, Outcome::Success);
        assert_eq!(breaker.state(), State::Open);
    }
}

// T7: good calls that left the window raise the rate, and the next result of any kind sees it.
#[tokio::test(start_paused = true)]
async fn success_opens_the_circuit_when_the_good_calls_have_left_the_window() {
    let config = plain()
        .window(Window::Time(10 * SECOND))
        .minimum_calls(2)
        .failure_rate(60.0);
    let mut play = Play::new(config);
    play.run(
        "S S S S +5s E E => closed 33.33 4 6 2 0
         +5s             => closed 100   0 2 2 0
         S               => open   66.67 1 3 2 0",
    )
    .await;
}

// T8
#[tokio::test(start_paused = true)]
async fn ignored_probe_gives_its_slot_back() {
    let breaker = half_open(plain().probes(2));
    for _ in 0..10 {
        let probes = take_all(&breaker);
        assert_eq!(probes.len(), 2);
        for probe in probes {
            assert!(probe.is_probe());
            probe.record(Outcome::Ignore);
        }
    }
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.state, State::HalfOpen);
    assert_eq!((snapshot.probes_free, snapshot.probes_in_flight), (2, 0));
    assert_eq!(snapshot.totals.ignored, 20);
}

// T9
#[tokio::test(start_paused = true)]
async fn dropped_probe_gives_its_slot_back() {
    let breaker = half_open(plain().probes(2));
    for _ in 0..10 {
        let probes = take_all(&breaker);
        assert_eq!(probes.len(), 2);
        assert_eq!(breaker.snapshot().probes_free, 0);
        assert_eq!(breaker.snapshot().probes_in_flight, 2);
        drop(probes);
    }
    assert_eq!(breaker.state(), State::HalfOpen);
    assert_eq!(breaker.snapshot().probes_free, 2);
    assert_eq!(breaker.snapshot().totals.dropped, 20);
}

// T10
#[tokio::test(start_paused = true)]
async fn panic_while_a_permit_is_held_is_a_failure() {
    let breaker = breaker(of_calls(2));
    for _ in 0..2 {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _permit = breaker.try_acquire().unwrap();
            panic!("in the call");
        }));
        panicked.unwrap_err();
    }
    assert_eq!(seen(&breaker.snapshot()), "open 100 0 2 2 0");
    breaker.half_open().unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        breaker.call(|| panic!("in the probe"), |()| Outcome::Success)
    }));
    panicked.unwrap_err();
    let snapshot = breaker.snapshot();
    assert_eq!(seen(&snapshot), "half_open - 0 1 1 0");
    assert_eq!((snapshot.probes_free, snapshot.in_flight), (2, 0));
    // No lock is left in a state that hinders others.
    breaker.close();
    record(&breaker, 1, Outcome::Success);
    assert_eq!(seen(&breaker.snapshot()), "closed - 1 1 0 0");
}

// T10
#[tokio::test(start_paused = true)]
async fn panic_while_a_call_is_judged_is_a_failure() {
    let breaker = breaker(of_calls(2));
    let judged = catch_unwind(AssertUnwindSafe(|| {
        breaker.call(|| (), |()| panic!("in the judgement"))
    }));
    judged.unwrap_err();
    let permit = breaker.try_acquire().unwrap();
    let judged = catch_unwind(AssertUnwindSafe(|| {
        permit.record_with(|_| panic!("in the judgement"));
    }));
    judged.unwrap_err();
    assert_eq!(seen(&breaker.snapshot()), "open 100 0 2 2 0");
}

// T11
#[tokio::test(start_paused = true)]
async fn probe_that_hangs_fails_when_its_lease_ends() {
    let lease = 10 * SECOND;
    let config = plain().probes(2).probe_lease(lease);
    let breaker = half_open(config);
    let hung = take_all(&breaker);
    assert_eq!(hung.len(), 2);
    advance(lease - MS).await;
    let open = breaker.try_acquire().unwrap_err();
    assert_eq!((open.state(), open.retry_after()), (State::HalfOpen, None));
    advance(MS).await;
    assert_eq!(breaker.state(), State::Open);
    let opened = breaker.snapshot();
    assert_eq!(seen(&opened), "open 100 0 2 2 0");
    assert_eq!(opened.reason, Reason::FailureRate);
    // What they say later means nothing.
    for permit in hung {
        permit.record(Outcome::Success);
    }
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.state, State::Open);
    assert_eq!((snapshot.totals.stale, snapshot.totals.failures), (2, 2));
}

// T11
#[tokio::test(start_paused = true)]
async fn late_verdict_of_a_probe_whose_lease_ended_is_not_counted_twice() {
    let lease = 10 * SECOND;
    let breaker = half_open(plain().probes(3).probe_lease(lease));
    let hung = breaker.try_acquire().unwrap();
    advance(lease).await;
    assert_eq!(seen(&breaker.snapshot()), "half_open - 0 1 1 0");
    hung.record(Outcome::Failure);
    let snapshot = breaker.snapshot();
    assert_eq!(seen(&snapshot), "half_open - 0 1 1 0");
    assert_eq!((snapshot.totals.stale, snapshot.totals.failures), (1, 1));
    // Two of three are left, and decide.
    let probes = take_all(&breaker);
    assert_eq!(probes.len(), 2);
    for probe in probes {
        probe.record(Outcome::Success);
    }
    assert_eq!(breaker.state(), State::Closed);
}

// T11
#[tokio::test(start_paused = true)]
async fn lease_of_a_probe_ends_for_whoever_asks_to_call() {
    let lease = 10 * SECOND;
    let config = plain()
        .probes(1)
        .probe_rule(ProbeRule::AllMustSucceed)
        .probe_lease(lease);
    let breaker = half_open(config);
    let _hung = breaker.try_acquire().unwrap();
    advance(lease).await;
    let open = breaker.try_acquire().unwrap_err();
    assert_eq!(open.state(), State::Open);
    assert_eq!(open.reason(), Reason::ProbeFailed);
    assert_eq!(open.retry_after(), Some(5 * SECOND));
}

// T11
#[tokio::test(start_paused = true)]
async fn half_open_circuit_that_hangs_is_open_in_time_for_whoever_asks_to_call() {
    let config = plain()
        .probes(1)
        .half_open_timeout(2 * SECOND, AfterHalfOpen::Open);
    let breaker = half_open(config);
    let _hung = breaker.try_acquire().unwrap();
    let open = breaker.try_acquire().unwrap_err();
    assert_eq!(open.state(), State::HalfOpen);
    advance(2 * SECOND).await;
    let open = breaker.try_acquire().unwrap_err();
    assert_eq!(open.state(), State::Open);
    assert_eq!(open.reason(), Reason::HalfOpenTimeout);
}

// T11
#[tokio::test(start_paused = true)]
async fn lease_is_as_long_as_the_circuit_is_open_or_thirty_seconds_by_default() {
    for (open_for, lease) in [(5 * SECOND, 30 * SECOND), (60 * SECOND, 60 * SECOND)] {
        let breaker = half_open(plain().open_for(open_for).probes(1));
        let _hung = breaker.try_acquire().unwrap();
        advance(lease - MS).await;
        assert_eq!(breaker.state(), State::HalfOpen);
        advance(MS).await;
        assert_eq!(breaker.state(), State::Open);
    }
}

/// Every way in which a call can end.
const ENDS: [Option<Outcome>; 5] = [
    Some(Outcome::Success),
    Some(Outcome::Failure),
    Some(Outcome::Ignore),
    Some(Outcome::OpenFor(HOUR)),
    None,
];

fn end(permit: plimsoll_breaker::Permit, end: Option<Outcome>) {
    match end {
        Some(outcome) => permit.record(outcome),
        None => drop(permit),
    }
}

// T12, T20: whatever the breaker became since, and however often.
#[tokio::test(start_paused = true)]
async fn result_of_an_earlier_state_decides_nothing() {
    let since: [(&str, State); 8] = [
        ("open", State::Open),
        ("open half", State::HalfOpen),
        ("open half close", State::Closed),
        ("reset", State::Closed),
        ("force", State::ForcedOpen),
        ("disable", State::Disabled),
        ("metrics", State::MetricsOnly),
        ("disable close", State::Closed),
    ];
    for (steps, state) in since {
        for how in ENDS {
            // One call of any kind but success would open it.
            let mut play = Play::new(of_calls(1).probes(1));
            let late = play.breaker.try_acquire().unwrap();
            play.run(steps).await;
            let before = play.breaker.snapshot();
            end(late, how);
            let after = play.breaker.snapshot();
            let context = format!("{how:?} after `{steps}`");
            assert_eq!(after.state, state, "{context}");
            assert_eq!(after.generation, before.generation, "{context}");
            assert_eq!(after.window, before.window, "{context}");
            assert_eq!(after.probes_free, before.probes_free, "{context}");
            assert_eq!(after.consecutive_failures, 0, "{context}");
            assert_eq!(after.totals.stale, 1, "{context}");
            let told = after.totals;
            let judged = told.successes + told.failures + told.ignored + told.dropped;
            assert_eq!(judged, 0, "{context}");
            let calls = play.breaker.calls(&CallsQuery::new()).calls;
            assert_eq!(calls.len(), 1, "{context}");
            assert!(calls[0].stale && !calls[0].probe, "{context}");
        }
    }
}

// T20
#[tokio::test(start_paused = true)]
async fn probe_of_an_earlier_round_decides_nothing() {
    for steps in ["open", "close", "reset", "open half", "force", "disable"] {
        for how in ENDS {
            let mut play = Play::new(of_calls(1).probes(1));
            play.run("open half").await;
            let probe = play.breaker.try_acquire().unwrap();
            play.run(steps).await;
            let before = play.breaker.snapshot();
            end(probe, how);
            let after = play.breaker.snapshot();
            let context = format!("{how:?} after `{steps}`");
            assert_eq!(after.state, before.state, "{context}");
            assert_eq!(after.window, before.window, "{context}");
            assert_eq!(after.probes_free, before.probes_free, "{context}");
            assert_eq!(after.totals.stale, 1, "{context}");
        }
    }
}

// T13
#[tokio::test(start_paused = true)]
async fn late_call_that_is_ignored_gives_back_no_slot_it_never_had() {
    for how in [Some(Outcome::Ignore), None] {
        let breaker = breaker(of_calls(1).probes(3));
        let late = breaker.try_acquire().unwrap();
        record(&breaker, 1, Outcome::Failure);
        breaker.half_open().unwrap();
        let probes = take_all(&breaker);
        assert_eq!(probes.len(), 3);
        end(late, how);
        breaker.try_acquire().unwrap_err();
        assert_eq!(breaker.snapshot().probes_in_flight, 3);
    }
}

// T14
#[tokio::test(start_paused = true)]
async fn probe_released_in_a_later_round_frees_no_slot_of_that() {
    for how in ENDS {
        let breaker = half_open(plain().probes(2));
        let earlier = breaker.try_acquire().unwrap();
        breaker.open().unwrap();
        breaker.half_open().unwrap();
        let probes = take_all(&breaker);
        assert_eq!(probes.len(), 2);
        end(earlier, how);
        assert_eq!(take_all(&breaker).len(), 0, "{how:?}");
        assert_eq!(breaker.snapshot().probes_in_flight, 2, "{how:?}");
    }
}

// T15, T17
#[tokio::test(start_paused = true)]
async fn race_for_the_probes_has_no_more_winners_than_probes() {
    for _ in 0..20 {
        let breaker = breaker(plain().probes(5));
        breaker.open().unwrap();
        let mut events = breaker.events();
        advance(5 * SECOND).await;
        let answers = on_threads(64, |_| breaker.try_acquire());
        let probes: Vec<_> = answers.into_iter().flatten().collect();
        assert_eq!(probes.len(), 5);
        assert!(probes.iter().all(plimsoll_breaker::Permit::is_probe));
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot.rejected, 59);
        assert_eq!(snapshot.totals.rejected_half_open, 59);
        assert_eq!(snapshot.totals.rejected(), 59);
        assert_eq!(snapshot.in_flight, 5);
        let waited = (State::Open, State::HalfOpen, Reason::WaitElapsed);
        assert_eq!(moves(&drain(&mut events)), [waited]);
    }
}

// T16
#[tokio::test(start_paused = true)]
async fn race_to_the_threshold_opens_once() {
    for _ in 0..20 {
        let breaker = breaker(of_calls(10));
        let mut events = breaker.events();
        let permits: Vec<_> = (0..64)
            .map(|_| Mutex::new(Some(breaker.try_acquire().unwrap())))
            .collect();
        on_threads(64, |thread| {
            let permit = permits[thread].lock().unwrap().take().unwrap();
            permit.record(Outcome::Failure);
        });
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot.state, State::Open);
        assert_eq!(snapshot.totals.failures, 10);
        assert_eq!(snapshot.totals.stale, 54);
        let opened = (State::Closed, State::Open, Reason::FailureRate);
        assert_eq!(moves(&drain(&mut events)), [opened]);
        assert_eq!(breaker.transitions().len(), 1);
        assert_eq!(transitions(&breaker), 1);
    }
}

// T16
#[tokio::test(start_paused = true)]
async fn race_to_close_closes_once() {
    for _ in 0..20 {
        let breaker = half_open(plain().probes(64));
        let mut events = breaker.events();
        let probes = take_all(&breaker).into_iter();
        let probes: Vec<_> = probes.map(|probe| Mutex::new(Some(probe))).collect();
        assert_eq!(probes.len(), 64);
        on_threads(64, |thread| {
            let probe = probes[thread].lock().unwrap().take().unwrap();
            probe.record(Outcome::Success);
        });
        let closed = (State::HalfOpen, State::Closed, Reason::ProbesSucceeded);
        assert_eq!(moves(&drain(&mut events)), [closed]);
        let totals = breaker.snapshot().totals;
        // The probes needed are those of the minimum of calls, 20.
        assert_eq!((totals.successes, totals.stale), (20, 44));
    }
}

// T17
#[tokio::test(start_paused = true)]
async fn every_refusal_is_counted_once() {
    let breaker = breaker(plain().probes(1));
    breaker.open().unwrap();
    let refused = on_threads(8, |_| {
        let answers = (0..1_000).map(|_| breaker.try_acquire());
        answers.filter(Result::is_err).count()
    });
    assert_eq!(refused.iter().sum::<usize>(), 8_000);
    assert_eq!(breaker.snapshot().rejected, 8_000);
    advance(5 * SECOND).await;
    let probe = breaker.try_acquire().unwrap();
    for _ in 0..3 {
        breaker.try_acquire().unwrap_err();
    }
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.rejected, 3);
    assert_eq!(snapshot.totals.rejected_open, 8_000);
    assert_eq!(snapshot.totals.rejected_half_open, 3);
    breaker.force_open();
    for _ in 0..7 {
        breaker.try_acquire().unwrap_err();
    }
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.rejected, 7);
    assert_eq!(snapshot.totals.rejected_forced_open, 7);
    assert_eq!(snapshot.totals.rejected(), 8_010);
    // The record of a change of state has those refused before it.
    let rejected: Vec<_> = (breaker.transitions().iter())
        .map(|transition| transition.evidence.rejected)
        .collect();
    assert_eq!(rejected, [3, 8_000, 0]);
    drop(probe);
}

// T17: whatever threads do at once, each call is in exactly one total.
#[tokio::test(start_paused = true)]
async fn totals_of_many_threads_add_up() {
    let breaker = breaker(plain().window(Window::Calls(50)).minimum_calls(50));
    let made = on_threads(8, |thread| {
        let mut made = [0_u64; 5];
        for n in 0..2_000 {
            if thread == 0 && n % 100 == 99 {
                breaker.close();
            }
            match breaker.try_acquire() {
                Err(_) => made[0] += 1,
                Ok(permit) => {
                    made[1 + n % 4] += 1;
                    end(permit, ENDS[[0, 1, 2, 4][n % 4]]);
                }
            }
        }
        made
    });
    let sum = |place: usize| made.iter().map(|made| made[place]).sum::<u64>();
    let snapshot = breaker.snapshot();
    let totals = snapshot.totals;
    assert_eq!(totals.rejected(), sum(0));
    let judged = totals.successes + totals.failures + totals.ignored + totals.dropped;
    assert_eq!(judged + totals.stale, (1..5).map(sum).sum::<u64>());
    assert!(totals.successes <= sum(1));
    assert!(totals.failures <= sum(2));
    assert_eq!(snapshot.in_flight, 0);
    assert_eq!(
        snapshot.history.calls,
        judged + totals.stale - lost(&breaker)
    );
}

/// How many calls made room for newer ones.
fn lost(breaker: &CircuitBreaker) -> u64 {
    use plimsoll_core::{Holding, RemovalReason};
    breaker
        .bounded()
        .totals()
        .removed
        .get(RemovalReason::Capacity)
}

// T18
#[tokio::test(start_paused = true)]
async fn forced_open_circuit_does_not_heal_by_itself() {
    let breaker = breaker(plain().half_open_timeout(SECOND, AfterHalfOpen::Close));
    breaker.force_open();
    for _ in 0..4 {
        advance(250_000 * SECOND).await;
        let open = breaker.try_acquire().unwrap_err();
        assert_eq!(open.state(), State::ForcedOpen);
        assert_eq!(open.reason(), Reason::Manual);
        assert_eq!(open.retry_after(), None);
        assert_eq!(breaker.state(), State::ForcedOpen);
    }
    breaker.close();
    record(&breaker, 1, Outcome::Success);
}

// T19
#[tokio::test(start_paused = true)]
async fn reset_of_a_closed_circuit_clears_its_window() {
    let mut play = Play::new(of_calls(10).consecutive_failures(9));
    play.run(
        "E E E E E => closed - 0 5 5 0
         reset     => closed - 0 0 0 0
         E E E E E E E E => closed - 0 8 8 0",
    )
    .await;
    assert_eq!(play.breaker.snapshot().consecutive_failures, 8);
    assert_eq!(transitions(&play.breaker), 0);
    // The history stays.
    assert_eq!(play.breaker.calls(&CallsQuery::new()).matching, 13);
    play.run("E").await;
    assert_eq!(play.breaker.snapshot().reason, Reason::ConsecutiveFailures);
}

// T21
#[tokio::test(start_paused = true)]
async fn circuit_opened_for_the_longest_time_stays_so_until_told() {
    for wait in [Duration::MAX, Duration::from_secs(u64::MAX / 2)] {
        let breaker = breaker(plain());
        advance(SECOND).await;
        breaker.open_for(wait).unwrap();
        let open = breaker.try_acquire().unwrap_err();
        assert_eq!((open.state(), open.retry_after()), (State::Open, None));
        advance(3_650 * DAY).await;
        breaker.try_acquire().unwrap_err();
        let snapshot = breaker.snapshot();
        assert_eq!((snapshot.state, snapshot.retry_after), (State::Open, None));
        assert_eq!(breaker.transitions().len(), 0, "all too old");
        breaker.half_open().unwrap();
        record(&breaker, 1, Outcome::Success);
    }
}

// T21
#[tokio::test(start_paused = true)]
async fn open_circuit_can_be_told_to_stay_open_longer_or_shorter() {
    let breaker = breaker(plain());
    breaker.open().unwrap();
    advance(SECOND).await;
    breaker.open_for(HOUR).unwrap();
    assert_eq!(breaker.snapshot().retry_after, Some(HOUR));
    breaker.open().unwrap();
    assert_eq!(breaker.snapshot().retry_after, Some(HOUR), "open already");
    breaker.open_for(SECOND).unwrap();
    let open = breaker.try_acquire().unwrap_err();
    assert_eq!(open.retry_after(), Some(SECOND));
    advance(SECOND).await;
    assert_eq!(breaker.state(), State::HalfOpen);
    assert_eq!(transitions(&breaker), 2);
    assert_eq!(breaker.snapshot().attempt, 1);
}

// T22: a thread outside of the paused runtime reads a clock that is an hour behind.
#[tokio::test(start_paused = true)]
async fn clock_that_goes_backwards_is_taken_to_stand_still() {
    let config = plain()
        .window(Window::Time(10 * SECOND))
        .minimum_calls(3)
        .slow_calls(SECOND, 100.0)
        .overdue_calls(90 * SECOND, 100);
    let breaker = breaker(config);
    advance(HOUR).await;
    record(&breaker, 1, Outcome::Failure);
    let permit = breaker.try_acquire().unwrap();
    let outside = thread::scope(|scope| {
        let outside = scope.spawn(|| {
            assert_eq!(permit.elapsed(), Duration::ZERO);
            permit.record(Outcome::Failure);
            record(&breaker, 1, Outcome::Failure);
            breaker.try_acquire().unwrap_err();
            breaker.snapshot()
        });
        outside.join()
    });
    let snapshot = outside.unwrap();
    assert_eq!(snapshot.state, State::Open);
    assert_eq!((snapshot.window.failures, snapshot.window.slow), (3, 0));
    let calls = breaker.calls(&CallsQuery::new()).calls;
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|call| call.duration < SECOND));
    assert!(calls.iter().all(|call| call.age < SECOND), "{calls:?}");
}

// T23
#[tokio::test(start_paused = true)]
async fn wait_grows_until_the_circuit_has_closed() {
    let config = of_calls(1)
        .open_for(SECOND)
        .open_factor(2.0)
        .open_max(5 * SECOND)
        .probes(1);
    let breaker = breaker(config);
    for round in 0..2 {
        for (attempt, wait) in [(1, 1), (2, 2), (3, 4), (4, 5), (5, 5)] {
            record(&breaker, 1, Outcome::Failure);
            let snapshot = breaker.snapshot();
            assert_eq!(snapshot.attempt, attempt, "round {round}");
            assert_eq!(snapshot.retry_after, Some(wait * SECOND), "round {round}");
            let evidence = breaker.transitions()[0].evidence;
            assert_eq!(evidence.attempt, attempt);
            assert_eq!(evidence.open_for, Some(wait * SECOND));
            advance(wait * SECOND).await;
            assert_eq!(breaker.state(), State::HalfOpen);
            assert_eq!(breaker.snapshot().attempt, attempt);
        }
        record(&breaker, 1, Outcome::Success);
        assert_eq!(breaker.state(), State::Closed);
        assert_eq!(breaker.snapshot().attempt, 0);
    }
}

// T23
#[tokio::test(start_paused = true)]
async fn only_a_closed_circuit_has_recovered() {
    for (steps, attempt) in [
        ("force open", 2),
        ("disable open", 2),
        ("half open", 2),
        ("close open", 1),
        ("reset open", 1),
    ] {
        let mut play = Play::new(plain());
        play.run("open").await;
        play.run(steps).await;
        assert_eq!(play.breaker.snapshot().attempt, attempt, "after `{steps}`");
    }
}

// T23
#[tokio::test(start_paused = true)]
async fn jitter_varies_the_wait_by_its_share() {
    let config = plain().open_for(100 * SECOND).jitter(0.2);
    let breaker = breaker(config);
    let mut waits = Vec::new();
    for _ in 0..200 {
        breaker.open().unwrap();
        waits.push(breaker.snapshot().retry_after.unwrap());
        breaker.close();
    }
    assert!(
        waits
            .iter()
            .all(|wait| (80..=120).contains(&wait.as_secs()))
    );
    // Two hundred draws leave both halves with a chance of one in 2^200.
    assert!(waits.iter().any(|wait| *wait < 100 * SECOND));
    assert!(waits.iter().any(|wait| *wait > 100 * SECOND));
}

// T24
#[tokio::test(start_paused = true)]
async fn observer_may_use_the_breaker_and_may_panic() {
    let breaker = breaker(of_calls(1).probes(1));
    let told = Arc::new(Mutex::new(Vec::new()));
    let (watched, log) = (breaker.clone(), told.clone());
    breaker
        .observe(move |_: &Event| {
            log.lock().unwrap().push(watched.snapshot().state);
            panic!("in an observer");
        })
        .unwrap();
    record(&breaker, 1, Outcome::Failure);
    advance(5 * SECOND).await;
    record(&breaker, 1, Outcome::Success);
    assert_eq!(breaker.state(), State::Closed);
    let expected = [State::Open, State::HalfOpen, State::Closed];
    assert_eq!(*told.lock().unwrap(), expected);
}

// T35: what is asked for is brought within what may be asked for, but for "until told".
#[tokio::test(start_paused = true)]
async fn requested_wait_is_kept_within_its_bounds() {
    let (shortest, longest) = (2 * SECOND, 60 * SECOND);
    for (asked, waits) in [
        (Duration::ZERO, Some(shortest)),
        (NANOSECOND, Some(shortest)),
        (2 * SECOND - NANOSECOND, Some(shortest)),
        (2 * SECOND, Some(shortest)),
        (7 * SECOND, Some(7 * SECOND)),
        (60 * SECOND, Some(longest)),
        (61 * SECOND, Some(longest)),
        (10_000 * DAY, Some(longest)),
        (Duration::MAX, None),
    ] {
        for state in [State::Closed, State::HalfOpen] {
            let breaker = breaker(plain().requested_wait(shortest, longest));
            if state == State::HalfOpen {
                breaker.open().unwrap();
                breaker.half_open().unwrap();
            }
            record(&breaker, 1, Outcome::OpenFor(asked));
            let snapshot = breaker.snapshot();
            assert_eq!(snapshot.state, State::Open, "{asked:?}");
            assert_eq!(snapshot.reason, Reason::Requested);
            assert_eq!(snapshot.retry_after, waits, "{asked:?}");
            assert_eq!(snapshot.window.failures, 1);
        }
    }
}

// T35
#[tokio::test(start_paused = true)]
async fn requested_wait_of_zero_may_be_allowed() {
    let breaker = breaker(plain().requested_wait(Duration::ZERO, SECOND));
    record(&breaker, 1, Outcome::OpenFor(Duration::ZERO));
    assert_eq!(breaker.state(), State::HalfOpen);
    assert_eq!(transitions(&breaker), 2);
}

// T36: calls in flight when the circuit opens are bounded by what limits calls, not by it.
#[tokio::test(start_paused = true)]
async fn thousand_failures_in_flight_open_once_and_the_rest_are_void() {
    let breaker = breaker(plain().window(Window::Calls(100)).minimum_calls(20));
    let permits: Vec<_> = (0..1_000).map(|_| breaker.try_acquire().unwrap()).collect();
    assert_eq!(breaker.snapshot().in_flight, 1_000);
    for permit in permits {
        permit.record(Outcome::Failure);
    }
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.state, State::Open);
    assert_eq!((snapshot.totals.failures, snapshot.totals.stale), (20, 980));
    assert_eq!((snapshot.attempt, snapshot.in_flight), (1, 0));
    assert_eq!(transitions(&breaker), 1);
    let history = breaker.calls(&CallsQuery::new().outcome(CallOutcome::Failure));
    let stale = history.calls.iter().filter(|call| call.stale).count();
    assert_eq!((history.matching, stale), (1_000, 980));
}

// T38
#[tokio::test(start_paused = true)]
async fn time_window_shows_between_nine_tenths_of_its_time_and_all_of_it() {
    let config = || {
        plain()
            .window(Window::Time(10 * SECOND))
            .minimum_calls(1)
            .failure_rate(None)
    };
    // At the beginning of a bucket, and at its end.
    for (begins, last_seen) in [
        (Duration::ZERO, 10 * SECOND - NANOSECOND),
        (SECOND - NANOSECOND, 9 * SECOND),
    ] {
        let breaker = breaker(config());
        advance(begins).await;
        record(&breaker, 1, Outcome::Failure);
        advance(last_seen).await;
        assert_eq!(breaker.snapshot().window.failures, 1);
        advance(NANOSECOND).await;
        assert_eq!(breaker.snapshot().window.failures, 0);
    }
}

// Beyond the table: what the thresholds of other kinds do.

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_open_below_the_minimum() {
    let config = of_calls(100).consecutive_failures(3).failure_rate(None);
    let mut play = Play::new(config);
    play.run(
        "E E S E E I => closed - 1 5 4 0
         E           => open   - 1 6 5 0",
    )
    .await;
    assert_eq!(play.breaker.snapshot().reason, Reason::ConsecutiveFailures);
}

#[tokio::test(start_paused = true)]
async fn success_ends_a_row_of_failures_whatever_the_rate() {
    let config = of_calls(1).consecutive_failures(3).failure_rate(None);
    let mut play = Play::new(config);
    play.run(
        "E E S E E S S E E => closed 100 0 1 1 0
         E                 => open   100 0 1 1 0",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_hang_open_the_circuit() {
    calls_that_hang(Duration::ZERO).await;
    calls_that_hang(HOUR).await;
}

/// On a breaker that is idle for so long first.
async fn calls_that_hang(idle: Duration) {
    let after = 8 * SECOND;
    let breaker = breaker(plain().overdue_calls(after, 3));
    advance(idle).await;
    let hung: Vec<_> = (0..3).map(|_| breaker.try_acquire().unwrap()).collect();
    advance(after - NANOSECOND).await;
    assert_eq!(breaker.state(), State::Closed);
    // Known to an eighth of the time.
    advance(after / 8 + NANOSECOND).await;
    let open = breaker.try_acquire().unwrap_err();
    assert_eq!(open.reason(), Reason::OverdueCalls);
    drop(hung);
    assert_eq!(breaker.snapshot().totals.stale, 3);
}

#[tokio::test(start_paused = true)]
async fn calls_that_ended_are_not_overdue() {
    let after = 8 * SECOND;
    let breaker = breaker(plain().overdue_calls(after, 3));
    for how in [Some(Outcome::Success), Some(Outcome::Ignore), None] {
        let hung: Vec<_> = (0..2).map(|_| breaker.try_acquire().unwrap()).collect();
        let permit = breaker.try_acquire().unwrap();
        advance(SECOND).await;
        end(permit, how);
        advance(2 * after).await;
        assert_eq!(breaker.state(), State::Closed, "{how:?}");
        for permit in hung {
            permit.record(Outcome::Success);
        }
    }
    // Each call of a stream of them is in time.
    for _ in 0..100 {
        let permits: Vec<_> = (0..3).map(|_| breaker.try_acquire().unwrap()).collect();
        advance(after - SECOND).await;
        for permit in permits {
            permit.record(Outcome::Success);
        }
    }
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn overdue_calls_of_an_earlier_state_are_forgotten() {
    let after = 8 * SECOND;
    let breaker = breaker(plain().overdue_calls(after, 2));
    let _hung: Vec<_> = (0..2).map(|_| breaker.try_acquire().unwrap()).collect();
    breaker.reset();
    advance(2 * after).await;
    record(&breaker, 1, Outcome::Success);
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn dropped_call_fails_if_it_took_that_long() {
    let breaker = breaker(of_calls(10).dropped_fails_after(SECOND));
    for (took, failures, dropped) in [
        (SECOND - NANOSECOND, 0, 1),
        (SECOND, 1, 1),
        (90 * SECOND, 2, 1),
    ] {
        let permit = breaker.try_acquire().unwrap();
        advance(took).await;
        drop(permit);
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot.window.failures, failures);
        assert_eq!(snapshot.totals.dropped, dropped);
    }
    let calls = breaker.calls(&CallsQuery::new()).calls;
    let outcomes: Vec<_> = calls.iter().map(|call| call.outcome).collect();
    let (failure, dropped) = (CallOutcome::Failure, CallOutcome::Dropped);
    assert_eq!(outcomes, [failure, failure, dropped]);
}

#[tokio::test(start_paused = true)]
async fn first_bad_probe_opens_where_all_must_succeed() {
    let config = of_calls(10)
        .probes(3)
        .probe_rule(ProbeRule::AllMustSucceed)
        .slow_calls(SECOND, 100.0);
    for bad in ["E", "S2"] {
        let mut play = Play::new(config.clone());
        play.run("open half S S").await;
        assert_eq!(play.breaker.state(), State::HalfOpen);
        play.run(bad).await;
        let snapshot = play.breaker.snapshot();
        assert_eq!(snapshot.state, State::Open, "after `{bad}`");
        assert_eq!(snapshot.reason, Reason::ProbeFailed);
    }
    // The minimum of calls does not matter.
    let mut play = Play::new(config.minimum_calls(1));
    play.run(
        "open half S S => half_open - 2 2 0 0
         S             => closed    - 0 0 0 0",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_metrics_only_would_have_refused_are_counted() {
    let breaker = breaker(of_calls(2).failure_rate(100.0));
    breaker.metrics_only();
    record(&breaker, 2, Outcome::Failure);
    assert_eq!(breaker.snapshot().would_reject(), 0);
    record(&breaker, 4, Outcome::Success);
    assert_eq!(breaker.snapshot().would_reject(), 4);
    advance(5 * SECOND).await;
    record(&breaker, 4, Outcome::Success);
    assert_eq!(breaker.snapshot().would_reject(), 4);
    record(&breaker, 2, Outcome::Failure);
    record(&breaker, 1, Outcome::Success);
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.would_reject(), 5);
    assert_eq!(snapshot.totals.rejected(), 0);
    assert_eq!(snapshot.state, State::MetricsOnly);
}

#[tokio::test(start_paused = true)]
async fn time_of_refusals_of_metrics_only_is_not_prolonged_by_more_failures() {
    let breaker = breaker(of_calls(2).failure_rate(100.0));
    breaker.metrics_only();
    record(&breaker, 2, Outcome::Failure);
    advance(3 * SECOND).await;
    record(&breaker, 1, Outcome::Failure);
    assert_eq!(breaker.snapshot().would_reject(), 1);
    advance(2 * SECOND).await;
    record(&breaker, 1, Outcome::Success);
    assert_eq!(breaker.snapshot().would_reject(), 1);
}

#[tokio::test(start_paused = true)]
async fn time_of_refusals_of_metrics_only_ends_with_the_state() {
    let breaker = breaker(of_calls(2).failure_rate(100.0));
    breaker.metrics_only();
    record(&breaker, 2, Outcome::Failure);
    breaker.disable();
    breaker.metrics_only();
    record(&breaker, 3, Outcome::Success);
    assert_eq!(breaker.snapshot().would_reject(), 0);
}

#[tokio::test(start_paused = true)]
async fn wait_that_is_asked_for_counts_while_metrics_only_are_kept() {
    let breaker = breaker(of_calls(100));
    breaker.metrics_only();
    record(&breaker, 1, Outcome::OpenFor(60 * SECOND));
    assert_eq!(breaker.state(), State::MetricsOnly);
    advance(59 * SECOND).await;
    record(&breaker, 1, Outcome::Success);
    assert_eq!(breaker.snapshot().would_reject(), 1);
    advance(SECOND).await;
    record(&breaker, 1, Outcome::Success);
    assert_eq!(breaker.snapshot().would_reject(), 1);
}

#[tokio::test(start_paused = true)]
async fn overdue_calls_count_while_metrics_only_are_kept() {
    let after = 8 * SECOND;
    let breaker = breaker(plain().overdue_calls(after, 2));
    breaker.metrics_only();
    let _hung: Vec<_> = (0..2).map(|_| breaker.try_acquire().unwrap()).collect();
    advance(2 * after).await;
    // A closed breaker would open before it, and refuse it.
    record(&breaker, 1, Outcome::Success);
    assert_eq!(breaker.snapshot().would_reject(), 1);
    record(&breaker, 1, Outcome::Success);
    assert_eq!(breaker.snapshot().would_reject(), 2);
    assert_eq!(breaker.state(), State::MetricsOnly);
}

#[tokio::test(start_paused = true)]
async fn command_finds_the_breaker_as_it_is_by_then() {
    let breaker = breaker(plain());
    breaker.open().unwrap();
    advance(6 * SECOND).await;
    breaker.open().unwrap();
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.state, State::Open);
    assert_eq!(snapshot.retry_after, Some(5 * SECOND));
    assert_eq!((snapshot.attempt, transitions(&breaker)), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn only_calls_of_a_half_open_breaker_are_probes() {
    let breaker = breaker(plain());
    assert!(!breaker.try_acquire().unwrap().is_probe());
    breaker.open().unwrap();
    breaker.half_open().unwrap();
    assert!(breaker.try_acquire().unwrap().is_probe());
    breaker.metrics_only();
    assert!(!breaker.try_acquire().unwrap().is_probe());
}

// "To whoever looks it is as if a timer had run", the documentation of the breaker says.
#[tokio::test(start_paused = true)]
async fn wait_that_is_over_ended_when_it_was_over_and_not_when_somebody_looked() {
    let breaker = breaker(plain());
    breaker.open().unwrap();
    advance(60 * SECOND).await;
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.state, State::HalfOpen);
    assert_eq!(snapshot.age, 55 * SECOND);
    assert_eq!(breaker.transitions()[0].age, 55 * SECOND);
}
