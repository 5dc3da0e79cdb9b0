//! Asking holdings without waiting for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

/// How long holdings may take to answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks holdings on another thread, one question at a time.
///
/// The lock of a holding may be in the hands of a blocked worker, and then the thread that asks
/// is lost until that worker goes on. So there is never more than one.
#[derive(Debug)]
pub(crate) struct Asker {
    slot: Arc<Semaphore>,
    /// Whether the question in the slot has taken too long. Meaningless while the slot is free.
    late: AtomicBool,
}

impl Asker {
    pub(crate) fn new() -> Self {
        Self {
            slot: Arc::new(Semaphore::new(1)),
            late: AtomicBool::new(false),
        }
    }

    /// Runs `question`. `None` after [`TIMEOUT`], and at once where the one before it has taken
    /// that long and still does not end.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        // Relaxed: the flag guards nothing, and a stale read costs one wait or one answer.
        if self.slot.available_permits() == 0 && self.late.load(Ordering::Relaxed) {
            return None;
        }
        let answer = async {
            let slot = self.slot.clone().acquire_owned().await.ok()?;
            self.late.store(false, Ordering::Relaxed);
            let ask = move || {
                // Given back when the question ends, whether or not anybody still waits for it.
                let _slot = slot;
                question()
            };
            spawn_blocking(ask).await.ok()
        };
        let answer = timeout(TIMEOUT, answer).await;
        answer.unwrap_or_else(|_elapsed| {
            self.late.store(true, Ordering::Relaxed);
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use tokio::time::{Instant, advance};

    #[tokio::test(start_paused = true)]
    async fn a_question_that_hangs_costs_one_wait_and_one_thread() {
        let asker = Arc::new(Asker::new());
        let (release, hang) = mpsc::channel::<()>();
        let (entered_tx, entered) = tokio::sync::oneshot::channel();
        let hanging = tokio::spawn({
            let asker = asker.clone();
            async move {
                let question = move || {
                    let _ = entered_tx.send(());
                    let _ = hang.recv();
                };
                asker.ask(question).await
            }
        });
        entered.await.unwrap();
        advance(TIMEOUT).await;
        assert_eq!(hanging.await.unwrap(), None);

        let start = Instant::now();
        assert_eq!(asker.ask(|| panic!("a second thread")).await, None::<()>);
        assert_eq!(Instant::now(), start, "nobody waits for it again");

        drop(release);
        while asker.slot.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        // Forgotten: who comes during the next one waits for its turn.
        let (release, wait) = mpsc::channel::<()>();
        let first = asker.ask(move || wait.recv().is_err());
        let second = async {
            tokio::task::yield_now().await;
            assert_eq!(asker.slot.available_permits(), 0);
            let second = asker.ask(|| 2);
            let release = async { drop(release) };
            tokio::join!(biased; second, release).0
        };
        let answers = tokio::join!(biased; first, second);
        assert_eq!(answers, (Some(true), Some(2)));
    }

    // The clock stands still while a question is asked: to tell of a panic may take long.
    #[tokio::test(start_paused = true)]
    async fn a_question_that_panics_has_no_answer_and_leaves_room_for_the_next() {
        let asker = Asker::new();
        assert_eq!(asker.ask(|| panic!("told to")).await, None::<()>);
        assert_eq!(asker.ask(|| 1).await, Some(1));
    }
}
