//! What a sweep takes, and for how long it keeps others waiting: idle holdings by the thousand,
//! and one holding with a million entries that have expired.

use clap::Parser;
use hdrhistogram::Histogram;
use plimsoll_bench::{Error, Table, stats};
use plimsoll_core::{
    Bounded, BoxFuture, CloseReport, Registry, RegistryConfig, RemovalReason, Removed, Step,
    Totals, Usage, registry::SweepReport, test_util::FakeHolding,
};
use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    hint::spin_loop,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};
use tokio::{
    runtime::{self, Runtime},
    task::{LocalSet, yield_now},
    time::Instant,
};

/// No lock may be held for longer, at the default budget.
const BAR: Duration = Duration::from_micros(200);

const DEFAULT_BUDGET: usize = 250;

const BUDGETS: [Budget; 7] = [
    Budget::NoSweep,
    Budget::Entries(100),
    Budget::Entries(DEFAULT_BUDGET),
    Budget::Entries(500),
    Budget::Entries(1_000),
    Budget::Entries(10_000),
    Budget::Entries(usize::MAX),
];

const ENTRY_BYTES: usize = 100;

/// How often the second thread inserts.
const INSERT_EVERY: Duration = Duration::from_micros(10);

/// For how long the ticker and the second thread are watched without a sweep.
const NO_SWEEP: Duration = Duration::from_millis(300);

#[derive(Parser)]
#[command(about)]
struct Args {
    /// How many times each sweep is done.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many idle holdings are swept.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    holdings: u32,
    /// How many entries of one holding have expired.
    #[arg(long, default_value_t = 1_000_000)]
    entries: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Budget {
    /// Shows what the machine does by itself.
    NoSweep,
    Entries(usize),
}

fn main() -> Result<(), Error> {
    let args = Args::parse();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    idle_holdings(&runtime, &args)?;
    fake_holding(&runtime, &args)?;
    sessions(&runtime, &args)
}

impl Budget {
    fn registry(self) -> Registry {
        let config = RegistryConfig::default();
        Registry::with_config(match self {
            Self::NoSweep => config,
            Self::Entries(entries) => config.sweep_budget(entries),
        })
    }

    fn label(self) -> String {
        match self {
            Self::NoSweep => "no sweep".to_owned(),
            Self::Entries(usize::MAX) => "unlimited".to_owned(),
            Self::Entries(DEFAULT_BUDGET) => format!("{DEFAULT_BUDGET} (default)"),
            Self::Entries(entries) => entries.to_string(),
        }
    }
}

// === Idle holdings ===

fn idle_holdings(runtime: &Runtime, args: &Args) -> Result<(), Error> {
    let (mut by_sweeper, mut by_hand) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        let registry = Registry::new();
        let holdings = (0..args.holdings)
            .map(|n| {
                let holding = FakeHolding::new(&format!("idle-{n}"), Duration::from_secs(60));
                registry.register(holding)
            })
            .collect::<Result<Vec<_>, _>>()?;
        runtime.block_on(async {
            let start = Instant::now();
            let sweeper = tokio::spawn(registry.sweeper());
            let last = holdings.last().expect("there is one at least");
            let swept = loop {
                yield_now().await;
                if let Some(swept) = last.sweeps().first() {
                    break *swept;
                }
            };
            by_sweeper.push(stats::micros(swept.saturating_duration_since(start)));
            sweeper.abort();
            let start = Instant::now();
            registry.sweep_all().await;
            by_hand.push(stats::seconds_since(start) * 1e6);
        });
    }
    let mut table = Table::new(&["by", "total µs", "worst µs", "ns/holding"]);
    for (by, totals) in [("the sweeper", by_sweeper), ("`sweep_all`", by_hand)] {
        let median = stats::median(totals.iter().copied());
        table.row([
            by.to_owned(),
            format!("{median:.0}"),
            format!("{:.0}", stats::max(totals)),
            format!("{:.0}", median * 1e3 / f64::from(args.holdings)),
        ]);
    }
    println!("### Sweep of {} idle holdings\n\n{table}", args.holdings);
    Ok(())
}

// === A holding that costs nothing itself ===

fn fake_holding(runtime: &Runtime, args: &Args) -> Result<(), Error> {
    let mut table = Table::new(&["budget", "sweep ms", "slices", "longest slice µs"]);
    for budget in BUDGETS {
        if budget == Budget::NoSweep {
            continue;
        }
        let (mut elapsed, mut slices, mut longest) = (Vec::new(), 0, Vec::new());
        for _ in 0..args.rounds {
            let registry = budget.registry();
            let holding = registry.register(FakeHolding::new("fake", Duration::ZERO))?;
            (0..args.entries).for_each(|_| holding.insert(1));
            let report = runtime.block_on(registry.sweep("fake"))?;
            elapsed.push(report.elapsed.as_secs_f64() * 1e3);
            slices = report.slices;
            longest.push(stats::micros(report.longest_slice));
        }
        table.row([
            budget.label(),
            format!("{:.1}", stats::median(elapsed)),
            slices.to_string(),
            median_and_worst(&longest),
        ]);
    }
    let entries = args.entries;
    println!("### Sweep of {entries} expired entries, FakeHolding\n\n{table}");
    Ok(())
}

fn median_and_worst(values: &[f64]) -> String {
    let median = stats::median(values.iter().copied());
    format!("{median:.0} ({:.0})", stats::max(values.iter().copied()))
}

// === A holding as services have them ===

/// Sessions by identifier, which expire in the order they came.
struct Sessions {
    state: Mutex<State>,
    /// For how long each slice has held the lock, in nanoseconds.
    locks: Mutex<Histogram<u64>>,
}

#[derive(Default)]
struct State {
    by_id: HashMap<u64, Box<[u8]>>,
    by_age: VecDeque<(Instant, u64)>,
    totals: Totals,
}

/// What one round has shown, in microseconds unless it says otherwise.
struct Round {
    report: SweepReport,
    lock_p50: f64,
    lock_p99: f64,
    longest_lock: f64,
    longest_gap: f64,
    insert_p99: f64,
    longest_insert: f64,
}

fn sessions(runtime: &Runtime, args: &Args) -> Result<(), Error> {
    let mut rounds = BUDGETS.map(|_| Vec::new());
    for round in 0..args.rounds {
        for index in 0..BUDGETS.len() {
            let index = if round % 2 == 0 {
                index
            } else {
                BUDGETS.len() - 1 - index
            };
            rounds[index].push(sweep_sessions(runtime, BUDGETS[index], args.entries)?);
        }
    }
    let mut table = Table::new(&[
        "budget",
        "sweep ms",
        "slices",
        "longest slice µs",
        "lock p50 µs",
        "lock p99 µs",
        "longest lock µs",
        "longest gap of a task µs",
        "insert p99 µs",
        "longest insert µs",
    ]);
    for (budget, rounds) in BUDGETS.into_iter().zip(&rounds) {
        let each = |value: fn(&Round) -> f64| rounds.iter().map(value).collect::<Vec<_>>();
        let both = |value| median_and_worst(&each(value));
        table.row([
            budget.label(),
            format!(
                "{:.1}",
                stats::median(each(|round| round.report.elapsed.as_secs_f64() * 1e3))
            ),
            rounds[0].report.slices.to_string(),
            both(|round| stats::micros(round.report.longest_slice)),
            format!("{:.0}", stats::median(each(|round| round.lock_p50))),
            format!("{:.0}", stats::median(each(|round| round.lock_p99))),
            both(|round| round.longest_lock),
            both(|round| round.longest_gap),
            format!("{:.1}", stats::median(each(|round| round.insert_p99))),
            both(|round| round.longest_insert),
        ]);
        if budget == Budget::Entries(DEFAULT_BUDGET) {
            let longest = stats::median(each(|round| round.longest_lock));
            let verdict = if longest <= stats::micros(BAR) {
                "met"
            } else {
                "missed"
            };
            println!(
                "Default budget, longest lock {longest:.0} µs: the bar of {BAR:?} is {verdict}.\n"
            );
        }
    }
    println!(
        "### Sweep of {} expired entries, sessions of {ENTRY_BYTES} B: median (worst) of {} rounds\n\n{table}",
        args.entries, args.rounds
    );
    Ok(())
}

fn sweep_sessions(runtime: &Runtime, budget: Budget, entries: u64) -> Result<Round, Error> {
    let registry = budget.registry();
    let sessions = registry.register(Arc::new(Sessions::full(entries)))?;
    let stop = Arc::new(AtomicBool::new(false));
    let inserting = thread::spawn({
        let (sessions, stop) = (sessions.clone(), stop.clone());
        move || insert_until(&stop, &sessions, entries)
    });
    let (report, longest_gap) = LocalSet::new().block_on(runtime, async {
        let longest = Rc::new(Cell::new(Duration::ZERO));
        let ticker = tokio::task::spawn_local(tick(longest.clone()));
        yield_now().await;
        let report = match budget {
            Budget::NoSweep => {
                let end = Instant::now() + NO_SWEEP;
                while Instant::now() < end {
                    yield_now().await;
                }
                Ok(SweepReport::default())
            }
            Budget::Entries(_) => registry.sweep("sessions").await,
        };
        // One more turn, to see the gap that the last slice has made.
        yield_now().await;
        ticker.abort();
        (report, longest.get())
    });
    stop.store(true, Relaxed);
    let inserts = inserting.join().expect("inserting does not panic");
    let locks = lock(&sessions.locks);
    let micros = |nanos: u64| nanos as f64 / 1e3;
    Ok(Round {
        report: report?,
        lock_p50: micros(locks.value_at_quantile(0.5)),
        lock_p99: micros(locks.value_at_quantile(0.99)),
        longest_lock: micros(locks.max()),
        longest_gap: stats::micros(longest_gap),
        insert_p99: micros(inserts.value_at_quantile(0.99)),
        longest_insert: micros(inserts.max()),
    })
}

/// Takes a turn whenever it can, and notes the longest time without one.
async fn tick(longest: Rc<Cell<Duration>>) {
    let mut last = Instant::now();
    loop {
        yield_now().await;
        let now = Instant::now();
        longest.set(longest.get().max(now.saturating_duration_since(last)));
        last = now;
    }
}

/// Inserts at a steady pace, and returns how long each insert took, in nanoseconds.
fn insert_until(stop: &AtomicBool, sessions: &Sessions, first_id: u64) -> Histogram<u64> {
    let mut took = stats::histogram();
    let (mut id, mut next) = (first_id, Instant::now());
    while !stop.load(Relaxed) {
        let session = vec![0; ENTRY_BYTES].into_boxed_slice();
        let start = Instant::now();
        sessions.insert(id, session, start + Duration::from_secs(3_600));
        let end = Instant::now();
        let nanos = end.saturating_duration_since(start).as_nanos();
        took.saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
        id += 1;
        next = end.max(next + INSERT_EVERY);
        while Instant::now() < next && !stop.load(Relaxed) {
            spin_loop();
        }
    }
    took
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// Makes a holding with `entries` that have expired, and room for as many more: growing the
    /// table would be a longer lock than any that a sweep takes.
    fn full(entries: u64) -> Self {
        let expired = Instant::now();
        let mut state = State::default();
        state.by_id.reserve(2 * entries as usize);
        let sessions = Self {
            state: Mutex::new(state),
            locks: Mutex::new(stats::histogram()),
        };
        for id in 0..entries {
            sessions.insert(id, vec![0; ENTRY_BYTES].into_boxed_slice(), expired);
        }
        sessions
    }

    fn insert(&self, id: u64, session: Box<[u8]>, expires: Instant) {
        let mut state = lock(&self.state);
        state.by_id.insert(id, session);
        state.by_age.push_back((expires, id));
        state.totals.inserted += 1;
    }
}

impl Bounded for Sessions {
    fn name(&self) -> &'static str {
        "sessions"
    }

    fn usage(&self) -> Usage {
        let state = lock(&self.state);
        let entries = state.by_id.len() as u64;
        Usage::new(entries, entries * ENTRY_BYTES as u64)
    }

    fn totals(&self) -> Totals {
        let state = lock(&self.state);
        state.totals
    }

    fn sweep(&self, now: Instant, budget: usize) -> Step {
        let mut state = lock(&self.state);
        let locked = Instant::now();
        let mut removed = 0;
        let next = loop {
            match state.by_age.front() {
                None => break None,
                Some((expires, _)) if *expires > now || removed == budget => break Some(*expires),
                Some(_) => {}
            }
            if let Some((_, id)) = state.by_age.pop_front() {
                state.by_id.remove(&id);
                removed += 1;
            }
        };
        let removed = removed as u64;
        state.totals.removed.add(RemovalReason::Expired, removed);
        let held = Instant::now().saturating_duration_since(locked);
        drop(state);
        let nanos = u64::try_from(held.as_nanos()).unwrap_or(u64::MAX);
        lock(&self.locks).saturating_record(nanos);
        let removed = Removed::expired(removed);
        match next {
            None => Step {
                removed,
                ..Step::idle()
            },
            Some(expires) if expires <= now => Step::more(removed),
            Some(expires) => Step::at(removed, expires),
        }
    }

    fn close(self: Arc<Self>, _: Instant) -> BoxFuture<'static, CloseReport> {
        Box::pin(async { CloseReport::default() })
    }
}
