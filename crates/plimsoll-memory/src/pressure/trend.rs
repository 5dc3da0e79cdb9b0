use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// How many points the slope is taken of, and how far they are apart.
const POINTS: usize = 60;
const APART: Duration = Duration::from_secs(1);
/// Fewer say nothing.
const LEAST_POINTS: usize = 10;

/// How fast what is used grows, by the last minute.
///
/// Of each second the least is kept, because what requests take for a moment is no growth. The slope is
/// the median of those between any two points, so that a few that stand out do not count; and that of
/// the last half of them if it is less, so that what has grown once is not taken for what grows.
#[derive(Debug, Default)]
pub(crate) struct Trend {
    /// Oldest first, when the second began and the least that was used in it.
    points: VecDeque<(Instant, u64)>,
    /// Room for the slopes, so that there is nothing to allocate.
    slopes: Vec<f64>,
    slope: Option<f64>,
}

impl Trend {
    /// Takes what is used now. Says whether the slope was taken anew, which is once a second.
    pub(crate) fn add(&mut self, now: Instant, used: u64) -> bool {
        let second = self.points.back_mut();
        if let Some((began, least)) = second
            && now.saturating_duration_since(*began) < APART
        {
            *least = used.min(*least);
            return false;
        }
        // Nobody knows what was used while nobody looked.
        if let Some((began, _)) = self.points.back()
            && now.saturating_duration_since(*began) > APART * 10
        {
            self.points.clear();
        }
        let of_whole_seconds = self.fit();
        self.slope = of_whole_seconds;
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back((now, used));
        true
    }

    /// Bytes per second. None where too little is known.
    pub(crate) const fn slope(&self) -> Option<f64> {
        self.slope
    }

    /// Whether it has seen a whole minute.
    pub(crate) fn is_full(&self) -> bool {
        self.points.len() == POINTS
    }

    pub(crate) fn clear(&mut self) {
        self.points.clear();
        self.slope = None;
    }

    fn fit(&mut self) -> Option<f64> {
        if self.points.len() < LEAST_POINTS {
            return None;
        }
        let all = self.median(0)?;
        let late = self.median(self.points.len() / 2)?;
        Some(match all.signum() == late.signum() {
            true => all.signum() * all.abs().min(late.abs()),
            false => 0.0,
        })
    }

    /// Of the slopes between all points from this one on.
    fn median(&mut self, from: usize) -> Option<f64> {
        self.slopes.clear();
        for (place, (later, high)) in self.points.iter().enumerate().skip(from) {
            for (earlier, low) in self.points.range(from..place) {
                let seconds = later.saturating_duration_since(*earlier).as_secs_f64();
                if seconds > 0.0 {
                    self.slopes.push((*high as f64 - *low as f64) / seconds);
                }
            }
        }
        let middle = self.slopes.len() / 2;
        (middle > 0).then(|| *self.slopes.select_nth_unstable_by(middle, f64::total_cmp).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slope_of(used: impl Fn(u64) -> u64, quarters: u64) -> Option<f64> {
        let mut trend = Trend::default();
        let start = Instant::now();
        for quarter in 0..quarters {
            let now = start + Duration::from_millis(250) * u32::try_from(quarter).unwrap();
            trend.add(now, used(quarter));
        }
        assert!(trend.points.len() <= POINTS);
        trend.slope()
    }

    #[test]
    fn growth_is_told_in_bytes_per_second() {
        assert_eq!(slope_of(|n| 1_000 + 50 * n, 400), Some(200.0));
        assert_eq!(slope_of(|n| 100_000 - 50 * n, 400), Some(-200.0));
        assert_eq!(slope_of(|_| 7, 400), Some(0.0));
        assert_eq!(slope_of(|n| n, 39), None, "too little is known");
    }

    #[test]
    fn what_comes_and_goes_within_a_second_is_no_growth() {
        assert_eq!(slope_of(|n| 1_000 + (n % 4) * 1_000_000, 400), Some(0.0));
    }

    #[test]
    fn a_few_points_that_stand_out_do_not_count() {
        let used = |n: u64| 1_000 + 50 * n + if (200..220).contains(&n) { 1 << 30 } else { 0 };
        assert_eq!(slope_of(used, 400), Some(200.0));
    }

    #[test]
    fn what_has_grown_once_does_not_grow() {
        for grown in [10, 30, 50] {
            let used = |n: u64| if n < 4 * grown { 1_000 } else { 9_000 };
            assert_eq!(slope_of(used, 4 * 61), Some(0.0), "a step");
            let used = |n: u64| 1_000 * n.min(4 * grown);
            let slope = slope_of(used, 4 * 61).unwrap();
            assert_eq!(slope > 0.0, grown > 35, "a start of {grown} s: {slope}");
        }
    }

    #[test]
    fn a_clock_that_jumps_starts_it_anew() {
        let mut trend = Trend::default();
        let start = Instant::now();
        for second in 0..60 {
            trend.add(start + APART * second, u64::from(second));
        }
        assert!(trend.is_full() && trend.slope().is_some());
        // Back: as if it was the same moment.
        assert!(!trend.add(start, 5));
        assert!(trend.add(start + Duration::from_secs(3_600), 5));
        assert_eq!((trend.points.len(), trend.slope()), (1, None));
    }
}
