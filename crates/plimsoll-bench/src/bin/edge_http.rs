//! What the edge costs a service behind real connections: servers on loopback, one for each
//! variant, driven by `wrk` in turn.

use axum::Router;
use clap::Parser;
use plimsoll_admin::install_recorder;
use plimsoll_bench::{
    Error, Table, cpu,
    edge::{NoOpLayer, naive_metrics, router},
    load::{Load, Run, Runs},
    server::{self, serve_by_axum},
};
use plimsoll_core::Lifecycle;
use plimsoll_http::{EdgeLayer, Server, ServerConfig};
use std::{net::SocketAddr, thread, time::Duration};
use tokio::net::TcpListener;

const AXUM: &str = "axum::serve";
const OURS: &str = "plimsoll Server";
const BARE: &str = "bare";
const NO_OP: &str = "no-op layer";
const EDGE: &str = "edge";

/// How much of the no-op layer's throughput the edge has to reach.
const BAR: f64 = 0.97;

#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    load: Load,
}

struct Variant {
    server: &'static str,
    layer: &'static str,
    addr: SocketAddr,
    runs: Runs,
}

fn main() -> Result<(), Error> {
    let load = Args::parse().load;
    load.check()?;
    let recorder = install_recorder()?;
    let edge = EdgeLayer::new();
    let mut variants = start_servers(load.workers.into(), &edge)?;
    keep(&mut variants, &load);
    // As the control thread of a service does for a scrape every second.
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(1));
            edge.publish_metrics();
            recorder.run_upkeep();
        }
    });

    let drive = |variant: &Variant, seconds| {
        let url = format!("http://{}/hello", variant.addr);
        load.drive(&url, seconds, cpu::time_used)
    };
    for variant in &variants {
        drive(variant, 1)?;
    }
    load.rounds(&mut variants, |variant| {
        variant.runs.push(drive(variant, load.seconds)?);
        Ok(())
    })?;
    print(&load, &variants);
    Ok(())
}

/// Starts every variant on one runtime, which lives until the process ends.
fn start_servers(workers: usize, edge: &EdgeLayer) -> Result<Vec<Variant>, Error> {
    let runtime = server::runtime(workers)?;
    let naive = axum::middleware::from_fn(naive_metrics);
    let layers = [
        (BARE, router()),
        (NO_OP, router().layer(NoOpLayer)),
        (EDGE, router().layer(edge.clone())),
        ("naive metrics", router().layer(naive)),
    ];
    let mut variants = Vec::new();
    for (layer, router) in layers {
        for server in [AXUM, OURS] {
            let _context = runtime.enter();
            let listener = server::listen()?;
            variants.push(Variant {
                server,
                layer,
                addr: listener.local_addr()?,
                runs: Runs::default(),
            });
            let router = router.clone().with_state(());
            if server == AXUM {
                runtime.spawn(serve_by_axum(listener, router));
            } else {
                runtime.spawn(serve_by_us(listener, router));
            }
        }
    }
    thread::spawn(move || server::run(&runtime, workers));
    Ok(variants)
}

async fn serve_by_us(listener: TcpListener, router: Router) {
    let lifecycle = Lifecycle::new();
    lifecycle.set_ready();
    let server = Server::new("bench", ServerConfig::default()).expect("the defaults are valid");
    server.serve(listener, router, &lifecycle).await;
}

/// Drops the variants that were not asked for.
fn keep(variants: &mut Vec<Variant>, load: &Load) {
    let asked = |variant: &Variant| load.asks_for(&variant.name());
    let servers: Vec<_> = variants
        .iter()
        .filter(|variant| asked(variant))
        .map(|variant| variant.server)
        .collect();
    variants.retain(|variant| {
        asked(variant)
            || [BARE, NO_OP].contains(&variant.layer) && servers.contains(&variant.server)
    });
}

// === The report ===

impl Variant {
    fn name(&self) -> String {
        format!("{}, {}", self.server, self.layer)
    }
}

fn print(load: &Load, variants: &[Variant]) {
    let find = |server: &str, layer: &str| {
        let mut all = variants.iter();
        let found = all.find(|variant| variant.server == server && variant.layer == layer);
        found.map(|variant| &variant.runs)
    };
    println!("### Edge over HTTP/1: {load}\n");
    let mut table = Table::new(&[
        "server, layer",
        "req/s",
        "to axum::serve bare",
        "to its bare",
        "to its no-op (range)",
        "CPU µs/req",
        "CPU to its no-op",
        "p50 µs",
        "p99 µs",
        "errors",
    ]);
    let per_second = |run: &Run| run.per_second;
    for variant in variants {
        let runs = &variant.runs;
        let ratio = |base: Option<&Runs>, value| base.map(|base| runs.ratios(base, value));
        let median =
            |base, value| ratio(base, value).map_or_else(String::new, |ratios| ratios.to_string());
        let no_op = find(variant.server, NO_OP);
        table.row([
            variant.name(),
            format!("{:.0}", runs.median(per_second)),
            median(find(AXUM, BARE), per_second),
            median(find(variant.server, BARE), per_second),
            ratio(no_op, per_second).map_or_else(String::new, |ratios| ratios.with_range()),
            format!("{:.2}", runs.median(|run| run.cpu_micros)),
            median(no_op, |run| run.cpu_micros),
            format!("{:.0}", runs.median(|run| run.p50_micros)),
            format!("{:.0}", runs.median(|run| run.p99_micros)),
            runs.errors().to_string(),
        ]);
    }
    println!("{table}");
    for server in [AXUM, OURS] {
        if let (Some(edge), Some(no_op)) = (find(server, EDGE), find(server, NO_OP)) {
            let ratios = edge.ratios(no_op, per_second);
            println!(
                "{server}: the edge has {ratios} of the no-op layer; {}.",
                ratios.verdict(BAR)
            );
        }
    }
}
