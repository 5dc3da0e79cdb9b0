//! Future types.

use super::{EdgeBody, endpoint::Visit};
use crate::reject::refusal;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use plimsoll_core::Rejected;
use plimsoll_memory::{Budget, Waiting};
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tower_service::Service;

pin_project! {
    /// The response future of [`Edge`](crate::Edge).
    #[must_use = "futures do nothing unless polled"]
    pub struct EdgeFuture<S, A>
    where
        S: Service<Request<A>>,
    {
        #[pin]
        inner: Option<S::Future>,
        // Until the inner one is called.
        late: Option<Late<S, A>>,
        // It moves on into the body.
        visit: Option<Visit>,
    }

    impl<S, A> PinnedDrop for EdgeFuture<S, A>
    where
        S: Service<Request<A>>,
    {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.visit.as_ref().and_then(Visit::enter);
            this.inner.set(None);
        }
    }
}

/// A request that is not let in at once, or not at all.
pub(super) enum Late<S, A> {
    Waits(Box<Held<S, A>>),
    Refused(Rejected),
}

/// A request that waits, and what it needs.
pub(super) struct Held<S, A> {
    pub(super) waiting: Waiting,
    pub(super) inner: S,
    pub(super) request: Request<A>,
    pub(super) budget: Option<Budget>,
}

impl<S: Service<Request<A>>, A> EdgeFuture<S, A> {
    pub(super) const fn new(inner: S::Future, visit: Visit) -> Self {
        Self {
            inner: Some(inner),
            late: None,
            visit: Some(visit),
        }
    }

    pub(super) const fn late(late: Late<S, A>, visit: Visit) -> Self {
        Self {
            inner: None,
            late: Some(late),
            visit: Some(visit),
        }
    }
}

impl<S, A, B> Future for EdgeFuture<S, A>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Body,
{
    type Output = Result<Response<EdgeBody<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(late) = this.late {
            let admitted = match late {
                Late::Waits(held) => ready!(held.waiting.poll_admitted(cx)),
                Late::Refused(rejected) => Err(*rejected),
            };
            let visit = this.visit.as_mut().expect("polled after completion");
            match (admitted, this.late.take()) {
                (Ok(permit), Some(Late::Waits(held))) => {
                    let Held {
                        mut inner,
                        request,
                        budget,
                        ..
                    } = *held;
                    visit.begins(permit, budget);
                    visit.entered();
                    let entered = visit.enter();
                    this.inner.set(Some(inner.call(request)));
                    drop(entered);
                }
                (Ok(_), _) => unreachable!("only who waits is let in"),
                (Err(rejected), _) => {
                    let response = refusal(&rejected);
                    return Poll::Ready(Ok(EdgeBody::refusal(response, this.visit.take())));
                }
            }
        }
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
            && let Some(rejected) = visit.ended_by()
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
                visit.waits(cx.waker());
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

impl<S, A> fmt::Debug for EdgeFuture<S, A>
where
    S: Service<Request<A>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeFuture")
            .field("visit", &self.visit)
            .finish_non_exhaustive()
    }
}
