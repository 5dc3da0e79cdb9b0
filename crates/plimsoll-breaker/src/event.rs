//! Telling others what a breaker does.

use crate::{CircuitBreaker, Evidence, Reason, Transition, sync::Mutex};
use plimsoll_core::Name;
use std::{
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};
use tokio::sync::broadcast;

/// Events that wait for observers, and events that wait for each subscriber, at most.
const QUEUE: usize = 64;
/// Observers of one breaker, at most.
const MAX_OBSERVERS: usize = 16;

/// Something a breaker did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// The breaker's name.
    pub breaker: Name,
    /// Its key, for one of [keyed breakers](crate::KeyedBreakers).
    pub key: Option<Arc<str>>,
    /// What it did.
    pub kind: EventKind,
}

/// What a breaker did.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum EventKind {
    /// It changed its state.
    Transition(Transition),
    /// A rate reached its threshold while only metrics are kept. Told once for each rate until
    /// that state is entered again.
    ThresholdReached {
        /// Which rate.
        reason: Reason,
        /// What the breaker knew then.
        evidence: Evidence,
    },
    /// It was reset.
    Reset,
}

/// Is told what a breaker does.
///
/// Called in the order things happened, one event at a time, by whichever thread made one happen,
/// and outside every lock: it may use the breaker. One that panics is logged and called again
/// next time. A slow one holds up calls, and the sweep of all holdings, so let it hand the event
/// on. When 64 wait for it, the oldest is dropped: neither observers, nor the log, nor streams hear
/// of that one. [`Snapshot::lost_events`](crate::Snapshot::lost_events) counts them.
pub trait Observer: Send + Sync + 'static {
    /// Takes note of `event`.
    fn on_event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync + 'static> Observer for F {
    fn on_event(&self, event: &Event) {
        self(event);
    }
}

/// A breaker has as many observers as it may: 16.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooManyObservers(());

impl fmt::Display for TooManyObservers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a circuit breaker has at most {MAX_OBSERVERS} observers; let one hand events on"
        )
    }
}

impl std::error::Error for TooManyObservers {}

/// The events of a breaker from when it was asked for, from [`CircuitBreaker::events`].
///
/// Holds at most 64 events that were not taken yet; after that the oldest are dropped, which the
/// stream says. It does not say what a slow [`Observer`] made the breaker drop.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

/// An event, or how many were missed.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_enums, reason = "there is nothing else to receive")]
pub enum Received {
    /// The next event.
    Event(Event),
    /// So many events were dropped, because they were not taken in time.
    Missed(u64),
}

impl Events {
    /// Waits for the next event. `None` once the breaker is gone.
    ///
    /// # Cancel safety
    ///
    /// No event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Received> {
        match self.0.recv().await {
            Ok(event) => Some(Received::Event(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Received::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The next event, if there is one by now.
    pub fn try_next(&mut self) -> Option<Received> {
        match self.0.try_recv() {
            Ok(event) => Some(Received::Event(event)),
            Err(broadcast::error::TryRecvError::Lagged(missed)) => Some(Received::Missed(missed)),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => {
                None
            }
        }
    }
}

/// Brings events to those who want them, in order, outside every other lock.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    stream: OnceLock<broadcast::Sender<Event>>,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    /// Whether a thread is bringing events round.
    delivering: bool,
    /// `None` takes no memory.
    observers: Option<Arc<Vec<Arc<dyn Observer>>>>,
    dropped: u64,
    /// Those of them that the log has not told of.
    untold: u64,
}

impl Outbox {
    /// Bytes on the heap when nothing waits.
    pub(crate) const BYTES: usize = size_of::<Self>();

    pub(crate) fn observe(&self, observer: Arc<dyn Observer>) -> Result<(), TooManyObservers> {
        let mut queue = self.queue.lock();
        let observers = queue.observers.get_or_insert_default();
        if observers.len() >= MAX_OBSERVERS {
            return Err(TooManyObservers(()));
        }
        Arc::make_mut(observers).push(observer);
        Ok(())
    }

    pub(crate) fn subscribe(&self) -> Events {
        let stream = self.stream.get_or_init(|| broadcast::channel(QUEUE).0);
        Events(stream.subscribe())
    }

    /// Events that no observer was told of, because too many waited.
    pub(crate) fn dropped(&self) -> u64 {
        self.queue.lock().dropped
    }

    /// Queues an event. The caller holds the lock of the machine, so that the order is right.
    pub(crate) fn push(&self, event: Event) {
        let mut queue = self.queue.lock();
        if queue.events.len() >= QUEUE {
            queue.events.pop_front();
            queue.dropped += 1;
            queue.untold += 1;
        }
        queue.events.push_back(event);
    }

    /// Brings round what is queued, unless another thread, or a caller of this one, is at it.
    pub(crate) fn deliver(&self) {
        let mut queue = self.queue.lock();
        if queue.delivering {
            return;
        }
        queue.delivering = true;
        let mut round = Round(Some(self));
        while let Some(event) = queue.events.pop_front() {
            let observers = queue.observers.clone();
            let dropped = std::mem::take(&mut queue.untold);
            drop(queue);
            guarded(&event, || log(&event, dropped));
            for observer in observers.iter().flat_map(|all| all.iter()) {
                guarded(&event, || observer.on_event(&event));
            }
            if let Some(stream) = self.stream.get() {
                // Fails when nobody listens.
                guarded(&event, || drop(stream.send(event.clone())));
            }
            queue = self.queue.lock();
        }
        queue.events.shrink_to_fit();
        queue.delivering = false;
        round.0 = None;
    }
}

/// Lets others bring events round should this thread panic, in a subscriber of the log say.
struct Round<'a>(Option<&'a Outbox>);

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if let Some(outbox) = self.0 {
            outbox.queue.lock().delivering = false;
        }
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.queue.lock();
        f.debug_struct("Outbox")
            .field("events", &queue.events)
            .field(
                "observers",
                &queue.observers.as_ref().map_or(0, |all| all.len()),
            )
            .finish_non_exhaustive()
    }
}

fn guarded(event: &Event, tell: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(tell)).is_err() {
        tracing::error!(
            breaker = event.breaker.as_str(),
            "an observer of the circuit breaker panicked"
        );
    }
}

fn log(event: &Event, dropped: u64) {
    let breaker = event.breaker.as_str();
    let key = event.key.as_deref();
    if dropped > 0 {
        tracing::warn!(
            breaker,
            key,
            dropped,
            "events of the circuit breaker were dropped, for an observer is slow"
        );
    }
    match event.kind {
        EventKind::Transition(Transition {
            from,
            to,
            reason,
            evidence,
            ..
        }) => {
            let Evidence {
                calls,
                failures,
                slow,
                rejected,
                attempt,
                generation,
                open_for,
                ..
            } = evidence;
            let open_for = open_for.map(|wait| wait.as_secs_f64());
            // An operator acts on a circuit that opens; the rest is good to know.
            if to.refuses() {
                tracing::warn!(
                    breaker, key, %from, %to, reason = reason.as_str(), calls, failures, slow,
                    rejected, attempt, generation, open_for, "circuit breaker {to}: {reason}"
                );
            } else {
                tracing::info!(
                    breaker, key, %from, %to, reason = reason.as_str(), calls, failures, slow,
                    rejected, attempt, generation, "circuit breaker {to}: {reason}"
                );
            }
        }
        EventKind::ThresholdReached { reason, evidence } => tracing::warn!(
            breaker,
            key,
            reason = reason.as_str(),
            calls = evidence.calls,
            failures = evidence.failures,
            slow = evidence.slow,
            "circuit breaker would have opened: {reason}"
        ),
        EventKind::Reset => tracing::info!(breaker, key, "circuit breaker reset"),
    }
}

impl CircuitBreaker {
    /// Has `observer` told of every event from now on, for as long as the breaker lives.
    ///
    /// # Errors
    ///
    /// A breaker has at most 16 observers.
    pub fn observe(&self, observer: impl Observer) -> Result<(), TooManyObservers> {
        self.shared().outbox().observe(Arc::new(observer))
    }

    /// The events from now on, for a task of your own to read.
    #[must_use]
    pub fn events(&self) -> Events {
        self.shared().outbox().subscribe()
    }
}
