//! What most calls touch, and nothing else: one stripe, which few threads share.
//!
//! Between two results that are not plain successes, successes commute: whichever is counted
//! first, the window ends up the same. So a stripe counts them by itself, and whoever needs the
//! window adds up the stripes first. What a stripe must know of the machine for that is its
//! [`Mirror`], which changes under the locks of all stripes only.
//!
//! # Lock order
//!
//! The machine, then stripes, then one of the history's. Who has the machine locks several stripes,
//! in any order; who has not locks one, and waits for nothing but the history under it.

use crate::{
    Outcome, Reason, State,
    breaker::Shared,
    chunk::{Chunk, Flags, Record},
    history::History,
    machine::{Ended, Gate, Machine, Mirror, Refusal},
    permit::Permit,
    records::CallOutcome,
    sync::{AtomicU32, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering},
};
use plimsoll_core::{Clock, stripe};
use std::sync::{Arc, Weak};

/// The bits of a stripe's gate below the generation: what becomes of every call, if that is the
/// same for all, and why they are refused.
mod gate {
    pub(super) const PASS: u64 = 1;
    pub(super) const REFUSE: u64 = 1 << 1;
    pub(super) const STATE: u32 = 2;
    pub(super) const REASON: u32 = 5;
    pub(super) const GENERATION: u32 = 9;
}

/// On x86-64 the first cache line is read by calls and written when something changes, the second
/// is what a call that ends writes and a thread that merges takes away, and the others are the
/// stripe's own.
#[repr(C, align(64))]
pub(crate) struct Stripe {
    /// The generation and the bits of [`gate`]. Written under the lock; read without it, for most
    /// calls need nothing else. Its acquire load pairs with the release store of
    /// [`Stripe::apply`].
    gate: AtomicU64,
    /// Until when calls are refused. May be that of another moment than the gate's: a call that
    /// is refused by a deadline just past, or asks the machine before it is due, does no harm.
    refuse_until: AtomicU64,
    /// Calls refused since the machine was told last.
    rejected: AtomicU64,
    /// The thread that was seen here last, how often that changed, and when it had changed
    /// [`SWITCHES`] times.
    visitor: AtomicUsize,
    switched_at: AtomicU64,
    pub(crate) clock: Clock,
    breaker: Weak<Shared>,
    switches: AtomicU32,
    /// Whether something was counted since the machine was told last. Written under the lock;
    /// whoever merges looks at it before that, to leave alone stripes that nobody uses.
    dirty: AtomicU32,
    local: Mutex<Local>,
    history: Arc<History>,
    /// Its place among the others.
    number: u32,
}

/// One in so many calls looks which thread was here before.
const LOOKS: u32 = 32;
/// After so many changes of thread it is asked how long they took.
const SWITCHES: u32 = 8;
/// Threads that take turns faster than that are in each other's way, in nanoseconds.
const SWITCHES_FAST: u64 = 1_000_000;

/// What a stripe has counted since it was asked last, and what it goes by.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Local {
    successes: u64,
    ignored: u32,
    dropped: u32,
    stale: u32,
    would_reject: u32,
    /// Calls that ended well here, up to the next look at who is here.
    until_look: u32,
    /// Whether something is to be given to the machine.
    dirty: bool,
    pub(crate) keeps_calls: bool,
    last_ended: u64,
    /// Calls ever written to the history.
    pub(crate) recorded: u64,
    mirror: Mirror,
    pub(crate) chunk: Chunk,
    in_flight: Option<Box<InFlight>>,
}

/// A refusal, and when that was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) at: u64,
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
            would_reject: 0,
            until_look: LOOKS,
            dirty: false,
            recorded: 0,
            last_ended: 0,
            chunk: Chunk::default(),
            keeps_calls: history.keeps_calls(),
            in_flight: None,
        };
        let (gate, refuse_until) = local.apply(mirror, &history, 0);
        Self {
            gate: AtomicU64::new(gate),
            refuse_until: AtomicU64::new(refuse_until),
            rejected: AtomicU64::new(0),
            visitor: AtomicUsize::new(usize::MAX),
            switched_at: AtomicU64::new(0),
            clock,
            breaker,
            switches: AtomicU32::new(0),
            dirty: AtomicU32::new(0),
            local: Mutex::new(local),
            history,
            number: number as u32,
        }
    }

    pub(crate) const fn number(&self) -> usize {
        self.number as usize
    }

    pub(crate) fn breaker(&self) -> Weak<Shared> {
        self.breaker.clone()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Local> {
        self.local.lock()
    }

    /// Whether every call passes now.
    #[inline(always)]
    pub(crate) fn passes(&self) -> bool {
        self.gate.load(Ordering::Acquire) & gate::PASS != 0
    }

    /// Shows the stripe what the machine has become.
    pub(crate) fn apply(&self, local: &mut Local, mirror: Mirror, now: u64) {
        let (gate, refuse_until) = local.apply(mirror, &self.history, now.saturating_add(1));
        self.refuse_until.store(refuse_until, Ordering::Relaxed);
        self.gate.store(gate, Ordering::Release);
    }

    /// Whether there is something to give to the machine.
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Relaxed) != 0
    }

    /// Gives the machine what was counted here since the last time.
    pub(crate) fn merge_into(&self, local: &mut Local, machine: &mut Machine) {
        local.merge_into(machine);
        self.dirty.store(0, Ordering::Relaxed);
    }

    /// Gives the machine how many calls were refused here since the last time.
    pub(crate) fn merge_rejected_into(&self, machine: &mut Machine) {
        if self.rejected.load(Ordering::Relaxed) > 0 {
            machine.add_rejected(self.rejected.swap(0, Ordering::Relaxed));
        }
    }

    /// Notes that something was counted.
    #[inline]
    fn mark(&self, local: &mut Local) {
        if !local.dirty {
            local.dirty = true;
            self.dirty.store(1, Ordering::Relaxed);
        }
    }

    /// Admits a call where every call passes.
    #[inline(always)]
    pub(crate) fn pass(self: &Arc<Self>) -> Option<Permit> {
        let gate = self.gate.load(Ordering::Acquire);
        if gate & gate::PASS == 0 {
            return None;
        }
        let generation = gate >> gate::GENERATION;
        let now = self.clock.ticks();
        Some(Permit::new(self.clone(), generation, 0, now))
    }

    /// Admits a call or refuses it.
    pub(crate) fn acquire(self: &Arc<Self>, breaker: &Shared, now: u64) -> Result<Permit, Refused> {
        if let Some(refused) = self.refusal(now) {
            self.count_refused(refused);
            return Err(refused);
        }
        let mut local = self.local.lock();
        let admitted = match local.mirror.gate {
            Gate::Pass { .. } => local.begin(now),
            Gate::Shadow { refused_until } => {
                let admitted = local.begin(now);
                if admitted && now < refused_until {
                    local.would_reject += 1;
                    self.mark(&mut local);
                }
                admitted
            }
            Gate::Refuse(_) | Gate::Ask => false,
        };
        let generation = local.mirror.generation;
        drop(local);
        if admitted {
            return Ok(Permit::new(self.clone(), generation, 0, now));
        }
        let asked = breaker.acquire(self, now);
        asked.map_err(|refusal| Refused { refusal, at: now })
    }

    /// What a call would be refused with at `now`, if it would be.
    #[inline]
    pub(crate) fn refusal(&self, now: u64) -> Option<Refused> {
        let gate = self.gate.load(Ordering::Acquire);
        let until = self.refuse_until.load(Ordering::Relaxed);
        if gate & gate::REFUSE == 0 || now >= until {
            return None;
        }
        let refusal = Refusal {
            state: State::ALL[(gate >> gate::STATE & 0b111) as usize],
            reason: Reason::ALL[(gate >> gate::REASON & 0b1111) as usize],
            until,
        };
        Some(Refused { refusal, at: now })
    }

    /// Counts a call that is refused.
    #[inline]
    pub(crate) fn count_refused(&self, refused: Refused) {
        let (gate, now) = (self.gate.load(Ordering::Acquire), refused.at);
        if gate >> gate::STATE & 0b111 != refused.refusal.state as u64 {
            return self.count_refused_before(refused);
        }
        let before = self.rejected.fetch_add(1, Ordering::Relaxed);
        if before.is_multiple_of(u64::from(LOOKS)) && self.is_disputed(now) {
            self.spread();
        }
    }

    /// Counts a call that is refused by what the breaker was, and is not any more.
    #[cold]
    fn count_refused_before(&self, refused: Refused) {
        if let Some(breaker) = self.breaker.upgrade() {
            breaker.update(refused.at, self.number(), |machine, _| {
                machine.add_rejected_before(refused.refusal.state);
            });
        }
    }

    /// Whether threads take turns here: they seldom find the lock taken, but the cache line it is
    /// in is always with the other.
    #[inline(never)]
    fn is_disputed(&self, now: u64) -> bool {
        let thread = stripe::current();
        if self.visitor.load(Ordering::Relaxed) == thread {
            return false;
        }
        self.visitor.store(thread, Ordering::Relaxed);
        let switches = self.switches.fetch_add(1, Ordering::Relaxed);
        if switches % SWITCHES != SWITCHES - 1 {
            return false;
        }
        let before = self.switched_at.swap(now, Ordering::Relaxed);
        now.saturating_sub(before) < SWITCHES_FAST
    }

    /// Sends the current thread to another stripe, and makes more if there is one only.
    fn spread(&self) {
        stripe::move_on();
        if let Some(breaker) = self.breaker.upgrade() {
            breaker.grow();
        }
    }

    /// Takes the end of a call that began at `began`.
    #[inline(always)]
    pub(crate) fn settle(&self, generation: u64, probe: u32, began: u64, now: u64, end: End) {
        let good = matches!(end, End::Judged(Outcome::Success)) && probe == 0;
        if !(good && self.settle_good(generation, began, now)) {
            self.settle_closely(generation, probe, began, now, end);
        }
    }

    /// Counts a success by itself, if it commutes with those of other stripes.
    #[inline(always)]
    fn settle_good(&self, generation: u64, began: u64, now: u64) -> bool {
        let elapsed = now.saturating_sub(began);
        let mut local = self.local.lock();
        let mirror = &local.mirror;
        // Whoever merges the stripes writes the mirror under their locks: what is seen here
        // holds until this one is let go.
        let commutes = mirror.commutes
            && generation == mirror.generation
            && now < mirror.next_roll
            && elapsed <= mirror.slow_after;
        if !commutes {
            return false;
        }
        local.successes += 1;
        self.mark(&mut local);
        local.ended(generation, began);
        let flags = const { Flags::new(CallOutcome::Success, false, false, false) };
        local.remember(now, elapsed, flags, self);
        local.until_look -= 1;
        if local.until_look == 0 {
            local.until_look = LOOKS;
            drop(local);
            if self.is_disputed(now) {
                self.spread();
            }
        }
        true
    }

    #[cold]
    fn settle_closely(&self, generation: u64, probe: u32, began: u64, now: u64, end: End) {
        let mut local = self.local.lock();
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
            self.mark(&mut local);
            let flags = Flags::new(kind, slow, probe != 0, true);
            local.remember(now, elapsed, flags, self);
            return;
        }
        if mirror.gate == (Gate::Pass { watched: false }) {
            return;
        }
        if outcome == Outcome::Ignore && probe == 0 {
            local.ended(generation, began);
            local.count_unjudged(kind);
            self.mark(&mut local);
            let flags = Flags::new(kind, slow, false, false);
            local.remember(now, elapsed, flags, self);
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
        breaker.update(now, self.number(), |machine, locals| {
            let stale = machine.record(call, now);
            let Some(local) = locals.of(self) else { return };
            let flags = Flags::new(kind, slow, probe != 0, stale);
            local.remember(now, elapsed, flags, self);
            if !stale {
                local.ended(generation, began);
                if outcome == Outcome::Ignore {
                    local.count_unjudged(kind);
                    self.mark(local);
                }
            }
        });
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
    fn merge_into(&mut self, machine: &mut Machine) {
        use std::mem::take;
        machine.add_successes(take(&mut self.successes), self.mirror.generation);
        machine.totals.ignored += u64::from(take(&mut self.ignored));
        machine.totals.dropped += u64::from(take(&mut self.dropped));
        machine.totals.stale += u64::from(take(&mut self.stale));
        machine.add_would_reject(u64::from(take(&mut self.would_reject)));
        self.dirty = false;
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
    fn remember(&mut self, ended: u64, duration: u64, flags: Flags, stripe: &Stripe) {
        if self.chunk.is_full() && !self.renew_chunk(stripe) {
            return;
        }
        // Calls of a chunk are in order, however late a thread comes with what it read.
        self.last_ended = self.last_ended.max(ended);
        self.recorded += 1;
        self.chunk
            .push(Record::new(self.last_ended, duration, flags));
    }

    /// Has a full chunk replaced by an empty one. There is none if the history keeps no calls.
    fn renew_chunk(&mut self, stripe: &Stripe) -> bool {
        if self.keeps_calls {
            let full = std::mem::take(&mut self.chunk);
            self.chunk = stripe.history.hand_over(full, stripe.number());
        }
        !self.chunk.is_full()
    }

    pub(crate) const fn mirror(&self) -> Mirror {
        self.mirror
    }

    /// Goes by another mirror, and says what the gate becomes and until when calls are refused.
    /// Calls are counted `from` that time, if nobody did before.
    fn apply(&mut self, mirror: Mirror, history: &History, from: u64) -> (u64, u64) {
        let new_generation = mirror.generation != self.mirror.generation;
        self.mirror = mirror;
        let counts = self.in_flight.as_ref().map_or(0, |calls| calls.after);
        if new_generation || counts != mirror.overdue_after {
            let had = self.in_flight.is_some();
            // Calls of this generation that are in flight already were not counted.
            let from = if new_generation { 0 } else { from };
            self.in_flight = match mirror.overdue_after {
                0 => None,
                after => Some(Box::new(InFlight::new(after, from))),
            };
            let bytes = size_of::<InFlight>() as i64;
            history
                .meter
                .add(bytes * (i64::from(self.in_flight.is_some()) - i64::from(had)));
        }
        let generation = mirror.generation << gate::GENERATION;
        match mirror.gate {
            Gate::Pass { .. } if self.in_flight.is_none() => (generation | gate::PASS, 0),
            Gate::Refuse(refusal) => {
                let state = (refusal.state as u64) << gate::STATE;
                let reason = (refusal.reason as u64) << gate::REASON;
                (generation | gate::REFUSE | state | reason, refusal.until)
            }
            _ => (generation, 0),
        }
    }
}

/// Calls in flight by when they began, in buckets of an eighth of the time after which they are
/// overdue. The same memory however many there are.
#[derive(Debug)]
struct InFlight {
    after: u64,
    /// Calls that began earlier are not among them, for nobody counted then.
    from: u64,
    /// The number of the newest bucket since the clock began.
    head: u64,
    buckets: [u32; Self::BUCKETS],
    /// Those that began before the oldest bucket: they are overdue.
    older: u32,
}

impl InFlight {
    const BUCKETS: usize = 9;

    fn new(after: u64, from: u64) -> Self {
        Self {
            after,
            from,
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
        if now >= self.from {
            *self.of(now) += 1;
        }
        true
    }

    fn end(&mut self, began: u64) {
        if began >= self.from {
            let calls = self.of(began);
            *calls = calls.saturating_sub(1);
        }
    }

    /// Where a call that began then is counted. By its own time, at its end as at its beginning:
    /// a thread may be late with the time it read.
    fn of(&mut self, began: u64) -> &mut u32 {
        let bucket = (began / self.width()).min(self.head);
        if self.head - bucket >= Self::BUCKETS as u64 {
            &mut self.older
        } else {
            &mut self.buckets[(bucket % Self::BUCKETS as u64) as usize]
        }
    }

    /// Goes on to the bucket of `now`, and says how many calls are older than all buckets.
    fn older(&mut self, now: u64) -> u64 {
        let head = (now / self.width()).max(self.head);
        let steps = (head - self.head).min(Self::BUCKETS as u64);
        for step in 1..=steps {
            let bucket = ((self.head + step) % Self::BUCKETS as u64) as usize;
            self.older += std::mem::take(&mut self.buckets[bucket]);
        }
        self.head = head;
        u64::from(self.older)
    }
}

#[cfg(all(test, not(plimsoll_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_overdue_within_an_eighth_of_the_time() {
        let after = 80;
        for began in 0..40 {
            let mut calls = InFlight::new(after, 0);
            calls.older(began);
            assert!(calls.begin(began));
            for now in began..began + 200 {
                let overdue = calls.older(now);
                let flown = now - began;
                if flown < after {
                    assert_eq!(overdue, 0, "{began} to {now}");
                } else if flown >= after + after / 8 {
                    assert_eq!(overdue, 1, "{began} to {now}");
                }
            }
            calls.end(began);
            assert_eq!(calls.older(began + 200), 0);
        }
    }

    #[test]
    fn whoever_begins_in_a_new_bucket_has_to_ask() {
        let mut calls = InFlight::new(80, 0);
        assert!(calls.begin(9));
        assert!(!calls.begin(10), "and is not counted");
        assert_eq!(calls.older(10), 0);
        assert!(calls.begin(10) && calls.begin(9));
        assert_eq!(calls.older(89), 0);
        assert_eq!(calls.older(90), 2, "each by the time it read");
        assert_eq!(calls.older(100), 3);
    }

    #[test]
    fn calls_in_flight_are_those_of_a_naive_list() {
        let mut random = fastrand::Rng::with_seed(3);
        for after in [8, 9, 15, 80, 8_000_000] {
            let (from, width) = (random.u64(0..after), after / 8);
            let mut calls = InFlight::new(after, from);
            let (mut naive, mut now) = (Vec::new(), 0);
            for _ in 0..5_000 {
                match random.u8(0..8) {
                    0..3 => {
                        if !calls.begin(now) {
                            calls.older(now);
                            assert!(calls.begin(now));
                        }
                        naive.push(now);
                    }
                    3..6 if !naive.is_empty() => {
                        calls.end(naive.swap_remove(random.usize(0..naive.len())));
                    }
                    6 => now += random.u64(0..after),
                    7 => now += random.u64(0..=width) * u64::from(random.bool()) * 4,
                    _ => {}
                }
                let old = |began: &&u64| **began >= from && now / width - **began / width >= 9;
                let expected = naive.iter().filter(old).count() as u64;
                assert_eq!(calls.older(now), expected, "after {after} at {now}");
            }
        }
    }

    // What went wrong: it was put into the newest bucket and taken out of the one before, so that
    // a call that nobody was making was overdue in the end.
    #[test]
    fn a_call_that_is_late_with_the_time_it_read_leaves_what_it_was_put_into() {
        let mut calls = InFlight::new(80, 0);
        calls.older(101);
        assert!(calls.begin(99));
        calls.end(99);
        assert_eq!(calls.older(10_000), 0);
        assert!(calls.begin(5));
        assert_eq!(calls.older(10_000), 1);
        calls.end(5);
        assert_eq!(calls.older(10_000), 0);
    }
}
