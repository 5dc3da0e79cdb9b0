//! Bounded traffic at the gateway itself, and what came of it.

use crate::{BoxError, adapters::Failure, client::JsonClient};
use hdrhistogram::Histogram;
use http::Uri;
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    select,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Clients that ask one question after the other.
pub const CLIENTS: usize = 8;

/// A request that takes longer counts as an error.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after an error, so that a gateway that refuses is not hammered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

/// Adapters told apart in the summary.
const MAX_ADAPTERS: usize = 16;

/// Longest latency the histogram tells apart from longer ones.
const MAX_LATENCY: Duration = Duration::from_secs(60);

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

/// Puts questions to the adapters of a gateway, to learn which of them failed.
#[derive(Clone, Debug)]
pub struct Asker {
    client: JsonClient,
    uri: Uri,
    adapters: Vec<&'static str>,
}

/// What came of the load.
#[derive(Clone, Debug)]
pub struct Summary {
    requests: u64,
    errors: u64,
    last_error: Option<String>,
    failures: BTreeMap<String, u64>,
    /// In microseconds, of answered requests.
    latency: Histogram<u64>,
    elapsed: Duration,
}

#[derive(Deserialize)]
struct Reply {
    failures: BTreeMap<String, serde::de::IgnoredAny>,
}

impl Asker {
    /// Will ask these adapters of the gateway that listens on this address.
    ///
    /// # Errors
    ///
    /// Fails when the address does not make a URI.
    pub fn new(
        listening: SocketAddr,
        adapters: impl IntoIterator<Item = &'static str>,
    ) -> Result<Self, BoxError> {
        Ok(Self {
            client: JsonClient::new(),
            uri: format!("http://{}/ask", reachable(listening)).parse()?,
            adapters: adapters.into_iter().collect(),
        })
    }

    /// Asks, and gives the names of the adapters that failed.
    ///
    /// # Errors
    ///
    /// Fails when the gateway refuses or does not answer.
    pub async fn ask(self, question: &str) -> Result<Vec<String>, Failure> {
        let body = json!({"question": question, "adapters": self.adapters});
        let reply: Reply = timeout(REQUEST_TIMEOUT, self.client.post(&self.uri, &body))
            .await
            .map_err(|_| Failure::new(format!("no answer within {REQUEST_TIMEOUT:?}")))??;
        Ok(reply.failures.into_keys().collect())
    }
}

/// Lets [`CLIENTS`] ask until the time is over or the token is cancelled, and
/// tells of the progress on standard error every second.
pub async fn run<F, Fut>(duration: Duration, stop: CancellationToken, ask: F) -> Summary
where
    F: Fn(&'static str) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Vec<String>, Failure>> + Send,
{
    let start = Instant::now();
    let end = start + duration;
    let summary = Arc::new(Mutex::new(Summary::new()));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (summary, stop, ask) = (summary.clone(), stop.clone(), ask.clone());
        clients.spawn(async move {
            // Each starts elsewhere in the list, so that they do not ask in step.
            let questions = QUESTIONS.iter().cycle().skip(client);
            for question in questions {
                let asked = Instant::now();
                if end <= asked || stop.is_cancelled() {
                    break;
                }
                let outcome = ask(question).await;
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
                Some(Err(error)) => tracing::error!(%error, "load client ended early"),
                None => break,
            },
            _ = seconds.tick() => eprintln!("{}", lock(&summary).progress(elapsed())),
        }
    }
    let mut summary = lock(&summary).clone();
    summary.elapsed = elapsed();
    summary
}

impl Summary {
    fn new() -> Self {
        let max = MAX_LATENCY.as_micros() as u64;
        Self {
            requests: 0,
            errors: 0,
            last_error: None,
            failures: BTreeMap::new(),
            latency: Histogram::new_with_bounds(1, max, 3).expect("1 < max, and 3 digits are few"),
            elapsed: Duration::ZERO,
        }
    }

    fn record(&mut self, outcome: Result<Vec<String>, Failure>, latency: Duration) {
        self.requests += 1;
        match outcome {
            Ok(failed) => {
                self.latency.saturating_record(latency.as_micros() as u64);
                for adapter in failed {
                    if self.failures.len() < MAX_ADAPTERS || self.failures.contains_key(&adapter) {
                        *self.failures.entry(adapter).or_default() += 1;
                    }
                }
            }
            Err(failure) => {
                self.errors += 1;
                self.last_error = Some(failure.to_string());
            }
        }
    }

    fn progress(&self, elapsed: Duration) -> String {
        format!(
            "load: {} s, {} requests, {} errors, p99 {:.1} ms",
            elapsed.as_secs(),
            self.requests,
            self.errors,
            self.millis_at(0.99),
        )
    }

    fn millis_at(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1_000.0
    }

    fn rate(&self) -> f64 {
        // An empty run has no rate, rather than an infinite one.
        self.requests as f64 / self.elapsed.as_secs_f64().max(0.001)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        writeln!(f, "requests  {} in {seconds:.1} s", self.requests)?;
        writeln!(f, "rate      {:.1} requests/s", self.rate())?;
        write!(f, "errors    {}", self.errors)?;
        if let Some(error) = &self.last_error {
            write!(f, ", the last: {error}")?;
        }
        write!(f, "\nfailures ")?;
        if self.failures.is_empty() {
            write!(f, " none")?;
        }
        for (adapter, count) in &self.failures {
            write!(f, " {adapter} {count}")?;
        }
        write!(
            f,
            "\nlatency   p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            self.millis_at(0.5),
            self.millis_at(0.95),
            self.millis_at(0.99),
            self.latency.max() as f64 / 1_000.0,
        )
    }
}

fn lock(summary: &Mutex<Summary>) -> MutexGuard<'_, Summary> {
    summary.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An address to listen on may stand for all; to connect, take the local one.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => (),
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn summary_counts_errors_and_failures_apart() {
        let mut summary = Summary::new();
        for n in 1..=100 {
            summary.record(Ok(Vec::new()), millis(n));
        }
        let failed = ["qa-sql", "demo-flaky"].map(str::to_owned);
        summary.record(Ok(failed.to_vec()), millis(200));
        summary.record(Ok(vec!["qa-sql".to_owned()]), millis(200));
        summary.record(Err(Failure::new("refused")), millis(5_000));
        summary.elapsed = millis(2_000);
        assert_eq!(
            summary.to_string(),
            "requests  103 in 2.0 s\n\
             rate      51.5 requests/s\n\
             errors    1, the last: refused\n\
             failures  demo-flaky 1 qa-sql 2\n\
             latency   p50 51.0 ms, p95 97.0 ms, p99 200.1 ms, max 200.1 ms"
        );
    }

    #[test]
    fn empty_summary_has_no_rate() {
        let text = Summary::new().to_string();
        assert!(text.contains("rate      0.0 requests/s"), "{text}");
        assert!(text.contains("failures  none"), "{text}");
    }

    #[test]
    fn adapters_told_apart_are_bounded() {
        let mut summary = Summary::new();
        for n in 0..1_000 {
            summary.record(Ok(vec![n.to_string()]), STEP);
        }
        assert_eq!(summary.failures.len(), MAX_ADAPTERS);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_ask_one_after_the_other_until_the_time_is_over() {
        let summary = run(millis(3_000), CancellationToken::new(), |_| async {
            sleep(STEP).await;
            Ok(Vec::new())
        })
        .await;
        assert_eq!(summary.requests, 30 * CLIENTS as u64);
        assert_eq!(summary.elapsed, millis(3_000));
        assert_eq!(summary.errors, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_pause_after_an_error() {
        let refuse = |_| async { Err(Failure::new("refused")) };
        let summary = run(millis(1_000), CancellationToken::new(), refuse).await;
        assert_eq!(summary.errors, 20 * CLIENTS as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_load_ends_after_the_requests_in_flight() {
        let stop = CancellationToken::new();
        let stopper = stop.clone();
        let summary = run(millis(60_000), stop, move |_| {
            let stopper = stopper.clone();
            async move {
                sleep(STEP).await;
                stopper.cancel();
                Ok(Vec::new())
            }
        })
        .await;
        assert_eq!(summary.requests, CLIENTS as u64);
        assert_eq!(summary.elapsed, STEP);
    }

    #[test]
    fn load_goes_to_the_local_address_of_an_unspecified_one() {
        for (listening, expected) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ] {
            assert_eq!(reachable(listening.parse().unwrap()).to_string(), expected);
        }
    }
}
