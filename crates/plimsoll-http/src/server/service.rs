//! The service as hyper calls it: each request counted from its head to the end of its response.

use super::connection::{Conn, InFlight};
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::service::{TowerToHyperService, TowerToHyperServiceFuture};
use pin_project_lite::pin_project;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tower_service::Service;

/// Cancelled when what is left of the server's work is to be dropped.
pub(super) type Cut = tokio_util::sync::CancellationToken;

/// Spawns the streams of HTTP/2 connections, and drops them on the cut: they are tasks of their
/// own, which a connection that ends only wakes.
#[derive(Clone, Debug)]
pub(super) struct CutExecutor(pub(super) Cut);

impl<F> hyper::rt::Executor<F> for CutExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let cut = self.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                _ = stream => {}
            }
        });
    }
}

/// The service of one connection.
pub(super) struct ConnService<S> {
    inner: TowerToHyperService<S>,
    conn: Arc<Conn>,
}

impl<S> ConnService<S> {
    pub(super) fn new(inner: S, conn: Arc<Conn>) -> Self {
        Self {
            inner: TowerToHyperService::new(inner),
            conn,
        }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for ConnService<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<ConnBody<B>>;
    type Error = S::Error;
    type Future = ConnFuture<S>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let version = request.version();
        ConnFuture {
            in_flight: Some(InFlight::begin(&self.conn, version)),
            http1: version < Version::HTTP_2,
            inner: self.inner.call(request),
        }
    }
}

pin_project! {
    pub(super) struct ConnFuture<S>
    where
        S: Service<Request<Incoming>>,
    {
        #[pin]
        inner: TowerToHyperServiceFuture<S, Request<Incoming>>,
        in_flight: Option<InFlight>,
        http1: bool,
    }
}

impl<S, B> Future for ConnFuture<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Output = Result<Response<ConnBody<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        let in_flight = this.in_flight.take();
        let leaving = in_flight.as_ref().is_some_and(InFlight::is_leaving);
        // An upgrade names itself in this header, and what the service has put there stays: it
        // may tell a proxy what not to pass on.
        if *this.http1 && leaving && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().append(header::CONNECTION, close);
        }
        Poll::Ready(Ok(response.map(|inner| ConnBody { inner, in_flight })))
    }
}

pin_project! {
    pub(super) struct ConnBody<B> {
        #[pin]
        inner: B,
        in_flight: Option<InFlight>,
    }
}

impl<B: Body> Body for ConnBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
