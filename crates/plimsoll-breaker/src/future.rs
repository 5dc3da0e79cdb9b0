//! The future of a guarded call.

use crate::{CircuitOpen, Classify, Outcome, Permit};
use pin_project_lite::pin_project;
use plimsoll_core::BoxError;
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
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
        Admitted { #[pin] call: F, permit: Permit },
        Refused { open: CircuitOpen },
        Done,
    }
}

impl<F, C> ResponseFuture<F, C> {
    #[inline(always)]
    pub(crate) const fn admitted(call: F, permit: Permit, classify: C) -> Self {
        Self {
            state: State::Admitted {
                call,
                permit: permit.guarded(),
            },
            classify,
        }
    }

    pub(crate) const fn refused(open: CircuitOpen, classify: C) -> Self {
        Self {
            state: State::Refused { open },
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

    /// # Panics
    ///
    /// If polled again after it was done.
    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        match this.state.as_mut().project() {
            StateProj::Admitted { call, permit } => {
                let mut polling = Polling {
                    permit,
                    returned: false,
                };
                let Poll::Ready(result) = call.poll(cx) else {
                    polling.returned = true;
                    return Poll::Pending;
                };
                let result = result.map_err(Into::into);
                let judge = |elapsed| this.classify.classify(result.as_ref(), elapsed);
                polling.permit.settle(judge);
                polling.returned = true;
                drop(polling);
                // The permit is given back with the answer, however long the future is kept.
                this.state.set(State::Done);
                Poll::Ready(result)
            }
            StateProj::Refused { open } => {
                let open = *open;
                this.state.set(State::Done);
                Poll::Ready(Err(open.into()))
            }
            StateProj::Done => panic!("polled after it was done"),
        }
    }
}

/// Judges a call that panics while it is polled, or judged, a failure, there and then: whoever catches the
/// panic may drop the future long after, when nothing tells of it any more.
struct Polling<'a> {
    permit: &'a mut Permit,
    returned: bool,
}

impl Drop for Polling<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.returned {
            self.permit.settle(|_| Outcome::Failure);
        }
    }
}

impl<F, C> fmt::Debug for ResponseFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Admitted { .. } => "admitted",
            State::Refused { .. } => "refused",
            State::Done => "done",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
