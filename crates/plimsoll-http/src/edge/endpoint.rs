//! What is counted, by endpoint.

use super::{EndpointSnapshot, cells::Cells, memory};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body;
use plimsoll_alloc::{Entered, GroupId, untracked};
use plimsoll_core::{Clock, Name, RejectReason, Rejected, stripe};
use plimsoll_memory::{
    Admission, Admitted, Ask, Bodies, Budget, Ended, HeavyLog, MemoryConfig, Permit,
    RetainedByGroup, Waiting, Weigher, Weighing,
};
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

/// Methods that are told apart; any other is the last.
pub(super) static METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "OTHER",
];

/// When to come again for whoever was ended since memory was short.
const SHORT_OF_MEMORY: Duration = Duration::from_secs(1);

/// Threads count in stripes of their own, so that they do not wait for each other's cache lines.
const STRIPES: usize = 4;

/// Every endpoint of one layer.
pub(super) struct Endpoints {
    clock: Clock,
    max: usize,
    by_name: RwLock<HashMap<Name, Arc<Endpoint>>>,
    overflow: OnceLock<Arc<Endpoint>>,
    overflowed: AtomicU64,
    /// Taken before `by_name`, and held while an endpoint is made by what it says.
    memory: RwLock<MemoryConfig>,
    heavy: HeavyLog,
    /// Whether responses tell what was held.
    headers: AtomicBool,
    admission: Admission,
    /// Held while publishing, so that older totals never overwrite newer ones.
    #[cfg(feature = "metrics")]
    pub(super) publishing: std::sync::Mutex<()>,
}

/// One endpoint and its counts.
pub(super) struct Endpoint {
    name: Name,
    clock: Clock,
    /// Made when a thread of theirs first comes.
    stripes: [OnceLock<Arc<Cells>>; STRIPES],
    weigher: Arc<Weigher>,
}

/// One that is not let in at once, or not at all.
pub(super) enum Outside {
    Waits(Waiting),
    Refused(Rejected),
}

/// One request. What it holds is dropped [in its scope](Self::enter) before this, which ends it.
///
/// It is moved along with the request, and so is kept small.
pub(super) struct Visit {
    /// Held by nobody else but the endpoint, so the references to it count what is in flight. None
    /// once it was counted.
    cells: Option<Arc<Cells>>,
    /// Where the allocator counts for it.
    weighing: Option<Weighing>,
    started: u64,
    bytes: u64,
    /// How many bytes the body has, if that is known.
    length: u64,
    /// How many bytes the body of the request has, if that is known and somebody asks.
    declared: u64,
    /// The largest frame of the body.
    largest: u64,
    /// 0 if there was no response.
    status: u16,
    method: u8,
    class: Class,
    /// Whether a response body has begun and not ended yet.
    body_open: bool,
    /// Whether the response tells what was held.
    tells: bool,
    /// Whether it was let in, and the allocator does not count for it.
    is_estimated: bool,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Class {
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
            memory: RwLock::default(),
            heavy: HeavyLog::default(),
            headers: AtomicBool::new(false),
            admission: Admission::new(),
            #[cfg(feature = "metrics")]
            publishing: std::sync::Mutex::default(),
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
        let memory = self.memory.read().unwrap_or_else(PoisonError::into_inner);
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
            drop((known, memory));
            return self.past_bound();
        }
        let endpoint = known
            .entry(name)
            .or_insert_with(|| self.make(name, &memory));
        endpoint.clone()
    }

    fn past_bound(&self) -> Arc<Endpoint> {
        self.overflowed.fetch_add(1, Relaxed);
        let memory = self.memory.read().unwrap_or_else(PoisonError::into_inner);
        let endpoint = self
            .overflow
            .get_or_init(|| self.make(Name::OVERFLOW, &memory));
        endpoint.clone()
    }

    fn make(&self, name: Name, memory: &MemoryConfig) -> Arc<Endpoint> {
        let budget = memory.budget_for(name.as_str());
        let (heavy, clock) = (self.heavy.clone(), self.clock.clone());
        let weigher = Weigher::with_clock(name, heavy, budget, clock.clone());
        Arc::new(Endpoint {
            name,
            stripes: [const { OnceLock::new() }; STRIPES],
            weigher: Arc::new(weigher.admitted_by(&self.admission)),
            clock,
        })
    }

    /// Has all requests from now on go by this.
    pub(super) fn set_memory(&self, config: &MemoryConfig) {
        let mut memory = self.memory.write().unwrap_or_else(PoisonError::into_inner);
        memory.clone_from(config);
        memory.apply_to(&self.heavy);
        // Whoever calls has checked it.
        let _ = self.admission.reconfigure(config.admission_config());
        self.headers.store(memory.has_headers(), Relaxed);
        for endpoint in self.all() {
            let budget = memory.budget_for(endpoint.name());
            endpoint.weigher.set_budget(budget);
        }
    }

    pub(super) fn memory(&self) -> MemoryConfig {
        let memory = self.memory.read();
        memory.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The budget of a route that has no endpoint of its own, since it came past the bound.
    pub(super) fn budget_past_bound(&self, endpoint: &Endpoint, label: &str) -> Option<Budget> {
        if endpoint.name != Name::OVERFLOW {
            return None;
        }
        let memory = self.memory.read().unwrap_or_else(PoisonError::into_inner);
        memory.budget_for(label)
    }

    pub(super) const fn heavy(&self) -> &HeavyLog {
        &self.heavy
    }

    pub(super) const fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Whether responses tell what was held.
    pub(super) fn has_headers(&self) -> bool {
        self.headers.load(Relaxed)
    }

    pub(super) fn memory_groups(&self) -> Vec<(GroupId, Name)> {
        let all = self.all();
        let named = all.iter().filter_map(|endpoint| {
            let group = endpoint.weigher.group()?;
            Some((group.id()?, endpoint.name))
        });
        named.collect()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.all().iter().map(|endpoint| endpoint.in_flight()).sum()
    }

    pub(super) fn snapshot(&self) -> Vec<EndpointSnapshot> {
        let mut all = self.all();
        all.sort_unstable_by_key(|endpoint| endpoint.name);
        let retained = RetainedByGroup::look();
        let snapshots = all.iter().map(|endpoint| endpoint.snapshot(&retained));
        snapshots.collect()
    }

    fn all(&self) -> Vec<Arc<Endpoint>> {
        let known = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        known.values().chain(self.overflow.get()).cloned().collect()
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
    pub(super) fn name(&self) -> &'static str {
        self.name.as_str()
    }

    fn cells(&self) -> &Arc<Cells> {
        let cells = &self.stripes[stripe::current() % STRIPES];
        cells.get_or_init(|| {
            untracked(|| {
                let (clock, weigher) = (self.clock.clone(), self.weigher.clone());
                Arc::new(Cells::new(clock, weigher))
            })
        })
    }

    fn stripes(&self) -> impl Iterator<Item = &Arc<Cells>> {
        self.stripes.iter().filter_map(OnceLock::get)
    }

    fn in_flight(&self) -> usize {
        // One reference is ours.
        self.stripes()
            .map(|cells| Arc::strong_count(cells) - 1)
            .sum()
    }

    fn snapshot(&self, retained: &RetainedByGroup) -> EndpointSnapshot {
        let stats = self.weigher.stats_with(retained);
        let mut snapshot = EndpointSnapshot::new(self.name, self.in_flight(), stats);
        for cells in self.stripes() {
            cells.add_to(&mut snapshot);
        }
        snapshot
    }
}

// === impl Visit ===

impl Visit {
    /// Begins a request that has come and is not let in yet.
    #[inline]
    pub(super) fn begin<A>(endpoint: &Endpoint, request: &Request<A>, tells: bool) -> Self {
        let cells = endpoint.cells().clone();
        let started = cells.ticks();
        Self {
            cells: Some(cells),
            is_estimated: false,
            weighing: None,
            started,
            bytes: 0,
            length: u64::MAX,
            declared: length_in(request.headers()).unwrap_or(0),
            largest: 0,
            status: 0,
            method: method_index(request.method()),
            class: Class::Error,
            body_open: false,
            tells,
        }
    }

    /// Lets it in, unless it has to wait or is refused, and weighs it then if the allocator counts for it.
    /// Its own budget, if it has one, counts instead of that of its endpoint.
    #[inline]
    pub(super) fn admit<A>(
        &mut self,
        endpoint: &Endpoint,
        request: &Request<A>,
        own: Option<Budget>,
    ) -> Result<(), Outside> {
        let declared = Some(self.declared);
        let weigher = &endpoint.weigher;
        let Ok(weighing) = weigher.begin_at_once(own, self.started, declared) else {
            return self.ask(weigher, request, own);
        };
        self.weighed_by(weighing);
        Ok(())
    }

    #[cold]
    fn ask<A>(
        &mut self,
        weigher: &Weigher,
        request: &Request<A>,
        own: Option<Budget>,
    ) -> Result<(), Outside> {
        let ask = Ask {
            declared: Some(self.declared),
            priority: request.extensions().get().copied(),
            key: request.extensions().get().copied(),
        };
        match weigher.admit(&ask) {
            Admitted::Now(permit) => {
                self.weighed_by(weigher.begin_admitted(own, self.started, permit));
                Ok(())
            }
            Admitted::Later(waiting) => Err(Outside::Waits(waiting)),
            Admitted::Refused(rejected) => Err(Outside::Refused(rejected)),
        }
    }

    /// It has waited, and is let in.
    pub(super) fn begins(&mut self, permit: Permit, own: Option<Budget>) {
        if let Some(cells) = &self.cells {
            let weighing = cells.weigher().begin_admitted(own, self.started, permit);
            self.weighed_by(weighing);
        }
    }

    fn weighed_by(&mut self, weighing: Option<Weighing>) {
        self.is_estimated = weighing.is_none();
        self.weighing = weighing;
    }

    /// It waits, and whoever wants it to end wakes it.
    #[inline]
    pub(super) fn waits(&mut self, waker: &Waker) {
        if let Some(weighing) = &mut self.weighing {
            weighing.waits(waker);
        }
    }

    /// Has the thread allocate for the request, if that is weighed, until the guard is dropped.
    #[inline]
    pub(super) fn enter(&self) -> Option<Entered<'_>> {
        self.weighing.as_ref().map(Weighing::enter)
    }

    /// Why it is ended now, if it is.
    #[inline]
    pub(super) fn ended_by(&self) -> Option<Rejected> {
        let weighing = self.weighing.as_ref()?;
        let reason = weighing.ended_by()?;
        let name = weighing.name()?;
        let rejected = match (reason, weighing.budget()) {
            // A body that alone is larger than the budget is what its sender can do something about.
            (RejectReason::OverBudget, Some(budget)) if self.declared > budget.bytes() => {
                Rejected::new(RejectReason::BodyTooLarge, name)
            }
            (RejectReason::OverBudget, _) => Rejected::new(reason, name),
            // It may find more room later.
            _ => Rejected::new(reason, name).with_retry_after(SHORT_OF_MEMORY),
        };
        Some(rejected)
    }

    /// Adds what is known to a response that begins, if it is to tell.
    #[inline]
    pub(super) fn tell(&self, response: &mut HeaderMap) {
        if self.tells {
            untracked(|| memory::tell(self.weighing.as_ref(), response));
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
        self.status = status.as_u16();
        // These have no body on the wire, whatever the service returned with them.
        let bodiless = self.method == HEAD
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if bodiless {
            return;
        }
        if let Some(length) = response.body().size_hint().exact() {
            self.length = length;
            self.body_open = length > 0;
        } else if !response.body().is_end_stream() {
            self.length = length_in(response.headers()).unwrap_or(u64::MAX);
            self.body_open = self.length > 0;
            // Nobody knows when such a body ends.
            if let Some(weighing) = &mut self.weighing {
                weighing.answers();
            }
        }
    }

    /// It was ended, and is answered by a document of so many bytes.
    pub(super) fn refused(&mut self, status: StatusCode, length: usize) {
        self.class = Class::of(status);
        self.status = status.as_u16();
        if let Some(weighing) = &self.weighing {
            weighing.refused();
        }
        self.weighed();
        self.length = length as u64;
        self.body_open = self.method != HEAD && length > 0;
    }

    /// A frame of the body has gone out.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.largest = self.largest.max(bytes as u64);
        // A connection that has sent as much as it announced does not ask for more.
        if self.bytes >= self.length {
            self.body_ended();
        }
    }

    /// It was ended after its response had begun.
    pub(super) fn cut(&mut self) {
        if let Some(weighing) = &self.weighing {
            weighing.cut();
        }
        self.body_open = true;
        self.count();
        self.weighed();
    }

    /// Counts the request, whose response has ended. What it holds may still be there.
    pub(super) fn count(&mut self) {
        let Some(cells) = self.cells.take() else {
            return;
        };
        let took = cells.ticks().saturating_sub(self.started);
        cells.record(self.method, self.class, took, self.bytes);
        if self.body_open {
            cells.record_cut();
        }
        if self.is_estimated {
            // It need not be true, and must not spoil the sum of all.
            let declared = self.declared.min(1 << 40);
            let bodies = Bodies {
                bytes: declared + self.bytes,
                largest: declared.max(self.largest),
                began: self.started,
            };
            cells.estimate(&bodies, self.ended());
        }
    }

    /// Weighs the request, of which nothing is left to drop.
    fn weighed(&mut self) {
        let ended = self.ended();
        if let Some(weighing) = self.weighing.take() {
            weighing.end(ended);
        }
    }

    fn ended(&self) -> Ended {
        Ended {
            method: Some(METHODS[usize::from(self.method)]),
            status: (self.status != 0).then_some(self.status),
        }
    }

    /// Whether the body has begun and not come to its end yet.
    pub(super) fn is_body_open(&self) -> bool {
        self.body_open
    }

    /// The body has come to its end.
    pub(super) fn body_ended(&mut self) {
        self.body_open = false;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.count();
        self.weighed();
    }
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visit")
            .field("class", &self.class)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// How long a body is, as far as its head says so.
fn length_in(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
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
    pub(super) const ALL: [Self; 7] = [
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

    pub(super) const fn as_str(self) -> &'static str {
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
