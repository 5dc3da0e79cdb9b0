//! Asking the allocator for what it has free, which stops others for a while: by one at a time, and
//! not too often.

use plimsoll_alloc::{Reclaim, resident_bytes};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Purges take no more than one part in so many of the time.
const SHARE: u32 = 20;

/// The allocator, and when it was asked.
pub(crate) struct Purger {
    allocator: &'static (dyn Reclaim + Sync),
    /// Told after each purge.
    told: Option<Box<dyn Fn() + Send + Sync>>,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    count: u64,
    freed: u64,
    last: Option<Purge>,
    /// What the allocator still had after it was asked, if whoever asked knew what it had.
    kept: u64,
}

/// What the allocator is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reach {
    /// All that is free.
    All,
    /// Not the large blocks that it keeps: these are given back as room is needed.
    Small,
}

/// One time that the allocator was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Purge {
    pub(crate) ended: Instant,
    pub(crate) took: Duration,
    /// By how many bytes the process became smaller, where the system tells.
    pub(crate) freed: Option<u64>,
}

/// What came of asking.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purged {
    /// The allocator was asked.
    Led(Purge),
    /// Somebody else was at it, and this is what came of that.
    Followed(Purge),
    /// It was asked not long ago.
    TooSoon,
    /// Somebody else was at it for as long as was waited.
    Busy,
}

impl Purged {
    /// Whether the allocator was asked while the caller waited.
    pub(crate) const fn is_done(self) -> bool {
        matches!(self, Self::Led(_) | Self::Followed(_))
    }
}

impl Purger {
    pub(crate) fn new(
        allocator: &'static (dyn Reclaim + Sync),
        told: Option<Box<dyn Fn() + Send + Sync>>,
    ) -> Self {
        Self {
            allocator,
            told,
            state: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// Asks the allocator for what it has free, unless it was asked less than `gap` ago, or that would
    /// take too much of the time. A gap of zero asks in any case, and what that takes counts as if it
    /// had been part of the one before. Waits for somebody who is at it already, but not longer than `wait`.
    pub(crate) fn purge(&self, reach: Reach, gap: Duration, wait: Duration) -> Purged {
        let mut state = self.lock();
        if state.running {
            let count = state.count;
            let (state, _) = self
                .ended
                .wait_timeout_while(state, wait, |state| state.count == count && state.running)
                .unwrap_or_else(PoisonError::into_inner);
            return match state.last {
                Some(last) if state.count > count => Purged::Followed(last),
                _ => Purged::Busy,
            };
        }
        let started = Instant::now();
        if !gap.is_zero() && !is_due(state.last.as_ref(), started, gap) {
            return Purged::TooSoon;
        }
        state.running = true;
        drop(state);
        let before = resident_bytes();
        let released = catch_unwind(AssertUnwindSafe(|| match reach {
            Reach::All => self.allocator.release(),
            Reach::Small => self.allocator.release_small(),
        }));
        let after = released.ok().and_then(|()| resident_bytes());
        let ended = Instant::now();
        let mut purge = Purge {
            ended,
            took: ended.saturating_duration_since(started),
            freed: before
                .zip(after)
                .map(|(before, after)| before.saturating_sub(after)),
        };
        let mut state = self.lock();
        state.running = false;
        state.count += 1;
        state.kept = 0;
        state.freed = state.freed.saturating_add(purge.freed.unwrap_or(0));
        let led = Purged::Led(purge);
        if let (true, Some(last)) = (gap.is_zero(), state.last) {
            // What has passed since was part of it.
            let paid = started.saturating_duration_since(last.ended) / (SHARE - 1);
            purge.took = purge.took.saturating_add(last.took.saturating_sub(paid));
        }
        state.last = Some(purge);
        drop(state);
        self.ended.notify_all();
        if let Some(told) = &self.told {
            told();
        }
        led
    }

    /// Asks the allocator while somebody waits for what it has free, which is so much: soon again, if it
    /// has more than it would not give back the last time.
    pub(crate) fn purge_if_it_helps(&self, kept: u64) -> Purged {
        const SOONEST: Duration = Duration::from_millis(100);
        const LATEST: Duration = Duration::from_secs(5);
        const ENOUGH: u64 = 8 << 20;
        let helps = kept >= self.lock().kept.saturating_add(ENOUGH);
        let gap = if helps { SOONEST } else { LATEST };
        let purged = self.purge(Reach::Small, gap, Duration::ZERO);
        if let Purged::Led(purge) = purged {
            self.lock().kept = kept.saturating_sub(purge.freed.unwrap_or(0));
        }
        purged
    }

    /// How often the allocator was asked, and how many bytes that gave back in all.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let state = self.lock();
        (state.count, state.freed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether enough time has passed since the last purge.
fn is_due(last: Option<&Purge>, now: Instant, gap: Duration) -> bool {
    last.is_none_or(|last| {
        let rest = gap.max(last.took.saturating_mul(SHARE - 1));
        now.saturating_duration_since(last.ended) >= rest
    })
}

impl fmt::Debug for Purger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Purger")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicU64, Ordering::SeqCst},
            mpsc,
        },
        thread,
    };

    const WAIT: Duration = Duration::from_secs(60);

    /// An allocator that counts how often it is asked, and takes as long as it is told.
    pub(crate) struct Gated {
        pub(crate) asked: AtomicU64,
        gate: Mutex<Option<mpsc::Receiver<()>>>,
    }

    impl Gated {
        pub(crate) fn leak(gate: Option<mpsc::Receiver<()>>) -> &'static Self {
            Box::leak(Box::new(Self {
                asked: AtomicU64::new(0),
                gate: Mutex::new(gate),
            }))
        }
    }

    impl Reclaim for Gated {
        fn release(&self) {
            self.asked.fetch_add(1, SeqCst);
            if let Some(gate) = &*self.gate.lock().unwrap() {
                let _ = gate.recv();
            }
        }
    }

    #[test]
    fn a_hundred_who_ask_at_once_cause_one_purge() {
        let (open, gate) = mpsc::channel();
        let allocator = Gated::leak(Some(gate));
        let purger = Purger::new(allocator, None);
        let start = Barrier::new(100);
        thread::scope(|scope| {
            let asking: Vec<_> = (0..100)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        purger.purge(Reach::Small, WAIT, WAIT)
                    })
                })
                .collect();
            // Whoever comes late is told that it is too soon, which is no purge either.
            while allocator.asked.load(SeqCst) == 0 {
                thread::yield_now();
            }
            open.send(()).unwrap();
            let answers: Vec<_> = asking.into_iter().map(|one| one.join().unwrap()).collect();
            let led = answers
                .iter()
                .filter(|it| matches!(it, Purged::Led(_)))
                .count();
            let busy = answers.iter().filter(|it| **it == Purged::Busy).count();
            assert_eq!((led, busy), (1, 0));
        });
        assert_eq!(allocator.asked.load(SeqCst), 1);
        assert_eq!(purger.totals().0, 1);
    }

    #[test]
    fn nobody_waits_longer_than_told_for_whoever_is_at_it() {
        let (open, gate) = mpsc::channel();
        let allocator = Gated::leak(Some(gate));
        let purger = Purger::new(allocator, None);
        thread::scope(|scope| {
            let leader = scope.spawn(|| purger.purge(Reach::Small, WAIT, WAIT));
            while allocator.asked.load(SeqCst) == 0 {
                thread::yield_now();
            }
            assert_eq!(
                purger.purge(Reach::Small, WAIT, Duration::from_millis(1)),
                Purged::Busy
            );
            open.send(()).unwrap();
            assert!(matches!(leader.join().unwrap(), Purged::Led(_)));
        });
        assert_eq!(purger.purge(Reach::Small, WAIT, WAIT), Purged::TooSoon);
    }

    #[test]
    fn purges_take_a_twentieth_of_the_time_at_the_most() {
        let now = Instant::now();
        let last = |ago: u64, took: u64| {
            let ended = now.checked_sub(Duration::from_millis(ago)).unwrap();
            let took = Duration::from_millis(took);
            let freed = None;
            Some(Purge { ended, took, freed })
        };
        let gap = Duration::from_millis(100);
        let due = |last: Option<Purge>| is_due(last.as_ref(), now, gap);
        assert!(due(None));
        assert!(!due(last(99, 1)) && due(last(100, 1)));
        assert!(!due(last(189, 10)) && due(last(190, 10)));
    }

    #[test]
    fn large_blocks_are_given_back_only_where_all_is_asked_for() {
        #[derive(Default)]
        struct Both([AtomicU64; 2]);
        impl Reclaim for Both {
            fn release(&self) {
                self.0[0].fetch_add(1, SeqCst);
            }

            fn release_small(&self) {
                self.0[1].fetch_add(1, SeqCst);
            }
        }
        let allocator: &Both = Box::leak(Box::default());
        let asked = || allocator.0.each_ref().map(|count| count.load(SeqCst));
        let purger = Purger::new(allocator, None);
        purger.purge(Reach::Small, Duration::ZERO, WAIT);
        assert_eq!(asked(), [0, 1]);
        purger.purge(Reach::All, Duration::ZERO, WAIT);
        assert_eq!(asked(), [1, 1]);
    }

    #[test]
    fn an_allocator_that_panics_is_asked_again_like_any_other() {
        struct Odd;
        impl Reclaim for Odd {
            fn release(&self) {
                panic!("told to");
            }
        }
        let purger = Purger::new(&Odd, None);
        for _ in 0..2 {
            let purged = purger.purge(Reach::Small, Duration::ZERO, WAIT);
            assert!(matches!(purged, Purged::Led(Purge { freed: None, .. })));
        }
        assert_eq!(purger.totals(), (2, 0));
    }
}
