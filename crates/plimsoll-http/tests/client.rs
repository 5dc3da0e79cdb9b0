//! The client over real sockets: its bounds, and what it gives back.
//!
//! The clock stands still unless a test moves it on, so that every time is exact.
#![cfg(feature = "client")]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri, Version};
use http_body_util::Full;
use hyper::{
    body::{Body, Frame, Incoming},
    rt::{Read, ReadBufCursor, Write},
    service::service_fn,
};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use plimsoll_core::{BoxError, BoxFuture, RejectReason, Rejected};
use plimsoll_http::{
    HttpClient, HttpClientConfig, Trailers, Webhook, WebhookConfig,
    client::{HttpClientError, HttpClientErrorKind as Kind},
};
use plimsoll_memory::{Alert, AlertKind, Alerts, Severity};
use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{pending, poll_fn},
    io,
    net::SocketAddr,
    panic::Location,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinSet, yield_now},
    time::{Instant, advance},
};
use tower::{Service, ServiceExt};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

// === Harness ===

/// Keeps the paused clock from going on by itself while the runtime waits for a socket.
struct Frozen {
    _release: mpsc::Sender<()>,
}

impl Frozen {
    fn new() -> Self {
        let (_release, wait) = mpsc::channel();
        tokio::task::spawn_blocking(move || wait.recv());
        Self { _release }
    }
}

/// A server that counts its connections.
#[derive(Clone)]
struct Host {
    at: SocketAddr,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Host {
    /// Has each connection served by `serve`. It is closed when that ends.
    async fn start<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = Self {
            at: listener.local_addr().unwrap(),
            accepted: Arc::default(),
            open: Arc::default(),
            most: Arc::default(),
        };
        let counts = host.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                counts.accepted.fetch_add(1, Relaxed);
                let open = counts.open.fetch_add(1, Relaxed) + 1;
                counts.most.fetch_max(open, Relaxed);
                let (serve, open) = (serve(stream), counts.open.clone());
                tokio::spawn(async move {
                    serve.await;
                    open.fetch_sub(1, Relaxed);
                });
            }
        });
        host
    }

    /// Answers every request of HTTP/1 with `response`, until the client closes.
    async fn answering(response: impl Into<Bytes>) -> Self {
        let response = response.into();
        Self::start(move |mut stream| {
            let response = response.clone();
            async move {
                while read_head(&mut stream).await.is_some() {
                    if stream.write_all(&response).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Serves HTTP/2.
    async fn http2<F, Fut, B>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        Self::start(move |stream| {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let response = answer(request);
                async { Ok::<_, Infallible>(response.await) }
            });
            async move {
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        })
        .await
    }

    fn get(&self) -> Request<Full<Bytes>> {
        let request = Request::get(format!("http://{}/", self.at));
        request.body(Full::default()).unwrap()
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Relaxed)
    }
}

/// A body of these frames, and then the end or nothing for ever.
struct Frames {
    frames: VecDeque<Frame<Bytes>>,
    ends: bool,
}

impl Frames {
    fn new<const N: usize>(frames: [Frame<Bytes>; N]) -> Self {
        let frames = frames.into();
        Self { frames, ends: true }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.frames.pop_front() {
            None if !self.ends => Poll::Pending,
            frame => Poll::Ready(frame.map(Ok)),
        }
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn until_closed(stream: &mut TcpStream) {
    while !matches!(stream.read(&mut [0; 4_096]).await, Ok(0) | Err(_)) {}
}

fn client(config: HttpClientConfig) -> HttpClient {
    HttpClient::new("orders", config).unwrap()
}

async fn ask<C, B>(
    client: &HttpClient<C>,
    request: Request<B>,
) -> Result<Response<Bytes>, HttpClientError>
where
    HttpClient<C>: Service<Request<B>, Response = Response<Bytes>, Error = HttpClientError> + Clone,
{
    client.clone().oneshot(request).await
}

async fn fails<C, B>(client: &HttpClient<C>, request: Request<B>) -> Kind
where
    HttpClient<C>: Service<Request<B>, Response = Response<Bytes>, Error = HttpClientError> + Clone,
{
    ask(client, request).await.unwrap_err().into_kind()
}

#[track_caller]
fn eventually(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let at = Location::caller();
    async move {
        for tries in 0.. {
            assert_ne!(tries, 1_000_000, "waited in vain at {at}");
            if condition() {
                break;
            }
            yield_now().await;
        }
    }
}

/// Lets tasks and sockets do what they can.
async fn settle() {
    for _ in 0..1_000 {
        yield_now().await;
    }
}

fn with_length(bytes: usize) -> Vec<u8> {
    let mut response = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n").into_bytes();
    response.resize(response.len() + bytes, b'x');
    response
}

fn chunked(chunks: &[usize], trailers: &str) -> Vec<u8> {
    let mut response = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for &chunk in chunks {
        response.extend(format!("{chunk:x}\r\n").bytes());
        response.resize(response.len() + chunk, b'x');
        response.extend(b"\r\n");
    }
    response.extend(format!("0\r\n{trailers}\r\n").bytes());
    response
}

// === Bodies ===

#[tokio::test(start_paused = true)]
async fn a_body_may_be_as_large_as_the_limit() {
    let _frozen = Frozen::new();
    let client = client(HttpClientConfig::new().max_response_bytes(10_000));
    for response in [
        with_length(0),
        with_length(9_999),
        with_length(10_000),
        chunked(&[], ""),
        chunked(&[10_000], ""),
        chunked(&[1, 9_998, 1], ""),
        // Ends with the connection.
        [
            &b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"[..],
            &[b'x'; 10_000],
        ]
        .concat(),
    ] {
        let expected = response.iter().filter(|&&byte| byte == b'x').count();
        let host = Host::start(move |mut stream| {
            let response = response.clone();
            async move {
                read_head(&mut stream).await;
                stream.write_all(&response).await.unwrap();
            }
        })
        .await;
        let body = ask(&client, host.get()).await.unwrap().into_body();
        assert_eq!(body.len(), expected);
        assert!(body.iter().all(|&byte| byte == b'x'));
    }
    assert_eq!(client.snapshot().refused_large, 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_announced_too_large_is_refused_before_it_comes() {
    let _frozen = Frozen::new();
    let client = client(HttpClientConfig::new().max_response_bytes(10_000));
    let host = Host::answering("HTTP/1.1 200 OK\r\ncontent-length: 10001\r\n\r\n").await;
    for round in 1..=2 {
        let error = ask(&client, host.get()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "client orders: the body of the response of 10001 bytes is larger than \
            `max_response_bytes`, 10000"
        );
        assert!(matches!(
            error.kind(),
            Kind::BodyTooLarge {
                limit: 10_000,
                announced: Some(10_001)
            }
        ));
        assert_eq!(client.snapshot().refused_large, round);
        eventually(|| client.snapshot().open == 0).await;
    }
    assert_eq!(host.accepted(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_not_used_again_after_a_response_that_was_too_large() {
    let _frozen = Frozen::new();
    let client = client(HttpClientConfig::new().max_response_bytes(10));
    for response in [with_length(11), chunked(&[11], ""), chunked(&[5, 6], "")] {
        let host = Host::answering(response).await;
        for round in 1..=3 {
            let kind = fails(&client, host.get()).await;
            assert!(matches!(kind, Kind::BodyTooLarge { limit: 10, .. }));
            eventually(|| client.snapshot().open == 0).await;
            assert_eq!(host.accepted(), round);
        }
    }
    assert_eq!(client.snapshot().refused_large, 9);
}

#[tokio::test(start_paused = true)]
async fn a_body_without_end_is_given_up_at_the_limit() {
    let _frozen = Frozen::new();
    let client = client(HttpClientConfig::new());
    let host = Host::start(async |mut stream: TcpStream| {
        read_head(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let chunk = [&b"1000\r\n"[..], &[b'x'; 4_096], b"\r\n"].concat();
        while stream.write_all(&chunk).await.is_ok() {}
    })
    .await;
    let kind = fails(&client, host.get()).await;
    assert!(matches!(
        kind,
        Kind::BodyTooLarge {
            limit: 1_048_576,
            announced: None
        }
    ));
    eventually(|| client.snapshot().open == 0 && host.open.load(Relaxed) == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_shorter_than_announced_is_an_error() {
    let _frozen = Frozen::new();
    let client = client(HttpClientConfig::new());
    let host = Host::start(async |mut stream: TcpStream| {
        read_head(&mut stream).await;
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nxxxxx";
        stream.write_all(response).await.unwrap();
    })
    .await;
    assert!(matches!(fails(&client, host.get()).await, Kind::Failed(_)));
    eventually(|| client.snapshot().open == 0).await;
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_body_is_not_taken_for_the_next_response() {
    let _frozen = Frozen::new();
    let client = client(HttpClientConfig::new());
    let host = Host::answering("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nxxxxxyyyyy").await;
    for round in 1..=2 {
        let response = ask(&client, host.get()).await.unwrap();
        assert_eq!(response.body(), "xxxxx");
        eventually(|| client.snapshot().open == 0).await;
        assert_eq!(host.accepted(), round);
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_to_head_may_announce_what_does_not_come() {
    let _frozen = Frozen::new();
    let http1 = Host::answering("HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n").await;
    let http2 = Host::http2(async |_| {
        let response = Response::builder().header("content-length", "9999999");
        response.body(Full::<Bytes>::default()).unwrap()
    })
    .await;
    for (host, is_http2) in [(http1, false), (http2, true)] {
        let client = client(HttpClientConfig::new().http2(is_http2));
        let mut request = host.get();
        *request.method_mut() = http::Method::HEAD;
        let response = ask(&client, request).await.unwrap();
        assert_eq!(response.headers()["content-length"], "9999999");
        assert!(response.body().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_takes_no_more_than_its_length() {
    let _frozen = Frozen::new();
    let client = client(HttpClientConfig::new().max_response_bytes(10_000));
    for response in [with_length(5_000), chunked(&[3_000, 2_000], "")] {
        let host = Host::answering(response).await;
        let body = ask(&client, host.get()).await.unwrap().into_body();
        let body: bytes::BytesMut = body.try_into_mut().unwrap();
        assert_eq!((body.len(), body.capacity()), (5_000, 5_000));
    }
}

// === Heads and trailers ===

#[tokio::test(start_paused = true)]
async fn a_head_that_is_too_large_is_an_error() {
    let _frozen = Frozen::new();
    let client = client(HttpClientConfig::new().max_head_bytes(8_192));
    for (bytes, is_ok) in [(8_000, true), (8_300, false)] {
        let filler = "y".repeat(bytes);
        let host = Host::answering(format!(
            "HTTP/1.1 200 OK\r\nx-filler: {filler}\r\ncontent-length: 0\r\n\r\n"
        ))
        .await;
        let response = ask(&client, host.get()).await;
        assert_eq!(response.is_ok(), is_ok, "{bytes}");
    }
    let filler = http::HeaderValue::try_from("y".repeat(8_300)).unwrap();
    let http2 = Host::http2(move |_| {
        let response = Response::builder().header("x-filler", filler.clone());
        let response = response.body(Full::<Bytes>::default()).unwrap();
        async { response }
    })
    .await;
    for (bytes, is_ok) in [(8_192, false), (9_000, true)] {
        let client = HttpClientConfig::new().http2(true).max_head_bytes(bytes);
        let response = ask(&self::client(client), http2.get()).await;
        assert_eq!(response.is_ok(), is_ok, "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_are_among_the_extensions() {
    let _frozen = Frozen::new();
    let http1 = Host::answering(chunked(&[3], "grpc-status: 5\r\nx-other: 1\r\n")).await;
    let http2 = Host::http2(async |_| {
        let trailers: HeaderMap = [("grpc-status", "5"), ("x-other", "1")]
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .into_iter()
            .collect();
        Response::new(Frames::new([
            Frame::data(Bytes::from("xxx")),
            Frame::trailers(trailers),
        ]))
    })
    .await;
    for (host, is_http2) in [(http1, false), (http2, true)] {
        let client = client(HttpClientConfig::new().http2(is_http2));
        let mut response = ask(&client, host.get()).await.unwrap();
        let Trailers(trailers) = response.extensions_mut().remove().unwrap();
        assert_eq!(trailers.len(), 2);
        assert_eq!(trailers["grpc-status"], "5");
        assert_eq!(response.body(), "xxx");
    }
    let host = Host::answering(with_length(1)).await;
    let response = ask(&client(HttpClientConfig::new()), host.get())
        .await
        .unwrap();
    let Trailers(none) = response.extensions().get().unwrap();
    assert!(none.is_empty());
}

#[tokio::test(start_paused = true)]
async fn trailers_may_be_as_large_as_the_limit() {
    let _frozen = Frozen::new();
    let client = client(HttpClientConfig::new().max_head_bytes(8_192));
    for (bytes, is_ok) in [(8_192, true), (8_193, false)] {
        let trailer = format!("x: {}\r\n", "y".repeat(bytes - 33));
        let host = Host::answering(chunked(&[1], &trailer)).await;
        match ask(&client, host.get()).await {
            Ok(_) => assert!(is_ok, "{bytes}"),
            Err(error) => {
                assert!(!is_ok, "{bytes}");
                let kind = error.into_kind();
                assert!(matches!(kind, Kind::TrailersTooLarge { limit: 8_192 }));
            }
        }
    }
    assert_eq!(client.snapshot().refused_large, 1);
}

// === Connections ===

#[tokio::test(start_paused = true)]
async fn there_are_never_more_connections_than_allowed() {
    let _frozen = Frozen::new();
    let host = Host::answering(with_length(10)).await;
    let client = client(HttpClientConfig::new().max_connections(2));
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let (client, request) = (client.clone(), host.get());
        calls.spawn(async move { ask(&client, request).await });
    }
    while let Some(called) = calls.join_next().await {
        assert!(client.snapshot().open <= 2);
        assert_eq!(called.unwrap().unwrap().body().len(), 10);
    }
    assert_eq!(host.most.load(Relaxed), 2);
    // None of those that went without a connection of their own still waits for one.
    settle().await;
    advance(SECOND * 5).await;
    settle().await;
    assert_eq!(host.accepted(), 2);
    let snapshot = client.snapshot();
    assert_eq!((snapshot.open, snapshot.connected), (2, 2));
    assert_eq!((snapshot.rejected, snapshot.connect_timeouts), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn connections_that_close_make_room_for_those_that_wait() {
    let _frozen = Frozen::new();
    let host = Host::answering("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let host = host.await;
    let client = client(HttpClientConfig::new().max_connections(2));
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let (client, request) = (client.clone(), host.get());
        calls.spawn(async move { ask(&client, request).await });
    }
    while let Some(called) = calls.join_next().await {
        called.unwrap().unwrap();
    }
    // The server may see the end of a connection after its successor has come.
    assert_eq!(host.accepted(), 20);
    assert_eq!(client.snapshot().connected, 20);
    eventually(|| client.snapshot().open == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_in_vain_for_a_connection_is_rejected() {
    let _frozen = Frozen::new();
    let host = Host::start(async |mut stream| until_closed(&mut stream).await).await;
    let config = HttpClientConfig::new().max_connections(1);
    let client = client(config.connect_timeout(SECOND * 3));
    let mut first = pin!(ask(&client, host.get()));
    let mut second = pin!(ask(&client, host.get()));
    let mut poll = async |first_too: bool| {
        for _ in 0..1_000 {
            if first_too {
                assert!(poll_once(first.as_mut()).await.is_pending());
            }
            if let Poll::Ready(result) = poll_once(second.as_mut()).await {
                return Some(result);
            }
            yield_now().await;
        }
        None
    };
    assert!(poll(true).await.is_none());
    assert_eq!((host.accepted(), client.snapshot().open), (1, 1));
    advance(SECOND * 3 - MILLI).await;
    assert!(poll(true).await.is_none());
    advance(MILLI * 2).await;
    let error = poll(true).await.unwrap().unwrap_err();
    let rejected = Rejected::find(&error).unwrap();
    assert_eq!(rejected.reason(), RejectReason::QueueTimeout);
    assert_eq!(rejected.source().as_str(), "orders");
    assert!(matches!(error.kind(), Kind::Rejected(_)));
    let snapshot = client.snapshot();
    assert_eq!((snapshot.rejected, snapshot.connect_timeouts), (1, 0));
    assert_eq!((snapshot.open, host.accepted()), (1, 1));
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

#[tokio::test(start_paused = true)]
async fn no_more_idle_connections_are_kept_than_allowed() {
    let _frozen = Frozen::new();
    for max_idle in [0, 1, 3] {
        let gate = Arc::new(Semaphore::new(0));
        let opened = gate.clone();
        let host = Host::start(move |mut stream| {
            let gate = opened.clone();
            async move {
                while read_head(&mut stream).await.is_some() {
                    gate.acquire().await.unwrap().forget();
                    stream.write_all(&with_length(1)).await.unwrap();
                }
            }
        })
        .await;
        let client = client(HttpClientConfig::new().max_idle_per_host(max_idle));
        let mut calls = JoinSet::new();
        for _ in 0..5 {
            let (client, request) = (client.clone(), host.get());
            calls.spawn(async move { ask(&client, request).await });
        }
        eventually(|| host.accepted() == 5).await;
        gate.add_permits(5);
        while let Some(called) = calls.join_next().await {
            called.unwrap().unwrap();
        }
        eventually(|| client.snapshot().open == max_idle).await;
        eventually(|| host.open.load(Relaxed) == max_idle).await;
        settle().await;
        assert_eq!(client.snapshot().open, max_idle);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_used_until_its_time_and_closed_within_twice_that() {
    let _frozen = Frozen::new();
    let host = Host::answering(with_length(1)).await;
    let client = client(HttpClientConfig::new().idle_timeout(SECOND * 10));
    ask(&client, host.get()).await.unwrap();
    settle().await;
    advance(SECOND * 9).await;
    ask(&client, host.get()).await.unwrap();
    settle().await;
    assert_eq!(host.accepted(), 1);
    // The look at 10 seconds finds it used since.
    advance(SECOND * 10 - MILLI).await;
    settle().await;
    assert_eq!(client.snapshot().open, 1);
    advance(MILLI * 2).await;
    ask(&client, host.get()).await.unwrap();
    assert_eq!(host.accepted(), 2);
    settle().await;
    advance(SECOND * 10 + MILLI).await;
    settle().await;
    advance(SECOND * 10 + MILLI).await;
    eventually(|| client.snapshot().open == 0 && host.open.load(Relaxed) == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_used_again_after_a_request_with_a_body() {
    let _frozen = Frozen::new();
    let host = Host::start(async |mut stream: TcpStream| {
        while read_head(&mut stream).await.is_some() {
            stream.read_exact(&mut [0; 6]).await.unwrap();
            stream.write_all(&with_length(1)).await.unwrap();
        }
    })
    .await;
    let client = client(HttpClientConfig::new());
    for _ in 0..3 {
        ask(&client, post(&host)).await.unwrap();
        settle().await;
    }
    // The connection does not ask for the end of a body whose length it was told.
    for _ in 0..3 {
        let mut streamed = host.get();
        *streamed.method_mut() = http::Method::POST;
        let length = http::HeaderValue::from_static("6");
        streamed.headers_mut().insert("content-length", length);
        let pieces = ["abc", "def"].map(|piece| Frame::data(Bytes::from(piece)));
        let streamed = streamed.map(|_| Frames::new(pieces));
        ask(&client, streamed).await.unwrap();
        settle().await;
    }
    assert_eq!((host.accepted(), client.snapshot().open), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_client_closes_its_connections() {
    let _frozen = Frozen::new();
    let host = Host::answering(with_length(1)).await;
    let client = client(HttpClientConfig::new());
    ask(&client, host.get()).await.unwrap();
    settle().await;
    assert_eq!(host.open.load(Relaxed), 1);
    drop(client);
    eventually(|| host.open.load(Relaxed) == 0).await;
}

/// Connects as it is told, by the number of the call.
#[derive(Clone)]
struct Told<F> {
    calls: Arc<AtomicUsize>,
    tell: F,
}

enum How {
    Connect,
    Hang,
    Fail,
}

impl<F: Fn(usize) -> How> Told<F> {
    fn new(tell: F) -> Self {
        let calls = Arc::default();
        Self { calls, tell }
    }
}

impl<F: Fn(usize) -> How> Service<Uri> for Told<F> {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<TokioIo<TcpStream>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let how = (self.tell)(self.calls.fetch_add(1, Relaxed));
        Box::pin(async move {
            match how {
                How::Connect => Ok(HttpConnector::new().call(uri).await?),
                How::Hang => pending().await,
                How::Fail => Err("told to fail".into()),
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_hangs_is_given_up_in_time() {
    let connector = Told::new(|_| How::Hang);
    let config = HttpClientConfig::new().max_connections(1);
    let client = HttpClient::with_connector("orders", config, connector.clone()).unwrap();
    for round in 1..=2 {
        let begun = Instant::now();
        let request = Request::get("http://nowhere.test/").body(Full::<Bytes>::default());
        let error = ask(&client, request.unwrap()).await.unwrap_err();
        assert_eq!(begun + SECOND, Instant::now());
        assert_eq!(
            error.to_string(),
            "client orders could not connect within 1s"
        );
        assert!(matches!(
            error.kind(),
            Kind::ConnectTimedOut { after: SECOND }
        ));
        assert!(Rejected::find(&error).is_none());
        let snapshot = client.snapshot();
        assert_eq!((snapshot.connect_timeouts, snapshot.open), (round, 0));
        assert_eq!((snapshot.connect_errors, snapshot.connected), (0, 0));
    }
}

/// The kernel answers no more connections when as many wait to be accepted as a listener allows.
#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn an_address_that_does_not_answer_is_given_up_in_time() {
    let _frozen = Frozen::new();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let at = listener.local_addr().unwrap();
    let mut fill = JoinSet::new();
    for _ in 0..8 {
        fill.spawn(TcpStream::connect(at));
    }
    settle().await;
    let client = client(HttpClientConfig::new());
    let request = Request::get(format!("http://{at}/")).body(Full::<Bytes>::default());
    let call = ask(&client, request.unwrap());
    let mut call = pin!(call);
    assert!(poll_once(call.as_mut()).await.is_pending());
    settle().await;
    advance(SECOND - MILLI).await;
    settle().await;
    assert!(poll_once(call.as_mut()).await.is_pending());
    advance(MILLI * 2).await;
    let error = call.await.unwrap_err();
    assert!(
        matches!(error.kind(), Kind::ConnectTimedOut { .. }),
        "{error:?}"
    );
    let snapshot = client.snapshot();
    assert_eq!((snapshot.connect_timeouts, snapshot.connect_errors), (1, 0));
    assert_eq!(snapshot.open, 0);
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_is_never_ready_is_given_up_in_time() {
    #[derive(Clone)]
    struct NeverReady;

    impl Service<Uri> for NeverReady {
        type Response = TokioIo<TcpStream>;
        type Error = BoxError;
        type Future = BoxFuture<'static, Result<TokioIo<TcpStream>, BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Pending
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            panic!("called without readiness");
        }
    }

    let client = HttpClient::with_connector("orders", HttpClientConfig::new(), NeverReady).unwrap();
    let request = Request::get("http://nowhere.test/").body(Full::<Bytes>::default());
    let kind = fails(&client, request.unwrap()).await;
    assert!(matches!(kind, Kind::ConnectTimedOut { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_refused_is_an_error() {
    let _frozen = Frozen::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let client = client(HttpClientConfig::new());
    let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
    assert!(matches!(fails(&client, request).await, Kind::Connect(_)));
    let snapshot = client.snapshot();
    assert_eq!((snapshot.connect_errors, snapshot.open), (1, 0));
}

// === Cancellation ===

#[tokio::test(start_paused = true)]
async fn dropped_requests_give_everything_back_wherever_they_are() {
    let _frozen = Frozen::new();
    let silent = Host::start(async |mut stream| until_closed(&mut stream).await).await;
    let half = Host::answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nxxx").await;
    let hang = Told::new(|_| How::Hang);
    let config = HttpClientConfig::new().max_connections(2);
    let hanging = HttpClient::with_connector("orders", config.clone(), hang).unwrap();
    let client = client(config);
    for _ in 0..3 {
        for host in [&silent, &half] {
            let before = host.accepted();
            let calls: Vec<_> = (0..5)
                .map(|_| {
                    let (client, request) = (client.clone(), host.get());
                    tokio::spawn(async move { ask(&client, request).await })
                })
                .collect();
            eventually(|| host.accepted() == before + 2).await;
            settle().await;
            calls.iter().for_each(tokio::task::JoinHandle::abort);
            eventually(|| client.snapshot().open == 0 && host.open.load(Relaxed) == 0).await;
        }
        let (request, client) = (silent.get(), hanging.clone());
        let call = tokio::spawn(async move { ask(&client, request).await });
        eventually(|| hanging.snapshot().open == 1).await;
        call.abort();
        eventually(|| hanging.snapshot().open == 0).await;
    }
    let snapshot = client.snapshot();
    assert_eq!((snapshot.rejected, snapshot.connect_timeouts), (0, 0));
    // All of the places are there.
    let good = Host::answering(with_length(1)).await;
    let (one, other) = tokio::join!(ask(&client, good.get()), ask(&client, good.get()));
    assert!(one.is_ok() && other.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_response_before_the_request_is_sent_closes_the_connection() {
    let _frozen = Frozen::new();
    let host = Host::start(async |mut stream: TcpStream| {
        read_head(&mut stream).await;
        let response = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 1\r\n\r\nx";
        stream.write_all(response).await.unwrap();
        // It reads no more, and does not close by itself.
        pending::<()>().await;
    })
    .await;
    let client = client(HttpClientConfig::new());
    let endless = Frames {
        frames: VecDeque::new(),
        ends: false,
    };
    let request = Request::post(format!("http://{}/", host.at))
        .body(endless)
        .unwrap();
    assert_eq!(ask(&client, request).await.unwrap().status(), 413);
    eventually(|| client.snapshot().open == 0).await;
    let large = Full::new(Bytes::from(vec![b'x'; 16 << 20]));
    let request = Request::post(format!("http://{}/", host.at))
        .body(large)
        .unwrap();
    assert_eq!(ask(&client, request).await.unwrap().status(), 413);
    eventually(|| client.snapshot().open == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_changes_its_protocol_is_closed() {
    let _frozen = Frozen::new();
    let host = Host::start(async |mut stream: TcpStream| {
        read_head(&mut stream).await;
        let response =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n";
        stream.write_all(response).await.unwrap();
        until_closed(&mut stream).await;
    })
    .await;
    let client = client(HttpClientConfig::new());
    let mut request = host.get();
    let headers = request.headers_mut();
    headers.insert("connection", "upgrade".parse().unwrap());
    headers.insert("upgrade", "chat".parse().unwrap());
    let response = ask(&client, request).await.unwrap();
    assert_eq!(response.status(), 101);
    eventually(|| client.snapshot().open == 0 && host.open.load(Relaxed) == 0).await;
    drop(response);
}

// === Servers and URIs that are no good ===

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_early_is_an_error() {
    let _frozen = Frozen::new();
    let at_once = Host::start(async |_| ()).await;
    let after_request = Host::start(async |mut stream: TcpStream| {
        read_head(&mut stream).await;
    })
    .await;
    let in_head = Host::start(async |mut stream: TcpStream| {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncont").await.unwrap();
    })
    .await;
    let client = client(HttpClientConfig::new());
    for host in [at_once, after_request, in_head] {
        assert!(matches!(fails(&client, host.get()).await, Kind::Failed(_)));
        eventually(|| client.snapshot().open == 0).await;
        // The request may have been read, so it is not made again.
        assert_eq!(host.accepted(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_server_has_closed_is_not_used_again() {
    let _frozen = Frozen::new();
    let host = Host::start(async |mut stream: TcpStream| {
        read_head(&mut stream).await;
        stream.write_all(&with_length(1)).await.unwrap();
    })
    .await;
    let client = client(HttpClientConfig::new());
    for round in 1..=5 {
        ask(&client, host.get()).await.unwrap();
        assert_eq!(host.accepted(), round);
        eventually(|| client.snapshot().open == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_uri_that_cannot_be_called_is_an_error_that_says_why() {
    let plain = client(HttpClientConfig::new());
    let tls =
        HttpClient::with_connector("orders", HttpClientConfig::new(), Told::new(|_| How::Fail));
    let tls = tls.unwrap();
    let get = |uri| Request::get(uri).body(Full::<Bytes>::default()).unwrap();
    for (uri, value) in [
        ("/path?secret=1", "://"),
        ("nowhere.test:80", "://nowhere.test"),
    ] {
        let error = ask(&plain, get(uri)).await.unwrap_err();
        let expected =
            format!("client orders: the URI is {value}, but must have a scheme and a host");
        assert_eq!(error.to_string(), expected);
        assert!(matches!(fails(&tls, get(uri)).await, Kind::Uri { .. }));
    }
    let uri = "https://nowhere.test/path?secret=1";
    let error = ask(&plain, get(uri)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "client orders: the URI is https://nowhere.test, but must have the scheme http, \
        for this client has no TLS: make it with `HttpClient::with_connector`"
    );
    assert_eq!(plain.snapshot().connect_errors, 0);
    // What a connector can do is its own business.
    let error = fails(&tls, get(uri)).await;
    assert!(matches!(&error, Kind::Connect(_)), "{error:?}");
    assert_eq!(tls.snapshot().connect_errors, 1);
}

// === HTTP/2 ===

async fn greet(_: Request<Incoming>) -> Response<Full<Bytes>> {
    Response::new(Full::from("hello"))
}

#[tokio::test(start_paused = true)]
async fn requests_over_http2_share_a_connection() {
    let _frozen = Frozen::new();
    let host = Host::http2(greet).await;
    let client = client(HttpClientConfig::new().http2(true).max_response_bytes(5));
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let (client, request) = (client.clone(), host.get());
        calls.spawn(async move { ask(&client, request).await });
    }
    while let Some(called) = calls.join_next().await {
        let response = called.unwrap().unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        assert_eq!(response.body(), "hello");
    }
    assert_eq!((host.accepted(), client.snapshot().open), (1, 1));
}

/// Says that it has agreed on HTTP/2, as TLS does.
struct Agreed(TokioIo<TcpStream>);

impl Connection for Agreed {
    fn connected(&self) -> Connected {
        self.0.connected().negotiated_h2()
    }
}

impl Read for Agreed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Agreed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_connector_for_tls_may_agree_on_http2() {
    let _frozen = Frozen::new();
    let host = Host::http2(greet).await;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    let connector = connector.map_response(Agreed);
    let client = HttpClient::with_connector("orders", HttpClientConfig::new(), connector).unwrap();
    for _ in 0..3 {
        let request = Request::get(format!("https://{}/", host.at));
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = ask(&client, request).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
    }
    assert_eq!((host.accepted(), client.snapshot().open), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_response_over_http2_that_is_too_large_ends_its_stream_alone() {
    let _frozen = Frozen::new();
    let host = Host::http2(async |request: Request<Incoming>| {
        let body = Bytes::from(vec![b'x'; 1 << 20]);
        match request.uri().path() {
            "/small" => Response::new(Frames::new([Frame::data(body.slice(..10))])),
            _ => Response::new(Frames::new([Frame::data(body)])),
        }
    })
    .await;
    let client = client(HttpClientConfig::new().http2(true).max_response_bytes(10));
    for round in 1..=3 {
        let kind = fails(&client, host.get()).await;
        assert!(matches!(kind, Kind::BodyTooLarge { limit: 10, .. }));
        let uri = format!("http://{}/small", host.at);
        let small = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
        assert_eq!(ask(&client, small).await.unwrap().body().len(), 10);
        assert_eq!(client.snapshot().refused_large, round);
    }
    assert_eq!(host.accepted(), 1);
}

/// A request with a body and a header, to see that nothing of it is lost.
fn post(host: &Host) -> Request<Full<Bytes>> {
    let request = Request::post(format!("http://{}/", host.at)).header("x-kept", "1");
    request.body(Full::from("posted")).unwrap()
}

async fn echo(request: Request<Incoming>) -> Response<Full<Bytes>> {
    use http_body_util::BodyExt;
    assert_eq!(request.headers()["x-kept"], "1");
    let body = request.into_body().collect().await.unwrap();
    Response::new(Full::new(body.to_bytes()))
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_over_http2_does_not_fail_those_that_wait_with_it() {
    let _frozen = Frozen::new();
    let host = Host::http2(echo).await;
    let connector = Told::new(|call| if call < 2 { How::Hang } else { How::Connect });
    let calls = connector.calls.clone();
    let config = HttpClientConfig::new().http2(true);
    let client = HttpClient::with_connector("orders", config, connector).unwrap();
    let ask = || {
        let (client, request) = (client.clone(), post(&host));
        tokio::spawn(async move { ask(&client, request).await })
    };
    let first = ask();
    eventually(|| calls.load(Relaxed) == 1).await;
    let second = ask();
    settle().await;
    let others = [ask(), ask(), ask()];
    settle().await;
    assert_eq!(calls.load(Relaxed), 1);
    first.abort();
    eventually(|| calls.load(Relaxed) == 2).await;
    second.abort();
    for other in others {
        assert_eq!(other.await.unwrap().unwrap().body(), "posted");
    }
    assert_eq!((host.accepted(), calls.load(Relaxed)), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_fails_fails_all_that_wait_for_it() {
    let connector = Told::new(|_| How::Hang);
    let calls = connector.calls.clone();
    let config = HttpClientConfig::new().http2(true);
    let client = HttpClient::with_connector("orders", config, connector).unwrap();
    let get = || {
        let request = Request::get("http://nowhere.test/");
        ask(&client, request.body(Full::<Bytes>::default()).unwrap())
    };
    let begun = Instant::now();
    let (one, other) = tokio::join!(get(), get());
    assert_eq!(begun + SECOND, Instant::now());
    assert!(matches!(
        one.unwrap_err().kind(),
        Kind::ConnectTimedOut { .. }
    ));
    assert!(matches!(other.unwrap_err().kind(), Kind::Connect(_)));
    assert_eq!(calls.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_a_connection_that_has_no_place_are_rejected_together() {
    let _frozen = Frozen::new();
    let (host, other) = (Host::http2(greet).await, Host::http2(greet).await);
    let client = client(HttpClientConfig::new().http2(true).max_connections(1));
    ask(&client, host.get()).await.unwrap();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let (client, request) = (client.clone(), other.get());
            tokio::spawn(async move { ask(&client, request).await })
        })
        .collect();
    settle().await;
    advance(SECOND + MILLI).await;
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), Kind::Rejected(_)), "{error:?}");
    }
    assert_eq!((client.snapshot().rejected, other.accepted()), (3, 0));
}

// === The rest ===

#[test]
fn every_value_out_of_its_range_is_told_at_once() {
    let config = HttpClientConfig::new()
        .max_connections(0)
        .max_idle_per_host(65_537)
        .idle_timeout(Duration::ZERO)
        .connect_timeout(SECOND * 61)
        .max_head_bytes(8_191)
        .max_response_bytes(0);
    let error = HttpClient::new("orders", config).unwrap_err();
    let fields: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| &*problem.field)
        .collect();
    assert_eq!(
        fields,
        [
            "max_connections",
            "max_idle_per_host",
            "idle_timeout",
            "connect_timeout",
            "max_head_bytes",
            "max_response_bytes",
        ]
    );
    let edges = HttpClientConfig::new()
        .max_connections(1)
        .max_idle_per_host(0)
        .idle_timeout(MILLI)
        .connect_timeout(SECOND * 60)
        .max_head_bytes(8_192)
        .max_response_bytes(1);
    assert!(HttpClient::new("orders", edges).is_ok());
    let edges = HttpClientConfig::new()
        .max_connections(65_536)
        .max_idle_per_host(65_536)
        .idle_timeout(SECOND * 86_400)
        .connect_timeout(MILLI)
        .max_head_bytes(1 << 30)
        .max_response_bytes(1 << 30);
    assert!(HttpClient::new("orders", edges).is_ok());
}

#[test]
fn clients_can_be_shared_and_shown() {
    fn check<T: Clone + std::fmt::Debug + Send + Sync + 'static>(_: &T) {}
    let client = client(HttpClientConfig::default());
    check(&client);
    let shown = format!("{client:?}");
    assert!(
        shown.contains("orders") && shown.contains("refused_large: 0"),
        "{shown}"
    );
}

#[cfg(feature = "breaker")]
#[tokio::test(start_paused = true)]
async fn an_adapter_calls_through_a_client_and_its_breaker_hears_of_it() {
    use plimsoll_adapter::{Adapter, AdapterErrorKind};
    use plimsoll_breaker::State;
    use plimsoll_http::{GrpcOutcome, HttpOutcome};

    let _frozen = Frozen::new();
    let host = Host::answering(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 30\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let client = client(HttpClientConfig::new());
    let adapter = Adapter::builder("orders").classify::<Response<Bytes>, _>(HttpOutcome);
    let adapter = adapter.service(client.clone()).unwrap();
    assert_eq!(adapter.call(host.get()).await.unwrap().status(), 503);
    assert_eq!(adapter.snapshot().breaker.state, State::Open);
    let refused = adapter.call(host.get()).await.unwrap_err();
    assert!(matches!(refused.kind(), AdapterErrorKind::Rejected(_)));

    let trailers = "grpc-status: 14\r\ngrpc-retry-pushback-ms: 30000\r\n";
    let host = Host::answering(chunked(&[1], trailers)).await;
    let adapter = Adapter::builder("orders").classify::<Response<Bytes>, _>(GrpcOutcome);
    let adapter = adapter.service(client).unwrap();
    assert_eq!(adapter.call(host.get()).await.unwrap().status(), 200);
    assert_eq!(adapter.snapshot().breaker.state, State::Open);
}

#[cfg(feature = "breaker")]
#[tokio::test(start_paused = true)]
async fn a_breaker_does_not_hear_of_requests_that_found_no_connection_free() {
    use plimsoll_adapter::Adapter;
    use plimsoll_http::HttpOutcome;

    let connector = Told::new(|_| How::Hang);
    let config = HttpClientConfig::new()
        .max_connections(1)
        .connect_timeout(SECOND);
    let client = HttpClient::with_connector("orders", config, connector).unwrap();
    let adapter = Adapter::builder("orders").classify::<Response<Bytes>, _>(HttpOutcome);
    let adapter = adapter
        .timeout(SECOND * 10)
        .service(client.clone())
        .unwrap();
    let get = || Request::get("http://nowhere.test/").body(Full::<Bytes>::default());
    let calls = (0..3).map(|_| adapter.call(get().unwrap()));
    let calls: Vec<_> = calls.map(tokio::spawn).collect();
    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
    let snapshot = client.snapshot();
    let totals = adapter.snapshot().breaker.totals;
    assert_eq!(totals.ignored, snapshot.rejected);
    assert_eq!(snapshot.rejected + snapshot.connect_timeouts, 3);
    assert!(snapshot.rejected > 0);
}

// === Webhook ===

/// A receiver that gives these answers, the last one again and again, and keeps what it was sent.
async fn receiver(answers: &'static [&'static str]) -> (Host, mpsc::Receiver<(String, String)>) {
    let (tell, told) = mpsc::channel();
    let count = Arc::new(AtomicUsize::new(0));
    let host = Host::start(move |mut stream| {
        let (tell, count) = (tell.clone(), count.clone());
        async move {
            while let Some(head) = read_head(&mut stream).await {
                let line = head
                    .lines()
                    .find(|line| line.starts_with("content-length: "));
                let length = line.unwrap()["content-length: ".len()..].parse().unwrap();
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                let _ = tell.send((head, String::from_utf8(body).unwrap()));
                let number = count.fetch_add(1, Relaxed).min(answers.len() - 1);
                let answer = format!("HTTP/1.1 {}content-length: 0\r\n\r\n", answers[number]);
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (host, told)
}

fn hook(host: &Host) -> WebhookConfig {
    WebhookConfig::new(format!("http://{}/hooks/T0KEN?key=T0KEN", host.at))
}

fn alert(number: u64) -> Alert {
    let text = format!("alert {number}");
    Alert::new(AlertKind::Leak, Severity::Warning, text).about("cache".into())
}

#[tokio::test]
async fn an_alert_is_sent_as_json_with_credentials() {
    let (host, told) = receiver(&["204 No Content\r\n"]).await;
    let config = hook(&host).authorization("Bearer T0KEN");
    let (webhook, sending) = Webhook::new(&config).unwrap();
    let sending = tokio::spawn(sending);
    // As it comes from the monitor: by a thread of its own.
    let alerts = Alerts::new();
    alerts.on_alert(webhook.clone()).unwrap();
    alerts.raise(&alert(7));
    eventually(|| webhook.stats().sent == 1).await;
    let (head, body) = told.recv().unwrap();
    assert!(
        head.starts_with("POST /hooks/T0KEN?key=T0KEN HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains("\r\nauthorization: Bearer T0KEN\r\n"),
        "{head}"
    );
    assert!(
        head.contains("\r\ncontent-type: application/json\r\n"),
        "{head}"
    );
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&json["kind"], &json["name"]),
        (&"leak".into(), &"cache".into())
    );
    assert_eq!(
        (&json["severity"], &json["text"]),
        (&"warning".into(), &"alert 7".into())
    );
    assert!(json["at_ms"].as_u64().unwrap() > 1_600_000_000_000);
    // It ends with the last handle, which the monitor's thread may have.
    drop((webhook, alerts));
    sending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_alert_is_sent_again_after_a_wait_that_doubles() {
    let _frozen = Frozen::new();
    let (host, told) = receiver(&[
        "500 Internal Server Error\r\n",
        "429 Too Many Requests\r\nretry-after: 7\r\n",
        "503 Service Unavailable\r\nretry-after: 100000\r\n",
        "200 OK\r\n",
    ])
    .await;
    let (webhook, sending) = Webhook::new(&hook(&host)).unwrap();
    tokio::spawn(sending);
    webhook.send(&alert(1));
    for (number, wait) in [(1, SECOND), (2, SECOND * 7), (3, SECOND * 60)] {
        eventually(|| told.try_recv().is_ok()).await;
        settle().await;
        advance(wait - MILLI).await;
        settle().await;
        assert_eq!(webhook.stats().attempts, number);
        advance(MILLI * 2).await;
        eventually(|| webhook.stats().attempts == number + 1).await;
    }
    eventually(|| webhook.stats().sent == 1).await;
}

#[tokio::test(start_paused = true)]
async fn alerts_for_a_receiver_that_is_down_are_bounded_and_given_up() {
    let _frozen = Frozen::new();
    // Nobody listens there any more.
    let at = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let config = WebhookConfig::new(format!("http://{at}/"))
        .attempts(3)
        .max_waiting(10);
    let (webhook, sending) = Webhook::new(&config).unwrap();
    tokio::spawn(sending);
    webhook.send(&alert(0));
    eventually(|| webhook.stats().attempts == 1).await;
    for number in 1..=25 {
        webhook.send(&alert(number));
    }
    let stats = webhook.stats();
    assert_eq!((stats.waiting, stats.dropped), (10, 15));
    for failed in 1..=11 {
        settle().await;
        advance(SECOND + MILLI).await;
        settle().await;
        advance(SECOND * 2 + MILLI).await;
        eventually(|| webhook.stats().failed == failed).await;
    }
    let stats = webhook.stats();
    assert_eq!((stats.waiting, stats.sent, stats.attempts), (0, 0, 33));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_or_that_no_other_try_would_change_ends_an_attempt() {
    let _frozen = Frozen::new();
    let silent = Host::start(|mut stream| async move { until_closed(&mut stream).await }).await;
    let (webhook, sending) = Webhook::new(&hook(&silent).attempts(1)).unwrap();
    tokio::spawn(sending);
    webhook.send(&alert(1));
    eventually(|| silent.accepted() == 1).await;
    settle().await;
    advance(SECOND * 5 + MILLI).await;
    eventually(|| webhook.stats().failed == 1).await;

    let (host, told) = receiver(&["404 Not Found\r\n", "200 OK\r\n"]).await;
    let (webhook, sending) = Webhook::new(&hook(&host)).unwrap();
    tokio::spawn(sending);
    webhook.send(&alert(1));
    webhook.send(&alert(2));
    eventually(|| webhook.stats().sent == 1).await;
    let stats = webhook.stats();
    assert_eq!((stats.failed, stats.attempts), (1, 2));
    assert!(told.recv().unwrap().1.contains("alert 1"));
    assert!(told.recv().unwrap().1.contains("alert 2"));
}

#[test]
fn a_webhook_shows_no_secret_and_refuses_what_it_cannot_call() {
    let config = WebhookConfig::new("http://user:T0KEN@h.example/T0KEN").authorization("T0KEN");
    let shown = format!("{config:?}");
    assert!(
        shown.contains("http://h.example") && !shown.contains("T0KEN"),
        "{shown}"
    );
    for (uri, secret, timeout, problem) in [
        (
            "T0KEN",
            "x",
            SECOND,
            "`uri` is ***, but must be a URI with a scheme and a host",
        ),
        ("/T0KEN", "x", SECOND, "`uri` is ***"),
        (
            "https://T0KEN",
            "x",
            SECOND,
            "`uri` is ***, but must be one with the scheme http",
        ),
        ("http://h", "T0KEN\n", SECOND, "`authorization` is ***"),
        ("http://h", "x", Duration::ZERO, "`timeout` is 0s"),
    ] {
        let config = WebhookConfig::new(uri)
            .authorization(secret)
            .timeout(timeout);
        let error = Webhook::new(&config).err().unwrap().to_string();
        assert!(
            error.starts_with(problem) && !error.contains("T0KEN"),
            "{error}"
        );
    }
}
