//! The vectors of resilience4j's own tests, V1 to V37, and where this breaker differs on purpose.
//!
//! Forcing a circuit open, resilience4j's `transitionToOpenState`, is `open()` here; its forced
//! open state is `force_open()`.

use crate::common::{
    HOUR, MINUTE, MS, Play, SECOND, breaker, drain, moves, of_calls, plain, record, seen,
    transitions,
};
use plimsoll_breaker::{
    AfterHalfOpen, CallOutcome, CallsQuery, CircuitBreaker, CircuitBreakerConfig,
    CircuitBreakerLayer, EventKind, Outcome, Reason, State, Window, WindowSnapshot,
};
use plimsoll_core::BoxError;
use std::{convert::Infallible, fmt, time::Duration};
use tokio::time::{advance, sleep};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

/// The configuration of resilience4j's `CircuitBreakerStateMachineTest`.
///
/// Its longest time in half-open, 1 second, is set in V25 only: there it is a timer of the
/// scheduler, which is mocked in the others, and here it would end calls that take 5 seconds.
fn state_machine() -> CircuitBreakerConfig {
    plain()
        .window(Window::Time(20 * SECOND))
        .minimum_calls(5)
        .failure_rate(50.0)
        .slow_calls(4 * SECOND, 50.0)
        .probes(4)
}

fn threshold_events(kinds: &[EventKind]) -> Vec<Reason> {
    let reasons = kinds.iter().filter_map(|kind| match kind {
        EventKind::ThresholdReached { reason, .. } => Some(*reason),
        _ => None,
    });
    reasons.collect()
}

/// (slow calls, slow failures, slow successes).
fn slow(window: &WindowSnapshot) -> (u32, u32, u32) {
    (
        window.slow,
        window.slow_failures,
        window.slow - window.slow_failures,
    )
}

// V1
#[tokio::test(start_paused = true)]
async fn success_that_completes_the_minimum_opens_at_the_failure_rate() {
    let mut play = Play::new(state_machine());
    let mut events = play.breaker.events();
    play.run(
        "E  => closed -  0 1 1 0
         E  => closed -  0 2 2 0
         E  => closed -  0 3 3 0
         S  => closed -  1 4 3 0
         S  => open   60 2 5 3 0
         A- => open   60 2 5 3 1",
    )
    .await;
    let opened = (State::Closed, State::Open, Reason::FailureRate);
    assert_eq!(moves(&drain(&mut events)), [opened]);
}

// V2
#[tokio::test(start_paused = true)]
async fn failure_rate_at_its_threshold_opens() {
    let mut play = Play::new(state_machine());
    play.run(
        "S +1s S +1s S +1s E +1s E => closed 40 3 5 2 0
         +1s                       => closed 40 3 5 2 0
         E                         => open   50 3 6 3 0",
    )
    .await;
}

// V3
#[tokio::test(start_paused = true)]
async fn slow_calls_open_whether_they_failed_or_not() {
    let mut play = Play::new(state_machine());
    play.run(
        "E5 S5 E0.1 S0.1 => closed -  2 4 2 0
         S5              => open   40 3 5 2 0",
    )
    .await;
    let snapshot = play.breaker.snapshot();
    assert_eq!(slow(&snapshot.window), (3, 1, 2));
    assert_eq!(snapshot.window.slow_rate, Some(60.0));
    assert_eq!(snapshot.reason, Reason::SlowCallRate);
}

// V4
#[tokio::test(start_paused = true)]
async fn slowness_is_measured_by_the_time_a_decorated_call_takes() {
    let breaker = breaker(state_machine());
    let mut service = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(breaker.clone()))
        .service_fn(|seconds: u32| async move {
            sleep(seconds * SECOND).await;
            Ok::<_, Infallible>(())
        });
    for (seconds, slow) in [(5, 1), (5, 2), (1, 2), (1, 2), (5, 3)] {
        assert_eq!(breaker.state(), State::Closed);
        service.ready().await.unwrap().call(seconds).await.unwrap();
        assert_eq!(breaker.snapshot().window.slow, slow);
    }
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.state, State::Open);
    assert_eq!(snapshot.window.slow_rate, Some(60.0));
}

// V5
#[tokio::test(start_paused = true)]
async fn open_circuit_is_half_open_after_its_wait_and_counts_refusals_anew() {
    let mut play = Play::new(state_machine());
    play.run(
        "open
         A- +3s A- => open      - 0 0 0 2
         +3s A+    => half_open - 0 0 0 0",
    )
    .await;
}

// V6
#[tokio::test(start_paused = true)]
async fn circuit_opened_for_a_time_waits_that_long() {
    let mut play = Play::new(state_machine());
    play.breaker.open_for(2 * HOUR).unwrap();
    play.run(
        "A- +1h A-  => open      - 0 0 0 2
         +1h +1s A+ => half_open - 0 0 0 0",
    )
    .await;
}

// V7: a moment to open until is given as the time until then.
#[tokio::test(start_paused = true)]
async fn circuit_opened_until_a_moment_waits_until_then() {
    let mut play = Play::new(state_machine());
    play.breaker.open_for(30 * MINUTE).unwrap();
    play.run(
        "A- +15m A-  => open      - 0 0 0 2
         +15m +1s A+ => half_open - 0 0 0 0",
    )
    .await;
}

// V8
#[tokio::test(start_paused = true)]
async fn circuit_that_opens_again_waits_longer() {
    let mut play = Play::new(of_calls(5).open_factor(1.5));
    play.run(
        "open A- +3s A- +3s A+ => half_open - 0 0 0 0
         open +6s A-           => open      - 0 0 0 1
         +5s A+                => half_open - 0 0 0 0",
    )
    .await;
}

// V9
#[tokio::test(start_paused = true)]
async fn probes_open_the_circuit_by_their_rate_and_not_by_the_first_failure() {
    let mut play = Play::new(state_machine());
    play.run(
        "open half E E S => half_open -  1 3 2 0
         E               => open      75 1 4 3 0",
    )
    .await;
    assert_eq!(play.breaker.snapshot().reason, Reason::FailureRate);
}

// V10
#[tokio::test(start_paused = true)]
async fn slow_probes_open_the_circuit() {
    let mut play = Play::new(state_machine());
    play.run(
        "open half S5 S5 S5 => half_open - 3 3 0 0
         S1                 => open      0 4 4 0 0",
    )
    .await;
    let snapshot = play.breaker.snapshot();
    assert_eq!(snapshot.window.slow, 3);
    assert_eq!(snapshot.window.slow_rate, Some(75.0));
    assert_eq!(snapshot.reason, Reason::SlowCallRate);
}

// V11
#[tokio::test(start_paused = true)]
async fn probes_below_the_threshold_close_the_circuit_and_are_forgotten() {
    let mut play = Play::new(state_machine());
    play.run(
        "open half E S S => half_open - 2 3 1 0
         S               => closed    - 0 0 0 0
         S               => closed    - 1 1 0 0",
    )
    .await;
}

// V12
#[tokio::test(start_paused = true)]
async fn released_probe_lets_another_pass() {
    let mut play = Play::new(state_machine());
    play.run("open half A+ A+ A+ A+ A- A- release A+ A-").await;
}

// V13
#[tokio::test(start_paused = true)]
async fn call_beyond_the_probes_is_refused_and_counted() {
    let mut play = Play::new(state_machine());
    play.run("open half A+ A+ A+ A+ => half_open - 0 0 0 0")
        .await;
    let open = play.breaker.try_acquire().unwrap_err();
    assert_eq!(open.state(), State::HalfOpen);
    assert_eq!(open.reason(), Reason::Manual);
    assert_eq!(play.breaker.snapshot().rejected, 1);
}

// V14
#[tokio::test(start_paused = true)]
async fn each_half_open_round_has_its_own_probes() {
    let mut play = Play::new(state_machine());
    play.run(
        "open half A+ A+ A+ A+ A- A-
         open half A+ A+ A+ A+ A- A- => half_open - 0 0 0 2",
    )
    .await;
}

// V15
#[tokio::test(start_paused = true)]
async fn ignored_probe_is_followed_by_another() {
    let mut play = Play::new(state_machine());
    play.run(
        "open half S S S => half_open - 3 3 0 0
         I               => half_open - 3 3 0 0
         E               => closed    - 0 0 0 0",
    )
    .await;
}

// V16
#[tokio::test(start_paused = true)]
async fn any_number_of_ignored_probes_decides_nothing() {
    let mut play = Play::new(state_machine());
    play.run(
        "open half I I I I => half_open - 0 0 0 0
         S S S             => half_open - 3 3 0 0
         S                 => closed    - 0 0 0 0",
    )
    .await;
}

// V17: there are no events of calls at all, so the change of state is the only one.
#[tokio::test(start_paused = true)]
async fn disabled_breaker_lets_everything_pass_and_counts_nothing() {
    let mut play = Play::new(state_machine());
    let mut events = play.breaker.events();
    play.run(
        "disable
         A+ S A+ E A+ E A+ E I => disabled - 0 0 0 0
         E E E E E E E E E E   => disabled - 0 0 0 0",
    )
    .await;
    let disabled = (State::Closed, State::Disabled, Reason::Manual);
    let kinds = drain(&mut events);
    assert_eq!(moves(&kinds), [disabled]);
    assert_eq!(kinds.len(), 1);
    assert_eq!(play.breaker.snapshot().totals, Default::default());
    assert_eq!(play.breaker.calls(&CallsQuery::new()).matching, 0);
}

// V18
#[tokio::test(start_paused = true)]
async fn forced_open_circuit_stays_open() {
    let mut play = Play::new(state_machine());
    play.run("force A- +6s A- => forced_open - 0 0 0 2").await;
}

// V19
#[tokio::test(start_paused = true)]
async fn breaker_that_keeps_metrics_only_tells_of_the_threshold_and_stays() {
    let mut play = Play::new(state_machine());
    play.breaker.metrics_only();
    let mut events = play.breaker.events();
    play.run(
        "E E E S => metrics_only -  1 4 3 0
         S       => metrics_only 60 2 5 3 0
         A+",
    )
    .await;
    let kinds = drain(&mut events);
    assert_eq!(threshold_events(&kinds), [Reason::FailureRate]);
    assert_eq!(moves(&kinds), []);
    play.run("E => metrics_only 66.67 2 6 4 0").await;
    assert_eq!(drain(&mut events), []);
}

// V20
#[tokio::test(start_paused = true)]
async fn each_threshold_is_told_of_once() {
    let mut play = Play::new(state_machine().window(Window::Time(MINUTE)));
    play.breaker.metrics_only();
    let mut events = play.breaker.events();
    play.run("E5 E5 E5 E5 E5 E5 E5").await;
    let told = threshold_events(&drain(&mut events));
    assert_eq!(told, [Reason::FailureRate, Reason::SlowCallRate]);
}

// V21
#[tokio::test(start_paused = true)]
async fn closed_circuit_has_nothing_to_probe_for() {
    let breaker = breaker(state_machine());
    let error = breaker.half_open().unwrap_err();
    assert_eq!(
        error.to_string(),
        "circuit breaker test cannot go from closed to half_open"
    );
    assert_eq!((error.from(), error.to()), (State::Closed, State::HalfOpen));
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(transitions(&breaker), 0);
}

// V22
#[tokio::test(start_paused = true)]
async fn reset_forgets_the_window_and_closes() {
    let mut play = Play::new(state_machine());
    play.run(
        "S E   => closed - 1 2 1 0
         reset => closed - 0 0 0 0
         S E
         open  => open   - 1 2 1 0
         reset => closed - 0 0 0 0",
    )
    .await;
}

// V23
#[tokio::test(start_paused = true)]
async fn metrics_only_begins_with_an_empty_window() {
    let mut play = Play::new(state_machine());
    play.run(
        "S S     => closed       - 2 2 0 0
         metrics => metrics_only - 0 0 0 0",
    )
    .await;
}

// V24
#[tokio::test(start_paused = true)]
async fn going_where_it_is_already_is_silent() {
    let mut play = Play::new(state_machine());
    let mut events = play.breaker.events();
    let mut told = 0;
    for (step, so_far) in [
        ("open", 1),
        ("open", 1),
        ("half", 2),
        ("half", 2),
        ("disable", 3),
        ("disable", 3),
        ("metrics", 4),
        ("metrics", 4),
        ("close", 5),
        ("close", 5),
    ] {
        play.run(step).await;
        told += drain(&mut events).len();
        assert_eq!(told, so_far, "after `{step}`");
        assert_eq!(transitions(&play.breaker), so_far as u64);
    }
}

// V25
#[tokio::test(start_paused = true)]
async fn half_open_circuit_without_calls_leaves_that_state_in_time() {
    for (then, expected) in [
        (AfterHalfOpen::Open, State::Open),
        (AfterHalfOpen::Close, State::Closed),
    ] {
        for last in ["+1ms", "+1001ms"] {
            let mut play = Play::new(state_machine().half_open_timeout(SECOND, then));
            play.run("open half +999ms => half_open - 0 0 0 0").await;
            play.run(last).await;
            let snapshot = play.breaker.snapshot();
            assert_eq!(snapshot.state, expected, "{last}");
            assert_eq!(snapshot.reason, Reason::HalfOpenTimeout);
        }
    }
}

// V26: a closed breaker refuses no call, so the two that were not permitted come before. Watched
// without being opened by it, as the metrics of resilience4j are in that test.
#[tokio::test(start_paused = true)]
async fn count_window_forgets_the_oldest_call_with_each_new_one() {
    let mut play = Play::new(of_calls(10));
    play.run(
        "open A- A-      => open         -  0 0 0 2
         close metrics
         S S E E         => metrics_only -  2 4 2 0
         E E E E S S S S => metrics_only 60 4 10 6 0
         S S S           => metrics_only 30 7 10 3 0",
    )
    .await;
}

// V27: the window keeps no sum of durations; the history does.
#[tokio::test(start_paused = true)]
async fn count_window_of_four_shows_each_step() {
    let config = of_calls(4).minimum_calls(1).failure_rate(None);
    let mut play = Play::new(config);
    let steps = [
        ("E0.1 => closed 100   0 1 1 0", 100),
        ("S0.1 => closed 50    1 2 1 0", 200),
        ("S0.1 => closed 33.33 2 3 1 0", 300),
        ("S0.1 => closed 25    3 4 1 0", 400),
        ("S0.1 => closed 0     4 4 0 0", 400),
    ];
    for (step, sum) in steps {
        play.run(step).await;
        let calls = play.breaker.calls(&CallsQuery::new().limit(4)).calls;
        let took: Duration = calls.iter().map(|call| call.duration).sum();
        assert_eq!(took, sum * MS);
    }
}

// V28
#[tokio::test(start_paused = true)]
async fn count_window_of_two_tells_slow_failures_from_slow_successes() {
    let config = of_calls(2).minimum_calls(1).slow_calls(4 * SECOND, 100.0);
    let mut play = Play::new(config);
    play.breaker.metrics_only();
    for (step, expected, rate) in [
        ("E5", (1, 1, 0), 100.0),
        ("S5", (2, 1, 1), 50.0),
        ("S", (1, 0, 1), 0.0),
        ("S", (0, 0, 0), 0.0),
    ] {
        play.run(step).await;
        let window = play.breaker.snapshot().window;
        assert_eq!(slow(&window), expected, "after {step}");
        assert_eq!(window.failure_rate, Some(rate), "after {step}");
    }
}

/// V29 with a breaker that is born so long after the clock began.
async fn sliding_time_window(born: Duration) {
    advance(born).await;
    let config = plain()
        .window(Window::Time(5 * SECOND))
        .minimum_calls(1)
        .failure_rate(None);
    let mut play = Play::new(config);
    play.run(
        "E      => closed 100   0 1 1 0
         +.1s S => closed 50    1 2 1 0
         +.1s S => closed 33.33 2 3 1 0
         +1s  S => closed 25    3 4 1 0
         +1s  S => closed 20    4 5 1 0
         +1s  E => closed 33.33 4 6 2 0
         +1s  S => closed 28.57 5 7 2 0
         +1s  S => closed 20    4 5 1 0
         +1s  S => closed 20    4 5 1 0
         +5s  S => closed 0     1 1 0 0",
    )
    .await;
}

// V29: the window has ten buckets, of half a second here, not one for each second.
#[tokio::test(start_paused = true)]
async fn time_window_forgets_calls_by_their_age() {
    sliding_time_window(Duration::ZERO).await;
}

// V29 and T38: buckets begin when the breaker does, not with the second.
#[tokio::test(start_paused = true)]
async fn time_window_begins_with_the_breaker_and_not_with_a_second() {
    sliding_time_window(700 * MS).await;
}

// V30: all is half a second later than in resilience4j, for the slow call began before. Sums of
// durations are those of the history.
#[tokio::test(start_paused = true)]
async fn time_window_that_is_read_late_is_empty() {
    let window = 5 * SECOND;
    let config = plain()
        .window(Window::Time(window))
        .minimum_calls(1)
        .slow_calls(SECOND - MS, 100.0)
        .failure_rate(None);
    let breaker = breaker(config);
    let seen = || {
        let window = breaker.snapshot().window;
        (window.calls, window.successes(), window.failures)
    };
    advance(300 * MS).await;
    let slow = breaker.try_acquire().unwrap();
    advance(100 * MS).await;
    for outcome in [Outcome::Failure, Outcome::Success] {
        let permit = breaker.try_acquire().unwrap();
        advance(100 * MS).await;
        permit.record(outcome);
    }
    advance(700 * MS).await;
    slow.record(Outcome::Failure);
    let sum = || -> Duration {
        // The history has no buckets, so that a call that is just as old would be among them.
        let recent = CallsQuery::new().within(window - MS);
        let calls = breaker.calls(&recent).calls;
        calls.iter().map(|call| call.duration).sum()
    };
    assert_eq!((seen(), sum()), ((3, 1, 2), 1_200 * MS));
    assert_eq!(breaker.snapshot().window.slow_failures, 1);
    // 4.8 s in resilience4j.
    advance(4 * SECOND).await;
    assert_eq!((seen(), sum()), ((3, 1, 2), 1_200 * MS));
    assert_eq!(sum() / 3, 400 * MS);
    advance(SECOND).await;
    assert_eq!((seen(), sum()), ((0, 0, 0), Duration::ZERO));
    advance(100 * MS).await;
    record(&breaker, 1, Outcome::Success);
    assert_eq!(seen(), (1, 1, 0));
    advance(5 * SECOND).await;
    record(&breaker, 1, Outcome::Success);
    assert_eq!(seen(), (1, 1, 0));
}

#[derive(Clone, Debug)]
struct AccessBan(Duration);

impl fmt::Display for AccessBan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "banned for {:?}", self.0)
    }
}

impl std::error::Error for AccessBan {}

fn open_for_a_ban(result: Result<&(), &BoxError>, _: Duration) -> Outcome {
    match result {
        Ok(()) => Outcome::Success,
        Err(error) => match error.downcast_ref() {
            Some(AccessBan(time)) => Outcome::OpenFor(*time),
            None => Outcome::Failure,
        },
    }
}

// V31: a result that asks for the circuit to be open is an outcome of its own.
#[tokio::test(start_paused = true)]
async fn result_can_open_the_circuit_for_its_own_time() {
    let config = plain()
        .window(Window::Calls(100))
        .minimum_calls(100)
        .requested_wait(SECOND, 3 * HOUR);
    let breaker = breaker(config);
    let mut service = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(breaker.clone()).classify(open_for_a_ban))
        .service(service_fn(|error: Option<AccessBan>| async move {
            Err::<(), _>(error.map_or_else(|| BoxError::from("other"), BoxError::from))
        }));
    service.ready().await.unwrap().call(None).await.unwrap_err();
    assert_eq!(breaker.state(), State::Closed);
    let ban = AccessBan(2 * HOUR);
    let error = service.ready().await.unwrap().call(Some(ban)).await;
    let error = error.unwrap_err();
    assert_eq!(
        error.downcast_ref::<AccessBan>().map(|ban| ban.0),
        Some(2 * HOUR)
    );
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.state, State::Open);
    assert_eq!(snapshot.reason, Reason::Requested);
    assert_eq!(snapshot.retry_after, Some(2 * HOUR));
    advance(2 * HOUR - MS).await;
    assert_eq!(breaker.state(), State::Open);
    advance(MS).await;
    assert_eq!(breaker.state(), State::HalfOpen);
}

// V32
#[tokio::test(start_paused = true)]
async fn call_whose_caller_went_away_counts_for_nothing() {
    let breaker = breaker(state_machine());
    let mut service = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(breaker.clone()))
        .service_fn(|()| std::future::pending::<Result<(), BoxError>>());
    let mut call = tokio_test::task::spawn(service.ready().await.unwrap().call(()));
    assert!(call.poll().is_pending());
    assert_eq!(breaker.snapshot().in_flight, 1);
    drop(call);
    let snapshot = breaker.snapshot();
    assert_eq!(seen(&snapshot), "closed - 0 0 0 0");
    assert_eq!(snapshot.in_flight, 0);
    assert_eq!(snapshot.totals.dropped, 1);
    assert_eq!(snapshot.totals.successes + snapshot.totals.failures, 0);
}

// V33
#[tokio::test(start_paused = true)]
async fn minimum_of_calls_is_no_more_than_a_count_window_holds() {
    let count = plain().window(Window::Calls(5)).minimum_calls(6);
    let mut play = Play::new(count);
    play.run(
        "E E E E => closed -   0 4 4 0
         E       => open   100 0 5 5 0",
    )
    .await;
    // A time window can hold any number.
    let time = plain().window(Window::Time(10 * SECOND)).minimum_calls(100);
    let breaker = breaker(time);
    record(&breaker, 99, Outcome::Failure);
    assert_eq!(breaker.state(), State::Closed);
    record(&breaker, 1, Outcome::Failure);
    assert_eq!(breaker.state(), State::Open);
}

// V34
#[tokio::test(start_paused = true)]
async fn error_can_be_a_failure_a_success_or_ignored() {
    fn judge(result: Result<&(), &BoxError>, _: Duration) -> Outcome {
        match result.map_err(ToString::to_string) {
            Ok(()) => Outcome::Success,
            Err(error) if error == "failure" => Outcome::Failure,
            Err(error) if error == "ignored" => Outcome::Ignore,
            Err(_) => Outcome::Success,
        }
    }
    for (second, expected) in [
        ("not recorded", "closed - 1 2 1 0"),
        ("ignored", "closed - 0 1 1 0"),
    ] {
        let breaker = breaker(of_calls(5));
        let mut service = ServiceBuilder::new()
            .layer(CircuitBreakerLayer::new(breaker.clone()).classify(judge))
            .service_fn(|error: &'static str| async move { Err::<(), _>(BoxError::from(error)) });
        for error in ["failure", second] {
            let answer = service.ready().await.unwrap().call(error).await;
            assert_eq!(answer.unwrap_err().to_string(), error);
        }
        assert_eq!(seen(&breaker.snapshot()), expected);
    }
}

// V35: there is no timer. Whoever looks sees what is due by then, which happens once.
#[tokio::test(start_paused = true)]
async fn wait_that_is_over_is_seen_by_whoever_looks_and_told_once() {
    let looks: [fn(&CircuitBreaker) -> State; 2] =
        [CircuitBreaker::state, |breaker| breaker.snapshot().state];
    for look in looks {
        let breaker = breaker(plain().open_for(2 * SECOND));
        breaker.open().unwrap();
        assert_eq!(breaker.snapshot().retry_after, Some(2 * SECOND));
        advance(2 * SECOND - MS).await;
        assert_eq!(look(&breaker), State::Open);
        let mut events = breaker.events();
        advance(MS).await;
        assert_eq!(look(&breaker), State::HalfOpen);
        assert_eq!(look(&breaker), State::HalfOpen);
        let waited = (State::Open, State::HalfOpen, Reason::WaitElapsed);
        assert_eq!(moves(&drain(&mut events)), [waited]);
        assert_eq!(transitions(&breaker), 2);
    }
}

// V35: what was scheduled does not happen to a breaker that was told otherwise before.
#[tokio::test(start_paused = true)]
async fn forcing_a_circuit_open_ends_its_wait() {
    let breaker = breaker(plain().open_for(2 * SECOND));
    breaker.open().unwrap();
    advance(SECOND).await;
    breaker.force_open();
    let mut events = breaker.events();
    advance(HOUR).await;
    assert_eq!(breaker.state(), State::ForcedOpen);
    assert_eq!(drain(&mut events), []);
    assert_eq!(transitions(&breaker), 2);
}

// V36
#[test]
fn values_out_of_range_make_no_breaker() {
    let new = CircuitBreakerConfig::new;
    let bad = [
        new().failure_rate(0.0),
        new().failure_rate(100.1),
        new().slow_calls(SECOND, 0.0),
        new().slow_calls(SECOND, 100.1),
        new().slow_calls(Duration::ZERO, 50.0),
        new().window(Window::Calls(0)),
        new().window(Window::Time(Duration::ZERO)),
        new().minimum_calls(0),
        new().probes(0),
        new().open_for(Duration::ZERO),
        new().half_open_timeout(999 * MS, AfterHalfOpen::Open),
    ];
    for config in bad {
        CircuitBreaker::new("test", config.clone()).unwrap_err();
        config.validate().unwrap_err();
    }
    // Zero is no timeout at all. That the state after it can be open or closed only is a type.
    let off = new().half_open_timeout(Duration::ZERO, AfterHalfOpen::Open);
    assert_eq!(off, new());
    CircuitBreaker::new("test", off).unwrap();
}

/// Brings a new breaker to `state`.
fn breaker_in(state: State) -> CircuitBreaker {
    let breaker = breaker(state_machine());
    match state {
        State::HalfOpen => {
            breaker.open().unwrap();
            command(&breaker, state).unwrap();
        }
        _ => command(&breaker, state).unwrap(),
    }
    assert_eq!(breaker.state(), state);
    breaker
}

fn command(breaker: &CircuitBreaker, to: State) -> Result<(), plimsoll_breaker::IllegalTransition> {
    match to {
        State::Open => return breaker.open(),
        State::HalfOpen => return breaker.half_open(),
        State::Closed => breaker.close(),
        State::ForcedOpen => breaker.force_open(),
        State::Disabled => breaker.disable(),
        State::MetricsOnly => breaker.metrics_only(),
    }
    Ok(())
}

// V37
#[tokio::test(start_paused = true)]
async fn every_edge_is_as_in_the_table() {
    for from in State::ALL {
        for to in State::ALL {
            let illegal = [
                (State::Closed, State::HalfOpen),
                (State::MetricsOnly, State::Open),
                (State::MetricsOnly, State::HalfOpen),
            ];
            let legal = !illegal.contains(&(from, to));
            assert_eq!(from.may_become(to), legal, "{from} to {to}");
            let breaker = breaker_in(from);
            let before = transitions(&breaker);
            assert_eq!(command(&breaker, to).is_ok(), legal, "{from} to {to}");
            let (expected, moved) = match legal {
                true => (to, u64::from(from != to)),
                false => (from, 0),
            };
            assert_eq!(breaker.state(), expected);
            assert_eq!(transitions(&breaker), before + moved, "{from} to {to}");
            let open_for = breaker_in(from).open_for(SECOND);
            assert_eq!(open_for.is_ok(), from.may_become(State::Open));
        }
    }
}

// V37: a breaker of any state can be reset.
#[tokio::test(start_paused = true)]
async fn reset_closes_from_every_state() {
    for from in State::ALL {
        let breaker = breaker_in(from);
        breaker.reset();
        assert_eq!(breaker.state(), State::Closed);
        record(&breaker, 4, Outcome::Failure);
        assert_eq!(breaker.state(), State::Closed);
        let failures = CallsQuery::new().outcome(CallOutcome::Failure);
        assert_eq!(breaker.calls(&failures).matching, 4);
    }
}
