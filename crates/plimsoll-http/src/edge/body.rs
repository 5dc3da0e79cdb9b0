use super::{endpoint::Visit, memory::Weighing};
use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use plimsoll_alloc::Scoped;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

pin_project! {
    /// The response body of [`Edge`](crate::Edge): the inner one, followed to its end.
    #[derive(Debug)]
    pub struct EdgeBody<B> {
        #[pin]
        inner: Scoped<B, Weighing>,
        visit: Option<Visit>,
    }
}

impl<B> EdgeBody<B> {
    pub(super) fn new(inner: Scoped<B, Weighing>, visit: Option<Visit>) -> Self {
        Self { inner, visit }
    }
}

impl<B: Body> Body for EdgeBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let (entered, mut inner) = this.inner.enter();
        let frame = ready!(inner.as_mut().poll_frame(cx));
        let is_last = inner.is_end_stream();
        // What is counted from here on is not the request's.
        drop(entered);
        match (&frame, this.visit.as_mut()) {
            (Some(Ok(frame)), Some(visit)) => {
                if let Some(data) = frame.data_ref() {
                    visit.sent(data.remaining());
                }
                // The connection does not ask again after the last frame.
                if visit.is_body_open() && is_last {
                    visit.body_ended();
                }
            }
            (None, Some(visit)) => {
                visit.body_ended();
                *this.visit = None;
            }
            // A failed body stays open, and is counted as cut.
            (Some(Err(_)), _) => *this.visit = None,
            (_, None) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.inner().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.inner().size_hint()
    }
}
