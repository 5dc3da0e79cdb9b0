//! A panic of what an adapter was given is an error like others.

use crate::support::{SECOND, Text, assert_idle, builder};
use plimsoll_adapter::{Adapter, AdapterError, AdapterErrorKind, RetryConfig};
use plimsoll_breaker::Outcome;
use plimsoll_core::BoxError;
use std::{
    future::{Pending, Ready, pending, ready},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio_test::{assert_pending, task::spawn};
use tower::Service;

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Clone,
    Ready,
    Call,
    Poll,
    Drop,
    DropPending,
}

#[derive(Debug)]
struct Bad(At);

impl Clone for Bad {
    fn clone(&self) -> Self {
        assert!(self.0 != At::Clone, "told to");
        Self(self.0)
    }
}

impl Service<String> for Bad {
    type Response = String;
    type Error = BoxError;
    type Future = BadCall;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        assert!(self.0 != At::Ready, "told to");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: String) -> BadCall {
        assert!(self.0 != At::Call, "told to");
        BadCall(self.0)
    }
}

struct BadCall(At);

impl Future for BadCall {
    type Output = Text;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Text> {
        assert!(self.0 != At::Poll, "told to");
        match self.0 {
            At::DropPending => Poll::Pending,
            _ => Poll::Ready(Ok(String::new())),
        }
    }
}

impl Drop for BadCall {
    fn drop(&mut self) {
        assert!(!matches!(self.0, At::Drop | At::DropPending), "told to");
    }
}

fn message(error: AdapterError) -> Box<str> {
    match error.into_kind() {
        AdapterErrorKind::Panicked { message } => message,
        other => panic!("it panicked: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_service_is_a_failure_wherever_it_comes() {
    for at in [
        At::Clone,
        At::Ready,
        At::Call,
        At::Poll,
        At::Drop,
        At::DropPending,
    ] {
        let adapter = builder().service(Bad(at)).unwrap();
        let error = adapter.call("x".into()).await.unwrap_err();
        assert_eq!(error.to_string(), "adapter down panicked: told to");
        assert_eq!(&*message(error), "told to");
        let snapshot = assert_idle(&adapter);
        assert_eq!(snapshot.panicked, 1, "{at:?}");
        assert_eq!(snapshot.breaker.totals.failures, 1, "{at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn panic_in_the_drop_of_a_cancelled_call_stays_there() {
    let adapter = builder().service(Bad(At::DropPending)).unwrap();
    let mut call = spawn(adapter.call("x".into()));
    assert_pending!(call.poll());
    drop(call);
    assert_eq!(assert_idle(&adapter).cancelled, 1);
}

fn now(_: String) -> Ready<Text> {
    ready(Ok(String::new()))
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_classifier_is_a_failure() {
    let judge = |_: Result<&String, &BoxError>, _: Duration| -> Outcome { panic!("judge") };
    let adapter = builder().classify(judge).function(now).unwrap();
    let error = adapter.call("x".into()).await.unwrap_err();
    assert_eq!(&*message(error), "judge");
    assert_eq!(assert_idle(&adapter).breaker.totals.failures, 1);
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_scale_or_of_a_copy_says_nothing_about_the_service() {
    let never = |_: String| -> Pending<Text> { pending() };
    let limits = builder().max_in_flight(1).timeout(60 * SECOND);
    let scale = limits.max_queued_bytes(1, |_: &String| -> u64 { panic!("scale") });
    let adapter = scale.function(never).unwrap();
    let mut running = spawn(adapter.call("x".into()));
    assert_pending!(running.poll());
    let error = adapter.call("x".into()).await.unwrap_err();
    assert_eq!(&*message(error), "scale");
    drop(running);
    assert_eq!(assert_idle(&adapter).panicked, 1);

    let copy = |_: &String| -> Option<String> { panic!("copy") };
    let adapter: Adapter<String, String> = builder()
        .retry(RetryConfig::new(), copy)
        .function(now)
        .unwrap();
    let error = adapter.call("x".into()).await.unwrap_err();
    assert_eq!(&*message(error), "copy");
    let snapshot = assert_idle(&adapter);
    assert_eq!(
        (snapshot.panicked, snapshot.breaker.totals.failures),
        (1, 0)
    );
}
