//! What requests allocate, hold at most and leave behind, by endpoint.
//!
//! A request has a scope of its own in the group of its endpoint. It is in it during `call`, every
//! poll of the future and of the body, and the drop of the body, or of the future if that comes
//! before a response; it is weighed when its body is gone.

use plimsoll_alloc::{Entered, MemoryGroup, MemoryScope, Retained};
use std::{
    borrow::Borrow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// The upper bounds of the buckets of sizes: the powers of two from 1 KiB to 1 GiB.
pub const SIZES: [u64; 21] = {
    let mut sizes = [0; 21];
    let mut place = 0;
    while place < sizes.len() {
        sizes[place] = 1 << (10 + place);
        place += 1;
    }
    sizes
};

const BUCKETS: usize = SIZES.len() + 1;

/// The requests that one stripe of threads has weighed at one endpoint.
#[derive(Default)]
pub(super) struct Weights {
    allocated: AtomicU64,
    max_peak: AtomicU64,
    allocations: [AtomicU64; BUCKETS],
    peaks: [AtomicU64; BUCKETS],
}

/// One request to be weighed. Dropping it weighs it, and must be the last thing it does.
pub(super) struct Weighing {
    weights: Arc<Weights>,
    scope: MemoryScope,
}

/// What the requests of an endpoint allocate and hold, in bytes.
///
/// Exact where a [`TrackingAllocator`](plimsoll_alloc::TrackingAllocator) is the program's allocator;
/// otherwise there is none.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointMemory {
    /// Held now by requests of this endpoint, those that have ended included.
    pub live: u64,
    /// Held now by requests that have ended: by a cache, say, or by whoever leaks.
    pub retained: u64,
    /// How many requests that have ended hold something.
    pub retaining: u64,
    /// Allocated by requests that have ended.
    pub allocated: u64,
    /// The most that one request held at a time.
    pub max_peak: u64,
    allocations: [u64; BUCKETS],
    peaks: [u64; BUCKETS],
}

/// Whether requests can be weighed, since a [`TrackingAllocator`](plimsoll_alloc::TrackingAllocator)
/// is the program's allocator.
#[must_use]
pub fn can_weigh() -> bool {
    plimsoll_alloc::is_installed()
}

impl Weights {
    fn record(&self, allocated: u64, peak: u64) {
        self.allocated.fetch_add(allocated, Relaxed);
        self.allocations[bucket(allocated)].fetch_add(1, Relaxed);
        self.peaks[bucket(peak)].fetch_add(1, Relaxed);
        if peak > self.max_peak.load(Relaxed) {
            self.max_peak.fetch_max(peak, Relaxed);
        }
    }

    /// Adds what was weighed here.
    pub(super) fn add_to(&self, memory: &mut EndpointMemory) {
        memory.allocated += self.allocated.load(Relaxed);
        memory.max_peak = memory.max_peak.max(self.max_peak.load(Relaxed));
        for (sums, buckets) in [
            (&mut memory.allocations, &self.allocations),
            (&mut memory.peaks, &self.peaks),
        ] {
            for (sum, bucket) in sums.iter_mut().zip(buckets) {
                *sum += bucket.load(Relaxed);
            }
        }
    }
}

/// The place of a size: the first bound that it is not above.
fn bucket(bytes: u64) -> usize {
    let above_first = bytes.saturating_sub(1) >> 10;
    let bits = u64::BITS - above_first.leading_zeros();
    (bits as usize).min(SIZES.len())
}

impl Weighing {
    pub(super) const fn new(weights: Arc<Weights>, scope: MemoryScope) -> Self {
        Self { weights, scope }
    }

    pub(super) fn enter(&self) -> Entered<'_> {
        self.scope.enter()
    }
}

impl Borrow<MemoryScope> for Weighing {
    fn borrow(&self) -> &MemoryScope {
        &self.scope
    }
}

impl Drop for Weighing {
    fn drop(&mut self) {
        let usage = self.scope.usage();
        self.weights.record(usage.allocated, usage.peak);
    }
}

impl fmt::Debug for Weighing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weighing")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl EndpointMemory {
    /// What a group holds, with nothing weighed yet.
    pub(super) fn of(group: &MemoryGroup) -> Self {
        let live = group.usage().live;
        // Looking for what is retained takes a look at every scope of the process.
        let retained = match live {
            0 => Retained::default(),
            _ => group.retained(),
        };
        Self {
            live,
            retained: retained.bytes,
            retaining: retained.scopes,
            allocated: 0,
            max_peak: 0,
            allocations: [0; BUCKETS],
            peaks: [0; BUCKETS],
        }
    }

    /// How many requests were weighed.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.peaks.iter().sum()
    }

    /// How many requests held no more than each of [`SIZES`] at a time, smallest first.
    pub fn peaks_within(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        within(&self.peaks)
    }

    /// How many requests allocated no more than each of [`SIZES`], smallest first.
    pub fn allocated_within(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        within(&self.allocations)
    }

    /// What a share of the requests, 0 to 1, held no more than at a time: one of [`SIZES`], or the
    /// largest peak if that is less. None if no request was weighed.
    #[must_use]
    pub fn peak_quantile(&self, share: f64) -> Option<u64> {
        let wanted = (self.requests() as f64 * share.clamp(0.0, 1.0)).ceil() as u64;
        if self.requests() == 0 {
            return None;
        }
        let mut bounds = self.peaks_within();
        let bound = bounds.find(|(_, requests)| *requests >= wanted.max(1));
        Some(bound.map_or(self.max_peak, |(bound, _)| bound.min(self.max_peak)))
    }
}

fn within(buckets: &[u64; BUCKETS]) -> impl Iterator<Item = (u64, u64)> + '_ {
    let mut sum = 0;
    SIZES.iter().zip(buckets).map(move |(bound, count)| {
        sum += count;
        (*bound, sum)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_in_the_first_bucket_that_holds_it() {
        assert_eq!(SIZES[0], 1_024);
        assert_eq!(SIZES[20], 1 << 30);
        for (place, bound) in SIZES.into_iter().enumerate() {
            assert_eq!(bucket(bound), place);
            assert_eq!(bucket(bound + 1), place + 1);
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_bounds_and_never_above_the_largest_peak() {
        let weights = Weights::default();
        let mut memory = EndpointMemory::of(&MemoryGroup::new());
        assert_eq!(memory.peak_quantile(0.5), None);
        for peak in [100, 1_500, 1_500, 3_000] {
            weights.record(10 * peak, peak);
        }
        weights.add_to(&mut memory);
        assert_eq!((memory.requests(), memory.allocated), (4, 61_000));
        let quantiles = [0.0, 0.25, 0.5, 0.75, 0.76, 1.0].map(|share| memory.peak_quantile(share));
        let expected = [1_024, 1_024, 2_048, 2_048, 3_000, 3_000].map(Some);
        assert_eq!(quantiles, expected);
    }
}
