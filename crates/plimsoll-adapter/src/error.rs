use plimsoll_core::{BoxError, Name, Rejected};
use std::{borrow::Cow, error::Error, fmt, time::Duration};

/// A call to an adapter gave no answer.
///
/// Its [source](Error::source) is the refusal or the error of the service, so that
/// [`Rejected::find`] finds either's.
#[derive(Debug)]
pub struct AdapterError {
    adapter: Cow<'static, str>,
    kind: AdapterErrorKind,
}

/// Why a call to an adapter gave no answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum AdapterErrorKind {
    /// The adapter refused the call, and the service was not asked; or it was, and held more than
    /// the call's [budget](crate::AdapterConfig::memory_budget). It is not held against it.
    Rejected(Rejected),
    /// There was no answer in time.
    TimedOut {
        /// The time the attempt was given, or the call as a whole by its deadline.
        after: Duration,
    },
    /// The service gave an error.
    Failed(BoxError),
    /// The service panicked, or a closure the adapter was built with.
    Panicked {
        /// What the panic said, where that was text.
        message: Box<str>,
    },
    /// No adapter has this name.
    Unknown,
    /// The same adapter was asked for before, in the same call.
    Duplicate,
}

impl AdapterErrorKind {
    /// The kind as metrics and answers name it: `rejected`, `timed_out`, `failed`, `panicked`,
    /// `unknown` or `duplicate`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "rejected",
            Self::TimedOut { .. } => "timed_out",
            Self::Failed(_) => "failed",
            Self::Panicked { .. } => "panicked",
            Self::Unknown => "unknown",
            Self::Duplicate => "duplicate",
        }
    }
}

impl AdapterError {
    pub(crate) const fn new(adapter: Name, kind: AdapterErrorKind) -> Self {
        Self {
            adapter: Cow::Borrowed(adapter.as_str()),
            kind,
        }
    }

    /// An error about a name that may be nobody's. It is not interned, because it may be whatever
    /// a request asks for.
    pub(crate) const fn named(adapter: Cow<'static, str>, kind: AdapterErrorKind) -> Self {
        Self { adapter, kind }
    }

    /// The name of the adapter.
    #[must_use]
    pub fn adapter(&self) -> &str {
        &self.adapter
    }

    /// Why there is no answer.
    #[must_use]
    pub const fn kind(&self) -> &AdapterErrorKind {
        &self.kind
    }

    /// Takes the error apart.
    #[must_use]
    pub fn into_kind(self) -> AdapterErrorKind {
        self.kind
    }

    /// The refusal, if the adapter refused.
    #[must_use]
    pub const fn rejected(&self) -> Option<&Rejected> {
        match &self.kind {
            AdapterErrorKind::Rejected(rejected) => Some(rejected),
            _ => None,
        }
    }

    /// Whether there was no answer in time.
    #[must_use]
    pub const fn is_timeout(&self) -> bool {
        matches!(self.kind, AdapterErrorKind::TimedOut { .. })
    }
}

impl fmt::Display for AdapterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let adapter = &self.adapter;
        match &self.kind {
            AdapterErrorKind::Rejected(_) => write!(f, "adapter {adapter} refused the call"),
            AdapterErrorKind::TimedOut { after } => {
                write!(f, "adapter {adapter} gave no answer within {after:?}")
            }
            AdapterErrorKind::Failed(_) => write!(f, "adapter {adapter} failed"),
            AdapterErrorKind::Panicked { message } => {
                write!(f, "adapter {adapter} panicked: {message}")
            }
            AdapterErrorKind::Unknown => write!(f, "there is no adapter {adapter}"),
            AdapterErrorKind::Duplicate => write!(f, "adapter {adapter} was asked for twice"),
        }
    }
}

impl Error for AdapterError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            AdapterErrorKind::Rejected(rejected) => Some(rejected),
            AdapterErrorKind::Failed(error) => Some(&**error),
            _ => None,
        }
    }
}
