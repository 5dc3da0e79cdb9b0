//! The names of the metrics, what they mean, and the figures that are set for a scrape.
//!
//! | metric | kind |
//! |---|---|
//! | `plimsoll_tasks` | gauge |
//! | `plimsoll_ready` | gauge, 0 or 1 |
//! | `plimsoll_holdings_stale` | gauge, 0 or 1 |
//! | `plimsoll_tasks_spawned_total`, `_refused_total`, `_panicked_total` | counter |

use metrics::{counter, describe_counter, describe_gauge, gauge};
use plimsoll_core::Lifecycle;

const TASKS: &str = "plimsoll_tasks";
const READY: &str = "plimsoll_ready";
const HOLDINGS_STALE: &str = "plimsoll_holdings_stale";
const TASKS_SPAWNED: &str = "plimsoll_tasks_spawned_total";
const TASKS_REFUSED: &str = "plimsoll_tasks_refused_total";
const TASKS_PANICKED: &str = "plimsoll_tasks_panicked_total";

const GAUGES: [(&str, &str); 11] = [
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
    ("plimsoll_connections_open", "Connections open."),
];

const COUNTERS: [(&str, &str); 17] = [
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

/// Sets the figures that nobody keeps up between scrapes. `fresh` says whether those of the
/// holdings were published just before.
pub(crate) fn publish(lifecycle: &Lifecycle, fresh: bool) {
    let counts = lifecycle.task_counts();
    gauge!(TASKS).set(lifecycle.task_count() as f64);
    gauge!(READY).set(f64::from(u8::from(lifecycle.is_ready())));
    gauge!(HOLDINGS_STALE).set(f64::from(u8::from(!fresh)));
    counter!(TASKS_SPAWNED).absolute(counts.spawned);
    counter!(TASKS_REFUSED).absolute(counts.refused);
    counter!(TASKS_PANICKED).absolute(counts.panicked);
}
