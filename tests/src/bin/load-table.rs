//! Runs the service under loads, seed by seed, and prints what came of it as a table.

use clap::Parser;
use plimsoll_tests::{
    Error,
    driver::Load,
    run::{Allocator, Plan, Programs, Run},
};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    env, fmt,
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::ExitCode,
};

const MIB: u64 = 1 << 20;

/// Runs the service in memory cgroups: bare with plenty of memory, and within a limit.
#[derive(Debug, Parser)]
struct Arguments {
    /// Allocators.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "glibc,jemalloc"
    )]
    allocators: Vec<Allocator>,
    /// Loads.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        ignore_case = true,
        default_value = "a,b,c,d,e"
    )]
    loads: Vec<Load>,
    /// Seeds.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4,5")]
    seeds: Vec<u64>,
    /// How long each is driven.
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// What is run for each.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "reference,limited"
    )]
    modes: Vec<Mode>,
    /// The limit of what is limited, in MiB.
    #[arg(long, default_value_t = 512)]
    limit: u64,
    /// The limit of the reference, in MiB.
    #[arg(long, default_value_t = 8_192)]
    plenty: u64,
    /// Idle connections.
    #[arg(long, default_value_t = 0)]
    idle: u32,
    /// CPUs for service and driver together, such as `0,1`.
    #[arg(long)]
    cpus: Option<String>,
    /// A folder with the configuration of Plimsoll.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/load"))]
    config: PathBuf,
    /// A variable of the service's environment, `NAME=value`.
    #[arg(long = "env")]
    variables: Vec<String>,
    /// A folder for what is written down: each run in `runs.jsonl`, timelines and logs.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, clap::ValueEnum)]
enum Mode {
    /// Bare, with plenty of memory.
    Reference,
    /// Within the limit, with Plimsoll.
    Limited,
    /// Within the limit, bare.
    Bare,
    /// With Plimsoll and plenty of memory.
    Plenty,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reference => "reference",
            Self::Limited => "limited",
            Self::Bare => "bare",
            Self::Plenty => "plenty",
        })
    }
}

/// A run, and what it was.
#[derive(Debug, Serialize)]
struct Done {
    mode: Mode,
    run: Run,
}

fn main() -> Result<ExitCode, Error> {
    let arguments = Arguments::parse();
    if let Some(folder) = &arguments.out {
        fs::create_dir_all(folder)?;
    }
    let mut done = Vec::new();
    let mut failed = 0;
    let mut cells = 0;
    for &seed in &arguments.seeds {
        for &load in &arguments.loads {
            for &allocator in &arguments.allocators {
                let mut modes = arguments.modes.clone();
                // So that none is always the first.
                if cells % 2 == 1 {
                    modes.reverse();
                }
                cells += 1;
                for mode in modes {
                    match arguments.run(mode, allocator, load, seed) {
                        Ok(run) => done.push(Done { mode, run }),
                        Err(error) => {
                            eprintln!("{load} {allocator} {seed} {mode}: {error}");
                            failed += 1;
                        }
                    }
                }
            }
        }
    }
    println!("{}\n{}", all(&done), summary(&done));
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

impl Arguments {
    fn run(&self, mode: Mode, allocator: Allocator, load: Load, seed: u64) -> Result<Run, Error> {
        let plan = self.plan(mode, allocator, load, seed)?;
        let run = plan.run(&Programs::beside(&env::current_exe()?))?;
        if let Some(path) = self.file(mode, &plan, "csv") {
            fs::write(path, run.timeline.to_csv())?;
        }
        if let Some(path) = self.file(mode, &plan, "md") {
            fs::write(path, run.timeline.to_table(&run.outcome))?;
        }
        if let Some(folder) = &self.out {
            let path = folder.join("runs.jsonl");
            let mut lines = File::options().create(true).append(true).open(path)?;
            let line = Done {
                mode,
                run: run.clone(),
            };
            writeln!(lines, "{}", serde_json::to_string(&line)?)?;
        }
        eprintln!("{}", row(mode, &run, None).join(" | "));
        Ok(run)
    }

    fn plan(&self, mode: Mode, allocator: Allocator, load: Load, seed: u64) -> Result<Plan, Error> {
        let limit = match mode {
            Mode::Reference | Mode::Plenty => self.plenty,
            Mode::Limited | Mode::Bare => self.limit,
        };
        let variable = |text: &String| {
            let (name, value) = text.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        let variables: Option<Vec<_>> = self.variables.iter().map(variable).collect();
        let mut plan = Plan::new(allocator, load, limit * MIB);
        plan.seed = seed;
        plan.seconds = self.seconds;
        plan.is_bare = matches!(mode, Mode::Reference | Mode::Bare);
        plan.config = Some(self.config.clone());
        plan.variables = variables.ok_or("a variable is written NAME=value")?;
        plan.idle = self.idle;
        plan.cpus.clone_from(&self.cpus);
        plan.log = self.file(mode, &plan, "log");
        Ok(plan)
    }

    /// Where something of a run is written, if it is.
    fn file(&self, mode: Mode, plan: &Plan, end: &str) -> Option<PathBuf> {
        let Plan {
            load,
            allocator,
            seed,
            ..
        } = plan;
        let name = format!("{load}-{allocator}-{seed}-{mode}.{end}").to_lowercase();
        Some(self.out.as_ref()?.join(name))
    }
}

/// A table of all runs.
fn all(done: &[Done]) -> String {
    let mut table = Table::new(&[
        "load",
        "allocator",
        "seed",
        "mode",
        "killed",
        "peak MB",
        "live MB, peak",
        "free MB, mean",
        "heavy MB/s",
        "of reference",
        "cheap/s",
        "of reference",
        "cheap p99 ms",
        "heavy p99 ms",
        "refused: cheap, heavy, stream, cache, leak %",
        "probes refused",
        "used, resident, live MB after",
        "leak named after s",
        "its time to limit, of the true one",
        "CPUs of others",
    ]);
    for Done { mode, run } in done {
        table.row(row(*mode, run, reference(done, run)));
    }
    table.to_string()
}

/// A table of the medians of all seeds, with the ranges.
fn summary(done: &[Done]) -> String {
    let mut table = Table::new(&[
        "load",
        "allocator",
        "mode",
        "killed",
        "peak MB, largest",
        "heavy MB/s",
        "% of reference",
        "cheap/s",
        "% of reference",
        "cheap p99 ms",
        "cheap refused %",
        "heavy refused %",
        "probes refused",
    ]);
    let kinds: BTreeSet<_> = done
        .iter()
        .map(|done| (&done.run.load, done.run.allocator, done.mode))
        .collect();
    for (load, allocator, mode) in kinds {
        let runs = done.iter().filter(|done| {
            (&done.run.load, done.run.allocator, done.mode) == (load, allocator, mode)
        });
        let runs: Vec<_> = runs.map(|done| &done.run).collect();
        let of = |value: &dyn Fn(&Run) -> f64| median_and_range(runs.iter().map(|run| value(run)));
        let heavy = |run: &Run| run.outcome.heavy_mb_per_s;
        let cheap = |run: &Run| run.outcome.cheap_per_s;
        let share = |value: fn(&Run) -> f64| {
            let shares = runs.iter().filter_map(|run| {
                let reference = reference(done, run)?;
                Some(100.0 * value(run) / value(reference))
            });
            median_and_range(shares)
        };
        let killed = runs.iter().filter(|run| run.is_killed).count();
        let peak = runs.iter().map(|run| run.peak).max();
        let probes = runs.iter().map(|run| run.outcome.probes_not_answered());
        table.row([
            load.clone(),
            allocator.to_string(),
            mode.to_string(),
            format!("{killed} of {}", runs.len()),
            mb(peak.unwrap_or(0)),
            of(&heavy),
            share(heavy),
            of(&cheap),
            share(cheap),
            of(&|run| run.outcome.of("cheap").p99_ms),
            of(&|run| 100.0 * run.outcome.of("cheap").refused_share()),
            of(&|run| 100.0 * run.outcome.of("heavy").refused_share()),
            probes.sum::<u64>().to_string(),
        ]);
    }
    table.to_string()
}

/// The reference of the same seed.
fn reference<'a>(done: &'a [Done], run: &Run) -> Option<&'a Run> {
    let of = |run: &Run| (run.load.clone(), run.allocator, run.seed);
    let mut references = done.iter().filter(|done| done.mode == Mode::Reference);
    let reference = references.find(|reference| of(&reference.run) == of(run))?;
    Some(&reference.run)
}

fn row(mode: Mode, run: &Run, reference: Option<&Run>) -> [String; 20] {
    let outcome = &run.outcome;
    let killed = match (run.is_killed, outcome.gone_after_s) {
        (false, _) => "no".to_owned(),
        (true, Some(seconds)) => format!("after {seconds:.1} s"),
        (true, None) => "at the end".to_owned(),
    };
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let share =
        |value: f64, of: Option<f64>| or_none(of.map(|of| format!("{:.0} %", 100.0 * value / of)));
    let refused = ["cheap", "heavy", "stream", "cache", "leak"];
    let refused = refused.map(|kind| format!("{:.1}", 100.0 * outcome.of(kind).refused_share()));
    let after = [run.after.usage, run.after.resident, run.after.live].map(mb);
    let leak = run.leak.as_ref();
    let time = leak.and_then(|leak| Some(leak.time_to_limit_s? / leak.true_time_to_limit_s));
    [
        run.load.clone(),
        run.allocator.to_string(),
        run.seed.to_string(),
        mode.to_string(),
        killed,
        mb(run.peak),
        mb(run.peak_live),
        mb(run.free),
        format!("{:.0}", outcome.heavy_mb_per_s),
        share(
            outcome.heavy_mb_per_s,
            reference.map(|run| run.outcome.heavy_mb_per_s),
        ),
        format!("{:.0}", outcome.cheap_per_s),
        share(
            outcome.cheap_per_s,
            reference.map(|run| run.outcome.cheap_per_s),
        ),
        format!("{:.0}", outcome.of("cheap").p99_ms),
        format!("{:.0}", outcome.of("heavy").p99_ms),
        refused.join(", "),
        outcome.probes_not_answered().to_string(),
        after.join(", "),
        or_none(leak.map(|leak| format!("{:.0}", leak.named_after_s))),
        or_none(time.map(|time| format!("{time:.2}"))),
        format!("{:.1}", run.others_cpus),
    ]
}

fn mb(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / MIB as f64)
}

/// The lower one of two in the middle. With the range, if there is one.
fn median_and_range(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    match *values {
        [] => "–".to_owned(),
        [one] => format!("{one:.0}"),
        [first, .., last] => {
            let median = values[(values.len() - 1) / 2];
            format!("{median:.0} ({first:.0}–{last:.0})")
        }
    }
}

/// A table in Markdown.
struct Table<const N: usize>(Vec<[String; N]>);

impl<const N: usize> Table<N> {
    fn new(header: &[&str; N]) -> Self {
        Self(vec![header.map(str::to_owned)])
    }

    fn row(&mut self, cells: [String; N]) {
        self.0.push(cells);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, row) in self.0.iter().enumerate() {
            writeln!(f, "| {} |", row.join(" | "))?;
            if place == 0 {
                writeln!(f, "|{}", "---|".repeat(N))?;
            }
        }
        Ok(())
    }
}
