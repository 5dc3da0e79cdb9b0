//! Drives the service: clients of every kind on one thread, each with a connection of its own, that
//! wait for an answer before they ask again, and pause once they were refused.

use crate::{
    Error,
    outcome::{Counts, Outcome, Probes, Times},
    service::CACHE_HEADER,
};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use fastrand::Rng;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Method, Request, StatusCode, Uri,
    client::conn::http1::{SendRequest, handshake},
    header::{HOST, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpSocket, TcpStream},
    runtime::Builder,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

/// After a 503, unless the pause between requests is meant for that, too.
const PAUSE: Duration = Duration::from_millis(50);
const THINK: Duration = Duration::from_millis(4);
/// Between two frames or so, 64 KiB, of a slow reader.
const SLOW: Duration = Duration::from_millis(20);
const LEAK_EVERY: Duration = Duration::from_millis(50);
/// How long a client waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long the service is left alone before it is probed.
const IDLE: Duration = Duration::from_secs(2);

const CHEAP_CLIENTS: usize = 32;
const HEAVY_CLIENTS: usize = 48;
const STREAM_CLIENTS: usize = 8;
const CACHE_CLIENTS: usize = 4;
/// Of 16 KiB: 4 MiB, so that it does not fit into the buffers of the system.
const FRAMES: u16 = 256;
const KEYS: usize = 4_096;
const ZIPF: f64 = 1.2;

/// What the heavy requests are like.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
#[allow(clippy::exhaustive_enums, reason = "the loads of the proof")]
pub enum Load {
    /// Up to 40 MB, and wait 30 ms: bound by the CPU.
    A,
    /// Up to 40 MB, and wait 300 ms: bound by memory.
    B,
    /// As B, but memory grows in eight steps while they wait.
    C,
    /// As A, but up to 120 MB.
    D,
    /// As A, but every other request takes its memory in blocks of 64 KiB.
    E,
}

/// The arguments of the driver.
#[derive(Clone, Debug, Parser)]
#[non_exhaustive]
pub struct Driver {
    /// Where the service listens, `http://ip:port`.
    #[arg(long)]
    pub url: Uri,
    /// What the heavy requests are like.
    #[arg(long, value_enum, ignore_case = true)]
    pub load: Load,
    /// Decides the sizes and the keys.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// For how long, without the probes.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub seconds: u32,
    /// Connections that are opened before, and held without a request.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=15_000))]
    pub idle: u32,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Kind {
    Cheap,
    Heavy,
    Stream,
    Cache,
    Leak,
}

/// What is shared by all clients.
struct Shared {
    addr: SocketAddr,
    load: Load,
    begin: Instant,
    end: Instant,
    record: Mutex<Record>,
    /// To be ended once nobody listens.
    gone: Mutex<(Option<Instant>, Vec<AbortHandle>)>,
}

#[derive(Default)]
struct Record {
    kinds: BTreeMap<Kind, Tally>,
    heavy_kib: u64,
    hits: u64,
    by_second: Vec<[u64; 3]>,
}

#[derive(Default)]
struct Tally {
    counts: Counts,
    times: Times,
    refused: Times,
}

/// What was answered.
struct Answer {
    status: StatusCode,
    has_retry_after: bool,
    is_hit: bool,
}

/// Asks one after the other, on a connection that is made anew when it is gone.
struct Client {
    shared: Arc<Shared>,
    is_slow: bool,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

impl Driver {
    /// Drives the service for as long as it is to be driven, leaves it alone for two seconds, and
    /// probes it then. Ends as soon as nobody listens.
    ///
    /// # Errors
    ///
    /// When it cannot begin.
    pub fn drive(&self) -> Result<Outcome, Error> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.drive_here())
    }

    async fn drive_here(&self) -> Result<Outcome, Error> {
        let authority = self.url.authority().ok_or("the URL has no authority")?;
        let addr: SocketAddr = authority.as_str().parse()?;
        let before = Instant::now();
        let idle = hold_idle(addr, self.idle as usize).await;
        let begin = Instant::now();
        let shared = Arc::new(Shared {
            addr,
            load: self.load,
            begin,
            end: begin + Duration::from_secs(self.seconds.into()),
            record: Mutex::default(),
            gone: Mutex::default(),
        });
        self.ask_all(&shared).await;
        let gone = lock(&shared.gone).0;
        let driver_cpu_s = cpu_seconds();
        let mut probes = BTreeMap::new();
        if gone.is_none() {
            sleep(IDLE).await;
            probes.insert("cheap".to_owned(), probe(&shared, "/cheap", 50).await);
            let small = "/heavy?kib=1024&block_kib=1024&wait_ms=30&steps=1";
            probes.insert("heavy".to_owned(), probe(&shared, small, 5).await);
        }
        let mut outcome = lock(&shared.record).outcome(self.seconds.into());
        outcome.before_s = seconds(before, begin);
        outcome.gone_after_s = gone.map(|gone| seconds(begin, gone));
        outcome.idle_connections = [idle.len(), idle.iter().filter(|idle| is_open(idle)).count()];
        outcome.probes = probes;
        outcome.driver_cpu_s = driver_cpu_s;
        Ok(outcome)
    }

    /// Has all clients ask until the end.
    async fn ask_all(&self, shared: &Arc<Shared>) {
        let mut clients = JoinSet::new();
        let mut spawn = |kind: Kind, count: usize| {
            for place in 0..count as u64 {
                let mut client = Client::new(shared, kind == Kind::Stream);
                let seed = self.seed << 16 | (kind as u64) << 8 | place;
                let rng = Rng::with_seed(seed);
                let client = clients.spawn(async move { client.ask_on(kind, rng).await });
                lock(&shared.gone).1.push(client);
            }
        };
        spawn(Kind::Cheap, CHEAP_CLIENTS);
        spawn(Kind::Heavy, HEAVY_CLIENTS);
        spawn(Kind::Stream, STREAM_CLIENTS);
        spawn(Kind::Cache, CACHE_CLIENTS);
        spawn(Kind::Leak, 1);
        // They end by themselves only if nobody listens. Who waits for an answer in the end does not get
        // it any more.
        let all_gone = async { while clients.join_next().await.is_some() {} };
        let _ = timeout_at(shared.end, all_gone).await;
        clients.shutdown().await;
    }
}

impl Client {
    fn new(shared: &Arc<Shared>, is_slow: bool) -> Self {
        Self {
            shared: shared.clone(),
            is_slow,
            sender: None,
        }
    }

    async fn ask_on(&mut self, kind: Kind, mut rng: Rng) {
        let zipf = Zipf::new();
        let mut next = Instant::now();
        loop {
            let kib = kib(&mut rng, self.shared.load);
            let path = match kind {
                Kind::Cheap => "/cheap".to_owned(),
                Kind::Heavy => self.shared.load.path(kib),
                Kind::Stream => format!("/stream?frames={FRAMES}"),
                Kind::Cache => format!("/cache/{}", zipf.draw(&mut rng)),
                Kind::Leak => "/leak".to_owned(),
            };
            let method = match kind {
                Kind::Leak => Method::POST,
                _ => Method::GET,
            };
            let asked = Instant::now();
            let answer = self.ask(method, &path).await;
            let now = Instant::now();
            let status = answer.as_ref().map(|answer| answer.status);
            self.shared.record(kind, kib, &answer, asked, now);
            match (kind, status) {
                (Kind::Leak, _) => {
                    next = (next + LEAK_EVERY).max(now);
                    sleep_until(next).await;
                }
                (Kind::Cheap | Kind::Cache, Ok(_)) => sleep(THINK).await,
                (_, Ok(StatusCode::OK)) => {}
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// Asks, and reads the answer to its end.
    async fn ask(&mut self, method: Method, path: &str) -> Result<Answer, Error> {
        let answer = timeout(TIMEOUT, self.try_to_ask(method, path)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer".into()));
        if answer.is_err() {
            self.sender = None;
        }
        answer
    }

    async fn try_to_ask(&mut self, method: Method, path: &str) -> Result<Answer, Error> {
        let sender = match &mut self.sender {
            Some(sender) => sender,
            none => none.insert(self.shared.connect(self.is_slow).await?),
        };
        sender.ready().await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .body(Empty::new())?;
        let response = sender.send_request(request).await?;
        let answer = Answer {
            status: response.status(),
            has_retry_after: response.headers().contains_key(RETRY_AFTER),
            is_hit: response
                .headers()
                .get(CACHE_HEADER)
                .is_some_and(|value| value == "hit"),
        };
        let mut body = response.into_body();
        let mut since_pause = 0;
        while let Some(frame) = body.frame().await {
            since_pause += frame?.data_ref().map_or(0, Bytes::len);
            if self.is_slow && since_pause >= 64 << 10 {
                since_pause = 0;
                sleep(SLOW).await;
            }
        }
        Ok(answer)
    }
}

impl Shared {
    async fn connect(&self, is_slow: bool) -> Result<SendRequest<Empty<Bytes>>, Error> {
        let socket = TcpSocket::new_v4()?;
        if is_slow {
            // Otherwise the system reads ahead for it.
            socket.set_recv_buffer_size(64 << 10)?;
        }
        let stream = socket.connect(self.addr).await;
        if let Err(error) = &stream
            && error.kind() == ErrorKind::ConnectionRefused
        {
            self.is_gone();
        }
        let stream = stream?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the sender.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Nobody listens: all clients end.
    fn is_gone(&self) {
        let mut gone = lock(&self.gone);
        gone.0.get_or_insert_with(Instant::now);
        for client in gone.1.drain(..) {
            client.abort();
        }
    }

    fn record(
        &self,
        kind: Kind,
        kib: u64,
        answer: &Result<Answer, Error>,
        asked: Instant,
        now: Instant,
    ) {
        if now > self.end {
            return;
        }
        let took = now.saturating_duration_since(asked);
        let second = now.saturating_duration_since(self.begin).as_secs() as usize;
        let mut record = lock(&self.record);
        let record = &mut *record;
        if record.by_second.len() <= second {
            record.by_second.resize(second + 1, [0; 3]);
        }
        let [cheap, heavy, refused] = &mut record.by_second[second];
        let tally = record.kinds.entry(kind).or_default();
        let Ok(answer) = answer else {
            tally.counts.errors += 1;
            return;
        };
        match answer.status {
            StatusCode::OK => {
                tally.counts.ok += 1;
                tally.times.add(took);
                match kind {
                    Kind::Cheap => *cheap += 1,
                    Kind::Heavy => {
                        *heavy += kib >> 10;
                        record.heavy_kib += kib;
                    }
                    Kind::Cache => record.hits += u64::from(answer.is_hit),
                    Kind::Stream | Kind::Leak => {}
                }
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                *refused += 1;
                tally.counts.refused += 1;
                tally.counts.without_retry_after += u64::from(!answer.has_retry_after);
                tally.refused.add(took);
            }
            _ => tally.counts.other += 1,
        }
    }
}

impl Record {
    fn outcome(&self, seconds: f64) -> Outcome {
        let ok = |kind| self.kinds.get(&kind).map_or(0, |tally| tally.counts.ok);
        Outcome {
            seconds,
            kinds: self
                .kinds
                .iter()
                .map(|(kind, tally)| (kind.to_string(), tally.counts()))
                .collect(),
            heavy_mb_per_s: self.heavy_kib as f64 / 1_024.0 / seconds,
            cheap_per_s: ok(Kind::Cheap) as f64 / seconds,
            cache_hits: self.hits as f64 / ok(Kind::Cache).max(1) as f64,
            by_second: self.by_second.clone(),
            ..Outcome::default()
        }
    }
}

impl Tally {
    fn counts(&self) -> Counts {
        Counts {
            p50_ms: self.times.quantile_ms(0.5),
            p99_ms: self.times.quantile_ms(0.99),
            max_ms: self.times.quantile_ms(1.0),
            refused_p99_ms: self.refused.quantile_ms(0.99),
            ..self.counts.clone()
        }
    }
}

impl Load {
    /// The most that a heavy request takes.
    const fn max_mb(self) -> f64 {
        match self {
            Self::A | Self::B | Self::C | Self::E => 40.0,
            Self::D => 120.0,
        }
    }

    fn path(self, kib: u64) -> String {
        let (wait_ms, steps) = match self {
            Self::A | Self::D | Self::E => (30, 1),
            Self::B => (300, 1),
            Self::C => (300, 8),
        };
        let block_kib = match self {
            Self::E if kib % 2 == 1 => 64,
            _ => kib,
        };
        format!("/heavy?kib={kib}&block_kib={block_kib}&wait_ms={wait_ms}&steps={steps}")
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cheap => "cheap",
            Self::Heavy => "heavy",
            Self::Stream => "stream",
            Self::Cache => "cache",
            Self::Leak => "leak",
        })
    }
}

/// From 1 MB up, log-uniform.
fn kib(rng: &mut Rng, load: Load) -> u64 {
    (load.max_mb().powf(rng.f64()) * 1_024.0) as u64
}

/// Draws keys, the first of which most.
struct Zipf {
    /// The sum of the weights up to each key.
    sums: Vec<f64>,
}

impl Zipf {
    fn new() -> Self {
        let mut sum = 0.0;
        let sums = (1..=KEYS).map(|rank| {
            sum += (rank as f64).powf(-ZIPF);
            sum
        });
        Self {
            sums: sums.collect(),
        }
    }

    fn draw(&self, rng: &mut Rng) -> usize {
        let all = self.sums.last().copied().unwrap_or_default();
        let drawn = rng.f64() * all;
        self.sums.partition_point(|sum| *sum < drawn)
    }
}

async fn probe(shared: &Arc<Shared>, path: &str, count: u64) -> Probes {
    let mut client = Client::new(shared, false);
    let mut probes = Probes {
        asked: count,
        ..Probes::default()
    };
    for _ in 0..count {
        match client
            .ask(Method::GET, path)
            .await
            .map(|answer| answer.status)
        {
            Ok(StatusCode::OK) => {}
            Ok(StatusCode::SERVICE_UNAVAILABLE) => probes.refused += 1,
            _ => probes.failed += 1,
        }
    }
    probes
}

/// Opens connections. Those that cannot be opened are missing.
async fn hold_idle(addr: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::with_capacity(count);
    for place in 0..count {
        // Fewer than have to wait to be accepted.
        if place % 128 == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        match timeout(TIMEOUT, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => held.push(stream),
            _ => break,
        }
    }
    held
}

fn is_open(stream: &TcpStream) -> bool {
    let read = stream.try_read(&mut [0]);
    read.is_err_and(|error: io::Error| error.kind() == ErrorKind::WouldBlock)
}

fn seconds(begin: Instant, now: Instant) -> f64 {
    now.saturating_duration_since(begin).as_secs_f64()
}

/// What this thread, which does everything, has used; 0 where the system does not say.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat
        .split_whitespace()
        .next()
        .and_then(|nanos| nanos.parse().ok());
    nanos.unwrap_or(0.0) / 1e9
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_log_uniform_up_to_the_most_and_the_same_for_a_seed() {
        let draw = |seed, load| {
            let mut rng = Rng::with_seed(seed);
            let sizes = (0..10_000).map(|_| kib(&mut rng, load));
            sizes.collect::<Vec<_>>()
        };
        for (load, mean, most) in [(Load::A, 10.6, 40), (Load::D, 24.9, 120)] {
            let sizes = draw(1, load);
            let sum: u64 = sizes.iter().sum();
            let found = sum as f64 / 1_024.0 / 10_000.0;
            assert!((found / mean - 1.0).abs() < 0.05, "{found}");
            assert!(sizes.iter().all(|kib| (1_024..=most << 10).contains(kib)));
            assert_eq!(sizes, draw(1, load));
            assert_ne!(sizes, draw(2, load));
        }
    }

    #[test]
    fn a_quarter_of_the_keys_is_nearly_all_that_is_asked_for() {
        let (zipf, mut rng) = (Zipf::new(), Rng::with_seed(1));
        let within = (0..10_000).filter(|_| zipf.draw(&mut rng) < KEYS / 4);
        let within = within.count();
        assert!((9_000..9_700).contains(&within), "{within}");
    }
}
