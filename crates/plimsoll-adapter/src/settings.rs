//! The keys, kinds and ranges of the configuration.

use crate::{AdapterConfig, RetryConfig};
use plimsoll_core::settings::{
    self, Fields, Settings, Value, bytes, choice, duration, integer, number,
};
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// The most calls that can be in flight, or wait.
const MAX_CALLS: u64 = 1_000_000;

impl Settings for AdapterConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "timeout",
            "How long one attempt may take. The wait in line does not count.",
            &mut duration(&mut self.timeout, MILLISECOND..=DAY),
        );
        fields.setting(
            "queue_timeout",
            "How long a call waits in line for a slot.",
            &mut duration(&mut self.queue_timeout, MILLISECOND..=DAY),
        );
        fields.setting(
            "max_in_flight",
            "How many calls may be with the downstream, or wait to try again.",
            &mut integer(&mut self.max_in_flight, 1..=MAX_CALLS),
        );
        fields.setting(
            "max_queued",
            "How many calls may wait in line; others are refused.",
            &mut integer(&mut self.max_queued, 0..=MAX_CALLS),
        );
        fields.setting(
            "max_queued_bytes",
            "How many bytes the requests that wait in line may have together.",
            &mut bytes(&mut self.max_queued_bytes, 1..=u64::MAX).or(&["off"]),
        );
        fields.setting(
            "memory_budget",
            "How many bytes one attempt may hold, its answer included.",
            &mut bytes(&mut self.memory_budget, 1..=u64::MAX).or(&["off"]),
        );
        fields.setting(
            "on_over_budget",
            "What becomes of a call that holds more: it is counted, or ended and refused.",
            &mut choice(&mut self.on_over_budget),
        );
        settings::optional(
            fields,
            "retry",
            "Tries calls that failed again, where they may be made twice.",
            &mut self.retry,
        );
        fields.group(
            "circuit_breaker",
            "When it is not called for a while, and how much of its past is kept.",
            &mut self.circuit_breaker,
        );
    }
}

impl Settings for RetryConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "retries",
            "How often one call is tried again at most.",
            &mut integer(&mut self.retries, 1..=10),
        );
        fields.setting(
            "percent",
            "How many retries there may be for a hundred calls.",
            &mut number(&mut self.percent, 0.0..=100.0),
        );
        fields.setting(
            "floor",
            "How many retries a second there may be besides.",
            &mut integer(&mut self.floor, 0..=1_000),
        );
        fields.setting(
            "back_off",
            "How long to wait before the first retry; each wait is twice the one before.",
            &mut duration(&mut self.back_off, Duration::ZERO..=MINUTE),
        );
        fields.setting(
            "back_off_max",
            "The longest wait.",
            &mut duration(&mut self.back_off_max, Duration::ZERO..=MINUTE),
        );
        let first = Value::Duration(self.back_off);
        fields.require(
            "back_off_max",
            self.back_off <= self.back_off_max,
            &format_args!("at least back_off, {first}"),
        );
        fields.setting(
            "jitter",
            "What share of a wait is left to chance.",
            &mut number(&mut self.jitter, 0.0..=1.0),
        );
    }
}
