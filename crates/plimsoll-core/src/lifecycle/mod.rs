//! Named tasks, and a stop that ends within its deadline.
//!
//! # A stop
//!
//! | phase | what happens | ends |
//! |---|---|---|
//! | [`Leaving`](Phase::Leaving) | not ready any more, still serving, so that load balancers look elsewhere | after `drain_delay`; at once when nothing serves |
//! | [`Draining`](Phase::Draining) | listeners stop accepting and finish their requests | when all are done, or at 60 % of the time left |
//! | [`Closing`](Phase::Closing) | holdings flush, answer whoever waits, and free the rest | when all are closed, or at 75 % of the time left |
//! | [`Cancelling`](Phase::Cancelling) | tasks are told to end, and new ones refused | when all have ended, or half a second before the deadline |
//! | [`Stopped`](Phase::Stopped) | tasks that are left are aborted and named | |
//!
//! Each phase that ends early leaves its time to the next ones. A second request to stop
//! ([`Lifecycle::abort`]) goes to the end at once, whatever the phase.
//!
//! What serves takes part by holding a [`DrainGuard`]; see [`Lifecycle::listener`].
//!
//! # Tasks
//!
//! A task spawned by [`Lifecycle::spawn`] has a name and takes one of a bounded number of places.
//! It is expected to end when [`Lifecycle::cancelled`] does. A task that is done leaves nothing
//! behind.

#[cfg(all(test, plimsoll_loom))]
mod loom;
mod report;
mod signal;
mod stop;
mod tasks;

use self::tasks::Tasks;
pub use self::{
    report::{Drained, StopReport},
    signal::StopSignals,
    tasks::{TaskCounts, TaskGroup},
};
use crate::{
    ConfigError, Name, Registry,
    settings::{self, Fields, Settings, duration, integer},
    sync::Mutex,
};
use pin_project_lite::pin_project;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt, io,
    panic::Location,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinHandle},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Signals this close together are one request.
const SAME_SIGNAL: Duration = Duration::from_millis(250);

/// The tasks of a service and the phases of its stop. Cloning gives another handle to the same.
///
/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Lifecycle {
    inner: Arc<Inner>,
}

/// The settings of a [`Lifecycle`].
#[derive(Clone, Copy, Debug)]
#[must_use = "settings do nothing until a lifecycle is made with them"]
pub struct LifecycleConfig {
    drain_delay: Duration,
    stop_timeout: Duration,
    max_tasks: usize,
}

/// Where a service stands between its start and its end. Phases follow each other in this order.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Phase {
    /// Not ready yet.
    Starting,
    /// Ready.
    Running,
    /// Not ready any more, but still serving.
    Leaving,
    /// Finishing requests, accepting no connections.
    Draining,
    /// Holdings are being closed.
    Closing,
    /// Tasks are being cancelled.
    Cancelling,
    /// At the end.
    Stopped,
}

/// What asked for a stop.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum StopReason {
    /// SIGTERM.
    Terminate,
    /// SIGINT, or Ctrl-C. Somebody waits at a terminal, so there is no drain delay.
    Interrupt,
    /// The program itself, by [`Lifecycle::request_stop`].
    Requested,
}

/// A task was refused, and its future dropped without being polled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SpawnError {
    /// The service is stopping.
    ShuttingDown(Name),
    /// This many tasks are alive, and no more may be.
    TooManyTasks(Name, usize),
}

/// Keeps the drain phase open while something serves.
///
/// Dropping it says that whatever it stood for is done.
#[derive(Debug)]
#[must_use = "dropping the guard says that the listener is done"]
pub struct DrainGuard {
    inner: Arc<Inner>,
    drained: Drained,
}

#[derive(Debug)]
struct Inner {
    config: LifecycleConfig,
    phase: watch::Sender<Phase>,
    /// The phase once more, for those who ask for each request: reading it takes no lock.
    phase_now: AtomicU8,
    tasks: Tasks<AbortHandle>,
    no_tasks: Notify,
    listeners: Mutex<Listeners>,
    no_listeners: Notify,
    requested: CancellationToken,
    draining: CancellationToken,
    cut: CancellationToken,
    cancelled: CancellationToken,
    aborted: CancellationToken,
    stopping: Mutex<Option<Stopping>>,
    /// Held by the stop under way, so that a second one waits for it and gets its report.
    stop: tokio::sync::Mutex<Option<Arc<StopReport>>>,
}

/// When a stop began, and when it has to be over.
#[derive(Clone, Copy, Debug)]
struct Stopping {
    started: Instant,
    deadline: Instant,
}

#[derive(Debug, Default)]
struct Listeners {
    /// How many are open of each name.
    open: BTreeMap<Name, usize>,
    /// Whether no more are let in.
    draining: bool,
    drained: Vec<Drained>,
}

pin_project! {
    /// A task's future. The guard is dropped after it, polled or not.
    struct Tracked<F> {
        #[pin]
        future: F,
        guard: TaskGuard,
    }
}

/// Takes a task out of the table when its future is dropped: done, aborted, panicked, unpolled.
struct TaskGuard {
    inner: Arc<Inner>,
    id: u64,
    name: Name,
    /// Whether the future is being polled, and so is what panics if the guard is dropped then. A
    /// task may also be dropped by a thread that panics for another reason.
    in_poll: bool,
}

// === impl Lifecycle ===

impl Lifecycle {
    /// Makes a lifecycle with the default settings, in the phase [`Starting`](Phase::Starting).
    #[must_use]
    pub fn new() -> Self {
        Self::of(LifecycleConfig::default())
    }

    /// Makes a lifecycle.
    ///
    /// # Errors
    ///
    /// Names each setting that is out of its range; the drain delay has to be shorter than the stop
    /// timeout.
    pub fn with_config(config: LifecycleConfig) -> Result<Self, ConfigError> {
        settings::check(&config)?;
        Ok(Self::of(config))
    }

    fn of(config: LifecycleConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                phase: watch::Sender::new(Phase::Starting),
                phase_now: AtomicU8::new(Phase::Starting as u8),
                tasks: Tasks::new(config.max_tasks),
                no_tasks: Notify::new(),
                listeners: Mutex::default(),
                no_listeners: Notify::new(),
                requested: CancellationToken::new(),
                draining: CancellationToken::new(),
                cut: CancellationToken::new(),
                cancelled: CancellationToken::new(),
                aborted: CancellationToken::new(),
                stopping: Mutex::default(),
                stop: tokio::sync::Mutex::new(None),
            }),
        }
    }

    /// Where the service stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.inner.phase_now.load(Relaxed))]
    }

    /// Watches where the service stands.
    #[must_use]
    pub fn watch_phase(&self) -> watch::Receiver<Phase> {
        self.inner.phase.subscribe()
    }

    /// Whether new work should be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Running
    }

    /// Says that the service is ready. Does nothing once it is stopping.
    pub fn set_ready(&self) {
        self.inner.advance(Phase::Running);
    }

    /// Spawns a named task on the current runtime.
    ///
    /// The task should end when [`cancelled`](Self::cancelled) does; it is aborted at the
    /// deadline otherwise. Dropping the handle detaches it. If it panics, that is logged and
    /// counted, and the others do not notice.
    ///
    /// # Errors
    ///
    /// Refuses the task, dropping its future unpolled, when tasks are being cancelled or when
    /// there are as many as may be.
    ///
    /// # Panics
    ///
    /// When called outside a Tokio runtime.
    #[track_caller]
    pub fn spawn<F>(
        &self,
        name: impl Into<Name>,
        future: F,
    ) -> Result<JoinHandle<F::Output>, SpawnError>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let name = name.into();
        let id = self
            .inner
            .tasks
            .reserve(name, Location::caller(), Instant::now())?;
        let guard = TaskGuard {
            inner: self.inner.clone(),
            id,
            name,
            in_poll: false,
        };
        let task = tokio::spawn(Tracked { future, guard });
        if let Some(abort) = self.inner.tasks.attach(id, task.abort_handle()) {
            abort.abort();
        }
        Ok(task)
    }

    /// The tasks alive, grouped by name, most of them first.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskGroup> {
        self.inner.tasks.groups()
    }

    /// How many tasks are alive.
    #[must_use]
    pub fn task_count(&self) -> usize {
        self.inner.tasks.len()
    }

    /// How many tasks there were.
    #[must_use]
    pub fn task_counts(&self) -> TaskCounts {
        self.inner.tasks.counts()
    }

    /// The most tasks that may be alive at a time.
    #[must_use]
    pub fn max_tasks(&self) -> usize {
        self.inner.config.max_tasks
    }

    /// Waits until tasks should end.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.inner.cancelled.cancelled()
    }

    /// A token that is cancelled when tasks should end, to be moved into one. Cancelling it
    /// cancels nothing else.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.inner.cancelled.child_token()
    }

    /// Waits until requests should end: long answers, an event stream say, had better end now
    /// than be cut off later.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub fn draining(&self) -> WaitForCancellationFuture<'_> {
        self.inner.draining.cancelled()
    }

    /// Takes part in the drain phase under `name`: a stop waits until the guard is dropped.
    ///
    /// Returns `None` when listeners are already draining: do not start to serve any more.
    pub fn listener(&self, name: impl Into<Name>) -> Option<DrainGuard> {
        let name = name.into();
        let mut listeners = self.inner.listeners.lock();
        // Under the lock, so that the stop either sees this listener or is seen by it.
        if listeners.draining {
            return None;
        }
        *listeners.open.entry(name).or_default() += 1;
        drop(listeners);
        Some(DrainGuard {
            inner: self.inner.clone(),
            drained: Drained {
                name,
                finished: 0,
                cut: 0,
            },
        })
    }

    /// Asks for a stop from inside the program, as a signal does from outside.
    pub fn request_stop(&self) {
        self.inner.requested.cancel();
    }

    /// Waits until [`request_stop`](Self::request_stop) is called.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub fn stop_requested(&self) -> WaitForCancellationFuture<'_> {
        self.inner.requested.cancelled()
    }

    /// Ends a stop under way at once: connections are cut, holdings are not flushed any further,
    /// tasks are aborted. What is cut or aborted has half a second to be dropped. A stop that
    /// begins later ends the same way.
    pub fn abort(&self) {
        self.inner.aborted.cancel();
    }

    /// Waits for a signal or a [request](Self::request_stop) to stop.
    ///
    /// For services that drain by themselves; others call
    /// [`stop_on_signal`](Self::stop_on_signal), which does the whole.
    ///
    /// # Errors
    ///
    /// When signal handlers cannot be installed.
    pub async fn shutdown_signal(&self) -> io::Result<StopReason> {
        Ok(self.next_signal(&mut StopSignals::new()?).await)
    }

    async fn next_signal(&self, signals: &mut StopSignals) -> StopReason {
        let reason = tokio::select! {
            reason = signals.recv() => reason,
            () = self.stop_requested() => StopReason::Requested,
        };
        tracing::info!(%reason, "stopping");
        reason
    }

    /// Waits for a signal or a [request](Self::request_stop), and stops. A second signal aborts,
    /// if it comes a quarter of a second after the first or later: terminals and the programs that
    /// wrap a service often deliver one signal twice.
    ///
    /// # Errors
    ///
    /// When signal handlers cannot be installed.
    pub async fn stop_on_signal(&self, registry: &Registry) -> io::Result<Arc<StopReport>> {
        let mut signals = StopSignals::new()?;
        let reason = self.next_signal(&mut signals).await;
        let abort_on_signal = async {
            // A request from inside the program is no signal.
            let mut first = (reason != StopReason::Requested).then(Instant::now);
            loop {
                let signal = signals.recv().await;
                let now = Instant::now();
                match first {
                    Some(first) if first + SAME_SIGNAL <= now => {
                        tracing::warn!(reason = %signal, "second signal, aborting");
                        self.abort();
                    }
                    Some(_) => tracing::debug!(reason = %signal, "the same signal once more"),
                    None => first = Some(now),
                }
            }
        };
        Ok(tokio::select! {
            report = self.stop(registry, reason) => report,
            never = abort_on_signal => never,
        })
    }

    /// Walks through the first phases of a stop, up to the end of [`Draining`](Phase::Draining).
    ///
    /// [`stop`](Self::stop) does this too, and goes on from here when it was done already. The
    /// stop timeout counts from the first of the two.
    ///
    /// # Cancel safety
    ///
    /// As [`stop`](Self::stop).
    pub async fn drain(&self, reason: StopReason) {
        let _under_way = self.inner.stop.lock().await;
        if !self.inner.cut.is_cancelled() {
            self.inner.drain(reason).await;
        }
    }

    /// Walks through the phases of a stop, and reports.
    ///
    /// Called a second time, it waits for the first and returns the same report. A task spawned
    /// by [`spawn`](Self::spawn) must not call it, for it would wait for itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the stop in the phase it was in. Calling it again goes on from
    /// there, with the deadline of the first call; holdings that were being closed are dropped and
    /// not reported.
    pub async fn stop(&self, registry: &Registry, reason: StopReason) -> Arc<StopReport> {
        let mut done = self.inner.stop.lock().await;
        if let Some(report) = &*done {
            return report.clone();
        }
        let report = Arc::new(self.inner.stop(registry, reason).await);
        let (elapsed, clean) = (report.elapsed, report.is_clean());
        tracing::info!(%reason, ?elapsed, clean, "stopped");
        *done = Some(report.clone());
        report
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

// === impl LifecycleConfig ===

impl LifecycleConfig {
    /// Sets how long the service goes on serving after it said that it is not ready, so that
    /// load balancers have noticed before it stops accepting.
    ///
    /// Defaults to 5 seconds. Counts towards the stop timeout. There is no delay on
    /// [`StopReason::Interrupt`], nor when nothing serves.
    pub fn drain_delay(mut self, delay: Duration) -> Self {
        self.drain_delay = delay;
        self
    }

    /// Sets how long a stop may take from the request to the end, drain delay included.
    ///
    /// Defaults to 25 seconds: orchestrators commonly kill after 30. A task that blocks its
    /// thread, and so cannot be dropped when it is aborted, may add half a second.
    pub fn stop_timeout(mut self, timeout: Duration) -> Self {
        self.stop_timeout = timeout;
        self
    }

    /// Sets how many tasks may be alive at a time.
    ///
    /// Defaults to 10 000. Each takes about 250 bytes here besides what the runtime needs.
    pub fn max_tasks(mut self, tasks: usize) -> Self {
        self.max_tasks = tasks;
        self
    }
}

impl Settings for LifecycleConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "drain_delay",
            "How long it goes on serving after it said that it is not ready.",
            &mut duration(&mut self.drain_delay, Duration::ZERO..=Duration::MAX),
        );
        let timeout = settings::Value::Duration(self.stop_timeout);
        fields.require(
            "drain_delay",
            self.drain_delay < self.stop_timeout,
            &format_args!("shorter than stop_timeout, {timeout}"),
        );
        fields.setting(
            "stop_timeout",
            "How long a stop may take, drain delay included.",
            &mut duration(
                &mut self.stop_timeout,
                Duration::from_millis(1)..=Duration::MAX,
            ),
        );
        fields.setting(
            "max_tasks",
            "How many named tasks may be alive at a time.",
            &mut integer(&mut self.max_tasks, 0..=u64::MAX),
        );
    }
}

impl Default for LifecycleConfig {
    fn default() -> Self {
        Self {
            drain_delay: Duration::from_secs(5),
            stop_timeout: Duration::from_secs(25),
            max_tasks: 10_000,
        }
    }
}

// === impl Phase, StopReason ===

impl Phase {
    const ALL: [Self; 7] = [
        Self::Starting,
        Self::Running,
        Self::Leaving,
        Self::Draining,
        Self::Closing,
        Self::Cancelling,
        Self::Stopped,
    ];

    /// The phase as a metric label, in `snake_case`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Leaving => "leaving",
            Self::Draining => "draining",
            Self::Closing => "closing",
            Self::Cancelling => "cancelling",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Terminate => "on SIGTERM",
            Self::Interrupt => "on SIGINT",
            Self::Requested => "on request",
        })
    }
}

// === impl SpawnError ===

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShuttingDown(name) => {
                write!(f, "task {name:?} refused: the service is stopping")
            }
            Self::TooManyTasks(name, max) => write!(
                f,
                "task {name:?} refused: {max} tasks are alive, raise `max_tasks` if that is right"
            ),
        }
    }
}

impl std::error::Error for SpawnError {}

// === impl DrainGuard ===

impl DrainGuard {
    /// Waits until the listener should stop accepting and finish what it has.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub fn draining(&self) -> WaitForCancellationFuture<'_> {
        self.inner.draining.cancelled()
    }

    /// Waits until the listener should drop what is left.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub fn cut(&self) -> WaitForCancellationFuture<'_> {
        self.inner.cut.cancelled()
    }

    /// A token that is cancelled when the listener should drop what is left, to be moved into
    /// its tasks. Cancelling it cancels nothing else.
    #[must_use]
    pub fn cut_token(&self) -> CancellationToken {
        self.inner.cut.child_token()
    }

    /// Says that the listener is done, with how many requests ended since it began to drain and
    /// how many were cut off.
    pub fn finish(mut self, finished: u64, cut: u64) {
        self.drained.finished = finished;
        self.drained.cut = cut;
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        let mut listeners = self.inner.listeners.lock();
        listeners.close(self.drained.name);
        // A listener that ends while the service runs has nothing to tell the report.
        if listeners.draining {
            listeners.drained.push(self.drained);
        }
        let last = listeners.open.is_empty();
        drop(listeners);
        if last {
            self.inner.no_listeners.notify_waiters();
        }
    }
}

// === impl Listeners ===

impl Listeners {
    fn close(&mut self, name: Name) {
        if let Entry::Occupied(mut open) = self.open.entry(name) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }

    /// What each listener that is done did, and how many of each name are not.
    fn tell(&mut self) -> (Vec<Drained>, BTreeMap<Name, usize>) {
        (std::mem::take(&mut self.drained), self.open.clone())
    }
}

// === impl Tracked, TaskGuard ===

impl<F: Future> Future for Tracked<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.guard.in_poll = true;
        let poll = this.future.poll(cx);
        this.guard.in_poll = false;
        poll
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if self.in_poll {
            tracing::error!(task = %self.name, "task panicked");
        }
        if self.inner.tasks.finish(self.id, self.in_poll) {
            self.inner.no_tasks.notify_waiters();
        }
    }
}
