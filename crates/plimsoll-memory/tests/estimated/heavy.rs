//! The log of requests that held most.

use super::weigher;
use plimsoll_core::{Bounded, Holding as _, Next, Registry, RemovalReason, Totals};
use plimsoll_memory::{Bodies, Ended, HeavyLog, MemoryConfig, Weigher};
use proptest::prelude::*;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    runtime,
    time::{Instant, advance, sleep},
};

const SECOND: Duration = Duration::from_secs(1);

/// Ends a request that held so much.
fn push(weigher: &Weigher, bytes: u64) {
    weigher.estimate(
        &Bodies {
            bytes,
            largest: bytes,
            began: weigher.now(),
        },
        Ended::default(),
    );
}

/// A log of all that held anything, and who fills it.
fn log(max_entries: usize, keep: Duration) -> (HeavyLog, Weigher) {
    let heavy = HeavyLog::new(0, max_entries, keep);
    let weigher = weigher(&heavy, None);
    (heavy, weigher)
}

fn newest(heavy: &HeavyLog) -> Vec<u64> {
    let newest = heavy.newest(usize::MAX);
    newest.iter().map(|it| it.sample.peak).collect()
}

fn removed(heavy: &HeavyLog, reason: RemovalReason) -> u64 {
    heavy.bounded().totals().removed.get(reason)
}

#[tokio::test(start_paused = true)]
async fn newest_are_first_and_the_oldest_goes_when_it_is_full() {
    let (heavy, weigher) = log(3, SECOND);
    assert!(newest(&heavy).is_empty());
    (1..=5).for_each(|n| push(&weigher, n));
    assert_eq!(newest(&heavy), [5, 4, 3]);
    let two: Vec<_> = heavy.newest(2).iter().map(|it| it.sample.peak).collect();
    assert_eq!(two, [5, 4]);
    assert!(heavy.newest(0).is_empty());
    assert_eq!(heavy.total(), 5);
    assert_eq!(removed(&heavy, RemovalReason::Capacity), 2);
}

#[tokio::test(start_paused = true)]
async fn who_held_as_much_as_is_not_heavy_is_not_logged() {
    let (heavy, weigher) = log(3, SECOND);
    heavy.reconfigure(10, 3, SECOND);
    assert_eq!(heavy.above(), 10);
    push(&weigher, 10);
    push(&weigher, 11);
    assert_eq!((newest(&heavy), heavy.total()), (vec![11], 1));
    MemoryConfig::new().heavy(None).apply_to(&heavy);
    push(&weigher, u64::MAX);
    assert_eq!(heavy.total(), 1);
}

#[tokio::test(start_paused = true)]
async fn entry_is_kept_exactly_until_its_time() {
    let (heavy, weigher) = log(3, 60 * SECOND);
    let (bounded, start) = (heavy.bounded(), Instant::now());
    assert_eq!(bounded.sweep(start, 10).next, Next::Idle);
    push(&weigher, 1);
    advance(SECOND).await;
    push(&weigher, 2);
    advance(59 * SECOND - Duration::from_nanos(1)).await;
    assert_eq!(newest(&heavy), [2, 1]);
    let step = bounded.sweep(Instant::now(), 10);
    assert_eq!(step.removed.total(), 0);
    assert_eq!(step.next, Next::At(start + 60 * SECOND));
    advance(Duration::from_nanos(1)).await;
    assert_eq!(newest(&heavy), [2]);
    let next = bounded.sweep(Instant::now(), 10).next;
    assert_eq!(next, Next::At(start + 61 * SECOND));
    let late = bounded.sweep(start + 61 * SECOND, 10);
    assert_eq!((late.removed.total(), late.next), (1, Next::Idle));
    assert_eq!(removed(&heavy, RemovalReason::Expired), 2);
}

#[tokio::test(start_paused = true)]
async fn sweep_goes_in_slices_and_says_when_there_is_more() {
    let (heavy, weigher) = log(100, SECOND);
    (1..=25).for_each(|n| push(&weigher, n));
    advance(SECOND / 2).await;
    push(&weigher, 26);
    advance(SECOND / 2).await;
    let (bounded, now) = (heavy.bounded(), Instant::now());
    for expected in [(10, Next::More), (10, Next::More)] {
        let step = bounded.sweep(now, 10);
        assert_eq!(
            (step.removed.get(RemovalReason::Expired), step.next),
            expected
        );
    }
    let last = bounded.sweep(now, 10);
    assert_eq!(
        (last.removed.total(), last.next),
        (5, Next::At(now + SECOND / 2))
    );
    assert_eq!(newest(&heavy), [26]);
}

#[tokio::test(start_paused = true)]
async fn log_of_no_entries_counts_and_keeps_none() {
    let (heavy, weigher) = log(0, SECOND);
    push(&weigher, 1);
    assert!(newest(&heavy).is_empty());
    assert_eq!(heavy.total(), 1);
    assert_eq!(removed(&heavy, RemovalReason::Capacity), 1);
    let usage = heavy.bounded().usage();
    assert_eq!((usage.entries, usage.bytes), (0, 0));
    assert_eq!(usage.max_entries, Some(0));
    heavy.reconfigure(0, 1, SECOND);
    push(&weigher, 2);
    assert_eq!(newest(&heavy), [2]);
}

#[tokio::test(start_paused = true)]
async fn limits_that_change_hold_for_what_is_in_the_log_already() {
    let (heavy, weigher) = log(10, 60 * SECOND);
    (1..=8).for_each(|n| push(&weigher, n));
    heavy.clone().reconfigure(0, 3, 60 * SECOND);
    assert_eq!(newest(&heavy), [8, 7, 6]);
    assert_eq!(removed(&heavy, RemovalReason::Capacity), 5);
    advance(5 * SECOND).await;
    heavy.reconfigure(0, 3, 6 * SECOND);
    assert_eq!(newest(&heavy), [8, 7, 6]);
    heavy.reconfigure(0, 3, 5 * SECOND);
    assert!(newest(&heavy).is_empty());
    // One that is kept for ever is never due.
    heavy.reconfigure(0, 3, Duration::MAX);
    push(&weigher, 9);
    assert_eq!(heavy.bounded().sweep(Instant::now(), 10).next, Next::Idle);
    assert_eq!(newest(&heavy), [9]);
}

#[tokio::test(start_paused = true)]
async fn log_that_is_closed_takes_none() {
    let (heavy, weigher) = log(10, SECOND);
    (1..=3).for_each(|n| push(&weigher, n));
    let bounded = heavy.bounded();
    let report = bounded.clone().close(Instant::now()).await;
    assert_eq!((report.dropped, report.is_clean()), (3, true));
    push(&weigher, 4);
    assert!(newest(&heavy).is_empty());
    assert_eq!(removed(&heavy, RemovalReason::Closed), 4);
    assert_eq!(bounded.usage().bytes, 0);
    let again = bounded.close(Instant::now()).await;
    assert_eq!(again.dropped, 0);
}

#[tokio::test(start_paused = true)]
async fn sweeper_frees_what_is_too_old_without_any_request() {
    let registry = Registry::new();
    let sweeper = tokio::spawn(registry.sweeper());
    let (heavy, weigher) = log(1_000, 60 * SECOND);
    let heavy = registry.register(heavy).unwrap();
    (1..=1_000).for_each(|n| push(&weigher, n));
    assert_eq!(registry.snapshot()[0].usage.unwrap().entries, 1_000);
    sleep(600 * SECOND).await;
    let usage = heavy.bounded().usage();
    assert_eq!((usage.entries, usage.bytes), (0, 0));
    sweeper.abort();
}

#[derive(Clone, Debug)]
enum Op {
    Push,
    Wait(u64),
    Sweep(usize),
    Newest(usize),
    Shrink(f64),
    Reconfigure(usize, u64),
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => Just(Op::Push),
        4 => (0..15_u64).prop_map(Op::Wait),
        3 => (0..8_usize).prop_map(Op::Sweep),
        2 => (0..8_usize).prop_map(Op::Newest),
        1 => (-0.5..1.5_f64).prop_map(Op::Shrink),
        2 => (0..12_usize, 0..30_u64).prop_map(|(most, keep)| Op::Reconfigure(most, keep)),
        1 => Just(Op::Close),
    ]
}

/// What the log ought to have.
struct Model {
    entries: VecDeque<(u64, Instant)>,
    most: usize,
    keep: Duration,
    closed: bool,
    totals: Totals,
}

impl Model {
    fn drop(&mut self, count: usize, reason: RemovalReason) -> u64 {
        self.entries.drain(..count);
        self.totals.removed.add(reason, count as u64);
        count as u64
    }

    fn drop_all_but(&mut self, most: usize) {
        let count = self.entries.len().saturating_sub(most);
        self.drop(count, RemovalReason::Capacity);
    }

    fn push(&mut self, n: u64) {
        self.totals.inserted += 1;
        self.entries.push_back((n, Instant::now()));
        if self.closed {
            self.drop(1, RemovalReason::Closed);
        }
        self.drop_all_but(self.most);
    }

    fn expire(&mut self, most: usize) -> u64 {
        let keep = self.keep;
        let is_old = |(_, at): &&(u64, Instant)| *at + keep <= Instant::now();
        let old = self.entries.iter().filter(is_old).count();
        self.drop(old.min(most), RemovalReason::Expired)
    }

    fn next(&self) -> Next {
        match self.entries.front() {
            None => Next::Idle,
            Some((_, at)) if *at + self.keep <= Instant::now() => Next::More,
            Some((_, at)) => Next::At(*at + self.keep),
        }
    }
}

async fn step(op: Op, n: u64, model: &mut Model, heavy: &HeavyLog, weigher: &Weigher) {
    let bounded: Arc<dyn Bounded> = heavy.bounded();
    match op {
        Op::Push => {
            push(weigher, n);
            model.push(n);
        }
        Op::Wait(seconds) => advance(Duration::from_secs(seconds)).await,
        Op::Sweep(budget) => {
            let step = bounded.sweep(Instant::now(), budget);
            assert_eq!(step.removed.total(), model.expire(budget));
            assert_eq!(step.next, model.next());
        }
        Op::Newest(most) => {
            model.expire(usize::MAX);
            let newest = heavy.newest(most);
            let newest: Vec<_> = newest.iter().map(|it| it.sample.peak).collect();
            let newest_first = model.entries.iter().rev().take(most);
            assert_eq!(newest, newest_first.map(|(n, _)| *n).collect::<Vec<_>>());
        }
        Op::Shrink(share) => {
            let step = bounded.shrink(share, 1);
            let count = model.entries.len() as f64 * share.clamp(0.0, 1.0);
            let dropped = model.drop(count.ceil() as usize, RemovalReason::Pressure);
            assert_eq!(step.removed.total(), dropped);
        }
        Op::Reconfigure(most, seconds) => {
            model.most = most;
            model.keep = Duration::from_secs(seconds);
            heavy.reconfigure(0, most, model.keep);
            model.drop_all_but(most);
        }
        Op::Close => {
            let report = bounded.close(Instant::now()).await;
            model.closed = true;
            let all = model.entries.len();
            assert_eq!(report.dropped, model.drop(all, RemovalReason::Closed));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn totals_balance_whatever_is_done_in_whatever_order(
        ops in proptest::collection::vec(op(), 1..80),
    ) {
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        runtime.unwrap().block_on(async {
            let (most, keep) = (5, 20 * SECOND);
            let (heavy, weigher) = log(most, keep);
            let mut model = Model {
                entries: VecDeque::new(),
                most,
                keep,
                closed: false,
                totals: Totals::default(),
            };
            for (n, op) in (1..).zip(ops) {
                step(op, n, &mut model, &heavy, &weigher).await;
                let (usage, totals) = (heavy.bounded().usage(), heavy.bounded().totals());
                assert_eq!(usage.entries, model.entries.len() as u64);
                assert_eq!(totals, model.totals);
                assert!(totals.balance(usage.entries));
                assert_eq!(usage.max_entries, Some(model.most as u64));
                // It has room for all that it has, and never for more than it may.
                let entry = size_of::<plimsoll_memory::HeavyRequest>() as u64;
                let room = usage.bytes / entry;
                assert!(usage.entries <= room && room <= model.most as u64, "{usage:?}");
            }
        });
    }
}
