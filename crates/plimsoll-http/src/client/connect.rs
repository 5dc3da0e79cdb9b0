//! Connections: how many there are, how long making one takes, and how one is given up.

use super::Shared;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use plimsoll_core::{BoxError, BoxFuture, Rejected};
use std::{
    error::Error,
    fmt,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower_service::Service;

tokio::task_local! {
    /// Is there while a request is polled. hyper goes on with a connection in a task of its own
    /// once the request that began it has found another.
    pub(super) static IN_REQUEST: ();
}

/// A connector that takes a place for each connection, and gives up in time.
#[derive(Clone)]
pub(super) struct Bounded<C> {
    connector: C,
    shared: Arc<Shared>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectFailure {
    Rejected(Rejected),
    TimedOut(Duration),
    /// No request waits for it any more.
    Unwanted,
    Failed(BoxError),
}

/// One of the places for connections. Dropping it gives the place back.
struct Place {
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

/// The stream of a connection. It holds the connection's place for as long as it lives.
pub(super) struct PlacedIo<I> {
    inner: I,
    handle: ConnectionHandle,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Place,
}

/// Closes a connection from outside. Responses carry it until they are whole.
#[derive(Clone, Debug)]
pub(super) struct ConnectionHandle {
    close: CancellationToken,
    /// The peer does not take what is written.
    blocked: Arc<AtomicBool>,
}

// === impl Bounded ===

impl<C> Bounded<C> {
    pub(super) const fn new(connector: C, shared: Arc<Shared>) -> Self {
        Self { connector, shared }
    }
}

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri> + Clone + Send + 'static,
    C::Response: Read + Write + Connection + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send,
{
    type Response = PlacedIo<C::Response>;
    type Error = ConnectFailure;
    type Future = BoxFuture<'static, Result<Self::Response, ConnectFailure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectFailure>> {
        // The connector is readied with the place taken and the time running.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self {
            mut connector,
            shared,
        } = self.clone();
        Box::pin(async move {
            let place = Place::take(&shared).await?;
            let limit = shared.config.connect_timeout;
            let connect = async {
                poll_fn(|cx| connector.poll_ready(cx)).await?;
                connector.call(uri).await
            };
            let error = match timeout(limit, connect).await {
                Ok(Ok(io)) => {
                    shared.connected.fetch_add(1, Relaxed);
                    return Ok(PlacedIo::new(io, place));
                }
                Ok(Err(error)) => Some(error.into()),
                Err(_) => None,
            };
            match error {
                Some(error) if !is_timeout(&*error) => {
                    shared.connect_errors.fetch_add(1, Relaxed);
                    Err(ConnectFailure::Failed(error))
                }
                _ => {
                    shared.connect_timeouts.fetch_add(1, Relaxed);
                    Err(ConnectFailure::TimedOut(limit))
                }
            }
        })
    }
}

/// Whether an attempt to connect took too long for the connector, or for the system.
fn is_timeout(mut error: &(dyn Error + 'static)) -> bool {
    loop {
        match (error.downcast_ref::<io::Error>(), error.source()) {
            (Some(error), _) if error.kind() == io::ErrorKind::TimedOut => return true,
            (_, Some(source)) => error = source,
            (_, None) => return false,
        }
    }
}

// === impl Place ===

impl Place {
    async fn take(shared: &Arc<Shared>) -> Result<Self, ConnectFailure> {
        let free = shared.places.clone().acquire_owned();
        let mut free = pin!(timeout(shared.config.connect_timeout, free));
        let free = poll_fn(|cx| match free.as_mut().poll(cx) {
            Poll::Ready(free) => Poll::Ready(Ok(free)),
            Poll::Pending if IN_REQUEST.try_with(|()| ()).is_ok() => Poll::Pending,
            Poll::Pending => Poll::Ready(Err(ConnectFailure::Unwanted)),
        });
        match free.await? {
            Ok(Ok(permit)) => {
                shared.open.fetch_add(1, Relaxed);
                Ok(Self {
                    shared: shared.clone(),
                    _permit: permit,
                })
            }
            // Nobody closes the semaphore, so it is that the time is over.
            Ok(Err(_)) | Err(_) => {
                shared.rejected.fetch_add(1, Relaxed);
                Err(ConnectFailure::Rejected(shared.rejection()))
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Before the permit is, so that no more seem open than may be.
        self.shared.open.fetch_sub(1, Relaxed);
    }
}

// === impl ConnectionHandle ===

impl ConnectionHandle {
    pub(super) fn close(&self) {
        self.close.cancel();
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Relaxed)
    }
}

// === impl PlacedIo ===

impl<I> PlacedIo<I> {
    fn new(inner: I, place: Place) -> Self {
        let close = CancellationToken::new();
        Self {
            inner,
            closed: Box::pin(close.clone().cancelled_owned()),
            handle: ConnectionHandle {
                close,
                blocked: Arc::default(),
            },
            _place: place,
        }
    }

    /// Fails once the connection is closed from outside, and has the task woken when it is.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.closed.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn wrote<T>(&self, wrote: Poll<T>) -> Poll<T> {
        self.handle.blocked.store(wrote.is_pending(), Relaxed);
        wrote
    }
}

impl<I: Connection> Connection for PlacedIo<I> {
    fn connected(&self) -> Connected {
        self.inner.connected().extra(self.handle.clone())
    }
}

impl<I: Read + Unpin> Read for PlacedIo<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<I: Write + Unpin> Write for PlacedIo<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let wrote = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let wrote = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(wrote)
    }
}

// === impl ConnectFailure ===

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejected) => rejected.fmt(f),
            Self::TimedOut(after) => write!(f, "no connection within {after:?}"),
            Self::Unwanted => f.write_str("no request waits for the connection"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl Error for ConnectFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => error.source(),
            _ => None,
        }
    }
}
