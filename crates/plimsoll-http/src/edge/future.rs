//! Future types.

use super::{EdgeBody, endpoint::Visit, memory::Weighing};
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use plimsoll_alloc::Scoped;
use std::{
    pin::Pin,
    task::{Context, Poll},
};

pin_project! {
    /// The response future of [`Edge`](crate::Edge).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct EdgeFuture<F> {
        #[pin]
        inner: Scoped<F>,
        // Both move on into the body.
        visit: Option<Visit>,
        weighing: Option<Weighing>,
    }
}

impl<F> EdgeFuture<F> {
    pub(super) fn new(inner: Scoped<F>, mut visit: Visit, weighing: Option<Weighing>) -> Self {
        visit.left();
        Self {
            inner,
            visit: Some(visit),
            weighing,
        }
    }
}

impl<F, B, E> Future for EdgeFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<EdgeBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(visit) = this.visit {
            visit.entered();
        }
        match this.inner.as_mut().poll(cx) {
            Poll::Pending => {
                if let Some(visit) = this.visit {
                    visit.left();
                }
                Poll::Pending
            }
            Poll::Ready(Ok(response)) => {
                if let Some(visit) = this.visit {
                    visit.responded(&response);
                }
                let (head, body) = response.into_parts();
                let body = Scoped::new(body, this.inner.scope().cloned());
                let body = EdgeBody::new(body, this.visit.take(), this.weighing.take());
                Poll::Ready(Ok(Response::from_parts(head, body)))
            }
            Poll::Ready(Err(error)) => {
                *this.visit = None;
                Poll::Ready(Err(error))
            }
        }
    }
}
