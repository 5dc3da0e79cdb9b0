//! A service that answers for a while holds no more than before.

use axum::{Router, routing::get};
use plimsoll::{Config, Plimsoll};
use plimsoll_core::test_util::{CountingAllocator, assert_live_bytes_return};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::system();

/// Twenty requests on one connection, one for a route of its own each, and a body left half read.
async fn visit(addr: std::net::SocketAddr) {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    for n in 0..20 {
        let head = format!("GET /unknown/{n} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = [0; 512];
        assert!(stream.read(&mut answer).await.expect("answered") > 0);
    }
    let head = "GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut some = [0; 1_024];
    stream.read_exact(&mut some).await.expect("the beginning");
}

// One thread, so that nothing else allocates between two readings.
#[tokio::test(flavor = "current_thread")]
async fn ten_thousand_requests_leave_nothing_behind() {
    let plimsoll = Plimsoll::start(Config::new().no_control()).expect("a service");
    let app = Router::new()
        .route("/large", get(|| async { vec![0_u8; 256 * 1_024] }))
        .layer(plimsoll.layer());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let server = plimsoll.server().clone();
    let serving = tokio::spawn({
        let plimsoll = plimsoll.clone();
        async move { plimsoll.serve(listener, app).await.expect("signals") }
    });
    let visit = || async {
        visit(addr).await;
        while server.connections() > 0 {
            tokio::task::yield_now().await;
        }
    };
    assert_live_bytes_return(&ALLOCATOR, 50, 500, 4_096, visit).await;
    assert_eq!(plimsoll.layer().in_flight(), 0);
    plimsoll.request_stop();
    assert!(serving.await.expect("serving ends").is_clean());
}
