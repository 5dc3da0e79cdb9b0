use super::endpoint::Visit;
use bytes::{Buf, Bytes};
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use plimsoll_core::BoxError;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

pin_project! {
    /// The response body of [`Edge`](crate::Edge): the inner one, followed to its end, or a document
    /// that tells why there is none.
    ///
    /// It fails with a [`Rejected`](plimsoll_core::Rejected) when the request holds more than its budget meanwhile.
    #[derive(Debug)]
    pub struct EdgeBody<B> {
        #[pin]
        inner: Option<B>,
        document: Option<Bytes>,
        visit: Option<Visit>,
    }

    impl<B> PinnedDrop for EdgeBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.visit.as_ref().and_then(Visit::enter);
            this.inner.set(None);
        }
    }
}

impl<B> EdgeBody<B> {
    pub(super) const fn new(inner: B, visit: Option<Visit>) -> Self {
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
            Some(mut inner) => {
                let entered = this.visit.as_ref().and_then(Visit::enter);
                let polled = inner.as_mut().poll_frame(cx);
                let is_last = inner.is_end_stream();
                // What is counted from here on is not the request's.
                drop(entered);
                // What has ended, or failed, is not ended once more.
                let goes_on = matches!(polled, Poll::Pending | Poll::Ready(Some(Ok(_))));
                if let Some(visit) = this.visit
                    && goes_on
                    && let Some(rejected) = visit.ended_by()
                {
                    let entered = visit.enter();
                    drop(polled);
                    this.inner.set(None);
                    drop(entered);
                    visit.cut();
                    return Poll::Ready(Some(Err(rejected.into())));
                }
                if let (Some(visit), Poll::Pending) = (this.visit.as_mut(), &polled) {
                    visit.waits(cx.waker());
                }
                (ready!(polled), is_last)
            }
            None => {
                let document = this.document.take();
                (document.map(|data| Ok(Frame::data(data.into()))), true)
            }
        };
        if let Some(visit) = this.visit {
            match &frame {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        visit.sent(data.remaining());
                    }
                    // The connection does not ask again after the last frame.
                    if visit.is_body_open() && is_last {
                        visit.body_ended();
                    }
                }
                None => {
                    visit.body_ended();
                    visit.count();
                }
                // A failed body stays open, and is counted as cut.
                Some(Err(_)) => visit.count(),
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => inner.is_end_stream(),
            None => self.document.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(self.document.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}
