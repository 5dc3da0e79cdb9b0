//! How adapters that misbehave affect the others, and what ends their calls.

mod common;

use self::common::{MAX_RECORDS, Put};
use adapter_gateway::{
    adapters::{self, Kind, Known},
    chroma::Chroma,
    corpus::{Corpus, Passage},
    flaky::Flaky,
    question::{Failure, Found, Question, judge},
    reply::Reply,
    settings::KindSettings,
    sql::Sql,
};
use plimsoll::{
    AdapterConfig, CircuitBreakerConfig, HistoryConfig, HttpClientConfig, Name, Outcome,
    RejectReason, Rejected, RetryConfig,
};
use serde_json::json;
use std::{
    env, fs, future, io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, advance, sleep, timeout};

const TIMEOUT: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Answer,
    Fail,
    Hang,
    Panic,
    Refuse,
    Slow,
}

/// Counts a call as running until its future is dropped.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn behave(
    name: &'static str,
    behaviour: Behaviour,
    question: Question,
    _running: Running,
) -> Result<Vec<Found>, plimsoll::BoxError> {
    match behaviour {
        Behaviour::Answer => (),
        Behaviour::Fail => {
            let wait = Duration::from_millis(1_001);
            let failure = Failure::new("out of order");
            return Err(failure.judged(Outcome::OpenFor(wait)).into());
        }
        Behaviour::Hang => future::pending().await,
        Behaviour::Panic => panic!("told to"),
        Behaviour::Refuse => {
            let pool = Name::from_static("pool");
            return Err(Rejected::new(RejectReason::InFlightLimit, pool).into());
        }
        Behaviour::Slow => sleep(STEP).await,
    }
    let passage = Passage {
        text: question.as_str().to_owned(),
        source: name.to_owned(),
    };
    Ok(vec![Found {
        passage,
        score: 0.5,
    }])
}

fn known<const N: usize>(stubs: [(&'static str, Behaviour); N]) -> (Put, Arc<AtomicUsize>) {
    let running = Arc::new(AtomicUsize::new(0));
    let known = Put::new();
    for (name, behaviour) in stubs {
        let running = running.clone();
        let answer = move |question| {
            running.fetch_add(1, Ordering::Relaxed);
            behave(name, behaviour, question, Running(running.clone()))
        };
        let adapter = plimsoll::Adapter::builder(name).classify(judge);
        known.put(adapter.function(answer).expect("valid limits"), true);
    }
    (known, running)
}

async fn ask(known: &Known) -> Reply {
    known.ask(None, "why?".into(), DEADLINE).await.into()
}

#[tokio::test(start_paused = true)]
async fn one_hanging_adapter_does_not_delay_the_others() {
    let (known, running) = known([
        ("hangs", Behaviour::Hang),
        ("answers", Behaviour::Answer),
        ("slow", Behaviour::Slow),
    ]);
    let start = Instant::now();
    let reply = ask(&known).await;
    assert_eq!(start + TIMEOUT, Instant::now());
    assert_eq!(reply.answers["answers"].elapsed_ms, 0.0);
    assert_eq!(reply.answers["slow"].elapsed_ms, 500.0);
    assert_eq!(
        json!(reply.failures),
        json!({"hangs": {
            "error": "no answer within 2s",
            "kind": "timed_out",
            "retry_after_s": null,
        }})
    );
    assert_eq!(running.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn slow_adapters_are_waited_for_together() {
    let (known, _) = known([
        ("a", Behaviour::Slow),
        ("b", Behaviour::Slow),
        ("c", Behaviour::Slow),
    ]);
    let start = Instant::now();
    let reply = ask(&known).await;
    assert_eq!(start + STEP, Instant::now());
    assert_eq!(reply.answers.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn panicking_and_failing_adapters_leave_the_others_their_answers() {
    let (known, running) = known([
        ("panics", Behaviour::Panic),
        ("fails", Behaviour::Fail),
        ("answers", Behaviour::Answer),
    ]);
    let reply = ask(&known).await;
    assert_eq!(
        json!(reply),
        json!({
            "answers": {"answers": {
                "passages": [{"text": "why?", "source": "answers", "score": 0.5}],
                "elapsed_ms": 0.0,
            }},
            "failures": {
                "fails": {"error": "out of order", "kind": "failed", "retry_after_s": 2},
                "panics": {
                    "error": "the adapter panicked",
                    "kind": "panicked",
                    "retry_after_s": null,
                },
            },
        })
    );
    assert_eq!(running.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_request_cancels_its_calls() {
    let (known, running) = known([("hangs", Behaviour::Hang), ("slow", Behaviour::Slow)]);
    let started = timeout(STEP / 2, ask(&known)).await;
    assert!(started.is_err());
    assert_eq!(running.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn only_chosen_adapters_are_asked() {
    let (known, _) = known([("a", Behaviour::Answer), ("b", Behaviour::Panic)]);
    let reply: Reply = known
        .ask(Some(&["a"]), "why?".into(), DEADLINE)
        .await
        .into();
    assert_eq!(reply.answers.len(), 1);
    assert!(reply.failures.is_empty());
}

#[tokio::test]
async fn an_adapter_that_is_gone_by_the_time_it_is_called_is_unknown() {
    let (known, _) = known([("a", Behaviour::Answer)]);
    let names = ["a", "gone"];
    let reply: Reply = known
        .ask(Some(&names), "why?".into(), DEADLINE)
        .await
        .into();
    assert_eq!(reply.answers.len(), 1);
    let gone = json!({
        "error": "there is no adapter gone",
        "kind": "unknown",
        "retry_after_s": null,
    });
    assert_eq!(json!(reply.failures), json!({"gone": gone}));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_inside_the_downstream_is_a_failure_with_its_reason() {
    let (known, _) = known([("refuses", Behaviour::Refuse)]);
    let answers = known.ask(None, "why?".into(), DEADLINE).await;
    // It was asked, so that the request is not refused.
    assert_eq!(answers.refused(), None);
    let refusal = json!({
        "error": "pool refused: too many requests are in flight",
        "kind": "failed",
        "reason": "in_flight_limit",
        "retry_after_s": null,
    });
    let reply = Reply::from(answers);
    assert_eq!(json!(reply.failures), json!({"refuses": refusal}));
}

#[tokio::test]
async fn an_adapter_of_any_kind_calls_what_it_is_of_within_any_limits() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("adapters-kinds");
    _ = fs::remove_dir_all(&folder);
    let sql = Sql::open(&folder, &Corpus::from_iter([])).expect("a new folder");
    let limits = HttpClientConfig::new();
    let chroma = Chroma::new("vector", "http://127.0.0.1:1", limits).expect("a URL");
    for (n, kind) in [
        Kind::Sql(sql),
        Kind::Vector(chroma),
        Kind::Flaky(Flaky::default()),
    ]
    .into_iter()
    .enumerate()
    {
        // A name that is not known before.
        let name = format!("adapter-{n}");
        // Questions can be weighed, and asked again.
        let limits = AdapterConfig::new()
            .max_queued_bytes(100)
            .retry(RetryConfig::new().back_off(Duration::ZERO, Duration::ZERO));
        let builder = || plimsoll::Adapter::builder(&name).config(limits.clone());
        let none = builder().max_in_flight(0);
        let error = adapters::build(none, kind.clone()).expect_err("no calls at all");
        assert!(error.to_string().contains("max_in_flight"), "{error}");
        let known = Put::new();
        known.put(
            adapters::build(builder(), kind).expect("valid limits"),
            true,
        );
        let reply = ask(&known).await;
        match n {
            0 => assert!(reply.answers[&*name].passages.is_empty()),
            1 => assert!(reply.failures[&*name].error.contains("http://127.0.0.1:1/")),
            _ => assert_eq!(
                reply.answers[&*name].passages[0].passage.text,
                "You asked: why?"
            ),
        }
        let snapshot = known.all().get(&name).expect("put").snapshot();
        assert_eq!(snapshot.max_queued_bytes, Some(100));
        assert_eq!(snapshot.retries > 0, n == 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_history_below_the_threshold_is_as_full_as_it_may_be() {
    let history = HistoryConfig::local().calls(100).transitions(1);
    let adapter = plimsoll::Adapter::builder("small")
        .circuit_breaker(CircuitBreakerConfig::local().history(history))
        .function(|_: Question| future::ready(Ok::<_, Failure>(Vec::new())));
    let known = Put::new();
    known.put(adapter.expect("valid limits"), true);
    for _ in 0..200 {
        ask(&known).await;
    }
    let memory = known.all().memory_summary();
    assert_eq!((memory.calls, memory.threshold), (100, Some(MAX_RECORDS)));
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines_with(&self, text: &str) -> usize {
        let log = self.0.lock().expect("not poisoned");
        let log = str::from_utf8(&log).expect("text");
        log.lines().filter(|line| line.contains(text)).count()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn histories_that_are_too_many_together_give_up_their_oldest_records_and_the_log_tells() {
    let log = Log::default();
    let writer = log.clone();
    let logged = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _logged = tracing::subscriber::set_default(logged);
    let (known, _) = known([("a", Behaviour::Answer), ("b", Behaviour::Answer)]);
    for _ in 0..MAX_RECORDS / 2 {
        ask(&known).await;
    }
    let told = "the histories of adapters had too many records";
    assert_eq!(known.all().memory_summary().records(), MAX_RECORDS);
    assert_eq!(log.lines_with(told), 0);
    ask(&known).await;
    let kept = known.all().memory_summary();
    assert!(kept.records() <= MAX_RECORDS * 4 / 5, "{}", kept.records());
    assert_eq!(log.lines_with(told), 1);
    for history in kept.adapters {
        assert_eq!(history.calls, kept.calls / 2, "{}", history.name);
    }

    // Again and again, which is told now and then.
    for _ in 0..MAX_RECORDS {
        ask(&known).await;
    }
    assert_eq!(log.lines_with(told), 1);
    advance(Duration::from_secs(10)).await;
    for _ in 0..MAX_RECORDS / 5 {
        ask(&known).await;
    }
    assert_eq!(log.lines_with(told), 2);
    assert_eq!(log.lines_with("left_out=9"), 1);
}

#[test]
fn the_schema_of_the_list_of_adapters_is_committed() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/adapters.schema.json");
    let schema = plimsoll::adapters_schema::<KindSettings>();
    if env::var_os("PLIMSOLL_BLESS").is_some() {
        fs::write(&file, &schema).expect("written");
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == schema,
        "config/adapters.schema.json is not what the settings say: \
         write it with `PLIMSOLL_BLESS=1 cargo test -p adapter-gateway --test adapters schema`"
    );
}
