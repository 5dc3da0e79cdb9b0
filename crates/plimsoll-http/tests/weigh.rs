//! What requests allocate, hold and leave behind, where the allocator tells.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use plimsoll_alloc::TrackingAllocator;
use plimsoll_core::{BoxError, Name};
use plimsoll_http::{
    EdgeLayer, EndpointLabel,
    edge::{EdgeBody, EndpointMemory},
};
use std::{
    convert::Infallible,
    future::{self, Future},
    hint::black_box,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Mutex,
    task::{Context, Poll, Waker},
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

fn memory(edge: &EdgeLayer, endpoint: &str) -> EndpointMemory {
    let mut snapshots = edge.snapshot().into_iter();
    let snapshot = snapshots.find(|snapshot| snapshot.endpoint.as_str() == endpoint);
    snapshot.unwrap().memory.unwrap()
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

fn empty() -> Response<Full<Bytes>> {
    Response::new(Full::default())
}

#[tokio::test]
async fn peak_is_what_was_held_at_once_and_allocated_what_there_was_in_all() {
    let edge = EdgeLayer::new();
    // The first who waits makes room for those who wait, which the runtime keeps.
    ask(&edge, "/first", async || {
        tokio::task::yield_now().await;
        empty()
    })
    .await;
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
        (1_200_000..1_220_000).contains(&memory.allocated),
        "{memory:?}"
    );
    assert!((100_000..110_000).contains(&memory.max_peak), "{memory:?}");
    assert_eq!(memory.peak_quantile(0.5), Some(memory.max_peak));
    assert_eq!((memory.live, memory.retained, memory.retaining), (0, 0, 0));
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
    assert_eq!((leak.retained, leak.retaining), (30_000, 3));
    assert_eq!(leak.live, 30_000);
    assert_eq!(memory(&edge, "/honest").retained, 0);
    KEPT.lock().unwrap().pop();
    let leak = memory(&edge, "/leak");
    assert_eq!((leak.retained, leak.retaining), (20_000, 2));
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
    assert!(memory.allocated >= 5_030_000, "{memory:?}");
    assert!((80_000..140_000).contains(&memory.max_peak), "{memory:?}");
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
    assert!(hang.max_peak >= 40_000);

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
    let before = memory(&edge, "/fail").allocated;
    drop(bytes(1_000_000));
    assert_eq!(memory(&edge, "/fail").allocated, before);
    assert!(plimsoll_alloc::MemoryScope::current().is_none());
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
    assert!((20_000..30_000).contains(&small.max_peak), "{small:?}");
    assert!(
        (2_000_000..2_010_000).contains(&large.max_peak),
        "{large:?}"
    );
}
