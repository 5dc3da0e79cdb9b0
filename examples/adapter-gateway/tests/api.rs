//! The HTTP API, through the router in process.

mod common;

use self::common::Put;
use adapter_gateway::{
    adapters::{self, Adapter, Kind},
    api::{self, Gateway},
    body::MAX_BODY_BYTES,
    corpus::Passage,
    flaky::Flaky,
    question::{Failure, Found, Question, judge},
};
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::channel::Channel;
use plimsoll::{BudgetMode, CircuitBreakerConfig, HistoryConfig, TrackingAllocator};
use serde_json::{Value, json};
use std::{convert::Infallible, future, time::Duration};
use tokio::time::{Instant, advance, timeout};
use tower::ServiceExt as _;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const DEADLINE: Duration = Duration::from_secs(5);

/// Answers with its own name, or panics if that is its name.
fn echo(name: &'static str) -> Adapter {
    let answer = move |question: Question| {
        assert_ne!(name, "panics", "told to");
        let passage = Passage {
            text: question.as_str().to_owned(),
            source: name.to_owned(),
        };
        let found = Found {
            passage,
            score: 1.0,
        };
        future::ready(Ok::<_, Failure>(vec![found]))
    };
    let builder = plimsoll::Adapter::builder(name).classify(judge);
    builder.function(answer).expect("valid limits")
}

fn app() -> Router {
    app_of(&Put::new())
}

/// Three stubs and `demo-flaky` are put among those that are known.
fn app_of(known: &Put) -> Router {
    let flaky = Flaky::default();
    for name in ["one", "two", "panics"] {
        known.put(echo(name), name != "panics");
    }
    let kind = Kind::Flaky(flaky.clone());
    let limits =
        plimsoll::Adapter::builder("demo-flaky").circuit_breaker(CircuitBreakerConfig::local());
    let demo = adapters::build(limits, kind).expect("valid limits");
    known.put(demo, false);
    api::router(Gateway {
        known: (**known).clone(),
        flaky,
        deadline: DEADLINE,
    })
}

fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.into())
        .expect("a valid request")
}

async fn send(app: &Router, request: Request<Body>) -> Response<Body> {
    app.clone().oneshot(request).await.expect("infallible")
}

async fn json_of(response: Response<Body>) -> Value {
    let bytes = to_bytes(response.into_body(), usize::MAX)
        .await
        .expect("a body");
    serde_json::from_slice(&bytes).expect("JSON")
}

async fn ask(app: &Router, body: Value) -> Value {
    let response = send(app, post("/ask", body.to_string())).await;
    assert_eq!(response.status(), StatusCode::OK);
    json_of(response).await
}

fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().expect("an object");
    object.keys().map(String::as_str).collect()
}

/// Sends what must be refused, checks the form of the refusal, and gives its detail.
async fn refused(request: Request<Body>, status: StatusCode) -> String {
    let app = app();
    let response = send(&app, request).await;
    assert_eq!(response.status(), status);
    let content_type = &response.headers()[header::CONTENT_TYPE];
    assert_eq!(content_type, "application/problem+json");
    let problem = json_of(response).await;
    assert_eq!(keys(&problem), ["detail", "status", "title", "type"]);
    assert_eq!(problem["type"], "about:blank");
    assert_eq!(
        problem["title"],
        status.canonical_reason().expect("a known status")
    );
    assert_eq!(problem["status"], status.as_u16());
    // The service goes on afterwards.
    ask(&app, json!({"question": "still there?"})).await;
    problem["detail"].as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn all_default_adapters_are_asked_when_none_is_named() {
    for body in [
        json!({"question": " why? "}),
        json!({"question": "why?", "adapters": null}),
    ] {
        let reply = ask(&app(), body).await;
        assert_eq!(keys(&reply), ["answers", "failures"]);
        assert_eq!(keys(&reply["answers"]), ["one", "two"]);
        assert_eq!(reply["answers"]["one"]["passages"][0]["text"], "why?");
        assert_eq!(reply["failures"], json!({}));
    }
}

#[tokio::test]
async fn named_adapters_are_asked_once() {
    let app = app();
    set_faults(&app, "flaky").await;
    let names = ["demo-flaky", "two", "demo-flaky", "demo-flaky"];
    let body = json!({"question": "why?", "adapters": names});
    let reply = ask(&app, body.clone()).await;
    assert_eq!(keys(&reply["answers"]), ["demo-flaky", "two"]);
    assert_eq!(reply["failures"], json!({}));
    // The second call is the one that fails.
    let reply = ask(&app, body).await;
    assert_eq!(keys(&reply["failures"]), ["demo-flaky"]);
}

#[tokio::test(start_paused = true)]
async fn answers_are_partial_when_adapters_fail_panic_or_hang() {
    let body = json!({"question": "why?", "adapters": ["one", "panics", "demo-flaky"]});
    for (mode, error, kind, retry_after) in [
        ("fail", "demo-flaky was told to fail", "failed", json!(2)),
        ("hang", "no answer within 2s", "timed_out", Value::Null),
    ] {
        // One for each, since the circuit of an adapter that asks to be left alone is open.
        let app = app();
        set_faults(&app, mode).await;
        let reply = ask(&app, body.clone()).await;
        assert_eq!(keys(&reply["answers"]), ["one"]);
        let expected = json!({
            "demo-flaky": {"error": error, "kind": kind, "retry_after_s": retry_after},
            "panics": {
                "error": "the adapter panicked",
                "kind": "panicked",
                "retry_after_s": null,
            },
        });
        assert_eq!(reply["failures"], expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_waits_too_long_in_line_is_cut_off_at_the_deadline() {
    let known = Put::new();
    let app = app_of(&known);
    let patient = plimsoll::Adapter::builder("patient").timeout(2 * DEADLINE);
    let hang = |_: Question| future::pending::<Result<Vec<Found>, Failure>>();
    known.put(patient.function(hang).expect("valid limits"), true);
    let start = Instant::now();
    let reply = ask(&app, json!({"question": "why?"})).await;
    assert_eq!(start + DEADLINE, Instant::now());
    assert_eq!(keys(&reply["answers"]), ["one", "two"]);
    let late = json!({"error": "no answer within 5s", "kind": "timed_out", "retry_after_s": null});
    assert_eq!(reply["failures"], json!({"patient": late}));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_cancels_its_calls() {
    let known = Put::new();
    let app = app_of(&known);
    set_faults(&app, "hang").await;
    let body = json!({"question": "why?", "adapters": ["demo-flaky", "one"]});
    let request = || send(&app, post("/ask", body.to_string()));
    let soon = Duration::from_millis(500);
    {
        let mut gone = std::pin::pin!(request());
        assert!(timeout(soon, gone.as_mut()).await.is_err());
        let held = known.all().get("demo-flaky").expect("known").snapshot();
        assert_eq!((held.in_flight, held.breaker.in_flight), (1, 1));
    }
    for name in ["demo-flaky", "one"] {
        let left = known.all().get(name).expect("known").snapshot();
        assert_eq!(
            (left.in_flight, left.queued, left.breaker.in_flight),
            (0, 0, 0),
            "{name}"
        );
    }
    let left = known.all().get("demo-flaky").expect("known").snapshot();
    assert_eq!((left.cancelled, left.timed_out), (1, 0));
}

#[tokio::test]
async fn adapters_that_come_and_go_are_asked_and_named_as_they_are_now() {
    let known = Put::new();
    let app = app_of(&known);
    let names = |reply: &Value| keys(&reply["answers"]).join(" ");
    let all = json!({"question": "why?"});
    known.put(echo("three"), true);
    assert_eq!(names(&ask(&app, all.clone()).await), "one three two");
    // Another of that name takes its place, whoever asks.
    let fails = |_: Question| future::ready(Err::<Vec<Found>, _>(Failure::new("new")));
    let builder = plimsoll::Adapter::builder("one");
    known.put(builder.function(fails).expect("valid limits"), true);
    let reply = ask(&app, all.clone()).await;
    assert_eq!(reply["failures"]["one"]["error"], "new");
    known.put(echo("one"), true);
    // No longer by default, but by its name.
    known.put(echo("three"), false);
    assert_eq!(names(&ask(&app, all.clone()).await), "one two");
    let named = json!({"question": "why?", "adapters": ["three"]});
    assert_eq!(names(&ask(&app, named.clone()).await), "three");
    assert!(known.all().remove("three").is_some());
    assert!(known.all().remove("one").is_some());
    assert!(known.all().remove("three").is_none());
    assert_eq!(names(&ask(&app, all).await), "two");
    let response = send(&app, post("/ask", named.to_string())).await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let detail = json_of(response).await["detail"].to_string();
    assert!(
        detail.contains("`three`: choose from two, panics, demo-flaky"),
        "{detail}"
    );
}

async fn fetch(app: &Router, path: &str) -> Value {
    let request = Request::get(path).body(Body::empty()).expect("valid");
    let response = send(app, request).await;
    assert_eq!(response.status(), StatusCode::OK);
    json_of(response).await
}

async fn clean_up(app: &Router, path: &str) -> Response<Body> {
    let request = Request::post(path).body(Body::empty()).expect("valid");
    send(app, request).await
}

#[tokio::test(start_paused = true)]
async fn adapters_are_told_with_their_limits_counts_and_memory() {
    let app = app();
    set_faults(&app, "fail").await;
    let body = json!({"question": "why?", "adapters": ["one", "panics", "demo-flaky"]});
    for _ in 0..3 {
        ask(&app, body.clone()).await;
    }
    let status = fetch(&app, "/adapters").await;
    assert_eq!(keys(&status), ["adapters", "memory"]);
    let adapters = status["adapters"].as_array().expect("a list");
    let names: Vec<_> = adapters.iter().map(|adapter| &adapter["name"]).collect();
    assert_eq!(names, ["one", "two", "panics", "demo-flaky"]);
    let counts = |succeeded: u64, failed: u64, panicked: u64, rejected: Value| {
        json!({
            "succeeded": succeeded, "failed": failed, "timed_out": 0, "panicked": panicked,
            "rejected": rejected, "cancelled": 0, "retries": 0,
        })
    };
    let limits = json!({"in_flight": 64, "queued": 64, "queued_bytes": null, "memory": null});
    let one = json!({
        "name": "one", "by_default": true, "state": "closed", "retry_after_s": null,
        "in_flight": 0, "queued": 0, "queued_bytes": 0, "limits": limits,
        "counts": counts(3, 0, 0, json!({})), "memory": null,
    });
    // What calls took is told of those that were called.
    let took = adapters[0]["memory"].clone();
    let names = [
        "allocated_bytes",
        "over_budget",
        "peak_max_bytes",
        "peak_p95_bytes",
    ];
    assert_eq!(keys(&took)[..4], names);
    assert_eq!(keys(&took)[4..], ["refused", "retained_bytes"]);
    let allocated = took["allocated_bytes"].as_u64();
    assert!(allocated > Some(0) && took["peak_max_bytes"].as_u64() <= allocated);
    assert_eq!(
        (&took["over_budget"], &took["refused"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(adapters[1]["memory"], Value::Null);
    let mut told = adapters[0].clone();
    told["memory"] = Value::Null;
    assert_eq!(told, one);
    assert_eq!(adapters[2]["counts"], counts(0, 0, 3, json!({})));
    assert_eq!(adapters[3]["by_default"], false);
    assert_eq!(adapters[3]["state"], "open");
    assert_eq!(adapters[3]["retry_after_s"], 2.0);
    let refused = json!({"circuit_open": 2});
    assert_eq!(adapters[3]["counts"], counts(0, 1, 0, refused));

    let memory = &status["memory"];
    // Three by each that was called, but one by demo-flaky, which opened its circuit.
    assert_eq!(memory["calls"], 7);
    assert_eq!(memory["transitions"], 1);
    assert_eq!(memory["records"], 8);
    assert_eq!(memory["max_records"], 10_000);
    let histories = memory["adapters"].as_array().expect("a list");
    let bytes = histories.iter().map(|history| &history["bytes"]);
    let bytes: u64 = bytes.map(|bytes| bytes.as_u64().expect("bytes")).sum();
    assert_eq!(memory["bytes"], bytes);
    let mut demo = histories[3].clone();
    assert!(demo["bytes"].as_u64() > Some(0));
    demo["bytes"] = json!(null);
    let expected = json!({
        "name": "demo-flaky", "calls": 1, "max_calls": 10_000, "transitions": 1,
        "max_transitions": 1_000, "bytes": null, "last_cleanup_ago_s": null,
        "cleanup_interval_s": 3_600.0, "retention_s": 86_400.0,
    });
    assert_eq!(demo, expected);
}

#[tokio::test(start_paused = true)]
async fn caps_that_are_none_are_null_and_calls_in_flight_and_in_line_are_told() {
    let known = Put::new();
    let app = app_of(&known);
    let history = HistoryConfig::local()
        .calls(0)
        .transitions(0)
        .retention(Duration::ZERO);
    let builder = plimsoll::Adapter::builder("narrow")
        .circuit_breaker(CircuitBreakerConfig::local().history(history))
        .max_in_flight(1)
        .max_queued(2)
        .memory_budget(10_000)
        .on_over_budget(BudgetMode::Enforce)
        .max_queued_bytes(100, |question: &Question| question.as_str().len() as u64);
    let hang = |_: Question| future::pending::<Result<Vec<Found>, Failure>>();
    known.put(builder.function(hang).expect("valid limits"), false);
    let body = json!({"question": "why?", "adapters": ["narrow"]});
    let ask = || send(&app, post("/ask", body.to_string()));
    let soon = Duration::from_millis(500);
    let wait = || timeout(soon, ask());
    let (_, _, _, status) = tokio::join!(wait(), wait(), wait(), async {
        advance(soon / 2).await;
        fetch(&app, "/adapters").await
    });
    let narrow = &status["adapters"][4];
    let held = (
        &narrow["in_flight"],
        &narrow["queued"],
        &narrow["queued_bytes"],
    );
    assert_eq!(held, (&json!(1), &json!(2), &json!(8)));
    let budget = json!({"bytes": 10_000, "mode": "enforce"});
    let limits = json!({"in_flight": 1, "queued": 2, "queued_bytes": 100, "memory": budget});
    assert_eq!(narrow["limits"], limits);
    let memory = &status["memory"]["adapters"][4];
    for cap in ["max_calls", "max_transitions", "retention_s"] {
        assert_eq!(memory[cap], Value::Null, "{cap}");
    }
}

#[tokio::test(start_paused = true)]
async fn cleanups_drop_what_is_too_old_of_one_adapter_or_of_all() {
    let app = app();
    for _ in 0..3 {
        ask(&app, json!({"question": "why?"})).await;
    }
    advance(Duration::from_secs(86_401)).await;
    let response = clean_up(&app, "/adapters/one/cleanup").await;
    assert_eq!(response.status(), StatusCode::OK);
    let expected = json!({"adapters": [{"name": "one", "removed": {"expired": 3}}]});
    assert_eq!(json_of(response).await, expected);
    let response = clean_up(&app, "/adapters/cleanup").await;
    assert_eq!(response.status(), StatusCode::OK);
    let expected = json!({"adapters": [
        {"name": "one", "removed": {}},
        {"name": "two", "removed": {"expired": 3}},
        {"name": "panics", "removed": {}},
        {"name": "demo-flaky", "removed": {}},
    ]});
    assert_eq!(json_of(response).await, expected);
    advance(Duration::from_secs(7)).await;
    let status = fetch(&app, "/adapters").await;
    assert_eq!(status["memory"]["calls"], 0);
    assert_eq!(status["memory"]["adapters"][1]["last_cleanup_ago_s"], 7.0);
}

#[tokio::test]
async fn cleanups_of_unknown_adapters_are_refused_with_the_known_ones() {
    for (path, quoted) in [
        ("/adapters/nine/cleanup", "`nine`"),
        ("/adapters/a%20b/cleanup", "`a b`"),
        ("/adapters/%ff/cleanup", "`/adapters/%ff/cleanup`"),
    ] {
        let request = Request::post(path).body(Body::empty()).expect("valid");
        let detail = refused(request, StatusCode::NOT_FOUND).await;
        let expected = format!("adapter {quoted} is unknown: choose from one, two, panics, demo");
        assert!(detail.starts_with(&expected), "{detail}");
    }
}

async fn set_faults(app: &Router, mode: &str) {
    let faults = json!({"mode": mode});
    let response = send(app, post("/demo/faults", faults.to_string())).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(json_of(response).await, faults);
}

#[tokio::test]
async fn every_fault_mode_can_be_set() {
    let app = app();
    for mode in ["ok", "slow", "fail", "hang", "flaky"] {
        set_faults(&app, mode).await;
    }
}

#[tokio::test]
async fn well_formed_json_that_asks_nothing_sensible_is_refused() {
    let long = json!({"question": "é".repeat(4_001)}).to_string();
    for (body, expected) in [
        (
            r#"{"question": ""}"#,
            &["question is blank", "1 to 4000"][..],
        ),
        (r#"{"question": " \t\n\u3000"}"#, &["question is blank"]),
        (
            &long,
            &["question has 4001 characters", "shorten it to 4000"],
        ),
        (
            r#"{"question": "?", "adapters": ["one", "nine"]}"#,
            &["adapters", "`nine`", "one, two, panics, demo-flaky"],
        ),
        (
            r#"{"question": "?", "adapters": []}"#,
            &["adapters is an empty list", "one, two", "leave the key out"],
        ),
        (
            r#"{"question": "?", "adapter": "one"}"#,
            &["unknown field `adapter`", "`question` or `adapters`"],
        ),
        (r#"{"adapters": ["one"]}"#, &["missing field `question`"]),
        (
            r#"{"question": 3}"#,
            &["question", "integer `3`", "a string"],
        ),
        (
            r#"{"question": "?", "adapters": ["one", 7]}"#,
            &["adapters[1]", "integer `7`", "a string"],
        ),
        (
            r#"{"question": "?", "question": "?"}"#,
            &["duplicate field `question`"],
        ),
        (r#"["why?"]"#, &["JSON list", "send one JSON object"]),
        (r#""why?""#, &["string \"why?\"", "GET /"]),
        ("null", &["null", "GET /"]),
    ] {
        let request = post("/ask", body.to_owned());
        let detail = refused(request, StatusCode::UNPROCESSABLE_ENTITY).await;
        for part in expected {
            assert!(detail.contains(part), "{part} not in {detail}");
        }
    }
}

#[tokio::test]
async fn longest_question_is_answered() {
    let question = "é".repeat(4_000);
    let reply = ask(&app(), json!({"question": question})).await;
    assert_eq!(reply["answers"]["one"]["passages"][0]["text"], question);
}

#[tokio::test]
async fn unknown_fault_modes_are_refused_with_the_known_ones() {
    let request = post("/demo/faults", r#"{"mode": "explode"}"#);
    let detail = refused(request, StatusCode::UNPROCESSABLE_ENTITY).await;
    for part in ["mode", "`explode`", "`fail`, `flaky`, `hang`, `ok`, `slow`"] {
        assert!(detail.contains(part), "{detail}");
    }
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused() {
    for body in [
        &b""[..],
        b"{",
        b"{\"question\": \"?\"",
        b"{\"question\": \"?\"} trailing",
        b"question=why",
        b"{\"question\": NaN}",
        b"{\"question\": \"\\ud800\"}",
    ] {
        let detail = refused(post("/ask", body), StatusCode::BAD_REQUEST).await;
        assert!(detail.contains("send one JSON object"), "{detail}");
    }
    let deep = "[".repeat(60_000);
    let app = app();
    assert!(
        send(&app, post("/ask", deep))
            .await
            .status()
            .is_client_error()
    );
}

#[tokio::test]
async fn bodies_that_are_not_utf_8_are_refused() {
    let request = post("/ask", &b"{\"question\": \"gr\xfc\xdfe\"}"[..]);
    let detail = refused(request, StatusCode::BAD_REQUEST).await;
    assert!(detail.contains("not UTF-8 from byte 16"), "{detail}");
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_at_any_size() {
    for size in [MAX_BODY_BYTES + 1, 10_000_000, 100_000_000] {
        let request = post("/ask", vec![b' '; size]);
        let detail = refused(request, StatusCode::PAYLOAD_TOO_LARGE).await;
        for part in [&*format!("{size} bytes"), "at most 65536"] {
            assert!(detail.contains(part), "{detail}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn body_over_the_limit_is_read_on_but_not_forever() {
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    let chunk = Bytes::from(vec![b' '; MAX_BODY_BYTES]);
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        while sender.send_data(chunk.clone()).await.is_ok() {
            sent += chunk.len();
        }
        sent
    });
    let request = post("/ask", Body::new(body));
    refused(request, StatusCode::PAYLOAD_TOO_LARGE).await;
    let sent = sending.await.unwrap();
    assert!((10_000_000..20_000_000).contains(&sent), "{sent} bytes");
}

#[tokio::test]
async fn body_at_the_limit_is_read() {
    let mut body = json!({"question": "why?"}).to_string();
    body.push_str(&" ".repeat(MAX_BODY_BYTES - body.len()));
    let response = send(&app(), post("/ask", body)).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn body_that_never_arrives_is_given_up() {
    let (_sender, silent) = Channel::<Bytes, Infallible>::new(1);
    let body = Body::new(silent);
    let detail = refused(post("/ask", body), StatusCode::REQUEST_TIMEOUT).await;
    assert!(detail.contains("within 10s"), "{detail}");
}

#[tokio::test]
async fn other_content_types_are_refused() {
    for value in [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "json",
    ] {
        let mut request = post("/ask", r#"{"question": "why?"}"#);
        request.headers_mut().remove(header::CONTENT_TYPE);
        if !value.is_empty() {
            let value = value.parse().unwrap();
            request.headers_mut().insert(header::CONTENT_TYPE, value);
        }
        let detail = refused(request, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
        let expected = format!("content-type is `{value}`: send `application/json`");
        assert_eq!(detail, expected);
    }
}

#[tokio::test]
async fn content_type_may_have_parameters() {
    let mut request = post("/ask", r#"{"question": "why?"}"#);
    let value = "Application/JSON; charset=utf-8".parse().unwrap();
    request.headers_mut().insert(header::CONTENT_TYPE, value);
    assert_eq!(send(&app(), request).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_ones() {
    for (method, path, allow) in [
        (Method::GET, "/ask", "POST"),
        (Method::DELETE, "/ask", "POST"),
        (Method::PUT, "/demo/faults", "POST"),
        (Method::DELETE, "/adapters", "GET,HEAD"),
        (Method::GET, "/adapters/cleanup", "POST"),
        (Method::GET, "/adapters/one/cleanup", "POST"),
        (Method::POST, "/", "GET,HEAD"),
    ] {
        let request = || {
            let request = Request::builder().method(&method).uri(path);
            request.body(Body::empty()).unwrap()
        };
        let response = send(&app(), request()).await;
        assert_eq!(response.headers()[header::ALLOW], allow);
        let detail = refused(request(), StatusCode::METHOD_NOT_ALLOWED).await;
        assert!(detail.contains(method.as_str()), "{detail}");
        assert!(detail.contains(path), "{detail}");
    }
}

#[tokio::test]
async fn unknown_paths_are_refused() {
    for path in ["/asks", "/ask/", "/demo", "/%ff%00", "/adapters/one"] {
        let detail = refused(post(path, "{}"), StatusCode::NOT_FOUND).await;
        assert!(detail.contains(path), "{detail}");
        assert!(detail.contains("GET /"), "{detail}");
    }
}

#[tokio::test]
async fn refusals_repeat_only_a_part_of_long_values() {
    let long = "x".repeat(60_000);
    for body in [
        json!({"question": "?", "adapters": [long]}),
        json!({"question": "?", long.clone(): 1}),
    ] {
        let request = post("/ask", body.to_string());
        let detail = refused(request, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert!(detail.len() < 400, "{} bytes", detail.len());
    }
}

#[tokio::test]
async fn front_page_shows_curl_lines_for_the_host_that_was_asked() {
    let request = Request::get("/")
        .header(header::HOST, "localhost:9999")
        .body(Body::empty())
        .unwrap();
    let response = send(&app(), request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let page = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(page.contains("curl http://localhost:9999/ask"), "{page}");
    let names = "by default (one, two), or those you name (one, two, panics, demo-flaky)";
    assert!(page.contains(names), "{page}");
    assert!(
        page.contains("curl http://localhost:9999/adapters"),
        "{page}"
    );
    for told in ["adapters.yaml", "--config", "POST /api/v1/config/reload"] {
        assert!(page.contains(told), "{page}");
    }
}
