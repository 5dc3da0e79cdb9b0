use crate::{
    Adapter,
    adapter::Shared,
    call::{CloneIfIdempotent, Inner, NeverAgain, RequestBytes, Unweighed},
    function::Function,
    gate::Gate,
    retry::{Budget, RetryConfig},
};
use plimsoll_breaker::{CircuitBreaker, CircuitBreakerConfig, Classify, ErrorsAreFailures};
use plimsoll_core::{BoxError, ConfigError, Name, Problems};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tower_service::Service;

const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// The most calls that can be in flight, or wait.
const MAX_CALLS: usize = 1_000_000;

/// Builds an [`Adapter`]: its limits first, then what it calls.
///
/// `C` judges answers, `B` weighs requests, `R` says which may be made again.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is given what to call"]
pub struct AdapterBuilder<C = ErrorsAreFailures, B = Unweighed, R = NeverAgain> {
    limits: Limits,
    classify: C,
    request_bytes: B,
    again: R,
}

/// What does not depend on the types of requests and answers.
#[derive(Clone, Debug)]
struct Limits {
    name: String,
    timeout: Duration,
    queue_timeout: Duration,
    max_in_flight: usize,
    max_queued: usize,
    max_queued_bytes: Option<u64>,
    circuit_breaker: CircuitBreakerConfig,
    retry: Option<RetryConfig>,
}

impl AdapterBuilder {
    pub(crate) const fn new(name: String) -> Self {
        Self {
            limits: Limits {
                name,
                timeout: Duration::from_secs(2),
                queue_timeout: Duration::from_secs(1),
                max_in_flight: 64,
                max_queued: 64,
                max_queued_bytes: None,
                circuit_breaker: CircuitBreakerConfig::new(),
                retry: None,
            },
            classify: ErrorsAreFailures,
            request_bytes: Unweighed,
            again: NeverAgain,
        }
    }
}

impl<C, B, R> AdapterBuilder<C, B, R> {
    /// How long the service may take for one attempt, its readiness included. 2 seconds by
    /// default, 1 ms to 1 day. The wait in line does not count; see
    /// [`queue_timeout`](Self::queue_timeout).
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.limits.timeout = timeout;
        self
    }

    /// How long a call waits in line for a slot. 1 second by default, 1 ms to 1 day.
    pub const fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.limits.queue_timeout = timeout;
        self
    }

    /// How many calls may be with the service, or wait to try again. 64 by default, 1 to
    /// 1 000 000.
    pub const fn max_in_flight(mut self, calls: usize) -> Self {
        self.limits.max_in_flight = calls;
        self
    }

    /// How many calls may wait in line; others are refused. 64 by default, up to 1 000 000. With 0
    /// a call for which no slot is free is refused at once.
    pub const fn max_queued(mut self, calls: usize) -> Self {
        self.limits.max_queued = calls;
        self
    }

    /// How many bytes the requests that wait in line may have together, as `request_bytes` says;
    /// others are refused. No limit by default, at least 1.
    ///
    /// A request is weighed only if it has to wait. One that is larger than this never waits.
    pub fn max_queued_bytes<Req, F>(self, bytes: u64, request_bytes: F) -> AdapterBuilder<C, F, R>
    where
        F: Fn(&Req) -> u64,
    {
        let mut limits = self.limits;
        limits.max_queued_bytes = Some(bytes);
        AdapterBuilder {
            limits,
            classify: self.classify,
            request_bytes,
            again: self.again,
        }
    }

    /// When the circuit opens, for how long, and how much of the past is kept.
    /// [`CircuitBreakerConfig::new`] by default.
    ///
    /// A call that its caller drops is blamed on the service after half the
    /// [`timeout`](Self::timeout), unless
    /// [`dropped_fails_after`](CircuitBreakerConfig::dropped_fails_after) says otherwise.
    pub fn circuit_breaker(mut self, config: CircuitBreakerConfig) -> Self {
        self.limits.circuit_breaker = config;
        self
    }

    /// What an answer, or an error of the service, says about its health. Errors are failures by
    /// default, except refusals. Timeouts and panics are failures, whatever it says.
    pub fn classify<Res, K>(self, classify: K) -> AdapterBuilder<K, B, R>
    where
        K: Classify<Res>,
    {
        AdapterBuilder {
            limits: self.limits,
            classify,
            request_bytes: self.request_bytes,
            again: self.again,
        }
    }

    /// Tries calls that failed again. Off by default.
    ///
    /// `clone_if_idempotent` makes a copy of a request that can safely be made twice, and none of
    /// others. It is asked before each attempt but the last.
    pub fn retry<Req, F>(
        self,
        config: RetryConfig,
        clone_if_idempotent: F,
    ) -> AdapterBuilder<C, B, F>
    where
        F: Fn(&Req) -> Option<Req>,
    {
        let mut limits = self.limits;
        limits.retry = Some(config);
        AdapterBuilder {
            limits,
            classify: self.classify,
            request_bytes: self.request_bytes,
            again: clone_if_idempotent,
        }
    }

    /// Makes an adapter that calls clones of `service`.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range.
    pub fn service<S, Req>(self, service: S) -> Result<Adapter<Req, S::Response>, ConfigError>
    where
        Req: Send + 'static,
        S: Service<Req, Response: Send + 'static, Error: Into<BoxError>, Future: Send + 'static>,
        S: Clone + Send + Sync + 'static,
        C: Classify<S::Response> + Send + Sync + 'static,
        B: RequestBytes<Req> + Send + Sync + 'static,
        R: CloneIfIdempotent<Req> + Send + Sync + 'static,
    {
        let retry = self.limits.retry;
        let shared = self.limits.build()?;
        Ok(Adapter::new(Arc::new(Inner {
            shared: Arc::new(shared),
            service,
            classify: self.classify,
            request_bytes: self.request_bytes,
            again: self.again,
            retry: retry.map(|config| (config, Budget::new(&config, Instant::now()))),
        })))
    }

    /// Makes an adapter that calls `function`.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range.
    pub fn function<F, Fut, Req, Res, E>(
        self,
        function: F,
    ) -> Result<Adapter<Req, Res>, ConfigError>
    where
        Req: Send + 'static,
        Res: Send + 'static,
        E: Into<BoxError>,
        F: Fn(Req) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Res, E>> + Send + 'static,
        C: Classify<Res> + Send + Sync + 'static,
        B: RequestBytes<Req> + Send + Sync + 'static,
        R: CloneIfIdempotent<Req> + Send + Sync + 'static,
    {
        self.service(Function(function))
    }
}

impl Limits {
    fn build(self) -> Result<Shared, ConfigError> {
        let mut problems = Problems::default();
        let length = self.name.len();
        if length == 0 || length > Name::MAX_LEN || self.name.contains(char::is_control) {
            let most = Name::MAX_LEN;
            let expected = format!("1 to {most} bytes without control characters");
            problems.add("name", format!("{:?}", self.name), expected);
        }
        problems.duration("timeout", self.timeout, MILLISECOND..=DAY);
        problems.duration("queue_timeout", self.queue_timeout, MILLISECOND..=DAY);
        problems.number("max_in_flight", self.max_in_flight, 1..=MAX_CALLS);
        problems.number("max_queued", self.max_queued, 0..=MAX_CALLS);
        if let Some(bytes) = self.max_queued_bytes {
            problems.number("max_queued_bytes", bytes, 1..=u64::MAX);
        }
        if let Some(retry) = &self.retry {
            retry.validate(&mut problems);
        }
        // Whoever leaves before half of the timeout says nothing about the service; later, it is to
        // blame.
        let blamed_after = (self.timeout / 2).max(MILLISECOND);
        let config = self.circuit_breaker.or_dropped_fails_after(blamed_after);
        if let Err(error) = config.validate() {
            problems.add_of("circuit_breaker", error);
        }
        problems.into_result()?;
        let name = Name::new(&self.name);
        let breaker = CircuitBreaker::new(name, config)?;
        let gate = Gate::new(
            self.max_in_flight,
            self.max_queued as u64,
            self.max_queued_bytes,
            self.queue_timeout,
        );
        Ok(Shared::new(name, gate, breaker, self.timeout))
    }
}

impl RetryConfig {
    fn validate(&self, problems: &mut Problems) {
        let minute = Duration::from_secs(60);
        problems.number("retry.retries", self.retries, 1..=10);
        problems.number("retry.percent", self.percent, 0.0..=100.0);
        problems.number("retry.floor", self.floor, 0..=1_000);
        problems.duration(
            "retry.back_off.first",
            self.back_off,
            Duration::ZERO..=minute,
        );
        let longest = self.back_off..=minute;
        problems.duration("retry.back_off.longest", self.back_off_max, longest);
        problems.number("retry.jitter", self.jitter, 0.0..=1.0);
    }
}
