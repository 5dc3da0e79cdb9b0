//! The routes of *admin* for heap profiles, and what they are made of.

use crate::{
    breakers::page::{no_parameters, only_parameter, whole_number, wrong},
    problem::Problem,
    shared::Shared,
};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use plimsoll_alloc::{
    GroupId, Mode, is_installed, mode,
    profile::{self, Sampling},
};
use plimsoll_core::Name;
use plimsoll_http::EdgeLayer;
use plimsoll_memory::profile::{HeapProfile, ProfileTooLarge};
use serde::Serialize;
use std::{collections::HashMap, ops::RangeInclusive, sync::Arc, time::Duration};
use tokio::{
    sync::OwnedSemaphorePermit,
    task::spawn_blocking,
    time::{sleep, timeout},
};

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/debug/pprof/heap", get(heap))
        .route("/api/v1/memory/profile", get(show))
        .route("/api/v1/memory/profile/start", post(start))
        .route("/api/v1/memory/profile/stop", post(stop))
}

/// Over how many seconds a difference may be.
const SECONDS: RangeInclusive<usize> = 1..=60;

/// How long a profile may take, besides the time that it is of. With that it has to be shorter than
/// the last answer of a connection may take.
pub(crate) const PROFILE_TIMEOUT: Duration = Duration::from_secs(30);

/// What kind of groups they are, and who names them.
pub(crate) type Groups = (&'static str, Arc<dyn Fn() -> Named + Send + Sync>);

type Named = Vec<(GroupId, Name)>;

/// Whether there are profiles, and by which names besides those of the edge.
#[derive(Clone, Default)]
pub(crate) struct Profiling {
    pub(crate) is_on: bool,
    pub(crate) groups: Vec<Groups>,
}

#[derive(Debug, Serialize)]
struct SamplingView {
    sampling: bool,
    mean_bytes: u64,
    records_in_use: u64,
    max_records: u64,
    /// Blocks that found no record, since the process began.
    dropped: u64,
}

async fn heap(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    has_profiling(&shared)?;
    let window = window(&uri)?;
    is_sampled(window)?;
    let one_at_a_time = shared.profiles.clone().try_acquire_owned();
    let place = one_at_a_time.map_err(|_| Problem::busy("another heap profile is being taken"))?;
    let profiling = shared.parts.profiling.clone();
    let edge = shared.parts.edge.clone();
    let names = Arc::new(move || names(&profiling, edge.as_ref()));

    let (before, place) = match window {
        None => (None, place),
        Some(window) => {
            let names = names.clone();
            let before = blocking(place, move || take(&names())).await?;
            sleep(window).await;
            (Some(before.0), before.1)
        }
    };
    let write = move || {
        let now = take(&names());
        match &before {
            None => now.to_pprof(),
            Some(before) => now.since(before).to_pprof(),
        }
    };
    let (written, _place) = blocking(place, write).await?;
    let bytes = written.map_err(too_large)?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"heap.pb.gz\"",
        ),
    ];
    Ok((headers, bytes).into_response())
}

async fn show(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Json<SamplingView>, Problem> {
    has_profiling(&shared)?;
    no_parameters(&uri)?;
    Ok(Json(SamplingView::now()))
}

async fn start(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Json<SamplingView>, Problem> {
    has_profiling(&shared)?;
    let sampling = sampling(&uri)?;
    // One that is told not to count samples all the same.
    if mode() != Mode::Off && !is_installed() {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "nothing can be sampled: the program has another allocator than `TrackingAllocator`",
        ));
    }
    switch(move || profile::start(sampling)).await
}

async fn stop(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Json<SamplingView>, Problem> {
    has_profiling(&shared)?;
    no_parameters(&uri)?;
    switch(profile::stop).await
}

/// The first start finds out by which functions blocks are allocated.
async fn switch(switch: impl FnOnce() + Send + 'static) -> Result<Json<SamplingView>, Problem> {
    let switched = spawn_blocking(switch).await;
    switched.map_err(|_| panicked())?;
    Ok(Json(SamplingView::now()))
}

fn has_profiling(shared: &Shared) -> Result<(), Problem> {
    match shared.parts.profiling.is_on {
        true => Ok(()),
        false => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "profiling is off: turn it on by the setting `control.profiling`, or by \
             `ControlConfig::profiling`",
        )),
    }
}

/// Refuses what would be an empty profile, and be taken for one of a program that holds nothing.
fn is_sampled(window: Option<Duration>) -> Result<(), Problem> {
    // What was sampled before it was stopped can be shown, and grows no more.
    let left = window.is_none() && profile::stats().in_use > 0;
    match profile::is_sampling() || left {
        true => Ok(()),
        false => Err(Problem::new(
            StatusCode::CONFLICT,
            "nothing is sampled: POST /api/v1/memory/profile/start first",
        )),
    }
}

fn window(uri: &Uri) -> Result<Option<Duration>, Problem> {
    let given = only_parameter(uri, "seconds")?;
    let window = given.map(|value| {
        let seconds = whole_number(value).filter(|seconds| SECONDS.contains(seconds));
        let (least, most) = (SECONDS.start(), SECONDS.end());
        let remedy = || format!("use a whole number from {least} to {most}");
        let seconds = seconds.ok_or_else(|| wrong("seconds", value, &remedy()))?;
        Ok(Duration::from_secs(seconds as u64))
    });
    window.transpose()
}

fn sampling(uri: &Uri) -> Result<Sampling, Problem> {
    let Some(value) = only_parameter(uri, "mean_bytes")? else {
        return Ok(Sampling::new());
    };
    let bytes = whole_number(value);
    let bytes = bytes.ok_or_else(|| wrong("mean_bytes", value, "use a whole number"))?;
    let sampling = Sampling::new().mean_bytes(bytes as u64);
    sampling.map_err(|error| wrong("mean_bytes", value, &error.to_string()))
}

/// By which kind and name labels tell of a group.
fn names(
    profiling: &Profiling,
    edge: Option<&EdgeLayer>,
) -> HashMap<GroupId, (&'static str, Name)> {
    let edge = edge.map(|edge| ("route", edge.memory_groups()));
    let others = profiling
        .groups
        .iter()
        .map(|(kind, named)| (*kind, named()));
    let named = edge.into_iter().chain(others);
    let named = named.flat_map(|(kind, named)| {
        named
            .into_iter()
            .map(move |(group, name)| (group, (kind, name)))
    });
    named.collect()
}

fn take(names: &HashMap<GroupId, (&'static str, Name)>) -> HeapProfile {
    HeapProfile::take(|group| names.get(&group).copied())
}

/// Does `work`, which has the only place meanwhile, whether or not anybody still waits for it.
async fn blocking<T: Send + 'static>(
    place: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<(T, OwnedSemaphorePermit), Problem> {
    let work = spawn_blocking(move || (work(), place));
    match timeout(PROFILE_TIMEOUT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) => Err(panicked()),
        Err(_) => Err(Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("the heap profile takes longer than {PROFILE_TIMEOUT:?}, and goes on"),
        )),
    }
}

fn panicked() -> Problem {
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "whoever profiles the heap, or names its groups, panicked: see the log of the service",
    )
}

// By value, as errors are mapped.
#[allow(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn too_large(error: ProfileTooLarge) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

impl SamplingView {
    fn now() -> Self {
        let stats = profile::stats();
        Self {
            sampling: profile::is_sampling(),
            mean_bytes: stats.mean_bytes,
            records_in_use: stats.in_use,
            max_records: stats.capacity,
            dropped: stats.dropped,
        }
    }
}
