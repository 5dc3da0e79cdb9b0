use crate::{Budget, HeavyLog, MemoryStats, Weigher, Weighing};
use pin_project_lite::pin_project;
use plimsoll_core::{BoxError, Name, Rejected};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tower_layer::Layer;
use tower_service::Service;

/// Weighs the calls of a service, and ends those that hold more than their budget.
///
/// See the [crate docs](crate). Clones share what they weigh.
#[derive(Clone, Debug)]
pub struct MemoryLayer {
    weigher: Arc<Weigher>,
}

/// A service whose calls are weighed.
///
/// See the [crate docs](crate).
#[derive(Clone, Debug)]
pub struct MemoryService<S> {
    inner: S,
    weigher: Arc<Weigher>,
}

impl MemoryLayer {
    /// Weighs calls by this name, the source of refusals. There is no budget, and none is logged as
    /// heavy: for a log, make a [weigher](Self::with_weigher) with one, and have that swept.
    #[must_use]
    pub fn new(name: impl Into<Name>) -> Self {
        Self::with_weigher(Weigher::new(name.into(), HeavyLog::none(), None))
    }

    /// Weighs calls by a weigher that was made before.
    #[must_use]
    pub fn with_weigher(weigher: impl Into<Arc<Weigher>>) -> Self {
        Self {
            weigher: weigher.into(),
        }
    }

    /// Sets the most bytes that a call may hold, from now on.
    #[must_use]
    pub fn budget(self, budget: impl Into<Option<Budget>>) -> Self {
        self.weigher.set_budget(budget.into());
        self
    }

    /// What was weighed, and by whom.
    #[must_use]
    pub fn weigher(&self) -> &Weigher {
        &self.weigher
    }

    /// What was weighed.
    #[must_use]
    pub fn stats(&self) -> MemoryStats {
        self.weigher.stats()
    }
}

impl<S> Layer<S> for MemoryLayer {
    type Service = MemoryService<S>;

    fn layer(&self, inner: S) -> MemoryService<S> {
        MemoryService {
            inner,
            weigher: self.weigher.clone(),
        }
    }
}

impl<S, Req> Service<Req> for MemoryService<S>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = MemoryFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let weighing = self.weigher.begin(None);
        MemoryFuture::call(&self.weigher, weighing, &mut self.inner, request)
    }
}

pin_project! {
    /// The response future of [`MemoryService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct MemoryFuture<F> {
        #[pin]
        inner: Option<F>,
        weighing: Option<Weighing>,
        // Who counts it at its end, where nobody weighs it.
        unweighed: Option<Arc<Weigher>>,
        name: Name,
    }

    impl<F> PinnedDrop for MemoryFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.weighing.as_ref().map(Weighing::enter);
            this.inner.set(None);
            if let Some(weigher) = this.unweighed.take() {
                weigher.unknown();
            }
        }
    }
}

impl<F> MemoryFuture<F> {
    /// Calls a service for a request that has begun.
    pub(crate) fn call<S, Req>(
        weigher: &Arc<Weigher>,
        weighing: Option<Weighing>,
        inner: &mut S,
        request: Req,
    ) -> Self
    where
        S: Service<Req, Future = F>,
    {
        let unweighed = weighing.is_none().then(|| weigher.clone());
        let entered = weighing.as_ref().map(Weighing::enter);
        let inner = inner.call(request);
        drop(entered);
        Self {
            inner: Some(inner),
            weighing,
            unweighed,
            name: weigher.name(),
        }
    }
}

impl<F, T, E> Future for MemoryFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let inner = this.inner.as_mut().as_pin_mut();
        let inner = inner.expect("polled after completion");
        let entered = this.weighing.as_ref().map(Weighing::enter);
        let polled = inner.poll(cx);
        if polled.is_ready() {
            // What is left is what it answered.
            this.inner.set(None);
        }
        let weighing = this.weighing.as_ref();
        // Whoever has failed has ended.
        let goes_on = !matches!(polled, Poll::Ready(Err(_)));
        if let Some(weighing) = weighing.filter(|_| goes_on)
            && let Some(reason) = weighing.ended_by()
        {
            weighing.refused();
            // What came of it goes where it came from.
            drop(polled);
            this.inner.set(None);
            drop(entered);
            *this.weighing = None;
            return Poll::Ready(Err(Rejected::new(reason, *this.name).into()));
        }
        drop(entered);
        if let (Some(weighing), Poll::Pending) = (this.weighing.as_mut(), &polled) {
            weighing.waits(cx.waker());
        }
        if polled.is_ready() {
            *this.weighing = None;
            if let Some(weigher) = this.unweighed.take() {
                weigher.unknown();
            }
        }
        polled.map_err(Into::into)
    }
}
