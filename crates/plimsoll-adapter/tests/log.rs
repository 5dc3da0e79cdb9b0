//! How often the log tells that there were too many records. Alone in its process: a subscriber of
//! one thread does not see every event while other threads meet the same ones for the first time.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll_adapter::{Adapter, Adapters, RecordThreshold};
use plimsoll_core::BoxError;
use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::advance;

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Text {
    /// The warnings that were logged since the last look.
    fn take(&self) -> Vec<String> {
        let text = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(text).unwrap();
        let lines = text
            .lines()
            .filter(|line| line.contains("too many records"));
        lines.map(str::to_owned).collect()
    }
}

impl io::Write for Text {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn alerts_are_logged_every_ten_seconds_at_most_and_counted_each_time() {
    let log = Text::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let echo = |n: u64| async move { Ok::<_, BoxError>(n) };
    let adapters = Adapters::new([Adapter::builder("a").function(echo).unwrap()]).unwrap();
    let threshold = RecordThreshold::Records(100);
    adapters.record_threshold(threshold).unwrap();
    let alerts = Arc::new(AtomicUsize::new(0));
    let told = alerts.clone();
    adapters.on_record_alert(move |_| {
        told.fetch_add(1, Relaxed);
    });
    let cross = async |times: usize| {
        let wanted = alerts.load(Relaxed) + times;
        while alerts.load(Relaxed) < wanted {
            adapters.call("a", 1).await.unwrap();
        }
    };

    cross(1).await;
    let [first] = &log.take()[..] else {
        panic!("the first is logged at once");
    };
    assert!(
        first.contains("WARN") && first.contains("left_out=0"),
        "{first}"
    );
    cross(50).await;
    advance(Duration::from_millis(9_999)).await;
    cross(1).await;
    assert_eq!(log.take(), [""; 0]);
    advance(Duration::from_millis(1)).await;
    cross(2).await;
    let [second] = &log.take()[..] else {
        panic!("one in ten seconds");
    };
    assert!(second.contains("left_out=51"), "{second}");
    advance(Duration::from_secs(10)).await;
    cross(1).await;
    assert!(log.take()[0].contains("left_out=1"));
}
