use plimsoll_alloc::{Mode, is_installed, mode};
use std::{
    fmt,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

/// How far a sample can be trusted.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Attribution {
    /// The allocator knows whose every block is: what was allocated, what was live, its peak, and
    /// what is retained are right to the byte.
    Exact,
    /// The allocator counts what is allocated, and not what is freed: there is no peak, and nothing
    /// is retained. So it is in [`Mode::Counters`].
    AllocatedOnly,
    /// Nobody counts, or stopped counting meanwhile. What is known are the bytes of bodies, and what
    /// was counted before.
    Estimated,
    /// Nothing is known but what the process holds as a whole.
    ProcessOnly,
}

impl Attribution {
    /// Every one, the best first.
    pub const ALL: [Self; 4] = [
        Self::Exact,
        Self::AllocatedOnly,
        Self::Estimated,
        Self::ProcessOnly,
    ];

    /// As a label, in `snake_case`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::AllocatedOnly => "allocated_only",
            Self::Estimated => "estimated",
            Self::ProcessOnly => "process_only",
        }
    }

    /// What the allocator makes of work that begins now: exact, allocated only, or none where it is
    /// not the program's, or is told not to count.
    #[must_use]
    #[inline]
    pub fn of_allocator() -> Option<Self> {
        match mode() {
            Mode::Off => None,
            _ if !is_found() => None,
            Mode::Precise => Some(Self::Exact),
            _ => Some(Self::AllocatedOnly),
        }
    }
}

impl fmt::Display for Attribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether the allocator is the program's. Looked for until it is found, or not there.
#[inline]
fn is_found() -> bool {
    static FOUND: AtomicU8 = AtomicU8::new(UNKNOWN);
    match FOUND.load(Relaxed) {
        UNKNOWN => look(&FOUND),
        found => found == THERE,
    }
}

const UNKNOWN: u8 = 0;
const THERE: u8 = 1;
const MISSING: u8 = 2;

#[cold]
fn look(found: &AtomicU8) -> bool {
    let seen = match is_installed() {
        true => THERE,
        // Told not to count just now, it would not be seen.
        false if mode() == Mode::Off => return false,
        false => MISSING,
    };
    let first = found.compare_exchange(UNKNOWN, seen, Relaxed, Relaxed);
    // Known by then to whoever weighs what the warning itself does.
    if first.is_ok() && seen == MISSING {
        tracing::warn!(
            "no TrackingAllocator is the program's allocator: what requests hold is estimated, and \
             no budget refuses any"
        );
    }
    seen == THERE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_told_apart_and_the_best_is_first() {
        let labels = Attribution::ALL.map(Attribution::as_str);
        let expected = ["exact", "allocated_only", "estimated", "process_only"];
        assert_eq!(labels, expected);
        assert!(Attribution::Exact < Attribution::ProcessOnly);
    }
}
