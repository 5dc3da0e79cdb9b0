//! The routes of *probe*: alive, ready, metrics.

use crate::{
    problem::{self, Problem},
    shared::Shared,
    telemetry::{self, Fresh},
};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use plimsoll_breaker::Breakers;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// The content type that Prometheus asks for.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(problem::method_not_allowed)
        .with_state(shared)
}

/// Depends on nothing: a process that is short of memory, or whose workers are busy, is not
/// helped by a restart.
async fn livez() -> &'static str {
    "ok"
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    match shared.unready() {
        None => "ready".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let Some(handle) = shared.metrics.clone() else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "no recorder was given: pass the handle of `install_recorder` to `Control::start`",
        ));
    };
    let scrape = shared
        .scrapes
        .clone()
        .try_acquire_owned()
        .map_err(|_| Problem::busy("another scrape is under way"))?;
    let registry = shared.registry.clone();
    let (holdings, breakers) = tokio::join!(
        shared.asker.ask(move || registry.publish_metrics()),
        shared.look_at_breakers(Breakers::publish_metrics),
    );
    let fresh = Fresh {
        holdings: holdings.is_some(),
        breakers: breakers.is_some(),
    };
    // Rendering takes as long as there are series, and the other probes should not wait for it.
    let render = move || {
        let _scrape = scrape;
        telemetry::publish(&shared.lifecycle, shared.unready().is_none(), fresh);
        shared.publishers.iter().for_each(|publish| publish());
        handle.render()
    };
    match spawn_blocking(render).await {
        Ok(text) => Ok(([(header::CONTENT_TYPE, TEXT)], text).into_response()),
        Err(_) => Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the recorder, or what publishes to it, panicked",
        )),
    }
}
