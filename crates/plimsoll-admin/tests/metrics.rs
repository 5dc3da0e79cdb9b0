//! Scrapes, with the recorder of the process.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use plimsoll_admin::install_recorder;
use plimsoll_core::{Lifecycle, Registry, test_util::FakeHolding};
use std::{
    io::Write,
    net::TcpStream,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};
use support::{Odd, ask, get, read, start};

/// The figures of tasks have no label to tell one service of this process from another.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Whether a line is a comment of the format, or `name{labels} number`.
fn is_well_formed(line: &str) -> bool {
    if line.is_empty() || line.starts_with("# HELP ") || line.starts_with("# TYPE ") {
        return true;
    }
    let Some((series, value)) = line.rsplit_once(' ') else {
        return false;
    };
    let name = series.split('{').next().unwrap_or_default();
    let labels = &series[name.len()..];
    value.parse::<f64>().is_ok()
        && !name.is_empty()
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
        && (labels.is_empty() || (labels.starts_with('{') && labels.ends_with("\"}")))
}

#[test]
fn a_scrape_tells_of_holdings_and_tasks() {
    let _alone = alone();
    let runtime = runtime();
    let _inside = runtime.enter();
    let (registry, lifecycle) = (Registry::new(), Lifecycle::new());
    let (control, addr) = start(&registry, &lifecycle, Some(install_recorder().unwrap()));
    let sessions = registry
        .register(FakeHolding::new("sessions", Duration::ZERO))
        .unwrap();
    sessions.insert(3);
    runtime.block_on(registry.sweep("sessions")).unwrap();
    sessions.insert(2);
    let _task = lifecycle
        .spawn("poll", std::future::pending::<()>())
        .unwrap();
    let failed = lifecycle
        .spawn("fail", async { panic!("told to") })
        .unwrap();
    assert!(runtime.block_on(failed).is_err());

    let answer = get(addr, "/metrics");
    assert_eq!(answer.status, 200);
    let media = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(answer.header("content-type"), Some(media));
    for line in answer.body.lines() {
        assert!(is_well_formed(line), "{line:?}");
    }
    for want in [
        "plimsoll_tasks 1",
        "plimsoll_ready 0",
        "plimsoll_holdings_stale 0",
        "plimsoll_tasks_spawned_total 2",
        "plimsoll_tasks_refused_total 0",
        "plimsoll_tasks_panicked_total 1",
        "plimsoll_holding_entries{holding=\"sessions\"} 2",
        "plimsoll_holding_bytes{holding=\"sessions\"} 200",
        "plimsoll_holding_inserted_total{holding=\"sessions\"} 5",
        "plimsoll_holding_removed_total{holding=\"sessions\",reason=\"expired\"} 3",
        "plimsoll_sweeps_total{holding=\"sessions\"} 1",
        "# HELP plimsoll_tasks Named tasks alive.",
        "# HELP plimsoll_holding_bytes Bytes held.",
        "# TYPE plimsoll_tasks_spawned_total counter",
    ] {
        assert!(
            answer.body.lines().any(|line| line == want),
            "{want} in\n{}",
            answer.body
        );
    }

    // Every scrape is of now.
    lifecycle.set_ready();
    sessions.insert(1);
    let body = get(addr, "/metrics").body;
    assert!(body.contains("\nplimsoll_ready 1\n"), "{body}");
    assert!(
        body.contains("plimsoll_holding_entries{holding=\"sessions\"} 3\n"),
        "{body}"
    );

    let head = ask(addr, "HEAD", "/metrics", "");
    assert_eq!((head.status, &*head.body), (200, ""));
    runtime.block_on(control.stop());
}

#[test]
fn one_scrape_at_a_time_and_a_holding_that_hangs_is_left_out() {
    let _alone = alone();
    let runtime = runtime();
    let _inside = runtime.enter();
    let (registry, lifecycle) = (Registry::new(), Lifecycle::new());
    let (control, addr) = start(&registry, &lifecycle, Some(install_recorder().unwrap()));
    let (hanging, asked) = Odd::hanging("hanging");
    let hanging = registry.register(hanging).unwrap();
    let (release, held) = mpsc::channel::<()>();
    let (locked_tx, locked) = mpsc::channel();
    let holder = std::thread::spawn({
        let hanging = hanging.clone();
        move || {
            let _guard = hanging.lock.lock().unwrap();
            locked_tx.send(()).unwrap();
            let _ = held.recv();
        }
    });
    locked.recv().unwrap();

    let mut first = TcpStream::connect(addr).unwrap();
    let head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    first.write_all(head.as_bytes()).unwrap();
    asked.recv().unwrap();
    let second = get(addr, "/metrics");
    let detail = second.problem(503, "Service Unavailable");
    assert_eq!(detail, "another scrape is under way");
    assert_eq!(second.header("retry-after"), Some("1"));
    assert_eq!(get(addr, "/livez").status, 200);

    let first = read(first);
    assert_eq!(first.status, 200, "rendered without that holding");
    assert!(
        first.body.contains("\nplimsoll_holdings_stale 1\n"),
        "{}",
        first.body
    );
    assert_eq!(
        get(addr, "/metrics").status,
        200,
        "and the next one does not wait again"
    );
    assert_eq!(
        asked.try_iter().count(),
        0,
        "nor is the holding asked again"
    );

    drop(release);
    holder.join().unwrap();
    let answers = (0..100_000).map(|_| get(addr, "/metrics").body);
    let fresh = answers
        .into_iter()
        .find(|body| body.contains("\nplimsoll_holdings_stale 0\n"));
    assert!(
        fresh
            .unwrap()
            .contains("plimsoll_holding_entries{holding=\"hanging\"} 1\n")
    );
    runtime.block_on(control.stop());
}

#[test]
fn the_recorder_is_installed_once() {
    let _alone = alone();
    let (first, second) = (install_recorder().unwrap(), install_recorder().unwrap());
    metrics::counter!("once_total").increment(1);
    assert!(first.render().contains("once_total 1\n"));
    assert!(second.render().contains("once_total 1\n"));
}
