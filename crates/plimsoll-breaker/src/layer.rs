use crate::{CircuitBreaker, CircuitBreakerService, ErrorsAreFailures};
use tower_layer::Layer;

/// What a service does with callers while its circuit is open.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum OnOpen {
    /// Takes the call and answers it with [`CircuitOpen`](crate::CircuitOpen) at once.
    #[default]
    Reject,
    /// Is not ready, so that a balancer chooses another. It wakes whoever waits when calls may
    /// pass again. While half open it is ready for all of them, and those who come after the
    /// probes are answered as by [`Reject`](Self::Reject).
    ///
    /// # Panics
    ///
    /// `poll_ready` panics outside of a Tokio runtime with timers.
    NotReady,
}

/// Puts a circuit breaker around services. See the [crate docs](crate).
///
/// Every service it makes, and every clone, shares one circuit, so that a router that layers each
/// of its routes has one breaker. Give each service a layer of its own breaker to tell them apart.
#[derive(Clone, Debug)]
pub struct CircuitBreakerLayer<C = ErrorsAreFailures> {
    breaker: CircuitBreaker,
    classify: C,
    on_open: OnOpen,
}

impl CircuitBreakerLayer {
    /// Makes a layer that judges every error a failure, but for the refusals of Plimsoll's own
    /// layers.
    #[must_use]
    pub const fn new(breaker: CircuitBreaker) -> Self {
        Self {
            breaker,
            classify: ErrorsAreFailures,
            on_open: OnOpen::Reject,
        }
    }
}

impl<C> CircuitBreakerLayer<C> {
    /// Judges calls by `classify`: a [`Classify`](crate::Classify) or a closure.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> CircuitBreakerLayer<D> {
        CircuitBreakerLayer {
            breaker: self.breaker,
            classify,
            on_open: self.on_open,
        }
    }

    /// What services do while the circuit is open. They reject calls by default.
    #[must_use]
    pub const fn on_open(mut self, on_open: OnOpen) -> Self {
        self.on_open = on_open;
        self
    }

    /// The breaker.
    #[must_use]
    pub const fn breaker(&self) -> &CircuitBreaker {
        &self.breaker
    }
}

impl<S, C: Clone> Layer<S> for CircuitBreakerLayer<C> {
    type Service = CircuitBreakerService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreakerService::new(
            inner,
            self.breaker.clone(),
            self.classify.clone(),
            self.on_open,
        )
    }
}
