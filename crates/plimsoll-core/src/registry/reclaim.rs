//! Sweeping and shrinking for whoever makes room, on that one's own thread.

use super::{
    Registry, SweepReport, UnknownHolding, calmly, metrics,
    sweeper::{Pace, Slices},
};
use crate::{Name, Next, Removed, ShrinkPolicy, Usage};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};
use tokio::time::Instant;

/// What shrinking a holding did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ShrinkReport {
    /// What was given up.
    pub removed: Removed,
    /// By how many bytes it holds less. What others put in meanwhile counts against it.
    pub freed_bytes: u64,
    /// In how many slices.
    pub slices: u64,
    /// From the first slice to the end of the last, rests included.
    pub elapsed: Duration,
    /// Whether the holding panicked, which ended it.
    pub panicked: bool,
}

impl Registry {
    /// The names of the living holdings, in order of registration. No holding is asked.
    #[must_use]
    pub fn names(&self) -> Vec<Name> {
        self.inner.table.lock().names()
    }

    /// [`sweep`](Self::sweep) on the calling thread, which rests as the sweeper does and so blocks.
    ///
    /// # Errors
    ///
    /// When no living holding has this name.
    pub fn blocking_sweep(&self, name: &str) -> Result<SweepReport, UnknownHolding> {
        let found = self.inner.table.lock().get(name);
        let (id, name, holding) = found.ok_or_else(|| UnknownHolding(name.to_owned()))?;
        let mut slices = Slices::new(name, holding);
        let mut pace = Pace::default();
        while slices.next(&self.inner.config, &mut pace).is_continue() {
            pace.give_way_blocking();
        }
        let (report, next) = slices.finish(&self.inner.config);
        self.inner.record(id, report, next);
        self.inner.wake.notify_one();
        Ok(report)
    }

    /// What a holding has, and when it has its turn if memory is short. None if it panicked when
    /// asked.
    ///
    /// # Errors
    ///
    /// When no living holding has this name.
    pub fn shrink_policy(
        &self,
        name: &str,
    ) -> Result<Option<(Usage, ShrinkPolicy)>, UnknownHolding> {
        let found = self.inner.table.lock().get(name);
        let (_, _, holding) = found.ok_or_else(|| UnknownHolding(name.to_owned()))?;
        let asked = calmly(|| {
            let holding = holding.upgrade()?;
            Some((holding.usage(), holding.shrink_policy()))
        });
        match asked {
            Some(None) => Err(UnknownHolding(name.to_owned())),
            Some(known) => Ok(known),
            None => Ok(None),
        }
    }

    /// Has a holding give up the coldest `share` (0 to 1) of what is expendable, on the calling
    /// thread, slice by slice with rests between, and so blocks.
    ///
    /// Of the entries that it has at the beginning no more than `share` go, but for rounding.
    ///
    /// # Errors
    ///
    /// When no living holding has this name.
    pub fn shrink(&self, name: &str, share: f64) -> Result<ShrinkReport, UnknownHolding> {
        let found = self.inner.table.lock().get(name);
        let (_, name, holding) = found.ok_or_else(|| UnknownHolding(name.to_owned()))?;
        let budget = self.inner.config.sweep_budget;
        let share = if share.is_nan() { 0.0 } else { share };
        let started = Instant::now();
        let mut report = ShrinkReport::default();
        let mut pace = Pace::default();
        // As many entries as it had when the first slice began, and bytes.
        let mut begin = None;
        loop {
            let from = Instant::now();
            let slice = catch_unwind(AssertUnwindSafe(|| {
                let holding = holding.upgrade()?;
                let begin = *begin.get_or_insert_with(|| holding.usage());
                let share = share_left(share.clamp(0.0, 1.0), begin.entries, &report.removed);
                Some((holding.shrink(share, budget), holding.usage(), begin))
            }));
            report.slices += 1;
            let now = Instant::now();
            pace.work(now.saturating_duration_since(from));
            report.elapsed = now.saturating_duration_since(started);
            let Ok(Some((step, usage, begin))) = slice else {
                report.panicked = slice.is_err();
                break;
            };
            report.removed += step.removed;
            report.freed_bytes = begin.bytes.saturating_sub(usage.bytes);
            // One that gives nothing up will not do so the next time either.
            if step.next != Next::More || step.removed == Removed::NONE {
                break;
            }
            pace.give_way_blocking();
        }
        metrics::shrunk(name, &report);
        let ShrinkReport {
            removed,
            freed_bytes,
            slices,
            elapsed,
            panicked,
        } = report;
        if panicked {
            tracing::error!(holding = %name, %removed, "holding panicked while shrunk");
        } else if removed == Removed::NONE {
            tracing::debug!(holding = %name, slices, ?elapsed, "nothing to shrink");
        } else {
            tracing::info!(holding = %name, %removed, freed_bytes, slices, ?elapsed, "shrunk");
        }
        Ok(report)
    }
}

/// The share of what is left that makes `share` of what there was at the beginning.
fn share_left(share: f64, entries: u64, removed: &Removed) -> f64 {
    let (entries, gone) = (entries as f64, removed.total() as f64);
    if gone == 0.0 {
        return share;
    }
    let (wanted, left) = (share * entries - gone, entries - gone);
    if wanted <= 0.0 || left <= 0.0 {
        0.0
    } else {
        (wanted / left).min(1.0)
    }
}

#[cfg(all(test, not(plimsoll_loom)))]
mod tests {
    use super::*;
    use crate::{RegistryConfig, RemovalReason, test_util::FakeHolding};

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_share_stays_that_of_the_beginning_however_many_slices_it_takes() {
        let registry = Registry::with_config(RegistryConfig::default().sweep_budget(7));
        let held = registry.register(FakeHolding::new("cache", HOUR)).unwrap();
        held.insert(1_000);
        let report = registry.shrink("cache", 0.5).unwrap();
        assert!(report.slices > 70, "{report:?}");
        assert_eq!(report.removed, Removed::of(RemovalReason::Pressure, 500));
        assert_eq!((held.held(), report.freed_bytes), (500, 50_000));
        crate::test_util::assert_balanced(&held);
        assert_eq!(
            registry.shrink("cache", 0.0).unwrap().removed,
            Removed::NONE
        );
        assert_eq!(
            registry.shrink("cache", f64::NAN).unwrap().removed,
            Removed::NONE
        );
        assert_eq!(registry.shrink("cache", 2.0).unwrap().removed.total(), 500);
        assert!(registry.shrink("other", 1.0).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_on_a_thread_of_its_own_is_recorded_as_any_other() {
        let registry = Registry::new();
        let held = registry.register(FakeHolding::new("cache", HOUR)).unwrap();
        held.insert(3);
        tokio::time::advance(HOUR).await;
        held.insert(1);
        let report = registry.blocking_sweep("cache").unwrap();
        assert_eq!(report.removed, Removed::expired(3));
        let seen = &registry.snapshot()[0];
        assert_eq!(seen.stats.sweeps, 1);
        assert_eq!(seen.next_sweep, Instant::now() + HOUR);
        assert!(registry.blocking_sweep("other").is_err());
    }

    #[test]
    fn what_panics_says_so_and_harms_nobody() {
        let registry = Registry::new();
        let held = registry.register(FakeHolding::new("odd", HOUR)).unwrap();
        held.insert(10);
        held.panic_when_shrunk(1);
        assert!(registry.shrink("odd", 1.0).unwrap().panicked);
        assert_eq!(registry.shrink("odd", 1.0).unwrap().removed.total(), 10);
        held.panic_when_swept(1);
        assert!(registry.blocking_sweep("odd").unwrap().panicked);
        let (usage, policy) = registry.shrink_policy("odd").unwrap().unwrap();
        assert_eq!((usage.entries, policy), (0, ShrinkPolicy::default()));
    }
}
