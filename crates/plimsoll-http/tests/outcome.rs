//! Responses judged for a circuit breaker around a service.
#![cfg(feature = "breaker")]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use http::{Request, Response};
use plimsoll_breaker::{
    CircuitBreaker, CircuitBreakerConfig, CircuitBreakerLayer, CircuitOpen, Reason, State,
};
use plimsoll_core::{BoxError, Name, RejectReason, Rejected};
use plimsoll_http::{HttpOutcome, RejectedToResponse};
use std::{future::ready, time::Duration};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

fn breaker() -> CircuitBreaker {
    let config = CircuitBreakerConfig::new().jitter(0.0).minimum_calls(2);
    CircuitBreaker::new("orders", config).unwrap()
}

/// A service behind `breaker` that answers with this status and header each time.
fn answering(
    breaker: &CircuitBreaker,
    status: u16,
    retry_after: Option<&'static str>,
) -> impl Service<Request<()>, Response = Response<String>, Error = BoxError> {
    ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(breaker.clone()).classify(HttpOutcome))
        .service(service_fn(move |_: Request<()>| {
            let mut response = Response::builder().status(status);
            if let Some(value) = retry_after {
                response = response.header("retry-after", value);
            }
            ready(response.body(String::new()))
        }))
}

#[tokio::test(start_paused = true)]
async fn server_errors_open_the_circuit_and_other_responses_do_not() {
    for (status, expected) in [
        (200, State::Closed),
        (404, State::Closed),
        (429, State::Closed),
        (500, State::Open),
        (503, State::Open),
    ] {
        let breaker = breaker();
        let mut service = answering(&breaker, status, None);
        for _ in 0..2 {
            let response = service.ready().await.unwrap().call(Request::new(())).await;
            // The breaker changes no response.
            assert_eq!(response.unwrap().status(), status);
        }
        assert_eq!(breaker.state(), expected, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn requested_waits_are_brought_within_what_the_breaker_allows() {
    for (retry_after, expected) in [
        ("0", SECOND),
        ("Sun, 06 Nov 1994 08:49:37 GMT", SECOND),
        ("90", SECOND * 90),
        ("3601", SECOND * 3_600),
        ("99999999999999999999", SECOND * 3_600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", SECOND * 3_600),
    ] {
        for status in [429, 503] {
            let breaker = breaker();
            let mut service = answering(&breaker, status, Some(retry_after));
            let first = service.ready().await.unwrap().call(Request::new(())).await;
            assert_eq!(first.unwrap().status(), status);
            let refused = service.ready().await.unwrap().call(Request::new(())).await;
            let error = refused.unwrap_err();
            let open = CircuitOpen::find(&*error).unwrap();
            assert_eq!(open.reason(), Reason::Requested, "{status}, {retry_after}");
            assert_eq!(
                open.retry_after(),
                Some(expected),
                "{status}, {retry_after}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_that_cannot_be_read_opens_nothing_by_itself() {
    for retry_after in ["", "-1", "soon"] {
        let breaker = breaker();
        let response = answering(&breaker, 503, Some(retry_after)).oneshot(Request::new(()));
        assert_eq!(response.await.unwrap().status(), 503);
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot.state, State::Closed, "{retry_after:?}");
        assert_eq!(snapshot.window.failures, 1, "{retry_after:?}");
    }
}

/// A stack whose innermost service fails with `error`, which becomes a response inside a breaker.
async fn fail_100_times(breaker: &CircuitBreaker, error: impl Fn() -> BoxError) -> u16 {
    let mut service = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(breaker.clone()).classify(HttpOutcome))
        .layer(RejectedToResponse::layer())
        .service(service_fn(|_: Request<()>| {
            ready(Err::<Response<String>, _>(error()))
        }));
    let mut status = 0;
    for _ in 0..100 {
        match service.ready().await.unwrap().call(Request::new(())).await {
            Ok(response) => status = response.status().as_u16(),
            Err(error) => assert!(CircuitOpen::find(&*error).is_some()),
        }
    }
    status
}

#[tokio::test(start_paused = true)]
async fn refusals_of_our_own_are_ignored_when_they_have_become_responses() {
    for reason in RejectReason::ALL {
        let breaker = breaker();
        let rejected = Rejected::new(reason, Name::from_static("limit")).with_retry_after(SECOND);
        let status = fail_100_times(&breaker, || rejected.into()).await;
        assert_eq!(status, reason.status());
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot.state, State::Closed, "{reason}");
        assert_eq!(snapshot.window.calls, 0, "{reason}");
        assert_eq!(snapshot.totals.ignored, 100, "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn other_errors_are_failures_when_they_have_become_responses() {
    let breaker = breaker();
    assert_eq!(fail_100_times(&breaker, || "broken".into()).await, 500);
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn errors_are_failures_but_for_refusals_of_our_own() {
    let full = Rejected::new(RejectReason::QueueFull, Name::from_static("queue"));
    let reset = || BoxError::from("connection reset");
    for (rejected, expected) in [(Some(full), State::Closed), (None, State::Open)] {
        let breaker = breaker();
        let mut service = ServiceBuilder::new()
            .layer(CircuitBreakerLayer::new(breaker.clone()).classify(HttpOutcome))
            .service(service_fn(|_: Request<()>| {
                ready(Err::<Response<String>, _>(
                    rejected.map_or_else(reset, BoxError::from),
                ))
            }));
        for _ in 0..2 {
            let called = service.ready().await.unwrap().call(Request::new(())).await;
            assert!(called.is_err());
        }
        assert_eq!(breaker.state(), expected);
    }
}
