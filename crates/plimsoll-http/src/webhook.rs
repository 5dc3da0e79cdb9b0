//! Alerts of the memory monitor, as requests to whoever is to know of them.
//!
//! [`Webhook`] is an [`AlertSink`]. Each alert becomes a `POST` with a JSON
//! body:
//!
//! ```json
//! {
//!   "kind": "pressure", "severity": "warning", "name": null, "at_ms": 1767225600000,
//!   "text": "memory is short, the pressure is elevated: 380 MiB used, line 460 MiB, limit 512 MiB",
//!   "figures": { "pressure": 0.82, "level": "elevated", "used": 398458880, "limit": 536870912 }
//! }
//! ```
//!
//! They are sent one after the other, by a task. Alerts that come meanwhile wait, the newest 100 by
//! default; the oldest goes first, and is counted. One that gets no response of 200 to 299 is sent
//! again after a second, then two, four and so on up to a minute, or after as long as `Retry-After`
//! says up to that, five times in all by default, and then given up. A response of 400 to 499 but 408
//! and 429 says that another time would not help. That a receiver does not answer is logged once, and
//! again every ten minutes; that it does again, too.
//!
//! The URI and the credentials of a receiver are secrets. What is shown of the URI, in logs too, is its
//! scheme and its host.

use crate::{HttpClient, HttpClientConfig};
use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
    uri::Scheme,
};
use http_body::{Body, Frame, SizeHint};
use plimsoll_core::{
    BoxError, ConfigError, Name, Problems,
    settings::{self, Fields, Secret, Settings, duration, integer, secret},
};
use plimsoll_memory::{Alert, AlertSink, MemoryFigures};
use std::{
    collections::VecDeque,
    convert::Infallible,
    error::Error,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tower_service::Service;

/// The first wait before another attempt, and the longest.
const BACK_OFF: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// How often it is logged that a receiver does not answer.
const SAY_AGAIN: Duration = Duration::from_secs(600);

/// Stands for a secret in errors.
const HIDDEN: &str = "***";

/// Where alerts are sent, and how long that may take.
#[derive(Clone, Eq, PartialEq)]
#[must_use = "settings do nothing until a webhook is made with them"]
pub struct WebhookConfig {
    uri: Secret,
    authorization: Option<Secret>,
    timeout: Duration,
    attempts: u64,
    max_waiting: usize,
}

/// Sends alerts. Cloning gives another handle to the same one, whose task ends once the last is
/// dropped and nothing waits any more.
///
/// See the [module docs](self).
#[derive(Clone, Debug)]
pub struct Webhook {
    handle: Arc<Handle>,
}

/// What became of alerts that were to be sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct WebhookStats {
    /// Those that wait, the one that is being sent left out.
    pub waiting: usize,
    /// Those that were taken by the receiver.
    pub sent: u64,
    /// Those that were given up after the last attempt, or since another would not help.
    pub failed: u64,
    /// Those that made room for newer ones.
    pub dropped: u64,
    /// How many times one was tried to be sent.
    pub attempts: u64,
}

#[derive(Debug)]
struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Tells the task that something waits, or that nothing will any more.
    changed: Notify,
    max_waiting: usize,
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    attempts: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    alerts: VecDeque<Bytes>,
    closed: bool,
}

/// What is needed to send.
struct Sender<S> {
    service: S,
    shared: Arc<Shared>,
    uri: Uri,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    attempts: u64,
    down: Option<Down>,
}

/// The receiver does not answer.
struct Down {
    said: Instant,
    lost: u64,
}

/// What came of one attempt.
enum Attempt {
    Sent,
    /// Why not, and how long to wait at least, if the receiver said so.
    Again(String, Option<Duration>),
    Never(String),
}

// === impl WebhookConfig ===

impl WebhookConfig {
    /// Sends to this URI, and else as by default.
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: Secret(uri.into()),
            authorization: None,
            timeout: Duration::from_secs(5),
            attempts: 5,
            max_waiting: 100,
        }
    }

    /// The value of the header `Authorization`: `Bearer …`, say. None by default.
    pub fn authorization(mut self, value: impl Into<String>) -> Self {
        self.authorization = Some(Secret(value.into()));
        self
    }

    /// How long one attempt may take, from 100 milliseconds to a minute. 5 seconds by default.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many times an alert is tried to be sent, from 1 to 20. 5 by default.
    pub const fn attempts(mut self, attempts: u64) -> Self {
        self.attempts = attempts;
        self
    }

    /// How many alerts may wait, from 1 to 100, which is the default. The oldest goes first.
    pub const fn max_waiting(mut self, alerts: usize) -> Self {
        self.max_waiting = alerts;
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range. Neither the URI nor the credentials are shown.
    pub fn validate(&self) -> Result<(), ConfigError> {
        settings::check(self)
    }

    fn header(&self) -> Option<HeaderValue> {
        let Secret(value) = self.authorization.as_ref()?;
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    fn client(&self) -> HttpClientConfig {
        // One request at a time, and seldom.
        HttpClientConfig::new()
            .max_connections(1)
            .idle_timeout(Duration::from_secs(10))
            .connect_timeout(self.timeout)
            .max_response_bytes(65_536)
    }
}

fn parse(Secret(uri): &Secret) -> Option<Uri> {
    uri.parse().ok()
}

impl Settings for WebhookConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting("uri", "Where alerts are sent.", &mut secret(&mut self.uri));
        fields.require(
            "uri",
            parse(&self.uri).is_some_and(|uri| uri.scheme().is_some() && uri.host().is_some()),
            &"a URI with a scheme and a host, like http://alerts.example/memory",
        );
        fields.setting(
            "authorization",
            "The value of the header Authorization.",
            &mut secret(&mut self.authorization).or(&["none"]),
        );
        fields.require(
            "authorization",
            self.authorization.is_none() || self.header().is_some(),
            &"a value for a header: visible ASCII characters and spaces",
        );
        fields.setting(
            "timeout",
            "How long one attempt may take.",
            &mut duration(
                &mut self.timeout,
                Duration::from_millis(100)..=Duration::from_secs(60),
            ),
        );
        fields.setting(
            "attempts",
            "How many times an alert is tried to be sent.",
            &mut integer(&mut self.attempts, 1..=20),
        );
        fields.setting(
            "max_waiting",
            "How many alerts may wait; the oldest goes first.",
            &mut integer(&mut self.max_waiting, 1..=100),
        );
    }
}

/// Without a URI, which has to be set.
impl Default for WebhookConfig {
    fn default() -> Self {
        Self::new("")
    }
}

impl fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookConfig")
            .field("uri", &parse(&self.uri).as_ref().map(Shown))
            .field("authorization", &self.authorization)
            .field("timeout", &self.timeout)
            .field("attempts", &self.attempts)
            .field("max_waiting", &self.max_waiting)
            .finish()
    }
}

/// What may be shown of a URI: others of its parts may have a token in them.
struct Shown<'a>(&'a Uri);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(uri) = self;
        let scheme = uri.scheme_str().unwrap_or_default();
        write!(f, "{scheme}://{}", uri.host().unwrap_or_default())
    }
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Webhook ===

impl Webhook {
    /// Makes a webhook for an `http` URI, and the task that sends, which is to be spawned.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range, and the URI if its scheme is another.
    pub fn new(
        config: &WebhookConfig,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), ConfigError> {
        config.validate()?;
        if parse(&config.uri).and_then(|uri| uri.scheme().cloned()) != Some(Scheme::HTTP) {
            let mut problems = Problems::default();
            let expected = "one with the scheme http, for there is no TLS: use `with_service`";
            problems.add("uri", HIDDEN.to_owned(), expected.to_owned());
            problems.into_result()?;
        }
        let client = HttpClient::new(Name::from_static("webhook"), config.client())?;
        Self::with_service(config, client)
    }

    /// The same with a service of one's own that sends requests: a client with TLS, say. It is called
    /// for one request at a time.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range.
    pub fn with_service<S>(
        config: &WebhookConfig,
        service: S,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<S>), ConfigError>
    where
        S: Service<Request<Json>, Response = Response<Bytes>> + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        config.validate()?;
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            changed: Notify::new(),
            max_waiting: config.max_waiting,
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
        });
        let sender = Sender {
            service,
            shared: shared.clone(),
            uri: parse(&config.uri).unwrap_or_default(),
            authorization: config.header(),
            timeout: config.timeout,
            attempts: config.attempts,
            down: None,
        };
        let handle = Arc::new(Handle(shared));
        Ok((Self { handle }, sender.run()))
    }

    /// Has an alert sent as soon as those before it were.
    pub fn send(&self, alert: &Alert) {
        let shared = &self.handle.0;
        let json = Bytes::from(json(alert).to_string());
        let mut waiting = shared.lock();
        if waiting.alerts.len() >= shared.max_waiting {
            waiting.alerts.pop_front();
            shared.dropped.fetch_add(1, Relaxed);
        }
        waiting.alerts.push_back(json);
        drop(waiting);
        shared.changed.notify_one();
    }

    /// What became of alerts so far.
    #[must_use]
    pub fn stats(&self) -> WebhookStats {
        let shared = &self.handle.0;
        WebhookStats {
            waiting: shared.lock().alerts.len(),
            sent: shared.sent.load(Relaxed),
            failed: shared.failed.load(Relaxed),
            dropped: shared.dropped.load(Relaxed),
            attempts: shared.attempts.load(Relaxed),
        }
    }
}

#[cfg(feature = "metrics")]
impl Webhook {
    /// Writes what became of alerts to the current recorder of the `metrics` facade. Call it before a
    /// scrape.
    ///
    /// | series `plimsoll_webhook_…` | kind |
    /// |---|---|
    /// | `waiting` | gauge |
    /// | `sent_total`, `failed_total`, `dropped_total`, `attempts_total` | counter |
    pub fn publish_metrics(&self) {
        let stats = self.stats();
        metrics::gauge!("plimsoll_webhook_waiting").set(stats.waiting as f64);
        for (name, count) in [
            ("plimsoll_webhook_sent_total", stats.sent),
            ("plimsoll_webhook_failed_total", stats.failed),
            ("plimsoll_webhook_dropped_total", stats.dropped),
            ("plimsoll_webhook_attempts_total", stats.attempts),
        ] {
            metrics::counter!(name).absolute(count);
        }
    }
}

impl AlertSink for Webhook {
    fn alert(&mut self, alert: &Alert) {
        self.send(alert);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be sent next; none once nothing will be.
    async fn next(&self) -> Option<Bytes> {
        loop {
            // In a scope of its own, since nothing is locked while it waits.
            {
                let mut waiting = self.lock();
                if let Some(alert) = waiting.alerts.pop_front() {
                    return Some(alert);
                }
                if waiting.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}

// === impl Sender ===

impl<S> Sender<S>
where
    S: Service<Request<Json>, Response = Response<Bytes>>,
    S::Error: Into<BoxError>,
{
    async fn run(mut self) {
        while let Some(alert) = self.shared.next().await {
            match self.send(alert).await {
                Ok(()) => {
                    self.shared.sent.fetch_add(1, Relaxed);
                    self.is_up();
                }
                Err(reason) => {
                    self.shared.failed.fetch_add(1, Relaxed);
                    self.is_down(&reason, true);
                }
            }
        }
    }

    async fn send(&mut self, alert: Bytes) -> Result<(), String> {
        let [mut wait, longest] = BACK_OFF;
        for left in (0..self.attempts).rev() {
            self.shared.attempts.fetch_add(1, Relaxed);
            match self.attempt(alert.clone()).await {
                Attempt::Sent => return Ok(()),
                Attempt::Never(reason) => return Err(reason),
                Attempt::Again(reason, _) if left == 0 => return Err(reason),
                Attempt::Again(reason, least) => {
                    self.is_down(&reason, false);
                    sleep(wait.max(least.unwrap_or(wait)).min(longest)).await;
                    wait = (wait * 2).min(longest);
                }
            }
        }
        Err("it was not tried".to_owned())
    }

    async fn attempt(&mut self, alert: Bytes) -> Attempt {
        let mut request = Request::post(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("plimsoll/", env!("CARGO_PKG_VERSION")));
        if let Some(value) = &self.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = match request.body(Json(Some(alert))) {
            Ok(request) => request,
            Err(error) => return Attempt::Never(error.to_string()),
        };
        let service = &mut self.service;
        let answer = async {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(request).await
        };
        match timeout(self.timeout, answer).await {
            Err(_) => Attempt::Again(format!("no answer within {:?}", self.timeout), None),
            Ok(Err(error)) => Attempt::Again(reason(&*error.into()), None),
            Ok(Ok(response)) => judge(&response),
        }
    }

    fn is_up(&mut self) {
        if let Some(Down { lost, .. }) = self.down.take() {
            let to = Shown(&self.uri);
            tracing::info!(%to, lost, "alerts are received again");
        }
    }

    fn is_down(&mut self, reason: &str, lost: bool) {
        let now = Instant::now();
        let to = Shown(&self.uri);
        let down = self.down.get_or_insert_with(|| {
            tracing::warn!(%to, reason, "alerts are not received");
            Down { said: now, lost: 0 }
        });
        down.lost += u64::from(lost);
        if now.saturating_duration_since(down.said) >= SAY_AGAIN {
            down.said = now;
            let lost = down.lost;
            tracing::warn!(%to, reason, lost, "alerts are still not received");
        }
    }
}

/// An error with its causes.
fn reason(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn judge(response: &Response<Bytes>) -> Attempt {
    let status = response.status();
    if status.is_success() {
        return Attempt::Sent;
    }
    let text = format!("the answer is {status}");
    let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    if status.is_client_error() && !again.contains(&status) {
        return Attempt::Never(text);
    }
    let after = response.headers().get(RETRY_AFTER);
    let seconds = after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Attempt::Again(text, seconds.map(Duration::from_secs))
}

/// The body of a request: it is there, and sent at once.
#[derive(Debug)]
pub struct Json(Option<Bytes>);

impl Body for Json {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

fn json(alert: &Alert) -> serde_json::Value {
    serde_json::json!({
        "kind": alert.kind.as_str(),
        "severity": alert.severity.as_str(),
        "name": alert.name.map(Name::as_str),
        "text": alert.text,
        "at_ms": unix_millis(alert.at),
        "figures": alert.figures.as_ref().map(figures),
    })
}

fn figures(figures: &MemoryFigures) -> serde_json::Value {
    serde_json::json!({
        "pressure": figures.pressure.value(),
        "level": figures.level.as_str(),
        "used": figures.used,
        "reclaimable": figures.reclaimable,
        "limit": figures.limit,
        "line": figures.line,
        "headroom": figures.headroom,
        "tracked": figures.tracked,
        "resident": figures.resident,
        "growth_per_second": figures.slope,
        "seconds_to_limit": figures.time_to_limit.map(|time| time.as_secs()),
        "tasks": figures.tasks,
        "descriptors": figures.descriptors,
    })
}

fn unix_millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
