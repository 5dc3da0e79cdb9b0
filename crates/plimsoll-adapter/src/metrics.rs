//! What adapters tell the `metrics` facade; the crate's documentation lists it.
//!
//! How long calls take is not among it: a histogram of each call would cost more than the rest of
//! what is counted. The slow ones are counted by the circuit breaker.

use crate::{AdapterSnapshot, adapter::Shared};
use metrics::{counter, gauge};
use plimsoll_core::{Name, RejectReason};
use plimsoll_memory::RetainedByGroup;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The adapters whose gauges are not zero, and whether those of their memory are among them.
#[derive(Debug, Default)]
pub(crate) struct Published(Mutex<BTreeMap<Name, bool>>);

impl Published {
    /// Publishes what is seen of adapters, and forgets who is not there any more.
    pub(crate) fn publish(&self, adapters: &[Arc<Shared>]) {
        // At every scope of the process, so not once for each of them.
        let retained = RetainedByGroup::look();
        let look = |adapter: &Arc<Shared>| {
            let memory = adapter.weigher.stats_with(&retained);
            (adapter.snapshot(), memory)
        };
        let seen: Vec<_> = adapters.iter().map(look).collect();
        // Held throughout: what another thread saw is published before or after, and an adapter
        // that went in between is forgotten the next time. No adapter is called under it.
        let mut published = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let living = seen.iter().map(|(it, memory)| (it.name, memory.is_exact()));
        let living: BTreeMap<_, _> = living.collect();
        for (gone, is_weighed) in &*published {
            // A recorder cannot unregister a gauge.
            if !living.contains_key(gone) {
                Gauges::default().set(*gone);
            }
            if *is_weighed && living.get(gone) != Some(&true) {
                forget_memory(*gone);
            }
        }
        for (snapshot, memory) in &seen {
            publish(snapshot);
            memory.publish(MEMORY, "adapter", snapshot.name.as_str());
        }
        *published = living;
    }
}

/// What the series of memory begin with.
const MEMORY: &str = "plimsoll_adapter_memory";

/// What an adapter that is gone has left behind is nobody's here any more.
fn forget_memory(adapter: Name) {
    let adapter = adapter.as_str();
    gauge!(format!("{MEMORY}_live_bytes"), "adapter" => adapter).set(0.0);
    gauge!(format!("{MEMORY}_retained_bytes"), "adapter" => adapter).set(0.0);
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
