//! Ten thousand requests of every kind at once hold what they are known to keep, and nothing else.
//!
//! The service runs as any does, on four workers and over TCP. Its clients are tasks of this thread,
//! which is in no scope, so that nothing of theirs is a request's. Whatever handlers keep lies on a
//! shelf or in a cache, and what the routes are said to hold is compared with that once all is quiet.

mod client;
mod ledger;
mod plan;
mod service;

use client::Client;
use ledger::{Asked, adds_up, is_empty, memory, off};
use plan::{Kind, plan};
use plimsoll::{
    BudgetMode, Config, LifecycleConfig, MemoryConfig, MonitorConfig, Phase, Plimsoll, StopReport,
    TrackingAllocator, alloc::CountingAllocator,
};
use service::{BUDGET, CACHED, Shared, TOLD_TO, app};
use std::{
    iter,
    net::SocketAddr,
    panic,
    sync::{Arc, Barrier, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    task::{self, JoinSet, yield_now},
    time::{Instant, timeout},
};

/// The outer one is what everything is compared to.
#[global_allocator]
static ALLOC: CountingAllocator<TrackingAllocator> =
    CountingAllocator::new(TrackingAllocator::system());

const REQUESTS: usize = 10_000;
const WORKERS: usize = 4;
/// Threads for blocking work, made before anything is measured.
const BLOCKING: usize = 4;
/// Those, the one that frees what it is sent, this one, and the one that waits for it.
const THREADS: u64 = (WORKERS + BLOCKING) as u64 + 3;

/// What all routes together may hold besides what they keep. A worker has a list of those that yield,
/// which belongs to the request that made it grow, and is gone with the worker. It has room for a
/// power of two of 16 bytes each, and fewer than 64 yield at a time: 1 KiB for each worker.
const RESIDUE: u64 = WORKERS as u64 * 1_024;
/// What a task takes that is spawned and waits, besides what it holds.
const TASK: u64 = 1_024;
/// By how much the process may grow from round to round. What it keeps for itself is made in the
/// first.
const GROWTH: u64 = 16 << 10;

/// How long it may take until all is quiet.
const DEADLINE: Duration = Duration::from_secs(120);

struct Service {
    runtime: Runtime,
    plimsoll: Plimsoll,
    addr: SocketAddr,
    serving: task::JoinHandle<Arc<StopReport>>,
    shared: Arc<Shared>,
    frees: JoinHandle<()>,
    asked: Asked,
}

#[test]
fn ten_thousand_mixed_requests_hold_what_they_keep_and_nothing_else() {
    silence_panics_that_are_told_to();
    let clients = Builder::new_current_thread().enable_all().build();
    let clients = clients.expect("a runtime");
    let mut service = Service::start();
    let edge = service.plimsoll.layer();
    // What all share is made by the first who need it.
    clients.block_on(service.round(&plan(REQUESTS / 10, 0)));
    service.shared.clear();

    let mut held = Vec::with_capacity(4);
    for seed in 1..=4 {
        let began = Instant::now();
        clients.block_on(service.round(&plan(REQUESTS, seed)));
        assert_eq!(service.shared.cached(), CACHED);
        let took = Instant::now().saturating_duration_since(began);
        if seed < 4 {
            service.shared.clear();
        }
        let off = off(&edge, &service.shared, RESIDUE).expect("what is kept");
        println!("round {seed}: {took:?}, {off} B too many");
        held.push(ALLOC.live_bytes() - service.shared.kept_in_all());
    }
    println!("{held:?} B held besides");
    for later in &held[1..] {
        assert!(*later <= held[0] + GROWTH, "{held:?}");
    }
    service.stop();
}

/// Has the others told as ever.
fn silence_panics_that_are_told_to() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        if text.or_else(|| payload.downcast_ref::<&str>().copied()) != Some(TOLD_TO) {
            tell(info);
        }
    }));
}

impl Service {
    fn start() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING)
            .thread_keep_alive(Duration::from_secs(3_600))
            .enable_all()
            .build()
            .expect("a runtime");
        let all = Arc::new(Barrier::new(BLOCKING + 1));
        for all in iter::repeat_n(all.clone(), BLOCKING) {
            runtime.spawn_blocking(move || all.wait());
        }
        all.wait();
        let (shared, receiver) = Shared::new(REQUESTS);
        // What the monitor remembers grows with each look until it is full, so that the process would
        // grow with the time that the rounds take.
        let monitor = MonitorConfig::new().interval(Duration::from_secs(60));
        let memory = MemoryConfig::new()
            .budget_of(Kind::Budget.route(), BUDGET)
            .budget_of(Kind::Over.route(), BUDGET)
            .on_over_budget(BudgetMode::Enforce)
            .monitor(monitor);
        let (plimsoll, addr, serving) = runtime.block_on(serve(memory, &shared));
        let freed = shared.freed.clone();
        let frees = thread::spawn(move || {
            for value in receiver {
                drop(value);
                freed.fetch_add(1, Relaxed);
            }
        });
        Self {
            runtime,
            plimsoll,
            addr,
            serving,
            shared,
            frees,
            asked: Asked::default(),
        }
    }

    /// Has clients send requests, all at once and each its own in turn. When all is quiet, finds that
    /// everything was counted.
    async fn round(&mut self, plan: &[Kind]) {
        let shared = &self.shared;
        let of = |kind: Kind| plan.iter().filter(|asked| **asked == kind).count();
        let ended = shared.ended.load(Relaxed) + of(Kind::Along) + of(Kind::Away);
        let freed = shared.freed.load(Relaxed) + of(Kind::Channel);
        for count in shared.along.iter().chain([&shared.moved]) {
            count.store(0, Relaxed);
        }
        self.ask(plan).await;
        self.asked.add(plan);
        assert!(shared.moved.load(Relaxed) > 0, "no request moved");

        let (edge, server) = (self.plimsoll.layer(), self.plimsoll.server());
        until(|| is("open connections", server.connections(), 0)).await;
        until(|| is("requests in the server", server.in_flight(), 0)).await;
        until(|| is("requests at the edge", edge.in_flight(), 0)).await;

        // The responses are gone, and what was spawned along is the requests' as before.
        let [held, waiting] = &shared.along;
        until(|| is("tasks along", waiting.load(Relaxed), of(Kind::Along))).await;
        let held = held.load(Relaxed) as u64;
        let most = held + TASK * of(Kind::Along) as u64;
        until(|| match memory(&edge, Kind::Along).live {
            live if (held..=most).contains(&live) => Ok(()),
            live => Err(format!("{live} live, {held} held by tasks")),
        })
        .await;
        shared.release.send_replace(());

        until(|| is("tasks that ended", shared.ended.load(Relaxed), ended)).await;
        until(|| is("values freed", shared.freed.load(Relaxed), freed)).await;
        until(|| off(&edge, shared, RESIDUE).map(drop)).await;
        until(|| adds_up(&edge, THREADS)).await;
        self.asked.is_counted(&edge);
    }

    /// Eleven clients with a connection each, two with one of HTTP/2, and ten that share two.
    async fn ask(&self, plan: &[Kind]) {
        let (addr, shared) = (self.addr, &self.shared);
        let mut clients = Vec::new();
        clients.extend((0..11).map(|_| Client::http1(addr, shared.clone())));
        clients.extend((0..2).map(|_| Client::http2(addr, shared.clone())));
        for _ in 0..2 {
            clients.extend(Client::sharing(addr, shared, 5).await);
        }
        let all = clients.len();
        let mut asking = JoinSet::new();
        for (place, mut client) in clients.into_iter().enumerate() {
            let mine = plan.iter().copied().enumerate().skip(place).step_by(all);
            let mine: Vec<_> = mine.collect();
            asking.spawn(async move {
                for (n, kind) in mine {
                    client.ask(kind, n).await;
                }
            });
        }
        let asked = timeout(2 * DEADLINE, asking.join_all()).await;
        asked.expect("every request is answered");
    }

    /// Stops the service. Without its threads, routes hold what they keep to the byte, and nothing
    /// once that is gone.
    fn stop(self) {
        let edge = self.plimsoll.layer();
        self.plimsoll.request_stop();
        let report = self.runtime.block_on(self.serving).expect("serving ends");
        assert!(report.is_clean(), "{report}");
        drop((self.plimsoll, self.runtime));
        off(&edge, &self.shared, 0).expect("what is kept");
        adds_up(&edge, 3).expect("one figure");
        self.shared.clear();
        is_empty(&edge, 3);
        drop(self.shared);
        self.frees.join().expect("nothing failed");
    }
}

async fn serve(
    memory: MemoryConfig,
    shared: &Arc<Shared>,
) -> (Plimsoll, SocketAddr, task::JoinHandle<Arc<StopReport>>) {
    let lifecycle = LifecycleConfig::default().drain_delay(Duration::ZERO);
    let config = Config::new().no_control().lifecycle(lifecycle);
    let plimsoll = Plimsoll::start(config.memory(memory)).expect("a service");
    let app = app().layer(plimsoll.layer()).with_state(shared.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let mut phase = plimsoll.lifecycle().watch_phase();
    let serving = tokio::spawn({
        let plimsoll = plimsoll.clone();
        async move { plimsoll.serve(listener, app).await.expect("signals") }
    });
    let running = phase.wait_for(|phase| *phase == Phase::Running).await;
    running.expect("the lifecycle lives");
    (plimsoll, addr, serving)
}

/// Waits until something is so.
async fn until(is_so: impl Fn() -> Result<(), String>) {
    let deadline = Instant::now() + DEADLINE;
    while let Err(why) = is_so() {
        assert!(Instant::now() < deadline, "{why}");
        yield_now().await;
    }
}

fn is(what: &str, found: usize, wanted: usize) -> Result<(), String> {
    match found == wanted {
        true => Ok(()),
        false => Err(format!("{found} {what}, not {wanted}")),
    }
}
