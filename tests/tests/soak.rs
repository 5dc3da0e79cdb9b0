//! A service that answers for a while holds no more than before.
//!
//! For [`SECONDS`], or as many as `PLIMSOLL_SOAK_SECONDS` says.

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};
use libtest_mimic::{Arguments, Trial};
use plimsoll::{
    Adapter, BoxError, CircuitBreakerConfig, Config, ControlConfig, HistoryConfig, KeyedBreakers,
    KeyedConfig, LifecycleConfig, Outcome, Plimsoll, ServerConfig, StopReport, TrackingAllocator,
    alloc::CountingAllocator,
};
use plimsoll_core::test_util::assert_live_bytes_return;
use plimsoll_tests::service::Cache;
use std::{
    collections::BTreeMap, env, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    task::{JoinHandle, JoinSet, yield_now},
    time::{Instant, sleep, timeout},
};

/// The outer one is exact.
#[global_allocator]
static ALLOCATOR: CountingAllocator<TrackingAllocator> =
    CountingAllocator::new(TrackingAllocator::system());

/// For how long the second one goes on by default.
const SECONDS: u64 = 10;
/// Rounds in a quarter of that, at the least.
const ROUNDS: usize = 5;
/// Clients, each with a connection for each of its rounds.
const CLIENTS: usize = 8;
/// Requests of each kind that a client sends in a round.
const REPEATED: usize = 5;
/// By how much the process may differ between two times at which it is quiet: threads have room for
/// what they will count, and the control thread has just begun with something, or not.
const SLACK: u64 = 16 << 10;
/// What the process has besides: the monitor looks for leaks over ten minutes and more, and remembers more
/// of everything that holds something until it has seen those. Of 100 000 requests, less than one byte each.
const REMEMBERED: u64 = 48 << 10;
/// What the process is called.
const PROCESS: &str = "the process";

// One test at a time, since all look at the whole process.
fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = vec![
        Trial::test("ten_thousand_requests_leave_nothing_behind", || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ten_thousand_requests_leave_nothing_behind());
            Ok(())
        }),
        Trial::test("what_all_hold_is_flat_after_a_warm_up", || {
            what_all_hold_is_flat_after_a_warm_up().map_err(|error| error.to_string().into())
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Twenty requests on one connection, one for a route of its own each, and a body left half read.
async fn visit(addr: SocketAddr) {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    for n in 0..20 {
        let head = format!("GET /unknown/{n} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = [0; 512];
        assert!(stream.read(&mut answer).await.expect("answered") > 0);
    }
    let head = "GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut some = [0; 1_024];
    stream.read_exact(&mut some).await.expect("the beginning");
}

// One thread, so that nothing else allocates between two readings.
async fn ten_thousand_requests_leave_nothing_behind() {
    let plimsoll = Plimsoll::start(Config::new().no_control()).expect("a service");
    let app = Router::new()
        .route("/large", get(|| async { vec![0_u8; 256 * 1_024] }))
        .layer(plimsoll.layer())
        .with_state(());
    let (addr, serving) = serve(&plimsoll, app).await;
    let server = plimsoll.server().clone();
    let visit = || async {
        visit(addr).await;
        while server.connections() > 0 {
            yield_now().await;
        }
    };
    assert_live_bytes_return(&ALLOCATOR, 50, 500, 4_096, visit).await;
    assert_eq!(plimsoll.layer().in_flight(), 0);
    plimsoll.request_stop();
    assert!(serving.await.expect("serving ends").is_clean());
}

async fn serve(plimsoll: &Plimsoll, app: Router) -> (SocketAddr, JoinHandle<Arc<StopReport>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let serving = tokio::spawn({
        let plimsoll = plimsoll.clone();
        async move { plimsoll.serve(listener, app).await.expect("signals") }
    });
    (addr, serving)
}

/// The least that was held whenever nobody asked for anything, in bytes: by the process, by each holding,
/// and by requests of each endpoint that have ended. What lives only for a moment, such as a scrape, is
/// not in the least of many.
type Least = BTreeMap<String, u64>;

/// A service with holdings of every kind, small enough to be full after the warm-up.
struct Service {
    plimsoll: Plimsoll,
    addr: SocketAddr,
    serving: JoinHandle<Arc<StopReport>>,
}

#[derive(Clone)]
struct Shared {
    cache: Cache,
    sql: Adapter<u32, u32>,
    tenants: KeyedBreakers,
}

fn what_all_hold_is_flat_after_a_warm_up() -> Result<(), BoxError> {
    let seconds = match env::var("PLIMSOLL_SOAK_SECONDS") {
        Ok(seconds) => seconds.parse()?,
        Err(_) => SECONDS,
    };
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(Duration::from_secs(3_600))
        .enable_all()
        .build()?;
    let service = runtime.block_on(Service::start())?;
    let clients = Builder::new_current_thread().enable_all().build()?;
    // Warm-up, then what is compared to what comes last.
    let quarter = Duration::from_secs(seconds) / 4;
    let mut least: [Least; 4] = Default::default();
    let mut rounds = 0;
    for least in &mut least {
        let end = Instant::now() + quarter;
        let enough = rounds + ROUNDS;
        // However long each takes.
        while rounds < enough || Instant::now() < end {
            clients.block_on(service.round(rounds));
            clients.block_on(service.look(least));
            rounds += 1;
        }
    }
    let [_, before, _, after] = least;
    println!("{rounds} rounds: {before:?}, {after:?}");
    runtime.block_on(service.stop());
    for (what, after) in after {
        let before = before.get(&what).copied().unwrap_or(0);
        let remembered = if what == PROCESS { REMEMBERED } else { 0 };
        assert!(
            after <= before + SLACK + remembered,
            "{what} held {before} bytes after the warm-up, and {after} in the end"
        );
    }
    Ok(())
}

impl Service {
    async fn start() -> Result<Self, BoxError> {
        let control = ControlConfig::new()
            .admin_addr(([127, 0, 0, 1], 0).into())
            .no_probe();
        let config = Config::new()
            .control(control)
            .lifecycle(LifecycleConfig::default().drain_delay(Duration::ZERO))
            .server(ServerConfig::default().max_connections(64));
        let plimsoll = Plimsoll::start(config)?;
        let history = || HistoryConfig::local().calls(200).transitions(20);
        let sql = Adapter::builder("sql")
            .circuit_breaker(CircuitBreakerConfig::new().history(history()))
            .function(|n: u32| async move {
                match n % 10 {
                    0 => Err(BoxError::from("every tenth fails")),
                    _ => Ok(n),
                }
            })?;
        let tenants = KeyedConfig::new()
            .max_keys(20)
            .breaker(CircuitBreakerConfig::new().history(history()));
        let shared = Shared {
            cache: plimsoll.register(Cache::new(32))?,
            sql: plimsoll.register_adapter(sql)?,
            tenants: plimsoll.register_keyed_breakers(KeyedBreakers::new("tenants", tenants)?)?,
        };
        let app = Router::new()
            .route("/hello", get(|| async { "hello" }))
            .route("/large", get(|| async { vec![0_u8; 256 << 10] }))
            .route("/cache/{key}", get(cached))
            .route("/sql/{n}", get(sql_asked))
            .route("/tenants/{tenant}", get(tenant))
            .route("/late", get(|| sleep(Duration::from_secs(60))))
            .layer(plimsoll.layer())
            .with_state(shared);
        let (addr, serving) = serve(&plimsoll, app).await;
        Ok(Self {
            plimsoll,
            addr,
            serving,
        })
    }

    /// Has all clients send requests of every kind, and waits until the service is done with them.
    async fn round(&self, round: usize) {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(ask(self.addr, round * CLIENTS + client));
        }
        clients.join_all().await;
        if let Some(admin) = self.plimsoll.admin_addr() {
            for path in ["/metrics", "/api/v1/holdings", "/api/v1/memory/requests"] {
                let mut stream = TcpStream::connect(admin).await.expect("a connection");
                send(&mut stream, path, true).await;
                stream.read_to_end(&mut Vec::new()).await.expect("answered");
            }
        }
        let server = self.plimsoll.server();
        let quiet = async {
            while server.connections() > 0 || self.plimsoll.layer().in_flight() > 0 {
                yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), quiet)
            .await
            .expect("quiet");
    }

    /// Keeps in `least` what is held, where it is less.
    async fn look(&self, least: &mut Least) {
        let mut keep = |what: String, bytes: u64| {
            least
                .entry(what)
                .and_modify(|least| *least = bytes.min(*least))
                .or_insert(bytes);
        };
        for _ in 0..20 {
            yield_now().await;
            let bytes = ALLOCATOR.live_bytes();
            keep(PROCESS.to_owned(), bytes);
        }
        for holding in self.plimsoll.registry().snapshot() {
            let bytes = holding.usage.map_or(0, |usage| usage.bytes);
            keep(format!("holding {}", holding.name), bytes);
        }
        for endpoint in self.plimsoll.layer().snapshot() {
            let bytes = endpoint.memory.retained.bytes;
            keep(format!("endpoint {}", endpoint.endpoint), bytes);
        }
    }

    async fn stop(self) {
        self.plimsoll.request_stop();
        let report = self.serving.await.expect("serving ends");
        assert!(report.is_clean(), "{report}");
    }
}

async fn cached(State(shared): State<Shared>, Path(key): Path<u32>) -> bytes::Bytes {
    let found = shared.cache.get(key);
    found.unwrap_or_else(|| shared.cache.insert(key))
}

async fn sql_asked(State(shared): State<Shared>, Path(n): Path<u32>) -> (StatusCode, String) {
    match shared.sql.call(n).await {
        Ok(answer) => (StatusCode::OK, answer.to_string()),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()),
    }
}

async fn tenant(State(shared): State<Shared>, Path(tenant): Path<String>) -> StatusCode {
    match shared.tenants.get(&tenant).try_acquire() {
        Ok(permit) => {
            permit.record(Outcome::Success);
            StatusCode::OK
        }
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Requests of every kind on one connection, the last of which nobody waits for.
async fn ask(addr: SocketAddr, number: usize) {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    for n in (number * REPEATED)..(number + 1) * REPEATED {
        for path in [
            "/hello".to_owned(),
            format!("/cache/{}", n % 100),
            format!("/sql/{n}"),
            format!("/tenants/{n}"),
            format!("/unknown/{n}"),
        ] {
            send(&mut stream, &path, false).await;
            read_answer(&mut stream).await;
        }
    }
    let left = ["/large", "/late"][number % 2];
    send(&mut stream, left, false).await;
    if left == "/large" {
        let mut some = [0; 1_024];
        stream.read_exact(&mut some).await.expect("the beginning");
    }
}

async fn send(stream: &mut TcpStream, path: &str, is_last: bool) {
    let connection = if is_last { "close" } else { "keep-alive" };
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: {connection}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
}

/// Reads an answer with a length to its end.
async fn read_answer(stream: &mut TcpStream) {
    let mut text = Vec::with_capacity(1_024);
    loop {
        assert!(
            stream.read_buf(&mut text).await.expect("answered") > 0,
            "cut off"
        );
        let Some(end) = text.windows(4).position(|end| end == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&text[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
        let left = (end + 4 + length).saturating_sub(text.len());
        let mut rest = vec![0; left];
        stream.read_exact(&mut rest).await.expect("all of it");
        return;
    }
}
