//! What several adapters said, as the answer to a request.

use crate::question::{Failure, Found};
use plimsoll::{AdapterError, AdapterErrorKind, Answers, Rejected};
use serde::Serialize;
use std::{borrow::Cow, collections::BTreeMap, time::Duration};

/// What all asked adapters said.
#[derive(Debug, Default, Serialize)]
pub struct Reply {
    /// Answers by adapter.
    pub answers: BTreeMap<Cow<'static, str>, Answer>,
    /// The adapters that gave none, and why.
    pub failures: BTreeMap<Cow<'static, str>, NoAnswer>,
}

/// What one adapter said.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Best first, at most [`TOP`](crate::question::TOP).
    pub passages: Vec<Found>,
    /// Time the adapter took, in milliseconds, the wait in line included.
    pub elapsed_ms: f64,
}

/// Why one adapter said nothing.
#[derive(Debug, Serialize)]
pub struct NoAnswer {
    /// For people to read.
    pub error: String,
    /// One of `rejected`, `timed_out`, `failed`, `panicked` and `unknown`.
    pub kind: &'static str,
    /// Why it was refused, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// In how many seconds to ask again, where that is known.
    pub retry_after_s: Option<u64>,
}

impl From<Answers<Vec<Found>>> for Reply {
    fn from(answers: Answers<Vec<Found>>) -> Self {
        let mut reply = Self::default();
        for answer in answers {
            match answer.result {
                Ok(passages) => {
                    let elapsed_ms = answer.elapsed.as_micros() as f64 / 1_000.0;
                    let said = Answer {
                        passages,
                        elapsed_ms,
                    };
                    reply.answers.insert(answer.adapter, said);
                }
                Err(error) => {
                    let failure = NoAnswer::new(&error);
                    reply.failures.insert(answer.adapter, failure);
                }
            }
        }
        reply
    }
}

impl NoAnswer {
    fn new(error: &AdapterError) -> Self {
        let (kind, text) = match error.kind() {
            AdapterErrorKind::Rejected(rejected) => ("rejected", rejected.to_string()),
            AdapterErrorKind::TimedOut { after } => {
                ("timed_out", format!("no answer within {after:?}"))
            }
            AdapterErrorKind::Failed(error) => ("failed", error.to_string()),
            // What it says is for the log.
            AdapterErrorKind::Panicked { .. } => ("panicked", "the adapter panicked".to_owned()),
            _ => ("unknown", error.to_string()),
        };
        let rejected = Rejected::find(error);
        Self {
            error: text,
            kind,
            reason: rejected.map(|rejected| rejected.reason().as_str()),
            retry_after_s: retry_after(error, rejected).map(whole_seconds),
        }
    }
}

fn retry_after(error: &AdapterError, rejected: Option<&Rejected>) -> Option<Duration> {
    match (rejected, error.kind()) {
        (Some(rejected), _) => rejected.retry_after(),
        (None, AdapterErrorKind::Failed(error)) => error.downcast_ref::<Failure>()?.retry_after(),
        _ => None,
    }
}

/// Rounds up, since asking a moment too early is asking in vain.
fn whole_seconds(wait: Duration) -> u64 {
    let round_up = u64::from(wait.subsec_nanos() != 0);
    wait.as_secs().saturating_add(round_up)
}
