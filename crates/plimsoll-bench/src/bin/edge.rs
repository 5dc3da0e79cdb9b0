//! What the edge costs a request, in process: against the bare service, and against a layer of
//! the same shape that does nothing.

use clap::Parser;
use http::{Request, Response};
use http_body::Body;
use metrics_exporter_prometheus::PrometheusHandle;
use plimsoll_admin::install_recorder;
use plimsoll_bench::{
    Error, Options, Suite,
    edge::{Hello, HelloBody, NoOpLayer, drive, naive_metrics, router},
};
use plimsoll_http::EdgeLayer;
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

struct Cases {
    suite: Suite,
    recorder: PrometheusHandle,
}

fn main() -> Result<(), Error> {
    let options = Args::parse().options;
    let mut cases = Cases {
        suite: Suite::new("Edge, in process", options),
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
    let edge = router().layer(EdgeLayer::new());
    cases.add("axum", "edge", edge.with_state(()));
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
        let upkeep = || {
            let recorder = self.recorder.clone();
            move || recorder.run_upkeep()
        };
        let single = service.clone();
        self.suite
            .single(&name, move |requests| drive(&single, requests))
            .versus(&format!("{kind}: no-op layer 1T"))
            .most_ops(MOST_OPS)
            .after(upkeep());
        self.suite
            .double(&name, move |_, requests| drive(&service, requests))
            .versus(&format!("{kind}: no-op layer 2T"))
            .most_ops(MOST_OPS)
            .after(upkeep());
    }
}
