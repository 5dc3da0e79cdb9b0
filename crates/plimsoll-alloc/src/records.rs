//! What is known of the blocks in the sample, in a slab that is never freed.
//!
//! A block in the sample has a tag by itself, of its record, which keeps the tag that the block is
//! counted by. Such a tag has its highest bit set, and so is never that of the scope a thread is
//! in: whoever frees the block comes by where blocks of others are looked after anyway, and a block
//! that is not in the sample pays nothing.
//!
//! A record belongs to whoever has its block, and nobody else writes to it. Readers may look at any
//! time. The *sequence* of a record is odd while it is whole, and another one afterwards, so that
//! they see a whole record or none.

use crate::{
    slot::UNCOUNTED,
    sync::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

/// Blocks that may be in the sample at a time.
pub(crate) const RECORDS: usize = if cfg!(plimsoll_loom) { 2 } else { 16_384 };

/// Frames that are kept of a stack.
pub(crate) const FRAMES: usize = if cfg!(plimsoll_loom) { 1 } else { 64 };

/// What tags of blocks in the sample have, and no other.
pub(crate) const SAMPLED: u64 = 1 << 63;

#[cfg(not(plimsoll_loom))]
static SLAB: Slab = Slab::new();
#[cfg(plimsoll_loom)]
loom::lazy_static! {
    static ref SLAB: Slab = Slab::default();
}

/// Zero all over before its first use, so that it takes no memory until then.
#[cfg_attr(plimsoll_loom, derive(Default))]
struct Slab {
    records: [Record; RECORDS],
    /// Records that were used and are free: one more than the first one, 0 if there is none, and in
    /// the upper half how often that changed.
    free: AtomicU64,
    /// How many were ever used.
    used: AtomicU32,
    /// How many are in use.
    in_use: AtomicU32,
    /// How often there was none.
    dropped: AtomicU64,
}

#[cfg_attr(plimsoll_loom, derive(Default))]
struct Record {
    sequence: AtomicU64,
    tag: AtomicU64,
    owner: AtomicU64,
    groups: [AtomicU64; 2],
    size: AtomicU64,
    mean: AtomicU64,
    born: AtomicU64,
    /// Frames there are, and [`CUT`].
    depth: AtomicU32,
    /// Of a free record: one more than the next one; 0 if there is none.
    next: AtomicU32,
    frames: [AtomicU64; FRAMES],
}

/// There were more frames.
const CUT: u32 = 1 << 31;

/// What is known of a block besides its stack.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct About {
    /// What the block is counted by.
    pub(crate) tag: u64,
    /// The tag of the scope that it was allocated in, counted or not.
    pub(crate) owner: u64,
    /// The groups of that; 0 is none.
    pub(crate) groups: [u64; 2],
    pub(crate) size: u64,
    /// Bytes from one block in the sample to the next, on average, when this one was.
    pub(crate) mean: u64,
    pub(crate) born: u64,
}

/// Return addresses, the innermost first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack {
    frames: [u64; FRAMES],
    len: usize,
    is_cut: bool,
}

/// A record that nobody else has.
#[derive(Debug)]
pub(crate) struct Empty(u32);

/// How many records are in use, and how often there was none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Use {
    pub(crate) in_use: u32,
    pub(crate) dropped: u64,
}

impl Stack {
    pub(crate) const fn new() -> Self {
        Self {
            frames: [0; FRAMES],
            len: 0,
            is_cut: false,
        }
    }

    /// Whether there is room for more.
    pub(crate) fn push(&mut self, frame: u64) -> bool {
        match self.frames.get_mut(self.len) {
            Some(place) => {
                *place = frame;
                self.len += 1;
            }
            None => self.is_cut = true,
        }
        !self.is_cut
    }

    pub(crate) fn frames(&self) -> &[u64] {
        self.frames.get(..self.len).unwrap_or_default()
    }

    pub(crate) const fn is_cut(&self) -> bool {
        self.is_cut
    }
}

#[cfg(not(plimsoll_loom))]
impl Slab {
    const fn new() -> Self {
        Self {
            records: [const { Record::new() }; RECORDS],
            free: AtomicU64::new(0),
            used: AtomicU32::new(0),
            in_use: AtomicU32::new(0),
            dropped: AtomicU64::new(0),
        }
    }
}

impl Record {
    #[cfg(not(plimsoll_loom))]
    const fn new() -> Self {
        Self {
            sequence: AtomicU64::new(0),
            tag: AtomicU64::new(0),
            owner: AtomicU64::new(0),
            groups: [const { AtomicU64::new(0) }; 2],
            size: AtomicU64::new(0),
            mean: AtomicU64::new(0),
            born: AtomicU64::new(0),
            depth: AtomicU32::new(0),
            next: AtomicU32::new(0),
            frames: [const { AtomicU64::new(0) }; FRAMES],
        }
    }

    /// What is known of the block; its stack is read only if that is whole as well.
    fn read(&self) -> Option<(About, Stack)> {
        let before = self.sequence.load(Acquire);
        if before & 1 == 0 {
            return None;
        }
        let about = About {
            tag: self.tag.load(Relaxed),
            owner: self.owner.load(Relaxed),
            groups: self.groups.each_ref().map(|group| group.load(Relaxed)),
            size: self.size.load(Relaxed),
            mean: self.mean.load(Relaxed),
            born: self.born.load(Relaxed),
        };
        let depth = self.depth.load(Relaxed);
        let mut stack = Stack::new();
        stack.is_cut = depth & CUT != 0;
        stack.len = (depth & !CUT) as usize;
        let kept = self.frames.iter().take(stack.len);
        for (frame, kept) in stack.frames.iter_mut().zip(kept) {
            *frame = kept.load(Relaxed);
        }
        // Pairs with the fence of `Empty::keep`: if anything was read of a later block, the
        // sequence is a later one as well.
        fence(Acquire);
        (self.sequence.load(Relaxed) == before).then_some((about, stack))
    }
}

impl Empty {
    /// Keeps what is known of a block. The tag that it has from now on.
    pub(crate) fn keep(self, about: &About, stack: &Stack) -> u64 {
        let Some(record) = SLAB.records.get(self.0 as usize) else {
            return about.tag;
        };
        // Whoever reads what follows sees that the former block is gone.
        fence(Release);
        record.tag.store(about.tag, Relaxed);
        record.owner.store(about.owner, Relaxed);
        for (place, group) in record.groups.iter().zip(about.groups) {
            place.store(group, Relaxed);
        }
        record.size.store(about.size, Relaxed);
        record.mean.store(about.mean, Relaxed);
        record.born.store(about.born, Relaxed);
        for (place, frame) in record.frames.iter().zip(stack.frames()) {
            place.store(*frame, Relaxed);
        }
        let cut = if stack.is_cut { CUT } else { 0 };
        record.depth.store(stack.len as u32 | cut, Relaxed);
        let sequence = record.sequence.load(Relaxed);
        // Pairs with `read`.
        record.sequence.store(sequence.wrapping_add(1), Release);
        SAMPLED | u64::from(self.0)
    }
}

/// Whether this is the tag of a block in the sample.
#[inline(always)]
pub(crate) const fn is_sampled(tag: u64) -> bool {
    tag & SAMPLED != 0
}

/// The record of a block that is in the sample.
#[inline]
fn record(tag: u64) -> Option<&'static Record> {
    SLAB.records.get(tag as u32 as usize)
}

/// What a block in the sample is counted by.
pub(crate) fn counted_by(tag: u64) -> u64 {
    record(tag).map_or(UNCOUNTED, |record| record.tag.load(Relaxed))
}

/// The size of a block in the sample, and the mean that it was sampled by.
pub(crate) fn size_and_mean(tag: u64) -> (u64, u64) {
    let known = |record: &Record| (record.size.load(Relaxed), record.mean.load(Relaxed));
    record(tag).map_or((0, 0), known)
}

/// A block in the sample has another size from now on, and is as likely in it as by this mean.
/// Nobody else resizes it meanwhile, or frees it.
pub(crate) fn resize(tag: u64, size: u64, mean: u64) {
    let Some(record) = record(tag) else {
        return;
    };
    if record.mean.load(Relaxed) == mean {
        record.size.store(size, Relaxed);
        return;
    }
    // Nobody reads the one without the other: they read another block, or none.
    let sequence = record.sequence.load(Relaxed);
    record.sequence.store(sequence.wrapping_add(1), Relaxed);
    fence(Release);
    record.size.store(size, Relaxed);
    record.mean.store(mean, Relaxed);
    record.sequence.store(sequence.wrapping_add(2), Release);
}

/// A block is in the sample no longer. What it is counted by.
pub(crate) fn forget(tag: u64) -> u64 {
    let Some(record) = record(tag) else {
        return UNCOUNTED;
    };
    let counted_by = record.tag.load(Relaxed);
    let sequence = record.sequence.load(Relaxed);
    record.sequence.store(sequence.wrapping_add(1), Relaxed);
    SLAB.in_use.fetch_sub(1, Relaxed);
    put_free(tag as u32, record);
    counted_by
}

/// A record for a block. None if all are in use, which is counted.
pub(crate) fn take() -> Option<Empty> {
    let Some(index) = take_free().or_else(take_unused) else {
        SLAB.dropped.fetch_add(1, Relaxed);
        return None;
    };
    SLAB.in_use.fetch_add(1, Relaxed);
    Some(Empty(index))
}

fn put_free(index: u32, record: &Record) {
    let mut head = SLAB.free.load(Relaxed);
    loop {
        record.next.store(head as u32, Relaxed);
        let new = (head >> 32).wrapping_add(1) << 32 | u64::from(index + 1);
        match SLAB.free.compare_exchange_weak(head, new, Release, Relaxed) {
            Ok(_) => return,
            Err(now) => head = now,
        }
    }
}

fn take_free() -> Option<u32> {
    let mut head = SLAB.free.load(Acquire);
    loop {
        let index = (head as u32).checked_sub(1)?;
        let below = SLAB.records.get(index as usize)?.next.load(Relaxed);
        let new = (head >> 32).wrapping_add(1) << 32 | u64::from(below);
        match SLAB.free.compare_exchange_weak(head, new, Acquire, Acquire) {
            Ok(_) => return Some(index),
            Err(now) => head = now,
        }
    }
}

fn take_unused() -> Option<u32> {
    let more = |used: u32| (used < RECORDS as u32).then_some(used + 1);
    SLAB.used.fetch_update(Relaxed, Relaxed, more).ok()
}

/// Every block in the sample. O(records).
pub(crate) fn each(mut each: impl FnMut(About, &Stack)) {
    let used = SLAB.used.load(Relaxed) as usize;
    for record in SLAB.records.iter().take(used) {
        if let Some((about, stack)) = record.read() {
            each(about, &stack);
        }
    }
}

pub(crate) fn in_use() -> Use {
    Use {
        in_use: SLAB.in_use.load(Relaxed),
        dropped: SLAB.dropped.load(Relaxed),
    }
}
