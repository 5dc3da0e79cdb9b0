//! The Tower contract: readiness, cancellation, clones, errors, and what a breaker in the middle
//! of a stack must not do to the services around it.

use crate::common::{HOUR, MS, SECOND, breaker, of_calls, plain, seen, transitions};
use plimsoll_breaker::{
    AfterHalfOpen, CallOutcome, CallRecord, Calls, CallsQuery, CircuitBreaker,
    CircuitBreakerConfig, CircuitBreakerLayer, CircuitBreakerService, CircuitOpen, ConfigError,
    ErrorsAreFailures, Event, Events, Evidence, HistoryConfig, HistoryUsage, IllegalTransition,
    OnOpen, Outcome, Permit, ProbeRule, Reason, Snapshot, State, Transition, Window,
    WindowSnapshot,
    event::{Received, TooManyObservers},
    future::ResponseFuture,
};
use plimsoll_core::{BoxError, Name, RejectReason, Rejected};
use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::{pending, poll_fn, ready},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_test::{assert_request_eq, mock};

/// What a [`Strict`] service does with a call.
#[derive(Clone, Copy, Debug)]
enum Do {
    Answer,
    Fail,
    Hang,
    PanicInCall,
    PanicInPoll,
}

/// Panics if it is called unready, and counts what is done to it and its clones.
#[derive(Debug, Default)]
struct Strict {
    counts: Arc<Counts>,
    ready: bool,
}

#[derive(Debug, Default)]
struct Counts {
    polls: AtomicUsize,
    calls: AtomicUsize,
    /// Instances that are ready, and so keep a place.
    reserved: AtomicUsize,
    blocked: AtomicBool,
}

impl Strict {
    fn give_back(&mut self) {
        if std::mem::take(&mut self.ready) {
            self.counts.reserved.fetch_sub(1, Relaxed);
        }
    }
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            counts: self.counts.clone(),
            ready: false,
        }
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Service<Do> for Strict {
    type Response = u32;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<u32, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.counts.polls.fetch_add(1, Relaxed);
        if self.counts.blocked.load(Relaxed) {
            return Poll::Pending;
        }
        if !std::mem::replace(&mut self.ready, true) {
            self.counts.reserved.fetch_add(1, Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Do) -> Self::Future {
        assert!(self.ready, "the inner service was called unready");
        self.give_back();
        self.counts.calls.fetch_add(1, Relaxed);
        match request {
            Do::Answer => Box::pin(ready(Ok(7))),
            Do::Fail => Box::pin(ready(Err("failed".into()))),
            Do::Hang => Box::pin(pending()),
            Do::PanicInCall => panic!("in call"),
            Do::PanicInPoll => Box::pin(async { panic!("in poll") }),
        }
    }
}

/// A strict service behind a breaker.
fn guarded(breaker: &CircuitBreaker) -> (CircuitBreakerService<Strict>, Arc<Counts>) {
    let strict = Strict::default();
    let counts = strict.counts.clone();
    (
        CircuitBreakerLayer::new(breaker.clone()).layer(strict),
        counts,
    )
}

/// [`guarded`], not ready while the circuit is open.
fn waiting(breaker: &CircuitBreaker) -> (CircuitBreakerService<Strict>, Arc<Counts>) {
    let strict = Strict::default();
    let counts = strict.counts.clone();
    let layer = CircuitBreakerLayer::new(breaker.clone()).on_open(OnOpen::NotReady);
    (layer.layer(strict), counts)
}

async fn call<S>(service: &mut S, request: Do) -> Result<u32, BoxError>
where
    S: Service<Do, Response = u32, Error = BoxError>,
{
    service.ready().await?.call(request).await
}

fn message(panicked: Box<dyn std::any::Any + Send>) -> String {
    match panicked.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => (*other.downcast::<&'static str>().unwrap()).to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn answer_passes_through_and_is_a_success() {
    let breaker = breaker(of_calls(10));
    let (mut service, handle) =
        mock::spawn_layer::<_, _, _>(CircuitBreakerLayer::new(breaker.clone()));
    let mut handle = handle;
    assert_ready_ok!(service.poll_ready());
    let mut answer = task::spawn(service.call("request"));
    assert_eq!(breaker.snapshot().in_flight, 1);
    assert_pending!(answer.poll());
    assert_request_eq!(handle, "request").send_response("answer");
    assert!(answer.is_woken());
    assert_eq!(assert_ready_ok!(answer.poll()), "answer");
    assert_eq!(seen(&breaker.snapshot()), "closed - 1 1 0 0");
}

#[tokio::test(start_paused = true)]
async fn inner_error_passes_through_unchanged_and_is_a_failure() {
    let breaker = breaker(of_calls(10));
    let (mut service, mut handle) =
        mock::spawn_layer::<&str, &str, _>(CircuitBreakerLayer::new(breaker.clone()));
    assert_ready_ok!(service.poll_ready());
    let mut answer = task::spawn(service.call("request"));
    assert_request_eq!(handle, "request").send_error(Concrete);
    let error = assert_ready_err!(answer.poll());
    assert!(error.downcast_ref::<Concrete>().is_some(), "{error}");
    assert_eq!(seen(&breaker.snapshot()), "closed - 0 1 1 0");
}

#[tokio::test(start_paused = true)]
async fn error_of_poll_ready_passes_through_and_counts_for_nothing() {
    let breaker = breaker(of_calls(1));
    let (mut service, mut handle) =
        mock::spawn_layer::<&str, &str, _>(CircuitBreakerLayer::new(breaker.clone()));
    handle.send_error("gone");
    let error = assert_ready_err!(service.poll_ready());
    assert_eq!(error.to_string(), "gone");
    assert_eq!(seen(&breaker.snapshot()), "closed - 0 0 0 0");
    // What was ready can be so no longer, and must not be called then.
    assert_ready_ok!(service.poll_ready());
    handle.send_error("gone");
    assert_ready_err!(service.poll_ready());
    let called = catch_unwind(AssertUnwindSafe(|| service.call("request")));
    assert_eq!(
        message(called.unwrap_err()),
        "`poll_ready` must be ready before `call`"
    );
}

#[tokio::test(start_paused = true)]
async fn pending_inner_service_is_waited_for() {
    let breaker = breaker(of_calls(1));
    let (mut service, mut handle) =
        mock::spawn_layer::<&str, &str, _>(CircuitBreakerLayer::new(breaker.clone()));
    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
}

// T9
#[tokio::test(start_paused = true)]
async fn dropped_future_of_a_probe_gives_its_slot_back_polled_or_not() {
    let breaker = breaker(plain().probes(2));
    let (mut service, _) = guarded(&breaker);
    breaker.open().unwrap();
    breaker.half_open().unwrap();
    for polled in [false, true] {
        let mut calls = Vec::new();
        for _ in 0..2 {
            let mut call = task::spawn(service.ready().await.unwrap().call(Do::Hang));
            if polled {
                assert_pending!(call.poll());
            }
            calls.push(call);
        }
        assert_eq!(breaker.snapshot().probes_free, 0);
        drop(calls);
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot.state, State::HalfOpen);
        assert_eq!((snapshot.probes_free, snapshot.in_flight), (2, 0));
    }
    assert_eq!(breaker.snapshot().totals.dropped, 4);
}

#[tokio::test(start_paused = true)]
async fn service_dropped_after_it_was_ready_leaves_nothing_behind() {
    let breaker = breaker(plain().probes(1));
    breaker.open().unwrap();
    breaker.half_open().unwrap();
    let (mut service, counts) = guarded(&breaker);
    service.ready().await.unwrap();
    assert_eq!(counts.reserved.load(Relaxed), 1);
    drop(service);
    assert_eq!(counts.reserved.load(Relaxed), 0);
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.probes_free, snapshot.in_flight), (1, 0));
}

// T27
#[tokio::test(start_paused = true)]
async fn clone_of_a_ready_service_is_not_ready() {
    let breaker = breaker(of_calls(10));
    let (mut service, counts) = guarded(&breaker);
    service.ready().await.unwrap();
    let mut clone = service.clone();
    let called = catch_unwind(AssertUnwindSafe(|| clone.call(Do::Answer)));
    assert_eq!(
        message(called.unwrap_err()),
        "`poll_ready` must be ready before `call`"
    );
    assert_eq!(seen(&breaker.snapshot()), "closed - 0 0 0 0");
    // The original still is, and the instance that was made ready is the one that is called.
    service.call(Do::Answer).await.unwrap();
    assert_eq!(counts.calls.load(Relaxed), 1);
    assert_eq!(counts.reserved.load(Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn readiness_is_for_one_call() {
    let breaker = breaker(of_calls(10));
    let (mut service, _) = guarded(&breaker);
    for state in [State::Closed, State::ForcedOpen] {
        if state == State::ForcedOpen {
            breaker.force_open();
        }
        let _ = call(&mut service, Do::Answer).await;
        let again = catch_unwind(AssertUnwindSafe(|| service.call(Do::Answer)));
        assert_eq!(
            message(again.unwrap_err()),
            "`poll_ready` must be ready before `call`"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn clones_together_have_as_many_probes_as_one() {
    let breaker = breaker(plain().probes(3));
    let (service, counts) = guarded(&breaker);
    breaker.open().unwrap();
    advance(5 * SECOND).await;
    let mut clones = vec![service; 8];
    for clone in &mut clones {
        clone.ready().await.unwrap();
    }
    let calls: Vec<_> = (clones.iter_mut())
        .map(|clone| clone.call(Do::Answer))
        .collect();
    assert_eq!(counts.calls.load(Relaxed), 3);
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.rejected, snapshot.probes_in_flight), (5, 3));
    let mut refused = 0;
    for call in calls {
        if let Err(error) = call.await {
            let open = CircuitOpen::find(&*error).unwrap();
            assert_eq!(open.state(), State::HalfOpen);
            refused += 1;
        }
    }
    assert_eq!(refused, 5);
    assert_eq!(breaker.state(), State::Closed);
}

#[derive(Debug)]
struct Concrete;

impl fmt::Display for Concrete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("concrete")
    }
}

impl Error for Concrete {}

#[tokio::test(start_paused = true)]
async fn inner_errors_of_any_type_compose() {
    async fn run<S, E>(service: S) -> Result<u32, BoxError>
    where
        S: Service<(), Response = u32, Error = E> + Clone,
        E: Into<BoxError>,
    {
        let service = ServiceBuilder::new()
            .layer(CircuitBreakerLayer::new(breaker(plain())))
            .service(service);
        service.oneshot(()).await
    }
    let infallible = service_fn(|()| ready(Ok::<_, Infallible>(1)));
    assert_eq!(run(infallible).await.unwrap(), 1);
    let concrete = run(service_fn(|()| ready(Err(Concrete)))).await;
    assert!(concrete.unwrap_err().is::<Concrete>());
    let boxed = run(service_fn(|()| ready(Err(BoxError::from("boxed"))))).await;
    assert_eq!(boxed.unwrap_err().to_string(), "boxed");
    // And the error goes on into Tower's own.
    let service = ServiceBuilder::new()
        .layer(tower::util::BoxCloneService::layer())
        .layer(CircuitBreakerLayer::new(breaker(plain())))
        .service(service_fn(|()| ready(Ok::<_, Infallible>(1))));
    let service: tower::util::BoxCloneService<(), u32, tower::BoxError> = service;
    assert_eq!(service.oneshot(()).await.unwrap(), 1);
}

#[test]
fn public_types_can_be_shared_and_shown() {
    fn shared<T: Send + Sync + fmt::Debug + 'static>() {}
    fn error<T: Send + Sync + Error + Clone + PartialEq + 'static>() {}
    shared::<CircuitBreaker>();
    shared::<CircuitBreakerConfig>();
    shared::<CircuitBreakerLayer>();
    shared::<CircuitBreakerService<Strict>>();
    shared::<ResponseFuture<std::future::Ready<()>, ErrorsAreFailures>>();
    shared::<Permit>();
    shared::<Outcome>();
    shared::<State>();
    shared::<Reason>();
    shared::<Window>();
    shared::<ProbeRule>();
    shared::<AfterHalfOpen>();
    shared::<OnOpen>();
    shared::<HistoryConfig>();
    shared::<HistoryUsage>();
    shared::<Snapshot>();
    shared::<WindowSnapshot>();
    shared::<plimsoll_breaker::CallTotals>();
    shared::<plimsoll_breaker::TransitionCount>();
    shared::<CallOutcome>();
    shared::<CallRecord>();
    shared::<Calls>();
    shared::<CallsQuery>();
    shared::<Evidence>();
    shared::<Transition>();
    shared::<Event>();
    shared::<plimsoll_breaker::EventKind>();
    shared::<Events>();
    shared::<Received>();
    shared::<ErrorsAreFailures>();
    shared::<plimsoll_breaker::ConfigProblem>();
    error::<ConfigError>();
    error::<CircuitOpen>();
    error::<IllegalTransition>();
    error::<TooManyObservers>();
    // A future is sent where its call is.
    fn sent<T: Send>(_: &T) {}
    let (mut service, _) = guarded(&breaker(plain()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    sent(&service.call(Do::Answer));
}

// T25
#[tokio::test(start_paused = true)]
async fn buffer_around_an_open_breaker_survives() {
    let breaker = breaker(plain());
    let (service, counts) = guarded(&breaker);
    let mut buffer = tower::buffer::Buffer::new(service, 4);
    assert_eq!(call(&mut buffer, Do::Answer).await.unwrap(), 7);
    for _ in 0..3 {
        breaker.force_open();
        for _ in 0..10 {
            let error = call(&mut buffer, Do::Answer).await.unwrap_err();
            assert!(CircuitOpen::find(&*error).is_some(), "{error}");
        }
        breaker.close();
        assert_eq!(call(&mut buffer, Do::Answer).await.unwrap(), 7);
    }
    assert_eq!(counts.calls.load(Relaxed), 4);
}

// T26
#[tokio::test(start_paused = true)]
async fn open_breaker_answers_for_a_service_that_is_never_ready() {
    let breaker = breaker(plain());
    let (service, counts) = guarded(&breaker);
    let mut service = mock::Spawn::new(service);
    counts.blocked.store(true, Relaxed);
    assert_pending!(service.poll_ready());
    for _ in 0..3 {
        breaker.force_open();
        let polls = counts.polls.load(Relaxed);
        assert_ready_ok!(service.poll_ready());
        let error = assert_ready_err!(task::spawn(service.call(Do::Answer)).poll());
        assert!(CircuitOpen::find(&*error).is_some());
        assert_eq!(counts.polls.load(Relaxed), polls, "the inner was polled");
        breaker.close();
        assert_pending!(service.poll_ready());
    }
}

// T26
#[tokio::test(start_paused = true)]
async fn half_open_breaker_without_free_probes_answers_at_once() {
    let breaker = breaker(plain().probes(1));
    breaker.open().unwrap();
    breaker.half_open().unwrap();
    let probe = breaker.try_acquire().unwrap();
    let (service, counts) = guarded(&breaker);
    counts.blocked.store(true, Relaxed);
    let mut service = mock::Spawn::new(service);
    assert_ready_ok!(service.poll_ready());
    let error = assert_ready_err!(task::spawn(service.call(Do::Answer)).poll());
    assert_eq!(CircuitOpen::find(&*error).unwrap().state(), State::HalfOpen);
    drop(probe);
}

/// A service of one call at a time behind a breaker, twice.
fn limited(breaker: &CircuitBreaker) -> impl Service<Do, Response = u32, Error = BoxError> + Clone {
    ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(breaker.clone()))
        .concurrency_limit(1)
        .service(Strict::default())
}

// T28
#[tokio::test(start_paused = true)]
async fn refused_call_gives_back_what_the_inner_service_had_reserved() {
    let breaker = breaker(plain());
    let mut first = limited(&breaker);
    let mut second = mock::Spawn::new(first.clone());
    first.ready().await.unwrap();
    assert_pending!(second.poll_ready());
    breaker.force_open();
    let error = first.call(Do::Answer).await.unwrap_err();
    assert!(CircuitOpen::find(&*error).is_some());
    breaker.close();
    assert!(second.is_woken());
    assert_ready_ok!(second.poll_ready());
    assert_eq!(second.call(Do::Answer).await.unwrap(), 7);
    assert_eq!(call(&mut first, Do::Answer).await.unwrap(), 7);
}

// T28: the refusal may be decided in a second `poll_ready`, too.
#[tokio::test(start_paused = true)]
async fn call_refused_after_it_was_ready_twice_gives_back_what_was_reserved() {
    let breaker = breaker(plain());
    let mut first = limited(&breaker);
    let mut second = mock::Spawn::new(first.clone());
    first.ready().await.unwrap();
    assert_pending!(second.poll_ready());
    breaker.force_open();
    first.ready().await.unwrap();
    let error = first.call(Do::Answer).await.unwrap_err();
    assert!(CircuitOpen::find(&*error).is_some());
    breaker.close();
    assert_ready_ok!(second.poll_ready());
}

// T28: one that still waited for the inner service has a place in a queue.
#[tokio::test(start_paused = true)]
async fn refused_call_gives_up_its_place_in_the_queue_of_the_inner_service() {
    let breaker = breaker(plain());
    let mut first = mock::Spawn::new(limited(&breaker));
    let mut second = mock::Spawn::new(first.get_ref().clone());
    let mut third = mock::Spawn::new(first.get_ref().clone());
    assert_ready_ok!(first.poll_ready());
    assert_pending!(second.poll_ready());
    assert_pending!(third.poll_ready());
    breaker.force_open();
    assert_ready_ok!(second.poll_ready());
    assert_ready_err!(task::spawn(second.call(Do::Answer)).poll());
    breaker.close();
    // The place is given to whoever waits, and not to one that was answered.
    drop(first);
    assert_ready_ok!(third.poll_ready());
}

// T28
#[tokio::test(start_paused = true)]
async fn service_that_waits_for_its_breaker_keeps_nothing_reserved() {
    let breaker = breaker(plain());
    let (service, counts) = waiting(&breaker);
    let mut service = mock::Spawn::new(service);
    assert_ready_ok!(service.poll_ready());
    assert_eq!(counts.reserved.load(Relaxed), 1);
    breaker.force_open();
    assert_pending!(service.poll_ready());
    assert_eq!(counts.reserved.load(Relaxed), 0);
}

// T29
#[tokio::test(start_paused = true)]
async fn refusal_granted_by_poll_ready_stays_one_when_the_circuit_closes() {
    let breaker = breaker(plain());
    let (mut service, counts) = guarded(&breaker);
    breaker.open().unwrap();
    breaker.try_acquire().unwrap_err();
    service.ready().await.unwrap();
    breaker.close();
    let error = service.call(Do::Answer).await.unwrap_err();
    let open = CircuitOpen::find(&*error).unwrap();
    assert_eq!((open.state(), open.reason()), (State::Open, Reason::Manual));
    assert_eq!(counts.calls.load(Relaxed), 0);
    assert_eq!(counts.polls.load(Relaxed), 0);
    assert_eq!(breaker.snapshot().totals.rejected(), 2);
    assert_eq!(breaker.snapshot().totals.rejected_open, 2);
    assert_eq!(call(&mut service, Do::Answer).await.unwrap(), 7);
}

// T30
#[tokio::test(start_paused = true)]
async fn clone_that_is_ready_and_idle_takes_no_probe_from_others() {
    for on_open in [OnOpen::Reject, OnOpen::NotReady] {
        let breaker = breaker(plain().probes(1));
        let layer = CircuitBreakerLayer::new(breaker.clone()).on_open(on_open);
        let mut idle = layer.layer(Strict::default());
        let mut active = idle.clone();
        breaker.open().unwrap();
        advance(5 * SECOND).await;
        idle.ready().await.unwrap();
        assert_eq!(call(&mut active, Do::Answer).await.unwrap(), 7);
        assert_eq!(breaker.state(), State::Closed);
    }
}

// T31
#[tokio::test(start_paused = true)]
async fn service_that_is_not_ready_is_woken_when_the_wait_is_over() {
    let breaker = breaker(plain());
    let (service, counts) = waiting(&breaker);
    let mut service = mock::Spawn::new(service);
    breaker.open().unwrap();
    assert_pending!(service.poll_ready());
    advance(5 * SECOND - MS).await;
    assert!(!service.is_woken());
    assert_eq!(counts.polls.load(Relaxed), 0);
    advance(2 * MS).await;
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
    // It is ready, so nothing is news to it any more.
    breaker.force_open();
    assert!(!service.is_woken());
    breaker.close();
    assert!(!service.is_woken());
    assert_eq!(service.call(Do::Answer).await.unwrap(), 7);
}

/// Polls `service` until it is ready, and says how often that was and how long it took.
async fn count_polls(service: &mut CircuitBreakerService<Strict>) -> (usize, Duration) {
    let begun = Instant::now();
    let mut polls = 0;
    poll_fn(|cx| {
        polls += 1;
        service.poll_ready(cx)
    })
    .await
    .unwrap();
    (polls, Instant::now().saturating_duration_since(begun))
}

// T31
#[tokio::test(start_paused = true)]
async fn service_that_waits_is_polled_no_more_often_than_something_changes() {
    let breaker = breaker(plain());
    let (mut service, _) = waiting(&breaker);
    breaker.open().unwrap();
    // The runtime moves the paused clock on when nothing else is to be done.
    assert_eq!(count_polls(&mut service).await, (2, 5 * SECOND));
    service.call(Do::Answer).await.unwrap();

    breaker.open_for(Duration::MAX).unwrap();
    let (mut service, _) = waiting(&breaker);
    let waiting = tokio::spawn(async move { count_polls(&mut service).await });
    tokio::time::sleep(1_000 * HOUR).await;
    assert!(!waiting.is_finished());
    breaker.close();
    assert_eq!(waiting.await.unwrap(), (2, 1_000 * HOUR));
}

// T31
#[tokio::test(start_paused = true)]
async fn service_that_is_not_ready_is_woken_by_whatever_lets_calls_pass() {
    type Pass = fn(&CircuitBreaker);
    let ways: [(&str, Pass); 5] = [
        ("close", CircuitBreaker::close),
        ("reset", CircuitBreaker::reset),
        ("disable", CircuitBreaker::disable),
        ("metrics only", CircuitBreaker::metrics_only),
        ("half open", |breaker| breaker.half_open().unwrap()),
    ];
    for (way, pass) in ways {
        for forced in [false, true] {
            let breaker = breaker(plain());
            match forced {
                true => breaker.force_open(),
                false => breaker.open().unwrap(),
            }
            let mut services: Vec<_> = (0..3)
                .map(|_| mock::Spawn::new(waiting(&breaker).0))
                .collect();
            for service in &mut services {
                assert_pending!(service.poll_ready());
                assert!(!service.is_woken());
            }
            pass(&breaker);
            for service in &mut services {
                assert!(service.is_woken(), "{way}");
                assert_ready_ok!(service.poll_ready());
            }
        }
    }
}

// T31
#[tokio::test(start_paused = true)]
async fn service_that_is_not_ready_is_woken_when_a_probe_is_over() {
    let ends: [fn(Permit); 2] = [drop, |permit| permit.record(Outcome::Success)];
    for end in ends {
        let breaker = breaker(plain().probes(1));
        breaker.open().unwrap();
        breaker.half_open().unwrap();
        let probe = breaker.try_acquire().unwrap();
        let mut service = mock::Spawn::new(waiting(&breaker).0);
        assert_pending!(service.poll_ready());
        assert!(!service.is_woken());
        end(probe);
        assert!(service.is_woken());
        assert_ready_ok!(service.poll_ready());
    }
}

// T31
#[tokio::test(start_paused = true)]
async fn service_that_is_not_ready_is_woken_when_the_lease_of_a_probe_ends() {
    let breaker = breaker(plain().probes(1).probe_lease(10 * SECOND));
    breaker.open().unwrap();
    breaker.half_open().unwrap();
    let _hung = breaker.try_acquire().unwrap();
    let mut service = mock::Spawn::new(waiting(&breaker).0);
    assert_pending!(service.poll_ready());
    advance(10 * SECOND - MS).await;
    assert!(!service.is_woken());
    advance(2 * MS).await;
    assert!(service.is_woken());
}

// T31
#[tokio::test(start_paused = true)]
async fn service_that_is_not_ready_is_woken_when_half_open_has_lasted_too_long() {
    let config = plain()
        .probes(1)
        .half_open_timeout(2 * SECOND, AfterHalfOpen::Close);
    let breaker = breaker(config);
    breaker.open().unwrap();
    breaker.half_open().unwrap();
    let _hung = breaker.try_acquire().unwrap();
    let mut service = mock::Spawn::new(waiting(&breaker).0);
    assert_pending!(service.poll_ready());
    advance(2 * SECOND + MS).await;
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
    assert_eq!(service.call(Do::Answer).await.unwrap(), 7);
    assert_eq!(breaker.state(), State::Closed);
}

// T31
#[tokio::test(start_paused = true)]
async fn service_that_waits_follows_a_deadline_that_is_moved() {
    let breaker = breaker(plain());
    breaker.open_for(HOUR).unwrap();
    let mut service = mock::Spawn::new(waiting(&breaker).0);
    assert_pending!(service.poll_ready());
    breaker.open_for(SECOND).unwrap();
    assert!(service.is_woken());
    assert_pending!(service.poll_ready());
    advance(SECOND + MS).await;
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
    // And one that is moved away.
    breaker.open_for(SECOND).unwrap();
    assert_pending!(service.poll_ready());
    breaker.open_for(HOUR).unwrap();
    assert!(service.is_woken());
    assert_pending!(service.poll_ready());
    advance(HOUR - SECOND).await;
    assert!(!service.is_woken());
}

// T31
#[tokio::test(start_paused = true)]
async fn service_that_is_gone_leaves_no_waker_behind() {
    struct Count;
    impl Wake for Count {
        fn wake(self: Arc<Self>) {}
    }
    let breaker = breaker(plain());
    breaker.force_open();
    let count = Arc::new(Count);
    let waker = Waker::from(count.clone());
    let held = Arc::strong_count(&count);
    for _ in 0..100 {
        let (mut service, _) = waiting(&breaker);
        for _ in 0..3 {
            let mut cx = Context::from_waker(&waker);
            assert!(service.poll_ready(&mut cx).is_pending());
            assert_eq!(Arc::strong_count(&count), held + 1);
        }
    }
    assert_eq!(Arc::strong_count(&count), held);
}

#[tokio::test(start_paused = true)]
async fn balancer_goes_to_the_service_whose_circuit_is_closed() {
    use tower::{
        balance::p2c::Balance,
        discover::ServiceList,
        load::{Constant, Load},
    };
    fn loaded(
        service: CircuitBreakerService<Strict>,
    ) -> impl Load<Metric = u32> + Service<Do, Response = u32, Error = BoxError> {
        Constant::new(service, 1)
    }
    let breakers = [breaker(plain()), breaker(plain())];
    let (first, first_counts) = waiting(&breakers[0]);
    let (second, second_counts) = waiting(&breakers[1]);
    let services = ServiceList::new::<Do>(vec![loaded(first), loaded(second)]);
    let mut balance = Balance::new(services);
    breakers[0].open().unwrap();
    for _ in 0..20 {
        assert_eq!(call(&mut balance, Do::Answer).await.unwrap(), 7);
    }
    assert_eq!(first_counts.calls.load(Relaxed), 0);
    assert_eq!(second_counts.calls.load(Relaxed), 20);
    breakers[0].close();
    breakers[1].force_open();
    for _ in 0..20 {
        assert_eq!(call(&mut balance, Do::Answer).await.unwrap(), 7);
    }
    assert_eq!(first_counts.calls.load(Relaxed), 20);
    assert_eq!(second_counts.calls.load(Relaxed), 20);
}

// T32
#[tokio::test(start_paused = true)]
async fn services_of_one_layer_share_its_circuit() {
    let breaker = breaker(of_calls(2));
    let layer = CircuitBreakerLayer::new(breaker.clone());
    let mut first = layer.layer(Strict::default());
    let mut second = layer.clone().layer(Strict::default());
    call(&mut first, Do::Fail).await.unwrap_err();
    call(&mut second, Do::Fail).await.unwrap_err();
    assert_eq!(layer.breaker().state(), State::Open);
    assert_eq!(first.breaker().state(), State::Open);
    for service in [&mut first, &mut second] {
        let error = call(service, Do::Answer).await.unwrap_err();
        assert!(CircuitOpen::find(&*error).is_some());
    }
    assert_eq!(transitions(&breaker), 1);
}

/// An error with a cause.
#[derive(Debug)]
struct Because(BoxError);

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("because")
    }
}

impl Error for Because {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

// T33
#[tokio::test(start_paused = true)]
async fn refusals_of_other_layers_say_nothing_about_the_downstream() {
    for reason in RejectReason::ALL {
        for wrapped in [false, true] {
            let breaker = breaker(of_calls(10).consecutive_failures(1));
            let rejected = Rejected::new(reason, Name::from_static("limit"));
            let mut service = ServiceBuilder::new()
                .layer(CircuitBreakerLayer::new(breaker.clone()))
                .service_fn(|()| {
                    let error = BoxError::from(rejected);
                    ready(Err::<(), _>(match wrapped {
                        true => BoxError::from(Because(error)),
                        false => error,
                    }))
                });
            for _ in 0..100 {
                let error = service.ready().await.unwrap().call(()).await.unwrap_err();
                assert_eq!(Rejected::find(&*error), Some(&rejected));
            }
            let snapshot = breaker.snapshot();
            assert_eq!(seen(&snapshot), "closed - 0 0 0 0");
            assert_eq!(snapshot.totals.ignored, 100);
        }
    }
}

// T33
#[tokio::test(start_paused = true)]
async fn breaker_inside_does_not_open_the_breaker_outside() {
    let (outer, inner) = (breaker(of_calls(2)), breaker(of_calls(2)));
    let mut service = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(outer.clone()))
        .layer(CircuitBreakerLayer::new(inner.clone()))
        .service(Strict::default());
    inner.force_open();
    for _ in 0..10 {
        call(&mut service, Do::Answer).await.unwrap_err();
    }
    assert_eq!(seen(&outer.snapshot()), "closed - 0 0 0 0");
    assert_eq!(outer.snapshot().totals.ignored, 10);
    assert_eq!(inner.snapshot().rejected, 10);
}

#[tokio::test(start_paused = true)]
async fn refusal_says_who_why_and_how_long() {
    let breaker = CircuitBreaker::new("orders", of_calls(1)).unwrap();
    let (mut service, _) = guarded(&breaker);
    call(&mut service, Do::Fail).await.unwrap_err();
    advance(2 * SECOND).await;
    let error = call(&mut service, Do::Answer).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "circuit breaker orders is open: too many calls failed"
    );
    let open = CircuitOpen::find(&*error).unwrap();
    assert_eq!(open.breaker(), breaker.name());
    assert_eq!(open.state(), State::Open);
    assert_eq!(open.reason(), Reason::FailureRate);
    assert_eq!(open.retry_after(), Some(3 * SECOND));
    let source = error.source().unwrap().downcast_ref::<Rejected>().unwrap();
    assert_eq!(source.reason(), RejectReason::CircuitOpen);
    assert_eq!(source.source().as_str(), "orders");
    assert_eq!(source.retry_after(), Some(3 * SECOND));
    assert_eq!(Rejected::find(&*error), Some(source));
    assert_eq!(Rejected::from(*open), open.rejected());
    assert_eq!(open.rejected(), *source);
    // Behind another error, too.
    let because = BoxError::from(Because(error));
    assert!(CircuitOpen::find(&*because).is_some());
    assert!(Rejected::find(&*because).is_some());
    assert_eq!(CircuitOpen::find(&Because("other".into())), None);
    // The call that acquires by hand is told the same.
    let by_hand = breaker.try_acquire().unwrap_err();
    assert_eq!(by_hand.retry_after(), Some(3 * SECOND));
    assert_eq!(by_hand.reason(), Reason::FailureRate);
}

// T10
#[tokio::test(start_paused = true)]
async fn panic_in_the_inner_call_is_a_failure() {
    let breaker = breaker(of_calls(10));
    let (mut service, _) = guarded(&breaker);
    service.ready().await.unwrap();
    let called = catch_unwind(AssertUnwindSafe(|| service.call(Do::PanicInCall)));
    assert_eq!(message(called.unwrap_err()), "in call");
    let snapshot = breaker.snapshot();
    assert_eq!(seen(&snapshot), "closed - 0 1 1 0");
    assert_eq!(snapshot.in_flight, 0);
    assert_eq!(call(&mut service, Do::Answer).await.unwrap(), 7);
}

// T10
#[tokio::test(start_paused = true)]
async fn panic_in_the_inner_future_is_a_failure_at_once() {
    let breaker = breaker(plain().probes(2));
    breaker.open().unwrap();
    breaker.half_open().unwrap();
    let (mut service, _) = guarded(&breaker);
    let mut future = Box::pin(service.ready().await.unwrap().call(Do::PanicInPoll));
    let mut cx = Context::from_waker(Waker::noop());
    let polled = catch_unwind(AssertUnwindSafe(|| {
        future.as_mut().poll(&mut cx).is_ready()
    }));
    assert_eq!(message(polled.unwrap_err()), "in poll");
    // Whoever caught the panic still has the future.
    assert_eq!(seen(&breaker.snapshot()), "half_open - 0 1 1 0");
    assert_eq!(breaker.snapshot().probes_in_flight, 0);
    drop(future);
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.failures, totals.dropped, totals.stale), (1, 0, 0));
}

// T10
#[tokio::test(start_paused = true)]
async fn panic_in_the_classifier_is_a_failure_at_once() {
    fn judge(_: Result<&u32, &BoxError>, _: Duration) -> Outcome {
        panic!("in the judgement")
    }
    let breaker = breaker(plain().probes(2));
    breaker.open().unwrap();
    breaker.half_open().unwrap();
    let layer = CircuitBreakerLayer::new(breaker.clone()).classify(judge);
    let mut service = layer.layer(Strict::default());
    let mut future = Box::pin(service.ready().await.unwrap().call(Do::Answer));
    let mut cx = Context::from_waker(Waker::noop());
    let polled = catch_unwind(AssertUnwindSafe(|| {
        future.as_mut().poll(&mut cx).is_ready()
    }));
    assert_eq!(message(polled.unwrap_err()), "in the judgement");
    assert_eq!(seen(&breaker.snapshot()), "half_open - 0 1 1 0");
    drop(future);
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.failures, totals.dropped, totals.stale), (1, 0, 0));
}

// A permit ends in exactly one way, even if its future is polled when it must not be.
#[tokio::test(start_paused = true)]
async fn future_that_is_polled_after_it_was_done_is_not_judged_again() {
    let breaker = breaker(of_calls(10));
    let (mut service, _) = guarded(&breaker);
    for request in [Do::Answer, Do::PanicInPoll] {
        let mut future = Box::pin(service.ready().await.unwrap().call(request));
        for _ in 0..3 {
            let mut cx = Context::from_waker(Waker::noop());
            // The inner future panics when it is polled again.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                future.as_mut().poll(&mut cx).is_ready()
            }));
        }
    }
    assert_eq!(seen(&breaker.snapshot()), "closed - 1 2 1 0");
    assert_eq!(breaker.calls(&CallsQuery::new()).matching, 2);
}

#[tokio::test(start_paused = true)]
async fn call_that_has_answered_is_not_in_flight_though_its_future_is_kept() {
    let breaker = breaker(of_calls(10));
    let (mut service, _) = guarded(&breaker);
    let mut future = task::spawn(service.ready().await.unwrap().call(Do::Answer));
    assert_eq!(breaker.snapshot().in_flight, 1);
    assert_ready_ok!(future.poll());
    assert_eq!(breaker.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn classifier_is_given_the_answer_and_how_long_it_took() {
    let breaker = breaker(of_calls(10));
    let layer = CircuitBreakerLayer::new(breaker.clone()).classify(
        |result: Result<&u32, &BoxError>, elapsed: Duration| match result {
            Ok(8) if elapsed == 3 * SECOND => Outcome::Failure,
            _ => Outcome::Success,
        },
    );
    let mut service = layer.layer(service_fn(|answer: u32| async move {
        tokio::time::sleep(3 * SECOND).await;
        Ok::<_, Infallible>(answer)
    }));
    for answer in [7, 8] {
        assert_eq!(
            service.ready().await.unwrap().call(answer).await.unwrap(),
            answer
        );
    }
    assert_eq!(seen(&breaker.snapshot()), "closed - 1 2 1 0");
}

#[tokio::test(start_paused = true)]
async fn breaker_that_is_gone_lets_its_last_calls_end() {
    let breaker = breaker(of_calls(1));
    let permit = breaker.try_acquire().unwrap();
    let other = breaker.try_acquire().unwrap();
    drop(breaker);
    permit.record(Outcome::Failure);
    drop(other);
}
