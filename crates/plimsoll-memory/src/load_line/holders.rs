//! Asking everybody what they hold, on a thread that may be left behind.

use super::Held;
use crate::{
    verdict::LeakKind,
    worker::{Job, Progress},
};
use plimsoll_core::{Name, Registry, Usage};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How it goes with asking everybody what they hold, once a second: holdings, and whoever was
/// [added](super::LoadLineBuilder::holders).
///
/// They are asked on a thread of their own, one after the other. One that does not come back for ten seconds is
/// left behind with its thread and left out until it does; the others are asked on another one. Four of these are
/// the most: with a fifth nobody is asked until one comes back, and what is known becomes old.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct HolderStats {
    /// How many times all were asked, and the thread came back.
    pub rounds: u64,
    /// How long ago they were asked what is known of them: a second or less, if all is well. None before that.
    pub age: Option<Duration>,
    /// How many times one panicked when asked.
    pub panics: u64,
    /// How many times one was left behind.
    pub left_behind: u64,
    /// Those who are left behind now, and the one that has not answered for 5 seconds: five at the most.
    pub silent: Vec<Name>,
}

/// Adds what there is.
pub(super) type Tell = Box<dyn FnMut(&mut Vec<Held>) + Send>;

pub(super) type Count = Box<dyn Fn() -> u64 + Send + Sync>;

/// Who is asked.
#[derive(Default)]
pub(super) struct Holders {
    pub(super) registry: Registry,
    pub(super) in_flight: Option<Count>,
    tellers: Vec<(Name, Mutex<Tell>)>,
    /// Those who have panicked, which is logged once of each.
    panicked: Mutex<Vec<Name>>,
}

/// What they said.
#[derive(Debug)]
pub(super) struct Answer {
    /// When they were asked.
    pub(super) at: Instant,
    pub(super) told: Vec<Held>,
    pub(super) in_flight: Option<u64>,
    panics: u64,
}

/// So many are named in the log when they panic. Those past that are only counted.
const MOST_LOGGED: usize = 64;

/// Who counts the requests in flight, if it does not come back.
const IN_FLIGHT: Name = Name::from_static("requests in flight");

impl Holders {
    pub(super) fn add(&mut self, name: Name, tell: Tell) {
        self.tellers.push((name, Mutex::new(tell)));
    }

    fn log_panic(&self, name: Name) {
        if self.panics_first(name) {
            tracing::error!(%name, "panicked when asked what it holds, and is left out for now");
        }
    }

    /// Whether that is worth a line in the log: it has not panicked before, nor have many others.
    fn panics_first(&self, name: Name) -> bool {
        let mut panicked = self.panicked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = panicked.len() < MOST_LOGGED && !panicked.contains(&name);
        if is_first {
            panicked.push(name);
        }
        is_first
    }
}

impl Job for Holders {
    type Ask = Instant;
    type Done = Answer;
    /// How many times one panicked.
    type Sum = u64;

    const THREAD: &'static str = "plimsoll-holds";
    const WHEN: &'static str = "it was asked what it holds";
    const STOPS: &'static str = "nobody is asked what is held";

    fn run(&self, at: &Instant, progress: &Progress<'_, Self>) -> Answer {
        let (mut told, mut panics) = (Vec::new(), 0);
        let mut panicked = |name| {
            self.log_panic(name);
            panics += 1;
        };
        let mut in_flight = None;
        if let Some(count) = &self.in_flight
            && let Some(_turn) = progress.turn(IN_FLIGHT)
        {
            match calmly(count) {
                Some(count) => in_flight = Some(count),
                None => panicked(IN_FLIGHT),
            }
        }
        for name in self.registry.names() {
            let Some(_turn) = progress.turn(name) else {
                continue;
            };
            match self.registry.shrink_policy(name.as_str()) {
                Ok(Some((usage, _))) => told.push(Held {
                    kind: LeakKind::Holding,
                    name,
                    held: usage.bytes,
                    bound: bound(&usage),
                }),
                Ok(None) => panicked(name),
                // It has gone meanwhile.
                Err(_) => {}
            }
        }
        for (name, tell) in &self.tellers {
            // Whoever is left behind has the lock still, but nobody has the turn then.
            let Some(_turn) = progress.turn(*name) else {
                continue;
            };
            let mut tell = tell.lock().unwrap_or_else(PoisonError::into_inner);
            let before = told.len();
            if calmly(|| tell(&mut told)).is_none() {
                told.truncate(before);
                panicked(*name);
            }
        }
        Answer {
            at: *at,
            told,
            in_flight,
            panics,
        }
    }

    fn add(sum: &mut u64, answer: &Answer) {
        *sum += answer.panics;
    }
}

/// Takes a panic for no answer.
fn calmly<T>(ask: impl FnOnce() -> T) -> Option<T> {
    let panic = match catch_unwind(AssertUnwindSafe(ask)) {
        Ok(answer) => return Some(answer),
        Err(panic) => panic,
    };
    // What was thrown may throw again.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
    None
}

/// The most bytes that it may hold; where only the number of entries has a limit, as many of the size
/// that they have now.
pub(super) fn bound(usage: &Usage) -> Option<u64> {
    let by_entries = usage.max_entries.map(|max| {
        let each = usage.bytes.checked_div(usage.entries).unwrap_or(0);
        // A map has room for more than it holds, and another as large while it grows.
        each.saturating_mul(max).saturating_mul(2)
    });
    usage.max_bytes.or(by_entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_that_panics_is_logged_once_until_they_are_too_many() {
        let holders = Holders::default();
        let name = |number: usize| Name::new(&format!("holding {number}"));
        for number in 0..MOST_LOGGED {
            assert!(holders.panics_first(name(number)));
            assert!(!holders.panics_first(name(0)));
        }
        assert!(!holders.panics_first(name(MOST_LOGGED)));
        assert_eq!(holders.panicked.lock().unwrap().len(), MOST_LOGGED);
    }
}
