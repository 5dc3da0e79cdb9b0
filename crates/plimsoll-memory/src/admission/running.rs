//! The book of those who run and are counted one by one: what each holds, and may still grow by.

use super::{
    Priority,
    growth::{Growth, Spread},
    learn::{Ages, BEGUN, Learned},
    shares::Shares,
    trial::{self, Shows, Trial},
};
use crate::reclaim::Victim;
use plimsoll_alloc::{MemoryScope, WeakScope};
use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
};

/// What is only guessed of a request is taken to be half as much after so long, in nanoseconds.
const GUESS_HALVES: u64 = 1_000_000_000;

/// The place of one that has ended.
const ENDED: usize = usize::MAX;

/// What one held when it first waited that has not yet. Nobody holds that.
const NOT_YET: u64 = u64::MAX;

/// There is room for so many, however few run, and no more than for four times those that do.
const ROOM: usize = 64;

/// Those who run, and their sums when somebody [looked](Self::look) last.
#[derive(Default)]
pub(super) struct Running {
    all: Vec<Run>,
    /// What they may still grow by.
    growth: Growth,
    /// What they hold.
    held: u64,
    /// Those who were let in out of their turn.
    on_trial: Trial,
}

/// One that begins.
#[derive(Clone, Copy)]
pub(super) struct Newcomer<'a> {
    pub(super) large: &'a Arc<Large>,
    pub(super) learned: &'a Arc<Learned>,
    pub(super) key: Option<u64>,
    /// What it is taken to hold at most.
    pub(super) want: u64,
    pub(super) trial: Option<Trial>,
    /// When it began.
    pub(super) began: u64,
    /// What is known of it from before it was counted.
    pub(super) ages: Ages,
}

/// A request that is counted by itself: what it says of itself, without the lock of the book.
pub(crate) struct Large {
    priority: Priority,
    /// Where it is among all, for whoever has the book; [`ENDED`] before and after.
    place: AtomicUsize,
    /// What its handler allocates in, as one word; 0 before that runs.
    scope: AtomicU64,
    /// What it held when it first waited, or [`NOT_YET`].
    held: AtomicU64,
    has_answered: AtomicBool,
    cancelled: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// What the book says of one that runs.
pub(super) struct Run {
    large: Arc<Large>,
    learned: Arc<Learned>,
    key: Option<u64>,
    began: u64,
    ages: Ages,
    /// What it may come to hold, as long as it holds nothing.
    spread: Option<Spread>,
    /// What it is taken to hold at most, and what it held when somebody looked last.
    expected: u64,
    live: u64,
    /// What it counts for among those on trial, if it is.
    trial: Option<Trial>,
    /// Whether others of its kind wait for what it shows.
    is_untold: bool,
}

// === impl Running ===

impl Running {
    pub(super) const fn count(&self) -> usize {
        self.all.len()
    }

    pub(super) const fn growth(&self) -> &Growth {
        &self.growth
    }

    pub(super) const fn held(&self) -> u64 {
        self.held
    }

    pub(super) const fn on_trial(&self) -> &Trial {
        &self.on_trial
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Large>> {
        self.all.iter().map(|run| &run.large)
    }

    pub(super) fn begin(&mut self, newcomer: Newcomer<'_>) {
        let Newcomer {
            large,
            learned,
            key,
            want,
            trial,
            began,
            ages,
        } = newcomer;
        let spread = learned.spread(want);
        self.growth.add_fresh(&spread);
        if let Some(trial) = &trial {
            self.on_trial.add(trial);
        }
        learned.begins();
        large.place.store(self.all.len(), Relaxed);
        self.all.push(Run {
            large: large.clone(),
            learned: learned.clone(),
            key,
            began,
            ages,
            spread: Some(spread),
            expected: want,
            live: 0,
            trial,
            is_untold: true,
        });
    }

    /// What is known of one, as long as it has not ended.
    pub(super) fn run(&mut self, large: &Large) -> Option<&mut Run> {
        self.all.get_mut(large.place.load(Relaxed))
    }

    /// One has ended. Says what it was taken to hold at most, and whose share it counted for; none if it
    /// had ended before.
    pub(super) fn end(&mut self, large: &Large) -> Option<(u64, Option<u64>)> {
        let place = large.place.load(Relaxed);
        let run = self.all.get(place)?;
        match &run.spread {
            Some(spread) => self.growth.end_fresh(spread),
            None => self.growth.end_begun(run.expected - run.live),
        }
        if let Some(trial) = &run.trial {
            self.on_trial.end(trial);
        }
        if run.is_untold {
            run.learned.has_told();
        }
        let was = (run.expected, run.key);
        large.place.store(ENDED, Relaxed);
        self.all.swap_remove(place);
        if let Some(moved) = self.all.get(place) {
            moved.large.place.store(place, Relaxed);
        }
        if self.all.capacity() > ROOM && self.all.len() < self.all.capacity() / 4 {
            self.all.shrink_to(self.all.capacity() / 2);
        }
        Some(was)
    }

    /// Looks at what each of them holds, and may still come to.
    pub(super) fn look(&mut self, shares: &mut Shares, guess: u64, line: u64, now: u64) {
        let (mut growth, mut held) = (Growth::default(), 0);
        let mut on_trial = Trial::default();
        for run in &mut self.all {
            let before = run.expected;
            run.look(now.saturating_sub(run.began), guess, line);
            held += run.live;
            if let Some(trial) = &run.trial {
                on_trial.add(trial);
            }
            match &run.spread {
                Some(spread) => growth.add_fresh(spread),
                None => growth.add_begun(run.expected - run.live),
            }
            shares.change(run.key, before, run.expected);
        }
        self.growth = growth;
        self.held = held;
        self.on_trial = on_trial;
    }
}

// === impl Large ===

impl Large {
    /// One that has not begun.
    pub(super) fn new(priority: Priority) -> Arc<Self> {
        Arc::new(Self {
            priority,
            place: AtomicUsize::new(ENDED),
            scope: AtomicU64::new(0),
            held: AtomicU64::new(NOT_YET),
            has_answered: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            waker: Mutex::new(None),
        })
    }

    /// What would be given back if it were cancelled, unless it was, or does not run yet.
    pub(super) fn victim(&self) -> Option<Victim> {
        if self.is_cancelled() {
            return None;
        }
        let used = self.live()?;
        let weight = self.priority.weight();
        Some(Victim { used, weight })
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it holds; none before its handler runs.
    fn live(&self) -> Option<u64> {
        match self.scope.load(Relaxed) {
            0 => None,
            word => Some(WeakScope::from_word(word).usage().live),
        }
    }

    /// Its handler runs, in this scope. Whoever has the last handle to that ends it, so none is kept.
    pub(super) fn runs(&self, scope: &MemoryScope) {
        self.scope.store(scope.downgrade().to_word(), Relaxed);
    }

    /// Its handler waits.
    pub(super) fn waits(&self, waker: &Waker) {
        if self.held.load(Relaxed) == NOT_YET
            && let Some(live) = self.live()
        {
            self.held.store(live, Relaxed);
        }
        let is_noted = match &*self.waker() {
            Some(held) => held.will_wake(waker),
            None => false,
        };
        if !is_noted {
            // Cloned and dropped without the lock: that calls whomever it is of.
            let waker = waker.clone();
            let before = self.waker().replace(waker);
            drop(before);
        }
        // It was polled when it was cancelled, and the waker was not here yet.
        if self.is_cancelled() {
            waker.wake_by_ref();
        }
    }

    /// Its response has begun.
    pub(super) fn answers(&self) {
        self.has_answered.store(true, Relaxed);
    }

    fn has_answered(&self) -> bool {
        self.has_answered.load(Relaxed)
    }

    #[inline]
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
        let waker = self.waker().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Run {
    /// It has ended, and held so much at most.
    pub(super) fn learn(&mut self, peak: u64, quantile: f64, guess: u64) {
        self.note_wait();
        let ages = Some(&self.ages);
        self.learned.record(peak, 1, quantile, ages, guess);
    }

    /// What it held when it first waited counts from the next look on.
    fn note_wait(&mut self) {
        match self.large.held.load(Relaxed) {
            NOT_YET => {}
            held => self.ages.waits(held),
        }
    }

    fn look(&mut self, age: u64, guess: u64, line: u64) {
        let Some(live) = self.large.live() else {
            return;
        };
        self.live = live;
        self.note_wait();
        self.ages.note(age, self.live);
        let (large, learned) = (&self.large, &self.learned);
        learned.saw(self.live);
        let shows = Shows::of(age, self.live, large.has_answered(), line);
        if shows != Shows::Nothing && mem::take(&mut self.is_untold) {
            learned.has_told();
        }
        if shows == Shows::Heavy {
            // From now on it is as all others.
            self.trial = None;
        }
        // Of those that never end nothing is learned.
        let guess = guess >> (age / GUESS_HALVES).min(63);
        let hoped = match shows {
            Shows::Light => 0,
            Shows::Nothing | Shows::Waits if self.trial.is_some() => guess.min(trial::most(line)),
            _ => guess,
        };
        self.expected = learned.expected_of(&self.ages, self.live, hoped);
        match &mut self.spread {
            Some(_) if self.live >= BEGUN => self.spread = None,
            Some(spread) => spread.cap(learned.expected().unwrap_or(hoped)),
            None => {}
        }
        if let Some(trial) = &mut self.trial {
            *trial = match shows {
                Shows::Nothing => Trial {
                    reserved: self.expected - self.live,
                    risked: learned
                        .expected()
                        .unwrap_or(guess)
                        .saturating_sub(self.live),
                },
                // It is taken to be what it shows, but for what it may do yet.
                Shows::Waits => Trial {
                    reserved: 0,
                    risked: learned
                        .expected()
                        .unwrap_or(guess)
                        .saturating_sub(self.live),
                },
                Shows::Light | Shows::Heavy => Trial {
                    reserved: 0,
                    risked: trial::most(line).saturating_sub(self.live),
                },
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(running: &mut Running, learned: &Arc<Learned>, want: u64) -> Arc<Large> {
        let large = Large::new(Priority::Normal);
        running.begin(Newcomer {
            large: &large,
            learned,
            key: None,
            want,
            trial: None,
            began: 0,
            ages: Ages::default(),
        });
        large
    }

    #[test]
    fn those_who_have_ended_leave_no_place_behind() {
        let (mut running, learned) = (Running::default(), Arc::new(Learned::new()));
        let five: [_; 5] = std::array::from_fn(|n| begin(&mut running, &learned, 100 + n as u64));
        // In an order in which each but the last has others moved.
        for (left, n) in (0..5).rev().zip([1, 0, 3, 4, 2]) {
            assert_eq!(running.end(&five[n]), Some((100 + n as u64, None)));
            assert!(running.end(&five[n]).is_none(), "once");
            assert_eq!((running.count(), running.all().count()), (left, left));
        }
        assert_eq!(running.growth().total(), 0);
    }

    #[test]
    fn room_for_many_is_given_back_when_few_are_left() {
        let (mut running, learned) = (Running::default(), Arc::new(Learned::new()));
        let mut all: Vec<_> = (0..1_000)
            .map(|_| begin(&mut running, &learned, 1))
            .collect();
        while let Some(large) = all.pop() {
            assert!(running.end(&large).is_some());
            let room = running.all.capacity();
            assert!(room <= ROOM.max(4 * all.len()), "{room} for {}", all.len());
        }
    }
}
