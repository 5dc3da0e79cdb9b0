//! What a closed breaker judges by. No clock, no lock: `now` is an argument, in nanoseconds.

use crate::config;
use std::ops::{AddAssign, SubAssign};

/// How many buckets a window of time has.
const BUCKETS: usize = 10;

/// Calls by what they were.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    pub(crate) calls: u32,
    pub(crate) failures: u32,
    pub(crate) slow: u32,
    pub(crate) slow_failures: u32,
}

impl Counts {
    pub(crate) fn add(&mut self, failed: bool, slow: bool) {
        *self += Self {
            calls: 1,
            failures: u32::from(failed),
            slow: u32::from(slow),
            slow_failures: u32::from(failed && slow),
        };
    }

    /// Whether only successes that were not slow are here.
    pub(crate) const fn all_good(&self) -> bool {
        self.failures == 0 && self.slow == 0
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.failures = self.failures.saturating_add(other.failures);
        self.slow = self.slow.saturating_add(other.slow);
        self.slow_failures = self.slow_failures.saturating_add(other.slow_failures);
    }
}

impl SubAssign for Counts {
    fn sub_assign(&mut self, other: Self) {
        self.calls = self.calls.saturating_sub(other.calls);
        self.failures = self.failures.saturating_sub(other.failures);
        self.slow = self.slow.saturating_sub(other.slow);
        self.slow_failures = self.slow_failures.saturating_sub(other.slow_failures);
    }
}

#[derive(Debug)]
pub(crate) enum Window {
    Calls(CallWindow),
    Time(TimeWindow),
}

impl Window {
    pub(crate) fn new(window: config::Window, now: u64) -> Self {
        match window {
            config::Window::Calls(calls) => Self::Calls(CallWindow::new(calls)),
            config::Window::Time(time) => Self::Time(TimeWindow::new(crate::nanos(time), now)),
        }
    }

    /// A window of another shape, with as much of this one as it can take: the newest calls, or
    /// the buckets of the newest time. A window of the other kind starts empty.
    pub(crate) fn reshaped(&self, window: config::Window, now: u64) -> Self {
        let mut new = Self::new(window, now);
        match (self, &mut new) {
            (Self::Calls(old), Self::Calls(new)) => old.replay(new),
            (Self::Time(old), Self::Time(new)) => old.replay(new),
            _ => {}
        }
        new
    }

    pub(crate) fn counts(&self) -> Counts {
        match self {
            Self::Calls(window) => window.counts,
            Self::Time(window) => window.counts,
        }
    }

    pub(crate) fn clear(&mut self) {
        match self {
            Self::Calls(window) => window.clear(),
            Self::Time(window) => window.clear(),
        }
    }

    /// Forgets what has left the window by `now`.
    pub(crate) fn roll(&mut self, now: u64) {
        if let Self::Time(window) = self {
            window.roll(now);
        }
    }

    /// When something leaves the window next: until then, calls go to the same place.
    pub(crate) fn next_roll(&self) -> u64 {
        match self {
            Self::Calls(_) => u64::MAX,
            Self::Time(window) => window.end(),
        }
    }

    pub(crate) fn push(&mut self, failed: bool, slow: bool) {
        match self {
            Self::Calls(window) => window.push(failed, slow),
            Self::Time(window) => window.add(|bucket| bucket.add(failed, slow)),
        }
    }

    /// Adds `calls` successes that were not slow.
    pub(crate) fn push_successes(&mut self, calls: u64) {
        match self {
            Self::Calls(window) => window.push_successes(calls),
            Self::Time(window) => window.add(|bucket| {
                let calls = u32::try_from(calls).unwrap_or(u32::MAX);
                bucket.calls = bucket.calls.saturating_add(calls);
            }),
        }
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Calls(window) => size_of_val(&*window.bits),
            Self::Time(_) => size_of::<[Counts; BUCKETS]>(),
        }
    }
}

/// The last calls, two bits for each: failed, slow.
#[derive(Debug)]
pub(crate) struct CallWindow {
    /// Words of failed calls at even places, of slow ones at odd places. Bits of places that hold
    /// no call are zero.
    bits: Box<[u64]>,
    size: u32,
    /// The place of the next call, which is that of the oldest once the window is full.
    next: u32,
    counts: Counts,
}

impl CallWindow {
    fn new(size: u32) -> Self {
        let words = 2 * size.div_ceil(u64::BITS) as usize;
        Self {
            bits: vec![0; words].into_boxed_slice(),
            size,
            next: 0,
            counts: Counts::default(),
        }
    }

    fn push(&mut self, failed: bool, slow: bool) {
        self.evict(self.next, 1);
        let (word, bit) = (self.next / u64::BITS, self.next % u64::BITS);
        self.bits[2 * word as usize] |= u64::from(failed) << bit;
        self.bits[2 * word as usize + 1] |= u64::from(slow) << bit;
        self.counts.add(failed, slow);
        self.advance(1);
    }

    fn push_successes(&mut self, calls: u64) {
        let Ok(mut left) = u32::try_from(calls.min(u64::from(self.size))) else {
            return;
        };
        while left > 0 {
            // Up to the end of the word, or of the window.
            let in_word = u64::BITS - self.next % u64::BITS;
            let run = left.min(in_word).min(self.size - self.next);
            self.evict(self.next, run);
            self.counts.calls += run;
            self.advance(run);
            left -= run;
        }
    }

    /// Takes out what is at `run` places of one word.
    fn evict(&mut self, first: u32, run: u32) {
        let (word, bit) = (first / u64::BITS, first % u64::BITS);
        let mask = (u64::MAX >> (u64::BITS - run)) << bit;
        let word = 2 * word as usize;
        let (failed, slow) = (self.bits[word] & mask, self.bits[word + 1] & mask);
        if self.counts.calls == self.size {
            self.counts -= Counts {
                calls: run,
                failures: failed.count_ones(),
                slow: slow.count_ones(),
                slow_failures: (failed & slow).count_ones(),
            };
            self.bits[word] &= !mask;
            self.bits[word + 1] &= !mask;
        }
    }

    fn advance(&mut self, run: u32) {
        self.next = (self.next + run) % self.size;
    }

    fn clear(&mut self) {
        self.bits.fill(0);
        self.next = 0;
        self.counts = Counts::default();
    }

    /// Pushes the calls of this window into another, oldest first.
    fn replay(&self, into: &mut Self) {
        let calls = self.counts.calls;
        let oldest = if calls == self.size { self.next } else { 0 };
        for n in 0..calls {
            let place = (oldest + n) % self.size;
            let (word, bit) = (2 * (place / u64::BITS) as usize, place % u64::BITS);
            let is_set = |word: u64| word >> bit & 1 == 1;
            into.push(is_set(self.bits[word]), is_set(self.bits[word + 1]));
        }
    }
}

/// The calls of some time, in buckets. A bucket leaves as a whole.
#[derive(Debug)]
pub(crate) struct TimeWindow {
    buckets: Box<[Counts; BUCKETS]>,
    width: u64,
    /// When bucket 0 began.
    origin: u64,
    /// The number of the newest bucket.
    head: u64,
    counts: Counts,
}

impl TimeWindow {
    fn new(length: u64, now: u64) -> Self {
        Self {
            buckets: Box::default(),
            width: (length / BUCKETS as u64).max(1),
            origin: now,
            head: 0,
            counts: Counts::default(),
        }
    }

    fn roll(&mut self, now: u64) {
        let head = now.saturating_sub(self.origin) / self.width;
        if head <= self.head {
            // Time that went backwards belongs to the newest bucket.
            return;
        }
        let steps = (head - self.head).min(BUCKETS as u64);
        for step in 1..=steps {
            let bucket = &mut self.buckets[((self.head + step) % BUCKETS as u64) as usize];
            self.counts -= std::mem::take(bucket);
        }
        if steps == BUCKETS as u64 {
            self.clear();
        }
        self.head = head;
    }

    fn end(&self) -> u64 {
        let next = self.head.saturating_add(1);
        self.origin.saturating_add(next.saturating_mul(self.width))
    }

    fn add(&mut self, add: impl Fn(&mut Counts)) {
        add(&mut self.buckets[(self.head % BUCKETS as u64) as usize]);
        add(&mut self.counts);
    }

    fn clear(&mut self) {
        self.buckets.fill(Counts::default());
        self.counts = Counts::default();
    }

    /// Adds the buckets of this window to another at the time they began, oldest first.
    fn replay(&self, into: &mut Self) {
        let oldest = self.head.saturating_sub(BUCKETS as u64 - 1);
        let newest = self
            .origin
            .saturating_add(self.head.saturating_mul(self.width));
        // The other begins as far back as it can look.
        let back = into.width.saturating_mul(BUCKETS as u64 - 1);
        into.origin = newest.saturating_sub(back);
        for number in oldest..=self.head {
            let began = self.origin + number * self.width;
            if began < into.origin {
                continue;
            }
            into.roll(began);
            let bucket = self.buckets[(number % BUCKETS as u64) as usize];
            into.add(|counts| *counts += bucket);
        }
        into.roll(newest);
    }
}

#[cfg(all(test, not(plimsoll_loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    const MS: u64 = 1_000_000;

    fn counted(calls: &[(bool, bool)]) -> Counts {
        let mut counts = Counts::default();
        for (failed, slow) in calls {
            counts.add(*failed, *slow);
        }
        counts
    }

    fn newest(calls: &[(bool, bool)], size: usize) -> &[(bool, bool)] {
        &calls[calls.len().saturating_sub(size)..]
    }

    fn of_time(time: u64, now: u64) -> Window {
        Window::new(config::Window::Time(Duration::from_nanos(time)), now)
    }

    #[test]
    fn a_window_of_calls_holds_the_newest_of_every_size() {
        let mut random = fastrand::Rng::with_seed(1);
        for size in 1..=200 {
            let mut window = Window::new(config::Window::Calls(size), 0);
            let mut calls = Vec::new();
            for _ in 0..60 {
                if random.u8(0..4) == 0 {
                    let good = random.u64(0..u64::from(size) * 2 + 3);
                    window.push_successes(good);
                    calls.extend((0..good).map(|_| (false, false)));
                } else {
                    for _ in 0..random.u8(1..10) {
                        let (failed, slow) = (random.bool(), random.bool());
                        window.push(failed, slow);
                        calls.push((failed, slow));
                    }
                }
                let expected = counted(newest(&calls, size as usize));
                assert_eq!(window.counts(), expected, "{size} calls");
            }
            window.push_successes(u64::MAX);
            assert_eq!(
                (window.counts().calls, window.counts().all_good()),
                (size, true)
            );
            window.push(true, true);
            window.clear();
            assert_eq!(window.counts(), Counts::default());
            window.push(true, false);
            assert_eq!(window.counts(), counted(&[(true, false)]));
        }
    }

    #[test]
    fn a_window_of_another_size_goes_on_with_the_newest_calls() {
        let mut random = fastrand::Rng::with_seed(2);
        for size in 1..=200 {
            let mut window = Window::new(config::Window::Calls(size), 0);
            let mut calls: Vec<_> = (0..random.usize(0..500))
                .map(|_| (random.bool(), random.bool()))
                .collect();
            for (failed, slow) in &calls {
                window.push(*failed, *slow);
            }
            let other = random.u32(1..=200);
            calls.drain(..calls.len().saturating_sub(size as usize));
            let mut window = window.reshaped(config::Window::Calls(other), 0);
            assert_eq!(window.counts(), counted(newest(&calls, other as usize)));
            for _ in 0..2 * other {
                let call = (random.bool(), random.bool());
                window.push(call.0, call.1);
                calls.push(call);
                let expected = counted(newest(&calls, other as usize));
                assert_eq!(window.counts(), expected, "{size} to {other}");
            }
        }
    }

    #[test]
    fn a_window_of_the_other_kind_starts_empty() {
        let mut calls = Window::new(config::Window::Calls(10), 0);
        calls.push(true, true);
        let time = calls.reshaped(config::Window::Time(Duration::from_secs(1)), 5);
        assert_eq!(time.counts(), Counts::default());
        let mut time = of_time(10 * MS, 0);
        time.push(true, true);
        let calls = time.reshaped(config::Window::Calls(10), 5);
        assert_eq!(calls.counts(), Counts::default());
    }

    #[test]
    fn a_bucket_leaves_as_a_whole_when_its_time_is_over() {
        let mut window = of_time(100 * MS, 7);
        window.push(true, false);
        window.roll(7 + 10 * MS - 1);
        assert_eq!(window.next_roll(), 7 + 10 * MS);
        window.push(false, true);
        window.roll(7 + 10 * MS);
        window.push(true, true);
        window.roll(7 + 100 * MS - 1);
        assert_eq!(window.counts().calls, 3);
        window.roll(7 + 100 * MS);
        assert_eq!(window.counts(), counted(&[(true, true)]));
        window.roll(7 + 110 * MS);
        assert_eq!(window.counts(), Counts::default());
    }

    // A window of so many buckets that were idle is empty, and counts again at once.
    #[test]
    fn a_window_of_time_that_was_idle_for_months_counts_what_comes() {
        let days = |days: u64| days * 86_400_000 * MS;
        for idle in [days(60), days(3_650), 1 << 62, u64::MAX - 1] {
            for start in [0, 1, days(20_000)] {
                let mut window = of_time(10 * MS, start);
                window.push(true, true);
                // The last moment never comes.
                let now = start.saturating_add(idle).min(u64::MAX - 1);
                window.roll(now);
                assert_eq!(window.counts(), Counts::default());
                window.push(true, false);
                window.push(false, false);
                assert_eq!(window.counts().calls, 2);
                assert!(window.next_roll() > now);
                window.roll(now - 5 * MS);
                window.push(false, false);
                assert_eq!(window.counts().calls, 3, "time that went backwards");
            }
        }
    }

    #[test]
    fn a_window_of_another_time_keeps_the_buckets_that_fit() {
        let mut window = of_time(100 * MS, 0);
        for ms in 0..95 {
            window.roll(ms * MS);
            window.push(ms % 2 == 0, false);
        }
        let time = |ms| config::Window::Time(Duration::from_millis(ms));
        // Buckets that began in the 45 ms before the newest did: from 50 ms on.
        let shorter = window.reshaped(time(50), 95 * MS);
        assert_eq!(shorter.counts().calls, 45);
        let mut longer = window.reshaped(time(1_000), 95 * MS);
        assert_eq!(longer.counts(), window.counts());
        longer.roll(900 * MS);
        assert_eq!(longer.counts().calls, 95);
        longer.roll(1_095 * MS);
        assert_eq!(longer.counts().calls, 0);
    }

    #[test]
    fn windows_take_the_bytes_they_say() {
        for (size, bytes) in [(1, 16), (64, 16), (65, 32), (100, 32), (65_536, 16_384)] {
            let window = Window::new(config::Window::Calls(size), 0);
            assert_eq!(window.bytes(), bytes, "{size} calls");
        }
        assert_eq!(of_time(10 * MS, 0).bytes(), 160);
    }
}
