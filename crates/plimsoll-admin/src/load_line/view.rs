//! The documents that tell how the process keeps under its line. Sizes are in bytes, times in
//! seconds; what is not known is null.

use super::settings::values_of;
use crate::view::utc;
use plimsoll_alloc::{Mode, is_installed, mode};
use plimsoll_core::settings::Choice as _;
use plimsoll_memory::{
    Admission, Attribution, HolderStats, LoadLine, MemoryFigures, ReclaimReport,
    admission::RouteAdmission,
    alert::HookStats,
    history::{HistoryPoint, Resolution, Used},
    reclaim::{Freed, ReclaimStep},
    verdict::Verdict,
};
use serde::Serialize;
use serde_json::{Map, Value};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

#[derive(Debug, Serialize)]
pub(super) struct StatsView {
    /// How things are, in one sentence.
    state: String,
    process: ProcessView,
    pressure: PressureView,
    allocator: AllocatorView,
    admission: AdmissionView,
    leaks: Vec<LeakView>,
}

/// Of the last sample.
#[derive(Debug, Serialize)]
struct ProcessView {
    limit: Option<u64>,
    line: Option<u64>,
    used: Option<u64>,
    headroom: Option<u64>,
    reclaimable: u64,
    tracked: Option<u64>,
    kept_blocks: Option<u64>,
    resident: Option<u64>,
    working_set: Option<u64>,
    unattributed: Option<u64>,
    stall: Option<f64>,
    tasks: Option<u64>,
    descriptors: Option<u64>,
    max_descriptors: Option<u64>,
    slope: Option<f64>,
    time_to_limit_s: Option<f64>,
}

#[derive(Debug, Serialize)]
struct PressureView {
    value: Option<f64>,
    level: &'static str,
    for_s: f64,
}

#[derive(Debug, Serialize)]
struct AllocatorView {
    /// Null where the program has another allocator.
    mode: Option<&'static str>,
    attribution: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct AdmissionView {
    mode: Value,
    line: Option<u64>,
    used: Option<u64>,
    kept: Option<u64>,
    reused: f64,
    growth: u64,
    on_trial: u64,
    reserved_for_small: u64,
    running: usize,
    held: u64,
    waiting: usize,
    is_short: bool,
    drained_per_second: u64,
    shed: f64,
    admitted: u64,
    waited: u64,
    tried: u64,
    refused: RefusedView,
    cancelled: u64,
    would_wait: u64,
    would_reject: u64,
    routes: Vec<RouteView>,
}

#[derive(Debug, Serialize)]
struct RefusedView {
    queue_full: u64,
    queue_timeout: u64,
    shed: u64,
    share: u64,
}

#[derive(Debug, Serialize)]
struct RouteView {
    route: &'static str,
    expected: Option<u64>,
    refused: u64,
}

/// Tasks and descriptors are counted, whatever else leaks is in bytes.
#[derive(Debug, Serialize)]
struct LeakView {
    kind: &'static str,
    name: &'static str,
    slope: f64,
    confidence: f64,
    held: u64,
    time_to_limit_s: Option<f64>,
    since: String,
}

#[derive(Debug, Serialize)]
pub(super) struct MonitorView {
    state: String,
    pressure: PressureView,
    samples: u64,
    failed_reads: u64,
    level_changes: u64,
    panics: u64,
    reclaims: u64,
    skipped_reclaims: u64,
    freed: FreedView,
    purges: u64,
    purged_bytes: u64,
    left_behind: u64,
    last_reclaim: Option<LastReclaimView>,
    holders: HoldersView,
    alerts: AlertsView,
    history: Vec<SpanView>,
    config: ConfigView,
}

#[derive(Debug, Serialize)]
struct LastReclaimView {
    ago_s: f64,
    #[serde(flatten)]
    report: ReclaimView,
}

/// Of those who are asked what they hold.
#[derive(Debug, Serialize)]
struct HoldersView {
    rounds: u64,
    age_s: Option<f64>,
    panics: u64,
    left_behind: u64,
    silent: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct AlertsView {
    hooks: usize,
    told: u64,
    suppressed: u64,
    hook_calls: u64,
    hook_skips: u64,
    hook_panics: u64,
}

/// What is kept at a resolution.
#[derive(Debug, Serialize)]
struct SpanView {
    resolution: &'static str,
    points: usize,
    max_points: usize,
    from: Option<String>,
}

/// What counts now.
#[derive(Debug, Serialize)]
struct ConfigView {
    monitor: Map<String, Value>,
    admission: Map<String, Value>,
    leaks: Map<String, Value>,
}

#[derive(Debug, Serialize)]
pub(super) struct HistoryView {
    resolution: &'static str,
    /// Oldest first.
    points: Vec<PointView>,
}

#[derive(Debug, Serialize)]
struct PointView {
    time: String,
    used: Option<UsedView>,
    tracked: Option<u64>,
    resident: Option<u64>,
    unattributed: Option<u64>,
    limit: Option<u64>,
    pressure: Option<f64>,
    tasks: Option<u64>,
    in_flight: Option<u64>,
    refused: u64,
}

#[derive(Debug, Serialize)]
struct UsedView {
    min: u64,
    mean: u64,
    max: u64,
}

/// What was done to make room.
#[derive(Debug, Serialize)]
pub(super) struct ReclaimView {
    why: &'static str,
    /// What the process had in memory before and after.
    before: Option<u64>,
    after: Option<u64>,
    given_back: Option<u64>,
    freed: FreedView,
    steps: Vec<StepView>,
    more_steps: u64,
    took_s: f64,
}

#[derive(Debug, Serialize)]
struct FreedView {
    expired: u64,
    expired_bytes: u64,
    purges: u64,
    purged_bytes: u64,
    shrunk: u64,
    shrunk_bytes: u64,
    cancelled: u64,
    cancelled_bytes: u64,
    would_cancel: u64,
    failed: u64,
    left_out: u64,
}

#[derive(Debug, Serialize)]
struct StepView {
    kind: &'static str,
    name: Option<&'static str>,
    entries: u64,
    bytes: u64,
    took_s: f64,
    failed: bool,
}

impl StatsView {
    pub(super) fn new(line: &LoadLine) -> Self {
        let figures = line.manager().figures();
        let (now, wall) = (Instant::now(), SystemTime::now());
        let leaks = line.verdicts();
        Self {
            state: line.describe(),
            process: ProcessView::from(&figures),
            pressure: PressureView::from(&figures),
            allocator: AllocatorView::now(),
            admission: AdmissionView::new(line.admission()),
            leaks: leaks
                .iter()
                .map(|leak| LeakView::new(leak, now, wall))
                .collect(),
        }
    }
}

impl From<&MemoryFigures> for ProcessView {
    fn from(figures: &MemoryFigures) -> Self {
        Self {
            limit: figures.limit,
            line: figures.line,
            used: figures.used,
            headroom: figures.headroom,
            reclaimable: figures.reclaimable,
            tracked: figures.tracked,
            kept_blocks: figures.kept_blocks,
            resident: figures.resident,
            working_set: figures.working_set,
            unattributed: figures.unattributed,
            stall: figures.stall,
            tasks: figures.tasks,
            descriptors: figures.descriptors,
            max_descriptors: figures.max_descriptors,
            slope: figures.slope,
            time_to_limit_s: figures.time_to_limit.as_ref().map(Duration::as_secs_f64),
        }
    }
}

impl From<&MemoryFigures> for PressureView {
    fn from(figures: &MemoryFigures) -> Self {
        Self {
            value: figures.pressure.value(),
            level: figures.level.as_str(),
            for_s: figures.level_for.as_secs_f64(),
        }
    }
}

impl AllocatorView {
    fn now() -> Self {
        let mode = match mode() {
            // It would not be seen.
            Mode::Off => Some("off"),
            _ if !is_installed() => None,
            Mode::Counters => Some("counters"),
            _ => Some("precise"),
        };
        Self {
            mode,
            attribution: Attribution::of_allocator().map(Attribution::as_str),
        }
    }
}

impl AdmissionView {
    fn new(admission: &Admission) -> Self {
        let stats = admission.stats();
        let mut routes: Vec<_> = admission.routes().iter().map(RouteView::from).collect();
        routes.sort_unstable_by_key(|route| route.route);
        let mode = values_of(&admission.config()).remove("mode");
        Self {
            mode: mode.unwrap_or_default(),
            line: stats.line,
            used: stats.used,
            kept: stats.kept,
            reused: stats.reused,
            growth: stats.growth,
            on_trial: stats.on_trial,
            reserved_for_small: stats.reserved_for_small,
            running: stats.running,
            held: stats.held,
            waiting: stats.waiting,
            is_short: stats.is_short,
            drained_per_second: stats.drained_per_second,
            shed: stats.shed,
            admitted: stats.admitted,
            waited: stats.waited,
            tried: stats.tried,
            refused: RefusedView {
                queue_full: stats.queue_full,
                queue_timeout: stats.timed_out,
                shed: stats.shed_total,
                share: stats.over_share,
            },
            cancelled: stats.cancelled,
            would_wait: stats.would_wait,
            would_reject: stats.would_reject,
            routes,
        }
    }
}

impl From<&RouteAdmission> for RouteView {
    fn from(route: &RouteAdmission) -> Self {
        Self {
            route: route.name.as_str(),
            expected: route.expected,
            refused: route.refused,
        }
    }
}

impl LeakView {
    /// `now` is `wall` by the clock on the wall.
    fn new(leak: &Verdict, now: Instant, wall: SystemTime) -> Self {
        let age = now.saturating_duration_since(leak.since);
        Self {
            kind: leak.kind.as_str(),
            name: leak.name.as_str(),
            slope: leak.slope,
            confidence: leak.confidence,
            held: leak.held,
            time_to_limit_s: leak.time_to_limit.as_ref().map(Duration::as_secs_f64),
            since: utc(wall.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)),
        }
    }
}

impl MonitorView {
    pub(super) fn new(line: &LoadLine) -> Self {
        let manager = line.manager();
        let stats = manager.stats();
        let now = Instant::now();
        let last_reclaim = stats.last_reclaim.as_deref();
        Self {
            state: line.describe(),
            pressure: PressureView::from(&stats.figures),
            samples: stats.samples,
            failed_reads: stats.failed_reads,
            level_changes: stats.changes,
            panics: stats.panics,
            reclaims: stats.reclaims,
            skipped_reclaims: stats.skipped_reclaims,
            freed: FreedView::from(&stats.freed),
            purges: stats.purges,
            purged_bytes: stats.purged_bytes,
            left_behind: stats.left_behind,
            last_reclaim: last_reclaim.map(|report| LastReclaimView {
                ago_s: now.saturating_duration_since(report.ended).as_secs_f64(),
                report: ReclaimView::from(report),
            }),
            holders: HoldersView::from(&line.holders()),
            alerts: AlertsView::from(&stats.hooks),
            history: Resolution::ALL
                .map(|resolution| SpanView::new(line, resolution))
                .into(),
            config: ConfigView {
                monitor: values_of(&manager.config()),
                admission: values_of(&line.admission().config()),
                leaks: values_of(&line.leaks_config()),
            },
        }
    }
}

impl From<&HolderStats> for HoldersView {
    fn from(holders: &HolderStats) -> Self {
        Self {
            rounds: holders.rounds,
            age_s: holders.age.as_ref().map(Duration::as_secs_f64),
            panics: holders.panics,
            left_behind: holders.left_behind,
            silent: holders.silent.iter().map(|name| name.as_str()).collect(),
        }
    }
}

impl From<&HookStats> for AlertsView {
    fn from(hooks: &HookStats) -> Self {
        Self {
            hooks: hooks.hooks,
            told: hooks.alerts,
            suppressed: hooks.suppressed,
            hook_calls: hooks.called,
            hook_skips: hooks.skipped,
            hook_panics: hooks.panics,
        }
    }
}

impl SpanView {
    fn new(line: &LoadLine, resolution: Resolution) -> Self {
        let points = line.history(resolution);
        Self {
            resolution: resolution.name(),
            points: points.len(),
            max_points: resolution.points(),
            from: points.first().map(|point| utc(point.time)),
        }
    }
}

impl HistoryView {
    pub(super) fn new(line: &LoadLine, resolution: Resolution) -> Self {
        let points = line.history(resolution);
        Self {
            resolution: resolution.name(),
            points: points.iter().map(PointView::from).collect(),
        }
    }
}

impl From<&HistoryPoint> for PointView {
    fn from(point: &HistoryPoint) -> Self {
        Self {
            time: utc(point.time),
            used: point
                .used
                .map(|Used { min, mean, max, .. }| UsedView { min, mean, max }),
            tracked: point.tracked,
            resident: point.resident,
            unattributed: point.unattributed(),
            limit: point.limit,
            pressure: point.pressure.value(),
            tasks: point.tasks,
            in_flight: point.in_flight,
            refused: point.refused,
        }
    }
}

impl From<&ReclaimReport> for ReclaimView {
    fn from(report: &ReclaimReport) -> Self {
        Self {
            why: report.why.as_str(),
            before: report.before,
            after: report.after,
            given_back: report.given_back(),
            freed: FreedView::from(&report.freed),
            steps: report.steps.iter().map(StepView::from).collect(),
            more_steps: report.more_steps,
            took_s: report.took.as_secs_f64(),
        }
    }
}

impl From<&Freed> for FreedView {
    fn from(freed: &Freed) -> Self {
        Self {
            expired: freed.expired,
            expired_bytes: freed.expired_bytes,
            purges: freed.purges,
            purged_bytes: freed.purged_bytes,
            shrunk: freed.shrunk,
            shrunk_bytes: freed.shrunk_bytes,
            cancelled: freed.cancelled,
            cancelled_bytes: freed.cancelled_bytes,
            would_cancel: freed.would_cancel,
            failed: freed.failed,
            left_out: freed.left_out,
        }
    }
}

impl From<&ReclaimStep> for StepView {
    fn from(step: &ReclaimStep) -> Self {
        Self {
            kind: step.kind.as_str(),
            name: step.name.map(plimsoll_core::Name::as_str),
            entries: step.entries,
            bytes: step.bytes,
            took_s: step.took.as_secs_f64(),
            failed: step.failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi::document;
    use plimsoll_core::Name;
    use plimsoll_memory::verdict::{LeakConfig, LeakDetector, LeakKind};
    use serde_json::json;

    #[test]
    fn what_leaks_is_told_as_the_document_says() {
        let mut leaks = LeakDetector::new(&LeakConfig::new());
        let (route, began) = (Name::from_static("/export"), Instant::now());
        let after = |seconds| began + Duration::from_secs(seconds);
        for second in 0..50 {
            let held = second * 200_000;
            leaks.observe(after(second), LeakKind::Route, route, held, None);
        }
        let found = leaks.judge(after(50), Some(120_000_000));
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(50);
        let told = LeakView::new(&found.standing[0], after(50), wall);
        let mut told = serde_json::to_value(told).unwrap();
        let schema = &document()["components"]["schemas"]["Leak"];
        let keys: Vec<_> = told.as_object().unwrap().keys().collect();
        assert_eq!(json!(keys), schema["required"]);
        let kinds = schema["properties"]["kind"]["enum"].as_array().unwrap();
        assert!(kinds.contains(&told["kind"]));

        let confidence = told["confidence"].take();
        assert!((0.5..=1.0).contains(&confidence.as_f64().unwrap()));
        let since = told["since"].take();
        assert!(
            since.as_str().unwrap().starts_with("1970-01-01T00:00:0"),
            "{since}"
        );
        assert_eq!(
            told,
            json!({
                "kind": "route",
                "name": "/export",
                "slope": 200_000.0,
                "confidence": null,
                "held": 9_800_000,
                "time_to_limit_s": 600.0,
                "since": null,
            })
        );
    }
}
