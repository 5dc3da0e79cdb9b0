//! Where one mapping of the system's ends and another may begin.
//!
//! Blocks may lie across such seams, but the system moves no addresses that do.

use super::extents::{Extent, MOST_PIECES};

/// How many are known at most, of 8 bytes each.
pub(super) const MOST: usize = 4_096;

/// How often the system may refuse to move what should have been a mapping.
const MOST_REFUSALS: u8 = 8;

/// Addresses, in order.
#[derive(Debug)]
pub(super) struct Seams {
    list: [usize; MOST],
    count: usize,
    /// Some are not known, since there were too many.
    is_lost: bool,
    refusals: u8,
}

impl Seams {
    pub(super) const fn new() -> Self {
        Self {
            list: [0; MOST],
            count: 0,
            is_lost: false,
            refusals: 0,
        }
    }

    /// Whether all of them are known, and those of one block more would be.
    pub(super) const fn has_all(&self) -> bool {
        !self.is_lost && self.refusals < MOST_REFUSALS && self.count + MOST_PIECES + 2 <= MOST
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

    /// The system did not move what should have been in one mapping: the program has split it, or there
    /// are as many mappings as there may be. Either may go on, and costs addresses each time.
    pub(super) const fn refused(&mut self) {
        self.refusals = self.refusals.saturating_add(1);
    }

    /// There is nothing mapped any more.
    pub(super) const fn forget(&mut self) {
        self.count = 0;
        self.is_lost = false;
        self.refusals = 0;
    }
}

#[cfg(all(test, not(plimsoll_loom)))]
impl Seams {
    pub(super) fn known(&self) -> &[usize] {
        &self.list[..self.count]
    }
}

#[cfg(all(test, not(plimsoll_loom)))]
mod tests {
    use super::*;

    fn seams(at: impl IntoIterator<Item = usize>) -> Seams {
        let mut seams = Seams::new();
        at.into_iter().for_each(|addr| seams.add(addr));
        seams
    }

    #[test]
    fn next_seam_is_the_first_behind_an_address() {
        let seams = seams([30, 10, 20, 10]);
        assert_eq!(seams.known(), [10, 20, 30]);
        assert_eq!(seams.after(0), Some(10));
        assert_eq!(seams.after(10), Some(20));
        assert_eq!(seams.after(29), Some(30));
        assert_eq!(seams.after(30), None);
    }

    #[test]
    fn seams_of_what_is_gone_go_with_those_at_its_ends() {
        let mut seams = seams([5, 10, 12, 20, 25]);
        seams.clear(Extent { addr: 10, len: 10 });
        assert_eq!(seams.known(), [5, 25]);
        seams.clear(Extent { addr: 6, len: 10 });
        assert_eq!(seams.known(), [5, 25]);
        seams.add_ends(Extent { addr: 10, len: 10 });
        assert_eq!(seams.known(), [5, 10, 20, 25]);
    }

    #[test]
    fn all_are_known_as_long_as_those_of_one_block_more_fit() {
        assert_eq!(MOST, 4_096);
        let few = MOST - MOST_PIECES - 2;
        let mut seams = seams(1..=few);
        assert!(seams.has_all());
        seams.add(few + 1);
        assert!(!seams.has_all());
        // None was lost.
        seams.clear(Extent { addr: 0, len: 1 });
        assert!(seams.has_all());
    }

    #[test]
    fn nothing_is_known_for_sure_after_8_refusals() {
        let mut seams = seams([10]);
        for _ in 0..8 {
            assert!(seams.has_all());
            seams.refused();
        }
        assert!(!seams.has_all());
        seams.forget();
        assert!(seams.has_all());
    }

    #[test]
    fn one_that_has_no_place_is_missed_until_nothing_is_mapped() {
        let mut seams = seams(1..=MOST);
        seams.add(MOST);
        seams.clear(Extent { addr: 1, len: 100 });
        assert!(seams.has_all(), "none was lost");

        seams = self::seams(1..=MOST + 1);
        assert_eq!(seams.known().len(), MOST);
        seams.clear(Extent {
            addr: 0,
            len: 2 * MOST,
        });
        assert_eq!(seams.known(), []);
        assert!(!seams.has_all());
        seams.forget();
        assert!(seams.has_all());
    }
}
