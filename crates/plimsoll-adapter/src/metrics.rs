//! What adapters tell the `metrics` facade; the crate's documentation lists it.
//!
//! How long calls take is not among it: a histogram of each call would cost more than the rest of
//! what is counted. The slow ones are counted by the circuit breaker.

use crate::AdapterSnapshot;
use metrics::{counter, gauge};
use plimsoll_core::{Name, RejectReason};
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// The adapters whose gauges are not zero.
#[derive(Debug, Default)]
pub(crate) struct Published(Mutex<BTreeSet<Name>>);

impl Published {
    /// Publishes what was just seen, and forgets who is not there any more.
    pub(crate) fn publish(&self, snapshots: &[AdapterSnapshot]) {
        // Held throughout: what another thread saw is published before or after, and an adapter
        // that went in between is forgotten the next time. No adapter is called under it.
        let mut published = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let living: BTreeSet<_> = snapshots.iter().map(|snapshot| snapshot.name).collect();
        for gone in published.difference(&living) {
            // A recorder cannot unregister a gauge.
            Gauges::default().set(*gone);
        }
        snapshots.iter().for_each(publish);
        *published = living;
    }
}

fn publish(snapshot: &AdapterSnapshot) {
    let adapter = snapshot.name.as_str();
    for (outcome, calls) in [
        ("succeeded", snapshot.succeeded),
        ("failed", snapshot.failed),
        ("timed_out", snapshot.timed_out),
        ("panicked", snapshot.panicked),
        ("cancelled", snapshot.cancelled),
        ("rejected", snapshot.rejected.total()),
    ] {
        counter!("plimsoll_adapter_calls_total", "adapter" => adapter, "outcome" => outcome)
            .absolute(calls);
    }
    for reason in RejectReason::ALL {
        let calls = snapshot.rejected.get(reason);
        counter!(
            "plimsoll_adapter_rejected_total",
            "adapter" => adapter, "reason" => reason.as_str()
        )
        .absolute(calls);
    }
    counter!("plimsoll_adapter_retries_total", "adapter" => adapter).absolute(snapshot.retries);
    Gauges {
        in_flight: snapshot.in_flight,
        max_in_flight: snapshot.max_in_flight,
        queued: snapshot.queued,
        queued_bytes: snapshot.queued_bytes,
    }
    .set(snapshot.name);
}

#[derive(Default)]
struct Gauges {
    in_flight: u64,
    max_in_flight: u64,
    queued: u64,
    queued_bytes: u64,
}

impl Gauges {
    fn set(&self, adapter: Name) {
        let adapter = adapter.as_str();
        gauge!("plimsoll_adapter_in_flight", "adapter" => adapter).set(self.in_flight as f64);
        gauge!("plimsoll_adapter_max_in_flight", "adapter" => adapter)
            .set(self.max_in_flight as f64);
        gauge!("plimsoll_adapter_queued", "adapter" => adapter).set(self.queued as f64);
        gauge!("plimsoll_adapter_queued_bytes", "adapter" => adapter).set(self.queued_bytes as f64);
    }
}
