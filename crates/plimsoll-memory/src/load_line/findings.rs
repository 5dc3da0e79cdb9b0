//! What a load line finds out from sample to sample: the past, what leaks, who holds most, who is refused.

use super::{
    Held,
    holders::{Answer, HolderStats},
};
use crate::{
    Admission, Known, MemoryFigures,
    admission::Scarce,
    history::History,
    verdict::{LeakConfig, LeakDetector, LeakKind, Verdict},
    worker::WorkerStats,
};
use plimsoll_core::Name;
use std::{
    mem,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// What was said longer ago than that is old, and whoever has not answered for so long is named.
pub(super) const OLD_AFTER: Duration = Duration::from_secs(5);
/// How long a route is told of after a request of it was refused.
const SHEDDING_FOR: Duration = Duration::from_secs(10);

/// What was found out, until now.
pub(super) struct Findings {
    pub(super) history: History,
    pub(super) leaks: LeakDetector,
    /// What `leaks` goes by.
    pub(super) leaks_config: LeakConfig,
    pub(super) standing: Vec<Verdict>,
    /// When everybody was asked what they said last.
    pub(super) asked: Option<Instant>,
    /// Who held most then, and how much, where that is worth a word.
    pub(super) most: Option<(Name, u64)>,
    pub(super) in_flight: Option<u64>,
    pub(super) asking: WorkerStats<u64>,
    pub(super) silent: Vec<Name>,
    pub(super) shedding: Vec<Shedding<Name>>,
    /// The same for want of tasks and descriptors, of all routes.
    pub(super) crowded: [Shedding<Scarce>; 2],
    /// How many tasks may be alive.
    pub(super) max_tasks: Option<u64>,
}

/// How many requests were refused, of a route or for want of something, and when there were more of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shedding<T> {
    of: T,
    refused: u64,
    at: Option<Instant>,
}

// === impl Findings ===

impl Findings {
    /// Nothing yet.
    pub(super) fn new(leaks: &LeakConfig) -> Self {
        Self {
            history: History::new(Instant::now(), SystemTime::now()),
            leaks: LeakDetector::new(leaks),
            leaks_config: leaks.clone(),
            standing: Vec::new(),
            asked: None,
            most: None,
            in_flight: None,
            asking: WorkerStats::default(),
            silent: Vec::new(),
            shedding: Vec::new(),
            crowded: [Scarce::Tasks, Scarce::Descriptors].map(Shedding::new),
            max_tasks: None,
        }
    }

    /// Says in one sentence how things are.
    pub(super) fn describe(&self, figures: &MemoryFigures, now: Instant) -> String {
        let shedding: Vec<_> = self.shedding(now).collect();
        let silent: Vec<_> = self.silent.iter().map(|name| name.as_str()).collect();
        let leaks = self.standing.iter().find(|it| it.kind.is_in_bytes());
        let is_short_of = |scarce| {
            let mut crowded = self.crowded.iter();
            crowded.any(|shedding| shedding.of == scarce && shedding.is_recent(now))
        };
        figures.describe(&Known {
            shedding: &shedding,
            max_tasks: self.max_tasks.filter(|_| is_short_of(Scarce::Tasks)),
            is_short_of_descriptors: is_short_of(Scarce::Descriptors),
            holds: self.most.map(|(name, bytes)| (name.as_str(), bytes)),
            held_ago: self.age(now).filter(is_old),
            leaks: leaks.map(|leak| (leak.name.as_str(), leak.slope)),
            silent: &silent,
        })
    }

    /// How it goes with asking everybody.
    pub(super) fn holders(&self, now: Instant) -> HolderStats {
        let WorkerStats {
            runs,
            sum,
            left_behind,
        } = self.asking;
        HolderStats {
            rounds: runs,
            age: self.age(now),
            panics: sum,
            left_behind,
            silent: self.silent.clone(),
        }
    }

    /// How long ago everybody was asked what they said last.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.asked?))
    }

    /// Takes note of what everybody said.
    pub(super) fn hear(&mut self, answer: &Answer, limit: Option<u64>) {
        self.asked = Some(answer.at);
        self.in_flight = answer.in_flight;
        let told = answer.told.iter();
        self.most = told
            .clone()
            .filter(|it| matches!(it.kind, LeakKind::Route | LeakKind::Holding))
            .map(|it| (it.name, it.held))
            .max_by_key(|(_, held)| *held)
            .filter(|(_, held)| limit.is_some_and(|limit| *held > limit / 20));
        // Which may have been a while ago.
        told.for_each(|it| self.observe(answer.at, it));
    }

    /// Takes note of what one holds.
    pub(super) fn observe(&mut self, now: Instant, it: &Held) {
        let Held {
            kind,
            name,
            held,
            bound,
        } = *it;
        self.leaks.observe(now, kind, name, held, bound);
    }

    /// Routes of which a request was refused not long ago.
    pub(super) fn shedding(&self, now: Instant) -> impl Iterator<Item = &'static str> {
        let routes = self.shedding.iter();
        routes
            .filter(move |route| route.is_recent(now))
            .map(|route| route.of.as_str())
    }

    /// Looks who was refused.
    pub(super) fn look_at(&mut self, admission: &Admission, now: Instant) {
        self.max_tasks = admission.max_tasks();
        for crowded in &mut self.crowded {
            crowded.look(admission.shed_for(crowded.of), now);
        }
        let mut routes = admission.routes();
        routes.sort_unstable_by_key(|route| route.name);
        // Several layers may go by one name.
        routes.dedup_by(|later, first| {
            let is_same = later.name == first.name;
            if is_same {
                first.refused += later.refused;
            }
            is_same
        });
        let before = mem::take(&mut self.shedding);
        self.shedding = routes
            .iter()
            .map(|route| {
                let found = before.binary_search_by_key(&route.name, |it| it.of);
                let mut shedding = match found {
                    Ok(place) => before[place],
                    Err(_) => Shedding::new(route.name),
                };
                shedding.look(route.refused, now);
                shedding
            })
            .collect();
    }
}

// === impl Shedding ===

impl<T> Shedding<T> {
    const fn new(of: T) -> Self {
        Self {
            of,
            refused: 0,
            at: None,
        }
    }

    /// So many were refused until now.
    fn look(&mut self, refused: u64, now: Instant) {
        if refused > self.refused {
            self.at = Some(now);
        }
        self.refused = refused;
    }

    fn is_recent(&self, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) < SHEDDING_FOR;
        self.at.is_some_and(recent)
    }
}

pub(super) fn is_old(age: &Duration) -> bool {
    *age > OLD_AFTER
}
