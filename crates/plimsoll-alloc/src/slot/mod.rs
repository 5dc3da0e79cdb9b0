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

mod free;
mod group;
mod look;
mod word;

#[cfg(all(target_os = "linux", target_env = "gnu", not(plimsoll_loom)))]
pub(crate) use self::free::put_spare;
#[cfg(feature = "profile")]
pub(crate) use self::look::{groups_of, has_ended};
use self::{
    free::{Stripe, add_ended, next_generation, put_free, take},
    group::{add_to_stripe, end, leave, stripe_of},
    word::{Word, generation, index, tag},
};
pub(crate) use self::{
    group::open_group,
    look::{Bound, Held, bound, each_retained, held, scoped},
};
use crate::{
    local::BATCH,
    sync::{
        AtomicI64, AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
        fence, keep_spare, stripe,
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

/// 64 bytes, a cache line.
#[repr(align(64))]
#[cfg_attr(plimsoll_loom, derive(Default))]
struct Slot {
    /// A [`Word`].
    word: AtomicU64,
    peak: AtomicI64,
    allocated: AtomicU64,
    /// One more than the most bytes that may live; 0 is no limit. Of a group: the indices of its
    /// [stripes](group::lane).
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
    /// The index of the stripe it is in, 0 if in none; [`group::A_GROUP`] or [`group::A_STRIPE`] if it is one.
    group: AtomicU32,
}

/// The slot of a tag, unless the tag is of none.
#[inline(always)]
fn slot(tag: u64) -> Option<&'static Slot> {
    SLAB.slots.get(index(tag) as usize)
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

/// Counts bytes as allocated in the name of `tag`, that do not live.
pub(crate) fn allocated_only(tag: u64, bytes: u64) {
    let entry = Entry {
        allocated: bytes,
        ..Entry::default()
    };
    add(tag, entry);
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

/// Sets the most bytes that may live.
pub(crate) fn set_limit(tag: u64, limit: Option<u64>) {
    if let Some(slot) = slot(tag) {
        let limit = limit.map_or(0, |limit| limit.saturating_add(1));
        slot.limit.store(limit, Relaxed);
    }
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
