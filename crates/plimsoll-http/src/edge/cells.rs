//! Where requests are counted: one set of cells for each endpoint and stripe of threads.

use super::{
    EndpointSnapshot, RequestCounts,
    endpoint::{Class, METHODS},
};
use plimsoll_alloc::untracked;
use plimsoll_core::Clock;
use plimsoll_memory::{Bodies, Ended, Weigher};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

const CLASSES: usize = Class::ALL.len();

/// The upper bounds of the buckets of times, from a cached answer to what nobody waits for.
pub const BOUNDS: [Duration; 16] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// [`BOUNDS`] in nanoseconds.
const NANOS: [u64; BOUNDS.len()] = {
    let mut nanos = [0; BOUNDS.len()];
    let mut i = 0;
    while i < nanos.len() {
        nanos[i] = BOUNDS[i].as_nanos() as u64;
        i += 1;
    }
    nanos
};

/// What one stripe of threads has counted at one endpoint.
pub(super) struct Cells {
    clock: Clock,
    weigher: Arc<Weigher>,
    cut: AtomicU64,
    /// One cell for each method and status class, made when first needed.
    cells: [OnceLock<Box<Cell>>; METHODS.len() * CLASSES],
}

/// The requests of one method and status class.
#[derive(Default)]
struct Cell {
    bytes: AtomicU64,
    nanos: AtomicU64,
    /// By time; the last takes what is above every bound. They add up to the requests.
    buckets: [AtomicU64; BOUNDS.len() + 1],
}

impl Cells {
    pub(super) fn new(clock: Clock, weigher: Arc<Weigher>) -> Self {
        Self {
            clock,
            weigher,
            cut: AtomicU64::new(0),
            cells: [const { OnceLock::new() }; METHODS.len() * CLASSES],
        }
    }

    pub(super) fn weigher(&self) -> &Weigher {
        &self.weigher
    }

    pub(super) fn ticks(&self) -> u64 {
        self.clock.ticks()
    }

    pub(super) fn record(&self, method: u8, class: Class, nanos: u64, bytes: u64) {
        let cell = &self.cells[usize::from(method) * CLASSES + class as usize];
        let cell = cell.get_or_init(|| untracked(Box::default));
        let within = |bound: &u64| nanos <= *bound;
        let bucket = NANOS.iter().position(within).unwrap_or(NANOS.len());
        cell.nanos.fetch_add(nanos, Relaxed);
        if bytes > 0 {
            cell.bytes.fetch_add(bytes, Relaxed);
        }
        cell.buckets[bucket].fetch_add(1, Relaxed);
    }

    /// Counts a request that nobody has weighed.
    pub(super) fn estimate(&self, bodies: &Bodies, ended: Ended) {
        self.weigher.estimate(bodies, ended);
    }

    pub(super) fn record_cut(&self) {
        self.cut.fetch_add(1, Relaxed);
    }

    /// Adds what was counted here. Concurrent requests may be counted in part.
    pub(super) fn add_to(&self, snapshot: &mut EndpointSnapshot) {
        snapshot.cut += self.cut.load(Relaxed);
        for (place, cell) in self.cells.iter().enumerate() {
            let Some(cell) = cell.get() else { continue };
            let (method, class) = (METHODS[place / CLASSES], Class::ALL[place % CLASSES]);
            let counts = snapshot.counts(method, class.as_str());
            cell.add_to(counts);
        }
    }
}

impl Cell {
    fn add_to(&self, counts: &mut RequestCounts) {
        counts.bytes += self.bytes.load(Relaxed);
        counts.time += Duration::from_nanos(self.nanos.load(Relaxed));
        for (sum, bucket) in counts.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load(Relaxed);
        }
    }
}
