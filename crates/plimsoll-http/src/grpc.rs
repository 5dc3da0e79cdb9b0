//! What a gRPC response says about the health of the service that sent it.

use crate::{Trailers, outcome};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use outcome::LONGEST_WAIT;
use plimsoll_breaker::{Classify, Outcome, judge_error};
use plimsoll_core::{BoxError, Rejected};
use std::time::{Duration, SystemTime};

const STATUS: &str = "grpc-status";
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Judges unary calls of gRPC by their status.
///
/// | result | outcome |
/// |---|---|
/// | the refusal of a Plimsoll layer, as an error or as a response | `Ignore` |
/// | any other error | `Failure` |
/// | a response with another HTTP status than 200 | as [`HttpOutcome`](crate::HttpOutcome) |
/// | `UNAVAILABLE` or `RESOURCE_EXHAUSTED` with a `grpc-retry-pushback-ms` of 0 or more | `OpenFor` that long |
/// | any other status | see [`judge`] |
/// | a whole response without a status, or one whose content type is not gRPC's | `Failure` |
/// | a response without a status whose body is still to be read | `Success` |
///
/// The status is that of the [`Trailers`], which `HttpClient` puts among the extensions
/// of a response it has read to its end; and where they have none, that of the headers, as in a
/// response that has nothing but trailers.
///
/// Responses are judged when the inner service returns them. One whose body is streamed has no
/// trailers by then: it is a success, whatever its stream brings, unless its headers have a
/// status.
///
/// A pushback that is negative or cannot be read asks not to try again. No outcome says so: it is
/// as good as absent, and whether an adapter tries again is for its `retry` to say.
///
/// ```
/// use http::{HeaderMap, Response};
/// use plimsoll_breaker::{Classify, Outcome};
/// use plimsoll_http::{GrpcOutcome, Trailers};
/// use std::time::Duration;
///
/// let mut trailers = HeaderMap::new();
/// trailers.insert("grpc-status", "14".parse()?);
/// trailers.insert("grpc-retry-pushback-ms", "2000".parse()?);
/// let mut response = Response::new(());
/// response.extensions_mut().insert(Trailers(trailers));
/// let outcome = GrpcOutcome.classify(Ok(&response), Duration::ZERO);
/// assert_eq!(outcome, Outcome::OpenFor(Duration::from_secs(2)));
/// # Ok::<_, http::header::InvalidHeaderValue>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "there is nothing to add to it")]
pub struct GrpcOutcome;

impl<B> Classify<Response<B>> for GrpcOutcome {
    fn classify(&self, result: Result<&Response<B>, &BoxError>, _: Duration) -> Outcome {
        let response = match result {
            Ok(response) => response,
            Err(error) => return judge_error(error),
        };
        if response.extensions().get::<Rejected>().is_some() {
            return Outcome::Ignore;
        }
        let headers = response.headers();
        if response.status() != StatusCode::OK {
            let retry_after = headers.get(header::RETRY_AFTER);
            return outcome::judge(response.status(), retry_after, SystemTime::now());
        }
        let trailers = response.extensions().get::<Trailers>();
        let told = |map: &HeaderMap| {
            let status = map.get(STATUS)?;
            Some(judge(status, map.get(PUSHBACK)))
        };
        let told = trailers
            .and_then(|Trailers(trailers)| told(trailers))
            .or_else(|| told(headers));
        match told {
            Some(outcome) => outcome,
            None if trailers.is_none() && is_grpc(headers) => Outcome::Success,
            None => Outcome::Failure,
        }
    }
}

/// Judges a response by its `grpc-status` and its `grpc-retry-pushback-ms`, as [`GrpcOutcome`]
/// does.
///
/// | status | outcome | since |
/// |---|---|---|
/// | 0 `OK` | `Success` | |
/// | 1 `CANCELLED` | `Ignore` | most often the caller cancelled |
/// | 2 `UNKNOWN` | `Failure` | the service failed without saying how |
/// | 3 `INVALID_ARGUMENT` | `Success` | the request is wrong |
/// | 4 `DEADLINE_EXCEEDED` | `Failure` | it took too long |
/// | 5 `NOT_FOUND` | `Success` | the answer to this request |
/// | 6 `ALREADY_EXISTS` | `Success` | the answer to this request |
/// | 7 `PERMISSION_DENIED` | `Success` | the caller may not ask |
/// | 8 `RESOURCE_EXHAUSTED` | `Success` | this caller's quota, most often, as with 429 |
/// | 9 `FAILED_PRECONDITION` | `Success` | the request comes at the wrong time |
/// | 10 `ABORTED` | `Success` | two requests met, and the other one won |
/// | 11 `OUT_OF_RANGE` | `Success` | the request is wrong |
/// | 12 `UNIMPLEMENTED` | `Success` | the request is for what the service does not have; other methods may work |
/// | 13 `INTERNAL` | `Failure` | the service is broken |
/// | 14 `UNAVAILABLE` | `Failure` | the service cannot be reached, or is overloaded |
/// | 15 `DATA_LOSS` | `Failure` | the service is broken |
/// | 16 `UNAUTHENTICATED` | `Success` | the caller has not said who it is |
/// | another, or what is no number | `Failure` | as good as `UNKNOWN` |
///
/// `UNAVAILABLE` and `RESOURCE_EXHAUSTED` with a pushback of 0 ms or more are `OpenFor` that long,
/// at most [`LONGEST_WAIT`].
#[must_use]
pub fn judge(status: &HeaderValue, pushback: Option<&HeaderValue>) -> Outcome {
    let status = number(status);
    if let (Some(8 | 14), Some(wait)) = (status, pushback.and_then(number)) {
        return Outcome::OpenFor(Duration::from_millis(wait).min(LONGEST_WAIT));
    }
    match status {
        Some(0 | 3 | 5..=12 | 16) => Outcome::Success,
        Some(1) => Outcome::Ignore,
        _ => Outcome::Failure,
    }
}

/// Reads a number without a sign. One that is too large is the largest.
fn number(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?.trim_matches([' ', '\t']);
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
