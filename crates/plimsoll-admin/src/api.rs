//! The routes of *admin*: holdings and tasks here, others below.

use crate::{
    breakers::{self, page::no_parameters},
    configuration, load_line, memory, openapi, page,
    problem::{self, Problem},
    shared::Shared,
    view::{HoldingsView, SweepView, SweptView, TasksView},
};
use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, Uri},
    routing::{get, post},
};
use std::sync::Arc;
use tokio::time::Instant;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let router = Router::new()
        .route("/api/v1/holdings", get(holdings))
        .route("/api/v1/memory/holdings", get(holdings))
        .route("/api/v1/holdings/sweep", post(sweep_all))
        .route("/api/v1/holdings/{name}/sweep", post(sweep))
        .route("/api/v1/tasks", get(tasks))
        .merge(breakers::routes())
        .merge(configuration::routes())
        .merge(load_line::routes())
        .merge(memory::routes())
        .merge(openapi::routes())
        .merge(page::routes());
    #[cfg(feature = "profile")]
    let router = router.merge(crate::profile::routes());
    router
        .method_not_allowed_fallback(problem::method_not_allowed)
        .fallback(problem::not_found)
        .with_state(shared)
}

async fn holdings(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Json<HoldingsView>, Problem> {
    no_parameters(&uri)?;
    let registry = shared.registry.clone();
    let holdings = shared.asker.ask(move || registry.snapshot()).await;
    let holdings = holdings.ok_or_else(|| Problem::busy("a holding does not answer"))?;
    Ok(Json(HoldingsView::new(&holdings, Instant::now())))
}

async fn sweep(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<SweepView>, Problem> {
    no_parameters(&uri)?;
    let Path(name) = name?;
    let registry = shared.registry.clone();
    let (name, report) = shared
        .sweep(async move {
            let report = registry.sweep(&name).await;
            (name, report)
        })
        .await?;
    let report =
        report.map_err(|unknown| Problem::new(StatusCode::NOT_FOUND, unknown.to_string()))?;
    Ok(Json(SweepView::new(name, report)))
}

async fn sweep_all(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Json<SweptView>, Problem> {
    no_parameters(&uri)?;
    let registry = shared.registry.clone();
    let swept = shared
        .sweep(async move { registry.sweep_all().await })
        .await?;
    let swept = swept
        .into_iter()
        .map(|(name, report)| SweepView::new(name.as_str(), report));
    Ok(Json(SweptView {
        swept: swept.collect(),
    }))
}

async fn tasks(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Json<TasksView>, Problem> {
    no_parameters(&uri)?;
    let runtime_alive = shared.main.metrics().num_alive_tasks();
    let tasks = TasksView::new(&shared.lifecycle, runtime_alive, Instant::now());
    Ok(Json(tasks))
}
