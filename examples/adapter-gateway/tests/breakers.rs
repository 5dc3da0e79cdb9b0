//! What opens the circuit of an adapter, and what becomes of questions then.

use adapter_gateway::{
    adapters::{Adapter, Adapters, Answering, DEFAULT_TIMEOUT, Failure, Reply},
    api::{self, Gateway},
    breakers,
    chroma::Chroma,
    flaky::{Flaky, Mode},
    load,
};
use axum::{
    Router,
    body::{Body, to_bytes},
    routing::post,
};
use http::{HeaderMap, Request, StatusCode, header};
use plimsoll::breaker::{CircuitBreaker, CircuitBreakerConfig, Outcome, Reason, State};
use plimsoll::{Name, RejectReason, Rejected};
use serde_json::{Value, json};
use std::{
    future,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::TcpListener,
    time::{advance, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const SECOND: Duration = Duration::from_secs(1);

/// How long a circuit is open the first time, and after how many calls it may open.
const OPEN_FOR: Duration = Duration::from_secs(10);
const MINIMUM: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Answer,
    AskForPause(Duration),
    Fail,
    Hang,
    Panic,
    Refuse,
}

#[derive(Debug)]
struct Stub {
    name: &'static str,
    behaviour: Mutex<Behaviour>,
    asked: AtomicUsize,
}

impl Stub {
    fn new(name: &'static str, behaviour: Behaviour) -> Arc<Self> {
        Arc::new(Self {
            name,
            behaviour: Mutex::new(behaviour),
            asked: AtomicUsize::new(0),
        })
    }

    fn set(&self, behaviour: Behaviour) {
        *self.behaviour.lock().expect("not poisoned") = behaviour;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Adapter for Stub {
    fn name(&self) -> &'static str {
        self.name
    }

    fn circuit(&self) -> CircuitBreakerConfig {
        CircuitBreakerConfig::local()
            .minimum_calls(MINIMUM as u32)
            .open_for(OPEN_FOR)
            .jitter(0.0)
    }

    fn ask<'a>(&'a self, _: &'a str) -> Answering<'a> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let behaviour = *self.behaviour.lock().expect("not poisoned");
        Box::pin(async move {
            match behaviour {
                Behaviour::Answer => Ok(Vec::new()),
                Behaviour::AskForPause(wait) => {
                    Err(Failure::new("busy").judged(Outcome::OpenFor(wait)))
                }
                Behaviour::Fail => Err(Failure::new("out of order")),
                Behaviour::Hang => future::pending().await,
                Behaviour::Panic => panic!("told to"),
                Behaviour::Refuse => {
                    let name = Name::from_static("pool");
                    let full = Rejected::new(RejectReason::InFlightLimit, name);
                    Err(Failure::refused(full, full))
                }
            }
        })
    }
}

fn adapters<const N: usize>(stubs: [&Arc<Stub>; N]) -> Adapters {
    let known = stubs.map(|stub| -> Arc<dyn Adapter> { stub.clone() });
    Adapters::new(known).expect("valid circuits")
}

fn breaker(adapters: &Adapters, name: &str) -> CircuitBreaker {
    let mut breakers = adapters.breakers();
    let found = breakers.find(|breaker| breaker.name().as_str() == name);
    found.expect("one for each adapter").clone()
}

async fn ask(adapters: &Adapters, name: &str) -> Reply {
    adapters.ask("why?", |a| a.name() == name).await
}

async fn ask_times(adapters: &Adapters, name: &str, times: usize) {
    for _ in 0..times {
        ask(adapters, name).await;
    }
}

fn router(adapters: &Adapters) -> Router {
    let (adapters, flaky) = (adapters.clone(), Arc::default());
    api::router(Gateway { adapters, flaky })
}

/// The status, the head and the document that a question to these adapters is answered with.
async fn send(app: &Router, names: &[&str]) -> (StatusCode, HeaderMap, Value) {
    let question = json!({"question": "why?", "adapters": names});
    let request = Request::post("/ask")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(question.to_string()))
        .expect("a valid request");
    let response = app.clone().oneshot(request).await.expect("infallible");
    let (head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    let document = serde_json::from_slice(&body).expect("JSON");
    (head.status, head.headers, document)
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_keeps_failing_is_refused_while_the_others_answer() {
    let failing = Stub::new("failing", Behaviour::Fail);
    let adapters = adapters([&failing, &Stub::new("working", Behaviour::Answer)]);
    let app = router(&adapters);
    for _ in 0..MINIMUM {
        let (status, _, reply) = send(&app, &["failing", "working"]).await;
        assert_eq!(status, StatusCode::OK);
        let failure = json!({"error": "out of order", "retry_after_s": null});
        assert_eq!(reply["failures"], json!({"failing": failure}));
    }

    let error = "circuit breaker failing is open: too many calls failed";
    let (status, head, problem) = send(&app, &["failing"]).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(head[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(head[header::RETRY_AFTER], "10");
    let expected = json!({
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": error,
        "reason": "circuit_open",
        "source": "failing",
        "retry_after_s": 10,
    });
    assert_eq!(problem, expected);

    let (status, head, reply) = send(&app, &["failing", "working"]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!head.contains_key(header::RETRY_AFTER));
    assert!(reply["answers"]["working"].is_object(), "{reply}");
    let refusal = json!({"error": error, "reason": "circuit_open", "retry_after_s": 10});
    assert_eq!(reply["failures"], json!({"failing": refusal}));

    assert_eq!(failing.asked(), MINIMUM);
    assert_eq!(breaker(&adapters, "working").state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_adapter_is_tried_after_the_wait_and_asked_again_once_it_has_recovered() {
    let stub = Stub::new("a", Behaviour::Fail);
    let adapters = adapters([&stub]);
    let app = router(&adapters);
    ask_times(&adapters, "a", MINIMUM).await;

    advance(OPEN_FOR - Duration::from_millis(1)).await;
    let (status, head, _) = send(&app, &["a"]).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(head[header::RETRY_AFTER], "1");
    assert_eq!(stub.asked(), MINIMUM);

    // It has not recovered: three probes find out, and it is left alone for twice as long.
    advance(Duration::from_millis(1)).await;
    ask_times(&adapters, "a", 10).await;
    assert_eq!(stub.asked(), MINIMUM + 3);
    let (_, head, _) = send(&app, &["a"]).await;
    assert_eq!(head[header::RETRY_AFTER], "20");

    advance(2 * OPEN_FOR).await;
    stub.set(Behaviour::Answer);
    for _ in 0..10 {
        assert_eq!(send(&app, &["a"]).await.0, StatusCode::OK);
    }
    assert_eq!(breaker(&adapters, "a").state(), State::Closed);
    assert_eq!(
        breakers::summary(&adapters),
        "breakers  a closed (opened 2 times, refused 9 calls)"
    );
}

#[tokio::test(start_paused = true)]
async fn questions_that_only_open_circuits_could_answer_say_when_the_first_closes() {
    let soon = Stub::new("soon", Behaviour::AskForPause(30 * SECOND));
    let late = Stub::new("late", Behaviour::AskForPause(60 * SECOND));
    let forced = Stub::new("forced", Behaviour::Answer);
    let adapters = adapters([&forced, &late, &soon]);
    breaker(&adapters, "forced").force_open();
    let app = router(&adapters);
    let all = ["forced", "late", "soon"];
    assert_eq!(send(&app, &all).await.0, StatusCode::OK);
    let (status, head, problem) = send(&app, &all).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(head[header::RETRY_AFTER], "30");
    assert_eq!(problem["source"], "soon");
    assert_eq!(
        problem["detail"],
        "circuit breaker forced is forced_open: by hand; \
         circuit breaker late is open: the downstream asked for a pause; \
         circuit breaker soon is open: the downstream asked for a pause"
    );
}

#[tokio::test(start_paused = true)]
async fn calls_that_time_out_count() {
    let adapters = adapters([&Stub::new("hangs", Behaviour::Hang)]);
    ask_times(&adapters, "hangs", MINIMUM).await;
    let snapshot = breaker(&adapters, "hangs").snapshot();
    assert_eq!(snapshot.state, State::Open);
    assert_eq!(snapshot.reason, Reason::FailureRate);
    assert_eq!(snapshot.totals.failures, MINIMUM as u64);
    assert_eq!(snapshot.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn calls_that_panic_count() {
    let adapters = adapters([&Stub::new("panics", Behaviour::Panic)]);
    ask_times(&adapters, "panics", MINIMUM).await;
    let snapshot = breaker(&adapters, "panics").snapshot();
    assert_eq!(snapshot.state, State::Open);
    assert_eq!(snapshot.totals.failures, MINIMUM as u64);
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_cancelled_count_only_after_half_the_timeout() {
    let adapters = adapters([&Stub::new("hangs", Behaviour::Hang)]);
    let breaker = breaker(&adapters, "hangs");
    let half = DEFAULT_TIMEOUT / 2;
    for _ in 0..100 {
        let early = timeout(half - Duration::from_millis(1), ask(&adapters, "hangs"));
        assert!(early.await.is_err());
    }
    // Aborted tasks are dropped the next time that the runtime gets to them.
    tokio::task::yield_now().await;
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.state, State::Closed);
    assert_eq!(snapshot.window.calls, 0);
    assert_eq!(snapshot.totals.dropped, 100);

    for _ in 0..MINIMUM {
        assert!(timeout(half, ask(&adapters, "hangs")).await.is_err());
    }
    tokio::task::yield_now().await;
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_before_its_calls_have_begun_gives_its_probes_back() {
    let stub = Stub::new("a", Behaviour::Fail);
    let adapters = adapters([&stub]);
    ask_times(&adapters, "a", MINIMUM).await;
    advance(OPEN_FOR).await;
    stub.set(Behaviour::Answer);
    for _ in 0..10 {
        // Polled once, which spawns the call; on this runtime it has not run by then.
        tokio::select! {
            biased;
            _ = ask(&adapters, "a") => panic!("answered at once"),
            () = future::ready(()) => (),
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(stub.asked(), MINIMUM);
    assert_eq!(breaker(&adapters, "a").state(), State::HalfOpen);
    ask_times(&adapters, "a", 3).await;
    assert_eq!(breaker(&adapters, "a").state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn refusals_on_our_side_are_not_held_against_the_adapter() {
    let stub = Stub::new("a", Behaviour::Refuse);
    let adapters = adapters([&stub]);
    ask_times(&adapters, "a", 100).await;
    assert_eq!(stub.asked(), 100);
    let snapshot = breaker(&adapters, "a").snapshot();
    assert_eq!(snapshot.state, State::Closed);
    assert_eq!(snapshot.window.calls, 0);
    assert_eq!(snapshot.totals.ignored, 100);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_is_forced_open_leaves_the_others_alone() {
    let (a, b) = (
        Stub::new("a", Behaviour::Answer),
        Stub::new("b", Behaviour::Answer),
    );
    let adapters = adapters([&a, &b]);
    let app = router(&adapters);
    breaker(&adapters, "a").force_open();
    advance(Duration::from_secs(1_000_000)).await;
    let (status, head, problem) = send(&app, &["a"]).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    // Nobody knows when it will be closed.
    assert!(!head.contains_key(header::RETRY_AFTER));
    assert_eq!(problem["retry_after_s"], Value::Null);
    let (status, _, reply) = send(&app, &["a", "b"]).await;
    assert_eq!(status, StatusCode::OK);
    assert!(reply["answers"]["b"].is_object(), "{reply}");
    assert_eq!((a.asked(), b.asked()), (0, 1));
    breaker(&adapters, "a").close();
    assert_eq!(send(&app, &["a"]).await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_vector_service_can_ask_to_be_left_alone() {
    for (status, retry_after, expected) in [
        (503, "7", State::Open),
        (429, "7", State::Open),
        (503, "soon", State::Closed),
        (404, "7", State::Closed),
    ] {
        let status = StatusCode::from_u16(status).expect("a status");
        let answer = (status, [(header::RETRY_AFTER, retry_after)]);
        let app = Router::new().route("/api/v1/query", post(move || async move { answer }));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        let chroma = Chroma::new(listener.local_addr().expect("bound")).expect("a URI");
        tokio::spawn(axum::serve(listener, app).into_future());
        let adapters = Adapters::new([Arc::new(chroma) as _]).expect("valid circuits");
        ask(&adapters, "qa-vector-chroma").await;
        let snapshot = breaker(&adapters, "qa-vector-chroma").snapshot();
        assert_eq!(snapshot.state, expected, "{status}, {retry_after}");
        if let Some(wait) = snapshot.retry_after {
            assert!((SECOND..=7 * SECOND).contains(&wait), "{wait:?}");
        }
        let failures = u32::from(status.is_server_error() || expected == State::Open);
        assert_eq!(
            snapshot.window.failures, failures,
            "{status}, {retry_after}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn demo_flaky_opens_its_circuit_under_load_and_recovers() {
    for (mode, reason) in [
        (Mode::Fail, Reason::Requested),
        (Mode::Flaky, Reason::FailureRate),
        (Mode::Hang, Reason::FailureRate),
    ] {
        let flaky = Arc::new(Flaky::default());
        let adapters = Adapters::new([flaky.clone() as _]).expect("valid circuits");
        let breaker = breaker(&adapters, "demo-flaky");
        flaky.set(mode);
        let faults = async {
            sleep(30 * SECOND).await;
            let first = breaker.transitions().pop().expect("it has opened");
            assert_eq!((first.to, first.reason), (State::Open, reason), "{mode:?}");
            assert!(breaker.snapshot().totals.rejected() > 0, "{mode:?}");
            flaky.set(Mode::Ok);
        };
        let asked = adapters.clone();
        let load = load::run(60 * SECOND, CancellationToken::new(), move |question| {
            let asked = asked.clone();
            async move {
                // The others take their time too.
                sleep(SECOND / 10).await;
                let reply = asked.ask(question, |_| true).await;
                Ok(reply.failures.into_keys().map(str::to_owned).collect())
            }
        });
        tokio::join!(load, faults);
        assert_eq!(breaker.state(), State::Closed, "{mode:?}");
        let summary = breakers::summary(&adapters);
        let expected = "breakers  demo-flaky closed (opened ";
        assert!(summary.starts_with(expected), "{summary}");
    }
}
