//! What requests allocate and hold, and budgets that end those that hold too much.
//!
//! With a [`TrackingAllocator`](plimsoll_alloc::TrackingAllocator) as the program's allocator, each
//! request has a [scope](plimsoll_alloc::MemoryScope), and what is allocated in it belongs to the
//! request until it is freed, by whomever. A [`Weigher`] adds up what requests of one kind
//! allocated, held at most, and left behind; [`MemoryLayer`] does so for the calls of any Tower
//! service, and the edge of `plimsoll-http` for HTTP requests, to the end of their bodies.
//!
//! ```
//! use plimsoll_alloc::TrackingAllocator;
//! use plimsoll_core::{BoxError, RejectReason, Rejected};
//! use plimsoll_memory::{Budget, MemoryLayer};
//! use tower::{Layer as _, ServiceExt as _, service_fn};
//!
//! #[global_allocator]
//! static ALLOC: TrackingAllocator = TrackingAllocator::system();
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let layer = MemoryLayer::new("reports").budget(Budget::enforce(1 << 20));
//! let reports = layer.layer(service_fn(|rows: usize| async move {
//!     let mut report = Vec::new();
//!     for _ in 0..rows {
//!         report.push([0_u8; 1_024]);
//!         tokio::task::yield_now().await;
//!     }
//!     Ok::<_, BoxError>(report.len())
//! }));
//! assert_eq!(reports.clone().oneshot(10).await.unwrap(), 10);
//!
//! // It holds too much on its way, so it ends there, and what it held is freed.
//! let error = reports.oneshot(10_000).await.unwrap_err();
//! assert_eq!(Rejected::find(&*error).unwrap().reason(), RejectReason::OverBudget);
//! let stats = layer.stats();
//! assert_eq!((stats.requests(), stats.refused), (2, 1));
//! # }
//! ```
//!
//! # How far a sample can be trusted
//!
//! | [`Attribution`] | where | what is known |
//! |---|---|---|
//! | `Exact` | the allocator counts precisely | allocated, live, peak, retained, to the byte |
//! | `AllocatedOnly` | it counts what is allocated only | allocated |
//! | `Estimated` | there is no such allocator, it is off, or has no place left for the scope | the bytes of bodies |
//! | `ProcessOnly` | the same, where there are no bodies | what the process holds |
//!
//! Budgets end nobody whose sample is not exact.
//!
//! # What belongs to a request
//!
//! What is allocated while its service is called, its future polled or dropped, and so on through its
//! body. Not what tasks allocate that it spawned, unless by [`spawn`] or [`spawn_blocking`]; a
//! [`ScopedStream`] is for streams that somebody else polls.
//!
//! # The process
//!
//! A [`MemoryManager`] looks at the process on a thread of its own, says how [close](PressureLevel) it is
//! to its [line](MonitorConfig), makes room, and tells [hooks](Alerts). What counts as used, and what is
//! done when, is in [`monitor`] and [`reclaim`].
//!
//! # Cancellation
//!
//! A request whose future is dropped is weighed there, and what it held is freed in its scope. A call
//! of a service otherwise ends when its response is there, which it leaves behind.
//!
//! # Ordering
//!
//! Inside a buffer: the worker task of one calls the service behind it in no scope of its callers.
//!
//! Of layers within layers each has a scope of its own, and what is allocated counts for all that
//! are around it.

pub mod admission;
pub mod alert;
mod attribution;
mod budget;
mod config;
mod heavy;
pub mod history;
mod layer;
mod load_line;
mod manager;
pub mod monitor;
pub mod pressure;
pub mod process;
#[cfg(feature = "profile")]
pub mod profile;
#[cfg(feature = "metrics")]
mod publish;
pub mod reclaim;
mod room;
pub mod show;
mod spawn;
mod stats;
pub mod system;
pub mod trend;
pub mod verdict;
mod weigh;
mod worker;

pub use self::{
    admission::{
        Admission, AdmissionConfig, AdmissionLayer, AdmissionMode, AdmissionStats, Admitted, Ask,
        BudgetKey, Permit, Priority, Waiting,
    },
    alert::{Alert, AlertKind, AlertSink, Alerts, Severity},
    attribution::Attribution,
    budget::{Budget, BudgetMode},
    config::MemoryConfig,
    heavy::{HeavyLog, HeavyRequest},
    layer::{MemoryFuture, MemoryLayer, MemoryService},
    load_line::{Held, HolderStats, LoadLine, LoadLineBuilder},
    manager::{ManagerBuilder, ManagerError, ManagerStats, MemoryManager, MonitorGuard},
    monitor::{Known, MemoryFigures, MonitorConfig, Signals, Source},
    pressure::{PressureChange, PressureLevel, ScaledTrigger},
    reclaim::{CancelLargest, ReclaimError, ReclaimReport},
    spawn::{ScopedStream, spawn, spawn_blocking},
    stats::{AGES, Histogram, MemoryStats, RetainedByGroup, SIZES, Sample},
    weigh::{Bodies, Ended, MustAsk, Weigher, Weighing},
};
