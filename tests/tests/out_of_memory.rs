//! Under loads that need more memory than there is, a service is not killed, stays below its limit,
//! and refuses as it should. Each in a memory cgroup of its own, which takes root; these tests count
//! themselves as ignored where there cannot be one.

use libtest_mimic::{Arguments, Failed, Trial};
use plimsoll_tests::{
    Error,
    cgroup::Cgroup,
    driver::Load,
    run::{Allocator, Plan, Programs, Run},
};
use std::{fs, path::Path, process::ExitCode};

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 512 * MIB;
const MOST: u64 = 490 * MIB;
const SECONDS: u32 = 7;
const IDLE_CONNECTIONS: u32 = 1_000;
/// In MB a second. Who refuses everything is never killed. Tests are not optimised, so this is far below
/// what the service can do.
const LEAST_GOODPUT: f64 = 50.0;

/// Whether the service knows what to refuse.
const IS_DUE: bool = false;

// One at a time: they take all CPUs there are.
fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let unavailable = Cgroup::new(LIMIT).err();
    if let Some(error) = &unavailable {
        eprintln!("skipped: {error}");
    }
    let loads = [Load::A, Load::B, Load::C, Load::D];
    let allocators = [Allocator::Glibc, Allocator::Jemalloc];
    let all = loads
        .into_iter()
        .flat_map(|load| allocators.map(|allocator| (load, allocator)));
    let trials = all.map(|(load, allocator)| {
        let name = format!("load_{load}_on_{allocator}_is_survived").to_lowercase();
        Trial::test(name, move || is_survived(load, allocator))
            .with_ignored_flag(unavailable.is_some() || !IS_DUE)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn is_survived(load: Load, allocator: Allocator) -> Result<(), Failed> {
    let run = run(load, allocator).map_err(|error| error.to_string())?;
    let outcome = &run.outcome;
    let [opened, left] = outcome.idle_connections;
    let refused = outcome.of("heavy").refused;
    let bars = [
        ("it was killed", !run.is_killed && run.oom_kills == 0),
        ("it used too much", run.peak <= MOST),
        ("it did not have to refuse anything", refused > 0),
        (
            "a refusal has no Retry-After",
            outcome.without_retry_after() == 0,
        ),
        (
            "it refuses when it is idle",
            outcome.probes_not_answered() == 0,
        ),
        (
            "it answers too little",
            outcome.heavy_mb_per_s >= LEAST_GOODPUT,
        ),
        ("idle connections are gone", opened > 0 && opened == left),
    ];
    for (what, is_met) in bars {
        if !is_met {
            let run = serde_json::to_string_pretty(&run).unwrap_or_default();
            return Err(format!("{what}: {run}").into());
        }
    }
    Ok(())
}

fn run(load: Load, allocator: Allocator) -> Result<Run, Error> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("out-of-memory");
    fs::create_dir_all(&folder)?;
    let mut plan = Plan::new(allocator, load, LIMIT);
    plan.seconds = SECONDS;
    plan.idle = IDLE_CONNECTIONS;
    plan.config = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("load"));
    plan.log = Some(folder.join(format!("{load}-{allocator}.log")));
    let driver = Path::new(env!("CARGO_BIN_EXE_load-driver"));
    let run = plan.run(&Programs::beside(driver))?;
    let timeline = folder.join(format!("{load}-{allocator}.csv"));
    fs::write(timeline, run.timeline.to_csv())?;
    Ok(run)
}
