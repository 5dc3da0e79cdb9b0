use crate::settings::{HalfOpenTimeout, OverdueCalls, SlowCalls};
use plimsoll_core::{ConfigError, Name, settings};
use std::time::Duration;

/// The calls that a closed breaker judges by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Window {
    /// The last so many calls, 1 to 65 536. Takes 2 bits for each, whatever happened.
    Calls(u32),
    /// The calls of the last so long, 10 ms to 1 day, in ten buckets. Takes 160 bytes.
    ///
    /// The oldest bucket leaves as a whole, so that between nine tenths of the time and all of it
    /// is seen.
    Time(Duration),
}

/// When the probes of a half-open breaker decide.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum ProbeRule {
    /// By the thresholds of the failure and slow-call rates, once as many have answered as there
    /// are probes (or the minimum of calls, if that is less).
    #[default]
    Rate,
    /// The first failure or slow call opens the circuit again; all must do well to close it.
    AllMustSucceed,
}

/// What becomes of a breaker that was half open for as long as it may.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_enums, reason = "there is nowhere else to go")]
pub enum AfterHalfOpen {
    /// It opens again.
    Open,
    /// It closes.
    Close,
}

/// When a call that is dropped counts as a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Dropped {
    /// Never, unless whoever makes the breaker knows better.
    Unsaid,
    Never,
    After(Duration),
}

impl Dropped {
    #[cfg(test)]
    pub(crate) const fn after(self) -> Option<Duration> {
        match self {
            Self::Unsaid | Self::Never => None,
            Self::After(wait) => Some(wait),
        }
    }
}

/// How a [`CircuitBreaker`](crate::CircuitBreaker) judges calls and how long it stays open.
///
/// Rates are percentages, above 0 and up to 100; a rate *at* its threshold trips, a duration *at*
/// its threshold is not slow. Nothing is checked before the configuration is used, when every
/// problem is reported at once.
#[derive(Clone, Debug, PartialEq)]
pub struct CircuitBreakerConfig {
    pub(crate) window: Window,
    pub(crate) minimum_calls: u32,
    pub(crate) failure_rate: Option<f64>,
    pub(crate) slow_calls: Option<SlowCalls>,
    pub(crate) consecutive_failures: Option<u32>,
    pub(crate) overdue_calls: Option<OverdueCalls>,
    pub(crate) open_for: Duration,
    pub(crate) open_factor: f64,
    pub(crate) open_max: Option<Duration>,
    pub(crate) jitter: f64,
    pub(crate) requested_wait: (Duration, Duration),
    pub(crate) probes: u32,
    pub(crate) probe_rule: ProbeRule,
    pub(crate) probe_lease: Option<Duration>,
    pub(crate) half_open_timeout: Option<HalfOpenTimeout>,
    pub(crate) dropped_fails_after: Dropped,
    pub(crate) history: HistoryConfig,
}

impl Default for CircuitBreakerConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl CircuitBreakerConfig {
    /// Opens when half of the last 100 calls (20 at least) failed, for 30 seconds, then twice as
    /// long each time up to 5 minutes, and closes after 3 probes. Keeps the history of
    /// [`HistoryConfig::local`].
    #[must_use]
    pub const fn new() -> Self {
        Self {
            window: Window::Calls(100),
            minimum_calls: 20,
            failure_rate: Some(50.0),
            slow_calls: None,
            consecutive_failures: None,
            overdue_calls: None,
            open_for: Duration::from_secs(30),
            open_factor: 2.0,
            open_max: None,
            jitter: 0.1,
            requested_wait: (Duration::from_secs(1), Duration::from_secs(3_600)),
            probes: 3,
            probe_rule: ProbeRule::Rate,
            probe_lease: None,
            half_open_timeout: None,
            dropped_fails_after: Dropped::Unsaid,
            history: HistoryConfig::local(),
        }
    }

    /// [`new`](Self::new) with the history of [`HistoryConfig::high_traffic`].
    #[must_use]
    pub const fn high_traffic() -> Self {
        Self::new().history(HistoryConfig::high_traffic())
    }

    /// [`new`](Self::new) with the history of [`HistoryConfig::low_traffic`].
    #[must_use]
    pub const fn low_traffic() -> Self {
        Self::new().history(HistoryConfig::low_traffic())
    }

    /// [`new`](Self::new) with the history of [`HistoryConfig::network`].
    #[must_use]
    pub const fn network() -> Self {
        Self::new().history(HistoryConfig::network())
    }

    /// [`new`](Self::new): its history is that of [`HistoryConfig::local`].
    #[must_use]
    pub const fn local() -> Self {
        Self::new()
    }

    /// The calls it judges by while closed. The last 100 by default.
    #[must_use]
    pub const fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// How many calls the window must hold before a rate means anything. 20 by default, at
    /// least 1.
    ///
    /// More than a window of calls can hold is lowered to what it can, with a warning.
    #[must_use]
    pub const fn minimum_calls(mut self, calls: u32) -> Self {
        self.minimum_calls = calls;
        self
    }

    /// The percentage of failures at which it opens. 50 by default; `None` ignores the rate.
    #[must_use]
    pub fn failure_rate(mut self, percent: impl Into<Option<f64>>) -> Self {
        self.failure_rate = percent.into();
        self
    }

    /// Opens at `percent` of calls that took longer than `longer_than` (1 ms to 1 day), failed or
    /// not. Off by default.
    #[must_use]
    pub const fn slow_calls(mut self, longer_than: Duration, percent: f64) -> Self {
        self.slow_calls = Some(SlowCalls {
            longer_than,
            percent,
        });
        self
    }

    /// Opens after so many failures in a row, whatever the minimum of calls. Off by default; at
    /// least 1.
    #[must_use]
    pub fn consecutive_failures(mut self, failures: impl Into<Option<u32>>) -> Self {
        self.consecutive_failures = failures.into();
        self
    }

    /// Opens when so many `calls` (at least 1) have been in flight for `after` (8 ms to 1 day) or
    /// longer. Off by default.
    ///
    /// A downstream that hangs returns no result to judge by; this sees it. Whether a call is
    /// overdue is known to an eighth of the time. Takes 64 bytes for each stripe, however many
    /// calls are in flight.
    #[must_use]
    pub const fn overdue_calls(mut self, after: Duration, calls: u32) -> Self {
        self.overdue_calls = Some(OverdueCalls { after, calls });
        self
    }

    /// How long it stays open the first time. 30 seconds by default, 1 ms to 7 days.
    #[must_use]
    pub const fn open_for(mut self, wait: Duration) -> Self {
        self.open_for = wait;
        self
    }

    /// By how much longer it stays open each time it opens again without having closed. 2 by
    /// default, 1 to 10.
    #[must_use]
    pub const fn open_factor(mut self, factor: f64) -> Self {
        self.open_factor = factor;
        self
    }

    /// The longest it stays open, before jitter. The larger of [`open_for`](Self::open_for) and 5
    /// minutes by default, `open_for` to 7 days.
    #[must_use]
    pub const fn open_max(mut self, wait: Duration) -> Self {
        self.open_max = Some(wait);
        self
    }

    /// By what share the time it stays open is varied at random, up or down, so that replicas do
    /// not probe at the same moment. 0.1 by default, 0 to 1.
    #[must_use]
    pub const fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// The shortest and the longest wait that [`Outcome::OpenFor`](crate::Outcome::OpenFor) can
    /// ask for; others are brought within. 1 second to 1 hour by default, 0 to 7 days.
    #[must_use]
    pub const fn requested_wait(mut self, shortest: Duration, longest: Duration) -> Self {
        self.requested_wait = (shortest, longest);
        self
    }

    /// How many calls pass in one half-open round. 3 by default, 1 to 1 024.
    #[must_use]
    pub const fn probes(mut self, probes: u32) -> Self {
        self.probes = probes;
        self
    }

    /// When the probes decide. By the rates by default.
    #[must_use]
    pub const fn probe_rule(mut self, rule: ProbeRule) -> Self {
        self.probe_rule = rule;
        self
    }

    /// How long a probe may take. One that takes longer counts as a failure, and what it says
    /// later as nothing. The larger of [`open_for`](Self::open_for) and 30 seconds by default,
    /// 1 ms to 7 days.
    #[must_use]
    pub const fn probe_lease(mut self, lease: Duration) -> Self {
        self.probe_lease = Some(lease);
        self
    }

    /// The longest it stays half open, and what then, so that a breaker without traffic does not
    /// stay so. No limit by default, nor with zero; 1 second to 7 days.
    #[must_use]
    pub const fn half_open_timeout(mut self, timeout: Duration, then: AfterHalfOpen) -> Self {
        self.half_open_timeout = if timeout.is_zero() {
            None
        } else {
            Some(HalfOpenTimeout {
                after: timeout,
                then,
            })
        };
        self
    }

    /// Counts a call that is dropped before it ended as a failure if it had taken at least so
    /// long: half its timeout, say. Ignores every dropped call by
    /// default, and with `None`.
    #[must_use]
    pub fn dropped_fails_after(mut self, wait: impl Into<Option<Duration>>) -> Self {
        self.dropped_fails_after = wait.into().map_or(Dropped::Never, Dropped::After);
        self
    }

    /// [`dropped_fails_after`](Self::dropped_fails_after), unless something was said of that.
    #[must_use]
    pub const fn or_dropped_fails_after(mut self, wait: Duration) -> Self {
        if let Dropped::Unsaid = self.dropped_fails_after {
            self.dropped_fails_after = Dropped::After(wait);
        }
        self
    }

    /// What `other` says of [dropped calls](Self::dropped_fails_after), whether that is something or
    /// nothing.
    #[must_use]
    pub const fn dropped_as_in(mut self, other: &Self) -> Self {
        self.dropped_fails_after = other.dropped_fails_after;
        self
    }

    /// How much of its past it keeps. [`HistoryConfig::local`] by default.
    #[must_use]
    pub const fn history(mut self, history: HistoryConfig) -> Self {
        self.history = history;
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

    /// Says that the minimum of calls is lowered, if it is.
    pub(crate) fn warn(&self, breaker: Name) {
        let minimum_calls = self.minimum_calls;
        if let Window::Calls(window) = self.window
            && minimum_calls > window
        {
            tracing::warn!(
                breaker = breaker.as_str(),
                minimum_calls,
                window,
                "minimum_calls is more than the window holds, and was lowered to that"
            );
        }
    }
}

/// How much of its past a breaker keeps.
///
/// A call takes 12 bytes (13 with what is around it, where there are thousands), a transition
/// about 100.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HistoryConfig {
    pub(crate) enabled: bool,
    pub(crate) calls: usize,
    pub(crate) transitions: usize,
    pub(crate) retention: Duration,
    pub(crate) sweep_interval: Duration,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self::local()
    }
}

impl HistoryConfig {
    const fn preset(minutes: u64, hours: u64, calls: usize, transitions: usize) -> Self {
        Self {
            enabled: true,
            calls,
            transitions,
            retention: Duration::from_secs(hours * 3_600),
            sweep_interval: Duration::from_secs(minutes * 60),
        }
    }

    /// For downstreams that are called all the time: 5 000 calls and 500 transitions of the last
    /// 12 hours, swept every 30 minutes.
    #[must_use]
    pub const fn high_traffic() -> Self {
        Self::preset(30, 12, 5_000, 500)
    }

    /// For downstreams that are called now and then: 10 000 calls and 1 000 transitions of the
    /// last 48 hours, swept every 2 hours.
    #[must_use]
    pub const fn low_traffic() -> Self {
        Self::preset(120, 48, 10_000, 1_000)
    }

    /// For downstreams across a network: 5 000 calls and 500 transitions of the last 12 hours,
    /// swept every 30 minutes.
    #[must_use]
    pub const fn network() -> Self {
        Self::preset(30, 12, 5_000, 500)
    }

    /// The default: 10 000 calls and 1 000 transitions of the last 24 hours, swept every hour.
    #[must_use]
    pub const fn local() -> Self {
        Self::preset(60, 24, 10_000, 1_000)
    }

    /// Keeps nothing, and takes no memory, whatever caps are set.
    #[must_use]
    pub const fn disabled() -> Self {
        Self {
            enabled: false,
            ..Self::preset(60, 24, 0, 0)
        }
    }

    /// The most calls that are kept; the oldest goes first. 0 is no cap.
    #[must_use]
    pub const fn calls(mut self, calls: usize) -> Self {
        self.calls = calls;
        self
    }

    /// The most transitions that are kept; the oldest goes first. 0 is no cap.
    #[must_use]
    pub const fn transitions(mut self, transitions: usize) -> Self {
        self.transitions = transitions;
        self
    }

    /// How long a record is kept, 1 second to 10 years. Zero is no limit.
    #[must_use]
    pub const fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// How often records that are too old are dropped, 1 second to 7 days.
    ///
    /// Readers never see one that is too old, swept or not.
    #[must_use]
    pub const fn sweep_interval(mut self, interval: Duration) -> Self {
        self.sweep_interval = interval;
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

/// What a history holds and may hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct HistoryUsage {
    /// Whether anything is kept, by the configuration.
    pub enabled: bool,
    /// Calls kept.
    pub calls: u64,
    /// The most calls kept; 0 is no cap.
    pub max_calls: u64,
    /// Transitions kept.
    pub transitions: u64,
    /// The most transitions kept; 0 is no cap.
    pub max_transitions: u64,
    /// How long a record is kept. Zero is no limit.
    pub retention: Duration,
    /// How often records that are too old are dropped.
    pub sweep_interval: Duration,
    /// How long ago records that are too old were dropped last, if ever.
    pub last_sweep: Option<Duration>,
}
