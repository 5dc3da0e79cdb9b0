//! What is found of control groups by a process that is in one: this program, started again. Needs to
//! make groups, so root; what cannot be had here is ignored, and said.
#![allow(clippy::unwrap_used, reason = "tests panic")]

use libtest_mimic::{Arguments, Failed, Trial};
use plimsoll_alloc::CountingAllocator;
use plimsoll_memory::system::{StallSource, StallTrigger, StallWatch, System, UsageMeter, Woken};
use std::{
    env,
    fs::{self, File},
    hint::black_box,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    sync::atomic::{
        AtomicBool, AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
    thread,
    time::Duration,
};

#[global_allocator]
static ALLOC: CountingAllocator = CountingAllocator::system();

/// Has this be the program in a group instead of the tests.
const INSIDE: &str = "--inside";

const MIB: u64 = 1 << 20;

/// Where files are written.
const FILES: &str = env!("CARGO_TARGET_TMPDIR");

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

type Test = fn(&Place) -> Result<()>;

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some(INSIDE) {
        inside().unwrap();
        return ExitCode::SUCCESS;
    }
    let mut arguments = Arguments::from_args();
    // One of them counts allocations, and others need the disk.
    arguments.test_threads = Some(1);
    let mut trials = vec![Trial::test("look_allocates_nothing", || {
        look_allocates_nothing();
        Ok(())
    })];
    let has_disk = !is_in_memory(Path::new(FILES));
    if !has_disk {
        eprintln!("skipped: tests with files: those in {FILES} are in memory");
    }
    for (version, place) in [("v1", v1()), ("v2", v2())] {
        if let Err(why) = &place {
            eprintln!("skipped: tests of cgroup {version}: {why}");
        }
        let tests: [(&str, Test, bool); 8] = [
            ("limit_of_the_group_is_found", limit, false),
            ("limit_of_the_group_around_it_is_found", nested, false),
            (
                "limit_that_changes_is_seen_at_the_next_look",
                changed,
                false,
            ),
            ("process_that_is_moved_is_looked_for", moved, false),
            ("what_is_allocated_is_used", used, false),
            ("files_that_were_read_are_not_used", files, true),
            ("files_that_were_given_up_hide_nothing", given_up, true),
            ("stall_wakes", stall, true),
        ];
        for (name, test, needs_disk) in tests {
            let place = place.clone();
            let missing = place.is_err() || (needs_disk && !has_disk);
            let test = move || {
                let place = place.as_ref().map_err(|why| Failed::from(why.as_str()))?;
                test(place).map_err(|error| Failed::from(error.to_string()))
            };
            let name = format!("{version}::{name}");
            trials.push(Trial::test(name, test).with_ignored_flag(missing));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

// === Inside of a group ===

/// Does what it is told, line by line, and answers each with one. Ends with whoever tells it.
fn inside() -> Result<()> {
    let mut lines = io::stdin().lines();
    let mut answers = io::stdout();
    // Once it is where it should be.
    assert_eq!(lines.next().unwrap()?, "start");
    let mut system = System::new();
    let meter = system.meter();
    let mut kept = Vec::new();
    writeln!(answers, "ready")?;
    for line in lines {
        let line = line?;
        let (order, value) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match order {
            "look" => look(&mut system, &meter),
            "meter" => meter.used().unwrap().to_string(),
            "grow" => {
                kept.push(vec![1_u8; usize::try_from(value.parse::<u64>()? * MIB)?]);
                "grown".to_owned()
            }
            "write" => {
                write(Path::new(value))?;
                "written".to_owned()
            }
            "stall" => stalled(&system, Path::new(value))?,
            _ => return Err(format!("what is {order}?").into()),
        };
        black_box(&kept);
        writeln!(answers, "{answer}")?;
    }
    Ok(())
}

fn look(system: &mut System, meter: &UsageMeter) -> String {
    let reading = system.read(None);
    let figures = [
        reading.used,
        meter.used(),
        reading.cgroup_usage,
        reading.inactive_file,
        reading.working_set,
    ];
    let problems: Vec<_> = system.problems().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{problems:?}");
    let limit = reading.limit.map(|limit| limit.to_string());
    let figures = figures.map(|figure| figure.map_or_else(|| "?".to_owned(), |it| it.to_string()));
    format!("{};{}", limit.unwrap_or_default(), figures.join(" "))
}

/// MiB of a file.
const FILE: u64 = 40;

/// So that the pages of the file belong to the group.
fn write(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    for _ in 0..FILE {
        file.write_all(&[7; MIB as usize])?;
    }
    // What is not written yet cannot be given up.
    file.sync_all()?;
    Ok(())
}

fn read(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    io::copy(&mut file, &mut io::sink())?;
    Ok(())
}

/// Reads more than there is room for, until somebody says that tasks wait, for a minute at most.
fn stalled(system: &System, path: &Path) -> Result<String> {
    let trigger = StallTrigger::new(Duration::from_millis(1), Duration::from_millis(500));
    let mut watch = StallWatch::open(system, trigger, |_| None);
    if watch.source() != StallSource::Trigger {
        return Ok(format!("no trigger but {}", watch.source()));
    }
    let over = AtomicBool::new(false);
    let woken = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !over.load(Acquire) {
                read(path)?;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
        let woken = watch.wait(Duration::from_secs(60));
        over.store(true, Release);
        reader.join().unwrap()?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(woken)
    })?;
    Ok(match woken {
        Woken::Stall => "woken".to_owned(),
        woken => format!("{woken:?}"),
    })
}

// === Groups ===

/// Where groups can be made, and how their limit is named.
#[derive(Clone, Debug)]
struct Place {
    folder: PathBuf,
    limit: &'static str,
    /// What stands for none.
    none: &'static str,
    source: &'static str,
    /// Whether groups have to be told to limit those within them.
    delegates: bool,
}

fn v1() -> Result<Place, String> {
    let mount = mounted("cgroup", "memory").ok_or("no memory controller of v1 is mounted")?;
    let place = Place {
        folder: mount,
        limit: "memory.limit_in_bytes",
        none: "-1",
        source: "cgroup v1",
        delegates: false,
    };
    place.checked()
}

fn v2() -> Result<Place, String> {
    let mount = mounted("cgroup2", "").ok_or("no v2 is mounted")?;
    let delegated = fs::read_to_string(mount.join("cgroup.subtree_control")).unwrap_or_default();
    if !delegated.split_whitespace().any(|name| name == "memory") {
        return Err(format!("{} delegates no memory", mount.display()));
    }
    let place = Place {
        folder: mount,
        limit: "memory.max",
        none: "max",
        source: "cgroup v2",
        delegates: true,
    };
    place.checked()
}

fn mounted(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        let mut what = what.split(' ');
        let found = what.next() == Some(kind)
            && (option.is_empty() || what.nth(1)?.split(',').any(|name| name == option));
        found.then(|| place.split(' ').nth(4).unwrap_or_default().into())
    })
}

/// Whether files in a folder are in memory and nowhere else.
fn is_in_memory(folder: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        let place = place.split(' ').nth(4)?;
        let is_around = folder.starts_with(place);
        is_around.then_some((place.len(), what.split(' ').next()?))
    });
    // The innermost, and of those in one place the last.
    let kind = mounts.max_by_key(|(length, _)| *length);
    kind.is_some_and(|(_, kind)| matches!(kind, "tmpfs" | "ramfs"))
}

impl Place {
    fn checked(self) -> Result<Self, String> {
        match Group::new(&self, &self.folder, Some(64)) {
            Ok(_) => Ok(self),
            Err(error) => Err(format!(
                "no group can be made in {}: {error}",
                self.folder.display()
            )),
        }
    }

    fn group(&self, mib: Option<u64>) -> Result<Group> {
        Ok(Group::new(self, &self.folder, mib)?)
    }

    fn shown(&self, mib: u64) -> String {
        format!("{mib} MiB ({})", self.source)
    }
}

/// A group that is removed with it. Whoever is in it has to be gone by then.
struct Group {
    folder: PathBuf,
    limit: PathBuf,
    none: &'static str,
}

impl Group {
    fn new(place: &Place, outer: &Path, mib: Option<u64>) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, next) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        let folder = outer.join(format!("plimsoll-{process}-{next}"));
        fs::create_dir(&folder)?;
        let group = Self {
            limit: folder.join(place.limit),
            none: place.none,
            folder,
        };
        // What is swapped is not used. The one is of v1, the other of v2, and neither is there without
        // swap.
        for file in ["memory.swappiness", "memory.swap.max"] {
            let _ = fs::write(group.folder.join(file), "0");
        }
        group.set(mib)?;
        Ok(group)
    }

    fn inner(&self, place: &Place, mib: Option<u64>) -> Result<Self> {
        if place.delegates {
            fs::write(self.folder.join("cgroup.subtree_control"), "+memory")?;
        }
        Ok(Self::new(place, &self.folder, mib)?)
    }

    fn set(&self, mib: Option<u64>) -> io::Result<()> {
        let limit = mib.map_or_else(|| self.none.to_owned(), |mib| (mib * MIB).to_string());
        fs::write(&self.limit, limit)
    }

    fn enter(&self, process: u32) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), process.to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel lets go of a process a moment after it was waited for.
        for _ in 0..500 {
            match fs::remove_dir(&self.folder) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    thread::sleep(Duration::from_millis(10));
                }
                _ => return,
            }
        }
        eprintln!("{} is left behind", self.folder.display());
    }
}

/// The program in a group. It is ended with it.
struct Inside {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What it has found.
#[derive(Debug)]
struct Found {
    limit: String,
    used: u64,
    meter: u64,
    usage: u64,
    inactive_file: u64,
    working_set: u64,
}

impl Inside {
    fn start(group: &Group) -> Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .arg(INSIDE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().ok_or("no input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut inside = Self {
            child,
            orders,
            answers,
        };
        group.enter(inside.child.id())?;
        assert_eq!(inside.order("start")?, "ready");
        Ok(inside)
    }

    fn order(&mut self, order: &str) -> Result<String> {
        writeln!(self.orders, "{order}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer.is_empty() {
            return Err(format!("it ended on {order:?}: {}", self.child.wait()?).into());
        }
        Ok(answer.trim_end().to_owned())
    }

    fn look(&mut self) -> Result<Found> {
        let answer = self.order("look")?;
        let (limit, figures) = answer.split_once(';').ok_or("no limit")?;
        let figures = figures.split(' ').map(str::parse);
        let figures: Vec<u64> = figures
            .collect::<Result<_, _>>()
            .map_err(|_| answer.clone())?;
        Ok(Found {
            limit: limit.to_owned(),
            used: figures[0],
            meter: figures[1],
            usage: figures[2],
            inactive_file: figures[3],
            working_set: figures[4],
        })
    }

    fn limit(&mut self) -> Result<String> {
        Ok(self.look()?.limit)
    }

    /// What is used, though nobody has looked since.
    fn meter(&mut self) -> Result<u64> {
        Ok(self.order("meter")?.parse()?)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file that somebody in a group writes. It is removed with it.
struct Written {
    path: PathBuf,
}

impl Written {
    fn written_by(inside: &mut Inside, name: &str) -> Result<Self> {
        let path = Path::new(FILES).join(format!("{name}-{}", std::process::id()));
        let written = Self { path };
        inside.order(&written.order("write"))?;
        Ok(written)
    }

    fn order(&self, order: &str) -> String {
        format!("{order} {}", self.path.display())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

// === Tests ===

fn look_allocates_nothing() {
    let mut system = System::new();
    let meter = system.meter();
    system.read(None);
    let before = ALLOC.allocations();
    for _ in 0..10 {
        black_box(system.read(Some(MIB)));
        black_box(meter.used());
    }
    assert_eq!(ALLOC.allocations(), before);
}

fn limit(place: &Place) -> Result<()> {
    let group = place.group(Some(64))?;
    let mut inside = Inside::start(&group)?;
    let found = inside.look()?;
    assert_eq!(found.limit, place.shown(64));
    assert_eq!(found.used, found.working_set);
    assert!(found.used < 64 * MIB, "{found:?}");
    Ok(())
}

fn nested(place: &Place) -> Result<()> {
    let outer = place.group(Some(48))?;
    for mib in [Some(64), None] {
        let inner = outer.inner(place, mib)?;
        let mut inside = Inside::start(&inner)?;
        assert_eq!(inside.limit()?, place.shown(48));
    }
    let inner = outer.inner(place, Some(40))?;
    assert_eq!(Inside::start(&inner)?.limit()?, place.shown(40));
    Ok(())
}

fn changed(place: &Place) -> Result<()> {
    let outer = place.group(None)?;
    let inner = outer.inner(place, Some(64))?;
    let mut inside = Inside::start(&inner)?;
    assert_eq!(inside.limit()?, place.shown(64));
    inner.set(Some(96))?;
    assert_eq!(inside.limit()?, place.shown(96));
    outer.set(Some(80))?;
    assert_eq!(inside.limit()?, place.shown(80));
    inner.set(None)?;
    assert_eq!(inside.limit()?, place.shown(80));
    outer.set(None)?;
    assert!(!inside.limit()?.contains("MiB"));
    Ok(())
}

fn moved(place: &Place) -> Result<()> {
    let (one, other) = (place.group(Some(64))?, place.group(Some(96))?);
    let mut inside = Inside::start(&one)?;
    assert_eq!(inside.limit()?, place.shown(64));
    other.enter(inside.child.id())?;
    assert_eq!(inside.limit()?, place.shown(96));
    // Nobody needs that one any more.
    drop(one);
    assert_eq!(inside.limit()?, place.shown(96));
    Ok(())
}

fn used(place: &Place) -> Result<()> {
    let group = place.group(Some(64))?;
    let mut inside = Inside::start(&group)?;
    let before = inside.look()?;
    inside.order("grow 20")?;
    let meter = inside.meter()?;
    let after = inside.look()?;
    // The kernel charges some pages in advance, for each processor that it was on.
    let near = |bytes: u64| (19 * MIB..30 * MIB).contains(&(bytes - before.used));
    assert!(
        near(after.used) && near(after.meter),
        "{before:?} {after:?}"
    );
    assert!(near(meter), "{before:?} {meter}");
    Ok(())
}

fn files(place: &Place) -> Result<()> {
    let group = place.group(Some(64))?;
    let mut inside = Inside::start(&group)?;
    let before = inside.look()?;
    let _file = Written::written_by(&mut inside, "files")?;
    let after = inside.look()?;
    assert!(
        after.usage >= before.usage + FILE * MIB,
        "{before:?} {after:?}"
    );
    assert!(after.inactive_file >= (FILE - 2) * MIB, "{after:?}");
    assert!(after.used < before.used + 4 * MIB, "{before:?} {after:?}");
    Ok(())
}

fn given_up(place: &Place) -> Result<()> {
    let group = place.group(Some(64))?;
    let mut inside = Inside::start(&group)?;
    let _file = Written::written_by(&mut inside, "given-up")?;
    let before = inside.look()?;
    assert!(before.inactive_file >= (FILE - 2) * MIB, "{before:?}");
    // There is no room for both, and nobody looks.
    inside.order("grow 44")?;
    let meter = inside.meter()?;
    assert!(meter >= before.used + 43 * MIB, "{before:?} {meter}");
    let after = inside.look()?;
    assert!(after.used >= before.used + 43 * MIB, "{after:?}");
    Ok(())
}

fn stall(place: &Place) -> Result<()> {
    let group = place.group(Some(16))?;
    let mut inside = Inside::start(&group)?;
    let file = Written::written_by(&mut inside, "stall")?;
    match &*inside.order(&file.order("stall"))? {
        "woken" => {}
        answer if answer.starts_with("no trigger") => eprintln!("skipped: stall_wakes: {answer}"),
        answer => return Err(answer.into()),
    }
    Ok(())
}
