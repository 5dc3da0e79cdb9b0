//! The servers of `memory_http`: one program for each allocator, with all but that in common.

use crate::{
    Error,
    edge::{NoOpLayer, router},
    server::{self, serve_by_axum},
};
use axum::{Json, Router, extract::Request, middleware::Next, response::Response, routing::get};
use clap::{Parser, ValueEnum};
use plimsoll::{Config, ControlConfig, Plimsoll};
use plimsoll_admin::install_recorder;
use plimsoll_alloc::{Mode, profile, set_mode};
use plimsoll_http::EdgeLayer;
use plimsoll_memory::{BudgetMode, MemoryConfig, MemoryStats, process};
use serde::Serialize;
use std::{
    fs,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

/// The arguments of a server.
#[derive(Clone, Copy, Debug, Parser)]
pub struct Server {
    /// What is around the handlers.
    layer: Layer,
    /// How much the allocator counts, where there is one that does.
    #[arg(long, default_value = "precise")]
    mode: Counts,
    /// Samples the blocks that live, one byte in 512 KiB.
    #[arg(long)]
    sample: bool,
    /// Threads that serve.
    #[arg(long, default_value_t = 1)]
    workers: u8,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Layer {
    /// Nothing.
    Bare,
    /// A layer that wraps the body and does nothing.
    NoOp,
    /// What the process has in memory, read before and after.
    NaiveRss,
    /// The edge as it comes.
    Edge,
    /// The edge with a budget that is enforced, and that nobody meets.
    EdgeBudget,
    /// All that a service gets that adds `plimsoll` and changes nothing, but for the address of the
    /// admin listener. Once a second somebody asks that for metrics.
    Stack,
    /// The same, but for the server.
    StackOnAxum,
}

/// [`Mode`], as an argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Counts {
    Precise,
    Counters,
    Off,
}

impl Server {
    /// Prints the address, and serves `/hello` and `/json` until the standard input ends. Prints
    /// then how the edge has weighed requests, at worst, and how many bytes each has allocated.
    ///
    /// # Errors
    ///
    /// When it cannot begin, or print.
    pub fn serve(self) -> Result<(), Error> {
        set_mode(match self.mode {
            Counts::Precise => Mode::Precise,
            Counts::Counters => Mode::Counters,
            Counts::Off => Mode::Off,
        });
        if self.sample {
            profile::start(profile::Sampling::new());
        }
        let router = router().route("/json", get(json));
        if matches!(self.layer, Layer::Stack | Layer::StackOnAxum) {
            return self.serve_stack(router);
        }
        let edge = self.layer.edge()?;
        let router = match (self.layer, &edge) {
            (_, Some(edge)) => router.layer(edge.clone()),
            (Layer::NaiveRss, _) => router.layer(axum::middleware::from_fn(naive_rss)),
            (Layer::NoOp, _) => router.layer(NoOpLayer),
            _ => router,
        };
        let addr = start(router, edge.clone(), self.workers.into())?;
        wait(addr)?;
        println!("{}", edge.map_or_else(String::new, |edge| weighed(&edge)));
        Ok(())
    }

    /// Serves with everything that there is by default.
    fn serve_stack(self, router: Router) -> Result<(), Error> {
        let workers = self.workers.into();
        let runtime = server::runtime(workers)?;
        let context = runtime.enter();
        let admin = ControlConfig::new().admin_addr((Ipv4Addr::LOCALHOST, 0).into());
        let plimsoll = Plimsoll::start(Config::new().control(admin))?;
        let router = router.layer(plimsoll.layer()).with_state(());
        let listener = server::listen()?;
        let addr = listener.local_addr()?;
        if self.layer == Layer::Stack {
            let service = plimsoll.clone();
            runtime.spawn(async move { service.serve(listener, router).await });
        } else {
            runtime.spawn(serve_by_axum(listener, router));
        }
        drop(context);
        thread::spawn(move || server::run(&runtime, workers));
        let metrics = plimsoll.admin_addr().ok_or("there is no admin listener")?;
        thread::spawn(move || {
            while scrape(metrics).is_ok() {
                thread::sleep(Duration::from_secs(1));
            }
        });
        wait(addr)?;
        println!("{}", weighed(&plimsoll.layer()));
        Ok(())
    }
}

/// Says where it is, and waits for the standard input to end: whoever started it has it end so, even by
/// dying.
fn wait(addr: SocketAddr) -> io::Result<()> {
    println!("{addr}");
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}

fn scrape(addr: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    io::copy(&mut stream, &mut io::sink())?;
    Ok(())
}

impl Layer {
    fn edge(self) -> Result<Option<EdgeLayer>, Error> {
        let budget = MemoryConfig::new()
            .budget(1 << 30)
            .on_over_budget(BudgetMode::Enforce);
        Ok(match self {
            Self::Edge => Some(EdgeLayer::new()),
            Self::EdgeBudget => Some(EdgeLayer::new().memory(&budget)?),
            _ => None,
        })
    }
}

/// Serves on threads that live as long as the process.
fn start(router: Router, edge: Option<EdgeLayer>, workers: usize) -> Result<SocketAddr, Error> {
    let recorder = install_recorder()?;
    let runtime = server::runtime(workers)?;
    let context = runtime.enter();
    let listener = server::listen()?;
    let addr = listener.local_addr()?;
    runtime.spawn(serve_by_axum(listener, router.with_state(())));
    if edge.is_some() {
        runtime.spawn(process::watch(Duration::from_secs(1)));
    }
    drop(context);
    thread::spawn(move || server::run(&runtime, workers));
    // As the control thread of a service does for a scrape every second.
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(1));
            edge.iter().for_each(EdgeLayer::publish_metrics);
            recorder.run_upkeep();
        }
    });
    Ok(addr)
}

fn weighed(edge: &EdgeLayer) -> String {
    let endpoints = edge.snapshot();
    let all = || endpoints.iter().map(|endpoint| &endpoint.memory);
    let worst = all().filter_map(MemoryStats::attribution).max();
    let requests: u64 = all().map(MemoryStats::requests).sum();
    let bytes: u64 = all().map(|memory| memory.allocated.sum).sum();
    match worst {
        Some(worst) => format!("{worst}, {}", bytes / requests),
        None => "nothing".to_owned(),
    }
}

/// What `/json` answers with.
#[derive(Serialize)]
struct Page {
    items: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    id: u32,
    name: String,
    tags: [&'static str; 3],
    score: f64,
}

/// 16 KiB, made for each request.
async fn json() -> Json<Page> {
    let item = |id| Item {
        id,
        name: format!("item number {id} of a page"),
        tags: ["a", "bb", "ccc"],
        score: f64::from(id) * 0.5,
    };
    let items = (0..200).map(item).collect();
    Json(Page { items })
}

/// Looks at the process before and after a request, as it is often done: whatever else happens
/// meanwhile is in the difference.
async fn naive_rss(request: Request, next: Next) -> Response {
    let before = resident_pages();
    let mut response = next.run(request).await;
    let more = resident_pages().saturating_sub(before);
    response.headers_mut().insert("x-rss-pages", more.into());
    response
}

fn resident_pages() -> i64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1);
    pages.and_then(|pages| pages.parse().ok()).unwrap_or(0)
}
