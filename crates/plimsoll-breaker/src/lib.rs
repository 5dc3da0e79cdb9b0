//! Circuit breakers whose windows are exact, whose permits cannot leak, and whose memory is
//! bounded.
//!
//! A [`CircuitBreaker`] lets calls to a downstream pass while most do well, refuses them for a
//! while when too many do not, and then lets a few probe. Use it around a Tower service with
//! [`CircuitBreakerLayer`], or around anything with [`CircuitBreaker::try_acquire`].
//!
//! ```
//! use plimsoll_breaker::{CircuitBreaker, CircuitBreakerConfig, CircuitBreakerLayer, State};
//! use plimsoll_core::{BoxError, Rejected};
//! use std::time::Duration;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let breaker = CircuitBreaker::new(
//!     "orders",
//!     CircuitBreakerConfig::new()
//!         .minimum_calls(2)
//!         .failure_rate(50.0)
//!         .open_for(Duration::from_secs(10)),
//! )?;
//! let mut orders = ServiceBuilder::new()
//!     .layer(CircuitBreakerLayer::new(breaker.clone()))
//!     .service(service_fn(|_: ()| async { Err::<(), _>(BoxError::from("down")) }));
//!
//! for _ in 0..2 {
//!     orders.ready().await?.call(()).await.unwrap_err();
//! }
//! assert_eq!(breaker.state(), State::Open);
//! let error = orders.ready().await?.call(()).await.unwrap_err();
//! assert!(Rejected::find(&*error).unwrap().retry_after().is_some());
//! # Ok(())
//! # }
//! ```
//!
//! # What counts
//!
//! Each call has one [`Outcome`]. A [`Classify`] tells it; [`ErrorsAreFailures`] by default.
//! A call that panics has failed. A call that is dropped says nothing, unless
//! [`dropped_fails_after`](CircuitBreakerConfig::dropped_fails_after) has passed. A result that
//! comes after the breaker has changed its state is shown as stale and decides nothing.
//!
//! # Readiness
//!
//! An open breaker answers for the service inside without polling it: `poll_ready` is ready, and
//! `call` refuses. It never fails because of the breaker. Admission is decided in `call`; when
//! that refuses, the inner service is replaced by a clone, so that what it reserved is free.
//! With [`OnOpen::NotReady`] the service is not ready instead, for balancers.
//!
//! # Cancellation
//!
//! A permit lives in the future and is given back by its drop, polled or not. A probe whose
//! future is neither polled nor dropped loses its permit when its
//! [lease](CircuitBreakerConfig::probe_lease) ends.
//!
//! # Ordering
//!
//! Results are counted in an order in which they could have come: one that was there before
//! another began is counted before it. Events are told in the order in which they happened.
//!
//! # Features
//!
//! | feature | what it adds | default |
//! |---|---|---|
//! | `metrics` | publishes `plimsoll_breaker_*` through the `metrics` facade | no |

mod breaker;
mod chunk;
mod config;
mod directory;
mod error;
pub mod event;
pub mod future;
mod history;
mod holding;
mod keyed;
mod keyed_service;
mod layer;
#[cfg(all(test, plimsoll_loom))]
mod loom;
mod machine;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(all(test, not(plimsoll_loom)))]
mod model;
mod outcome;
mod permit;
mod records;
mod service;
mod settings;
mod snapshot;
mod state;
mod stripe;
mod sync;
mod waiters;
mod window;

pub use self::{
    breaker::CircuitBreaker,
    config::{AfterHalfOpen, CircuitBreakerConfig, HistoryConfig, HistoryUsage, ProbeRule, Window},
    directory::{Breakers, DuplicateBreaker},
    error::{CircuitOpen, IllegalTransition},
    event::{Event, EventKind, Events, Observer, TooManyObservers},
    keyed::{KeyedBreakers, KeyedConfig, Overflow},
    keyed_service::{KeyedBreakerLayer, KeyedBreakerService},
    layer::{CircuitBreakerLayer, OnOpen},
    outcome::{Classify, ErrorsAreFailures, Outcome, judge_error},
    permit::Permit,
    records::{CallOutcome, CallRecord, Calls, CallsQuery, Evidence, Transition},
    service::CircuitBreakerService,
    snapshot::{CallTotals, Snapshot, TransitionCount, WindowSnapshot},
    state::{Reason, State},
};
pub use plimsoll_core::{ConfigError, ConfigProblem};
use std::time::Duration;

/// A duration in ticks. One that is longer than ticks can count lasts for ever.
const fn nanos(duration: Duration) -> u64 {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 {
        u64::MAX
    } else {
        nanos as u64
    }
}
