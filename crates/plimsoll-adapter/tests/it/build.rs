//! What an adapter can be told to be.

use crate::support::{MS, SECOND, Text, builder};
use plimsoll_adapter::{Adapter, AdapterBuilder, RetryConfig};
use plimsoll_breaker::{CircuitBreakerConfig, Window};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

fn fields(builder: AdapterBuilder) -> Vec<String> {
    match builder.function(|request: String| async { Text::Ok(request) }) {
        Ok(_) => Vec::new(),
        Err(error) => error
            .problems()
            .iter()
            .map(|p| p.field.to_string())
            .collect(),
    }
}

#[tokio::test]
async fn defaults_are_those_that_are_documented() {
    let function = |request: String| async { Text::Ok(request) };
    let adapter = builder().function(function).unwrap();
    let snapshot = adapter.snapshot();
    assert_eq!((snapshot.max_in_flight, snapshot.max_queued), (64, 64));
    assert_eq!(snapshot.max_queued_bytes, None);
    assert!(adapter.memory_stats().budget.is_none());
    let config = CircuitBreakerConfig::new().dropped_fails_after(SECOND);
    assert_eq!(adapter.breaker().config(), config);
}

#[tokio::test]
async fn breaker_keeps_what_it_was_told_about_dropped_calls() {
    let function = |request: String| async { Text::Ok(request) };
    let config = CircuitBreakerConfig::new().dropped_fails_after(7 * SECOND);
    let adapter = builder().circuit_breaker(config.clone()).function(function);
    assert_eq!(adapter.unwrap().breaker().config(), config);
    let shortest = builder().timeout(MS).function(function).unwrap();
    let config = CircuitBreakerConfig::new().dropped_fails_after(MS);
    assert_eq!(shortest.breaker().config(), config);
}

#[tokio::test]
async fn every_bad_value_is_named_at_once_with_its_range() {
    let circuit = CircuitBreakerConfig::new()
        .window(Window::Calls(0))
        .probes(0);
    let retry = RetryConfig::new()
        .retries(0)
        .percent(f64::NAN)
        .floor(1_001)
        .back_off(61 * SECOND, SECOND)
        .jitter(1.5);
    let error = Adapter::builder("")
        .timeout(Duration::ZERO)
        .queue_timeout(DAY + MS)
        .max_in_flight(0)
        .max_queued(1_000_001)
        .max_queued_bytes(0, |_: &String| 0)
        .memory_budget(0)
        .circuit_breaker(circuit)
        .retry(retry, |request: &String| Some(request.clone()))
        .function(|request: String| async { Text::Ok(request) })
        .unwrap_err();
    let fields: Vec<_> = error.problems().iter().map(|p| &*p.field).collect();
    let expected = [
        "name",
        "timeout",
        "queue_timeout",
        "max_in_flight",
        "max_queued",
        "max_queued_bytes",
        "memory_budget",
        "retry.retries",
        "retry.percent",
        "retry.floor",
        "retry.back_off",
        "retry.back_off_max",
        "retry.jitter",
        "circuit_breaker.window",
        "circuit_breaker.probes",
    ];
    assert_eq!(fields, expected);
    let text = error.to_string();
    assert!(text.starts_with("`name` is \"\", but must be 1 to 128 bytes without control"));
    assert!(text.contains("; `timeout` is 0s, but must be between 1ms and 1d; "));
    assert!(text.contains("`max_in_flight` is 0, but must be between 1 and 1000000"));
}

#[tokio::test]
async fn values_at_their_bounds_are_good() {
    let low = builder()
        .timeout(MS)
        .queue_timeout(MS)
        .max_in_flight(1)
        .max_queued(0);
    assert!(fields(low.memory_budget(1)).is_empty());
    let high = builder().timeout(DAY).queue_timeout(DAY);
    let high = high.memory_budget(u64::MAX);
    assert!(fields(high.max_in_flight(1_000_000).max_queued(1_000_000)).is_empty());
    assert_eq!(
        fields(builder().max_in_flight(1_000_001)),
        ["max_in_flight"]
    );
    assert_eq!(fields(builder().timeout(DAY + MS)), ["timeout"]);
    assert!(fields(Adapter::builder("n".repeat(128))).is_empty());
    assert_eq!(fields(Adapter::builder("n".repeat(129))), ["name"]);
    assert_eq!(fields(Adapter::builder("a\nb")), ["name"]);
}
