use super::*;
use crate::Config;
use plimsoll_alloc::TrackingAllocator;
use plimsoll_core::BoxError;
use plimsoll_http::EndpointLabel;
use plimsoll_memory::{Alert, AlertKind, MemoryConfig, MonitorConfig, history::Resolution};
use std::{
    convert::Infallible,
    hint::black_box,
    sync::{Mutex, mpsc},
    time::Duration,
};
use tokio::time::Instant;
use tower::{Layer as _, ServiceExt as _, service_fn};

/// Without it nobody knows what is retained.
#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const MIB: u64 = 1 << 20;
/// No test waits for so long, unless it fails.
const WAIT: Duration = Duration::from_secs(60);

fn config() -> Config {
    let config = Config::new();
    #[cfg(feature = "admin")]
    let config = config.no_control();
    config
}

/// So many bytes that no optimiser knows of.
fn block(length: u64) -> Vec<u8> {
    black_box(Vec::with_capacity(black_box(length) as usize))
}

#[tokio::test]
async fn what_routes_and_adapters_retain_and_tasks_by_name_are_looked_at_for_leaks() {
    let plimsoll = Plimsoll::start(config()).unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let lexicon = Adapter::builder("lexicon").function(move |(): ()| {
        keep.lock().unwrap().push(block(2 * MIB));
        async { Ok::<_, BoxError>(()) }
    });
    let lexicon = plimsoll.register_adapter(lexicon.unwrap()).unwrap();
    let keep = kept.clone();
    let handler = service_fn(|_: Request<String>| {
        keep.lock().unwrap().push(block(MIB));
        async { Ok::<_, Infallible>(Response::new(String::new())) }
    });
    let mut request = Request::new(String::new());
    let label = EndpointLabel(Name::from_static("/demo/leak"));
    request.extensions_mut().insert(label);
    let response = plimsoll.layer().layer(handler).oneshot(request).await;
    drop(response.unwrap());
    lexicon.call(()).await.unwrap();
    for _ in 0..2 {
        let task = plimsoll.spawn("poll", std::future::pending::<()>());
        task.unwrap();
    }

    let Inner {
        edge,
        adapters,
        lifecycle,
        ..
    } = &*plimsoll.inner;
    let mut ask = holders(edge, adapters, lifecycle);
    let mut held = |kind, name: &str| {
        let mut told = Vec::new();
        ask(&mut told);
        let found = told
            .iter()
            .find(|it| it.kind == kind && it.name.as_str() == name);
        found.map(|it| it.held)
    };
    let near =
        |held: Option<u64>, bytes| held.is_some_and(|held| (bytes..bytes + 65_536).contains(&held));
    let [route, adapter] = [
        held(LeakKind::Route, "/demo/leak"),
        held(LeakKind::Adapter, "lexicon"),
    ];
    assert!(near(route, MIB), "{route:?}");
    assert!(near(adapter, 2 * MIB), "{adapter:?}");
    assert_eq!(held(LeakKind::Task, "poll"), Some(2));
    kept.lock().unwrap().clear();
    let adapter = held(LeakKind::Adapter, "lexicon");
    assert!(near(adapter, 0), "{adapter:?}");
}

#[tokio::test]
async fn the_history_has_the_requests_that_are_in_flight() {
    let plimsoll = Plimsoll::start(config()).unwrap();
    let pending =
        |_: Request<String>| std::future::pending::<Result<Response<String>, Infallible>>();
    let mut edge = plimsoll.layer().layer(service_fn(pending));
    let calls = [(); 2].map(|()| edge.call(Request::new(String::new())));
    let until = |count| {
        let deadline = Instant::now() + WAIT;
        let seen = || {
            let points = plimsoll.load_line().history(Resolution::Second);
            points.last().and_then(|point| point.in_flight)
        };
        while seen() != Some(count) {
            assert!(Instant::now() < deadline, "{count} were never seen");
            std::thread::yield_now();
        }
    };
    until(2);
    drop(calls);
    until(0);
}

#[tokio::test]
async fn too_many_tasks_are_an_alert_with_their_name_and_where_they_are_spawned() {
    let monitor = MonitorConfig::new()
        .max_tasks(50)
        .interval(Duration::from_millis(10));
    let memory = MemoryConfig::new().monitor(monitor);
    let plimsoll = Plimsoll::start(config().memory(memory)).unwrap();
    let (tell, told) = mpsc::channel();
    let hook = move |alert: &Alert| {
        // Others may come, by what the machine is at.
        if alert.kind == AlertKind::Tasks {
            tell.send(alert.text.clone()).unwrap();
        }
    };
    plimsoll.load_line().alerts().on_alert(hook).unwrap();
    let line = line!() + 2;
    for _ in 0..60 {
        let task = plimsoll.spawn("leaky", std::future::pending::<()>());
        task.unwrap();
    }
    let text = told.recv_timeout(WAIT).unwrap();
    let (file, what) = (file!(), "50 are expected at the most, the most of them");
    assert!(text.contains(what), "{text}");
    // The monitor may have looked before the last was there.
    let site = format!("leaky (spawned at {file}:{line})");
    assert!(text.contains(&site), "{text}");
}
