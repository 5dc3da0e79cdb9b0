//! What an HTTP response says about the health of the service that sent it.

use http::{HeaderValue, Response, StatusCode, header};
use plimsoll_breaker::{Classify, Outcome, judge_error};
use plimsoll_core::{BoxError, Rejected};
use std::time::{Duration, SystemTime};

/// The longest wait that a response can ask for: a year.
///
/// A breaker takes `Duration::MAX` as *until told*, and no downstream may close us off for ever.
pub const LONGEST_WAIT: Duration = Duration::from_secs(365 * 86_400);

/// Judges calls by their responses.
///
/// | result | outcome |
/// |---|---|
/// | the refusal of a Plimsoll layer, as an error or as a response | `Ignore` |
/// | any other error | `Failure` |
/// | 503 or 429 with a `Retry-After` that can be read | `OpenFor` that long |
/// | any other 5xx | `Failure` |
/// | any other response | `Success` |
///
/// A 429 without `Retry-After` is no failure: the service works, and this caller asks too much of
/// it. See [`judge`] for how `Retry-After` is read.
///
/// Responses are judged by their head, when the inner service returns them. A body that breaks off
/// later says nothing to the breaker.
///
/// ```
/// use plimsoll_breaker::{CircuitBreaker, CircuitBreakerConfig, CircuitBreakerLayer, State};
/// use plimsoll_http::HttpOutcome;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), plimsoll_core::BoxError> {
/// let breaker = CircuitBreaker::new("orders", CircuitBreakerConfig::network())?;
/// let orders = ServiceBuilder::new()
///     .layer(CircuitBreakerLayer::new(breaker.clone()).classify(HttpOutcome))
///     .service(service_fn(|_: http::Request<()>| async {
///         let busy = http::Response::builder().status(503).header("retry-after", "120");
///         busy.body(String::new())
///     }));
///
/// // The response is passed on as it is; the next call is refused.
/// let response = orders.oneshot(http::Request::new(())).await?;
/// assert_eq!(response.status(), 503);
/// assert_eq!(breaker.state(), State::Open);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpOutcome;

impl<B> Classify<Response<B>> for HttpOutcome {
    fn classify(&self, result: Result<&Response<B>, &BoxError>, _: Duration) -> Outcome {
        let response = match result {
            Ok(response) => response,
            Err(error) => return judge_error(error),
        };
        if response.extensions().get::<Rejected>().is_some() {
            return Outcome::Ignore;
        }
        let retry_after = response.headers().get(header::RETRY_AFTER);
        judge(response.status(), retry_after, SystemTime::now())
    }
}

/// Judges a response by its status and its `Retry-After`, as [`HttpOutcome`] does.
///
/// `Retry-After` is a number of seconds or a date, in any of the three forms of RFC 9110 §5.6.7.
/// A date that has passed asks for no wait at all, which a breaker brings up to the shortest of
/// its [`requested_wait`](plimsoll_breaker::CircuitBreakerConfig::requested_wait); more than
/// [`LONGEST_WAIT`] is that. What cannot be read (a negative number, a fraction, nothing) is as
/// good as absent.
#[must_use]
pub fn judge(status: StatusCode, retry_after: Option<&HeaderValue>, now: SystemTime) -> Outcome {
    let wait = match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            retry_after.and_then(|value| wait(value, now))
        }
        _ => None,
    };
    match wait {
        Some(wait) => Outcome::OpenFor(wait),
        None if status.is_server_error() => Outcome::Failure,
        None => Outcome::Success,
    }
}

fn wait(retry_after: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = retry_after.to_str().ok()?.trim_matches([' ', '\t']);
    // By hand, since the parser of integers also takes a sign.
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let wait = if is_number {
        // Nothing but the size of the number can be wrong with it.
        text.parse().map_or(LONGEST_WAIT, Duration::from_secs)
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        date.duration_since(now).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT, the date that RFC 9110 shows all forms of.
    const NOW: Duration = Duration::from_secs(784_111_777);

    fn judged(status: u16, retry_after: Option<&[u8]>) -> Outcome {
        let status = StatusCode::from_u16(status).unwrap();
        let retry_after = retry_after.map(|value| HeaderValue::from_bytes(value).unwrap());
        judge(status, retry_after.as_ref(), SystemTime::UNIX_EPOCH + NOW)
    }

    const fn seconds(seconds: u64) -> Outcome {
        Outcome::OpenFor(Duration::from_secs(seconds))
    }

    #[test]
    fn a_status_without_retry_after_is_a_failure_from_500_on() {
        for status in [100, 200, 204, 301, 304, 400, 401, 404, 408, 418, 429, 499] {
            assert_eq!(judged(status, None), Outcome::Success, "{status}");
        }
        for status in [500, 501, 502, 503, 504, 507, 599] {
            assert_eq!(judged(status, None), Outcome::Failure, "{status}");
        }
        // No class that HTTP knows.
        assert_eq!(judged(600, None), Outcome::Success);
    }

    #[test]
    fn retry_after_that_can_be_read_opens_for_so_long() {
        let year = LONGEST_WAIT.as_secs();
        for (value, expected) in [
            ("0", 0),
            ("1", 1),
            ("007", 7),
            ("120", 120),
            (" 120\t", 120),
            // Too far ahead, in every way that it can be.
            ("31536000", year),
            ("31536001", year),
            ("18446744073709551615", year),
            ("18446744073709551616", year),
            ("99999999999999999999999999999999999999", year),
            ("Fri, 31 Dec 9999 23:59:59 GMT", year),
            // The three forms of a date.
            ("Sun, 06 Nov 1994 08:50:07 GMT", 30),
            ("Sunday, 06-Nov-94 08:50:07 GMT", 30),
            ("Sun Nov  6 08:50:07 1994", 30),
            // Now, and before now.
            ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:36 GMT", 0),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ] {
            for status in [429, 503] {
                let outcome = judged(status, Some(value.as_bytes()));
                assert_eq!(outcome, seconds(expected), "{status}, {value:?}");
            }
        }
    }

    #[test]
    fn a_date_counts_from_the_fraction_of_the_second_that_it_is() {
        let now = SystemTime::UNIX_EPOCH + NOW + Duration::from_millis(250);
        let date = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:38 GMT");
        let outcome = judge(StatusCode::SERVICE_UNAVAILABLE, Some(&date), now);
        assert_eq!(outcome, Outcome::OpenFor(Duration::from_millis(750)));
    }

    #[test]
    fn retry_after_that_cannot_be_read_is_as_good_as_absent() {
        for value in [
            &b""[..],
            b" ",
            b"-1",
            b"-0",
            b"+1",
            b"1.5",
            b"1,2",
            b"1 2",
            b"1s",
            b"1e3",
            b"0x10",
            b"soon",
            b"inf",
            b"NaN",
            b"2030-01-01T00:00:00Z",
            b"Sun, 32 Nov 1994 08:49:37 GMT",
            b"Sun, 06 Nov 1994 25:49:37 GMT",
            b"Sun, 06 Nov 1994 08:49:37",
            b"Sun, 06 Nov 1994 08:49:37 GMT.",
            b"Wed, 31 Dec 1969 23:59:59 GMT",
            "١٢٣".as_bytes(),
            b"\xff",
            &[b'x'; 8_192],
        ] {
            let shown = String::from_utf8_lossy(value);
            assert_eq!(judged(503, Some(value)), Outcome::Failure, "{shown:?}");
            assert_eq!(judged(429, Some(value)), Outcome::Success, "{shown:?}");
        }
    }

    #[test]
    fn retry_after_means_nothing_with_another_status() {
        for (status, expected) in [
            (200, Outcome::Success),
            (301, Outcome::Success),
            (413, Outcome::Success),
            (500, Outcome::Failure),
            (502, Outcome::Failure),
            (504, Outcome::Failure),
        ] {
            assert_eq!(judged(status, Some(b"30")), expected, "{status}");
        }
    }

    #[test]
    fn no_wait_is_for_ever() {
        for digits in 1..200 {
            let Outcome::OpenFor(wait) = judged(503, Some(&vec![b'9'; digits])) else {
                panic!("{digits} digits were not read");
            };
            assert!(wait <= LONGEST_WAIT, "{digits} digits are {wait:?}");
        }
    }
}
