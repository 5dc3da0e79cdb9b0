//! Slots that are free, and those that are given up when none is.

use super::{
    Entry, ROOT, SLAB, SLOTS, Slot, add, add_to_stripe, leave,
    word::{GENERATIONS, Word, tag},
};
use crate::sync::{
    AtomicI64, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    stripe, take_spare,
};

/// How many slots are looked at before one of them is given up.
pub(super) const LOOK_AT: u32 = if SLOTS < 256 { SLOTS as u32 } else { 256 };

/// What the threads of a stripe have for themselves, as long as others need nothing of it.
#[repr(align(128))]
#[cfg_attr(plimsoll_loom, derive(Default))]
pub(super) struct Stripe {
    /// Slots that were used and are free: the first one, 0 if there is none, and in the upper half
    /// how often that changed, so that a thread that slept between its look and its exchange
    /// notices.
    free: AtomicU64,
    /// Slots that have ended and hold something. They are added by one stripe and taken by another.
    ended: AtomicI64,
}

#[cfg(not(plimsoll_loom))]
impl Stripe {
    pub(super) const fn new() -> Self {
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
pub(super) fn own() -> Option<&'static Stripe> {
    SLAB.stripes.get(stripe())
}

/// How many slots have ended and hold something. Below zero for a moment.
pub(super) fn ended() -> i64 {
    let stripes = SLAB.stripes.iter();
    stripes.map(|stripe| stripe.ended.load(Relaxed)).sum()
}

pub(super) fn add_ended(slots: i64) {
    if let Some(own) = own() {
        own.ended.fetch_add(slots, Relaxed);
    }
}

#[inline]
pub(super) fn take(stripe: usize) -> Option<(u64, &'static Slot)> {
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
pub(super) fn fresh(index: u32) -> Option<(u64, &'static Slot)> {
    let slot = SLAB.slots.get(index as usize)?;
    slot.peak.store(0, Relaxed);
    slot.allocated.store(0, Relaxed);
    slot.limit.store(0, Relaxed);
    Some((tag(index, slot.generation.load(Relaxed)), slot))
}

pub(super) fn next_generation(slot: &Slot) {
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

pub(super) fn put_free(index: u32, slot: &Slot) {
    if let Some(own) = own() {
        own.put_free(index, slot);
    }
}

/// Takes a free slot: one of threads of that stripe, or of others if they have none.
#[inline]
pub(super) fn take_free(stripe: usize) -> Option<u32> {
    let own = SLAB.stripes.get(stripe)?.take_free();
    own.or_else(|| SLAB.stripes.iter().find_map(Stripe::take_free))
}

pub(super) fn take_unused() -> Option<u32> {
    let more = |used: u32| (used + 1 < SLOTS as u32).then_some(used + 1);
    let before = SLAB.used.fetch_update(Relaxed, Relaxed, more).ok()?;
    Some(before + 1)
}

/// Gives up on what is still held in the name of a scope that has ended: of a few, the one that
/// ended first. None if none has. Looks at every slot at most once, and at none if none has ended.
#[cold]
pub(super) fn give_up_on_one() -> Option<u32> {
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
pub(super) fn give_up(index: u32) -> bool {
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
