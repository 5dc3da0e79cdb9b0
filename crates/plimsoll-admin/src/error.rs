use plimsoll_core::ConfigError;
use std::{fmt, io, net::SocketAddr};

/// The control listeners could not be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum ControlError {
    /// Settings are out of their range, or contradict each other.
    Invalid(ConfigError),
    /// A listener could not be bound.
    Bind(BindError),
    /// The thread or its runtime could not be made.
    Thread(io::Error),
    /// The call was made outside a Tokio runtime.
    NoRuntime,
}

/// A control listener could not be bound.
#[derive(Debug)]
pub struct BindError {
    pub(crate) listener: &'static str,
    pub(crate) field: &'static str,
    pub(crate) addr: SocketAddr,
    pub(crate) source: io::Error,
}

// === impl ControlError ===

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(error) => error.fmt(f),
            Self::Bind(error) => error.fmt(f),
            Self::Thread(_) => f.write_str("the control thread could not be started"),
            Self::NoRuntime => f.write_str(
                "the control listeners were started outside a Tokio runtime: \
                 call `Control::start` where the service runs",
            ),
        }
    }
}

impl std::error::Error for ControlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind(error) => error.source(),
            Self::Thread(error) => Some(error),
            Self::Invalid(_) | Self::NoRuntime => None,
        }
    }
}

impl From<ConfigError> for ControlError {
    fn from(error: ConfigError) -> Self {
        Self::Invalid(error)
    }
}

impl From<BindError> for ControlError {
    fn from(error: BindError) -> Self {
        Self::Bind(error)
    }
}

// === impl BindError ===

impl BindError {
    /// The address that could not be bound.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            listener,
            field,
            addr,
            source,
        } = self;
        write!(f, "the {listener} listener cannot be bound to {addr}: ")?;
        match source.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "the port is in use, free it or set `{field}` to another (0 takes a free one)"
            ),
            io::ErrorKind::AddrNotAvailable => write!(
                f,
                "this machine does not have the address, set `{field}` to one that it has"
            ),
            io::ErrorKind::PermissionDenied => write!(
                f,
                "the port needs privileges, set `{field}` to one above 1023"
            ),
            _ => write!(f, "set `{field}` to another address"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
