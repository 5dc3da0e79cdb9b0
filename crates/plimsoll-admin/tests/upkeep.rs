//! What is done every second, in a process of its own: it counts its bytes and reads its log.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use plimsoll_admin::install_recorder;
use plimsoll_core::{
    Lifecycle, Registry,
    test_util::{CountingAllocator, FakeHolding},
};
use std::{fmt::Debug, sync::mpsc, time::Duration};
use support::start;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

#[global_allocator]
static ALLOC: CountingAllocator = CountingAllocator::system();

/// Sends the text of every warning.
struct Warnings(mpsc::Sender<String>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!("{field}={value:?} ");
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let _ = self.0.send(text.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn overdue_sweeps_are_reported_and_samples_are_not_piled_up() {
    let (warnings_tx, warnings) = mpsc::channel();
    tracing::subscriber::set_global_default(Warnings(warnings_tx)).unwrap();
    let recorder = install_recorder().unwrap();
    let samples = metrics::histogram!("wait_seconds");
    let before = ALLOC.live_bytes();
    for _ in 0..1_000_000 {
        samples.record(0.003);
    }
    let piled_up = ALLOC.live_bytes() - before;
    assert!(
        piled_up > 8_000_000,
        "{piled_up} bytes, or there is nothing to test"
    );

    // No sweeper runs, so the holding becomes overdue after a second.
    let registry = Registry::new();
    let _forgotten = registry.register(FakeHolding::new("forgotten", Duration::from_secs(1)));
    let (control, _) = start(&registry, &Lifecycle::new(), Some(recorder));
    let warning = warnings.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(warning.contains("sweep overdue"), "{warning}");
    assert!(warning.contains("forgotten"), "{warning}");

    // The recorder was kept up before that. What it let go of is freed by later samples.
    for _ in 0..100_000 {
        samples.record(0.003);
    }
    let left = ALLOC.live_bytes() - before;
    assert!(left < piled_up / 2, "{left} of {piled_up} bytes are left");
    control.stop().await;
}
