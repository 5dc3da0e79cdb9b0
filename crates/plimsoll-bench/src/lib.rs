//! A small harness for benchmarks whose cases are compared with each other.
//!
//! A [`Suite`] calibrates its cases to a sample time and then samples them in turn, forwards in
//! one round and backwards in the next, so that noise hits all of them alike. It prints medians,
//! minima, and the median of the ratios to a baseline *of the same round*, which stays meaningful
//! on a machine that does other things as well.
//!
//! With `--cg` the single-thread cases run under callgrind instead, which counts instructions.
//!
//! The binaries of this crate are described in its `README.md`.

pub mod breaker;
pub mod callgrind;
pub mod cpu;
pub mod edge;
pub mod edge_cases;
pub mod keyed;
pub mod leak_test;
pub mod load;
pub mod memory;
pub mod server;
pub mod stats;
pub mod suite;
pub mod table;

pub use self::{
    suite::{Options, Suite},
    table::Table,
};

/// The error of a benchmark that could not run.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
