//! Where one mapping of the system's ends and another may begin.
//!
//! Blocks may lie across such seams, but the system moves no addresses that do.

use super::extents::{Extent, MOST_PIECES};

/// How many are known at most, of 8 bytes each.
pub(super) const MOST: usize = 4_096;

/// Addresses, in order.
#[derive(Debug)]
pub(super) struct Seams {
    list: [usize; MOST],
    count: usize,
    /// Some are not known, since there were too many.
    is_lost: bool,
}

impl Seams {
    pub(super) const fn new() -> Self {
        Self {
            list: [0; MOST],
            count: 0,
            is_lost: false,
        }
    }

    /// Whether all of them are known, and those of one block more would be.
    pub(super) const fn has_all(&self) -> bool {
        !self.is_lost && self.count + MOST_PIECES + 2 <= MOST
    }

    /// The first after an address.
    pub(super) fn after(&self, addr: usize) -> Option<usize> {
        let all = &self.list[..self.count];
        all.get(all.partition_point(|seam| *seam <= addr)).copied()
    }

    pub(super) fn add(&mut self, addr: usize) {
        let Err(at) = self.list[..self.count].binary_search(&addr) else {
            return;
        };
        if self.count == MOST {
            self.is_lost = true;
            return;
        }
        self.list.copy_within(at..self.count, at + 1);
        self.list[at] = addr;
        self.count += 1;
    }

    /// Adds those at both ends of a mapping.
    pub(super) fn add_ends(&mut self, of: Extent) {
        self.add(of.addr);
        self.add(of.end());
    }

    /// Forgets those of a range that is no longer mapped, with those at its ends: whoever is mapped next
    /// to them later adds its own.
    pub(super) fn clear(&mut self, of: Extent) {
        let all = &self.list[..self.count];
        let from = all.partition_point(|seam| *seam < of.addr);
        let until = all.partition_point(|seam| *seam <= of.end());
        self.list.copy_within(until..self.count, from);
        self.count -= until - from;
    }

    /// There is nothing mapped any more.
    pub(super) const fn forget(&mut self) {
        self.count = 0;
        self.is_lost = false;
    }
}
