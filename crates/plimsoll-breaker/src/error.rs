use crate::{Reason, State};
use plimsoll_core::{Name, RejectReason, Rejected};
use std::{error::Error, fmt, time::Duration};

/// A call was refused by a breaker, and nothing was done for it.
///
/// Its [source](Error::source) is the [`Rejected`] that every layer refuses with, so
/// [`Rejected::find`] finds it too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CircuitOpen {
    rejected: Rejected,
    state: State,
    reason: Reason,
}

impl CircuitOpen {
    pub(crate) fn new(
        breaker: Name,
        state: State,
        reason: Reason,
        retry_after: Option<Duration>,
    ) -> Self {
        let mut rejected = Rejected::new(RejectReason::CircuitOpen, breaker);
        if let Some(wait) = retry_after {
            rejected = rejected.with_retry_after(wait);
        }
        Self {
            rejected,
            state,
            reason,
        }
    }

    /// Finds the refusal of a breaker anywhere in `error`'s chain of sources.
    #[must_use]
    pub fn find<'a>(mut error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        loop {
            if let Some(open) = error.downcast_ref() {
                return Some(open);
            }
            error = error.source()?;
        }
    }

    /// The breaker's name.
    #[must_use]
    pub const fn breaker(&self) -> Name {
        self.rejected.source()
    }

    /// The state it was in: open, half open with all probes taken, or forced open.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Why it is in that state.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// How long until a call may pass again, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.rejected.retry_after()
    }

    /// The rejection, as every layer knows it.
    #[must_use]
    pub const fn rejected(&self) -> Rejected {
        self.rejected
    }
}

impl fmt::Display for CircuitOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, reason, .. } = self;
        write!(f, "circuit breaker {} is {state}: {reason}", self.breaker())
    }
}

impl Error for CircuitOpen {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.rejected)
    }
}

impl From<CircuitOpen> for Rejected {
    fn from(open: CircuitOpen) -> Self {
        open.rejected
    }
}

/// A breaker was told to go to a state that it cannot reach from the one it is in.
///
/// Nothing was changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IllegalTransition {
    breaker: Name,
    from: State,
    to: State,
}

impl IllegalTransition {
    pub(crate) const fn new(breaker: Name, from: State, to: State) -> Self {
        Self { breaker, from, to }
    }

    /// The breaker's name.
    #[must_use]
    pub const fn breaker(&self) -> Name {
        self.breaker
    }

    /// The state the breaker is in.
    #[must_use]
    pub const fn from(&self) -> State {
        self.from
    }

    /// The state it was told to go to.
    #[must_use]
    pub const fn to(&self) -> State {
        self.to
    }
}

impl fmt::Display for IllegalTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { breaker, from, to } = self;
        write!(f, "circuit breaker {breaker} cannot go from {from} to {to}")
    }
}

impl Error for IllegalTransition {}
