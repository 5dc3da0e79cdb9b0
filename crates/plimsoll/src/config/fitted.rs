//! Adapters that come and go with what the files say.

use super::{
    AdapterSettings, AdapterSpec, FaultTolerance,
    files::{ADAPTERS, GENERAL},
    live::{Fitted, Placed, tell_adapter},
};
use crate::{Plimsoll, handle::WeakPlimsoll};
use plimsoll_adapter::{Adapter, AdapterControl, Adapters};
use plimsoll_config::Reading;
use plimsoll_core::{BoxError, ConfigError, Holding, Phase, registry::RegisterError};
use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
};
use tokio::time::Instant;

pub(crate) struct Set<Req, Res, X, F> {
    plimsoll: WeakPlimsoll,
    adapters: Adapters<Req, Res>,
    make: F,
    /// What the adapters were made of, in their order.
    made: Vec<Made<Req, Res, X>>,
}

/// An adapter, and what it was made of.
struct Made<Req, Res, X> {
    adapter: Adapter<Req, Res>,
    settings: X,
}

/// Adapters that are registered, and will not be any more when this is dropped.
struct Enlisted<Req, Res> {
    plimsoll: Plimsoll,
    adapters: Vec<Adapter<Req, Res>>,
}

impl<Req, Res, X, F> Fitted<X> for Set<Req, Res, X, F>
where
    Req: 'static,
    Res: 'static,
    X: AdapterSettings,
    F: Fn(&AdapterSpec<X>) -> Result<Adapter<Req, Res>, BoxError> + Send + Sync + 'static,
{
    fn prepare<'a>(
        &'a mut self,
        placed: &[Placed<X>],
        general: &FaultTolerance,
        reading: &mut Reading,
    ) -> Box<dyn FnOnce() + 'a> {
        let Some(plimsoll) = self.plimsoll.upgrade() else {
            return Box::new(|| {});
        };
        let is_stopping = plimsoll.lifecycle().phase() >= Phase::Closing;
        let made = self.made.iter().map(|made| (made.adapter.name(), made));
        let mut before: HashMap<_, _> = made.collect();
        let mut new = Vec::new();
        let mut kept = Vec::new();
        // Those that take the place of others are registered once these are not.
        let mut fresh = Vec::new();
        let mut enlisted = Enlisted {
            plimsoll,
            adapters: Vec::new(),
        };
        let enabled = placed.iter().filter(|placed| placed.spec.enabled);
        for Placed { spec, source } in enabled {
            let path = format!("{ADAPTERS}.{}", spec.name);
            let replaced = before.remove(&*spec.name);
            // ## It stays, with other limits perhaps.
            if let Some(made) = replaced
                && made.settings == spec.settings
            {
                let control = AdapterControl::from(&made.adapter);
                if let Err(error) = control.check(&spec.config) {
                    reading.refused(&format!("{path}.{GENERAL}"), GENERAL, &error, source);
                }
                kept.push((control, spec.config.clone()));
                new.push(Made::new(made.adapter.clone(), spec));
                continue;
            }
            // Whatever it was made of would be another once that is mended.
            if reading.is_wrong(&path) {
                continue;
            }
            // ## It is made, in the place of another or not.
            let adapter = match self.make(spec) {
                Ok(adapter) => adapter,
                Err(error) => {
                    match error.downcast_ref::<ConfigError>() {
                        Some(error) => {
                            reading.refused(&format!("{path}.{GENERAL}"), GENERAL, error, source);
                        }
                        None => {
                            let what = format!("cannot be made: {error}");
                            reading.problem(source.clone(), path, what);
                        }
                    }
                    continue;
                }
            };
            let registered = match replaced {
                // Nobody would close it.
                Some(_) if is_stopping => Err(RegisterError::Closed),
                Some(_) => {
                    fresh.push(adapter.clone());
                    Ok(())
                }
                None => enlisted.add(&adapter),
            };
            if let Err(error) = registered {
                reading.problem(source.clone(), path, error);
            }
            new.push(Made::new(adapter, spec));
        }
        // ## What is left is gone, or has its place taken.
        let gone = self.made.iter().map(|made| made.adapter.clone());
        let gone: Vec<_> = gone
            .filter(|old| !new.iter().any(|new| new.adapter.is(old)))
            .collect();
        let threshold = general.record_threshold;
        Box::new(move || {
            for (adapter, config) in kept {
                tell_adapter(&adapter, config);
            }
            // At once, so that no call meets half of a change. Calls in flight finish on the old.
            let adapters = new.iter().map(|made| made.adapter.clone());
            if let Err(error) = self.adapters.set(adapters.collect()) {
                // Not so: the names are those of a list without duplicates.
                tracing::error!(%error, "the adapters stay as they were");
            }
            let plimsoll = enlisted.keep();
            for adapter in &gone {
                plimsoll.dismiss(adapter);
            }
            for adapter in &fresh {
                enlist_late(&plimsoll, adapter);
            }
            if let Err(error) = self.adapters.record_threshold(threshold) {
                tracing::error!(%error, "the threshold of records stays as it was");
            }
            self.made = new;
        })
    }

    fn is_over(&self) -> bool {
        self.plimsoll.upgrade().is_none()
    }
}

impl<Req, Res, X, F> Set<Req, Res, X, F>
where
    F: Fn(&AdapterSpec<X>) -> Result<Adapter<Req, Res>, BoxError>,
{
    pub(crate) const fn new(plimsoll: WeakPlimsoll, adapters: Adapters<Req, Res>, make: F) -> Self {
        Self {
            plimsoll,
            adapters,
            make,
            made: Vec::new(),
        }
    }

    /// Makes an adapter. One that panics, or has another name, is none.
    fn make(&self, spec: &AdapterSpec<X>) -> Result<Adapter<Req, Res>, BoxError> {
        let made = catch_unwind(AssertUnwindSafe(|| (self.make)(spec)));
        let adapter = made.unwrap_or_else(|_| Err("it panicked".into()))?;
        let name = adapter.name();
        match name.as_str() == spec.name {
            true => Ok(adapter),
            false => Err(format!("it was given the name `{name}`").into()),
        }
    }
}

/// Registers an adapter that was put in the place of another, which is not registered any more.
fn enlist_late<Req, Res>(plimsoll: &Plimsoll, adapter: &Adapter<Req, Res>) {
    let Err(error) = plimsoll.enlist(adapter) else {
        return;
    };
    if error == RegisterError::Closed {
        // The service closes meanwhile, and closed the one before. It refuses calls from here on;
        // its history is nothing to wait for.
        drop(adapter.bounded().close(Instant::now()));
    }
    let adapter = adapter.name();
    tracing::error!(%adapter, %error, "the adapter is neither swept nor shown");
}

impl<Req, Res, X: Clone> Made<Req, Res, X> {
    fn new(adapter: Adapter<Req, Res>, spec: &AdapterSpec<X>) -> Self {
        Self {
            adapter,
            settings: spec.settings.clone(),
        }
    }
}

impl<Req, Res> Enlisted<Req, Res> {
    fn add(&mut self, adapter: &Adapter<Req, Res>) -> Result<(), RegisterError> {
        self.plimsoll.enlist(adapter)?;
        self.adapters.push(adapter.clone());
        Ok(())
    }

    /// They stay registered.
    fn keep(mut self) -> Plimsoll {
        self.adapters.clear();
        self.plimsoll.clone()
    }
}

impl<Req, Res> Drop for Enlisted<Req, Res> {
    fn drop(&mut self) {
        for adapter in &self.adapters {
            self.plimsoll.dismiss(adapter);
        }
    }
}
