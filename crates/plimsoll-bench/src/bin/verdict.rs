//! What it takes to look for leaks by name, once a second: time, and memory.

use clap::Parser;
use plimsoll_bench::{
    Error, Table,
    stats::{max, median, micros},
};
use plimsoll_core::{Name, test_util::CountingAllocator};
use plimsoll_memory::verdict::{LeakConfig, LeakDetector, LeakKind};
use std::{hint::black_box, time::Duration};
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::system();

/// No judgement may take longer, where it has most to do: by the median, since the machine does other things
/// as well.
const BAR: Duration = Duration::from_millis(5);

/// The seconds after which buckets close.
const WIDTHS: [u64; 4] = [3, 20, 60, 240];

#[derive(Parser)]
#[command(about)]
struct Args {
    /// How many routes there are.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=16_384))]
    names: u64,
    /// For how long they are watched, in minutes of a clock that is only pretended.
    #[arg(long, default_value_t = 130, value_parser = clap::value_parser!(u64).range(65..=10_000))]
    minutes: u64,
}

/// What a route holds at a second.
type Held = fn(route: u64, second: u64) -> u64;

const CASES: [(&str, Held); 3] = [
    ("steady", |route, _| route << 10),
    ("noisy", |route, second| {
        noise(route ^ second << 32) % (16 << 20)
    }),
    ("all leak", |route, second| {
        (200_000 + 1_000 * route) * second
    }),
];

fn main() -> Result<(), Error> {
    let args = Args::parse();
    let names: Vec<_> = (0..args.names)
        .map(|route| Name::new(&format!("/api/v1/accounts/{{account}}/items/{route}")))
        .collect();
    println!("### Leaks by name, {} routes, µs\n", args.names);
    let mut table = Table::new(&[
        "case",
        "observe one",
        "judge, no bucket closed",
        "one closed",
        "all closed",
        "longest",
        "standing",
    ]);
    let mut longest = 0.0_f64;
    for (case, held) in CASES {
        let (row, all_closed) = run(case, &names, args.minutes * 60, held);
        table.row(row);
        longest = longest.max(all_closed);
    }
    println!("{table}");

    let before = ALLOCATOR.live_bytes();
    let mut detector = LeakDetector::new(&LeakConfig::new().max_names(names.len()));
    observe(&mut detector, &names, Instant::now(), |_| 0);
    let by_name = (ALLOCATOR.live_bytes() - before) as f64 / names.len() as f64;
    let told = detector.bytes() as f64 / names.len() as f64;
    println!("Bytes by name: {by_name:.0} measured, {told:.0} told.\n");

    let met = if longest <= micros(BAR) { "yes" } else { "no" };
    println!("| bar | measured | met |\n|---|--:|---|");
    println!("| a judgement where all buckets closed takes {BAR:?} | {longest:.0} µs | {met} |");
    Ok(())
}

fn observe(detector: &mut LeakDetector, names: &[Name], now: Instant, held: impl Fn(u64) -> u64) {
    for (route, name) in (0..).zip(names) {
        detector.observe(now, LeakKind::Route, *name, held(route), None);
    }
}

/// The row of a case, and what a judgement takes where all buckets closed.
fn run(case: &str, names: &[Name], seconds: u64, held: Held) -> ([String; 7], f64) {
    let mut detector = LeakDetector::new(&LeakConfig::new().max_names(names.len()));
    let began = Instant::now();
    let mut observing = Vec::new();
    let mut judging: [Vec<f64>; WIDTHS.len() + 1] = Default::default();
    let mut standing = 0;
    for second in 0..seconds {
        let now = began + Duration::from_secs(second);
        let start = Instant::now();
        observe(&mut detector, names, now, |route| held(route, second));
        let observed = Instant::now();
        let found = black_box(detector.judge(now, Some(8 << 30)));
        let judged = Instant::now();
        standing = found.standing.len();
        let closed = WIDTHS
            .iter()
            .filter(|width| second.is_multiple_of(**width))
            .count();
        observing.push(micros(observed.saturating_duration_since(start)));
        judging[closed].push(micros(judged.saturating_duration_since(observed)));
    }
    let [none, one, .., all] = &judging;
    let longest = max(judging.iter().flatten().copied());
    let all = median(all.iter().copied());
    let row = [
        case.to_owned(),
        format!("{:.3}", median(observing) / names.len() as f64),
        format!("{:.0}", median(none.iter().copied())),
        format!("{:.0}", median(one.iter().copied())),
        format!("{all:.0}"),
        format!("{longest:.0}"),
        standing.to_string(),
    ];
    (row, all)
}

/// A number that looks like chance.
const fn noise(seed: u64) -> u64 {
    let mixed = (seed ^ seed >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 16
}
