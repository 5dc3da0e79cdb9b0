//! A program keeps known amounts in known functions for known routes, and the standard tool is asked
//! what its heap profile says.
#![allow(clippy::unwrap_used, reason = "tests panic")]

use libtest_mimic::{Arguments, Failed, Trial};
use plimsoll_alloc::{MemoryGroup, TrackingAllocator, profile};
use plimsoll_core::Name;
use plimsoll_memory::profile::HeapProfile;
use std::{
    collections::BTreeMap,
    env, fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::Command,
};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// Has this be the program instead of its tests. Its profiles go into the folder that follows.
const KEEP: &str = "--keep-known-amounts";

const MIB: usize = 1 << 20;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() {
    let mut args = env::args().skip(1);
    if args.next().as_deref() == Some(KEEP) {
        let folder = args.next().unwrap();
        keep(Path::new(&folder)).unwrap();
        return;
    }
    let args = Arguments::from_args();
    let missing = ["go", "addr2line", "readelf", "strip"]
        .into_iter()
        .filter(|tool| !is_installed(tool));
    let missing: Vec<_> = missing.collect();
    if !missing.is_empty() {
        eprintln!("no {missing:?} here, so what needs them is ignored");
    }
    let trial = |name, test: fn() -> Result<()>| {
        let test = move || test().map_err(|error| Failed::from(error.to_string()));
        Trial::test(name, test).with_ignored_flag(!missing.is_empty())
    };
    let trials = vec![
        trial("each_function_keeps_what_it_keeps", functions),
        trial("routes_and_adapters_and_states_are_labels", labels),
        trial("inlined_functions_are_lines_of_one_location", inlined),
        trial("difference_is_what_came_and_went_meanwhile", difference),
        trial("values_have_the_types_that_readers_expect", types),
        trial("stripped_program_is_symbolised_elsewhere", stripped),
    ];
    libtest_mimic::run(&args, trials).exit();
}

fn is_installed(tool: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

// === The program ===

#[inline(never)]
fn keep_reports() -> [Vec<u8>; 4] {
    blocks()
}

#[inline(never)]
fn keep_pages() -> [Vec<u8>; 2] {
    blocks()
}

#[inline(never)]
fn keep_answers() -> [Vec<u8>; 3] {
    blocks()
}

#[inline(never)]
fn keep_for_nobody() -> [Vec<u8>; 1] {
    blocks()
}

#[inline(never)]
fn keep_in_the_window() -> [Vec<u8>; 5] {
    blocks()
}

/// Each is in the sample, and stands for itself alone: it has a thousand times the mean. There is no
/// other block, which might be in the sample or not.
#[inline(always)]
fn blocks<const COUNT: usize>() -> [Vec<u8>; COUNT] {
    std::array::from_fn(|_| block())
}

#[inline(always)]
fn block() -> Vec<u8> {
    black_box(Vec::with_capacity(black_box(MIB)))
}

fn keep(folder: &Path) -> Result<()> {
    let groups = [(); 3].map(|()| MemoryGroup::new());
    let ids = groups.each_ref().map(|group| group.id().unwrap());
    let names = BTreeMap::from([
        (ids[0], ("route", Name::from_static("/reports"))),
        (ids[1], ("route", Name::from_static("/pages/{page}"))),
        (ids[2], ("adapter", Name::from_static("search"))),
    ]);
    let take = || HeapProfile::take(|group| names.get(&group).copied());
    profile::start(profile::Sampling::new().mean_bytes(1 << 10)?);
    // A request that is over, one that is not, and what that had an adapter do.
    let reports = groups[0].scope().run(keep_reports);
    let request = groups[1].scope();
    let pages = request.run(keep_pages);
    let call = groups[2].scope_within(&request);
    let answers = call.run(keep_answers);
    let nobody = keep_for_nobody();
    let before = take();
    fs::write(folder.join("heap.pb.gz"), before.to_pprof()?)?;

    let window = groups[0].scope().run(keep_in_the_window);
    drop(answers);
    let after = take();
    fs::write(
        folder.join("window.pb.gz"),
        after.since(&before).to_pprof()?,
    )?;
    drop((reports, pages, nobody, window));
    Ok(())
}

/// Runs a program in a folder of its own.
fn run(program: &Path, name: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("pprof")
        .join(name);
    fs::create_dir_all(&folder)?;
    let status = Command::new(program).arg(KEEP).arg(&folder).status()?;
    if !status.success() {
        return Err(format!("{name}: {status}").into());
    }
    Ok(folder)
}

// === What the tool says ===

/// What the tool prints.
fn pprof(args: &[&str], files: &[&Path]) -> Result<String> {
    let mut tool = Command::new("go");
    tool.args(["tool", "pprof"]).args(args).args(files);
    // It keeps nothing of ours, and looks nowhere else.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tool.env("PPROF_TMPDIR", folder)
        .env("PPROF_BINARY_PATH", folder.join("none"));
    output(tool)
}

fn output(mut command: Command) -> Result<String> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{command:?}: {errors}").into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The lines of a table that end with a name, each without it.
fn rows<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    text.lines().filter_map(move |line| {
        let row = line.trim_end().strip_suffix(name)?;
        row.ends_with(' ').then(|| row.split_whitespace().collect())
    })
}

/// What a function and those that it calls hold, as `-top` has it.
fn held<'a>(text: &'a str, function: &'a str) -> Option<&'a str> {
    rows(text, function).next().map(|row| row[3])
}

/// Asserts what functions hold.
fn assert_held(text: &str, want: &[(&str, Option<&str>)]) {
    for (function, want) in want {
        assert_eq!(held(text, function), *want, "{function} in {text}");
    }
}

/// The profile of the program, and how it is asked for in whole MiB.
fn top(name: &str, file: &str, args: &[&str]) -> Result<String> {
    let profile = run(&env::current_exe()?, name)?.join(file);
    let args = [&["-top", "-nodecount=1000", "-unit=MB"], args].concat();
    pprof(&args, &[&profile])
}

fn functions() -> Result<()> {
    let text = top("functions", "heap.pb.gz", &[])?;
    assert_held(
        &text,
        &[
            ("pprof::keep_reports", Some("4MB")),
            ("pprof::keep_pages", Some("2MB")),
            ("pprof::keep_answers", Some("3MB")),
            ("pprof::keep_for_nobody", Some("1MB")),
            ("pprof::keep_in_the_window", None),
            ("pprof::keep", Some("10MB")),
        ],
    );
    // It is who asks for a vector that has it, not what vectors are made of.
    let mut own = rows(&text, "pprof::block (inline)").chain(rows(&text, "pprof::block"));
    let own = own.next().unwrap_or_else(|| panic!("{text}"));
    assert_eq!(own[0], "10MB", "{text}");
    // Neither the allocator nor whoever writes the profile has kept anything.
    assert!(!text.contains("TrackingAllocator"), "{text}");
    assert!(!text.contains("HeapProfile"), "{text}");
    Ok(())
}

fn labels() -> Result<()> {
    let heap = run(&env::current_exe()?, "labels")?.join("heap.pb.gz");
    let tags = pprof(&["-tags", "-unit=MB"], &[&heap])?;
    for (value, want) in [
        ("/reports", "4.0MB"),
        ("/pages/{page}", "5.0MB"),
        ("search", "3.0MB"),
        ("retained", "4.0MB"),
        ("live", "6.0MB"),
    ] {
        let row = rows(&tags, value).next();
        assert_eq!(
            row.map(|row| row[0].to_owned()).as_deref(),
            Some(want),
            "{tags}"
        );
    }
    // As it stands in the guide: what routes hold, and what that of one is made of.
    let args = ["-top", "-nodecount=1000", "-unit=MB", "-tagroot=route"];
    let text = pprof(&args, &[&heap])?;
    let roots = [("/reports", Some("4MB")), ("/pages/{page}", Some("5MB"))];
    assert_held(&text, &roots);
    let args = [&args[..3], &["-tagfocus=state=retained"]].concat();
    let text = pprof(&args, &[&heap])?;
    assert_held(
        &text,
        &[
            ("pprof::keep_reports", Some("4MB")),
            ("pprof::keep_pages", None),
        ],
    );
    Ok(())
}

fn inlined() -> Result<()> {
    let heap = run(&env::current_exe()?, "inlined")?.join("heap.pb.gz");
    let raw = pprof(&["-raw"], &[&heap])?;
    let mut lines = raw.lines();
    let inner = lines.find(|line| line.contains(" pprof::block "));
    let inner = inner.unwrap_or_else(|| panic!("{raw}"));
    let here = Path::new(file!()).file_name().unwrap().to_str().unwrap();
    assert!(
        inner.contains(&format!("{here}:{}", line_of("black_box(Vec::"))),
        "{inner}"
    );
    // It has no address of its own.
    let outer = lines.next().unwrap();
    assert!(outer.trim_start().starts_with("pprof::blocks"), "{outer}");
    assert!(
        outer.contains(&format!("{here}:{}", line_of("std::array::from_fn"))),
        "{outer}"
    );
    // Its image has functions, files, lines and what was inlined.
    let image = raw.lines().find(|line| line.starts_with("1: 0x")).unwrap();
    assert!(image.ends_with("[FN][FL][LN][IN]"), "{image}");
    Ok(())
}

/// The line of this file that begins so.
fn line_of(code: &str) -> usize {
    let lines = include_str!("pprof.rs").lines();
    let found = lines
        .map(str::trim_start)
        .position(|line| line.starts_with(code));
    found.unwrap() + 1
}

fn difference() -> Result<()> {
    let text = top("difference", "window.pb.gz", &[])?;
    assert_held(
        &text,
        &[
            ("pprof::keep_in_the_window", Some("5MB")),
            ("pprof::keep_answers", Some("-3MB")),
            ("pprof::keep_reports", None),
            ("pprof::keep_pages", None),
            ("pprof::keep", Some("2MB")),
        ],
    );
    assert!(text.contains("Duration: "), "{text}");
    assert!(!text.contains("HeapProfile"), "{text}");
    Ok(())
}

fn types() -> Result<()> {
    let heap = run(&env::current_exe()?, "types")?.join("heap.pb.gz");
    let raw = pprof(&["-raw"], &[&heap])?;
    assert!(
        raw.contains("PeriodType: space bytes\nPeriod: 1024\n"),
        "{raw}"
    );
    assert!(
        raw.contains("inuse_objects/count inuse_space/bytes[dflt]"),
        "{raw}"
    );
    // The largest first.
    let samples = raw.lines().filter_map(|line| {
        let (values, _) = line.split_once(": ")?;
        let (objects, bytes) = values.trim().split_once(' ')?;
        Some([objects.parse::<usize>().ok()?, bytes.trim().parse().ok()?])
    });
    // Small ones may be there besides.
    let samples: Vec<_> = samples.filter(|[_, bytes]| *bytes >= MIB).collect();
    assert_eq!(
        samples,
        [4, 3, 2, 1].map(|count| [count, count * MIB]),
        "{raw}"
    );
    let args = ["-top", "-nodecount=1000", "-sample_index=inuse_objects"];
    let text = pprof(&args, &[&heap])?;
    assert_held(&text, &[("pprof::keep_reports", Some("4"))]);
    Ok(())
}

fn stripped() -> Result<()> {
    let (whole, folder) = (env::current_exe()?, Path::new(env!("CARGO_TARGET_TMPDIR")));
    let program = folder.join("pprof-stripped");
    let _ = fs::remove_file(&program);
    let mut strip = Command::new("strip");
    strip.arg("-o").args([&program, &whole]);
    output(strip)?;
    let heap = run(&program, "stripped")?.join("heap.pb.gz");
    let raw = pprof(&["-raw", "-symbolize=none"], &[&heap])?;
    assert!(!raw.contains("keep_reports"), "{raw}");

    // `1: start/limit/offset file id`, without a mark for symbols.
    let image = raw.lines().find(|line| line.starts_with("1: 0x")).unwrap();
    let fields: Vec<_> = image.split_whitespace().collect();
    let notes = output(command("readelf", &["-n"], &whole))?;
    let id = rows(&notes, fields[3]).next();
    assert_eq!(id, Some(vec!["Build", "ID:"]), "{image}: {notes}");
    assert_eq!(
        (Path::new(fields[2]), fields.len()),
        (&*program, 4),
        "{image}"
    );
    let [start, limit, offset] = [0, 1, 2].map(|n| hex(fields[1].split('/').nth(n).unwrap()));

    // Its addresses are those of its functions in the program that was not stripped.
    let segments = output(command("readelf", &["-lW"], &whole))?;
    // `LOAD offset address …`, of what is executed.
    let loaded = segments
        .lines()
        .find(|line| line.contains("LOAD") && line.contains(" R E "));
    let loaded: Vec<_> = loaded.unwrap().split_whitespace().collect();
    let moved = hex(loaded[2]) - hex(loaded[1]);
    let ours = raw.lines().filter_map(|line| {
        let (address, _) = line.split_once(" M=1")?;
        let address = hex(address.split_whitespace().last()?);
        assert!((start..limit).contains(&address), "{line}");
        Some(format!("{:#x}", address - start + offset + moved))
    });
    let mut look = command("addr2line", &["-f", "-i", "-C", "-e"], &whole);
    look.args(ours);
    let functions = output(look)?;
    for function in [
        "keep_reports",
        "keep_pages",
        "keep_answers",
        "keep_for_nobody",
    ] {
        assert!(
            functions.contains(&format!("pprof::{function}")),
            "{functions}"
        );
    }
    Ok(())
}

fn command(tool: &str, args: &[&str], file: &Path) -> Command {
    let mut command = Command::new(tool);
    command.args(args).arg(file);
    command
}

fn hex(number: &str) -> usize {
    usize::from_str_radix(number.trim_start_matches("0x"), 16).unwrap()
}
