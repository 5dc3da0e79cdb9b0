//! Tests of whole services, in `tests/`, and what it takes to run one out of memory: a
//! [service] of all kinds of load, a [driver] for it, a [memory cgroup](cgroup), and a [run] that puts
//! them together.
//!
//! `load-service-glibc`, `load-service-jemalloc` and their variants are the service,
//! `load-driver` is the driver, and `load-table` runs many and prints a table.

pub mod cgroup;
pub mod driver;
pub mod outcome;
pub mod run;
pub mod service;
pub mod timeline;

/// Any error.
pub type Error = plimsoll::BoxError;
