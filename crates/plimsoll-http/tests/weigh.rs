//! What requests allocate, hold and leave behind, where the allocator tells.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use plimsoll_alloc::{MemoryScope, Retained, TrackingAllocator};
use plimsoll_core::{BoxError, Name, RejectReason, Rejected};
use plimsoll_http::{EdgeLayer, EndpointLabel, edge::EdgeBody};
use plimsoll_memory::{Attribution, Budget, BudgetMode, MemoryConfig, MemoryStats, process};
use std::{
    convert::Infallible,
    future::{self, Future},
    hint::black_box,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Mutex,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// So many bytes that no optimiser knows of.
fn bytes(length: usize) -> Vec<u8> {
    black_box(vec![black_box(1); black_box(length)])
}

fn request(endpoint: &'static str) -> Request<()> {
    let mut request = Request::new(());
    let label = EndpointLabel(Name::from_static(endpoint));
    request.extensions_mut().insert(label);
    request
}

fn memory(edge: &EdgeLayer, endpoint: &str) -> MemoryStats {
    let mut snapshots = edge.snapshot().into_iter();
    let snapshot = snapshots.find(|snapshot| snapshot.endpoint.as_str() == endpoint);
    snapshot.unwrap().memory
}

/// Asks a handler through an edge of its own, and reads the response to its end.
async fn ask<F, Fut, B>(edge: &EdgeLayer, endpoint: &'static str, handler: F)
where
    F: Fn() -> Fut + Clone,
    Fut: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error = Infallible> + Unpin,
{
    let handler = service_fn(move |_: Request<()>| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler().await) }
    });
    let response = edge.layer(handler).oneshot(request(endpoint)).await;
    let body = response.unwrap().into_body();
    body.collect().await.unwrap();
}

/// The first who waits makes room for those who wait, which the runtime keeps.
async fn warm_up(edge: &EdgeLayer) {
    ask(edge, "/warm-up", async || {
        tokio::join!(tokio::task::yield_now(), tokio::task::yield_now());
        empty()
    })
    .await;
}

fn empty() -> Response<Full<Bytes>> {
    Response::new(Full::default())
}

#[tokio::test]
async fn peak_is_what_was_held_at_once_and_allocated_what_there_was_in_all() {
    let edge = EdgeLayer::new();
    warm_up(&edge).await;
    for _ in 0..3 {
        ask(&edge, "/work", async || {
            for _ in 0..4 {
                let working = bytes(100_000);
                tokio::task::yield_now().await;
                drop(working);
            }
            empty()
        })
        .await;
    }
    let memory = memory(&edge, "/work");
    assert_eq!(memory.requests(), 3);
    assert!(
        (1_200_000..1_220_000).contains(&memory.allocated.sum),
        "{memory:?}"
    );
    assert!((100_000..110_000).contains(&memory.peak.max), "{memory:?}");
    assert_eq!(memory.peak.quantile(0.5), Some(memory.peak.max));
    assert_eq!(
        (memory.live, memory.retained, memory.left.max),
        (0, Retained::default(), 0)
    );
}

#[tokio::test]
async fn what_is_kept_is_retained_by_its_endpoint_until_it_is_freed() {
    static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    KEPT.lock().unwrap().reserve(8);
    let edge = EdgeLayer::new();
    for _ in 0..3 {
        ask(&edge, "/leak", async || {
            let kept = bytes(10_000);
            KEPT.lock().unwrap().push(kept);
            empty()
        })
        .await;
        ask(&edge, "/honest", async || empty()).await;
    }
    let leak = memory(&edge, "/leak");
    assert_eq!((leak.retained.bytes, leak.retained.scopes), (30_000, 3));
    assert_eq!((leak.live, leak.left.max), (30_000, 10_000));
    assert_eq!(memory(&edge, "/honest").retained.bytes, 0);
    KEPT.lock().unwrap().pop();
    let leak = memory(&edge, "/leak");
    assert_eq!((leak.retained.bytes, leak.retained.scopes), (20_000, 2));
    KEPT.lock().unwrap().clear();
    assert_eq!(memory(&edge, "/leak").live, 0);
}

/// A body that makes each frame when it is asked for it, and holds some memory to its end.
struct Streamed {
    frames: usize,
    _held: Vec<u8>,
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.frames == 0 {
            return Poll::Ready(None);
        }
        self.frames -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(bytes(50_000))))))
    }
}

fn streamed(frames: usize) -> Response<Streamed> {
    Response::new(Streamed {
        frames,
        _held: bytes(30_000),
    })
}

#[tokio::test]
async fn frames_of_a_body_are_of_the_request_that_ends_with_it() {
    let edge = EdgeLayer::new();
    let service = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(streamed(100)) });
    let response = edge.layer(service).oneshot(request("/stream")).await;
    let mut body: EdgeBody<Streamed> = response.unwrap().into_body();
    assert_eq!(memory(&edge, "/stream").requests(), 0);
    let mut sent = 0;
    while let Some(frame) = body.frame().await {
        // One at a time, as a connection that writes each.
        sent += frame.unwrap().into_data().unwrap().len();
    }
    drop(body);
    assert_eq!(sent, 5_000_000);
    let memory = memory(&edge, "/stream");
    assert!(memory.allocated.sum >= 5_030_000, "{memory:?}");
    assert!((80_000..140_000).contains(&memory.peak.max), "{memory:?}");
    assert_eq!((memory.requests(), memory.live), (1, 0));
}

#[tokio::test]
async fn request_that_is_dropped_is_weighed_once_and_holds_nothing() {
    let edge = EdgeLayer::new();
    let never = service_fn(|_: Request<()>| async {
        let _held = bytes(40_000);
        future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    });
    let mut never = edge.layer(never);
    {
        let mut pending = pin!(never.call(request("/hang")));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pending.as_mut().poll(&mut cx).is_pending());
        assert!(memory(&edge, "/hang").live >= 40_000);
    }
    let hang = memory(&edge, "/hang");
    assert_eq!((hang.requests(), hang.live), (1, 0));
    assert!(hang.peak.max >= 40_000);

    // A body that nobody reads, as that of a client that went away.
    let service = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(streamed(1)) });
    let response = edge.layer(service).oneshot(request("/gone")).await.unwrap();
    assert!(memory(&edge, "/gone").live >= 30_000);
    assert!(!response.body().is_end_stream());
    drop(response);
    let gone = memory(&edge, "/gone");
    assert_eq!((gone.requests(), gone.live), (1, 0));
}

#[tokio::test]
async fn request_that_panics_or_fails_leaves_its_thread_in_no_scope() {
    let edge = EdgeLayer::new();
    let panics = service_fn(|_: Request<()>| async {
        let _held = bytes(10_000);
        tokio::task::yield_now().await;
        if black_box(true) {
            panic!("told to");
        }
        Ok::<_, Infallible>(empty())
    });
    let mut panics = edge.layer(panics);
    let call = AssertUnwindSafe(panics.call(request("/panic")));
    let result = tokio::spawn(futures_catch(call)).await.unwrap();
    assert!(result);
    let fails = service_fn(|_: Request<()>| async {
        Err::<Response<Full<Bytes>>, _>(BoxError::from("told to"))
    });
    let error = edge.layer(fails).oneshot(request("/fail")).await;
    drop(error);
    let before = memory(&edge, "/fail").allocated.sum;
    drop(bytes(1_000_000));
    assert_eq!(memory(&edge, "/fail").allocated.sum, before);
    assert!(MemoryScope::current().is_none());
    for endpoint in ["/panic", "/fail"] {
        assert_eq!(memory(&edge, endpoint).requests(), 1, "{endpoint}");
    }
}

/// Whether a future panics. It is dropped by then.
async fn futures_catch<F: Future>(future: AssertUnwindSafe<F>) -> bool {
    let mut future = Some(Box::pin(future.0));
    future::poll_fn(move |cx| {
        let mut mine = future.take().unwrap();
        let polled =
            std::panic::catch_unwind(AssertUnwindSafe(|| mine.as_mut().poll(cx).map(drop)));
        match polled {
            Ok(Poll::Pending) => {
                future = Some(mine);
                Poll::Pending
            }
            Ok(Poll::Ready(())) => Poll::Ready(false),
            Err(_) => Poll::Ready(true),
        }
    })
    .await
}

#[tokio::test]
async fn requests_at_once_on_one_thread_do_not_mix() {
    let edge = EdgeLayer::new();
    let work = |length: usize| {
        move || async move {
            let working = bytes(length);
            tokio::task::yield_now().await;
            let more = bytes(length);
            tokio::task::yield_now().await;
            drop((working, more));
            empty()
        }
    };
    tokio::join!(
        ask(&edge, "/small", work(10_000)),
        ask(&edge, "/large", work(1_000_000)),
    );
    let (small, large) = (memory(&edge, "/small"), memory(&edge, "/large"));
    assert!((20_000..30_000).contains(&small.peak.max), "{small:?}");
    assert!(
        (2_000_000..2_010_000).contains(&large.peak.max),
        "{large:?}"
    );
}

#[tokio::test]
async fn what_an_edge_keeps_is_not_of_the_request_around_it() {
    let edge = EdgeLayer::new();
    let scope = MemoryScope::new();
    let inside = async {
        ask(&edge, "/inside", async || empty()).await;
    };
    scope.clone().scoped(inside).await;
    assert_eq!(memory(&edge, "/inside").requests(), 1);
    assert_eq!(scope.usage().live, 0);
}

/// An edge with these settings.
fn edge(config: &MemoryConfig) -> EdgeLayer {
    EdgeLayer::new().memory(config).unwrap()
}

/// What is allocated piece by piece, with a wait after each.
async fn pieces(count: usize, length: usize) -> Vec<Vec<u8>> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        held.push(bytes(length));
        tokio::task::yield_now().await;
    }
    held
}

/// A handler that holds ever more, then answers.
async fn hoard(_: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    let held = pieces(20, 10_000).await;
    Ok(Response::new(Full::from(held.len().to_string())))
}

async fn text<B>(response: Response<B>) -> String
where
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.into()).unwrap()
}

#[tokio::test]
async fn request_over_its_budget_ends_and_what_it_held_is_free_while_others_go_on() {
    let edge = edge(
        &MemoryConfig::new()
            .budget_of("/heavy", 100_000)
            .on_over_budget(BudgetMode::Enforce),
    );
    let service = edge.layer(service_fn(hoard));
    warm_up(&edge).await;
    let (heavy, other) = tokio::join!(
        service.clone().oneshot(request("/heavy")),
        service.clone().oneshot(request("/other")),
    );
    let heavy = heavy.unwrap();
    assert_eq!(heavy.status(), 503);
    let rejected = *heavy.extensions().get::<Rejected>().unwrap();
    assert_eq!(rejected.reason(), RejectReason::OverBudget);
    assert_eq!(rejected.source().as_str(), "/heavy");
    let problem = text(heavy).await;
    assert!(problem.contains(r#""reason":"over_budget""#), "{problem}");
    assert_eq!(text(other.unwrap()).await, "20");

    let heavy = memory(&edge, "/heavy");
    assert_eq!((heavy.requests(), heavy.over_budget), (1, 1));
    assert_eq!((heavy.refused, heavy.cut, heavy.live), (1, 0, 0));
    assert!((100_001..120_000).contains(&heavy.peak.max), "{heavy:?}");
    assert_eq!(heavy.budget, Some(Budget::enforce(100_000)));
    let other = memory(&edge, "/other");
    assert_eq!((other.over_budget, other.budget), (0, None));
    let snapshot = edge.snapshot();
    let counts = &snapshot[0].requests[0];
    assert_eq!((counts.status, counts.requests()), ("5xx", 1));
}

#[tokio::test]
async fn request_over_an_observed_budget_is_counted_and_goes_on() {
    let edge = edge(&MemoryConfig::new().budget(100_000));
    let response = edge.layer(service_fn(hoard)).oneshot(request("/")).await;
    assert_eq!(text(response.unwrap()).await, "20");
    let memory = memory(&edge, "/");
    assert_eq!((memory.over_budget, memory.refused), (1, 0));
}

#[tokio::test]
async fn budget_itself_may_be_held_and_one_byte_more_may_not() {
    async fn hold(budget: Budget) -> u16 {
        let edge = EdgeLayer::new();
        let service = edge.layer(service_fn(async |_: Request<()>| {
            let held = bytes(5_000);
            tokio::task::yield_now().await;
            drop(held);
            Ok::<_, Infallible>(empty())
        }));
        let mut request = request("/exact");
        request.extensions_mut().insert(budget);
        let response = service.oneshot(request).await.unwrap();
        response.status().as_u16()
    }
    // The runtime makes room for whoever waits, once.
    hold(Budget::observe(0)).await;
    assert_eq!(hold(Budget::enforce(5_000)).await, 200);
    assert_eq!(hold(Budget::enforce(4_999)).await, 503);
    assert_eq!(hold(Budget::enforce(0)).await, 503);
    assert_eq!(hold(Budget::enforce(u64::MAX)).await, 200);
}

#[tokio::test]
async fn budget_of_the_request_counts_instead_of_that_of_the_route() {
    let strict = MemoryConfig::new().budget(1_000);
    let edge = edge(&strict.on_over_budget(BudgetMode::Enforce));
    let service = edge.layer(service_fn(hoard));
    let mut generous = request("/");
    let budget = Budget::enforce(1 << 20);
    generous.extensions_mut().insert(budget);
    let response = service.clone().oneshot(generous).await.unwrap();
    assert_eq!(response.status(), 200);
    let response = service.oneshot(request("/")).await.unwrap();
    assert_eq!(response.status(), 503);
}

#[tokio::test]
async fn body_that_alone_is_over_the_budget_is_the_cause() {
    let config = MemoryConfig::new().budget(100_000);
    let edge = edge(&config.on_over_budget(BudgetMode::Enforce));
    for (declared, status) in [("100001", 413), ("100000", 503), ("x", 503), ("", 503)] {
        let mut upload = request("/upload");
        if !declared.is_empty() {
            let headers = upload.headers_mut();
            headers.insert("content-length", declared.parse().unwrap());
        }
        let response = edge.layer(service_fn(hoard)).oneshot(upload).await.unwrap();
        assert_eq!(response.status(), status, "{declared}");
    }
    // What streams a large body without holding it may.
    let mut upload = request("/upload");
    let headers = upload.headers_mut();
    headers.insert("content-length", "1000000000".parse().unwrap());
    let stream = service_fn(async |_: Request<()>| Ok::<_, Infallible>(empty()));
    let response = edge.layer(stream).oneshot(upload).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn response_that_holds_too_much_is_not_sent() {
    let config = MemoryConfig::new().budget(20_000);
    let edge = edge(&config.on_over_budget(BudgetMode::Enforce));
    let service = service_fn(async |_: Request<()>| Ok::<_, Infallible>(streamed(3)));
    let response = edge.layer(service).oneshot(request("/large")).await;
    let response = response.unwrap();
    assert_eq!(response.status(), 503);
    // The status and the document are all that is sent, and it says how long it is.
    let length = response.body().size_hint().exact().unwrap();
    assert_eq!(text(response).await.len() as u64, length);
    let large = memory(&edge, "/large");
    assert_eq!((large.refused, large.live), (1, 0));
}

#[tokio::test]
async fn stream_over_its_budget_ends_with_an_error() {
    let config = MemoryConfig::new().budget(100_000);
    let edge = edge(&config.on_over_budget(BudgetMode::Enforce));
    let service = service_fn(async |_: Request<()>| Ok::<_, Infallible>(streamed(100)));
    let response = edge.layer(service).oneshot(request("/stream")).await;
    let mut body = response.unwrap().into_body();
    let mut kept = Vec::new();
    let error = loop {
        // Nobody takes the frames, as a client that is slow.
        match body.frame().await.unwrap() {
            Ok(frame) => kept.push(frame),
            Err(error) => break error,
        }
    };
    let rejected = Rejected::find(&*error).unwrap();
    assert_eq!(rejected.reason(), RejectReason::OverBudget);
    assert_eq!(kept.len(), 1);
    assert!(body.frame().await.is_none());
    drop(kept);
    let stream = memory(&edge, "/stream");
    assert_eq!((stream.refused, stream.cut, stream.live), (0, 1, 0));
    // The frame that was sent, which somebody kept, and not the one that was not.
    assert!((50_000..60_000).contains(&stream.left.max), "{stream:?}");
    assert_eq!(edge.snapshot()[0].cut, 1);
}

#[tokio::test]
async fn settings_change_for_requests_that_begin_afterwards() {
    let edge = EdgeLayer::new();
    let service = edge.layer(service_fn(hoard));
    let status = async || {
        let response = service.clone().oneshot(request("/")).await.unwrap();
        response.status().as_u16()
    };
    assert_eq!(status().await, 200);
    let config = MemoryConfig::new().budget(1_000);
    let strict = config.on_over_budget(BudgetMode::Enforce);
    edge.clone().reconfigure_memory(&strict).unwrap();
    assert_eq!(status().await, 503);
    assert_eq!(edge.memory_config(), strict);
    let wrong = MemoryConfig::new().budget(0).max_heavy(1_000_000);
    let error = edge.reconfigure_memory(&wrong).unwrap_err().to_string();
    for part in [
        "`budget` is 0, but must be at least 1",
        "`max_heavy` is 1000000",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(status().await, 503);
    edge.reconfigure_memory(&MemoryConfig::new()).unwrap();
    assert_eq!(status().await, 200);
}

#[tokio::test]
async fn requests_that_held_much_are_logged_with_what_they_were() {
    let edge = edge(&MemoryConfig::new().heavy(100_000).max_heavy(2));
    let work = |length: usize| {
        move || async move {
            let held = bytes(length);
            tokio::task::yield_now().await;
            drop(held);
            empty()
        }
    };
    for (endpoint, length) in [
        ("/a", 200_000),
        ("/b", 1_000),
        ("/c", 300_000),
        ("/d", 400_000),
    ] {
        ask(&edge, endpoint, work(length)).await;
    }
    let heavy = edge.heavy().newest(5);
    let names: Vec<_> = heavy.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["/d", "/c"]);
    assert_eq!(edge.heavy().total(), 3);
    let newest = &heavy[0];
    assert_eq!((newest.method, newest.status), (Some("GET"), Some(200)));
    assert!(
        (400_000..410_000).contains(&newest.sample.peak),
        "{newest:?}"
    );
    assert_eq!(newest.sample.left, 0);
    assert_eq!(newest.sample.attribution, Attribution::Exact);
}

#[tokio::test(start_paused = true)]
async fn headers_tell_what_the_request_holds_if_they_are_asked_for() {
    let usage = |response: &Response<EdgeBody<Full<Bytes>>>| {
        let header = |name| response.headers().get(name);
        let text = |name| header(name).map(|value| value.to_str().unwrap().to_owned());
        ["x-memory-usage-mb", "x-memory-delta-mb"].map(text)
    };
    let service = service_fn(async |_: Request<()>| {
        let body = Bytes::from(bytes(3 << 20));
        Ok::<_, Infallible>(Response::new(Full::new(body)))
    });
    let edge = EdgeLayer::new();
    let service = edge.layer(service);
    let response = service.clone().oneshot(request("/")).await.unwrap();
    assert_eq!(usage(&response), [None, None]);
    let config = MemoryConfig::new().headers(true);
    edge.reconfigure_memory(&config).unwrap();
    let watching = tokio::spawn(process::watch(Duration::from_secs(1)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let response = service.oneshot(request("/")).await.unwrap();
    let [usage, delta] = usage(&response).map(Option::unwrap);
    assert_eq!(delta, "3.00");
    let usage: f64 = usage.parse().unwrap();
    assert!((1.0..1_000.0).contains(&usage), "{usage}");
    watching.abort();
}

#[tokio::test]
async fn task_that_is_spawned_along_is_weighed_with_the_request() {
    let edge = EdgeLayer::new();
    ask(&edge, "/spawns", async || {
        let along = plimsoll_memory::spawn(async {
            let held = bytes(200_000);
            tokio::task::yield_now().await;
            held.len()
        });
        let blocking = plimsoll_memory::spawn_blocking(|| bytes(300_000).len());
        let escapes = tokio::spawn(async { bytes(1_000_000).len() });
        along.await.unwrap();
        blocking.await.unwrap();
        escapes.await.unwrap();
        empty()
    })
    .await;
    let spawns = memory(&edge, "/spawns");
    assert!(
        (500_000..600_000).contains(&spawns.allocated.sum),
        "{spawns:?}"
    );
}

#[tokio::test]
async fn groups_are_named_by_the_endpoints_that_have_weighed_a_request() {
    let edge = EdgeLayer::new();
    assert_eq!(edge.memory_groups(), []);
    for endpoint in ["/one", "/other", "/one"] {
        ask(&edge, endpoint, async || empty()).await;
    }
    let mut groups = edge.memory_groups();
    groups.sort_by_key(|(_, name)| *name);
    let names: Vec<_> = groups.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["/one", "/other"]);
    assert_ne!(groups[0].0, groups[1].0);
}

/// A body that keeps each frame it makes, until it ends or fails.
struct Keeps {
    kept: &'static Mutex<Vec<Vec<u8>>>,
    fails: bool,
    is_polled: bool,
}

impl Body for Keeps {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !std::mem::replace(&mut self.is_polled, true) {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"all")))));
        }
        self.kept.lock().unwrap().push(bytes(50_000));
        Poll::Ready(self.fails.then(|| Err("its own".into())))
    }
}

#[tokio::test]
async fn body_that_has_ended_or_failed_is_not_ended_once_more() {
    static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let config = MemoryConfig::new().budget(10_000);
    let edge = edge(&config.on_over_budget(BudgetMode::Enforce));
    for fails in [false, true] {
        let body = move || Keeps {
            kept: &KEPT,
            fails,
            is_polled: false,
        };
        let service =
            service_fn(
                move |_: Request<()>| async move { Ok::<_, Infallible>(Response::new(body())) },
            );
        let response = edge.layer(service).oneshot(request("/keeps")).await;
        let mut body = response.unwrap().into_body();
        assert!(body.frame().await.unwrap().is_ok());
        let last = body.frame().await.transpose();
        match fails {
            true => assert_eq!(last.unwrap_err().to_string(), "its own"),
            false => assert!(last.unwrap().is_none()),
        }
    }
    let keeps = memory(&edge, "/keeps");
    assert_eq!((keeps.requests(), keeps.cut, keeps.over_budget), (2, 0, 2));
    KEPT.lock().unwrap().clear();
}

#[tokio::test]
async fn route_past_the_bound_of_endpoints_keeps_its_own_budget() {
    let config = MemoryConfig::new().budget_of("/late", 100_000);
    let config = config.on_over_budget(BudgetMode::Enforce);
    let edge = EdgeLayer::max_endpoints(1).memory(&config).unwrap();
    let service = edge.layer(service_fn(hoard));
    for (route, status) in [("/early", 200), ("/late", 503), ("/other", 200)] {
        let response = service.clone().oneshot(request(route)).await.unwrap();
        assert_eq!(response.status(), status, "{route}");
    }
}
