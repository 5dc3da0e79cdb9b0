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
};
use tower::{Layer, Service, service_fn};

#[global_allocator]
static ALLOC: CountingAllocator = CountingAllocator::system();

const CONNECTIONS: u64 = 200;

fn main() {
    labels_past_the_bound_take_nothing();
    a_request_takes_no_allocation();
    idle_connections_take_what_is_documented();
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
    let server = Server::new("public", ServerConfig::default()).unwrap();
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
