use crate::{
    Adapter, AdapterConfig,
    adapter::Shared,
    call::{CloneIfIdempotent, Inner, NeverAgain, RequestBytes, Unweighed},
    config::Means,
    function::Function,
    retry::RetryConfig,
};
use plimsoll_breaker::{CircuitBreakerConfig, Classify, ErrorsAreFailures};
use plimsoll_core::{BoxError, ConfigError, Name, Problems};
use plimsoll_memory::BudgetMode;
use std::{sync::Arc, time::Duration};
use tower_service::Service;

/// Builds an [`Adapter`]: its limits first, then what it calls.
///
/// `C` judges answers, `B` weighs requests, `R` says which may be made again.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is given what to call"]
pub struct AdapterBuilder<C = ErrorsAreFailures, B = Unweighed, R = NeverAgain> {
    name: String,
    config: AdapterConfig,
    classify: C,
    request_bytes: B,
    again: R,
}

impl AdapterBuilder {
    pub(crate) const fn new(name: String) -> Self {
        Self {
            name,
            config: AdapterConfig::new(),
            classify: ErrorsAreFailures,
            request_bytes: Unweighed,
            again: NeverAgain,
        }
    }
}

impl<C, B, R> AdapterBuilder<C, B, R> {
    /// All limits at once, in place of those that were set before. [`AdapterConfig::new`] by
    /// default. They can be changed later: see [`Adapter::reconfigure`].
    pub fn config(mut self, config: AdapterConfig) -> Self {
        self.config = config;
        self
    }

    /// How long the service may take for one attempt, its readiness included. 2 seconds by
    /// default, 1 ms to 1 day. The wait in line does not count; see
    /// [`queue_timeout`](Self::queue_timeout).
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout;
        self
    }

    /// How long a call waits in line for a slot. 1 second by default, 1 ms to 1 day.
    pub const fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.config.queue_timeout = timeout;
        self
    }

    /// How many calls may be with the service, or wait to try again. 64 by default, 1 to
    /// 1 000 000.
    pub const fn max_in_flight(mut self, calls: usize) -> Self {
        self.config.max_in_flight = calls;
        self
    }

    /// How many calls may wait in line; others are refused. 64 by default, up to 1 000 000. With 0
    /// a call for which no slot is free is refused at once.
    pub const fn max_queued(mut self, calls: usize) -> Self {
        self.config.max_queued = calls;
        self
    }

    /// How many bytes the requests that wait in line may have together, as `request_bytes` says;
    /// others are refused. No limit by default, at least 1.
    ///
    /// A request is weighed only if it has to wait. One that is larger than this never waits.
    pub fn max_queued_bytes<Req, F>(
        mut self,
        bytes: u64,
        request_bytes: F,
    ) -> AdapterBuilder<C, F, R>
    where
        F: Fn(&Req) -> u64,
    {
        self.config.max_queued_bytes = Some(bytes);
        self.request_bytes(request_bytes)
    }

    /// Weighs the requests that wait in line, so that [what they have
    /// together](AdapterConfig::max_queued_bytes) is known, and can be limited later.
    pub fn request_bytes<Req, F>(self, request_bytes: F) -> AdapterBuilder<C, F, R>
    where
        F: Fn(&Req) -> u64,
    {
        AdapterBuilder {
            name: self.name,
            config: self.config,
            classify: self.classify,
            request_bytes,
            again: self.again,
        }
    }

    /// The most bytes that one attempt may hold, its answer included; see
    /// [`AdapterConfig::memory_budget`]. No limit by default, at least 1.
    pub fn memory_budget(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.config.memory_budget = bytes.into();
        self
    }

    /// What becomes of a call that holds more; see [`AdapterConfig::on_over_budget`]. It is
    /// counted by default.
    pub const fn on_over_budget(mut self, mode: BudgetMode) -> Self {
        self.config.on_over_budget = mode;
        self
    }

    /// When the circuit opens, for how long, and how much of the past is kept.
    /// [`CircuitBreakerConfig::new`] by default.
    ///
    /// A call that its caller drops is blamed on the service after half the
    /// [`timeout`](Self::timeout), unless
    /// [`dropped_fails_after`](CircuitBreakerConfig::dropped_fails_after) says otherwise.
    pub fn circuit_breaker(mut self, config: CircuitBreakerConfig) -> Self {
        self.config.circuit_breaker = config;
        self
    }

    /// What an answer, or an error of the service, says about its health. Errors are failures by
    /// default, except refusals. Timeouts and panics are failures, whatever it says.
    pub fn classify<Res, K>(self, classify: K) -> AdapterBuilder<K, B, R>
    where
        K: Classify<Res>,
    {
        AdapterBuilder {
            name: self.name,
            config: self.config,
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
        mut self,
        config: RetryConfig,
        clone_if_idempotent: F,
    ) -> AdapterBuilder<C, B, F>
    where
        F: Fn(&Req) -> Option<Req>,
    {
        self.config.retry = Some(config);
        self.repeatable(clone_if_idempotent)
    }

    /// Says which requests may be made twice, as [`retry`](Self::retry) does, without having any
    /// tried again: whether and how they are [is configured](AdapterConfig::retry), and can be
    /// later.
    pub fn repeatable<Req, F>(self, clone_if_idempotent: F) -> AdapterBuilder<C, B, F>
    where
        F: Fn(&Req) -> Option<Req>,
    {
        AdapterBuilder {
            name: self.name,
            config: self.config,
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
        let means = Means {
            weighs: B::ANY,
            repeats: R::ANY,
        };
        Ok(Adapter::new(Arc::new(Inner {
            shared: Arc::new(build(&self.name, self.config, means)?),
            service,
            classify: self.classify,
            request_bytes: self.request_bytes,
            again: self.again,
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

fn build(name: &str, config: AdapterConfig, means: Means) -> Result<Shared, ConfigError> {
    let mut problems = Problems::default();
    let length = name.len();
    if length == 0 || length > Name::MAX_LEN || name.contains(char::is_control) {
        let most = Name::MAX_LEN;
        let expected = format!("1 to {most} bytes without control characters");
        problems.add("name", format!("{name:?}"), expected);
    }
    problems.add_all(config.validate());
    means.check(&config, &mut problems);
    problems.into_result()?;
    Shared::new(Name::new(name), config, means)
}
