//! Runs of the service in a memory cgroup, driven by another process.

use crate::{
    Error,
    cgroup::Cgroup,
    driver::Load,
    outcome::Outcome,
    timeline::{Eye, Leak, Sample, Sampler, Timeline},
};
use clap::ValueEnum;
use serde::Serialize;
use std::{
    fmt,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};
use tokio::time::Instant;

/// How long the service may take to listen.
const START: Duration = Duration::from_secs(60);
/// How long the driver may take besides the load: idle connections, probes.
const AROUND: Duration = Duration::from_secs(300);

/// The allocator within the tracking one.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[allow(clippy::exhaustive_enums, reason = "one for each service")]
#[serde(rename_all = "lowercase")]
pub enum Allocator {
    /// That of the system, and large blocks by ourselves.
    Glibc,
    /// That of the system.
    #[serde(rename = "glibc-plain")]
    GlibcPlain,
    /// jemalloc.
    Jemalloc,
    /// jemalloc, and large blocks by ourselves.
    #[serde(rename = "jemalloc-large")]
    JemallocLarge,
}

/// What to run.
#[derive(Clone, Debug)]
#[must_use = "nothing is run before `run`"]
pub struct Plan {
    /// The service to run.
    pub allocator: Allocator,
    /// The load to drive it with.
    pub load: Load,
    /// Decides the sizes and keys.
    pub seed: u64,
    /// For how long to drive it.
    pub seconds: u32,
    /// The limit of its cgroup, in bytes.
    pub limit: u64,
    /// Without Plimsoll.
    pub is_bare: bool,
    /// A folder with its configuration.
    pub config: Option<PathBuf>,
    /// Variables of its environment.
    pub variables: Vec<(String, String)>,
    /// Connections to hold that are idle.
    pub idle: u32,
    /// CPUs for service and driver together, as `taskset -c` takes them.
    pub cpus: Option<String>,
    /// Where to write what the service logs.
    pub log: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Run {
    /// The service that was run.
    pub allocator: Allocator,
    /// The load, a letter.
    pub load: String,
    /// What decided the sizes.
    pub seed: u64,
    /// The limit, in bytes.
    pub limit: u64,
    /// Without Plimsoll.
    pub is_bare: bool,
    /// Whether it ended before it was told to.
    pub is_killed: bool,
    /// How many processes the kernel has ended for memory.
    pub oom_kills: u64,
    /// How often the limit was met.
    pub limit_met: u64,
    /// The most that was used at any time, in bytes, as the kernel knows it.
    pub peak: u64,
    /// The most that lived in any sample, in bytes; 0 where nobody counts.
    pub peak_live: u64,
    /// The most that was resident in any sample, in bytes.
    pub peak_resident: u64,
    /// What was resident and did not live, in the mean of all samples, in bytes.
    pub free: u64,
    /// What was used, was resident, and lived after the load, the idle time and the probes.
    pub after: Sample,
    /// What it said of the route that leaks, when it did so first.
    pub leak: Option<Leak>,
    /// The CPU time that the service took, in seconds; 0 where it was killed.
    pub service_cpu_s: f64,
    /// How many CPUs of the machine others kept busy meanwhile, on average. The service is among them
    /// where it was killed.
    pub others_cpus: f64,
    /// What the driver says.
    pub outcome: Outcome,
    /// What it was like in between.
    #[serde(skip)]
    pub timeline: Timeline,
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs(PathBuf);

impl Programs {
    /// In the folder that this program is in.
    #[must_use]
    pub fn beside(program: &Path) -> Self {
        Self(
            program
                .parent()
                .unwrap_or_else(|| Path::new("."))
                .to_owned(),
        )
    }

    fn service(&self, allocator: Allocator, is_bare: bool) -> PathBuf {
        // Ours is compared with that of the system.
        let allocator = match allocator {
            Allocator::Glibc if is_bare => Allocator::GlibcPlain,
            Allocator::JemallocLarge if is_bare => Allocator::Jemalloc,
            allocator => allocator,
        };
        self.0.join(format!("load-service-{allocator}"))
    }

    fn driver(&self) -> PathBuf {
        self.0.join("load-driver")
    }
}

impl fmt::Display for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Glibc => "glibc",
            Self::GlibcPlain => "glibc-plain",
            Self::JemallocLarge => "jemalloc-large",
            Self::Jemalloc => "jemalloc",
        })
    }
}

impl Plan {
    /// A plan of a run under a limit in bytes, of 20 s, with nothing that is optional.
    pub const fn new(allocator: Allocator, load: Load, limit: u64) -> Self {
        Self {
            allocator,
            load,
            seed: 1,
            seconds: 20,
            limit,
            is_bare: false,
            config: None,
            variables: Vec::new(),
            idle: 0,
            cpus: None,
            log: None,
        }
    }

    /// Runs it. What it has started is ended, and its cgroup is gone, when it returns.
    ///
    /// # Errors
    ///
    /// When there cannot be a cgroup, or the service or the driver fail. That the service is ended
    /// for memory is no error.
    pub fn run(&self, programs: &Programs) -> Result<Run, Error> {
        // Dropped after the service and the driver.
        let cgroup = Arc::new(Cgroup::new(self.limit)?);
        let mut service = Service::start(self, programs, &cgroup)?;
        let sampler = Sampler::start(service.eye(&cgroup));
        let (begin, busy_before) = (Instant::now(), busy_seconds());
        let outcome = self.drive(programs, service.addr)?;
        let after = service.eye(&cgroup).sample();
        let service_cpu_s = cpu_seconds(service.pid());
        let busy = busy_seconds() - busy_before - service_cpu_s - outcome.driver_cpu_s;
        let took = Instant::now().saturating_duration_since(begin);
        let is_killed = service.is_over()?;
        let timeline = sampler.stop();
        drop(service);
        Ok(Run {
            allocator: self.allocator,
            load: self.load.to_string(),
            seed: self.seed,
            limit: self.limit,
            is_bare: self.is_bare,
            is_killed,
            oom_kills: cgroup.killed(),
            limit_met: cgroup.limit_met(),
            peak: cgroup.peak().ok_or("the cgroup does not tell its peak")?,
            peak_live: timeline.peak(|sample| sample.live),
            peak_resident: timeline.peak(|sample| sample.resident),
            free: timeline.free(),
            after,
            leak: timeline.leak(self.limit, &outcome),
            service_cpu_s,
            others_cpus: busy / took.as_secs_f64(),
            outcome,
            timeline,
        })
    }

    fn drive(&self, programs: &Programs, addr: SocketAddr) -> Result<Outcome, Error> {
        let mut driver = self.command(&programs.driver(), None);
        driver
            .arg(format!("--url=http://{addr}"))
            .arg(format!("--load={}", self.load))
            .arg(format!("--seed={}", self.seed))
            .arg(format!("--seconds={}", self.seconds))
            .arg(format!("--idle={}", self.idle))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut driver = Ended(driver.spawn()?);
        let mut stdout = driver.0.stdout.take().ok_or("no output")?;
        let text = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| text)
        });
        let deadline = Instant::now() + Duration::from_secs(self.seconds.into()) + AROUND;
        while driver.0.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err("the driver does not end".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        let text = text.join().map_err(|_| "the output cannot be read")??;
        serde_json::from_str(&text).map_err(|error| format!("the driver failed: {error}").into())
    }

    /// A program, in a cgroup, on those CPUs and with as many files as there can be.
    fn command(&self, program: &Path, cgroup: Option<&Cgroup>) -> Command {
        let mut shell = Command::new("sh");
        let enter = if cgroup.is_some() {
            r#"echo 0 >"$1" && "#
        } else {
            ""
        };
        shell
            .arg("-c")
            .arg(format!(
                r#"ulimit -n "$(ulimit -Hn)"; {enter}shift && exec "$@""#
            ))
            .arg("sh")
            .arg(cgroup.map(Cgroup::procs).unwrap_or_default());
        if let Some(cpus) = &self.cpus {
            shell.args(["taskset", "-c", cpus]);
        }
        shell.arg(program);
        shell
    }
}

/// A process that is ended when this is dropped.
#[derive(Debug)]
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A service that runs.
struct Service {
    process: Ended,
    /// It ends when this is closed, even by our end.
    _stdin: Option<ChildStdin>,
    addr: SocketAddr,
    admin: Option<SocketAddr>,
    live: Arc<AtomicU64>,
}

impl Service {
    fn start(plan: &Plan, programs: &Programs, cgroup: &Cgroup) -> Result<Self, Error> {
        let mut command = plan.command(
            &programs.service(plan.allocator, plan.is_bare),
            Some(cgroup),
        );
        command.args(["--end-with-stdin", "--print-live"]);
        if plan.is_bare {
            command.arg("--bare");
        }
        if let Some(folder) = &plan.config {
            command.arg("--config").arg(folder);
        }
        command.envs(plan.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(match &plan.log {
            Some(path) => Stdio::from(File::create(path)?),
            None => Stdio::null(),
        });
        let mut process = Ended(command.spawn()?);
        let stdin = process.0.stdin.take();
        let stdout = process.0.stdout.take().ok_or("no output")?;
        let live = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = mpsc::channel();
        thread::spawn({
            let live = live.clone();
            move || {
                // Ends with the service.
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    match line.split_once(' ') {
                        Some(("live", bytes)) => live.store(bytes.parse().unwrap_or(0), Relaxed),
                        _ => drop(sender.send(line)),
                    }
                }
            }
        });
        let deadline = Instant::now() + START;
        let mut admin = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = receiver.recv_timeout(left);
            let line = line.map_err(|_| "the service does not listen; see its log")?;
            if let Some(addr) = line.strip_prefix("admin on http://") {
                admin = Some(addr.parse()?);
            } else if let Some(addr) = line.strip_prefix("listening on http://") {
                let addr = addr.parse()?;
                return Ok(Self {
                    process,
                    _stdin: stdin,
                    addr,
                    admin,
                    live,
                });
            }
        }
    }

    fn pid(&self) -> u32 {
        self.process.0.id()
    }

    fn is_over(&mut self) -> Result<bool, Error> {
        Ok(self.process.0.try_wait()?.is_some())
    }

    fn eye(&self, cgroup: &Arc<Cgroup>) -> Eye {
        Eye {
            cgroup: cgroup.clone(),
            pid: self.pid(),
            live: self.live.clone(),
            admin: self.admin,
        }
    }
}

/// What all its threads have used that live; 0 where it is gone.
fn cpu_seconds(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let nanos = threads.flatten().filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanos.sum::<f64>() / 1e9
}

/// What the whole machine has used since it was started; 0 where it does not say.
fn busy_seconds() -> f64 {
    /// Ticks a second, as the kernel tells them to programs.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal
    let ticks = all.split_whitespace().skip(1).take(8).enumerate();
    let busy = ticks.filter(|(place, _)| !matches!(place, 3 | 4));
    let busy = busy.filter_map(|(_, ticks)| ticks.parse::<f64>().ok());
    busy.sum::<f64>() / TICKS
}
