//! The routes of *admin* that show and operate circuit breakers.

pub(crate) mod page;
mod view;

use self::{
    page::Page,
    view::{BreakerView, BreakersView, CleanedView, OperatedView, ShownView},
};
use crate::{problem::Problem, shared::Shared};
use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, Uri},
    routing::{get, post},
};
use plimsoll_breaker::{Breakers, CircuitBreaker, IllegalTransition};
use plimsoll_core::Removed;
use std::sync::Arc;

/// What cleans all breakers up where it stands in the place of a name. A breaker of that name is
/// shown there all the same, and operated below, for the methods and paths differ.
const CLEANUP: &str = "cleanup";

pub(crate) fn routes() -> Router<Arc<Shared>> {
    let namesake = async |state: State<Arc<Shared>>, uri| {
        let name = Path(CLEANUP.to_owned());
        show(state, Ok(name), uri).await
    };
    Router::new()
        .route("/api/v1/breakers", get(list))
        .route("/api/v1/breakers/cleanup", get(namesake).post(cleanup_all))
        .route("/api/v1/breakers/{name}", get(show))
        .route("/api/v1/breakers/{name}/{action}", post(operate))
}

/// What an operator can have done to a breaker.
#[derive(Clone, Copy, Debug)]
enum Action {
    Cleanup,
    Close,
    Disable,
    ForceOpen,
    HalfOpen,
    MetricsOnly,
    Open,
    Reset,
}

async fn list(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Json<BreakersView>, Problem> {
    page::no_parameters(&uri)?;
    let breakers = look(&shared, |breakers| BreakersView::new(&breakers.list())).await?;
    Ok(Json(breakers))
}

async fn show(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<ShownView>, Problem> {
    let Path(name) = name?;
    let page = Page::parse(&uri)?;
    let shown = look(&shared, move |breakers| {
        let breaker = find(breakers, &name)?;
        Ok(ShownView::new(&breaker, &page))
    });
    shown.await?.map(Json)
}

async fn operate(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
) -> Result<Json<OperatedView>, Problem> {
    let Path((name, action)) = path?;
    page::no_parameters(&uri)?;
    let action = Action::parse(&action)?;
    let operated = command(&shared, move |breakers| {
        let breaker = find(breakers, &name)?;
        let removed = action.apply(&breaker).map_err(illegal)?;
        let breaker = BreakerView::new(&breaker.snapshot());
        Ok(OperatedView::new(breaker, removed))
    });
    operated.await?.map(Json)
}

async fn cleanup_all(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Json<CleanedView>, Problem> {
    page::no_parameters(&uri)?;
    let cleaned = command(&shared, Breakers::cleanup).await?;
    Ok(Json(CleanedView::new(cleaned)))
}

async fn look<T: Send + 'static>(
    shared: &Shared,
    look: impl FnOnce(&Breakers) -> T + Send + 'static,
) -> Result<T, Problem> {
    let seen = shared.look_at_breakers(look).await;
    seen.ok_or_else(|| Problem::busy("a circuit breaker does not answer"))
}

async fn command<T: Send + 'static>(
    shared: &Shared,
    command: impl FnOnce(&Breakers) -> T + Send + 'static,
) -> Result<T, Problem> {
    let done = shared.command_breakers(command).await;
    done.ok_or_else(|| {
        Problem::busy(
            "a circuit breaker does not answer: look at its state for whether this was done",
        )
    })
}

fn find(breakers: &Breakers, name: &str) -> Result<CircuitBreaker, Problem> {
    breakers.get(name).ok_or_else(|| {
        let detail =
            format!("no circuit breaker is named {name:?}: GET /api/v1/breakers lists them");
        Problem::new(StatusCode::NOT_FOUND, detail)
    })
}

fn illegal(error: IllegalTransition) -> Problem {
    // The only states that cannot go everywhere.
    let remedy = match error.from() {
        plimsoll_breaker::State::Closed => "open it first",
        _ => "disable it first",
    };
    Problem::new(StatusCode::CONFLICT, format!("{error}: {remedy}"))
}

impl Action {
    const ALL: [Self; 8] = [
        Self::Cleanup,
        Self::Close,
        Self::Disable,
        Self::ForceOpen,
        Self::HalfOpen,
        Self::MetricsOnly,
        Self::Open,
        Self::Reset,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Cleanup => CLEANUP,
            Self::Close => "close",
            Self::Disable => "disable",
            Self::ForceOpen => "force-open",
            Self::HalfOpen => "half-open",
            Self::MetricsOnly => "metrics-only",
            Self::Open => "open",
            Self::Reset => "reset",
        }
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        let found = Self::ALL.into_iter().find(|action| action.as_str() == text);
        found.ok_or_else(|| {
            let detail = format!(
                "{text:?} cannot be done to a circuit breaker: use one of {}",
                Self::ALL.map(Self::as_str).join(", ")
            );
            Problem::new(StatusCode::NOT_FOUND, detail)
        })
    }

    /// Does it, and says what was removed where something may be.
    fn apply(self, breaker: &CircuitBreaker) -> Result<Option<Removed>, IllegalTransition> {
        match self {
            Self::Cleanup => return Ok(Some(breaker.cleanup())),
            Self::Close => breaker.close(),
            Self::Disable => breaker.disable(),
            Self::ForceOpen => breaker.force_open(),
            Self::HalfOpen => breaker.half_open()?,
            Self::MetricsOnly => breaker.metrics_only(),
            Self::Open => breaker.open()?,
            Self::Reset => breaker.reset(),
        }
        Ok(None)
    }
}
