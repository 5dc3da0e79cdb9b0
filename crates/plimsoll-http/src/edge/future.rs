//! Future types.

use super::{EdgeBody, endpoint::Visit};
use crate::reject::refusal;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
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
        inner: Option<F>,
        // It moves on into the body.
        visit: Option<Visit>,
    }

    impl<F> PinnedDrop for EdgeFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.visit.as_ref().and_then(Visit::enter);
            this.inner.set(None);
        }
    }
}

impl<F> EdgeFuture<F> {
    pub(super) const fn new(inner: F, visit: Visit) -> Self {
        Self {
            inner: Some(inner),
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
        let inner = this.inner.as_mut().as_pin_mut();
        let inner = inner.expect("polled after completion");
        let visit = this.visit.as_mut().expect("polled after completion");
        visit.entered();
        let entered = visit.enter();
        let polled = inner.poll(cx);
        if polled.is_ready() {
            // What is left is what it answered.
            this.inner.set(None);
        }
        drop(entered);
        // Whoever has failed has ended.
        if !matches!(polled, Poll::Ready(Err(_)))
            && let Some(rejected) = visit.over_budget()
        {
            // What came of it is freed where it was allocated.
            let entered = visit.enter();
            drop(polled);
            this.inner.set(None);
            drop(entered);
            let response = refusal(&rejected);
            return Poll::Ready(Ok(EdgeBody::refusal(response, this.visit.take())));
        }
        match polled {
            Poll::Pending => {
                visit.left();
                Poll::Pending
            }
            Poll::Ready(Ok(mut response)) => {
                visit.responded(&response);
                visit.tell(response.headers_mut());
                let (head, body) = response.into_parts();
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
