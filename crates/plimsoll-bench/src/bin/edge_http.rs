//! What the edge costs a service behind real connections: servers on loopback, one for each
//! variant, driven by `wrk` in turn.

use axum::{Router, serve::ListenerExt};
use clap::Parser;
use plimsoll_admin::install_recorder;
use plimsoll_bench::{
    Error, Table, cpu,
    edge::{NoOpLayer, naive_metrics, router},
    stats,
};
use plimsoll_core::Lifecycle;
use plimsoll_http::{EdgeLayer, Server, ServerConfig};
use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::Duration,
};
use tokio::{runtime, time::Instant};

const AXUM: &str = "axum::serve";
const OURS: &str = "plimsoll Server";
const BARE: &str = "bare";
const NO_OP: &str = "no-op layer";
const EDGE: &str = "edge";

/// How much of the no-op layer's throughput the edge has to reach.
const BAR: f64 = 0.97;

#[derive(Parser)]
#[command(about)]
struct Args {
    /// How many times each variant is driven.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// For how long each time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Connections.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Threads that serve, each pinned to a CPU of its own. wrk has as many threads, pinned to
    /// the CPUs that follow.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    workers: u8,
    /// Drives only variants whose name contains one of these, and what they are compared with.
    filters: Vec<String>,
}

struct Variant {
    server: &'static str,
    layer: &'static str,
    addr: SocketAddr,
    runs: Vec<Run>,
}

/// What one run of wrk has shown.
struct Run {
    per_second: f64,
    p50_micros: f64,
    p99_micros: f64,
    cpu_micros: f64,
    errors: u64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, Error> {
    let needs = 2 * usize::from(args.workers);
    if cpu::count() < needs {
        return Err(format!("needs {needs} CPUs, there are {}", cpu::count()).into());
    }
    if !is_installed("wrk") || !is_installed("taskset") {
        eprintln!("wrk and taskset are needed: apt-get install wrk util-linux");
        return Ok(ExitCode::from(2));
    }
    let recorder = install_recorder()?;
    let edge = EdgeLayer::new();
    let mut variants = start_servers(args.workers.into(), &edge)?;
    keep(&mut variants, &args.filters);
    // As the control thread of a service does for a scrape every second.
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(1));
            edge.publish_metrics();
            recorder.run_upkeep();
        }
    });

    for variant in &variants {
        drive(args, variant, 1)?;
    }
    for round in 0..args.rounds {
        let mut order: Vec<_> = variants.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for variant in order {
            let run = drive(args, variant, args.seconds)?;
            variant.runs.push(run);
        }
    }
    print(args, &variants);
    Ok(ExitCode::SUCCESS)
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    !found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

// === The servers ===

/// Starts every variant on one runtime, which lives until the process ends.
fn start_servers(workers: usize, edge: &EdgeLayer) -> Result<Vec<Variant>, Error> {
    let mut builder = if workers == 1 {
        runtime::Builder::new_current_thread()
    } else {
        runtime::Builder::new_multi_thread()
    };
    let next_cpu = AtomicUsize::new(0);
    let runtime = builder
        .worker_threads(workers)
        .on_thread_start(move || {
            cpu::pin(next_cpu.fetch_add(1, Relaxed) % workers).expect("there are enough CPUs");
        })
        .enable_all()
        .build()?;

    let naive = axum::middleware::from_fn(naive_metrics);
    let layers = [
        (BARE, router()),
        (NO_OP, router().layer(NoOpLayer)),
        (EDGE, router().layer(edge.clone())),
        ("naive metrics", router().layer(naive)),
    ];
    let mut variants = Vec::new();
    for (layer, router) in layers {
        for server in [AXUM, OURS] {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            variants.push(Variant {
                server,
                layer,
                addr: listener.local_addr()?,
                runs: Vec::new(),
            });
            let _context = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let router = router.clone().with_state(());
            if server == AXUM {
                runtime.spawn(serve_by_axum(listener, router));
            } else {
                runtime.spawn(serve_by_us(listener, router));
            }
        }
    }
    thread::spawn(move || {
        if workers == 1 {
            cpu::pin(0).expect("there are enough CPUs");
        }
        runtime.block_on(std::future::pending::<()>());
    });
    Ok(variants)
}

async fn serve_by_axum(listener: tokio::net::TcpListener, router: Router) {
    let listener = listener.tap_io(|stream| {
        // As our server does.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router)
        .await
        .expect("axum::serve never ends");
}

async fn serve_by_us(listener: tokio::net::TcpListener, router: Router) {
    let lifecycle = Lifecycle::new();
    lifecycle.set_ready();
    let server = Server::new("bench", ServerConfig::default()).expect("the defaults are valid");
    server.serve(listener, router, &lifecycle).await;
}

/// Drops the variants that were not asked for.
fn keep(variants: &mut Vec<Variant>, filters: &[String]) {
    let asked = |variant: &Variant| filters.iter().any(|filter| variant.name().contains(filter));
    let servers: Vec<_> = variants
        .iter()
        .filter(|variant| asked(variant))
        .map(|variant| variant.server)
        .collect();
    variants.retain(|variant| {
        filters.is_empty()
            || asked(variant)
            || [BARE, NO_OP].contains(&variant.layer) && servers.contains(&variant.server)
    });
}

// === The client ===

fn drive(args: &Args, variant: &Variant, seconds: u32) -> Result<Run, Error> {
    let workers = usize::from(args.workers);
    let cpus: Result<Vec<_>, _> = (workers..2 * workers).map(cpu::number).collect();
    let cpus: Vec<_> = cpus?.iter().map(ToString::to_string).collect();
    let before = cpu::time_used()?;
    let wrk = Command::new("taskset")
        .args(["-c", &cpus.join(","), "wrk", "--latency"])
        .arg(format!("-t{workers}"))
        .arg(format!("-c{}", args.connections))
        .arg(format!("-d{seconds}s"))
        .arg(format!("http://{}/hello", variant.addr))
        .stdout(Stdio::piped())
        .spawn()?;
    let text = read_before(wrk, Duration::from_secs(u64::from(seconds) + 10))?;
    let cpu = cpu::time_used()?.saturating_sub(before);
    parse(&text, cpu).ok_or_else(|| format!("wrk said what was not expected: {text}").into())
}

/// Waits for the child's output, and ends the child when it does not end by itself.
fn read_before(mut child: Child, limit: Duration) -> Result<String, Error> {
    let deadline = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err("wrk does not end".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    // What wrk prints fits into the pipe.
    Ok(String::from_utf8(child.wait_with_output()?.stdout)?)
}

fn parse(text: &str, cpu: Duration) -> Option<Run> {
    let after = |start: &str| {
        let mut lines = text.lines().map(str::trim);
        lines.find_map(|line| Some(line.strip_prefix(start)?.trim()))
    };
    let requests = text.lines().find(|line| line.contains(" requests in "))?;
    let requests: f64 = requests.split_whitespace().next()?.parse().ok()?;
    let sockets = after("Socket errors:").map_or(0, |errors| {
        let counts = errors.split(|c: char| !c.is_ascii_digit());
        counts.filter_map(|count| count.parse::<u64>().ok()).sum()
    });
    let statuses = after("Non-2xx or 3xx responses:").map_or(Some(0), |n| n.parse().ok())?;
    Some(Run {
        per_second: after("Requests/sec:")?.parse().ok()?,
        p50_micros: parse_micros(after("50%")?)?,
        p99_micros: parse_micros(after("99%")?)?,
        cpu_micros: stats::micros(cpu) / requests,
        errors: sockets + statuses,
    })
}

fn parse_micros(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let (number, unit) = units
        .into_iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))?;
    Some(number.parse::<f64>().ok()? * unit)
}

// === The report ===

impl Variant {
    fn name(&self) -> String {
        format!("{}, {}", self.server, self.layer)
    }

    fn each(&self, value: fn(&Run) -> f64) -> Vec<f64> {
        self.runs.iter().map(value).collect()
    }

    fn median(&self, value: fn(&Run) -> f64) -> f64 {
        stats::median(self.each(value))
    }

    /// The median, and the range, of the ratios to another variant in the same round.
    fn ratios(&self, base: &Self, value: fn(&Run) -> f64) -> (f64, f64, f64) {
        let (mine, base) = (self.each(value), base.each(value));
        let ratios = || mine.iter().zip(&base).map(|(mine, base)| mine / base);
        (
            stats::median(ratios()),
            stats::min(ratios()),
            stats::max(ratios()),
        )
    }
}

fn print(args: &Args, variants: &[Variant]) {
    let Args {
        rounds,
        seconds,
        connections,
        workers,
        ..
    } = args;
    let find = |server: &str, layer: &str| {
        let mut all = variants.iter();
        all.find(|variant| variant.server == server && variant.layer == layer)
    };
    println!(
        "### Edge over HTTP/1: {workers} workers, {rounds} rounds x {seconds} s, \
         wrk -t{workers} -c{connections}\n"
    );
    let mut table = Table::new(&[
        "server, layer",
        "req/s",
        "to axum::serve bare",
        "to its bare",
        "to its no-op (range)",
        "CPU µs/req",
        "CPU to its no-op",
        "p50 µs",
        "p99 µs",
        "errors",
    ]);
    for variant in variants {
        let ratio = |base: Option<&Variant>, value: fn(&Run) -> f64| {
            base.map(|base| variant.ratios(base, value))
        };
        let middle = |ratios: Option<(f64, f64, f64)>| {
            ratios.map_or_else(String::new, |(median, ..)| format!("{median:.3}"))
        };
        let no_op = find(variant.server, NO_OP);
        let to_no_op = ratio(no_op, |run| run.per_second);
        table.row([
            variant.name(),
            format!("{:.0}", variant.median(|run| run.per_second)),
            middle(ratio(find(AXUM, BARE), |run| run.per_second)),
            middle(ratio(find(variant.server, BARE), |run| run.per_second)),
            to_no_op.map_or_else(String::new, |(median, min, max)| {
                format!("{median:.3} ({min:.3}–{max:.3})")
            }),
            format!("{:.2}", variant.median(|run| run.cpu_micros)),
            middle(ratio(no_op, |run| run.cpu_micros)),
            format!("{:.0}", variant.median(|run| run.p50_micros)),
            format!("{:.0}", variant.median(|run| run.p99_micros)),
            variant
                .runs
                .iter()
                .map(|run| run.errors)
                .sum::<u64>()
                .to_string(),
        ]);
    }
    println!("{table}");
    for server in [AXUM, OURS] {
        if let (Some(edge), Some(no_op)) = (find(server, EDGE), find(server, NO_OP)) {
            let (ratio, ..) = edge.ratios(no_op, |run| run.per_second);
            let verdict = if ratio >= BAR { "met" } else { "missed" };
            println!(
                "{server}: the edge has {ratio:.3} of the no-op layer; the bar of {BAR} is {verdict}."
            );
        }
    }
}
