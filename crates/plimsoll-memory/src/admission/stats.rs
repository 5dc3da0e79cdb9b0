use super::Scarce;
use plimsoll_core::Name;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What became of requests that asked to be let in, and what is reserved now. All sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct AdmissionStats {
    /// What all of it has to stay under; none where no limit was found.
    pub line: Option<u64>,
    /// What is used, or was given out and will be, when somebody looked last; but for large blocks that
    /// the allocator [keeps](plimsoll_alloc::LargeBlocks). None where nobody has, or the system does not say.
    pub used: Option<u64>,
    /// Pages that the allocator has free for whoever asks next; large blocks that are kept are none of
    /// them. None where that is not known.
    pub kept: Option<u64>,
    /// How much of what is allocated comes from there, as it was lately, from 0 to 1.
    pub reused: f64,
    /// What large requests that run may still grow by.
    pub growth: u64,
    /// What of that is reserved for those that were let in out of their turn, since nothing was known of
    /// requests like them, and have not shown yet what they are like.
    pub on_trial: u64,
    /// What is reserved for small requests.
    pub reserved_for_small: u64,
    /// Large requests that run: those that hold more than a thousandth of the line, or may come to.
    pub running: usize,
    /// What these held when somebody looked last.
    pub held: u64,
    /// Requests that wait.
    pub waiting: usize,
    /// Whether somebody waits for want of memory.
    pub is_short: bool,
    /// How much large requests give back a second.
    pub drained_per_second: u64,
    /// How much is refused at once, from 0 to 1: up to a half of those of low priority, until that is all of
    /// them, and from there on of those of normal priority.
    pub shed: f64,
    /// Large requests that were let in, and small ones that had to ask.
    pub admitted: u64,
    /// Those of them that had to wait.
    pub waited: u64,
    /// Those of them that were let in out of their turn, since nothing was known of requests like them.
    pub tried: u64,
    /// Refused, since as many waited as may.
    pub queue_full: u64,
    /// Refused, since they waited as long as they may.
    pub timed_out: u64,
    /// Refused at once, since the line was passed, or there were too many tasks or descriptors.
    pub shed_total: u64,
    /// Refused, since their key has its share.
    pub over_share: u64,
    /// Cancelled when they ran, since they held most.
    pub cancelled: u64,
    /// Those who would have waited, if that was enforced.
    pub would_wait: u64,
    /// Those who would have been refused at once, if that was enforced.
    pub would_reject: u64,
}

impl AdmissionStats {
    /// All that were refused, for whatever reason.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.queue_full + self.timed_out + self.shed_total + self.over_share
    }
}

/// What is known of the requests of a route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct RouteAdmission {
    /// The route.
    pub name: Name,
    /// What the next one is taken to hold at most, in bytes; none before the first.
    pub expected: Option<u64>,
    /// How many were refused.
    pub refused: u64,
}

/// How many came to what.
#[derive(Default)]
pub(super) struct Counts {
    admitted: AtomicU64,
    waited: AtomicU64,
    tried: AtomicU64,
    queue_full: AtomicU64,
    timed_out: AtomicU64,
    /// For want of memory, tasks and descriptors.
    shed: [AtomicU64; 3],
    over_share: AtomicU64,
    cancelled: AtomicU64,
    would_wait: AtomicU64,
    would_reject: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counts {
    /// One is in, out of its turn or not. Called with the lock of the ledger, so nobody else counts
    /// meanwhile.
    pub(super) fn admitted(&self, is_tried: bool) {
        let admitted = self.admitted.load(Relaxed);
        self.admitted.store(admitted + 1, Relaxed);
        if is_tried {
            count(&self.tried);
        }
    }

    pub(super) fn waited(&self) {
        count(&self.waited);
    }

    pub(super) fn queue_full(&self) {
        count(&self.queue_full);
    }

    pub(super) fn timed_out(&self) {
        count(&self.timed_out);
    }

    pub(super) fn shed(&self, of: Scarce, enforces: bool) {
        count(if enforces {
            &self.shed[of as usize]
        } else {
            &self.would_reject
        });
    }

    pub(super) fn shed_for(&self, of: Scarce) -> u64 {
        self.shed[of as usize].load(Relaxed)
    }

    pub(super) fn over_share(&self, enforces: bool) {
        let counter = if enforces {
            &self.over_share
        } else {
            &self.would_reject
        };
        count(counter);
    }

    pub(super) fn cancelled(&self, requests: usize) {
        self.cancelled.fetch_add(requests as u64, Relaxed);
    }

    pub(super) fn would_wait(&self) {
        count(&self.would_wait);
    }

    pub(super) fn add_to(&self, stats: &mut AdmissionStats) {
        stats.admitted = self.admitted.load(Relaxed);
        stats.waited = self.waited.load(Relaxed);
        stats.tried = self.tried.load(Relaxed);
        stats.queue_full = self.queue_full.load(Relaxed);
        stats.timed_out = self.timed_out.load(Relaxed);
        stats.shed_total = self.shed.iter().map(|shed| shed.load(Relaxed)).sum();
        stats.over_share = self.over_share.load(Relaxed);
        stats.cancelled = self.cancelled.load(Relaxed);
        stats.would_wait = self.would_wait.load(Relaxed);
        stats.would_reject = self.would_reject.load(Relaxed);
    }
}
