//! Whether a service leaks: samples of what it holds, and a verdict by their trend.

mod plot;
mod source;

pub use self::{
    plot::plot,
    source::{Reading, Source},
};
use crate::Table;
use plimsoll_memory::trend::{MAX_POINTS, Trend};
use std::{fmt, time::Duration};

/// With fewer samples nothing can be told.
pub const MIN_SAMPLES: usize = 8;

/// The most that the probability of chance may be.
const MOST_P: f64 = 0.01;

/// The newer half has to rise at this share of the slope of the older one.
const KEEPS: f64 = 0.5;

/// A single step may be no more than this share of the whole rise.
const LARGEST_STEP: f64 = 0.4;

/// What is read of a process, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Signal {
    /// What its allocator counts as held.
    Tracked,
    /// What its memory cgroup counts, without page cache that can go.
    WorkingSet,
    /// What of it is in memory.
    Resident,
}

/// A reading, and when it was taken.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The time since the first one.
    pub at: Duration,
    /// What was read.
    pub reading: Reading,
}

/// What comes of one signal, or of all.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Verdict {
    /// There are too few samples.
    Unknown,
    /// It does not grow, or slows down.
    NoLeak,
    /// It grows steadily.
    Leak,
}

/// What one signal does.
#[derive(Clone, Copy, Debug)]
pub struct Finding {
    /// Which it is.
    pub signal: Signal,
    /// How many samples have it.
    pub samples: usize,
    /// Its trend, with a slope by second; of the least values, where there were too many.
    pub trend: Option<Trend>,
    /// What comes of it.
    pub verdict: Verdict,
}

/// What comes of all samples.
#[derive(Clone, Debug)]
pub struct Report {
    /// The samples.
    pub samples: Vec<Sample>,
    /// What each signal does that was there.
    pub findings: Vec<Finding>,
}

// === impl Signal ===

impl Signal {
    /// Every signal.
    pub const ALL: [Self; 3] = [Self::Tracked, Self::WorkingSet, Self::Resident];

    /// Its name, as in a table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tracked => "tracked",
            Self::WorkingSet => "working set",
            Self::Resident => "resident",
        }
    }

    /// Less growth is none. The allocator keeps pages that are free, so that what is in memory
    /// grows by some without a leak.
    const fn least_rise(self) -> f64 {
        match self {
            Self::Tracked => 256.0 * 1_024.0,
            Self::WorkingSet | Self::Resident => 4.0 * 1_048_576.0,
        }
    }
}

// === impl Finding ===

impl Finding {
    fn of(signal: Signal, samples: &[Sample]) -> Self {
        let points: Vec<_> = samples
            .iter()
            .filter_map(|sample| {
                let bytes = sample.reading.bytes(signal)?;
                Some((sample.at.as_secs_f64(), bytes as f64))
            })
            .collect();
        let least = least(&points);
        let trend = Trend::of(&least);
        let verdict = match trend {
            Some(trend) if points.len() >= MIN_SAMPLES => judge(signal, &least, &trend),
            _ => Verdict::Unknown,
        };
        Self {
            signal,
            samples: points.len(),
            trend,
            verdict,
        }
    }
}

/// At most [`MAX_POINTS`] points: the lowest of each of so many that follow each other.
fn least(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let each = points.len().div_ceil(MAX_POINTS).max(1);
    let lowest = |chunk: &[(f64, f64)]| chunk.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    points.chunks(each).filter_map(lowest).collect()
}

fn judge(signal: Signal, points: &[(f64, f64)], trend: &Trend) -> Verdict {
    let (first, last) = (points[0], points[points.len() - 1]);
    let (time, rise) = (last.0 - first.0, last.1 - first.1);
    let steps = points.windows(2).map(|pair| pair[1].1 - pair[0].1);
    let largest = steps.fold(0.0, f64::max);
    let slope = |points| Trend::of(points).map_or(0.0, |trend| trend.slope);
    // The one in the middle is in both.
    let middle = points.len() / 2;
    let (older, newer) = (slope(&points[..=middle]), slope(&points[middle..]));
    let grows = trend.s > 0 && trend.p <= MOST_P && trend.slope * time >= signal.least_rise();
    let steadily = largest <= LARGEST_STEP * rise;
    let slows_down = newer <= 0.0 || newer < KEEPS * older;
    if grows && steadily && !slows_down {
        Verdict::Leak
    } else {
        Verdict::NoLeak
    }
}

// === impl Verdict ===

impl Verdict {
    /// The exit code: 0 for no leak, 1 for a leak, 2 if it cannot be told.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::NoLeak => 0,
            Self::Leak => 1,
            Self::Unknown => 2,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NoLeak => "no leak",
            Self::Leak => "leak",
            Self::Unknown => "could not tell",
        })
    }
}

// === impl Report ===

impl Report {
    /// Judges samples, oldest first.
    #[must_use]
    pub fn of(samples: Vec<Sample>) -> Self {
        let findings = Signal::ALL.map(|signal| Finding::of(signal, &samples));
        let findings = findings.into_iter().filter(|finding| finding.samples > 0);
        Self {
            findings: findings.collect(),
            samples,
        }
    }

    /// A leak if any signal has one; none if one at least can be told and has none.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let verdicts = self.findings.iter().map(|finding| finding.verdict);
        verdicts.max().unwrap_or(Verdict::Unknown)
    }

    /// The samples as comma-separated values, in bytes.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut csv = String::from("seconds,tracked,working_set,resident\n");
        for sample in &self.samples {
            let cell = |signal| sample.reading.bytes(signal).map(|bytes| bytes.to_string());
            let cells = Signal::ALL.map(|signal| cell(signal).unwrap_or_default());
            csv += &format!("{:.3},{}\n", sample.at.as_secs_f64(), cells.join(","));
        }
        csv
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut samples = Table::new(&["minutes", "tracked", "working set", "resident"]);
        // Who wants all of many has them as comma-separated values.
        let each = self.samples.len().div_ceil(MAX_POINTS).max(1);
        for sample in self.samples.iter().step_by(each) {
            let cell = |signal| sample.reading.bytes(signal).map_or_else(String::new, mib);
            let [tracked, working_set, resident] = Signal::ALL.map(cell);
            let minutes = format!("{:.2}", sample.at.as_secs_f64() / 60.0);
            samples.row([minutes, tracked, working_set, resident]);
        }
        let mut findings = Table::new(&["MiB", "samples", "MiB/min", "p", "verdict"]);
        for finding in &self.findings {
            let trend = |cell: fn(Trend) -> String| finding.trend.map_or_else(String::new, cell);
            findings.row([
                finding.signal.name().to_owned(),
                finding.samples.to_string(),
                trend(|trend| format!("{:+.3}", trend.slope * 60.0 / 1_048_576.0)),
                trend(|trend| format!("{:.1e}", trend.p)),
                finding.verdict.to_string(),
            ]);
        }
        writeln!(f, "{samples}\n{findings}\nVerdict: {}", self.verdict())
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1_048_576.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1_048_576.0;

    fn report(samples: usize, every: f64, resident: impl Fn(f64) -> f64) -> Report {
        let sample = |number: usize| {
            let seconds = number as f64 * every;
            Sample {
                at: Duration::from_secs_f64(seconds),
                reading: Reading::resident(resident(seconds) as u64),
            }
        };
        Report::of((0..samples).map(sample).collect())
    }

    fn verdict(samples: usize, every: f64, mib: impl Fn(f64) -> f64) -> Verdict {
        report(samples, every, |seconds| mib(seconds) * MIB).verdict()
    }

    #[test]
    fn steady_growth_is_a_leak() {
        assert_eq!(verdict(10, 30.0, |t| 80.0 + 0.2 * t), Verdict::Leak);
        let noisy = |t: f64| 80.0 + 0.2 * t + 4.0 * (t * 7.0).sin();
        assert_eq!(verdict(11, 30.0, noisy), Verdict::Leak);
    }

    #[test]
    fn of_many_samples_the_lowest_count() {
        // A sawtooth of 40 MiB every 7 seconds over a leak of 12 MiB a minute, and over none.
        let tooth = |t: f64| 40.0 * (t % 7.0) / 7.0;
        let leaks = |t: f64| 80.0 + 0.2 * t + tooth(t);
        assert_eq!(verdict(3_000, 0.1, leaks), Verdict::Leak);
        assert_eq!(verdict(3_000, 0.1, |t| 80.0 + tooth(t)), Verdict::NoLeak);
    }

    #[test]
    fn what_is_flat_falls_steps_once_or_warms_up_does_not_leak() {
        for (what, mib) in [
            ("flat", (|_| 80.0) as fn(f64) -> f64),
            ("noise", |t| 80.0 + 5.0 * (t * 7.0).sin()),
            ("falls", |t| 80.0 - 0.1 * t),
            ("steps", |t| if t < 100.0 { 80.0 } else { 120.0 }),
            ("warms up", |t| 180.0 - 100.0 * (-t / 60.0).exp()),
            ("grows by next to nothing", |t| 80.0 + 0.01 * t),
        ] {
            assert_eq!(verdict(11, 30.0, mib), Verdict::NoLeak, "{what}");
        }
    }

    #[test]
    fn with_too_few_samples_nothing_can_be_told() {
        assert_eq!(verdict(7, 30.0, |t| 80.0 + t), Verdict::Unknown);
        assert_eq!(verdict(8, 30.0, |t| 80.0 + t), Verdict::Leak);
        assert_eq!(Report::of(Vec::new()).verdict(), Verdict::Unknown);
    }

    #[test]
    fn one_signal_that_leaks_is_enough() {
        let samples = (0..10).map(|number| Sample {
            at: Duration::from_secs(30 * number),
            reading: Reading {
                tracked: Some(1_000_000 + 100_000 * number),
                working_set: None,
                resident: Some(50 << 20),
            },
        });
        let report = Report::of(samples.collect());
        let verdicts: Vec<_> = report
            .findings
            .iter()
            .map(|finding| (finding.signal, finding.verdict))
            .collect();
        let expected = [
            (Signal::Tracked, Verdict::Leak),
            (Signal::Resident, Verdict::NoLeak),
        ];
        assert_eq!(verdicts, expected);
        assert_eq!(report.verdict(), Verdict::Leak);
    }

    #[test]
    fn exit_codes_are_those_of_a_test() {
        let codes = [Verdict::NoLeak, Verdict::Leak, Verdict::Unknown].map(Verdict::code);
        assert_eq!(codes, [0, 1, 2]);
    }

    #[test]
    fn what_was_seen_is_told_in_every_form() {
        let report = report(10, 30.0, |t| 80.0 * MIB + t * MIB);
        let text = report.to_string();
        assert!(text.contains("| 0.50 |  |  | 110.00 |"), "{text}");
        assert!(
            text.contains("| resident | 10 | +60.000 | 8.3e-5 | leak |"),
            "{text}"
        );
        assert!(text.ends_with("Verdict: leak\n"), "{text}");
        let csv = report.csv();
        assert_eq!(csv.lines().nth(2), Some("30.000,,,115343360"), "{csv}");
        let svg = plot(&report).unwrap();
        assert!(
            svg.starts_with("<svg") && svg.contains("<polyline"),
            "{svg}"
        );
        assert!(svg.contains("resident"), "{svg}");
        // Nothing to see is no failure.
        plot(&Report::of(Vec::new())).unwrap();
    }
}
