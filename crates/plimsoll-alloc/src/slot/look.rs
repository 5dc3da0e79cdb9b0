//! Looks at what is held. They stop nobody.

use super::{ROOT, SLAB, Slot, slot, word::Word};
use crate::sync::{
    Ordering::{Acquire, Relaxed},
    fence,
};

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
    use super::{
        super::{UNCOUNTED, close, open, open_group, open_within},
        *,
    };

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
