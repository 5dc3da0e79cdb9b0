use super::{
    System,
    file::{Fault, KernelFile},
    polled::{Event, Told, nonblocking},
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
    Manager(Told),
    Trigger(Told),
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
            Source::Manager(_) => StallSource::Manager,
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
    Told(Told),
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
    match Told::open(&system.root.join(path), &words) {
        Ok(told) => Managed::Told(told),
        Err(error) => ignored(WATCH, &watch, &error),
    }
}

/// Base64, of what a service manager may have to say. None for what is none, or longer than 4 KiB.
fn decode(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if text.len() > 4 << 10 || !text.len().is_multiple_of(4) {
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
    nonblocking(&mut options);
    let mut file = options.open(path)?;
    // In one piece. The kernel takes the last byte for the end, whatever it is.
    file.write_all(format!("{trigger}\0").as_bytes())?;
    Ok(file)
}

/// The kernel, if it may be asked, or else its average.
fn own(pressure: &Path, trigger: StallTrigger, bell: &Bell, arm: &Arm<'_>) -> Source {
    if !bell.can_be_polled() {
        return average(pressure, trigger);
    }
    let common = trigger.unprivileged();
    // Who may not have any window is told so when the file is opened, or when the trigger is written.
    let armed = match arm(pressure, trigger) {
        Err(_) if common != trigger => arm(pressure, common),
        armed => armed,
    };
    match armed.and_then(Told::by_kernel) {
        Ok(told) => Source::Trigger(told),
        Err(error) => {
            tracing::debug!(file = %pressure.display(), %trigger, %error, "no trigger for stalls");
            average(pressure, trigger)
        }
    }
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
pub(super) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
    pub(super) event: Option<Event>,
}

impl Bell {
    fn new() -> Self {
        Self {
            rung: Mutex::new(false),
            heard: Condvar::new(),
            event: Event::new(),
        }
    }

    /// Not if the process had no descriptor left for it.
    fn can_be_polled(&self) -> bool {
        self.event.is_some()
    }

    fn ring(&self) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        *rung = true;
        self.heard.notify_all();
        // Under the lock, so that it is raised whenever this was rung, and at no other time.
        if let Some(event) = &self.event {
            event.raise();
        }
    }

    /// Without any file.
    pub(super) fn wait(&self, timeout: Duration) -> Woken {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.heard.wait_timeout_while(rung, timeout, |rung| !*rung);
        drop(waited);
        self.was_rung().unwrap_or(Woken::TimedOut)
    }

    pub(super) fn was_rung(&self) -> Option<Woken> {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let was = std::mem::take(&mut *rung);
        if let Some(event) = self.event.as_ref().filter(|_| was) {
            event.lower();
        }
        was.then_some(Woken::Called)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fixture::Fixture;

    const PRESSURE: &str = "proc/pressure/memory";

    fn stalled(percent: &str) -> String {
        format!("some avg10={percent} avg60=0.50 avg300=0.10 total=12345\n")
    }

    /// A machine that tells of stalls.
    fn machine(percent: &str) -> Fixture {
        let fixture = Fixture::new();
        fixture.write(PRESSURE, &stalled(percent));
        fixture
    }

    fn nothing(_: &str) -> Option<OsString> {
        None
    }

    /// The environment of a service that is to watch a file, and to write something to it.
    fn service(
        watch: &'static str,
        write: Option<&'static str>,
    ) -> impl Fn(&str) -> Option<OsString> {
        move |name| match name {
            "MEMORY_PRESSURE_WATCH" => Some(watch.into()),
            "MEMORY_PRESSURE_WRITE" => write.map(Into::into),
            _ => None,
        }
    }

    fn open(fixture: &Fixture, environment: impl Fn(&str) -> Option<OsString>) -> StallWatch {
        StallWatch::open(
            &System::at(fixture.root()),
            StallTrigger::default(),
            environment,
        )
    }

    /// Watches the average, since the kernel refuses.
    fn refused(fixture: &Fixture, trigger: StallTrigger) -> StallWatch {
        let system = System::at(fixture.root());
        let refuse = |_: &Path, _| Err(io::ErrorKind::PermissionDenied.into());
        StallWatch::by(&system, trigger, &nothing, &refuse)
    }

    const SHORT: Duration = Duration::from_millis(1);
    /// Nobody waits for so long, since something comes before.
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn stalls_are_read_as_the_kernel_writes_them() {
        let some = "some avg10=1.25 avg60=0.50 avg300=0.10 total=12345";
        let stall = Stall::parse(some).unwrap();
        assert_eq!(stall.some_avg10, 1.25);
        assert_eq!(stall.some_total, Duration::from_micros(12_345));
        assert_eq!((stall.full_avg10, stall.full_total), (0.0, Duration::ZERO));

        let full = "full avg10=100.00 avg60=0.00 avg300=0.00 total=7";
        let stall = Stall::parse(&format!("{some}\n{full}\n")).unwrap();
        assert_eq!(stall.full_avg10, 100.0);
        assert_eq!(stall.full_total, Duration::from_micros(7));
        for odd in [
            "",
            full,
            "some",
            "some avg10=1.25",
            "some avg10=x total=1",
            "some avg10=NaN total=1",
            "some avg10=-1.0 total=1",
            "some avg10=100.01 total=1",
            "some avg10=1.25 total=-1",
            "someavg10=1.25 total=1",
        ] {
            assert_eq!(Stall::parse(odd), None, "{odd}");
        }
    }

    fn trigger(stall: u64, window: u64) -> StallTrigger {
        StallTrigger::new(Duration::from_millis(stall), Duration::from_millis(window))
    }

    #[test]
    fn trigger_is_what_the_kernel_takes() {
        assert_eq!(StallTrigger::default().to_string(), "some 150000 1000000");
        for (stall, window, expected) in [
            (70, 700, "some 70000 700000"),
            (0, 1_000, "some 1 1000000"),
            (9_000, 1_000, "some 1000000 1000000"),
            (1, 1, "some 1000 500000"),
            (900, 60_000, "some 900000 10000000"),
        ] {
            assert_eq!(trigger(stall, window).to_string(), expected);
        }
    }

    #[test]
    fn window_that_everybody_may_have_is_whole_two_seconds_of_the_same_share() {
        for (stall, window, expected) in [
            (150, 1_000, "some 300000 2000000"),
            (50, 500, "some 200000 2000000"),
            (150, 2_000, "some 150000 2000000"),
            (600, 2_001, "some 1199400 4000000"),
            (900, 9_000, "some 1000000 10000000"),
            (900, 10_000, "some 900000 10000000"),
        ] {
            assert_eq!(trigger(stall, window).unprivileged().to_string(), expected);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn kernel_is_told_what_to_look_for() {
        let fixture = machine("0.00");
        let mut watch = open(&fixture, nothing);
        assert_eq!(watch.source(), StallSource::Trigger);
        let written = std::fs::read_to_string(fixture.path(PRESSURE)).unwrap();
        assert!(written.starts_with("some 150000 1000000\0"), "{written:?}");
        assert_eq!(watch.wait(SHORT), Woken::TimedOut);
        watch.waker().wake();
        assert_eq!(watch.wait(LONG), Woken::Called);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn window_that_is_refused_is_tried_as_everybody_may_have_it() {
        let fixture = machine("0.00");
        let system = System::at(fixture.root());
        let arm = |path: &Path, trigger: StallTrigger| match trigger.to_string().as_str() {
            "some 300000 2000000" => File::open(path),
            _ => Err(io::Error::from_raw_os_error(22)),
        };
        let watch = StallWatch::by(&system, StallTrigger::default(), &nothing, &arm);
        assert_eq!(watch.source(), StallSource::Trigger);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn average_is_watched_where_the_kernel_refuses() {
        use rustix::io::Errno;

        let fixture = machine("15.00");
        let system = System::at(fixture.root());
        for refusal in [
            Errno::BUSY,
            Errno::PERM,
            Errno::NOENT,
            Errno::INVAL,
            Errno::OPNOTSUPP,
        ] {
            let arm = |_: &Path, _| Err(refusal.into());
            let mut watch = StallWatch::by(&system, StallTrigger::default(), &nothing, &arm);
            assert_eq!(watch.source(), StallSource::Average, "{refusal}");
            assert_eq!(watch.wait(SHORT), Woken::Stall);
        }
    }

    #[test]
    fn average_is_a_stall_from_the_share_on_and_once_in_a_window() {
        let fixture = machine("14.99");
        let mut watch = refused(&fixture, StallTrigger::default());
        let Source::Average(average) = &mut watch.source else {
            panic!("{:?}", watch.source);
        };
        let start = Instant::now();
        let mut is_stall = |millis| average.is_stall(start + Duration::from_millis(millis));
        assert!(!is_stall(0));
        fixture.write(PRESSURE, &stalled("15.00"));
        assert!(is_stall(1));
        assert!(!is_stall(500));
        assert!(!is_stall(1_000));
        assert!(is_stall(1_001));
        fixture.write(PRESSURE, "some avg10=cut o");
        assert!(!is_stall(3_000));
        fixture.write(PRESSURE, &stalled("99.00"));
        assert!(is_stall(3_001));
        // Time does not go back, but if it did, nobody would be hurt.
        assert!(!is_stall(0));
    }

    #[test]
    fn nobody_tells_where_nothing_is_known() {
        let fixture = Fixture::new();
        let mut watch = open(&fixture, nothing);
        assert_eq!(watch.source(), StallSource::Unknown);
        assert_eq!(watch.wait(SHORT), Woken::TimedOut);
        watch.waker().wake();
        assert_eq!(watch.wait(LONG), Woken::Called);
    }

    #[test]
    fn service_manager_can_switch_it_off() {
        let fixture = machine("99.00");
        let mut watch = open(&fixture, service("/dev/null", Some("!")));
        assert_eq!(watch.source(), StallSource::Off);
        assert_eq!(watch.wait(SHORT), Woken::TimedOut);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn service_manager_that_cannot_be_understood_is_passed_over() {
        let fixture = machine("0.00");
        fixture.write("run/pressure", "");
        for (watch, write) in [
            ("", None),
            ("run/pressure", None),
            ("/run/nothing", None),
            ("/run/pressure", Some("no Base64!")),
            ("/run", Some("c29tZQ==")),
        ] {
            let source = open(&fixture, service(watch, write)).source();
            assert_eq!(source, StallSource::Trigger, "{watch} {write:?}");
        }
        assert_eq!(std::fs::read(fixture.path("run/pressure")).unwrap(), b"");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn file_of_the_service_manager_is_written_to_and_never_read() {
        let fixture = machine("99.00");
        fixture.write("run/pressure", "");
        // With the zero that systemd has at the end.
        let words = Some("c29tZSAyMDAwMDAgMjAwMDAwMAA=");
        let mut watch = open(&fixture, service("/run/pressure", words));
        assert_eq!(watch.source(), StallSource::Manager);
        let written = std::fs::read(fixture.path("run/pressure")).unwrap();
        assert_eq!(written, b"some 200000 2000000\0");
        // There is something to read, which is no news.
        assert_eq!(watch.wait(SHORT), Woken::TimedOut);
        watch.waker().wake();
        assert_eq!(watch.wait(LONG), Woken::Called);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn fifo_of_the_service_manager_wakes_whenever_something_comes() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        use std::io::Write as _;

        let fixture = machine("0.00");
        let path = fixture.path("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let mut watch = open(&fixture, service("/fifo", None));
        assert_eq!(watch.source(), StallSource::Manager);
        assert_eq!(watch.wait(SHORT), Woken::TimedOut);
        for _ in 0..2 {
            let mut manager = File::options().write(true).open(&path).unwrap();
            manager.write_all(b"a lot").unwrap();
            assert_eq!(watch.wait(LONG), Woken::Stall);
            assert_eq!(watch.wait(SHORT), Woken::TimedOut);
            // That others come and go does not end it.
            drop(manager);
            assert_eq!(watch.wait(SHORT), Woken::TimedOut);
        }
        watch.waker().wake();
        assert_eq!(watch.wait(LONG), Woken::Called);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn socket_of_the_service_manager_wakes_until_it_is_closed() {
        use std::{
            io::{Read as _, Write as _},
            os::unix::net::UnixListener,
        };

        let fixture = machine("0.00");
        let listener = UnixListener::bind(fixture.path("socket")).unwrap();
        let mut watch = open(&fixture, service("/socket", Some("aGVsbG8=")));
        assert_eq!(watch.source(), StallSource::Manager);
        let (mut manager, _) = listener.accept().unwrap();
        let mut words = [0; 5];
        manager.read_exact(&mut words).unwrap();
        assert_eq!(&words, b"hello");

        manager.write_all(&[0; 10_000]).unwrap();
        assert_eq!(watch.wait(LONG), Woken::Stall);
        while watch.wait(SHORT) == Woken::Stall {}
        assert_eq!(watch.source(), StallSource::Manager);
        drop(manager);
        assert_eq!(watch.wait(SHORT), Woken::TimedOut);
        assert_eq!(watch.source(), StallSource::Trigger);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn stall_comes_before_a_call_which_is_left() {
        use std::{io::Write as _, os::unix::net::UnixListener};

        let fixture = machine("0.00");
        let listener = UnixListener::bind(fixture.path("socket")).unwrap();
        let mut watch = open(&fixture, service("/socket", None));
        let (mut manager, _) = listener.accept().unwrap();
        manager.write_all(b"!").unwrap();
        watch.waker().wake();
        assert_eq!(watch.wait(LONG), Woken::Stall);
        assert_eq!(watch.wait(LONG), Woken::Called);
        assert_eq!(watch.wait(SHORT), Woken::TimedOut);
    }

    #[test]
    fn wait_is_ended_from_any_thread_and_calls_are_one() {
        let unknown = Fixture::new();
        let triggered = machine("0.00");
        for mut watch in [
            open(&unknown, nothing),
            open(&triggered, nothing),
            refused(&machine("0.00"), StallTrigger::default()),
        ] {
            let waker = watch.waker();
            let caller = std::thread::spawn(move || waker.wake());
            assert_eq!(watch.wait(LONG), Woken::Called);
            caller.join().unwrap();
            assert_eq!(watch.wait(SHORT), Woken::TimedOut);
            let waker = watch.waker();
            waker.wake();
            waker.clone().wake();
            assert_eq!(watch.wait(LONG), Woken::Called);
            assert_eq!(watch.wait(Duration::ZERO), Woken::TimedOut);
        }
    }

    #[test]
    fn base64_is_decoded_or_nothing_is() {
        for (text, expected) in [
            ("", Some("")),
            ("YQ==", Some("a")),
            ("YWI=", Some("ab")),
            ("YWJj", Some("abc")),
            ("Pz8/Pj4+", Some("???>>>")),
            ("YWJjZA==", Some("abcd")),
            ("YQ", None),
            ("YQ=", None),
            ("Y===", None),
            ("====", None),
            ("Y=Q=", None),
            ("YW j", None),
            ("YWJj\n", None),
            ("Pz8_", None),
        ] {
            let expected = expected.map(|text| text.as_bytes().to_vec());
            assert_eq!(decode(text), expected, "{text:?}");
        }
        assert_eq!(decode(&"AAAA".repeat(1 << 10)).unwrap().len(), 3 << 10);
        assert_eq!(decode(&"AAAA".repeat((1 << 10) + 1)), None);
    }
}
