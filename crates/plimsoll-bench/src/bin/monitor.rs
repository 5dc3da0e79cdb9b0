//! What the memory monitor costs: to decide, to look at the process, and for a second of it.

use clap::Parser;
use plimsoll_alloc::TrackingAllocator;
use plimsoll_bench::{Error, Options, Suite, Table, cpu};
use plimsoll_memory::{
    MemoryManager, MonitorConfig, Signals, Source,
    monitor::{Monitor, ProcessSource},
};
use std::{hint::black_box, thread::sleep, time::Duration};
use tokio::time::Instant;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    options: Options,
    /// For how many seconds the monitor's thread is watched, for each of its intervals.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

fn main() -> Result<(), Error> {
    let args = Args::parse();
    let mut suite = Suite::new("The memory monitor", args.options);
    let at_ease = monitor(100);
    suite.single("decide, at ease", at_ease);
    let pressing = monitor(950);
    suite.single("decide, under pressure", pressing);
    let mut source = ProcessSource::default();
    suite.single("look at the process", move |looks| {
        for _ in 0..looks {
            black_box(source.sample());
        }
    });
    let (memory, guard) = MemoryManager::builder(config()).start()?;
    suite.single("ask for the pressure", move |asks| {
        let _guard = &guard;
        for _ in 0..asks {
            black_box(memory.pressure());
        }
    });
    suite.run()?;

    let mut table = Table::new(&["interval", "CPU time a second", "for each sample"]);
    for interval in [250, 50, 10].map(Duration::from_millis) {
        let config = config().interval(interval);
        let (memory, _guard) = MemoryManager::builder(config).start()?;
        sleep(Duration::from_millis(200));
        let (samples, used) = (memory.stats().samples, cpu::time_used()?);
        sleep(Duration::from_secs(args.seconds));
        let used = cpu::time_used()?.saturating_sub(used);
        let samples = memory.stats().samples - samples;
        let each = used.as_secs_f64() / samples.max(1) as f64;
        let share = used.as_secs_f64() / args.seconds as f64;
        table.row([
            format!("{interval:?}"),
            format!("{:.0} µs", share * 1e6),
            format!("{:.1} µs", each * 1e6),
        ]);
    }
    println!("\n{table}");
    Ok(())
}

fn config() -> MonitorConfig {
    MonitorConfig::new().limit(8 << 30).log_every(None)
}

/// Takes samples of a process that uses so many of a thousand MiB, by a clock of its own.
fn monitor(mib: u64) -> impl FnMut(u64) {
    let mut now = Instant::now();
    let mut monitor = Monitor::new(config(), now);
    let mut signals = Signals::default();
    signals.limit = Some(1_000 << 20);
    signals.resident = Some(mib << 20);
    signals.tracked = Some((mib << 20) - (10 << 20));
    move |steps| {
        for _ in 0..steps {
            now += Duration::from_millis(250);
            let step = black_box(monitor.step(now, &signals));
            if step.reclaims() {
                monitor.reclaimed(now);
                monitor.purged();
            }
        }
    }
}
