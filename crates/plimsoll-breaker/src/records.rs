//! What readers are shown of the past.

use crate::{Reason, State};
use std::time::{Duration, SystemTime};

/// What became of a call.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum CallOutcome {
    /// It did well.
    Success,
    /// It failed, or panicked.
    Failure,
    /// It said nothing about the health of the downstream.
    Ignored,
    /// Its caller went away before it ended, and it was not held against the downstream.
    Dropped,
}

impl CallOutcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Success, Self::Failure, Self::Ignored, Self::Dropped];

    /// The outcome as a metric label, in `snake_case`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Ignored => "ignored",
            Self::Dropped => "dropped",
        }
    }
}

/// One call, as the history has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct CallRecord {
    /// When it ended, by the clock on the wall.
    pub ended_at: SystemTime,
    /// How long ago that was when the history was read, exact to 64 ns.
    pub age: Duration,
    /// How long it took: exact below 134 ms, to one part in 67 million above.
    pub duration: Duration,
    /// What became of it.
    pub outcome: CallOutcome,
    /// Whether it took longer than a call should.
    pub slow: bool,
    /// Whether it was one of the probes of a half-open breaker.
    pub probe: bool,
    /// Whether it began before the breaker changed its state, so that it decided nothing.
    pub stale: bool,
}

/// Which calls of a history to show. All, newest first, by default.
#[derive(Clone, Copy, Debug)]
pub struct CallsQuery {
    outcome: Option<CallOutcome>,
    slow: Option<bool>,
    within: Duration,
    pub(crate) skip: usize,
    pub(crate) limit: usize,
}

impl Default for CallsQuery {
    fn default() -> Self {
        Self::new()
    }
}

impl CallsQuery {
    /// All calls.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            outcome: None,
            slow: None,
            within: Duration::MAX,
            skip: 0,
            limit: usize::MAX,
        }
    }

    /// Only those with this outcome.
    #[must_use]
    pub const fn outcome(mut self, outcome: CallOutcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// Only those that were slow, or were not.
    #[must_use]
    pub const fn slow(mut self, slow: bool) -> Self {
        self.slow = Some(slow);
        self
    }

    /// Only those that ended within the last so long.
    #[must_use]
    pub const fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// Leaves out the newest so many of them.
    #[must_use]
    pub const fn skip(mut self, calls: usize) -> Self {
        self.skip = calls;
        self
    }

    /// No more than so many.
    #[must_use]
    pub const fn limit(mut self, calls: usize) -> Self {
        self.limit = calls;
        self
    }

    pub(crate) fn wants(&self, call: &CallRecord) -> bool {
        self.outcome.is_none_or(|outcome| outcome == call.outcome)
            && self.slow.is_none_or(|slow| slow == call.slow)
            && call.age <= self.within
    }
}

/// Calls of a history, newest first.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Calls {
    /// The calls asked for.
    pub calls: Vec<CallRecord>,
    /// How many calls there are of that kind, whatever was skipped and left out.
    pub matching: usize,
}

/// What a breaker knew when it changed its state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Evidence {
    /// Calls in the window, or probes that had answered.
    pub calls: u32,
    /// Those that failed.
    pub failures: u32,
    /// Those that were slow.
    pub slow: u32,
    /// Those that were slow and failed.
    pub slow_failures: u32,
    /// The percentage of failures; `None` below the minimum of calls.
    pub failure_rate: Option<f64>,
    /// The percentage of slow calls; `None` below the minimum of calls.
    pub slow_rate: Option<f64>,
    /// Calls refused in the state that was left.
    pub rejected: u64,
    /// How many times the breaker has changed its state or been reset.
    pub generation: u64,
    /// How many times it has opened without closing in between, this time included.
    pub attempt: u32,
    /// How long it will be open, if it opened; `None` until told.
    pub open_for: Option<Duration>,
}

/// One change of state.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Transition {
    /// When, by the clock on the wall.
    pub at: SystemTime,
    /// How long ago that was when the history was read.
    pub age: Duration,
    /// The state that was left.
    pub from: State,
    /// The state that was entered.
    pub to: State,
    /// Why.
    pub reason: Reason,
    /// What the breaker knew then.
    pub evidence: Evidence,
}

/// A change of state, as it is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransitionRecord {
    pub(crate) at: u64,
    pub(crate) from: State,
    pub(crate) to: State,
    pub(crate) reason: Reason,
    pub(crate) evidence: Evidence,
}
