//! The errors of a stack, as responses.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use plimsoll_core::{BoxError, Name, RejectReason, Rejected};
use plimsoll_http::{RejectedToResponse, reject};
use std::{convert::Infallible, error::Error, fmt, time::Duration};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

const SOURCE: Name = Name::from_static("qa-sql");

#[derive(Debug)]
struct Outer(BoxError);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("outer")
    }
}

impl Error for Outer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// What becomes of `error`.
async fn answer<E: Into<BoxError>>(error: E) -> (Response<()>, serde_json::Value) {
    let error = std::sync::Mutex::new(Some(error));
    let service = RejectedToResponse::layer().layer(service_fn(|_: Request<()>| {
        let error = error.lock().unwrap().take().expect("called once");
        std::future::ready(Err::<Response<Full<Bytes>>, E>(error))
    }));
    let response = service.oneshot(Request::new(())).await.unwrap();
    let (head, body) = response.into_parts();
    let exact = body.size_hint().exact();
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(exact, Some(body.len() as u64));
    assert_eq!(head.headers["content-type"], "application/problem+json");
    let document = serde_json::from_slice(&body).unwrap();
    (Response::from_parts(head, ()), document)
}

#[tokio::test]
async fn every_reason_has_its_status_and_document() {
    let table = [
        (RejectReason::BodyTooLarge, 413, "Payload Too Large"),
        (RejectReason::CircuitOpen, 503, "Service Unavailable"),
        (RejectReason::InFlightLimit, 503, "Service Unavailable"),
        (RejectReason::MemoryPressure, 503, "Service Unavailable"),
        (RejectReason::OverBudget, 503, "Service Unavailable"),
        (RejectReason::QueueFull, 503, "Service Unavailable"),
        (RejectReason::QueueTimeout, 503, "Service Unavailable"),
        (RejectReason::ShareExceeded, 429, "Too Many Requests"),
        (RejectReason::ShuttingDown, 503, "Service Unavailable"),
    ];
    assert_eq!(table.map(|(reason, ..)| reason), RejectReason::ALL);
    for (reason, status, title) in table {
        let rejected = Rejected::new(reason, SOURCE);
        let (response, document) = answer(rejected).await;
        assert_eq!(response.status(), status, "{reason}");
        assert!(!response.headers().contains_key("retry-after"), "{reason}");
        let expected = serde_json::json!({
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": rejected.to_string(),
            "reason": reason.as_str(),
            "source": "qa-sql",
            "retry_after_s": null,
        });
        assert_eq!(document, expected, "{reason}");
    }
}

#[tokio::test]
async fn retry_after_is_in_whole_seconds_in_the_head_and_exact_in_the_document() {
    for (wait, header) in [
        (0.0, "1"),
        (0.25, "1"),
        (1.0, "1"),
        (1.5, "2"),
        (30.0, "30"),
    ] {
        let rejected = Rejected::new(RejectReason::CircuitOpen, SOURCE)
            .with_retry_after(Duration::from_secs_f64(wait));
        let (response, document) = answer(rejected).await;
        assert_eq!(response.headers()["retry-after"], header, "{wait}");
        assert_eq!(document["retry_after_s"], wait);
    }
    let longest = Rejected::new(RejectReason::CircuitOpen, SOURCE).with_retry_after(Duration::MAX);
    let (response, _) = answer(longest).await;
    assert_eq!(response.headers()["retry-after"], u64::MAX.to_string());
}

#[tokio::test]
async fn a_rejection_is_found_behind_other_errors() {
    let rejected = Rejected::new(RejectReason::ShareExceeded, SOURCE);
    let (response, document) = answer(Outer(Box::new(Outer(rejected.into())))).await;
    assert_eq!(response.status(), 429);
    assert_eq!(document["reason"], "share_exceeded");
}

#[tokio::test]
async fn a_refusal_can_be_told_from_an_answer_of_the_service() {
    let rejected = Rejected::new(RejectReason::QueueFull, SOURCE);
    let (response, _) = answer(Outer(rejected.into())).await;
    assert_eq!(response.extensions().get(), Some(&rejected));
    let (response, _) = answer("broken").await;
    assert_eq!(response.extensions().get::<Rejected>(), None);
}

#[tokio::test]
async fn another_error_tells_the_client_nothing() {
    let secret = "password=hunter2";
    for error in [BoxError::from(secret), Box::new(Outer(secret.into()))] {
        let (response, document) = answer(error).await;
        assert_eq!(response.status(), 500);
        let expected = serde_json::json!({
            "type": "about:blank",
            "title": "Internal Server Error",
            "status": 500,
        });
        assert_eq!(document, expected);
    }
}

#[tokio::test]
async fn a_response_passes_unchanged() {
    let service = RejectedToResponse::layer().layer(service_fn(async |_: Request<()>| {
        let mut response = Response::new(Full::<Bytes>::from("hello"));
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        Ok::<_, Infallible>(response)
    }));
    let response = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(response.status(), 418);
    assert_eq!(response.body().size_hint().exact(), Some(5));
    assert!(!response.body().is_end_stream());
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "hello"
    );
}

#[tokio::test]
async fn a_service_that_cannot_become_ready_is_answered_for_and_not_called() {
    let (mut service, mut inner) = tower_test::mock::spawn_layer::<Request<()>, Response<String>, _>(
        RejectedToResponse::layer(),
    );
    inner.allow(0);
    assert_pending!(service.poll_ready());
    inner.send_error(Rejected::new(RejectReason::QueueFull, SOURCE));
    assert_ready_ok!(service.poll_ready());
    let mut response = task::spawn(service.call(Request::new(())));
    let response = assert_ready_ok!(response.poll());
    assert_eq!(response.status(), 503);
    drop(service);
    assert!(inner.next_request().await.is_none(), "it was called");
}

#[tokio::test]
async fn a_failure_to_become_ready_belongs_to_one_call_and_not_to_a_clone() {
    /// Fails to become ready the first time only.
    #[derive(Clone)]
    struct Once(bool);

    impl Service<Request<()>> for Once {
        type Response = Response<String>;
        type Error = BoxError;
        type Future = std::future::Ready<Result<Response<String>, BoxError>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), BoxError>> {
            if std::mem::replace(&mut self.0, true) {
                return Ok(()).into();
            }
            Err("not yet".into()).into()
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            std::future::ready(Ok(Response::new(String::new())))
        }
    }

    let mut service = tower_test::mock::Spawn::new(RejectedToResponse::layer().layer(Once(false)));
    assert_ready_ok!(service.poll_ready());
    let mut clone = service.get_ref().clone();
    assert_eq!(service.call(Request::new(())).await.unwrap().status(), 500);
    assert_ready_ok!(service.poll_ready());
    assert_eq!(service.call(Request::new(())).await.unwrap().status(), 200);
    let response = clone.call(Request::new(())).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn any_inner_error_will_do() {
    fn infallible<S: Service<Request<()>, Error = Infallible>>(service: S) -> S {
        service
    }
    let stack = || ServiceBuilder::new().layer(RejectedToResponse::layer());
    let never = infallible(stack().service(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(String::from("hello")))
    })));
    assert_eq!(never.oneshot(Request::new(())).await.unwrap().status(), 200);
    let concrete = infallible(stack().service(service_fn(async |_: Request<()>| {
        Err::<Response<String>, _>(Rejected::new(RejectReason::BodyTooLarge, SOURCE))
    })));
    assert_eq!(
        concrete.oneshot(Request::new(())).await.unwrap().status(),
        413
    );
    let boxed = infallible(stack().service(service_fn(async |_: Request<()>| {
        Err::<Response<String>, BoxError>(fmt::Error.into())
    })));
    assert_eq!(boxed.oneshot(Request::new(())).await.unwrap().status(), 500);
}

#[tokio::test]
async fn it_serves_a_route_of_axum() {
    let full = service_fn(async |_: Request<axum::body::Body>| {
        let full = Rejected::new(RejectReason::InFlightLimit, SOURCE);
        Err::<Response<axum::body::Body>, BoxError>(full.into())
    });
    let service = ServiceBuilder::new()
        .layer(RejectedToResponse::layer())
        .service(full);
    let app = axum::Router::new().route_service("/a", service);
    let request = Request::builder().uri("/a").body(axum::body::Body::empty());
    let response = app.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
}

#[test]
fn its_types_can_be_shared_sent_and_debugged() {
    fn shared<T: Send + Sync + fmt::Debug>() {}
    type Inner = std::future::Ready<Result<Response<String>, BoxError>>;
    shared::<RejectedToResponse<String>>();
    shared::<reject::RejectedToResponseLayer>();
    shared::<reject::ProblemFuture<Inner>>();
    shared::<reject::ProblemBody<String>>();
}
