//! A call to an adapter where the tracking allocator is installed: not weighed, weighed, and within the
//! scope of a request.

use clap::Parser;
use plimsoll_adapter::{Adapter, BudgetMode};
use plimsoll_alloc::{MemoryGroup, Mode, TrackingAllocator, set_mode};
use plimsoll_bench::{Error, Options, Suite};
use plimsoll_core::BoxError;
use std::{
    future::{Ready, ready},
    hint::black_box,
    time::Duration,
};
use tokio::runtime::Builder;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_resilience_circuitbreaker::CircuitBreakerLayer;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    options: Options,
}

const TIMEOUT: Duration = Duration::from_secs(2);
const BY_HAND: &str = "call: limit, tower-resilience, timeout, boxed";

#[inline(never)]
fn answer(request: u64) -> Ready<Result<u64, BoxError>> {
    ready(Ok(request))
}

fn main() -> Result<(), Error> {
    let mut suite = Suite::new("Adapters that weigh", Args::parse().options);
    by_hand(&mut suite)?;
    for (name, mode, is_within, budget) in [
        ("off", Mode::Off, false, None),
        ("weighed", Mode::Precise, false, None),
        ("weighed, budget", Mode::Precise, false, Some(1 << 20)),
        ("weighed within a scope", Mode::Precise, true, None),
    ] {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let adapter = Adapter::builder(name)
            .timeout(TIMEOUT)
            .memory_budget(budget)
            .on_over_budget(BudgetMode::Enforce)
            .service(tower::service_fn(answer as fn(u64) -> _))?;
        let routes = MemoryGroup::new();
        let case = suite.single(&format!("call: plimsoll, {name}"), move |calls| {
            set_mode(mode);
            let route = routes.scope();
            let entered = is_within.then(|| route.enter());
            runtime.block_on(async {
                for n in 0..calls {
                    let _ = black_box(adapter.call(black_box(n)).await);
                }
            });
            drop(entered);
        });
        case.versus(&format!("{BY_HAND} 1T"));
    }
    suite.run()
}

/// What one would stack instead, in the order of an adapter.
fn by_hand(suite: &mut Suite) -> Result<(), Error> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let breaker = CircuitBreakerLayer::builder()
        .failure_rate_threshold(0.5)
        .sliding_window_size(100)
        .minimum_number_of_calls(20)
        .wait_duration_in_open(Duration::from_secs(30))
        .build()?;
    let bare = tower::service_fn(answer as fn(u64) -> _);
    let timed = ServiceBuilder::new().timeout(TIMEOUT).service(bare);
    let guarded = breaker.layer(timed).map_err(BoxError::from);
    let limited = ServiceBuilder::new().concurrency_limit(64).service(guarded);
    let mut service = BoxCloneSyncService::new(limited);
    suite.single(BY_HAND, move |calls| {
        set_mode(Mode::Precise);
        runtime.block_on(async {
            for n in 0..calls {
                let Ok(ready) = service.ready().await else {
                    return;
                };
                let _ = black_box(ready.call(black_box(n)).await);
            }
        });
    });
    Ok(())
}
