//! What only those see who have the lock: what is used, who runs, and who waits.

use crate::admission::{
    Meter,
    drain::Drain,
    lanes::Lanes,
    running::{Large, Running},
    shares::Shares,
    shed::Shed,
    usage::{Reuse, Usage},
};

/// No more is used, whatever the meter says. Sums of it do not overflow.
const MOST_USED: u64 = 1 << 60;
/// How often in a row what is used may be unreadable before nothing is known of it.
const MOST_BLIND: u8 = 100;

/// What only those see who have the lock.
pub(in crate::admission) struct Book {
    pub(super) meter: Box<dyn Meter>,
    /// When what is used was read last, and how long that took.
    pub(super) read: Option<(u64, u64)>,
    /// What was used then; none where nobody says.
    pub(super) used: Option<Usage>,
    pub(super) reuse: Reuse,
    /// How often in a row what is used could not be read.
    pub(super) blind: u8,
    pub(super) running: Running,
    pub(super) lanes: Lanes,
    pub(super) shares: Shares,
    pub(super) drain: Drain,
    pub(super) shed: Shed,
    /// Whether somebody waits who would not fit either if those who were let in just now had not
    /// been: for want of memory, and not of processors.
    pub(super) is_short: bool,
}

// === impl Book ===

impl Book {
    pub(super) fn new(meter: Box<dyn Meter>) -> Self {
        Self {
            meter,
            read: None,
            used: None,
            reuse: Reuse::new(),
            blind: 0,
            running: Running::default(),
            lanes: Lanes::default(),
            shares: Shares::default(),
            drain: Drain::default(),
            shed: Shed::NOTHING,
            is_short: false,
        }
    }

    /// One of those who run has ended. Says what was reserved for it; nothing if it had before.
    pub(super) fn end(&mut self, large: &Large) -> u64 {
        let Some((reserved, key)) = self.running.end(large) else {
            return 0;
        };
        self.shares.uncharge(key, reserved);
        reserved
    }

    /// Reads what is used, and what those who run may still grow by.
    pub(super) fn read(&mut self, guess: u64, line: u64, now: u64) {
        // Those who run first: what they get meanwhile counts twice, rather than not at all.
        self.running.look(&mut self.shares, guess, line, now);
        let used = self.meter.used().map(|used| used.min(MOST_USED));
        if used.is_none() && self.used.is_some() && self.blind < MOST_BLIND {
            // What was known a moment ago counts for a while.
            self.blind += 1;
            return;
        }
        self.blind = 0;
        let tracked = self.meter.tracked().map(|bytes| bytes.min(MOST_USED));
        self.used = used.map(|used| match tracked {
            Some(tracked) => self.reuse.look(used, tracked, line, now),
            None => Usage::untracked(used),
        });
    }
}
