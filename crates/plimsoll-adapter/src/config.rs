use crate::RetryConfig;
use plimsoll_breaker::CircuitBreakerConfig;
use plimsoll_core::{ConfigError, Problems, settings};
use plimsoll_memory::{Budget, BudgetMode};
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);

/// The limits of an [`Adapter`](crate::Adapter), which can be changed while it runs.
///
/// Nothing is checked before the configuration is used, when every problem is reported at once.
///
/// ```
/// use plimsoll_adapter::{Adapter, AdapterConfig};
/// use plimsoll_core::BoxError;
/// use std::time::Duration;
///
/// # fn main() -> Result<(), BoxError> {
/// let search = Adapter::builder("search")
///     .config(AdapterConfig::new().max_in_flight(8))
///     .function(|query: String| async { Ok::<_, BoxError>(query) })?;
/// search.reconfigure(search.config().timeout(Duration::from_secs(5)))?;
/// assert_eq!(search.config().values().max_in_flight, 8);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    pub(crate) timeout: Duration,
    pub(crate) queue_timeout: Duration,
    pub(crate) max_in_flight: usize,
    pub(crate) max_queued: usize,
    pub(crate) max_queued_bytes: Option<u64>,
    pub(crate) memory_budget: Option<u64>,
    pub(crate) on_over_budget: BudgetMode,
    pub(crate) circuit_breaker: CircuitBreakerConfig,
    pub(crate) retry: Option<RetryConfig>,
}

/// What an [`AdapterConfig`] says. Each is named as the setter, where it is explained.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct AdapterValues<'a> {
    /// How long the service may take for one attempt.
    pub timeout: Duration,
    /// How long a call waits in line.
    pub queue_timeout: Duration,
    /// How many calls may hold a slot.
    pub max_in_flight: usize,
    /// How many calls may wait.
    pub max_queued: usize,
    /// How many bytes may wait; `None` is no limit.
    pub max_queued_bytes: Option<u64>,
    /// How many bytes one attempt may hold; `None` is no limit.
    pub memory_budget: Option<u64>,
    /// What becomes of a call that holds more.
    pub on_over_budget: BudgetMode,
    /// How the circuit breaker judges.
    pub circuit_breaker: &'a CircuitBreakerConfig,
    /// How calls are tried again; `None` if they are not.
    pub retry: Option<RetryConfig>,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl AdapterConfig {
    /// 2 seconds to answer, 1 second in line, 64 calls in flight and 64 that wait, whatever they
    /// weigh; no memory budget; the circuit breaker of [`CircuitBreakerConfig::new`]; no retries.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            queue_timeout: Duration::from_secs(1),
            max_in_flight: 64,
            max_queued: 64,
            max_queued_bytes: None,
            memory_budget: None,
            on_over_budget: BudgetMode::Observe,
            circuit_breaker: CircuitBreakerConfig::new(),
            retry: None,
        }
    }

    /// How long the service may take for one attempt, its readiness included. 2 seconds by
    /// default, 1 ms to 1 day. The wait in line does not count; see
    /// [`queue_timeout`](Self::queue_timeout).
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a call waits in line for a slot. 1 second by default, 1 ms to 1 day.
    #[must_use]
    pub const fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = timeout;
        self
    }

    /// How many calls may be with the service, or wait to try again. 64 by default, 1 to
    /// 1 000 000.
    #[must_use]
    pub const fn max_in_flight(mut self, calls: usize) -> Self {
        self.max_in_flight = calls;
        self
    }

    /// How many calls may wait in line; others are refused. 64 by default, up to 1 000 000. With 0
    /// a call for which no slot is free is refused at once. A place in line takes 40 bytes, and up
    /// to 160 where many leave early.
    #[must_use]
    pub const fn max_queued(mut self, calls: usize) -> Self {
        self.max_queued = calls;
        self
    }

    /// How many bytes the requests that wait in line may have together; others are refused. No
    /// limit by default, at least 1.
    ///
    /// Only for an adapter that was told how to
    /// [weigh them](crate::AdapterBuilder::request_bytes). A request that is larger than this
    /// never waits.
    #[must_use]
    pub fn max_queued_bytes(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.max_queued_bytes = bytes.into();
        self
    }

    /// The most bytes that one attempt may hold: what the service allocates, its answer included,
    /// until it is freed. No limit by default, at least 1.
    ///
    /// What it holds whenever it waits, or hands over its answer, decides; an error is passed on,
    /// whatever it holds. Where no [`TrackingAllocator`](plimsoll_alloc::TrackingAllocator) is the
    /// program's allocator, nobody knows what it holds, and nothing is refused.
    #[must_use]
    pub fn memory_budget(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.memory_budget = bytes.into();
        self
    }

    /// What becomes of a call that holds more than the [`memory_budget`](Self::memory_budget).
    /// [`BudgetMode::Observe`] by default: it is counted.
    ///
    /// With [`BudgetMode::Enforce`] it is ended, unless it has failed, and refused as
    /// [`OverBudget`](plimsoll_core::RejectReason::OverBudget). It is not tried again, and the
    /// circuit breaker does not hold it against the service.
    #[must_use]
    pub const fn on_over_budget(mut self, mode: BudgetMode) -> Self {
        self.on_over_budget = mode;
        self
    }

    /// When the circuit opens, for how long, and how much of the past is kept.
    /// [`CircuitBreakerConfig::new`] by default.
    ///
    /// A call that its caller drops is blamed on the service after half the
    /// [`timeout`](Self::timeout), unless
    /// [`dropped_fails_after`](CircuitBreakerConfig::dropped_fails_after) says otherwise.
    #[must_use]
    pub fn circuit_breaker(mut self, config: CircuitBreakerConfig) -> Self {
        self.circuit_breaker = config;
        self
    }

    /// How calls that failed are tried again. Not at all by default.
    ///
    /// Only for an adapter that was told which requests
    /// [may be made twice](crate::AdapterBuilder::repeatable).
    #[must_use]
    pub fn retry(mut self, config: impl Into<Option<RetryConfig>>) -> Self {
        self.retry = config.into();
        self
    }

    /// What it says.
    #[must_use]
    pub const fn values(&self) -> AdapterValues<'_> {
        AdapterValues {
            timeout: self.timeout,
            queue_timeout: self.queue_timeout,
            max_in_flight: self.max_in_flight,
            max_queued: self.max_queued,
            max_queued_bytes: self.max_queued_bytes,
            memory_budget: self.memory_budget,
            on_over_budget: self.on_over_budget,
            circuit_breaker: &self.circuit_breaker,
            retry: self.retry,
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        settings::check(self)
    }

    /// What attempts are weighed against.
    pub(crate) fn budget(&self) -> Option<Budget> {
        let bytes = self.memory_budget?;
        Some(Budget::new(bytes, self.on_over_budget))
    }

    /// What the circuit breaker is told.
    pub(crate) fn breaker(&self) -> CircuitBreakerConfig {
        self.blame_dropped(self.circuit_breaker.clone())
    }

    /// Whoever leaves before half of the timeout says nothing about the service; later, it is to
    /// blame, unless the configuration says otherwise.
    fn blame_dropped(&self, config: CircuitBreakerConfig) -> CircuitBreakerConfig {
        config.or_dropped_fails_after((self.timeout / 2).max(MILLISECOND))
    }

    /// Takes the circuit breaker's word for what it was told, without what was added to it.
    pub(crate) fn set_breaker(&mut self, told: CircuitBreakerConfig) {
        let plain = told.clone().dropped_as_in(&self.circuit_breaker);
        self.circuit_breaker = match self.blame_dropped(plain.clone()) == told {
            true => plain,
            false => told,
        };
    }
}

/// What an adapter was built with, without which some limits mean nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    /// Whether requests can be weighed.
    pub(crate) weighs: bool,
    /// Whether any request may be made twice.
    pub(crate) repeats: bool,
}

impl Means {
    /// A limit that could not be kept is a mistake rather than no limit.
    pub(crate) fn check(self, config: &AdapterConfig, problems: &mut Problems) {
        if let (Some(bytes), false) = (config.max_queued_bytes, self.weighs) {
            let expected = "left out: the adapter was built without `request_bytes`";
            problems.add("max_queued_bytes", bytes.to_string(), expected.into());
        }
        if let (Some(_), false) = (config.retry, self.repeats) {
            let expected = "left out: the adapter was built without `repeatable`";
            problems.add("retry", "set".into(), expected.into());
        }
    }
}
