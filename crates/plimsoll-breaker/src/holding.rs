//! A breaker as a holding: what it holds is its history.

use crate::{CircuitBreaker, breaker::Shared, history};
use plimsoll_core::{
    Bounded, BoxFuture, CloseReport, Holding, RemovalReason, Removed, Step, Totals, Usage,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

impl Holding for CircuitBreaker {
    fn bounded(&self) -> Arc<dyn Bounded> {
        self.shared().clone()
    }
}

/// The records of the history are its entries. Closing it ends the history; the breaker goes on.
impl Bounded for Shared {
    fn name(&self) -> &str {
        self.name().as_str()
    }

    fn usage(&self) -> Usage {
        let calls = self.held_calls();
        let transitions = self.history.transition_count() as u64;
        let usage = Usage::new(calls + transitions, self.history.meter.bytes());
        let config = self.history_config();
        match (config.calls, config.transitions) {
            (0, _) | (_, 0) => usage,
            (calls, transitions) => usage.with_max_entries((calls + transitions) as u64),
        }
    }

    fn totals(&self) -> Totals {
        let (inserted, mut removed) = self.history.transition_totals();
        let other = self.history.removed_calls();
        let recorded: u64 = (self.stripes().iter())
            .map(|stripe| stripe.lock().recorded)
            .sum();
        // What is neither held nor went for another reason made room for newer calls.
        let capacity = recorded.saturating_sub(self.held_calls() + other.total());
        removed += other;
        removed.add(RemovalReason::Capacity, capacity);
        Totals::new(inserted + recorded, removed)
    }

    fn sweep(&self, now: Instant, budget: usize) -> Step {
        // What has to happen by now happens, even if nobody calls.
        self.look(|_, _| ());
        let (removed, done) = self.sweep_records(budget);
        if !done {
            return Step::more(removed);
        }
        self.history.swept(self.ticks());
        let config = self.history_config();
        if !config.enabled || config.retention.is_zero() {
            return Step {
                removed,
                ..Step::idle()
            };
        }
        Step::at(removed, now + config.sweep_interval)
    }

    fn shrink(&self, share: f64, _: usize) -> Step {
        // A chunk is dropped in a few nanoseconds, so that one slice does it.
        let keep = |records: u64| (records as f64 * (1.0 - share.clamp(0.0, 1.0))) as usize;
        let calls = keep(self.held_calls());
        let transitions = keep(self.history.transition_count() as u64);
        let removed = self.keep(calls, transitions, RemovalReason::Pressure);
        Step {
            removed,
            ..Step::idle()
        }
    }

    fn close(self: Arc<Self>, _: Instant) -> BoxFuture<'static, CloseReport> {
        Box::pin(async move {
            self.history.close();
            for stripe in self.stripes() {
                stripe.lock().keeps_calls = false;
            }
            let removed = self.keep(0, 0, RemovalReason::Closed);
            CloseReport::dropped(removed.total())
        })
    }
}

impl Shared {
    /// Calls in the history: no more than the cap, whatever memory holds.
    pub(crate) fn held_calls(&self) -> u64 {
        let (held, cap) = self.calls_in_memory();
        held.min(cap) as u64
    }

    fn calls_in_memory(&self) -> (usize, usize) {
        let filling: usize = (self.stripes().iter())
            .map(|stripe| stripe.lock().chunk.len())
            .sum();
        let (full, cap) = self.history.full_calls();
        (full + filling, cap)
    }

    /// Drops records that are too old, about `budget` at a time.
    fn sweep_records(&self, budget: usize) -> (Removed, bool) {
        let config = self.history_config();
        let cutoff = history::cutoff(&config, self.ticks());
        if cutoff == 0 {
            return (Removed::NONE, true);
        }
        let (held, cap) = self.calls_in_memory();
        let (mut calls, calls_done) = self.history.sweep_calls(cutoff, budget);
        if calls_done {
            for stripe in self.stripes() {
                let mut local = stripe.lock();
                calls += local.chunk.trim(cutoff);
                if local.chunk.len() == 0 {
                    self.history.take_back(std::mem::take(&mut local.chunk));
                }
            }
        }
        let calls = self.count_removed(RemovalReason::Expired, calls, held, cap);
        let left = budget.saturating_sub(calls as usize).max(1);
        let (transitions, transitions_done) = self.history.sweep_transitions(cutoff, left);
        let removed = Removed::expired(calls + transitions as u64);
        (removed, calls_done && transitions_done)
    }

    /// Keeps the newest so many records, about.
    pub(crate) fn keep(&self, calls: usize, transitions: usize, reason: RemovalReason) -> Removed {
        let (held, cap) = self.calls_in_memory();
        let excess = held.saturating_sub(calls);
        let mut dropped = self.history.drop_calls(excess);
        for stripe in self.stripes() {
            if dropped >= excess {
                break;
            }
            let mut local = stripe.lock();
            dropped += local.chunk.forget(excess - dropped);
            if local.chunk.len() == 0 {
                self.history.take_back(std::mem::take(&mut local.chunk));
            }
        }
        let dropped = self.count_removed(reason, dropped, held, cap);
        let transitions = self.history.keep_transitions(transitions, reason);
        Removed::of(reason, dropped + transitions)
    }

    /// Counts calls that left memory. What was over the cap had left the history before.
    fn count_removed(&self, reason: RemovalReason, calls: usize, held: usize, cap: usize) -> u64 {
        let over = held.saturating_sub(cap);
        let counted = calls.saturating_sub(over) as u64;
        self.history.count_removed(reason, counted);
        counted
    }

    pub(crate) fn cleanup(&self) -> Removed {
        self.look(|_, _| ());
        let mut removed = Removed::NONE;
        loop {
            let (slice, done) = self.sweep_records(1_000);
            removed += slice;
            if done {
                self.history.swept(self.ticks());
                return removed;
            }
        }
    }
}

/// Trims the history of a breaker by hand, as an operator does who needs the memory.
impl CircuitBreaker {
    /// Keeps about the newest so many records of the history, and drops the others.
    #[allow(clippy::must_use_candidate, reason = "most want the effect alone")]
    pub fn trim(&self, calls: usize, transitions: usize) -> Removed {
        self.shared()
            .keep(calls, transitions, RemovalReason::Manual)
    }

    /// How long until the history is swept again, if it is registered.
    #[must_use]
    pub fn sweep_interval(&self) -> Duration {
        self.shared().history_config().sweep_interval
    }
}
