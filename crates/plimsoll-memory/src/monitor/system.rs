use super::{Signals, Source};
use crate::system::{StallTrigger, StallWatch, System, UsageMeter};
use plimsoll_alloc::{Mode, is_installed, live_bytes, mode};
use std::{env, fmt, time::Duration};
use tokio::runtime::Handle;

/// What the [system](crate::system) tells of the process: the limit that it is under, what is used of
/// that, and whether tasks wait for memory, which ends a wait for the next sample.
pub struct SystemSource {
    system: System,
    watch: StallWatch,
    runtime: Option<Handle>,
}

impl SystemSource {
    /// Begins to watch the system that the process is in.
    #[must_use]
    pub fn new() -> Self {
        let system = System::new();
        let watch = StallWatch::open(&system, StallTrigger::default(), |name| env::var_os(name));
        Self {
            system,
            watch,
            runtime: None,
        }
    }

    /// Counts the tasks of a runtime.
    #[must_use]
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// What is used, between two samples.
    #[must_use]
    pub fn meter(&self) -> UsageMeter {
        self.system.meter()
    }
}

impl Default for SystemSource {
    fn default() -> Self {
        Self::new()
    }
}

impl Source for SystemSource {
    fn sample(&mut self) -> Signals {
        // A configured limit is for the monitor to compare.
        let reading = self.system.read(None);
        let counts = mode() == Mode::Precise && is_installed();
        let tasks = self.runtime.as_ref();
        Signals {
            limit: reading.limit.map(|limit| limit.bytes),
            used: reading.used,
            tracked: counts.then(live_bytes),
            allocator_free: None,
            resident: reading.resident,
            working_set: reading.working_set,
            // That tasks of others wait for memory tells nothing of this process.
            stall: reading
                .stall
                .filter(|stall| !stall.machine_wide)
                .map(|stall| stall.some_avg10 / 100.0),
            tasks: tasks.map(|runtime| runtime.metrics().num_alive_tasks() as u64),
            descriptors: reading.descriptors,
            max_descriptors: reading.max_descriptors,
        }
    }

    fn wait(&mut self, timeout: Duration) {
        self.watch.wait(timeout);
    }

    fn waker(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        let waker = self.watch.waker();
        Some(Box::new(move || waker.wake()))
    }
}

impl fmt::Debug for SystemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemSource")
            .field("system", &self.system)
            .finish_non_exhaustive()
    }
}
