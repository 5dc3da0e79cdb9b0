//! What follows a sample: the line, what is shed, the room of large blocks, how frugal the allocator is.

use super::*;
use crate::{AdmissionLayer, Signals, load_line::follower::shed};
use futures_util::FutureExt as _;
use plimsoll_alloc::LargeBlockUsage;
use plimsoll_core::{RejectReason, Rejected};
use tower::{ServiceExt as _, service_fn};
use tower_layer::Layer as _;

#[test]
fn the_allocator_is_frugal_once_memory_was_short_for_most_of_a_second_and_for_as_long() {
    let (told, mut frugality) = (Told::default(), Frugality::default());
    let mut now = Instant::now();
    let mut go_on = |frugality: &mut Frugality, is_short, time| {
        let until = now + time;
        while now < until {
            frugality.follow(now, is_short, &told);
            now += TICK;
        }
        told.told()
    };
    assert_eq!(go_on(&mut frugality, false, SECOND * 5), []);
    // For a while, again and again: less than most of the time.
    for _ in 0..20 {
        assert_eq!(go_on(&mut frugality, true, SECOND / 2), []);
        assert_eq!(go_on(&mut frugality, false, SECOND), []);
    }
    assert_eq!(go_on(&mut frugality, false, SECOND * 5), []);
    assert_eq!(go_on(&mut frugality, true, SECOND * 9 / 10), []);
    assert_eq!(go_on(&mut frugality, true, SECOND / 5), [true]);
    assert_eq!(go_on(&mut frugality, true, SECOND * 60), [true], "once");
    // It goes on over a pause, and ends when there is no more of it.
    assert_eq!(go_on(&mut frugality, false, SECOND), [true]);
    assert_eq!(go_on(&mut frugality, true, SECOND), [true]);
    assert_eq!(go_on(&mut frugality, false, SECOND * 2), [true, false]);
    assert_eq!(go_on(&mut frugality, false, SECOND * 60), [true, false]);
}

#[test]
fn nothing_is_shed_at_the_line_and_all_halfway_to_the_limit() {
    for (used, share) in [
        (0, 0.0),
        (900, 0.0),
        (925, 0.5),
        (950, 1.0),
        (1_000, 1.0),
        (2_000, 1.0),
    ] {
        assert!((shed(&figures(used)) - share).abs() < 1e-9, "{used}");
    }
    // What the allocator has free can be given out.
    let with_free = MemoryFigures {
        reclaimable: 100 * MIB,
        ..figures(1_000)
    };
    assert_eq!(shed(&with_free), 0.0);
    let unknown = [
        MemoryFigures::UNKNOWN,
        MemoryFigures {
            used: None,
            ..figures(0)
        },
        MemoryFigures {
            line: None,
            ..figures(2_000)
        },
        MemoryFigures {
            limit: None,
            ..figures(2_000)
        },
    ];
    for figures in unknown {
        assert_eq!(shed(&figures), 0.0, "{figures:?}");
    }
    // A line that is the limit: all at once.
    let tight = MemoryFigures {
        limit: Some(900 * MIB),
        ..figures(901)
    };
    assert_eq!(shed(&tight), 1.0);
}

#[test]
fn the_line_and_what_is_shed_follow_each_sample_and_go_with_the_monitor() {
    let mut follower = follower();
    let admission = follower.admission.clone();
    let now = Instant::now();
    follower.follow(now, &figures(100));
    let seen = |admission: &Admission| (admission.stats().line, admission.stats().shed);
    assert_eq!(seen(&admission), (Some(900 * MIB), 0.0));
    follower.follow(now, &figures(940));
    let (line, shed) = seen(&admission);
    assert_eq!(line, Some(900 * MIB));
    assert!((shed - 0.6).abs() < 1e-9, "{shed}");
    // Nobody is refused for what is not known.
    follower.follow(now, &MemoryFigures::UNKNOWN);
    assert_eq!(seen(&admission), (None, 0.0));
    follower.follow(now, &figures(2_000));
    assert_eq!(seen(&admission), (Some(900 * MIB), 1.0));
    drop(follower);
    assert_eq!(seen(&admission), (None, 0.0));
}

#[test]
fn requests_are_refused_where_tasks_or_descriptors_are_too_many_whatever_memory_there_is() {
    let mut follower = follower();
    let admission = follower.admission.clone();
    let enforce = AdmissionConfig::new().mode(AdmissionMode::Enforce);
    let service = AdmissionLayer::new("route", &admission)
        .layer(service_fn(async |()| Ok::<_, std::convert::Infallible>(())));
    let asked = |follower: &mut Follower, figures: &MemoryFigures| {
        follower.follow(Instant::now(), figures);
        let answers = [(); 4].map(|()| {
            let error = service.clone().oneshot(()).now_or_never().unwrap().err()?;
            Some(Rejected::find(&*error).unwrap().reason())
        });
        let refused = answers.into_iter().flatten();
        refused
            .map(|reason| assert_eq!(reason, RejectReason::InFlightLimit))
            .count()
    };
    let of = |tasks, descriptors, line| MemoryFigures {
        tasks: Some(tasks),
        descriptors: Some(descriptors),
        max_descriptors: Some(1_000),
        line,
        ..figures(100)
    };
    let (no_line, line) = (None, Some(900 * MIB));

    // By default tasks are as many as there are, and the last twentieth of the descriptors counts.
    admission.reconfigure(&enforce).unwrap();
    for (tasks, descriptors, line, refused) in [
        (1_000_000, 950, line, 0),
        (0, 1_000, line, 4),
        (0, 1_000, no_line, 4),
        (0, 949, line, 0),
    ] {
        assert_eq!(
            asked(&mut follower, &of(tasks, descriptors, line)),
            refused,
            "{tasks} {descriptors} {line:?}"
        );
    }
    admission
        .reconfigure(&enforce.max_tasks(100).max_descriptors(None))
        .unwrap();
    for (tasks, descriptors, refused) in [(100, 1_000, 0), (125, 0, 4), (1_000, 0, 4), (99, 0, 0)] {
        assert_eq!(
            asked(&mut follower, &of(tasks, descriptors, line)),
            refused,
            "{tasks} {descriptors}"
        );
    }
    // Three quarters of what may be shed is half of those of normal priority.
    let some = MemoryFigures {
        tasks: Some(119),
        ..of(0, 0, line)
    };
    follower.follow(Instant::now(), &some);
    assert!((admission.stats().shed - 0.52).abs() < 1e-9);
    // What nobody knows refuses nobody.
    assert_eq!(asked(&mut follower, &figures(100)), 0);
}

#[test]
fn large_blocks_have_the_room_that_the_line_leaves_until_nobody_looks_any_more() {
    /// Keeps 200 MiB.
    struct Keeps(AtomicU64);

    static KEEPS: Keeps = Keeps(AtomicU64::new(0));

    impl Keeps {
        fn room(&self) -> u64 {
            self.0.load(Relaxed) / MIB
        }
    }

    impl Reclaim for Keeps {
        fn release(&self) {}

        fn large_blocks(&self) -> Option<LargeBlockUsage> {
            let mut usage = LargeBlockUsage::default();
            (usage.live, usage.kept, usage.room) = (500 * MIB, 200 * MIB, self.0.load(Relaxed));
            Some(usage)
        }

        fn set_room(&self, bytes: usize) {
            self.0.store(bytes as u64, Relaxed);
        }
    }

    let config = MemoryConfig::new();
    let (line, guard, script, _) = started(LoadLine::builder(&config).allocator(&KEEPS));
    script.used(800);
    script.used(800);
    assert_eq!(line.manager().figures().kept_blocks, Some(200 * MIB));
    assert_eq!(line.manager().figures().used, Some(600 * MIB));
    // Of 900 MiB less a thirty-second part others have 100.
    assert_eq!(KEEPS.room(), 500, "as much as lived");
    script.sample(Some(Signals {
        limit: Some(500 * MIB),
        resident: Some(800 * MIB),
        ..Signals::default()
    }));
    until(|| KEEPS.room() == 332);
    drop(guard);
    drop(script);
    until(|| KEEPS.room() == 64);
}

#[test]
fn an_allocator_that_was_frugal_is_not_when_nobody_looks_any_more() {
    static ALLOCATOR: Told = Told(Mutex::new(Vec::new()));
    let mut follower = follower();
    follower.allocator = Some(&ALLOCATOR);
    follower.frugality.is_on = true;
    drop(follower);
    assert_eq!(ALLOCATOR.told(), [false]);
}

#[test]
fn the_allocator_is_asked_for_pages_only_while_somebody_waits_for_memory() {
    let with = |unattributed, line| MemoryFigures {
        line,
        unattributed,
        ..figures(0)
    };
    let (much, line) = (Some(21 * MIB), Some(320 * MIB));
    let mut stats = AdmissionStats::default();
    assert_eq!(
        worth_a_purge(&stats, &with(much, line)),
        None,
        "nobody waits"
    );
    stats.is_short = true;
    stats.waiting = 1;
    assert_eq!(worth_a_purge(&stats, &with(much, line)), much);
    // A sixteenth of the line is not worth it.
    assert_eq!(worth_a_purge(&stats, &with(Some(20 * MIB), line)), None);
    for unknown in [with(None, line), with(much, None)] {
        assert_eq!(worth_a_purge(&stats, &unknown), None);
    }
    // What is more than a quarter is in the way of everybody.
    stats.is_short = false;
    assert_eq!(worth_a_purge(&stats, &with(much, line)), None);
    let vast = Some(81 * MIB);
    assert_eq!(worth_a_purge(&stats, &with(vast, line)), vast);
}
