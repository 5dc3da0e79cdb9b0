//! The breaker from outside: its vectors, its traps, and the contracts it keeps.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod common;
mod config;
mod events;
mod history;
mod regressions;
mod tower_contract;
mod traps;
mod vectors;
