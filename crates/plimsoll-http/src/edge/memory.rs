//! Headers that tell what a request holds.

use http::{HeaderMap, HeaderName, HeaderValue};
use plimsoll_memory::{Attribution, Weighing, process};

/// What the process had in memory when somebody looked last, in MiB.
const USAGE: HeaderName = HeaderName::from_static("x-memory-usage-mb");
/// What the request held when its response began, in MiB.
const DELTA: HeaderName = HeaderName::from_static("x-memory-delta-mb");

const MIB: f64 = 1_048_576.0;

/// Adds what is known.
#[cold]
pub(super) fn tell(weighing: Option<&Weighing>, response: &mut HeaderMap) {
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
