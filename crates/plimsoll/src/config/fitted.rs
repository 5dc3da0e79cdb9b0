//! Adapters that come and go with what the files say.

use super::{
    AdapterSettings, AdapterSpec, FaultTolerance,
    files::{ADAPTERS, GENERAL},
    live::{Fitted, Placed, tell_adapter},
};
use crate::handle::WeakPlimsoll;
use plimsoll_adapter::{Adapter, AdapterControl, Adapters};
use plimsoll_config::Reading;
use plimsoll_core::{BoxError, ConfigError};
use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

pub(crate) struct Set<Req, Res, X, F> {
    plimsoll: WeakPlimsoll,
    adapters: Adapters<Req, Res>,
    make: F,
    /// What the adapters were made of, in their order.
    made: Arc<Mutex<Vec<Made<Req, Res, X>>>>,
}

/// An adapter, and what it was made of.
pub(crate) struct Made<Req, Res, X> {
    adapter: Adapter<Req, Res>,
    settings: X,
}

impl<Req, Res, X: Clone> Clone for Made<Req, Res, X> {
    fn clone(&self) -> Self {
        Self {
            adapter: self.adapter.clone(),
            settings: self.settings.clone(),
        }
    }
}

impl<Req, Res, X, F> Fitted<X> for Set<Req, Res, X, F>
where
    Req: 'static,
    Res: 'static,
    X: AdapterSettings,
    F: Fn(&AdapterSpec<X>) -> Result<Adapter<Req, Res>, BoxError> + Send + Sync + 'static,
{
    fn prepare(
        &self,
        placed: &[Placed<X>],
        general: &FaultTolerance,
        reading: &mut Reading,
    ) -> Box<dyn FnOnce() + Send> {
        let Some(plimsoll) = self.plimsoll.upgrade() else {
            return Box::new(|| {});
        };
        let old = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let old = old.clone();
        let mut before: HashMap<_, _> =
            old.iter().map(|made| (made.adapter.name(), made)).collect();
        let mut new = Vec::new();
        let mut kept = Vec::new();
        let mut fresh = Vec::new();
        let enabled = placed.iter().filter(|placed| placed.spec.enabled);
        for Placed { spec, source } in enabled {
            let path = format!("{ADAPTERS}.{}", spec.name);
            match before.remove(&*spec.name) {
                // ## It stays, with other limits perhaps.
                Some(made) if made.settings == spec.settings => {
                    let control = AdapterControl::from(&made.adapter);
                    match control.check(&spec.config) {
                        Ok(()) => kept.push((control, spec.config.clone())),
                        Err(error) => {
                            reading.refused(&format!("{path}.{GENERAL}"), &error, source);
                        }
                    }
                    new.push(made.clone());
                }
                // ## It is made, in the place of another or not.
                replaced => match self.make(spec) {
                    Ok(adapter) => {
                        // One that has the place of another is registered once that is not.
                        let registered = match replaced {
                            Some(_) => Ok(()),
                            None => plimsoll.enlist(&adapter),
                        };
                        if let Err(error) = registered {
                            reading.problem(source.clone(), path, error);
                        } else if replaced.is_some() {
                            fresh.push(adapter.clone());
                        }
                        new.push(Made {
                            adapter,
                            settings: spec.settings.clone(),
                        });
                    }
                    Err(error) => match error.downcast_ref::<ConfigError>() {
                        Some(error) => {
                            reading.refused(&format!("{path}.{GENERAL}"), error, source);
                        }
                        None => reading.problem(
                            source.clone(),
                            path,
                            format_args!("cannot be made: {error}"),
                        ),
                    },
                },
            }
        }
        // ## What is left is gone, or has its place taken.
        let new_adapters: Vec<_> = new.iter().map(|made| made.adapter.clone()).collect();
        let gone = old.into_iter().map(|made| made.adapter);
        let gone: Vec<_> = gone
            .filter(|old| !new_adapters.iter().any(|new| new.is(old)))
            .collect();
        let threshold = general.record_threshold;
        let (adapters, made) = (self.adapters.clone(), self.made.clone());
        Box::new(move || {
            for (adapter, config) in kept {
                tell_adapter(&adapter, config);
            }
            // At once, so that no call meets half of a change. Calls in flight finish on the old.
            if let Err(error) = adapters.set(new_adapters) {
                // Not so: the names are those of a list without duplicates.
                tracing::error!(%error, "the adapters stay as they were");
            }
            for adapter in &gone {
                plimsoll.dismiss(adapter);
            }
            for adapter in &fresh {
                if let Err(error) = plimsoll.enlist(adapter) {
                    let adapter = adapter.name();
                    tracing::error!(%adapter, %error, "the adapter is neither swept nor shown");
                }
            }
            if let Err(error) = adapters.record_threshold(threshold) {
                tracing::error!(%error, "the threshold of records stays as it was");
            }
            *made.lock().unwrap_or_else(PoisonError::into_inner) = new;
        })
    }
}

impl<Req, Res, X, F> Set<Req, Res, X, F>
where
    F: Fn(&AdapterSpec<X>) -> Result<Adapter<Req, Res>, BoxError>,
{
    pub(crate) fn new(plimsoll: WeakPlimsoll, adapters: Adapters<Req, Res>, make: F) -> Self {
        Self {
            plimsoll,
            adapters,
            make,
            made: Arc::default(),
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
