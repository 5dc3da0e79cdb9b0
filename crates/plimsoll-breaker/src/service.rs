use crate::{
    CircuitBreaker, Classify, ErrorsAreFailures, OnOpen, Permit, future::ResponseFuture,
    machine::NEVER, stripe::Refused, waiters::Waiter,
};
use plimsoll_core::BoxError;
use std::{
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::Sleep;
use tower_service::Service;

/// The shortest time to wait before looking at the breaker again.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// A service behind a circuit breaker. See the [crate docs](crate).
pub struct CircuitBreakerService<S, C = ErrorsAreFailures> {
    inner: S,
    /// Whether the inner service may have reserved something for a call.
    reserved: bool,
    readiness: Readiness,
    breaker: CircuitBreaker,
    classify: C,
    on_open: OnOpen,
    waiting: Option<Box<Waiting>>,
}

/// What `poll_ready` found, for one call.
#[derive(Clone, Copy, Debug)]
enum Readiness {
    /// It was not asked, or did not say that a call can be made.
    Unready,
    /// The inner service is ready.
    Ready,
    /// The breaker refuses the call. The inner service was not asked, so it must not be called,
    /// even if the circuit closes before the call.
    Refused(Refused),
}

/// A service that is not ready because of its breaker.
#[derive(Debug)]
struct Waiting {
    waiter: Waiter,
    /// Until time alone may let calls pass.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S, C> CircuitBreakerService<S, C> {
    pub(crate) const fn new(
        inner: S,
        breaker: CircuitBreaker,
        classify: C,
        on_open: OnOpen,
    ) -> Self {
        Self {
            inner,
            reserved: false,
            readiness: Readiness::Unready,
            breaker,
            classify,
            on_open,
            waiting: None,
        }
    }

    /// The breaker.
    #[must_use]
    pub const fn breaker(&self) -> &CircuitBreaker {
        &self.breaker
    }

    /// Waits until the breaker lets calls pass, or may.
    fn poll_breaker(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = self.breaker.shared();
        loop {
            let waiting = self.waiting.get_or_insert_with(|| {
                Box::new(Waiting {
                    waiter: shared.waiters().join(),
                    timer: None,
                })
            });
            waiting.waiter.listen(cx.waker());
            let now = shared.ticks();
            let Some(refused) = shared.stripe().refusal(now) else {
                self.waiting = None;
                return Poll::Ready(());
            };
            // Until told: only a change of the breaker can let calls pass.
            let until = refused.refusal.until;
            if until == NEVER {
                waiting.timer = None;
                return Poll::Pending;
            }
            let wait = Duration::from_nanos(until - now).max(SHORTEST_WAIT);
            let timer = waiting.timer.insert(Box::pin(tokio::time::sleep(wait)));
            ready!(timer.as_mut().poll(cx));
        }
    }
}

impl<S: Clone, C: Clone> Clone for CircuitBreakerService<S, C> {
    /// The clone is not ready, whatever this one is.
    fn clone(&self) -> Self {
        Self::new(
            self.inner.clone(),
            self.breaker.clone(),
            self.classify.clone(),
            self.on_open,
        )
    }
}

impl<S, C, Req> Service<Req> for CircuitBreakerService<S, C>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<S::Response> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, C>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let shared = self.breaker.shared();
        let stripe = shared.stripe();
        if !stripe.passes() {
            match self.on_open {
                // The breaker answers for the inner service, so it must not wait on it.
                OnOpen::Reject => {
                    if let Some(refused) = stripe.refusal(shared.ticks()) {
                        self.readiness = Readiness::Refused(refused);
                        return Poll::Ready(Ok(()));
                    }
                }
                OnOpen::NotReady => {
                    if self.poll_breaker(cx).is_pending() {
                        self.readiness = Readiness::Unready;
                        self.free_reserved();
                        return Poll::Pending;
                    }
                }
            }
        }
        // Polled every time: a service that was ready can disconnect.
        self.readiness = Readiness::Unready;
        self.reserved = true;
        ready!(self.inner.poll_ready(cx)).map_err(Into::into)?;
        self.readiness = Readiness::Ready;
        Poll::Ready(Ok(()))
    }

    /// # Panics
    ///
    /// If `poll_ready` was not ready before.
    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let shared = self.breaker.shared();
        let stripe = shared.stripe();
        // Most calls, on a path of their own: a permit is not moved through a result.
        if let Readiness::Ready = self.readiness
            && let Some(permit) = stripe.pass()
        {
            return self.admit(request, permit);
        }
        match mem::replace(&mut self.readiness, Readiness::Unready) {
            Readiness::Ready => match self.breaker.try_acquire_closely() {
                Ok(permit) => self.admit(request, permit),
                Err(open) => {
                    self.free_reserved();
                    ResponseFuture::refused(open, self.classify.clone())
                }
            },
            Readiness::Refused(refused) => {
                stripe.count_refused(refused);
                let open = shared.error(refused);
                self.free_reserved();
                ResponseFuture::refused(open, self.classify.clone())
            }
            Readiness::Unready => panic!("`poll_ready` must be ready before `call`"),
        }
    }
}

impl<S: Clone, C> CircuitBreakerService<S, C> {
    /// Gives back what the inner service has reserved, or waits in line for, for a call that will
    /// not be made.
    #[inline]
    fn free_reserved(&mut self) {
        if mem::replace(&mut self.reserved, false) {
            let unready = self.inner.clone();
            drop(mem::replace(&mut self.inner, unready));
        }
    }
}

impl<S, C> CircuitBreakerService<S, C> {
    #[inline(always)]
    fn admit<Req>(&mut self, request: Req, permit: Permit) -> ResponseFuture<S::Future, C>
    where
        S: Service<Req>,
        C: Clone,
    {
        self.readiness = Readiness::Unready;
        self.reserved = false;
        // Should this panic, the drop of the permit sees it.
        let call = self.inner.call(request);
        ResponseFuture::admitted(call, permit, self.classify.clone())
    }
}

impl<S: fmt::Debug, C> fmt::Debug for CircuitBreakerService<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerService")
            .field("inner", &self.inner)
            .field("breaker", &self.breaker)
            .field("on_open", &self.on_open)
            .finish_non_exhaustive()
    }
}
