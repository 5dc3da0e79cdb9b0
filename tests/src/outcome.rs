//! What came of driving a service.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// What the driver says in the end.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// For how long it was driven, in seconds.
    pub seconds: f64,
    /// How long it took before to open idle connections, in seconds.
    pub before_s: f64,
    /// After how many seconds nobody listened any more.
    pub gone_after_s: Option<f64>,
    /// By kind of request: `cheap`, `heavy`, `stream`, `cache`, `leak`.
    pub kinds: BTreeMap<String, Counts>,
    /// What `heavy` was answered for, in MB (2^20) a second.
    pub heavy_mb_per_s: f64,
    /// How many of `cheap` were answered a second.
    pub cheap_per_s: f64,
    /// How much of `cache` was found, 0 to 1.
    pub cache_hits: f64,
    /// Connections that were opened to be idle, and those of them that were left in the end.
    pub idle_connections: [usize; 2],
    /// What was asked after two seconds without load; none where nobody listened.
    pub probes: BTreeMap<String, Probes>,
    /// The CPU time that the driver took, in seconds.
    pub driver_cpu_s: f64,
    /// In each second: `cheap` that were answered, MB of `heavy` that were, and what was refused.
    pub by_second: Vec<[u64; 3]>,
}

/// What became of requests of one kind, of those that ended in time.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Answered with 200, to the last byte.
    pub ok: u64,
    /// Answered with 503.
    pub refused: u64,
    /// Those of them without `Retry-After`.
    pub without_retry_after: u64,
    /// Answered with another status.
    pub other: u64,
    /// Not answered, or not to the last byte.
    pub errors: u64,
    /// The time to the last byte of those that were answered with 200, in milliseconds.
    pub p50_ms: f64,
    /// The same, of the slowest in a hundred.
    pub p99_ms: f64,
    /// The same, of the slowest.
    pub max_ms: f64,
    /// The time to a 503.
    pub refused_p99_ms: f64,
}

/// Requests after a while of no load.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Probes {
    /// How many there were.
    pub asked: u64,
    /// How many were answered with 503.
    pub refused: u64,
    /// How many were not answered, or with another status.
    pub failed: u64,
}

/// Times that are counted, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Counts {
    /// How many there were in all.
    #[must_use]
    pub const fn all(&self) -> u64 {
        self.ok + self.refused + self.other + self.errors
    }

    /// The share of them that was refused, 0 to 1.
    #[must_use]
    pub fn refused_share(&self) -> f64 {
        self.refused as f64 / self.all().max(1) as f64
    }
}

impl Outcome {
    /// What became of requests of one kind.
    #[must_use]
    pub fn of(&self, kind: &str) -> Counts {
        self.kinds.get(kind).cloned().unwrap_or_default()
    }

    /// How many probes were refused, or failed.
    #[must_use]
    pub fn probes_not_answered(&self) -> u64 {
        let all = self.probes.values();
        all.map(|probes| probes.refused + probes.failed).sum()
    }

    /// How many were refused without `Retry-After`.
    #[must_use]
    pub fn without_retry_after(&self) -> u64 {
        self.kinds
            .values()
            .map(|kind| kind.without_retry_after)
            .sum()
    }
}

impl Default for Times {
    fn default() -> Self {
        Self(
            Histogram::new_with_max(60_000_000, 3).expect("a minute and three digits are in range"),
        )
    }
}

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0
            .saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }
}
