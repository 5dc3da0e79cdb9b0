//! What most calls touch, and nothing else: one stripe, which few threads share.
//!
//! Between two results that are not plain successes, successes commute: whichever is counted
//! first, the window ends up the same. So a stripe counts them by itself, and whoever needs the
//! window adds up the stripes first. What a stripe must know of the machine for that is its
//! [`Mirror`], which changes under the locks of all stripes only.
//!
//! # Lock order
//!
//! The machine, then stripes by their number, then one of the history's. A thread that finds its
//! stripe taken moves to another.

use crate::{
    Outcome,
    breaker::Shared,
    history::{Chunk, Flags, History, Record},
    machine::{Ended, Gate, Mirror, Refusal},
    permit::Permit,
    records::CallOutcome,
    sync::{AtomicU64, Mutex, MutexGuard, Ordering},
};
use plimsoll_core::{Clock, stripe};
use std::sync::{Arc, Weak};

/// The lowest bit of a stripe's gate: every call passes.
const PASS: u64 = 1;

pub(crate) struct Stripe {
    /// The generation and, in the lowest bit, whether every call passes. Written under the lock;
    /// read without it, for a call that passes needs nothing else. Its acquire load pairs with
    /// the release store of [`Local::apply`].
    gate: AtomicU64,
    local: Mutex<Local>,
    pub(crate) clock: Clock,
    history: Arc<History>,
    breaker: Weak<Shared>,
    /// Its place among the others.
    number: usize,
}

/// What a stripe has counted since it was asked last, and what it goes by.
#[derive(Debug)]
pub(crate) struct Local {
    mirror: Mirror,
    successes: u64,
    ignored: u64,
    dropped: u64,
    stale: u64,
    rejected: u64,
    would_reject: u64,
    /// Calls ever written to the history.
    pub(crate) recorded: u64,
    last_ended: u64,
    pub(crate) chunk: Chunk,
    pub(crate) keeps_calls: bool,
    in_flight: Option<Box<InFlight>>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Judged(Outcome),
    /// Its caller went away.
    Dropped,
}

impl Stripe {
    pub(crate) fn new(
        number: usize,
        mirror: Mirror,
        clock: Clock,
        history: Arc<History>,
        breaker: Weak<Shared>,
    ) -> Self {
        let mut local = Local {
            mirror,
            successes: 0,
            ignored: 0,
            dropped: 0,
            stale: 0,
            rejected: 0,
            would_reject: 0,
            recorded: 0,
            last_ended: 0,
            chunk: Chunk::default(),
            keeps_calls: history.keeps_calls(),
            in_flight: None,
        };
        let gate = local.apply(mirror, &history);
        Self {
            gate: AtomicU64::new(gate),
            local: Mutex::new(local),
            clock,
            history,
            breaker,
            number,
        }
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }

    pub(crate) fn breaker(&self) -> Weak<Shared> {
        self.breaker.clone()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Local> {
        self.local.lock()
    }

    /// Whether every call passes now.
    #[inline]
    pub(crate) fn passes(&self) -> bool {
        self.gate.load(Ordering::Acquire) & PASS != 0
    }

    /// Shows the stripe what the machine has become.
    pub(crate) fn apply(&self, local: &mut Local, mirror: Mirror) {
        let gate = local.apply(mirror, &self.history);
        self.gate.store(gate, Ordering::Release);
    }

    /// Admits a call or refuses it.
    #[inline]
    pub(crate) fn acquire(self: &Arc<Self>, breaker: &Shared) -> Result<Permit, Refusal> {
        let now = self.clock.ticks();
        let gate = self.gate.load(Ordering::Acquire);
        if gate & PASS != 0 {
            return Ok(Permit::new(self.clone(), gate >> 1, 0, now));
        }
        self.acquire_closely(breaker, now)
    }

    /// Admits a call or refuses it where the gate alone does not tell.
    pub(crate) fn acquire_closely(
        self: &Arc<Self>,
        breaker: &Shared,
        now: u64,
    ) -> Result<Permit, Refusal> {
        let mut local = self.lock_or_move();
        let admitted = match local.mirror.gate {
            Gate::Pass { .. } => local.begin(now),
            Gate::Shadow { refused_until } => {
                let admitted = local.begin(now);
                if admitted && now < refused_until {
                    local.would_reject += 1;
                }
                admitted
            }
            Gate::Refuse(refusal) if now < refusal.until => {
                local.rejected += 1;
                return Err(refusal);
            }
            Gate::Refuse(_) | Gate::Ask => false,
        };
        if admitted {
            let generation = local.mirror.generation;
            drop(local);
            return Ok(Permit::new(self.clone(), generation, 0, now));
        }
        drop(local);
        breaker.acquire(self, now)
    }

    /// What a call would be refused with at `now`, if it would be.
    pub(crate) fn refusal(&self, now: u64) -> Option<Refusal> {
        match self.lock_or_move().mirror.gate {
            Gate::Refuse(refusal) if now < refusal.until => Some(refusal),
            _ => None,
        }
    }

    /// Counts a call that is refused by an earlier decision, whatever the breaker does now.
    pub(crate) fn count_refused(&self) {
        self.lock_or_move().rejected += 1;
    }

    /// Takes the end of a call that began at `began`.
    #[inline]
    pub(crate) fn settle(&self, generation: u64, probe: u32, began: u64, now: u64, end: End) {
        let elapsed = now.saturating_sub(began);
        let mut local = self.lock_or_move();
        let mirror = &local.mirror;
        // Whoever merges the stripes writes the mirror under their locks: what is seen here
        // holds until this one is let go.
        if matches!(end, End::Judged(Outcome::Success))
            && generation == mirror.generation
            && mirror.commutes
            && now < mirror.next_roll
            && elapsed <= mirror.slow_after
        {
            local.successes += 1;
            local.ended(generation, began);
            let flags = const { Flags::new(CallOutcome::Success, false, false, false) };
            local.remember(now, elapsed, flags, &self.history);
            return;
        }
        self.settle_closely(local, generation, probe, began, now, end);
    }

    #[cold]
    fn settle_closely(
        &self,
        mut local: MutexGuard<'_, Local>,
        generation: u64,
        probe: u32,
        began: u64,
        now: u64,
        end: End,
    ) {
        let elapsed = now.saturating_sub(began);
        let mirror = local.mirror;
        let slow = elapsed > mirror.slow_after;
        let (outcome, kind) = match end {
            End::Dropped if elapsed >= mirror.dropped_fails_after => {
                (Outcome::Failure, CallOutcome::Failure)
            }
            End::Dropped => (Outcome::Ignore, CallOutcome::Dropped),
            End::Judged(outcome) => (outcome, kind_of(outcome)),
        };
        if generation != mirror.generation {
            local.stale += 1;
            let flags = Flags::new(kind, slow, probe != 0, true);
            local.remember(now, elapsed, flags, &self.history);
            return;
        }
        if mirror.gate == (Gate::Pass { watched: false }) {
            return;
        }
        if outcome == Outcome::Ignore && probe == 0 {
            local.ended(generation, began);
            local.count_unjudged(kind);
            let flags = Flags::new(kind, slow, false, false);
            local.remember(now, elapsed, flags, &self.history);
            return;
        }
        drop(local);
        // A breaker that is gone judges nothing.
        let Some(breaker) = self.breaker.upgrade() else {
            return;
        };
        let call = Ended {
            generation,
            probe,
            outcome,
            elapsed,
        };
        breaker.update(now, |machine, locals| {
            let stale = machine.record(call, now);
            let Some(local) = locals.of(self) else { return };
            let flags = Flags::new(kind, slow, probe != 0, stale);
            local.remember(now, elapsed, flags, &self.history);
            if !stale {
                local.ended(generation, began);
                if outcome == Outcome::Ignore {
                    local.count_unjudged(kind);
                }
            }
        });
    }

    /// Locks the stripe. A thread that has to wait goes to another next time.
    #[inline]
    fn lock_or_move(&self) -> MutexGuard<'_, Local> {
        match self.local.try_lock() {
            Some(local) => local,
            None => self.lock_contended(),
        }
    }

    #[cold]
    fn lock_contended(&self) -> MutexGuard<'_, Local> {
        stripe::move_on();
        if let Some(breaker) = self.breaker.upgrade() {
            breaker.grow();
        }
        self.local.lock()
    }
}

const fn kind_of(outcome: Outcome) -> CallOutcome {
    match outcome {
        Outcome::Success => CallOutcome::Success,
        Outcome::Failure | Outcome::OpenFor(_) => CallOutcome::Failure,
        Outcome::Ignore => CallOutcome::Ignored,
    }
}

impl Local {
    /// Gives the machine what was counted since the last time.
    pub(crate) fn merge_into(&mut self, machine: &mut crate::machine::Machine) {
        use std::mem::take;
        machine.add_successes(take(&mut self.successes));
        machine.totals.ignored += take(&mut self.ignored);
        machine.totals.dropped += take(&mut self.dropped);
        machine.totals.stale += take(&mut self.stale);
        machine.add_rejected(take(&mut self.rejected));
        machine.add_would_reject(take(&mut self.would_reject));
    }

    /// How many calls that began here are overdue.
    pub(crate) fn overdue(&mut self, now: u64) -> u64 {
        self.in_flight.as_mut().map_or(0, |calls| calls.older(now))
    }

    /// A call begins, unless it is time to ask the machine about overdue calls first.
    #[inline]
    fn begin(&mut self, now: u64) -> bool {
        match &mut self.in_flight {
            None => true,
            Some(calls) => calls.begin(now),
        }
    }

    /// A call begins that the machine was asked about.
    pub(crate) fn begin_after_asking(&mut self, now: u64) {
        if let Some(calls) = &mut self.in_flight {
            calls.older(now);
            calls.begin(now);
        }
    }

    #[inline]
    fn ended(&mut self, generation: u64, began: u64) {
        if let Some(calls) = &mut self.in_flight
            && generation == self.mirror.generation
        {
            calls.end(began);
        }
    }

    fn count_unjudged(&mut self, kind: CallOutcome) {
        match kind {
            CallOutcome::Dropped => self.dropped += 1,
            _ => self.ignored += 1,
        }
    }

    #[inline]
    fn remember(&mut self, ended: u64, duration: u64, flags: Flags, history: &History) {
        if self.chunk.is_full() {
            if !self.keeps_calls {
                return;
            }
            self.chunk = history.hand_over(std::mem::take(&mut self.chunk));
        }
        // Calls of a chunk are in order, however late a thread comes with what it read.
        self.last_ended = self.last_ended.max(ended);
        self.recorded += 1;
        self.chunk.push(Record::new(self.last_ended, duration, flags));
    }

    /// Goes by another mirror from now on, and says what the gate becomes.
    fn apply(&mut self, mirror: Mirror, history: &History) -> u64 {
        let new_generation = mirror.generation != self.mirror.generation;
        self.mirror = mirror;
        let counts = self.in_flight.as_ref().map_or(0, |calls| calls.after);
        if new_generation || counts != mirror.overdue_after {
            let had = self.in_flight.is_some();
            self.in_flight = match mirror.overdue_after {
                0 => None,
                after => Some(Box::new(InFlight::new(after))),
            };
            let bytes = size_of::<InFlight>() as i64;
            history.meter.add(
                bytes * (i64::from(self.in_flight.is_some()) - i64::from(had)),
            );
        }
        let passes = matches!(mirror.gate, Gate::Pass { .. }) && self.in_flight.is_none();
        mirror.generation << 1 | u64::from(passes)
    }
}

/// Calls in flight by when they began, in buckets of an eighth of the time after which they are
/// overdue. The same memory however many there are.
#[derive(Debug)]
struct InFlight {
    after: u64,
    /// The number of the newest bucket since the clock began.
    head: u64,
    buckets: [u32; Self::BUCKETS],
    /// Those that began before the oldest bucket: they are overdue.
    older: u64,
}

impl InFlight {
    const BUCKETS: usize = 9;

    fn new(after: u64) -> Self {
        Self {
            after,
            head: 0,
            buckets: [0; Self::BUCKETS],
            older: 0,
        }
    }

    fn width(&self) -> u64 {
        (self.after / 8).max(1)
    }

    /// `false` when another bucket begins, so that somebody has to look at the oldest.
    fn begin(&mut self, now: u64) -> bool {
        if now / self.width() > self.head {
            return false;
        }
        self.buckets[(self.head % Self::BUCKETS as u64) as usize] += 1;
        true
    }

    fn end(&mut self, began: u64) {
        let bucket = (began / self.width()).min(self.head);
        if self.head - bucket >= Self::BUCKETS as u64 {
            self.older = self.older.saturating_sub(1);
        } else {
            let calls = &mut self.buckets[(bucket % Self::BUCKETS as u64) as usize];
            *calls = calls.saturating_sub(1);
        }
    }

    /// Goes on to the bucket of `now`, and says how many calls are older than all buckets.
    fn older(&mut self, now: u64) -> u64 {
        let head = (now / self.width()).max(self.head);
        let steps = (head - self.head).min(Self::BUCKETS as u64);
        for step in 1..=steps {
            let bucket = ((self.head + step) % Self::BUCKETS as u64) as usize;
            self.older += u64::from(std::mem::take(&mut self.buckets[bucket]));
        }
        self.head = head;
        self.older
    }
}
