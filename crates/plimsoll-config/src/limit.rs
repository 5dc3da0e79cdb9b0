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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{env, path::PathBuf, process};

    const MIB: u64 = 1 << 20;
    const MACHINE: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:       16384000 kB\nMemFree:         1024000 kB\n",
    );
    const MACHINE_BYTES: u64 = 16_384_000 << 10;

    /// A system of some files, which is removed in the end.
    struct System(PathBuf);

    impl System {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = env::temp_dir().join(format!("plimsoll-limit-{}-{name}", process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for System {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn limit(name: &str, files: &[(&str, &str)]) -> Option<u64> {
        limit_under(&System::new(name, files).0)
    }

    #[test]
    fn a_cgroup_has_the_least_of_its_own_limit_and_those_it_is_in() {
        let group = ("proc/self/cgroup", "0::/a/b/c\n");
        let own = ("sys/fs/cgroup/a/b/c/memory.max", "536870912\n");
        let outer = ("sys/fs/cgroup/a/b/memory.max", "268435456\n");
        let none = ("sys/fs/cgroup/a/memory.max", "max\n");
        let all = [group, own, outer, none, MACHINE];
        assert_eq!(limit("outer", &all), Some(256 * MIB));
        assert_eq!(limit("own", &[group, own, none, MACHINE]), Some(512 * MIB));
        assert_eq!(limit("none", &[group, none, MACHINE]), Some(MACHINE_BYTES));
        let root = ("sys/fs/cgroup/memory.max", "1048576\n");
        let all = [group, own, outer, root, MACHINE];
        assert_eq!(limit("root", &all), Some(MIB));
    }

    #[test]
    fn a_cgroup_of_the_host_that_is_not_there_has_the_limit_of_the_container() {
        let group = ("proc/self/cgroup", "0::/kubepods.slice/pod1/abc\n");
        let root = ("sys/fs/cgroup/memory.max", "134217728\n");
        assert_eq!(limit("container", &[group, root, MACHINE]), Some(128 * MIB));
        // That of somebody else does not count.
        let other = ("sys/fs/cgroup/system.slice/memory.max", "1048576\n");
        let all = [group, root, other, MACHINE];
        assert_eq!(limit("somebody", &all), Some(128 * MIB));
    }

    #[test]
    fn cgroups_of_version_1_are_found_by_their_controller() {
        let groups = "12:cpu,cpuacct:/cpu\n7:devices:/x\n5:hugetlb,memory:/docker/abc\n0::/\n";
        let group = ("proc/self/cgroup", groups);
        let own = (
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
            "67108864\n",
        );
        let cpu = (
            "sys/fs/cgroup/memory/cpu/memory.limit_in_bytes",
            "1048576\n",
        );
        assert_eq!(limit("v1", &[group, own, cpu, MACHINE]), Some(64 * MIB));
        let unlimited = "9223372036854771712\n";
        let unlimited = (
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
            unlimited,
        );
        assert_eq!(
            limit("v1-machine", &[group, unlimited, MACHINE]),
            Some(MACHINE_BYTES)
        );
        assert_eq!(limit("v1-none", &[group, unlimited]), None);
    }

    #[test]
    fn the_address_space_is_a_limit_too() {
        let head =
            "Limit                     Soft Limit           Hard Limit           Units     \n";
        let limited = format!(
            "{head}Max address space         1073741824           unlimited            bytes\n"
        );
        let limits = ("proc/self/limits", &*limited);
        assert_eq!(limit("address", &[limits, MACHINE]), Some(1_024 * MIB));
        let unlimited = format!(
            "{head}Max address space         unlimited            unlimited            bytes\n"
        );
        let limits = ("proc/self/limits", &*unlimited);
        assert_eq!(limit("no-address", &[limits, MACHINE]), Some(MACHINE_BYTES));
    }

    #[test]
    fn a_system_that_tells_nothing_or_nonsense_has_no_limit() {
        assert_eq!(limit("nothing", &[]), None);
        assert_eq!(limit("machine", &[MACHINE]), Some(MACHINE_BYTES));
        let nonsense = [
            ("proc/self/cgroup", "\n0\n0::\nx:memory:/../../..\n"),
            ("sys/fs/cgroup/memory.max", "0\n"),
            ("proc/self/limits", "Max address space\n"),
            ("proc/meminfo", "MemTotal: 99999999999999999999 kB\n"),
        ];
        assert_eq!(limit("nonsense", &nonsense), None);
        let overflow = ("proc/meminfo", "MemTotal: 18014398509481985 kB\n");
        assert_eq!(limit("overflow", &[overflow]), None);
    }
}
