//! Admission: requests wait until what they may come to hold fits under the line.
//!
//! Who reads what is used and then lets a request in is wrong as soon as memory comes after that. So
//! each request has something *reserved* before its handler runs: as much as most requests of its
//! route, and of its size, came to hold at most. While it runs, what it holds is known by its scope,
//! and what it may still grow by from how those before it had grown from the same age on. What is
//! used, all that growth, and what the next one may hold, have to fit under the line.
//!
//! - What is used is read from the system, at most every half millisecond, while somebody waits.
//!   Pages that the allocator keeps for the next who asks count, but for a part of those that it was
//!   seen to use again; the [tracking allocator](plimsoll_alloc::TrackingAllocator) tells.
//! - A request that is small, a thousandth of the line, takes no lock: its reservation is one
//!   addition to a counter of its stripe of threads. Those that are larger are counted one by one.
//! - Whoever does not fit waits, in order of priority and arrival, small ones first; at most so many
//!   and so long. Then it is refused, and told when to come again, by how fast memory is given back.
//! - One request of which nothing is known may come out of its turn, and by what it holds the others are
//!   known. It reserves little, and what all such may come to hold at the most has room below the line.
//! - If no large request runs that holds much, the first that waits is let in whatever it may hold,
//!   unless the line is passed already: a route is never closed by what is taken of it.
//! - Past the line requests are shed by [priority](Priority), the more the closer the limit is. So they are
//!   past the most [tasks](AdmissionConfig::max_tasks) and [descriptors](AdmissionConfig::max_descriptors).
//!
//! Without a known line memory refuses nobody. Where nobody counts what requests hold, nothing is
//! reserved, and what is used alone decides.

mod config;
mod drain;
mod growth;
mod lanes;
mod layer;
mod learn;
mod ledger;
mod permit;
#[cfg(feature = "metrics")]
mod publish;
mod route;
mod running;
mod shares;
mod shed;
mod stats;
mod trial;
mod usage;
mod wait;

use self::ledger::Ledger;
pub use self::{
    config::{AdmissionConfig, AdmissionMode},
    layer::{AdmissionFuture, AdmissionLayer, AdmissionService, AskOf},
    permit::Permit,
    route::Admitted,
    stats::{AdmissionStats, RouteAdmission},
    wait::Waiting,
};
pub(crate) use permit::Hold;
pub(crate) use route::Route;
pub(crate) use shed::Scarce;

use crate::{
    MemoryFigures,
    reclaim::{CancelAsk, CancelLargest, Cancelled},
    system::UsageMeter,
};
use plimsoll_alloc::{Mode, is_installed, live_bytes, mode, resident_bytes};
use plimsoll_core::{Clock, ConfigError, Name};
use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// Lets requests in as far as there is memory for them. Clones are handles to the same one.
///
/// See the [module docs](self).
#[derive(Clone)]
pub struct Admission {
    ledger: Arc<Ledger>,
    routes: Arc<Mutex<Vec<Weak<Route>>>>,
}

/// Tells what is used.
pub trait Meter: Send {
    /// Bytes that count against the limit; none where nobody knows. Called every half millisecond at
    /// the most, by whoever asks to be let in: it should take microseconds.
    fn used(&mut self) -> Option<u64>;

    /// Bytes that the allocator gave out; none where nobody counts them.
    fn tracked(&mut self) -> Option<u64> {
        let counts = is_installed() && mode() == Mode::Precise;
        counts.then(live_bytes)
    }
}

/// How soon requests are refused when there is no memory left.
///
/// As an extension of an HTTP request, set by a layer outside of the edge, it counts instead of that
/// of the route; but for one that was let in as a small one and has grown since, which has that of its
/// route.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Priority {
    /// Last.
    High,
    /// As most are.
    #[default]
    Normal,
    /// First.
    Low,
}

/// Whose request it is: that of a tenant, say. Those of one key hold no more than
/// [their share](AdmissionConfig::max_share) of the line, as far as they are large.
///
/// One that was let in as a small one counts for nobody's share, even if it has grown since: whose it is
/// is looked up when it has to ask, which small ones do only while memory is short.
///
/// As an extension of an HTTP request, set by a layer outside of the edge that knows whose it is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct BudgetKey(u64);

/// What is known of a request that asks to be let in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(
    clippy::exhaustive_structs,
    reason = "whoever asks says what is known, and nothing by default"
)]
pub struct Ask {
    /// How many bytes its body has, if that is said.
    pub declared: Option<u64>,
    /// Its priority, instead of that of its route.
    pub priority: Option<Priority>,
    /// Whose it is.
    pub key: Option<BudgetKey>,
}

/// What the process has in memory.
struct Resident;

// === impl Admission ===

impl Admission {
    /// Makes one by its defaults: it observes, and nobody waits until there is a [line](Self::set_line).
    #[must_use]
    pub fn new() -> Self {
        Self {
            ledger: Arc::new(Ledger::new(Clock::new(), Box::new(Resident))),
            routes: Arc::default(),
        }
    }

    /// Makes one.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range.
    pub fn with_config(config: &AdmissionConfig) -> Result<Self, ConfigError> {
        let admission = Self::new();
        admission.reconfigure(config)?;
        Ok(admission)
    }

    /// Changes who is let in from now on, and of those who wait.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range. Nothing was changed then.
    pub fn reconfigure(&self, config: &AdmissionConfig) -> Result<(), ConfigError> {
        config.validate()?;
        self.ledger.configure(config);
        Ok(())
    }

    /// What it goes by.
    #[must_use]
    pub fn config(&self) -> AdmissionConfig {
        self.ledger.config()
    }

    /// Sets the bytes that all of it has to stay under. Without any, everybody is let in.
    pub fn set_line(&self, line: Option<u64>) {
        self.ledger.set_line(line);
    }

    /// Sets how much of the requests that come is refused at once, from 0 to 1: half of it is all of
    /// those of low priority, and all of it leaves those of high priority.
    pub fn set_shed(&self, share: f64) {
        self.shed(share, Scarce::Memory);
    }

    /// Sheds for want of something.
    pub(crate) fn shed(&self, share: f64, of: Scarce) {
        // What is not a number would never be forgotten.
        let share = if share.is_nan() { 0.0 } else { share };
        self.ledger.set_shed(share.clamp(0.0, 1.0), of);
    }

    /// How much is to be shed for the tasks that are alive, or for the descriptors that are open of those
    /// that may be.
    pub(crate) fn crowded(&self, figures: &MemoryFigures) -> (f64, Scarce) {
        let (max_tasks, max_descriptors) = self.ledger.crowd();
        shed::crowded(figures, max_tasks, max_descriptors)
    }

    /// How many were refused for want of something, of those who were shed.
    pub(crate) fn shed_for(&self, scarce: Scarce) -> u64 {
        self.ledger.counts.shed_for(scarce)
    }

    /// How many tasks may be alive before requests are refused.
    pub(crate) fn max_tasks(&self) -> Option<u64> {
        self.ledger.crowd().0
    }

    /// Has what is used read elsewhere. What the process has in memory counts by default.
    pub fn set_meter(&self, meter: impl Meter + 'static) {
        self.ledger.set_meter(Box::new(meter));
    }

    /// Says that the allocator has given back what it had free.
    pub fn purged(&self) {
        self.ledger.purged();
    }

    /// Looks whether those who wait fit now. They do so by themselves every 25 ms, and whenever
    /// somebody ends; call it when memory has become free otherwise.
    pub fn tick(&self) {
        self.ledger.tick();
    }

    /// What became of those who asked.
    #[must_use]
    pub fn stats(&self) -> AdmissionStats {
        let look = self.ledger.look();
        let mut stats = AdmissionStats {
            line: self.ledger.line(),
            used: look.used,
            kept: look.kept,
            reused: look.reused,
            growth: look.growth,
            on_trial: look.on_trial,
            reserved_for_small: look.reserved_for_small,
            running: look.running,
            held: look.held,
            waiting: look.waiting,
            is_short: look.is_short,
            drained_per_second: look.drain,
            shed: Priority::Normal.shed(look.shed),
            ..AdmissionStats::default()
        };
        self.ledger.counts.add_to(&mut stats);
        stats
    }

    /// What is known of each route. O(routes).
    #[must_use]
    pub fn routes(&self) -> Vec<RouteAdmission> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let routes = routes.iter().filter_map(Weak::upgrade);
        let known = routes.map(|route| RouteAdmission {
            name: route.name(),
            expected: route.expected(),
            refused: route.refused(),
        });
        known.collect()
    }

    pub(crate) fn route(&self, name: Name) -> Arc<Route> {
        let route = Arc::new(Route::new(name, self.ledger.clone()));
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|route| route.strong_count() > 0);
        routes.push(Arc::downgrade(&route));
        route
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

// === impl Priority ===

impl Priority {
    const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The part of its requests that is refused when so much is shed.
    fn shed(self, share: f64) -> f64 {
        match self {
            Self::High => 0.0,
            Self::Normal => (2.0 * share - 1.0).max(0.0),
            Self::Low => (2.0 * share).min(1.0),
        }
    }

    /// What it holds is divided by that when it is looked for who holds most; 0 for those who are
    /// never ended.
    const fn weight(self) -> f64 {
        match self {
            Self::High => 0.0,
            Self::Normal => 2.0,
            Self::Low => 1.0,
        }
    }
}

impl BudgetKey {
    /// Makes the key of a tenant, or of whomever. Two of them are taken for one with a chance of one
    /// in 2^64.
    #[must_use]
    pub fn new(of: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        of.hash(&mut hasher);
        // 0 is for all those who are too many.
        Self(hasher.finish().max(1))
    }
}

/// Those of high priority are never ended, and those of low priority before others that hold twice as
/// much. They end when they come to wait next, or hand over a frame.
impl CancelLargest for Admission {
    fn cancel_largest(&self, ask: &CancelAsk) -> Cancelled {
        self.ledger.cancel_largest(ask)
    }
}

impl Meter for UsageMeter {
    fn used(&mut self) -> Option<u64> {
        Self::used(self)
    }
}

impl Meter for Resident {
    fn used(&mut self) -> Option<u64> {
        resident_bytes()
    }
}
