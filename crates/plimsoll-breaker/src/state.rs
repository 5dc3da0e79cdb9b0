use std::fmt;

/// What a breaker does with calls.
///
/// ```text
///                     too many failures, slow or overdue calls
///          +--------+ ----------------------------------------> +------+
///          | Closed |                                           | Open | <---------+
///          +--------+ <------------- +----------+ <------------ +------+           |
///                      probes did well | HalfOpen |  waited                        |
///                                      +----------+ --------------------------------+
///                                                     probes did badly
/// ```
///
/// `ForcedOpen`, `Disabled` and `MetricsOnly` are entered and left by hand only.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[allow(
    clippy::exhaustive_enums,
    reason = "a closed set: whoever shows states must know them all"
)]
pub enum State {
    /// Calls pass, and their results are watched.
    Closed,
    /// Calls are refused until the wait is over.
    Open,
    /// A few calls, the probes, pass. They decide.
    HalfOpen,
    /// Calls are refused until told otherwise.
    ForcedOpen,
    /// Calls pass, and nothing is watched.
    Disabled,
    /// Calls pass and are watched, and what would have been refused is counted.
    MetricsOnly,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::Disabled,
        Self::MetricsOnly,
    ];

    /// The state as a metric label, in `snake_case`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::Disabled => "disabled",
            Self::MetricsOnly => "metrics_only",
        }
    }

    /// Whether ordinary calls are refused in this state. A half-open breaker lets probes pass.
    #[must_use]
    pub const fn refuses(self) -> bool {
        matches!(self, Self::Open | Self::ForcedOpen)
    }

    /// Whether a breaker in this state can be told to go to `to`.
    ///
    /// The table is resilience4j's: only closed → half-open, and metrics-only → open or
    /// half-open, make no sense.
    #[must_use]
    pub const fn may_become(self, to: Self) -> bool {
        !matches!(
            (self, to),
            (Self::Closed, Self::HalfOpen) | (Self::MetricsOnly, Self::Open | Self::HalfOpen)
        )
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a breaker went from one state to another.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Reason {
    /// The share of failures reached its threshold.
    FailureRate,
    /// The share of slow calls reached its threshold.
    SlowCallRate,
    /// As many calls in a row failed as may.
    ConsecutiveFailures,
    /// As many calls in flight were overdue as may be.
    OverdueCalls,
    /// The outcome of a call asked for it: [`Outcome::OpenFor`](crate::Outcome::OpenFor).
    Requested,
    /// A probe failed where all must succeed.
    ProbeFailed,
    /// The probes did well.
    ProbesSucceeded,
    /// The breaker had been half open for as long as it may.
    HalfOpenTimeout,
    /// The breaker had been open for as long as it should.
    WaitElapsed,
    /// The program or an operator asked for it.
    Manual,
    /// It is the breaker for keys without a place, see [`Overflow`](crate::Overflow).
    NoPlace,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::FailureRate,
        Self::SlowCallRate,
        Self::ConsecutiveFailures,
        Self::OverdueCalls,
        Self::Requested,
        Self::ProbeFailed,
        Self::ProbesSucceeded,
        Self::HalfOpenTimeout,
        Self::WaitElapsed,
        Self::Manual,
        Self::NoPlace,
    ];

    /// The reason as a metric label, in `snake_case`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FailureRate => "failure_rate",
            Self::SlowCallRate => "slow_call_rate",
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::OverdueCalls => "overdue_calls",
            Self::Requested => "requested",
            Self::ProbeFailed => "probe_failed",
            Self::ProbesSucceeded => "probes_succeeded",
            Self::HalfOpenTimeout => "half_open_timeout",
            Self::WaitElapsed => "wait_elapsed",
            Self::Manual => "manual",
            Self::NoPlace => "no_place",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::FailureRate => "too many calls failed",
            Self::SlowCallRate => "too many calls were slow",
            Self::ConsecutiveFailures => "too many calls in a row failed",
            Self::OverdueCalls => "too many calls are overdue",
            Self::Requested => "the downstream asked for a pause",
            Self::ProbeFailed => "a probe failed",
            Self::ProbesSucceeded => "the probes succeeded",
            Self::HalfOpenTimeout => "the probes took too long",
            Self::WaitElapsed => "the wait is over",
            Self::Manual => "by hand",
            Self::NoPlace => "there is no place for its key",
        })
    }
}
