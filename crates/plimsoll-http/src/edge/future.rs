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
        // What weighs the request, and the visit, move on into the body.
        inner: Scoped<F, Weighing>,
        visit: Option<Visit>,
    }
}

impl<F> EdgeFuture<F> {
    pub(super) fn new(inner: Scoped<F, Weighing>, mut visit: Visit) -> Self {
        visit.left();
        Self {
            inner,
            visit: Some(visit),
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
                // The inner future, which has ended, is dropped outside of the scope. What it frees
                // is the request's all the same.
                let body = Scoped::new(body, this.inner.take_scope());
                let body = EdgeBody::new(body, this.visit.take());
                Poll::Ready(Ok(Response::from_parts(head, body)))
            }
            Poll::Ready(Err(error)) => {
                *this.visit = None;
                Poll::Ready(Err(error))
            }
        }
    }
}
