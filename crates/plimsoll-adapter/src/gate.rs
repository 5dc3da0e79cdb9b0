//! Who may call now, who waits in line, and who is sent away.
//!
//! Calls in flight, and the most there may be, are one word, so that nobody gets in by a limit that
//! has just been lowered. Whoever finds a slot free and nobody waiting needs nothing else. The line
//! is under a lock; while it is not empty, slots are given to its first and to nobody else.

#[cfg(test)]
mod caller;
#[cfg(all(test, plimsoll_loom))]
mod loom;
#[cfg(all(test, not(plimsoll_loom)))]
mod model;

use crate::{
    AdapterConfig,
    sync::{
        AtomicU64, Mutex,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};
use plimsoll_alloc::untracked;
use plimsoll_core::RejectReason;
use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::timeout;

/// Slots for calls in flight, and a line of bounded length in front of them, first come, first
/// served.
///
/// Taking and leaving a slot is O(1), and so is joining the line; leaving it, and looking who is
/// next, is O(log n). What is kept of those who left it early is cleared up once it is more than half
/// of the line.
pub(crate) struct Gate {
    /// A [`Word`].
    word: AtomicU64,
    /// No waker is woken or dropped under it.
    line: Mutex<Line>,
}

/// How many calls are in flight, how many may be, whether somebody waits, and whether the gate is
/// closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Word(u64);

/// Those who wait. Under its lock it is not empty if and only if the [`Word`] says so.
#[derive(Debug)]
struct Line {
    max_queued: u64,
    max_queued_bytes: Option<u64>,
    queue_timeout: Duration,
    /// In the order of their tickets. Its first and its last have not left.
    waiters: VecDeque<Waiter>,
    queued: u64,
    queued_bytes: u64,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    bytes: u64,
    /// `None` until it is polled.
    waker: Option<Waker>,
    left: bool,
}

/// What waits, and what may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    pub(crate) calls: u64,
    pub(crate) max_calls: u64,
    pub(crate) bytes: u64,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) timeout: Duration,
}

/// A slot, which is free again when this is dropped.
#[derive(Debug)]
#[must_use = "the slot is free again when this is dropped"]
pub(crate) struct Slot<'a>(&'a Gate);

/// A place in line, and whoever has it once it is at the front and a slot is free.
#[derive(Debug)]
struct Place<'a> {
    gate: &'a Gate,
    ticket: u64,
    /// Whether the slot went to who waited. Until then it is ours if we are not in line.
    taken: bool,
}

#[derive(Debug)]
enum Joined<'a> {
    Slot(Slot<'a>),
    Place { place: Place<'a>, timeout: Duration },
}

impl Gate {
    pub(crate) fn new(config: &AdapterConfig) -> Self {
        Self {
            word: AtomicU64::new(Word::EMPTY.with_max(config.max_in_flight).0),
            line: Mutex::new(Line::new(config)),
        }
    }

    /// A slot, if one is free and nobody waits for it. `None` if the call has to wait.
    #[inline]
    pub(crate) fn try_enter(&self) -> Result<Option<Slot<'_>>, RejectReason> {
        let mut word = Word(self.word.load(Relaxed));
        loop {
            if word.is_closed() {
                return Err(RejectReason::ShuttingDown);
            }
            if word.has_line() || !word.has_room() {
                return Ok(None);
            }
            match self.replace(word, word.and_one()) {
                Ok(()) => return Ok(Some(Slot(self))),
                Err(now) => word = now,
            }
        }
    }

    /// Waits in line with a request of so many bytes. Dropping the future leaves the line.
    pub(crate) async fn enter(&self, bytes: u64) -> Result<Slot<'_>, RejectReason> {
        match self.join(bytes)? {
            Joined::Slot(slot) => Ok(slot),
            Joined::Place {
                place,
                timeout: most,
            } => match timeout(most, place).await {
                Ok(turn) => turn,
                Err(_elapsed) => Err(RejectReason::QueueTimeout),
            },
        }
    }

    /// The place is taken before the call waits, so that the bounds hold.
    fn join(&self, bytes: u64) -> Result<Joined<'_>, RejectReason> {
        let mut line = self.line.lock();
        let mut word = Word(self.word.load(Relaxed));
        // Whoever leaves a slot before it is known that somebody waits changes the word.
        loop {
            if word.is_closed() {
                return Err(RejectReason::ShuttingDown);
            }
            let free = !word.has_line() && word.has_room();
            if !free {
                line.admits(bytes)?;
            }
            let next = match free {
                true => word.and_one(),
                false => word.with_line(true),
            };
            match self.replace(word, next) {
                Ok(()) if free => return Ok(Joined::Slot(Slot(self))),
                Ok(()) => break,
                Err(now) => word = now,
            }
        }
        Ok(Joined::Place {
            place: Place {
                gate: self,
                ticket: line.push(bytes),
                taken: false,
            },
            timeout: line.queue_timeout,
        })
    }

    /// Takes on other limits. Whoever waits keeps the place; [`hand_over`](Self::hand_over) is to
    /// follow, for there may be more slots.
    pub(crate) fn configure(&self, config: &AdapterConfig) {
        let mut line = self.line.lock();
        line.max_queued = config.max_queued as u64;
        line.max_queued_bytes = config.max_queued_bytes;
        line.queue_timeout = config.queue_timeout;
        let mut word = Word(self.word.load(Relaxed));
        while let Err(now) = self.replace(word, word.with_max(config.max_in_flight)) {
            word = now;
        }
    }

    /// Gives slots that are free to those who wait.
    pub(crate) fn hand_over(&self) {
        let mut more = true;
        while more {
            // In a statement of its own, so that nobody is woken under the lock.
            let admitted = self.admit();
            let Some((waker, others)) = admitted else {
                return;
            };
            if let Some(waker) = waker {
                waker.wake();
            }
            more = others;
        }
    }

    /// Gives a slot to the first in line, and says whether another may get one too.
    fn admit(&self) -> Option<(Option<Waker>, bool)> {
        let mut line = self.line.lock();
        let mut word = Word(self.word.load(Relaxed));
        loop {
            if word.is_closed() || !word.has_line() || !word.has_room() {
                return None;
            }
            let next = word.and_one().with_line(line.queued > 1);
            match self.replace(word, next) {
                Ok(()) => return Some((line.pop(), next.has_line() && next.has_room())),
                Err(now) => word = now,
            }
        }
    }

    #[inline]
    fn leave(&self) {
        let before = Word(self.word.fetch_sub(1, AcqRel));
        if before.has_line() {
            self.hand_over();
        }
    }

    /// Refuses every call from now on, those that wait included.
    pub(crate) fn close(&self) {
        self.word.fetch_or(Word::CLOSED, AcqRel);
        // Their places are theirs to leave.
        let wakers = self.line.lock().wakers();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.word().in_flight()
    }

    pub(crate) fn max_in_flight(&self) -> u64 {
        self.word().max()
    }

    /// Those who wait, at one moment.
    pub(crate) fn queue(&self) -> Queue {
        let line = self.line.lock();
        Queue {
            calls: line.queued,
            max_calls: line.max_queued,
            bytes: line.queued_bytes,
            max_bytes: line.max_queued_bytes,
            timeout: line.queue_timeout,
        }
    }

    fn word(&self) -> Word {
        Word(self.word.load(Acquire))
    }

    /// Acquires what those who left their slots have done.
    #[inline]
    fn replace(&self, old: Word, new: Word) -> Result<(), Word> {
        let replaced = self
            .word
            .compare_exchange_weak(old.0, new.0, AcqRel, Relaxed);
        replaced.map(drop).map_err(Word)
    }
}

impl Word {
    const EMPTY: Self = Self(0);
    const CLOSED: u64 = 1 << 63;
    const LINE: u64 = 1 << 62;
    const MAX_SHIFT: u32 = 31;
    /// Of calls in flight; those are as many as there may have been at some time, a million at
    /// most.
    const COUNT: u64 = (1 << Self::MAX_SHIFT) - 1;

    const fn in_flight(self) -> u64 {
        self.0 & Self::COUNT
    }

    const fn max(self) -> u64 {
        (self.0 >> Self::MAX_SHIFT) & Self::COUNT
    }

    const fn has_room(self) -> bool {
        self.in_flight() < self.max()
    }

    const fn has_line(self) -> bool {
        self.0 & Self::LINE != 0
    }

    const fn is_closed(self) -> bool {
        self.0 & Self::CLOSED != 0
    }

    /// One more in flight.
    const fn and_one(self) -> Self {
        Self(self.0 + 1)
    }

    const fn with_max(self, max: usize) -> Self {
        let others = self.0 & !(Self::COUNT << Self::MAX_SHIFT);
        Self(others | (max as u64 & Self::COUNT) << Self::MAX_SHIFT)
    }

    const fn with_line(self, line: bool) -> Self {
        match line {
            true => Self(self.0 | Self::LINE),
            false => Self(self.0 & !Self::LINE),
        }
    }
}

impl Line {
    /// As many places are kept when nobody waits, so that a line that comes and goes asks for no
    /// memory.
    const KEPT: usize = 32;

    const fn new(config: &AdapterConfig) -> Self {
        Self {
            max_queued: config.max_queued as u64,
            max_queued_bytes: config.max_queued_bytes,
            queue_timeout: config.queue_timeout,
            waiters: VecDeque::new(),
            queued: 0,
            queued_bytes: 0,
            next_ticket: 0,
        }
    }

    /// Whether a request of so many bytes may wait.
    fn admits(&self, bytes: u64) -> Result<(), RejectReason> {
        if self.max_queued == 0 {
            return Err(RejectReason::InFlightLimit);
        }
        let heavier = self.queued_bytes.checked_add(bytes);
        let most = self.max_queued_bytes.unwrap_or(u64::MAX);
        match self.queued < self.max_queued && heavier.is_some_and(|bytes| bytes <= most) {
            true => Ok(()),
            false => Err(RejectReason::QueueFull),
        }
    }

    fn push(&mut self, bytes: u64) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.queued += 1;
        self.queued_bytes += bytes;
        if self.waiters.len() == self.waiters.capacity() {
            // The places stay, whoever came when there were too few.
            untracked(|| self.waiters.reserve(1));
        }
        self.waiters.push_back(Waiter {
            ticket,
            bytes,
            waker: None,
            left: false,
        });
        ticket
    }

    /// Takes the first out of the line.
    fn pop(&mut self) -> Option<Waker> {
        let ticket = self.waiters.front()?.ticket;
        self.remove(ticket)?
    }

    /// Whoever has the ticket, if still in line.
    fn find(&mut self, ticket: u64) -> Option<&mut Waiter> {
        let place = self.waiters.binary_search_by_key(&ticket, |w| w.ticket);
        let waiter = self.waiters.get_mut(place.ok()?)?;
        (!waiter.left).then_some(waiter)
    }

    /// Takes whoever has the ticket out of the line, and gives back the waker, which is dropped
    /// elsewhere.
    fn remove(&mut self, ticket: u64) -> Option<Option<Waker>> {
        let waiter = self.find(ticket)?;
        waiter.left = true;
        let (bytes, waker) = (waiter.bytes, waiter.waker.take());
        self.queued -= 1;
        self.queued_bytes -= bytes;
        while self.waiters.front().is_some_and(|waiter| waiter.left) {
            self.waiters.pop_front();
        }
        while self.waiters.back().is_some_and(|waiter| waiter.left) {
            self.waiters.pop_back();
        }
        if self.waiters.len() as u64 > 2 * self.queued + Self::KEPT as u64 {
            self.waiters.retain(|waiter| !waiter.left);
        }
        if self.waiters.is_empty() {
            self.waiters.shrink_to(Self::KEPT);
        }
        Some(waker)
    }

    fn wakers(&mut self) -> Vec<Waker> {
        let wakers = self.waiters.iter_mut().map(|waiter| waiter.waker.take());
        wakers.flatten().collect()
    }
}

impl<'a> Future for Place<'a> {
    type Output = Result<Slot<'a>, RejectReason>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let gate = self.gate;
        let mut line = gate.line.lock();
        // Who closes it wakes those who were here before.
        if gate.word().is_closed() {
            return Poll::Ready(Err(RejectReason::ShuttingDown));
        }
        if let Some(waiter) = line.find(self.ticket) {
            let known = waiter.waker.as_ref();
            if !known.is_some_and(|waker| waker.will_wake(cx.waker())) {
                let old = waiter.waker.replace(cx.waker().clone());
                drop(line);
                drop(old);
            }
            return Poll::Pending;
        }
        drop(line);
        debug_assert!(
            !self.taken,
            "a place is not polled again once it gave a slot"
        );
        self.taken = true;
        Poll::Ready(Ok(Slot(gate)))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut line = self.gate.line.lock();
        let removed = line.remove(self.ticket);
        if removed.is_some() && line.queued == 0 {
            self.gate.word.fetch_and(!Word::LINE, Release);
        }
        drop(line);
        if removed.is_none() {
            // It was given a slot, and did not see it.
            self.gate.leave();
        }
    }
}

impl Drop for Slot<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word();
        f.debug_struct("Gate")
            .field("in_flight", &word.in_flight())
            .field("max_in_flight", &word.max())
            .finish_non_exhaustive()
    }
}
