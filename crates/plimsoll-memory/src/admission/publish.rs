use super::{Admission, AdmissionStats};
use metrics::{counter, gauge};

impl Admission {
    /// Writes what became of those who asked to the current recorder of the `metrics` facade. Call it
    /// before a scrape.
    ///
    /// | series `plimsoll_admission_…` | kind | labels |
    /// |---|---|---|
    /// | `line_bytes`, `used_bytes`, `kept_bytes` | gauge, not a number where they are not known | |
    /// | `growth_bytes`, `on_trial_bytes`, `small_bytes`, `held_bytes` | gauge | |
    /// | `running`, `waiting` | gauge | |
    /// | `admitted_total`, `waited_total`, `tried_total`, `cancelled_total` | counter | |
    /// | `rejected_total` | counter | `reason`: `queue_full`, `queue_timeout`, `shed`, `share` |
    /// | `would_wait_total`, `would_reject_total` | counter | |
    pub fn publish_metrics(&self) {
        self.stats().publish();
    }
}

impl AdmissionStats {
    fn publish(&self) {
        let known = [
            ("plimsoll_admission_line_bytes", self.line),
            ("plimsoll_admission_used_bytes", self.used),
            ("plimsoll_admission_kept_bytes", self.kept),
            ("plimsoll_admission_growth_bytes", Some(self.growth)),
            ("plimsoll_admission_on_trial_bytes", Some(self.on_trial)),
            (
                "plimsoll_admission_small_bytes",
                Some(self.reserved_for_small),
            ),
            ("plimsoll_admission_held_bytes", Some(self.held)),
            ("plimsoll_admission_running", Some(self.running as u64)),
            ("plimsoll_admission_waiting", Some(self.waiting as u64)),
        ];
        for (name, value) in known {
            // Not what it was when it was known.
            gauge!(name).set(value.map_or(f64::NAN, |value| value as f64));
        }
        for (name, total) in [
            ("plimsoll_admission_admitted_total", self.admitted),
            ("plimsoll_admission_waited_total", self.waited),
            ("plimsoll_admission_tried_total", self.tried),
            ("plimsoll_admission_cancelled_total", self.cancelled),
            ("plimsoll_admission_would_wait_total", self.would_wait),
            ("plimsoll_admission_would_reject_total", self.would_reject),
        ] {
            counter!(name).absolute(total);
        }
        for (reason, total) in [
            ("queue_full", self.queue_full),
            ("queue_timeout", self.timed_out),
            ("shed", self.shed_total),
            ("share", self.over_share),
        ] {
            counter!("plimsoll_admission_rejected_total", "reason" => reason).absolute(total);
        }
    }
}
