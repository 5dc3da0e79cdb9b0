//! The routes of circuit breakers, over real connections, and their metrics.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use plimsoll_admin::{Control, ControlConfig, install_recorder};
use plimsoll_breaker::{
    Breakers, CircuitBreaker, CircuitBreakerConfig, Event, HistoryConfig, Outcome, State,
};
use plimsoll_core::{Lifecycle, Registry};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};
use support::{any_port, ask, get, post};
use tokio::time::advance;

const TOKEN: &str = "0123456789abcdef";
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The figure of breakers that hang has no label to tell one service of this process from another.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Time stands still between the steps of a test that cannot be async.
fn paused_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
}

fn config() -> CircuitBreakerConfig {
    CircuitBreakerConfig::new()
        .minimum_calls(4)
        .probes(2)
        .slow_calls(SECOND, 100.0)
        .open_for(10 * SECOND)
        .jitter(0.0)
        .history(HistoryConfig::local().retention(MINUTE))
}

/// A breaker in the directory.
fn breaker(breakers: &Breakers, name: &str) -> CircuitBreaker {
    let breaker = CircuitBreaker::new(name, config()).unwrap();
    breakers.insert(&breaker).unwrap();
    breaker
}

fn start(breakers: &Breakers) -> (Control, SocketAddr) {
    start_with(ControlConfig::new().breakers(breakers.clone()))
}

fn start_with(config: ControlConfig) -> (Control, SocketAddr) {
    let config = config.admin_addr(any_port());
    let recorder = install_recorder().unwrap();
    let control = Control::start(config, Registry::new(), Lifecycle::new(), Some(recorder));
    let control = control.unwrap();
    let addr = control.admin_addr().unwrap();
    (control, addr)
}

fn call(breaker: &CircuitBreaker, outcome: Outcome) {
    breaker.try_acquire().unwrap().record(outcome);
}

/// A slow call.
async fn slow_call(breaker: &CircuitBreaker, outcome: Outcome) {
    let permit = breaker.try_acquire().unwrap();
    advance(2 * SECOND).await;
    permit.record(outcome);
}

fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap();
    object.keys().map(String::as_str).collect()
}

/// What the calls of a page were, and where the next one begins.
fn page(addr: SocketAddr, query: &str) -> (Vec<String>, u64, Option<u64>) {
    let answer = get(addr, &format!("/api/v1/breakers/orders{query}"));
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    let shown = answer.json();
    let outcome = |call: &Value| {
        let slow = call["slow"].as_bool().unwrap();
        let outcome = call["outcome"].as_str().unwrap();
        format!("{}{outcome}", if slow { "slow " } else { "" })
    };
    let calls = shown["calls"].as_array().unwrap();
    (
        calls.iter().map(outcome).collect(),
        shown["matching"].as_u64().unwrap(),
        shown["next_offset"].as_u64(),
    )
}

#[tokio::test(start_paused = true)]
async fn breakers_are_listed_by_name() {
    let breakers = Breakers::new();
    let (control, addr) = start(&breakers);
    let none = get(addr, "/api/v1/breakers");
    assert_eq!(none.status, 200);
    assert_eq!(none.json(), json!({"breakers": []}));

    let orders = breaker(&breakers, "orders");
    let _audit = breaker(&breakers, "audit");
    slow_call(&orders, Outcome::Success).await;
    call(&orders, Outcome::Ignore);
    drop(orders.try_acquire().unwrap());
    let _in_flight = orders.try_acquire().unwrap();
    for _ in 0..3 {
        call(&orders, Outcome::Failure);
    }
    orders.try_acquire().unwrap_err();
    advance(4 * SECOND).await;

    let listed = get(addr, "/api/v1/breakers").json();
    let [audit, orders] = &listed["breakers"].as_array().unwrap()[..] else {
        panic!("{listed}");
    };
    assert_eq!(
        (&audit["name"], &orders["name"]),
        (&json!("audit"), &json!("orders"))
    );
    assert_eq!(audit["state"], "closed");
    assert_eq!(audit["retry_after_s"], Value::Null);
    assert_eq!(
        audit["window"]["failure_percent"],
        Value::Null,
        "too few calls"
    );
    assert_eq!(orders["state"], "open");
    assert_eq!(orders["reason"], "failure_rate");
    assert_eq!(orders["age_s"], 4.0);
    let since = orders["since"].as_str().unwrap();
    assert!(since.starts_with("20") && since.ends_with('Z'), "{since}");
    assert_eq!(orders["retry_after_s"], 6.0);
    assert_eq!(
        orders["window"],
        json!({
            "calls": 4, "successes": 1, "failures": 3, "slow": 1, "slow_failures": 0,
            "failure_percent": 75.0, "slow_percent": 25.0,
        }),
        "what opened it"
    );
    assert_eq!(
        orders["totals"],
        json!({
            "success": 1, "failure": 3, "ignored": 1, "dropped": 1, "stale": 0, "slow": 1,
            "rejected": {"open": 1, "half_open": 0, "forced_open": 0}, "would_reject": 0,
        })
    );
    assert_eq!(orders["rejected"], 1);
    assert_eq!(orders["in_flight"], 1);
    assert_eq!(orders["attempt"], 1);
    assert_eq!(
        orders["history"],
        json!({
            "calls": 6, "max_calls": 10_000, "transitions": 1, "max_transitions": 1_000,
            "retention_s": 60.0, "sweep_interval_s": 3_600.0, "last_sweep_ago_s": null,
        })
    );
    let bytes = orders["bytes"].as_u64().unwrap();
    assert!(bytes > audit["bytes"].as_u64().unwrap(), "{bytes}");
    assert_eq!(
        keys(orders),
        [
            "age_s",
            "attempt",
            "bytes",
            "consecutive_failures",
            "generation",
            "history",
            "in_flight",
            "lost_events",
            "name",
            "probes_free",
            "probes_in_flight",
            "reason",
            "rejected",
            "retry_after_s",
            "since",
            "state",
            "totals",
            "window"
        ]
    );
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_without_limits_is_shown_as_such() {
    let breakers = Breakers::new();
    let (control, addr) = start(&breakers);
    let history = HistoryConfig::local()
        .calls(0)
        .transitions(0)
        .retention(Duration::ZERO);
    let config = config().history(history);
    let orders = CircuitBreaker::new("orders", config).unwrap();
    breakers.insert(&orders).unwrap();
    call(&orders, Outcome::Success);
    let shown = get(addr, "/api/v1/breakers/orders").json();
    assert_eq!(
        shown["history"],
        json!({
            "calls": 1, "max_calls": null, "transitions": 0, "max_transitions": null,
            "retention_s": null, "sweep_interval_s": 3_600.0, "last_sweep_ago_s": null,
        })
    );
    assert_eq!(shown["calls"][0]["outcome"], "success");
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_breaker_is_shown_with_its_past_newest_first() {
    let breakers = Breakers::new();
    let (control, addr) = start(&breakers);
    let orders = breaker(&breakers, "orders");
    slow_call(&orders, Outcome::Success).await;
    let stale = orders.try_acquire().unwrap();
    for _ in 0..3 {
        advance(SECOND).await;
        call(&orders, Outcome::Failure);
    }
    stale.record(Outcome::Success);
    advance(10 * SECOND).await;
    call(&orders, Outcome::Failure);

    // The waiting is over, which is a transition that nobody has seen before.
    let shown = get(addr, "/api/v1/breakers/orders").json();
    assert_eq!(shown["state"], "half_open");
    assert_eq!(shown["probes_free"], 1);
    let mut names = keys(&shown);
    names.retain(|name| {
        get(addr, "/api/v1/breakers").json()["breakers"][0]
            .get(name)
            .is_none()
    });
    assert_eq!(
        names,
        [
            "calls",
            "limit",
            "matching",
            "next_offset",
            "offset",
            "transition_counts",
            "transitions"
        ],
        "besides what the list has"
    );
    let [half_open, open] = &shown["transitions"].as_array().unwrap()[..] else {
        panic!("{shown}");
    };
    assert_eq!(half_open["from"], "open");
    assert_eq!(half_open["to"], "half_open");
    assert_eq!(half_open["reason"], "wait_elapsed");
    assert_eq!(open["to"], "open");
    assert_eq!(open["ago_s"], 10.0);
    assert!(open["at"].as_str().unwrap() < half_open["at"].as_str().unwrap());
    assert_eq!(
        open["evidence"],
        json!({
            "calls": 4, "failures": 3, "slow": 1, "slow_failures": 0, "failure_percent": 75.0,
            "slow_percent": 25.0, "rejected": 0, "generation": 1, "attempt": 1, "open_for_s": 10.0,
        })
    );
    assert_eq!(
        shown["transition_counts"],
        json!([
            {"from": "closed", "to": "open", "reason": "failure_rate", "count": 1},
            {"from": "open", "to": "half_open", "reason": "wait_elapsed", "count": 1},
        ])
    );
    let calls = shown["calls"].as_array().unwrap();
    let flags = |call: &Value| {
        let flag = |name: &'static str| call[name].as_bool().unwrap().then_some(name);
        let flags = ["slow", "probe", "stale"].into_iter().filter_map(flag);
        let outcome = call["outcome"].as_str().unwrap().to_owned();
        flags.fold(outcome, |text, flag| format!("{text} {flag}"))
    };
    let flags: Vec<_> = calls.iter().map(flags).collect();
    assert_eq!(flags[0], "failure probe");
    assert!(
        flags[1..3].contains(&"success slow stale".to_owned()),
        "{flags:?}"
    );
    assert_eq!(flags[3..], ["failure", "failure", "success slow"]);
    assert_eq!(
        keys(&calls[5]),
        [
            "ago_s",
            "duration_ms",
            "ended_at",
            "outcome",
            "probe",
            "slow",
            "stale"
        ]
    );
    assert_eq!(calls[5]["duration_ms"], 2_000.0);
    let ago = calls[5]["ago_s"].as_f64().unwrap();
    assert!((13.0..13.001).contains(&ago), "{ago}");
    assert_eq!(
        (
            &shown["matching"],
            &shown["offset"],
            &shown["limit"],
            &shown["next_offset"]
        ),
        (&json!(6), &json!(0), &json!(100), &Value::Null)
    );
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn calls_are_shown_in_pages_and_by_what_they_were() {
    let breakers = Breakers::new();
    let (control, addr) = start(&breakers);
    let orders = breaker(&breakers, "orders");
    orders.metrics_only();
    for outcome in [Outcome::Success, Outcome::Failure] {
        slow_call(&orders, outcome).await;
    }
    for outcome in [Outcome::Ignore, Outcome::Success, Outcome::Failure] {
        advance(SECOND).await;
        call(&orders, outcome);
    }
    advance(SECOND).await;
    drop(orders.try_acquire().unwrap());

    let all = [
        "dropped",
        "failure",
        "success",
        "ignored",
        "slow failure",
        "slow success",
    ];
    let shows = |query: &str, calls: &[&str], matching: u64, next: Option<u64>| {
        let (shown, of, at) = page(addr, query);
        assert_eq!(shown, calls, "{query}");
        assert_eq!((of, at), (matching, next), "{query}");
    };
    shows("", &all, 6, None);
    shows("?", &all, 6, None);
    shows("?limit=4", &all[..4], 6, Some(4));
    shows("?limit=4&offset=4", &all[4..], 6, None);
    shows("?offset=2&limit=4", &all[2..], 6, None);
    shows("?offset=6", &[], 6, None);
    shows("?offset=18446744073709551615", &[], 6, None);
    shows("?limit=1000", &all, 6, None);
    shows("?outcome=failure", &["failure", "slow failure"], 2, None);
    shows("?outcome=failure&limit=1", &["failure"], 2, Some(1));
    shows("?outcome=failure&slow=true", &["slow failure"], 1, None);
    shows("?slow=false", &all[..4], 4, None);
    shows("?outcome=ignored", &["ignored"], 1, None);
    shows("?outcome=dropped", &["dropped"], 1, None);
    shows("?within=1.5", &all[..2], 2, None);
    shows(
        "?within=60&outcome=success",
        &["success", "slow success"],
        2,
        None,
    );

    // The limit is that of transitions, too.
    orders.close();
    orders.force_open();
    let shown = get(addr, "/api/v1/breakers/orders?limit=2").json();
    let transitions = shown["transitions"].as_array().unwrap();
    let to: Vec<_> = transitions
        .iter()
        .map(|t| t["to"].as_str().unwrap())
        .collect();
    assert_eq!(to, ["forced_open", "closed"]);
    assert_eq!(shown["history"]["transitions"], 3);
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_means_nothing_is_named_with_its_value_and_the_remedy() {
    let breakers = Breakers::new();
    let (control, addr) = start(&breakers);
    let _orders = breaker(&breakers, "orders");
    let limit = "use a whole number from 1 to 1000";
    let offset = "use a whole number from 0";
    let outcome = "use one of success, failure, ignored, dropped";
    let slow = "use true or false";
    let within = "use seconds, 60 or 0.5 say";
    for (query, named) in [
        ("limit=0", format!("`limit` is \"0\": {limit}")),
        ("limit=1001", format!("`limit` is \"1001\": {limit}")),
        ("limit=+1", format!("`limit` is \"+1\": {limit}")),
        ("limit=", format!("`limit` is \"\": {limit}")),
        ("limit", format!("`limit` is \"\": {limit}")),
        ("offset=-1", format!("`offset` is \"-1\": {offset}")),
        (
            "offset=99999999999999999999",
            format!("`offset` is \"99999999999999999999\": {offset}"),
        ),
        (
            "outcome=stale",
            format!("`outcome` is \"stale\": {outcome}"),
        ),
        ("slow=yes", format!("`slow` is \"yes\": {slow}")),
        ("within=-1", format!("`within` is \"-1\": {within}")),
        ("within=+1", format!("`within` is \"+1\": {within}")),
        ("within=1e3", format!("`within` is \"1e3\": {within}")),
        ("within=inf", format!("`within` is \"inf\": {within}")),
        ("within=NaN", format!("`within` is \"NaN\": {within}")),
        ("within=.", format!("`within` is \".\": {within}")),
        (
            "within=99999999999999999999",
            format!("`within` is \"99999999999999999999\": {within}"),
        ),
        (
            "limit=5&limit=6",
            "`limit` is given twice, \"6\" the last time: once will do".to_owned(),
        ),
        (
            "limit=5&colour=red",
            "`colour` is \"red\": there is no such parameter, \
             use limit, offset, outcome, slow, within"
                .to_owned(),
        ),
    ] {
        let answer = get(addr, &format!("/api/v1/breakers/orders?{query}"));
        assert_eq!(answer.problem(400, "Bad Request"), named, "{query}");
    }
    for (method, path) in [
        ("GET", "/api/v1/breakers"),
        ("POST", "/api/v1/breakers/cleanup"),
        ("POST", "/api/v1/breakers/orders/force-open"),
    ] {
        let answer = ask(addr, method, &format!("{path}?for=30"), "");
        let detail = answer.problem(400, "Bad Request");
        assert_eq!(
            detail,
            "`for` is \"30\": this takes no parameters, leave it out"
        );
    }
    assert_eq!(breakers.get("orders").unwrap().state(), State::Closed);
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_is_told_what_to_do_and_the_answer_is_what_became_of_it() {
    let breakers = Breakers::new();
    let (control, addr) = start(&breakers);
    let orders = breaker(&breakers, "orders");
    for (action, state) in [
        ("force-open", State::ForcedOpen),
        ("half-open", State::HalfOpen),
        ("open", State::Open),
        ("close", State::Closed),
        ("disable", State::Disabled),
        ("metrics-only", State::MetricsOnly),
        ("reset", State::Closed),
    ] {
        let answer = post(addr, &format!("/api/v1/breakers/orders/{action}"));
        assert_eq!(answer.status, 200, "{action}: {answer:?}");
        let told = answer.json();
        assert_eq!(told["name"], "orders");
        assert_eq!(told["state"], state.as_str(), "{action}");
        assert_eq!(told["reason"], "manual");
        assert_eq!(told.get("removed"), None);
        assert_eq!(orders.state(), state, "{action}");
    }
    // A reset forgets what a close does not.
    call(&orders, Outcome::Failure);
    post(addr, "/api/v1/breakers/orders/close");
    assert_eq!(orders.snapshot().window.failures, 1);
    let reset = post(addr, "/api/v1/breakers/orders/reset").json();
    assert_eq!(reset["window"]["failures"], 0);
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_state_that_makes_no_sense_is_a_conflict() {
    let breakers = Breakers::new();
    let (control, addr) = start(&breakers);
    let orders = breaker(&breakers, "orders");
    let conflict = |action: &str| {
        let answer = post(addr, &format!("/api/v1/breakers/orders/{action}"));
        answer.problem(409, "Conflict")
    };
    assert_eq!(
        conflict("half-open"),
        "circuit breaker orders cannot go from closed to half_open: open it first"
    );
    orders.metrics_only();
    for (action, to) in [("open", "open"), ("half-open", "half_open")] {
        assert_eq!(
            conflict(action),
            format!("circuit breaker orders cannot go from metrics_only to {to}: disable it first")
        );
    }
    assert_eq!(orders.state(), State::MetricsOnly);
    // The remedies are some.
    for (remedy, action) in [
        ("disable", "half-open"),
        ("disable", "open"),
        ("close", "open"),
    ] {
        for told in [remedy, action] {
            let answer = post(addr, &format!("/api/v1/breakers/orders/{told}"));
            assert_eq!(answer.status, 200, "{told}");
        }
    }
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_cleaned_up_in_one_breaker_or_in_all() {
    let breakers = Breakers::new();
    let (control, addr) = start(&breakers);
    let (audit, orders) = (breaker(&breakers, "audit"), breaker(&breakers, "orders"));
    let fill = async || {
        call(&audit, Outcome::Success);
        call(&orders, Outcome::Success);
        call(&orders, Outcome::Success);
        advance(2 * MINUTE).await;
    };
    fill().await;
    let cleaned = post(addr, "/api/v1/breakers/orders/cleanup").json();
    assert_eq!(cleaned["name"], "orders");
    assert_eq!(cleaned["removed"], json!({"expired": 2}));
    assert_eq!(cleaned["history"]["calls"], 0);
    assert_eq!(cleaned["history"]["last_sweep_ago_s"], 0.0);
    let again = post(addr, "/api/v1/breakers/orders/cleanup").json();
    assert_eq!(again["removed"], json!({}));
    assert_eq!(
        audit.history_usage().calls,
        1,
        "the other one was left alone"
    );

    fill().await;
    let cleaned = post(addr, "/api/v1/breakers/cleanup");
    assert_eq!(cleaned.status, 200);
    assert_eq!(
        cleaned.json(),
        json!({"cleaned": [
            {"name": "audit", "removed": {"expired": 2}},
            {"name": "orders", "removed": {"expired": 2}},
        ]})
    );
    assert_eq!(audit.history_usage().calls, 0);
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_is_found_by_whatever_name_it_has() {
    let breakers = Breakers::new();
    let (control, addr) = start(&breakers);
    for (name, path) in [
        ("plain", "%70lain"),
        ("qa/sql", "qa%2Fsql"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("a b%", "a%20b%25"),
        ("..", ".."),
        ("reset", "reset"),
        // What cleans all of them up has the same path, by another method.
        ("cleanup", "cleanup"),
    ] {
        let breaker = breaker(&breakers, name);
        let shown = get(addr, &format!("/api/v1/breakers/{path}?limit=1"));
        assert_eq!(shown.status, 200, "{name}: {shown:?}");
        assert_eq!(shown.json()["name"], name);
        assert_eq!(shown.json()["limit"], 1);
        for action in ["cleanup", "force-open"] {
            let answer = post(addr, &format!("/api/v1/breakers/{path}/{action}"));
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
            assert_eq!(answer.json()["name"], name);
        }
        assert_eq!(breaker.state(), State::ForcedOpen);
        drop(breaker);
        assert_eq!(get(addr, &format!("/api/v1/breakers/{path}")).status, 404);
    }
    let cleaned = post(addr, "/api/v1/breakers/cleanup").json();
    assert_eq!(cleaned, json!({"cleaned": []}));
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_named() {
    let breakers = Breakers::new();
    let (control, addr) = start(&breakers);
    let orders = breaker(&breakers, "orders");
    drop(breaker(&breakers, "gone"));
    for (method, path, name) in [
        ("GET", "gone", "gone"),
        ("GET", "cleanup", "cleanup"),
        ("POST", "gone/reset", "gone"),
        ("POST", "qa%2Fsql/cleanup", "qa/sql"),
        ("POST", "%22%3Cb%3E/open", "\\\"<b>"),
    ] {
        let answer = ask(addr, method, &format!("/api/v1/breakers/{path}"), "");
        assert_eq!(
            answer.problem(404, "Not Found"),
            format!("no circuit breaker is named \"{name}\": GET /api/v1/breakers lists them")
        );
    }
    let answer = post(addr, "/api/v1/breakers/orders/force_open");
    assert_eq!(
        answer.problem(404, "Not Found"),
        "\"force_open\" cannot be done to a circuit breaker: use one of cleanup, close, disable, \
         force-open, half-open, metrics-only, open, reset"
    );
    assert_eq!(orders.state(), State::Closed);
    for path in ["%FF", "%FF/open", "orders/%FF"] {
        let method = if path.contains('/') { "POST" } else { "GET" };
        let answer = ask(addr, method, &format!("/api/v1/breakers/{path}"), "");
        let detail = answer.problem(400, "Bad Request");
        assert!(detail.contains("UTF-8"), "{detail}");
    }
    for path in [
        "/api/v1/breakers/",
        "/api/v1/breakers//",
        "/api/v1/breakers/orders/",
    ] {
        get(addr, path).problem(404, "Not Found");
    }
    for (method, path, allow) in [
        ("POST", "/api/v1/breakers", "GET,HEAD"),
        ("DELETE", "/api/v1/breakers/orders", "GET,HEAD"),
        ("POST", "/api/v1/breakers/orders", "GET,HEAD"),
        ("GET", "/api/v1/breakers/orders/reset", "POST"),
        ("DELETE", "/api/v1/breakers/cleanup", "GET,HEAD,POST"),
    ] {
        let answer = ask(addr, method, path, "");
        answer.problem(405, "Method Not Allowed");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_see_and_operate_nothing() {
    const ROUTES: [(&str, &str); 4] = [
        ("GET", "/api/v1/breakers"),
        ("GET", "/api/v1/breakers/orders"),
        ("POST", "/api/v1/breakers/orders/force-open"),
        ("POST", "/api/v1/breakers/cleanup"),
    ];
    let breakers = Breakers::new();
    let orders = breaker(&breakers, "orders");
    let (control, addr) = start_with(ControlConfig::new().breakers(breakers.clone()).token(TOKEN));
    for (method, path) in ROUTES {
        ask(addr, method, path, "").problem(401, "Unauthorized");
    }
    assert_eq!(orders.state(), State::Closed);
    for (method, path) in ROUTES {
        let right = format!("Authorization: Bearer {TOKEN}\r\n");
        assert_eq!(ask(addr, method, path, &right).status, 200, "{path}");
    }
    assert_eq!(orders.state(), State::ForcedOpen);
    control.stop().await;

    orders.close();
    let (control, addr) = start(&breakers);
    for (method, path) in ROUTES {
        for header in ["Origin: http://evil.example", "Host: evil.example"] {
            let answer = ask(addr, method, path, &format!("{header}\r\n"));
            answer.problem(403, "Forbidden");
        }
    }
    let cross_site = "Sec-Fetch-Site: cross-site\r\n";
    let answer = ask(
        addr,
        "POST",
        "/api/v1/breakers/orders/force-open",
        cross_site,
    );
    answer.problem(403, "Forbidden");
    assert_eq!(orders.state(), State::Closed);
    control.stop().await;
}

#[test]
fn without_a_directory_there_are_no_breakers() {
    let _alone = alone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let (control, addr) = start_with(ControlConfig::new());
    assert_eq!(
        get(addr, "/api/v1/breakers").json(),
        json!({"breakers": []})
    );
    let body = get(addr, "/metrics").body;
    assert!(body.contains("\nplimsoll_breakers_stale 0\n"), "{body}");
    runtime.block_on(control.stop());
}

#[test]
fn a_scrape_tells_of_breakers_as_they_are_now() {
    let _alone = alone();
    let runtime = paused_runtime();
    let _inside = runtime.enter();
    let breakers = Breakers::new();
    let (control, addr) = start(&breakers);
    let scraped = breaker(&breakers, "scraped");
    let series = |name: &str, labels: &str| {
        let body = get(addr, "/metrics").body;
        let line = format!("plimsoll_breaker_{name}{{breaker=\"scraped\"{labels}}} ");
        let found = body.lines().find_map(|found| found.strip_prefix(&line));
        let value = found.unwrap_or_else(|| panic!("{line}\n{body}"));
        value.parse::<f64>().unwrap()
    };
    let states = || {
        let value = |state: &State| series("state", &format!(",state=\"{state}\""));
        let states = State::ALL.map(|state| value(&state));
        let mut is_in = State::ALL.into_iter().zip(states);
        assert_eq!(states.iter().sum::<f64>(), 1.0, "{states:?}");
        is_in.find(|(_, value)| *value == 1.0).unwrap().0
    };
    for _ in 0..4 {
        call(&scraped, Outcome::Failure);
    }
    assert_eq!(states(), State::Open);
    scraped.try_acquire().unwrap_err();
    runtime.block_on(advance(10 * SECOND));
    assert_eq!(states(), State::HalfOpen);
    for _ in 0..2 {
        call(&scraped, Outcome::Success);
    }
    assert_eq!(states(), State::Closed);
    assert_eq!(series("calls_total", ",outcome=\"failure\""), 4.0);
    assert_eq!(series("calls_total", ",outcome=\"success\""), 2.0);
    assert_eq!(series("rejected_total", ",reason=\"open\""), 1.0);
    let labels = ",from=\"half_open\",to=\"closed\",reason=\"probes_succeeded\"";
    assert_eq!(series("transitions_total", labels), 1.0);

    let body = get(addr, "/metrics").body;
    let mut undescribed = body.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let undescribed = undescribed.find(|line| {
        let name = line.split(' ').next().unwrap();
        name.starts_with("plimsoll_breaker") && !body.contains(&format!("# HELP {name} "))
    });
    assert_eq!(undescribed, None);
    assert!(
        body.contains("# TYPE plimsoll_breaker_state gauge\n"),
        "{body}"
    );
    assert!(
        body.contains("# TYPE plimsoll_breaker_calls_total counter\n"),
        "{body}"
    );

    drop(scraped);
    let body = get(addr, "/metrics").body;
    let line = "plimsoll_breaker_state{breaker=\"scraped\",state=\"closed\"} 0";
    assert!(body.lines().any(|found| found == line), "{body}");
    runtime.block_on(control.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_an_observer_spawns_runs_on_the_runtime_of_the_service() {
    let breakers = Breakers::new();
    let (control, addr) = start(&breakers);
    let orders = breaker(&breakers, "orders");
    let (threads_tx, threads) = mpsc::channel();
    let observer = move |_: &Event| {
        let threads = threads_tx.clone();
        tokio::spawn(async move {
            threads
                .send(thread::current().name().map(str::to_owned))
                .unwrap();
        });
    };
    orders.observe(observer).unwrap();
    let answer = post(addr, "/api/v1/breakers/orders/force-open");
    assert_eq!(answer.status, 200);
    let thread = threads.recv_timeout(MINUTE).unwrap();
    assert_ne!(thread.as_deref(), Some("plimsoll-control"));
    control.stop().await;
}

#[test]
fn a_breaker_that_hangs_is_left_out_of_a_scrape() {
    let _alone = alone();
    let runtime = paused_runtime();
    let _inside = runtime.enter();
    let breakers = Breakers::new();
    let (control, addr) = start(&breakers);
    let hanging = breaker(&breakers, "hanging");
    hanging.open().unwrap();
    let (release, hang) = mpsc::channel::<()>();
    let hang = Mutex::new(hang);
    let observer = move |_: &Event| {
        let _ = hang.lock().unwrap().recv();
    };
    hanging.observe(observer).unwrap();
    // The scrape is the first to see that the wait is over, and tells the observer.
    runtime.block_on(advance(10 * SECOND));
    let body = get(addr, "/metrics").body;
    assert!(body.contains("\nplimsoll_breakers_stale 1\n"), "{body}");
    assert!(body.contains("\nplimsoll_holdings_stale 0\n"), "{body}");
    assert_eq!(get(addr, "/metrics").status, 200);

    drop(release);
    let scrapes = (0..100_000).map(|_| get(addr, "/metrics").body);
    let fresh = scrapes
        .into_iter()
        .find(|body| body.contains("\nplimsoll_breakers_stale 0\n"));
    let line = "plimsoll_breaker_state{breaker=\"hanging\",state=\"half_open\"} 1\n";
    assert!(fresh.unwrap().contains(line));
    runtime.block_on(control.stop());
}
