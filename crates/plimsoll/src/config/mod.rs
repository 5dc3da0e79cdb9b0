//! The settings of a service: in code, in files, in the environment.

#[cfg(feature = "config")]
mod adapters;
#[cfg(feature = "config")]
mod files;
#[cfg(feature = "config")]
pub(crate) mod fitted;
#[cfg(feature = "config")]
pub(crate) mod live;

#[cfg(feature = "config")]
mod schema;

#[cfg(feature = "config")]
pub use self::adapters::{AdapterSettings, AdapterSpec};
#[cfg(feature = "config")]
pub use self::files::{ConfigFiles, Loaded};
#[cfg(feature = "config")]
pub use self::schema::{adapters_schema, config_schema};

#[cfg(feature = "adapter")]
use plimsoll_adapter::{AdapterConfig, RecordThreshold};
#[cfg(feature = "admin")]
use plimsoll_admin::ControlConfig;
#[cfg(feature = "http")]
use plimsoll_alloc::Reclaim;
use plimsoll_core::{
    LifecycleConfig, RegistryConfig,
    settings::{Fields, Settings},
};
#[cfg(feature = "http")]
use plimsoll_http::ServerConfig;
#[cfg(feature = "client")]
use plimsoll_http::WebhookConfig;
#[cfg(feature = "http")]
use plimsoll_memory::MemoryConfig;

/// The settings of a [`Plimsoll`](crate::Plimsoll), part by part.
///
/// Every part has defaults that suit a small service; a part is replaced as a whole. With the
/// feature `config`, [`load`](Self::load) has files and the environment override what the code
/// says.
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
    #[cfg(feature = "http")]
    pub(crate) memory: MemoryConfig,
    #[cfg(feature = "http")]
    pub(crate) allocator: Option<Allocator>,
    #[cfg(feature = "client")]
    pub(crate) webhook: Option<WebhookConfig>,
    #[cfg(feature = "admin")]
    pub(crate) control: Option<ControlConfig>,
    #[cfg(feature = "adapter")]
    pub(crate) fault_tolerance: FaultTolerance,
    /// The files it was read from, to be read again.
    #[cfg(feature = "config")]
    pub(crate) live: Option<live::Handle>,
}

/// The allocator of the program.
#[cfg(feature = "http")]
#[derive(Clone, Copy)]
pub(crate) struct Allocator(pub(crate) &'static (dyn Reclaim + Sync));

#[cfg(feature = "http")]
impl std::fmt::Debug for Allocator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Allocator").finish_non_exhaustive()
    }
}

/// What all adapters have in common unless one says otherwise.
#[cfg(feature = "adapter")]
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultTolerance {
    pub(crate) adapter: AdapterConfig,
    pub(crate) record_threshold: RecordThreshold,
}

impl Config {
    /// The defaults of every part.
    pub fn new() -> Self {
        Self {
            registry: RegistryConfig::default(),
            lifecycle: LifecycleConfig::default(),
            #[cfg(feature = "http")]
            server: ServerConfig::default(),
            #[cfg(feature = "http")]
            memory: MemoryConfig::default(),
            #[cfg(feature = "http")]
            allocator: None,
            #[cfg(feature = "client")]
            webhook: None,
            #[cfg(feature = "admin")]
            control: Some(ControlConfig::new()),
            #[cfg(feature = "adapter")]
            fault_tolerance: FaultTolerance::default(),
            #[cfg(feature = "config")]
            live: None,
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

    /// Sets what requests may hold, and what is told of those that hold much. What files say of that
    /// counts at once when they change.
    #[cfg(feature = "http")]
    pub fn memory(mut self, memory: MemoryConfig) -> Self {
        self.memory = memory;
        self
    }

    /// Says which allocator the program has, so that it can be asked for the memory that it has free.
    /// That of the system by default.
    ///
    /// ```
    /// use plimsoll::{Config, TrackingAllocator};
    ///
    /// #[global_allocator]
    /// static ALLOC: TrackingAllocator = TrackingAllocator::system();
    ///
    /// # fn main() {
    /// let config = Config::new().allocator(&ALLOC);
    /// # }
    /// ```
    #[cfg(feature = "http")]
    pub fn allocator(mut self, allocator: &'static (dyn Reclaim + Sync)) -> Self {
        self.allocator = Some(Allocator(allocator));
        self
    }

    /// Has alerts of the memory monitor sent somewhere: that memory is short, that something leaks, that
    /// the limit is near. Nowhere by default; they are logged in any case.
    ///
    /// It takes `http` URIs alone. For others, give a
    /// [`Webhook::with_service`](plimsoll_http::Webhook::with_service) to
    /// [`Alerts::on_alert`](plimsoll_memory::Alerts::on_alert).
    ///
    /// ```
    /// use plimsoll::{Config, WebhookConfig};
    ///
    /// let webhook = WebhookConfig::new("http://alerts.example/memory").attempts(3);
    /// let config = Config::new().webhook(webhook);
    /// ```
    #[cfg(feature = "client")]
    pub fn webhook(mut self, webhook: WebhookConfig) -> Self {
        self.webhook = Some(webhook);
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

    /// Sets the limits of adapters that are made from a file, as far as the file does not.
    #[cfg(feature = "adapter")]
    pub fn adapters(mut self, adapter: AdapterConfig) -> Self {
        self.fault_tolerance.adapter = adapter;
        self
    }

    /// Sets how many records the histories of adapters that are made from a file may hold
    /// together. 80 % of their caps by default.
    #[cfg(feature = "adapter")]
    pub fn record_threshold(mut self, threshold: RecordThreshold) -> Self {
        self.fault_tolerance.record_threshold = threshold;
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

/// The keys of `config.yaml`.
impl Settings for Config {
    fn visit(&mut self, fields: &mut dyn Fields) {
        let about = "How the service stops, and how many tasks it may have.";
        fields.group("lifecycle", about, &mut self.lifecycle);
        let about = "How holdings are swept.";
        fields.group("registry", about, &mut self.registry);
        #[cfg(feature = "http")]
        {
            let about = "What the service takes from its clients.";
            fields.group("server", about, &mut self.server);
        }
        #[cfg(feature = "admin")]
        {
            let about = "Where the probe and admin listeners are, and who may use them.";
            plimsoll_core::settings::optional(fields, "control", about, &mut self.control);
        }
        #[cfg(feature = "client")]
        {
            let about = "Where alerts of the memory monitor are sent, besides the log.";
            plimsoll_core::settings::optional(fields, "webhook", about, &mut self.webhook);
        }
        // What can be changed while running comes last.
        #[cfg(feature = "http")]
        {
            let about = "What requests may hold, and what is told of those that hold much.";
            fields.group("memory", about, &mut self.memory);
        }
        #[cfg(feature = "adapter")]
        {
            let about = "The limits of adapters, unless adapters.yaml says otherwise of one.";
            fields.group("fault_tolerance", about, &mut self.fault_tolerance);
        }
    }
}

#[cfg(feature = "adapter")]
impl Settings for FaultTolerance {
    fn visit(&mut self, fields: &mut dyn Fields) {
        self.adapter.visit(fields);
        fields.setting(
            "record_threshold",
            "How many records all histories may hold together before the oldest go: a number, or \
             a share of the caps.",
            &mut self.record_threshold,
        );
    }
}
