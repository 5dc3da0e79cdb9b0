//! Asking everybody what they hold, also those who do not answer.

use super::*;
use crate::{
    Alert, Severity,
    load_line::{findings::OLD_AFTER, holders::bound},
    worker::LEFT_BEHIND_AFTER,
};
use plimsoll_core::test_util::FakeHolding;

#[test]
fn a_holding_is_bounded_by_its_bytes_or_by_its_entries_of_their_size_now() {
    let usage = || Usage::new(10, 1_000);
    assert_eq!(bound(&usage()), None);
    assert_eq!(bound(&usage().with_max_bytes(7)), Some(7));
    assert_eq!(bound(&usage().with_max_entries(50)), Some(2 * 50 * 100));
    let both = usage().with_max_entries(50).with_max_bytes(5_000);
    assert_eq!(bound(&both), Some(5_000));
    // Nobody knows how large the first will be, and nothing overflows.
    assert_eq!(bound(&Usage::new(0, 64).with_max_entries(50)), Some(0));
    assert_eq!(
        bound(&Usage::new(1, u64::MAX).with_max_entries(u64::MAX)),
        Some(u64::MAX)
    );
}

#[test]
fn the_history_knows_how_many_requests_are_in_flight_while_somebody_counts() {
    let lock = Lock::default();
    let mut holders = Holders::default();
    let wait = lock.clone();
    holders.in_flight = Some(Box::new(move || {
        wait.wait();
        7
    }));
    let mut follower = following(holders);
    let last = |follower: &Follower| {
        let findings = follower.known.lock().unwrap();
        let point = findings.history.points(Resolution::Second).last();
        point.unwrap().in_flight
    };
    let now = Instant::now();
    follower.follow(now, &figures(100));
    assert_eq!(last(&follower), None, "nobody was asked yet");
    look(&mut follower, now, &figures(100));
    assert_eq!(last(&follower), Some(7));
    // It does not answer: what was known is known for a while.
    lock.set(true);
    follower.follow(now + OLD_AFTER, &figures(100));
    assert_eq!(last(&follower), Some(7));
    follower.follow(now + OLD_AFTER + SECOND, &figures(100));
    assert_eq!(last(&follower), None);
    let late = hangs(&follower) + LEFT_BEHIND_AFTER + SECOND;
    look(&mut follower, late, &figures(100));
    assert_eq!(last(&follower), None);
    let silent = holders_at(&follower, late).silent;
    assert_eq!(silent, [Name::from_static("requests in flight")]);
    lock.set(false);
}

#[test]
fn everybody_is_asked_what_they_hold_once_a_second() {
    let registry = Registry::new();
    let cache = registry.register(FakeHolding::new("cache", WAIT)).unwrap();
    cache.insert(3);
    let usage = registry.snapshot()[0].usage.unwrap();
    let held = Arc::new(AtomicU64::new(5));
    let tellers = vec![("routes", tell(LEAKS, &held))];
    let mut follower = follower_of(registry, tellers);
    let began = Instant::now();
    for tick in 0..=60 {
        look(&mut follower, began + TICK * tick, &figures(100));
    }
    let (rounds, answer) = follower.asker.last().unwrap();
    assert_eq!(rounds, 4, "at 0, 1, 2 and 3 seconds");
    let told: Vec<_> = answer
        .told
        .iter()
        .map(|it| (it.kind, it.name.as_str(), it.held, it.bound))
        .collect();
    let all = [
        (LeakKind::Holding, "cache", usage.bytes, bound(&usage)),
        (LeakKind::Route, "/demo/leak", 5, None),
    ];
    assert_eq!(told, all);
    let stats = holders_at(&follower, began + SECOND * 4);
    let fresh = HolderStats {
        rounds: 4,
        age: Some(SECOND),
        ..HolderStats::default()
    };
    assert_eq!(stats, fresh);
}

#[test]
fn whoever_holds_most_is_named_where_that_is_worth_a_word() {
    let held = Arc::new(AtomicU64::new(0));
    let holds = held.clone();
    let tell: Tell = Box::new(move |told| {
        let held = [
            (LeakKind::Task, "poll", u64::MAX),
            (LeakKind::Route, "/small", MIB),
            (LeakKind::Route, "/export", holds.load(Relaxed)),
        ];
        told.extend(held.map(|(kind, name, held)| Held {
            kind,
            name: Name::from_static(name),
            held,
            bound: None,
        }));
    });
    let mut follower = follower_of(Registry::new(), vec![("all", tell)]);
    let mut now = Instant::now();
    // A twentieth of the limit is not yet.
    for (bytes, named) in [
        (50 * MIB, None),
        (50 * MIB + 1, Some(("/export", 50 * MIB + 1))),
        (0, None),
    ] {
        held.store(bytes, Relaxed);
        now += SECOND;
        look(&mut follower, now, &figures(100));
        assert_eq!(most(&follower), named);
    }
}

#[test]
fn what_panics_is_left_out_and_the_others_are_asked() {
    let registry = Registry::new();
    let _odd = registry.register(Lock::default().holding("odd")).unwrap();
    let panics: Tell = Box::new(|told| {
        told.push(Held {
            kind: LeakKind::Route,
            name: Name::from_static("/half"),
            held: 900 * MIB,
            bound: None,
        });
        panic!("told to");
    });
    let held = Arc::new(AtomicU64::new(300 * MIB));
    let tellers = vec![("half", panics), ("routes", tell(LEAKS, &held))];
    let mut follower = follower_of(registry, tellers);
    let now = Instant::now();
    look(&mut follower, now, &figures(100));
    assert_eq!(most(&follower), Some(("/demo/leak", 300 * MIB)));
    assert_eq!(holders_at(&follower, now).panics, 2);
    look(&mut follower, now + SECOND, &figures(100));
    assert_eq!(holders_at(&follower, now).panics, 4);
}

#[test]
fn one_that_does_not_answer_is_left_behind_and_told_of_once_and_the_others_are_asked() {
    let registry = Registry::new();
    let lock = Lock::default();
    let cache = registry.register(lock.holding("cache")).unwrap();
    let held = Arc::new(AtomicU64::new(100 * MIB));
    let tellers = vec![("routes", tell(LEAKS, &held))];
    let mut follower = follower_of(registry, tellers);
    let (tell, told) = mpsc::channel();
    let hook = move |alert: &Alert| tell.send((alert.severity, alert.text.clone())).unwrap();
    follower.alerts.on_alert(hook).unwrap();
    let said = |follower: &Follower, now| {
        let findings = follower.known.lock().unwrap();
        findings.describe(&figures(100), now)
    };
    let first = Instant::now();
    look(&mut follower, first, &figures(100));
    assert_eq!(most(&follower), Some(("cache", 400 * MIB)));
    let text = said(&follower, first + OLD_AFTER);
    assert!(text.ends_with(", cache holds 400 MiB"), "{text}");

    // What was known last is known still, and becomes old.
    lock.set(true);
    follower.follow(first + SECOND, &figures(100));
    held.store(200 * MIB, Relaxed);
    let mut now = hangs(&follower) + LEFT_BEHIND_AFTER;
    follower.follow(now, &figures(100));
    assert_eq!(most(&follower), Some(("cache", 400 * MIB)));
    let stats = holders_at(&follower, now);
    let cache_name = vec![Name::from_static("cache")];
    assert_eq!(
        (stats.age, stats.left_behind, &stats.silent),
        (Some(now - first), 0, &cache_name)
    );
    let text = said(&follower, first + SECOND * 11);
    let old = ", cache held 400 MiB 11 s ago, cache does not answer";
    assert!(text.ends_with(old), "{text}");
    assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Empty));

    // The others are asked by another thread, again and again, and it is told once.
    now += SECOND;
    for _ in 0..20 {
        look(&mut follower, now, &figures(100));
        now += SECOND;
    }
    assert_eq!(most(&follower), Some(("/demo/leak", 200 * MIB)));
    let stats = holders_at(&follower, now);
    let expected = HolderStats {
        rounds: 21,
        age: Some(SECOND),
        panics: 0,
        left_behind: 1,
        silent: cache_name,
    };
    assert_eq!(stats, expected);
    let text = said(&follower, now);
    let fresh = ", /demo/leak holds 200 MiB, cache does not answer";
    assert!(text.ends_with(fresh), "{text}");
    let left_out = "cache did not come back when it was asked what it holds, and is left out";
    let first = told.recv_timeout(WAIT).unwrap();
    assert_eq!(first, (Severity::Warning, left_out.to_owned()));

    // It comes back, and is asked again.
    lock.set(false);
    until(|| {
        now += SECOND;
        look(&mut follower, now, &figures(100));
        most(&follower) == Some(("cache", 400 * MIB))
    });
    assert_eq!(holders_at(&follower, now).silent, []);
    let back = "cache has come back, and is no longer left out";
    let second = told.recv_timeout(WAIT).unwrap();
    assert_eq!(second, (Severity::Info, back.to_owned()));
    drop((follower, cache));
    assert_eq!(told.iter().next(), None, "nothing else was told");
}

#[test]
fn whoever_was_added_is_left_out_by_its_name_while_it_does_not_answer() {
    let lock = Lock::default();
    lock.set(true);
    let waits = lock.clone();
    let stuck: Tell = Box::new(move |_| waits.wait());
    let held = Arc::new(AtomicU64::new(100 * MIB));
    let tellers = vec![("stuck", stuck), ("routes", tell(LEAKS, &held))];
    let mut follower = follower_of(Registry::new(), tellers);
    let now = Instant::now();
    follower.follow(now, &figures(100));
    let late = hangs(&follower) + LEFT_BEHIND_AFTER + SECOND;
    look(&mut follower, late, &figures(100));
    assert_eq!(most(&follower), Some(("/demo/leak", 100 * MIB)));
    let silent = holders_at(&follower, late).silent;
    assert_eq!(silent, [Name::from_static("stuck")]);
    lock.set(false);
}
