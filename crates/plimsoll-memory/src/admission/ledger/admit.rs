//! Requests that come and end: each is let in, waits or is refused, and gives back what was reserved for it.

use super::{Answer, Asking, Book, Ledger, STRIPES, refusal};
use crate::admission::{
    Priority,
    lanes::Lane,
    learn::{Ages, Learned},
    permit::Hold,
    route::Standing,
    running::{Large, Newcomer},
    shed::Scarce,
    trial::Trial,
    wait::Waiter,
};
use plimsoll_alloc::{MemoryScope, untracked};
use plimsoll_core::{RejectReason, stripe};
use std::{
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    task::Waker,
    time::Duration,
};

/// When those are told to come again who are refused for tasks or descriptors: it is seen within a second
/// that there are fewer.
const CROWDED_RETRY: Duration = Duration::from_secs(1);

impl Ledger {
    /// Lets somebody in, or has it wait.
    #[cold]
    pub(in crate::admission) fn admit(&self, asking: &Asking<'_>) -> Answer {
        untracked(|| self.admit_slowly(asking))
    }

    fn admit_slowly(&self, asking: &Asking<'_>) -> Answer {
        let Standing::Asks(priority) = asking.standing else {
            return Answer::In(Hold::Nothing);
        };
        let enforces = self.enforces.load(Relaxed);
        let want = self.wanted(asking, || self.guess());
        let is_small = self.is_small(want);
        // Made here, for whoever comes meanwhile waits for the lock.
        let large = (asking.is_counted && !is_small).then(|| Large::new(priority));
        let now = self.clock.ticks();
        let mut book = self.lock();
        if book.shed.is_next(priority) {
            let of = book.shed.of;
            self.counts.shed(of, enforces);
            if enforces {
                let wait = match of {
                    Scarce::Memory => book.drain.retry_after(book.lanes.bytes() + want, now),
                    // How fast memory is given back tells nothing of these.
                    Scarce::Tasks | Scarce::Descriptors => CROWDED_RETRY,
                };
                return Answer::Refused(refusal(of.reason(), asking.name, wait));
            }
        }
        if let Some(key) = asking.key
            && !is_small
            && self.exceeds_share(&book, key, want)
        {
            self.counts.over_share(enforces);
            if enforces {
                let wait = book.drain.retry_after(want, now);
                return Answer::Refused(refusal(RejectReason::ShareExceeded, asking.name, wait));
            }
        }
        self.read_if_stale(&mut book, now);
        let lane = Lane::of(is_small, priority);
        let is_first = book.lanes.is_clear(lane);
        let fits = self.fits(&book, want, Some(asking.learned));
        self.set_closed(&book, fits && !is_small);
        if is_first && !fits {
            book.is_short = self.is_short(&book, want);
        }
        let comes = fits || self.may_come_alone(&book, want);
        let may_be_tried = asking.is_counted && !is_small && asking.learned.expected().is_none();
        let trial = match is_first && comes {
            false if may_be_tried => self.trial(&book, asking, want),
            _ => None,
        };
        if (is_first && comes) || trial.is_some() || !enforces {
            if !comes && trial.is_none() {
                self.counts.would_wait();
            }
            let large = || large.unwrap_or_else(|| Large::new(priority));
            let hold = self.enter(&mut book, asking, large, want, trial, now);
            self.counts.admitted(trial.is_some());
            return Answer::In(hold);
        }
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        if self.waiting.load(Relaxed) >= config.max_waiting || config.queue_timeout.is_zero() {
            self.counts.queue_full();
            let wait = book.drain.retry_after(book.lanes.bytes() + want, now);
            return Answer::Refused(refusal(RejectReason::MemoryPressure, asking.name, wait));
        }
        // Or those who wait would come to more than their share when they are let in.
        let charged = asking
            .key
            .filter(|_| asking.is_counted && !is_small)
            .map(|key| book.shares.key(key, config.max_keys));
        book.shares.charge(charged, want);
        let waiter = Arc::new(Waiter::new(asking, priority, want, charged));
        book.lanes.push(&waiter, lane, may_be_tried);
        self.waiting.fetch_add(1, Relaxed);
        self.counts.waited();
        // Whoever waits is what it was set for.
        self.set_closed(&book, false);
        Answer::Wait(waiter, config.queue_timeout)
    }

    pub(super) fn enter(
        &self,
        book: &mut Book,
        asking: &Asking<'_>,
        large: impl FnOnce() -> Arc<Large>,
        want: u64,
        trial: Option<Trial>,
        now: u64,
    ) -> Hold {
        if !asking.is_counted {
            return Hold::Nothing;
        }
        let want = trial.map_or(want, |trial| trial.reserved);
        if self.is_small(want) {
            let stripe = stripe::current() % STRIPES;
            self.stripes[stripe].0.fetch_add(want as i64, Relaxed);
            return Hold::small(stripe, asking.class, want as i64);
        }
        let key = asking.key.map(|key| {
            let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
            book.shares.key(key, config.max_keys)
        });
        book.shares.charge(key, want);
        let large = large();
        book.running.begin(Newcomer {
            large: &large,
            learned: asking.learned,
            key,
            want,
            trial,
            began: now,
            ages: Ages::default(),
        });
        Hold::Large(large)
    }

    /// Has one that was let in as a small one counted by itself, since it has grown.
    #[cold]
    pub(in crate::admission) fn promote(
        &self,
        learned: &Arc<Learned>,
        priority: Priority,
        scope: &MemoryScope,
        age: u64,
    ) -> Hold {
        untracked(|| {
            let began = self.clock.ticks().saturating_sub(age);
            let large = Large::new(priority);
            large.runs(scope);
            let mut book = self.lock();
            let live = scope.usage().live;
            book.running.begin(Newcomer {
                large: &large,
                learned,
                key: None,
                want: live,
                trial: None,
                began,
                ages: Ages::since(age, live),
            });
            Hold::Large(large)
        })
    }

    /// A large one has ended.
    #[cold]
    pub(in crate::admission) fn release(&self, large: &Large, peak: Option<u64>) {
        // What it makes room for is not of the request around this one, if there is one.
        untracked(|| self.release_slowly(large, peak));
    }

    fn release_slowly(&self, large: &Large, peak: Option<u64>) {
        let now = self.clock.ticks();
        let mut book = self.lock();
        if let (Some(peak), Some(run)) = (peak, book.running.run(large)) {
            // First, for those who wait are let in by it.
            run.learn(peak, self.quantile(), self.guess());
        }
        let reserved = book.end(large);
        book.drain.add(reserved, now);
        let woken = match self.waiting.load(Relaxed) {
            0 => Vec::new(),
            _ => self.let_in(&mut book, now),
        };
        drop(book);
        woken.into_iter().for_each(Waker::wake);
    }
}
