use super::{Signals, Source};
use crate::system::{StallTrigger, StallWatch, System, UsageMeter, Woken};
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
        Self::of(System::new())
    }

    fn of(system: System) -> Self {
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
            kept_blocks: None,
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

    fn wait(&mut self, timeout: Duration) -> bool {
        self.watch.wait(timeout) != Woken::TimedOut
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fixture::Fixture;
    use std::thread;

    const STALL: &str = "some avg10=25.00 avg60=0.50 avg300=0.10 total=12345\n";

    /// In a group of 1 MB that uses 900 kB, of which 500 kB may be given up.
    fn group() -> Fixture {
        let fixture = Fixture::new();
        fixture.write("proc/self/cgroup", "0::/\n");
        let mounts = "36 31 0:33 / /sys rw - cgroup2 cgroup rw\n";
        fixture.write("proc/self/mountinfo", mounts);
        fixture.write("sys/memory.max", "1000000\n");
        fixture.write("sys/memory.stat", "inactive_file 500000\n");
        fixture.write("sys/memory.current", "900000\n");
        fixture.write("proc/self/statm", "3000 80 20 1 0 80 0\n");
        fixture.write("proc/pressure/memory", STALL);
        fixture
    }

    fn source(fixture: &Fixture) -> SystemSource {
        SystemSource::of(System::at(fixture.root()))
    }

    #[test]
    fn what_the_system_tells_is_told() {
        let fixture = group();
        let limits = "Max open files     1024       4096       files\n\
                      Max address space  unlimited  unlimited  bytes\n";
        fixture.write("proc/self/limits", limits);
        for descriptor in 0..3 {
            fixture.write(&format!("proc/self/fd/{descriptor}"), "");
        }
        let mut source = source(&fixture);
        let signals = source.sample();
        let read = System::at(fixture.root()).read(None);
        assert_eq!(signals.limit, Some(1_000_000));
        assert_eq!(signals.used, Some(400_000), "but for pages of files");
        assert_eq!(signals.working_set, Some(400_000));
        assert!(read.resident.is_some());
        assert_eq!(signals.resident, read.resident);
        assert_eq!(signals.max_descriptors, Some(1_024));
        assert!(signals.descriptors.is_some());
        assert_eq!(signals.descriptors, read.descriptors);
        // Nobody counts in this test, and there is no runtime.
        assert_eq!((signals.tracked, signals.tasks), (None, None));
        assert_eq!(source.meter().used(), signals.used);
        // A limit that changes is seen with the next sample.
        fixture.write("sys/memory.max", "700000\n");
        assert_eq!(source.sample().limit, Some(700_000));
    }

    #[test]
    fn stalls_are_a_share_of_those_of_the_own_group() {
        let fixture = group();
        let mut source = source(&fixture);
        // Whoever asks the kernel to be woken writes to the file, and this one keeps it.
        fixture.write("proc/pressure/memory", STALL);
        let read = System::at(fixture.root()).read(None).stall.unwrap();
        assert!(read.machine_wide && read.some_avg10 > 0.0);
        assert_eq!(
            source.sample().stall,
            None,
            "that is no news of this process"
        );
        fixture.write("proc/self/cgroup", "0::/a\n");
        fixture.write("sys/a/cgroup.events", "populated 1\n");
        let all = STALL.replace("25.00", "100.00");
        for (text, share) in [(STALL, 0.25), (&*all, 1.0)] {
            fixture.write("sys/a/memory.pressure", text);
            assert_eq!(source.sample().stall, Some(share));
        }
    }

    #[test]
    fn a_system_that_tells_nothing_is_unknown() {
        let fixture = Fixture::new();
        assert_eq!(source(&fixture).sample(), Signals::default());
    }

    #[tokio::test]
    async fn tasks_of_a_runtime_are_counted() {
        let fixture = group();
        let mut source = source(&fixture).runtime(Handle::current());
        let before = source.sample().tasks.unwrap();
        let tasks: Vec<_> = (0..5)
            .map(|_| tokio::spawn(std::future::pending::<()>()))
            .collect();
        assert_eq!(source.sample().tasks, Some(before + 5));
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[test]
    fn a_wait_ends_when_it_is_woken() {
        let fixture = group();
        let mut source = source(&fixture);
        let wake = source.waker().unwrap();
        let waker = thread::spawn(wake);
        // Nobody waits for so long.
        assert!(source.wait(Duration::from_secs(3_600)));
        waker.join().unwrap();
        assert!(!source.wait(Duration::from_millis(1)), "once");
    }
}
