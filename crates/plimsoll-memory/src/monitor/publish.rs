use crate::{ManagerStats, MemoryFigures, MemoryManager, PressureLevel, reclaim::Freed};
use metrics::{counter, gauge};

impl MemoryManager {
    /// Writes how things are, and what was done, to the current recorder of the `metrics` facade. Call
    /// it before a scrape.
    ///
    /// | series `plimsoll_memory_…` | kind | labels |
    /// |---|---|---|
    /// | `pressure` | gauge, from 0 to 1, not a number where it is unknown | |
    /// | `level` | gauge, 1 for the level that it is | `level` |
    /// | `used_bytes`, `reclaimable_bytes` | gauge | |
    /// | `limit_bytes`, `line_bytes`, `headroom_bytes` | gauge, where they are known | |
    /// | `tracked_bytes`, `kept_blocks_bytes`, `resident_bytes`, `working_set_bytes`, `unattributed_bytes` | gauge, where they are known | |
    /// | `stall_ratio`, `tasks`, `descriptors`, `max_descriptors` | gauge, where they are known | |
    /// | `growth_bytes_per_second`, `time_to_limit_seconds` | gauge, not a number where they are unknown | |
    /// | `samples_total`, `failed_reads_total`, `level_changes_total`, `monitor_panics_total` | counter | |
    /// | `reclaims_total`, `skipped_reclaims_total` | counter | |
    /// | `reclaimed_bytes_total` | counter | `step`: `expire`, `purge`, `shrink`, `cancel` |
    /// | `reclaimed_entries_total` | counter | `step`: `expire`, `shrink`, `cancel`, `would_cancel` |
    /// | `reclaim_failures_total`, `left_behind_total`, `purges_total` | counter | |
    /// | `alerts_total`, `suppressed_alerts_total` | counter | |
    /// | `hook_calls_total`, `hook_skips_total`, `hook_panics_total` | counter | |
    pub fn publish_metrics(&self) {
        self.stats().publish();
    }
}

impl ManagerStats {
    fn publish(&self) {
        publish_figures(&self.figures);
        let Freed {
            expired,
            expired_bytes,
            shrunk,
            shrunk_bytes,
            cancelled,
            cancelled_bytes,
            would_cancel,
            failed,
            ..
        } = self.freed;
        for (step, bytes) in [
            ("expire", expired_bytes),
            ("purge", self.purged_bytes),
            ("shrink", shrunk_bytes),
            ("cancel", cancelled_bytes),
        ] {
            counter!("plimsoll_memory_reclaimed_bytes_total", "step" => step).absolute(bytes);
        }
        for (step, entries) in [
            ("expire", expired),
            ("shrink", shrunk),
            ("cancel", cancelled),
            ("would_cancel", would_cancel),
        ] {
            counter!("plimsoll_memory_reclaimed_entries_total", "step" => step).absolute(entries);
        }
        let hooks = &self.hooks;
        for (name, count) in [
            ("plimsoll_memory_samples_total", self.samples),
            ("plimsoll_memory_failed_reads_total", self.failed_reads),
            ("plimsoll_memory_level_changes_total", self.changes),
            ("plimsoll_memory_monitor_panics_total", self.panics),
            ("plimsoll_memory_reclaims_total", self.reclaims),
            (
                "plimsoll_memory_skipped_reclaims_total",
                self.skipped_reclaims,
            ),
            ("plimsoll_memory_reclaim_failures_total", failed),
            ("plimsoll_memory_left_behind_total", self.left_behind),
            ("plimsoll_memory_purges_total", self.purges),
            ("plimsoll_memory_alerts_total", hooks.alerts),
            ("plimsoll_memory_suppressed_alerts_total", hooks.suppressed),
            ("plimsoll_memory_hook_calls_total", hooks.called),
            ("plimsoll_memory_hook_skips_total", hooks.skipped),
            ("plimsoll_memory_hook_panics_total", hooks.panics),
        ] {
            counter!(name).absolute(count);
        }
    }
}

fn publish_figures(figures: &MemoryFigures) {
    let or_unknown = |value: Option<f64>| value.unwrap_or(f64::NAN);
    gauge!("plimsoll_memory_pressure").set(or_unknown(figures.pressure.value()));
    for level in PressureLevel::ALL {
        let is_it = f64::from(u8::from(level == figures.level));
        gauge!("plimsoll_memory_level", "level" => level.as_str()).set(is_it);
    }
    gauge!("plimsoll_memory_growth_bytes_per_second").set(or_unknown(figures.slope));
    let time = figures.time_to_limit.map(|time| time.as_secs_f64());
    gauge!("plimsoll_memory_time_to_limit_seconds").set(or_unknown(time));
    for (name, value) in [
        ("plimsoll_memory_used_bytes", figures.used),
        (
            "plimsoll_memory_reclaimable_bytes",
            Some(figures.reclaimable),
        ),
        ("plimsoll_memory_limit_bytes", figures.limit),
        ("plimsoll_memory_line_bytes", figures.line),
        ("plimsoll_memory_headroom_bytes", figures.headroom),
        ("plimsoll_memory_tracked_bytes", figures.tracked),
        ("plimsoll_memory_kept_blocks_bytes", figures.kept_blocks),
        ("plimsoll_memory_resident_bytes", figures.resident),
        ("plimsoll_memory_working_set_bytes", figures.working_set),
        ("plimsoll_memory_unattributed_bytes", figures.unattributed),
        ("plimsoll_memory_tasks", figures.tasks),
        ("plimsoll_memory_descriptors", figures.descriptors),
        ("plimsoll_memory_max_descriptors", figures.max_descriptors),
    ] {
        // What was never known has no series.
        if let Some(value) = value {
            gauge!(name).set(value as f64);
        }
    }
    if let Some(stall) = figures.stall {
        gauge!("plimsoll_memory_stall_ratio").set(stall);
    }
}
