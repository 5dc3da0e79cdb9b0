//! Runs the service under loads, seed by seed, and prints what came of it as a table.

use clap::Parser;
use plimsoll_tests::{
    Error,
    driver::Load,
    run::{Allocator, Plan, Programs, Run},
};
use std::{env, fs::File, io::Write as _, path::PathBuf, process::ExitCode};

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
        default_value = "a,b,c,d"
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

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
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

fn main() -> Result<ExitCode, Error> {
    let arguments = Arguments::parse();
    let programs = Programs::beside(&env::current_exe()?);
    let mut runs: Vec<(Mode, Run)> = Vec::new();
    let mut lines = match &arguments.out {
        Some(folder) => {
            std::fs::create_dir_all(folder)?;
            Some(
                File::options()
                    .create(true)
                    .append(true)
                    .open(folder.join("runs.jsonl"))?,
            )
        }
        None => None,
    };
    let mut turn = 0;
    for &seed in &arguments.seeds {
        for &load in &arguments.loads {
            for &allocator in &arguments.allocators {
                let mut modes = arguments.modes.clone();
                // So that none is always the first.
                if turn % 2 == 1 {
                    modes.reverse();
                }
                turn += 1;
                for mode in modes {
                    let run = arguments
                        .plan(mode, allocator, load, seed)?
                        .run(&programs)?;
                    eprintln!("{mode:?}: {}", row(&run, None));
                    if let Some(lines) = &mut lines {
                        writeln!(
                            lines,
                            "{}",
                            serde_json::json!({ "mode": format!("{mode:?}"), "run": run })
                        )?;
                    }
                    runs.push((mode, run));
                }
            }
        }
    }
    print(&runs);
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
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
        let file = |end: &str| {
            let folder = self.out.as_ref()?;
            let name = format!("{load}-{allocator}-{seed}-{mode:?}.{end}").to_lowercase();
            Some(folder.join(name))
        };
        let mut plan = Plan::new(allocator, load, limit * MIB);
        plan.seed = seed;
        plan.seconds = self.seconds;
        plan.is_bare = matches!(mode, Mode::Reference | Mode::Bare);
        plan.config = Some(self.config.clone());
        plan.variables = variables.ok_or("a variable is written NAME=value")?;
        plan.idle = self.idle;
        plan.cpus.clone_from(&self.cpus);
        plan.timeline = file("csv");
        plan.log = file("log");
        Ok(plan)
    }
}

fn print(runs: &[(Mode, Run)]) {
    println!(
        "| load | allocator | seed | mode | killed | peak MB | peak live MB | heavy MB/s | of reference | cheap/s | of reference | cheap p99 ms | heavy p99 ms | refused cheap/heavy/stream/cache/leak % | probes refused | after: used/resident/live MB | CPUs of others |"
    );
    println!("|---|---|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (mode, run) in runs {
        let is_reference = |(mode, of): &&(Mode, Run)| {
            *mode == Mode::Reference
                && of.load == run.load
                && of.allocator == run.allocator
                && of.seed == run.seed
        };
        let reference = runs.iter().find(is_reference).map(|(_, run)| run);
        let Run {
            load,
            allocator,
            seed,
            ..
        } = run;
        println!(
            "| {load} | {allocator} | {seed} | {mode:?} | {} |",
            row(run, reference)
        );
    }
}

fn row(run: &Run, reference: Option<&Run>) -> String {
    let outcome = &run.outcome;
    let killed = match (run.is_killed, outcome.gone_after_s) {
        (false, _) => "no".to_owned(),
        (true, Some(seconds)) => format!("after {seconds:.1} s"),
        (true, None) => "at the end".to_owned(),
    };
    let share = |value: f64, of: Option<f64>| {
        let share = of.map(|of| format!("{:.0} %", 100.0 * value / of));
        share.unwrap_or_else(|| "–".to_owned())
    };
    let refused = ["cheap", "heavy", "stream", "cache", "leak"];
    let refused = refused.map(|kind| format!("{:.1}", 100.0 * outcome.of(kind).refused_share()));
    [
        killed,
        mb(run.peak),
        mb(run.peak_live),
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
        refused.join("/"),
        outcome.probes_not_answered().to_string(),
        format!(
            "{}/{}/{}",
            mb(run.after.usage),
            mb(run.after.resident),
            mb(run.after.live)
        ),
        format!("{:.1}", run.others_cpus),
    ]
    .join(" | ")
}

fn mb(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / MIB as f64)
}
