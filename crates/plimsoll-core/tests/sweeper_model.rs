//! The sweeper against a naive one: the same sweeps at the same instants, the same entries left.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_core::{
    Bounded, BoxFuture, CloseReport, Holding, Name, Registry, RegistryConfig, RemovalReason,
    Removed, Step, Totals, Usage,
    registry::RegisterError,
    test_util::{FakeHolding, assert_balanced},
};
use proptest::{collection::vec, prelude::*};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    runtime,
    task::yield_now,
    time::{Instant, sleep},
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const MAX_HOLDINGS: usize = 3;
const BUDGET: usize = 3;
const IDLE: Duration = Duration::from_millis(40);
const FLOOR: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug)]
enum Op {
    Register(usize),
    /// So many entries that live for so many quarters of a millisecond.
    Insert(usize, u64, u64),
    DropHandle(usize),
    Advance(u64),
    Sweep(usize),
    SweepAll,
    Panic(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let slot = 0..NAMES.len();
    prop_oneof![
        3 => slot.clone().prop_map(Op::Register),
        8 => (slot.clone(), 0..240_u64, 1..8_u64).prop_map(|(n, live, count)| Op::Insert(n, live, count)),
        1 => slot.clone().prop_map(Op::DropHandle),
        6 => (0..90_u64).prop_map(Op::Advance),
        2 => slot.clone().prop_map(Op::Sweep),
        1 => Just(Op::SweepAll),
        1 => slot.prop_map(Op::Panic),
    ]
}

// === the holding ===

/// Entries that each expire at a time of their own.
struct Timed {
    name: &'static str,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many expire at each instant.
    entries: BTreeMap<Instant, u64>,
    totals: Totals,
    slices: Vec<Instant>,
    panic_next: bool,
}

impl Timed {
    fn new(name: &'static str) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { name, state })
    }

    fn insert(&self, expires: Instant, count: u64) {
        let mut state = self.state.lock().unwrap();
        *state.entries.entry(expires).or_default() += count;
        state.totals.inserted += count;
    }

    fn slices(&self) -> Vec<Instant> {
        self.state.lock().unwrap().slices.clone()
    }
}

impl Bounded for Timed {
    fn name(&self) -> &str {
        self.name
    }

    fn usage(&self) -> Usage {
        Usage::new(self.state.lock().unwrap().entries.values().sum(), 0)
    }

    fn totals(&self) -> Totals {
        self.state.lock().unwrap().totals
    }

    fn sweep(&self, now: Instant, budget: usize) -> Step {
        let mut state = self.state.lock().unwrap();
        state.slices.push(now);
        if std::mem::take(&mut state.panic_next) {
            drop(state);
            panic!("told to");
        }
        let mut left = budget as u64;
        while let Some(mut first) = state.entries.first_entry() {
            if *first.key() > now || left == 0 {
                break;
            }
            let taken = left.min(*first.get());
            *first.get_mut() -= taken;
            if *first.get() == 0 {
                first.remove();
            }
            left -= taken;
        }
        let removed = Removed::expired(budget as u64 - left);
        state.totals.removed += removed;
        match state.entries.keys().next() {
            None => Step {
                removed,
                ..Step::idle()
            },
            Some(first) if *first <= now => Step::more(removed),
            Some(first) => Step::at(removed, *first),
        }
    }

    fn close(self: Arc<Self>, _: Instant) -> BoxFuture<'static, CloseReport> {
        Box::pin(async move {
            let mut state = self.state.lock().unwrap();
            let held = std::mem::take(&mut state.entries).values().sum();
            state.totals.removed.add(RemovalReason::Closed, held);
            CloseReport::dropped(held)
        })
    }
}

// === the model ===

/// What a sweeper that looks at every holding all the time would do.
struct Naive {
    name: &'static str,
    /// When each entry expires.
    entries: Vec<Instant>,
    due: Instant,
    slices: Vec<Instant>,
    sweeps: u64,
    panics: u64,
    panic_next: bool,
}

impl Naive {
    /// A holding that was registered at `now`, and swept.
    fn registered(name: &'static str, now: Instant) -> Self {
        let mut naive = Self {
            name,
            entries: Vec::new(),
            due: now,
            slices: Vec::new(),
            sweeps: 0,
            panics: 0,
            panic_next: false,
        };
        naive.sweep(now);
        naive
    }

    fn sweep(&mut self, now: Instant) {
        self.sweeps += 1;
        if std::mem::take(&mut self.panic_next) {
            self.panics += 1;
            self.slices.push(now);
            self.due = now + IDLE;
            return;
        }
        let held = self.entries.len();
        self.entries.retain(|expires| *expires > now);
        let expired = held - self.entries.len();
        let slices = expired.div_ceil(BUDGET).max(1);
        self.slices.extend(std::iter::repeat_n(now, slices));
        let soonest = self.entries.iter().min();
        self.due = soonest.map_or(now + IDLE, |soonest| (*soonest).max(now + FLOOR));
    }
}

// === both side by side ===

struct Run {
    /// Timers fire on whole milliseconds from here.
    start: Instant,
    registry: Registry,
    handles: [Option<Arc<Timed>>; NAMES.len()],
    /// Those that live, in order of registration.
    naive: Vec<Naive>,
}

impl Run {
    fn new() -> Self {
        let config = RegistryConfig::default()
            .idle_interval(IDLE)
            .sweep_budget(BUDGET)
            .max_holdings(MAX_HOLDINGS);
        let registry = Registry::with_config(config);
        tokio::spawn(registry.sweeper());
        Self {
            start: Instant::now(),
            registry,
            handles: Default::default(),
            naive: Vec::new(),
        }
    }

    async fn step(&mut self, op: Op) {
        let now = Instant::now();
        match op {
            Op::Register(slot) => self.register(slot, now),
            Op::Insert(slot, quarters, count) => {
                let Some(holding) = &self.handles[slot] else {
                    return;
                };
                let expires = now + Duration::from_micros(250) * quarters as u32;
                holding.insert(expires, count);
                let entries = std::iter::repeat_n(expires, count as usize);
                self.naive(slot).entries.extend(entries);
            }
            Op::DropHandle(slot) => {
                self.handles[slot] = None;
                self.naive.retain(|naive| naive.name != NAMES[slot]);
            }
            Op::Advance(millis) => {
                sleep(Duration::from_millis(millis)).await;
                self.advance_naive(millis);
            }
            Op::Sweep(slot) => {
                let report = self.registry.sweep(NAMES[slot]).await;
                assert_eq!(report.is_ok(), self.handles[slot].is_some());
                if let Ok(report) = report {
                    let naive = self.naive(slot);
                    let (slices, panics) = (naive.slices.len(), naive.panics);
                    naive.sweep(now);
                    assert_eq!(report.slices as usize, naive.slices.len() - slices);
                    assert_eq!(report.panicked, naive.panics > panics);
                }
            }
            Op::SweepAll => {
                let reports = self.registry.sweep_all().await;
                let swept = reports.iter().map(|(name, _)| name.as_str());
                assert!(swept.eq(self.naive.iter().map(|naive| naive.name)));
                self.naive.iter_mut().for_each(|naive| naive.sweep(now));
            }
            Op::Panic(slot) => {
                if let Some(holding) = &self.handles[slot] {
                    holding.state.lock().unwrap().panic_next = true;
                    self.naive(slot).panic_next = true;
                }
            }
        }
        self.settle().await;
        assert!(Instant::now() == now || matches!(op, Op::Advance(_)));
    }

    fn register(&mut self, slot: usize, now: Instant) {
        let name = NAMES[slot];
        let registered = self.registry.register(Timed::new(name));
        let expected = if self.handles[slot].is_some() {
            Some(RegisterError::Duplicate(Name::from_static(name)))
        } else if self.naive.len() == MAX_HOLDINGS {
            Some(RegisterError::Full(MAX_HOLDINGS))
        } else {
            None
        };
        match registered {
            Ok(holding) => {
                assert_eq!(None, expected);
                self.handles[slot] = Some(holding);
                self.naive.push(Naive::registered(name, now));
            }
            Err(refused) => assert_eq!(Some(refused), expected),
        }
    }

    fn naive(&mut self, slot: usize) -> &mut Naive {
        let mut naive = self.naive.iter_mut();
        naive.find(|naive| naive.name == NAMES[slot]).unwrap()
    }

    fn advance_naive(&mut self, millis: u64) {
        let now = Instant::now();
        for ago in (0..millis).rev() {
            let then = now - Duration::from_millis(ago);
            for naive in self.naive.iter_mut().filter(|naive| naive.due <= then) {
                naive.sweep(then);
            }
        }
    }

    /// Gives the sweeper its turns, until it has nothing left to do at this instant.
    async fn settle(&self) {
        let mut slices = usize::MAX;
        loop {
            let held = self.handles.iter().flatten();
            let so_far = held.map(|holding| holding.slices().len()).sum();
            if so_far == slices {
                return;
            }
            slices = so_far;
            for _ in 0..2 * NAMES.len() {
                yield_now().await;
            }
        }
    }

    fn compare(&self) {
        let snapshot = self.registry.snapshot();
        assert_eq!(snapshot.len(), self.naive.len());
        assert_eq!(self.registry.len(), self.naive.len());
        for (real, naive) in snapshot.iter().zip(&self.naive) {
            assert_eq!(real.name.as_str(), naive.name);
            let slot = NAMES.iter().position(|name| *name == naive.name).unwrap();
            let holding = self.handles[slot].as_ref().unwrap();
            assert_balanced(holding);
            let since = |slices: &[Instant]| -> Vec<_> {
                let slices = slices.iter();
                slices
                    .map(|at| at.saturating_duration_since(self.start))
                    .collect()
            };
            assert_eq!(
                since(&holding.slices()),
                since(&naive.slices),
                "{}",
                naive.name
            );
            assert_eq!(real.usage.unwrap().entries, naive.entries.len() as u64);
            assert!(real.totals.unwrap().balance(naive.entries.len() as u64));
            assert_eq!(
                since(&[real.next_sweep]),
                since(&[naive.due]),
                "{}",
                naive.name
            );
            assert_eq!(real.stats.sweeps, naive.sweeps);
            assert_eq!(real.stats.panics, naive.panics);
            assert_eq!(real.stats.overdue, 0);
        }
        assert!(self.registry.check_overdue().is_empty());
    }

    async fn close(self) {
        let closed = self.registry.close(Instant::now() + FLOOR).await;
        let closed = closed
            .iter()
            .map(|held| (held.name.as_str(), held.report.dropped));
        let left = self.naive.iter();
        let left = left.map(|naive| (naive.name, naive.entries.len() as u64));
        assert_eq!(Vec::from_iter(closed), Vec::from_iter(left));
        self.handles.iter().flatten().for_each(assert_balanced);
    }
}

fn on_a_paused_clock<T>(future: impl Future<Output = T>) -> T {
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn sweeps_come_when_a_naive_sweeper_would_make_them(ops in vec(op(), 1..60)) {
        on_a_paused_clock(async {
            let mut run = Run::new();
            for op in ops {
                run.step(op).await;
                run.compare();
            }
            run.close().await;
        });
    }

    #[test]
    fn totals_balance_whatever_is_done_in_whatever_order(
        ops in vec((0..6_u8, 0..50_u64), 1..80),
        must_flush: bool,
    ) {
        on_a_paused_clock(async {
            let time_to_live = Duration::from_millis(20);
            let holding = if must_flush {
                FakeHolding::must_flush("fake", time_to_live)
            } else {
                FakeHolding::new("fake", time_to_live)
            };
            let bounded = holding.bounded();
            let mut left = 0;
            for (op, n) in ops {
                let before = holding.held();
                let removed = match op {
                    0 | 1 => {
                        holding.insert(n);
                        left += n;
                        Removed::NONE
                    }
                    2 => {
                        sleep(Duration::from_millis(n)).await;
                        Removed::NONE
                    }
                    3 => bounded.sweep(Instant::now(), n as usize).removed,
                    4 => bounded.shrink(n as f64 / 40.0, 2 * n as usize).removed,
                    _ if n > 40 => {
                        let deadline = Instant::now();
                        let report = bounded.clone().close(deadline).await;
                        let closed = report.flushed + report.dropped;
                        assert_eq!((report.flushed > 0, before > 0), (must_flush && before > 0, closed > 0));
                        Removed::of(RemovalReason::Closed, closed)
                    }
                    _ => Removed::NONE,
                };
                left -= removed.total();
                assert_eq!(holding.held(), left, "{op} {n}");
                assert_balanced(&holding);
            }
        });
    }
}
