//! Where the control groups of the process are, and what they allow.

use super::{
    Counted, LAST_LIMIT, RESIDENT,
    file::{Fault, KernelFile, field, number},
    problems::Problems,
};
use std::{
    borrow::Cow,
    path::{Component, Path, PathBuf},
};

/// Groups of one hierarchy that are looked at, from the process's own outwards.
const DEPTH: usize = 32;

/// From there on a limit of v1 stands for none: it writes the largest number of whole pages.
const NO_LIMIT: u64 = 1 << 62;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Version {
    V1,
    V2,
}

/// A group, with the files that tell of its memory. They need not be there.
#[derive(Debug)]
pub(super) struct Group {
    version: Version,
    limit: KernelFile,
    high: Option<KernelFile>,
    pub(super) usage: KernelFile,
    stat: KernelFile,
    last: Limits,
}

/// What a group allows, as far as was known last. None where that is no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Limits {
    pub(super) max: Option<u64>,
    /// Above that it is made to wait. Of v2 only.
    pub(super) high: Option<u64>,
    /// The smallest of its own and those around it, which may be out of sight. Of v1 only.
    pub(super) unseen: Option<u64>,
}

/// What a group uses. None is what is not known.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Used {
    pub(super) usage: Option<u64>,
    pub(super) inactive_file: Option<u64>,
}

impl Used {
    pub(super) fn working_set(self) -> Option<u64> {
        let (usage, inactive) = self.usage.zip(self.inactive_file)?;
        Some(usage.saturating_sub(inactive))
    }
}

impl Group {
    fn new(version: Version, folder: &Path) -> Self {
        let file = |name| KernelFile::new(folder.join(name));
        let (limit, high, usage) = match version {
            Version::V1 => ("memory.limit_in_bytes", None, "memory.usage_in_bytes"),
            Version::V2 => ("memory.max", Some("memory.high"), "memory.current"),
        };
        Self {
            version,
            limit: file(limit),
            high: high.map(file),
            usage: file(usage),
            stat: file("memory.stat"),
            last: Limits::default(),
        }
    }

    /// What it allows. Of the process's own, what those around it do as well, as far as it tells.
    pub(super) fn limits(&mut self, own: bool, problems: &mut Problems) -> Limits {
        let Self {
            version,
            limit,
            high,
            stat,
            last,
            ..
        } = self;
        read_limit(limit, &mut last.max, problems, parse_limit);
        if let Some(high) = high {
            read_limit(high, &mut last.high, problems, parse_limit);
        }
        if own && *version == Version::V1 {
            read_limit(stat, &mut last.unseen, problems, parse_hierarchical);
        }
        *last
    }

    pub(super) fn used(&mut self, problems: &mut Problems) -> Used {
        let inactive = |stat: &str| parse_inactive(stat, self.version);
        Used {
            usage: problems.read(&mut self.usage, RESIDENT, number),
            inactive_file: problems.read(&mut self.stat, RESIDENT, inactive),
        }
    }
}

/// Replaces what was known, unless the file is out of order.
fn read_limit(
    file: &mut KernelFile,
    last: &mut Option<u64>,
    problems: &mut Problems,
    parse: impl FnOnce(&str) -> Option<Option<u64>>,
) {
    let limit = file.parse(parse);
    let absent = matches!(limit, Err(Fault::Absent));
    match problems.note(file.path(), LAST_LIMIT, limit) {
        Some(limit) => *last = limit,
        None if absent => *last = None,
        None => {}
    }
}

/// What the process is in: groups of either version, the process's own first.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) v2: Vec<Group>,
    pub(super) v1: Vec<Group>,
    /// Tells how long those in the process's own group wait for memory.
    pub(super) pressure: Option<KernelFile>,
}

impl Groups {
    /// Finds them by what `/proc/self/cgroup` and `/proc/self/mountinfo` say.
    pub(super) fn find(root: &Path, memberships: &str, mounts: &str) -> Self {
        let groups = |version, folders: &[PathBuf]| {
            let found = folders.iter().map(|folder| Group::new(version, folder));
            found.take(DEPTH).collect()
        };
        let v2 = folders(root, memberships, mounts, Version::V2);
        Self {
            v2: groups(Version::V2, &v2),
            v1: groups(
                Version::V1,
                &folders(root, memberships, mounts, Version::V1),
            ),
            pressure: v2.first().and_then(|own| pressure(own)),
        }
    }

    pub(super) fn of_mut(&mut self, version: Version) -> &mut Vec<Group> {
        match version {
            Version::V1 => &mut self.v1,
            Version::V2 => &mut self.v2,
        }
    }

    /// The process's own, of the version that tells what is used.
    pub(super) fn own_mut(&mut self) -> Option<&mut Group> {
        let mut tells = |version: &Version| {
            let own = self.of_mut(*version).first_mut();
            own.is_some_and(|own| own.usage.parse(number).is_ok())
        };
        let version = [Version::V2, Version::V1]
            .into_iter()
            .find(|version| tells(version))?;
        self.of_mut(version).first_mut()
    }

    /// What is counted against a limit of the program's own: what its group uses, if that is no more
    /// than it is meant to have.
    pub(super) fn limited(&self) -> Counted {
        let limited = |groups: &[Group]| {
            let own = groups.first();
            own.is_some_and(|own| own.last.max.or(own.last.high).is_some())
        };
        match (limited(&self.v2), limited(&self.v1)) {
            (true, _) => Counted::Group(Version::V2, 0),
            (_, true) => Counted::Group(Version::V1, 0),
            _ => Counted::Resident,
        }
    }
}

/// None of the group that everything is in, which has no such events.
fn pressure(folder: &Path) -> Option<KernelFile> {
    let file = |name| folder.join(name);
    file("cgroup.events")
        .exists()
        .then(|| KernelFile::new(file("memory.pressure")))
}

/// The folders of the groups that the process is in, as far as they are there.
fn folders(root: &Path, memberships: &str, mounts: &str, version: Version) -> Vec<PathBuf> {
    let Some(path) = membership(memberships, version) else {
        return Vec::new();
    };
    let mounts: Vec<_> = mounts
        .lines()
        .filter_map(|line| mount(line, version))
        .collect();
    // More of a path may be mounted in one place than in another; the last is on top.
    let best = mounts
        .iter()
        .filter(|mount| below(&path, &mount.root).is_some());
    let best = best.max_by_key(|mount| mount.root.components().count());
    // A container may not see where it is: what is mounted there is its own, then.
    let Some(mount) = best.or_else(|| mounts.last()) else {
        return Vec::new();
    };
    let below = below(&path, &mount.root).unwrap_or_else(|| Path::new(""));
    let point = root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
    let groups = below.ancestors().map(|below| point.join(below));
    groups.filter(|folder| folder.is_dir()).collect()
}

/// `4:memory:/user/1` or `0::/user/1`: the path of the process's group.
fn membership(memberships: &str, version: Version) -> Option<PathBuf> {
    memberships.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let found = match version {
            Version::V1 => controllers.split(',').any(|name| name == "memory"),
            Version::V2 => id == "0" && controllers.is_empty(),
        };
        found.then(|| path.into())
    })
}

/// A hierarchy of groups that is mounted.
struct Mount {
    /// The group that is seen at its top.
    root: PathBuf,
    point: PathBuf,
}

/// `35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory`
fn mount(line: &str, version: Version) -> Option<Mount> {
    let (place, what) = line.split_once(" - ")?;
    let mut what = what.split(' ');
    let (kind, _source, options) = (what.next()?, what.next()?, what.next()?);
    let found = match version {
        Version::V1 => kind == "cgroup" && options.split(',').any(|name| name == "memory"),
        Version::V2 => kind == "cgroup2",
    };
    if !found {
        return None;
    }
    let mut place = place.split(' ').skip(3);
    let mut path = || Some(PathBuf::from(&*unescaped(place.next()?)));
    Some(Mount {
        root: path()?,
        point: path()?,
    })
}

/// The kernel writes blanks and the like as `\040`.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return text.into();
    }
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let replaced = |text: String, (escape, plain)| text.replace(escape, plain);
    escapes.into_iter().fold(text.to_owned(), replaced).into()
}

/// The way from a group to one within it. None if it is not within it, as far as can be seen: a
/// process that is outside of its namespace's top is at `/../other`.
fn below<'a>(path: &'a Path, top: &Path) -> Option<&'a Path> {
    let below = path.strip_prefix(top).ok()?;
    let all = below.components();
    let mut other = all.filter(|part| !matches!(part, Component::Normal(_)));
    other.next().is_none().then_some(below)
}

/// `max`, or bytes. The outer option is none where it is neither.
fn parse_limit(text: &str) -> Option<Option<u64>> {
    match text.trim() {
        "max" => Some(None),
        bytes => number(bytes).map(some_limit),
    }
}

/// The smallest limit of a group of v1 and those around it, if it tells.
fn parse_hierarchical(stat: &str) -> Option<Option<u64>> {
    match field(stat, "hierarchical_memory_limit") {
        None => Some(None),
        Some(bytes) => number(bytes).map(some_limit),
    }
}

fn some_limit(bytes: u64) -> Option<u64> {
    Some(bytes).filter(|bytes| *bytes < NO_LIMIT)
}

/// Bytes of files that were not read lately.
fn parse_inactive(stat: &str, version: Version) -> Option<u64> {
    // What is used is so with groups within, in both versions.
    let name = match version {
        Version::V1 => "total_inactive_file",
        Version::V2 => "inactive_file",
    };
    number(field(stat, name)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fixture::Fixture;

    const V1: &str = "12:pids:/a\n4:cpu,memory:/user/one\n0::/user/one\n";

    fn found(fixture: &Fixture, memberships: &str, mounts: &str, version: Version) -> Vec<String> {
        let found = folders(fixture.root(), memberships, mounts, version);
        let short = |folder: &PathBuf| {
            let below = folder.strip_prefix(fixture.root()).unwrap();
            below.display().to_string()
        };
        found.iter().map(short).collect()
    }

    #[test]
    fn groups_are_those_around_the_own_one_up_to_where_they_are_mounted() {
        let fixture = Fixture::new();
        fixture.write("sys/memory/user/one/x", "");
        fixture.write("sys/unified/user/one/x", "");
        let mounts = "1 0 0:1 / /sys rw - tmpfs tmpfs rw\n\
            35 31 0:32 / /sys/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n\
            35 31 0:32 / /sys/memory rw,relatime shared:9 master:2 - cgroup cgroup rw,cpu,memory\n\
            36 31 0:33 / /sys/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            found(&fixture, V1, mounts, Version::V1),
            ["sys/memory/user/one", "sys/memory/user", "sys/memory"]
        );
        assert_eq!(
            found(&fixture, V1, mounts, Version::V2),
            ["sys/unified/user/one", "sys/unified/user", "sys/unified"]
        );
        let v2_only = "0::/user/one\n";
        assert!(found(&fixture, v2_only, mounts, Version::V1).is_empty());
    }

    #[test]
    fn what_a_container_sees_at_its_top_is_its_own_group() {
        let fixture = Fixture::new();
        fixture.write("sys/cgroup/inner/x", "");
        for (memberships, root, expected) in [
            // Its own namespace.
            ("0::/\n", "/", vec!["sys/cgroup"]),
            ("0::/inner\n", "/", vec!["sys/cgroup/inner", "sys/cgroup"]),
            // The host's namespace, and a part of the hierarchy mounted.
            ("0::/docker/1\n", "/docker/1", vec!["sys/cgroup"]),
            (
                "0::/docker/1/inner\n",
                "/docker/1",
                vec!["sys/cgroup/inner", "sys/cgroup"],
            ),
            // Neither says where it is.
            ("0::/docker/1\n", "/", vec!["sys/cgroup"]),
            ("0::/docker/1\n", "/other", vec!["sys/cgroup"]),
            ("0::/../other\n", "/", vec!["sys/cgroup"]),
            ("0::/inner\n", "/../..", vec!["sys/cgroup"]),
            // Its group was removed.
            (
                "0::/inner/gone (deleted)\n",
                "/",
                vec!["sys/cgroup/inner", "sys/cgroup"],
            ),
        ] {
            let mounts = format!("36 31 0:33 {root} /sys/cgroup rw - cgroup2 cgroup rw\n");
            let found = found(&fixture, memberships, &mounts, Version::V2);
            assert_eq!(found, expected, "{memberships:?} {root}");
        }
    }

    #[test]
    fn mount_that_shows_most_of_the_way_is_taken() {
        let fixture = Fixture::new();
        for folder in ["all/a/b", "part/b", "over", "with space"] {
            fixture.write(&format!("{folder}/x"), "");
        }
        let all = "1 1 0:1 / /all rw - cgroup2 c rw\n";
        let part = "2 1 0:1 /a /part rw - cgroup2 c rw\n";
        let other = "3 1 0:1 /z /over rw - cgroup2 c rw\n";
        let of = |mounts: &[&str]| found(&fixture, "0::/a/b\n", &mounts.concat(), Version::V2);
        assert_eq!(of(&[all, part, other]), ["part/b", "part"]);
        assert_eq!(of(&[part, all]), ["part/b", "part"]);
        assert_eq!(of(&[all, other]), ["all/a/b", "all/a", "all"]);
        assert_eq!(of(&[other]), ["over"]);
        let blank = "3 1 0:1 / /with\\040space rw - cgroup2 c rw\n";
        assert_eq!(of(&[blank]), ["with space"]);
    }

    #[test]
    fn odd_lines_are_passed_over() {
        let fixture = Fixture::new();
        fixture.write("sys/x", "");
        let mounts = "\n - \n36 31 - cgroup2 cgroup rw\n1 2 3 / /sys - cgroup2\n";
        assert!(found(&fixture, "0::/\n", mounts, Version::V2).is_empty());
        let right = "36 31 0:33 / /sys rw - cgroup2 cgroup rw\n";
        for memberships in ["", "\n", "0:/\n", "0:memory\n", "x::/\n"] {
            assert!(found(&fixture, memberships, right, Version::V2).is_empty());
        }
        assert_eq!(found(&fixture, "\n0::/a:b\n", right, Version::V2), ["sys"]);
    }

    #[test]
    fn escapes_of_the_kernel_are_undone() {
        assert_eq!(unescaped("/a"), "/a");
        assert_eq!(unescaped(r"/a\040b\134040c\011\012"), "/a b\\040c\t\n");
    }

    #[test]
    fn depth_is_bounded() {
        let fixture = Fixture::new();
        let deep = "/d".repeat(40);
        fixture.write(&format!("sys{deep}/x"), "");
        let mounts = "36 31 0:33 / /sys rw - cgroup2 cgroup rw\n";
        let groups = Groups::find(fixture.root(), &format!("0::{deep}\n"), mounts);
        assert_eq!(groups.v2.len(), DEPTH);
        let own = groups.v2[0].limit.path();
        assert!(own.ends_with(format!("sys{deep}/memory.max")));
    }

    #[test]
    fn limits_are_told_from_what_stands_for_none() {
        assert_eq!(parse_limit("max\n"), Some(None));
        assert_eq!(parse_limit("1073741824\n"), Some(Some(1 << 30)));
        assert_eq!(parse_limit("0\n"), Some(Some(0)));
        // Of pages of 4 and of 64 KiB.
        assert_eq!(parse_limit("9223372036854771712\n"), Some(None));
        assert_eq!(parse_limit("9223372036854710272\n"), Some(None));
        for odd in ["", "-1", "1 GiB", "maximum", "99999999999999999999"] {
            assert_eq!(parse_limit(odd), None, "{odd}");
        }
        let stat = "cache 1\nhierarchical_memory_limit 4096\n";
        assert_eq!(parse_hierarchical(stat), Some(Some(4_096)));
        assert_eq!(parse_hierarchical("cache 1\n"), Some(None));
        assert_eq!(parse_hierarchical("hierarchical_memory_limit 1x"), None);
    }
}
