//! Breakers by name.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_breaker::{Breakers, CircuitBreaker, CircuitBreakerConfig, HistoryConfig, Outcome};
use plimsoll_core::{Holding, Name, Removed};
use std::{sync::Arc, time::Duration};
use tokio::time::advance;

const MINUTE: Duration = Duration::from_secs(60);

fn breaker(name: &str) -> CircuitBreaker {
    let history = HistoryConfig::local().retention(MINUTE);
    let config = CircuitBreakerConfig::new().history(history);
    CircuitBreaker::new(name, config).unwrap()
}

fn names(breakers: &Breakers) -> Vec<&'static str> {
    let list = breakers.list();
    list.iter().map(|breaker| breaker.name().as_str()).collect()
}

#[test]
fn breakers_are_found_and_listed_by_name() {
    let breakers = Breakers::new();
    assert!(breakers.list().is_empty());
    let (orders, audit) = (breaker("orders"), breaker("audit"));
    for breaker in [&orders, &audit] {
        breakers.insert(breaker).unwrap();
    }
    assert_eq!(names(&breakers), ["audit", "orders"]);
    breakers.get("orders").unwrap().force_open();
    assert!(orders.try_acquire().is_err(), "it is the same circuit");
    assert!(audit.try_acquire().is_ok());
    assert!(breakers.get("order").is_none());
    assert_eq!(names(&breakers.clone()), ["audit", "orders"]);
}

#[test]
fn a_name_that_is_taken_is_refused_and_told() {
    let breakers = Breakers::new();
    let first = breaker("orders");
    breakers.insert(&first).unwrap();
    for second in [breaker("orders"), first.clone()] {
        let error = breakers.insert(&second).unwrap_err();
        assert_eq!(error.name(), Name::new("orders"));
        assert_eq!(
            error.to_string(),
            "a circuit breaker named \"orders\" is in the directory: give each its own name"
        );
    }
    first.force_open();
    let found = breakers.get("orders").unwrap();
    assert!(found.try_acquire().is_err(), "the first one stays");
}

#[test]
fn a_breaker_whose_last_handle_is_dropped_is_forgotten_and_its_name_free() {
    let breakers = Breakers::new();
    let orders = breaker("orders");
    let circuit = Arc::downgrade(&orders.bounded());
    breakers.insert(&orders).unwrap();
    let other = orders.clone();
    drop(orders);
    assert_eq!(names(&breakers), ["orders"], "a handle is left");
    drop(other);
    assert!(circuit.upgrade().is_none(), "the directory holds no handle");
    assert!(breakers.get("orders").is_none());
    assert!(breakers.list().is_empty());

    let new = breaker("orders");
    breakers.insert(&new).unwrap();
    assert_eq!(names(&breakers), ["orders"]);
}

#[test]
fn a_breaker_that_is_removed_is_not_here_and_one_of_its_name_stays() {
    let breakers = Breakers::new();
    let (orders, namesake) = (breaker("orders"), breaker("orders"));
    breakers.insert(&orders).unwrap();
    assert!(!breakers.remove(&namesake));
    assert!(!breakers.remove(&breaker("audit")));
    assert_eq!(names(&breakers), ["orders"]);
    assert!(breakers.remove(&orders));
    assert!(breakers.list().is_empty());
    assert!(!breakers.remove(&orders));
    breakers.insert(&namesake).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cleanup_drops_what_is_too_old_in_every_breaker() {
    let breakers = Breakers::new();
    let (old, new) = (breaker("old"), breaker("new"));
    for breaker in [&old, &new] {
        breakers.insert(breaker).unwrap();
    }
    let call = |breaker: &CircuitBreaker| breaker.call(|| (), |()| Outcome::Success).unwrap();
    call(&old);
    call(&old);
    advance(2 * MINUTE).await;
    call(&new);
    let cleaned = breakers.cleanup();
    assert_eq!(
        cleaned,
        [
            (Name::new("new"), Removed::NONE),
            (Name::new("old"), Removed::expired(2))
        ]
    );
    assert_eq!(old.history_usage().calls, 0);
    assert_eq!(new.history_usage().calls, 1);
}

#[test]
fn it_can_be_shared_between_threads() {
    fn assert_shared<T: Send + Sync + 'static>() {}
    assert_shared::<Breakers>();
}
