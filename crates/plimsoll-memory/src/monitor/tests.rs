use super::*;
use crate::PressureLevel::{Critical, Elevated, High, Normal, Unknown};

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
const QUARTER: Duration = Duration::from_millis(250);

/// A monitor, its clock, and what it is told.
struct Bench {
    monitor: Monitor,
    now: Instant,
    signals: Signals,
    /// Whether whoever makes room comes back before the next sample.
    makes_room: bool,
}

impl Bench {
    /// A limit of 1000 MiB, and a line at 900.
    fn new() -> Self {
        Self::with(MonitorConfig::new())
    }

    fn with(config: MonitorConfig) -> Self {
        let now = Instant::now();
        Self {
            monitor: Monitor::new(config, now),
            now,
            signals: Signals {
                limit: Some(1_000 * MIB),
                resident: Some(100 * MIB),
                ..Signals::default()
            },
            makes_room: true,
        }
    }

    fn step(&mut self) -> Step {
        let step = self.monitor.step(self.now, &self.signals);
        self.now += step.wait;
        if step.ask.is_some() && self.makes_room {
            self.room_is_made();
        }
        step
    }

    fn room_is_made(&mut self) {
        self.monitor.reclaimed(self.now);
        self.monitor.purged();
    }

    fn used(&mut self, mib: u64) -> Step {
        self.signals.resident = Some(mib * MIB);
        self.step()
    }

    /// Goes on until the level changes.
    fn until_it_changes(&mut self) -> Step {
        let steps = std::iter::repeat_with(|| self.step()).take(1_000);
        let mut changes = steps.skip_while(|step| step.change.is_none());
        changes.next().expect("the level never changed")
    }

    /// Goes on for so long, and returns what was alerted, and what was asked for.
    fn go_on(&mut self, time: Duration) -> (Vec<AlertKind>, Vec<Ask>) {
        let until = self.now + time;
        let (mut alerts, mut asks) = (Vec::new(), Vec::new());
        while self.now < until {
            let step = self.step();
            alerts.extend(kinds(&step));
            asks.extend(step.ask);
        }
        (alerts, asks)
    }
}

fn kinds(step: &Step) -> Vec<AlertKind> {
    step.alerts.iter().map(|alert| alert.kind).collect()
}

fn value(step: &Step) -> f64 {
    step.figures.pressure.value().unwrap()
}

#[test]
fn a_change_is_told_once_and_a_level_holds_on_until_below_its_gap() {
    let mut bench = Bench::new();
    let first = bench.used(100);
    let change = first.change.unwrap();
    assert_eq!((change.from, change.to), (Unknown, Normal));
    assert_eq!(first.alerts, []);
    // 720 of 900 is where it begins; room is made first.
    assert_eq!(bench.used(719).change, None);
    assert_eq!(bench.used(720).figures.level, Normal);
    let step = bench.used(720);
    assert_eq!(
        (step.change.unwrap().to, kinds(&step)),
        (Elevated, vec![AlertKind::Pressure])
    );
    for _ in 0..100 {
        let step = bench.used(720);
        assert_eq!((step.change, step.figures.level), (None, Elevated));
        assert!(!kinds(&step).contains(&AlertKind::Pressure));
    }
    // It goes on to the end of the gap, 5 % below.
    bench.used(676);
    assert_eq!(bench.go_on(SECOND * 3).0, []);
    assert_eq!(bench.used(676).figures.level, Elevated);
    assert_eq!(bench.used(674).change, None);
    let step = bench.until_it_changes();
    assert_eq!(
        (step.change.unwrap().to, kinds(&step)),
        (Normal, vec![AlertKind::PressureEnded])
    );
    assert_eq!(bench.used(719).change, None);
    // The higher ones begin at 873 and at the line.
    for (used, level) in [(872, Elevated), (873, High), (899, High), (900, Critical)] {
        bench.used(used);
        assert_eq!(bench.used(used).figures.level, level, "{used}");
    }
}

#[test]
fn the_level_does_not_rise_if_room_can_be_made() {
    let mut bench = Bench::new();
    bench.used(100);
    let step = bench.used(880);
    assert_eq!((step.figures.level, step.change), (Normal, None));
    assert_eq!(step.ask.unwrap().depth, Depth::Purge);
    assert!(value(&step) > 0.97, "whoever asks is told as it is");
    let step = bench.used(300);
    assert_eq!(
        (step.figures.level, kinds(&step), step.ask),
        (Normal, vec![], None)
    );
    // A moment later it is known that there is no room to be made.
    assert_eq!(bench.used(880).change.unwrap().to, High);
}

#[test]
fn the_level_waits_for_room_to_be_made_for_half_a_second_at_the_most() {
    let mut bench = Bench::new();
    bench.makes_room = false;
    bench.used(100);
    let began = bench.now;
    assert!(bench.used(880).ask.is_some());
    let mut asks = 0;
    let step = loop {
        let step = bench.used(880);
        if step.change.is_some() {
            break step;
        }
        asks += u64::from(step.ask.is_some());
    };
    assert_eq!(asks, 0, "once is enough");
    assert_eq!(step.change.unwrap().to, High);
    let waited = bench.now.saturating_duration_since(began);
    assert!(
        (WAIT_FOR_ROOM..WAIT_FOR_ROOM * 2).contains(&waited),
        "{waited:?}"
    );
}

#[test]
fn what_the_allocator_has_free_is_no_pressure_until_it_was_asked_in_vain() {
    let mut bench = Bench::new();
    bench.signals.tracked = Some(50 * MIB);
    bench.used(100);
    // 700 MiB are free in the allocator, as far as anybody knows.
    bench.signals.tracked = Some(50 * MIB);
    bench.makes_room = false;
    let step = bench.used(800);
    assert_eq!(step.figures.reclaimable, 700 * MIB);
    assert_eq!(step.figures.headroom, Some(800 * MIB));
    assert!((value(&step) - 100.0 / 900.0).abs() < 1e-9);
    assert_eq!(step.figures.level, Normal);
    let ask = step.ask.unwrap();
    assert_eq!((ask.depth, ask.excess, ask.exact), (Depth::Purge, 0, true));
    // It did not give them back.
    bench.room_is_made();
    let step = bench.used(800);
    assert_eq!(
        (step.figures.reclaimable, step.figures.level),
        (0, Elevated)
    );
    // What is freed from now on counts again.
    bench.signals.tracked = Some(20 * MIB);
    assert_eq!(bench.used(800).figures.reclaimable, 30 * MIB);
    // As does what it gave back at last.
    bench.signals.tracked = Some(20 * MIB);
    assert_eq!(bench.used(100).figures.reclaimable, 0);
    assert_eq!(bench.used(400).figures.reclaimable, 300 * MIB);
}

#[test]
fn an_allocator_that_tells_what_it_has_free_is_believed() {
    let mut bench = Bench::new();
    bench.signals.allocator_free = Some(0);
    bench.used(100);
    bench.signals.allocator_free = Some(400 * MIB);
    let step = bench.used(750);
    assert_eq!(
        (step.figures.reclaimable, step.figures.level),
        (400 * MIB, Normal)
    );
}

#[test]
fn close_below_the_line_what_is_free_in_the_allocator_counts_as_used() {
    let mut bench = Bench::new();
    bench.makes_room = false;
    bench.signals.tracked = Some(50 * MIB);
    bench.used(100);
    for (used, pressure) in [(810, 0.0), (855, 0.5), (891, 0.9), (900, 1.0), (950, 1.0)] {
        let step = bench.used(used);
        let pressure = f64::max(pressure, 100.0 / 900.0);
        assert!(
            (value(&step) - pressure).abs() < 1e-9,
            "{used}: {}",
            value(&step)
        );
    }
}

#[test]
fn pages_of_files_are_no_pressure() {
    let mut bench = Bench::new();
    // 900 are charged to the group, 500 of them pages of files that are not in use.
    bench.signals.working_set = Some(400 * MIB);
    let step = bench.used(390);
    assert_eq!(step.figures.used, Some(400 * MIB));
    assert!((value(&step) - 400.0 / 900.0).abs() < 1e-9);
}

#[test]
fn what_nobody_has_counted_is_told_and_is_used() {
    let mut bench = Bench::new();
    bench.signals.allocator_free = Some(0);
    for (tracked, unattributed) in [(None, None), (Some(30), Some(70)), (Some(130), Some(0))] {
        bench.signals.tracked = tracked.map(|mib: u64| mib * MIB);
        let figures = bench.used(100).figures;
        assert_eq!(figures.unattributed, unattributed.map(|mib: u64| mib * MIB));
        assert_eq!(figures.used, Some(100 * MIB));
    }
    // Maps and stacks are pressure, though the allocator knows nothing of them.
    bench.signals.tracked = Some(10 * MIB);
    bench.used(880);
    assert_eq!(bench.used(880).change.unwrap().to, High);
}

#[test]
fn stalls_count_only_where_memory_is_short_anyway() {
    let mut bench = Bench::new();
    bench.signals.stall = Some(1.0);
    assert!(value(&bench.used(450)) <= 0.5);
    assert!(value(&bench.used(629)) < 0.7);
    bench.signals.stall = Some(0.1);
    assert!((value(&bench.used(675)) - 0.75).abs() < 1e-9);
    bench.signals.stall = Some(0.35);
    assert!((value(&bench.used(675)) - 0.875).abs() < 1e-9);
    bench.signals.stall = Some(0.9);
    assert!((value(&bench.used(675)) - 1.0).abs() < 1e-9);
    // And even then nothing is ended, since nothing has to go.
    let (_, asks) = bench.go_on(SECOND * 20);
    assert!(asks.iter().all(|ask| ask.excess == 0), "{asks:?}");
}

#[test]
fn tasks_and_descriptors_are_no_pressure_but_have_alerts_of_their_own() {
    let mut bench = Bench::new();
    bench.used(100);
    bench.signals.max_descriptors = Some(1_000);
    for (tasks, descriptors, alerts) in [
        (9_999, 799, vec![]),
        (10_000, 800, vec![AlertKind::Tasks, AlertKind::Descriptors]),
        (20_000, 1_000, vec![]),
        (9_001, 701, vec![]),
        (8_999, 699, vec![AlertKind::Tasks, AlertKind::Descriptors]),
        (8_999, 699, vec![]),
    ] {
        bench.signals.tasks = Some(tasks);
        bench.signals.descriptors = Some(descriptors);
        let step = bench.used(100);
        assert_eq!(kinds(&step), alerts, "{tasks} tasks");
        assert_eq!((step.figures.level, step.ask), (Normal, None));
    }
}

#[test]
fn a_sample_that_failed_changes_nothing_until_there_were_many() {
    let mut bench = Bench::new();
    bench.used(100);
    bench.used(880);
    let before = bench.used(880);
    assert_eq!(before.figures.level, High);
    bench.signals = Signals::default();
    for _ in 0..7 {
        let step = bench.step();
        assert_eq!(step.figures.pressure, before.figures.pressure);
        assert_eq!(
            (step.figures.level, kinds(&step), step.ask),
            (High, vec![], None)
        );
    }
    let step = bench.step();
    assert_eq!(step.figures.pressure, Pressure::UNKNOWN);
    assert_eq!(
        (step.change.unwrap().to, kinds(&step)),
        (Unknown, vec![AlertKind::Blind])
    );
    assert_eq!(bench.monitor.samples(), (11, 8));
    let (alerts, asks) = bench.go_on(SECOND * 600);
    assert!(
        alerts.is_empty() && asks.is_empty(),
        "nothing is done about what is not known"
    );
    bench.signals.limit = Some(1_000 * MIB);
    assert_eq!(bench.used(100).change.unwrap().to, Normal);
}

#[test]
fn without_a_limit_the_pressure_is_unknown_and_there_is_no_alert() {
    let mut bench = Bench::new();
    bench.signals.limit = None;
    let step = bench.used(100);
    assert_eq!(step.figures.pressure, Pressure::UNKNOWN);
    assert_eq!(
        (step.figures.used, step.figures.headroom),
        (Some(100 * MIB), None)
    );
    assert_eq!((step.change, kinds(&step), step.ask), (None, vec![], None));
    assert!(!step.figures.is_over());
}

#[test]
fn a_limit_that_shrinks_below_use_is_pressure_and_no_error() {
    let mut bench = Bench::new();
    bench.used(600);
    bench.signals.limit = Some(500 * MIB);
    let step = bench.used(600);
    assert_eq!(kinds(&step), [AlertKind::LimitChanged]);
    assert_eq!(step.alerts[0].severity, Severity::Warning);
    assert_eq!(step.figures.pressure, Pressure::FULL);
    assert_eq!(step.figures.headroom, Some(0));
    assert!(step.figures.is_over());
    let step = bench.used(600);
    assert_eq!(
        (step.change.unwrap().to, kinds(&step)),
        (Critical, vec![AlertKind::Pressure])
    );
    bench.signals.limit = Some(1_000 * MIB);
    let step = bench.used(600);
    assert!(step.figures.pressure.value() < Some(0.7), "at once");
    assert_eq!(kinds(&step), [AlertKind::LimitChanged]);
    let step = bench.until_it_changes();
    assert_eq!(
        (step.change.unwrap().to, kinds(&step)),
        (Normal, vec![AlertKind::PressureEnded])
    );
    bench.signals.limit = Some(0);
    assert_eq!(bench.used(600).figures.pressure, Pressure::FULL);
}

#[test]
fn between_the_line_and_the_limit_nothing_new_is_let_in() {
    let config = MonitorConfig::new().line(80.0);
    let mut bench = Bench::with(config);
    bench.signals.limit = Some(4_000 * MIB);
    for (used, over, urgent) in [
        (3_200, false, false),
        (3_201, true, true),
        (4_001, true, true),
        (3_200, false, false),
    ] {
        bench.now += SECOND * 60;
        let step = bench.used(used);
        assert_eq!(step.figures.is_over(), over, "{used}");
        let ask = step.ask.or_else(|| bench.used(used).ask).unwrap();
        assert_eq!(ask.purge_gap < SECOND, urgent, "{used}");
    }
}

#[test]
fn pressure_that_stays_is_told_again_whenever_its_time_has_doubled() {
    let mut bench = Bench::new();
    bench.used(100);
    bench.used(750);
    let began = bench.used(750);
    assert_eq!(kinds(&began), [AlertKind::Pressure]);
    let (alerts, _) = bench.go_on(SECOND * 9);
    assert_eq!(alerts, []);
    let (alerts, _) = bench.go_on(SECOND * 2);
    assert_eq!(alerts, [AlertKind::PressurePersists]);
    let (alerts, _) = bench.go_on(SECOND * 8);
    assert_eq!(alerts, []);
    // At 20, 40, 80, 160 and 320 seconds.
    let (alerts, _) = bench.go_on(SECOND * 310);
    assert_eq!(alerts, [AlertKind::PressurePersists; 5]);
    let text = bench
        .monitor
        .step(bench.now + SECOND * 400, &bench.signals)
        .alerts;
    assert!(
        text[0]
            .text
            .starts_with("memory has been short for 12 min: 750 MiB used"),
        "{text:?}"
    );
}

#[test]
fn requests_are_ended_only_after_three_samples_with_critical_pressure() {
    let mut bench = Bench::new();
    bench.used(100);
    let depths: Vec<_> = (0..5)
        .map(|_| bench.used(900).ask.map(|ask| ask.depth))
        .collect();
    let (purge, shrink, cancel) = (Depth::Purge, Depth::Shrink, Depth::Cancel);
    assert_eq!(
        depths,
        [Some(purge), Some(shrink), None, Some(cancel), None]
    );
    bench.used(100);
    bench.until_it_changes();
    bench.now += SECOND * 60;
    // The level stays where it is while the pressure is lower for a moment, but that does not count.
    let depths: Vec<_> = [900, 900, 900, 100, 901, 901, 100, 901, 901, 100]
        .map(|used| bench.used(used).ask.map(|ask| ask.depth))
        .into_iter()
        .flatten()
        .collect();
    assert!(depths.contains(&shrink), "{depths:?}");
    assert!(!depths.contains(&cancel), "{depths:?}");
}

#[test]
fn samples_that_failed_are_none_of_the_three() {
    let mut bench = Bench::new();
    bench.used(100);
    let mut depths: Vec<_> = (0..2).map(|_| bench.used(950).ask).collect();
    let known = bench.signals;
    bench.signals = Signals::default();
    depths.extend((0..5).map(|_| bench.step().ask));
    bench.signals = known;
    depths.push(bench.step().ask);
    let depths: Vec<_> = depths.iter().flatten().map(|ask| ask.depth).collect();
    let (purge, shrink, cancel) = (Depth::Purge, Depth::Shrink, Depth::Cancel);
    assert_eq!(depths, [purge, shrink, shrink], "that was the second");
    assert_eq!(bench.step().ask.map(|ask| ask.depth), Some(cancel));
}

#[test]
fn what_is_done_gets_worse_from_level_to_level() {
    let (purge, shrink, cancel) = (Depth::Purge, Depth::Shrink, Depth::Cancel);
    for (used, level, worst) in [
        (720, Elevated, purge),
        (872, Elevated, purge),
        (873, High, shrink),
        (899, High, shrink),
        (900, Critical, cancel),
        (999, Critical, cancel),
    ] {
        let mut bench = Bench::new();
        bench.used(100);
        bench.signals.resident = Some(used * MIB);
        let (_, asks) = bench.go_on(SECOND * 60);
        assert_eq!(bench.monitor.levels.level(), level, "{used}");
        // Down to where the level ends.
        let ends = match level {
            Critical => 855,
            High => 828,
            _ => 675,
        };
        let excess = (used - ends) * MIB;
        assert!(asks.len() >= 12, "{used}: {asks:?}");
        assert!(asks[1..].iter().all(|ask| ask.excess == excess), "{asks:?}");
        assert_eq!(asks[0].depth, purge, "that comes first");
        // Room is made first, then by the level, and only then if that lasts.
        let at_first = if level == Elevated { purge } else { shrink };
        assert_eq!(asks[1].depth, at_first, "{used}");
        let rest = &asks[2..];
        assert!(
            rest.iter().all(|ask| ask.depth == worst),
            "{used}: {rest:?}"
        );
    }
}

#[test]
fn the_level_falls_once_the_pressure_was_lower_for_a_second() {
    let mut bench = Bench::new();
    bench.used(100);
    bench.used(900);
    assert_eq!(bench.used(900).change.unwrap().to, Critical);
    // A service that is full comes and goes: each time it is back before a second has passed.
    for _ in 0..10 {
        let lower = bench.now;
        while bench.now - lower < FALLS_AFTER {
            let step = bench.used(500);
            assert_eq!((step.change, step.figures.level), (None, Critical));
            assert!((value(&step) - 500.0 / 900.0).abs() < 1e-9, "as it is");
        }
        assert_eq!(bench.used(900).change, None);
    }
    let lower = bench.now;
    bench.used(500);
    // It falls to where the pressure is by then.
    bench.signals.resident = Some(750 * MIB);
    let change = bench.until_it_changes().change.unwrap();
    assert_eq!((change.from, change.to), (Critical, Elevated));
    let took = bench.now - lower;
    assert!(
        (FALLS_AFTER..FALLS_AFTER + QUARTER).contains(&took),
        "{took:?}"
    );
    // It rises at once.
    assert_eq!(bench.used(880).change.unwrap().to, High);
}

#[test]
fn a_load_that_comes_and_goes_is_one_alert_a_minute_and_its_end() {
    let mut bench = Bench::new();
    bench.used(100);
    let began = bench.now;
    let mut told = Vec::new();
    let mut changes = 0;
    while bench.now - began < SECOND * 600 {
        for (used, time) in [(900, SECOND), (400, SECOND * 2)] {
            bench.signals.resident = Some(used * MIB);
            let until = bench.now + time;
            while bench.now < until {
                let step = bench.step();
                changes += u64::from(step.change.is_some());
                told.extend(kinds(&step).into_iter().map(|kind| (bench.now, kind)));
            }
        }
    }
    assert!(changes > 300, "{changes}");
    for pair in told.chunks(2) {
        let kinds: Vec<_> = pair.iter().map(|(_, kind)| *kind).collect();
        assert_eq!(kinds, [AlertKind::Pressure, AlertKind::PressureEnded]);
        assert!(pair[1].0 - pair[0].0 < SECOND * 4, "its own end");
    }
    let begins: Vec<_> = told.iter().step_by(2).map(|(at, _)| *at).collect();
    assert_eq!(begins.len(), 10, "{told:?}");
    assert!(
        begins.windows(2).all(|two| two[1] - two[0] >= AGAIN),
        "{told:?}"
    );
}

#[test]
fn a_higher_level_is_told_at_once_and_a_lower_one_only_after_a_minute() {
    let mut bench = Bench::new();
    bench.used(100);
    let told = |bench: &mut Bench, used| {
        bench.signals.resident = Some(used * MIB);
        let (alerts, _) = bench.go_on(SECOND * 2);
        alerts
    };
    let (pressure, ended) = (AlertKind::Pressure, AlertKind::PressureEnded);
    assert_eq!(told(&mut bench, 750), [pressure]);
    assert_eq!(told(&mut bench, 880), [pressure]);
    assert_eq!(told(&mut bench, 400), [ended]);
    assert_eq!(told(&mut bench, 880), [], "of that there was one just now");
    assert_eq!(told(&mut bench, 400), [], "nobody knows that it had begun");
    assert_eq!(told(&mut bench, 750), [], "that is less than there was");
    assert_eq!(told(&mut bench, 900), [pressure]);
    assert_eq!(told(&mut bench, 400), [ended]);
    bench.go_on(AGAIN);
    assert_eq!(told(&mut bench, 750), [pressure]);
    assert_eq!(told(&mut bench, 400), [ended]);
    // Who is told after all that it lasts is told when it no longer does.
    assert_eq!(told(&mut bench, 750), []);
    let (alerts, _) = bench.go_on(SECOND * 10);
    assert_eq!(alerts, [AlertKind::PressurePersists]);
    assert_eq!(told(&mut bench, 400), [ended]);
}

#[test]
fn room_is_made_every_five_seconds_and_sooner_above_the_line() {
    let mut bench = Bench::new();
    bench.used(750);
    bench.used(750);
    for (used, depth) in [(750, Depth::Purge), (880, Depth::Shrink)] {
        bench.used(used);
        let (_, asks) = bench.go_on(SECOND * 20);
        assert!((3..=5).contains(&asks.len()), "{asks:?}");
        // Down to where the level ends.
        let ends = if depth == Depth::Purge { 675 } else { 828 };
        let excess = (used - ends) * MIB;
        assert!(
            asks.iter()
                .all(|ask| ask.depth == depth && ask.excess == excess),
            "{asks:?}"
        );
    }
    bench.signals.resident = Some(950 * MIB);
    let (_, asks) = bench.go_on(SECOND * 2);
    assert!(asks.len() >= 15, "{asks:?}");
}

#[test]
fn room_is_made_now_and_then_above_a_threshold_though_memory_is_not_short() {
    let mut bench = Bench::new();
    bench.used(640);
    let (_, asks) = bench.go_on(SECOND * 299);
    assert_eq!(asks, []);
    let (_, asks) = bench.go_on(SECOND * 2);
    assert_eq!(asks.len(), 1);
    assert_eq!((asks[0].why, asks[0].excess), (Why::Periodic, 10 * MIB));
    bench.signals.resident = Some(620 * MIB);
    assert_eq!(bench.go_on(SECOND * 900).1, []);
    bench
        .monitor
        .reconfigure(MonitorConfig::new().cleanup_above(10.0).shrink(false));
    let (_, asks) = bench.go_on(SECOND * 300);
    assert_eq!(asks.len(), 1);
    assert_eq!((asks[0].depth, asks[0].shrink), (Depth::Purge, false));
}

#[test]
fn a_limit_ahead_is_told_once_with_its_time() {
    let mut bench = Bench::new();
    let mut alerts = Vec::new();
    // 1 MiB a second from 100 MiB on: the limit is 900 seconds ahead at the beginning.
    for quarter in 0..600 {
        bench.signals.resident = Some(100 * MIB + quarter * MIB / 4);
        alerts.extend(bench.step().alerts);
    }
    let texts: Vec<_> = alerts
        .iter()
        .map(|alert| (alert.kind, &*alert.text))
        .collect();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert_eq!(texts[0].0, AlertKind::Ahead);
    assert!(
        texts[0]
            .1
            .starts_with("the memory limit is 13 min ahead, at +1.0 MiB/s"),
        "{texts:?}"
    );
    let figures = alerts[0].figures.unwrap();
    assert_eq!(figures.slope, Some(MIB as f64));
    let time = figures.time_to_limit.unwrap();
    assert!((SECOND * 800..SECOND * 880).contains(&time), "{time:?}");
}

#[test]
fn neither_a_start_nor_a_step_nor_a_load_that_comes_and_goes_is_a_limit_ahead() {
    let mut bench = Bench::new();
    let mut alerts = Vec::new();
    for quarter in 0..4_000_u64 {
        let base = match quarter {
            // It fills up in half a minute.
            0..120 => 100 + 2 * quarter,
            120..2_000 => 340,
            _ => 440,
        };
        bench.signals.resident = Some((base + (quarter % 4) * 60) * MIB);
        alerts.extend(kinds(&bench.step()));
    }
    assert_eq!(alerts, []);
}

#[test]
fn a_clock_that_jumps_harms_nothing() {
    let mut bench = Bench::new();
    bench.used(100);
    let now = bench.now;
    bench.now = now.checked_sub(SECOND * 3).unwrap();
    assert_eq!(bench.used(100).figures.level_for, Duration::ZERO);
    bench.now = now + SECOND * 86_400 * 365;
    let step = bench.used(100);
    assert_eq!((step.figures.level, kinds(&step)), (Normal, vec![]));
    assert!(step.log);
    assert!(!bench.used(100).log, "once, however much was missed");
}

#[test]
fn figures_are_logged_every_30_seconds() {
    let mut bench = Bench::new();
    let until = bench.now + SECOND * 301;
    let mut logged = 0;
    while bench.now < until {
        logged += u64::from(bench.used(100).log);
    }
    assert_eq!(logged, 10);
    bench
        .monitor
        .reconfigure(MonitorConfig::new().log_every(None));
    bench.now += SECOND * 86_400;
    assert!(!bench.used(100).log);
}

#[test]
fn it_looks_more_often_while_memory_is_short() {
    let mut bench = Bench::new();
    assert_eq!(bench.used(100).wait, QUARTER);
    assert_eq!(bench.used(640).wait, QUARTER / 5);
    assert_eq!(bench.used(740).wait, QUARTER / 5);
    let mut bench = Bench::with(MonitorConfig::new().interval(Duration::from_millis(10)));
    assert_eq!(bench.used(740).wait, Duration::from_millis(10));
}
