//! Cases, and how they are sampled.

use crate::{Error, Table, callgrind, cpu, stats};
use std::{
    fmt,
    hint::spin_loop,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
    time::Duration,
};
use tokio::time::Instant;

/// How to run a suite. Flatten it into the arguments of a binary.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How many times each case is sampled.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long one sample takes, in milliseconds. Two-thread cases take three times as long.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    ms: u64,
    /// Counts instructions under callgrind instead of time. Single-thread cases only.
    #[arg(long)]
    cg: bool,
    /// Runs the cases for callgrind.
    #[arg(long, hide = true, conflicts_with = "cg")]
    cg_child: bool,
    /// Runs only cases whose name contains one of these, and their baselines.
    filters: Vec<String>,
}

/// Cases that are sampled in turn.
#[derive(Debug)]
pub struct Suite {
    title: &'static str,
    options: Options,
    cases: Vec<Case>,
}

/// One thing to be measured.
pub struct Case {
    name: String,
    work: Work,
    baselines: Vec<String>,
    after: Box<dyn FnMut()>,
    most_ops: u64,
    ops: u64,
    /// Nanoseconds per operation, by round.
    samples: Vec<f64>,
}

enum Work {
    Single(Box<dyn FnMut(u64)>),
    Double(Box<dyn Fn(usize, u64) + Sync>),
    Own(Box<dyn FnMut(u64)>),
}

// === impl Suite ===

impl Suite {
    /// Makes a suite without cases.
    #[must_use]
    pub const fn new(title: &'static str, options: Options) -> Self {
        Self {
            title,
            options,
            cases: Vec::new(),
        }
    }

    /// Adds a case of one thread. `work` is told how many operations to do.
    pub fn single(&mut self, name: &str, work: impl FnMut(u64) + 'static) -> &mut Case {
        self.case(format!("{name} 1T"), Work::Single(Box::new(work)))
    }

    /// Adds a case of two threads, each pinned to a CPU. `work` is told which of the two it is,
    /// and how many operations to do.
    pub fn double(&mut self, name: &str, work: impl Fn(usize, u64) + Sync + 'static) -> &mut Case {
        self.case(format!("{name} 2T"), Work::Double(Box::new(work)))
    }

    /// Adds a case that makes threads of its own, over all of which `work` spreads its operations.
    pub fn own_threads(&mut self, name: &str, work: impl FnMut(u64) + 'static) -> &mut Case {
        self.case(name.to_owned(), Work::Own(Box::new(work)))
    }

    fn case(&mut self, name: String, work: Work) -> &mut Case {
        self.cases.push(Case {
            name,
            work,
            baselines: Vec::new(),
            after: Box::new(|| {}),
            most_ops: u64::MAX,
            ops: 0,
            samples: Vec::new(),
        });
        self.cases.last_mut().expect("pushed just now")
    }

    /// Runs the cases, and prints what came out as a Markdown table.
    ///
    /// # Errors
    ///
    /// When threads cannot be pinned, or callgrind cannot be run.
    pub fn run(mut self) -> Result<(), Error> {
        if self.options.cg {
            let args: Vec<_> = std::env::args()
                .skip(1)
                .map(|arg| arg.replace("--cg", "--cg-child"))
                .collect();
            let table = callgrind::run_child(&args)?;
            println!("### {}: instructions\n\n{table}", self.title);
            return Ok(());
        }
        self.select();
        if self.options.cg_child {
            self.count();
            return Ok(());
        }
        let sample = Duration::from_millis(self.options.ms);
        for case in &mut self.cases {
            case.calibrate(sample)?;
        }
        for round in 0..self.options.rounds {
            if round % 2 == 0 {
                self.cases.iter_mut().try_for_each(Case::sample)?;
            } else {
                self.cases.iter_mut().rev().try_for_each(Case::sample)?;
            }
        }
        self.print();
        Ok(())
    }

    /// Drops the cases that were not asked for.
    fn select(&mut self) {
        let filters = &self.options.filters;
        if filters.is_empty() {
            return;
        }
        let wanted = |case: &Case| filters.iter().any(|filter| case.name.contains(filter));
        let baselines: Vec<_> = self
            .cases
            .iter()
            .filter(|case| wanted(case))
            .flat_map(|case| case.baselines.clone())
            .collect();
        self.cases
            .retain(|case| wanted(case) || baselines.contains(&case.name));
    }

    fn count(&mut self) {
        for case in &mut self.cases {
            if case.most_ops < callgrind::OPS {
                continue;
            }
            if let Work::Single(work) = &mut case.work {
                work(callgrind::WARM_UP);
                callgrind::window(work, callgrind::OPS);
                println!("{}", case.name);
            }
        }
    }

    fn print(&self) {
        let Options { rounds, ms, .. } = self.options;
        println!("### {}: ns/op, {rounds} rounds x {ms} ms\n", self.title);
        let mut table = Table::new(&["case", "median", "min", "ratio", "to"]);
        for case in &self.cases {
            let mut ratios = case.baselines.iter().filter_map(|name| {
                let base = self.cases.iter().find(|case| case.name == *name)?;
                let ratio = stats::median_ratio(&case.samples, &base.samples);
                Some((format!("{ratio:.3}"), name.clone()))
            });
            let (ratio, to) = ratios.next().unwrap_or_default();
            table.row([
                case.name.clone(),
                format!("{:.1}", stats::median(case.samples.iter().copied())),
                format!("{:.1}", stats::min(case.samples.iter().copied())),
                ratio,
                to,
            ]);
            for (ratio, to) in ratios {
                let name = case.name.clone();
                table.row([name, String::new(), String::new(), ratio, to]);
            }
        }
        println!("{table}");
    }
}

// === impl Case ===

impl Case {
    /// Names a case that this one is compared with, with its `1T` or `2T`. Each that is named gets
    /// a row.
    pub fn versus(&mut self, baseline: &str) -> &mut Self {
        self.baselines.push(baseline.to_owned());
        self
    }

    /// Sets what is done after each sample, untimed.
    pub fn after(&mut self, after: impl FnMut() + 'static) -> &mut Self {
        self.after = Box::new(after);
        self
    }

    /// Sets how many operations a sample has at the most, where each leaves something behind.
    pub const fn most_ops(&mut self, ops: u64) -> &mut Self {
        self.most_ops = ops;
        self
    }

    fn calibrate(&mut self, sample: Duration) -> Result<(), Error> {
        let target = match self.work {
            Work::Single(_) | Work::Own(_) => sample,
            // Contended samples come in two speeds when they are short.
            Work::Double(_) => sample * 3,
        };
        let target = target.as_secs_f64();
        // A case may make what it measures when it runs first.
        self.time(1)?;
        let mut ops = 64;
        // The last try is also the warm-up.
        let took = loop {
            let took = self.time(ops)?;
            if took >= target / 2.0 || ops >= self.most_ops {
                break took;
            }
            ops *= 2;
        };
        self.ops = ((ops as f64 * target / took) as u64).clamp(1, self.most_ops);
        Ok(())
    }

    fn sample(&mut self) -> Result<(), Error> {
        let took = self.time(self.ops)?;
        self.samples.push(took * 1e9 / self.ops as f64);
        Ok(())
    }

    /// Times `ops` operations, by the slower of two threads.
    fn time(&mut self, ops: u64) -> Result<f64, Error> {
        let took = match &mut self.work {
            Work::Single(work) | Work::Own(work) => {
                let start = Instant::now();
                work(ops);
                stats::seconds_since(start)
            }
            Work::Double(work) => time_two(&**work, ops)?,
        };
        (self.after)();
        Ok(took)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn time_two(work: &(dyn Fn(usize, u64) + Sync), ops: u64) -> Result<f64, Error> {
    let waiting = AtomicUsize::new(2);
    let run = |index| {
        let pinned = cpu::pin(index);
        // Released by spinning, so that neither has a head start of a wake-up.
        waiting.fetch_sub(1, SeqCst);
        while waiting.load(SeqCst) > 0 {
            spin_loop();
        }
        pinned?;
        let start = Instant::now();
        work(index, ops);
        Ok(stats::seconds_since(start))
    };
    thread::scope(|scope| {
        let threads = [0, 1].map(|index| scope.spawn(move || run(index)));
        let times = threads.map(|thread| thread.join().expect("a case does not panic"));
        let [one, two] = times;
        one.and_then(|one| two.map(|two| one.max(two)))
    })
}
