//! What an adapter is, and how several are asked at once.

use crate::corpus::Passage;
use plimsoll::Rejected;
use plimsoll::breaker::{CircuitBreaker, CircuitBreakerConfig, ConfigError, Outcome, Permit};
use serde::{Serialize, Serializer};
use std::{collections::BTreeMap, fmt, pin::Pin, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

/// How long an adapter may take unless it says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);

/// How many passages an adapter gives at most.
pub const TOP: usize = 5;

/// A future that answers one question.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Result<Vec<Found>, Failure>> + Send + 'a>>;

/// A downstream that can be asked. Dropping the future cancels the call.
pub trait Adapter: fmt::Debug + Send + Sync {
    /// The name that requests and answers use.
    fn name(&self) -> &'static str;

    /// Finds passages for a question, best first.
    fn ask<'a>(&'a self, question: &'a str) -> Answering<'a>;

    /// How long to wait for [`ask`](Self::ask).
    fn timeout(&self) -> Duration {
        DEFAULT_TIMEOUT
    }

    /// When its circuit breaker opens, and for how long. As for a downstream on the same machine
    /// unless it says otherwise.
    fn circuit(&self) -> CircuitBreakerConfig {
        CircuitBreakerConfig::local()
    }

    /// Whether the adapter is asked when the request names none.
    fn by_default(&self) -> bool {
        true
    }
}

/// A passage with how well it fits; higher is better, on the adapter's own scale.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// What was found.
    #[serde(flatten)]
    pub passage: Passage,
    /// How well it fits.
    pub score: f64,
}

/// Why an adapter has no answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failure {
    error: String,
    #[serde(
        rename = "reason",
        serialize_with = "reason",
        skip_serializing_if = "Option::is_none"
    )]
    rejected: Option<Rejected>,
    #[serde(rename = "retry_after_s", serialize_with = "whole_seconds")]
    retry_after: Option<Duration>,
    #[serde(skip)]
    outcome: Outcome,
}

/// What all asked adapters said.
#[derive(Debug, Default, Serialize)]
pub struct Reply {
    /// Answers by adapter.
    pub answers: BTreeMap<&'static str, Answer>,
    /// The adapters that gave none, and why.
    pub failures: BTreeMap<&'static str, Failure>,
}

/// What one adapter said.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Best first, at most [`TOP`].
    pub passages: Vec<Found>,
    /// Time the adapter took, in milliseconds.
    pub elapsed_ms: f64,
}

/// The adapters of a gateway, each behind a circuit breaker of its own.
#[derive(Clone, Debug)]
pub struct Adapters {
    known: Arc<[Guarded]>,
}

#[derive(Debug)]
struct Guarded {
    adapter: Arc<dyn Adapter>,
    breaker: CircuitBreaker,
}

impl Failure {
    /// A failure of the adapter, with a reason for people to read.
    pub fn new(error: impl fmt::Display) -> Self {
        Self {
            error: error.to_string(),
            rejected: None,
            retry_after: None,
            outcome: Outcome::Failure,
        }
    }

    /// A refusal on our side, for which the adapter was not asked: it is not held against it.
    pub fn refused(error: impl fmt::Display, rejected: Rejected) -> Self {
        Self {
            error: error.to_string(),
            rejected: Some(rejected),
            retry_after: rejected.retry_after(),
            outcome: Outcome::Ignore,
        }
    }

    /// Says what it tells of the adapter's health. [`Outcome::OpenFor`] is also when it makes
    /// sense to ask again.
    #[must_use]
    pub fn judged(self, outcome: Outcome) -> Self {
        let retry_after = match outcome {
            Outcome::OpenFor(wait) => Some(wait),
            _ => None,
        };
        Self {
            retry_after,
            outcome,
            ..self
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl Reply {
    /// The refusal that ends first, if no adapter was asked because all refused.
    #[must_use]
    pub fn refused(&self) -> Option<Rejected> {
        if !self.answers.is_empty() {
            return None;
        }
        let rejected = self.failures.values().map(|failure| failure.rejected);
        let rejected = rejected.collect::<Option<Vec<_>>>()?.into_iter();
        rejected.min_by_key(|rejected| rejected.retry_after().unwrap_or(Duration::MAX))
    }
}

impl Adapters {
    /// Collects the adapters to choose from.
    ///
    /// # Errors
    ///
    /// When the [circuit](Adapter::circuit) of one is not valid.
    pub fn new(known: impl IntoIterator<Item = Arc<dyn Adapter>>) -> Result<Self, ConfigError> {
        let known = known.into_iter().map(Guarded::new);
        Ok(Self {
            known: known.collect::<Result<_, _>>()?,
        })
    }

    /// All names, in the order given to [`new`](Self::new).
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.known.iter().map(|known| known.adapter.name())
    }

    /// The circuit breakers, in the order of the [names](Self::names), which are theirs too.
    pub fn breakers(&self) -> impl Iterator<Item = &CircuitBreaker> {
        self.known.iter().map(|known| &known.breaker)
    }

    /// Puts the question to the adapters for which `chosen` is true, in parallel.
    ///
    /// Each is a task of its own with its own timeout: one that is slow, fails,
    /// blocks or panics costs the others nothing. One whose circuit is open is not asked.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels all calls.
    pub async fn ask(&self, question: &str, chosen: impl Fn(&dyn Adapter) -> bool) -> Reply {
        let question: Arc<str> = question.into();
        let chosen = self.known.iter().filter(|known| chosen(&*known.adapter));
        let mut calls = Vec::new();
        let mut reply = Reply::default();
        for Guarded { adapter, breaker } in chosen {
            let name = adapter.name();
            match breaker.try_acquire() {
                Ok(permit) => {
                    let call = tokio::spawn(call(adapter.clone(), question.clone(), permit));
                    calls.push((name, AbortOnDropHandle::new(call)));
                }
                Err(open) => {
                    let refusal = Failure::refused(open, open.rejected());
                    reply.failures.insert(name, refusal);
                }
            }
        }
        for (name, call) in calls {
            let result = call.await.unwrap_or_else(|error| {
                tracing::error!(adapter = name, %error, "adapter call ended early");
                Err(Failure::new("the adapter panicked"))
            });
            match result {
                Ok(answer) => drop(reply.answers.insert(name, answer)),
                Err(failure) => drop(reply.failures.insert(name, failure)),
            }
        }
        reply
    }
}

impl Guarded {
    fn new(adapter: Arc<dyn Adapter>) -> Result<Self, ConfigError> {
        // Whoever leaves before half of the timeout says nothing about the adapter; later, it is
        // to blame.
        let config = adapter.circuit().dropped_fails_after(adapter.timeout() / 2);
        let breaker = CircuitBreaker::new(adapter.name(), config)?;
        Ok(Self { adapter, breaker })
    }
}

/// The permit lives as long as the call: it is dropped with a call that is aborted, and by one
/// that panics.
async fn call(
    adapter: Arc<dyn Adapter>,
    question: Arc<str>,
    permit: Permit,
) -> Result<Answer, Failure> {
    let start = Instant::now();
    let limit = adapter.timeout();
    let result = timeout(limit, adapter.ask(&question))
        .await
        .unwrap_or_else(|_| Err(Failure::new(format!("no answer within {limit:?}"))));
    permit.record(match &result {
        Ok(_) => Outcome::Success,
        Err(failure) => failure.outcome,
    });
    let passages = result?;
    let elapsed = Instant::now().saturating_duration_since(start);
    Ok(Answer {
        passages,
        elapsed_ms: elapsed.as_micros() as f64 / 1_000.0,
    })
}

fn reason<S: Serializer>(rejected: &Option<Rejected>, serializer: S) -> Result<S::Ok, S::Error> {
    rejected
        .map(|rejected| rejected.reason().as_str())
        .serialize(serializer)
}

/// Rounds up, since asking a moment too early is asking in vain.
fn whole_seconds<S: Serializer>(wait: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    wait.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() != 0))
        .serialize(serializer)
}
