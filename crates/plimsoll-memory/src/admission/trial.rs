//! Requests that are let in out of their turn, since nothing is known of those like them.
//!
//! What the first request of a route is taken to hold is guessed, and guessed to be much, so it waits
//! behind those that are known to hold much. Most hold little. So one of a kind may come at once: it
//! reserves little, and by what it holds the others are known.
//!
//! It may turn out to be heavy. So all those on trial count twice when it is let in: what they reserve has room
//! besides everything else that is reserved, and what they would come to hold if each were as heavy as is guessed
//! has room besides what is used then. Those that come in their turn afterwards go by what is reserved alone.
//! However many kinds come at the same moment, no more are on trial.

/// What one on trial reserves at the most, as a part of the line: four times what a small one does.
const RESERVED: u64 = 256;
/// All of them reserve as much as so many of those: half of what is left to small ones, which is where they
/// come when large ones have taken all the rest.
const ALL: u64 = 2;

/// When one that has answered, and one that has not, has told what it is like, in nanoseconds.
const TELLS_ANSWERED: u64 = 64_000_000;
const TELLS: u64 = 1_000_000_000;

/// What one on trial, or all of them, count for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Trial {
    /// What it may still come to hold if it is what it is hoped to be.
    pub(super) reserved: u64,
    /// The same, if it is as heavy as is guessed.
    pub(super) risked: u64,
}

/// What one that runs shows itself to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shows {
    /// Nothing yet: it holds little, and may have just begun.
    Nothing,
    /// That it takes long, and holds little so far.
    Waits,
    /// That it holds little. It has answered, so what it made its answer of was there.
    Light,
    /// That it holds more than one on trial reserves.
    Heavy,
}

/// What one on trial reserves at the most.
pub(super) const fn most(line: u64) -> u64 {
    line / RESERVED
}

// === impl Trial ===

impl Trial {
    pub(super) const fn add(&mut self, other: &Self) {
        self.reserved += other.reserved;
        self.risked += other.risked;
    }

    pub(super) const fn end(&mut self, other: &Self) {
        self.reserved = self.reserved.saturating_sub(other.reserved);
        self.risked = self.risked.saturating_sub(other.risked);
    }

    /// The same, and one more, unless those are too many.
    pub(super) fn with(mut self, other: &Self, line: u64) -> Option<Self> {
        self.add(other);
        (self.reserved <= ALL * most(line)).then_some(self)
    }
}

// === impl Shows ===

impl Shows {
    /// What one shows that has run for so long, in nanoseconds, and holds so much.
    pub(super) const fn of(age: u64, live: u64, has_answered: bool, line: u64) -> Self {
        if live > most(line) {
            Self::Heavy
        } else if has_answered && age >= TELLS_ANSWERED {
            Self::Light
        } else if age >= TELLS {
            Self::Waits
        } else {
            Self::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;
    const MS: u64 = 1_000_000;

    #[test]
    fn two_that_reserve_all_they_may_are_on_trial_at_a_time() {
        let one = Trial {
            reserved: most(LINE),
            risked: LINE / 8,
        };
        let two = Trial::default().with(&one, LINE).unwrap();
        let mut two = two.with(&one, LINE).unwrap();
        assert_eq!(two.reserved, 8 * MIB);
        assert_eq!(two.with(&one, LINE), None);
        two.end(&one);
        assert!(two.with(&one, LINE).is_some());
    }

    #[test]
    fn those_that_reserve_little_may_be_more_and_what_they_risk_adds_up() {
        let little = Trial {
            reserved: MIB,
            risked: 100 * MIB,
        };
        let mut all = Trial::default();
        for _ in 0..8 {
            all = all.with(&little, LINE).unwrap();
        }
        assert_eq!((all.reserved, all.risked), (8 * MIB, 800 * MIB));
        assert_eq!(all.with(&little, LINE), None);
    }

    #[test]
    fn one_shows_that_it_is_light_a_while_after_it_has_answered() {
        assert_eq!(Shows::of(63 * MS, 0, true, LINE), Shows::Nothing);
        assert_eq!(Shows::of(64 * MS, 4 * MIB, true, LINE), Shows::Light);
        assert_eq!(Shows::of(999 * MS, 0, false, LINE), Shows::Nothing);
        assert_eq!(Shows::of(1_000 * MS, 0, false, LINE), Shows::Waits);
    }

    #[test]
    fn one_that_holds_more_than_it_reserves_is_heavy_at_any_time() {
        for has_answered in [false, true] {
            for age in [0, 2_000 * MS] {
                let shows = Shows::of(age, 4 * MIB + 1, has_answered, LINE);
                assert_eq!(shows, Shows::Heavy);
            }
        }
    }
}
