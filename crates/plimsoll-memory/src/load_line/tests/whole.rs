//! All of it, with its threads.

use super::*;
use crate::{
    MonitorConfig,
    PressureLevel::{Critical, Elevated, Normal, Unknown},
    Signals,
    verdict::Sensitivity,
};

#[test]
fn one_sentence_says_how_all_of_it_is() {
    let admission = Admission::with_config(&enforcing()).unwrap();
    let export = admission.route(Name::from_static("/export"));
    refuse(&admission, &export);
    let config = MemoryConfig::new().admission(enforcing());
    let builder = LoadLine::builder(&config).admission(admission);
    let held = Arc::new(AtomicU64::new(220 * MIB));
    let builder = builder.holders("routes", tell(LEAKS, &held));
    let (line, guard, script, _) = started(builder);
    until(|| {
        script.used(850);
        line.describe() == "shedding /export: memory 85 % of 1000 MiB, /demo/leak holds 220 MiB"
    });
    assert!(line.is_shedding());
    drop(guard);
    drop(script);
    until(|| {
        let text = line.describe();
        // Held, once that was a while ago.
        text.contains(": neither memory nor limit known, /demo/leak h")
    });
}

#[test]
fn a_holding_that_does_not_answer_stops_neither_the_monitor_nor_admission() {
    let registry = Registry::new();
    let lock = Lock::default();
    let cache = registry.register(lock.holding("cache")).unwrap();
    lock.set(true);
    let config = MemoryConfig::new().admission(enforcing());
    let builder = LoadLine::builder(&config).registry(registry);
    let (line, guard, script, gauge) = started(builder);
    // Whoever looks would wait for it here.
    for used in [100, 200, 300] {
        script.used(used);
        gauge.0.store(used * MIB, Relaxed);
        assert_eq!(line.manager().figures().used, Some(used * MIB));
        assert_eq!(line.admission().stats().line, Some(900 * MIB));
    }
    let route = line.admission().route(Name::from_static("/hello"));
    let answer = route.admit(&Ask::default());
    assert!(!matches!(answer, Admitted::Refused(_)), "{answer:?}");
    until(|| {
        script.used(950);
        line.manager().level() == Critical
    });
    assert!(line.admission().stats().shed > 0.0);
    until(|| {
        script.used(950);
        line.manager().stats().samples > 10
    });
    assert!(!line.history(Resolution::HalfMinute).is_empty());
    assert!(!line.describe().contains("cache holds"));
    // It comes back, and all of them are known.
    lock.set(false);
    until(|| {
        script.used(950);
        line.describe().contains("cache holds 400 MiB")
    });
    drop((guard, script, cache));
}

#[test]
fn the_line_of_admission_follows_a_limit_that_shrinks() {
    let config = MemoryConfig::new().admission(enforcing());
    let (line, guard, script, gauge) = started(LoadLine::builder(&config));
    let limited = |limit: u64| {
        gauge.0.store(300 * MIB, Relaxed);
        script.sample(Some(Signals {
            limit: Some(limit * MIB),
            resident: Some(300 * MIB),
            ..Signals::default()
        }));
        line.admission().stats()
    };
    let stats = limited(1_000);
    assert_eq!((stats.line, stats.shed), (Some(900 * MIB), 0.0));
    assert_eq!(stats.used, Some(300 * MIB), "by the meter");
    let stats = limited(400);
    assert_eq!((stats.line, stats.shed), (Some(360 * MIB), 0.0));
    // It is below what is used: all is refused but what has high priority.
    let stats = limited(200);
    assert_eq!((stats.line, stats.shed), (Some(180 * MIB), 1.0));
    let stats = limited(1_000);
    assert_eq!((stats.line, stats.shed), (Some(900 * MIB), 0.0));
    // Nobody is kept out by what nobody looks at.
    drop(guard);
    drop(script);
    until(|| line.admission().stats().line.is_none());
}

#[test]
fn a_bad_setting_changes_nothing_and_good_ones_count() {
    let (line, _guard, script, _) = started(LoadLine::builder(&MemoryConfig::new()));
    script.used(700);
    let parts = || {
        (
            line.manager().config(),
            line.admission().config(),
            line.leaks_config(),
        )
    };
    let before = parts();
    let good = MonitorConfig::new().line(50.0);
    for (config, named) in [
        (
            MemoryConfig::new().monitor(MonitorConfig::new().line(0.0)),
            "line",
        ),
        (
            MemoryConfig::new()
                .monitor(good.clone())
                .admission(enforcing().quantile(2.0)),
            "quantile",
        ),
        (
            MemoryConfig::new()
                .monitor(good.clone())
                .leaks(LeakConfig::new().max_names(1 << 20)),
            "max_names",
        ),
    ] {
        let error = line.reconfigure(&config).unwrap_err();
        let problem = &error.problems()[0];
        assert!(problem.field.to_string().ends_with(named), "{error}");
        assert_eq!(parts(), before, "{named}");
    }
    let off = LeakConfig::new().sensitivity(Sensitivity::Off);
    let config = MemoryConfig::new()
        .monitor(good.clone())
        .admission(enforcing())
        .leaks(off.clone());
    line.reconfigure(&config).unwrap();
    assert_eq!(parts(), (good, enforcing(), off));
    // The sample that is on its way may be of before.
    script.used(700);
    script.used(700);
    assert_eq!(line.manager().figures().line, Some(500 * MIB));
    assert_eq!(line.admission().stats().line, Some(500 * MIB));
    let mut findings = line.known();
    let (names, now) = (findings.leaks.len(), Instant::now());
    findings.leaks.observe(now, LeakKind::Route, LEAKS, 1, None);
    assert_eq!(findings.leaks.len(), names, "nothing is looked at any more");
}

#[test]
fn settings_out_of_range_start_nothing() {
    let config = MemoryConfig::new().leaks(LeakConfig::new().max_names(1 << 20));
    let error = LoadLine::builder(&config).start().unwrap_err();
    assert!(matches!(error, ManagerError::Config(_)), "{error:?}");
}

#[test]
fn who_panics_when_asked_what_is_held_ends_nothing() {
    let builder = LoadLine::builder(&MemoryConfig::new());
    let builder = builder.holders("odd", |_| panic!("told to"));
    let (line, _guard, script, _) = started(builder);
    for used in [100, 740, 740, 740] {
        script.used(used);
    }
    until(|| {
        script.used(740);
        line.manager().level() == Elevated && line.holders().panics > 0
    });
    assert!(!line.history(Resolution::HalfMinute).is_empty());
    assert_eq!(line.admission().stats().line, Some(900 * MIB));
}

#[test]
fn the_threads_end_with_the_guard_and_then_nothing_is_known() {
    let admission = Admission::new();
    let builder = LoadLine::builder(&MemoryConfig::new()).admission(admission.clone());
    let (line, guard, script, _) = started(builder);
    script.used(100);
    assert_eq!(line.manager().level(), Normal);
    let other = line.clone();
    drop(guard);
    drop(script);
    until(|| other.manager().figures() == MemoryFigures::UNKNOWN);
    until(|| admission.stats().line.is_none());
    let memory = other.manager();
    assert_eq!((memory.level(), memory.headroom()), (Unknown, None));
    assert!(other.manager().reclaim(WAIT).is_err());
    // What was seen is still there.
    assert_eq!(other.history(Resolution::HalfMinute).len(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn on_this_machine_it_finds_a_limit() {
    let (line, _guard) = LoadLine::builder(&MemoryConfig::new()).start().unwrap();
    until(|| line.manager().figures().limit.is_some());
    until(|| line.admission().stats().line.is_some());
    let figures = line.manager().figures();
    assert!(figures.used > Some(0) && figures.line < figures.limit);
    // By its meter, which is asked once there is a line.
    until(|| line.admission().stats().used > Some(0));
    let text = line.describe();
    assert!(
        text.contains(": memory ") && text.contains(" % of "),
        "{text}"
    );
}

#[cfg(feature = "metrics")]
#[test]
fn what_is_known_of_holders_and_leaks_is_published() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let (line, _guard, script, _) = started(LoadLine::builder(&MemoryConfig::new()));
    until(|| {
        script.used(100);
        line.holders().rounds > 0
    });
    metrics::with_local_recorder(&recorder, || line.publish_metrics());
    let shown = handle.render();
    for series in [
        "plimsoll_memory_leaks{kind=\"holding\"} 0\n",
        "plimsoll_memory_holders_age_seconds ",
        "plimsoll_memory_holders_silent 0\n",
        "plimsoll_memory_holders_panics_total 0\n",
        "plimsoll_memory_holders_left_behind_total 0\n",
        "plimsoll_memory_holders_rounds_total ",
    ] {
        assert!(shown.contains(series), "{series}{shown}");
    }
}
