//! Looks at the process, says how close it is to its line, and what is to be done about that.
//!
//! [`Monitor`] decides, without clock, lock or thread: it takes a time and [`Signals`], and returns a
//! [`Step`]. A thread of its own does what the step says, so that it goes on when no runtime has time
//! for it. [`MemoryManager`](crate::MemoryManager) is the handle to both.
//!
//! # The pressure
//!
//! One number, 1 at the line, which is 90 % of the limit by default:
//!
//! - What counts as *used* is the working set of the control group where that has the limit, or else
//!   what is resident, or else what is tracked. Pages of files that the kernel can drop do not count.
//! - What the allocator has free is no pressure, as long as it has not been asked for it in vain: what
//!   it kept when it was asked last is used, what it has more than then is not. Where the allocator
//!   does not tell what it has free, that is what is resident and not tracked. Only close below the
//!   line all of it counts more and more, since not every allocation fits into what is free.
//! - That tasks wait for memory raises it, but only where it is above 70 % anyway. That they wait for
//!   the CPU or a disk does not.
//! - Tasks and descriptors have limits and alerts of their own.
//!
//! # The level, and what is done at it
//!
//! | level | from, in percent of the line | what is done |
//! |---|---|---|
//! | [`Elevated`](crate::PressureLevel::Elevated) | 80 | what has expired goes, and what the allocator has free |
//! | [`High`](crate::PressureLevel::High) | 97 | holdings are shrunk as well |
//! | [`Critical`](crate::PressureLevel::Critical) | 100 | once three samples in a row were, the largest requests are ended as well, or counted |
//!
//! Requests that are let in as far as there is room for them may fill all up to the line. So it is no
//! reason to give anything up that memory is used, only that there is next to none left.
//!
//! Before the level rises from [`Normal`](crate::PressureLevel::Normal), room is made once, and it
//! does not rise if that was enough. It falls once the pressure was lower for a second, by five percent
//! of the line, since a service that is full goes up and down many times a second. There is an alert
//! when it rises, but of the same level or a lower one no more than once a minute; and one when memory
//! is no longer short, if there was one that it was.
//!
//! What cannot be read leaves everything as it was for some samples, and then the pressure is
//! unknown, which refuses and gives up nothing.

mod config;
mod figures;
#[cfg(feature = "metrics")]
mod publish;
#[cfg(test)]
pub(crate) mod script;
mod signals;
mod system;

pub use self::{
    config::MonitorConfig,
    figures::{Known, MemoryFigures},
    signals::{ProcessSource, Signals, Source},
    system::SystemSource,
};
use crate::{
    Alert, AlertKind, PressureChange, PressureLevel, Severity,
    pressure::{Edge, Levels, Trend},
    reclaim::{Ask, Depth, Why},
    show::{Percent, Rate, Size, Span},
};
use plimsoll_core::Pressure;
use std::time::Duration;
use tokio::time::Instant;

/// From here to the line what the allocator has free counts more and more.
const NEAR: f64 = 0.90;
/// Stalls count from this pressure on.
const STALLS_FROM: f64 = 0.70;
/// A share of time in stalls that does not count yet, and one that counts in full.
const STALL: [f64; 2] = [0.10, 0.60];
/// From this pressure on the process is looked at more often.
const WATCHED_FROM: f64 = 0.70;
/// How much more often.
const OFTEN: u32 = 5;
const LEAST_INTERVAL: Duration = Duration::from_millis(10);
/// Samples in a row with critical pressure before requests are ended.
const LASTING: u64 = 3;
/// How long the level waits for room to be made before it rises.
const WAIT_FOR_ROOM: Duration = Duration::from_millis(500);
/// Growth below this share of the line a second is none: half a percent a minute.
const LEAST_GROWTH: f64 = 0.005 / 60.0;
/// How long the pressure has to be lower for the level to fall. A service that is full goes up and down
/// many times a second.
const FALLS_AFTER: Duration = Duration::from_secs(1);
/// How long there is no other alert of a level that was told of.
const AGAIN: Duration = Duration::from_secs(60);
/// Seconds in a row in which the limit is near by the growth, before there is an alert.
const SECONDS_AHEAD: u32 = 3;

/// Decides by what it is told. See the [module docs](self).
#[derive(Debug)]
pub struct Monitor {
    config: MonitorConfig,
    now: Instant,
    levels: Levels,
    level_since: Instant,
    /// Since when the pressure has been lower than the level.
    lower_since: Option<Instant>,
    /// The level that there was an alert of last, when, and whether its end is to be told.
    alerted: Option<(PressureLevel, Instant)>,
    tells_end: bool,
    /// Since when the level has been elevated at least, and when to say next that it is.
    pressing: Option<(Instant, Instant)>,
    trend: Trend,
    last: MemoryFigures,
    samples: u64,
    failed: u64,
    failed_in_a_row: u64,
    /// Samples in a row with critical pressure.
    critical_in_a_row: u64,
    /// The least that was free in the allocator, or not known of, since it was asked last.
    kept: Option<u64>,
    asked: bool,
    /// When room was made last.
    room_made: Option<Instant>,
    /// Since when the level waits for room to be made.
    waiting: Option<Instant>,
    next_reclaim: Instant,
    next_cleanup: Instant,
    next_log: Instant,
    tasks: Edge,
    descriptors: Edge,
    ahead: bool,
    seconds_ahead: u32,
}

/// What a sample came to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Step {
    /// The figures.
    pub figures: MemoryFigures,
    /// The level has changed.
    pub change: Option<PressureChange>,
    /// What has begun or ended. Empty most of the time.
    pub alerts: Vec<Alert>,
    /// Whether it is time to log the figures.
    pub log: bool,
    /// When to look next.
    pub wait: Duration,
    /// Room is to be made.
    pub(crate) ask: Option<Ask>,
}

impl Step {
    /// Whether room is to be made.
    #[must_use]
    pub const fn reclaims(&self) -> bool {
        self.ask.is_some()
    }
}

/// What is used of which line, where both are known.
struct Use {
    used: u64,
    line: u64,
    reclaimable: u64,
    exact: bool,
}

impl Use {
    const fn held(&self) -> u64 {
        self.used.saturating_sub(self.reclaimable)
    }
}

impl Monitor {
    /// Makes a monitor that has seen nothing. Periods begin now.
    #[must_use]
    pub fn new(config: MonitorConfig, now: Instant) -> Self {
        Self {
            next_cleanup: after(now, config.cleanup_every),
            next_log: after(now, config.log_every),
            config,
            now,
            levels: Levels::default(),
            level_since: now,
            lower_since: None,
            alerted: None,
            tells_end: false,
            pressing: None,
            trend: Trend::default(),
            last: MemoryFigures::UNKNOWN,
            samples: 0,
            failed: 0,
            failed_in_a_row: 0,
            critical_in_a_row: 0,
            kept: None,
            asked: false,
            room_made: None,
            waiting: None,
            next_reclaim: now,
            tasks: Edge::default(),
            descriptors: Edge::default(),
            ahead: false,
            seconds_ahead: 0,
        }
    }

    /// Goes by another configuration from now on.
    pub fn reconfigure(&mut self, config: MonitorConfig) {
        if config.cleanup_every != self.config.cleanup_every {
            self.next_cleanup = after(self.now, config.cleanup_every);
        }
        if config.log_every != self.config.log_every {
            self.next_log = after(self.now, config.log_every);
        }
        self.config = config;
    }

    /// How many samples there were, and how many of them did not tell what is used of which limit.
    #[must_use]
    pub const fn samples(&self) -> (u64, u64) {
        (self.samples, self.failed)
    }

    /// Is told that room was made, as a step had asked for or somebody else.
    pub fn reclaimed(&mut self, now: Instant) {
        self.waiting = None;
        self.room_made = Some(now.max(self.now));
    }

    /// Is told that the allocator was asked for what it has free since the last sample.
    pub const fn purged(&mut self) {
        self.asked = true;
    }

    /// Takes a sample. A `now` before that of the last one counts as the same.
    pub fn step(&mut self, now: Instant, signals: &Signals) -> Step {
        let now = now.max(self.now);
        self.now = now;
        self.samples += 1;
        let mut alerts = Vec::new();
        let usage = self.read(signals);
        let figures = match &usage {
            Some(usage) => {
                self.failed_in_a_row = 0;
                self.figures(now, usage, signals)
            }
            None => {
                self.failed += 1;
                self.failed_in_a_row = self.failed_in_a_row.saturating_add(1);
                self.blind(signals)
            }
        };
        if usage.is_some() && self.last.limit != figures.limit {
            alerts.extend(self.limit_changed(&figures));
        }
        self.last = figures;

        let room_first = self.waits_for_room(now);
        let change = match room_first {
            true => None,
            false => self.rise_or_fall(now, &mut alerts),
        };
        self.last.level = self.levels.level();
        self.last.level_for = now.saturating_duration_since(self.level_since);
        self.persists(now, &mut alerts);
        self.look_ahead(&mut alerts);
        self.other_limits(&mut alerts);
        let ask = usage.and_then(|usage| self.ask(now, &usage, room_first, change));
        for alert in &mut alerts {
            alert.figures = Some(self.last);
        }
        Step {
            figures: self.last,
            change,
            alerts,
            log: self.log_is_due(now),
            wait: self.wait(),
            ask,
        }
    }

    fn read(&mut self, signals: &Signals) -> Option<Use> {
        let limit = self.config.limit_of(signals.limit);
        let (used, line) = signals.used().zip(self.config.line_of(limit))?;
        let slack = signals.allocator_free.or_else(|| signals.unattributed());
        let asked = std::mem::take(&mut self.asked);
        self.kept = match (slack, self.kept) {
            // It gave what it would.
            (Some(slack), _) if asked => Some(slack),
            (Some(slack), kept) => Some(kept.unwrap_or(slack).min(slack)),
            (None, _) => None,
        };
        let reclaimable = slack.zip(self.kept).map(|(slack, kept)| slack - kept);
        Some(Use {
            used,
            line,
            reclaimable: reclaimable.unwrap_or(0).min(used),
            exact: reclaimable.is_some(),
        })
    }

    fn figures(&mut self, now: Instant, usage: &Use, signals: &Signals) -> MemoryFigures {
        let held = usage.held();
        let limit = self.config.limit_of(signals.limit);
        if self.trend.add(now, held) {
            self.seconds_ahead = self.seconds_ahead.saturating_add(1);
        }
        let slope = self.trend.slope();
        let grows =
            slope.filter(|slope| *slope >= usage.line as f64 * LEAST_GROWTH && *slope > 0.0);
        let left = limit.unwrap_or(usage.line).saturating_sub(held);
        let time_to_limit =
            grows.and_then(|slope| Duration::try_from_secs_f64(left as f64 / slope).ok());
        MemoryFigures {
            pressure: pressure(usage, signals.stall),
            used: Some(usage.used),
            reclaimable: usage.reclaimable,
            limit,
            line: Some(usage.line),
            headroom: Some(usage.line.saturating_sub(held)),
            slope,
            time_to_limit,
            ..of(signals)
        }
    }

    /// Nobody knows what is used of which limit. For a while that changes nothing.
    fn blind(&mut self, signals: &Signals) -> MemoryFigures {
        if self.failed_in_a_row < self.config.unknown_after && self.last.pressure.value().is_some()
        {
            return self.last;
        }
        self.trend.clear();
        MemoryFigures {
            used: signals.used(),
            limit: self.config.limit_of(signals.limit),
            ..of(signals)
        }
    }

    /// Whether memory would begin to be short, and room has to be made before that is said.
    fn waits_for_room(&mut self, now: Instant) -> bool {
        let begins = self.next_level().is_pressing() && !self.levels.level().is_pressing();
        if !begins {
            self.waiting = None;
            return false;
        }
        if let Some(since) = self.waiting {
            return now.saturating_duration_since(since) < WAIT_FOR_ROOM;
        }
        let gap = self.config.purge_gap;
        let is_due = |last: Instant| now.saturating_duration_since(last) >= gap;
        self.room_made.is_none_or(is_due)
    }

    fn next_level(&self) -> PressureLevel {
        self.levels
            .next(self.last.pressure, &self.config.thresholds())
    }

    fn rise_or_fall(&mut self, now: Instant, alerts: &mut Vec<Alert>) -> Option<PressureChange> {
        let (from, to) = (self.levels.level(), self.next_level());
        // By the pressure itself, which may be below the level by the gap.
        let critical = self.config.thresholds().critical;
        let is_critical =
            to == PressureLevel::Critical && self.last.pressure.value() >= Some(critical);
        self.critical_in_a_row = match is_critical {
            // Nothing is ended by what was not seen.
            true if self.failed_in_a_row > 0 => self.critical_in_a_row,
            true => self.critical_in_a_row.saturating_add(1),
            false => 0,
        };
        let is_lower = to < from && to != PressureLevel::Unknown;
        if !is_lower {
            self.lower_since = None;
        } else {
            let since = *self.lower_since.get_or_insert(now);
            if now.saturating_duration_since(since) < FALLS_AFTER {
                return None;
            }
        }
        if from == to {
            return None;
        }
        self.lower_since = None;
        let change = PressureChange {
            from,
            to,
            pressure: self.last.pressure,
            lasted: now.saturating_duration_since(self.level_since),
        };
        self.levels.set(to);
        self.level_since = now;
        let pressing = self.pressing.map(|(since, _)| since);
        self.pressing = match (to.is_pressing(), self.pressing) {
            (true, None) => Some((now, now + self.config.persists)),
            (true, pressing) => pressing,
            (false, pressing) if to == PressureLevel::Unknown => pressing,
            (false, _) => None,
        };
        let used = Used(&self.last);
        let is_news = self
            .alerted
            .is_none_or(|(level, at)| to > level || now.saturating_duration_since(at) >= AGAIN);
        alerts.extend(match (pressing, to) {
            (Some(since), PressureLevel::Normal) if self.tells_end => {
                self.tells_end = false;
                let lasted = Span(now.saturating_duration_since(since));
                let text = format!("memory is no longer short, after {lasted}: {used}");
                Some(Alert::new(AlertKind::PressureEnded, Severity::Info, text))
            }
            (_, PressureLevel::Unknown) => {
                let text = format!("the pressure is unknown: {used}");
                Some(Alert::new(AlertKind::Blind, Severity::Warning, text))
            }
            (_, PressureLevel::Normal) => None,
            (_, to) if to > from && is_news => {
                self.alerted = Some((to, now));
                self.tells_end = true;
                let severity = match to {
                    PressureLevel::Elevated => Severity::Warning,
                    _ => Severity::Critical,
                };
                let text = format!("memory is short, the pressure is {to}: {used}");
                Some(Alert::new(AlertKind::Pressure, severity, text))
            }
            _ => None,
        });
        Some(change)
    }

    fn persists(&mut self, now: Instant, alerts: &mut Vec<Alert>) {
        let is_unknown = self.levels.level() == PressureLevel::Unknown;
        let Some((since, due)) = &mut self.pressing else {
            return;
        };
        if is_unknown || now < *due {
            return;
        }
        let lasted = now.saturating_duration_since(*since);
        *due = now + lasted.min(Duration::from_secs(86_400));
        self.tells_end = true;
        let (lasted, used) = (Span(lasted), Used(&self.last));
        let text = format!("memory has been short for {lasted}: {used}");
        let alert = Alert::new(AlertKind::PressurePersists, Severity::Critical, text);
        alerts.push(alert);
    }

    /// Whether the limit would be met soon if what is used goes on to grow.
    fn look_ahead(&mut self, alerts: &mut Vec<Alert>) {
        let time = self.last.time_to_limit.filter(|_| self.trend.is_full());
        let Some(ahead) = self.config.ahead else {
            self.ahead = false;
            return;
        };
        let is_near = time.is_some_and(|time| time <= ahead);
        let is_far = time.is_none_or(|time| time > ahead.saturating_mul(2));
        if !is_near {
            self.seconds_ahead = 0;
        }
        if is_far {
            self.ahead = false;
        }
        if let (false, true, Some(time)) = (self.ahead, self.seconds_ahead >= SECONDS_AHEAD, time) {
            self.ahead = true;
            let slope = Rate(self.last.slope.unwrap_or(0.0));
            let (time, used) = (Span(time), Used(&self.last));
            let text = format!("the memory limit is {time} ahead, at {slope}: {used}");
            alerts.push(Alert::new(AlertKind::Ahead, Severity::Warning, text));
        }
    }

    fn limit_changed(&self, figures: &MemoryFigures) -> Option<Alert> {
        let (before, after) = self.last.limit.zip(figures.limit)?;
        let severity = match after < before {
            true => Severity::Warning,
            false => Severity::Info,
        };
        let text = format!(
            "the memory limit is {} now, and was {}",
            Size(after),
            Size(before)
        );
        Some(Alert::new(AlertKind::LimitChanged, severity, text))
    }

    fn other_limits(&mut self, alerts: &mut Vec<Alert>) {
        const GAP: f64 = 0.1;
        let ratio = |count: Option<u64>, most: Option<u64>| {
            let (count, most) = count.zip(most)?;
            Some((count as f64 / most.max(1) as f64, count, most))
        };
        if let Some((share, count, most)) = ratio(self.last.tasks, self.config.max_tasks) {
            alerts.extend(self.tasks.set(share, 1.0, GAP).map(|begins| match begins {
                true => {
                    let text = format!("{count} tasks are alive, {most} are expected at the most");
                    Alert::new(AlertKind::Tasks, Severity::Warning, text)
                }
                false => {
                    let text = format!("no more than {count} tasks are alive any longer");
                    Alert::new(AlertKind::Tasks, Severity::Info, text)
                }
            }));
        }
        let at = self.config.descriptor_share();
        if let Some((share, count, most)) = ratio(self.last.descriptors, self.last.max_descriptors)
        {
            alerts.extend(self.descriptors.set(share, at, GAP).map(|begins| {
                let text = format!("{count} descriptors are open, {} of {most}", Percent(share));
                let severity = match begins {
                    true => Severity::Warning,
                    false => Severity::Info,
                };
                Alert::new(AlertKind::Descriptors, severity, text)
            }));
        }
    }

    fn ask(
        &mut self,
        now: Instant,
        usage: &Use,
        room_first: bool,
        change: Option<PressureChange>,
    ) -> Option<Ask> {
        let level = self.levels.level();
        let over = usage.used > usage.line;
        let most = match self.config.shrink {
            true => Depth::Shrink,
            false => Depth::Purge,
        };
        let is_due = now >= self.next_reclaim;
        let lasts = self.critical_in_a_row >= LASTING;
        let (why, depth, target) = if room_first {
            if self.waiting.is_some() {
                return None;
            }
            self.waiting = Some(now);
            (
                Why::Pressure,
                Depth::Purge,
                self.config.target_of(usage.line, PressureLevel::Elevated),
            )
        } else if level.is_pressing() {
            let rises = change.is_some_and(|change| change.to > change.from);
            if !(rises || is_due || self.critical_in_a_row == LASTING) {
                return None;
            }
            let depth = match level {
                PressureLevel::Critical if lasts => Depth::Cancel,
                PressureLevel::Critical | PressureLevel::High => most,
                _ => Depth::Purge,
            };
            (
                Why::Pressure,
                depth,
                self.config.target_of(usage.line, level),
            )
        } else if is_due && usage.used >= self.config.elevated_of(usage.line) {
            // What the allocator has free is no pressure, but it is somebody else's memory.
            (
                Why::Pressure,
                Depth::Purge,
                self.config.target_of(usage.line, PressureLevel::Elevated),
            )
        } else if now >= self.next_cleanup {
            self.next_cleanup = after(now, self.config.cleanup_every);
            let above = self.config.cleanup_above_of(usage.line);
            if usage.used <= above {
                return None;
            }
            (Why::Periodic, most, above)
        } else {
            return None;
        };
        let urgent = match over {
            true => Duration::from_millis(100),
            false => self.config.purge_gap,
        };
        self.next_reclaim = now + urgent.max(self.wait());
        let excess = usage.held().saturating_sub(target);
        let ask = self.config.ask_for(why, depth, excess, usage.exact);
        Some(Ask {
            purge_gap: urgent,
            ..ask
        })
    }

    fn log_is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next_log;
        if is_due {
            self.next_log = after(now, self.config.log_every);
        }
        is_due
    }

    fn wait(&self) -> Duration {
        let interval = self.config.interval;
        let watched = self.waiting.is_some()
            || self.levels.level().is_pressing()
            || self.last.pressure.value() >= Some(WATCHED_FROM);
        match watched {
            true => (interval / OFTEN).max(LEAST_INTERVAL).min(interval),
            false => interval,
        }
    }
}

fn pressure(usage: &Use, stall: Option<f64>) -> Pressure {
    let held = Pressure::of(usage.held(), Some(usage.line));
    let near = Pressure::of(usage.used, Some(usage.line)).scaled(NEAR, 1.0);
    let pressure = held.max(Pressure::new(near));
    let stall = stall.map_or(0.0, |stall| {
        let [from, to] = STALL;
        Pressure::new(stall).scaled(from, to)
    });
    match pressure.value() {
        Some(value) if value >= STALLS_FROM => Pressure::new((1.0 - value).mul_add(stall, value)),
        _ => pressure,
    }
}

/// What the signals say by themselves.
fn of(signals: &Signals) -> MemoryFigures {
    let Signals {
        limit: _,
        used: _,
        tracked,
        allocator_free: _,
        kept_blocks,
        resident,
        working_set,
        stall,
        tasks,
        descriptors,
        max_descriptors,
    } = *signals;
    MemoryFigures {
        tracked,
        kept_blocks,
        resident,
        working_set,
        unattributed: signals.unattributed(),
        stall,
        tasks,
        descriptors,
        max_descriptors,
        ..MemoryFigures::UNKNOWN
    }
}

/// A moment that is `period` from now, or as good as never.
fn after(now: Instant, period: Option<Duration>) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);
    now + period.unwrap_or(FAR).min(FAR)
}

/// `470 MiB used, line 460 MiB, limit 512 MiB`.
struct Used<'a>(&'a MemoryFigures);

impl std::fmt::Display for Used<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.used {
            Some(used) => write!(f, "{} used", Size(used))?,
            None => f.write_str("what is used is not known")?,
        }
        if let Some(line) = self.0.line {
            write!(f, ", line {}", Size(line))?;
        }
        match self.0.limit {
            Some(limit) => write!(f, ", limit {}", Size(limit)),
            None => f.write_str(", no limit known"),
        }
    }
}

#[cfg(test)]
mod tests;
