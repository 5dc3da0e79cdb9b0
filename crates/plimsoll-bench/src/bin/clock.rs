//! One read of Plimsoll's clock, against those it could have been.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "compares the operating system's clock with ours"
)]

use clap::Parser;
use plimsoll_bench::{Error, Options, Suite};
use plimsoll_core::Clock;
use std::hint::black_box;

#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    options: Options,
}

fn main() -> Result<(), Error> {
    let mut suite = Suite::new("Clocks", Args::parse().options);
    add(&mut suite, "std Instant::now", std::time::Instant::now);
    let clock = Clock::new();
    add(&mut suite, "plimsoll Clock::ticks", move || clock.ticks());
    add(&mut suite, "tokio Instant::now", tokio::time::Instant::now);
    add(&mut suite, "quanta Instant::now", quanta::Instant::now);
    suite.run()
}

fn add<T>(suite: &mut Suite, name: &str, read: impl Fn() -> T + Clone + Sync + 'static) {
    let many = move |reads: u64| {
        for _ in 0..reads {
            black_box(read());
        }
    };
    suite
        .single(name, many.clone())
        .versus("std Instant::now 1T");
    suite
        .double(name, move |_, reads| many(reads))
        .versus("std Instant::now 2T");
}
