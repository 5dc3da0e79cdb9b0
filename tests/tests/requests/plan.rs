//! What is asked, in which shares.

use std::{array, iter};

/// How a request goes, each with a route of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Sends some JSON and has it back.
    Echo,
    /// Waits between allocations, and so moves between workers. One in four leaves a value.
    Work,
    /// Panics after a wait, and leaves a value as it unwinds.
    Panic,
    /// Waits for ever. The client goes away; a value is left by the drop of the future.
    Hang,
    /// Streams without an end. The client goes away; a value is left by the drop of the body.
    Cut,
    /// Streams, slowly or fast, to the end, and leaves a value in the last poll of the body.
    Stream,
    /// Has a body that nobody asks for. Its drop leaves a value.
    Head,
    /// Has no body. The drop of what stands for it leaves a value.
    Nothing,
    /// Sends up to 64 KiB. One in four leaves a copy.
    Upload,
    /// Spawns a task of its own that goes on after the response, then leaves a value.
    Along,
    /// Spawns a task that belongs to nobody and leaves a value.
    Away,
    /// Leaves a value of its own from a thread for blocking work, and one that is nobody's.
    Blocking,
    /// Puts a value into a cache that has room for a few.
    Cache,
    /// Puts a value into the same cache.
    Other,
    /// Sends a value to a thread that frees it.
    Channel,
    /// Every second one holds more than its budget, and leaves a value when it is ended.
    Budget,
    /// Holds more than its budget when the response has begun. The drop of the body leaves a value.
    Over,
}

pub(crate) const KINDS: usize = 17;

impl Kind {
    /// Every kind with how many of a hundred requests are of it.
    pub(crate) const SHARES: [(Self, usize); KINDS] = [
        (Self::Echo, 25),
        (Self::Work, 15),
        (Self::Panic, 3),
        (Self::Hang, 3),
        (Self::Cut, 3),
        (Self::Stream, 7),
        (Self::Head, 5),
        (Self::Nothing, 5),
        (Self::Upload, 8),
        (Self::Along, 4),
        (Self::Away, 4),
        (Self::Blocking, 4),
        (Self::Cache, 4),
        (Self::Other, 3),
        (Self::Channel, 4),
        (Self::Budget, 2),
        (Self::Over, 1),
    ];

    pub(crate) fn all() -> [Self; KINDS] {
        array::from_fn(|place| Self::SHARES[place].0)
    }

    /// The beginning of its route.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Echo => "/echo",
            Self::Work => "/work",
            Self::Panic => "/panic",
            Self::Hang => "/hang",
            Self::Cut => "/cut",
            Self::Stream => "/stream",
            Self::Head => "/head",
            Self::Nothing => "/nothing",
            Self::Upload => "/upload",
            Self::Along => "/along",
            Self::Away => "/away",
            Self::Blocking => "/blocking",
            Self::Cache => "/cache",
            Self::Other => "/other",
            Self::Channel => "/channel",
            Self::Budget => "/budget",
            Self::Over => "/over",
        }
    }

    /// As routers and metrics know it.
    pub(crate) fn route(self) -> String {
        format!("{}/{{n}}", self.path())
    }

    pub(crate) const fn method(self) -> &'static str {
        match self {
            Self::Echo | Self::Upload => "POST",
            Self::Head => "HEAD",
            _ => "GET",
        }
    }

    /// How it is counted, unless it is refused.
    pub(crate) const fn class(self) -> &'static str {
        match self {
            Self::Panic => "error",
            Self::Hang => "cancelled",
            _ => "2xx",
        }
    }

    /// Whether its body ends before its end.
    pub(crate) const fn is_cut(self) -> bool {
        matches!(self, Self::Cut | Self::Over)
    }
}

/// Whether the request with this number holds more than its budget, if it has one.
pub(crate) const fn is_over(n: usize) -> bool {
    n.is_multiple_of(2)
}

/// How large the value is that the request with this number leaves. Some are larger than what a
/// thread counts before it tells.
pub(crate) const fn size(n: usize) -> usize {
    match n % 64 {
        0 => 70_000,
        _ => 50 + n * 37 % 3_000,
    }
}

/// So many requests by their shares, in an order that only the seed decides.
pub(crate) fn plan(requests: usize, seed: u64) -> Vec<Kind> {
    let mut plan = Vec::with_capacity(requests);
    for (kind, share) in Kind::SHARES {
        plan.extend(iter::repeat_n(kind, requests * share / 100));
    }
    assert_eq!(plan.len(), requests);
    fastrand::Rng::with_seed(seed).shuffle(&mut plan);
    plan
}
