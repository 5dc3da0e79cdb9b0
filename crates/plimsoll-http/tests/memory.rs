//! What the edge and the server take of the heap. There is no harness, for the counts are those of
//! the process.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use http::{Request, Response};
use plimsoll_core::{Lifecycle, Name, test_util::CountingAllocator};
use plimsoll_http::{EdgeLayer, EndpointLabel, Server, ServerConfig};
use std::{
    convert::Infallible,
    future::{Ready, ready},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};
use tower::{Layer, Service, service_fn};

#[global_allocator]
static ALLOC: CountingAllocator = CountingAllocator::system();

const CONNECTIONS: u64 = 200;

fn main() {
    labels_past_the_bound_take_nothing();
    a_request_takes_no_allocation();
    idle_connections_take_what_is_documented();
    #[cfg(feature = "client")]
    idle_connections_of_a_client_take_what_is_documented();
}

fn empty<A>(_: Request<A>) -> Ready<Result<Response<String>, Infallible>> {
    ready(Ok(Response::new(String::new())))
}

fn labels_past_the_bound_take_nothing() {
    let labels: Vec<_> = (0..10_000)
        .map(|label| Name::from_static(Box::leak(format!("/random-{label}").into_boxed_str())))
        .collect();
    let layer = EdgeLayer::max_endpoints(10);
    let mut service = layer.layer(service_fn(empty));
    let mut ask = |label: Name| {
        let mut request = Request::new(());
        request.extensions_mut().insert(EndpointLabel(label));
        drop(service.call(request));
    };
    labels[..11].iter().copied().for_each(&mut ask);
    let before = ALLOC.live_bytes();
    labels.iter().copied().for_each(&mut ask);
    assert_eq!(ALLOC.live_bytes(), before);
    assert_eq!(layer.overflowed(), 1 + 10_000 - 10);
}

fn a_request_takes_no_allocation() {
    let mut service = EdgeLayer::new().layer(service_fn(empty));
    let mut ask = |request| {
        let mut response = pin!(service.call(request));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(response.as_mut().poll(&mut cx).is_ready());
    };
    // The first request makes its endpoint.
    ask(Request::new(()));
    let before = ALLOC.allocations();
    for _ in 0..100 {
        ask(Request::new(()));
    }
    assert_eq!(ALLOC.allocations(), before);
}

fn idle_connections_take_what_is_documented() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // On a machine that is slow, none is closed before all are there.
    let hour = Duration::from_secs(3_600);
    let config = ServerConfig::default()
        .head_timeout(hour)
        .idle_timeout(hour);
    let server = Server::new("public", config).unwrap();
    let lifecycle = Lifecycle::new();
    let at = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (server, lifecycle) = (server.clone(), lifecycle.clone());
        tokio::spawn(async move { server.serve(listener, service_fn(empty), &lifecycle).await });
        at
    });
    let http1 = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    // The preface, empty settings, and the head of `GET /`.
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
        \0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01x";
    for (request, kib) in [(&b""[..], 3), (http1, 28), (http2, 37)] {
        let bytes = per_connection(&runtime, &server, at, request);
        println!("{bytes} bytes, about {kib} KiB");
        // Some of it is hyper's, which may change a little.
        assert!(
            bytes < (kib + 4) << 10,
            "{bytes} bytes are not about {kib} KiB"
        );
    }
}

/// The heap of a connection that has been sent `request` and is idle then.
fn per_connection(
    runtime: &tokio::runtime::Runtime,
    server: &Server,
    at: SocketAddr,
    request: &[u8],
) -> u64 {
    let mut clients = Vec::with_capacity(CONNECTIONS as usize);
    // What the runtime keeps is there before it is measured.
    let mut before = 0;
    for round in 0..2 {
        clients.clear();
        wait(runtime, || server.connections() == 0);
        if round == 1 {
            before = ALLOC.live_bytes();
        }
        for _ in 0..CONNECTIONS {
            let mut client = TcpStream::connect(at).unwrap();
            client.write_all(request).unwrap();
            clients.push(client);
            wait(runtime, || server.connections() == clients.len());
        }
        for client in clients.iter_mut().filter(|_| !request.is_empty()) {
            client.set_nonblocking(true).unwrap();
            wait(runtime, || client.read(&mut [0; 4_096]).is_ok());
        }
        wait(runtime, || server.in_flight() == 0);
    }
    (ALLOC.live_bytes() - before) / CONNECTIONS
}

/// Each response has a body of this length.
#[cfg(feature = "client")]
const BODY: usize = 100_000;

#[cfg(feature = "client")]
fn idle_connections_of_a_client_take_what_is_documented() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for (body, kib) in [(0, 28), (BODY, 84)] {
        let bytes = per_client_connection(&runtime, body);
        println!("{bytes} bytes, about {kib} KiB");
        // Some of it is hyper's, which may change a little.
        assert!(
            bytes < (kib + 4) << 10,
            "{bytes} bytes are not about {kib} KiB"
        );
    }
}

/// The heap of a connection that has had a response with a body of so many bytes, and is idle.
#[cfg(feature = "client")]
fn per_client_connection(runtime: &tokio::runtime::Runtime, body: usize) -> u64 {
    use plimsoll_http::{HttpClient, HttpClientConfig};
    use tower::ServiceExt;

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap());
    let connections = usize::try_from(CONNECTIONS).unwrap();
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {body}\r\n\r\n");
    let response = [response.into_bytes(), vec![b'x'; body]].concat();
    let mut servers = Vec::with_capacity(connections);
    // What the runtime keeps is there before it is measured.
    let mut live = 0;
    for _ in 0..2 {
        servers.clear();
        let before = ALLOC.live_bytes();
        let config = HttpClientConfig::new()
            .max_connections(connections)
            .max_idle_per_host(connections);
        let client = HttpClient::new("orders", config).unwrap();
        for _ in 0..connections {
            let request = Request::get(&*uri).body(String::new()).unwrap();
            let call = runtime.spawn(client.clone().oneshot(request));
            // While it is in flight no other can use its connection.
            wait(runtime, || {
                client.snapshot().connected > servers.len() as u64
            });
            servers.push((listener.accept().unwrap().0, call));
        }
        for (server, call) in &mut servers {
            let (mut server, response) = (server.try_clone().unwrap(), &response);
            std::thread::scope(|scope| {
                scope.spawn(move || server.write_all(response).unwrap());
                runtime.block_on(call).unwrap().unwrap();
            });
        }
        wait(runtime, || true);
        assert_eq!(client.snapshot().open, connections);
        live = ALLOC.live_bytes() - before;
        drop(client);
        for (server, _) in &mut servers {
            server.set_nonblocking(true).unwrap();
            let mut rest = [0; 4_096];
            wait(runtime, || matches!(server.read(&mut rest), Ok(0)));
        }
    }
    live / CONNECTIONS
}

fn wait(runtime: &tokio::runtime::Runtime, mut condition: impl FnMut() -> bool) {
    runtime.block_on(async {
        for tries in 0.. {
            assert_ne!(tries, 1_000_000, "waited in vain");
            if condition() {
                break;
            }
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    });
}
