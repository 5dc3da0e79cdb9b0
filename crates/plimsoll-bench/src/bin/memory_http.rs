//! What it costs to know the memory of requests, behind real connections: a process for each run
//! of each variant, driven by `wrk` in turn.

use clap::Parser;
use plimsoll_bench::{
    Error, Table, cpu,
    load::{Load, Run, Runs},
};
use plimsoll_memory::Attribution::{self, AllocatedOnly, Estimated, Exact};
use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

const SYSTEM: &str = "memory_server_system";
const TRACKING: &str = "memory_server_tracking";

const BARE: &str = "system, bare";
const NO_OP: &str = "system, no-op layer";
const TRACKING_NO_OP: &str = "tracking, no-op layer";
const EDGE: &str = "tracking, edge";
const STACK: &str = "tracking, stack";
const STACK_ON_AXUM: &str = "tracking, stack on axum::serve";

/// How much of the no-op layer's throughput the edge has to reach at `/hello`.
const BAR: f64 = 0.97;
/// How much of what the bare server does all has to reach that there is by default.
const STACK_BAR: f64 = 0.90;

/// Name, program, its arguments, and how requests are to be weighed.
type Spec = (
    &'static str,
    &'static str,
    &'static [&'static str],
    Option<Attribution>,
);

const VARIANTS: [Spec; 14] = [
    (BARE, SYSTEM, &["bare"], None),
    (NO_OP, SYSTEM, &["no-op"], None),
    ("system, naive RSS", SYSTEM, &["naive-rss"], None),
    ("system, edge", SYSTEM, &["edge"], Some(Estimated)),
    ("system, stack", SYSTEM, &["stack"], Some(Estimated)),
    ("tracking, bare", TRACKING, &["bare"], None),
    (TRACKING_NO_OP, TRACKING, &["no-op"], None),
    (EDGE, TRACKING, &["edge"], Some(Exact)),
    (
        "tracking, edge with a budget",
        TRACKING,
        &["edge-budget"],
        Some(Exact),
    ),
    (
        "tracking, edge, sampling",
        TRACKING,
        &["edge", "--sample"],
        Some(Exact),
    ),
    (
        "tracking, edge, counters",
        TRACKING,
        &["edge", "--mode=counters"],
        Some(AllocatedOnly),
    ),
    (
        "tracking, edge, off",
        TRACKING,
        &["edge", "--mode=off"],
        Some(Estimated),
    ),
    (STACK, TRACKING, &["stack"], Some(Exact)),
    (STACK_ON_AXUM, TRACKING, &["stack-on-axum"], Some(Exact)),
];

#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    load: Load,
}

struct Variant {
    path: &'static str,
    spec: Spec,
    /// What its server said last of how it weighed requests.
    weighed: String,
    runs: Runs,
}

fn main() -> Result<(), Error> {
    let load = Args::parse().load;
    load.check()?;
    let mut variants = Vec::new();
    for path in ["/hello", "/json"] {
        let all = VARIANTS.map(|spec| Variant {
            path,
            spec,
            weighed: String::new(),
            runs: Runs::default(),
        });
        keep(&mut variants, all.into(), &load);
    }
    load.rounds(&mut variants, |variant| variant.run(&load))?;
    for path in ["/hello", "/json"] {
        let variants: Vec<_> = variants.iter().filter(|it| it.path == path).collect();
        if !variants.is_empty() {
            print(&load, path, &variants);
        }
    }
    Ok(())
}

/// Takes the variants of one path that were asked for, and what they are compared with.
fn keep(kept: &mut Vec<Variant>, mut all: Vec<Variant>, load: &Load) {
    let asked = |variant: &Variant| load.asks_for(&format!("{} {}", variant.path, variant.spec.0));
    if all.iter().any(asked) {
        let baselines = [BARE, NO_OP, TRACKING_NO_OP];
        all.retain(|variant| asked(variant) || baselines.contains(&variant.spec.0));
        kept.append(&mut all);
    }
}

// === The servers ===

struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Server {
    fn start(program: &str, args: &[&str], workers: u8) -> Result<Self, Error> {
        let path = env::current_exe()?.with_file_name(program);
        let child = Command::new(&path)
            .args(args)
            .arg(format!("--workers={workers}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|error| {
            let path = path.display();
            format!("cannot run {path}: {error}; cargo build --release -p plimsoll-bench")
        })?;
        let output = child.stdout.take().expect("it is piped");
        Ok(Self {
            child,
            output: BufReader::new(output),
        })
    }

    fn line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("a server has ended".into()),
            _ => Ok(line.trim().to_owned()),
        }
    }

    /// Ends it, and says what it has to say.
    fn end(mut self) -> Result<String, Error> {
        drop(self.child.stdin.take());
        self.line()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Without its standard input it ends by itself, if it has not done so before.
        let _ = self.child.wait();
    }
}

impl Variant {
    /// Drives a process of its own: how one happens to be laid out shall not be the same in all
    /// rounds. What it does but once is too little to be seen.
    fn run(&mut self, load: &Load) -> Result<(), Error> {
        let (name, program, args, attribution) = self.spec;
        let mut server = Server::start(program, args, load.workers)?;
        let url = format!("http://{}{}", server.line()?, self.path);
        let id = server.child.id();
        let run = load.drive(&url, load.seconds, || cpu::time_used_by(id))?;
        let weighed = server.end()?;
        let expected = attribution.map_or("", Attribution::as_str);
        if weighed.split(',').next() != Some(expected) {
            return Err(format!("{name} weighed {weighed:?}, not {expected:?}").into());
        }
        self.weighed = weighed;
        self.runs.push(run);
        Ok(())
    }
}

// === The report ===

fn print(load: &Load, path: &str, variants: &[&Variant]) {
    let find = |name: &str| {
        let found = variants.iter().find(|variant| variant.spec.0 == name);
        found.map(|variant| &variant.runs)
    };
    println!("### Memory of requests, `{path}`: {load}\n");
    let mut table = Table::new(&[
        "allocator, layer",
        "req/s",
        "to bare",
        "to no-op (range)",
        "to no-op, tracking (range)",
        "CPU µs/req",
        "CPU to bare",
        "CPU to no-op",
        "p50 µs",
        "p99 µs",
        "errors",
        "weighed, B/req",
    ]);
    let per_second = |run: &Run| run.per_second;
    let cpu_micros = |run: &Run| run.cpu_micros;
    for Variant {
        spec,
        weighed,
        runs,
        ..
    } in variants
    {
        let ratio = |base: &str, value| find(base).map(|base| runs.ratios(base, value));
        let median =
            |base, value| ratio(base, value).map_or_else(String::new, |ratios| ratios.to_string());
        let range =
            |base| ratio(base, per_second).map_or_else(String::new, |ratios| ratios.with_range());
        let tracking_no_op = match spec.1 {
            TRACKING => range(TRACKING_NO_OP),
            _ => String::new(),
        };
        table.row([
            spec.0.to_owned(),
            format!("{:.0}", runs.median(per_second)),
            median(BARE, per_second),
            range(NO_OP),
            tracking_no_op,
            format!("{:.2}", runs.median(cpu_micros)),
            median(BARE, cpu_micros),
            median(NO_OP, cpu_micros),
            format!("{:.0}", runs.median(|run| run.p50_micros)),
            format!("{:.0}", runs.median(|run| run.p99_micros)),
            runs.errors().to_string(),
            weighed.clone(),
        ]);
    }
    println!("{table}");
    // The bars are for a handler that does next to nothing.
    let [bar, stack_bar] = [BAR, STACK_BAR].map(|bar| (path == "/hello").then_some(bar));
    for (what, name, base, bar) in [
        ("the allocator and the edge have", EDGE, NO_OP, bar),
        ("the edge alone has", EDGE, TRACKING_NO_OP, bar),
        ("the allocator alone has", TRACKING_NO_OP, NO_OP, None),
        ("all there is by default has", STACK, BARE, stack_bar),
        ("the same but for the server has", STACK_ON_AXUM, BARE, None),
    ] {
        let (Some(runs), Some(to)) = (find(name), find(base)) else {
            continue;
        };
        let ratios = runs.ratios(to, per_second);
        let cpu = runs.ratios(to, cpu_micros);
        let verdict = bar.map_or_else(String::new, |bar| format!("; {}", ratios.verdict(bar)));
        println!("{path}: {what} {ratios} of \"{base}\", with {cpu} of its CPU time{verdict}.");
    }
    println!();
}
