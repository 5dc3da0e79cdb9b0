use crate::{
    Calls, CallsQuery, CircuitBreakerConfig, CircuitOpen, ConfigError, HistoryConfig, HistoryUsage,
    IllegalTransition, Reason, Snapshot, State, Transition,
    event::{Event, EventKind, Outbox},
    history::{self, History, Meter},
    machine::{Change, Decision, Machine, NEVER, Refusal},
    permit::Permit,
    snapshot,
    stripe::{Local, Refused, Stripe},
    sync::{Mutex, MutexGuard},
    waiters::Waiters,
};
use plimsoll_core::{Clock, Name, RemovalReason, Removed, stripe};
use std::{
    fmt,
    sync::{Arc, OnceLock, Weak, atomic::AtomicI64},
    time::{Duration, SystemTime},
};

/// The most stripes, whatever the machine has.
pub(crate) const MAX_STRIPES: usize = 8;

/// Stands between callers and a downstream: lets calls pass while most do well, refuses them for
/// a while when too many do not, and then lets a few probe.
///
/// Cloning it gives another handle to the same circuit. Every method is synchronous and can be
/// called from any thread, observers included.
///
/// # Memory
///
/// 1 KiB with a window of 100 calls and an empty history, 0.7 KiB more once it has opened (0.3
/// without a history), and 13 bytes for each call in a history of thousands. Once threads get into
/// each other's way there are stripes, one for each processor, from 2 to 8 and a power of two: 336
/// bytes each. [`bytes`](Self::bytes) tells.
///
/// # Time
///
/// A wait that is over, or a probe that takes too long, is noticed by the next call, reader or
/// sweep. To whoever looks it is as if a timer had run; only observers hear of it late.
#[derive(Clone)]
pub struct CircuitBreaker(Arc<Shared>);

/// The machine comes first, next to the reference counts, which a call that fails writes too: the
/// fewer cache lines it has to get from another processor.
#[repr(C)]
pub(crate) struct Shared {
    machine: Mutex<Inner>,
    name: Name,
    /// Which one it is, of keyed breakers.
    key: Option<Arc<str>>,
    clock: Clock,
    first: Arc<Stripe>,
    /// All stripes, the first included, once threads met on that.
    stripes: OnceLock<Box<[Arc<Stripe>]>>,
    pub(crate) history: Arc<History>,
    /// Made when there is something to tell or somebody who listens.
    outbox: OnceLock<Box<Outbox>>,
    /// Made when somebody waits.
    waiters: OnceLock<Arc<Waiters>>,
}

/// What the lock of the machine guards.
#[repr(C)]
struct Inner {
    machine: Machine,
    /// Bytes of the machine that are counted.
    machine_bytes: usize,
}

/// How a breaker is made when it is one of many.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    pub(crate) key: Option<Arc<str>>,
    pub(crate) clock: Option<Clock>,
    pub(crate) bytes: Option<Arc<AtomicI64>>,
    /// The state it begins in, and why.
    pub(crate) state: Option<(State, Reason)>,
}

impl CircuitBreaker {
    /// Makes a breaker, which is closed. `name` is what it is registered, shown and measured by.
    ///
    /// # Errors
    ///
    /// Names each value of the configuration that is out of its range.
    #[allow(clippy::needless_pass_by_value, reason = "it is made for this")]
    pub fn new(name: impl Into<Name>, config: CircuitBreakerConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let name = name.into();
        config.warn(name);
        Ok(Self::of_checked(name, &config, Member::default()))
    }

    pub(crate) fn of_checked(name: Name, config: &CircuitBreakerConfig, member: Member) -> Self {
        let clock = member.clock.unwrap_or_default();
        let now = clock.ticks();
        let mut machine = Machine::new(config, now);
        if let Some((state, reason)) = member.state {
            machine.begin_in(state, reason);
        }
        let mirror = machine.mirror();
        let machine_bytes = machine.bytes();
        let meter = Meter::new(member.bytes);
        // Each with its reference counts.
        let fixed = size_of::<Shared>() + size_of::<History>() + 4 * size_of::<usize>();
        meter.add((fixed + machine_bytes + STRIPE_BYTES) as i64);
        let history = Arc::new(History::new(config.history, meter));
        Self(Arc::new_cyclic(|this: &Weak<Shared>| Shared {
            name,
            key: member.key,
            machine: Mutex::new(Inner {
                machine,
                machine_bytes,
            }),
            first: Arc::new(Stripe::new(
                0,
                mirror,
                clock.clone(),
                history.clone(),
                this.clone(),
            )),
            clock,
            stripes: OnceLock::new(),
            history,
            outbox: OnceLock::new(),
            waiters: OnceLock::new(),
        }))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// Another handle to a circuit that lives.
    pub(crate) const fn from_shared(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// The breaker's name.
    #[must_use]
    pub fn name(&self) -> Name {
        self.0.name
    }

    /// The key, for one of [keyed breakers](crate::KeyedBreakers).
    #[must_use]
    pub fn key(&self) -> Option<&Arc<str>> {
        self.0.key.as_ref()
    }

    /// Asks to make a call.
    ///
    /// # Errors
    ///
    /// Says why the call is refused, and until when if that is known.
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit, CircuitOpen> {
        match self.0.stripe().pass() {
            Some(permit) => Ok(permit),
            None => self.try_acquire_closely(),
        }
    }

    /// [`try_acquire`](Self::try_acquire) where not every call passes.
    #[inline(never)]
    pub(crate) fn try_acquire_closely(&self) -> Result<Permit, CircuitOpen> {
        let acquired = self.0.stripe().acquire(&self.0, self.0.clock.ticks());
        acquired.map_err(|refused| self.0.error(refused))
    }

    /// Makes a call, and judges it.
    ///
    /// # Errors
    ///
    /// Says why the call is refused, in which case it was not made.
    ///
    /// # Panics
    ///
    /// If `call` or `judge` does, which counts as a failure.
    pub fn call<T>(
        &self,
        call: impl FnOnce() -> T,
        judge: impl FnOnce(&T) -> crate::Outcome,
    ) -> Result<T, CircuitOpen> {
        let permit = self.try_acquire()?;
        let result = call();
        let outcome = judge(&result);
        permit.record(outcome);
        Ok(result)
    }

    /// The state it is in.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.look(|machine, _| machine.state())
    }

    /// How many calls hold a permit.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        let stripes = self.0.stripes().iter();
        stripes.map(|stripe| self.0.in_flight(stripe)).sum()
    }

    /// Everything that is known of it now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let now = self.0.clock.ticks();
        let (view, transitions) = self.0.update(now, 0, |machine, _| {
            machine.advance(now);
            (machine.view(), machine.transition_counts().to_vec())
        });
        let rest = snapshot::Rest {
            name: self.0.name,
            key: self.0.key.clone(),
            in_flight: self.in_flight(),
            transitions,
            history: self.history_usage(),
            bytes: self.bytes(),
            lost_events: self.0.outbox.get().map_or(0, |outbox| outbox.dropped()),
        };
        snapshot::of(&view, &self.0.times(now), rest)
    }

    /// Calls of the past, newest first.
    ///
    /// Reads a slice at a time, so that calls do not wait for it. Costs 12 bytes for each call
    /// kept, and sorts them.
    #[must_use]
    pub fn calls(&self, query: &CallsQuery) -> Calls {
        let view = self.0.times(self.0.clock.ticks());
        let mut records = Vec::new();
        // Chunks that are being filled first: one that is handed over meanwhile is known again by
        // its number, where the other way round it would be missed.
        let mut seen = [None; MAX_STRIPES];
        for (stripe, seen) in self.0.stripes().iter().zip(&mut seen) {
            *seen = stripe.lock().chunk.copy_to(&mut records);
        }
        self.0.history.copy_calls(&seen, &mut records);
        let (calls, matching) = history::select(records, query, &view);
        Calls { calls, matching }
    }

    /// Changes of state of the past, newest first.
    #[must_use]
    pub fn transitions(&self) -> Vec<Transition> {
        let view = self.0.times(self.0.clock.ticks());
        let records = self.0.history.transitions();
        let kept = records
            .iter()
            .rev()
            .take_while(|record| record.at >= view.cutoff);
        kept.map(|record| view.transition(record)).collect()
    }

    /// What its history holds and may hold.
    #[must_use]
    pub fn history_usage(&self) -> HistoryUsage {
        let config = self.0.history_config();
        let now = self.0.clock.ticks();
        let ago = |at| Duration::from_nanos(now.saturating_sub(at));
        HistoryUsage {
            enabled: config.enabled,
            calls: self.0.held_calls(),
            max_calls: config.calls as u64,
            transitions: self.0.history.transition_count() as u64,
            max_transitions: config.transitions as u64,
            retention: config.retention,
            sweep_interval: config.sweep_interval,
            last_sweep: self.0.history.last_sweep().map(ago),
        }
    }

    /// Bytes on the heap, exactly, but for observers, subscribers and services that wait.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.history.meter.bytes()
    }

    /// The configuration it goes by.
    #[must_use]
    pub fn config(&self) -> CircuitBreakerConfig {
        let history = self.0.history_config();
        self.0.machine.lock().machine.config(history)
    }

    // Control.

    /// Opens it, for as long as it should be by its configuration. Does nothing to one that is
    /// open.
    ///
    /// # Errors
    ///
    /// One that keeps only metrics cannot open; disable or close it first.
    pub fn open(&self) -> Result<(), IllegalTransition> {
        self.0.command(State::Open, None)
    }

    /// Opens it for so long, or has one that is open stay so. [`Duration::MAX`] is until told.
    ///
    /// # Errors
    ///
    /// One that keeps only metrics cannot open; disable or close it first.
    pub fn open_for(&self, wait: Duration) -> Result<(), IllegalTransition> {
        self.0.command(State::Open, Some(wait))
    }

    /// Lets probes pass.
    ///
    /// # Errors
    ///
    /// One that is closed or keeps only metrics has nothing to probe for.
    pub fn half_open(&self) -> Result<(), IllegalTransition> {
        self.0.command(State::HalfOpen, None)
    }

    /// Refuses all calls until told otherwise.
    pub fn force_open(&self) {
        self.0.command_legal(State::ForcedOpen);
    }

    /// Lets all calls pass and watches none, until told otherwise.
    pub fn disable(&self) {
        self.0.command_legal(State::Disabled);
    }

    /// Lets all calls pass and watches them, until told otherwise. What would be refused is
    /// counted: see [`Snapshot::would_reject`].
    pub fn metrics_only(&self) {
        self.0.command_legal(State::MetricsOnly);
    }

    /// Closes it. Does nothing to one that is closed.
    pub fn close(&self) {
        self.0.command_legal(State::Closed);
    }

    /// Closes it and forgets what it judged by; the history stays. What calls in flight will say
    /// means nothing any more.
    pub fn reset(&self) {
        let now = self.0.clock.ticks();
        self.0.update(now, 0, |machine, _| machine.reset(now));
    }

    /// Takes on another configuration. The state, the deadline, the attempts and the history
    /// stay, and the window as far as it fits.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range. Nothing was changed then.
    #[allow(clippy::needless_pass_by_value, reason = "it is made for this")]
    pub fn reconfigure(&self, config: CircuitBreakerConfig) -> Result<(), ConfigError> {
        config.validate()?;
        config.warn(self.0.name);
        self.0.reconfigure(&config);
        Ok(())
    }

    /// Drops records that are too old, now, and says how many.
    #[allow(clippy::must_use_candidate, reason = "most want the effect alone")]
    pub fn cleanup(&self) -> Removed {
        self.0.cleanup()
    }
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("name", &self.0.name)
            .field("key", &self.0.key)
            .field("state", &self.0.peek(Machine::state))
            .finish_non_exhaustive()
    }
}

/// A stripe, with its reference counts on a cache line of their own.
const STRIPE_BYTES: usize = size_of::<Stripe>() + align_of::<Stripe>();

impl Shared {
    pub(crate) fn name(&self) -> Name {
        self.name
    }

    pub(crate) fn ticks(&self) -> u64 {
        self.clock.ticks()
    }

    pub(crate) fn stripes(&self) -> &[Arc<Stripe>] {
        match self.stripes.get() {
            Some(stripes) => stripes,
            None => std::slice::from_ref(&self.first),
        }
    }

    /// The stripe of the current thread.
    #[inline(always)]
    pub(crate) fn stripe(&self) -> &Arc<Stripe> {
        match self.stripes.get() {
            None => &self.first,
            Some(stripes) => &stripes[stripe::current() % stripes.len()],
        }
    }

    /// Gives threads that met more stripes to spread over.
    pub(crate) fn grow(&self) {
        if self.stripes.get().is_some() {
            return;
        }
        // Under this lock no mirror changes.
        let _machine = self.machine.lock();
        let stripes = self.stripes.get_or_init(|| {
            let number = processors().next_power_of_two().clamp(2, MAX_STRIPES);
            let mirror = self.first.lock().mirror();
            let more = (1..number).map(|number| {
                let (clock, breaker) = (self.clock.clone(), self.first.breaker());
                let stripe = Stripe::new(number, mirror, clock, self.history.clone(), breaker);
                Arc::new(stripe)
            });
            let stripes: Box<[_]> = std::iter::once(self.first.clone()).chain(more).collect();
            let bytes = (number - 1) * STRIPE_BYTES + size_of_val(&*stripes);
            self.history.meter.add(bytes as i64);
            stripes
        });
        self.history.set_stripes(stripes.len());
    }

    /// How many calls hold a permit of that stripe.
    fn in_flight(&self, stripe: &Arc<Stripe>) -> u64 {
        // A permit holds its stripe. So does this breaker: once, or twice the first.
        let ours = 1 + usize::from(stripe.number() == 0 && self.stripes.get().is_some());
        Arc::strong_count(stripe).saturating_sub(ours) as u64
    }

    /// Changes the machine, with all that the stripes know put into it first. `own` is the number
    /// of the stripe whose locals the change wants.
    pub(crate) fn update<T>(
        &self,
        now: u64,
        own: usize,
        change: impl FnOnce(&mut Machine, &mut Locals<'_>) -> T,
    ) -> T {
        let (result, moved, told) = {
            let mut inner = self.machine.lock();
            let mut locals = Locals::new(self.stripes());
            inner.update(self, &mut locals, now, own, change)
        };
        if told {
            self.outbox().deliver();
        }
        if moved && let Some(waiters) = self.waiters.get() {
            waiters.wake();
        }
        result
    }

    /// Looks at the machine as it was left, without what stripes have counted since.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.machine.lock().machine)
    }

    /// Looks at the machine as it is now.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Machine, &mut Locals<'_>) -> T) -> T {
        let now = self.clock.ticks();
        self.update(now, 0, |machine, locals| {
            machine.advance(now);
            look(machine, locals)
        })
    }

    fn tell(&self, change: &Change, times: &history::View) {
        let kind = match change {
            Change::Transition(record) => {
                self.history.push_transition(*record);
                EventKind::Transition(times.transition(record))
            }
            Change::ThresholdReached(reason, evidence) => EventKind::ThresholdReached {
                reason: *reason,
                evidence: *evidence,
            },
            Change::Reset => EventKind::Reset,
        };
        self.outbox().push(Event {
            breaker: self.name,
            key: self.key.clone(),
            kind,
        });
    }

    /// Asks the machine about a call that wants to pass.
    #[cold]
    pub(crate) fn acquire(&self, stripe: &Arc<Stripe>, now: u64) -> Result<Permit, Refusal> {
        let decision = self.update(now, stripe.number(), |machine, locals| {
            let decision = machine.acquire(now);
            if let Decision::Admitted { probe: 0, .. } = decision
                && let Some(local) = locals.of(stripe)
            {
                local.begin_after_asking(now);
            }
            decision
        });
        match decision {
            Decision::Admitted { generation, probe } => {
                Ok(Permit::new(stripe.clone(), generation, probe, now))
            }
            Decision::Refused(refusal) => Err(refusal),
        }
    }

    /// The error for a call that was refused.
    #[inline]
    pub(crate) fn error(&self, refused: Refused) -> CircuitOpen {
        let Refusal {
            state,
            reason,
            until,
        } = refused.refusal;
        // When probes answer is not known.
        let known = state == State::Open && until != NEVER;
        let retry_after = known.then(|| Duration::from_nanos(until.saturating_sub(refused.at)));
        CircuitOpen::new(self.name, state, reason, retry_after)
    }

    fn command(&self, to: State, wait: Option<Duration>) -> Result<(), IllegalTransition> {
        let now = self.clock.ticks();
        self.update(now, 0, |machine, _| {
            machine.advance(now);
            let done = machine.command(to, wait, now);
            done.map_err(|from| IllegalTransition::new(self.name, from, to))
        })
    }

    /// Goes to a state that can be reached from every other.
    fn command_legal(&self, to: State) {
        let done = self.command(to, None);
        debug_assert!(done.is_ok(), "{to} can be reached from every state");
    }

    fn reconfigure(&self, config: &CircuitBreakerConfig) {
        let now = self.clock.ticks();
        self.update(now, 0, |machine, _| {
            machine.reconfigure(config, now);
        });
        self.history.configure(config.history);
        for stripe in self.stripes() {
            let mut local = stripe.lock();
            let local = &mut *local;
            self.history.fit(&mut local.chunk);
            local.keeps_calls = self.history.keeps_calls();
        }
        if config.history.enabled {
            self.history.enforce_caps();
        } else {
            self.keep(0, 0, RemovalReason::Manual);
        }
    }

    /// The times of records as seen at `now`, and which records are seen.
    pub(crate) fn times(&self, now: u64) -> history::View {
        let config = self.history_config();
        history::View {
            now,
            wall: SystemTime::now(),
            cap: history::cap(config.calls),
            cutoff: history::cutoff(&config, now),
        }
    }

    pub(crate) fn history_config(&self) -> HistoryConfig {
        self.history.config()
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        self.outbox.get_or_init(|| {
            self.history.meter.add(Outbox::BYTES as i64);
            Box::default()
        })
    }

    pub(crate) fn waiters(&self) -> &Arc<Waiters> {
        let waiters = self.waiters.get_or_init(|| {
            let counts = 2 * size_of::<usize>();
            self.history
                .meter
                .add((size_of::<Waiters>() + counts) as i64);
            Arc::default()
        });
        // A change that did not see them is seen by whoever looks after this.
        drop(self.machine.lock());
        waiters
    }
}

impl Inner {
    /// Says, besides what the change does, whether the stripes were shown something new, and
    /// whether there is something to tell.
    fn update<T>(
        &mut self,
        breaker: &Shared,
        locals: &mut Locals<'_>,
        now: u64,
        own: usize,
        change: impl FnOnce(&mut Machine, &mut Locals<'_>) -> T,
    ) -> (T, bool, bool) {
        let machine = &mut self.machine;
        let shown = locals.lock(own, machine).mirror();
        let mut overdue = 0;
        for stripe in breaker.stripes() {
            stripe.merge_rejected_into(machine);
            if machine.settings.counts_overdue() {
                overdue += locals.lock(stripe.number(), machine).overdue(now);
            } else if stripe.is_dirty() && stripe.number() != own {
                // Let go at once, for its threads wait. What they count from now on is judged
                // after this change, unless that shows the stripes something new.
                stripe.merge_into(&mut stripe.lock(), machine);
            }
        }
        machine.judge_overdue(overdue, now);
        let result = change(machine, locals);
        let moved = machine.mirror() != shown;
        if moved {
            let judged = machine.totals.successes;
            for number in 0..breaker.stripes().len() {
                locals.lock(number, machine);
            }
            if machine.totals.successes > judged {
                machine.judge_again(now);
            }
            let mirror = machine.mirror();
            for (stripe, local) in breaker.stripes().iter().zip(locals.iter_mut()) {
                stripe.apply(local, mirror, now);
            }
        }
        let bytes = machine.bytes();
        if bytes != self.machine_bytes {
            let grown = bytes as i64 - self.machine_bytes as i64;
            breaker.history.meter.add(grown);
            self.machine_bytes = bytes;
        }
        let changes = machine.take_changes();
        if !changes.is_empty() {
            // Under the lock of the machine, so that they are in order.
            let times = breaker.times(now);
            for change in &changes {
                breaker.tell(change, &times);
            }
        }
        (result, moved, !changes.is_empty())
    }
}

/// What stripes know, locked one by one under the lock of the machine: so in any order.
pub(crate) struct Locals<'a> {
    stripes: &'a [Arc<Stripe>],
    locked: [Option<MutexGuard<'a, Local>>; MAX_STRIPES],
}

impl<'a> Locals<'a> {
    fn new(stripes: &'a [Arc<Stripe>]) -> Self {
        Self {
            stripes,
            locked: [const { None }; MAX_STRIPES],
        }
    }

    /// Locks a stripe, unless it is already, and gives the machine what it has counted.
    fn lock(&mut self, number: usize, machine: &mut Machine) -> &mut Local {
        let stripe = &self.stripes[number];
        self.locked[number].get_or_insert_with(|| {
            let mut local = stripe.lock();
            stripe.merge_into(&mut local, machine);
            local
        })
    }

    /// Those that are locked.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Local> {
        self.locked.iter_mut().flatten().map(|local| &mut **local)
    }

    /// Those of a stripe, if they are locked.
    pub(crate) fn of(&mut self, stripe: &Stripe) -> Option<&mut Local> {
        self.locked[stripe.number()].as_deref_mut()
    }
}

/// How many threads run at once, at most. Asked once, for the answer takes reading files.
fn processors() -> usize {
    if cfg!(plimsoll_loom) {
        // Every order of more would take too long.
        return 2;
    }
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_breaker_takes_no_more_than_a_kibibyte() {
        let breaker = CircuitBreaker::new("small", CircuitBreakerConfig::new()).unwrap();
        assert!(breaker.bytes() <= 1_024, "{} bytes", breaker.bytes());
    }
}
