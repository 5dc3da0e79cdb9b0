//! Responses of gRPC judged for a circuit breaker.
#![cfg(feature = "breaker")]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use plimsoll_breaker::{
    Classify,
    Outcome::{self, Failure, Ignore, OpenFor, Success},
};
use plimsoll_core::{BoxError, Name, RejectReason, Rejected};
use plimsoll_http::{GrpcOutcome, Trailers, outcome::LONGEST_WAIT};
use std::time::Duration;

/// What each of the codes says, in their order.
const CODES: [Outcome; 17] = [
    Success, Ignore, Failure, Success, Failure, Success, Success, Success, Success, Success,
    Success, Success, Success, Failure, Failure, Failure, Success,
];

const PUSHBACK: &str = "grpc-retry-pushback-ms";

fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
    let field = |&(name, value): &(&'static str, &str)| {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        (HeaderName::from_static(name), value)
    };
    fields.iter().map(field).collect()
}

fn judged(response: &Response<()>) -> Outcome {
    GrpcOutcome.classify(Ok(response), Duration::ZERO)
}

/// A response whose body is still to be read.
fn streamed(headers: &[(&'static str, &str)]) -> Response<()> {
    let mut response = Response::new(());
    *response.headers_mut() = map(headers);
    response
}

/// A response whose body has been read to its end.
fn whole(headers: &[(&'static str, &str)], trailers: &[(&'static str, &str)]) -> Response<()> {
    let mut response = streamed(headers);
    response.extensions_mut().insert(Trailers(map(trailers)));
    response
}

const GRPC: (&str, &str) = ("content-type", "application/grpc+proto");

#[test]
fn every_code_is_judged_in_either_place() {
    for (code, expected) in CODES.iter().enumerate() {
        let status = ("grpc-status", &*code.to_string());
        for (place, response) in [
            ("trailers", whole(&[GRPC], &[status])),
            ("headers of a whole response", whole(&[GRPC, status], &[])),
            ("headers alone", streamed(&[GRPC, status])),
        ] {
            assert_eq!(judged(&response), *expected, "{code} in {place}");
        }
    }
}

#[test]
fn trailers_win_over_headers() {
    let (ok, unavailable) = (("grpc-status", "0"), ("grpc-status", "14"));
    assert_eq!(judged(&whole(&[GRPC, ok], &[unavailable])), Failure);
    assert_eq!(judged(&whole(&[GRPC, unavailable], &[ok])), Success);
    // The pushback is that beside the status.
    let elsewhere = whole(&[GRPC, (PUSHBACK, "5")], &[unavailable]);
    assert_eq!(judged(&elsewhere), Failure);
}

#[test]
fn a_status_that_cannot_be_read_is_a_failure() {
    for status in [
        "",
        " ",
        "-0",
        "+0",
        "0.0",
        "0x0",
        "OK",
        "1,1",
        "17",
        "99",
        "18446744073709551616",
        "٠",
    ] {
        let status = ("grpc-status", status);
        assert_eq!(judged(&whole(&[GRPC], &[status])), Failure, "{status:?}");
        assert_eq!(judged(&streamed(&[GRPC, status])), Failure, "{status:?}");
    }
}

#[test]
fn a_whole_response_without_a_status_is_a_failure() {
    assert_eq!(judged(&whole(&[GRPC], &[])), Failure);
    assert_eq!(judged(&whole(&[GRPC], &[("x-other", "1")])), Failure);
    assert_eq!(judged(&whole(&[], &[])), Failure);
}

#[test]
fn a_streamed_response_is_a_success_if_it_is_of_grpc() {
    for content_type in ["application/grpc", "application/grpc+json"] {
        let response = streamed(&[("content-type", content_type)]);
        assert_eq!(judged(&response), Success, "{content_type}");
    }
    // It is that of something in between.
    assert_eq!(judged(&streamed(&[("content-type", "text/html")])), Failure);
    assert_eq!(judged(&streamed(&[])), Failure);
}

#[test]
fn a_pushback_opens_for_so_long_when_the_service_is_short_of_something() {
    for (pushback, expected) in [
        ("0", Duration::ZERO),
        ("1", Duration::from_millis(1)),
        (" 2500 ", Duration::from_millis(2_500)),
        ("31536000001", LONGEST_WAIT),
        ("18446744073709551616", LONGEST_WAIT),
    ] {
        for code in ["8", "14"] {
            let fields = [("grpc-status", code), (PUSHBACK, pushback)];
            let expected = OpenFor(expected);
            assert_eq!(judged(&whole(&[GRPC], &fields)), expected, "{fields:?}");
            assert_eq!(judged(&streamed(&fields)), expected, "{fields:?}");
        }
    }
}

#[test]
fn a_pushback_means_nothing_with_another_code() {
    for (code, expected) in CODES.iter().enumerate() {
        if ![8, 14].contains(&code) {
            let fields = [("grpc-status", &*code.to_string()), (PUSHBACK, "1000")];
            assert_eq!(judged(&whole(&[GRPC], &fields)), *expected, "{code}");
        }
    }
}

#[test]
fn a_pushback_that_is_negative_or_cannot_be_read_is_as_good_as_absent() {
    for pushback in ["-1", "-0", "+1", "", "1.5", "1s", "soon"] {
        for (code, expected) in [("8", Success), ("14", Failure)] {
            let fields = [("grpc-status", code), (PUSHBACK, pushback)];
            assert_eq!(judged(&whole(&[GRPC], &fields)), expected, "{fields:?}");
        }
    }
}

#[test]
fn another_http_status_is_judged_as_that_of_http() {
    for (status, expected) in [
        (400, Success),
        (429, OpenFor(Duration::from_secs(7))),
        (502, Failure),
        (503, OpenFor(Duration::from_secs(7))),
    ] {
        let mut response = whole(&[("retry-after", "7")], &[("grpc-status", "2")]);
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        assert_eq!(judged(&response), expected, "{status}");
    }
}

#[test]
fn refusals_of_our_own_are_ignored_and_other_errors_are_failures() {
    let rejected = Rejected::new(RejectReason::QueueFull, Name::from_static("queue"));
    let mut response = streamed(&[]);
    response.extensions_mut().insert(rejected);
    assert_eq!(judged(&response), Ignore);
    let errors: [(BoxError, _); 2] = [(rejected.into(), Ignore), ("reset".into(), Failure)];
    for (error, expected) in errors {
        let result: Result<&Response<()>, _> = Err(&error);
        assert_eq!(GrpcOutcome.classify(result, Duration::ZERO), expected);
    }
}
