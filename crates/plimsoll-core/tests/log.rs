//! What is logged of a sweep. Alone in its process: a subscriber of one thread does not see every
//! event while other threads meet the same ones for the first time.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_core::{Registry, test_util::FakeHolding};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    task::yield_now,
    time::{advance, sleep},
};

/// What is logged until the guard is dropped, a line for each event.
fn logged() -> (Arc<Mutex<Vec<u8>>>, tracing::subscriber::DefaultGuard) {
    let log = Arc::<Mutex<Vec<u8>>>::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .without_time()
        .with_writer(move || Text(writer.clone()))
        .finish();
    (log, tracing::subscriber::set_default(subscriber))
}

struct Text(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Text {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn each_sweep_is_logged_with_what_it_dropped_how_long_it_took_and_what_remains() {
    let (log, _guard) = logged();
    let registry = Registry::new();
    tokio::spawn(registry.sweeper());
    let held = registry
        .register(FakeHolding::new("sessions", Duration::from_secs(60)))
        .unwrap();
    while held.sweeps().is_empty() {
        yield_now().await;
    }
    held.insert(3);
    advance(Duration::from_secs(1)).await;
    held.insert(2);
    sleep(Duration::from_secs(60)).await;
    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    for line in [
        "DEBUG plimsoll_core::registry::sweeper: swept, nothing had expired holding=sessions slices=1 elapsed=0ns",
        "INFO plimsoll_core::registry::sweeper: swept holding=sessions removed=3 expired slices=1 elapsed=0ns remaining=2",
    ] {
        assert!(
            log.lines().any(|got| got.trim() == line),
            "{line} in\n{log}"
        );
    }
}
