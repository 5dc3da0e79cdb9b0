//! JSON request bodies, read up to a limit.

use crate::{problem::Problem, text::clip};
use axum::{
    Json,
    body::{Body, Bytes, HttpBody as _},
    extract::{FromRequest, Request},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::timeout;

/// Largest request body that is read.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of a body over the limit is read and thrown away, and for how long.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Characters of a client's own text that a refusal repeats.
const MAX_QUOTED: usize = 200;

/// Extracts a JSON object, and refuses anything else with a [`Problem`].
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (head, body) = request.into_parts();
        let bytes = timeout(BODY_TIMEOUT, read(body)).await.map_err(|_| {
            let detail = format!("body did not arrive within {BODY_TIMEOUT:?}: send it faster");
            Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        })??;
        require_json(&head.headers)?;
        parse(&bytes).map(Self)
    }
}

async fn read(mut body: Body) -> Result<Bytes, Problem> {
    let declared = body.size_hint().exact();
    match Limited::new(&mut body, MAX_BODY_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            discard(body).await;
            let size = declared.map_or_else(|| "too many".to_owned(), |size| size.to_string());
            let detail = format!(
                "body has {size} bytes: send at most {MAX_BODY_BYTES}, with a shorter question"
            );
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail))
        }
        Err(error) => {
            let detail = format!("body broke off ({error}): send it again");
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}

/// Reads on for a while and keeps nothing: a client that is still writing when
/// the connection closes may never see the answer.
async fn discard(body: Body) {
    let mut rest = Limited::new(body, MAX_DISCARDED_BYTES);
    let read_on = async { while let Some(Ok(_)) = rest.frame().await {} };
    _ = timeout(DISCARD_TIMEOUT, read_on).await;
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let value = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let value = value.map(String::from_utf8_lossy).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = format!(
        "content-type is `{}`: send `application/json`",
        clip(&value, MAX_QUOTED)
    );
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if let Err(error) = str::from_utf8(bytes) {
        let detail = format!(
            "body is not UTF-8 from byte {}: encode the JSON in UTF-8",
            error.valid_up_to()
        );
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let value = Json::<T>::from_bytes(bytes).map_err(|rejection| {
        let reason = rejection.body_text();
        let reason = clip(&reason, MAX_QUOTED);
        let status = rejection.status();
        let remedy = match status {
            StatusCode::UNPROCESSABLE_ENTITY => "see GET / for the keys to send",
            _ => "send one JSON object",
        };
        Problem::new(status, format!("body: {reason}; {remedy}"))
    })?;
    // Serde also takes a list of values for a struct, which no one sends on purpose.
    if bytes.trim_ascii_start().starts_with(b"[") {
        let detail = "body is a JSON list: send one JSON object";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    Ok(value.0)
}
