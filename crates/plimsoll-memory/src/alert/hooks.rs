use super::{Alert, AlertKind, Severity};
use crate::PressureChange;
use plimsoll_core::{Name, registry::Overdue};
use std::{
    collections::VecDeque,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};
use tokio::time::Instant;

/// How many hooks there may be.
const MOST_HOOKS: usize = 32;
/// How many alerts wait for one hook.
const MOST_WAITING: usize = 64;
/// An alert of the same kind about the same is told once in so much time, and so is that it has ended.
const ONCE_IN: Duration = Duration::from_secs(60);
/// How many alerts are remembered for that.
const MOST_REMEMBERED: usize = 256;

/// Whoever is told of alerts.
///
/// It is called on a thread of its own, which it may block.
pub trait AlertSink: Send + 'static {
    /// Takes an alert.
    fn alert(&mut self, alert: &Alert);
}

impl<F: FnMut(&Alert) + Send + 'static> AlertSink for F {
    fn alert(&mut self, alert: &Alert) {
        self(alert);
    }
}

/// Tells alerts to the log and to hooks. Cloning gives another handle to the same one.
///
/// It keeps neither the monitor nor a registry alive.
#[derive(Clone, Debug)]
pub struct Alerts {
    shared: Arc<Shared>,
}

/// What is the same, so that it is told once in a while: that it begins is not that it ends.
type Same = (AlertKind, Severity, Option<Name>);

#[derive(Debug, Default)]
struct Shared {
    hooks: Mutex<Hooks>,
    told: Mutex<VecDeque<(Same, Instant)>>,
    alerts: AtomicU64,
    suppressed: AtomicU64,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Hooks {
    changes: Vec<Arc<Post<PressureChange>>>,
    alerts: Vec<Arc<Post<Alert>>>,
}

#[derive(Debug, Default)]
struct Counts {
    called: AtomicU64,
    skipped: AtomicU64,
    panics: AtomicU64,
}

/// What became of alerts and changes of the level.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct HookStats {
    /// How many hooks there are.
    pub hooks: usize,
    /// Alerts that were told.
    pub alerts: u64,
    /// Alerts that were not, because the same had been told in the last minute.
    pub suppressed: u64,
    /// How many times a hook was called.
    pub called: u64,
    /// How many times one was not called for something, because it was slow, or because what had begun had
    /// ended before.
    pub skipped: u64,
    /// How many times one panicked.
    pub panics: u64,
}

/// A hook could not be added.
#[derive(Debug)]
#[non_exhaustive]
pub enum HookError {
    /// There are as many as there may be.
    Full(usize),
    /// The system has no thread for it.
    Thread(io::Error),
}

/// What waits for one hook.
#[derive(Debug)]
struct Post<T> {
    waiting: Mutex<Waiting<T>>,
    changed: Condvar,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Waiting<T> {
    letters: VecDeque<T>,
    closed: bool,
}

/// Something that hooks are told.
trait Letter: Clone + Send + 'static {
    const MOST: usize;

    /// Makes one of what waits and what comes. False if both are to be told.
    fn absorb(&mut self, later: &Self) -> bool;

    /// Whether there is still something to tell.
    fn is_news(&self) -> bool;
}

impl Letter for PressureChange {
    const MOST: usize = 1;

    fn absorb(&mut self, later: &Self) -> bool {
        self.to = later.to;
        self.pressure = later.pressure;
        true
    }

    fn is_news(&self) -> bool {
        self.from != self.to
    }
}

impl Letter for Alert {
    const MOST: usize = MOST_WAITING;

    fn absorb(&mut self, later: &Self) -> bool {
        let same = self.kind == later.kind && self.name == later.name;
        if same {
            *self = later.clone();
        }
        same
    }

    fn is_news(&self) -> bool {
        true
    }
}

// === impl Alerts ===

impl Alerts {
    /// Without hooks.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::default(),
        }
    }

    /// Has `hook` called each time the level of pressure changes, on a thread of its own.
    ///
    /// While it is under way, later changes become one; if that is none, it is not called.
    ///
    /// # Errors
    ///
    /// When there are 32 hooks, or no thread for another.
    pub fn on_pressure(
        &self,
        mut hook: impl FnMut(&PressureChange) + Send + 'static,
    ) -> Result<(), HookError> {
        let mut hooks = self.hooks();
        hooks.check()?;
        let call = move |change: &PressureChange| hook(change);
        let post = Post::start(&self.shared.counts, call)?;
        hooks.changes.push(post);
        Ok(())
    }

    /// Has `sink` told of each alert, on a thread of its own.
    ///
    /// While it is under way, up to 64 wait for it, and the oldest goes first.
    ///
    /// # Errors
    ///
    /// When there are 32 hooks, or no thread for another.
    pub fn on_alert(&self, mut sink: impl AlertSink) -> Result<(), HookError> {
        let mut hooks = self.hooks();
        hooks.check()?;
        let post = Post::start(&self.shared.counts, move |alert: &Alert| sink.alert(alert))?;
        hooks.alerts.push(post);
        Ok(())
    }

    /// Logs an alert, and tells it to all hooks. But for levels of pressure, whatever was told in the last
    /// minute about the same thing is not told again with the same severity: what has ended since is told.
    pub fn raise(&self, alert: &Alert) {
        if !self.is_new(alert, Instant::now()) {
            self.shared.suppressed.fetch_add(1, Relaxed);
            return;
        }
        self.shared.alerts.fetch_add(1, Relaxed);
        alert.log();
        for post in &self.hooks().alerts {
            post.send(alert);
        }
    }

    /// Tells that a holding was not swept when it should have been. To be called by whom the registry
    /// [tells](plimsoll_core::Registry::on_overdue).
    pub fn overdue(&self, overdue: &Overdue) {
        let Overdue {
            name,
            late,
            interval,
            ..
        } = overdue;
        let text =
            format!("the sweep of {name} is {late:?} late, it should come every {interval:?}");
        self.raise(&Alert::new(AlertKind::Overdue, Severity::Warning, text).about(*name));
    }

    pub(crate) fn changed(&self, change: &PressureChange) {
        for post in &self.hooks().changes {
            post.send(change);
        }
    }

    /// What became of alerts.
    #[must_use]
    pub fn stats(&self) -> HookStats {
        let hooks = {
            let hooks = self.hooks();
            hooks.changes.len() + hooks.alerts.len()
        };
        let Shared {
            alerts,
            suppressed,
            counts,
            ..
        } = &*self.shared;
        HookStats {
            hooks,
            alerts: alerts.load(Relaxed),
            suppressed: suppressed.load(Relaxed),
            called: counts.called.load(Relaxed),
            skipped: counts.skipped.load(Relaxed),
            panics: counts.panics.load(Relaxed),
        }
    }

    fn is_new(&self, alert: &Alert, now: Instant) -> bool {
        if alert.kind.is_of_level() {
            return true;
        }
        let told = self.shared.told.lock();
        let mut told = told.unwrap_or_else(PoisonError::into_inner);
        told.retain(|(_, at)| now.saturating_duration_since(*at) < ONCE_IN);
        let same = (alert.kind, alert.severity, alert.name);
        if told.iter().any(|(before, _)| *before == same) {
            return false;
        }
        if told.len() == MOST_REMEMBERED {
            told.pop_front();
        }
        told.push_back((same, now));
        true
    }

    fn hooks(&self) -> MutexGuard<'_, Hooks> {
        let hooks = self.shared.hooks.lock();
        hooks.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Alerts {
    fn default() -> Self {
        Self::new()
    }
}

impl Hooks {
    fn check(&self) -> Result<(), HookError> {
        match self.changes.len() + self.alerts.len() {
            MOST_HOOKS.. => Err(HookError::Full(MOST_HOOKS)),
            _ => Ok(()),
        }
    }
}

/// Hooks end with whoever tells them.
impl Drop for Hooks {
    fn drop(&mut self) {
        self.changes.iter().for_each(|post| post.close());
        self.alerts.iter().for_each(|post| post.close());
    }
}

// === impl Post ===

impl<T: Letter> Post<T> {
    fn start(
        counts: &Arc<Counts>,
        call: impl FnMut(&T) + Send + 'static,
    ) -> Result<Arc<Self>, HookError> {
        let post = Arc::new(Self {
            waiting: Mutex::new(Waiting {
                letters: VecDeque::new(),
                closed: false,
            }),
            changed: Condvar::new(),
            counts: counts.clone(),
        });
        let thread = thread::Builder::new().name("plimsoll-hook".into());
        let waiting = post.clone();
        let spawned = thread.spawn(move || waiting.bring(call));
        spawned.map_err(HookError::Thread)?;
        Ok(post)
    }

    fn send(&self, letter: &T) {
        let mut waiting = self.lock();
        if let Some(last) = waiting.letters.back_mut()
            && last.absorb(letter)
        {
            self.counts.skipped.fetch_add(1, Relaxed);
            if !last.is_news() {
                waiting.letters.pop_back();
            }
            return;
        }
        if waiting.letters.len() == T::MOST {
            waiting.letters.pop_front();
            self.counts.skipped.fetch_add(1, Relaxed);
        }
        waiting.letters.push_back(letter.clone());
        drop(waiting);
        self.changed.notify_one();
    }

    /// Calls the hook for whatever comes, until nobody can send any more.
    fn bring(&self, mut call: impl FnMut(&T)) {
        loop {
            let mut waiting = self.lock();
            let letter = loop {
                if let Some(letter) = waiting.letters.pop_front() {
                    break letter;
                }
                if waiting.closed {
                    return;
                }
                let woken = self.changed.wait(waiting);
                waiting = woken.unwrap_or_else(PoisonError::into_inner);
            };
            drop(waiting);
            self.counts.called.fetch_add(1, Relaxed);
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| call(&letter))) {
                self.counts.panics.fetch_add(1, Relaxed);
                tracing::error!("a hook of the memory monitor panicked");
                // What was thrown may throw again.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Post<T> {
    fn close(&self) {
        let waiting = self.waiting.lock();
        waiting.unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_one();
    }
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(most) => write!(f, "there are {most} hooks, which is the most there may be"),
            Self::Thread(_) => f.write_str("there is no thread for the hook"),
        }
    }
}

impl std::error::Error for HookError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Full(_) => None,
            Self::Thread(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PressureLevel::{self, Critical, High, Normal};
    use plimsoll_core::Pressure;
    use std::sync::mpsc;

    fn change(from: PressureLevel, to: PressureLevel) -> PressureChange {
        PressureChange {
            from,
            to,
            pressure: Pressure::FULL,
            lasted: Duration::ZERO,
        }
    }

    fn alert(kind: AlertKind, name: &'static str) -> Alert {
        Alert::new(kind, Severity::Info, "text").about(Name::from_static(name))
    }

    /// A hook that says what it is told, and goes on when it is let.
    fn gated<T: Clone + Send + 'static>()
    -> (impl FnMut(&T) + Send, mpsc::Receiver<T>, mpsc::Sender<()>) {
        let (tell, told) = mpsc::channel();
        let (open, gate) = mpsc::channel();
        let hook = move |it: &T| {
            let _ = tell.send(it.clone());
            let _ = gate.recv();
        };
        (hook, told, open)
    }

    #[test]
    fn a_hook_that_blocks_holds_up_nobody_and_learns_the_sum() {
        let alerts = Alerts::new();
        let (slow, slow_told, open) = gated::<PressureChange>();
        alerts.on_pressure(slow).unwrap();
        let (tell, told) = mpsc::channel();
        alerts
            .on_pressure(move |change| tell.send(*change).unwrap())
            .unwrap();
        alerts.changed(&change(Normal, High));
        assert_eq!(slow_told.recv().unwrap().to, High);
        assert_eq!(told.recv().unwrap().to, High);
        for next in [change(High, Critical), change(Critical, Normal)] {
            alerts.changed(&next);
            assert_eq!(told.recv().unwrap(), next, "others are told at once");
        }
        assert_eq!(alerts.stats().skipped, 1);
        open.send(()).unwrap();
        let sum = slow_told.recv().unwrap();
        assert_eq!((sum.from, sum.to), (High, Normal));
    }

    #[test]
    fn what_ends_before_a_slow_hook_was_told_that_it_began_is_not_told() {
        let alerts = Alerts::new();
        let (slow, told, open) = gated::<PressureChange>();
        alerts.on_pressure(slow).unwrap();
        alerts.changed(&change(Normal, High));
        told.recv().unwrap();
        alerts.changed(&change(High, Normal));
        alerts.changed(&change(Normal, High));
        alerts.changed(&change(High, Critical));
        open.send(()).unwrap();
        let next = told.recv().unwrap();
        assert_eq!((next.from, next.to), (High, Critical));
        assert_eq!(alerts.stats().skipped, 1);
    }

    #[test]
    fn a_queue_is_bounded_and_loses_the_oldest() {
        let alerts = Alerts::new();
        let (slow, told, open) = gated::<Alert>();
        alerts.on_alert(slow).unwrap();
        alerts.raise(&alert(AlertKind::Pressure, "first"));
        told.recv().unwrap();
        // Two names in turn, so that no two become one.
        for n in 0..100 {
            let name = if n % 2 == 0 { "even" } else { "odd" };
            alerts.raise(&alert(AlertKind::Pressure, name));
        }
        drop(open);
        for _ in 0..MOST_WAITING {
            told.recv().unwrap();
        }
        assert_eq!(alerts.stats().skipped, 36);
        drop(alerts);
        assert!(told.recv().is_err(), "a hook ends with whoever tells it");
    }

    #[test]
    fn a_hook_that_panics_is_counted_and_called_again() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("told to, too");
            }
        }
        let alerts = Alerts::new();
        let (tell, told) = mpsc::channel();
        let hook = move |alert: &Alert| {
            tell.send(alert.name).unwrap();
            std::panic::panic_any(Bomb);
        };
        alerts.on_alert(hook).unwrap();
        for name in ["a", "b"] {
            alerts.raise(&alert(AlertKind::Leak, name));
            assert_eq!(told.recv().unwrap().unwrap().as_str(), name);
        }
        drop(told);
        while alerts.stats().panics < 2 {
            thread::yield_now();
        }
    }

    #[test]
    fn the_same_is_told_once_in_a_minute() {
        let alerts = Alerts::new();
        let now = Instant::now();
        let leak = alert(AlertKind::Leak, "a");
        assert!(alerts.is_new(&leak, now));
        assert!(!alerts.is_new(&leak, now + ONCE_IN - Duration::from_millis(1)));
        assert!(alerts.is_new(&alert(AlertKind::Leak, "b"), now));
        assert!(alerts.is_new(&alert(AlertKind::Tasks, "a"), now));
        let begins = Alert {
            severity: Severity::Warning,
            ..leak.clone()
        };
        assert!(alerts.is_new(&begins, now), "one begins, the other ends");
        assert!(!alerts.is_new(&begins, now));
        assert!(alerts.is_new(&leak, now + ONCE_IN));
        for n in 0..1_000 {
            let name = Name::new(&n.to_string());
            let leak = Alert::new(AlertKind::Leak, Severity::Info, "").about(name);
            assert!(alerts.is_new(&leak, now));
        }
        assert!(alerts.shared.told.lock().unwrap().len() <= MOST_REMEMBERED);
        let pressure = alert(AlertKind::Pressure, "a");
        assert!(alerts.is_new(&pressure, now) && alerts.is_new(&pressure, now));
    }

    #[test]
    fn no_more_hooks_are_taken_than_there_may_be() {
        let alerts = Alerts::new();
        for _ in 0..MOST_HOOKS {
            alerts.on_pressure(|_| {}).unwrap();
        }
        assert!(matches!(
            alerts.on_alert(|_: &Alert| {}),
            Err(HookError::Full(32))
        ));
        assert_eq!(alerts.stats().hooks, 32);
    }

    #[test]
    fn an_overdue_sweep_is_an_alert_about_its_holding() {
        let registry = plimsoll_core::Registry::new();
        let alerts = Alerts::new();
        let (tell, told) = mpsc::channel();
        alerts
            .on_alert(move |alert: &Alert| tell.send(alert.clone()).unwrap())
            .unwrap();
        let hook = alerts.clone();
        registry.on_overdue(move |overdue| hook.overdue(overdue));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let hour = Duration::from_secs(3_600);
            let held = plimsoll_core::test_util::FakeHolding::new("cache", hour);
            let _held = registry.register(held).unwrap();
            tokio::time::advance(hour).await;
            registry.check_overdue();
        });
        let alert = told.recv().unwrap();
        assert_eq!(
            (alert.kind, alert.name),
            (AlertKind::Overdue, Some(Name::from_static("cache")))
        );
        assert!(alert.text.contains("3600s late"), "{}", alert.text);
    }
}
