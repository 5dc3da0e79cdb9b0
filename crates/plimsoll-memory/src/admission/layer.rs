use super::{Admission, Admitted, Ask, Waiting};
use crate::{HeavyLog, MemoryFuture, MemoryStats, MustAsk, Weigher};
use pin_project_lite::pin_project;
use plimsoll_core::{BoxError, Name, Rejected};
use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tower_layer::Layer;
use tower_service::Service;

/// Has the calls of a service wait until there is memory for them, and weighs them.
///
/// It is decided in `call`, so that whoever waits keeps nobody else from being ready. See the
/// [module docs](super). Clones share what they learn.
///
/// ```
/// use plimsoll_core::BoxError;
/// use plimsoll_memory::{Admission, AdmissionConfig, AdmissionLayer, AdmissionMode, Ask, Priority};
/// use tower::{Layer as _, ServiceExt as _, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let config = AdmissionConfig::new().mode(AdmissionMode::Enforce);
/// let admission = Admission::with_config(&config).unwrap();
/// admission.set_line(Some(400 << 20));
///
/// let layer = AdmissionLayer::new("reports", &admission).ask(|rows: &u64| Ask {
///     priority: (*rows > 1_000).then_some(Priority::Low),
///     ..Ask::default()
/// });
/// let reports = layer.layer(service_fn(|rows: u64| async move { Ok::<_, BoxError>(rows) }));
/// assert_eq!(reports.oneshot(10).await.unwrap(), 10);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AdmissionLayer<F = ()> {
    weigher: Arc<Weigher>,
    ask: F,
}

/// A service whose calls wait until there is memory for them.
///
/// See [`AdmissionLayer`].
#[derive(Clone, Debug)]
pub struct AdmissionService<S, F = ()> {
    inner: S,
    weigher: Arc<Weigher>,
    ask: F,
}

/// What is known of a request: a closure that tells, or `()` where nothing is.
pub trait AskOf<Req> {
    /// What is known of it.
    fn ask(&self, request: &Req) -> Ask;
}

impl AdmissionLayer {
    /// Lets calls in that go by this name, the source of refusals.
    #[must_use]
    pub fn new(name: impl Into<Name>, admission: &Admission) -> Self {
        let weigher = Weigher::new(name.into(), HeavyLog::none(), None).admitted_by(admission);
        Self {
            weigher: Arc::new(weigher),
            ask: (),
        }
    }
}

impl<F> AdmissionLayer<F> {
    /// Says what is known of each request: how large it is, its priority, and whose it is.
    #[must_use]
    pub fn ask<G>(self, ask: G) -> AdmissionLayer<G> {
        AdmissionLayer {
            weigher: self.weigher,
            ask,
        }
    }

    /// What was weighed.
    #[must_use]
    pub fn stats(&self) -> MemoryStats {
        self.weigher.stats()
    }
}

impl<S, F: Clone> Layer<S> for AdmissionLayer<F> {
    type Service = AdmissionService<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        AdmissionService {
            inner,
            weigher: self.weigher.clone(),
            ask: self.ask.clone(),
        }
    }
}

impl<Req> AskOf<Req> for () {
    fn ask(&self, _: &Req) -> Ask {
        Ask::default()
    }
}

impl<Req, F: Fn(&Req) -> Ask> AskOf<Req> for F {
    fn ask(&self, request: &Req) -> Ask {
        self(request)
    }
}

impl<S, F, Req> Service<Req> for AdmissionService<S, F>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    F: AskOf<Req>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = AdmissionFuture<S, Req>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let ask = self.ask.ask(&request);
        let weigher = &self.weigher;
        let began = weigher.now();
        let weighing = match weigher.begin_at_once(None, began, ask.declared) {
            Ok(weighing) => weighing,
            Err(MustAsk) => match weigher.admit(&ask) {
                Admitted::Now(permit) => weigher.begin_admitted(None, began, permit),
                Admitted::Later(waiting) => {
                    // The one that is ready is kept for it.
                    let clone = self.inner.clone();
                    let held = Held {
                        waiting,
                        inner: mem::replace(&mut self.inner, clone),
                        request,
                        weigher: weigher.clone(),
                    };
                    let state = State::Waits {
                        held: Some(Box::new(held)),
                    };
                    return AdmissionFuture { state };
                }
                Admitted::Refused(rejected) => {
                    // What the inner one has reserved for this call is given back.
                    self.inner = self.inner.clone();
                    let state = State::Refused { rejected };
                    return AdmissionFuture { state };
                }
            },
        };
        let future = MemoryFuture::call(weigher, weighing, &mut self.inner, request);
        let state = State::Runs { future };
        AdmissionFuture { state }
    }
}

pin_project! {
    /// The response future of [`AdmissionService`].
    #[must_use = "futures do nothing unless polled"]
    pub struct AdmissionFuture<S, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, Req>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, Req>
    where
        S: Service<Req>,
    {
        Waits { held: Option<Box<Held<S, Req>>> },
        Runs { #[pin] future: MemoryFuture<S::Future> },
        Refused { rejected: Rejected },
    }
}

/// A call that waits, and what it needs.
struct Held<S, Req> {
    waiting: Waiting,
    inner: S,
    request: Req,
    weigher: Arc<Weigher>,
}

impl<S, Req> Future for AdmissionFuture<S, Req>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let future = match state.as_mut().project() {
                StateProjection::Runs { future } => return future.poll(cx),
                StateProjection::Refused { rejected } => {
                    return Poll::Ready(Err((*rejected).into()));
                }
                StateProjection::Waits { held } => {
                    let waits = held.as_mut().expect("polled after completion");
                    let admitted = ready!(waits.waiting.poll_admitted(cx));
                    let held = held.take().expect("it was there before");
                    let permit = admitted?;
                    let Held {
                        mut inner,
                        request,
                        weigher,
                        ..
                    } = *held;
                    let weighing = weigher.begin_admitted(None, weigher.now(), permit);
                    MemoryFuture::call(&weigher, weighing, &mut inner, request)
                }
            };
            state.set(State::Runs { future });
        }
    }
}

impl<S, Req> std::fmt::Debug for AdmissionFuture<S, Req>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdmissionFuture").finish_non_exhaustive()
    }
}
