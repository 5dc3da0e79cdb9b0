//! The cache of the service: values of one size, the least recently used of which goes first.

use bytes::Bytes;
use plimsoll::{
    Bounded, BoxFuture, CloseReport, Holding, RemovalReason, Removed, Step, Totals, Usage,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::time::Instant;

const VALUE: usize = 64 << 10;

/// Values of 64 KiB. When it is full, the least recently used makes room.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max_entries: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    values: HashMap<u32, (u64, Bytes)>,
    /// By when each was used last.
    by_use: BTreeMap<u64, u32>,
    uses: u64,
    totals: Totals,
}

impl Cache {
    /// Makes an empty cache of so many values.
    #[must_use]
    pub fn new(max_entries: usize) -> Self {
        Self(Arc::new(Inner {
            max_entries,
            state: Mutex::default(),
        }))
    }

    /// The value of a key, if it is there.
    #[must_use]
    pub fn get(&self, key: u32) -> Option<Bytes> {
        let mut state = self.0.lock();
        let State {
            values,
            by_use,
            uses,
            ..
        } = &mut *state;
        let (used, value) = values.get_mut(&key)?;
        by_use.remove(used);
        *uses += 1;
        *used = *uses;
        by_use.insert(*uses, key);
        Some(value.clone())
    }

    /// Makes the value of a key, as if it came from far away, and keeps it.
    #[must_use]
    pub fn insert(&self, key: u32) -> Bytes {
        let value = Bytes::from(vec![key as u8; VALUE]);
        let mut state = self.0.lock();
        if state.values.contains_key(&key) {
            // Somebody else was faster.
            return value;
        }
        while state.values.len() >= self.0.max_entries {
            state.remove_coldest(RemovalReason::Capacity);
        }
        state.totals.inserted += 1;
        state.uses += 1;
        let used = state.uses;
        state.by_use.insert(used, key);
        state.values.insert(key, (used, value.clone()));
        value
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove_coldest(&mut self, reason: RemovalReason) {
        if let Some((_, key)) = self.by_use.pop_first() {
            self.values.remove(&key);
            self.totals.removed.add(reason, 1);
        }
    }
}

impl Holding for Cache {
    fn bounded(&self) -> Arc<dyn Bounded> {
        self.0.clone()
    }
}

impl Bounded for Inner {
    fn name(&self) -> &str {
        "cache"
    }

    fn usage(&self) -> Usage {
        let entries = self.lock().values.len();
        Usage::new(entries as u64, (entries * VALUE) as u64)
            .with_max_entries(self.max_entries as u64)
            .with_max_bytes((self.max_entries * VALUE) as u64)
    }

    fn totals(&self) -> Totals {
        self.lock().totals
    }

    fn sweep(&self, _: Instant, _: usize) -> Step {
        Step::idle()
    }

    fn shrink(&self, share: f64, _: usize) -> Step {
        // So few that one slice does it.
        let mut state = self.lock();
        let count = (state.values.len() as f64 * share.clamp(0.0, 1.0)).ceil() as u64;
        for _ in 0..count {
            state.remove_coldest(RemovalReason::Pressure);
        }
        Step {
            removed: Removed::of(RemovalReason::Pressure, count),
            ..Step::idle()
        }
    }

    fn close(self: Arc<Self>, _: Instant) -> BoxFuture<'static, CloseReport> {
        Box::pin(async move {
            let mut state = self.lock();
            let dropped = state.values.len() as u64;
            while !state.values.is_empty() {
                state.remove_coldest(RemovalReason::Closed);
            }
            CloseReport::dropped(dropped)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_ENTRIES: usize = 64;

    #[test]
    fn the_least_recently_used_goes_first_and_totals_balance() {
        let cache = Cache::new(MAX_ENTRIES);
        for key in 0..MAX_ENTRIES as u32 {
            let _ = cache.insert(key);
        }
        assert!(cache.get(0).is_some());
        let _ = cache.insert(5_000);
        assert!(cache.get(1).is_none());
        assert!(cache.get(0).is_some());
        let bounded = cache.bounded();
        assert_eq!(bounded.usage().utilisation(), Some(1.0));
        let step = bounded.shrink(0.5, 1);
        assert_eq!(step.removed.total(), MAX_ENTRIES as u64 / 2);
        assert!(cache.get(0).is_some() && cache.get(2).is_none());
        assert!(bounded.totals().balance(bounded.usage().entries));
    }
}
