//! What the edge tells the `metrics` facade.

use super::{EndpointSnapshot, RequestCounts, cells::BOUNDS};
use metrics::{counter, gauge};
use std::sync::LazyLock;

/// The bounds of the buckets in seconds, as the text that a scrape shows.
static SECONDS: LazyLock<[String; BOUNDS.len()]> =
    LazyLock::new(|| BOUNDS.map(|bound| bound.as_secs_f64().to_string()));

pub(super) fn publish(snapshot: &EndpointSnapshot) {
    let endpoint = snapshot.endpoint.as_str();
    gauge!("plimsoll_http_in_flight", "endpoint" => endpoint).set(snapshot.in_flight as f64);
    counter!("plimsoll_http_responses_cut_total", "endpoint" => endpoint).absolute(snapshot.cut);
    for counts in &snapshot.requests {
        publish_counts(endpoint, counts);
    }
    let memory = &snapshot.memory;
    memory.publish("plimsoll_http_memory", "endpoint", endpoint);
}

fn publish_counts(endpoint: &'static str, counts: &RequestCounts) {
    let RequestCounts { method, status, .. } = *counts;
    macro_rules! labelled {
        ($kind:ident, $name:literal $(, $key:literal => $value:expr)?) => {
            metrics::$kind!(
                $name,
                "endpoint" => endpoint, "method" => method, "status" => status
                $(, $key => $value)?
            )
        };
    }
    let requests = counts.requests();
    labelled!(counter, "plimsoll_http_requests_total").absolute(requests);
    labelled!(counter, "plimsoll_http_response_bytes_total").absolute(counts.bytes);
    // The facade takes samples, not a histogram that is kept elsewhere, so its series are
    // published one by one under the names that they have in a scrape.
    for ((_, within), bound) in counts.within().zip(&*SECONDS) {
        labelled!(counter, "plimsoll_http_request_seconds_bucket", "le" => bound.as_str())
            .absolute(within);
    }
    labelled!(counter, "plimsoll_http_request_seconds_bucket", "le" => "+Inf").absolute(requests);
    labelled!(counter, "plimsoll_http_request_seconds_count").absolute(requests);
    labelled!(gauge, "plimsoll_http_request_seconds_sum").set(counts.time.as_secs_f64());
}
