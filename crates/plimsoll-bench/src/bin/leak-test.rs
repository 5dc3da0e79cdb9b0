//! Whether a running service leaks: samples of what it holds, a verdict by their trend, and a plot.
//!
//! It ends with 0 if there is no leak, 1 if there is one, and 2 if it cannot tell.

use clap::{Args, Parser};
use http::Uri;
use plimsoll_bench::{
    Error,
    leak_test::{MIN_SAMPLES, Report, Sample, Source, plot},
};
use std::{fs, path::PathBuf, process::ExitCode, time::Duration};
use tokio::{
    runtime,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

/// More samples than that are more than anybody needs.
const MAX_SAMPLES: u64 = 100_000;

/// So many in a row that cannot be read mean that it is gone.
const MAX_FAILURES: u32 = 3;

/// The exit code where it cannot be told.
const UNKNOWN: u8 = 2;

#[derive(Parser)]
#[command(about, name = "leak-test")]
struct Arguments {
    #[command(flatten)]
    of: Of,
    /// The token of the service.
    #[arg(long, requires = "url")]
    token: Option<String>,
    /// For how long samples are taken. Load has to be on it meanwhile, as much as it has every day.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// How often, `30s` or `100ms`. There have to be 8 samples at least.
    #[arg(long, default_value = "30s")]
    every: humantime::Duration,
    /// For how long it is let warm up before the first sample.
    #[arg(long, default_value = "0s")]
    warm_up: humantime::Duration,
    /// Where the plot goes.
    #[arg(long, default_value = "leak-test.svg")]
    out: PathBuf,
    /// Where samples go as comma-separated values, if anywhere.
    #[arg(long)]
    csv: Option<PathBuf>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Of {
    /// A service with its admin or probe address, `http://127.0.0.1:9000`.
    #[arg(long)]
    url: Option<Uri>,
    /// A process of this machine.
    #[arg(long)]
    pid: Option<u32>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(UNKNOWN)
        }
    }
}

fn run(arguments: Arguments) -> Result<u8, Error> {
    let Arguments {
        of,
        token,
        minutes,
        every,
        warm_up,
        out,
        csv,
    } = arguments;
    let source = match (of.url, of.pid) {
        (Some(url), _) => Source::Service { url, token },
        (None, Some(pid)) => Source::Process { pid },
        (None, None) => return Err("either --url or --pid has to be given".into()),
    };
    let samples = samples(minutes, *every)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = Report::of(runtime.block_on(watch(&source, samples, *every, *warm_up))?);
    println!("{report}");
    fs::write(&out, plot(&report)?).map_err(|error| format!("{}: {error}", out.display()))?;
    if let Some(csv) = csv {
        fs::write(&csv, report.csv()).map_err(|error| format!("{}: {error}", csv.display()))?;
    }
    println!("Plot: {}", out.display());
    Ok(report.verdict().code())
}

/// How many samples are taken.
fn samples(minutes: f64, every: Duration) -> Result<u64, Error> {
    let time = minutes * 60.0;
    let samples = (time / every.as_secs_f64() + 1e-6).floor() + 1.0;
    if (MIN_SAMPLES as f64..=MAX_SAMPLES as f64).contains(&samples) {
        return Ok(samples as u64);
    }
    let range = format!("between {MIN_SAMPLES} and {MAX_SAMPLES}");
    Err(
        format!("{minutes} minutes every {every:?} are {samples} samples, but must be {range}")
            .into(),
    )
}

async fn watch(
    source: &Source,
    samples: u64,
    every: Duration,
    warm_up: Duration,
) -> Result<Vec<Sample>, Error> {
    // What cannot be read at all is told at once.
    source.read().await?;
    sleep(warm_up).await;
    eprintln!(
        "{samples} samples, one every {}",
        humantime::format_duration(every)
    );
    let began = Instant::now();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut taken, mut failures) = (Vec::new(), 0);
    for number in 1..=samples {
        let at = ticks.tick().await.saturating_duration_since(began);
        match source.read().await {
            Ok(reading) => {
                failures = 0;
                taken.push(Sample { at, reading });
            }
            Err(error) if failures + 1 >= MAX_FAILURES => {
                return Err(format!("{error}, {MAX_FAILURES} times in a row").into());
            }
            Err(error) => {
                failures += 1;
                eprintln!("sample {number} of {samples}: {error}");
            }
        }
    }
    Ok(taken)
}
