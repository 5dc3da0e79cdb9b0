use plimsoll_adapter::{Adapter, AdapterBuilder, AdapterError, AdapterErrorKind, AdapterSnapshot};
use plimsoll_core::{BoxError, RejectReason, Rejected};
use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::oneshot;

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) type Text = Result<String, BoxError>;

/// A downstream that answers when told to: each call waits for its turn to be answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Downstream(Arc<Mutex<Inbox>>);

#[derive(Debug, Default)]
struct Inbox {
    asked: Vec<String>,
    waiting: VecDeque<(String, oneshot::Sender<Text>)>,
}

impl Downstream {
    pub(crate) fn function(
        &self,
    ) -> impl Fn(String) -> std::pin::Pin<Box<dyn Future<Output = Text> + Send>>
    + Clone
    + Send
    + Sync
    + 'static {
        let this = self.clone();
        move |request| {
            let (answer, answered) = oneshot::channel();
            let mut inbox = this.0.lock().unwrap();
            inbox.asked.push(request.clone());
            inbox.waiting.push_back((request, answer));
            Box::pin(async move { answered.await.unwrap_or_else(|_| Err("gone".into())) })
        }
    }

    pub(crate) fn adapter(&self, builder: AdapterBuilder) -> Adapter<String, String> {
        builder.function(self.function()).unwrap()
    }

    /// Every request that came, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    /// Answers the oldest call, and says whether somebody was there to hear it.
    pub(crate) fn answer(&self, answer: Text) -> bool {
        let (_, waiting) = self.0.lock().unwrap().waiting.pop_front().unwrap();
        waiting.send(answer).is_ok()
    }

    /// Answers the call that asked for `request`.
    pub(crate) fn answer_to(&self, request: &str, answer: Text) {
        let mut inbox = self.0.lock().unwrap();
        let place = inbox.waiting.iter().position(|(r, _)| r == request);
        let (_, waiting) = inbox.waiting.remove(place.unwrap()).unwrap();
        waiting.send(answer).unwrap();
    }
}

pub(crate) fn builder() -> AdapterBuilder {
    Adapter::builder("down")
}

/// Answers at once.
pub(crate) fn echo(name: &str) -> Adapter<String, String> {
    let function = |request| async move { Text::Ok(request) };
    Adapter::builder(name).function(function).unwrap()
}

pub(crate) fn reason(error: &AdapterError) -> RejectReason {
    let rejected = Rejected::find(error).unwrap();
    assert_eq!(rejected.source().as_str(), error.adapter());
    rejected.reason()
}

pub(crate) fn timed_out(error: &AdapterError) -> Option<Duration> {
    match error.kind() {
        AdapterErrorKind::TimedOut { after } => Some(*after),
        _ => None,
    }
}

/// Asserts that no call holds anything.
pub(crate) fn assert_idle(adapter: &Adapter<String, String>) -> AdapterSnapshot {
    let snapshot = adapter.snapshot();
    let held = (snapshot.in_flight, snapshot.queued, snapshot.queued_bytes);
    assert_eq!((held, snapshot.breaker.in_flight), ((0, 0, 0), 0));
    snapshot
}
