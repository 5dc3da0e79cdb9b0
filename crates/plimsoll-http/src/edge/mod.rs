//! The edge: one service, one future and one body around everything a request does.
//!
//! A request is in flight from `call` until its response body has ended or was dropped, or until
//! its future was dropped before there was a response. That is when it is counted, by endpoint,
//! method and status class:
//!
//! | metric (feature `metrics`) | kind | labels |
//! |---|---|---|
//! | `plimsoll_http_requests_total` | counter | `endpoint`, `method`, `status` |
//! | `plimsoll_http_request_seconds` | histogram, see below | `endpoint`, `method`, `status` |
//! | `plimsoll_http_response_bytes_total` | counter | `endpoint`, `method`, `status` |
//! | `plimsoll_http_in_flight` | gauge | `endpoint` |
//! | `plimsoll_http_responses_cut_total` | counter | `endpoint` |
//!
//! `status` is `1xx` to `5xx`, `error` when the service failed or panicked, `cancelled` when the
//! request was dropped before there was a response. A response is *cut* when its body failed or
//! was dropped before its end.
//!
//! The edge keeps its own counts, since going through a recorder for each request costs more than
//! all else that it does. [`EdgeLayer::publish_metrics`] hands them to the recorder: call it before
//! a scrape, or give it to whoever serves the scrape. The facade cannot be handed a histogram, so
//! its `_bucket`, `_count` and `_sum` are published as series of their own, which a query cannot
//! tell apart. [`EdgeLayer::snapshot`] has the same numbers without any recorder.
//!
//! # Endpoints
//!
//! The label is the route that axum has matched (feature `axum`), else the [`EndpointLabel`] that
//! an outer service put into the request's extensions, else `__unmatched__`; never the path, which
//! clients choose. At most [`EdgeLayer::max_endpoints`] labels are told apart; later ones share
//! `__overflow__`.
//!
//! # Memory
//!
//! Where a [`TrackingAllocator`](plimsoll_alloc::TrackingAllocator) is the program's allocator, each
//! request is weighed: what it allocated, what it held at most, and what of it is still held after
//! it has ended. Elsewhere only the bytes of bodies are known, and each sample says
//! [so](plimsoll_memory::Attribution). The `memory` of a snapshot tells, by endpoint; so do
//!
//! | metric (feature `metrics`) | kind | labels |
//! |---|---|---|
//! | `plimsoll_http_memory_requests_total` | counter | `endpoint`, `attribution` |
//! | `plimsoll_http_memory_live_bytes` | gauge | `endpoint` |
//! | `plimsoll_http_memory_retained_bytes` | gauge | `endpoint` |
//! | `plimsoll_http_memory_allocated_bytes_total` | counter | `endpoint` |
//! | `plimsoll_http_memory_peak_bytes` | histogram, as above | `endpoint` |
//! | `plimsoll_http_memory_over_budget_total` | counter, where there is a budget | `endpoint`, `outcome`: `passed`, `refused`, `cut` |
//!
//! What the handler, its body, and futures that they hold allocate belongs to the request, as long as
//! anybody has it. What the connection allocates for it, its head among that, does not, nor what
//! tasks do that it spawned, unless by [`plimsoll_memory::spawn`].
//!
//! With a [budget](EdgeLayer::memory), a request that holds more when it waits, or hands over its
//! response or a frame of the body, is ended: by a 503, or a 413 where its own body is announced as
//! larger than the budget; by an error of the body, once that has begun. A
//! [`Budget`] in its extensions counts instead of that of its endpoint.
//!
//! # Cost
//!
//! No allocation per request, and some sixty nanoseconds on one thread. Threads count in up to four
//! stripes, so that only the reference count of the service itself, which a router takes for each
//! request, is left for them to meet at. A finished axum router should be given its state, by
//! `with_state(())`, before it is served: without it, axum makes the layered service anew for each
//! request, which takes two allocations more with an edge.
//!
//! An endpoint takes about 1.6 KiB for each stripe in use, and each combination of method and status
//! class it has seen there 150 bytes more.

mod body;
mod cells;
mod endpoint;
pub mod future;
mod memory;
#[cfg(feature = "metrics")]
mod publish;
mod snapshot;

pub use self::{
    body::EdgeBody,
    cells::BOUNDS,
    snapshot::{EndpointSnapshot, RequestCounts},
};
use self::{
    endpoint::{Endpoint, Endpoints, Outside, Visit},
    future::{EdgeFuture, Held, Late},
};
use bytes::Bytes;
use http::{Extensions, Request, Response};
use http_body::Body;
use plimsoll_alloc::{GroupId, untracked};
use plimsoll_core::{BoxError, ConfigError, Name};
use plimsoll_memory::{Admission, Budget, HeavyLog, MemoryConfig};
use std::{
    fmt, mem,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};
use tower_layer::Layer;
use tower_service::Service;

/// The label of requests that no route has matched.
const UNMATCHED: Name = Name::from_static("__unmatched__");

/// Wraps services in an [`Edge`]. Clones share their endpoints and counts.
///
/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct EdgeLayer {
    endpoints: Arc<Endpoints>,
}

/// A service that follows each request of the inner one to the end of its response.
///
/// It keeps the inner error, so it fits `Router::layer`. See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Edge<S> {
    inner: S,
    route: Arc<Route>,
}

/// A request extension that names the endpoint, for services without a router that does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EndpointLabel(pub Name);

/// What the clones of one service share. A router layers each of its routes on its own, so the
/// first endpoint seen here is usually the only one.
struct Route {
    endpoints: Arc<Endpoints>,
    first: OnceLock<Arc<Endpoint>>,
}

// === impl EdgeLayer ===

impl EdgeLayer {
    /// Makes a layer.
    #[must_use]
    pub fn new() -> Self {
        Self::max_endpoints(1_000)
    }

    /// Makes a layer that tells at most `endpoints` labels apart. [`new`](Self::new) takes 1 000.
    #[must_use]
    pub fn max_endpoints(endpoints: usize) -> Self {
        Self {
            endpoints: Arc::new(Endpoints::new(endpoints)),
        }
    }

    /// Sets what requests may hold, and what is told of those that hold much.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range.
    pub fn memory(self, config: &MemoryConfig) -> Result<Self, ConfigError> {
        self.reconfigure_memory(config)?;
        Ok(self)
    }

    /// Changes that for requests that begin from now on, at all clones of this layer.
    ///
    /// # Errors
    ///
    /// As [`memory`](Self::memory). Nothing was changed then.
    pub fn reconfigure_memory(&self, config: &MemoryConfig) -> Result<(), ConfigError> {
        config.validate()?;
        self.endpoints.set_memory(config);
        Ok(())
    }

    /// What requests may hold.
    #[must_use]
    pub fn memory_config(&self) -> MemoryConfig {
        self.endpoints.memory()
    }

    /// The requests that held most.
    #[must_use]
    pub fn heavy(&self) -> &HeavyLog {
        self.endpoints.heavy()
    }

    /// Who lets requests in as far as there is memory for them. Everybody is, until it has a
    /// [line](Admission::set_line).
    #[must_use]
    pub fn admission(&self) -> &Admission {
        self.endpoints.admission()
    }

    /// The group of scopes of every endpoint that has weighed a request, with its name. O(endpoints).
    #[must_use]
    pub fn memory_groups(&self) -> Vec<(GroupId, Name)> {
        self.endpoints.memory_groups()
    }

    /// How many requests are in flight. O(endpoints).
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.endpoints.in_flight()
    }

    /// What was counted, by endpoint, in the order of their names. O(endpoints), and stops no
    /// request.
    #[must_use]
    pub fn snapshot(&self) -> Vec<EndpointSnapshot> {
        self.endpoints.snapshot()
    }

    /// Writes what was counted to the current recorder of the `metrics` facade. Call it before a
    /// scrape.
    ///
    /// Publish one layer to a recorder, and use clones of it everywhere: what is published are
    /// totals, so two layers that see the same endpoints would overwrite each other's.
    #[cfg(feature = "metrics")]
    pub fn publish_metrics(&self) {
        let publishing = self.endpoints.publishing.lock();
        self.snapshot().iter().for_each(publish::publish);
        drop(publishing);
    }

    /// How many requests came for endpoints past the bound.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.endpoints.overflowed()
    }
}

impl Default for EdgeLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge {
            inner,
            route: Arc::new(Route {
                endpoints: self.endpoints.clone(),
                first: OnceLock::new(),
            }),
        }
    }
}

// === impl Edge ===

impl<S, A, B> Service<Request<A>> for Edge<S>
where
    S: Service<Request<A>, Response = Response<B>> + Clone,
    B: Body<Data: From<Bytes>, Error: Into<BoxError>>,
{
    type Response = Response<EdgeBody<B>>;
    type Error = S::Error;
    type Future = EdgeFuture<S, A>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        // Made first: it counts the request even if the inner service panics in `call`.
        let (mut visit, admitted, budget) = self.route.visit(&request);
        match admitted {
            Ok(()) => {}
            Err(Outside::Waits(waiting)) => {
                visit.left();
                // The one that is ready is kept for it.
                let clone = self.inner.clone();
                let held = untracked(|| {
                    Box::new(Held {
                        waiting,
                        inner: mem::replace(&mut self.inner, clone),
                        request,
                        budget,
                    })
                });
                return EdgeFuture::late(Late::Waits(held), visit);
            }
            Err(Outside::Refused(rejected)) => {
                // What the inner one has reserved for this request is given back.
                self.inner = self.inner.clone();
                return EdgeFuture::late(Late::Refused(rejected), visit);
            }
        }
        let entered = visit.enter();
        let inner = self.inner.call(request);
        drop(entered);
        visit.left();
        EdgeFuture::new(inner, visit)
    }
}

// === impl Route ===

impl Route {
    #[inline]
    fn visit<A>(&self, request: &Request<A>) -> (Visit, Result<(), Outside>, Option<Budget>) {
        let label = label(request.extensions());
        let tells = self.endpoints.has_headers();
        let own = request.extensions().get::<Budget>().copied();
        let begin = |endpoint: &Endpoint, budget| {
            let mut visit = Visit::begin(endpoint, request, tells);
            let admitted = visit.admit(endpoint, request, budget);
            (visit, admitted, budget)
        };
        match self.first.get() {
            Some(first) if first.name() == label => begin(first, own),
            first => {
                let endpoint = self.another(label, first.is_none());
                let of_route = self.endpoints.budget_past_bound(&endpoint, label);
                begin(&endpoint, own.or(of_route))
            }
        }
    }

    #[cold]
    fn another(&self, label: &str, is_first: bool) -> Arc<Endpoint> {
        // It stays, so it is not of the request around this one, if there is one.
        let endpoint = untracked(|| self.endpoints.get(label));
        if is_first {
            let _ = self.first.set(endpoint.clone());
        }
        endpoint
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}

fn label(extensions: &Extensions) -> &str {
    #[cfg(feature = "axum")]
    if let Some(path) = extensions.get::<axum::extract::MatchedPath>() {
        return as_name(path.as_str());
    }
    match extensions.get::<EndpointLabel>() {
        Some(EndpointLabel(name)) => as_name(name.as_str()),
        None => UNMATCHED.as_str(),
    }
}

/// As much of `label` as a [`Name`] keeps, so that a long one is found again.
fn as_name(label: &str) -> &str {
    let mut end = label.len().min(Name::MAX_LEN);
    while !label.is_char_boundary(end) {
        end -= 1;
    }
    &label[..end]
}
