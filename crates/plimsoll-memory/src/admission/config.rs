use plimsoll_core::{
    ConfigError,
    settings::{self, Choice, Fields, Settings, bytes, choice, duration, integer, number, texts},
};
use std::time::Duration;

/// When requests are let in, and how long they wait otherwise.
///
/// ```
/// use plimsoll_memory::{AdmissionConfig, AdmissionMode};
///
/// let config = AdmissionConfig::new()
///     .mode(AdmissionMode::Enforce)
///     .low_priority(["/export"])
///     .exempt(["/healthz"]);
/// assert!(config.validate().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct AdmissionConfig {
    pub(super) mode: AdmissionMode,
    pub(super) guess: Option<u64>,
    pub(super) quantile: f64,
    pub(super) max_waiting: usize,
    pub(super) queue_timeout: Duration,
    pub(super) exempt: Vec<String>,
    pub(super) high_priority: Vec<String>,
    pub(super) low_priority: Vec<String>,
    pub(super) max_share: f64,
    pub(super) max_keys: usize,
    pub(super) max_tasks: Option<u64>,
    pub(super) max_descriptors: Option<f64>,
}

/// Whether requests wait, or are refused, for want of memory.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum AdmissionMode {
    /// Nothing is learned, nobody waits.
    Off,
    /// Whoever would wait or be refused is counted, and let in at once.
    #[default]
    Observe,
    /// Requests wait until what they may come to hold fits under the line, or are refused.
    Enforce,
}

impl AdmissionConfig {
    /// The defaults: observes.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            mode: AdmissionMode::Observe,
            guess: None,
            quantile: 0.98,
            max_waiting: 1_024,
            queue_timeout: Duration::from_secs(1),
            exempt: Vec::new(),
            high_priority: Vec::new(),
            low_priority: Vec::new(),
            max_share: 0.5,
            max_keys: 1_024,
            max_tasks: None,
            max_descriptors: Some(95.0),
        }
    }

    /// Whether requests wait or are refused. [`AdmissionMode::Observe`] by default.
    #[must_use]
    pub const fn mode(mut self, mode: AdmissionMode) -> Self {
        self.mode = mode;
        self
    }

    /// How many bytes the first requests of a route are taken to hold at most, until it is known
    /// better. An eighth of the line by default.
    #[must_use]
    pub fn guess(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.guess = bytes.into();
        self
    }

    /// The share of a route's requests that hold no more than what is reserved for the next one, from
    /// 0.5 to 0.999. 0.98 by default.
    #[must_use]
    pub const fn quantile(mut self, share: f64) -> Self {
        self.quantile = share;
        self
    }

    /// How many requests wait at a time, up to 100 000; those that come then are refused. 1 024 by
    /// default.
    #[must_use]
    pub const fn max_waiting(mut self, requests: usize) -> Self {
        self.max_waiting = requests;
        self
    }

    /// How long a request waits before it is refused, from none to a minute. 1 second by default.
    #[must_use]
    pub const fn queue_timeout(mut self, time: Duration) -> Self {
        self.queue_timeout = time;
        self
    }

    /// Routes whose requests are always let in: those that tell whether the service is well. None by
    /// default: the probe and admin listeners are not admitted by this in the first place.
    #[must_use]
    pub fn exempt<R: Into<String>>(mut self, routes: impl IntoIterator<Item = R>) -> Self {
        self.exempt = routes.into_iter().map(Into::into).collect();
        self
    }

    /// Routes whose requests have [high](crate::Priority::High) priority, if they say none of their
    /// own. None by default.
    #[must_use]
    pub fn high_priority<R: Into<String>>(mut self, routes: impl IntoIterator<Item = R>) -> Self {
        self.high_priority = routes.into_iter().map(Into::into).collect();
        self
    }

    /// Routes whose requests have [low](crate::Priority::Low) priority, if they say none of their
    /// own. None by default.
    #[must_use]
    pub fn low_priority<R: Into<String>>(mut self, routes: impl IntoIterator<Item = R>) -> Self {
        self.low_priority = routes.into_iter().map(Into::into).collect();
        self
    }

    /// The largest share of the line that the requests of one [key](crate::BudgetKey) may hold, from
    /// 0.01 to 1. A half by default.
    #[must_use]
    pub const fn max_share(mut self, share: f64) -> Self {
        self.max_share = share;
        self
    }

    /// How many keys are told apart while they have requests in flight, from 1 to 1 000 000; those
    /// past that share one share. 1 024 by default. Each takes some 40 bytes.
    #[must_use]
    pub const fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys;
        self
    }

    /// How many tasks of the runtime may be alive before requests are refused, at least 1. None by default.
    ///
    /// From there on requests of low priority are refused, the more the more tasks there are: all of them at
    /// an eighth more. From there on so are those of normal priority, all of them at a quarter more. Those of
    /// high priority never are.
    #[must_use]
    pub fn max_tasks(mut self, tasks: impl Into<Option<u64>>) -> Self {
        self.max_tasks = tasks.into();
        self
    }

    /// From which percentage of the descriptors that the process may open requests are refused, from 1 to
    /// 100. 95 by default.
    ///
    /// From there on requests of low priority are refused, the more the more are open: all of them halfway
    /// from there to the last one, 97.5 % by default. From there on so are those of normal priority, all of
    /// them when none is left. Those of high priority never are.
    ///
    /// Connections that are idle take descriptors, too. Where a service is to hold as many as it may open, turn
    /// this off, or raise what it may open (`ulimit -n`).
    #[must_use]
    pub fn max_descriptors(mut self, percent: impl Into<Option<f64>>) -> Self {
        self.max_descriptors = percent.into();
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
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl Settings for AdmissionConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "mode",
            "Whether requests wait, or are refused, for want of memory.",
            &mut choice(&mut self.mode),
        );
        fields.setting(
            "guess",
            "What the first requests of a route are taken to hold at most; by default an eighth of the line.",
            &mut bytes(&mut self.guess, 1..=u64::MAX).or(&["auto"]),
        );
        fields.setting(
            "quantile",
            "The share of a route's requests that hold no more than what is reserved for the next.",
            &mut number(&mut self.quantile, 0.5..=0.999),
        );
        fields.setting(
            "max_waiting",
            "The most requests that wait at a time; those that come then are refused.",
            &mut integer(&mut self.max_waiting, 0..=100_000),
        );
        fields.setting(
            "queue_timeout",
            "How long a request waits before it is refused.",
            &mut duration(
                &mut self.queue_timeout,
                Duration::ZERO..=Duration::from_secs(60),
            ),
        );
        fields.setting(
            "exempt",
            "Routes whose requests are always let in.",
            &mut texts(&mut self.exempt),
        );
        fields.setting(
            "high_priority",
            "Routes whose requests are the last to be refused.",
            &mut texts(&mut self.high_priority),
        );
        fields.setting(
            "low_priority",
            "Routes whose requests are the first to be refused.",
            &mut texts(&mut self.low_priority),
        );
        fields.setting(
            "max_share",
            "The largest share of the line that the requests of one key may hold.",
            &mut number(&mut self.max_share, 0.01..=1.0),
        );
        fields.setting(
            "max_keys",
            "The most keys that are told apart while they have requests in flight.",
            &mut integer(&mut self.max_keys, 1..=1_000_000),
        );
        fields.setting(
            "max_tasks",
            "How many tasks of the runtime may be alive before requests are refused.",
            &mut integer(&mut self.max_tasks, 1..=u64::MAX).or(&["off"]),
        );
        fields.setting(
            "max_descriptors",
            "From which percentage of the descriptors that may be open requests are refused.",
            &mut number(&mut self.max_descriptors, 1.0..=100.0).or(&["off"]),
        );
    }
}

impl Choice for AdmissionMode {
    const NAMES: &'static [&'static str] = &["off", "observe", "enforce"];

    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        match name {
            "off" => Some(Self::Off),
            "observe" => Some(Self::Observe),
            "enforce" => Some(Self::Enforce),
            _ => None,
        }
    }
}
