use super::MemoryFigures;
use crate::{
    BudgetMode, PressureLevel,
    pressure::Thresholds,
    reclaim::{Ask, Depth, Why},
};
use plimsoll_core::{
    ConfigError,
    settings::{self, Fields, Settings, bytes, choice, duration, flag, integer, number, percent},
};
use std::time::Duration;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// What the process may use, when that is pressing, and what is done then.
///
/// Shares are in percent. The *line* is what the process should never exceed; levels of pressure begin
/// at shares of it.
///
/// ```
/// use plimsoll_memory::MonitorConfig;
///
/// let config = MonitorConfig::new().limit(512 << 20).line(80.0).shrink(false);
/// assert!(config.validate().is_ok());
/// assert!(config.elevated(98.0).validate().is_err(), "it has to begin before `high`");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MonitorConfig {
    pub(crate) interval: Duration,
    pub(crate) limit: Option<u64>,
    line: f64,
    line_bytes: Option<u64>,
    elevated: f64,
    high: f64,
    critical: f64,
    gap: f64,
    pub(crate) unknown_after: u64,
    pub(crate) persists: Duration,
    pub(crate) ahead: Option<Duration>,
    pub(crate) max_tasks: Option<u64>,
    descriptors: f64,
    pub(crate) log_every: Option<Duration>,
    pub(crate) cleanup_every: Option<Duration>,
    cleanup_above: f64,
    pub(crate) purge_gap: Duration,
    pub(crate) shrink: bool,
    shrink_share: f64,
    pub(crate) cancel: BudgetMode,
    pub(crate) cancel_floor: u64,
    pub(crate) cancel_rate: f64,
}

impl MonitorConfig {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            interval: Duration::from_millis(250),
            limit: None,
            line: 90.0,
            line_bytes: None,
            elevated: 80.0,
            high: 97.0,
            critical: 100.0,
            gap: 5.0,
            unknown_after: 8,
            persists: Duration::from_secs(10),
            ahead: Some(Duration::from_secs(15 * 60)),
            max_tasks: Some(10_000),
            descriptors: 80.0,
            log_every: Some(Duration::from_secs(30)),
            cleanup_every: Some(Duration::from_secs(5 * 60)),
            cleanup_above: 70.0,
            purge_gap: Duration::from_secs(5),
            shrink: true,
            shrink_share: 50.0,
            cancel: BudgetMode::Observe,
            cancel_floor: 16 << 20,
            cancel_rate: 3.0,
        }
    }

    /// How often the process is looked at, from 10 milliseconds to a minute. 250 milliseconds by
    /// default, and a fifth of it, but no less than 10 milliseconds, while memory is short.
    #[must_use]
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// The most bytes that the process may use, at least 1 MiB. A lower limit of the system counts
    /// instead. By default that of the system is the only one.
    #[must_use]
    pub fn limit(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.limit = bytes.into();
        self
    }

    /// What the process should never exceed, in percent of the limit. 90 by default.
    #[must_use]
    pub const fn line(mut self, percent: f64) -> Self {
        self.line = percent;
        self
    }

    /// The same in bytes, at least 1 MiB. The lower of the two counts. None by default.
    #[must_use]
    pub fn line_bytes(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.line_bytes = bytes.into();
        self
    }

    /// Where memory begins to be short, and room is made by what harms nobody, in percent of the line.
    /// 80 by default.
    #[must_use]
    pub const fn elevated(mut self, percent: f64) -> Self {
        self.elevated = percent;
        self
    }

    /// Where it is so short that holdings are shrunk, in percent of the line. 97 by default: requests
    /// that are let in as far as there is room for them may hold all up to there.
    #[must_use]
    pub const fn high(mut self, percent: f64) -> Self {
        self.high = percent;
        self
    }

    /// Where requests are ended if it lasts for three samples, in percent of the line, 100 at the most,
    /// since the pressure is no higher than that. 100 by default.
    #[must_use]
    pub const fn critical(mut self, percent: f64) -> Self {
        self.critical = percent;
        self
    }

    /// How far below its beginning a level ends, from 0 to 50 percent of the line. 5 by default.
    #[must_use]
    pub const fn gap(mut self, percent: f64) -> Self {
        self.gap = percent;
        self
    }

    /// After how many samples in a row that failed the pressure is unknown, from 1 to 1 000. Until
    /// then it stays what it was. 8 by default.
    #[must_use]
    pub const fn unknown_after(mut self, samples: u64) -> Self {
        self.unknown_after = samples;
        self
    }

    /// How long memory has to be short for that to be an alert of its own, from 1 second to a day. It
    /// is one again whenever that time has doubled. 10 seconds by default.
    #[must_use]
    pub const fn persists(mut self, time: Duration) -> Self {
        self.persists = time;
        self
    }

    /// How long before the limit would be met there is an alert, from 1 second to a day, if what is
    /// used goes on to grow as in the last minute. 15 minutes by default; none for never.
    #[must_use]
    pub fn ahead(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.ahead = time.into();
        self
    }

    /// How many tasks may be alive before there is an alert, at least 1. 10 000 by default.
    #[must_use]
    pub fn max_tasks(mut self, tasks: impl Into<Option<u64>>) -> Self {
        self.max_tasks = tasks.into();
        self
    }

    /// At which share of the descriptors that the process may open there is an alert, in percent. 80
    /// by default.
    #[must_use]
    pub const fn descriptors(mut self, percent: f64) -> Self {
        self.descriptors = percent;
        self
    }

    /// How often the figures are logged, from 1 second to a day. 30 seconds by default; none for never.
    #[must_use]
    pub fn log_every(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.log_every = time.into();
        self
    }

    /// How often room is made though memory is not short, from 1 second to a day. 5 minutes by
    /// default; none for never.
    #[must_use]
    pub fn cleanup_every(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.cleanup_every = time.into();
        self
    }

    /// Above how much use it is made then, and down to that, in percent of the line. 70 by default.
    #[must_use]
    pub const fn cleanup_above(mut self, percent: f64) -> Self {
        self.cleanup_above = percent;
        self
    }

    /// How long the allocator is not asked again for what it has free, from 100 milliseconds to a day.
    /// At the line it is asked sooner, but for no more than a twentieth of the time. 5 seconds by
    /// default.
    #[must_use]
    pub const fn purge_gap(mut self, time: Duration) -> Self {
        self.purge_gap = time;
        self
    }

    /// Whether holdings are shrunk from [`high`](Self::high) on, and whenever room is made though memory
    /// is not short. They are by default.
    #[must_use]
    pub const fn shrink(mut self, shrink: bool) -> Self {
        self.shrink = shrink;
        self
    }

    /// How much of a holding goes at a time at the most, in percent. 50 by default.
    #[must_use]
    pub const fn shrink_share(mut self, percent: f64) -> Self {
        self.shrink_share = percent;
        self
    }

    /// Whether the largest requests are ended when nothing else helps, at [`critical`](Self::critical).
    /// [`BudgetMode::Observe`], which counts those that would have been, by default.
    #[must_use]
    pub const fn cancel(mut self, mode: BudgetMode) -> Self {
        self.cancel = mode;
        self
    }

    /// Requests that hold fewer bytes are not ended. 16 MiB by default.
    #[must_use]
    pub const fn cancel_floor(mut self, bytes: u64) -> Self {
        self.cancel_floor = bytes;
        self
    }

    /// How many requests are ended in a second at the most, from 0.01 to 10 000; ten at a time. 3 by
    /// default.
    #[must_use]
    pub const fn cancel_rate(mut self, requests: f64) -> Self {
        self.cancel_rate = requests;
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        settings::check(self)
    }

    /// The limit where the system has one, or none.
    pub(crate) fn limit_of(&self, system: Option<u64>) -> Option<u64> {
        lower(self.limit, system)
    }

    /// The line for a limit, in bytes.
    #[must_use]
    pub fn line_of(&self, limit: Option<u64>) -> Option<u64> {
        lower(limit.map(|limit| share(limit, self.line)), self.line_bytes)
    }

    pub(crate) fn thresholds(&self) -> Thresholds {
        Thresholds {
            elevated: self.elevated / 100.0,
            high: self.high / 100.0,
            critical: self.critical / 100.0,
            gap: self.gap / 100.0,
        }
    }

    /// Where levels begin, in bytes.
    pub(crate) fn levels_of(&self, line: u64) -> [(PressureLevel, u64); 3] {
        [
            (PressureLevel::Elevated, share(line, self.elevated)),
            (PressureLevel::High, share(line, self.high)),
            (PressureLevel::Critical, share(line, self.critical)),
        ]
    }

    pub(crate) fn cleanup_above_of(&self, line: u64) -> u64 {
        share(line, self.cleanup_above)
    }

    pub(crate) fn elevated_of(&self, line: u64) -> u64 {
        share(line, self.elevated)
    }

    /// Room is made until so much is used, where the level ends for which it is made.
    pub(crate) fn target_of(&self, line: u64, level: PressureLevel) -> u64 {
        let from = match level {
            PressureLevel::Critical => self.critical,
            PressureLevel::High => self.high,
            _ => self.elevated,
        };
        share(line, (from - self.gap).max(0.0))
    }

    /// What is to be done to get rid of `excess` bytes.
    pub(crate) const fn ask_for(&self, why: Why, depth: Depth, excess: u64, exact: bool) -> Ask {
        Ask {
            why,
            depth,
            excess,
            exact,
            shrink: self.shrink,
            purge_gap: self.purge_gap,
            most_shrunk: self.shrink_share / 100.0,
            cancel: self.cancel,
            cancel_floor: self.cancel_floor,
            cancel_rate: self.cancel_rate,
        }
    }

    /// What is to be done if somebody asks for it. The allocator has its turn unless it just had one.
    pub(crate) fn ask_by_hand(&self, figures: &MemoryFigures) -> Ask {
        let excess = figures.used.zip(figures.line).map_or(0, |(used, line)| {
            figures
                .held_of(used)
                .saturating_sub(self.target_of(line, PressureLevel::Elevated))
        });
        let exact = figures.tracked.is_some();
        Ask {
            purge_gap: Duration::ZERO,
            ..self.ask_for(Why::Manual, Depth::Shrink, excess, exact)
        }
    }

    pub(crate) fn descriptor_share(&self) -> f64 {
        self.descriptors / 100.0
    }
}

fn lower(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (known, None) | (None, known) => known,
    }
}

fn share(of: u64, percent: f64) -> u64 {
    // In whole numbers as far as there are some, since a line of 90 % is to be exact.
    let hundredths = (percent * 100.0).round() as u128;
    u64::try_from(u128::from(of) * hundredths / 10_000).unwrap_or(u64::MAX)
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl Settings for MonitorConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        const LEAST: u64 = 1 << 20;
        fields.setting(
            "interval",
            "How often the process is looked at; five times as often while memory is short.",
            &mut duration(&mut self.interval, MILLI * 10..=MINUTE),
        );
        fields.setting(
            "limit",
            "The most that the process may use. A lower limit of the system counts instead.",
            &mut bytes(&mut self.limit, LEAST..=u64::MAX).or(&["off"]),
        );
        fields.setting(
            "line",
            "What the process should never exceed, in percent of the limit.",
            &mut percent(&mut self.line),
        );
        fields.setting(
            "line_bytes",
            "The same in bytes; the lower of the two counts.",
            &mut bytes(&mut self.line_bytes, LEAST..=u64::MAX).or(&["off"]),
        );
        fields.setting(
            "elevated",
            "Where memory begins to be short: what has expired or is free goes, in percent of the line.",
            &mut percent(&mut self.elevated),
        );
        fields.setting(
            "high",
            "Where it is so short that holdings are shrunk, in percent of the line.",
            &mut percent(&mut self.high),
        );
        fields.setting(
            "critical",
            "Where requests are ended if that lasts, in percent of the line.",
            &mut percent(&mut self.critical),
        );
        let (elevated, high, critical) = (self.elevated, self.high, self.critical);
        fields.require(
            "elevated",
            elevated < high,
            &format_args!("below `high`, {high}"),
        );
        fields.require(
            "high",
            high < critical,
            &format_args!("below `critical`, {critical}"),
        );
        fields.setting(
            "gap",
            "How far below its beginning a level of pressure ends, in percent of the line.",
            &mut number(&mut self.gap, 0.0..=50.0),
        );
        fields.require(
            "gap",
            self.gap < elevated,
            &format_args!("below `elevated`, {elevated}"),
        );
        fields.setting(
            "unknown_after",
            "After how many samples in a row that failed nobody knows the pressure.",
            &mut integer(&mut self.unknown_after, 1..=1_000),
        );
        fields.setting(
            "persists",
            "How long memory has to be short for an alert of its own, and again when that doubles.",
            &mut duration(&mut self.persists, SECOND..=DAY),
        );
        fields.setting(
            "ahead",
            "How long before the limit would be met there is an alert, by the growth of a minute.",
            &mut duration(&mut self.ahead, SECOND..=DAY).or(&["off"]),
        );
        fields.setting(
            "max_tasks",
            "How many tasks may be alive before there is an alert.",
            &mut integer(&mut self.max_tasks, 1..=u64::MAX).or(&["off"]),
        );
        fields.setting(
            "descriptors",
            "At which share of the descriptors that may be open there is an alert, in percent.",
            &mut percent(&mut self.descriptors),
        );
        fields.setting(
            "log_every",
            "How often the figures are logged.",
            &mut duration(&mut self.log_every, SECOND..=DAY).or(&["off"]),
        );
        fields.setting(
            "cleanup_every",
            "How often room is made though memory is not short.",
            &mut duration(&mut self.cleanup_every, SECOND..=DAY).or(&["off"]),
        );
        fields.setting(
            "cleanup_above",
            "Above how much use it is made then, and down to that, in percent of the line.",
            &mut percent(&mut self.cleanup_above),
        );
        fields.setting(
            "purge_gap",
            "How long the allocator is not asked again for what it has free; at the line sooner.",
            &mut duration(&mut self.purge_gap, MILLI * 100..=DAY),
        );
        fields.setting(
            "shrink",
            "Whether holdings are shrunk when memory is short.",
            &mut flag(&mut self.shrink),
        );
        fields.setting(
            "shrink_share",
            "How much of a holding goes at a time at the most, in percent.",
            &mut percent(&mut self.shrink_share),
        );
        fields.setting(
            "cancel",
            "Whether the largest requests are ended when nothing else helps, or only counted.",
            &mut choice(&mut self.cancel),
        );
        fields.setting(
            "cancel_floor",
            "A request that holds less is not ended.",
            &mut bytes(&mut self.cancel_floor, 0..=u64::MAX),
        );
        fields.setting(
            "cancel_rate",
            "How many requests are ended in a second at the most.",
            &mut number(&mut self.cancel_rate, 0.01..=10_000.0),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_what_is_out_of_range_is_named() {
        assert_eq!(MonitorConfig::new().validate(), Ok(()));
        let problems = |config: MonitorConfig| {
            let Err(error) = config.validate() else {
                return String::new();
            };
            let fields = error
                .problems()
                .iter()
                .map(|problem| problem.field.to_string());
            fields.collect::<Vec<_>>().join(" ")
        };
        let new = MonitorConfig::new;
        assert_eq!(problems(new().interval(Duration::ZERO)), "interval");
        assert_eq!(problems(new().limit(1)), "limit");
        assert_eq!(problems(new().line(0.0).line_bytes(7)), "line line_bytes");
        assert_eq!(problems(new().elevated(96.9)), "");
        assert_eq!(problems(new().elevated(97.0)), "elevated");
        assert_eq!(problems(new().high(99.9)), "");
        assert_eq!(problems(new().high(100.0)), "high");
        assert_eq!(problems(new().high(100.1)), "high");
        // The pressure is 1 at the line and above: what lies beyond would never begin.
        assert_eq!(problems(new().critical(100.0)), "");
        assert_eq!(problems(new().critical(100.1)), "critical");
        assert_eq!(problems(new().critical(97.0)), "high");
        assert_eq!(problems(new().critical(f64::NAN)), "critical high");
        assert_eq!(problems(new().elevated(4.0)), "gap");
        assert_eq!(
            problems(new().unknown_after(0).cancel_rate(0.0)),
            "unknown_after cancel_rate"
        );
    }

    #[test]
    fn the_lower_limit_and_the_lower_line_count() {
        let config = MonitorConfig::new();
        assert_eq!(config.limit_of(None), None);
        assert_eq!(config.line_of(None), None);
        assert_eq!(config.line_of(Some(1 << 30)), Some(966_367_641));
        let config = config.limit(1 << 30).line_bytes(400_000_000);
        assert_eq!(config.limit_of(Some(2 << 30)), Some(1 << 30));
        assert_eq!(config.limit_of(Some(1 << 29)), Some(1 << 29));
        assert_eq!(config.line_of(Some(1 << 30)), Some(400_000_000));
        assert_eq!(config.line_of(Some(1 << 20)), Some(943_718));
        assert_eq!(config.line_of(None), Some(400_000_000));
        assert_eq!(config.line_of(Some(u64::MAX)), Some(400_000_000));
    }
}
