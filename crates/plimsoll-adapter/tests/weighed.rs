//! What calls allocate, hold and leave behind, where the allocator tells, and budgets that end them.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_adapter::{
    Adapter, AdapterBuilder, AdapterDirectory, AdapterError, AdapterErrorKind, Adapters,
    BudgetMode, RetryConfig,
};
use plimsoll_alloc::{MemoryGroup, MemoryScope, Retained, TrackingAllocator};
use plimsoll_breaker::CircuitBreakerConfig;
use plimsoll_core::{BoxError, RejectReason, Rejected};
use plimsoll_memory::{Histogram, RetainedByGroup};
use std::{
    fmt,
    future::{Future, pending},
    hint::black_box,
    panic,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{task::yield_now, time::advance};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task::spawn};
use tower::Service;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const SECOND: Duration = Duration::from_secs(1);
const KB: u64 = 1_000;

type Bytes = Result<Vec<u8>, BoxError>;

/// So many bytes that no optimiser knows of.
fn bytes(length: u64) -> Vec<u8> {
    black_box(vec![black_box(1); black_box(length) as usize])
}

fn builder() -> AdapterBuilder {
    Adapter::builder("down")
}

/// Ends calls that hold more than 100 kB.
fn strict() -> AdapterBuilder {
    let builder = builder().memory_budget(100 * KB);
    builder.on_over_budget(BudgetMode::Enforce)
}

/// Answers with as many bytes as it is asked for, at once.
fn answering(builder: AdapterBuilder) -> Adapter<u64, Vec<u8>> {
    let function = |length| async move { Bytes::Ok(bytes(length)) };
    builder.function(function).unwrap()
}

/// Holds as many bytes as it is asked for, and waits for ever.
fn hanging(builder: AdapterBuilder) -> Adapter<u64, Vec<u8>> {
    let function = |length| async move {
        let _held = bytes(length);
        pending().await
    };
    let function =
        move |length| -> Pin<Box<dyn Future<Output = Bytes> + Send>> { Box::pin(function(length)) };
    builder.function(function).unwrap()
}

/// The first who waits makes room for those who wait, which the runtime keeps.
async fn warm_up() {
    tokio::join!(yield_now(), yield_now());
}

#[track_caller]
fn assert_over_budget(error: &AdapterError) {
    let kind = error.kind();
    assert!(matches!(kind, AdapterErrorKind::Rejected(_)), "{error}");
    let rejected = Rejected::find(error).unwrap();
    assert_eq!(rejected.reason(), RejectReason::OverBudget);
    assert_eq!(rejected.reason().status(), 503);
    assert_eq!(rejected.source().as_str(), error.adapter());
}

/// Asserts that no call holds anything, and that the breaker has nothing against the service.
#[track_caller]
fn assert_well<Req, Res>(adapter: &Adapter<Req, Res>) {
    let snapshot = adapter.snapshot();
    let held = (snapshot.in_flight, snapshot.queued);
    assert_eq!((held, snapshot.breaker.in_flight), ((0, 0), 0));
    let window = snapshot.breaker.window;
    assert_eq!((window.failures, snapshot.breaker.totals.failures), (0, 0));
    assert_eq!(adapter.memory_stats().live, 0);
    assert!(MemoryScope::current().is_none());
}

#[tokio::test(start_paused = true)]
async fn call_over_its_budget_is_refused_and_what_it_held_is_freed() {
    let adapter = hanging(strict().max_in_flight(1).max_queued(0));
    let mut call = spawn(adapter.call(200 * KB));
    assert_over_budget(&assert_ready_err!(call.poll()));
    // The call is still there, and holds nothing.
    assert_well(&adapter);
    drop(call);
    let memory = adapter.memory_stats();
    assert_eq!((memory.requests(), memory.over_budget), (1, 1));
    assert_eq!((memory.refused, memory.cut, memory.left.max), (1, 0, 0));
    assert!((200 * KB..210 * KB).contains(&memory.peak.max));
    let snapshot = adapter.snapshot();
    assert_eq!(snapshot.rejected.get(RejectReason::OverBudget), 1);
    assert_eq!(snapshot.breaker.totals.ignored, 1);
    // The slot is free for one that holds less.
    let mut call = spawn(adapter.call(50 * KB));
    assert_pending!(call.poll());
    assert!((50 * KB..60 * KB).contains(&adapter.memory_stats().live));
    drop(call);
    assert_well(&adapter);
}

#[tokio::test(start_paused = true)]
async fn calls_over_budget_open_no_circuit_and_are_not_tried_again() {
    let asked = Arc::new(AtomicU64::new(0));
    let counted = asked.clone();
    let circuit = CircuitBreakerConfig::new().consecutive_failures(1);
    let adapter: Adapter<u64, Vec<u8>> = strict()
        .circuit_breaker(circuit)
        .retry(RetryConfig::new(), |length: &u64| Some(*length))
        .function(move |length| {
            counted.fetch_add(1, Relaxed);
            async move { Bytes::Ok(bytes(length)) }
        })
        .unwrap();
    for _ in 0..30 {
        assert_over_budget(&adapter.call(200 * KB).await.unwrap_err());
    }
    assert_eq!((asked.load(Relaxed), adapter.snapshot().retries), (30, 0));
    assert_well(&adapter);
    assert_eq!(adapter.call(10).await.unwrap().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_do_not_pay_for_one_that_is_over_its_budget() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let opened = gate.clone();
    let adapter: Adapter<u64, Vec<u8>> = strict()
        .function(move |length| {
            let gate = gate.clone();
            async move {
                let held = bytes(length);
                let _pass = gate.acquire().await?;
                Bytes::Ok(held)
            }
        })
        .unwrap();
    // Together they hold far more than each may.
    let mut others: Vec<_> = (0..8).map(|_| spawn(adapter.call(90 * KB))).collect();
    for other in &mut others {
        assert_pending!(other.poll());
    }
    assert_over_budget(&adapter.call(101 * KB).await.unwrap_err());
    opened.add_permits(1);
    for mut other in others {
        assert_eq!(assert_ready_ok!(other.poll()).len(), 90_000);
    }
    assert_well(&adapter);
    assert_eq!(adapter.memory_stats().over_budget, 1);
}

#[tokio::test(start_paused = true)]
async fn budget_that_is_observed_counts_and_ends_nobody() {
    let adapter = answering(builder().memory_budget(100 * KB));
    for length in [100 * KB, 200 * KB] {
        assert_eq!(adapter.call(length).await.unwrap().len() as u64, length);
    }
    let memory = adapter.memory_stats();
    assert_eq!((memory.requests(), memory.over_budget), (2, 1));
    assert_eq!((memory.refused, adapter.snapshot().succeeded), (0, 2));
    // One that takes nothing is a call as well.
    adapter.call(0).await.unwrap();
    let memory = adapter.memory_stats();
    let counts = [&memory.peak, &memory.allocated, &memory.left].map(Histogram::count);
    assert_eq!((counts, memory.peak.quantile(0.3)), ([3; 3], Some(0)));
}

#[tokio::test(start_paused = true)]
async fn answer_of_the_budget_passes_and_one_of_a_byte_more_is_refused() {
    let adapter = answering(strict());
    for _ in 0..3 {
        let answer = adapter.call(100 * KB).await.unwrap();
        assert_eq!(answer.len(), 100_000);
        assert_eq!(adapter.memory_stats().retained.bytes, 100 * KB);
        drop(answer);
        assert_over_budget(&adapter.call(100 * KB + 1).await.unwrap_err());
        assert_well(&adapter);
    }
    let memory = adapter.memory_stats();
    assert_eq!((memory.over_budget, memory.refused), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn what_only_the_future_holds_is_not_held_against_the_answer() {
    // Its box is there until it is dropped, after it has answered.
    struct Big(#[allow(dead_code, reason = "it is held")] Vec<u8>, bool);
    impl Future for Big {
        type Output = Bytes;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Bytes> {
            match self.1 {
                true => Poll::Ready(Ok(bytes(10))),
                false => Poll::Pending,
            }
        }
    }
    let adapter: Adapter<bool, Vec<u8>> = strict()
        .function(|is_ready| Big(bytes(200 * KB), is_ready))
        .unwrap();
    assert!(adapter.call(true).await.is_ok());
    assert_over_budget(&adapter.call(false).await.unwrap_err());
    assert_well(&adapter);
    let memory = adapter.memory_stats();
    assert_eq!((memory.over_budget, memory.refused), (2, 1));
}

/// An error with much to say.
#[derive(Debug)]
struct Verbose(#[allow(dead_code, reason = "it is held")] Vec<u8>);

impl fmt::Display for Verbose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no")
    }
}

impl std::error::Error for Verbose {}

#[tokio::test(start_paused = true)]
async fn error_that_holds_more_than_the_budget_is_passed_on_and_held_against_the_service() {
    let function = |length| async move { Err::<(), _>(Verbose(bytes(length))) };
    let circuit = CircuitBreakerConfig::new().consecutive_failures(2);
    let adapter: Adapter<u64, ()> = strict()
        .circuit_breaker(circuit)
        .function(function)
        .unwrap();
    for length in [200 * KB, 10] {
        let error = adapter.call(length).await.unwrap_err();
        assert!(matches!(error.kind(), AdapterErrorKind::Failed(_)));
        assert!(adapter.memory_stats().retained.bytes >= length);
    }
    let memory = adapter.memory_stats();
    assert_eq!((memory.over_budget, memory.refused, memory.live), (1, 0, 0));
    let snapshot = adapter.snapshot();
    assert_eq!((snapshot.failed, snapshot.breaker.totals.failures), (2, 2));
    let error = adapter.call(10).await.unwrap_err();
    assert_eq!(
        Rejected::find(&error).unwrap().reason(),
        RejectReason::CircuitOpen
    );
}

#[tokio::test(start_paused = true)]
async fn failure_over_the_budget_is_tried_again_where_others_are() {
    let again = RetryConfig::new().retries(2).floor(9);
    let adapter: Adapter<u64, ()> = strict()
        .retry(again, |length: &u64| Some(*length))
        .function(|length| async move { Err::<(), _>(Verbose(bytes(length))) })
        .unwrap();
    let error = adapter.call(200 * KB).await.unwrap_err();
    assert!(matches!(error.kind(), AdapterErrorKind::Failed(_)));
    let memory = adapter.memory_stats();
    assert_eq!((memory.over_budget, memory.refused), (3, 0));
    assert_eq!(adapter.snapshot().retries, 2);
}

#[tokio::test(start_paused = true)]
async fn changed_budget_is_that_of_attempts_that_begin_from_then_on() {
    let adapter = hanging(builder());
    let mut before = spawn(adapter.call(200 * KB));
    assert_pending!(before.poll());
    assert!(adapter.memory_stats().budget.is_none());
    let config = adapter.config().memory_budget(100 * KB);
    adapter.reconfigure(config.clone()).unwrap();
    assert_pending!(spawn(adapter.call(200 * KB)).poll());
    assert_eq!(adapter.memory_stats().over_budget, 1);
    let config = config.on_over_budget(BudgetMode::Enforce);
    adapter.reconfigure(config.clone()).unwrap();
    assert_over_budget(&assert_ready_err!(spawn(adapter.call(200 * KB)).poll()));
    assert_pending!(before.poll());
    let budget = adapter.memory_stats().budget.unwrap();
    assert_eq!(
        (budget.bytes(), budget.mode()),
        (100 * KB, BudgetMode::Enforce)
    );
    adapter.reconfigure(config.memory_budget(None)).unwrap();
    assert_pending!(spawn(adapter.call(200 * KB)).poll());
    drop(before);
    assert_well(&adapter);
}

#[tokio::test(start_paused = true)]
async fn answer_that_is_kept_is_retained_by_the_adapter_and_by_the_route_that_asked() {
    let adapter = answering(builder());
    // What the first makes for all is made.
    adapter.call(1).await.unwrap();
    let route = MemoryGroup::new();
    let request = route.scope();
    let kept = request.clone().scoped(adapter.call(50 * KB)).await.unwrap();
    assert_eq!(request.usage().live, 50 * KB);
    drop(request);
    let expected = (1, 50 * KB);
    let told = |retained: Retained| (retained.scopes, retained.bytes);
    assert_eq!(told(route.retained()), expected);
    assert_eq!(told(adapter.memory_stats().retained), expected);
    assert_eq!(adapter.memory_stats().left.max, 50 * KB);
    drop(kept);
    assert_eq!(told(route.retained()), (0, 0));
    assert_eq!(told(adapter.memory_stats().retained), (0, 0));
    assert_eq!((route.usage().live, adapter.memory_stats().live), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_look_tells_what_several_adapters_retain() {
    let [one, two] = ["one", "two"].map(|name| answering(Adapter::builder(name)));
    let before = RetainedByGroup::look();
    let kept = (one.call(KB).await.unwrap(), two.call(2 * KB).await.unwrap());
    let look = RetainedByGroup::look();
    drop(kept);
    for (adapter, bytes) in [(&one, KB), (&two, 2 * KB)] {
        assert_eq!(adapter.memory_stats_with(&before).retained.bytes, 0);
        assert_eq!(adapter.memory_stats().retained.bytes, 0);
        let memory = adapter.memory_stats_with(&look);
        assert_eq!((memory.retained.bytes, memory.requests()), (bytes, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn first_calls_leave_nothing_with_the_request_that_made_them() {
    let adapter = answering(builder());
    let route = MemoryGroup::new();
    let request = route.scope();
    // Enough of them that the history takes several chunks, and has its list of chunks grow.
    for _ in 0..1_000 {
        drop(request.clone().scoped(adapter.call(50 * KB)).await.unwrap());
        assert_eq!(request.usage().live, 0);
    }
    drop(request);
    let retained = route.retained();
    assert_eq!((retained.scopes, retained.bytes), (0, 0));
    assert_eq!(route.usage().live, 0);
    let snapshot = adapter.snapshot();
    assert_eq!(snapshot.succeeded, 1_000);
    assert_eq!(adapter.breaker().history_usage().calls, 1_000);
    assert_well(&adapter);
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_given_up_leave_nothing_with_the_request_that_made_them() {
    let adapter = hanging(builder());
    let route = MemoryGroup::new();
    let request = route.scope();
    for _ in 0..1_000 {
        let mut call = spawn(request.clone().scoped(adapter.call(KB)));
        assert_pending!(call.poll());
        drop(call);
        assert_eq!(request.usage().live, 0);
    }
    drop(request);
    assert_eq!(route.retained().bytes, 0);
    // It keeps them all the same.
    assert_eq!(adapter.breaker().history_usage().calls, 1_000);
}

#[tokio::test(start_paused = true)]
async fn circuit_that_opens_again_and_again_leaves_nothing_with_the_request_that_called() {
    let circuit = CircuitBreakerConfig::new()
        .consecutive_failures(1)
        .open_for(SECOND)
        .open_factor(1.0);
    let function = |()| async { Err::<(), BoxError>("no".into()) };
    let adapter: Adapter<(), ()> = builder()
        .circuit_breaker(circuit)
        .function(function)
        .unwrap();
    let route = MemoryGroup::new();
    let request = route.scope();
    for _ in 0..100 {
        drop(request.clone().scoped(adapter.call(())).await.unwrap_err());
        drop(request.clone().scoped(adapter.call(())).await.unwrap_err());
        assert_eq!(request.usage().live, 0);
        advance(2 * SECOND).await;
    }
    drop(request);
    assert_eq!(route.retained().bytes, 0);
    assert!(adapter.breaker().history_usage().transitions > 50);
    assert!(adapter.snapshot().rejected.get(RejectReason::CircuitOpen) > 10);
}

#[tokio::test(start_paused = true)]
async fn line_that_grew_leaves_nothing_with_those_who_waited() {
    let adapter = hanging(builder().max_in_flight(1).max_queued(1_000));
    let mut running = spawn(adapter.call(KB));
    assert_pending!(running.poll());
    let route = MemoryGroup::new();
    let request = route.scope();
    let wait = |_| spawn(request.clone().scoped(adapter.call(KB)));
    let mut waiting: Vec<_> = (0..1_000).map(wait).collect();
    for call in &mut waiting {
        assert_pending!(call.poll());
    }
    assert_eq!(adapter.snapshot().queued, 1_000);
    while let Some(call) = waiting.pop() {
        request.run(|| drop(call));
    }
    assert_eq!((adapter.snapshot().queued, request.usage().live), (0, 0));
    drop(request);
    assert_eq!(route.retained().bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn adapters_that_are_called_at_once_in_a_request_do_not_mix() {
    warm_up().await;
    let adapter = |name: &str, length: u64| -> Adapter<(), Vec<u8>> {
        let function = move |()| async move {
            let working = bytes(length);
            yield_now().await;
            let answer = bytes(length / 10);
            yield_now().await;
            drop(working);
            Bytes::Ok(answer)
        };
        Adapter::builder(name).function(function).unwrap()
    };
    let large = adapter("large", 500 * KB);
    let small = adapter("small", 50 * KB);
    let adapters = Adapters::new([large.clone(), small.clone()]).unwrap();
    adapters.call_all((), None).await;
    let route = MemoryGroup::new();
    let request = route.scope();
    let call = async { adapters.call_all((), Some(SECOND)).await };
    let answers = request.clone().scoped(call).await;
    assert!(answers.is_complete());
    for (adapter, length) in [(&large, 500 * KB), (&small, 50 * KB)] {
        let memory = adapter.memory_stats();
        assert_eq!(memory.requests(), 2);
        assert_eq!(memory.peak.max, length + length / 10, "{adapter:?}");
        assert_eq!(memory.retained.bytes, length / 10, "{adapter:?}");
    }
    let held = request.usage();
    assert!(held.peak >= 605 * KB && held.live >= 55 * KB, "{held:?}");
    drop(answers);
    drop(request);
    assert_eq!(
        (large.memory_stats().live, small.memory_stats().live),
        (0, 0)
    );
    assert_eq!(route.usage().live, 0);
}

#[tokio::test(start_paused = true)]
async fn wait_in_line_is_not_weighed() {
    let adapter = hanging(strict().max_in_flight(1));
    let mut running = spawn(adapter.call(10 * KB));
    assert_pending!(running.poll());
    let alone = adapter.memory_stats().live;
    let mut waiting = spawn(adapter.call(20 * KB));
    assert_pending!(waiting.poll());
    assert_eq!(adapter.memory_stats().live, alone);
    // It left the line, and nobody weighed it.
    drop(waiting);
    drop(running);
    assert_eq!(adapter.memory_stats().requests(), 1);
    assert_well(&adapter);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_weighed_by_itself() {
    warm_up().await;
    let again = RetryConfig::new().retries(2).floor(9);
    let adapter: Adapter<u64, ()> = strict()
        .retry(again, |length: &u64| Some(*length))
        .function(|length| async move {
            let _working = bytes(length);
            yield_now().await;
            Err::<(), BoxError>("no".into())
        })
        .unwrap();
    // Three of them hold more than the budget, each for itself does not.
    let error = adapter.call(60 * KB).await.unwrap_err();
    assert!(matches!(error.kind(), AdapterErrorKind::Failed(_)));
    drop(error);
    let memory = adapter.memory_stats();
    assert_eq!(
        (memory.requests(), memory.over_budget, memory.live),
        (3, 0, 0)
    );
    assert!(memory.peak.max < 70 * KB && memory.allocated.sum > 180 * KB);
}

#[tokio::test(start_paused = true)]
async fn call_that_is_cancelled_or_takes_too_long_frees_what_it_held() {
    let adapter = hanging(builder().timeout(SECOND));
    let mut cancelled = spawn(adapter.call(50 * KB));
    assert_pending!(cancelled.poll());
    drop(cancelled);
    drop(adapter.call(50 * KB));
    assert_well(&adapter);
    let mut late = spawn(adapter.call(50 * KB));
    assert_pending!(late.poll());
    advance(2 * SECOND).await;
    assert!(assert_ready_err!(late.poll()).is_timeout());
    let memory = adapter.memory_stats();
    assert_eq!((memory.requests(), memory.live, memory.left.sum), (2, 0, 0));
    assert!(memory.allocated.sum >= 100 * KB);
}

/// Notes in which steps it is in a scope, holds some bytes, and panics in one of them.
#[derive(Debug)]
struct Steps {
    panics_in: &'static str,
    noted: Arc<Mutex<Vec<(&'static str, bool)>>>,
    _held: Vec<u8>,
}

impl Steps {
    fn note(&self, step: &'static str) {
        let _held = bytes(KB);
        let within = MemoryScope::current().is_some();
        // Room for them is there from the start.
        self.noted.lock().unwrap().push((step, within));
        if step == self.panics_in {
            panic_silently();
        }
    }
}

impl Clone for Steps {
    fn clone(&self) -> Self {
        self.note("clone");
        Self {
            panics_in: self.panics_in,
            noted: self.noted.clone(),
            _held: bytes(KB),
        }
    }
}

impl Service<()> for Steps {
    type Response = ();
    type Error = BoxError;
    type Future = StepsFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.note("poll_ready");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> StepsFuture {
        self.note("call");
        StepsFuture(Self {
            panics_in: self.panics_in,
            noted: self.noted.clone(),
            _held: bytes(KB),
        })
    }
}

struct StepsFuture(Steps);

impl Future for StepsFuture {
    type Output = Result<(), BoxError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.note("poll");
        Poll::Pending
    }
}

impl Drop for StepsFuture {
    fn drop(&mut self) {
        self.0.note("drop");
    }
}

/// Panics without a word, of which whoever says it would keep something.
fn panic_silently() {
    panic::resume_unwind(Box::new("told to"));
}

#[tokio::test(start_paused = true)]
async fn every_step_of_the_service_is_weighed_and_none_leaves_its_thread_in_a_scope() {
    let steps = ["clone", "poll_ready", "call", "poll", "drop"];
    for panics_in in steps.into_iter().chain(["nowhere"]) {
        let noted = Arc::new(Mutex::new(Vec::with_capacity(64)));
        let service = Steps {
            panics_in,
            noted: noted.clone(),
            _held: bytes(KB),
        };
        let adapter = strict().timeout(SECOND).service(service).unwrap();
        let mut call = spawn(adapter.call(()));
        match call.poll() {
            Poll::Ready(error) => {
                let error = error.unwrap_err();
                let kind = error.kind();
                let panicked = matches!(kind, AdapterErrorKind::Panicked { .. });
                assert!(panicked, "{panics_in}: {error}");
            }
            Poll::Pending if panics_in == "drop" => {
                advance(2 * SECOND).await;
                let error = assert_ready_err!(call.poll());
                let panicked = matches!(error.kind(), AdapterErrorKind::Panicked { .. });
                assert!(panicked, "{error}");
            }
            Poll::Pending => assert_eq!(panics_in, "nowhere"),
        }
        assert!(MemoryScope::current().is_none(), "{panics_in}");
        drop(call);
        assert!(MemoryScope::current().is_none(), "{panics_in}");
        let memory = adapter.memory_stats();
        assert_eq!((memory.requests(), memory.live), (1, 0), "{panics_in}");
        let noted = noted.lock().unwrap();
        assert!(noted.iter().all(|(_, within)| *within), "{noted:?}");
        let last = noted.last().unwrap().0;
        assert!(last == panics_in || last == "drop", "{noted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn future_that_panics_when_it_is_dropped_over_budget_is_a_panic() {
    struct Heavy(#[allow(dead_code, reason = "it is held")] Vec<u8>);
    impl Future for Heavy {
        type Output = Bytes;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Bytes> {
            Poll::Pending
        }
    }
    impl Drop for Heavy {
        fn drop(&mut self) {
            panic_silently();
        }
    }
    let adapter: Adapter<u64, Vec<u8>> = strict().function(|n| Heavy(bytes(n))).unwrap();
    let error = adapter.call(200 * KB).await.unwrap_err();
    assert!(matches!(error.kind(), AdapterErrorKind::Panicked { .. }));
    drop(error);
    let memory = adapter.memory_stats();
    assert_eq!((memory.over_budget, memory.refused, memory.live), (1, 0, 0));
    assert_eq!(adapter.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn directory_tells_whose_a_group_is() {
    let directory = AdapterDirectory::new();
    let [one, two] = ["one", "two"].map(|name| answering(Adapter::builder(name)));
    directory.insert(&one).unwrap();
    directory.insert(&two).unwrap();
    assert_eq!(
        (one.memory_group(), directory.memory_groups()),
        (None, vec![])
    );
    let kept = one.call(KB).await.unwrap();
    let id = one.memory_group().unwrap();
    assert_eq!(directory.memory_groups(), [(id, one.name())]);
    let mut held = 0;
    plimsoll_alloc::each_retained(|group, _, bytes| {
        if group == id {
            held += bytes;
        }
    });
    assert_eq!(held, KB);
    drop(kept);
}

#[cfg(feature = "metrics")]
#[tokio::test(start_paused = true)]
async fn what_is_weighed_is_published_and_gone_with_the_adapter() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let scrape = recorder.handle();
    let directory = AdapterDirectory::new();
    let adapter = answering(strict());
    let idle = answering(Adapter::builder("idle"));
    directory.insert(&adapter).unwrap();
    directory.insert(&idle).unwrap();
    let kept = adapter.call(5_000).await.unwrap();
    adapter.call(200 * KB).await.unwrap_err();
    let publish = || {
        metrics::with_local_recorder(&recorder, || directory.publish_metrics());
        scrape.render()
    };
    let scraped = publish();
    for line in [
        r#"requests_total{adapter="down",attribution="exact"} 2"#,
        r#"live_bytes{adapter="down"} 5000"#,
        r#"retained_bytes{adapter="down"} 5000"#,
        r#"allocated_bytes_total{adapter="down"} 205000"#,
        r#"peak_bytes_bucket{adapter="down",le="8192"} 1"#,
        r#"peak_bytes_bucket{adapter="down",le="+Inf"} 2"#,
        r#"over_budget_total{adapter="down",outcome="passed"} 0"#,
        r#"over_budget_total{adapter="down",outcome="refused"} 1"#,
    ] {
        let line = format!("\nplimsoll_adapter_memory_{line}\n");
        assert!(scraped.contains(&line), "{line} is not in {scraped}");
    }
    assert!(!scraped.contains(r#"plimsoll_adapter_memory_live_bytes{adapter="idle"}"#));
    let refused = r#"plimsoll_adapter_rejected_total{adapter="down",reason="over_budget"} 1"#;
    assert!(scraped.contains(refused), "{scraped}");
    drop((adapter, idle));
    let scraped = publish();
    for gauge in ["live_bytes", "retained_bytes"] {
        let line = format!("\nplimsoll_adapter_memory_{gauge}{{adapter=\"down\"}} 0\n");
        assert!(scraped.contains(&line), "{scraped}");
    }
    assert!(!scraped.contains(r#"plimsoll_adapter_memory_live_bytes{adapter="idle"}"#));
    drop(kept);
}
