//! The routes of the load line, readiness under pressure, and the document of all routes, over real
//! connections.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use http::{Request, Response};
use plimsoll_admin::{Control, ControlConfig, ReadinessOnPressure};
use plimsoll_alloc::TrackingAllocator;
use plimsoll_breaker::{Breakers, CircuitBreaker, CircuitBreakerConfig, HistoryConfig, Outcome};
use plimsoll_config::{
    Change, Configuration, Effective, Environment, File, LoadError, Reading, Reload, Source,
};
use plimsoll_core::{
    Lifecycle, LifecycleConfig, Name, Registry, settings::Value as Setting, test_util::FakeHolding,
};
use plimsoll_http::{EdgeLayer, EndpointLabel};
use plimsoll_memory::{
    AdmissionConfig, AdmissionLayer, Admitted, Alerts, Ask, HeavyLog, LoadLine, MemoryConfig,
    MonitorConfig, MonitorGuard, PressureLevel, Weigher,
    history::Resolution,
    verdict::{LeakConfig, Sensitivity},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};
use support::{Answer, Odd, any_port, ask, get, post, read, schema::Document};
use tower::{Layer as _, ServiceExt as _, service_fn};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const TOKEN: &str = "0123456789abcdef";
const HOUR: Duration = Duration::from_secs(3_600);
const STATS: &str = "/api/v1/memory/stats";
const MONITOR: &str = "/api/v1/memory/monitor";
const HISTORY: &str = "/api/v1/memory/history";
const HOLDINGS: &str = "/api/v1/memory/holdings";
const GC: &str = "/api/v1/memory/gc";
const OPENAPI: &str = "/api/v1/openapi.json";

/// A monitor of this process with a limit, and its levels as they change.
struct Monitored {
    registry: Registry,
    line: LoadLine,
    guard: MonitorGuard,
    levels: mpsc::Receiver<PressureLevel>,
}

impl Monitored {
    fn with_limit(limit: u64) -> Self {
        let monitor = MonitorConfig::new().limit(limit);
        Self::with(&MemoryConfig::new().monitor(monitor))
    }

    fn with(config: &MemoryConfig) -> Self {
        let (level, levels) = mpsc::channel();
        let alerts = Alerts::new();
        let hook = alerts.on_pressure(move |change| {
            let _ = level.send(change.to);
        });
        hook.unwrap();
        let registry = Registry::new();
        let builder = LoadLine::builder(config).registry(registry.clone());
        let (line, guard) = builder.allocator(&ALLOC).alerts(alerts).start().unwrap();
        Self {
            registry,
            line,
            guard,
            levels,
        }
    }

    /// One that is at ease, and has looked at least once.
    fn at_ease() -> Self {
        let monitored = Self::with_limit(8 << 30);
        monitored.wait_for_a_look();
        monitored
    }

    fn wait_for_a_look(&self) {
        self.wait_for(PressureLevel::Normal);
        // What follows a sample comes a moment after the level.
        while self.line.history(Resolution::Second).is_empty() {
            std::thread::yield_now();
        }
    }

    fn wait_for(&self, level: PressureLevel) {
        let wait = Duration::from_secs(60);
        let next = || self.levels.recv_timeout(wait);
        let why = "a level that this machine can have: the tests need memory to spare";
        while next().expect(why) != level {}
    }

    fn config(&self) -> ControlConfig {
        ControlConfig::new().load_line(self.line.clone())
    }

    fn serve(&self, config: ControlConfig) -> (Control, SocketAddr) {
        start(config, &self.registry, &Lifecycle::new())
    }
}

fn start(
    config: ControlConfig,
    registry: &Registry,
    lifecycle: &Lifecycle,
) -> (Control, SocketAddr) {
    let config = config.admin_addr(any_port());
    let control = Control::start(config, registry.clone(), lifecycle.clone(), None).unwrap();
    let addr = control.admin_addr().unwrap();
    (control, addr)
}

/// Asks, and does not wait for the answer.
fn begin(addr: SocketAddr, method: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

#[tokio::test]
async fn stats_tell_of_process_pressure_admission_and_leaks() {
    let monitored = Monitored::at_ease();
    let (_control, addr) = monitored.serve(monitored.config());
    let stats = get(addr, STATS).json();
    let process = &stats["process"];
    let limit = process["limit"].as_u64().unwrap();
    assert!(limit <= 8 << 30, "{stats:#}");
    let line = process["line"].as_u64().unwrap();
    assert!(line.abs_diff(limit / 10 * 9) < 16, "{stats:#}");
    for figure in ["used", "tracked", "resident", "headroom", "descriptors"] {
        assert!(process[figure].as_u64().unwrap() > 0, "{figure}: {stats:#}");
    }
    assert_eq!(process["slope"], Value::Null, "not known yet");
    assert_eq!(process["time_to_limit_s"], Value::Null);
    let pressure = &stats["pressure"];
    assert_eq!(pressure["level"], "normal");
    assert!((0.0..0.8).contains(&pressure["value"].as_f64().unwrap()));
    let allocator = json!({ "mode": "precise", "attribution": "exact" });
    assert_eq!(stats["allocator"], allocator);
    assert_eq!(stats["admission"]["mode"], "observe");
    assert_eq!(stats["admission"]["waiting"], 0);
    assert_eq!(stats["leaks"], json!([]));
    let state = stats["state"].as_str().unwrap();
    assert!(state.starts_with("at ease: memory "), "{state}");
}

#[tokio::test]
async fn stats_tell_of_those_who_are_on_trial() {
    // There is room for one of whom as much is guessed.
    let config = MemoryConfig::new()
        .monitor(MonitorConfig::new().limit(1 << 30))
        .admission(AdmissionConfig::new().guess(600 << 20));
    let monitored = Monitored::with(&config);
    monitored.wait_for_a_look();
    let admits = |route: &'static str| {
        let weigher = Weigher::new(route.into(), HeavyLog::none(), None);
        match weigher
            .admitted_by(monitored.line.admission())
            .admit(&Ask::default())
        {
            Admitted::Now(permit) => permit,
            other => panic!("{other:?}"),
        }
    };
    // As long as they have not begun they show nothing.
    let _permits = ["first", "second"].map(admits);
    let (_control, addr) = monitored.serve(monitored.config());
    let stats = get(addr, STATS).json();
    let admission = &stats["admission"];
    assert_eq!(admission["tried"], 1, "{stats:#}");
    let reserved = admission["line"].as_u64().unwrap() / 256;
    assert_eq!(admission["on_trial"], reserved, "{stats:#}");
}

#[tokio::test]
async fn the_monitor_tells_what_it_goes_by_and_has_done() {
    let monitored = Monitored::at_ease();
    let (_control, addr) = monitored.serve(monitored.config());
    let before = get(addr, MONITOR).json();
    assert!(before["samples"].as_u64().unwrap() > 0);
    assert_eq!(before["failed_reads"], 0);
    assert_eq!(before["level_changes"], 1);
    assert_eq!(before["last_reclaim"], Value::Null);
    assert_eq!(before["alerts"]["hooks"], 1);
    assert_eq!(before["holders"]["left_behind"], 0);
    assert_eq!(before["holders"]["silent"], json!([]));
    let config = &before["config"]["monitor"];
    assert_eq!(config["limit"], 8_u64 << 30);
    assert_eq!(config["line_bytes"], "off");
    assert_eq!(config["line"], 90.0);
    assert_eq!(config["interval"], 0.25);
    assert_eq!(config["cancel"], "observe");
    assert_eq!(before["config"]["admission"]["exempt"], json!([]));
    let leaks = json!({ "sensitivity": "normal", "max_names": 1_000 });
    assert_eq!(before["config"]["leaks"], leaks);
    let kept = before["history"].as_array().unwrap();
    let kept = kept.iter().map(|it| it["resolution"].as_str().unwrap());
    assert_eq!(kept.collect::<Vec<_>>(), ["1s", "30s", "10m"]);
    assert_eq!(before["history"][0]["max_points"], 600);

    let made = post(addr, GC).json();
    let mut after = get(addr, MONITOR).json();
    assert_eq!(after["reclaims"], 1);
    let last = after["last_reclaim"].as_object_mut().unwrap();
    assert!(last.remove("ago_s").unwrap().as_f64().unwrap() >= 0.0);
    assert_eq!(after["last_reclaim"], made);

    // What is set anew counts.
    let config = MemoryConfig::new()
        .monitor(MonitorConfig::new().limit(4 << 30).high(95.0))
        .leaks(LeakConfig::new().sensitivity(Sensitivity::Low));
    monitored.line.reconfigure(&config).unwrap();
    let anew = get(addr, MONITOR).json();
    assert_eq!(anew["config"]["monitor"]["limit"], 4_u64 << 30);
    assert_eq!(anew["config"]["monitor"]["high"], 95.0);
    assert_eq!(anew["config"]["leaks"]["sensitivity"], "low");
}

#[tokio::test]
async fn room_is_made_and_it_is_told_by_whom() {
    let monitored = Monitored::at_ease();
    let (_control, addr) = monitored.serve(monitored.config());
    let holding = FakeHolding::new("sessions", Duration::ZERO);
    let holding = monitored.registry.register(holding).unwrap();
    holding.insert(3);
    let made = post(addr, GC).json();
    assert_eq!(holding.held(), 0);
    assert_eq!(made["why"], "manual");
    assert_eq!(made["freed"]["expired"], 3);
    assert_eq!(made["freed"]["expired_bytes"], 300);
    assert!(made["before"].as_u64().unwrap() > 0 && made["after"].as_u64().unwrap() > 0);
    let step = &made["steps"][0];
    assert_eq!(
        (&step["kind"], &step["name"]),
        (&json!("expire"), &json!("sessions"))
    );
    assert_eq!((&step["entries"], &step["bytes"]), (&json!(3), &json!(300)));
    assert_eq!(step["failed"], false);
}

#[tokio::test]
async fn room_is_made_for_one_at_a_time() {
    let monitored = Monitored::at_ease();
    let (_control, addr) = monitored.serve(monitored.config());
    let (hanging, asked) = Odd::hanging("hanging");
    let held = hanging.lock.lock().unwrap();
    let _hanging = monitored.registry.register(hanging.clone()).unwrap();
    let first = begin(addr, "POST", GC);
    // By the one who makes room, and by the one who looks for leaks.
    for _ in 0..2 {
        asked.recv().unwrap();
    }
    let second = post(addr, GC);
    let told = second.problem(503, "Service Unavailable");
    assert_eq!(told, "room is being made for somebody else");
    assert_eq!(second.header("retry-after"), Some("1"));
    // Nobody else has to wait for that.
    assert_eq!(get(addr, "/livez").status, 200);
    assert_eq!(get(addr, STATS).status, 200);
    drop(held);
    assert_eq!(read(first).status, 200);
    assert_eq!(post(addr, GC).status, 200);
}

#[tokio::test]
async fn a_monitor_that_has_ended_makes_no_room_and_knows_nothing() {
    let monitored = Monitored::with_limit(8 << 30);
    let (_control, addr) = monitored.serve(monitored.config());
    drop(monitored.guard);
    let told = post(addr, GC).problem(503, "Service Unavailable");
    assert!(told.contains("the monitor has ended"), "{told}");
    assert_eq!(get(addr, STATS).status, 200);
}

#[tokio::test]
async fn history_is_told_at_three_resolutions() {
    let monitored = Monitored::at_ease();
    let (_control, addr) = monitored.serve(monitored.config());
    for (query, resolution) in [
        ("", "1s"),
        ("?", "1s"),
        ("?resolution=1s", "1s"),
        ("?resolution=30s", "30s"),
        ("?resolution=10m", "10m"),
    ] {
        let told = get(addr, &format!("{HISTORY}{query}")).json();
        assert_eq!(told["resolution"], resolution);
        let points = told["points"].as_array().unwrap();
        let last = points.last().unwrap();
        assert!(last["used"]["min"].as_u64() <= last["used"]["max"].as_u64());
        assert!(last["tracked"].as_u64().unwrap() > 0);
        assert!(last["time"].as_str().unwrap().ends_with('Z'));
    }
    for (query, expected) in [
        (
            "resolution=5s",
            "`resolution` is \"5s\": use one of 1s, 30s, 10m",
        ),
        (
            "resolution=",
            "`resolution` is \"\": use one of 1s, 30s, 10m",
        ),
        (
            "resolution=1s&resolution=30s",
            "`resolution` is \"30s\": it is given twice, once will do",
        ),
        (
            "from=1",
            "`from` is \"1\": there is no such parameter, use resolution",
        ),
    ] {
        let told = get(addr, &format!("{HISTORY}?{query}"));
        assert_eq!(told.problem(400, "Bad Request"), expected);
    }
}

#[tokio::test]
async fn parameters_that_mean_nothing_are_refused() {
    let monitored = Monitored::at_ease();
    let (_control, addr) = monitored.serve(monitored.config());
    for (method, path) in [
        ("GET", STATS),
        ("GET", MONITOR),
        ("POST", GC),
        ("GET", OPENAPI),
        ("GET", HOLDINGS),
        ("GET", "/api/v1/holdings"),
        ("GET", "/api/v1/tasks"),
        ("POST", "/api/v1/holdings/sweep"),
        ("POST", "/api/v1/holdings/cache/sweep"),
    ] {
        let told = ask(addr, method, &format!("{path}?deep=1"), "").problem(400, "Bad Request");
        assert_eq!(
            told,
            "`deep` is \"1\": this takes no parameters, leave it out"
        );
    }
    assert_eq!(monitored.line.manager().stats().reclaims, 0);
}

#[tokio::test]
async fn the_page_shows_what_the_routes_tell() {
    let monitored = Monitored::at_ease();
    let lifecycle = Lifecycle::new();
    let (config, _breaker) = service(&monitored, &lifecycle).await;
    // What the edge knows of a route, and what admission does, are of one.
    let _layers = ["/found", "queue"].map(|name| {
        let admission = monitored.line.admission();
        AdmissionLayer::new(name, admission)
    });
    let (_control, addr) = start(config, &monitored.registry, &lifecycle);
    lifecycle.set_ready();
    let page = get(addr, "/").body;
    let stats = get(addr, STATS).json();
    assert!(page.contains("<title>at ease: memory "), "{page}");
    assert!(page.contains("<p class=\"state normal\">at ease: memory "));
    for figure in ["limit", "line"] {
        let bytes = stats["process"][figure].as_u64().unwrap();
        let gib = bytes as f64 / f64::from(1 << 30);
        let row = format!(">{figure}</th><td>{gib:.1} GiB</td>");
        assert!(page.contains(&row), "{row}: {page}");
    }
    for said in [
        "Circuit breakers: 1 open. <bdi>orders</bdi>: open.",
        "Last 10 min: ",
        "Last 6 h: ",
        "<caption>Mode: observe</caption>",
        "Nothing is seen to leak.",
        "<bdi>orders</bdi>",
        "<bdi>queue</bdi></th><td>0</td><td>0</td><td>–</td><td>–</td>",
        "<bdi>/found</bdi></th><td>1</td><td>0</td>",
        "<a href=\"api/v1/memory/requests\">",
        "<a href=\"api/v1/config\">",
    ] {
        assert!(page.contains(said), "{said}: {page}");
    }
    assert_eq!(page.matches("<bdi>/found</bdi>").count(), 1, "{page}");
    assert_eq!(
        page.matches("<path class=\"used\" d=\"M").count(),
        2,
        "{page}"
    );
}

#[tokio::test]
async fn the_page_of_a_service_at_its_line_says_so() {
    let monitored = Monitored::with_limit(1 << 20);
    monitored.wait_for(PressureLevel::Critical);
    let (_control, addr) = monitored.serve(monitored.config());
    let page = get(addr, "/?refresh=off").body;
    assert!(page.contains(" – critical pressure for "), "{page}");
    assert!(
        page.contains("<p class=\"state critical\">not ready: starting; critical pressure for ")
    );
    assert!(
        page.contains(">limit</th><td>1.0 MiB</td><td>100 %</td>"),
        "{page}"
    );
    assert!(!page.contains("http-equiv"), "{page}");
}

#[tokio::test]
async fn holdings_are_those_of_the_registry() {
    let monitored = Monitored::at_ease();
    let (_control, addr) = monitored.serve(monitored.config());
    let holding = FakeHolding::must_flush("sessions", HOUR);
    let _holding = monitored.registry.register(holding).unwrap();
    let shown = get(addr, HOLDINGS).json();
    assert_eq!(shown["holdings"][0]["name"], "sessions");
    assert_eq!(shown["holdings"][0]["must_flush"], true);
    assert_eq!(
        shown["total"],
        get(addr, "/api/v1/holdings").json()["total"]
    );
}

#[tokio::test]
async fn without_a_monitor_there_is_nothing_to_show() {
    let (_control, addr) = start(ControlConfig::new(), &Registry::new(), &Lifecycle::new());
    for (method, path) in [
        ("GET", STATS),
        ("GET", MONITOR),
        ("GET", HISTORY),
        ("POST", GC),
    ] {
        let told = ask(addr, method, path, "").problem(404, "Not Found");
        assert_eq!(told, "the service has no memory monitor");
    }
    assert_eq!(get(addr, HOLDINGS).status, 200);
}

#[tokio::test]
async fn making_room_is_guarded_as_what_operators_do() {
    let monitored = Monitored::at_ease();
    let (_control, addr) = monitored.serve(monitored.config());
    for header in [
        "Origin: https://evil.example\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
    ] {
        ask(addr, "POST", GC, header).problem(403, "Forbidden");
    }
    for (method, path, allowed) in [("GET", GC, "POST"), ("POST", STATS, "GET,HEAD")] {
        let answer = ask(addr, method, path, "");
        answer.problem(405, "Method Not Allowed");
        assert_eq!(answer.header("allow"), Some(allowed));
    }
    let (_control, addr) = monitored.serve(monitored.config().token(TOKEN));
    for (method, path) in [("GET", STATS), ("GET", OPENAPI), ("POST", GC)] {
        ask(addr, method, path, "").problem(401, "Unauthorized");
    }
    assert_eq!(monitored.line.manager().stats().reclaims, 0);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(addr, "POST", GC, &bearer).status, 200);
}

#[tokio::test]
async fn pressure_is_no_reason_to_be_unready_unless_it_is_made_one() {
    let monitored = Monitored::with_limit(1 << 20);
    monitored.wait_for(PressureLevel::Critical);
    let lifecycle = Lifecycle::new();
    let start = |config| start(config, &monitored.registry, &lifecycle);
    let (_control, indifferent) = start(monitored.config());
    let unready = monitored.config();
    let unready = unready.readiness_on_pressure(ReadinessOnPressure::High, HOUR);
    let (_other, unready) = start(unready);
    let told = |addr| {
        let answer = get(addr, "/readyz");
        (answer.status, answer.body)
    };
    assert_eq!(told(unready), (503, "starting".to_owned()));
    lifecycle.set_ready();
    assert_eq!(told(unready), (503, "pressure".to_owned()));
    assert_eq!(told(indifferent), (200, "ready".to_owned()));
    for addr in [unready, indifferent] {
        assert_eq!(get(addr, "/livez").status, 200);
        let state = get(addr, STATS).json()["state"].to_string();
        assert!(state.contains("critical pressure for "), "{state}");
    }
}

#[tokio::test]
async fn time_of_unreadiness_out_of_its_range_is_named() {
    for (time, shown) in [(Duration::ZERO, "0s"), (2 * HOUR, "2h")] {
        let config = ControlConfig::new().admin_addr(any_port());
        let config = config.readiness_on_pressure(ReadinessOnPressure::High, time);
        let error = Control::start(config, Registry::new(), Lifecycle::new(), None).unwrap_err();
        let expected = format!("`max_unready` is {shown}, but must be between 1s and 1h");
        assert_eq!(error.to_string(), expected);
    }
}

// === the document ===

/// A configuration with one setting, whose reload finds another, or something wrong.
struct Fake {
    wrong: bool,
}

impl Configuration for Fake {
    fn values(&self) -> Arc<[Effective]> {
        let mut reading = Reading::new();
        let mut lifecycle = LifecycleConfig::default();
        let file = File::parse("config.yaml", "lifecycle: {max_tasks: 500}\n").unwrap();
        reading.group("lifecycle", &mut lifecycle, &file, &Environment::empty());
        reading.finish().unwrap().into()
    }

    fn problem(&self) -> Option<LoadError> {
        let mut reading = Reading::new();
        let mut lifecycle = LifecycleConfig::default();
        let text = "lifecycle: {max_tasks: 0, max_task: 1}\n";
        let file = File::parse("config.yaml", text).unwrap();
        reading.group("lifecycle", &mut lifecycle, &file, &Environment::empty());
        Some(reading.finish().unwrap_err())
    }

    fn reload(&self) -> Result<Reload, LoadError> {
        if self.wrong {
            return Err(self.problem().unwrap());
        }
        let value = Some(Setting::Integer(500));
        let key = "lifecycle.max_tasks".to_owned();
        let mut reload = Reload::default();
        let change = Change::new(key, None, value, Source::Code, false);
        reload.changes.push(change);
        Ok(reload)
    }
}

/// Everything that there may be to show.
///
/// The breaker is shown for as long as it lives.
async fn service(monitored: &Monitored, lifecycle: &Lifecycle) -> (ControlConfig, CircuitBreaker) {
    let edge = EdgeLayer::new().memory(&MemoryConfig::new().heavy(1_000).budget(1 << 30));
    let edge = edge.unwrap();
    let handler = service_fn(|_: Request<String>| async {
        Ok::<_, Infallible>(Response::new("x".repeat(10_000)))
    });
    let mut request = Request::new(String::new());
    let label = EndpointLabel(Name::from_static("/found"));
    request.extensions_mut().insert(label);
    drop(edge.layer(handler).oneshot(request).await.unwrap());

    let breakers = Breakers::new();
    let config = CircuitBreakerConfig::new().minimum_calls(1);
    let config = config.history(HistoryConfig::local());
    let breaker = CircuitBreaker::new("orders", config).unwrap();
    breakers.insert(&breaker).unwrap();
    for outcome in [Outcome::Success, Outcome::Failure] {
        breaker.try_acquire().unwrap().record(outcome);
    }
    let registry = &monitored.registry;
    let breaker = registry.register(breaker).unwrap();

    let stubborn = lifecycle.spawn("stubborn", std::future::pending::<()>());
    drop(stubborn.unwrap());
    let config = monitored.config().edge(edge).breakers(breakers);
    let config = config.configuration(Arc::new(Fake { wrong: false }));
    (config.profiling(cfg!(feature = "profile")), breaker)
}

/// Asks, and holds the answer against the document.
fn held_against(document: &Document, addr: SocketAddr, asked: &Asked) -> Answer {
    let Asked {
        method,
        route,
        path,
        status,
    } = *asked;
    let answer = ask(addr, method, path, "");
    assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    let (media, schema) = document.answer(method, route, status);
    assert_eq!(
        answer.header("content-type"),
        Some(media),
        "{method} {path}"
    );
    let value = match media.contains("json") {
        true => serde_json::from_str(&answer.body).unwrap(),
        false => json!(answer.body),
    };
    let faults = document.faults(schema, &value);
    assert!(faults.is_empty(), "{method} {path}: {faults:#?}");
    answer
}

/// How a route is asked, and what it has to answer.
#[derive(Clone, Copy)]
struct Asked {
    method: &'static str,
    route: &'static str,
    path: &'static str,
    status: u16,
}

const fn get_of(route: &'static str, path: &'static str) -> Asked {
    Asked {
        method: "GET",
        route,
        path,
        status: 200,
    }
}

const fn post_of(route: &'static str, path: &'static str) -> Asked {
    Asked {
        method: "POST",
        ..get_of(route, path)
    }
}

/// Profiles are left out: where they are not turned on, there are none.
const ASKED: [Asked; 26] = [
    get_of("/", "/"),
    Asked {
        status: 400,
        ..get_of("/", "/?refresh=0")
    },
    // First, so that there is something to tell.
    post_of(GC, GC),
    get_of(STATS, STATS),
    get_of(MONITOR, MONITOR),
    get_of(HISTORY, HISTORY),
    get_of(HISTORY, "/api/v1/memory/history?resolution=10m"),
    get_of(HOLDINGS, HOLDINGS),
    get_of("/api/v1/memory/requests", "/api/v1/memory/requests"),
    get_of("/api/v1/holdings", "/api/v1/holdings"),
    post_of("/api/v1/holdings/sweep", "/api/v1/holdings/sweep"),
    post_of(
        "/api/v1/holdings/{name}/sweep",
        "/api/v1/holdings/sessions/sweep",
    ),
    get_of("/api/v1/holdings", "/api/v1/holdings"),
    get_of("/api/v1/tasks", "/api/v1/tasks"),
    get_of("/api/v1/breakers", "/api/v1/breakers"),
    post_of(
        "/api/v1/breakers/{name}/{action}",
        "/api/v1/breakers/orders/force-open",
    ),
    post_of(
        "/api/v1/breakers/{name}/{action}",
        "/api/v1/breakers/orders/cleanup",
    ),
    get_of("/api/v1/breakers/{name}", "/api/v1/breakers/orders?limit=2"),
    post_of("/api/v1/breakers/cleanup", "/api/v1/breakers/cleanup"),
    get_of("/api/v1/config", "/api/v1/config"),
    post_of("/api/v1/config/reload", "/api/v1/config/reload"),
    get_of(OPENAPI, OPENAPI),
    Asked {
        status: 400,
        ..get_of(HISTORY, "/api/v1/memory/history?resolution=1m")
    },
    Asked {
        status: 404,
        ..get_of("/api/v1/breakers/{name}", "/api/v1/breakers/nobody")
    },
    Asked {
        status: 404,
        ..post_of(
            "/api/v1/holdings/{name}/sweep",
            "/api/v1/holdings/nobody/sweep",
        )
    },
    Asked {
        status: 400,
        ..get_of(STATS, "/api/v1/memory/stats?x")
    },
];

const PROFILES: [Asked; 4] = [
    post_of(
        "/api/v1/memory/profile/start",
        "/api/v1/memory/profile/start",
    ),
    get_of("/api/v1/memory/profile", "/api/v1/memory/profile"),
    get_of("/debug/pprof/heap", "/debug/pprof/heap"),
    post_of("/api/v1/memory/profile/stop", "/api/v1/memory/profile/stop"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_document_says() {
    let monitored = Monitored::at_ease();
    let lifecycle = Lifecycle::new();
    let registry = &monitored.registry;
    let sessions = registry.register(FakeHolding::new("sessions", Duration::ZERO));
    let sessions = sessions.unwrap();
    sessions.insert(2);
    let _panicking = registry.register(Odd::panicking("panicking")).unwrap();
    let (config, _breaker) = service(&monitored, &lifecycle).await;
    let (_control, addr) = start(config, registry, &lifecycle);
    let document = Document(get(addr, OPENAPI).json());
    for asked in &ASKED {
        held_against(&document, addr, asked);
    }
    // The head of a profile says what it is, and the rest is no text.
    let there = PROFILES
        .iter()
        .filter(|asked| asked.path != "/debug/pprof/heap");
    for asked in there {
        let status = if cfg!(feature = "profile") { 200 } else { 404 };
        held_against(&document, addr, &Asked { status, ..*asked });
    }
    let (media, _) = document.answer("GET", "/debug/pprof/heap", 200);
    assert_eq!(media, "application/octet-stream");

    let config = ControlConfig::new().configuration(Arc::new(Fake { wrong: true }));
    let (_control, bare) = start(config, registry, &lifecycle);
    for asked in [
        Asked {
            status: 422,
            ..post_of("/api/v1/config/reload", "/api/v1/config/reload")
        },
        Asked {
            status: 404,
            ..get_of(STATS, STATS)
        },
    ] {
        held_against(&document, bare, &asked);
    }
}

#[tokio::test]
async fn the_document_and_the_guide_have_every_route() {
    let (_control, addr) = start(ControlConfig::new(), &Registry::new(), &Lifecycle::new());
    let document = get(addr, OPENAPI).json();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let document = Document(document);
    let described: BTreeSet<_> = document.operations().into_iter().collect();
    let asked = ASKED.iter().chain(&PROFILES);
    let asked: BTreeSet<_> = asked
        .map(|asked| (asked.method.to_owned(), asked.route.to_owned()))
        .collect();
    assert_eq!(described, asked, "what is described is asked for");

    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/admin.md");
    let guide = fs::read_to_string(guide).unwrap();
    let rows = guide
        .lines()
        .filter_map(|row| row.strip_prefix("| admin | `"));
    let listed: BTreeSet<_> = rows
        .map(|row| {
            let (route, _) = row.split_once('`').unwrap();
            let (method, path) = route.split_once(' ').unwrap();
            (method.to_owned(), path.to_owned())
        })
        .collect();
    assert_eq!(described, listed, "what is described is in the guide");
}

#[test]
fn what_is_not_as_the_document_says_is_found() {
    let document = Document(json!({ "components": { "schemas": { "Size": {
        "type": "object",
        "required": ["bytes"],
        "properties": { "bytes": { "anyOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "null" },
        ] } },
        "additionalProperties": false,
    } } } }));
    let schema = json!({ "type": "array", "items": { "$ref": "#/components/schemas/Size" } });
    for right in [json!([]), json!([{ "bytes": 3 }, { "bytes": null }])] {
        assert_eq!(document.faults(&schema, &right), [""; 0]);
    }
    for (wrong, place) in [
        (json!({}), ": "),
        (json!([{}]), "/0: "),
        (json!([{ "bytes": 1 }, { "bytes": 0.5 }]), "/1/bytes: "),
        (json!([{ "bytes": -1 }]), "/0/bytes: "),
        (json!([{ "bytes": 1, "more": 1 }]), "/0/more: "),
    ] {
        let faults = document.faults(&schema, &wrong);
        assert_eq!(faults.len(), 1, "{wrong}: {faults:?}");
        assert!(faults[0].starts_with(place), "{wrong}: {faults:?}");
    }
}
