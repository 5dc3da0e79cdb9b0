//! How adapters that misbehave affect the others, and what ends their calls.

use adapter_gateway::{
    adapters::{Adapter, Adapters, Answering, DEFAULT_TIMEOUT, Failure, Found},
    corpus::Passage,
};
use plimsoll::breaker::Outcome;
use serde_json::json;
use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

const STEP: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Answer,
    Fail,
    Hang,
    Panic,
    Slow,
}

#[derive(Debug)]
struct Stub {
    name: &'static str,
    behaviour: Behaviour,
    running: Arc<AtomicUsize>,
}

/// Counts a call as running until its future is dropped.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Adapter for Stub {
    fn name(&self) -> &'static str {
        self.name
    }

    fn ask<'a>(&'a self, question: &'a str) -> Answering<'a> {
        self.running.fetch_add(1, Ordering::Relaxed);
        let running = Running(self.running.clone());
        Box::pin(async move {
            let _running = running;
            match self.behaviour {
                Behaviour::Answer => (),
                Behaviour::Fail => {
                    let wait = Duration::from_millis(1_001);
                    return Err(Failure::new("out of order").judged(Outcome::OpenFor(wait)));
                }
                Behaviour::Hang => future::pending().await,
                Behaviour::Panic => panic!("told to"),
                Behaviour::Slow => sleep(STEP).await,
            }
            let passage = Passage {
                text: question.to_owned(),
                source: self.name.to_owned(),
            };
            Ok(vec![Found {
                passage,
                score: 0.5,
            }])
        })
    }
}

fn adapters<const N: usize>(stubs: [(&'static str, Behaviour); N]) -> (Adapters, Arc<AtomicUsize>) {
    let running = Arc::new(AtomicUsize::new(0));
    let known = stubs.map(|(name, behaviour)| -> Arc<dyn Adapter> {
        Arc::new(Stub {
            name,
            behaviour,
            running: running.clone(),
        })
    });
    (Adapters::new(known).expect("valid circuits"), running)
}

#[tokio::test(start_paused = true)]
async fn one_hanging_adapter_does_not_delay_the_others() {
    let (adapters, running) = adapters([
        ("hangs", Behaviour::Hang),
        ("answers", Behaviour::Answer),
        ("slow", Behaviour::Slow),
    ]);
    let start = Instant::now();
    let reply = adapters.ask("why?", |_| true).await;
    assert_eq!(start + DEFAULT_TIMEOUT, Instant::now());
    assert_eq!(reply.answers["answers"].elapsed_ms, 0.0);
    assert_eq!(reply.answers["slow"].elapsed_ms, 500.0);
    assert_eq!(
        json!(reply.failures),
        json!({"hangs": {"error": "no answer within 2s", "retry_after_s": null}})
    );
    assert_eq!(running.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn slow_adapters_are_waited_for_together() {
    let (adapters, _) = adapters([
        ("a", Behaviour::Slow),
        ("b", Behaviour::Slow),
        ("c", Behaviour::Slow),
    ]);
    let start = Instant::now();
    let reply = adapters.ask("why?", |_| true).await;
    assert_eq!(start + STEP, Instant::now());
    assert_eq!(reply.answers.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn panicking_and_failing_adapters_leave_the_others_their_answers() {
    let (adapters, running) = adapters([
        ("panics", Behaviour::Panic),
        ("fails", Behaviour::Fail),
        ("answers", Behaviour::Answer),
    ]);
    let reply = adapters.ask("why?", |_| true).await;
    assert_eq!(
        json!(reply),
        json!({
            "answers": {"answers": {
                "passages": [{"text": "why?", "source": "answers", "score": 0.5}],
                "elapsed_ms": 0.0,
            }},
            "failures": {
                "fails": {"error": "out of order", "retry_after_s": 2},
                "panics": {"error": "the adapter panicked", "retry_after_s": null},
            },
        })
    );
    assert_eq!(running.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_request_cancels_its_calls() {
    let (adapters, running) = adapters([("hangs", Behaviour::Hang), ("slow", Behaviour::Slow)]);
    let started = timeout(STEP / 2, adapters.ask("why?", |_| true)).await;
    assert!(started.is_err());
    // Aborted tasks are dropped the next time that the runtime gets to them.
    tokio::task::yield_now().await;
    assert_eq!(running.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn only_chosen_adapters_are_asked() {
    let (adapters, _) = adapters([("a", Behaviour::Answer), ("b", Behaviour::Panic)]);
    let reply = adapters.ask("why?", |adapter| adapter.name() == "a").await;
    assert_eq!(reply.answers.len(), 1);
    assert!(reply.failures.is_empty());
}
