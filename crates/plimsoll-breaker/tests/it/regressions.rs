//! What went wrong once, and was not a trap that anybody had told of.

use crate::common::{SECOND, breaker, plain};
use plimsoll_breaker::{
    CircuitBreaker, CircuitBreakerConfig, CircuitBreakerLayer, CircuitOpen, KeyedBreakers,
    KeyedConfig, OnOpen, Overflow, Reason, State, Window,
};
use plimsoll_core::BoxError;
use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
};
use tower::{Layer, Service, service_fn};

type Waiting = plimsoll_breaker::CircuitBreakerService<Answer>;
type Answer = tower::util::ServiceFn<fn(()) -> std::future::Ready<Result<(), BoxError>>>;

fn service(breaker: &CircuitBreaker, on_open: OnOpen) -> Waiting {
    let answer: fn(()) -> _ = |()| std::future::ready(Ok(()));
    let layer = CircuitBreakerLayer::new(breaker.clone()).on_open(on_open);
    layer.layer(service_fn(answer))
}

/// A waker that owns what waits, as that of an executor without a slab does.
struct Task(Mutex<Option<Waiting>>);

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

// The old waker was dropped under the lock of the waiters, and with it a service that waited.
#[tokio::test(start_paused = true)]
async fn waker_that_owns_a_waiting_service_can_be_replaced() {
    let breaker = breaker(plain());
    breaker.force_open();
    let task = Arc::new(Task(Mutex::default()));
    let waker = Waker::from(task.clone());
    let mut inner = service(&breaker, OnOpen::NotReady);
    assert!(
        inner
            .poll_ready(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
    *task.0.lock().unwrap() = Some(inner);
    drop(task);
    let mut outer = service(&breaker, OnOpen::NotReady);
    assert!(
        outer
            .poll_ready(&mut Context::from_waker(&waker))
            .is_pending()
    );
    drop(waker);
    // Only the breaker has the waker by now, and gives it up for this one.
    assert!(
        outer
            .poll_ready(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
}

// It was counted under the state that the breaker was in when somebody looked next.
#[tokio::test(start_paused = true)]
async fn refusal_is_counted_under_the_state_that_refused() {
    let breaker = breaker(plain());
    let mut service = service(&breaker, OnOpen::Reject);
    breaker.force_open();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(service.poll_ready(&mut cx), Poll::Ready(Ok(()))));
    breaker.close();
    let error = service.call(()).await.unwrap_err();
    let open = CircuitOpen::find(&*error).unwrap();
    assert_eq!(open.state(), State::ForcedOpen);
    let snapshot = breaker.snapshot();
    let totals = snapshot.totals;
    assert_eq!((totals.rejected_forced_open, totals.rejected_open), (1, 0));
    assert_eq!(snapshot.rejected, 0, "the closed breaker refused nothing");
}

// The default of the longest wait contradicted a first wait of ten minutes.
#[test]
fn first_wait_may_be_longer_than_the_default_of_the_longest() {
    let config = CircuitBreakerConfig::new().open_for(600 * SECOND);
    let breaker = CircuitBreaker::new("patient", config.jitter(0.0)).unwrap();
    breaker.open().unwrap();
    let wait = breaker.snapshot().retry_after.unwrap();
    assert!(wait > 599 * SECOND && wait <= 600 * SECOND, "{wait:?}");
}

// What was asked for was lowered for good when the window was small once.
#[test]
fn minimum_that_was_lowered_is_as_asked_in_a_larger_window() {
    let small = CircuitBreakerConfig::new()
        .window(Window::Calls(5))
        .minimum_calls(50);
    let breaker = CircuitBreaker::new("growing", small).unwrap();
    let large = breaker.config().window(Window::Calls(100));
    breaker.reconfigure(large.clone()).unwrap();
    assert_eq!(breaker.config(), large);
    assert_eq!(large, CircuitBreakerConfig::new().minimum_calls(50));
}

// Only the problems of the breaker were told.
#[test]
fn every_problem_of_keyed_breakers_is_told_at_once() {
    let config = KeyedConfig::new().max_keys(0);
    let config = config.breaker(CircuitBreakerConfig::new().minimum_calls(0));
    let error = KeyedBreakers::new("tenants", config).unwrap_err();
    let fields = error.problems().iter().map(|problem| &*problem.field);
    assert_eq!(fields.collect::<Vec<_>>(), ["minimum_calls", "max_keys"]);
    let config = KeyedConfig::new().idle(SECOND / 2).max_key_bytes(65_537);
    assert_eq!(
        config.validate().unwrap_err().to_string(),
        "`idle` is 500ms, but must be between 1s and 7d; \
         `max_key_bytes` is 65537, but must be between 1 and 65536"
    );
}

// It was told of, and refused, as if somebody had forced it open.
#[tokio::test(start_paused = true)]
async fn key_without_a_place_is_refused_for_that() {
    let config = KeyedConfig::new()
        .max_key_bytes(1)
        .overflow(Overflow::Reject);
    let tenants = KeyedBreakers::new("tenants", config).unwrap();
    let open = tenants.get("too long").try_acquire().unwrap_err();
    assert_eq!(open.reason(), Reason::NoPlace);
    assert!(tenants.overflow().transitions().is_empty());
    assert_eq!(tenants.overflow().snapshot().generation, 0);
}

// A breaker was changed, and its observers called, by showing it.
#[tokio::test(start_paused = true)]
async fn breaker_is_shown_without_being_changed() {
    let breaker = breaker(plain());
    breaker.open().unwrap();
    tokio::time::advance(3_600 * SECOND).await;
    let shown = format!("{breaker:?}");
    assert!(shown.contains("Open"), "{shown}");
    assert_eq!(breaker.transitions().len(), 1);
}
