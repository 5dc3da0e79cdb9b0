//! Configurations as whoever writes and reads them sees them.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod corpus;
#[cfg(unix)]
mod environment;
#[cfg(unix)]
mod files;
mod groups;
mod lists;
mod problems;
mod reload;
mod round_trip;
mod schema;
mod secrets;
mod support;
mod syntax;
mod values;
#[cfg(all(feature = "watch", unix))]
mod watch;
