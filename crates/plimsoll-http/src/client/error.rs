use plimsoll_core::{BoxError, Name, Rejected};
use std::{error::Error, fmt, time::Duration};

/// A request got no response.
///
/// Its [source](Error::source) is the refusal or what went wrong, so that [`Rejected::find`] finds
/// a refusal.
#[derive(Debug)]
pub struct HttpClientError {
    client: Name,
    kind: HttpClientErrorKind,
}

/// Why a request got no response.
#[derive(Debug)]
#[non_exhaustive]
pub enum HttpClientErrorKind {
    /// The URI of the request cannot be called. Nothing was sent.
    Uri {
        /// Its scheme and host, without what may be private.
        value: Box<str>,
        /// What it must be.
        expected: &'static str,
    },
    /// All connections were taken for as long as a request waits for one. Nothing was sent, and it
    /// is not held against the downstream.
    Rejected(Rejected),
    /// A connection could not be made in time. Nothing was sent.
    ConnectTimedOut {
        /// The time that it was given.
        after: Duration,
    },
    /// A connection could not be made. Nothing was sent.
    Connect(BoxError),
    /// The body of the response is larger than allowed.
    BodyTooLarge {
        /// The most bytes that it may have.
        limit: usize,
        /// How many bytes the response said that it has, where it did.
        announced: Option<u64>,
    },
    /// The trailers of the response are larger than allowed.
    TrailersTooLarge {
        /// The most bytes that they may have.
        limit: usize,
    },
    /// The request could not be sent, or the response could not be read to its end.
    Failed(BoxError),
}

impl HttpClientError {
    pub(super) const fn new(client: Name, kind: HttpClientErrorKind) -> Self {
        Self { client, kind }
    }

    /// The name of the client.
    #[must_use]
    pub const fn client(&self) -> Name {
        self.client
    }

    /// Why there is no response.
    #[must_use]
    pub const fn kind(&self) -> &HttpClientErrorKind {
        &self.kind
    }

    /// Takes the error apart.
    #[must_use]
    pub fn into_kind(self) -> HttpClientErrorKind {
        self.kind
    }
}

impl fmt::Display for HttpClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use HttpClientErrorKind as Kind;
        let client = self.client;
        match &self.kind {
            Kind::Uri { value, expected } => {
                write!(
                    f,
                    "client {client}: the URI is {value}, but must {expected}"
                )
            }
            Kind::Rejected(_) => write!(f, "client {client} had no connection free"),
            Kind::ConnectTimedOut { after } => {
                write!(f, "client {client} could not connect within {after:?}")
            }
            Kind::Connect(_) => write!(f, "client {client} could not connect"),
            Kind::BodyTooLarge { limit, announced } => {
                write!(f, "client {client}: the body of the response ")?;
                if let Some(bytes) = announced {
                    write!(f, "of {bytes} bytes ")?;
                }
                write!(f, "is larger than `max_response_bytes`, {limit}")
            }
            Kind::TrailersTooLarge { limit } => write!(
                f,
                "client {client}: the trailers of the response are larger than \
                `max_head_bytes`, {limit}"
            ),
            Kind::Failed(_) => write!(f, "client {client} got no whole response"),
        }
    }
}

impl Error for HttpClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        use HttpClientErrorKind as Kind;
        match &self.kind {
            Kind::Rejected(rejected) => Some(rejected),
            Kind::Connect(error) | Kind::Failed(error) => Some(&**error),
            _ => None,
        }
    }
}
