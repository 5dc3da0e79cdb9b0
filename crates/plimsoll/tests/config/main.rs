//! A service that goes by files.
#![cfg(all(feature = "admin", feature = "config"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

#[cfg(feature = "client")]
mod client;
mod coded;
mod ends;
mod listed;
mod precedence;
mod reload;
mod secret;
#[cfg(feature = "http")]
mod shown;
mod support;
mod watch;
