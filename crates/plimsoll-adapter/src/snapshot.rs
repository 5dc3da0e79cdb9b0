use plimsoll_breaker::Snapshot;
use plimsoll_core::{Name, RejectReason};
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Everything that is known of an adapter at one moment.
///
/// Calls that have ended are in exactly one of `succeeded`, `failed`, `timed_out`, `panicked`,
/// `rejected` and `cancelled`, whatever was tried in between.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AdapterSnapshot {
    /// The adapter's name.
    pub name: Name,
    /// Calls that hold a slot, those that wait to try again included.
    pub in_flight: u64,
    /// The most calls that may hold a slot.
    pub max_in_flight: u64,
    /// Calls that wait for a slot.
    pub queued: u64,
    /// The most calls that may wait.
    pub max_queued: u64,
    /// Bytes of the requests that wait; 0 where their size is not asked for.
    pub queued_bytes: u64,
    /// The most bytes that may wait, where there is such a limit.
    pub max_queued_bytes: Option<u64>,
    /// How long a call waits for a slot.
    pub queue_timeout: Duration,
    /// How long the service may take for one attempt.
    pub timeout: Duration,
    /// Calls that were answered, however the answer was judged.
    pub succeeded: u64,
    /// Calls for which the service gave an error.
    pub failed: u64,
    /// Calls without an answer in time.
    pub timed_out: u64,
    /// Calls that panicked.
    pub panicked: u64,
    /// Calls that were refused, by reason.
    pub rejected: Rejections,
    /// Calls whose caller went away, or whose [deadline](crate::Adapters::call_many) was over.
    pub cancelled: u64,
    /// Attempts besides the first of each call.
    pub retries: u64,
    /// The circuit breaker.
    pub breaker: Snapshot,
}

/// How many calls were refused, by reason.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub struct Rejections([u64; RejectReason::ALL.len()]);

impl Rejections {
    /// How many were refused for `reason`.
    #[must_use]
    pub const fn get(&self, reason: RejectReason) -> u64 {
        self.0[reason as usize]
    }

    /// How many were refused for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every reason for which some were refused, with how many.
    pub fn iter(&self) -> impl Iterator<Item = (RejectReason, u64)> + '_ {
        RejectReason::ALL
            .into_iter()
            .map(|reason| (reason, self.get(reason)))
            .filter(|(_, count)| *count > 0)
    }
}

impl fmt::Debug for Rejections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(reason, n)| (reason.as_str(), n)))
            .finish()
    }
}

/// Counts by outcome. Statistics only: nothing is published by them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) succeeded: Counter,
    pub(crate) failed: Counter,
    pub(crate) timed_out: Counter,
    pub(crate) panicked: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) retries: Counter,
    rejected: [Counter; RejectReason::ALL.len()],
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Counters {
    pub(crate) fn reject(&self, reason: RejectReason) {
        self.rejected[reason as usize].add();
    }

    pub(crate) fn rejected(&self) -> Rejections {
        Rejections(RejectReason::ALL.map(|reason| self.rejected[reason as usize].get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_of_its_own() {
        let counters = Counters::default();
        for (slot, reason) in RejectReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, slot);
            (0..=slot).for_each(|_| counters.reject(reason));
        }
        for (slot, (reason, count)) in counters.rejected().iter().enumerate() {
            assert_eq!((reason as usize, count), (slot, slot as u64 + 1));
        }
        assert_eq!(counters.rejected().total(), 45);
    }
}
