//! What the `metrics` facade is told.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use metrics_exporter_prometheus::PrometheusBuilder;
use plimsoll_adapter::{Adapter, AdapterDirectory, Adapters, RecordThreshold, RetryConfig};
use plimsoll_breaker::CircuitBreakerConfig;
use plimsoll_core::BoxError;
use std::{convert::Infallible, future::pending, time::Duration};
use tokio::runtime::Builder;
use tokio_test::{assert_pending, task::spawn};

/// Runs with a clock that stands still.
fn block_on(work: impl Future<Output = ()>) {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work);
}

#[test]
fn record_alerts_are_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let scrape = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        block_on(async {
            let function = |n: u64| async move { Ok::<_, Infallible>(n) };
            let adapter = Adapter::builder("counted").function(function).unwrap();
            let adapters = Adapters::new([adapter]).unwrap();
            let threshold = RecordThreshold::Records(10);
            adapters.record_threshold(threshold).unwrap();
            for round in 1..=2 {
                for n in 0..10 {
                    adapters.call("counted", n).await.unwrap();
                }
                assert_eq!(
                    adapters.memory_summary().records(),
                    if round == 1 { 10 } else { 8 }
                );
            }
        });
    });
    let scraped = scrape.render();
    assert!(
        scraped.contains("\nplimsoll_adapter_record_alerts_total 1\n"),
        "{scraped}"
    );
}

/// Does as it is asked.
async fn obey(request: &'static str) -> Result<&'static str, BoxError> {
    match request {
        "fail" => Err("no".into()),
        "panic" => panic!("asked to"),
        "hang" => pending().await,
        answer => Ok(answer),
    }
}

fn obedient(name: &str) -> Adapter<&'static str, &'static str> {
    Adapter::builder(name)
        .timeout(Duration::from_millis(1))
        .max_in_flight(1)
        .max_queued_bytes(100, |request: &&str| request.len() as u64)
        .circuit_breaker(CircuitBreakerConfig::new().failure_rate(None))
        .retry(
            RetryConfig::new()
                .retries(1)
                .back_off(Duration::ZERO, Duration::ZERO),
            |request: &&str| (*request == "fail").then_some(*request),
        )
        .function(obey)
        .unwrap()
}

#[track_caller]
fn assert_lines(scraped: &str, adapter: &str, lines: &[(&str, &str, u64)]) {
    for (metric, label, value) in lines {
        let label = match label.split_once('=') {
            Some((key, value)) => format!(r#",{key}="{value}""#),
            None => String::new(),
        };
        let line = format!("\nplimsoll_adapter_{metric}{{adapter=\"{adapter}\"{label}}} {value}\n");
        assert!(scraped.contains(&line), "{line} is not in {scraped}");
    }
}

#[test]
fn every_outcome_is_published_and_what_is_held() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let scrape = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        block_on(async {
            let adapter = obedient("busy");
            let adapters = Adapters::new([adapter.clone()]).unwrap();
            for request in ["a", "b", "fail", "panic", "hang"] {
                let _ = adapter.call(request).await;
            }
            drop(adapter.call("cancelled"));
            let mut cancelled = spawn(adapter.call("hang"));
            assert_pending!(cancelled.poll());
            drop(cancelled);
            let mut running = spawn(adapter.call("hang"));
            let mut waiting = spawn(adapter.call("waiting"));
            assert_pending!(running.poll());
            assert_pending!(waiting.poll());
            adapters.publish_metrics();
            assert_lines(
                &scrape.render(),
                "busy",
                &[
                    ("calls_total", "outcome=succeeded", 2),
                    ("calls_total", "outcome=failed", 1),
                    ("calls_total", "outcome=panicked", 1),
                    ("calls_total", "outcome=timed_out", 1),
                    ("calls_total", "outcome=cancelled", 1),
                    ("calls_total", "outcome=rejected", 0),
                    ("retries_total", "", 1),
                    ("in_flight", "", 1),
                    ("max_in_flight", "", 1),
                    ("queued", "", 1),
                    ("queued_bytes", "", 7),
                ],
            );
            drop((running, waiting));
            adapter.breaker().force_open();
            for _ in 0..3 {
                adapter.call("x").await.unwrap_err();
            }
            adapters.publish_metrics();
            assert_lines(
                &scrape.render(),
                "busy",
                &[
                    ("calls_total", "outcome=cancelled", 3),
                    ("calls_total", "outcome=rejected", 3),
                    ("rejected_total", "reason=circuit_open", 3),
                    ("rejected_total", "reason=queue_full", 0),
                    ("in_flight", "", 0),
                    ("queued", "", 0),
                    ("queued_bytes", "", 0),
                ],
            );
            // Gone, and so are its gauges; what it counted stays.
            adapters.set(vec![obedient("other")]).unwrap();
            adapters.publish_metrics();
            let scraped = scrape.render();
            assert_lines(
                &scraped,
                "busy",
                &[
                    ("max_in_flight", "", 0),
                    ("calls_total", "outcome=succeeded", 2),
                ],
            );
            assert_lines(&scraped, "other", &[("max_in_flight", "", 1)]);
        });
    });
}

#[test]
fn directory_publishes_adapters_of_any_type_and_forgets_those_that_are_gone() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let scrape = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        block_on(async {
            let directory = AdapterDirectory::new();
            let function = |n: u64| async move { Ok::<_, Infallible>(n) };
            let number = Adapter::builder("number").function(function).unwrap();
            let text = obedient("text");
            directory.insert(&number).unwrap();
            directory.insert(&text).unwrap();
            number.call(1).await.unwrap();
            directory.publish_metrics();
            let succeeded = "outcome=succeeded";
            let lines = [("calls_total", succeeded, 1), ("max_in_flight", "", 64)];
            assert_lines(&scrape.render(), "number", &lines);
            assert_lines(&scrape.render(), "text", &[("max_in_flight", "", 1)]);
            drop(number);
            directory.publish_metrics();
            let lines = [("calls_total", succeeded, 1), ("max_in_flight", "", 0)];
            assert_lines(&scrape.render(), "number", &lines);
            directory.remove(&text);
            directory.publish_metrics();
            assert_lines(&scrape.render(), "text", &[("max_in_flight", "", 0)]);
        });
    });
}
