//! The HTTP API.

use crate::{
    adapters::Known,
    body::JsonBody,
    flaky::{Flaky, Mode},
    heavy, leak,
    problem::Problem,
    question::{Found, Question},
    reply::Reply,
    status::{Cleaned, Status},
    text::clip,
};
use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
    routing::{get, post},
};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use plimsoll::{Answers, Name};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};

/// Longest question, in characters.
pub const MAX_QUESTION_CHARS: usize = 4_000;

/// Characters of a client's own text that a refusal repeats.
const MAX_QUOTED: usize = 80;

/// What the handlers share.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The adapters to ask.
    pub known: Known,
    /// Those of them whose faults can be set.
    pub flaky: Flaky,
    /// How long the adapters may take together.
    pub deadline: Duration,
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
        .route("/adapters", get(status))
        .route("/adapters/cleanup", post(clean_up_all))
        .route("/adapters/{name}/cleanup", post(clean_up))
        .route("/demo/faults", post(set_faults))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(gateway)
        .merge(leak::routes())
        .merge(heavy::routes())
}

async fn front_page(State(gateway): State<Gateway>, headers: HeaderMap) -> String {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.unwrap_or("127.0.0.1:8080");
    let names = names(&gateway.known);
    let by_default = join(&gateway.known.names_by_default());
    format!(
        r#"adapter-gateway answers questions through several adapters at once.

Ask the adapters that are asked by default ({by_default}), or those you name ({names}):

  curl http://{host}/ask -H 'content-type: application/json' -d '{{"question": "How does the service stop?"}}'
  curl http://{host}/ask -H 'content-type: application/json' -d '{{"question": "What is a holding?", "adapters": ["qa-sql", "demo-flaky"]}}'

Set how demo-flaky behaves (ok, slow, fail, hang, flaky):

  curl http://{host}/demo/faults -H 'content-type: application/json' -d '{{"mode": "flaky"}}'

An adapter that fails too often is not asked for a while: its circuit breaker refuses, and says when
to come again. See how they are, and drop what is too old of what they remember:

  curl http://{host}/adapters
  curl -X POST http://{host}/adapters/cleanup

See which route holds how much memory, after you had one keep some:

  curl http://{host}/demo/leak -H 'content-type: application/json' -d '{{"kib": 256}}'
  curl ADMIN/api/v1/memory/requests
  curl -X DELETE http://{host}/demo/leak

A request that holds more than the budget of its route is ended, and nothing else is:

  curl http://{host}/demo/heavy -H 'content-type: application/json' -d '{{"mib": 8}}'
  curl http://{host}/demo/heavy -H 'content-type: application/json' -d '{{"mib": 64}}'

Which functions allocated what is held, for which route:

  curl -X POST ADMIN/api/v1/memory/profile/start
  curl -o heap.pb.gz ADMIN/debug/pprof/heap
  go tool pprof -top -tagroot=route heap.pb.gz

Which adapters there are, and their limits, is in adapters.yaml and config.yaml, in the folder that
--config names. Change them while the gateway runs: it reads them again by itself. On the admin
address, GET /api/v1/config shows every setting with where it comes from, and what is wrong with the
files, if they cannot be used; POST /api/v1/config/reload reads them at once, and tells what changed.
"#
    )
}

async fn ask(
    State(gateway): State<Gateway>,
    JsonBody(ask): JsonBody<Ask>,
) -> Result<Json<Reply>, Problem> {
    let Gateway {
        known, deadline, ..
    } = &gateway;
    let question = ask.question.trim();
    check_question(question)?;
    let question = Question::from(question);
    let answers = match &ask.adapters {
        None => known.ask(None, question, *deadline).await,
        Some(names) => {
            check_names(names, known)?;
            // Who is named twice is asked once.
            let names: BTreeSet<_> = names.iter().map(String::as_str).collect();
            let names: Vec<_> = names.into_iter().collect();
            known.ask(Some(&names), question, *deadline).await
        }
    };
    reply(answers)
}

/// Some answers are better than none, so only a question that nobody was asked is refused.
fn reply(answers: Answers<Vec<Found>>) -> Result<Json<Reply>, Problem> {
    let refused = answers.refused();
    let reply = Reply::from(answers);
    let Some(rejected) = refused else {
        return Ok(Json(reply));
    };
    let errors: Vec<_> = reply.failures.values().map(|said| &*said.error).collect();
    Err(Problem::refused(rejected, errors.join("; ")))
}

async fn status(State(gateway): State<Gateway>) -> Json<Status> {
    Json(Status::of(&gateway.known))
}

async fn clean_up_all(State(gateway): State<Gateway>) -> Json<Cleaned> {
    Json(Cleaned::new(gateway.known.all().cleanup_all()))
}

async fn clean_up(
    State(gateway): State<Gateway>,
    uri: Uri,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Cleaned>, Problem> {
    // Where it is not UTF-8, what was sent is quoted as it was.
    let name = name.map_or_else(|_| uri.path().to_owned(), |Path(name)| name);
    let Some(adapter) = gateway.known.all().get(&name) else {
        let name = clip(&name, MAX_QUOTED);
        let known = names(&gateway.known);
        let detail = format!("adapter `{name}` is unknown: choose from {known}");
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    };
    let removed = adapter.cleanup();
    Ok(Json(Cleaned::new(vec![(adapter.name(), removed)])))
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

fn check_names(names: &[String], known: &Known) -> Result<(), Problem> {
    let unknown = names.iter().find(|name| known.all().get(name).is_none());
    let found = match unknown {
        Some(name) => format!("has the unknown name `{}`", clip(name, MAX_QUOTED)),
        None if names.is_empty() => "is an empty list".to_owned(),
        None => return Ok(()),
    };
    let known = self::names(known);
    let detail = format!("adapters {found}: choose from {known}, or leave the key out");
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
}

/// The names of all adapters, for people to read.
fn names(known: &Known) -> String {
    join(&known.all().names())
}

fn join(names: &[Name]) -> String {
    let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
    names.join(", ")
}
