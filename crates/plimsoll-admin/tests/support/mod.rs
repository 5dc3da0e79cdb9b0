//! A client of a few lines, and holdings that hang or panic.
#![allow(dead_code, reason = "each test crate uses some of it")]

pub(crate) mod schema;

use plimsoll_admin::{Control, ControlConfig, PrometheusHandle};
use plimsoll_core::{Bounded, BoxFuture, CloseReport, Lifecycle, Registry, Step, Totals, Usage};
use serde_json::Value;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    panic::resume_unwind,
    sync::{Arc, Mutex, PoisonError, mpsc},
};
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{self:?}"
        );
        serde_json::from_str(&self.body).unwrap()
    }

    /// Asserts a problem document, and returns its detail.
    pub(crate) fn problem(&self, status: u16, title: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let document: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(document["type"], "about:blank");
        assert_eq!(document["title"], title);
        assert_eq!(document["status"], status);
        document["detail"].as_str().unwrap().to_owned()
    }
}

/// Sends `text` as it is, and reads until the listener hangs up.
pub(crate) fn send(addr: SocketAddr, text: &str) -> Answer {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    read(stream)
}

pub(crate) fn read(mut stream: TcpStream) -> Answer {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

pub(crate) fn ask(addr: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    send(addr, &format!("{head}{headers}\r\n"))
}

pub(crate) fn get(addr: SocketAddr, path: &str) -> Answer {
    ask(addr, "GET", path, "")
}

pub(crate) fn post(addr: SocketAddr, path: &str) -> Answer {
    ask(addr, "POST", path, "")
}

pub(crate) fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub(crate) fn start(
    registry: &Registry,
    lifecycle: &Lifecycle,
    metrics: Option<PrometheusHandle>,
) -> (Control, SocketAddr) {
    let config = ControlConfig::new().admin_addr(any_port());
    let control = Control::start(config, registry.clone(), lifecycle.clone(), metrics).unwrap();
    let addr = control.admin_addr().unwrap();
    (control, addr)
}

/// A holding that waits for `lock` when it is asked what it holds or swept, or panics.
#[derive(Debug)]
pub(crate) struct Odd {
    name: &'static str,
    pub(crate) lock: Mutex<()>,
    asked: mpsc::Sender<()>,
    panics: bool,
}

impl Odd {
    /// A holding that can be made to hang, and who tells when it is asked.
    pub(crate) fn hanging(name: &'static str) -> (Arc<Self>, mpsc::Receiver<()>) {
        Self::new(name, false)
    }

    pub(crate) fn panicking(name: &'static str) -> Arc<Self> {
        Self::new(name, true).0
    }

    fn new(name: &'static str, panics: bool) -> (Arc<Self>, mpsc::Receiver<()>) {
        let (asked, receiver) = mpsc::channel();
        let holding = Self {
            name,
            lock: Mutex::new(()),
            asked,
            panics,
        };
        (Arc::new(holding), receiver)
    }

    fn answer(&self) {
        if self.panics {
            // Untold, since to tell of it, with a backtrace, takes longer than a holding may.
            resume_unwind(Box::new("told to"));
        }
        let _ = self.asked.send(());
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Bounded for Odd {
    fn name(&self) -> &str {
        self.name
    }

    fn usage(&self) -> Usage {
        self.answer();
        Usage::new(1, 100).with_max_entries(4)
    }

    fn totals(&self) -> Totals {
        Totals::default()
    }

    fn sweep(&self, _now: Instant, _budget: usize) -> Step {
        self.answer();
        Step::idle()
    }

    fn close(self: Arc<Self>, _deadline: Instant) -> BoxFuture<'static, CloseReport> {
        Box::pin(async { CloseReport::default() })
    }
}
