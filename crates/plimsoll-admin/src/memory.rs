//! The route of *admin* that shows what requests allocate, hold and leave behind.

use crate::{breakers::page::no_parameters, problem::Problem, shared::Shared, view::utc};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri},
    routing::get,
};
use plimsoll_core::settings::Choice as _;
use plimsoll_http::{EdgeLayer, edge::EndpointSnapshot};
use plimsoll_memory::{Attribution, Budget, HeavyLog, HeavyRequest, Histogram, process};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/api/v1/memory/requests", get(requests))
}

/// How many heavy requests are shown.
const SHOWN: usize = 5;

/// Whoever retains most comes first.
#[derive(Debug, Serialize)]
struct RequestsView {
    /// What requests that begin now are weighed by; null where there is no allocator that counts.
    attribution: Option<&'static str>,
    /// What the process had in memory when somebody looked last.
    resident_bytes: Option<u64>,
    heavy: HeavyView,
    /// Routes with a budget of their own that have no endpoint: none of their requests has come, or
    /// they came past the bound of endpoints. Misspelt, maybe.
    budgets_of_unseen_routes: BTreeMap<String, u64>,
    endpoints: Vec<EndpointView>,
}

#[derive(Debug, Serialize)]
struct EndpointView {
    endpoint: &'static str,
    requests: u64,
    /// The worst that one was weighed by.
    attribution: Option<&'static str>,
    in_flight: usize,
    /// Null, as what follows, where nobody knows what requests hold.
    live_bytes: Option<u64>,
    retained_bytes: Option<u64>,
    retaining_requests: Option<u64>,
    /// By how long ago the request ended; null where nobody tells the time.
    retained_bytes_by_age: Option<AgesView>,
    allocated_bytes: u64,
    allocated: SizesView,
    peak: Option<SizesView>,
    /// Still held when the request ended, the last frame included that was not written yet.
    left: Option<SizesView>,
    budget: Option<BudgetView>,
    over_budget: u64,
    refused: u64,
    cut: u64,
}

/// Up to so long ago.
#[derive(Debug, Serialize)]
struct AgesView {
    one_minute: u64,
    ten_minutes: u64,
    one_hour: u64,
    older: u64,
}

#[derive(Debug, Serialize)]
struct BudgetView {
    bytes: u64,
    mode: &'static str,
}

/// In bytes; null before the first request.
#[derive(Debug, Serialize)]
struct SizesView {
    p50: Option<u64>,
    p95: Option<u64>,
    max: u64,
}

/// The newest first.
#[derive(Debug, Serialize)]
struct HeavyView {
    /// More than so many bytes is heavy; null where none is.
    above_bytes: Option<u64>,
    total: u64,
    newest: Vec<HeavyRequestView>,
}

#[derive(Debug, Serialize)]
struct HeavyRequestView {
    endpoint: &'static str,
    method: Option<&'static str>,
    status: Option<u16>,
    ended: String,
    duration_s: f64,
    allocated_bytes: u64,
    peak_bytes: u64,
    left_bytes: u64,
    attribution: &'static str,
    budget: Option<BudgetView>,
    resident_before_bytes: Option<u64>,
    resident_after_bytes: Option<u64>,
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
        let snapshots = edge.snapshot();
        let mut unseen = edge.memory_config().budgets().clone();
        unseen.retain(|route, _| !snapshots.iter().any(|it| it.endpoint.as_str() == route));
        let mut endpoints: Vec<_> = snapshots.iter().map(EndpointView::from).collect();
        endpoints.sort_by_key(|endpoint| std::cmp::Reverse(endpoint.retained_bytes));
        Self {
            attribution: Attribution::of_allocator().map(Attribution::as_str),
            resident_bytes: process::resident(),
            heavy: HeavyView::from(edge.heavy()),
            budgets_of_unseen_routes: unseen,
            endpoints,
        }
    }
}

impl From<&EndpointSnapshot> for EndpointView {
    fn from(snapshot: &EndpointSnapshot) -> Self {
        let memory = &snapshot.memory;
        let exact = memory.is_exact().then_some(memory);
        Self {
            endpoint: snapshot.endpoint.as_str(),
            requests: memory.requests(),
            attribution: memory.attribution().map(Attribution::as_str),
            in_flight: snapshot.in_flight,
            live_bytes: exact.map(|memory| memory.live),
            retained_bytes: exact.map(|memory| memory.retained.bytes),
            retaining_requests: exact.map(|memory| memory.retained.scopes),
            retained_bytes_by_age: exact
                .and_then(|memory| memory.retained_by_age)
                .map(|by_age| {
                    let [one_minute, ten_minutes, one_hour, older] = by_age.map(|it| it.bytes);
                    AgesView {
                        one_minute,
                        ten_minutes,
                        one_hour,
                        older,
                    }
                }),
            allocated_bytes: memory.allocated.sum,
            allocated: SizesView::from(&memory.allocated),
            peak: exact.map(|memory| SizesView::from(&memory.peak)),
            left: exact.map(|memory| SizesView::from(&memory.left)),
            budget: memory.budget.map(BudgetView::from),
            over_budget: memory.over_budget,
            refused: memory.refused,
            cut: memory.cut,
        }
    }
}

impl From<&Histogram> for SizesView {
    fn from(sizes: &Histogram) -> Self {
        Self {
            p50: sizes.quantile(0.5),
            p95: sizes.quantile(0.95),
            max: sizes.max,
        }
    }
}

impl From<Budget> for BudgetView {
    fn from(budget: Budget) -> Self {
        Self {
            bytes: budget.bytes(),
            mode: budget.mode().name(),
        }
    }
}

impl From<&HeavyLog> for HeavyView {
    fn from(log: &HeavyLog) -> Self {
        let newest = log.newest(SHOWN);
        Self {
            above_bytes: Some(log.above()).filter(|above| *above < u64::MAX),
            total: log.total(),
            newest: newest.iter().map(HeavyRequestView::from).collect(),
        }
    }
}

impl From<&HeavyRequest> for HeavyRequestView {
    fn from(request: &HeavyRequest) -> Self {
        let [before, after] = request.resident;
        Self {
            endpoint: request.name.as_str(),
            method: request.method,
            status: request.status,
            ended: utc(request.ended),
            duration_s: request.took.as_secs_f64(),
            allocated_bytes: request.sample.allocated,
            peak_bytes: request.sample.peak,
            left_bytes: request.sample.left,
            attribution: request.sample.attribution.as_str(),
            budget: request.budget.map(BudgetView::from),
            resident_before_bytes: before,
            resident_after_bytes: after,
        }
    }
}
