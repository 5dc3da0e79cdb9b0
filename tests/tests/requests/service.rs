//! The service, and what its handlers are known to keep.

use crate::plan::{Kind, is_over, size};
use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, get, head, post},
};
use bytes::Bytes;
use http_body::Frame;
use plimsoll::memory;
use std::{
    collections::VecDeque,
    convert::Infallible,
    future,
    hint::black_box,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    task::{Context, Poll, ready},
    thread,
};
use tokio::{
    sync::{oneshot, watch},
    task::{spawn_blocking, yield_now},
};

/// How many values the cache keeps.
pub(crate) const CACHED: usize = 300;
/// The most bytes that a request with a budget may hold.
pub(crate) const BUDGET: u64 = 100_000;
/// How long frames are.
pub(crate) const FRAME: usize = 1_000;
/// How many frames there are before the client goes away, or too much is held.
pub(crate) const FRAMES_BEFORE: usize = 4;

/// What all handlers share. Whatever grows in here was made large enough before.
pub(crate) struct Shared {
    /// Whose values are kept, and the values.
    shelf: Mutex<Vec<(Owner, Vec<u8>)>>,
    cache: Mutex<VecDeque<(Owner, Vec<u8>)>>,
    sender: SyncSender<Vec<u8>>,
    /// Who wants to know that the request with this number waits.
    waiting: Mutex<Vec<Option<oneshot::Sender<()>>>>,
    /// Who says when the request with this number goes on.
    going: Mutex<Vec<Option<oneshot::Receiver<()>>>>,
    /// Tasks that were spawned along end when this changes.
    pub(crate) release: watch::Sender<()>,
    /// Bytes that they hold, and how many they are.
    pub(crate) along: [AtomicUsize; 2],
    /// Tasks that were spawned and have ended, along and away.
    pub(crate) ended: AtomicUsize,
    /// Values that the other thread has freed.
    pub(crate) freed: Arc<AtomicUsize>,
    /// Requests that were on more than one worker.
    pub(crate) moved: AtomicUsize,
}

/// The route whose a value is, or nobody's.
type Owner = Option<Kind>;

/// Leaves a value on the shelf when it is dropped.
struct Leaves {
    shared: Arc<Shared>,
    kind: Kind,
    n: usize,
}

/// A body that makes each frame when it is asked for it.
struct Frames {
    left: usize,
    /// Whether it has to be asked twice.
    is_slow: bool,
    has_waited: bool,
    then: Then,
    _leaves: Leaves,
}

/// What comes after the frames.
enum Then {
    End,
    Wait,
    /// Too much is held, once the client says so, until it is asked again.
    Hoard(oneshot::Receiver<()>, Vec<u8>),
}

type N = Path<usize>;
type Have = State<Arc<Shared>>;

pub(crate) fn app() -> Router<Arc<Shared>> {
    let routes = Kind::all().map(|kind| (kind.route(), handler(kind)));
    let router = |router: Router<_>, (route, handler): (String, _)| router.route(&route, handler);
    routes.into_iter().fold(Router::new(), router)
}

fn handler(kind: Kind) -> MethodRouter<Arc<Shared>> {
    match kind {
        Kind::Echo => post(echo),
        Kind::Work => get(work),
        Kind::Panic => get(panics),
        Kind::Hang => get(hang),
        Kind::Cut => get(cut),
        Kind::Stream => get(stream),
        Kind::Head => head(bodiless),
        Kind::Nothing => get(nothing),
        Kind::Upload => post(upload),
        Kind::Along => get(along),
        Kind::Away => get(away),
        Kind::Blocking => get(blocking),
        Kind::Cache => get(async |s: Have, n: N| cache(&s, n, Kind::Cache)),
        Kind::Other => get(async |s: Have, n: N| cache(&s, n, Kind::Other)),
        Kind::Channel => get(channel),
        Kind::Budget => get(budget),
        Kind::Over => get(over),
    }
}

/// So many bytes on the heap, in one block.
fn bytes(length: usize) -> Vec<u8> {
    black_box(vec![black_box(1); black_box(length)])
}

async fn echo(body: Bytes) -> Vec<u8> {
    let value = serde_json::from_slice::<serde_json::Value>(&body).expect("JSON");
    yield_now().await;
    serde_json::to_vec(&value).expect("JSON")
}

async fn work(State(shared): Have, Path(n): N) -> String {
    const HOPS: usize = 6;
    let began = thread::current().id();
    let mut has_moved = false;
    let mut held = Vec::with_capacity(HOPS);
    for hop in 0..HOPS {
        held.push(bytes(100 + n % 1_000 + hop));
        if hop % 2 == 0 {
            yield_now().await;
        } else {
            // Whoever has run it wakes us.
            tokio::spawn(yield_now()).await.expect("a task");
        }
        has_moved |= thread::current().id() != began;
    }
    shared.moved.fetch_add(usize::from(has_moved), Relaxed);
    if n.is_multiple_of(4) {
        shared.keep(Some(Kind::Work), bytes(size(n)));
    }
    let sum: usize = held.iter().map(Vec::len).sum();
    sum.to_string()
}

/// What [`work`] answers.
pub(crate) fn sum_of_work(n: usize) -> String {
    (6 * (100 + n % 1_000) + 15).to_string()
}

async fn panics(State(shared): Have, Path(n): N) -> String {
    let _leaves = shared.leaves(Kind::Panic, n);
    let held = bytes(10_000);
    yield_now().await;
    if black_box(true) {
        panic!("{TOLD_TO}");
    }
    held.len().to_string()
}

/// What a panic says that is part of the test.
pub(crate) const TOLD_TO: &str = "told to";

async fn hang(State(shared): Have, Path(n): N) {
    let _leaves = shared.clone().leaves(Kind::Hang, n);
    let _held = bytes(10_000);
    shared.is_waiting(n);
    future::pending::<()>().await;
}

async fn cut(State(shared): Have, Path(n): N) -> Response {
    let leaves = shared.leaves(Kind::Cut, n);
    // Some are full of what nobody reads, others wait for what never comes.
    frames(match n % 8 {
        0 => Frames::new(usize::MAX, Then::End, leaves),
        _ => Frames::new(FRAMES_BEFORE, Then::Wait, leaves),
    })
}

async fn stream(State(shared): Have, Path(n): N) -> Response {
    let leaves = shared.leaves(Kind::Stream, n);
    let mut body = Frames::new(frames_of(n), Then::End, leaves);
    body.is_slow = n.is_multiple_of(3);
    frames(body)
}

/// How many frames a body has that comes to its end.
pub(crate) const fn frames_of(n: usize) -> usize {
    10 + n % 60
}

async fn bodiless(State(shared): Have, Path(n): N) -> Response {
    frames(Frames::new(5, Then::End, shared.leaves(Kind::Head, n)))
}

async fn nothing(State(shared): Have, Path(n): N) -> Response {
    let body = Frames::new(0, Then::End, shared.leaves(Kind::Nothing, n));
    (StatusCode::NO_CONTENT, frames(body)).into_response()
}

async fn upload(State(shared): Have, Path(n): N, body: Bytes) -> String {
    if n.is_multiple_of(4) {
        shared.keep(Some(Kind::Upload), body.to_vec());
    }
    yield_now().await;
    let sum: u64 = body.iter().copied().map(u64::from).sum();
    format!("{} {sum}", body.len())
}

async fn along(State(shared): Have, Path(n): N) -> &'static str {
    let mut release = shared.release.subscribe();
    drop(memory::spawn(async move {
        let held = bytes(size(n));
        shared.along[0].fetch_add(held.len(), Relaxed);
        shared.along[1].fetch_add(1, Relaxed);
        release.changed().await.expect("it is kept");
        drop(held);
        shared.keep(Some(Kind::Along), bytes(size(n)));
        shared.ended.fetch_add(1, Relaxed);
    }));
    "along"
}

async fn away(State(shared): Have, Path(n): N) -> &'static str {
    drop(tokio::spawn(async move {
        shared.keep(None, bytes(size(n)));
        shared.ended.fetch_add(1, Relaxed);
    }));
    "away"
}

async fn blocking(State(shared): Have, Path(n): N) -> &'static str {
    let mine = memory::spawn_blocking(move || bytes(size(n)));
    shared.keep(Some(Kind::Blocking), mine.await.expect("a task"));
    let nobodys = spawn_blocking(move || bytes(size(n)));
    shared.keep(None, nobodys.await.expect("a task"));
    "blocking"
}

fn cache(shared: &Shared, Path(n): N, kind: Kind) -> &'static str {
    let value = bytes(size(n));
    let mut cache = lock(&shared.cache);
    // What goes is often of another route, and was allocated on another thread.
    let evicted = match cache.len() {
        CACHED => cache.pop_front(),
        _ => None,
    };
    cache.push_back((Some(kind), value));
    drop((cache, evicted));
    "cached"
}

async fn channel(State(shared): Have, Path(n): N) -> &'static str {
    shared.sender.send(bytes(size(n))).expect("it is read");
    "sent"
}

async fn budget(State(shared): Have, Path(n): N) -> String {
    let _leaves = is_over(n).then(|| shared.leaves(Kind::Budget, n));
    let pieces = if is_over(n) { 20 } else { 5 };
    let mut held = Vec::with_capacity(pieces);
    for _ in 0..pieces {
        held.push(bytes(10_000));
        yield_now().await;
    }
    held.len().to_string()
}

async fn over(State(shared): Have, Path(n): N) -> Response {
    let hoard = Then::Hoard(shared.going(n), Vec::new());
    let leaves = shared.leaves(Kind::Over, n);
    frames(Frames::new(FRAMES_BEFORE, hoard, leaves))
}

fn frames(frames: Frames) -> Response {
    Response::new(Body::new(frames))
}

// === impl Frames ===

impl Frames {
    const fn new(left: usize, then: Then, leaves: Leaves) -> Self {
        Self {
            left,
            is_slow: false,
            has_waited: false,
            then,
            _leaves: leaves,
        }
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_slow && !self.has_waited {
            self.has_waited = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.has_waited = false;
        if self.left > 0 {
            self.left -= 1;
            if self.left == 0 && matches!(self.then, Then::End) {
                let Leaves { shared, kind, n } = &self._leaves;
                shared.keep(Some(*kind), bytes(size(*n)));
            }
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from(bytes(FRAME))))));
        }
        match &mut self.then {
            Then::End => Poll::Ready(None),
            Then::Wait => Poll::Pending,
            Then::Hoard(_, hoard) if !hoard.is_empty() => Poll::Ready(None),
            Then::Hoard(go, hoard) => {
                let told = ready!(Pin::new(go).poll(cx));
                told.expect("the client reads");
                *hoard = bytes(2 * BUDGET as usize);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && matches!(self.then, Then::End)
    }
}

// === impl Shared ===

impl Shared {
    /// For so many requests, with what comes out of the channel.
    pub(crate) fn new(most: usize) -> (Arc<Self>, Receiver<Vec<u8>>) {
        let (sender, receiver) = sync_channel(most);
        let shared = Self {
            // A few kinds leave two.
            shelf: Mutex::new(Vec::with_capacity(2 * most)),
            cache: Mutex::new(VecDeque::with_capacity(CACHED)),
            sender,
            waiting: Mutex::new((0..most).map(|_| None).collect()),
            going: Mutex::new((0..most).map(|_| None).collect()),
            release: watch::Sender::new(()),
            along: Default::default(),
            ended: AtomicUsize::new(0),
            freed: Arc::default(),
            moved: AtomicUsize::new(0),
        };
        (Arc::new(shared), receiver)
    }

    fn keep(&self, owner: Owner, value: Vec<u8>) {
        let mut shelf = lock(&self.shelf);
        assert!(shelf.len() < shelf.capacity(), "the shelf must not grow");
        shelf.push((owner, value));
    }

    const fn leaves(self: Arc<Self>, kind: Kind, n: usize) -> Leaves {
        Leaves {
            shared: self,
            kind,
            n,
        }
    }

    /// Resolves when the request with this number waits.
    pub(crate) fn waits(&self, n: usize) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting)[n] = Some(sender);
        receiver
    }

    /// Has the request with this number go on.
    pub(crate) fn goes(&self, n: usize) -> oneshot::Sender<()> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.going)[n] = Some(receiver);
        sender
    }

    fn going(&self, n: usize) -> oneshot::Receiver<()> {
        lock(&self.going)[n].take().expect("somebody says")
    }

    fn is_waiting(&self, n: usize) {
        let sender = lock(&self.waiting)[n].take().expect("somebody asks");
        sender.send(()).expect("somebody waits");
    }

    /// How many bytes of whom are kept, and how many values.
    pub(crate) fn kept(&self, whose: Owner) -> (u64, u64) {
        let (shelf, cache) = (lock(&self.shelf), lock(&self.cache));
        let all = shelf.iter().chain(cache.iter());
        let sizes = all.filter_map(|(owner, value)| (*owner == whose).then_some(value.capacity()));
        sizes.fold((0, 0), |(bytes, values), size| {
            (bytes + size as u64, values + 1)
        })
    }

    pub(crate) fn cached(&self) -> usize {
        lock(&self.cache).len()
    }

    /// How many bytes of anybody are kept.
    pub(crate) fn kept_in_all(&self) -> u64 {
        let (shelf, cache) = (lock(&self.shelf), lock(&self.cache));
        let all = shelf.iter().chain(cache.iter());
        all.map(|(_, value)| value.capacity() as u64).sum()
    }

    pub(crate) fn clear(&self) {
        lock(&self.shelf).clear();
        lock(&self.cache).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Leaves {
    fn drop(&mut self) {
        // A body that came to its end has left it.
        if self.kind != Kind::Stream {
            self.shared.keep(Some(self.kind), bytes(size(self.n)));
        }
    }
}
