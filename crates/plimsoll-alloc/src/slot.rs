//! What scopes and groups hold, in a slab that is never freed.
//!
//! A tag names a slot and the *generation* of it. A slot is used again only once nothing is held in
//! its name, or by giving up on what is: then the generation is another, and what is freed later in
//! the name of the old one was an *orphan*.

use std::sync::atomic::{
    AtomicI64, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    fence,
};

/// Scopes and groups there can be at a time, the process as a whole included.
pub(crate) const SLOTS: usize = 65_536;

/// The tag of what belongs to no scope.
pub(crate) const ROOT: u64 = 0;
/// The tag of what is not counted.
pub(crate) const UNCOUNTED: u64 = u32::MAX as u64;

/// No slot.
const NONE: u32 = u32::MAX;

static SLAB: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

/// Slots that were used and are free: the first one, and in the upper half how often that changed,
/// so that a thread that slept between its look and its exchange notices.
static FREE: AtomicU64 = AtomicU64::new(NONE as u64);

/// Slots from here on were never used.
static UNUSED: AtomicU32 = AtomicU32::new(1);

/// Bytes that are held in the name of generations that are over.
static ORPHANS: AtomicI64 = AtomicI64::new(0);

/// 64 bytes, a cache line.
#[repr(align(64))]
pub(crate) struct Slot {
    /// Bytes allocated and not freed. Negative while what was freed elsewhere is known before what
    /// was allocated.
    live: AtomicI64,
    peak: AtomicI64,
    allocated: AtomicU64,
    /// The most bytes that may live; 0 is no limit.
    limit: AtomicU64,
    /// When its last handle was dropped, as whoever dropped it tells time. 0 while there is one.
    ended: AtomicU64,
    /// The upper half of tags.
    generation: AtomicU32,
    /// Handles to it; 0 once it has ended.
    handles: AtomicU32,
    /// The group it is in, [`NONE`] if in none.
    parent: AtomicU32,
    state: AtomicU32,
}

const FREE_SLOT: u32 = 0;
const OPEN: u32 = 1;
/// Nobody has it, but bytes are held in its name.
const ENDED: u32 = 2;

/// Generations have 31 bits: the highest bit of a tag is left for others.
const GENERATIONS: u32 = 0x7fff_ffff;

#[inline(always)]
const fn tag(index: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | index as u64
}

#[inline(always)]
pub(crate) const fn index(tag: u64) -> u32 {
    tag as u32
}

#[inline(always)]
const fn generation(tag: u64) -> u32 {
    (tag >> 32) as u32 & GENERATIONS
}

/// The slot of a tag, unless the tag is of none.
#[inline(always)]
fn slot(index: u32) -> Option<&'static Slot> {
    SLAB.get(index as usize)
}

/// A batch of a thread, about to be written down.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    /// Bytes allocated less bytes freed.
    pub(crate) net: i64,
    /// The most that `net` has been.
    pub(crate) high: i64,
    pub(crate) allocated: u64,
}

/// What is held in the name of a scope or a group.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Held {
    pub(crate) live: i64,
    pub(crate) peak: i64,
    pub(crate) allocated: u64,
    pub(crate) limit: u64,
}

impl Slot {
    const fn new() -> Self {
        Self {
            live: AtomicI64::new(0),
            peak: AtomicI64::new(0),
            allocated: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            generation: AtomicU32::new(0),
            handles: AtomicU32::new(0),
            parent: AtomicU32::new(NONE),
            state: AtomicU32::new(FREE_SLOT),
        }
    }

    // Relaxed throughout: these are sums, and nothing is published by them. Where the end of a
    // scope depends on them, a fence says so.
    #[inline]
    fn add(&self, entry: Entry) -> i64 {
        let before = self.live.fetch_add(entry.net, Relaxed);
        self.allocated.fetch_add(entry.allocated, Relaxed);
        let high = before + entry.high;
        if high > self.peak.load(Relaxed) {
            self.peak.fetch_max(high, Relaxed);
        }
        before + entry.net
    }

    fn held(&self) -> Held {
        Held {
            live: self.live.load(Relaxed),
            peak: self.peak.load(Relaxed),
            allocated: self.allocated.load(Relaxed),
            limit: self.limit.load(Relaxed),
        }
    }

    fn is_of(&self, tag: u64) -> bool {
        self.generation.load(Relaxed) == generation(tag)
    }

    /// The group it is in.
    #[inline]
    fn parent(&self) -> Option<&'static Self> {
        slot(self.parent.load(Relaxed))
    }
}

/// Writes a batch down.
pub(crate) fn add(tag: u64, entry: Entry) {
    let Some(slot) = slot(index(tag)) else {
        return;
    };
    if !slot.is_of(tag) {
        // Only for a guard that was forgotten instead of dropped.
        ORPHANS.fetch_add(entry.net, Relaxed);
        return;
    }
    slot.add(entry);
    if let Some(parent) = slot.parent() {
        parent.add(entry);
    }
}

/// Bytes are freed that were allocated in the name of `tag`, by somebody else.
pub(crate) fn freed_elsewhere(tag: u64, bytes: usize) {
    let index = index(tag);
    let Some(slot) = slot(index) else {
        return;
    };
    let bytes = bytes as i64;
    if !slot.is_of(tag) {
        ORPHANS.fetch_sub(bytes, Relaxed);
        return;
    }
    if let Some(parent) = slot.parent() {
        parent.live.fetch_sub(bytes, Relaxed);
    }
    if slot.live.fetch_sub(bytes, Relaxed) == bytes {
        recycle_if_over(slot, index);
    }
}

/// Opens a slot, of a scope or a group. None if all are taken.
pub(crate) fn open(parent: Option<u64>, limit: u64) -> Option<u64> {
    let index = take_free().or_else(take_unused).or_else(give_up_on_one)?;
    let slot = slot(index)?;
    slot.live.store(0, Relaxed);
    slot.peak.store(0, Relaxed);
    slot.allocated.store(0, Relaxed);
    slot.limit.store(limit, Relaxed);
    slot.ended.store(0, Relaxed);
    slot.parent.store(parent.map_or(NONE, self::index), Relaxed);
    slot.handles.store(1, Relaxed);
    slot.state.store(OPEN, Release);
    Some(tag(index, slot.generation.load(Relaxed)))
}

/// Another handle to an open slot.
pub(crate) fn clone(tag: u64) {
    if let Some(slot) = slot(index(tag)) {
        slot.handles.fetch_add(1, Relaxed);
    }
}

/// A handle is dropped; `now` is the time, other than 0.
pub(crate) fn close(tag: u64, now: u64) {
    let index = index(tag);
    let Some(slot) = slot(index) else {
        return;
    };
    // As for `Arc`: what all handles did happens before the end.
    if slot.handles.fetch_sub(1, Release) != 1 {
        return;
    }
    fence(Acquire);
    slot.ended.store(now, Relaxed);
    slot.state.store(ENDED, SeqCst);
    // Pairs with the fence there: either this sees that nothing is held, or whoever freed the
    // last bytes sees that it has ended.
    fence(SeqCst);
    if slot.live.load(Relaxed) == 0 {
        recycle(slot, index);
    }
}

#[cold]
fn recycle_if_over(slot: &Slot, index: u32) {
    fence(SeqCst);
    if slot.state.load(Relaxed) == ENDED && slot.live.load(Relaxed) == 0 {
        recycle(slot, index);
    }
}

/// Puts a slot among the free ones, unless another thread has.
fn recycle(slot: &Slot, index: u32) {
    let over = slot
        .state
        .compare_exchange(ENDED, FREE_SLOT, AcqRel, Relaxed);
    if over.is_ok() {
        next_generation(slot);
        put_free(index, slot);
    }
}

fn next_generation(slot: &Slot) {
    let generation = slot.generation.load(Relaxed);
    slot.generation
        .store(generation.wrapping_add(1) & GENERATIONS, Relaxed);
}

fn put_free(index: u32, slot: &Slot) {
    let mut head = FREE.load(Relaxed);
    loop {
        // Nobody reads the group of a free slot.
        slot.parent.store(head as u32, Relaxed);
        let next = (head >> 32).wrapping_add(1) << 32 | u64::from(index);
        match FREE.compare_exchange_weak(head, next, Release, Relaxed) {
            Ok(_) => return,
            Err(now) => head = now,
        }
    }
}

fn take_free() -> Option<u32> {
    let mut head = FREE.load(Acquire);
    loop {
        let index = head as u32;
        let below = slot(index)?.parent.load(Relaxed);
        let next = (head >> 32).wrapping_add(1) << 32 | u64::from(below);
        match FREE.compare_exchange_weak(head, next, Acquire, Acquire) {
            Ok(_) => return Some(index),
            Err(now) => head = now,
        }
    }
}

fn take_unused() -> Option<u32> {
    let more = |index: u32| ((index as usize) < SLOTS).then_some(index + 1);
    UNUSED.fetch_update(Relaxed, Relaxed, more).ok()
}

/// Gives up on what is still held in the name of a scope that has ended: of a few, the one that
/// ended first. None if all of them are open.
#[cold]
fn give_up_on_one() -> Option<u32> {
    /// How many are looked at, so that a service with as many slots in use does not stall.
    const LOOK_AT: u32 = 256;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..SLOTS as u32 / LOOK_AT {
        let from = NEXT.fetch_add(LOOK_AT, Relaxed);
        let some = (0..LOOK_AT).map(|n| from.wrapping_add(n) % SLOTS as u32);
        let ended = some.filter_map(|index| {
            let slot = slot(index)?;
            (slot.state.load(Relaxed) == ENDED).then(|| (slot.ended.load(Relaxed), index))
        });
        let Some((_, index)) = ended.min() else {
            continue;
        };
        let slot = slot(index)?;
        let taken = slot
            .state
            .compare_exchange(ENDED, FREE_SLOT, AcqRel, Relaxed);
        if taken.is_ok() {
            next_generation(slot);
            // What is freed from now on is an orphan; what was freed just before may be missed
            // here, by as much as one thread frees between two instructions.
            let held = slot.live.swap(0, Relaxed);
            if let Some(parent) = slot.parent() {
                parent.live.fetch_sub(held, Relaxed);
            }
            ORPHANS.fetch_add(held, Relaxed);
            return Some(index);
        }
    }
    None
}

/// What is held in the name of a tag; none if its generation is over.
pub(crate) fn held(tag: u64) -> Option<Held> {
    let slot = slot(index(tag))?;
    slot.is_of(tag).then(|| slot.held())
}

/// Sets the most bytes that may live; 0 is no limit.
pub(crate) fn set_limit(tag: u64, limit: u64) {
    if let Some(slot) = slot(index(tag)) {
        slot.limit.store(limit, Relaxed);
    }
}

/// Bytes held in the name of scopes that were given up on.
pub(crate) fn orphans() -> i64 {
    ORPHANS.load(Relaxed)
}

/// Every scope that has ended and in whose name bytes are held: the group's slot, when it ended,
/// and the bytes. O(slots).
pub(crate) fn retained(mut each: impl FnMut(u32, u64, i64)) {
    let used = UNUSED.load(Relaxed).min(SLOTS as u32);
    for slot in &SLAB[1..used as usize] {
        if slot.state.load(Acquire) == ENDED {
            let (parent, ended) = (slot.parent.load(Relaxed), slot.ended.load(Relaxed));
            each(parent, ended, slot.live.load(Relaxed));
        }
    }
}
