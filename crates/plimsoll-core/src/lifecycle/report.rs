use super::StopReason;
use crate::{Name, registry::ClosedHolding};
use std::{collections::BTreeMap, fmt, time::Duration};

/// How a stop went.
///
/// `Display` writes a line for the whole, one for each part, and one for each thing that went
/// wrong.
#[derive(Debug)]
#[non_exhaustive]
pub struct StopReport {
    /// What asked for the stop.
    pub reason: StopReason,
    /// From the request to the end.
    pub elapsed: Duration,
    /// How long it was allowed to take.
    pub timeout: Duration,
    /// Whether a second request cut it short.
    pub aborted: bool,
    /// What each listener did.
    pub drained: Vec<Drained>,
    /// The listeners that did not end even when they were cut, by name, with how many of each.
    pub still_open: BTreeMap<Name, usize>,
    /// What became of each holding.
    pub holdings: Vec<ClosedHolding>,
    /// How many tasks ended by themselves once they were cancelled.
    pub tasks_ended: usize,
    /// The tasks that had to be aborted, by name, with how many of each.
    pub stragglers: BTreeMap<Name, usize>,
}

/// What one listener did while it drained.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Drained {
    /// The listener.
    pub name: Name,
    /// Requests that ended while it drained.
    pub finished: u64,
    /// Requests that were cut off.
    pub cut: u64,
}

impl StopReport {
    /// Whether nothing was cut, lost or aborted.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.aborted
            && self.stragglers.is_empty()
            && self.still_open.is_empty()
            && self.drained.iter().all(|drained| drained.cut == 0)
            && self.holdings.iter().all(|held| held.report.is_clean())
    }

    /// A process exit code: 0 for a clean stop, 1 for any other.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(!self.is_clean())
    }
}

impl fmt::Display for StopReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "stopped {} after {:.1} s of {:.1} s",
            self.reason,
            self.elapsed.as_secs_f64(),
            self.timeout.as_secs_f64()
        )?;
        if self.aborted {
            f.write_str(", cut short by a second request")?;
        }
        for Drained {
            name,
            finished,
            cut,
        } in &self.drained
        {
            write!(
                f,
                "\n  {name}: {finished} requests finished while draining, {cut} cut off"
            )?;
        }
        for (name, count) in &self.still_open {
            write!(f, "\n  {name}: {count} did not end, left behind")?;
        }
        let sum = |count: fn(&ClosedHolding) -> u64| self.holdings.iter().map(count).sum::<u64>();
        write!(
            f,
            "\n  holdings: {} closed, {} entries flushed, {} dropped, {} lost",
            self.holdings.len(),
            sum(|held| held.report.flushed),
            sum(|held| held.report.dropped),
            sum(|held| held.report.lost),
        )?;
        for held in self.holdings.iter().filter(|held| !held.report.is_clean()) {
            write!(f, "\n    {}: {} lost", held.name, held.report.lost)?;
            if held.report.timed_out {
                f.write_str(", out of time")?;
            }
            if let Some(error) = &held.report.error {
                write!(f, ", {error}")?;
            }
        }
        let aborted: usize = self.stragglers.values().sum();
        write!(
            f,
            "\n  tasks: {} ended, {aborted} aborted",
            self.tasks_ended
        )?;
        for (name, count) in &self.stragglers {
            write!(f, "\n    {name}: {count} aborted")?;
        }
        Ok(())
    }
}
