//! A service with everything that `Plimsoll` sets up, over real connections.

use axum::{Router, extract::Path, http::StatusCode, routing::get};
use plimsoll::{
    Config, ControlConfig, LifecycleConfig, Phase, Plimsoll, RegistryConfig, StopReport,
};
use plimsoll_core::test_util::FakeHolding;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

const HOUR: Duration = Duration::from_secs(3_600);

struct Service {
    plimsoll: Plimsoll,
    addr: SocketAddr,
    admin: SocketAddr,
    serving: JoinHandle<Arc<StopReport>>,
}

impl Service {
    async fn start() -> Self {
        let lifecycle = LifecycleConfig::default().drain_delay(Duration::ZERO);
        Self::with_config(config().lifecycle(lifecycle)).await
    }

    async fn with_config(config: Config) -> Self {
        let plimsoll = Plimsoll::start(config).expect("a service");
        let app = Router::new()
            .route("/hello", get(|| async { "hello" }))
            .route("/users/{id}", get(|Path(id): Path<String>| async { id }))
            .route("/broken", get(|| async { StatusCode::BAD_GATEWAY }))
            .layer(plimsoll.layer());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let admin = plimsoll.admin_addr().expect("an admin listener");
        let mut phase = plimsoll.lifecycle().watch_phase();
        let serving = tokio::spawn({
            let plimsoll = plimsoll.clone();
            async move { plimsoll.serve(listener, app).await.expect("signals") }
        });
        phase
            .wait_for(|phase| *phase == Phase::Running)
            .await
            .expect("the lifecycle lives");
        Self {
            plimsoll,
            addr,
            admin,
            serving,
        }
    }

    async fn stop(self) -> Arc<StopReport> {
        self.plimsoll.request_stop();
        self.serving.await.expect("serving ends")
    }
}

fn config() -> Config {
    let control = ControlConfig::new().admin_addr(([127, 0, 0, 1], 0).into());
    Config::new().control(control)
}

async fn request(addr: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

#[tokio::test]
async fn requests_are_counted_by_route_and_scraped() {
    let service = Service::start().await;
    for path in ["/hello", "/users/1", "/users/2", "/broken", "/nowhere/3"] {
        request(service.addr, "GET", path).await;
    }
    let metrics = request(service.admin, "GET", "/metrics").await;
    for (endpoint, status, count) in [
        ("/hello", "2xx", 1),
        ("/users/{id}", "2xx", 2),
        ("/broken", "5xx", 1),
        ("__unmatched__", "4xx", 1),
    ] {
        let line = format!(
            "plimsoll_http_requests_total{{endpoint=\"{endpoint}\",method=\"GET\",status=\"{status}\"}} "
        );
        let counted = metrics
            .lines()
            .find_map(|found| found.strip_prefix(&line)?.parse::<u64>().ok());
        // Other services of this process count into the same recorder.
        assert!(counted.is_some_and(|n| n >= count), "{line}\n{metrics}");
    }
    assert!(!metrics.contains("/nowhere"), "{metrics}");
    assert!(service.stop().await.is_clean());
}

#[tokio::test]
async fn holdings_are_shown_swept_and_flushed_at_the_end() {
    let config = config()
        .lifecycle(LifecycleConfig::default().drain_delay(Duration::ZERO))
        .registry(RegistryConfig::default().idle_interval(HOUR));
    let service = Service::with_config(config).await;
    let audit = FakeHolding::must_flush("audit", HOUR);
    let audit = service.plimsoll.register(audit).expect("a free name");
    let sessions = FakeHolding::new("sessions", Duration::ZERO);
    let sessions = service.plimsoll.register(sessions).expect("a free name");
    // Its first sweep, when there is nothing yet; the next is an hour away.
    while sessions.sweeps().is_empty() {
        tokio::task::yield_now().await;
    }
    audit.insert(5);
    sessions.insert(7);

    let shown = request(service.admin, "GET", "/api/v1/holdings").await;
    assert!(shown.contains(r#""name":"audit","entries":5"#), "{shown}");
    let swept = request(service.admin, "POST", "/api/v1/holdings/sessions/sweep").await;
    assert!(swept.contains(r#""expired":7"#), "{swept}");
    assert_eq!(sessions.held(), 0);

    // Nobody has a handle any more, and still nothing is lost.
    drop(audit);
    sessions.insert(2);
    let report = service.stop().await;
    let text = report.to_string();
    assert!(report.is_clean(), "{text}");
    // The third is the log of heavy requests, which is empty.
    assert!(
        text.contains("holdings: 3 closed, 5 entries flushed, 2 dropped, 0 lost"),
        "{text}"
    );
}

#[tokio::test]
async fn probes_follow_the_phases_to_the_end() {
    let service = Service::start().await;
    let plimsoll = service.plimsoll.clone();
    let admin = service.admin;
    assert!(
        request(admin, "GET", "/readyz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    service.stop().await;
    let ready = request(admin, "GET", "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.ends_with("stopped"), "{ready}");
    assert!(
        request(admin, "GET", "/livez")
            .await
            .starts_with("HTTP/1.1 200")
    );
    drop(plimsoll);
}

#[tokio::test]
async fn tasks_end_after_the_last_request_and_are_named() {
    let service = Service::start().await;
    let token = service.plimsoll.cancellation_token();
    let task = service
        .plimsoll
        .spawn("worker", async move { token.cancelled().await })
        .expect("room for a task");
    let tasks = request(service.admin, "GET", "/api/v1/tasks").await;
    assert!(tasks.contains(r#""name":"worker","count":1"#), "{tasks}");
    let plimsoll = service.plimsoll.clone();
    let report = service.stop().await;
    assert_eq!(report.tasks_ended, 1);
    assert!(task.is_finished());
    assert!(plimsoll.spawn("late", async {}).is_err());
}

#[tokio::test]
async fn what_keeps_a_service_from_starting_is_named() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let in_use = held.local_addr().expect("an address");
    let delay = LifecycleConfig::default().drain_delay(Duration::from_secs(25));
    let table = [
        (
            config().lifecycle(delay),
            "`drain_delay` is 25s, but must be shorter than stop_timeout, 25s",
        ),
        (
            Config::new().control(ControlConfig::new().admin_addr(in_use)),
            "the port is in use",
        ),
        (
            config().server(plimsoll::ServerConfig::default().max_connections(0)),
            "`max_connections` is 0, but must be at least 1",
        ),
    ];
    for (config, expected) in table {
        let error = Plimsoll::start(config)
            .expect_err("a bad setting")
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn starting_outside_a_runtime_says_so() {
    let error = Plimsoll::start(config())
        .expect_err("no runtime")
        .to_string();
    assert!(error.contains("#[tokio::main]"), "{error}");
}
