//! The future of a guarded call.

use crate::{Classify, CircuitOpen, Outcome, Permit};
use pin_project_lite::pin_project;
use plimsoll_core::BoxError;
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

pin_project! {
    /// A call through a breaker, or its refusal.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives its permit back, polled or not; see [`Permit`].
    pub struct ResponseFuture<F, C> {
        #[pin]
        state: State<F>,
        classify: C,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Admitted { #[pin] call: F, permit: Option<Permit> },
        Refused { open: Option<CircuitOpen> },
    }
}

impl<F, C> ResponseFuture<F, C> {
    #[inline]
    pub(crate) const fn admitted(call: F, permit: Permit, classify: C) -> Self {
        Self {
            state: State::Admitted {
                call,
                permit: Some(permit),
            },
            classify,
        }
    }

    pub(crate) const fn refused(open: CircuitOpen, classify: C) -> Self {
        Self {
            state: State::Refused { open: Some(open) },
            classify,
        }
    }
}

impl<F, C, T, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    C: Classify<T>,
{
    type Output = Result<T, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.state.project() {
            StateProj::Admitted { call, permit } => {
                let mut judging = Judging {
                    permit,
                    pending: false,
                };
                let polled = call.poll(cx);
                judging.pending = polled.is_pending();
                let result = ready!(polled).map_err(Into::into);
                if let Some(permit) = judging.permit.take() {
                    permit.record_with(|elapsed| this.classify.classify(result.as_ref(), elapsed));
                }
                Poll::Ready(result)
            }
            StateProj::Refused { open } => {
                let open = open.take().expect("polled after it was done");
                Poll::Ready(Err(open.into()))
            }
        }
    }
}

/// Judges a call that panics while it is polled a failure, there and then: whoever catches the
/// panic may drop the future long after, when nothing tells of it any more.
struct Judging<'a> {
    permit: &'a mut Option<Permit>,
    pending: bool,
}

impl Drop for Judging<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.pending
            && let Some(permit) = self.permit.take()
        {
            permit.record(Outcome::Failure);
        }
    }
}

impl<F, C> fmt::Debug for ResponseFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Admitted { .. } => "admitted",
            State::Refused { .. } => "refused",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
