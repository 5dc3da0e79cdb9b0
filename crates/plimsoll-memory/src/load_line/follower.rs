//! What follows each sample: the line and what is shed, who is asked what they hold, what is told of leaks.

use super::{
    Held,
    findings::{Findings, OLD_AFTER, is_old},
    holders::{Answer, Holders},
    lock,
};
use crate::{
    Admission, Alert, AlertKind, Alerts, MemoryFigures, Severity,
    history::Point,
    room::Room,
    show::{Percent, Rate, Size, Span},
    verdict::{LeakKind, Verdict},
    worker::Worker,
};
use plimsoll_alloc::Reclaim;
use plimsoll_core::Name;
use std::{
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// How often everybody is asked what they hold, and it is looked for what leaks.
const JUDGED_EVERY: Duration = Duration::from_secs(1);
/// How long memory has to be short, on average, for the allocator to be told to be frugal.
const FRUGAL_AFTER: f64 = 1.0;
/// Of that time, how much it has to be short for that, and for how little it need not be any longer.
const FRUGAL_FROM: f64 = 0.6;
const FRUGAL_UNTIL: f64 = 0.2;

/// What follows each sample.
pub(super) struct Follower {
    pub(super) admission: Admission,
    pub(super) alerts: Alerts,
    pub(super) allocator: Option<&'static (dyn Reclaim + Sync)>,
    pub(super) room: Option<Arc<Mutex<Room>>>,
    pub(super) asker: Arc<Worker<Holders>>,
    /// The number of the answer that was taken note of last.
    pub(super) answer: u64,
    pub(super) known: Arc<Mutex<Findings>>,
    pub(super) judged: Option<Instant>,
    pub(super) frugality: Frugality,
}

/// Whether the allocator is to give back at once what is free.
#[derive(Default)]
pub(super) struct Frugality {
    pub(super) share: f64,
    pub(super) at: Option<Instant>,
    pub(super) is_on: bool,
}

// === impl Follower ===

impl Follower {
    /// Does what follows a sample.
    pub(super) fn follow(&mut self, now: Instant, figures: &MemoryFigures) {
        if let Some(room) = &self.room {
            lock(room).set_line(figures.line);
        }
        self.admission.set_line(figures.line);
        let (crowded, of) = self.admission.crowded(figures);
        match shed(figures) {
            short if short >= crowded => self.admission.set_shed(short),
            _ => self.admission.shed(crowded, of),
        }
        let stats = self.admission.stats();
        tracing::trace!(?stats, "admission");
        if let Some(allocator) = self.allocator {
            self.frugality.follow(now, stats.is_short, allocator);
        }
        // First: what is asked for below is of the time after.
        let answer = self.look_after_holders(now);
        let judges = self
            .judged
            .is_none_or(|at| now.saturating_duration_since(at) >= JUDGED_EVERY);
        let mut findings = lock(&self.known);
        findings.asking = self.asker.stats();
        findings.silent = self.asker.silent(now, OLD_AFTER);
        if let Some(answer) = answer {
            findings.hear(&answer, figures.limit);
        }
        let in_flight = match findings.age(now) {
            Some(age) if !is_old(&age) => findings.in_flight,
            _ => None,
        };
        let point = point(figures, in_flight, stats.refused());
        findings.history.record(now, point);
        if !judges {
            return;
        }
        self.judged = Some(now);
        // While somebody does not answer the thread is busy, and nobody is asked.
        self.asker.submit(now);
        findings.look_at(&self.admission, now);
        for it in of_the_process(figures, stats.held) {
            findings.observe(now, &it);
        }
        let judgement = findings.leaks.judge(now, figures.headroom);
        findings.standing = judgement.standing;
        let begun: Vec<_> = findings
            .standing
            .iter()
            .filter(|it| it.is_new)
            .copied()
            .collect();
        drop(findings);
        begun
            .iter()
            .for_each(|verdict| self.alerts.raise(&begins(verdict)));
        for verdict in &judgement.ended {
            let text = format!("{} {} grows no longer", verdict.kind, verdict.name);
            let alert = Alert::new(AlertKind::Leak, Severity::Info, text);
            self.alerts.raise(&alert.about(verdict.name));
        }
    }

    /// Leaves those behind who do not come back. Returns what the others said, once.
    fn look_after_holders(&mut self, now: Instant) -> Option<Arc<Answer>> {
        let seen = self.asker.watch(now);
        Worker::<Holders>::tell(&seen, &self.alerts);
        let (number, answer) = self.asker.last()?;
        let before = mem::replace(&mut self.answer, number);
        (number != before).then_some(answer)
    }
}

/// Nobody is refused, and the allocator is not slowed down, by what nobody looks at any more.
impl Drop for Follower {
    fn drop(&mut self) {
        self.asker.close();
        self.admission.set_line(None);
        self.admission.set_shed(0.0);
        if let Some(room) = &self.room {
            lock(room).leave();
        }
        if let (true, Some(allocator)) = (self.frugality.is_on, self.allocator) {
            allocator.set_frugal(false);
        }
    }
}

// === impl Frugality ===

impl Frugality {
    /// Memory is short, or not, since this sample.
    pub(super) fn follow(&mut self, now: Instant, is_short: bool, allocator: &dyn Reclaim) {
        let passed = self
            .at
            .replace(now)
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let weight = 1.0 - (-passed.as_secs_f64() / FRUGAL_AFTER).exp();
        self.share += (f64::from(u8::from(is_short)) - self.share) * weight;
        let turns_on = !self.is_on && self.share > FRUGAL_FROM;
        let turns_off = self.is_on && self.share < FRUGAL_UNTIL;
        if turns_on || turns_off {
            self.is_on = turns_on;
            allocator.set_frugal(turns_on);
            tracing::debug!(frugal = turns_on, "the allocator gives back what is free");
        }
    }
}

/// What there is of the process as a whole.
pub(super) fn of_the_process(
    figures: &MemoryFigures,
    in_flight: u64,
) -> impl Iterator<Item = Held> {
    const PROCESS: Name = Name::from_static("process");
    const DESCRIPTORS: Name = Name::from_static("descriptors");
    let used = figures
        .used
        .map(|used| used.saturating_sub(figures.reclaimable));
    let process = figures.tracked.or(used).map(|held| Held {
        kind: LeakKind::Process,
        name: PROCESS,
        // What requests hold goes with them.
        held: held.saturating_sub(in_flight),
        bound: None,
    });
    let descriptors = figures.descriptors.map(|open| Held {
        kind: LeakKind::Descriptors,
        name: DESCRIPTORS,
        held: open,
        bound: figures.max_descriptors,
    });
    process.into_iter().chain(descriptors)
}

/// How much is shed: nothing at the line, all halfway from there to the limit.
pub(super) fn shed(figures: &MemoryFigures) -> f64 {
    let (Some(used), Some(line), Some(limit)) = (figures.used, figures.line, figures.limit) else {
        return 0.0;
    };
    let over = used
        .saturating_sub(figures.reclaimable)
        .saturating_sub(line);
    let most = (limit.saturating_sub(line) / 2).max(1);
    (over as f64 / most as f64).min(1.0)
}

const fn point(figures: &MemoryFigures, in_flight: Option<u64>, refused: u64) -> Point {
    Point {
        used: figures.used,
        tracked: figures.tracked,
        resident: figures.resident,
        limit: figures.limit,
        pressure: figures.pressure,
        tasks: figures.tasks,
        in_flight,
        refused,
    }
}

fn begins(verdict: &Verdict) -> Alert {
    let Verdict {
        kind,
        name,
        slope,
        confidence,
        held,
        time_to_limit,
        ..
    } = verdict;
    let mut text = match kind.is_in_bytes() {
        true => format!(
            "{kind} {name} leaks {}, holds {}",
            Rate(*slope),
            Size(*held)
        ),
        false => format!("{kind} {name} grows by {slope:.1} a second, to {held}"),
    };
    text.push_str(&format!(", confidence {}", Percent(*confidence)));
    if let Some(time) = time_to_limit {
        text.push_str(&format!(", limit in {}", Span(*time)));
    }
    Alert::new(AlertKind::Leak, Severity::Warning, text).about(*name)
}
