//! The names of the metrics, what they mean, and the figures that are set for a scrape.
//!
//! | metric | kind |
//! |---|---|
//! | `plimsoll_tasks` | gauge |
//! | `plimsoll_ready` | gauge, 0 or 1 |
//! | `plimsoll_holdings_stale`, `plimsoll_breakers_stale` | gauge, 0 or 1 |
//! | `plimsoll_tasks_spawned_total`, `_refused_total`, `_panicked_total` | counter |

use metrics::{counter, describe_counter, describe_gauge, gauge};
use plimsoll_core::Lifecycle;

const TASKS: &str = "plimsoll_tasks";
const READY: &str = "plimsoll_ready";
const HOLDINGS_STALE: &str = "plimsoll_holdings_stale";
const BREAKERS_STALE: &str = "plimsoll_breakers_stale";
const TASKS_SPAWNED: &str = "plimsoll_tasks_spawned_total";
const TASKS_REFUSED: &str = "plimsoll_tasks_refused_total";
const TASKS_PANICKED: &str = "plimsoll_tasks_panicked_total";

const GAUGES: [(&str, &str); 26] = [
    (TASKS, "Named tasks alive."),
    (READY, "1 while the service is ready, else 0."),
    (
        HOLDINGS_STALE,
        "1 while a holding does not answer, so that figures of holdings are from before.",
    ),
    ("plimsoll_holding_entries", "Entries held."),
    ("plimsoll_holding_bytes", "Bytes held."),
    (
        "plimsoll_holding_max_entries",
        "The most entries that may be held.",
    ),
    (
        "plimsoll_holding_max_bytes",
        "The most bytes that may be held.",
    ),
    (
        "plimsoll_sweep_longest_slice_seconds",
        "The longest that a slice of the last sweep held its thread.",
    ),
    ("plimsoll_http_in_flight", "Requests in flight."),
    (
        "plimsoll_http_request_seconds_sum",
        "Time from request heads to the ends of their response bodies.",
    ),
    (
        "plimsoll_http_memory_live_bytes",
        "Bytes that requests of the endpoint hold, those that have ended included.",
    ),
    (
        "plimsoll_http_memory_retained_bytes",
        "Bytes that requests of the endpoint hold which have ended.",
    ),
    ("plimsoll_connections_open", "Connections open."),
    (
        BREAKERS_STALE,
        "1 while a circuit breaker does not answer, so that figures of breakers are from before.",
    ),
    (
        "plimsoll_breaker_state",
        "1 for the state the circuit breaker is in, 0 for the others.",
    ),
    (
        "plimsoll_breaker_failure_ratio",
        "Share of failures that the circuit breaker judges by; 0 below the minimum of calls.",
    ),
    (
        "plimsoll_breaker_slow_ratio",
        "Share of slow calls that the circuit breaker judges by; 0 below the minimum of calls.",
    ),
    ("plimsoll_breaker_in_flight", "Calls in flight."),
    ("plimsoll_breaker_probes_in_flight", "Probes in flight."),
    (
        "plimsoll_breaker_history_records",
        "Records of the history, by kind.",
    ),
    ("plimsoll_breaker_keys", "Keys with a circuit breaker."),
    (
        "plimsoll_adapter_in_flight",
        "Calls with the downstream, those that wait to try again included.",
    ),
    (
        "plimsoll_adapter_max_in_flight",
        "The most calls that may be in flight.",
    ),
    ("plimsoll_adapter_queued", "Calls that wait in line."),
    (
        "plimsoll_adapter_queued_bytes",
        "Bytes of the requests that wait in line; 0 where they are not weighed.",
    ),
    (
        "plimsoll_config_last_reload_ok",
        "1 if what was read of the configuration last could be used, else 0.",
    ),
];

const COUNTERS: [(&str, &str); 33] = [
    (
        "plimsoll_breaker_keys_removed_total",
        "Keys whose circuit breaker was forgotten, by reason.",
    ),
    (
        "plimsoll_breaker_key_overflow_total",
        "Times that a key found no place for a circuit breaker.",
    ),
    (TASKS_SPAWNED, "Named tasks spawned."),
    (
        TASKS_REFUSED,
        "Named tasks refused: too many, or the service was stopping.",
    ),
    (TASKS_PANICKED, "Named tasks that panicked."),
    ("plimsoll_holding_inserted_total", "Entries inserted."),
    (
        "plimsoll_holding_removed_total",
        "Entries removed, by reason.",
    ),
    ("plimsoll_sweeps_total", "Sweeps that ended."),
    (
        "plimsoll_sweep_panics_total",
        "Sweeps that ended in a panic.",
    ),
    ("plimsoll_sweep_overdue_total", "Sweeps that were overdue."),
    ("plimsoll_http_requests_total", "Requests that ended."),
    (
        "plimsoll_http_memory_allocated_bytes_total",
        "Bytes that requests allocated which have ended.",
    ),
    (
        "plimsoll_http_memory_peak_bytes_bucket",
        "Requests by the most bytes that they held at a time.",
    ),
    (
        "plimsoll_http_memory_peak_bytes_count",
        "Requests that were weighed.",
    ),
    (
        "plimsoll_http_request_seconds_bucket",
        "Requests by the time from their head to the end of the response body.",
    ),
    (
        "plimsoll_http_request_seconds_count",
        "Requests that ended, again.",
    ),
    (
        "plimsoll_http_response_bytes_total",
        "Bytes of response bodies.",
    ),
    (
        "plimsoll_http_responses_cut_total",
        "Responses whose body failed or was dropped before its end.",
    ),
    (
        "plimsoll_connections_accepted_total",
        "Connections accepted.",
    ),
    (
        "plimsoll_connections_refused_total",
        "Connections closed at once, because there were too many.",
    ),
    (
        "plimsoll_connections_closed_total",
        "Connections closed by the server, by reason.",
    ),
    (
        "plimsoll_accept_errors_total",
        "Connections that could not be accepted.",
    ),
    (
        "plimsoll_breaker_calls_total",
        "Calls that ended, by outcome.",
    ),
    ("plimsoll_breaker_slow_calls_total", "Calls that were slow."),
    (
        "plimsoll_breaker_rejected_total",
        "Calls refused, by the state that refused them.",
    ),
    (
        "plimsoll_breaker_would_reject_total",
        "Calls that passed because only metrics are kept.",
    ),
    (
        "plimsoll_breaker_transitions_total",
        "Changes of state, by where from, where to and why.",
    ),
    (
        "plimsoll_breaker_lost_events_total",
        "Events that no observer was told of, because too many waited.",
    ),
    (
        "plimsoll_adapter_calls_total",
        "Calls to the downstream that ended, by outcome.",
    ),
    (
        "plimsoll_adapter_rejected_total",
        "Calls to the downstream that were refused, by reason.",
    ),
    (
        "plimsoll_adapter_retries_total",
        "Attempts besides the first of each call.",
    ),
    (
        "plimsoll_adapter_record_alerts_total",
        "Times that the histories of adapters had too many records.",
    ),
    (
        "plimsoll_config_reloads_total",
        "Times that the configuration was read again, by what came of it.",
    ),
];

/// Describes every metric of the workspace. Once is enough: a recorder keeps each
/// description that it is given until its next upkeep.
pub(crate) fn describe() {
    for (name, meaning) in GAUGES {
        describe_gauge!(name, meaning);
    }
    for (name, meaning) in COUNTERS {
        describe_counter!(name, meaning);
    }
}

/// Whether the figures of holdings and of breakers were published just before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fresh {
    pub(crate) holdings: bool,
    pub(crate) breakers: bool,
}

/// Sets the figures that nobody keeps up between scrapes.
pub(crate) fn publish(lifecycle: &Lifecycle, is_ready: bool, fresh: Fresh) {
    let counts = lifecycle.task_counts();
    gauge!(TASKS).set(lifecycle.task_count() as f64);
    gauge!(READY).set(f64::from(u8::from(is_ready)));
    gauge!(HOLDINGS_STALE).set(f64::from(u8::from(!fresh.holdings)));
    gauge!(BREAKERS_STALE).set(f64::from(u8::from(!fresh.breakers)));
    counter!(TASKS_SPAWNED).absolute(counts.spawned);
    counter!(TASKS_REFUSED).absolute(counts.refused);
    counter!(TASKS_PANICKED).absolute(counts.panicked);
}
