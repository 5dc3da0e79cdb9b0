//! Atomics, under the model checker's control when it runs.

#[cfg(plimsoll_loom)]
use loom::sync::atomic as imp;
#[cfg(not(plimsoll_loom))]
use std::sync::atomic as imp;

pub(crate) use imp::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};
