//! What a configuration may say, and how it is refused.

use crate::common::{DAY, HOUR, MS, NANOSECOND, SECOND, breaker, of_calls, plain};
use plimsoll_breaker::{
    AfterHalfOpen, CircuitBreaker, CircuitBreakerConfig, ConfigProblem, HistoryConfig, Window,
};
use plimsoll_core::settings::Value;
use std::time::Duration;

fn problems(config: &CircuitBreakerConfig) -> Vec<ConfigProblem> {
    match config.validate() {
        Ok(()) => Vec::new(),
        Err(error) => error.problems().to_vec(),
    }
}

/// Asserts that there is one problem, of this field, value and range.
fn assert_refused(config: CircuitBreakerConfig, field: &str, value: &str, expected: &str) {
    let problems = problems(&config);
    assert_eq!(problems.len(), 1, "{field} of {value}: {problems:?}");
    let problem = &problems[0];
    assert_eq!(
        (&*problem.field, &*problem.value, &*problem.expected),
        (field, value, expected)
    );
    let text = format!("`{field}` is {value}, but must be {expected}");
    assert_eq!(problem.to_string(), text);
    // The same where it is used.
    let error = CircuitBreaker::new("test", config.clone()).unwrap_err();
    assert_eq!(error.to_string(), text);
    let breaker = breaker(plain());
    assert_eq!(breaker.reconfigure(config).unwrap_err(), error);
    assert_eq!(breaker.config(), plain());
}

#[test]
fn rates_are_above_zero_and_at_most_all() {
    let expected = "above 0 and at most 100 percent";
    for (rate, value) in [
        (0.0, "0"),
        (-0.1, "-0.1"),
        (100.1, "100.1"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
    ] {
        assert_refused(plain().failure_rate(rate), "failure_rate", value, expected);
        let slow = plain().slow_calls(SECOND, rate);
        assert_refused(slow, "slow_calls.percent", value, expected);
    }
    for rate in [f64::MIN_POSITIVE, 0.1, 100.0] {
        let config = plain().failure_rate(rate).slow_calls(SECOND, rate);
        assert_eq!(problems(&config), []);
    }
    assert_eq!(problems(&plain().failure_rate(None)), []);
}

#[test]
fn windows_hold_one_call_to_as_many_as_are_packed() {
    let expected = "between 1 and 65536 calls, or between 10ms and 1d";
    for (calls, value) in [(0, "0"), (65_537, "65537"), (u32::MAX, "4294967295")] {
        let config = plain().window(Window::Calls(calls));
        assert_refused(config, "window", value, expected);
    }
    for (time, value) in [
        (Duration::ZERO, "0s"),
        (10 * MS - NANOSECOND, "9ms999us999ns"),
        (DAY + NANOSECOND, "1d1ns"),
    ] {
        let config = plain().window(Window::Time(time));
        assert_refused(config, "window", value, expected);
    }
    for window in [
        Window::Calls(1),
        Window::Calls(65_536),
        Window::Time(10 * MS),
        Window::Time(DAY),
    ] {
        breaker(plain().window(window));
    }
}

#[test]
fn counts_have_their_ranges() {
    let any = "between 1 and 4294967295";
    assert_refused(plain().minimum_calls(0), "minimum_calls", "0", any);
    let config = plain().consecutive_failures(0);
    assert_refused(config, "consecutive_failures", "0", any);
    let config = plain().overdue_calls(SECOND, 0);
    assert_refused(config, "overdue_calls.calls", "0", any);
    for (probes, value) in [(0, "0"), (1_025, "1025")] {
        let config = plain().probes(probes);
        assert_refused(config, "probes", value, "between 1 and 1024");
    }
    for (calls, value) in [
        (100_000_001, "100000001"),
        (usize::MAX, "18446744073709551615"),
    ] {
        let most = "between 0 and 100000000";
        let config = plain().history(HistoryConfig::local().calls(calls));
        assert_refused(config, "history.calls", value, most);
        let config = plain().history(HistoryConfig::local().transitions(calls));
        assert_refused(config, "history.transitions", value, most);
    }
    // The minimum may be more than the window holds: it is lowered to that.
    let config = of_calls(100).minimum_calls(101).consecutive_failures(None);
    assert_eq!(problems(&config.probes(1_024)), []);
}

#[test]
fn durations_have_their_ranges() {
    type Set = fn(Duration) -> CircuitBreakerConfig;
    let week = 7 * DAY;
    let fields: [(&str, Set, Duration, Duration); 9] = [
        (
            "open_for",
            |t| plain().open_max(7 * DAY).open_for(t),
            MS,
            week,
        ),
        (
            "open_max",
            |t| plain().open_for(SECOND).open_max(t),
            SECOND,
            week,
        ),
        (
            "slow_calls.longer_than",
            |t| plain().slow_calls(t, 50.0),
            MS,
            DAY,
        ),
        (
            "overdue_calls.after",
            |t| plain().overdue_calls(t, 1),
            8 * MS,
            DAY,
        ),
        ("probe_lease", |t| plain().probe_lease(t), MS, week),
        (
            "dropped_fails_after",
            |t| plain().dropped_fails_after(t),
            MS,
            week,
        ),
        (
            "half_open_timeout.after",
            |t| plain().half_open_timeout(t, AfterHalfOpen::Close),
            SECOND,
            week,
        ),
        (
            "history.retention",
            |t| plain().history(HistoryConfig::local().retention(t)),
            SECOND,
            3_650 * DAY,
        ),
        (
            "history.sweep_interval",
            |t| plain().history(HistoryConfig::local().sweep_interval(t)),
            SECOND,
            week,
        ),
    ];
    for (field, set, shortest, longest) in fields {
        let shown = |time| Value::Duration(time).to_string();
        let (first, last) = (shown(shortest), shown(longest));
        let too_long = longest + NANOSECOND;
        let mut bad = vec![shortest - NANOSECOND];
        if field != "open_for" {
            // One above its own limit is above `open_max`, too.
            bad.extend([too_long, Duration::MAX]);
        }
        // Zero stands for no limit in these two.
        if !["half_open_timeout.after", "history.retention"].contains(&field) {
            bad.push(Duration::ZERO);
        }
        for time in bad {
            let expected = match field {
                "open_max" if MS <= time && time < shortest => {
                    format!("at least open_for, {first}")
                }
                "open_max" => format!("between 1ms and {last}"),
                "history.retention" if time < shortest => "0 or at least 1s".to_owned(),
                "history.retention" => format!("between 0s and {last}"),
                _ => format!("between {first} and {last}"),
            };
            assert_refused(set(time), field, &shown(time), &expected);
        }
        for time in [shortest, longest] {
            assert_eq!(problems(&set(time)), [], "{field} of {time:?}");
            breaker(set(time));
        }
    }
    let config = plain().open_max(7 * DAY).open_for(7 * DAY + NANOSECOND);
    let fields: Vec<_> = problems(&config).iter().map(|p| p.field.clone()).collect();
    assert_eq!(fields, ["open_for", "open_max"]);
}

#[test]
fn zero_is_no_limit_where_that_makes_sense() {
    let forever = HistoryConfig::local()
        .retention(Duration::ZERO)
        .calls(0)
        .transitions(0);
    let config = plain()
        .history(forever)
        .half_open_timeout(Duration::ZERO, AfterHalfOpen::Open)
        .requested_wait(Duration::ZERO, Duration::ZERO)
        .jitter(0.0);
    assert_eq!(problems(&config), []);
    forever.validate().unwrap();
}

#[test]
fn longest_wait_is_no_shorter_than_the_shortest() {
    let config = plain().open_for(60 * SECOND).open_max(59 * SECOND);
    assert_refused(config, "open_max", "59s", "at least open_for, 1m");
    let config = plain().requested_wait(10 * SECOND, 9 * SECOND);
    let expected = "at least shortest, 10s";
    assert_refused(config, "requested_wait.longest", "9s", expected);
    let config = plain().requested_wait(SECOND, 7 * DAY + NANOSECOND);
    let (value, expected) = ("7d1ns", "between 0s and 7d");
    assert_refused(config, "requested_wait.longest", value, expected);
    let config = plain().requested_wait(8 * DAY, 9 * DAY);
    let fields: Vec<_> = problems(&config).iter().map(|p| p.field.clone()).collect();
    assert_eq!(
        fields,
        ["requested_wait.shortest", "requested_wait.longest"]
    );
    assert_eq!(problems(&plain().requested_wait(SECOND, SECOND)), []);
}

#[test]
fn factors_have_their_ranges() {
    for (factor, value) in [
        (0.99, "0.99"),
        (10.01, "10.01"),
        (0.0, "0"),
        (-1.0, "-1"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
    ] {
        let config = plain().open_factor(factor);
        assert_refused(config, "open_factor", value, "between 1 and 10");
    }
    for (jitter, value) in [(-0.01, "-0.01"), (1.01, "1.01"), (f64::NAN, "NaN")] {
        assert_refused(plain().jitter(jitter), "jitter", value, "between 0 and 1");
    }
    for (factor, jitter) in [(1.0, 0.0), (10.0, 1.0)] {
        assert_eq!(problems(&plain().open_factor(factor).jitter(jitter)), []);
    }
}

#[test]
fn every_problem_is_reported_at_once_in_the_order_of_the_setters() {
    let config = CircuitBreakerConfig::new()
        .history(
            HistoryConfig::local()
                .calls(usize::MAX)
                .transitions(usize::MAX)
                .retention(NANOSECOND)
                .sweep_interval(Duration::ZERO),
        )
        .dropped_fails_after(Duration::ZERO)
        .half_open_timeout(NANOSECOND, AfterHalfOpen::Open)
        .probe_lease(Duration::ZERO)
        .probes(0)
        .requested_wait(30 * DAY, DAY)
        .jitter(2.0)
        .open_max(Duration::ZERO)
        .open_factor(0.5)
        .open_for(30 * DAY)
        .overdue_calls(Duration::ZERO, 0)
        .consecutive_failures(0)
        .slow_calls(Duration::ZERO, 0.0)
        .failure_rate(f64::NAN)
        .minimum_calls(0)
        .window(Window::Calls(0));
    let error = CircuitBreaker::new("test", config).unwrap_err();
    let fields: Vec<_> = error.problems().iter().map(|p| p.field.clone()).collect();
    assert_eq!(
        fields,
        [
            "window",
            "minimum_calls",
            "failure_rate",
            "slow_calls.longer_than",
            "slow_calls.percent",
            "consecutive_failures",
            "overdue_calls.after",
            "overdue_calls.calls",
            "open_for",
            "open_factor",
            "open_max",
            "jitter",
            "requested_wait.shortest",
            "requested_wait.longest",
            "probes",
            "probe_lease",
            "half_open_timeout.after",
            "dropped_fails_after",
            "history.calls",
            "history.transitions",
            "history.retention",
            "history.sweep_interval",
        ]
    );
    let text = error.to_string();
    assert_eq!(text.matches("; ").count(), fields.len() - 1);
    assert!(text.starts_with("`window` is 0, but must be between 1 and 65536 calls, or between 10ms and 1d; `minimum_calls`"));
}

#[test]
fn history_can_be_checked_by_itself() {
    let error = HistoryConfig::local()
        .sweep_interval(HOUR * 1_000)
        .validate()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "`sweep_interval` is 41d16h, but must be between 1s and 7d"
    );
    HistoryConfig::disabled().validate().unwrap();
}

#[test]
fn defaults_and_presets_are_valid() {
    for config in [
        CircuitBreakerConfig::new(),
        CircuitBreakerConfig::high_traffic(),
        CircuitBreakerConfig::low_traffic(),
        CircuitBreakerConfig::network(),
        CircuitBreakerConfig::local(),
        CircuitBreakerConfig::new().history(HistoryConfig::disabled()),
    ] {
        assert_eq!(problems(&config), []);
    }
}

#[tokio::test(start_paused = true)]
async fn defaults_are_as_documented() {
    use crate::common::{record, seen};
    use plimsoll_breaker::{Outcome, State};
    let breaker = breaker(CircuitBreakerConfig::new());
    record(&breaker, 9, Outcome::Failure);
    record(&breaker, 10, Outcome::Success);
    assert_eq!(seen(&breaker.snapshot()), "closed - 10 19 9 0");
    record(&breaker, 191, Outcome::Success);
    assert_eq!(seen(&breaker.snapshot()), "closed 0 100 100 0 0");
    record(&breaker, 50, Outcome::Failure);
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.state, State::Open);
    let wait = |seconds: f64, wait: Duration| {
        let share = wait.as_secs_f64() / seconds;
        assert!((0.9..=1.1).contains(&share), "{wait:?} of {seconds} s");
    };
    wait(30.0, snapshot.retry_after.unwrap());
    breaker.half_open().unwrap();
    assert_eq!(breaker.snapshot().probes_free, 3);
    record(&breaker, 3, Outcome::Failure);
    wait(60.0, breaker.snapshot().retry_after.unwrap());
    for _ in 0..10 {
        breaker.half_open().unwrap();
        record(&breaker, 3, Outcome::Failure);
    }
    wait(300.0, breaker.snapshot().retry_after.unwrap());
}
