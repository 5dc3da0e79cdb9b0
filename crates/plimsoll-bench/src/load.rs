//! Servers under the load of `wrk`, in rounds.

use crate::{Error, cpu, stats};
use std::{
    fmt, io,
    io::ErrorKind,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};
use tokio::time::Instant;

/// How to drive servers. Flatten it into the arguments of a binary.
#[derive(Clone, Debug, clap::Args)]
#[non_exhaustive]
pub struct Load {
    /// How many times each variant is driven.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// For how long each time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Connections.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Threads that serve, each pinned to a CPU of its own. wrk has as many threads, pinned to
    /// the CPUs that follow.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub workers: u8,
    /// Drives only variants whose name contains one of these, and what they are compared with.
    pub filters: Vec<String>,
}

/// What one run of wrk has shown.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Run {
    /// Requests per second.
    pub per_second: f64,
    /// The median time of a request, in microseconds.
    pub p50_micros: f64,
    /// The 99th percentile.
    pub p99_micros: f64,
    /// CPU time of the server by request, in microseconds.
    pub cpu_micros: f64,
    /// Requests that went wrong in any way.
    pub errors: u64,
}

/// What the runs of one variant have shown, by round.
#[derive(Clone, Debug, Default)]
pub struct Runs(Vec<Run>);

/// The ratios of one variant to another, each within one round.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Ratios {
    /// Their median.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

// === impl Load ===

impl Load {
    /// Checks that there is what a run needs.
    ///
    /// # Errors
    ///
    /// When there are too few CPUs, or a program is missing.
    pub fn check(&self) -> Result<(), Error> {
        let needs = 2 * usize::from(self.workers);
        if cpu::count() < needs {
            return Err(format!("needs {needs} CPUs, there are {}", cpu::count()).into());
        }
        if !is_installed("wrk") || !is_installed("taskset") {
            return Err("wrk and taskset are needed: apt-get install wrk util-linux".into());
        }
        Ok(())
    }

    /// Whether a variant of this name was asked for.
    #[must_use]
    pub fn asks_for(&self, name: &str) -> bool {
        let mut filters = self.filters.iter();
        self.filters.is_empty() || filters.any(|filter| name.contains(filter))
    }

    /// Does `run` with each variant in turn, in every round, forwards and backwards alternately.
    ///
    /// # Errors
    ///
    /// The first of `run`.
    pub fn rounds<V>(
        &self,
        variants: &mut [V],
        mut run: impl FnMut(&mut V) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for round in 0..self.rounds {
            if round % 2 == 0 {
                variants.iter_mut().try_for_each(&mut run)?;
            } else {
                variants.iter_mut().rev().try_for_each(&mut run)?;
            }
        }
        Ok(())
    }

    /// Has wrk ask for `url` for so many seconds. `used` is the CPU time that the server has used.
    ///
    /// # Errors
    ///
    /// When wrk fails, or does not end, or `used` fails.
    pub fn drive(
        &self,
        url: &str,
        seconds: u32,
        used: impl Fn() -> io::Result<Duration>,
    ) -> Result<Run, Error> {
        let workers = usize::from(self.workers);
        let cpus: Result<Vec<_>, _> = (workers..2 * workers).map(cpu::number).collect();
        let cpus: Vec<_> = cpus?.iter().map(ToString::to_string).collect();
        let before = used()?;
        let wrk = Command::new("taskset")
            .args(["-c", &cpus.join(","), "wrk", "--latency"])
            .arg(format!("-t{workers}"))
            .arg(format!("-c{}", self.connections))
            .arg(format!("-d{seconds}s"))
            .arg(url)
            .stdout(Stdio::piped())
            .spawn()?;
        let text = read_before(wrk, Duration::from_secs(u64::from(seconds) + 10))?;
        let cpu = used()?.saturating_sub(before);
        parse(&text, cpu).ok_or_else(|| format!("wrk said what was not expected: {text}").into())
    }
}

/// How it was driven, for a title.
impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rounds,
            seconds,
            connections,
            workers,
            ..
        } = self;
        write!(
            f,
            "{workers} workers, {rounds} rounds x {seconds} s, wrk -t{workers} -c{connections}"
        )
    }
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    !found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
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

// === impl Runs ===

impl Runs {
    /// Adds the run of a round.
    pub fn push(&mut self, run: Run) {
        self.0.push(run);
    }

    /// The median of a value.
    #[must_use]
    pub fn median(&self, value: fn(&Run) -> f64) -> f64 {
        stats::median(self.0.iter().map(value))
    }

    /// How many requests went wrong.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.0.iter().map(|run| run.errors).sum()
    }

    /// A value, compared with that of another variant in the same round.
    #[must_use]
    pub fn ratios(&self, base: &Self, value: fn(&Run) -> f64) -> Ratios {
        let runs = || self.0.iter().zip(&base.0);
        let ratios = || runs().map(|(run, base)| value(run) / value(base));
        Ratios {
            median: stats::median(ratios()),
            min: stats::min(ratios()),
            max: stats::max(ratios()),
        }
    }
}

// === impl Ratios ===

impl Ratios {
    /// The median and the range.
    #[must_use]
    pub fn with_range(&self) -> String {
        format!("{self} ({:.3}–{:.3})", self.min, self.max)
    }

    /// Says whether their median reaches a bar.
    #[must_use]
    pub fn verdict(&self, bar: f64) -> String {
        let verdict = if self.median >= bar { "met" } else { "missed" };
        format!("the bar of {bar} is {verdict}")
    }
}

/// The median.
impl fmt::Display for Ratios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.median)
    }
}
