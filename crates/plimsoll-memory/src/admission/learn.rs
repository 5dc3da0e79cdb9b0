//! What requests of a kind hold at most, and how much of that is there at which age.

use super::growth::Spread;
use std::{
    f64::consts::SQRT_2,
    mem,
    ops::RangeInclusive,
    sync::{
        Mutex, PoisonError, TryLockError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

/// Sizes are told apart by a quarter of an octave, from 4 KiB to 64 GiB.
const BINS: usize = 4 * 24 + 1;
const SMALLEST: u64 = 4_096;
/// Powers of two by quarters, from 0 on.
const QUARTERS: [f64; 4] = [1.0, 1.189_207_115_002_721, SQRT_2, 1.681_792_830_507_429];

/// Counts are halved when there are so many, so that what was long ago counts less and less.
const HALVED_AT: u32 = 1_024;

/// How many requests it takes until their distribution counts, rather than their largest.
const ENOUGH: u32 = 32;

/// Of a sample, every so many are looked at together.
const SAMPLES: u32 = 8;

/// Who holds less has not begun: it may not have been polled yet, and tells nothing of how much it grows.
pub(super) const BEGUN: u64 = 64 << 10;

/// Ages at which it is remembered what a request held: when it first waited, and then from so many
/// milliseconds on.
pub(super) const AGES: usize = 8;
const AGE_FROM_MS: [u64; AGES] = [0, 4, 16, 64, 256, 1_024, 4_096, 16_384];

/// How many requests the largest growth is remembered for at least; at most twice as many.
const WINDOW: u32 = 128;

/// How many requests must have been seen at an age before what they did then counts.
const ENOUGH_AT_AGE: u32 = 8;

/// What requests of one route and size held.
pub(super) struct Learned {
    /// What a new one is taken to hold at most. 0 before the first.
    expected: AtomicU64,
    /// What it holds on average, and how far from that it is as a rule.
    mean: AtomicU64,
    deviation: AtomicU64,
    /// The most that one held that ran while few had ended; `u64::MAX` once enough have.
    running: AtomicU64,
    /// How many run that have not shown yet what they are like.
    untold: AtomicU32,
    peaks: Mutex<Peaks>,
}

struct Peaks {
    counts: [u32; BINS],
    /// Those from the first to the last in which there are any. Most routes have few.
    bins: RangeInclusive<usize>,
    total: u32,
    /// Requests seen, as far as that matters.
    seen: u32,
    largest: u64,
    growth: [Growth; AGES],
}

/// How much requests grew from some age on.
#[derive(Clone, Copy, Default)]
struct Growth {
    seen: u32,
    /// The largest of this window and of the one before.
    bytes: [u64; 2],
    factor: [f32; 2],
}

/// What one request held when it came to each age.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ages {
    /// [`UNSEEN`] where nobody looked in time.
    held: [u64; AGES],
    latest: u8,
    has_waited: bool,
}

/// Nobody holds that.
const UNSEEN: u64 = u64::MAX;

impl Learned {
    pub(super) fn new() -> Self {
        Self {
            expected: AtomicU64::new(0),
            mean: AtomicU64::new(0),
            deviation: AtomicU64::new(0),
            running: AtomicU64::new(0),
            untold: AtomicU32::new(0),
            peaks: Mutex::new(Peaks {
                counts: [0; BINS],
                bins: NONE,
                total: 0,
                seen: 0,
                largest: 0,
                growth: [Growth::default(); AGES],
            }),
        }
    }

    /// What a new request is taken to hold at most; none before the first has ended.
    #[inline]
    pub(super) fn expected(&self) -> Option<u64> {
        match self.expected.load(Relaxed) {
            0 => None,
            bytes => Some(bytes),
        }
    }

    /// Counts one that has ended, as so many.
    pub(super) fn record(
        &self,
        peak: u64,
        weight: u32,
        quantile: f64,
        ages: Option<&Ages>,
        guess: u64,
    ) {
        let mut peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
        peaks.add(peak, weight, ages);
        self.tell(&mut peaks, quantile, guess);
    }

    /// Counts one of a sample that has ended, as so many, unless somebody else counts just now: waiting
    /// for that costs more than one of a sample is worth. What it changes is seen by every few of them;
    /// `by` says the quantile and the guess then.
    pub(super) fn sample(&self, peak: u64, weight: u32, by: impl FnOnce() -> (f64, u64)) {
        let mut peaks = match self.peaks.try_lock() {
            Ok(peaks) => peaks,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        peaks.add(peak, weight, None);
        if peaks.seen < ENOUGH || peaks.seen.is_multiple_of(SAMPLES) {
            let (quantile, guess) = by();
            self.tell(&mut peaks, quantile, guess);
        }
    }

    /// Says what is known by now. What is as it was is not written: others read it for each request.
    fn tell(&self, peaks: &mut Peaks, quantile: f64, guess: u64) {
        if peaks.seen < ENOUGH {
            peaks.largest = peaks.largest.max(self.running.load(Relaxed));
        } else {
            set(&self.running, u64::MAX);
        }
        let spread = peaks.spread(quantile, guess);
        set(&self.expected, spread.most);
        set(&self.mean, spread.mean as u64);
        set(&self.deviation, spread.deviation as u64);
    }

    /// What a new one may come to hold, which is `most` as far as one of those before it held less.
    pub(super) fn spread(&self, most: u64) -> Spread {
        if self.expected() != Some(most) {
            return Spread::certain(most);
        }
        Spread {
            most,
            mean: self.mean.load(Relaxed) as f64,
            deviation: self.deviation.load(Relaxed) as f64,
        }
    }

    /// One that runs holds so much. Those that hold little end first, so that the first few to end say
    /// too little of the others.
    pub(super) fn saw(&self, live: u64) {
        if live > self.running.load(Relaxed) {
            self.running.fetch_max(live, Relaxed);
            if self.expected().is_some() {
                self.expected.fetch_max(live, Relaxed);
            }
        }
    }

    /// The most that one held that ran, as long as few have ended.
    pub(super) fn most_running(&self) -> u64 {
        self.running.load(Relaxed)
    }

    /// One is counted by itself. It [tells](Self::has_told) once what it is like. Both are called with the
    /// lock of the ledger.
    pub(super) fn begins(&self) {
        let untold = self.untold.load(Relaxed);
        self.untold.store(untold + 1, Relaxed);
    }

    /// One has shown what it is like, or has ended.
    pub(super) fn has_told(&self) {
        let untold = self.untold.load(Relaxed);
        self.untold.store(untold - 1, Relaxed);
    }

    /// Whether one runs that has not shown yet what it is like.
    pub(super) fn is_untold(&self) -> bool {
        self.untold.load(Relaxed) > 0
    }

    /// What a running request is taken to hold at most, by what it held at each age until now, and
    /// what it holds.
    pub(super) fn expected_of(&self, ages: &Ages, live: u64, guess: u64) -> u64 {
        let most = self.expected().unwrap_or(guess);
        let latest = usize::from(ages.latest);
        let by_age = ages.at(latest).and_then(|_| {
            let peaks = self.peaks.lock().unwrap_or_else(PoisonError::into_inner);
            // Few may have come to the latest age.
            let ages_before = (0..AGES).rev().filter(|age| *age != latest);
            let mut all = [latest].into_iter().chain(ages_before);
            all.find_map(|age| peaks.growth[age].most(ages.at(age)?))
        });
        let expected = match by_age {
            // One that is larger than any is by itself.
            Some(grown) if live > most => grown,
            Some(grown) => grown.min(most),
            None => most,
        };
        expected.max(live)
    }
}

fn set(word: &AtomicU64, value: u64) {
    if word.load(Relaxed) != value {
        word.store(value, Relaxed);
    }
}

impl Peaks {
    fn add(&mut self, peak: u64, weight: u32, ages: Option<&Ages>) {
        self.seen = self.seen.checked_add(1).unwrap_or(ENOUGH);
        let bin = bin(peak);
        self.counts[bin] += weight;
        self.total += weight;
        self.bins = with(&self.bins, bin);
        if self.total >= HALVED_AT {
            for count in &mut self.counts {
                *count /= 2;
            }
            self.total = self.counts.iter().sum();
            let bins = (0..BINS).filter(|bin| self.counts[*bin] > 0);
            self.bins = bins.fold(NONE, |bins, bin| with(&bins, bin));
        }
        self.largest = self.largest.max(peak);
        let Some(ages) = ages else {
            return;
        };
        for (growth, held) in self.growth.iter_mut().zip(&ages.held) {
            if *held != UNSEEN {
                growth.add(*held, peak);
            }
        }
    }

    fn spread(&self, quantile: f64, guess: u64) -> Spread {
        let largest = self.largest.max(SMALLEST);
        if self.seen < ENOUGH {
            // The fewer there were, the larger the next may be.
            let margin = 1.0 + 8.0 / f64::from(self.seen.max(1));
            let most = guess.max(largest + largest / 4);
            return Spread::certain(((largest as f64 * margin) as u64).min(most));
        }
        let enough = f64::from(self.total) * quantile;
        let (mut count, mut most) = (0, None);
        let (mut sum, mut squares) = (0.0, 0.0);
        for bin in self.bins.clone() {
            let times = self.counts[bin];
            if times == 0 {
                continue;
            }
            let bytes = upper(bin).min(largest);
            count += times;
            if most.is_none() && f64::from(count) >= enough {
                most = Some(bytes);
            }
            let (times, bytes) = (f64::from(times), bytes as f64);
            sum += times * bytes;
            squares += times * bytes * bytes;
        }
        let mean = sum / f64::from(count.max(1));
        let variance = squares / f64::from(count.max(1)) - mean * mean;
        Spread {
            most: most.unwrap_or(largest),
            mean,
            deviation: variance.max(0.0).sqrt(),
        }
    }
}

impl Growth {
    fn add(&mut self, held: u64, peak: u64) {
        if self.seen.is_multiple_of(WINDOW) {
            self.bytes = [0, self.bytes[0]];
            self.factor = [0.0, self.factor[0]];
        }
        self.seen = self.seen.checked_add(1).unwrap_or(WINDOW);
        let grown = peak.saturating_sub(held);
        self.bytes[0] = self.bytes[0].max(grown);
        if held >= BEGUN {
            let factor = peak as f32 / held as f32;
            self.factor[0] = self.factor[0].max(factor);
        }
    }

    /// What one that held so much has come to hold at most.
    fn most(&self, held: u64) -> Option<u64> {
        if self.seen < ENOUGH_AT_AGE {
            return None;
        }
        let bytes = self.bytes[0].max(self.bytes[1]);
        let factor = self.factor[0].max(self.factor[1]);
        let by_bytes = held.saturating_add(bytes);
        if held < BEGUN || factor == 0.0 {
            return Some(by_bytes);
        }
        let by_factor = (held as f64 * f64::from(factor)) as u64;
        Some(by_factor.min(by_bytes))
    }
}

impl Default for Ages {
    fn default() -> Self {
        Self {
            held: [UNSEEN; AGES],
            latest: 0,
            has_waited: false,
        }
    }
}

impl Ages {
    /// What it held when it came to an age, if somebody looked in time.
    fn at(&self, age: usize) -> Option<u64> {
        Some(self.held[age]).filter(|held| *held != UNSEEN)
    }

    /// Those of one that nobody has looked at until it was so old, in nanoseconds.
    pub(super) fn since(age: u64, live: u64) -> Self {
        let mut ages = Self {
            // It has, unless it has just begun, and nobody knows what it held then.
            has_waited: age / 1_000_000 >= AGE_FROM_MS[1],
            ..Self::default()
        };
        ages.note(age, live);
        ages
    }

    /// Notes what it holds when it waits, if it has not waited before.
    pub(super) fn waits(&mut self, live: u64) {
        if !mem::replace(&mut self.has_waited, true) {
            self.held[0] = live;
            self.latest = 0;
        }
    }

    /// Notes what it holds, so many nanoseconds after it began.
    pub(super) fn note(&mut self, age: u64, live: u64) {
        let ms = age / 1_000_000;
        let at = AGE_FROM_MS
            .iter()
            .rposition(|from| ms >= *from)
            .unwrap_or(0);
        // What it holds much later than at the beginning of an age tells nothing of that.
        let in_time = ms <= AGE_FROM_MS[at] + AGE_FROM_MS[at] / 2;
        if at > 0 && in_time && self.held[at] == UNSEEN {
            self.held[at] = live;
            self.latest = at as u8;
        }
    }
}

/// No bins.
const NONE: RangeInclusive<usize> = RangeInclusive::new(BINS, 0);

fn with(bins: &RangeInclusive<usize>, bin: usize) -> RangeInclusive<usize> {
    bin.min(*bins.start())..=bin.max(*bins.end())
}

/// The first bin whose edge is no smaller.
fn bin(bytes: u64) -> usize {
    let Some(octave) = (bytes.saturating_sub(1) / SMALLEST).checked_ilog2() else {
        return 0;
    };
    // It is larger than the edge of this one, and no larger than that of the fourth from here.
    let bin = 4 * octave as usize;
    let quarters = (1..4).filter(|quarter| upper(bin + quarter) < bytes);
    (bin + 1 + quarters.count()).min(BINS - 1)
}

fn upper(bin: usize) -> u64 {
    ((SMALLEST << (bin / 4)) as f64 * QUARTERS[bin % 4]) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const MS: u64 = 1_000_000;

    fn learned(peaks: impl IntoIterator<Item = u64>) -> Learned {
        let learned = Learned::new();
        for peak in peaks {
            learned.record(peak, 1, 0.9, None, u64::MAX);
        }
        learned
    }

    /// What a request holds that grows to `peak` in eight steps over 320 ms.
    fn in_steps(peak: u64, until: u64) -> Ages {
        let mut ages = Ages::default();
        ages.waits(peak / 8);
        for ms in 1..=until {
            ages.note(ms * MS, peak * (ms / 40 + 1).min(8) / 8);
        }
        ages
    }

    #[test]
    fn nothing_is_expected_before_the_first_has_ended() {
        assert_eq!(Learned::new().expected(), None);
        assert_eq!(Learned::new().expected_of(&Ages::default(), 3, 700), 700);
        assert_eq!(Learned::new().expected_of(&Ages::default(), 800, 700), 800);
    }

    #[test]
    fn few_are_trusted_less_than_many() {
        assert_eq!(learned([MIB]).expected(), Some(9 * MIB));
        assert_eq!(learned([MIB; 8]).expected(), Some(2 * MIB));
        // A quarter of an octave at the most, and no more than any had.
        assert_eq!(learned([MIB; 32]).expected(), Some(MIB));
        // One that holds nothing is taken to hold a page.
        assert_eq!(learned([0; 40]).expected(), Some(4_096));
    }

    #[test]
    fn few_are_trusted_no_less_than_a_guess() {
        let learned = Learned::new();
        learned.record(MIB, 1, 0.9, None, 4 * MIB);
        assert_eq!(learned.expected(), Some(4 * MIB));
        learned.record(40 * MIB, 1, 0.9, None, 4 * MIB);
        assert_eq!(learned.expected(), Some(50 * MIB));
    }

    #[test]
    fn what_those_that_run_hold_counts_while_few_have_ended() {
        let learned = learned([MIB; 8]);
        learned.saw(30 * MIB);
        assert_eq!(learned.expected(), Some(30 * MIB));
        learned.record(MIB, 1, 0.9, None, u64::MAX);
        assert!(learned.expected() > Some(30 * MIB));
        // Not once there are enough: one that is larger than all others closes the route for nobody.
        for _ in 0..40 {
            learned.record(MIB, 1, 0.9, None, u64::MAX);
        }
        learned.saw(900 * MIB);
        assert_eq!(learned.expected(), Some(MIB));
    }

    #[test]
    fn who_has_not_begun_is_not_taken_to_grow_by_as_many_times() {
        let learned = Learned::new();
        for _ in 0..40 {
            learned.record(8 * MIB, 1, 0.9, Some(&in_steps(8 * MIB, 320)), u64::MAX);
        }
        // It has waited for a processor until now.
        let mut ages = Ages::default();
        ages.note(20 * MS, 3_000);
        let expected = learned.expected_of(&ages, 3_000, 0);
        assert!(expected > 7 * MIB, "{expected}");
    }

    #[test]
    fn what_those_held_that_ran_before_the_first_has_ended_counts() {
        let learned = Learned::new();
        learned.saw(100 * MIB);
        learned.record(MIB, 1, 0.9, None, 50 * MIB);
        assert_eq!(learned.expected(), Some(125 * MIB));
    }

    #[test]
    fn most_hold_no_more_than_is_expected() {
        // From 1 to 100 MiB, nine in ten up to 90.
        let expected = learned((1..=100).map(|n| n * MIB)).expected().unwrap();
        assert!((90 * MIB..=108 * MIB).contains(&expected), "{expected}");
        // One that is much larger than all others closes the route for nobody.
        let peaks = std::iter::repeat_n(MIB, 100).chain([1_000 * MIB]);
        assert_eq!(learned(peaks).expected(), Some(MIB));
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let old = std::iter::repeat_n(64 * MIB, 1_000);
        let learned = learned(old.chain(std::iter::repeat_n(MIB, 8_000)));
        assert_eq!(learned.expected(), Some(MIB));
    }

    #[test]
    fn a_request_that_has_all_of_it_at_once_is_not_expected_to_grow() {
        let learned = Learned::new();
        for n in 1..=40 {
            let mut ages = Ages::default();
            ages.waits(n * MIB);
            learned.record(n * MIB, 1, 0.9, Some(&ages), u64::MAX);
        }
        let mut ages = Ages::default();
        assert!(learned.expected_of(&ages, 0, 0) >= 36 * MIB);
        ages.waits(3 * MIB);
        assert_eq!(learned.expected_of(&ages, 3 * MIB, 0), 3 * MIB);
    }

    #[test]
    fn a_request_that_grows_in_steps_is_known_by_its_first_step() {
        let learned = Learned::new();
        for n in 1..=40 {
            learned.record(
                8 * n * MIB,
                1,
                0.9,
                Some(&in_steps(8 * n * MIB, 320)),
                u64::MAX,
            );
        }
        for age in [1, 20, 70, 300] {
            let ages = in_steps(16 * MIB, age);
            let expected = learned.expected_of(&ages, 2 * MIB, 0);
            assert_eq!(expected, 16 * MIB, "after {age} ms");
        }
    }

    #[test]
    fn a_request_that_holds_nothing_when_it_first_waits_is_expected_to_grow_as_others_did() {
        let learned = Learned::new();
        let mut ages = Ages::default();
        ages.waits(0);
        for _ in 0..40 {
            learned.record(32 * MIB, 1, 0.9, Some(&ages), u64::MAX);
        }
        assert_eq!(learned.expected_of(&ages, 0, 0), 32 * MIB);
    }

    #[test]
    fn one_of_a_sample_is_not_waited_for_and_counts_as_any_where_it_need_not_be() {
        let learned = learned([MIB; 40]);
        let sample = || learned.sample(64 * MIB, 40, || (0.9, u64::MAX));
        let counting = learned.peaks.lock().unwrap();
        (0..100).for_each(|_| sample());
        drop(counting);
        assert_eq!(learned.expected(), Some(MIB));
        (0..SAMPLES).for_each(|_| sample());
        assert_eq!(learned.expected(), Some(64 * MIB));
    }

    #[test]
    fn one_that_is_larger_than_any_goes_on_growing_as_others_did() {
        let learned = Learned::new();
        for _ in 0..40 {
            learned.record(8 * MIB, 1, 0.9, Some(&in_steps(8 * MIB, 320)), u64::MAX);
        }
        let expected = learned.expected_of(&in_steps(160 * MIB, 1), 20 * MIB, 0);
        // By as many bytes as others did, rather than as many times.
        assert_eq!(expected, 27 * MIB);
    }

    #[test]
    fn growth_that_was_is_forgotten_after_two_windows() {
        let learned = Learned::new();
        learned.record(800 * MIB, 1, 0.9, Some(&in_steps(800 * MIB, 320)), u64::MAX);
        let mut ages = Ages::default();
        ages.waits(MIB);
        for _ in 0..2 * WINDOW {
            learned.record(MIB, 1, 0.9, Some(&ages), u64::MAX);
        }
        assert_eq!(learned.expected_of(&ages, MIB, 0), MIB);
    }

    #[test]
    fn what_is_seen_long_after_the_beginning_of_an_age_is_not_taken_for_it() {
        let mut ages = Ages::default();
        ages.note(3 * MS, 1);
        ages.note(10 * MS, 2);
        ages.note(60 * MS, 3);
        assert_eq!(ages.held, [UNSEEN; AGES]);
        ages.note(70 * MS, 4);
        ages.note(80 * MS, 5);
        assert_eq!(ages.at(3), Some(4));
    }

    #[test]
    fn what_one_held_when_it_first_waited_is_not_known_of_one_that_is_older() {
        let mut ages = Ages::since(3 * MS, 7);
        ages.waits(8);
        ages.waits(9);
        assert_eq!(ages.at(0), Some(8));
        let mut ages = Ages::since(5 * MS, 7);
        ages.waits(8);
        assert_eq!((ages.at(0), ages.at(1)), (None, Some(7)));
        assert_eq!(ages.latest, 1);
        // Between two ages nothing is known of either.
        assert_eq!(Ages::since(10 * MS, 7).held, [UNSEEN; AGES]);
    }

    #[test]
    fn any_size_has_the_first_bin_whose_edge_is_no_smaller() {
        assert_eq!((bin(0), bin(1)), (0, 0));
        for at in 0..BINS {
            let edge = upper(at);
            let exact = SMALLEST as f64 * (at as f64 / 4.0).exp2();
            assert_eq!(edge, exact as u64, "{at}");
            assert_eq!((bin(edge - 1), bin(edge)), (at, at));
            assert_eq!(bin(edge + 1), (at + 1).min(BINS - 1));
        }
        assert_eq!(bin(u64::MAX), BINS - 1);
    }

    #[test]
    fn those_that_were_forgotten_are_looked_at_no_more() {
        let (peaks, few) = ([64 * MIB, MIB / 64], HALVED_AT as usize);
        let learned = learned(peaks.into_iter().chain(std::iter::repeat_n(MIB, few)));
        let bins = learned.peaks.lock().unwrap().bins.clone();
        assert_eq!(bins, bin(MIB)..=bin(MIB));
    }
}
