//! Heap of a circuit breaker, by call it remembers and by key, and allocations by call.

use plimsoll_bench::{
    Error, Table,
    breaker::{
        ByHand, Guard, HOUR, Wrapped, block_on, config, contend, failsafe_consecutive,
        failsafe_default, failsafe_time, filled, flaky, good, guarded, never, plimsoll, recloser,
        runtime, tower_circuitbreaker, tower_circuitbreaker_open, tower_resilience,
        tower_resilience_open, tower_resilience_time,
    },
    keyed::{self, InMutex, Keyed, KeyedTower, Keys, PerKey},
};
use plimsoll_breaker::{
    CircuitBreaker, CircuitBreakerConfig, HistoryConfig, KeyedBreakers, Window,
};
use plimsoll_core::{Holding, test_util::CountingAllocator};
use std::{sync::Barrier, thread, time::Duration};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::system();

/// Calls before a breaker is said to be full.
const CALLS: u64 = 20_000;
/// Calls whose allocations are counted.
const COUNTED: u64 = 100_000;
/// Keys of keyed breakers.
const KEYS: usize = 10_000;
/// The most bytes of a breaker that is new.
const MOST_BYTES: i64 = 1_024;
const TIME: Duration = Duration::from_secs(600);

fn main() -> Result<(), Error> {
    // What is made once, by us, by the peers and by the runtime, is made here.
    for _ in 0..2 {
        one_breaker();
        contend(&used(config()));
    }

    let (breakers, smallest) = one_breaker();
    println!("### One breaker: bytes on the heap, allocations\n\n{breakers}");
    println!(
        "### Calls remembered, once the cap was passed twice\n\n{}",
        records()
    );
    let (at_cap, allocations) = at_cap();
    println!("### Allocations at the cap, {COUNTED} calls of each thread\n\n{at_cap}");
    println!("### Bytes by key, {KEYS} keys\n\n{}", keys());
    let (agreement, agrees) = agreement();
    println!("### Measured and told\n\n{agreement}");

    println!("| bar | measured | met |\n|---|--:|---|");
    let met = |met| if met { "yes" } else { "no" };
    let small = met(smallest <= MOST_BYTES);
    println!(
        "| at most {MOST_BYTES} bytes, window of 100 calls, history empty | {smallest} | {small} |"
    );
    let none = met(allocations == 0);
    println!("| no allocation at the cap | {allocations} | {none} |");
    let (agreeing, all) = agrees;
    let exact = met(agreeing == all);
    println!("| `bytes` and `usage` agree to the byte | {agreeing} of {all} | {exact} |");
    Ok(())
}

/// Bytes that live more than at the start.
struct Heap(u64);

impl Heap {
    fn start() -> Self {
        Self(ALLOCATOR.live_bytes())
    }

    fn grown(&self) -> i64 {
        ALLOCATOR.live_bytes() as i64 - self.0 as i64
    }
}

/// Makes calls, and says how often memory was asked for.
fn allocations<G: Guard>(guard: &mut G, from: u64, calls: u64) -> u64 {
    let runtime = runtime();
    let before = ALLOCATOR.allocations();
    runtime.block_on(guard.drive(from, calls));
    ALLOCATOR.allocations() - before
}

/// A breaker of ours whose window and history are full.
fn used(config: CircuitBreakerConfig) -> CircuitBreaker {
    let breaker = plimsoll(config);
    drop(filled(guarded(breaker.clone(), good()), CALLS));
    breaker
}

fn no_history() -> CircuitBreakerConfig {
    config().history(HistoryConfig::disabled())
}

// === One breaker ===

struct Breakers(Table);

impl Breakers {
    /// Adds a row and returns what a new one takes. `make` makes one that is closed.
    fn closed<G: Guard>(&mut self, name: &str, make: impl FnOnce() -> G) -> i64 {
        let heap = Heap::start();
        let mut guard = make();
        let built = heap.grown();
        block_on(guard.drive(0, CALLS));
        let filled = heap.grown();
        let calls = 1_000;
        let allocations = allocations(&mut guard, CALLS, calls);
        self.row(name, built, Some(filled), allocations, calls);
        built
    }

    /// Adds a row. `make` makes one that is open.
    fn open<G: Guard>(&mut self, name: &str, make: impl FnOnce() -> G) {
        let heap = Heap::start();
        let mut guard = make();
        let built = heap.grown();
        let allocations = allocations(&mut guard, 0, COUNTED);
        self.row(name, built, None, allocations, COUNTED);
    }

    fn row(&mut self, name: &str, built: i64, filled: Option<i64>, allocations: u64, calls: u64) {
        self.0.row([
            name.to_owned(),
            built.to_string(),
            filled.map_or_else(String::new, |bytes| bytes.to_string()),
            format!("{:.2}", allocations as f64 / calls as f64),
        ]);
    }
}

/// The table, and what a new breaker of ours takes.
fn one_breaker() -> (Table, i64) {
    let after = format!("after {CALLS} calls");
    let mut breakers = Breakers(Table::new(&["breaker", "new", &after, "allocations/call"]));

    let ours = |config| move || guarded(plimsoll(config), good());
    let smallest = breakers.closed("plimsoll calls=100", ours(config()));
    breakers.closed("plimsoll calls=100, no history", ours(no_history()));
    for calls in [10_000, 65_536] {
        let config = no_history().window(Window::Calls(calls));
        let name = format!("plimsoll calls={calls}, no history");
        breakers.closed(&name, ours(config));
    }
    let config_of_time = no_history().window(Window::Time(TIME));
    breakers.closed("plimsoll time=600s, no history", ours(config_of_time));
    let opened = |config| {
        let breaker = plimsoll(config);
        breaker.open_for(HOUR).expect("a closed breaker can open");
        breaker
    };
    breakers.open("plimsoll calls=100, open", || {
        guarded(opened(config()), never())
    });
    breakers.open("plimsoll calls=100, no history, open", || {
        guarded(opened(no_history()), never())
    });
    breakers.open("plimsoll calls=100, open, by hand", || {
        ByHand::new(opened(config()), never())
    });

    for len in [100, 10_000, 65_536] {
        let name = format!("recloser len={len}");
        breakers.closed(&name, || Wrapped::new(recloser(len), good()));
    }
    breakers.open("recloser len=100, open", || Wrapped::opened(recloser(100)));

    let name = "failsafe default";
    breakers.closed(name, || Wrapped::new(failsafe_default(), good()));
    let name = "failsafe consecutive=5";
    breakers.closed(name, || Wrapped::new(failsafe_consecutive(), good()));
    let name = "failsafe time=600s";
    breakers.closed(name, || Wrapped::new(failsafe_time(TIME), good()));
    let name = "failsafe consecutive=5, open";
    breakers.open(name, || Wrapped::opened(failsafe_consecutive()));

    for calls in [100, 10_000] {
        let name = format!("tower-resilience calls={calls}");
        breakers.closed(&name, || tower_resilience(calls, good()));
    }
    let name = "tower-resilience time=600s";
    breakers.closed(name, || tower_resilience_time(TIME));
    let name = "tower-resilience calls=100, open";
    breakers.open(name, tower_resilience_open);

    for calls in [100, 10_000] {
        let name = format!("tower-circuitbreaker calls={calls}");
        breakers.closed(&name, || tower_circuitbreaker(calls, good()));
    }
    let name = "tower-circuitbreaker calls=100, open";
    breakers.open(name, tower_circuitbreaker_open);
    (breakers.0, smallest)
}

// === Records ===

fn records() -> Table {
    let mut table = Table::new(&["calls kept", "number", "bytes more than without", "each"]);
    let mut report = |name: &str, calls: u64, bytes: i64| {
        table.row([
            name.to_owned(),
            calls.to_string(),
            bytes.to_string(),
            format!("{:.2}", bytes as f64 / calls as f64),
        ]);
    };
    let heap_of = |config: CircuitBreakerConfig, calls| {
        let heap = Heap::start();
        let guard = filled(guarded(plimsoll(config), good()), calls);
        let grown = heap.grown();
        drop(guard);
        grown
    };
    for calls in [100, 1_000, 5_000, 10_000, 100_000, 1_000_000] {
        let with = config().history(HistoryConfig::local().calls(calls));
        let calls = calls as u64;
        let without = heap_of(no_history(), 2 * calls);
        let bytes = heap_of(with, 2 * calls) - without;
        report("plimsoll, history", calls, bytes);
    }
    // It keeps calls for the window itself, and has no cap.
    for calls in [100, 1_000, 10_000] {
        let heap = Heap::start();
        let guard = tower_resilience_time(TIME);
        let new = heap.grown();
        let guard = filled(guard, calls);
        report(
            "tower-resilience, window of time",
            calls,
            heap.grown() - new,
        );
        drop(guard);
    }
    table
}

// === Allocations ===

/// The table, and all allocations in it.
fn at_cap() -> (Table, u64) {
    let mut table = Table::new(&["case", "1 thread", "2 threads"]);
    let mut total = 0;
    let mut report = |name: &str, one: u64, two: u64| {
        total += one + two;
        table.row([name.to_owned(), one.to_string(), two.to_string()]);
    };

    let (one, two) = by_threads(config(), |breaker| guarded(breaker, good()));
    report("plimsoll calls=100", one, two);
    let time = config().window(Window::Time(TIME));
    let (one, two) = by_threads(time, |breaker| guarded(breaker, good()));
    report("plimsoll time=600s", one, two);
    let (one, two) = by_threads(no_history(), |breaker| guarded(breaker, good()));
    report("plimsoll calls=100, no history", one, two);
    let (one, two) = by_threads(config(), |breaker| guarded(breaker, flaky()));
    report("plimsoll calls=100, 2% failures", one, two);
    let (one, two) = by_threads(config(), |breaker| ByHand::new(breaker, flaky()));
    report("plimsoll calls=100, by hand, 2% failures", one, two);
    let keyed = KeyedTower::known(keyed::plimsoll(KEYS), Keys::scattered(KEYS));
    let one = of_one(keyed.clone());
    report("plimsoll, a call by key", one, of_two(&keyed));
    (table, total)
}

/// Allocations of one thread, and of two that share a breaker, which has a stripe for each.
fn by_threads<G: Guard + Clone>(
    config: CircuitBreakerConfig,
    guard: impl Fn(CircuitBreaker) -> G,
) -> (u64, u64) {
    let one = of_one(guard(used(config.clone())));
    let breaker = used(config);
    contend(&breaker);
    (one, of_two(&guard(breaker)))
}

fn of_one(guard: impl Guard) -> u64 {
    allocations(&mut filled(guard, COUNTED), 0, COUNTED)
}

fn of_two<G: Guard + Clone>(guard: &G) -> u64 {
    let all = Barrier::new(3);
    let run = |mut guard: G| {
        let runtime = runtime();
        all.wait();
        // Fills what each stripe may have beyond the cap.
        runtime.block_on(guard.drive(0, COUNTED));
        all.wait();
        all.wait();
        runtime.block_on(guard.drive(0, COUNTED));
        all.wait();
        // Keeps what this thread has until it was counted.
        all.wait();
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            let guard = guard.clone();
            scope.spawn(|| run(guard));
        }
        all.wait();
        all.wait();
        let before = ALLOCATOR.allocations();
        all.wait();
        all.wait();
        let allocations = ALLOCATOR.allocations() - before;
        all.wait();
        allocations
    })
}

// === Keys ===

fn keys() -> Table {
    let mut table = Table::new(&["map", "new", "after a call", "allocations/look-up"]);
    keyed_row(&mut table, "plimsoll", keyed::plimsoll(KEYS));
    let peer = InMutex::new(|| Wrapped::new(recloser(100), good()));
    keyed_row(&mut table, "recloser len=100 in a mutex", peer);
    let peer = InMutex::new(|| tower_resilience(100, good()));
    keyed_row(&mut table, "tower-resilience calls=100 in a mutex", peer);
    table
}

fn keyed_row<M: PerKey>(table: &mut Table, name: &str, map: M) {
    let keyed = Keyed::new(map, Keys::in_turn(KEYS));
    let mut look_up = keyed.clone().look_up();
    let heap = Heap::start();
    block_on(look_up.drive(0, KEYS as u64));
    let new = heap.grown();
    drop(filled(keyed, KEYS as u64));
    let called = heap.grown();
    let allocations = allocations(&mut look_up, 0, COUNTED);
    table.row([
        name.to_owned(),
        format!("{:.1}", new as f64 / KEYS as f64),
        format!("{:.1}", called as f64 / KEYS as f64),
        format!("{:.2}", allocations as f64 / COUNTED as f64),
    ]);
}

// === What breakers say of themselves ===

struct Agreement {
    table: Table,
    rows: u32,
    agreeing: u32,
}

impl Agreement {
    fn row(&mut self, name: &str, measured: i64, told: u64) {
        let difference = told as i64 - measured;
        self.rows += 1;
        self.agreeing += u32::from(difference == 0);
        self.table.row([
            name.to_owned(),
            measured.to_string(),
            told.to_string(),
            format!("{difference:+}"),
        ]);
    }

    fn breaker(
        &mut self,
        name: &str,
        config: CircuitBreakerConfig,
        then: impl FnOnce(&CircuitBreaker),
    ) {
        let heap = Heap::start();
        let breaker = plimsoll(config);
        then(&breaker);
        self.row(name, heap.grown(), breaker.bytes());
    }

    fn keyed(&mut self, name: &str, then: impl FnOnce(&KeyedBreakers)) {
        let heap = Heap::start();
        let breakers = keyed::plimsoll(KEYS);
        then(&breakers);
        let measured = heap.grown();
        self.row(name, measured, breakers.bounded().usage().bytes);
    }
}

/// The table, and in how many rows of how many there is no difference.
fn agreement() -> (Table, (u32, u32)) {
    let mut agreement = Agreement {
        table: Table::new(&["case", "measured", "told", "difference"]),
        rows: 0,
        agreeing: 0,
    };
    let fill = |breaker: &CircuitBreaker| {
        drop(filled(guarded(breaker.clone(), good()), CALLS));
    };
    let open = |breaker: &CircuitBreaker| {
        breaker.open_for(HOUR).expect("a closed breaker can open");
    };

    agreement.breaker("new", config(), |_| ());
    for calls in [1, 10_000, 65_536] {
        let config = config().window(Window::Calls(calls));
        agreement.breaker(&format!("new, calls={calls}"), config, |_| ());
    }
    let time = config().window(Window::Time(TIME));
    agreement.breaker("new, time=600s", time.clone(), |_| ());
    agreement.breaker("full", config(), fill);
    agreement.breaker("full, time=600s", time, fill);
    agreement.breaker("full, no history", no_history(), fill);
    let config_of_overdue = config().overdue_calls(HOUR, 10);
    agreement.breaker("full, overdue calls", config_of_overdue, fill);
    agreement.breaker("open", config(), open);
    agreement.breaker("open, no history", no_history(), open);
    agreement.breaker("full and open", config(), |breaker| {
        fill(breaker);
        open(breaker);
    });
    agreement.breaker("2 000 times open", config(), |breaker| {
        for _ in 0..2_000 {
            open(breaker);
            breaker.close();
        }
    });
    agreement.breaker("full, after contention", config(), |breaker| {
        fill(breaker);
        contend(breaker);
        contended(breaker);
    });
    agreement.breaker("no history, after contention", no_history(), contend);
    agreement.breaker("full and trimmed", config(), |breaker| {
        fill(breaker);
        breaker.trim(0, 0);
    });
    agreement.breaker("full, then a history of 100", config(), |breaker| {
        fill(breaker);
        let config = config().history(HistoryConfig::local().calls(100));
        breaker.reconfigure(config).expect("it is in range");
        fill(breaker);
    });

    agreement.keyed("keyed, no key", |_| ());
    let keys = Keys::in_turn(2 * KEYS);
    let new_keys = |breakers: &KeyedBreakers, number: usize| {
        for key in keys.iter().take(number) {
            let _ = breakers.get(key);
        }
    };
    agreement.keyed("keyed, at the cap", |breakers| new_keys(breakers, KEYS));
    agreement.keyed("keyed, at the cap, a call each", |breakers| {
        let keyed = Keyed::new(breakers.clone(), keys);
        drop(filled(keyed, KEYS as u64));
    });
    agreement.keyed("keyed, the cap passed twice", |breakers| {
        new_keys(breakers, 2 * KEYS);
    });
    agreement.keyed("keyed, all removed", |breakers| {
        new_keys(breakers, KEYS);
        for key in keys.iter() {
            breakers.remove(key);
        }
    });
    (agreement.table, (agreement.agreeing, agreement.rows))
}

/// Makes calls from two threads, whose stripes there are already.
fn contended(breaker: &CircuitBreaker) {
    let threads = [0, 1].map(|_| {
        let guard = guarded(breaker.clone(), good());
        thread::spawn(move || drop(filled(guard, COUNTED)))
    });
    for thread in threads {
        thread.join().expect("a call does not panic");
    }
}
