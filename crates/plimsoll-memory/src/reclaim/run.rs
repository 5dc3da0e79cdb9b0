use super::{
    CancelAsk, CancelLargest, Cancelled,
    cancel::Allowance,
    plan::{self, Candidate},
    purge::{Purge, Purged, Purger, Reach},
};
use crate::{
    BudgetMode,
    show::Size,
    worker::{Job, Progress, Turn},
};
use plimsoll_alloc::resident_bytes;
use plimsoll_core::{Name, Registry};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How many steps of one report are told one by one.
const MOST_STEPS: usize = 100;
/// How long to wait for somebody else who asks the allocator just now.
const WAIT: Duration = Duration::from_millis(500);
/// The least time between two purges, where it is urgent.
const LEAST_GAP: Duration = Duration::from_millis(100);

/// Why room is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Why {
    /// Memory is short.
    Pressure,
    /// It was time.
    Periodic,
    /// Somebody asked for it.
    Manual,
}

/// How far to go.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Depth {
    /// What has expired, and what the allocator has free.
    Purge,
    /// Besides, what is expendable.
    Shrink,
    /// Besides, the largest requests.
    Cancel,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ask {
    pub(crate) why: Why,
    pub(crate) depth: Depth,
    /// So many bytes are held that should not be, those left out that are free in the allocator.
    pub(crate) excess: u64,
    /// Whether what is free in the allocator was left out.
    pub(crate) exact: bool,
    /// Whether holdings are shrunk.
    pub(crate) shrink: bool,
    pub(crate) purge_gap: Duration,
    pub(crate) most_shrunk: f64,
    pub(crate) cancel: BudgetMode,
    pub(crate) cancel_floor: u64,
    pub(crate) cancel_rate: f64,
}

/// What was done about one holding, or by one step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ReclaimStep {
    /// What was done.
    pub kind: ReclaimKind,
    /// The holding that it was done to.
    pub name: Option<Name>,
    /// Entries, or requests, that went.
    pub entries: u64,
    /// Bytes that went with them.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// Whether it panicked.
    pub failed: bool,
}

/// The kinds of steps in which room is made.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum ReclaimKind {
    /// A holding dropped what had expired.
    Expire,
    /// The allocator gave back what it had free.
    Purge,
    /// A holding gave up what was expendable.
    Shrink,
    /// Requests were ended.
    Cancel,
    /// Requests were counted that would have been ended.
    WouldCancel,
}

/// Bytes and entries that went, by the kind of step.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Freed {
    /// Entries that had expired.
    pub expired: u64,
    /// By how many bytes holdings became smaller when swept.
    pub expired_bytes: u64,
    /// How often the allocator was asked.
    pub purges: u64,
    /// By how many bytes the process became smaller then.
    pub purged_bytes: u64,
    /// Entries that were expendable.
    pub shrunk: u64,
    /// By how many bytes holdings became smaller when shrunk.
    pub shrunk_bytes: u64,
    /// Requests that were ended.
    pub cancelled: u64,
    /// Bytes that they held.
    pub cancelled_bytes: u64,
    /// Requests that would have been ended.
    pub would_cancel: u64,
    /// Steps that panicked.
    pub failed: u64,
    /// Holdings that were left out, because an earlier step has not come back from them.
    pub left_out: u64,
}

/// What was done to make room.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ReclaimReport {
    /// Why.
    pub why: Why,
    /// Bytes of the process that were in memory before, where the system tells.
    pub before: Option<u64>,
    /// And after.
    pub after: Option<u64>,
    /// What went in all.
    pub freed: Freed,
    /// The first 100 steps that freed something, or failed, in their order.
    pub steps: Vec<ReclaimStep>,
    /// How many more there were.
    pub more_steps: u64,
    /// How long all of it took.
    pub took: Duration,
    /// When it ended.
    pub ended: Instant,
}

/// Whoever makes room.
pub(crate) struct Reclaimer {
    pub(crate) registry: Registry,
    pub(crate) purger: Arc<Purger>,
    pub(crate) cancel: Option<Arc<dyn CancelLargest>>,
    allowance: Mutex<Allowance>,
}

/// One time that room is made.
struct Run<'a> {
    parts: &'a Reclaimer,
    ask: &'a Ask,
    progress: &'a Progress<'a, Reclaimer>,
    report: ReclaimReport,
}

impl Why {
    /// The reason as a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pressure => "pressure",
            Self::Periodic => "periodic",
            Self::Manual => "manual",
        }
    }
}

impl ReclaimKind {
    /// The kind as a word for people and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expire => "expire",
            Self::Purge => "purge",
            Self::Shrink => "shrink",
            Self::Cancel => "cancel",
            Self::WouldCancel => "would_cancel",
        }
    }
}

impl Freed {
    /// Adds up.
    pub(crate) fn add(&mut self, step: &ReclaimStep) {
        let (entries, bytes) = match step.kind {
            ReclaimKind::Expire => (&mut self.expired, Some(&mut self.expired_bytes)),
            ReclaimKind::Purge => (&mut self.purges, Some(&mut self.purged_bytes)),
            ReclaimKind::Shrink => (&mut self.shrunk, Some(&mut self.shrunk_bytes)),
            ReclaimKind::Cancel => (&mut self.cancelled, Some(&mut self.cancelled_bytes)),
            ReclaimKind::WouldCancel => (&mut self.would_cancel, None),
        };
        *entries = entries.saturating_add(step.entries);
        if let Some(bytes_before) = bytes {
            *bytes_before = bytes_before.saturating_add(step.bytes);
        }
        self.failed = self.failed.saturating_add(u64::from(step.failed));
    }

    fn add_all(&mut self, other: &Self) {
        let Self {
            expired,
            expired_bytes,
            purges,
            purged_bytes,
            shrunk,
            shrunk_bytes,
            cancelled,
            cancelled_bytes,
            would_cancel,
            failed,
            left_out,
        } = other;
        for (sum, more) in [
            (&mut self.expired, expired),
            (&mut self.expired_bytes, expired_bytes),
            (&mut self.purges, purges),
            (&mut self.purged_bytes, purged_bytes),
            (&mut self.shrunk, shrunk),
            (&mut self.shrunk_bytes, shrunk_bytes),
            (&mut self.cancelled, cancelled),
            (&mut self.cancelled_bytes, cancelled_bytes),
            (&mut self.would_cancel, would_cancel),
            (&mut self.failed, failed),
            (&mut self.left_out, left_out),
        ] {
            *sum = sum.saturating_add(*more);
        }
    }
}

impl ReclaimReport {
    /// By how many bytes the process became smaller, where the system tells. What was allocated
    /// meanwhile counts against it.
    #[must_use]
    pub fn given_back(&self) -> Option<u64> {
        Some(self.before?.saturating_sub(self.after?))
    }

    fn push(&mut self, step: ReclaimStep) {
        self.freed.add(&step);
        if step.entries == 0 && step.bytes == 0 && !step.failed {
            return;
        }
        if self.steps.len() < MOST_STEPS {
            self.steps.push(step);
        } else {
            self.more_steps += 1;
        }
    }
}

impl Reclaimer {
    pub(crate) fn new(
        registry: Registry,
        purger: Arc<Purger>,
        cancel: Option<Arc<dyn CancelLargest>>,
    ) -> Self {
        Self {
            registry,
            purger,
            cancel,
            allowance: Mutex::default(),
        }
    }
}

impl Job for Reclaimer {
    type Ask = Ask;
    type Done = ReclaimReport;
    type Sum = Freed;

    const THREAD: &'static str = "plimsoll-reclaim";
    const WHEN: &'static str = "memory was wanted";
    const STOPS: &'static str = "no more room is made";

    fn run(&self, ask: &Ask, progress: &Progress<'_, Self>) -> ReclaimReport {
        let began = Instant::now();
        let before = resident_bytes();
        let mut run = Run {
            parts: self,
            ask,
            progress,
            report: ReclaimReport {
                why: ask.why,
                before,
                after: before,
                freed: Freed::default(),
                steps: Vec::new(),
                more_steps: 0,
                took: Duration::ZERO,
                ended: began,
            },
        };
        run.all();
        let mut report = run.report;
        report.after = resident_bytes();
        report.ended = Instant::now();
        report.took = report.ended.saturating_duration_since(began);
        log(&report);
        report
    }

    fn add(sum: &mut Freed, report: &ReclaimReport) {
        sum.add_all(&report.freed);
    }
}

impl Run<'_> {
    fn all(&mut self) {
        self.expire();
        let gap = self.ask.purge_gap.max(LEAST_GAP);
        self.purge(gap);
        if self.ask.shrink && self.ask.depth >= Depth::Shrink && self.wanted() > 0 {
            self.shrink();
            if self.report.freed.shrunk_bytes > 0 {
                // What holdings gave up is free in the allocator now, where nobody else has it from.
                self.purge(Duration::ZERO);
            }
        }
        if self.ask.depth >= Depth::Cancel && self.wanted() > 0 {
            self.cancel();
        }
    }

    /// How many bytes too many are held still.
    fn wanted(&self) -> u64 {
        let Freed {
            expired_bytes,
            purged_bytes,
            shrunk_bytes,
            ..
        } = self.report.freed;
        // What a purge gave back was not held, where that is known. Where it is not, that is all there
        // is to go by, besides what was shrunk since.
        let freed = match self.ask.exact {
            true => expired_bytes.saturating_add(shrunk_bytes),
            false => purged_bytes.max(expired_bytes.saturating_add(shrunk_bytes)),
        };
        self.ask.excess.saturating_sub(freed)
    }

    fn expire(&mut self) {
        for name in self.parts.registry.names() {
            let Some(_turn) = self.turn(name) else {
                continue;
            };
            let registry = &self.parts.registry;
            let bytes = || Some(registry.shrink_policy(name.as_str()).ok()??.0.bytes);
            let before = bytes();
            // One that has gone meanwhile has nothing to report.
            let Ok(swept) = registry.blocking_sweep(name.as_str()) else {
                continue;
            };
            let after = bytes();
            let expired = swept.removed.total();
            let freed = before.zip(after).filter(|_| expired > 0);
            self.report.push(ReclaimStep {
                kind: ReclaimKind::Expire,
                name: Some(name),
                entries: expired,
                bytes: freed.map_or(0, |(before, after)| before.saturating_sub(after)),
                took: swept.elapsed,
                failed: swept.panicked,
            });
        }
    }

    fn purge(&mut self, gap: Duration) {
        let reach = match self.ask.why {
            Why::Manual => Reach::All,
            Why::Pressure | Why::Periodic => Reach::Small,
        };
        let (entries, purge) = match self.parts.purger.purge(reach, gap, WAIT) {
            Purged::Led(purge) => (1, purge),
            // Whoever led counts it.
            Purged::Followed(_) | Purged::TooSoon | Purged::Busy => return,
        };
        let Purge { took, freed, .. } = purge;
        self.report.push(ReclaimStep {
            kind: ReclaimKind::Purge,
            name: None,
            entries,
            bytes: freed.unwrap_or(0),
            took,
            failed: false,
        });
    }

    fn shrink(&mut self) {
        let names = self.parts.registry.names();
        let candidates: Vec<_> = names
            .into_iter()
            .filter_map(|name| {
                let _turn = self.turn(name)?;
                let known = self.parts.registry.shrink_policy(name.as_str());
                let (usage, policy) = known.ok()??;
                let bytes = usage.bytes;
                Some(Candidate {
                    name,
                    bytes,
                    policy,
                })
            })
            .collect();
        for group in plan::by_priority(candidates) {
            let wanted = self.wanted();
            if wanted == 0 {
                break;
            }
            for (name, share) in plan::shares(&group, wanted, self.ask.most_shrunk) {
                let Some(_turn) = self.turn(name) else {
                    continue;
                };
                let Ok(shrunk) = self.parts.registry.shrink(name.as_str(), share) else {
                    continue;
                };
                self.report.push(ReclaimStep {
                    kind: ReclaimKind::Shrink,
                    name: Some(name),
                    entries: shrunk.removed.total(),
                    bytes: shrunk.freed_bytes,
                    took: shrunk.elapsed,
                    failed: shrunk.panicked,
                });
            }
        }
    }

    fn cancel(&mut self) {
        let Some(cancel) = &self.parts.cancel else {
            return;
        };
        let Some(_turn) = self.turn(Name::from_static("requests")) else {
            return;
        };
        let began = Instant::now();
        // Not held while others are called.
        let allowance = || {
            let allowance = self.parts.allowance.lock();
            allowance.unwrap_or_else(PoisonError::into_inner)
        };
        let at_most = allowance().at(began, self.ask.cancel_rate);
        if at_most == 0 {
            return;
        }
        let ask = CancelAsk::new(
            self.ask.cancel_floor,
            self.wanted(),
            at_most,
            self.ask.cancel,
        );
        let cancelled = catch_unwind(AssertUnwindSafe(|| cancel.cancel_largest(&ask)));
        let failed = cancelled.is_err();
        let Cancelled { requests, bytes } = cancelled.unwrap_or_default();
        allowance().take(requests);
        let kind = match self.ask.cancel {
            BudgetMode::Enforce => ReclaimKind::Cancel,
            BudgetMode::Observe => ReclaimKind::WouldCancel,
        };
        self.report.push(ReclaimStep {
            kind,
            name: None,
            entries: requests,
            bytes,
            took: Instant::now().saturating_duration_since(began),
            failed,
        });
    }
}

impl<'a> Run<'a> {
    /// Says that it is this one's turn now. None if it is to be left out.
    fn turn(&mut self, name: Name) -> Option<Turn<'a, Reclaimer>> {
        let turn = self.progress.turn(name);
        if turn.is_none() {
            self.report.freed.left_out += 1;
        }
        turn
    }
}

fn log(report: &ReclaimReport) {
    let ReclaimReport {
        why,
        before,
        after,
        freed,
        steps,
        more_steps,
        took,
        ..
    } = report;
    for step in steps {
        let ReclaimStep {
            kind,
            name,
            entries,
            bytes,
            took,
            failed,
        } = step;
        let name = name.map_or("", Name::as_str);
        let kind = kind.as_str();
        tracing::debug!(kind, name, entries, bytes, ?took, failed, "made room");
    }
    let Freed {
        expired_bytes,
        purged_bytes,
        shrunk_bytes,
        cancelled,
        would_cancel,
        failed,
        left_out,
        ..
    } = freed;
    let why = why.as_str();
    if steps.is_empty() && *left_out == 0 {
        tracing::debug!(why, ?took, "there was no room to make");
        return;
    }
    tracing::info!(
        why,
        before = before.map(Size).map(tracing::field::display),
        after = after.map(Size).map(tracing::field::display),
        expired = %Size(*expired_bytes),
        purged = %Size(*purged_bytes),
        shrunk = %Size(*shrunk_bytes),
        by = %By(steps),
        cancelled,
        would_cancel,
        failed,
        left_out,
        more_steps,
        ?took,
        "made room"
    );
}

/// Who gave up how much, the three that gave up the most.
struct By<'a>(&'a [ReclaimStep]);

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut named: Vec<_> = self.0.iter().filter(|step| step.name.is_some()).collect();
        named.sort_by_key(|step| std::cmp::Reverse(step.bytes));
        let mut separator = "";
        for step in named.into_iter().take(3) {
            let name = step.name.map_or("", Name::as_str);
            write!(f, "{separator}{name} {}", Size(step.bytes))?;
            separator = ", ";
        }
        Ok(())
    }
}

impl fmt::Debug for Reclaimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reclaimer")
            .field("registry", &self.registry)
            .field("purger", &self.purger)
            .field("cancel", &self.cancel.is_some())
            .finish_non_exhaustive()
    }
}
