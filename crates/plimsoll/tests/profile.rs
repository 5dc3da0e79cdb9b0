//! Heap profiles of a service tell of its routes and adapters by their names.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use flate2::read::GzDecoder;
use http::{Request, Response};
use plimsoll::{
    Adapter, BoxError, Config, ControlConfig, EndpointLabel, Name, Plimsoll, TrackingAllocator,
};
use std::{
    convert::Infallible,
    hint::black_box,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};
use tower::{Layer as _, ServiceExt as _, service_fn};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// The body of an answer.
fn ask(addr: SocketAddr, method: &str, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    answer.split_off(end + 4)
}

fn block() -> Vec<u8> {
    black_box(Vec::with_capacity(black_box(1 << 20)))
}

#[tokio::test]
async fn routes_and_adapters_have_their_names() {
    let control = ControlConfig::new().admin_addr(([127, 0, 0, 1], 0).into());
    let plimsoll = Plimsoll::start(Config::new().control(control.profiling(true))).unwrap();
    let addr = plimsoll.admin_addr().unwrap();
    ask(addr, "POST", "/api/v1/memory/profile/start?mean_bytes=1024");

    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeps = |kept: &Arc<Mutex<Vec<_>>>| {
        let kept = kept.clone();
        move || kept.lock().unwrap().push(block())
    };
    let keep = keeps(&kept);
    let lexicon = Adapter::builder("lexicon").function(move |(): ()| {
        keep();
        async { Ok::<_, BoxError>(()) }
    });
    let lexicon = plimsoll.register_adapter(lexicon.unwrap()).unwrap();
    let keep = keeps(&kept);
    let handler = service_fn(|_: Request<String>| {
        keep();
        let call = lexicon.call(());
        async {
            call.await.unwrap();
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    });
    let mut request = Request::new(String::new());
    let label = EndpointLabel(Name::from_static("/found"));
    request.extensions_mut().insert(label);
    let response = plimsoll.layer().layer(handler).oneshot(request).await;
    drop(response.unwrap());

    let profile = ask(addr, "GET", "/debug/pprof/heap");
    let mut message = Vec::new();
    GzDecoder::new(&profile[..])
        .read_to_end(&mut message)
        .unwrap();
    let message = String::from_utf8_lossy(&message);
    for text in ["route", "/found", "adapter", "lexicon", "retained"] {
        assert!(message.contains(text), "no {text}");
    }
    drop(kept);
}
