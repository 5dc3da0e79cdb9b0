//! The task that sweeps, slice by slice.

use super::{
    Inner, RegistryConfig, SweepReport, metrics,
    table::{Due, Id},
};
use crate::{Bounded, Name, Next, Removed, Step, clock::after};
use std::{
    collections::VecDeque,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// The shortest wait before a holding is swept again, so that one that asks for a time in the
/// past cannot keep the sweeper spinning.
pub(super) const LEAST_WAIT: Duration = Duration::from_millis(1);

/// After this much work in slices the sweeper rests for as long.
const WORK: Duration = Duration::from_millis(1);

/// A sweep that says `More` this many times on end without dropping anything is ended.
pub(super) const MOST_IDLE_SLICES: u32 = 10_000;

/// One sweep of one holding, under way. It keeps the holding alive during a slice only.
pub(super) struct Slices {
    name: Name,
    holding: Weak<dyn Bounded>,
    started: Instant,
    report: SweepReport,
    idle_slices: u32,
    next: Next,
}

/// How long a sweeper has worked since it rested.
///
/// Between two slices a holding's lock is free, but a thread that waits for it takes longer to wake
/// up than the sweeper takes to come back. Without rests it would wait for most of the sweep.
#[derive(Debug, Default)]
pub(super) struct Pace {
    worked: Duration,
}

/// The sweeps that a sweeper has in hand. Dropped with it, they are due again.
struct UnderWay {
    registry: Weak<Inner>,
    sweeps: VecDeque<(Id, Slices)>,
}

/// Sweeps whatever is due until the registry is gone.
pub(super) async fn run(registry: Weak<Inner>, wake: Arc<Notify>) {
    let mut hands = UnderWay {
        registry: registry.clone(),
        sweeps: VecDeque::new(),
    };
    let under_way = &mut hands.sweeps;
    let mut pace = Pace::default();
    let mut prune_at = Instant::now();
    loop {
        let wait_until = {
            let Some(registry) = registry.upgrade() else {
                return;
            };
            let now = Instant::now();
            if prune_at <= now {
                registry.forget_the_dead();
                prune_at = after(now, registry.config.idle_interval);
            }
            registry.take_all_due(now, under_way);
            if let Some((id, mut slices)) = under_way.pop_front() {
                match slices.next(&registry.config, &mut pace) {
                    ControlFlow::Continue(()) => under_way.push_back((id, slices)),
                    ControlFlow::Break(()) => registry.end(id, slices),
                }
            }
            if under_way.is_empty() {
                let due = registry.table.lock().next_due();
                due.unwrap_or(prune_at).min(prune_at)
            } else {
                now
            }
            // The strong reference is dropped before the wait, so that the registry can go.
        };
        if under_way.is_empty() {
            tokio::select! {
                () = wake.notified() => {}
                () = tokio::time::sleep_until(wait_until) => {}
            }
        } else {
            pace.give_way().await;
        }
    }
}

impl Pace {
    /// Lets others have their turn: other tasks always, other threads when it is time to rest.
    pub(super) async fn give_way(&mut self) {
        if self.worked < WORK {
            tokio::task::yield_now().await;
        } else {
            self.worked = Duration::ZERO;
            tokio::time::sleep(WORK).await;
        }
    }

    /// The same for a thread that may block.
    pub(super) fn give_way_blocking(&mut self) {
        if self.worked < WORK {
            std::thread::yield_now();
        } else {
            self.worked = Duration::ZERO;
            std::thread::sleep(WORK);
        }
    }

    pub(super) fn work(&mut self, took: Duration) {
        self.worked += took;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            for (id, _) in self.sweeps.drain(..) {
                registry.table.lock().put_back(id);
            }
        }
    }
}

impl Slices {
    pub(super) fn new(name: Name, holding: Weak<dyn Bounded>) -> Self {
        Self {
            name,
            holding,
            started: Instant::now(),
            report: SweepReport::default(),
            idle_slices: 0,
            next: Next::Idle,
        }
    }

    /// Does one slice, and says whether another is to follow.
    pub(super) fn next(&mut self, config: &RegistryConfig, pace: &mut Pace) -> ControlFlow<()> {
        let now = Instant::now();
        // A holding repairs itself or not; either way it is asked again, and no state of ours
        // was in its hands when it panicked. Its last handle may go meanwhile: then it is dropped
        // in here.
        let step = catch_unwind(AssertUnwindSafe(|| {
            let holding = self.holding.upgrade()?;
            Some(holding.sweep(now, config.sweep_budget))
        }));
        if let Ok(None) = step {
            return ControlFlow::Break(());
        }
        let end = Instant::now();
        let took = end.saturating_duration_since(now);
        pace.work(took);
        self.report.slices += 1;
        self.report.longest_slice = self.report.longest_slice.max(took);
        self.report.elapsed = end.saturating_duration_since(self.started);
        let Ok(Some(Step { removed, next })) = step else {
            self.report.panicked = true;
            return ControlFlow::Break(());
        };
        self.report.removed += removed;
        if next != Next::More {
            self.next = next;
            return ControlFlow::Break(());
        }
        self.idle_slices = if removed == Removed::NONE {
            self.idle_slices + 1
        } else {
            0
        };
        if self.idle_slices >= MOST_IDLE_SLICES {
            tracing::warn!(holding = %self.name, "sweep makes no headway; put off");
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Ends the sweep: logs it, counts it, and says what it did and when the next one is wanted.
    pub(super) fn finish(self, config: &RegistryConfig) -> (SweepReport, Next) {
        let Self {
            name,
            holding,
            report,
            next,
            ..
        } = self;
        metrics::swept(name, &report);
        let SweepReport {
            removed,
            slices,
            elapsed,
            ..
        } = report;
        if report.panicked {
            let again = config.idle_interval;
            tracing::error!(holding = %name, %removed, ?again, "holding panicked while swept");
            return (report, next);
        }
        if removed == Removed::NONE {
            tracing::debug!(holding = %name, slices, ?elapsed, "swept, nothing had expired");
        } else {
            let usage = super::calmly(|| Some(holding.upgrade()?.usage())).flatten();
            let remaining = usage.map_or(0, |usage| usage.entries);
            tracing::info!(holding = %name, %removed, slices, ?elapsed, remaining, "swept");
        }
        (report, next)
    }
}

impl RegistryConfig {
    /// When a holding that answered `next` is to be swept again.
    pub(super) fn when(&self, next: Next, now: Instant) -> Instant {
        match next {
            Next::At(at) => {
                let wait = at.saturating_duration_since(now);
                after(now, wait.max(LEAST_WAIT))
            }
            // `More` comes from a sweep that was given up.
            Next::Idle | Next::More => after(now, self.idle_interval),
        }
    }
}

impl Inner {
    pub(super) fn take_all_due(&self, now: Instant, under_way: &mut VecDeque<(Id, Slices)>) {
        loop {
            // The lock is released before anything is reported.
            let taken = self.table.lock().take_due(now);
            match taken {
                Some(Ok(Due {
                    id,
                    name,
                    holding,
                    overdue,
                })) => {
                    if let Some(overdue) = overdue {
                        self.report(&overdue);
                    }
                    under_way.push_back((id, Slices::new(name, holding)));
                }
                Some(Err(name)) => forgotten(name),
                None => break,
            }
        }
    }

    pub(super) fn end(&self, id: Id, slices: Slices) {
        let (report, next) = slices.finish(&self.config);
        let now = Instant::now();
        let at = self.config.when(next, now);
        self.table.lock().finish(id, report, now, at);
    }

    pub(super) fn forget_the_dead(&self) {
        let names = self.table.lock().prune();
        names.into_iter().for_each(forgotten);
    }
}

fn forgotten(name: Name) {
    tracing::debug!(holding = %name, "last handle gone, forgotten");
    metrics::forget(name);
}

#[cfg(all(test, not(plimsoll_loom)))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sweeper_rests_as_long_as_it_worked_and_only_then() {
        let start = Instant::now();
        let mut pace = Pace {
            worked: WORK - Duration::from_nanos(1),
        };
        pace.give_way().await;
        assert_eq!(Instant::now(), start);
        pace.worked += Duration::from_nanos(1);
        pace.give_way().await;
        assert!(Instant::now() >= start + WORK);
        assert_eq!(pace.worked, Duration::ZERO);
    }
}
