//! How much memory the process may have.

use std::{fs, path::Path};

/// The smallest of the limits that the system sets, in bytes: that of the memory cgroup and of
/// those it is in (version 2 or 1), that of the address space, and what the machine has. None
/// where the system tells of none.
#[must_use]
pub fn memory_limit() -> Option<u64> {
    limit_under(Path::new("/"))
}

/// As much as no machine has, in bytes.
const UNREACHABLE: u64 = 1 << 62;

fn limit_under(root: &Path) -> Option<u64> {
    let text = |path: &str| fs::read_to_string(root.join(path)).ok();
    let cgroups = text("proc/self/cgroup").unwrap_or_default();
    let of_cgroups = cgroups.lines().filter_map(|line| {
        // hierarchy:controllers:path
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        of_ancestors(&root.join(mount), path, file)
    });
    let limits = text("proc/self/limits").unwrap_or_default();
    let of_address_space = limits.lines().find_map(|line| {
        let values = line.strip_prefix("Max address space")?;
        values.split_whitespace().next()?.parse().ok()
    });
    let memory = text("proc/meminfo").unwrap_or_default();
    let of_machine = memory.lines().find_map(|line| {
        let kib = line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?;
        kib.trim().parse::<u64>().ok()?.checked_mul(1_024)
    });
    let all = of_cgroups.chain(of_address_space).chain(of_machine);
    // Version 1 says that there is no limit with one that nothing can reach.
    all.filter(|limit| (1..UNREACHABLE).contains(limit)).min()
}

/// The smallest limit of a cgroup and those it is in. In a container the path may be that of the
/// host, of which only the root is there.
fn of_ancestors(mount: &Path, path: &str, file: &str) -> Option<u64> {
    let path = Path::new(path.trim_start_matches('/'));
    let limits = path.ancestors().filter_map(|cgroup| {
        let limit = fs::read_to_string(mount.join(cgroup).join(file)).ok()?;
        // `max` is no limit, and is no number either.
        limit.trim().parse().ok()
    });
    limits.min()
}
