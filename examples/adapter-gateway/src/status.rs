//! The documents that tell of adapters: how they are, what they hold, and what was cleaned up.

use crate::adapters::Known;
use plimsoll::{
    Name, Removed,
    adapter::{AdapterMemory, AdapterSnapshot, MemorySummary},
    memory::{MemoryStats, RetainedByGroup},
    settings::Choice as _,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// How all adapters are, in the order they were added.
#[derive(Debug, Serialize)]
pub struct Status {
    adapters: Vec<AdapterStatus>,
    memory: Memory,
}

/// What was dropped by a cleanup.
#[derive(Debug, Serialize)]
pub struct Cleaned {
    adapters: Vec<CleanedAdapter>,
}

#[derive(Debug, Serialize)]
struct AdapterStatus {
    name: &'static str,
    by_default: bool,
    state: &'static str,
    retry_after_s: Option<f64>,
    in_flight: u64,
    queued: u64,
    queued_bytes: u64,
    limits: Limits,
    counts: Counts,
    memory: Option<CallMemory>,
}

/// Null where there is none.
#[derive(Debug, Serialize)]
struct Limits {
    in_flight: u64,
    queued: u64,
    queued_bytes: Option<u64>,
    memory: Option<Budget>,
}

/// The most bytes that a call may hold.
#[derive(Debug, Serialize)]
struct Budget {
    bytes: u64,
    mode: &'static str,
}

/// What calls took, in bytes, since the adapter was made. Null where the allocator has counted for
/// none.
#[derive(Debug, Serialize)]
struct CallMemory {
    allocated_bytes: u64,
    peak_p95_bytes: Option<u64>,
    peak_max_bytes: u64,
    retained_bytes: u64,
    /// Attempts that held more than they may.
    over_budget: u64,
    /// Those of them that were ended.
    refused: u64,
}

/// Calls that have ended, since the adapter was made.
#[derive(Debug, Serialize)]
struct Counts {
    succeeded: u64,
    failed: u64,
    timed_out: u64,
    panicked: u64,
    /// By reason.
    rejected: BTreeMap<&'static str, u64>,
    cancelled: u64,
    retries: u64,
}

#[derive(Debug, Serialize)]
struct Memory {
    records: u64,
    calls: u64,
    transitions: u64,
    bytes: u64,
    max_records: Option<u64>,
    adapters: Vec<History>,
}

/// Limits are null where there is none.
#[derive(Debug, Serialize)]
struct History {
    name: &'static str,
    calls: u64,
    max_calls: Option<u64>,
    transitions: u64,
    max_transitions: Option<u64>,
    bytes: u64,
    last_cleanup_ago_s: Option<f64>,
    cleanup_interval_s: f64,
    retention_s: Option<f64>,
}

#[derive(Debug, Serialize)]
struct CleanedAdapter {
    name: &'static str,
    /// By reason.
    removed: BTreeMap<&'static str, u64>,
}

impl Status {
    /// Looks at them now.
    #[must_use]
    pub fn of(known: &Known) -> Self {
        let by_default = known.names_by_default();
        // At every scope of the process, so not once for each of them.
        let retained = RetainedByGroup::look();
        let adapters = known.all().list().into_iter().map(|adapter| {
            let by_default = by_default.contains(&adapter.name());
            let memory = adapter.memory_stats_with(&retained);
            AdapterStatus::new(&adapter.snapshot(), &memory, by_default)
        });
        Self {
            adapters: adapters.collect(),
            memory: Memory::new(&known.all().memory_summary()),
        }
    }
}

impl Cleaned {
    /// What was dropped from the history of each adapter.
    #[must_use]
    pub fn new(adapters: Vec<(Name, Removed)>) -> Self {
        let adapters = adapters.into_iter().map(|(name, removed)| CleanedAdapter {
            name: name.as_str(),
            removed: removed.iter().map(|(why, n)| (why.as_str(), n)).collect(),
        });
        Self {
            adapters: adapters.collect(),
        }
    }
}

impl AdapterStatus {
    fn new(snapshot: &AdapterSnapshot, memory: &MemoryStats, by_default: bool) -> Self {
        let rejected = snapshot.rejected.iter();
        Self {
            name: snapshot.name.as_str(),
            by_default,
            state: snapshot.breaker.state.as_str(),
            retry_after_s: snapshot.breaker.retry_after.map(|wait| wait.as_secs_f64()),
            in_flight: snapshot.in_flight,
            queued: snapshot.queued,
            queued_bytes: snapshot.queued_bytes,
            limits: Limits {
                in_flight: snapshot.max_in_flight,
                queued: snapshot.max_queued,
                queued_bytes: snapshot.max_queued_bytes,
                memory: memory.budget.map(|budget| Budget {
                    bytes: budget.bytes(),
                    mode: budget.mode().name(),
                }),
            },
            counts: Counts {
                succeeded: snapshot.succeeded,
                failed: snapshot.failed,
                timed_out: snapshot.timed_out,
                panicked: snapshot.panicked,
                rejected: rejected.map(|(why, n)| (why.as_str(), n)).collect(),
                cancelled: snapshot.cancelled,
                retries: snapshot.retries,
            },
            memory: memory.is_exact().then(|| CallMemory::new(memory)),
        }
    }
}

impl CallMemory {
    fn new(memory: &MemoryStats) -> Self {
        Self {
            allocated_bytes: memory.allocated.sum,
            peak_p95_bytes: memory.peak.quantile(0.95),
            peak_max_bytes: memory.peak.max,
            retained_bytes: memory.retained.bytes,
            over_budget: memory.over_budget,
            refused: memory.refused,
        }
    }
}

impl Memory {
    fn new(summary: &MemorySummary) -> Self {
        Self {
            records: summary.records(),
            calls: summary.calls,
            transitions: summary.transitions,
            bytes: summary.bytes,
            max_records: summary.threshold,
            adapters: summary.adapters.iter().map(History::new).collect(),
        }
    }
}

impl History {
    fn new(memory: &AdapterMemory) -> Self {
        Self {
            name: memory.name.as_str(),
            calls: memory.calls,
            max_calls: limit(memory.max_calls),
            transitions: memory.transitions,
            max_transitions: limit(memory.max_transitions),
            bytes: memory.bytes,
            last_cleanup_ago_s: memory.last_cleanup.map(|ago| ago.as_secs_f64()),
            cleanup_interval_s: memory.cleanup_interval.as_secs_f64(),
            retention_s: (!memory.retention.is_zero()).then_some(memory.retention.as_secs_f64()),
        }
    }
}

/// A cap of 0 is none.
fn limit(most: u64) -> Option<u64> {
    (most != 0).then_some(most)
}
