//! A source that does what a test says.

use super::{Signals, Source};
use std::{sync::mpsc, thread, time::Duration};
use tokio::time::Instant;

const MIB: u64 = 1 << 20;
/// No test waits for so long, unless it fails.
pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// Does what it is told, one sample for each time it is let.
pub(crate) struct Scripted {
    samples: mpsc::Receiver<Option<Signals>>,
    now: Signals,
    /// Tells that a sample was dealt with, or that the source is gone.
    done: mpsc::Sender<()>,
}

pub(crate) struct Script {
    tell: mpsc::Sender<Option<Signals>>,
    done: mpsc::Receiver<()>,
}

impl Source for Scripted {
    fn sample(&mut self) -> Signals {
        match self.samples.recv() {
            Ok(Some(signals)) => {
                self.now = signals;
                signals
            }
            Ok(None) => panic!("told to"),
            Err(_) => self.now,
        }
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        if self.done.send(()).is_err() {
            thread::park_timeout(timeout);
        }
        true
    }
}

pub(crate) fn script() -> (Script, Scripted) {
    let (tell, samples) = mpsc::channel();
    let (dealt, done) = mpsc::channel();
    let scripted = Scripted {
        samples,
        now: Signals::default(),
        done: dealt,
    };
    (Script { tell, done }, scripted)
}

impl Script {
    /// So much of 1000 MiB is used.
    pub(crate) fn used(&self, mib: u64) {
        self.sample(Some(Signals {
            limit: Some(1_000 * MIB),
            resident: Some(mib * MIB),
            ..Signals::default()
        }));
    }

    /// One sample is taken, and dealt with; one that panics if there is none.
    pub(crate) fn sample(&self, signals: Option<Signals>) {
        self.tell.send(signals).unwrap();
        self.done.recv_timeout(WAIT).unwrap();
    }
}

pub(crate) fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came");
        thread::yield_now();
    }
}
