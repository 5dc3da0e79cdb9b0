//! One connection: what it is doing, and when it is closed.

use super::{
    Place, ServerConfig,
    io::TrackedIo,
    service::{ConnService, Cut, CutExecutor},
};
use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{rt::TokioIo, server::conn::auto};
use plimsoll_core::{BoxError, Clock, Lifecycle, Phase};
use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tower_service::Service;

/// How long a connection that is being closed, without a request in flight, may take to send the
/// rest of one or to say goodbye.
const LINGER: Duration = Duration::from_secs(1);

/// What an HTTP/2 connection begins with (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// No time: nothing has arrived.
const NEVER: u64 = u64::MAX;
/// Some time since the connection was looked at last. Most heads come in one piece, and nobody has to read the
/// clock for them.
const JUST_NOW: u64 = u64::MAX - 1;

/// What a connection is doing. Shared by its stream, its requests and its task.
#[derive(Debug)]
pub(super) struct Conn {
    place: Place,
    lifecycle: Lifecycle,
    cut: Cut,
    clock: Clock,
    /// In nanoseconds by the clock, as all times.
    opened: u64,
    /// Ends of requests release what they wrote before; whoever reads 0 acquires it.
    in_flight: AtomicUsize,
    /// Whether a request has.
    begun: AtomicBool,
    /// When the last request ended, or what is left of its response last moved on.
    idle_since: AtomicU64,
    /// When the first byte of the request head that is being read came.
    head_since: AtomicU64,
    http2: AtomicBool,
    /// Whether bytes have come in since the connection was told to close.
    heard: AtomicBool,
    /// Whether bytes are left to write that the peer does not take yet.
    blocked: AtomicBool,
}

/// A request in flight on a connection. Dropping it is the end of the request.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Conn>);

/// Why a connection was closed by us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Closed {
    Idle,
    HeadTimeout,
    Cut,
}

/// What a connection waits for.
enum Event<T> {
    Ended(T),
    Draining,
    Cut,
    Timer,
}

/// Whether the drain phase, the cut, or the time of a connection may have come.
///
/// To ask them takes locks, some of which all connections have in common, so they are asked only once
/// they have woken somebody.
#[derive(Debug)]
struct Signals {
    come: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Signals {
    const fn new() -> Self {
        Self {
            // They have to be asked once, to know whom to wake.
            come: AtomicBool::new(true),
            task: Mutex::new(None),
        }
    }

    /// Whether they are to be asked, by a task that has this waker. `known` is what it had before.
    fn have_come(&self, known: &mut Option<Waker>, waker: &Waker) -> bool {
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
            *self.lock() = Some(waker.clone());
        }
        // Before they are asked, so that what comes meanwhile is not lost.
        self.come.load(Relaxed) && self.come.swap(false, AcqRel)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Signals {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.come.store(true, Release);
        let task = self.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn serve_connection<I, S, B>(
    builder: Arc<auto::Builder<CutExecutor>>,
    stream: I,
    service: S,
    conn: Conn,
) where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let conn = Arc::new(conn);
    let io = TokioIo::new(TrackedIo::new(stream, conn.clone()));
    let service = ConnService::new(service, conn.clone());
    let mut hyper = pin!(builder.serve_connection_with_upgrades(io, service));
    let mut draining = pin!(conn.lifecycle.draining());
    let mut cut = pin!(conn.cut.cancelled());
    let signals = Arc::new(Signals::new());
    let told = Waker::from(signals.clone());
    let mut task = None;
    // A request of HTTP/2, a task of its own, may end just after it has woken this one.
    let first = conn.config().head_timeout.min(conn.config().idle_timeout);
    let mut timer = pin!(tokio::time::sleep(first));
    let mut timer_at = after(conn.opened, first);
    // Once set, the connection is to end, and does so at the latest when the timer fires.
    let mut closing = false;
    let mut drain_seen = false;
    loop {
        // Whether the timer knows whom to wake. It was set anew by what came last.
        let mut timed = false;
        let event = std::future::poll_fn(|cx| {
            // First, so that a request that has arrived is seen before its connection is closed.
            if let Poll::Ready(result) = hyper.as_mut().poll(cx) {
                return Poll::Ready(Event::Ended(result));
            }
            let come = signals.have_come(&mut task, cx.waker());
            let mut told = Context::from_waker(&told);
            if come && cut.as_mut().poll(&mut told).is_ready() {
                return Poll::Ready(Event::Cut);
            }
            if come && !drain_seen && draining.as_mut().poll(&mut told).is_ready() {
                return Poll::Ready(Event::Draining);
            }
            // The first bytes of a head may have come in this poll, which bring the time nearer.
            // A time that has become later is seen when the timer fires.
            match conn.deadline() {
                Some((deadline, _)) if !closing && deadline < timer_at => {
                    timer.as_mut().reset(conn.instant(deadline));
                    timer_at = deadline;
                    timed = false;
                }
                Some(_) | None => {}
            }
            if timed && !come {
                return Poll::Pending;
            }
            timed = true;
            timer.as_mut().poll(&mut told).map(|()| Event::Timer)
        })
        .await;
        match event {
            Event::Ended(result) => {
                if let Err(error) = result {
                    tracing::debug!(
                        error = &*error as &dyn std::error::Error,
                        "connection ended"
                    );
                }
                return;
            }
            Event::Cut => return conn.close_for(Closed::Cut),
            Event::Draining => {
                drain_seen = true;
                closing = true;
                conn.heard.store(false, Relaxed);
                // A request that is on its way is taken. Its answer will say that the connection
                // closes.
                if !conn.awaits_head() {
                    hyper.as_mut().graceful_shutdown();
                }
                timer.as_mut().reset(Instant::now() + LINGER);
            }
            Event::Timer if closing => {
                if conn.is_done(drain_seen) {
                    return;
                }
                // It ends with its responses, or with the cut.
                hyper.as_mut().graceful_shutdown();
                timer.as_mut().reset(Instant::now() + LINGER);
            }
            Event::Timer => match conn.deadline() {
                None => {
                    timer_at = after(conn.now(), conn.config().idle_timeout);
                    timer.as_mut().reset(conn.instant(timer_at));
                }
                Some((deadline, _)) if conn.now() < deadline => {
                    timer_at = deadline;
                    timer.as_mut().reset(conn.instant(deadline));
                }
                // The rest of a head will not come, so there is nothing to be graceful about.
                Some((_, Closed::HeadTimeout)) => return conn.close_for(Closed::HeadTimeout),
                Some((_, reason)) => {
                    conn.close_for(reason);
                    closing = true;
                    conn.heard.store(false, Relaxed);
                    hyper.as_mut().graceful_shutdown();
                    timer.as_mut().reset(Instant::now() + LINGER);
                }
            },
        }
    }
}

impl Conn {
    pub(super) fn new(place: Place, lifecycle: Lifecycle, cut: Cut) -> Self {
        let clock = Clock::new();
        let opened = clock.ticks();
        Self {
            place,
            lifecycle,
            cut,
            clock,
            opened,
            in_flight: AtomicUsize::new(0),
            begun: AtomicBool::new(false),
            idle_since: AtomicU64::new(opened),
            head_since: AtomicU64::new(NEVER),
            http2: AtomicBool::new(false),
            heard: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
        }
    }

    /// Bytes have come in.
    pub(super) fn received(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.heard.store(true, Relaxed);
        // While a request is in flight they may be its body. A head that begins then is due when
        // more of it comes, or with the idle timeout.
        if self.in_flight.load(Relaxed) == 0 && self.head_since.load(Relaxed) == NEVER {
            // On such a connection bytes between requests are pings and the like, not heads.
            if !self.begun.load(Relaxed) && bytes.starts_with(HTTP2_PREFACE) {
                self.http2.store(true, Relaxed);
            }
            self.head_since.store(JUST_NOW, Relaxed);
        }
    }

    /// The peer takes what is to be written, or does not.
    pub(super) fn wrote(&self, pending: bool) {
        if pending {
            self.blocked.store(true, Relaxed);
        } else if self.blocked.load(Relaxed) {
            self.blocked.store(false, Relaxed);
            self.idle_since.store(self.now(), Relaxed);
        }
    }

    /// Whether the head of an HTTP/1 request is on its way, or the first one may be.
    fn awaits_head(&self) -> bool {
        let begun = self.begun.load(Relaxed);
        let begins = self.head_since.load(Relaxed) != NEVER;
        !self.http2.load(Relaxed) && (!begun || begins)
    }

    /// Whether nothing is left to wait for on a connection that was told to close.
    fn is_done(&self, draining: bool) -> bool {
        // The rest of a response may stand in a buffer of ours. On HTTP/2 it may wait for the
        // peer's window, too; otherwise a peer that is still there would have closed by now.
        let writes = draining && self.blocked.load(Relaxed);
        let streams = self.http2.load(Relaxed) && self.heard.load(Relaxed);
        self.in_flight.load(Acquire) == 0 && !writes && !streams
    }

    /// When the connection is to be closed as it is now, by its clock, and why. `None` while requests are
    /// in flight.
    fn deadline(&self) -> Option<(u64, Closed)> {
        if self.in_flight.load(Acquire) > 0 {
            return None;
        }
        let config = self.config();
        let idle = || after(self.idle_since.load(Relaxed), config.idle_timeout);
        if self.http2.load(Relaxed) {
            return Some((idle(), Closed::Idle));
        }
        let head_since = match self.head_since.load(Relaxed) {
            // The first head is due from the start.
            _ if !self.begun.load(Relaxed) => self.opened,
            NEVER => return Some((idle(), Closed::Idle)),
            JUST_NOW => self.head_begins(),
            since => since,
        };
        Some((after(head_since, config.head_timeout), Closed::HeadTimeout))
    }

    fn config(&self) -> &ServerConfig {
        &self.place.0.config
    }

    /// Counts that the connection is closed by us.
    fn close_for(&self, closed: Closed) {
        tracing::debug!(reason = closed.as_str(), "closing connection");
        self.place.0.meters.closed_by_us(closed);
    }

    /// There is a part of a head, and no more of it for now.
    #[cold]
    fn head_begins(&self) -> u64 {
        let now = self.now();
        self.head_since.store(now, Relaxed);
        now
    }

    fn now(&self) -> u64 {
        self.clock.ticks()
    }

    /// A time by the clock, for timers. The two of them part by a thousandth at most: of how far it is from
    /// now, and not of how old the connection is.
    fn instant(&self, time: u64) -> Instant {
        Instant::now() + Duration::from_nanos(time.saturating_sub(self.now()))
    }
}

/// That much later. Nobody comes to the end of the clock.
fn after(time: u64, wait: Duration) -> u64 {
    let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
    time.saturating_add(nanos)
}

impl InFlight {
    pub(super) fn begin(conn: &Arc<Conn>, version: Version) -> Self {
        conn.in_flight.fetch_add(1, Relaxed);
        conn.begun.store(true, Relaxed);
        conn.head_since.store(NEVER, Relaxed);
        conn.http2.store(version == Version::HTTP_2, Relaxed);
        conn.place.0.requests().begun.fetch_add(1, Relaxed);
        Self(conn.clone())
    }

    /// Whether the service wants its clients to go elsewhere.
    pub(super) fn is_leaving(&self) -> bool {
        self.0.lifecycle.phase() >= Phase::Leaving
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let conn = &*self.0;
        conn.idle_since.store(conn.now(), Relaxed);
        conn.in_flight.fetch_sub(1, Release);
        // The token takes a lock, so it is asked only when it may say yes.
        let cut = conn.lifecycle.phase() >= Phase::Draining && conn.cut.is_cancelled();
        let requests = conn.place.0.requests();
        let ended = match cut {
            true => &requests.cut,
            false => &requests.finished,
        };
        ended.fetch_add(1, Relaxed);
    }
}

impl Closed {
    #[cfg(feature = "metrics")]
    pub(super) const ALL: [Self; 3] = [Self::Idle, Self::HeadTimeout, Self::Cut];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::HeadTimeout => "head_timeout",
            Self::Cut => "cut",
        }
    }
}
