//! The races for the table, in every order.
//!
//! Only the lock is under the model checker. What it protects is checked after each run. The
//! holding takes the lock whenever it is called or dropped, so that doing either under the lock
//! shows as a deadlock.

use super::{Inner, RegisterError, Registry, sweeper::Pace};
use crate::{Bounded, BoxFuture, CloseReport, Step, Totals, Usage};
use ::loom::thread;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::time::Instant;

/// An empty holding, which asks the registry something whenever it has its turn.
struct Asking {
    registry: Weak<Inner>,
    drops: Arc<AtomicUsize>,
    must_flush: bool,
}

impl Bounded for Asking {
    fn name(&self) -> &str {
        "asking"
    }

    fn usage(&self) -> Usage {
        self.ask();
        Usage::default()
    }

    fn totals(&self) -> Totals {
        Totals::default()
    }

    fn sweep(&self, _: Instant, _: usize) -> Step {
        self.ask();
        Step::idle()
    }

    fn must_flush(&self) -> bool {
        self.must_flush
    }

    fn close(self: Arc<Self>, _: Instant) -> BoxFuture<'static, CloseReport> {
        Box::pin(async { CloseReport::default() })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Relaxed);
        if !std::thread::panicking() {
            self.ask();
        }
    }
}

impl Asking {
    fn ask(&self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.table.lock().len();
        }
    }
}

fn asking(registry: &Registry) -> Arc<Asking> {
    Arc::new(Asking {
        registry: Arc::downgrade(&registry.inner),
        drops: Arc::default(),
        must_flush: false,
    })
}

/// What the sweeper does when holdings are due.
fn sweep_due(registry: &Inner) {
    let mut under_way = VecDeque::new();
    registry.take_all_due(Instant::now(), &mut under_way);
    for (id, mut slices) in under_way {
        assert!(
            slices
                .next(&registry.config, &mut Pace::default())
                .is_break()
        );
        let table = registry.table.lock();
        assert!(table.is_sweeping(id) || table.len() == 0, "it is ours");
        drop(table);
        registry.end(id, slices);
    }
}

fn sweep_by_hand(registry: &Registry) -> bool {
    let mut sweep = tokio_test::task::spawn(registry.sweep("asking"));
    matches!(sweep.poll(), std::task::Poll::Ready(Ok(_)))
}

fn assert_sound(registry: &Registry) {
    registry.inner.table.lock().assert_invariants();
}

#[test]
fn of_two_registrations_of_a_name_exactly_one_wins() {
    ::loom::model(|| {
        let registry = Registry::new();
        let other = registry.clone();
        let thread = thread::spawn(move || other.register(asking(&other)));
        let here = registry.register(asking(&registry));
        let there = thread.join().unwrap();
        let (won, lost) = if here.is_ok() {
            (here, there)
        } else {
            (there, here)
        };
        assert!(won.is_ok());
        assert!(matches!(lost, Err(RegisterError::Duplicate(_))));
        assert_eq!(registry.len(), 1);
        assert_sound(&registry);
    });
}

#[test]
fn a_holding_registered_during_a_close_is_closed_or_refused() {
    for must_flush in [false, true] {
        ::loom::model(move || {
            let registry = Registry::new();
            let other = registry.clone();
            let thread = thread::spawn(move || {
                let mut holding = asking(&other);
                Arc::get_mut(&mut holding).unwrap().must_flush = must_flush;
                other.register(holding)
            });
            let closed = registry.inner.table.lock().close(Instant::now());
            let registered = thread.join().unwrap();
            assert_eq!(registered.is_ok(), closed.len() == 1);
            if let Err(refused) = registered {
                assert_eq!(refused, RegisterError::Closed);
            }
            assert!(registry.is_empty());
            assert_sound(&registry);
        });
    }
}

#[test]
fn a_sweep_by_hand_and_the_sweepers_leave_one_next_time() {
    ::loom::model(|| {
        let registry = Registry::new();
        let held = registry.register(asking(&registry)).unwrap();
        let (sweeper, other) = (registry.clone(), registry.clone());
        let sweeper = thread::spawn(move || sweep_due(&sweeper.inner));
        let by_hand = thread::spawn(move || assert!(sweep_by_hand(&other)));
        assert_sound(&registry);
        sweeper.join().unwrap();
        by_hand.join().unwrap();
        assert_sound(&registry);
        // The sweeper comes first, or finds it done already.
        let stats = registry.snapshot()[0].stats;
        assert!((1..=2).contains(&stats.sweeps));
        assert_eq!(stats.panics, 0);
        let table = registry.inner.table.lock();
        assert!(table.next_due().is_some_and(|due| due > Instant::now()));
        drop((table, held));
    });
}

#[test]
fn a_sweep_that_ends_after_the_close_plans_nothing() {
    let mut model = ::loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let registry = Registry::new();
        let held = registry.register(asking(&registry)).unwrap();
        let (sweeper, other) = (registry.clone(), registry.clone());
        let sweeper = thread::spawn(move || sweep_due(&sweeper.inner));
        let by_hand = thread::spawn(move || sweep_by_hand(&other));
        let closed = registry.inner.table.lock().close(Instant::now());
        assert_eq!(closed.len(), 1);
        sweeper.join().unwrap();
        by_hand.join().unwrap();
        assert_sound(&registry);
        assert_eq!(registry.inner.table.lock().next_due(), None);
        drop((closed, held));
    });
}

#[test]
fn a_holding_that_is_unregistered_is_gone_however_the_sweep_and_the_close_meet_it() {
    let mut model = ::loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let registry = Registry::new();
        let held = registry.register(asking(&registry)).unwrap();
        let (sweeper, other) = (registry.clone(), registry.clone());
        let sweeper = thread::spawn(move || sweep_due(&sweeper.inner));
        let leaving = thread::spawn(move || {
            let was_there = other.unregister(&held);
            (was_there, held)
        });
        let closed = registry.inner.table.lock().close(Instant::now());
        sweeper.join().unwrap();
        let (was_there, held) = leaving.join().unwrap();
        // Whoever comes first has it.
        assert_ne!(was_there, closed.len() == 1);
        assert!(!registry.unregister(&held));
        assert_sound(&registry);
        assert_eq!(registry.inner.table.lock().next_due(), None);
        drop((closed, held));
    });
}

#[test]
fn a_holding_whose_last_handle_goes_is_dropped_once_and_never_under_the_lock() {
    let mut model = ::loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let registry = Registry::new();
        let held = registry.register(asking(&registry)).unwrap();
        let drops = held.drops.clone();
        let (dropping, other) = (registry.clone(), registry.clone());
        let dropping = thread::spawn(move || {
            // A look at the table first, so that the drop may come at any time of the others'.
            let _ = dropping.len();
            drop(held);
        });
        let sweeper = thread::spawn(move || {
            sweep_due(&other.inner);
            let _ = other.snapshot();
            other.inner.forget_the_dead();
        });
        let closed = registry.inner.table.lock().close(Instant::now());
        assert!(closed.len() == 1 || drops.load(Relaxed) == 1);
        drop(closed);
        dropping.join().unwrap();
        sweeper.join().unwrap();
        assert_eq!(drops.load(Relaxed), 1);
        assert_sound(&registry);
    });
}

#[test]
fn a_name_is_free_again_however_the_pruning_and_the_last_drop_meet() {
    ::loom::model(|| {
        let registry = Registry::new();
        let held = registry.register(asking(&registry)).unwrap();
        let (dropping, pruning) = (registry.clone(), registry.clone());
        let dropping = thread::spawn(move || {
            drop(held);
            dropping.register(asking(&dropping))
        });
        let pruning = thread::spawn(move || {
            pruning.inner.forget_the_dead();
            sweep_due(&pruning.inner);
        });
        let again = dropping.join().unwrap();
        pruning.join().unwrap();
        assert!(again.is_ok());
        assert_eq!(registry.len(), 1);
        assert_sound(&registry);
    });
}
