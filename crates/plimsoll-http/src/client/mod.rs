//! An HTTP client that keeps its connections, and takes no more than it is allowed to.
//!
//! An [`HttpClient`] is a Tower service from a request to a response that has been read to its
//! end. It makes a service for an adapter, whose business are the time that all of it may take,
//! how many requests are in flight, and whether one is made again:
//!
//! ```
//! # #[cfg(feature = "breaker")]
//! # fn adapter() -> Result<(), Box<dyn std::error::Error>> {
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use plimsoll_adapter::Adapter;
//! use plimsoll_http::{HttpClient, HttpClientConfig, HttpOutcome};
//! use std::{convert::Infallible, time::Duration};
//!
//! let config = HttpClientConfig::new().max_connections(32).max_response_bytes(65_536);
//! let orders: Adapter<Request<String>, Response<Bytes>> = Adapter::builder("orders")
//!     .timeout(Duration::from_secs(2))
//!     .classify::<Response<Bytes>, _>(HttpOutcome)
//!     .service(HttpClient::new("orders", config)?)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Bounds
//!
//! | bound | default | when it is met |
//! |---|---|---|
//! | open connections, idle ones and those being made included | 64 | the request waits |
//! | time that it waits | 1 s, as to connect | a [`Rejected`](plimsoll_core::Rejected) (queue timeout), counted |
//! | time to make a connection | 1 s | an error, counted |
//! | idle connections to a host | 8 | another is closed |
//! | time that a connection is idle | 90 s | it is not used again, and closed within as long again |
//! | bytes of a response head | 64 KiB | an error |
//! | bytes of trailers | 64 KiB, HTTP/1 16 KiB | an error |
//! | bytes of a response body | 1 MiB | an error, counted; before a byte is read if the head tells |
//!
//! A connection of HTTP/1 whose response is refused is closed; with HTTP/2 it is the stream.
//! Requests over HTTP/2 share one connection to a host, and wait there when the server allows no
//! more streams. It is not pinged: when the server is gone without a word, requests on it end with
//! their timeouts until the system gives the connection up.
//!
//! Responses are as the server sent them: nothing is decoded, and no redirect is followed. Those
//! with trailers have them among their extensions, as [`Trailers`].
//!
//! # Requests that are made again
//!
//! None is, if any of it may have been sent. A request that is given an idle connection which the
//! server has closed in the meantime goes to another connection, as long as no byte of it was
//! written: that servers close idle connections says nothing about their health. And requests that
//! wait for one connection of HTTP/2 make another when the request that was making it is dropped.
//!
//! # Readiness
//!
//! A client is always ready: its requests wait in their futures.
//!
//! # Cancellation
//!
//! Dropping the future closes the connection of HTTP/1 or resets the stream of HTTP/2, and leaves
//! the line for a connection. One that it was making is given up, too. But when the request was
//! given another in the meantime, making it goes on within the connect timeout, and it is idle
//! then.
//!
//! # Memory
//!
//! An idle connection of HTTP/1 takes about 28 KiB of heap after small responses, and about 84 KiB
//! after large ones, since its read buffer grows up to
//! [`max_head_bytes`](HttpClientConfig::max_head_bytes) (a counting allocator's figures for 200
//! connections of each kind, on a 64-bit Linux), so that the 64 of the default take 1.8 to 5.3 MiB
//! at most. TLS comes on top.
//!
//! A response takes one buffer of the length that it announces, whether or not so many bytes come;
//! without, the buffer doubles as it grows, up to
//! [`max_response_bytes`](HttpClientConfig::max_response_bytes), and there are the old one and the
//! new one for a moment. What the caller gets is as long as the body. The bodies of all responses
//! together are for an adapter's `max_in_flight` to bound.

mod body;
mod config;
mod connect;
mod error;
mod exchange;

use self::{
    body::{Outgoing, boxed},
    connect::Bounded,
    exchange::exchange,
};
pub use self::{
    config::HttpClientConfig,
    error::{HttpClientError, HttpClientErrorKind},
};
use crate::Trailers;
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body;
use hyper::rt::{Read, Write};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connection, HttpConnector},
    },
    rt::{TokioExecutor, TokioTimer},
};
use plimsoll_core::{BoxError, BoxFuture, ConfigError, Name};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};
use tokio::sync::Semaphore;
use tower_service::Service;

/// A client whose connections and responses are bounded. Cloning gives another handle to the same
/// one.
///
/// See the [module docs](self).
#[derive(Clone)]
pub struct HttpClient<C = HttpConnector> {
    client: Client<Bounded<C>, Outgoing>,
    shared: Arc<Shared>,
}

/// What a client has done so far.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct HttpClientSnapshot {
    /// Connections that are open, idle or being made.
    pub open: usize,
    /// The most connections that may be.
    pub max_connections: usize,
    /// Connections that were made.
    pub connected: u64,
    /// Connections that could not be made, but for those that took too long.
    pub connect_errors: u64,
    /// Connections that took too long to make.
    pub connect_timeouts: u64,
    /// Requests that waited in vain for a connection to be free.
    pub rejected: u64,
    /// Responses that were larger than allowed.
    pub refused_large: u64,
}

/// What the connections of a client share.
struct Shared {
    name: Name,
    config: HttpClientConfig,
    /// There is no connector but that for `http`.
    plain: bool,
    places: Arc<Semaphore>,
    open: AtomicUsize,
    connected: AtomicU64,
    connect_errors: AtomicU64,
    connect_timeouts: AtomicU64,
    rejected: AtomicU64,
    refused_large: AtomicU64,
}

impl HttpClient {
    /// Makes a client for `http` URIs, named for errors and refusals.
    ///
    /// Names are looked up by the system, on Tokio's threads for blocking calls. The addresses are
    /// tried one after the other, each for its part of the connect timeout.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range.
    pub fn new(name: impl Into<Name>, config: HttpClientConfig) -> Result<Self, ConfigError> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        // Trying two addresses at a time takes two sockets for one connection.
        connector.set_happy_eyeballs_timeout(None);
        connector.set_connect_timeout(Some(config.connect_timeout));
        connector.set_keepalive(Some(config.idle_timeout));
        Self::build(name.into(), config, connector, true)
    }
}

impl<C> HttpClient<C> {
    /// Makes a client that connects with `connector`, one for TLS say, named for errors and
    /// refusals.
    ///
    /// It is given the scheme and the authority of URIs. HTTP/2 is spoken where its connections
    /// [have agreed on it](hyper_util::client::legacy::connect::Connected::negotiated_h2). That it
    /// opens no more than one socket for a connection is its own business: those of hyper-util try
    /// two addresses at a time unless told otherwise.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range.
    pub fn with_connector(
        name: impl Into<Name>,
        config: HttpClientConfig,
        connector: C,
    ) -> Result<Self, ConfigError>
    where
        C: Service<Uri> + Clone + Send + Sync + 'static,
        C::Response: Read + Write + Connection + Unpin + Send + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send,
    {
        Self::build(name.into(), config, connector, false)
    }

    fn build(
        name: Name,
        config: HttpClientConfig,
        connector: C,
        plain: bool,
    ) -> Result<Self, ConfigError>
    where
        C: Service<Uri> + Clone + Send + Sync + 'static,
        C::Response: Read + Write + Connection + Unpin + Send + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send,
    {
        config.validate()?;
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(config.idle_timeout)
            .pool_max_idle_per_host(config.max_idle_per_host)
            .http1_max_buf_size(config.max_head_bytes)
            .http2_max_header_list_size(u32::try_from(config.max_head_bytes).unwrap_or(u32::MAX))
            .http2_only(config.http2);
        let shared = Arc::new(Shared {
            name,
            plain,
            places: Arc::new(Semaphore::new(config.max_connections)),
            config,
            open: AtomicUsize::new(0),
            connected: AtomicU64::new(0),
            connect_errors: AtomicU64::new(0),
            connect_timeouts: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            refused_large: AtomicU64::new(0),
        });
        Ok(Self {
            client: builder.build(Bounded::new(connector, shared.clone())),
            shared,
        })
    }

    /// The client's name.
    #[must_use]
    pub fn name(&self) -> Name {
        self.shared.name
    }

    /// What the client has done so far.
    #[must_use]
    pub fn snapshot(&self) -> HttpClientSnapshot {
        let Shared {
            config,
            open,
            connected,
            connect_errors,
            connect_timeouts,
            rejected,
            refused_large,
            ..
        } = &*self.shared;
        HttpClientSnapshot {
            open: open.load(Relaxed),
            max_connections: config.max_connections,
            connected: connected.load(Relaxed),
            connect_errors: connect_errors.load(Relaxed),
            connect_timeouts: connect_timeouts.load(Relaxed),
            rejected: rejected.load(Relaxed),
            refused_large: refused_large.load(Relaxed),
        }
    }
}

impl<C> fmt::Debug for HttpClient<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("name", &self.name())
            .field("config", &self.shared.config)
            .field("snapshot", &self.snapshot())
            .finish()
    }
}

impl<C, B> Service<Request<B>> for HttpClient<C>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Read + Write + Connection + Unpin + Send + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Bytes>;
    type Error = HttpClientError;
    type Future = BoxFuture<'static, Result<Response<Bytes>, HttpClientError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HttpClientError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { client, shared } = self.clone();
        let request = request.map(boxed);
        Box::pin(async move {
            exchange(&client, &shared, request)
                .await
                .map_err(|kind| HttpClientError::new(shared.name, kind))
        })
    }
}
