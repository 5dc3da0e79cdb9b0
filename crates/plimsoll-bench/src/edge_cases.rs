//! Requests through the edge in process, over whichever allocator the program has.

use crate::{
    Error, Options, Suite,
    edge::{Hello, HelloBody, NoOpLayer, drive, naive_metrics, router},
    suite::Case,
};
use axum::Router;
use clap::Parser;
use http::{Request, Response};
use http_body::Body;
use metrics_exporter_prometheus::PrometheusHandle;
use plimsoll_admin::install_recorder;
use plimsoll_alloc::{Mode, is_installed, set_mode};
use plimsoll_http::EdgeLayer;
use plimsoll_memory::{BudgetMode, MemoryConfig, admission::Meter};
use std::convert::Infallible;
use tower::{Layer, Service};

/// The recorder, which the naive metrics use, keeps each sample until upkeep; that comes after each
/// sample of a case.
const MOST_OPS: u64 = 500_000;

#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    options: Options,
}

/// What is used, far from the line.
struct Fixed;

impl Meter for Fixed {
    fn used(&mut self) -> Option<u64> {
        Some(100 << 20)
    }
}

struct Cases {
    suite: Suite,
    recorder: PrometheusHandle,
}

/// Runs the cases by the arguments of the program.
///
/// # Errors
///
/// As [`Suite::run`].
pub fn run(title: &'static str) -> Result<(), Error> {
    let options = Args::parse().options;
    let mut cases = Cases {
        suite: Suite::new(title, options),
        recorder: install_recorder()?,
    };
    cases.add("tower", "bare", Hello);
    cases.add("tower", "no-op layer", NoOpLayer.layer(Hello));
    cases.add("tower", "edge", EdgeLayer::new().layer(Hello));
    cases.add("axum", "bare", router().with_state(()));
    cases.add(
        "axum",
        "no-op layer",
        router().layer(NoOpLayer).with_state(()),
    );
    let edge = router().layer(EdgeLayer::new()).with_state(());
    cases.add("axum", "edge", edge.clone());
    if is_installed() {
        cases.add_counted(&edge)?;
    }
    let naive = router().layer(axum::middleware::from_fn(naive_metrics));
    cases.add("axum", "naive metrics", naive.with_state(()));
    cases.add(
        "axum without with_state",
        "no-op layer",
        router().layer(NoOpLayer),
    );
    let edge = router().layer(EdgeLayer::new());
    cases.add("axum without with_state", "edge", edge);
    cases.suite.run()
}

impl Cases {
    fn add<S, B>(&mut self, kind: &str, variant: &str, service: S)
    where
        S: Service<Request<HelloBody>, Response = Response<B>, Error = Infallible>,
        S: Clone + Sync + 'static,
        B: Body,
    {
        let name = format!("{kind}: {variant}");
        let single = service.clone();
        self.single(kind, variant, move |requests| drive(&single, requests));
        let upkeep = self.upkeep();
        self.suite
            .double(&name, move |_, requests| drive(&service, requests))
            .versus(&format!("{kind}: no-op layer 2T"))
            .most_ops(MOST_OPS)
            .after(upkeep);
    }

    /// Adds what is the same without an allocator that counts.
    fn add_counted(&mut self, edge: &Router) -> Result<(), Error> {
        let budget = MemoryConfig::new()
            .budget(1 << 30)
            .on_over_budget(BudgetMode::Enforce);
        let layer = EdgeLayer::new().memory(&budget)?;
        let with_budget = router().layer(layer).with_state(());
        self.add("axum", "edge, with a budget", with_budget);
        let layer = EdgeLayer::new();
        layer.admission().set_meter(Fixed);
        layer.admission().set_line(Some(1 << 30));
        let admitted = router().layer(layer).with_state(());
        self.add("axum", "edge, with admission", admitted);
        for (variant, mode) in [("edge, counters", Mode::Counters), ("edge, off", Mode::Off)] {
            let edge = edge.clone();
            // On one thread only, since the mode is that of the process.
            let case = self.single("axum", variant, move |requests| {
                set_mode(mode);
                drive(&edge, requests);
                set_mode(Mode::Precise);
            });
            case.versus("axum: edge 1T");
        }
        Ok(())
    }

    fn single(&mut self, kind: &str, variant: &str, work: impl FnMut(u64) + 'static) -> &mut Case {
        let upkeep = self.upkeep();
        self.suite
            .single(&format!("{kind}: {variant}"), work)
            .versus(&format!("{kind}: no-op layer 1T"))
            .most_ops(MOST_OPS)
            .after(upkeep)
    }

    fn upkeep(&self) -> impl FnMut() + use<> {
        let recorder = self.recorder.clone();
        move || recorder.run_upkeep()
    }
}
