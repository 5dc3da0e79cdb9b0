//! What breakers tell the `metrics` facade.
//!
//! | metric | kind | labels besides `breaker` |
//! |---|---|---|
//! | `plimsoll_breaker_state` | gauge, 1 for the state it is in, 0 for the five others | `state` |
//! | `plimsoll_breaker_calls_total` | counter | `outcome`: `success`, `failure`, `ignored`, `dropped`, `stale` |
//! | `plimsoll_breaker_slow_calls_total` | counter | |
//! | `plimsoll_breaker_rejected_total` | counter | `reason`: `open`, `half_open`, `forced_open` |
//! | `plimsoll_breaker_would_reject_total` | counter | |
//! | `plimsoll_breaker_transitions_total` | counter, of those that happened | `from`, `to`, `reason` |
//! | `plimsoll_breaker_failure_ratio`, `_slow_ratio` | gauge, 0 to 1 | |
//! | `plimsoll_breaker_in_flight`, `_probes_in_flight` | gauge | |
//! | `plimsoll_breaker_lost_events_total` | counter | |
//! | `plimsoll_breaker_history_records` | gauge | `kind`: `calls`, `transitions` |
//! | `plimsoll_breaker_keys` | gauge, for keyed breakers | |
//! | `plimsoll_breaker_keys_removed_total` | counter, for keyed breakers | `reason` |
//! | `plimsoll_breaker_key_overflow_total` | counter, for keyed breakers | |
//!
//! A ratio is what the breaker judges by: of the window while closed, of the probes while half
//! open, of what opened it while open. It is 0 below the minimum of calls, where a rate means
//! nothing, so that an alert on a ratio is as quiet as the breaker.

use crate::{CallTotals, KeyedBreakers, Snapshot, State, sync::Mutex};
use metrics::{counter, gauge};
use plimsoll_core::{Holding, Name};
use std::collections::BTreeSet;

/// The breakers whose gauges are not zero, and the keyed ones.
#[derive(Debug, Default)]
pub(crate) struct Published(Mutex<BTreeSet<Name>>, Mutex<BTreeSet<Name>>);

impl Published {
    /// Publishes what was just seen, and forgets who is not there any more.
    pub(crate) fn publish(&self, snapshots: &[Snapshot]) {
        // Held throughout: what another thread saw is published before or after, and a breaker
        // that went in between is forgotten the next time. No breaker is called under it.
        let mut published = self.0.lock();
        let living: BTreeSet<_> = snapshots.iter().map(|snapshot| snapshot.name).collect();
        for gone in published.difference(&living) {
            forget(*gone);
        }
        snapshots.iter().for_each(publish);
        *published = living;
    }

    /// Publishes how many keys there are. The breakers of keys are not told apart: a label for
    /// each would be what their number is bounded for.
    pub(crate) fn publish_keyed(&self, keyed: &[KeyedBreakers]) {
        let mut published = self.1.lock();
        let living: BTreeSet<_> = keyed.iter().map(KeyedBreakers::name).collect();
        for gone in published.difference(&living) {
            gauge!("plimsoll_breaker_keys", "breaker" => gone.as_str()).set(0.0);
        }
        for breakers in keyed {
            let name = breakers.name().as_str();
            gauge!("plimsoll_breaker_keys", "breaker" => name).set(breakers.len() as f64);
            for (reason, keys) in breakers.bounded().totals().removed.iter() {
                counter!(
                    "plimsoll_breaker_keys_removed_total",
                    "breaker" => name, "reason" => reason.as_str()
                )
                .absolute(keys);
            }
            counter!("plimsoll_breaker_key_overflow_total", "breaker" => name)
                .absolute(breakers.overflowed());
        }
        *published = living;
    }
}

fn publish(snapshot: &Snapshot) {
    let breaker = snapshot.name.as_str();
    for state in State::ALL {
        let is_in = f64::from(u8::from(state == snapshot.state));
        gauge!("plimsoll_breaker_state", "breaker" => breaker, "state" => state.as_str())
            .set(is_in);
    }
    publish_calls(breaker, &snapshot.totals);
    for transition in &snapshot.transitions {
        counter!(
            "plimsoll_breaker_transitions_total",
            "breaker" => breaker, "from" => transition.from.as_str(),
            "to" => transition.to.as_str(), "reason" => transition.reason.as_str()
        )
        .absolute(transition.count);
    }
    counter!("plimsoll_breaker_lost_events_total", "breaker" => breaker)
        .absolute(snapshot.lost_events);
    let ratio = |percent: Option<f64>| percent.unwrap_or(0.0) / 100.0;
    Gauges {
        failure_ratio: ratio(snapshot.window.failure_rate),
        slow_ratio: ratio(snapshot.window.slow_rate),
        in_flight: snapshot.in_flight as f64,
        probes_in_flight: f64::from(snapshot.probes_in_flight),
        calls: snapshot.history.calls as f64,
        transitions: snapshot.history.transitions as f64,
    }
    .set(breaker);
}

fn publish_calls(breaker: &'static str, totals: &CallTotals) {
    for (outcome, calls) in [
        ("success", totals.successes),
        ("failure", totals.failures),
        ("ignored", totals.ignored),
        ("dropped", totals.dropped),
        ("stale", totals.stale),
    ] {
        counter!("plimsoll_breaker_calls_total", "breaker" => breaker, "outcome" => outcome)
            .absolute(calls);
    }
    counter!("plimsoll_breaker_slow_calls_total", "breaker" => breaker).absolute(totals.slow);
    for (state, calls) in [
        (State::Open, totals.rejected_open),
        (State::HalfOpen, totals.rejected_half_open),
        (State::ForcedOpen, totals.rejected_forced_open),
    ] {
        counter!("plimsoll_breaker_rejected_total", "breaker" => breaker, "reason" => state.as_str())
            .absolute(calls);
    }
    counter!("plimsoll_breaker_would_reject_total", "breaker" => breaker)
        .absolute(totals.would_reject);
}

/// A recorder cannot unregister a gauge, so it is brought to zero.
fn forget(name: Name) {
    let breaker = name.as_str();
    for state in State::ALL {
        gauge!("plimsoll_breaker_state", "breaker" => breaker, "state" => state.as_str()).set(0.0);
    }
    Gauges::default().set(breaker);
}

/// The gauges of a breaker, but for its state.
#[derive(Default)]
struct Gauges {
    failure_ratio: f64,
    slow_ratio: f64,
    in_flight: f64,
    probes_in_flight: f64,
    calls: f64,
    transitions: f64,
}

impl Gauges {
    fn set(&self, breaker: &'static str) {
        gauge!("plimsoll_breaker_failure_ratio", "breaker" => breaker).set(self.failure_ratio);
        gauge!("plimsoll_breaker_slow_ratio", "breaker" => breaker).set(self.slow_ratio);
        gauge!("plimsoll_breaker_in_flight", "breaker" => breaker).set(self.in_flight);
        gauge!("plimsoll_breaker_probes_in_flight", "breaker" => breaker)
            .set(self.probes_in_flight);
        for (kind, records) in [("calls", self.calls), ("transitions", self.transitions)] {
            gauge!("plimsoll_breaker_history_records", "breaker" => breaker, "kind" => kind)
                .set(records);
        }
    }
}
