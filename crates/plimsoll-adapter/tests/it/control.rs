//! Handles that change an adapter, or tell it from others.

use crate::support::{Downstream, SECOND, Text, builder, echo};
use plimsoll_adapter::{
    Adapter, AdapterConfig, AdapterControl, AdapterErrorKind, Adapters, RetryConfig,
};
use plimsoll_core::Holding;
use std::sync::Arc;
use tokio_test::{assert_pending, task::spawn};

#[tokio::test(start_paused = true)]
async fn control_tells_and_changes_the_limits_of_its_adapter() {
    let adapter = echo("a");
    let other = echo("a");
    let control = AdapterControl::from(&adapter);
    assert_eq!((control.name().as_str(), control.is_alive()), ("a", true));
    assert_eq!(control.config(), Some(AdapterConfig::new()));
    let config = AdapterConfig::new().timeout(5 * SECOND).max_in_flight(3);
    control.check(&config).unwrap();
    assert_eq!(adapter.config(), AdapterConfig::new(), "only checked");
    control.clone().reconfigure(config.clone()).unwrap();
    assert_eq!(adapter.config(), config);
    assert_eq!(control.config(), Some(config));
    assert_eq!(other.config(), AdapterConfig::new());
    assert_eq!(
        format!("{control:?}"),
        r#"AdapterControl { name: "a", alive: true }"#
    );
}

#[tokio::test(start_paused = true)]
async fn control_refuses_what_the_adapter_was_not_built_for() {
    let adapter = echo("a");
    let control = AdapterControl::from(&adapter);
    let config = AdapterConfig::new().retry(RetryConfig::new());
    for error in [
        control.check(&config).unwrap_err(),
        control.reconfigure(config.max_queued_bytes(9)).unwrap_err(),
    ] {
        let fields = error.problems().iter().map(|problem| &*problem.field);
        assert!(fields.clone().any(|field| field == "retry"), "{error}");
    }
    let config = AdapterConfig::new().max_in_flight(0);
    assert!(control.check(&config).is_err());
    assert_eq!(adapter.config(), AdapterConfig::new());
}

#[tokio::test(start_paused = true)]
async fn control_keeps_no_adapter_alive_and_then_does_nothing() {
    let adapter = echo("a");
    let control = AdapterControl::from(&adapter);
    let weak = Arc::downgrade(&adapter.bounded());
    drop(adapter);
    assert!(weak.upgrade().is_none());
    assert_eq!((control.is_alive(), control.config()), (false, None));
    assert_eq!(control.name().as_str(), "a");
    let config = AdapterConfig::new();
    control.check(&config).unwrap();
    control.reconfigure(config.clone()).unwrap();
    // What is wrong with any adapter is still told.
    let error = control.check(&config.max_in_flight(0)).unwrap_err();
    assert_eq!(error.problems()[0].field, "max_in_flight");
    assert!(format!("{control:?}").contains("alive: false"));
}

#[tokio::test(start_paused = true)]
async fn call_in_flight_keeps_the_adapter_for_its_control() {
    let adapter = Downstream::default().adapter(builder());
    let control = AdapterControl::from(&adapter);
    let mut call = spawn(adapter.call("x".into()));
    assert_pending!(call.poll());
    drop(adapter);
    assert!(control.is_alive());
    drop(call);
    assert!(!control.is_alive());
}

#[tokio::test(start_paused = true)]
async fn adapter_is_itself_and_its_clones_but_none_of_the_same_name() {
    let adapter = echo("a");
    assert!(adapter.is(&adapter) && adapter.is(&adapter.clone()));
    assert!(!adapter.is(&echo("a")));
    adapter
        .reconfigure(AdapterConfig::new().max_queued(1))
        .unwrap();
    assert!(adapter.is(&adapter.clone()), "whatever its limits are");
}

#[tokio::test(start_paused = true)]
async fn default_set_has_no_adapters_and_takes_some() {
    let adapters = Adapters::<String, String>::default();
    assert!(adapters.is_empty() && adapters.list().is_empty());
    let error = adapters.call("a", String::new()).await.unwrap_err();
    assert_eq!(error.kind().as_str(), "unknown");
    let summary = adapters.memory_summary();
    assert_eq!((summary.records(), summary.threshold), (0, Some(0)));
    adapters.add(echo("a")).unwrap();
    assert_eq!(adapters.call("a", "x".into()).await.unwrap(), "x");
    assert!(Adapters::<String, String>::default().is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_error_has_its_name() {
    let broken = Adapter::builder("broken")
        .function(|n: u8| async move {
            match n {
                0 => Text::Err("no".into()),
                1 => panic!("told to"),
                _ => std::future::pending().await,
            }
        })
        .unwrap();
    let adapters = Adapters::new([broken.clone()]).unwrap();
    let names = ["broken", "broken", "nobody"];
    let answers = adapters.call_many(names, 0, None).await;
    let kinds = answers.iter().map(|answer| match &answer.result {
        Ok(_) => "none",
        Err(error) => error.kind().as_str(),
    });
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        ["failed", "duplicate", "unknown"]
    );
    for (n, name) in [(1, "panicked"), (2, "timed_out")] {
        let error = broken.call(n).await.unwrap_err();
        assert_eq!(error.kind().as_str(), name);
    }
    broken.breaker().force_open();
    let error = broken.call(0).await.unwrap_err();
    assert!(matches!(error.kind(), AdapterErrorKind::Rejected(_)));
    assert_eq!(error.kind().as_str(), "rejected");
}

#[tokio::test(start_paused = true)]
async fn snapshot_tells_the_timeouts_that_count_now() {
    let adapter = Downstream::default().adapter(builder().timeout(7 * SECOND));
    let shown = || (adapter.snapshot().timeout, adapter.snapshot().queue_timeout);
    assert_eq!(shown(), (7 * SECOND, SECOND));
    let config = AdapterConfig::new().timeout(3 * SECOND);
    adapter
        .reconfigure(config.queue_timeout(4 * SECOND))
        .unwrap();
    assert_eq!(shown(), (3 * SECOND, 4 * SECOND));
}
