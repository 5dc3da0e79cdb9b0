//! Medians and the like.

use hdrhistogram::Histogram;
use std::time::Duration;
use tokio::time::Instant;

/// The time since `start`, in seconds.
#[must_use]
pub fn seconds_since(start: Instant) -> f64 {
    Instant::now()
        .saturating_duration_since(start)
        .as_secs_f64()
}

/// The middle value, the lower one of two; `NaN` if there is none.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len => values[(len - 1) / 2],
    }
}

/// The median of `values[i] / base[i]`: each value is compared with that of its own round.
#[must_use]
pub fn median_ratio(values: &[f64], base: &[f64]) -> f64 {
    median(values.iter().zip(base).map(|(value, base)| value / base))
}

/// The largest value; minus infinity if there is none.
#[must_use]
pub fn max(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(f64::NEG_INFINITY, f64::max)
}

/// The smallest value; infinity if there is none.
#[must_use]
pub fn min(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(f64::INFINITY, f64::min)
}

/// An empty histogram of three digits. It has room for a minute in nanoseconds from the start: one
/// that grows would not do so when it is recorded to with saturation.
#[expect(clippy::missing_panics_doc, reason = "the bounds are constants")]
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000_000, 3).expect("a minute and three digits are in range")
}

/// A duration in microseconds.
#[must_use]
pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
