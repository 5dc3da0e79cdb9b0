//! Making room, in this order: what has expired, what the allocator has free, what is expendable, and
//! at last the largest requests.
//!
//! | step | when | how much |
//! |---|---|---|
//! | expire | always | every holding is swept |
//! | purge | always, unless the allocator was asked just now | all that it gives back |
//! | shrink | the level is high at least, or memory is not short and it is time for it, or somebody asks; [`MonitorConfig::shrink`](crate::MonitorConfig::shrink), on by default | holdings of the lowest [priority](plimsoll_core::ShrinkPolicy) first, in proportion, above their floors, until it is enough |
//! | cancel | the level is critical, for three samples in a row | the largest requests above a floor, so many a second; only counted by default |
//!
//! It is done on a thread of its own. A holding that panics is left out. One that takes longer than
//! ten seconds is left behind with its thread, and left out from then on until it comes back; four of
//! these are the most, and with a fifth no more room is made until one comes back. Each is told of as an
//! [alert](crate::AlertKind::LeftBehind). Where the system has no other thread, it is tried again, after a
//! second at first, and a minute at the latest.

mod cancel;
mod plan;
mod purge;
mod run;

pub use self::{
    cancel::{CancelAsk, CancelLargest, Cancelled, Victim, choose_victims},
    run::{Freed, ReclaimKind, ReclaimReport, ReclaimStep, Why},
};
pub(crate) use self::{
    purge::{Purger, Reach},
    run::{Ask, Depth, Reclaimer},
};
use std::fmt;

/// No room was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ReclaimError {
    /// It was not done in time, or somebody else was at it for so long. It may go on.
    TimedOut,
    /// The monitor has ended.
    Stopped,
    /// Whoever was at it panicked, which is logged. The next one may succeed.
    Panicked,
}

impl fmt::Display for ReclaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "no room was made in time",
            Self::Stopped => "the monitor has ended, and so nobody makes room",
            Self::Panicked => "whoever was to make room panicked",
        })
    }
}

impl std::error::Error for ReclaimError {}

#[cfg(test)]
mod tests;
