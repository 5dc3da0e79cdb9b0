use std::fmt;

/// How close the process is to its memory limit: 0 is at ease, 1 is at the limit.
///
/// A pressure may be unknown, when no limit or no reading was found. Unknown is not "at ease",
/// but it never refuses anything either: [`scaled`](Self::scaled) is 0 for it.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Pressure(Option<f64>);

impl Pressure {
    /// No pressure at all.
    pub const NONE: Self = Self(Some(0.0));
    /// At the limit or above it.
    pub const FULL: Self = Self(Some(1.0));
    /// Nothing is known.
    pub const UNKNOWN: Self = Self(None);

    /// Makes a pressure of `value`, brought into 0 to 1. Not-a-number is unknown.
    #[must_use]
    pub fn new(value: f64) -> Self {
        Self((!value.is_nan()).then(|| value.clamp(0.0, 1.0)))
    }

    /// Makes the pressure of `used` bytes under `limit` bytes. No limit is unknown pressure; a
    /// limit of 0 is full pressure.
    #[must_use]
    pub fn of(used: u64, limit: Option<u64>) -> Self {
        match limit {
            None => Self::UNKNOWN,
            Some(0) => Self::FULL,
            // Precision is lost above 2^53 bytes only.
            Some(limit) => Self::new(used as f64 / limit as f64),
        }
    }

    /// The number from 0 to 1, where it is known.
    #[must_use]
    pub const fn value(self) -> Option<f64> {
        self.0
    }

    /// How far the pressure has come from `from` towards `to`: 0 at or below `from`, 1 at or
    /// above `to`, in proportion between. 0 when unknown; a step at `to` when `from >= to`.
    #[must_use]
    pub fn scaled(self, from: f64, to: f64) -> f64 {
        match self.0 {
            None => 0.0,
            Some(value) if value >= to => 1.0,
            Some(value) if value <= from || from >= to => 0.0,
            Some(value) => (value - from) / (to - from),
        }
    }

    /// The higher of the two; a known pressure is higher than an unknown one.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.max(b))),
            (known, None) | (None, known) => Self(known),
        }
    }
}

impl fmt::Display for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => write!(f, "{:.0} %", value * 100.0),
            None => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_between_zero_and_one() {
        assert_eq!(Pressure::new(-1.0), Pressure::NONE);
        assert_eq!(Pressure::new(f64::INFINITY), Pressure::FULL);
        assert_eq!(Pressure::new(f64::NAN), Pressure::UNKNOWN);
        assert_eq!(Pressure::of(600, Some(512)), Pressure::FULL);
        assert_eq!(Pressure::of(0, Some(0)), Pressure::FULL);
        assert_eq!(Pressure::of(1, None), Pressure::UNKNOWN);
    }

    #[test]
    fn scales_between_two_marks_and_steps_where_they_cross() {
        let table = [
            (0.80, 0.8, 0.9, 0.0),
            (0.85, 0.8, 0.9, 0.5),
            (0.90, 0.8, 0.9, 1.0),
            (0.90, 0.9, 0.9, 1.0),
            (0.89, 0.9, 0.9, 0.0),
            (0.70, 0.9, 0.5, 1.0),
        ];
        for (value, from, to, want) in table {
            let got = Pressure::new(value).scaled(from, to);
            assert!((got - want).abs() < 1e-9, "{value} in {from}..{to}: {got}");
        }
    }

    #[test]
    fn unknown_never_refuses_and_never_hides_a_known_one() {
        assert_eq!(Pressure::UNKNOWN.scaled(0.0, 0.0), 0.0);
        assert_eq!(Pressure::UNKNOWN.max(Pressure::NONE), Pressure::NONE);
        assert_eq!(Pressure::NONE.max(Pressure::FULL), Pressure::FULL);
    }
}
