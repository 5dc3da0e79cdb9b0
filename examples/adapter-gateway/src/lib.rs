//! A gateway that puts one question to several downstream adapters at once.
//!
//! Each module is one part a service of this kind has: downstreams in a database
//! ([`sql`]), over HTTP ([`chroma`], with its server in [`vector`]) and one that
//! fails on request ([`flaky`]); what they are asked and answer ([`question`]), and the adapters
//! they are called through ([`adapters`]), as a file says ([`settings`]); the HTTP API ([`api`])
//! with what it answers ([`reply`], [`status`]); and a load driver ([`load`]), which watches circuits
//! open and close ([`breakers`]), and changes the file meanwhile.
//! `main.rs` wires them together.

pub mod adapters;
pub mod api;
pub mod args;
pub mod body;
pub mod breakers;
pub mod chroma;
pub mod client;
pub mod corpus;
pub mod flaky;
pub mod heavy;
pub mod leak;
pub mod load;
pub mod problem;
pub mod question;
pub mod reply;
pub mod settings;
pub mod sql;
pub mod status;
mod text;
pub mod vector;

/// An error of any kind, for the start of the program, where it is only printed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
