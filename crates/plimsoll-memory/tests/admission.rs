//! Who is let in, who waits, and that all of it is given back.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_alloc::{Reclaim, TrackingAllocator};
use plimsoll_core::{BoxError, ConfigError, RejectReason, Rejected};
use plimsoll_memory::{
    Admission, AdmissionConfig, AdmissionLayer, AdmissionMode, AdmissionStats, Admitted, Ask,
    BudgetKey, BudgetMode, HeavyLog, LoadLine, MemoryConfig, MonitorConfig, MustAsk, Priority,
    Weigher, Weighing,
    admission::{AdmissionFuture, AdmissionService, Meter},
    reclaim::{CancelAsk, CancelLargest as _, Cancelled},
};
use proptest::prelude::*;
use std::{
    convert::Infallible,
    fmt,
    future::{Future, Ready, poll_fn, ready},
    hint::black_box,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};
use tokio::{
    runtime,
    sync::oneshot,
    time::{Instant, advance},
};
use tokio_test::{
    assert_pending, assert_ready_err, assert_ready_ok,
    task::{self, Spawn},
};
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const MIB: u64 = 1 << 20;
/// Of this line, a request is small up to 1 MiB, and 16 MiB of it are for those that are.
const LINE: u64 = 1 << 30;
const FOR_LARGE: u64 = LINE - 16 * MIB;

/// What small requests hold, besides their future.
const SMALL: u64 = MIB / 2 - 4_096;

/// Has those end who hold most.
fn cancel_largest(admission: &Admission, want: u64, floor: u64, at_most: usize) -> Cancelled {
    let ask = CancelAsk::new(floor, want, at_most, BudgetMode::Enforce);
    admission.cancel_largest(&ask)
}

/// Nobody knows what is used.
const UNKNOWN: u64 = u64::MAX;

/// A ship of a known size, whose load is what a test says.
#[derive(Clone)]
struct Ship {
    admission: Admission,
    used: Arc<AtomicU64>,
}

struct Gauge(Arc<AtomicU64>);

impl Meter for Gauge {
    fn used(&mut self) -> Option<u64> {
        let used = self.0.load(Relaxed);
        (used != UNKNOWN).then_some(used)
    }

    fn tracked(&mut self) -> Option<u64> {
        None
    }
}

impl Ship {
    fn new(config: &AdmissionConfig) -> Self {
        let admission = Admission::with_config(config).unwrap();
        let used = Arc::new(AtomicU64::new(0));
        admission.set_meter(Gauge(used.clone()));
        admission.set_line(Some(LINE));
        Self { admission, used }
    }

    fn enforcing() -> Self {
        Self::new(&enforce())
    }

    fn stats(&self) -> AdmissionStats {
        self.admission.stats()
    }

    /// So much is used, and known to be.
    fn uses(&self, bytes: u64) {
        self.used.store(bytes, Relaxed);
        self.look();
    }

    /// What is used is looked at again, whenever that was last.
    fn look(&self) {
        self.admission.set_meter(Gauge(self.used.clone()));
        self.admission.tick();
    }

    /// How many run and wait.
    fn counts(&self) -> (usize, usize) {
        let stats = self.stats();
        (stats.running, stats.waiting)
    }

    /// Nothing is left of anybody.
    fn assert_empty(&self) {
        let stats = self.stats();
        assert_eq!(
            (stats.running, stats.waiting, stats.reserved_for_small),
            (0, 0, 0),
            "{stats:?}"
        );
        assert_eq!((stats.growth, stats.is_short), (0, false), "{stats:?}");
    }
}

fn enforce() -> AdmissionConfig {
    AdmissionConfig::new().mode(AdmissionMode::Enforce)
}

/// What a handler is to do: allocate, wait, allocate the rest, wait until the gates are open, and
/// answer.
#[derive(Debug, Default)]
struct Job {
    ask: Ask,
    first: u64,
    rest: u64,
    gates: [Option<oneshot::Receiver<()>>; 2],
    ends: Ends,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Ends {
    #[default]
    Well,
    Fails,
    Panics,
    PanicsAtOnce,
}

/// Opens when dropped.
#[derive(Debug)]
struct Gate {
    _open: oneshot::Sender<()>,
}

impl Job {
    fn new() -> Self {
        Self::default()
    }

    /// Of this priority.
    fn of(mut self, priority: Priority) -> Self {
        self.ask.priority = Some(priority);
        self
    }

    fn key(mut self, key: &str) -> Self {
        self.ask.key = Some(BudgetKey::new(key));
        self
    }

    fn declares(mut self, bytes: u64) -> Self {
        self.ask.declared = Some(bytes);
        self
    }

    fn ends(mut self, ends: Ends) -> Self {
        self.ends = ends;
        self
    }

    /// Holds so much from the beginning on.
    fn first(mut self, bytes: u64) -> Self {
        self.first = bytes;
        self
    }

    /// Holds so much more when it has waited.
    fn rest(mut self, bytes: u64) -> Self {
        self.rest = bytes;
        self
    }

    /// It waits at a gate before it allocates the rest, or at another thereafter.
    fn gate(mut self, at: usize) -> (Self, Gate) {
        let (open, gate) = oneshot::channel();
        self.gates[at] = Some(gate);
        (self, Gate { _open: open })
    }
}

fn hold(bytes: u64) -> Vec<u8> {
    // Nobody writes to it, so it takes no memory of the machine.
    black_box(Vec::with_capacity(bytes as usize))
}

/// Waits once. Unlike the runtime's own, it allocates nothing.
async fn wait() {
    let mut waited = false;
    poll_fn(|cx| {
        if mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Does the jobs it is given, and counts them.
#[derive(Clone, Debug, Default)]
struct Handler {
    called: Arc<AtomicUsize>,
}

impl Service<Job> for Handler {
    type Response = u64;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<u64, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, job: Job) -> Self::Future {
        self.called.fetch_add(1, Relaxed);
        assert_ne!(job.ends, Ends::PanicsAtOnce, "as it was told to");
        let [first_gate, last_gate] = job.gates;
        Box::pin(async move {
            let first = hold(job.first);
            match first_gate {
                Some(gate) => drop(gate.await),
                None => wait().await,
            }
            let rest = hold(job.rest);
            if let Some(gate) = last_gate {
                let _ = gate.await;
            }
            assert_ne!(job.ends, Ends::Panics, "as it was told to");
            match job.ends {
                Ends::Fails => Err("failed".into()),
                _ => Ok((first.capacity() + rest.capacity()) as u64),
            }
        })
    }
}

type Asks = fn(&Job) -> Ask;
type Call = AdmissionFuture<Handler, Job>;

/// A route of a ship.
struct Route {
    service: AdmissionService<Handler, Asks>,
    called: Arc<AtomicUsize>,
}

impl Route {
    fn new(name: &'static str, ship: &Ship) -> Self {
        let handler = Handler::default();
        let layer = AdmissionLayer::new(name, &ship.admission);
        let layer: AdmissionLayer<Asks> = layer.ask(|job: &Job| job.ask);
        Self {
            called: handler.called.clone(),
            service: layer.layer(handler),
        }
    }

    fn call(&self, job: Job) -> Spawn<Call> {
        task::spawn(self.service.clone().call(job))
    }

    /// How often its handler was called.
    fn called(&self) -> usize {
        self.called.load(Relaxed)
    }

    /// Has it known that its requests come to hold so much, and hold nothing at first.
    async fn learn(&self, bytes: u64) {
        for _ in 0..40 {
            let job = Job::new().rest(bytes);
            assert_eq!(self.service.clone().oneshot(job).await.unwrap(), bytes);
        }
    }

    /// One of that kind, that is in and stays.
    fn enter(&self, job: Job) -> (Spawn<Call>, Gate) {
        let before = self.called();
        let (mut call, gate) = self.begin(job);
        assert_pending!(call.poll());
        assert_eq!(self.called(), before + 1, "it has to wait");
        (call, gate)
    }

    /// One of that kind, that has to wait.
    fn queue(&self, job: Job) -> Spawn<Call> {
        let before = self.called();
        let mut call = self.call(job);
        assert_pending!(call.poll());
        assert_eq!(self.called(), before, "it does not wait");
        call
    }

    fn begin(&self, job: Job) -> (Spawn<Call>, Gate) {
        let (job, gate) = job.gate(0);
        (self.call(job), gate)
    }

    /// What it is refused for.
    fn refused(&self, job: Job) -> Rejected {
        let before = self.called();
        let mut call = self.call(job);
        let rejected = rejected(&mut call);
        assert_eq!(self.called(), before);
        rejected
    }
}

/// What a call that ends now is refused for.
fn rejected(call: &mut Spawn<Call>) -> Rejected {
    let error = assert_ready_err!(call.poll());
    *Rejected::find(&*error).unwrap()
}

async fn learned(name: &'static str, ship: &Ship, bytes: u64) -> Route {
    let route = Route::new(name, ship);
    route.learn(bytes).await;
    route
}

// === Who is let in ===

#[tokio::test(start_paused = true)]
async fn without_a_line_all_are_let_in() {
    let ship = Ship::enforcing();
    ship.admission.set_line(None);
    ship.uses(u64::MAX / 2);
    let route = Route::new("route", &ship);
    let held: Vec<_> = (0..100).map(|_| route.enter(Job::new())).collect();
    assert_eq!(ship.stats().admitted, 0);
    drop(held);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn unknown_usage_refuses_nobody() {
    let ship = Ship::enforcing();
    ship.uses(UNKNOWN);
    let route = learned("route", &ship, 100 * MIB).await;
    let held: Vec<_> = (0..100).map(|_| route.enter(Job::new())).collect();
    assert_eq!((ship.counts(), ship.stats().used), ((100, 0), None));
    drop(held);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn off_lets_all_in_and_learns_nothing() {
    let ship = Ship::new(&AdmissionConfig::new().mode(AdmissionMode::Off));
    ship.uses(2 * LINE);
    let route = learned("route", &ship, 100 * MIB).await;
    let held: Vec<_> = (0..100).map(|_| route.enter(Job::new())).collect();
    assert_eq!((ship.counts(), ship.stats().admitted), ((0, 0), 0));
    assert_eq!(ship.admission.routes()[0].expected, None);
    drop(held);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn observed_requests_are_let_in_and_those_that_would_not_be_are_counted() {
    let ship = Ship::new(&AdmissionConfig::new().guess(400 * MIB));
    let route = Route::new("route", &ship);
    let held: Vec<_> = (0..3).map(|_| route.enter(Job::new())).collect();
    let stats = ship.stats();
    assert_eq!((stats.would_wait, stats.would_reject), (1, 0));
    assert_eq!((stats.running, stats.growth), (3, 1_200 * MIB));
    ship.admission.set_shed(1.0);
    let _shed = route.enter(Job::new().of(Priority::Low));
    assert_eq!((ship.stats().would_reject, ship.stats().shed_total), (1, 0));
    ship.admission.set_shed(0.0);
    let key = || Job::new().key("tenant");
    let _held = [route.enter(key()), route.enter(key())];
    let stats = ship.stats();
    assert_eq!((stats.would_reject, stats.over_share), (2, 0));
    assert_eq!((stats.waited, stats.queue_full, stats.waiting), (0, 0, 0));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn what_is_reserved_is_so_before_the_handler_runs() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 100 * MIB).await;
    let before = route.called();
    // Not one of them is polled.
    let calls: Vec<_> = (0..20).map(|_| route.begin(Job::new())).collect();
    assert_eq!(route.called(), before + 10);
    let stats = ship.stats();
    assert_eq!((stats.running, stats.waiting), (10, 10));
    assert!((1_000 * MIB..=FOR_LARGE).contains(&stats.growth));
    // They wait for those who have not begun, which is no want of memory yet.
    assert!(!stats.is_short);
    drop(calls);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn what_is_used_takes_room() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 100 * MIB).await;
    ship.uses(850 * MIB);
    let one = route.enter(Job::new());
    let mut two = route.queue(Job::new());
    ship.uses(750 * MIB);
    assert!(two.is_woken());
    assert_pending!(two.poll());
    assert_eq!(ship.counts(), (2, 0));
    drop((one, two));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn line_that_rises_lets_those_in_who_wait_and_one_that_falls_has_them_wait() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 300 * MIB).await;
    let held: Vec<_> = (0..3).map(|_| route.enter(Job::new())).collect();
    let mut waits: Vec<_> = (0..4).map(|_| route.queue(Job::new())).collect();

    ship.admission.set_line(Some(LINE + 310 * MIB));
    let woken: Vec<_> = waits.iter().map(Spawn::is_woken).collect();
    assert_eq!(woken, [true, false, false, false]);
    // Below what is reserved, and what is used.
    ship.uses(200 * MIB);
    ship.admission.set_line(Some(100 * MIB));
    assert_eq!(ship.counts(), (4, 3));
    drop(held);
    assert_eq!(ship.counts(), (1, 3));
    let first = waits.remove(0);
    drop(first);
    // Nobody runs, and nobody fits.
    assert_eq!(ship.counts(), (0, 3));

    ship.admission.set_line(None);
    assert!(waits.iter().all(Spawn::is_woken));
    for call in &mut waits {
        assert_pending!(call.poll());
    }
    assert_eq!(ship.stats().waiting, 0);
    drop(waits);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn mode_that_is_changed_counts_for_those_who_wait() {
    for mode in [AdmissionMode::Off, AdmissionMode::Observe] {
        let ship = Ship::enforcing();
        let route = learned("route", &ship, 900 * MIB).await;
        let held = route.enter(Job::new());
        let mut waits: Vec<_> = (0..3).map(|_| route.queue(Job::new())).collect();
        ship.admission
            .reconfigure(&AdmissionConfig::new().mode(mode))
            .unwrap();
        for call in &mut waits {
            assert!(call.is_woken());
            assert_pending!(call.poll());
        }
        assert_eq!(route.called(), 44);
        drop((held, waits));
        ship.assert_empty();
    }
}

// === Order ===

#[tokio::test(start_paused = true)]
async fn first_come_is_first_let_in() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 500 * MIB).await;
    let mut held = vec![route.enter(Job::new()).0, route.enter(Job::new()).0];
    let mut waits: Vec<_> = (0..5).map(|_| route.queue(Job::new())).collect();
    while !waits.is_empty() {
        drop(held.remove(0));
        let woken: Vec<_> = waits.iter().map(Spawn::is_woken).collect();
        assert!(woken[0], "{woken:?}");
        assert!(woken[1..].iter().all(|woken| !woken), "{woken:?}");
        let mut first = waits.remove(0);
        assert_pending!(first.poll());
        held.push(first);
        assert_eq!(ship.counts(), (2, waits.len()));
    }
    drop(held);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_let_in_by_priority_and_small_ones_first() {
    let ship = Ship::enforcing();
    let large = learned("large", &ship, 900 * MIB).await;
    let small = learned("small", &ship, SMALL).await;
    ship.uses(LINE);
    let jobs = [
        (&large, Priority::Low),
        (&large, Priority::Normal),
        (&small, Priority::Low),
        (&large, Priority::High),
        (&small, Priority::Normal),
        (&small, Priority::High),
    ];
    let mut waits: Vec<_> = jobs
        .iter()
        .map(|(route, priority)| {
            let (job, gate) = Job::new().of(*priority).gate(0);
            Some((route.queue(job), gate))
        })
        .collect();
    // Room for one of the small ones after another, and then for one large one at a time.
    for (nth, used) in [
        (5, LINE - MIB / 2),
        (4, LINE - MIB),
        (2, LINE - 3 * MIB / 2),
        (3, 0),
        (1, 0),
        (0, 0),
    ] {
        ship.uses(used);
        let woken = waits.iter().flatten().filter(|(call, _)| call.is_woken());
        assert_eq!(woken.count(), 1, "{nth}");
        let (mut next, gate) = waits[nth].take().unwrap();
        assert!(next.is_woken(), "{nth}");
        assert_pending!(next.poll());
        if used == 0 {
            ship.uses(LINE);
            drop(next);
        } else {
            waits[nth] = Some((next, gate));
        }
    }
    drop(waits);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn memory_is_short_while_somebody_waits_for_what_is_used() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 100 * MIB).await;
    ship.uses(LINE);
    let waits = route.queue(Job::new());
    assert!(ship.stats().is_short);
    drop(waits);
    assert!(!ship.stats().is_short);
}

#[tokio::test(start_paused = true)]
async fn one_that_never_ends_and_holds_little_keeps_nobody_from_running_alone() {
    let ship = Ship::enforcing();
    let vast = learned("vast", &ship, 900 * MIB).await;
    let events = learned("events", &ship, 2 * MIB).await;
    let never_ends = events.enter(Job::new());
    ship.uses(500 * MIB);
    let alone = vast.enter(Job::new());
    let waits = vast.queue(Job::new());
    drop((never_ends, alone, waits));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn nobody_is_let_in_past_one_that_comes_first_and_wants_more() {
    let ship = Ship::enforcing();
    let vast = learned("vast", &ship, 900 * MIB).await;
    let large = learned("large", &ship, 100 * MIB).await;
    let held = [large.enter(Job::new()), large.enter(Job::new())];
    for priority in [Priority::High, Priority::Normal] {
        let first = vast.queue(Job::new().of(priority));
        let others = [
            large.queue(Job::new().of(Priority::Normal)),
            large.queue(Job::new().of(Priority::Low)),
        ];
        ship.look();
        assert!(others.iter().all(|call| !call.is_woken()));
        drop(first);
        assert!(others.iter().all(Spawn::is_woken));
    }
    drop(held);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn small_ones_are_not_kept_out_by_large_ones() {
    let ship = Ship::enforcing();
    let large = learned("large", &ship, 200 * MIB).await;
    let small = learned("small", &ship, SMALL).await;
    let held: Vec<_> = (0..5).map(|_| large.enter(Job::new())).collect();
    let waits: Vec<_> = (0..5).map(|_| large.queue(Job::new())).collect();
    let inside: Vec<_> = (0..32).map(|_| small.enter(Job::new())).collect();
    let reserved = ship.stats().reserved_for_small;
    assert!((32 * SMALL..=16 * MIB).contains(&reserved), "{reserved}");
    drop((held, waits, inside));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn one_that_may_want_more_than_there_is_runs_alone_and_keeps_no_small_one_out() {
    let ship = Ship::enforcing();
    let vast = learned("vast", &ship, 2 * LINE).await;
    let large = learned("large", &ship, 100 * MIB).await;
    let small = learned("small", &ship, SMALL).await;
    let first = large.enter(Job::new());
    let mut alone = vast.queue(Job::new());
    // Nobody passes it, or it would never come to it.
    let mut behind = large.queue(Job::new());
    drop(first);
    assert!(alone.is_woken());
    assert!(!behind.is_woken());
    assert_pending!(alone.poll());
    let inside: Vec<_> = (0..32).map(|_| small.enter(Job::new())).collect();
    drop(alone);
    assert!(behind.is_woken());
    assert_pending!(behind.poll());
    drop((behind, inside));

    // The line is passed already, whoever did that.
    ship.uses(LINE + 1);
    let waits = vast.queue(Job::new());
    ship.uses(FOR_LARGE - MIB);
    assert!(waits.is_woken());
    drop(waits);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn one_that_was_small_when_it_came_does_not_keep_small_ones_waiting() {
    let ship = Ship::enforcing();
    let grows = learned("grows", &ship, SMALL).await;
    let small = learned("small", &ship, SMALL).await;
    let large = learned("large", &ship, 100 * MIB).await;
    let early: Vec<_> = (0..40)
        .map(|_| grows.enter(Job::new().rest(700 * MIB)))
        .collect();
    let held = large.enter(Job::new());
    ship.uses(LINE);
    let mut was_small = grows.queue(Job::new());
    let mut is_small = small.queue(Job::new());
    // It is known by now that the first hold much more, and so may the one that waits.
    for (mut call, gate) in early {
        drop(gate);
        assert_ready_ok!(call.poll());
    }
    assert!(ship.admission.routes()[0].expected.unwrap() > 600 * MIB);
    ship.uses(LINE - 100 * MIB);
    assert!(is_small.is_woken());
    assert_pending!(is_small.poll());
    assert!(!was_small.is_woken());
    ship.uses(0);
    assert!(was_small.is_woken());
    assert_pending!(was_small.poll());
    drop((held, was_small, is_small));
    ship.assert_empty();
}

// === Bounds ===

#[tokio::test(start_paused = true)]
async fn no_more_wait_than_may() {
    let ship = Ship::new(&enforce().max_waiting(2));
    let route = learned("route", &ship, 900 * MIB).await;
    let held = route.enter(Job::new());
    let mut waits = vec![route.queue(Job::new()), route.queue(Job::new())];
    let rejected = route.refused(Job::new());
    assert_eq!(rejected.reason(), RejectReason::MemoryPressure);
    assert_eq!(rejected.source().as_str(), "route");
    assert!(rejected.retry_after().unwrap() >= Duration::from_secs(1));
    // Who leaves gives its place at once.
    drop(waits.remove(0));
    waits.push(route.queue(Job::new()));
    route.refused(Job::new());
    let stats = ship.stats();
    assert_eq!((stats.queue_full, stats.waited, stats.waiting), (2, 3, 2));
    assert_eq!(ship.admission.routes()[0].refused, 2);
    drop((held, waits));
    ship.assert_empty();

    let ship = Ship::new(&enforce().max_waiting(0));
    let route = learned("route", &ship, 900 * MIB).await;
    let held = route.enter(Job::new());
    route.refused(Job::new());
    drop(held);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_it_may() {
    let time = Duration::from_millis(310);
    let ship = Ship::new(&enforce().queue_timeout(time));
    let route = learned("route", &ship, 900 * MIB).await;
    let held = route.enter(Job::new());
    let begins = Instant::now();
    let error = route.service.clone().oneshot(Job::new()).await.unwrap_err();
    assert_eq!(Instant::now().saturating_duration_since(begins), time);
    let rejected = *Rejected::find(&*error).unwrap();
    assert_eq!(rejected.reason(), RejectReason::MemoryPressure);
    assert!(rejected.retry_after().unwrap() >= Duration::from_secs(1));
    let stats = ship.stats();
    assert_eq!((stats.timed_out, stats.waited, stats.queue_full), (1, 1, 0));
    assert_eq!((stats.waiting, stats.is_short), (0, false));
    assert_eq!(ship.admission.routes()[0].refused, 1);
    assert_eq!(route.called(), 41);
    drop(held);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn without_time_to_wait_nobody_waits() {
    let ship = Ship::new(&enforce().queue_timeout(Duration::ZERO));
    let route = learned("route", &ship, 900 * MIB).await;
    let held = route.enter(Job::new());
    assert_eq!(
        route.refused(Job::new()).reason(),
        RejectReason::MemoryPressure
    );
    assert_eq!(ship.stats().waited, 0);
    drop(held);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_is_let_in_at_the_last_moment_is_not_refused() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 900 * MIB).await;
    let held = route.enter(Job::new());
    let mut waits = route.queue(Job::new());
    drop(held);
    // It is in, and comes to know only when its time is over.
    advance(Duration::from_secs(2)).await;
    assert_pending!(waits.poll());
    assert_eq!(ship.stats().timed_out, 0);
    drop(waits);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_waits_looks_by_itself_and_is_let_in_when_memory_is_free() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 900 * MIB).await;
    ship.uses(LINE);
    let mut waits = route.queue(Job::new());
    // Nobody tells.
    ship.used.store(0, Relaxed);
    advance(Duration::from_millis(24)).await;
    assert!(!waits.is_woken());
    advance(Duration::from_millis(1)).await;
    assert!(waits.is_woken());
    assert_pending!(waits.poll());
    assert_eq!(route.called(), 41);
    drop(waits);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn those_who_have_gone_take_no_place_and_are_in_nobodys_way() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 900 * MIB).await;
    let held = route.enter(Job::new());
    let mut first = route.queue(Job::new());
    for _ in 0..100 {
        drop(route.queue(Job::new()));
    }
    let mut last = route.queue(Job::new());
    assert_eq!(ship.counts(), (1, 2));
    drop(held);
    assert_pending!(first.poll());
    drop(first);
    assert!(last.is_woken());
    assert_pending!(last.poll());
    drop(last);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_waits_on_in_another_task_is_woken_there() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 900 * MIB).await;
    let held = route.enter(Job::new());
    let mut before = route.queue(Job::new());
    let moved = mem::replace(&mut *before, route.service.clone().call(Job::new()));
    let mut after = task::spawn(moved);
    assert_pending!(after.poll());
    drop(held);
    assert!(after.is_woken());
    assert!(!before.is_woken());
    drop(before);
    assert_pending!(after.poll());
    assert_eq!(route.called(), 42);
    drop(after);
    ship.assert_empty();
}

#[test]
fn who_cannot_wait_outside_a_runtime_leaves_nothing() {
    let ship = Ship::enforcing();
    ship.uses(LINE);
    let route = Route::new("route", &ship);
    let panics = catch_unwind(AssertUnwindSafe(|| {
        route.call(Job::new()).poll().is_ready()
    }));
    assert!(panics.is_err());
    assert_eq!(ship.stats().waited, 1);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_is_told_how_long_it_takes_until_there_is_room() {
    let ship = Ship::new(&enforce().max_waiting(3));
    let route = learned("route", &ship, 900 * MIB).await;
    // What was given back long ago hardly counts.
    advance(Duration::from_secs(60)).await;
    drop(route.enter(Job::new()));
    let rate = ship.stats().drained_per_second;
    let half_life = 2.0;
    let expected = 900.0 * std::f64::consts::LN_2 / half_life;
    let rate_in_mib = rate as f64 / MIB as f64;
    assert!((rate_in_mib / expected - 1.0).abs() < 0.01, "{rate_in_mib}");

    let _held = route.enter(Job::new());
    let mut waits: Vec<_> = (0..3).map(|_| route.queue(Job::new())).collect();
    let seconds = |requests: u64| (requests * 900 * MIB) as f64 / rate as f64;
    let told = || {
        let rejected = route.refused(Job::new());
        rejected.retry_after().unwrap().as_secs_f64()
    };
    // Those who wait come first.
    assert!((told() / seconds(4) - 1.0).abs() < 0.01);
    waits.truncate(1);
    ship.admission.set_shed(1.0);
    assert!((told() / seconds(2) - 1.0).abs() < 0.01);
    ship.admission.set_shed(0.0);
    advance(Duration::from_secs(1)).await;
    let rejected = rejected(&mut waits[0]).retry_after().unwrap();
    // Nothing was given back in that second, so it takes longer.
    let longer = std::f64::consts::SQRT_2;
    assert!((rejected.as_secs_f64() / (longer * seconds(1)) - 1.0).abs() < 0.01);

    // Nothing was given back meanwhile.
    advance(Duration::from_secs(1)).await;
    let now = ship.stats().drained_per_second as f64;
    assert!((2.0 * now / rate as f64 - 1.0).abs() < 0.01, "{now}");
}

// === The end ===

#[tokio::test(start_paused = true)]
async fn what_is_reserved_is_given_back_in_whatever_way_a_request_ends() {
    let ship = Ship::enforcing();
    for bytes in [SMALL, 900 * MIB] {
        let route = learned("route", &ship, bytes).await;
        let one = || Job::new().rest(bytes);
        assert_eq!(route.service.clone().oneshot(one()).await.unwrap(), bytes);
        ship.assert_empty();
        let fails = route.service.clone().oneshot(one().ends(Ends::Fails));
        assert_eq!(fails.await.unwrap_err().to_string(), "failed");
        ship.assert_empty();

        let panics = catch_unwind(AssertUnwindSafe(|| {
            route.call(one().ends(Ends::PanicsAtOnce))
        }));
        assert!(panics.is_err());
        ship.assert_empty();
        let mut panics = route.call(one().ends(Ends::Panics));
        assert_pending!(panics.poll());
        assert!(catch_unwind(AssertUnwindSafe(|| panics.poll())).is_err());
        drop(panics);
        ship.assert_empty();

        drop(route.call(one()));
        ship.assert_empty();
        drop(route.enter(one()));
        ship.assert_empty();

        // Those who wait.
        ship.uses(LINE + MIB);
        drop(route.call(one()));
        ship.assert_empty();
        drop(route.queue(one()));
        ship.assert_empty();
        // Those who are in, and do not know.
        for is_polled in [false, true] {
            ship.uses(LINE + MIB);
            let mut call = route.call(one());
            if is_polled {
                assert_pending!(call.poll());
            }
            ship.uses(0);
            assert_eq!(call.is_woken(), is_polled);
            let stats = ship.stats();
            assert!(stats.growth + stats.reserved_for_small >= bytes);
            assert_eq!(stats.waiting, 0);
            drop(call);
            ship.assert_empty();
        }

        // The service goes before its requests.
        ship.uses(LINE + MIB);
        let waits = route.queue(one());
        ship.uses(0);
        drop(route);
        let mut goes_on = waits;
        assert_pending!(goes_on.poll());
        assert_eq!(assert_ready_ok!(goes_on.poll()), bytes);
        ship.assert_empty();
    }
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_nobody_begins_with_is_given_back() {
    let ship = Ship::enforcing();
    let new = || Weigher::new("route".into(), HeavyLog::none(), None).admitted_by(&ship.admission);
    let small = new();
    for nth in 0..40 {
        let Admitted::Now(permit) = small.admit(&Ask::default()) else {
            panic!("there is room");
        };
        let is_small = format!("{permit:?}").contains("small");
        assert_eq!(is_small, nth > 0);
        assert_eq!(ship.stats().reserved_for_small > 0, is_small);
        if nth > 0 {
            drop(permit);
            ship.assert_empty();
        } else {
            // So that it is known.
            drop(small.begin_admitted(None, 0, permit));
        }
    }

    let large = new();
    let Admitted::Now(permit) = large.admit(&Ask::default()) else {
        panic!("there is room");
    };
    assert_eq!((ship.counts(), ship.stats().growth), ((1, 0), GUESS));
    // It may outlive what gave it.
    drop(large);
    drop(permit);
    ship.assert_empty();

    ship.uses(LINE);
    let waits = new();
    let Admitted::Later(waiting) = waits.admit(&Ask::default()) else {
        panic!("there is no room");
    };
    let mut waiting = task::spawn(waiting);
    assert_pending!(waiting.poll());
    ship.uses(0);
    let permit = assert_ready_ok!(waiting.poll());
    assert_eq!(ship.counts(), (1, 0));
    drop(waiting);
    drop(permit);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_reserves_nothing() {
    let ship = Ship::new(&enforce().max_waiting(0));
    let route = learned("route", &ship, 900 * MIB).await;
    ship.uses(LINE);
    let mut refused = route.call(Job::new());
    ship.assert_empty();
    rejected(&mut refused);
    ship.assert_empty();
}

// === What those who run hold ===

#[tokio::test(start_paused = true)]
async fn who_has_allocated_all_it_will_reserves_nothing_more() {
    let ship = Ship::enforcing();
    let route = Route::new("route", &ship);
    for _ in 0..40 {
        route
            .service
            .clone()
            .oneshot(Job::new().first(400 * MIB))
            .await
            .unwrap();
    }
    let (one, _gate) = route.enter(Job::new().first(100 * MIB));
    let (other, _other) = route.enter(Job::new().first(50 * MIB));
    // Before anybody looks, two of them may come to hold 800.
    let mut waits = route.queue(Job::new().first(100 * MIB));
    assert!(ship.stats().growth > 790 * MIB);
    ship.uses(150 * MIB);
    assert!(waits.is_woken());
    assert_pending!(waits.poll());
    ship.look();
    assert!(ship.stats().growth < MIB, "{:?}", ship.stats());
    drop((one, other, waits));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_grows_after_it_was_let_in_reserves_what_it_will_grow_by() {
    let ship = Ship::enforcing();
    let route = Route::new("route", &ship);
    for _ in 0..40 {
        route
            .service
            .clone()
            .oneshot(Job::new().first(100 * MIB).rest(300 * MIB))
            .await
            .unwrap();
    }
    let (job, last) = Job::new().first(50 * MIB).rest(150 * MIB).gate(1);
    let (mut one, first) = route.enter(job);
    assert!((400 * MIB..401 * MIB).contains(&ship.stats().growth));
    ship.uses(50 * MIB);
    // A half of what others held at that time, so a half of what they came to.
    let growth = ship.stats().growth;
    assert!((149 * MIB..=151 * MIB).contains(&growth), "{growth}");
    drop(first);
    assert_pending!(one.poll());
    ship.uses(200 * MIB);
    assert!(ship.stats().growth < MIB, "{:?}", ship.stats());
    drop(last);
    assert_ready_ok!(one.poll());
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_holds_nothing_at_first_reserves_all_that_others_came_to_hold() {
    let ship = Ship::enforcing();
    let layer = AdmissionLayer::new("route", &ship.admission);
    // Nothing at all: what it waits for is no allocation either.
    let mut service = layer.layer(service_fn(|bytes: u64| async move {
        wait().await;
        let held = hold(bytes);
        wait().await;
        Ok::<_, Infallible>(held.capacity())
    }));
    for _ in 0..40 {
        service
            .ready()
            .await
            .unwrap()
            .call(500 * MIB)
            .await
            .unwrap();
    }
    let mut call = task::spawn(service.call(500 * MIB));
    assert_pending!(call.poll());
    ship.look();
    assert_eq!(ship.stats().growth, 500 * MIB);
    drop(call);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_was_taken_to_be_small_and_grows_is_counted() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, SMALL).await;
    let (job, last) = Job::new().rest(100 * MIB).gate(1);
    let (mut grows, first) = route.enter(job);
    let reserved = ship.stats().reserved_for_small;
    assert!((SMALL..=MIB / 2).contains(&reserved), "{reserved}");
    assert_eq!(ship.counts(), (0, 0));
    drop(first);
    assert_pending!(grows.poll());
    assert_eq!(
        (ship.counts(), ship.stats().reserved_for_small),
        ((1, 0), 0)
    );
    // It is the one who holds most.
    let cancelled = cancel_largest(&ship.admission, MIB, MIB, 1);
    assert_eq!(cancelled.requests, 1);
    assert!((100 * MIB..101 * MIB).contains(&cancelled.bytes));
    assert_eq!(rejected(&mut grows).reason(), RejectReason::MemoryPressure);
    drop(last);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_grows_late_is_as_old_as_it_is() {
    let ship = Ship::new(&enforce().quantile(0.5));
    let weigher = Weigher::new("route".into(), HeavyLog::none(), None);
    let weigher = weigher.admitted_by(&ship.admission);
    let begin = || {
        let began = weigher.now();
        weigher
            .begin_at_once(None, began, None)
            .unwrap_or_else(|MustAsk| {
                let Admitted::Now(permit) = weigher.admit(&Ask::default()) else {
                    panic!("there is room");
                };
                weigher.begin_admitted(None, began, permit)
            })
    };
    let holds = |weighing: &mut Weighing, bytes: u64| {
        let held = {
            let _entered = weighing.enter();
            hold(bytes)
        };
        weighing.waits(Waker::noop());
        held
    };
    for _ in 0..100 {
        drop(begin());
    }
    // Few grow: from 2 MiB to 20 after 64 ms, and to 100.
    for _ in 0..10 {
        let mut weighing = begin().unwrap();
        let mut held = vec![holds(&mut weighing, 2 * MIB)];
        advance(Duration::from_millis(64)).await;
        held.push(holds(&mut weighing, 18 * MIB));
        ship.look();
        held.push(holds(&mut weighing, 80 * MIB));
        drop(held);
        drop(weighing);
    }
    let mut late = begin().unwrap();
    assert_eq!(ship.counts(), (0, 0));
    late.waits(Waker::noop());
    advance(Duration::from_millis(70)).await;
    let held = holds(&mut late, 20 * MIB);
    ship.look();
    assert_eq!(ship.counts(), (1, 0));
    // As those of its age, not as those that have just begun.
    let growth = ship.stats().growth;
    assert!((79 * MIB..=81 * MIB).contains(&growth), "{growth}");
    drop(held);
    drop(late);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_grows_counts_for_nobodys_share() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, SMALL).await;
    let large = learned("large", &ship, 400 * MIB).await;
    let (job, _last) = Job::new().key("one").rest(300 * MIB).gate(1);
    let (mut grows, first) = route.enter(job);
    drop(first);
    assert_pending!(grows.poll());
    assert_eq!(ship.counts(), (1, 0));
    let other = large.enter(Job::new().key("one"));
    drop((grows, other));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_grows_is_still_of_its_routes_priority() {
    for (config, is_cancelled) in [
        (enforce().high_priority(["route"]), false),
        (enforce().low_priority(["route"]), true),
    ] {
        let ship = Ship::new(&config);
        let route = learned("route", &ship, SMALL).await;
        let other = learned("other", &ship, 200 * MIB).await;
        let (other, _gate) = other.enter(Job::new().first(150 * MIB));
        let (job, _last) = Job::new().rest(100 * MIB).gate(1);
        let (mut grows, first) = route.enter(job);
        drop(first);
        assert_pending!(grows.poll());
        assert_eq!(ship.counts(), (2, 0));
        let _ = cancel_largest(&ship.admission, 1, MIB, 1);
        assert_eq!(grows.is_woken(), is_cancelled);
        assert_eq!(other.is_woken(), !is_cancelled);
    }
}

#[tokio::test(start_paused = true)]
async fn heavy_uploads_do_not_close_their_route_for_small_ones() {
    let ship = Ship::enforcing();
    let route = Route::new("route", &ship);
    let upload = || Job::new().declares(32 * MIB);
    for _ in 0..40 {
        route
            .service
            .clone()
            .oneshot(upload().rest(400 * MIB))
            .await
            .unwrap();
        route
            .service
            .clone()
            .oneshot(Job::new().rest(64 << 10))
            .await
            .unwrap();
    }
    let held = [route.enter(upload()), route.enter(upload())];
    let waits = route.queue(upload());
    let inside: Vec<_> = (0..100).map(|_| route.enter(Job::new())).collect();
    assert_eq!(ship.counts(), (2, 1));
    drop((held, waits, inside));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn sizes_that_nobody_can_have_do_no_harm() {
    let ship = Ship::new(&AdmissionConfig::new().guess(u64::MAX));
    let route = Route::new("route", &ship);
    let mut held: Vec<_> = (0..3)
        .map(|_| route.enter(Job::new().declares(u64::MAX)))
        .collect();
    ship.admission
        .reconfigure(&enforce().guess(u64::MAX))
        .unwrap();
    let waits: Vec<_> = (0..3)
        .map(|_| route.queue(Job::new().declares(u64::MAX)))
        .collect();
    ship.uses(u64::MAX - 1);
    assert_eq!(ship.counts(), (3, 3));
    ship.uses(0);
    held.clear();
    // It is known by now that they hold next to nothing, whatever they say.
    assert_eq!(ship.counts(), (0, 0));
    drop(waits);
    ship.assert_empty();
}

// === Those of whom nothing is known ===

/// What one reserves that comes out of its turn, and what it is taken to hold otherwise.
const ON_TRIAL: u64 = LINE / 256;
const GUESS: u64 = LINE / 8;

/// Heavy ones take all the room there is for them, hold nothing yet, and others wait for them.
struct Full {
    inside: Vec<(Spawn<Call>, Gate)>,
    _waits: Spawn<Call>,
}

impl Full {
    async fn new(ship: &Ship) -> Self {
        let heavy = learned("heavy", ship, 100 * MIB).await;
        let inside: Vec<_> = (0..10).map(|_| heavy.enter(Job::new())).collect();
        let full = Self {
            inside,
            _waits: heavy.queue(Job::new()),
        };
        assert!(ship.stats().growth + ON_TRIAL < FOR_LARGE);
        full
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_whom_nothing_is_known_is_let_in_while_heavy_ones_fill_the_room() {
    let ship = Ship::enforcing();
    let full = Full::new(&ship).await;
    let before = ship.stats().growth;
    let route = Route::new("new", &ship);
    let (mut first, gate) = route.enter(Job::new().rest(64 << 10));
    let stats = ship.stats();
    assert_eq!((stats.tried, stats.on_trial), (1, ON_TRIAL));
    assert_eq!(stats.growth, before + ON_TRIAL);
    // Others of its kind wait for what it shows. One of another size is of another kind.
    let mut others = [route.queue(Job::new()), route.queue(Job::new())];
    let upload = route.enter(Job::new().declares(100 << 10));
    ship.look();
    assert!(others.iter().all(|call| !call.is_woken()));
    drop(gate);
    assert_ready_ok!(first.poll());
    for call in &mut others {
        assert!(call.is_woken());
        assert_pending!(call.poll());
    }
    assert_eq!(ship.counts(), (11, 1));
    drop((upload, others, full));
    ship.assert_empty();
    assert_eq!(ship.stats().on_trial, 0);
}

#[tokio::test(start_paused = true)]
async fn where_there_is_room_those_of_whom_nothing_is_known_reserve_what_is_guessed() {
    let ship = Ship::enforcing();
    let route = Route::new("new", &ship);
    let held: Vec<_> = (0..7).map(|_| route.enter(Job::new())).collect();
    let waits = route.queue(Job::new());
    let stats = ship.stats();
    assert_eq!((stats.growth, stats.tried), (7 * GUESS, 0));
    drop((held, waits));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn of_many_kinds_of_whom_nothing_is_known_two_are_tried_at_a_time() {
    let ship = Ship::enforcing();
    let full = Full::new(&ship).await;
    let routes: Vec<_> = (0..20).map(|_| Route::new("new", &ship)).collect();
    let mut calls: Vec<_> = routes.iter().map(|it| it.begin(Job::new())).collect();
    for (call, _) in &mut calls {
        assert_pending!(call.poll());
    }
    let inside = || -> Vec<_> { routes.iter().map(Route::called).collect() };
    for nth in 0..19 {
        let mut expected = vec![0; 20];
        expected[..nth + 2].fill(1);
        assert_eq!(inside(), expected);
        assert!(ship.stats().on_trial <= LINE / 128);
        // One ends, and the next in order of arrival comes.
        let (mut call, gate) = calls.remove(0);
        drop(gate);
        assert_ready_ok!(call.poll());
        for (call, _) in &mut calls {
            assert_pending!(call.poll());
        }
    }
    assert_eq!(ship.stats().tried, 20);
    drop((calls, full));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn those_who_are_tried_have_room_even_if_each_is_as_heavy_as_is_guessed() {
    let ship = Ship::enforcing();
    let vast = learned("vast", &ship, 900 * MIB).await;
    let held = vast.enter(Job::new());
    let waits = vast.queue(Job::new());
    let tries = |used: u64| {
        ship.uses(used);
        let before = ship.stats().tried;
        let routes = [(); 3].map(|()| Route::new("new", &ship));
        let calls = [0, 1, 2].map(|nth| routes[nth].begin(Job::new()));
        let tried = ship.stats().tried - before;
        drop(calls);
        tried
    };
    assert_eq!(tries(LINE - 2 * GUESS), 2);
    assert_eq!(tries(LINE - 2 * GUESS + 1), 1);
    assert_eq!(tries(LINE - GUESS), 1);
    assert_eq!(tries(LINE - GUESS + 1), 0);
    drop((held, waits));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn one_that_is_tried_and_turns_out_heavy_reserves_what_is_guessed() {
    let ship = Ship::enforcing();
    let full = Full::new(&ship).await;
    let before = ship.stats().growth;
    let route = Route::new("new", &ship);
    let (first, gate) = route.enter(Job::new().first(50 * MIB));
    let others = [Route::new("new", &ship), Route::new("new", &ship)];
    let second = others[0].enter(Job::new());
    let mut third = others[1].queue(Job::new());
    let mut waits = route.queue(Job::new());
    ship.uses(50 * MIB);
    // It has grown, and what it may still grow by is guessed as that of any.
    let stats = ship.stats();
    let on_trial = 2 * ON_TRIAL - 8_192..=2 * ON_TRIAL;
    assert!(on_trial.contains(&stats.on_trial), "{stats:?}");
    let growth = stats.growth - before - 2 * ON_TRIAL;
    let left = GUESS - 50 * MIB;
    assert!((left - MIB..=left).contains(&growth), "{growth}");
    // Another kind is tried instead, but none of that.
    assert!(third.is_woken());
    assert_pending!(third.poll());
    drop((second, third));
    advance(Duration::from_millis(900)).await;
    ship.look();
    assert_pending!(waits.poll());
    assert_eq!((route.called(), ship.stats().on_trial), (1, 0));
    drop((gate, first, waits, full));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn one_that_has_answered_and_holds_little_tells_that_before_it_ends() {
    let ship = Ship::enforcing();
    let mut full = Full::new(&ship).await;
    let before = ship.stats().growth;
    let weigher = Weigher::new("stream".into(), HeavyLog::none(), None);
    let weigher = weigher.admitted_by(&ship.admission);
    let streams = || {
        let Admitted::Now(permit) = weigher.admit(&Ask::default()) else {
            return None;
        };
        let weighing = weigher.begin_admitted(None, 0, permit).unwrap();
        let entered = weighing.enter();
        let held = hold(100 << 10);
        drop(entered);
        Some((held, weighing))
    };
    let mut all = Vec::new();
    for nth in 1..=6 {
        let (held, mut weighing) = streams().unwrap();
        assert!(streams().is_none());
        advance(Duration::from_millis(100)).await;
        ship.look();
        assert!(streams().is_none());
        weighing.answers();
        ship.look();
        let stats = ship.stats();
        assert_eq!(
            (stats.tried, stats.on_trial, stats.growth),
            (nth, 0, before)
        );
        all.push((held, weighing));
    }
    // As soon as one grows after all, no more are tried.
    let grows = {
        let _entered = all[0].1.enter();
        hold(ON_TRIAL)
    };
    ship.look();
    assert!(ship.stats().growth > before + GUESS - 2 * ON_TRIAL);
    assert!(streams().is_none());
    drop(grows);
    for (held, weighing) in all {
        drop(held);
        drop(weighing);
    }
    full.inside.clear();
    drop(full);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_at_once_is_not_taken_for_light_yet() {
    let ship = Ship::enforcing();
    let full = Full::new(&ship).await;
    let weigher = Weigher::new("stream".into(), HeavyLog::none(), None);
    let weigher = weigher.admitted_by(&ship.admission);
    let Admitted::Now(permit) = weigher.admit(&Ask::default()) else {
        panic!("it is tried");
    };
    let mut weighing = weigher.begin_admitted(None, 0, permit).unwrap();
    weighing.answers();
    advance(Duration::from_millis(63)).await;
    ship.look();
    assert_eq!(ship.stats().on_trial, ON_TRIAL);
    advance(Duration::from_millis(1)).await;
    ship.look();
    assert_eq!(ship.stats().on_trial, 0);
    drop((weighing, full));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_long_keeps_others_from_being_tried_for_a_second() {
    let long = Duration::from_secs(10);
    let ship = Ship::new(&enforce().queue_timeout(long));
    let full = Full::new(&ship).await;
    let route = Route::new("new", &ship);
    let first = route.enter(Job::new());
    let mut second = route.queue(Job::new());
    let mut third = route.queue(Job::new());
    advance(Duration::from_millis(999)).await;
    ship.look();
    assert_pending!(second.poll());
    assert_eq!(route.called(), 1);
    advance(Duration::from_millis(1)).await;
    ship.look();
    assert_pending!(second.poll());
    assert_pending!(third.poll());
    assert_eq!((route.called(), ship.stats().on_trial), (2, ON_TRIAL));
    // What the first may come to hold is guessed to be half as much by now, and is not forgotten.
    ship.used.store(LINE - MIB, Relaxed);
    advance(Duration::from_secs(1)).await;
    ship.uses(LINE - GUESS - GUESS / 2 - GUESS / 4 + MIB);
    assert_pending!(third.poll());
    assert_eq!(route.called(), 2);
    ship.uses(LINE - GUESS - GUESS / 2 - GUESS / 4);
    assert_pending!(third.poll());
    assert_eq!(route.called(), 3);
    drop((first, second, third, full));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn nobody_is_tried_who_says_it_is_large_or_while_memory_is_short() {
    let ship = Ship::enforcing();
    let small = learned("small", &ship, SMALL).await;
    let full = Full::new(&ship).await;
    let route = || Route::new("new", &ship);
    drop(route().queue(Job::new().declares(ON_TRIAL + 1)));
    drop(route().enter(Job::new().declares(ON_TRIAL)));
    ship.admission.set_shed(0.1);
    drop(route().queue(Job::new()));
    ship.admission.set_shed(0.0);
    ship.uses(LINE);
    let waits = small.queue(Job::new());
    drop(route().queue(Job::new()));
    // There is room, but nobody has let the small one in yet.
    ship.used.store(0, Relaxed);
    drop(waits);
    ship.look();
    drop(route().enter(Job::new()));
    assert_eq!(ship.stats().tried, 2);
    drop(full);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn those_who_waited_to_be_known_come_out_of_turn_if_they_hold_little() {
    let ship = Ship::enforcing();
    let full = Full::new(&ship).await;
    let route = Route::new("new", &ship);
    let (mut first, gate) = route.enter(Job::new().rest(MIB / 4));
    let mut waits: Vec<_> = (0..6).map(|_| route.queue(Job::new())).collect();
    drop(gate);
    assert_ready_ok!(first.poll());
    // Nine times as much, for one was all there was; so three of them.
    let expected = ship.admission.routes().pop().unwrap().expected.unwrap();
    assert!((2 * MIB..3 * MIB).contains(&expected), "{expected}");
    let woken: Vec<_> = waits.iter().map(Spawn::is_woken).collect();
    assert_eq!(woken, [true, true, true, false, false, false]);
    // Whoever comes now comes in its turn.
    let late = route.queue(Job::new());
    drop(waits.remove(0));
    assert!(waits[2].is_woken());
    assert!(!late.is_woken());
    drop((waits, late, full));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn those_who_waited_to_be_known_wait_for_their_turn_if_they_are_heavy() {
    let ship = Ship::enforcing();
    let full = Full::new(&ship).await;
    let route = Route::new("new", &ship);
    let (mut first, gate) = route.enter(Job::new().rest(10 * MIB));
    let waits: Vec<_> = (0..6).map(|_| route.queue(Job::new())).collect();
    drop(gate);
    assert_ready_ok!(first.poll());
    ship.look();
    assert!(waits.iter().all(|call| !call.is_woken()));
    drop(full);
    assert!(waits.iter().all(Spawn::is_woken));
    drop(waits);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn no_more_than_256_of_those_who_wait_may_come_out_of_their_turn() {
    let ship = Ship::enforcing();
    let full = Full::new(&ship).await;
    let routes = [Route::new("new", &ship), Route::new("new", &ship)];
    ship.uses(LINE);
    let first: Vec<_> = (0..256).map(|_| routes[0].queue(Job::new())).collect();
    let last = routes[1].queue(Job::new());
    ship.uses(0);
    assert!(first[0].is_woken());
    assert!(!last.is_woken());
    // It was not too late for those who come when there is room again.
    drop(first);
    assert!(!last.is_woken());
    ship.uses(LINE);
    let next = routes[1].queue(Job::new());
    ship.uses(0);
    assert!(next.is_woken());
    drop((last, next, full));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_came_out_of_its_turn_is_in_nobodys_way() {
    let ship = Ship::enforcing();
    let vast = learned("vast", &ship, 900 * MIB).await;
    let large = learned("large", &ship, 20 * MIB).await;
    let held = vast.enter(Job::new());
    ship.uses(LINE);
    let mut tried = Route::new("new", &ship).queue(Job::new());
    ship.uses(0);
    assert_pending!(tried.poll());
    assert_eq!((ship.counts(), ship.stats().tried), ((2, 0), 1));
    drop(large.enter(Job::new()));
    drop((held, tried));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_would_be_tried_would_not_wait() {
    let ship = Ship::new(&AdmissionConfig::new());
    let heavy = learned("heavy", &ship, 900 * MIB).await;
    let before = ship.stats().would_wait;
    let held = heavy.enter(Job::new());
    let routes = [(); 3].map(|()| Route::new("new", &ship));
    let calls = [0, 1, 2].map(|nth| routes[nth].enter(Job::new()));
    let stats = ship.stats();
    assert_eq!((stats.tried, stats.would_wait - before), (2, 1));
    drop((held, calls));
    ship.assert_empty();
}

#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn what_became_of_those_who_asked_is_published() {
    let ship = Ship::new(&enforce().max_waiting(2));
    let small = learned("small", &ship, SMALL).await;
    let full = Full::new(&ship).await;
    let tried = Route::new("new", &ship);
    let held = tried.enter(Job::new());
    let waits = tried.queue(Job::new());
    tried.refused(Job::new());
    ship.admission.set_shed(1.0);
    small.refused(Job::new());
    ship.admission.set_shed(0.0);
    ship.uses(100 * MIB);
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let publish = || {
        metrics::with_local_recorder(&recorder, || ship.admission.publish_metrics());
        recorder.handle().render()
    };
    let shown = publish();
    let stats = ship.stats();
    assert!(stats.growth > 0 && stats.on_trial > 0 && stats.held > 0);
    for (series, value) in [
        ("line_bytes", LINE),
        ("used_bytes", 100 * MIB),
        ("kept_bytes", 0),
        ("growth_bytes", stats.growth),
        ("on_trial_bytes", stats.on_trial),
        ("small_bytes", 0),
        ("held_bytes", stats.held),
        ("running", 11),
        ("waiting", 2),
        ("admitted_total", stats.admitted),
        ("waited_total", 2),
        ("tried_total", 1),
        ("cancelled_total", 0),
        ("would_wait_total", 0),
        ("would_reject_total", 0),
        ("rejected_total{reason=\"queue_full\"}", 1),
        ("rejected_total{reason=\"queue_timeout\"}", 0),
        ("rejected_total{reason=\"shed\"}", 1),
        ("rejected_total{reason=\"share\"}", 0),
    ] {
        let line = format!("\nplimsoll_admission_{series} {value}\n");
        assert!(shown.contains(&line), "{line}{shown}");
    }
    drop((held, waits, full));
    ship.admission.set_line(None);
    ship.admission
        .set_meter(Gauge(Arc::new(AtomicU64::new(UNKNOWN))));
    let shown = publish();
    for series in ["line_bytes", "used_bytes", "kept_bytes"] {
        let line = format!("\nplimsoll_admission_{series} NaN\n");
        assert!(shown.contains(&line), "{line}{shown}");
    }
    ship.assert_empty();
}

// === Shares ===

#[tokio::test(start_paused = true)]
async fn one_key_holds_no_more_than_its_share() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 200 * MIB).await;
    let small = learned("small", &ship, SMALL).await;
    let one = || Job::new().key("one");
    let held = [route.enter(one()), route.enter(one())];
    let rejected = route.refused(one());
    assert_eq!(rejected.reason(), RejectReason::ShareExceeded);
    assert_eq!(rejected.reason().status(), 429);
    assert!(rejected.retry_after().unwrap() >= Duration::from_secs(1));
    assert_eq!(ship.stats().over_share, 1);
    let others = [
        route.enter(Job::new().key("another")),
        route.enter(Job::new()),
    ];
    // Of large ones alone.
    ship.uses(LINE - 16 * MIB);
    let _small: Vec<_> = (0..32).map(|_| small.enter(one())).collect();
    drop(_small);
    ship.uses(0);
    drop(held);
    let held = [route.enter(one()), route.enter(one())];
    drop((held, others));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn one_key_has_its_share_of_those_who_wait_too() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 200 * MIB).await;
    let others: Vec<_> = (0..5).map(|_| route.enter(Job::new())).collect();
    let one = || Job::new().key("one");
    let mut waits = vec![route.queue(one()), route.queue(one())];
    assert_eq!(route.refused(one()).reason(), RejectReason::ShareExceeded);
    // It has left, and does not count any longer.
    waits.pop();
    waits.push(route.queue(one()));
    drop(others);
    assert_eq!(ship.counts(), (2, 0));
    assert_eq!(route.refused(one()).reason(), RejectReason::ShareExceeded);
    drop(waits.pop());
    drop(route.enter(one()));
    drop(waits);
    ship.assert_empty();
    // Nothing is left of the key.
    let _held = [route.enter(one()), route.enter(one())];
    assert_eq!(route.refused(one()).reason(), RejectReason::ShareExceeded);
}

#[tokio::test(start_paused = true)]
async fn one_request_that_wants_more_than_its_share_is_let_in() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 900 * MIB).await;
    let held = route.enter(Job::new().key("one"));
    assert_eq!(
        route.refused(Job::new().key("one")).reason(),
        RejectReason::ShareExceeded
    );
    drop(held);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn share_follows_what_requests_hold() {
    let ship = Ship::enforcing();
    let route = Route::new("route", &ship);
    for _ in 0..40 {
        route
            .service
            .clone()
            .oneshot(Job::new().first(400 * MIB))
            .await
            .unwrap();
    }
    let job = || Job::new().key("one").first(50 * MIB);
    let one = route.enter(job());
    assert_eq!(route.refused(job()).reason(), RejectReason::ShareExceeded);
    // It has all that it will have, which is less than others have.
    ship.uses(50 * MIB);
    let other = route.enter(job());
    assert_eq!(route.refused(job()).reason(), RejectReason::ShareExceeded);
    drop((one, other));
    let one = route.enter(job());
    drop(one);
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn keys_past_their_bound_share_one_share() {
    let ship = Ship::new(&enforce().max_keys(2).max_share(0.25));
    let route = learned("route", &ship, 200 * MIB).await;
    let held = [
        route.enter(Job::new().key("one")),
        route.enter(Job::new().key("two")),
    ];
    let past = route.enter(Job::new().key("three"));
    assert_eq!(
        route.refused(Job::new().key("four")).reason(),
        RejectReason::ShareExceeded
    );
    drop(held);
    drop(past);
    // There is room for them again.
    let _held = [
        route.enter(Job::new().key("three")),
        route.enter(Job::new().key("four")),
    ];
}

// === Routes ===

#[tokio::test(start_paused = true)]
async fn exempt_routes_are_always_let_in() {
    let ship = Ship::new(&enforce().exempt(["/healthz"]));
    let route = learned("/healthz", &ship, 900 * MIB).await;
    let small = learned("/healthz", &ship, SMALL).await;
    ship.admission.set_shed(1.0);
    ship.uses(2 * LINE);
    for route in [&route, &small] {
        let job = Job::new().of(Priority::Low).key("one");
        drop(route.enter(job));
    }
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn lists_of_routes_count_as_soon_as_they_are_changed() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 900 * MIB).await;
    let held = learned("held", &ship, 900 * MIB).await;
    let held = held.enter(Job::new());
    let normal = route.queue(Job::new());
    ship.admission
        .reconfigure(&enforce().low_priority(["route"]))
        .unwrap();
    let low = route.queue(Job::new());
    ship.admission
        .reconfigure(&enforce().high_priority(["route"]))
        .unwrap();
    let high = route.queue(Job::new());
    // Its own counts first.
    let own = route.queue(Job::new().of(Priority::Low));
    drop(held);
    let mut waits = vec![high, normal, low, own];
    while !waits.is_empty() {
        assert!(waits[0].is_woken());
        assert!(waits[1..].iter().all(|call| !call.is_woken()));
        drop(waits.remove(0));
    }
    ship.uses(2 * LINE);
    ship.admission
        .reconfigure(&enforce().exempt(["route"]))
        .unwrap();
    drop(route.enter(Job::new()));
    ship.assert_empty();
}

// === Shedding ===

#[tokio::test(start_paused = true)]
async fn requests_are_shed_by_priority_and_in_proportion() {
    for (shed, [high, normal, low]) in [
        (0.0, [0, 0, 0]),
        (0.25, [0, 0, 50]),
        (0.5, [0, 0, 100]),
        (0.75, [0, 50, 100]),
        (1.0, [0, 100, 100]),
        (f64::NAN, [0, 0, 0]),
        (-1.0, [0, 0, 0]),
        (7.0, [0, 100, 100]),
        (0.25, [0, 0, 50]),
    ] {
        let ship = Ship::enforcing();
        let route = learned("route", &ship, SMALL).await;
        ship.admission.set_shed(f64::NAN);
        drop(route.enter(Job::new().of(Priority::Low)));
        ship.admission.set_shed(shed);
        for (priority, expected) in [
            (Priority::High, high),
            (Priority::Normal, normal),
            (Priority::Low, low),
        ] {
            let before = ship.stats().shed_total;
            for _ in 0..100 {
                let mut call = route.call(Job::new().of(priority));
                if let Poll::Ready(Err(error)) = call.poll() {
                    let rejected = Rejected::find(&*error).unwrap();
                    assert_eq!(rejected.reason(), RejectReason::MemoryPressure);
                    assert!(rejected.retry_after().unwrap() >= Duration::from_secs(1));
                }
            }
            assert_eq!(
                ship.stats().shed_total - before,
                expected,
                "{shed} of {priority:?}"
            );
        }
        ship.assert_empty();
    }
}

// === Those who are cancelled ===

#[tokio::test(start_paused = true)]
async fn who_holds_most_for_its_priority_is_cancelled_first() {
    let ship = Ship::enforcing();
    let route = learned("route", &ship, 50 * MIB).await;
    let begin = |priority, held| route.enter(Job::new().of(priority).first(held * MIB));
    let mut calls = [
        begin(Priority::Normal, 9),
        begin(Priority::Low, 8),
        begin(Priority::High, 40),
        begin(Priority::Low, 2),
        begin(Priority::Normal, 3),
    ];
    let woken = |calls: &[(Spawn<Call>, Gate)]| -> Vec<bool> {
        calls.iter().map(|(call, _)| call.is_woken()).collect()
    };
    let cancel = |want, floor, at_most| {
        let cancelled = cancel_largest(&ship.admission, want, floor, at_most);
        (cancelled.requests, cancelled.bytes / MIB)
    };
    assert_eq!(cancel(0, 0, 10), (0, 0));
    assert_eq!(cancel(MIB, 0, 0), (0, 0));
    assert_eq!(cancel(MIB, 100 * MIB, 10), (0, 0));
    assert_eq!(woken(&calls), [false; 5]);
    assert_eq!(cancel(MIB, MIB, 10), (1, 8));
    assert_eq!(woken(&calls), [false, true, false, false, false]);
    // It was told already.
    assert_eq!(cancel(100 * MIB, MIB, 1), (1, 9));
    assert_eq!(woken(&calls), [true, true, false, false, false]);
    // None below the floor, and none of high priority.
    assert_eq!(cancel(100 * MIB, 5 * MIB / 2, 10), (1, 3));
    assert_eq!(woken(&calls), [true, true, false, false, true]);
    assert_eq!(ship.stats().cancelled, 3);
    for nth in [0, 1, 4] {
        assert_eq!(
            rejected(&mut calls[nth].0).reason(),
            RejectReason::MemoryPressure
        );
    }
    assert_eq!(ship.counts(), (2, 0));
    // Others are not touched.
    let [_, _, high, low, _] = calls;
    for (mut call, gate) in [high, low] {
        drop(gate);
        assert_ready_ok!(call.poll());
    }
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_is_cancelled_just_before_it_waits_is_woken() {
    let ship = Ship::enforcing();
    let weigher = Weigher::new("route".into(), HeavyLog::none(), None);
    let weigher = weigher.admitted_by(&ship.admission);
    let Admitted::Now(permit) = weigher.admit(&Ask::default()) else {
        panic!("there is room");
    };
    let mut weighing = weigher.begin_admitted(None, 0, permit).unwrap();
    let held = {
        let _entered = weighing.enter();
        hold(100 * MIB)
    };
    assert_eq!(weighing.ended_by(), None);
    // Its handler has waited, and nobody knows yet whom to wake.
    assert_eq!(cancel_largest(&ship.admission, 1, 1, 1).requests, 1);
    let mut task = task::spawn(());
    task.enter(|cx, _| weighing.waits(cx.waker()));
    assert!(task.is_woken());
    assert_eq!(weighing.ended_by(), Some(RejectReason::MemoryPressure));
    drop(held);
    drop(weighing);
    ship.assert_empty();
}

// === Wakers ===

/// A waker whose drop calls back.
struct CallsBack {
    ship: Ship,
    called: Arc<AtomicUsize>,
}

impl Wake for CallsBack {
    fn wake(self: Arc<Self>) {}
}

impl Drop for CallsBack {
    fn drop(&mut self) {
        self.ship.look();
        let _ = self.ship.stats();
        self.called.fetch_add(1, Relaxed);
    }
}

async fn drops_wakers() {
    let ship = Ship::enforcing();
    let called = Arc::new(AtomicUsize::new(0));
    let waker = || {
        Waker::from(Arc::new(CallsBack {
            ship: ship.clone(),
            called: called.clone(),
        }))
    };
    let calls = || called.swap(0, Relaxed);
    let weigher = Weigher::new("route".into(), HeavyLog::none(), None);
    let weigher = weigher.admitted_by(&ship.admission);
    ship.uses(LINE);
    let waits = || {
        let Admitted::Later(mut waiting) = weigher.admit(&Ask::default()) else {
            panic!("there is no room");
        };
        let polled = waiting.poll_admitted(&mut Context::from_waker(&waker()));
        assert!(polled.is_pending());
        waiting
    };
    // Then its timer has it no longer.
    let looks_every = Duration::from_millis(25);
    // It is replaced while its request waits, and goes with it.
    let mut waiting = waits();
    advance(looks_every).await;
    assert_eq!(calls(), 0);
    let mut noop = Context::from_waker(Waker::noop());
    assert!(waiting.poll_admitted(&mut noop).is_pending());
    assert_eq!(calls(), 1);
    drop(waiting);
    let waiting = waits();
    advance(looks_every).await;
    drop(waiting);
    assert_eq!(calls(), 1);
    // It is woken.
    let mut waiting = waits();
    advance(looks_every).await;
    ship.uses(0);
    assert_eq!(calls(), 1);
    let Poll::Ready(Ok(permit)) = waiting.poll_admitted(&mut noop) else {
        panic!("it is in");
    };
    // The same for one that runs.
    let mut weighing = weigher.begin_admitted(None, 0, permit).unwrap();
    weighing.waits(&waker());
    weighing.waits(Waker::noop());
    assert_eq!(calls(), 1);
    weighing.waits(&waker());
    drop(weighing);
    assert_eq!(calls(), 1);
    ship.assert_empty();
}

#[test]
fn who_calls_back_when_its_waker_is_dropped_stops_nobody() {
    let (told, tells) = mpsc::channel();
    // It would wait for itself otherwise, and for ever.
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        runtime.unwrap().block_on(drops_wakers());
        told.send(()).unwrap();
    });
    tells.recv_timeout(Duration::from_secs(60)).unwrap();
}

// === The layer ===

#[derive(Debug)]
struct Own;

impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("own")
    }
}

impl std::error::Error for Own {}

#[tokio::test(start_paused = true)]
async fn it_fits_around_services_of_any_error() {
    async fn fails<E: Into<BoxError> + Send + 'static>(
        layer: &AdmissionLayer,
        fail: impl Fn() -> Result<(), E> + Clone,
    ) -> Option<String> {
        let service = ServiceBuilder::new()
            .layer(layer.clone())
            .service_fn(move |()| ready(fail()));
        let answer: Result<(), BoxError> = service.oneshot(()).await;
        answer.err().map(|error| error.to_string())
    }
    let ship = Ship::enforcing();
    let layer = AdmissionLayer::new("route", &ship.admission);
    assert_eq!(fails(&layer, || Ok::<_, Infallible>(())).await, None);
    let boxed = || Err::<(), BoxError>("boxed".into());
    assert_eq!(fails(&layer, boxed).await.as_deref(), Some("boxed"));
    assert_eq!(fails(&layer, || Err(Own)).await.as_deref(), Some("own"));
    assert_eq!(layer.stats().requests(), 3);
    ship.assert_empty();
}

#[test]
fn all_of_it_is_send_and_sync_and_says_what_it_is() {
    fn is_send_and_sync<T: Send + Sync + fmt::Debug>(_: &T) {}
    fn is_send<T: Send>(_: &T) {}
    let ship = Ship::enforcing();
    let route = Route::new("route", &ship);
    is_send_and_sync(&ship.admission);
    is_send_and_sync(&AdmissionLayer::new("route", &ship.admission));
    is_send_and_sync(&AdmissionLayer::new("route", &ship.admission).layer(Handler::default()));
    let call = route.service.clone().call(Job::new());
    is_send(&call);
    assert!(format!("{call:?}").contains("AdmissionFuture"));
    assert!(format!("{:?}", ship.admission).contains("running: 1"));
}

/// One at a time is ready, until it is called or dropped.
struct One {
    free: Arc<Mutex<bool>>,
    is_ready: bool,
}

impl Clone for One {
    fn clone(&self) -> Self {
        Self {
            free: self.free.clone(),
            is_ready: false,
        }
    }
}

impl Drop for One {
    fn drop(&mut self) {
        if self.is_ready {
            *self.free.lock().unwrap() = true;
        }
    }
}

impl Service<()> for One {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready |= mem::take(&mut *self.free.lock().unwrap());
        match self.is_ready {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    fn call(&mut self, (): ()) -> Self::Future {
        assert!(mem::take(&mut self.is_ready), "called without being ready");
        *self.free.lock().unwrap() = true;
        ready(Ok(()))
    }
}

impl One {
    fn new() -> Self {
        Self {
            free: Arc::new(Mutex::new(true)),
            is_ready: false,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_made_ready_is_kept_for_the_request_that_waits() {
    let ship = Ship::enforcing();
    let mut service = AdmissionLayer::new("route", &ship.admission).layer(One::new());
    let mut cx = Context::from_waker(Waker::noop());
    ship.uses(LINE);
    assert_ready_ok!(service.poll_ready(&mut cx));
    let mut clone = service.clone();
    let mut waits = task::spawn(service.call(()));
    assert_pending!(waits.poll());
    // Whoever is ready next, it is not by that.
    assert_pending!(service.poll_ready(&mut cx));
    assert_pending!(clone.poll_ready(&mut cx));
    ship.uses(0);
    assert!(waits.is_woken());
    assert_ready_ok!(waits.poll());
    assert_ready_ok!(clone.poll_ready(&mut cx));
    ship.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_gives_back_what_was_made_ready() {
    let ship = Ship::new(&enforce().max_waiting(1));
    ship.uses(LINE);
    let mut service = AdmissionLayer::new("route", &ship.admission).layer(One::new());
    let mut cx = Context::from_waker(Waker::noop());
    assert_ready_ok!(service.poll_ready(&mut cx));
    let waits = service.call(());
    let mut clone = service.clone();
    assert_pending!(clone.poll_ready(&mut cx));
    drop(waits);
    assert_ready_ok!(service.poll_ready(&mut cx));
    let held = service.call(());
    drop(held);
    assert_ready_ok!(clone.poll_ready(&mut cx));
    ship.admission.set_shed(1.0);
    let low = enforce().low_priority(["route"]);
    ship.admission.reconfigure(&low).unwrap();
    let _refused = clone.call(());
    assert_eq!(ship.stats().shed_total, 1);
    assert_ready_ok!(service.poll_ready(&mut cx));
}

// === Configuration ===

#[test]
fn each_value_out_of_its_range_is_named() {
    let nonsense = Duration::from_secs(61);
    for (name, config) in [
        ("guess", enforce().guess(0)),
        ("quantile", enforce().quantile(0.4)),
        ("quantile", enforce().quantile(1.0)),
        ("quantile", enforce().quantile(f64::NAN)),
        ("max_waiting", enforce().max_waiting(100_001)),
        ("queue_timeout", enforce().queue_timeout(nonsense)),
        ("max_share", enforce().max_share(0.0)),
        ("max_share", enforce().max_share(1.1)),
        ("max_share", enforce().max_share(f64::NAN)),
        ("max_keys", enforce().max_keys(0)),
        ("max_keys", enforce().max_keys(1_000_001)),
    ] {
        let error: ConfigError = config.validate().unwrap_err();
        assert!(error.to_string().contains(name), "{name}: {error}");
        assert!(Admission::with_config(&config).is_err());
        // Nothing was changed.
        let admission = Admission::new();
        assert!(admission.reconfigure(&config).is_err());
        assert_eq!(admission.config(), AdmissionConfig::new());
    }
    let both = enforce().max_share(0.0).max_keys(0).validate().unwrap_err();
    let both = both.to_string();
    assert!(
        both.contains("max_share") && both.contains("max_keys"),
        "{both}"
    );
}

// === Threads ===

/// What a request holds, told to the meter no later than it is there, and no sooner than it is gone.
struct Weight {
    _bytes: Vec<u8>,
    _told: Told,
}

struct Told(Arc<AtomicU64>);

impl Weight {
    fn new(bytes: u64, used: &Arc<AtomicU64>, most: &AtomicU64) -> Self {
        most.fetch_max(used.fetch_add(bytes, Relaxed) + bytes, Relaxed);
        Self {
            _told: Told(used.clone()),
            _bytes: hold(bytes),
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.0.fetch_sub(100 * MIB, Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_line_is_never_passed_whatever_threads_requests_are_on() {
    static MOST: AtomicU64 = AtomicU64::new(0);
    let time = Duration::from_secs(60);
    let ship = Ship::new(&enforce().queue_timeout(time));
    let layer = AdmissionLayer::new("route", &ship.admission);
    let used = ship.used.clone();
    let service = layer.layer(service_fn(move |waits: usize| {
        let used = used.clone();
        async move {
            let _weight = Weight::new(100 * MIB, &used, &MOST);
            for _ in 0..waits {
                wait().await;
            }
            Ok::<_, Infallible>(())
        }
    }));
    for _ in 0..40 {
        service.clone().oneshot(1).await.unwrap();
    }
    let tasks: Vec<_> = (0..400)
        .map(|nth| {
            let call = service.clone().oneshot(nth % 7 + 1);
            // Some of them leave, wherever they are by then.
            let mut polls = if nth % 3 == 0 { nth % 11 } else { usize::MAX };
            tokio::spawn(async move {
                let mut call = std::pin::pin!(call);
                poll_fn(|cx| {
                    let Some(left) = polls.checked_sub(1) else {
                        return Poll::Ready(Ok(()));
                    };
                    polls = left;
                    if left < 100 {
                        cx.waker().wake_by_ref();
                    }
                    call.as_mut().poll(cx)
                })
                .await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let most = MOST.load(Relaxed);
    assert!((200 * MIB..=LINE).contains(&most), "{most}");
    assert_eq!(ship.used.load(Relaxed), 0);
    ship.look();
    ship.assert_empty();
    let (expected, stats) = (&ship.admission.routes()[0].expected, ship.stats());
    assert_eq!(*expected, Some(100 * MIB));
    assert_eq!(stats.timed_out + stats.queue_full, 0, "{stats:?}");
}

// === Any order ===

#[derive(Clone, Debug)]
enum Step {
    /// One comes to a route, of a priority, and with a key.
    Comes(usize, Option<Priority>, Option<u8>, Ends),
    Polls(usize),
    /// A gate is opened, and it is polled.
    GoesOn(usize),
    Goes(usize),
    Cancels(usize),
    Line(Option<u64>),
    Uses(u64),
    Sheds(f64),
    Mode(AdmissionMode),
    Passes(u64),
}

fn steps() -> impl Strategy<Value = Step> {
    let priority = prop::option::of(prop::sample::select(vec![
        Priority::High,
        Priority::Normal,
        Priority::Low,
    ]));
    let ends = prop::sample::select(vec![
        Ends::Well,
        Ends::Fails,
        Ends::Panics,
        Ends::PanicsAtOnce,
    ]);
    let modes = prop::sample::select(vec![
        AdmissionMode::Off,
        AdmissionMode::Observe,
        AdmissionMode::Enforce,
        AdmissionMode::Enforce,
        AdmissionMode::Enforce,
    ]);
    let keys = prop::option::of(0..4_u8);
    prop_oneof![
        8 => (0..7_usize, priority, keys, ends).prop_map(|(route, priority, key, ends)| {
            Step::Comes(route, priority, key, ends)
        }),
        6 => any::<prop::sample::Index>().prop_map(|at| Step::Polls(at.index(64))),
        4 => any::<prop::sample::Index>().prop_map(|at| Step::GoesOn(at.index(64))),
        4 => any::<prop::sample::Index>().prop_map(|at| Step::Goes(at.index(64))),
        1 => (0..4_usize).prop_map(Step::Cancels),
        1 => prop::option::weighted(0.8, 0..4 * LINE).prop_map(Step::Line),
        2 => (0..LINE + LINE / 8).prop_map(Step::Uses),
        1 => prop::sample::select(vec![0.0, 0.0, 0.3, 0.9]).prop_map(Step::Sheds),
        1 => modes.prop_map(Step::Mode),
        3 => (0..400_u64).prop_map(Step::Passes),
    ]
}

const SIZES: [u64; 4] = [MIB / 8, 3 * MIB, 100 * MIB, 1_200 * MIB];

async fn run(steps: Vec<Step>) {
    let limits = enforce().max_waiting(6).max_keys(2);
    let ship = Ship::new(&limits);
    let mut routes = Vec::new();
    for (name, bytes) in ["tiny", "little", "large", "vast"].into_iter().zip(SIZES) {
        routes.push(learned(name, &ship, bytes).await);
    }
    // Nothing is known of the others yet.
    routes.extend(["new", "newer", "newest"].map(|name| Route::new(name, &ship)));
    let mut calls: Vec<(Spawn<Call>, Vec<Gate>)> = Vec::new();
    for step in steps {
        match step {
            Step::Comes(route, priority, key, ends) => {
                let mut job = Job::new().ends(ends).rest(SIZES[route % 4] / 2);
                job.ask.priority = priority;
                job.ask.key = key.map(BudgetKey::new);
                let (job, first) = job.gate(0);
                let (job, last) = job.gate(1);
                let called = catch_unwind(AssertUnwindSafe(|| routes[route].call(job)));
                calls.extend(called.ok().map(|call| (call, vec![last, first])));
            }
            Step::Polls(at) => poll(&mut calls, at),
            Step::GoesOn(at) => {
                if let Some((_, gates)) = calls.get_mut(at) {
                    gates.pop();
                }
                poll(&mut calls, at);
            }
            Step::Goes(at) if at < calls.len() => drop(calls.swap_remove(at)),
            Step::Goes(_) => {}
            Step::Cancels(at_most) => {
                let _ = cancel_largest(&ship.admission, LINE, 1, at_most);
            }
            Step::Line(line) => ship.admission.set_line(line),
            Step::Uses(bytes) => ship.used.store(bytes, Relaxed),
            Step::Sheds(share) => ship.admission.set_shed(share),
            Step::Mode(mode) => ship
                .admission
                .reconfigure(&limits.clone().mode(mode))
                .unwrap(),
            Step::Passes(ms) => advance(Duration::from_millis(ms)).await,
        }
        let stats = ship.stats();
        assert!(stats.waiting <= 6, "{stats:?}");
        assert!(stats.running + stats.waiting <= calls.len(), "{stats:?}");
    }
    // Whoever still waits gets in or is refused, and all that are in come to their end.
    ship.admission.reconfigure(&limits).unwrap();
    ship.admission.set_line(Some(LINE));
    ship.admission.set_shed(0.0);
    ship.used.store(0, Relaxed);
    for (_, gates) in &mut calls {
        gates.clear();
    }
    for _ in 0..200 {
        for at in (0..calls.len()).rev() {
            poll(&mut calls, at);
        }
        advance(Duration::from_millis(10)).await;
    }
    assert!(
        calls.is_empty(),
        "{} are left: {:?}",
        calls.len(),
        ship.stats()
    );
    ship.look();
    ship.assert_empty();
    // No key has anything.
    for key in 0..4_u8 {
        let mut job = Job::new();
        job.ask.key = Some(BudgetKey::new(key));
        drop(routes[3].enter(job));
    }
    ship.assert_empty();
}

/// Remembers what it is told.
struct Frugal(Mutex<Vec<bool>>);

impl Reclaim for Frugal {
    fn release(&self) {}

    fn set_frugal(&self, frugal: bool) {
        self.0.lock().unwrap().push(frugal);
    }
}

/// On the real clock, since the monitor has a thread of its own.
#[tokio::test]
async fn the_allocator_is_frugal_while_requests_wait_for_memory() {
    static ALLOCATOR: Frugal = Frugal(Mutex::new(Vec::new()));
    let told = || ALLOCATOR.0.lock().unwrap().clone();
    let until = async |what: &dyn Fn() -> bool| {
        let comes = async {
            while !what() {
                tokio::task::yield_now().await;
            }
        };
        let minute = Duration::from_secs(60);
        tokio::time::timeout(minute, comes).await.unwrap();
    };
    // The process holds more than that, whatever it does.
    let monitor = MonitorConfig::new().line_bytes(MIB).log_every(None);
    let admission = enforce().queue_timeout(Duration::from_secs(60));
    let config = MemoryConfig::new().monitor(monitor).admission(admission);
    let ship = Ship::enforcing();
    let builder = LoadLine::builder(&config).admission(ship.admission.clone());
    let (line, guard) = builder.allocator(&ALLOCATOR).start().unwrap();
    until(&|| line.admission().stats().line == Some(MIB)).await;
    let route = Route::new("route", &ship);
    // Of high priority, since others are refused at once.
    let waits = route.queue(Job::new().of(Priority::High));
    ship.admission.tick();
    assert!(ship.stats().is_short);
    until(&|| told() == [true]).await;
    drop(waits);
    until(&|| told() == [true, false]).await;
    drop(guard);
    until(&|| ship.stats().line.is_none()).await;
    assert_eq!(told(), [true, false]);
}

/// Polls one, which goes when it has ended.
fn poll(calls: &mut Vec<(Spawn<Call>, Vec<Gate>)>, at: usize) {
    let Some((call, _)) = calls.get_mut(at) else {
        return;
    };
    let polled = catch_unwind(AssertUnwindSafe(|| call.poll().is_ready()));
    if polled.unwrap_or(true) {
        drop(calls.swap_remove(at));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_left_after_any_schedule(steps in prop::collection::vec(steps(), 1..120)) {
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(steps));
    }
}
