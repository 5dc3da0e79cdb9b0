//! What large requests hold, by whose they are.

use std::collections::HashMap;

/// What the requests of each key are taken to hold, of those who run and those who wait.
#[derive(Default)]
pub(super) struct Shares(HashMap<u64, Share>);

#[derive(Default)]
struct Share {
    /// How many are charged for, some of which may hold nothing.
    requests: usize,
    bytes: u64,
}

impl Shares {
    pub(super) fn charge(&mut self, key: Option<u64>, bytes: u64) {
        if let Some(key) = key {
            let share = self.0.entry(key).or_default();
            share.requests += 1;
            share.bytes += bytes;
        }
    }

    /// One that was charged is no longer.
    pub(super) fn uncharge(&mut self, key: Option<u64>, bytes: u64) {
        let Some(key) = key else {
            return;
        };
        if let Some(share) = self.0.get_mut(&key) {
            share.requests -= 1;
            share.bytes = share.bytes.saturating_sub(bytes);
            if share.requests == 0 {
                self.0.remove(&key);
            }
        }
    }

    /// One that is charged is taken to hold another amount by now.
    pub(super) fn change(&mut self, key: Option<u64>, before: u64, now: u64) {
        if let Some(share) = key.and_then(|key| self.0.get_mut(&key)) {
            share.bytes = (share.bytes + now).saturating_sub(before);
        }
    }

    /// What those of a key are taken to hold.
    pub(super) fn held(&self, key: u64) -> u64 {
        self.0.get(&key).map_or(0, |share| share.bytes)
    }

    /// The key that counts for one: itself, as long as there are not too many.
    pub(super) fn key(&self, key: u64, max: usize) -> u64 {
        match self.0.contains_key(&key) || self.0.len() < max {
            true => key,
            false => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_ends_takes_nothing_of_those_who_held_nothing_until_then() {
        let (mut shares, key) = (Shares::default(), Some(7));
        shares.charge(key, 100);
        shares.charge(key, 100);
        for _ in 0..2 {
            shares.change(key, 100, 0);
        }
        shares.uncharge(key, 0);
        shares.change(key, 0, 50);
        assert_eq!(shares.held(7), 50);
        assert_eq!(shares.key(8, 1), 0, "it has its place still");
        shares.uncharge(key, 50);
        assert_eq!((shares.held(7), shares.key(8, 1)), (0, 8));
    }
}
