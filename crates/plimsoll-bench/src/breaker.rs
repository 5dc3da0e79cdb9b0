//! What circuit breakers are compared by: one service, called through each of them.

use plimsoll_breaker::{
    CircuitBreaker, CircuitBreakerConfig, CircuitBreakerLayer, CircuitBreakerService, Outcome,
};
use std::{
    error, fmt,
    future::{Ready, ready},
    hint::black_box,
    thread,
    time::Duration,
};
use tokio::runtime;
use tower::{Layer, Service, ServiceExt, service_fn, util::ServiceFn};

/// How long what is open stays so.
pub const HOUR: Duration = Duration::from_secs(3_600);

/// One call in so many fails where some do.
const FAILS: u64 = 50;

/// The error of the service.
#[derive(Clone, Copy, Debug)]
pub struct Down;

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("down")
    }
}

impl error::Error for Down {}

/// The service inside of every breaker, which answers at once.
pub type Bare = ServiceFn<fn(u64) -> Ready<Result<u64, Down>>>;

/// Answers with the request.
#[must_use]
pub fn good() -> Bare {
    service_fn(answer as fn(u64) -> _)
}

/// Fails two calls in a hundred.
#[must_use]
pub fn flaky() -> Bare {
    service_fn(answer_or_fail as fn(u64) -> _)
}

/// Panics when it is called, as it must not be where every call is refused.
#[must_use]
pub fn never() -> Bare {
    service_fn(panic as fn(u64) -> _)
}

#[inline(never)]
fn answer(request: u64) -> Ready<Result<u64, Down>> {
    ready(Ok(request))
}

#[inline(never)]
fn answer_or_fail(request: u64) -> Ready<Result<u64, Down>> {
    ready(if request.is_multiple_of(FAILS) {
        Err(Down)
    } else {
        Ok(request)
    })
}

#[inline(never)]
fn panic(_: u64) -> Ready<Result<u64, Down>> {
    panic!("a breaker that is open has let a call pass");
}

/// A service behind a breaker, whichever way that is called.
pub trait Guard: Send + 'static {
    /// Makes `calls` calls with the numbers from `from` on, unless the breaker refuses them, and
    /// drops each result at once.
    ///
    /// Each has a loop of its own, for one around futures would be measured with them.
    fn drive(&mut self, from: u64, calls: u64) -> impl Future<Output = ()> + Send;
}

/// The guard, once `calls` calls were made.
#[must_use]
pub fn filled<G: Guard>(mut guard: G, calls: u64) -> G {
    block_on(guard.drive(0, calls));
    guard
}

/// A runtime of the current thread.
///
/// # Panics
///
/// When the system cannot make one.
#[must_use]
pub fn runtime() -> runtime::Runtime {
    let runtime = runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime with timers alone needs nothing")
}

/// Runs a future on a runtime of its own.
pub fn block_on<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}

// === Guards ===

/// A Tower service, called as Tower has it: ready first.
#[derive(Clone, Debug)]
pub struct Tower<S>(pub S);

impl<S> Guard for Tower<S>
where
    S: Service<u64, Response: Send, Error: Send, Future: Send> + Send + 'static,
{
    async fn drive(&mut self, from: u64, calls: u64) {
        for n in from..from + calls {
            let Ok(ready) = self.0.ready().await else {
                panic!("the service is not ready");
            };
            let _ = black_box(ready.call(black_box(n)).await);
        }
    }
}

/// A breaker around futures instead of services.
pub trait Wrap: Send + Sync + 'static {
    /// The future inside of the breaker.
    fn wrap<F>(&self, call: F) -> impl Future<Output: Send> + Send
    where
        F: Future<Output = Result<u64, Down>> + Send;
}

impl Wrap for recloser::AsyncRecloser {
    #[inline]
    fn wrap<F>(&self, call: F) -> impl Future<Output: Send> + Send
    where
        F: Future<Output = Result<u64, Down>> + Send,
    {
        self.call(call)
    }
}

impl<P> Wrap for failsafe::StateMachine<P, ()>
where
    P: failsafe::FailurePolicy + Send + Sync + 'static,
{
    #[inline]
    fn wrap<F>(&self, call: F) -> impl Future<Output: Send> + Send
    where
        F: Future<Output = Result<u64, Down>> + Send,
    {
        failsafe::futures::CircuitBreaker::call(self, call)
    }
}

/// A service whose futures a breaker wraps.
#[derive(Clone, Debug)]
pub struct Wrapped<B> {
    breaker: B,
    inner: Bare,
}

impl<B: Wrap> Wrapped<B> {
    /// Puts a breaker around the calls of a service.
    pub const fn new(breaker: B, inner: Bare) -> Self {
        Self { breaker, inner }
    }

    /// Has calls fail until the breaker is open, which must not take more than 300. The service
    /// is not called any more.
    #[must_use]
    pub fn opened(breaker: B) -> Self {
        block_on(async {
            for _ in 0..300 {
                let _ = black_box(breaker.wrap(ready(Err(Down))).await);
            }
        });
        Self::new(breaker, never())
    }
}

impl<B: Wrap> Guard for Wrapped<B> {
    async fn drive(&mut self, from: u64, calls: u64) {
        for n in from..from + calls {
            // The service is not called before the breaker lets the call pass, as with the others.
            let call = async { self.inner.call(black_box(n)).await };
            let _ = black_box(self.breaker.wrap(call).await);
        }
    }
}

/// A breaker that is asked before the call and told after it, without Tower.
#[derive(Clone, Debug)]
pub struct ByHand {
    breaker: CircuitBreaker,
    inner: Bare,
}

impl ByHand {
    /// Asks `breaker` for each call of a service.
    #[must_use]
    pub const fn new(breaker: CircuitBreaker, inner: Bare) -> Self {
        Self { breaker, inner }
    }
}

impl Guard for ByHand {
    async fn drive(&mut self, from: u64, calls: u64) {
        for n in from..from + calls {
            match self.breaker.try_acquire() {
                Ok(permit) => {
                    let result = self.inner.call(black_box(n)).await;
                    permit.record(match result {
                        Ok(_) => Outcome::Success,
                        Err(Down) => Outcome::Failure,
                    });
                    let _ = black_box(result);
                }
                Err(open) => drop(black_box(open)),
            }
        }
    }
}

// === Ours ===

/// A breaker's configuration: the default, but that two failures in a hundred do not open it and
/// that it stays open.
#[must_use]
pub fn config() -> CircuitBreakerConfig {
    CircuitBreakerConfig::new()
        .failure_rate(60.0)
        .open_for(HOUR)
        .open_max(HOUR)
}

/// A breaker of ours.
///
/// # Panics
///
/// When the configuration is out of range.
#[must_use]
pub fn plimsoll(config: CircuitBreakerConfig) -> CircuitBreaker {
    CircuitBreaker::new("bench", config).expect("the configuration is in range")
}

/// A service behind a breaker of ours.
#[must_use]
pub fn guarded(breaker: CircuitBreaker, inner: Bare) -> Tower<CircuitBreakerService<Bare>> {
    Tower(CircuitBreakerLayer::new(breaker).layer(inner))
}

/// Calls from two threads until the breaker has a stripe for each. Its history must be full.
///
/// # Panics
///
/// When the threads do not meet, as on one CPU.
pub fn contend(breaker: &CircuitBreaker) {
    let before = breaker.bytes();
    for _ in 0..1_000 {
        let threads = [0, 1].map(|_| {
            let guard = guarded(breaker.clone(), good());
            thread::spawn(move || drop(filled(guard, 10_000)))
        });
        for thread in threads {
            // A scope would not wait until the threads have freed what is theirs.
            thread.join().expect("a call does not panic");
        }
        if breaker.bytes() > before {
            return;
        }
    }
    panic!("two threads do not meet");
}

// === Peers ===

/// recloser, by the last `len` calls.
#[must_use]
pub fn recloser(len: usize) -> recloser::AsyncRecloser {
    let builder = recloser::Recloser::custom()
        .error_rate(0.6)
        .closed_len(len)
        .half_open_len(10)
        .open_wait(HOUR);
    builder.build().into()
}

/// failsafe as it comes: a success rate over 30 seconds, or 5 failures in a row.
#[must_use]
pub fn failsafe_default() -> impl Wrap + Clone {
    failsafe::Config::new().build()
}

/// failsafe, by 5 failures in a row.
#[must_use]
pub fn failsafe_consecutive() -> impl Wrap + Clone {
    let wait = failsafe::backoff::constant(HOUR);
    let policy = failsafe::failure_policy::consecutive_failures(5, wait);
    failsafe::Config::new().failure_policy(policy).build()
}

/// failsafe, by the success rate over a time.
#[must_use]
pub fn failsafe_time(window: Duration) -> impl Wrap + Clone {
    let wait = failsafe::backoff::constant(HOUR);
    let policy = failsafe::failure_policy::success_rate_over_time_window(0.4, 20, window, wait);
    failsafe::Config::new().failure_policy(policy).build()
}

/// tower-resilience's service.
pub type TowerResilience = tower_resilience_circuitbreaker::CircuitBreaker<
    Bare,
    tower_resilience_circuitbreaker::DefaultClassifier,
>;

/// tower-resilience, by a window of `calls` calls.
///
/// # Panics
///
/// When it does not like its configuration.
#[must_use]
pub fn tower_resilience(calls: usize, inner: Bare) -> Tower<TowerResilience> {
    let layer = tower_resilience_circuitbreaker::CircuitBreakerLayer::builder()
        .failure_rate_threshold(0.6)
        .sliding_window_size(calls)
        .minimum_number_of_calls(20)
        .wait_duration_in_open(HOUR)
        .build();
    Tower(layer.expect("the configuration is valid").layer(inner))
}

/// tower-resilience, by a window of time.
///
/// # Panics
///
/// When it does not like its configuration.
#[must_use]
pub fn tower_resilience_time(window: Duration) -> Tower<TowerResilience> {
    let layer = tower_resilience_circuitbreaker::CircuitBreakerLayer::builder()
        .failure_rate_threshold(0.6)
        .sliding_window_type(tower_resilience_circuitbreaker::SlidingWindowType::TimeBased)
        .sliding_window_duration(window)
        .minimum_number_of_calls(20)
        .wait_duration_in_open(HOUR)
        .build();
    Tower(layer.expect("the configuration is valid").layer(good()))
}

/// tower-resilience when it is open.
#[must_use]
pub fn tower_resilience_open() -> Tower<TowerResilience> {
    let open = tower_resilience(100, never());
    block_on(open.0.force_open());
    open
}

/// tower-circuitbreaker's service. It cannot be cloned.
pub type TowerCircuitbreaker = tower_circuitbreaker::CircuitBreaker<Bare, u64, u64, Down>;

/// tower-circuitbreaker, by a window of `calls` calls.
#[must_use]
pub fn tower_circuitbreaker(calls: usize, inner: Bare) -> Tower<TowerCircuitbreaker> {
    let config = tower_circuitbreaker::CircuitBreakerConfig::<u64, Down>::builder()
        .failure_rate_threshold(0.6)
        .sliding_window_size(calls)
        .minimum_number_of_calls(20)
        .wait_duration_in_open(HOUR);
    Tower(config.build().layer(inner))
}

/// tower-circuitbreaker when it is open.
#[must_use]
pub fn tower_circuitbreaker_open() -> Tower<TowerCircuitbreaker> {
    let open = tower_circuitbreaker(100, never());
    block_on(open.0.force_open());
    open
}
