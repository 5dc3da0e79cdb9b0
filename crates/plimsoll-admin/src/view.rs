//! The API's documents.

use plimsoll_core::{
    Lifecycle, Removed,
    lifecycle::TaskGroup,
    registry::{HoldingSnapshot, SweepReport},
};
use serde::{Serialize, Serializer};
use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

#[derive(Debug, Serialize)]
pub(crate) struct HoldingsView {
    holdings: Vec<HoldingView>,
    total: TotalView,
}

/// Figures are null where the holding panicked when it was asked for them.
#[derive(Debug, Serialize)]
struct HoldingView {
    name: &'static str,
    entries: Option<u64>,
    bytes: Option<u64>,
    max_entries: Option<u64>,
    max_bytes: Option<u64>,
    utilisation: Option<f64>,
    inserted: Option<u64>,
    removed: Option<RemovedView>,
    must_flush: bool,
    next_sweep_in_s: f64,
    overdue: bool,
    sweeps: u64,
    sweep_panics: u64,
    sweeps_overdue: u64,
    last_sweep: Option<LastSweepView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

/// Of the holdings that answered.
#[derive(Debug, Default, Serialize)]
struct TotalView {
    entries: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct LastSweepView {
    ago_s: f64,
    #[serde(flatten)]
    report: ReportView,
}

#[derive(Debug, Serialize)]
pub(crate) struct SweptView {
    pub(crate) swept: Vec<SweepView>,
}

#[derive(Debug, Serialize)]
pub(crate) struct SweepView {
    name: Cow<'static, str>,
    #[serde(flatten)]
    report: ReportView,
}

#[derive(Debug, Serialize)]
struct ReportView {
    removed: RemovedView,
    slices: u64,
    elapsed_ms: f64,
    longest_slice_ms: f64,
    panicked: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct TasksView {
    phase: &'static str,
    ready: bool,
    tracked: usize,
    max_tasks: usize,
    spawned: u64,
    refused: u64,
    panicked: u64,
    runtime_alive: usize,
    tasks: Vec<TaskView>,
}

#[derive(Debug, Serialize)]
struct TaskView {
    name: &'static str,
    count: usize,
    oldest_age_s: f64,
    site: String,
}

/// `{"expired": 3}`: every reason for which some left.
#[derive(Debug)]
pub(crate) struct RemovedView(pub(crate) Removed);

impl HoldingsView {
    pub(crate) fn new(holdings: &[HoldingSnapshot], now: Instant) -> Self {
        let mut total = TotalView::default();
        for usage in holdings.iter().filter_map(|holding| holding.usage) {
            total.entries = total.entries.saturating_add(usage.entries);
            total.bytes = total.bytes.saturating_add(usage.bytes);
        }
        Self {
            holdings: holdings
                .iter()
                .map(|holding| HoldingView::new(holding, now))
                .collect(),
            total,
        }
    }
}

impl HoldingView {
    fn new(holding: &HoldingSnapshot, now: Instant) -> Self {
        let HoldingSnapshot {
            usage,
            totals,
            stats,
            ..
        } = holding;
        let panicked = usage.is_none() || totals.is_none();
        Self {
            name: holding.name.as_str(),
            entries: usage.map(|usage| usage.entries),
            bytes: usage.map(|usage| usage.bytes),
            max_entries: usage.and_then(|usage| usage.max_entries),
            max_bytes: usage.and_then(|usage| usage.max_bytes),
            utilisation: usage.and_then(|usage| usage.utilisation()),
            inserted: totals.map(|totals| totals.inserted),
            removed: totals.map(|totals| RemovedView(totals.removed)),
            must_flush: holding.must_flush,
            next_sweep_in_s: seconds(holding.next_sweep, now),
            overdue: holding.overdue,
            sweeps: stats.sweeps,
            sweep_panics: stats.panics,
            sweeps_overdue: stats.overdue,
            last_sweep: stats.last.map(|(at, report)| LastSweepView {
                ago_s: seconds(now, at),
                report: report.into(),
            }),
            error: panicked.then_some("the holding panicked when it was asked"),
        }
    }
}

impl SweepView {
    pub(crate) fn new(name: impl Into<Cow<'static, str>>, report: SweepReport) -> Self {
        Self {
            name: name.into(),
            report: report.into(),
        }
    }
}

impl From<SweepReport> for ReportView {
    fn from(report: SweepReport) -> Self {
        Self {
            removed: RemovedView(report.removed),
            slices: report.slices,
            elapsed_ms: milliseconds(report.elapsed),
            longest_slice_ms: milliseconds(report.longest_slice),
            panicked: report.panicked,
        }
    }
}

impl TasksView {
    pub(crate) fn new(lifecycle: &Lifecycle, runtime_alive: usize, now: Instant) -> Self {
        let phase = lifecycle.phase();
        let counts = lifecycle.task_counts();
        let tasks = lifecycle.tasks();
        Self {
            phase: phase.as_str(),
            ready: phase == plimsoll_core::Phase::Running,
            tracked: tasks.iter().map(|group| group.count).sum(),
            max_tasks: lifecycle.max_tasks(),
            spawned: counts.spawned,
            refused: counts.refused,
            panicked: counts.panicked,
            runtime_alive,
            tasks: tasks
                .iter()
                .map(|group| TaskView::new(group, now))
                .collect(),
        }
    }
}

impl TaskView {
    fn new(group: &TaskGroup, now: Instant) -> Self {
        Self {
            name: group.name.as_str(),
            count: group.count,
            oldest_age_s: seconds(now, group.oldest),
            site: group.site.to_string(),
        }
    }
}

impl Serialize for RemovedView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0
                .iter()
                .map(|(reason, count)| (reason.as_str(), count)),
        )
    }
}

fn seconds(later: Instant, earlier: Instant) -> f64 {
    later.saturating_duration_since(earlier).as_secs_f64()
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// `2026-01-31T23:59:59.999Z`, as RFC 3339 has it. What was before 1970 is its beginning.
pub(crate) fn utc(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let millisecond = since.subsec_millis();
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

/// The date so many days after the beginning of 1970.
///
/// Years are counted from March, so that the odd day is the last of a year, and from the year 0,
/// so that they come in whole spans of 400 years.
const fn date(days: u64) -> (u64, u64, u64) {
    const TO_1970: u64 = 719_468;
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let days = days + TO_1970;
    let (spans, day) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = 400 * spans + year;
    match month {
        0..=9 => (year, month + 3, day),
        _ => (year + 1, month - 9, day),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_rfc_3339_has_it() {
        for (milliseconds, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_582_934_400_000, "2020-02-29T00:00:00.000Z"),
            (1_767_225_599_001, "2025-12-31T23:59:59.001Z"),
            (1_767_225_600_000, "2026-01-01T00:00:00.000Z"),
            (4_107_456_000_000, "2100-02-28T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
            assert_eq!(utc(time), want);
        }
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(utc(before), "1970-01-01T00:00:00.000Z");
    }
}
