use plimsoll_core::settings::Choice;

/// The most bytes that a request, or a call, may hold.
///
/// What it holds whenever it waits, or hands over a response or a frame of its body, decides. What it
/// held in between is [counted](crate::MemoryStats::over_budget). A stretch of work that never waits
/// cannot be stopped from outside: it may ask [`MemoryScope::check`](plimsoll_alloc::MemoryScope::check)
/// by itself.
///
/// As an extension of an HTTP request, set by a layer outside of the edge, it counts instead of that
/// of the route.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Budget {
    bytes: u64,
    mode: BudgetMode,
}

/// What becomes of a request that holds more than it may.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum BudgetMode {
    /// It is counted and goes on.
    #[default]
    Observe,
    /// It is ended, and all that it holds is dropped.
    Enforce,
}

impl Budget {
    /// Makes a budget. With 0 bytes nothing may be held.
    #[must_use]
    pub const fn new(bytes: u64, mode: BudgetMode) -> Self {
        Self { bytes, mode }
    }

    /// Counts who holds more.
    #[must_use]
    pub const fn observe(bytes: u64) -> Self {
        Self::new(bytes, BudgetMode::Observe)
    }

    /// Ends who holds more.
    #[must_use]
    pub const fn enforce(bytes: u64) -> Self {
        Self::new(bytes, BudgetMode::Enforce)
    }

    /// How many bytes may be held.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// What becomes of who holds more.
    #[must_use]
    pub const fn mode(self) -> BudgetMode {
        self.mode
    }
}

impl Choice for BudgetMode {
    const NAMES: &'static [&'static str] = &["observe", "enforce"];

    fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        match name {
            "observe" => Some(Self::Observe),
            "enforce" => Some(Self::Enforce),
            _ => None,
        }
    }
}
