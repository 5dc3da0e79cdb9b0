//! The HTTP API, through the router in process.

use adapter_gateway::{
    adapters::{Adapter, Adapters, Answering, Found},
    api::{self, Gateway},
    body::MAX_BODY_BYTES,
    corpus::Passage,
    flaky::Flaky,
};
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::channel::Channel;
use serde_json::{Value, json};
use std::{convert::Infallible, future, sync::Arc};
use tower::ServiceExt as _;

/// Answers with its own name, or panics if that is its name.
#[derive(Debug)]
struct Echo(&'static str);

impl Adapter for Echo {
    fn name(&self) -> &'static str {
        self.0
    }

    fn ask<'a>(&'a self, question: &'a str) -> Answering<'a> {
        assert_ne!(self.0, "panics", "told to");
        let passage = Passage {
            text: question.to_owned(),
            source: self.0.to_owned(),
        };
        Box::pin(future::ready(Ok(vec![Found {
            passage,
            score: 1.0,
        }])))
    }

    fn by_default(&self) -> bool {
        self.0 != "panics"
    }
}

fn app() -> Router {
    let flaky = Arc::new(Flaky::default());
    let known: [Arc<dyn Adapter>; 4] = [
        Arc::new(Echo("one")),
        Arc::new(Echo("two")),
        Arc::new(Echo("panics")),
        flaky.clone(),
    ];
    api::router(Gateway {
        adapters: Adapters::new(known).expect("valid circuits"),
        flaky,
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
    // The second call is the one that fails.
    let reply = ask(&app, body).await;
    assert_eq!(keys(&reply["failures"]), ["demo-flaky"]);
}

#[tokio::test(start_paused = true)]
async fn answers_are_partial_when_adapters_fail_panic_or_hang() {
    let body = json!({"question": "why?", "adapters": ["one", "panics", "demo-flaky"]});
    for (mode, error, retry_after) in [
        ("fail", "demo-flaky was told to fail", json!(2)),
        ("hang", "no answer within 2s", Value::Null),
    ] {
        // One for each, since the circuit of an adapter that asks to be left alone is open.
        let app = app();
        set_faults(&app, mode).await;
        let reply = ask(&app, body.clone()).await;
        assert_eq!(keys(&reply["answers"]), ["one"]);
        let expected = json!({
            "demo-flaky": {"error": error, "retry_after_s": retry_after},
            "panics": {"error": "the adapter panicked", "retry_after_s": null},
        });
        assert_eq!(reply["failures"], expected);
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
    for path in ["/asks", "/ask/", "/demo", "/%ff%00"] {
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
    assert!(page.contains("one, two, panics, demo-flaky"), "{page}");
}
