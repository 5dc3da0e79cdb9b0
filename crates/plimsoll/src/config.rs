#[cfg(feature = "admin")]
use plimsoll_admin::ControlConfig;
use plimsoll_core::{LifecycleConfig, RegistryConfig};
#[cfg(feature = "http")]
use plimsoll_http::ServerConfig;

/// The settings of a [`Plimsoll`](crate::Plimsoll), part by part.
///
/// Every part has defaults that suit a small service; a part is replaced as a whole.
///
/// ```
/// use plimsoll::{Config, LifecycleConfig};
/// use std::time::Duration;
///
/// let config = Config::new()
///     .lifecycle(LifecycleConfig::default().drain_delay(Duration::from_secs(10)));
/// ```
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until a service is started with them"]
pub struct Config {
    pub(crate) registry: RegistryConfig,
    pub(crate) lifecycle: LifecycleConfig,
    #[cfg(feature = "http")]
    pub(crate) server: ServerConfig,
    #[cfg(feature = "admin")]
    pub(crate) control: Option<ControlConfig>,
}

impl Config {
    /// The defaults of every part.
    pub fn new() -> Self {
        Self {
            registry: RegistryConfig::default(),
            lifecycle: LifecycleConfig::default(),
            #[cfg(feature = "http")]
            server: ServerConfig::default(),
            #[cfg(feature = "admin")]
            control: Some(ControlConfig::new()),
        }
    }

    /// Sets how holdings are swept.
    pub fn registry(mut self, registry: RegistryConfig) -> Self {
        self.registry = registry;
        self
    }

    /// Sets how the service stops, and how many tasks it may have.
    pub fn lifecycle(mut self, lifecycle: LifecycleConfig) -> Self {
        self.lifecycle = lifecycle;
        self
    }

    /// Sets what [`Plimsoll::serve`](crate::Plimsoll::serve) takes from its clients.
    #[cfg(feature = "http")]
    pub fn server(mut self, server: ServerConfig) -> Self {
        self.server = server;
        self
    }

    /// Sets where the probe and admin listeners are, and who may use them.
    ///
    /// Defaults to one listener for both on `127.0.0.1:8081`.
    #[cfg(feature = "admin")]
    pub fn control(mut self, control: ControlConfig) -> Self {
        self.control = Some(control);
        self
    }

    /// Starts neither probe nor admin listener, and leaves the metrics recorder alone.
    #[cfg(feature = "admin")]
    pub fn no_control(mut self) -> Self {
        self.control = None;
        self
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}
