//! An adapter that fails on request, to see what the others make of it.

use crate::{
    adapters::{Adapter, Answering, Failure, Found},
    corpus::Passage,
};
use plimsoll::breaker::{CircuitBreakerConfig, Outcome, Window};
use serde::{Deserialize, Serialize};
use std::{
    future,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::sleep;

const SLOW: Duration = Duration::from_secs(1);

const RETRY_AFTER: Duration = Duration::from_secs(2);

/// How `demo-flaky` behaves.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mode {
    /// Fails, and says when to come again.
    Fail,
    /// Fails every other call, beginning with the second, and does not say when to come again.
    Flaky,
    /// Never answers.
    Hang,
    /// Answers at once.
    #[default]
    Ok,
    /// Answers after a second.
    Slow,
}

/// The adapter `demo-flaky`.
#[derive(Debug, Default)]
pub struct Flaky {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    mode: Mode,
    next_fails: bool,
}

impl Flaky {
    /// Changes how later calls go.
    pub fn set(&self, mode: Mode) {
        *self.lock() = State {
            mode,
            next_fails: false,
        };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mode for one call, and whether it is the turn of a failure.
    fn draw(&self) -> (Mode, bool) {
        let mut state = self.lock();
        let fails = state.next_fails;
        state.next_fails = !fails;
        (state.mode, fails)
    }
}

impl Adapter for Flaky {
    fn name(&self) -> &'static str {
        "demo-flaky"
    }

    fn by_default(&self) -> bool {
        false
    }

    /// Soon open and soon tried again, so that one can watch.
    fn circuit(&self) -> CircuitBreakerConfig {
        CircuitBreakerConfig::local()
            .window(Window::Calls(20))
            .minimum_calls(5)
            .open_for(Duration::from_secs(2))
            .open_max(Duration::from_secs(10))
    }

    fn ask<'a>(&'a self, question: &'a str) -> Answering<'a> {
        Box::pin(async move {
            match self.draw() {
                (Mode::Ok, _) | (Mode::Flaky, false) => (),
                (Mode::Slow, _) => sleep(SLOW).await,
                (Mode::Hang, _) => future::pending().await,
                (Mode::Fail, _) => {
                    let failure = Failure::new("demo-flaky was told to fail");
                    return Err(failure.judged(Outcome::OpenFor(RETRY_AFTER)));
                }
                (Mode::Flaky, true) => {
                    return Err(Failure::new("demo-flaky fails every other call"));
                }
            }
            Ok(vec![Found {
                passage: Passage {
                    text: format!("You asked: {question}"),
                    source: "demo-flaky".to_owned(),
                },
                score: 1.0,
            }])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, timeout};

    #[tokio::test]
    async fn flaky_fails_every_other_call_and_starts_over_when_set() {
        let flaky = Flaky::default();
        for _ in 0..2 {
            flaky.set(Mode::Flaky);
            assert!(flaky.ask("?").await.is_ok());
            assert!(flaky.ask("?").await.is_err());
            assert!(flaky.ask("?").await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_answers_after_a_second_and_hang_never() {
        let flaky = Flaky::default();
        let start = Instant::now();
        flaky.set(Mode::Slow);
        assert!(flaky.ask("?").await.is_ok());
        assert_eq!(start + SLOW, Instant::now());
        flaky.set(Mode::Hang);
        let day = Duration::from_secs(24 * 60 * 60);
        assert!(timeout(day, flaky.ask("?")).await.is_err());
    }
}
