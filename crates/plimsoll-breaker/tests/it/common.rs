//! A player of short scripts against a breaker, and what several modules need.

use plimsoll_breaker::{
    CircuitBreaker, CircuitBreakerConfig, EventKind, Events, Outcome, Permit, Reason, Snapshot,
    State, Window, event::Received,
};
use std::time::Duration;
use tokio::time::advance;

pub(crate) const NANOSECOND: Duration = Duration::from_nanos(1);
pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Opens for exactly 5 seconds each time, and judges by as little as possible otherwise.
pub(crate) fn plain() -> CircuitBreakerConfig {
    CircuitBreakerConfig::new()
        .jitter(0.0)
        .open_factor(1.0)
        .open_for(5 * SECOND)
        .open_max(HOUR)
}

/// [`plain`], with a window of the last so many calls, which must be full.
pub(crate) fn of_calls(calls: u32) -> CircuitBreakerConfig {
    plain().window(Window::Calls(calls)).minimum_calls(calls)
}

pub(crate) fn breaker(config: CircuitBreakerConfig) -> CircuitBreaker {
    CircuitBreaker::new("test", config).unwrap()
}

/// Makes `calls` calls that take no time.
pub(crate) fn record(breaker: &CircuitBreaker, calls: usize, outcome: Outcome) {
    for _ in 0..calls {
        breaker.try_acquire().unwrap().record(outcome);
    }
}

/// The kinds of all events that came.
pub(crate) fn drain(events: &mut Events) -> Vec<EventKind> {
    let mut kinds = Vec::new();
    while let Some(received) = events.try_next() {
        match received {
            Received::Event(event) => kinds.push(event.kind),
            Received::Missed(missed) => panic!("{missed} events were missed"),
        }
    }
    kinds
}

/// Where transitions among the events went, and why.
pub(crate) fn moves(kinds: &[EventKind]) -> Vec<(State, State, Reason)> {
    let moves = kinds.iter().filter_map(|kind| match kind {
        EventKind::Transition(to) => Some((to.from, to.to, to.reason)),
        _ => None,
    });
    moves.collect()
}

/// How many changes of state a breaker has counted.
pub(crate) fn transitions(breaker: &CircuitBreaker) -> u64 {
    let counts = breaker.snapshot().transitions;
    counts.iter().map(|transition| transition.count).sum()
}

/// Takes probes until the breaker refuses.
pub(crate) fn take_all(breaker: &CircuitBreaker) -> Vec<Permit> {
    std::iter::from_fn(|| breaker.try_acquire().ok()).collect()
}

/// A breaker that plays scripts, a step for each word:
///
/// | word | what it does |
/// |---|---|
/// | `E` `S` `I` | a call that fails, does well, is ignored; `E5` takes 5 seconds |
/// | `A+` | a call that must be allowed, which is not over |
/// | `A-` | a call that must be refused |
/// | `release` | the last call that is not over is dropped |
/// | `+3s` | so long passes: `ms`, `s`, `m`, `h` |
/// | `open` `half` `close` `reset` `force` `disable` `metrics` | what an operator does |
///
/// After `=>` comes what must be seen then: the state, the rate of failures in percent (`-` below
/// the minimum), and how many calls did well, are in the window, failed, and were refused.
pub(crate) struct Play {
    pub(crate) breaker: CircuitBreaker,
    held: Vec<Permit>,
}

impl Play {
    pub(crate) fn new(config: CircuitBreakerConfig) -> Self {
        Self {
            breaker: breaker(config),
            held: Vec::new(),
        }
    }

    pub(crate) async fn run(&mut self, script: &str) {
        for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let (steps, expected) = line.split_once("=>").unwrap_or((line, ""));
            for step in steps.split_whitespace() {
                self.step(step, line).await;
            }
            let expected = expected.split_whitespace().collect::<Vec<_>>().join(" ");
            if !expected.is_empty() {
                assert_eq!(seen(&self.breaker.snapshot()), expected, "after `{line}`");
            }
        }
    }

    async fn step(&mut self, step: &str, line: &str) {
        let breaker = &self.breaker;
        match step {
            "A+" => match breaker.try_acquire() {
                Ok(permit) => self.held.push(permit),
                Err(open) => panic!("{open}, in `{line}`"),
            },
            "A-" => assert!(breaker.try_acquire().is_err(), "passed, in `{line}`"),
            "release" => drop(self.held.pop().unwrap()),
            "open" => breaker.open().unwrap(),
            "half" => breaker.half_open().unwrap(),
            "close" => breaker.close(),
            "reset" => breaker.reset(),
            "force" => breaker.force_open(),
            "disable" => breaker.disable(),
            "metrics" => breaker.metrics_only(),
            _ => match step.strip_prefix('+') {
                Some(time) => advance(duration(time)).await,
                None => self.call(step, line).await,
            },
        }
    }

    async fn call(&self, step: &str, line: &str) {
        let (outcome, took) = step.split_at(1);
        let outcome = match outcome {
            "E" => Outcome::Failure,
            "S" => Outcome::Success,
            "I" => Outcome::Ignore,
            _ => panic!("`{step}` is no step, in `{line}`"),
        };
        let permit = match self.breaker.try_acquire() {
            Ok(permit) => permit,
            Err(open) => panic!("{open}, in `{line}`"),
        };
        if !took.is_empty() {
            advance(Duration::from_secs_f64(took.parse().unwrap())).await;
        }
        permit.record(outcome);
    }
}

fn duration(text: &str) -> Duration {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = text[..text.len() - unit.len()].parse().unwrap();
    Duration::from_secs_f64(match unit {
        "ms" => number / 1_000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        _ => panic!("`{unit}` is no unit of time"),
    })
}

/// What is seen of a breaker, in the words of a script.
pub(crate) fn seen(snapshot: &Snapshot) -> String {
    let window = snapshot.window;
    let rate = window.failure_rate.map_or_else(
        || String::from("-"),
        |rate| {
            format!("{rate:.2}")
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_owned()
        },
    );
    format!(
        "{} {rate} {} {} {} {}",
        snapshot.state,
        window.successes(),
        window.calls,
        window.failures,
        snapshot.rejected
    )
}
