//! What the `metrics` facade is told.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use metrics_exporter_prometheus::PrometheusBuilder;
use plimsoll_adapter::{Adapter, Adapters, RecordThreshold};
use std::convert::Infallible;
use tokio_test::block_on;

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
