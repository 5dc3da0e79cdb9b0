use plimsoll_core::Name;
use std::time::Duration;

/// What the histories of all adapters hold.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemorySummary {
    /// Calls kept, of all adapters.
    pub calls: u64,
    /// Transitions kept, of all adapters.
    pub transitions: u64,
    /// Bytes of all adapters, counted as they were allocated.
    pub bytes: u64,
    /// How many records there may be; `None` is any number.
    pub threshold: Option<u64>,
    /// Each adapter, in the order they were added.
    pub adapters: Vec<AdapterMemory>,
}

/// What the history of one adapter holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct AdapterMemory {
    /// The adapter's name.
    pub name: Name,
    /// Calls kept.
    pub calls: u64,
    /// The most calls kept; 0 is no cap.
    pub max_calls: u64,
    /// Transitions kept.
    pub transitions: u64,
    /// The most transitions kept; 0 is no cap.
    pub max_transitions: u64,
    /// Bytes of the circuit breaker with its history, and of requests that wait.
    pub bytes: u64,
    /// Bytes of requests that wait; 0 where their size is not asked for.
    pub queued_bytes: u64,
    /// How long ago records that are too old were dropped; `None` if they never were.
    pub last_cleanup: Option<Duration>,
    /// How often that is done for a registered adapter.
    pub cleanup_interval: Duration,
    /// How long a record is kept; zero is no limit.
    pub retention: Duration,
}

impl MemorySummary {
    /// Calls and transitions kept, of all adapters.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.calls + self.transitions
    }
}
