//! Clients, which know what each answer has to be.

use crate::{
    plan::{Kind, is_over},
    service::{FRAME, FRAMES_BEFORE, Shared, frames_of, sum_of_work},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    net::TcpStream,
    task::{JoinHandle, yield_now},
};

/// Sends one request after the other, on a connection that is kept, and made anew once it is gone.
pub(crate) struct Client {
    addr: SocketAddr,
    shared: Arc<Shared>,
    is_http2: bool,
    sender: Option<Sender>,
    /// What has the stream, unless that is shared with others.
    connection: Option<JoinHandle<()>>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub(crate) const fn http1(addr: SocketAddr, shared: Arc<Shared>) -> Self {
        Self {
            addr,
            shared,
            is_http2: false,
            sender: None,
            connection: None,
        }
    }

    pub(crate) fn http2(addr: SocketAddr, shared: Arc<Shared>) -> Self {
        Self {
            is_http2: true,
            ..Self::http1(addr, shared)
        }
    }

    /// Several with one connection.
    pub(crate) async fn sharing(
        addr: SocketAddr,
        shared: &Arc<Shared>,
        clients: usize,
    ) -> Vec<Self> {
        let (sender, connection) = connect_http2(addr).await;
        drop(connection);
        let sharing = || Self {
            sender: Some(Sender::Http2(sender.clone())),
            ..Self::http2(addr, shared.clone())
        };
        (0..clients).map(|_| sharing()).collect()
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        if self.sender.is_none() {
            let (sender, connection) = if self.is_http2 {
                let (sender, connection) = connect_http2(self.addr).await;
                (Sender::Http2(sender), connection)
            } else {
                connect_http1(self.addr).await
            };
            (self.sender, self.connection) = (Some(sender), Some(connection));
        }
        match self.sender.as_mut().expect("just made") {
            Sender::Http1(sender) => {
                sender.ready().await.expect("a connection that is kept");
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.expect("a connection that is kept");
                sender.send_request(request).await
            }
        }
    }

    /// Goes away. From a connection that is shared, the request that was dropped does.
    fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.abort();
            self.sender = None;
        }
    }

    /// Has the connection made anew, if the server ends it with a request that fails.
    fn has_failed(&mut self) {
        if !self.is_http2 {
            self.disconnect();
        }
    }

    fn request(&self, kind: Kind, n: usize, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let path = kind.path();
        let uri = match self.is_http2 {
            true => format!("http://{}{path}/{n}", self.addr),
            false => format!("{path}/{n}"),
        };
        Request::builder()
            .method(kind.method())
            .uri(uri)
            .header("host", "localhost")
            .body(Full::new(body.into()))
            .expect("a request")
    }

    /// The answer, and its body, which comes to its end.
    async fn read(&mut self, kind: Kind, n: usize, body: impl Into<Bytes>) -> (u16, Bytes) {
        let request = self.request(kind, n, body);
        let response = self.send(request).await.expect("a response");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("all of it");
        (status, body.to_bytes())
    }

    /// Asks, and finds that the answer is right.
    pub(crate) async fn ask(&mut self, kind: Kind, n: usize) {
        let (status, text) = match kind {
            Kind::Panic => {
                let request = self.request(kind, n, "");
                self.send(request).await.expect_err("a panic");
                return self.has_failed();
            }
            Kind::Hang => return self.leave_waiting(n).await,
            Kind::Cut => return self.leave_body(n).await,
            Kind::Stream => return self.stream(n).await,
            Kind::Over => return self.over(n).await,
            Kind::Echo => {
                let text = format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(n % 100));
                assert_eq!(self.read(kind, n, text.clone()).await, (200, text.into()));
                return;
            }
            Kind::Upload => {
                let (length, byte) = (n * 97 % 65_537, n % 251);
                let body = vec![byte as u8; length];
                let answer = self.read(kind, n, body).await;
                let text = format!("{length} {}", length * byte);
                assert_eq!(answer, (200, text.into()));
                return;
            }
            Kind::Budget if is_over(n) => {
                let (status, problem) = self.read(kind, n, "").await;
                let problem = String::from_utf8_lossy(&problem);
                assert_eq!(status, 503, "{problem}");
                assert!(problem.contains(r#""reason":"over_budget""#), "{problem}");
                return;
            }
            Kind::Budget => (200, "5".to_owned()),
            Kind::Work => (200, sum_of_work(n)),
            Kind::Head => (200, String::new()),
            Kind::Nothing => (204, String::new()),
            Kind::Along => (200, "along".to_owned()),
            Kind::Away => (200, "away".to_owned()),
            Kind::Blocking => (200, "blocking".to_owned()),
            Kind::Cache | Kind::Other => (200, "cached".to_owned()),
            Kind::Channel => (200, "sent".to_owned()),
        };
        assert_eq!(
            self.read(kind, n, "").await,
            (status, text.into()),
            "{kind:?}"
        );
    }

    async fn leave_waiting(&mut self, n: usize) {
        let waits = self.shared.waits(n);
        let request = self.request(Kind::Hang, n, "");
        tokio::select! {
            answer = self.send(request) => panic!("{answer:?}"),
            waits = waits => waits.expect("it says so"),
        }
        self.disconnect();
    }

    async fn leave_body(&mut self, n: usize) {
        let request = self.request(Kind::Cut, n, "");
        let response = self.send(request).await.expect("a response");
        let mut body = response.into_body();
        read_some(&mut body).await;
        drop(body);
        self.disconnect();
    }

    async fn stream(&mut self, n: usize) {
        let request = self.request(Kind::Stream, n, "");
        let response = self.send(request).await.expect("a response");
        let mut body = response.into_body();
        let mut sent = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.expect("a frame").into_data().expect("data");
            assert!(data.iter().all(|byte| *byte == 1));
            sent += data.len();
            if n.is_multiple_of(2) {
                yield_now().await;
            }
        }
        assert_eq!(sent, frames_of(n) * FRAME);
    }

    async fn over(&mut self, n: usize) {
        let go = self.shared.goes(n);
        let request = self.request(Kind::Over, n, "");
        let response = self.send(request).await.expect("a response");
        let mut body = response.into_body();
        read_some(&mut body).await;
        go.send(()).expect("it waits");
        let ended = body.frame().await.expect("no end");
        ended.expect_err("an error instead");
        self.has_failed();
    }
}

/// The frames before the server waits.
async fn read_some(body: &mut Incoming) {
    let mut sent = 0;
    while sent < FRAMES_BEFORE * FRAME {
        let frame = body.frame().await.expect("more").expect("a frame");
        sent += frame.into_data().expect("data").len();
    }
}

async fn connect_http1(addr: SocketAddr) -> (Sender, JoinHandle<()>) {
    let (sender, connection) = http1::handshake(stream(addr).await).await.expect("HTTP/1");
    // It ends with an error when the server closes it.
    let connection = async move { drop(connection.await) };
    (Sender::Http1(sender), tokio::spawn(connection))
}

async fn connect_http2(addr: SocketAddr) -> (http2::SendRequest<Full<Bytes>>, JoinHandle<()>) {
    let handshake = http2::handshake(TokioExecutor::new(), stream(addr).await);
    let (sender, connection) = handshake.await.expect("HTTP/2");
    let connection = async move { drop(connection.await) };
    (sender, tokio::spawn(connection))
}

async fn stream(addr: SocketAddr) -> TokioIo<TcpStream> {
    let stream = TcpStream::connect(addr).await.expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    TokioIo::new(stream)
}
