//! The breaker against a naive one, over random schedules.
//!
//! The naive one keeps lists of calls and counts them whenever it is asked. What it does is what
//! the documentation says; it knows nothing of stripes, mirrors, rings or buckets of counts.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use crate::{
    AfterHalfOpen, CallOutcome, CallTotals, CallsQuery, CircuitBreaker, CircuitBreakerConfig,
    EventKind, Evidence, HistoryConfig, Outcome, Permit, ProbeRule, Reason, State,
    Window as WindowConfig,
    breaker::Member,
    event::Event,
    machine::{Change, Decision, Ended, Gate, Machine, NEVER, Refusal, View},
    nanos,
    settings::{HalfOpenTimeout, OverdueCalls, SlowCalls},
    window::Counts,
};
use plimsoll_core::Name;
use proptest::{collection::vec, option, prelude::*};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

mod threads;

const MS: u64 = 1_000_000;

// === the naive breaker ===

#[derive(Clone, Copy, Debug)]
struct Call {
    failed: bool,
    slow: bool,
}

/// The calls that count, oldest first.
#[derive(Clone, Debug)]
enum Seen {
    Last {
        calls: Vec<Call>,
        most: usize,
    },
    /// Each with the number of its bucket.
    Lately {
        calls: Vec<(u64, Call)>,
        origin: u64,
        width: u64,
        head: u64,
    },
}

impl Seen {
    fn new(window: WindowConfig, now: u64) -> Self {
        match window {
            WindowConfig::Calls(most) => Self::Last {
                calls: Vec::new(),
                most: most as usize,
            },
            WindowConfig::Time(time) => Self::Lately {
                calls: Vec::new(),
                origin: now,
                width: nanos(time) / 10,
                head: 0,
            },
        }
    }

    fn roll(&mut self, now: u64) {
        if let Self::Lately {
            calls,
            origin,
            width,
            head,
        } = self
        {
            *head = (*head).max(now.saturating_sub(*origin) / *width);
            calls.retain(|(bucket, _)| bucket + 10 > *head);
        }
    }

    fn add(&mut self, call: Call) {
        match self {
            Self::Last { calls, most } => {
                calls.push(call);
                if calls.len() > *most {
                    calls.remove(0);
                }
            }
            Self::Lately { calls, head, .. } => calls.push((*head, call)),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Last { calls, .. } => calls.clear(),
            Self::Lately { calls, .. } => calls.clear(),
        }
    }

    fn calls(&self) -> Vec<Call> {
        match self {
            Self::Last { calls, .. } => calls.clone(),
            Self::Lately { calls, .. } => calls.iter().map(|(_, call)| *call).collect(),
        }
    }

    /// The newest calls, or the calls of buckets that began late enough.
    fn reshaped(&self, window: WindowConfig, now: u64) -> Self {
        let mut new = Self::new(window, now);
        match (self, &mut new) {
            (Self::Last { calls: old, .. }, Self::Last { calls, most }) => {
                *calls = old[old.len().saturating_sub(*most)..].to_vec();
            }
            (
                Self::Lately {
                    calls: old,
                    origin: old_origin,
                    width: old_width,
                    head: old_head,
                },
                Self::Lately {
                    calls,
                    origin,
                    width,
                    head,
                },
            ) => {
                let newest = old_origin + old_head * old_width;
                *origin = newest.saturating_sub(*width * 9);
                *head = (newest - *origin) / *width;
                for (bucket, call) in old {
                    let began = old_origin + bucket * old_width;
                    if began >= *origin {
                        calls.push(((began - *origin) / *width, *call));
                    }
                }
            }
            _ => {}
        }
        new
    }
}

fn count(calls: &[Call]) -> Counts {
    let matching = |is: fn(&Call) -> bool| calls.iter().filter(|call| is(call)).count() as u32;
    Counts {
        calls: calls.len() as u32,
        failures: matching(|call| call.failed),
        slow: matching(|call| call.slow),
        slow_failures: matching(|call| call.failed && call.slow),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Said {
    Moved {
        at: u64,
        from: State,
        to: State,
        reason: Reason,
        evidence: Evidence,
    },
    Reached(Reason, Evidence),
    Reset,
}

#[derive(Clone, Debug)]
struct Naive {
    config: CircuitBreakerConfig,
    state: State,
    reason: Reason,
    since: u64,
    /// While half open: when somebody noticed.
    noticed: u64,
    until: u64,
    generation: u64,
    attempt: u32,
    consecutive: u32,
    rejected: u64,
    totals: CallTotals,
    seen: Seen,
    /// The probes that answered; while open, what opened it and how many calls that had needed.
    judged: Vec<Call>,
    judged_minimum: u32,
    probes: Vec<(u32, u64)>,
    last_probe: u32,
    announced: Vec<Reason>,
    shadow_until: u64,
    said: Vec<Said>,
}

impl Naive {
    fn new(config: &CircuitBreakerConfig, now: u64) -> Self {
        Self {
            config: config.clone(),
            state: State::Closed,
            reason: Reason::Manual,
            since: now,
            noticed: now,
            until: NEVER,
            generation: 0,
            attempt: 0,
            consecutive: 0,
            rejected: 0,
            totals: CallTotals::default(),
            seen: Seen::new(config.window, now),
            judged: Vec::new(),
            judged_minimum: 0,
            probes: Vec::new(),
            last_probe: 0,
            announced: Vec::new(),
            shadow_until: 0,
            said: Vec::new(),
        }
    }

    fn minimum(&self) -> u32 {
        match self.config.window {
            WindowConfig::Calls(calls) => self.config.minimum_calls.min(calls),
            _ => self.config.minimum_calls,
        }
    }

    fn probes_needed(&self) -> u32 {
        match self.config.probe_rule {
            ProbeRule::Rate => self.config.probes.min(self.minimum()),
            ProbeRule::AllMustSucceed => self.config.probes,
        }
    }

    fn probes_free(&self) -> u32 {
        let taken = self.judged.len() + self.probes.len();
        self.config.probes.saturating_sub(taken as u32)
    }

    fn lease(&self) -> u64 {
        let default = self.config.open_for.max(Duration::from_secs(30));
        nanos(self.config.probe_lease.unwrap_or(default))
    }

    fn is_slow(&self, elapsed: u64) -> bool {
        let slow_after = self
            .config
            .slow_calls
            .map_or(NEVER, |slow| nanos(slow.longer_than));
        elapsed > slow_after
    }

    /// The calls it judges by, and how many its rates need.
    fn judges_by(&self) -> (Vec<Call>, u32) {
        match self.state {
            State::Open => (self.judged.clone(), self.judged_minimum),
            State::HalfOpen => (self.judged.clone(), self.probes_needed()),
            _ => (self.seen.calls(), self.minimum()),
        }
    }

    fn rates(&self, calls: &[Call], minimum: u32) -> (Option<f64>, Option<f64>) {
        let counts = count(calls);
        if counts.calls < minimum.max(1) {
            return (None, None);
        }
        let percent = |part: u32| Some(f64::from(part) * 100.0 / f64::from(counts.calls));
        let slow = self.config.slow_calls.and_then(|_| percent(counts.slow));
        (percent(counts.failures), slow)
    }

    fn reached(&self, calls: &[Call], minimum: u32) -> Vec<Reason> {
        let (failures, slow) = self.rates(calls, minimum);
        let at = |rate: Option<f64>, most: Option<f64>| rate.zip(most).is_some_and(|(r, m)| r >= m);
        let mut reached = Vec::new();
        if at(failures, self.config.failure_rate) {
            reached.push(Reason::FailureRate);
        }
        if at(slow, self.config.slow_calls.map(|slow| slow.percent)) {
            reached.push(Reason::SlowCallRate);
        }
        reached
    }

    fn broken(&self) -> Option<Reason> {
        let most = self.config.consecutive_failures;
        if most.is_some_and(|most| self.consecutive >= most) {
            return Some(Reason::ConsecutiveFailures);
        }
        let reached = self.reached(&self.seen.calls(), self.minimum());
        reached.first().copied()
    }

    fn evidence(&self) -> Evidence {
        let (calls, minimum) = self.judges_by();
        let counts = count(&calls);
        let (failure_rate, slow_rate) = self.rates(&calls, minimum);
        Evidence {
            calls: counts.calls,
            failures: counts.failures,
            slow: counts.slow,
            slow_failures: counts.slow_failures,
            failure_rate,
            slow_rate,
            rejected: self.rejected,
            generation: self.generation,
            attempt: self.attempt,
            open_for: None,
        }
    }

    fn begin(&mut self, to: State, reason: Reason, now: u64) {
        (self.state, self.reason, self.since) = (to, reason, now);
        self.generation += 1;
        (self.rejected, self.consecutive) = (0, 0);
        self.seen.clear();
        self.probes.clear();
        self.announced.clear();
        self.shadow_until = 0;
        match to {
            State::Closed => self.attempt = 0,
            State::HalfOpen => self.judged.clear(),
            _ => {}
        }
    }

    fn enter(&mut self, to: State, reason: Reason, now: u64) {
        let mut evidence = self.evidence();
        evidence.generation += 1;
        if to == State::Open {
            (self.judged, self.judged_minimum) = self.judges_by();
            let wait = Duration::from_nanos(self.until.saturating_sub(now));
            evidence.open_for = (self.until != NEVER).then_some(wait);
        }
        let from = self.state;
        self.said.push(Said::Moved {
            at: now,
            from,
            to,
            reason,
            evidence,
        });
        self.begin(to, reason, now);
    }

    fn open(&mut self, reason: Reason, wait: Option<u64>, now: u64) {
        self.attempt += 1;
        let back_off = || {
            let most = self.config.open_max;
            let most = most.unwrap_or_else(|| self.config.open_for.max(Duration::from_secs(300)));
            let most = nanos(most) as f64;
            let mut wait = nanos(self.config.open_for) as f64;
            for _ in 1..self.attempt {
                wait = (wait * self.config.open_factor).min(most);
            }
            wait as u64
        };
        self.until = now.saturating_add(wait.unwrap_or_else(back_off));
        self.enter(State::Open, reason, now);
    }

    fn requested(&self, wait: Duration) -> u64 {
        let (shortest, longest) = self.config.requested_wait;
        match wait {
            Duration::MAX => NEVER,
            wait => nanos(wait.clamp(shortest, longest)),
        }
    }

    /// What is due by `now` happens when it is due, but a half-open round times out from when it
    /// was noticed.
    fn advance(&mut self, now: u64) {
        self.seen.roll(now);
        loop {
            let generation = self.generation;
            match self.state {
                State::Open if now >= self.until => {
                    self.enter(State::HalfOpen, Reason::WaitElapsed, self.until);
                    self.noticed = now;
                }
                State::HalfOpen => self.advance_probes(now),
                _ => {}
            }
            if generation == self.generation {
                return;
            }
        }
    }

    fn advance_probes(&mut self, now: u64) {
        while self.state == State::HalfOpen
            && let Some((_, began)) = self.probes.first()
            && now >= began.saturating_add(self.lease())
        {
            let end = began.saturating_add(self.lease());
            self.probes.remove(0);
            let slow = self.config.slow_calls.is_some();
            self.count(true, slow);
            self.judged.push(Call { failed: true, slow });
            self.conclude(end);
        }
        if self.state == State::HalfOpen && now >= self.half_open_end() {
            let end = self.half_open_end();
            match self.config.half_open_timeout.map(|timeout| timeout.then) {
                None => {}
                Some(AfterHalfOpen::Open) => self.open(Reason::HalfOpenTimeout, None, end),
                Some(AfterHalfOpen::Close) => {
                    self.enter(State::Closed, Reason::HalfOpenTimeout, end);
                }
            }
        }
    }

    fn half_open_end(&self) -> u64 {
        let timeout = self.config.half_open_timeout;
        timeout.map_or(NEVER, |timeout| {
            self.noticed.saturating_add(nanos(timeout.after))
        })
    }

    fn count(&mut self, failed: bool, slow: bool) {
        match failed {
            true => self.totals.failures += 1,
            false => self.totals.successes += 1,
        }
        self.totals.slow += u64::from(slow);
    }

    fn conclude(&mut self, now: u64) {
        let counts = count(&self.judged);
        match self.config.probe_rule {
            ProbeRule::Rate if counts.calls >= self.probes_needed() => {
                let reached = self.reached(&self.judged, self.probes_needed());
                match reached.first() {
                    Some(reason) => self.open(*reason, None, now),
                    None => self.enter(State::Closed, Reason::ProbesSucceeded, now),
                }
            }
            ProbeRule::AllMustSucceed if counts.failures + counts.slow > 0 => {
                self.open(Reason::ProbeFailed, None, now);
            }
            ProbeRule::AllMustSucceed if counts.calls >= self.config.probes => {
                self.enter(State::Closed, Reason::ProbesSucceeded, now);
            }
            _ => {}
        }
    }

    fn shadow(&mut self, wait: Option<u64>, now: u64) {
        for reason in self.reached(&self.seen.calls(), self.minimum()) {
            if !self.announced.contains(&reason) {
                self.announced.push(reason);
                self.said.push(Said::Reached(reason, self.evidence()));
            }
        }
        if (wait.is_some() || self.broken().is_some()) && now >= self.shadow_until {
            let wait = wait.unwrap_or_else(|| nanos(self.config.open_for));
            self.shadow_until = now.saturating_add(wait);
        }
    }

    fn judge_overdue(&mut self, overdue: u64, now: u64) {
        let Some(OverdueCalls { calls: most, .. }) = self.config.overdue_calls else {
            return;
        };
        if overdue < u64::from(most) {
            return;
        }
        self.seen.roll(now);
        match self.state {
            State::Closed => self.open(Reason::OverdueCalls, None, now),
            State::MetricsOnly => self.shadow(Some(nanos(self.config.open_for)), now),
            _ => {}
        }
    }

    fn acquire(&mut self, now: u64) -> Decision {
        self.advance(now);
        let generation = self.generation;
        match self.state {
            State::Closed | State::Disabled => {}
            State::MetricsOnly => self.totals.would_reject += u64::from(now < self.shadow_until),
            State::HalfOpen if self.probes_free() > 0 => {
                self.last_probe += 1;
                self.probes.push((self.last_probe, now));
                return Decision::Admitted {
                    generation,
                    probe: self.last_probe,
                };
            }
            State::Open | State::HalfOpen | State::ForcedOpen => {
                self.rejected += 1;
                *match self.state {
                    State::Open => &mut self.totals.rejected_open,
                    State::HalfOpen => &mut self.totals.rejected_half_open,
                    _ => &mut self.totals.rejected_forced_open,
                } += 1;
                return Decision::Refused(self.refusal());
            }
        }
        Decision::Admitted {
            generation,
            probe: 0,
        }
    }

    fn refusal(&self) -> Refusal {
        let lease = self.probes.first();
        let lease = lease.map_or(NEVER, |(_, began)| began.saturating_add(self.lease()));
        let timeout = self.half_open_end();
        Refusal {
            state: self.state,
            reason: self.reason,
            until: match self.state {
                State::Open => self.until,
                State::HalfOpen => lease.min(timeout),
                _ => NEVER,
            },
        }
    }

    /// Says whether it came too late.
    fn record(&mut self, call: Ended, now: u64) -> bool {
        self.advance(now);
        let probe = (self.probes.iter()).position(|(number, _)| *number == call.probe);
        if call.generation != self.generation || self.state == State::HalfOpen && probe.is_none() {
            self.totals.stale += 1;
            return true;
        }
        if let Some(place) = probe {
            self.probes.remove(place);
        }
        let slow = self.is_slow(call.elapsed);
        let (failed, wait) = match call.outcome {
            Outcome::Ignore => return false,
            Outcome::Success => (false, None),
            Outcome::Failure => (true, None),
            Outcome::OpenFor(wait) => (true, Some(self.requested(wait))),
        };
        if self.state == State::Disabled {
            return false;
        }
        self.count(failed, slow);
        if self.state == State::HalfOpen {
            self.judged.push(Call { failed, slow });
            match wait {
                Some(_) => self.open(Reason::Requested, wait, now),
                None => self.conclude(now),
            }
            return false;
        }
        self.seen.add(Call { failed, slow });
        self.consecutive = if failed { self.consecutive + 1 } else { 0 };
        if self.state == State::MetricsOnly {
            self.shadow(wait, now);
        } else if wait.is_some() {
            self.open(Reason::Requested, wait, now);
        } else if let Some(reason) = self.broken() {
            self.open(reason, None, now);
        }
        false
    }

    fn command(&mut self, to: State, wait: Option<Duration>, now: u64) -> bool {
        let (from, wait) = (self.state, wait.map(nanos));
        let senseless = match from {
            State::Closed => to == State::HalfOpen,
            State::MetricsOnly => matches!(to, State::Open | State::HalfOpen),
            _ => false,
        };
        match wait {
            _ if senseless => return false,
            Some(wait) if from == State::Open && to == State::Open => {
                self.until = now.saturating_add(wait);
            }
            _ if from == to => {}
            wait if to == State::Open => self.open(Reason::Manual, wait, now),
            _ => {
                self.enter(to, Reason::Manual, now);
                self.noticed = now;
            }
        }
        true
    }

    fn reset(&mut self, now: u64) {
        self.advance(now);
        match self.state {
            State::Closed => self.begin(State::Closed, Reason::Manual, now),
            _ => self.enter(State::Closed, Reason::Manual, now),
        }
        self.said.push(Said::Reset);
    }

    fn reconfigure(&mut self, config: &CircuitBreakerConfig, now: u64) {
        self.advance(now);
        if self.config.window != config.window {
            self.seen = self.seen.reshaped(config.window, now);
            self.seen.roll(now);
        }
        self.config = config.clone();
        if self.state == State::HalfOpen {
            self.conclude(now);
        }
    }

    fn assert_same(&self, view: &View) {
        let (calls, minimum) = self.judges_by();
        let naive = (
            self.state,
            self.reason,
            self.since,
            self.generation,
            self.attempt,
        );
        let real = (
            view.state,
            view.reason,
            view.since,
            view.generation,
            view.attempt,
        );
        assert_eq!(real, naive);
        let until = match self.state {
            State::Open => self.until,
            _ => NEVER,
        };
        assert_eq!((view.until, view.rejected), (until, self.rejected));
        assert_eq!(view.counts, count(&calls));
        let rates = (view.failure_rate, view.slow_rate);
        assert_eq!(rates, self.rates(&calls, minimum));
        assert_eq!(view.consecutive, self.consecutive);
        assert_eq!(view.totals, self.totals);
        assert_eq!(view.probes_in_flight as usize, self.probes.len());
        let free = match self.state {
            State::HalfOpen => self.probes_free(),
            _ => 0,
        };
        assert_eq!(view.probes_free, free);
    }
}

// === schedules ===

fn some_time(ms: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    ms.prop_map(Duration::from_millis)
}

fn some_percent() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.5), Just(25.0), Just(50.0), Just(66.6), Just(100.0)]
}

fn some_config() -> impl Strategy<Value = CircuitBreakerConfig> {
    let window = prop_oneof![
        3 => (1..12_u32).prop_map(WindowConfig::Calls),
        1 => (60..140_u32).prop_map(WindowConfig::Calls),
        3 => some_time(10..200).prop_map(WindowConfig::Time),
    ];
    let closed = (
        window,
        1..8_u32,
        option::of(some_percent()),
        option::of((some_time(1..20), some_percent())),
        option::weighted(0.3, 1..5_u32),
        option::weighted(0.3, (some_time(8..60), 1..5_u32)),
        option::of(some_time(1..30)),
    );
    let open = (
        1..50_u64,
        prop_oneof![Just(1.0), Just(1.5), Just(2.0), Just(10.0)],
        0..200_u64,
        0..10_u64,
        10..100_u64,
    );
    let timeout = (
        some_time(1_000..1_500),
        prop_oneof![Just(AfterHalfOpen::Open), Just(AfterHalfOpen::Close)],
    );
    let half_open = (
        1..5_u32,
        prop_oneof![Just(ProbeRule::Rate), Just(ProbeRule::AllMustSucceed)],
        option::of(some_time(1..60)),
        option::of(timeout),
    );
    (closed, open, half_open).prop_map(|(closed, open, half_open)| {
        let (window, minimum, failure_rate, slow, consecutive, overdue, dropped) = closed;
        let (open_for, factor, more, shortest, longest) = open;
        let (probes, rule, lease, timeout) = half_open;
        let ms = Duration::from_millis;
        let mut config = CircuitBreakerConfig::new()
            .window(window)
            .minimum_calls(minimum)
            .failure_rate(failure_rate)
            .consecutive_failures(consecutive)
            .dropped_fails_after(dropped)
            .open_for(ms(open_for))
            .open_factor(factor)
            .open_max(ms(open_for + more))
            .jitter(0.0)
            .requested_wait(ms(shortest), ms(longest))
            .probes(probes)
            .probe_rule(rule);
        config.slow_calls = slow.map(|(longer_than, percent)| SlowCalls {
            longer_than,
            percent,
        });
        config.overdue_calls = overdue.map(|(after, calls)| OverdueCalls { after, calls });
        config.probe_lease = lease;
        config.half_open_timeout = timeout.map(|(after, then)| HalfOpenTimeout { after, then });
        config.validate().unwrap();
        config
    })
}

#[derive(Clone, Debug)]
enum Op {
    /// On the stripe of that number.
    Acquire(usize),
    /// The outcome of one of the calls in flight, after so long where time can be made up.
    Settle(usize, Outcome, u64),
    Drop(usize),
    /// A panic unwinds through the holder of a permit, which is guarded or not.
    Panic(usize, bool),
    Jump(u64),
    /// Only where time can be made up.
    Back(u64),
    Command(State, Option<Duration>),
    Reset,
    Reconfigure(Box<CircuitBreakerConfig>),
    /// So many good calls at once, or so many calls overdue, where that can be made up.
    Successes(u64),
    Overdue(u64),
    Grow,
    Read,
}

fn some_wait() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => some_time(0..150),
        1 => Just(Duration::MAX),
        1 => Just(Duration::from_nanos(u64::MAX)),
    ]
}

fn some_jump() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => Just(0),
        2 => 1..100_u64,
        6 => 0..15 * MS,
        3 => (1..100_u64).prop_map(|ms| ms * MS),
        1 => 0..2_000 * MS,
        1 => (0..200 * 86_400_000_u64).prop_map(|ms| ms * MS),
    ]
}

fn some_op() -> impl Strategy<Value = Op> {
    let outcome = prop_oneof![
        8 => Just(Outcome::Success),
        8 => Just(Outcome::Failure),
        2 => Just(Outcome::Ignore),
        1 => some_wait().prop_map(Outcome::OpenFor),
    ];
    let state = prop_oneof![
        4 => Just(State::Closed),
        2 => Just(State::Open),
        2 => Just(State::HalfOpen),
        1 => Just(State::ForcedOpen),
        1 => Just(State::Disabled),
        2 => Just(State::MetricsOnly),
    ];
    let elapsed = prop_oneof![4 => 0..40 * MS, 1 => Just(0), 1 => Just(u64::MAX)];
    prop_oneof![
        24 => (0..8_usize).prop_map(Op::Acquire),
        20 => (any::<usize>(), outcome, elapsed).prop_map(|(n, o, e)| Op::Settle(n, o, e)),
        2 => any::<usize>().prop_map(Op::Drop),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(n, guarded)| Op::Panic(n, guarded)),
        14 => some_jump().prop_map(Op::Jump),
        1 => (0..200 * MS).prop_map(Op::Back),
        2 => (state, option::of(some_wait())).prop_map(|(to, wait)| Op::Command(to, wait)),
        1 => Just(Op::Reset),
        1 => some_config().prop_map(|config| Op::Reconfigure(Box::new(config))),
        3 => (1..200_u64).prop_map(Op::Successes),
        1 => (0..6_u64).prop_map(Op::Overdue),
        1 => Just(Op::Grow),
        3 => Just(Op::Read),
    ]
}

// === the machine alone ===

fn said(change: &Change) -> Said {
    match *change {
        Change::Transition(record) => Said::Moved {
            at: record.at,
            from: record.from,
            to: record.to,
            reason: record.reason,
            evidence: record.evidence,
        },
        Change::ThresholdReached(reason, evidence) => Said::Reached(reason, evidence),
        Change::Reset => Said::Reset,
    }
}

fn run_machine(config: &CircuitBreakerConfig, start: u64, ops: &[Op]) {
    let mut now = start;
    let mut machine = Machine::new(config, now);
    let mut naive = Naive::new(config, now);
    let mut flying: Vec<(u64, u32)> = Vec::new();
    let mut moved = Vec::new();
    for op in ops {
        match *op {
            Op::Acquire(_) => {
                let decision = machine.acquire(now);
                assert_eq!(decision, naive.acquire(now));
                if let Decision::Admitted { generation, probe } = decision {
                    flying.push((generation, probe));
                }
            }
            Op::Settle(call, outcome, elapsed) if !flying.is_empty() => {
                let (generation, probe) = flying.swap_remove(call % flying.len());
                let call = Ended {
                    generation,
                    probe,
                    outcome,
                    elapsed,
                };
                assert_eq!(machine.record(call, now), naive.record(call, now));
            }
            // The last moment never comes.
            Op::Jump(time) => now = now.saturating_add(time).min(NEVER - 1),
            Op::Back(time) => now = now.saturating_sub(time),
            Op::Command(to, wait) => {
                machine.advance(now);
                naive.advance(now);
                let done = machine.command(to, wait, now);
                assert_eq!(done.is_ok(), naive.command(to, wait, now));
            }
            Op::Reset => {
                machine.reset(now);
                naive.reset(now);
            }
            Op::Reconfigure(ref config) => {
                machine.reconfigure(config, now);
                naive.reconfigure(config, now);
                assert_eq!(machine.config(config.history), **config);
            }
            Op::Successes(calls) => {
                // As a stripe does, as long as it may.
                let mirror = machine.mirror();
                if mirror.commutes && now < mirror.next_roll {
                    let began = naive.generation;
                    machine.add_successes(calls, began);
                    for _ in 0..calls {
                        let call = Ended {
                            generation: began,
                            probe: 0,
                            outcome: Outcome::Success,
                            elapsed: 0,
                        };
                        naive.record(call, now);
                    }
                    assert_eq!(
                        naive.generation, began,
                        "a success that commutes trips nothing"
                    );
                    machine.add_successes(1, began.wrapping_sub(1));
                    naive.totals.successes += 1;
                }
            }
            Op::Overdue(calls) => {
                machine.judge_overdue(calls, now);
                naive.judge_overdue(calls, now);
            }
            Op::Read => {
                machine.advance(now);
                naive.advance(now);
            }
            _ => {}
        }
        // Only what looks at the window forgets what has left it.
        naive.assert_same(&machine.view());
        let changes: Vec<_> = machine.take_changes().iter().map(said).collect();
        assert_eq!(changes, naive.said);
        moved.append(&mut naive.said);
        assert_eq!(machine.state(), naive.state);
        if let Gate::Shadow { refused_until } = machine.mirror().gate {
            assert_eq!(refused_until, naive.shadow_until);
        }
        let like_new = naive.state == State::Closed && naive.seen.calls().is_empty();
        assert_eq!(machine.is_like_new(), like_new && naive.consecutive == 0);
    }
    for (from, to, reason, count) in machine.transition_counts() {
        let same = |said: &&Said| {
            matches!(said, Said::Moved { from: f, to: t, reason: r, .. }
                if (f, t, r) == (from, to, reason))
        };
        assert_eq!(moved.iter().filter(same).count() as u64, *count);
    }
}

// === the whole breaker ===

struct Flight {
    permit: Permit,
    began: u64,
    generation: u64,
    probe: u32,
}

struct Remembered {
    ended: u64,
    duration: u64,
    outcome: CallOutcome,
    slow: bool,
    probe: bool,
    stale: bool,
}

struct Run {
    breaker: CircuitBreaker,
    naive: Naive,
    flying: Vec<Flight>,
    /// Of this generation, calls that began earlier are not looked at when overdue calls are
    /// counted, for nobody counted then.
    counted_from: (u64, u64),
    remembered: Vec<Remembered>,
    heard: Arc<Mutex<Vec<Event>>>,
    told: Vec<Said>,
}

impl Run {
    fn new(config: &CircuitBreakerConfig) -> Self {
        let name = Name::new("model");
        let breaker = CircuitBreaker::of_checked(name, config, Member::default());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let heard_too = heard.clone();
        let observed = breaker.observe(move |event: &Event| {
            heard_too.lock().unwrap().push(event.clone());
        });
        observed.unwrap();
        let naive = Naive::new(config, breaker.shared().ticks());
        Self {
            breaker,
            naive,
            flying: Vec::new(),
            counted_from: (0, 0),
            remembered: Vec::new(),
            heard,
            told: Vec::new(),
        }
    }

    /// Calls that are overdue: known to an eighth of the time.
    fn overdue(&self, now: u64) -> u64 {
        let Some(OverdueCalls { after, .. }) = self.naive.config.overdue_calls else {
            return 0;
        };
        let width = nanos(after) / 8;
        let generation = self.naive.generation;
        let is_counted = |call: &&Flight| {
            let (of, from) = self.counted_from;
            call.generation == generation && (of != generation || call.began >= from)
        };
        let of_now = self.flying.iter().filter(is_counted);
        let is_overdue = |call: &&Flight| now / width - call.began / width >= 9;
        of_now.filter(is_overdue).count() as u64
    }

    fn acquire(&mut self, stripe: usize, now: u64) {
        let shared = self.breaker.shared().clone();
        let stripe = &shared.stripes()[stripe % shared.stripes().len()];
        let acquired = match stripe.pass() {
            Some(permit) => Ok(permit),
            None => stripe.acquire(&shared, now),
        };
        match (acquired, self.naive.acquire(now)) {
            (Ok(permit), Decision::Admitted { generation, probe }) => {
                assert_eq!(permit.is_probe(), probe > 0);
                self.flying.push(Flight {
                    permit,
                    began: now,
                    generation,
                    probe,
                });
            }
            (Err(refused), Decision::Refused(refusal)) => {
                assert_eq!(refused.refusal, refusal);
                let error = shared.error(refused);
                assert_eq!(
                    (error.state(), error.reason()),
                    (refusal.state, refusal.reason)
                );
                let known = refusal.state == State::Open && refusal.until != NEVER;
                let wait = known.then(|| Duration::from_nanos(refusal.until - now));
                assert_eq!(error.retry_after(), wait);
            }
            (acquired, decision) => panic!("{} but {decision:?}", acquired.is_ok()),
        }
    }

    /// Ends a call, with what it says, or `None` if it was dropped.
    fn end(&mut self, call: usize, outcome: Option<Outcome>, now: u64, end: impl FnOnce(Permit)) {
        let call = self.flying.swap_remove(call % self.flying.len());
        let duration = now - call.began;
        let fails_after = self.naive.config.dropped_fails_after.after();
        let fails_after = fails_after.map_or(NEVER, nanos);
        let (outcome, kind) = match outcome {
            None if duration >= fails_after => (Outcome::Failure, CallOutcome::Failure),
            None => (Outcome::Ignore, CallOutcome::Dropped),
            Some(Outcome::Success) => (Outcome::Success, CallOutcome::Success),
            Some(Outcome::Ignore) => (Outcome::Ignore, CallOutcome::Ignored),
            Some(outcome) => (outcome, CallOutcome::Failure),
        };
        end(call.permit);
        let slow = self.naive.is_slow(duration);
        let ended = Ended {
            generation: call.generation,
            probe: call.probe,
            outcome,
            elapsed: duration,
        };
        let stale = self.naive.record(ended, now);
        let watched = self.naive.state != State::Disabled || stale;
        if !stale && watched {
            match kind {
                CallOutcome::Ignored => self.naive.totals.ignored += 1,
                CallOutcome::Dropped => self.naive.totals.dropped += 1,
                _ => {}
            }
        }
        if watched {
            self.remembered.push(Remembered {
                ended: now,
                duration,
                outcome: kind,
                slow,
                probe: call.probe > 0,
                stale,
            });
        }
    }

    fn step(&mut self, op: &Op, now: u64) {
        let some_fly = !self.flying.is_empty();
        match *op {
            Op::Acquire(stripe) => self.acquire(stripe, now),
            Op::Settle(call, outcome, _) if some_fly => {
                self.end(call, Some(outcome), now, |permit| permit.record(outcome));
            }
            Op::Drop(call) if some_fly => self.end(call, None, now, drop),
            Op::Panic(call, guarded) if some_fly => {
                let outcome = (!guarded).then_some(Outcome::Failure);
                self.end(call, outcome, now, |permit| {
                    let unwound = catch_unwind(AssertUnwindSafe(|| {
                        let _held = if guarded { permit.guarded() } else { permit };
                        resume_unwind(Box::new(()));
                    }));
                    assert!(unwound.is_err());
                });
            }
            Op::Command(to, wait) => {
                let breaker = &self.breaker;
                let done = match (to, wait) {
                    (State::Open, Some(wait)) => breaker.open_for(wait).is_ok(),
                    (State::Open, None) => breaker.open().is_ok(),
                    (State::HalfOpen, _) => breaker.half_open().is_ok(),
                    (State::Closed, _) => {
                        breaker.close();
                        true
                    }
                    (State::ForcedOpen, _) => {
                        breaker.force_open();
                        true
                    }
                    (State::Disabled, _) => {
                        breaker.disable();
                        true
                    }
                    (State::MetricsOnly, _) => {
                        breaker.metrics_only();
                        true
                    }
                };
                self.naive.advance(now);
                assert_eq!(done, self.naive.command(to, wait, now));
            }
            Op::Reset => {
                self.breaker.reset();
                self.naive.reset(now);
            }
            Op::Reconfigure(ref config) => {
                self.breaker.reconfigure((**config).clone()).unwrap();
                let overdue = |config: &CircuitBreakerConfig| {
                    config.overdue_calls.map(|overdue| overdue.after)
                };
                let before = overdue(&self.naive.config);
                self.naive.reconfigure(config, now);
                if overdue(config) != before {
                    self.counted_from = (self.naive.generation, now + 1);
                }
            }
            Op::Grow => self.breaker.shared().grow(),
            _ => {}
        }
    }

    fn compare(&mut self, now: u64) {
        // Whoever reads has overdue calls counted first.
        let overdue = self.overdue(now);
        self.naive.judge_overdue(overdue, now);
        self.naive.advance(now);
        let view = self.breaker.shared().look(|machine, _| machine.view());
        self.naive.assert_same(&view);
        assert_eq!(self.breaker.in_flight(), self.flying.len() as u64);
        let heard = std::mem::take(&mut *self.heard.lock().unwrap());
        let heard: Vec<_> = heard.iter().map(|event| heard_at(event, now)).collect();
        assert_eq!(heard, self.naive.said);
        self.told.append(&mut self.naive.said);
    }

    fn compare_history(&self, now: u64) {
        let calls = self.breaker.calls(&CallsQuery::new());
        assert_eq!(calls.matching, self.remembered.len());
        let key = |ended: u64, outcome, slow, probe, stale, duration: u64| {
            let outcome = match outcome {
                CallOutcome::Success => 0,
                CallOutcome::Failure => 1,
                CallOutcome::Ignored => 2,
                CallOutcome::Dropped => 3,
            };
            (ended & !63, stale, probe, slow, outcome, duration)
        };
        let mut expected: Vec<_> = (self.remembered.iter())
            .map(|call| {
                key(
                    call.ended,
                    call.outcome,
                    call.slow,
                    call.probe,
                    call.stale,
                    call.duration,
                )
            })
            .collect();
        expected.sort_unstable_by(|one, other| other.cmp(one));
        for (call, expected) in calls.calls.iter().zip(&expected) {
            let ended = now - nanos(call.age);
            let duration = nanos(call.duration);
            let got = key(
                ended,
                call.outcome,
                call.slow,
                call.probe,
                call.stale,
                expected.5,
            );
            assert_eq!(got, *expected);
            let longest = ((1 << 27) - 1) << 31;
            let off = duration.abs_diff(expected.5.min(longest));
            assert!(
                off == 0 || off < duration >> 26,
                "{duration} for {}",
                expected.5
            );
        }
        let kept = self.breaker.transitions();
        let moved = self.told.iter().rev().filter_map(|said| match said {
            Said::Moved {
                at,
                from,
                to,
                reason,
                evidence,
            } => Some((*at, *from, *to, *reason, *evidence)),
            _ => None,
        });
        let kept = kept.iter().map(|kept| {
            let at = now - nanos(kept.age);
            (at, kept.from, kept.to, kept.reason, kept.evidence)
        });
        assert!(kept.eq(moved));
    }
}

fn heard_at(event: &Event, now: u64) -> Said {
    match event.kind {
        EventKind::Transition(transition) => Said::Moved {
            at: now - nanos(transition.age),
            from: transition.from,
            to: transition.to,
            reason: transition.reason,
            evidence: transition.evidence,
        },
        EventKind::ThresholdReached { reason, evidence } => Said::Reached(reason, evidence),
        EventKind::Reset => Said::Reset,
    }
}

fn run_breaker(config: &CircuitBreakerConfig, ops: &[Op]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let history = HistoryConfig::local().retention(Duration::ZERO).calls(0);
        let config = config.clone().history(history);
        let mut run = Run::new(&config);
        for op in ops {
            let op = match op {
                Op::Reconfigure(config) => {
                    Op::Reconfigure(Box::new((**config).clone().history(history)))
                }
                op => op.clone(),
            };
            if let Op::Jump(time) = op {
                tokio::time::advance(Duration::from_nanos(time)).await;
                // Somebody has to look before a call that is overdue ends.
                if run.naive.config.overdue_calls.is_some() {
                    run.compare(run.breaker.shared().ticks());
                }
                continue;
            }
            let now = run.breaker.shared().ticks();
            run.step(&op, now);
            run.compare(now);
            if let Op::Reconfigure(_) = op {
                // So that it is known which calls began before.
                tokio::time::advance(Duration::from_nanos(1)).await;
            }
        }
        run.compare_history(run.breaker.shared().ticks());
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_does_as_a_naive_one(
        config in some_config(),
        start in prop_oneof![Just(0), Just(1_u64 << 40), Just(u64::MAX - 50 * MS)],
        ops in vec(some_op(), 1..150),
    ) {
        run_machine(&config, start, &ops);
    }

    #[test]
    fn a_breaker_of_many_stripes_does_as_a_naive_one(
        config in some_config(),
        grown in any::<bool>(),
        mut ops in vec(some_op(), 1..150),
    ) {
        if grown {
            ops.insert(0, Op::Grow);
        }
        run_breaker(&config, &ops);
    }
}
