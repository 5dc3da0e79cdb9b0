//! The edge layer: what it counts, and what it leaves as it is.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use plimsoll_core::{BoxError, Name};
use plimsoll_http::{Edge, EdgeLayer, EndpointLabel, edge};
use plimsoll_memory::{Attribution, Budget, BudgetMode, MemoryConfig};
use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Pending, pending, ready},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::{Context, Poll},
};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Data = BytesMut;

/// A body of the frames it was given, whose data are not `Bytes`.
#[derive(Default)]
struct Frames {
    frames: VecDeque<Result<Frame<Data>, BoxError>>,
    size: SizeHint,
    /// Whether it says that it has ended before it is asked for another frame.
    knows_its_end: bool,
}

impl Frames {
    fn of<const N: usize>(sizes: [usize; N]) -> Self {
        let frames = sizes.map(|size| Ok(Frame::data(Data::from(&*vec![b'x'; size]))));
        Self {
            frames: frames.into(),
            ..Self::default()
        }
    }

    fn with(mut self, frame: Result<Frame<Data>, BoxError>) -> Self {
        self.frames.push_back(frame);
        self
    }
}

impl Body for Frames {
    type Data = Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Data>, BoxError>>> {
        Poll::Ready(self.frames.pop_front())
    }

    fn is_end_stream(&self) -> bool {
        self.knows_its_end && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

fn hello(_: Request<()>) -> std::future::Ready<Result<Response<Full<Bytes>>, Infallible>> {
    ready(Ok(Response::new(Full::from("hello"))))
}

fn get() -> Request<()> {
    Request::new(())
}

fn labelled(label: &'static str) -> Request<()> {
    let mut request = get();
    let label = EndpointLabel(Name::from_static(label));
    request.extensions_mut().insert(label);
    request
}

fn no_waker() -> Context<'static> {
    Context::from_waker(std::task::Waker::noop())
}

// === In flight ===

#[tokio::test]
async fn a_request_is_in_flight_until_its_body_has_ended() {
    let layer = EdgeLayer::new();
    let response = layer.layer(service_fn(hello)).oneshot(get()).await.unwrap();
    let mut body = pin!(response.into_body());
    assert_eq!(layer.in_flight(), 1);
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert!(body.frame().await.is_none());
    assert_eq!(layer.in_flight(), 0, "although the body is still there");
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_body_is_dropped() {
    let layer = EdgeLayer::new();
    let response = layer.layer(service_fn(hello)).oneshot(get()).await.unwrap();
    assert_eq!(layer.in_flight(), 1);
    drop(response);
    assert_eq!(layer.in_flight(), 0);
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_body_fails() {
    let layer = EdgeLayer::new();
    let service = layer.layer(service_fn(async |_: Request<()>| {
        let body = Frames::of([3]).with(Err("gone".into()));
        Ok::<_, Infallible>(Response::new(body))
    }));
    let mut body = pin!(service.oneshot(get()).await.unwrap().into_body());
    body.frame().await.unwrap().unwrap();
    assert_eq!(layer.in_flight(), 1);
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(layer.in_flight(), 0);
}

#[test]
fn a_request_is_in_flight_from_the_call_until_its_future_is_dropped() {
    let layer = EdgeLayer::new();
    let mut service = layer.layer(service_fn(|_: Request<()>| {
        pending::<Result<Response<String>, Infallible>>()
    }));
    let unpolled = service.call(get());
    let mut polled = task::spawn(service.call(get()));
    assert_pending!(polled.poll());
    assert_eq!(layer.in_flight(), 2);
    drop(unpolled);
    assert_eq!(layer.in_flight(), 1);
    drop(polled);
    assert_eq!(layer.in_flight(), 0);
}

#[tokio::test]
async fn a_request_that_fails_is_no_longer_in_flight() {
    let layer = EdgeLayer::new();
    let service = layer.layer(service_fn(async |_: Request<()>| {
        Err::<Response<String>, BoxError>("no".into())
    }));
    assert_eq!(service.oneshot(get()).await.unwrap_err().to_string(), "no");
    assert_eq!(layer.in_flight(), 0);
}

#[test]
fn a_request_whose_service_panics_is_no_longer_in_flight() {
    let layer = EdgeLayer::new();
    let mut in_call = layer.layer(service_fn(
        |_: Request<()>| -> Pending<Result<Response<String>, Infallible>> { panic!("in call") },
    ));
    catch_unwind(AssertUnwindSafe(|| drop(in_call.call(get())))).unwrap_err();
    assert_eq!(layer.in_flight(), 0);

    let mut in_poll = layer.layer(service_fn(
        async |_: Request<()>| -> Result<Response<String>, Infallible> { panic!("in poll") },
    ));
    let mut future = Box::pin(in_poll.call(get()));
    catch_unwind(AssertUnwindSafe(|| {
        let _ = future.as_mut().poll(&mut no_waker());
    }))
    .unwrap_err();
    drop(future);
    assert_eq!(layer.in_flight(), 0);
}

#[tokio::test]
async fn clones_of_a_layer_and_all_its_services_share_their_counts() {
    let layer = EdgeLayer::new();
    let one = layer.layer(service_fn(hello)).oneshot(get()).await.unwrap();
    let two = layer.clone().layer(service_fn(hello));
    let two = two.clone().oneshot(labelled("other")).await.unwrap();
    assert_eq!(layer.in_flight(), 2);
    assert_eq!(layer.clone().in_flight(), 2);
    drop((one, two));
    assert_eq!(layer.in_flight(), 0);
}

#[tokio::test]
async fn endpoints_past_the_bound_share_one_and_are_counted() {
    let layer = EdgeLayer::max_endpoints(2);
    let service = layer.layer(service_fn(hello));
    for (label, overflowed) in [("a", 0), ("b", 0), ("c", 1), ("d", 2), ("a", 2), ("c", 3)] {
        let response = service.clone().oneshot(labelled(label)).await.unwrap();
        assert_eq!(layer.overflowed(), overflowed, "{label}");
        assert_eq!(layer.in_flight(), 1, "{label}");
        drop(response);
    }
    // The first request that a service sees is counted once, too.
    let late = layer.layer(service_fn(hello));
    late.oneshot(labelled("e")).await.unwrap();
    assert_eq!(layer.overflowed(), 4);
    assert_eq!(layer.in_flight(), 0);
}

#[tokio::test]
async fn a_label_longer_than_a_name_is_found_again() {
    const LONG: &str = match str::from_utf8(&[b'l'; 200]) {
        Ok(long) => long,
        Err(_) => unreachable!(),
    };
    let layer = EdgeLayer::max_endpoints(1);
    let service = layer.layer(service_fn(hello));
    for _ in 0..3 {
        service.clone().oneshot(labelled(LONG)).await.unwrap();
    }
    assert_eq!(layer.overflowed(), 0);
}

// === What passes through ===

#[tokio::test]
async fn frames_trailers_and_hints_pass_unchanged() {
    let service = EdgeLayer::new().layer(service_fn(async |_: Request<()>| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        let mut body = Frames::of([3, 4]).with(Ok(Frame::trailers(trailers)));
        body.size = SizeHint::with_exact(7);
        body.knows_its_end = true;
        Ok::<_, Infallible>(Response::new(body))
    }));
    let mut body = pin!(service.oneshot(get()).await.unwrap().into_body());
    assert_eq!(body.size_hint().exact(), Some(7));
    for size in [3, 4] {
        assert!(!body.is_end_stream());
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data.len(), size);
    }
    let trailers = body.frame().await.unwrap().unwrap();
    assert_eq!(trailers.trailers_ref().unwrap()["x-sum"], "7");
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn readiness_is_that_of_the_inner_service() {
    let (mut service, mut inner) =
        tower_test::mock::spawn_layer::<Request<()>, Response<String>, _>(EdgeLayer::new());
    inner.allow(0);
    assert_pending!(service.poll_ready());
    inner.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
    let mut response = task::spawn(service.call(get()));
    assert_pending!(response.poll());
    let (_, reply) = inner.next_request().await.unwrap();
    reply.send_response(Response::new(String::from("hello")));
    assert_eq!(assert_ready_ok!(response.poll()).status(), 200);
    assert_pending!(service.poll_ready());
    inner.send_error("broken");
    assert_eq!(
        assert_ready_err!(service.poll_ready()).to_string(),
        "broken"
    );
}

#[tokio::test]
async fn a_clone_is_as_unready_as_a_clone_of_the_inner_service() {
    let (mut service, mut inner) =
        tower_test::mock::spawn_layer::<Request<()>, Response<String>, _>(EdgeLayer::new());
    inner.allow(1);
    assert_ready_ok!(service.poll_ready());
    let mut clone = service.clone();
    let _response = service.call(get());
    assert_pending!(clone.poll_ready(), "the one place is taken");
    inner.allow(1);
    assert!(clone.is_woken());
    assert_ready_ok!(clone.poll_ready());
}

#[tokio::test]
async fn the_inner_error_is_kept_whatever_its_type() {
    let never = EdgeLayer::new().layer(service_fn(hello));
    let response: Result<_, Infallible> = never.oneshot(get()).await;
    assert!(response.is_ok());

    let concrete = ServiceBuilder::new()
        .layer(EdgeLayer::new())
        .service(service_fn(async |_: Request<()>| {
            Err::<Response<String>, _>(std::fmt::Error)
        }));
    let response: Result<_, std::fmt::Error> = concrete.oneshot(get()).await;
    assert!(response.is_err());

    let boxed = ServiceBuilder::new()
        .layer(EdgeLayer::new())
        .service(service_fn(async |_: Request<()>| {
            Err::<Response<String>, BoxError>("no".into())
        }));
    let response: Result<_, BoxError> = boxed.oneshot(get()).await;
    assert_eq!(response.unwrap_err().to_string(), "no");
}

#[test]
fn its_types_can_be_shared_sent_cloned_and_debugged() {
    fn shared<T: Send + Sync + std::fmt::Debug>() {}
    fn cloned<T: Clone>() {}
    type Ready = std::future::Ready<Result<Response<String>, Infallible>>;
    type Inner = tower::util::ServiceFn<fn(Request<String>) -> Ready>;
    shared::<EdgeLayer>();
    shared::<Edge<String>>();
    shared::<EndpointLabel>();
    shared::<edge::EdgeBody<String>>();
    shared::<edge::future::EdgeFuture<Inner, String>>();
    cloned::<EdgeLayer>();
    cloned::<Edge<String>>();
    cloned::<EndpointLabel>();
    assert_eq!(
        format!("{:?}", EdgeLayer::max_endpoints(7)),
        "EdgeLayer { endpoints: Endpoints { max: 7, in_flight: 0, .. } }"
    );
}

// === Where nobody counts what is allocated ===

/// A service whose response has these frames.
fn streams<const N: usize>(
    sizes: [usize; N],
) -> impl Service<Request<()>, Response = Response<Frames>, Error = Infallible> + Clone {
    service_fn(move |_: Request<()>| ready(Ok(Response::new(Frames::of(sizes)))))
}

#[tokio::test]
async fn memory_of_a_request_is_estimated_by_the_bytes_of_its_bodies() {
    let layer = EdgeLayer::new();
    let service = layer.layer(streams([3_000, 5_000, 10]));
    let mut upload = labelled("/estimated");
    let length = HeaderValue::from_static("40000");
    upload.headers_mut().insert("content-length", length);
    for request in [upload, labelled("/estimated")] {
        let response = service.clone().oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let memory = &layer.snapshot()[0].memory;
    assert_eq!(memory.requests(), 2);
    assert_eq!(memory.attribution(), Some(Attribution::Estimated));
    assert_eq!(memory.attributed(Attribution::Estimated), 2);
    assert_eq!(memory.allocated.sum, 40_000 + 2 * 8_010);
    // What was held at a time is for the log of heavy ones alone.
    assert_eq!((memory.peak.sum, memory.left.sum, memory.live), (0, 0, 0));
}

#[tokio::test]
async fn budgets_refuse_nothing_that_is_estimated() {
    let config = MemoryConfig::new().budget(1).headers(true);
    let config = config.on_over_budget(BudgetMode::Enforce);
    let layer = EdgeLayer::new().memory(&config).unwrap();
    let mut upload = labelled("/tiny");
    upload.extensions_mut().insert(Budget::enforce(0));
    let length = HeaderValue::from_static("1000000");
    upload.headers_mut().insert("content-length", length);
    let service = layer.layer(streams([1_000_000, 1_000_000]));
    let response = service.oneshot(upload).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("x-memory-delta-mb"));
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes().len(), 2_000_000);
    let memory = &layer.snapshot()[0].memory;
    assert_eq!((memory.over_budget, memory.refused, memory.cut), (0, 0, 0));
    assert_eq!(memory.budget, Some(Budget::enforce(1)));
}

#[tokio::test]
async fn heavy_requests_that_are_estimated_are_logged_as_such() {
    let config = MemoryConfig::new().heavy(4_999);
    let layer = EdgeLayer::new().memory(&config).unwrap();
    for (endpoint, size) in [("/light", 4_999), ("/heavy", 5_000)] {
        let service = layer.layer(streams([10, size]));
        let response = service.oneshot(labelled(endpoint)).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let logged = layer.heavy().newest(10);
    assert_eq!(logged.len(), 1);
    assert_eq!(logged[0].name.as_str(), "/heavy");
    assert_eq!(
        (logged[0].method, logged[0].status),
        (Some("GET"), Some(200))
    );
    let sample = logged[0].sample;
    assert_eq!((sample.allocated, sample.peak), (5_010, 5_000));
    assert_eq!(sample.attribution, Attribution::Estimated);
}

#[tokio::test]
async fn estimate_of_a_request_that_is_dropped_is_what_was_sent_by_then() {
    let layer = EdgeLayer::new();
    let service = layer.layer(streams([1_000, 2_000, 4_000]));
    let response = service.oneshot(labelled("/dropped")).await.unwrap();
    let mut body = Box::pin(response.into_body());
    for _ in 0..2 {
        body.frame().await.unwrap().unwrap();
    }
    assert_eq!(layer.snapshot()[0].memory.requests(), 0);
    drop(body);
    let memory = &layer.snapshot()[0].memory;
    assert_eq!((memory.requests(), memory.allocated.sum), (1, 3_000));
}

// === What is counted ===

#[cfg(feature = "metrics")]
mod counted {
    use super::*;
    use http::{Method, StatusCode};
    use metrics_exporter_prometheus::PrometheusBuilder;
    use std::{convert::identity, time::Duration};

    /// Runs `test` with an edge, and returns what that publishes then.
    fn lines(test: impl AsyncFnOnce(EdgeLayer)) -> Vec<String> {
        lines_of(&EdgeLayer::new(), test)
    }

    fn lines_of(edge: &EdgeLayer, test: impl AsyncFnOnce(EdgeLayer)) -> Vec<String> {
        tokio_test::block_on(test(edge.clone()));
        published(edge)
    }

    fn published(edge: &EdgeLayer) -> Vec<String> {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || edge.publish_metrics());
        let mut lines: Vec<_> = recorder
            .handle()
            .render()
            .lines()
            .filter(|line| line.starts_with("plimsoll_http_"))
            // How long it took is not for a test to say.
            .filter(|line| !line.contains("_seconds_bucket") && !line.contains("_seconds_sum"))
            .map(String::from)
            .collect();
        lines.sort_unstable();
        lines
    }

    fn of_metric<'a>(lines: &'a [String], name: &str) -> Vec<&'a str> {
        let of_metric = |line: &'a String| line.strip_prefix("plimsoll_http_")?.strip_prefix(name);
        lines.iter().filter_map(of_metric).collect()
    }

    /// How many requests were cut, as far as an endpoint was seen.
    fn cut(lines: &[String]) -> Vec<&str> {
        of_metric(lines, "responses_cut_total")
    }

    async fn read<B: Body<Error: std::fmt::Debug>>(response: Response<B>) {
        let mut body = pin!(response.into_body());
        while let Some(frame) = body.frame().await {
            frame.unwrap();
        }
    }

    #[test]
    fn a_request_makes_these_lines() {
        let lines = lines(async |edge| {
            let service = edge.layer(service_fn(hello));
            for _ in 0..3 {
                read(service.clone().oneshot(labelled("/a/{id}")).await.unwrap()).await;
            }
        });
        assert_eq!(
            lines,
            [
                r#"plimsoll_http_in_flight{endpoint="/a/{id}"} 0"#,
                r#"plimsoll_http_memory_requests_total{endpoint="/a/{id}",attribution="estimated"} 3"#,
                r#"plimsoll_http_request_seconds_count{endpoint="/a/{id}",method="GET",status="2xx"} 3"#,
                r#"plimsoll_http_requests_total{endpoint="/a/{id}",method="GET",status="2xx"} 3"#,
                r#"plimsoll_http_response_bytes_total{endpoint="/a/{id}",method="GET",status="2xx"} 15"#,
                r#"plimsoll_http_responses_cut_total{endpoint="/a/{id}"} 0"#,
            ]
        );
    }

    #[test]
    fn a_request_in_flight_shows_in_the_gauge_alone() {
        let edge = EdgeLayer::new();
        let _in_flight = edge.layer(service_fn(hello)).call(get());
        let lines = published(&edge);
        assert_eq!(
            lines,
            [
                r#"plimsoll_http_in_flight{endpoint="__unmatched__"} 1"#,
                r#"plimsoll_http_responses_cut_total{endpoint="__unmatched__"} 0"#,
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn times_go_into_their_buckets() {
        let edge = EdgeLayer::new();
        for millis in [0, 1, 2, 60, 20_000] {
            let slow = service_fn(|request: Request<()>| async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                hello(request).await
            });
            read(edge.layer(slow).oneshot(get()).await.unwrap()).await;
        }
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            edge.publish_metrics();
            // Once more does not count twice.
            edge.publish_metrics();
        });
        let rendered = recorder.handle().render();
        let labels = r#"endpoint="__unmatched__",method="GET",status="2xx""#;
        for (bound, count) in [
            ("0.0001", 1),
            ("0.001", 2),
            ("0.0025", 3),
            ("0.1", 4),
            ("10", 4),
            ("+Inf", 5),
        ] {
            let line = format!(
                "plimsoll_http_request_seconds_bucket{{{labels},le=\"{bound}\"}} {count}\n"
            );
            assert!(rendered.contains(&line), "{line}{rendered}");
        }
        let sum = format!("plimsoll_http_request_seconds_sum{{{labels}}} 20.063\n");
        assert!(rendered.contains(&sum), "{rendered}");
    }

    #[test]
    fn every_status_has_its_class() {
        let lines = lines(async |edge| {
            let service = edge.layer(service_fn(async |request: Request<()>| {
                let mut response = Response::new(String::new());
                *response.status_mut() = *request.extensions().get::<StatusCode>().unwrap();
                Ok::<_, Infallible>(response)
            }));
            for status in [101, 200, 204, 304, 404, 499, 500, 599, 999] {
                let mut request = get();
                let status = StatusCode::from_u16(status).unwrap();
                request.extensions_mut().insert(status);
                read(service.clone().oneshot(request).await.unwrap()).await;
            }
        });
        assert_eq!(
            of_metric(&lines, "requests_total"),
            [("1xx", 1), ("2xx", 2), ("3xx", 1), ("4xx", 2), ("5xx", 3)].map(|(class, count)| {
                format!(r#"{{endpoint="__unmatched__",method="GET",status="{class}"}} {count}"#)
            })
        );
        assert_eq!(cut(&lines), [r#"{endpoint="__unmatched__"} 0"#]);
    }

    #[test]
    fn methods_out_of_the_ordinary_share_a_label() {
        let methods = [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW",
            "get",
        ];
        let lines = lines(async |edge| {
            let service = edge.layer(service_fn(hello));
            for method in methods {
                let mut request = get();
                *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
                read(service.clone().oneshot(request).await.unwrap()).await;
            }
        });
        let mut expected = methods[..7]
            .iter()
            .map(|method| (*method, 1))
            .chain([("OTHER", 4)])
            .map(|(method, count)| {
                format!(r#"{{endpoint="__unmatched__",method="{method}",status="2xx"}} {count}"#)
            })
            .collect::<Vec<_>>();
        expected.sort_unstable();
        assert_eq!(of_metric(&lines, "requests_total"), expected);
    }

    /// The status of the one request that `test` makes.
    fn status(test: impl AsyncFnOnce(EdgeLayer)) -> String {
        let lines = lines(test);
        let requests = of_metric(&lines, "requests_total");
        let [line] = requests[..] else {
            panic!("not one request: {requests:?}");
        };
        let (_, status) = line.split_once("status=\"").unwrap();
        String::from(status.strip_suffix("\"} 1").unwrap())
    }

    #[test]
    fn a_failure_is_an_error() {
        let status = status(async |edge| {
            let fails =
                service_fn(async |_: Request<()>| Err::<Response<String>, BoxError>("no".into()));
            edge.layer(fails).oneshot(get()).await.unwrap_err();
        });
        assert_eq!(status, "error");
    }

    #[test]
    fn a_panic_is_an_error_in_a_call_and_in_a_poll_that_is_survived() {
        let in_call = status(async |edge| {
            let mut service = edge.layer(service_fn(
                |_: Request<()>| -> Pending<Result<Response<String>, Infallible>> { panic!() },
            ));
            catch_unwind(AssertUnwindSafe(|| drop(service.call(get())))).unwrap_err();
        });
        assert_eq!(in_call, "error");
        let in_poll = status(async |edge| {
            let mut service = edge.layer(service_fn(
                async |_: Request<()>| -> Result<Response<String>, Infallible> { panic!() },
            ));
            let mut future = Box::pin(service.call(get()));
            let poll = AssertUnwindSafe(|| {
                let _ = future.as_mut().poll(&mut no_waker());
            });
            catch_unwind(poll).unwrap_err();
            // A layer that catches panics drops the future only now.
            drop(future);
        });
        assert_eq!(in_poll, "error");
    }

    #[test]
    fn a_request_dropped_before_its_response_is_cancelled() {
        fn never(_: Request<()>) -> Pending<Result<Response<String>, Infallible>> {
            pending()
        }
        let unpolled = status(async |edge| drop(edge.layer(service_fn(never)).call(get())));
        assert_eq!(unpolled, "cancelled");
        let polled = status(async |edge| {
            let mut future = task::spawn(edge.layer(service_fn(never)).call(get()));
            assert_pending!(future.poll());
        });
        assert_eq!(polled, "cancelled");
        // The panic of somebody else is not its own.
        let unwound = status(async |edge| {
            let unwind = AssertUnwindSafe(|| {
                let _future = edge.layer(service_fn(never)).call(get());
                panic!("somebody else's");
            });
            catch_unwind(unwind).unwrap_err();
        });
        assert_eq!(unwound, "cancelled");
    }

    #[test]
    fn bytes_are_those_of_all_data_frames_without_the_trailers() {
        let lines = lines(async |edge| {
            let service = edge.layer(service_fn(async |_: Request<()>| {
                let trailers = Frame::trailers(HeaderMap::from_iter([(
                    http::HeaderName::from_static("x-sum"),
                    HeaderValue::from_static("0123456789"),
                )]));
                let body = Frames::of([1, 0, 20, 300]).with(Ok(trailers));
                Ok::<_, Infallible>(Response::new(body))
            }));
            read(service.oneshot(get()).await.unwrap()).await;
        });
        assert_eq!(
            of_metric(&lines, "response_bytes_total"),
            [r#"{endpoint="__unmatched__",method="GET",status="2xx"} 321"#]
        );
        assert_eq!(cut(&lines), [r#"{endpoint="__unmatched__"} 0"#]);
    }

    /// Whether a response counts as cut, of which `frames` frames are read.
    fn is_cut(
        frames: usize,
        change: impl Fn(Request<()>) -> Request<()>,
        response: impl Fn() -> Response<Frames>,
    ) -> bool {
        let lines = lines(async |edge| {
            let service = edge.layer(service_fn(|_: Request<()>| {
                let response = response();
                async { Ok::<_, Infallible>(response) }
            }));
            let response = service.oneshot(change(get())).await.unwrap();
            let mut body = pin!(response.into_body());
            for _ in 0..frames {
                let _ = body.frame().await;
            }
        });
        match cut(&lines)[..] {
            [r#"{endpoint="__unmatched__"} 0"#] => false,
            [r#"{endpoint="__unmatched__"} 1"#] => true,
            ref other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_body_dropped_midway_or_failing_is_cut_and_one_read_to_its_end_is_not() {
        let two_frames = || Response::new(Frames::of([5, 5]));
        for frames in [0, 1, 2] {
            assert!(is_cut(frames, identity, two_frames), "{frames}");
        }
        assert!(!is_cut(3, identity, two_frames), "the end was told");

        let fails = || Response::new(Frames::of([5]).with(Err("gone".into())));
        assert!(is_cut(2, identity, fails));
        assert!(
            is_cut(3, identity, fails),
            "what comes after an error is no end"
        );
    }

    #[test]
    fn the_last_frame_is_the_end_when_the_body_says_so() {
        let says_so = || {
            let mut body = Frames::of([5, 5]);
            body.knows_its_end = true;
            Response::new(body)
        };
        assert!(is_cut(1, identity, says_so));
        assert!(!is_cut(2, identity, says_so));
        let empty = || {
            Response::new(Frames {
                knows_its_end: true,
                ..Frames::default()
            })
        };
        assert!(!is_cut(0, identity, empty));
    }

    #[test]
    fn the_last_byte_is_the_end_when_the_length_is_known() {
        let hinted = || {
            let mut body = Frames::of([5, 5]);
            body.size = SizeHint::with_exact(10);
            Response::new(body)
        };
        assert!(is_cut(1, identity, hinted));
        assert!(!is_cut(2, identity, hinted));
        let declared = || {
            let response = Response::builder().header("content-length", "10");
            response.body(Frames::of([5, 5])).unwrap()
        };
        assert!(is_cut(1, identity, declared));
        assert!(!is_cut(2, identity, declared));
        let nonsense = || {
            let response = Response::builder().header("content-length", "ten");
            response.body(Frames::of([5, 5])).unwrap()
        };
        assert!(is_cut(2, identity, nonsense));
    }

    #[test]
    fn responses_without_a_body_on_the_wire_are_not_cut() {
        let body = || Response::new(Frames::of([5]));
        assert!(is_cut(0, identity, body));
        let head = |mut request: Request<()>| {
            *request.method_mut() = Method::HEAD;
            request
        };
        assert!(!is_cut(0, head, body));
        for status in [204, 304] {
            let response = || {
                let response = Response::builder().status(status);
                response.body(Frames::of([5])).unwrap()
            };
            assert!(!is_cut(0, identity, response), "{status}");
        }
    }

    #[test]
    fn the_label_is_the_extension_and_past_the_bound_it_is_shared() {
        let lines = lines_of(&EdgeLayer::max_endpoints(2), async |edge| {
            let service = edge.layer(service_fn(hello));
            for label in ["a", "b", "c", "d", "a"] {
                read(service.clone().oneshot(labelled(label)).await.unwrap()).await;
            }
            read(service.oneshot(get()).await.unwrap()).await;
        });
        assert_eq!(
            of_metric(&lines, "requests_total"),
            [
                r#"{endpoint="__overflow__",method="GET",status="2xx"} 3"#,
                r#"{endpoint="a",method="GET",status="2xx"} 2"#,
                r#"{endpoint="b",method="GET",status="2xx"} 1"#,
            ]
        );
    }

    #[cfg(feature = "server")]
    mod on_hyper {
        use super::*;
        use hyper_util::{rt::TokioIo, service::TowerToHyperService};
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        type Wire = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

        fn stream() -> Wire {
            let body = Frames::of([5, 5]).map_frame(|frame| frame.map_data(Bytes::from));
            body.boxed_unsync()
        }

        fn full() -> Wire {
            Full::from("hello").map_err(Into::into).boxed_unsync()
        }

        /// What hyper writes for one request, and what is counted for it.
        fn exchange(
            method: &str,
            response: impl Fn() -> Response<Wire> + Clone,
        ) -> (String, Vec<String>) {
            let mut written = String::new();
            let lines = lines(async |edge| {
                let service = edge.layer(service_fn(move |_: Request<_>| {
                    ready(Ok::<_, Infallible>(response()))
                }));
                let (mut client, server) = tokio::io::duplex(4_096);
                let head = format!("{method} / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
                client.write_all(head.as_bytes()).await.unwrap();
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(server), TowerToHyperService::new(service))
                    .await
                    .unwrap();
                client.read_to_string(&mut written).await.unwrap();
            });
            (written, lines)
        }

        #[test]
        fn a_body_of_known_length_has_a_content_length() {
            let (written, lines) = exchange("GET", || Response::new(full()));
            assert!(written.contains("content-length: 5\r\n"), "{written}");
            assert!(written.ends_with("\r\n\r\nhello"), "{written}");
            assert_eq!(cut(&lines), [r#"{endpoint="__unmatched__"} 0"#]);
        }

        #[test]
        fn a_body_that_is_never_asked_for_its_end_is_not_cut() {
            let (written, lines) = exchange("GET", || {
                let response = Response::builder().header("content-length", "10");
                response.body(stream()).unwrap()
            });
            assert!(written.ends_with("\r\n\r\nxxxxxxxxxx"), "{written}");
            assert_eq!(cut(&lines), [r#"{endpoint="__unmatched__"} 0"#]);
            assert_eq!(
                of_metric(&lines, "response_bytes_total"),
                [r#"{endpoint="__unmatched__",method="GET",status="2xx"} 10"#]
            );
        }

        #[test]
        fn a_head_request_is_answered_with_the_length_and_not_cut() {
            let (written, lines) = exchange("HEAD", || Response::new(full()));
            assert!(written.contains("content-length: 5\r\n"), "{written}");
            assert!(written.ends_with("\r\n\r\n"), "{written}");
            assert_eq!(cut(&lines), [r#"{endpoint="__unmatched__"} 0"#]);
            assert_eq!(
                of_metric(&lines, "response_bytes_total"),
                [r#"{endpoint="__unmatched__",method="HEAD",status="2xx"} 0"#]
            );
        }
    }

    #[cfg(feature = "axum")]
    mod on_axum {
        use super::*;
        use axum::{Router, body, routing};

        fn requests(app: &Router, targets: &[(&str, &str)]) -> Vec<String> {
            let lines = lines(async |edge| {
                let app = app.clone().layer(edge);
                for (method, path) in targets {
                    let request = Request::builder().method(*method).uri(*path);
                    let request = request.body(body::Body::empty()).unwrap();
                    read(app.clone().oneshot(request).await.unwrap()).await;
                }
            });
            assert!(
                cut(&lines).iter().all(|line| line.ends_with("} 0")),
                "{lines:?}"
            );
            of_metric(&lines, "requests_total")
                .into_iter()
                .map(String::from)
                .collect()
        }

        #[test]
        fn a_route_is_its_label_with_its_parameters_unfilled() {
            let users = Router::new().route("/{id}/posts/{*rest}", routing::get("posts"));
            let app = Router::new()
                .route("/", routing::get("root"))
                .route("/users/{id}", routing::get("user").delete("gone"))
                .nest("/api", users);
            let targets = [
                ("GET", "/"),
                ("GET", "/users/1"),
                ("GET", "/users/2"),
                ("DELETE", "/users/2"),
                ("GET", "/api/1/posts/a/b"),
            ];
            assert_eq!(
                requests(&app, &targets),
                [
                    r#"{endpoint="/",method="GET",status="2xx"} 1"#,
                    r#"{endpoint="/api/{id}/posts/{*rest}",method="GET",status="2xx"} 1"#,
                    r#"{endpoint="/users/{id}",method="DELETE",status="2xx"} 1"#,
                    r#"{endpoint="/users/{id}",method="GET",status="2xx"} 2"#,
                ]
            );
        }

        #[test]
        fn what_no_route_matches_shares_a_label_and_a_wrong_method_has_its_route() {
            let app = Router::new()
                .route("/a", routing::get("a"))
                .nest("/api", Router::new().route("/b", routing::get("b")));
            let targets = [
                ("GET", "/random-1"),
                ("GET", "/random-2"),
                ("GET", "/api/random-3"),
                ("POST", "/a"),
                ("PROPFIND", "/a"),
            ];
            assert_eq!(
                requests(&app, &targets),
                [
                    r#"{endpoint="/a",method="OTHER",status="4xx"} 1"#,
                    r#"{endpoint="/a",method="POST",status="4xx"} 1"#,
                    r#"{endpoint="__unmatched__",method="GET",status="4xx"} 3"#,
                ]
            );
        }

        #[test]
        fn a_head_request_to_a_get_route_is_not_cut() {
            let app = Router::new().route("/a", routing::get("hello"));
            assert_eq!(
                requests(&app, &[("HEAD", "/a")]),
                [r#"{endpoint="/a",method="HEAD",status="2xx"} 1"#]
            );
        }

        #[test]
        fn the_matched_route_goes_before_the_extension() {
            let app = Router::new()
                .route("/a", routing::get("a"))
                .layer(axum::Extension(EndpointLabel(Name::from_static("outer"))));
            // The extension is set before the edge here, not after it.
            let lines = lines(async |edge| {
                let app = app
                    .layer(edge)
                    .layer(axum::Extension(EndpointLabel(Name::from_static("outer"))));
                for path in ["/a", "/b"] {
                    let request = Request::builder().uri(path);
                    let request = request.body(body::Body::empty()).unwrap();
                    read(app.clone().oneshot(request).await.unwrap()).await;
                }
            });
            assert_eq!(
                of_metric(&lines, "requests_total"),
                [
                    r#"{endpoint="/a",method="GET",status="2xx"} 1"#,
                    r#"{endpoint="outer",method="GET",status="4xx"} 1"#,
                ]
            );
        }
    }
}
