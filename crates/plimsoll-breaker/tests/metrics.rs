//! What breakers tell a recorder.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use plimsoll_breaker::{
    Breakers, CircuitBreaker, CircuitBreakerConfig, KeyedBreakers, KeyedConfig, Outcome, State,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::advance;

const WAIT: Duration = Duration::from_secs(10);

/// A directory, and a recorder of its own.
struct Scrape {
    breakers: Breakers,
    recorder: PrometheusRecorder,
}

/// The lines of a scrape, by series.
struct Series(BTreeMap<String, f64>);

impl Scrape {
    fn new(breakers: &[&CircuitBreaker]) -> Self {
        let scrape = Self {
            breakers: Breakers::new(),
            recorder: PrometheusBuilder::new().build_recorder(),
        };
        for breaker in breakers {
            scrape.breakers.insert(breaker).unwrap();
        }
        scrape
    }

    fn take(&self) -> Series {
        metrics::with_local_recorder(&self.recorder, || self.breakers.publish_metrics());
        let text = self.recorder.handle().render();
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        });
        Series(series.collect())
    }
}

impl Series {
    /// The value of `plimsoll_breaker_{name}` of orders, with these other labels.
    #[track_caller]
    fn get(&self, name: &str, labels: &str) -> f64 {
        let comma = if labels.is_empty() { "" } else { "," };
        let series = format!("plimsoll_breaker_{name}{{breaker=\"orders\"{comma}{labels}}}");
        let found = self.0.get(&series);
        *found.unwrap_or_else(|| panic!("{series} in {:#?}", self.0))
    }

    /// Which states are 1; every other is 0.
    #[track_caller]
    fn states(&self) -> Vec<State> {
        let state = |state: &State| {
            let value = self.get("state", &format!("state=\"{state}\""));
            assert!(value == 0.0 || value == 1.0, "{state}: {value}");
            value == 1.0
        };
        State::ALL.into_iter().filter(state).collect()
    }
}

fn orders() -> CircuitBreaker {
    let config = CircuitBreakerConfig::new()
        .minimum_calls(4)
        .probes(2)
        .slow_calls(Duration::from_secs(1), 100.0)
        .open_for(WAIT)
        .jitter(0.0);
    CircuitBreaker::new("orders", config).unwrap()
}

fn call(breaker: &CircuitBreaker, outcome: Outcome) {
    breaker.try_acquire().unwrap().record(outcome);
}

#[tokio::test(start_paused = true)]
async fn a_new_breaker_has_every_series_but_those_of_transitions() {
    let orders = orders();
    let series = Scrape::new(&[&orders]).take();
    assert_eq!(series.states(), [State::Closed]);
    for outcome in ["success", "failure", "ignored", "dropped", "stale"] {
        let label = format!("outcome=\"{outcome}\"");
        assert_eq!(series.get("calls_total", &label), 0.0);
    }
    for reason in ["open", "half_open", "forced_open"] {
        let label = format!("reason=\"{reason}\"");
        assert_eq!(series.get("rejected_total", &label), 0.0);
    }
    for kind in ["calls", "transitions"] {
        let label = format!("kind=\"{kind}\"");
        assert_eq!(series.get("history_records", &label), 0.0);
    }
    for name in [
        "slow_calls_total",
        "would_reject_total",
        "failure_ratio",
        "slow_ratio",
        "in_flight",
        "probes_in_flight",
        "lost_events_total",
    ] {
        assert_eq!(series.get(name, ""), 0.0);
    }
    assert_eq!(series.0.len(), 6 + 5 + 3 + 2 + 7, "{:#?}", series.0);
}

#[tokio::test(start_paused = true)]
async fn after_three_transitions_exactly_one_state_is_set_and_the_totals_are_right() {
    let orders = orders();
    let scrape = Scrape::new(&[&orders]);
    call(&orders, Outcome::Success);
    call(&orders, Outcome::Ignore);
    drop(orders.try_acquire().unwrap());
    let slow = orders.try_acquire().unwrap();
    advance(Duration::from_secs(2)).await;
    slow.record(Outcome::Success);
    let stale = orders.try_acquire().unwrap();
    assert_eq!(scrape.take().states(), [State::Closed]);

    call(&orders, Outcome::Failure);
    call(&orders, Outcome::Failure);
    let series = scrape.take();
    assert_eq!(series.states(), [State::Open]);
    assert_eq!(series.get("failure_ratio", ""), 0.5, "what opened it");
    assert_eq!(series.get("slow_ratio", ""), 0.25);
    assert_eq!(series.get("in_flight", ""), 1.0);
    stale.record(Outcome::Success);
    orders.try_acquire().unwrap_err();

    advance(WAIT).await;
    // Nobody but the scrape notices that the wait is over.
    let series = scrape.take();
    assert_eq!(series.states(), [State::HalfOpen]);
    assert_eq!(series.get("failure_ratio", ""), 0.0, "no probe yet");
    let probes = [orders.try_acquire().unwrap(), orders.try_acquire().unwrap()];
    orders.try_acquire().unwrap_err();
    orders.try_acquire().unwrap_err();
    assert_eq!(scrape.take().get("probes_in_flight", ""), 2.0);
    for probe in probes {
        probe.record(Outcome::Success);
    }

    let series = scrape.take();
    assert_eq!(series.states(), [State::Closed]);
    assert_eq!(series.get("probes_in_flight", ""), 0.0);
    assert_eq!(series.get("in_flight", ""), 0.0);
    for (outcome, calls) in [
        ("success", 4.0),
        ("failure", 2.0),
        ("ignored", 1.0),
        ("dropped", 1.0),
        ("stale", 1.0),
    ] {
        let label = format!("outcome=\"{outcome}\"");
        assert_eq!(series.get("calls_total", &label), calls, "{outcome}");
    }
    assert_eq!(series.get("slow_calls_total", ""), 1.0);
    for (reason, calls) in [("open", 1.0), ("half_open", 2.0), ("forced_open", 0.0)] {
        let label = format!("reason=\"{reason}\"");
        assert_eq!(series.get("rejected_total", &label), calls, "{reason}");
    }
    for (from, to, reason) in [
        ("closed", "open", "failure_rate"),
        ("open", "half_open", "wait_elapsed"),
        ("half_open", "closed", "probes_succeeded"),
    ] {
        let labels = format!("from=\"{from}\",to=\"{to}\",reason=\"{reason}\"");
        assert_eq!(series.get("transitions_total", &labels), 1.0);
    }
    assert_eq!(series.get("history_records", "kind=\"calls\""), 9.0);
    assert_eq!(series.get("history_records", "kind=\"transitions\""), 3.0);

    orders.force_open();
    orders.try_acquire().unwrap_err();
    orders.metrics_only();
    let series = scrape.take();
    assert_eq!(series.states(), [State::MetricsOnly]);
    let rejected = series.get("rejected_total", "reason=\"forced_open\"");
    assert_eq!(rejected, 1.0);
    for _ in 0..5 {
        call(&orders, Outcome::Failure);
    }
    // The first four reach the minimum; the fifth would have been refused.
    assert_eq!(scrape.take().get("would_reject_total", ""), 1.0);
}

#[test]
fn gauges_of_a_breaker_that_is_gone_are_brought_to_zero_and_counters_stay() {
    let orders = orders();
    let scrape = Scrape::new(&[&orders]);
    let calls = [(); 4].map(|()| orders.try_acquire().unwrap());
    for call in calls {
        call.record(Outcome::Failure);
    }
    assert_eq!(scrape.take().states(), [State::Open]);
    drop(orders);
    for _ in 0..2 {
        let series = scrape.take();
        assert_eq!(series.states(), []);
        for name in ["failure_ratio", "slow_ratio", "in_flight"] {
            assert_eq!(series.get(name, ""), 0.0);
        }
        for kind in ["calls", "transitions"] {
            let label = format!("kind=\"{kind}\"");
            assert_eq!(series.get("history_records", &label), 0.0);
        }
        assert_eq!(series.get("calls_total", "outcome=\"failure\""), 4.0);
    }
}

#[test]
fn a_breaker_that_takes_the_name_of_one_that_is_gone_is_shown() {
    let first = orders();
    let scrape = Scrape::new(&[&first]);
    first.force_open();
    assert_eq!(scrape.take().states(), [State::ForcedOpen]);
    drop(first);
    let second = orders();
    scrape.breakers.insert(&second).unwrap();
    assert_eq!(scrape.take().states(), [State::Closed]);
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_a_scrape_wakes_may_publish_too() {
    let orders = orders();
    let scrape = Scrape::new(&[&orders]);
    orders.open().unwrap();
    let breakers = scrape.breakers.clone();
    let observer = move |_: &plimsoll_breaker::Event| breakers.publish_metrics();
    orders.observe(observer).unwrap();
    advance(WAIT).await;
    assert_eq!(scrape.take().states(), [State::HalfOpen]);
}

#[test]
fn events_that_nobody_was_told_of_are_counted() {
    let orders = orders();
    let scrape = Scrape::new(&[&orders]);
    let busy = orders.clone();
    // While it is told of the first event, more happen than can wait.
    let once = std::sync::Once::new();
    let observer = move |_: &plimsoll_breaker::Event| {
        once.call_once(|| (0..66).for_each(|_| busy.reset()));
    };
    orders.observe(observer).unwrap();
    orders.reset();
    assert_eq!(scrape.take().get("lost_events_total", ""), 2.0);
}

#[tokio::test(start_paused = true)]
async fn keys_are_counted_and_not_told_apart() {
    let keyed = KeyedBreakers::new("orders", KeyedConfig::new().max_keys(2)).unwrap();
    let scrape = Scrape::new(&[]);
    scrape.breakers.insert_keyed(&keyed).unwrap();
    scrape.breakers.insert_keyed(&keyed).unwrap_err();
    for key in ["a", "b", "c"] {
        let _ = keyed.get(key);
    }
    for breaker in keyed.list() {
        breaker.force_open();
    }
    let _ = keyed.get("d");
    let series = scrape.take();
    assert_eq!(series.get("keys", ""), 2.0);
    let removed = series.get("keys_removed_total", "reason=\"capacity\"");
    assert_eq!(removed, 1.0);
    assert_eq!(series.get("key_overflow_total", ""), 1.0);
    assert_eq!(series.0.len(), 3, "nothing by key");
    drop(keyed);
    assert!(scrape.breakers.list_keyed().is_empty());
}
