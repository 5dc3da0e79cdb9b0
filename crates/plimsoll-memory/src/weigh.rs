//! Weighing: a scope for each request of a kind, and what all of them took.

use crate::{
    Admission, Admitted, Ask, Attribution, Budget, BudgetMode, HeavyLog, HeavyRequest, MemoryStats,
    RetainedByGroup, Sample,
    admission::{Hold, Permit, Route},
    process::{self, Resident},
    stats::{BUCKETS, Histogram, bucket},
};
use plimsoll_alloc::{Entered, MemoryGroup, MemoryScope, mode_switches, untracked};
use plimsoll_core::{Clock, Name, RejectReason, stripe};
use std::{
    fmt, mem,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// Threads count in stripes of their own, so that they do not wait for each other's cache lines.
const STRIPES: usize = 4;

/// Weighs requests of one kind: those of a route, say, or the calls of an adapter.
///
/// Takes 700 bytes for each stripe of threads in use, four at the most.
pub struct Weigher {
    kind: Arc<Kind>,
    /// As [`encode`] says.
    budget: AtomicU64,
    /// Made when something is weighed first, since it takes one of the allocator's places.
    group: OnceLock<MemoryGroup>,
    stripes: [OnceLock<Arc<Weights>>; STRIPES],
}

struct Kind {
    name: Name,
    clock: Clock,
    heavy: HeavyLog,
    /// Who lets its requests in, if anybody does.
    route: Option<Arc<Route>>,
}

/// What one stripe of threads has weighed.
struct Weights {
    kind: Arc<Kind>,
    by_attribution: [AtomicU64; Attribution::ALL.len()],
    allocated: Sizes,
    peak: Sizes,
    left: Sizes,
    over_budget: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
}

#[derive(Default)]
struct Sizes {
    sum: AtomicU64,
    max: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// What is told of a request that was heavy, besides its sample.
struct About {
    began: u64,
    ended: Ended,
    budget: Option<Budget>,
    resident: Option<u64>,
}

/// A request has to ask whether it is let in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "that is all it says")]
pub struct MustAsk;

/// A request that the allocator counts for. Dropping it weighs it, and has to be the last thing it
/// does.
///
/// It is moved along with the request, and so is kept small.
pub struct Weighing {
    scope: MemoryScope,
    /// None once it has ended.
    weights: Option<Arc<Weights>>,
    hold: Hold,
    /// As [`encode`] says.
    budget: u64,
    began: u64,
    resident: Resident,
    /// How often the allocator's mode had been set when it began.
    switches: u32,
    attribution: Attribution,
}

/// What came of a request, for the log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(
    clippy::exhaustive_structs,
    reason = "whoever ends a request says all of it"
)]
pub struct Ended {
    /// Its method.
    pub method: Option<&'static str>,
    /// The status of its response, if it came to one.
    pub status: Option<u16>,
}

/// What is known of a request that nobody counts for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(
    clippy::exhaustive_structs,
    reason = "whoever ends a request says all of it"
)]
pub struct Bodies {
    /// Bytes of its bodies, in and out.
    pub bytes: u64,
    /// The largest piece of them that there was at a time.
    pub largest: u64,
    /// When it began, by the clock of its kind.
    pub began: u64,
}

// === impl Weigher ===

impl Weigher {
    /// Weighs what goes by this name. Whoever is heavy comes into the log.
    #[must_use]
    pub fn new(name: Name, heavy: HeavyLog, budget: Option<Budget>) -> Self {
        Self::with_clock(name, heavy, budget, Clock::new())
    }

    /// The same, with a clock that the caller has.
    #[must_use]
    pub fn with_clock(name: Name, heavy: HeavyLog, budget: Option<Budget>, clock: Clock) -> Self {
        Self {
            kind: Arc::new(Kind {
                name,
                clock,
                heavy,
                route: None,
            }),
            budget: AtomicU64::new(encode(budget)),
            group: OnceLock::new(),
            stripes: [const { OnceLock::new() }; STRIPES],
        }
    }

    /// Has requests ask before they begin, and has what they hold learned.
    #[must_use]
    pub fn admitted_by(self, admission: &Admission) -> Self {
        let Kind {
            name, clock, heavy, ..
        } = &*self.kind;
        let kind = Kind {
            name: *name,
            clock: clock.clone(),
            heavy: heavy.clone(),
            route: Some(admission.route(*name)),
        };
        Self {
            kind: Arc::new(kind),
            stripes: [const { OnceLock::new() }; STRIPES],
            ..self
        }
    }

    /// Whether a request is let in that [has to ask](Self::begin_at_once). Where nobody decides, everybody
    /// is.
    #[must_use]
    pub fn admit(&self, ask: &Ask) -> Admitted {
        match &self.kind.route {
            Some(route) => route.admit(ask),
            None => Admitted::Now(Permit::NOTHING),
        }
    }

    /// What it weighs.
    #[must_use]
    pub fn name(&self) -> Name {
        self.kind.name
    }

    /// The log of those that were heavy.
    #[must_use]
    pub fn heavy(&self) -> &HeavyLog {
        &self.kind.heavy
    }

    /// The budget of requests that have none of their own.
    #[must_use]
    #[inline]
    pub fn budget(&self) -> Option<Budget> {
        decode(self.budget.load(Relaxed))
    }

    /// Sets the budget of requests that begin from now on.
    pub fn set_budget(&self, budget: Option<Budget>) {
        self.budget.store(encode(budget), Relaxed);
    }

    /// The scopes of its requests. None before the first, and where the allocator does not count.
    #[must_use]
    pub fn group(&self) -> Option<&MemoryGroup> {
        self.group.get()
    }

    /// What time it is by the clock that this goes by, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.kind.clock.ticks()
    }

    /// Begins a request. Its own budget counts instead of that of its kind. None where the allocator
    /// does not count for it: say what is [known](Self::estimate) of it at its end, or that
    /// [nothing](Self::unknown) is.
    #[must_use]
    pub fn begin(&self, own: Option<Budget>) -> Option<Weighing> {
        self.begin_at(own, self.now())
    }

    /// Begins a request that began at a time, by the clock that this goes by.
    #[must_use]
    #[inline]
    pub fn begin_at(&self, own: Option<Budget>, began: u64) -> Option<Weighing> {
        self.begin_holding(own, began, Hold::Nothing)
    }

    /// Lets a request in, and begins it, if there is room for it for certain, and nobody has to know more of it
    /// than how many bytes its body is said to have. It is [weighed](Self::begin) where the allocator counts
    /// for it.
    ///
    /// # Errors
    ///
    /// When it has to [ask](Self::admit).
    #[inline]
    pub fn begin_at_once(
        &self,
        own: Option<Budget>,
        began: u64,
        declared: Option<u64>,
    ) -> Result<Option<Weighing>, MustAsk> {
        let hold = match &self.kind.route {
            Some(route) => route.admit_at_once(declared).ok_or(MustAsk)?,
            None => Hold::Nothing,
        };
        Ok(self.begin_holding(own, began, hold))
    }

    /// Begins a request that was let in. What is reserved for it is given back when it ends, and at
    /// once where the allocator does not count for it.
    #[must_use]
    pub fn begin_admitted(
        &self,
        own: Option<Budget>,
        began: u64,
        permit: Permit,
    ) -> Option<Weighing> {
        self.begin_holding(own, began, permit.take())
    }

    #[inline]
    fn begin_holding(&self, own: Option<Budget>, began: u64, hold: Hold) -> Option<Weighing> {
        let scope = self.scope();
        let route = self.kind.route.as_ref();
        let Some((scope, attribution)) = scope else {
            if let Some(route) = route {
                route.release(hold, None, 0);
            }
            return None;
        };
        if let Some(route) = route {
            route.runs(&hold, &scope);
        }
        let budget = match own {
            None => self.budget.load(Relaxed),
            own => encode(own),
        };
        if let Some(budget) = decode(budget) {
            scope.set_limit(budget.bytes());
        }
        Some(Weighing {
            scope,
            weights: Some(self.weights().clone()),
            hold,
            budget,
            began,
            resident: Resident::now(),
            switches: mode_switches(),
            attribution,
        })
    }

    #[inline]
    fn scope(&self) -> Option<(MemoryScope, Attribution)> {
        let attribution = Attribution::of_allocator()?;
        let group = self.counted_group()?;
        let scope = match MemoryScope::current() {
            Some(outer) => group.scope_within(&outer),
            None => group.scope(),
        };
        if !scope.is_counted() {
            // Without a place for it, it would be weighed as nothing.
            return None;
        }
        Some((scope, attribution))
    }

    /// Counts a request that has ended and nobody counted for, by what is known of its bodies.
    pub fn estimate(&self, bodies: &Bodies, ended: Ended) {
        self.weights().estimate(bodies, ended);
    }

    /// Counts a request that nobody counts for, and of which nothing is known.
    pub fn unknown(&self) {
        self.weights().count(Attribution::ProcessOnly);
    }

    /// What was weighed. It stops nobody. It looks at every scope of the process: for several kinds,
    /// have [`stats_with`](Self::stats_with) take one look.
    #[must_use]
    pub fn stats(&self) -> MemoryStats {
        self.stats_with(&RetainedByGroup::look())
    }

    /// What was weighed, and what is retained by a look that was taken before.
    #[must_use]
    pub fn stats_with(&self, retained: &RetainedByGroup) -> MemoryStats {
        let mut stats = MemoryStats::of(self.group.get(), retained, self.budget());
        for weights in self.stripes.iter().filter_map(OnceLock::get) {
            weights.add_to(&mut stats);
        }
        stats
    }

    /// The group, unless there is no place for it.
    #[inline]
    fn counted_group(&self) -> Option<&MemoryGroup> {
        self.group.get().or_else(|| self.make_group())
    }

    #[cold]
    fn make_group(&self) -> Option<&MemoryGroup> {
        let group = MemoryGroup::new();
        // Without a place it would be a group of nothing for as long as this lives.
        group.id()?;
        Some(self.group.get_or_init(|| group))
    }

    #[inline]
    fn weights(&self) -> &Arc<Weights> {
        self.stripes[stripe::current() % STRIPES].get_or_init(|| self.make_weights())
    }

    /// It stays, so it is not of the request around this one, if there is one.
    #[cold]
    fn make_weights(&self) -> Arc<Weights> {
        let weights = Weights {
            kind: self.kind.clone(),
            by_attribution: Default::default(),
            allocated: Sizes::default(),
            peak: Sizes::default(),
            left: Sizes::default(),
            over_budget: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        };
        untracked(|| Arc::new(weights))
    }
}

impl fmt::Debug for Weigher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weigher")
            .field("name", &self.name())
            .field("budget", &self.budget())
            .finish_non_exhaustive()
    }
}

/// A budget as one word: none is 0; else one more than its bytes, and in the lowest bit whether it is
/// enforced. Nobody holds half of the address space, where it ends.
fn encode(budget: Option<Budget>) -> u64 {
    budget.map_or(0, |budget| {
        let bytes = budget.bytes().min(u64::MAX >> 2) + 1;
        bytes << 1 | u64::from(budget.mode() == BudgetMode::Enforce)
    })
}

fn decode(word: u64) -> Option<Budget> {
    let bytes = (word >> 1).checked_sub(1)?;
    Some(match word & 1 {
        0 => Budget::observe(bytes),
        _ => Budget::enforce(bytes),
    })
}

// === impl Weights ===

impl Weights {
    #[inline]
    fn count(&self, attribution: Attribution) {
        self.by_attribution[attribution as usize].fetch_add(1, Relaxed);
    }

    fn record(&self, sample: &Sample) {
        self.count(sample.attribution);
        self.allocated.add(sample.allocated);
        self.peak.add(sample.peak);
        self.left.add(sample.left);
    }

    fn estimate(&self, bodies: &Bodies, ended: Ended) {
        let sample = Sample {
            allocated: bodies.bytes,
            peak: bodies.largest,
            left: 0,
            attribution: Attribution::Estimated,
        };
        // What it held at a time is for the log alone: nobody knows it.
        self.count(sample.attribution);
        self.allocated.add(sample.allocated);
        if sample.peak > self.kind.heavy.above() {
            let about = About {
                began: bodies.began,
                ended,
                budget: None,
                resident: None,
            };
            self.tell(sample, &about);
        }
    }

    /// Has a heavy one logged.
    #[cold]
    fn tell(&self, sample: Sample, about: &About) {
        let Kind {
            name, clock, heavy, ..
        } = &*self.kind;
        let took = clock.ticks().saturating_sub(about.began);
        heavy.push(HeavyRequest {
            name: *name,
            method: about.ended.method,
            status: about.ended.status,
            ended: SystemTime::now(),
            took: Duration::from_nanos(took),
            sample,
            budget: about.budget,
            resident: [about.resident, process::resident()],
            at: Instant::now(),
        });
    }

    fn add_to(&self, stats: &mut MemoryStats) {
        let mut all = 0;
        for (sum, count) in stats.by_attribution.iter_mut().zip(&self.by_attribution) {
            let count = count.load(Relaxed);
            *sum += count;
            all += count;
        }
        self.allocated.add_to(&mut stats.allocated, all);
        self.peak.add_to(&mut stats.peak, all);
        self.left.add_to(&mut stats.left, all);
        stats.over_budget += self.over_budget.load(Relaxed);
        stats.refused += self.refused.load(Relaxed);
        stats.cut += self.cut.load(Relaxed);
    }
}

impl Sizes {
    /// Most leave nothing, and many take nothing: those are told by how many there were in all.
    #[inline]
    fn add(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.buckets[bucket(bytes)].fetch_add(1, Relaxed);
        self.sum.fetch_add(bytes, Relaxed);
        if bytes > self.max.load(Relaxed) {
            self.max.fetch_max(bytes, Relaxed);
        }
    }

    /// Adds what so many requests took.
    fn add_to(&self, histogram: &mut Histogram, requests: u64) {
        histogram.sum += self.sum.load(Relaxed);
        histogram.max = histogram.max.max(self.max.load(Relaxed));
        let mut nothing = requests;
        for (sum, bucket) in histogram.buckets.iter_mut().zip(&self.buckets) {
            let count = bucket.load(Relaxed);
            *sum += count;
            // A request that ends just now may be in a bucket, and not among all of them.
            nothing = nothing.saturating_sub(count);
        }
        histogram.nothing += nothing;
    }
}

// === impl MustAsk ===

impl fmt::Display for MustAsk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request has to ask whether it is let in")
    }
}

impl std::error::Error for MustAsk {}

// === impl Weighing ===

impl Weighing {
    /// Has the thread allocate for the request until the guard is dropped.
    #[inline]
    pub fn enter(&self) -> Entered<'_> {
        self.scope.enter()
    }

    /// What it is one of; none once it has ended.
    #[must_use]
    pub fn name(&self) -> Option<Name> {
        Some(self.weights.as_ref()?.kind.name)
    }

    /// What it holds now, in bytes.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.scope.usage().live
    }

    /// How far what it holds can be trusted. It is estimated once somebody has
    /// [set the mode](plimsoll_alloc::set_mode) of the allocator, which may have missed some of it.
    #[must_use]
    #[inline]
    pub fn attribution(&self) -> Attribution {
        match mode_switches() == self.switches {
            true => self.attribution,
            false => Attribution::Estimated,
        }
    }

    /// The budget that it has.
    #[must_use]
    #[inline]
    pub fn budget(&self) -> Option<Budget> {
        decode(self.budget)
    }

    /// The budget that ends it, if it holds more than that now.
    #[must_use]
    #[inline]
    pub fn over_budget(&self) -> Option<Budget> {
        let budget = self.budget()?;
        let is_over = budget.mode() == BudgetMode::Enforce && self.live() > budget.bytes();
        (is_over && self.attribution() == Attribution::Exact).then_some(budget)
    }

    /// Why it is ended now, if it is: by its budget, or since it holds more than others when memory is
    /// short.
    #[must_use]
    #[inline]
    pub fn ended_by(&self) -> Option<RejectReason> {
        if self.hold.is_cancelled() {
            return Some(RejectReason::MemoryPressure);
        }
        self.over_budget().map(|_| RejectReason::OverBudget)
    }

    /// Says that it waits, and who is woken if it is to end.
    #[inline]
    pub fn waits(&mut self, waker: &Waker) {
        let Some(weights) = &self.weights else {
            return;
        };
        if let Some(route) = &weights.kind.route {
            // When it began is when it was let in, unless it had to wait.
            let age = || weights.kind.clock.ticks().saturating_sub(self.began);
            route.waits(&mut self.hold, &self.scope, waker, age);
        }
    }

    /// Says that its response has begun, and may take long.
    #[inline]
    pub fn answers(&mut self) {
        if let Some(weights) = &self.weights
            && let Some(route) = &weights.kind.route
        {
            route.answers(&mut self.hold);
        }
    }

    /// Counts that it is ended before there is a response, or instead of one.
    pub fn refused(&self) {
        if let Some(weights) = &self.weights {
            weights.refused.fetch_add(1, Relaxed);
        }
    }

    /// Counts that it is ended when its response has begun.
    pub fn cut(&self) {
        if let Some(weights) = &self.weights {
            weights.cut.fetch_add(1, Relaxed);
        }
    }

    /// Weighs it, and says what came of it.
    pub fn end(mut self, ended: Ended) {
        self.weigh(ended);
    }

    #[inline]
    fn weigh(&mut self, ended: Ended) {
        let Some(weights) = self.weights.take() else {
            return;
        };
        let usage = self.scope.usage();
        let sample = Sample {
            allocated: usage.allocated,
            peak: usage.peak,
            left: usage.live,
            attribution: self.attribution(),
        };
        if self
            .budget()
            .is_some_and(|budget| usage.peak > budget.bytes())
        {
            weights.over_budget.fetch_add(1, Relaxed);
        }
        weights.record(&sample);
        if let Some(route) = &weights.kind.route {
            let hold = mem::replace(&mut self.hold, Hold::Nothing);
            let known = sample.attribution == Attribution::Exact;
            route.release(hold, known.then_some(sample.peak), self.began);
        }
        if sample.peak > weights.kind.heavy.above() {
            let about = About {
                began: self.began,
                ended,
                budget: self.budget(),
                resident: self.resident.bytes(),
            };
            weights.tell(sample, &about);
        }
    }
}

impl Drop for Weighing {
    fn drop(&mut self) {
        self.weigh(Ended::default());
    }
}

impl fmt::Debug for Weighing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weighing")
            .field("scope", &self.scope)
            .field("budget", &self.budget())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_one_word_and_back() {
        for budget in [
            None,
            Some(Budget::observe(0)),
            Some(Budget::enforce(0)),
            Some(Budget::enforce(1 << 40)),
            Some(Budget::observe(u64::MAX >> 2)),
        ] {
            assert_eq!(decode(encode(budget)), budget);
        }
        // More than anybody has is as much as there can be.
        let most = decode(encode(Some(Budget::enforce(u64::MAX))));
        assert_eq!(most, Some(Budget::enforce(u64::MAX >> 2)));
    }
}
