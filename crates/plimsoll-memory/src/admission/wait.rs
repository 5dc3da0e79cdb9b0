use super::{
    Permit, Priority,
    learn::Learned,
    ledger::Asking,
    permit::Hold,
    route::{Route, Standing},
};
use plimsoll_alloc::untracked;
use plimsoll_core::{Name, Rejected};
use std::{
    fmt, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

/// Whoever waits looks by itself so often, in case nobody else does.
const LOOKS_EVERY: Duration = Duration::from_millis(25);

/// One who waits, as the ledger sees it.
pub(super) struct Waiter {
    pub(super) name: Name,
    learned: Arc<Learned>,
    pub(super) priority: Priority,
    key: Option<u64>,
    declared: u64,
    /// What it wanted when it came.
    pub(super) want: u64,
    /// The key that is charged for that until it is in.
    pub(super) charged: Option<u64>,
    class: u8,
    is_counted: bool,
    state: Mutex<State>,
}

enum State {
    Waits(Option<Waker>),
    In(Hold),
    Gone,
}

/// A request that waits to be let in.
///
/// # Cancel safety
///
/// Dropping it gives its place to the next.
#[must_use = "futures do nothing unless polled"]
pub struct Waiting {
    route: Arc<Route>,
    /// None once it has answered.
    waiter: Option<Arc<Waiter>>,
    deadline: Instant,
    /// None until it is polled: whoever fails to make it has given its place back by then.
    sleep: Option<Pin<Box<Sleep>>>,
}

// === impl Waiter ===

impl Waiter {
    pub(super) fn new(
        asking: &Asking<'_>,
        priority: Priority,
        want: u64,
        charged: Option<u64>,
    ) -> Self {
        Self {
            name: asking.name,
            learned: asking.learned.clone(),
            priority,
            key: asking.key,
            declared: asking.declared,
            want,
            charged,
            class: asking.class,
            is_counted: asking.is_counted,
            state: Mutex::new(State::Waits(None)),
        }
    }

    pub(super) fn asking(&self) -> Asking<'_> {
        Asking {
            name: self.name,
            learned: &self.learned,
            class: self.class,
            standing: Standing::Asks(self.priority),
            key: self.key,
            declared: self.declared,
            is_counted: self.is_counted,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is neither in nor gone.
    pub(super) fn waits(&self) -> bool {
        matches!(*self.state(), State::Waits(_))
    }

    /// Lets it in, unless it has gone.
    pub(super) fn let_in(&self, hold: Hold) -> Result<Option<Waker>, Hold> {
        let mut state = self.state();
        match &mut *state {
            State::Waits(waker) => {
                let waker = waker.take();
                *state = State::In(hold);
                Ok(waker)
            }
            State::In(_) | State::Gone => Err(hold),
        }
    }

    /// Takes what it got, or notes who is to be woken.
    fn poll(&self, cx: &Context<'_>) -> Option<Hold> {
        let is_noted = match &*self.state() {
            State::Waits(waker) => waker.as_ref().is_some_and(|it| it.will_wake(cx.waker())),
            State::In(_) | State::Gone => true,
        };
        if !is_noted {
            self.note(cx.waker().clone());
        }
        let mut state = self.state();
        match &*state {
            State::Waits(_) => None,
            State::In(_) | State::Gone => Self::hold(mem::replace(&mut state, State::Gone)),
        }
    }

    /// Has this one woken. A waker is cloned and dropped without the lock: that calls whomever it is of.
    fn note(&self, waker: Waker) {
        let mut state = self.state();
        let before = match &mut *state {
            State::Waits(held) => held.replace(waker),
            State::In(_) | State::Gone => Some(waker),
        };
        drop(state);
        drop(before);
    }

    fn leave(&self) -> Option<Hold> {
        let before = mem::replace(&mut *self.state(), State::Gone);
        Self::hold(before)
    }

    fn hold(state: State) -> Option<Hold> {
        match state {
            State::In(hold) => Some(hold),
            State::Waits(_) | State::Gone => None,
        }
    }
}

// === impl Waiting ===

impl Waiting {
    pub(super) fn new(route: Arc<Route>, waiter: Arc<Waiter>, time: Duration) -> Self {
        Self {
            route,
            waiter: Some(waiter),
            deadline: Instant::now() + time,
            sleep: None,
        }
    }

    /// Waits to be let in.
    ///
    /// # Errors
    ///
    /// When it has waited as long as it may.
    ///
    /// # Panics
    ///
    /// When polled after it has answered, or outside a Tokio runtime.
    pub fn poll_admitted(&mut self, cx: &mut Context<'_>) -> Poll<Result<Permit, Rejected>> {
        loop {
            let waiter = self.waiter.as_ref().expect("polled after completion");
            if let Some(hold) = waiter.poll(cx) {
                self.waiter = None;
                return Poll::Ready(Ok(Permit::new(hold, self.route.clone())));
            }
            let deadline = self.deadline;
            let next = move |now| deadline.min(now + LOOKS_EVERY);
            let sleep = self
                .sleep
                .get_or_insert_with(|| untracked(|| Box::pin(sleep_until(next(Instant::now())))));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            let ledger = self.route.ledger();
            if now < self.deadline {
                sleep.as_mut().reset(next(now));
                ledger.tick_if_nobody_has();
                continue;
            }
            let waiter = self.waiter.take().expect("it was there before");
            if let Some(hold) = waiter.leave() {
                return Poll::Ready(Ok(Permit::new(hold, self.route.clone())));
            }
            let rejected = ledger.timed_out(&waiter);
            ledger.gave_up(&waiter);
            self.route.was_refused();
            return Poll::Ready(Err(rejected));
        }
    }
}

impl Future for Waiting {
    type Output = Result<Permit, Rejected>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_admitted(cx)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else {
            return;
        };
        match waiter.leave() {
            // It had come in, and does not know.
            Some(hold) => self.route.release(hold, None, 0),
            None => self.route.ledger().gave_up(&waiter),
        }
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting")
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}
