//! What one thing held, as the least of each bucket of time, over several horizons.

/// How many closed buckets a horizon is judged by.
pub(super) const SPAN: usize = 15;

/// How many of them are a window. There are two, which overlap by half.
pub(super) const WINDOW: usize = 10;

pub(super) const HORIZONS: usize = 4;

/// How long a bucket of each horizon is, in milliseconds.
pub(super) const WIDTHS: [u64; HORIZONS] = [3_000, 20_000, 60_000, 240_000];

/// The closed buckets, and the one that is filled.
const RING: usize = SPAN + 1;

/// For so many buckets, and at most twice as many, it is remembered what was held before the span.
const ERAS: [u32; HORIZONS] = [600, 100, 100, 60];

/// The number of the bucket that a time falls in. Numbers begin above 0, so that there are always
/// enough buckets before, which are empty.
pub(super) fn bucket(horizon: usize, millis: u64) -> u32 {
    let number = millis / WIDTHS[horizon] + RING as u64;
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// One horizon. Numbers are kept as `f32`, whose error is less than a ten-millionth.
#[derive(Debug)]
pub(super) struct Series {
    /// The bucket that is filled.
    open: u32,
    /// The least of each bucket, by its number; NaN where nothing was seen.
    least: [f32; RING],
    /// The most of the bucket that is filled.
    most: f32,
    /// Between the least and the most of the newest closed bucket.
    swing: f32,
    /// What has left the ring in this era, and in the one before.
    past: [Past; 2],
}

/// What was held before the span, as far as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Past {
    /// The most.
    pub(super) peak: f32,
    /// The most that it fell by from a peak.
    pub(super) fell: f32,
}

impl Series {
    pub(super) const fn new(open: u32) -> Self {
        Self {
            open,
            least: [f32::NAN; RING],
            most: f32::NAN,
            swing: 0.0,
            past: [Past::NONE; 2],
        }
    }

    /// Goes on to a bucket of a horizon. Those that are skipped are empty, however many there are.
    pub(super) fn advance(&mut self, horizon: usize, open: u32) {
        if open <= self.open {
            return;
        }
        match open / ERAS[horizon] - self.open / ERAS[horizon] {
            0 => {}
            1 => self.past = [Past::NONE, self.past[0]],
            _ => self.past = [Past::NONE; 2],
        }
        let least = self.least[self.open as usize % RING];
        self.swing = (std::mem::replace(&mut self.most, f32::NAN) - least).max(0.0);
        let steps = (open - self.open).min(RING as u32);
        for number in open - steps + 1..=open {
            let place = number as usize % RING;
            let leaves = std::mem::replace(&mut self.least[place], f32::NAN);
            let peak = self.past().peak;
            // Of a number and NaN, `max` is the number.
            let past = &mut self.past[0];
            past.peak = past.peak.max(leaves);
            past.fell = past.fell.max(peak - leaves);
        }
        self.open = open;
    }

    /// What was held at a time counts for the bucket of that time. It may be closed, if it is not too old.
    pub(super) fn observe(&mut self, number: u32, held: f32) {
        if self.open.saturating_sub(number) >= RING as u32 {
            return;
        }
        let least = &mut self.least[number as usize % RING];
        *least = least.min(held);
        if number == self.open {
            self.most = self.most.max(held);
        }
    }

    pub(super) const fn swing(&self) -> f32 {
        self.swing
    }

    /// The least of each closed bucket, oldest first.
    pub(super) fn closed(&self) -> [f32; SPAN] {
        let oldest = self.open as usize + 1;
        std::array::from_fn(|at| self.least[(oldest + at) % RING])
    }

    /// What was held before the span.
    pub(super) const fn past(&self) -> Past {
        let [this, before] = self.past;
        Past {
            peak: this.peak.max(before.peak),
            fell: this.fell.max(before.fell),
        }
    }
}

impl Past {
    pub(super) const NONE: Self = Self {
        peak: f32::NEG_INFINITY,
        fell: 0.0,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(series: &Series) -> Vec<f32> {
        let closed = series.closed().into_iter();
        closed.filter(|least| !least.is_nan()).collect()
    }

    #[test]
    fn the_least_of_each_bucket_is_kept() {
        let mut series = Series::new(bucket(0, 0));
        for (millis, held) in [(0, 5.0), (1_000, 3.0), (2_999, 4.0), (3_000, 9.0)] {
            let number = bucket(0, millis);
            series.advance(0, number);
            series.observe(number, held);
        }
        assert_eq!(present(&series), [3.0], "the second is not closed");
        assert_eq!(series.swing(), 2.0);
        series.advance(0, bucket(0, 6_000));
        assert_eq!(present(&series), [3.0, 9.0]);
        assert_eq!(series.swing(), 0.0);
    }

    #[test]
    fn buckets_in_which_nothing_was_seen_are_empty() {
        let mut series = Series::new(bucket(0, 0));
        series.observe(bucket(0, 0), 1.0);
        series.advance(0, bucket(0, 9_000));
        series.observe(bucket(0, 9_000), 2.0);
        series.advance(0, bucket(0, 12_000));
        let closed = series.closed();
        assert_eq!((closed[11], closed[14]), (1.0, 2.0));
        assert!(closed[12].is_nan() && closed[13].is_nan());
        series.advance(0, u32::MAX);
        assert_eq!(present(&series), []);
        series.advance(0, 3);
        assert_eq!(series.open, u32::MAX, "it never goes back");
    }

    #[test]
    fn what_is_told_late_counts_for_its_own_time_unless_it_is_too_old() {
        let mut series = Series::new(bucket(0, 0));
        series.advance(0, bucket(0, 48_000));
        for (millis, held) in [(48_000, 9.0), (0, 1.0), (42_000, 5.0), (45_000, 12.0)] {
            series.observe(bucket(0, millis), held);
        }
        series.advance(0, bucket(0, 51_000));
        assert_eq!(present(&series), [5.0, 12.0, 9.0]);
        assert_eq!(series.swing(), 0.0, "the newest has one value");
    }

    #[test]
    fn what_was_held_before_the_span_is_remembered_for_one_to_two_eras() {
        let era = ERAS[0];
        let mut series = Series::new(era);
        let past = |peak, fell| Past { peak, fell };
        series.observe(era, 7.0);
        series.advance(0, era + 1);
        series.observe(era + 1, 5.0);
        series.advance(0, era + 15);
        assert_eq!(series.past(), Past::NONE, "it is in the span");
        series.advance(0, era + 16);
        assert_eq!(series.past(), past(7.0, 0.0));
        series.advance(0, era + 17);
        assert_eq!(series.past(), past(7.0, 2.0));
        series.advance(0, 3 * era - 1);
        assert_eq!(series.past(), past(7.0, 2.0));
        series.advance(0, 3 * era);
        assert_eq!(series.past(), Past::NONE);
    }
}
