//! What was weighed, added up.

use crate::{Attribution, Budget};
use plimsoll_alloc::{GroupId, MemoryGroup, Retained, each_retained};
use std::{collections::HashMap, time::Duration};

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

pub(crate) const BUCKETS: usize = SIZES.len() + 1;

/// The upper bounds of the ages that what is retained is told apart by. The last class is older.
pub const AGES: [Duration; 3] = [
    Duration::from_secs(60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(60 * 60),
];

/// What requests of every kind that have ended still hold, by one look at all of them.
#[derive(Clone, Debug, Default)]
pub struct RetainedByGroup {
    by_age: HashMap<GroupId, [Retained; AGES.len() + 1]>,
    /// Whether somebody tells the time.
    is_timed: bool,
}

/// What one request, or call, took, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// Allocated in all.
    pub allocated: u64,
    /// The most that it held at a time.
    pub peak: u64,
    /// What it left behind when it ended.
    pub left: u64,
    /// How far that can be trusted.
    pub attribution: Attribution,
}

/// What requests of one kind allocate and hold, in bytes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Held now by requests of this kind, those that have ended included.
    pub live: u64,
    /// Held now by requests that have ended: by a cache, say, or by whoever leaks.
    pub retained: Retained,
    /// The same by how long ago they ended: within each of [`AGES`], and before. None where
    /// nobody [watches the process](crate::process::watch), and so nobody knows.
    pub retained_by_age: Option<[Retained; AGES.len() + 1]>,
    /// What each allocated.
    pub allocated: Histogram,
    /// The most that each held at a time.
    pub peak: Histogram,
    /// What each still held when it ended: what it left behind, and what somebody has yet to free,
    /// such as the last frame of a body that the connection has yet to write. What of it stays is
    /// [retained](Self::retained).
    pub left: Histogram,
    /// How many held more than their budget at any time.
    pub over_budget: u64,
    /// How many of them were ended before there was a response.
    pub refused: u64,
    /// How many of them were ended when the response had begun.
    pub cut: u64,
    /// The budget, unless a request has its own.
    pub budget: Option<Budget>,
    pub(crate) by_attribution: [u64; Attribution::ALL.len()],
}

/// How many of something there were, by size in bytes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Histogram {
    /// All of them together.
    pub sum: u64,
    /// The largest.
    pub max: u64,
    /// How many were of nothing.
    pub nothing: u64,
    pub(crate) buckets: [u64; BUCKETS],
}

impl RetainedByGroup {
    /// Looks at every scope of the process, once for all kinds.
    #[must_use]
    pub fn look() -> Self {
        let now = crate::process::now();
        let mut by_age = HashMap::<_, [Retained; AGES.len() + 1]>::new();
        each_retained(|group, ended, bytes| {
            let age = Duration::from_secs(now.unwrap_or(0).saturating_sub(ended));
            let within = |bound: &Duration| age <= *bound;
            let class = AGES.iter().position(within).unwrap_or(AGES.len());
            let retained = &mut by_age.entry(group).or_default()[class];
            retained.scopes += 1;
            retained.bytes += bytes;
        });
        Self {
            by_age,
            is_timed: now.is_some(),
        }
    }

    /// What requests of one kind that have ended still hold.
    #[must_use]
    pub fn of(&self, group: GroupId) -> Retained {
        let by_age = self.by_age.get(&group).copied();
        sum(&by_age.unwrap_or_default())
    }
}

fn sum(by_age: &[Retained; AGES.len() + 1]) -> Retained {
    let mut all = Retained::default();
    for retained in by_age {
        all.scopes += retained.scopes;
        all.bytes += retained.bytes;
    }
    all
}

impl MemoryStats {
    /// What a group holds, with nothing weighed yet.
    pub(crate) fn of(
        group: Option<&MemoryGroup>,
        retained: &RetainedByGroup,
        budget: Option<Budget>,
    ) -> Self {
        let by_age = group.and_then(|group| retained.by_age.get(&group.id()?));
        let by_age = by_age.copied().unwrap_or_default();
        Self {
            live: group.map_or(0, |group| group.usage().live),
            retained: sum(&by_age),
            retained_by_age: retained.is_timed.then_some(by_age),
            allocated: Histogram::default(),
            peak: Histogram::default(),
            left: Histogram::default(),
            over_budget: 0,
            refused: 0,
            cut: 0,
            budget,
            by_attribution: [0; Attribution::ALL.len()],
        }
    }

    /// How many requests were weighed.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.by_attribution.iter().sum()
    }

    /// How many of them were weighed so.
    #[must_use]
    pub const fn attributed(&self, attribution: Attribution) -> u64 {
        self.by_attribution[attribution as usize]
    }

    /// Whether the allocator knew what some of them held.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.attributed(Attribution::Exact) > 0
    }

    /// The worst that a request was weighed by; none before the first.
    #[must_use]
    pub fn attribution(&self) -> Option<Attribution> {
        let mut worst_first = Attribution::ALL.into_iter().rev();
        worst_first.find(|attribution| self.attributed(*attribution) > 0)
    }
}

impl Histogram {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.nothing + self.buckets.iter().sum::<u64>()
    }

    /// How many were no more than each of [`SIZES`], smallest first.
    pub fn within(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut sum = self.nothing;
        SIZES.iter().zip(&self.buckets).map(move |(bound, count)| {
            sum += count;
            (*bound, sum)
        })
    }

    /// What a share of them, 0 to 1, were no more than: 0, one of [`SIZES`], or the largest if that is
    /// less. None if there were none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = (count as f64 * share.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        if wanted <= self.nothing {
            return Some(0);
        }
        let mut bounds = self.within();
        let bound = bounds.find(|(_, within)| *within >= wanted);
        Some(bound.map_or(self.max, |(bound, _)| bound.min(self.max)))
    }
}

/// The place of a size: the first bound that it is not above.
pub(crate) fn bucket(bytes: u64) -> usize {
    let above_first = bytes.saturating_sub(1) >> 10;
    let bits = u64::BITS - above_first.leading_zeros();
    (bits as usize).min(SIZES.len())
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
    fn quantiles_are_bounds_and_never_above_the_largest() {
        let mut peaks = Histogram::default();
        assert_eq!(peaks.quantile(0.5), None);
        for peak in [100, 1_500, 1_500, 3_000] {
            peaks.buckets[bucket(peak)] += 1;
            peaks.max = peaks.max.max(peak);
        }
        assert_eq!(peaks.count(), 4);
        let quantiles = [0.0, 0.25, 0.5, 0.75, 0.76, 1.0].map(|share| peaks.quantile(share));
        let expected = [1_024, 1_024, 2_048, 2_048, 3_000, 3_000].map(Some);
        assert_eq!(quantiles, expected);
        peaks.nothing = 4;
        let quantiles = [0.0, 0.5, 0.51, 1.0].map(|share| peaks.quantile(share));
        assert_eq!(quantiles, [0, 0, 1_024, 3_000].map(Some));
        assert_eq!(
            (peaks.count(), peaks.within().next()),
            (8, Some((1_024, 5)))
        );
    }
}
