//! Callers that wait for a breaker to let calls pass.

use crate::sync::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
};

/// The wakers of services that are not ready because of the breaker: one for each service, gone
/// with it.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    wakers: Mutex<BTreeMap<u64, Waker>>,
    next: AtomicU64,
}

/// A service's place among them.
#[derive(Debug)]
pub(crate) struct Waiter {
    waiters: Arc<Waiters>,
    number: u64,
}

impl Waiters {
    pub(crate) fn join(self: &Arc<Self>) -> Waiter {
        Waiter {
            waiters: self.clone(),
            number: self.next.fetch_add(1, Relaxed),
        }
    }

    /// Wakes all, to look again.
    pub(crate) fn wake(&self) {
        let wakers = std::mem::take(&mut *self.wakers.lock());
        for waker in wakers.into_values() {
            waker.wake();
        }
    }
}

impl Waiter {
    /// Has `waker` woken the next time the breaker changes what it does with calls.
    ///
    /// Look at the breaker after this, not before: a change in between would not be heard of.
    pub(crate) fn listen(&self, waker: &Waker) {
        // A waker is dropped after the lock is let go: with it may go the task it is of, and what
        // waits in that.
        let new = waker.clone();
        let old = self.waiters.wakers.lock().insert(self.number, new);
        drop(old);
    }

    pub(crate) fn stop_listening(&self) {
        let waker = self.waiters.wakers.lock().remove(&self.number);
        drop(waker);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.stop_listening();
    }
}
