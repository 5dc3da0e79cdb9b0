//! The documents that tell of circuit breakers.

use super::page::Page;
use crate::view::{RemovedView, milliseconds, utc};
use plimsoll_breaker::{
    CallRecord, CallTotals, CircuitBreaker, Evidence, HistoryUsage, Snapshot, Transition,
    WindowSnapshot,
};
use plimsoll_core::{Name, Removed};
use serde::Serialize;
use std::time::Duration;

#[derive(Debug, Serialize)]
pub(super) struct BreakersView {
    breakers: Vec<BreakerView>,
}

/// What is known of a breaker without its history. Percentages are null below the minimum of
/// calls.
#[derive(Debug, Serialize)]
pub(super) struct BreakerView {
    name: &'static str,
    state: &'static str,
    reason: &'static str,
    since: String,
    age_s: f64,
    retry_after_s: Option<f64>,
    window: WindowView,
    consecutive_failures: u32,
    /// In this state.
    rejected: u64,
    in_flight: u64,
    probes_in_flight: u32,
    probes_free: u32,
    attempt: u32,
    generation: u64,
    totals: TotalsView,
    lost_events: u64,
    history: HistoryView,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct WindowView {
    calls: u32,
    successes: u32,
    failures: u32,
    slow: u32,
    slow_failures: u32,
    failure_percent: Option<f64>,
    slow_percent: Option<f64>,
}

#[derive(Debug, Serialize)]
struct TotalsView {
    success: u64,
    failure: u64,
    ignored: u64,
    dropped: u64,
    stale: u64,
    slow: u64,
    rejected: RejectedView,
    would_reject: u64,
}

#[derive(Debug, Serialize)]
struct RejectedView {
    open: u64,
    half_open: u64,
    forced_open: u64,
}

/// Limits are null where there is none.
#[derive(Debug, Serialize)]
struct HistoryView {
    calls: u64,
    max_calls: Option<u64>,
    transitions: u64,
    max_transitions: Option<u64>,
    retention_s: Option<f64>,
    sweep_interval_s: f64,
    last_sweep_ago_s: Option<f64>,
}

/// A breaker and a part of its history.
#[derive(Debug, Serialize)]
pub(super) struct ShownView {
    #[serde(flatten)]
    breaker: BreakerView,
    transition_counts: Vec<TransitionCountView>,
    transitions: Vec<TransitionView>,
    calls: Vec<CallView>,
    matching: usize,
    offset: usize,
    limit: usize,
    next_offset: Option<usize>,
}

#[derive(Debug, Serialize)]
struct TransitionCountView {
    from: &'static str,
    to: &'static str,
    reason: &'static str,
    count: u64,
}

#[derive(Debug, Serialize)]
struct TransitionView {
    at: String,
    ago_s: f64,
    from: &'static str,
    to: &'static str,
    reason: &'static str,
    evidence: EvidenceView,
}

#[derive(Debug, Serialize)]
struct EvidenceView {
    calls: u32,
    failures: u32,
    slow: u32,
    slow_failures: u32,
    failure_percent: Option<f64>,
    slow_percent: Option<f64>,
    rejected: u64,
    generation: u64,
    attempt: u32,
    open_for_s: Option<f64>,
}

#[derive(Debug, Serialize)]
struct CallView {
    ended_at: String,
    ago_s: f64,
    duration_ms: f64,
    outcome: &'static str,
    slow: bool,
    probe: bool,
    stale: bool,
}

/// A breaker after something was done to it.
#[derive(Debug, Serialize)]
pub(super) struct OperatedView {
    #[serde(flatten)]
    breaker: BreakerView,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<RemovedView>,
}

#[derive(Debug, Serialize)]
pub(super) struct CleanedView {
    cleaned: Vec<CleanedOneView>,
}

#[derive(Debug, Serialize)]
struct CleanedOneView {
    name: &'static str,
    removed: RemovedView,
}

impl BreakersView {
    pub(super) fn new(breakers: &[CircuitBreaker]) -> Self {
        let views = breakers
            .iter()
            .map(|breaker| BreakerView::new(&breaker.snapshot()));
        Self {
            breakers: views.collect(),
        }
    }
}

impl BreakerView {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        Self {
            name: snapshot.name.as_str(),
            state: snapshot.state.as_str(),
            reason: snapshot.reason.as_str(),
            since: utc(snapshot.since),
            age_s: snapshot.age.as_secs_f64(),
            retry_after_s: snapshot.retry_after.as_ref().map(Duration::as_secs_f64),
            window: snapshot.window.into(),
            consecutive_failures: snapshot.consecutive_failures,
            rejected: snapshot.rejected,
            in_flight: snapshot.in_flight,
            probes_in_flight: snapshot.probes_in_flight,
            probes_free: snapshot.probes_free,
            attempt: snapshot.attempt,
            generation: snapshot.generation,
            totals: snapshot.totals.into(),
            lost_events: snapshot.lost_events,
            history: snapshot.history.into(),
            bytes: snapshot.bytes,
        }
    }
}

impl From<WindowSnapshot> for WindowView {
    fn from(window: WindowSnapshot) -> Self {
        Self {
            calls: window.calls,
            successes: window.successes(),
            failures: window.failures,
            slow: window.slow,
            slow_failures: window.slow_failures,
            failure_percent: window.failure_rate,
            slow_percent: window.slow_rate,
        }
    }
}

impl From<CallTotals> for TotalsView {
    fn from(totals: CallTotals) -> Self {
        Self {
            success: totals.successes,
            failure: totals.failures,
            ignored: totals.ignored,
            dropped: totals.dropped,
            stale: totals.stale,
            slow: totals.slow,
            rejected: RejectedView {
                open: totals.rejected_open,
                half_open: totals.rejected_half_open,
                forced_open: totals.rejected_forced_open,
            },
            would_reject: totals.would_reject,
        }
    }
}

impl From<HistoryUsage> for HistoryView {
    fn from(history: HistoryUsage) -> Self {
        let limit = |most: u64| Some(most).filter(|most| *most > 0);
        let retention = Some(history.retention).filter(|retention| !retention.is_zero());
        Self {
            calls: history.calls,
            max_calls: limit(history.max_calls),
            transitions: history.transitions,
            max_transitions: limit(history.max_transitions),
            retention_s: retention.as_ref().map(Duration::as_secs_f64),
            sweep_interval_s: history.sweep_interval.as_secs_f64(),
            last_sweep_ago_s: history.last_sweep.as_ref().map(Duration::as_secs_f64),
        }
    }
}

impl ShownView {
    pub(super) fn new(breaker: &CircuitBreaker, page: &Page) -> Self {
        let snapshot = breaker.snapshot();
        let counts = snapshot.transitions.iter().map(|of| TransitionCountView {
            from: of.from.as_str(),
            to: of.to.as_str(),
            reason: of.reason.as_str(),
            count: of.count,
        });
        let transitions = breaker.transitions().into_iter().take(page.limit);
        let asked = breaker.calls(&page.query());
        let calls: Vec<_> = asked.calls.iter().map(CallView::from).collect();
        Self {
            breaker: BreakerView::new(&snapshot),
            transition_counts: counts.collect(),
            transitions: transitions.map(TransitionView::from).collect(),
            matching: asked.matching,
            offset: page.offset,
            limit: page.limit,
            next_offset: page.next_offset(calls.len(), asked.matching),
            calls,
        }
    }
}

impl From<Transition> for TransitionView {
    fn from(transition: Transition) -> Self {
        Self {
            at: utc(transition.at),
            ago_s: transition.age.as_secs_f64(),
            from: transition.from.as_str(),
            to: transition.to.as_str(),
            reason: transition.reason.as_str(),
            evidence: transition.evidence.into(),
        }
    }
}

impl From<Evidence> for EvidenceView {
    fn from(evidence: Evidence) -> Self {
        Self {
            calls: evidence.calls,
            failures: evidence.failures,
            slow: evidence.slow,
            slow_failures: evidence.slow_failures,
            failure_percent: evidence.failure_rate,
            slow_percent: evidence.slow_rate,
            rejected: evidence.rejected,
            generation: evidence.generation,
            attempt: evidence.attempt,
            open_for_s: evidence.open_for.as_ref().map(Duration::as_secs_f64),
        }
    }
}

impl From<&CallRecord> for CallView {
    fn from(call: &CallRecord) -> Self {
        Self {
            ended_at: utc(call.ended_at),
            ago_s: call.age.as_secs_f64(),
            duration_ms: milliseconds(call.duration),
            outcome: call.outcome.as_str(),
            slow: call.slow,
            probe: call.probe,
            stale: call.stale,
        }
    }
}

impl OperatedView {
    pub(super) fn new(breaker: BreakerView, removed: Option<Removed>) -> Self {
        Self {
            breaker,
            removed: removed.map(RemovedView),
        }
    }
}

impl CleanedView {
    pub(super) fn new(cleaned: Vec<(Name, Removed)>) -> Self {
        let views = cleaned.into_iter().map(|(name, removed)| CleanedOneView {
            name: name.as_str(),
            removed: RemovedView(removed),
        });
        Self {
            cleaned: views.collect(),
        }
    }
}
