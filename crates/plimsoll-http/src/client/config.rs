use plimsoll_core::{
    ConfigError,
    settings::{self, Fields, Settings, bytes, duration, flag, integer},
};
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// The most connections that can be open.
const MAX_CONNECTIONS: u64 = 65_536;
const GIB: u64 = 1 << 30;

/// The limits of an [`HttpClient`](super::HttpClient).
///
/// See the [module docs](super) for what happens when one is met.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use = "settings do nothing until a client is made with them"]
pub struct HttpClientConfig {
    pub(super) max_connections: usize,
    pub(super) max_idle_per_host: usize,
    pub(super) idle_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) max_head_bytes: usize,
    pub(super) max_response_bytes: usize,
    pub(super) http2: bool,
}

impl HttpClientConfig {
    /// Starts from the defaults.
    pub const fn new() -> Self {
        Self {
            max_connections: 64,
            max_idle_per_host: 8,
            idle_timeout: Duration::from_secs(90),
            connect_timeout: Duration::from_secs(1),
            max_head_bytes: 65_536,
            max_response_bytes: 1 << 20,
            http2: false,
        }
    }

    /// How many connections may be open at a time, those that are idle or being made included. 64
    /// by default, 1 to 65 536.
    ///
    /// It is one bound for all hosts, and an idle connection to one host keeps its place from
    /// another: make one client for each downstream. See the [module docs](super#memory) for what
    /// a connection takes.
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// How many connections to a host are kept for later requests; others are closed after their
    /// response. 8 by default, up to 65 536. With 0 none is kept.
    pub const fn max_idle_per_host(mut self, connections: usize) -> Self {
        self.max_idle_per_host = connections;
        self
    }

    /// How long an idle connection may be used again. 90 seconds by default, 1 ms to 1 day. Make
    /// it shorter than the server's own.
    ///
    /// Idle connections are looked through once in this time, but not more often than every
    /// 90 ms, so that one is closed after at most twice as long.
    pub const fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How long making a connection may take: the lookup of the name, all its addresses, and what
    /// the connector does besides, TLS say. 1 second by default, 1 ms to 1 minute. A request waits
    /// as long at most for one of the [connections](Self::max_connections) when all are taken.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How many bytes the head of a response may have, and its trailers. 65 536 by default, 8 192
    /// to 1 GiB. With HTTP/1 a head has at most 100 headers, and trailers have at most 16 KiB,
    /// whatever this is; it is also the largest read buffer of a connection then.
    pub const fn max_head_bytes(mut self, bytes: usize) -> Self {
        self.max_head_bytes = bytes;
        self
    }

    /// How many bytes the body of a response may have. 1 MiB by default, 1 to 1 GiB.
    pub const fn max_response_bytes(mut self, bytes: usize) -> Self {
        self.max_response_bytes = bytes;
        self
    }

    /// Whether to speak HTTP/2 from the first byte, with servers that are known to do so. Off by
    /// default; HTTP/2 is spoken then where a TLS connector has agreed on it.
    pub const fn http2(mut self, http2: bool) -> Self {
        self.http2 = http2;
        self
    }

    /// Looks for values that are out of their range. Making a client does so too.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        settings::check(self)
    }
}

/// The keys, kinds and ranges, for whoever reads them from a file.
impl Settings for HttpClientConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "max_connections",
            "How many connections may be open at a time, idle ones included.",
            &mut integer(&mut self.max_connections, 1..=MAX_CONNECTIONS),
        );
        fields.setting(
            "max_idle_per_host",
            "How many connections to a host are kept for later requests.",
            &mut integer(&mut self.max_idle_per_host, 0..=MAX_CONNECTIONS),
        );
        fields.setting(
            "idle_timeout",
            "How long an idle connection may be used again.",
            &mut duration(&mut self.idle_timeout, MILLISECOND..=DAY),
        );
        fields.setting(
            "connect_timeout",
            "How long making a connection may take.",
            &mut duration(&mut self.connect_timeout, MILLISECOND..=MINUTE),
        );
        fields.setting(
            "max_head_bytes",
            "How many bytes the head of a response may have.",
            // hyper panics below this.
            &mut bytes(&mut self.max_head_bytes, 8_192..=GIB),
        );
        fields.setting(
            "max_response_bytes",
            "How many bytes the body of a response may have.",
            &mut bytes(&mut self.max_response_bytes, 1..=GIB),
        );
        fields.setting(
            "http2",
            "Whether to speak HTTP/2 from the first byte.",
            &mut flag(&mut self.http2),
        );
    }
}

impl Default for HttpClientConfig {
    fn default() -> Self {
        Self::new()
    }
}
