//! Allocations per request: the edge must add none.

use http::{Request, Response};
use http_body::Body;
use plimsoll_admin::install_recorder;
use plimsoll_bench::{
    Error, Table,
    edge::{Hello, HelloBody, NoOpLayer, drive, naive_metrics, router},
};
use plimsoll_core::test_util::CountingAllocator;
use plimsoll_http::EdgeLayer;
use std::convert::Infallible;
use tower::{Layer, Service};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::system();

const REQUESTS: u64 = 100_000;

fn main() -> Result<(), Error> {
    let recorder = install_recorder()?;

    let mut table = Table::new(&["case", "allocations/request", "more than no-op"]);
    let mut report = |name: &str, allocations: f64, no_op: f64| {
        let more = allocations - no_op;
        table.row([
            name.to_owned(),
            format!("{allocations:.4}"),
            format!("{more:+.4}"),
        ]);
    };

    let no_op = allocations(&NoOpLayer.layer(Hello));
    report("tower: bare", allocations(&Hello), no_op);
    report("tower: no-op layer", no_op, no_op);
    let edge = EdgeLayer::new().layer(Hello);
    report("tower: edge", allocations(&edge), no_op);

    let no_op = allocations(&router().layer(NoOpLayer).with_state(()));
    report("axum: bare", allocations(&router().with_state(())), no_op);
    report("axum: no-op layer", no_op, no_op);
    let edge = router().layer(EdgeLayer::new()).with_state(());
    report("axum: edge", allocations(&edge), no_op);
    let naive = axum::middleware::from_fn(naive_metrics);
    let naive = router().layer(naive).with_state(());
    report("axum: naive metrics", allocations(&naive), no_op);
    recorder.run_upkeep();

    let no_op = allocations(&router().layer(NoOpLayer));
    report("axum without with_state: no-op layer", no_op, no_op);
    let edge = router().layer(EdgeLayer::new());
    let edge = allocations(&edge);
    report("axum without with_state: edge", edge, no_op);

    println!("### Allocations, {REQUESTS} requests\n\n{table}");
    Ok(())
}

/// Allocations per request, once all that is made once has been made.
fn allocations<S, B>(service: &S) -> f64
where
    S: Service<Request<HelloBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body,
{
    drive(service, 1_000);
    let before = ALLOCATOR.allocations();
    drive(service, REQUESTS);
    (ALLOCATOR.allocations() - before) as f64 / REQUESTS as f64
}
