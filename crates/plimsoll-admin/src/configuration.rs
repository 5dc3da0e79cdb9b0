//! The routes of *admin* that show the configuration, and read it again.

use crate::{
    breakers::page::no_parameters,
    problem::Problem,
    shared::{SWEEP_TIMEOUT, Shared},
};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use plimsoll_config::{Change, Configuration, LoadError, Reload, Source, What, to_json};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::time::timeout;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/v1/config", get(show))
        .route("/api/v1/config/reload", post(reload))
}

async fn show(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Json<Value>, Problem> {
    no_parameters(&uri)?;
    let configuration = find(&shared)?;
    // It may be busy with reading files.
    let look = move || (configuration.values(), configuration.problem());
    let (values, problem) = shared
        .asker
        .ask(look)
        .await
        .ok_or_else(|| Problem::busy("the configuration does not answer"))?;
    Ok(Json(json!({
        "config": to_json(&values),
        "problems": problem.as_ref().map_or_else(|| json!([]), problems),
    })))
}

async fn reload(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    no_parameters(&uri)?;
    let configuration = find(&shared)?;
    let one_at_a_time = shared.reloads.clone().try_acquire_owned();
    let slot = one_at_a_time.map_err(|_| Problem::busy("the configuration is being read"))?;
    // On the runtime of the service, where adapters that are made belong.
    let task = shared.main.spawn_blocking(move || {
        let _slot = slot;
        configuration.reload()
    });
    match timeout(SWEEP_TIMEOUT, task).await {
        Ok(Ok(Ok(Reload { changes, .. }))) => {
            let changes: Vec<_> = changes.iter().map(change).collect();
            Ok(Json(json!({ "changes": changes })).into_response())
        }
        Ok(Ok(Err(error))) => Ok(refused(&error)),
        Ok(Err(_)) => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the reload was dropped or panicked: see the log of the service",
        )),
        Err(_) => Err(Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("the reload takes longer than {SWEEP_TIMEOUT:?}, and goes on"),
        )),
    }
}

fn find(shared: &Shared) -> Result<Arc<dyn Configuration>, Problem> {
    let none = || Problem::new(StatusCode::NOT_FOUND, "the service shows no configuration");
    shared.parts.configuration.clone().ok_or_else(none)
}

/// A problem document with a member for each problem (RFC 9457 §3.2).
fn refused(error: &LoadError) -> Response {
    let detail = match error.count() {
        1 => error.to_string(),
        count => format!("there are {count} problems with the configuration: nothing was changed"),
    };
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    Problem::new(status, detail)
        .with_member("problems", problems(error))
        .into_response()
}

fn problems(error: &LoadError) -> Value {
    let problems = error.problems().iter().map(|problem| {
        let mut view = json!({ "key": problem.key, "message": problem.to_string() });
        place(&mut view, &problem.source);
        match &problem.what {
            What::Value { value, expected } => {
                view["value"] = json!(value);
                view["expected"] = json!(expected);
            }
            What::UnknownKey { nearest, .. } => view["nearest"] = json!(nearest),
            _ => {}
        }
        view
    });
    problems.collect()
}

fn place(view: &mut Value, source: &Source) {
    match source {
        Source::File { file, line, column } => {
            view["file"] = json!(&**file);
            if *line > 0 {
                view["line"] = json!(line);
                view["column"] = json!(column);
            }
        }
        Source::Variable(name) => view["variable"] = json!(&**name),
        _ => {}
    }
}

fn change(change: &Change) -> Value {
    let shown =
        |value: &Option<plimsoll_core::settings::Value>| value.as_ref().map(ToString::to_string);
    json!({
        "key": change.key,
        "old": shown(&change.old),
        "new": shown(&change.new),
        "source": change.source.to_string(),
        "applied": change.applied,
    })
}
