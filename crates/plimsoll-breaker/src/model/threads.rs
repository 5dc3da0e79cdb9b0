//! Threads at once against the naive breaker, one thing after another.

use super::{Naive, count};
use crate::{
    CallTotals, CallsQuery, CircuitBreaker, CircuitBreakerConfig, HistoryConfig, Outcome, Permit,
    State, Window,
    breaker::Member,
    machine::{Decision, Ended, View},
};
use plimsoll_core::Name;
use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

/// What one thread did, and what it saw.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Whether it was admitted.
    Acquired(bool),
    Ended(u64, Outcome),
    Reset,
    Saw(State),
}

/// Something that was done between two moments of an order of all.
#[derive(Clone, Copy, Debug)]
struct Done {
    began: usize,
    ended: usize,
    act: Act,
}

/// Whether that is what is left at the end.
///
/// A call that ends just while the circuit changes may be counted as what it was, though it comes
/// too late to decide anything, and one that is refused as one of the next state.
fn is_left(naive: &Naive, view: &View) -> bool {
    let (calls, _) = naive.judges_by();
    let (seen, expected) = (view.totals, naive.totals);
    let ended = |totals: CallTotals| totals.successes + totals.ignored + totals.stale;
    (view.state, view.reason) == (naive.state, naive.reason)
        && (view.generation, view.attempt) == (naive.generation, naive.attempt)
        && (view.counts, view.consecutive) == (count(&calls), naive.consecutive)
        && seen.failures == expected.failures
        && seen.successes >= expected.successes
        && seen.ignored >= expected.ignored
        && ended(seen) == ended(expected)
        && seen.rejected() == expected.rejected()
}

/// Whether some order of what the threads did, in which nothing comes after what began when it had
/// ended, explains what they saw and what is left.
fn is_explained(naive: &Naive, threads: &[&[Done]], view: &View) -> bool {
    if threads.iter().all(|thread| thread.is_empty()) {
        return is_left(naive, view);
    }
    let firsts = threads.iter().filter_map(|thread| thread.first());
    let soonest = firsts.map(|done| done.ended).min().unwrap_or(usize::MAX);
    (0..threads.len()).any(|number| {
        let Some((done, rest)) = threads[number].split_first() else {
            return false;
        };
        if done.began > soonest {
            return false;
        }
        let mut naive = naive.clone();
        let fits = match done.act {
            // A call may pass while the circuit opens, after one whose result comes too late.
            Act::Acquired(true) => true,
            Act::Acquired(false) => matches!(naive.acquire(0), Decision::Refused(_)),
            Act::Ended(generation, outcome) => {
                let call = Ended {
                    generation,
                    probe: 0,
                    outcome,
                    elapsed: 0,
                };
                let stale = naive.record(call, 0);
                naive.totals.ignored += u64::from(outcome == Outcome::Ignore && !stale);
                true
            }
            Act::Reset => {
                naive.reset(0);
                true
            }
            Act::Saw(state) => state == naive.state,
        };
        let mut threads = threads.to_vec();
        threads[number] = rest;
        fits && is_explained(&naive, &threads, view)
    })
}

/// Makes some calls on a stripe, and writes down what it does.
fn make_calls(
    breaker: &CircuitBreaker,
    stripe: usize,
    seed: u64,
    tickets: &AtomicUsize,
) -> Vec<Done> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut log = Vec::new();
    let mut write = |act: &mut dyn FnMut() -> Act| {
        let began = tickets.fetch_add(1, SeqCst);
        let act = act();
        let ended = tickets.fetch_add(1, SeqCst);
        log.push(Done { began, ended, act });
    };
    let shared = breaker.shared();
    let stripe = &shared.stripes()[stripe % shared.stripes().len()];
    for _ in 0..2 {
        let mut permit = None;
        let mut generation = 0;
        write(&mut || {
            permit = stripe
                .pass()
                .or_else(|| stripe.acquire(shared, shared.ticks()).ok());
            generation = permit.as_ref().map_or(0, Permit::generation);
            Act::Acquired(permit.is_some())
        });
        let outcome = match random.u8(0..8) {
            0..3 => Outcome::Failure,
            3 => Outcome::Ignore,
            _ => Outcome::Success,
        };
        if permit.is_some() {
            write(&mut || {
                if let Some(permit) = permit.take() {
                    permit.record(outcome);
                }
                Act::Ended(generation, outcome)
            });
        } else {
            write(&mut || {
                breaker.reset();
                Act::Reset
            });
        }
    }
    if random.bool() {
        write(&mut || Act::Saw(breaker.state()));
    }
    log
}

/// Runs so many threads, each with its number.
fn at_once<T: Send>(threads: usize, run: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let run = &run;
        let spawn = |number| scope.spawn(move || run(number));
        let threads = Vec::from_iter((0..threads).map(spawn));
        let join = |thread: std::thread::ScopedJoinHandle<'_, T>| thread.join().unwrap();
        threads.into_iter().map(join).collect()
    })
}

#[test]
fn what_threads_do_at_once_could_have_been_done_one_after_another() {
    for round in 0..1_500 {
        let config = CircuitBreakerConfig::new()
            .window(Window::Calls(1 + round % 5))
            .minimum_calls(1 + round % 4)
            .failure_rate(60.0)
            .consecutive_failures((round % 3 > 0).then_some(1 + round % 4))
            .open_for(Duration::from_secs(86_400))
            .open_max(Duration::from_secs(86_400))
            .history(HistoryConfig::disabled());
        let breaker = CircuitBreaker::of_checked(Name::new("model"), &config, Member::default());
        if round % 8 > 0 {
            breaker.shared().grow();
        }
        let (tickets, ready) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let logs = at_once(3, |stripe| {
            let seed = u64::from(round) * 3 + stripe as u64;
            ready.fetch_add(1, SeqCst);
            while ready.load(SeqCst) < 3 {
                std::hint::spin_loop();
            }
            make_calls(&breaker, stripe, seed, &tickets)
        });
        let view = breaker.shared().look(|machine, _| machine.view());
        let threads: Vec<_> = logs.iter().map(Vec::as_slice).collect();
        assert!(
            is_explained(&Naive::new(&config, 0), &threads, &view),
            "no order explains {view:?} after {logs:#?}"
        );
    }
}

#[test]
fn what_many_threads_count_is_what_they_did() {
    for grown in [false, true] {
        let config = CircuitBreakerConfig::new()
            .window(Window::Calls(65_536))
            .minimum_calls(65_536)
            .failure_rate(None);
        let breaker = CircuitBreaker::of_checked(Name::new("model"), &config, Member::default());
        if grown {
            breaker.shared().grow();
        }
        let counts = at_once(6, |seed| {
            let mut random = fastrand::Rng::with_seed(seed as u64);
            let mut counts = CallTotals::default();
            for _ in 0..3_000 {
                let permit = breaker.try_acquire().unwrap();
                let (outcome, counted) = match random.u8(0..100) {
                    0 => (Some(Outcome::Ignore), &mut counts.ignored),
                    1 => (None, &mut counts.dropped),
                    2 => (Some(Outcome::Failure), &mut counts.failures),
                    _ => (Some(Outcome::Success), &mut counts.successes),
                };
                *counted += 1;
                if let Some(outcome) = outcome {
                    permit.record(outcome);
                }
            }
            counts
        });
        let mut expected = CallTotals::default();
        for counts in counts {
            expected.successes += counts.successes;
            expected.failures += counts.failures;
            expected.ignored += counts.ignored;
            expected.dropped += counts.dropped;
        }
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot.totals, expected);
        assert_eq!(u64::from(snapshot.window.failures), expected.failures);
        let counted = expected.successes + expected.failures;
        assert_eq!(u64::from(snapshot.window.calls), counted);
        assert_eq!(snapshot.in_flight, 0);
        assert_eq!(
            breaker.calls(&CallsQuery::new()).matching,
            10_000,
            "the cap"
        );
    }
}
