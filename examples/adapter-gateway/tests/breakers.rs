//! What opens the circuit of an adapter, and what becomes of questions then.

mod common;

use self::common::Put;
use adapter_gateway::{
    adapters::{self, Kind, Known},
    api::{self, Gateway},
    breakers::Watch,
    chroma::Chroma,
    flaky::{Flaky, Mode},
    load,
    question::{Failure, Found, judge},
    reply::Reply,
};
use axum::{
    Router,
    body::{Body, to_bytes},
    routing::post,
};
use http::{HeaderMap, Request, StatusCode, header};
use plimsoll::breaker::{CircuitBreaker, CircuitBreakerConfig, Outcome, Reason, State};
use plimsoll::{BoxError, HttpClientConfig, Name, RejectReason, Rejected, Window};
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

/// How long an adapter may take, and all of them together.
const TIMEOUT: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(5);

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

impl Stub {
    async fn answer(self: Arc<Self>) -> Result<Vec<Found>, BoxError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let behaviour = *self.behaviour.lock().expect("not poisoned");
        match behaviour {
            Behaviour::Answer => Ok(Vec::new()),
            Behaviour::AskForPause(wait) => {
                let failure = Failure::new("busy");
                Err(failure.judged(Outcome::OpenFor(wait)).into())
            }
            Behaviour::Fail => Err(Failure::new("out of order").into()),
            Behaviour::Hang => future::pending().await,
            Behaviour::Panic => panic!("told to"),
            Behaviour::Refuse => {
                let name = Name::from_static("pool");
                Err(Rejected::new(RejectReason::InFlightLimit, name).into())
            }
        }
    }
}

fn known<const N: usize>(stubs: [&Arc<Stub>; N]) -> Put {
    let known = Put::new();
    for stub in stubs {
        let circuit = CircuitBreakerConfig::local()
            .minimum_calls(MINIMUM as u32)
            .open_for(OPEN_FOR)
            .jitter(0.0);
        let builder = plimsoll::Adapter::builder(stub.name)
            .classify(judge)
            .circuit_breaker(circuit);
        let stub = stub.clone();
        let adapter = builder.function(move |_| stub.clone().answer());
        known.put(adapter.expect("valid limits"), true);
    }
    known
}

/// One adapter of a kind, soon open and soon tried again.
fn known_of(name: &str, kind: Kind) -> Put {
    let known = Put::new();
    let circuit = CircuitBreakerConfig::local()
        .window(Window::Calls(20))
        .minimum_calls(5)
        .open_for(2 * SECOND)
        .open_max(10 * SECOND);
    let limits = plimsoll::Adapter::builder(name).circuit_breaker(circuit);
    known.put(adapters::build(limits, kind).expect("valid limits"), true);
    known
}

fn breaker(known: &Known, name: &str) -> CircuitBreaker {
    let found = known.all().get(name).expect("one for each adapter");
    found.breaker().clone()
}

async fn ask(known: &Known, name: &str) -> Reply {
    let names = [name];
    let answers = known.ask(Some(&names), "why?".into(), DEADLINE);
    answers.await.into()
}

async fn ask_times(known: &Known, name: &str, times: usize) {
    for _ in 0..times {
        ask(known, name).await;
    }
}

fn router(known: &Known) -> Router {
    api::router(Gateway {
        known: known.clone(),
        flaky: Flaky::default(),
        deadline: DEADLINE,
    })
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
    let known = known([&failing, &Stub::new("working", Behaviour::Answer)]);
    let app = router(&known);
    for _ in 0..MINIMUM {
        let (status, _, reply) = send(&app, &["failing", "working"]).await;
        assert_eq!(status, StatusCode::OK);
        let failure = json!({"error": "out of order", "kind": "failed", "retry_after_s": null});
        assert_eq!(reply["failures"], json!({"failing": failure}));
    }

    let error = "failing refused: the circuit is open, retry after 10.0 s";
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
    let refusal = json!({
        "error": error,
        "kind": "rejected",
        "reason": "circuit_open",
        "retry_after_s": 10,
    });
    assert_eq!(reply["failures"], json!({"failing": refusal}));

    assert_eq!(failing.asked(), MINIMUM);
    assert_eq!(breaker(&known, "working").state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_adapter_is_tried_after_the_wait_and_asked_again_once_it_has_recovered() {
    let stub = Stub::new("a", Behaviour::Fail);
    let known = known([&stub]);
    let app = router(&known);
    let watch = Watch::new(&known.all().list()).expect("few watch");
    ask_times(&known, "a", MINIMUM).await;

    advance(OPEN_FOR - Duration::from_millis(1)).await;
    let (status, head, _) = send(&app, &["a"]).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(head[header::RETRY_AFTER], "1");
    assert_eq!(stub.asked(), MINIMUM);

    // It has not recovered: three probes find out, and it is left alone for twice as long.
    advance(Duration::from_millis(1)).await;
    ask_times(&known, "a", 10).await;
    assert_eq!(stub.asked(), MINIMUM + 3);
    let (_, head, _) = send(&app, &["a"]).await;
    assert_eq!(head[header::RETRY_AFTER], "20");

    advance(2 * OPEN_FOR).await;
    stub.set(Behaviour::Answer);
    for _ in 0..10 {
        assert_eq!(send(&app, &["a"]).await.0, StatusCode::OK);
    }
    assert_eq!(breaker(&known, "a").state(), State::Closed);
    assert_eq!(
        watch.to_string(),
        "breaker   a: opened 2 times, recovered 1 times in 30.0 s on average and 30.0 s at most, \
         closed now"
    );

    stub.set(Behaviour::Fail);
    ask_times(&known, "a", 100).await;
    advance(OPEN_FOR).await;
    stub.set(Behaviour::Answer);
    ask_times(&known, "a", 3).await;
    assert_eq!(
        watch.to_string(),
        "breaker   a: opened 3 times, recovered 2 times in 20.0 s on average and 30.0 s at most, \
         closed now"
    );
}

#[tokio::test(start_paused = true)]
async fn questions_that_only_open_circuits_could_answer_say_when_the_first_closes() {
    let soon = Stub::new("soon", Behaviour::AskForPause(30 * SECOND));
    let late = Stub::new("late", Behaviour::AskForPause(60 * SECOND));
    let forced = Stub::new("forced", Behaviour::Answer);
    let known = known([&forced, &late, &soon]);
    breaker(&known, "forced").force_open();
    let app = router(&known);
    let all = ["forced", "late", "soon"];
    assert_eq!(send(&app, &all).await.0, StatusCode::OK);
    let (status, head, problem) = send(&app, &all).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(head[header::RETRY_AFTER], "30");
    assert_eq!(problem["source"], "soon");
    assert_eq!(
        problem["detail"],
        "forced refused: the circuit is open; \
         late refused: the circuit is open, retry after 60.0 s; \
         soon refused: the circuit is open, retry after 30.0 s"
    );
}

#[tokio::test(start_paused = true)]
async fn calls_that_time_out_count() {
    let known = known([&Stub::new("hangs", Behaviour::Hang)]);
    ask_times(&known, "hangs", MINIMUM).await;
    let snapshot = breaker(&known, "hangs").snapshot();
    assert_eq!(snapshot.state, State::Open);
    assert_eq!(snapshot.reason, Reason::FailureRate);
    assert_eq!(snapshot.totals.failures, MINIMUM as u64);
    assert_eq!(snapshot.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn calls_that_panic_count() {
    let known = known([&Stub::new("panics", Behaviour::Panic)]);
    ask_times(&known, "panics", MINIMUM).await;
    let snapshot = breaker(&known, "panics").snapshot();
    assert_eq!(snapshot.state, State::Open);
    assert_eq!(snapshot.totals.failures, MINIMUM as u64);
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_cancelled_count_only_after_half_the_timeout() {
    let known = known([&Stub::new("hangs", Behaviour::Hang)]);
    let breaker = breaker(&known, "hangs");
    let half = TIMEOUT / 2;
    for _ in 0..100 {
        let early = timeout(half - Duration::from_millis(1), ask(&known, "hangs"));
        assert!(early.await.is_err());
    }
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.state, State::Closed);
    assert_eq!(snapshot.window.calls, 0);
    assert_eq!(snapshot.totals.dropped, 100);

    for _ in 0..MINIMUM {
        assert!(timeout(half, ask(&known, "hangs")).await.is_err());
    }
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_gives_its_probes_back() {
    let stub = Stub::new("a", Behaviour::Fail);
    let known = known([&stub]);
    ask_times(&known, "a", MINIMUM).await;
    advance(OPEN_FOR).await;
    stub.set(Behaviour::Hang);
    for _ in 0..10 {
        assert!(timeout(TIMEOUT / 4, ask(&known, "a")).await.is_err());
    }
    assert_eq!(stub.asked(), MINIMUM + 10);
    assert_eq!(breaker(&known, "a").state(), State::HalfOpen);
    stub.set(Behaviour::Answer);
    ask_times(&known, "a", 3).await;
    assert_eq!(breaker(&known, "a").state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn refusals_on_our_side_are_not_held_against_the_adapter() {
    let stub = Stub::new("a", Behaviour::Refuse);
    let known = known([&stub]);
    ask_times(&known, "a", 100).await;
    assert_eq!(stub.asked(), 100);
    let snapshot = breaker(&known, "a").snapshot();
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
    let known = known([&a, &b]);
    let app = router(&known);
    breaker(&known, "a").force_open();
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
    breaker(&known, "a").close();
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
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(axum::serve(listener, app).into_future());
        let chroma = Chroma::new("vector", &url, HttpClientConfig::new()).expect("a URL");
        let known = known_of("qa-vector-chroma", Kind::Vector(chroma));
        ask(&known, "qa-vector-chroma").await;
        let snapshot = breaker(&known, "qa-vector-chroma").snapshot();
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
        let flaky = Flaky::default();
        let known = known_of("demo-flaky", Kind::Flaky(flaky.clone()));
        let watch = Watch::new(&known.all().list()).expect("few watch");
        let breaker = breaker(&known, "demo-flaky");
        flaky.set(mode);
        let faults = async {
            sleep(30 * SECOND).await;
            let first = breaker.transitions().pop().expect("it has opened");
            assert_eq!((first.to, first.reason), (State::Open, reason), "{mode:?}");
            assert!(breaker.snapshot().totals.rejected() > 0, "{mode:?}");
            flaky.set(Mode::Ok);
        };
        tokio::join!(load(&known, 60 * SECOND), faults);
        assert_eq!(breaker.state(), State::Closed, "{mode:?}");
        let summary = watch.to_string();
        assert!(
            summary.starts_with("breaker   demo-flaky: opened "),
            "{summary}"
        );
        assert!(!summary.contains("recovered 0 times"), "{summary}");
        assert!(summary.ends_with(", closed now"), "{summary}");
    }
}

#[tokio::test(start_paused = true)]
async fn alternating_faults_open_the_circuit_each_time_and_it_recovers_in_between() {
    let flaky = Flaky::default();
    let known = known_of("demo-flaky", Kind::Flaky(flaky.clone()));
    let watch = Watch::new(&known.all().list()).expect("few watch");
    let summary = tokio::select! {
        summary = load(&known, 30 * SECOND) => summary.to_string(),
        () = flaky.alternate(3 * SECOND) => unreachable!("it does not end"),
    };
    assert!(summary.contains("\nerrors    0\n"), "{summary}");
    assert!(summary.contains(" failed, "), "{summary}");
    assert!(summary.contains(" rejected"), "{summary}");
    // It fails five times, and the last time has not recovered by the end.
    let watched = watch.to_string();
    assert!(watched.contains(", recovered 4 times in 4."), "{watched}");
    assert!(watched.ends_with(", open now"), "{watched}");
}

/// The load as it is, but with every answer after a tenth of a second, and without the network.
async fn load(known: &Known, duration: Duration) -> load::Summary {
    let known = known.clone();
    load::run(duration, CancellationToken::new(), move |_, question| {
        let known = known.clone();
        async move {
            sleep(SECOND / 10).await;
            let answers = known.ask(None, question.into(), DEADLINE).await;
            let Reply { answers, failures } = answers.into();
            let answered = answers.into_keys().map(|name| (name.into(), None));
            let failed = failures.into_iter();
            let failed = failed.map(|(name, said)| (name.into(), Some(said.kind.into())));
            Ok(answered.chain(failed).collect())
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn openings_by_hand_are_counted_and_what_ends_them_by_hand_is_no_recovery() {
    let known = known([&Stub::new("a", Behaviour::Answer)]);
    let watch = Watch::new(&known.all().list()).expect("few watch");
    let breaker = breaker(&known, "a");
    assert_eq!(
        watch.to_string(),
        "breaker   a: opened 0 times, recovered 0 times, closed now"
    );
    for end in [CircuitBreaker::disable, CircuitBreaker::reset] {
        breaker.force_open();
        advance(SECOND).await;
        end(&breaker);
        breaker.close();
    }
    assert_eq!(
        watch.to_string(),
        "breaker   a: opened 2 times, recovered 0 times, closed now"
    );
}
