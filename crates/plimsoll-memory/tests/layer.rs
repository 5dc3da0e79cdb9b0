//! What calls of a service allocate, hold and leave behind, where the allocator tells.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use futures_util::{Stream, StreamExt as _, stream};
use plimsoll_alloc::{MemoryScope, TrackingAllocator};
use plimsoll_core::{BoxError, RejectReason, Rejected};
use plimsoll_memory::{
    Attribution, Budget, HeavyLog, HeavyRequest, Histogram, MemoryConfig, MemoryFuture,
    MemoryLayer, MemoryService, MemoryStats, Sample, ScopedStream, Weigher, Weighing,
};
use std::{
    convert::Infallible,
    fmt,
    future::{Future, Ready, pending, poll_fn, ready},
    hint::black_box,
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Duration,
};
use tokio::{
    sync::oneshot,
    task::{LocalSet, block_in_place},
};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{
    Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn, util::BoxCloneSyncService,
};
use tower_test::mock;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// So many bytes that no optimiser knows of.
fn bytes(length: usize) -> Vec<u8> {
    black_box(vec![black_box(1); black_box(length)])
}

/// Waits once. Unlike the runtime's own, it allocates nothing.
async fn wait() {
    let mut waited = false;
    poll_fn(|cx| {
        if mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Allocates so much when it is dropped, which tells in which scope that is.
struct Last(usize);

impl Drop for Last {
    fn drop(&mut self) {
        drop(bytes(self.0));
    }
}

/// Panics when it is dropped.
struct Panics;

impl Drop for Panics {
    fn drop(&mut self) {
        resume_unwind(Box::new("dropped"));
    }
}

fn panics<T>(work: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(work)).is_err()
}

fn is_in_no_scope() -> bool {
    MemoryScope::current().is_none()
}

#[track_caller]
fn rejected(error: &BoxError) -> (RejectReason, &'static str) {
    let rejected = Rejected::find(&**error).unwrap();
    (rejected.reason(), rejected.source().as_str())
}

// === The contract of a layer ===

#[tokio::test]
async fn call_is_weighed_and_leaves_its_response_behind() {
    let layer = MemoryLayer::new("success");
    let service = layer.layer(service_fn(async |length: usize| {
        for _ in 0..3 {
            let working = bytes(100_000);
            wait().await;
            drop(working);
        }
        Ok::<_, Infallible>(bytes(length))
    }));
    let response = service.oneshot(500).await.unwrap();
    assert_eq!(response.len(), 500);
    let stats = layer.stats();
    assert_eq!(stats.requests(), 1);
    assert_eq!(stats.attributed(Attribution::Exact), 1);
    assert_eq!(stats.attribution(), Some(Attribution::Exact));
    assert_eq!((stats.allocated.sum, stats.peak.max), (300_500, 100_000));
    assert_eq!((stats.left.sum, stats.live), (500, 500));
    assert_eq!((stats.retained.scopes, stats.retained.bytes), (1, 500));
    assert_eq!((stats.over_budget, stats.refused, stats.cut), (0, 0, 0));
    drop(response);
    let stats = layer.stats();
    assert_eq!((stats.left.sum, stats.live), (500, 0));
    assert_eq!(stats.retained.scopes, 0);
}

/// An error of the inner service.
#[derive(Debug, PartialEq)]
struct Concrete(u8);

impl fmt::Display for Concrete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("concrete")
    }
}

impl std::error::Error for Concrete {}

#[tokio::test]
async fn inner_error_passes_unchanged_and_its_call_is_weighed() {
    let layer = MemoryLayer::new("fails").budget(Budget::enforce(1 << 20));
    let service = layer.layer(service_fn(async |n: u8| {
        let _held = bytes(1_000);
        wait().await;
        Err::<(), _>(Concrete(n))
    }));
    let error = service.oneshot(7).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Concrete(7)));
    let stats = layer.stats();
    assert_eq!((stats.requests(), stats.peak.max), (1, 1_000));
    assert_eq!((stats.refused, stats.live), (0, 0));
}

#[tokio::test]
async fn readiness_is_that_of_the_inner_service() {
    let layer = MemoryLayer::new("readiness");
    let (mut service, mut inner) = mock::spawn_layer::<(), &str, _>(layer.clone());
    inner.allow(0);
    assert_pending!(service.poll_ready());
    inner.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
    let mut response = task::spawn(service.call(()));
    assert_pending!(response.poll());
    let ((), reply) = inner.next_request().await.unwrap();
    reply.send_response("hello");
    assert!(response.is_woken());
    assert_eq!(assert_ready_ok!(response.poll()), "hello");
    assert_pending!(service.poll_ready());
    inner.send_error("broken");
    let error = assert_ready_err!(service.poll_ready());
    assert_eq!(error.to_string(), "broken");
    assert_eq!(layer.stats().requests(), 1);
}

#[tokio::test]
async fn clone_is_as_unready_as_a_clone_of_the_inner_service() {
    let layer = MemoryLayer::new("clones");
    let (mut service, mut inner) = mock::spawn_layer::<(), (), _>(layer.clone());
    inner.allow(1);
    assert_ready_ok!(service.poll_ready());
    let mut clone = service.clone();
    let first = service.call(());
    assert_pending!(clone.poll_ready(), "the one place is taken");
    inner.allow(1);
    assert!(clone.is_woken());
    assert_ready_ok!(clone.poll_ready());
    let second = clone.call(());
    drop((first, second));
    // Clones are weighed together, those of the layer as well.
    assert_eq!(layer.clone().stats().requests(), 2);
}

#[test]
fn service_that_is_dropped_while_it_is_ready_is_not_weighed() {
    let layer = MemoryLayer::new("ready");
    let (mut service, mut inner) = mock::spawn_layer::<(), (), _>(layer.clone());
    inner.allow(1);
    assert_ready_ok!(service.poll_ready());
    drop(service);
    assert_eq!(layer.stats().requests(), 0);
    assert!(layer.weigher().group().is_none(), "it took no place");
}

#[test]
fn future_dropped_before_its_first_poll_is_weighed_once_and_freed_in_its_scope() {
    let layer = MemoryLayer::new("unpolled");
    let mut service = layer.layer(service_fn(|(): ()| {
        let (held, last) = (bytes(2_000), Last(70_000));
        async move {
            drop((held, last));
            Ok::<_, Infallible>(())
        }
    }));
    let unpolled = service.call(());
    assert!(is_in_no_scope());
    assert_eq!((layer.stats().requests(), layer.stats().live), (0, 2_000));
    drop(unpolled);
    let stats = layer.stats();
    assert_eq!((stats.requests(), stats.live), (1, 0));
    assert_eq!((stats.allocated.sum, stats.peak.sum), (72_000, 70_000));
    assert!(is_in_no_scope());
}

#[test]
fn future_dropped_after_its_first_poll_is_weighed_once_and_freed_in_its_scope() {
    let layer = MemoryLayer::new("cancelled");
    let mut service = layer.layer(service_fn(|(): ()| async {
        let _held = (bytes(2_000), Last(70_000));
        pending::<Result<(), Infallible>>().await
    }));
    let mut polled = task::spawn(service.call(()));
    assert_pending!(polled.poll());
    assert!(is_in_no_scope());
    assert_eq!(layer.stats().live, 2_000);
    drop(polled);
    let stats = layer.stats();
    assert_eq!((stats.requests(), stats.live), (1, 0));
    assert_eq!(stats.allocated.sum, 72_000);
    assert!(is_in_no_scope());
}

#[test]
fn future_that_is_finished_is_weighed_before_it_is_dropped() {
    let layer = MemoryLayer::new("finished");
    let mut service = layer.layer(service_fn(|(): ()| {
        let last = Last(70_000);
        async move {
            let _last = &last;
            Ok::<_, Infallible>(())
        }
    }));
    let mut finished = task::spawn(service.call(()));
    assert_ready_ok!(finished.poll());
    let weighed = |stats: MemoryStats| (stats.requests(), stats.allocated.sum);
    assert_eq!(weighed(layer.stats()), (1, 70_000));
    drop(finished);
    assert_eq!(weighed(layer.stats()), (1, 70_000));
}

#[test]
fn panic_in_a_call_leaves_its_thread_in_no_scope() {
    let layer = MemoryLayer::new("call panics");
    let mut service = layer.layer(service_fn(|(): ()| -> Ready<Result<(), Infallible>> {
        let _held = bytes(3_000);
        resume_unwind(Box::new("told to"))
    }));
    assert!(panics(|| service.call(())));
    assert!(is_in_no_scope());
    let stats = layer.stats();
    assert_eq!((stats.requests(), stats.live), (1, 0));
    // The panic takes some of its own.
    assert!((3_000..3_500).contains(&stats.peak.max), "{stats:?}");
}

#[test]
fn panic_in_a_poll_leaves_its_thread_in_no_scope() {
    let layer = MemoryLayer::new("poll panics");
    let mut service = layer.layer(service_fn(|(): ()| async {
        let _held = bytes(3_000);
        wait().await;
        if black_box(true) {
            resume_unwind(Box::new("told to"));
        }
        Ok::<_, Infallible>(())
    }));
    let mut future = task::spawn(service.call(()));
    assert_pending!(future.poll());
    assert!(panics(|| assert_ready!(future.poll())));
    assert!(is_in_no_scope());
    assert_eq!(layer.stats().requests(), 0, "its future is there still");
    drop(future);
    let stats = layer.stats();
    assert_eq!((stats.requests(), stats.live), (1, 0));
    // The panic takes some of its own.
    assert!((3_000..3_500).contains(&stats.peak.max), "{stats:?}");
}

#[test]
fn panic_in_a_drop_leaves_its_thread_in_no_scope() {
    let layer = MemoryLayer::new("drop panics");
    let mut service = layer.layer(service_fn(|is_done: bool| {
        let held = (bytes(3_000), Panics, bytes(4_000));
        async move {
            let _held = &held;
            if !is_done {
                pending::<()>().await;
            }
            Ok::<_, Infallible>(())
        }
    }));
    // Dropped by whoever has it, then by itself since it is done, then since it holds too much.
    let future = service.call(false);
    assert!(panics(|| drop(future)));
    assert!(is_in_no_scope());
    let mut done = task::spawn(service.call(true));
    assert!(panics(|| assert_ready!(done.poll()).is_ok()));
    assert!(is_in_no_scope());
    drop(done);
    let layer = layer.budget(Budget::enforce(1));
    let mut refused = task::spawn(service.call(false));
    assert!(panics(|| assert_ready!(refused.poll()).is_err()));
    assert!(is_in_no_scope());
    drop(refused);
    let stats = layer.stats();
    assert_eq!((stats.requests(), stats.refused, stats.live), (3, 1, 0));
    assert_eq!(stats.peak.sum, 3 * 7_000);
}

#[tokio::test]
async fn it_composes_over_any_inner_error() {
    async fn through<S, E>(inner: S) -> Result<&'static str, BoxError>
    where
        S: Service<(), Response = &'static str, Error = E> + Clone,
        E: Into<BoxError>,
    {
        let builder = ServiceBuilder::new()
            .map_response(|text: &'static str| text.trim())
            .layer(MemoryLayer::new("any").budget(Budget::enforce(1 << 20)));
        builder.service(inner).oneshot(()).await
    }
    let never = service_fn(async |()| Ok::<_, Infallible>(" hello "));
    assert_eq!(through(never).await.unwrap(), "hello");
    let concrete = service_fn(async |()| Err::<&str, _>(Concrete(1)));
    assert!(through(concrete).await.unwrap_err().is::<Concrete>());
    let boxed = service_fn(async |()| Err::<&str, BoxError>("no".into()));
    let twice = MemoryLayer::new("twice").layer(boxed);
    assert_eq!(through(boxed).await.unwrap_err().to_string(), "no");
    assert_eq!(through(twice).await.unwrap_err().to_string(), "no");
}

#[test]
fn its_types_can_be_shared_sent_cloned_and_debugged() {
    fn shared<T: Send + Sync + fmt::Debug>() {}
    fn cloned<T: Clone>() {}
    shared::<MemoryLayer>();
    shared::<MemoryService<String>>();
    shared::<MemoryFuture<Ready<()>>>();
    shared::<Weigher>();
    shared::<(Weigher, Weighing)>();
    shared::<(HeavyLog, HeavyRequest, MemoryConfig, Budget)>();
    shared::<(MemoryStats, Histogram, Sample, Attribution)>();
    shared::<ScopedStream<String>>();
    cloned::<MemoryLayer>();
    cloned::<MemoryService<String>>();
    cloned::<HeavyLog>();
    let layer = MemoryLayer::new("shown").budget(Budget::observe(5));
    assert_eq!(
        format!("{:?}", layer.layer(())),
        "MemoryService { inner: (), weigher: Weigher { name: \"shown\", \
         budget: Some(Budget { bytes: 5, mode: Observe }), .. } }"
    );
}

// === Budgets ===

/// A service whose calls hold ever more, piece by piece, up to so much.
fn hoard(
    layer: &MemoryLayer,
) -> impl Service<usize, Response = usize, Error = BoxError, Future: Send> + Clone + use<> {
    layer.layer(service_fn(async |count: usize| {
        let _last = Last(50_000);
        let mut held = Vec::with_capacity(count);
        for _ in 0..count {
            held.push(bytes(10_000));
            wait().await;
        }
        Ok::<_, Infallible>(held.len())
    }))
}

#[test]
fn call_over_its_budget_ends_and_others_in_flight_go_on() {
    let layer = MemoryLayer::new("hoard").budget(Budget::enforce(100_000));
    let service = hoard(&layer);
    let call = |count| task::spawn(service.clone().oneshot(count));
    let (mut heavy, mut light) = (call(50), call(5));
    for _ in 0..3 {
        assert_pending!(heavy.poll());
        assert_pending!(light.poll());
    }
    let mut polls = 3;
    let error = loop {
        polls += 1;
        match heavy.poll() {
            Poll::Pending => {}
            Poll::Ready(done) => break done.unwrap_err(),
        }
    };
    // What counts the pieces is held as well.
    assert_eq!(polls, 10);
    assert_eq!(rejected(&error), (RejectReason::OverBudget, "hoard"));
    assert!(is_in_no_scope());
    let stats = layer.stats();
    assert_eq!(stats.live, 30_000 + 5 * 24, "what the other one holds");
    // What it had was dropped in its scope.
    assert_eq!(stats.allocated.sum, 100_000 + 50 * 24 + 50_000);
    assert_eq!((stats.requests(), stats.over_budget), (1, 1));
    assert_eq!((stats.refused, stats.cut), (1, 0));
    assert_eq!(stats.budget, Some(Budget::enforce(100_000)));

    while light.poll().is_pending() {}
    drop((heavy, light));
    let stats = layer.stats();
    assert_eq!((stats.requests(), stats.refused), (2, 1));
    assert_eq!((stats.over_budget, stats.live), (1, 0));
}

#[tokio::test]
async fn call_over_an_observed_budget_is_counted_and_goes_on() {
    let layer = MemoryLayer::new("observed").budget(Budget::observe(100_000));
    assert_eq!(hoard(&layer).oneshot(50).await.unwrap(), 50);
    assert_eq!(hoard(&layer).oneshot(5).await.unwrap(), 5);
    let stats = layer.stats();
    assert_eq!((stats.requests(), stats.over_budget), (2, 1));
    assert_eq!((stats.refused, stats.live), (0, 0));
}

#[tokio::test]
async fn budget_itself_may_be_held_and_one_byte_more_may_not() {
    async fn hold(budget: Option<Budget>, length: usize) -> bool {
        let layer = MemoryLayer::new("exact").budget(budget);
        let service = layer.layer(service_fn(async |length: usize| {
            let held = bytes(length);
            wait().await;
            drop(held);
            Ok::<_, Infallible>(())
        }));
        let passed = service.oneshot(length).await.is_ok();
        assert_eq!(layer.stats().refused, u64::from(!passed));
        let is_over = budget.is_some_and(|budget| length as u64 > budget.bytes());
        assert_eq!(layer.stats().over_budget, u64::from(is_over));
        passed
    }
    assert!(hold(Some(Budget::enforce(5_000)), 5_000).await);
    assert!(!hold(Some(Budget::enforce(4_999)), 5_000).await);
    assert!(!hold(Some(Budget::enforce(0)), 1).await);
    // Nothing is no more than nothing.
    assert!(hold(Some(Budget::enforce(0)), 0).await);
    assert!(hold(Some(Budget::enforce(u64::MAX)), 5_000_000).await);
    assert!(hold(Some(Budget::observe(0)), 5_000).await);
    assert!(hold(None, 5_000_000).await);
}

#[tokio::test]
async fn response_that_holds_too_much_is_not_handed_over() {
    let layer = MemoryLayer::new("large").budget(Budget::enforce(20_000));
    let service = layer.layer(service_fn(async |length: usize| {
        Ok::<_, Infallible>((bytes(length), Last(5_000)))
    }));
    let error = service.clone().oneshot(20_001).await.err().unwrap();
    assert_eq!(rejected(&error), (RejectReason::OverBudget, "large"));
    let stats = layer.stats();
    assert_eq!((stats.refused, stats.live, stats.left.max), (1, 0, 0));
    assert_eq!(stats.allocated.sum, 25_001, "freed in its scope");
    assert!(service.oneshot(20_000).await.is_ok());
}

#[tokio::test]
async fn what_was_held_between_two_waits_ends_nobody_and_is_counted() {
    let layer = MemoryLayer::new("between").budget(Budget::enforce(1_000));
    let service = layer.layer(service_fn(async |()| {
        drop(bytes(1_001));
        wait().await;
        Ok::<_, Infallible>(())
    }));
    service.oneshot(()).await.unwrap();
    let stats = layer.stats();
    assert_eq!((stats.over_budget, stats.refused), (1, 0));
}

#[tokio::test]
async fn budget_changes_for_calls_that_begin_afterwards() {
    let layer = MemoryLayer::new("changes");
    let service = hoard(&layer);
    let mut before = task::spawn(service.clone().oneshot(3));
    assert_pending!(before.poll());
    layer.weigher().set_budget(Some(Budget::enforce(9_999)));
    assert!(service.clone().oneshot(3).await.is_err());
    assert_eq!(before.await.unwrap(), 3);
    layer.weigher().set_budget(None);
    assert_eq!(service.oneshot(3).await.unwrap(), 3);
}

// === Elsewhere ===

#[test]
fn call_that_is_dropped_on_another_thread_is_freed_in_its_scope() {
    let layer = MemoryLayer::new("elsewhere");
    let mut service = layer.layer(service_fn(|(): ()| async {
        let _held = (bytes(100_000), Last(7_000));
        pending::<Result<(), Infallible>>().await
    }));
    let mut call = Box::pin(service.call(()));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(call.as_mut().poll(&mut cx).is_pending());
    thread::spawn(move || {
        drop(call);
        assert!(is_in_no_scope());
    })
    .join()
    .unwrap();
    let stats = layer.stats();
    assert_eq!((stats.requests(), stats.live), (1, 0));
    assert_eq!(stats.allocated.sum, 107_000);
}

#[tokio::test]
async fn response_is_free_wherever_it_is_dropped() {
    let layer = MemoryLayer::new("carried off");
    let service = layer.layer(service_fn(async |()| Ok::<_, Infallible>(bytes(9_000))));
    let response = service.oneshot(()).await.unwrap();
    let stats = layer.stats();
    assert_eq!((stats.retained.scopes, stats.retained.bytes), (1, 9_000));
    thread::spawn(move || drop(response)).join().unwrap();
    let stats = layer.stats();
    assert_eq!((stats.live, stats.retained.scopes), (0, 0));
}

type Boxed = BoxCloneSyncService<usize, usize, BoxError>;

#[tokio::test]
async fn layers_within_layers_count_for_all_that_are_around_them() {
    let layers: Vec<_> = (0..64)
        .map(|n| MemoryLayer::new(format!("depth {n}")))
        .collect();
    let innermost = service_fn(async |length: usize| {
        let held = bytes(length);
        wait().await;
        Ok::<_, BoxError>(held.len())
    });
    let nested = layers.iter().fold(Boxed::new(innermost), |inner, layer| {
        Boxed::new(layer.layer(inner))
    });
    assert_eq!(nested.clone().oneshot(1_000_000).await.unwrap(), 1_000_000);
    assert!(is_in_no_scope());
    for (n, layer) in layers.iter().enumerate() {
        let stats = layer.stats();
        assert_eq!((stats.requests(), stats.live), (1, 0), "{n}");
        // And each has the boxes of those inside.
        let peak = stats.peak.max;
        assert!((1_000_000..1_100_000).contains(&peak), "{n}: {stats:?}");
        layer.weigher().set_budget(Some(Budget::enforce(2_000_000)));
    }
    // Whoever has the tightest budget ends what is inside, and nothing else.
    for tightest in [0, 31, 63] {
        let weigher = layers[tightest].weigher();
        weigher.set_budget(Some(Budget::enforce(999_999)));
        let error = nested.clone().oneshot(1_000_000).await.unwrap_err();
        let name = format!("depth {tightest}");
        assert_eq!(rejected(&error), (RejectReason::OverBudget, &*name));
        drop(error);
        assert_eq!(layers[tightest].stats().refused, 1);
        weigher.set_budget(None);
    }
    let refused = layers.iter().map(|layer| layer.stats().refused);
    assert_eq!(refused.sum::<u64>(), 3);
    assert!(layers.iter().all(|layer| layer.stats().live == 0));
    assert!(is_in_no_scope());
}

#[tokio::test]
async fn calls_of_a_buffer_are_weighed_inside_of_it_and_escape_outside() {
    async fn allocated(inside: bool) -> u64 {
        let layer = MemoryLayer::new("buffered");
        // What it holds it allocates when it is called, which the buffer's own task does.
        let service = service_fn(|length: usize| {
            let held = bytes(length);
            async move { Ok::<_, Infallible>(held.len()) }
        });
        let response = if inside {
            let builder = ServiceBuilder::new().buffer(1).layer(layer.clone());
            builder.service(service).oneshot(200_000).await
        } else {
            let builder = ServiceBuilder::new().layer(layer.clone()).buffer(1);
            builder.service(service).oneshot(200_000).await
        };
        assert_eq!(response.unwrap(), 200_000);
        assert_eq!(layer.stats().requests(), 1);
        layer.stats().allocated.sum
    }
    assert_eq!(allocated(true).await, 200_000);
    let outside = allocated(false).await;
    assert!(outside < 10_000, "{outside}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_elsewhere_is_weighed_if_it_is_spawned_along() {
    let layer = MemoryLayer::new("spawns");
    let service = layer.layer(service_fn(async |()| {
        let along = plimsoll_memory::spawn(async {
            let held = bytes(2_000_000);
            wait().await;
            held.len()
        });
        let blocking = plimsoll_memory::spawn_blocking(|| bytes(3_000_000).len());
        let escapes = tokio::spawn(async { bytes(50_000_000).len() });
        let escapes_too = tokio::task::spawn_blocking(|| bytes(50_000_000).len());
        let done = (
            along.await,
            blocking.await,
            escapes.await,
            escapes_too.await,
        );
        let length = block_in_place(|| bytes(400_000).len());
        assert!(!is_in_no_scope());
        Ok::<_, Infallible>(length + done.0.unwrap())
    }));
    // On a worker, where it may block in place.
    let call = tokio::spawn(service.oneshot(()));
    assert_eq!(call.await.unwrap().unwrap(), 2_400_000);
    let stats = layer.stats();
    // Tasks, and what the runtime makes for its threads, are its own as well.
    let allocated = stats.allocated.sum;
    assert!((5_400_000..5_450_000).contains(&allocated), "{allocated}");
    assert_eq!(stats.requests(), 1);
}

#[tokio::test]
async fn task_that_outlives_its_call_holds_for_it_and_is_not_retained() {
    let layer = MemoryLayer::new("outlived").budget(Budget::enforce(100_000));
    let service = layer.layer(service_fn(async |go_on: oneshot::Receiver<()>| {
        let task = plimsoll_memory::spawn(async move {
            let held = bytes(30_000);
            go_on.await.unwrap();
            let more = bytes(500_000);
            wait().await;
            held.len() + more.len()
        });
        wait().await;
        Ok::<_, Infallible>(task)
    }));
    let (go_on, waits) = oneshot::channel();
    let task = service.oneshot(waits).await.unwrap();
    tokio::task::yield_now().await;
    let stats = layer.stats();
    assert_eq!(stats.requests(), 1);
    assert!((30_000..31_000).contains(&stats.live), "{stats:?}");
    assert_eq!(stats.retained.scopes, 0, "its scope has not ended");
    go_on.send(()).unwrap();
    // The call is over, so that nobody is left to end it.
    assert_eq!(task.await.unwrap(), 530_000);
    let stats = layer.stats();
    assert_eq!((stats.requests(), stats.refused), (1, 0));
    assert!(stats.live < 1_000, "{stats:?}");
}

#[tokio::test]
async fn whoever_is_in_no_scope_spawns_as_anybody() {
    let task = plimsoll_memory::spawn(async { is_in_no_scope() });
    assert!(task.await.unwrap());
    let blocking = plimsoll_memory::spawn_blocking(is_in_no_scope);
    assert!(blocking.await.unwrap());
    let mut stream = ScopedStream::in_current(stream::iter([1, 2]));
    assert_eq!(stream.next().await, Some(1));
    let panics = plimsoll_memory::spawn_blocking(|| resume_unwind(Box::new(())));
    assert!(panics.await.unwrap_err().is_panic());
}

#[test]
fn calls_of_local_tasks_on_one_thread_do_not_mix() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let local = LocalSet::new();
    let layers: Vec<_> = (1..=8)
        .map(|n| (n, MemoryLayer::new(format!("local {n}"))))
        .collect();
    for (n, layer) in &layers {
        let service = layer.layer(service_fn(async |length: usize| {
            let held = bytes(length);
            wait().await;
            let more = bytes(length);
            wait().await;
            Ok::<_, Infallible>(held.len() + more.len())
        }));
        local.spawn_local(service.oneshot(n * 1_000));
    }
    runtime.block_on(local);
    for (n, layer) in &layers {
        let stats = layer.stats();
        assert_eq!((stats.requests(), stats.live), (1, 0));
        assert_eq!(stats.peak.max, *n as u64 * 2_000);
        assert_eq!(stats.allocated.sum, stats.peak.max);
    }
}

fn lengths(count: usize) -> impl Stream<Item = Vec<u8>> + Send {
    let last = Last(60_000);
    stream::unfold((count, last), |(left, last)| async move {
        let left = left.checked_sub(1)?;
        Some((bytes(1_000), (left, last)))
    })
}

#[test]
fn stream_is_of_its_scope_whoever_polls_it_and_wherever_it_is_dropped() {
    let scope = MemoryScope::new();
    let stream = ScopedStream::new(scope.clone(), lengths(5));
    let other = MemoryScope::new();
    assert_eq!(stream.size_hint(), (0, None));
    let mut stream = task::spawn(Box::pin(stream));
    let (first, second) = other.run(|| {
        let first = assert_ready!(stream.poll_next());
        assert!(MemoryScope::current().is_some());
        (first, assert_ready!(stream.poll_next()))
    });
    assert_eq!(other.usage().allocated, 0);
    assert_eq!(scope.usage().live, 2_000);
    drop((first, second));
    assert_eq!(scope.usage().live, 0);
    let stream = stream.into_inner();
    thread::spawn(move || drop(stream)).join().unwrap();
    let usage = scope.usage();
    assert_eq!((usage.allocated, usage.live), (62_000, 0));
    assert!(is_in_no_scope());
}

#[tokio::test]
async fn stream_of_a_call_is_weighed_to_its_end() {
    let layer = MemoryLayer::new("streams");
    let service = layer.layer(service_fn(async |count: usize| {
        Ok::<_, Infallible>(ScopedStream::in_current(lengths(count)))
    }));
    let stream = service.oneshot(3).await.unwrap();
    let kept: Vec<_> = stream.collect().await;
    assert_eq!(kept.len(), 3);
    let group = layer.weigher().group().unwrap();
    assert_eq!(group.usage().live, 3_000);
    assert!(group.usage().allocated >= 63_000);
    assert_eq!(layer.stats().retained.scopes, 1);
    drop(kept);
    assert_eq!(layer.stats().live, 0);
}

// === What is told ===

#[tokio::test(start_paused = true)]
async fn calls_that_held_much_are_logged_with_what_they_were() {
    let heavy = HeavyLog::new(100_000, 2, Duration::from_secs(60));
    let budget = Budget::observe(150_000);
    let weigher = Weigher::new("logged".into(), heavy.clone(), Some(budget));
    let weigher = Arc::new(weigher);
    let layer = MemoryLayer::with_weigher(weigher.clone());
    let service = layer.layer(service_fn(async |length: usize| {
        let kept = bytes(10);
        let held = bytes(length - 10);
        tokio::time::sleep(Duration::from_millis(250)).await;
        drop(held);
        Ok::<_, Infallible>(kept)
    }));
    let mut kept = Vec::new();
    for length in [100_000, 100_001, 300_000, 200_000] {
        kept.push(service.clone().oneshot(length).await.unwrap());
    }
    assert_eq!(heavy.total(), 3, "of four, one held no more than it may");
    let newest = heavy.newest(5);
    let peaks: Vec<_> = newest.iter().map(|it| it.sample.peak).collect();
    assert_eq!(peaks, [200_000, 300_000]);
    let first = &newest[0];
    assert_eq!(first.name.as_str(), "logged");
    assert_eq!((first.method, first.status), (None, None));
    assert_eq!(first.took, Duration::from_millis(250));
    assert_eq!(first.budget, Some(budget));
    assert_eq!((first.sample.allocated, first.sample.left), (200_000, 10));
    assert_eq!(first.sample.attribution, Attribution::Exact);
    assert_eq!(weigher.heavy().newest(1).len(), 1);
    // The log itself is of no call.
    assert_eq!(layer.stats().live, 40);
}

#[test]
fn budget_of_the_request_counts_instead_of_that_of_its_kind() {
    let weigher = Weigher::new("own".into(), HeavyLog::default(), Some(Budget::enforce(10)));
    let Some(general) = weigher.begin(None) else {
        panic!("the allocator counts");
    };
    let Some(own) = weigher.begin(Some(Budget::enforce(1_000))) else {
        panic!("the allocator counts");
    };
    assert_eq!(general.name(), Some(weigher.name()));
    assert_eq!(general.attribution(), Attribution::Exact);
    let held = [&general, &own].map(|weighing| {
        let _entered = weighing.enter();
        bytes(100)
    });
    assert_eq!(general.live(), 100);
    assert_eq!(general.over_budget(), Some(Budget::enforce(10)));
    assert_eq!(own.over_budget(), None);
    drop((held, general, own));
    assert_eq!(weigher.stats().over_budget, 1);
}

#[cfg(feature = "metrics")]
mod published {
    use super::*;
    use metrics_exporter_prometheus::PrometheusBuilder;

    fn lines(stats: &[MemoryStats]) -> Vec<String> {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            for stats in stats {
                stats.publish("app_memory", "layer", "reports");
            }
        });
        let text = recorder.handle().render();
        let series = text.lines().filter(|line| line.starts_with("app_"));
        let mut lines: Vec<_> = series.map(String::from).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn nothing_is_published_before_anything_was_weighed() {
        let layer = MemoryLayer::new("unused").budget(Budget::enforce(1));
        assert!(lines(&[layer.stats()]).is_empty());
    }

    #[tokio::test]
    async fn each_series_is_published_once_however_many_calls_there_were() {
        let layer = MemoryLayer::new("published");
        let service = layer.layer(service_fn(async |length: usize| {
            let held = bytes(length);
            wait().await;
            Ok::<_, Infallible>(bytes(held.len() / 10))
        }));
        let kept = service.clone().oneshot(10_000).await.unwrap();
        let first = layer.stats();
        let without_budget = lines(std::slice::from_ref(&first));
        // In one scope: 11 000 bytes at once are between 8 KiB and 16 KiB.
        let single = |name: &str| format!(r#"app_memory_{name}{{layer="reports"}}"#);
        let mut expected = vec![
            r#"app_memory_requests_total{layer="reports",attribution="exact"} 1"#.to_owned(),
            single("live_bytes") + " 1000",
            single("retained_bytes") + " 1000",
            single("allocated_bytes_total") + " 11000",
            single("peak_bytes_count") + " 1",
            single("peak_bytes_sum") + " 11000",
            r#"app_memory_peak_bytes_bucket{layer="reports",le="+Inf"} 1"#.to_owned(),
        ];
        expected.extend(plimsoll_memory::SIZES.map(|size| {
            let within = u8::from(size > 11_000);
            format!(r#"app_memory_peak_bytes_bucket{{layer="reports",le="{size}"}} {within}"#)
        }));
        expected.sort_unstable();
        assert_eq!(without_budget, expected);

        // With a budget there are three more, by outcome, and that is all there ever are.
        for (budget, length) in [
            (Budget::observe(100), 1_000),
            (Budget::enforce(100), 1_000),
            (Budget::enforce(100), 3_000_000),
            (Budget::observe(100_000), 1_000),
        ] {
            layer.weigher().set_budget(Some(budget));
            let _ = service.clone().oneshot(length).await;
        }
        drop(kept);
        let with_budget = lines(&[first, layer.stats(), layer.stats()]);
        assert_eq!(with_budget.len(), without_budget.len() + 3);
        for line in [
            r#"app_memory_over_budget_total{layer="reports",outcome="passed"} 1"#,
            r#"app_memory_over_budget_total{layer="reports",outcome="refused"} 2"#,
            r#"app_memory_over_budget_total{layer="reports",outcome="cut"} 0"#,
            r#"app_memory_requests_total{layer="reports",attribution="exact"} 5"#,
            r#"app_memory_live_bytes{layer="reports"} 0"#,
            r#"app_memory_peak_bytes_bucket{layer="reports",le="1024"} 1"#,
            r#"app_memory_peak_bytes_bucket{layer="reports",le="2097152"} 4"#,
            r#"app_memory_peak_bytes_bucket{layer="reports",le="+Inf"} 5"#,
        ] {
            assert!(
                with_budget.iter().any(|it| it == line),
                "{line}\n{with_budget:#?}"
            );
        }
    }
}

#[tokio::test]
async fn ready_response_allocates_nothing_and_weighs_nothing() {
    let layer = MemoryLayer::new("idle");
    let service = layer.layer(service_fn(|(): ()| ready(Ok::<_, Infallible>(()))));
    service.oneshot(()).await.unwrap();
    let stats = layer.stats();
    assert_eq!((stats.requests(), stats.allocated.sum), (1, 0));
    assert_eq!(stats.peak.quantile(1.0), Some(0));
}
