//! The handle to the monitor and to all that it does, and their threads.

use crate::{
    Alert, AlertKind, AlertSink, Alerts, CancelLargest, Known, MemoryFigures, MonitorConfig,
    PressureChange, PressureLevel, ReclaimError, ReclaimReport, Severity, Source,
    alert::{HookError, HookStats},
    monitor::{Monitor, ProcessSource, Step},
    reclaim::{Freed, Purger, Reach, Reclaimer},
    show::{Percent, Rate, Size, Span},
    worker::Worker,
};
use plimsoll_alloc::Reclaim;
use plimsoll_core::{ConfigError, Pressure, Registry, lifecycle::TaskGroup};
use std::{
    alloc::System,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU8, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    thread::{self, Thread},
    time::Duration,
};
use tokio::time::Instant;

/// Stands for what is not known.
const UNKNOWN: u64 = u64::MAX;

/// How the process is doing, and whoever makes room in it. Cloning gives another handle to the same
/// one.
///
/// ```
/// use plimsoll_core::Registry;
/// use plimsoll_memory::{MemoryManager, MonitorConfig};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = MonitorConfig::new().limit(8 << 30);
/// // The threads end when the guard is dropped.
/// let (memory, _guard) = MemoryManager::builder(config).registry(Registry::new()).start()?;
/// memory.alerts().on_alert(|alert: &plimsoll_memory::Alert| println!("{}", alert.text))?;
///
/// let report = memory.reclaim(Duration::from_secs(10))?;
/// assert_eq!(report.freed.failed, 0);
/// println!("{}", memory.describe(&Default::default()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MemoryManager {
    shared: Arc<Shared>,
}

/// What a [`MemoryManager`] is made of.
#[must_use = "nothing is looked at before it is started"]
pub struct ManagerBuilder {
    config: MonitorConfig,
    registry: Registry,
    allocator: &'static (dyn Reclaim + Sync),
    cancel: Option<Arc<dyn CancelLargest>>,
    source: Box<dyn Source>,
    alerts: Alerts,
    observers: Vec<Observer>,
    relieve_when: Option<Relief>,
    on_purge: Option<Box<dyn Fn() + Send + Sync>>,
    describe: Describe,
    tasks: Option<Tasks>,
}

type Describe = Box<dyn Fn(&MemoryFigures) -> String + Send>;
type Relief = Box<dyn Fn(&MemoryFigures) -> Option<u64> + Send>;
type Tasks = Box<dyn FnMut() -> Vec<TaskGroup> + Send>;
type Observer = Box<dyn FnMut(Instant, &MemoryFigures) + Send>;

/// The threads of a [`MemoryManager`] end when it is dropped: that of the monitor after the interval
/// that it waits for at the most, others once what they call has come back. Nothing is known after that.
#[must_use = "the monitor ends when it is dropped"]
pub struct MonitorGuard {
    shared: Arc<Shared>,
    thread: Thread,
    wake: Option<Box<dyn Fn() + Send + Sync>>,
}

/// A manager could not be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum ManagerError {
    /// Settings are out of their range.
    Config(ConfigError),
    /// The system has no thread for it.
    Thread(io::Error),
}

/// What a manager has done, and how things are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ManagerStats {
    /// The figures of the last sample.
    pub figures: MemoryFigures,
    /// Where levels begin, in bytes that are used, the least first. None where no line is known.
    pub thresholds: Option<[(PressureLevel, u64); 3]>,
    /// Samples so far.
    pub samples: u64,
    /// Those of them that did not tell what is used of which limit.
    pub failed_reads: u64,
    /// How often the level has changed.
    pub changes: u64,
    /// How many times the monitor, or what it looks at, panicked.
    pub panics: u64,
    /// How many times room was made.
    pub reclaims: u64,
    /// How many times it was to be made while somebody was at it.
    pub skipped_reclaims: u64,
    /// What that gave.
    pub freed: Freed,
    /// How often the allocator was asked for what it has free, by whomever.
    pub purges: u64,
    /// By how many bytes the process became smaller then.
    pub purged_bytes: u64,
    /// Holdings that did not come back when they were swept or shrunk.
    pub left_behind: u64,
    /// What was done when room was made last.
    pub last_reclaim: Option<Arc<ReclaimReport>>,
    /// What became of alerts and hooks.
    pub hooks: HookStats,
}

#[derive(Debug)]
struct Shared {
    /// The bits of a number from 0 to 1, for those who ask often; not a number if it is unknown.
    pressure: AtomicU64,
    level: AtomicU8,
    headroom: AtomicU64,
    known: Mutex<Seen>,
    /// Of the monitor; and whether it has changed.
    config: Mutex<MonitorConfig>,
    reconfigured: AtomicBool,
    alerts: Alerts,
    purger: Arc<Purger>,
    worker: Arc<Worker<Reclaimer>>,
    stopped: AtomicBool,
}

/// What the monitor's thread tells others.
#[derive(Clone, Copy, Debug)]
struct Seen {
    figures: MemoryFigures,
    samples: u64,
    failed_reads: u64,
    changes: u64,
    panics: u64,
    skipped_reclaims: u64,
}

impl ManagerBuilder {
    /// Whose holdings are swept and shrunk. An empty registry by default.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// Who is asked for what is free. By default the allocator of the system, which is wrong where the
    /// program has another one.
    pub fn allocator(mut self, allocator: &'static (dyn Reclaim + Sync)) -> Self {
        self.allocator = allocator;
        self
    }

    /// Who ends the largest requests. Nobody by default.
    pub fn cancel(mut self, cancel: Arc<dyn CancelLargest>) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// Where the monitor has its [`Signals`](crate::Signals) from. [`ProcessSource`] by default.
    pub fn source(mut self, source: impl Source + 'static) -> Self {
        self.source = Box::new(source);
        self
    }

    /// Who is told of alerts, if there are hooks already.
    pub fn alerts(mut self, alerts: Alerts) -> Self {
        self.alerts = alerts;
        self
    }

    /// Has `observer` called with the figures of each sample, on the monitor's thread: for what keeps
    /// them, or is to follow them at once. It has to return soon, since nothing is looked at meanwhile.
    pub fn observe(
        mut self,
        observer: impl FnMut(Instant, &MemoryFigures) + Send + 'static,
    ) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// Who knows the names of tasks, most of them first, as
    /// [`Lifecycle::tasks`](plimsoll_core::Lifecycle::tasks) does. It is asked when more are alive than
    /// [expected](MonitorConfig::max_tasks), on the monitor's thread, so that the alert can name the
    /// first three. Nobody by default.
    pub fn tasks(mut self, tasks: impl FnMut() -> Vec<TaskGroup> + Send + 'static) -> Self {
        self.tasks = Some(Box::new(tasks));
        self
    }

    /// Has the allocator asked for what it has free, sooner than otherwise, whenever `short` says how much
    /// that is by a sample. It still takes no more than a twentieth of the time.
    pub(crate) fn relieve_when(
        mut self,
        short: impl Fn(&MemoryFigures) -> Option<u64> + Send + 'static,
    ) -> Self {
        self.relieve_when = Some(Box::new(short));
        self
    }

    /// Has `told` called after each time that the allocator was asked.
    pub(crate) fn on_purge(mut self, told: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_purge = Some(Box::new(told));
        self
    }

    /// Who says in one sentence how things are, for the log: by default the figures alone.
    pub(crate) fn describe(
        mut self,
        describe: impl Fn(&MemoryFigures) -> String + Send + 'static,
    ) -> Self {
        self.describe = Box::new(describe);
        self
    }

    /// Starts the threads of the monitor, and of whoever makes room.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, or the system has no threads for it.
    pub fn start(self) -> Result<(MemoryManager, MonitorGuard), ManagerError> {
        let Self {
            config,
            registry,
            allocator,
            cancel,
            source,
            alerts,
            observers,
            relieve_when,
            on_purge,
            describe,
            tasks,
        } = self;
        config.validate().map_err(ManagerError::Config)?;
        let purger = Arc::new(Purger::new(allocator, on_purge));
        let reclaimer = Reclaimer::new(registry, purger.clone(), cancel);
        let worker = Worker::start(reclaimer).map_err(ManagerError::Thread)?;
        let shared = Arc::new(Shared {
            pressure: AtomicU64::new(f64::NAN.to_bits()),
            level: AtomicU8::new(PressureLevel::Unknown as u8),
            headroom: AtomicU64::new(UNKNOWN),
            known: Mutex::new(Seen::NOTHING),
            config: Mutex::new(config.clone()),
            reconfigured: AtomicBool::new(false),
            alerts,
            purger,
            worker,
            stopped: AtomicBool::new(false),
        });
        let wake = source.waker();
        let mut watch = Watch {
            monitor: Monitor::new(config, Instant::now()),
            source,
            observers,
            relieve_when,
            describe,
            tasks,
            shared: shared.clone(),
            seen: Seen::NOTHING,
            reclaims: 0,
            purges: 0,
        };
        let thread = thread::Builder::new().name("plimsoll-memory".into());
        let thread = thread.spawn(move || watch.run());
        let thread = match thread {
            Ok(thread) => thread.thread().clone(),
            Err(error) => {
                shared.worker.close();
                return Err(ManagerError::Thread(error));
            }
        };
        let guard = MonitorGuard {
            shared: shared.clone(),
            thread,
            wake,
        };
        Ok((MemoryManager { shared }, guard))
    }
}

impl MemoryManager {
    /// Begins with a configuration.
    pub fn builder(config: MonitorConfig) -> ManagerBuilder {
        ManagerBuilder {
            config,
            registry: Registry::new(),
            allocator: &System,
            cancel: None,
            source: Box::new(ProcessSource),
            alerts: Alerts::new(),
            observers: Vec::new(),
            relieve_when: None,
            on_purge: None,
            describe: Box::new(|figures| figures.describe(&Known::default())),
            tasks: None,
        }
    }

    /// The pressure as it was last seen. One load.
    #[must_use]
    #[inline]
    pub fn pressure(&self) -> Pressure {
        Pressure::new(f64::from_bits(self.shared.pressure.load(Relaxed)))
    }

    /// The level as it was last seen. One load.
    #[must_use]
    #[inline]
    pub fn level(&self) -> PressureLevel {
        PressureLevel::from_u8(self.shared.level.load(Relaxed))
    }

    /// Bytes that may come before the line is met, as it was last seen. None where nobody knows. One
    /// load.
    #[must_use]
    #[inline]
    pub fn headroom(&self) -> Option<u64> {
        let headroom = self.shared.headroom.load(Relaxed);
        (headroom != UNKNOWN).then_some(headroom)
    }

    /// The figures of the last sample.
    #[must_use]
    pub fn figures(&self) -> MemoryFigures {
        self.shared.known().figures
    }

    /// How things are, and what was done.
    #[must_use]
    pub fn stats(&self) -> ManagerStats {
        let Seen {
            figures,
            samples,
            failed_reads,
            changes,
            panics,
            skipped_reclaims,
        } = *self.shared.known();
        let done = self.shared.worker.stats();
        let (purges, purged_bytes) = self.shared.purger.totals();
        ManagerStats {
            figures,
            thresholds: figures
                .line
                .map(|line| self.shared.config().levels_of(line)),
            samples,
            failed_reads,
            changes,
            panics,
            reclaims: done.runs,
            skipped_reclaims,
            freed: done.sum,
            purges,
            purged_bytes,
            left_behind: done.left_behind,
            last_reclaim: self.shared.worker.last().map(|(_, report)| report),
            hooks: self.shared.alerts.stats(),
        }
    }

    /// Makes room now, as far as there is something to free without harm: what has expired, what the
    /// allocator has free, and, above the target, what is expendable. Blocks until that is done, for
    /// `wait` at the most: not for a task.
    ///
    /// # Errors
    ///
    /// When it is not done in time, the monitor has ended, or whoever was at it panicked.
    pub fn reclaim(&self, wait: Duration) -> Result<Arc<ReclaimReport>, ReclaimError> {
        let ask = self.config().ask_by_hand(&self.figures());
        self.shared.worker.run(ask, wait)
    }

    /// Asks the allocator for what it has free, before something is refused for want of memory, and
    /// says whether somebody did so just now. Of many who ask at once one does it, and the others wait
    /// for that one, for half a second at the most. Blocks: not for a task.
    #[must_use = "whether there may be room now"]
    pub fn relieve(&self) -> bool {
        self.shared.relieve(self.config().purge_gap)
    }

    /// Goes by another configuration from the next sample on.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range. Nothing is changed then.
    pub fn reconfigure(&self, config: MonitorConfig) -> Result<(), ConfigError> {
        config.validate()?;
        *self.shared.config() = config;
        self.shared.reconfigured.store(true, Release);
        Ok(())
    }

    /// What counts now.
    #[must_use]
    pub fn config(&self) -> MonitorConfig {
        self.shared.config().clone()
    }

    /// Who is told of alerts. A handle for those who must not keep the manager alive.
    #[must_use]
    pub fn alerts(&self) -> &Alerts {
        &self.shared.alerts
    }

    /// As [`Alerts::on_pressure`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn on_pressure(
        &self,
        hook: impl FnMut(&PressureChange) + Send + 'static,
    ) -> Result<(), HookError> {
        self.alerts().on_pressure(hook)
    }

    /// As [`Alerts::on_alert`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn on_alert(&self, sink: impl AlertSink) -> Result<(), HookError> {
        self.alerts().on_alert(sink)
    }

    /// Says in one sentence how things are. See [`MemoryFigures::describe`].
    #[must_use]
    pub fn describe(&self, known: &Known<'_>) -> String {
        self.figures().describe(known)
    }
}

impl Drop for MonitorGuard {
    fn drop(&mut self) {
        // Pairs with the load of the thread, which then tells that nothing is known.
        self.shared.stopped.store(true, Release);
        self.thread.unpark();
        if let Some(wake) = &self.wake {
            wake();
        }
        self.shared.worker.close();
    }
}

impl Seen {
    const NOTHING: Self = Self {
        figures: MemoryFigures::UNKNOWN,
        samples: 0,
        failed_reads: 0,
        changes: 0,
        panics: 0,
        skipped_reclaims: 0,
    };
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Seen> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> MutexGuard<'_, MonitorConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, seen: &Seen) {
        let figures = &seen.figures;
        let pressure = figures.pressure.value().unwrap_or(f64::NAN);
        self.pressure.store(pressure.to_bits(), Relaxed);
        self.level.store(figures.level as u8, Relaxed);
        self.headroom
            .store(figures.headroom.unwrap_or(UNKNOWN), Relaxed);
        *self.known() = *seen;
    }

    fn relieve(&self, gap: Duration) -> bool {
        const WAIT: Duration = Duration::from_millis(500);
        self.purger.purge(Reach::Small, gap, WAIT).is_done()
    }
}

/// The monitor's thread.
struct Watch {
    monitor: Monitor,
    source: Box<dyn Source>,
    observers: Vec<Observer>,
    relieve_when: Option<Relief>,
    describe: Describe,
    tasks: Option<Tasks>,
    seen: Seen,
    /// The number of the last time that room was made, and of the last that the allocator was asked.
    reclaims: u64,
    purges: u64,
    /// Dropped last, and the registry with it: once that is gone, so is what the monitor held.
    shared: Arc<Shared>,
}

impl Watch {
    fn run(&mut self) {
        while !self.shared.stopped.load(Acquire) {
            let wait = self.calmly(Self::look).unwrap_or(Duration::from_secs(1));
            if self.calmly(|watch| watch.source.wait(wait)).is_none() {
                // Or it would go round and round.
                thread::park_timeout(wait);
            }
        }
        self.seen.figures = MemoryFigures::UNKNOWN;
        self.shared.tell(&self.seen);
    }

    /// Does something that others have a part in, and takes a panic for nothing done.
    fn calmly<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(done) => Some(done),
            Err(panic) => {
                if self.seen.panics == 0 {
                    tracing::error!("the memory monitor panicked, and goes on");
                }
                self.seen.panics += 1;
                let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
                None
            }
        }
    }

    fn look(&mut self) -> Duration {
        if self.shared.reconfigured.swap(false, Acquire) {
            let config = self.shared.config().clone();
            self.monitor.reconfigure(config);
        }
        let now = Instant::now();
        if let Some((number, _)) = self.shared.worker.last()
            && number != self.reclaims
        {
            self.reclaims = number;
            self.monitor.reclaimed(now);
        }
        let (purges, _) = self.shared.purger.totals();
        if purges != self.purges {
            self.purges = purges;
            self.monitor.purged();
        }
        let signals = self.calmly(|watch| watch.source.sample());
        let mut step = self.monitor.step(now, &signals.unwrap_or_default());
        self.name_tasks(&mut step.alerts);
        self.act(&step);
        // First: an observer may not come back.
        self.leave_behind(now);
        for place in 0..self.observers.len() {
            self.calmly(|watch| (watch.observers[place])(now, &step.figures));
        }
        self.calmly(|watch| watch.relieve(&step.figures));
        step.wait
    }

    fn act(&mut self, step: &Step) {
        let Self {
            monitor,
            shared,
            seen,
            ..
        } = self;
        seen.figures = step.figures;
        (seen.samples, seen.failed_reads) = monitor.samples();
        if let Some(change) = &step.change {
            seen.changes += 1;
            log_change(change);
        }
        if let Some(ask) = step.ask
            && shared.worker.submit(ask).is_none()
        {
            seen.skipped_reclaims += 1;
        }
        shared.tell(seen);
        if let Some(change) = &step.change {
            shared.alerts.changed(change);
        }
        for alert in &step.alerts {
            shared.alerts.raise(alert);
        }
        if step.log {
            let state = (self.describe)(&step.figures);
            log_figures(&step.figures, &state);
        }
    }

    /// Says of what there are too many.
    fn name_tasks(&mut self, alerts: &mut [Alert]) {
        let begins = |alert: &&mut Alert| {
            alert.kind == AlertKind::Tasks && alert.severity == Severity::Warning
        };
        for alert in alerts.iter_mut().filter(begins) {
            let groups = self.calmly(|watch| watch.tasks.as_mut().map(|tasks| tasks()));
            alert
                .text
                .push_str(&by_name(&groups.flatten().unwrap_or_default()));
        }
    }

    fn relieve(&self, figures: &MemoryFigures) {
        let asks = self.relieve_when.as_ref();
        if let Some(kept) = asks.and_then(|short| short(figures)) {
            self.shared.purger.purge_if_it_helps(kept);
        }
    }

    fn leave_behind(&self, now: Instant) {
        let seen = self.shared.worker.watch(now);
        Worker::<Reclaimer>::tell(&seen, &self.shared.alerts);
    }
}

/// `, the most of them 9000 poll (spawned at src/poll.rs:12), 40 flush (spawned at src/log.rs:7)`.
fn by_name(groups: &[TaskGroup]) -> String {
    const MOST: usize = 3;
    let mut text = String::new();
    for (place, group) in groups.iter().take(MOST).enumerate() {
        let TaskGroup {
            name, count, site, ..
        } = group;
        let before = if place == 0 {
            ", the most of them"
        } else {
            ","
        };
        let (file, line) = (site.file(), site.line());
        text.push_str(&format!(
            "{before} {count} {name} (spawned at {file}:{line})"
        ));
    }
    text
}

fn log_change(change: &PressureChange) {
    let PressureChange {
        from,
        to,
        pressure,
        lasted,
    } = change;
    tracing::debug!(%from, %to, %pressure, lasted = %Span(*lasted), "the pressure level has changed");
}

fn log_figures(figures: &MemoryFigures, state: &str) {
    use tracing::field::display;
    let MemoryFigures {
        pressure,
        level,
        used,
        reclaimable,
        limit,
        line,
        tracked,
        kept_blocks,
        resident,
        unattributed,
        stall,
        tasks,
        descriptors,
        slope,
        time_to_limit,
        ..
    } = *figures;
    let size = |bytes: Option<u64>| bytes.map(Size).map(display);
    tracing::info!(
        state,
        %level,
        %pressure,
        used = size(used),
        limit = size(limit),
        line = size(line),
        tracked = size(tracked),
        kept_blocks = size(kept_blocks),
        resident = size(resident),
        unattributed = size(unattributed),
        reclaimable = %Size(reclaimable),
        stall = stall.map(Percent).map(display),
        tasks,
        descriptors,
        slope = slope.map(Rate).map(display),
        time_to_limit = time_to_limit.map(Span).map(display),
        "memory"
    );
}

impl fmt::Debug for MonitorGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonitorGuard")
            .field("thread", &self.thread)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagerBuilder")
            .field("config", &self.config)
            .field("registry", &self.registry)
            .field("cancel", &self.cancel.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for ManagerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config(_) => "the memory monitor cannot be configured so",
            Self::Thread(_) => "there is no thread for the memory monitor",
        })
    }
}

impl std::error::Error for ManagerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Thread(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests;
