//! What leaks, by name: how fast, how sure, and how long until the limit.
//!
//! A [`LeakDetector`] is told what each thing holds, once a second or so, and judges. It keeps the
//! *least* of each bucket of time, so that what is held for a moment does not count, over several
//! horizons at once:
//!
//! | bucket | span of 15 buckets | for |
//! |---|---|---|
//! | 3 s | 45 s | what is counted by name and in bytes: routes, adapters, layers, holdings |
//! | 20 s | 5 min | everything |
//! | 1 min | 15 min | everything |
//! | 4 min | 1 h | everything |
//!
//! A verdict begins on a horizon once its span of closed buckets says all of this:
//!
//! - *It rises.* Both windows of 10 buckets, of which one begins 5 after the other, rise by the test of
//!   Mann and Kendall, with at most the probability of chance that the [`Sensitivity`] allows; a straight
//!   line explains 0.8 of the variance, 0.97 on the shortest horizon; and it rose by enough to matter.
//! - *It is no staircase of a few steps.* At least half of the steps between buckets are a quarter of the
//!   mean one or more; on the shortest horizon, the newest is half of it.
//! - *It does not slow down.* The newest third rises at half the slope of its window or more; the newer
//!   half at 0.8 or more (tasks, descriptors and the process: 0.6) of the slope of the older half, and of that of
//!   the next longer horizon.
//! - *It is not only back.* At least half of the rise is above what was held before, and it is above that by
//!   half of what it ever fell by. That is remembered for 30, 33, 100 and 240 minutes, by the horizon, and
//!   for twice as long at most.
//! - *It is no holding below its known bound, and none explains it.* Such holdings explain a rise if all of
//!   them grow by so much that what is left of the growth of all routes is less than half of this
//!   route's; or if one alone grows by 0.7 to 1.4 of it.
//!
//! It ends there when twice in a row the newest third rose by less than a quarter of the slope that the verdict
//! began with.
//!
//! The *slope* is that of Theil and Sen over the newest window, on the shortest horizon where the verdict
//! stands. The *confidence* is *(1 − p) · r² · w* on the horizon where that is highest: *p* the probability of
//! chance in the window where it is higher, *r²* the share of the variance over the span that a straight line
//! explains, *w* 0.8, 0.9, 0.95 and 1 from the shortest horizon to the longest.
//!
//! # What cannot be told
//!
//! What fills at one rate looks as a leak does until it is full. So on the shortest horizon a warm-up, or a
//! cache that nobody registered, is taken for a leak if it fills for more than 40 seconds at one rate, or slows
//! down by less than a fifth in 21 seconds (an exponential of 90 seconds or more); the verdict ends
//! when it does slow down. So is the first rise of what goes up and down with a period of more than 40 seconds,
//! but no later one as long as the first is remembered. [`Sensitivity::Low`] leaves the shortest
//! horizon out: these are then 5 minutes, 140 seconds, and 10 minutes.
//!
//! Chance is no leak where it keeps to a level. Of noise with a standard deviation of 10 MB on each route, in
//! 20 000 hours none was told if what is off now says nothing of the next second; one, if it stays off for 10
//! seconds on average; and 19, if for 33 seconds. Of the process there was none. What wanders without a level
//! is told now and then.
//!
//! What is not above a former peak is not told. A leak below one is found when the peak is passed, or
//! forgotten.
//!
//! What the process holds follows its load, and a load that grows for minutes is no noise. It is best told
//! what is left after a purge, less what requests in flight hold.
//!
//! ```
//! use plimsoll_core::Name;
//! use plimsoll_memory::verdict::{LeakConfig, LeakDetector, LeakKind};
//! use std::time::Duration;
//! use tokio::time::Instant;
//!
//! let mut leaks = LeakDetector::new(&LeakConfig::new());
//! let (route, began) = (Name::from_static("/export"), Instant::now());
//! for second in 0..50 {
//!     let now = began + Duration::from_secs(second);
//!     leaks.observe(now, LeakKind::Route, route, second * 200_000, None);
//! }
//! let found = leaks.judge(began + Duration::from_secs(50), Some(120_000_000));
//! let verdict = &found.standing[0];
//! assert_eq!((verdict.kind, verdict.name), (LeakKind::Route, route));
//! assert_eq!(verdict.slope.round(), 200_000.0);
//! assert_eq!(verdict.time_to_limit.unwrap().as_secs(), 600);
//! ```

mod config;
mod detector;
mod rule;
mod series;
#[cfg(test)]
mod tests;

pub use self::{
    config::{LeakConfig, Sensitivity},
    detector::LeakDetector,
};
use plimsoll_core::Name;
use std::{fmt, time::Duration};
use tokio::time::Instant;

/// What may leak.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum LeakKind {
    /// The bytes of the process as a whole.
    Process,
    /// The bytes of a registered holding.
    Holding,
    /// The bytes that requests of a route have left behind.
    Route,
    /// The bytes that calls of an adapter have left behind.
    Adapter,
    /// The bytes that calls of a memory layer have left behind.
    Layer,
    /// How many tasks of a name there are.
    Task,
    /// How many descriptors are open.
    Descriptors,
}

/// Something leaks.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// What kind of thing it is.
    pub kind: LeakKind,
    /// Its name.
    pub name: Name,
    /// By how many bytes it grows each second; tasks and descriptors by how many.
    pub slope: f64,
    /// How sure that is, 0 to 1.
    pub confidence: f64,
    /// What it held when it was seen last: bytes, tasks or descriptors.
    pub held: u64,
    /// In how long it alone uses up what is left, at that slope. None where that is not known.
    pub time_to_limit: Option<Duration>,
    /// Since when it has grown, as far as it was looked at when the verdict began.
    pub since: Instant,
    /// Whether it was not told before. Of one that has ended it is not true.
    pub is_new: bool,
}

/// What came of looking at everything once.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Judgement {
    /// What leaks now: first what reaches its limit first, then by confidence.
    pub standing: Vec<Verdict>,
    /// What did when it was judged last, and no longer does, or is no longer there.
    pub ended: Vec<Verdict>,
}

impl LeakKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Process,
        Self::Holding,
        Self::Route,
        Self::Adapter,
        Self::Layer,
        Self::Task,
        Self::Descriptors,
    ];

    /// A word for it, `route` say.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Holding => "holding",
            Self::Route => "route",
            Self::Adapter => "adapter",
            Self::Layer => "layer",
            Self::Task => "task",
            Self::Descriptors => "descriptors",
        }
    }

    /// Whether it holds bytes. Tasks and descriptors are counted.
    #[must_use]
    pub const fn is_in_bytes(self) -> bool {
        !matches!(self, Self::Task | Self::Descriptors)
    }

    /// Whether it does not follow the load from one moment to the next.
    const fn is_exact(self) -> bool {
        matches!(
            self,
            Self::Holding | Self::Route | Self::Adapter | Self::Layer
        )
    }

    /// Whether bounded holdings may be what grows there.
    const fn may_be_held(self) -> bool {
        matches!(
            self,
            Self::Process | Self::Route | Self::Adapter | Self::Layer
        )
    }
}

impl fmt::Display for LeakKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
