//! What scopes and groups hold, in a slab that is never freed.
//!
//! A tag names a slot and the *generation* of it. A slot is used again only once nothing is held in
//! its name, or by giving up on what is: then the generation is another, and what is freed later in
//! the name of the old one was an *orphan*.
//!
//! Whether a slot may be used again depends on three things: its generation, whether it has ended,
//! and what it holds. They are in one [`Word`], so that one exchange decides, and nobody counts in
//! the name of a generation that is over.
//!
//! A scope may be within another one, and in a group. What is counted in its name is counted in
//! both, and so on upwards. It keeps the other one open while it is open itself: after that, what
//! it holds keeps the other one's slot, since that holds it as well. Its group it keeps as long as
//! it has a slot.
//!
//! Threads that open scopes of one group at once would wait for each other's cache lines. So a group
//! has several slots, its *stripes*: one for each stripe of threads that has opened a scope of it.
//! Scopes are in a stripe, by which they keep the group, and what a group holds is what its stripes
//! do. The group itself keeps its stripes open as long as it has a handle, and holds as many "bytes"
//! as it has stripes: so it is over after the last of them. Free slots are kept by stripes of threads
//! as well, and each thread keeps one for the scope that it opens next.

use crate::{
    local::BATCH,
    sync::{
        AtomicI64, AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
        fence, keep_spare, stripe, take_spare,
    },
};
use std::iter;

/// Scopes and groups there can be at a time, the process as a whole included. Checkers look at all
/// of them again and again.
pub(crate) const SLOTS: usize = if cfg!(plimsoll_loom) {
    6
} else if cfg!(miri) {
    1_024
} else {
    65_536
};

/// Stripes of threads.
pub(crate) const STRIPES: usize = if cfg!(plimsoll_loom) { 2 } else { 4 };

/// The tag of what belongs to no scope, and of the group of what is in none.
pub(crate) const ROOT: u64 = 0;
/// The tag of what is not counted.
pub(crate) const UNCOUNTED: u64 = u32::MAX as u64;

/// The most bytes that may be live by [charges](charge): 64 TiB. A word has room for twice that, since
/// two who charge at once may both find room.
pub(crate) const MOST_CHARGED: i64 = 1 << 46;

/// What is no more than this part of the peak of a group may be missing of it, for each stripe.
const UNSEEN: i64 = 64;

/// How many slots are looked at before one of them is given up.
const LOOK_AT: u32 = if SLOTS < 256 { SLOTS as u32 } else { 256 };

#[cfg(not(plimsoll_loom))]
static SLAB: Slab = Slab::new();
#[cfg(plimsoll_loom)]
loom::lazy_static! {
    static ref SLAB: Slab = Slab::default();
}

/// Zero all over before its first use.
#[cfg_attr(plimsoll_loom, derive(Default))]
struct Slab {
    slots: [Slot; SLOTS],
    stripes: [Stripe; STRIPES],
    /// How many were ever used. The root is, and is not among them.
    used: AtomicU32,
    /// Where to look for one to give up.
    look_at: AtomicU32,
    /// Bytes that are held in the name of generations that were given up.
    orphans: AtomicI64,
    /// Slots that were given up.
    given_up: AtomicU64,
    /// How often no slot was found.
    refused: AtomicU64,
}

/// What the threads of a stripe have for themselves, as long as others need nothing of it.
#[repr(align(128))]
#[cfg_attr(plimsoll_loom, derive(Default))]
struct Stripe {
    /// Slots that were used and are free: the first one, 0 if there is none, and in the upper half
    /// how often that changed, so that a thread that slept between its look and its exchange
    /// notices.
    free: AtomicU64,
    /// Slots that have ended and hold something. They are added by one stripe and taken by another.
    ended: AtomicI64,
}

/// 64 bytes, a cache line.
#[repr(align(64))]
#[cfg_attr(plimsoll_loom, derive(Default))]
struct Slot {
    /// A [`Word`].
    word: AtomicU64,
    peak: AtomicI64,
    allocated: AtomicU64,
    /// One more than the most bytes that may live; 0 is no limit. Of a group: the indices of its
    /// [stripes](lane).
    limit: AtomicU64,
    /// When its last handle was dropped, as whoever dropped it tells time. Of a stripe: what it held
    /// when it looked at the peak of its group last, or the least since then.
    ended: AtomicU64,
    /// The tag of the scope it is within; the root if within none. Of a stripe: that of its group.
    outer: AtomicU64,
    /// The upper half of tags. Changes just after that of the word.
    generation: AtomicU32,
    /// Handles to it, open scopes within it and scopes of a stripe included; 0 once it has ended.
    handles: AtomicU32,
    /// Of a free slot: the next one.
    next: AtomicU32,
    /// The index of the stripe it is in, 0 if in none; [`A_GROUP`] or [`A_STRIPE`] if it is one.
    group: AtomicU32,
}

/// In the place of the stripe that a slot is in: it is a group itself.
const A_GROUP: u32 = u32::MAX;
/// It is a stripe of a group.
const A_STRIPE: u32 = u32::MAX - 1;

/// Bytes held in the upper 48 bits, signed; whether the slot has ended in bit 15; the lower 15 bits
/// of its generation. These are enough to notice that the generation has changed since a look at
/// the whole of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Word(u64);

impl Word {
    const LIVE: u32 = 16;
    const ENDED: u64 = 1 << 15;
    const GENERATION: u64 = Self::ENDED - 1;

    /// Negative while what was freed elsewhere is known before what was allocated.
    const fn live(self) -> i64 {
        self.0 as i64 >> Self::LIVE
    }

    const fn plus(self, net: i64) -> Self {
        Self(self.0.wrapping_add((net as u64) << Self::LIVE))
    }

    const fn is_of(self, tag: u64) -> bool {
        self.0 & Self::GENERATION == generation(tag) as u64 & Self::GENERATION
    }

    const fn has_ended(self) -> bool {
        self.0 & Self::ENDED != 0
    }

    const fn ended(self) -> Self {
        Self(self.0 | Self::ENDED)
    }

    /// Whether it has ended and nothing is held.
    const fn is_over(self) -> bool {
        self.has_ended() && self.live() == 0
    }

    /// The next generation, which holds nothing.
    const fn next(self) -> Self {
        Self((self.0 + 1) & Self::GENERATION)
    }
}

/// Generations have 31 bits: the highest bit of a tag is left for others.
const GENERATIONS: u32 = 0x7fff_ffff;

#[inline(always)]
const fn tag(index: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | index as u64
}

#[inline(always)]
const fn index(tag: u64) -> u32 {
    tag as u32
}

#[inline(always)]
const fn generation(tag: u64) -> u32 {
    (tag >> 32) as u32 & GENERATIONS
}

/// The slot of a tag, unless the tag is of none.
#[inline(always)]
fn slot(tag: u64) -> Option<&'static Slot> {
    SLAB.slots.get(index(tag) as usize)
}

/// The index of a stripe of a group, 0 if it has none, by what the group has in place of a limit.
#[inline(always)]
const fn lane(lanes: u64, stripe: usize) -> u32 {
    (lanes >> (16 * stripe)) as u32 & 0xffff
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
    pub(crate) limit: Option<u64>,
}

/// How often the bound of slots was met, and what that cost.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Bound {
    pub(crate) orphans: i64,
    pub(crate) given_up: u64,
    pub(crate) refused: u64,
}

/// There is no room for what was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Full {
    pub(crate) live: u64,
    pub(crate) limit: u64,
}

/// What was done to a word.
#[derive(Clone, Copy, Debug)]
struct Change {
    /// Bytes held before.
    before: i64,
    /// The tag of the scope it is within; of a stripe, that of its group.
    outer: u64,
    /// The tag of the stripe it is in.
    stripe: u64,
    /// Whether it has ended.
    ended: bool,
    /// Whether the generation is over by this. Whoever did it has the slot to itself.
    over: bool,
}

#[cfg(not(plimsoll_loom))]
impl Slab {
    const fn new() -> Self {
        Self {
            slots: [const { Slot::new() }; SLOTS],
            stripes: [const { Stripe::new() }; STRIPES],
            used: AtomicU32::new(0),
            look_at: AtomicU32::new(0),
            orphans: AtomicI64::new(0),
            given_up: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }
}

#[cfg(not(plimsoll_loom))]
impl Stripe {
    const fn new() -> Self {
        Self {
            free: AtomicU64::new(0),
            ended: AtomicI64::new(0),
        }
    }
}

impl Stripe {
    fn put_free(&self, index: u32, slot: &Slot) {
        let mut head = self.free.load(Relaxed);
        loop {
            slot.next.store(head as u32, Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(index);
            match self.free.compare_exchange_weak(head, new, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    fn take_free(&self) -> Option<u32> {
        let mut head = self.free.load(Acquire);
        loop {
            let index = head as u32;
            if index == 0 {
                return None;
            }
            let below = SLAB.slots.get(index as usize)?.next.load(Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(below);
            match self.free.compare_exchange_weak(head, new, Acquire, Acquire) {
                Ok(_) => return Some(index),
                Err(now) => head = now,
            }
        }
    }
}

/// What the threads have of the stripe that this one is in.
#[inline]
fn own() -> Option<&'static Stripe> {
    SLAB.stripes.get(stripe())
}

/// How many slots have ended and hold something. Below zero for a moment.
fn ended() -> i64 {
    let stripes = SLAB.stripes.iter();
    stripes.map(|stripe| stripe.ended.load(Relaxed)).sum()
}

fn add_ended(slots: i64) {
    if let Some(own) = own() {
        own.ended.fetch_add(slots, Relaxed);
    }
}

impl Slot {
    #[cfg(not(plimsoll_loom))]
    const fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            peak: AtomicI64::new(0),
            allocated: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            outer: AtomicU64::new(ROOT),
            generation: AtomicU32::new(0),
            handles: AtomicU32::new(0),
            next: AtomicU32::new(0),
            group: AtomicU32::new(0),
        }
    }

    /// Replaces the word of a generation, unless that is over. A word that is over becomes that of
    /// the next generation.
    #[inline]
    fn change(&self, tag: u64, change: impl Fn(Word) -> Word) -> Option<Change> {
        let mut word = Word(self.word.load(Acquire));
        if self.generation.load(Relaxed) != generation(tag) {
            return None;
        }
        loop {
            if !word.is_of(tag) {
                return None;
            }
            let (outer, stripe) = (self.outer.load(Relaxed), self.stripe());
            // Pairs with the fence of `open`: if these are of a later generation, the exchange
            // below fails.
            fence(Acquire);
            let changed = change(word);
            let over = changed.is_over();
            let new = if over { word.next() } else { changed };
            match self
                .word
                .compare_exchange_weak(word.0, new.0, AcqRel, Acquire)
            {
                Ok(_) => {
                    return Some(Change {
                        before: word.live(),
                        outer,
                        stripe,
                        ended: changed.has_ended(),
                        over,
                    });
                }
                Err(now) => word = Word(now),
            }
        }
    }

    /// Writes a batch down. None if the generation is over.
    #[inline]
    fn add(&self, tag: u64, entry: Entry) -> Option<Change> {
        let change = self.change(tag, |word| word.plus(entry.net))?;
        // Somebody else resizes a block of a scope that has ended. It may be given up just now, and
        // nobody asks any more for what it allocated.
        if change.ended && self.is_scope() {
            return Some(change);
        }
        // Relaxed: these are sums, and nothing is published by them. It is the same generation
        // still, for there is a handle.
        if entry.allocated != 0 {
            self.allocated.fetch_add(entry.allocated, Relaxed);
        }
        // Whoever only frees may come late, and whoever made it as much as it was before says so.
        if entry.high > 0 {
            self.held_at_most(change.before, change.before + entry.high);
        }
        Some(change)
    }

    /// It has held so many bytes at most, since it held what it did before.
    #[inline]
    fn held_at_most(&self, before: i64, high: i64) {
        if high > self.peak.load(Relaxed) {
            self.peak.fetch_max(high, Relaxed);
        }
        if self.is_stripe() {
            let low = self.ended.load(Relaxed) as i64;
            let low = if before < low {
                self.ended.store(before as u64, Relaxed);
                before
            } else {
                low
            };
            if high - low > BATCH {
                self.look_at_group(low, high);
            }
        }
    }

    /// A stripe holds so many bytes more than when it looked last, or than it did after that. Looks at
    /// what the whole group holds, of which nobody knows the peak otherwise, unless that is so little
    /// more that it need not be seen.
    #[cold]
    fn look_at_group(&self, low: i64, high: i64) {
        let Some(group) = slot(self.outer.load(Relaxed)) else {
            return;
        };
        if high - low <= group.peak.load(Relaxed) / UNSEEN {
            return;
        }
        self.ended.store(high as u64, Relaxed);
        // Of two that look at once, one sees what the other holds.
        fence(SeqCst);
        let own = high.max(self.live());
        group.peak.fetch_max(own + self.others(), Relaxed);
    }

    /// What other stripes of the same group hold.
    fn others(&self) -> i64 {
        if !self.is_stripe() {
            return 0;
        }
        let group = slot(self.outer.load(Relaxed));
        let stripes = group.into_iter().flat_map(Self::stripes);
        stripes.map(|(_, stripe)| stripe.live()).sum::<i64>() - self.live()
    }

    /// The stripes of a group, for whoever has a handle to it or to one of them.
    fn stripes(&self) -> impl Iterator<Item = (u32, &'static Self)> + use<> {
        // Pairs with `open_stripe`.
        let lanes = self.limit.load(Acquire);
        let indices = (0..STRIPES).map(move |stripe| lane(lanes, stripe));
        let made = indices.filter(|index| *index != 0);
        made.filter_map(|index| Some((index, SLAB.slots.get(index as usize)?)))
    }

    /// What all stripes of a group hold.
    fn held_by_stripes(&self) -> Held {
        let all = Held {
            peak: self.peak.load(Relaxed),
            ..Held::default()
        };
        self.stripes().fold(all, |all, (_, stripe)| Held {
            live: all.live + stripe.live(),
            // Of one stripe it is known to the byte.
            peak: all.peak.max(stripe.peak.load(Relaxed)),
            allocated: all.allocated + stripe.allocated.load(Relaxed),
            limit: None,
        })
    }

    /// Counts bytes, if there may be so many. For whoever has a handle: it cannot end meanwhile.
    fn reserve(&self, bytes: u64) -> Result<(), Full> {
        let most = MOST_CHARGED.saturating_sub(self.others()).max(0) as u64;
        let limit = match self.limit.load(Relaxed) {
            0 => most,
            limit => (limit - 1).min(most),
        };
        let live = |word: u64| u64::try_from(Word(word).live()).unwrap_or(0);
        let more = |word: u64| {
            let room = limit.checked_sub(live(word))?;
            (bytes <= room).then(|| Word(word).plus(bytes as i64).0)
        };
        match self.word.fetch_update(AcqRel, Relaxed, more) {
            Ok(_) => Ok(()),
            Err(word) => Err(Full {
                live: live(word),
                limit,
            }),
        }
    }

    /// The tag of the stripe it is in; the root if in none. Its slot keeps that open, so that there is
    /// no other generation of it.
    fn stripe(&self) -> u64 {
        match self.group.load(Relaxed) {
            0 | A_GROUP | A_STRIPE => ROOT,
            index => SLAB
                .slots
                .get(index as usize)
                .map_or(ROOT, |stripe| tag(index, stripe.generation.load(Relaxed))),
        }
    }

    /// The tag of the group it is in; the root if in none.
    fn group(&self) -> u64 {
        match self.group.load(Relaxed) {
            0 | A_GROUP | A_STRIPE => ROOT,
            index => SLAB
                .slots
                .get(index as usize)
                .map_or(ROOT, |stripe| stripe.outer.load(Relaxed)),
        }
    }

    fn is_scope(&self) -> bool {
        self.group.load(Relaxed) < A_STRIPE
    }

    fn is_group(&self) -> bool {
        self.group.load(Relaxed) == A_GROUP
    }

    fn is_stripe(&self) -> bool {
        self.group.load(Relaxed) == A_STRIPE
    }

    fn live(&self) -> i64 {
        Word(self.word.load(Relaxed)).live()
    }

    fn is_of(&self, tag: u64) -> bool {
        self.generation.load(Relaxed) == generation(tag)
    }
}

/// Writes a batch down, for a scope and its group, for the scope it is within, and so on.
pub(crate) fn add(tag: u64, entry: Entry) {
    let mut tag = tag;
    while let Some(slot) = slot(tag) {
        let Some(change) = slot.add(tag, entry) else {
            // It was given up, or its guard was forgotten. If it is a scope that others are within,
            // what they held then is among the orphans since.
            SLAB.orphans.fetch_add(entry.net, Relaxed);
            return;
        };
        add_to_stripe(change.stripe, entry);
        if change.over {
            add_ended(-1);
            retire(slot, tag, change.stripe);
        }
        if change.outer == ROOT {
            return;
        }
        tag = change.outer;
    }
}

fn add_to_stripe(stripe: u64, entry: Entry) {
    if stripe == ROOT {
        return;
    }
    let change = slot(stripe).and_then(|slot| Some((slot, slot.add(stripe, entry)?)));
    // The last scope of it ended just before, on another thread.
    if let Some((slot, change @ Change { over: true, .. })) = change {
        add_ended(-1);
        retire_group(slot, stripe, &change);
    }
}

/// All slots that count what is in the name of a tag, for whoever has a handle to it: scopes, and
/// stripes of groups.
fn all_above(tag: u64) -> impl Iterator<Item = &'static Slot> {
    let above = |tag| if tag == ROOT { None } else { slot(tag) };
    let scopes = iter::successors(slot(tag), move |slot| above(slot.outer.load(Relaxed)));
    scopes.flat_map(move |slot| iter::once(slot).chain(above(slot.stripe())))
}

/// Bytes are freed that were counted in the name of `tag`, by somebody else.
pub(crate) fn freed_elsewhere(tag: u64, bytes: u64) {
    let entry = Entry {
        net: -(bytes as i64),
        ..Entry::default()
    };
    add(tag, entry);
}

/// Counts bytes in the name of `tag`, no more than there may be. How many it has counted.
pub(crate) fn charge(tag: u64, bytes: u64) -> u64 {
    let room = |slot: &Slot| {
        let held = slot.live() + slot.others();
        MOST_CHARGED.saturating_sub(held).max(0) as u64
    };
    let bytes = all_above(tag).map(room).fold(bytes, u64::min);
    let entry = Entry {
        net: bytes as i64,
        high: bytes as i64,
        allocated: bytes,
    };
    add(tag, entry);
    bytes
}

/// Counts bytes in the name of `tag`, all or none: no more than may live there, or anywhere above.
/// For whoever has a handle to it.
pub(crate) fn try_charge(tag: u64, bytes: u64) -> Result<(), Full> {
    for (n, slot) in all_above(tag).enumerate() {
        if let Err(full) = slot.reserve(bytes) {
            for slot in all_above(tag).take(n) {
                slot.word.fetch_sub(bytes << Word::LIVE, AcqRel);
            }
            return Err(full);
        }
    }
    // Only now, since it is a peak of nobody who refused. Others may have made it part of theirs
    // meanwhile.
    for slot in all_above(tag) {
        slot.allocated.fetch_add(bytes, Relaxed);
        let live = slot.live();
        slot.held_at_most(live - bytes as i64, live);
    }
    Ok(())
}

/// The innermost of a scope and those that it is within in whose name more is held than may be.
pub(crate) fn over(tag: u64) -> Option<Full> {
    all_above(tag).find_map(|slot| {
        let limit = slot.limit.load(Relaxed).checked_sub(1)?;
        let live = u64::try_from(slot.live()).unwrap_or(0);
        (live > limit).then_some(Full { live, limit })
    })
}

/// Opens a slot for a scope, of a group or of none. None if all are taken.
pub(crate) fn open(group: Option<u64>) -> Option<u64> {
    open_within(group, None)
}

/// Opens a slot for a scope within another one. None if all are taken.
pub(crate) fn open_within(group: Option<u64>, outer: Option<u64>) -> Option<u64> {
    let outer = outer.unwrap_or(ROOT);
    let own = stripe();
    // A group counts once what comes to it from below.
    let group = match outer {
        ROOT => group,
        _ => group.filter(|group| all_above(outer).all(|above| above.group() != *group)),
    };
    // Before the stripe: the last place is rather one for the scope.
    let (tag, slot) = take(own)?;
    let stripe = group.and_then(|group| stripe_of(group, own)).unwrap_or(0);
    if outer != ROOT {
        // It stays open as long as there is something open in it.
        clone(outer);
    }
    if stripe != 0
        && let Some(stripe) = SLAB.slots.get(stripe as usize)
    {
        // The stripe stays as long as there is something in it.
        stripe.handles.fetch_add(1, Relaxed);
    }
    // What the former generation did happened before: whoever reads these sees that.
    fence(Release);
    slot.outer.store(outer, Relaxed);
    slot.group.store(stripe, Relaxed);
    // Pairs with `upgrade`.
    slot.handles.store(1, Release);
    Some(tag)
}

/// Opens a slot for a group, and one for its first stripe. None if all are taken.
pub(crate) fn open_group() -> Option<u64> {
    let own = stripe();
    let (tag, slot) = take(own)?;
    fence(Release);
    slot.outer.store(ROOT, Relaxed);
    slot.group.store(A_GROUP, Relaxed);
    slot.handles.store(1, Release);
    let stripe = take(own).and_then(|(stripe, slot)| open_stripe(stripe, slot, tag, own));
    if stripe.is_none() {
        close(tag, 0);
        return None;
    }
    Some(tag)
}

/// The index of the stripe in which threads of a stripe count for a group, for whoever has a handle to
/// the group.
#[inline]
fn stripe_of(group: u64, stripe: usize) -> Option<u32> {
    // Pairs with `open_stripe`.
    let lanes = slot(group)?.limit.load(Acquire);
    match lane(lanes, stripe) {
        0 => make_stripe(group, stripe),
        index => Some(index),
    }
}

#[cold]
fn make_stripe(group: u64, stripe: usize) -> Option<u32> {
    // Nothing is given up for another one.
    let free = take_free(stripe).or_else(take_unused).and_then(fresh);
    match free {
        Some((tag, slot)) => open_stripe(tag, slot, group, stripe),
        None => Some(slot(group)?.stripes().next()?.0),
    }
}

/// Opens a slot as that of a stripe, if the group has none of it by now, for whoever has a handle to the
/// group. The index of the one that it has.
fn open_stripe(tag: u64, new: &Slot, group: u64, stripe: usize) -> Option<u32> {
    let of = slot(group)?;
    new.ended.store(0, Relaxed);
    fence(Release);
    new.outer.store(group, Relaxed);
    new.group.store(A_STRIPE, Relaxed);
    // The group keeps it open.
    new.handles.store(1, Release);
    of.change(group, |word| word.plus(1))?;
    let index = index(tag);
    let add = |lanes| (lane(lanes, stripe) == 0).then(|| lanes | u64::from(index) << (16 * stripe));
    match of.limit.fetch_update(AcqRel, Acquire, add) {
        Ok(_) => Some(index),
        // Another thread of the same stripe was first.
        Err(lanes) => {
            leave(tag);
            Some(lane(lanes, stripe))
        }
    }
}

#[inline]
fn take(stripe: usize) -> Option<(u64, &'static Slot)> {
    let index = take_spare()
        .or_else(|| take_free(stripe))
        .or_else(take_unused)
        .or_else(give_up_on_one);
    match index {
        Some(index) => fresh(index),
        None => {
            SLAB.refused.fetch_add(1, Relaxed);
            None
        }
    }
}

/// A slot that nobody else has, with nothing of its former generation.
#[inline]
fn fresh(index: u32) -> Option<(u64, &'static Slot)> {
    let slot = SLAB.slots.get(index as usize)?;
    slot.peak.store(0, Relaxed);
    slot.allocated.store(0, Relaxed);
    slot.limit.store(0, Relaxed);
    Some((tag(index, slot.generation.load(Relaxed)), slot))
}

/// Another handle to an open slot, by whoever has one.
pub(crate) fn clone(tag: u64) {
    if let Some(slot) = slot(tag) {
        slot.handles.fetch_add(1, Relaxed);
    }
}

/// Another handle by a thread that is in the scope, unless that has ended under it. `now` is as for
/// [`close`].
pub(crate) fn upgrade(tag: u64, now: u64) -> bool {
    let Some(slot) = slot(tag) else {
        return false;
    };
    let one_more = |handles: u32| (handles > 0).then_some(handles + 1);
    if slot
        .handles
        .fetch_update(Acquire, Relaxed, one_more)
        .is_err()
    {
        return false;
    }
    if slot.is_of(tag) {
        return true;
    }
    // It is a handle to whoever has the slot by now.
    close(self::tag(index(tag), slot.generation.load(Relaxed)), now);
    false
}

/// A handle is dropped; `now` is the time.
pub(crate) fn close(tag: u64, now: u64) {
    let mut tag = tag;
    while let Some(slot) = slot(tag) {
        // As for `Arc`: what all handles did happens before the end.
        if slot.handles.fetch_sub(1, AcqRel) != 1 {
            return;
        }
        if !slot.is_scope() {
            return end(slot, tag);
        }
        slot.ended.store(now, Relaxed);
        let Some(change) = slot.change(tag, Word::ended) else {
            return;
        };
        if change.over {
            retire(slot, tag, change.stripe);
        } else {
            add_ended(1);
        }
        if change.outer == ROOT {
            return;
        }
        // What it holds keeps no scope open.
        tag = change.outer;
    }
}

/// Puts the slot of a scope whose word is of the next generation among the free ones.
fn retire(slot: &Slot, tag: u64, stripe: u64) {
    next_generation(slot);
    let index = index(tag);
    if !keep_spare(index) {
        put_free(index, slot);
    }
    if stripe != ROOT {
        leave(stripe);
    }
}

/// A scope is not in a stripe any more.
fn leave(stripe: u64) {
    if let Some(slot) = slot(stripe)
        && slot.handles.fetch_sub(1, AcqRel) == 1
    {
        end(slot, stripe);
    }
}

/// Nobody has a handle to a group any more, or nothing is in a stripe whose group is closed.
#[cold]
fn end(slot: &Slot, tag: u64) {
    if slot.is_group() {
        // They end with their last scopes.
        for (index, stripe) in slot.stripes() {
            leave(self::tag(index, stripe.generation.load(Relaxed)));
        }
    }
    match slot.change(tag, Word::ended) {
        Some(change) if change.over => retire_group(slot, tag, &change),
        Some(_) => add_ended(1),
        None => {}
    }
}

/// The same as [`retire`], for a group or a stripe. A group may be over by the last of its stripes.
#[cold]
fn retire_group(slot: &Slot, tag: u64, change: &Change) {
    let is_stripe = slot.is_stripe();
    next_generation(slot);
    put_free(index(tag), slot);
    if !is_stripe {
        return;
    }
    let (tag, group) = (change.outer, self::slot(change.outer));
    let change = group.and_then(|group| Some((group, group.change(tag, |word| word.plus(-1))?)));
    if let Some((group, change @ Change { over: true, .. })) = change {
        add_ended(-1);
        retire_group(group, tag, &change);
    }
}

fn next_generation(slot: &Slot) {
    let generation = slot.generation.load(Relaxed);
    // Pairs with the fence of `each_retained`: who sees the next generation of a group sees that its
    // scopes are over.
    slot.generation
        .store(generation.wrapping_add(1) & GENERATIONS, Release);
}

/// Gives back what a thread has kept for itself.
#[cfg(all(target_os = "linux", target_env = "gnu", not(plimsoll_loom)))]
pub(crate) fn put_spare(index: u32) {
    if let Some(slot) = SLAB.slots.get(index as usize) {
        put_free(index, slot);
    }
}

fn put_free(index: u32, slot: &Slot) {
    if let Some(own) = own() {
        own.put_free(index, slot);
    }
}

/// Takes a free slot: one of threads of that stripe, or of others if they have none.
#[inline]
fn take_free(stripe: usize) -> Option<u32> {
    let own = SLAB.stripes.get(stripe)?.take_free();
    own.or_else(|| SLAB.stripes.iter().find_map(Stripe::take_free))
}

fn take_unused() -> Option<u32> {
    let more = |used: u32| (used + 1 < SLOTS as u32).then_some(used + 1);
    let before = SLAB.used.fetch_update(Relaxed, Relaxed, more).ok()?;
    Some(before + 1)
}

/// Gives up on what is still held in the name of a scope that has ended: of a few, the one that
/// ended first. None if none has. Looks at every slot at most once, and at none if none has ended.
#[cold]
fn give_up_on_one() -> Option<u32> {
    for _ in 0..SLOTS as u32 / LOOK_AT {
        if ended() <= 0 {
            return None;
        }
        let from = SLAB.look_at.fetch_add(LOOK_AT, Relaxed);
        let some = (0..LOOK_AT).map(|n| from.wrapping_add(n) % SLOTS as u32);
        let ended = some.filter_map(|index| {
            let slot = SLAB.slots.get(index as usize)?;
            let word = Word(slot.word.load(Acquire));
            // A group holds what its scopes do, and is over soon after the last of them.
            let one = word.has_ended() && slot.is_scope();
            one.then(|| (slot.ended.load(Relaxed), index))
        });
        if let Some((_, index)) = ended.min()
            && give_up(index)
        {
            return Some(index);
        }
    }
    None
}

/// Gives up on what is held in the name of a scope, if it has still ended.
fn give_up(index: u32) -> bool {
    let Some(slot) = SLAB.slots.get(index as usize) else {
        return false;
    };
    let mut word = Word(slot.word.load(Acquire));
    loop {
        if !word.has_ended() {
            return false;
        }
        match slot
            .word
            .compare_exchange_weak(word.0, word.next().0, AcqRel, Acquire)
        {
            Ok(_) => break,
            Err(now) => word = Word(now),
        }
    }
    // The slot is this thread's. What is freed from now on in its former name is an orphan.
    let held = word.live();
    let (outer, stripe) = (slot.outer.load(Relaxed), slot.stripe());
    next_generation(slot);
    add_ended(-1);
    SLAB.orphans.fetch_add(held, Relaxed);
    SLAB.given_up.fetch_add(1, Relaxed);
    let entry = Entry {
        net: -held,
        ..Entry::default()
    };
    if stripe != ROOT {
        add_to_stripe(stripe, entry);
        leave(stripe);
    }
    if outer != ROOT {
        // Where that was given up before, they were orphans already, and are once again.
        add(outer, entry);
    }
    true
}

/// What is held in the name of a tag; none if its generation is over.
pub(crate) fn held(tag: u64) -> Option<Held> {
    let slot = slot(tag)?;
    let held = |slot: &Slot| match slot.is_group() {
        true => slot.held_by_stripes(),
        false => Held {
            live: slot.live(),
            peak: slot.peak.load(Relaxed),
            allocated: slot.allocated.load(Relaxed),
            limit: slot.limit.load(Relaxed).checked_sub(1),
        },
    };
    slot.is_of(tag).then(|| held(slot))
}

/// Sets the most bytes that may live.
pub(crate) fn set_limit(tag: u64, limit: Option<u64>) {
    if let Some(slot) = slot(tag) {
        let limit = limit.map_or(0, |limit| limit.saturating_add(1));
        slot.limit.store(limit, Relaxed);
    }
}

/// How often there was no slot, and what is held in the name of those given up.
pub(crate) fn bound() -> Bound {
    Bound {
        orphans: SLAB.orphans.load(Relaxed),
        given_up: SLAB.given_up.load(Relaxed),
        refused: SLAB.refused.load(Relaxed),
    }
}

/// Bytes that are held in the name of all scopes. O(slots).
pub(crate) fn scoped() -> i64 {
    let used = SLAB.used.load(Relaxed) as usize;
    let slots = SLAB.slots.iter().take(used + 1).skip(1);
    // A group holds what its scopes do, and a scope what those within it do.
    let topmost = slots.filter(|slot| slot.is_scope() && slot.outer.load(Relaxed) == ROOT);
    topmost
        .map(|slot| Word(slot.word.load(Relaxed)).live())
        .sum()
}

/// Every scope that has ended, is of a group, and in whose name bytes are held: the tag of the
/// group, when it ended, and the bytes. O(slots).
pub(crate) fn each_retained(mut each: impl FnMut(u64, u64, i64)) {
    let used = SLAB.used.load(Relaxed) as usize;
    for slot in SLAB.slots.iter().take(used + 1).skip(1) {
        let before = Word(slot.word.load(Acquire));
        if !before.has_ended() {
            continue;
        }
        let (group, ended) = (slot.group(), slot.ended.load(Relaxed));
        // Pairs with the fence of `open`: what was read is of the generation that is here, if that
        // is the same still.
        fence(Acquire);
        let now = Word(slot.word.load(Relaxed));
        let same = now.0 & Word::GENERATION == before.0 & Word::GENERATION;
        if group != ROOT && now.has_ended() && same {
            each(group, ended, now.live());
        }
    }
}

/// The tags of the groups that count what is in the name of `tag`: that of the outermost scope, and
/// the nearest one of those within it; and the tag of the outermost one.
#[cfg(any(feature = "profile", all(test, not(plimsoll_loom))))]
pub(crate) fn groups_of(tag: u64) -> ([Option<u64>; 2], u64) {
    let (mut tag, mut nearest) = (tag, None);
    while let Some(slot) = slot(tag).filter(|_| tag != ROOT) {
        let group = Some(slot.group()).filter(|group| *group != ROOT);
        let outer = slot.outer.load(Relaxed);
        // Pairs with the fence of `open`: what was read is of this generation, if it is here still.
        // It was given up, or a guard was forgotten and it has ended under that, if not.
        fence(Acquire);
        if !slot.is_of(tag) {
            break;
        }
        if outer == ROOT {
            return ([group, nearest], tag);
        }
        tag = outer;
        nearest = nearest.or(group);
    }
    ([None, nearest], tag)
}

/// Counts bytes as allocated in the name of `tag`, that do not live.
pub(crate) fn allocated_only(tag: u64, bytes: u64) {
    let entry = Entry {
        allocated: bytes,
        ..Entry::default()
    };
    add(tag, entry);
}

/// Whether a scope has ended.
#[cfg(feature = "profile")]
pub(crate) fn has_ended(tag: u64) -> bool {
    slot(tag).is_none_or(|slot| {
        let word = Word(slot.word.load(Acquire));
        !word.is_of(tag) || word.has_ended() || !slot.is_of(tag)
    })
}

#[cfg(all(test, not(plimsoll_loom)))]
#[allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]
mod tests {
    use super::*;

    #[test]
    fn groups_of_a_scope_are_that_of_the_topmost_and_the_nearest_of_those_within() {
        let [route, adapter, driver] = [(); 3].map(|()| open_group().unwrap());
        let within = |group, outer| open_within(group, Some(outer)).unwrap();
        let request = open(Some(route)).unwrap();
        let helper = within(None, request);
        let call = within(Some(adapter), helper);
        let query = within(Some(driver), call);
        let page = within(None, query);
        assert_eq!(groups_of(request).0, [Some(route), None]);
        assert_eq!(groups_of(helper).0, [Some(route), None]);
        assert_eq!(groups_of(call).0, [Some(route), Some(adapter)]);
        assert_eq!(groups_of(query).0, [Some(route), Some(driver)]);
        assert_eq!(groups_of(page).0, [Some(route), Some(driver)]);

        let alone = open(None).unwrap();
        let own = within(Some(adapter), alone);
        assert_eq!(groups_of(alone).0, [None, None]);
        assert_eq!(groups_of(own).0, [None, Some(adapter)]);
        for nobody in [ROOT, UNCOUNTED] {
            assert_eq!(groups_of(nobody).0, [None, None]);
        }
        for tag in [page, query, call, helper, request, own, alone] {
            close(tag, 0);
        }
        assert_eq!(groups_of(request).0, [None, None]);
        for group in [route, adapter, driver] {
            close(group, 0);
        }
    }
}
