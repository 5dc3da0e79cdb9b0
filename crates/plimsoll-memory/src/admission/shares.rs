//! What large requests hold, by whose they are.

use std::collections::HashMap;

/// What the requests of each key are taken to hold, of those who run and those who wait.
#[derive(Default)]
pub(super) struct Shares(HashMap<u64, u64>);

impl Shares {
    pub(super) fn charge(&mut self, key: Option<u64>, bytes: u64) {
        if let Some(key) = key {
            *self.0.entry(key).or_default() += bytes;
        }
    }

    pub(super) fn uncharge(&mut self, key: Option<u64>, bytes: u64) {
        let Some(key) = key else {
            return;
        };
        if let Some(held) = self.0.get_mut(&key) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.0.remove(&key);
            }
        }
    }

    /// One that is charged is taken to hold another amount by now.
    pub(super) fn change(&mut self, key: Option<u64>, before: u64, now: u64) {
        if let Some(held) = key.and_then(|key| self.0.get_mut(&key)) {
            *held = (*held + now).saturating_sub(before);
        }
    }

    /// What those of a key are taken to hold.
    pub(super) fn held(&self, key: u64) -> u64 {
        self.0.get(&key).copied().unwrap_or(0)
    }

    /// The key that counts for one: itself, as long as there are not too many.
    pub(super) fn key(&self, key: u64, max: usize) -> u64 {
        match self.0.contains_key(&key) || self.0.len() < max {
            true => key,
            false => 0,
        }
    }
}
