//! A call that is dropped gives back what it has taken, wherever it is.

use crate::support::{Downstream, MS, SECOND, Text, assert_idle, builder};
use plimsoll_adapter::Adapter;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_ok, task::spawn};

#[tokio::test(start_paused = true)]
async fn call_that_was_never_polled_does_nothing() {
    let down = Downstream::default();
    let adapter = down.adapter(builder());
    drop(adapter.call("x".into()));
    let snapshot = assert_idle(&adapter);
    assert_eq!(snapshot.cancelled, 0);
    assert!(down.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn call_dropped_in_line_leaves_it() {
    let down = Downstream::default();
    let adapter = down.adapter(builder().max_in_flight(1));
    let mut first = spawn(adapter.call("first".into()));
    let mut second = spawn(adapter.call("second".into()));
    let mut third = spawn(adapter.call("third".into()));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_pending!(third.poll());
    drop(second);
    assert_eq!(adapter.snapshot().queued, 1);
    down.answer(Ok(String::new()));
    assert_ready_ok!(first.poll());
    assert!(third.is_woken());
    assert_pending!(third.poll());
    assert_eq!(down.asked(), ["first", "third"]);
    drop(third);
    assert_eq!(assert_idle(&adapter).cancelled, 2);
}

#[tokio::test(start_paused = true)]
async fn call_dropped_when_a_slot_was_given_to_it_passes_it_on() {
    let down = Downstream::default();
    let adapter = down.adapter(builder().max_in_flight(1));
    let mut first = spawn(adapter.call("first".into()));
    let mut second = spawn(adapter.call("second".into()));
    let mut third = spawn(adapter.call("third".into()));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_pending!(third.poll());
    drop(first);
    assert!(second.is_woken());
    drop(second);
    assert!(third.is_woken());
    assert_pending!(third.poll());
    assert_eq!(down.asked(), ["first", "third"]);
}

#[tokio::test(start_paused = true)]
async fn running_call_that_is_dropped_early_is_not_held_against_the_service() {
    let down = Downstream::default();
    let adapter = down.adapter(builder());
    let mut call = spawn(adapter.call("x".into()));
    assert_pending!(call.poll());
    advance(SECOND - MS).await;
    drop(call);
    let snapshot = assert_idle(&adapter);
    assert_eq!(snapshot.cancelled, 1);
    assert_eq!(snapshot.breaker.totals.dropped, 1);
    assert_eq!(snapshot.breaker.totals.failures, 0);
    assert!(
        !down.answer(Ok(String::new())),
        "the service's future is gone"
    );
}

#[tokio::test(start_paused = true)]
async fn running_call_that_is_dropped_after_half_its_timeout_is() {
    let down = Downstream::default();
    let adapter = down.adapter(builder());
    let mut call = spawn(adapter.call("x".into()));
    assert_pending!(call.poll());
    advance(SECOND).await;
    drop(call);
    assert_eq!(assert_idle(&adapter).breaker.totals.failures, 1);
}

#[tokio::test(start_paused = true)]
async fn caller_who_panics_takes_the_call_along_and_blames_nobody() {
    let down = Downstream::default();
    let adapter = down.adapter(builder());
    for (waited, failures) in [(SECOND - MS, 0), (SECOND, 1)] {
        let mut call = spawn(adapter.call("x".into()));
        assert_pending!(call.poll());
        advance(waited).await;
        let caller = catch_unwind(AssertUnwindSafe(|| {
            let _call = call;
            panic!("the caller's own");
        }));
        assert!(caller.is_err());
        let snapshot = assert_idle(&adapter);
        assert_eq!(snapshot.breaker.totals.failures, failures);
    }
    assert_eq!(assert_idle(&adapter).cancelled, 2);
}

#[tokio::test(start_paused = true)]
async fn slot_is_free_only_once_the_future_of_the_service_is_gone() {
    type Seen = Arc<Mutex<Vec<u64>>>;
    #[derive(Clone, Default)]
    struct Watch(Arc<Mutex<Option<Adapter<String, String>>>>, Seen);
    struct Call(Watch, bool);
    impl Future for Call {
        type Output = Text;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Text> {
            match self.1 {
                true => Poll::Ready(Ok(String::new())),
                false => Poll::Pending,
            }
        }
    }
    impl Drop for Call {
        fn drop(&mut self) {
            let adapter = self.0.0.lock().unwrap().clone().unwrap();
            self.0.1.lock().unwrap().push(adapter.snapshot().in_flight);
        }
    }
    let watch = Watch::default();
    let adapter = {
        let watch = watch.clone();
        builder().function(move |request: String| Call(watch.clone(), request == "now"))
    };
    let adapter = adapter.unwrap();
    *watch.0.lock().unwrap() = Some(adapter.clone());
    adapter.call("now".into()).await.unwrap();
    adapter.call("never".into()).await.unwrap_err();
    let mut dropped = spawn(adapter.call("dropped".into()));
    assert_pending!(dropped.poll());
    drop(dropped);
    assert_eq!(*watch.1.lock().unwrap(), [1, 1, 1]);
    *watch.0.lock().unwrap() = None;
}
