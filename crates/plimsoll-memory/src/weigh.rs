//! Weighing: a scope for each request of a kind, and what all of them took.

use crate::{
    Attribution, Budget, BudgetMode, HeavyLog, HeavyRequest, MemoryStats, RetainedByGroup, Sample,
    process,
    stats::{BUCKETS, Histogram, bucket},
};
use plimsoll_alloc::{Entered, MemoryGroup, MemoryScope, untracked};
use plimsoll_core::{Clock, Name, stripe};
use std::{
    borrow::Borrow,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU16, AtomicU64, Ordering::Relaxed},
    },
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

/// A request that has begun.
#[derive(Debug)]
#[allow(
    clippy::exhaustive_enums,
    reason = "whoever begins one has to follow it"
)]
pub enum Begun {
    /// The allocator counts for it.
    Weighed(Weighing),
    /// Nobody does.
    Estimated(Estimate),
}

/// A request that the allocator counts for. Dropping it weighs it, and has to be the last thing it
/// does.
pub struct Weighing {
    scope: MemoryScope,
    attribution: Attribution,
    course: Course,
}

/// A request of which only the bytes of its bodies are known. Dropping it ends it.
pub struct Estimate {
    bytes: u64,
    largest: u64,
    /// That of the process until something is said of its bodies.
    attribution: Attribution,
    course: Course,
}

/// What is told of a request that was heavy.
struct Course {
    weights: Arc<Weights>,
    budget: Option<Budget>,
    /// When it began, by the clock of its kind.
    began: u64,
    resident: Option<u64>,
    method: Option<&'static str>,
    /// 0 if there was no response.
    status: AtomicU16,
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
            kind: Arc::new(Kind { name, clock, heavy }),
            budget: AtomicU64::new(encode(budget)),
            group: OnceLock::new(),
            stripes: [const { OnceLock::new() }; STRIPES],
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

    /// Begins a request. Its own budget counts instead of that of its kind.
    #[must_use]
    pub fn begin(&self, own: Option<Budget>) -> Begun {
        self.begin_at(own, self.kind.clock.ticks())
    }

    /// Begins a request that began at so many ticks of the clock that this was made with.
    #[must_use]
    #[inline]
    pub fn begin_at(&self, own: Option<Budget>, began: u64) -> Begun {
        let course = Course {
            weights: self.weights().clone(),
            budget: own.or_else(|| self.budget()),
            began,
            resident: process::resident(),
            method: None,
            status: AtomicU16::new(0),
        };
        let counted = Attribution::of_allocator().and_then(|attribution| {
            let group = self.counted_group()?;
            let scope = match MemoryScope::current() {
                Some(outer) => group.scope_within(&outer),
                None => group.scope(),
            };
            // Without a place for it, it would be weighed as nothing.
            scope.is_counted().then_some((scope, attribution))
        });
        let Some((scope, attribution)) = counted else {
            return Begun::Estimated(Estimate {
                bytes: 0,
                largest: 0,
                attribution: Attribution::ProcessOnly,
                course,
            });
        };
        if let Some(budget) = course.budget {
            scope.set_limit(budget.bytes());
        }
        Begun::Weighed(Weighing {
            scope,
            attribution,
            course,
        })
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
    fn record(&self, sample: &Sample) {
        self.by_attribution[sample.attribution as usize].fetch_add(1, Relaxed);
        self.allocated.add(sample.allocated);
        self.peak.add(sample.peak);
        self.left.add(sample.left);
    }

    fn add_to(&self, stats: &mut MemoryStats) {
        for (sum, count) in stats.by_attribution.iter_mut().zip(&self.by_attribution) {
            *sum += count.load(Relaxed);
        }
        self.allocated.add_to(&mut stats.allocated);
        self.peak.add_to(&mut stats.peak);
        self.left.add_to(&mut stats.left);
        stats.over_budget += self.over_budget.load(Relaxed);
        stats.refused += self.refused.load(Relaxed);
        stats.cut += self.cut.load(Relaxed);
    }
}

impl Sizes {
    #[inline]
    fn add(&self, bytes: u64) {
        self.buckets[bucket(bytes)].fetch_add(1, Relaxed);
        if bytes == 0 {
            return;
        }
        self.sum.fetch_add(bytes, Relaxed);
        if bytes > self.max.load(Relaxed) {
            self.max.fetch_max(bytes, Relaxed);
        }
    }

    fn add_to(&self, histogram: &mut Histogram) {
        histogram.sum += self.sum.load(Relaxed);
        histogram.max = histogram.max.max(self.max.load(Relaxed));
        for (sum, bucket) in histogram.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load(Relaxed);
        }
    }
}

// === impl Weighing ===

impl Weighing {
    /// Has the thread allocate for the request until the guard is dropped.
    #[inline]
    pub fn enter(&self) -> Entered<'_> {
        self.scope.enter()
    }

    /// What it is one of.
    #[must_use]
    pub fn name(&self) -> Name {
        self.course.weights.kind.name
    }

    /// What it holds now, in bytes.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.scope.usage().live
    }

    /// How far what it holds can be trusted. Less than at first if the allocator counts less by now.
    #[must_use]
    #[inline]
    pub fn attribution(&self) -> Attribution {
        let now = Attribution::of_allocator().unwrap_or(Attribution::Estimated);
        self.attribution.max(now)
    }

    /// The budget that it has.
    #[must_use]
    #[inline]
    pub const fn budget(&self) -> Option<Budget> {
        self.course.budget
    }

    /// The budget that ends it, if it holds more than that now.
    #[must_use]
    #[inline]
    pub fn over_budget(&self) -> Option<Budget> {
        let budget = self.course.budget?;
        let enforced = budget.mode() == BudgetMode::Enforce;
        let is_over = enforced && self.scope.check().is_err();
        (is_over && self.attribution() == Attribution::Exact).then_some(budget)
    }

    /// Counts that it is ended before there is a response, or instead of one.
    pub fn refused(&self) {
        self.course.weights.refused.fetch_add(1, Relaxed);
    }

    /// Counts that it is ended when its response has begun.
    pub fn cut(&self) {
        self.course.weights.cut.fetch_add(1, Relaxed);
    }

    /// Says which method it has, for the log.
    pub const fn set_method(&mut self, method: &'static str) {
        self.course.method = Some(method);
    }

    /// Says which status the response has, for the log.
    pub fn set_status(&self, status: u16) {
        self.course.status.store(status, Relaxed);
    }
}

impl Borrow<MemoryScope> for Weighing {
    fn borrow(&self) -> &MemoryScope {
        &self.scope
    }
}

impl Drop for Weighing {
    fn drop(&mut self) {
        let usage = self.scope.usage();
        let sample = Sample {
            allocated: usage.allocated,
            peak: usage.peak,
            left: usage.live,
            attribution: self.attribution(),
        };
        if usage.limit.is_some_and(|limit| usage.peak > limit) {
            self.course.weights.over_budget.fetch_add(1, Relaxed);
        }
        self.course.end(sample);
    }
}

impl fmt::Debug for Weighing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weighing")
            .field("name", &self.course.weights.kind.name)
            .field("scope", &self.scope)
            .field("budget", &self.course.budget)
            .finish_non_exhaustive()
    }
}

// === impl Estimate ===

impl Estimate {
    /// There is a piece of a body, in or out, or all of it at once.
    pub const fn add(&mut self, bytes: u64) {
        self.attribution = Attribution::Estimated;
        self.bytes = self.bytes.saturating_add(bytes);
        if bytes > self.largest {
            self.largest = bytes;
        }
    }

    /// Says which method it has, for the log.
    pub const fn set_method(&mut self, method: &'static str) {
        self.course.method = Some(method);
    }

    /// Says which status the response has, for the log.
    pub fn set_status(&self, status: u16) {
        self.course.status.store(status, Relaxed);
    }
}

impl Drop for Estimate {
    fn drop(&mut self) {
        self.course.end(Sample {
            allocated: self.bytes,
            peak: self.largest,
            left: 0,
            attribution: self.attribution,
        });
    }
}

impl fmt::Debug for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Estimate")
            .field("name", &self.course.weights.kind.name)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

// === impl Course ===

impl Course {
    #[inline]
    fn end(&self, sample: Sample) {
        self.weights.record(&sample);
        if sample.peak > self.weights.kind.heavy.above() {
            self.tell(sample);
        }
    }

    #[cold]
    fn tell(&self, sample: Sample) {
        let Kind { name, clock, heavy } = &*self.weights.kind;
        let took = clock.ticks().saturating_sub(self.began);
        heavy.push(HeavyRequest {
            name: *name,
            method: self.method,
            status: Some(self.status.load(Relaxed)).filter(|status| *status != 0),
            ended: SystemTime::now(),
            took: Duration::from_nanos(took),
            sample,
            budget: self.budget,
            resident: [self.resident, process::resident()],
            at: Instant::now(),
        });
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
