//! How much of the requests that come is refused at once, and for want of what.

use super::Priority;
use crate::MemoryFigures;
use plimsoll_core::RejectReason;

/// All is shed once so much more tasks are alive than may be.
const TOO_MANY_TASKS: f64 = 0.25;

/// What there is too little of, so that requests are shed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scarce {
    Memory,
    /// Tasks that may be alive.
    Tasks,
    /// Descriptors that may be open.
    Descriptors,
}

/// Sheds a share of what comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shed {
    /// From 0 to 1.
    pub(super) share: f64,
    /// For want of that.
    pub(super) of: Scarce,
    /// What of a refusal was carried over, by priority.
    carried: [f64; Priority::ALL.len()],
}

/// How much is to be shed for the tasks that are alive, and for the descriptors that are open, of as many as
/// may be: the more of the two, from 0 to 1.
pub(super) fn crowded(
    figures: &MemoryFigures,
    max_tasks: Option<u64>,
    max_descriptors: Option<f64>,
) -> (f64, Scarce) {
    let tasks = figures.tasks.zip(max_tasks).map_or(0.0, |(tasks, most)| {
        let most = most as f64;
        (tasks as f64 - most) / (most * TOO_MANY_TASKS)
    });
    let open = figures.descriptors.zip(figures.max_descriptors);
    let descriptors = open
        .zip(max_descriptors)
        .map_or(0.0, |((open, all), percent)| {
            let (all, most) = (all as f64, all as f64 * percent / 100.0);
            (open as f64 - most) / (all - most).max(1.0)
        });
    let (share, of) = match tasks >= descriptors {
        true => (tasks, Scarce::Tasks),
        false => (descriptors, Scarce::Descriptors),
    };
    (share.clamp(0.0, 1.0), of)
}

// === impl Shed, Scarce ===

impl Shed {
    pub(super) const NOTHING: Self = Self {
        share: 0.0,
        of: Scarce::Memory,
        carried: [0.0; Priority::ALL.len()],
    };

    /// Sheds so much from now on.
    pub(super) const fn set(&mut self, share: f64, of: Scarce) {
        (self.share, self.of) = (share, of);
    }

    /// Whether the next one of a priority is refused. The share of those that are follows what is shed.
    pub(super) fn is_next(&mut self, priority: Priority) -> bool {
        let shed = priority.shed(self.share);
        if shed == 0.0 {
            // What was carried over is kept for when some are.
            return false;
        }
        let carried = &mut self.carried[priority as usize];
        *carried += shed;
        let is_next = *carried >= 1.0;
        if is_next {
            *carried -= 1.0;
        }
        is_next
    }
}

impl Scarce {
    /// What those are told who are refused for it.
    pub(super) const fn reason(self) -> RejectReason {
        match self {
            Self::Memory => RejectReason::MemoryPressure,
            Self::Tasks | Self::Descriptors => RejectReason::InFlightLimit,
        }
    }
}
