use crate::{CircuitBreaker, KeyedBreakers, breaker::Shared, keyed::Keyed, sync::Mutex};
use plimsoll_core::{Name, Removed};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    error::Error,
    fmt,
    sync::{Arc, Weak},
};

/// The breakers of a program by name, for whoever shows, measures and operates them.
///
/// Cloning it gives another handle to the same directory. It keeps no breaker alive: one whose
/// last handle is dropped is forgotten, and its name is free again.
///
/// ```
/// use plimsoll_breaker::{Breakers, CircuitBreaker, CircuitBreakerConfig};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let breakers = Breakers::new();
/// let orders = CircuitBreaker::new("orders", CircuitBreakerConfig::new())?;
/// breakers.insert(&orders)?;
/// breakers.get("orders").expect("inserted just now").force_open();
/// assert!(orders.try_acquire().is_err());
/// # Ok(())
/// # }
/// ```
///
/// # Memory
///
/// Some 50 bytes for each breaker that lives. What remains of one that is gone, less than 1 KiB,
/// is freed by the next [`insert`](Self::insert) or [`list`](Self::list).
#[derive(Clone, Debug, Default)]
pub struct Breakers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// No breaker is called, and none can be dropped, under this lock.
    breakers: Mutex<BTreeMap<Name, Weak<Shared>>>,
    keyed: Mutex<BTreeMap<Name, Weak<Keyed>>>,
    #[cfg(feature = "metrics")]
    published: crate::metrics::Published,
}

/// A living breaker of that name is in the directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DuplicateBreaker(Name);

impl Breakers {
    /// Makes a directory, which is empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a breaker under its own name. O(n).
    ///
    /// # Errors
    ///
    /// When a living breaker, this one included, is here by that name.
    pub fn insert(&self, breaker: &CircuitBreaker) -> Result<(), DuplicateBreaker> {
        let mut breakers = self.0.breakers.lock();
        breakers.retain(is_alive);
        match breakers.entry(breaker.name()) {
            Entry::Occupied(taken) => Err(DuplicateBreaker(*taken.key())),
            Entry::Vacant(free) => {
                free.insert(Arc::downgrade(breaker.shared()));
                Ok(())
            }
        }
    }

    /// Takes in keyed breakers under their own name, so that their number and their overflow are
    /// measured. O(n).
    ///
    /// # Errors
    ///
    /// When living ones, these included, are here by that name.
    pub fn insert_keyed(&self, keyed: &KeyedBreakers) -> Result<(), DuplicateBreaker> {
        let mut breakers = self.0.keyed.lock();
        breakers.retain(|_, keyed| keyed.strong_count() > 0);
        match breakers.entry(keyed.name()) {
            Entry::Occupied(taken) => Err(DuplicateBreaker(*taken.key())),
            Entry::Vacant(free) => {
                free.insert(keyed.downgrade());
                Ok(())
            }
        }
    }

    /// The keyed breakers of that name.
    #[must_use]
    pub fn get_keyed(&self, name: &str) -> Option<KeyedBreakers> {
        KeyedBreakers::upgrade(self.0.keyed.lock().get(name)?)
    }

    /// Forgets keyed breakers, and says whether they were here.
    #[expect(
        clippy::must_use_candidate,
        reason = "they are not here afterwards, whatever the answer"
    )]
    pub fn remove_keyed(&self, keyed: &KeyedBreakers) -> bool {
        let mut breakers = self.0.keyed.lock();
        let Entry::Occupied(found) = breakers.entry(keyed.name()) else {
            return false;
        };
        // Others may have the name.
        let same = found.get().ptr_eq(&keyed.downgrade());
        if same {
            found.remove();
        }
        same
    }

    /// All keyed breakers, in the order of their names.
    #[must_use]
    pub fn list_keyed(&self) -> Vec<KeyedBreakers> {
        let mut keyed = self.0.keyed.lock();
        keyed.retain(|_, keyed| keyed.strong_count() > 0);
        keyed.values().filter_map(KeyedBreakers::upgrade).collect()
    }

    /// Forgets a breaker, and says whether it was here.
    #[expect(
        clippy::must_use_candidate,
        reason = "it is not here afterwards, whatever the answer"
    )]
    pub fn remove(&self, breaker: &CircuitBreaker) -> bool {
        let mut breakers = self.0.breakers.lock();
        let Entry::Occupied(found) = breakers.entry(breaker.name()) else {
            return false;
        };
        // Another one may have the name.
        let same = std::ptr::eq(found.get().as_ptr(), Arc::as_ptr(breaker.shared()));
        if same {
            found.remove();
        }
        same
    }

    /// The breaker of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<CircuitBreaker> {
        let breakers = self.0.breakers.lock();
        let breaker = breakers.get(name)?.upgrade()?;
        Some(CircuitBreaker::from_shared(breaker))
    }

    /// Every breaker, in the order of their names.
    #[must_use]
    pub fn list(&self) -> Vec<CircuitBreaker> {
        let mut breakers = self.0.breakers.lock();
        breakers.retain(is_alive);
        let living = breakers.values().filter_map(Weak::upgrade);
        living.map(CircuitBreaker::from_shared).collect()
    }

    /// Drops the records of every breaker that are too old, now, and says how many.
    #[expect(
        clippy::must_use_candidate,
        reason = "they are dropped whether or not anybody wants to know"
    )]
    pub fn cleanup(&self) -> Vec<(Name, Removed)> {
        let breakers = self.list();
        let cleaned = breakers.iter().map(|breaker| {
            let removed = breaker.cleanup();
            (breaker.name(), removed)
        });
        cleaned.collect()
    }

    /// Writes what every breaker knows to the installed `metrics` recorder. Call it before a
    /// scrape.
    ///
    /// The gauges of a breaker that was here the last time and is not any more are brought to
    /// zero. Its counters stay; another of its name goes on with them once it has counted more.
    #[cfg(feature = "metrics")]
    pub fn publish_metrics(&self) {
        let breakers = self.list();
        let snapshots: Vec<_> = breakers.iter().map(CircuitBreaker::snapshot).collect();
        self.0.published.publish(&snapshots);
        self.0.published.publish_keyed(&self.list_keyed());
    }
}

fn is_alive(_: &Name, breaker: &mut Weak<Shared>) -> bool {
    breaker.strong_count() > 0
}

impl DuplicateBreaker {
    /// The name that is taken.
    #[must_use]
    pub const fn name(&self) -> Name {
        self.0
    }
}

impl fmt::Display for DuplicateBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.as_str();
        write!(
            f,
            "a circuit breaker named {name:?} is in the directory: give each its own name"
        )
    }
}

impl Error for DuplicateBreaker {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CircuitBreakerConfig;

    #[test]
    fn what_is_left_of_a_breaker_that_is_gone_goes_with_the_next_insert_and_list() {
        let breakers = Breakers::new();
        let places = || breakers.0.breakers.lock().len();
        let insert = |name: &str| {
            let breaker = CircuitBreaker::new(name, CircuitBreakerConfig::new()).unwrap();
            breakers.insert(&breaker).unwrap();
        };
        for n in 0..100 {
            insert(&n.to_string());
            assert_eq!(places(), 1);
        }
        assert!(breakers.list().is_empty());
        assert_eq!(places(), 0);
    }
}
