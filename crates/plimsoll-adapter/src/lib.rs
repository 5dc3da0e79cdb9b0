//! Downstreams with limits, called one, some or all at once.
//!
//! An [`Adapter`] stands between a service and one downstream: a line of bounded length, a number
//! of calls in flight, a circuit breaker, a timeout, and retries within a budget. [`Adapters`] are
//! several by name, called in parallel with partial results.
//!
//! ```
//! use plimsoll_adapter::{Adapter, Adapters};
//! use plimsoll_core::{BoxError, Rejected};
//! use std::{convert::Infallible, time::Duration};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let sql = Adapter::builder("qa-sql")
//!     .timeout(Duration::from_secs(2))
//!     .max_in_flight(64)
//!     .function(|question: String| async move {
//!         Ok::<_, Infallible>(format!("{question} 42"))
//!     })?;
//! let search = Adapter::builder("qa-search")
//!     .function(|_: String| async { Err::<String, _>(BoxError::from("no index")) })?;
//! let adapters = Adapters::new([sql, search])?;
//!
//! let answers = adapters
//!     .call_all("The answer?".into(), Some(Duration::from_secs(3)))
//!     .await;
//! for (adapter, answer) in answers.successes() {
//!     println!("{adapter}: {answer}");
//! }
//! for (adapter, error) in answers.failures() {
//!     println!("{adapter}: {error}, refused: {}", Rejected::find(error).is_some());
//! }
//! # assert_eq!(answers.successes().count(), 1);
//! # assert_eq!(answers.failures().count(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # A call
//!
//! 1. It takes a slot, or waits in line for one, first come, first served. It is refused if the
//!    line is [full](AdapterBuilder::max_queued) or the wait [too long](AdapterBuilder::queue_timeout).
//! 2. The circuit breaker lets it pass or refuses it.
//! 3. A clone of the service is made ready and called, within the [timeout](AdapterBuilder::timeout).
//! 4. What comes of it is judged, and settles the permit; then the slot is free.
//!
//! Refusals are [`Rejected`](plimsoll_core::Rejected) with the adapter's name, and are not held
//! against the downstream. A panic of the service, or of a closure the adapter was given, is an
//! error like others.
//!
//! # While it runs
//!
//! [`Adapter::reconfigure`] changes every limit in place; [`Adapters::set`] puts other adapters in
//! the place of all. Calls in flight end as they began.
//!
//! # Readiness
//!
//! An adapter is always ready as a Tower service: its calls wait in their futures. That of the
//! service inside is waited for within the timeout, on the clone that is called.
//!
//! # Cancellation
//!
//! Everything a call has taken lives in its future, and is given back by its drop.
//!
//! # Memory
//!
//! An adapter is a [`Holding`](plimsoll_core::Holding): register it, and its history is swept and
//! measured. Do not register its breaker besides.
//!
//! Where a [`TrackingAllocator`](plimsoll_alloc::TrackingAllocator) counts, [`Adapter::memory_stats`]
//! tells what calls allocate, hold and leave behind, and a call that holds more than its
//! [budget](AdapterConfig::memory_budget) can be ended.
//!
//! # Metrics
//!
//! With the feature `metrics`, [`Adapters`] and an [`AdapterDirectory`] publish what their adapters
//! count. Record alerts are counted by themselves.
//!
//! | metric | kind | labels besides `adapter` |
//! |---|---|---|
//! | `plimsoll_adapter_calls_total` | counter, of calls that ended | `outcome`: `succeeded`, `failed`, `timed_out`, `panicked`, `cancelled`, `rejected` |
//! | `plimsoll_adapter_rejected_total` | counter, of calls refused | `reason` |
//! | `plimsoll_adapter_retries_total` | counter, of attempts besides the first | |
//! | `plimsoll_adapter_in_flight`, `_max_in_flight` | gauge, of calls that hold a slot | |
//! | `plimsoll_adapter_queued`, `_queued_bytes` | gauge, of calls that wait | |
//! | `plimsoll_adapter_memory_…`, as [`MemoryStats::publish`](plimsoll_memory::MemoryStats::publish) says | of attempts, where the allocator counts | |
//! | `plimsoll_adapter_record_alerts_total` | counter, without `adapter` | |
//!
//! # Features
//!
//! | feature | what it adds | default |
//! |---|---|---|
//! | `metrics` | publishes `plimsoll_adapter_*` metrics through the `metrics` facade | no |

mod adapter;
mod adapters;
mod answers;
mod attempt;
mod builder;
mod call;
mod config;
mod control;
mod directory;
mod error;
mod function;
pub mod future;
mod gate;
mod join;
#[cfg(feature = "metrics")]
mod metrics;
mod panic;
mod records;
mod retry;
mod settings;
mod snapshot;
mod summary;
mod sync;

pub use self::{
    adapter::Adapter,
    adapters::{Adapters, DuplicateAdapter, UnknownAdapter},
    answers::{Answer, Answers},
    builder::AdapterBuilder,
    call::{CloneIfIdempotent, NeverAgain, RequestBytes, Unweighed},
    config::{AdapterConfig, AdapterValues},
    control::AdapterControl,
    directory::AdapterDirectory,
    error::{AdapterError, AdapterErrorKind},
    records::{RecordAlert, RecordThreshold},
    retry::RetryConfig,
    snapshot::{AdapterSnapshot, Rejections},
    summary::{AdapterMemory, MemorySummary},
};
pub use plimsoll_core::{ConfigError, ConfigProblem};
pub use plimsoll_memory::BudgetMode;
