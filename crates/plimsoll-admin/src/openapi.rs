//! The document that describes the routes of *admin* to programs (OpenAPI 3.1).
//!
//! It is written by hand, next to the views; a test asks every route for an answer and holds it
//! against this. Objects have all their members, and no others, unless it says otherwise.

use crate::{
    breakers::page::no_parameters, load_line::schema_of, problem::Problem, shared::Shared,
};
use axum::{Json, Router, http::Uri, routing::get};
use plimsoll_core::settings::Choice as _;
use plimsoll_memory::{AdmissionConfig, AdmissionMode, MonitorConfig, PressureLevel};
use plimsoll_memory::{history::Resolution, verdict::LeakKind};
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/api/v1/openapi.json", get(openapi))
}

async fn openapi(uri: Uri) -> Result<Json<Value>, Problem> {
    no_parameters(&uri)?;
    Ok(Json(document()))
}

/// The document.
pub(crate) fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Plimsoll admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Sizes are in bytes and times in seconds, unless a name says otherwise. What is not known is null.",
        },
        "security": [{}, { "token": [] }],
        "paths": paths(),
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Where the listener has a token.",
                },
            },
            "schemas": schemas(),
        },
    })
}

/// One way to ask.
struct Operation {
    method: &'static str,
    path: &'static str,
    about: &'static str,
    parameters: Vec<Value>,
    media: &'static str,
    answer: Value,
}

fn operation(
    method: &'static str,
    path: &'static str,
    about: &'static str,
    answer: &str,
) -> Operation {
    Operation {
        method,
        path,
        about,
        parameters: Vec::new(),
        media: "application/json",
        answer: reference(answer),
    }
}

impl Operation {
    fn takes(mut self, parameters: impl IntoIterator<Item = Value>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    fn into_json(self) -> Value {
        json!({
            "summary": self.about,
            "parameters": self.parameters,
            "responses": {
                "200": {
                    "description": "So it is, or was done.",
                    "content": { self.media: { "schema": self.answer } },
                },
                "default": {
                    "description": "Why not, and what to do about it.",
                    "content": { "application/problem+json": { "schema": reference("Problem") } },
                },
            },
        })
    }
}

fn paths() -> Value {
    const GET: &str = "get";
    const POST: &str = "post";
    let name = || in_path("name", text());
    let resolution = one_of(Resolution::NAMES);
    let actions = [
        "cleanup",
        "close",
        "disable",
        "force-open",
        "half-open",
        "metrics-only",
        "open",
        "reset",
    ];
    let page = [
        in_query(
            "limit",
            "So many calls and so many transitions.",
            range(1, 1_000),
        ),
        in_query("offset", "Leaves out the newest so many calls.", integer()),
        in_query(
            "outcome",
            "Only such calls.",
            one_of(&["success", "failure", "ignored", "dropped"]),
        ),
        in_query("slow", "Only slow calls, or only others.", flag()),
        in_query(
            "within",
            "Only calls that ended within the last so many seconds.",
            number(),
        ),
    ];
    let operations = [
        operation(
            GET,
            "/api/v1/memory/stats",
            "How the process is doing.",
            "MemoryStats",
        ),
        operation(
            POST,
            "/api/v1/memory/gc",
            "Makes room now, and says what that gave.",
            "Reclaim",
        ),
        operation(
            GET,
            "/api/v1/memory/monitor",
            "What the monitor goes by, and has done.",
            "MemoryMonitor",
        ),
        operation(
            GET,
            "/api/v1/memory/history",
            "What was held in the last hours.",
            "MemoryHistory",
        )
        .takes([in_query(
            "resolution",
            "How long a point is; 1s by default.",
            resolution,
        )]),
        operation(
            GET,
            "/api/v1/memory/holdings",
            "What every holding holds.",
            "Holdings",
        ),
        operation(
            GET,
            "/api/v1/memory/requests",
            "What requests allocate, hold at most and leave behind, by endpoint.",
            "Requests",
        ),
        operation(
            GET,
            "/api/v1/memory/profile",
            "Whether blocks are sampled.",
            "Sampling",
        ),
        operation(
            POST,
            "/api/v1/memory/profile/start",
            "Has blocks sampled.",
            "Sampling",
        )
        .takes([in_query(
            "mean_bytes",
            "One in so many bytes.",
            range(1_024, 1 << 30),
        )]),
        operation(
            POST,
            "/api/v1/memory/profile/stop",
            "Has no more of them sampled.",
            "Sampling",
        ),
        Operation {
            media: "application/octet-stream",
            answer: json!({}),
            ..operation(GET, "/debug/pprof/heap", "A heap profile for pprof.", "")
        }
        .takes([in_query(
            "seconds",
            "The difference over so many seconds.",
            range(1, 60),
        )]),
        operation(
            GET,
            "/api/v1/holdings",
            "What every holding holds.",
            "Holdings",
        ),
        operation(POST, "/api/v1/holdings/sweep", "Sweeps them all.", "Swept"),
        operation(
            POST,
            "/api/v1/holdings/{name}/sweep",
            "Sweeps one.",
            "Sweep",
        )
        .takes([name()]),
        operation(
            GET,
            "/api/v1/tasks",
            "The named tasks that are alive.",
            "Tasks",
        ),
        operation(
            GET,
            "/api/v1/breakers",
            "Every circuit breaker.",
            "Breakers",
        ),
        operation(
            POST,
            "/api/v1/breakers/cleanup",
            "Cleans them all up.",
            "CleanedBreakers",
        ),
        operation(
            GET,
            "/api/v1/breakers/{name}",
            "One, with a page of its history.",
            "BreakerPage",
        )
        .takes([name()])
        .takes(page),
        operation(
            POST,
            "/api/v1/breakers/{name}/{action}",
            "Has it do something.",
            "OperatedBreaker",
        )
        .takes([name(), in_path("action", one_of(&actions))]),
        operation(GET, "/api/v1/config", "Every setting.", "Config"),
        operation(
            POST,
            "/api/v1/config/reload",
            "Reads files and variables again.",
            "Reload",
        ),
        operation(GET, "/api/v1/openapi.json", "This document.", "OpenApi"),
    ];
    let mut paths = Map::new();
    for operation in operations {
        let method = operation.method;
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[method] = operation.into_json();
    }
    Value::Object(paths)
}

fn schemas() -> Value {
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
                ("unattributed", or_null(integer())),
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
            or_null(about("In memory, and not tracked.", integer())),
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
        ("used", or_null(integer())),
        ("overhead", or_null(integer())),
        ("growth", integer()),
        ("reserved_for_small", integer()),
        ("running", integer()),
        ("held", integer()),
        ("waiting", integer()),
        ("is_short", flag()),
        ("drained_per_second", integer()),
        (
            "shed",
            about(
                "The share of the normal priority that is refused at once.",
                number(),
            ),
        ),
        ("admitted", integer()),
        ("waited", integer()),
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

/// A member of an object, and what it is.
type Member = (&'static str, Value);

fn text() -> Value {
    json!({ "type": "string" })
}

fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

fn integer() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn range(least: u64, most: u64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

fn number() -> Value {
    json!({ "type": "number" })
}

fn flag() -> Value {
    json!({ "type": "boolean" })
}

fn one_of(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// Numbers by name.
fn counts() -> Value {
    json!({ "type": "object", "additionalProperties": integer() })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn or_null(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

fn about(text: &str, mut schema: Value) -> Value {
    schema["description"] = json!(text);
    schema
}

fn object(members: impl IntoIterator<Item = Member>) -> Value {
    object_with(members, [])
}

fn object_with(
    members: impl IntoIterator<Item = Member>,
    optional: impl IntoIterator<Item = Member>,
) -> Value {
    let mut properties: Map<_, _> = into_map(members);
    let required: Vec<_> = properties.keys().cloned().collect();
    properties.extend(into_map(optional));
    json!({
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": false,
    })
}

fn into_map(members: impl IntoIterator<Item = Member>) -> Map<String, Value> {
    let members = members.into_iter();
    members
        .map(|(key, schema)| (key.to_owned(), schema))
        .collect()
}

fn in_path(name: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": schema })
}

fn in_query(name: &str, about: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "query", "description": about, "schema": schema })
}
