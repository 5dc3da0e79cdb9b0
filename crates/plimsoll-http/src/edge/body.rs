use super::endpoint::Visit;
use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use plimsoll_alloc::Scoped;
use plimsoll_core::{BoxError, RejectReason, Rejected};
use plimsoll_memory::Weighing;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

pin_project! {
    /// The response body of [`Edge`](crate::Edge): the inner one, followed to its end, or a document
    /// that tells why there is none.
    ///
    /// It fails with a [`Rejected`] when the request holds more than its budget meanwhile.
    #[derive(Debug)]
    pub struct EdgeBody<B> {
        #[pin]
        inner: Option<Scoped<B, Weighing>>,
        document: Option<Bytes>,
        visit: Option<Visit>,
    }
}

impl<B> EdgeBody<B> {
    pub(super) const fn new(inner: Scoped<B, Weighing>, visit: Option<Visit>) -> Self {
        Self {
            inner: Some(inner),
            document: None,
            visit,
        }
    }

    /// The response to a request that was ended.
    pub(super) fn refusal(response: Response<Bytes>, mut visit: Option<Visit>) -> Response<Self> {
        if let Some(visit) = &mut visit {
            visit.refused(response.status(), response.body().len());
        }
        response.map(|document| Self {
            inner: None,
            document: Some(document),
            visit,
        })
    }
}

impl<B> Body for EdgeBody<B>
where
    B: Body<Data: From<Bytes>, Error: Into<BoxError>>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, BoxError>>> {
        let mut this = self.project();
        let (frame, is_last) = match this.inner.as_mut().as_pin_mut() {
            Some(mut scoped) => {
                let (entered, mut inner) = scoped.as_mut().enter();
                let polled = inner.as_mut().poll_frame(cx);
                let is_last = inner.is_end_stream();
                // What is counted from here on is not the request's.
                drop(entered);
                let weighing = scoped.as_ref().get_ref().scope();
                if let Some(weighing) = weighing.filter(|it| it.over_budget().is_some()) {
                    weighing.cut();
                    let rejected = Rejected::new(RejectReason::OverBudget, weighing.name());
                    this.inner.set(None);
                    // The body is open still, and so is counted as cut.
                    *this.visit = None;
                    return Poll::Ready(Some(Err(rejected.into())));
                }
                (ready!(polled), is_last)
            }
            None => {
                let document = this.document.take();
                (document.map(|data| Ok(Frame::data(data.into()))), true)
            }
        };
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
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => inner.inner().is_end_stream(),
            None => self.document.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.inner().size_hint(),
            None => SizeHint::with_exact(self.document.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}
