//! The types that every part of Plimsoll plugs into: what a service holds, who sweeps it, how a
//! request is refused, and how the process ends.
//!
//! - A [`Bounded`] holding says what it holds, drops what has expired, gives up what is
//!   expendable, and closes. Its handle is a [`Holding`].
//! - The [`Registry`] knows every holding by name. One [sweeper](Registry::sweeper) serves them
//!   all, at each one's own times, with no traffic needed.
//! - [`Rejected`] is the one way to say no.
//! - [`Lifecycle`] owns the named tasks and walks the phases of a stop within its deadline.
//! - [`settings`] say once what a configuration is made of.
//! - [`Clock`] tells time for hot paths, and follows Tokio's clock when a test pauses it.
//!
//! # Example
//!
//! ```
//! use plimsoll_core::{Registry, test_util::FakeHolding};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = Registry::new();
//! tokio::spawn(registry.sweeper());
//!
//! // Any holding: a cache, a queue, a history. This one is a fake for tests.
//! let held = registry.register(FakeHolding::new("sessions", Duration::from_secs(60)))?;
//! held.insert(3);
//! assert_eq!(registry.snapshot()[0].usage.unwrap().entries, 3);
//!
//! // Dropping the last handle forgets the holding.
//! drop(held);
//! assert!(registry.snapshot().is_empty());
//! # Ok(())
//! # }
//! ```

mod bounded;
mod clock;
pub mod lifecycle;
mod name;
mod pressure;
mod problems;
pub mod registry;
mod rejected;
pub mod settings;
pub mod stripe;
mod sync;
#[cfg(feature = "test-util")]
pub mod test_util;

pub use self::{
    bounded::{
        Bounded, CloseReport, Holding, Next, RemovalReason, Removed, ShrinkPolicy, Step, Totals,
        Usage,
    },
    clock::Clock,
    lifecycle::{Lifecycle, LifecycleConfig, Phase, StopReason, StopReport},
    name::Name,
    pressure::Pressure,
    problems::{ConfigError, ConfigProblem, Problems},
    registry::{Registry, RegistryConfig},
    rejected::{RejectReason, Rejected},
};

/// A type-erased error, as in `tower::BoxError`.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A type-erased future that can be sent between threads.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
