use crate::{BoxError, BoxFuture};
use std::{fmt, ops::AddAssign, sync::Arc};
use tokio::time::Instant;

/// Something that holds memory for the service and knows how to let go of it.
///
/// Every method is called from any thread, at the same time as any other, and must return soon:
/// none may wait for I/O, and none may hold a lock longer than one slice of work takes.
///
/// # Accounting
///
/// The [totals](Self::totals) balance with the [usage](Self::usage) whenever nothing is being
/// changed: *inserted = removed by each reason + held*. Entries in flight and entries being
/// retried are held.
pub trait Bounded: Send + Sync + 'static {
    /// The name it is registered, shown and measured by. It never changes.
    fn name(&self) -> &str;

    /// Entries and bytes held now, and their limits. O(stripes), without allocation.
    fn usage(&self) -> Usage;

    /// Entries inserted and removed since the holding was made.
    fn totals(&self) -> Totals;

    /// Drops about `budget` entries that have expired by `now`, and says when to come again.
    ///
    /// Sweeping early, twice or late is harmless. Return [`Next::More`] when entries that have
    /// expired are left: the sweeper yields to other tasks between such slices, so that a million
    /// entries never hold a worker.
    fn sweep(&self, now: Instant, budget: usize) -> Step;

    /// Gives up the coldest `share` (0 to 1) of what is expendable, about `budget` entries at a
    /// time. By default nothing is expendable.
    ///
    /// Return [`Next::More`] when the budget was not enough. `share` is always one of what is there
    /// now: whoever calls again asks for less of what is left, so that nothing has to be remembered.
    fn shrink(&self, share: f64, budget: usize) -> Step {
        let _ = (share, budget);
        Step::idle()
    }

    /// Which holdings are shrunk before this one when memory is short, and what it may keep.
    fn shrink_policy(&self) -> ShrinkPolicy {
        ShrinkPolicy::default()
    }

    /// Whether what it holds must not be lost. Such a holding is kept alive by the registry until
    /// it is closed, even with no handle left, and is closed after the others.
    fn must_flush(&self) -> bool {
        false
    }

    /// Ends it: flushes, answers whoever waits, and frees the rest before `deadline`.
    ///
    /// A future that is not done at `deadline` is dropped, and what a holding that must flush then
    /// still has is reported as lost. Closing a closed holding does nothing.
    fn close(self: Arc<Self>, deadline: Instant) -> BoxFuture<'static, CloseReport>;
}

/// A cloneable handle to something [`Bounded`]: a cache, an adapter, a queue.
pub trait Holding {
    /// The holding behind the handle. The same one each time, kept alive by the handle.
    fn bounded(&self) -> Arc<dyn Bounded>;
}

impl<T: Bounded> Holding for Arc<T> {
    fn bounded(&self) -> Arc<dyn Bounded> {
        self.clone()
    }
}

impl Holding for Arc<dyn Bounded> {
    fn bounded(&self) -> Arc<dyn Bounded> {
        self.clone()
    }
}

/// What a holding has now, and how much it may have.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// Entries held.
    pub entries: u64,
    /// Heap bytes held, measured or computed, never guessed.
    pub bytes: u64,
    /// The most entries it may hold, where there is such a limit.
    pub max_entries: Option<u64>,
    /// The most bytes it may hold, where there is such a limit.
    pub max_bytes: Option<u64>,
}

impl Usage {
    /// Makes a usage without limits.
    #[must_use]
    pub const fn new(entries: u64, bytes: u64) -> Self {
        Self {
            entries,
            bytes,
            max_entries: None,
            max_bytes: None,
        }
    }

    /// Sets the most entries the holding may have.
    #[must_use]
    pub const fn with_max_entries(mut self, max_entries: u64) -> Self {
        self.max_entries = Some(max_entries);
        self
    }

    /// Sets the most bytes the holding may have.
    #[must_use]
    pub const fn with_max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = Some(max_bytes);
        self
    }

    /// How full the holding is by the limit it is closest to: 1 is full. `None` without limits.
    #[must_use]
    pub fn utilisation(&self) -> Option<f64> {
        let ratio = |held: u64, most: Option<u64>| match most? {
            0 => Some(1.0),
            most => Some(held as f64 / most as f64),
        };
        let entries = ratio(self.entries, self.max_entries);
        let bytes = ratio(self.bytes, self.max_bytes);
        match (entries, bytes) {
            (Some(entries), Some(bytes)) => Some(entries.max(bytes)),
            (one, None) | (None, one) => one,
        }
    }
}

/// When a holding has its turn if memory is short, and how far it is shrunk.
///
/// The holding says so itself, since only it knows what its entries cost to have again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ShrinkPolicy {
    /// Holdings of a lower priority are shrunk first, and those of a higher one only if that was not
    /// enough. Those of the same are shrunk in proportion. 100 by default.
    pub priority: u8,
    /// It is not shrunk for want of memory while it holds no more bytes than that. 0 by default.
    pub floor_bytes: u64,
}

impl ShrinkPolicy {
    /// Makes a policy.
    #[must_use]
    pub const fn new(priority: u8, floor_bytes: u64) -> Self {
        Self {
            priority,
            floor_bytes,
        }
    }
}

impl Default for ShrinkPolicy {
    fn default() -> Self {
        Self::new(100, 0)
    }
}

/// Why an entry left its holding.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum RemovalReason {
    /// It served its purpose: delivered, answered, taken out by its owner.
    Completed,
    /// A newer entry took its place.
    Replaced,
    /// It was older than it may be.
    Expired,
    /// The holding was full.
    Capacity,
    /// Memory was short.
    Pressure,
    /// An operator or the program asked for it.
    Manual,
    /// Whoever wanted it went away.
    Cancelled,
    /// It could not be dealt with, and was given up.
    Failed,
    /// The holding was closed.
    Closed,
}

impl RemovalReason {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Completed,
        Self::Replaced,
        Self::Expired,
        Self::Capacity,
        Self::Pressure,
        Self::Manual,
        Self::Cancelled,
        Self::Failed,
        Self::Closed,
    ];

    /// The reason as a metric label, in `snake_case`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Replaced => "replaced",
            Self::Expired => "expired",
            Self::Capacity => "capacity",
            Self::Pressure => "pressure",
            Self::Manual => "manual",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for RemovalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How many entries left a holding, by reason.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub struct Removed([u64; RemovalReason::ALL.len()]);

impl Removed {
    /// Nothing was removed.
    pub const NONE: Self = Self([0; RemovalReason::ALL.len()]);

    /// `count` entries left for one `reason`.
    #[must_use]
    pub const fn of(reason: RemovalReason, count: u64) -> Self {
        let mut removed = Self::NONE;
        removed.0[reason as usize] = count;
        removed
    }

    /// `count` entries had expired.
    #[must_use]
    pub const fn expired(count: u64) -> Self {
        Self::of(RemovalReason::Expired, count)
    }

    /// How many left for `reason`.
    #[must_use]
    pub const fn get(&self, reason: RemovalReason) -> u64 {
        self.0[reason as usize]
    }

    /// Counts `count` more that left for `reason`.
    pub const fn add(&mut self, reason: RemovalReason, count: u64) {
        let slot = &mut self.0[reason as usize];
        *slot = slot.saturating_add(count);
    }

    /// How many left for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Every reason for which some left, with how many.
    pub fn iter(&self) -> impl Iterator<Item = (RemovalReason, u64)> + '_ {
        RemovalReason::ALL
            .into_iter()
            .map(|reason| (reason, self.get(reason)))
            .filter(|(_, count)| *count > 0)
    }
}

impl AddAssign for Removed {
    fn add_assign(&mut self, other: Self) {
        for (reason, count) in other.iter() {
            self.add(reason, count);
        }
    }
}

impl fmt::Debug for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(reason, n)| (reason.as_str(), n)))
            .finish()
    }
}

/// Writes `3 expired, 1 capacity`, or `nothing`.
impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (reason, count) in self.iter() {
            write!(f, "{separator}{count} {reason}")?;
            separator = ", ";
        }
        if separator.is_empty() {
            f.write_str("nothing")?;
        }
        Ok(())
    }
}

/// What has come into a holding and left it since it was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Totals {
    /// Entries inserted.
    pub inserted: u64,
    /// Entries removed, by reason.
    pub removed: Removed,
}

impl Totals {
    /// Makes totals.
    #[must_use]
    pub const fn new(inserted: u64, removed: Removed) -> Self {
        Self { inserted, removed }
    }

    /// How many entries the totals say are held.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.inserted.saturating_sub(self.removed.total())
    }

    /// Whether *inserted = removed + `entries`*.
    #[must_use]
    pub fn balance(&self, entries: u64) -> bool {
        self.inserted == self.removed.total().saturating_add(entries)
    }
}

/// What one slice of a sweep or of a shrink did, and when to come again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "a step says whether there is more to do"]
pub struct Step {
    /// What was removed in this slice.
    pub removed: Removed,
    /// When to call again.
    pub next: Next,
}

impl Step {
    /// Nothing was removed and nothing is known to become due.
    pub const fn idle() -> Self {
        Self {
            removed: Removed::NONE,
            next: Next::Idle,
        }
    }

    /// `removed` left, and more is due at once.
    pub const fn more(removed: Removed) -> Self {
        Self {
            removed,
            next: Next::More,
        }
    }

    /// `removed` left, and more is due at `at`.
    pub const fn at(removed: Removed, at: Instant) -> Self {
        Self {
            removed,
            next: Next::At(at),
        }
    }
}

/// When a holding wants its next slice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(
    clippy::exhaustive_enums,
    reason = "every sweeper must know every answer"
)]
pub enum Next {
    /// At once, after other tasks had their turn: the budget was used up.
    More,
    /// At this time. Whatever is inserted later must not expire sooner, or wait until then.
    At(Instant),
    /// Nothing is known to become due. The registry asks again after its idle interval.
    Idle,
}

/// What became of a holding's entries when it was closed.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CloseReport {
    /// Entries delivered, written or answered while closing.
    pub flushed: u64,
    /// Entries dropped because they were expendable.
    pub dropped: u64,
    /// Entries that should have been flushed and could not be.
    pub lost: u64,
    /// Whether the deadline ended it.
    pub timed_out: bool,
    /// What went wrong, if something did.
    pub error: Option<BoxError>,
}

impl CloseReport {
    /// Makes the report of a holding that flushed `flushed` entries and lost none.
    #[must_use]
    pub fn flushed(flushed: u64) -> Self {
        Self {
            flushed,
            ..Self::default()
        }
    }

    /// Makes the report of a holding that let go of `dropped` expendable entries.
    #[must_use]
    pub fn dropped(dropped: u64) -> Self {
        Self {
            dropped,
            ..Self::default()
        }
    }

    /// Adds `lost` entries that could not be flushed, and why.
    #[must_use]
    pub fn with_lost(mut self, lost: u64, error: Option<BoxError>) -> Self {
        self.lost = lost;
        self.error = error;
        self
    }

    /// Whether nothing was lost and nothing went wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && !self.timed_out && self.error.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_counts_by_reason_and_adds_up() {
        let mut removed = Removed::expired(3);
        removed += Removed::of(RemovalReason::Capacity, 1);
        removed += Removed::expired(1);
        assert_eq!(removed.get(RemovalReason::Expired), 4);
        assert_eq!(removed.total(), 5);
        assert_eq!(removed.to_string(), "4 expired, 1 capacity");
        assert_eq!(Removed::NONE.to_string(), "nothing");
    }

    #[test]
    fn each_reason_has_a_slot_of_its_own() {
        for (slot, reason) in RemovalReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, slot);
        }
    }

    #[test]
    fn totals_balance_with_what_is_held() {
        let totals = Totals::new(10, Removed::expired(4));
        assert_eq!(totals.held(), 6);
        assert!(totals.balance(6));
        assert!(!totals.balance(5));
    }

    #[test]
    fn utilisation_is_that_of_the_closest_limit() {
        let usage = Usage::new(50, 90);
        assert_eq!(usage.utilisation(), None);
        assert_eq!(usage.with_max_entries(100).utilisation(), Some(0.5));
        let both = usage.with_max_entries(100).with_max_bytes(100);
        assert_eq!(both.utilisation(), Some(0.9));
        assert_eq!(usage.with_max_entries(0).utilisation(), Some(1.0));
    }
}
