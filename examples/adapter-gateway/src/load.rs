//! Bounded traffic at the gateway itself, and what came of it.

mod asker;
mod drive;
mod memory;
mod reloads;
mod summary;

pub use self::{
    asker::Asker,
    drive::{Drive, Driven, Held},
    memory::Memory,
    reloads::{ConfigCopy, Outcomes, Reloads},
    summary::Summary,
};

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    select,
    task::JoinSet,
    time::{Instant, interval, sleep},
};
use tokio_util::sync::CancellationToken;

/// Clients that ask one question after the other.
pub const CLIENTS: usize = 8;

/// Pause after an error, so that a gateway that refuses is not hammered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

const QUESTIONS: &[&str] = &[
    "How does the service stop?",
    "What happens when memory runs out?",
    "What is a holding?",
    "How long is the drain delay?",
    "Which background tasks are running?",
    "When is a request refused with 503?",
    "How do I add the layer to an axum router?",
    "What does the stop report list?",
];

/// What each adapter made of a question: the kind of its failure, or none for an answer.
pub type Said = BTreeMap<String, Option<String>>;

/// A question that did not get exactly one answer from each adapter.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Wrong {
    /// It got none, or none from one of them.
    Lost(String),
    /// It got more than one, or that of another question.
    Doubled(String),
}

/// Lets [`CLIENTS`] ask until the time is over or the token is cancelled, and
/// tells of the progress on standard error every second. No two questions have one number.
pub async fn run<F, Fut>(duration: Duration, stop: CancellationToken, ask: F) -> Summary
where
    F: Fn(u64, &'static str) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Said, Wrong>> + Send,
{
    let start = Instant::now();
    let end = start + duration;
    let summary = Arc::new(Mutex::new(Summary::new()));
    let serial = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (summary, stop, ask) = (summary.clone(), stop.clone(), ask.clone());
        let serial = serial.clone();
        clients.spawn(async move {
            // Each starts elsewhere in the list, so that they do not ask in step.
            let questions = QUESTIONS.iter().cycle().skip(client);
            for question in questions {
                let asked = Instant::now();
                if end <= asked || stop.is_cancelled() {
                    break;
                }
                lock(&summary).requests += 1;
                let outcome = ask(serial.fetch_add(1, Relaxed), question).await;
                let latency = Instant::now().saturating_duration_since(asked);
                let failed = outcome.is_err();
                lock(&summary).record(outcome, latency);
                if failed {
                    sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        });
    }

    let mut seconds = interval(Duration::from_secs(1));
    seconds.tick().await;
    let elapsed = || Instant::now().saturating_duration_since(start);
    loop {
        select! {
            biased;
            ended = clients.join_next() => match ended {
                Some(Ok(())) => (),
                Some(Err(error)) => {
                    tracing::error!(%error, "load client ended early");
                    let lost = Wrong::Lost(format!("the client ended early: {error}"));
                    lock(&summary).record(Err(lost), Duration::ZERO);
                }
                None => break,
            },
            _ = seconds.tick() => eprintln!("{}", lock(&summary).progress(elapsed())),
        }
    }
    let mut summary = lock(&summary).clone();
    summary.elapsed = elapsed();
    summary
}

fn lock(summary: &Mutex<Summary>) -> MutexGuard<'_, Summary> {
    summary.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const STEP: Duration = Duration::from_millis(100);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn clients_ask_one_after_the_other_until_the_time_is_over() {
        let serials = Arc::<Mutex<BTreeSet<u64>>>::default();
        let asked = serials.clone();
        let summary = run(millis(3_000), CancellationToken::new(), move |serial, _| {
            let new = asked.lock().unwrap().insert(serial);
            async move {
                assert!(new, "{serial} was asked before");
                sleep(STEP).await;
                Ok(Said::new())
            }
        })
        .await;
        assert_eq!(summary.requests, 30 * CLIENTS as u64);
        assert_eq!(summary.answered, summary.requests);
        assert_eq!(serials.lock().unwrap().len() as u64, summary.requests);
        assert_eq!(summary.elapsed, millis(3_000));
        assert_eq!(summary.errors(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_pause_after_an_error() {
        let refuse = |_, _| async { Err(Wrong::Lost("refused".into())) };
        let summary = run(millis(1_000), CancellationToken::new(), refuse).await;
        assert_eq!(summary.errors(), 20 * CLIENTS as u64);
        assert_eq!(summary.answered, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_question_of_a_client_that_ends_early_is_lost() {
        let summary = run(STEP, CancellationToken::new(), |serial, _| async move {
            assert_ne!(serial, 3, "told to");
            sleep(STEP).await;
            Ok(Said::new())
        })
        .await;
        assert_eq!(summary.requests, CLIENTS as u64);
        assert_eq!(summary.errors(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_load_ends_after_the_requests_in_flight() {
        let stop = CancellationToken::new();
        let stopper = stop.clone();
        let summary = run(millis(60_000), stop, move |_, _| {
            let stopper = stopper.clone();
            async move {
                sleep(STEP).await;
                stopper.cancel();
                Ok(Said::new())
            }
        })
        .await;
        assert_eq!(summary.requests, CLIENTS as u64);
        assert_eq!(summary.elapsed, STEP);
    }
}
