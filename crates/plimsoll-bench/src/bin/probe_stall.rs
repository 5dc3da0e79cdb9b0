//! How soon the probe listener answers while every worker of the service is blocked.

use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use plimsoll_admin::{Control, ControlConfig, install_recorder};
use plimsoll_bench::{Error, Table, stats};
use plimsoll_core::{Lifecycle, Registry};
use std::{
    hint::spin_loop,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};
use tokio::{
    runtime::{self, Runtime},
    time::Instant,
};

/// The 99th percentile has to stay below this.
const BAR: Duration = Duration::from_millis(100);

/// How often the probe is asked.
const EVERY: Duration = Duration::from_millis(10);

/// A kubelet gives up after a second by default.
const TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Parser)]
#[command(about)]
struct Args {
    /// For how long the workers are blocked, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How many workers the service has.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// What is asked for.
    #[arg(long, default_value = "/livez")]
    path: String,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Block {
    /// They are idle.
    Not,
    /// They wait for something that does not come.
    Sleeping,
    /// They compute.
    Spinning,
}

struct Answers {
    micros: Histogram<u64>,
    failed: u64,
    /// How late a task of the service was that was spawned when all this began.
    task_late: Duration,
}

fn main() -> Result<(), Error> {
    let args = Args::parse();
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(args.workers.into())
        .enable_all()
        .build()?;
    let lifecycle = Lifecycle::new();
    let control = {
        let _context = runtime.enter();
        let config = ControlConfig::new().admin_addr(([127, 0, 0, 1], 0).into());
        let recorder = install_recorder()?;
        Control::start(config, Registry::new(), lifecycle.clone(), Some(recorder))?
    };
    lifecycle.set_ready();
    let addr = control.probe_addr().ok_or("the probe is not off")?;

    let mut table = Table::new(&[
        "workers",
        "answers",
        "failed",
        "p50 ms",
        "p99 ms",
        "max ms",
        "a task of theirs was late by s",
    ]);
    let mut met = true;
    for (label, block) in [
        ("idle", Block::Not),
        ("blocked, sleeping", Block::Sleeping),
        ("blocked, spinning", Block::Spinning),
    ] {
        let answers = ask_while(&runtime, &args, addr, block)?;
        let millis = |micros: u64| format!("{:.2}", micros as f64 / 1e3);
        let p99 = answers.micros.value_at_quantile(0.99);
        met &= answers.failed == 0 && Duration::from_micros(p99) < BAR;
        table.row([
            label.to_owned(),
            answers.micros.len().to_string(),
            answers.failed.to_string(),
            millis(answers.micros.value_at_quantile(0.5)),
            millis(p99),
            millis(answers.micros.max()),
            format!("{:.3}", answers.task_late.as_secs_f64()),
        ]);
    }
    println!(
        "### `{}` while {} workers are blocked for {} s\n\n{table}",
        args.path, args.workers, args.seconds
    );
    let verdict = if met { "met" } else { "missed" };
    println!("p99 below {BAR:?} without a failure: {verdict}.");
    runtime.block_on(control.stop());
    Ok(())
}

fn ask_while(
    runtime: &Runtime,
    args: &Args,
    addr: SocketAddr,
    block: Block,
) -> Result<Answers, Error> {
    let end = Instant::now() + Duration::from_secs(args.seconds);
    if block != Block::Not {
        block_all(runtime, args.workers.into(), block, end);
    }
    let spawned = Instant::now();
    let task = runtime.spawn(async move { Instant::now().saturating_duration_since(spawned) });

    let mut answers = Answers {
        micros: stats::histogram(),
        failed: 0,
        task_late: Duration::ZERO,
    };
    let mut next = Instant::now();
    while next < end {
        let start = Instant::now();
        match ask(addr, &args.path) {
            Ok(()) => {
                let took = Instant::now().saturating_duration_since(start);
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                answers.micros.saturating_record(micros);
            }
            Err(_) => answers.failed += 1,
        }
        next += EVERY;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    answers.task_late = runtime.block_on(task)?;
    Ok(answers)
}

/// Blocks every worker until `end`. Returns once they all are.
fn block_all(runtime: &Runtime, workers: usize, block: Block, end: Instant) {
    // None is passed before each of the workers has a task in hand.
    let blocked = Arc::new(Barrier::new(workers + 1));
    for _ in 0..workers {
        let blocked = blocked.clone();
        runtime.spawn(async move {
            blocked.wait();
            while Instant::now() < end {
                match block {
                    Block::Sleeping => thread::sleep(end.saturating_duration_since(Instant::now())),
                    Block::Spinning | Block::Not => spin_loop(),
                }
            }
        });
    }
    blocked.wait();
}

/// Asks once, on a connection of its own, as a kubelet does.
fn ask(addr: SocketAddr, path: &str) -> Result<(), Error> {
    let mut stream = TcpStream::connect_timeout(&addr, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    if response.starts_with(b"HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err("the answer is not 200".into())
    }
}
