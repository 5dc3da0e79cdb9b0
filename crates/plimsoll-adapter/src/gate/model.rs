//! The gate against one that is too simple to be wrong.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use super::{Gate, Line, caller::Caller};
use crate::AdapterConfig;
use plimsoll_core::RejectReason;
use proptest::{collection::vec, prelude::*};
use std::{
    array::from_fn, collections::BTreeMap, future::poll_fn, pin::pin, sync::Arc, task::Poll,
    thread, time::Duration,
};

/// What callers and operators do. A number chooses among those who are there.
#[derive(Clone, Debug)]
enum Step {
    Enter { bytes: u64 },
    Poll(usize),
    Leave(usize),
    Configure(Limits),
    Close,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    in_flight: usize,
    queued: usize,
    bytes: Option<u64>,
}

impl Limits {
    fn config(self) -> AdapterConfig {
        AdapterConfig::new()
            .max_in_flight(self.in_flight)
            .max_queued(self.queued)
            .max_queued_bytes(self.bytes)
    }
}

/// Lists of who holds a slot and who waits, in order.
struct Naive {
    limits: Limits,
    holding: Vec<usize>,
    waiting: Vec<(usize, u64)>,
    closed: bool,
}

impl Naive {
    fn enter(&mut self, caller: usize, bytes: u64) -> Result<(), RejectReason> {
        if self.closed {
            return Err(RejectReason::ShuttingDown);
        }
        if self.waiting.is_empty() && self.holding.len() < self.limits.in_flight {
            self.holding.push(caller);
            return Ok(());
        }
        if self.limits.queued == 0 {
            return Err(RejectReason::InFlightLimit);
        }
        let too_heavy = self
            .limits
            .bytes
            .is_some_and(|most| self.bytes() + bytes > most);
        if self.waiting.len() >= self.limits.queued || too_heavy {
            return Err(RejectReason::QueueFull);
        }
        self.waiting.push((caller, bytes));
        Ok(())
    }

    fn leave(&mut self, caller: usize) {
        self.holding.retain(|one| *one != caller);
        self.waiting.retain(|(one, _)| *one != caller);
        self.admit();
    }

    fn admit(&mut self) {
        while !self.closed && !self.waiting.is_empty() && self.holding.len() < self.limits.in_flight
        {
            self.holding.push(self.waiting.remove(0).0);
        }
    }

    fn bytes(&self) -> u64 {
        self.waiting.iter().map(|(_, bytes)| bytes).sum()
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    let bytes = proptest::option::of(1..20_u64);
    (1..5_usize, 0..6_usize, bytes).prop_map(|(in_flight, queued, bytes)| Limits {
        in_flight,
        queued,
        bytes,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        60 => (0..8_u64).prop_map(|bytes| Step::Enter { bytes }),
        40 => any::<usize>().prop_map(Step::Poll),
        40 => any::<usize>().prop_map(Step::Leave),
        20 => limits().prop_map(Step::Configure),
        1 => Just(Step::Close),
    ]
}

fn pick(callers: &BTreeMap<usize, Caller<'_>>, choice: usize) -> Option<usize> {
    let place = choice.checked_rem(callers.len())?;
    callers.keys().nth(place).copied()
}

fn run(first: Limits, steps: Vec<Step>) {
    let gate = Gate::new(&first.config());
    let mut naive = Naive {
        limits: first,
        holding: Vec::new(),
        waiting: Vec::new(),
        closed: false,
    };
    let mut callers = BTreeMap::new();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Enter { bytes } => {
                let mut caller = Caller::join(&gate, bytes);
                assert_eq!(caller.refused, naive.enter(number, bytes).err());
                if caller.refused.is_none() {
                    caller.poll();
                    callers.insert(number, caller);
                }
            }
            Step::Poll(choice) => {
                if let Some(one) = pick(&callers, choice) {
                    let caller = callers.get_mut(&one).unwrap();
                    let waited = caller.place.is_some();
                    caller.poll();
                    if waited && naive.closed {
                        assert_eq!(caller.refused, Some(RejectReason::ShuttingDown));
                        naive.leave(one);
                        callers.remove(&one);
                    } else {
                        assert_eq!(caller.slot.is_some(), naive.holding.contains(&one));
                    }
                }
            }
            Step::Leave(choice) => {
                if let Some(one) = pick(&callers, choice) {
                    callers.remove(&one);
                    naive.leave(one);
                }
            }
            Step::Configure(limits) => {
                naive.limits = limits;
                naive.admit();
                gate.configure(&limits.config());
                gate.hand_over();
            }
            Step::Close => {
                naive.closed = true;
                gate.close();
            }
        }
        assert_alike(&gate, &naive, &callers);
    }
    callers.clear();
    assert_eq!(
        (gate.in_flight(), gate.queue().calls, gate.queue().bytes),
        (0, 0, 0)
    );
}

fn assert_alike(gate: &Gate, naive: &Naive, callers: &BTreeMap<usize, Caller<'_>>) {
    assert_eq!(gate.in_flight(), naive.holding.len() as u64);
    assert_eq!(gate.max_in_flight(), naive.limits.in_flight as u64);
    assert_eq!(gate.queue().calls, naive.waiting.len() as u64);
    assert_eq!(gate.queue().bytes, naive.bytes());
    assert_eq!(gate.word().has_line(), !naive.waiting.is_empty());
    for (one, caller) in callers {
        let turn = naive.closed || naive.holding.contains(one);
        assert_eq!(
            caller.place.is_some() && turn,
            caller.place.is_some() && caller.is_woken()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gate_does_as_a_simple_one_whatever_is_done_to_it(
        first in limits(),
        steps in vec(step(), 1..200),
    ) {
        run(first, steps);
    }
}

fn config(max_in_flight: usize, max_queued: usize) -> AdapterConfig {
    let config = AdapterConfig::new().max_in_flight(max_in_flight);
    config.max_queued(max_queued)
}

#[test]
fn those_who_leave_the_line_early_take_no_more_than_half_of_it() {
    let gate = Gate::new(&config(1, 1_000));
    let _slot = gate.try_enter().unwrap().unwrap();
    let (first, last) = (Caller::join(&gate, 1), Caller::join(&gate, 1));
    let places = || gate.line.lock().waiters.len();
    for round in 0..1_000 {
        let comes = Caller::join(&gate, 1);
        // The last in line stays the last, so that no end of it is cleared.
        let stays = Caller::join(&gate, 1);
        drop(comes);
        drop(stays);
        assert!(places() <= 2 * 4 + Line::KEPT, "round {round}");
    }
    let mut line: Vec<_> = (0..900).map(|_| Caller::join(&gate, 1)).collect();
    // From the middle, so that no end of it is cleared.
    line.drain(100..800);
    assert!(places() <= 2 * 202 + Line::KEPT);
    assert_eq!((gate.queue().calls, gate.queue().bytes), (202, 202));
    drop((line, first, last));
    assert_eq!((places(), gate.queue().calls), (0, 0));
    assert!(gate.line.lock().waiters.capacity() <= 2 * Line::KEPT);
}

#[test]
fn place_is_not_lost_where_others_left_early() {
    let gate = Gate::new(&config(1, 1_000));
    let slot = gate.try_enter().unwrap().unwrap();
    let mut line: Vec<_> = (0..200).map(|_| Caller::join(&gate, 0)).collect();
    let mut number = 0;
    line.retain(|_| {
        number += 1;
        number % 10 == 0
    });
    drop(slot);
    for caller in &mut line {
        caller.poll();
        assert!(caller.slot.take().is_some(), "in order");
    }
    assert_eq!(gate.in_flight(), 0);
}

#[test]
fn slot_that_is_there_for_those_who_wait_is_not_a_newcomers() {
    let gate = Gate::new(&config(1, 9));
    let slot = gate.try_enter().unwrap().unwrap();
    let mut waiting = Caller::join(&gate, 0);
    // Between the change and the handing over, where another thread may come.
    gate.configure(&config(2, 9));
    assert!(gate.try_enter().unwrap().is_none());
    let late = Caller::join(&gate, 0);
    assert!(late.place.is_some());
    gate.hand_over();
    waiting.poll();
    assert!(waiting.slot.is_some());
    drop((slot, waiting, late));
    assert_eq!(gate.in_flight(), 0);
}

#[test]
fn caller_is_woken_by_the_waker_it_was_polled_with_last() {
    let gate = Gate::new(&config(1, 1));
    let slot = gate.try_enter().unwrap().unwrap();
    let mut caller = Caller::join(&gate, 0);
    caller.poll();
    let before = caller.change_bell();
    caller.poll();
    drop(slot);
    assert!(caller.is_woken() && !before());
}

/// Limits are lowered and raised by one thread while others call; calls in flight are counted by
/// those who make them.
#[test]
fn slots_are_neither_lost_nor_made_when_limits_change_under_load() {
    const MOST: usize = 8;
    const ROUNDS: usize = 20_000;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_time()
        .build()
        .unwrap();
    let config = |slots: usize| config(slots, 64).queue_timeout(Duration::from_secs(3_600));
    let gate = Arc::new(Gate::new(&config(MOST)));
    let tasks: Vec<_> = (0..24)
        .map(|n| {
            let gate = gate.clone();
            runtime.spawn(async move {
                for round in 0..ROUNDS {
                    // Some leave the line early, or with a slot they have not seen.
                    if (n + round) % 5 == 0 {
                        let mut enter = pin!(gate.enter(1));
                        let _ = poll_fn(|cx| Poll::Ready(enter.as_mut().poll(cx))).await;
                        tokio::task::yield_now().await;
                        continue;
                    }
                    let slot = match gate.try_enter().unwrap() {
                        Some(slot) => slot,
                        None => gate.enter(1).await.unwrap(),
                    };
                    assert!(gate.in_flight() <= MOST as u64);
                    if round % 3 == 0 {
                        tokio::task::yield_now().await;
                    }
                    drop(slot);
                }
            })
        })
        .collect();
    let changing = [0, 1].map(|seed| {
        let gate = gate.clone();
        thread::spawn(move || {
            let mut rng = fastrand::Rng::with_seed(seed);
            for _ in 0..ROUNDS {
                gate.configure(&config(rng.usize(1..=MOST)));
                gate.hand_over();
            }
        })
    });
    for thread in changing {
        thread.join().unwrap();
    }
    runtime.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(
        (gate.in_flight(), gate.queue().calls, gate.queue().bytes),
        (0, 0, 0)
    );
    for slots in [3, 7, 1] {
        gate.configure(&config(slots));
        let taken: [_; MOST] = from_fn(|_| gate.try_enter().unwrap());
        assert_eq!(taken.iter().flatten().count(), slots);
    }
}
