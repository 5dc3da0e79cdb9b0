//! Adapters as their callers see them.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod build;
mod calls;
mod cancel;
mod control;
mod many;
mod panics;
mod reconfigure;
mod records;
mod retry;
mod set;
mod support;
