//! Who is let in at the edge, and what becomes of those who are not.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use plimsoll_alloc::TrackingAllocator;
use plimsoll_core::{Name, RejectReason, Rejected};
use plimsoll_http::{
    Edge, EdgeLayer, EndpointLabel,
    edge::{EdgeBody, EndpointSnapshot, future::EdgeFuture},
};
use plimsoll_memory::{
    Admission, AdmissionConfig, AdmissionMode, AdmissionStats, BudgetKey, BudgetMode, HeavyRequest,
    MemoryConfig, Priority,
    admission::Meter,
    reclaim::{CancelAsk, CancelLargest as _, Cancelled},
};
use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    hint::black_box,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    sync::oneshot,
    time::{Instant, advance},
};
use tokio_test::{
    assert_pending, assert_ready, assert_ready_ok,
    task::{self, Spawn},
};
use tower::{Layer as _, Service, ServiceExt as _};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const MIB: u64 = 1 << 20;
/// A request is small up to 1 MiB of this line.
const LINE: u64 = 1 << 30;

/// Has those end who hold most.
fn cancel_largest(admission: &Admission, want: u64, floor: u64, at_most: usize) -> Cancelled {
    let ask = CancelAsk::new(floor, want, at_most, BudgetMode::Enforce);
    admission.cancel_largest(&ask)
}

struct Gauge(Arc<AtomicU64>);

impl Meter for Gauge {
    fn used(&mut self) -> Option<u64> {
        Some(self.0.load(Relaxed))
    }

    fn tracked(&mut self) -> Option<u64> {
        None
    }
}

/// What a handler is to do: allocate, wait until the gate is open, and answer by frames.
#[derive(Debug, Default)]
struct Job {
    bytes: u64,
    frames: usize,
    gate: Option<oneshot::Receiver<()>>,
    panics: Option<Where>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Where {
    InCall,
    InPoll,
}

/// Counts how often it was called, and how many of it are ready. No clone is.
#[derive(Default)]
struct Handler {
    called: Arc<AtomicUsize>,
    ready: Arc<AtomicUsize>,
    is_ready: bool,
}

impl Handler {
    fn set_ready(&mut self, is_ready: bool) {
        self.ready.fetch_add(usize::from(is_ready), Relaxed);
        let was_ready = mem::replace(&mut self.is_ready, is_ready);
        self.ready.fetch_sub(usize::from(was_ready), Relaxed);
    }
}

impl Clone for Handler {
    fn clone(&self) -> Self {
        Self {
            called: self.called.clone(),
            ready: self.ready.clone(),
            is_ready: false,
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.set_ready(false);
    }
}

/// A body that holds what its handler held, and makes each frame when it is asked for it.
#[derive(Debug)]
struct Streamed {
    frames: usize,
    waits: bool,
    _held: Vec<u8>,
}

/// A service behind an edge.
struct Shop {
    edge: EdgeLayer,
    service: Edge<Handler>,
    called: Arc<AtomicUsize>,
    ready: Arc<AtomicUsize>,
    used: Arc<AtomicU64>,
}

type Call = EdgeFuture<Handler, Job>;
type Answer = Response<EdgeBody<Streamed>>;

impl Service<Request<Job>> for Handler {
    type Response = Response<Streamed>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Streamed>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.set_ready(true);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Job>) -> Self::Future {
        assert!(self.is_ready, "called without being ready");
        self.set_ready(false);
        self.called.fetch_add(1, Relaxed);
        let job = request.into_body();
        assert_ne!(job.panics, Some(Where::InCall), "as it was told to");
        Box::pin(async move {
            let mut waited = false;
            match job.gate {
                Some(gate) => drop(gate.await),
                None => {
                    poll_fn(|cx| match mem::replace(&mut waited, true) {
                        true => Poll::Ready(()),
                        false => {
                            cx.waker().wake_by_ref();
                            Poll::Pending
                        }
                    })
                    .await;
                }
            }
            assert_ne!(job.panics, Some(Where::InPoll), "as it was told to");
            Ok(Response::new(Streamed {
                frames: job.frames,
                waits: false,
                // Nobody writes to it, so it takes no memory of the machine.
                _held: black_box(Vec::with_capacity(job.bytes as usize)),
            }))
        })
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // Between two frames it waits, for somebody who wakes it.
        self.waits = !self.waits;
        if self.waits {
            return Poll::Pending;
        }
        let Some(frames) = self.frames.checked_sub(1) else {
            return Poll::Ready(None);
        };
        self.frames = frames;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"frame")))))
    }
}

impl Shop {
    fn new(config: &AdmissionConfig) -> Self {
        let edge = EdgeLayer::new();
        let used = Arc::new(AtomicU64::new(0));
        edge.admission().reconfigure(config).unwrap();
        edge.admission().set_line(Some(LINE));
        let handler = Handler::default();
        let shop = Self {
            called: handler.called.clone(),
            ready: handler.ready.clone(),
            service: edge.layer(handler),
            edge,
            used,
        };
        shop.uses(0);
        shop
    }

    /// One whose route is known to take so much.
    async fn that_takes(bytes: u64) -> Self {
        let shop = Self::new(&enforce());
        shop.learn(bytes).await;
        shop
    }

    /// So much is used, and known to be.
    fn uses(&self, bytes: u64) {
        self.used.store(bytes, Relaxed);
        self.edge.admission().set_meter(Gauge(self.used.clone()));
        self.edge.admission().tick();
    }

    fn stats(&self) -> AdmissionStats {
        self.edge.admission().stats()
    }

    fn called(&self) -> usize {
        self.called.load(Relaxed)
    }

    async fn learn(&self, bytes: u64) {
        for _ in 0..40 {
            let answer = self.service.clone().oneshot(request(job(bytes)));
            assert_eq!(answer.await.unwrap().status(), 200);
        }
    }

    fn call(&self, request: Request<Job>) -> Spawn<Call> {
        let mut service = self.service.clone();
        let mut cx = Context::from_waker(Waker::noop());
        assert_ready_ok!(service.poll_ready(&mut cx));
        task::spawn(service.call(request))
    }

    /// One that is in, and waits at a gate.
    fn enter(&self, mut request: Request<Job>) -> (Spawn<Call>, oneshot::Sender<()>) {
        let (open, gate) = oneshot::channel();
        request.body_mut().gate = Some(gate);
        let before = self.called();
        let mut call = self.call(request);
        assert_pending!(call.poll());
        assert_eq!(self.called(), before + 1, "it has to wait");
        (call, open)
    }

    /// One that has to wait.
    fn queue(&self, request: Request<Job>) -> Spawn<Call> {
        let before = self.called();
        let mut call = self.call(request);
        assert_pending!(call.poll());
        assert_eq!(self.called(), before, "it does not wait");
        call
    }

    /// One that is refused at once.
    async fn refused(&self, request: Request<Job>) -> Answer {
        let before = self.called();
        let answer = assert_ready_ok!(self.call(request).poll());
        assert_eq!(self.called(), before);
        answer
    }

    /// Nothing is left of anybody.
    fn assert_empty(&self) {
        let stats = self.stats();
        assert_eq!(
            (stats.running, stats.waiting, stats.reserved_for_small),
            (0, 0, 0),
            "{stats:?}"
        );
        assert_eq!((stats.growth, self.edge.in_flight()), (0, 0), "{stats:?}");
    }

    fn snapshot(&self) -> EndpointSnapshot {
        let snapshots = self.edge.snapshot().into_iter();
        let mut route = snapshots.filter(|snapshot| snapshot.endpoint.as_str() == "/route");
        route.next().unwrap()
    }
}

fn enforce() -> AdmissionConfig {
    AdmissionConfig::new().mode(AdmissionMode::Enforce)
}

fn job(bytes: u64) -> Job {
    Job {
        bytes,
        frames: 1,
        ..Job::default()
    }
}

fn request(job: Job) -> Request<Job> {
    request_to("/route", job)
}

fn request_to(route: &'static str, job: Job) -> Request<Job> {
    let mut request = Request::new(job);
    let label = EndpointLabel(Name::from_static(route));
    request.extensions_mut().insert(label);
    request
}

fn of(priority: Priority, mut request: Request<Job>) -> Request<Job> {
    request.extensions_mut().insert(priority);
    request
}

fn announces(bytes: u64, mut request: Request<Job>) -> Request<Job> {
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_LENGTH, bytes.into());
    request
}

/// What an answer tells that refuses.
async fn told(answer: Answer) -> (StatusCode, u64, String) {
    let status = answer.status();
    let again = answer.headers()[header::RETRY_AFTER].to_str().unwrap();
    let again = again.parse().unwrap();
    let document = answer.into_body().collect().await.unwrap().to_bytes();
    let document = String::from_utf8(document.to_vec()).unwrap();
    (status, again, document)
}

/// The next that a body has.
fn frame(body: &mut Spawn<EdgeBody<Streamed>>) -> Option<Result<Bytes, Rejected>> {
    let mut poll = || body.enter(|cx, body| body.poll_frame(cx));
    let polled = match poll() {
        Poll::Pending => poll(),
        ready => ready,
    };
    let frame = assert_ready!(polled)?;
    Some(match frame {
        Ok(frame) => Ok(frame.into_data().unwrap()),
        Err(error) => Err(*Rejected::find(&*error).unwrap()),
    })
}

#[tokio::test(start_paused = true)]
async fn request_waits_until_there_is_room_and_its_handler_runs_then() {
    let shop = Shop::that_takes(600 * MIB).await;
    let held = shop.enter(request(job(600 * MIB)));
    let mut waits = shop.queue(request(job(600 * MIB)));
    assert_eq!((shop.stats().running, shop.stats().waiting), (1, 1));
    assert_eq!(shop.edge.in_flight(), 2);
    drop(held);
    assert!(waits.is_woken());
    assert_pending!(waits.poll());
    assert_eq!(shop.called(), 42);
    let answer = assert_ready_ok!(waits.poll());
    // It is there until its body has gone.
    assert_eq!((shop.stats().running, shop.edge.in_flight()), (1, 1));
    assert_eq!(answer.status(), 200);
    drop(answer);
    drop(waits);
    shop.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn request_that_waits_too_long_is_answered_and_told_when_to_come_again() {
    let shop = Shop::that_takes(600 * MIB).await;
    let held = shop.enter(request(job(600 * MIB)));
    let begins = Instant::now();
    let answer = shop.service.clone().oneshot(request(job(1))).await.unwrap();
    let waited = Instant::now().saturating_duration_since(begins);
    assert_eq!(waited, Duration::from_secs(1));
    assert_eq!(shop.called(), 41);
    // It is over once it has its answer.
    assert_eq!(shop.stats().waiting, 0);
    let rejected = answer.extensions().get::<Rejected>().unwrap();
    assert_eq!(rejected.reason(), RejectReason::MemoryPressure);
    let (status, again, document) = told(answer).await;
    assert_eq!(
        (status, again >= 1),
        (StatusCode::SERVICE_UNAVAILABLE, true)
    );
    assert!(document.contains("503"), "{document}");
    drop(held);
    shop.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn requests_past_the_bound_are_answered_at_once() {
    let shop = Shop::new(&enforce().max_waiting(1));
    shop.learn(600 * MIB).await;
    let held = shop.enter(request(job(1)));
    let waits = shop.queue(request(job(1)));
    let (status, again, _) = told(shop.refused(request(job(1))).await).await;
    assert_eq!(
        (status, again >= 1),
        (StatusCode::SERVICE_UNAVAILABLE, true)
    );
    assert_eq!(shop.stats().queue_full, 1);
    drop((held, waits));
    shop.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn what_is_reserved_is_given_back_in_whatever_way_a_request_ends() {
    for bytes in [MIB / 2, 600 * MIB] {
        let shop = Shop::that_takes(bytes).await;
        shop.assert_empty();
        // It panics.
        for panics in [Where::InCall, Where::InPoll] {
            let mut request = request(job(bytes));
            request.body_mut().panics = Some(panics);
            let called = catch_unwind(AssertUnwindSafe(|| {
                let mut call = shop.call(request);
                assert_pending!(call.poll());
                call.poll().is_ready()
            }));
            assert!(called.is_err());
            shop.assert_empty();
        }
        // It is dropped before it is polled, and while its handler waits.
        drop(shop.call(request(job(bytes))));
        shop.assert_empty();
        drop(shop.enter(request(job(bytes))));
        shop.assert_empty();

        // And before it is in, or knows.
        shop.uses(LINE + MIB);
        drop(shop.call(request(job(bytes))));
        shop.assert_empty();
        drop(shop.queue(request(job(bytes))));
        shop.assert_empty();
        let granted = shop.queue(request(job(bytes)));
        shop.uses(0);
        assert!(granted.is_woken());
        assert_eq!(shop.stats().waiting, 0);
        drop(granted);
        shop.assert_empty();

        // So is its body: before it is polled, in between, and at its end.
        for frames in 0..=3 {
            let mut long = request(job(bytes));
            long.body_mut().frames = 2;
            let mut call = shop.call(long);
            assert_pending!(call.poll());
            let answer = assert_ready_ok!(call.poll());
            let mut body = task::spawn(answer.into_body());
            for nth in 0..frames {
                assert_eq!(frame(&mut body).is_some(), nth < 2);
            }
            let stats = shop.stats();
            // What a small one holds by now is seen in what is used.
            assert_eq!(stats.running, usize::from(bytes > MIB));
            assert_eq!(stats.reserved_for_small, 0);
            drop(body);
            shop.assert_empty();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn request_that_is_cancelled_is_answered_and_frees_what_it_held() {
    let shop = Shop::that_takes(100 * MIB).await;
    let (mut other, gate) = shop.enter(request(job(1)));
    let (mut call, _gate) = shop.enter(request(job(1)));
    // The handler holds its future alone, which is enough.
    let high = shop.enter(of(Priority::High, request(job(1))));
    let cancelled = cancel_largest(shop.edge.admission(), 1, 1, 1);
    assert_eq!(cancelled.requests, 1);
    let mut woken = [other.is_woken(), call.is_woken()];
    if woken[0] {
        mem::swap(&mut other, &mut call);
        woken.reverse();
        drop(_gate);
    } else {
        drop(gate);
    }
    assert_eq!(woken, [false, true]);
    let answer = assert_ready_ok!(call.poll());
    assert_eq!(shop.stats().running, 2);
    let (status, again, _) = told(answer).await;
    assert_eq!((status, again), (StatusCode::SERVICE_UNAVAILABLE, 1));
    assert_eq!(shop.snapshot().memory.refused, 1);
    // Others are not touched.
    assert_eq!(assert_ready_ok!(other.poll()).status(), 200);
    drop((other, call, high));
    shop.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn body_of_a_request_that_is_cancelled_is_cut_at_a_frame() {
    let shop = Shop::that_takes(100 * MIB).await;
    let mut long = request(job(100 * MIB));
    long.body_mut().frames = 5;
    let mut call = shop.call(long);
    assert_pending!(call.poll());
    let answer = assert_ready_ok!(call.poll());
    let mut body = task::spawn(answer.into_body());
    assert_eq!(frame(&mut body), Some(Ok(Bytes::from_static(b"frame"))));
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    let cancelled = cancel_largest(shop.edge.admission(), MIB, MIB, 1);
    assert_eq!(cancelled.bytes / MIB, 100);
    assert!(body.is_woken());
    let rejected = frame(&mut body).unwrap().unwrap_err();
    assert_eq!(rejected.reason(), RejectReason::MemoryPressure);
    assert!(rejected.retry_after().unwrap() >= Duration::from_secs(1));
    // What it held is free, though the body is still there.
    shop.assert_empty();
    let snapshot = shop.snapshot();
    assert_eq!((snapshot.memory.cut, snapshot.memory.live), (1, 0));
    drop((body, call));
}

#[tokio::test(start_paused = true)]
async fn priority_and_key_of_a_request_count_instead_of_its_routes() {
    let shop = Shop::new(&enforce().low_priority(["/route"]).exempt(["/healthz"]));
    shop.learn(300 * MIB).await;
    shop.edge.admission().set_shed(0.5);
    let answer = shop.refused(request(job(1))).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(answer);
    let high = shop.enter(of(Priority::High, request(job(1))));
    drop(shop.enter(of(Priority::Low, request_to("/healthz", job(1)))));
    shop.edge.admission().set_shed(0.0);
    drop(high);

    let key = || {
        let mut request = request(job(1));
        request.extensions_mut().insert(BudgetKey::new("tenant"));
        request
    };
    let held = shop.enter(key());
    let answer = shop.refused(key()).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    let (_, again, _) = told(answer).await;
    assert!(again >= 1);
    let another = shop.enter(request(job(1)));
    drop((held, another));
    shop.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_announced_as_large_are_learned_by_themselves() {
    let shop = Shop::new(&enforce());
    for _ in 0..40 {
        for request in [
            announces(20 * MIB, request(job(600 * MIB))),
            announces(1_000, request(job(64 << 10))),
        ] {
            shop.service.clone().oneshot(request).await.unwrap();
        }
    }
    let large = || announces(20 * MIB, request(job(1)));
    let held = shop.enter(large());
    let waits = shop.queue(large());
    let small = shop.enter(announces(1_000, request(job(1))));
    drop((held, waits, small));
    // Whatever it announces, it does no harm.
    let held = shop.enter(announces(u64::MAX, request(job(1))));
    let waits = shop.queue(announces(u64::MAX, request(job(1))));
    let small = shop.enter(request(job(1)));
    drop((held, waits, small));
    shop.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn request_that_is_not_let_in_is_not_taken_to_have_held_what_it_announced() {
    let shop = Shop::that_takes(600 * MIB).await;
    let memory = MemoryConfig::new().heavy(MIB).admission(enforce());
    shop.edge.reconfigure_memory(&memory).unwrap();
    let before = shop.snapshot();
    shop.uses(LINE);
    let gone = shop.queue(announces(50 * MIB, request(job(1))));
    drop(gone);
    let refused = shop
        .service
        .clone()
        .oneshot(announces(50 * MIB, request(job(1))));
    let answer = refused.await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(answer);
    let after = shop.snapshot();
    // Both were counted as requests, and neither as one that was weighed.
    assert_eq!(after.memory.requests(), before.memory.requests());
    assert_eq!(after.memory.allocated.sum, before.memory.allocated.sum);
    let heavy: Vec<HeavyRequest> = shop.edge.heavy().newest(10);
    assert!(heavy.iter().all(|request| request.sample.peak != 50 * MIB));
}

#[tokio::test(start_paused = true)]
async fn request_that_waits_looks_by_itself() {
    let shop = Shop::that_takes(600 * MIB).await;
    shop.uses(LINE);
    let mut waits = shop.queue(request(job(1)));
    shop.used.store(0, Relaxed);
    advance(Duration::from_millis(25)).await;
    assert!(waits.is_woken());
    assert_pending!(waits.poll());
    assert_eq!(shop.called(), 41);
    drop(waits);
    shop.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn what_was_made_ready_is_kept_for_who_waits_and_given_back_by_who_is_refused() {
    let shop = Shop::new(&enforce().max_waiting(1));
    shop.uses(LINE);
    let mut cx = Context::from_waker(Waker::noop());
    let mut service = shop.service.clone();
    assert_ready_ok!(service.poll_ready(&mut cx));
    let mut waits = task::spawn(service.call(request(job(1))));
    assert_eq!(shop.ready.load(Relaxed), 1);
    assert_ready_ok!(service.poll_ready(&mut cx));
    assert_eq!(shop.ready.load(Relaxed), 2);
    let refused = service.call(request(job(1)));
    assert_eq!(shop.ready.load(Relaxed), 1);
    shop.uses(0);
    assert_pending!(waits.poll());
    assert_eq!((shop.called(), shop.ready.load(Relaxed)), (1, 0));
    drop((waits, refused));
    shop.assert_empty();
}

#[tokio::test(start_paused = true)]
async fn request_that_goes_while_it_waits_is_counted_as_cancelled_and_not_as_failed() {
    let shop = Shop::new(&enforce());
    shop.uses(LINE);
    drop(shop.queue(request(job(1))));
    drop(shop.call(request(job(1))));
    // One whose handler panics has failed, whether it has waited or not.
    let mut panics = request(job(1));
    panics.body_mut().panics = Some(Where::InCall);
    let mut panics = shop.queue(panics);
    shop.uses(0);
    assert!(catch_unwind(AssertUnwindSafe(|| panics.poll().is_ready())).is_err());
    drop(panics);
    let counts: Vec<_> = shop.snapshot().requests;
    let counted: Vec<_> = counts
        .iter()
        .map(|counts| (counts.status, counts.requests()))
        .collect();
    assert_eq!(counted, [("error", 1), ("cancelled", 2)]);
}
