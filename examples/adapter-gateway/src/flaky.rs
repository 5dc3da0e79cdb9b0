//! A downstream that fails on request, to see what the others make of it.

use crate::{
    corpus::Passage,
    question::{Failure, Found, Question},
};
use plimsoll::Outcome;
use serde::{Deserialize, Serialize};
use std::{
    future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

/// A downstream that can be told to fail, and otherwise repeats the question. Clones share the mode.
#[derive(Clone, Debug, Default)]
pub struct Flaky {
    state: Arc<Mutex<State>>,
}

/// Sets [`Mode::Ok`] when it is dropped.
struct WorksAgain<'a>(&'a Flaky);

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

    /// Works and fails in turn, each for a `period`, and does not end.
    ///
    /// # Cancel safety
    ///
    /// Once the future is dropped, it works.
    pub async fn alternate(&self, period: Duration) {
        let _works_again = WorksAgain(self);
        for mode in [Mode::Ok, Mode::Fail].into_iter().cycle() {
            self.set(mode);
            sleep(period).await;
        }
    }

    /// Answers as the mode says.
    ///
    /// # Errors
    ///
    /// Fails as the mode says.
    pub async fn ask(self, question: Question) -> Result<Vec<Found>, Failure> {
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
                text: format!("You asked: {}", question.as_str()),
                source: "demo-flaky".to_owned(),
            },
            score: 1.0,
        }])
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

impl Drop for WorksAgain<'_> {
    fn drop(&mut self) {
        self.0.set(Mode::Ok);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, timeout};

    #[tokio::test(start_paused = true)]
    async fn alternating_works_and_fails_in_turn_and_works_in_the_end() {
        let flaky = Flaky::default();
        flaky.set(Mode::Hang);
        let mut seen = Vec::new();
        let watch = async {
            sleep(SLOW / 2).await;
            for _ in 0..4 {
                seen.push(flaky.clone().ask("?".into()).await.is_ok());
                sleep(SLOW).await;
            }
        };
        tokio::select! {
            () = flaky.alternate(SLOW) => unreachable!("it does not end"),
            () = watch => (),
        }
        assert_eq!(seen, [true, false, true, false]);
        let fails = timeout(SLOW + SLOW / 2, flaky.alternate(SLOW)).await;
        assert!(fails.is_err());
        assert!(flaky.clone().ask("?".into()).await.is_ok());
    }

    #[tokio::test]
    async fn flaky_fails_every_other_call_and_starts_over_when_set() {
        let flaky = Flaky::default();
        for _ in 0..2 {
            flaky.set(Mode::Flaky);
            assert!(flaky.clone().ask("?".into()).await.is_ok());
            assert!(flaky.clone().ask("?".into()).await.is_err());
            assert!(flaky.clone().ask("?".into()).await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_answers_after_a_second_and_hang_never() {
        let flaky = Flaky::default();
        let start = Instant::now();
        flaky.set(Mode::Slow);
        assert!(flaky.clone().ask("?".into()).await.is_ok());
        assert_eq!(start + SLOW, Instant::now());
        flaky.set(Mode::Hang);
        let day = Duration::from_secs(24 * 60 * 60);
        assert!(timeout(day, flaky.clone().ask("?".into())).await.is_err());
    }
}
