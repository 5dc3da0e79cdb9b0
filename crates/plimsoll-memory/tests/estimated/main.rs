//! What is known of requests where nobody counts what they allocate.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod admission;
mod heavy;

use plimsoll_core::{BoxError, Name};
use plimsoll_memory::{
    Attribution, Bodies, Budget, Ended, HeavyLog, MemoryConfig, MemoryLayer, Weigher,
};
use std::{
    convert::Infallible,
    future::pending,
    hint::black_box,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Once,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Counts the warnings that there is no allocator to count.
struct Warnings;

static WARNINGS: AtomicU64 = AtomicU64::new(0);

struct Says(bool);

impl Visit for Says {
    fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
        self.0 |= format!("{value:?}").contains("no TrackingAllocator");
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut says = Says(false);
        event.record(&mut says);
        WARNINGS.fetch_add(u64::from(says.0), Relaxed);
        // Whoever writes logs may be weighed as well.
        let weigher = Weigher::new(Name::from_static("log"), HeavyLog::default(), None);
        drop(weigher.begin(None));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// The warning comes with the first request of the process, whichever test that is in.
fn listen() {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| tracing::subscriber::set_global_default(Warnings).unwrap());
}

fn layer(name: &'static str) -> MemoryLayer {
    listen();
    MemoryLayer::new(name)
}

fn weigher(heavy: &HeavyLog, budget: Option<Budget>) -> Weigher {
    listen();
    Weigher::new(Name::from_static("estimated"), heavy.clone(), budget)
}

#[tokio::test]
async fn there_is_one_warning_however_many_requests_and_layers_there_are() {
    let layers = ["first", "second", "third"].map(layer);
    thread::scope(|threads| {
        for layer in &layers {
            threads.spawn(move || {
                for _ in 0..100 {
                    let service = layer.layer(service_fn(async |()| Ok::<_, Infallible>(())));
                    assert_ready_ok!(task::spawn(service.oneshot(())).poll());
                }
            });
        }
    });
    assert_eq!(layers.map(|layer| layer.stats().requests()), [100; 3]);
    assert_eq!(WARNINGS.load(Relaxed), 1);
}

#[tokio::test]
async fn calls_of_a_layer_are_known_by_their_number_and_none_is_refused() {
    for budget in [Budget::enforce(0), Budget::enforce(1), Budget::observe(0)] {
        let layer = layer("process only").budget(budget);
        let service = layer.layer(service_fn(async |length: usize| {
            let held = black_box(vec![1_u8; length]);
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(held.len())
        }));
        for length in [0, 1_000, 10_000_000] {
            assert_eq!(service.clone().oneshot(length).await.unwrap(), length);
        }
        let stats = layer.stats();
        assert_eq!(stats.requests(), 3);
        assert_eq!(stats.attributed(Attribution::ProcessOnly), 3);
        assert_eq!(stats.attribution(), Some(Attribution::ProcessOnly));
        assert!(!stats.is_exact());
        assert_eq!((stats.allocated.sum, stats.peak.max), (0, 0));
        assert_eq!((stats.over_budget, stats.refused, stats.live), (0, 0, 0));
        assert_eq!(stats.budget, Some(budget));
        assert!(layer.weigher().group().is_none(), "it took no place");
        assert!(layer.weigher().heavy().newest(10).is_empty());
    }
}

#[tokio::test]
async fn calls_that_fail_are_dropped_or_panic_are_counted_once() {
    #[derive(Clone, Copy)]
    enum End {
        Fails,
        Hangs,
        Panics,
    }
    let layer = layer("ends");
    let mut service = layer.layer(service_fn(async |end: End| match end {
        End::Fails => Err::<(), BoxError>("told to".into()),
        End::Hangs => pending().await,
        End::Panics => resume_unwind(Box::new("told to")),
    }));
    assert_eq!(layer.stats().attribution(), None);
    let error = service.call(End::Fails).await.unwrap_err();
    assert_eq!(error.to_string(), "told to");
    assert_eq!(layer.stats().requests(), 1);
    drop(service.call(End::Hangs));
    assert_eq!(layer.stats().requests(), 2);
    let mut hangs = task::spawn(service.call(End::Hangs));
    assert_pending!(hangs.poll());
    assert_eq!(layer.stats().requests(), 2);
    drop(hangs);
    assert_eq!(layer.stats().requests(), 3);
    let mut panics = task::spawn(service.call(End::Panics));
    assert!(catch_unwind(AssertUnwindSafe(|| panics.poll())).is_err());
    drop(panics);
    assert_eq!(layer.stats().requests(), 4);
}

#[test]
fn bytes_of_bodies_are_what_is_known_of_a_request() {
    let weigher = weigher(&HeavyLog::default(), None);
    assert!(weigher.begin(None).is_none(), "nobody counts");
    weigher.unknown();
    weigher.estimate(
        &Bodies {
            bytes: 71_500,
            largest: 70_000,
            ..Bodies::default()
        },
        Ended::default(),
    );
    let stats = weigher.stats();
    assert_eq!(stats.attributed(Attribution::ProcessOnly), 1);
    assert_eq!(stats.attributed(Attribution::Estimated), 1);
    assert_eq!(stats.attribution(), Some(Attribution::ProcessOnly));
    assert_eq!((stats.allocated.sum, stats.peak.max), (71_500, 0));
    assert_eq!((stats.left.sum, stats.left.count()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn heavy_requests_are_logged_as_estimated() {
    let heavy = HeavyLog::new(10_000, 10, Duration::from_secs(60));
    let weigher = weigher(&heavy, Some(Budget::enforce(5)));
    for largest in [10_000, 10_001] {
        tokio::time::advance(Duration::from_millis(1_500)).await;
        weigher.estimate(
            &Bodies {
                bytes: 20 + largest,
                largest,
                began: weigher.now() - 1_500_000_000,
            },
            Ended {
                method: Some("PUT"),
                status: Some(201),
            },
        );
    }
    let [logged] = &*heavy.newest(10) else {
        panic!("{heavy:?}");
    };
    assert_eq!(logged.name.as_str(), "estimated");
    assert_eq!((logged.method, logged.status), (Some("PUT"), Some(201)));
    assert_eq!(logged.took, Duration::from_millis(1_500));
    // Nobody is ended by one.
    assert_eq!(logged.budget, None);
    let sample = logged.sample;
    assert_eq!((sample.allocated, sample.peak), (10_021, 10_001));
    assert_eq!(sample.left, 0);
    assert_eq!(sample.attribution, Attribution::Estimated);
    assert_eq!(logged.resident, [None, None]);
}

#[tokio::test]
async fn work_is_spawned_along_all_the_same() {
    let layer = layer("spawns");
    let service = layer.layer(service_fn(async |()| {
        let along = plimsoll_memory::spawn(async { 1 }).await;
        let blocking = plimsoll_memory::spawn_blocking(|| 2).await;
        Ok::<_, BoxError>(along? + blocking?)
    }));
    assert_eq!(service.oneshot(()).await.unwrap(), 3);
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn only_how_many_there_were_is_published() {
    use metrics_exporter_prometheus::PrometheusBuilder;
    let layer = layer("published").budget(Budget::enforce(1));
    let service = layer.layer(service_fn(async |()| Ok::<_, Infallible>(())));
    service.oneshot(()).await.unwrap();
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        layer.stats().publish("app_memory", "layer", "published");
    });
    let text = recorder.handle().render();
    let lines: Vec<_> = text.lines().filter(|it| it.starts_with("app_")).collect();
    let only = r#"app_memory_requests_total{layer="published",attribution="process_only"} 1"#;
    assert_eq!(lines, [only]);
}

#[test]
fn every_setting_that_is_out_of_its_range_is_named() {
    let config = MemoryConfig::new()
        .budget(0)
        .budget_of("/reports", 0)
        .budget_of("/users/{id}", 1)
        .heavy(0)
        .heavy_kept(Duration::from_millis(999))
        .max_heavy(100_001);
    let error = config.validate().unwrap_err();
    let fields: Vec<_> = error.problems().iter().map(|it| &*it.field).collect();
    let expected = [
        "budget",
        "budgets./reports",
        "heavy",
        "heavy_kept",
        "max_heavy",
    ];
    assert_eq!(fields, expected);
    let widest = MemoryConfig::new()
        .budget(u64::MAX)
        .heavy(None)
        .heavy_kept(Duration::from_secs(86_400))
        .max_heavy(0);
    widest.validate().unwrap();
}

#[test]
fn budget_of_a_route_counts_instead_of_that_of_all() {
    let config = MemoryConfig::new().budget_of("/a", 7);
    assert_eq!(config.budget_for("/a"), Some(Budget::observe(7)));
    assert_eq!(config.budget_for("/b"), None);
    let config = config
        .budget(9)
        .on_over_budget(plimsoll_memory::BudgetMode::Enforce);
    assert_eq!(config.budget_for("/a"), Some(Budget::enforce(7)));
    assert_eq!(config.budget_for("/b"), Some(Budget::enforce(9)));
}
