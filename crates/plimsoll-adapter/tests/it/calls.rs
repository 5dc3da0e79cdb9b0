//! The line, the slots, the breaker and the timeout.

use crate::support::{Downstream, MS, SECOND, Text, assert_idle, builder, echo, reason, timed_out};
use plimsoll_adapter::{Adapter, AdapterErrorKind};
use plimsoll_breaker::{CircuitBreakerConfig, Outcome, State};
use plimsoll_core::{
    BoxError, Holding, Registry, RejectReason, Rejected, test_util::assert_balanced,
};
use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task::spawn};
use tower::{Service, ServiceExt};

#[tokio::test(start_paused = true)]
async fn answer_is_passed_on_and_counted() {
    let adapter = echo("echo");
    assert_eq!(adapter.call("hi".into()).await.unwrap(), "hi");
    let snapshot = assert_idle(&adapter);
    assert_eq!(snapshot.name.as_str(), "echo");
    assert_eq!((snapshot.succeeded, snapshot.retries), (1, 0));
    assert_eq!(snapshot.breaker.totals.successes, 1);
}

#[tokio::test(start_paused = true)]
async fn error_of_the_service_is_the_source_and_a_failure() {
    let function = |_: String| async { Text::Err("no such table".into()) };
    let adapter = builder().function(function).unwrap();
    let error = adapter.call("x".into()).await.unwrap_err();
    assert_eq!(error.to_string(), "adapter down failed");
    assert_eq!(error.source().unwrap().to_string(), "no such table");
    let snapshot = assert_idle(&adapter);
    assert_eq!((snapshot.failed, snapshot.breaker.totals.failures), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn refusal_of_a_layer_inside_is_found_and_not_held_against_the_service() {
    let refused = Rejected::new(RejectReason::OverBudget, "inner".into());
    let function = move |_: String| async move { Err::<String, _>(refused) };
    let adapter = builder().function(function).unwrap();
    let error = adapter.call("x".into()).await.unwrap_err();
    assert_eq!(Rejected::find(&error), Some(&refused));
    let snapshot = assert_idle(&adapter);
    assert_eq!((snapshot.failed, snapshot.breaker.totals.failures), (1, 0));
    assert_eq!(snapshot.breaker.totals.ignored, 1);
}

#[tokio::test(start_paused = true)]
async fn answer_is_judged_by_the_classifier() {
    let judge = |result: Result<&String, &BoxError>, took: Duration| match result {
        Ok(answer) if answer == "500" => Outcome::Failure,
        _ if took > SECOND => Outcome::Ignore,
        _ => Outcome::Success,
    };
    let function = |request: String| async move {
        if request == "slow" {
            sleep(SECOND + MS).await;
        }
        Text::Ok(request)
    };
    let adapter = builder().classify(judge).function(function).unwrap();
    for request in ["200", "500", "slow"] {
        assert_eq!(adapter.call(request.into()).await.unwrap(), request);
    }
    let snapshot = assert_idle(&adapter);
    let totals = snapshot.breaker.totals;
    assert_eq!(snapshot.succeeded, 3);
    assert_eq!(
        (totals.successes, totals.failures, totals.ignored),
        (1, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn service_has_its_timeout_to_answer() {
    let down = Downstream::default();
    let adapter = down.adapter(builder().timeout(5 * SECOND));
    let mut call = spawn(adapter.call("x".into()));
    assert_pending!(call.poll());
    advance(5 * SECOND - MS).await;
    assert!(!call.is_woken());
    assert_pending!(call.poll());
    advance(MS).await;
    assert!(call.is_woken());
    let error = assert_ready_err!(call.poll());
    assert_eq!(timed_out(&error), Some(5 * SECOND));
    assert_eq!(error.to_string(), "adapter down gave no answer within 5s");
    let snapshot = assert_idle(&adapter);
    assert_eq!(
        (snapshot.timed_out, snapshot.breaker.totals.failures),
        (1, 1)
    );
    assert!(
        !down.answer(Ok("late".into())),
        "the service's future is gone"
    );
}

#[tokio::test(start_paused = true)]
async fn answer_that_is_there_when_it_is_time_counts() {
    let down = Downstream::default();
    let adapter = down.adapter(builder());
    let mut call = spawn(adapter.call("x".into()));
    assert_pending!(call.poll());
    advance(2 * SECOND).await;
    down.answer(Ok("just".into()));
    assert_eq!(assert_ready_ok!(call.poll()), "just");
}

#[tokio::test(start_paused = true)]
async fn wait_in_line_is_not_part_of_the_timeout() {
    let down = Downstream::default();
    let adapter = down.adapter(builder().max_in_flight(1).queue_timeout(5 * SECOND));
    let mut first = spawn(adapter.call("first".into()));
    let mut second = spawn(adapter.call("second".into()));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    advance(SECOND).await;
    down.answer(Ok(String::new()));
    assert_ready_ok!(first.poll());
    assert_pending!(second.poll());
    advance(2 * SECOND - MS).await;
    assert_pending!(second.poll());
    advance(MS).await;
    assert!(timed_out(&assert_ready_err!(second.poll())).is_some());
}

#[tokio::test(start_paused = true)]
async fn timeout_covers_a_service_that_never_gets_ready_and_one_that_is_never_idle() {
    #[derive(Clone)]
    struct Unready(bool);
    impl Service<String> for Unready {
        type Response = String;
        type Error = BoxError;
        type Future = std::future::Pending<Text>;
        fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), BoxError>> {
            if self.0 {
                // Uses up all the task may do in one poll.
                while tokio::task::coop::poll_proceed(cx)
                    .map(|did| did.made_progress())
                    .is_ready()
                {}
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        }
        fn call(&mut self, _: String) -> Self::Future {
            std::future::pending()
        }
    }
    for greedy in [false, true] {
        let adapter = builder().service(Unready(greedy)).unwrap();
        let mut call = spawn(adapter.call("x".into()));
        assert_pending!(call.poll());
        advance(2 * SECOND).await;
        assert!(timed_out(&assert_ready_err!(call.poll())).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn service_that_fails_to_get_ready_has_failed() {
    let service = tower::util::MapRequest::new(
        tower::service_fn(|_: ()| async { Text::Ok(String::new()) }),
        |_: String| (),
    );
    #[derive(Clone)]
    struct Broken<S>(S);
    impl<S: Service<String, Error = BoxError>> Service<String> for Broken<S> {
        type Response = S::Response;
        type Error = BoxError;
        type Future = S::Future;
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Err("disconnected".into()))
        }
        fn call(&mut self, request: String) -> S::Future {
            self.0.call(request)
        }
    }
    let adapter = builder().service(Broken(service)).unwrap();
    let error = adapter.call("x".into()).await.unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "disconnected");
    assert_eq!(assert_idle(&adapter).breaker.totals.failures, 1);
}

#[tokio::test(start_paused = true)]
async fn line_is_first_come_first_served() {
    let down = Downstream::default();
    let adapter = down.adapter(builder().max_in_flight(1));
    let mut calls: Vec<_> = (0..4).map(|n| spawn(adapter.call(n.to_string()))).collect();
    // In the order of their first poll, not in that of their making.
    for n in [0, 2, 1, 3] {
        assert_pending!(calls[n].poll());
    }
    let snapshot = adapter.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.queued), (1, 3));
    for n in [0, 2, 1, 3] {
        down.answer(Ok(n.to_string()));
        assert_eq!(assert_ready_ok!(calls[n].poll()), n.to_string());
        // Nobody new gets in before those who wait.
        let mut late = spawn(adapter.call("late".into()));
        if n != 3 {
            assert_pending!(late.poll());
        }
        drop(late);
        for call in calls.iter_mut().filter(|call| call.is_woken()) {
            let _ = call.poll();
        }
    }
    assert_eq!(down.asked(), ["0", "2", "1", "3"]);
}

#[tokio::test(start_paused = true)]
async fn call_that_finds_the_line_full_is_refused_at_once() {
    let down = Downstream::default();
    let adapter = down.adapter(builder().max_in_flight(1).max_queued(2));
    let mut calls: Vec<_> = (0..3).map(|_| spawn(adapter.call("x".into()))).collect();
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    let error = assert_ready_err!(spawn(adapter.call("x".into())).poll());
    assert_eq!(reason(&error), RejectReason::QueueFull);
    assert_eq!(error.to_string(), "adapter down refused the call");
    let snapshot = adapter.snapshot();
    assert_eq!(snapshot.rejected.get(RejectReason::QueueFull), 1);
    assert_eq!(snapshot.breaker.totals.failures, 0);
    // A place that comes free is there for the next.
    calls.pop();
    calls.push(spawn(adapter.call("x".into())));
    assert_pending!(calls[2].poll());
    drop(calls);
    assert_idle(&adapter);
}

#[tokio::test(start_paused = true)]
async fn without_a_line_a_call_is_refused_for_the_in_flight_limit() {
    let down = Downstream::default();
    let adapter = down.adapter(builder().max_in_flight(1).max_queued(0));
    let mut call = spawn(adapter.call("x".into()));
    assert_pending!(call.poll());
    let error = assert_ready_err!(spawn(adapter.call("x".into())).poll());
    assert_eq!(reason(&error), RejectReason::InFlightLimit);
    down.answer(Ok(String::new()));
    assert_ready_ok!(call.poll());
    assert_pending!(spawn(adapter.call("x".into())).poll());
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_are_bounded_in_bytes() {
    let down = Downstream::default();
    let adapter = builder()
        .max_in_flight(1)
        .max_queued_bytes(10, |request: &String| request.len() as u64)
        .function(down.function())
        .unwrap();
    let mut running = spawn(adapter.call("a request that need not wait".into()));
    let mut six = spawn(adapter.call("123456".into()));
    assert_pending!(running.poll());
    assert_eq!(adapter.snapshot().queued_bytes, 0);
    assert_pending!(six.poll());
    let error = assert_ready_err!(spawn(adapter.call("12345".into())).poll());
    assert_eq!(reason(&error), RejectReason::QueueFull);
    let snapshot = adapter.snapshot();
    assert_eq!(
        (snapshot.queued, snapshot.queued_bytes),
        (1, 6),
        "it left nothing behind"
    );
    let mut four = spawn(adapter.call("1234".into()));
    assert_pending!(four.poll());
    let snapshot = adapter.snapshot();
    assert_eq!(
        (snapshot.queued_bytes, snapshot.max_queued_bytes),
        (10, Some(10))
    );
    let held = adapter.bounded().usage().bytes;
    assert_eq!(held, adapter.breaker().bytes() + 10);
    drop((running, six, four));
    assert_idle(&adapter);
}

#[tokio::test(start_paused = true)]
async fn call_waits_in_line_for_so_long() {
    let down = Downstream::default();
    let adapter = down.adapter(builder().max_in_flight(1).timeout(60 * SECOND));
    let mut first = spawn(adapter.call("first".into()));
    let mut second = spawn(adapter.call("second".into()));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    advance(SECOND - MS).await;
    assert_pending!(second.poll());
    advance(MS).await;
    let error = assert_ready_err!(second.poll());
    assert_eq!(reason(&error), RejectReason::QueueTimeout);
    let snapshot = adapter.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.queued), (1, 0));
    assert_eq!(snapshot.rejected.total(), 1);
    assert_eq!(down.asked(), ["first"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_more_calls_than_allowed_are_in_flight_on_many_threads() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let function = {
        let (running, most) = (running.clone(), most.clone());
        move |request: String| {
            let (running, most) = (running.clone(), most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, SeqCst);
                Text::Ok(request)
            }
        }
    };
    let limits = builder().max_in_flight(3).max_queued(1_000);
    let adapter = limits
        .queue_timeout(60 * SECOND)
        .function(function)
        .unwrap();
    let calls: Vec<_> = (0..500)
        .map(|n| tokio::spawn(adapter.call(n.to_string())))
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap(), n.to_string());
    }
    assert_eq!(most.load(SeqCst), 3);
    assert_eq!(assert_idle(&adapter).succeeded, 500);
}

#[tokio::test(start_paused = true)]
async fn open_circuit_refuses_without_touching_the_service() {
    let down = Downstream::default();
    let adapter = down.adapter(builder());
    adapter.breaker().open_for(7 * SECOND).unwrap();
    let error = assert_ready_err!(spawn(adapter.call("x".into())).poll());
    assert_eq!(reason(&error), RejectReason::CircuitOpen);
    assert_eq!(error.rejected().unwrap().retry_after(), Some(7 * SECOND));
    assert!(down.asked().is_empty());
    let snapshot = assert_idle(&adapter);
    assert_eq!(snapshot.rejected.get(RejectReason::CircuitOpen), 1);
    assert_eq!(snapshot.failed, 0);
    advance(7 * SECOND).await;
    assert_pending!(spawn(adapter.call("probe".into())).poll());
    assert_eq!(down.asked(), ["probe"]);
}

#[tokio::test(start_paused = true)]
async fn timeouts_open_the_circuit_and_refusals_do_not() {
    let config = CircuitBreakerConfig::new().consecutive_failures(2);
    let down = Downstream::default();
    let adapter = down.adapter(
        builder()
            .max_in_flight(1)
            .max_queued(0)
            .circuit_breaker(config),
    );
    let mut running = spawn(adapter.call("x".into()));
    assert_pending!(running.poll());
    for _ in 0..10 {
        assert_ready_err!(spawn(adapter.call("x".into())).poll());
    }
    assert_eq!(adapter.breaker().state(), State::Closed);
    advance(2 * SECOND).await;
    assert_ready_err!(running.poll());
    assert!(adapter.call("x".into()).await.unwrap_err().is_timeout());
    assert_eq!(adapter.breaker().state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn is_a_service_that_is_always_ready() {
    let down = Downstream::default();
    let mut adapter = down.adapter(builder().max_in_flight(1).max_queued(1));
    let mut first = spawn(adapter.ready().await.unwrap().call("first".into()));
    let mut second = spawn(adapter.ready().await.unwrap().call("second".into()));
    let mut third = spawn(adapter.ready().await.unwrap().call("third".into()));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    let error = assert_ready_err!(third.poll());
    let rejected = Rejected::find(&*error).unwrap();
    assert_eq!(rejected.reason(), RejectReason::QueueFull);
    down.answer(Ok("answer".into()));
    assert_eq!(assert_ready_ok!(first.poll()), "answer");
}

#[tokio::test(start_paused = true)]
async fn closed_adapter_refuses_who_waits_and_who_comes_and_lets_running_calls_finish() {
    let down = Downstream::default();
    let adapter = down.adapter(builder().max_in_flight(1));
    let mut running = spawn(adapter.call("running".into()));
    let mut waiting = spawn(adapter.call("waiting".into()));
    assert_pending!(running.poll());
    assert_pending!(waiting.poll());
    let report = adapter.bounded().close(Instant::now() + SECOND).await;
    assert!(report.is_clean());
    assert!(waiting.is_woken());
    let error = assert_ready_err!(waiting.poll());
    assert_eq!(reason(&error), RejectReason::ShuttingDown);
    let error = assert_ready_err!(spawn(adapter.call("late".into())).poll());
    assert_eq!(reason(&error), RejectReason::ShuttingDown);
    down.answer(Ok("done".into()));
    assert_eq!(assert_ready_ok!(running.poll()), "done");
    assert_idle(&adapter);
    assert_balanced(&adapter);
}

#[tokio::test(start_paused = true)]
async fn registered_adapter_is_swept_without_traffic_and_forgotten_with_its_last_handle() {
    let registry = Registry::new();
    let sweeper = tokio::spawn(registry.sweeper());
    let adapter = registry.register(echo("swept")).unwrap();
    adapter.call("x".into()).await.unwrap();
    assert_eq!(registry.snapshot()[0].usage.unwrap().entries, 1);
    assert_balanced(&adapter);
    sleep(Duration::from_secs(26 * 3_600)).await;
    let snapshot = adapter.snapshot();
    assert_eq!(snapshot.breaker.history.calls, 0);
    assert!(snapshot.breaker.history.last_sweep.unwrap() <= Duration::from_secs(3_600));
    assert_balanced(&adapter);
    drop((adapter, snapshot));
    assert!(registry.snapshot().is_empty());
    sweeper.abort();
}

#[tokio::test(start_paused = true)]
async fn late_sweep_of_an_adapter_is_told() {
    let registry = Registry::new();
    let mut sweeper = spawn(registry.sweeper());
    let _adapter = registry.register(echo("late")).unwrap();
    // The first sweep, and then none.
    for _ in 0..10 {
        let _ = sweeper.poll();
    }
    advance(Duration::from_secs(3_600)).await;
    assert!(registry.check_overdue().is_empty());
    advance(Duration::from_secs(3_602)).await;
    let overdue = registry.check_overdue();
    assert_eq!(overdue.len(), 1);
    assert!(registry.check_overdue().is_empty(), "once");
}

#[test]
fn adapters_and_calls_can_be_sent_and_shared() {
    fn check<T: Send + Sync>() {}
    fn check_send<T: Send>(_: &T) {}
    // Neither requests nor answers need be shared.
    type Request = std::cell::Cell<u8>;
    check::<Adapter<Request, Request>>();
    check::<plimsoll_adapter::Adapters<Request, Request>>();
    check::<plimsoll_adapter::AdapterError>();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let adapters = plimsoll_adapter::Adapters::new([echo("a")]).unwrap();
    check_send(&adapters.call("a", String::new()));
    check_send(&adapters.call_all(String::new(), None));
    check_send(&adapters.call_many(["a"], String::new(), Some(MS)));
}

#[tokio::test(start_paused = true)]
async fn error_kinds_can_be_taken_apart() {
    let function = |_: String| async { Text::Err("text".into()) };
    let adapter = builder().function(function).unwrap();
    let error = adapter.call("x".into()).await.unwrap_err();
    assert_eq!(error.adapter(), "down");
    let AdapterErrorKind::Failed(cause) = error.into_kind() else {
        panic!("it failed");
    };
    assert_eq!(cause.to_string(), "text");
}

#[tokio::test(start_paused = true)]
async fn history_has_each_attempt() {
    let adapter = echo("recorded");
    let mut call = spawn(adapter.call("x".into()));
    let _ = assert_ready!(call.poll());
    assert_eq!(adapter.snapshot().breaker.history.calls, 1);
    assert_eq!(adapter.bounded().usage().entries, 1);
}

#[tokio::test(start_paused = true)]
async fn timeout_counts_from_before_a_first_poll_that_takes_long() {
    let function = |_: String| async {
        // Moves the clock while it is polled, as one would that blocks.
        let mut passed = Box::pin(advance(SECOND));
        std::future::poll_fn(|cx| {
            let _ = passed.as_mut().poll(cx);
            Poll::<Text>::Pending
        })
        .await
    };
    let adapter = builder().function(function).unwrap();
    let mut call = spawn(adapter.call("x".into()));
    assert_pending!(call.poll());
    advance(SECOND).await;
    let error = assert_ready_err!(call.poll());
    assert_eq!(timed_out(&error), Some(2 * SECOND));
}
