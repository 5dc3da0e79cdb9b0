//! Who is registered, and who is due when. No clock, no task: every method takes `now`.
//!
//! # Invariants
//!
//! 1. A name stands in `names` exactly while its entry stands in `entries`.
//! 2. An entry is `Waiting(due)` exactly while `(due, id)` stands in `due`; there is never more
//!    than one due time for an entry, so the memory of the schedule is that of the entries.
//! 3. Once `closed`, nothing is added.

use super::{RegisterError, SweepReport, SweepStats};
use crate::{Bounded, Name};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::Instant;

/// A sweep is overdue when it is late by its own interval, but never sooner than this: a busy
/// runtime may be late by some milliseconds without anything being wrong.
const LEAST_OVERDUE: Duration = Duration::from_secs(1);

pub(crate) type Id = u64;

#[derive(Debug)]
pub(crate) struct Table {
    entries: HashMap<Id, Entry>,
    names: HashMap<Name, Id>,
    due: BTreeSet<(Instant, Id)>,
    next_id: Id,
    max_holdings: usize,
    closed: bool,
}

struct Entry {
    name: Name,
    holding: Held,
    schedule: Schedule,
    /// From when the next sweep was planned to when it is due.
    interval: Duration,
    overdue_reported: bool,
    stats: SweepStats,
}

pub(crate) enum Held {
    Weakly(Weak<dyn Bounded>),
    Strongly(Arc<dyn Bounded>),
}

#[derive(Clone, Copy, Debug)]
enum Schedule {
    Waiting(Instant),
    /// The sweeper has it since it was due at this time.
    Sweeping(Instant),
}

/// A holding handed out for a sweep, which does not keep it alive.
pub(crate) struct Due {
    pub(crate) id: Id,
    pub(crate) name: Name,
    pub(crate) holding: Weak<dyn Bounded>,
    pub(crate) overdue: Option<Overdue>,
}

/// What the table knows of one living holding.
pub(crate) struct Listed {
    pub(crate) name: Name,
    pub(crate) holding: Arc<dyn Bounded>,
    pub(crate) must_flush: bool,
    pub(crate) due: Instant,
    pub(crate) overdue: bool,
    pub(crate) stats: SweepStats,
}

/// The sweep of a holding did not come when it should have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Overdue {
    /// The holding.
    pub name: Name,
    /// By how much it is late.
    pub late: Duration,
    /// The interval it had asked for.
    pub interval: Duration,
}

impl Table {
    pub(crate) fn new(max_holdings: usize) -> Self {
        Self {
            entries: HashMap::new(),
            names: HashMap::new(),
            due: BTreeSet::new(),
            next_id: 0,
            max_holdings,
            closed: false,
        }
    }

    /// Adds a holding, due at once.
    pub(crate) fn insert(
        &mut self,
        name: Name,
        holding: &Arc<dyn Bounded>,
        must_flush: bool,
        now: Instant,
    ) -> Result<(), RegisterError> {
        if self.closed {
            return Err(RegisterError::Closed);
        }
        if let Some(id) = self.names.get(&name) {
            if self.entries[id].is_alive() {
                return Err(RegisterError::Duplicate(name));
            }
            self.remove(*id);
        }
        if self.entries.len() >= self.max_holdings {
            return Err(RegisterError::Full(self.max_holdings));
        }
        let id = self.next_id;
        self.next_id += 1;
        let holding = if must_flush {
            Held::Strongly(holding.clone())
        } else {
            Held::Weakly(Arc::downgrade(holding))
        };
        let entry = Entry {
            name,
            holding,
            schedule: Schedule::Waiting(now),
            interval: Duration::ZERO,
            overdue_reported: false,
            stats: SweepStats::default(),
        };
        self.entries.insert(id, entry);
        self.names.insert(name, id);
        self.due.insert((now, id));
        Ok(())
    }

    /// When the next holding is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Hands out the holding that is due longest, unless none is due by `now`. It stays out of
    /// the schedule until [`finish`](Self::finish) is told of its sweep. One whose last handle is
    /// gone is forgotten, and only its name returned.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Result<Due, Name>> {
        let (due, id) = *self.due.first()?;
        if due > now {
            return None;
        }
        let entry = self
            .entries
            .get_mut(&id)
            .expect("invariant 2: due entries exist");
        if !entry.is_alive() {
            let name = entry.name;
            self.remove(id);
            return Some(Err(name));
        }
        self.due.pop_first();
        let overdue = entry.report_overdue(now);
        entry.schedule = Schedule::Sweeping(due);
        Some(Ok(Due {
            id,
            name: entry.name,
            holding: entry.downgrade(),
            overdue,
        }))
    }

    /// Takes a holding back whose sweep was given up before its end.
    pub(crate) fn put_back(&mut self, id: Id) {
        if let Some(entry) = self.entries.get_mut(&id)
            && let Schedule::Sweeping(due) = entry.schedule
        {
            entry.schedule = Schedule::Waiting(due);
            self.due.insert((due, id));
        }
    }

    /// Records a sweep, and plans the next one for `next`.
    pub(crate) fn finish(&mut self, id: Id, report: SweepReport, now: Instant, next: Instant) {
        // The holding may have been unregistered, or the registry closed, during the sweep.
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.stats.record(report, now);
        if let Schedule::Waiting(due) = entry.schedule {
            self.due.remove(&(due, id));
        }
        entry.schedule = Schedule::Waiting(next);
        entry.interval = next.saturating_duration_since(now);
        entry.overdue_reported = false;
        self.due.insert((next, id));
    }

    /// Finds a holding for a sweep out of turn.
    pub(crate) fn get(&self, name: &str) -> Option<(Id, Name, Weak<dyn Bounded>)> {
        let id = *self.names.get(name)?;
        let entry = &self.entries[&id];
        entry
            .is_alive()
            .then(|| (id, entry.name, entry.downgrade()))
    }

    /// The names of the living, in order of registration.
    pub(crate) fn names(&self) -> Vec<Name> {
        let living = self.entries.iter().filter(|(_, entry)| entry.is_alive());
        let mut names: Vec<_> = living.map(|(id, entry)| (*id, entry.name)).collect();
        names.sort_unstable_by_key(|(id, _)| *id);
        names.into_iter().map(|(_, name)| name).collect()
    }

    /// How many holdings live.
    pub(crate) fn len(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.is_alive())
            .count()
    }

    /// Whether the sweeper has the holding in hand now.
    pub(crate) fn is_sweeping(&self, id: Id) -> bool {
        let entry = self.entries.get(&id);
        entry.is_some_and(|entry| matches!(entry.schedule, Schedule::Sweeping(_)))
    }

    /// Records a sweep out of turn without touching the schedule.
    pub(crate) fn record(&mut self, id: Id, report: SweepReport, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.stats.record(report, now);
        }
    }

    /// Every living holding, in order of registration.
    pub(crate) fn list(&self, now: Instant) -> Vec<Listed> {
        let mut listed: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(id, entry)| Some((*id, entry.list(now)?)))
            .collect();
        listed.sort_unstable_by_key(|(id, _)| *id);
        listed.into_iter().map(|(_, listed)| listed).collect()
    }

    /// Forgets the holdings whose last handle is gone, and returns their names.
    pub(crate) fn prune(&mut self) -> Vec<Name> {
        let dead: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.is_alive())
            .map(|(id, entry)| (*id, entry.name))
            .collect();
        for (id, _) in &dead {
            self.remove(*id);
        }
        dead.into_iter().map(|(_, name)| name).collect()
    }

    /// The holdings that have become overdue since the last call, in order of registration. Each is
    /// told of once until it is swept.
    pub(crate) fn newly_overdue(&mut self, now: Instant) -> Vec<Overdue> {
        let alive = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.is_alive());
        let overdue = alive.filter_map(|(id, entry)| Some((*id, entry.report_overdue(now)?)));
        let mut overdue: Vec<_> = overdue.collect();
        overdue.sort_unstable_by_key(|(id, _)| *id);
        overdue.into_iter().map(|(_, overdue)| overdue).collect()
    }

    /// Ends the table: nothing is added any more, and all who live are handed over.
    pub(crate) fn close(&mut self, now: Instant) -> Vec<Listed> {
        self.closed = true;
        let living = self.list(now);
        self.entries.clear();
        self.names.clear();
        self.due.clear();
        living
    }

    /// Forgets this very holding, if it is here. What held it is handed over, since its drop may
    /// run the holding's.
    pub(crate) fn unregister(&mut self, holding: &Arc<dyn Bounded>) -> Option<(Name, Held)> {
        let id = *self.names.get(holding.name())?;
        if !self.entries.get(&id)?.is(holding) {
            return None;
        }
        let entry = self.remove(id)?;
        Some((entry.name, entry.holding))
    }

    fn remove(&mut self, id: Id) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.names.remove(&entry.name);
        if let Schedule::Waiting(due) = entry.schedule {
            self.due.remove(&(due, id));
        }
        Some(entry)
    }
}

#[cfg(all(test, plimsoll_loom))]
impl Table {
    pub(super) fn assert_invariants(&self) {
        assert_eq!(self.names.len(), self.entries.len());
        let mut waiting = 0;
        for (id, entry) in &self.entries {
            assert_eq!(self.names.get(&entry.name), Some(id));
            if let Schedule::Waiting(due) = entry.schedule {
                assert!(self.due.contains(&(due, *id)));
                waiting += 1;
            }
        }
        assert_eq!(self.due.len(), waiting);
        assert!(!self.closed || self.entries.is_empty());
    }
}

impl Entry {
    fn downgrade(&self) -> Weak<dyn Bounded> {
        match &self.holding {
            Held::Weakly(holding) => holding.clone(),
            Held::Strongly(holding) => Arc::downgrade(holding),
        }
    }

    fn upgrade(&self) -> Option<Arc<dyn Bounded>> {
        match &self.holding {
            Held::Weakly(holding) => holding.upgrade(),
            Held::Strongly(holding) => Some(holding.clone()),
        }
    }

    /// Whether it is this very holding.
    fn is(&self, holding: &Arc<dyn Bounded>) -> bool {
        let known = match &self.holding {
            Held::Weakly(holding) => holding.as_ptr(),
            Held::Strongly(holding) => Arc::as_ptr(holding),
        };
        std::ptr::addr_eq(known, Arc::as_ptr(holding))
    }

    /// Tells without a strong reference, whose drop would run the holding's under our lock.
    fn is_alive(&self) -> bool {
        match &self.holding {
            Held::Weakly(holding) => holding.strong_count() > 0,
            Held::Strongly(_) => true,
        }
    }

    fn due(&self) -> Instant {
        let (Schedule::Waiting(due) | Schedule::Sweeping(due)) = self.schedule;
        due
    }

    /// By how much the sweep is late, once that is more than its interval.
    fn overdue(&self, now: Instant) -> Option<Duration> {
        let late = now.saturating_duration_since(self.due());
        (late > self.interval.max(LEAST_OVERDUE)).then_some(late)
    }

    /// Marks the entry as reported if it is overdue and was not reported yet.
    fn report_overdue(&mut self, now: Instant) -> Option<Overdue> {
        if self.overdue_reported {
            return None;
        }
        let late = self.overdue(now)?;
        self.overdue_reported = true;
        self.stats.overdue += 1;
        Some(Overdue {
            name: self.name,
            late,
            interval: self.interval,
        })
    }

    fn list(&self, now: Instant) -> Option<Listed> {
        Some(Listed {
            name: self.name,
            holding: self.upgrade()?,
            must_flush: matches!(self.holding, Held::Strongly(_)),
            due: self.due(),
            overdue: self.overdue(now).is_some(),
            stats: self.stats,
        })
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("name", &self.name)
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}
