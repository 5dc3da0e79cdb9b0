//! An accept loop on hyper that bounds what a connection may take before a handler runs, and
//! drains within the deadline of a [`Lifecycle`].
//!
//! # Bounds
//!
//! | bound | default | when it is met |
//! |---|---|---|
//! | connections | half the limit of open files, at most 4 096 | the new one is closed at once, and counted as refused |
//! | bytes of a request head | 64 KiB | 431, and the connection (HTTP/1) or stream (HTTP/2) is closed |
//! | time to read a request head (HTTP/1) | 10 s, from its first byte, or from the accept for the first | the connection is closed |
//! | time without a request | 75 s | the connection is closed, HTTP/2 with GOAWAY |
//! | concurrent HTTP/2 streams | 128 a connection | the client has to wait |
//!
//! A load balancer that is refused a connection tries another server, which it would not do for
//! a 503.
//!
//! # Draining
//!
//! From the moment the service is [leaving](plimsoll_core::Phase::Leaving), HTTP/1 responses
//! carry `Connection: close`. A client then knows not to send its next request on that connection,
//! whereas an idle connection that is closed later may cross with a request on its way.
//!
//! When it is [draining](plimsoll_core::Phase::Draining), the server takes in what the kernel has
//! already accepted for it, closes the listener, closes idle connections and sends GOAWAY on
//! HTTP/2 ones. A connection without a request in flight has a second to send the rest of one.
//! What is left when the drain phase ends is cut off: requests in flight, which the report counts,
//! and what slow clients have not read yet of responses that were complete.
//!
//! An upgraded HTTP/1 connection belongs to whoever took it over. It keeps its place until it is
//! dropped, but the server neither waits for it nor cuts it: end it when
//! [`Lifecycle::draining`] does. A tunnel in an HTTP/2 stream ends with its connection.
//!
//! | metric (feature `metrics`) | kind | labels |
//! |---|---|---|
//! | `plimsoll_connections_open` | gauge | `listener` |
//! | `plimsoll_connections_accepted_total` | counter | `listener` |
//! | `plimsoll_connections_refused_total` | counter | `listener` |
//! | `plimsoll_connections_closed_total`, by us | counter | `listener`, `reason`: `idle`, `head_timeout`, `cut` |
//! | `plimsoll_accept_errors_total` | counter | `listener` |

mod connection;
mod io;
mod meters;
mod service;

use self::{
    connection::{Conn, serve_connection},
    meters::Meters,
    service::{Cut, CutExecutor},
};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{rt::TokioTimer, server::conn::auto};
use plimsoll_core::{
    BoxError, ConfigError, Lifecycle, Name,
    lifecycle::DrainGuard,
    settings::{self, Fields, Settings, bytes, duration, integer},
    stripe,
};
use std::{
    io::{Error, ErrorKind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower_service::Service;

/// A server for one listener. Cloning gives another handle to the same one.
///
/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

/// The settings of a [`Server`].
#[derive(Clone, Copy, Debug)]
#[must_use = "settings do nothing until a server is made with them"]
pub struct ServerConfig {
    max_connections: usize,
    max_head_bytes: usize,
    head_timeout: Duration,
    idle_timeout: Duration,
    max_streams: u32,
}

/// What the connections of a server share.
#[derive(Debug)]
struct Shared {
    name: Name,
    config: ServerConfig,
    open: AtomicUsize,
    refused: AtomicU64,
    stripes: [Requests; STRIPES],
    meters: Meters,
}

/// Threads count in stripes of their own, so that they do not wait for each other's cache lines.
const STRIPES: usize = 4;

/// Requests that have begun, ended, and been cut off, on one stripe of threads. What is left of all of them
/// is in flight.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Requests {
    begun: AtomicU64,
    finished: AtomicU64,
    cut: AtomicU64,
}

/// One of the places for connections. Dropping it gives the place back.
#[derive(Debug)]
struct Place(Arc<Shared>);

// === impl Server ===

impl Server {
    /// Makes a server, named for reports and metrics.
    ///
    /// # Errors
    ///
    /// Names each setting that is out of its range.
    pub fn new(name: impl Into<Name>, config: ServerConfig) -> Result<Self, ConfigError> {
        settings::check(&config)?;
        let name = name.into();
        Ok(Self {
            shared: Arc::new(Shared {
                name,
                config,
                open: AtomicUsize::new(0),
                refused: AtomicU64::new(0),
                stripes: Default::default(),
                meters: Meters::new(name),
            }),
        })
    }

    /// How many connections are open, upgraded ones included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.open.load(Relaxed)
    }

    /// How many connections were refused because there were too many.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Relaxed)
    }

    /// How many requests are in flight, from their head until all of their response was handed to
    /// the connection.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        // Ends first: read the other way round, a request in between would end without a start.
        let ended = self.shared.finished() + self.shared.cut();
        usize::try_from(self.shared.begun().saturating_sub(ended)).unwrap_or(usize::MAX)
    }

    /// Serves until `lifecycle` has drained.
    ///
    /// The service is cloned for each request. An error of its closes the connection (HTTP/1) or
    /// resets the stream (HTTP/2): put a [`RejectedToResponse`](crate::RejectedToResponse) around
    /// a service that has any.
    ///
    /// Returns at once when `lifecycle` is draining already.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listener and cuts every connection off.
    pub async fn serve<S, B>(&self, listener: TcpListener, service: S, lifecycle: &Lifecycle)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let Some(guard) = lifecycle.listener(self.shared.name) else {
            return;
        };
        let cut = guard.cut_token();
        let cut_before = self.shared.cut();
        let builder = Arc::new(self.shared.config.builder(cut.clone()));
        let mut connections = JoinSet::new();
        let open = |connections: &mut JoinSet<()>, stream: TcpStream| {
            let Some(place) = Place::take(&self.shared) else {
                return;
            };
            // Responses are written whole, so waiting for more to send only adds latency.
            let _ = stream.set_nodelay(true);
            let conn = Conn::new(place, lifecycle.clone(), cut.clone());
            connections.spawn(serve_connection(
                builder.clone(),
                stream,
                service.clone(),
                conn,
            ));
        };
        loop {
            tokio::select! {
                biased;
                () = guard.draining() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => open(&mut connections, stream),
                    Err(error) => self.shared.accept_failed(&error).await,
                },
            }
        }
        for stream in accepted(listener, self.shared.config.max_connections) {
            open(&mut connections, stream);
        }
        self.drain(guard, &cut, cut_before, connections).await;
    }

    async fn drain(
        &self,
        guard: DrainGuard,
        cut: &Cut,
        cut_before: u64,
        mut connections: JoinSet<()>,
    ) {
        let finished_before = self.shared.finished();
        let mut all_closed = pin!(async { while connections.join_next().await.is_some() {} });
        tokio::select! {
            biased;
            () = &mut all_closed => {}
            // Connections close themselves then; one whose handler blocks cannot.
            () = guard.cut() => {
                let _ = tokio::time::timeout(CUT_GRACE, &mut all_closed).await;
            }
        }
        let finished = self.shared.finished();
        // What has not finished by the cut was cut off, dropped already or not.
        let cut_off = match cut.is_cancelled() {
            true => self.shared.begun().saturating_sub(finished + cut_before),
            false => 0,
        };
        guard.finish(finished.saturating_sub(finished_before), cut_off);
    }
}

/// Takes the connections that the kernel has accepted, and closes the listener, which would reset
/// them otherwise. The runtime may not have heard of them yet, so the kernel is asked.
fn accepted(listener: TcpListener, most: usize) -> impl Iterator<Item = TcpStream> {
    let listener = listener.into_std().ok();
    let accept = move || {
        let (stream, _) = listener.as_ref()?.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        TcpStream::from_std(stream).ok()
    };
    std::iter::from_fn(accept).take(most)
}

// === impl ServerConfig ===

impl ServerConfig {
    /// Sets how many connections may be open at a time.
    ///
    /// Defaults to half of the files that the process may have open, and to 4 096 where that is
    /// more or unknown: past the limit of open files an accept fails, and tells the client nothing.
    /// An idle connection takes about 3 KiB of heap before its first request,
    /// 28 KiB after one of HTTP/1 and 37 KiB after one of HTTP/2 (a counting allocator's figures
    /// for 200 connections of each kind, on a 64-bit Linux), so that 4 096 of them take some 110
    /// to 150 MiB.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Sets how many bytes a request head may have, at least 8 192.
    ///
    /// Defaults to 65 536. It is also the largest read buffer of an HTTP/1 connection.
    pub fn max_head_bytes(mut self, bytes: usize) -> Self {
        self.max_head_bytes = bytes;
        self
    }

    /// Sets how long a client may take to send a request head.
    ///
    /// Defaults to 10 seconds. It counts from the accept for the first request, and from its
    /// first byte for later ones.
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.head_timeout = timeout;
        self
    }

    /// Sets how long a connection may stay open without a request in flight.
    ///
    /// Defaults to 75 seconds. Behind a load balancer, make it longer than the balancer's own.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets how many streams an HTTP/2 connection may have open at a time.
    ///
    /// Defaults to 128.
    pub fn max_streams(mut self, streams: u32) -> Self {
        self.max_streams = streams;
        self
    }

    fn builder(&self, cut: Cut) -> auto::Builder<CutExecutor> {
        let mut builder = auto::Builder::new(CutExecutor(cut));
        builder
            .http1()
            // Ours tells a slow head from an idle connection.
            .header_read_timeout(None)
            .max_buf_size(self.max_head_bytes);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.max_streams)
            .max_header_list_size(u32::try_from(self.max_head_bytes).unwrap_or(u32::MAX))
            // A peer that is gone without a word is noticed within the idle timeout.
            .keep_alive_interval(Some(self.idle_timeout / 2))
            .keep_alive_timeout(self.idle_timeout / 2);
        builder
    }
}

impl Settings for ServerConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        // Time on a connection is told in milliseconds.
        let times = Duration::from_millis(1)..=MOST_WAIT;
        fields.setting(
            "max_connections",
            "How many connections may be open at a time.",
            &mut integer(&mut self.max_connections, 1..=u64::MAX),
        );
        fields.setting(
            "max_head_bytes",
            "How many bytes a request head may have.",
            // hyper panics below this.
            &mut bytes(&mut self.max_head_bytes, 8_192..=1 << 30),
        );
        fields.setting(
            "head_timeout",
            "How long a client may take to send a request head.",
            &mut duration(&mut self.head_timeout, times.clone()),
        );
        fields.setting(
            "idle_timeout",
            "How long a connection may stay open without a request in flight.",
            &mut duration(&mut self.idle_timeout, times),
        );
        fields.setting(
            "max_streams",
            "How many streams an HTTP/2 connection may have open at a time.",
            &mut integer(&mut self.max_streams, 1..=u32::MAX.into()),
        );
    }
}

/// How long connections that are cut off may take to be dropped.
const CUT_GRACE: Duration = Duration::from_millis(250);

/// The most connections that the default allows, however many files may be open.
const MOST_CONNECTIONS: usize = 4_096;

/// Longer waits make no sense, and some clocks cannot add them.
const MOST_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Half is left for what requests open.
fn default_connections(open_files: Option<usize>) -> usize {
    open_files.map_or(MOST_CONNECTIONS, |files| {
        (files / 2).clamp(1, MOST_CONNECTIONS)
    })
}

/// How many files the process may have open, where the system tells.
fn open_files() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    soft_limit(&limits, "Max open files")
}

/// Finds a soft limit in the text of `/proc/<pid>/limits` (`proc_pid_limits(5)`). One that is
/// `unlimited` is none.
fn soft_limit(limits: &str, name: &str) -> Option<usize> {
    let values = limits.lines().find_map(|line| line.strip_prefix(name))?;
    values.split_whitespace().next()?.parse().ok()
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_connections: default_connections(open_files()),
            max_head_bytes: 65_536,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            max_streams: 128,
        }
    }
}

// === impl Shared, Place ===

impl Shared {
    /// Those of the stripe that this thread is of.
    #[inline]
    fn requests(&self) -> &Requests {
        &self.stripes[stripe::current() % STRIPES]
    }

    fn sum(&self, count: impl Fn(&Requests) -> &AtomicU64) -> u64 {
        let counts = self.stripes.iter().map(count);
        counts.map(|count| count.load(Relaxed)).sum()
    }

    fn begun(&self) -> u64 {
        self.sum(|requests| &requests.begun)
    }

    fn finished(&self) -> u64 {
        self.sum(|requests| &requests.finished)
    }

    fn cut(&self) -> u64 {
        self.sum(|requests| &requests.cut)
    }

    /// Waits before the next accept, since the usual cause, too many open files, lasts a while.
    async fn accept_failed(&self, error: &Error) {
        self.meters.accept_failed();
        // These are errors of the connection that was to be accepted, not of the listener.
        if let ErrorKind::ConnectionAborted
        | ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset = error.kind()
        {
            return;
        }
        tracing::warn!(listener = %self.name, %error, "accept failed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let most = shared.config.max_connections;
        let more = |open: usize| (open < most).then_some(open + 1);
        if shared.open.fetch_update(Relaxed, Relaxed, more).is_err() {
            shared.refused.fetch_add(1, Relaxed);
            shared.meters.refused();
            return None;
        }
        shared.meters.opened();
        Some(Self(shared.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.0.meters.closed();
    }
}

#[cfg(test)]
mod tests;
