//! Errors of a Tower stack, as HTTP responses.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use plimsoll_core::{BoxError, Rejected};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tower_layer::Layer;
use tower_service::Service;

/// Turns the errors of the inner service into responses, so that none is left.
///
/// A [`Rejected`] anywhere in the chain of an error becomes a problem document (RFC 9457) with
/// the status of its reason and, where known, a `Retry-After`. Any other error becomes a 500 that
/// tells the client nothing of its cause, which is logged instead.
///
/// The response to a [`Rejected`] has it among its extensions, so that layers further out can tell
/// a refusal of our own from an answer of the service.
///
/// As a layer it wraps services in itself:
///
/// ```
/// use plimsoll_core::{BoxError, Name, RejectReason, Rejected};
/// use plimsoll_http::RejectedToResponse;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let service = ServiceBuilder::new().layer(RejectedToResponse::layer()).service(service_fn(
///     |_: http::Request<()>| async {
///         let full = Rejected::new(RejectReason::QueueFull, Name::from_static("qa-sql"));
///         Err::<http::Response<String>, BoxError>(full.into())
///     },
/// ));
/// let response = service.oneshot(http::Request::new(())).await.unwrap();
/// assert_eq!(response.status(), 503);
/// # }
/// ```
#[derive(Debug)]
pub struct RejectedToResponse<S> {
    inner: S,
    /// What `poll_ready` ended with, to be answered by the next `call`.
    failed: Option<BoxError>,
}

/// Wraps services in [`RejectedToResponse`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RejectedToResponseLayer(());

impl RejectedToResponse<()> {
    /// Makes the layer.
    #[must_use]
    pub const fn layer() -> RejectedToResponseLayer {
        RejectedToResponseLayer(())
    }
}

impl<S> Layer<S> for RejectedToResponseLayer {
    type Service = RejectedToResponse<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RejectedToResponse {
            inner,
            failed: None,
        }
    }
}

impl<S: Clone> Clone for RejectedToResponse<S> {
    fn clone(&self) -> Self {
        // A failure belongs to the instance that was polled, never to its clones.
        Self {
            inner: self.inner.clone(),
            failed: None,
        }
    }
}

impl<S, Req, B> Service<Req> for RejectedToResponse<S>
where
    S: Service<Req, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<ProblemBody<B>>;
    type Error = Infallible;
    type Future = ProblemFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.failed = ready!(self.inner.poll_ready(cx)).err().map(Into::into);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        // A service that failed to become ready must not be called.
        ProblemFuture {
            state: match self.failed.take() {
                Some(error) => State::Failed { error: Some(error) },
                None => State::Called {
                    inner: self.inner.call(request),
                },
            },
        }
    }
}

pin_project! {
    /// The response future of [`RejectedToResponse`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ProblemFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = StateProj]
    enum State<F> {
        Called { #[pin] inner: F },
        Failed { error: Option<BoxError> },
    }
}

impl<F, B, E> Future for ProblemFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<ProblemBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let error = match self.project().state.project() {
            StateProj::Called { inner } => match ready!(inner.poll(cx)) {
                Ok(response) => return Poll::Ready(Ok(response.map(ProblemBody::inner))),
                Err(error) => error.into(),
            },
            StateProj::Failed { error } => error.take().expect("polled after completion"),
        };
        Poll::Ready(Ok(problem(&error).map(ProblemBody::problem)))
    }
}

pin_project! {
    /// The response body of [`RejectedToResponse`]: the inner one, or a problem document.
    #[derive(Debug)]
    pub struct ProblemBody<B> {
        #[pin]
        inner: Option<B>,
        document: Option<Bytes>,
    }
}

impl<B> ProblemBody<B> {
    fn inner(inner: B) -> Self {
        Self {
            inner: Some(inner),
            document: None,
        }
    }

    fn problem(document: Bytes) -> Self {
        Self {
            inner: None,
            document: Some(document),
        }
    }
}

impl<B> Body for ProblemBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        match this.inner.as_pin_mut() {
            Some(inner) => inner.poll_frame(cx),
            None => Poll::Ready(
                this.document
                    .take()
                    .map(|data| Ok(Frame::data(data.into()))),
            ),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => inner.is_end_stream(),
            None => self.document.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(self.document.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

fn problem(error: &BoxError) -> Response<Bytes> {
    let Some(rejected) = Rejected::find(&**error) else {
        tracing::error!(error = &**error as &dyn std::error::Error, "request failed");
        let document = serde_json::json!({
            "type": "about:blank",
            "title": "Internal Server Error",
            "status": 500,
        });
        return respond(StatusCode::INTERNAL_SERVER_ERROR, &document);
    };
    refusal(rejected)
}

/// The response that tells of a refusal.
pub(crate) fn refusal(rejected: &Rejected) -> Response<Bytes> {
    let reason = rejected.reason();
    let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let document = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason(),
        "status": status.as_u16(),
        "detail": rejected.to_string(),
        "reason": reason.as_str(),
        "source": rejected.source().as_str(),
        "retry_after_s": rejected.retry_after().map(|wait| wait.as_secs_f64()),
    });
    let mut response = respond(status, &document);
    if let Some(seconds) = rejected.retry_after_seconds() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response.extensions_mut().insert(*rejected);
    response
}

fn respond(status: StatusCode, document: &serde_json::Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(document.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    response
}
