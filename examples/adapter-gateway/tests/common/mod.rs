//! Adapters that tests put there and take away.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use adapter_gateway::adapters::{Adapter, Known};
use plimsoll::{Adapters, RecordThreshold};
use std::{
    collections::BTreeSet,
    ops::Deref,
    sync::{Arc, Mutex},
};

/// How many records the histories of all adapters hold together, at most.
pub(crate) const MAX_RECORDS: u64 = 10_000;

/// The adapters of a gateway, as a configuration would have them.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    known: Known,
    by_default: Arc<Mutex<BTreeSet<String>>>,
}

impl Put {
    pub(crate) fn new() -> Self {
        let all = Adapters::default();
        let threshold = RecordThreshold::Records(MAX_RECORDS);
        all.record_threshold(threshold).unwrap();
        let by_default = Arc::<Mutex<BTreeSet<String>>>::default();
        let asked = by_default.clone();
        let known = Known::new(all, move || asked.lock().unwrap().clone());
        Self { known, by_default }
    }

    /// Puts an adapter in the place of the one of its name, if there is one.
    pub(crate) fn put(&self, adapter: Adapter, by_default: bool) {
        let name = adapter.name().to_string();
        match by_default {
            true => self.by_default.lock().unwrap().insert(name),
            false => self.by_default.lock().unwrap().remove(&name),
        };
        self.all().replace(adapter);
    }
}

impl Deref for Put {
    type Target = Known;

    fn deref(&self) -> &Known {
        &self.known
    }
}
