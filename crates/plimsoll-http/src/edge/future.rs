//! Future types.

use super::{EdgeBody, endpoint::Visit};
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

pin_project! {
    /// The response future of [`Edge`](crate::Edge).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct EdgeFuture<F> {
        #[pin]
        inner: F,
        // Moves on into the body.
        visit: Option<Visit>,
    }
}

impl<F> EdgeFuture<F> {
    pub(super) fn new(inner: F, visit: Visit) -> Self {
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
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let mut visit = this.visit.take();
        Poll::Ready(match result {
            Ok(response) => {
                if let Some(visit) = &mut visit {
                    visit.responded(response.status(), response.body().is_end_stream());
                }
                Ok(response.map(|body| EdgeBody::new(body, visit)))
            }
            Err(error) => {
                if let Some(visit) = &mut visit {
                    visit.failed();
                }
                Err(error)
            }
        })
    }
}
