//! A service of all kinds of load, which prints where it listens.
//!
//! | route | what it does |
//! |---|---|
//! | `GET /cheap` | makes a few KB of JSON |
//! | `GET /heavy?kib=&block_kib=&wait_ms=&steps=` | takes so much memory in blocks of that size and touches it, at once or in steps while it waits, and goes over all of it in the end |
//! | `GET /stream?frames=` | frames of 16 KiB, made as the client reads |
//! | `GET /cache/{key}` | a value of 64 KiB, from a cache of 64 MiB |
//! | `POST /leak` | keeps 10 KiB for ever |

mod cache;

pub use cache::Cache;

use crate::Error;
use axum::{
    Router,
    body::Body,
    extract::{Path, RawQuery, State},
    http::{HeaderName, StatusCode},
    routing::{get, post},
    serve::ListenerExt as _,
};
use bytes::Bytes;
use clap::Parser;
use http_body::Frame;
use plimsoll::{
    Config, ConfigFiles, ControlConfig, Plimsoll, ServerConfig,
    alloc::{Mode, Reclaim, live_bytes, set_mode},
};
use serde_json::json;
use std::{
    convert::Infallible,
    io,
    net::Ipv4Addr,
    ops::RangeInclusive,
    path::PathBuf,
    pin::Pin,
    process,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    thread,
    time::Duration,
};
use tokio::{net::TcpListener, runtime::Builder, time::sleep};
use tracing_subscriber::EnvFilter;

/// How much each call of `POST /leak` keeps, in bytes.
pub const LEAK: usize = 10 << 10;
/// Whether a value was in the cache, `hit` or `miss`.
pub const CACHE_HEADER: HeaderName = HeaderName::from_static("x-cache");

/// How many values the cache has, of 64 KiB each.
const CACHED: usize = 1_024;
const FRAME: usize = 16 << 10;
/// How often what lives is printed.
const LIVE_EVERY: Duration = Duration::from_millis(100);

/// The arguments of the service.
#[derive(Clone, Debug, Parser)]
pub struct Service {
    /// Runs on axum alone, and counts nothing.
    #[arg(long)]
    bare: bool,
    /// A folder with `config.yaml`; variables `PLIMSOLL__…` count, too.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Threads that serve.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// Prints `live` and the live bytes, ten times a second. Has the allocator count for `--bare`, too.
    #[arg(long)]
    print_live: bool,
    /// Ends when the standard input does, so that it does not outlive who started it.
    #[arg(long)]
    end_with_stdin: bool,
}

impl Service {
    /// Serves until SIGTERM, or for ever if it is bare.
    ///
    /// # Errors
    ///
    /// When it cannot begin.
    pub fn serve(self, allocator: &'static (dyn Reclaim + Sync)) -> Result<(), Error> {
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
            .with_writer(io::stderr)
            .with_ansi(false)
            .init();
        if self.end_with_stdin {
            thread::spawn(|| {
                let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
                process::exit(1);
            });
        }
        if self.print_live {
            thread::spawn(|| {
                loop {
                    println!("live {}", live_bytes());
                    thread::sleep(LIVE_EVERY);
                }
            });
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(self.workers.into())
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            if self.bare {
                self.serve_bare(listener).await
            } else {
                self.serve_afloat(listener, allocator).await
            }
        })
    }

    async fn serve_bare(&self, listener: TcpListener) -> Result<(), Error> {
        if !self.print_live {
            set_mode(Mode::Off);
        }
        println!("listening on http://{}", listener.local_addr()?);
        // As our server does.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, app(&Arc::default())).await?;
        Ok(())
    }

    async fn serve_afloat(
        &self,
        listener: TcpListener,
        allocator: &'static (dyn Reclaim + Sync),
    ) -> Result<(), Error> {
        let control = ControlConfig::new()
            .admin_addr((Ipv4Addr::LOCALHOST, 0).into())
            .no_probe();
        // Idle connections stay, before their first request, too.
        let server = ServerConfig::default()
            .max_connections(16_384)
            .head_timeout(Duration::from_secs(600))
            .idle_timeout(Duration::from_secs(600));
        let config = Config::new()
            .control(control)
            .server(server)
            .allocator(allocator);
        let config = match &self.config {
            Some(folder) => ConfigFiles::in_folder(folder).load(config)?.config(),
            None => config,
        };
        let plimsoll = Plimsoll::start(config)?;
        let state = Arc::<Shared>::default();
        plimsoll.register(state.cache.clone())?;
        if let Some(addr) = plimsoll.admin_addr() {
            println!("admin on http://{addr}");
        }
        println!("listening on http://{}", listener.local_addr()?);
        let app = app(&state).layer(plimsoll.layer()).with_state(());
        let report = plimsoll.serve(listener, app).await?;
        eprintln!("{report}");
        Ok(())
    }
}

struct Shared {
    cache: Cache,
    leaked: Mutex<Vec<Box<[u8]>>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            cache: Cache::new(CACHED),
            leaked: Mutex::default(),
        }
    }
}

fn app(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/cheap", get(cheap))
        .route("/heavy", get(heavy))
        .route("/stream", get(stream))
        .route("/cache/{key}", get(cached))
        .route("/leak", post(leak))
        .with_state(shared.clone())
}

async fn cheap() -> String {
    let items = (0..40).map(|id| {
        json!({ "id": id, "name": format!("item number {id} of a page"), "tags": ["a", "bb"], "score": f64::from(id) * 0.5 })
    });
    json!({ "items": items.collect::<Vec<_>>() }).to_string()
}

async fn heavy(RawQuery(query): RawQuery) -> Result<String, StatusCode> {
    let query = query.unwrap_or_default();
    let kib = number(&query, "kib", 1..=1 << 20)? as usize;
    let block_kib = number(&query, "block_kib", 1..=1 << 20)? as usize;
    let steps = number(&query, "steps", 1..=64)?;
    let wait = Duration::from_millis(number(&query, "wait_ms", 0..=60_000)?.into()) / steps;
    let mut blocks = Vec::new();
    for step in 0..steps {
        let mut left = (kib << 10) / steps as usize;
        while left > 0 {
            let len = left.min(block_kib << 10);
            // Not of zeros, which the system has without touching them.
            blocks.push(vec![1 + step as u8; len]);
            left -= len;
        }
        sleep(wait).await;
    }
    let sums = blocks.iter().map(|block| checksum(block));
    Ok(sums.fold(0, u64::wrapping_add).to_string())
}

/// Goes over all of it once.
fn checksum(block: &[u8]) -> u64 {
    let (words, rest) = block.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_ne_bytes(*word));
    let rest = rest.iter().copied().map(u64::from);
    words.chain(rest).fold(0, u64::wrapping_add)
}

async fn stream(RawQuery(query): RawQuery) -> Result<Body, StatusCode> {
    let left = number(&query.unwrap_or_default(), "frames", 0..=65_536)?;
    Ok(Body::new(Stream { left }))
}

/// A number of a query.
fn number(query: &str, name: &str, range: RangeInclusive<u32>) -> Result<u32, StatusCode> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.find_map(|(found, value)| (found == name).then_some(value));
    let number = value.and_then(|value| value.parse().ok());
    let number = number.filter(|number| range.contains(number));
    number.ok_or(StatusCode::BAD_REQUEST)
}

struct Stream {
    left: u32,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(vec![b'x'; FRAME].into()))))
    }
}

async fn cached(
    State(shared): State<Arc<Shared>>,
    Path(key): Path<u32>,
) -> ([(HeaderName, &'static str); 1], Bytes) {
    let (value, is_hit) = match shared.cache.get(key) {
        Some(value) => (value, "hit"),
        None => (shared.cache.insert(key), "miss"),
    };
    ([(CACHE_HEADER, is_hit)], value)
}

async fn leak(State(shared): State<Arc<Shared>>) {
    let mut leaked = shared.leaked.lock().unwrap_or_else(PoisonError::into_inner);
    leaked.push(vec![1; LEAK].into());
}
