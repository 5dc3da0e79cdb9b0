use crate::{
    HistoryUsage, Reason, State,
    history::View as Times,
    machine::{NEVER, View},
};
use plimsoll_core::Name;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// Everything that is known of a breaker at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The breaker's name.
    pub name: Name,
    /// Its key, for one of [keyed breakers](crate::KeyedBreakers).
    pub key: Option<Arc<str>>,
    /// The state it is in.
    pub state: State,
    /// Why it is in that state.
    pub reason: Reason,
    /// Since when, by the clock on the wall.
    pub since: SystemTime,
    /// For how long.
    pub age: Duration,
    /// While open: how long until a call may pass; `None` until told.
    pub retry_after: Option<Duration>,
    /// What it judges by: the window while closed, the probes that answered while half open, and
    /// what opened it while open.
    pub window: WindowSnapshot,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// Calls refused since it is in this state.
    pub rejected: u64,
    /// Calls that hold a permit.
    pub in_flight: u64,
    /// Probes in flight.
    pub probes_in_flight: u32,
    /// Probes that may still pass in this half-open round.
    pub probes_free: u32,
    /// How many times it has opened without closing in between.
    pub attempt: u32,
    /// How many times it has changed its state or been reset.
    pub generation: u64,
    /// Since the breaker was made.
    pub totals: CallTotals,
    /// How often it went where and why, since it was made.
    pub transitions: Vec<TransitionCount>,
    /// Events that nobody was told of, because too many waited for a slow observer.
    pub lost_events: u64,
    /// The history.
    pub history: HistoryUsage,
    /// Bytes on the heap, but for observers and subscribers.
    pub bytes: u64,
}

/// Calls by what they were, and their rates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct WindowSnapshot {
    /// Calls.
    pub calls: u32,
    /// Those that failed.
    pub failures: u32,
    /// Those that were slow.
    pub slow: u32,
    /// Those that were slow and failed.
    pub slow_failures: u32,
    /// The percentage of failures; `None` below the minimum of calls.
    pub failure_rate: Option<f64>,
    /// The percentage of slow calls; `None` below the minimum, and where no call is slow by
    /// configuration.
    pub slow_rate: Option<f64>,
}

impl WindowSnapshot {
    /// Those that did not fail.
    #[must_use]
    pub const fn successes(&self) -> u32 {
        self.calls.saturating_sub(self.failures)
    }
}

/// Calls since a breaker was made. Those that it was disabled for are in none of them, unless they
/// ended later: those are stale.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct CallTotals {
    /// Calls that did well.
    pub successes: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Those of both that were slow.
    pub slow: u64,
    /// Calls that said nothing about the downstream.
    pub ignored: u64,
    /// Calls whose caller went away.
    pub dropped: u64,
    /// Calls that ended after the breaker had changed its state, and probes that ended after their
    /// lease, which are among the failures already.
    pub stale: u64,
    /// Calls refused while open.
    pub rejected_open: u64,
    /// Calls refused while half open.
    pub rejected_half_open: u64,
    /// Calls refused while forced open.
    pub rejected_forced_open: u64,
    /// Calls that passed while only metrics were kept and would have been refused otherwise: those
    /// in the `open_for` after each time a threshold was reached.
    pub would_reject: u64,
}

impl CallTotals {
    /// Calls refused in any state.
    #[must_use]
    pub const fn rejected(&self) -> u64 {
        self.rejected_open + self.rejected_half_open + self.rejected_forced_open
    }
}

/// How often a breaker went from one state to another for one reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct TransitionCount {
    /// The state that was left.
    pub from: State,
    /// The state that was entered.
    pub to: State,
    /// Why.
    pub reason: Reason,
    /// How often.
    pub count: u64,
}

impl Snapshot {
    /// Calls that passed and would have been refused, see [`CallTotals::would_reject`].
    #[must_use]
    pub const fn would_reject(&self) -> u64 {
        self.totals.would_reject
    }
}

/// What is put into a snapshot besides the view of the machine.
pub(crate) struct Rest {
    pub(crate) name: Name,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) in_flight: u64,
    pub(crate) transitions: Vec<(State, State, Reason, u64)>,
    pub(crate) history: HistoryUsage,
    pub(crate) bytes: u64,
    pub(crate) lost_events: u64,
}

pub(crate) fn of(view: &View, times: &Times, rest: Rest) -> Snapshot {
    let (since, age) = times.time(view.since);
    let retry_after =
        (view.until != NEVER).then(|| Duration::from_nanos(view.until.saturating_sub(times.now)));
    let transitions = rest.transitions.into_iter();
    Snapshot {
        name: rest.name,
        key: rest.key,
        state: view.state,
        reason: view.reason,
        since,
        age,
        retry_after,
        window: WindowSnapshot {
            calls: view.counts.calls,
            failures: view.counts.failures,
            slow: view.counts.slow,
            slow_failures: view.counts.slow_failures,
            failure_rate: view.failure_rate,
            slow_rate: view.slow_rate,
        },
        consecutive_failures: view.consecutive,
        rejected: view.rejected,
        in_flight: rest.in_flight,
        probes_in_flight: view.probes_in_flight,
        probes_free: view.probes_free,
        attempt: view.attempt,
        generation: view.generation,
        totals: view.totals,
        transitions: transitions
            .map(|(from, to, reason, count)| TransitionCount {
                from,
                to,
                reason,
                count,
            })
            .collect(),
        lost_events: rest.lost_events,
        history: rest.history,
        bytes: rest.bytes,
    }
}
