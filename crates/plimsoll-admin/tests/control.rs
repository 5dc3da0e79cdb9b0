//! The life of the control listeners: what silences them, and what ends them.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use plimsoll_admin::{BindError, Control, ControlConfig, ControlError};
use plimsoll_core::{Lifecycle, Registry};
use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    time::Duration,
};
use support::{Odd, any_port, get, read, start};
use tokio::time::Instant;

#[test]
fn probes_answer_while_every_worker_is_blocked() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let registry = Registry::new();
    let lifecycle = Lifecycle::new();
    lifecycle.set_ready();
    let (control, addr) = {
        let _inside = runtime.enter();
        start(&registry, &lifecycle, None)
    };
    let (blocked_tx, blocked) = mpsc::channel();
    let releases = [(), ()].map(|()| {
        let (release, wait) = mpsc::channel::<()>();
        let blocked_tx = blocked_tx.clone();
        runtime.spawn(async move {
            blocked_tx.send(()).unwrap();
            let _ = wait.recv();
        });
        release
    });
    for _ in &releases {
        blocked.recv().unwrap();
    }

    assert_eq!(get(addr, "/livez").status, 200);
    assert_eq!(get(addr, "/readyz").status, 200);
    assert_eq!(get(addr, "/api/v1/holdings").status, 200);
    assert_eq!(get(addr, "/api/v1/tasks").json()["runtime_alive"], 2);
    // A sweep waits for a worker, and the listeners do not wait for the sweep.
    let mut sweep = TcpStream::connect(addr).unwrap();
    let head =
        "POST /api/v1/holdings/sweep HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    sweep.write_all(head.as_bytes()).unwrap();
    assert_eq!(get(addr, "/livez").status, 200);

    drop(releases);
    assert_eq!(read(sweep).status, 200);
    runtime.block_on(control.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holding_that_hangs_silences_nobody() {
    let registry = Registry::new();
    let (control, addr) = start(&registry, &Lifecycle::new(), None);
    let (hanging, asked) = Odd::hanging("hanging");
    let hanging = registry.register(hanging).unwrap();
    // Held by nobody in this task: `await` with a guard would not be let through.
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

    let answer = get(addr, "/api/v1/holdings");
    assert_eq!(
        answer.problem(503, "Service Unavailable"),
        "a holding does not answer"
    );
    assert_eq!(answer.header("retry-after"), Some("1"));
    for _ in 0..20 {
        assert_eq!(get(addr, "/api/v1/holdings").status, 503);
        assert_eq!(get(addr, "/livez").status, 200);
    }
    assert_eq!(asked.try_iter().count(), 1, "one thread is lost, not 21");

    drop(release);
    holder.join().unwrap();
    let answers = (0..100_000).map(|_| get(addr, "/api/v1/holdings"));
    let answer = answers.into_iter().find(|answer| answer.status == 200);
    assert!(answer.is_some(), "it answers again once the lock is free");
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_and_admin_have_their_own_routes_on_addresses_of_their_own() {
    // Of the other family, where the machine has it.
    let v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0));
    let admin = if is_free(v6) { v6 } else { apart(4) };
    let config = ControlConfig::new()
        .admin_addr(admin)
        .probe_addr(any_port());
    let control = Control::start(config, Registry::new(), Lifecycle::new(), None).unwrap();
    let (probe, admin) = (control.probe_addr().unwrap(), control.admin_addr().unwrap());
    assert_ne!(probe, admin);
    assert_eq!(get(probe, "/livez").status, 200);
    get(probe, "/api/v1/tasks").problem(404, "Not Found");
    get(admin, "/livez").problem(404, "Not Found");
    assert_eq!(get(admin, "/api/v1/tasks").status, 200);
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_loopback_address_given_twice_is_one_listener() {
    let config = ControlConfig::new()
        .admin_addr(any_port())
        .probe_addr(any_port());
    let control = Control::start(config, Registry::new(), Lifecycle::new(), None).unwrap();
    assert_eq!(control.probe_addr(), control.admin_addr());
    control.stop().await;

    let config = ControlConfig::new().no_admin().probe_addr(any_port());
    let control = Control::start(config, Registry::new(), Lifecycle::new(), None).unwrap();
    assert_eq!(control.admin_addr(), None);
    get(control.probe_addr().unwrap(), "/api/v1/tasks").problem(404, "Not Found");
    control.stop().await;

    let config = ControlConfig::new().admin_addr(any_port()).no_probe();
    let control = Control::start(config, Registry::new(), Lifecycle::new(), None).unwrap();
    assert_eq!(control.probe_addr(), None);
    get(control.admin_addr().unwrap(), "/livez").problem(404, "Not Found");
    control.stop().await;
}

/// An address that no other test takes a port of, where there are such.
fn apart(host: u8) -> SocketAddr {
    let ip = if cfg!(target_os = "linux") {
        Ipv4Addr::new(127, 77, 0, host)
    } else {
        Ipv4Addr::LOCALHOST
    };
    (ip, 0).into()
}

/// Starts listeners on such an address.
fn start_apart(registry: &Registry, host: u8) -> (Control, SocketAddr) {
    let config = ControlConfig::new().admin_addr(apart(host));
    let control = Control::start(config, registry.clone(), Lifecycle::new(), None).unwrap();
    let addr = control.admin_addr().unwrap();
    (control, addr)
}

/// Whether the port can be taken, which it cannot while anybody listens there.
fn is_free(addr: SocketAddr) -> bool {
    TcpListener::bind(addr).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_frees_the_port_and_ends_the_thread() {
    let registry = Registry::new();
    // Ends when nobody has the registry any more, the thread included.
    let sweeper = tokio::spawn(registry.sweeper());
    let (control, addr) = start_apart(&registry, 1);
    drop(registry);
    let idle = TcpStream::connect(addr).unwrap();
    assert_eq!(get(addr, "/livez").status, 200);
    assert!(!is_free(addr));
    control.stop().await;
    assert!(is_free(addr));
    sweeper.await.unwrap();
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_it_ends_the_thread() {
    let registry = Registry::new();
    let sweeper = tokio::spawn(registry.sweeper());
    let (control, addr) = start_apart(&registry, 2);
    drop((registry, control));
    sweeper.await.unwrap();
    assert!(is_free(addr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_no_holding_that_hangs() {
    // A thread that is left behind takes 5 seconds each time, and a machine that is busy does not.
    let mut took = [Duration::MAX; 3];
    for took in &mut took {
        *took = stop_beside_a_holding_that_hangs().await;
        if *took < Duration::from_secs(5) {
            return;
        }
    }
    panic!("{took:?}: the thread was left behind");
}

/// How long it takes.
async fn stop_beside_a_holding_that_hangs() -> Duration {
    let registry = Registry::new();
    let (control, addr) = start_apart(&registry, 3);
    let (hanging, asked) = Odd::hanging("hanging");
    let hanging = registry.register(hanging).unwrap();
    let (release, held) = mpsc::channel::<()>();
    let (locked_tx, locked) = mpsc::channel();
    let holder = std::thread::spawn(move || {
        let _guard = hanging.lock.lock().unwrap();
        locked_tx.send(()).unwrap();
        let _ = held.recv();
    });
    locked.recv().unwrap();
    let clients = [
        "GET /api/v1/holdings",
        "POST /api/v1/holdings/hanging/sweep",
    ]
    .map(|line| {
        let mut client = TcpStream::connect(addr).unwrap();
        let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.write_all(head.as_bytes()).unwrap();
        asked.recv().unwrap();
        client
    });
    let start = Instant::now();
    control.stop().await;
    let took = Instant::now().saturating_duration_since(start);
    assert!(is_free(addr));
    drop((release, clients));
    holder.join().unwrap();
    took
}

#[test]
fn types_can_be_shared_between_threads() {
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<Control>();
    assert_shared::<ControlConfig>();
    assert_shared::<ControlError>();
    assert_shared::<BindError>();
}
