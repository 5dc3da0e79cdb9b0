use super::{
    holders::{Tell, bound},
    *,
};
use crate::{
    AdmissionConfig, AdmissionLayer, AdmissionMode, Ask, MonitorConfig,
    PressureLevel::{Critical, Elevated, Normal, Unknown},
    Signals,
    admission::{Admitted, Route},
    monitor::script::{Script, WAIT, script, until},
    verdict::{LeakConfig, Sensitivity},
    worker::LEFT_BEHIND_AFTER,
};
use futures_util::FutureExt as _;
use plimsoll_alloc::LargeBlockUsage;
use plimsoll_core::{
    Bounded, BoxFuture, CloseReport, RejectReason, Rejected, Removed, Step, Totals, Usage,
    test_util::FakeHolding,
};
use std::sync::{
    Condvar,
    atomic::{AtomicU64, Ordering::Relaxed},
    mpsc,
};
use tower::{ServiceExt as _, service_fn};
use tower_layer::Layer as _;

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(50);
const LEAKS: Name = Name::from_static("/demo/leak");

/// Remembers what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<bool>>);

impl Reclaim for Told {
    fn release(&self) {}

    fn set_frugal(&self, frugal: bool) {
        self.0.lock().unwrap().push(frugal);
    }
}

impl Told {
    fn told(&self) -> Vec<bool> {
        self.0.lock().unwrap().clone()
    }
}

/// So many bytes are used, as far as a test says.
#[derive(Clone, Default)]
struct Gauge(Arc<AtomicU64>);

impl Meter for Gauge {
    fn used(&mut self) -> Option<u64> {
        Some(self.0.load(Relaxed))
    }

    fn tracked(&mut self) -> Option<u64> {
        None
    }
}

/// Of a limit of 1000 MiB and a line at 900.
fn figures(used: u64) -> MemoryFigures {
    MemoryFigures {
        used: Some(used * MIB),
        limit: Some(1_000 * MIB),
        line: Some(900 * MIB),
        ..MemoryFigures::UNKNOWN
    }
}

fn follower() -> Follower {
    follower_of(Registry::new(), Vec::new())
}

fn follower_of(registry: Registry, tellers: Vec<(&'static str, Tell)>) -> Follower {
    let mut holders = Holders::default();
    holders.registry = registry;
    for (name, tell) in tellers {
        holders.add(Name::from_static(name), tell);
    }
    following(holders)
}

fn following(holders: Holders) -> Follower {
    Follower {
        admission: Admission::new(),
        alerts: Alerts::new(),
        allocator: None,
        room: None,
        asker: Worker::start(holders).unwrap(),
        answer: 0,
        known: Arc::new(Mutex::new(Kept {
            history: History::new(Instant::now(), SystemTime::now()),
            leaks: LeakDetector::new(&LeakConfig::new()),
            leaks_config: LeakConfig::new(),
            standing: Vec::new(),
            asked: None,
            most: None,
            in_flight: None,
            asking: WorkerStats::default(),
            silent: Vec::new(),
            shedding: Vec::new(),
            crowded: [Scarce::Tasks, Scarce::Descriptors].map(Shedding::new),
            max_tasks: None,
        })),
        judged: None,
        frugality: Frugality::default(),
    }
}

/// Has it look at a sample, and at what everybody answers to it.
fn look(follower: &mut Follower, now: Instant, figures: &MemoryFigures) {
    follower.follow(now, figures);
    until(|| !follower.asker.is_busy());
    follower.follow(now, figures);
}

/// Whoever adds one route that holds so much.
fn tell(name: Name, held: &Arc<AtomicU64>) -> Tell {
    let held = held.clone();
    Box::new(move |told| {
        told.push(Held {
            kind: LeakKind::Route,
            name,
            held: held.load(Relaxed),
            bound: None,
        });
    })
}

/// Waits until it is at somebody who does not answer. Returns since when.
fn hangs(follower: &Follower) -> Instant {
    until(|| follower.asker.since().is_some());
    follower.asker.since().unwrap()
}

fn most(follower: &Follower) -> Option<(&'static str, u64)> {
    let most = follower.known.lock().unwrap().most;
    most.map(|(name, held)| (name.as_str(), held))
}

fn holders_at(follower: &Follower, now: Instant) -> HolderStats {
    follower.known.lock().unwrap().holders(now)
}

/// Whether somebody else has the lock of a holding, as long as a test says.
#[derive(Clone, Default)]
struct Lock(Arc<(Mutex<bool>, Condvar)>);

struct LockedHolding {
    name: &'static str,
    lock: Lock,
}

impl Lock {
    fn holding(&self, name: &'static str) -> Arc<LockedHolding> {
        let lock = self.clone();
        Arc::new(LockedHolding { name, lock })
    }

    fn set(&self, is_taken: bool) {
        *self.0.0.lock().unwrap() = is_taken;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let taken = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(taken, |taken| *taken).unwrap());
    }
}

impl Bounded for LockedHolding {
    fn name(&self) -> &str {
        self.name
    }

    fn usage(&self) -> Usage {
        self.lock.wait();
        assert_ne!(self.name, "odd", "told to");
        Usage::new(1, 400 * MIB)
    }

    fn totals(&self) -> Totals {
        Totals::new(1, Removed::NONE)
    }

    fn sweep(&self, _: Instant, _: usize) -> Step {
        Step::idle()
    }

    fn close(self: Arc<Self>, _: Instant) -> BoxFuture<'static, CloseReport> {
        Box::pin(std::future::ready(CloseReport::default()))
    }
}

fn enforcing() -> AdmissionConfig {
    AdmissionConfig::new().mode(AdmissionMode::Enforce)
}

/// Somebody of a route who is refused, since all is shed.
fn refuse(admission: &Admission, route: &Arc<Route>) {
    admission.set_line(Some(900 * MIB));
    admission.set_shed(1.0);
    let answer = route.admit(&Ask::default());
    assert!(matches!(answer, Admitted::Refused(_)), "{answer:?}");
}

fn shedding(kept: &Kept, now: Instant) -> Vec<&'static str> {
    kept.shedding(now).collect()
}

fn started(builder: LoadLineBuilder) -> (LoadLine, MonitorGuard, Script, Gauge) {
    let (script, source) = script();
    let gauge = Gauge::default();
    let (line, guard) = builder.start_with(source, gauge.clone()).unwrap();
    (line, guard, script, gauge)
}

// === What is told to others ===

#[test]
fn the_allocator_is_frugal_once_memory_was_short_for_most_of_a_second_and_for_as_long() {
    let (told, mut frugality) = (Told::default(), Frugality::default());
    let mut now = Instant::now();
    let mut go_on = |frugality: &mut Frugality, is_short, time| {
        let until = now + time;
        while now < until {
            frugality.follow(now, is_short, &told);
            now += TICK;
        }
        told.told()
    };
    assert_eq!(go_on(&mut frugality, false, SECOND * 5), []);
    // For a while, again and again: less than most of the time.
    for _ in 0..20 {
        assert_eq!(go_on(&mut frugality, true, SECOND / 2), []);
        assert_eq!(go_on(&mut frugality, false, SECOND), []);
    }
    assert_eq!(go_on(&mut frugality, false, SECOND * 5), []);
    assert_eq!(go_on(&mut frugality, true, SECOND * 9 / 10), []);
    assert_eq!(go_on(&mut frugality, true, SECOND / 5), [true]);
    assert_eq!(go_on(&mut frugality, true, SECOND * 60), [true], "once");
    // It goes on over a pause, and ends when there is no more of it.
    assert_eq!(go_on(&mut frugality, false, SECOND), [true]);
    assert_eq!(go_on(&mut frugality, true, SECOND), [true]);
    assert_eq!(go_on(&mut frugality, false, SECOND * 2), [true, false]);
    assert_eq!(go_on(&mut frugality, false, SECOND * 60), [true, false]);
}

#[test]
fn nothing_is_shed_at_the_line_and_all_halfway_to_the_limit() {
    for (used, share) in [
        (0, 0.0),
        (900, 0.0),
        (925, 0.5),
        (950, 1.0),
        (1_000, 1.0),
        (2_000, 1.0),
    ] {
        assert!((shed(&figures(used)) - share).abs() < 1e-9, "{used}");
    }
    // What the allocator has free can be given out.
    let with_free = MemoryFigures {
        reclaimable: 100 * MIB,
        ..figures(1_000)
    };
    assert_eq!(shed(&with_free), 0.0);
    let unknown = [
        MemoryFigures::UNKNOWN,
        MemoryFigures {
            used: None,
            ..figures(0)
        },
        MemoryFigures {
            line: None,
            ..figures(2_000)
        },
        MemoryFigures {
            limit: None,
            ..figures(2_000)
        },
    ];
    for figures in unknown {
        assert_eq!(shed(&figures), 0.0, "{figures:?}");
    }
    // A line that is the limit: all at once.
    let tight = MemoryFigures {
        limit: Some(900 * MIB),
        ..figures(901)
    };
    assert_eq!(shed(&tight), 1.0);
}

#[test]
fn a_holding_is_bounded_by_its_bytes_or_by_its_entries_of_their_size_now() {
    let usage = || Usage::new(10, 1_000);
    assert_eq!(bound(&usage()), None);
    assert_eq!(bound(&usage().with_max_bytes(7)), Some(7));
    assert_eq!(bound(&usage().with_max_entries(50)), Some(2 * 50 * 100));
    let both = usage().with_max_entries(50).with_max_bytes(5_000);
    assert_eq!(bound(&both), Some(5_000));
    // Nobody knows how large the first will be, and nothing overflows.
    assert_eq!(bound(&Usage::new(0, 64).with_max_entries(50)), Some(0));
    assert_eq!(
        bound(&Usage::new(1, u64::MAX).with_max_entries(u64::MAX)),
        Some(u64::MAX)
    );
}

#[test]
fn the_line_and_what_is_shed_follow_each_sample_and_go_with_the_monitor() {
    let mut follower = follower();
    let admission = follower.admission.clone();
    let now = Instant::now();
    follower.follow(now, &figures(100));
    let seen = |admission: &Admission| (admission.stats().line, admission.stats().shed);
    assert_eq!(seen(&admission), (Some(900 * MIB), 0.0));
    follower.follow(now, &figures(940));
    let (line, shed) = seen(&admission);
    assert_eq!(line, Some(900 * MIB));
    assert!((shed - 0.6).abs() < 1e-9, "{shed}");
    // Nobody is refused for what is not known.
    follower.follow(now, &MemoryFigures::UNKNOWN);
    assert_eq!(seen(&admission), (None, 0.0));
    follower.follow(now, &figures(2_000));
    assert_eq!(seen(&admission), (Some(900 * MIB), 1.0));
    drop(follower);
    assert_eq!(seen(&admission), (None, 0.0));
}

#[test]
fn requests_are_refused_where_tasks_or_descriptors_are_too_many_whatever_memory_there_is() {
    let mut follower = follower();
    let admission = follower.admission.clone();
    let enforce = AdmissionConfig::new().mode(AdmissionMode::Enforce);
    let service = AdmissionLayer::new("route", &admission)
        .layer(service_fn(async |()| Ok::<_, std::convert::Infallible>(())));
    let asked = |follower: &mut Follower, figures: &MemoryFigures| {
        follower.follow(Instant::now(), figures);
        let answers = [(); 4].map(|()| {
            let error = service.clone().oneshot(()).now_or_never().unwrap().err()?;
            Some(Rejected::find(&*error).unwrap().reason())
        });
        let refused = answers.into_iter().flatten();
        refused
            .map(|reason| assert_eq!(reason, RejectReason::InFlightLimit))
            .count()
    };
    let of = |tasks, descriptors, line| MemoryFigures {
        tasks: Some(tasks),
        descriptors: Some(descriptors),
        max_descriptors: Some(1_000),
        line,
        ..figures(100)
    };
    let (no_line, line) = (None, Some(900 * MIB));

    // By default tasks are as many as there are, and the last twentieth of the descriptors counts.
    admission.reconfigure(&enforce).unwrap();
    for (tasks, descriptors, line, refused) in [
        (1_000_000, 950, line, 0),
        (0, 1_000, line, 4),
        (0, 1_000, no_line, 4),
        (0, 949, line, 0),
    ] {
        assert_eq!(
            asked(&mut follower, &of(tasks, descriptors, line)),
            refused,
            "{tasks} {descriptors} {line:?}"
        );
    }
    admission
        .reconfigure(&enforce.max_tasks(100).max_descriptors(None))
        .unwrap();
    for (tasks, descriptors, refused) in [(100, 1_000, 0), (125, 0, 4), (1_000, 0, 4), (99, 0, 0)] {
        assert_eq!(
            asked(&mut follower, &of(tasks, descriptors, line)),
            refused,
            "{tasks} {descriptors}"
        );
    }
    // Three quarters of what may be shed is half of those of normal priority.
    let some = MemoryFigures {
        tasks: Some(119),
        ..of(0, 0, line)
    };
    follower.follow(Instant::now(), &some);
    assert!((admission.stats().shed - 0.52).abs() < 1e-9);
    // What nobody knows refuses nobody.
    assert_eq!(asked(&mut follower, &figures(100)), 0);
}

#[test]
fn large_blocks_have_the_room_that_the_line_leaves_until_nobody_looks_any_more() {
    /// Keeps 200 MiB.
    struct Keeps(AtomicU64);

    static KEEPS: Keeps = Keeps(AtomicU64::new(0));

    impl Keeps {
        fn room(&self) -> u64 {
            self.0.load(Relaxed) / MIB
        }
    }

    impl Reclaim for Keeps {
        fn release(&self) {}

        fn large_blocks(&self) -> Option<LargeBlockUsage> {
            let mut usage = LargeBlockUsage::default();
            (usage.live, usage.kept, usage.room) = (500 * MIB, 200 * MIB, self.0.load(Relaxed));
            Some(usage)
        }

        fn set_room(&self, bytes: usize) {
            self.0.store(bytes as u64, Relaxed);
        }
    }

    let config = MemoryConfig::new();
    let (line, guard, script, _) = started(LoadLine::builder(&config).allocator(&KEEPS));
    script.used(800);
    script.used(800);
    assert_eq!(line.manager().figures().kept_blocks, Some(200 * MIB));
    assert_eq!(line.manager().figures().used, Some(600 * MIB));
    // Of 900 MiB less a thirty-second part others have 100.
    assert_eq!(KEEPS.room(), 500, "as much as lived");
    script.sample(Some(Signals {
        limit: Some(500 * MIB),
        resident: Some(800 * MIB),
        ..Signals::default()
    }));
    until(|| KEEPS.room() == 332);
    drop(guard);
    drop(script);
    until(|| KEEPS.room() == 64);
}

#[test]
fn an_allocator_that_was_frugal_is_not_when_nobody_looks_any_more() {
    static ALLOCATOR: Told = Told(Mutex::new(Vec::new()));
    let mut follower = follower();
    follower.allocator = Some(&ALLOCATOR);
    follower.frugality.is_on = true;
    drop(follower);
    assert_eq!(ALLOCATOR.told(), [false]);
}

#[test]
fn the_allocator_is_asked_for_pages_only_while_somebody_waits_for_memory() {
    let with = |unattributed, line| MemoryFigures {
        line,
        unattributed,
        ..figures(0)
    };
    let (much, line) = (Some(21 * MIB), Some(320 * MIB));
    let mut stats = AdmissionStats::default();
    assert_eq!(
        worth_a_purge(&stats, &with(much, line)),
        None,
        "nobody waits"
    );
    stats.is_short = true;
    stats.waiting = 1;
    assert_eq!(worth_a_purge(&stats, &with(much, line)), much);
    // A sixteenth of the line is not worth it.
    assert_eq!(worth_a_purge(&stats, &with(Some(20 * MIB), line)), None);
    for unknown in [with(None, line), with(much, None)] {
        assert_eq!(worth_a_purge(&stats, &unknown), None);
    }
    // What is more than a quarter is in the way of everybody.
    stats.is_short = false;
    assert_eq!(worth_a_purge(&stats, &with(much, line)), None);
    let vast = Some(81 * MIB);
    assert_eq!(worth_a_purge(&stats, &with(vast, line)), vast);
}

// === What is kept ===

#[test]
fn a_route_is_shed_for_ten_seconds_after_one_of_its_requests_was_refused() {
    let mut follower = follower();
    let admission = follower.admission.clone();
    admission.reconfigure(&enforcing()).unwrap();
    let export = admission.route(Name::from_static("/export"));
    let hello = admission.route(Name::from_static("/hello"));
    let mut now = Instant::now();
    let mut look = |time| {
        now += time;
        follower.follow(now, &figures(100));
        let kept = follower.known.lock().unwrap();
        (shedding(&kept, now), kept.shedding.len())
    };
    assert_eq!(look(SECOND), (vec![], 2));
    refuse(&admission, &export);
    assert_eq!(look(SECOND), (vec!["/export"], 2));
    refuse(&admission, &hello);
    assert_eq!(look(SECOND * 5), (vec!["/export", "/hello"], 2));
    assert_eq!(look(SECOND * 4), (vec!["/export", "/hello"], 2));
    assert_eq!(look(SECOND), (vec!["/hello"], 2));
    refuse(&admission, &export);
    assert_eq!(look(SECOND), (vec!["/export", "/hello"], 2));
    // What is gone is not kept.
    drop(export);
    assert_eq!(look(SECOND), (vec!["/hello"], 1));
    assert_eq!(look(SECOND * 10), (vec![], 1));
}

#[test]
fn the_sentence_names_what_requests_were_refused_for_in_the_last_ten_seconds() {
    let mut follower = follower();
    let admission = follower.admission.clone();
    let config = enforcing().max_tasks(100);
    admission.reconfigure(&config).unwrap();
    let route = admission.route(Name::from_static("/x"));
    let mut now = Instant::now();
    // One request comes after each of two samples.
    let mut said = |time, figures: MemoryFigures| {
        now += time;
        for _ in 0..2 {
            now += SECOND;
            follower.follow(now, &figures);
            drop(route.admit(&Ask::default()));
        }
        follower.known.lock().unwrap().describe(&figures, now)
    };
    let of = |tasks, descriptors, used| MemoryFigures {
        tasks: Some(tasks),
        descriptors: Some(descriptors),
        max_descriptors: Some(1_000),
        ..figures(used)
    };
    for (wait, figures, expected) in [
        (
            0,
            of(50, 1_000, 400),
            "shedding /x: 100 % of 1000 descriptors open, memory 40 % of 1000 MiB",
        ),
        (
            0,
            of(200, 990, 400),
            "shedding /x: 200 % of 100 tasks alive, 99 % of 1000 descriptors open, memory 40 % of 1000 MiB",
        ),
        (
            7,
            of(50, 100, 400),
            "shedding /x: 50 % of 100 tasks alive, memory 40 % of 1000 MiB",
        ),
        (
            10,
            of(50, 100, 400),
            "pressure unknown: memory 40 % of 1000 MiB",
        ),
        // They are as scarce, but memory is what it is for.
        (
            0,
            of(200, 1_000, 950),
            "shedding /x: memory 95 % of 1000 MiB",
        ),
    ] {
        assert_eq!(said(SECOND * wait, figures), expected);
    }
    // What would be refused is not.
    admission
        .reconfigure(&config.mode(AdmissionMode::Observe))
        .unwrap();
    said(SECOND, of(200, 1_000, 400));
    let text = said(SECOND * 10, of(200, 1_000, 400));
    assert_eq!(text, "pressure unknown: memory 40 % of 1000 MiB");
}

#[test]
fn each_sample_goes_into_the_history() {
    let mut follower = follower();
    let began = Instant::now();
    for (second, used) in [(0, 100), (1, 300), (1, 500), (2, 200)] {
        let figures = MemoryFigures {
            resident: Some(used * 2 * MIB),
            tasks: Some(7),
            ..figures(used)
        };
        follower.follow(began + SECOND * second, &figures);
    }
    follower.follow(began + SECOND * 3, &MemoryFigures::UNKNOWN);
    let kept = follower.known.lock().unwrap();
    let points: Vec<_> = kept.history.points(Resolution::Second).collect();
    let used: Vec<_> = points
        .iter()
        .map(|point| point.used.map(|used| (used.min / MIB, used.max / MIB)))
        .collect();
    assert_eq!(
        used,
        [Some((100, 100)), Some((300, 500)), Some((200, 200)), None]
    );
    assert_eq!(points[2].resident, Some(400 * MIB));
    assert_eq!(points[2].limit, Some(1_000 * MIB));
    assert_eq!(points[2].tasks, Some(7));
}

#[test]
fn the_history_knows_how_many_requests_are_in_flight_while_somebody_counts() {
    let lock = Lock::default();
    let mut holders = Holders::default();
    let wait = lock.clone();
    holders.in_flight = Some(Box::new(move || {
        wait.wait();
        7
    }));
    let mut follower = following(holders);
    let last = |follower: &Follower| {
        let kept = follower.known.lock().unwrap();
        let point = kept.history.points(Resolution::Second).last();
        point.unwrap().in_flight
    };
    let now = Instant::now();
    follower.follow(now, &figures(100));
    assert_eq!(last(&follower), None, "nobody was asked yet");
    look(&mut follower, now, &figures(100));
    assert_eq!(last(&follower), Some(7));
    // It does not answer: what was known is known for a while.
    lock.set(true);
    follower.follow(now + OLD_AFTER, &figures(100));
    assert_eq!(last(&follower), Some(7));
    follower.follow(now + OLD_AFTER + SECOND, &figures(100));
    assert_eq!(last(&follower), None);
    let late = hangs(&follower) + LEFT_BEHIND_AFTER + SECOND;
    look(&mut follower, late, &figures(100));
    assert_eq!(last(&follower), None);
    let silent = holders_at(&follower, late).silent;
    assert_eq!(silent, [Name::from_static("requests in flight")]);
    lock.set(false);
}

#[test]
fn what_the_process_holds_is_without_what_is_free_and_what_requests_hold() {
    let figures = MemoryFigures {
        reclaimable: 20 * MIB,
        descriptors: Some(9),
        max_descriptors: Some(1_024),
        ..figures(100)
    };
    let of = |figures: &MemoryFigures| {
        of_the_process(figures, 30 * MIB)
            .map(|it| (it.kind, it.name.as_str(), it.held, it.bound))
            .collect::<Vec<_>>()
    };
    let process = |held| (LeakKind::Process, "process", held, None);
    let descriptors = (LeakKind::Descriptors, "descriptors", 9, Some(1_024));
    assert_eq!(of(&figures), [process(50 * MIB), descriptors]);
    let counted = MemoryFigures {
        tracked: Some(70 * MIB),
        ..figures
    };
    assert_eq!(of(&counted), [process(40 * MIB), descriptors]);
    assert_eq!(of(&MemoryFigures::UNKNOWN), [], "what is not known");
}

#[test]
fn everybody_is_asked_what_they_hold_once_a_second() {
    let registry = Registry::new();
    let cache = registry.register(FakeHolding::new("cache", WAIT)).unwrap();
    cache.insert(3);
    let usage = registry.snapshot()[0].usage.unwrap();
    let held = Arc::new(AtomicU64::new(5));
    let tellers = vec![("routes", tell(LEAKS, &held))];
    let mut follower = follower_of(registry, tellers);
    let began = Instant::now();
    for tick in 0..=60 {
        look(&mut follower, began + TICK * tick, &figures(100));
    }
    let (rounds, answer) = follower.asker.last().unwrap();
    assert_eq!(rounds, 4, "at 0, 1, 2 and 3 seconds");
    let told: Vec<_> = answer
        .told
        .iter()
        .map(|it| (it.kind, it.name.as_str(), it.held, it.bound))
        .collect();
    let all = [
        (LeakKind::Holding, "cache", usage.bytes, bound(&usage)),
        (LeakKind::Route, "/demo/leak", 5, None),
    ];
    assert_eq!(told, all);
    let stats = holders_at(&follower, began + SECOND * 4);
    let fresh = HolderStats {
        rounds: 4,
        age: Some(SECOND),
        ..HolderStats::default()
    };
    assert_eq!(stats, fresh);
}

#[tokio::test(start_paused = true)]
async fn a_leak_is_told_once_when_it_begins_and_once_when_it_ends() {
    let held = Arc::new(AtomicU64::new(0));
    let tellers = vec![("routes", tell(LEAKS, &held))];
    let mut follower = follower_of(Registry::new(), tellers);
    let (tell, told) = mpsc::channel();
    let hook = move |alert: &Alert| tell.send(alert.clone()).unwrap();
    follower.alerts.on_alert(hook).unwrap();
    let figures = MemoryFigures {
        headroom: Some(200 * MIB),
        ..figures(100)
    };
    let mut alerts = Vec::new();
    for second in 0..600 {
        if second < 100 {
            held.fetch_add(MIB, Relaxed);
        }
        look(&mut follower, Instant::now(), &figures);
        let standing = follower.known.lock().unwrap().standing.clone();
        if second == 99 {
            // Of what waits for a hook, the later counts.
            alerts.extend(told.recv_timeout(WAIT));
            assert_eq!(
                (standing[0].kind, standing[0].name),
                (LeakKind::Route, LEAKS)
            );
        }
        tokio::time::advance(SECOND).await;
    }
    assert!(follower.known.lock().unwrap().standing.is_empty());
    // The hook ends with whoever tells it, once it was told all.
    drop(follower);
    alerts.extend(told.iter());
    let said: Vec<_> = alerts
        .iter()
        .map(|alert| (alert.kind, alert.severity, alert.name))
        .collect();
    let leak = |severity| (AlertKind::Leak, severity, Some(LEAKS));
    assert_eq!(said, [leak(Severity::Warning), leak(Severity::Info)]);
    let begins = &alerts[0].text;
    assert!(
        begins.starts_with("route /demo/leak leaks +1.0 MiB/s, holds 4"),
        "{begins}"
    );
    assert!(begins.ends_with(", limit in 3 min"), "{begins}");
    assert_eq!(alerts[1].text, "route /demo/leak grows no longer");
}

#[test]
fn whoever_holds_most_is_named_where_that_is_worth_a_word() {
    let held = Arc::new(AtomicU64::new(0));
    let holds = held.clone();
    let tell: Tell = Box::new(move |told| {
        let held = [
            (LeakKind::Task, "poll", u64::MAX),
            (LeakKind::Route, "/small", MIB),
            (LeakKind::Route, "/export", holds.load(Relaxed)),
        ];
        told.extend(held.map(|(kind, name, held)| Held {
            kind,
            name: Name::from_static(name),
            held,
            bound: None,
        }));
    });
    let mut follower = follower_of(Registry::new(), vec![("all", tell)]);
    let mut now = Instant::now();
    // A twentieth of the limit is not yet.
    for (bytes, named) in [
        (50 * MIB, None),
        (50 * MIB + 1, Some(("/export", 50 * MIB + 1))),
        (0, None),
    ] {
        held.store(bytes, Relaxed);
        now += SECOND;
        look(&mut follower, now, &figures(100));
        assert_eq!(most(&follower), named);
    }
}

#[test]
fn what_panics_is_left_out_and_the_others_are_asked() {
    let registry = Registry::new();
    let _odd = registry.register(Lock::default().holding("odd")).unwrap();
    let panics: Tell = Box::new(|told| {
        told.push(Held {
            kind: LeakKind::Route,
            name: Name::from_static("/half"),
            held: 900 * MIB,
            bound: None,
        });
        panic!("told to");
    });
    let held = Arc::new(AtomicU64::new(300 * MIB));
    let tellers = vec![("half", panics), ("routes", tell(LEAKS, &held))];
    let mut follower = follower_of(registry, tellers);
    let now = Instant::now();
    look(&mut follower, now, &figures(100));
    assert_eq!(most(&follower), Some(("/demo/leak", 300 * MIB)));
    assert_eq!(holders_at(&follower, now).panics, 2);
    look(&mut follower, now + SECOND, &figures(100));
    assert_eq!(holders_at(&follower, now).panics, 4);
}

#[test]
fn one_that_does_not_answer_is_left_behind_and_told_of_once_and_the_others_are_asked() {
    let registry = Registry::new();
    let lock = Lock::default();
    let cache = registry.register(lock.holding("cache")).unwrap();
    let held = Arc::new(AtomicU64::new(100 * MIB));
    let tellers = vec![("routes", tell(LEAKS, &held))];
    let mut follower = follower_of(registry, tellers);
    let (tell, told) = mpsc::channel();
    let hook = move |alert: &Alert| tell.send((alert.severity, alert.text.clone())).unwrap();
    follower.alerts.on_alert(hook).unwrap();
    let said = |follower: &Follower, now| {
        let kept = follower.known.lock().unwrap();
        kept.describe(&figures(100), now)
    };
    let first = Instant::now();
    look(&mut follower, first, &figures(100));
    assert_eq!(most(&follower), Some(("cache", 400 * MIB)));
    let text = said(&follower, first + OLD_AFTER);
    assert!(text.ends_with(", cache holds 400 MiB"), "{text}");

    // What was known last is known still, and becomes old.
    lock.set(true);
    follower.follow(first + SECOND, &figures(100));
    held.store(200 * MIB, Relaxed);
    let mut now = hangs(&follower) + LEFT_BEHIND_AFTER;
    follower.follow(now, &figures(100));
    assert_eq!(most(&follower), Some(("cache", 400 * MIB)));
    let stats = holders_at(&follower, now);
    let cache_name = vec![Name::from_static("cache")];
    assert_eq!(
        (stats.age, stats.left_behind, &stats.silent),
        (Some(now - first), 0, &cache_name)
    );
    let text = said(&follower, first + SECOND * 11);
    let old = ", cache held 400 MiB 11 s ago, cache does not answer";
    assert!(text.ends_with(old), "{text}");
    assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Empty));

    // The others are asked by another thread, again and again, and it is told once.
    now += SECOND;
    for _ in 0..20 {
        look(&mut follower, now, &figures(100));
        now += SECOND;
    }
    assert_eq!(most(&follower), Some(("/demo/leak", 200 * MIB)));
    let stats = holders_at(&follower, now);
    let expected = HolderStats {
        rounds: 21,
        age: Some(SECOND),
        panics: 0,
        left_behind: 1,
        silent: cache_name,
    };
    assert_eq!(stats, expected);
    let text = said(&follower, now);
    let fresh = ", /demo/leak holds 200 MiB, cache does not answer";
    assert!(text.ends_with(fresh), "{text}");
    let left_out = "cache did not come back when it was asked what it holds, and is left out";
    let first = told.recv_timeout(WAIT).unwrap();
    assert_eq!(first, (Severity::Warning, left_out.to_owned()));

    // It comes back, and is asked again.
    lock.set(false);
    until(|| {
        now += SECOND;
        look(&mut follower, now, &figures(100));
        most(&follower) == Some(("cache", 400 * MIB))
    });
    assert_eq!(holders_at(&follower, now).silent, []);
    let back = "cache has come back, and is no longer left out";
    let second = told.recv_timeout(WAIT).unwrap();
    assert_eq!(second, (Severity::Info, back.to_owned()));
    drop((follower, cache));
    assert_eq!(told.iter().next(), None, "nothing else was told");
}

#[test]
fn whoever_was_added_is_left_out_by_its_name_while_it_does_not_answer() {
    let lock = Lock::default();
    lock.set(true);
    let waits = lock.clone();
    let stuck: Tell = Box::new(move |_| waits.wait());
    let held = Arc::new(AtomicU64::new(100 * MIB));
    let tellers = vec![("stuck", stuck), ("routes", tell(LEAKS, &held))];
    let mut follower = follower_of(Registry::new(), tellers);
    let now = Instant::now();
    follower.follow(now, &figures(100));
    let late = hangs(&follower) + LEFT_BEHIND_AFTER + SECOND;
    look(&mut follower, late, &figures(100));
    assert_eq!(most(&follower), Some(("/demo/leak", 100 * MIB)));
    let silent = holders_at(&follower, late).silent;
    assert_eq!(silent, [Name::from_static("stuck")]);
    lock.set(false);
}

// === All of it, with its threads ===

#[test]
fn one_sentence_says_how_all_of_it_is() {
    let admission = Admission::with_config(&enforcing()).unwrap();
    let export = admission.route(Name::from_static("/export"));
    refuse(&admission, &export);
    let config = MemoryConfig::new().admission(enforcing());
    let builder = LoadLine::builder(&config).admission(admission);
    let held = Arc::new(AtomicU64::new(220 * MIB));
    let builder = builder.holders("routes", tell(LEAKS, &held));
    let (line, guard, script, _) = started(builder);
    until(|| {
        script.used(850);
        line.describe() == "shedding /export: memory 85 % of 1000 MiB, /demo/leak holds 220 MiB"
    });
    drop(guard);
    drop(script);
    until(|| {
        let text = line.describe();
        // Held, once that was a while ago.
        text.contains(": neither memory nor limit known, /demo/leak h")
    });
}

#[test]
fn a_holding_that_does_not_answer_stops_neither_the_monitor_nor_admission() {
    let registry = Registry::new();
    let lock = Lock::default();
    let cache = registry.register(lock.holding("cache")).unwrap();
    lock.set(true);
    let config = MemoryConfig::new().admission(enforcing());
    let builder = LoadLine::builder(&config).registry(registry);
    let (line, guard, script, gauge) = started(builder);
    // Whoever looks would wait for it here.
    for used in [100, 200, 300] {
        script.used(used);
        gauge.0.store(used * MIB, Relaxed);
        assert_eq!(line.manager().figures().used, Some(used * MIB));
        assert_eq!(line.admission().stats().line, Some(900 * MIB));
    }
    let route = line.admission().route(Name::from_static("/hello"));
    let answer = route.admit(&Ask::default());
    assert!(!matches!(answer, Admitted::Refused(_)), "{answer:?}");
    until(|| {
        script.used(950);
        line.manager().level() == Critical
    });
    assert!(line.admission().stats().shed > 0.0);
    until(|| {
        script.used(950);
        line.manager().stats().samples > 10
    });
    assert!(!line.history(Resolution::HalfMinute).is_empty());
    assert!(!line.describe().contains("cache holds"));
    // It comes back, and all of them are known.
    lock.set(false);
    until(|| {
        script.used(950);
        line.describe().contains("cache holds 400 MiB")
    });
    drop((guard, script, cache));
}

#[test]
fn the_line_of_admission_follows_a_limit_that_shrinks() {
    let config = MemoryConfig::new().admission(enforcing());
    let (line, guard, script, gauge) = started(LoadLine::builder(&config));
    let limited = |limit: u64| {
        gauge.0.store(300 * MIB, Relaxed);
        script.sample(Some(Signals {
            limit: Some(limit * MIB),
            resident: Some(300 * MIB),
            ..Signals::default()
        }));
        line.admission().stats()
    };
    let stats = limited(1_000);
    assert_eq!((stats.line, stats.shed), (Some(900 * MIB), 0.0));
    assert_eq!(stats.used, Some(300 * MIB), "by the meter");
    let stats = limited(400);
    assert_eq!((stats.line, stats.shed), (Some(360 * MIB), 0.0));
    // It is below what is used: all is refused but what has high priority.
    let stats = limited(200);
    assert_eq!((stats.line, stats.shed), (Some(180 * MIB), 1.0));
    let stats = limited(1_000);
    assert_eq!((stats.line, stats.shed), (Some(900 * MIB), 0.0));
    // Nobody is kept out by what nobody looks at.
    drop(guard);
    drop(script);
    until(|| line.admission().stats().line.is_none());
}

#[test]
fn a_bad_setting_changes_nothing_and_good_ones_count() {
    let (line, _guard, script, _) = started(LoadLine::builder(&MemoryConfig::new()));
    script.used(700);
    let parts = || {
        (
            line.manager().config(),
            line.admission().config(),
            line.leaks_config(),
        )
    };
    let before = parts();
    let good = MonitorConfig::new().line(50.0);
    for (config, named) in [
        (
            MemoryConfig::new().monitor(MonitorConfig::new().line(0.0)),
            "line",
        ),
        (
            MemoryConfig::new()
                .monitor(good.clone())
                .admission(enforcing().quantile(2.0)),
            "quantile",
        ),
        (
            MemoryConfig::new()
                .monitor(good.clone())
                .leaks(LeakConfig::new().max_names(1 << 20)),
            "max_names",
        ),
    ] {
        let error = line.reconfigure(&config).unwrap_err();
        let problem = &error.problems()[0];
        assert!(problem.field.to_string().ends_with(named), "{error}");
        assert_eq!(parts(), before, "{named}");
    }
    let off = LeakConfig::new().sensitivity(Sensitivity::Off);
    let config = MemoryConfig::new()
        .monitor(good.clone())
        .admission(enforcing())
        .leaks(off.clone());
    line.reconfigure(&config).unwrap();
    assert_eq!(parts(), (good, enforcing(), off));
    // The sample that is on its way may be of before.
    script.used(700);
    script.used(700);
    assert_eq!(line.manager().figures().line, Some(500 * MIB));
    assert_eq!(line.admission().stats().line, Some(500 * MIB));
    let mut kept = line.known();
    let (names, now) = (kept.leaks.len(), Instant::now());
    kept.leaks.observe(now, LeakKind::Route, LEAKS, 1, None);
    assert_eq!(kept.leaks.len(), names, "nothing is looked at any more");
}

#[test]
fn settings_out_of_range_start_nothing() {
    let config = MemoryConfig::new().leaks(LeakConfig::new().max_names(1 << 20));
    let error = LoadLine::builder(&config).start().unwrap_err();
    assert!(matches!(error, ManagerError::Config(_)), "{error:?}");
}

#[test]
fn who_panics_when_asked_what_is_held_ends_nothing() {
    let builder = LoadLine::builder(&MemoryConfig::new());
    let builder = builder.holders("odd", |_| panic!("told to"));
    let (line, _guard, script, _) = started(builder);
    for used in [100, 740, 740, 740] {
        script.used(used);
    }
    until(|| {
        script.used(740);
        line.manager().level() == Elevated && line.holders().panics > 0
    });
    assert!(!line.history(Resolution::HalfMinute).is_empty());
    assert_eq!(line.admission().stats().line, Some(900 * MIB));
}

#[test]
fn the_threads_end_with_the_guard_and_then_nothing_is_known() {
    let admission = Admission::new();
    let builder = LoadLine::builder(&MemoryConfig::new()).admission(admission.clone());
    let (line, guard, script, _) = started(builder);
    script.used(100);
    assert_eq!(line.manager().level(), Normal);
    let other = line.clone();
    drop(guard);
    drop(script);
    until(|| other.manager().figures() == MemoryFigures::UNKNOWN);
    until(|| admission.stats().line.is_none());
    let memory = other.manager();
    assert_eq!((memory.level(), memory.headroom()), (Unknown, None));
    assert!(other.manager().reclaim(WAIT).is_err());
    // What was seen is still there.
    assert_eq!(other.history(Resolution::HalfMinute).len(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn on_this_machine_it_finds_a_limit() {
    let (line, _guard) = LoadLine::builder(&MemoryConfig::new()).start().unwrap();
    until(|| line.manager().figures().limit.is_some());
    until(|| line.admission().stats().line.is_some());
    let figures = line.manager().figures();
    assert!(figures.used > Some(0) && figures.line < figures.limit);
    // By its meter, which is asked once there is a line.
    until(|| line.admission().stats().used > Some(0));
    let text = line.describe();
    assert!(
        text.contains(": memory ") && text.contains(" % of "),
        "{text}"
    );
}

#[cfg(feature = "metrics")]
#[test]
fn what_is_known_of_holders_and_leaks_is_published() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let (line, _guard, script, _) = started(LoadLine::builder(&MemoryConfig::new()));
    until(|| {
        script.used(100);
        line.holders().rounds > 0
    });
    metrics::with_local_recorder(&recorder, || line.publish_metrics());
    let shown = handle.render();
    for series in [
        "plimsoll_memory_leaks{kind=\"holding\"} 0\n",
        "plimsoll_memory_holders_age_seconds ",
        "plimsoll_memory_holders_silent 0\n",
        "plimsoll_memory_holders_panics_total 0\n",
        "plimsoll_memory_holders_left_behind_total 0\n",
        "plimsoll_memory_holders_rounds_total ",
    ] {
        assert!(shown.contains(series), "{series}{shown}");
    }
}
