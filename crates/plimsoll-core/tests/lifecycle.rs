//! Tasks, and the phases of a stop, on a paused clock.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_core::{
    Lifecycle, LifecycleConfig, Name, Phase, Registry, StopReason, StopReport,
    lifecycle::{Drained, SpawnError},
    test_util::{FakeHolding, alive_tasks, assert_balanced, assert_tasks_return_to},
};
use std::{
    future::pending,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    runtime,
    task::{JoinHandle, yield_now},
    time::{Instant, sleep, sleep_until},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn config() -> LifecycleConfig {
    LifecycleConfig::default()
}

fn lifecycle(config: LifecycleConfig) -> Lifecycle {
    let lifecycle = Lifecycle::with_config(config).unwrap();
    lifecycle.set_ready();
    lifecycle
}

/// Stops in a task of its own.
fn begin_stop(
    lifecycle: &Lifecycle,
    registry: &Registry,
    reason: StopReason,
) -> JoinHandle<Arc<StopReport>> {
    let (lifecycle, registry) = (lifecycle.clone(), registry.clone());
    tokio::spawn(async move { lifecycle.stop(&registry, reason).await })
}

/// A listener that serves until it is cut.
fn listen_until_cut(lifecycle: &Lifecycle, name: &str, finished: u64, cut: u64) {
    let guard = lifecycle.listener(name).unwrap();
    tokio::spawn(async move {
        guard.cut().await;
        guard.finish(finished, cut);
    });
}

/// A holding that must flush and never does.
fn hang_while_closing(registry: &Registry, name: &str, entries: u64) {
    let holding = FakeHolding::must_flush(name, HOUR);
    holding.insert(entries);
    holding.close_takes(1_000 * HOUR);
    registry.register(holding).unwrap();
}

async fn turns(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

/// Tells how often it was polled and dropped.
#[derive(Clone, Default)]
struct Told {
    polls: Arc<AtomicUsize>,
    drops: Arc<AtomicUsize>,
}

impl Told {
    fn future(&self) -> Telling {
        Telling(self.clone())
    }

    fn counts(&self) -> (usize, usize) {
        (self.polls.load(Relaxed), self.drops.load(Relaxed))
    }
}

/// Never ends.
struct Telling(Told);

impl Future for Telling {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        self.0.polls.fetch_add(1, Relaxed);
        Poll::Pending
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.drops.fetch_add(1, Relaxed);
    }
}

// === phases ===

#[tokio::test(start_paused = true)]
async fn the_phases_follow_each_other_and_each_ends_when_its_work_is_done() {
    let start = Instant::now();
    let lifecycle = Lifecycle::new();
    let registry = Registry::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut phases = lifecycle.watch_phase();
    tokio::spawn({
        let seen = seen.clone();
        async move {
            loop {
                let phase = *phases.borrow_and_update();
                let after = Instant::now().saturating_duration_since(start);
                seen.lock().unwrap().push((after.as_secs(), phase));
                if phases.changed().await.is_err() {
                    return;
                }
            }
        }
    });
    assert_eq!(
        (lifecycle.phase(), lifecycle.is_ready()),
        (Phase::Starting, false)
    );
    turns(3).await;
    lifecycle.set_ready();
    assert_eq!(
        (lifecycle.phase(), lifecycle.is_ready()),
        (Phase::Running, true)
    );
    sleep(SECOND).await;

    let listener = lifecycle.listener("http").unwrap();
    tokio::spawn(async move {
        listener.draining().await;
        sleep(2 * SECOND).await;
        listener.finish(3, 0);
    });
    let holding = FakeHolding::new("cache", HOUR);
    holding.insert(4);
    holding.close_takes(3 * SECOND);
    let holding = registry.register(holding).unwrap();
    let task = lifecycle
        .spawn("worker", {
            let lifecycle = lifecycle.clone();
            async move {
                lifecycle.cancelled().await;
                sleep(4 * SECOND).await;
                "done"
            }
        })
        .unwrap();

    let report = lifecycle.stop(&registry, StopReason::Terminate).await;
    turns(3).await;
    assert_eq!(
        *seen.lock().unwrap(),
        [
            (0, Phase::Starting),
            (0, Phase::Running),
            (1, Phase::Leaving),
            (1 + 5, Phase::Draining),
            (1 + 5 + 2, Phase::Closing),
            (1 + 5 + 2 + 3, Phase::Cancelling),
            (1 + 5 + 2 + 3 + 4, Phase::Stopped),
        ]
    );
    assert_eq!(report.elapsed, 14 * SECOND);
    assert!(report.is_clean());
    assert_eq!(report.tasks_ended, 1);
    assert_eq!(task.await.unwrap(), "done");
    assert_balanced(&holding);
    lifecycle.set_ready();
    assert_eq!(lifecycle.phase(), Phase::Stopped);
}

#[tokio::test(start_paused = true)]
async fn nothing_to_stop_takes_no_time() {
    for reason in [
        StopReason::Terminate,
        StopReason::Interrupt,
        StopReason::Requested,
    ] {
        let lifecycle = Lifecycle::new();
        let report = lifecycle.stop(&Registry::new(), reason).await;
        assert_eq!(report.elapsed, Duration::ZERO);
        assert!(report.is_clean());
        assert_eq!(report.exit_code(), 0);
        assert_eq!(report.reason, reason);
    }
}

#[tokio::test(start_paused = true)]
async fn the_drain_delay_is_kept_while_something_serves_but_not_on_an_interrupt() {
    for (reason, delay) in [
        (StopReason::Terminate, 5 * SECOND),
        (StopReason::Requested, 5 * SECOND),
        (StopReason::Interrupt, Duration::ZERO),
    ] {
        let lifecycle = lifecycle(config());
        let guard = lifecycle.listener("http").unwrap();
        tokio::spawn(async move {
            guard.draining().await;
            drop(guard);
        });
        let report = lifecycle.stop(&Registry::new(), reason).await;
        assert_eq!(report.elapsed, delay);
    }
}

#[tokio::test(start_paused = true)]
async fn the_drain_delay_ends_when_nothing_serves_any_more() {
    let lifecycle = lifecycle(config());
    let guard = lifecycle.listener("http").unwrap();
    tokio::spawn(async move {
        sleep(2 * SECOND).await;
        drop(guard);
    });
    let report = lifecycle
        .stop(&Registry::new(), StopReason::Terminate)
        .await;
    assert_eq!(report.elapsed, 2 * SECOND);
    assert!(report.drained.is_empty(), "it had ended before");
}

#[tokio::test(start_paused = true)]
async fn it_serves_on_while_leaving_and_takes_no_listener_once_it_drains() {
    let start = Instant::now();
    let lifecycle = lifecycle(config());
    let registry = Registry::new();
    let first = lifecycle.listener("first").unwrap();
    let stop = begin_stop(&lifecycle, &registry, StopReason::Terminate);
    sleep(SECOND).await;
    assert_eq!(
        (lifecycle.phase(), lifecycle.is_ready()),
        (Phase::Leaving, false)
    );
    let late = lifecycle.listener("late").unwrap();
    assert!(tokio_test::task::spawn(late.draining()).poll().is_pending());

    sleep(5 * SECOND).await;
    assert_eq!(lifecycle.phase(), Phase::Draining);
    assert!(lifecycle.listener("too late").is_none());
    assert!(tokio_test::task::spawn(late.draining()).poll().is_ready());
    assert!(
        tokio_test::task::spawn(lifecycle.draining())
            .poll()
            .is_ready()
    );
    assert!(
        lifecycle.spawn("request", async {}).is_ok(),
        "requests go on"
    );

    drop(first);
    sleep(SECOND).await;
    assert_eq!(
        lifecycle.phase(),
        Phase::Draining,
        "the late one counts, too"
    );
    late.finish(2, 0);
    let report = stop.await.unwrap();
    assert_eq!(Instant::now(), start + 7 * SECOND);
    let drained = report.drained.iter();
    let drained = drained.map(|listener| (listener.name.as_str(), listener.finished));
    assert_eq!(Vec::from_iter(drained), [("first", 0), ("late", 2)]);
}

#[tokio::test(start_paused = true)]
async fn listeners_are_cut_at_60_percent_of_what_is_left() {
    for (reason, cut_at) in [
        (StopReason::Terminate, 5 * SECOND + 12 * SECOND),
        (StopReason::Interrupt, 15 * SECOND),
    ] {
        let lifecycle = lifecycle(config());
        listen_until_cut(&lifecycle, "http", 7, 2);
        let report = lifecycle.stop(&Registry::new(), reason).await;
        assert_eq!(report.elapsed, cut_at);
        let [
            Drained {
                name,
                finished,
                cut,
                ..
            },
        ] = report.drained[..]
        else {
            panic!("{report:?}");
        };
        assert_eq!((name.as_str(), finished, cut), ("http", 7, 2));
        assert!(!report.is_clean());
        assert_eq!(report.exit_code(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_does_not_end_even_when_cut_is_left_behind_and_named() {
    let lifecycle = lifecycle(config());
    let deaf = lifecycle.listener("deaf").unwrap();
    let other = lifecycle.listener("deaf").unwrap();
    let report = lifecycle
        .stop(&Registry::new(), StopReason::Interrupt)
        .await;
    assert_eq!(report.elapsed, 15 * SECOND + 500 * MS);
    assert_eq!(
        Vec::from_iter(&report.still_open),
        [(&Name::new("deaf"), &2)]
    );
    assert!(report.drained.is_empty());
    assert!(!report.is_clean());
    drop((deaf, other));
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_ends_while_the_service_runs_is_not_reported() {
    let lifecycle = lifecycle(config());
    lifecycle.listener("brief").unwrap().finish(1, 1);
    let report = lifecycle
        .stop(&Registry::new(), StopReason::Terminate)
        .await;
    assert!(report.drained.is_empty() && report.is_clean());
    assert_eq!(report.elapsed, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn holdings_have_75_percent_of_what_is_left() {
    let lifecycle = lifecycle(config().stop_timeout(20 * SECOND));
    let registry = Registry::new();
    hang_while_closing(&registry, "audit", 42);
    let report = lifecycle.stop(&registry, StopReason::Terminate).await;
    assert_eq!(report.elapsed, 15 * SECOND);
    assert_eq!(report.holdings.len(), 1);
    assert!(report.holdings[0].report.timed_out);
    assert_eq!(report.holdings[0].report.lost, 42);
    assert!(!report.is_clean());
    assert!(registry.register(FakeHolding::new("late", HOUR)).is_err());
}

#[tokio::test(start_paused = true)]
async fn tasks_that_watch_end_by_themselves_and_one_that_hangs_is_aborted_by_name() {
    let start = alive_tasks();
    let lifecycle = lifecycle(config());
    for _ in 0..3 {
        let watching = lifecycle.clone();
        lifecycle
            .spawn("watching", async move { watching.cancelled().await })
            .unwrap();
        let token = lifecycle.cancellation_token();
        lifecycle
            .spawn("holding a token", async move { token.cancelled().await })
            .unwrap();
    }
    let told = Told::default();
    for name in ["stuck", "stuck", "other"] {
        lifecycle.spawn(name, told.future()).unwrap();
    }
    let report = lifecycle
        .stop(&Registry::new(), StopReason::Terminate)
        .await;
    // Half a second before the deadline, so that all is dropped by then.
    assert_eq!(report.elapsed, 24 * SECOND + 500 * MS);
    assert_eq!(report.tasks_ended, 6);
    let (other, stuck) = (Name::new("other"), Name::new("stuck"));
    assert_eq!(
        Vec::from_iter(&report.stragglers),
        [(&other, &1), (&stuck, &2)]
    );
    assert!(!report.is_clean());
    assert_eq!(told.counts(), (3, 3));
    assert_eq!(lifecycle.task_count(), 0);
    assert_tasks_return_to(start).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_hangs_the_stop_ends_within_its_timeout() {
    for timeout in [10 * MS, 100 * MS, SECOND, 25 * SECOND, HOUR] {
        let lifecycle = lifecycle(config().stop_timeout(timeout).drain_delay(timeout / 5));
        let registry = Registry::new();
        let _deaf = lifecycle.listener("deaf").unwrap();
        hang_while_closing(&registry, "audit", 42);
        let told = Told::default();
        lifecycle.spawn("stuck", told.future()).unwrap();
        let report = lifecycle.stop(&registry, StopReason::Terminate).await;
        assert!(
            report.elapsed <= timeout,
            "{:?} of {timeout:?}",
            report.elapsed
        );
        assert_eq!(report.timeout, timeout);
        assert_eq!(told.counts(), (1, 1));
        assert_eq!(report.stragglers.len(), 1);
        assert_eq!(report.holdings[0].report.lost, 42);
        assert_eq!(report.still_open.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn times_without_end_are_taken_for_very_long() {
    let endless = config().stop_timeout(Duration::MAX);
    let lifecycle_of = |delay| lifecycle(endless.drain_delay(delay));
    let registry = Registry::new();
    let first = lifecycle_of(SECOND);
    listen_until_cut(&first, "http", 0, 0);
    let report = first.stop(&registry, StopReason::Terminate).await;
    assert!(report.elapsed > 100_000 * HOUR, "{:?}", report.elapsed);

    let second = lifecycle_of(Duration::MAX - SECOND);
    let _guard = second.listener("http").unwrap();
    let stop = begin_stop(&second, &registry, StopReason::Terminate);
    sleep(10_000 * HOUR).await;
    assert_eq!(second.phase(), Phase::Leaving);
    second.abort();
    assert!(stop.await.unwrap().aborted);
}

// === the second request ===

#[tokio::test(start_paused = true)]
async fn a_second_request_ends_the_stop_at_once_from_every_phase() {
    let table = [
        (Phase::Leaving, SECOND),
        (Phase::Draining, 6 * SECOND),
        (Phase::Closing, 17 * SECOND + MS),
        (Phase::Cancelling, 23 * SECOND + MS),
    ];
    for (phase, at) in table {
        let lifecycle = lifecycle(config());
        let registry = Registry::new();
        listen_until_cut(&lifecycle, "http", 1, 1);
        hang_while_closing(&registry, "audit", 42);
        let told = Told::default();
        lifecycle.spawn("stuck", told.future()).unwrap();

        let start = Instant::now();
        let stop = begin_stop(&lifecycle, &registry, StopReason::Terminate);
        sleep_until(start + at).await;
        assert_eq!(lifecycle.phase(), phase);
        let asked = Instant::now();
        lifecycle.abort();
        let report = stop.await.unwrap();
        assert_eq!(Instant::now(), asked, "from {phase}");
        assert!(report.aborted && !report.is_clean());
        assert_eq!(lifecycle.phase(), Phase::Stopped);
        assert_eq!(report.drained.len(), 1);
        assert_eq!(told.counts(), (1, 1));
        assert_eq!(report.stragglers.len(), 1);
        assert_eq!(report.holdings[0].report.lost, 42, "from {phase}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_after_an_abort_ends_at_once_and_tells_what_was_lost() {
    let lifecycle = lifecycle(config());
    let registry = Registry::new();
    listen_until_cut(&lifecycle, "http", 0, 3);
    hang_while_closing(&registry, "audit", 42);
    lifecycle.abort();
    assert_eq!(lifecycle.phase(), Phase::Running, "only a stop stops");
    let report = lifecycle.stop(&registry, StopReason::Terminate).await;
    assert_eq!(report.elapsed, Duration::ZERO);
    assert!(report.aborted);
    assert_eq!(report.drained[0].cut, 3);
    assert_eq!(report.holdings[0].report.lost, 42);
}

// === once more, and going on ===

#[tokio::test(start_paused = true)]
async fn stopping_twice_gives_the_same_report() {
    let lifecycle = lifecycle(config());
    let registry = Registry::new();
    listen_until_cut(&lifecycle, "http", 1, 0);
    let first = begin_stop(&lifecycle, &registry, StopReason::Terminate);
    sleep(SECOND).await;
    let second = begin_stop(&lifecycle, &registry, StopReason::Interrupt);
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert!(Arc::ptr_eq(&first, &second));
    let third = lifecycle.stop(&registry, StopReason::Interrupt).await;
    assert!(Arc::ptr_eq(&first, &third));
    assert_eq!(third.reason, StopReason::Terminate);
}

#[tokio::test(start_paused = true)]
async fn a_stop_whose_future_was_dropped_goes_on_with_the_first_deadline() {
    let table = [
        (Phase::Leaving, StopReason::Terminate, 2 * SECOND),
        (Phase::Draining, StopReason::Interrupt, 2 * SECOND),
        (Phase::Cancelling, StopReason::Interrupt, 20 * SECOND),
    ];
    for (phase, reason, at) in table {
        let start = Instant::now();
        let lifecycle = lifecycle(config());
        let registry = Registry::new();
        listen_until_cut(&lifecycle, "http", 5, 1);
        let told = Told::default();
        lifecycle.spawn("stuck", told.future()).unwrap();
        let first = lifecycle.stop(&registry, reason);
        let timed_out = tokio::time::timeout_at(start + at, first).await;
        assert!(timed_out.is_err());
        assert_eq!(lifecycle.phase(), phase);
        sleep(SECOND).await;
        assert_eq!(lifecycle.phase(), phase, "nobody stops it now");

        let mut phases = lifecycle.watch_phase();
        let stop = begin_stop(&lifecycle, &registry, StopReason::Terminate);
        if phase == Phase::Draining {
            // Not held up by the drain delay again.
            phases
                .wait_for(|phase| *phase == Phase::Cancelling)
                .await
                .unwrap();
            assert_eq!(Instant::now(), start + 3 * SECOND + 22 * SECOND * 3 / 5);
        }
        let report = stop.await.unwrap();
        assert_eq!(report.elapsed, 24 * SECOND + 500 * MS, "from {phase}");
        assert_eq!(Instant::now(), start + report.elapsed);
        assert_eq!((report.drained[0].finished, report.drained[0].cut), (5, 1));
        assert_eq!(report.stragglers.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_by_itself_is_the_first_half_of_the_stop() {
    let start = Instant::now();
    let lifecycle = lifecycle(config());
    let registry = Registry::new();
    let guard = lifecycle.listener("http").unwrap();
    tokio::spawn(async move {
        guard.draining().await;
        sleep(SECOND).await;
        guard.finish(1, 0);
    });
    lifecycle.drain(StopReason::Terminate).await;
    assert_eq!(Instant::now(), start + 6 * SECOND);
    assert_eq!(lifecycle.phase(), Phase::Draining);
    lifecycle.drain(StopReason::Terminate).await;
    assert_eq!(Instant::now(), start + 6 * SECOND);
    sleep(SECOND).await;
    let report = lifecycle.stop(&registry, StopReason::Terminate).await;
    assert_eq!(report.elapsed, 7 * SECOND);
    assert_eq!(report.drained[0].finished, 1);
    lifecycle.drain(StopReason::Terminate).await;
    assert_eq!(lifecycle.phase(), Phase::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_request_from_inside_the_program_stops_it() {
    let lifecycle = lifecycle(config());
    let registry = Registry::new();
    let stop = tokio::spawn({
        let (lifecycle, registry) = (lifecycle.clone(), registry.clone());
        async move { lifecycle.stop_on_signal(&registry).await.unwrap() }
    });
    let signal = tokio::spawn({
        let lifecycle = lifecycle.clone();
        async move { lifecycle.shutdown_signal().await.unwrap() }
    });
    sleep(HOUR).await;
    assert!(!stop.is_finished() && !signal.is_finished());
    assert_eq!(lifecycle.phase(), Phase::Running);
    lifecycle.request_stop();
    lifecycle.stop_requested().await;
    assert_eq!(stop.await.unwrap().reason, StopReason::Requested);
    assert_eq!(signal.await.unwrap(), StopReason::Requested);
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_token_that_was_handed_out_cancels_nothing_else() {
    let lifecycle = lifecycle(config());
    let guard = lifecycle.listener("http").unwrap();
    let (task, cut) = (lifecycle.cancellation_token(), guard.cut_token());
    task.cancel();
    cut.cancel();
    assert!(
        tokio_test::task::spawn(lifecycle.cancelled())
            .poll()
            .is_pending()
    );
    assert!(tokio_test::task::spawn(guard.cut()).poll().is_pending());
    assert!(!lifecycle.cancellation_token().is_cancelled());
    assert!(!guard.cut_token().is_cancelled());
}

// === tasks ===

#[tokio::test(start_paused = true)]
async fn a_task_is_refused_once_tasks_are_cancelled_and_its_future_dropped_unpolled() {
    let lifecycle = lifecycle(config());
    let registry = Registry::new();
    let first = Told::default();
    lifecycle.spawn("stuck", first.future()).unwrap();
    let stop = begin_stop(&lifecycle, &registry, StopReason::Terminate);
    sleep(SECOND).await;
    assert_eq!(lifecycle.phase(), Phase::Cancelling);

    let late = Told::default();
    let refused = lifecycle.spawn("late", late.future()).unwrap_err();
    assert_eq!(refused, SpawnError::ShuttingDown(Name::new("late")));
    assert_eq!(
        refused.to_string(),
        "task \"late\" refused: the service is stopping"
    );
    assert_eq!(late.counts(), (0, 1));
    stop.await.unwrap();
    assert!(lifecycle.spawn("later", late.future()).is_err());
    assert_eq!(late.counts(), (0, 2));
    let counts = lifecycle.task_counts();
    assert_eq!((counts.spawned, counts.refused, counts.panicked), (1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_place_is_given_back_however_its_task_ends() {
    let lifecycle = lifecycle(config().max_tasks(1));
    assert_eq!(lifecycle.max_tasks(), 1);
    let told = Told::default();
    let full = |lifecycle: &Lifecycle| {
        let refused = lifecycle.spawn("extra", told.future()).unwrap_err();
        assert_eq!(refused, SpawnError::TooManyTasks(Name::new("extra"), 1));
        assert_eq!(
            refused.to_string(),
            "task \"extra\" refused: 1 tasks are alive, raise `max_tasks` if that is right"
        );
    };

    let finished = lifecycle.spawn("finishes", async {}).unwrap();
    full(&lifecycle);
    finished.await.unwrap();

    let panicked = lifecycle
        .spawn("panics", async { panic!("told to") })
        .unwrap();
    full(&lifecycle);
    assert!(panicked.await.unwrap_err().is_panic());

    let unpolled = Told::default();
    let aborted = lifecycle
        .spawn("aborted unpolled", unpolled.future())
        .unwrap();
    full(&lifecycle);
    aborted.abort();
    assert!(aborted.await.unwrap_err().is_cancelled());
    assert_eq!(unpolled.counts(), (0, 1));

    let polled = Told::default();
    let aborted = lifecycle.spawn("aborted", polled.future()).unwrap();
    turns(3).await;
    full(&lifecycle);
    aborted.abort();
    assert!(aborted.await.unwrap_err().is_cancelled());
    assert_eq!(polled.counts(), (1, 1));

    let detached = lifecycle.spawn("detached", sleep(SECOND)).unwrap();
    drop(detached);
    full(&lifecycle);
    sleep(2 * SECOND).await;

    assert_eq!(lifecycle.task_count(), 0);
    let counts = lifecycle.task_counts();
    assert_eq!((counts.spawned, counts.refused, counts.panicked), (5, 5, 1));
    assert_eq!(told.counts(), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn a_place_is_given_back_only_after_the_future_is_dropped() {
    struct Watching(Lifecycle, Arc<Mutex<Vec<usize>>>);

    impl Drop for Watching {
        fn drop(&mut self) {
            self.1.lock().unwrap().push(self.0.task_count());
        }
    }

    let lifecycle = lifecycle(config());
    let seen = Arc::new(Mutex::new(Vec::new()));
    for unpolled in [true, false] {
        let watching = Watching(lifecycle.clone(), seen.clone());
        let task = lifecycle.spawn("watching", async move {
            let _watching = watching;
            pending::<()>().await;
        });
        let task = task.unwrap();
        if !unpolled {
            turns(3).await;
        }
        task.abort();
        assert!(task.await.is_err());
    }
    assert_eq!(*seen.lock().unwrap(), [1, 1]);
    assert_eq!(lifecycle.task_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_counted_and_disturbs_nobody() {
    let lifecycle = lifecycle(config());
    let sound = lifecycle.spawn("sound", async {
        sleep(SECOND).await;
        5
    });
    let later = lifecycle.spawn("panics later", async {
        sleep(MS).await;
        panic!("told to");
    });
    assert!(later.unwrap().await.unwrap_err().is_panic());
    assert_eq!(sound.unwrap().await.unwrap(), 5);
    assert_eq!(lifecycle.task_counts().panicked, 1);
    let report = lifecycle
        .stop(&Registry::new(), StopReason::Terminate)
        .await;
    assert!(report.is_clean());
}

#[test]
fn a_task_dropped_by_a_thread_that_panics_did_not_panic_itself() {
    let lifecycle = Lifecycle::new();
    let spawning = lifecycle.clone();
    let thread = std::thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        spawning.spawn("innocent", pending::<()>()).unwrap();
        assert_eq!(spawning.task_count(), 1);
        panic!("told to");
    });
    assert!(thread.join().is_err());
    assert_eq!(lifecycle.task_count(), 0);
    assert_eq!(lifecycle.task_counts().panicked, 0);
}

#[tokio::test(start_paused = true)]
async fn tasks_are_listed_by_name_with_their_number_and_the_oldest() {
    let start = Instant::now();
    let lifecycle = lifecycle(config());
    for _ in 0..3 {
        lifecycle.spawn("connection", pending::<()>()).unwrap();
        sleep(SECOND).await;
    }
    let brief = lifecycle.spawn("connection", async {}).unwrap();
    let line = line!() + 1;
    lifecycle.spawn("sweeper", pending::<()>()).unwrap();
    lifecycle.spawn("audit", pending::<()>()).unwrap();
    brief.await.unwrap();

    let groups = lifecycle.tasks();
    let told = groups.iter().map(|group| {
        let age = group.oldest.saturating_duration_since(start);
        (group.name.as_str(), group.count, age.as_secs())
    });
    assert_eq!(
        Vec::from_iter(told),
        [("connection", 3, 0), ("audit", 1, 3), ("sweeper", 1, 3)]
    );
    assert_eq!(
        (groups[2].site.file(), groups[2].site.line()),
        (file!(), line)
    );
}

// === texts ===

#[tokio::test(start_paused = true)]
async fn the_report_of_a_clean_stop_reads_well() {
    let lifecycle = lifecycle(config());
    let registry = Registry::new();
    let guard = lifecycle.listener("http").unwrap();
    tokio::spawn(async move {
        guard.draining().await;
        sleep(250 * MS).await;
        guard.finish(12, 0);
    });
    let audit = FakeHolding::must_flush("audit", HOUR);
    audit.insert(3);
    registry.register(audit).unwrap();
    let cache = FakeHolding::new("cache", HOUR);
    cache.insert(40);
    let _cache = registry.register(cache).unwrap();
    let token = lifecycle.cancellation_token();
    lifecycle
        .spawn("watching", async move { token.cancelled().await })
        .unwrap();
    let report = lifecycle.stop(&registry, StopReason::Terminate).await;
    assert_eq!(
        report.to_string(),
        "stopped on SIGTERM after 5.2 s of 25.0 s\
         \n  http: 12 requests finished while draining, 0 cut off\
         \n  holdings: 2 closed, 3 entries flushed, 40 dropped, 0 lost\
         \n  tasks: 1 ended, 0 aborted"
    );
    assert_eq!((report.is_clean(), report.exit_code()), (true, 0));
}

#[tokio::test(start_paused = true)]
async fn the_report_of_a_bad_stop_names_what_went_wrong() {
    let lifecycle = lifecycle(config());
    let registry = Registry::new();
    listen_until_cut(&lifecycle, "http", 12, 3);
    let _deaf = lifecycle.listener("probe").unwrap();
    hang_while_closing(&registry, "audit", 42);
    let cache = FakeHolding::new("cache", HOUR);
    cache.insert(40);
    let _cache = registry.register(cache).unwrap();
    for name in ["stuck", "stuck", "other"] {
        lifecycle.spawn(name, pending::<()>()).unwrap();
    }
    let stop = begin_stop(&lifecycle, &registry, StopReason::Interrupt);
    sleep(24 * SECOND).await;
    lifecycle.abort();
    let report = stop.await.unwrap();
    assert_eq!(
        report.to_string(),
        "stopped on SIGINT after 24.0 s of 25.0 s, cut short by a second request\
         \n  http: 12 requests finished while draining, 3 cut off\
         \n  probe: 1 did not end, left behind\
         \n  holdings: 2 closed, 0 entries flushed, 40 dropped, 42 lost\
         \n    audit: 42 lost, out of time\
         \n  tasks: 0 ended, 3 aborted\
         \n    other: 1 aborted\
         \n    stuck: 2 aborted"
    );
    assert_eq!((report.is_clean(), report.exit_code()), (false, 1));
}

#[test]
fn a_drain_delay_that_leaves_no_time_is_refused_with_both_numbers() {
    let refused = Lifecycle::with_config(config().drain_delay(30 * SECOND)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "`drain_delay` is 30s, but must be shorter than stop_timeout, 25s"
    );
    for timeout in [Duration::ZERO, SECOND, Duration::MAX] {
        let equal = config().drain_delay(timeout).stop_timeout(timeout);
        assert!(Lifecycle::with_config(equal).is_err());
    }
    let shortest = config().drain_delay(Duration::ZERO).stop_timeout(MS);
    assert!(Lifecycle::with_config(shortest).is_ok());
}

#[test]
fn a_lifecycle_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Lifecycle>();
    shared::<StopReport>();
    shared::<SpawnError>();
}
