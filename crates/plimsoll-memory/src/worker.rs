//! A thread that does what may never come back, and its replacement if it does not.

use crate::{Alert, AlertKind, Alerts, ReclaimError, Severity};
use plimsoll_core::Name;
use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};
use tokio::time::Instant;

/// Whoever takes longer than that is left behind.
pub(crate) const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(10);
/// So many may be at a time.
pub(crate) const MOST_LEFT_BEHIND: usize = 4;
/// When it is tried again to have a thread, first and at the latest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What a [`Worker`] does when it is asked.
pub(crate) trait Job: Send + Sync + Sized + 'static {
    type Ask: Send + 'static;
    type Done: Send + Sync + 'static;
    /// What is added up of all that was done.
    type Sum: Clone + Default + Send + 'static;

    /// The name of its threads.
    const THREAD: &'static str;
    /// When somebody did not come back, to follow "it did not come back when".
    const WHEN: &'static str;
    /// What comes of it when too many do not.
    const STOPS: &'static str;

    /// Does it. Foreign code is called in its [turn](Progress::turn), and caught.
    fn run(&self, ask: &Self::Ask, progress: &Progress<'_, Self>) -> Self::Done;

    fn add(sum: &mut Self::Sum, done: &Self::Done);
}

/// Does one thing after the other, on a thread of its own.
pub(crate) struct Worker<J: Job> {
    job: J,
    state: Mutex<State<J>>,
    /// Tells the thread of work, and whoever waits of its end.
    changed: Condvar,
    spawn: Spawn,
}

/// Starts a thread. In tests there may be none.
type Spawn = Box<dyn Fn(Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync>;

struct State<J: Job> {
    /// The thread that does the work. Those before it were left behind.
    thread: u64,
    /// Since there is no such thread: when it is tried to have one.
    missing: Option<Missing>,
    /// What is to be done next.
    next: Option<(u64, J::Ask)>,
    tickets: u64,
    running: Option<Running>,
    last: Option<(u64, Arc<J::Done>)>,
    /// The ticket of what ended last by a panic.
    panicked: Option<u64>,
    /// Threads that were left behind, and at what.
    left_behind: Vec<(u64, Name)>,
    /// Those who came back and were not told of yet.
    came_back: Vec<Name>,
    stats: WorkerStats<J::Sum>,
    closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    ticket: u64,
    /// At what, and since when.
    at: Option<(Name, Instant)>,
    /// Whether it was told that it cannot be left behind.
    is_told: bool,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    next_try: Instant,
    wait: Duration,
    is_told: bool,
}

/// What the worker has done in all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct WorkerStats<S> {
    pub(crate) runs: u64,
    pub(crate) sum: S,
    pub(crate) left_behind: u64,
}

/// What has come of a [look](Worker::watch) at the worker.
#[derive(Debug)]
pub(crate) enum Watched {
    /// Its thread was left behind at that one, and there is another.
    LeftBehind(Name),
    /// So many are left behind that no more can be: it is stuck at that one.
    Stuck(Name),
    /// One that was left behind.
    CameBack(Name),
    /// There is no thread for it, which is tried again.
    NoThread(io::Error),
    /// There is one again.
    HasThread,
}

/// Where a thread has got to.
#[derive(Debug)]
pub(crate) struct Progress<'a, J: Job> {
    worker: &'a Worker<J>,
    thread: u64,
}

/// While it lives, somebody has the turn.
#[derive(Debug)]
pub(crate) struct Turn<'a, J: Job> {
    worker: &'a Worker<J>,
    thread: u64,
}

// === impl Worker ===

impl<J: Job> Worker<J> {
    /// Starts the thread.
    pub(crate) fn start(job: J) -> io::Result<Arc<Self>> {
        Self::start_with(
            job,
            Box::new(|work| {
                let thread = thread::Builder::new().name(J::THREAD.into());
                thread.spawn(work).map(drop)
            }),
        )
    }

    pub(crate) fn start_with(job: J, spawn: Spawn) -> io::Result<Arc<Self>> {
        let worker = Arc::new(Self {
            job,
            state: Mutex::new(State {
                thread: 0,
                missing: None,
                next: None,
                tickets: 0,
                running: None,
                last: None,
                panicked: None,
                left_behind: Vec::new(),
                came_back: Vec::new(),
                stats: WorkerStats::default(),
                closed: false,
            }),
            changed: Condvar::new(),
            spawn,
        });
        worker.spawn(0)?;
        Ok(worker)
    }

    fn spawn(self: &Arc<Self>, number: u64) -> io::Result<()> {
        let worker = self.clone();
        (self.spawn)(Box::new(move || worker.work(number)))
    }

    /// Has it done, unless the thread is at something already, or there is none.
    pub(crate) fn submit(&self, ask: J::Ask) -> Option<u64> {
        let mut state = self.lock();
        if state.closed || !state.is_free() {
            return None;
        }
        let ticket = state.submit(ask);
        drop(state);
        self.changed.notify_all();
        Some(ticket)
    }

    /// Has it done, and waits until that is so.
    pub(crate) fn run(&self, ask: J::Ask, wait: Duration) -> Result<Arc<J::Done>, ReclaimError> {
        let until = Instant::now() + wait.min(Duration::from_secs(86_400));
        let mut ask = Some(ask);
        let mut mine = None;
        let mut state = self.lock();
        loop {
            if let (Some(mine), Some((number, done))) = (mine, &state.last)
                && *number >= mine
            {
                return Ok(done.clone());
            }
            if mine.is_some() && state.panicked >= mine {
                return Err(ReclaimError::Panicked);
            }
            if state.closed {
                return Err(ReclaimError::Stopped);
            }
            if state.is_free()
                && let Some(ask) = ask.take()
            {
                mine = Some(state.submit(ask));
                self.changed.notify_all();
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ReclaimError::TimedOut);
            }
            let waited = self.changed.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What was done last, with its number.
    pub(crate) fn last(&self) -> Option<(u64, Arc<J::Done>)> {
        self.lock().last.clone()
    }

    pub(crate) fn stats(&self) -> WorkerStats<J::Sum> {
        self.lock().stats.clone()
    }

    /// Whom it is at since longer than `after`, and those who are left behind.
    pub(crate) fn silent(&self, now: Instant, after: Duration) -> Vec<Name> {
        let state = self.lock();
        let left = state.left_behind.iter().map(|(_, name)| *name);
        left.chain(state.late(now, after)).collect()
    }

    /// Leaves the thread behind if it has been at one thing for too long, and has another started, now or
    /// later if there is none now. Everything is told once. To be called now and then, by one thread.
    pub(crate) fn watch(self: &Arc<Self>, now: Instant) -> Vec<Watched> {
        let mut state = self.lock();
        let mut seen: Vec<_> = state.came_back.drain(..).map(Watched::CameBack).collect();
        if let Some(name) = state.late(now, LEFT_BEHIND_AFTER) {
            seen.extend(state.leave_behind(name, now));
        }
        let missing = state.missing.filter(|missing| now >= missing.next_try);
        let Some(missing) = missing.filter(|_| !state.closed) else {
            return seen;
        };
        let number = state.thread;
        drop(state);
        let spawned = self.spawn(number);
        self.lock().missing = spawned.is_err().then(|| Missing {
            next_try: now + missing.wait,
            wait: (missing.wait * 2).min(LAST_RETRY),
            is_told: true,
        });
        match spawned {
            Ok(()) => {
                // Whoever waits may submit now.
                self.changed.notify_all();
                seen.extend(missing.is_told.then_some(Watched::HasThread));
            }
            Err(error) => seen.extend((!missing.is_told).then_some(Watched::NoThread(error))),
        }
        seen
    }

    /// Tells what came of a look.
    pub(crate) fn tell(seen: &[Watched], alerts: &Alerts) {
        let raise = |severity, name, text| {
            alerts.raise(&Alert::new(AlertKind::LeftBehind, severity, text).about(name));
        };
        let (when, stops) = (J::WHEN, J::STOPS);
        for seen in seen {
            match seen {
                Watched::LeftBehind(name) => {
                    let text = format!("{name} did not come back when {when}, and is left out");
                    raise(Severity::Warning, *name, text);
                }
                Watched::Stuck(name) => {
                    let text = format!(
                        "{name} did not come back when {when}, as {MOST_LEFT_BEHIND} others: {stops}"
                    );
                    raise(Severity::Critical, *name, text);
                }
                Watched::CameBack(name) => {
                    let text = format!("{name} has come back, and is no longer left out");
                    raise(Severity::Info, *name, text);
                }
                Watched::NoThread(error) => {
                    let thread = J::THREAD;
                    tracing::error!(%error, thread, "there is no thread, so {stops}: it is tried again");
                }
                Watched::HasThread => tracing::info!(thread = J::THREAD, "there is a thread again"),
            }
        }
    }

    /// Ends the thread, once it has come back.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn work(&self, thread: u64) {
        loop {
            let mut state = self.lock();
            let ask = loop {
                if state.closed || state.thread != thread {
                    return;
                }
                if let Some((ticket, ask)) = state.next.take() {
                    state.running = Some(Running {
                        ticket,
                        at: None,
                        is_told: false,
                    });
                    break ask;
                }
                let waited = self.changed.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            let progress = Progress {
                worker: self,
                thread,
            };
            // Foreign code is caught where it is called; this is for what is not foreign.
            let done = catch_unwind(AssertUnwindSafe(|| self.job.run(&ask, &progress)));
            // What was thrown may throw again.
            let done = done.map_err(|panic| catch_unwind(AssertUnwindSafe(|| drop(panic))));
            let mut state = self.lock();
            if state.thread != thread {
                state.come_back(thread);
                return;
            }
            let Some(running) = state.running.take() else {
                return;
            };
            match done {
                Ok(done) => {
                    state.stats.runs += 1;
                    J::add(&mut state.stats.sum, &done);
                    state.last = Some((running.ticket, Arc::new(done)));
                }
                Err(_) => {
                    state.panicked = Some(running.ticket);
                    tracing::error!(thread = J::THREAD, "it panicked, and goes on");
                }
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl<J: Job> Worker<J> {
    /// Whether it is at something, or will be.
    pub(crate) fn is_busy(&self) -> bool {
        !self.lock().is_free()
    }

    /// Since when it is at somebody.
    pub(crate) fn since(&self) -> Option<Instant> {
        Some(self.lock().running?.at?.1)
    }
}

// === impl State ===

impl<J: Job> State<J> {
    const fn is_free(&self) -> bool {
        self.next.is_none() && self.running.is_none() && self.missing.is_none()
    }

    fn submit(&mut self, ask: J::Ask) -> u64 {
        self.tickets += 1;
        self.next = Some((self.tickets, ask));
        self.tickets
    }

    /// Whom the thread is at since longer than `after`.
    fn late(&self, now: Instant, after: Duration) -> Option<Name> {
        let (name, since) = self.running?.at?;
        (now.saturating_duration_since(since) > after).then_some(name)
    }

    fn leave_behind(&mut self, name: Name, now: Instant) -> Option<Watched> {
        if self.left_behind.len() >= MOST_LEFT_BEHIND {
            let running = self.running.as_mut()?;
            let is_told = std::mem::replace(&mut running.is_told, true);
            return (!is_told).then_some(Watched::Stuck(name));
        }
        self.left_behind.push((self.thread, name));
        self.stats.left_behind += 1;
        self.thread += 1;
        self.running = None;
        self.missing = Some(Missing {
            next_try: now,
            wait: FIRST_RETRY,
            is_told: false,
        });
        Some(Watched::LeftBehind(name))
    }

    fn come_back(&mut self, thread: u64) {
        let place = self
            .left_behind
            .iter()
            .position(|(left, _)| *left == thread);
        // Nobody is left behind but by the one who takes these away, so that there are as few of them.
        self.came_back
            .extend(place.map(|place| self.left_behind.swap_remove(place).1));
    }
}

// === impl Progress, Turn ===

impl<'a, J: Job> Progress<'a, J> {
    /// Whose turn it is now. None for somebody who is left out, and for all if the thread was left
    /// behind.
    pub(crate) fn turn(&self, name: Name) -> Option<Turn<'a, J>> {
        let Self { worker, thread } = *self;
        let mut state = worker.lock();
        let is_left_out = state.left_behind.iter().any(|(_, left)| *left == name);
        if is_left_out || state.closed || state.thread != thread {
            return None;
        }
        if let Some(running) = &mut state.running {
            running.at = Some((name, Instant::now()));
            running.is_told = false;
        }
        Some(Turn { worker, thread })
    }
}

impl<J: Job> Drop for Turn<'_, J> {
    fn drop(&mut self) {
        let mut state = self.worker.lock();
        if state.thread == self.thread
            && let Some(running) = &mut state.running
            && let Some((name, _)) = running.at.take()
            && running.is_told
        {
            state.came_back.push(name);
        }
    }
}

impl<J: Job> fmt::Debug for Worker<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("thread", &J::THREAD)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::script::{WAIT, until};
    use std::{
        collections::HashSet,
        sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    };

    const SECOND: Duration = Duration::from_secs(1);
    const FINE: &str = "fine";
    const PANICS: &str = "panics";

    /// Waits for those who are shut in its turn, and says whether it had one.
    #[derive(Clone, Default)]
    struct Doors(Arc<(Mutex<HashSet<&'static str>>, Condvar)>);

    impl Doors {
        fn shut(&self, name: &'static str) {
            self.0.0.lock().unwrap().insert(name);
        }

        fn open(&self, name: &'static str) {
            self.0.0.lock().unwrap().remove(name);
            self.0.1.notify_all();
        }
    }

    impl Job for Doors {
        type Ask = &'static str;
        type Done = bool;
        type Sum = u64;

        const THREAD: &'static str = "doors";
        const WHEN: &'static str = "it was told to";
        const STOPS: &'static str = "nothing is done";

        fn run(&self, name: &&'static str, progress: &Progress<'_, Self>) -> bool {
            assert_ne!(*name, PANICS);
            let turn = progress.turn(Name::from_static(name));
            let shut = self.0.0.lock().unwrap();
            let is_shut = |shut: &mut HashSet<_>| turn.is_some() && shut.contains(name);
            drop(self.0.1.wait_while(shut, is_shut).unwrap());
            turn.is_some()
        }

        fn add(sum: &mut u64, had_turn: &bool) {
            *sum += u64::from(*had_turn);
        }
    }

    fn shown(seen: &[Watched]) -> Vec<String> {
        let shown = seen.iter().map(|seen| match seen {
            Watched::NoThread(_) => "NoThread".to_owned(),
            seen => format!("{seen:?}").replace('"', ""),
        });
        shown.collect()
    }

    /// Has it hang at somebody. Returns when it is late.
    fn hang(worker: &Worker<Doors>, name: &'static str) -> Instant {
        worker.job.shut(name);
        assert!(worker.submit(name).is_some());
        until(|| worker.since().is_some());
        worker.since().unwrap() + LEFT_BEHIND_AFTER + SECOND
    }

    #[test]
    fn where_there_is_no_thread_it_is_tried_again_less_and_less_often_and_told_once() {
        let (tries, fails) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let spawn: Spawn = Box::new({
            let (tries, fails) = (tries.clone(), fails.clone());
            move |work| {
                tries.fetch_add(1, Relaxed);
                if fails.load(Relaxed) {
                    return Err(io::Error::from(io::ErrorKind::WouldBlock));
                }
                thread::spawn(work);
                Ok(())
            }
        });
        let worker = Worker::start_with(Doors::default(), spawn).unwrap();
        let late = hang(&worker, "stuck");
        fails.store(true, Relaxed);
        let seen = shown(&worker.watch(late));
        assert_eq!(seen, ["LeftBehind(stuck)", "NoThread"]);
        let mut tried = Vec::new();
        for second in 1..=200 {
            let before = tries.load(Relaxed);
            assert_eq!(shown(&worker.watch(late + SECOND * second)), [""; 0]);
            if tries.load(Relaxed) > before {
                tried.push(second);
            }
        }
        assert_eq!(tried, [1, 3, 7, 15, 31, 63, 123, 183]);
        // Nothing is taken that would be done much later.
        assert_eq!(worker.submit(FINE), None);
        let short = Duration::from_millis(1);
        assert_eq!(worker.run(FINE, short), Err(ReclaimError::TimedOut));
        fails.store(false, Relaxed);
        assert_eq!(shown(&worker.watch(late + SECOND * 242)), [""; 0]);
        let seen = shown(&worker.watch(late + SECOND * 243));
        assert_eq!(seen, ["HasThread"]);
        assert!(*worker.run(FINE, WAIT).unwrap());
        worker.job.open("stuck");
        worker.close();
    }

    #[test]
    fn with_a_fifth_that_does_not_come_back_nothing_is_done_until_one_does() {
        let worker = Worker::start(Doors::default()).unwrap();
        for name in ["1", "2", "3", "4"] {
            let late = hang(&worker, name);
            assert!(worker.watch(late - SECOND).is_empty(), "not yet");
            assert_eq!(shown(&worker.watch(late)), [format!("LeftBehind({name})")]);
            assert!(*worker.run(FINE, WAIT).unwrap());
            assert!(!*worker.run(name, WAIT).unwrap(), "it is left out");
        }
        let late = hang(&worker, "5");
        assert_eq!(shown(&worker.watch(late)), ["Stuck(5)"]);
        assert!(worker.watch(late).is_empty(), "once");
        assert_eq!(worker.submit(FINE), None);
        let silent = worker.silent(late, SECOND);
        let names = ["1", "2", "3", "4", "5"].map(Name::from_static);
        assert_eq!(silent, names);
        // One of them comes back, and has its place for the fifth.
        worker.job.open("2");
        let mut seen = Vec::new();
        until(|| {
            seen.extend(shown(&worker.watch(late)));
            seen.len() == 2
        });
        assert_eq!(seen, ["CameBack(2)", "LeftBehind(5)"]);
        assert!(*worker.run("2", WAIT).unwrap());
        let stats = worker.stats();
        assert_eq!((stats.runs, stats.sum, stats.left_behind), (9, 5, 5));
        for name in ["1", "3", "4", "5"] {
            worker.job.open(name);
        }
        worker.close();
    }

    #[test]
    fn whoever_waits_for_what_panics_is_told_at_once_and_the_next_is_done() {
        let worker = Worker::start(Doors::default()).unwrap();
        for _ in 0..2 {
            assert_eq!(worker.run(PANICS, WAIT), Err(ReclaimError::Panicked));
            assert!(*worker.run(FINE, WAIT).unwrap());
        }
        assert_eq!(worker.stats().runs, 2);
        worker.close();
    }

    #[test]
    fn one_that_could_not_be_left_behind_may_come_back_itself() {
        let worker = Worker::start(Doors::default()).unwrap();
        for name in ["1", "2", "3", "4", "5"] {
            let late = hang(&worker, name);
            assert_eq!(worker.watch(late).len(), 1);
        }
        worker.job.open("5");
        until(|| !worker.is_busy());
        assert_eq!(shown(&worker.watch(Instant::now())), ["CameBack(5)"]);
        assert!(*worker.run("5", WAIT).unwrap());
        for name in ["1", "2", "3", "4"] {
            worker.job.open(name);
        }
        worker.close();
    }
}
