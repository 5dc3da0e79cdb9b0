//! Trying again, within a budget.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How often a call that failed is tried again, and how many such attempts all calls together may
/// add.
///
/// Only a request that [says it can be repeated](crate::AdapterBuilder::retry) is tried again, and
/// only after a failure or a timeout: not after a refusal, a panic, an answer that was judged
/// [`Ignore`](plimsoll_breaker::Outcome::Ignore), or one that asks to be
/// [left alone](plimsoll_breaker::Outcome::OpenFor). The call keeps its in-flight slot while it
/// waits to try again.
///
/// # Budget
///
/// A downstream that fails under load must not get more load for it. Each call earns
/// [`percent`](Self::percent) of a retry, up to 100 retries saved; each retry costs one. The
/// [floor](Self::floor) is there besides, so that little traffic can be retried too. A call for
/// which there is no budget returns what it has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryConfig {
    pub(crate) retries: u32,
    pub(crate) percent: f64,
    pub(crate) floor: u32,
    pub(crate) back_off: Duration,
    pub(crate) back_off_max: Duration,
    pub(crate) jitter: f64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl RetryConfig {
    /// Two retries, after about 50 and 100 ms; in all at most 10 % more attempts than calls, and
    /// one a second besides.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            retries: 2,
            percent: 10.0,
            floor: 1,
            back_off: Duration::from_millis(50),
            back_off_max: Duration::from_secs(1),
            jitter: 0.5,
        }
    }

    /// How often one call is tried again at most. 2 by default, 1 to 10.
    #[must_use]
    pub const fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// How many retries there may be for a hundred calls. 10 by default, 0 to 100.
    #[must_use]
    pub const fn percent(mut self, percent: f64) -> Self {
        self.percent = percent;
        self
    }

    /// How many retries a second there may be besides. 1 by default, 0 to 1 000.
    #[must_use]
    pub const fn floor(mut self, retries_per_second: u32) -> Self {
        self.floor = retries_per_second;
        self
    }

    /// How long to wait before the first retry, and at the longest; each wait is twice the one
    /// before. 50 ms and 1 second by default, 0 to 1 minute.
    #[must_use]
    pub const fn back_off(mut self, first: Duration, longest: Duration) -> Self {
        self.back_off = first;
        self.back_off_max = longest;
        self
    }

    /// What share of a wait is left to chance, so that callers who failed together do not come
    /// again together. 0.5 by default, 0 to 1.
    #[must_use]
    pub const fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// How long to wait before retry number `retry`, the first being 0. `chance` is from 0 to 1.
    pub(crate) fn wait(&self, retry: u32, chance: f64) -> Duration {
        let factor = 1_u32.checked_shl(retry).unwrap_or(u32::MAX);
        let wait = self.back_off.saturating_mul(factor).min(self.back_off_max);
        wait.mul_f64(1.0 - self.jitter * chance)
    }
}

/// A retry, in parts of a million.
const RETRY: u64 = 1_000_000;
/// The most retries that calls can save up.
const SAVED: u64 = 100 * RETRY;

/// How many retries are left.
#[derive(Debug)]
pub(crate) struct Budget {
    /// What a call earns.
    earned: u64,
    /// What a second adds to the floor, and the most the floor holds.
    floor: u64,
    purse: Mutex<Purse>,
}

#[derive(Debug)]
struct Purse {
    saved: u64,
    floor: u64,
    filled: Instant,
}

impl Budget {
    /// The floor is full at first, and nothing is saved.
    pub(crate) fn new(config: &RetryConfig, now: Instant) -> Self {
        let floor = u64::from(config.floor) * RETRY;
        Self {
            earned: (config.percent / 100.0 * RETRY as f64) as u64,
            floor,
            purse: Mutex::new(Purse {
                saved: 0,
                floor,
                filled: now,
            }),
        }
    }

    /// A call is made.
    pub(crate) fn earn(&self) {
        let mut purse = self.purse.lock().unwrap_or_else(PoisonError::into_inner);
        purse.saved = (purse.saved + self.earned).min(SAVED);
    }

    /// Takes a retry, if one is left: of the floor first, which would only fill up again.
    pub(crate) fn spend(&self, now: Instant) -> bool {
        let mut purse = self.purse.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(purse.filled).as_micros() as u64;
        // A floor of one a second gains one part of a million in each microsecond.
        let gained = passed.saturating_mul(self.floor / RETRY);
        purse.floor = purse.floor.saturating_add(gained).min(self.floor);
        purse.filled = purse.filled.max(now);
        let Purse { saved, floor, .. } = &mut *purse;
        for source in [floor, saved] {
            if *source >= RETRY {
                *source -= RETRY;
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn spent(budget: &Budget, now: Instant) -> usize {
        (0..1_000).filter(|_| budget.spend(now)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn budget_is_a_share_of_the_calls() {
        let now = Instant::now();
        let budget = Budget::new(&RetryConfig::new().floor(0), now);
        assert_eq!(spent(&budget, now), 0);
        (0..9).for_each(|_| budget.earn());
        assert_eq!(spent(&budget, now), 0);
        (0..21).for_each(|_| budget.earn());
        assert_eq!(spent(&budget, now), 3);
        assert_eq!(spent(&budget, now + 100 * SECOND), 0, "there is no floor");
    }

    #[tokio::test(start_paused = true)]
    async fn savings_are_bounded() {
        let now = Instant::now();
        let budget = Budget::new(&RetryConfig::new().floor(0).percent(100.0), now);
        (0..1_000).for_each(|_| budget.earn());
        assert_eq!(spent(&budget, now), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn floor_fills_by_the_second_and_holds_one_second() {
        let start = Instant::now();
        let budget = Budget::new(&RetryConfig::new().floor(4).percent(0.0), start);
        budget.earn();
        assert_eq!(spent(&budget, start), 4);
        assert_eq!(spent(&budget, start), 0);
        assert_eq!(spent(&budget, start + SECOND / 2), 2);
        assert_eq!(spent(&budget, start + SECOND), 2);
        assert_eq!(spent(&budget, start + 100 * SECOND), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn floor_is_spent_before_what_was_saved() {
        let now = Instant::now();
        let budget = Budget::new(&RetryConfig::new().percent(100.0), now);
        budget.earn();
        assert!(budget.spend(now));
        assert_eq!(spent(&budget, now + SECOND), 2);
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let config = RetryConfig::new().back_off(SECOND, 5 * SECOND).jitter(0.5);
        let waits = [0, 1, 2, 3, 40].map(|retry| config.wait(retry, 0.0));
        let five = 5 * SECOND;
        assert_eq!(waits, [SECOND, 2 * SECOND, 4 * SECOND, five, five]);
        assert_eq!(config.wait(1, 1.0), SECOND);
    }
}
