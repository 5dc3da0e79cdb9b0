//! Memory cgroups, of version 1 or 2.

use crate::Error;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::Duration,
};

/// A memory cgroup without swap. Whoever is in it is ended, and it is removed, when this is dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Version {
    One,
    Two,
}

/// At most so much in version 1, where `swappiness` already says that there is none.
const SWAP: u64 = 1 << 20;
const PREFIX: &str = "plimsoll-load-";

impl Cgroup {
    /// Makes one with a limit in bytes.
    ///
    /// # Errors
    ///
    /// Says why there cannot be one: there is no memory controller, or it needs root.
    pub fn new(limit: u64) -> Result<Self, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (mount, version) = mount()?;
        remove_stale(&mount);
        let number = NUMBER.fetch_add(1, Relaxed);
        let path = mount.join(format!("{PREFIX}{}-{number}", process::id()));
        let made = fs::create_dir(&path);
        made.map_err(|error| format!("{}: {error} (it takes root)", path.display()))?;
        let cgroup = Self { path, version };
        match version {
            Version::One => {
                cgroup.write("memory.limit_in_bytes", limit)?;
                cgroup.write("memory.swappiness", 0)?;
                // Not there where the kernel does not count swap. If it were no more than the limit without
                // swap, it would be met first, and nobody would count that.
                let _ = cgroup.write("memory.memsw.limit_in_bytes", limit + SWAP);
            }
            Version::Two => {
                cgroup.write("memory.max", limit)?;
                let _ = cgroup.write("memory.swap.max", 0);
            }
        }
        Ok(cgroup)
    }

    /// The file that a process writes `0` to, to be in it with all that it starts.
    #[must_use]
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// What is used now, in bytes.
    #[must_use]
    pub fn usage(&self) -> Option<u64> {
        self.number(match self.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        })
    }

    /// The most that was used at any time, in bytes, as the kernel knows it. Samples would miss most
    /// of what grows fast.
    #[must_use]
    pub fn peak(&self) -> Option<u64> {
        self.number(match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        })
    }

    /// How many processes the kernel has ended in it.
    #[must_use]
    pub fn killed(&self) -> u64 {
        self.field(
            match self.version {
                Version::One => "memory.oom_control",
                Version::Two => "memory.events",
            },
            "oom_kill",
        )
    }

    /// How often the limit was met.
    #[must_use]
    pub fn limit_met(&self) -> u64 {
        match self.version {
            Version::One => self.number("memory.failcnt").unwrap_or(0),
            Version::Two => self.field("memory.events", "max"),
        }
    }

    fn write(&self, file: &str, value: u64) -> io::Result<()> {
        fs::write(self.path.join(file), value.to_string())
    }

    fn number(&self, file: &str) -> Option<u64> {
        let text = fs::read_to_string(self.path.join(file)).ok()?;
        text.trim().parse().ok()
    }

    fn field(&self, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        let mut fields = text.lines().filter_map(|line| line.split_once(' '));
        let found = fields.find_map(|(found, value)| (found == name).then(|| value.trim().parse()));
        found.and_then(Result::ok).unwrap_or(0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Five seconds: who was ended is in it for a while.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            let pids = fs::read_to_string(self.procs()).unwrap_or_default();
            for pid in pids.lines() {
                // A shell has it built in.
                let _ = Command::new("sh").args(["-c", "kill -9 $0", pid]).status();
            }
            thread::sleep(Duration::from_millis(50));
        }
        eprintln!("{} cannot be removed", self.path.display());
    }
}

/// Where memory cgroups are.
fn mount() -> Result<(PathBuf, Version), Error> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let (path, version) = find(&mounts).ok_or("there are no memory cgroups")?;
    if let Version::Two = version {
        let controllers = fs::read_to_string(path.join("cgroup.subtree_control"))?;
        if !controllers.split_whitespace().any(|name| name == "memory") {
            let path = path.display();
            return Err(format!("{path}: memory is not controlled in the cgroups there").into());
        }
    }
    Ok((path, version))
}

/// Those of version 1 if there are both: the controller is in one of them.
fn find(mounts: &str) -> Option<(PathBuf, Version)> {
    let mut two = None;
    for line in mounts.lines() {
        // device path kind options
        let mut fields = line.split(' ').skip(1);
        let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        match kind {
            "cgroup" if options.split(',').any(|option| option == "memory") => {
                return Some((path.into(), Version::One));
            }
            "cgroup2" => two = Some((path.into(), Version::Two)),
            _ => {}
        }
    }
    two
}

/// Removes those whose maker was ended before it could.
fn remove_stale(mount: &Path) {
    let folders = fs::read_dir(mount).into_iter().flatten().flatten();
    for folder in folders {
        let name = folder.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // One that somebody is in stays.
            let _ = fs::remove_dir(folder.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_is_found_in_either_version() {
        let proc = "proc /proc proc rw,nosuid 0 0\n";
        let one = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n";
        let other = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n";
        let two = "cgroup2 /sys/fs/cgroup cgroup2 rw,relatime 0 0\n";
        for (mounts, expected) in [
            (vec![proc], None),
            (vec![proc, other], None),
            (vec![proc, two], Some(("/sys/fs/cgroup", Version::Two))),
            (
                vec![two, one],
                Some(("/sys/fs/cgroup/memory", Version::One)),
            ),
            (
                vec![other, one, two],
                Some(("/sys/fs/cgroup/memory", Version::One)),
            ),
        ] {
            let expected = expected.map(|(path, version)| (PathBuf::from(path), version));
            assert_eq!(find(&mounts.concat()), expected);
        }
    }
}
