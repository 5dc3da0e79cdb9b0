//! The races for a slot, in every order.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use super::{Gate, Slot, caller::Caller};
use crate::AdapterConfig;
use ::loom::{
    model,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};
use plimsoll_core::RejectReason;

fn config(max_in_flight: usize) -> AdapterConfig {
    AdapterConfig::new().max_in_flight(max_in_flight)
}

fn gate(max_in_flight: usize) -> Arc<Gate> {
    Arc::new(Gate::new(&config(max_in_flight)))
}

fn resize(gate: &Gate, max_in_flight: usize) {
    gate.configure(&config(max_in_flight));
    gate.hand_over();
}

/// Leaves a slot on a thread of its own, which cannot have one that is borrowed.
#[allow(clippy::mem_forget, reason = "the thread leaves in its place")]
fn leave_elsewhere(gate: &Arc<Gate>, slot: Slot<'_>) -> thread::JoinHandle<()> {
    std::mem::forget(slot);
    let gate = gate.clone();
    thread::spawn(move || gate.leave())
}

/// Joins, and is polled once.
fn join(gate: &Gate) -> Caller<'_> {
    let mut caller = Caller::join(gate, 0);
    caller.poll();
    caller
}

fn assert_idle(gate: &Gate) {
    assert_eq!((gate.in_flight(), gate.queue().calls), (0, 0));
    assert!(!gate.word().has_line());
}

#[test]
fn slot_that_comes_free_while_somebody_joins_the_line_is_theirs() {
    model(|| {
        let gate = gate(1);
        let other = gate.clone();
        let leaving = thread::spawn(move || drop(other.try_enter()));
        let mut caller = join(&gate);
        leaving.join().unwrap();
        caller.go_on();
        assert!(caller.slot.is_some(), "nobody else has one");
        drop(caller);
        assert_idle(&gate);
    });
}

#[test]
fn slot_that_is_handed_to_somebody_who_leaves_the_line_goes_on_to_the_next() {
    model(|| {
        let gate = gate(1);
        let slot = gate.try_enter().unwrap().unwrap();
        let mut first = join(&gate);
        let mut second = join(&gate);
        assert!(first.slot.is_none() && second.slot.is_none());
        let leaving = leave_elsewhere(&gate, slot);
        first.place = None;
        leaving.join().unwrap();
        second.go_on();
        assert!(second.slot.is_some());
        first.go_on();
        drop((first, second));
        assert_idle(&gate);
    });
}

#[test]
fn nobody_gets_in_by_a_limit_that_was_lowered() {
    model(|| {
        let gate = gate(2);
        let slot = gate.try_enter().unwrap().unwrap();
        let others = [gate.clone(), gate.clone()];
        let [entering, leaving] = others;
        let lowered = Arc::new(AtomicUsize::new(0));
        let seen = lowered.clone();
        let entering = thread::spawn(move || {
            let before = seen.load(SeqCst) == 1;
            let entered = entering.try_enter().unwrap();
            // The first slot is held throughout.
            assert!(!(before && entered.is_some()), "the limit is one");
        });
        let leaving = thread::spawn(move || resize(&leaving, 2));
        leaving.join().unwrap();
        resize(&gate, 1);
        lowered.store(1, SeqCst);
        assert!(gate.try_enter().unwrap().is_none());
        entering.join().unwrap();
        assert_eq!(gate.in_flight(), 1);
        drop(slot);
        assert_idle(&gate);
    });
}

#[test]
fn slots_that_are_added_while_somebody_joins_the_line_are_theirs() {
    model(|| {
        let gate = gate(1);
        let slot = gate.try_enter().unwrap().unwrap();
        let raising = gate.clone();
        let raising = thread::spawn(move || resize(&raising, 2));
        let mut caller = join(&gate);
        raising.join().unwrap();
        caller.go_on();
        assert!(caller.slot.is_some());
        drop((slot, caller));
        assert_idle(&gate);
    });
}

#[test]
fn slot_is_left_while_the_limit_is_lowered_and_raised() {
    model(|| {
        let gate = gate(1);
        let slot = gate.try_enter().unwrap().unwrap();
        let mut caller = join(&gate);
        let leaving = leave_elsewhere(&gate, slot);
        resize(&gate, 2);
        resize(&gate, 1);
        leaving.join().unwrap();
        caller.go_on();
        assert!(caller.slot.is_some());
        assert_eq!((gate.in_flight(), gate.max_in_flight()), (1, 1));
        drop(caller);
        assert_idle(&gate);
    });
}

#[test]
fn whoever_joins_the_line_while_it_is_closed_is_refused() {
    model(|| {
        let gate = gate(1);
        let slot = gate.try_enter().unwrap().unwrap();
        let closing = gate.clone();
        let closing = thread::spawn(move || closing.close());
        let mut caller = join(&gate);
        closing.join().unwrap();
        caller.go_on();
        assert_eq!(caller.refused, Some(RejectReason::ShuttingDown));
        drop((slot, caller));
        assert_idle(&gate);
    });
}

#[test]
fn slot_that_was_handed_to_somebody_who_is_then_refused_is_free() {
    model(|| {
        let gate = gate(1);
        let slot = gate.try_enter().unwrap().unwrap();
        let mut caller = join(&gate);
        let closing = gate.clone();
        let closing = thread::spawn(move || closing.close());
        drop(slot);
        caller.go_on();
        closing.join().unwrap();
        caller.go_on();
        drop(caller);
        assert_idle(&gate);
    });
}
