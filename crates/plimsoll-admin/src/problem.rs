//! Problem documents (RFC 9457), and the headers of every answer.

use axum::{
    extract::{Request, rejection::PathRejection},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;
use std::{borrow::Cow, collections::BTreeMap};

/// A refusal or a failure, as `application/problem+json`.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    header: Option<(HeaderName, HeaderValue)>,
    /// In a box, since most have none.
    member: Option<Box<(&'static str, Value)>>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(flatten)]
    member: BTreeMap<&'static str, Value>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            detail: detail.into(),
            header: None,
            member: None,
        }
    }

    /// A 503 that says to come again in a second.
    pub(crate) fn busy(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
            .with(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// Adds a member to the document.
    pub(crate) fn with_member(mut self, name: &'static str, value: Value) -> Self {
        self.member = Some(Box::new((name, value)));
        self
    }

    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }
}

/// The path is no text.
impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            member: self.member.into_iter().map(|member| *member).collect(),
        };
        let body = serde_json::to_vec(&document).expect("text and a number are JSON");
        let media = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, media, body).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

pub(crate) async fn not_found(request: Request) -> Problem {
    let detail = format!("there is nothing at {}", request.uri().path());
    Problem::new(StatusCode::NOT_FOUND, detail)
}

/// The router adds which methods are allowed.
pub(crate) async fn method_not_allowed(request: Request) -> Problem {
    let detail = format!("{} is not allowed here", request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

/// Answers tell of now, and are what they say they are.
pub(crate) async fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
