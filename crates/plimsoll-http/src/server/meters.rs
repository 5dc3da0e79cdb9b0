//! What the server tells the `metrics` facade. Without the feature, nothing.

use super::connection::Closed;
use plimsoll_core::Name;

#[cfg(feature = "metrics")]
pub(super) struct Meters {
    open: metrics::Gauge,
    accepted: metrics::Counter,
    refused: metrics::Counter,
    accept_errors: metrics::Counter,
    closed: [metrics::Counter; Closed::ALL.len()],
}

#[cfg(feature = "metrics")]
impl Meters {
    pub(super) fn new(listener: Name) -> Self {
        let listener = listener.as_str();
        Self {
            open: metrics::gauge!("plimsoll_connections_open", "listener" => listener),
            accepted: metrics::counter!("plimsoll_connections_accepted_total", "listener" => listener),
            refused: metrics::counter!("plimsoll_connections_refused_total", "listener" => listener),
            accept_errors: metrics::counter!("plimsoll_accept_errors_total", "listener" => listener),
            closed: Closed::ALL.map(|closed| {
                metrics::counter!(
                    "plimsoll_connections_closed_total",
                    "listener" => listener, "reason" => closed.as_str()
                )
            }),
        }
    }

    pub(super) fn opened(&self) {
        self.accepted.increment(1);
        self.open.increment(1.0);
    }

    pub(super) fn closed(&self) {
        self.open.decrement(1.0);
    }

    pub(super) fn refused(&self) {
        self.refused.increment(1);
    }

    pub(super) fn accept_failed(&self) {
        self.accept_errors.increment(1);
    }

    pub(super) fn closed_by_us(&self, closed: Closed) {
        self.closed[closed as usize].increment(1);
    }
}

#[cfg(not(feature = "metrics"))]
pub(super) struct Meters;

#[cfg(not(feature = "metrics"))]
impl Meters {
    pub(super) fn new(_: Name) -> Self {
        Self
    }
    pub(super) fn opened(&self) {}
    pub(super) fn closed(&self) {}
    pub(super) fn refused(&self) {}
    pub(super) fn accept_failed(&self) {}
    pub(super) fn closed_by_us(&self, _: Closed) {}
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meters")
    }
}
