//! What an adapter is, and how several are asked at once.

use crate::corpus::Passage;
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
    #[serde(rename = "retry_after_s", serialize_with = "whole_seconds")]
    retry_after: Option<Duration>,
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

/// The adapters of a gateway.
#[derive(Clone, Debug)]
pub struct Adapters {
    known: Arc<[Arc<dyn Adapter>]>,
}

impl Failure {
    /// A failure with a reason for people to read.
    pub fn new(error: impl fmt::Display) -> Self {
        Self {
            error: error.to_string(),
            retry_after: None,
        }
    }

    /// Adds when it makes sense to ask again.
    #[must_use]
    pub fn retry_after(self, retry_after: impl Into<Option<Duration>>) -> Self {
        Self {
            retry_after: retry_after.into(),
            ..self
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl Adapters {
    /// Collects the adapters to choose from.
    #[must_use]
    pub fn new(known: impl IntoIterator<Item = Arc<dyn Adapter>>) -> Self {
        Self {
            known: known.into_iter().collect(),
        }
    }

    /// All names, in the order given to [`new`](Self::new).
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.known.iter().map(|adapter| adapter.name())
    }

    /// Puts the question to the adapters for which `chosen` is true, in parallel.
    ///
    /// Each is a task of its own with its own timeout: one that is slow, fails,
    /// blocks or panics costs the others nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels all calls.
    pub async fn ask(&self, question: &str, chosen: impl Fn(&dyn Adapter) -> bool) -> Reply {
        let question: Arc<str> = question.into();
        let chosen = self.known.iter().filter(|adapter| chosen(&***adapter));
        let mut calls = Vec::new();
        for adapter in chosen {
            let call = tokio::spawn(call(adapter.clone(), question.clone()));
            calls.push((adapter.name(), AbortOnDropHandle::new(call)));
        }
        let mut reply = Reply::default();
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

async fn call(adapter: Arc<dyn Adapter>, question: Arc<str>) -> Result<Answer, Failure> {
    let start = Instant::now();
    let limit = adapter.timeout();
    let passages = timeout(limit, adapter.ask(&question))
        .await
        .unwrap_or_else(|_| Err(Failure::new(format!("no answer within {limit:?}"))))?;
    let elapsed = Instant::now().saturating_duration_since(start);
    Ok(Answer {
        passages,
        elapsed_ms: elapsed.as_micros() as f64 / 1_000.0,
    })
}

/// Rounds up, since asking a moment too early is asking in vain.
fn whole_seconds<S: Serializer>(wait: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    wait.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() != 0))
        .serialize(serializer)
}
