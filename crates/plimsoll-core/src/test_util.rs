//! A fake holding, a counting allocator, and assertions, for tests of and with Plimsoll.

use crate::{
    Bounded, BoxFuture, CloseReport, Holding, RemovalReason, Removed, ShrinkPolicy, Step, Totals,
    Usage, clock::after, sync::Mutex,
};
pub use plimsoll_alloc::CountingAllocator;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::time::Instant;

/// A holding whose entries expire a fixed time after they were inserted.
///
/// It can be told to panic, to be slow to close, and to insist on being flushed. Cloning gives
/// another handle to the same holding.
#[derive(Clone, Debug)]
pub struct FakeHolding {
    inner: Arc<Fake>,
}

#[derive(Debug)]
struct Fake {
    name: String,
    time_to_live: Duration,
    entry_bytes: u64,
    must_flush: bool,
    shrink: ShrinkPolicy,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When each run of entries expires, and how many they are; oldest first.
    runs: VecDeque<(Instant, u64)>,
    held: u64,
    totals: Totals,
    sweeps: Vec<Instant>,
    panics_left: u64,
    shrink_panics_left: u64,
    close_takes: Duration,
}

impl FakeHolding {
    /// Makes an empty holding whose entries live for `time_to_live`.
    #[must_use]
    pub fn new(name: &str, time_to_live: Duration) -> Self {
        Self::build(name, time_to_live, false, ShrinkPolicy::default())
    }

    /// Makes an empty holding that is shrunk as `policy` says. An entry has 100 bytes.
    #[must_use]
    pub fn with_shrink_policy(name: &str, time_to_live: Duration, policy: ShrinkPolicy) -> Self {
        Self::build(name, time_to_live, false, policy)
    }

    /// Makes an empty holding that must be flushed when it is closed.
    #[must_use]
    pub fn must_flush(name: &str, time_to_live: Duration) -> Self {
        Self::build(name, time_to_live, true, ShrinkPolicy::default())
    }

    fn build(name: &str, time_to_live: Duration, must_flush: bool, shrink: ShrinkPolicy) -> Self {
        Self {
            inner: Arc::new(Fake {
                name: name.to_owned(),
                time_to_live,
                entry_bytes: 100,
                must_flush,
                shrink,
                state: Mutex::default(),
            }),
        }
    }

    /// Inserts `count` entries that expire together.
    pub fn insert(&self, count: u64) {
        let expires = after(Instant::now(), self.inner.time_to_live);
        let mut state = self.inner.state.lock();
        state.runs.push_back((expires, count));
        state.held += count;
        state.totals.inserted += count;
    }

    /// How many entries are held.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.inner.state.lock().held
    }

    /// When each slice of a sweep came, oldest first.
    #[must_use]
    pub fn sweeps(&self) -> Vec<Instant> {
        self.inner.state.lock().sweeps.clone()
    }

    /// Makes the next `count` sweeps panic.
    pub fn panic_when_swept(&self, count: u64) {
        self.inner.state.lock().panics_left = count;
    }

    /// Makes the next `count` slices of a shrink panic.
    pub fn panic_when_shrunk(&self, count: u64) {
        self.inner.state.lock().shrink_panics_left = count;
    }

    /// Makes closing take this long.
    pub fn close_takes(&self, time: Duration) {
        self.inner.state.lock().close_takes = time;
    }
}

impl Holding for FakeHolding {
    fn bounded(&self) -> Arc<dyn Bounded> {
        self.inner.clone()
    }
}

impl Bounded for Fake {
    fn name(&self) -> &str {
        &self.name
    }

    fn usage(&self) -> Usage {
        let held = self.state.lock().held;
        Usage::new(held, held * self.entry_bytes)
    }

    fn totals(&self) -> Totals {
        self.state.lock().totals
    }

    fn sweep(&self, now: Instant, budget: usize) -> Step {
        let mut state = self.state.lock();
        state.sweeps.push(now);
        if state.panics_left > 0 {
            state.panics_left -= 1;
            drop(state);
            panic!("told to");
        }
        let due = |state: &State| match state.runs.front() {
            Some((expires, _)) if *expires <= now => true,
            Some(_) | None => false,
        };
        let mut left = budget as u64;
        while left > 0 && due(&state) {
            left -= state.take_oldest(left, RemovalReason::Expired);
        }
        let removed = Removed::expired(budget as u64 - left);
        match state.runs.front() {
            None => Step {
                removed,
                ..Step::idle()
            },
            Some(_) if due(&state) => Step::more(removed),
            Some((expires, _)) => Step::at(removed, *expires),
        }
    }

    fn shrink(&self, share: f64, budget: usize) -> Step {
        let mut state = self.state.lock();
        if state.shrink_panics_left > 0 {
            state.shrink_panics_left -= 1;
            drop(state);
            panic!("told to");
        }
        let wanted = (state.held as f64 * share.clamp(0.0, 1.0)).ceil() as u64;
        let mut left = wanted.min(budget as u64);
        let mut removed = 0;
        while left > 0 {
            let taken = state.take_oldest(left, RemovalReason::Pressure);
            left -= taken;
            removed += taken;
        }
        let removed = Removed::of(RemovalReason::Pressure, removed);
        if wanted > budget as u64 {
            Step::more(removed)
        } else {
            Step {
                removed,
                ..Step::idle()
            }
        }
    }

    fn shrink_policy(&self) -> ShrinkPolicy {
        self.shrink
    }

    fn must_flush(&self) -> bool {
        self.must_flush
    }

    fn close(self: Arc<Self>, _deadline: Instant) -> BoxFuture<'static, CloseReport> {
        Box::pin(async move {
            let takes = self.state.lock().close_takes;
            tokio::time::sleep(takes).await;
            let mut state = self.state.lock();
            let mut closed = 0;
            while state.held > 0 {
                closed += state.take_oldest(u64::MAX, RemovalReason::Closed);
            }
            if self.must_flush {
                CloseReport::flushed(closed)
            } else {
                CloseReport::dropped(closed)
            }
        })
    }
}

impl State {
    /// Takes up to `most` of the oldest run of entries, and returns how many those were.
    fn take_oldest(&mut self, most: u64, reason: RemovalReason) -> u64 {
        let Some((_, count)) = self.runs.front_mut() else {
            return 0;
        };
        let taken = most.min(*count);
        *count -= taken;
        if *count == 0 {
            self.runs.pop_front();
        }
        self.held -= taken;
        self.totals.removed.add(reason, taken);
        taken
    }
}

/// Asserts that *inserted = removed by each reason + held*.
///
/// # Panics
///
/// When they do not balance.
pub fn assert_balanced(holding: &impl Holding) {
    let bounded = holding.bounded();
    let (usage, totals) = (bounded.usage(), bounded.totals());
    assert!(
        totals.balance(usage.entries),
        "{}: inserted {}, removed {:?}, held {}",
        bounded.name(),
        totals.inserted,
        totals.removed,
        usage.entries
    );
}

/// How many tasks the current runtime has alive.
///
/// # Panics
///
/// Outside a Tokio runtime.
#[must_use]
pub fn alive_tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

/// Asserts that the tasks of the current runtime return to `start` once those that are done had
/// their turn.
///
/// # Panics
///
/// When more are alive after a thousand turns.
pub async fn assert_tasks_return_to(start: usize) {
    for _ in 0..1_000 {
        if alive_tasks() <= start {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!(
        "{} tasks are alive, {start} were at the start",
        alive_tasks()
    );
}

/// Asserts that `work` leaves no more than `slack` bytes behind, once it has run `warm_up` times.
///
/// Warm-up fills whatever is made once: thread-locals, interned names, tables at their size.
/// Other threads must not allocate meanwhile.
///
/// # Panics
///
/// When more bytes are live after `rounds` further runs.
pub async fn assert_live_bytes_return<A, F>(
    allocator: &CountingAllocator<A>,
    warm_up: usize,
    rounds: usize,
    slack: u64,
    mut work: impl FnMut() -> F,
) where
    F: Future<Output = ()>,
{
    for _ in 0..warm_up {
        work().await;
    }
    let start = allocator.live_bytes();
    for _ in 0..rounds {
        work().await;
    }
    let end = allocator.live_bytes();
    assert!(
        end <= start + slack,
        "{end} bytes are live after {rounds} rounds, {start} were before"
    );
}
