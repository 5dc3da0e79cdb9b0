//! The routes under a paused clock, without a listener.

use crate::{
    api,
    ask::TIMEOUT,
    probe,
    readiness::{Readiness, ReadinessOnPressure},
    shared::{MAX_SWEEPS, Parts, SWEEP_TIMEOUT, Shared},
};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, header},
    response::Response,
};
use plimsoll_breaker::{Breakers, CircuitBreaker, CircuitBreakerConfig, Event, State};
use plimsoll_config::{Configuration, Effective, LoadError, Reload};
use plimsoll_core::{
    Lifecycle, Phase, Registry, StopReason, lifecycle::StopReport, test_util::FakeHolding,
};
use plimsoll_memory::PressureLevel;
use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, advance},
};
use tower::ServiceExt;

fn shared(registry: &Registry, lifecycle: &Lifecycle, main: Handle) -> Arc<Shared> {
    shared_with(registry, lifecycle, Parts::default(), main)
}

fn shared_with(
    registry: &Registry,
    lifecycle: &Lifecycle,
    parts: Parts,
    main: Handle,
) -> Arc<Shared> {
    let (registry, lifecycle) = (registry.clone(), lifecycle.clone());
    let shared = Shared::new(registry, lifecycle, parts, None, Vec::new(), main);
    Arc::new(shared)
}

async fn ask(router: &Router, method: Method, path: &str) -> Response {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(Body::empty())
        .unwrap();
    router.clone().oneshot(request).await.unwrap()
}

async fn text(response: Response) -> String {
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn readyz_follows_every_phase() {
    let registry = Registry::new();
    let lifecycle = Lifecycle::new();
    let router = probe::router(shared(&registry, &lifecycle, Handle::current()));
    let expect = async |phase: Phase, answer: &str| {
        let mut watch = lifecycle.watch_phase();
        watch.wait_for(|now| *now >= phase).await.unwrap();
        let response = ask(&router, Method::GET, "/readyz").await;
        let ready = response.status() == StatusCode::OK;
        assert_eq!(ready, phase == Phase::Running, "{phase}");
        assert_eq!(text(response).await, answer);
        // Alive in each of them.
        let response = ask(&router, Method::GET, "/livez").await;
        assert_eq!(response.status(), StatusCode::OK);
    };

    let listener = lifecycle.listener("http").unwrap();
    let slow = registry
        .register(FakeHolding::new("slow", Duration::from_secs(60)))
        .unwrap();
    slow.close_takes(Duration::from_secs(1));
    let (end, ended) = oneshot::channel::<()>();
    let _task = lifecycle.spawn("stubborn", ended).unwrap();

    expect(Phase::Starting, "starting").await;
    lifecycle.set_ready();
    expect(Phase::Running, "ready").await;
    let stop: JoinHandle<Arc<StopReport>> = tokio::spawn({
        let (lifecycle, registry) = (lifecycle.clone(), registry.clone());
        async move { lifecycle.stop(&registry, StopReason::Terminate).await }
    });
    expect(Phase::Leaving, "leaving").await;
    expect(Phase::Draining, "draining").await;
    drop(listener);
    expect(Phase::Closing, "closing").await;
    expect(Phase::Cancelling, "cancelling").await;
    end.send(()).unwrap();
    stop.await.unwrap();
    expect(Phase::Stopped, "stopped").await;
}

#[tokio::test(start_paused = true)]
async fn readyz_follows_pressure_for_so_long_at_the_most() {
    let level = Arc::new(Mutex::new(PressureLevel::Normal));
    let seen = level.clone();
    let readiness = Readiness::new(
        ReadinessOnPressure::High,
        Duration::from_secs(60),
        Some(Box::new(move || *seen.lock().unwrap())),
    );
    let parts = Parts {
        readiness: Arc::new(readiness),
        ..Parts::default()
    };
    let lifecycle = Lifecycle::new();
    let shared = shared_with(&Registry::new(), &lifecycle, parts, Handle::current());
    let router = probe::router(shared);
    lifecycle.set_ready();
    let expect = async |now: PressureLevel, answer: &str| {
        *level.lock().unwrap() = now;
        let response = ask(&router, Method::GET, "/readyz").await;
        let ready = response.status() == StatusCode::OK;
        assert_eq!((ready, &*text(response).await), (answer == "ready", answer));
        let response = ask(&router, Method::GET, "/livez").await;
        assert_eq!(response.status(), StatusCode::OK);
    };
    expect(PressureLevel::Elevated, "ready").await;
    expect(PressureLevel::High, "pressure").await;
    advance(Duration::from_secs(59)).await;
    expect(PressureLevel::Critical, "pressure").await;
    advance(Duration::from_secs(1)).await;
    expect(PressureLevel::Critical, "ready").await;
    expect(PressureLevel::Normal, "ready").await;
    advance(Duration::from_secs(60)).await;
    expect(PressureLevel::Unknown, "ready").await;
    expect(PressureLevel::High, "pressure").await;
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_does_not_end_is_answered_and_goes_on() {
    let shared = shared(&Registry::new(), &Lifecycle::new(), Handle::current());
    let (end, ended) = oneshot::channel::<()>();
    let (went_on_tx, went_on) = oneshot::channel();
    let start = Instant::now();
    let refusal = shared
        .sweep(async move {
            let _ = ended.await;
            let _ = went_on_tx.send(());
        })
        .await
        .unwrap_err();
    let refusal = axum::response::IntoResponse::into_response(refusal);
    assert_eq!(refusal.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(start + SWEEP_TIMEOUT, Instant::now());
    end.send(()).unwrap();
    went_on.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_sweep_too_many_is_refused_until_another_ends() {
    let registry = Registry::new();
    let shared = shared(&registry, &Lifecycle::new(), Handle::current());
    let router = api::router(shared.clone());
    let (end, ended) = tokio::sync::watch::channel(());
    for _ in 0..MAX_SWEEPS {
        let mut ended = ended.clone();
        // Nobody waits for them any more, and still they count.
        let sweep = async move { while ended.changed().await.is_ok() {} };
        assert!(shared.sweep(sweep).await.is_err());
    }
    let response = ask(&router, Method::POST, "/api/v1/holdings/sweep").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    assert!(text(response).await.contains("4 sweeps are under way"));

    drop(end);
    while Handle::current().metrics().num_alive_tasks() > 0 {
        tokio::task::yield_now().await;
    }
    let response = ask(&router, Method::POST, "/api/v1/holdings/sweep").await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_sweep_after_the_end_of_the_service_is_answered() {
    let main = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let shared = shared(&Registry::new(), &Lifecycle::new(), main.handle().clone());
    main.shutdown_background();
    let response = ask(&api::router(shared), Method::POST, "/api/v1/holdings/sweep").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        text(response)
            .await
            .contains("the runtime of the service has ended")
    );
}

/// The routes for a breaker whose observer hangs when it is called first, until the sender is
/// dropped, and who tells when it does.
fn with_an_observer_that_hangs(
    breaker: &CircuitBreaker,
) -> (Router, mpsc::Sender<()>, oneshot::Receiver<()>) {
    let breakers = Breakers::new();
    breakers.insert(breaker).unwrap();
    let (release, hang) = mpsc::channel();
    let (entered_tx, entered) = oneshot::channel();
    let once = Mutex::new(Some((entered_tx, hang)));
    let observer = move |_: &Event| {
        if let Some((entered, hang)) = once.lock().unwrap().take() {
            entered.send(()).unwrap();
            let _ = hang.recv();
        }
    };
    breaker.observe(observer).unwrap();
    let (registry, lifecycle, main) = (Registry::new(), Lifecycle::new(), Handle::current());
    let shared = Shared::new(
        registry,
        lifecycle,
        Parts {
            breakers,
            ..Parts::default()
        },
        None,
        Vec::new(),
        main,
    );
    (api::router(Arc::new(shared)), release, entered)
}

/// Asks, and lets the question take too long.
async fn ask_in_vain(
    router: &Router,
    method: Method,
    path: &'static str,
    entered: oneshot::Receiver<()>,
) -> Response {
    let router = router.clone();
    let asked = tokio::spawn(async move { ask(&router, method, path).await });
    entered.await.unwrap();
    advance(TIMEOUT).await;
    asked.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_command_that_hangs_is_answered_and_readers_see_what_became_of_it() {
    let orders = CircuitBreaker::new("orders", CircuitBreakerConfig::new()).unwrap();
    let (router, release, entered) = with_an_observer_that_hangs(&orders);
    let path = "/api/v1/breakers/orders/force-open";
    let told = ask_in_vain(&router, Method::POST, path, entered).await;
    assert_eq!(told.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(told.headers()[header::RETRY_AFTER], "1");
    assert!(text(told).await.contains("look at its state"));

    let start = Instant::now();
    let again = ask(&router, Method::POST, path).await;
    assert_eq!(again.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(Instant::now(), start, "nobody waits for it again");
    let shown = ask(&router, Method::GET, "/api/v1/breakers/orders").await;
    assert_eq!(shown.status(), StatusCode::OK);
    assert!(text(shown).await.contains(r#""state":"forced_open""#));

    drop(release);
    let close = "/api/v1/breakers/orders/close";
    while ask(&router, Method::POST, close).await.status() != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_page_is_there_while_a_breaker_hangs() {
    let orders = CircuitBreaker::new("orders", CircuitBreakerConfig::new()).unwrap();
    let wait = Duration::from_secs(60);
    orders.open_for(wait).unwrap();
    let (router, release, entered) = with_an_observer_that_hangs(&orders);
    advance(wait).await;
    let page = ask_in_vain(&router, Method::GET, "/", entered).await;
    assert_eq!(page.status(), StatusCode::OK);
    let page = text(page).await;
    assert!(
        page.contains("A circuit breaker does not answer."),
        "{page}"
    );
    drop(release);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_hangs_keeps_no_operator_from_a_command() {
    let orders = CircuitBreaker::new("orders", CircuitBreakerConfig::new()).unwrap();
    let wait = Duration::from_secs(60);
    orders.open_for(wait).unwrap();
    // Whoever looks first after the wait tells the observer that it is over.
    let (router, release, entered) = with_an_observer_that_hangs(&orders);
    advance(wait).await;
    let shown = ask_in_vain(&router, Method::GET, "/api/v1/breakers", entered).await;
    assert_eq!(shown.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        text(shown)
            .await
            .contains("a circuit breaker does not answer")
    );

    let told = ask(&router, Method::POST, "/api/v1/breakers/orders/force-open").await;
    assert_eq!(told.status(), StatusCode::OK);
    assert_eq!(orders.state(), State::ForcedOpen);
    drop(release);
}

/// A configuration whose reload and whose look take until they are let go.
struct Hanging {
    entered: Mutex<Option<oneshot::Sender<()>>>,
    hang: Mutex<mpsc::Receiver<()>>,
}

impl Hanging {
    /// The routes, whoever lets it go, and who tells when it hangs.
    fn routes() -> (Router, mpsc::Sender<()>, oneshot::Receiver<()>) {
        let (entered_tx, entered) = oneshot::channel();
        let (release, hang) = mpsc::channel();
        let hanging = Self {
            entered: Mutex::new(Some(entered_tx)),
            hang: Mutex::new(hang),
        };
        let (registry, lifecycle, main) = (Registry::new(), Lifecycle::new(), Handle::current());
        let shared = Shared::new(
            registry,
            lifecycle,
            Parts {
                configuration: Some(Arc::new(hanging)),
                ..Parts::default()
            },
            None,
            Vec::new(),
            main,
        );
        (api::router(Arc::new(shared)), release, entered)
    }

    fn hang(&self) {
        if let Some(entered) = self.entered.lock().unwrap().take() {
            entered.send(()).unwrap();
            let _ = self.hang.lock().unwrap().recv();
        }
    }
}

impl Configuration for Hanging {
    fn values(&self) -> Arc<[Effective]> {
        if self
            .entered
            .try_lock()
            .is_ok_and(|entered| entered.is_some())
        {
            self.hang();
        }
        Arc::default()
    }

    fn problem(&self) -> Option<LoadError> {
        None
    }

    fn reload(&self) -> Result<Reload, LoadError> {
        self.hang();
        Ok(Reload::default())
    }
}

const RELOAD: &str = "/api/v1/config/reload";

#[tokio::test(start_paused = true)]
async fn a_reload_that_hangs_is_answered_goes_on_and_lets_no_other_begin() {
    let (router, release, entered) = Hanging::routes();
    let start = Instant::now();
    let asked = tokio::spawn({
        let router = router.clone();
        async move { ask(&router, Method::POST, RELOAD).await }
    });
    entered.await.unwrap();
    let refused = async || {
        let other = ask(&router, Method::POST, RELOAD).await;
        assert_eq!(other.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(other.headers()[header::RETRY_AFTER], "1");
        assert!(text(other).await.contains("is being read"));
    };
    refused().await;
    advance(SWEEP_TIMEOUT).await;
    let told = asked.await.unwrap();
    assert_eq!(told.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(text(told).await.contains("goes on"));
    assert_eq!(start + SWEEP_TIMEOUT, Instant::now());
    // It is still under way, and can be looked at.
    refused().await;
    let shown = ask(&router, Method::GET, "/api/v1/config").await;
    assert_eq!(shown.status(), StatusCode::OK);
    drop(release);
    while ask(&router, Method::POST, RELOAD).await.status() != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_does_not_answer_is_told_of() {
    let (router, release, entered) = Hanging::routes();
    let shown = ask_in_vain(&router, Method::GET, "/api/v1/config", entered).await;
    assert_eq!(shown.status(), StatusCode::SERVICE_UNAVAILABLE);
    let told = text(shown).await;
    assert!(told.contains("the configuration does not answer"), "{told}");
    drop(release);
}

#[tokio::test]
async fn a_reload_after_the_end_of_the_service_is_answered() {
    let main = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let (release, hang) = mpsc::channel();
    let hanging = Hanging {
        entered: Mutex::new(None),
        hang: Mutex::new(hang),
    };
    let shared = Shared::new(
        Registry::new(),
        Lifecycle::new(),
        Parts {
            configuration: Some(Arc::new(hanging)),
            ..Parts::default()
        },
        None,
        Vec::new(),
        main.handle().clone(),
    );
    main.shutdown_background();
    let response = ask(&api::router(Arc::new(shared)), Method::POST, RELOAD).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text(response).await.contains("the reload was dropped"));
    drop(release);
}

#[tokio::test]
async fn requests_are_shown_where_there_is_an_edge_and_weighed_where_the_allocator_tells() {
    let (registry, lifecycle) = (Registry::new(), Lifecycle::new());
    let none = api::router(shared(&registry, &lifecycle, Handle::current()));
    let path = "/api/v1/memory/requests";
    assert_eq!(ask(&none, Method::GET, path).await.status(), 404);
    let parts = Parts {
        edge: Some(plimsoll_http::EdgeLayer::new()),
        ..Parts::default()
    };
    let shared = Shared::new(
        registry,
        lifecycle,
        parts,
        None,
        Vec::new(),
        Handle::current(),
    );
    let router = api::router(Arc::new(shared));
    let answer = ask(&router, Method::GET, path).await;
    assert_eq!(answer.status(), 200);
    let shown: serde_json::Value = serde_json::from_str(&text(answer).await).unwrap();
    assert_eq!(shown["attribution"], serde_json::Value::Null);
    assert_eq!(shown["endpoints"], serde_json::json!([]));
    assert_eq!(shown["heavy"]["newest"], serde_json::json!([]));
    let with_parameters = format!("{path}?limit=1");
    let answer = ask(&router, Method::GET, &with_parameters).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(ask(&router, Method::POST, path).await.status(), 405);
}
