//! Future types.

use super::{EdgeBody, endpoint::Visit, memory::Rules};
use crate::reject::refusal;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use plimsoll_alloc::Scoped;
use plimsoll_memory::Weighing;
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
        inner: Option<Scoped<F, Weighing>>,
        visit: Option<Visit>,
        rules: Rules,
    }
}

impl<F> EdgeFuture<F> {
    pub(super) fn new(inner: Scoped<F, Weighing>, mut visit: Visit, rules: Rules) -> Self {
        visit.left();
        Self {
            inner: Some(inner),
            visit: Some(visit),
            rules,
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
        let inner = this.inner.as_mut().as_pin_mut();
        let mut inner = inner.expect("polled after completion");
        let polled = inner.as_mut().poll(cx);
        let weighing = inner.as_ref().get_ref().scope();
        // Whoever has failed has ended.
        let goes_on = weighing.filter(|_| !matches!(polled, Poll::Ready(Err(_))));
        if let Some((weighing, rejected)) = goes_on.and_then(|it| this.rules.refuse(it)) {
            // What came of it is freed where it was allocated.
            let entered = weighing.enter();
            drop(polled);
            drop(entered);
            let response = refusal(&rejected);
            weighing.set_status(response.status().as_u16());
            weighing.refused();
            this.inner.set(None);
            return Poll::Ready(Ok(EdgeBody::refusal(response, this.visit.take())));
        }
        match polled {
            Poll::Pending => {
                if let Some(visit) = this.visit {
                    visit.left();
                }
                Poll::Pending
            }
            Poll::Ready(Ok(mut response)) => {
                if let Some(visit) = this.visit {
                    visit.responded(&response);
                }
                this.rules.tell(weighing, response.headers_mut());
                let (head, body) = response.into_parts();
                if let Some(weighing) = weighing {
                    weighing.set_status(head.status.as_u16());
                }
                // The inner future, which has ended, is dropped outside of the scope. What it frees
                // is the request's all the same.
                let body = Scoped::new(body, inner.take_scope());
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
