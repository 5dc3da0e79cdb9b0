//! Who may call now, who waits in line, and who is sent away.

use plimsoll_core::RejectReason;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit, TryAcquireError},
    time::timeout,
};

/// Slots for calls in flight, and a line of bounded length in front of them, first come, first
/// served.
///
/// The semaphore gives a slot that comes free to whoever waits longest, never to a newcomer, so
/// that trying without waiting does not overtake.
#[derive(Debug)]
pub(crate) struct Gate {
    slots: Semaphore,
    max_in_flight: usize,
    max_queued: u64,
    max_queued_bytes: Option<u64>,
    queue_timeout: Duration,
    queued: AtomicU64,
    queued_bytes: AtomicU64,
}

/// A place in line.
#[derive(Debug)]
struct Place<'a> {
    gate: &'a Gate,
    bytes: u64,
}

impl Gate {
    pub(crate) const fn new(
        max_in_flight: usize,
        max_queued: u64,
        max_queued_bytes: Option<u64>,
        queue_timeout: Duration,
    ) -> Self {
        Self {
            slots: Semaphore::const_new(max_in_flight),
            max_in_flight,
            max_queued,
            max_queued_bytes,
            queue_timeout,
            queued: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
        }
    }

    /// A slot, if one is free and nobody waits for it. `None` if the call has to wait.
    #[inline]
    pub(crate) fn try_enter(&self) -> Result<Option<SemaphorePermit<'_>>, RejectReason> {
        match self.slots.try_acquire() {
            Ok(slot) => Ok(Some(slot)),
            Err(TryAcquireError::NoPermits) => Ok(None),
            Err(TryAcquireError::Closed) => Err(RejectReason::ShuttingDown),
        }
    }

    /// Waits in line with a request of so many bytes. Dropping the future leaves the line.
    pub(crate) async fn enter(&self, bytes: u64) -> Result<SemaphorePermit<'_>, RejectReason> {
        let _place = self.join(bytes)?;
        match timeout(self.queue_timeout, self.slots.acquire()).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_closed)) => Err(RejectReason::ShuttingDown),
            Err(_elapsed) => Err(RejectReason::QueueTimeout),
        }
    }

    /// The place is taken before the call waits, so that the bounds hold.
    fn join(&self, bytes: u64) -> Result<Place<'_>, RejectReason> {
        if self.max_queued == 0 {
            return Err(RejectReason::InFlightLimit);
        }
        let full = |_| RejectReason::QueueFull;
        // Counters of their own: nothing else is published by them.
        let add = |most: u64, more: u64| {
            move |held: u64| held.checked_add(more).filter(|held| *held <= most)
        };
        let one_more = add(self.max_queued, 1);
        let queued = self.queued.fetch_update(Relaxed, Relaxed, one_more);
        queued.map_err(full)?;
        // From here on its drop gives back the place, and the bytes once they are taken.
        let mut place = Place {
            gate: self,
            bytes: 0,
        };
        let heavier = add(self.max_queued_bytes.unwrap_or(u64::MAX), bytes);
        let weight = self.queued_bytes.fetch_update(Relaxed, Relaxed, heavier);
        weight.map_err(full)?;
        place.bytes = bytes;
        Ok(place)
    }

    /// Refuses every call from now on, those that wait included.
    pub(crate) fn close(&self) {
        self.slots.close();
    }

    /// Whether it matters how large a request is.
    pub(crate) const fn weighs(&self) -> bool {
        self.max_queued_bytes.is_some()
    }

    pub(crate) fn in_flight(&self) -> u64 {
        let free = self.slots.available_permits();
        self.max_in_flight.saturating_sub(free) as u64
    }

    pub(crate) const fn max_in_flight(&self) -> u64 {
        self.max_in_flight as u64
    }

    pub(crate) fn queued(&self) -> u64 {
        self.queued.load(Relaxed)
    }

    pub(crate) const fn max_queued(&self) -> u64 {
        self.max_queued
    }

    pub(crate) fn queued_bytes(&self) -> u64 {
        self.queued_bytes.load(Relaxed)
    }

    pub(crate) const fn max_queued_bytes(&self) -> Option<u64> {
        self.max_queued_bytes
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.gate.queued.fetch_sub(1, Relaxed);
        self.gate.queued_bytes.fetch_sub(self.bytes, Relaxed);
    }
}
