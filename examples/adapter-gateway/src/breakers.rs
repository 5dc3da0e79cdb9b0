//! How often the circuit breakers of adapters open, and how long they take to recover.

use crate::{BoxError, adapters::Adapter};
use plimsoll::breaker::{CircuitBreaker, Event, EventKind, Reason, State};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Watches the breakers of some adapters. One line for each, for people to read.
///
/// It counts by itself, because a history gives up its oldest records.
#[derive(Debug)]
pub struct Watch(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    breaker: CircuitBreaker,
    openings: Arc<Mutex<Openings>>,
}

#[derive(Debug, Default)]
struct Openings {
    opened: u64,
    recovered: u64,
    /// When it opened first without having recovered since.
    since: Option<Instant>,
    /// From opening to closing, all and the longest.
    total: Duration,
    longest: Duration,
}

impl Watch {
    /// Watches from now on.
    ///
    /// # Errors
    ///
    /// When one is watched by too many already.
    pub fn new(adapters: &[Adapter]) -> Result<Self, BoxError> {
        let watched = adapters.iter().map(|adapter| {
            let openings = Arc::<Mutex<Openings>>::default();
            let observed = openings.clone();
            let breaker = adapter.breaker().clone();
            breaker.observe(move |event: &Event| lock(&observed).note(event.kind))?;
            Ok(Watched { breaker, openings })
        });
        watched.collect::<Result<_, _>>().map(Self)
    }
}

impl Openings {
    fn note(&mut self, event: EventKind) {
        let EventKind::Transition(transition) = event else {
            return;
        };
        match transition.to {
            to if to.refuses() => {
                self.opened += 1;
                self.since.get_or_insert_with(Instant::now);
            }
            State::HalfOpen => (),
            State::Closed if transition.reason != Reason::Manual => {
                if let Some(since) = self.since.take() {
                    let took = Instant::now().saturating_duration_since(since);
                    self.recovered += 1;
                    self.total += took;
                    self.longest = self.longest.max(took);
                }
            }
            // What is ended by hand says nothing about how long it takes.
            _ => self.since = None,
        }
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, watched) in self.0.iter().enumerate() {
            let line = if n == 0 { "" } else { "\n" };
            write!(f, "{line}{watched}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let breaker = self.breaker.snapshot();
        let openings = lock(&self.openings);
        write!(
            f,
            "breaker   {}: opened {} times",
            breaker.name, openings.opened
        )?;
        write!(f, ", recovered {} times", openings.recovered)?;
        if openings.recovered != 0 {
            let mean = openings.total.as_secs_f64() / openings.recovered as f64;
            let longest = openings.longest.as_secs_f64();
            write!(f, " in {mean:.1} s on average and {longest:.1} s at most")?;
        }
        write!(f, ", {} now", breaker.state)
    }
}

fn lock(openings: &Mutex<Openings>) -> MutexGuard<'_, Openings> {
    openings.lock().unwrap_or_else(PoisonError::into_inner)
}
