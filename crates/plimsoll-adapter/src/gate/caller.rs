//! A caller of tests, who is polled by hand.

use super::{Gate, Joined, Place, Slot};
use plimsoll_core::RejectReason;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Whether somebody was woken. Not under the model checker, which would have it be a race of its
/// own.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// Whoever called, with what came of it.
pub(super) struct Caller<'a> {
    bell: Arc<Bell>,
    pub(super) place: Option<Place<'a>>,
    pub(super) slot: Option<Slot<'a>>,
    pub(super) refused: Option<RejectReason>,
}

impl<'a> Caller<'a> {
    pub(super) fn join(gate: &'a Gate, bytes: u64) -> Self {
        let mut caller = Self {
            bell: Arc::default(),
            place: None,
            slot: None,
            refused: None,
        };
        match gate.try_enter() {
            Ok(Some(slot)) => caller.slot = Some(slot),
            Ok(None) => match gate.join(bytes) {
                Ok(Joined::Slot(slot)) => caller.slot = Some(slot),
                Ok(Joined::Place { place, .. }) => caller.place = Some(place),
                Err(reason) => caller.refused = Some(reason),
            },
            Err(reason) => caller.refused = Some(reason),
        }
        caller
    }

    pub(super) fn poll(&mut self) {
        let Some(place) = &mut self.place else { return };
        let waker = Waker::from(self.bell.clone());
        match Pin::new(place).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(Ok(slot)) => self.slot = Some(slot),
            Poll::Ready(Err(reason)) => self.refused = Some(reason),
            Poll::Pending => return,
        }
        self.place = None;
    }

    pub(super) fn is_woken(&self) -> bool {
        self.bell.0.load(Relaxed)
    }

    /// Is woken by another waker from the next poll on. Says whether the one before was used.
    #[cfg(not(plimsoll_loom))]
    pub(super) fn change_bell(&mut self) -> impl Fn() -> bool + use<> {
        let before = std::mem::take(&mut self.bell);
        move || before.0.load(Relaxed)
    }

    /// Polls again if woken, as a task would be.
    #[cfg(plimsoll_loom)]
    pub(super) fn go_on(&mut self) {
        if self.is_woken() {
            self.poll();
        }
    }
}
