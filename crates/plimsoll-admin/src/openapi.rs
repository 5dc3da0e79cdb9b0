//! The document that describes the routes of *admin* to programs (`OpenAPI` 3.1).
//!
//! It is written by hand, next to the views; a test asks every route for an answer and holds it
//! against this. Objects have all their members, and no others, unless it says otherwise.

mod schema;
mod schemas;

use self::{
    schema::{flag, integer, made, number, one_of, range, reference, text},
    schemas::schemas,
};
use crate::{
    breakers::page::no_parameters,
    page::{HTML, REFRESH},
    problem::Problem,
    shared::Shared,
};
use axum::{Json, Router, http::Uri, routing::get};
use plimsoll_core::settings::Choice as _;
use plimsoll_memory::history::Resolution;
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
    let refresh = json!({ "anyOf": [range(*REFRESH.start(), *REFRESH.end()), one_of(&["off"])] });
    let operations = [
        Operation {
            media: HTML,
            answer: text(),
            ..operation(GET, "/", "A page for people.", "")
        }
        .takes([in_query(
            "refresh",
            "Has it read again so many seconds later; 5 by default.",
            refresh,
        )]),
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

fn in_path(name: &str, schema: Value) -> Value {
    made([
        ("name", json!(name)),
        ("in", json!("path")),
        ("required", json!(true)),
        ("schema", schema),
    ])
}

fn in_query(name: &str, about: &str, schema: Value) -> Value {
    made([
        ("name", json!(name)),
        ("in", json!("query")),
        ("description", json!(about)),
        ("schema", schema),
    ])
}
