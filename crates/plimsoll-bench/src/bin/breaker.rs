//! A call through a circuit breaker, against the breakers one would use instead.

use clap::Parser;
use plimsoll_bench::{Error, Options, Suite};
use plimsoll_breaker::{CircuitBreaker, CircuitBreakerConfig, CircuitBreakerLayer, Window};

use std::{
    future::{Ready, ready},
    hint::black_box,
    time::Duration,
};
use tower::{Layer, Service, ServiceExt, service_fn};

#[derive(Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    options: Options,
}

const HOUR: Duration = Duration::from_secs(3_600);
/// Every so many calls fail in the cases with failures.
const FAILS: u64 = 50;

#[derive(Clone, Copy, Debug)]
struct Down;

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("down")
    }
}

impl std::error::Error for Down {}

type Bare = tower::util::ServiceFn<fn(u64) -> Ready<Result<u64, Down>>>;

fn good() -> Bare {
    service_fn(answer as fn(u64) -> _)
}

/// Fails two calls in a hundred.
fn flaky() -> Bare {
    service_fn(answer_or_fail as fn(u64) -> _)
}

#[inline(never)]
fn answer(request: u64) -> Ready<Result<u64, Down>> {
    ready(Ok(request))
}

#[inline(never)]
fn answer_or_fail(request: u64) -> Ready<Result<u64, Down>> {
    ready(if request.is_multiple_of(FAILS) {
        Err(Down)
    } else {
        Ok(request)
    })
}

fn main() -> Result<(), Error> {
    let mut suite = Suite::new("Circuit breakers", Args::parse().options);
    bare(&mut suite);
    ours(&mut suite)?;
    failsafe_cases(&mut suite);
    recloser_cases(&mut suite);
    tower_resilience(&mut suite)?;
    tower_circuitbreaker(&mut suite);
    suite.run()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime with timers alone needs nothing")
}

/// Calls a service `calls` times.
async fn drive<S: Service<u64>>(service: &mut S, calls: u64) {
    for n in 0..calls {
        let Ok(ready) = service.ready().await else {
            return;
        };
        let _ = black_box(ready.call(black_box(n)).await);
    }
}

/// One thread, and two on clones of one service.
fn service<S>(suite: &mut Suite, name: &str, baseline: &str, service: &S)
where
    S: Service<u64> + Clone + Send + Sync + 'static,
{
    let runtime_of_one = runtime();
    let mut one = service.clone();
    let case = suite.single(name, move |calls| {
        runtime_of_one.block_on(drive(&mut one, calls));
    });
    case.versus(&format!("{baseline} 1T"));
    let shared = service.clone();
    let case = suite.double(name, move |_, calls| {
        let mut mine = shared.clone();
        runtime().block_on(drive(&mut mine, calls));
    });
    case.versus(&format!("{baseline} 2T"));
}

fn bare(suite: &mut Suite) {
    service(suite, "bare", "bare", &good());
}

const CLOSED: &str = "closed tower-resilience calls=100";
const OPEN: &str = "open recloser len=100";

fn ours(suite: &mut Suite) -> Result<(), Error> {
    let config = || {
        CircuitBreakerConfig::new()
            .failure_rate(60.0)
            .open_for(HOUR)
            .open_max(HOUR)
    };
    let make = |config| CircuitBreaker::new("bench", config);
    for calls in [100, 10_000] {
        let breaker = make(config().window(Window::Calls(calls)))?;
        let guarded = CircuitBreakerLayer::new(breaker).layer(good());
        service(
            suite,
            &format!("closed plimsoll calls={calls}"),
            CLOSED,
            &guarded,
        );
    }
    let breaker = make(config().window(Window::Time(Duration::from_secs(10))))?;
    let guarded = CircuitBreakerLayer::new(breaker).layer(good());
    service(suite, "closed plimsoll time=10s", CLOSED, &guarded);

    let breaker = make(config().history(plimsoll_breaker::HistoryConfig::disabled()))?;
    let guarded = CircuitBreakerLayer::new(breaker).layer(good());
    service(
        suite,
        "closed plimsoll calls=100, no history",
        CLOSED,
        &guarded,
    );

    let breaker = make(config())?;
    let guarded = CircuitBreakerLayer::new(breaker).layer(flaky());
    {
        let breaker = make(config().history(plimsoll_breaker::HistoryConfig::disabled()))?;
        let guarded = CircuitBreakerLayer::new(breaker).layer(flaky());
        service(suite, "2% failures plimsoll nohist", "bare", &guarded);
    }
    service(suite, "2% failures plimsoll calls=100", "bare", &guarded);

    let breaker = make(config())?;
    breaker.open_for(HOUR)?;
    let guarded = CircuitBreakerLayer::new(breaker).layer(good());
    service(suite, "open plimsoll", OPEN, &guarded);
    Ok(())
}

/// A breaker that wraps futures instead of services.
macro_rules! future_case {
    ($suite:ident, $name:expr, $baseline:expr, $inner:expr, $breaker:expr) => {{
        let (runtime_of_one, breaker, mut inner) = (runtime(), $breaker, $inner);
        let case = $suite.single($name, move |calls| {
            runtime_of_one.block_on(async {
                for n in 0..calls {
                    let _ = black_box(breaker.call(inner.call(black_box(n))).await);
                }
            });
        });
        case.versus(&format!("{} 1T", $baseline));
        let breaker = $breaker;
        let case = $suite.double($name, move |_, calls| {
            let (breaker, mut inner) = (breaker.clone(), $inner);
            runtime().block_on(async {
                for n in 0..calls {
                    let _ = black_box(breaker.call(inner.call(black_box(n))).await);
                }
            });
        });
        case.versus(&format!("{} 2T", $baseline));
    }};
}

fn failsafe_cases(suite: &mut Suite) {
    use failsafe::{Config, backoff, failure_policy, futures::CircuitBreaker as _};
    let consecutive = || {
        let policy = failure_policy::consecutive_failures(5, backoff::constant(HOUR));
        Config::new().failure_policy(policy).build()
    };
    future_case!(
        suite,
        "closed failsafe default",
        CLOSED,
        good(),
        Config::new().build()
    );
    future_case!(
        suite,
        "closed failsafe consecutive=5",
        CLOSED,
        good(),
        consecutive()
    );
    future_case!(
        suite,
        "2% failures failsafe consecutive=5",
        CLOSED,
        flaky(),
        consecutive()
    );
    let open = || {
        let breaker = consecutive();
        runtime().block_on(async {
            for _ in 0..10 {
                let _ = breaker.call(ready(Err::<u64, _>(Down))).await;
            }
        });
        breaker
    };
    future_case!(suite, "open failsafe consecutive=5", OPEN, good(), open());
}

fn recloser_cases(suite: &mut Suite) {
    let make = |len| -> recloser::AsyncRecloser {
        recloser::Recloser::custom()
            .error_rate(0.6)
            .closed_len(len)
            .half_open_len(10)
            .open_wait(HOUR)
            .build()
            .into()
    };
    future_case!(suite, "closed recloser len=100", CLOSED, good(), make(100));
    future_case!(
        suite,
        "closed recloser len=10000",
        CLOSED,
        good(),
        make(10_000)
    );
    future_case!(
        suite,
        "2% failures recloser len=100",
        CLOSED,
        flaky(),
        make(100)
    );
    let open = || {
        let breaker = make(100);
        runtime().block_on(async {
            for _ in 0..300 {
                let _ = breaker.call(ready(Err::<u64, _>(Down))).await;
            }
        });
        breaker
    };
    future_case!(suite, OPEN, OPEN, good(), open());
}

fn tower_resilience(suite: &mut Suite) -> Result<(), Error> {
    use tower_resilience_circuitbreaker::CircuitBreakerLayer;
    let make = |calls| {
        CircuitBreakerLayer::builder()
            .failure_rate_threshold(0.6)
            .sliding_window_size(calls)
            .minimum_number_of_calls(20)
            .wait_duration_in_open(HOUR)
            .build()
    };
    service(suite, CLOSED, CLOSED, &make(100)?.layer(good()));
    let name = "closed tower-resilience calls=10000";
    service(suite, name, CLOSED, &make(10_000)?.layer(good()));
    let name = "2% failures tower-resilience calls=100";
    service(suite, name, CLOSED, &make(100)?.layer(flaky()));
    let open = make(100)?.layer(good());
    runtime().block_on(open.force_open());
    service(suite, "open tower-resilience", OPEN, &open);
    Ok(())
}

/// Its service cannot be cloned and each layer makes its own state: one thread only.
fn tower_circuitbreaker(suite: &mut Suite) {
    let make = || {
        let config = tower_circuitbreaker::CircuitBreakerConfig::<u64, Down>::builder()
            .failure_rate_threshold(0.6)
            .sliding_window_size(100)
            .minimum_number_of_calls(20)
            .wait_duration_in_open(HOUR);
        config.build().layer(good())
    };
    let (runtime_of_one, mut guarded) = (runtime(), make());
    let case = suite.single("closed tower-circuitbreaker calls=100", move |calls| {
        runtime_of_one.block_on(drive(&mut guarded, calls));
    });
    case.versus(&format!("{CLOSED} 1T"));
    let (runtime_of_one, mut guarded) = (runtime(), make());
    runtime_of_one.block_on(guarded.force_open());
    let case = suite.single("open tower-circuitbreaker", move |calls| {
        runtime_of_one.block_on(drive(&mut guarded, calls));
    });
    case.versus(&format!("{OPEN} 1T"));
}
