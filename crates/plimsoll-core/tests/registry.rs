//! Registering, sweeping and closing, on a paused clock.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_core::{
    Bounded, BoxFuture, CloseReport, Holding, Name, Registry, RegistryConfig, RemovalReason,
    Removed, Step, Totals, Usage,
    registry::{ClosedHolding, Overdue, RegisterError},
    test_util::{FakeHolding, alive_tasks, assert_balanced, assert_tasks_return_to},
};
use std::{
    fmt,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    task::yield_now,
    time::{Instant, advance, sleep, sleep_until},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// A holding that does what a test tells it to.
struct Scripted {
    name: &'static str,
    must_flush: bool,
    usage: Box<dyn Fn() -> Usage + Send + Sync>,
    sweep: Box<dyn Fn(Instant, usize) -> Step + Send + Sync>,
    close: Box<dyn Fn(Instant) -> BoxFuture<'static, CloseReport> + Send + Sync>,
    dropped: Box<dyn Fn() + Send + Sync>,
}

impl Scripted {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            must_flush: false,
            usage: Box::new(Usage::default),
            sweep: Box::new(|_, _| Step::idle()),
            close: Box::new(|_| Box::pin(async { CloseReport::default() })),
            dropped: Box::new(|| {}),
        }
    }

    fn must_flush(mut self) -> Self {
        self.must_flush = true;
        self
    }

    fn on_usage(mut self, usage: impl Fn() -> Usage + Send + Sync + 'static) -> Self {
        self.usage = Box::new(usage);
        self
    }

    fn on_sweep(mut self, sweep: impl Fn(Instant, usize) -> Step + Send + Sync + 'static) -> Self {
        self.sweep = Box::new(sweep);
        self
    }

    fn on_close<F>(mut self, close: impl Fn(Instant) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = CloseReport> + Send + 'static,
    {
        self.close = Box::new(move |deadline| Box::pin(close(deadline)));
        self
    }

    fn on_drop(mut self, dropped: impl Fn() + Send + Sync + 'static) -> Self {
        self.dropped = Box::new(dropped);
        self
    }
}

impl Bounded for Scripted {
    fn name(&self) -> &str {
        self.name
    }

    fn usage(&self) -> Usage {
        (self.usage)()
    }

    fn totals(&self) -> Totals {
        Totals::default()
    }

    fn sweep(&self, now: Instant, budget: usize) -> Step {
        (self.sweep)(now, budget)
    }

    fn must_flush(&self) -> bool {
        self.must_flush
    }

    fn close(self: Arc<Self>, deadline: Instant) -> BoxFuture<'static, CloseReport> {
        (self.close)(deadline)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        (self.dropped)();
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scripted").field(&self.name).finish()
    }
}

/// Remembers what happened in which order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Instant, &'static str)>>>);

impl Log {
    fn push(&self, what: &'static str) {
        self.0.lock().unwrap().push((Instant::now(), what));
    }

    fn what(&self) -> Vec<&'static str> {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|(_, what)| *what)
            .collect()
    }

    /// What happened, and how long after `start`.
    fn since(&self, start: Instant) -> Vec<(Duration, &'static str)> {
        let log = self.0.lock().unwrap();
        log.iter()
            .map(|(at, what)| (at.saturating_duration_since(start), *what))
            .collect()
    }
}

/// A registry with its sweeper running.
fn swept() -> Registry {
    swept_with(RegistryConfig::default())
}

fn swept_with(config: RegistryConfig) -> Registry {
    let registry = Registry::with_config(config);
    tokio::spawn(registry.sweeper());
    registry
}

/// When `holding` was swept, counted from `start`.
fn sweeps(holding: &FakeHolding, start: Instant) -> Vec<Duration> {
    let sweeps = holding.sweeps().into_iter();
    sweeps
        .map(|at| at.saturating_duration_since(start))
        .collect()
}

fn names(registry: &Registry) -> Vec<&'static str> {
    let snapshot = registry.snapshot().into_iter();
    snapshot.map(|held| held.name.as_str()).collect()
}

fn fake(name: &str) -> FakeHolding {
    FakeHolding::new(name, SECOND)
}

/// Counts how often other tasks have their turn.
fn count_turns() -> Arc<AtomicUsize> {
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = turns.clone();
    tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Relaxed);
            yield_now().await;
        }
    });
    turns
}

async fn turns(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

// === names and places ===

#[tokio::test(start_paused = true)]
async fn a_name_is_refused_while_its_holding_lives_and_free_at_once_when_it_is_gone() {
    let registry = Registry::new();
    let first = registry.register(fake("sessions")).unwrap();
    let second_handle = first.clone();

    let refused = registry.register(fake("sessions")).unwrap_err();
    assert_eq!(refused, RegisterError::Duplicate(Name::new("sessions")));
    assert_eq!(
        refused.to_string(),
        "a holding named \"sessions\" is registered: give each its own name"
    );

    drop(first);
    assert!(registry.register(fake("sessions")).is_err());
    drop(second_handle);
    let again = registry.register(fake("sessions")).unwrap();
    again.insert(1);
    assert_eq!(names(&registry), ["sessions"]);
    assert_eq!(registry.snapshot()[0].usage.unwrap().entries, 1);
}

#[tokio::test(start_paused = true)]
async fn a_holding_refused_by_its_name_leaves_the_registered_one_alone() {
    let registry = swept();
    let kept = registry.register(fake("sessions")).unwrap();
    kept.insert(2);
    drop(registry.register(fake("sessions")));
    registry.sweep("sessions").await.unwrap();
    sleep(2 * SECOND).await;
    assert_eq!((registry.len(), kept.held()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn names_that_cannot_be_shown_or_kept_are_refused() {
    let registry = Registry::new();
    let long = "x".repeat(Name::MAX_LEN + 1);
    let wide = "ü".repeat(Name::MAX_LEN / 2 + 1);
    for name in [
        "",
        "two\nlines",
        "bell\u{7}",
        "\u{7f}",
        "\u{85}",
        &long,
        &wide,
    ] {
        let refused = registry.register(fake(name)).unwrap_err();
        assert_eq!(refused, RegisterError::InvalidName(Name::new(name)));
    }
    assert_eq!(
        registry
            .register(fake("two\nlines"))
            .unwrap_err()
            .to_string(),
        "\"two\\nlines\" cannot name a holding: use 1 to 128 bytes without control characters"
    );
    assert!(registry.is_empty());

    let longest = registry.register(fake(&"x".repeat(Name::MAX_LEN))).unwrap();
    let widest = registry
        .register(fake(&"ü".repeat(Name::MAX_LEN / 2)))
        .unwrap();
    assert_eq!(registry.len(), 2);
    drop((longest, widest));
}

#[tokio::test(start_paused = true)]
async fn a_full_registry_refuses_until_a_holding_is_gone() {
    let registry = Registry::with_config(RegistryConfig::default().max_holdings(2));
    let one = registry.register(fake("one")).unwrap();
    let _two = registry.register(fake("two")).unwrap();

    let refused = registry.register(fake("three")).unwrap_err();
    assert_eq!(refused, RegisterError::Full(2));
    assert_eq!(
        refused.to_string(),
        "the registry is full: 2 holdings or names are the most it takes"
    );

    // No sweeper runs that would have noticed.
    drop(one);
    let _three = registry.register(fake("three")).unwrap();
    assert_eq!(names(&registry), ["two", "three"]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_without_places_refuses_everything() {
    let registry = Registry::with_config(RegistryConfig::default().max_holdings(0));
    let refused = registry.register(fake("one")).unwrap_err();
    assert_eq!(refused, RegisterError::Full(0));
}

#[tokio::test(start_paused = true)]
async fn a_closed_registry_refuses_and_closing_it_again_does_nothing() {
    let registry = swept();
    let held = registry.register(fake("held")).unwrap();
    held.insert(3);
    let deadline = Instant::now() + SECOND;
    let closed = registry.close(deadline).await;
    assert_eq!((closed.len(), closed[0].report.dropped), (1, 3));

    let refused = registry.register(fake("late")).unwrap_err();
    assert_eq!(refused, RegisterError::Closed);
    assert_eq!(
        refused.to_string(),
        "the registry is closed: the service is stopping"
    );
    assert!(registry.close(deadline).await.is_empty());
    assert!(registry.snapshot().is_empty());
    assert!(registry.sweep("held").await.is_err());
    assert!(registry.sweep_all().await.is_empty());
    assert_balanced(&held);
}

// === handles ===

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_frees_the_holding_and_forgets_it() {
    let registry = swept();
    let log = Log::default();
    let dropped = log.clone();
    let holding = Arc::new(Scripted::new("brief").on_drop(move || dropped.push("dropped")));
    let holding = registry.register(holding).unwrap();
    sleep(SECOND).await;

    let other_handle = holding.clone();
    drop(holding);
    assert_eq!(names(&registry), ["brief"]);
    drop(other_handle);
    assert_eq!(log.what(), ["dropped"]);
    assert!(registry.is_empty() && registry.snapshot().is_empty());
    assert!(registry.sweep("brief").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_the_registry_kept_of_a_holding_is_freed_within_the_idle_interval() {
    let registry = swept_with(RegistryConfig::default().idle_interval(MINUTE));
    // Its next sweep is far off, so that only the pruning can find it gone.
    let holding = FakeHolding::new("brief", 100 * HOUR);
    holding.insert(1);
    let holding = registry.register(holding).unwrap();
    sleep(SECOND).await;
    drop(holding);
    assert!(format!("{registry:?}").contains("brief"));
    sleep(MINUTE).await;
    assert!(!format!("{registry:?}").contains("brief"));
}

#[tokio::test(start_paused = true)]
async fn a_sweep_under_way_keeps_no_holding_alive() {
    let registry = swept_with(RegistryConfig::default().sweep_budget(1));
    let log = Log::default();
    let (swept, dropped) = (log.clone(), log.clone());
    let holding = Scripted::new("brief")
        .on_sweep(move |_, _| {
            swept.push("slice");
            Step::more(Removed::expired(1))
        })
        .on_drop(move || dropped.push("dropped"));
    let holding = registry.register(Arc::new(holding)).unwrap();
    turns(10).await;
    let manual = tokio::spawn({
        let registry = registry.clone();
        async move { registry.sweep("brief").await }
    });
    turns(10).await;
    assert!(log.what().len() > 10);

    drop(holding);
    assert_eq!(log.what().last(), Some(&"dropped"));
    let _free_again = registry.register(fake("brief")).unwrap();
    let ended = manual.await.unwrap().unwrap();
    assert!(ended.slices > 1 && !ended.panicked);
    assert_eq!(log.what().last(), Some(&"dropped"));
}

#[tokio::test(start_paused = true)]
async fn a_holding_that_must_flush_is_kept_without_a_handle_until_it_is_closed() {
    let registry = swept();
    let log = Log::default();
    let dropped = log.clone();
    let audit = Scripted::new("audit")
        .must_flush()
        .on_usage(|| Usage::new(7, 700))
        .on_close(|_| async { CloseReport::flushed(7) })
        .on_drop(move || dropped.push("dropped"));
    drop(registry.register(Arc::new(audit)).unwrap());
    sleep(10 * MINUTE).await;
    let snapshot = registry.snapshot();
    assert!(snapshot[0].must_flush);
    assert_eq!(snapshot[0].usage, Some(Usage::new(7, 700)));
    assert!(registry.register(fake("audit")).is_err());

    let closed = registry.close(Instant::now() + SECOND).await;
    assert_eq!(closed[0].report.flushed, 7);
    assert_eq!(log.what(), ["dropped"]);
}

// === unregistering ===

#[tokio::test(start_paused = true)]
async fn a_holding_that_is_unregistered_is_forgotten_and_its_name_is_free_at_once() {
    let registry = swept();
    let held = registry.register(fake("brief")).unwrap();
    turns(10).await;
    let swept = held.sweeps().len();
    assert!(registry.unregister(&held));
    assert!(registry.is_empty() && registry.snapshot().is_empty());
    assert!(registry.sweep("brief").await.is_err());
    let other = registry.register(fake("brief")).unwrap();
    sleep(10 * MINUTE).await;
    assert_eq!(held.sweeps().len(), swept, "it is not swept any more");
    assert!(other.sweeps().len() > 1);
    // Registered again once the other has gone, it is swept again.
    assert!(registry.unregister(&other));
    registry.register(held.clone()).unwrap();
    turns(10).await;
    assert!(held.sweeps().len() > swept);
    let closed = registry.close(Instant::now() + SECOND).await;
    assert_eq!(closed.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_holding_is_not_unregistered_in_place_of_another_or_twice() {
    let registry = swept();
    let held = registry.register(fake("brief")).unwrap();
    assert!(!registry.unregister(&fake("brief")), "of the same name");
    assert!(
        !registry.unregister(&fake("other")),
        "of a name that nobody has"
    );
    assert_eq!(names(&registry), ["brief"]);
    assert!(!Registry::new().unregister(&held), "registered elsewhere");
    assert!(registry.unregister(&held));
    assert!(!registry.unregister(&held));
    // A clone is the same holding.
    let held = registry.register(held).unwrap();
    assert!(registry.unregister(&held.clone()));
}

#[tokio::test(start_paused = true)]
async fn unregistering_gives_its_place_to_another() {
    let registry = Registry::with_config(RegistryConfig::default().max_holdings(1));
    let held = registry.register(fake("a")).unwrap();
    let full = registry.register(fake("b")).unwrap_err();
    assert_eq!(full, RegisterError::Full(1));
    assert!(registry.unregister(&held));
    registry.register(fake("b")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_must_be_flushed_is_let_go_under_no_lock_and_not_closed() {
    let registry = swept();
    let log = Log::default();
    let (dropped, closed, inside) = (log.clone(), log.clone(), registry.clone());
    let audit = Scripted::new("audit")
        .must_flush()
        .on_close(move |_| {
            closed.push("closed");
            async { CloseReport::default() }
        })
        .on_drop(move || {
            // It would wait for ever for a lock that is held.
            assert!(inside.is_empty());
            dropped.push("dropped");
        });
    let audit = Arc::new(audit);
    registry.register(audit.clone()).unwrap();
    turns(10).await;
    // The last handle but that of the registry goes first, so that its drop is the registry's.
    let bounded = audit.bounded();
    assert!(registry.unregister(&audit));
    drop(bounded);
    assert_eq!(log.what(), [""; 0]);
    let audit = registry.register(audit).unwrap();
    let lent = LastHandle(Mutex::new(Some(audit)));
    assert!(registry.unregister(&lent));
    assert_eq!(log.what(), ["dropped"]);
    assert!(registry.close(Instant::now() + SECOND).await.is_empty());
}

/// Gives its only handle away when it is asked for it.
struct LastHandle(Mutex<Option<Arc<Scripted>>>);

impl Holding for LastHandle {
    fn bounded(&self) -> Arc<dyn Bounded> {
        self.0.lock().unwrap().take().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_under_way_goes_on_when_its_holding_is_unregistered_and_plans_nothing() {
    let registry = swept_with(RegistryConfig::default().sweep_budget(1));
    let holding = FakeHolding::new("big", Duration::ZERO);
    holding.insert(1_000);
    let holding = registry.register(holding).unwrap();
    let manual = tokio::spawn({
        let registry = registry.clone();
        async move { registry.sweep("big").await }
    });
    turns(10).await;
    assert!(holding.held() > 900 && holding.held() < 1_000);
    assert!(registry.unregister(&holding));
    let other = registry.register(fake("big")).unwrap();
    manual.await.unwrap().unwrap();
    sleep(SECOND).await;
    assert_eq!(holding.held(), 0);
    let swept = holding.sweeps().len();
    sleep(10 * MINUTE).await;
    assert_eq!(holding.sweeps().len(), swept);
    // What the sweeps reported is not taken for that of the other.
    let stats = registry.snapshot()[0].stats;
    assert_eq!(stats.sweeps, other.sweeps().len() as u64);
    assert_balanced(&holding);
}

#[tokio::test(start_paused = true)]
async fn a_holding_is_closed_though_it_is_unregistered_while_the_registry_closes() {
    let registry = swept();
    let (first, second) = (registry.clone(), Arc::new(Mutex::new(None)));
    let other = second.clone();
    let closing = Scripted::new("first").on_close(move |_| {
        let other: Option<FakeHolding> = other.lock().unwrap().clone();
        let registry = first.clone();
        async move {
            assert!(
                !registry.unregister(&other.unwrap()),
                "it is closed already"
            );
            CloseReport::default()
        }
    });
    let _first = registry.register(Arc::new(closing)).unwrap();
    let held = registry.register(fake("second")).unwrap();
    held.insert(3);
    *second.lock().unwrap() = Some(held.clone());
    let (closed, _) = close_within(&registry, SECOND).await;
    assert_eq!(closed.len(), 2);
    assert_eq!(held.held(), 0);
    assert!(!registry.unregister(&held));
}

// === snapshots ===

#[tokio::test(start_paused = true)]
async fn a_snapshot_lists_in_order_of_registration_what_each_holds() {
    let start = Instant::now();
    let registry = swept();
    let zulu = FakeHolding::new("zulu", 10 * SECOND);
    zulu.insert(5);
    let zulu = registry.register(zulu).unwrap();
    let gone = registry.register(fake("gone")).unwrap();
    let alpha = registry
        .register(FakeHolding::must_flush("alpha", SECOND))
        .unwrap();
    sleep(5 * SECOND).await;
    zulu.insert(2);
    drop(gone);
    sleep(6 * SECOND).await;

    let snapshot = registry.snapshot();
    assert_eq!(names(&registry), ["zulu", "alpha"]);
    let [first, second] = &snapshot[..] else {
        panic!("{snapshot:?}");
    };
    assert_eq!(first.usage, Some(Usage::new(2, 200)));
    assert_eq!(first.totals, Some(Totals::new(7, Removed::expired(5))));
    assert_eq!(first.next_sweep, start + 15 * SECOND);
    assert_eq!((first.stats.sweeps, first.must_flush), (2, false));
    let (last, report) = first.stats.last.unwrap();
    assert_eq!(last, start + 10 * SECOND);
    assert_eq!((report.removed, report.slices), (Removed::expired(5), 1));
    assert_eq!(second.next_sweep, start + MINUTE);
    assert_eq!((second.stats.sweeps, second.must_flush), (1, true));
    assert!(snapshot.iter().all(|held| !held.overdue));
    assert_balanced(&zulu);
    assert_balanced(&alpha);
}

#[tokio::test(start_paused = true)]
async fn a_holding_that_panics_when_asked_is_listed_without_an_answer() {
    let registry = Registry::new();
    let broken = Scripted::new("broken").on_usage(|| panic!("told to"));
    let _broken = registry.register(Arc::new(broken)).unwrap();
    let _sound = registry.register(fake("sound")).unwrap();
    let snapshot = registry.snapshot();
    assert_eq!(snapshot[0].usage, None);
    assert_eq!(snapshot[0].totals, Some(Totals::default()));
    assert_eq!(snapshot[1].usage, Some(Usage::new(0, 0)));
}

// === the sweeper's times ===

#[tokio::test(start_paused = true)]
async fn a_holding_is_swept_when_registered_then_exactly_when_it_asked_for() {
    let start = Instant::now();
    let registry = swept();
    let holding = FakeHolding::new("sessions", 10 * SECOND);
    holding.insert(1);
    sleep(3 * SECOND).await;
    let holding = registry.register(holding).unwrap();
    holding.insert(1);
    sleep(2 * MINUTE).await;
    // No traffic needed: the last entry is gone at 13 s.
    let expected = [3, 10, 13, 73].map(Duration::from_secs);
    assert_eq!(sweeps(&holding, start), expected);
    assert_eq!(holding.held(), 0);
    assert_balanced(&holding);
}

#[tokio::test(start_paused = true)]
async fn an_idle_holding_is_asked_again_after_the_idle_interval() {
    let start = Instant::now();
    let registry = swept_with(RegistryConfig::default().idle_interval(7 * SECOND));
    let holding = registry.register(fake("idle")).unwrap();
    sleep(22 * SECOND).await;
    let expected = [0, 7, 14, 21].map(Duration::from_secs);
    assert_eq!(sweeps(&holding, start), expected);
}

#[tokio::test(start_paused = true)]
async fn a_time_in_the_past_and_an_idle_interval_of_zero_mean_a_millisecond() {
    let registry = swept_with(RegistryConfig::default().idle_interval(Duration::ZERO));
    let past = Arc::new(AtomicUsize::new(0));
    let asked = past.clone();
    let holding = Scripted::new("past").on_sweep(move |now, _| {
        asked.fetch_add(1, Relaxed);
        Step::at(Removed::NONE, now - SECOND)
    });
    let _past = registry.register(Arc::new(holding)).unwrap();
    let idle = registry.register(fake("idle")).unwrap();
    sleep(10 * MS + MS / 2).await;
    assert_eq!(past.load(Relaxed), 11);
    assert_eq!(idle.sweeps().len(), 11);
}

#[tokio::test(start_paused = true)]
async fn registering_wakes_a_sweeper_that_waits_for_later() {
    let start = Instant::now();
    let registry = swept_with(RegistryConfig::default().idle_interval(HOUR));
    let early = registry.register(fake("early")).unwrap();
    sleep(5 * SECOND).await;
    let holding = FakeHolding::new("late", 2 * SECOND);
    holding.insert(1);
    let late = registry.register(holding).unwrap();
    sleep(MINUTE).await;
    assert_eq!(sweeps(&late, start), [5, 7].map(Duration::from_secs));
    assert_eq!(sweeps(&early, start), [Duration::ZERO]);
}

#[tokio::test(start_paused = true)]
async fn times_that_never_come_disturb_nobody() {
    let far = Instant::now().checked_add(Duration::from_secs(u64::MAX / 4));
    let far = far.unwrap_or_else(Instant::now);
    for idle_interval in [MINUTE, Duration::MAX] {
        let start = Instant::now();
        let registry = swept_with(RegistryConfig::default().idle_interval(idle_interval));
        let never = Scripted::new("never").on_sweep(move |_, _| Step::at(Removed::NONE, far));
        let _never = registry.register(Arc::new(never)).unwrap();
        let idle = registry.register(fake("idle")).unwrap();
        let holding = FakeHolding::new("sound", 2 * SECOND);
        holding.insert(1);
        let sound = registry.register(holding).unwrap();
        sleep(5 * SECOND).await;
        assert_eq!(sweeps(&sound, start), [0, 2].map(Duration::from_secs));
        assert_eq!(sweeps(&idle, start), [Duration::ZERO]);
        assert!(registry.snapshot()[0].next_sweep > start + 10_000 * HOUR);
    }
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_ends_when_the_registry_is_dropped() {
    let start = alive_tasks();
    let registry = swept();
    let other_handle = registry.clone();
    let _held = registry.register(fake("held")).unwrap();
    sleep(SECOND).await;
    assert_eq!(alive_tasks(), start + 1);
    drop(registry);
    turns(10).await;
    assert_eq!(alive_tasks(), start + 1);
    drop(other_handle);
    let now = Instant::now();
    assert_tasks_return_to(start).await;
    assert_eq!(Instant::now(), now, "it did not wait for its next sweep");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_whose_sweeper_is_aborted_goes_on_in_the_next_one() {
    let registry = Registry::new();
    let held = registry
        .register(FakeHolding::new("large", Duration::ZERO))
        .unwrap();
    held.insert(10_000);
    let sweeper = tokio::spawn(registry.sweeper());
    while held.sweeps().len() < 3 {
        yield_now().await;
    }
    sweeper.abort();
    assert!(sweeper.await.unwrap_err().is_cancelled());
    assert_eq!(held.held(), 10_000 - 3 * 250);

    let _next = tokio::spawn(registry.sweeper());
    while held.held() > 0 {
        yield_now().await;
    }
    assert_balanced(&held);
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_ends_in_the_middle_of_a_sweep_too() {
    let start = alive_tasks();
    let registry = swept_with(RegistryConfig::default().sweep_budget(1));
    let holding = FakeHolding::new("big", Duration::ZERO);
    holding.insert(1_000_000);
    let holding = registry.register(holding).unwrap();
    turns(100).await;
    drop(registry);
    assert_tasks_return_to(start).await;
    assert!(holding.held() > 990_000);
    assert_balanced(&holding);
}

// === slices ===

#[tokio::test(start_paused = true)]
async fn a_million_expired_entries_are_swept_in_slices_between_other_tasks_turns() {
    let registry = swept();
    let turns = count_turns();
    let holding = FakeHolding::new("big", SECOND);
    holding.insert(1_000_000);
    let holding = registry.register(holding).unwrap();
    yield_now().await;
    advance(SECOND - MS).await;
    assert_eq!(holding.sweeps().len(), 1);
    advance(MS).await;
    let before = turns.load(Relaxed);
    while holding.held() > 0 {
        yield_now().await;
    }
    let had = turns.load(Relaxed) - before;
    // The budget is 250; the first of the sweeps came at the registration.
    assert_eq!(holding.sweeps().len(), 1 + 4_000);
    assert!(had >= 3_998, "{had} turns");
    yield_now().await;
    let (_, report) = registry.snapshot()[0].stats.last.unwrap();
    assert_eq!(report.slices, 4_000);
    assert_eq!(report.removed, Removed::expired(1_000_000));
    assert_balanced(&holding);
}

#[tokio::test(start_paused = true)]
async fn holdings_that_are_due_together_take_turns() {
    let registry = swept();
    let log = Log::default();
    let big = |name: &'static str| {
        let (log, left) = (log.clone(), AtomicUsize::new(4));
        Arc::new(Scripted::new(name).on_sweep(move |_, budget| {
            log.push(name);
            let removed = Removed::expired(budget as u64);
            match left.fetch_sub(1, Relaxed) {
                1 => Step::at(removed, Instant::now() + HOUR),
                _ => Step::more(removed),
            }
        }))
    };
    let one = registry.register(big("one")).unwrap();
    let two = registry.register(big("two")).unwrap();
    sleep(SECOND).await;
    assert_eq!(
        log.what(),
        ["one", "two", "one", "two", "one", "two", "one", "two"]
    );
    drop((one, two));
}

#[tokio::test(start_paused = true)]
async fn a_holding_that_becomes_due_during_a_long_sweep_does_not_wait_for_its_end() {
    let registry = swept();
    let endless = Scripted::new("endless").on_sweep(|_, _| Step::more(Removed::expired(1)));
    let _endless = registry.register(Arc::new(endless)).unwrap();
    turns(50).await;
    let late = registry.register(fake("late")).unwrap();
    turns(5).await;
    assert_eq!(late.sweeps().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_budget_given_is_the_one_set_and_never_zero() {
    for (set, given) in [(0, 1), (1, 1), (25, 25)] {
        let registry = Registry::with_config(RegistryConfig::default().sweep_budget(set));
        let seen = Arc::new(AtomicUsize::new(usize::MAX));
        let asked = seen.clone();
        let holding = Scripted::new("budget").on_sweep(move |_, budget| {
            asked.store(budget, Relaxed);
            Step::idle()
        });
        let _holding = registry.register(Arc::new(holding)).unwrap();
        registry.sweep("budget").await.unwrap();
        assert_eq!(seen.load(Relaxed), given);
    }
}

#[tokio::test(start_paused = true)]
async fn a_holding_that_makes_no_headway_is_put_off_for_the_idle_interval() {
    let start = Instant::now();
    let registry = swept();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let stuck = Scripted::new("stuck").on_sweep(move |_, _| {
        counted.fetch_add(1, Relaxed);
        Step::more(Removed::NONE)
    });
    let _stuck = registry.register(Arc::new(stuck)).unwrap();
    sleep(SECOND).await;
    assert_eq!(asked.load(Relaxed), 10_000);
    let snapshot = &registry.snapshot()[0];
    assert_eq!(snapshot.next_sweep, start + MINUTE);
    assert_eq!(snapshot.stats.panics, 0);
    sleep(MINUTE).await;
    assert_eq!(asked.load(Relaxed), 20_000);
}

// === panics ===

#[tokio::test(start_paused = true)]
async fn a_holding_that_panics_is_counted_and_swept_again_and_the_others_do_not_notice() {
    let start = Instant::now();
    let registry = swept();
    let fakes = ["before", "broken", "after"].map(|name| FakeHolding::new(name, 10 * SECOND));
    for holding in &fakes {
        holding.insert(4);
        registry.register(holding.clone()).unwrap();
    }
    let [before, broken, after] = &fakes;
    broken.panic_when_swept(1);
    sleep(15 * SECOND).await;
    for sound in [before, after] {
        assert_eq!(sweeps(sound, start), [0, 10].map(Duration::from_secs));
        assert_eq!(sound.held(), 0);
    }
    let snapshot = &registry.snapshot()[1];
    assert_eq!((snapshot.stats.sweeps, snapshot.stats.panics), (1, 1));
    assert!(snapshot.stats.last.unwrap().1.panicked);
    assert_eq!(snapshot.next_sweep, start + MINUTE);
    assert_eq!(broken.held(), 4);

    sleep(MINUTE).await;
    assert_eq!(sweeps(broken, start), [0, 60].map(Duration::from_secs));
    assert_eq!(broken.held(), 0);
    assert_eq!(registry.snapshot()[1].stats.panics, 1);
    for holding in &fakes {
        assert_balanced(holding);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_drop_of_a_holding_does_not_end_the_sweeper() {
    // The sweep let go of the last handle, so that the sweeper's own reference was the last: its
    // drop panicked outside the part that is guarded.
    let registry = swept();
    let own_handle = Arc::new(Mutex::new(None));
    let slot = own_handle.clone();
    let suicidal = Scripted::new("suicidal")
        .on_sweep(move |_, _| {
            let last_handle = slot.lock().unwrap().take();
            drop(last_handle);
            Step::idle()
        })
        .on_drop(|| panic!("told to"));
    let suicidal = registry.register(Arc::new(suicidal)).unwrap();
    *own_handle.lock().unwrap() = Some(suicidal);
    let sound = registry.register(fake("sound")).unwrap();
    sleep(MINUTE + SECOND).await;
    assert_eq!(names(&registry), ["sound"]);
    assert_eq!(sound.sweeps().len(), 2);
}

// === sweeps out of turn ===

#[tokio::test(start_paused = true)]
async fn a_manual_sweep_reports_what_it_did_and_plans_the_next_one_anew() {
    let start = Instant::now();
    let registry = swept();
    let holding = registry
        .register(FakeHolding::new("sessions", 10 * SECOND))
        .unwrap();
    sleep(SECOND).await;
    holding.insert(3);
    assert_eq!(registry.snapshot()[0].next_sweep, start + MINUTE);

    let report = registry.sweep("sessions").await.unwrap();
    assert_eq!((report.removed, report.slices), (Removed::NONE, 1));
    assert_eq!(registry.snapshot()[0].next_sweep, start + 11 * SECOND);
    sleep_until(start + 12 * SECOND).await;
    assert_eq!(holding.held(), 0);
    assert_eq!(sweeps(&holding, start), [0, 1, 11].map(Duration::from_secs));
    assert_eq!(registry.snapshot()[0].stats.sweeps, 3);
    sleep_until(start + 2 * MINUTE).await;
    assert_eq!(
        holding.sweeps().len(),
        4,
        "the time it had before is forgotten"
    );
}

#[tokio::test(start_paused = true)]
async fn a_manual_sweep_needs_no_sweeper_and_yields_between_slices() {
    let registry = Registry::with_config(RegistryConfig::default().sweep_budget(10));
    let turns = count_turns();
    let holding = FakeHolding::new("big", Duration::ZERO);
    holding.insert(1_000);
    let holding = registry.register(holding).unwrap();
    let report = registry.sweep("big").await.unwrap();
    assert_eq!(report.removed, Removed::expired(1_000));
    assert_eq!(report.slices, 100);
    assert!(turns.load(Relaxed) >= 99, "{turns:?} turns");
    assert_balanced(&holding);
}

#[tokio::test(start_paused = true)]
async fn all_are_swept_in_order_with_other_tasks_turns_between() {
    let registry = Registry::new();
    let turns = count_turns();
    let held: Vec<_> = (0..50)
        .map(|n| {
            let holding = FakeHolding::new(&format!("holding {n}"), Duration::ZERO);
            holding.insert(n);
            registry.register(holding).unwrap()
        })
        .collect();
    let reports = registry.sweep_all().await;
    assert!(turns.load(Relaxed) >= 49, "{turns:?} turns");
    assert_eq!(reports.len(), 50);
    for (n, (name, report)) in reports.iter().enumerate() {
        assert_eq!(name.as_str(), format!("holding {n}"));
        assert_eq!(report.removed, Removed::expired(n as u64));
    }
    assert!(held.iter().all(|holding| holding.held() == 0));
}

#[tokio::test(start_paused = true)]
async fn a_holding_that_goes_while_all_are_swept_is_freed_at_once_and_left_out() {
    let registry = Registry::new();
    let log = Log::default();
    let dropped = log.clone();
    let second = Scripted::new("second").on_drop(move || dropped.push("second dropped"));
    let last_handle = Arc::new(Mutex::new(Some(Arc::new(second))));
    let (slot, swept) = (last_handle.clone(), log.clone());
    let first = Scripted::new("first").on_sweep(move |_, _| {
        drop(slot.lock().unwrap().take());
        swept.push("first swept");
        Step::idle()
    });
    let _first = registry.register(Arc::new(first)).unwrap();
    let second = last_handle.lock().unwrap().clone().unwrap();
    registry.register(second).unwrap();
    let reports = registry.sweep_all().await;
    assert_eq!(log.what(), ["second dropped", "first swept"]);
    assert_eq!(reports.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn sweeping_an_unknown_name_says_which() {
    let registry = Registry::new();
    let unknown = registry.sweep("sesions").await.unwrap_err();
    assert_eq!(unknown.to_string(), "no holding is named \"sesions\"");
}

#[tokio::test(start_paused = true)]
async fn a_manual_sweep_at_the_same_time_as_the_sweeper_leaves_one_next_time() {
    for manual_first in [true, false] {
        let start = Instant::now();
        let registry = Registry::with_config(RegistryConfig::default().sweep_budget(1));
        let holding = FakeHolding::new("shared", Duration::ZERO);
        holding.insert(100);
        let holding = registry.register(holding).unwrap();
        let manual = {
            let registry = registry.clone();
            async move { registry.sweep("shared").await.unwrap() }
        };
        let manual = if manual_first {
            let manual = tokio::spawn(manual);
            turns(20).await;
            tokio::spawn(registry.sweeper());
            manual
        } else {
            tokio::spawn(registry.sweeper());
            turns(20).await;
            tokio::spawn(manual)
        };
        let by_hand = manual.await.unwrap();
        turns(200).await;
        assert_eq!(holding.held(), 0);
        let snapshot = &registry.snapshot()[0];
        assert_eq!(snapshot.stats.sweeps, 2);
        assert_eq!(snapshot.next_sweep, start + MINUTE);
        assert!((20..80).contains(&by_hand.removed.total()), "{by_hand:?}");
        assert_balanced(&holding);

        // A second due time would show as a second sweep.
        let so_far = holding.sweeps().len();
        sleep(MINUTE + SECOND).await;
        assert_eq!(holding.sweeps().len(), so_far + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_manual_sweep_dropped_half_way_keeps_the_schedule() {
    let start = Instant::now();
    let registry = Registry::with_config(RegistryConfig::default().sweep_budget(1));
    let holding = FakeHolding::new("big", Duration::ZERO);
    let holding = registry.register(holding).unwrap();
    tokio::spawn(registry.sweeper());
    sleep(SECOND).await;
    holding.insert(100);
    let mut sweep = tokio_test::task::spawn(registry.sweep("big"));
    for _ in 0..10 {
        assert!(sweep.poll().is_pending());
    }
    drop(sweep);
    assert_eq!(holding.held(), 90);
    assert_eq!(registry.snapshot()[0].next_sweep, start + MINUTE);
    sleep_until(start + MINUTE + SECOND).await;
    assert_eq!(holding.held(), 0);
    assert_balanced(&holding);
}

// === overdue ===

fn overdue(name: &'static str, late: Duration, interval: Duration) -> (Name, Duration, Duration) {
    (Name::from_static(name), late, interval)
}

fn checked(registry: &Registry) -> Vec<(Name, Duration, Duration)> {
    let all = registry.check_overdue().into_iter();
    all.map(
        |Overdue {
             name,
             late,
             interval,
             ..
         }| (name, late, interval),
    )
    .collect()
}

#[tokio::test(start_paused = true)]
async fn an_overdue_sweep_is_reported_once_and_again_only_after_it_was_swept() {
    // No sweeper runs.
    let registry = Registry::new();
    let held = registry
        .register(FakeHolding::new("held", 10 * SECOND))
        .unwrap();
    advance(SECOND).await;
    assert_eq!(checked(&registry), [], "a second may pass for no reason");
    assert!(!registry.snapshot()[0].overdue);
    advance(MS).await;
    assert!(registry.snapshot()[0].overdue);
    let first = overdue("held", SECOND + MS, Duration::ZERO);
    assert_eq!(checked(&registry), [first]);
    advance(HOUR).await;
    assert_eq!(checked(&registry), [], "the same case");
    assert!(registry.snapshot()[0].overdue);
    assert_eq!(registry.snapshot()[0].stats.overdue, 1);

    held.insert(1);
    registry.sweep("held").await.unwrap();
    assert!(!registry.snapshot()[0].overdue);
    // Due in 10 s, so overdue when it is late by 10 s.
    advance(20 * SECOND).await;
    assert_eq!(checked(&registry), []);
    advance(MS).await;
    let second = overdue("held", 10 * SECOND + MS, 10 * SECOND);
    assert_eq!(checked(&registry), [second]);
    assert_eq!(registry.snapshot()[0].stats.overdue, 2);
}

#[tokio::test(start_paused = true)]
async fn the_sweeper_counts_that_it_came_late_unless_that_was_reported() {
    let registry = Registry::new();
    let mut sweeper = tokio_test::task::spawn(registry.sweeper());
    let holding = registry
        .register(FakeHolding::new("held", 10 * SECOND))
        .unwrap();
    holding.insert(1);
    assert!(sweeper.poll().is_pending());
    let count = || registry.snapshot()[0].stats.overdue;

    // In time, then late by less than the interval of 10 s.
    for wait in [10, 60 + 60] {
        advance(Duration::from_secs(wait)).await;
        assert!(sweeper.poll().is_pending());
        assert_eq!(count(), 0);
    }
    advance(2 * MINUTE + SECOND).await;
    assert!(sweeper.poll().is_pending());
    assert_eq!(count(), 1);
    assert_eq!(checked(&registry), [], "it was swept since");

    advance(2 * MINUTE + SECOND).await;
    assert_eq!(checked(&registry).len(), 1);
    assert!(sweeper.poll().is_pending());
    assert_eq!(count(), 2, "counted by the check already");
    assert_eq!(holding.sweeps().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn only_what_lives_is_overdue() {
    let registry = Registry::new();
    let gone = registry.register(fake("gone")).unwrap();
    let _held = registry.register(fake("held")).unwrap();
    drop(gone);
    advance(MINUTE).await;
    assert_eq!(
        checked(&registry),
        [overdue("held", MINUTE, Duration::ZERO)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_hangs_is_overdue_too() {
    let registry = swept();
    let endless = Scripted::new("endless").on_sweep(|_, _| Step::more(Removed::expired(1)));
    let _endless = registry.register(Arc::new(endless)).unwrap();
    turns(5).await;
    advance(2 * SECOND).await;
    let expected = overdue("endless", 2 * SECOND, Duration::ZERO);
    assert_eq!(checked(&registry), [expected]);
}

type Told = Arc<Mutex<Vec<(Name, Duration, Duration)>>>;

/// Takes down what it is told.
fn clerk(told: &Told) -> impl Fn(&Overdue) + Send + Sync + 'static {
    let told = told.clone();
    move |overdue| {
        let Overdue {
            name,
            late,
            interval,
            ..
        } = *overdue;
        told.lock().unwrap().push((name, late, interval));
    }
}

fn heard(told: &Told) -> Vec<(Name, Duration, Duration)> {
    std::mem::take(&mut told.lock().unwrap())
}

#[tokio::test(start_paused = true)]
async fn whoever_notices_that_a_sweep_is_overdue_tells_so_once() {
    let registry = Registry::new();
    let mut sweeper = tokio_test::task::spawn(registry.sweeper());
    let told = Told::default();
    registry.on_overdue(clerk(&told));
    let holding = registry
        .register(FakeHolding::new("held", 10 * SECOND))
        .unwrap();
    holding.insert(1);
    assert!(sweeper.poll().is_pending());
    advance(20 * SECOND).await;
    assert_eq!((checked(&registry), heard(&told)), (vec![], vec![]));

    // The check is first.
    advance(MS).await;
    let first = overdue("held", 10 * SECOND + MS, 10 * SECOND);
    assert_eq!(
        (checked(&registry), heard(&told)),
        (vec![first], vec![first])
    );
    advance(MINUTE).await;
    assert_eq!((checked(&registry), heard(&told)), (vec![], vec![]));
    assert!(sweeper.poll().is_pending());
    assert_eq!(heard(&told), [], "told by the check already");

    // The sweeper is first.
    advance(MINUTE + 2 * MINUTE).await;
    assert!(sweeper.poll().is_pending());
    let second = overdue("held", 2 * MINUTE, MINUTE);
    assert_eq!(heard(&told), [second]);
    assert_eq!((checked(&registry), heard(&told)), (vec![], vec![]));
    assert_eq!(registry.snapshot()[0].stats.overdue, 2);
}

#[tokio::test(start_paused = true)]
async fn last_callback_is_told_of_every_holding_and_under_no_lock() {
    let registry = Registry::new();
    let (before, told) = (Told::default(), Told::default());
    registry.on_overdue(clerk(&before));
    let (inner, clerk) = (registry.clone(), clerk(&told));
    registry.on_overdue(move |overdue| {
        // Both would wait for ever under a lock of the registry.
        assert_eq!(inner.len(), 2);
        inner.on_overdue(|_| {});
        clerk(overdue);
    });
    let _held = ["a", "b"].map(|name| registry.register(fake(name)).unwrap());
    advance(MINUTE).await;
    assert_eq!(checked(&registry).len(), 2);
    assert_eq!(heard(&before), []);
    assert_eq!(heard(&told), [overdue("a", MINUTE, Duration::ZERO)]);
}

/// Panics when it is dropped, as what panics throw may.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("again");
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_callback_is_kept_from_the_sweeper_and_from_the_check() {
    let registry = Registry::new();
    let mut sweeper = tokio_test::task::spawn(registry.sweeper());
    registry.on_overdue(|_| std::panic::panic_any(Bomb));
    let holding = registry.register(fake("held")).unwrap();
    holding.insert(1);
    advance(MINUTE).await;
    assert!(sweeper.poll().is_pending());
    assert_eq!(holding.sweeps().len(), 1);
    let stats = registry.snapshot()[0].stats;
    assert_eq!((stats.overdue, stats.sweeps, stats.panics), (1, 1, 0));
    let _other = registry.register(fake("other")).unwrap();
    advance(10 * MINUTE).await;
    assert_eq!(checked(&registry).len(), 2, "both, whoever panicked");
}

// === closing ===

/// Closes `registry`, and says how long that took.
async fn close_within(registry: &Registry, time: Duration) -> (Vec<ClosedHolding>, Duration) {
    let start = Instant::now();
    let closed = registry.close(start + time).await;
    (closed, Instant::now().saturating_duration_since(start))
}

#[tokio::test(start_paused = true)]
async fn closing_one_holding_cannot_lose_another_whose_last_handle_it_drops() {
    let registry = Registry::new();
    let log = Log::default();
    let other = FakeHolding::new("other", HOUR);
    other.insert(9);
    let last_handle = Mutex::new(Some(registry.register(other).unwrap()));
    let closing = log.clone();
    let owner = Scripted::new("owner").on_close(move |_| {
        drop(last_handle.lock().unwrap().take());
        closing.push("owner closed");
        async { CloseReport::default() }
    });
    let _owner = registry.register(Arc::new(owner)).unwrap();
    let (closed, _) = close_within(&registry, SECOND).await;
    assert_eq!(log.what(), ["owner closed"]);
    assert_eq!(closed.len(), 2);
    assert_eq!(closed[0].name.as_str(), "other");
    assert_eq!(closed[0].report.dropped, 9);
}

#[tokio::test(start_paused = true)]
async fn what_must_be_flushed_is_closed_last_with_the_time_the_others_left() {
    let registry = Registry::new();
    let start = Instant::now();
    let log = Log::default();
    let logged = |holding: Scripted, takes: Duration| {
        let (name, log) = (holding.name, log.clone());
        Arc::new(holding.on_close(move |deadline| {
            let log = log.clone();
            async move {
                log.push(name);
                sleep(takes).await;
                let left = deadline.saturating_duration_since(Instant::now());
                CloseReport::flushed(left.as_secs())
            }
        }))
    };
    let audit = logged(Scripted::new("audit").must_flush(), SECOND);
    let cache = logged(Scripted::new("cache"), 2 * SECOND);
    let table = logged(Scripted::new("table"), 3 * SECOND);
    for holding in [audit, cache.clone(), table.clone()] {
        registry.register(holding).unwrap();
    }
    let (closed, took) = close_within(&registry, 10 * SECOND).await;
    let expected = [(0, "cache"), (0, "table"), (3, "audit")];
    let expected = expected.map(|(at, name)| (Duration::from_secs(at), name));
    assert_eq!(log.since(start), expected);
    assert_eq!(took, 4 * SECOND, "side by side, and no longer than needed");
    // What was left of each one's own deadline: 5 s for the first, 10 s for the last.
    let left = closed
        .iter()
        .map(|held| (held.name.as_str(), held.report.flushed));
    assert_eq!(
        Vec::from_iter(left),
        [("cache", 3), ("table", 2), ("audit", 6)]
    );
}

#[tokio::test(start_paused = true)]
async fn holdings_that_hang_are_cut_at_half_the_time_and_at_the_deadline() {
    let registry = Registry::new();
    let start = Instant::now();
    let log = Log::default();
    let expendable = FakeHolding::new("expendable", HOUR);
    expendable.insert(5);
    expendable.close_takes(HOUR);
    let expendable = registry.register(expendable).unwrap();
    let closing = log.clone();
    let audit = Scripted::new("audit")
        .must_flush()
        .on_usage(|| Usage::new(42, 0))
        .on_close(move |_| {
            closing.push("audit");
            pending()
        });
    drop(registry.register(Arc::new(audit)).unwrap());
    let quick = FakeHolding::must_flush("quick", HOUR);
    quick.insert(3);
    let quick = registry.register(quick).unwrap();

    let (closed, took) = close_within(&registry, 10 * SECOND).await;
    assert_eq!(took, 10 * SECOND);
    assert_eq!(log.since(start), [(5 * SECOND, "audit")]);
    let [first, second, third] = &closed[..] else {
        panic!("{closed:?}");
    };
    assert_eq!(first.name.as_str(), "expendable");
    assert!(first.report.timed_out && first.report.lost == 0);
    assert_eq!(second.name.as_str(), "audit");
    assert!(second.report.timed_out);
    assert_eq!((second.report.flushed, second.report.lost), (0, 42));
    assert_eq!(third.name.as_str(), "quick");
    assert!(third.report.is_clean());
    assert_eq!(third.report.flushed, 3);
    assert_balanced(&expendable);
    assert_balanced(&quick);
    let removed = quick.bounded().totals().removed;
    assert_eq!(removed, Removed::of(RemovalReason::Closed, 3));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_still_lets_each_close_what_it_can_at_once() {
    let registry = Registry::new();
    let quick = Scripted::new("quick")
        .must_flush()
        .on_close(|_| async { CloseReport::flushed(1) });
    drop(registry.register(Arc::new(quick)).unwrap());
    let slow = FakeHolding::must_flush("slow", HOUR);
    slow.insert(2);
    slow.close_takes(SECOND);
    drop(registry.register(slow).unwrap());
    let (closed, took) = close_within(&registry, Duration::ZERO).await;
    assert_eq!(took, Duration::ZERO);
    assert_eq!(closed[0].report.flushed, 1);
    assert_eq!(
        (closed[1].report.timed_out, closed[1].report.lost),
        (true, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_closing_is_reported_and_the_others_do_not_notice() {
    let registry = Registry::new();
    let at_once = Scripted::new("at once").on_close(|_| -> BoxFuture<'static, CloseReport> {
        panic!("no {}", "socket");
    });
    let later = Scripted::new("later")
        .must_flush()
        .on_usage(|| Usage::new(8, 0))
        .on_close(|_| async { panic!("no disk") });
    let in_drop = Scripted::new("in drop").on_drop(|| panic!("in drop"));
    let at_once = registry.register(Arc::new(at_once)).unwrap();
    registry.register(Arc::new(later)).unwrap();
    let sound = FakeHolding::new("sound", HOUR);
    sound.insert(2);
    let sound = registry.register(sound).unwrap();
    let in_drop = registry.register(Arc::new(in_drop)).unwrap();
    // Dropped by the registry, after it is closed.
    let handle = Arc::new(Mutex::new(Some(in_drop)));
    let taken = handle.clone();
    let holder = Scripted::new("holder").on_close(move |_| {
        let last_handle = taken.lock().unwrap().take();
        async move {
            drop(last_handle);
            CloseReport::default()
        }
    });
    let _holder = registry.register(Arc::new(holder)).unwrap();

    let (closed, _) = close_within(&registry, SECOND).await;
    let told: Vec<_> = closed
        .iter()
        .map(|held| {
            let error = held.report.error.as_ref().map(ToString::to_string);
            (held.name.as_str(), error, held.report.lost)
        })
        .collect();
    let panicked = |message: &str| Some(format!("panicked while closing: {message}"));
    assert_eq!(
        told,
        [
            ("at once", panicked("no socket"), 0),
            ("sound", None, 0),
            ("in drop", None, 0),
            ("holder", None, 0),
            ("later", panicked("no disk"), 8),
        ]
    );
    assert_eq!(sound.held(), 0);
    drop(at_once);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_close_drops_what_was_being_closed() {
    let tasks = alive_tasks();
    let registry = Registry::new();
    let log = Log::default();
    let dropped = log.clone();
    let hung = Scripted::new("hung")
        .must_flush()
        .on_close(|_| pending())
        .on_drop(move || dropped.push("dropped"));
    drop(registry.register(Arc::new(hung)).unwrap());
    let mut close = tokio_test::task::spawn(registry.close(Instant::now() + HOUR));
    assert!(close.poll().is_pending());
    turns(5).await;
    assert_eq!(alive_tasks(), tasks + 1);
    drop(close);
    assert_tasks_return_to(tasks).await;
    assert_eq!(log.what(), ["dropped"]);
    assert!(registry.register(fake("late")).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_holding_is_closed_while_it_is_swept_and_not_swept_again_after() {
    let registry = swept_with(RegistryConfig::default().sweep_budget(1));
    let holding = FakeHolding::new("big", Duration::ZERO);
    holding.insert(1_000);
    let holding = registry.register(holding).unwrap();
    turns(10).await;
    let (closed, _) = close_within(&registry, SECOND).await;
    let (expired, dropped) = (holding.sweeps().len() as u64, closed[0].report.dropped);
    assert!(dropped > 900, "{dropped}");
    turns(10).await;
    let swept = holding.sweeps().len();
    sleep(10 * MINUTE).await;
    assert_eq!(holding.sweeps().len(), swept);
    assert!(expired + dropped >= 1_000);
    assert_eq!(holding.held(), 0);
    assert_balanced(&holding);
}

#[tokio::test(start_paused = true)]
async fn a_manual_sweep_that_ends_during_the_sweepers_leaves_the_planning_to_it() {
    let start = Instant::now();
    let registry = Registry::with_config(RegistryConfig::default().sweep_budget(1));
    let calls = AtomicUsize::new(0);
    let holding =
        Scripted::new("shared").on_sweep(move |now, _| match calls.fetch_add(1, Relaxed) {
            0 => Step::more(Removed::expired(1)),
            1 => Step::at(Removed::NONE, now + SECOND),
            _ => Step::at(Removed::NONE, now + HOUR),
        });
    let _holding = registry.register(Arc::new(holding)).unwrap();
    let mut sweeper = tokio_test::task::spawn(registry.sweeper());
    assert!(sweeper.poll().is_pending());
    registry.sweep("shared").await.unwrap();
    let snapshot = &registry.snapshot()[0];
    assert_eq!(snapshot.stats.sweeps, 1);
    assert_eq!(snapshot.next_sweep, start, "still in the sweeper's hands");
    assert!(sweeper.poll().is_pending());
    let snapshot = &registry.snapshot()[0];
    assert_eq!(snapshot.stats.sweeps, 2);
    assert_eq!(snapshot.next_sweep, start + HOUR);
}

#[test]
fn what_the_registry_hands_out_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Registry>();
    shared::<RegisterError>();
    shared::<ClosedHolding>();
}
