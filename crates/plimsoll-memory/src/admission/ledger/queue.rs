//! Those who wait: who of them is let in, in which order, and who gives up.

use super::{Book, Ledger, refusal, room::FRESH};
use crate::admission::{
    lanes::Lane,
    permit::Hold,
    running::Large,
    trial::{self, Trial},
    wait::Waiter,
};
use plimsoll_alloc::untracked;
use plimsoll_core::{RejectReason, Rejected};
use std::{sync::atomic::Ordering::Relaxed, task::Waker};

impl Ledger {
    /// Looks at what is used, and lets in who fits now. Called now and then, and by those who wait.
    pub(in crate::admission) fn tick(&self) {
        let now = self.clock.ticks();
        let woken = untracked(|| {
            let mut book = self.lock();
            self.let_in(&mut book, now)
        });
        woken.into_iter().for_each(Waker::wake);
    }

    /// The same for one who waits, and need not look if another just has. Or they would do nothing
    /// else when they are many.
    pub(in crate::admission) fn tick_if_nobody_has(&self) {
        let looked = self.looked.load(Relaxed);
        if self.clock.ticks().saturating_sub(looked) >= FRESH {
            self.tick();
        }
    }

    pub(super) fn let_in(&self, book: &mut Book, now: u64) -> Vec<Waker> {
        self.looked.store(now, Relaxed);
        self.read_if_stale(book, now);
        let enforces = self.enforces.load(Relaxed);
        let guess = self.guess();
        let mut woken = Vec::new();
        book.is_short = false;
        'lanes: for lane in Lane::all() {
            while let Some(waiter) = book.lanes.first(lane) {
                // It may be known better by now.
                let asking = waiter.asking();
                let want = self.wanted(&asking, || guess);
                if lane.is_for_small() && !self.is_small(want) {
                    // Or it would keep those out that still are.
                    let to = Lane::of(false, waiter.priority);
                    book.lanes.moves(lane, to);
                    continue;
                }
                if enforces && !self.fits(book, want, Some(asking.learned)) {
                    book.is_short = self.is_short(book, want);
                    if !self.may_come_alone(book, want) {
                        break 'lanes;
                    }
                }
                book.lanes.pop(lane);
                self.let_one_in(book, &waiter, want, None, now, &mut woken);
            }
        }
        self.let_in_on_trial(book, guess, now, &mut woken);
        book.lanes.forget_gone(self.waiting.load(Relaxed));
        self.set_closed(book, false);
        woken
    }

    /// Lets those in, out of their turn, who may come on trial.
    fn let_in_on_trial(&self, book: &mut Book, guess: u64, now: u64, woken: &mut Vec<Waker>) {
        // They may be many, and need not be looked at one by one where none may come.
        let least = Trial {
            reserved: 1,
            risked: 1,
        };
        if !self.has_room_for(book, &least) {
            return;
        }
        let most = self.line().map_or(u64::MAX, trial::most);
        for _ in 0..book.lanes.untried() {
            let Some(waiter) = book.lanes.next_untried() else {
                break;
            };
            if !waiter.waits() {
                continue;
            }
            let asking = waiter.asking();
            let want = self.wanted(&asking, || guess);
            match self.trial(book, &asking, want) {
                Some(trial) => self.let_one_in(book, &waiter, want, Some(trial), now, woken),
                // Those like it are known to hold much.
                None if asking.learned.expected().is_some_and(|known| known > most) => {}
                None => book.lanes.tries_later(waiter),
            }
        }
    }

    pub(super) fn let_one_in(
        &self,
        book: &mut Book,
        waiter: &Waiter,
        want: u64,
        trial: Option<Trial>,
        now: u64,
        woken: &mut Vec<Waker>,
    ) {
        let large = || Large::new(waiter.priority);
        let hold = self.enter(book, &waiter.asking(), large, want, trial, now);
        match waiter.let_in(hold) {
            Ok(waker) => {
                self.counts.admitted(trial.is_some());
                self.stops_waiting(book, waiter);
                woken.extend(waker);
            }
            Err(hold) => self.undo(book, hold),
        }
    }

    /// Gives back what somebody got who was gone.
    fn undo(&self, book: &mut Book, hold: Hold) {
        match hold {
            Hold::Nothing => {}
            Hold::Small { stripe, bytes, .. } => self.release_small(stripe.into(), bytes.into()),
            Hold::Large(large) => {
                book.end(&large);
            }
        }
    }

    fn stops_waiting(&self, book: &mut Book, waiter: &Waiter) {
        book.lanes.leaves(waiter);
        book.shares.uncharge(waiter.charged, waiter.want);
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// Somebody does not wait any longer, and did not get in.
    pub(in crate::admission) fn gave_up(&self, waiter: &Waiter) {
        let mut book = self.lock();
        self.stops_waiting(&mut book, waiter);
        let waiting = self.waiting.load(Relaxed);
        book.lanes.forget_gone(waiting);
        drop(book);
        self.tick();
    }

    pub(in crate::admission) fn timed_out(&self, waiter: &Waiter) -> Rejected {
        self.counts.timed_out();
        let book = self.lock();
        let bytes = book.lanes.bytes().max(waiter.want);
        let wait = book.drain.retry_after(bytes, self.clock.ticks());
        refusal(RejectReason::MemoryPressure, waiter.name, wait)
    }
}
