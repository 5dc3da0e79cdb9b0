//! What the registry tells the `metrics` facade. Without the feature, nothing.
//!
//! | metric | kind | labels |
//! |---|---|---|
//! | `plimsoll_sweeps_total` | counter | `holding` |
//! | `plimsoll_sweep_panics_total` | counter | `holding` |
//! | `plimsoll_sweep_overdue_total` | counter | `holding` |
//! | `plimsoll_sweep_longest_slice_seconds` | gauge, of the last sweep | `holding` |
//! | `plimsoll_shrinks_total` | counter | `holding` |
//! | `plimsoll_shrink_panics_total` | counter | `holding` |
//! | `plimsoll_holding_entries`, `_bytes` | gauge | `holding` |
//! | `plimsoll_holding_max_entries`, `_max_bytes` | gauge, where there is a limit | `holding` |
//! | `plimsoll_holding_inserted_total` | counter | `holding` |
//! | `plimsoll_holding_removed_total` | counter | `holding`, `reason` |

#[cfg(not(feature = "metrics"))]
pub(super) use disabled::{forget, overdue, shrunk, swept};
#[cfg(feature = "metrics")]
pub(super) use enabled::{forget, overdue, publish, shrunk, swept};

#[cfg(feature = "metrics")]
mod enabled {
    use crate::{
        Name,
        registry::{HoldingSnapshot, ShrinkReport, SweepReport},
    };
    use metrics::{counter, gauge};

    pub(crate) fn swept(name: Name, report: &SweepReport) {
        let holding = name.as_str();
        counter!("plimsoll_sweeps_total", "holding" => holding).increment(1);
        gauge!("plimsoll_sweep_longest_slice_seconds", "holding" => holding)
            .set(report.longest_slice.as_secs_f64());
        if report.panicked {
            counter!("plimsoll_sweep_panics_total", "holding" => holding).increment(1);
        }
    }

    pub(crate) fn shrunk(name: Name, report: &ShrinkReport) {
        let holding = name.as_str();
        counter!("plimsoll_shrinks_total", "holding" => holding).increment(1);
        if report.panicked {
            counter!("plimsoll_shrink_panics_total", "holding" => holding).increment(1);
        }
    }

    pub(crate) fn overdue(name: Name) {
        counter!("plimsoll_sweep_overdue_total", "holding" => name.as_str()).increment(1);
    }

    pub(crate) fn publish(snapshot: &HoldingSnapshot) {
        let holding = snapshot.name.as_str();
        if let Some(usage) = snapshot.usage {
            gauge!("plimsoll_holding_entries", "holding" => holding).set(usage.entries as f64);
            gauge!("plimsoll_holding_bytes", "holding" => holding).set(usage.bytes as f64);
            if let Some(most) = usage.max_entries {
                gauge!("plimsoll_holding_max_entries", "holding" => holding).set(most as f64);
            }
            if let Some(most) = usage.max_bytes {
                gauge!("plimsoll_holding_max_bytes", "holding" => holding).set(most as f64);
            }
        }
        if let Some(totals) = snapshot.totals {
            counter!("plimsoll_holding_inserted_total", "holding" => holding)
                .absolute(totals.inserted);
            for (reason, count) in totals.removed.iter() {
                counter!(
                    "plimsoll_holding_removed_total",
                    "holding" => holding, "reason" => reason.as_str()
                )
                .absolute(count);
            }
        }
    }

    /// A recorder cannot unregister a gauge, so it is brought to zero.
    pub(crate) fn forget(name: Name) {
        let holding = name.as_str();
        gauge!("plimsoll_holding_entries", "holding" => holding).set(0.0);
        gauge!("plimsoll_holding_bytes", "holding" => holding).set(0.0);
    }
}

#[cfg(not(feature = "metrics"))]
mod disabled {
    use crate::{
        Name,
        registry::{ShrinkReport, SweepReport},
    };

    pub(crate) fn swept(_: Name, _: &SweepReport) {}
    pub(crate) fn shrunk(_: Name, _: &ShrinkReport) {}
    pub(crate) fn overdue(_: Name) {}
    pub(crate) fn forget(_: Name) {}
}
