//! The route of *admin* that shows what requests allocate, hold and leave behind.

use crate::{breakers::page::no_parameters, problem::Problem, shared::Shared};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri},
    routing::get,
};
use plimsoll_http::{EdgeLayer, edge::EndpointMemory};
use serde::Serialize;
use std::sync::Arc;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/api/v1/memory/requests", get(requests))
}

/// Whoever retains most comes first.
#[derive(Debug, Serialize)]
struct RequestsView {
    /// Whether requests are weighed at all.
    weighed: bool,
    endpoints: Vec<EndpointView>,
}

#[derive(Debug, Serialize)]
struct EndpointView {
    endpoint: &'static str,
    requests: u64,
    in_flight: usize,
    live_bytes: u64,
    retained_bytes: u64,
    retaining_requests: u64,
    allocated_bytes: u64,
    peak: PeakView,
}

/// In bytes; null before the first request.
#[derive(Debug, Serialize)]
struct PeakView {
    p50: Option<u64>,
    p95: Option<u64>,
    max: u64,
}

async fn requests(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Json<RequestsView>, Problem> {
    no_parameters(&uri)?;
    let none = || Problem::new(StatusCode::NOT_FOUND, "the service has no edge to be shown");
    let edge = shared.parts.edge.clone().ok_or_else(none)?;
    // It looks at every scope of the process.
    let looked = shared.asker.ask(move || RequestsView::new(&edge)).await;
    let view = looked.ok_or_else(|| Problem::busy("a holding does not answer"))?;
    Ok(Json(view))
}

impl RequestsView {
    fn new(edge: &EdgeLayer) -> Self {
        let snapshots = edge.snapshot().into_iter();
        let endpoints = snapshots.filter_map(|snapshot| {
            let memory = snapshot.memory.as_ref()?;
            let endpoint = snapshot.endpoint.as_str();
            Some(EndpointView::new(endpoint, snapshot.in_flight, memory))
        });
        let mut endpoints: Vec<_> = endpoints.collect();
        endpoints.sort_by_key(|endpoint| std::cmp::Reverse(endpoint.retained_bytes));
        Self {
            weighed: plimsoll_http::edge::can_weigh(),
            endpoints,
        }
    }
}

impl EndpointView {
    fn new(endpoint: &'static str, in_flight: usize, memory: &EndpointMemory) -> Self {
        Self {
            endpoint,
            requests: memory.requests(),
            in_flight,
            live_bytes: memory.live,
            retained_bytes: memory.retained,
            retaining_requests: memory.retaining,
            allocated_bytes: memory.allocated,
            peak: PeakView {
                p50: memory.peak_quantile(0.5),
                p95: memory.peak_quantile(0.95),
                max: memory.max_peak,
            },
        }
    }
}
