use crate::{Adapter, AdapterConfig, ConfigError, adapter::Shared};
use plimsoll_core::Name;
use std::{
    fmt,
    sync::{Arc, Weak},
};

/// Changes the limits of an adapter, whatever that calls and with what. It does not keep the
/// adapter alive.
#[derive(Clone)]
pub struct AdapterControl {
    name: Name,
    shared: Weak<Shared>,
}

impl AdapterControl {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            name: shared.name,
            shared: Arc::downgrade(shared),
        }
    }

    /// The adapter's name.
    #[must_use]
    pub const fn name(&self) -> Name {
        self.name
    }

    /// Whether the adapter is still there.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.shared.strong_count() > 0
    }

    /// [`Adapter::config`]; none if the adapter is gone.
    #[must_use]
    pub fn config(&self) -> Option<AdapterConfig> {
        Some(self.shared.upgrade()?.config())
    }

    /// Whether [`reconfigure`](Self::reconfigure) would take this configuration.
    ///
    /// # Errors
    ///
    /// As [`Adapter::reconfigure`].
    pub fn check(&self, config: &AdapterConfig) -> Result<(), ConfigError> {
        match self.shared.upgrade() {
            Some(shared) => shared.check(config),
            None => config.validate(),
        }
    }

    /// [`Adapter::reconfigure`]; does nothing if the adapter is gone.
    ///
    /// # Errors
    ///
    /// As [`Adapter::reconfigure`].
    pub fn reconfigure(&self, config: AdapterConfig) -> Result<(), ConfigError> {
        match self.shared.upgrade() {
            Some(shared) => shared.reconfigure(config),
            None => Ok(()),
        }
    }
}

impl<Req, Res> From<&Adapter<Req, Res>> for AdapterControl {
    fn from(adapter: &Adapter<Req, Res>) -> Self {
        Self::new(adapter.shared())
    }
}

impl fmt::Debug for AdapterControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdapterControl")
            .field("name", &self.name)
            .field("alive", &self.is_alive())
            .finish()
    }
}
