//! What the system says: how much memory the process may use, what is used of that, and how long
//! tasks wait for memory.
//!
//! Read from `/proc` and the control groups that the process is in, of either version. Elsewhere than
//! on Linux nothing is known. What is not known is none: neither much nor little.
//!
//! ```
//! use plimsoll_memory::system::System;
//!
//! let mut system = System::new();
//! let reading = system.read(Some(512 << 20));
//! if let (Some(limit), Some(used)) = (reading.limit, reading.used) {
//!     println!("{used} bytes of {limit}");
//! }
//! ```

mod cgroup;
mod file;
#[cfg(test)]
pub(crate) mod fixture;
mod meter;
#[cfg_attr(not(target_os = "linux"), path = "nowhere.rs")]
mod polled;
mod problems;
mod stall;

use self::{
    cgroup::{Groups, Version},
    file::{Fault, KernelFile, field, number},
    meter::Pages,
    problems::Problems,
};
pub use self::{
    meter::UsageMeter,
    problems::Problem,
    stall::{Stall, StallSource, StallTrigger, StallWaker, StallWatch, Woken},
};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// What the most memory that the process may use comes from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum LimitSource {
    /// The program's own setting.
    Configured,
    /// `memory.max` of a control group.
    CgroupV2,
    /// `memory.high` of a control group. Above it the kernel takes memory back from the process and
    /// has it wait, so that it hardly comes further.
    CgroupHigh,
    /// `memory.limit_in_bytes` of a control group.
    CgroupV1,
    /// `RLIMIT_AS`, what the process may map.
    AddressSpace,
    /// The memory of the machine, without swap.
    Ram,
}

impl LimitSource {
    /// Its name, in a few words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::CgroupV2 => "cgroup v2",
            Self::CgroupHigh => "memory.high of cgroup v2",
            Self::CgroupV1 => "cgroup v1",
            Self::AddressSpace => "address space",
            Self::Ram => "RAM",
        }
    }
}

impl fmt::Display for LimitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The most memory that the process may use. Shown as `512 MiB (cgroup v1)`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct Limit {
    /// In bytes. It may be less than what is used, and 0.
    pub bytes: u64,
    /// Where it comes from.
    pub source: LimitSource,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, source } = *self;
        let mut units = [(30, "GiB"), (20, "MiB"), (10, "KiB")].into_iter();
        match units.find(|(shift, _)| bytes >> shift != 0) {
            None => write!(f, "{bytes} B ({source})"),
            Some((shift, unit)) if bytes.trailing_zeros() >= shift => {
                write!(f, "{} {unit} ({source})", bytes >> shift)
            }
            Some((shift, unit)) => {
                let amount = bytes as f64 / (1_u64 << shift) as f64;
                write!(f, "{amount:.1} {unit} ({source})")
            }
        }
    }
}

/// What was found at one look. Bytes, where nothing else is said; none is what is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Reading {
    /// The most that may be used.
    pub limit: Option<Limit>,
    /// What is used of that. For the limit of a control group, its [`working_set`](Self::working_set);
    /// for one of the address space, what is [mapped](Self::address_space). For a configured one the
    /// working set of the process's own control group, if that is limited as well, and else, as for RAM,
    /// what is [resident](Self::resident).
    pub used: Option<u64>,
    /// Pages of the process that are in memory. The kernel adds up what its CPUs count, now and then,
    /// so that it may be some hundreds of KiB out.
    pub resident: Option<u64>,
    /// What the process has mapped.
    pub address_space: Option<u64>,
    /// What the control group that is counted uses, with those within: the one whose limit is the
    /// smallest, or the process's own. The files it has read are part of that.
    pub cgroup_usage: Option<u64>,
    /// What the group keeps of files that it has not read lately, and gives up first.
    pub inactive_file: Option<u64>,
    /// What the group uses but for that; 0 where that were negative.
    pub working_set: Option<u64>,
    /// The memory of the machine, without swap.
    pub total: Option<u64>,
    /// What can be had of it without swapping.
    pub available: Option<u64>,
    /// How long tasks wait for memory.
    pub stall: Option<Stall>,
    /// How many descriptors the process has open. Linux before 6.2 has to count them, which is done less
    /// often where there are many.
    pub descriptors: Option<u64>,
    /// How many it may have. None also where there is no such limit.
    pub max_descriptors: Option<u64>,
}

/// Looks at the system.
///
/// The files stay open, so that they can be read by a process that has no descriptor left. A look
/// allocates nothing and takes some tens of microseconds, unless control groups have changed.
#[derive(Debug)]
pub struct System {
    root: PathBuf,
    memberships: KernelFile,
    /// What they were when groups were looked for.
    joined: String,
    groups: Groups,
    limits: KernelFile,
    /// What they were when they were last in order.
    last_limits: ProcessLimits,
    statm: KernelFile,
    meminfo: KernelFile,
    pressure: KernelFile,
    descriptors: Descriptors,
    problems: Problems,
    meter: UsageMeter,
}

const LAST_LIMIT: &str =
    "what was known of it last counts; set a limit in the configuration if that is not enough";
const RESIDENT: &str = "what the process has in memory is counted instead";
const UNKNOWN: &str = "what it tells is not known";

/// What is counted against the limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Counted {
    /// The pages of the process that are in memory.
    #[default]
    Resident,
    /// What it has mapped.
    AddressSpace,
    /// The working set of a group: how many are within it, of those that the process is in.
    Group(Version, usize),
}

impl System {
    /// The system that the process is in.
    #[must_use]
    pub fn new() -> Self {
        Self::at("/")
    }

    /// A system whose `/proc` and `/sys` are within a folder.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let file = |path| KernelFile::new(root.join(path));
        let mut system = Self {
            memberships: file("proc/self/cgroup"),
            joined: String::new(),
            groups: Groups::default(),
            limits: file("proc/self/limits"),
            last_limits: ProcessLimits::default(),
            statm: file("proc/self/statm"),
            meminfo: file("proc/meminfo"),
            pressure: file("proc/pressure/memory"),
            descriptors: Descriptors::new(&root),
            problems: Problems::default(),
            meter: UsageMeter::default(),
            root,
        };
        system.read(None);
        system
    }

    /// Looks at everything. The smallest limit counts, of which the configured one is one.
    ///
    /// Limits are looked up each time, since they can change, and the groups of the process as well.
    /// What cannot be read is none, but for limits, of which the last that was known counts as long
    /// as their file is out of order.
    ///
    /// Reads a dozen files of the kernel: it may block.
    pub fn read(&mut self, configured: Option<u64>) -> Reading {
        self.find_groups();
        let pages = self.problems.read(&mut self.statm, UNKNOWN, Pages::parse);
        let ram = self.problems.read(&mut self.meminfo, UNKNOWN, Ram::parse);
        let own = self.process_limits();
        let total = ram.map(|ram| ram.total);
        let found = self.limit(configured, own.address_space, total);
        let counted = found.map(|(_, counted)| counted).unwrap_or_default();

        let group = match counted {
            Counted::Group(version, place) => self.groups.of_mut(version).get_mut(place),
            Counted::Resident | Counted::AddressSpace => self.groups.own_mut(),
        };
        let used = group.map(|group| group.used(&mut self.problems));
        let used = used.unwrap_or_default();
        let file = match counted {
            Counted::Group(version, place) => {
                let group = self.groups.of_mut(version).get(place);
                group.and_then(|group| group.usage.opened())
            }
            Counted::Resident | Counted::AddressSpace => None,
        };
        self.meter.look(meter::Look {
            counted,
            statm: self.statm.opened(),
            usage: file,
            used,
            pages,
        });
        Reading {
            limit: found.map(|(limit, _)| limit),
            used: counted.of(used.working_set(), pages),
            resident: pages.map(Pages::resident),
            address_space: pages.map(Pages::mapped),
            cgroup_usage: used.usage,
            inactive_file: used.inactive_file,
            working_set: used.working_set(),
            total,
            available: ram.and_then(|ram| ram.available),
            stall: self.stall(),
            descriptors: self.descriptors.count(),
            max_descriptors: own.descriptors,
        }
    }

    /// What is used, between two looks. It goes by the last look of this for what is counted.
    #[must_use]
    pub fn meter(&self) -> UsageMeter {
        self.meter.clone()
    }

    /// What does not tell what it should now. What is only missing is none. Each is logged once, when
    /// it is found first.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }

    /// Tells how long tasks wait: those of the process's group, or all.
    fn pressure(&self) -> &Path {
        let own = self.groups.pressure.as_ref().map(KernelFile::path);
        own.filter(|own| own.exists())
            .unwrap_or_else(|| self.pressure.path())
    }

    /// The smallest limit, and what is counted against it.
    fn limit(
        &mut self,
        configured: Option<u64>,
        address_space: Option<u64>,
        total: Option<u64>,
    ) -> Option<(Limit, Counted)> {
        let mut smallest: Option<(Limit, Counted)> = None;
        let mut consider = |bytes: Option<u64>, source, counted| {
            if let Some(bytes) = bytes
                && smallest.is_none_or(|(limit, _)| bytes < limit.bytes)
            {
                smallest = Some((Limit { bytes, source }, counted));
            }
        };
        // Of groups with the same limit the outer one uses more of it, so it comes first.
        for version in [Version::V2, Version::V1] {
            let source = match version {
                Version::V2 => LimitSource::CgroupV2,
                Version::V1 => LimitSource::CgroupV1,
            };
            let groups = self.groups.of_mut(version).iter_mut().enumerate();
            for (place, group) in groups.rev() {
                let limits = group.limits(place == 0, &mut self.problems);
                let counted = Counted::Group(version, place);
                consider(limits.max, source, counted);
                consider(limits.high, LimitSource::CgroupHigh, counted);
                consider(limits.unseen, source, counted);
            }
        }
        consider(
            address_space,
            LimitSource::AddressSpace,
            Counted::AddressSpace,
        );
        consider(configured, LimitSource::Configured, self.groups.limited());
        consider(total, LimitSource::Ram, Counted::Resident);
        smallest
    }

    /// Looks for the groups of the process, if it is in others than before.
    fn find_groups(&mut self) {
        let mut changed = None;
        let joined = &self.joined;
        let compared = self.memberships.parse(|text| {
            changed = (text != joined).then(|| text.to_owned());
            Some(())
        });
        if let Err(Fault::Absent) = compared {
            changed = (!joined.is_empty()).then(String::new);
        }
        let path = self.memberships.path();
        self.problems.note(path, LAST_LIMIT, compared);
        let Some(joined) = changed else {
            return;
        };
        let path = self.root.join("proc/self/mountinfo");
        let mounts = file::read_long(&path);
        if let Some(mounts) = self.problems.note(&path, LAST_LIMIT, mounts) {
            self.problems.forget();
            self.groups = Groups::find(&self.root, &joined, &mounts);
            self.joined = joined;
        }
    }

    fn process_limits(&mut self) -> ProcessLimits {
        let limits = self.limits.parse(ProcessLimits::parse);
        let absent = matches!(limits, Err(Fault::Absent));
        let path = self.limits.path();
        match self.problems.note(path, LAST_LIMIT, limits) {
            Some(limits) => self.last_limits = limits,
            None if absent => self.last_limits = ProcessLimits::default(),
            None => {}
        }
        self.last_limits
    }

    fn stall(&mut self) -> Option<Stall> {
        let own = self.groups.pressure.as_mut();
        let own = own.and_then(|file| self.problems.read(file, UNKNOWN, Stall::parse));
        own.or_else(|| {
            let stall = self
                .problems
                .read(&mut self.pressure, UNKNOWN, Stall::parse)?;
            Some(Stall {
                machine_wide: true,
                ..stall
            })
        })
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

impl Counted {
    /// What is used, by what is counted. Where a group does not tell, the process's own pages are
    /// better than nothing.
    fn of(self, working_set: Option<u64>, pages: Option<Pages>) -> Option<u64> {
        match self {
            Self::Group(..) => working_set.or_else(|| pages.map(Pages::resident)),
            Self::Resident => pages.map(Pages::resident),
            Self::AddressSpace => pages.map(Pages::mapped),
        }
    }
}

/// What `/proc/meminfo` says, in bytes.
#[derive(Clone, Copy, Debug)]
struct Ram {
    total: u64,
    available: Option<u64>,
}

impl Ram {
    fn parse(text: &str) -> Option<Self> {
        let bytes = |name| {
            let kib = number(field(text, name)?.strip_suffix("kB")?)?;
            kib.checked_mul(1_024)
        };
        Some(Self {
            total: bytes("MemTotal")?,
            available: bytes("MemAvailable"),
        })
    }
}

/// What `/proc/self/limits` says. None where there is no limit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct ProcessLimits {
    address_space: Option<u64>,
    descriptors: Option<u64>,
}

impl ProcessLimits {
    fn parse(text: &str) -> Option<Self> {
        // The first number is what counts; the second, what it can be set to.
        let limit = |name| match field(text, name)?.split_whitespace().next()? {
            "unlimited" => Some(None),
            bytes => number(bytes).map(Some),
        };
        Some(Self {
            address_space: limit("Max address space")?,
            descriptors: limit("Max open files")?,
        })
    }
}

/// Counts what is open.
#[derive(Debug)]
struct Descriptors {
    folder: PathBuf,
    /// Whether the kernel may tell how many there are by how long the folder is.
    told: bool,
    last: Option<u64>,
    /// Looks for which the last count is good enough.
    spare: u64,
}

/// As many are counted at each look, on average.
const COUNTED_PER_LOOK: u64 = 1_000;

impl Descriptors {
    fn new(root: &Path) -> Self {
        Self {
            folder: root.join("proc/self/fd"),
            told: root == Path::new("/"),
            last: None,
            spare: 0,
        }
    }

    fn count(&mut self) -> Option<u64> {
        if self.told
            && let Ok(folder) = fs::metadata(&self.folder)
            && folder.len() > 0
        {
            return Some(folder.len());
        }
        match self.spare.checked_sub(1) {
            Some(spare) => self.spare = spare,
            None => {
                let listed = fs::read_dir(&self.folder).ok();
                self.last = listed.map(|listed| listed.count() as u64);
                self.spare = self.last.unwrap_or(0) / COUNTED_PER_LOOK;
            }
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::{fixture::Fixture, *};

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// In the group `/a/b` of version 2, of a machine with 8 GiB.
    fn v2() -> Fixture {
        let fixture = machine();
        fixture.write("proc/self/cgroup", "0::/a/b\n");
        let mounts = "36 31 0:33 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        fixture.write("proc/self/mountinfo", mounts);
        for group in ["a", "a/b"] {
            fixture.write(&group_file(group, "memory.max"), "max\n");
            fixture.write(&group_file(group, "memory.high"), "max\n");
            fixture.write(&group_file(group, "memory.current"), "900\n");
            let stat = "anon 300\ninactive_anon 7\ninactive_file 500\nactive_file 9\n";
            fixture.write(&group_file(group, "memory.stat"), stat);
        }
        fixture
    }

    /// In the group `/a/b` of version 1, and that of version 2 in another place without a controller.
    fn v1() -> Fixture {
        let fixture = machine();
        fixture.write("proc/self/cgroup", "4:memory:/a/b\n1:cpu:/c\n0::/\n");
        let mounts = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            36 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        fixture.write("proc/self/mountinfo", mounts);
        fixture.write("sys/fs/cgroup/unified/cgroup.procs", "1\n");
        for group in ["memory", "memory/a", "memory/a/b"] {
            let none = "9223372036854771712\n";
            fixture.write(&group_file(group, "memory.limit_in_bytes"), none);
            fixture.write(&group_file(group, "memory.usage_in_bytes"), "900\n");
            let stat = "inactive_file 1\nhierarchical_memory_limit 9223372036854771712\n\
                total_inactive_file 500\n";
            fixture.write(&group_file(group, "memory.stat"), stat);
        }
        fixture
    }

    fn machine() -> Fixture {
        let fixture = Fixture::new();
        let memory = "MemTotal:        8388608 kB\nMemFree:  9 kB\nMemAvailable:    4194304 kB\n";
        fixture.write("proc/meminfo", memory);
        fixture.write("proc/self/statm", "3000 200 50 1 0 80 0\n");
        fixture.write("proc/self/limits", &limits("unlimited", "1024"));
        for descriptor in 0..3 {
            fixture.write(&format!("proc/self/fd/{descriptor}"), "");
        }
        let stall = "some avg10=1.25 avg60=0.50 avg300=0.10 total=12345\n\
            full avg10=0.25 avg60=0.00 avg300=0.00 total=345\n";
        fixture.write("proc/pressure/memory", stall);
        fixture
    }

    fn limits(address_space: &str, files: &str) -> String {
        format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max open files            {files}                 4096                 files     \n\
             Max address space         {address_space}            unlimited            bytes     \n"
        )
    }

    fn group_file(group: &str, file: &str) -> String {
        format!("sys/fs/cgroup/{group}/{file}")
    }

    fn shown(limit: Option<Limit>) -> String {
        limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
    }

    /// What the limit is, seen for the first time.
    fn limit(fixture: &Fixture, configured: Option<u64>) -> String {
        shown(System::at(fixture.root()).read(configured).limit)
    }

    fn pages(pages: u64) -> u64 {
        pages * Pages::parse("1 1 1").unwrap().mapped()
    }

    #[test]
    fn smallest_limit_counts() {
        let fixture = v2();
        assert_eq!(limit(&fixture, None), "8 GiB (RAM)");
        assert_eq!(limit(&fixture, Some(9 * GIB)), "8 GiB (RAM)");
        assert_eq!(limit(&fixture, Some(GIB)), "1 GiB (configured)");
        let own = group_file("a/b", "memory.max");
        fixture.write(&own, "2147483648\n");
        assert_eq!(limit(&fixture, Some(GIB)), "1 GiB (configured)");
        assert_eq!(limit(&fixture, None), "2 GiB (cgroup v2)");
        fixture.write(&own, "99999999999\n");
        assert_eq!(limit(&fixture, None), "8 GiB (RAM)");
        fixture.write("proc/self/limits", &limits("1610612736", "1024"));
        assert_eq!(limit(&fixture, None), "1.5 GiB (address space)");
        fixture.write(&own, "0\n");
        assert_eq!(limit(&fixture, Some(GIB)), "0 B (cgroup v2)");
    }

    #[test]
    fn group_within_a_limited_one_is_limited() {
        let fixture = v2();
        fixture.write(&group_file("a", "memory.max"), "1073741824\n");
        assert_eq!(limit(&fixture, None), "1 GiB (cgroup v2)");
        fixture.write(&group_file("a/b", "memory.max"), "1073741825\n");
        assert_eq!(limit(&fixture, None), "1 GiB (cgroup v2)");

        let fixture = v1();
        fixture.write(
            &group_file("memory/a", "memory.limit_in_bytes"),
            "1073741824\n",
        );
        assert_eq!(limit(&fixture, None), "1 GiB (cgroup v1)");
    }

    #[test]
    fn limit_above_which_it_waits_is_one() {
        let fixture = v2();
        fixture.write(&group_file("a/b", "memory.max"), "1073741824\n");
        fixture.write(&group_file("a/b", "memory.high"), "536870912\n");
        assert_eq!(limit(&fixture, None), "512 MiB (memory.high of cgroup v2)");
    }

    #[test]
    fn limit_of_a_group_out_of_sight_is_found_where_the_kernel_tells() {
        let fixture = v1();
        let stat = "hierarchical_memory_limit 268435456\ntotal_inactive_file 500\n";
        fixture.write(&group_file("memory/a/b", "memory.stat"), stat);
        assert_eq!(limit(&fixture, None), "256 MiB (cgroup v1)");
    }

    #[test]
    fn both_versions_are_looked_at_where_both_are_mounted() {
        let fixture = v1();
        fixture.write(
            &group_file("memory/a/b", "memory.limit_in_bytes"),
            "1073741824\n",
        );
        let mut system = System::at(fixture.root());
        let reading = system.read(None);
        assert_eq!(shown(reading.limit), "1 GiB (cgroup v1)");
        assert_eq!(reading.working_set, Some(400));
        assert_eq!(system.problems().count(), 0);
        fixture.write(&group_file("unified", "memory.max"), "536870912\n");
        assert_eq!(shown(system.read(None).limit), "512 MiB (cgroup v2)");
    }

    #[test]
    fn nothing_is_known_where_there_is_nothing() {
        let fixture = Fixture::new();
        let mut system = System::at(fixture.root());
        assert_eq!(system.read(None), Reading::default());
        assert_eq!(system.meter().used(), None);
        assert_eq!(shown(system.read(Some(1_000)).limit), "1000 B (configured)");
        // It may well be that nobody could know.
        assert_eq!(system.problems().count(), 0);
    }

    #[test]
    fn no_limit_is_none() {
        let fixture = v2();
        fixture.remove("proc/meminfo");
        let reading = System::at(fixture.root()).read(None);
        assert_eq!(reading.limit, None);
        assert_eq!(reading.used, Some(pages(200)));
    }

    #[test]
    fn everything_is_read() {
        let reading = System::at(v2().root()).read(None);
        let expected = Reading {
            limit: Some(Limit {
                bytes: 8 * GIB,
                source: LimitSource::Ram,
            }),
            used: Some(pages(200)),
            resident: Some(pages(200)),
            address_space: Some(pages(3_000)),
            cgroup_usage: Some(900),
            inactive_file: Some(500),
            working_set: Some(400),
            total: Some(8 * GIB),
            available: Some(4 * GIB),
            stall: reading.stall,
            descriptors: Some(3),
            max_descriptors: Some(1_024),
        };
        assert_eq!(reading, expected);
        let stall = reading.stall.unwrap();
        assert!(stall.machine_wide);
        assert_eq!(stall.some_avg10, 1.25);
        assert_eq!(System::at(v1().root()).read(None), expected);
    }

    #[test]
    fn what_changes_is_seen_at_the_next_look() {
        let fixture = v2();
        let mut system = System::at(fixture.root());
        let mut limit = |max: &str| {
            fixture.write(&group_file("a/b", "memory.max"), max);
            shown(system.read(None).limit)
        };
        assert_eq!(limit("1073741824\n"), "1 GiB (cgroup v2)");
        assert_eq!(limit("536870912\n"), "512 MiB (cgroup v2)");
        assert_eq!(limit("max\n"), "8 GiB (RAM)");
        assert_eq!(limit("2147483648\n"), "2 GiB (cgroup v2)");
    }

    #[test]
    fn process_that_is_moved_is_looked_for() {
        let fixture = v2();
        let mut system = System::at(fixture.root());
        assert_eq!(shown(system.read(None).limit), "8 GiB (RAM)");
        fixture.write(&group_file("c", "memory.max"), "1073741824\n");
        fixture.write("proc/self/cgroup", "0::/c\n");
        assert_eq!(shown(system.read(None).limit), "1 GiB (cgroup v2)");
        fixture.write("proc/self/cgroup", "");
        assert_eq!(shown(system.read(None).limit), "8 GiB (RAM)");
    }

    #[test]
    fn file_that_is_out_of_order_leaves_the_last_limit_and_is_told_of() {
        let fixture = v2();
        let own = group_file("a/b", "memory.max");
        fixture.write(&own, "1073741824\n");
        let mut system = System::at(fixture.root());
        for odd in ["", "lots\n", "1073741824x\n"] {
            fixture.write(&own, odd);
            assert_eq!(
                shown(system.read(None).limit),
                "1 GiB (cgroup v2)",
                "{odd:?}"
            );
            let problems: Vec<_> = system.problems().collect();
            assert_eq!(problems.len(), 1);
            assert_eq!(problems[0].file, fixture.path(&own));
        }
        let told = system.problems().next().unwrap().to_string();
        assert!(
            told.ends_with(&format!("has \"1073741824x\": {LAST_LIMIT}")),
            "{told}"
        );
        fixture.write(&own, "max\n");
        assert_eq!(shown(system.read(None).limit), "8 GiB (RAM)");
        assert_eq!(system.problems().count(), 0);
    }

    #[test]
    fn each_file_may_be_odd_and_the_others_count() {
        let fixture = v2();
        fixture.write(&group_file("a/b", "memory.max"), "1073741824\n");
        for (file, count) in [
            ("proc/meminfo", 1),
            ("proc/self/statm", 2),
            ("proc/self/limits", 3),
            ("proc/pressure/memory", 4),
            ("sys/fs/cgroup/a/b/memory.stat", 5),
            ("sys/fs/cgroup/a/b/memory.current", 6),
            ("sys/fs/cgroup/a/memory.max", 7),
            ("sys/fs/cgroup/a/memory.high", 8),
        ] {
            fixture.write_bytes(file, b"\xff\xfe cut o");
            let mut system = System::at(fixture.root());
            assert_eq!(
                shown(system.read(None).limit),
                "1 GiB (cgroup v2)",
                "{file}"
            );
            assert_eq!(system.problems().count(), count, "{file}");
        }
    }

    #[test]
    fn working_set_is_without_files_that_were_not_read_lately_and_never_negative() {
        let fixture = v2();
        fixture.write(&group_file("a/b", "memory.max"), "1000\n");
        let mut system = System::at(fixture.root());
        let reading = system.read(None);
        assert_eq!((reading.working_set, reading.used), (Some(400), Some(400)));
        fixture.write(&group_file("a/b", "memory.current"), "300\n");
        let reading = system.read(None);
        assert_eq!((reading.working_set, reading.used), (Some(0), Some(0)));
        // Better than nothing.
        fixture.write(&group_file("a/b", "memory.stat"), "anon 300\n");
        let reading = system.read(None);
        assert_eq!(
            (reading.working_set, reading.used),
            (None, Some(pages(200)))
        );
    }

    #[test]
    fn what_is_used_is_that_of_the_limit() {
        let fixture = v2();
        let mut system = System::at(fixture.root());
        let mut used = |configured| {
            let used = system.read(configured).used;
            assert_eq!(system.meter().used(), used);
            used
        };
        let resident = Some(pages(200));
        assert_eq!(used(None), resident);
        assert_eq!(used(Some(MIB)), resident);

        // Others in that group use it, too.
        fixture.write(&group_file("a", "memory.max"), "1073741824\n");
        fixture.write(&group_file("a", "memory.current"), "700\n");
        assert_eq!(used(None), Some(200));
        // They are none of the program's own limit.
        assert_eq!(used(Some(MIB)), resident);

        // Of two that are as narrow the outer one comes to its end first.
        fixture.write(&group_file("a/b", "memory.max"), "1073741824\n");
        assert_eq!(used(None), Some(200));
        fixture.write(&group_file("a/b", "memory.max"), "1073741823\n");
        assert_eq!(used(None), Some(400));
        assert_eq!(used(Some(MIB)), Some(400));

        fixture.write("proc/self/limits", &limits("100000", "unlimited"));
        assert_eq!(used(None), Some(pages(3_000)));
    }

    #[test]
    fn pressure_is_that_of_the_group_if_it_tells() {
        let fixture = v2();
        let line = "some avg10=7.00 avg60=0.00 avg300=0.00 total=1\n";
        fixture.write(&group_file("a/b", "memory.pressure"), line);
        let mut system = System::at(fixture.root());
        // It is the machine's, then.
        assert!(system.read(None).stall.unwrap().machine_wide);
        fixture.write(&group_file("a/b", "cgroup.events"), "populated 1\n");
        system = System::at(fixture.root());
        let stall = system.read(None).stall.unwrap();
        assert_eq!((stall.machine_wide, stall.some_avg10), (false, 7.0));
        fixture.remove(&group_file("a/b", "memory.pressure"));
        system = System::at(fixture.root());
        assert!(system.read(None).stall.unwrap().machine_wide);
    }

    #[test]
    fn many_descriptors_are_counted_seldom() {
        let fixture = machine();
        for descriptor in 0..2_500 {
            fixture.write(&format!("proc/self/fd/{descriptor}"), "");
        }
        let mut descriptors = Descriptors::new(fixture.root());
        assert_eq!(descriptors.count(), Some(2_500));
        fixture.remove("proc/self/fd/0");
        assert_eq!(descriptors.count(), Some(2_500));
        assert_eq!(descriptors.count(), Some(2_500));
        assert_eq!(descriptors.count(), Some(2_499));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_seen() {
        let mut system = System::new();
        let reading = system.read(None);
        let limit = reading.limit.unwrap();
        assert!(limit.bytes <= reading.total.unwrap(), "{limit}");
        assert!(reading.used > Some(100_000));
        assert!(reading.resident > Some(100_000));
        assert!(reading.address_space > reading.resident);
        assert!(reading.descriptors > Some(3));
        assert!(system.meter().used() > Some(100_000));
        assert_eq!(system.problems().count(), 0);
    }

    #[test]
    fn limit_is_shown_in_the_unit_that_fits() {
        for (bytes, expected) in [
            (0, "0 B (RAM)"),
            (1_023, "1023 B (RAM)"),
            (1_024, "1 KiB (RAM)"),
            (512 * MIB, "512 MiB (RAM)"),
            (512 * MIB + 1, "512.0 MiB (RAM)"),
            (1_536 * MIB, "1.5 GiB (RAM)"),
            (24_683_660 << 10, "23.5 GiB (RAM)"),
            (u64::MAX, "17179869184.0 GiB (RAM)"),
        ] {
            let source = LimitSource::Ram;
            assert_eq!(Limit { bytes, source }.to_string(), expected);
        }
    }
}
