//! One listener: its connections, their caps, and its end.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

/// The most connections at a time. Others wait in the listener's queue.
const MAX_CONNECTIONS: u32 = 64;

/// How long the head of a request may take, counted from when the connection is idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// How long a connection is used.
const MAX_AGE: Duration = Duration::from_secs(60);

/// How much longer its last answer may take: a heap profile is of a minute, and written for half of
/// one. No client can hold one of the few places for longer.
const MAX_LAST: Duration = Duration::from_secs(120);

/// How long to wait when no connection can be accepted, for want of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Ends when its sender is dropped.
pub(crate) type Shutdown = watch::Receiver<()>;

/// Serves until `shutdown` ends, and then until every connection has had its answer.
pub(crate) async fn serve_listener(listener: TcpListener, router: Router, mut shutdown: Shutdown) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let accept = async || {
        // Closed by nobody, so there is always a place in the end.
        let place = places.clone().acquire_owned().await;
        (listener.accept().await, place)
    };
    loop {
        let (accepted, place) = tokio::select! {
            biased;
            () = ended(&mut shutdown) => break,
            accepted = accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let serve = serve_connection(stream, router.clone(), shutdown.clone());
                tokio::spawn(async move {
                    let _place = place;
                    serve.await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "control connection not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The port is free from here on.
    drop(listener);
    let _ = places.acquire_many(MAX_CONNECTIONS).await;
}

async fn serve_connection(stream: TcpStream, router: Router, mut shutdown: Shutdown) {
    // Answers are short, and written at once.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    tokio::select! {
        // What a client does to its connection is no news.
        _ = connection.as_mut() => return,
        () = ended(&mut shutdown) => {}
        () = sleep(MAX_AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(MAX_LAST, connection).await;
}

pub(crate) async fn ended(shutdown: &mut Shutdown) {
    while shutdown.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{ErrorKind, Read, Write},
        net::{SocketAddr, TcpStream as Client},
        thread,
    };
    use tokio::{sync::oneshot, time::Instant};

    async fn bind() -> (SocketAddr, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener.local_addr().unwrap(), listener)
    }

    fn serve(listener: TcpListener) -> watch::Sender<()> {
        let (shutdown, ended) = watch::channel(());
        let router = Router::new().route("/", axum::routing::get(async || "ok"));
        tokio::spawn(serve_listener(listener, router, ended));
        shutdown
    }

    /// Sends `head` and nothing else, and reads until the server hangs up.
    async fn hang_on(head: &str) -> (Duration, String) {
        let (addr, listener) = bind().await;
        // Sent before the connection is accepted: the clock does not wait for the network.
        let mut client = Client::connect(addr).unwrap();
        client.write_all(head.as_bytes()).unwrap();
        let start = Instant::now();
        let _shutdown = serve(listener);
        let (answer_tx, answer) = oneshot::channel();
        thread::spawn(move || {
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            answer_tx.send(text).unwrap();
        });
        let text = answer.await.unwrap();
        (Instant::now().saturating_duration_since(start), text)
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_and_an_idle_connection_are_cut() {
        for (head, answers) in [
            ("GET / HTTP/1.1\r\nHost: loc", false),
            ("", false),
            ("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", true),
        ] {
            let (took, text) = hang_on(head).await;
            assert!(
                took >= HEAD_TIMEOUT && took < 2 * HEAD_TIMEOUT,
                "{head:?}: {took:?}"
            );
            assert_eq!(
                text.starts_with("HTTP/1.1 200 OK"),
                answers,
                "{head:?}: {text:?}"
            );
        }
    }

    fn ask(client: &mut Client) {
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
    }

    fn read(client: &mut Client) {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\nok") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            text.extend(byte);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn last_answer_of_a_connection_has_its_own_time() {
        let (path, age) = ("/slow", MAX_AGE + MAX_LAST);
        for (takes, answers) in [(age - HEAD_TIMEOUT, true), (age + HEAD_TIMEOUT, false)] {
            let (addr, listener) = bind().await;
            let slow = axum::routing::get(move || async move {
                sleep(takes).await;
                "ok"
            });
            let (_shutdown, ended) = watch::channel(());
            let mut client = Client::connect(addr).unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.write_all(head.as_bytes()).unwrap();
            let start = Instant::now();
            tokio::spawn(serve_listener(
                listener,
                Router::new().route(path, slow),
                ended,
            ));
            let (answer_tx, answer) = oneshot::channel();
            thread::spawn(move || {
                let mut text = String::new();
                let _ = client.read_to_string(&mut text);
                answer_tx.send(text).unwrap();
            });
            let text = answer.await.unwrap();
            assert_eq!(text.ends_with("ok"), answers, "{text:?}");
            let took = Instant::now().saturating_duration_since(start);
            assert!(took <= age + Duration::from_secs(1), "{took:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_connection_too_many_waits_until_another_ends() {
        let (addr, listener) = bind().await;
        let _shutdown = serve(listener);
        let connect = |_| Client::connect(addr).unwrap();
        let mut clients: Vec<_> = (0..MAX_CONNECTIONS).map(connect).collect();
        for client in &mut clients {
            ask(client);
            read(client);
        }
        let mut waiting = Client::connect(addr).unwrap();
        ask(&mut waiting);
        for client in &mut clients {
            ask(client);
            read(client);
        }
        waiting.set_nonblocking(true).unwrap();
        let early = waiting.read(&mut [0]);
        assert_eq!(
            early.map_err(|error| error.kind()),
            Err(ErrorKind::WouldBlock)
        );

        clients.pop();
        waiting.set_nonblocking(false).unwrap();
        read(&mut waiting);
    }
}
