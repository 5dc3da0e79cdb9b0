//! What a breaker remembers: calls and transitions, within caps and an age.
//!
//! # How calls are kept
//!
//! A call takes 12 bytes: when it ended, how long it took, and what it was. Calls are written to
//! chunks of up to 64. Each stripe of threads fills a chunk of its own and hands it over when it
//! is full, so that threads meet once for each chunk and not for each call. Once the history is
//! full, a chunk that is handed over takes the place of the oldest, whose memory the stripe goes
//! on with: nothing is allocated.
//!
//! # Invariants
//!
//! - Chunks are in the order they were handed over. Calls in later chunks are newer than those of
//!   a chunk, but for the chunks that other stripes had not handed over yet: one for each.
//! - The oldest chunk goes only when the newest `cap` calls are in the others, counting that in.
//!   So a reader always finds the newest `cap`, and memory is bounded by the cap and three chunks
//!   for each stripe: one being filled, one of slack, one spare.

use crate::{
    CallRecord, CallsQuery, HistoryConfig, Transition,
    breaker::MAX_STRIPES,
    chunk::{Chunk, Flags, Record},
    nanos,
    records::TransitionRecord,
    sync::Mutex,
};
use plimsoll_core::{RemovalReason, Removed};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

/// The longest chunk, in calls.
const CHUNK: usize = 64;
/// How many chunks a reader copies before it lets writers at the history again.
const CHUNKS_PER_READ: usize = 64;
/// How many transitions a reader copies before it lets changes of state at the history again.
const TRANSITIONS_PER_READ: usize = 256;
/// How many chunks a sweep looks into for calls that expired before the others in their chunk.
const CHUNKS_PER_TRIM: usize = 4_096;
/// Bytes on the heap, of one breaker and of those it is counted with.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    bytes: AtomicI64,
    /// Of all breakers that share a limit.
    shared: Option<Arc<AtomicI64>>,
}

impl Meter {
    pub(crate) fn new(shared: Option<Arc<AtomicI64>>) -> Self {
        Self {
            bytes: AtomicI64::new(0),
            shared,
        }
    }

    pub(crate) fn add(&self, bytes: i64) {
        self.bytes.fetch_add(bytes, Relaxed);
        if let Some(shared) = &self.shared {
            shared.fetch_add(bytes, Relaxed);
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        u64::try_from(self.bytes.load(Relaxed)).unwrap_or(0)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.fetch_sub(*self.bytes.get_mut(), Relaxed);
        }
    }
}

/// The chunks that are full, and the transitions. Its two locks are never held together, and no
/// other lock is taken under them.
#[derive(Debug)]
pub(crate) struct History {
    calls: Mutex<Calls>,
    /// Nothing before the first.
    transitions: Mutex<Option<Box<Transitions>>>,
    pub(crate) meter: Meter,
    /// When it was swept last, in ticks; 0 is never.
    last_sweep: AtomicU64,
}

#[derive(Debug)]
struct Calls {
    chunks: VecDeque<Chunk>,
    /// How many chunks have ever left at the front: the number of the first one.
    front: u64,
    records: usize,
    kept: Kept,
    /// How many stripes fill chunks.
    stripes: u32,
    /// How many chunks were given out.
    issued: u32,
    /// One empty chunk for each stripe, once there are several: memory that another took out of
    /// the history for it.
    spares: Option<Box<[Chunk; MAX_STRIPES]>>,
    /// Removed for reasons other than the cap.
    removed: Gone,
}

#[derive(Debug, Default)]
struct Transitions {
    records: VecDeque<TransitionRecord>,
    inserted: u64,
    evicted: u64,
    removed: Gone,
}

/// How many records went, by the reasons there are for them.
#[derive(Clone, Copy, Debug, Default)]
struct Gone([u64; Self::REASONS.len()]);

impl Gone {
    const REASONS: [RemovalReason; 4] = [
        RemovalReason::Expired,
        RemovalReason::Pressure,
        RemovalReason::Manual,
        RemovalReason::Closed,
    ];

    fn add(&mut self, reason: RemovalReason, records: u64) {
        for (known, count) in Self::REASONS.into_iter().zip(&mut self.0) {
            if known == reason {
                *count += records;
            }
        }
    }

    fn removed(&self) -> Removed {
        let mut removed = Removed::NONE;
        for (reason, count) in Self::REASONS.into_iter().zip(self.0) {
            removed.add(reason, count);
        }
        removed
    }
}

impl History {
    pub(crate) fn new(config: HistoryConfig, meter: Meter) -> Self {
        Self {
            calls: Mutex::new(Calls {
                chunks: VecDeque::new(),
                front: 0,
                records: 0,
                kept: Kept::new(&config, false),
                stripes: 1,
                issued: 0,
                spares: None,
                removed: Gone::default(),
            }),
            transitions: Mutex::new(None),
            meter,
            last_sweep: AtomicU64::new(0),
        }
    }

    /// Sets the caps, but drops nothing yet.
    pub(crate) fn configure(&self, config: HistoryConfig) {
        let mut calls = self.calls.lock();
        let length = calls.kept.chunk();
        calls.kept = Kept::new(&config, calls.kept.closed);
        if calls.kept.chunk() != length {
            calls.drop_spares(&self.meter);
        }
    }

    /// Drops what is over the caps.
    pub(crate) fn enforce_caps(&self) {
        let mut calls = self.calls.lock();
        while let Some(oldest) = calls.enforce_cap() {
            self.meter.add(-oldest.bytes());
        }
        let most = cap(calls.kept.transitions as usize);
        drop(calls);
        if let Some(transitions) = &mut *self.transitions.lock() {
            let excess = transitions.records.len().saturating_sub(most);
            transitions.records.drain(..excess);
            transitions.evicted += excess as u64;
            self.metered(transitions, VecDeque::shrink_to_fit);
        }
    }

    /// Takes a chunk that is being filled if chunks have another length by now.
    pub(crate) fn fit(&self, chunk: &mut Chunk) {
        let mut calls = self.calls.lock();
        if chunk.records.capacity() != calls.kept.chunk() {
            calls.seal(std::mem::take(chunk), &self.meter);
        }
    }

    pub(crate) fn config(&self) -> HistoryConfig {
        self.calls.lock().kept.to_config()
    }

    /// Stops keeping records, for good.
    pub(crate) fn close(&self) {
        let mut calls = self.calls.lock();
        calls.kept.closed = true;
        calls.drop_spares(&self.meter);
    }

    /// Prepares for several stripes.
    pub(crate) fn set_stripes(&self, stripes: usize) {
        let mut calls = self.calls.lock();
        calls.stripes = stripes as u32;
        calls.spares.get_or_insert_with(|| {
            self.meter.add(size_of::<[Chunk; MAX_STRIPES]>() as i64);
            Box::default()
        });
    }

    pub(crate) fn keeps_calls(&self) -> bool {
        self.calls.lock().kept.keeps()
    }

    /// Takes a chunk that is full (or new: without place for any call) and gives an empty one.
    ///
    /// The one given has no place where calls are not kept.
    pub(crate) fn hand_over(&self, full: Chunk, stripe: usize) -> Chunk {
        let mut calls = self.calls.lock();
        calls.seal(full, &self.meter);
        let length = calls.kept.chunk();
        let mut new = match calls.enforce_cap() {
            Some(oldest) if oldest.records.capacity() == length => {
                let mut chunk = calls.exchange(oldest, stripe, &self.meter);
                chunk.records.clear();
                chunk.first = 0;
                chunk
            }
            other => {
                let new = Chunk::with_capacity(length);
                let freed = other.map_or(0, |chunk| chunk.bytes());
                self.meter.add(new.bytes() - freed);
                new
            }
        };
        calls.issued = calls.issued.wrapping_add(1).max(1);
        new.number = u64::from(calls.issued) * MAX_STRIPES as u64 + stripe as u64;
        new
    }

    /// Takes back a chunk without calls.
    pub(crate) fn take_back(&self, empty: Chunk) {
        self.calls.lock().seal(empty, &self.meter);
    }

    pub(crate) fn push_transition(&self, record: TransitionRecord) {
        let kept = self.calls.lock().kept;
        if !kept.keeps() {
            return;
        }
        let cap = cap(kept.transitions as usize);
        let mut transitions = self.transitions.lock();
        let transitions = transitions.get_or_insert_with(|| {
            self.meter.add(size_of::<Transitions>() as i64);
            Box::default()
        });
        transitions.inserted += 1;
        while transitions.records.len() >= cap {
            transitions.records.pop_front();
            transitions.evicted += 1;
        }
        self.metered(transitions, |records| records.push_back(record));
    }

    fn metered(
        &self,
        transitions: &mut Transitions,
        change: impl FnOnce(&mut VecDeque<TransitionRecord>),
    ) {
        let record = size_of::<TransitionRecord>() as i64;
        let before = transitions.records.capacity() as i64;
        change(&mut transitions.records);
        let after = transitions.records.capacity() as i64;
        self.meter.add((after - before) * record);
    }

    /// Drops calls in full chunks that ended before `cutoff`, `budget` at most, and says how many
    /// and whether that was all.
    pub(crate) fn sweep_calls(&self, cutoff: u64, budget: usize) -> (usize, bool) {
        let mut calls = self.calls.lock();
        let mut dropped = 0;
        while let Some(oldest) = calls.chunks.front() {
            if oldest.last_ended() >= cutoff {
                break;
            }
            if dropped >= budget {
                return (dropped, false);
            }
            dropped += calls.pop_front().map_or(0, |chunk| {
                self.meter.add(-chunk.bytes());
                chunk.len()
            });
        }
        // What other stripes filled slowly ended in part before its chunk was handed over.
        let mut trimmed = 0;
        for chunk in calls.chunks.iter_mut().take(CHUNKS_PER_TRIM) {
            trimmed += chunk.trim(cutoff);
            if chunk.len() == 0 {
                // It keeps its place, by which readers find their way.
                self.meter.add(-chunk.bytes());
                *chunk = Chunk::default();
            }
        }
        calls.records -= trimmed;
        (dropped + trimmed, true)
    }

    /// Drops transitions from before `cutoff`.
    pub(crate) fn sweep_transitions(&self, cutoff: u64, budget: usize) -> (usize, bool) {
        let mut transitions = self.transitions.lock();
        let Some(transitions) = &mut *transitions else {
            return (0, true);
        };
        let expired = |transition: &TransitionRecord| transition.at < cutoff;
        let mut dropped = 0;
        while transitions.records.front().is_some_and(expired) && dropped < budget {
            transitions.records.pop_front();
            dropped += 1;
        }
        transitions
            .removed
            .add(RemovalReason::Expired, dropped as u64);
        let done = !transitions.records.front().is_some_and(expired);
        if transitions.records.is_empty() {
            self.metered(transitions, VecDeque::shrink_to_fit);
        }
        (dropped, done)
    }

    /// Counts calls that were removed for a reason other than the cap.
    pub(crate) fn count_removed(&self, reason: RemovalReason, calls: u64) {
        self.calls.lock().removed.add(reason, calls);
    }

    /// Drops the oldest transitions until `keep` are left.
    pub(crate) fn keep_transitions(&self, keep: usize, reason: RemovalReason) -> u64 {
        let mut transitions = self.transitions.lock();
        let Some(transitions) = &mut *transitions else {
            return 0;
        };
        let excess = transitions.records.len().saturating_sub(keep);
        transitions.records.drain(..excess);
        transitions.removed.add(reason, excess as u64);
        if excess > 0 {
            self.metered(transitions, VecDeque::shrink_to_fit);
        }
        excess as u64
    }

    /// Drops `excess` of the oldest calls in full chunks, or all, and says how many went.
    pub(crate) fn drop_calls(&self, excess: usize) -> usize {
        let mut calls = self.calls.lock();
        let mut left = excess;
        while let Some(oldest) = calls.chunks.front_mut() {
            if oldest.len() > left {
                oldest.first += left;
                calls.records -= left;
                left = 0;
                break;
            }
            left -= oldest.len();
            let gone = calls.pop_front();
            self.meter.add(-gone.map_or(0, |chunk| chunk.bytes()));
        }
        if calls.chunks.is_empty() {
            calls.drop_spares(&self.meter);
            let before = calls.chunks.capacity();
            calls.chunks.shrink_to_fit();
            calls.grew(before, &self.meter);
        }
        excess - left
    }

    /// Calls in full chunks, and the cap.
    pub(crate) fn full_calls(&self) -> (usize, usize) {
        let calls = self.calls.lock();
        (calls.records, calls.kept.max_calls())
    }

    pub(crate) fn transition_count(&self) -> usize {
        let transitions = self.transitions.lock();
        transitions.as_ref().map_or(0, |kept| kept.records.len())
    }

    /// Calls that were removed for a reason other than the cap.
    pub(crate) fn removed_calls(&self) -> Removed {
        self.calls.lock().removed.removed()
    }

    /// Transitions inserted, and removed by reason.
    pub(crate) fn transition_totals(&self) -> (u64, Removed) {
        match &*self.transitions.lock() {
            None => (0, Removed::NONE),
            Some(transitions) => {
                let mut removed = transitions.removed.removed();
                removed.add(RemovalReason::Capacity, transitions.evicted);
                (transitions.inserted, removed)
            }
        }
    }

    /// Copies the calls of full chunks, a slice at a time, so that no writer waits long.
    ///
    /// Leaves out those that were `seen` already.
    pub(crate) fn copy_calls(&self, seen: &[Option<u64>], to: &mut Vec<Record>) {
        let mut next = 0;
        loop {
            let calls = self.calls.lock();
            // Chunks that went meanwhile are not missed: they were the oldest.
            let skip = usize::try_from(next.max(calls.front) - calls.front).unwrap_or(usize::MAX);
            let chunks = calls.chunks.iter().skip(skip).take(CHUNKS_PER_READ);
            let mut copied = 0;
            for chunk in chunks {
                if !seen.contains(&Some(chunk.number)) {
                    chunk.copy_to(to);
                }
                copied += 1;
            }
            if copied < CHUNKS_PER_READ {
                return;
            }
            next = calls.front + (skip + copied) as u64;
        }
    }

    /// Copies the transitions, a slice at a time, so that no change of state waits long.
    pub(crate) fn transitions(&self) -> Vec<TransitionRecord> {
        let mut copied = Vec::new();
        let mut next = 0;
        while let Some(kept) = &*self.transitions.lock() {
            // Those that went meanwhile were the oldest.
            let front = kept.inserted - kept.records.len() as u64;
            let skip = next.max(front) - front;
            let slice = kept
                .records
                .iter()
                .skip(skip as usize)
                .take(TRANSITIONS_PER_READ);
            let before = copied.len();
            copied.extend(slice);
            next = front + skip + TRANSITIONS_PER_READ as u64;
            if copied.len() - before < TRANSITIONS_PER_READ {
                break;
            }
        }
        copied
    }

    pub(crate) fn swept(&self, now: u64) {
        self.last_sweep.store(now.max(1), Relaxed);
    }

    pub(crate) fn last_sweep(&self) -> Option<u64> {
        Some(self.last_sweep.load(Relaxed)).filter(|at| *at > 0)
    }
}

/// The most records that may be kept, where 0 is no cap.
pub(crate) const fn cap(records: usize) -> usize {
    if records == 0 { usize::MAX } else { records }
}

/// A configuration that was checked, as small as can be: every breaker has one.
#[derive(Clone, Copy, Debug)]
struct Kept {
    calls: u32,
    transitions: u32,
    retention: u64,
    sweep_interval: u64,
    enabled: bool,
    /// For good.
    closed: bool,
}

impl Kept {
    const fn new(config: &HistoryConfig, closed: bool) -> Self {
        Self {
            calls: config.calls as u32,
            transitions: config.transitions as u32,
            retention: nanos(config.retention),
            sweep_interval: nanos(config.sweep_interval),
            enabled: config.enabled,
            closed,
        }
    }

    const fn to_config(self) -> HistoryConfig {
        HistoryConfig {
            enabled: self.enabled,
            calls: self.calls as usize,
            transitions: self.transitions as usize,
            retention: Duration::from_nanos(self.retention),
            sweep_interval: Duration::from_nanos(self.sweep_interval),
        }
    }

    const fn keeps(self) -> bool {
        self.enabled && !self.closed
    }

    const fn max_calls(self) -> usize {
        cap(self.calls as usize)
    }

    /// How many calls a chunk has place for; 0 where none are kept. A short history has short
    /// chunks, so that what is held above the cap is in proportion.
    fn chunk(self) -> usize {
        match self.keeps() {
            true => (self.max_calls() / 16).clamp(1, CHUNK),
            false => 0,
        }
    }
}

impl Calls {
    /// Appends a chunk that is being filled no longer.
    fn seal(&mut self, mut chunk: Chunk, meter: &Meter) {
        if chunk.len() == 0 {
            meter.add(-chunk.bytes());
            return;
        }
        if !chunk.is_full() {
            let bytes = chunk.bytes();
            chunk.records.shrink_to_fit();
            meter.add(chunk.bytes() - bytes);
        }
        self.records += chunk.len();
        let before = self.chunks.capacity();
        self.chunks.push_back(chunk);
        self.grew(before, meter);
    }

    fn grew(&self, before: usize, meter: &Meter) {
        let grown = self.chunks.capacity() as i64 - before as i64;
        if grown != 0 {
            meter.add(grown * size_of::<Chunk>() as i64);
        }
    }

    /// Takes out the oldest chunk if there are enough calls without it.
    fn enforce_cap(&mut self) -> Option<Chunk> {
        let oldest = self.chunks.front()?;
        let others = (self.stripes as usize - 1) * self.kept.chunk();
        let left = self.records - oldest.len();
        if left < self.kept.max_calls().saturating_add(others) {
            return None;
        }
        self.pop_front()
    }

    fn drop_spares(&mut self, meter: &Meter) {
        for spare in self.spares.iter_mut().flat_map(|spares| spares.iter_mut()) {
            meter.add(-spare.bytes());
            *spare = Chunk::default();
        }
    }

    /// Gives memory for the memory of a chunk that was taken out: what `stripe` wrote itself, if
    /// there is some, for memory that another processor wrote last is slow to write. That of
    /// another stripe is kept for it.
    ///
    /// Each stripe gets memory that way once at most that was not there before; from then on it
    /// goes round.
    fn exchange(&mut self, oldest: Chunk, stripe: usize, meter: &Meter) -> Chunk {
        let owner = (oldest.number % MAX_STRIPES as u64) as usize;
        let Some(spares) = &mut self.spares else {
            return oldest;
        };
        let length = oldest.records.capacity();
        if owner == stripe || spares[owner].records.capacity() > 0 {
            return oldest;
        }
        spares[owner] = oldest;
        let spare = std::mem::take(&mut spares[stripe]);
        if spare.records.capacity() == length {
            return spare;
        }
        let new = Chunk::with_capacity(length);
        meter.add(new.bytes() - spare.bytes());
        new
    }

    /// Takes out the oldest chunk, whose bytes are still counted.
    fn pop_front(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_front()?;
        self.front += 1;
        self.records -= chunk.len();
        Some(chunk)
    }
}

/// Turns copied records into what a reader asked for, newest first.
pub(crate) fn select(
    mut records: Vec<Record>,
    query: &CallsQuery,
    view: &View,
) -> (Vec<CallRecord>, usize) {
    // What ended since is not a part of what was there.
    records.retain(|call| call.ended() <= view.now);
    // Ties are broken by the flags, so that the order does not depend on the stripes.
    records.sort_unstable_by_key(|call| std::cmp::Reverse((call.word(), call.duration())));
    records.truncate(view.cap);
    let kept = records
        .into_iter()
        .take_while(|call| call.ended() >= view.cutoff)
        .map(|call| view.call(call))
        .filter(|call| query.wants(call));
    let mut matching = 0;
    let mut selected = Vec::new();
    for call in kept {
        if matching >= query.skip && selected.len() < query.limit {
            selected.push(call);
        }
        matching += 1;
    }
    (selected, matching)
}

/// What turns ticks into times of day.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) now: u64,
    pub(crate) wall: SystemTime,
    pub(crate) cap: usize,
    /// What ended before is too old.
    pub(crate) cutoff: u64,
}

impl View {
    pub(crate) fn time(&self, ticks: u64) -> (SystemTime, Duration) {
        let age = Duration::from_nanos(self.now.saturating_sub(ticks));
        let time = self.wall.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        (time, age)
    }

    fn call(&self, record: Record) -> CallRecord {
        let (ended_at, age) = self.time(record.ended());
        let flags = record.flags();
        CallRecord {
            ended_at,
            age,
            duration: Duration::from_nanos(record.duration()),
            outcome: flags.outcome(),
            slow: flags.0 & Flags::SLOW != 0,
            probe: flags.0 & Flags::PROBE != 0,
            stale: flags.0 & Flags::STALE != 0,
        }
    }

    pub(crate) fn transition(&self, record: &TransitionRecord) -> Transition {
        let (at, age) = self.time(record.at);
        Transition {
            at,
            age,
            from: record.from,
            to: record.to,
            reason: record.reason,
            evidence: record.evidence,
        }
    }
}

/// The moment before which records are too old.
pub(crate) const fn cutoff(config: &HistoryConfig, now: u64) -> u64 {
    match nanos(config.retention) {
        0 => 0,
        retention => now.saturating_sub(retention),
    }
}

#[cfg(all(test, not(plimsoll_loom)))]
mod tests {
    use super::*;
    use crate::CallOutcome;

    fn flags(bits: u64) -> Flags {
        let outcomes = [
            CallOutcome::Success,
            CallOutcome::Failure,
            CallOutcome::Ignored,
            CallOutcome::Dropped,
        ];
        let is_set = |bit: u64| bits & bit != 0;
        Flags::new(
            outcomes[bits as usize % 4],
            is_set(4),
            is_set(8),
            is_set(16),
        )
    }

    fn record(ended: u64) -> Record {
        Record::new(ended << 6, 1, flags(0))
    }

    fn chunk(ended: impl IntoIterator<Item = u64>) -> Chunk {
        let records: Vec<_> = ended.into_iter().map(record).collect();
        let mut chunk = Chunk::with_capacity(records.len());
        for record in records {
            chunk.push(record);
        }
        chunk
    }

    fn history(calls: usize, stripes: usize) -> History {
        let config = HistoryConfig::local()
            .calls(calls)
            .retention(Duration::ZERO);
        let history = History::new(config, Meter::new(None));
        if stripes > 1 {
            history.set_stripes(stripes);
        }
        history
    }

    fn ended(records: &[Record]) -> Vec<u64> {
        let mut ended: Vec<_> = records.iter().map(|call| call.ended() >> 6).collect();
        ended.sort_unstable();
        ended
    }

    #[test]
    fn a_record_takes_twelve_bytes() {
        assert_eq!(size_of::<Record>(), 12);
    }

    #[test]
    fn a_record_says_what_was_written() {
        let mut random = fastrand::Rng::with_seed(4);
        for _ in 0..20_000 {
            let bits = random.u64(0..32);
            let ended = random.u64(..) >> random.u32(0..64);
            let duration = random.u64(..) >> random.u32(0..64);
            let record = Record::new(ended, duration, flags(bits));
            assert_eq!(record.ended(), ended & !63);
            assert_eq!(record.flags(), flags(bits));
            assert_eq!(record.flags().outcome(), flags(bits).outcome());
            let longest = ((1_u64 << 27) - 1) << 31;
            let (kept, duration) = (record.duration(), duration.min(longest));
            assert!(kept <= duration);
            if duration < 1 << 27 {
                assert_eq!(kept, duration);
            }
            assert!(
                u128::from(duration - kept) << 26 <= u128::from(duration),
                "{duration}"
            );
        }
    }

    #[test]
    fn longer_calls_are_not_kept_as_shorter_ones() {
        let kept = |duration| Record::new(0, duration, flags(0)).duration();
        let near =
            |shift: u32| (-3..=3).map(move |off| (1_u64 << shift).saturating_add_signed(off));
        let mut durations: Vec<_> = (0..64).flat_map(near).collect();
        durations.sort_unstable();
        assert!(durations.iter().map(|duration| kept(*duration)).is_sorted());
        assert_eq!(kept(u64::MAX), kept(u64::MAX - 1));
        let years = kept(u64::MAX) / (365 * 86_400_000_000_000);
        assert_eq!(years, 9);
        assert_eq!(kept((1 << 27) - 1), (1 << 27) - 1, "134 ms");
    }

    #[test]
    fn what_is_trimmed_is_gone_and_the_others_stay() {
        let mut chunk = chunk(10..20);
        assert_eq!(chunk.trim(10 << 6), 0);
        assert_eq!(chunk.trim(13 << 6), 3);
        assert_eq!(chunk.trim(13 << 6), 0);
        assert_eq!(chunk.len(), 7);
        assert!(chunk.is_full(), "a place is used once");
        let mut records = Vec::new();
        assert_eq!(chunk.copy_to(&mut records), None);
        assert_eq!(ended(&records), (13..20).collect::<Vec<_>>());
        assert_eq!(chunk.trim(u64::MAX), 7);
        assert_eq!(chunk.len(), 0);
    }

    impl Chunk {
        /// As a stripe does.
        fn push_to(&mut self, history: &History, stripe: usize, record: Record) {
            if self.is_full() {
                *self = history.hand_over(std::mem::take(self), stripe);
                assert!(self.number > 0 && self.len() == 0);
            }
            self.push(record);
        }
    }

    /// Has stripes take turns at random, and gives what they are filling and how many were
    /// written.
    fn fill(history: &History, stripes: usize, calls: u64, seed: u64) -> Vec<Chunk> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut filling: Vec<_> = (0..stripes).map(|_| Chunk::default()).collect();
        for call in 1..=calls {
            // The first stripes are used more than the others.
            let stripe = random.usize(0..stripes).min(random.usize(0..stripes));
            filling[stripe].push_to(history, stripe, record(call));
        }
        filling
    }

    #[test]
    fn a_full_history_holds_the_newest_calls_and_no_more_memory_than_it_may() {
        for cap in [1, 2, 15, 16, 40, 100, 1_000] {
            for stripes in [1, 2, 5, MAX_STRIPES] {
                let history = history(cap, stripes);
                let empty = history.meter.bytes();
                let calls = 5 * cap as u64 + 1_000;
                let filling = fill(&history, stripes, calls, cap as u64);
                let mut records = Vec::new();
                history.copy_calls(&[], &mut records);
                let length = (cap / 16).clamp(1, CHUNK);
                let (full, _) = history.full_calls();
                assert_eq!(full, records.len());
                assert!(
                    full <= cap + stripes * length,
                    "{full} for {cap}, {stripes}"
                );
                for chunk in &filling {
                    chunk.copy_to(&mut records);
                }
                let ended = ended(&records);
                let newest: Vec<_> = (calls + 1 - cap as u64..=calls).collect();
                assert!(ended.ends_with(&newest), "{cap} calls, {stripes} stripes");
                assert!(
                    ended.is_sorted_by(|one, other| one < other),
                    "none is there twice"
                );

                let chunks = (cap + 3 * stripes * length) as u64 * size_of::<Record>() as u64;
                let places = 2 * (cap / length + stripes + 4) * size_of::<Chunk>();
                let bytes = history.meter.bytes() - empty;
                assert!(
                    bytes <= chunks + places as u64,
                    "{bytes} for {cap}, {stripes}"
                );
            }
        }
    }

    /// The newest calls of a stripe that is slow to fill its chunk are as good as those of others.
    #[test]
    fn a_full_history_holds_exactly_the_newest_calls_at_every_moment() {
        for (cap, stripes) in [
            (1, 2),
            (32, 1),
            (32, 2),
            (64, 2),
            (48, 3),
            (64, MAX_STRIPES),
        ] {
            let history = history(cap, stripes);
            let mut random = fastrand::Rng::with_seed(cap as u64);
            let mut filling: Vec<_> = (0..stripes).map(|_| Chunk::default()).collect();
            for call in 1..=600_u64 {
                let is_slow = random.u8(0..12) == 0;
                let stripe = if is_slow { random.usize(0..stripes) } else { 0 };
                filling[stripe].push_to(&history, stripe, record(call));
                let mut records = Vec::new();
                history.copy_calls(&[], &mut records);
                for chunk in &filling {
                    chunk.copy_to(&mut records);
                }
                let newest = call.saturating_sub(cap as u64) + 1..=call;
                let ended = ended(&records);
                assert!(
                    ended.ends_with(&newest.collect::<Vec<_>>()),
                    "{cap}, {stripes}"
                );
                // Nothing is kept that cannot be needed.
                let chunk = (cap / 16).clamp(1, CHUNK);
                assert!(history.full_calls().0 < cap + stripes * chunk);
            }
        }
    }

    #[test]
    fn a_chunk_that_is_not_full_gives_its_places_back() {
        let history = history(1_000, 1);
        let empty = history.meter.bytes();
        for (round, calls) in [2_000, 1_000].into_iter().cycle().take(200).enumerate() {
            let mut chunk = history.hand_over(Chunk::default(), 0);
            chunk.push(record(round as u64));
            history.configure(HistoryConfig::local().calls(calls / 4));
            history.fit(&mut chunk);
            assert_eq!(chunk.len(), 0, "chunks have another length");
        }
        assert_eq!(history.full_calls().0, 200);
        let bytes = history.meter.bytes() - empty;
        let most = 200 * size_of::<Record>() + 256 * size_of::<Chunk>();
        assert!(bytes <= most as u64, "{bytes}");
    }

    #[test]
    fn a_sweep_keeps_what_ended_at_the_cutoff() {
        let history = history(1_000, 1);
        history.hand_over(chunk(1..=3), 0);
        assert_eq!(history.sweep_calls(3 << 6, 10), (2, true));
        assert_eq!(history.full_calls().0, 1);
        assert_eq!(history.sweep_calls((3 << 6) + 1, 10), (1, true));
    }

    #[test]
    fn memory_goes_round_once_the_history_is_full() {
        for stripes in [1, 2, MAX_STRIPES] {
            let history = history(640, stripes);
            let mut filling = fill(&history, stripes, 20_000, 7);
            let bytes = history.meter.bytes();
            for round in 0..500_u64 {
                let stripe = round as usize % stripes;
                for call in 0.. {
                    if filling[stripe].is_full() {
                        break;
                    }
                    filling[stripe].push(record(20_001 + round * 64 + call));
                }
                let full = std::mem::take(&mut filling[stripe]);
                filling[stripe] = history.hand_over(full, stripe);
                assert_eq!(history.meter.bytes(), bytes, "{stripes} stripes");
            }
        }
    }

    #[test]
    fn a_reader_leaves_out_the_chunks_that_it_has_seen() {
        let history = history(1_000, 1);
        let mut seen = Vec::new();
        let mut chunk = Chunk::default();
        for call in 1..=5_u64 {
            chunk = history.hand_over(chunk, 0);
            seen.push(Some(chunk.number));
            while !chunk.is_full() {
                chunk.push(record(call));
            }
        }
        history.hand_over(chunk, 0);
        let mut records = Vec::new();
        history.copy_calls(&[seen[1], None, seen[3]], &mut records);
        let mut ended = ended(&records);
        ended.dedup();
        assert_eq!(ended, [1, 3, 5]);
    }

    #[test]
    fn a_history_of_many_chunks_is_read_as_a_whole() {
        let history = history(100_000, 1);
        let filling = fill(&history, 1, 20_000, 9);
        let mut records = Vec::new();
        history.copy_calls(&[], &mut records);
        filling[0].copy_to(&mut records);
        assert_eq!(ended(&records), (1..=20_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_sweep_drops_what_is_too_old_wherever_it_is() {
        let history = history(1_000, 2);
        let filling = fill(&history, 2, 700, 11);
        let held = |history: &History| {
            let mut records = Vec::new();
            history.copy_calls(&[], &mut records);
            ended(&records)
        };
        let before = held(&history);
        let mut swept = 0;
        loop {
            let (dropped, done) = history.sweep_calls(300 << 6, 50);
            swept += dropped;
            if done {
                break;
            }
        }
        let after: Vec<_> = before.iter().copied().filter(|call| *call >= 300).collect();
        assert_eq!(held(&history), after);
        assert_eq!(
            (swept, history.full_calls().0),
            (before.len() - after.len(), after.len())
        );
        assert_eq!(
            history.sweep_calls(u64::MAX, usize::MAX),
            (after.len(), true)
        );
        assert_eq!(held(&history), [0; 0]);
        drop(filling);
    }
}
