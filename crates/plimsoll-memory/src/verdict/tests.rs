use super::*;
use fastrand::Rng;
use proptest::prelude::*;

const MB: f64 = 1e6;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// What a thing holds at each second.
type Held<'a> = dyn FnMut(u64) -> f64 + 'a;

/// A detector that is told and asked every second.
struct Watch {
    detector: LeakDetector,
    began: Instant,
    second: u64,
    headroom: Option<u64>,
}

impl Watch {
    fn new() -> Self {
        Self::with(&LeakConfig::new())
    }

    fn with(config: &LeakConfig) -> Self {
        Self {
            detector: LeakDetector::new(config),
            began: Instant::now(),
            second: 0,
            headroom: None,
        }
    }

    fn now(&self) -> Instant {
        self.began + Duration::from_secs(self.second)
    }

    fn see(&mut self, kind: LeakKind, name: &'static str, held: f64, bound: Option<u64>) {
        let (now, name) = (self.now(), Name::from_static(name));
        self.detector
            .observe(now, kind, name, held.max(0.0) as u64, bound);
    }

    /// Judges, and goes on to the next second.
    fn judge(&mut self) -> Judgement {
        let found = self.detector.judge(self.now(), self.headroom);
        self.second += 1;
        found
    }

    /// Watches one thing for so long, and returns when verdicts began and ended.
    fn watch(&mut self, kind: LeakKind, seconds: u64, held: &mut Held<'_>) -> [Vec<u64>; 2] {
        let mut edges = [Vec::new(), Vec::new()];
        for _ in 0..seconds {
            self.see(kind, "it", held(self.second), None);
            let found = self.judge();
            assert!(found.standing.len() + found.ended.len() <= 1);
            if found.standing.iter().any(|verdict| verdict.is_new) {
                edges[0].push(self.second);
            }
            if !found.ended.is_empty() {
                edges[1].push(self.second);
            }
        }
        edges
    }
}

/// When verdicts on one thing began.
fn begun(kind: LeakKind, seconds: u64, held: &mut Held<'_>) -> Vec<u64> {
    let [begun, _] = Watch::new().watch(kind, seconds, held);
    begun
}

fn first(kind: LeakKind, seconds: u64, held: &mut Held<'_>) -> Option<u64> {
    begun(kind, seconds, held).first().copied()
}

/// From -1 to 1.
fn even(rng: &mut Rng) -> f64 {
    2.0 * rng.f64() - 1.0
}

/// Of mean 0 and variance 1, and nearly normal.
fn normal(rng: &mut Rng) -> f64 {
    (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0
}

/// What leaks of 10 KiB hold that come by chance, at a mean rate a second.
fn leaking(rate: f64, mut rng: Rng) -> impl FnMut(u64) -> f64 {
    let mut held = 0.0;
    move |_| {
        for _ in 0..50 {
            held += f64::from(u8::from(rng.f64() < rate / 50.0)) * 10_240.0;
        }
        held
    }
}

fn sawtooth(second: u64, period: f64) -> f64 {
    (second as f64 % period) / period
}

// === What leaks ===

#[test]
fn a_leaking_route_is_named_within_a_minute_with_its_time_to_limit() {
    for seed in 0..100 {
        let mut held = leaking(20.0, Rng::with_seed(seed));
        let mut watch = Watch::new();
        let verdict = loop {
            assert!(watch.second < MINUTE, "not within a minute, seed {seed}");
            let leaked = held(watch.second);
            watch.headroom = Some((300.0 * MB - leaked) as u64);
            watch.see(LeakKind::Route, "/demo/leak", leaked, None);
            watch.see(LeakKind::Route, "/hello", 70_000.0, None);
            let found = watch.judge();
            if let [verdict] = found.standing[..] {
                break verdict;
            }
            assert_eq!(found, Judgement::default());
        };
        assert_eq!(verdict.name.as_str(), "/demo/leak");
        assert_eq!(verdict.since, watch.began);
        assert!((100_000.0..400_000.0).contains(&verdict.slope));
        let limit = verdict.time_to_limit.unwrap().as_secs_f64();
        let really = watch.headroom.unwrap() as f64 / 204_800.0;
        assert!(
            (0.5..2.0).contains(&(limit / really)),
            "{limit} s, not {really} s"
        );
        assert!((0.7..=0.8).contains(&verdict.confidence), "{verdict:?}");
    }
}

#[test]
fn confidence_grows_as_longer_horizons_agree() {
    let mut watch = Watch::new();
    let mut surest = [0.0_f64; 4];
    for second in 0..=HOUR + 1 {
        watch.see(LeakKind::Route, "it", second as f64 * 50_000.0, None);
        let found = watch.judge();
        let confidence = found
            .standing
            .first()
            .map_or(0.0, |verdict| verdict.confidence);
        let horizon = [45, 300, 900, 3_600].partition_point(|until| *until <= second);
        if horizon > 0 {
            surest[horizon - 1] = confidence;
        }
    }
    for (confidence, weight) in surest.into_iter().zip([0.8, 0.9, 0.95, 1.0]) {
        assert!(
            (weight - 0.001..=weight).contains(&confidence),
            "{surest:?}"
        );
    }
}

#[test]
fn a_leak_of_the_process_is_found_in_noise() {
    for seed in 0..20 {
        let mut rng = Rng::with_seed(seed);
        let mut held = |second| 100.0 * MB + 0.2 * MB * second as f64 + 5.0 * MB * even(&mut rng);
        let at = first(LeakKind::Process, 10 * MINUTE, &mut held).unwrap();
        assert!(at <= 6 * MINUTE, "after {at} s, seed {seed}");
    }
}

#[test]
fn a_slow_leak_is_found_under_a_sawtooth() {
    for (slope, period, within) in [
        (0.2, 7.0, 6),
        (0.02, 7.0, 20),
        (0.02, 40.0, 20),
        (0.02, 300.0, 70),
    ] {
        let mut held =
            |second| (100.0 + slope * second as f64 + 50.0 * sawtooth(second, period)) * MB;
        let at = first(LeakKind::Process, within * MINUTE, &mut held);
        assert!(
            at.is_some(),
            "{slope} MB/s within {within} min of a period of {period} s"
        );
    }
}

#[test]
fn a_staircase_without_end_is_a_leak() {
    for (every, within) in [(10, 6), (30, 6), (60, 20), (120, 70), (300, 70)] {
        for kind in [LeakKind::Route, LeakKind::Process] {
            let mut held = |second| 100.0 * MB + 6.0 * MB * (second / every) as f64;
            let at = first(kind, within * MINUTE, &mut held);
            assert!(
                at.is_some(),
                "a step each {every} s, not within {within} min"
            );
        }
    }
}

#[test]
fn a_verdict_stands_as_long_as_it_leaks() {
    for seed in 0..5 {
        let mut held = leaking(20.0, Rng::with_seed(seed));
        let [begun, ended] = Watch::new().watch(LeakKind::Route, 2 * HOUR, &mut held);
        assert_eq!((begun.len(), ended.len()), (1, 0), "seed {seed}");
    }
}

#[test]
fn what_falls_for_a_moment_leaks_all_the_same() {
    // In two buckets nearly nothing is held.
    let mut held = |second: u64| {
        let falls = (90..96).contains(&second);
        if falls { MB } else { 0.2 * MB * second as f64 }
    };
    let [begun, ended] = Watch::new().watch(LeakKind::Route, 2 * MINUTE, &mut held);
    assert_eq!((begun.len(), ended.len()), (1, 0));
}

#[test]
fn a_verdict_says_the_same_beginning_as_long_as_it_stands() {
    let mut watch = Watch::new();
    let mut first = None;
    while watch.second < 2 * HOUR {
        let held = 0.2 * MB * watch.second.saturating_sub(510) as f64;
        watch.see(LeakKind::Route, "it", held, None);
        if let [verdict] = watch.judge().standing[..] {
            let since = *first.get_or_insert(verdict.since);
            assert_eq!(verdict.since, since);
        }
    }
    let since = first.unwrap().saturating_duration_since(watch.began);
    assert!((500..=510).contains(&since.as_secs()), "{since:?}");
}

#[test]
fn a_verdict_ends_once_when_it_no_longer_leaks() {
    let mut watch = Watch::new();
    let mut held = |second: u64| 0.2 * MB * second.min(120) as f64;
    let [begun, ended] = watch.watch(LeakKind::Route, 10 * MINUTE, &mut held);
    assert_eq!((begun.len(), ended.len()), (1, 1));
    assert!((120..150).contains(&ended[0]), "ended at {} s", ended[0]);
}

#[test]
fn what_has_ended_says_what_it_was() {
    let mut watch = Watch::new();
    let ended = loop {
        assert!(watch.second < 10 * MINUTE);
        let held = 0.2 * MB * watch.second.min(120) as f64;
        watch.see(LeakKind::Route, "/export", held, None);
        if let [ended] = watch.judge().ended[..] {
            break ended;
        }
    };
    assert_eq!(
        (ended.kind, ended.name.as_str()),
        (LeakKind::Route, "/export")
    );
    assert_eq!((ended.held, ended.is_new), (24_000_000, false));
    assert_eq!(ended.since, watch.began);
    assert!(ended.slope > 0.0 && ended.confidence > 0.0);
}

#[test]
fn tasks_are_told_by_name_with_the_time_to_their_bound() {
    let mut watch = Watch::new();
    watch.headroom = Some(1);
    for second in 0..6 * MINUTE {
        watch.see(LeakKind::Task, "session", second as f64, Some(10_000));
        watch.see(LeakKind::Task, "poller", 8.0, Some(10_000));
        watch.see(
            LeakKind::Descriptors,
            "open",
            20.0 + 2.0 * second as f64,
            None,
        );
        watch.judge();
    }
    let standing = watch.judge().standing;
    let of = |verdict: &Verdict| (verdict.name.as_str(), verdict.slope.round());
    let found: Vec<_> = standing.iter().map(of).collect();
    assert_eq!(found, [("session", 1.0), ("open", 2.0)]);
    let limit = standing[0].time_to_limit.unwrap();
    assert_eq!(limit.as_secs_f64().round(), 10_000.0 - 359.0);
    assert_eq!(standing[1].time_to_limit, None, "nobody knows their bound");
}

#[test]
fn what_reaches_its_limit_first_comes_first() {
    let mut watch = Watch::new();
    watch.headroom = Some(1_000_000_000);
    for second in 0..=MINUTE {
        for (name, rate) in [("a", 0.1), ("b", 3.0), ("c", 0.5)] {
            watch.see(LeakKind::Route, name, rate * MB * second as f64, None);
        }
        watch.see(LeakKind::Layer, "b", 0.0, None);
        watch.judge();
    }
    let standing = watch.judge().standing;
    let names: Vec<_> = standing
        .iter()
        .map(|it| (it.kind, it.name.as_str()))
        .collect();
    assert_eq!(names, ["b", "c", "a"].map(|name| (LeakKind::Route, name)));
}

#[test]
fn without_a_limit_the_surest_comes_first() {
    let mut watch = Watch::new();
    let mut rng = Rng::with_seed(1);
    for second in 0..=MINUTE {
        let leaked = 0.3 * MB * second as f64;
        let noise = 0.4 * MB * even(&mut rng);
        watch.see(LeakKind::Route, "a", (leaked + noise).max(0.0), None);
        watch.see(LeakKind::Route, "b", leaked, None);
        watch.judge();
    }
    let standing = watch.judge().standing;
    let names: Vec<_> = standing.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
}

// === What does not ===

/// Two thousand runs of twenty minutes.
#[test]
fn noise_around_a_level_never_stands() {
    let noises: [fn(&mut Rng, &mut f64) -> f64; 4] = [
        |rng, _| 5.0 * even(rng),
        |rng, _| 20.0 * normal(rng),
        // What is off stays off for a while: 10 s, and 30 s.
        |rng, off| correlated(rng, off, 0.9),
        |rng, off| correlated(rng, off, 0.97),
    ];
    let mut alarms = [0; 4];
    for (noise, alarms) in noises.iter().zip(&mut alarms) {
        for seed in 0..250 {
            let (mut rng, mut off) = (Rng::with_seed(seed), 0.0);
            let mut held = |_| 300.0 * MB + noise(&mut rng, &mut off) * MB;
            *alarms += usize::from(first(LeakKind::Route, 20 * MINUTE, &mut held).is_some());
            *alarms += usize::from(first(LeakKind::Process, 20 * MINUTE, &mut held).is_some());
        }
    }
    println!("{alarms:?} of 500 each");
    assert_eq!(alarms[..3], [0; 3]);
    assert!(alarms[3] <= 1, "one at most: {alarms:?}");
}

fn correlated(rng: &mut Rng, off: &mut f64, share: f64) -> f64 {
    *off = share * *off + (1.0 - share * share).sqrt() * normal(rng);
    10.0 * *off
}

#[test]
fn what_rises_again_is_told_once_at_most() {
    for period in [60.0, 120.0, 400.0, 900.0] {
        for kind in [LeakKind::Route, LeakKind::Process] {
            let mut rng = Rng::with_seed(period as u64);
            let (mut held, mut most) = (0.0, 50.0);
            // Each tooth is as high as it happens to be.
            let mut held = |_| {
                held += 50.0 / period * (1.0 + 0.3 * even(&mut rng));
                if held > most {
                    (held, most) = (0.0, 50.0 * (1.0 + 0.2 * even(&mut rng)));
                }
                100.0 * MB + held * MB
            };
            let begun = begun(kind, 3 * HOUR, &mut held);
            assert!(
                begun.len() <= 1,
                "{kind} with a period of {period} s: {begun:?}"
            );
            let too_slow = if kind == LeakKind::Route { 45.0 } else { 300.0 };
            assert!(period > too_slow || begun.is_empty());
        }
    }
}

#[test]
fn a_holding_may_fill_up_to_its_bound_and_so_may_the_route_that_fills_it() {
    let mut watch = Watch::new();
    for second in 0..20 * MINUTE {
        let held = (0.5 * MB * second as f64).min(500.0 * MB);
        watch.see(LeakKind::Holding, "cache", held, Some(500_000_000));
        // The allocator sees a little more of it than the cache counts, by two routes.
        for (route, share) in [("/a", 0.8), ("/b", 0.3)] {
            watch.see(LeakKind::Route, route, held * share, None);
        }
        watch.see(LeakKind::Process, "process", 80.0 * MB + held * 1.2, None);
        assert_eq!(watch.judge(), Judgement::default(), "after {second} s");
    }
}

#[test]
fn a_leak_is_found_beside_a_cache_that_fills() {
    for (leak, fill) in [(0.2, 5.0), (5.0, 0.2), (0.2, 0.5)] {
        let mut watch = Watch::new();
        for second in 0..MINUTE {
            let (leaked, filled) = (leak * MB * second as f64, fill * MB * second as f64);
            watch.see(LeakKind::Holding, "cache", filled, Some(u64::MAX));
            watch.see(LeakKind::Route, "/cached", filled * 1.05, None);
            watch.see(LeakKind::Route, "/leak", leaked, None);
            watch.judge();
        }
        let standing = watch.judge().standing;
        let names: Vec<_> = standing.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["/leak"], "{leak} MB/s beside {fill} MB/s");
    }
}

#[test]
fn a_holding_without_a_bound_or_above_it_may_leak() {
    for bound in [None, Some(1_000_000)] {
        let mut watch = Watch::new();
        for second in 0..MINUTE {
            let held = 2.0 * MB + 0.2 * MB * second as f64;
            watch.see(LeakKind::Holding, "queue", held, bound);
            watch.judge();
        }
        assert_eq!(watch.judge().standing.len(), 1);
    }
}

#[test]
fn a_cache_that_fills_is_no_excuse_for_a_holding_or_for_tasks() {
    let mut watch = Watch::new();
    for second in 0..6 * MINUTE {
        let held = 0.2 * MB * second as f64;
        watch.see(LeakKind::Holding, "cache", held, Some(u64::MAX));
        watch.see(LeakKind::Holding, "queue", held, None);
        watch.see(LeakKind::Task, "session", second as f64, None);
        watch.judge();
    }
    let standing = watch.judge().standing;
    let mut names: Vec<_> = standing.iter().map(|it| it.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["queue", "session"]);
}

#[test]
fn what_does_not_matter_is_not_told() {
    let trickle = 10_000.0;
    let mut held = |second| trickle * second as f64;
    assert_eq!(first(LeakKind::Route, 4 * MINUTE, &mut held), None);
    let mut held = |second| second as f64 / 30.0;
    assert_eq!(first(LeakKind::Task, 10 * MINUTE, &mut held), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_warm_up_never_stands(
        seed in any::<u64>(),
        most in 1.0..500.0,
        linear in 1.0..40.0,
        exponential in 1.0..75.0,
        noise in 0.0..0.004,
    ) {
        let mut rng = Rng::with_seed(seed);
        let mut noisy = |share: f64| most * MB * (share + noise * even(&mut rng));
        let ramp = |seconds: f64| f64::min(seconds / linear, 1.0);
        let fill = |seconds: f64| 1.0 - f64::exp(-seconds / exponential);
        let mut held = |second: u64| noisy(ramp(second as f64));
        prop_assert_eq!(first(LeakKind::Route, HOUR / 2, &mut held), None);
        let mut held = |second: u64| noisy(fill(second as f64));
        prop_assert_eq!(first(LeakKind::Route, HOUR / 2, &mut held), None);
        // The process is not judged by as short a time.
        let mut held = |second: u64| noisy(ramp(second as f64 / 5.0));
        prop_assert_eq!(first(LeakKind::Process, HOUR / 2, &mut held), None);
    }

    #[test]
    fn a_few_steps_never_stand(
        seed in any::<u64>(),
        steps in 1_usize..=5,
        within in 10_u64..900,
        noise in 0.0..1.0,
    ) {
        let mut rng = Rng::with_seed(seed);
        let at: Vec<_> = (0..steps).map(|_| rng.u64(0..within)).collect();
        for kind in [LeakKind::Route, LeakKind::Process] {
            let mut held = |second| {
                let passed = at.iter().filter(|at| **at <= second).count();
                100.0 * MB + (20.0 * passed as f64 + noise * even(&mut rng)) * MB
            };
            prop_assert_eq!(first(kind, HOUR / 2, &mut held), None);
        }
    }

    #[test]
    fn a_sawtooth_never_stands(
        seed in any::<u64>(),
        period in 5.0..40.0,
        scale in 1.0_f64..6.0,
        high in 1.0..200.0,
    ) {
        let mut rng = Rng::with_seed(seed);
        // That of the process may be six times as slow.
        for (kind, period) in [(LeakKind::Route, period), (LeakKind::Process, period * scale)] {
            let mut held =
                |second| (100.0 + high * sawtooth(second, period) + 0.5 * even(&mut rng)) * MB;
            prop_assert_eq!(first(kind, HOUR / 2, &mut held), None);
        }
    }

    #[test]
    fn a_steady_leak_always_stands(
        seed in any::<u64>(),
        slope in 0.03..5.0,
        noise in 0.0..5.0,
        before in 0_u64..300,
    ) {
        let mut rng = Rng::with_seed(seed);
        let mut held = |second: u64| {
            let leaked = slope * second.saturating_sub(before) as f64;
            (100.0 + leaked + noise * even(&mut rng)) * MB
        };
        let at = first(LeakKind::Process, before + 20 * MINUTE, &mut held);
        prop_assert!(at.is_some());
        // Without noise a route needs no longer than the shortest horizon.
        let mut held = |second: u64| slope * MB * second.saturating_sub(before) as f64;
        let at = first(LeakKind::Route, before + MINUTE, &mut held);
        prop_assert!(at.is_some());
        prop_assert!(at >= Some(before + 30));
    }
}

// === Names, times, settings ===

#[test]
fn names_past_the_bound_are_counted_and_the_others_are_judged() {
    let mut watch = Watch::with(&LeakConfig::new().max_names(2));
    for second in 0..MINUTE {
        for name in ["a", "b", "c"] {
            watch.see(LeakKind::Route, name, 0.2 * MB * second as f64, None);
        }
        watch.judge();
    }
    assert_eq!(
        (watch.detector.len(), watch.detector.overflowed()),
        (2, MINUTE)
    );
    assert_eq!(watch.judge().standing.len(), 2);
    // Nor is there a place for what shares its name with others.
    let mut watch = Watch::new();
    watch.see(LeakKind::Route, Name::OVERFLOW.as_str(), 1.0, None);
    assert_eq!((watch.detector.len(), watch.detector.overflowed()), (0, 1));
}

#[test]
fn names_that_are_no_longer_there_are_forgotten_and_their_verdicts_end() {
    let mut watch = Watch::with(&LeakConfig::new().max_names(2));
    watch.see(LeakKind::Process, "process", 1.0, None);
    let mut held = |second| 0.2 * MB * second as f64;
    let [begun, _] = watch.watch(LeakKind::Route, MINUTE, &mut held);
    assert_eq!(begun.len(), 1);
    assert_eq!(watch.detector.len(), 2);
    let mut ended = 0;
    for _ in 0..6 * MINUTE {
        watch.see(LeakKind::Process, "process", 1.0, None);
        ended += watch.judge().ended.len();
    }
    assert_eq!((watch.detector.len(), ended), (1, 1));
    watch.see(LeakKind::Route, "another", 1.0, None);
    assert_eq!((watch.detector.len(), watch.detector.overflowed()), (2, 0));
}

#[test]
fn a_gap_is_filled_with_nothing() {
    let mut watch = Watch::new();
    for second in 0..40 {
        watch.see(LeakKind::Route, "it", 0.2 * MB * f64::from(second), None);
        watch.judge();
    }
    // The machine sleeps. What it holds afterwards is more, and stays.
    watch.second += 5 * HOUR;
    let mut held = |_| 100.0 * MB;
    let begun = watch.watch(LeakKind::Route, 10 * MINUTE, &mut held);
    assert_eq!(begun, [vec![], vec![]]);
}

#[test]
fn a_verdict_does_not_outlive_a_gap() {
    let mut watch = Watch::new();
    let mut held = |second| 0.2 * MB * second as f64;
    watch.watch(LeakKind::Route, MINUTE, &mut held);
    watch.second += 5 * HOUR;
    let second = watch.second;
    let [begun, ended] = watch.watch(LeakKind::Route, MINUTE, &mut held);
    assert!((second..second + 10).contains(&ended[0]), "{ended:?}");
    assert!((second + 40..second + 60).contains(&begun[0]), "{begun:?}");
}

#[test]
fn a_few_missing_seconds_do_no_harm() {
    let mut watch = Watch::new();
    for second in 0..MINUTE {
        // Three buckets of the shortest horizon have nothing.
        if !(12..18).contains(&second) && !(30..33).contains(&second) {
            watch.see(LeakKind::Route, "it", 0.2 * MB * second as f64, None);
        }
        watch.judge();
    }
    assert_eq!(watch.judge().standing.len(), 1);
}

#[test]
fn times_that_go_back_and_extreme_values_are_taken() {
    let mut detector = LeakDetector::new(&LeakConfig::new());
    let (began, name) = (Instant::now(), Name::from_static("it"));
    let far = Duration::from_secs(100 * 365 * 86_400);
    for (time, held) in [
        (far, u64::MAX),
        (Duration::ZERO, 0),
        (far, 1),
        (2 * far, u64::MAX),
    ] {
        detector.observe(began + time, LeakKind::Route, name, held, Some(held));
        let found = detector.judge(began + time, Some(u64::MAX));
        assert_eq!(found, Judgement::default());
    }
}

#[test]
fn sensitivity_says_how_soon_growth_is_a_leak() {
    let found = |sensitivity, rate: f64| {
        let config = LeakConfig::new().sensitivity(sensitivity);
        let mut held = |second: u64| rate * second as f64;
        let [begun, _] = Watch::with(&config).watch(LeakKind::Route, 6 * MINUTE, &mut held);
        begun.first().copied()
    };
    let soon = 45..60;
    assert_eq!(found(Sensitivity::Off, 1e7), None);
    assert!((300..330).contains(&found(Sensitivity::Low, 1e7).unwrap()));
    assert_eq!(found(Sensitivity::Low, 10_000.0), None);
    assert!(soon.contains(&found(Sensitivity::Normal, 30_000.0).unwrap()));
    assert!(!soon.contains(&found(Sensitivity::Normal, 10_000.0).unwrap()));
    assert!(soon.contains(&found(Sensitivity::High, 10_000.0).unwrap()));
}

#[test]
fn changed_settings_count_at_once() {
    let mut watch = Watch::new();
    let leak = |watch: &mut Watch| {
        for name in ["a", "b"] {
            watch.see(LeakKind::Route, name, 0.2 * MB * watch.second as f64, None);
        }
        watch.judge()
    };
    while leak(&mut watch).standing.len() < 2 {
        assert!(watch.second < MINUTE);
    }
    watch.detector.reconfigure(&LeakConfig::new().max_names(1));
    let found = leak(&mut watch);
    leak(&mut watch);
    let names = |verdicts: &[Verdict]| {
        verdicts
            .iter()
            .map(|it| it.name.as_str())
            .collect::<String>()
    };
    assert_eq!(
        (names(&found.standing), names(&found.ended)),
        ("a".into(), "b".into())
    );
    watch
        .detector
        .reconfigure(&LeakConfig::new().sensitivity(Sensitivity::Off));
    let found = leak(&mut watch);
    assert_eq!(
        (names(&found.standing), names(&found.ended)),
        (String::new(), "a".into())
    );
    assert!(watch.detector.is_empty());
    assert_eq!(
        watch.detector.overflowed(),
        1,
        "where nothing is looked at, nothing is missed"
    );
}

#[test]
fn a_name_takes_as_much_as_is_said() {
    let mut watch = Watch::new();
    watch.see(LeakKind::Route, "it", 0.0, None);
    assert!(
        watch.detector.bytes() <= 550,
        "{} bytes",
        watch.detector.bytes()
    );
}

#[test]
fn every_kind_has_a_word() {
    for (place, kind) in LeakKind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, place, "growth is kept by it");
        assert_eq!(kind.to_string(), kind.as_str());
    }
}
