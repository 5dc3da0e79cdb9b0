//! The races for the tables of tasks and listeners, in every order.
//!
//! Only the locks are under the model checker; tokens and notifications are not, and nothing
//! below depends on them.

use super::{Lifecycle, SpawnError, Tasks};
use crate::Name;
use ::loom::thread;
use std::{
    panic::Location,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::time::Instant;

const NAME: Name = Name::from_static("raced");

/// Counts how often the task was aborted.
#[derive(Clone, Default)]
struct Abort(Arc<AtomicUsize>);

impl Abort {
    fn abort(self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}

fn reserve(tasks: &Tasks<Abort>) -> Result<u64, SpawnError> {
    tasks.reserve(NAME, Location::caller(), Instant::now())
}

fn attach(tasks: &Tasks<Abort>, id: u64, abort: &Abort) {
    if let Some(abort) = tasks.attach(id, abort.clone()) {
        abort.abort();
    }
}

fn abort_all(tasks: &Tasks<Abort>) -> usize {
    let left = tasks.abort_all();
    let count = left.len();
    for (_, abort) in left {
        if let Some(abort) = abort {
            abort.abort();
        }
    }
    count
}

#[test]
fn a_task_spawned_during_the_abort_is_aborted_exactly_once_or_refused() {
    ::loom::model(|| {
        let tasks = Arc::new(Tasks::new(1));
        let abort = Abort::default();
        let (spawning, handle) = (tasks.clone(), abort.clone());
        let spawning = thread::spawn(move || {
            let id = reserve(&spawning)?;
            attach(&spawning, id, &handle);
            Ok(id)
        });
        let left = abort_all(&tasks);
        let spawned: Result<u64, SpawnError> = spawning.join().unwrap();
        assert_eq!(abort.count(), usize::from(spawned.is_ok()));
        assert_eq!(left, usize::from(spawned.is_ok()));
        assert_eq!(tasks.len(), left);
        assert!(matches!(reserve(&tasks), Err(SpawnError::ShuttingDown(_))));
    });
}

#[test]
fn a_task_that_ends_before_its_handle_is_known_leaves_nothing() {
    let mut model = ::loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let tasks = Arc::new(Tasks::new(1));
        let abort = Abort::default();
        let id = reserve(&tasks).unwrap();
        let (spawning, handle) = (tasks.clone(), abort.clone());
        let spawning = thread::spawn(move || attach(&spawning, id, &handle));
        let running = tasks.clone();
        let running = thread::spawn(move || assert!(running.finish(id, false)));
        let left = abort_all(&tasks);
        spawning.join().unwrap();
        running.join().unwrap();
        assert!(abort.count() <= left, "only what was left is aborted");
        assert_eq!(tasks.len(), 0);
        assert_eq!(Arc::strong_count(&abort.0), 1, "no handle is kept");
    });
}

#[test]
fn every_task_is_handed_out_once_to_those_who_abort() {
    ::loom::model(|| {
        let tasks = Arc::new(Tasks::new(2));
        let aborts = [Abort::default(), Abort::default()];
        for abort in &aborts {
            let id = reserve(&tasks).unwrap();
            attach(&tasks, id, abort);
        }
        let other = tasks.clone();
        let thread = thread::spawn(move || abort_all(&other));
        abort_all(&tasks);
        thread.join().unwrap();
        assert_eq!(aborts.map(|abort| abort.count()), [1, 1]);
    });
}

#[test]
fn a_task_is_counted_by_the_close_or_refused() {
    ::loom::model(|| {
        let tasks = Arc::new(Tasks::<Abort>::new(2));
        let spawning = tasks.clone();
        let spawning = thread::spawn(move || {
            [reserve(&spawning), reserve(&spawning)].map(|reserved| reserved.is_ok())
        });
        let alive = tasks.close();
        let spawned = spawning.join().unwrap();
        assert_eq!(alive, spawned.iter().filter(|spawned| **spawned).count());
        assert_eq!(tasks.counts().spawned, alive as u64);
        assert_eq!(tasks.counts().refused, 2 - alive as u64);
    });
}

#[test]
fn a_listener_is_seen_by_the_drain_or_refused() {
    ::loom::model(|| {
        let lifecycle = Lifecycle::new();
        let opening = lifecycle.clone();
        let opening = thread::spawn(move || opening.listener(NAME));
        lifecycle.inner.begin_draining();
        let open = lifecycle.inner.listeners.lock().open.len();
        let guard = opening.join().unwrap();
        assert_eq!(open, usize::from(guard.is_some()));
        drop(guard);
        let (drained, still_open) = lifecycle.inner.listeners.lock().tell();
        assert_eq!((drained.len(), still_open.len()), (open, 0));
    });
}
