//! Whether a row of numbers rises or falls, told by their ranks, so that a few wild ones decide nothing.
//!
//! The test is that of Mann and Kendall, with the corrections for ties and for continuity; the slope
//! is that of Theil and Sen, the median of the slopes between any two points. Both stand up to noise of
//! any shape, as long as what one point is off by tells nothing of the next.
//!
//! ```
//! use plimsoll_memory::trend::Trend;
//!
//! let minutes = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5];
//! let megabytes = [80.0, 82.0, 83.0, 150.0, 88.0, 89.0, 92.0, 95.0];
//! let points: Vec<_> = minutes.into_iter().zip(megabytes).collect();
//! let trend = Trend::of(&points).unwrap();
//! assert!(trend.p < 0.05);
//! assert!((4.0..5.0).contains(&trend.slope), "megabytes a minute, whatever the 150 are");
//! ```

use std::f64::consts::FRAC_1_SQRT_2;

/// The most points that are looked at: of more than that, the last so many.
pub const MAX_POINTS: usize = 60;

/// The fewest points that tell anything.
pub const MIN_POINTS: usize = 3;

const MAX_PAIRS: usize = MAX_POINTS * (MAX_POINTS - 1) / 2;

/// Which way a row of points goes, and how surely.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Trend {
    /// How many points were looked at.
    pub points: usize,
    /// Mann and Kendall's *S*: the pairs of points that rise less those that fall.
    pub s: i32,
    /// The variance of `s` if there were no trend.
    pub variance: f64,
    /// How many standard deviations `s` is from 0; 0 where all points are equally high.
    pub z: f64,
    /// How likely points without a trend are to be so far from 0, to either side: 0 to 1. By the
    /// normal approximation: where no two points are equally high, it is off by 0.013 at most from 8
    /// points on, and below 0.08 it is never too small.
    pub p: f64,
    /// By how much it rises for each unit of the abscissa, as the median of all pairs has it.
    pub slope: f64,
}

impl Trend {
    /// Looks at points `(x, y)`, by ascending `x`. What is not finite is left out, and so are all
    /// but the last [`MAX_POINTS`]. None if fewer than [`MIN_POINTS`] are left.
    ///
    /// It allocates nothing. Its time grows with the square of the points.
    #[must_use]
    pub fn of(points: &[(f64, f64)]) -> Option<Self> {
        let mut kept = [(0.0, 0.0); MAX_POINTS];
        let finite = |(x, y): &&(f64, f64)| x.is_finite() && y.is_finite();
        let mut len = 0;
        let newest_first = points.iter().rev().filter(finite).take(MAX_POINTS);
        for (place, point) in kept.iter_mut().rev().zip(newest_first) {
            *place = *point;
            len += 1;
        }
        let kept = &kept[MAX_POINTS - len..];
        if len < MIN_POINTS {
            return None;
        }
        let score = Score::of(kept);
        Some(Self {
            points: len,
            s: score.s,
            variance: score.variance,
            z: score.z(),
            p: score.p(),
            slope: slope::<MAX_PAIRS>(kept),
        })
    }

    /// Looks at values that are one unit apart.
    ///
    /// ```
    /// use plimsoll_memory::trend::Trend;
    ///
    /// assert_eq!(Trend::of_values(&[3.0, 4.0, 4.0, 6.0]).unwrap().slope, 1.0);
    /// ```
    #[must_use]
    pub fn of_values(values: &[f64]) -> Option<Self> {
        let values = &values[values.len().saturating_sub(MAX_POINTS)..];
        let mut points = [(0.0, 0.0); MAX_POINTS];
        for (at, (point, value)) in points.iter_mut().zip(values).enumerate() {
            *point = (at as f64, *value);
        }
        Self::of(&points[..values.len()])
    }
}

/// The test alone, without the slope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Score {
    pub(crate) s: i32,
    variance: f64,
}

impl Score {
    /// Scores up to [`MAX_POINTS`] finite points.
    pub(crate) fn of(points: &[(f64, f64)]) -> Self {
        let mut s = 0;
        // What ties take off the variance: `t(t-1)(2t+5)` for each group of `t`, which is the same as
        // `(t-1)(2t+5)` for each of its members.
        let mut ties = 0;
        for (at, (_, value)) in points.iter().enumerate() {
            let mut alike = 0;
            for (other_at, (_, other)) in points.iter().enumerate() {
                alike += i32::from(value == other);
                if other_at > at {
                    s += i32::from(other > value) - i32::from(other < value);
                }
            }
            ties += (alike - 1) * (2 * alike + 5);
        }
        let n = points.len() as i32;
        let variance = f64::from(n * (n - 1) * (2 * n + 5) - ties) / 18.0;
        Self { s, variance }
    }

    fn z(self) -> f64 {
        if self.s == 0 || self.variance <= 0.0 {
            return 0.0;
        }
        f64::from(self.s - self.s.signum()) / self.variance.sqrt()
    }

    pub(crate) fn p(self) -> f64 {
        libm::erfc(self.z().abs() * FRAC_1_SQRT_2)
    }
}

/// The median of the slopes between any two of the points that are not one above the other; 0 if
/// there are none. `PAIRS` is the most pairs that there may be.
pub(crate) fn slope<const PAIRS: usize>(points: &[(f64, f64)]) -> f64 {
    let mut slopes = [0.0; PAIRS];
    let mut len = 0;
    for (at, (x, y)) in points.iter().enumerate() {
        for (later_x, later_y) in &points[at + 1..] {
            if later_x > x && len < PAIRS {
                slopes[len] = (later_y - y) / (later_x - x);
                len += 1;
            }
        }
    }
    median(&mut slopes[..len])
}

fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let (middle, is_odd) = (values.len() / 2, values.len() % 2 == 1);
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if is_odd {
        return *upper;
    }
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    f64::midpoint(lower, *upper)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn of(values: impl IntoIterator<Item = i32>) -> Trend {
        let values: Vec<_> = values.into_iter().map(f64::from).collect();
        Trend::of_values(&values).unwrap()
    }

    fn about(value: f64, expected: f64, within: f64) {
        assert!(
            (value - expected).abs() <= within,
            "{value}, not {expected}"
        );
    }

    #[test]
    fn a_row_that_only_rises_is_a_trend() {
        let trend = of(1..=10);
        assert_eq!((trend.points, trend.s, trend.variance), (10, 45, 125.0));
        about(trend.z, 3.9355, 5e-5);
        about(trend.p, 8.3e-5, 5e-7);
        about(trend.slope, 1.0, 0.0);
    }

    #[test]
    fn a_row_that_only_falls_is_the_same_mirrored() {
        let (up, down) = (of(1..=10), of((1..=10).rev()));
        assert_eq!((down.s, down.z), (-up.s, -up.z));
        assert_eq!((down.p, down.slope), (up.p, -up.slope));
    }

    #[test]
    fn what_is_constant_has_no_trend() {
        let trend = of([7; 12]);
        assert_eq!((trend.s, trend.variance), (0, 0.0));
        assert_eq!((trend.z, trend.p, trend.slope), (0.0, 1.0, 0.0));
    }

    #[test]
    fn ties_make_the_variance_smaller() {
        let trend = of([1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
        assert_eq!((trend.s, trend.variance), (40, 120.0));
        about(trend.z, 3.5602, 5e-5);
        about(trend.slope, 0.5, 0.0);
    }

    #[test]
    fn one_wild_value_does_not_change_the_slope() {
        about(of((1..=9).chain([1_000])).slope, 1.0, 0.0);
    }

    #[test]
    fn slopes_go_by_where_points_are_not_by_their_number() {
        let points = [0.0, 1.0, 2.0, 10.0, 20.0].map(|x| (x, 3.0 * x - 1.0));
        about(Trend::of(&points).unwrap().slope, 3.0, 1e-12);
        let upright = [(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)];
        about(Trend::of(&upright).unwrap().slope, 0.0, 0.0);
    }

    #[test]
    fn too_few_points_tell_nothing() {
        assert_eq!(Trend::of_values(&[1.0, 2.0]), None);
        let of_three = [f64::NAN, 1.0, 2.0, f64::INFINITY];
        assert_eq!(Trend::of_values(&of_three), None);
        assert_eq!(Trend::of(&[]), None);
    }

    #[test]
    fn of_too_many_points_the_last_count() {
        let falls_then_rises = of((1..=100).rev().chain(1..=60));
        assert_eq!(falls_then_rises, of(1..=60));
    }

    #[test]
    fn what_is_not_finite_is_left_out() {
        let with = [1.0, f64::NAN, 3.0, f64::INFINITY, 5.0];
        let trend = Trend::of_values(&with).unwrap();
        assert_eq!((trend.points, trend.s), (3, 3));
        about(trend.slope, 1.0, 0.0);
    }

    /// The probabilities of a normal distribution, from tables of it.
    #[test]
    fn probabilities_are_those_of_a_normal_distribution() {
        for (z, p) in [
            (0.0, 1.0),
            (1.0, 0.317_311),
            (1.959_964, 0.05),
            (3.290_527, 0.001),
        ] {
            about(libm::erfc(z * FRAC_1_SQRT_2), p, 1e-6);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_agrees_with_the_definition(values in vec(-20_i32..20, 3..=MAX_POINTS)) {
            let n = values.len();
            let trend = of(values.iter().copied());
            let pairs = || (0..n).flat_map(|b| (0..b).map(move |a| (a, b)));
            let s: i32 = pairs().map(|(a, b)| (values[b] - values[a]).signum()).sum();
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let of_ties: f64 = sorted
                .chunk_by(i32::eq)
                .map(|tied| tied.len() as f64)
                .map(|t| t * (t - 1.0) * (2.0 * t + 5.0))
                .sum();
            let n = n as f64;
            let variance = (n * (n - 1.0) * (2.0 * n + 5.0) - of_ties) / 18.0;
            prop_assert_eq!(trend.s, s);
            prop_assert!((trend.variance - variance).abs() < 1e-6);
            let mut slopes: Vec<_> = pairs()
                .map(|(a, b)| f64::from(values[b] - values[a]) / (b - a) as f64)
                .collect();
            slopes.sort_by(f64::total_cmp);
            let median = (slopes[(slopes.len() - 1) / 2] + slopes[slopes.len() / 2]) / 2.0;
            prop_assert!((trend.slope - median).abs() < 1e-12);
            prop_assert!((0.0..=1.0).contains(&trend.p));
        }
    }
}
