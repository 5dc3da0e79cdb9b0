//! The tasks that are alive, by name. No runtime: the table is told what happens to them.
//!
//! # Invariants
//!
//! 1. A task stands in the table from before it is spawned until its future is dropped.
//! 2. Once closed, no task is added.
//! 3. Once aborting, every abort handle that was attached, or is attached later, is handed out
//!    for aborting exactly once.

use super::SpawnError;
use crate::{Name, sync::Mutex};
use std::{collections::HashMap, panic::Location};
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Tasks<A> {
    state: Mutex<State<A>>,
}

#[derive(Debug)]
struct State<A> {
    alive: HashMap<u64, Task<A>>,
    next_id: u64,
    max: usize,
    stage: Stage,
    counts: TaskCounts,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Open,
    Closed,
    Aborting,
}

#[derive(Debug)]
struct Task<A> {
    name: Name,
    site: &'static Location<'static>,
    since: Instant,
    /// `None` between the reservation and the spawn, and once handed out for aborting.
    abort: Option<A>,
}

/// How many tasks there were since the lifecycle was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct TaskCounts {
    /// Tasks spawned.
    pub spawned: u64,
    /// Tasks refused, because there were too many or the service was stopping.
    pub refused: u64,
    /// Tasks that panicked.
    pub panicked: u64,
}

/// The tasks of one name that are alive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskGroup {
    /// Their name.
    pub name: Name,
    /// How many there are.
    pub count: usize,
    /// When the oldest of them was spawned.
    pub oldest: Instant,
    /// Where in the source the oldest of them was spawned.
    pub site: &'static Location<'static>,
}

impl<A> Tasks<A> {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                alive: HashMap::new(),
                next_id: 0,
                max,
                stage: Stage::Open,
                counts: TaskCounts::default(),
            }),
        }
    }

    /// Makes room for a task that is about to be spawned.
    pub(crate) fn reserve(
        &self,
        name: Name,
        site: &'static Location<'static>,
        now: Instant,
    ) -> Result<u64, SpawnError> {
        let mut state = self.state.lock();
        let refusal = if state.stage != Stage::Open {
            Some(SpawnError::ShuttingDown(name))
        } else if state.alive.len() >= state.max {
            Some(SpawnError::TooManyTasks(name, state.max))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            state.counts.refused += 1;
            return Err(refusal);
        }
        let id = state.next_id;
        state.next_id += 1;
        state.counts.spawned += 1;
        let task = Task {
            name,
            site,
            since: now,
            abort: None,
        };
        state.alive.insert(id, task);
        Ok(id)
    }

    /// Keeps the handle by which a spawned task can be aborted. Gives it back when that is to be
    /// done at once.
    #[must_use]
    pub(crate) fn attach(&self, id: u64, abort: A) -> Option<A> {
        let mut state = self.state.lock();
        let aborting = state.stage == Stage::Aborting;
        // A task that has already ended is not in the table, and needs no handle.
        let task = state.alive.get_mut(&id)?;
        if aborting {
            return Some(abort);
        }
        task.abort = Some(abort);
        None
    }

    /// Forgets a task whose future is gone. Returns whether it was the last.
    pub(crate) fn finish(&self, id: u64, panicked: bool) -> bool {
        let mut state = self.state.lock();
        let task = state.alive.remove(&id);
        state.counts.panicked += u64::from(panicked);
        let last = state.alive.is_empty();
        // The lock is released before the abort handle is dropped.
        drop(state);
        drop(task);
        last
    }

    /// Refuses new tasks from now on, and tells how many are alive.
    pub(crate) fn close(&self) -> usize {
        let mut state = self.state.lock();
        if state.stage == Stage::Open {
            state.stage = Stage::Closed;
        }
        state.alive.len()
    }

    /// Refuses new tasks from now on, and hands out every task that is left.
    pub(crate) fn abort_all(&self) -> Vec<(Name, Option<A>)> {
        let mut state = self.state.lock();
        state.stage = Stage::Aborting;
        state
            .alive
            .values_mut()
            .map(|task| (task.name, task.abort.take()))
            .collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().alive.len()
    }

    pub(crate) fn counts(&self) -> TaskCounts {
        self.state.lock().counts
    }

    /// The tasks alive, grouped by name, most of them first.
    pub(crate) fn groups(&self) -> Vec<TaskGroup> {
        let mut groups: HashMap<Name, TaskGroup> = HashMap::new();
        for task in self.state.lock().alive.values() {
            let group = groups.entry(task.name).or_insert(TaskGroup {
                name: task.name,
                count: 0,
                oldest: task.since,
                site: task.site,
            });
            group.count += 1;
            if task.since < group.oldest {
                group.oldest = task.since;
                group.site = task.site;
            }
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_unstable_by(|a, b| b.count.cmp(&a.count).then(a.name.cmp(&b.name)));
        groups
    }
}
