use crate::{Attribution, Histogram, MemoryStats, SIZES};
use metrics::{counter, gauge};
use std::sync::LazyLock;

/// The bounds of the buckets in bytes, as the text that a scrape shows.
static BYTES: LazyLock<[String; SIZES.len()]> =
    LazyLock::new(|| SIZES.map(|size| size.to_string()));

impl MemoryStats {
    /// Writes what was weighed to the current recorder of the `metrics` facade, as series that begin
    /// with `prefix` and have the label `key="value"`. Call it before a scrape.
    ///
    /// | series | kind | where |
    /// |---|---|---|
    /// | `…_requests_total` | counter, with the label `attribution` | there were some |
    /// | `…_allocated_bytes_total` | counter | the allocator counted for some |
    /// | `…_live_bytes` | gauge | some were exact, as below |
    /// | `…_retained_bytes` | gauge | |
    /// | `…_peak_bytes` | histogram, as `_bucket`, `_count` and `_sum` | |
    /// | `…_over_budget_total` | counter, with the label `outcome`: `passed`, `refused`, `cut` | there is a budget, or some were over theirs |
    pub fn publish(&self, prefix: &str, key: &'static str, value: &'static str) {
        let name = |what: &str| format!("{prefix}_{what}");
        for attribution in Attribution::ALL {
            let requests = self.attributed(attribution);
            if requests > 0 {
                let labels = [(key, value), ("attribution", attribution.as_str())];
                counter!(name("requests_total"), &labels).absolute(requests);
            }
        }
        if self.is_exact() || self.attributed(Attribution::AllocatedOnly) > 0 {
            counter!(name("allocated_bytes_total"), key => value).absolute(self.allocated.sum);
        }
        // Of the others nobody knows, and 0 would say that somebody does.
        if !self.is_exact() {
            return;
        }
        gauge!(name("live_bytes"), key => value).set(self.live as f64);
        gauge!(name("retained_bytes"), key => value).set(self.retained.bytes as f64);
        publish_histogram(&name("peak_bytes"), key, value, &self.peak);
        if self.budget.is_none() && self.over_budget == 0 {
            return;
        }
        let passed = self.over_budget.saturating_sub(self.refused + self.cut);
        for (outcome, requests) in [
            ("passed", passed),
            ("refused", self.refused),
            ("cut", self.cut),
        ] {
            let labels = [(key, value), ("outcome", outcome)];
            counter!(name("over_budget_total"), &labels).absolute(requests);
        }
    }
}

/// The facade takes samples, not a histogram that is kept elsewhere, so its series are published one
/// by one under the names that they have in a scrape.
fn publish_histogram(name: &str, key: &'static str, value: &'static str, histogram: &Histogram) {
    let bucket = format!("{name}_bucket");
    for ((_, within), bound) in histogram.within().zip(&*BYTES) {
        let labels = [(key, value), ("le", bound.as_str())];
        counter!(bucket.clone(), &labels).absolute(within);
    }
    let all = histogram.count();
    counter!(bucket, &[(key, value), ("le", "+Inf")]).absolute(all);
    counter!(format!("{name}_count"), key => value).absolute(all);
    counter!(format!("{name}_sum"), key => value).absolute(histogram.sum);
}
