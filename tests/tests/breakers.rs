//! Circuit breakers of a service with everything that `Plimsoll` sets up.

use plimsoll::{
    Adapter, AdapterSetupError, Breakers, CircuitBreaker, CircuitBreakerConfig, Config,
    ControlConfig, HistoryConfig, KeyedBreakers, MemoryConfig, MonitorConfig, Outcome, Plimsoll,
    RegistryConfig, State, breaker::KeyedConfig, registry::RegisterError,
};
use plimsoll_core::test_util::FakeHolding;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

const MINUTE: Duration = Duration::from_secs(60);

fn start() -> Plimsoll {
    start_with(control())
}

fn start_with(control: ControlConfig) -> Plimsoll {
    Plimsoll::start(config().control(control)).expect("a service")
}

/// Where others have taken the memory of the machine, nothing is dropped for that.
fn config() -> Config {
    let monitor = MonitorConfig::new().shrink(false);
    Config::new().memory(MemoryConfig::new().monitor(monitor))
}

fn control() -> ControlConfig {
    ControlConfig::new().admin_addr(([127, 0, 0, 1], 0).into())
}

fn breaker(name: &str) -> CircuitBreaker {
    let history = HistoryConfig::local()
        .retention(MINUTE)
        .sweep_interval(MINUTE);
    let config = CircuitBreakerConfig::new().history(history);
    CircuitBreaker::new(name, config).expect("a configuration")
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
async fn a_registered_breaker_is_shown_operated_and_scraped() {
    let plimsoll = start();
    let admin = plimsoll.admin_addr().expect("an admin listener");
    let payments = plimsoll
        .register_breaker(breaker("payments"))
        .expect("a free name");
    let shown = request(admin, "GET", "/api/v1/breakers").await;
    assert!(
        shown.contains(r#""name":"payments","state":"closed""#),
        "{shown}"
    );
    let holdings = request(admin, "GET", "/api/v1/holdings").await;
    assert!(holdings.contains(r#""name":"payments""#), "{holdings}");

    let told = request(admin, "POST", "/api/v1/breakers/payments/force-open").await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    assert_eq!(payments.state(), State::ForcedOpen);
    let metrics = request(admin, "GET", "/metrics").await;
    for line in [
        "plimsoll_breaker_state{breaker=\"payments\",state=\"forced_open\"} 1",
        "plimsoll_holding_entries{holding=\"payments\"} 1",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}\n{metrics}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_registered_breaker_is_swept_without_traffic() {
    let plimsoll = start();
    let orders = plimsoll
        .register_breaker(breaker("orders"))
        .expect("a free name");
    let call = orders.call(|| (), |()| Outcome::Success);
    call.expect("a closed circuit");
    let bytes = orders.bytes();
    sleep(3 * MINUTE).await;
    assert!(orders.bytes() < bytes, "{} of {bytes}", orders.bytes());
}

#[tokio::test]
async fn a_name_that_is_taken_leaves_nothing_half_registered() {
    let plimsoll = start();
    let duplicate = |name: &'static str| RegisterError::Duplicate(name.into());
    let is_listed = |name: &str| plimsoll.breakers().get(name).is_some();
    let _first = plimsoll
        .register_breaker(breaker("orders"))
        .expect("a free name");
    let second = breaker("orders");
    let error = plimsoll
        .register_breaker(second.clone())
        .expect_err("taken");
    assert_eq!(error, duplicate("orders"));

    // By a holding that is no breaker: it is in the registry only.
    let fake = FakeHolding::new("sessions", MINUTE);
    let _fake = plimsoll.register(fake).expect("a free name");
    let sessions = breaker("sessions");
    let error = plimsoll
        .register_breaker(sessions.clone())
        .expect_err("taken");
    assert_eq!(error, duplicate("sessions"));
    assert!(!is_listed("sessions"), "not in the directory either");

    // By a breaker that is in the directory only.
    let audit = breaker("audit");
    plimsoll.breakers().insert(&audit).expect("a free name");
    let error = plimsoll
        .register_breaker(breaker("audit"))
        .expect_err("taken");
    assert_eq!(error, duplicate("audit"));
    let registered = plimsoll.registry().snapshot();
    let registered: Vec<_> = registered
        .iter()
        .map(|holding| holding.name.as_str())
        .collect();
    // The log of heavy requests is the service's own.
    assert_eq!(registered, ["heavy-requests", "orders", "sessions"]);
}

#[tokio::test]
async fn a_full_registry_takes_no_breaker_and_shows_none() {
    let config = Config::new()
        .no_control()
        .registry(RegistryConfig::default().max_holdings(0));
    let plimsoll = Plimsoll::start(config).expect("a service");
    let orders = breaker("orders");
    let error = plimsoll.register_breaker(orders.clone());
    assert_eq!(error.expect_err("no place"), RegisterError::Full(0));
    assert!(plimsoll.breakers().list().is_empty());
}

#[tokio::test]
async fn a_breaker_that_is_dropped_is_forgotten_and_its_name_is_free() {
    let plimsoll = start();
    for _ in 0..2 {
        let orders = plimsoll.register_breaker(breaker("orders"));
        assert_eq!(plimsoll.breakers().list().len(), 1);
        drop(orders.expect("a free name"));
        assert!(plimsoll.breakers().list().is_empty());
    }
}

#[tokio::test]
async fn breakers_of_the_settings_are_those_of_the_service() {
    let given = Breakers::new();
    let orders = breaker("orders");
    given.insert(&orders).expect("a free name");
    let plimsoll = start_with(control().breakers(given.clone()));
    let found = plimsoll.breakers().get("orders").expect("in the directory");
    found.force_open();
    assert_eq!(orders.state(), State::ForcedOpen);
    let admin = plimsoll.admin_addr().expect("an admin listener");
    let shown = request(admin, "GET", "/api/v1/breakers/orders").await;
    assert!(shown.contains(r#""state":"forced_open""#), "{shown}");

    // Settings without any are not shared by the services that are started with them.
    let config = Config::new().control(control());
    let services =
        [config.clone(), config].map(|config| Plimsoll::start(config).expect("a service"));
    for service in &services {
        service.breakers().insert(&orders).expect("a free name");
    }
}

#[tokio::test]
async fn registered_keyed_breakers_are_shown_among_the_holdings_and_scraped() {
    let plimsoll = start();
    let admin = plimsoll.admin_addr().expect("an admin listener");
    let tenants = KeyedBreakers::new("tenants", KeyedConfig::new()).expect("a configuration");
    let tenants = plimsoll
        .register_keyed_breakers(tenants)
        .expect("a free name");
    let _ = tenants.get("a");
    let again = plimsoll.register_keyed_breakers(tenants.clone());
    assert!(matches!(again, Err(RegisterError::Duplicate(_))));
    let holdings = request(admin, "GET", "/api/v1/holdings").await;
    assert!(holdings.contains(r#""name":"tenants""#), "{holdings}");
    let scraped = request(admin, "GET", "/metrics").await;
    let keys = r#"plimsoll_breaker_keys{breaker="tenants"} 1"#;
    assert!(scraped.contains(keys), "{scraped}");
}

#[tokio::test]
async fn a_registered_adapter_is_a_holding_whose_breaker_is_shown() {
    let plimsoll = start();
    let admin = plimsoll.admin_addr().expect("an admin listener");
    let adapter = || {
        let echo = |question: String| async move { Ok::<_, plimsoll::BoxError>(question) };
        Adapter::builder("qa-echo")
            .function(echo)
            .expect("an adapter")
    };
    let echo = plimsoll.register_adapter(adapter()).expect("a free name");
    echo.call("hello".to_owned()).await.expect("an answer");
    let shown = request(admin, "GET", "/api/v1/breakers/qa-echo").await;
    assert!(shown.contains(r#""matching":1"#), "{shown}");
    let holdings = request(admin, "GET", "/api/v1/holdings").await;
    assert!(holdings.contains(r#""name":"qa-echo""#), "{holdings}");
    let again = plimsoll.register_adapter(adapter());
    assert!(matches!(
        again,
        Err(AdapterSetupError::Register(RegisterError::Duplicate(_)))
    ));
    drop(echo);
    assert!(plimsoll.breakers().list().is_empty());
}
