use plimsoll_core::{BoxError, Rejected};
use std::time::Duration;

/// What a call says about the health of what was called.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(
    clippy::exhaustive_enums,
    reason = "a closed set: a breaker knows no other outcome"
)]
pub enum Outcome {
    /// It works.
    Success,
    /// It does not.
    Failure,
    /// Nothing: the call was refused on the way, say, or the request was wrong. A probe's place
    /// is free again.
    Ignore,
    /// It does not, and asks to be left alone for so long: a `Retry-After`, a ban.
    ///
    /// Counts as a failure and opens the circuit at once, whatever the window says. The time is
    /// kept within [`requested_wait`](crate::CircuitBreakerConfig::requested_wait), but for
    /// [`Duration::MAX`], which means *until told*.
    OpenFor(Duration),
}

/// Judges calls.
///
/// A closure `Fn(Result<&Response, &BoxError>, Duration) -> Outcome` is one; the duration is how
/// long the call took.
pub trait Classify<Res> {
    /// Judges one call that took `elapsed`.
    fn classify(&self, result: Result<&Res, &BoxError>, elapsed: Duration) -> Outcome;
}

impl<Res, F> Classify<Res> for F
where
    F: Fn(Result<&Res, &BoxError>, Duration) -> Outcome,
{
    fn classify(&self, result: Result<&Res, &BoxError>, elapsed: Duration) -> Outcome {
        self(result, elapsed)
    }
}

/// Judges every error a failure, but for the refusals of Plimsoll's own layers, which say nothing
/// about the downstream: a limiter inside a breaker does not open it.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "there is nothing to add to it")]
pub struct ErrorsAreFailures;

impl<Res> Classify<Res> for ErrorsAreFailures {
    fn classify(&self, result: Result<&Res, &BoxError>, _: Duration) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(error) => judge_error(error),
        }
    }
}

/// A refusal is ignored, any other error is a failure.
#[must_use]
pub fn judge_error(error: &BoxError) -> Outcome {
    match Rejected::find(&**error) {
        Some(_) => Outcome::Ignore,
        None => Outcome::Failure,
    }
}
