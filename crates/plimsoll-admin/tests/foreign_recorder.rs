//! A recorder that was installed by other means. In a process of its own, because a recorder
//! cannot be taken back.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::PrometheusBuilder;
use plimsoll_admin::install_recorder;
use plimsoll_core::{Lifecycle, Registry};
use std::{
    io::Write,
    net::TcpStream,
    sync::{Mutex, PoisonError, mpsc},
};
use support::{get, read, start};

/// Records nothing, and stops whoever asks for the gauge of readiness.
struct Gate {
    asked: mpsc::Sender<()>,
    released: Mutex<mpsc::Receiver<()>>,
}

impl Recorder for Gate {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        if key.name() == "plimsoll_ready" {
            self.asked.send(()).unwrap();
            let released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = released.recv();
        }
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_recorder_is_told_and_its_handle_is_taken() {
    let (asked_tx, asked) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let gate = Gate {
        asked: asked_tx,
        released: Mutex::new(released),
    };
    metrics::set_global_recorder(gate).unwrap();
    for _ in 0..2 {
        assert_eq!(
            install_recorder().unwrap_err().to_string(),
            "another metrics recorder is installed: pass its `PrometheusHandle` to \
             `Control::start`, or pass none and scrape it where it serves"
        );
    }

    let own = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&own, || metrics::counter!("own_total").increment(1));
    let (control, addr) = start(&Registry::new(), &Lifecycle::new(), Some(own.handle()));
    let mut first = TcpStream::connect(addr).unwrap();
    let head = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    first.write_all(head.as_bytes()).unwrap();
    asked.recv().unwrap();
    // A scrape counts until it is rendered, and the other probes do not wait for that.
    let second = get(addr, "/metrics");
    assert_eq!(second.status, 503);
    assert_eq!(get(addr, "/livez").status, 200);
    drop(release);
    assert!(read(first).body.contains("own_total 1\n"));
    control.stop().await;
}
