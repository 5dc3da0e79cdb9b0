//! All that keeps the process under its line, in one handle.

mod findings;
mod follower;
mod holders;

pub use self::holders::HolderStats;
use self::{
    findings::Findings,
    follower::{Follower, Frugality},
    holders::Holders,
};
use crate::{
    Admission, AdmissionStats, Alerts, ManagerBuilder, ManagerError, MemoryConfig, MemoryFigures,
    MemoryManager, MonitorGuard,
    admission::Meter,
    history::{HistoryPoint, Resolution},
    monitor::{Source, SystemSource},
    room::{MeterWithoutKept, Room, SourceWithRoom},
    verdict::{LeakConfig, LeakKind, Verdict},
    worker::Worker,
};
use plimsoll_alloc::Reclaim;
use plimsoll_core::{ConfigError, Name, Registry, lifecycle::TaskGroup};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{runtime::Handle, time::Instant};

/// All that keeps the process under its line: the [monitor](MemoryManager) and whoever makes room, the
/// [admission](Admission) of requests, a history, and verdicts on what leaks. Cloning gives another
/// handle to the same one.
///
/// Once the guard is dropped nothing is known, and everybody is let in.
///
/// ```
/// use plimsoll_memory::{LoadLine, MemoryConfig};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (line, _guard) = LoadLine::builder(&MemoryConfig::new()).start()?;
/// println!("{}", line.describe());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LoadLine {
    manager: MemoryManager,
    admission: Admission,
    known: Arc<Mutex<Findings>>,
}

/// What a [`LoadLine`] is made of.
#[must_use = "nothing is looked at before it is started"]
pub struct LoadLineBuilder {
    config: MemoryConfig,
    manager: ManagerBuilder,
    holders: Holders,
    runtime: Option<Handle>,
    admission: Admission,
    alerts: Alerts,
    allocator: Option<&'static (dyn Reclaim + Sync)>,
}

/// What something holds, by name: it is looked at for leaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "whoever tells says all of it")]
pub struct Held {
    /// What kind of thing it is.
    pub kind: LeakKind,
    /// Its name.
    pub name: Name,
    /// How much it holds: bytes, or so many of something.
    pub held: u64,
    /// The most that it may hold, if that is known.
    pub bound: Option<u64>,
}

impl LoadLineBuilder {
    /// Whose holdings are swept, shrunk, and looked at. An empty registry by default.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.holders.registry = registry;
        self
    }

    /// Who lets requests in. By default somebody whom nobody asks.
    pub fn admission(mut self, admission: Admission) -> Self {
        self.admission = admission;
        self
    }

    /// The program's allocator, which is asked for what it has free. That of the system by default,
    /// which is wrong where the program has another one.
    pub fn allocator(mut self, allocator: &'static (dyn Reclaim + Sync)) -> Self {
        self.allocator = Some(allocator);
        self
    }

    /// Counts the tasks of a runtime.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Who knows the names of tasks. See [`ManagerBuilder::tasks`].
    pub fn tasks(mut self, tasks: impl FnMut() -> Vec<TaskGroup> + Send + 'static) -> Self {
        self.manager = self.manager.tasks(tasks);
        self
    }

    /// Who is told of alerts, if there are hooks already.
    pub fn alerts(mut self, alerts: Alerts) -> Self {
        self.alerts = alerts;
        self
    }

    /// Has more looked at by name each second: what routes retain, say. `tell` adds what there is. Where
    /// it panics that is left out, and counted. Where it does not come back it is left out as a
    /// [holding](HolderStats) is, and told of by `name`, which no holding should have.
    pub fn holders(
        mut self,
        name: impl Into<Name>,
        tell: impl FnMut(&mut Vec<Held>) + Send + 'static,
    ) -> Self {
        self.holders.add(name.into(), Box::new(tell));
        self
    }

    /// Who counts the requests in flight, for the [history](HistoryPoint::in_flight). It is asked once a second, as
    /// [holders](Self::holders) are. Nobody by default, and the history does not know then.
    pub fn in_flight(mut self, count: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.holders.in_flight = Some(Box::new(count));
        self
    }

    /// Starts the threads of it.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, or the system has no threads for it.
    pub fn start(mut self) -> Result<(LoadLine, MonitorGuard), ManagerError> {
        let source = SystemSource::new();
        let source = match self.runtime.take() {
            Some(runtime) => source.runtime(runtime),
            None => source,
        };
        let meter = source.meter();
        self.start_with(source, meter)
    }

    /// Starts it on what `source` tells, and `meter` in between.
    pub(crate) fn start_with(
        self,
        source: impl Source + 'static,
        meter: impl Meter + 'static,
    ) -> Result<(LoadLine, MonitorGuard), ManagerError> {
        let Self {
            config,
            manager,
            holders,
            runtime: _,
            admission,
            alerts,
            allocator,
        } = self;
        config.validate().map_err(ManagerError::Config)?;
        let room = allocator.and_then(Room::of);
        let room = room.map(|room| Arc::new(Mutex::new(room)));
        let meter = MeterWithoutKept::new(meter, allocator);
        admission.set_meter(meter.clone());
        let source = SourceWithRoom::new(source, meter, room.clone());
        let known = Arc::new(Mutex::new(Findings::new(config.leaks_config())));
        let registry = holders.registry.clone();
        let mut follower = Follower {
            admission: admission.clone(),
            alerts: alerts.clone(),
            allocator,
            room,
            asker: Worker::start(holders).map_err(ManagerError::Thread)?,
            answer: 0,
            known: known.clone(),
            judged: None,
            frugality: Frugality::default(),
        };
        let on_purge = {
            let admission = admission.clone();
            move || admission.purged()
        };
        let manager = match allocator {
            Some(allocator) => manager.allocator(allocator),
            None => manager,
        };
        let (manager, guard) = manager
            .registry(registry)
            .source(source)
            .alerts(alerts)
            .cancel(Arc::new(admission.clone()))
            .relieve_when({
                let admission = admission.clone();
                move |figures| worth_a_purge(&admission.stats(), figures)
            })
            .on_purge(on_purge)
            .describe({
                let known = known.clone();
                move |figures| lock(&known).describe(figures, Instant::now())
            })
            .observe(move |now, figures| follower.follow(now, figures))
            .start()?;
        let line = LoadLine {
            manager,
            admission,
            known,
        };
        line.apply(&config)?;
        Ok((line, guard))
    }
}

/// How much the allocator keeps that it should be asked for, since somebody waits.
fn worth_a_purge(stats: &AdmissionStats, figures: &MemoryFigures) -> Option<u64> {
    let (kept, line) = figures.unattributed.zip(figures.line)?;
    let is_short = kept > line / 16 && stats.is_short;
    // So much is in the way even of those who wait for processors.
    let is_much = kept > line / 4 && stats.waiting > 0;
    (is_short || is_much).then_some(kept)
}

impl LoadLine {
    /// Begins with a configuration.
    pub fn builder(config: &MemoryConfig) -> LoadLineBuilder {
        LoadLineBuilder {
            config: config.clone(),
            manager: MemoryManager::builder(config.monitor_config().clone()),
            holders: Holders::default(),
            runtime: None,
            admission: Admission::new(),
            alerts: Alerts::new(),
            allocator: None,
        }
    }

    /// The monitor, and whoever makes room.
    #[must_use]
    pub const fn manager(&self) -> &MemoryManager {
        &self.manager
    }

    /// Who lets requests in.
    #[must_use]
    pub const fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Who is told of alerts.
    #[must_use]
    pub fn alerts(&self) -> &Alerts {
        self.manager.alerts()
    }

    /// What is known of the past at a resolution, oldest first.
    #[must_use]
    pub fn history(&self, resolution: Resolution) -> Vec<HistoryPoint> {
        self.known().history.points(resolution).collect()
    }

    /// What leaks now, the worst first.
    #[must_use]
    pub fn verdicts(&self) -> Vec<Verdict> {
        self.known().standing.clone()
    }

    /// Whether admission has refused requests in the last 10 seconds. [`describe`](Self::describe) names whose,
    /// and what there was too little of.
    #[must_use]
    pub fn is_shedding(&self) -> bool {
        self.known().shedding(Instant::now()).next().is_some()
    }

    /// By what leaks are looked for now.
    #[must_use]
    pub fn leaks_config(&self) -> LeakConfig {
        self.known().leaks_config.clone()
    }

    /// What became of asking everybody what they hold.
    #[must_use]
    pub fn holders(&self) -> HolderStats {
        self.known().holders(Instant::now())
    }

    /// Goes by another configuration from now on.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range. Nothing is changed then.
    pub fn reconfigure(&self, config: &MemoryConfig) -> Result<(), ConfigError> {
        config.validate()?;
        self.apply(config).map_err(|error| match error {
            ManagerError::Config(error) => error,
            ManagerError::Thread(_) => unreachable!("no thread is made"),
        })
    }

    fn apply(&self, config: &MemoryConfig) -> Result<(), ManagerError> {
        let monitor = config.monitor_config().clone();
        let applied = self.manager.reconfigure(monitor);
        applied.map_err(ManagerError::Config)?;
        let applied = self.admission.reconfigure(config.admission_config());
        applied.map_err(ManagerError::Config)?;
        let mut findings = self.known();
        findings.leaks.reconfigure(config.leaks_config());
        findings.leaks_config = config.leaks_config().clone();
        Ok(())
    }

    /// Writes all of it to the current recorder of the `metrics` facade: what
    /// [the monitor](MemoryManager::publish_metrics) and [admission](Admission::publish_metrics) do,
    /// and besides:
    ///
    /// | series `plimsoll_memory_…` | kind | labels |
    /// |---|---|---|
    /// | `leaks` | gauge, of how many things leak | `kind` |
    /// | `holders_age_seconds` | gauge, of how old it is what is known of holders, once they were asked | |
    /// | `holders_silent` | gauge, of how many do not answer | |
    /// | `holders_rounds_total`, `holders_panics_total`, `holders_left_behind_total` | counter | |
    ///
    /// Call it before a scrape.
    #[cfg(feature = "metrics")]
    pub fn publish_metrics(&self) {
        use metrics::{counter, gauge};
        self.manager.publish_metrics();
        self.admission.publish_metrics();
        let holders = self.holders();
        if let Some(age) = holders.age {
            gauge!("plimsoll_memory_holders_age_seconds").set(age.as_secs_f64());
        }
        gauge!("plimsoll_memory_holders_silent").set(holders.silent.len() as f64);
        for (name, count) in [
            ("plimsoll_memory_holders_rounds_total", holders.rounds),
            ("plimsoll_memory_holders_panics_total", holders.panics),
            (
                "plimsoll_memory_holders_left_behind_total",
                holders.left_behind,
            ),
        ] {
            counter!(name).absolute(count);
        }
        let standing = self.verdicts();
        for kind in LeakKind::ALL {
            let leaks = standing.iter().filter(|verdict| verdict.kind == kind);
            gauge!("plimsoll_memory_leaks", "kind" => kind.as_str()).set(leaks.count() as f64);
        }
    }

    /// Says in one sentence how things are:
    /// `shedding /export: memory 91 % of 512 MiB, limit in 14 min at +3.0 MiB/s, /demo/leak holds 220 MiB`, or
    /// `shedding /export: 97 % of 1024 descriptors open, memory 34 % of 512 MiB`.
    #[must_use]
    pub fn describe(&self) -> String {
        let figures = self.manager.figures();
        self.known().describe(&figures, Instant::now())
    }

    fn known(&self) -> MutexGuard<'_, Findings> {
        lock(&self.known)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for LoadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadLine")
            .field("manager", &self.manager)
            .field("admission", &self.admission)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LoadLineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadLineBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
