use crate::{
    Outcome,
    stripe::{End, Stripe},
};
use std::{fmt, mem, sync::Arc, time::Duration};

/// The right to make one call, from [`CircuitBreaker::try_acquire`](crate::CircuitBreaker::try_acquire).
///
/// Ends in exactly one way: [`record`](Self::record) judges the call, and a permit that is
/// dropped gives its place back. A call that is dropped counts for nothing, unless it had taken
/// as long as
/// [`dropped_fails_after`](crate::CircuitBreakerConfig::dropped_fails_after); dropped while
/// its thread panics, it has failed.
///
/// What a permit says after the breaker has changed its state is counted and kept in the history
/// as stale, and decides nothing.
#[must_use = "a permit that is dropped is a call that was dropped"]
pub struct Permit {
    stripe: Arc<Stripe>,
    generation: u64,
    began: u64,
    /// The number of the probe, 0 for a call that is none, perhaps with [`GUARDED`]; or
    /// [`SETTLED`]. As wide as the others:
    /// a permit is moved by words, and reading words of what was written in parts costs more than
    /// a lock.
    probe: u64,
}

const SETTLED: u64 = u64::MAX;
/// Set where a panic of the call is seen by somebody else.
const GUARDED: u64 = 1 << 32;

impl Permit {
    #[inline(always)]
    pub(crate) fn new(stripe: Arc<Stripe>, generation: u64, probe: u32, began: u64) -> Self {
        Self {
            stripe,
            generation,
            began,
            probe: probe as u64,
        }
    }

    /// Judges the call.
    #[inline]
    pub fn record(mut self, outcome: Outcome) {
        self.settle(|_| outcome);
    }

    /// Judges the call by `judge`, which is given how long it took.
    #[inline]
    pub fn record_with(mut self, judge: impl FnOnce(Duration) -> Outcome) {
        self.settle(judge);
    }

    /// Judges the call where it is: moving a permit costs more than it should.
    #[inline]
    pub(crate) fn settle(&mut self, judge: impl FnOnce(Duration) -> Outcome) {
        if self.is_settled() {
            // The call panicked, and was polled again.
            return;
        }
        let now = self.stripe.clock.ticks();
        let outcome = judge(Duration::from_nanos(now.saturating_sub(self.began)));
        self.end(End::Judged(outcome), now);
    }

    #[inline]
    fn end(&mut self, end: End, now: u64) {
        let probe = mem::replace(&mut self.probe, SETTLED);
        self.stripe
            .settle(self.generation, probe as u32, self.began, now, end);
    }

    /// Says that a panic of the call will be judged by whoever polls it: one that drops the permit
    /// is not of the call.
    #[inline(always)]
    pub(crate) const fn guarded(mut self) -> Self {
        self.probe |= GUARDED;
        self
    }

    pub(crate) const fn is_settled(&self) -> bool {
        self.probe == SETTLED
    }

    #[cfg(all(test, not(plimsoll_loom)))]
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// How long ago the call began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        let now = self.stripe.clock.ticks();
        Duration::from_nanos(now.saturating_sub(self.began))
    }

    /// Whether the call is one of the probes of a half-open breaker.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.probe as u32 != 0
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        if self.is_settled() {
            return;
        }
        let of_the_call = self.probe & GUARDED == 0 && std::thread::panicking();
        let end = match of_the_call {
            true => End::Judged(Outcome::Failure),
            false => End::Dropped,
        };
        let now = self.stripe.clock.ticks();
        self.end(end, now);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("generation", &self.generation)
            .field("is_probe", &self.is_probe())
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}
