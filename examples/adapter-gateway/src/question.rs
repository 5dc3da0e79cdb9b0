//! What adapters are asked, what they answer, and what a failure says about them.

use crate::corpus::Passage;
use plimsoll::{BoxError, Outcome, breaker::judge_error};
use serde::Serialize;
use std::{error::Error, fmt, sync::Arc, time::Duration};

/// How many passages an adapter gives at most.
pub const TOP: usize = 5;

/// A question. A copy of it costs nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question(Arc<str>);

/// A passage with how well it fits; higher is better, on the adapter's own scale.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// What was found.
    #[serde(flatten)]
    pub passage: Passage,
    /// How well it fits.
    pub score: f64,
}

/// Why a downstream has no answer, and what that says about its health.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    error: String,
    outcome: Outcome,
}

impl Question {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Question {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl Failure {
    /// A failure of the downstream, with a reason for people to read.
    pub fn new(error: impl fmt::Display) -> Self {
        Self {
            error: error.to_string(),
            outcome: Outcome::Failure,
        }
    }

    /// Says what it tells of the downstream's health. [`Outcome::OpenFor`] is also when it makes
    /// sense to ask again.
    #[must_use]
    pub fn judged(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }

    /// How long to wait before asking again, where the downstream has said so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.outcome {
            Outcome::OpenFor(wait) => Some(wait),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl Error for Failure {}

/// Judges an adapter's calls: a [`Failure`] has judged itself, other errors count as everywhere.
#[must_use]
pub fn judge(result: Result<&Vec<Found>, &BoxError>, _elapsed: Duration) -> Outcome {
    match result {
        Ok(_) => Outcome::Success,
        Err(error) => match error.downcast_ref::<Failure>() {
            Some(failure) => failure.outcome,
            None => judge_error(error),
        },
    }
}
