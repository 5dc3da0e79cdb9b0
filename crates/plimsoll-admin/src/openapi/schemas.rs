//! What each route answers.

use super::schema::{
    Member, about, counts, flag, integer, list, number, object, object_with, one_of, or_null,
    reference, text, time,
};
use crate::load_line::schema_of;
use plimsoll_core::settings::Choice as _;
use plimsoll_memory::{
    AdmissionConfig, AdmissionMode, MonitorConfig, PressureLevel,
    history::Resolution,
    verdict::{LeakConfig, LeakKind},
};
use serde_json::{Value, json};

/// All of them, by name.
pub(super) fn schemas() -> Value {
    json!({
        "Problem": object_with(
            [("type", text()), ("title", text()), ("status", integer()), ("detail", text())],
            [("problems", list(reference("ConfigProblem")))],
        ),
        "Pressure": object([
            ("value", or_null(about("From 0 to 1, which is at the line.", number()))),
            ("level", one_of(&PressureLevel::ALL.map(PressureLevel::as_str))),
            ("for_s", number()),
        ]),
        "MemoryStats": object([
            ("state", about("How things are, in one sentence.", text())),
            ("process", process()),
            ("pressure", reference("Pressure")),
            ("allocator", object([
                ("mode", or_null(one_of(&["off", "counters", "precise"]))),
                ("attribution", or_null(text())),
            ])),
            ("admission", admission()),
            ("leaks", about("The worst first.", list(reference("Leak")))),
        ]),
        "Leak": object([
            ("kind", one_of(&LeakKind::ALL.map(LeakKind::as_str))),
            ("name", text()),
            ("slope", about("Bytes a second; tasks and descriptors a second.", number())),
            ("confidence", about("From 0 to 1.", number())),
            ("held", about("Bytes; tasks and descriptors.", integer())),
            ("time_to_limit_s", or_null(number())),
            ("since", time()),
        ]),
        "MemoryMonitor": monitor(),
        "MemoryHistory": object([
            ("resolution", one_of(Resolution::NAMES)),
            ("points", about("The oldest first.", list(object([
                ("time", time()),
                ("used", or_null(object([("min", integer()), ("mean", integer()), ("max", integer())]))),
                ("tracked", or_null(integer())),
                ("resident", or_null(integer())),
                (
                    "unattributed",
                    or_null(about(
                        "What is in memory and not tracked, large blocks that are kept among it.",
                        integer(),
                    )),
                ),
                ("limit", or_null(integer())),
                ("pressure", or_null(number())),
                ("tasks", or_null(integer())),
                ("in_flight", or_null(integer())),
                ("refused", integer()),
            ])))),
        ]),
        "Reclaim": object(reclaim()),
        "Freed": object([
            ("expired", integer()),
            ("expired_bytes", integer()),
            ("purges", integer()),
            ("purged_bytes", integer()),
            ("shrunk", integer()),
            ("shrunk_bytes", integer()),
            ("cancelled", integer()),
            ("cancelled_bytes", integer()),
            ("would_cancel", integer()),
            ("failed", integer()),
            ("left_out", integer()),
        ]),
        "Requests": requests(),
        "Sampling": object([
            ("sampling", flag()),
            ("mean_bytes", integer()),
            ("records_in_use", integer()),
            ("max_records", integer()),
            ("dropped", integer()),
        ]),
        "Holdings": object([
            ("holdings", list(holding())),
            ("total", object([("entries", integer()), ("bytes", integer())])),
        ]),
        "Swept": object([("swept", list(reference("Sweep")))]),
        "Sweep": object(sweep().into_iter().chain([("name", text())])),
        "Tasks": object([
            ("phase", text()),
            ("ready", flag()),
            ("tracked", integer()),
            ("max_tasks", integer()),
            ("spawned", integer()),
            ("refused", integer()),
            ("panicked", integer()),
            ("runtime_alive", integer()),
            ("tasks", list(object([
                ("name", text()),
                ("count", integer()),
                ("oldest_age_s", number()),
                ("site", text()),
            ]))),
        ]),
        "Breakers": object([("breakers", list(reference("Breaker")))]),
        "Breaker": object(breaker()),
        "BreakerPage": breaker_page(),
        "OperatedBreaker": object_with(breaker(), [("removed", counts())]),
        "CleanedBreakers": object([
            ("cleaned", list(object([("name", text()), ("removed", counts())]))),
        ]),
        "Config": object([
            ("config", json!({ "type": "object" })),
            ("problems", list(reference("ConfigProblem"))),
        ]),
        "ConfigProblem": object_with([("key", text()), ("message", text())], [
            ("file", text()),
            ("line", integer()),
            ("column", integer()),
            ("variable", text()),
            ("value", text()),
            ("expected", text()),
            ("nearest", or_null(text())),
        ]),
        "Reload": object([
            ("changes", list(object([
                ("key", text()),
                ("old", or_null(text())),
                ("new", or_null(text())),
                ("source", text()),
                ("applied", about("Whether it counts without a restart.", flag())),
            ]))),
        ]),
        "OpenApi": json!({ "type": "object" }),
    })
}

fn process() -> Value {
    object([
        ("limit", or_null(integer())),
        ("line", or_null(integer())),
        (
            "used",
            or_null(about("What counts against the limit.", integer())),
        ),
        (
            "headroom",
            or_null(about("What may come before the line is met.", integer())),
        ),
        (
            "reclaimable",
            about("What of it the allocator may give back.", integer()),
        ),
        (
            "tracked",
            or_null(about("Allocated and not freed.", integer())),
        ),
        (
            "kept_blocks",
            or_null(about(
                "Of large blocks that were freed, given back to whoever needs room: not part of what is used.",
                integer(),
            )),
        ),
        (
            "resident",
            or_null(about("Of the process, in memory.", integer())),
        ),
        (
            "working_set",
            or_null(about(
                "Of the control group, in memory and in use.",
                integer(),
            )),
        ),
        (
            "unattributed",
            or_null(about("In memory, and neither tracked nor kept.", integer())),
        ),
        (
            "stall",
            or_null(about(
                "The share of time that tasks wait for memory.",
                number(),
            )),
        ),
        ("tasks", or_null(integer())),
        ("descriptors", or_null(integer())),
        ("max_descriptors", or_null(integer())),
        (
            "slope",
            or_null(about(
                "By how many bytes a second it grew in the last minute.",
                number(),
            )),
        ),
        ("time_to_limit_s", or_null(number())),
    ])
}

fn admission() -> Value {
    object([
        ("mode", one_of(AdmissionMode::NAMES)),
        ("line", or_null(integer())),
        (
            "used",
            or_null(about(
                "What is used, or was given out and will be, without large blocks that are kept.",
                integer(),
            )),
        ),
        (
            "kept",
            or_null(about(
                "Free pages of the allocator, without large blocks that are kept.",
                integer(),
            )),
        ),
        ("reused", number()),
        ("growth", integer()),
        (
            "on_trial",
            about(
                "What of `growth` is reserved for those that were let in on trial.",
                integer(),
            ),
        ),
        ("reserved_for_small", integer()),
        ("running", integer()),
        ("held", integer()),
        ("waiting", integer()),
        ("is_short", flag()),
        ("drained_per_second", integer()),
        (
            "shed",
            about(
                "How much is refused at once, from 0 to 1: low priority first, normal priority from a half on.",
                number(),
            ),
        ),
        ("admitted", integer()),
        ("waited", integer()),
        ("tried", integer()),
        (
            "refused",
            object([
                ("queue_full", integer()),
                ("queue_timeout", integer()),
                ("shed", integer()),
                ("share", integer()),
            ]),
        ),
        ("cancelled", integer()),
        ("would_wait", integer()),
        ("would_reject", integer()),
        (
            "routes",
            list(object([
                ("route", text()),
                (
                    "expected",
                    or_null(about(
                        "What the next one is taken to hold at most.",
                        integer(),
                    )),
                ),
                ("refused", integer()),
            ])),
        ),
    ])
}

fn monitor() -> Value {
    object([
        ("state", text()),
        ("pressure", reference("Pressure")),
        ("samples", integer()),
        ("failed_reads", integer()),
        ("level_changes", integer()),
        ("panics", integer()),
        ("reclaims", integer()),
        ("skipped_reclaims", integer()),
        ("freed", reference("Freed")),
        ("purges", integer()),
        ("purged_bytes", integer()),
        ("left_behind", integer()),
        (
            "last_reclaim",
            or_null(object(reclaim().into_iter().chain([("ago_s", number())]))),
        ),
        (
            "holders",
            object([
                ("rounds", integer()),
                (
                    "age_s",
                    or_null(about(
                        "How old it is what is known of what holdings and routes hold.",
                        number(),
                    )),
                ),
                ("panics", integer()),
                ("left_behind", integer()),
                ("silent", about("Who does not answer.", list(text()))),
            ]),
        ),
        (
            "alerts",
            object([
                ("hooks", integer()),
                ("told", integer()),
                ("suppressed", integer()),
                ("hook_calls", integer()),
                ("hook_skips", integer()),
                ("hook_panics", integer()),
            ]),
        ),
        (
            "history",
            list(object([
                ("resolution", one_of(Resolution::NAMES)),
                ("points", integer()),
                ("max_points", integer()),
                ("from", or_null(time())),
            ])),
        ),
        (
            "config",
            object([
                ("monitor", schema_of(&MonitorConfig::new())),
                ("admission", schema_of(&AdmissionConfig::new())),
                ("leaks", schema_of(&LeakConfig::new())),
            ]),
        ),
    ])
}

fn reclaim() -> Vec<Member> {
    vec![
        ("why", one_of(&["pressure", "periodic", "manual"])),
        ("before", or_null(integer())),
        ("after", or_null(integer())),
        ("given_back", or_null(integer())),
        ("freed", reference("Freed")),
        (
            "steps",
            list(object([
                (
                    "kind",
                    one_of(&["expire", "purge", "shrink", "cancel", "would_cancel"]),
                ),
                ("name", or_null(text())),
                ("entries", integer()),
                ("bytes", integer()),
                ("took_s", number()),
                ("failed", flag()),
            ])),
        ),
        ("more_steps", integer()),
        ("took_s", number()),
    ]
}

fn requests() -> Value {
    let sizes = || {
        object([
            ("p50", or_null(integer())),
            ("p95", or_null(integer())),
            ("max", integer()),
        ])
    };
    let budget = || {
        or_null(object([
            ("bytes", integer()),
            ("mode", one_of(&["observe", "enforce"])),
        ]))
    };
    object([
        ("attribution", or_null(text())),
        ("resident_bytes", or_null(integer())),
        (
            "heavy",
            object([
                ("above_bytes", or_null(integer())),
                ("total", integer()),
                (
                    "newest",
                    list(object([
                        ("endpoint", text()),
                        ("method", or_null(text())),
                        ("status", or_null(integer())),
                        ("ended", time()),
                        ("duration_s", number()),
                        ("allocated_bytes", integer()),
                        ("peak_bytes", integer()),
                        ("left_bytes", integer()),
                        ("attribution", text()),
                        ("budget", budget()),
                        ("resident_before_bytes", or_null(integer())),
                        ("resident_after_bytes", or_null(integer())),
                    ])),
                ),
            ]),
        ),
        ("budgets_of_unseen_routes", counts()),
        (
            "endpoints",
            list(object([
                ("endpoint", text()),
                ("requests", integer()),
                ("attribution", or_null(text())),
                ("in_flight", integer()),
                ("live_bytes", or_null(integer())),
                ("retained_bytes", or_null(integer())),
                ("retaining_requests", or_null(integer())),
                (
                    "retained_bytes_by_age",
                    or_null(object([
                        ("one_minute", integer()),
                        ("ten_minutes", integer()),
                        ("one_hour", integer()),
                        ("older", integer()),
                    ])),
                ),
                ("allocated_bytes", integer()),
                ("allocated", sizes()),
                ("peak", or_null(sizes())),
                ("left", or_null(sizes())),
                ("budget", budget()),
                ("over_budget", integer()),
                ("refused", integer()),
                ("cut", integer()),
            ])),
        ),
    ])
}

fn sweep() -> Vec<Member> {
    vec![
        ("removed", counts()),
        ("slices", integer()),
        ("elapsed_ms", number()),
        ("longest_slice_ms", number()),
        ("panicked", flag()),
    ]
}

fn holding() -> Value {
    object_with(
        [
            ("name", text()),
            ("entries", or_null(integer())),
            ("bytes", or_null(integer())),
            ("max_entries", or_null(integer())),
            ("max_bytes", or_null(integer())),
            ("utilisation", or_null(number())),
            ("inserted", or_null(integer())),
            ("removed", or_null(counts())),
            ("must_flush", flag()),
            ("next_sweep_in_s", number()),
            ("overdue", flag()),
            ("sweeps", integer()),
            ("sweep_panics", integer()),
            ("sweeps_overdue", integer()),
            (
                "last_sweep",
                or_null(object(sweep().into_iter().chain([("ago_s", number())]))),
            ),
        ],
        [("error", text())],
    )
}

fn breaker() -> Vec<Member> {
    vec![
        ("name", text()),
        ("state", text()),
        ("reason", text()),
        ("since", time()),
        ("age_s", number()),
        ("retry_after_s", or_null(number())),
        (
            "window",
            object([
                ("calls", integer()),
                ("successes", integer()),
                ("failures", integer()),
                ("slow", integer()),
                ("slow_failures", integer()),
                ("failure_percent", or_null(number())),
                ("slow_percent", or_null(number())),
            ]),
        ),
        ("consecutive_failures", integer()),
        ("rejected", integer()),
        ("in_flight", integer()),
        ("probes_in_flight", integer()),
        ("probes_free", integer()),
        ("attempt", integer()),
        ("generation", integer()),
        (
            "totals",
            object([
                ("success", integer()),
                ("failure", integer()),
                ("ignored", integer()),
                ("dropped", integer()),
                ("stale", integer()),
                ("slow", integer()),
                (
                    "rejected",
                    object([
                        ("open", integer()),
                        ("half_open", integer()),
                        ("forced_open", integer()),
                    ]),
                ),
                ("would_reject", integer()),
            ]),
        ),
        ("lost_events", integer()),
        (
            "history",
            object([
                ("calls", integer()),
                ("max_calls", or_null(integer())),
                ("transitions", integer()),
                ("max_transitions", or_null(integer())),
                ("retention_s", or_null(number())),
                ("sweep_interval_s", number()),
                ("last_sweep_ago_s", or_null(number())),
            ]),
        ),
        ("bytes", integer()),
    ]
}

fn breaker_page() -> Value {
    let evidence = object([
        ("calls", integer()),
        ("failures", integer()),
        ("slow", integer()),
        ("slow_failures", integer()),
        ("failure_percent", or_null(number())),
        ("slow_percent", or_null(number())),
        ("rejected", integer()),
        ("generation", integer()),
        ("attempt", integer()),
        ("open_for_s", or_null(number())),
    ]);
    object(breaker().into_iter().chain([
        (
            "transition_counts",
            list(object([
                ("from", text()),
                ("to", text()),
                ("reason", text()),
                ("count", integer()),
            ])),
        ),
        (
            "transitions",
            list(object([
                ("at", time()),
                ("ago_s", number()),
                ("from", text()),
                ("to", text()),
                ("reason", text()),
                ("evidence", evidence),
            ])),
        ),
        (
            "calls",
            list(object([
                ("ended_at", time()),
                ("ago_s", number()),
                ("duration_ms", number()),
                ("outcome", text()),
                ("slow", flag()),
                ("probe", flag()),
                ("stale", flag()),
            ])),
        ),
        ("matching", integer()),
        ("offset", integer()),
        ("limit", integer()),
        ("next_offset", or_null(integer())),
    ]))
}
