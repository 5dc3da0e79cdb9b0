use super::{
    Counted,
    cgroup::Used,
    file::{number, parse_short},
};
use std::{
    fs::File,
    sync::{Arc, LazyLock, PoisonError, RwLock},
};

/// Pages of the process, as `/proc/self/statm` has them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Pages {
    mapped: u64,
    resident: u64,
    /// Those of files and of memory that processes share.
    shared: u64,
}

impl Pages {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_ascii_whitespace().map(number);
        let mut next = || numbers.next()?;
        Some(Self {
            mapped: next()?,
            resident: next()?,
            shared: next()?,
        })
    }

    /// In bytes.
    pub(super) fn mapped(self) -> u64 {
        bytes(self.mapped)
    }

    /// In bytes.
    pub(super) fn resident(self) -> u64 {
        bytes(self.resident)
    }

    /// In bytes: those that are in no file.
    fn anonymous(self) -> u64 {
        bytes(self.resident.saturating_sub(self.shared))
    }
}

fn bytes(pages: u64) -> u64 {
    static LENGTH: LazyLock<u64> = LazyLock::new(page_length);
    pages.saturating_mul(*LENGTH)
}

#[cfg(target_os = "linux")]
fn page_length() -> u64 {
    rustix::param::page_size() as u64
}

/// Nobody tells of pages elsewhere.
#[cfg(not(target_os = "linux"))]
fn page_length() -> u64 {
    1
}

/// Tells what is used at this moment, in about a microsecond.
///
/// It counts what the last [look](super::System::read) found to be counted, so a `System` has to
/// look every now and then.
///
/// # Page cache
///
/// A control group's use includes the files it has read, in both versions. Those that were not read
/// lately are given up first, so they are left out, by what the last look found of them. Since the
/// kernel may have given them up for the process by now, what is used is never less than it was
/// at that look and what the process has grown by without files since, and never more than the
/// group's whole use.
///
/// A clone is the same meter.
#[derive(Clone, Debug, Default)]
pub struct UsageMeter(Arc<RwLock<Look>>);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) counted: Counted,
    pub(super) statm: Option<Arc<File>>,
    /// What the group uses, where one is counted.
    pub(super) usage: Option<Arc<File>>,
    pub(super) used: Used,
    pub(super) pages: Option<Pages>,
}

impl UsageMeter {
    /// Bytes of the limit that are used, as [`Reading::used`](super::Reading::used) has them. None if
    /// that is not known.
    ///
    /// Reads at most two files of the kernel, which are in memory and open. Threads that ask at once
    /// wait for one another there, so that it is not for every request of a busy service.
    #[must_use]
    pub fn used(&self) -> Option<u64> {
        let look = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let statm = look.statm.as_deref();
        let pages = statm.and_then(|statm| parse_short(statm, Pages::parse));
        look.counted.of(look.working_set(pages), pages)
    }

    pub(super) fn look(&self, look: Look) {
        let before = {
            let mut last = self.0.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *last, look)
        };
        // Files may be closed by that, which takes its time.
        drop(before);
    }
}

impl Look {
    fn working_set(&self, pages: Option<Pages>) -> Option<u64> {
        let usage = parse_short(self.usage.as_deref()?, number)?;
        let least = usage.saturating_sub(self.used.inactive_file?);
        let grown = self.pages.zip(pages).map_or(0, |(then, now)| {
            now.anonymous().saturating_sub(then.anonymous())
        });
        let before = self.used.working_set()?;
        Some(before.saturating_add(grown).min(usage).max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{System, fixture::Fixture};
    use std::thread;

    const USAGE: &str = "sys/memory.current";

    /// In a group of 1 MB that uses 900 kB, of which 500 kB may be given up.
    fn group() -> (Fixture, System) {
        let fixture = Fixture::new();
        fixture.write("proc/self/cgroup", "0::/\n");
        let mounts = "36 31 0:33 / /sys rw - cgroup2 cgroup rw\n";
        fixture.write("proc/self/mountinfo", mounts);
        fixture.write("sys/memory.max", "1000000\n");
        fixture.write("sys/memory.stat", "inactive_file 500000\n");
        fixture.write(USAGE, "900000\n");
        fixture.write("proc/self/statm", "3000 80 20 1 0 80 0\n");
        let system = System::at(fixture.root());
        (fixture, system)
    }

    #[test]
    fn what_is_used_is_known_between_looks() {
        let (fixture, mut system) = group();
        let meter = system.meter();
        assert_eq!(meter.used(), Some(400_000));
        fixture.write(USAGE, "950000\n");
        assert_eq!(meter.used(), Some(450_000));
        fixture.write("sys/memory.stat", "inactive_file 600000\n");
        assert_eq!(meter.used(), Some(450_000));
        system.read(None);
        assert_eq!(meter.used(), Some(350_000));
        fixture.write("sys/memory.max", "max\n");
        assert_eq!(meter.used(), Some(350_000));
        system.read(None);
        assert_eq!(meter.used(), Some(bytes(80)));
    }

    #[test]
    fn files_that_were_given_up_for_the_process_do_not_hide_what_it_grew_by() {
        let (fixture, system) = group();
        let meter = system.meter();
        // So much came in place of files, and nobody has looked.
        fixture.write("proc/self/statm", "3000 90 20 1 0 80 0\n");
        assert_eq!(meter.used(), Some(400_000 + bytes(10)));
        // Files that it reads itself are not that.
        fixture.write("proc/self/statm", "3000 980 920 1 0 80 0\n");
        assert_eq!(meter.used(), Some(400_000));
        // There is no more than the group uses.
        fixture.write("proc/self/statm", "3000 9020 20 1 0 80 0\n");
        assert_eq!(meter.used(), Some(900_000));
        fixture.write("proc/self/statm", "3000 40 20 1 0 80 0\n");
        fixture.write(USAGE, "600000\n");
        assert_eq!(meter.used(), Some(400_000));
        fixture.write(USAGE, "300000\n");
        assert_eq!(meter.used(), Some(300_000));
    }

    #[test]
    fn group_that_does_not_tell_leaves_what_is_resident() {
        let (fixture, system) = group();
        let meter = system.meter();
        fixture.write(USAGE, "cut o");
        assert_eq!(meter.used(), Some(bytes(80)));
        fixture.write("proc/self/statm", "");
        assert_eq!(meter.used(), None);
    }

    #[test]
    fn threads_can_ask_while_somebody_looks() {
        let (_fixture, mut system) = group();
        let meter = system.meter();
        thread::scope(|scope| {
            let asked: Vec<_> = (0..2)
                .map(|_| {
                    let meter = meter.clone();
                    scope.spawn(move || {
                        for _ in 0..1_000 {
                            assert_eq!(meter.used(), Some(400_000));
                        }
                    })
                })
                .collect();
            while !asked.iter().all(thread::ScopedJoinHandle::is_finished) {
                system.read(None);
            }
        });
    }

    #[test]
    fn pages_are_told_as_the_kernel_does() {
        let pages = Pages::parse("3000 200 50 1 0 80 0\n").unwrap();
        assert_eq!(pages.mapped(), 3_000 * bytes(1));
        assert_eq!(pages.resident(), 200 * bytes(1));
        assert_eq!(pages.anonymous(), 150 * bytes(1));
        for odd in ["", "1 2", "1 2 x", "-1 2 3"] {
            assert_eq!(Pages::parse(odd), None, "{odd}");
        }
    }
}
