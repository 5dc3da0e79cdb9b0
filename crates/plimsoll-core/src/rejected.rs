use crate::Name;
use std::{error::Error, fmt, time::Duration};

/// A request was refused, and nothing was done for it.
///
/// Every layer of Plimsoll refuses with this one type. In a Tower stack it travels as a
/// [`BoxError`](crate::BoxError) and is found again with [`Rejected::find`]; at the HTTP edge it
/// becomes a response whose status [`RejectReason::status`] tells. No breaker counts it as a
/// failure of the service it protects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rejected {
    reason: RejectReason,
    source: Name,
    retry_after: Option<Duration>,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum RejectReason {
    /// The request's own body is larger than its budget.
    BodyTooLarge,
    /// The circuit breaker of the downstream is open.
    CircuitOpen,
    /// As many requests as allowed are already in flight.
    InFlightLimit,
    /// The process has too little memory left to take the request on.
    MemoryPressure,
    /// The request went over its memory budget and was ended.
    OverBudget,
    /// As many requests as allowed already wait.
    QueueFull,
    /// The request waited as long as it may.
    QueueTimeout,
    /// The key the request belongs to, a tenant say, has used up its share.
    ShareExceeded,
    /// The service is stopping.
    ShuttingDown,
}

impl Rejected {
    /// Makes a rejection by `source`, the holding, adapter or layer that refused.
    #[must_use]
    pub const fn new(reason: RejectReason, source: Name) -> Self {
        Self {
            reason,
            source,
            retry_after: None,
        }
    }

    /// Says how long to wait before the same request may succeed.
    #[must_use]
    pub const fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// Finds a rejection anywhere in `error`'s chain of sources.
    #[must_use]
    pub fn find<'a>(mut error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        loop {
            if let Some(rejected) = error.downcast_ref() {
                return Some(rejected);
            }
            error = error.source()?;
        }
    }

    /// Why the request was refused.
    #[must_use]
    pub const fn reason(&self) -> RejectReason {
        self.reason
    }

    /// Who refused it.
    #[must_use]
    pub const fn source(&self) -> Name {
        self.source
    }

    /// How long to wait before the same request may succeed, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// [`retry_after`](Self::retry_after) as the value of a `Retry-After` header: whole seconds,
    /// rounded up, at least 1.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let wait = self.retry_after?;
        let round_up = u64::from(wait.subsec_nanos() > 0);
        Some(wait.as_secs().saturating_add(round_up).max(1))
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} refused: {}", self.source, self.reason)?;
        if let Some(wait) = self.retry_after {
            write!(f, ", retry after {:.1} s", wait.as_secs_f64())?;
        }
        Ok(())
    }
}

impl Error for Rejected {}

impl RejectReason {
    /// Every reason, in the order of their names.
    pub const ALL: [Self; 9] = [
        Self::BodyTooLarge,
        Self::CircuitOpen,
        Self::InFlightLimit,
        Self::MemoryPressure,
        Self::OverBudget,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::ShareExceeded,
        Self::ShuttingDown,
    ];

    /// The HTTP status that tells a client of this reason: 413 when its body is the cause, 429
    /// when its own share is, 503 when the service is (RFC 9110 §15.5.14, §15.6.4; RFC 6585 §4).
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BodyTooLarge => 413,
            Self::ShareExceeded => 429,
            Self::CircuitOpen
            | Self::InFlightLimit
            | Self::MemoryPressure
            | Self::OverBudget
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::ShuttingDown => 503,
        }
    }

    /// The reason as a metric label, in `snake_case`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BodyTooLarge => "body_too_large",
            Self::CircuitOpen => "circuit_open",
            Self::InFlightLimit => "in_flight_limit",
            Self::MemoryPressure => "memory_pressure",
            Self::OverBudget => "over_budget",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::ShareExceeded => "share_exceeded",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::BodyTooLarge => "the request body is larger than its budget",
            Self::CircuitOpen => "the circuit is open",
            Self::InFlightLimit => "too many requests are in flight",
            Self::MemoryPressure => "memory is short",
            Self::OverBudget => "the request went over its memory budget",
            Self::QueueFull => "the queue is full",
            Self::QueueTimeout => "the request waited too long",
            Self::ShareExceeded => "the caller has used up its share",
            Self::ShuttingDown => "the service is stopping",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BoxError;

    const SOURCE: Name = Name::from_static("qa-sql");

    #[derive(Debug)]
    struct Outer(Rejected);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("outer")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn every_reason_has_its_status_and_label() {
        let table = [
            (RejectReason::BodyTooLarge, 413, "body_too_large"),
            (RejectReason::CircuitOpen, 503, "circuit_open"),
            (RejectReason::InFlightLimit, 503, "in_flight_limit"),
            (RejectReason::MemoryPressure, 503, "memory_pressure"),
            (RejectReason::OverBudget, 503, "over_budget"),
            (RejectReason::QueueFull, 503, "queue_full"),
            (RejectReason::QueueTimeout, 503, "queue_timeout"),
            (RejectReason::ShareExceeded, 429, "share_exceeded"),
            (RejectReason::ShuttingDown, 503, "shutting_down"),
        ];
        assert_eq!(table.map(|(reason, ..)| reason), RejectReason::ALL);
        for (reason, status, label) in table {
            assert_eq!((reason.status(), reason.as_str()), (status, label));
        }
    }

    #[test]
    fn is_found_behind_other_errors() {
        let rejected = Rejected::new(RejectReason::QueueFull, SOURCE);
        let error: BoxError = Box::new(Outer(rejected));
        assert_eq!(Rejected::find(&*error), Some(&rejected));
        let error: BoxError = "something else".into();
        assert_eq!(Rejected::find(&*error), None);
    }

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        let rejected = Rejected::new(RejectReason::CircuitOpen, SOURCE);
        assert_eq!(rejected.retry_after_seconds(), None);
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (30_000, 30)] {
            let rejected = rejected.with_retry_after(Duration::from_millis(millis));
            assert_eq!(rejected.retry_after_seconds(), Some(seconds), "{millis} ms");
        }
        let longest = rejected.with_retry_after(Duration::MAX);
        assert_eq!(longest.retry_after_seconds(), Some(u64::MAX));
    }

    #[test]
    fn display_names_source_reason_and_wait() {
        let rejected = Rejected::new(RejectReason::CircuitOpen, SOURCE)
            .with_retry_after(Duration::from_millis(2_500));
        assert_eq!(
            rejected.to_string(),
            "qa-sql refused: the circuit is open, retry after 2.5 s"
        );
    }
}
