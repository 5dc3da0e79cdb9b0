//! Trying again, within a budget.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
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

/// Whether and how calls are tried again, as it is now.
#[derive(Debug)]
pub(crate) struct Retries {
    /// Whether there are any, so that calls need not look where there are none. Nothing is
    /// published by it.
    on: AtomicBool,
    now: Mutex<Option<(RetryConfig, Budget)>>,
}

/// How many retries are left.
#[derive(Debug)]
struct Budget {
    /// What a call earns.
    earned: u64,
    /// What a second adds to the floor, and the most the floor holds.
    most: u64,
    saved: u64,
    floor: u64,
    filled: Instant,
}

impl Retries {
    pub(crate) fn new(config: Option<RetryConfig>, now: Instant) -> Self {
        let retries = Self {
            on: AtomicBool::new(false),
            now: Mutex::new(None),
        };
        retries.configure(config, now);
        retries
    }

    /// Goes on as told. Where there were retries and are to be, what was saved is kept.
    pub(crate) fn configure(&self, config: Option<RetryConfig>, now: Instant) {
        let mut current = self.lock();
        *current = match (current.take(), config) {
            (Some((_, mut budget)), Some(config)) => {
                budget.configure(&config, now);
                Some((config, budget))
            }
            (_, config) => config.map(|config| (config, Budget::new(&config, now))),
        };
        self.on.store(current.is_some(), Relaxed);
    }

    /// A call is made. Says how often it may be tried again.
    pub(crate) fn earn(&self) -> u32 {
        if !self.on.load(Relaxed) {
            return 0;
        }
        self.lock().as_mut().map_or(0, |(config, budget)| {
            budget.earn();
            config.retries
        })
    }

    /// Takes a retry, if one is left, and says how long to wait before it. `retry` and `chance`
    /// are as those of [`RetryConfig::wait`].
    pub(crate) fn spend(&self, retry: u32, chance: f64, now: Instant) -> Option<Duration> {
        let mut current = self.lock();
        let (config, budget) = current.as_mut()?;
        budget.spend(now).then(|| config.wait(retry, chance))
    }

    fn lock(&self) -> MutexGuard<'_, Option<(RetryConfig, Budget)>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Budget {
    /// The floor is full at first, and nothing is saved.
    fn new(config: &RetryConfig, now: Instant) -> Self {
        let most = u64::from(config.floor) * RETRY;
        Self {
            earned: earned(config),
            most,
            saved: 0,
            floor: most,
            filled: now,
        }
    }

    /// Earns and fills as told from now on. What is there stays, as far as there is room for it
    /// when it is filled next.
    fn configure(&mut self, config: &RetryConfig, now: Instant) {
        self.fill(now);
        self.earned = earned(config);
        self.most = u64::from(config.floor) * RETRY;
    }

    /// A call is made.
    fn earn(&mut self) {
        self.saved = (self.saved + self.earned).min(SAVED);
    }

    /// Takes a retry, if one is left: of the floor first, which would only fill up again.
    fn spend(&mut self, now: Instant) -> bool {
        self.fill(now);
        for source in [&mut self.floor, &mut self.saved] {
            if *source >= RETRY {
                *source -= RETRY;
                return true;
            }
        }
        false
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_micros() as u64;
        // A floor of one a second gains one part of a million in each microsecond.
        let gained = passed.saturating_mul(self.most / RETRY);
        self.floor = self.floor.saturating_add(gained).min(self.most);
        self.filled = self.filled.max(now);
    }
}

/// What a call earns, in parts of a retry.
fn earned(config: &RetryConfig) -> u64 {
    (config.percent / 100.0 * RETRY as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn spent(budget: &mut Budget, now: Instant) -> usize {
        (0..1_000).filter(|_| budget.spend(now)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn budget_is_a_share_of_the_calls() {
        let now = Instant::now();
        let mut budget = Budget::new(&RetryConfig::new().floor(0), now);
        assert_eq!(spent(&mut budget, now), 0);
        (0..9).for_each(|_| budget.earn());
        assert_eq!(spent(&mut budget, now), 0);
        (0..21).for_each(|_| budget.earn());
        assert_eq!(spent(&mut budget, now), 3);
        assert_eq!(
            spent(&mut budget, now + 100 * SECOND),
            0,
            "there is no floor"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn savings_are_bounded() {
        let now = Instant::now();
        let mut budget = Budget::new(&RetryConfig::new().floor(0).percent(100.0), now);
        (0..1_000).for_each(|_| budget.earn());
        assert_eq!(spent(&mut budget, now), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn floor_fills_by_the_second_and_holds_one_second() {
        let start = Instant::now();
        let mut budget = Budget::new(&RetryConfig::new().floor(4).percent(0.0), start);
        budget.earn();
        assert_eq!(spent(&mut budget, start), 4);
        assert_eq!(spent(&mut budget, start), 0);
        assert_eq!(spent(&mut budget, start + SECOND / 2), 2);
        assert_eq!(spent(&mut budget, start + SECOND), 2);
        assert_eq!(spent(&mut budget, start + 100 * SECOND), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn floor_is_spent_before_what_was_saved() {
        let now = Instant::now();
        let mut budget = Budget::new(&RetryConfig::new().percent(100.0), now);
        budget.earn();
        assert!(budget.spend(now));
        assert_eq!(spent(&mut budget, now + SECOND), 2);
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let config = RetryConfig::new().back_off(SECOND, 5 * SECOND).jitter(0.5);
        let waits = [0, 1, 2, 3, 40].map(|retry| config.wait(retry, 0.0));
        let five = 5 * SECOND;
        assert_eq!(waits, [SECOND, 2 * SECOND, 4 * SECOND, five, five]);
        assert_eq!(config.wait(1, 1.0), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_saved_outlives_a_change_and_the_floor_is_cut_to_its_size() {
        let start = Instant::now();
        let config = RetryConfig::new().percent(100.0).floor(4);
        let mut budget = Budget::new(&config, start);
        (0..3).for_each(|_| budget.earn());
        assert_eq!(spent(&mut budget, start), 7);
        (0..2).for_each(|_| budget.earn());
        // Two seconds fill it at the old rate, and the new one holds no more than one.
        budget.configure(&config.floor(1).percent(50.0), start + 2 * SECOND);
        assert_eq!(spent(&mut budget, start + 2 * SECOND), 3);
        (0..2).for_each(|_| budget.earn());
        assert_eq!(spent(&mut budget, start + 2 * SECOND), 1);
        // More is to be earned first, and half a second at the old rate is not one at the new.
        budget.configure(&config.floor(4), start + 5 * SECOND / 2);
        assert_eq!(spent(&mut budget, start + 5 * SECOND / 2), 0);
        assert_eq!(spent(&mut budget, start + 3 * SECOND), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn retries_that_are_turned_off_and_on_begin_anew() {
        let now = Instant::now();
        let config = RetryConfig::new().percent(100.0).floor(0).jitter(0.0);
        let retries = Retries::new(Some(config), now);
        assert_eq!((retries.earn(), retries.earn()), (2, 2));
        retries.configure(Some(config.retries(3)), now);
        assert_eq!(
            retries.spend(1, 0.0, now),
            Some(Duration::from_millis(100)),
            "saved before"
        );
        retries.configure(None, now);
        assert_eq!((retries.earn(), retries.spend(0, 0.0, now)), (0, None));
        retries.configure(Some(config), now);
        assert_eq!(retries.spend(0, 0.0, now), None);
        retries.earn();
        assert!(retries.spend(0, 0.0, now).is_some());
    }
}
