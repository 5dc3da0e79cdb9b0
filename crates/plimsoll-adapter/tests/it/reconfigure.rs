//! Limits change while an adapter runs.

use crate::support::{Downstream, MS, SECOND, Text, assert_idle, builder, reason, timed_out};
use plimsoll_adapter::{
    Adapter, AdapterConfig, Adapters, BudgetMode, RecordThreshold, RetryConfig,
};
use plimsoll_breaker::{CircuitBreakerConfig, Event, HistoryConfig, State, Window};
use plimsoll_core::{Holding, RejectReason};
use plimsoll_memory::Budget;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};
use tokio::time::{Instant, advance};
use tokio_test::{
    assert_pending, assert_ready_err, assert_ready_ok,
    task::{Spawn, spawn},
};
use tracing::{
    Level, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

fn config() -> AdapterConfig {
    AdapterConfig::new()
}

fn set(adapter: &Adapter<String, String>, config: AdapterConfig) {
    adapter.reconfigure(config).unwrap();
}

fn refused(adapter: &Adapter<String, String>, request: &str) -> RejectReason {
    reason(&assert_ready_err!(
        spawn(adapter.call(request.into())).poll()
    ))
}

#[tokio::test(start_paused = true)]
async fn adapter_tells_the_limits_it_was_given() {
    let retry = RetryConfig::new().retries(3);
    let circuit = CircuitBreakerConfig::new().probes(7);
    let given = config()
        .timeout(3 * SECOND)
        .queue_timeout(4 * SECOND)
        .max_in_flight(5)
        .max_queued(6)
        .max_queued_bytes(7)
        .memory_budget(8)
        .on_over_budget(BudgetMode::Enforce)
        .circuit_breaker(circuit.clone())
        .retry(retry);
    let adapter: Adapter<String, String> = builder()
        .timeout(9 * SECOND)
        .config(given.clone())
        .request_bytes(|request: &String| request.len() as u64)
        .repeatable(|request: &String| Some(request.clone()))
        .function(|request: String| async { Text::Ok(request) })
        .unwrap();
    assert_eq!(adapter.config(), given);
    let values = given.values();
    assert_eq!(
        (values.timeout, values.queue_timeout),
        (3 * SECOND, 4 * SECOND)
    );
    let sizes = (
        values.max_in_flight,
        values.max_queued,
        values.max_queued_bytes,
    );
    assert_eq!(sizes, (5, 6, Some(7)));
    let budget = (values.memory_budget, values.on_over_budget);
    assert_eq!(budget, (Some(8), BudgetMode::Enforce));
    assert_eq!(adapter.memory_stats().budget, Some(Budget::enforce(8)));
    assert_eq!(
        (values.circuit_breaker, values.retry),
        (&circuit, Some(retry))
    );
    let other = config().max_in_flight(2);
    set(&adapter, other.clone());
    assert_eq!(adapter.config(), other);
    let snapshot = adapter.snapshot();
    assert_eq!((snapshot.max_in_flight, snapshot.max_queued), (2, 64));
    assert_eq!(snapshot.max_queued_bytes, None);
    assert_eq!(adapter.memory_stats().budget, None);
}

#[tokio::test(start_paused = true)]
async fn default_limits_are_those_of_a_builder() {
    let down = Downstream::default();
    assert_eq!(down.adapter(builder()).config(), AdapterConfig::default());
}

#[tokio::test(start_paused = true)]
async fn budget_refuses_nothing_where_the_allocator_does_not_count() {
    let adapter = Downstream::default().adapter(builder());
    let budget = config().memory_budget(1).max_in_flight(1);
    set(&adapter, budget.on_over_budget(BudgetMode::Enforce));
    let mut call = spawn(adapter.call("hello".repeat(1_000)));
    assert_pending!(call.poll());
    drop(call);
    let memory = adapter.memory_stats();
    assert_eq!((memory.requests(), memory.attribution()), (0, None));
    assert_eq!(adapter.memory_group(), None);
    assert_eq!(assert_idle(&adapter).rejected.total(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_changes_if_anything_is_wrong() {
    let adapter = Downstream::default().adapter(builder());
    let before = (adapter.config(), adapter.breaker().config());
    let circuit = CircuitBreakerConfig::new();
    for (bad, field) in [
        (config().timeout(Duration::ZERO), "timeout"),
        (config().queue_timeout(Duration::ZERO), "queue_timeout"),
        (config().max_in_flight(0), "max_in_flight"),
        (config().max_queued(1_000_001), "max_queued"),
        (config().memory_budget(0), "memory_budget"),
        (
            config().circuit_breaker(circuit.window(Window::Calls(0))),
            "circuit_breaker.window",
        ),
    ] {
        let bad = match field {
            "max_in_flight" => bad,
            _ => bad.max_in_flight(3),
        };
        assert!(bad.validate().is_err());
        let error = adapter.reconfigure(bad).unwrap_err();
        assert_eq!(error.problems().len(), 1);
        assert_eq!(error.problems()[0].field, field);
        assert_eq!((adapter.config(), adapter.breaker().config()), before);
        assert_eq!(adapter.snapshot().max_in_flight, 64);
    }
}

#[tokio::test(start_paused = true)]
async fn limits_that_an_adapter_was_not_built_for_are_refused() {
    let function = |request: String| async { Text::Ok(request) };
    let limits = config().max_queued_bytes(1).retry(RetryConfig::new());
    assert!(limits.validate().is_ok());
    let expected = "`max_queued_bytes` is 1, but must be left out: the adapter was built without \
                    `request_bytes`; `retry` is set, but must be left out: the adapter was built \
                    without `repeatable`";
    let error = builder().config(limits.clone()).function(function);
    assert_eq!(error.unwrap_err().to_string(), expected);
    let adapter = builder().function(function).unwrap();
    let error = adapter.reconfigure(limits.clone()).unwrap_err();
    assert_eq!(error.to_string(), expected);
    let able = builder()
        .request_bytes(|request: &String| request.len() as u64)
        .repeatable(|request: &String| Some(request.clone()))
        .function(function);
    set(&able.unwrap(), limits);
}

#[tokio::test(start_paused = true)]
async fn call_in_flight_goes_on_with_the_timeout_it_began_with() {
    let adapter = Downstream::default().adapter(builder().timeout(2 * SECOND));
    let mut before = spawn(adapter.call("before".into()));
    assert_pending!(before.poll());
    set(&adapter, config().timeout(SECOND));
    let mut after = spawn(adapter.call("after".into()));
    assert_pending!(after.poll());
    advance(SECOND).await;
    assert_pending!(before.poll());
    assert_eq!(timed_out(&assert_ready_err!(after.poll())), Some(SECOND));
    advance(SECOND).await;
    assert_eq!(
        timed_out(&assert_ready_err!(before.poll())),
        Some(2 * SECOND)
    );
}

#[tokio::test(start_paused = true)]
async fn call_that_is_tried_again_keeps_its_timeout() {
    let retry = RetryConfig::new().back_off(MS, MS).jitter(0.0).floor(9);
    let limits = config().retry(retry).timeout(2 * SECOND);
    let adapter = builder()
        .config(limits.clone())
        .repeatable(|request: &String| Some(request.clone()))
        .function(Downstream::default().function())
        .unwrap();
    let start = Instant::now();
    let call = tokio::spawn(adapter.call("x".into()));
    tokio::task::yield_now().await;
    advance(SECOND).await;
    set(&adapter, limits.timeout(MS).retry(retry.retries(9)));
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(timed_out(&error), Some(2 * SECOND));
    let passed = Instant::now().saturating_duration_since(start);
    assert_eq!(passed, 3 * 2 * SECOND + 2 * MS, "two retries, as it began");
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_get_more_slots_at_once_and_in_order() {
    let down = Downstream::default();
    let adapter = down.adapter(builder().max_in_flight(1));
    let mut calls: Vec<_> = (0..6).map(|n| spawn(adapter.call(n.to_string()))).collect();
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    set(&adapter, config().max_in_flight(4));
    let woken: Vec<_> = calls.iter().map(Spawn::is_woken).collect();
    assert_eq!(woken, [false, true, true, true, false, false]);
    let snapshot = adapter.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.queued), (4, 2));
    assert_pending!(spawn(adapter.call("late".into())).poll());
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    assert_eq!(down.asked(), ["0", "1", "2", "3"]);
    drop(calls);
    assert_idle(&adapter);
}

#[tokio::test(start_paused = true)]
async fn nobody_gets_a_slot_until_enough_calls_have_ended() {
    let down = Downstream::default();
    let adapter = down.adapter(builder().max_in_flight(4));
    let mut calls: Vec<_> = (0..6).map(|n| spawn(adapter.call(n.to_string()))).collect();
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    // Lowered, raised, and lowered again, with all of them in flight.
    for slots in [2, 3, 1, 2] {
        set(&adapter, config().max_in_flight(slots));
        let snapshot = adapter.snapshot();
        assert_eq!((snapshot.in_flight, snapshot.queued), (4, 2));
        assert_eq!(snapshot.max_in_flight, slots as u64);
    }
    for done in 0..4 {
        down.answer(Ok(String::new()));
        assert_ready_ok!(calls[done].poll());
        // The third that ends is the first to leave a slot that there still is.
        let next = [false, false, true, true][done];
        assert_eq!(calls.iter().skip(4).any(Spawn::is_woken), next);
        for call in calls.iter_mut().skip(4).filter(|call| call.is_woken()) {
            assert_pending!(call.poll());
        }
        assert_eq!(adapter.snapshot().in_flight, [3, 2, 2, 2][done]);
    }
    assert_eq!(down.asked().len(), 6);
    drop(calls);
    assert_idle(&adapter);
}

#[tokio::test(start_paused = true)]
async fn shorter_line_refuses_newcomers_only() {
    let down = Downstream::default();
    let adapter = down.adapter(builder().max_in_flight(1));
    let mut calls: Vec<_> = (0..4).map(|n| spawn(adapter.call(n.to_string()))).collect();
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    set(&adapter, config().max_in_flight(1).max_queued(2));
    assert_eq!(refused(&adapter, "late"), RejectReason::QueueFull);
    set(&adapter, config().max_in_flight(1).max_queued(0));
    assert_eq!(refused(&adapter, "late"), RejectReason::InFlightLimit);
    assert_eq!(adapter.snapshot().queued, 3);
    for call in &mut calls {
        assert_pending!(call.poll());
        down.answer(Ok(String::new()));
        assert_ready_ok!(call.poll());
    }
    set(&adapter, config().max_in_flight(1).max_queued(1));
    let mut running = spawn(adapter.call("running".into()));
    let mut waiting = spawn(adapter.call("waiting".into()));
    assert_pending!(running.poll());
    assert_pending!(waiting.poll());
    assert_eq!(refused(&adapter, "late"), RejectReason::QueueFull);
}

#[tokio::test(start_paused = true)]
async fn queue_timeout_is_that_of_the_time_a_call_joined_the_line() {
    let down = Downstream::default();
    let limits = config().max_in_flight(1).timeout(60 * SECOND);
    let adapter = down.adapter(builder().config(limits.clone().queue_timeout(2 * SECOND)));
    let mut calls: Vec<_> = (0..2).map(|n| spawn(adapter.call(n.to_string()))).collect();
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    set(&adapter, limits.queue_timeout(SECOND));
    let mut late = spawn(adapter.call("late".into()));
    assert_pending!(late.poll());
    advance(SECOND).await;
    assert_pending!(calls[1].poll());
    assert_eq!(
        reason(&assert_ready_err!(late.poll())),
        RejectReason::QueueTimeout
    );
    advance(SECOND).await;
    assert_eq!(
        reason(&assert_ready_err!(calls[1].poll())),
        RejectReason::QueueTimeout
    );
}

#[tokio::test(start_paused = true)]
async fn bytes_of_those_who_wait_are_limited_later_too() {
    let down = Downstream::default();
    let adapter = builder()
        .max_in_flight(1)
        .request_bytes(|request: &String| request.len() as u64)
        .function(down.function())
        .unwrap();
    let mut calls = ["running", "123456"].map(|request| spawn(adapter.call(request.into())));
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    assert_eq!(
        adapter.snapshot().queued_bytes,
        6,
        "weighed without a limit"
    );
    set(&adapter, config().max_in_flight(1).max_queued_bytes(10));
    assert_eq!(refused(&adapter, "12345"), RejectReason::QueueFull);
    let mut four = spawn(adapter.call("1234".into()));
    assert_pending!(four.poll());
    set(&adapter, config().max_in_flight(1));
    assert_pending!(spawn(adapter.call("12345".into())).poll());
}

#[tokio::test(start_paused = true)]
async fn circuit_breaker_keeps_its_state_and_blames_dropped_calls_by_the_new_timeout() {
    let adapter = Downstream::default().adapter(builder());
    adapter.breaker().force_open();
    let circuit = CircuitBreakerConfig::new().probes(9);
    set(
        &adapter,
        config()
            .timeout(8 * SECOND)
            .circuit_breaker(circuit.clone()),
    );
    assert_eq!(adapter.breaker().state(), State::ForcedOpen);
    let told = circuit.clone().dropped_fails_after(4 * SECOND);
    assert_eq!(adapter.breaker().config(), told);
    let explicit = circuit.dropped_fails_after(7 * SECOND);
    set(&adapter, config().circuit_breaker(explicit.clone()));
    assert_eq!(adapter.breaker().config(), explicit);
    assert_eq!(adapter.config().values().circuit_breaker, &explicit);
}

#[tokio::test(start_paused = true)]
async fn what_the_breaker_was_told_besides_is_told_too() {
    let adapter = Downstream::default().adapter(builder().max_in_flight(3));
    let told = adapter.breaker().config().probes(9);
    adapter.breaker().reconfigure(told).unwrap();
    let circuit = CircuitBreakerConfig::new().probes(9);
    assert_eq!(
        adapter.config(),
        config().max_in_flight(3).circuit_breaker(circuit)
    );
    // Half of the timeout still follows it.
    set(&adapter, adapter.config().timeout(8 * SECOND));
    let told = CircuitBreakerConfig::new().probes(9);
    assert_eq!(
        adapter.breaker().config(),
        told.dropped_fails_after(4 * SECOND)
    );
    let told = CircuitBreakerConfig::new().dropped_fails_after(SECOND);
    adapter.breaker().reconfigure(told.clone()).unwrap();
    assert_eq!(adapter.config().values().circuit_breaker, &told);
}

#[tokio::test(start_paused = true)]
async fn breaker_that_corrects_what_it_is_told_does_not_change_what_the_adapter_tells() {
    let given = config().circuit_breaker(corrected());
    let adapter = Downstream::default().adapter(builder().config(given.clone()));
    assert_eq!(adapter.config(), given);
    set(&adapter, given.clone().max_in_flight(3));
    assert_eq!(adapter.config(), given.max_in_flight(3));
}

/// A configuration of a breaker that corrects it, and says so in the log.
fn corrected() -> CircuitBreakerConfig {
    let circuit = CircuitBreakerConfig::new().window(Window::Calls(10));
    circuit.minimum_calls(1_000)
}

#[tokio::test(start_paused = true)]
async fn observer_of_the_breaker_can_change_limits_while_they_change() {
    let adapter = Downstream::default().adapter(builder());
    let breaker = adapter.breaker().clone();
    let (inner, seen) = (adapter.clone(), Arc::new(Mutex::new(Vec::new())));
    let told = seen.clone();
    let observer = move |_: &Event| {
        let before = inner.config();
        told.lock().unwrap().push(before.clone());
        let circuit = CircuitBreakerConfig::new().probes(5);
        let after = before.max_in_flight(9).circuit_breaker(circuit);
        inner.reconfigure(after).unwrap();
    };
    breaker.observe(observer).unwrap();
    breaker.open_for(SECOND).unwrap();
    advance(2 * SECOND).await;
    // It is half open, which comes out when it is told.
    // As long as it would be by itself, but told.
    let circuit = corrected().dropped_fails_after(SECOND);
    let given = config().max_in_flight(7).circuit_breaker(circuit);
    set(&adapter, given.clone());
    assert_eq!(*seen.lock().unwrap(), [config(), given]);
    let circuit = CircuitBreakerConfig::new().probes(5);
    let last = config().max_in_flight(9).circuit_breaker(circuit.clone());
    assert_eq!(adapter.config(), last);
    let told = circuit.dropped_fails_after(SECOND);
    assert_eq!(adapter.breaker().config(), told);
    // And once more, for nobody is left to be at it.
    set(&adapter, config());
    let told = CircuitBreakerConfig::new().dropped_fails_after(SECOND);
    assert_eq!(adapter.breaker().config(), told);
}

/// Changes limits when the first warning is logged, which is before the breaker is changed.
struct Meddler(Mutex<Option<(Adapter<String, String>, AdapterConfig)>>);

impl Subscriber for Meddler {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn event(&self, _: &tracing::Event<'_>) {
        let taken = self.0.lock().unwrap().take();
        if let Some((adapter, limits)) = taken {
            set(&adapter, limits);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test(start_paused = true)]
async fn last_change_decides_when_another_comes_in_between() {
    let adapter = Downstream::default().adapter(builder());
    let last = config().circuit_breaker(CircuitBreakerConfig::new().probes(5));
    let meddler = Meddler(Mutex::new(Some((adapter.clone(), last.clone()))));
    tracing::subscriber::with_default(meddler, || {
        set(&adapter, config().circuit_breaker(corrected()));
    });
    assert_eq!(adapter.config(), last);
    let told = CircuitBreakerConfig::new().probes(5);
    assert_eq!(adapter.breaker().config(), told.dropped_fails_after(SECOND));
}

#[tokio::test(start_paused = true)]
async fn retries_are_turned_on_and_off() {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    let copies = Arc::new(AtomicU64::new(0));
    let copied = copies.clone();
    let adapter: Adapter<String, String> = builder()
        .repeatable(move |request: &String| {
            copied.fetch_add(1, Relaxed);
            Some(request.clone())
        })
        .function(move |_: String| {
            counted.fetch_add(1, Relaxed);
            async { Text::Err("no".into()) }
        })
        .unwrap();
    let retry = RetryConfig::new().floor(0).percent(100.0).retries(1);
    let quiet = config().circuit_breaker(CircuitBreakerConfig::new().failure_rate(None));
    for (retry, attempts) in [
        (None, 1),
        (Some(retry), 2),
        (Some(retry.percent(0.0)), 1),
        (None, 1),
        (Some(retry.floor(1)), 2),
    ] {
        set(&adapter, quiet.clone().retry(retry));
        calls.store(0, Relaxed);
        copies.store(0, Relaxed);
        adapter.call("x".into()).await.unwrap_err();
        let asked = u64::from(retry.is_some());
        assert_eq!(copies.load(Relaxed), asked, "nobody asks in vain");
        assert_eq!(calls.load(Relaxed), attempts, "{retry:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn closed_adapter_stays_closed() {
    let adapter = Downstream::default().adapter(builder().max_in_flight(1));
    let mut running = spawn(adapter.call("running".into()));
    let mut waiting = spawn(adapter.call("waiting".into()));
    assert_pending!(running.poll());
    assert_pending!(waiting.poll());
    adapter.bounded().close(Instant::now() + SECOND).await;
    set(&adapter, config().max_in_flight(9));
    assert_eq!(refused(&adapter, "late"), RejectReason::ShuttingDown);
    assert_eq!(
        reason(&assert_ready_err!(waiting.poll())),
        RejectReason::ShuttingDown
    );
    drop(running);
    assert_idle(&adapter);
}

#[tokio::test(start_paused = true)]
async fn smaller_history_is_looked_at_by_the_threshold_at_once() {
    let adapter = builder().function(|request: String| async { Text::Ok(request) });
    let adapter = adapter.unwrap();
    let adapters = Adapters::new([adapter.clone()]).unwrap();
    adapters
        .record_threshold(RecordThreshold::Share(0.5))
        .unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let alerts = told.clone();
    adapters.on_record_alert(move |_| {
        alerts.fetch_add(1, Relaxed);
    });
    for _ in 0..100 {
        adapter.call("x".into()).await.unwrap();
    }
    let history = HistoryConfig::local().calls(100).transitions(1);
    set(
        &adapter,
        config().circuit_breaker(CircuitBreakerConfig::new().history(history)),
    );
    assert_eq!(told.load(Relaxed), 1, "100 are more than half of 101");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn limits_that_change_under_load_neither_lose_slots_nor_let_too_many_in() {
    const MOST: usize = 6;
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (counted, peak) = (running.clone(), most.clone());
    let limits = |slots| {
        config()
            .max_in_flight(slots)
            .max_queued(1_000)
            .timeout(3_600 * SECOND)
            .queue_timeout(3_600 * SECOND)
    };
    let adapter: Adapter<String, String> = builder()
        .config(limits(MOST))
        .function(move |request: String| {
            let (counted, peak) = (counted.clone(), peak.clone());
            async move {
                peak.fetch_max(counted.fetch_add(1, Relaxed) + 1, Relaxed);
                tokio::task::yield_now().await;
                counted.fetch_sub(1, Relaxed);
                Text::Ok(request)
            }
        })
        .unwrap();
    let changing = [1, 2].map(|seed| {
        let adapter = adapter.clone();
        thread::spawn(move || {
            for n in 0..300 {
                set(&adapter, limits(1 + n * seed % MOST));
            }
        })
    });
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let adapter = adapter.clone();
            tokio::spawn(async move {
                for _ in 0..300 {
                    adapter.call("x".into()).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    for thread in changing {
        thread.join().unwrap();
    }
    assert!(most.load(Relaxed) <= MOST);
    assert_eq!(assert_idle(&adapter).succeeded, 6_000);
    set(&adapter, limits(4));
    assert_eq!(adapter.config(), limits(4));
    assert_eq!(adapter.snapshot().max_in_flight, 4);
}
