//! Room that is made, on threads.

use super::{purge::tests::Gated, *};
use crate::{
    BudgetMode, MonitorConfig,
    worker::{LEFT_BEHIND_AFTER, Watched, Worker},
};
use plimsoll_core::{
    Bounded, BoxFuture, CloseReport, Name, Registry, ShrinkPolicy, Step, Totals, Usage,
    test_util::FakeHolding,
};
use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3_600);
const WAIT: Duration = Duration::from_secs(60);

/// Ends requests, and remembers what it was asked.
#[derive(Default)]
struct Requests(Mutex<Vec<CancelAsk>>);

impl CancelLargest for Requests {
    fn cancel_largest(&self, ask: &CancelAsk) -> Cancelled {
        self.0.lock().unwrap().push(*ask);
        Cancelled {
            requests: 4,
            bytes: ask.want,
        }
    }
}

/// A holding that does not come back from a sweep until it is let.
struct Stuck {
    entered: Mutex<mpsc::Sender<()>>,
    gate: Mutex<mpsc::Receiver<()>>,
}

impl Bounded for Stuck {
    fn name(&self) -> &str {
        "stuck"
    }

    fn usage(&self) -> Usage {
        Usage::new(1, 1)
    }

    fn totals(&self) -> Totals {
        Totals::new(1, plimsoll_core::Removed::NONE)
    }

    fn sweep(&self, _: Instant, _: usize) -> Step {
        let _ = self.entered.lock().unwrap().send(());
        let _ = self.gate.lock().unwrap().recv();
        Step::idle()
    }

    fn close(self: Arc<Self>, _: Instant) -> BoxFuture<'static, CloseReport> {
        Box::pin(async { CloseReport::default() })
    }
}

fn ask(depth: Depth, excess: u64) -> Ask {
    let config = MonitorConfig::new().purge_gap(Duration::ZERO);
    config.ask_for(Why::Pressure, depth, excess, true)
}

fn worker(registry: &Registry, cancel: Option<Arc<dyn CancelLargest>>) -> Arc<Worker<Reclaimer>> {
    let purger = Arc::new(Purger::new(Gated::leak(None), None));
    Worker::start(Reclaimer::new(registry.clone(), purger, cancel)).unwrap()
}

fn holding(registry: &Registry, name: &str, policy: ShrinkPolicy, entries: u64) -> FakeHolding {
    let holding = FakeHolding::with_shrink_policy(name, HOUR, policy);
    holding.insert(entries);
    registry.register(holding).unwrap()
}

#[test]
fn steps_come_in_order_and_end_when_it_is_enough() {
    let registry = Registry::new();
    let old = registry
        .register(FakeHolding::new("old", Duration::ZERO))
        .unwrap();
    old.insert(10);
    let first = holding(&registry, "first", ShrinkPolicy::new(1, 0), 1_000);
    let later = holding(&registry, "later", ShrinkPolicy::new(200, 0), 1_000);
    let requests = Arc::new(Requests::default());
    let worker = worker(&registry, Some(requests.clone()));
    let steps = |report: &ReclaimReport| {
        let steps = report.steps.iter().map(|step| {
            let name = step.name.map_or("", Name::as_str);
            (step.kind, name.to_owned(), step.entries)
        });
        steps.collect::<Vec<_>>()
    };
    // 31 000 bytes too many: 1 000 have expired, and 30 000 are of the first.
    let report = worker.run(ask(Depth::Cancel, 31_000), WAIT).unwrap();
    assert_eq!(
        steps(&report),
        [
            (ReclaimKind::Expire, "old".to_owned(), 10),
            (ReclaimKind::Purge, String::new(), 1),
            (ReclaimKind::Shrink, "first".to_owned(), 300),
            (ReclaimKind::Purge, String::new(), 1),
        ]
    );
    assert_eq!(
        (report.freed.expired_bytes, report.freed.shrunk_bytes),
        (1_000, 30_000)
    );
    assert_eq!((first.held(), later.held()), (700, 1_000));
    // Half of each is all that they give at a time; the rest is for requests to give.
    let report = worker.run(ask(Depth::Cancel, 100_000), WAIT).unwrap();
    assert_eq!((first.held(), later.held()), (350, 500));
    assert_eq!(report.freed.would_cancel, 4);
    assert_eq!(
        (report.freed.cancelled, report.freed.cancelled_bytes),
        (0, 0)
    );
    let asked = requests.0.lock().unwrap()[0];
    assert_eq!((asked.want, asked.mode), (15_000, BudgetMode::Observe));
    // Nothing but what is free is asked for if that is all that is to be done.
    let report = worker.run(ask(Depth::Purge, 100_000), WAIT).unwrap();
    let only_purges = |step: &ReclaimStep| step.kind == ReclaimKind::Purge;
    assert!(report.steps.iter().all(only_purges), "{report:?}");
    assert_eq!(worker.stats().runs, 3);
    assert_eq!(worker.stats().sum.shrunk, 300 + 350 + 500);
    worker.close();
}

#[test]
fn floors_hold_and_shrinking_can_be_off() {
    let registry = Registry::new();
    let floored = holding(&registry, "floored", ShrinkPolicy::new(1, 90_000), 1_000);
    let at_floor = holding(&registry, "at floor", ShrinkPolicy::new(1, 100_000), 1_000);
    let worker = worker(&registry, None);
    worker.run(ask(Depth::Shrink, u64::MAX), WAIT).unwrap();
    assert_eq!((floored.held(), at_floor.held()), (900, 1_000));
    let off = Ask {
        shrink: false,
        ..ask(Depth::Cancel, u64::MAX)
    };
    floored.insert(1_000);
    worker.run(off, WAIT).unwrap();
    assert_eq!(floored.held(), 1_900);
    worker.close();
}

#[test]
fn requests_are_ended_in_enforce_at_no_more_than_a_rate() {
    let registry = Registry::new();
    let requests = Arc::new(Requests::default());
    let worker = worker(&registry, Some(requests.clone()));
    let enforced = Ask {
        cancel: BudgetMode::Enforce,
        cancel_floor: 7,
        cancel_rate: 0.01,
        ..ask(Depth::Cancel, 5)
    };
    for _ in 0..5 {
        worker.run(enforced, WAIT).unwrap();
    }
    let asked = requests.0.lock().unwrap();
    let at_most: Vec<_> = asked.iter().map(|ask| ask.at_most).collect();
    assert_eq!(at_most, [10, 6, 2], "four each, until there are none left");
    assert!(
        asked
            .iter()
            .all(|ask| ask.mode == BudgetMode::Enforce && ask.floor == 7)
    );
    assert_eq!(worker.stats().sum.cancelled, 12);
    worker.close();
}

#[test]
fn who_panics_is_counted_and_stops_nobody() {
    struct Odd;
    impl CancelLargest for Odd {
        fn cancel_largest(&self, _: &CancelAsk) -> Cancelled {
            panic!("told to");
        }
    }
    let registry = Registry::new();
    let odd = holding(&registry, "odd", ShrinkPolicy::new(1, 0), 100);
    let fine = holding(&registry, "fine", ShrinkPolicy::new(2, 0), 100);
    odd.panic_when_swept(1);
    odd.panic_when_shrunk(1);
    let worker = worker(&registry, Some(Arc::new(Odd)));
    let report = worker.run(ask(Depth::Cancel, u64::MAX), WAIT).unwrap();
    assert_eq!((odd.held(), fine.held(), report.freed.failed), (100, 50, 3));
    let failed = report.steps.iter().filter(|step| step.failed).count();
    assert_eq!(failed, 3);
    worker.close();
}

#[test]
fn one_that_does_not_come_back_is_left_behind_and_others_go_on() {
    let registry = Registry::new();
    let (entered, has_entered) = mpsc::channel();
    let (open, gate) = mpsc::channel();
    let stuck = Arc::new(Stuck {
        entered: Mutex::new(entered),
        gate: Mutex::new(gate),
    });
    let stuck = registry.register(stuck).unwrap();
    let fine = holding(&registry, "fine", ShrinkPolicy::default(), 100);
    let worker = worker(&registry, None);
    assert!(worker.submit(ask(Depth::Shrink, u64::MAX)).is_some());
    has_entered.recv().unwrap();
    assert_eq!(
        worker.submit(ask(Depth::Shrink, 1)),
        None,
        "somebody is at it"
    );
    let short = Duration::from_millis(1);
    assert_eq!(
        worker.run(ask(Depth::Shrink, 1), short),
        Err(ReclaimError::TimedOut)
    );
    let now = Instant::now();
    assert!(worker.watch(now).is_empty());
    let late = now + LEFT_BEHIND_AFTER * 2;
    let seen = worker.watch(late);
    assert!(matches!(seen[..], [Watched::LeftBehind(name)] if name.as_str() == "stuck"));
    assert!(worker.watch(late).is_empty(), "once");
    // Another thread goes on without it.
    let report = worker.run(ask(Depth::Shrink, 5_000), WAIT).unwrap();
    assert_eq!((report.freed.left_out, fine.held()), (2, 50));
    assert_eq!(worker.stats().left_behind, 1);
    // Once it has come back, it is asked again.
    open.send(()).unwrap();
    open.send(()).unwrap();
    while worker
        .run(ask(Depth::Purge, 0), WAIT)
        .unwrap()
        .freed
        .left_out
        > 0
    {
        open.send(()).unwrap();
    }
    drop((open, stuck));
    worker.close();
    assert_eq!(
        worker.run(ask(Depth::Purge, 0), WAIT),
        Err(ReclaimError::Stopped)
    );
    assert_eq!(worker.submit(ask(Depth::Purge, 0)), None);
}

#[test]
fn the_steps_of_a_report_are_bounded() {
    let registry = Registry::new();
    let holdings: Vec<_> = (0..150)
        .map(|n| {
            holding(
                &registry,
                &format!("holding {n}"),
                ShrinkPolicy::default(),
                10,
            )
        })
        .collect();
    let worker = worker(&registry, None);
    let report = worker.run(ask(Depth::Shrink, u64::MAX), WAIT).unwrap();
    assert_eq!((report.steps.len(), report.more_steps), (100, 52));
    assert_eq!(
        (report.freed.shrunk, report.freed.shrunk_bytes),
        (750, 75_000)
    );
    assert!(holdings.iter().all(|holding| holding.held() == 5));
    worker.close();
}

#[test]
fn threads_end_with_the_worker() {
    struct Told(mpsc::Sender<()>);
    impl CancelLargest for Told {
        fn cancel_largest(&self, _: &CancelAsk) -> Cancelled {
            Cancelled::default()
        }
    }
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }
    let (tell, told) = mpsc::channel();
    let worker = worker(&Registry::new(), Some(Arc::new(Told(tell))));
    worker.close();
    drop(worker);
    told.recv().unwrap();
}
