//! Telling others what has begun or ended.
//!
//! An [`Alert`] is told once when something begins, and once when it ends, not for each sample. It
//! goes to the log, as an event of `tracing`, and to every hook. Each hook has a thread of its own and a short
//! queue: one that is slow, or blocks for ever, misses what does not fit, which is counted, and holds up
//! nobody else. One that panics is called again for the next.

mod hooks;

pub use self::hooks::{AlertSink, Alerts, HookError, HookStats};
use crate::MemoryFigures;
use plimsoll_core::Name;
use std::{fmt, time::SystemTime};

/// Something that somebody may have to look after.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Alert {
    /// What kind of thing it is.
    pub kind: AlertKind,
    /// How bad it is.
    pub severity: Severity,
    /// Whom it is about, a holding or a route, if not the process.
    pub name: Option<Name>,
    /// What there is to say about it, with figures, in one sentence.
    pub text: String,
    /// The figures of the process at that time.
    pub figures: Option<MemoryFigures>,
    /// When it was told.
    pub at: SystemTime,
}

/// What kinds of alerts there are.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum AlertKind {
    /// Memory has become short, or shorter.
    Pressure,
    /// It has been short for a while.
    PressurePersists,
    /// It is no longer short.
    PressureEnded,
    /// Nobody knows any longer whether it is.
    Blind,
    /// The limit is met soon if what is used goes on to grow.
    Ahead,
    /// The limit is another one.
    LimitChanged,
    /// Something holds more and more.
    Leak,
    /// More tasks are alive than expected, or no longer.
    Tasks,
    /// Few descriptors are left, or no longer.
    Descriptors,
    /// A holding was not swept when it should have been.
    Overdue,
    /// There are more records than expected.
    Records,
    /// A holding did not come back when it was swept, shrunk, or asked what it holds; or has since.
    LeftBehind,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look after it.
    Warning,
    /// At once.
    Critical,
}

impl Alert {
    /// Makes an alert of now. `text` is one sentence, with figures, without a full stop.
    #[must_use]
    pub fn new(kind: AlertKind, severity: Severity, text: impl Into<String>) -> Self {
        Self {
            kind,
            severity,
            name: None,
            text: text.into(),
            figures: None,
            at: SystemTime::now(),
        }
    }

    /// Says whom it is about.
    #[must_use]
    pub fn about(mut self, name: Name) -> Self {
        self.name = Some(name);
        self
    }

    pub(crate) fn log(&self) {
        let Self {
            kind,
            severity,
            name,
            text,
            ..
        } = self;
        let name = name.map(Name::as_str);
        match severity {
            Severity::Info => tracing::info!(%kind, name, "{text}"),
            Severity::Warning => tracing::warn!(%kind, name, "{text}"),
            Severity::Critical => tracing::error!(%kind, name, "{text}"),
        }
    }
}

impl AlertKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Pressure,
        Self::PressurePersists,
        Self::PressureEnded,
        Self::Blind,
        Self::Ahead,
        Self::LimitChanged,
        Self::Leak,
        Self::Tasks,
        Self::Descriptors,
        Self::Overdue,
        Self::Records,
        Self::LeftBehind,
    ];

    /// The kind as a word for programs, in `snake_case`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pressure => "pressure",
            Self::PressurePersists => "pressure_persists",
            Self::PressureEnded => "pressure_ended",
            Self::Blind => "blind",
            Self::Ahead => "ahead",
            Self::LimitChanged => "limit_changed",
            Self::Leak => "leak",
            Self::Tasks => "tasks",
            Self::Descriptors => "descriptors",
            Self::Overdue => "overdue",
            Self::Records => "records",
            Self::LeftBehind => "left_behind",
        }
    }

    /// Whether it is decided by levels, which do not swing.
    const fn is_of_level(self) -> bool {
        matches!(
            self,
            Self::Pressure | Self::PressurePersists | Self::PressureEnded
        )
    }
}

impl fmt::Display for AlertKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Severity {
    /// The severity as a word for programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
