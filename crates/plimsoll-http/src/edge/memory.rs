//! What the edge goes by when requests hold memory: budgets, and headers that tell.

use super::endpoint::declared_length;
use http::{HeaderMap, HeaderName, HeaderValue};
use plimsoll_alloc::untracked;
use plimsoll_core::{RejectReason, Rejected};
use plimsoll_memory::{Attribution, Weighing, process};

/// What the process had in memory when somebody looked last, in MiB.
const USAGE: HeaderName = HeaderName::from_static("x-memory-usage-mb");
/// What the request held when its response began, in MiB.
const DELTA: HeaderName = HeaderName::from_static("x-memory-delta-mb");

const MIB: f64 = 1_048_576.0;

/// What one request goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// How long its body says that it is; 0 if it does not, or nobody asks.
    declared: u64,
    /// Whether its response tells what was held.
    headers: bool,
}

impl Rules {
    pub(super) fn new(weighing: Option<&Weighing>, request: &HeaderMap, headers: bool) -> Self {
        let budget = weighing.and_then(Weighing::budget);
        Self {
            declared: budget.map_or(0, |_| declared_length(request).unwrap_or(0)),
            headers,
        }
    }

    /// Why a request is ended now, if it is.
    #[inline]
    pub(super) fn refuse<'a>(&self, weighing: &'a Weighing) -> Option<(&'a Weighing, Rejected)> {
        let budget = weighing.over_budget()?;
        // A body that alone is larger than the budget is what its sender can do something about.
        let reason = match self.declared {
            declared if declared > budget.bytes() => RejectReason::BodyTooLarge,
            _ => RejectReason::OverBudget,
        };
        Some((weighing, Rejected::new(reason, weighing.name())))
    }

    /// Adds what is known to a response that begins, if it is to tell.
    #[inline]
    pub(super) fn tell(&self, weighing: Option<&Weighing>, response: &mut HeaderMap) {
        if self.headers {
            untracked(|| tell(weighing, response));
        }
    }
}

#[cold]
fn tell(weighing: Option<&Weighing>, response: &mut HeaderMap) {
    let exact = weighing.filter(|it| it.attribution() == Attribution::Exact);
    let known = [
        (USAGE, process::resident()),
        (DELTA, exact.map(Weighing::live)),
    ];
    for (name, bytes) in known {
        let value = bytes.map(|bytes| format!("{:.2}", bytes as f64 / MIB));
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            response.insert(name, value);
        }
    }
}
