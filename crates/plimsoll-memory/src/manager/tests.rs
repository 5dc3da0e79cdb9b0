use super::*;
use crate::{
    PressureLevel::{Critical, Elevated, High, Normal, Unknown},
    Signals,
    monitor::script::{WAIT, script, until},
};
use plimsoll_core::test_util::FakeHolding;
use std::sync::mpsc;

const MIB: u64 = 1 << 20;

#[test]
fn a_sample_is_seen_by_all_handles_and_changes_are_told() {
    let (script, source) = script();
    let builder = MemoryManager::builder(MonitorConfig::new()).source(source);
    let (memory, guard) = builder.start().unwrap();
    assert_eq!(
        (memory.pressure(), memory.level()),
        (Pressure::UNKNOWN, Unknown)
    );
    assert_eq!(memory.headroom(), None);
    let (tell, changes) = mpsc::channel();
    memory
        .on_pressure(move |change| tell.send((change.from, change.to)).unwrap())
        .unwrap();
    let (tell, alerts) = mpsc::channel();
    memory
        .on_alert(move |alert: &Alert| tell.send(alert.kind).unwrap())
        .unwrap();
    script.used(450);
    let other = memory.clone();
    assert_eq!(
        (other.pressure().value(), other.level()),
        (Some(0.5), Normal)
    );
    assert_eq!(other.headroom(), Some(450 * MIB));
    assert_eq!(
        other.describe(&Known::default()),
        "at ease: memory 45 % of 1000 MiB"
    );
    // Of changes that wait for a hook one is made, so this one is waited for.
    assert_eq!(changes.recv_timeout(WAIT), Ok((Unknown, Normal)));
    // Room is made first; once that is done, or it has taken half a second, the level rises.
    while memory.level() != Critical {
        script.used(950);
    }
    assert_eq!(changes.recv_timeout(WAIT), Ok((Normal, Critical)));
    assert_eq!(alerts.recv_timeout(WAIT), Ok(AlertKind::Pressure));
    let stats = memory.stats();
    let thresholds = stats.thresholds.unwrap().map(|(_, bytes)| bytes / MIB);
    assert_eq!((stats.changes, thresholds), (2, [720, 873, 900]));
    drop(guard);
    drop(script);
    until(|| memory.figures().level == Unknown);
    assert_eq!(
        (memory.pressure(), memory.level(), memory.headroom()),
        (Pressure::UNKNOWN, Unknown, None)
    );
}

#[test]
fn the_threads_end_with_the_guard_though_there_are_handles() {
    struct Told(mpsc::Sender<()>);
    impl Source for Told {
        fn sample(&mut self) -> Signals {
            Signals::default()
        }
    }
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }
    let (tell, told) = mpsc::channel();
    let config = MonitorConfig::new().interval(Duration::from_secs(60));
    let (memory, guard) = MemoryManager::builder(config)
        .source(Told(tell))
        .start()
        .unwrap();
    until(|| memory.stats().samples > 0);
    drop(guard);
    told.recv_timeout(WAIT).unwrap();
    assert_eq!(memory.reclaim(WAIT), Err(ReclaimError::Stopped));
}

#[test]
fn a_source_that_panics_is_a_sample_that_failed() {
    let (script, source) = script();
    let builder = MemoryManager::builder(MonitorConfig::new()).source(source);
    let (memory, _guard) = builder.start().unwrap();
    script.used(450);
    for _ in 0..3 {
        script.sample(None);
    }
    assert_eq!(memory.level(), Normal, "for a while");
    script.used(450);
    let stats = memory.stats();
    assert_eq!((stats.samples, stats.failed_reads, stats.panics), (5, 3, 3));
}

#[test]
fn observers_see_each_sample_and_one_that_panics_harms_nobody() {
    let (script, source) = script();
    let (tell, seen) = mpsc::channel();
    let builder = MemoryManager::builder(MonitorConfig::new()).source(source);
    let builder = builder.observe(|_, _| panic!("told to"));
    let builder = builder.observe(move |_, figures| tell.send(figures.used).unwrap());
    let (memory, _guard) = builder.start().unwrap();
    for mib in [100, 200] {
        script.used(mib);
        assert_eq!(seen.recv_timeout(WAIT), Ok(Some(mib * MIB)));
    }
    script.used(300);
    assert_eq!(memory.stats().panics, 2, "as of the sample before");
}

#[test]
fn a_source_that_waits_in_its_own_way_is_woken_in_its_own_way() {
    struct Bell {
        ring: mpsc::Sender<()>,
        rung: mpsc::Receiver<()>,
        ended: mpsc::Sender<()>,
    }
    impl Source for Bell {
        fn sample(&mut self) -> Signals {
            Signals::default()
        }

        fn wait(&mut self, _: Duration) -> bool {
            self.rung.recv().unwrap();
            true
        }

        fn waker(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
            let ring = self.ring.clone();
            Some(Box::new(move || ring.send(()).unwrap()))
        }
    }
    impl Drop for Bell {
        fn drop(&mut self) {
            self.ended.send(()).unwrap();
        }
    }
    let (ring, rung) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let source = Bell {
        ring,
        rung,
        ended: tell,
    };
    let builder = MemoryManager::builder(MonitorConfig::new()).source(source);
    let (_memory, guard) = builder.start().unwrap();
    drop(guard);
    told.recv_timeout(WAIT).unwrap();
}

#[test]
fn a_source_whose_wait_panics_does_not_go_round_and_round() {
    struct Restless(mpsc::Sender<()>);
    impl Source for Restless {
        fn sample(&mut self) -> Signals {
            self.0.send(()).unwrap();
            Signals::default()
        }

        fn wait(&mut self, _: Duration) -> bool {
            panic!("told to");
        }
    }
    let (tell, told) = mpsc::channel();
    let config = MonitorConfig::new().interval(Duration::from_secs(60));
    let builder = MemoryManager::builder(config).source(Restless(tell));
    let (memory, _guard) = builder.start().unwrap();
    told.recv_timeout(WAIT).unwrap();
    until(|| memory.stats().samples == 1);
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn too_many_tasks_are_named_with_where_they_are_spawned() {
    let lifecycle = plimsoll_core::Lifecycle::new();
    for (name, count) in [("flush", 3), ("poll", 7), ("watch", 1), ("sweep", 2)] {
        for _ in 0..count {
            let task = lifecycle.spawn(name, std::future::pending::<()>());
            task.unwrap();
        }
    }
    let (script, source) = script();
    let config = MonitorConfig::new().max_tasks(10);
    let builder = MemoryManager::builder(config).source(source);
    let groups = lifecycle.clone();
    let (memory, _guard) = builder.tasks(move || groups.tasks()).start().unwrap();
    let (tell, told) = mpsc::channel();
    let hook = move |alert: &Alert| tell.send(alert.text.clone()).unwrap();
    memory.on_alert(hook).unwrap();
    let alive = |tasks| {
        script.sample(Some(Signals {
            tasks: Some(tasks),
            ..Signals::default()
        }));
    };
    alive(9);
    alive(13);
    let site = lifecycle.tasks()[0].site;
    let site = format!("(spawned at {}:{})", site.file(), site.line());
    assert!(site.contains("tests.rs:"), "{site}");
    assert_eq!(
        told.recv_timeout(WAIT).unwrap(),
        format!(
            "13 tasks are alive, 10 are expected at the most, the most of them \
             7 poll {site}, 3 flush {site}, 2 sweep {site}"
        )
    );
    // It is told once, and its end needs no names.
    alive(14);
    alive(8);
    assert_eq!(
        told.recv_timeout(WAIT).unwrap(),
        "no more than 8 tasks are alive any longer"
    );
    assert_eq!(memory.stats().hooks.alerts, 2);
}

#[test]
fn too_many_tasks_are_told_of_though_whoever_names_them_panics() {
    let (script, source) = script();
    let config = MonitorConfig::new().max_tasks(10);
    let builder = MemoryManager::builder(config).source(source);
    let (memory, _guard) = builder.tasks(|| panic!("told to")).start().unwrap();
    let (tell, told) = mpsc::channel();
    let hook = move |alert: &Alert| tell.send(alert.text.clone()).unwrap();
    memory.on_alert(hook).unwrap();
    script.sample(Some(Signals {
        tasks: Some(10),
        ..Signals::default()
    }));
    assert_eq!(
        told.recv_timeout(WAIT).unwrap(),
        "10 tasks are alive, 10 are expected at the most"
    );
    assert_eq!(memory.stats().panics, 1);
}

#[test]
fn the_allocator_is_asked_soon_while_that_relieves_and_not_otherwise() {
    let (script, source) = script();
    // It would not be asked by the level for a day.
    let config = MonitorConfig::new().purge_gap(Duration::from_secs(86_400));
    let builder = MemoryManager::builder(config).source(source);
    let more = AtomicU64::new(0);
    let builder = builder.relieve_when(move |figures| {
        // More than it would not give back the last time.
        let kept = more.fetch_add(10 * MIB, Relaxed);
        (figures.used > Some(500 * MIB)).then_some(kept)
    });
    let (memory, _guard) = builder.start().unwrap();
    for _ in 0..5 {
        script.used(400);
    }
    assert_eq!(memory.stats().purges, 0);
    until(|| {
        script.used(600);
        memory.stats().purges >= 3
    });
    let purges = memory.stats().purges;
    for _ in 0..5 {
        script.used(400);
    }
    assert_eq!(memory.stats().purges, purges);
}

#[test]
fn room_is_made_on_demand_with_its_report() {
    let registry = Registry::new();
    let held = registry
        .register(FakeHolding::new("old", Duration::ZERO))
        .unwrap();
    held.insert(50);
    let builder = MemoryManager::builder(MonitorConfig::new()).registry(registry);
    let (memory, _guard) = builder.start().unwrap();
    let report = memory.reclaim(WAIT).unwrap();
    assert_eq!((report.why.as_str(), report.freed.expired), ("manual", 50));
    assert_eq!((held.held(), report.freed.purges), (0, 1));
    if cfg!(target_os = "linux") {
        assert!(report.before > Some(0) && report.after > Some(0));
    }
    let stats = memory.stats();
    assert_eq!((stats.reclaims, stats.purges), (1, 1));
    assert_eq!(stats.last_reclaim, Some(report));
    assert!(!memory.relieve(), "the allocator was asked just now");
}

#[test]
fn pressure_makes_room_by_itself() {
    let (script, source) = script();
    let registry = Registry::new();
    let held = registry
        .register(FakeHolding::new("cache", WAIT * 60))
        .unwrap();
    held.insert(1_000);
    let builder = MemoryManager::builder(MonitorConfig::new()).source(source);
    let (memory, _guard) = builder.registry(registry).start().unwrap();
    // Each round of what is asked for is told to the monitor with the sample after.
    until(|| {
        script.used(950);
        memory.stats().freed.shrunk >= 500
    });
    until(|| {
        script.used(950);
        held.held() < 100
    });
    let stats = memory.stats();
    assert_eq!(stats.freed.failed, 0);
    assert!(stats.reclaims >= 3);
}

#[test]
fn between_elevated_and_high_only_what_has_expired_goes() {
    let (script, source) = script();
    let registry = Registry::new();
    let fresh = FakeHolding::new("fresh", WAIT * 60);
    let fresh = registry.register(fresh).unwrap();
    let stale = FakeHolding::new("stale", Duration::ZERO);
    let stale = registry.register(stale).unwrap();
    fresh.insert(1_000);
    let builder = MemoryManager::builder(MonitorConfig::new()).source(source);
    let (memory, _guard) = builder.registry(registry).start().unwrap();
    stale.insert(100);
    until(|| {
        script.used(872);
        memory.level() == Elevated && stale.held() == 0
    });
    // What is asked for by that level is done with by now.
    let done = memory.stats().reclaims;
    memory
        .reconfigure(MonitorConfig::new().purge_gap(Duration::from_millis(100)))
        .unwrap();
    until(|| {
        script.used(872);
        memory.stats().reclaims >= done + 3
    });
    let freed = memory.stats().freed;
    assert_eq!((freed.expired, freed.shrunk, fresh.held()), (100, 0, 1_000));
    until(|| {
        script.used(873);
        memory.stats().freed.shrunk > 0
    });
    assert_eq!(memory.level(), High);
}

#[test]
fn settings_change_while_it_runs_or_not_at_all() {
    let (script, source) = script();
    let builder = MemoryManager::builder(MonitorConfig::new()).source(source);
    let (memory, _guard) = builder.start().unwrap();
    script.used(450);
    assert!(memory.reconfigure(MonitorConfig::new().line(0.0)).is_err());
    assert_eq!(memory.config(), MonitorConfig::new());
    let lower = MonitorConfig::new().limit(500 * MIB);
    memory.reconfigure(lower.clone()).unwrap();
    script.used(300);
    // It may have been on its way to take a sample before.
    script.used(300);
    assert_eq!(memory.figures().line, Some(450 * MIB));
    assert_eq!(memory.config(), lower);
}

#[test]
fn settings_out_of_range_start_nothing() {
    let builder = MemoryManager::builder(MonitorConfig::new().gap(99.0));
    let error = builder.start().unwrap_err();
    assert!(matches!(error, ManagerError::Config(_)), "{error:?}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.starts_with("`gap` is 99"), "{source}");
}

#[test]
fn handles_can_be_sent_and_shared() {
    fn check<T: Send + Sync>() {}
    check::<MemoryManager>();
    check::<MonitorGuard>();
    check::<Alerts>();
    check::<ReclaimReport>();
}

#[cfg(feature = "metrics")]
#[test]
fn what_is_known_is_published_and_what_is_not_has_no_figure() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let (script, source) = script();
    let builder = MemoryManager::builder(MonitorConfig::new()).source(source);
    let (memory, _guard) = builder.start().unwrap();
    let publish = || {
        metrics::with_local_recorder(&recorder, || memory.publish_metrics());
        handle.render()
    };
    let shown = publish();
    assert!(shown.contains("plimsoll_memory_pressure NaN\n"), "{shown}");
    assert!(
        shown.contains("plimsoll_memory_level{level=\"unknown\"} 1\n"),
        "{shown}"
    );
    assert!(!shown.contains("plimsoll_memory_limit_bytes "), "{shown}");
    script.used(450);
    memory.reclaim(WAIT).unwrap();
    let shown = publish();
    for line in [
        "plimsoll_memory_pressure 0.5\n",
        "plimsoll_memory_level{level=\"unknown\"} 0\n",
        "plimsoll_memory_level{level=\"normal\"} 1\n",
        "plimsoll_memory_limit_bytes 1048576000\n",
        "plimsoll_memory_used_bytes 471859200\n",
        "plimsoll_memory_samples_total 1\n",
        "plimsoll_memory_reclaims_total 1\n",
        "plimsoll_memory_purges_total 1\n",
        "plimsoll_memory_reclaimed_entries_total{step=\"would_cancel\"} 0\n",
    ] {
        assert!(shown.contains(line), "{line}{shown}");
    }
}
