//! What they are made of: a follower without threads, somebody who holds, a whole load line on a script.

mod findings;
mod holders;
mod sample;
mod whole;

use super::{holders::Tell, *};
use crate::{
    AdmissionConfig, AdmissionMode, Ask,
    admission::{Admitted, Route},
    monitor::script::{Script, WAIT, script, until},
};
use plimsoll_core::{Bounded, BoxFuture, CloseReport, Removed, Step, Totals, Usage};
use std::{
    sync::{
        Condvar,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

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
        known: Arc::new(Mutex::new(Findings::new(&LeakConfig::new()))),
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

fn shedding(findings: &Findings, now: Instant) -> Vec<&'static str> {
    findings.shedding(now).collect()
}

fn started(builder: LoadLineBuilder) -> (LoadLine, MonitorGuard, Script, Gauge) {
    let (script, source) = script();
    let gauge = Gauge::default();
    let (line, guard) = builder.start_with(source, gauge.clone()).unwrap();
    (line, guard, script, gauge)
}
