//! What all histories hold, and what happens when that is too much.

use crate::support::{SECOND, Text, echo};
use plimsoll_adapter::{Adapter, Adapters, RecordAlert, RecordThreshold};
use plimsoll_breaker::{CircuitBreakerConfig, HistoryConfig, State};
use plimsoll_core::{Holding, RemovalReason, test_util::assert_balanced};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, advance};

type Alerts = Arc<Mutex<Vec<RecordAlert>>>;

fn adapter(name: &str, history: HistoryConfig) -> Adapter<String, String> {
    let circuit = CircuitBreakerConfig::new().history(history);
    let builder = Adapter::builder(name).circuit_breaker(circuit);
    builder
        .function(|request| async { Text::Ok(request) })
        .unwrap()
}

fn set(histories: &[HistoryConfig]) -> (Adapters<String, String>, Alerts) {
    let adapters = histories.iter().enumerate();
    let adapters = adapters.map(|(n, history)| adapter(&format!("r{n}"), *history));
    let adapters = Adapters::new(adapters).unwrap();
    let alerts = Alerts::default();
    let told = alerts.clone();
    adapters.on_record_alert(move |alert| told.lock().unwrap().push(*alert));
    (adapters, alerts)
}

async fn calls(adapters: &Adapters<String, String>, name: &str, calls: usize) {
    for _ in 0..calls {
        adapters.call(name, String::new()).await.unwrap();
    }
}

fn held(adapters: &Adapters<String, String>) -> u64 {
    let all = adapters.list().into_iter();
    all.map(|adapter| adapter.bounded().usage().entries).sum()
}

#[tokio::test(start_paused = true)]
async fn summary_is_the_sum_of_what_the_adapters_hold() {
    let local = HistoryConfig::local();
    let (adapters, _) = set(&[
        local,
        local.calls(50).transitions(7),
        HistoryConfig::network(),
    ]);
    calls(&adapters, "r0", 100).await;
    calls(&adapters, "r1", 80).await;
    calls(&adapters, "r2", 10).await;
    adapters.get("r2").unwrap().breaker().force_open();
    let summary = adapters.memory_summary();
    assert_eq!((summary.calls, summary.transitions), (160, 1));
    assert_eq!(summary.records(), held(&adapters));
    let bytes: u64 = adapters
        .list()
        .iter()
        .map(|a| a.bounded().usage().bytes)
        .sum();
    assert_eq!(summary.bytes, bytes);
    assert_eq!(summary.threshold, Some((11_000 + 57 + 5_500) * 8 / 10));
    let [_, second, third] = &summary.adapters[..] else {
        panic!("there are three");
    };
    assert_eq!(
        (second.name.as_str(), second.calls, second.max_calls),
        ("r1", 50, 50)
    );
    assert_eq!((second.transitions, second.max_transitions), (0, 7));
    assert_eq!((third.transitions, third.max_transitions), (1, 500));
    assert_eq!(third.cleanup_interval, Duration::from_secs(1_800));
    assert_eq!(third.retention, Duration::from_secs(12 * 3_600));
    assert_eq!((third.last_cleanup, third.queued_bytes), (None, 0));
    assert_eq!(third.bytes, adapters.get("r2").unwrap().breaker().bytes());
}

#[tokio::test(start_paused = true)]
async fn one_history_or_all_are_cleaned_up_by_hand() {
    let brief = HistoryConfig::local().retention(60 * SECOND);
    let (adapters, _) = set(&[brief, brief]);
    calls(&adapters, "r0", 5).await;
    calls(&adapters, "r1", 7).await;
    advance(61 * SECOND).await;
    let removed = adapters.cleanup("r0").unwrap();
    assert_eq!(removed.get(RemovalReason::Expired), 5);
    advance(3 * SECOND).await;
    let summary = adapters.memory_summary();
    assert_eq!(summary.adapters[0].last_cleanup, Some(3 * SECOND));
    assert_eq!(summary.adapters[1].last_cleanup, None);
    let removed = adapters.cleanup_all();
    let removed: Vec<_> = removed
        .iter()
        .map(|(n, r)| (n.as_str(), r.total()))
        .collect();
    assert_eq!(removed, [("r0", 0), ("r1", 7)]);
    let error = adapters.cleanup("nobody").unwrap_err();
    assert_eq!(
        (error.name(), &*error.to_string()),
        ("nobody", "there is no adapter nobody")
    );
    for adapter in adapters.list() {
        assert_balanced(&adapter);
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_records_are_trimmed_and_told_once_per_crossing() {
    let (adapters, alerts) = set(&[HistoryConfig::local(), HistoryConfig::local()]);
    adapters
        .record_threshold(RecordThreshold::Records(1_000))
        .unwrap();
    for round in 1..=3 {
        while alerts.lock().unwrap().len() < round {
            calls(&adapters, "r0", 3).await;
            calls(&adapters, "r1", 1).await;
            assert!(held(&adapters) <= 1_000 + 2 * 64, "it is noticed in time");
        }
        let alert = alerts.lock().unwrap()[round - 1];
        assert!(
            alert.records > 1_000 && alert.records <= 1_000 + 2 * 64,
            "{alert:?}"
        );
        assert_eq!((alert.threshold, alert.expired), (1_000, 0));
        assert_eq!(alert.records - alert.trimmed, alert.remaining);
        assert!((790..=800).contains(&alert.remaining), "{alert:?}");
        let summary = adapters.memory_summary();
        assert!(summary.records() <= 804);
        // Each gave up the same share.
        let [first, second] = &summary.adapters[..] else {
            panic!("there are two");
        };
        assert!(first.calls > 2 * second.calls && first.calls < 4 * second.calls);
        assert_eq!(alerts.lock().unwrap().len(), round, "not again");
    }
    for adapter in adapters.list() {
        assert_balanced(&adapter);
    }
}

/// Has a breaker change its state so many times.
fn transitions(adapters: &Adapters<String, String>, name: &str, times: usize) {
    let adapter = adapters.get(name).unwrap();
    for n in 0..times {
        match n % 2 {
            0 => adapter.breaker().force_open(),
            _ => adapter.breaker().close(),
        }
    }
}

/// Calls and transitions that each adapter keeps.
fn kept(adapters: &Adapters<String, String>) -> Vec<(u64, u64)> {
    let summary = adapters.memory_summary();
    let adapters = summary.adapters.iter();
    adapters.map(|a| (a.calls, a.transitions)).collect()
}

#[tokio::test(start_paused = true)]
async fn calls_of_all_go_before_any_transition() {
    let (adapters, alerts) = set(&[HistoryConfig::local(); 2]);
    transitions(&adapters, "r0", 4);
    transitions(&adapters, "r1", 6);
    adapters
        .record_threshold(RecordThreshold::Records(100))
        .unwrap();
    // As long as calls keep coming, and however often they are too many.
    for _ in 0..20 {
        calls(&adapters, "r0", 60).await;
        calls(&adapters, "r1", 20).await;
        let kept = kept(&adapters);
        assert_eq!((kept[0].1, kept[1].1), (4, 6), "{kept:?}");
    }
    assert!(alerts.lock().unwrap().len() > 10);
    // 80 records are left: the 10 transitions, and calls as they were shared.
    calls(&adapters, "r0", 64).await;
    let alert = *alerts.lock().unwrap().last().unwrap();
    assert!((78..=80).contains(&alert.remaining), "{alert:?}");
    for adapter in adapters.list() {
        assert_balanced(&adapter);
    }
}

#[tokio::test(start_paused = true)]
async fn transitions_go_where_there_are_too_many_of_these_alone() {
    let (adapters, alerts) = set(&[HistoryConfig::local(); 2]);
    transitions(&adapters, "r0", 60);
    transitions(&adapters, "r1", 30);
    calls(&adapters, "r1", 0).await;
    adapters.get("r0").unwrap().breaker().close();
    calls(&adapters, "r0", 30).await;
    assert_eq!(kept(&adapters), [(30, 60), (0, 30)]);
    adapters
        .record_threshold(RecordThreshold::Records(100))
        .unwrap();
    assert_eq!(kept(&adapters), [(0, 53), (0, 26)]);
    let alert = alerts.lock().unwrap()[0];
    assert_eq!(
        (alert.records, alert.trimmed, alert.remaining),
        (120, 41, 79)
    );
    // The youngest are left.
    let adapter = adapters.get("r0").unwrap();
    assert_eq!(adapter.breaker().state(), State::Closed);
    for adapter in adapters.list() {
        assert_balanced(&adapter);
    }
}

#[tokio::test(start_paused = true)]
async fn threshold_itself_is_not_too_many() {
    let (adapters, alerts) = set(&[HistoryConfig::local()]);
    adapters
        .record_threshold(RecordThreshold::Records(20))
        .unwrap();
    calls(&adapters, "r0", 20).await;
    assert_eq!(adapters.memory_summary().records(), 20);
    assert!(alerts.lock().unwrap().is_empty());
    calls(&adapters, "r0", 1).await;
    assert_eq!(adapters.memory_summary().records(), 16);
    assert_eq!(alerts.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn expired_records_go_before_the_oldest() {
    let (adapters, alerts) = set(&[HistoryConfig::local().retention(60 * SECOND)]);
    adapters
        .record_threshold(RecordThreshold::Records(40))
        .unwrap();
    calls(&adapters, "r0", 30).await;
    advance(61 * SECOND).await;
    calls(&adapters, "r0", 11).await;
    assert_eq!(adapters.memory_summary().records(), 11);
    let alert = alerts.lock().unwrap()[0];
    assert_eq!((alert.records, alert.expired, alert.trimmed), (41, 30, 0));
    assert_eq!(alert.remaining, 11);
}

#[tokio::test(start_paused = true)]
async fn sweep_looks_too() {
    let (adapters, alerts) = set(&[HistoryConfig::local(), HistoryConfig::local()]);
    adapters
        .record_threshold(RecordThreshold::Records(20))
        .unwrap();
    calls(&adapters, "r0", 25).await;
    assert!(alerts.lock().unwrap().is_empty());
    let other = adapters.get("r1").unwrap().bounded();
    let _ = other.sweep(Instant::now(), 1_000);
    assert_eq!(alerts.lock().unwrap().len(), 1);
    assert_eq!(held(&adapters), 16);
}

#[tokio::test(start_paused = true)]
async fn default_threshold_is_four_fifths_of_the_caps() {
    let small = HistoryConfig::local().calls(90).transitions(10);
    let (adapters, alerts) = set(&[small, HistoryConfig::disabled()]);
    calls(&adapters, "r0", 80).await;
    assert_eq!(adapters.memory_summary().threshold, Some(80));
    assert!(alerts.lock().unwrap().is_empty());
    calls(&adapters, "r0", 1).await;
    assert_eq!(adapters.memory_summary().records(), 64);
    // Without a cap there is nothing to take a share of.
    adapters
        .add(adapter("endless", HistoryConfig::local().calls(0)))
        .unwrap();
    assert_eq!(adapters.memory_summary().threshold, None);
    adapters.remove("endless");
    adapters
        .add(adapter(
            "endless",
            HistoryConfig::local().calls(0).transitions(0),
        ))
        .unwrap();
    assert_eq!(adapters.memory_summary().threshold, None);
    adapters.record_threshold(RecordThreshold::Off).unwrap();
    calls(&adapters, "r0", 20).await;
    assert_eq!(adapters.memory_summary().adapters[0].calls, 84);
}

#[tokio::test(start_paused = true)]
async fn threshold_out_of_range_is_refused_and_changes_nothing() {
    let (adapters, _) = set(&[HistoryConfig::local()]);
    let bad = [0.0, -1.0, 1.01, f64::NAN].map(RecordThreshold::Share);
    for threshold in bad.into_iter().chain([RecordThreshold::Records(0)]) {
        let error = adapters.record_threshold(threshold).unwrap_err();
        assert_eq!(error.problems()[0].field, "record_threshold");
        let expected = "must be at least 1, or a share above 0% and at most 100%";
        assert!(error.to_string().ends_with(expected), "{error}");
    }
    assert_eq!(adapters.memory_summary().threshold, Some(8_800));
    adapters
        .record_threshold(RecordThreshold::Share(1.0))
        .unwrap();
    assert_eq!(adapters.memory_summary().threshold, Some(11_000));
}

#[tokio::test(start_paused = true)]
async fn callback_that_panics_is_called_again() {
    let adapters = Adapters::new([echo("a")]).unwrap();
    adapters
        .record_threshold(RecordThreshold::Records(5))
        .unwrap();
    let told = Arc::new(Mutex::new(0));
    let counted = told.clone();
    adapters.on_record_alert(move |_| {
        *counted.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        panic!("told to");
    });
    for _ in 0..2 {
        calls(&adapters, "a", 6).await;
        let _ = adapters.memory_summary();
    }
    assert_eq!(*told.lock().unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn another_callback_is_called_as_well_whatever_the_first_does() {
    let adapters = Adapters::new([echo("a")]).unwrap();
    adapters
        .record_threshold(RecordThreshold::Records(5))
        .unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    for name in ["replaced", "other"] {
        let told = told.clone();
        adapters.also_on_record_alert(move |alert| {
            told.lock().unwrap().push(format!("{name}: {alert}"));
        });
    }
    adapters.on_record_alert(|_| panic!("told to"));
    calls(&adapters, "a", 6).await;
    let _ = adapters.memory_summary();
    let expected = "other: 6 records of calls and transitions were kept, of 5 that may be: 0 that \
                    were too old and 2 of the oldest were dropped, 4 are left";
    assert_eq!(*told.lock().unwrap(), [expected]);
}

#[tokio::test(start_paused = true)]
async fn adapters_that_left_are_neither_counted_nor_trimmed() {
    let (adapters, alerts) = set(&[HistoryConfig::local(), HistoryConfig::local()]);
    adapters
        .record_threshold(RecordThreshold::Records(100))
        .unwrap();
    let gone = adapters.remove("r0").unwrap();
    for _ in 0..300 {
        gone.call(String::new()).await.unwrap();
    }
    assert_eq!(adapters.memory_summary().records(), 0);
    let replaced = adapters
        .replace(adapter("r1", HistoryConfig::local()))
        .unwrap();
    for _ in 0..300 {
        replaced.call(String::new()).await.unwrap();
    }
    assert_eq!(adapters.memory_summary().records(), 0);
    calls(&adapters, "r1", 130).await;
    assert_eq!(alerts.lock().unwrap().len(), 1, "the new one is");
    assert_eq!(gone.bounded().usage().entries, 300);
}

#[tokio::test(start_paused = true)]
async fn calls_on_an_adapter_that_left_make_nobody_look() {
    let (adapters, alerts) = set(&[HistoryConfig::local(), HistoryConfig::local()]);
    let threshold = RecordThreshold::Records(20);
    adapters.record_threshold(threshold).unwrap();
    let gone = adapters.remove("r0").unwrap();
    calls(&adapters, "r1", 25).await;
    for _ in 0..64 {
        gone.call(String::new()).await.unwrap();
    }
    assert!(alerts.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn crossing_is_noticed_with_the_batch_it_comes_with() {
    let (adapters, alerts) = set(&[HistoryConfig::local()]);
    let threshold = RecordThreshold::Records(63);
    adapters.record_threshold(threshold).unwrap();
    calls(&adapters, "r0", 63).await;
    assert!(alerts.lock().unwrap().is_empty());
    calls(&adapters, "r0", 1).await;
    assert_eq!(alerts.lock().unwrap()[0].records, 64);
}

#[tokio::test(start_paused = true)]
async fn records_that_an_adapter_comes_with_count() {
    let (adapters, alerts) = set(&[HistoryConfig::local()]);
    let threshold = RecordThreshold::Records(100);
    adapters.record_threshold(threshold).unwrap();
    let late = adapter("late", HistoryConfig::local());
    for _ in 0..60 {
        late.call(String::new()).await.unwrap();
    }
    adapters.add(late).unwrap();
    calls(&adapters, "r0", 64).await;
    assert_eq!(alerts.lock().unwrap()[0].records, 124);
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_are_in_the_summary() {
    let adapter = Adapter::builder("waits")
        .max_in_flight(1)
        .max_queued_bytes(100, |request: &String| request.len() as u64)
        .function(|_: String| std::future::pending::<Text>())
        .unwrap();
    let adapters = Adapters::new([adapter.clone()]).unwrap();
    let mut running = tokio_test::task::spawn(adapter.call("x".into()));
    let mut waiting = tokio_test::task::spawn(adapter.call("four".into()));
    tokio_test::assert_pending!(running.poll());
    tokio_test::assert_pending!(waiting.poll());
    let summary = adapters.memory_summary();
    assert_eq!(summary.adapters[0].queued_bytes, 4);
    assert_eq!(summary.bytes, adapter.breaker().bytes() + 4);
}

#[tokio::test(start_paused = true)]
async fn lower_threshold_and_a_cleanup_by_hand_look_at_once() {
    let (adapters, alerts) = set(&[HistoryConfig::local()]);
    calls(&adapters, "r0", 25).await;
    let threshold = RecordThreshold::Records(20);
    adapters.record_threshold(threshold).unwrap();
    assert_eq!(alerts.lock().unwrap().len(), 1);
    calls(&adapters, "r0", 5).await;
    adapters.cleanup_all();
    assert_eq!(alerts.lock().unwrap().len(), 2);
    assert_eq!(held(&adapters), 16);
}
