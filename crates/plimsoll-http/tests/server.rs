//! The server over real sockets: its bounds, and how it drains.
//!
//! The clock stands still unless a test moves it on, so that every time is exact.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use axum::{
    Router,
    body::Body,
    routing::{any, get, post},
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, channel::Channel};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::TokioIo;
use plimsoll_core::{
    BoxFuture, Lifecycle, Phase, Registry,
    lifecycle::{LifecycleConfig, StopReason, StopReport},
};
use plimsoll_http::{Server, ServerConfig};
use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    net::SocketAddr,
    panic::Location,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    task::Poll,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet, yield_now},
    time::{Instant, advance},
};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const BIG: usize = 32 << 20;

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

/// What handlers of the service under test share with the test.
#[derive(Clone)]
struct Probe {
    /// What `/wait` waits for.
    gate: Arc<Semaphore>,
    /// How many futures of `/hang` and bodies of `/sse` were dropped.
    dropped: Arc<AtomicUsize>,
    /// The other ends of upgraded connections.
    upgraded: Arc<Mutex<Vec<hyper::upgrade::Upgraded>>>,
}

struct CountsDrop(Arc<AtomicUsize>);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Probe {
    fn new() -> Self {
        Self {
            gate: Arc::new(Semaphore::new(0)),
            dropped: Arc::default(),
            upgraded: Arc::default(),
        }
    }

    fn app(&self) -> Router {
        let (wait, hang, sse, upgrade) = (self.clone(), self.clone(), self.clone(), self.clone());
        Router::new()
            .route("/", get("hello"))
            .route("/big", get(async || vec![b'x'; BIG]))
            .route("/echo", post(async |body: Bytes| body))
            .route("/panic", get(async || -> String { panic!("told to") }))
            .route(
                "/hop",
                get(([("connection", "x-hop"), ("x-hop", "1")], "hop")),
            )
            .route(
                "/wait",
                any(async move || {
                    wait.gate.acquire().await.unwrap().forget();
                    "waited"
                }),
            )
            .route(
                "/hang",
                get(async move || {
                    let _dropped = CountsDrop(hang.dropped.clone());
                    pending::<String>().await
                }),
            )
            .route("/sse", get(async move || sse.events()))
            .route(
                "/upgrade",
                get(async move |request| upgrade.upgrade(request)),
            )
    }

    /// One event, and then silence for ever.
    fn events(&self) -> Response<Body> {
        let (mut events, body) = Channel::<Bytes, Infallible>::new(1);
        let dropped = CountsDrop(self.dropped.clone());
        tokio::spawn(async move {
            let _dropped = dropped;
            events.send_data(Bytes::from("data: 1\n\n")).await.unwrap();
            // Ends with the body.
            while events.send_data(Bytes::new()).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1_000_000)).await;
            }
        });
        Response::new(Body::new(body))
    }

    fn upgrade(&self, mut request: Request<Body>) -> Response<Body> {
        let upgraded = self.upgraded.clone();
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let stream = upgrade.await.unwrap();
            upgraded.lock().unwrap().push(stream);
        });
        let response = Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "chat");
        response.body(Body::empty()).unwrap()
    }

    fn dropped(&self) -> usize {
        self.dropped.load(Relaxed)
    }
}

struct Running {
    server: Server,
    lifecycle: Lifecycle,
    probe: Probe,
    at: SocketAddr,
    serving: JoinHandle<()>,
    _frozen: Frozen,
}

impl Running {
    async fn start() -> Self {
        Self::with(ServerConfig::default()).await
    }

    async fn with(config: ServerConfig) -> Self {
        // From 5 to 17 seconds after the request to stop it drains, and 25 is the end.
        let lifecycle = Lifecycle::with_config(LifecycleConfig::default()).unwrap();
        let probe = Probe::new();
        let server = Server::new("public", config).unwrap();
        let (at, serving) = serve(&server, &lifecycle, probe.app()).await;
        Self {
            server,
            lifecycle,
            probe,
            at,
            serving,
            _frozen: Frozen::new(),
        }
    }

    async fn connect(&self) -> Client {
        let open = self.server.connections();
        let client = Client::over(TcpStream::connect(self.at).await.unwrap());
        until(|| self.server.connections() == open + 1).await;
        client
    }

    async fn http2(&self) -> Http2 {
        let open = self.server.connections();
        let http2 = Http2::over(TcpStream::connect(self.at).await.unwrap(), 1 << 20).await;
        until(|| self.server.connections() == open + 1).await;
        http2
    }

    async fn in_flight(&self, count: usize) {
        until(|| self.server.in_flight() == count).await;
    }

    async fn open(&self, count: usize) {
        until(|| self.server.connections() == count).await;
    }

    /// Checks that connections stay open until `time` has passed and not for longer.
    async fn closes_after(&self, time: Duration) {
        let open = self.server.connections();
        assert_ne!(open, 0);
        pass(time - MILLI).await;
        assert_eq!(self.server.connections(), open, "too early");
        pass(MILLI).await;
        self.open(0).await;
    }

    /// Asks for a stop, which is in its drain delay then.
    async fn leave(&self) -> JoinHandle<Arc<StopReport>> {
        let lifecycle = self.lifecycle.clone();
        let stop = async move {
            lifecycle
                .stop(&Registry::new(), StopReason::Requested)
                .await
        };
        let stop = tokio::spawn(stop);
        until(|| self.lifecycle.phase() >= Phase::Leaving).await;
        stop
    }

    /// Asks for a stop, and lets the drain delay pass.
    async fn drain(&self) -> JoinHandle<Arc<StopReport>> {
        let stop = self.leave().await;
        pass(5 * SECOND).await;
        assert!(self.lifecycle.phase() >= Phase::Draining);
        stop
    }

    /// Checks that the stop has come to its end, when, and with how many requests finished and
    /// how many cut off.
    async fn stopped(
        self,
        stop: JoinHandle<Arc<StopReport>>,
        after: Duration,
        (finished, cut): (u64, u64),
    ) {
        let report = soon(stop).await.unwrap();
        soon(self.serving).await.unwrap();
        assert_eq!(report.elapsed, after);
        assert!(report.elapsed <= report.timeout);
        let [drained] = report.drained[..] else {
            panic!("{report}");
        };
        assert_eq!((drained.finished, drained.cut), (finished, cut));
        assert_eq!(drained.name.as_str(), "public");
        assert_eq!(self.server.connections(), 0);
        assert_eq!(self.server.in_flight(), 0);
    }
}

async fn serve(
    server: &Server,
    lifecycle: &Lifecycle,
    app: Router,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (server, lifecycle) = (server.clone(), lifecycle.clone());
    let serving = async move { server.serve(listener, app, &lifecycle).await };
    (at, tokio::spawn(serving))
}

/// Lets everything that can happen now happen.
async fn settle() {
    for _ in 0..200 {
        yield_now().await;
    }
}

/// Moves the clock on.
async fn pass(time: Duration) {
    settle().await;
    advance(time).await;
    settle().await;
}

/// Waits for what comes without the clock moving on.
#[track_caller]
fn soon<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let mut future = pin!(future);
        for _ in 0..1_000_000 {
            if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
                return done;
            }
            yield_now().await;
        }
        panic!("waited in vain at {caller}");
    }
}

#[track_caller]
fn until(condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    soon(poll_fn(move |_| match condition() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    }))
}

/// A client of HTTP/1 that can do it wrong.
struct Client(TcpStream);

impl Client {
    fn over(stream: TcpStream) -> Self {
        // Otherwise a second small write waits for an acknowledgement, on the real clock.
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    async fn ask(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
    }

    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon(self.0.read_u8()).await.expect("an answer"));
        }
        String::from_utf8(head).unwrap()
    }

    /// The head of a response whose body is `body`.
    async fn answer(&mut self, body: &str) -> String {
        let head = self.head().await;
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{head}"
        );
        assert_eq!(self.bytes(body.len()).await, body.as_bytes());
        head
    }

    async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        soon(self.0.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// Asks for `/` and checks the answer.
    async fn hello(&mut self) -> String {
        self.ask("/").await;
        let head = self.answer("hello").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        head
    }

    /// What comes until the server closes the connection.
    async fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // Closed with a reset if there was something that the server has not read.
        let _ = soon(self.0.read_to_end(&mut rest)).await;
        rest
    }
}

/// A client of HTTP/2. Dropping it ends its connection without a word.
struct Http2 {
    sender: http2::SendRequest<Empty<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
    tasks: Tasks,
}

/// The tasks of a client, which end with it.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let task = async { drop(task.await) };
        self.0.lock().unwrap().spawn(task);
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.connection.abort();
        self.tasks.0.lock().unwrap().abort_all();
    }
}

impl Http2 {
    async fn over(stream: TcpStream, window: u32) -> Self {
        stream.set_nodelay(true).unwrap();
        let tasks = Tasks::default();
        let (sender, connection) = http2::Builder::new(tasks.clone())
            .initial_stream_window_size(window)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        Self {
            sender,
            connection: tokio::spawn(connection),
            tasks,
        }
    }

    /// Sends a request at once, and takes it back when the future is dropped.
    fn ask(&mut self, path: &str) -> BoxFuture<'static, hyper::Result<Response<Incoming>>> {
        let request = Request::builder().uri(format!("http://x{path}"));
        let response = self
            .sender
            .send_request(request.body(Empty::new()).unwrap());
        Box::pin(soon(response))
    }

    /// Waits for the server to close the connection with GOAWAY.
    async fn goodbye(&mut self) {
        let closed = soon(&mut self.connection).await;
        closed.unwrap().expect("a goodbye");
    }

    async fn hello(&mut self) -> Response<()> {
        let (head, body) = self.ask("/").await.unwrap().into_parts();
        assert_eq!(head.status, 200);
        assert_eq!(soon(body.collect()).await.unwrap().to_bytes(), "hello");
        Response::from_parts(head, ())
    }
}

// === Requests ===

#[tokio::test(start_paused = true)]
async fn requests_of_http_1_share_a_connection() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    for _ in 0..3 {
        let head = client.hello().await;
        assert!(!head.contains("connection:"), "{head}");
    }
    assert_eq!(running.server.connections(), 1);
    assert_eq!(running.server.in_flight(), 0);
    drop(client);
    running.open(0).await;
}

#[tokio::test(start_paused = true)]
async fn requests_of_http_2_share_a_connection() {
    let running = Running::start().await;
    let mut client = running.http2().await;
    client.hello().await;
    let waiting = [client.ask("/wait"), client.ask("/wait")];
    running.in_flight(2).await;
    client.hello().await;
    running.probe.gate.add_permits(2);
    for response in waiting {
        let body = response.await.unwrap().into_body();
        assert_eq!(soon(body.collect()).await.unwrap().to_bytes(), "waited");
    }
    assert_eq!(running.server.connections(), 1);
    running.in_flight(0).await;
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_are_answered_in_turn() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client
        .send("GET /hop HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        .await;
    client.answer("hop").await;
    client.answer("hello").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_1_0_is_answered_and_closed() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    client.answer("hello").await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_expects_it_is_told_to_continue() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client
        .send("POST /echo HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        .await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("echo").await;
    client.answer("echo").await;
}

#[tokio::test(start_paused = true)]
async fn a_head_request_gets_no_body() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.send("HEAD / HTTP/1.1\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.contains("content-length: 5\r\n"), "{head}");
    client.hello().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_takes_no_more_than_its_connection_or_stream() {
    let running = Running::start().await;
    let mut other = running.connect().await;
    let mut client = running.connect().await;
    client.ask("/panic").await;
    assert_eq!(client.rest().await, b"");
    other.hello().await;
    running.open(1).await;
    running.in_flight(0).await;

    let mut http2 = running.http2().await;
    let waiting = http2.ask("/wait");
    http2.ask("/panic").await.unwrap_err();
    running.probe.gate.add_permits(1);
    assert_eq!(waiting.await.unwrap().status(), 200);
    http2.hello().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_ends_its_requests() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.ask("/hang").await;
    let mut http2 = running.http2().await;
    let hanging = http2.ask("/hang");
    running.in_flight(2).await;
    drop(client);
    running.in_flight(1).await;
    drop(http2);
    hanging.await.unwrap_err();
    running.in_flight(0).await;
    running.open(0).await;
    assert_eq!(running.probe.dropped(), 2);
}

// === Bounds ===

#[tokio::test(start_paused = true)]
async fn a_connection_past_the_cap_is_closed_at_once_and_counted() {
    let running = Running::with(ServerConfig::default().max_connections(2)).await;
    let mut first = running.connect().await;
    let second = running.connect().await;
    let third = Client::over(TcpStream::connect(running.at).await.unwrap());
    assert_eq!(third.rest().await, b"");
    assert_eq!(
        (running.server.connections(), running.server.refused()),
        (2, 1)
    );
    first.hello().await;

    drop(second);
    running.open(1).await;
    running.connect().await.hello().await;
    assert_eq!(running.server.refused(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_connections_of_all_kinds_leave_no_place_taken() {
    let running = Running::with(ServerConfig::default().max_connections(4)).await;
    for cycle in 0..1_000 {
        let mut client = running.connect().await;
        match cycle % 5 {
            0 => {}
            1 => client.send("GET / HT").await,
            2 => {
                client.hello().await;
            }
            3 => client.ask("/hang").await,
            _ => client.send("no HTTP at all\r\n\r\n").await,
        }
        drop(client);
        running.open(0).await;
    }
    for _ in 0..10 {
        let mut client = running.connect().await;
        client.ask("/panic").await;
        client.rest().await;
        running.open(0).await;
    }
    assert_eq!(running.server.refused(), 0);
    assert_eq!(running.server.in_flight(), 0);
    running.connect().await.hello().await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_too_long_is_answered_with_431() {
    let running = Running::with(ServerConfig::default().max_head_bytes(8_192)).await;
    let mut client = running.connect().await;
    let head = |filler| format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(filler));
    client.send(head(7_000)).await;
    client.answer("hello").await;
    client.send(&head(10_000)[..8_192]).await;
    let answer = String::from_utf8(client.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    running.open(0).await;

    let mut http2 = running.http2().await;
    let request = |filler: usize| {
        let request = Request::builder()
            .uri("http://x/")
            .header("x", "x".repeat(filler));
        request.body(Empty::new()).unwrap()
    };
    let response = soon(http2.sender.send_request(request(7_000)))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    if let Ok(response) = soon(http2.sender.send_request(request(10_000))).await {
        assert_eq!(response.status(), 431);
    }
    http2.hello().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed_after_the_head_timeout() {
    let running = Running::start().await;
    let client = running.connect().await;
    running.closes_after(10 * SECOND).await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(start_paused = true)]
async fn a_first_head_is_due_from_the_accept() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    pass(4 * SECOND).await;
    client.send("GET / HTTP/1.1\r\n").await;
    running.closes_after(6 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_later_head_is_due_from_its_first_byte() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.hello().await;
    pass(40 * SECOND).await;
    client.send("G").await;
    pass(9 * SECOND).await;
    client.send("ET / HTTP/1.1\r\n").await;
    running.closes_after(SECOND).await;
    assert_eq!(client.rest().await, b"");

    // A head that comes in time ends the wait.
    let mut client = running.connect().await;
    client.hello().await;
    client.send("GET / HTTP/1.1\r\n").await;
    pass(9 * SECOND).await;
    client.send("\r\n").await;
    client.answer("hello").await;
    running.closes_after(75 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_drips_in_is_cut_all_the_same() {
    let running = Running::start().await;
    for before in [false, true] {
        let mut client = running.connect().await;
        if before {
            client.hello().await;
        }
        client.send("G").await;
        for byte in ["E", "T"] {
            pass(4 * SECOND).await;
            client.send(byte).await;
        }
        running.closes_after(2 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_body_of_a_request_is_not_the_head_of_the_next() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client
        .send("POST /echo HTTP/1.1\r\ncontent-length: 4\r\n\r\n")
        .await;
    running.in_flight(1).await;
    pass(60 * SECOND).await;
    client.send("echo").await;
    client.answer("echo").await;
    running.closes_after(75 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn what_only_looks_like_http_2_has_the_head_timeout_too() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.send("PRI * HTTP/2.0\r\n").await;
    running.closes_after(10 * SECOND).await;
    let mut client = running.connect().await;
    client.send("PRICE / HTTP/1.1\r\n").await;
    running.closes_after(10 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.hello().await;
    pass(70 * SECOND).await;
    client.hello().await;
    running.closes_after(75 * SECOND).await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test(start_paused = true)]
async fn an_idle_http_2_connection_is_closed_with_a_goodbye() {
    let running = Running::start().await;
    // With a request and without one.
    for requests in [1, 0] {
        let mut client = running.http2().await;
        for _ in 0..requests {
            client.hello().await;
        }
        running.closes_after(75 * SECOND).await;
        client.goodbye().await;
        assert!(client.sender.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_shorter_than_the_other_is_exact_too() {
    let config = ServerConfig::default();
    let running = Running::with(config.idle_timeout(5 * SECOND)).await;
    let mut client = running.connect().await;
    pass(2 * SECOND).await;
    client.hello().await;
    running.closes_after(5 * SECOND).await;
    let mut client = running.http2().await;
    pass(2 * SECOND).await;
    client.hello().await;
    running.closes_after(5 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn an_http_2_connection_is_idle_from_the_reset_of_its_last_stream() {
    let running = Running::with(ServerConfig::default().idle_timeout(5 * SECOND)).await;
    let mut client = running.http2().await;
    let hanging = client.ask("/hang");
    running.in_flight(1).await;
    pass(2 * SECOND).await;
    drop(hanging);
    running.in_flight(0).await;
    running.closes_after(5 * SECOND).await;
    client.goodbye().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_request_is_not_idle() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.ask("/wait").await;
    let mut http2 = running.http2().await;
    let waiting = http2.ask("/wait");
    let mut stream = running.connect().await;
    stream.ask("/sse").await;
    stream.head().await;
    running.in_flight(3).await;
    for _ in 0..60 {
        pass(10 * SECOND).await;
    }
    assert_eq!(running.server.in_flight(), 3);
    running.probe.gate.add_permits(2);
    client.answer("waited").await;
    assert_eq!(waiting.await.unwrap().status(), 200);
    drop((stream, http2));
    running.open(1).await;
    running.closes_after(75 * SECOND).await;
}

/// Connects with a receive buffer that a big response fills.
async fn slow_reader(running: &Running) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let stream = socket.connect(running.at).await.unwrap();
    running.open(1).await;
    stream
}

#[tokio::test(start_paused = true)]
async fn a_response_that_moves_on_is_not_idle() {
    let running = Running::start().await;
    let mut client = Client::over(slow_reader(&running).await);
    client.ask("/big").await;
    client.head().await;
    for _ in 0..7 {
        client.bytes(BIG / 8).await;
        pass(60 * SECOND).await;
        assert_eq!(running.server.connections(), 1);
    }
    client.bytes(BIG / 8).await;
    client.hello().await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_nobody_takes_is_idle() {
    let running = Running::start().await;
    let mut client = Client::over(slow_reader(&running).await);
    client.ask("/big").await;
    client.head().await;
    pass(76 * SECOND).await;
    pass(SECOND).await;
    running.open(0).await;
    assert!(client.rest().await.len() < BIG);
}

#[tokio::test(start_paused = true)]
async fn streams_past_their_cap_have_to_wait() {
    let running = Running::with(ServerConfig::default().max_streams(1)).await;
    let mut client = running.http2().await;
    client.hello().await;
    let waiting = [client.ask("/wait"), client.ask("/wait")];
    running.in_flight(1).await;
    settle().await;
    assert_eq!(running.server.in_flight(), 1);
    running.probe.gate.add_permits(2);
    for response in waiting {
        assert_eq!(response.await.unwrap().status(), 200);
    }
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let config = ServerConfig::default;
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    let wait = "but must be between 1ms and 365d";
    let table = [
        (
            config().max_connections(0),
            String::from("`max_connections` is 0, but must be at least 1"),
        ),
        (
            config().max_head_bytes(8_191),
            String::from("`max_head_bytes` is 8191, but must be between 8KiB and 1GiB"),
        ),
        (
            config().max_head_bytes((1 << 30) + 1),
            String::from("`max_head_bytes` is 1073741825, but must be between 8KiB and 1GiB"),
        ),
        (
            config().max_streams(0),
            String::from("`max_streams` is 0, but must be between 1 and 4294967295"),
        ),
        (
            config().head_timeout(Duration::ZERO),
            format!("`head_timeout` is 0s, {wait}"),
        ),
        (
            config().idle_timeout(Duration::from_nanos(1)),
            format!("`idle_timeout` is 1ns, {wait}"),
        ),
        (
            config().idle_timeout(year + MILLI),
            format!("`idle_timeout` is 365d1ms, {wait}"),
        ),
    ];
    for (config, message) in table {
        let error = Server::new("public", config).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[tokio::test(start_paused = true)]
async fn the_largest_and_the_smallest_settings_serve() {
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    let most = ServerConfig::default()
        .max_connections(usize::MAX)
        .max_head_bytes(1 << 30)
        .head_timeout(year)
        .idle_timeout(year)
        .max_streams(u32::MAX);
    let running = Running::with(most).await;
    running.connect().await.hello().await;
    running.open(0).await;
    running.http2().await.hello().await;
    let least = ServerConfig::default()
        .max_connections(1)
        .max_head_bytes(8_192)
        .head_timeout(MILLI)
        .idle_timeout(MILLI)
        .max_streams(1);
    let running = Running::with(least).await;
    running.connect().await.hello().await;
    running.open(0).await;
    running.http2().await.hello().await;
}

#[test]
fn its_types_can_be_shared_sent_cloned_and_debugged() {
    fn shared<T: Send + Sync + Clone + std::fmt::Debug>() {}
    shared::<Server>();
    shared::<ServerConfig>();
    shared::<plimsoll_core::ConfigError>();
}

// === Leaving ===

#[tokio::test(start_paused = true)]
async fn while_leaving_responses_of_http_1_close_their_connection() {
    let running = Running::start().await;
    let mut before = running.connect().await;
    before.hello().await;
    let mut http2 = running.http2().await;
    http2.hello().await;
    let _stop = running.leave().await;
    let head = before.hello().await;
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert_eq!(before.rest().await, b"");
    let response = http2.hello().await;
    assert!(!response.headers().contains_key("connection"));
    http2.hello().await;
    // Still accepts.
    let head = running.connect().await.hello().await;
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert_eq!(running.lifecycle.phase(), Phase::Leaving);
}

#[tokio::test(start_paused = true)]
async fn a_connection_header_of_the_service_is_kept() {
    let running = Running::start().await;
    let _stop = running.leave().await;
    let mut client = running.connect().await;
    client.ask("/hop").await;
    let head = client.answer("hop").await;
    assert!(head.contains("connection: x-hop, close\r\n"), "{head}");
    assert_eq!(client.rest().await, b"");
}

/// Upgrades a connection, and returns its two ends.
async fn upgrade(running: &Running, client: &mut Client) -> TokioIo<hyper::upgrade::Upgraded> {
    client
        .send("GET /upgrade HTTP/1.1\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("connection: upgrade\r\n"), "{head}");
    until(|| !running.probe.upgraded.lock().unwrap().is_empty()).await;
    TokioIo::new(running.probe.upgraded.lock().unwrap().pop().unwrap())
}

async fn echoes(client: &mut Client, upgraded: &mut TokioIo<hyper::upgrade::Upgraded>) {
    client.send("ping").await;
    let mut ping = [0; 4];
    upgraded.read_exact(&mut ping).await.unwrap();
    upgraded.write_all(&ping).await.unwrap();
    assert_eq!(client.bytes(4).await, b"ping");
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_works_while_leaving_keeps_its_place_and_stops_no_drain() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    let mut upgraded = upgrade(&running, &mut client).await;
    echoes(&mut client, &mut upgraded).await;
    let stop = running.leave().await;
    let mut late = running.connect().await;
    let mut late_upgraded = upgrade(&running, &mut late).await;
    echoes(&mut late, &mut late_upgraded).await;
    assert_eq!(running.server.connections(), 2);
    pass(5 * SECOND).await;
    let report = soon(stop).await.unwrap();
    assert_eq!(report.elapsed, 5 * SECOND);
    assert!(report.is_clean(), "{report}");
    echoes(&mut client, &mut upgraded).await;
    echoes(&mut late, &mut late_upgraded).await;
    drop(upgraded);
    assert_eq!(running.server.connections(), 1);
    drop(late_upgraded);
    assert_eq!(running.server.connections(), 0);
    assert_eq!(client.rest().await, b"");
}

// === Draining ===

#[tokio::test(start_paused = true)]
async fn a_drain_closes_the_listener_and_idle_connections_at_once() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.hello().await;
    let mut http2 = running.http2().await;
    http2.hello().await;
    let mut unused = running.http2().await;
    settle().await;
    let stop = running.drain().await;
    assert_eq!(client.rest().await, b"");
    http2.goodbye().await;
    unused.goodbye().await;
    let refused = TcpStream::connect(running.at).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    running.stopped(stop, 5 * SECOND, (0, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_requests_in_flight() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.ask("/wait").await;
    let mut http2 = running.http2().await;
    let waiting = http2.ask("/wait");
    running.in_flight(2).await;
    let stop = running.drain().await;
    pass(6 * SECOND).await;
    assert_eq!(running.server.in_flight(), 2);
    assert!(
        !http2
            .ask("/")
            .await
            .is_ok_and(|response| response.status() == 200)
    );
    running.probe.gate.add_permits(2);
    let head = client.answer("waited").await;
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert_eq!(client.rest().await, b"");
    let body = waiting.await.unwrap().into_body();
    assert_eq!(soon(body.collect()).await.unwrap().to_bytes(), "waited");
    http2.goodbye().await;
    running.stopped(stop, 11 * SECOND, (2, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_a_response_that_is_read_slowly() {
    let running = Running::start().await;
    let mut client = Client::over(slow_reader(&running).await);
    client.ask("/big").await;
    client.head().await;
    client.bytes(BIG / 8).await;
    let stop = running.drain().await;
    for _ in 0..7 {
        pass(1_500 * MILLI).await;
        client.bytes(BIG / 8).await;
    }
    assert_eq!(client.rest().await, b"");
    running.stopped(stop, 15_500 * MILLI, (0, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_a_response_behind_a_window_of_http_2() {
    let running = Running::start().await;
    let stream = TcpStream::connect(running.at).await.unwrap();
    let mut http2 = Http2::over(stream, 65_535).await;
    let body = http2.ask("/big").await.unwrap().into_body();
    running.in_flight(0).await;
    let stop = running.drain().await;
    pass(6 * SECOND).await;
    assert_eq!(running.server.connections(), 1);
    assert_eq!(soon(body.collect()).await.unwrap().to_bytes().len(), BIG);
    http2.goodbye().await;
    running.stopped(stop, 11 * SECOND, (0, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_has_a_second_to_send_one() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    let silent = running.connect().await;
    let stop = running.drain().await;
    pass(999 * MILLI).await;
    let head = client.hello().await;
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert_eq!(client.rest().await, b"");
    assert_eq!(running.server.connections(), 1);
    pass(MILLI).await;
    assert_eq!(silent.rest().await, b"");
    running.stopped(stop, 6 * SECOND, (1, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_only_the_kernel_has_accepted_is_served() {
    let running = Running::start().await;
    settle().await;
    let clients: Vec<_> = (0..100)
        .map(|_| std::net::TcpStream::connect(running.at).unwrap())
        .collect();
    // The stop begins to drain before the runtime looks at its sockets again.
    let lifecycle = running.lifecycle.clone();
    let stop = async move {
        lifecycle
            .stop(&Registry::new(), StopReason::Interrupt)
            .await
    };
    let stop = tokio::spawn(stop);
    until(|| running.server.connections() == clients.len()).await;
    assert_eq!(running.lifecycle.phase(), Phase::Draining);
    for client in clients {
        client.set_nonblocking(true).unwrap();
        Client::over(TcpStream::from_std(client).unwrap())
            .hello()
            .await;
    }
    running.stopped(stop, Duration::ZERO, (100, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn half_a_head_is_closed_after_a_second_and_the_whole_of_it_is_answered() {
    let running = Running::start().await;
    let mut clients = Vec::new();
    for before in [false, true] {
        for _ in 0..2 {
            let mut client = running.connect().await;
            if before {
                client.hello().await;
            }
            clients.push(client);
        }
    }
    pass(SECOND).await;
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\n").await;
    }
    let stop = running.drain().await;
    pass(999 * MILLI).await;
    for client in clients.iter_mut().step_by(2) {
        client.send("\r\n").await;
        let head = client.answer("hello").await;
        assert!(head.contains("connection: close\r\n"), "{head}");
    }
    running.open(2).await;
    pass(MILLI).await;
    for client in clients {
        assert_eq!(client.rest().await, b"");
    }
    running.stopped(stop, 6 * SECOND, (2, 0)).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_is_cut_when_the_drain_ends() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.ask("/sse").await;
    client.head().await;
    let mut http2 = running.http2().await;
    let response = http2.ask("/sse").await.unwrap();
    let stop = running.drain().await;
    pass(12 * SECOND - MILLI).await;
    assert_eq!(running.server.in_flight(), 2);
    pass(MILLI).await;
    let rest = client.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it seems to be whole");
    soon(response.into_body().collect()).await.unwrap_err();
    running.stopped(stop, 17 * SECOND, (0, 2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_is_dropped_when_the_drain_ends() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.ask("/hang").await;
    let mut http2 = running.http2().await;
    let hanging = [http2.ask("/hang"), http2.ask("/hang")];
    running.in_flight(3).await;
    let dropped = running.probe.dropped.clone();
    let stop = running.drain().await;
    pass(12 * SECOND - MILLI).await;
    assert_eq!(dropped.load(Relaxed), 0);
    pass(MILLI).await;
    assert_eq!(client.rest().await, b"");
    for response in hanging {
        response.await.unwrap_err();
    }
    running.stopped(stop, 17 * SECOND, (0, 3)).await;
    assert_eq!(dropped.load(Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_2_that_is_gone_without_a_word_holds_no_drain() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client
        .send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await;
    settle().await;
    let stop = running.drain().await;
    assert_eq!(
        running.server.connections(),
        1,
        "the goodbye is not answered"
    );
    pass(SECOND).await;
    running.stopped(stop, 6 * SECOND, (0, 0)).await;
    assert!(!client.rest().await.is_empty());
}

/// Half of what an HTTP/2 connection begins with, which nobody can tell from HTTP/1.
const HALF_A_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
/// The other half, empty settings, and the head of `GET /`.
const HTTP2_REQUEST: &[u8] = b"\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
    \0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01x";
const HTTP2_PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\x0012345678";

#[tokio::test(start_paused = true)]
async fn a_preface_of_http_2_in_two_parts_is_one_all_the_same() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.send(HALF_A_PREFACE).await;
    pass(SECOND).await;
    client.send(HTTP2_REQUEST).await;
    pass(SECOND).await;
    assert_eq!(running.server.in_flight(), 0);
    client.send(HTTP2_PING).await;
    pass(73 * SECOND).await;
    assert_eq!(running.server.connections(), 1, "a ping is no head");
    pass(SECOND).await;
    pass(SECOND).await;
    let stream = client.rest().await;
    assert!(stream.windows(5).any(|data| data == b"hello"));
}

#[tokio::test(start_paused = true)]
async fn a_request_of_http_2_that_comes_late_is_answered_before_the_goodbye() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.send(HALF_A_PREFACE).await;
    let stop = running.drain().await;
    pass(999 * MILLI).await;
    client.send(HTTP2_REQUEST).await;
    pass(MILLI).await;
    // What the goodbye waits for, as it would from any client.
    client
        .send(b"\0\0\x08\x06\x01\0\0\0\0\x0b\x7b\xa2\xf0\x8b\x9b\xfe\x54")
        .await;
    running.stopped(stop, 6 * SECOND, (1, 0)).await;
    let stream = client.rest().await;
    assert!(stream.windows(5).any(|data| data == b"hello"));
}

#[tokio::test(start_paused = true)]
async fn what_was_finished_and_what_was_cut_is_counted_apart() {
    let running = Running::start().await;
    let mut clients = Vec::new();
    for path in ["/wait", "/wait", "/hang", "/hang", "/hang", "/"] {
        let mut client = running.connect().await;
        client.ask(path).await;
        clients.push(client);
    }
    // This one has ended before.
    clients.pop().unwrap().answer("hello").await;
    running.in_flight(5).await;
    let stop = running.drain().await;
    running.probe.gate.add_permits(2);
    running.in_flight(3).await;
    pass(12 * SECOND).await;
    running.stopped(stop, 17 * SECOND, (2, 3)).await;
}

#[tokio::test(start_paused = true)]
async fn an_abort_cuts_at_once() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.ask("/hang").await;
    running.in_flight(1).await;
    let stop = running.leave().await;
    pass(SECOND).await;
    running.lifecycle.abort();
    assert_eq!(client.rest().await, b"");
    running.stopped(stop, SECOND, (0, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_started_while_draining_returns_at_once() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.ask("/hang").await;
    running.in_flight(1).await;
    let _stop = running.drain().await;
    let late = Server::new("late", ServerConfig::default()).unwrap();
    let (at, serving) = serve(&late, &running.lifecycle, running.probe.app()).await;
    soon(serving).await.unwrap();
    TcpStream::connect(at).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_cuts_everything() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    client.ask("/hang").await;
    let mut http2 = running.http2().await;
    let hanging = http2.ask("/hang");
    running.in_flight(2).await;
    running.serving.abort();
    assert_eq!(client.rest().await, b"");
    hanging.await.unwrap_err();
    running.in_flight(0).await;
    running.open(0).await;
    assert_eq!(running.probe.dropped(), 2);
    TcpStream::connect(running.at).await.unwrap_err();
    // The stop does not wait for it.
    let stop = soon(running.leave().await).await.unwrap();
    assert_eq!(stop.elapsed, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn two_servers_of_one_lifecycle_both_drain() {
    let running = Running::start().await;
    let other = Server::new("internal", ServerConfig::default()).unwrap();
    let (at, serving) = serve(&other, &running.lifecycle, running.probe.app()).await;
    let mut client = running.connect().await;
    client.ask("/wait").await;
    running.in_flight(1).await;
    let mut hangs = Client::over(TcpStream::connect(at).await.unwrap());
    hangs.ask("/hang").await;
    until(|| other.in_flight() == 1).await;
    let stop = running.drain().await;
    running.probe.gate.add_permits(1);
    client.answer("waited").await;
    pass(12 * SECOND).await;
    let report = soon(stop).await.unwrap();
    soon(serving).await.unwrap();
    let mut drained: Vec<_> = report
        .drained
        .iter()
        .map(|drained| (drained.name.as_str(), drained.finished, drained.cut))
        .collect();
    drained.sort_unstable();
    assert_eq!(drained, [("internal", 0, 1), ("public", 1, 0)]);
}

/// On several threads, where the end of a request races with the cut.
#[test]
fn what_is_cut_is_counted_exactly_on_several_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let config = LifecycleConfig::default().drain_delay(Duration::ZERO);
        let lifecycle = Lifecycle::with_config(config).unwrap();
        let server = Server::new("public", ServerConfig::default()).unwrap();
        let (at, serving) = serve(&server, &lifecycle, Probe::new().app()).await;
        let mut clients = Vec::new();
        for _ in 0..50 {
            let mut client = Client::over(TcpStream::connect(at).await.unwrap());
            client.ask("/hang").await;
            clients.push(client);
        }
        let mut http2 = Http2::over(TcpStream::connect(at).await.unwrap(), 1 << 20).await;
        let hanging: Vec<_> = (0..50).map(|_| http2.ask("/hang")).collect();
        until(|| server.in_flight() == 100).await;
        lifecycle.abort();
        let report = lifecycle
            .stop(&Registry::new(), StopReason::Requested)
            .await;
        soon(serving).await.unwrap();
        let [drained] = report.drained[..] else {
            panic!("{report}");
        };
        assert_eq!((drained.finished, drained.cut), (0, 100));
        drop(hanging);
    });
}

#[cfg(feature = "metrics")]
#[test]
fn connections_make_these_lines() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let running = Running::with(ServerConfig::default().max_connections(3)).await;
            let _silent = running.connect().await;
            running.closes_after(10 * SECOND).await;
            running.connect().await.hello().await;
            running.open(0).await;
            let mut idle = running.connect().await;
            idle.hello().await;
            running.closes_after(75 * SECOND).await;
            let mut hangs = [running.connect().await, running.connect().await];
            for client in &mut hangs {
                client.ask("/hang").await;
            }
            let _silent = running.connect().await;
            let refused = Client::over(TcpStream::connect(running.at).await.unwrap());
            refused.rest().await;
            let stop = running.drain().await;
            pass(12 * SECOND).await;
            running.stopped(stop, 17 * SECOND, (0, 2)).await;
        });
    });
    let rendered = recorder.handle().render();
    let mut lines: Vec<_> = rendered
        .lines()
        .filter(|line| line.starts_with("plimsoll_"))
        .collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            r#"plimsoll_accept_errors_total{listener="public"} 0"#,
            r#"plimsoll_connections_accepted_total{listener="public"} 6"#,
            r#"plimsoll_connections_closed_total{listener="public",reason="cut"} 2"#,
            r#"plimsoll_connections_closed_total{listener="public",reason="head_timeout"} 1"#,
            r#"plimsoll_connections_closed_total{listener="public",reason="idle"} 1"#,
            r#"plimsoll_connections_open{listener="public"} 0"#,
            r#"plimsoll_connections_refused_total{listener="public"} 1"#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_clock_stands_still_while_a_socket_is_waited_for() {
    let _frozen = Frozen::new();
    let before = Instant::now();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let timer = tokio::spawn(tokio::time::sleep(MILLI));
    let (accepted, connected) = tokio::join!(
        listener.accept(),
        TcpStream::connect(listener.local_addr().unwrap())
    );
    assert!(accepted.is_ok() && connected.is_ok());
    assert_eq!(Instant::now(), before);
    assert!(!timer.is_finished());
}
