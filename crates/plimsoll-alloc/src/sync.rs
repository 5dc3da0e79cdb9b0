//! Atomics, under the model checker's control when it runs.

#[cfg(plimsoll_loom)]
use loom::sync::atomic as imp;
#[cfg(not(plimsoll_loom))]
use std::sync::atomic as imp;

pub(crate) use imp::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(not(plimsoll_loom))]
pub(crate) use crate::local::{keep_spare, stripe, take_spare};

#[cfg(plimsoll_loom)]
loom::thread_local! {
    /// A model says of which stripe a thread is.
    pub(crate) static STRIPE: std::cell::Cell<usize> = std::cell::Cell::new(0);
}

#[cfg(plimsoll_loom)]
pub(crate) fn stripe() -> usize {
    STRIPE.with(std::cell::Cell::get)
}

/// No slot is kept by a thread.
#[cfg(plimsoll_loom)]
pub(crate) const fn keep_spare(_: u32) -> bool {
    false
}

#[cfg(plimsoll_loom)]
pub(crate) const fn take_spare() -> Option<u32> {
    None
}
