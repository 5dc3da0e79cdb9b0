//! Heap profiles, over real connections.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use flate2::read::GzDecoder;
use http::{Request, Response};
use plimsoll_admin::{Control, ControlConfig};
use plimsoll_alloc::{MemoryGroup, TrackingAllocator, profile};
use plimsoll_core::{Lifecycle, Name, Registry};
use plimsoll_http::{EdgeLayer, EndpointLabel};
use serde_json::json;
use std::{
    convert::Infallible,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError, mpsc},
};
use support::{any_port, ask, get, post};
use tower::{Layer as _, ServiceExt as _, service_fn};

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

const TOKEN: &str = "0123456789abcdef";
const HEAP: &str = "/debug/pprof/heap";
const SHOW: &str = "/api/v1/memory/profile";
const START: &str = "/api/v1/memory/profile/start";
const STOP: &str = "/api/v1/memory/profile/stop";
const ROUTES: [(&str, &str); 4] = [
    ("GET", HEAP),
    ("GET", SHOW),
    ("POST", START),
    ("POST", STOP),
];

/// What is sampled is the process's, so tests that switch it take turns.
fn turn() -> impl Drop {
    struct Turn(#[allow(dead_code, reason = "held")] std::sync::MutexGuard<'static, ()>);

    impl Drop for Turn {
        fn drop(&mut self) {
            profile::stop();
        }
    }
    static ONE: Mutex<()> = Mutex::new(());
    Turn(ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn start(config: ControlConfig) -> (Control, SocketAddr) {
    let config = config.admin_addr(any_port());
    let control = Control::start(config, Registry::new(), Lifecycle::new(), None).unwrap();
    let addr = control.admin_addr().unwrap();
    (control, addr)
}

fn on() -> ControlConfig {
    ControlConfig::new().profiling(true)
}

/// Asks for a profile, and does not wait for it.
fn ask_for(addr: SocketAddr, query: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    let request =
        format!("GET {HEAP}{query} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// The head of the answer, and the message, with its strings as they are.
fn heap(addr: SocketAddr, query: &str) -> (String, String) {
    let mut stream = ask_for(addr, query);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    let (head, body) = answer.split_at(end + 4);
    let head = String::from_utf8(head.to_vec()).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let mut message = Vec::new();
    GzDecoder::new(body).read_to_end(&mut message).unwrap();
    (head, String::from_utf8_lossy(&message).into_owned())
}

#[tokio::test]
async fn profiles_are_off_unless_they_are_turned_on() {
    let _turn = turn();
    let (_control, addr) = start(ControlConfig::new());
    for (method, path) in ROUTES {
        let told = ask(addr, method, path, "").problem(404, "Not Found");
        assert!(told.contains("`control.profiling`"), "{told}");
    }
    assert!(!profile::is_sampling());
}

#[tokio::test]
async fn profiles_are_guarded_as_what_operators_do() {
    let _turn = turn();
    let (_control, addr) = start(on());
    for (method, path) in ROUTES.into_iter().filter(|(_, path)| *path != SHOW) {
        for header in [
            "Origin: https://evil.example\r\n",
            "Sec-Fetch-Site: cross-site\r\n",
        ] {
            ask(addr, method, path, header).problem(403, "Forbidden");
        }
    }
    let (_control, addr) = start(on().token(TOKEN));
    for (method, path) in ROUTES {
        assert_eq!(ask(addr, method, path, "").status, 401);
    }
    assert!(!profile::is_sampling());
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(addr, "POST", START, &bearer).status, 200);
    for (method, path, allowed) in [("POST", HEAP, "GET,HEAD"), ("GET", START, "POST")] {
        let answer = ask(addr, method, path, &bearer);
        answer.problem(405, "Method Not Allowed");
        assert_eq!(answer.header("allow"), Some(allowed));
    }
}

#[tokio::test]
async fn sampling_is_started_shown_and_stopped() {
    let _turn = turn();
    let (_control, addr) = start(on());
    let shown = get(addr, SHOW).json();
    assert_eq!(shown["sampling"], false);
    // Nor is what comes by default of the last one's making.
    assert_eq!(post(addr, START).json()["mean_bytes"], 512 << 10);
    let started = post(addr, &format!("{START}?mean_bytes=2048")).json();
    assert_eq!(started["sampling"], true);
    let kept = vec![0_u8; 1 << 20];
    let shown = get(addr, SHOW).json();
    assert_eq!(shown["mean_bytes"], 2_048);
    assert_eq!(shown["max_records"], 16_384);
    assert_eq!(shown["dropped"], 0);
    assert!(shown["records_in_use"].as_u64() > Some(0), "{shown}");
    assert_eq!(post(addr, STOP).json()["sampling"], false);
    assert!(!profile::is_sampling());
    drop(kept);
}

#[tokio::test]
async fn parameters_that_mean_nothing_are_refused() {
    let _turn = turn();
    let (_control, addr) = start(on());
    for (method, path, query, remedy) in [
        ("GET", HEAP, "seconds=0", "a whole number from 1 to 60"),
        ("GET", HEAP, "seconds=61", "a whole number from 1 to 60"),
        ("GET", HEAP, "seconds=x", "a whole number from 1 to 60"),
        ("GET", HEAP, "seconds=", "a whole number from 1 to 60"),
        ("GET", HEAP, "seconds=+5", "a whole number from 1 to 60"),
        ("GET", HEAP, "seconds=5&seconds=5", "once will do"),
        ("GET", HEAP, "debug=1", "use seconds"),
        ("POST", START, "mean_bytes=1023", "between 1 KiB and 1 GiB"),
        (
            "POST",
            START,
            "mean_bytes=9999999999",
            "between 1 KiB and 1 GiB",
        ),
        ("POST", START, "mean_bytes=512KiB", "a whole number"),
        ("POST", STOP, "mean_bytes=4096", "no parameters"),
        ("GET", SHOW, "seconds=5", "no parameters"),
    ] {
        let answer = ask(addr, method, &format!("{path}?{query}"), "");
        let told = answer.problem(400, "Bad Request");
        assert!(told.contains(remedy), "{query}: {told}");
    }
    assert!(!profile::is_sampling());
}

#[tokio::test]
async fn profile_of_what_nobody_samples_is_refused() {
    let _turn = turn();
    let (_control, addr) = start(on());
    // Where something is left from before, that can be shown, and nothing comes of a difference.
    let told = get(addr, &format!("{HEAP}?seconds=1")).problem(409, "Conflict");
    assert!(told.contains(START), "{told}");
}

#[inline(never)]
fn kept_by_a_handler() -> Vec<u8> {
    vec![7; 1 << 20]
}

#[tokio::test]
async fn profile_names_functions_and_routes_and_other_groups() {
    let _turn = turn();
    let (group, edge) = (MemoryGroup::new(), EdgeLayer::new());
    let id = group.id().unwrap();
    let config = on().edge(edge.clone());
    let (_control, addr) =
        start(config.groups("adapter", move || vec![(id, Name::from_static("lexicon"))]));
    assert_eq!(post(addr, &format!("{START}?mean_bytes=1024")).status, 200);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let service = edge.layer(service_fn(|_: Request<String>| {
        let kept = kept.clone();
        async move {
            kept.lock().unwrap().push(kept_by_a_handler());
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    }));
    let mut request = Request::new(String::new());
    let label = EndpointLabel(Name::from_static("/kept"));
    request.extensions_mut().insert(label);
    drop(service.oneshot(request).await.unwrap());
    let named = edge.memory_groups();
    assert_eq!(named.len(), 1);
    assert_eq!(named[0].1, label.0);
    let adapted = group.scope().run(|| vec![8_u8; 1 << 20]);

    let (head, message) = heap(addr, "");
    for header in [
        "content-type: application/octet-stream\r\n",
        "content-disposition: attachment; filename=\"heap.pb.gz\"\r\n",
        "cache-control: no-store\r\n",
    ] {
        assert!(head.contains(header), "{head}");
    }
    for text in [
        "kept_by_a_handler",
        "route",
        "/kept",
        "adapter",
        "lexicon",
        "retained",
    ] {
        assert!(message.contains(text), "no {text}");
    }
    drop((adapted, kept));
}

#[tokio::test]
async fn panic_of_whoever_names_groups_ends_no_other_profile() {
    let _turn = turn();
    let first = Mutex::new(true);
    let (_control, addr) = start(on().groups("adapter", move || {
        let first = std::mem::take(&mut *first.lock().unwrap_or_else(PoisonError::into_inner));
        assert!(!first, "told to");
        Vec::new()
    }));
    assert_eq!(post(addr, START).status, 200);
    let told = get(addr, HEAP).problem(500, "Internal Server Error");
    assert!(told.contains("panicked"), "{told}");
    heap(addr, "");
    assert_eq!(get(addr, SHOW).json()["sampling"], json!(true));
}

#[inline(never)]
fn kept_before() -> Vec<u8> {
    vec![9; 1 << 20]
}

#[inline(never)]
fn kept_meanwhile() -> Vec<u8> {
    vec![10; 1 << 20]
}

#[tokio::test]
async fn difference_is_of_what_came_to_be_held_in_its_time() {
    let _turn = turn();
    // Groups are named before each of the two profiles is taken: the second time is between them.
    let kept = Arc::new(Mutex::new(Vec::new()));
    let named = Mutex::new(0);
    let keep = kept.clone();
    let (_control, addr) = start(on().groups("adapter", move || {
        let mut named = named.lock().unwrap();
        *named += 1;
        if *named == 2 {
            keep.lock().unwrap().push(kept_meanwhile());
        }
        Vec::new()
    }));
    assert_eq!(post(addr, &format!("{START}?mean_bytes=1024")).status, 200);
    let before = kept_before();
    let (_, message) = heap(addr, "?seconds=1");
    assert!(message.contains("kept_meanwhile"));
    assert!(!message.contains("kept_before"));
    // Nor has the first of them come to be held.
    assert!(!message.contains("HeapProfile"));
    let (_, message) = heap(addr, "");
    assert!(message.contains("kept_meanwhile") && message.contains("kept_before"));
    drop((before, kept));
}

#[tokio::test]
async fn there_is_one_profile_at_a_time_and_a_client_that_goes_leaves_its_place() {
    let _turn = turn();
    let (taken_tx, taken) = mpsc::channel();
    let (_control, addr) = start(on().groups("adapter", move || {
        let _ = taken_tx.send(());
        Vec::new()
    }));
    assert_eq!(post(addr, START).status, 200);
    let first = ask_for(addr, "?seconds=60");
    taken.recv().unwrap();
    for query in ["", "?seconds=1"] {
        let busy = get(addr, &format!("{HEAP}{query}"));
        let told = busy.problem(503, "Service Unavailable");
        assert!(told.contains("another heap profile"), "{told}");
        assert_eq!(busy.header("retry-after"), Some("1"));
    }
    // Whether it is sampled is told all the same.
    assert_eq!(get(addr, SHOW).status, 200);
    drop(first);
    // The place is free as soon as the listener has seen that.
    let free = || {
        let mut answer = ask_for(addr, "");
        let mut status = [0; 12];
        answer.read_exact(&mut status).unwrap();
        status == *b"HTTP/1.1 200"
    };
    while !free() {
        std::thread::yield_now();
    }
}
