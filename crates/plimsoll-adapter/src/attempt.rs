//! One attempt: the service is readied, called, polled, and given up when it is time.

use crate::panic::{Panicked, catch};
use pin_project_lite::pin_project;
use plimsoll_alloc::{Entered, untracked};
use plimsoll_breaker::{Outcome, Permit};
use plimsoll_core::BoxError;
use plimsoll_memory::Weighing;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    thread,
    time::Duration,
};
use tokio::{
    task::unconstrained,
    time::{Sleep, sleep},
};
use tower_service::Service;

/// How an attempt ended, as far as the service goes.
pub(crate) enum Ended<T> {
    Answered(Result<T, BoxError>),
    TimedOut,
    OverBudget,
    Panicked(Panicked),
}

pin_project! {
    /// A service that is asked once, and whose panics stay here: those of its clone, of its
    /// readiness, of the call, of the future, and of the drop of either. So does what it allocates
    /// in all of them, where somebody weighs it.
    #[project = AttemptProj]
    pub(crate) struct Attempt<'a, S, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        step: Step<'a, S, Req, S::Future>,
        #[pin]
        timer: Option<Sleep>,
        timeout: Duration,
        guard: Guard,
        // The last to be dropped: what it weighs is gone by then.
        weighing: Option<Weighing>,
    }

    impl<S, Req> PinnedDrop for Attempt<'_, S, Req>
    where
        S: Service<Req>,
    {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let StepProj::Done = this.step.as_mut().project() {
                return;
            }
            let _entered = enter(this.weighing);
            // Nobody is left to be told. Whoever drops it may have other calls to drop.
            let _ = catch(|| this.step.set(Step::Done));
        }
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<'a, S, Req, F> {
        Start { service: &'a S, request: Option<Req> },
        Readying { service: S, request: Option<Req> },
        Called { #[pin] future: F },
        Done,
    }
}

impl<'a, S, Req> Attempt<'a, S, Req>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
{
    pub(crate) const fn new(
        service: &'a S,
        request: Req,
        permit: Permit,
        timeout: Duration,
    ) -> Self {
        Self {
            step: Step::Start {
                service,
                request: Some(request),
            },
            timer: None,
            timeout,
            guard: Guard {
                permit: Some(permit),
                blamed_after: timeout,
            },
            weighing: None,
        }
    }

    /// Has it weighed, before it is polled. Not made with it: nobody is to move what is not there.
    pub(crate) fn weigh(self: Pin<&mut Self>, weighing: Weighing) {
        *self.project().weighing = Some(weighing);
    }

    /// Judges the attempt, which has ended.
    pub(crate) fn record(self: Pin<&mut Self>, judge: impl FnOnce(Duration) -> Outcome) {
        if let Some(permit) = self.project().guard.permit.take() {
            permit.record_with(judge);
        }
    }

    /// How long ago it began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.guard.elapsed()
    }
}

impl<S, Req> Future for Attempt<'_, S, Req>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
{
    type Output = Ended<S::Response>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let mut entered = enter(this.weighing);
        let ended = match catch(|| poll_step(this.step.as_mut(), cx)) {
            Ok(Poll::Ready(result)) => Ended::Answered(result),
            Ok(Poll::Pending) if is_over_budget(this.weighing) => Ended::OverBudget,
            Ok(Poll::Pending) => {
                drop(entered);
                // Most answers that are there at once need no timer. It counts from when the
                // attempt began, which may be a while ago if that poll was a long one.
                if this.timer.is_none() {
                    let left = this.timeout.saturating_sub(this.guard.elapsed());
                    this.timer.set(Some(sleep(left)));
                }
                let Some(timer) = this.timer.as_mut().as_pin_mut() else {
                    return Poll::Pending;
                };
                // A service that always uses up the task's budget must not keep its timer from
                // being looked at.
                ready!(Pin::new(&mut unconstrained(timer)).poll(cx));
                entered = enter(this.weighing);
                Ended::TimedOut
            }
            Err(panicked) => Ended::Panicked(panicked),
        };
        // What the service has goes before the slot is free for another. Should that panic, the
        // call has panicked.
        let dropped = catch(|| this.step.set(Step::Done));
        let ended = match (dropped, ended) {
            (Err(panicked), _) => Ended::Panicked(panicked),
            // What is left is what it answered. Whoever has failed has ended, and the breaker is to
            // see it.
            (Ok(()), Ended::Answered(Ok(answer))) if is_over_budget(this.weighing) => {
                match catch(|| drop(answer)) {
                    Ok(()) => Ended::OverBudget,
                    Err(panicked) => Ended::Panicked(panicked),
                }
            }
            (Ok(()), ended) => ended,
        };
        drop(entered);
        if let (Ended::OverBudget, Some(weighing)) = (&ended, this.weighing) {
            weighing.refused();
        }
        Poll::Ready(ended)
    }
}

/// Has the thread allocate for the attempt, if that is weighed.
#[inline]
fn enter(weighing: &Option<Weighing>) -> Option<Entered<'_>> {
    weighing.as_ref().map(Weighing::enter)
}

/// Whether it is to be ended for what it holds.
#[inline]
fn is_over_budget(weighing: &Option<Weighing>) -> bool {
    let weighing = weighing.as_ref();
    weighing.is_some_and(|weighing| weighing.over_budget().is_some())
}

#[inline]
fn poll_step<S, Req>(
    mut step: Pin<&mut Step<'_, S, Req, S::Future>>,
    cx: &mut Context<'_>,
) -> Poll<Result<S::Response, BoxError>>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
{
    loop {
        let next = match step.as_mut().project() {
            StepProj::Start { service, request } => Step::Readying {
                service: service.clone(),
                request: request.take(),
            },
            StepProj::Readying { service, request } => {
                if let Err(error) = ready!(service.poll_ready(cx)) {
                    return Poll::Ready(Err(error.into()));
                }
                let Some(request) = request.take() else {
                    return Poll::Pending;
                };
                Step::Called {
                    future: service.call(request),
                }
            }
            StepProj::Called { future } => return future.poll(cx).map_err(Into::into),
            // It has ended and told so; nobody polls it again.
            StepProj::Done => return Poll::Pending,
        };
        step.set(next);
    }
}

/// Holds the permit of the attempt, which is dropped with it.
///
/// A permit that is dropped while its thread panics is that of a call that panicked; but panics of
/// the service do not come this far. It is the caller who panics, and takes the call along.
struct Guard {
    permit: Option<Permit>,
    /// Where the breaker blames the service for calls that are dropped.
    blamed_after: Duration,
}

impl Guard {
    fn elapsed(&self) -> Duration {
        self.permit.as_ref().map_or(Duration::ZERO, Permit::elapsed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else {
            return;
        };
        // The history stays longer than the request that made it grow.
        untracked(|| {
            if thread::panicking() {
                permit.record_with(|elapsed| match elapsed < self.blamed_after / 2 {
                    true => Outcome::Ignore,
                    false => Outcome::Failure,
                });
            } else {
                drop(permit);
            }
        });
    }
}
