//! What the edge is compared with: a service that says hello, bare and inside of other layers.

use axum::{Router, extract::Request as AxumRequest, middleware::Next, routing::get};
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;
use plimsoll_core::Clock;
use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::{Pin, pin},
    sync::LazyLock,
    task::{Context, Poll, Waker, ready},
};
use tower::{Layer, Service, ServiceExt};

/// The body of requests, and of the bare service's responses.
pub type HelloBody = Full<Bytes>;

/// Says hello, at once.
#[derive(Clone, Copy, Debug)]
pub struct Hello;

impl Service<Request<HelloBody>> for Hello {
    type Response = Response<HelloBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<HelloBody>) -> Self::Future {
        ready(Ok(Response::new(Full::from("hello"))))
    }
}

/// A router that says hello at `/hello`.
///
/// Once it has its layers, call [`Router::with_state`] as [`axum::serve()`] does for each
/// connection: before that, a router puts the layers around the handler anew for each request.
pub fn router() -> Router {
    Router::new().route("/hello", get(async || "hello"))
}

/// A request for `/hello`.
#[must_use]
pub fn request() -> Request<HelloBody> {
    // Parsing the URI would cost more than what is measured.
    static URI: LazyLock<Uri> = LazyLock::new(|| Uri::from_static("/hello"));
    let mut request = Request::new(Full::default());
    *request.uri_mut() = URI.clone();
    request
}

/// Sends `requests` requests through a service that is never pending, each with a clone of the
/// service as a connection makes one, and reads the responses to their ends as hyper does.
///
/// # Panics
///
/// When the service is pending or fails.
pub fn drive<S, B>(service: &S, requests: u64)
where
    S: Service<Request<HelloBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..requests {
        let response = pin!(service.clone().oneshot(std::hint::black_box(request())));
        let Poll::Ready(Ok(response)) = response.poll(&mut cx) else {
            panic!("the service is pending");
        };
        let mut body = pin!(response.into_body());
        while !body.is_end_stream() {
            let Poll::Ready(frame) = body.as_mut().poll_frame(&mut cx) else {
                panic!("the body is pending");
            };
            if std::hint::black_box(frame).is_none() {
                break;
            }
        }
    }
}

/// Counts and times a request as it is often done: labels made anew for each, looked up by name.
/// Use it with [`axum::middleware::from_fn`].
pub async fn naive_metrics(request: AxumRequest, next: Next) -> axum::response::Response {
    static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::new);
    let method = request.method().to_string();
    let path = request.uri().path().to_owned();
    let start = CLOCK.ticks();
    let response = next.run(request).await;
    let took = CLOCK.ticks().saturating_sub(start);
    let labels = [
        ("method", method),
        ("path", path),
        ("status", response.status().as_u16().to_string()),
    ];
    metrics::counter!("naive_requests_total", &labels).increment(1);
    metrics::histogram!("naive_request_seconds", &labels).record(took as f64 * 1e-9);
    response
}

/// A layer with the shape of the edge: its future passes a value on into its body. It does
/// nothing with it.
#[derive(Clone, Copy, Debug)]
pub struct NoOpLayer;

/// The service of [`NoOpLayer`].
#[derive(Clone, Debug)]
pub struct NoOp<S>(S);

/// As large as what the edge keeps for a request.
type Ticket = [u64; 4];

impl<S> Layer<S> for NoOpLayer {
    type Service = NoOp<S>;

    fn layer(&self, inner: S) -> NoOp<S> {
        NoOp(inner)
    }
}

impl<S, A, B> Service<Request<A>> for NoOp<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<NoOpBody<B>>;
    type Error = S::Error;
    type Future = NoOpFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        NoOpFuture {
            inner: self.0.call(request),
            ticket: Some(Ticket::default()),
        }
    }
}

pin_project! {
    /// The future of [`NoOp`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct NoOpFuture<F> {
        #[pin]
        inner: F,
        ticket: Option<Ticket>,
    }
}

impl<F, B, E> Future for NoOpFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<NoOpBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let ticket = this.ticket.take();
        Poll::Ready(Ok(response.map(|inner| NoOpBody { inner, ticket })))
    }
}

pin_project! {
    /// The response body of [`NoOp`].
    #[derive(Debug)]
    pub struct NoOpBody<B> {
        #[pin]
        inner: B,
        ticket: Option<Ticket>,
    }
}

impl<B: Body> Body for NoOpBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
