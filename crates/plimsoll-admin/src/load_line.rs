//! The routes of *admin* that show how the process keeps under its line, and have room made.

mod settings;
mod view;

pub(crate) use self::settings::{schema_of, values_of};

use self::view::{HistoryView, MonitorView, ReclaimView, StatsView};
use crate::{
    breakers::page::{no_parameters, only_parameter, wrong},
    problem::Problem,
    shared::Shared,
};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri},
    routing::{get, post},
};
use plimsoll_memory::{LoadLine, ReclaimError, history::Resolution};
use std::{sync::Arc, time::Duration};
use tokio::task::spawn_blocking;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/v1/memory/stats", get(stats))
        .route("/api/v1/memory/monitor", get(monitor))
        .route("/api/v1/memory/history", get(history))
        .route("/api/v1/memory/gc", post(make_room))
}

/// How long room that was asked for may take to be made before the answer says so.
const RECLAIM_TIMEOUT: Duration = Duration::from_secs(10);

async fn stats(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Json<StatsView>, Problem> {
    no_parameters(&uri)?;
    Ok(Json(StatsView::new(find(&shared)?)))
}

async fn monitor(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Json<MonitorView>, Problem> {
    no_parameters(&uri)?;
    Ok(Json(MonitorView::new(find(&shared)?)))
}

async fn history(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Json<HistoryView>, Problem> {
    let resolution = resolution(&uri)?;
    Ok(Json(HistoryView::new(find(&shared)?, resolution)))
}

async fn make_room(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Json<ReclaimView>, Problem> {
    no_parameters(&uri)?;
    let manager = find(&shared)?.manager().clone();
    let one_at_a_time = shared.reclaims.clone().try_acquire_owned();
    let place = one_at_a_time.map_err(|_| Problem::busy("room is being made for somebody else"))?;
    let work = spawn_blocking(move || {
        // Given back when it ends, whether or not anybody still waits for it.
        let _place = place;
        manager.reclaim(RECLAIM_TIMEOUT)
    });
    match work.await {
        Ok(Ok(report)) => Ok(Json(ReclaimView::from(&*report))),
        Ok(Err(error)) => Err(not_made(error)),
        Err(_) => Err(not_made(ReclaimError::Panicked)),
    }
}

const PANICKED: &str = "whoever makes room panicked: see the log of the service";

fn not_made(error: ReclaimError) -> Problem {
    match error {
        ReclaimError::TimedOut => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("it takes longer than {RECLAIM_TIMEOUT:?} to make room, and may go on"),
        ),
        ReclaimError::Panicked => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, PANICKED),
        error => Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

fn find(shared: &Shared) -> Result<&LoadLine, Problem> {
    let none = || Problem::new(StatusCode::NOT_FOUND, "the service has no memory monitor");
    shared.parts.load_line.as_ref().ok_or_else(none)
}

fn resolution(uri: &Uri) -> Result<Resolution, Problem> {
    match only_parameter(uri, "resolution")? {
        None => Ok(Resolution::Second),
        Some(value) => value
            .parse()
            .map_err(|_| wrong("resolution", value, "use one of 1s, 30s, 10m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse as _;

    #[test]
    fn room_that_is_not_made_is_told_by_its_reason() {
        for (error, status) in [
            (ReclaimError::TimedOut, StatusCode::GATEWAY_TIMEOUT),
            (ReclaimError::Stopped, StatusCode::SERVICE_UNAVAILABLE),
            (ReclaimError::Panicked, StatusCode::INTERNAL_SERVER_ERROR),
        ] {
            assert_eq!(not_made(error).into_response().status(), status);
        }
    }
}
