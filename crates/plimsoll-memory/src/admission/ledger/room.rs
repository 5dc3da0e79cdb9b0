//! Who has room below the line: what somebody wants, whether that fits, and who may come all the same.

use super::{Asking, Book, Ledger, MOST};
use crate::admission::{
    growth::Spread,
    learn::Learned,
    trial::{self, Trial},
};
use std::sync::{PoisonError, atomic::Ordering::Relaxed};

/// What is announced of a body counts up to so many guesses, until it is known better.
const ANNOUNCED: u64 = 2;
/// This part of the line is left to small requests, so that large ones never keep them out.
const FOR_SMALL: u64 = 64;
/// Those who run do not count, for whoever waits for all others to end, if they hold no more than that
/// part of the line in all: a stream of events may never end.
const ALONE: u64 = 32;

/// What is used is not read again sooner than that, in nanoseconds.
pub(super) const FRESH: u64 = 500_000;
/// The same where there is room for long, or nobody waits.
const FRESH_IF_ROOMY: u64 = 20_000_000;
/// There is room for long if this part of the line is free.
const ROOMY: u64 = 4;
/// Reading takes at most this part of the time, unless it is slower than usual: who is kept from it by
/// others would wait for long.
const READING_SHARE: u64 = 20;
const SLOW_READING: u64 = 250_000;

impl Ledger {
    /// What somebody is taken to hold at most. What it says of its body counts where nobody counts, or
    /// none of its size has ended yet: those after it may be streamed, and never be held as a whole.
    pub(super) fn wanted(&self, asking: &Asking<'_>, guess: impl FnOnce() -> u64) -> u64 {
        let held = match (asking.is_counted, asking.learned.expected()) {
            (true, Some(expected)) => expected,
            (true, None) => {
                let guess = guess();
                guess.max(asking.declared.min(guess.saturating_mul(ANNOUNCED)))
            }
            (false, _) => asking.declared,
        };
        held.min(MOST)
    }

    /// Whether there is room for so much more.
    pub(super) fn fits(&self, book: &Book, want: u64, learned: Option<&Learned>) -> bool {
        // What nobody knows refuses nobody.
        let (Some(used), Some(line)) = (book.used, self.line()) else {
            return true;
        };
        let is_small = self.is_small(want);
        let for_large = line - line / FOR_SMALL;
        let (line, growth) = if is_small {
            // One that was let in alone may want more than there is, which must not keep them out.
            let room = for_large.saturating_sub(used.now());
            (line, book.running.growth().total().min(room) + want)
        } else {
            let spread =
                learned.map_or_else(|| Spread::certain(want), |learned| learned.spread(want));
            (for_large, book.running.growth().with(&spread).total())
        };
        used.with(growth + self.reserved_for_small()) <= line
    }

    /// Whether a large one may come though there is no room for it, since no other runs that holds much.
    pub(super) fn may_come_alone(&self, book: &Book, want: u64) -> bool {
        let (Some(used), Some(line)) = (book.used, self.line()) else {
            return true;
        };
        let others = book.running.held() + book.running.growth().total();
        let is_alone = book.running.count() == 0 || others <= line / ALONE;
        !self.is_small(want) && is_alone && used.now() <= line - line / FOR_SMALL
    }

    /// What one counts for that may come out of its turn, since nothing was known of those like it when
    /// it came, and nothing is, or that they hold little.
    pub(super) fn trial(&self, book: &Book, asking: &Asking<'_>, want: u64) -> Option<Trial> {
        let most = trial::most(self.line()?);
        let learned = asking.learned;
        let reserved = match learned.expected() {
            Some(known) => known,
            // Another one is about to tell, or has told that it is heavy.
            None if learned.is_untold() || learned.most_running() > most => return None,
            // One that says of itself that it may hold more is none to try.
            None => most.max(asking.declared).min(want),
        };
        let trial = Trial {
            reserved,
            risked: want,
        };
        (reserved <= most && self.has_room_for(book, &trial)).then_some(trial)
    }

    /// Whether one more may come out of its turn that counts for so much.
    pub(super) fn has_room_for(&self, book: &Book, trial: &Trial) -> bool {
        let (Some(used), Some(line)) = (book.used, self.line()) else {
            return false;
        };
        if book.lanes.small_ones_wait() || book.shed.share > 0.0 {
            return false;
        }
        let Some(all) = book.running.on_trial().with(trial, line) else {
            return false;
        };
        // As for small ones: what large ones may come to hold besides that is not theirs.
        let room = (line - line / FOR_SMALL).saturating_sub(used.now());
        let growth = book.running.growth().total().min(room) + self.reserved_for_small();
        used.with(growth + all.reserved) <= line && used.with(all.risked) <= line
    }

    pub(super) fn is_short(&self, book: &Book, want: u64) -> bool {
        let taken = book.used.unwrap_or_default();
        let taken = taken.with(book.running.growth().of_begun() + want);
        self.line().is_some_and(|line| taken > line)
    }

    /// Has small ones ask whenever one might not fit, or has to wait for others. A large one that fits says
    /// that a small one does: what is left to small ones besides is more.
    pub(super) fn set_closed(&self, book: &Book, large_fits: bool) {
        let fits = || large_fits || self.fits(book, self.small.load(Relaxed), None);
        let closed = book.lanes.small_ones_wait() || book.shed.share > 0.0 || !fits();
        // All threads read it for each small one.
        if self.closed.load(Relaxed) != closed {
            self.closed.store(closed, Relaxed);
        }
    }

    pub(super) fn exceeds_share(&self, book: &Book, key: u64, want: u64) -> bool {
        let Some(line) = self.line() else {
            return false;
        };
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        let share = (line as f64 * config.max_share) as u64;
        match book.shares.held(book.shares.key(key, config.max_keys)) {
            // It alone is not its share's fault.
            0 => false,
            held => held + want > share,
        }
    }

    pub(super) fn read_if_stale(&self, book: &mut Book, now: u64) {
        let Some(line) = self.line() else {
            return;
        };
        if let Some((at, took)) = book.read {
            let used = book
                .used
                .unwrap_or_default()
                .with(book.running.growth().total());
            let is_roomy = used <= line - line / ROOMY && self.waiting.load(Relaxed) == 0;
            let fresh = if is_roomy { FRESH_IF_ROOMY } else { FRESH };
            if now.saturating_sub(at) < fresh.max(READING_SHARE * took.min(SLOW_READING)) {
                return;
            }
        }
        // The time that it waited for the lock is none of it.
        let began = self.clock.ticks();
        book.read(self.guess(), line, now);
        let took = self.clock.ticks().saturating_sub(began);
        book.read = Some((now, took));
    }
}
