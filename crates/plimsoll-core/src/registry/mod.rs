//! Who holds memory, and the one sweeper that serves them all.
//!
//! Holdings are registered once, by a unique name. The registry keeps a weak reference, so that
//! dropping the last handle forgets the holding; one that
//! [must flush](crate::Bounded::must_flush) is kept alive until [`Registry::close`].
//!
//! # Sweeping
//!
//! [`Registry::sweeper`] is one task for all holdings. A holding is swept when it is registered,
//! and then whenever it asked for by [`Next`]. A sweep is cut into slices of
//! [`RegistryConfig::sweep_budget`] entries; between slices the task yields, and holdings that
//! are due together take turns. A sweep of a million entries therefore holds no worker for
//! longer than one slice takes. After each millisecond of work the sweeper rests for one, so that
//! threads that wait for a holding's lock get it.
//!
//! A sweep is *overdue* when it is late by more than its interval (and by more than a second).
//! Each case is reported once: by the sweeper when it comes late, or before that by
//! [`Registry::check_overdue`]. A thread of its own should call that one, because a sweeper whose
//! runtime is blocked cannot report itself. Whoever reports it also tells
//! [who asked to be told](Registry::on_overdue).
//!
//! A holding that panics is counted, logged, and swept again after the idle interval. The others
//! do not notice.
//!
//! # When memory is short
//!
//! Whoever has to make room sweeps holdings [out of turn](Registry::blocking_sweep) and
//! [shrinks](Registry::shrink) them, from a thread of its own: that needs no runtime to have time for
//! it.
//!
//! # Locks
//!
//! The registry has one lock, held for look-ups of its own tables only. No method of a holding is
//! ever called under it.

#[cfg(all(test, plimsoll_loom))]
mod loom;
mod metrics;
mod reclaim;
mod settings;
mod sweeper;
mod table;

pub use self::{reclaim::ShrinkReport, table::Overdue};
use self::{
    sweeper::{Pace, Slices},
    table::{Listed, Table},
};
use crate::{CloseReport, Holding, Name, Next, Removed, Totals, Usage, sync::Mutex};
use std::{
    collections::HashMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Every holding of a service, by name. Cloning gives another handle to the same registry.
///
/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Registry {
    inner: Arc<Inner>,
}

/// The settings of a [`Registry`].
#[derive(Clone, Copy, Debug)]
#[must_use = "settings do nothing until a registry is made with them"]
pub struct RegistryConfig {
    idle_interval: Duration,
    sweep_budget: usize,
    max_holdings: usize,
}

/// A holding could not be registered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RegisterError {
    /// The registry was closed.
    Closed,
    /// A living holding has this name.
    Duplicate(Name),
    /// This many holdings are registered, and no more may be.
    Full(usize),
    /// The name is empty, too long, or has control characters.
    InvalidName(Name),
}

/// No living holding has this name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnknownHolding(String);

/// What one sweep of a holding did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SweepReport {
    /// What was dropped.
    pub removed: Removed,
    /// In how many slices.
    pub slices: u64,
    /// From the first slice to the end of the last, other tasks' turns included.
    pub elapsed: Duration,
    /// The longest a slice held its thread.
    pub longest_slice: Duration,
    /// Whether the holding panicked, which ended the sweep.
    pub panicked: bool,
}

/// The sweeps of one holding since it was registered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SweepStats {
    /// How many sweeps ended.
    pub sweeps: u64,
    /// How many of them ended in a panic.
    pub panics: u64,
    /// How many times a sweep was overdue.
    pub overdue: u64,
    /// The last sweep, and when it ended.
    pub last: Option<(Instant, SweepReport)>,
}

/// One holding as it is now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HoldingSnapshot {
    /// The name it is registered by.
    pub name: Name,
    /// What it holds; `None` if it panicked when asked.
    pub usage: Option<Usage>,
    /// What came in and left; `None` if it panicked when asked.
    pub totals: Option<Totals>,
    /// Whether it is kept alive until it is closed.
    pub must_flush: bool,
    /// When it is to be swept next.
    pub next_sweep: Instant,
    /// Whether that sweep is overdue.
    pub overdue: bool,
    /// The sweeps it had.
    pub stats: SweepStats,
}

/// One holding that [`Registry::close`] has closed.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClosedHolding {
    /// The name it was registered by.
    pub name: Name,
    /// What became of its entries.
    pub report: CloseReport,
}

#[derive(Debug)]
struct Inner {
    table: Mutex<Table>,
    config: RegistryConfig,
    /// Tells the sweeper that an earlier due time was added, or that the registry is gone.
    wake: Arc<Notify>,
    on_overdue: Mutex<OnOverdue>,
}

type Callback = Arc<dyn Fn(&Overdue) + Send + Sync>;

/// Whom to tell of sweeps that are overdue. Not called under a lock.
#[derive(Clone, Default)]
struct OnOverdue(Option<Callback>);

// === impl Registry ===

impl Registry {
    /// Makes a registry with the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::with_config(RegistryConfig::default())
    }

    /// Makes a registry.
    #[must_use]
    pub fn with_config(config: RegistryConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                table: Mutex::new(Table::new(config.max_holdings)),
                config,
                wake: Arc::new(Notify::new()),
                on_overdue: Mutex::new(OnOverdue::default()),
            }),
        }
    }

    /// Registers a holding under its own name, and gives the handle back.
    ///
    /// # Errors
    ///
    /// Refuses a name that a living holding has, an empty or unprintable one, one longer than
    /// [`Name::MAX_LEN`], and anything once the registry is full or closed.
    pub fn register<H: Holding>(&self, holding: H) -> Result<H, RegisterError> {
        let bounded = holding.bounded();
        let text = bounded.name();
        let name = Name::new(text);
        if text.is_empty() || text.len() > Name::MAX_LEN || text.chars().any(char::is_control) {
            return Err(RegisterError::InvalidName(name));
        }
        if name.as_str() != text {
            // The store of names is full, so this one could not be told from others.
            return Err(RegisterError::Full(Name::MAX_COUNT));
        }
        let must_flush = bounded.must_flush();
        let now = Instant::now();
        let insert = || {
            let mut table = self.inner.table.lock();
            table.insert(name, &bounded, must_flush, now)
        };
        let mut inserted = insert();
        if let Err(RegisterError::Full(_)) = inserted {
            // Some of those who take the places may be gone, which nobody has noticed yet.
            self.inner.forget_the_dead();
            inserted = insert();
        }
        inserted?;
        self.inner.wake.notify_one();
        Ok(holding)
    }

    /// Forgets a holding before its last handle is dropped, and says whether it was registered.
    ///
    /// It is neither swept nor closed any more, and its name is free for another. A sweep that is
    /// under way goes on.
    pub fn unregister<H: Holding>(&self, holding: &H) -> bool {
        let bounded = holding.bounded();
        // In a statement of its own: what held the holding is dropped under no lock.
        let forgotten = self.inner.table.lock().unregister(&bounded);
        match forgotten {
            Some((name, _held)) => {
                metrics::forget(name);
                true
            }
            None => false,
        }
    }

    /// Every living holding, in order of registration.
    ///
    /// O(n). No holding is stopped: the registry's lock is released before any is asked.
    #[must_use]
    pub fn snapshot(&self) -> Vec<HoldingSnapshot> {
        let listed = self.inner.table.lock().list(Instant::now());
        listed.into_iter().map(HoldingSnapshot::take).collect()
    }

    /// How many holdings are registered, those whose last handle is gone but which were not yet
    /// forgotten left out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.table.lock().len()
    }

    /// Whether no living holding is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sweeps one holding now, until nothing expired is left, yielding between slices and resting
    /// as the sweeper does.
    ///
    /// Its next sweep is planned anew from what it answers.
    ///
    /// # Errors
    ///
    /// When no living holding has this name.
    ///
    /// # Panics
    ///
    /// On a Tokio runtime without its time driver, when a sweep takes longer than a millisecond.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the sweep after a whole slice; what was dropped stays dropped.
    pub async fn sweep(&self, name: &str) -> Result<SweepReport, UnknownHolding> {
        let found = self.inner.table.lock().get(name);
        let (id, name, holding) = found.ok_or_else(|| UnknownHolding(name.to_owned()))?;
        let mut slices = Slices::new(name, holding);
        let mut pace = Pace::default();
        while slices.next(&self.inner.config, &mut pace).is_continue() {
            pace.give_way().await;
        }
        let (report, next) = slices.finish(&self.inner.config);
        self.inner.record(id, report, next);
        self.inner.wake.notify_one();
        Ok(report)
    }

    /// Sweeps every holding now, one after the other.
    ///
    /// # Cancel safety
    ///
    /// As [`sweep`](Self::sweep).
    pub async fn sweep_all(&self) -> Vec<(Name, SweepReport)> {
        let names = self.inner.table.lock().names();
        let mut reports = Vec::with_capacity(names.len());
        for name in names {
            // One that has gone meanwhile has nothing to report.
            if let Ok(report) = self.sweep(name.as_str()).await {
                reports.push((name, report));
            }
            tokio::task::yield_now().await;
        }
        reports
    }

    /// Reports the holdings whose sweep has become overdue, each once until it is swept.
    ///
    /// Each is also counted, logged as a warning, and told to the
    /// [callback](Self::on_overdue).
    #[expect(
        clippy::must_use_candidate,
        reason = "what it reports is counted and logged anyway"
    )]
    pub fn check_overdue(&self) -> Vec<Overdue> {
        self.inner.check_overdue(Instant::now())
    }

    /// Has `callback` called each time a sweep becomes overdue, in place of the one before.
    ///
    /// It is called once for each time that a sweep is counted and logged as overdue, by whoever
    /// notices: the sweeper, or the caller of [`check_overdue`](Self::check_overdue). It must return
    /// soon, and should not keep a handle to this registry, which would keep the registry alive. If
    /// it panics, that is logged, and nothing else comes of it.
    pub fn on_overdue(&self, callback: impl Fn(&Overdue) + Send + Sync + 'static) {
        let new = OnOverdue(Some(Arc::new(callback)));
        let old = std::mem::replace(&mut *self.inner.on_overdue.lock(), new);
        // Dropping it runs what others wrote, so that is done under no lock.
        drop(old);
    }

    /// Writes what every holding holds to the installed `metrics` recorder. Call it before a
    /// scrape; the counts of sweeps are kept up by themselves.
    #[cfg(feature = "metrics")]
    pub fn publish_metrics(&self) {
        for snapshot in self.snapshot() {
            metrics::publish(&snapshot);
        }
    }

    /// The sweeper: one future for all holdings, to be spawned once.
    ///
    /// It keeps nothing alive, and ends when the last handle to the registry is dropped.
    pub fn sweeper(&self) -> impl Future<Output = ()> + Send + use<> {
        sweeper::run(Arc::downgrade(&self.inner), self.inner.wake.clone())
    }

    /// Closes every holding, and refuses new ones from now on.
    ///
    /// All weak references are upgraded before anything is closed, so that dropping one holding
    /// cannot lose another. First the expendable holdings are closed, side by side, and then those
    /// that must flush, which may take in what the first ones say while closing. The first round
    /// has half the time at the most. A holding that is not done in time is dropped and reported
    /// as timed out; one that panics is reported with its message.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the closing futures of all holdings. The registry stays closed.
    pub async fn close(&self, deadline: Instant) -> Vec<ClosedHolding> {
        self.close_unless(&CancellationToken::new(), deadline).await
    }

    /// [`close`](Self::close), cut short when `abort` is cancelled, as if the deadline had come.
    pub(crate) async fn close_unless(
        &self,
        abort: &CancellationToken,
        deadline: Instant,
    ) -> Vec<ClosedHolding> {
        let now = Instant::now();
        let living = self.inner.table.lock().close(now);
        self.inner.wake.notify_one();
        let (last, first): (Vec<_>, Vec<_>) =
            living.into_iter().partition(|listed| listed.must_flush);
        let half = deadline.saturating_duration_since(now) / 2;
        let mut closed = close_side_by_side(first, abort, now + half).await;
        closed.extend(close_side_by_side(last, abort, deadline).await);
        closed
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

/// Closes holdings in tasks of their own, so that neither a panic nor a hang of one reaches the
/// others. Reports stand in the order of `listed`.
async fn close_side_by_side(
    listed: Vec<Listed>,
    abort: &CancellationToken,
    deadline: Instant,
) -> Vec<ClosedHolding> {
    let mut tasks = JoinSet::new();
    let mut places = HashMap::with_capacity(listed.len());
    for (place, listed) in listed.iter().enumerate() {
        let (holding, abort) = (listed.holding.clone(), abort.clone());
        let task = tasks.spawn(async move {
            let closing = async { holding.close(deadline).await };
            let report = tokio::select! {
                biased;
                () = abort.cancelled() => None,
                report = tokio::time::timeout_at(deadline, closing) => report.ok(),
            };
            report.unwrap_or_else(|| CloseReport {
                timed_out: true,
                ..CloseReport::default()
            })
        });
        places.insert(task.id(), place);
    }
    let mut closed: Vec<_> = listed
        .iter()
        .map(|listed| ClosedHolding {
            name: listed.name,
            report: CloseReport::default(),
        })
        .collect();
    while let Some(ended) = tasks.join_next_with_id().await {
        let (task, report) = ended.unwrap_or_else(|error| (error.id(), panicked(error)));
        closed[places[&task]].report = report;
    }
    for (closed, listed) in closed.iter_mut().zip(listed) {
        if listed.must_flush && !closed.report.is_clean() && closed.report.lost == 0 {
            let left = calmly(|| listed.holding.usage()).map_or(0, |usage| usage.entries);
            closed.report.lost = left;
        }
        log_closed(closed);
        calmly(|| drop(listed));
    }
    closed
}

/// The report of a holding whose closing panicked, with the panic's message if it is text.
fn panicked(error: JoinError) -> CloseReport {
    let payload = error.try_into_panic().ok();
    let message = payload.as_ref().and_then(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| payload.downcast_ref::<&str>().copied())
    });
    let message = message.unwrap_or("no message");
    CloseReport {
        error: Some(format!("panicked while closing: {message}").into()),
        ..CloseReport::default()
    }
}

fn log_closed(closed: &ClosedHolding) {
    let ClosedHolding { name, report } = closed;
    let CloseReport {
        flushed,
        dropped,
        lost,
        timed_out,
        error,
    } = report;
    if report.is_clean() {
        tracing::debug!(holding = %name, flushed, dropped, "holding closed");
    } else {
        let error = error.as_deref().map(tracing::field::display);
        tracing::warn!(holding = %name, flushed, dropped, lost, timed_out, error, "holding closed with losses");
    }
}

// === impl RegistryConfig ===

impl RegistryConfig {
    /// Sets how soon a holding that answers [`Next::Idle`], or panicked, is asked again, and how
    /// often the registry forgets holdings whose last handle is gone.
    ///
    /// Defaults to 60 seconds. Below a millisecond counts as a millisecond.
    pub fn idle_interval(mut self, interval: Duration) -> Self {
        self.idle_interval = interval.max(sweeper::LEAST_WAIT);
        self
    }

    /// Sets about how many entries one slice of a sweep drops before other tasks have their turn.
    ///
    /// Defaults to 250. Dropping as many entries from a map and a queue, 100 bytes each, took 45
    /// microseconds at the median, 78 at the 99th percentile and 160 at the longest of a million
    /// entries' sweep. 0 counts as 1.
    pub fn sweep_budget(mut self, entries: usize) -> Self {
        self.sweep_budget = entries.max(1);
        self
    }

    /// Sets how many holdings may be registered at a time.
    ///
    /// Defaults to 4 096. Each takes 400 to 650 bytes here.
    pub fn max_holdings(mut self, holdings: usize) -> Self {
        self.max_holdings = holdings;
        self
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            idle_interval: Duration::from_secs(60),
            sweep_budget: 250,
            max_holdings: 4_096,
        }
    }
}

// === impl RegisterError, UnknownHolding ===

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the registry is closed: the service is stopping"),
            Self::Duplicate(name) => write!(
                f,
                "a holding named {name:?} is registered: give each its own name"
            ),
            Self::Full(most) => write!(
                f,
                "the registry is full: {most} holdings or names are the most it takes"
            ),
            Self::InvalidName(name) => write!(
                f,
                "{name:?} cannot name a holding: use 1 to {} bytes without control characters",
                Name::MAX_LEN
            ),
        }
    }
}

impl std::error::Error for RegisterError {}

impl fmt::Display for UnknownHolding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no holding is named {:?}", self.0)
    }
}

impl std::error::Error for UnknownHolding {}

// === impl SweepStats, HoldingSnapshot, OnOverdue ===

impl SweepStats {
    fn record(&mut self, report: SweepReport, now: Instant) {
        self.sweeps += 1;
        self.panics += u64::from(report.panicked);
        self.last = Some((now, report));
    }
}

impl HoldingSnapshot {
    fn take(listed: Listed) -> Self {
        let snapshot = Self {
            name: listed.name,
            usage: calmly(|| listed.holding.usage()),
            totals: calmly(|| listed.holding.totals()),
            must_flush: listed.must_flush,
            next_sweep: listed.due,
            overdue: listed.overdue,
            stats: listed.stats,
        };
        // The last handle may have gone meanwhile.
        calmly(|| drop(listed));
        snapshot
    }
}

impl OnOverdue {
    fn tell(&self, overdue: &Overdue) {
        let Some(callback) = &self.0 else { return };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| callback(overdue))) {
            tracing::error!(holding = %overdue.name, "the callback of an overdue sweep panicked");
            // What was thrown may throw again.
            calmly(|| drop(panic));
        }
    }
}

impl fmt::Debug for OnOverdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnOverdue").field(&self.0.is_some()).finish()
    }
}

/// Asks a holding something, and takes a panic for no answer.
fn calmly<T>(ask: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(ask)).ok()
}

// === impl Inner ===

impl Inner {
    /// Records a sweep out of turn, and moves the next one if the sweeper is not at it just now.
    fn record(&self, id: table::Id, report: SweepReport, next: Next) {
        let now = Instant::now();
        let at = self.config.when(next, now);
        let mut table = self.table.lock();
        if table.is_sweeping(id) {
            table.record(id, report, now);
        } else {
            table.finish(id, report, now, at);
        }
    }

    fn check_overdue(&self, now: Instant) -> Vec<Overdue> {
        let overdue = self.table.lock().newly_overdue(now);
        overdue.iter().for_each(|overdue| self.report(overdue));
        overdue
    }

    /// Counts, logs and tells, under no lock.
    fn report(&self, overdue: &Overdue) {
        let Overdue {
            name,
            late,
            interval,
        } = overdue;
        metrics::overdue(*name);
        tracing::warn!(holding = %name, ?late, ?interval, "sweep overdue");
        // Another may be set meanwhile, even by this one.
        let callback = self.on_overdue.lock().clone();
        callback.tell(overdue);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The sweeper waits on this with nothing but a weak reference.
        self.wake.notify_one();
    }
}
