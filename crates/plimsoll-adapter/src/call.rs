//! A call, from the line to the answer.

use crate::{
    AdapterError, AdapterErrorKind,
    adapter::Shared,
    attempt::{Attempt, Ended},
    panic::{Panicked, catch},
};
use plimsoll_alloc::untracked;
use plimsoll_breaker::{Classify, Outcome, Permit};
use plimsoll_core::{BoxError, BoxFuture, RejectReason, Rejected};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use tower_service::Service;

/// Tells how many bytes a request is.
///
/// A closure `Fn(&Request) -> u64` is one.
pub trait RequestBytes<Req> {
    /// Whether it is known, so that there can be a limit.
    const ANY: bool = true;

    /// How many bytes `request` holds.
    fn request_bytes(&self, request: &Req) -> u64;
}

/// Says which requests may be made twice.
///
/// A closure `Fn(&Request) -> Option<Request>` is one.
pub trait CloneIfIdempotent<Req> {
    /// Whether any is, so that there is no need to ask.
    const ANY: bool = true;

    /// A copy of `request` to try again with; `None` if making it twice is not the same as making
    /// it once.
    fn clone_if_idempotent(&self, request: &Req) -> Option<Req>;
}

/// Requests are not weighed.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Unweighed;

/// No request is tried again.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct NeverAgain;

impl<Req, F: Fn(&Req) -> u64> RequestBytes<Req> for F {
    fn request_bytes(&self, request: &Req) -> u64 {
        self(request)
    }
}

impl<Req> RequestBytes<Req> for Unweighed {
    const ANY: bool = false;

    fn request_bytes(&self, _: &Req) -> u64 {
        0
    }
}

impl<Req, F: Fn(&Req) -> Option<Req>> CloneIfIdempotent<Req> for F {
    fn clone_if_idempotent(&self, request: &Req) -> Option<Req> {
        self(request)
    }
}

impl<Req> CloneIfIdempotent<Req> for NeverAgain {
    const ANY: bool = false;

    fn clone_if_idempotent(&self, _: &Req) -> Option<Req> {
        None
    }
}

/// An adapter whose service is forgotten.
pub(crate) trait Core<Req, Res>: Send + Sync {
    /// The whole call in one box.
    fn call(self: Arc<Self>, request: Req) -> BoxFuture<'static, Result<Res, AdapterError>>;

    fn shared(&self) -> &Arc<Shared>;
}

/// An adapter with its service, and with what it is told about requests and answers.
pub(crate) struct Inner<S, C, B, R> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) service: S,
    pub(crate) classify: C,
    pub(crate) request_bytes: B,
    pub(crate) again: R,
}

impl<Req, S, C, B, R> Core<Req, S::Response> for Inner<S, C, B, R>
where
    Req: Send + 'static,
    S: Service<Req, Response: Send + 'static, Error: Into<BoxError>, Future: Send + 'static>,
    S: Clone + Send + Sync + 'static,
    C: Classify<S::Response> + Send + Sync + 'static,
    B: RequestBytes<Req> + Send + Sync + 'static,
    R: CloneIfIdempotent<Req> + Send + Sync + 'static,
{
    fn call(
        self: Arc<Self>,
        request: Req,
    ) -> BoxFuture<'static, Result<S::Response, AdapterError>> {
        Box::pin(async move {
            let mut visit = Visit::new(&self.shared);
            let result = self.run(request).await;
            visit.end(&result);
            result
        })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// What came of one attempt.
struct Tried<Res> {
    result: Result<Res, AdapterErrorKind>,
    outcome: Outcome,
}

impl<S, C, B, R> Inner<S, C, B, R> {
    async fn run<Req>(&self, request: Req) -> Result<S::Response, AdapterError>
    where
        S: Service<Req, Error: Into<BoxError>> + Clone,
        C: Classify<S::Response>,
        B: RequestBytes<Req>,
        R: CloneIfIdempotent<Req>,
    {
        // Held until the call is over, waits between attempts included.
        let gate = &self.shared.gate;
        let slot = match gate.try_enter() {
            Ok(Some(slot)) => Ok(slot),
            Ok(None) => {
                let bytes = self.weigh(&request)?;
                gate.enter(bytes).await
            }
            Err(reason) => Err(reason),
        };
        let _slot = slot.map_err(|reason| {
            let rejected = Rejected::new(reason, self.shared.name);
            self.shared.rejected(rejected)
        })?;
        // By what it begins with, whatever is changed meanwhile.
        let timeout = self.shared.timeout();
        let most = match R::ANY {
            true => self.shared.retries.earn(),
            false => 0,
        };
        let mut request = request;
        let mut retries = 0;
        let mut before = None;
        loop {
            let again = if retries < most {
                let copy = catch(|| self.again.clone_if_idempotent(&request));
                copy.map_err(|panicked| self.error(panicked.into()))?
            } else {
                None
            };
            // What the breaker makes stays with it, whoever's call it is.
            let tried = match untracked(|| self.shared.breaker.try_acquire()) {
                Ok(permit) => self.attempt(request, permit, timeout).await,
                Err(open) => match before {
                    // What the service said last tells more than that it is not asked again.
                    Some(last) => return last,
                    None => return Err(self.shared.rejected(open.rejected())),
                },
            };
            let last = tried.result.map_err(|kind| self.error(kind));
            let may = match (tried.outcome, &last) {
                // Whatever panics once is likely to do so again.
                (Outcome::Failure, Err(error)) => {
                    !matches!(error.kind(), AdapterErrorKind::Panicked { .. })
                }
                (Outcome::Failure, Ok(_)) => true,
                _ => false,
            };
            let (Some(again), true) = (again, may) else {
                return last;
            };
            let chance = fastrand::f64();
            let Some(wait) = self.shared.retries.spend(retries, chance, Instant::now()) else {
                return last;
            };
            sleep(wait).await;
            self.shared.counters.retries.add();
            request = again;
            retries += 1;
            before = Some(last);
        }
    }

    /// How many bytes the request takes in line.
    fn weigh<Req>(&self, request: &Req) -> Result<u64, AdapterError>
    where
        B: RequestBytes<Req>,
    {
        let bytes = catch(|| self.request_bytes.request_bytes(request));
        bytes.map_err(|panicked| self.error(panicked.into()))
    }

    async fn attempt<Req>(
        &self,
        request: Req,
        permit: Permit,
        timeout: Duration,
    ) -> Tried<S::Response>
    where
        S: Service<Req, Error: Into<BoxError>> + Clone,
        C: Classify<S::Response>,
    {
        let mut attempt = pin!(Attempt::new(&self.service, request, permit, timeout));
        if let Some(weighing) = self.shared.weighing() {
            attempt.as_mut().weigh(weighing);
        }
        let (result, outcome) = match attempt.as_mut().await {
            Ended::Answered(result) => {
                let elapsed = attempt.elapsed();
                match catch(|| self.classify.classify(result.as_ref(), elapsed)) {
                    Ok(outcome) => (result.map_err(AdapterErrorKind::Failed), outcome),
                    Err(panicked) => (Err(panicked.into()), Outcome::Failure),
                }
            }
            Ended::TimedOut => {
                let error = AdapterErrorKind::TimedOut { after: timeout };
                (Err(error), Outcome::Failure)
            }
            // The budget is ours, and the service may be well.
            Ended::OverBudget => {
                let rejected = Rejected::new(RejectReason::OverBudget, self.shared.name);
                (Err(AdapterErrorKind::Rejected(rejected)), Outcome::Ignore)
            }
            Ended::Panicked(panicked) => (Err(panicked.into()), Outcome::Failure),
        };
        // The history stays longer than the request that made it grow.
        untracked(|| {
            attempt.as_mut().record(|_| outcome);
            self.shared.recorded();
        });
        Tried { result, outcome }
    }

    fn error(&self, kind: AdapterErrorKind) -> AdapterError {
        AdapterError::new(self.shared.name, kind)
    }
}

impl From<Panicked> for AdapterErrorKind {
    fn from(Panicked(message): Panicked) -> Self {
        Self::Panicked { message }
    }
}

/// Counts a call by how it ends; dropped before that, as cancelled.
struct Visit<'a> {
    shared: &'a Shared,
    ended: bool,
}

impl<'a> Visit<'a> {
    const fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            ended: false,
        }
    }

    fn end<Res>(&mut self, result: &Result<Res, AdapterError>) {
        self.ended = true;
        let counters = &self.shared.counters;
        match result.as_ref().map_err(AdapterError::kind) {
            Ok(_) => counters.succeeded.add(),
            Err(AdapterErrorKind::Rejected(rejected)) => counters.reject(rejected.reason()),
            Err(AdapterErrorKind::TimedOut { .. }) => counters.timed_out.add(),
            Err(AdapterErrorKind::Panicked { message }) => {
                counters.panicked.add();
                let adapter = self.shared.name.as_str();
                tracing::error!(
                    adapter,
                    message = &**message,
                    "a call to the adapter panicked"
                );
            }
            Err(_) => counters.failed.add(),
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.counters.cancelled.add();
        }
    }
}
