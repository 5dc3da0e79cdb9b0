//! What is done leaves nothing behind: live bytes after ten thousand rounds are those before.

use libtest_mimic::{Arguments, Failed, Trial};
use plimsoll_core::{
    Bounded, BoxFuture, CloseReport, Lifecycle, Registry, RegistryConfig, Step, Totals, Usage,
    test_util::{CountingAllocator, assert_live_bytes_return},
};
use std::{process::ExitCode, sync::Arc, time::Duration};
use tokio::{
    runtime,
    task::yield_now,
    time::{Instant, sleep},
};

#[global_allocator]
static ALLOC: CountingAllocator = CountingAllocator::system();

const ROUNDS: usize = 10_000;
const WARM_UP: usize = 100;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The allocator counts for the whole process, so nothing may run beside a test.
    arguments.test_threads = Some(1);
    let trials = vec![
        trial("tasks_that_are_done_leave_nothing", tasks),
        trial("tasks_that_end_badly_leave_nothing", aborted_tasks),
        trial("refused_tasks_leave_nothing", refused_tasks),
        trial("holdings_that_are_gone_leave_nothing", holdings),
        trial(
            "holdings_that_are_gone_leave_nothing_in_a_sweepers_time",
            pruned,
        ),
        trial("manual_sweeps_leave_nothing", sweeps),
        trial("listeners_that_are_done_leave_nothing", listeners),
        trial("a_registry_and_its_sweeper_leave_nothing", registries),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial<F>(name: &str, test: fn() -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    Trial::test(name, move || {
        let runtime = runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(Failed::from)?;
        runtime.block_on(test());
        Ok(())
    })
}

/// Holds nothing, and remembers nothing.
struct Empty;

impl Bounded for Empty {
    fn name(&self) -> &str {
        "empty"
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn totals(&self) -> Totals {
        Totals::default()
    }

    fn sweep(&self, _: Instant, _: usize) -> Step {
        Step::idle()
    }

    fn close(self: Arc<Self>, _: Instant) -> BoxFuture<'static, CloseReport> {
        Box::pin(async { CloseReport::default() })
    }
}

async fn tasks() {
    let lifecycle = Lifecycle::new();
    assert_live_bytes_return(&ALLOC, WARM_UP, ROUNDS, 0, || async {
        let task = lifecycle.spawn("brief", yield_now()).expect("a place");
        task.await.expect("it ends");
    })
    .await;
    assert_eq!(lifecycle.task_counts().spawned, (WARM_UP + ROUNDS) as u64);
}

async fn aborted_tasks() {
    let lifecycle = Lifecycle::new();
    assert_live_bytes_return(&ALLOC, WARM_UP, ROUNDS, 0, || async {
        let unpolled = lifecycle.spawn("unpolled", yield_now()).expect("a place");
        unpolled.abort();
        let detached = lifecycle.spawn("detached", yield_now()).expect("a place");
        drop(detached);
        while lifecycle.task_count() > 0 {
            yield_now().await;
        }
    })
    .await;
}

async fn refused_tasks() {
    let config = plimsoll_core::LifecycleConfig::default().max_tasks(0);
    let lifecycle = Lifecycle::with_config(config).expect("valid settings");
    assert_live_bytes_return(&ALLOC, WARM_UP, ROUNDS, 0, || async {
        assert!(lifecycle.spawn("refused", yield_now()).is_err());
    })
    .await;
}

async fn holdings() {
    // No sweeper: the name of one that is gone is given to the next.
    let registry = Registry::new();
    assert_live_bytes_return(&ALLOC, WARM_UP, ROUNDS, 0, || async {
        drop(registry.register(Arc::new(Empty)).expect("a free name"));
    })
    .await;
}

async fn pruned() {
    let second = Duration::from_secs(1);
    let registry = Registry::with_config(RegistryConfig::default().idle_interval(second));
    tokio::spawn(registry.sweeper());
    assert_live_bytes_return(&ALLOC, WARM_UP, ROUNDS, 0, || async {
        let held = registry.register(Arc::new(Empty)).expect("a free name");
        yield_now().await;
        drop(held);
        sleep(2 * second).await;
    })
    .await;
}

async fn sweeps() {
    let registry = Registry::new();
    tokio::spawn(registry.sweeper());
    let _held = registry.register(Arc::new(Empty)).expect("a free name");
    assert_live_bytes_return(&ALLOC, WARM_UP, ROUNDS, 0, || async {
        registry.sweep("empty").await.expect("it is registered");
        assert_eq!(registry.sweep_all().await.len(), 1);
        assert!(registry.sweep("unknown").await.is_err());
        yield_now().await;
    })
    .await;
}

async fn listeners() {
    let lifecycle = Lifecycle::new();
    assert_live_bytes_return(&ALLOC, WARM_UP, ROUNDS, 0, || async {
        let guard = lifecycle.listener("brief").expect("not draining");
        guard.finish(1, 0);
    })
    .await;
}

async fn registries() {
    assert_live_bytes_return(&ALLOC, WARM_UP, ROUNDS, 0, || async {
        let registry = Registry::new();
        let sweeper = tokio::spawn(registry.sweeper());
        let held = registry.register(Arc::new(Empty)).expect("a free name");
        yield_now().await;
        drop((registry, held));
        sweeper.await.expect("it ends");
    })
    .await;
}
