//! The HTTP API.

use crate::{
    adapters::{Adapters, Reply},
    body::JsonBody,
    flaky::{Flaky, Mode},
    problem::Problem,
    text::clip,
};
use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Longest question, in characters.
pub const MAX_QUESTION_CHARS: usize = 4_000;

/// Characters of a client's own text that a refusal repeats.
const MAX_QUOTED: usize = 80;

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The adapters to ask.
    pub adapters: Adapters,
    /// The one of them whose faults can be set.
    pub flaky: Arc<Flaky>,
}

/// The body of `POST /ask`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    question: String,
    #[serde(default)]
    adapters: Option<Vec<String>>,
}

/// The body of `POST /demo/faults`, and its answer.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Faults {
    mode: Mode,
}

/// Routes requests to the gateway.
pub fn router(gateway: Gateway) -> Router {
    Router::new()
        .route("/", get(front_page))
        .route("/ask", post(ask))
        .route("/demo/faults", post(set_faults))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(gateway)
}

async fn front_page(State(gateway): State<Gateway>, headers: HeaderMap) -> String {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.unwrap_or("127.0.0.1:8080");
    let names: Vec<_> = gateway.adapters.names().collect();
    format!(
        r#"adapter-gateway answers questions through several adapters at once.

Ask all but demo-flaky, or the adapters you name ({names}):

  curl http://{host}/ask -H 'content-type: application/json' -d '{{"question": "How does the service stop?"}}'
  curl http://{host}/ask -H 'content-type: application/json' -d '{{"question": "What is a holding?", "adapters": ["qa-sql", "demo-flaky"]}}'

Set how demo-flaky behaves (ok, slow, fail, hang, flaky):

  curl http://{host}/demo/faults -H 'content-type: application/json' -d '{{"mode": "flaky"}}'

An adapter that fails too often is not asked for a while: its circuit breaker refuses, and says when
to come again.
"#,
        names = names.join(", "),
    )
}

async fn ask(
    State(gateway): State<Gateway>,
    JsonBody(ask): JsonBody<Ask>,
) -> Result<Json<Reply>, Problem> {
    let question = ask.question.trim();
    check_question(question)?;
    let Some(names) = ask.adapters else {
        let reply = gateway
            .adapters
            .ask(question, |adapter| adapter.by_default());
        return answer(reply.await);
    };
    check_names(&names, &gateway.adapters)?;
    let chosen = |adapter: &str| names.iter().any(|name| name == adapter);
    let reply = gateway.adapters.ask(question, |a| chosen(a.name()));
    answer(reply.await)
}

/// Some answers are better than none, so only a question that nobody was asked is refused.
fn answer(reply: Reply) -> Result<Json<Reply>, Problem> {
    let Some(rejected) = reply.refused() else {
        return Ok(Json(reply));
    };
    let errors: Vec<_> = reply.failures.values().map(ToString::to_string).collect();
    Err(Problem::refused(rejected, errors.join("; ")))
}

async fn set_faults(
    State(gateway): State<Gateway>,
    JsonBody(faults): JsonBody<Faults>,
) -> Json<Faults> {
    gateway.flaky.set(faults.mode);
    Json(faults)
}

async fn not_found(uri: Uri) -> Problem {
    let path = clip(uri.path(), MAX_QUOTED);
    let detail = format!("path `{path}` is unknown: see GET / for those there are");
    Problem::new(StatusCode::NOT_FOUND, detail)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let path = clip(uri.path(), MAX_QUOTED);
    let method = clip(method.as_str(), MAX_QUOTED);
    let detail = format!("method {method} is not for `{path}`: use one that `allow` lists");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

fn check_question(question: &str) -> Result<(), Problem> {
    let length = question.chars().count();
    let detail = if length == 0 {
        format!("question is blank: ask something, in 1 to {MAX_QUESTION_CHARS} characters")
    } else if MAX_QUESTION_CHARS < length {
        format!("question has {length} characters: shorten it to {MAX_QUESTION_CHARS}")
    } else {
        return Ok(());
    };
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
}

fn check_names(names: &[String], adapters: &Adapters) -> Result<(), Problem> {
    let unknown = names
        .iter()
        .find(|name| adapters.names().all(|known| known != **name));
    let found = match unknown {
        Some(name) => format!("has the unknown name `{}`", clip(name, MAX_QUOTED)),
        None if names.is_empty() => "is an empty list".to_owned(),
        None => return Ok(()),
    };
    let known: Vec<_> = adapters.names().collect();
    let detail = format!(
        "adapters {found}: choose from {}, or leave the key out",
        known.join(", ")
    );
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
}
