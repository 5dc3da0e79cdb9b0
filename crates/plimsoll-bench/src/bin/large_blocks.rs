//! What large blocks cost, of each allocator: allocated, written, read and freed, while others live.

use clap::Parser;
use mimalloc::MiMalloc;
use plimsoll_alloc::{LargeBlocks, Reclaim, bench::Bytes, resident_bytes};
use plimsoll_bench::{
    Error, Table,
    cpu::pin,
    stats::{median, median_ratio, seconds_since},
};
use std::{
    alloc::{GlobalAlloc, System},
    hint::black_box,
    sync::Barrier,
    thread,
};
use tikv_jemallocator::Jemalloc;
use tokio::time::Instant;

static BOUNDED: LargeBlocks = LargeBlocks::system();
static ROOM: LargeBlocks = LargeBlocks::with_room(System, usize::MAX);

const MIB: f64 = (1 << 20) as f64;

#[derive(Clone, Copy, Parser)]
#[command(about)]
struct Args {
    /// The shortest block.
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..))]
    least_kib: u32,
    /// The longest block. There are as many of each power of two.
    #[arg(long, default_value_t = 40 << 10, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    most_kib: u32,
    /// How many live, of each thread.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    live: u16,
    /// How many MiB each thread allocates in a sample.
    #[arg(long, default_value_t = 2_048, value_parser = clap::value_parser!(u32).range(1..))]
    mib: u32,
    /// What may live and be kept, for large blocks whose room is bounded.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    room_mib: u32,
    /// How many samples are taken of each.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// An allocator by its name.
struct Case {
    name: &'static str,
    sample: fn(&Args, usize) -> Result<Sample, Error>,
}

struct Sample {
    mib_per_second: f64,
    resident_mib: f64,
}

const CASES: [Case; 6] = [
    Case {
        name: "system",
        sample: |args, threads| {
            System.set_frugal(false);
            sample(&System, args, threads)
        },
    },
    Case {
        name: "system, each mapped by itself",
        sample: |args, threads| {
            System.set_frugal(true);
            sample(&System, args, threads)
        },
    },
    Case {
        name: "large blocks, as much room as they like",
        sample: |args, threads| sample(&ROOM, args, threads),
    },
    Case {
        name: "large blocks, bounded room",
        sample: |args, threads| {
            BOUNDED.set_room((args.room_mib as usize) << 20);
            sample(&BOUNDED, args, threads)
        },
    },
    Case {
        name: "jemalloc",
        sample: |args, threads| sample(&Jemalloc, args, threads),
    },
    Case {
        name: "mimalloc",
        sample: |args, threads| sample(&MiMalloc, args, threads),
    },
];

fn main() -> Result<(), Error> {
    let args = Args::parse();
    println!(
        "### Large blocks\n\nOf {} KiB to {} KiB, {} of which live at a time; the bounded room is {} MiB.\n",
        args.least_kib, args.most_kib, args.live, args.room_mib
    );
    let mut table = Table::new(&["allocator", "threads", "MiB/s", "ratio", "resident MiB"]);
    for threads in [1, 2] {
        let mut samples: Vec<Vec<Sample>> = CASES.iter().map(|_| Vec::new()).collect();
        for round in 0..args.rounds {
            let mut order: Vec<_> = CASES.iter().zip(&mut samples).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for (case, samples) in order {
                samples.push((case.sample)(&args, threads)?);
            }
        }
        let speeds = |of: &[Sample]| of.iter().map(|it| it.mib_per_second).collect::<Vec<_>>();
        let base = speeds(&samples[0]);
        for (case, samples) in CASES.iter().zip(&samples) {
            let speeds = speeds(samples);
            table.row([
                case.name.to_owned(),
                threads.to_string(),
                format!("{:.0}", median(speeds.iter().copied())),
                format!("{:.2}", median_ratio(&speeds, &base)),
                format!("{:.0}", median(samples.iter().map(|it| it.resident_mib))),
            ]);
        }
    }
    println!("{table}");
    Ok(())
}

/// How fast blocks are, after the first of them, and what the process has in memory at the end.
fn sample<A>(allocator: &A, args: &Args, threads: usize) -> Result<Sample, Error>
where
    A: GlobalAlloc + Reclaim + Sync,
{
    let start = Barrier::new(threads);
    let speeds = thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|thread| {
                let start = &start;
                scope.spawn(move || {
                    let pinned = pin(thread);
                    start.wait();
                    pinned.map(|()| churn(allocator, args, thread as u64))
                })
            })
            .collect();
        let joined = all.into_iter().map(|thread| match thread.join() {
            Ok(speed) => speed,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect::<Result<Vec<_>, _>>()
    })?;
    let resident = speeds.iter().map(|(_, resident)| *resident);
    let sample = Sample {
        mib_per_second: speeds.iter().map(|(speed, _)| speed).sum(),
        resident_mib: resident.fold(0.0, f64::max),
    };
    allocator.release();
    Ok(sample)
}

/// MiB per second, and MiB that are resident.
fn churn<A: GlobalAlloc>(allocator: &A, args: &Args, thread: u64) -> (f64, f64) {
    let mut random = Random(0x9e37_79b9 + thread);
    let [least, most] = [args.least_kib, args.most_kib].map(f64::from);
    let len = |random: &mut Random| {
        let kib = least * (most / least).max(1.0).powf(random.fraction());
        (kib * 1_024.0) as usize
    };
    let mut blocks: Vec<_> = (0..args.live)
        .map(|_| Some(Bytes::filled(allocator, len(&mut random), 1)))
        .collect();
    let mut written = 0;
    let begin = Instant::now();
    while written < (args.mib as usize) << 20 {
        let at = (random.fraction() * blocks.len() as f64) as usize;
        let len = len(&mut random);
        // Freed first.
        blocks[at] = None;
        let block = Bytes::filled(allocator, len, 7);
        black_box(block.sum());
        blocks[at] = Some(block);
        written += len;
    }
    let speed = written as f64 / MIB / seconds_since(begin);
    let resident = resident_bytes().map_or(f64::NAN, |bytes| bytes as f64 / MIB);
    (speed, resident)
}

/// Numbers that are the same each time.
struct Random(u64);

impl Random {
    /// From 0 to 1, without 1.
    fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}
