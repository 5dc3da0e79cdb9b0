//! Keyed breakers take what they say they take, and no more after a million calls than after some.

use libtest_mimic::{Arguments, Failed, Trial};
use plimsoll_breaker::{CircuitBreakerConfig, HistoryConfig, KeyedBreakers, KeyedConfig, Outcome};
use plimsoll_core::{Clock, Holding, Next, test_util::CountingAllocator};
use std::{fmt::Write, process::ExitCode, time::Duration};
use tokio::{
    runtime,
    time::{Instant, advance},
};

#[global_allocator]
static ALLOC: CountingAllocator = CountingAllocator::system();

const KEYS: usize = 10_000;
const CALLS: usize = 1_000_000;
/// By how many in a thousand the bytes told may be off. They are exact but for the tables of the
/// map: the standard library does not tell how large one is that keys were removed from.
const SLACK: u64 = 50;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The allocator counts for the whole process, so nothing may run beside a test.
    arguments.test_threads = Some(1);
    let trials = vec![
        Trial::test("every_key_has_a_place", || run(|| flat(KEYS))),
        Trial::test("one_key_in_ten_has_a_place", || run(|| flat(KEYS / 10))),
        Trial::test("keys_come_and_go", || run(come_and_go)),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) -> Result<(), Failed> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(async {
        // What is made once for the process.
        let _ = Clock::new().ticks();
        advance(Duration::from_secs(1)).await;
        drop(KeyedBreakers::new("tenants", KeyedConfig::new()).map(|warm| warm.get("warm")));
        test().await;
    });
    Ok(())
}

fn keyed(max_keys: usize) -> KeyedBreakers {
    let breaker = CircuitBreakerConfig::new().history(HistoryConfig::disabled());
    let config = KeyedConfig::new().breaker(breaker).max_keys(max_keys);
    KeyedBreakers::new("tenants", config).expect("valid settings")
}

/// Makes so many calls, with the keys in an order without a pattern.
fn call(breakers: &KeyedBreakers, calls: usize, key: &mut String) {
    let mut random = 1_usize;
    for _ in 0..calls {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let n = (random >> 33) % KEYS;
        key.clear();
        write!(key, "tenant {n:05}").expect("a string takes it");
        if let Ok(permit) = breakers.get(key).try_acquire() {
            permit.record(if n.is_multiple_of(7) {
                Outcome::Ignore
            } else {
                Outcome::Success
            });
        }
    }
}

/// That the bytes told are those that are live.
fn assert_told(breakers: &KeyedBreakers, start: u64) {
    let live = ALLOC.live_bytes() - start;
    let told = breakers.bounded().usage().bytes;
    let off = live.abs_diff(told) * 1_000 / live.max(1);
    assert!(off <= SLACK, "{told} bytes told, {live} live");
}

async fn flat(max_keys: usize) {
    let mut key = String::with_capacity(64);
    let start = ALLOC.live_bytes();
    let breakers = keyed(max_keys);
    call(&breakers, CALLS / 5, &mut key);
    assert_eq!(breakers.len(), max_keys);
    assert_told(&breakers, start);
    let warm = ALLOC.live_bytes();
    for _ in 0..4 {
        call(&breakers, CALLS / 5, &mut key);
        let live = ALLOC.live_bytes();
        // The queues may be tidied sooner or later.
        assert!(
            live <= warm + warm / 50,
            "{live} bytes are live, {warm} were before"
        );
        assert_told(&breakers, start);
    }
    assert_eq!(breakers.len(), max_keys);
    drop(breakers);
    assert_eq!(ALLOC.live_bytes(), start, "everything is free");
}

async fn come_and_go() {
    let mut key = String::with_capacity(64);
    let start = ALLOC.live_bytes();
    let breakers = keyed(KEYS);
    let empty = ALLOC.live_bytes();
    for _ in 0..3 {
        call(&breakers, CALLS / 10, &mut key);
        assert_told(&breakers, start);
        for _ in 0..3 {
            advance(Duration::from_secs(601)).await;
            while breakers.bounded().sweep(Instant::now(), 1_000).next == Next::More {}
        }
        assert!(breakers.is_empty());
        let live = ALLOC.live_bytes();
        assert!(
            live <= empty + 4_096,
            "{live} bytes are live, {empty} were at first"
        );
    }
    drop(breakers);
    assert_eq!(ALLOC.live_bytes(), start, "everything is free");
}
