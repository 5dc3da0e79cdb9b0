//! When a row of least values is a leak.

use super::series::{SPAN, WINDOW};
use crate::trend::{Score, slope};

const PAIRS: usize = SPAN * (SPAN - 1) / 2;

/// How many buckets are half of a span: the one in the middle is in both.
const HALF: usize = SPAN / 2 + 1;

/// A window of fewer buckets with a value tells nothing.
const LEAST_POINTS: usize = 8;

/// Of a bucket's mean rise, what a bucket has to rise by to count as one that rises.
const RISES: f64 = 0.25;

/// Of what a bucket swings by within itself, what the span has to rise by. What swings with a period of many
/// seconds, and is seen once a second, has a least that drifts by the swing of one second.
const SWING: f64 = 0.25;

/// The newest third has to rise at this share of the slope of its window.
const RECENT: f64 = 0.5;

/// A leak goes on while the newest third rises at this share of the slope that it began with.
const GOES_ON: f64 = 0.25;

/// What makes a leak of what rises.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// It has to rise by that over the span.
    pub(super) least_rise: f64,
    /// The most that the probability of chance may be, in each window.
    pub(super) most_p: f64,
    /// The newer half of the span has to rise at this share of the slope of the older, or it is on
    /// its way to its bound.
    pub(super) keeps: f64,
    /// The newest step has to be this share of the mean one.
    pub(super) last_step: f64,
    /// The least share of the variance that a straight line has to explain.
    pub(super) least_linear: f64,
}

/// What is known besides the row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The most that was held before.
    pub(super) peak: f64,
    /// The most that it fell by, before.
    pub(super) fell: f64,
    /// What it swings by within a bucket.
    pub(super) swing: f64,
    /// By how much it rose for a bucket on the next longer horizon.
    pub(super) longer: f64,
}

/// A row that rises.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rising {
    /// By so much a bucket, in the newest window.
    pub(super) slope: f64,
    /// The probability of chance, of the window where it is higher.
    p: f64,
    /// The share of the variance that a straight line explains.
    linear: f64,
}

/// The points of a span that have a value.
struct Points {
    points: [(f64, f64); SPAN],
    len: usize,
}

impl Rising {
    /// How sure it is that it rises steadily, 0 to 1.
    pub(super) fn confidence(self) -> f64 {
        ((1.0 - self.p) * self.linear).clamp(0.0, 1.0)
    }
}

impl Rule {
    /// Whether a row rises so that it is a leak.
    pub(super) fn begins(&self, span: &[f32; SPAN], known: &Known) -> Option<Rising> {
        let all = Points::of(span);
        if span[0].is_nan() || span[SPAN - 1].is_nan() {
            return None;
        }
        let (first, last) = all.ends()?;
        let rise = last - first;
        if rise < self.least_rise.max(SWING * known.swing) {
            return None;
        }
        // Whatever goes up and down comes to where it was; a leak comes to where nothing was.
        if last - known.peak < rise.max(known.fell) / 2.0 {
            return None;
        }
        let mut p = 0.0_f64;
        for window in [all.within(0, WINDOW), all.within(SPAN - WINDOW, SPAN)] {
            if window.len() < LEAST_POINTS || !rises_steadily(window) {
                return None;
            }
            let score = Score::of(window);
            p = p.max(score.p());
            if score.s <= 0 || p > self.most_p {
                return None;
            }
        }
        let of_newest = |buckets| slope::<PAIRS>(all.within(SPAN - buckets, SPAN));
        let newest = of_newest(WINDOW);
        let older = slope::<PAIRS>(all.within(0, HALF)).max(known.longer);
        let last_step = last - f64::from(span[SPAN - 2]);
        let stops = of_newest(SPAN / 3) < RECENT * newest
            || of_newest(HALF) < self.keeps * older
            || last_step < self.last_step * rise / (SPAN - 1) as f64;
        let linear = linear(all.all());
        (!stops && newest > 0.0 && linear >= self.least_linear).then_some(Rising {
            slope: newest,
            p,
            linear,
        })
    }
}

/// Whether a leak that began with this slope still rises.
pub(super) fn goes_on(span: &[f32; SPAN], began: f64) -> Option<Rising> {
    let all = Points::of(span);
    let window = all.within(SPAN - WINDOW, SPAN);
    let recent = all.within(SPAN - SPAN / 3, SPAN);
    if slope::<PAIRS>(recent) < GOES_ON * began {
        return None;
    }
    let score = Score::of(window);
    (score.s > 0).then(|| Rising {
        slope: slope::<PAIRS>(window),
        p: score.p(),
        linear: linear(all.all()),
    })
}

impl Points {
    fn of(span: &[f32; SPAN]) -> Self {
        let mut points = [(0.0, 0.0); SPAN];
        let mut len = 0;
        for (at, least) in span.iter().enumerate() {
            if !least.is_nan() {
                points[len] = (at as f64, f64::from(*least));
                len += 1;
            }
        }
        Self { points, len }
    }

    fn all(&self) -> &[(f64, f64)] {
        &self.points[..self.len]
    }

    /// Those of the buckets from one to before another.
    fn within(&self, from: usize, to: usize) -> &[(f64, f64)] {
        let all = self.all();
        let place = |bucket: usize| all.partition_point(|(at, _)| *at < bucket as f64);
        &all[place(from)..place(to)]
    }

    fn ends(&self) -> Option<(f64, f64)> {
        let all = self.all();
        Some((all.first()?.1, all.last()?.1))
    }
}

/// By how much a span rises for each bucket.
pub(super) fn mean_slope(span: &[f32; SPAN]) -> f64 {
    slope::<PAIRS>(Points::of(span).all())
}

/// How much a span rises from end to end.
pub(super) fn rise(span: &[f32; SPAN]) -> f64 {
    let ends = Points::of(span).ends();
    ends.map_or(0.0, |(first, last)| last - first)
}

/// Whether at least half of the steps go up by a fair share, which a few large ones do not make.
fn rises_steadily(window: &[(f64, f64)]) -> bool {
    let (Some(first), Some(last)) = (window.first(), window.last()) else {
        return false;
    };
    let mean = (last.1 - first.1) / (last.0 - first.0).max(1.0);
    let steps = window.windows(2);
    let all = steps.len();
    let rises =
        steps.filter(|pair| pair[1].1 - pair[0].1 >= RISES * mean * (pair[1].0 - pair[0].0));
    mean > 0.0 && 2 * rises.count() >= all
}

/// The share of the variance that a straight line explains: the square of Pearson's coefficient.
fn linear(points: &[(f64, f64)]) -> f64 {
    let n = points.len().max(1) as f64;
    let mean_of = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (mean_x, mean_y) = (mean_of(|it| it.0), mean_of(|it| it.1));
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in points {
        let (x, y) = (x - mean_x, y - mean_y);
        xx += x * x;
        xy += x * y;
        yy += y * y;
    }
    let all = xx * yy;
    if all > 0.0 {
        (xy * xy / all).min(1.0)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that may be left out is.
    const LENIENT: Rule = Rule {
        least_rise: 1.0,
        most_p: 0.001,
        keeps: 0.0,
        last_step: f64::NEG_INFINITY,
        least_linear: 0.0,
    };

    const NOTHING: Known = Known {
        peak: f64::NEG_INFINITY,
        fell: 0.0,
        swing: 0.0,
        longer: 0.0,
    };

    fn begins(rule: &Rule, row: impl Fn(usize) -> f32) -> bool {
        rule.begins(&std::array::from_fn(row), &NOTHING).is_some()
    }

    #[test]
    fn a_straight_line_rises_by_its_slope() {
        let row = std::array::from_fn(|at| 3.0 * at as f32);
        let rising = LENIENT.begins(&row, &NOTHING).unwrap();
        assert_eq!((rising.slope, rising.linear), (3.0, 1.0));
        assert!(rising.confidence() > 0.999);
        let rising = goes_on(&row, 3.0).unwrap();
        assert_eq!((rising.slope, rising.linear), (3.0, 1.0));
    }

    #[test]
    fn both_windows_have_to_rise() {
        assert!(!begins(&LENIENT, |at| at.saturating_sub(4) as f32));
        assert!(!begins(&LENIENT, |at| at.min(10) as f32));
        assert!(begins(&LENIENT, |at| at.saturating_sub(2) as f32));
    }

    #[test]
    fn the_newest_third_has_to_rise_at_half_the_slope_of_its_window() {
        let then =
            |slope: f32| move |at: usize| at.min(10) as f32 + at.saturating_sub(10) as f32 * slope;
        assert!(begins(&LENIENT, then(0.6)));
        assert!(!begins(&LENIENT, then(0.3)));
    }

    #[test]
    fn the_newer_half_has_to_rise_as_the_older_and_the_longer_horizon_do() {
        let rule = Rule {
            keeps: 0.8,
            ..LENIENT
        };
        let then =
            |slope: f32| move |at: usize| at.min(7) as f32 + at.saturating_sub(7) as f32 * slope;
        assert!(begins(&rule, then(0.9)));
        assert!(!begins(&rule, then(0.7)));
        let row = std::array::from_fn(|at| at as f32);
        for (longer, leaks) in [(1.0, true), (1.2, true), (1.3, false)] {
            let known = Known { longer, ..NOTHING };
            assert_eq!(rule.begins(&row, &known).is_some(), leaks, "{longer}");
        }
    }

    #[test]
    fn it_has_to_come_above_what_was_held_before() {
        let row = std::array::from_fn(|at| at as f32);
        for (peak, fell, leaks) in [
            (7.0, 0.0, true),
            (7.5, 0.0, false),
            (5.0, 18.0, true),
            (5.0, 19.0, false),
        ] {
            let known = Known {
                peak,
                fell,
                ..NOTHING
            };
            assert_eq!(LENIENT.begins(&row, &known).is_some(), leaks);
        }
    }

    #[test]
    fn too_few_values_tell_nothing() {
        let sure = Rule {
            most_p: 0.01,
            ..LENIENT
        };
        let without = |missing: &'static [usize]| {
            move |at| {
                if missing.contains(&at) {
                    f32::NAN
                } else {
                    at as f32
                }
            }
        };
        assert!(begins(&sure, without(&[6, 12])));
        assert!(
            !begins(&sure, without(&[6, 7, 12])),
            "seven in the newer window"
        );
        assert!(!begins(&sure, without(&[0])));
        assert!(!begins(&sure, without(&[14])));
        assert!(!begins(
            &sure,
            without(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
        ));
        let one = std::array::from_fn(|at| if at == 14 { 1.0 } else { f32::NAN });
        assert!(goes_on(&one, 1.0).is_none());
    }
}
