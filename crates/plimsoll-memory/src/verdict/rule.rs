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
    if recent.len() < 2 || slope::<PAIRS>(recent) < GOES_ON * began {
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
