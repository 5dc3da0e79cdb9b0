//! The thread that makes room, and its replacement if it does not come back.

use super::{
    ReclaimReport,
    run::{Ask, Reclaimer},
};
use plimsoll_core::Name;
use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};
use tokio::time::Instant;

/// A holding that takes longer than that is left behind.
pub(crate) const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(10);
/// So many may be at a time.
const MOST_LEFT_BEHIND: usize = 4;

/// Makes room, one time after the other.
#[derive(Debug)]
pub(crate) struct Worker {
    reclaimer: Reclaimer,
    state: Mutex<State>,
    /// Tells the thread of work, and whoever waits of its end.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The thread that does the work. Those before it were left behind.
    thread: u64,
    /// What is to be done next.
    next: Option<(u64, Ask)>,
    tickets: u64,
    running: Option<Running>,
    last: Option<(u64, Arc<ReclaimReport>)>,
    /// Threads that were left behind, and at what.
    left_behind: Vec<(u64, Name)>,
    stats: WorkerStats,
    closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    ticket: u64,
    /// At what, and since when.
    at: Option<(Name, Instant)>,
}

/// What the worker has done in all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct WorkerStats {
    pub(crate) runs: u64,
    pub(crate) freed: super::Freed,
    pub(crate) left_behind: u64,
}

/// Where a thread that makes room has got to.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    worker: &'a Worker,
    thread: u64,
}

/// While it lives, somebody has the turn.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    worker: &'a Worker,
    thread: u64,
}

/// No room was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ReclaimError {
    /// It was not done in time, or somebody else was at it for so long. It may go on.
    TimedOut,
    /// The monitor has ended.
    Stopped,
}

// === impl Worker ===

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(reclaimer: Reclaimer) -> io::Result<Arc<Self>> {
        let worker = Arc::new(Self {
            reclaimer,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        worker.spawn(0)?;
        Ok(worker)
    }

    fn spawn(self: &Arc<Self>, number: u64) -> io::Result<()> {
        let worker = self.clone();
        let thread = thread::Builder::new().name("plimsoll-reclaim".into());
        thread.spawn(move || worker.work(number))?;
        Ok(())
    }

    /// Has room made, unless somebody is at it already.
    pub(crate) fn submit(&self, ask: Ask) -> Option<u64> {
        let mut state = self.lock();
        if state.closed || state.next.is_some() || state.running.is_some() {
            return None;
        }
        state.tickets += 1;
        let ticket = state.tickets;
        state.next = Some((ticket, ask));
        drop(state);
        self.changed.notify_all();
        Some(ticket)
    }

    /// Has room made, and waits until that is done.
    pub(crate) fn run(&self, ask: Ask, wait: Duration) -> Result<Arc<ReclaimReport>, ReclaimError> {
        let until = Instant::now() + wait.min(Duration::from_secs(86_400));
        let mut mine = None;
        let mut state = self.lock();
        loop {
            if let (Some(mine), Some((done, report))) = (mine, &state.last)
                && *done >= mine
            {
                return Ok(report.clone());
            }
            if state.closed {
                return Err(ReclaimError::Stopped);
            }
            if mine.is_none() && state.next.is_none() && state.running.is_none() {
                state.tickets += 1;
                mine = Some(state.tickets);
                state.next = Some((state.tickets, ask));
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
    pub(crate) fn last(&self) -> Option<(u64, Arc<ReclaimReport>)> {
        self.lock().last.clone()
    }

    pub(crate) fn stats(&self) -> WorkerStats {
        self.lock().stats
    }

    /// Leaves the thread behind, and starts another, if it has been at one holding for too long.
    /// Returns that one, once.
    pub(crate) fn watch(self: &Arc<Self>, now: Instant) -> Option<Name> {
        let mut state = self.lock();
        let (name, since) = state.running?.at?;
        let late = now.saturating_duration_since(since) > LEFT_BEHIND_AFTER;
        if !late || state.left_behind.len() >= MOST_LEFT_BEHIND {
            return None;
        }
        let thread = state.thread;
        state.left_behind.push((thread, name));
        state.stats.left_behind += 1;
        state.thread += 1;
        state.running = None;
        let next = state.thread;
        drop(state);
        self.changed.notify_all();
        if let Err(error) = self.spawn(next) {
            tracing::error!(%error, "no thread to make room with: none is made any more");
            self.lock().closed = true;
        }
        Some(name)
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
                    state.running = Some(Running { ticket, at: None });
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
            let report = catch_unwind(AssertUnwindSafe(|| self.reclaimer.run(&ask, &progress)));
            let mut state = self.lock();
            if state.thread != thread {
                state.left_behind.retain(|(left, _)| *left != thread);
                return;
            }
            let Some(running) = state.running.take() else {
                return;
            };
            match report {
                Ok(report) => {
                    state.stats.runs += 1;
                    state.stats.freed.add_all(&report.freed);
                    state.last = Some((running.ticket, Arc::new(report)));
                }
                Err(_) => tracing::error!("making room panicked"),
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Progress, Turn ===

impl<'a> Progress<'a> {
    /// Whose turn it is now. None for somebody who is left out, and for all if the thread was left
    /// behind.
    pub(super) fn turn(&self, name: Name) -> Option<Turn<'a>> {
        let Self { worker, thread } = *self;
        let mut state = worker.lock();
        let is_left_out = state.left_behind.iter().any(|(_, left)| *left == name);
        if is_left_out || state.closed || state.thread != thread {
            return None;
        }
        if let Some(running) = &mut state.running {
            running.at = Some((name, Instant::now()));
        }
        Some(Turn { worker, thread })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.worker.lock();
        if state.thread == self.thread
            && let Some(running) = &mut state.running
        {
            running.at = None;
        }
    }
}

// === impl ReclaimError ===

impl fmt::Display for ReclaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "no room was made in time",
            Self::Stopped => "the monitor has ended, and so nobody makes room",
        })
    }
}

impl std::error::Error for ReclaimError {}
