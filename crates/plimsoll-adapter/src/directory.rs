use crate::{Adapter, AdapterSnapshot, DuplicateAdapter, adapter::Shared};
use plimsoll_alloc::GroupId;
use plimsoll_core::Name;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// The adapters of a program by name, whatever they call and with what, for whoever shows and
/// measures them.
///
/// Cloning it gives another handle to the same directory. It keeps no adapter alive: one whose last
/// handle is dropped is forgotten, and its name is free again.
///
/// ```
/// use plimsoll_adapter::{Adapter, AdapterDirectory};
/// use plimsoll_core::BoxError;
///
/// # fn main() -> Result<(), BoxError> {
/// let text = Adapter::builder("text").function(|s: String| async { Ok::<_, BoxError>(s) })?;
/// let sums = Adapter::builder("sums").function(|n: u64| async move { Ok::<_, BoxError>(n + 1) })?;
/// let directory = AdapterDirectory::new();
/// directory.insert(&text)?;
/// directory.insert(&sums)?;
/// assert_eq!(directory.snapshots()[0].name.as_str(), "sums");
/// # Ok(())
/// # }
/// ```
///
/// # Memory
///
/// Some 50 bytes for each adapter that lives. What remains of one that is gone is freed by the next
/// [`insert`](Self::insert) or [`snapshots`](Self::snapshots).
#[derive(Clone, Default)]
pub struct AdapterDirectory(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// No adapter is asked, and none can be dropped, under this lock.
    adapters: Mutex<BTreeMap<Name, Weak<Shared>>>,
    #[cfg(feature = "metrics")]
    published: crate::metrics::Published,
}

impl AdapterDirectory {
    /// Makes a directory, which is empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in an adapter under its own name. O(n).
    ///
    /// # Errors
    ///
    /// When a living adapter, this one included, is here by that name.
    pub fn insert<Req, Res>(&self, adapter: &Adapter<Req, Res>) -> Result<(), DuplicateAdapter> {
        let mut adapters = self.0.lock();
        adapters.retain(is_alive);
        match adapters.entry(adapter.name()) {
            Entry::Occupied(taken) => Err(DuplicateAdapter::new(*taken.key())),
            Entry::Vacant(free) => {
                free.insert(Arc::downgrade(adapter.shared()));
                Ok(())
            }
        }
    }

    /// Forgets an adapter, and says whether it was here.
    #[expect(
        clippy::must_use_candidate,
        reason = "it is not here afterwards, whatever the answer"
    )]
    pub fn remove<Req, Res>(&self, adapter: &Adapter<Req, Res>) -> bool {
        let mut adapters = self.0.lock();
        let Entry::Occupied(found) = adapters.entry(adapter.name()) else {
            return false;
        };
        // Another one may have the name.
        let same = std::ptr::eq(found.get().as_ptr(), Arc::as_ptr(adapter.shared()));
        if same {
            found.remove();
        }
        same
    }

    /// Everything that is known of every adapter now, in the order of their names.
    #[must_use]
    pub fn snapshots(&self) -> Vec<AdapterSnapshot> {
        // In a statement of its own, so that none is asked under the lock.
        let living = self.0.living();
        living.iter().map(|adapter| adapter.snapshot()).collect()
    }

    /// The group of scopes of every adapter that was called and weighed, with its name.
    #[must_use]
    pub fn memory_groups(&self) -> Vec<(GroupId, Name)> {
        let living = self.0.living();
        let groups = living.iter().map(|it| Some((it.memory_group()?, it.name)));
        groups.flatten().collect()
    }

    /// Writes what every adapter knows to the installed `metrics` recorder. Call it before a
    /// scrape.
    ///
    /// The gauges of an adapter that was here the last time and is not any more are brought to
    /// zero. Its counters stay; another of its name goes on with them once it has counted more.
    #[cfg(feature = "metrics")]
    pub fn publish_metrics(&self) {
        self.0.published.publish(&self.0.living());
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Weak<Shared>>> {
        self.adapters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn living(&self) -> Vec<Arc<Shared>> {
        let mut adapters = self.lock();
        adapters.retain(is_alive);
        adapters.values().filter_map(Weak::upgrade).collect()
    }
}

fn is_alive(_: &Name, adapter: &mut Weak<Shared>) -> bool {
    adapter.strong_count() > 0
}

impl fmt::Debug for AdapterDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.lock().keys().copied().collect();
        f.debug_list().entries(names).finish()
    }
}

#[cfg(all(test, not(plimsoll_loom)))]
mod tests {
    use super::*;
    use plimsoll_core::BoxError;

    #[test]
    fn what_is_left_of_an_adapter_that_is_gone_goes_with_the_next_insert_and_look() {
        let directory = AdapterDirectory::new();
        let places = || directory.0.lock().len();
        for n in 0..100 {
            let function = |n: u64| async move { Ok::<_, BoxError>(n) };
            let adapter = Adapter::builder(n.to_string()).function(function).unwrap();
            directory.insert(&adapter).unwrap();
            assert_eq!(places(), 1);
        }
        assert!(directory.snapshots().is_empty());
        assert_eq!(places(), 0);
    }
}
