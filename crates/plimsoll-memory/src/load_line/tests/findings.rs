//! What is found out, and told: who is refused, the past, what leaks.

use super::*;
use crate::{Alert, AlertKind, Severity, load_line::follower::of_the_process};

#[test]
fn a_route_is_shed_for_ten_seconds_after_one_of_its_requests_was_refused() {
    let mut follower = follower();
    let admission = follower.admission.clone();
    admission.reconfigure(&enforcing()).unwrap();
    let export = admission.route(Name::from_static("/export"));
    let hello = admission.route(Name::from_static("/hello"));
    let mut now = Instant::now();
    let mut look = |time| {
        now += time;
        follower.follow(now, &figures(100));
        let findings = follower.known.lock().unwrap();
        (shedding(&findings, now), findings.shedding.len())
    };
    assert_eq!(look(SECOND), (vec![], 2));
    refuse(&admission, &export);
    assert_eq!(look(SECOND), (vec!["/export"], 2));
    refuse(&admission, &hello);
    assert_eq!(look(SECOND * 5), (vec!["/export", "/hello"], 2));
    assert_eq!(look(SECOND * 4), (vec!["/export", "/hello"], 2));
    assert_eq!(look(SECOND), (vec!["/hello"], 2));
    refuse(&admission, &export);
    assert_eq!(look(SECOND), (vec!["/export", "/hello"], 2));
    // What is gone is not kept.
    drop(export);
    assert_eq!(look(SECOND), (vec!["/hello"], 1));
    assert_eq!(look(SECOND * 10), (vec![], 1));
}

#[test]
fn the_sentence_names_what_requests_were_refused_for_in_the_last_ten_seconds() {
    let mut follower = follower();
    let admission = follower.admission.clone();
    let config = enforcing().max_tasks(100);
    admission.reconfigure(&config).unwrap();
    let route = admission.route(Name::from_static("/x"));
    let mut now = Instant::now();
    // One request comes after each of two samples.
    let mut said = |time, figures: MemoryFigures| {
        now += time;
        for _ in 0..2 {
            now += SECOND;
            follower.follow(now, &figures);
            drop(route.admit(&Ask::default()));
        }
        follower.known.lock().unwrap().describe(&figures, now)
    };
    let of = |tasks, descriptors, used| MemoryFigures {
        tasks: Some(tasks),
        descriptors: Some(descriptors),
        max_descriptors: Some(1_000),
        ..figures(used)
    };
    for (wait, figures, expected) in [
        (
            0,
            of(50, 1_000, 400),
            "shedding /x: 100 % of 1000 descriptors open, memory 40 % of 1000 MiB",
        ),
        (
            0,
            of(200, 990, 400),
            "shedding /x: 200 % of 100 tasks alive, 99 % of 1000 descriptors open, memory 40 % of 1000 MiB",
        ),
        (
            7,
            of(50, 100, 400),
            "shedding /x: 50 % of 100 tasks alive, memory 40 % of 1000 MiB",
        ),
        (
            10,
            of(50, 100, 400),
            "pressure unknown: memory 40 % of 1000 MiB",
        ),
        // They are as scarce, but memory is what it is for.
        (
            0,
            of(200, 1_000, 950),
            "shedding /x: memory 95 % of 1000 MiB",
        ),
    ] {
        assert_eq!(said(SECOND * wait, figures), expected);
    }
    // What would be refused is not.
    admission
        .reconfigure(&config.mode(AdmissionMode::Observe))
        .unwrap();
    said(SECOND, of(200, 1_000, 400));
    let text = said(SECOND * 10, of(200, 1_000, 400));
    assert_eq!(text, "pressure unknown: memory 40 % of 1000 MiB");
}

#[test]
fn each_sample_goes_into_the_history() {
    let mut follower = follower();
    let began = Instant::now();
    for (second, used) in [(0, 100), (1, 300), (1, 500), (2, 200)] {
        let figures = MemoryFigures {
            resident: Some(used * 2 * MIB),
            tasks: Some(7),
            ..figures(used)
        };
        follower.follow(began + SECOND * second, &figures);
    }
    follower.follow(began + SECOND * 3, &MemoryFigures::UNKNOWN);
    let findings = follower.known.lock().unwrap();
    let points: Vec<_> = findings.history.points(Resolution::Second).collect();
    let used: Vec<_> = points
        .iter()
        .map(|point| point.used.map(|used| (used.min / MIB, used.max / MIB)))
        .collect();
    assert_eq!(
        used,
        [Some((100, 100)), Some((300, 500)), Some((200, 200)), None]
    );
    assert_eq!(points[2].resident, Some(400 * MIB));
    assert_eq!(points[2].limit, Some(1_000 * MIB));
    assert_eq!(points[2].tasks, Some(7));
}

#[test]
fn what_the_process_holds_is_without_what_is_free_and_what_requests_hold() {
    let figures = MemoryFigures {
        reclaimable: 20 * MIB,
        descriptors: Some(9),
        max_descriptors: Some(1_024),
        ..figures(100)
    };
    let of = |figures: &MemoryFigures| {
        of_the_process(figures, 30 * MIB)
            .map(|it| (it.kind, it.name.as_str(), it.held, it.bound))
            .collect::<Vec<_>>()
    };
    let process = |held| (LeakKind::Process, "process", held, None);
    let descriptors = (LeakKind::Descriptors, "descriptors", 9, Some(1_024));
    assert_eq!(of(&figures), [process(50 * MIB), descriptors]);
    let counted = MemoryFigures {
        tracked: Some(70 * MIB),
        ..figures
    };
    assert_eq!(of(&counted), [process(40 * MIB), descriptors]);
    assert_eq!(of(&MemoryFigures::UNKNOWN), [], "what is not known");
}

#[tokio::test(start_paused = true)]
async fn a_leak_is_told_once_when_it_begins_and_once_when_it_ends() {
    let held = Arc::new(AtomicU64::new(0));
    let tellers = vec![("routes", tell(LEAKS, &held))];
    let mut follower = follower_of(Registry::new(), tellers);
    let (tell, told) = mpsc::channel();
    let hook = move |alert: &Alert| tell.send(alert.clone()).unwrap();
    follower.alerts.on_alert(hook).unwrap();
    let figures = MemoryFigures {
        headroom: Some(200 * MIB),
        ..figures(100)
    };
    let mut alerts = Vec::new();
    for second in 0..600 {
        if second < 100 {
            held.fetch_add(MIB, Relaxed);
        }
        look(&mut follower, Instant::now(), &figures);
        let standing = follower.known.lock().unwrap().standing.clone();
        if second == 99 {
            // Of what waits for a hook, the later counts.
            alerts.extend(told.recv_timeout(WAIT));
            assert_eq!(
                (standing[0].kind, standing[0].name),
                (LeakKind::Route, LEAKS)
            );
        }
        tokio::time::advance(SECOND).await;
    }
    assert!(follower.known.lock().unwrap().standing.is_empty());
    // The hook ends with whoever tells it, once it was told all.
    drop(follower);
    alerts.extend(told.iter());
    let said: Vec<_> = alerts
        .iter()
        .map(|alert| (alert.kind, alert.severity, alert.name))
        .collect();
    let leak = |severity| (AlertKind::Leak, severity, Some(LEAKS));
    assert_eq!(said, [leak(Severity::Warning), leak(Severity::Info)]);
    let begins = &alerts[0].text;
    assert!(
        begins.starts_with("route /demo/leak leaks +1.0 MiB/s, holds 4"),
        "{begins}"
    );
    assert!(begins.ends_with(", limit in 3 min"), "{begins}");
    assert_eq!(alerts[1].text, "route /demo/leak grows no longer");
}
