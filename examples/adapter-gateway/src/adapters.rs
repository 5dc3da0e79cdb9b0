//! The adapters of the gateway: how one is built, and those that are known by now.

use crate::{
    chroma::Chroma,
    flaky::Flaky,
    question::{Found, Question, judge},
    sql::{MAX_CONNECTIONS, Sql},
};
use plimsoll::{
    AdapterBuilder, Adapters, Answers, CircuitBreakerConfig, Name, RecordThreshold, Window,
    adapter::{ConfigError, RecordAlert},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// One downstream that finds passages for questions.
pub type Adapter = plimsoll::Adapter<Question, Vec<Found>>;

/// How many records the histories of all adapters hold together, at most.
pub const MAX_RECORDS: u64 = 10_000;

/// How often the log tells that there were more.
const ALERT_INTERVAL: Duration = Duration::from_secs(10);

/// What an adapter calls.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// Full-text search in a database file.
    Sql(Sql),
    /// Vector search over HTTP.
    Vector(Chroma),
    /// One that fails on request.
    Flaky(Flaky),
}

/// The adapters that can be asked. They come and go while the gateway runs.
///
/// Cloning it gives another handle to the same adapters.
#[derive(Clone, Debug)]
pub struct Known {
    all: Adapters<Question, Vec<Found>>,
    /// Those of them that are asked when a request names none.
    by_default: Adapters<Question, Vec<Found>>,
    /// Held while both are changed.
    changes: Arc<Mutex<()>>,
}

impl Kind {
    /// The limits that suit an adapter of this kind, to build on.
    pub fn limits(&self, name: impl Into<String>) -> AdapterBuilder {
        let builder = plimsoll::Adapter::builder(name);
        match self {
            // More would wait for a connection inside, where nobody sees it.
            Self::Sql(_) => builder
                .max_in_flight(MAX_CONNECTIONS)
                .max_queued(256)
                .circuit_breaker(CircuitBreakerConfig::local()),
            Self::Vector(_) => builder.circuit_breaker(CircuitBreakerConfig::network()),
            // Soon open and soon tried again, so that one can watch.
            Self::Flaky(_) => builder.circuit_breaker(
                CircuitBreakerConfig::local()
                    .window(Window::Calls(20))
                    .minimum_calls(5)
                    .open_for(Duration::from_secs(2))
                    .open_max(Duration::from_secs(10)),
            ),
        }
    }
}

/// Builds an adapter of what it calls, with the limits it was given.
///
/// # Errors
///
/// Names each limit that is out of its range.
pub fn build(limits: AdapterBuilder, kind: Kind) -> Result<Adapter, ConfigError> {
    let builder = limits.classify(judge);
    match kind {
        Kind::Sql(sql) => builder.function(move |question| sql.clone().ask(question)),
        Kind::Vector(chroma) => builder.function(move |question| chroma.clone().ask(question)),
        Kind::Flaky(flaky) => builder.function(move |question| flaky.clone().ask(question)),
    }
}

impl Known {
    /// No adapter yet.
    ///
    /// Their histories hold [`MAX_RECORDS`] together; past that the oldest are dropped, which the
    /// log tells, every ten seconds at most.
    #[must_use]
    pub fn new() -> Self {
        let known = Self {
            all: none(RecordThreshold::Records(MAX_RECORDS)),
            // They are among all, and their records are counted there.
            by_default: none(RecordThreshold::Off),
            changes: Arc::default(),
        };
        let alerts = Alerts::default();
        known.all.on_record_alert(move |alert| alerts.tell(alert));
        known
    }

    /// Adds an adapter, in the place of the one of its name, if there is one, which it gives back.
    /// Calls in flight finish on the old one.
    #[allow(clippy::must_use_candidate, reason = "most want the effect alone")]
    pub fn put(&self, adapter: Adapter, by_default: bool) -> Option<Adapter> {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if by_default {
            self.by_default.replace(adapter.clone());
        } else {
            self.by_default.remove(adapter.name().as_str());
        }
        self.all.replace(adapter)
    }

    /// Removes an adapter and gives it back, if there is one of that name. Its calls in flight
    /// finish.
    #[allow(clippy::must_use_candidate, reason = "most want the effect alone")]
    pub fn remove(&self, name: &str) -> Option<Adapter> {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        self.by_default.remove(name);
        self.all.remove(name)
    }

    /// All adapters.
    #[must_use]
    pub const fn all(&self) -> &Adapters<Question, Vec<Found>> {
        &self.all
    }

    /// The names of those that are asked when a request names none.
    #[must_use]
    pub fn names_by_default(&self) -> Vec<Name> {
        self.by_default.names()
    }

    /// Whether the adapter of that name is asked when a request names none.
    #[must_use]
    pub fn is_asked_by_default(&self, name: &str) -> bool {
        self.by_default.get(name).is_some()
    }

    /// Puts a question to the adapters that are named, or to those that are asked by default.
    ///
    /// Each has its own limits; all together have until the `deadline`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels all calls.
    pub async fn ask(
        &self,
        names: Option<&[&str]>,
        question: Question,
        deadline: Duration,
    ) -> Answers<Vec<Found>> {
        match names {
            Some(names) => self.all.call_many(names, question, Some(deadline)).await,
            None => self.by_default.call_all(question, Some(deadline)).await,
        }
    }
}

impl Default for Known {
    fn default() -> Self {
        Self::new()
    }
}

fn none(threshold: RecordThreshold) -> Adapters<Question, Vec<Found>> {
    let adapters = Adapters::new([]).expect("no two have the same name");
    let set = adapters.record_threshold(threshold);
    set.expect("a threshold in its range");
    adapters
}

/// What the log was told of too many records. Under load they are too many again and again.
#[derive(Debug, Default)]
struct Alerts(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    /// Alerts since then.
    more: u64,
}

impl Alerts {
    fn tell(&self, alert: &RecordAlert) {
        let now = Instant::now();
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = told.last.map(|last| now.saturating_duration_since(last));
        if quiet.is_some_and(|quiet| quiet < ALERT_INTERVAL) {
            told.more += 1;
            return;
        }
        let untold = std::mem::take(&mut told.more);
        told.last = Some(now);
        drop(told);
        let RecordAlert {
            records,
            threshold,
            remaining,
            ..
        } = alert;
        tracing::warn!(
            records,
            threshold,
            remaining,
            untold,
            "adapters had too many records, and gave up the oldest"
        );
    }
}
