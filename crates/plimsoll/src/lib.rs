//! Plimsoll keeps an async service inside its memory limit, and ends it without losing work.
//!
//! This is the one crate a service adds. [`Plimsoll::start`] sets up what every part shares: the
//! [`Registry`] of all that holds memory with its sweeper, the [`Lifecycle`] with its named
//! tasks, and the probe and admin listeners. [`Plimsoll::layer`] is the one layer to put around a
//! service, and [`Plimsoll::serve`] runs it until it is told to stop.
//!
//! ```no_run
//! use plimsoll::{Config, Plimsoll};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), plimsoll::BoxError> {
//!     let plimsoll = Plimsoll::start(Config::new())?;
//!     let app = axum::Router::new()
//!         .route("/", axum::routing::get(|| async { "hello" }))
//!         .layer(plimsoll.layer())
//!         .with_state(());
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//!     let report = plimsoll.serve(listener, app).await?; // until SIGTERM
//!     println!("{report}");
//!     Ok(())
//! }
//! ```
//!
//! # Features
//!
//! | feature | what it adds | default |
//! |---|---|---|
//! | `adapter` | downstreams with limits, called in parallel; implies `breaker` | yes |
//! | `admin` | probe and admin listeners, and the metrics they serve | yes |
//! | `axum` | labels requests by the route that axum has matched | yes |
//! | `breaker` | circuit breakers, shown and operated by their names | yes |
//! | `client` | an HTTP client with limits, for adapters; implies `http` | yes |
//! | `config` | settings from files and the environment, reloaded while running; implies `adapter` | yes |
//! | `http` | the edge layer and the server | yes |
//! | `metrics` | `plimsoll_*` metrics through the `metrics` facade; `admin` implies it | yes |

mod config;
mod error;
mod handle;

#[cfg(feature = "config")]
pub use self::config::{
    AdapterSettings, AdapterSpec, ConfigFiles, Loaded, adapters_schema, config_schema,
};
#[cfg(feature = "adapter")]
pub use self::error::AdapterSetupError;
pub use self::{config::Config, error::StartError, handle::Plimsoll};
#[cfg(feature = "adapter")]
pub use plimsoll_adapter::{
    self as adapter, Adapter, AdapterBuilder, AdapterConfig, AdapterError, AdapterErrorKind,
    Adapters, Answer, Answers, RecordThreshold, RetryConfig,
};
#[cfg(feature = "admin")]
pub use plimsoll_admin::{ControlConfig, ReadinessOnPressure};
pub use plimsoll_alloc::{self as alloc, MemoryScope, TrackingAllocator};
#[cfg(feature = "breaker")]
pub use plimsoll_breaker::{
    self as breaker, Breakers, CircuitBreaker, CircuitBreakerConfig, CircuitBreakerLayer,
    CircuitOpen, Classify, HistoryConfig, KeyedBreakerLayer, KeyedBreakers, KeyedConfig, OnOpen,
    Outcome, ProbeRule, State, Window,
};
#[cfg(feature = "config")]
pub use plimsoll_config::{self as config_files, LoadError, Reload};
pub use plimsoll_core::{
    Bounded, BoxError, BoxFuture, Clock, CloseReport, Holding, Lifecycle, LifecycleConfig, Name,
    Next, Phase, Pressure, Registry, RegistryConfig, RejectReason, Rejected, RemovalReason,
    Removed, Step, StopReason, StopReport, Totals, Usage, lifecycle, registry, settings,
};
#[cfg(feature = "http")]
pub use plimsoll_http::{
    Edge, EdgeLayer, EndpointLabel, RejectedToResponse, Server, ServerConfig, Trailers, edge,
    reject, server,
};
#[cfg(all(feature = "breaker", feature = "http"))]
pub use plimsoll_http::{GrpcOutcome, HttpOutcome, grpc, outcome};
#[cfg(feature = "client")]
pub use plimsoll_http::{HttpClient, HttpClientConfig, Webhook, WebhookConfig, client};
#[cfg(any(feature = "adapter", feature = "http"))]
pub use plimsoll_memory::{
    self as memory, Admission, AdmissionConfig, AdmissionLayer, AdmissionMode, Alert, Attribution,
    Budget, BudgetKey, BudgetMode, LoadLine, MemoryConfig, MemoryLayer, MemoryManager,
    MonitorConfig, Priority,
};

/// The examples of the README and the guide, compiled.
#[cfg(all(
    doctest,
    feature = "adapter",
    feature = "admin",
    feature = "axum",
    feature = "breaker",
    feature = "config",
    feature = "http"
))]
mod documents {
    #[doc = include_str!("../../../README.md")]
    struct Readme;
    #[doc = include_str!("../../../docs/guide/adapter.md")]
    struct Adapter;
    #[doc = include_str!("../../../docs/guide/admin.md")]
    struct Admin;
    #[doc = include_str!("../../../docs/guide/axum.md")]
    struct Axum;
    #[doc = include_str!("../../../docs/guide/breaker.md")]
    struct Breaker;
    #[doc = include_str!("../../../docs/guide/config.md")]
    struct Configuration;
    #[doc = include_str!("../../../docs/guide/hyper.md")]
    struct Hyper;
    #[doc = include_str!("../../../docs/guide/load-line.md")]
    struct LoadLine;
    #[doc = include_str!("../../../docs/guide/memory.md")]
    struct Memory;
    #[doc = include_str!("../../../docs/guide/shutdown.md")]
    struct Shutdown;
    #[doc = include_str!("../../../docs/architecture.md")]
    struct Architecture;
}
