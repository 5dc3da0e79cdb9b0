//! The state machine of a breaker. No clock, no lock, no task: `now` is an argument, in
//! nanoseconds, and whatever holds the machine holds it alone.
//!
//! Time may stand still or go backwards; nothing is added to it unchecked, and `u64::MAX` is a
//! moment that never comes.

use crate::{
    AfterHalfOpen, CallTotals, CircuitBreakerConfig, Evidence, HistoryConfig, Outcome, ProbeRule,
    Reason, State, config,
    config::Dropped,
    nanos,
    records::TransitionRecord,
    settings::{HalfOpenTimeout, OverdueCalls, SlowCalls},
    window::{Counts, Window},
};
use std::{collections::VecDeque, time::Duration};

/// A moment that never comes.
pub(crate) const NEVER: u64 = u64::MAX;
/// As good as [`NEVER`], but known to be wanted.
const SAID_NEVER: u64 = NEVER - 1;

/// A configuration, checked, in nanoseconds, as small as can be: every breaker has one.
#[derive(Debug)]
pub(crate) struct Settings {
    window: config::Window,
    /// Percentages; 0 where a rate is not looked at.
    failure_rate: f64,
    slow_rate: f64,
    slow_after: u64,
    /// After how long a call is overdue; 0 where that is not looked at.
    overdue_after: u64,
    open_for: u64,
    open_factor: f64,
    /// 0 for the default.
    open_max: u64,
    jitter: f64,
    requested_shortest: u64,
    requested_longest: u64,
    /// 0 for the default.
    probe_lease: u64,
    half_open_timeout: u64,
    dropped_fails_after: u64,
    minimum_calls: u32,
    /// What it was before it was lowered to what the window holds.
    asked_minimum: u32,
    /// 0 where failures in a row do not count.
    consecutive_failures: u32,
    overdue_calls: u32,
    probes: u32,
    probe_rule: ProbeRule,
    after_half_open: AfterHalfOpen,
}

impl Settings {
    fn new(config: &CircuitBreakerConfig) -> Self {
        let minimum_calls = match config.window {
            config::Window::Calls(window) => config.minimum_calls.min(window),
            config::Window::Time(_) => config.minimum_calls,
        };
        let slow = config.slow_calls.unwrap_or(SlowCalls {
            longer_than: Duration::MAX,
            percent: 0.0,
        });
        let overdue = config.overdue_calls.unwrap_or(OverdueCalls {
            after: Duration::ZERO,
            calls: 0,
        });
        let half_open = config.half_open_timeout.unwrap_or(HalfOpenTimeout {
            after: Duration::MAX,
            then: AfterHalfOpen::Open,
        });
        let (shortest, longest) = config.requested_wait;
        Self {
            window: config.window,
            failure_rate: config.failure_rate.unwrap_or(0.0),
            slow_rate: slow.percent,
            slow_after: nanos(slow.longer_than),
            overdue_after: nanos(overdue.after),
            open_for: nanos(config.open_for),
            open_factor: config.open_factor,
            open_max: nanos(config.open_max.unwrap_or_default()),
            jitter: config.jitter,
            requested_shortest: nanos(shortest),
            requested_longest: nanos(longest),
            probe_lease: nanos(config.probe_lease.unwrap_or_default()),
            half_open_timeout: nanos(half_open.after),
            dropped_fails_after: match config.dropped_fails_after {
                Dropped::Unsaid => NEVER,
                Dropped::Never => SAID_NEVER,
                Dropped::After(wait) => nanos(wait),
            },
            minimum_calls,
            asked_minimum: config.minimum_calls,
            consecutive_failures: config.consecutive_failures.unwrap_or(0),
            overdue_calls: overdue.calls,
            probes: config.probes,
            probe_rule: config.probe_rule,
            after_half_open: half_open.then,
        }
    }

    /// The configuration they were made of.
    fn to_config(&self, history: HistoryConfig) -> CircuitBreakerConfig {
        let time = Duration::from_nanos;
        let set = |nanos: u64| (nanos != NEVER).then(|| time(nanos));
        CircuitBreakerConfig {
            window: self.window,
            minimum_calls: self.asked_minimum,
            failure_rate: threshold(self.failure_rate),
            slow_calls: set(self.slow_after).map(|longer_than| SlowCalls {
                longer_than,
                percent: self.slow_rate,
            }),
            consecutive_failures: Some(self.consecutive_failures).filter(|most| *most > 0),
            overdue_calls: (self.overdue_after > 0).then(|| OverdueCalls {
                after: time(self.overdue_after),
                calls: self.overdue_calls,
            }),
            open_for: time(self.open_for),
            open_factor: self.open_factor,
            open_max: (self.open_max > 0).then(|| time(self.open_max)),
            jitter: self.jitter,
            requested_wait: (time(self.requested_shortest), time(self.requested_longest)),
            probes: self.probes,
            probe_rule: self.probe_rule,
            probe_lease: (self.probe_lease > 0).then(|| time(self.probe_lease)),
            half_open_timeout: set(self.half_open_timeout).map(|after| HalfOpenTimeout {
                after,
                then: self.after_half_open,
            }),
            dropped_fails_after: match self.dropped_fails_after {
                NEVER => Dropped::Unsaid,
                SAID_NEVER => Dropped::Never,
                wait => Dropped::After(time(wait)),
            },
            history,
        }
    }

    fn probe_lease(&self) -> u64 {
        const LEAST: u64 = 30_000_000_000;
        match self.probe_lease {
            0 => self.open_for.max(LEAST),
            lease => lease,
        }
    }

    fn open_max(&self) -> u64 {
        const LEAST: u64 = 300_000_000_000;
        match self.open_max {
            0 => self.open_for.max(LEAST),
            most => most,
        }
    }

    pub(crate) fn counts_overdue(&self) -> bool {
        self.overdue_after > 0
    }
}

fn threshold(percent: f64) -> Option<f64> {
    Some(percent).filter(|percent| *percent > 0.0)
}

/// What the machine does with a call that wants to pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Decision {
    /// It passes, as the probe of this number, or as an ordinary call with 0.
    Admitted {
        generation: u64,
        probe: u32,
    },
    Refused(Refusal),
}

/// Why a call is refused, and when to ask again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) state: State,
    pub(crate) reason: Reason,
    /// When a call may pass again; [`NEVER`] if that is not known.
    pub(crate) until: u64,
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) generation: u64,
    pub(crate) probe: u32,
    pub(crate) outcome: Outcome,
    pub(crate) elapsed: u64,
}

/// What happened, for those who watch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Transition(TransitionRecord),
    /// While metrics only: a threshold was reached.
    ThresholdReached(Reason, Evidence),
    Reset,
}

/// What a stripe needs to know to deal with most calls by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Mirror {
    pub(crate) generation: u64,
    pub(crate) gate: Gate,
    /// Whether a good call can be counted without a look at the others: not while it could open
    /// the breaker, by completing the minimum of calls.
    pub(crate) commutes: bool,
    /// Until when counted calls go to the same place of the window.
    pub(crate) next_roll: u64,
    /// A call that takes longer is slow.
    pub(crate) slow_after: u64,
    /// A call that is dropped after so long is a failure.
    pub(crate) dropped_fails_after: u64,
    /// After how long a call is overdue; 0 where nobody asks.
    pub(crate) overdue_after: u64,
}

/// What a stripe does with a call that wants to pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Gate {
    /// Lets it pass. `watched` says whether its result is looked at.
    Pass { watched: bool },
    /// Lets it pass, counted as one that would be refused before that time.
    Shadow { refused_until: u64 },
    /// Refuses it before that time; asks the machine after.
    Refuse(Refusal),
    /// Asks the machine.
    Ask,
}

/// What a call that fails writes comes first and close together, for another thread's cache has
/// it; what only changes with the state or the configuration comes last.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Machine {
    window: Window,
    /// Failures since the last success.
    consecutive: u32,
    state: State,
    /// Why it is in this state.
    reason: Reason,
    pub(crate) totals: CallTotals,
    rejected: u64,
    /// Counts changes of state and resets. A call is judged in its own generation only.
    generation: u64,
    since: u64,
    /// While open: when a call may pass again.
    until: u64,
    /// How many times it opened without closing.
    attempt: u32,
    /// Only a breaker that was not always closed has this.
    past: Option<Box<Past>>,
    pub(crate) settings: Settings,
}

/// What a breaker that never left its first state does without.
#[derive(Debug, Default)]
struct Past {
    changes: Vec<Change>,
    /// While half open: the results of probes. While open: what opened it, and how many calls
    /// its rates had needed.
    judged: Counts,
    judged_minimum: u32,
    /// Probes in flight, oldest first, and the number of the last.
    probes: VecDeque<Probe>,
    last_probe: u32,
    /// While half open: when somebody noticed.
    noticed: u64,
    /// While metrics only: which thresholds were told of, and until when calls would be refused.
    announced: [bool; 2],
    shadow_until: u64,
    /// By where from, where to and why. As many as there are kinds of transitions, at most.
    transitions: Vec<(State, State, Reason, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    number: u32,
    began: u64,
}

/// What a reader sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) state: State,
    pub(crate) reason: Reason,
    pub(crate) since: u64,
    /// While open: when a call may pass again.
    pub(crate) until: u64,
    pub(crate) generation: u64,
    pub(crate) attempt: u32,
    pub(crate) consecutive: u32,
    pub(crate) counts: Counts,
    pub(crate) failure_rate: Option<f64>,
    pub(crate) slow_rate: Option<f64>,
    pub(crate) rejected: u64,
    pub(crate) probes_in_flight: u32,
    pub(crate) probes_free: u32,
    pub(crate) totals: CallTotals,
}

impl Machine {
    pub(crate) fn new(config: &CircuitBreakerConfig, now: u64) -> Self {
        Self {
            settings: Settings::new(config),
            state: State::Closed,
            generation: 0,
            since: now,
            reason: Reason::Manual,
            until: NEVER,
            window: Window::new(config.window, now),
            consecutive: 0,
            attempt: 0,
            rejected: 0,
            totals: CallTotals::default(),
            past: None,
        }
    }

    pub(crate) fn config(&self, history: HistoryConfig) -> CircuitBreakerConfig {
        self.settings.to_config(history)
    }

    pub(crate) fn transition_counts(&self) -> &[(State, State, Reason, u64)] {
        self.past.as_ref().map_or(&[], |past| &past.transitions)
    }

    fn probes(&self) -> Option<&VecDeque<Probe>> {
        self.past.as_ref().map(|past| &past.probes)
    }

    fn oldest_probe(&self) -> Option<&Probe> {
        self.probes().and_then(VecDeque::front)
    }

    fn probes_in_flight(&self) -> u32 {
        self.probes().map_or(0, VecDeque::len) as u32
    }

    fn judged(&self) -> Counts {
        self.past
            .as_ref()
            .map_or_else(Counts::default, |past| past.judged)
    }

    fn shadow_until(&self) -> u64 {
        self.past.as_ref().map_or(0, |past| past.shadow_until)
    }

    fn past(&mut self) -> &mut Past {
        self.past.get_or_insert_default()
    }

    /// Begins in another state, which nobody is told of.
    pub(crate) fn begin_in(&mut self, state: State, reason: Reason) {
        (self.state, self.reason) = (state, reason);
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        let past = self.past.as_ref().map_or(0, |past| {
            size_of::<Past>()
                + past.probes.capacity() * size_of::<Probe>()
                + past.transitions.capacity() * size_of::<(State, State, Reason, u64)>()
        });
        self.window.bytes() + past
    }

    /// What happened since this was asked last.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        match &mut self.past {
            Some(past) => std::mem::take(&mut past.changes),
            None => Vec::new(),
        }
    }

    // What happens.

    /// Brings the machine to `now`: a wait that is over, probes that took too long. Each happened
    /// when it was due, whenever somebody looks.
    pub(crate) fn advance(&mut self, now: u64) {
        self.window.roll(now);
        // A round begins with the first who looks, so that no round ends unnoticed: this ends
        // after a few.
        while self.advance_once(now) {}
    }

    fn advance_once(&mut self, now: u64) -> bool {
        let generation = self.generation;
        if self.state == State::Open && now >= self.until {
            self.enter(State::HalfOpen, Reason::WaitElapsed, self.until);
            self.past().noticed = now;
            return true;
        }
        if self.state != State::HalfOpen {
            return false;
        }
        while let Some(oldest) = self.oldest_probe() {
            let end = oldest.began.saturating_add(self.settings.probe_lease());
            if now < end || generation != self.generation {
                break;
            }
            self.past().probes.pop_front();
            let slow = self.settings.slow_rate > 0.0;
            self.count(true, slow);
            self.judge_probe(true, slow, end);
        }
        let end = self.half_open_end();
        if generation == self.generation && now >= end {
            match self.settings.after_half_open {
                AfterHalfOpen::Open => self.open(Reason::HalfOpenTimeout, None, end),
                AfterHalfOpen::Close => self.enter(State::Closed, Reason::HalfOpenTimeout, end),
            }
        }
        generation != self.generation
    }

    /// While half open: when that has taken too long.
    fn half_open_end(&self) -> u64 {
        let noticed = self.past.as_ref().map_or(0, |past| past.noticed);
        noticed.saturating_add(self.settings.half_open_timeout)
    }

    /// Decides about a call that wants to pass.
    pub(crate) fn acquire(&mut self, now: u64) -> Decision {
        self.advance(now);
        let admitted = Decision::Admitted {
            generation: self.generation,
            probe: 0,
        };
        match self.state {
            State::Closed | State::Disabled => admitted,
            State::MetricsOnly => {
                if now < self.shadow_until() {
                    self.add_would_reject(1);
                }
                admitted
            }
            State::HalfOpen if self.probes_free() > 0 => {
                // 0 stands for a call that is no probe.
                let past = self.past();
                let number = past.last_probe.wrapping_add(1).max(1);
                past.last_probe = number;
                past.probes.push_back(Probe { number, began: now });
                Decision::Admitted {
                    generation: self.generation,
                    probe: number,
                }
            }
            State::Open | State::HalfOpen | State::ForcedOpen => {
                self.add_rejected(1);
                Decision::Refused(self.refusal())
            }
        }
    }

    /// Takes the result of a call, and says whether it came too late to mean anything.
    pub(crate) fn record(&mut self, call: Ended, now: u64) -> bool {
        self.advance(now);
        if call.generation != self.generation {
            self.totals.stale += 1;
            return true;
        }
        if self.state == State::HalfOpen && !self.take_probe(call.probe) {
            // Its lease is over: it was judged already.
            self.totals.stale += 1;
            return true;
        }
        let slow = call.elapsed > self.settings.slow_after;
        let failed = match call.outcome {
            Outcome::Success => false,
            Outcome::Failure | Outcome::OpenFor(_) => true,
            Outcome::Ignore => return false,
        };
        if self.state == State::Disabled {
            return false;
        }
        self.count(failed, slow);
        let requested = match call.outcome {
            Outcome::OpenFor(wait) => Some(self.requested(wait)),
            _ => None,
        };
        match self.state {
            State::HalfOpen => match requested {
                Some(_) => {
                    self.past().judged.add(failed, slow);
                    self.open(Reason::Requested, requested, now);
                }
                None => self.judge_probe(failed, slow, now),
            },
            _ => {
                self.window.push(failed, slow);
                self.consecutive = match failed {
                    true => self.consecutive.saturating_add(1),
                    false => 0,
                };
                self.judge_window(requested, now);
            }
        }
        false
    }

    /// Takes the results of `calls` that were good, and that no other result had to wait for.
    ///
    /// Those of an earlier generation ended while this one began: they count, and decide nothing.
    pub(crate) fn add_successes(&mut self, calls: u64, generation: u64) {
        if calls == 0 {
            return;
        }
        self.totals.successes += calls;
        if generation == self.generation {
            self.window.push_successes(calls);
            self.consecutive = 0;
        }
    }

    /// Judges by what was added since.
    pub(crate) fn judge_again(&mut self, now: u64) {
        if matches!(self.state, State::Closed | State::MetricsOnly) {
            self.judge_window(None, now);
        }
    }

    pub(crate) fn add_rejected(&mut self, calls: u64) {
        self.rejected += calls;
        *self.rejected_in(self.state) += calls;
    }

    /// Counts a call that was refused by a state that was left since.
    pub(crate) fn add_rejected_before(&mut self, state: State) {
        *self.rejected_in(state) += 1;
    }

    fn rejected_in(&mut self, state: State) -> &mut u64 {
        match state {
            State::HalfOpen => &mut self.totals.rejected_half_open,
            State::ForcedOpen => &mut self.totals.rejected_forced_open,
            _ => &mut self.totals.rejected_open,
        }
    }

    pub(crate) fn add_would_reject(&mut self, calls: u64) {
        self.totals.would_reject += calls;
    }

    /// Looks at how many calls are overdue.
    pub(crate) fn judge_overdue(&mut self, overdue: u64, now: u64) {
        if !self.settings.counts_overdue() || overdue < u64::from(self.settings.overdue_calls) {
            return;
        }
        self.window.roll(now);
        match self.state {
            State::Closed => self.open(Reason::OverdueCalls, None, now),
            State::MetricsOnly => self.shadow(Some(self.settings.open_for), now),
            _ => {}
        }
    }

    // What it is told.

    /// Goes to `to` by hand. To stay where it is changes nothing. Where that makes no sense it
    /// gives the state it is in.
    pub(crate) fn command(
        &mut self,
        to: State,
        wait: Option<Duration>,
        now: u64,
    ) -> Result<(), State> {
        if !self.state.may_become(to) {
            return Err(self.state);
        }
        match (to, wait) {
            (State::Open, Some(wait)) if self.state == State::Open => {
                self.until = now.saturating_add(nanos(wait));
            }
            (same, _) if same == self.state => {}
            (State::Open, wait) => self.open(Reason::Manual, wait.map(nanos), now),
            (to, _) => {
                self.enter(to, Reason::Manual, now);
                self.past().noticed = now;
            }
        }
        Ok(())
    }

    /// Closes it and forgets what it judged by. Calls in flight mean nothing any more.
    pub(crate) fn reset(&mut self, now: u64) {
        self.advance(now);
        if self.state == State::Closed {
            self.begin(State::Closed, Reason::Manual, now);
        } else {
            self.enter(State::Closed, Reason::Manual, now);
        }
        self.past().changes.push(Change::Reset);
    }

    /// Takes on another configuration. State, attempts, deadlines and as much of the window as
    /// fits stay.
    pub(crate) fn reconfigure(&mut self, config: &CircuitBreakerConfig, now: u64) {
        self.advance(now);
        let old = std::mem::replace(&mut self.settings, Settings::new(config));
        if old.window != config.window {
            self.window = self.window.reshaped(config.window, now);
            self.window.roll(now);
        }
        if self.state == State::HalfOpen {
            self.conclude_probes(now);
        }
    }

    // What is seen.

    pub(crate) fn mirror(&self) -> Mirror {
        let gate = match self.state {
            State::Closed => Gate::Pass { watched: true },
            State::Disabled => Gate::Pass { watched: false },
            State::MetricsOnly => Gate::Shadow {
                refused_until: self.shadow_until(),
            },
            State::HalfOpen if self.probes_free() > 0 => Gate::Ask,
            State::Open | State::HalfOpen | State::ForcedOpen => Gate::Refuse(self.refusal()),
        };
        let watching = matches!(self.state, State::Closed | State::MetricsOnly);
        Mirror {
            generation: self.generation,
            gate,
            commutes: watching && self.successes_commute(),
            next_roll: self.window.next_roll(),
            slow_after: self.settings.slow_after,
            dropped_fails_after: self.settings.dropped_fails_after,
            overdue_after: match watching {
                true => self.settings.overdue_after,
                false => 0,
            },
        }
    }

    pub(crate) fn view(&self) -> View {
        let (counts, minimum) = self.judgement();
        let (failure_rate, slow_rate) = rates(counts, minimum, &self.settings);
        View {
            state: self.state,
            reason: self.reason,
            since: self.since,
            until: match self.state {
                State::Open => self.until,
                _ => NEVER,
            },
            generation: self.generation,
            attempt: self.attempt,
            consecutive: self.consecutive,
            counts,
            failure_rate,
            slow_rate,
            rejected: self.rejected,
            probes_in_flight: self.probes_in_flight(),
            probes_free: match self.state {
                State::HalfOpen => self.probes_free(),
                _ => 0,
            },
            totals: self.totals,
        }
    }

    /// The calls it judges by, and how many must be there for their rates to mean anything.
    fn judgement(&self) -> (Counts, u32) {
        match self.state {
            State::Open => (
                self.judged(),
                self.past.as_ref().map_or(0, |past| past.judged_minimum),
            ),
            State::HalfOpen => (self.judged(), self.probes_needed()),
            _ => (self.window.counts(), self.settings.minimum_calls),
        }
    }

    /// Whether nothing would be lost if it were forgotten: a new one would do the same.
    pub(crate) fn is_like_new(&self) -> bool {
        self.state == State::Closed && self.window.counts().calls == 0 && self.consecutive == 0
    }

    // How it judges.

    /// Counts a result for ever, whatever it decides.
    fn count(&mut self, failed: bool, slow: bool) {
        match failed {
            true => self.totals.failures += 1,
            false => self.totals.successes += 1,
        }
        self.totals.slow += u64::from(slow);
    }

    /// A success moves no rate towards its threshold once the minimum is reached, and a window
    /// of nothing but good calls has none to move.
    fn successes_commute(&self) -> bool {
        let counts = self.window.counts();
        counts.all_good()
            || counts.calls >= self.settings.minimum_calls && self.broken_threshold().is_none()
    }

    /// The first threshold that the window has reached.
    fn broken_threshold(&self) -> Option<Reason> {
        let counts = self.window.counts();
        let most = self.settings.consecutive_failures;
        if most > 0 && self.consecutive >= most {
            return Some(Reason::ConsecutiveFailures);
        }
        self.broken_rate(counts, self.settings.minimum_calls)
    }

    fn broken_rate(&self, counts: Counts, minimum: u32) -> Option<Reason> {
        let (failures, slow) = rates(counts, minimum, &self.settings);
        if reached(failures, self.settings.failure_rate) {
            Some(Reason::FailureRate)
        } else if reached(slow, self.settings.slow_rate) {
            Some(Reason::SlowCallRate)
        } else {
            None
        }
    }

    fn judge_window(&mut self, requested: Option<u64>, now: u64) {
        if self.state == State::MetricsOnly {
            self.shadow(requested, now);
        } else if requested.is_some() {
            self.open(Reason::Requested, requested, now);
        } else if let Some(reason) = self.broken_threshold() {
            self.open(reason, None, now);
        }
    }

    /// While metrics only: tells once of each rate that is reached, and begins the time for which
    /// calls would be refused.
    fn shadow(&mut self, requested: Option<u64>, now: u64) {
        let counts = self.window.counts();
        let (failures, slow) = rates(counts, self.settings.minimum_calls, &self.settings);
        let rates = [
            (Reason::FailureRate, failures, self.settings.failure_rate),
            (Reason::SlowCallRate, slow, self.settings.slow_rate),
        ];
        for (announced, (reason, rate, threshold)) in rates.into_iter().enumerate() {
            if reached(rate, threshold)
                && !std::mem::replace(&mut self.past().announced[announced], true)
            {
                let evidence = self.evidence();
                self.past()
                    .changes
                    .push(Change::ThresholdReached(reason, evidence));
            }
        }
        let refused = requested.is_some() || self.broken_threshold().is_some();
        if refused && now >= self.shadow_until() {
            let wait = requested.unwrap_or(self.settings.open_for);
            self.past().shadow_until = now.saturating_add(wait);
        }
    }

    fn judge_probe(&mut self, failed: bool, slow: bool, now: u64) {
        self.past().judged.add(failed, slow);
        self.conclude_probes(now);
    }

    fn conclude_probes(&mut self, now: u64) {
        match self.settings.probe_rule {
            ProbeRule::Rate => {
                if self.judged().calls < self.probes_needed() {
                    return;
                }
                match self.broken_rate(self.judged(), self.probes_needed()) {
                    Some(reason) => self.open(reason, None, now),
                    None => self.enter(State::Closed, Reason::ProbesSucceeded, now),
                }
            }
            ProbeRule::AllMustSucceed => {
                if !self.judged().all_good() {
                    self.open(Reason::ProbeFailed, None, now);
                } else if self.judged().calls >= self.settings.probes {
                    self.enter(State::Closed, Reason::ProbesSucceeded, now);
                }
            }
        }
    }

    /// How many probes must have answered for their rates to mean anything.
    fn probes_needed(&self) -> u32 {
        match self.settings.probe_rule {
            ProbeRule::Rate => self.settings.probes.min(self.settings.minimum_calls),
            ProbeRule::AllMustSucceed => self.settings.probes,
        }
    }

    fn probes_free(&self) -> u32 {
        let taken = self.judged().calls.saturating_add(self.probes_in_flight());
        self.settings.probes.saturating_sub(taken)
    }

    /// Whether that probe was still in flight; it is not any more.
    fn take_probe(&mut self, number: u32) -> bool {
        let probes = &mut self.past().probes;
        let place = probes.iter().position(|probe| probe.number == number);
        place.is_some_and(|place| probes.remove(place).is_some())
    }

    // How it moves.

    fn requested(&self, wait: Duration) -> u64 {
        let (shortest, longest) = (
            self.settings.requested_shortest,
            self.settings.requested_longest,
        );
        match wait {
            Duration::MAX => NEVER,
            // The longest is not shorter than the shortest: that was checked.
            wait => nanos(wait).max(shortest).min(longest),
        }
    }

    /// Opens for the time given, or for as long as it should by now.
    fn open(&mut self, reason: Reason, wait: Option<u64>, now: u64) {
        self.attempt = self.attempt.saturating_add(1);
        let wait = wait.unwrap_or_else(|| self.settings.back_off(self.attempt));
        self.until = now.saturating_add(wait);
        self.enter(State::Open, reason, now);
    }

    /// Changes the state, and tells of it.
    fn enter(&mut self, to: State, reason: Reason, now: u64) {
        let from = self.state;
        let mut evidence = self.evidence();
        evidence.generation += 1;
        if to == State::Open {
            let (counts, minimum) = self.judgement();
            let past = self.past();
            past.judged = counts;
            past.judged_minimum = minimum;
            evidence.open_for = match self.until {
                NEVER => None,
                until => Some(Duration::from_nanos(until.saturating_sub(now))),
            };
        }
        self.past()
            .changes
            .push(Change::Transition(TransitionRecord {
                at: now,
                from,
                to,
                reason,
                evidence,
            }));
        let key = (from, to, reason);
        let counts = &mut self.past().transitions;
        match (counts.iter_mut()).find(|(from, to, reason, _)| (*from, *to, *reason) == key) {
            Some((.., count)) => *count += 1,
            None => counts.push((from, to, reason, 1)),
        }
        self.begin(to, reason, now);
    }

    /// Starts a new generation in `state`, with nothing known yet.
    fn begin(&mut self, state: State, reason: Reason, now: u64) {
        self.state = state;
        self.reason = reason;
        self.since = now;
        self.generation += 1;
        self.rejected = 0;
        self.consecutive = 0;
        self.window.clear();
        self.window.roll(now);
        if let Some(past) = &mut self.past {
            past.probes.clear();
            past.announced = [false; 2];
            past.shadow_until = 0;
        }
        match state {
            State::Open | State::Disabled | State::ForcedOpen | State::MetricsOnly => {}
            // A circuit that closed has recovered; whatever else is entered proves nothing.
            State::Closed => self.attempt = 0,
            State::HalfOpen => self.past().judged = Counts::default(),
        }
    }

    fn evidence(&self) -> Evidence {
        let view = self.view();
        Evidence {
            calls: view.counts.calls,
            failures: view.counts.failures,
            slow: view.counts.slow,
            slow_failures: view.counts.slow_failures,
            failure_rate: view.failure_rate,
            slow_rate: view.slow_rate,
            rejected: self.rejected,
            generation: self.generation,
            attempt: self.attempt,
            open_for: None,
        }
    }

    fn refusal(&self) -> Refusal {
        let until = match self.state {
            State::Open => self.until,
            State::HalfOpen => self.next_release(),
            _ => NEVER,
        };
        Refusal {
            state: self.state,
            reason: self.reason,
            until,
        }
    }

    /// While half open: when a probe in flight will have taken too long, or all of them.
    fn next_release(&self) -> u64 {
        let lease = self.oldest_probe().map_or(NEVER, |oldest| {
            oldest.began.saturating_add(self.settings.probe_lease())
        });
        lease.min(self.half_open_end())
    }
}

impl Settings {
    /// `open_for × open_factor^(attempt − 1)`, at most `open_max`, varied by the jitter.
    fn back_off(&self, attempt: u32) -> u64 {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let wait = self.open_for as f64 * self.open_factor.powi(exponent);
        let wait = wait.min(self.open_max() as f64);
        let wait = match self.jitter {
            0.0 => wait,
            share => wait * (1.0 + share * (2.0 * fastrand::f64() - 1.0)),
        };
        // Float to integer saturates.
        wait as u64
    }
}

/// The percentages of failures and of slow calls, once there are enough calls.
fn rates(counts: Counts, minimum: u32, settings: &Settings) -> (Option<f64>, Option<f64>) {
    if counts.calls < minimum.max(1) {
        return (None, None);
    }
    let percent = |part: u32| f64::from(part) * 100.0 / f64::from(counts.calls);
    let slow = threshold(settings.slow_rate).map(|_| percent(counts.slow));
    (Some(percent(counts.failures)), slow)
}

/// Whether a rate has reached its threshold, if there is one.
fn reached(rate: Option<f64>, percent: f64) -> bool {
    matches!((rate, threshold(percent)), (Some(rate), Some(threshold)) if rate >= threshold)
}
