//! A route that holds ever more memory while it works, to see it ended by its budget.

use crate::{body::JsonBody, problem::Problem};
use axum::{Json, Router, routing::post};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use tokio::task::yield_now;

const MAX_MIB: usize = 256;

/// `POST /demo/heavy` holds as many MiB as it is told to, one after the other.
pub fn routes() -> Router {
    Router::new().route("/demo/heavy", post(work))
}

/// The body of `POST /demo/heavy`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Work {
    mib: usize,
}

#[derive(Debug, Serialize)]
struct Worked {
    held_bytes: usize,
}

async fn work(JsonBody(Work { mib }): JsonBody<Work>) -> Result<Json<Worked>, Problem> {
    if !(1..=MAX_MIB).contains(&mib) {
        let detail = format!("mib is {mib}: hold 1 to {MAX_MIB}");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    let mut held = Vec::new();
    for _ in 0..mib {
        held.push(black_box(vec![1_u8; 1 << 20]));
        // Where it waits is where it can be ended.
        yield_now().await;
    }
    Ok(Json(Worked {
        held_bytes: held.iter().map(Vec::len).sum(),
    }))
}
