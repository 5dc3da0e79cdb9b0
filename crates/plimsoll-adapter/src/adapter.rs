use crate::{
    AdapterBuilder, AdapterConfig, AdapterError, AdapterErrorKind, AdapterSnapshot,
    call::Core,
    config::Means,
    future::{CallFuture, ResponseFuture},
    gate::Gate,
    records::Records,
    retry::Retries,
    snapshot::Counters,
};
use plimsoll_alloc::GroupId;
use plimsoll_breaker::{CircuitBreaker, CircuitBreakerConfig};
use plimsoll_core::{
    Bounded, BoxError, BoxFuture, CloseReport, ConfigError, Holding, Name, Problems, Rejected,
    Removed, Step, Totals, Usage,
};
use plimsoll_memory::{Attribution, HeavyLog, MemoryStats, RetainedByGroup, Weigher, Weighing};
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::Instant;
use tower_service::Service;

/// One downstream with its limits: a line of bounded length, a number of calls in flight, a
/// circuit breaker and a timeout.
///
/// Cloning it gives another handle to the same adapter. It is a [`Holding`], whose entries are the
/// breaker's history, and a Tower [`Service`] that is always ready: calls wait in their future.
///
/// # Memory
///
/// A call is one allocation, which holds the request, the service's future and all there is around
/// it. The line grows with those who wait, and keeps 32 places when nobody does. Requests that wait
/// are bounded by [`max_queued`](AdapterBuilder::max_queued) and
/// [`max_queued_bytes`](AdapterBuilder::max_queued_bytes).
///
/// Where a [`TrackingAllocator`](plimsoll_alloc::TrackingAllocator) is the program's allocator, each
/// attempt has a [scope](plimsoll_alloc::MemoryScope), within that of its caller: what the service
/// allocates counts for the adapter, and for the request that asked. The wait in line does not, and
/// neither do the places in line and the history, which outlive the request. Those who count
/// [take](Weigher) 700 bytes for each stripe of threads then.
pub struct Adapter<Req, Res> {
    core: Arc<dyn Core<Req, Res>>,
}

/// What an adapter has, whatever it calls and with what.
pub(crate) struct Shared {
    pub(crate) name: Name,
    pub(crate) gate: Gate,
    pub(crate) breaker: CircuitBreaker,
    /// The breaker as a holding.
    history: Arc<dyn Bounded>,
    /// In nanoseconds. Nothing is published by it.
    timeout: AtomicU64,
    /// Of attempts.
    pub(crate) weigher: Weigher,
    pub(crate) retries: Retries,
    means: Means,
    /// The locks of the gate and of the retries are taken under this one, and no others.
    settings: Mutex<Settings>,
    pub(crate) counters: Counters,
    /// Calls that got as far as the service, for whoever counts records.
    recorded: AtomicU64,
    /// Never changed but replaced, so that who tells them holds no lock and allocates nothing.
    watchers: RwLock<Arc<[Weak<Records>]>>,
}

/// What an adapter was told to be.
#[derive(Debug)]
struct Settings {
    config: AdapterConfig,
    /// What the circuit breaker made of what it was told last.
    breaker: CircuitBreakerConfig,
    /// Whether the circuit breaker is yet to be told.
    untold: bool,
    /// Whether somebody is telling it, which may bring round its events.
    telling: bool,
}

impl Adapter<(), ()> {
    /// Starts to build an adapter. `name` is what it is called, registered, shown and measured by.
    pub fn builder(name: impl Into<String>) -> AdapterBuilder {
        AdapterBuilder::new(name.into())
    }
}

impl<Req, Res> Adapter<Req, Res> {
    pub(crate) const fn new(core: Arc<dyn Core<Req, Res>>) -> Self {
        Self { core }
    }

    /// Calls it.
    ///
    /// Nothing happens until the future is polled. Then the call waits for a slot, unless one is
    /// free; asks the circuit breaker; and calls a clone of the service, which it gives the
    /// timeout to answer.
    ///
    /// # Errors
    ///
    /// The future says why there is no answer.
    ///
    /// # Panics
    ///
    /// The future, when it has to wait and is polled outside a Tokio runtime with time enabled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the call wherever it is, and gives back what it has taken: its
    /// place in line, its slot, and its permit. The breaker ignores it, unless it had been with
    /// the service for half its timeout.
    pub fn call(&self, request: Req) -> CallFuture<Res> {
        CallFuture::new(self.core.clone().call(request))
    }

    /// The adapter's name.
    #[must_use]
    pub fn name(&self) -> Name {
        self.shared().name
    }

    /// Everything that is known of it now.
    #[must_use]
    pub fn snapshot(&self) -> AdapterSnapshot {
        self.shared().snapshot()
    }

    /// The limits it has now, those included that its [breaker](Self::breaker) was told besides.
    #[must_use]
    pub fn config(&self) -> AdapterConfig {
        self.shared().config()
    }

    /// Takes on other limits, all of them, while it runs.
    ///
    /// - Calls in flight go on, with the timeout and the number of retries they began with, and
    ///   attempts with their memory budget.
    /// - Calls that wait keep their place, and how long they wait. More slots are theirs at once;
    ///   with fewer slots than calls in flight, nobody gets one until enough calls have ended.
    /// - A shorter line refuses newcomers only.
    /// - The circuit breaker keeps its state, and its window and history as far as they fit.
    /// - The retries that calls have saved up stay, unless there are to be none.
    /// - An adapter that was closed stays closed.
    ///
    /// One limit changes after the other, so that a call which begins meanwhile may meet the old
    /// and the new. When another thread, or an observer of the breaker, is doing the same, the
    /// breaker is told by whoever came first, which may be after this returns; the last to come
    /// decides.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range, and each limit that the adapter was not built
    /// for. Nothing was changed then.
    pub fn reconfigure(&self, config: AdapterConfig) -> Result<(), ConfigError> {
        self.shared().reconfigure(config)
    }

    /// Whether `other` is a handle to this very adapter.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.shared(), other.shared())
    }

    /// The circuit breaker, to look at, to operate, and to be shown by its name.
    ///
    /// Register the adapter, not the breaker: both have the same name and the same history.
    #[must_use]
    pub fn breaker(&self) -> &CircuitBreaker {
        &self.shared().breaker
    }

    /// What attempts allocated and held, and what they left behind that somebody still holds.
    ///
    /// Nothing where the allocator does not count. It looks at every scope of the process: for
    /// several adapters, have [`memory_stats_with`](Self::memory_stats_with) take one look.
    #[must_use]
    pub fn memory_stats(&self) -> MemoryStats {
        self.shared().weigher.stats()
    }

    /// The same, with what is retained by a look that was taken before.
    #[must_use]
    pub fn memory_stats_with(&self, retained: &RetainedByGroup) -> MemoryStats {
        self.shared().weigher.stats_with(retained)
    }

    /// Which group the scopes of its attempts are in, so that a profile of what is held can name
    /// it. None before the first, and where the allocator does not count.
    #[must_use]
    pub fn memory_group(&self) -> Option<GroupId> {
        self.shared().memory_group()
    }

    /// Drops records of the history that are too old, now, and says how many.
    #[allow(clippy::must_use_candidate, reason = "most want the effect alone")]
    pub fn cleanup(&self) -> Removed {
        self.breaker().cleanup()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.core.shared()
    }
}

impl<Req, Res> Clone for Adapter<Req, Res> {
    fn clone(&self) -> Self {
        Self::new(self.core.clone())
    }
}

impl<Req, Res> fmt::Debug for Adapter<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter")
            .field("name", &self.name())
            .field("state", &self.breaker().state())
            .finish_non_exhaustive()
    }
}

/// Calls wait in their future, so that one caller who waits does not keep others from being
/// refused.
impl<Req, Res> Service<Req> for Adapter<Req, Res> {
    type Response = Res;
    type Error = BoxError;
    type Future = ResponseFuture<Res>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        ResponseFuture::new(Self::call(self, request))
    }
}

impl<Req, Res> Holding for Adapter<Req, Res> {
    fn bounded(&self) -> Arc<dyn Bounded> {
        self.shared().clone()
    }
}

/// How many records come together before those who watch are told.
const BATCH: u64 = 64;

impl Shared {
    /// The configuration was checked but for what the breaker checks itself.
    pub(crate) fn new(
        name: Name,
        config: AdapterConfig,
        means: Means,
    ) -> Result<Self, ConfigError> {
        let breaker = CircuitBreaker::new(name, config.breaker())?;
        Ok(Self {
            name,
            gate: Gate::new(&config),
            history: breaker.bounded(),
            timeout: AtomicU64::new(nanos(config.timeout)),
            // The log is of the requests that adapters are called for.
            weigher: Weigher::new(name, HeavyLog::none(), config.budget()),
            retries: Retries::new(config.retry, Instant::now()),
            means,
            settings: Mutex::new(Settings {
                config,
                breaker: breaker.config(),
                untold: false,
                telling: false,
            }),
            breaker,
            counters: Counters::default(),
            recorded: AtomicU64::new(0),
            watchers: RwLock::new(Arc::new([])),
        })
    }

    /// How long the service may take for one attempt.
    #[inline]
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_nanos(self.timeout.load(Relaxed))
    }

    pub(crate) fn snapshot(&self) -> AdapterSnapshot {
        let Self {
            name,
            gate,
            breaker,
            counters,
            ..
        } = self;
        let queue = gate.queue();
        AdapterSnapshot {
            name: *name,
            in_flight: gate.in_flight(),
            max_in_flight: gate.max_in_flight(),
            queued: queue.calls,
            max_queued: queue.max_calls,
            queued_bytes: queue.bytes,
            max_queued_bytes: queue.max_bytes,
            queue_timeout: queue.timeout,
            timeout: self.timeout(),
            succeeded: counters.succeeded.get(),
            failed: counters.failed.get(),
            timed_out: counters.timed_out.get(),
            panicked: counters.panicked.get(),
            rejected: counters.rejected(),
            cancelled: counters.cancelled.get(),
            retries: counters.retries.get(),
            breaker: breaker.snapshot(),
        }
    }

    /// Weighs an attempt that begins now, if the allocator counts.
    #[inline]
    pub(crate) fn weighing(&self) -> Option<Weighing> {
        Attribution::of_allocator()?;
        // None is heavy, so that nobody asks when it began.
        let weighing = self.weigher.begin_at(None, 0);
        if weighing.is_none() {
            self.weigher.unknown();
        }
        weighing
    }

    pub(crate) fn memory_group(&self) -> Option<GroupId> {
        self.weigher.group()?.id()
    }

    pub(crate) fn config(&self) -> AdapterConfig {
        // The breaker is not asked under the lock, since it may be about to call out.
        let (mut config, known, busy) = {
            let settings = self.settings();
            let busy = settings.untold || settings.telling;
            (settings.config.clone(), settings.breaker.clone(), busy)
        };
        let now = self.breaker.config();
        if !busy && now != known {
            config.set_breaker(now);
        }
        config
    }

    pub(crate) fn check(&self, config: &AdapterConfig) -> Result<(), ConfigError> {
        let mut problems = Problems::default();
        problems.add_all(config.validate());
        self.means.check(config, &mut problems);
        problems.into_result()
    }

    pub(crate) fn reconfigure(&self, config: AdapterConfig) -> Result<(), ConfigError> {
        self.check(&config)?;
        {
            // Together, so that what is left of two changes is one of them.
            let mut settings = self.settings();
            self.timeout.store(nanos(config.timeout), Relaxed);
            self.weigher.set_budget(config.budget());
            self.retries.configure(config.retry, Instant::now());
            self.gate.configure(&config);
            settings.config = config;
            settings.untold = true;
        }
        self.gate.hand_over();
        self.tell_breaker();
        // Its history may have other caps now, of which the threshold is a share.
        self.tell(Records::check);
        Ok(())
    }

    /// Tells the circuit breaker what it is to be, unless another thread, or a caller of this one,
    /// is at it.
    fn tell_breaker(&self) {
        loop {
            let config = {
                let mut settings = self.settings();
                if settings.telling || !settings.untold {
                    return;
                }
                settings.telling = true;
                settings.untold = false;
                settings.config.breaker()
            };
            let round = Round(self);
            if let Err(error) = self.breaker.reconfigure(config) {
                // Not so: it was checked.
                tracing::error!(adapter = self.name.as_str(), %error, "the circuit breaker stays as it was");
            }
            let told = self.breaker.config();
            self.settings().breaker = told;
            drop(round);
        }
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rejected(&self, rejected: Rejected) -> AdapterError {
        AdapterError::new(self.name, AdapterErrorKind::Rejected(rejected))
    }

    /// A call was recorded in the history.
    #[inline]
    pub(crate) fn recorded(&self) {
        if self.recorded.fetch_add(1, Relaxed) % BATCH == BATCH - 1 {
            self.tell(|records| records.added(BATCH));
        }
    }

    fn tell(&self, tell: impl Fn(&Records)) {
        // Told without the lock: they look at this adapter and at others.
        let watchers = self.watchers.read();
        let watchers = watchers.unwrap_or_else(PoisonError::into_inner).clone();
        watchers
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|records| tell(&records));
    }

    pub(crate) fn watch(&self, records: &Arc<Records>) {
        let watchers = self.watchers.write();
        let mut watchers = watchers.unwrap_or_else(PoisonError::into_inner);
        let more = std::iter::once(Arc::downgrade(records));
        *watchers = watchers.iter().cloned().chain(more).collect();
    }

    pub(crate) fn unwatch(&self, records: &Arc<Records>) {
        let watchers = self.watchers.write();
        let mut watchers = watchers.unwrap_or_else(PoisonError::into_inner);
        let others = watchers.iter();
        let others = others.filter(|known| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(records)));
        *watchers = others.cloned().collect();
    }
}

/// Lets others tell the breaker should this thread panic, in a subscriber of the log say.
struct Round<'a>(&'a Shared);

impl Drop for Round<'_> {
    fn drop(&mut self) {
        self.0.settings().telling = false;
    }
}

/// A day is the most there is.
const fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// The records of the breaker's history are its entries; requests that wait weigh besides. Closing
/// it refuses every call, those that wait included. Calls in flight go on.
impl Bounded for Shared {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn usage(&self) -> Usage {
        let mut usage = self.history.usage();
        usage.bytes = usage.bytes.saturating_add(self.gate.queue().bytes);
        usage
    }

    fn totals(&self) -> Totals {
        self.history.totals()
    }

    fn sweep(&self, now: Instant, budget: usize) -> Step {
        let step = self.history.sweep(now, budget);
        self.tell(Records::check);
        step
    }

    fn shrink(&self, share: f64, budget: usize) -> Step {
        self.history.shrink(share, budget)
    }

    fn close(self: Arc<Self>, deadline: Instant) -> BoxFuture<'static, CloseReport> {
        self.gate.close();
        self.history.clone().close(deadline)
    }
}
