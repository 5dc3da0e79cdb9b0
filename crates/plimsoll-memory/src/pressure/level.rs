use plimsoll_core::{ConfigError, Pressure, Problems};
use std::{fmt, time::Duration};

/// How close the process is to its line, in words.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum PressureLevel {
    /// Nobody knows: there is no limit, or nothing tells what is used. It is not at ease, but nothing
    /// is refused or given up either.
    #[default]
    Unknown,
    /// At ease.
    Normal,
    /// Room is made by what harms nobody: what has expired goes, and what the allocator has free.
    Elevated,
    /// What is expendable is given up as well: holdings are shrunk.
    High,
    /// At the line. If that lasts, the largest requests are ended, where that is enforced.
    Critical,
}

/// The level has changed.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct PressureChange {
    /// The level before.
    pub from: PressureLevel,
    /// The level now.
    pub to: PressureLevel,
    /// The pressure now.
    pub pressure: Pressure,
    /// How long the level before had lasted.
    pub lasted: Duration,
}

/// Goes from 0 to 1 while the pressure goes from one mark to another.
///
/// ```
/// use plimsoll_core::Pressure;
/// use plimsoll_memory::ScaledTrigger;
///
/// let trigger = ScaledTrigger::new(0.85, 0.95)?;
/// assert_eq!(trigger.scale(Pressure::new(0.85)), 0.0);
/// assert_eq!(trigger.scale(Pressure::new(0.95)), 1.0);
/// assert!(ScaledTrigger::new(0.95, 0.95).is_err());
/// # Ok::<_, plimsoll_core::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScaledTrigger {
    from: f64,
    to: f64,
}

/// Where levels begin, as shares of the line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Thresholds {
    pub(crate) elevated: f64,
    pub(crate) high: f64,
    pub(crate) critical: f64,
    /// How far below its beginning a level ends.
    pub(crate) gap: f64,
}

/// The level now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Levels {
    level: PressureLevel,
}

/// Whether something is above its threshold, which ends only some way below.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Edge {
    active: bool,
}

// === impl PressureLevel ===

impl PressureLevel {
    /// Every level, the least first.
    pub const ALL: [Self; 5] = [
        Self::Unknown,
        Self::Normal,
        Self::Elevated,
        Self::High,
        Self::Critical,
    ];

    /// The level as a word for people and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Normal => "normal",
            Self::Elevated => "elevated",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// Whether it is one of those for which something is done.
    #[must_use]
    pub fn is_pressing(self) -> bool {
        self >= Self::Elevated
    }

    pub(crate) const fn from_u8(level: u8) -> Self {
        match level {
            1 => Self::Normal,
            2 => Self::Elevated,
            3 => Self::High,
            4 => Self::Critical,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for PressureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

// === impl ScaledTrigger ===

impl ScaledTrigger {
    /// Makes a trigger that is 0 up to `from`, and 1 from `to` on.
    ///
    /// # Errors
    ///
    /// When they are not shares (0 to 1), or `from` is not below `to`.
    pub fn new(from: f64, to: f64) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        for (field, value) in [("from", from), ("to", to)] {
            if !(0.0..=1.0).contains(&value) {
                let expected = "between 0 and 1".to_owned();
                problems.add(field, value.to_string(), expected);
            }
        }
        if from >= to {
            problems.add("from", from.to_string(), format!("below `to`, {to}"));
        }
        problems.into_result()?;
        Ok(Self { from, to })
    }

    /// How far the pressure has come, from 0 to 1. 0 if it is unknown.
    #[must_use]
    pub fn scale(self, pressure: Pressure) -> f64 {
        pressure.scaled(self.from, self.to)
    }
}

// === impl Levels, Edge ===

impl Levels {
    pub(crate) const fn level(self) -> PressureLevel {
        self.level
    }

    /// What the level would be with this pressure.
    pub(crate) fn next(self, pressure: Pressure, thresholds: &Thresholds) -> PressureLevel {
        let Some(value) = pressure.value() else {
            return PressureLevel::Unknown;
        };
        let Thresholds {
            elevated,
            high,
            critical,
            gap,
        } = *thresholds;
        let steps = [
            (PressureLevel::Critical, critical),
            (PressureLevel::High, high),
            (PressureLevel::Elevated, elevated),
        ];
        // A level that is there already, or a higher one is, holds on until well below its beginning.
        let is_at = |level: PressureLevel, at: f64| match level <= self.level {
            true => value >= at - gap,
            false => value >= at,
        };
        let found = steps.into_iter().find(|(level, at)| is_at(*level, *at));
        found.map_or(PressureLevel::Normal, |(level, _)| level)
    }

    pub(crate) const fn set(&mut self, level: PressureLevel) {
        self.level = level;
    }
}

impl Edge {
    /// Takes a value, and says whether that changed whether it is above.
    pub(crate) fn set(&mut self, value: f64, at: f64, gap: f64) -> Option<bool> {
        let active = match self.active {
            true => value >= at - gap,
            false => value >= at,
        };
        (std::mem::replace(&mut self.active, active) != active).then_some(active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PressureLevel::{Critical, Elevated, High, Normal, Unknown};

    const THRESHOLDS: Thresholds = Thresholds {
        elevated: 0.80,
        high: 0.90,
        critical: 0.95,
        gap: 0.05,
    };

    #[test]
    fn a_scaled_trigger_rises_between_its_marks() {
        let trigger = ScaledTrigger::new(0.85, 0.95).unwrap();
        for (pressure, want) in [
            (0.0, 0.0),
            (0.85, 0.0),
            (0.90, 0.5),
            (0.92, 0.7),
            (0.95, 1.0),
            (0.99, 1.0),
        ] {
            let got = trigger.scale(Pressure::new(pressure));
            assert!((got - want).abs() < 1e-9, "{pressure}: {got}");
        }
        assert_eq!(trigger.scale(Pressure::UNKNOWN), 0.0);
    }

    #[test]
    fn marks_that_do_not_rise_or_are_no_shares_are_refused() {
        for (from, to) in [
            (0.95, 0.95),
            (0.95, 0.85),
            (-0.1, 0.5),
            (0.5, 1.1),
            (f64::NAN, 0.5),
        ] {
            assert!(ScaledTrigger::new(from, to).is_err(), "{from} to {to}");
        }
        let error = ScaledTrigger::new(0.95, 0.85).unwrap_err().to_string();
        assert_eq!(error, "`from` is 0.95, but must be below `to`, 0.85");
    }

    #[test]
    fn a_level_begins_at_its_threshold_and_ends_below_the_gap() {
        let mut levels = Levels::default();
        let table = [
            (0.10, Normal),
            (0.7999, Normal),
            (0.80, Elevated),
            (0.9499, High),
            (0.95, Critical),
            (0.94, Critical),
            (0.90, Critical),
            (0.8999, High),
            (0.85, High),
            (0.8499, Elevated),
            (0.90, High),
            (0.76, Elevated),
            (0.7499, Normal),
            (0.79, Normal),
            (1.0, Critical),
            (0.0, Normal),
        ];
        for (step, (pressure, want)) in table.into_iter().enumerate() {
            let level = levels.next(Pressure::new(pressure), &THRESHOLDS);
            assert_eq!(level, want, "step {step}, {pressure}");
            levels.set(level);
        }
        assert_eq!(levels.next(Pressure::UNKNOWN, &THRESHOLDS), Unknown);
    }

    #[test]
    fn an_edge_is_told_once() {
        let mut edge = Edge::default();
        assert_eq!(edge.set(0.9499, 0.95, 0.1), None);
        assert_eq!(edge.set(0.95, 0.95, 0.1), Some(true));
        assert_eq!(edge.set(0.99, 0.95, 0.1), None);
        assert_eq!(edge.set(0.86, 0.95, 0.1), None);
        assert_eq!(edge.set(0.84, 0.95, 0.1), Some(false));
        assert_eq!(edge.set(0.84, 0.95, 0.1), None);
    }

    #[test]
    fn levels_are_kept_as_numbers() {
        for level in PressureLevel::ALL {
            assert_eq!(PressureLevel::from_u8(level as u8), level);
        }
    }
}
