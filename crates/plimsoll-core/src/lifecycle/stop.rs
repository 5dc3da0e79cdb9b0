//! The walk through the phases of a stop.

use super::{Inner, Phase, StopReason, StopReport, Stopping};
use crate::{Name, Registry, clock::after};
use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// How long aborted tasks and cut connections may take to be dropped. Only a task that blocks its
/// thread takes longer, and that one cannot be helped.
const DROP_GRACE: Duration = Duration::from_millis(500);

impl Inner {
    /// Goes to `phase` unless the service is past it.
    pub(super) fn advance(&self, phase: Phase) {
        let advanced = self.phase.send_if_modified(|now| {
            let advances = *now < phase;
            if advances {
                *now = phase;
                self.phase_now.store(phase as u8, Relaxed);
            }
            advances
        });
        if advanced {
            tracing::debug!(%phase, "phase");
        }
    }

    pub(super) async fn drain(&self, reason: StopReason) {
        let Stopping { started, deadline } = self.begin_stop();

        // ## (Starting | Running) => Leaving
        self.advance(Phase::Leaving);
        // A stop that goes on after its future was dropped may be past this.
        if reason != StopReason::Interrupt && !self.draining.is_cancelled() {
            let leave_by = after(started, self.config.drain_delay);
            self.until(leave_by, self.no_listeners()).await;
        }

        // ## Leaving => Draining
        self.advance(Phase::Draining);
        self.begin_draining();
        self.until(share_of_time_left(deadline, 0.6), self.no_listeners())
            .await;
        self.cut.cancel();
        // Not `until`: connections have to be dropped after an abort, too.
        let cut_by = Instant::now() + drop_grace(deadline);
        let _ = timeout_at(cut_by, self.no_listeners()).await;
    }

    pub(super) async fn stop(&self, registry: &Registry, reason: StopReason) -> StopReport {
        let Stopping { started, deadline } = self.begin_stop();
        if !self.cut.is_cancelled() {
            self.drain(reason).await;
        }

        // ## Draining => Closing
        self.advance(Phase::Closing);
        let close_by = share_of_time_left(deadline, 0.75);
        let holdings = registry.close_unless(&self.aborted, close_by).await;

        // ## Closing => Cancelling
        self.advance(Phase::Cancelling);
        let alive = self.tasks.close();
        self.cancelled.cancel();
        let abort_at = deadline
            .checked_sub(drop_grace(deadline))
            .unwrap_or(deadline);
        self.until(abort_at, self.no_tasks()).await;

        // ## Cancelling => Stopped
        let stragglers = self.abort_tasks().await;
        self.advance(Phase::Stopped);
        let aborted_tasks: usize = stragglers.values().sum();
        let (drained, still_open) = self.listeners.lock().tell();
        StopReport {
            reason,
            elapsed: Instant::now().saturating_duration_since(started),
            timeout: self.config.stop_timeout,
            aborted: self.aborted.is_cancelled(),
            drained,
            still_open,
            holdings,
            tasks_ended: alive.saturating_sub(aborted_tasks),
            stragglers,
        }
    }

    pub(super) fn begin_draining(&self) {
        self.listeners.lock().draining = true;
        self.draining.cancel();
    }

    /// The times of the stop, which the first call of those that belong to it decides.
    fn begin_stop(&self) -> Stopping {
        *self.stopping.lock().get_or_insert_with(|| {
            let started = Instant::now();
            Stopping {
                started,
                deadline: after(started, self.config.stop_timeout),
            }
        })
    }

    /// Waits for `future`, but neither past `deadline` nor past an abort.
    async fn until(&self, deadline: Instant, future: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = self.aborted.cancelled() => {}
            () = future => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }

    async fn abort_tasks(&self) -> BTreeMap<Name, usize> {
        let mut stragglers = BTreeMap::new();
        for (name, abort) in self.tasks.abort_all() {
            *stragglers.entry(name).or_insert(0) += 1;
            if let Some(abort) = abort {
                abort.abort();
            }
        }
        for (name, count) in &stragglers {
            tracing::warn!(task = %name, count, "task did not end in time, aborted");
        }
        // An aborted task is dropped when its worker gets to it.
        let _ = timeout_at(Instant::now() + DROP_GRACE, self.no_tasks()).await;
        stragglers
    }

    pub(super) async fn no_tasks(&self) {
        until_true(&self.no_tasks, || self.tasks.len() == 0).await;
    }

    pub(super) async fn no_listeners(&self) {
        until_true(&self.no_listeners, || self.listeners.lock().open.is_empty()).await;
    }
}

/// Waits for a condition that `changed` is notified of after it became true.
async fn until_true(changed: &Notify, mut condition: impl FnMut() -> bool) {
    loop {
        // Made before the condition is read, so that no change falls in between.
        let notified = changed.notified();
        if condition() {
            return;
        }
        notified.await;
    }
}

/// How long to wait for what was cut or aborted to be dropped: half of what is left at the most.
fn drop_grace(deadline: Instant) -> Duration {
    DROP_GRACE.min(deadline.saturating_duration_since(Instant::now()) / 2)
}

/// The moment at which `share` of the time until `deadline` has passed.
fn share_of_time_left(deadline: Instant, share: f64) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now).mul_f64(share)
}

#[cfg(all(test, not(plimsoll_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_change_right_after_the_condition_was_read_is_not_missed() {
        let changed = Notify::new();
        let mut read = 0;
        let mut waiting = tokio_test::task::spawn(until_true(&changed, || {
            read += 1;
            if read == 1 {
                // Another thread makes it true now, which this reading has not seen.
                changed.notify_waiters();
            }
            read > 1
        }));
        assert!(waiting.poll().is_ready());
    }
}
