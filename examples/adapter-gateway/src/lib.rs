//! A gateway that puts one question to several downstream adapters at once.
//!
//! Each module is one part a service of this kind has: adapters over a database
//! ([`sql`]), over HTTP ([`chroma`], with its server in [`vector`]) and one that
//! fails on request ([`flaky`]); the parallel call ([`adapters`]), each behind a circuit breaker
//! ([`breakers`]); the HTTP API ([`api`]); and a load driver ([`load`]). `main.rs` wires them together.

pub mod adapters;
pub mod api;
pub mod args;
pub mod body;
pub mod breakers;
pub mod chroma;
pub mod client;
pub mod corpus;
pub mod flaky;
pub mod load;
pub mod problem;
pub mod sql;
mod text;
pub mod vector;

/// An error of any kind, for the start of the program, where it is only printed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
