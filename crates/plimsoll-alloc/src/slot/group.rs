//! Groups of scopes, and their stripes.

use super::{
    Change, Entry, Held, ROOT, SLAB, STRIPES, Slot, close,
    free::{add_ended, fresh, next_generation, put_free, take, take_free, take_unused},
    slot,
    word::{Word, index, tag},
};
use crate::sync::{
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
    fence, stripe,
};

/// What is no more than this part of the peak of a group may be missing of it, for each stripe.
const UNSEEN: i64 = 64;

/// In the place of the stripe that a slot is in: it is a group itself.
pub(super) const A_GROUP: u32 = u32::MAX;
/// It is a stripe of a group.
pub(super) const A_STRIPE: u32 = u32::MAX - 1;

/// The index of a stripe of a group, 0 if it has none, by what the group has in place of a limit.
#[inline(always)]
pub(super) const fn lane(lanes: u64, stripe: usize) -> u32 {
    (lanes >> (16 * stripe)) as u32 & 0xffff
}

impl Slot {
    /// A stripe holds so many bytes more than when it looked last, or than it did after that. Looks at
    /// what the whole group holds, of which nobody knows the peak otherwise, unless that is so little
    /// more that it need not be seen.
    #[cold]
    pub(super) fn look_at_group(&self, low: i64, high: i64) {
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
    pub(super) fn others(&self) -> i64 {
        if !self.is_stripe() {
            return 0;
        }
        let group = slot(self.outer.load(Relaxed));
        let stripes = group.into_iter().flat_map(Self::stripes);
        stripes.map(|(_, stripe)| stripe.live()).sum::<i64>() - self.live()
    }

    /// The stripes of a group, for whoever has a handle to it or to one of them.
    pub(super) fn stripes(&self) -> impl Iterator<Item = (u32, &'static Self)> + use<> {
        // Pairs with `open_stripe`.
        let lanes = self.limit.load(Acquire);
        let indices = (0..STRIPES).map(move |stripe| lane(lanes, stripe));
        let made = indices.filter(|index| *index != 0);
        made.filter_map(|index| Some((index, SLAB.slots.get(index as usize)?)))
    }

    /// What all stripes of a group hold.
    pub(super) fn held_by_stripes(&self) -> Held {
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

    /// The tag of the stripe it is in; the root if in none. Its slot keeps that open, so that there is
    /// no other generation of it.
    pub(super) fn stripe(&self) -> u64 {
        match self.group.load(Relaxed) {
            0 | A_GROUP | A_STRIPE => ROOT,
            index => SLAB
                .slots
                .get(index as usize)
                .map_or(ROOT, |stripe| tag(index, stripe.generation.load(Relaxed))),
        }
    }

    /// The tag of the group it is in; the root if in none.
    pub(super) fn group(&self) -> u64 {
        match self.group.load(Relaxed) {
            0 | A_GROUP | A_STRIPE => ROOT,
            index => SLAB
                .slots
                .get(index as usize)
                .map_or(ROOT, |stripe| stripe.outer.load(Relaxed)),
        }
    }

    pub(super) fn is_scope(&self) -> bool {
        self.group.load(Relaxed) < A_STRIPE
    }

    pub(super) fn is_group(&self) -> bool {
        self.group.load(Relaxed) == A_GROUP
    }

    pub(super) fn is_stripe(&self) -> bool {
        self.group.load(Relaxed) == A_STRIPE
    }
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

pub(super) fn add_to_stripe(stripe: u64, entry: Entry) {
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

/// The index of the stripe in which threads of a stripe count for a group, for whoever has a handle to
/// the group.
#[inline]
pub(super) fn stripe_of(group: u64, stripe: usize) -> Option<u32> {
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

/// A scope is not in a stripe any more.
pub(super) fn leave(stripe: u64) {
    if let Some(slot) = slot(stripe)
        && slot.handles.fetch_sub(1, AcqRel) == 1
    {
        end(slot, stripe);
    }
}

/// Nobody has a handle to a group any more, or nothing is in a stripe whose group is closed.
#[cold]
pub(super) fn end(slot: &Slot, tag: u64) {
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

/// The same as [`retire`](super::retire), for a group or a stripe. A group may be over by the last of its stripes.
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
