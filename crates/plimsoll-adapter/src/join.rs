//! Calls in parallel, inside one task.

use crate::{AdapterError, AdapterErrorKind, Answer, Answers, future::CallFuture};
use futures_util::{Stream, stream::FuturesUnordered};
use std::{
    borrow::Cow,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    task::unconstrained,
    time::{Instant, sleep},
};

/// Up to so many calls are all polled whenever one is woken; of more, only those that were. Below
/// that it costs less than to know which they were.
const FEW_CALLS: usize = 32;

/// An adapter that was asked for.
pub(crate) struct Asked<Res> {
    adapter: Cow<'static, str>,
    state: State<Res>,
}

enum State<Res> {
    Calling(CallFuture<Res>),
    Done(Result<Res, AdapterError>, Duration),
    /// Its call is with the others that are polled when they are woken.
    Elsewhere,
}

impl<Res> Asked<Res> {
    pub(crate) const fn call(adapter: Cow<'static, str>, call: CallFuture<Res>) -> Self {
        let state = State::Calling(call);
        Self { adapter, state }
    }

    pub(crate) const fn done(
        adapter: Cow<'static, str>,
        result: Result<Res, AdapterError>,
    ) -> Self {
        let state = State::Done(result, Duration::ZERO);
        Self { adapter, state }
    }
}

/// A call that knows whose it is.
struct Numbered<Res> {
    number: usize,
    call: CallFuture<Res>,
}

impl<Res> Future for Numbered<Res> {
    type Output = (usize, Result<Res, AdapterError>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.call).poll(cx));
        Poll::Ready((self.number, result))
    }
}

/// Polls all calls until they are done, or it is time.
pub(crate) async fn join<Res>(
    mut asked: Vec<Asked<Res>>,
    deadline: Option<Duration>,
) -> Answers<Res> {
    let start = Instant::now();
    match deadline {
        None => poll_all(&mut asked, start).await,
        Some(deadline) => {
            let mut all = pin!(poll_all(&mut asked, start));
            let mut timer = pin!(sleep(deadline));
            // What is there in time counts, so the calls come first. Calls that use up the task's
            // budget must not keep the timer from being looked at.
            poll_fn(|cx| match all.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => Pin::new(&mut unconstrained(timer.as_mut())).poll(cx),
            })
            .await;
        }
    }
    let after = deadline.unwrap_or_default();
    let answers = asked.into_iter().map(|asked| {
        let Asked { adapter, state } = asked;
        let (result, elapsed) = match state {
            State::Done(result, elapsed) => (result, elapsed),
            State::Calling(_) | State::Elsewhere => {
                let kind = AdapterErrorKind::TimedOut { after };
                (Err(AdapterError::named(adapter.clone(), kind)), after)
            }
        };
        Answer::new(adapter, result, elapsed)
    });
    Answers::new(answers.collect())
}

async fn poll_all<Res>(asked: &mut [Asked<Res>], start: Instant) {
    if asked.len() <= FEW_CALLS {
        poll_fn(|cx| poll_each(asked, start, cx)).await;
        return;
    }
    let mut calls = FuturesUnordered::new();
    for (number, asked) in asked.iter_mut().enumerate() {
        match std::mem::replace(&mut asked.state, State::Elsewhere) {
            State::Calling(call) => calls.push(Numbered { number, call }),
            done => asked.state = done,
        }
    }
    while let Some((number, result)) = poll_fn(|cx| Pin::new(&mut calls).poll_next(cx)).await {
        asked[number].state = State::Done(result, since(start));
    }
}

fn poll_each<Res>(asked: &mut [Asked<Res>], start: Instant, cx: &mut Context<'_>) -> Poll<()> {
    let mut all = Poll::Ready(());
    for asked in asked {
        if let State::Calling(call) = &mut asked.state {
            match Pin::new(call).poll(cx) {
                Poll::Ready(result) => asked.state = State::Done(result, since(start)),
                Poll::Pending => all = Poll::Pending,
            }
        }
    }
    all
}

fn since(start: Instant) -> Duration {
    Instant::now().saturating_duration_since(start)
}
