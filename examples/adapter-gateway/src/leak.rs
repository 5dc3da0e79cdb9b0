//! A route that keeps what it allocates, to see who is told for it.

use crate::{body::JsonBody, problem::Problem};
use axum::{Json, Router, extract::State, routing::post};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use std::{
    hint::black_box,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The most that is kept, so that the demo ends before the machine does.
const MAX_KEPT: usize = 64 << 20;

const MAX_KIB: usize = 1_024;

/// `POST /demo/leak` keeps some memory, `DELETE` lets go of all of it.
pub fn routes() -> Router {
    Router::new()
        .route("/demo/leak", post(keep).delete(forget))
        .with_state(Arc::<Leak>::default())
}

async fn keep(
    State(leak): State<Arc<Leak>>,
    JsonBody(keep): JsonBody<Keep>,
) -> Result<Json<Kept>, Problem> {
    leak.keep(&keep).map(Json)
}

async fn forget(State(leak): State<Arc<Leak>>) -> Json<Kept> {
    Json(leak.forget())
}

/// What was kept.
#[derive(Debug, Default)]
struct Leak {
    kept: Mutex<Vec<Vec<u8>>>,
}

/// The body of `POST /demo/leak`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keep {
    kib: usize,
}

/// The answer of either.
#[derive(Debug, Serialize)]
struct Kept {
    kept_bytes: usize,
}

impl Leak {
    fn keep(&self, Keep { kib }: &Keep) -> Result<Kept, Problem> {
        if !(1..=MAX_KIB).contains(kib) {
            let detail = format!("kib is {kib}: keep 1 to {MAX_KIB} at a time");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
        let mut kept = self.lock();
        if total(&kept) + (kib << 10) > MAX_KEPT {
            let detail = format!(
                "kib is {kib}, and no more than {} MiB are kept: forget them with DELETE",
                MAX_KEPT >> 20
            );
            return Err(Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail));
        }
        kept.push(black_box(vec![1; kib << 10]));
        Ok(Kept::of(&kept))
    }

    fn forget(&self) -> Kept {
        *self.lock() = Vec::new();
        Kept::of(&[])
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn of(kept: &[Vec<u8>]) -> Self {
        Self {
            kept_bytes: total(kept),
        }
    }
}

fn total(kept: &[Vec<u8>]) -> usize {
    kept.iter().map(Vec::len).sum()
}
