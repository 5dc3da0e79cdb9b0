use plimsoll_alloc::{Mode, is_installed, live_bytes, mode, resident_bytes};
use std::time::Duration;
use tokio::time::Instant;

/// What is known of the process at one moment. What is not known is none, and decides nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Signals {
    /// The most bytes that the system lets it use.
    pub limit: Option<u64>,
    /// Bytes that count against the limit. Where that is not said, the working set does, or else what is
    /// resident, or else what is tracked.
    pub used: Option<u64>,
    /// Bytes that were allocated and not freed, as the tracking allocator counts them.
    pub tracked: Option<u64>,
    /// Bytes that the allocator has from the system, and nobody from the allocator.
    pub allocator_free: Option<u64>,
    /// Bytes of large blocks that the allocator keeps and gives back to whoever needs them. They are part
    /// of what is used, of the working set and of what is resident, and do not count against the line.
    pub kept_blocks: Option<u64>,
    /// Bytes of the process that are in memory.
    pub resident: Option<u64>,
    /// Bytes that those have in memory for whom the limit is, the process among them, without pages of
    /// files that are not in use. None where the limit is not one for a group of processes.
    pub working_set: Option<u64>,
    /// The share of time, 0 to 1, that some task lately waited for memory.
    pub stall: Option<f64>,
    /// Tasks of the runtime that are alive.
    pub tasks: Option<u64>,
    /// Descriptors that the process has open.
    pub descriptors: Option<u64>,
    /// The most descriptors that it may have open.
    pub max_descriptors: Option<u64>,
}

/// Where the monitor has its [`Signals`] from. Called on the monitor's own thread, which it may block
/// for a moment.
pub trait Source: Send {
    /// Looks at the process.
    fn sample(&mut self) -> Signals;

    /// Waits for so long, or until there is a reason to look sooner. Says whether there is one.
    fn wait(&mut self, timeout: Duration) -> bool {
        let began = Instant::now();
        std::thread::park_timeout(timeout);
        Instant::now().saturating_duration_since(began) < timeout
    }

    /// What ends [`wait`](Self::wait) early, if that is not done by unparking its thread.
    fn waker(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        None
    }
}

/// What the process itself and its allocator tell. It knows no limit, so that only one that is
/// [configured](crate::MonitorConfig::limit) counts.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ProcessSource;

impl Signals {
    /// What is used of the limit, but for what is kept.
    pub(crate) fn used(&self) -> Option<u64> {
        let in_memory = self.used.or(self.working_set).or(self.resident);
        let in_memory = in_memory.map(|used| used.saturating_sub(self.kept_blocks.unwrap_or(0)));
        in_memory.or(self.tracked)
    }

    /// What is in memory and was not allocated, or is free again and not kept: the allocator's reserves,
    /// stacks, the program, and what others allocate from the system by themselves.
    pub(crate) fn unattributed(&self) -> Option<u64> {
        let (resident, tracked) = self.resident.zip(self.tracked)?;
        let known = tracked.saturating_add(self.kept_blocks.unwrap_or(0));
        Some(resident.saturating_sub(known))
    }
}

impl Source for ProcessSource {
    fn sample(&mut self) -> Signals {
        let exact = mode() == Mode::Precise && is_installed();
        Signals {
            tracked: exact.then(live_bytes),
            resident: resident_bytes(),
            ..Signals::default()
        }
    }
}
