use super::{
    System,
    file::{Fault, KernelFile},
};
use std::{
    ffi::OsString,
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How long tasks wait for memory: for a page to be read again that was given up, or for pages to be
/// given up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stall {
    /// The share of the last 10 seconds in which some task waited, in percent.
    pub some_avg10: f64,
    /// The share in which all tasks did that were not idle.
    pub full_avg10: f64,
    /// All the time in which some task waited.
    pub some_total: Duration,
    /// All the time in which all did that were not idle.
    pub full_total: Duration,
    /// Whether these are all tasks of the machine, and not those of the process's control group.
    pub machine_wide: bool,
}

impl Stall {
    /// Reads what the kernel writes: two lines like
    /// `some avg10=1.25 avg60=0.50 avg300=0.10 total=12345`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let line = |name| text.lines().find_map(|line| Line::parse(line, name));
        let (some, full) = (line("some")?, line("full").unwrap_or_default());
        Some(Self {
            some_avg10: some.avg10,
            full_avg10: full.avg10,
            some_total: some.total,
            full_total: full.total,
            machine_wide: false,
        })
    }
}

#[derive(Default)]
struct Line {
    avg10: f64,
    total: Duration,
}

impl Line {
    fn parse(line: &str, name: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some(name) {
            return None;
        }
        let value = |key| {
            let mut words = words.clone();
            words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        let avg10: f64 = value("avg10")?.parse().ok()?;
        let total = value("total")?.parse().ok()?;
        (0.0..=100.0).contains(&avg10).then_some(Self {
            avg10,
            total: Duration::from_micros(total),
        })
    }
}

/// When somebody who watches is woken: tasks waited so long for memory within a window of time.
/// 150 ms within a second by default. Shown as the kernel reads it: `some 150000 1000000`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct StallTrigger {
    stall: Duration,
    window: Duration,
}

impl StallTrigger {
    const SHORTEST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(10);
    /// Who has no privilege may have multiples of that.
    const COMMON: Duration = Duration::from_secs(2);

    /// The window is brought into 500 ms to 10 s, and the stall into 1 µs to the window, which is what
    /// the kernel takes.
    #[must_use]
    pub fn new(stall: Duration, window: Duration) -> Self {
        let window = window.clamp(Self::SHORTEST, Self::LONGEST);
        Self {
            stall: stall.clamp(Duration::from_micros(1), window),
            window,
        }
    }

    /// What everybody may have: the same share, of a window that is rounded up to 2 s.
    fn unprivileged(self) -> Self {
        let common = Self::COMMON.as_micros();
        let window = self.window.as_micros().div_ceil(common) * common;
        let stall = self.stall.as_micros() * window / self.window.as_micros();
        let duration = |micros| Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        Self::new(duration(stall), duration(window))
    }

    /// In percent of the window.
    fn share(self) -> f64 {
        100.0 * self.stall.as_secs_f64() / self.window.as_secs_f64()
    }
}

impl Default for StallTrigger {
    fn default() -> Self {
        Self::new(Duration::from_millis(150), Duration::from_secs(1))
    }
}

impl fmt::Display for StallTrigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stall, window) = (self.stall.as_micros(), self.window.as_micros());
        write!(f, "some {stall} {window}")
    }
}

/// Why the wait is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Woken {
    /// Tasks wait for memory, or the service manager says so.
    Stall,
    /// A [`StallWaker`] was told to.
    Called,
    /// The time is over.
    TimedOut,
}

/// Who tells that tasks wait for memory.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum StallSource {
    /// The file, FIFO or socket that the service manager names in `MEMORY_PRESSURE_WATCH`.
    Manager,
    /// The kernel, as soon as it sees it.
    Trigger,
    /// The average of 10 seconds, which is looked at every second while somebody waits.
    Average,
    /// Nobody, by order of the service manager: `MEMORY_PRESSURE_WATCH` is `/dev/null`.
    Off,
    /// Nobody: the system does not know.
    Unknown,
}

impl StallSource {
    /// Its name, in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Trigger => "trigger",
            Self::Average => "average",
            Self::Off => "off",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for StallSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Waits until tasks wait for memory. For a thread of its own.
///
/// By, in this order: systemd's protocol, `MEMORY_PRESSURE_WATCH`; a trigger of the kernel, for the
/// process's control group or else the machine; the average of 10 seconds, where the kernel refuses
/// the trigger. What fails while it is watched is replaced by what comes next.
///
/// It stays with the control group that the process was in when it was opened.
#[derive(Debug)]
pub struct StallWatch {
    source: Source,
    trigger: StallTrigger,
    /// The file of the process's group, or of the machine.
    pressure: PathBuf,
    bell: Arc<Bell>,
}

/// Ends the wait of a [`StallWatch`], from any thread.
///
/// A clone wakes the same.
#[derive(Clone, Debug)]
pub struct StallWaker(Arc<Bell>);

impl StallWaker {
    /// Ends the wait, or the next if nobody waits now. Calls that nobody has seen yet are one.
    pub fn wake(&self) {
        self.0.ring();
    }
}

#[derive(Debug)]
enum Source {
    #[cfg(target_os = "linux")]
    Manager(polled::Told),
    #[cfg(target_os = "linux")]
    Trigger(polled::Told),
    Average(Average),
    Off,
    Unknown,
}

impl StallWatch {
    /// Begins to watch. `environment` looks up variables: `std::env::var_os`.
    ///
    /// What cannot be watched is logged, and replaced by what comes next.
    #[must_use]
    pub fn open(
        system: &System,
        trigger: StallTrigger,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        Self::by(system, trigger, &environment, &arm)
    }

    fn by(
        system: &System,
        trigger: StallTrigger,
        environment: &dyn Fn(&str) -> Option<OsString>,
        arm: &Arm<'_>,
    ) -> Self {
        let bell = Bell::new();
        let pressure = system.pressure().to_owned();
        let source = match managed(system, environment) {
            Managed::Off => Source::Off,
            #[cfg(target_os = "linux")]
            Managed::Told(told) if bell.can_be_polled() => Source::Manager(told),
            _ => own(&pressure, trigger, &bell, arm),
        };
        let watch = Self {
            source,
            trigger,
            pressure,
            bell: Arc::new(bell),
        };
        tracing::debug!(source = %watch.source(), %trigger, "stalls are watched");
        watch
    }

    /// Who tells of them now.
    #[must_use]
    pub fn source(&self) -> StallSource {
        match self.source {
            #[cfg(target_os = "linux")]
            Source::Manager(_) => StallSource::Manager,
            #[cfg(target_os = "linux")]
            Source::Trigger(_) => StallSource::Trigger,
            Source::Average(_) => StallSource::Average,
            Source::Off => StallSource::Off,
            Source::Unknown => StallSource::Unknown,
        }
    }

    /// What ends a wait from outside.
    #[must_use]
    pub fn waker(&self) -> StallWaker {
        StallWaker(self.bell.clone())
    }

    /// Waits for a stall, a call or the end of the time. Of a stall and a call at once the call is
    /// left to the next wait. The kernel tells of a stall once in a window at most, and so does the
    /// average.
    ///
    /// It blocks the thread.
    pub fn wait(&mut self, timeout: Duration) -> Woken {
        let begun = Instant::now();
        loop {
            let passed = Instant::now().saturating_duration_since(begun);
            let left = timeout.saturating_sub(passed);
            let woken = match &mut self.source {
                #[cfg(target_os = "linux")]
                Source::Manager(told) | Source::Trigger(told) => {
                    match told.wait(&self.bell, left) {
                        Ok(woken) => woken,
                        Err(lost) => {
                            self.replace(&lost);
                            None
                        }
                    }
                }
                Source::Average(average) => average.wait(&self.bell, left),
                Source::Off | Source::Unknown => Some(self.bell.wait(left)),
            };
            if let Some(woken) = woken {
                return woken;
            }
        }
    }

    /// It is lost for good. What comes next never leads back to it.
    #[cfg(target_os = "linux")]
    fn replace(&mut self, lost: &str) {
        tracing::warn!(source = %self.source(), lost, "nobody tells of stalls there any longer");
        self.source = match self.source {
            Source::Manager(_) => own(&self.pressure, self.trigger, &self.bell, &arm),
            _ => average(&self.pressure, self.trigger),
        };
    }
}

/// What the service manager wants.
enum Managed {
    Nothing,
    Off,
    #[cfg(target_os = "linux")]
    Told(polled::Told),
}

fn managed(system: &System, environment: &dyn Fn(&str) -> Option<OsString>) -> Managed {
    const WATCH: &str = "MEMORY_PRESSURE_WATCH";
    const WRITE: &str = "MEMORY_PRESSURE_WRITE";
    let Some(watch) = environment(WATCH).filter(|watch| !watch.is_empty()) else {
        return Managed::Nothing;
    };
    if watch == "/dev/null" {
        return Managed::Off;
    }
    let ignored = |variable, value: &dyn fmt::Debug, error: &dyn fmt::Display| {
        tracing::warn!(variable, ?value, %error, "stalls are watched without the service manager");
        Managed::Nothing
    };
    let Ok(path) = Path::new(&watch).strip_prefix("/") else {
        return ignored(WATCH, &watch, &"it is no absolute path");
    };
    let words = match environment(WRITE) {
        None => Vec::new(),
        Some(words) => match words.to_str().and_then(decode) {
            Some(words) => words,
            None => return ignored(WRITE, &words, &"it is no Base64 of at most 4 KiB"),
        },
    };
    match told(&system.root.join(path), &words) {
        Ok(managed) => managed,
        Err(error) => ignored(WATCH, &watch, &error),
    }
}

#[cfg(target_os = "linux")]
fn told(path: &Path, words: &[u8]) -> io::Result<Managed> {
    polled::Told::open(path, words).map(Managed::Told)
}

#[cfg(not(target_os = "linux"))]
fn told(_path: &Path, _words: &[u8]) -> io::Result<Managed> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Base64, of what a service manager may have to say. None for what is none, or longer than 4 KiB.
fn decode(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if text.len() > 4 << 10 || text.len() % 4 != 0 {
        return None;
    }
    let digits = text.trim_end_matches('=');
    // Two at most, of which each stands for a byte less.
    let padding = text.len() - digits.len();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut value) = (0, 0_u32);
    for digit in digits.bytes() {
        let digit = ALPHABET.iter().position(|known| *known == digit)?;
        value = value << 6 | digit as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((value >> bits) as u8);
        }
    }
    (padding <= 2).then_some(bytes)
}

/// Has the kernel tell of stalls in a file: it is opened, and the trigger written.
type Arm<'a> = dyn Fn(&Path, StallTrigger) -> io::Result<File> + 'a;

fn arm(path: &Path, trigger: StallTrigger) -> io::Result<File> {
    use std::io::Write as _;

    let mut options = File::options();
    options.read(true).write(true);
    #[cfg(target_os = "linux")]
    polled::nonblocking(&mut options);
    let mut file = options.open(path)?;
    // In one piece. The kernel takes the last byte for the end, whatever it is.
    file.write_all(format!("{trigger}\0").as_bytes())?;
    Ok(file)
}

/// The kernel, if it may be asked, or else its average.
#[cfg(target_os = "linux")]
fn own(pressure: &Path, trigger: StallTrigger, bell: &Bell, arm: &Arm<'_>) -> Source {
    let common = trigger.unprivileged();
    // Who may not have any window is told so when the file is opened, or when the trigger is written.
    let armed = match arm(pressure, trigger) {
        Err(_) if common != trigger => arm(pressure, common),
        armed => armed,
    };
    match armed {
        Ok(file) if bell.can_be_polled() => Source::Trigger(polled::Told::by_kernel(file)),
        Ok(_) => average(pressure, trigger),
        Err(error) => {
            tracing::debug!(file = %pressure.display(), %trigger, %error, "no trigger for stalls");
            average(pressure, trigger)
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn own(pressure: &Path, trigger: StallTrigger, _bell: &Bell, _arm: &Arm<'_>) -> Source {
    average(pressure, trigger)
}

fn average(pressure: &Path, trigger: StallTrigger) -> Source {
    let mut file = KernelFile::new(pressure.to_owned());
    match file.parse(Stall::parse) {
        Err(Fault::Absent) => Source::Unknown,
        _ => Source::Average(Average {
            file,
            share: trigger.share(),
            window: trigger.window,
            told: None,
        }),
    }
}

/// Looks at the average.
#[derive(Debug)]
struct Average {
    file: KernelFile,
    /// From there on it is a stall, in percent.
    share: f64,
    window: Duration,
    /// When it was told of last.
    told: Option<Instant>,
}

/// The kernel has another average every 2 seconds.
const LOOK: Duration = Duration::from_secs(1);

impl Average {
    fn wait(&mut self, bell: &Bell, left: Duration) -> Option<Woken> {
        match bell.wait(left.min(LOOK)) {
            Woken::TimedOut => {}
            woken => return Some(woken),
        }
        if self.is_stall(Instant::now()) {
            return Some(Woken::Stall);
        }
        (left <= LOOK).then_some(Woken::TimedOut)
    }

    fn is_stall(&mut self, now: Instant) -> bool {
        let told = self
            .told
            .is_some_and(|told| now.saturating_duration_since(told) < self.window);
        let average = self.file.parse(Stall::parse);
        let stalls = !told && average.is_ok_and(|stall| stall.some_avg10 >= self.share);
        if stalls {
            self.told = Some(now);
        }
        stalls
    }
}

/// What a thread that waits for files can hear as well.
#[derive(Debug)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
    #[cfg(target_os = "linux")]
    event: Option<polled::Event>,
}

impl Bell {
    fn new() -> Self {
        Self {
            rung: Mutex::new(false),
            heard: Condvar::new(),
            #[cfg(target_os = "linux")]
            event: polled::Event::new(),
        }
    }

    /// Not if the process had no descriptor left for it.
    #[cfg(target_os = "linux")]
    fn can_be_polled(&self) -> bool {
        self.event.is_some()
    }

    fn ring(&self) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        *rung = true;
        self.heard.notify_all();
        // Under the lock, so that it is raised whenever this was rung, and at no other time.
        #[cfg(target_os = "linux")]
        if let Some(event) = &self.event {
            event.raise();
        }
    }

    /// Without any file.
    fn wait(&self, timeout: Duration) -> Woken {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.heard.wait_timeout_while(rung, timeout, |rung| !*rung);
        drop(waited);
        self.was_rung().unwrap_or(Woken::TimedOut)
    }

    fn was_rung(&self) -> Option<Woken> {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let was = std::mem::take(&mut *rung);
        #[cfg(target_os = "linux")]
        if let Some(event) = self.event.as_ref().filter(|_| was) {
            event.lower();
        }
        was.then_some(Woken::Called)
    }
}

/// What is waited for by descriptor.
#[cfg(target_os = "linux")]
mod polled {
    use super::{Bell, Woken};
    use rustix::{
        event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
        fs::OFlags,
        io::{Errno, read, write},
    };
    use std::{
        fs::{self, File, OpenOptions},
        io::{self, Write as _},
        os::{
            fd::OwnedFd,
            unix::{
                fs::{FileTypeExt as _, OpenOptionsExt as _},
                net::UnixStream,
            },
        },
        path::Path,
        time::Duration,
    };

    pub(super) fn nonblocking(options: &mut OpenOptions) {
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    }

    /// Somebody who says so when there is a stall.
    #[derive(Debug)]
    pub(super) struct Told {
        descriptor: OwnedFd,
        /// The kernel's file, which is never read from; otherwise what comes is thrown away.
        kernel: bool,
    }

    impl Told {
        pub(super) fn by_kernel(file: File) -> Self {
            Self {
                descriptor: file.into(),
                kernel: true,
            }
        }

        /// What systemd's protocol names, after it was told what to look for.
        pub(super) fn open(path: &Path, words: &[u8]) -> io::Result<Self> {
            let kind = fs::metadata(path)?.file_type();
            if kind.is_socket() {
                let mut socket = UnixStream::connect(path)?;
                socket.set_nonblocking(true)?;
                socket.write_all(words)?;
                return Ok(Self {
                    descriptor: socket.into(),
                    kernel: false,
                });
            }
            let mut options = OpenOptions::new();
            // Who can write to a FIFO as well keeps it open when others come and go.
            let both = kind.is_fifo() || !words.is_empty();
            nonblocking(options.read(true).write(both));
            let mut file = options.open(path)?;
            if !words.is_empty() {
                file.write_all(words)?;
            }
            Ok(Self {
                descriptor: file.into(),
                kernel: kind.is_file(),
            })
        }

        /// None if it was for nothing. An error, in words, if nobody will say anything there any more.
        pub(super) fn wait(
            &mut self,
            bell: &Bell,
            left: Duration,
        ) -> Result<Option<Woken>, String> {
            let Some(event) = &bell.event else {
                return Ok(Some(bell.wait(left)));
            };
            let wanted = match self.kernel {
                true => PollFlags::PRI,
                false => PollFlags::IN,
            };
            let mut polled = [
                PollFd::new(&self.descriptor, wanted),
                PollFd::new(&event.0, PollFlags::IN),
            ];
            let timeout = Timespec::try_from(left).ok();
            match poll(&mut polled, timeout.as_ref()) {
                Ok(0) => return Ok(Some(Woken::TimedOut)),
                Ok(_) => {}
                Err(Errno::INTR) => return Ok(None),
                Err(error) => return Err(error.to_string()),
            }
            let seen = polled.each_ref().map(PollFd::revents);
            if seen[0].intersects(PollFlags::ERR | PollFlags::NVAL) {
                return Err("it is out of order".to_owned());
            }
            if seen[0].contains(wanted) {
                if !self.kernel {
                    self.discard()?;
                }
                return Ok(Some(Woken::Stall));
            }
            if seen[0].contains(PollFlags::HUP) {
                return Err("it was closed".to_owned());
            }
            Ok(bell.was_rung())
        }

        /// Throws away what was said. A part of it is enough: it wakes again.
        fn discard(&self) -> Result<(), String> {
            match read(&self.descriptor, &mut [0_u8; 4 << 10]) {
                Ok(0) => Err("it was closed".to_owned()),
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        }
    }

    /// A bell that can be waited for beside files.
    #[derive(Debug)]
    pub(super) struct Event(OwnedFd);

    impl Event {
        pub(super) fn new() -> Option<Self> {
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
            event.ok().map(Self)
        }

        pub(super) fn raise(&self) {
            // It fails when it was raised 2⁶⁴ times, and nobody looked.
            let _ = write(&self.0, &1_u64.to_ne_bytes());
        }

        pub(super) fn lower(&self) {
            let _ = read(&self.0, &mut [0_u8; 8]);
        }
    }
}
