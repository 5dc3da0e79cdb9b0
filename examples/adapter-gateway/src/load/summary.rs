//! What came of the load.

use super::{Said, Wrong};
use hdrhistogram::Histogram;
use std::{collections::BTreeMap, fmt, time::Duration};

/// Adapters, and kinds of failures of each, told apart. Others have no line of their own.
const MAX_ADAPTERS: usize = 16;
const MAX_KINDS: usize = 16;

/// Longest latency the histogram tells apart from longer ones.
const MAX_LATENCY: Duration = Duration::from_secs(60);

/// What came of the load, for people to read.
#[derive(Clone, Debug)]
pub struct Summary {
    pub(super) requests: u64,
    pub(super) answered: u64,
    lost: u64,
    doubled: u64,
    last_error: Option<String>,
    adapters: BTreeMap<String, Tally>,
    /// In microseconds, of answered requests.
    latency: Histogram<u64>,
    pub(super) elapsed: Duration,
}

/// What one adapter made of the questions.
#[derive(Clone, Debug, Default)]
struct Tally {
    answered: u64,
    /// By kind.
    failures: BTreeMap<String, u64>,
}

impl Summary {
    pub(super) fn new() -> Self {
        let max = MAX_LATENCY.as_micros() as u64;
        Self {
            requests: 0,
            answered: 0,
            lost: 0,
            doubled: 0,
            last_error: None,
            adapters: BTreeMap::new(),
            latency: Histogram::new_with_bounds(1, max, 3).expect("1 < max, and 3 digits are few"),
            elapsed: Duration::ZERO,
        }
    }

    /// Questions that did not get the one answer that is theirs.
    pub(super) const fn errors(&self) -> u64 {
        self.lost + self.doubled
    }

    pub(super) fn record(&mut self, outcome: Result<Said, Wrong>, latency: Duration) {
        match outcome {
            Ok(said) => {
                self.answered += 1;
                self.latency.saturating_record(latency.as_micros() as u64);
                for (adapter, failure) in said {
                    self.count(adapter, failure);
                }
            }
            Err(Wrong::Lost(error)) => {
                self.lost += 1;
                self.last_error = Some(error);
            }
            Err(Wrong::Doubled(error)) => {
                self.doubled += 1;
                self.last_error = Some(error);
            }
        }
    }

    fn count(&mut self, adapter: String, failure: Option<String>) {
        let Some(tally) = entry(&mut self.adapters, adapter, MAX_ADAPTERS) else {
            return;
        };
        match failure {
            None => tally.answered += 1,
            Some(kind) => {
                if let Some(count) = entry(&mut tally.failures, kind, MAX_KINDS) {
                    *count += 1;
                }
            }
        }
    }

    pub(super) fn progress(&self, elapsed: Duration) -> String {
        format!(
            "load: {} s, {} requests, {} errors, p99 {:.1} ms",
            elapsed.as_secs(),
            self.requests,
            self.errors(),
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
        let Self {
            requests,
            answered,
            lost,
            doubled,
            ..
        } = self;
        let seconds = self.elapsed.as_secs_f64();
        writeln!(f, "requests  {requests} in {seconds:.1} s")?;
        writeln!(f, "rate      {:.1} requests/s", self.rate())?;
        write!(f, "errors    {}", self.errors())?;
        if let Some(error) = &self.last_error {
            write!(f, ", the last: {error}")?;
        }
        write!(
            f,
            "\nanswers   {answered} of {requests} questions answered once, {lost} lost, \
             {doubled} doubled\n\
             latency   p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            self.millis_at(0.5),
            self.millis_at(0.95),
            self.millis_at(0.99),
            self.latency.max() as f64 / 1_000.0,
        )?;
        for (adapter, tally) in &self.adapters {
            write!(f, "\nadapter   {adapter}: {tally}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = self.answered + self.failures.values().sum::<u64>();
        write!(f, "{calls} calls, {} answered", self.answered)?;
        for (kind, count) in &self.failures {
            write!(f, ", {count} {kind}")?;
        }
        Ok(())
    }
}

/// The entry of that key, unless there are `most` others.
fn entry<T: Default>(map: &mut BTreeMap<String, T>, key: String, most: usize) -> Option<&mut T> {
    (map.len() < most || map.contains_key(&key)).then(|| map.entry(key).or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn said<const N: usize>(said: [(&str, Option<&str>); N]) -> Result<Said, Wrong> {
        let said = said.map(|(adapter, kind)| (adapter.to_owned(), kind.map(str::to_owned)));
        Ok(said.into())
    }

    #[test]
    fn summary_counts_wrong_answers_and_failures_of_adapters_apart() {
        let mut summary = Summary::new();
        summary.requests = 105;
        for n in 1..=100 {
            summary.record(said([("qa-sql", None)]), millis(n));
        }
        let failed = said([("qa-sql", Some("failed")), ("demo-flaky", Some("rejected"))]);
        summary.record(failed, millis(200));
        summary.record(said([("qa-sql", Some("timed_out"))]), millis(200));
        summary.record(said([("qa-sql", Some("failed"))]), millis(200));
        summary.record(Err(Wrong::Doubled("twice".into())), millis(5_000));
        summary.record(Err(Wrong::Lost("refused".into())), millis(5_000));
        summary.elapsed = millis(2_000);
        assert_eq!(
            summary.to_string(),
            "requests  105 in 2.0 s\n\
             rate      52.5 requests/s\n\
             errors    2, the last: refused\n\
             answers   103 of 105 questions answered once, 1 lost, 1 doubled\n\
             latency   p50 52.0 ms, p95 98.0 ms, p99 200.1 ms, max 200.1 ms\n\
             adapter   demo-flaky: 1 calls, 0 answered, 1 rejected\n\
             adapter   qa-sql: 103 calls, 100 answered, 2 failed, 1 timed_out"
        );
    }

    #[test]
    fn empty_summary_has_no_rate() {
        let text = Summary::new().to_string();
        assert!(text.contains("rate      0.0 requests/s"), "{text}");
        assert!(text.contains("\nerrors    0\n"), "{text}");
    }

    #[test]
    fn adapters_and_kinds_told_apart_are_bounded() {
        let mut summary = Summary::new();
        for n in 0..1_000 {
            let n = n.to_string();
            summary.record(said([(&*n, None), ("0", Some(&*n))]), millis(1));
        }
        assert_eq!(summary.adapters.len(), MAX_ADAPTERS);
        assert_eq!(summary.adapters["0"].failures.len(), MAX_KINDS);
        summary.record(said([("0", Some("0")), ("1", None)]), millis(1));
        assert_eq!(summary.adapters["0"].failures["0"], 2);
        assert_eq!(summary.adapters["1"].answered, 2);
    }
}
