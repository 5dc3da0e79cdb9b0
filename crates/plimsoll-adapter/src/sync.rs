//! Locks and atomics, under the model checker's control when it runs.

#[cfg(plimsoll_loom)]
use loom::sync as imp;
#[cfg(not(plimsoll_loom))]
use std::sync as imp;
use std::sync::PoisonError;

pub(crate) use imp::{
    MutexGuard,
    atomic::{AtomicU64, Ordering},
};

/// A mutex that ignores poison. Whoever uses it leaves nothing half-written where it can panic.
#[derive(Debug)]
pub(crate) struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
