//! Which stripe of a striped value the current thread works on.
//!
//! Counters and windows that all threads write to are kept in stripes, so that threads seldom
//! meet. One number for each thread serves them all.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The number of the current thread; threads take turns. The stripe is this number modulo how
/// many there are.
#[inline]
#[must_use]
pub fn current() -> usize {
    STRIPE.with(|stripe| match stripe.get() {
        usize::MAX => assign(stripe),
        current => current,
    })
}

/// Gives the current thread another number, because it met another thread on its stripe.
pub fn move_on() {
    STRIPE.with(|stripe| {
        assign(stripe);
    });
}

#[cold]
fn assign(stripe: &Cell<usize>) -> usize {
    let next = NEXT.fetch_add(1, Relaxed) % usize::MAX;
    stripe.set(next);
    next
}
