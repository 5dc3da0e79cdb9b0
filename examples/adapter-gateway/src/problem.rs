//! Refusals, as `application/problem+json` (RFC 9457).

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use plimsoll::Rejected;
use serde_json::json;
use std::fmt;

/// Why a request was refused, and what to send instead.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    rejected: Option<Rejected>,
}

impl Problem {
    /// A problem whose detail names the field, its value, and the remedy.
    pub fn new(status: StatusCode, detail: impl fmt::Display) -> Self {
        Self {
            status,
            detail: detail.to_string(),
            rejected: None,
        }
    }

    /// A problem that is a refusal, with its reason and when to ask again.
    pub fn refused(rejected: Rejected, detail: impl fmt::Display) -> Self {
        let status = StatusCode::from_u16(rejected.reason().status());
        Self {
            rejected: Some(rejected),
            ..Self::new(status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE), detail)
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(rejected) = self.rejected {
            body["reason"] = json!(rejected.reason().as_str());
            body["source"] = json!(rejected.source().as_str());
            body["retry_after_s"] = json!(rejected.retry_after_seconds());
        }
        let mut response = (self.status, Json(body)).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.rejected.and_then(|r| r.retry_after_seconds()) {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
