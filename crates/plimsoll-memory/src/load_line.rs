//! All that keeps the process under its line, in one handle.

mod holders;

pub use self::holders::HolderStats;
use self::holders::{Answer, Holders};
use crate::{
    Admission, AdmissionStats, Alert, AlertKind, Alerts, Known, ManagerBuilder, ManagerError,
    MemoryConfig, MemoryFigures, MemoryManager, MonitorGuard, Severity,
    admission::{Meter, Scarce},
    history::{History, HistoryPoint, Point, Resolution},
    monitor::{Source, SystemSource},
    room::{MeterWithoutKept, Room, SourceWithRoom},
    show::{Percent, Rate, Size, Span},
    verdict::{LeakConfig, LeakDetector, LeakKind, Verdict},
    worker::{Worker, WorkerStats},
};
use plimsoll_alloc::Reclaim;
use plimsoll_core::{ConfigError, Name, Registry, lifecycle::TaskGroup};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{runtime::Handle, time::Instant};

/// How often everybody is asked what they hold, and it is looked for what leaks.
const JUDGED_EVERY: Duration = Duration::from_secs(1);
/// What was said longer ago than that is old, and whoever has not answered for so long is named.
const OLD_AFTER: Duration = Duration::from_secs(5);
/// How long a route is told of after a request of it was refused.
const SHEDDING_FOR: Duration = Duration::from_secs(10);
/// How long memory has to be short, on average, for the allocator to be told to be frugal.
const FRUGAL_AFTER: f64 = 1.0;
/// Of that time, how much it has to be short for that, and for how little it need not be any longer.
const FRUGAL_FROM: f64 = 0.6;
const FRUGAL_UNTIL: f64 = 0.2;

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
    known: Arc<Mutex<Kept>>,
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

/// What is kept of what was seen.
struct Kept {
    history: History,
    leaks: LeakDetector,
    /// What `leaks` goes by.
    leaks_config: LeakConfig,
    standing: Vec<Verdict>,
    /// When everybody was asked what they said last.
    asked: Option<Instant>,
    /// Who held most then, and how much, where that is worth a word.
    most: Option<(Name, u64)>,
    in_flight: Option<u64>,
    asking: WorkerStats<u64>,
    silent: Vec<Name>,
    shedding: Vec<Shedding<Name>>,
    /// The same for want of tasks and descriptors, of all routes.
    crowded: [Shedding<Scarce>; 2],
    /// How many tasks may be alive.
    max_tasks: Option<u64>,
}

/// How many requests were refused, of a route or for want of something, and when there were more of them.
#[derive(Clone, Copy, Debug)]
struct Shedding<T> {
    of: T,
    refused: u64,
    at: Option<Instant>,
}

/// What follows each sample.
struct Follower {
    admission: Admission,
    alerts: Alerts,
    allocator: Option<&'static (dyn Reclaim + Sync)>,
    room: Option<Arc<Mutex<Room>>>,
    asker: Arc<Worker<Holders>>,
    /// The number of the answer that was taken note of last.
    answer: u64,
    known: Arc<Mutex<Kept>>,
    judged: Option<Instant>,
    frugality: Frugality,
}

/// Whether the allocator is to give back at once what is free.
#[derive(Default)]
struct Frugality {
    share: f64,
    at: Option<Instant>,
    is_on: bool,
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
        let known = Arc::new(Mutex::new(Kept {
            history: History::new(Instant::now(), SystemTime::now()),
            leaks: LeakDetector::new(config.leaks_config()),
            leaks_config: config.leaks_config().clone(),
            standing: Vec::new(),
            asked: None,
            most: None,
            in_flight: None,
            asking: WorkerStats::default(),
            silent: Vec::new(),
            shedding: Vec::new(),
            crowded: [Scarce::Tasks, Scarce::Descriptors].map(Shedding::new),
            max_tasks: None,
        }));
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
        let mut kept = self.known();
        kept.leaks.reconfigure(config.leaks_config());
        kept.leaks_config = config.leaks_config().clone();
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

    fn known(&self) -> MutexGuard<'_, Kept> {
        lock(&self.known)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kept {
    fn describe(&self, figures: &MemoryFigures, now: Instant) -> String {
        let shedding: Vec<_> = self.shedding(now).collect();
        let silent: Vec<_> = self.silent.iter().map(|name| name.as_str()).collect();
        let leaks = self.standing.iter().find(|it| it.kind.is_in_bytes());
        let is_short_of = |scarce| {
            let mut crowded = self.crowded.iter();
            crowded.any(|shedding| shedding.of == scarce && shedding.is_recent(now))
        };
        figures.describe(&Known {
            shedding: &shedding,
            max_tasks: self.max_tasks.filter(|_| is_short_of(Scarce::Tasks)),
            is_short_of_descriptors: is_short_of(Scarce::Descriptors),
            holds: self.most.map(|(name, bytes)| (name.as_str(), bytes)),
            held_ago: self.age(now).filter(is_old),
            leaks: leaks.map(|leak| (leak.name.as_str(), leak.slope)),
            silent: &silent,
        })
    }

    fn holders(&self, now: Instant) -> HolderStats {
        let WorkerStats {
            runs,
            sum,
            left_behind,
        } = self.asking;
        HolderStats {
            rounds: runs,
            age: self.age(now),
            panics: sum,
            left_behind,
            silent: self.silent.clone(),
        }
    }

    /// How long ago everybody was asked what they said last.
    fn age(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.asked?))
    }

    /// Takes note of what everybody said.
    fn hear(&mut self, answer: &Answer, limit: Option<u64>) {
        self.asked = Some(answer.at);
        self.in_flight = answer.in_flight;
        let told = answer.told.iter();
        self.most = told
            .clone()
            .filter(|it| matches!(it.kind, LeakKind::Route | LeakKind::Holding))
            .map(|it| (it.name, it.held))
            .max_by_key(|(_, held)| *held)
            .filter(|(_, held)| limit.is_some_and(|limit| *held > limit / 20));
        // Which may have been a while ago.
        told.for_each(|it| self.observe(answer.at, it));
    }

    fn observe(&mut self, now: Instant, it: &Held) {
        let Held {
            kind,
            name,
            held,
            bound,
        } = *it;
        self.leaks.observe(now, kind, name, held, bound);
    }

    /// Routes of which a request was refused not long ago.
    fn shedding(&self, now: Instant) -> impl Iterator<Item = &'static str> {
        let routes = self.shedding.iter();
        routes
            .filter(move |route| route.is_recent(now))
            .map(|route| route.of.as_str())
    }

    /// Looks who was refused.
    fn look_at(&mut self, admission: &Admission, now: Instant) {
        self.max_tasks = admission.max_tasks();
        for crowded in &mut self.crowded {
            crowded.look(admission.shed_for(crowded.of), now);
        }
        let mut routes = admission.routes();
        routes.sort_unstable_by_key(|route| route.name);
        // Several layers may go by one name.
        routes.dedup_by(|later, first| {
            let is_same = later.name == first.name;
            if is_same {
                first.refused += later.refused;
            }
            is_same
        });
        let before = std::mem::take(&mut self.shedding);
        self.shedding = routes
            .iter()
            .map(|route| {
                let found = before.binary_search_by_key(&route.name, |it| it.of);
                let mut shedding = match found {
                    Ok(place) => before[place],
                    Err(_) => Shedding::new(route.name),
                };
                shedding.look(route.refused, now);
                shedding
            })
            .collect();
    }
}

impl<T> Shedding<T> {
    const fn new(of: T) -> Self {
        Self {
            of,
            refused: 0,
            at: None,
        }
    }

    /// So many were refused until now.
    fn look(&mut self, refused: u64, now: Instant) {
        if refused > self.refused {
            self.at = Some(now);
        }
        self.refused = refused;
    }

    fn is_recent(&self, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) < SHEDDING_FOR;
        self.at.is_some_and(recent)
    }
}

impl Follower {
    fn follow(&mut self, now: Instant, figures: &MemoryFigures) {
        if let Some(room) = &self.room {
            lock(room).set_line(figures.line);
        }
        self.admission.set_line(figures.line);
        let (crowded, of) = self.admission.crowded(figures);
        match shed(figures) {
            short if short >= crowded => self.admission.set_shed(short),
            _ => self.admission.shed(crowded, of),
        }
        let stats = self.admission.stats();
        tracing::trace!(?stats, "admission");
        if let Some(allocator) = self.allocator {
            self.frugality.follow(now, stats.is_short, allocator);
        }
        // First: what is asked for below is of the time after.
        let answer = self.look_after_holders(now);
        let judges = self
            .judged
            .is_none_or(|at| now.saturating_duration_since(at) >= JUDGED_EVERY);
        let mut kept = lock(&self.known);
        kept.asking = self.asker.stats();
        kept.silent = self.asker.silent(now, OLD_AFTER);
        if let Some(answer) = answer {
            kept.hear(&answer, figures.limit);
        }
        let in_flight = match kept.age(now) {
            Some(age) if !is_old(&age) => kept.in_flight,
            _ => None,
        };
        let point = point(figures, in_flight, stats.refused());
        kept.history.record(now, point);
        if !judges {
            return;
        }
        self.judged = Some(now);
        // While somebody does not answer the thread is busy, and nobody is asked.
        self.asker.submit(now);
        kept.look_at(&self.admission, now);
        for it in of_the_process(figures, stats.held) {
            kept.observe(now, &it);
        }
        let judgement = kept.leaks.judge(now, figures.headroom);
        kept.standing = judgement.standing;
        let begun: Vec<_> = kept
            .standing
            .iter()
            .filter(|it| it.is_new)
            .copied()
            .collect();
        drop(kept);
        begun
            .iter()
            .for_each(|verdict| self.alerts.raise(&begins(verdict)));
        for verdict in &judgement.ended {
            let text = format!("{} {} grows no longer", verdict.kind, verdict.name);
            let alert = Alert::new(AlertKind::Leak, Severity::Info, text);
            self.alerts.raise(&alert.about(verdict.name));
        }
    }

    /// Leaves those behind who do not come back. Returns what the others said, once.
    fn look_after_holders(&mut self, now: Instant) -> Option<Arc<Answer>> {
        let seen = self.asker.watch(now);
        Worker::<Holders>::tell(&seen, &self.alerts);
        let (number, answer) = self.asker.last()?;
        let before = std::mem::replace(&mut self.answer, number);
        (number != before).then_some(answer)
    }
}

/// What there is of the process as a whole.
fn of_the_process(figures: &MemoryFigures, in_flight: u64) -> impl Iterator<Item = Held> {
    const PROCESS: Name = Name::from_static("process");
    const DESCRIPTORS: Name = Name::from_static("descriptors");
    let used = figures
        .used
        .map(|used| used.saturating_sub(figures.reclaimable));
    let process = figures.tracked.or(used).map(|held| Held {
        kind: LeakKind::Process,
        name: PROCESS,
        // What requests hold goes with them.
        held: held.saturating_sub(in_flight),
        bound: None,
    });
    let descriptors = figures.descriptors.map(|open| Held {
        kind: LeakKind::Descriptors,
        name: DESCRIPTORS,
        held: open,
        bound: figures.max_descriptors,
    });
    process.into_iter().chain(descriptors)
}

/// Nobody is refused, and the allocator is not slowed down, by what nobody looks at any more.
impl Drop for Follower {
    fn drop(&mut self) {
        self.asker.close();
        self.admission.set_line(None);
        self.admission.set_shed(0.0);
        if let Some(room) = &self.room {
            lock(room).leave();
        }
        if let (true, Some(allocator)) = (self.frugality.is_on, self.allocator) {
            allocator.set_frugal(false);
        }
    }
}

impl Frugality {
    fn follow(&mut self, now: Instant, is_short: bool, allocator: &dyn Reclaim) {
        let passed = self
            .at
            .replace(now)
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let weight = 1.0 - (-passed.as_secs_f64() / FRUGAL_AFTER).exp();
        self.share += (f64::from(u8::from(is_short)) - self.share) * weight;
        let turns_on = !self.is_on && self.share > FRUGAL_FROM;
        let turns_off = self.is_on && self.share < FRUGAL_UNTIL;
        if turns_on || turns_off {
            self.is_on = turns_on;
            allocator.set_frugal(turns_on);
            tracing::debug!(frugal = turns_on, "the allocator gives back what is free");
        }
    }
}

/// How much is shed: nothing at the line, all halfway from there to the limit.
fn shed(figures: &MemoryFigures) -> f64 {
    let (Some(used), Some(line), Some(limit)) = (figures.used, figures.line, figures.limit) else {
        return 0.0;
    };
    let over = used
        .saturating_sub(figures.reclaimable)
        .saturating_sub(line);
    let most = (limit.saturating_sub(line) / 2).max(1);
    (over as f64 / most as f64).min(1.0)
}

const fn point(figures: &MemoryFigures, in_flight: Option<u64>, refused: u64) -> Point {
    Point {
        used: figures.used,
        tracked: figures.tracked,
        resident: figures.resident,
        limit: figures.limit,
        pressure: figures.pressure,
        tasks: figures.tasks,
        in_flight,
        refused,
    }
}

fn is_old(age: &Duration) -> bool {
    *age > OLD_AFTER
}

fn begins(verdict: &Verdict) -> Alert {
    let Verdict {
        kind,
        name,
        slope,
        confidence,
        held,
        time_to_limit,
        ..
    } = verdict;
    let mut text = match kind.is_in_bytes() {
        true => format!(
            "{kind} {name} leaks {}, holds {}",
            Rate(*slope),
            Size(*held)
        ),
        false => format!("{kind} {name} grows by {slope:.1} a second, to {held}"),
    };
    text.push_str(&format!(", confidence {}", Percent(*confidence)));
    if let Some(time) = time_to_limit {
        text.push_str(&format!(", limit in {}", Span(*time)));
    }
    Alert::new(AlertKind::Leak, Severity::Warning, text).about(*name)
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
