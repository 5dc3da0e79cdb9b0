//! What is counted, by endpoint.

use http::{Method, Response, StatusCode, header};
use http_body::Body;
use plimsoll_core::{Clock, Name};
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

/// Methods that are told apart; any other is the last.
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "OTHER",
];
const CLASSES: usize = Class::ALL.len();

/// Every endpoint of one layer.
pub(super) struct Endpoints {
    clock: Clock,
    max: usize,
    by_name: RwLock<HashMap<Name, Arc<Endpoint>>>,
    overflow: OnceLock<Arc<Endpoint>>,
    overflowed: AtomicU64,
}

/// One endpoint and its counts.
pub(super) struct Endpoint {
    name: Name,
    clock: Clock,
    in_flight: AtomicUsize,
    meters: EndpointMeters,
    /// One cell for each method and status class, made when first needed.
    cells: [OnceLock<Box<CellMeters>>; METHODS.len() * CLASSES],
}

/// One request in flight. Dropping it is the end of the request.
pub(super) struct Visit {
    endpoint: Arc<Endpoint>,
    started: u64,
    bytes: u64,
    /// How many bytes the body has, if that is known.
    length: u64,
    method: u8,
    class: Class,
    /// Whether a response body has begun and not ended yet.
    body_open: bool,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Class {
    Informational,
    Success,
    Redirection,
    ClientError,
    ServerError,
    Error,
    Cancelled,
}

// === impl Endpoints ===

impl Endpoints {
    pub(super) fn new(max: usize) -> Self {
        Self {
            clock: Clock::new(),
            max,
            by_name: RwLock::default(),
            overflow: OnceLock::new(),
            overflowed: AtomicU64::new(0),
        }
    }

    pub(super) fn get(&self, label: &str) -> Arc<Endpoint> {
        let known = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = known.get(label) {
            return endpoint.clone();
        }
        let full = known.len() >= self.max;
        drop(known);
        if full {
            return self.past_bound();
        }
        let mut known = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = known.get(label) {
            return endpoint.clone();
        }
        // Past the bound, neither a name is interned nor a series made.
        let name = if known.len() < self.max {
            Name::new(label)
        } else {
            Name::OVERFLOW
        };
        if name == Name::OVERFLOW {
            drop(known);
            return self.past_bound();
        }
        known
            .entry(name)
            .or_insert_with(|| Arc::new(Endpoint::new(name, self.clock.clone())))
            .clone()
    }

    fn past_bound(&self) -> Arc<Endpoint> {
        self.overflowed.fetch_add(1, Relaxed);
        self.overflow
            .get_or_init(|| Arc::new(Endpoint::new(Name::OVERFLOW, self.clock.clone())))
            .clone()
    }

    pub(super) fn in_flight(&self) -> usize {
        let known = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        known
            .values()
            .chain(self.overflow.get())
            .map(|endpoint| endpoint.in_flight.load(Relaxed))
            .sum()
    }

    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Relaxed)
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints")
            .field("max", &self.max)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

// === impl Endpoint ===

impl Endpoint {
    fn new(name: Name, clock: Clock) -> Self {
        Self {
            name,
            clock,
            in_flight: AtomicUsize::new(0),
            meters: EndpointMeters::new(name),
            cells: [const { OnceLock::new() }; METHODS.len() * CLASSES],
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name.as_str()
    }

    fn cell(&self, method: u8, class: Class) -> &CellMeters {
        self.cells[usize::from(method) * CLASSES + class as usize].get_or_init(|| {
            let method = METHODS[usize::from(method)];
            Box::new(CellMeters::new(self.name, method, class.as_str()))
        })
    }
}

// === impl Visit ===

impl Visit {
    pub(super) fn begin(endpoint: Arc<Endpoint>, method: &Method) -> Self {
        endpoint.in_flight.fetch_add(1, Relaxed);
        endpoint.meters.entered();
        Self {
            started: endpoint.clock.ticks(),
            endpoint,
            bytes: 0,
            length: u64::MAX,
            method: method_index(method),
            class: Class::Error,
            body_open: false,
        }
    }

    /// The service works on the request. If it fails or panics, this is how the request ended.
    pub(super) fn entered(&mut self) {
        self.class = Class::Error;
    }

    /// The service is not done yet. If the request is dropped now, this is how it ended.
    pub(super) fn left(&mut self) {
        self.class = Class::Cancelled;
    }

    /// A response has come, and its body begins.
    pub(super) fn responded<B: Body>(&mut self, response: &Response<B>) {
        let status = response.status();
        self.class = Class::of(status);
        // These have no body on the wire, whatever the service returned with them.
        let bodiless = self.method == HEAD
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        self.body_open = !bodiless && !response.body().is_end_stream();
        if self.body_open {
            self.length = length(response).unwrap_or(u64::MAX);
            self.body_open = self.length > 0;
        }
    }

    /// A frame of the body has gone out.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        // A connection that has sent as much as it announced does not ask for more.
        if self.bytes >= self.length {
            self.body_ended();
        }
    }

    /// The body has come to its end.
    pub(super) fn body_ended(&mut self) {
        self.body_open = false;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let endpoint = &*self.endpoint;
        endpoint.in_flight.fetch_sub(1, Relaxed);
        endpoint.meters.left(self.body_open);
        let took = endpoint.clock.ticks().saturating_sub(self.started);
        endpoint
            .cell(self.method, self.class)
            .record(took, self.bytes);
    }
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visit")
            .field("endpoint", &self.endpoint.name)
            .field("class", &self.class)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// How many bytes the body of `response` has, if it or its head says so.
fn length<B: Body>(response: &Response<B>) -> Option<u64> {
    let declared = || {
        let value = response.headers().get(header::CONTENT_LENGTH)?;
        value.to_str().ok()?.parse().ok()
    };
    response.body().size_hint().exact().or_else(declared)
}

const HEAD: u8 = 1;

fn method_index(method: &Method) -> u8 {
    match *method {
        Method::GET => 0,
        Method::HEAD => HEAD,
        Method::POST => 2,
        Method::PUT => 3,
        Method::PATCH => 4,
        Method::DELETE => 5,
        Method::OPTIONS => 6,
        _ => 7,
    }
}

// === impl Class ===

impl Class {
    const ALL: [Self; 7] = [
        Self::Informational,
        Self::Success,
        Self::Redirection,
        Self::ClientError,
        Self::ServerError,
        Self::Error,
        Self::Cancelled,
    ];

    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            100..=199 => Self::Informational,
            200..=299 => Self::Success,
            300..=399 => Self::Redirection,
            400..=499 => Self::ClientError,
            _ => Self::ServerError,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
        }
    }
}

// === The metrics, or nothing without the feature ===

#[cfg(feature = "metrics")]
struct EndpointMeters {
    in_flight: metrics::Gauge,
    cut: metrics::Counter,
}

#[cfg(feature = "metrics")]
struct CellMeters {
    requests: metrics::Counter,
    seconds: metrics::Histogram,
    bytes: metrics::Counter,
}

#[cfg(feature = "metrics")]
impl EndpointMeters {
    fn new(name: Name) -> Self {
        let endpoint = name.as_str();
        Self {
            in_flight: metrics::gauge!("plimsoll_http_in_flight", "endpoint" => endpoint),
            cut: metrics::counter!("plimsoll_http_responses_cut_total", "endpoint" => endpoint),
        }
    }

    fn entered(&self) {
        self.in_flight.increment(1.0);
    }

    fn left(&self, cut: bool) {
        self.in_flight.decrement(1.0);
        if cut {
            self.cut.increment(1);
        }
    }
}

#[cfg(feature = "metrics")]
impl CellMeters {
    fn new(endpoint: Name, method: &'static str, status: &'static str) -> Self {
        let endpoint = endpoint.as_str();
        macro_rules! labelled {
            ($kind:ident, $name:literal) => {
                metrics::$kind!($name, "endpoint" => endpoint, "method" => method, "status" => status)
            };
        }
        Self {
            requests: labelled!(counter, "plimsoll_http_requests_total"),
            seconds: labelled!(histogram, "plimsoll_http_request_seconds"),
            bytes: labelled!(counter, "plimsoll_http_response_bytes_total"),
        }
    }

    fn record(&self, nanos: u64, bytes: u64) {
        self.requests.increment(1);
        self.seconds.record(nanos as f64 * 1e-9);
        self.bytes.increment(bytes);
    }
}

#[cfg(not(feature = "metrics"))]
struct EndpointMeters;

#[cfg(not(feature = "metrics"))]
struct CellMeters;

#[cfg(not(feature = "metrics"))]
impl EndpointMeters {
    fn new(_: Name) -> Self {
        Self
    }
    fn entered(&self) {}
    fn left(&self, _: bool) {}
}

#[cfg(not(feature = "metrics"))]
impl CellMeters {
    fn new(_: Name, _: &'static str, _: &'static str) -> Self {
        Self
    }
    fn record(&self, _: u64, _: u64) {}
}
