//! A call to an adapter, against a stack of layers made by hand, and several calls at once.

use clap::Parser;
use plimsoll_adapter::{Adapter, Adapters};
use plimsoll_bench::{Error, Options, Suite};
use plimsoll_core::BoxError;
use std::{
    future::{Ready, ready},
    hint::black_box,
    time::Duration,
};
use tokio::runtime::{Builder, Runtime};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt,
    util::{BoxCloneSyncService, ServiceFn},
};
use tower_resilience_circuitbreaker::CircuitBreakerLayer;

#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    options: Options,
}

type Bare = ServiceFn<fn(u64) -> Ready<Result<u64, BoxError>>>;
type Boxed = BoxCloneSyncService<u64, u64, BoxError>;

const TIMEOUT: Duration = Duration::from_secs(2);
const MANY: usize = 8;

fn bare() -> Bare {
    tower::service_fn(answer as fn(u64) -> _)
}

#[inline(never)]
fn answer(request: u64) -> Ready<Result<u64, BoxError>> {
    ready(Ok(request))
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime with timers alone needs nothing")
}

fn adapter(name: &str) -> Result<Adapter<u64, u64>, Error> {
    Ok(Adapter::builder(name).timeout(TIMEOUT).service(bare())?)
}

/// What one would stack instead, in the order of an adapter.
fn by_hand() -> Result<Boxed, Error> {
    let breaker = CircuitBreakerLayer::builder()
        .failure_rate_threshold(0.5)
        .sliding_window_size(100)
        .minimum_number_of_calls(20)
        .wait_duration_in_open(Duration::from_secs(30))
        .build()?;
    let timed = ServiceBuilder::new().timeout(TIMEOUT).service(bare());
    let guarded = breaker.layer(timed).map_err(BoxError::from);
    let limited = ServiceBuilder::new().concurrency_limit(64).service(guarded);
    Ok(BoxCloneSyncService::new(limited))
}

fn main() -> Result<(), Error> {
    let mut suite = Suite::new("Adapters", Args::parse().options);
    one(&mut suite, "bare, boxed", BoxCloneSyncService::new(bare()));
    one(&mut suite, BY_HAND, by_hand()?);
    let (runtime_of_one, ours) = (runtime(), adapter("bench")?);
    let case = suite.single("call: plimsoll", move |calls| {
        runtime_of_one.block_on(async {
            for n in 0..calls {
                let _ = black_box(ours.call(black_box(n)).await);
            }
        });
    });
    case.versus(&format!("call: {BY_HAND} 1T"));
    many(&mut suite)?;
    suite.run()
}

const BY_HAND: &str = "limit, tower-resilience, timeout, boxed";

fn one(suite: &mut Suite, name: &str, service: Boxed) {
    let (runtime_of_one, mut service) = (runtime(), service);
    let case = suite.single(&format!("call: {name}"), move |calls| {
        runtime_of_one.block_on(async {
            for n in 0..calls {
                let Ok(ready) = service.ready().await else {
                    return;
                };
                let _ = black_box(ready.call(black_box(n)).await);
            }
        });
    });
    case.versus(&format!("call: {BY_HAND} 1T"));
}

fn many(suite: &mut Suite) -> Result<(), Error> {
    let baseline = format!("join_all of {MANY}: bare, boxed");
    for (name, service) in [
        (baseline.clone(), BoxCloneSyncService::new(bare())),
        (format!("join_all of {MANY}: {BY_HAND}"), by_hand()?),
    ] {
        let runtime_of_one = runtime();
        let services: Vec<Boxed> = (0..MANY).map(|_| service.clone()).collect();
        let case = suite.single(&name, move |calls| {
            runtime_of_one.block_on(async {
                for n in 0..calls {
                    let calls = services.iter().map(|service| service.clone().oneshot(n));
                    let _ = black_box(futures_util::future::join_all(calls).await);
                }
            });
        });
        case.versus(&format!("{baseline} 1T"));
    }
    let all: Result<Vec<_>, _> = (0..MANY).map(|n| adapter(&format!("bench-{n}"))).collect();
    let adapters = Adapters::new(all?)?;
    let runtime_of_one = runtime();
    let case = suite.single(&format!("call_all of {MANY}: plimsoll"), move |calls| {
        runtime_of_one.block_on(async {
            for n in 0..calls {
                let _ = black_box(adapters.call_all(black_box(n), None).await);
            }
        });
    });
    case.versus(&format!("{baseline} 1T"));
    case.versus(&format!("join_all of {MANY}: {BY_HAND} 1T"));
    Ok(())
}
