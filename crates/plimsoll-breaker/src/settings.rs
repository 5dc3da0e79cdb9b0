//! The keys, kinds and ranges of the configuration.

use crate::{
    CircuitBreakerConfig, HistoryConfig, KeyedConfig, Overflow, ProbeRule, Window,
    config::{AfterHalfOpen, Dropped},
};
use plimsoll_core::settings::{
    self, Choice, Fields, Kind, Setting, Settings, Value, choice, duration, flag, integer, number,
    percent,
};
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const WEEK: Duration = Duration::from_secs(7 * 86_400);
const MOST: u64 = u32::MAX as u64;
/// The most records of one kind that can be asked for.
const MAX_CAP: u64 = 100_000_000;

impl Settings for CircuitBreakerConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.preset(
            "preset",
            "How much of its past it keeps, by what is called: the settings under history.",
            "history",
            &["high_traffic", "local", "low_traffic", "network"],
            &mut |preset| {
                self.history = match preset {
                    "high_traffic" => HistoryConfig::high_traffic(),
                    "low_traffic" => HistoryConfig::low_traffic(),
                    "network" => HistoryConfig::network(),
                    _ => HistoryConfig::local(),
                }
            },
        );
        fields.setting(
            "window",
            "The calls it judges by: a number of calls, or those of the last so long, with a unit.",
            &mut CallsOrTime(&mut self.window),
        );
        fields.setting(
            "minimum_calls",
            "How many calls the window must hold before a rate means anything.",
            &mut integer(&mut self.minimum_calls, 1..=MOST),
        );
        fields.setting(
            "failure_rate",
            "The percentage of failures at which it opens.",
            &mut percent(&mut self.failure_rate).or(&["off"]),
        );
        settings::optional(
            fields,
            "slow_calls",
            "Opens at a percentage of calls that took long, failed or not.",
            &mut self.slow_calls,
        );
        fields.setting(
            "consecutive_failures",
            "Opens after so many failures in a row, whatever the minimum of calls.",
            &mut integer(&mut self.consecutive_failures, 1..=MOST).or(&["off"]),
        );
        settings::optional(
            fields,
            "overdue_calls",
            "Opens when so many calls have been in flight for so long.",
            &mut self.overdue_calls,
        );
        fields.setting(
            "open_for",
            "How long it stays open the first time.",
            &mut duration(&mut self.open_for, MILLISECOND..=WEEK),
        );
        fields.setting(
            "open_factor",
            "By how much longer it stays open each time it opens again without having closed.",
            &mut number(&mut self.open_factor, 1.0..=10.0),
        );
        fields.setting(
            "open_max",
            "The longest it stays open; auto is the larger of open_for and 5 minutes.",
            &mut duration(&mut self.open_max, MILLISECOND..=WEEK).or(&["auto"]),
        );
        let least = Value::Duration(self.open_for);
        fields.require(
            "open_max",
            self.open_max.is_none_or(|most| self.open_for <= most),
            &format_args!("at least open_for, {least}"),
        );
        fields.setting(
            "jitter",
            "By what share the time it stays open is varied at random, up or down.",
            &mut number(&mut self.jitter, 0.0..=1.0),
        );
        fields.group(
            "requested_wait",
            "The bounds of the wait that a downstream can ask for, with Retry-After say.",
            &mut Wait(&mut self.requested_wait),
        );
        fields.setting(
            "probes",
            "How many calls pass in one half-open round.",
            &mut integer(&mut self.probes, 1..=1_024),
        );
        fields.setting(
            "probe_rule",
            "When the probes decide: by the rates, or by the first failure.",
            &mut choice(&mut self.probe_rule),
        );
        fields.setting(
            "probe_lease",
            "How long a probe may take; auto is the larger of open_for and 30 seconds.",
            &mut duration(&mut self.probe_lease, MILLISECOND..=WEEK).or(&["auto"]),
        );
        settings::optional(
            fields,
            "half_open_timeout",
            "The longest it stays half open, and what then.",
            &mut self.half_open_timeout,
        );
        fields.setting(
            "dropped_fails_after",
            "How long a call that its caller drops must have taken to count as a failure; auto is \
             half the timeout of an adapter.",
            &mut self.dropped_fails_after,
        );
        fields.group(
            "history",
            "How much of its past it keeps.",
            &mut self.history,
        );
    }
}

impl Settings for KeyedConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        self.breaker.visit(fields);
        fields.setting(
            "max_keys",
            "How many keys there may be.",
            &mut integer(&mut self.max_keys, 1..=1_000_000),
        );
        fields.setting(
            "idle",
            "How long a key may be idle before it is forgotten.",
            &mut duration(&mut self.idle, SECOND..=WEEK),
        );
        fields.setting(
            "max_key_bytes",
            "How many bytes a key may have.",
            &mut integer(&mut self.max_key_bytes, 1..=65_536),
        );
        fields.setting(
            "overflow",
            "What becomes of calls whose key finds no place.",
            &mut choice(&mut self.overflow),
        );
    }
}

impl Settings for HistoryConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "enabled",
            "Whether anything is kept.",
            &mut flag(&mut self.enabled),
        );
        fields.setting(
            "calls",
            "The most calls that are kept; the oldest goes first. 0 is no cap.",
            &mut integer(&mut self.calls, 0..=MAX_CAP),
        );
        fields.setting(
            "transitions",
            "The most changes of state that are kept; the oldest goes first. 0 is no cap.",
            &mut integer(&mut self.transitions, 0..=MAX_CAP),
        );
        let longest = Duration::from_secs(10 * 365 * 86_400);
        fields.setting(
            "retention",
            "How long a record is kept. 0 is no limit; else at least a second.",
            &mut duration(&mut self.retention, Duration::ZERO..=longest),
        );
        fields.require(
            "retention",
            self.retention.is_zero() || SECOND <= self.retention,
            &"0 or at least 1s",
        );
        fields.setting(
            "sweep_interval",
            "How often records that are too old are dropped.",
            &mut duration(&mut self.sweep_interval, SECOND..=WEEK),
        );
    }
}

/// When calls are slow, and at what percentage of them it opens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SlowCalls {
    pub(crate) longer_than: Duration,
    pub(crate) percent: f64,
}

impl Default for SlowCalls {
    fn default() -> Self {
        Self {
            longer_than: Duration::from_secs(60),
            percent: 100.0,
        }
    }
}

impl Settings for SlowCalls {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "longer_than",
            "What a call must take longer than to be slow.",
            &mut duration(&mut self.longer_than, MILLISECOND..=DAY),
        );
        fields.setting(
            "percent",
            "The percentage of slow calls at which it opens.",
            &mut percent(&mut self.percent),
        );
    }
}

/// When calls are overdue, and at how many of them it opens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct OverdueCalls {
    pub(crate) after: Duration,
    pub(crate) calls: u32,
}

impl Default for OverdueCalls {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(30),
            calls: 10,
        }
    }
}

impl Settings for OverdueCalls {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "after",
            "How long a call must have been in flight.",
            &mut duration(&mut self.after, MILLISECOND * 8..=DAY),
        );
        fields.setting(
            "calls",
            "How many such calls open it.",
            &mut integer(&mut self.calls, 1..=MOST),
        );
    }
}

/// How long it may be half open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct HalfOpenTimeout {
    pub(crate) after: Duration,
    pub(crate) then: AfterHalfOpen,
}

impl Default for HalfOpenTimeout {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(60),
            then: AfterHalfOpen::Open,
        }
    }
}

impl Settings for HalfOpenTimeout {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "after",
            "How long it may be half open.",
            &mut duration(&mut self.after, SECOND..=WEEK),
        );
        fields.setting("then", "What becomes of it.", &mut choice(&mut self.then));
    }
}

struct Wait<'a>(&'a mut (Duration, Duration));

impl Settings for Wait<'_> {
    fn visit(&mut self, fields: &mut dyn Fields) {
        let (shortest, longest) = &mut *self.0;
        fields.setting(
            "shortest",
            "The shortest wait.",
            &mut duration(shortest, Duration::ZERO..=WEEK),
        );
        fields.setting(
            "longest",
            "The longest wait.",
            &mut duration(longest, Duration::ZERO..=WEEK),
        );
        let least = Value::Duration(*shortest);
        fields.require(
            "longest",
            shortest <= longest,
            &format_args!("at least shortest, {least}"),
        );
    }
}

struct CallsOrTime<'a>(&'a mut Window);

impl Setting for CallsOrTime<'_> {
    fn kind(&self) -> Kind {
        Kind::CallsOrTime(1..=65_536, MILLISECOND * 10..=DAY)
    }

    fn value(&self) -> Value {
        match *self.0 {
            Window::Calls(calls) => Value::Integer(calls.into()),
            Window::Time(time) => Value::Duration(time),
        }
    }

    fn set(&mut self, value: Value) {
        *self.0 = match value {
            Value::Integer(calls) => Window::Calls(u32::try_from(calls).unwrap_or(u32::MAX)),
            Value::Duration(time) => Window::Time(time),
            _ => return,
        };
    }
}

impl Setting for Dropped {
    fn kind(&self) -> Kind {
        Kind::Duration(MILLISECOND..=WEEK)
    }

    fn words(&self) -> &'static [&'static str] {
        &["auto", "never"]
    }

    fn value(&self) -> Value {
        match self {
            Self::Unsaid => Value::Word("auto"),
            Self::Never => Value::Word("never"),
            Self::After(wait) => Value::Duration(*wait),
        }
    }

    fn set(&mut self, value: Value) {
        *self = match value {
            Value::Duration(wait) => Self::After(wait),
            Value::Word("never") => Self::Never,
            _ => Self::Unsaid,
        };
    }
}

impl Choice for ProbeRule {
    const NAMES: &'static [&'static str] = &["rate", "all_must_succeed"];

    fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::AllMustSucceed => "all_must_succeed",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let mut all = [Self::Rate, Self::AllMustSucceed].into_iter();
        all.find(|rule| rule.name() == name)
    }
}

impl Choice for AfterHalfOpen {
    const NAMES: &'static [&'static str] = &["open", "close"];

    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let mut all = [Self::Open, Self::Close].into_iter();
        all.find(|then| then.name() == name)
    }
}

impl Choice for Overflow {
    const NAMES: &'static [&'static str] = &["shared", "pass", "reject"];

    fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Pass => "pass",
            Self::Reject => "reject",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let mut all = [Self::Shared, Self::Pass, Self::Reject].into_iter();
        all.find(|overflow| overflow.name() == name)
    }
}
