//! A call through a circuit breaker, against the breakers one would use instead.

use clap::Parser;
use plimsoll_bench::{
    Error, Options, Suite,
    breaker::{
        ByHand, Guard, HOUR, Tower, TowerResilience, Wrapped, block_on, config, contend,
        failsafe_consecutive, failsafe_default, failsafe_time, filled, flaky, good, guarded, never,
        plimsoll, recloser, runtime, tower_circuitbreaker, tower_circuitbreaker_open,
        tower_resilience, tower_resilience_open, tower_resilience_time,
    },
    keyed::{self, Capped, InMutex, InRwLock, Keyed, KeyedTower, Keys},
};
use plimsoll_breaker::{CircuitBreaker, CircuitBreakerConfig, HistoryConfig, Window};
use std::{
    array,
    cell::RefCell,
    rc::Rc,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::runtime::{Builder, Runtime};

#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    options: Options,
}

/// Calls that fill the default history, and every window but the longest.
const FILL: u64 = 20_000;
/// Tasks on one runtime.
const TASKS: u64 = 64;
/// Keys where there can be no more.
const MAX_KEYS: usize = 10_000;

// The cases that others are compared with.
const OURS: &str = "closed plimsoll calls=100";
const NO_HISTORY: &str = "closed plimsoll calls=100, history=disabled";
const RECLOSER: &str = "closed recloser len=100";
const TOWER_RESILIENCE: &str = "closed tower-resilience calls=100";
const FLAKY: &str = "2% failures tower-resilience calls=100";
const OPEN: &str = "open recloser len=100";
const TASKS_BARE: &str = "64 tasks bare";
const TASKS_RECLOSER: &str = "64 tasks recloser len=100";

fn main() -> Result<(), Error> {
    let mut suite = Suite::new("Circuit breakers", Args::parse().options);
    cases(&mut suite, "bare", &[], || Tower(good()));
    closed(&mut suite);
    windows(&mut suite);
    histories(&mut suite);
    held(&mut suite);
    failures(&mut suite);
    open(&mut suite);
    tasks(&mut suite);
    for number in [1, 1_000, 10_000] {
        keyed_calls(&mut suite, number);
        keyed_look_ups(&mut suite, number);
    }
    new_keys(&mut suite);
    suite.run()
}

// === Kinds of cases ===

/// One thread.
fn single<G: Guard>(
    suite: &mut Suite,
    name: &str,
    versus: &[&str],
    make: impl Fn() -> G + 'static,
) {
    let (runtime, mut guard, mut from) = (runtime(), None, 0);
    let case = suite.single(name, move |calls| {
        let guard = guard.get_or_insert_with(&make);
        runtime.block_on(guard.drive(from, calls));
        from += calls;
    });
    for baseline in versus.iter().filter(|baseline| **baseline != name) {
        case.versus(&format!("{baseline} 1T"));
    }
}

/// One thread, and two on clones of one guard, which is not that of the one thread.
fn cases<G: Guard + Clone + Sync>(
    suite: &mut Suite,
    name: &str,
    versus: &[&str],
    make: impl Fn() -> G + Clone + Sync + 'static,
) {
    single(suite, name, versus, make.clone());
    let shared = OnceLock::new();
    let from: [_; 2] = array::from_fn(|thread| AtomicU64::new((thread as u64) << 32));
    let case = suite.double(name, move |thread, calls| {
        let mut guard = shared.get_or_init(&make).clone();
        let from = from[thread].fetch_add(calls, Relaxed);
        block_on(guard.drive(from, calls));
    });
    case.versus(&format!("{name} 1T"));
    for baseline in versus.iter().filter(|baseline| **baseline != name) {
        case.versus(&format!("{baseline} 2T"));
    }
}

/// Many tasks on two workers. The time is that of the runtime, by calls of all tasks.
fn spawned<G: Guard + Clone>(
    suite: &mut Suite,
    name: &str,
    versus: &[&str],
    make: impl Fn() -> G + 'static,
) {
    let mut made = None;
    let case = suite.own_threads(name, move |calls| {
        let (workers, guard) = made.get_or_insert_with(|| (workers(), make()));
        workers.block_on(async {
            let tasks = (0..TASKS).map(|_| {
                let mut mine = guard.clone();
                tokio::spawn(async move { mine.drive(0, calls.div_ceil(TASKS)).await })
            });
            let tasks: Vec<_> = tasks.collect();
            for task in tasks {
                task.await.expect("a call does not panic");
            }
        });
    });
    for baseline in versus.iter().filter(|baseline| **baseline != name) {
        case.versus(baseline);
    }
}

fn workers() -> Runtime {
    let workers = Builder::new_multi_thread().worker_threads(2).build();
    workers.expect("the system has threads to give")
}

/// One thread, on a window of time that holds `calls` calls and, within a sample, a tenth more or
/// 64. It is made anew after each sample.
fn holding<G: Guard>(
    suite: &mut Suite,
    name: &str,
    versus: &[&str],
    calls: u64,
    make: impl Fn() -> G + Copy + 'static,
) {
    let made = move || filled(make(), calls);
    let (runtime, guard) = (runtime(), Rc::new(RefCell::new(None)));
    let renewed = guard.clone();
    let case = suite.single(name, move |calls| {
        let mut guard = guard.borrow_mut();
        let guard = guard.get_or_insert_with(made);
        runtime.block_on(guard.drive(0, calls));
    });
    case.most_ops((calls / 10).max(64))
        .after(move || *renewed.borrow_mut() = Some(made()));
    for baseline in versus.iter().filter(|baseline| **baseline != name) {
        case.versus(&format!("{baseline} 1T"));
    }
}

// === One breaker ===

/// A breaker of ours whose window and history are full.
fn used(config: CircuitBreakerConfig) -> CircuitBreaker {
    used_for(config, FILL)
}

fn used_for(config: CircuitBreakerConfig, calls: u64) -> CircuitBreaker {
    let breaker = plimsoll(config);
    drop(filled(guarded(breaker.clone(), good()), calls));
    breaker
}

fn closed(suite: &mut Suite) {
    cases(suite, OURS, &[TOWER_RESILIENCE, RECLOSER], || {
        guarded(used(config()), good())
    });
    let name = "closed plimsoll calls=100, by hand";
    cases(suite, name, &[OURS, RECLOSER], || {
        ByHand::new(used(config()), good())
    });
    // Callgrind runs one thread at a time, so that no two ever meet.
    let (runtime, mut guard) = (runtime(), None);
    let name = "closed plimsoll calls=100, after contention 1T";
    let case = suite.own_threads(name, move |calls| {
        let guard = guard.get_or_insert_with(|| {
            let breaker = used(config());
            contend(&breaker);
            guarded(breaker, good())
        });
        runtime.block_on(guard.drive(0, calls));
    });
    case.versus(&format!("{OURS} 1T"));

    cases(suite, RECLOSER, &[TOWER_RESILIENCE], || {
        Wrapped::new(recloser(100), good())
    });
    let name = "closed failsafe default";
    cases(suite, name, &[TOWER_RESILIENCE], || {
        Wrapped::new(failsafe_default(), good())
    });
    let name = "closed failsafe consecutive=5";
    cases(suite, name, &[TOWER_RESILIENCE], || {
        Wrapped::new(failsafe_consecutive(), good())
    });
    cases(suite, TOWER_RESILIENCE, &[], || {
        tower_resilience(100, good())
    });
    let name = "closed tower-circuitbreaker calls=100";
    single(suite, name, &[TOWER_RESILIENCE], || {
        tower_circuitbreaker(100, good())
    });
}

/// What another window than that of [`closed`] costs.
fn windows(suite: &mut Suite) {
    for calls in [10_000, 65_536] {
        let name = format!("closed plimsoll calls={calls}");
        cases(suite, &name, &[OURS], move || {
            let config = config().window(Window::Calls(calls));
            guarded(used_for(config, FILL + u64::from(calls)), good())
        });
        let name = format!("closed recloser len={calls}");
        cases(suite, &name, &[RECLOSER], move || {
            let calls = calls as usize;
            filled(Wrapped::new(recloser(calls), good()), calls as u64)
        });
        let name = format!("closed tower-resilience calls={calls}");
        cases(suite, &name, &[TOWER_RESILIENCE], move || {
            let calls = calls as usize;
            filled(tower_resilience(calls, good()), calls as u64)
        });
    }
    let name = "closed tower-circuitbreaker calls=10000";
    let versus = ["closed tower-circuitbreaker calls=100"];
    single(suite, name, &versus, || {
        filled(tower_circuitbreaker(10_000, good()), 10_000)
    });
    let window = Duration::from_secs(10);
    cases(suite, "closed plimsoll time=10s", &[OURS], move || {
        guarded(used(config().window(Window::Time(window))), good())
    });
    let versus = ["closed plimsoll time=10s"];
    cases(suite, "closed failsafe time=10s", &versus, move || {
        Wrapped::new(failsafe_time(window), good())
    });
}

/// What another history than that of [`closed`] costs.
fn histories(suite: &mut Suite) {
    cases(suite, NO_HISTORY, &[TOWER_RESILIENCE, RECLOSER], || {
        guarded(used(config().history(HistoryConfig::disabled())), good())
    });
    for calls in [100, 10_000, 1_000_000] {
        let name = format!("closed plimsoll calls=100, history={calls}");
        cases(suite, &name, &[NO_HISTORY], move || {
            let config = config().history(HistoryConfig::local().calls(calls));
            guarded(used_for(config, FILL + calls as u64), good())
        });
    }
}

/// What a window of time costs when it holds so many calls.
fn held(suite: &mut Suite) {
    const TIME: Duration = Duration::from_secs(600);
    for calls in [100, 1_000, 10_000] {
        let peer = format!("time window holding {calls} tower-resilience");
        let name = format!("time window holding {calls} plimsoll");
        holding(suite, &name, &[&peer], calls, || {
            guarded(plimsoll(config().window(Window::Time(TIME))), good())
        });
        let fewest = "time window holding 100 tower-resilience";
        holding(suite, &peer, &[fewest], calls, || {
            tower_resilience_time(TIME)
        });
    }
}

fn failures(suite: &mut Suite) {
    let name = "2% failures plimsoll calls=100";
    cases(suite, name, &[FLAKY, OURS], || {
        guarded(used(config()), flaky())
    });
    let name = "2% failures recloser len=100";
    cases(suite, name, &[FLAKY], || {
        Wrapped::new(recloser(100), flaky())
    });
    let name = "2% failures failsafe consecutive=5";
    cases(suite, name, &[FLAKY], || {
        Wrapped::new(failsafe_consecutive(), flaky())
    });
    cases(suite, FLAKY, &[], || tower_resilience(100, flaky()));
    let name = "2% failures tower-circuitbreaker calls=100";
    single(suite, name, &[FLAKY], || tower_circuitbreaker(100, flaky()));
}

/// Each must refuse: the service inside panics.
fn open(suite: &mut Suite) {
    let opened = || {
        let breaker = used(config());
        breaker.open_for(HOUR).expect("a closed breaker can open");
        breaker
    };
    cases(suite, "open plimsoll calls=100", &[OPEN], move || {
        guarded(opened(), never())
    });
    let name = "open plimsoll calls=100, by hand";
    cases(suite, name, &[OPEN], move || ByHand::new(opened(), never()));
    cases(suite, OPEN, &[], || Wrapped::opened(recloser(100)));
    let name = "open failsafe consecutive=5";
    cases(suite, name, &[OPEN], || {
        Wrapped::opened(failsafe_consecutive())
    });
    let name = "open tower-resilience calls=100";
    cases(suite, name, &[OPEN], tower_resilience_open);
    let name = "open tower-circuitbreaker calls=100";
    single(suite, name, &[OPEN], tower_circuitbreaker_open);
}

fn tasks(suite: &mut Suite) {
    spawned(suite, TASKS_BARE, &[], || Tower(good()));
    let name = "64 tasks plimsoll calls=100";
    let peer = "64 tasks tower-resilience calls=100";
    spawned(suite, name, &[peer, TASKS_RECLOSER, TASKS_BARE], || {
        guarded(used(config()), good())
    });
    spawned(suite, TASKS_RECLOSER, &[TASKS_BARE], || {
        Wrapped::new(recloser(100), good())
    });
    let name = "64 tasks failsafe consecutive=5";
    spawned(suite, name, &[TASKS_BARE], || {
        Wrapped::new(failsafe_consecutive(), good())
    });
    spawned(suite, peer, &[TASKS_BARE], || tower_resilience(100, good()));
}

// === A breaker for each key ===

fn peer() -> Wrapped<recloser::AsyncRecloser> {
    Wrapped::new(recloser(100), good())
}

fn tower_peer() -> Tower<TowerResilience> {
    tower_resilience(100, good())
}

fn keyed_calls(suite: &mut Suite, number: usize) {
    let mutex = format!("keyed call recloser in a mutex, keys={number}");
    let rw_lock = format!("keyed call recloser in a read-write lock, keys={number}");
    let versus = [mutex.as_str(), &rw_lock];
    let name = format!("keyed call plimsoll, keys={number}");
    cases(suite, &name, &versus, move || {
        KeyedTower::known(keyed::plimsoll(number), Keys::scattered(number))
    });
    let name = format!("keyed call plimsoll by hand, keys={number}");
    cases(suite, &name, &versus, move || {
        Keyed::known(keyed::plimsoll(number), Keys::scattered(number))
    });
    cases(suite, &mutex, &[], move || {
        Keyed::known(InMutex::new(peer), Keys::scattered(number))
    });
    cases(suite, &rw_lock, &[], move || {
        Keyed::known(InRwLock::new(peer), Keys::scattered(number))
    });
    let name = format!("keyed call tower-resilience in a mutex, keys={number}");
    cases(suite, &name, &[&mutex], move || {
        Keyed::known(InMutex::new(tower_peer), Keys::scattered(number))
    });
    let name = format!("keyed call tower-resilience in a read-write lock, keys={number}");
    cases(suite, &name, &[&rw_lock], move || {
        Keyed::known(InRwLock::new(tower_peer), Keys::scattered(number))
    });
}

fn keyed_look_ups(suite: &mut Suite, number: usize) {
    let mutex = format!("keyed look-up recloser in a mutex, keys={number}");
    let rw_lock = format!("keyed look-up recloser in a read-write lock, keys={number}");
    let name = format!("keyed look-up plimsoll, keys={number}");
    cases(suite, &name, &[&mutex, &rw_lock], move || {
        Keyed::known(keyed::plimsoll(number), Keys::scattered(number)).look_up()
    });
    cases(suite, &mutex, &[], move || {
        Keyed::known(InMutex::new(peer), Keys::scattered(number)).look_up()
    });
    cases(suite, &rw_lock, &[], move || {
        Keyed::known(InRwLock::new(peer), Keys::scattered(number)).look_up()
    });
}

/// Every key is new, and one must go for it. When one comes again, it has long been forgotten.
fn new_keys(suite: &mut Suite) {
    fn full<G: Guard>(mut guard: G) -> G {
        // Those that come last, so that the first are new.
        block_on(guard.drive(MAX_KEYS as u64, MAX_KEYS as u64));
        guard
    }
    let keys = || Keys::in_turn(2 * MAX_KEYS);

    let ours = "keyed new key plimsoll";
    let peers = "keyed new key recloser in a mutex with a queue";
    cases(suite, ours, &[peers], move || {
        full(Keyed::new(keyed::plimsoll(MAX_KEYS), keys()).look_up())
    });
    cases(suite, peers, &[], move || {
        full(Keyed::new(Capped::new(MAX_KEYS, peer), keys()).look_up())
    });
    let name = "keyed new key plimsoll, no place";
    cases(suite, name, &[ours], move || {
        let breakers = keyed::plimsoll(MAX_KEYS);
        for other in 0..MAX_KEYS {
            let other = breakers.get(&format!("other-{other}"));
            other.open_for(HOUR).expect("a closed breaker can open");
        }
        Keyed::new(breakers, keys()).look_up()
    });
    let peers = "keyed new key and call recloser in a mutex with a queue";
    cases(
        suite,
        "keyed new key and call plimsoll",
        &[peers],
        move || full(Keyed::new(keyed::plimsoll(MAX_KEYS), keys())),
    );
    cases(suite, peers, &[], move || {
        full(Keyed::new(Capped::new(MAX_KEYS, peer), keys()))
    });
}
