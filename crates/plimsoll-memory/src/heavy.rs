//! The requests that held most, for a while.

use crate::{Budget, Sample};
use plimsoll_alloc::untracked;
use plimsoll_core::{
    Bounded, BoxFuture, CloseReport, Holding, Name, Next, RemovalReason, Removed, Step, Totals,
    Usage,
};
use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

const NAME: &str = "heavy-requests";

/// Requests that held more than a threshold at a time: the newest, for a while.
///
/// When it is full the oldest goes. Cloning it gives another handle to the same log. An entry takes
/// 170 bytes; an empty log none.
#[derive(Clone)]
pub struct HeavyLog {
    inner: Arc<Inner>,
}

struct Inner {
    /// More than that is heavy.
    above: AtomicU64,
    log: Mutex<Log>,
}

struct Log {
    /// Oldest first.
    entries: VecDeque<HeavyRequest>,
    max_entries: usize,
    keep: Duration,
    totals: Totals,
    closed: bool,
}

/// A request that held much.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HeavyRequest {
    /// The route, or the layer.
    pub name: Name,
    /// The method of an HTTP request.
    pub method: Option<&'static str>,
    /// The status of its response, if it came to one.
    pub status: Option<u16>,
    /// When it ended.
    pub ended: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What it allocated, held at most, and left behind.
    pub sample: Sample,
    /// The budget that it had.
    pub budget: Option<Budget>,
    /// What the process had in memory when it began, and when it ended, as far as somebody
    /// [watches](crate::process::watch) that.
    pub resident: [Option<u64>; 2],
    /// When it ended, for what is too old.
    pub(crate) at: Instant,
}

impl HeavyLog {
    /// Makes a log of at most `max_entries` that held more than `above` bytes, each kept for `keep`.
    /// A log of 0 entries keeps none.
    #[must_use]
    pub fn new(above: u64, max_entries: usize, keep: Duration) -> Self {
        let log = Log {
            entries: VecDeque::new(),
            max_entries,
            keep,
            totals: Totals::default(),
            closed: false,
        };
        Self {
            inner: Arc::new(Inner {
                above: AtomicU64::new(above),
                log: Mutex::new(log),
            }),
        }
    }

    /// A log that keeps none, since none is heavy.
    #[must_use]
    pub fn none() -> Self {
        Self::new(u64::MAX, 0, Duration::ZERO)
    }

    /// Changes the limits. What is in the log already goes by the new ones when it is looked at next.
    pub fn reconfigure(&self, above: u64, max_entries: usize, keep: Duration) {
        self.inner.above.store(above, Relaxed);
        let mut log = self.inner.lock();
        log.max_entries = max_entries;
        log.keep = keep;
        log.make_room(0);
        log.entries.shrink_to(max_entries);
        log.give_back();
    }

    /// More than so many bytes is heavy.
    #[must_use]
    #[inline]
    pub fn above(&self) -> u64 {
        self.inner.above.load(Relaxed)
    }

    /// How many there were in all, those that were dropped included.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.inner.lock().totals.inserted
    }

    /// The newest that are not too old, newest first, at most so many.
    #[must_use]
    pub fn newest(&self, most: usize) -> Vec<HeavyRequest> {
        let mut log = self.inner.lock();
        log.expire(Instant::now(), usize::MAX);
        log.entries.iter().rev().take(most).cloned().collect()
    }

    /// Adds one. It belongs to no request.
    pub(crate) fn push(&self, request: HeavyRequest) {
        untracked(|| {
            let mut log = self.inner.lock();
            log.totals.inserted += 1;
            if log.closed {
                log.totals.removed.add(RemovalReason::Closed, 1);
                return;
            }
            log.make_room(1);
            if log.max_entries == 0 {
                log.totals.removed.add(RemovalReason::Capacity, 1);
            } else {
                log.add(request);
            }
        });
    }
}

impl Default for HeavyLog {
    /// More than 64 MiB is heavy; the newest 1 000 are kept for an hour.
    fn default() -> Self {
        Self::new(64 << 20, 1_000, Duration::from_secs(3_600))
    }
}

impl Log {
    /// Drops the oldest until there is room for so many.
    fn make_room(&mut self, more: usize) {
        let most = self.max_entries.saturating_sub(more);
        let too_many = self.entries.len().saturating_sub(most);
        self.entries.drain(..too_many);
        let removed = &mut self.totals.removed;
        removed.add(RemovalReason::Capacity, too_many as u64);
    }

    /// Adds one where there is room for it.
    fn add(&mut self, request: HeavyRequest) {
        let held = self.entries.len();
        if held == self.entries.capacity() {
            // As a queue grows by itself, but never past what it may hold.
            let most = self.max_entries - held;
            self.entries.reserve_exact(held.max(4).min(most));
        }
        self.entries.push_back(request);
    }

    /// Gives back what is not used, once that is most of it.
    fn give_back(&mut self) {
        let held = self.entries.len();
        if held <= self.entries.capacity() / 4 {
            self.entries.shrink_to(2 * held);
        }
    }

    /// Drops about `budget` that are too old.
    fn expire(&mut self, now: Instant, budget: usize) -> u64 {
        let keep = self.keep;
        let is_old = |it: &&HeavyRequest| now.saturating_duration_since(it.at) >= keep;
        let old = self.entries.iter().take(budget).take_while(is_old).count();
        self.entries.drain(..old);
        self.totals.removed.add(RemovalReason::Expired, old as u64);
        self.give_back();
        old as u64
    }

    fn give_up(&mut self, count: usize, reason: RemovalReason) -> u64 {
        let count = count.min(self.entries.len());
        self.entries.drain(..count);
        self.entries.shrink_to_fit();
        self.totals.removed.add(reason, count as u64);
        count as u64
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holding for HeavyLog {
    fn bounded(&self) -> Arc<dyn Bounded> {
        self.inner.clone()
    }
}

impl Bounded for Inner {
    fn name(&self) -> &str {
        NAME
    }

    fn usage(&self) -> Usage {
        let log = self.lock();
        let bytes = log.entries.capacity() * size_of::<HeavyRequest>();
        Usage::new(log.entries.len() as u64, bytes as u64).with_max_entries(log.max_entries as u64)
    }

    fn totals(&self) -> Totals {
        self.lock().totals
    }

    fn sweep(&self, now: Instant, budget: usize) -> Step {
        let mut log = self.lock();
        let removed = Removed::expired(log.expire(now, budget));
        let oldest = log.entries.front();
        let next = match oldest.and_then(|oldest| oldest.at.checked_add(log.keep)) {
            Some(due) if due <= now => Next::More,
            Some(due) => Next::At(due),
            None => Next::Idle,
        };
        Step { removed, next }
    }

    fn shrink(&self, share: f64, _: usize) -> Step {
        let mut log = self.lock();
        let count = (log.entries.len() as f64 * share.clamp(0.0, 1.0)).ceil() as usize;
        let dropped = log.give_up(count, RemovalReason::Pressure);
        Step {
            removed: Removed::of(RemovalReason::Pressure, dropped),
            next: Next::Idle,
        }
    }

    fn close(self: Arc<Self>, _: Instant) -> BoxFuture<'static, CloseReport> {
        Box::pin(async move {
            let mut log = self.lock();
            log.closed = true;
            CloseReport::dropped(log.give_up(usize::MAX, RemovalReason::Closed))
        })
    }
}

impl fmt::Debug for HeavyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = self.inner.lock();
        f.debug_struct("HeavyLog")
            .field("entries", &log.entries.len())
            .field("above", &self.above())
            .field("max_entries", &log.max_entries)
            .field("keep", &log.keep)
            .finish()
    }
}
