//! What has to be done now and then, with no traffic.

use std::time::Duration;
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

const INTERVAL: Duration = Duration::from_secs(1);

/// Does `work` every second, for ever.
///
/// On another thread: work that logs waits for whoever reads the log.
pub(crate) async fn run(work: impl Fn() + Clone + Send + 'static) {
    let mut interval = interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if spawn_blocking(work.clone()).await.is_err() {
            tracing::error!("upkeep panicked, and is tried again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn works_every_second_even_after_a_panic() {
        let done = Arc::new(AtomicU32::new(0));
        let counter = done.clone();
        let upkeep = tokio::spawn(run(move || {
            let nth = counter.fetch_add(1, Ordering::Relaxed);
            assert_ne!(nth, 1, "told to");
        }));
        sleep(Duration::from_millis(4_500)).await;
        upkeep.abort();
        assert_eq!(done.load(Ordering::Relaxed), 5);
    }
}
