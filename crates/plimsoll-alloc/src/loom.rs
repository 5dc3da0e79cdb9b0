//! The races for a slot, in every order with a few switches of threads where none is needed.
//!
//! The slab has five slots besides that of the process, of which a group takes one more for each of the
//! two stripes of threads. Every model ends with all handles dropped and all bytes freed, and then
//! every slot has to be free again, once.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use crate::{
    slot::{self, Entry, ROOT, SLOTS},
    sync::STRIPE,
};
use ::loom::{model::Builder, thread};
use std::collections::BTreeSet;

/// Checks every order with a few switches of threads where none is needed.
fn check(preemptions: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut model = Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(test);
}

/// A scope that holds some bytes, and has one handle.
fn scope(group: Option<u64>, bytes: u64) -> u64 {
    let tag = slot::open(group).unwrap();
    allocated(tag, bytes);
    tag
}

fn allocated(tag: u64, bytes: u64) {
    let entry = Entry {
        net: bytes as i64,
        high: bytes as i64,
        allocated: bytes,
    };
    slot::add(tag, entry);
}

fn live(tag: u64) -> Option<i64> {
    slot::held(tag).map(|held| held.live)
}

/// Has all slots taken but for so many.
fn leave(free: usize) -> Vec<u64> {
    let taken = (free + 1..SLOTS).map(|_| slot::open(None).unwrap());
    taken.collect()
}

/// A thread of the other stripe.
fn on_other_stripe<T: 'static>(work: impl FnOnce() -> T + 'static) -> thread::JoinHandle<T> {
    thread::spawn(|| {
        STRIPE.with(|stripe| stripe.set(1));
        work()
    })
}

/// Every slot can be taken, once, and holds nothing.
fn assert_all_are_free() {
    let tags: BTreeSet<_> = (1..SLOTS).map(|_| slot::open(None).unwrap()).collect();
    let slots: BTreeSet<_> = tags.iter().map(|tag| *tag as u32).collect();
    assert_eq!(slots.len(), SLOTS - 1);
    assert!(tags.iter().all(|tag| live(*tag) == Some(0)));
    assert_eq!(slot::open(None), None);
}

#[test]
fn slot_that_is_taken_and_freed_meanwhile_is_given_once() {
    check(3, || {
        let both = [slot::open(None).unwrap(), slot::open(None).unwrap()];
        both.into_iter().for_each(|tag| slot::close(tag, 1));
        let other = thread::spawn(|| {
            let [first, second] = [slot::open(None), slot::open(None)];
            first.map(|tag| slot::close(tag, 1));
            second
        });
        let mine = slot::open(None);
        let second = other.join().unwrap();
        let kept: Vec<_> = [second, mine, slot::open(None)]
            .into_iter()
            .flatten()
            .collect();
        let different: BTreeSet<_> = kept.iter().map(|tag| *tag as u32).collect();
        assert_eq!(different.len(), kept.len());
        for tag in kept {
            slot::close(tag, 1);
        }
        assert_all_are_free();
    });
}

#[test]
fn slot_is_free_again_however_its_end_and_its_last_frees_meet() {
    check(3, || {
        let tag = scope(None, 30);
        let frees = [10, 20].map(|bytes| thread::spawn(move || slot::freed_elsewhere(tag, bytes)));
        slot::close(tag, 1);
        for free in frees {
            free.join().unwrap();
        }
        assert_eq!(slot::bound().orphans, 0);
        assert_all_are_free();
    });
}

#[test]
fn free_that_sleeps_does_not_end_who_has_the_slot_next() {
    check(3, || {
        let tag = scope(None, 10);
        let free = thread::spawn(move || slot::freed_elsewhere(tag, 10));
        let next = thread::spawn(move || {
            slot::close(tag, 1);
            // Perhaps in the same slot, and retains something at once.
            let next = scope(None, 7);
            slot::close(next, 2);
            next
        });
        free.join().unwrap();
        let next = next.join().unwrap();
        assert_eq!(live(next), Some(7));
        slot::freed_elsewhere(next, 7);
        assert_eq!(slot::bound().orphans, 0);
        assert_all_are_free();
    });
}

#[test]
fn batches_of_two_handles_meet_foreign_frees_and_the_end() {
    check(2, || {
        let tag = scope(None, 10);
        slot::clone(tag);
        let handle = thread::spawn(move || {
            allocated(tag, 5);
            slot::close(tag, 1);
        });
        let free = thread::spawn(move || slot::freed_elsewhere(tag, 10));
        allocated(tag, 1);
        slot::close(tag, 1);
        handle.join().unwrap();
        free.join().unwrap();
        assert_eq!(live(tag), Some(6));
        slot::freed_elsewhere(tag, 6);
        assert_all_are_free();
    });
}

#[test]
fn group_outlives_its_scopes_and_is_free_after_them() {
    check(2, || {
        let group = slot::open_group().unwrap();
        let tag = scope(Some(group), 30);
        let frees = [10, 20].map(|bytes| thread::spawn(move || slot::freed_elsewhere(tag, bytes)));
        slot::close(group, 1);
        slot::close(tag, 2);
        for free in frees {
            free.join().unwrap();
        }
        assert_eq!(slot::bound().orphans, 0);
        assert_all_are_free();
    });
}

#[test]
fn bytes_of_a_scope_that_is_given_up_are_orphans_until_they_are_freed() {
    check(3, || {
        let taken = leave(4);
        let group = slot::open_group().unwrap();
        let kept = scope(Some(group), 10);
        let open = slot::open(None).unwrap();
        slot::close(kept, 1);
        let free = thread::spawn(move || slot::freed_elsewhere(kept, 4));
        // There is no other slot.
        let next = scope(Some(group), 3);
        free.join().unwrap();
        let sum = slot::bound().orphans + live(group).unwrap();
        assert_eq!(sum, 6 + 3);
        assert_eq!(slot::bound().orphans, 6);
        assert_eq!(live(next), Some(3));
        slot::freed_elsewhere(kept, 6);
        assert_eq!(slot::bound().orphans, 0);
        slot::freed_elsewhere(next, 3);
        for tag in [next, open, group].into_iter().chain(taken) {
            slot::close(tag, 2);
        }
        assert_all_are_free();
    });
}

#[test]
fn two_who_need_a_slot_do_not_get_the_same() {
    check(3, || {
        let taken = leave(3);
        let kept = scope(None, 10);
        let used = slot::open(None).unwrap();
        slot::close(kept, 1);
        // One slot was never used, one can be given up.
        let other = thread::spawn(|| slot::open(None));
        let free = thread::spawn(move || slot::close(used, 1));
        let tags = [slot::open(None), other.join().unwrap()];
        free.join().unwrap();
        let slots: BTreeSet<_> = tags.iter().flatten().map(|tag| *tag as u32).collect();
        assert_eq!(slots.len(), 2);
        slot::freed_elsewhere(kept, 10);
        for tag in tags.into_iter().flatten().chain(taken) {
            slot::close(tag, 2);
        }
        assert_all_are_free();
    });
}

#[test]
fn handle_by_a_forgotten_guard_is_of_that_scope_or_none() {
    check(3, || {
        let tag = scope(None, 0);
        let late = thread::spawn(move || {
            if slot::upgrade(tag, 1) {
                assert_eq!(live(tag), Some(0));
                slot::close(tag, 1);
            }
        });
        slot::close(tag, 1);
        let next = slot::open(None).unwrap();
        late.join().unwrap();
        assert_eq!(live(next), Some(0));
        slot::close(next, 1);
        assert_all_are_free();
    });
}

#[test]
fn what_belongs_to_no_scope_is_a_sum() {
    check(3, || {
        let other = thread::spawn(|| allocated(ROOT, 5));
        slot::freed_elsewhere(ROOT, 3);
        other.join().unwrap();
        assert_eq!(live(ROOT), Some(2));
    });
}

#[test]
fn reader_of_what_is_retained_sees_a_scope_of_the_group_or_nothing() {
    check(3, || {
        let group = slot::open_group().unwrap();
        let tag = scope(Some(group), 10);
        slot::close(tag, 1);
        let reader = thread::spawn(move || {
            let mut seen = Vec::new();
            slot::each_retained(|group, ended, bytes| seen.push((group, ended, bytes)));
            seen
        });
        slot::freed_elsewhere(tag, 10);
        // In the same slot, and in no group.
        let next = scope(None, 7);
        slot::close(next, 2);
        let seen = reader.join().unwrap();
        assert!(seen.is_empty() || seen == [(group, 1, 10)], "{seen:?}");
        slot::freed_elsewhere(next, 7);
        slot::close(group, 3);
        assert_all_are_free();
    });
}

#[test]
fn group_is_not_given_up_while_the_last_frees_of_its_scopes_reach_it() {
    check(3, || {
        let taken = leave(4);
        let group = slot::open_group().unwrap();
        let kept = scope(Some(group), 10);
        let open = slot::open(None).unwrap();
        slot::close(kept, 1);
        slot::close(group, 1);
        let frees = [4, 6].map(|bytes| thread::spawn(move || slot::freed_elsewhere(kept, bytes)));
        // There is no other slot, unless all is freed before.
        let next = slot::open(None);
        for free in frees {
            free.join().unwrap();
        }
        assert_eq!(slot::bound().orphans, 0);
        for tag in next.into_iter().chain([open]).chain(taken) {
            slot::close(tag, 2);
        }
        assert_all_are_free();
    });
}

/// A scope that holds some bytes within another one.
fn scope_within(group: Option<u64>, outer: u64, bytes: u64) -> u64 {
    let tag = slot::open_within(group, Some(outer)).unwrap();
    allocated(tag, bytes);
    tag
}

#[test]
fn last_frees_of_a_scope_reach_the_one_it_is_within_while_both_end() {
    check(3, || {
        let outer = scope(None, 0);
        let inner = scope_within(None, outer, 30);
        let frees =
            [10, 20].map(|bytes| thread::spawn(move || slot::freed_elsewhere(inner, bytes)));
        slot::close(outer, 1);
        slot::close(inner, 2);
        for free in frees {
            free.join().unwrap();
        }
        assert_eq!(slot::bound().orphans, 0);
        assert_all_are_free();
    });
}

#[test]
fn scope_and_the_one_it_is_within_are_freed_by_two_at_once() {
    check(3, || {
        let group = slot::open_group().unwrap();
        let outer = scope(None, 5);
        let inner = scope_within(Some(group), outer, 10);
        slot::close(group, 1);
        slot::close(inner, 1);
        let free = thread::spawn(move || slot::freed_elsewhere(inner, 10));
        let other = thread::spawn(move || slot::freed_elsewhere(outer, 5));
        slot::close(outer, 2);
        free.join().unwrap();
        other.join().unwrap();
        assert_eq!(slot::bound().orphans, 0);
        assert_all_are_free();
    });
}

#[test]
fn scope_ends_while_the_one_it_is_within_does_on_another_thread() {
    check(3, || {
        let group = slot::open_group().unwrap();
        let outer = scope(Some(group), 0);
        let inner = scope_within(None, outer, 10);
        let other = thread::spawn(move || slot::close(outer, 1));
        let free = thread::spawn(move || slot::freed_elsewhere(inner, 10));
        slot::close(inner, 2);
        other.join().unwrap();
        free.join().unwrap();
        assert_eq!(live(group), Some(0));
        slot::close(group, 3);
        assert_eq!(slot::bound().orphans, 0);
        assert_all_are_free();
    });
}

#[test]
fn scope_is_freed_while_the_one_it_is_within_is_given_up() {
    check(3, || {
        let taken = leave(3);
        let outer = scope(None, 5);
        let inner = scope_within(None, outer, 10);
        let open = slot::open(None).unwrap();
        slot::close(inner, 1);
        // First, as their ends are told.
        slot::close(outer, 0);
        let free = thread::spawn(move || slot::freed_elsewhere(inner, 4));
        let next = slot::open(None).unwrap();
        free.join().unwrap();
        assert_eq!(slot::bound().orphans, 11);
        assert_eq!(live(inner), Some(6));
        assert_eq!([live(outer), live(next)], [None, Some(0)]);
        assert_eq!(slot::scoped(), 0);
        let last = thread::spawn(move || slot::freed_elsewhere(outer, 5));
        slot::freed_elsewhere(inner, 6);
        last.join().unwrap();
        assert_eq!(slot::bound().orphans, 0);
        for tag in [next, open].into_iter().chain(taken) {
            slot::close(tag, 2);
        }
        assert_all_are_free();
    });
}

#[test]
fn scope_is_given_up_while_it_and_the_one_it_is_within_are_freed() {
    check(3, || {
        let taken = leave(3);
        let outer = scope(None, 5);
        let inner = scope_within(None, outer, 10);
        let open = slot::open(None).unwrap();
        slot::close(inner, 1);
        let free = thread::spawn(move || slot::freed_elsewhere(inner, 4));
        let next = slot::open(None).unwrap();
        free.join().unwrap();
        assert_eq!(slot::bound().orphans, 6);
        assert_eq!([live(inner), live(next)], [None, Some(0)]);
        assert_eq!(live(outer), Some(5));
        assert_eq!(slot::scoped(), 5);
        let last = thread::spawn(move || slot::freed_elsewhere(inner, 6));
        slot::freed_elsewhere(outer, 5);
        last.join().unwrap();
        assert_eq!(slot::bound().orphans, 0);
        for tag in [next, open, outer].into_iter().chain(taken) {
            slot::close(tag, 2);
        }
        assert_all_are_free();
    });
}

#[test]
fn scope_and_the_one_it_is_within_are_given_up_at_once() {
    for ends in [[1, 2], [2, 1]] {
        check(3, move || {
            let taken = leave(3);
            let outer = scope(None, 5);
            let inner = scope_within(None, outer, 10);
            let open = slot::open(None).unwrap();
            slot::close(inner, ends[0]);
            slot::close(outer, ends[1]);
            let other = thread::spawn(|| slot::open(None));
            // One of them may find nothing, if both have looked at the same.
            let tags = [slot::open(None), other.join().unwrap()];
            assert_eq!(slot::bound().orphans + slot::scoped(), 15);
            slot::freed_elsewhere(inner, 10);
            slot::freed_elsewhere(outer, 5);
            assert_eq!(slot::bound().orphans, 0);
            for tag in tags.into_iter().flatten().chain([open]).chain(taken) {
                slot::close(tag, 2);
            }
            assert_all_are_free();
        });
    }
}

#[test]
fn group_of_a_scope_within_another_is_free_after_its_last_frees() {
    check(3, || {
        let group = slot::open_group().unwrap();
        let outer = slot::open(None).unwrap();
        let inner = scope_within(Some(group), outer, 30);
        slot::close(inner, 1);
        let frees =
            [10, 20].map(|bytes| thread::spawn(move || slot::freed_elsewhere(inner, bytes)));
        slot::close(group, 1);
        for free in frees {
            free.join().unwrap();
        }
        assert_eq!(live(outer), Some(0));
        slot::close(outer, 2);
        assert_eq!(slot::bound().orphans, 0);
        assert_all_are_free();
    });
}

#[test]
fn free_that_sleeps_says_nothing_of_who_has_the_slot_next() {
    check(3, || {
        let tag = scope(None, 10);
        let free = thread::spawn(move || slot::freed_elsewhere(tag, 10));
        slot::close(tag, 1);
        let next = slot::open(None).unwrap();
        free.join().unwrap();
        assert_eq!(slot::held(next), Some(slot::Held::default()));
        slot::close(next, 2);
        assert_all_are_free();
    });
}

#[test]
fn charges_that_are_tried_at_once_are_within_the_limit_together() {
    check(3, || {
        let outer = scope(None, 0);
        let scopes = [(); 2].map(|()| scope_within(None, outer, 0));
        slot::set_limit(outer, Some(100));
        let tries = scopes.map(|tag| {
            thread::spawn(move || {
                let charged = slot::try_charge(tag, 60).is_ok();
                assert!(live(outer).unwrap() <= 100);
                charged
            })
        });
        let charged = tries.map(|tried| u64::from(tried.join().unwrap()));
        assert_eq!(charged.iter().sum::<u64>(), 1);
        assert_eq!(live(outer), Some(60));
        for (tag, charged) in scopes.into_iter().zip(charged) {
            assert_eq!(live(tag), Some(60 * charged as i64));
            slot::freed_elsewhere(tag, 60 * charged);
            slot::close(tag, 1);
        }
        slot::close(outer, 1);
        assert_all_are_free();
    });
}

#[test]
fn charge_that_is_tried_sees_what_is_counted_meanwhile() {
    check(3, || {
        let tag = scope(None, 0);
        slot::set_limit(tag, Some(100));
        let tried = thread::spawn(move || slot::try_charge(tag, 60).is_ok());
        allocated(tag, 40);
        let charged = slot::try_charge(tag, 50).is_ok();
        let tried = tried.join().unwrap();
        assert_ne!(tried, charged);
        let held = if tried { 60 } else { 50 };
        assert_eq!(live(tag), Some(40 + held));
        slot::freed_elsewhere(tag, 40 + held.unsigned_abs());
        slot::close(tag, 1);
        assert_all_are_free();
    });
}

#[test]
fn reader_of_what_all_groups_retain_names_the_group_of_that_scope() {
    check(3, || {
        let retained = |ended, bytes| {
            let group = slot::open_group().unwrap();
            let tag = scope(Some(group), bytes);
            slot::close(group, ended);
            slot::close(tag, ended);
            (tag, (group, ended, bytes as i64))
        };
        let (tag, first) = retained(1, 10);
        let reader = thread::spawn(|| {
            let mut seen = Vec::new();
            slot::each_retained(|group, ended, bytes| seen.push((group, ended, bytes)));
            seen
        });
        slot::freed_elsewhere(tag, 10);
        // In the same slots.
        let (next, second) = retained(2, 7);
        let seen = reader.join().unwrap();
        let right = |seen| seen == first || seen == second;
        assert!(seen.iter().copied().all(right), "{seen:?}");
        slot::freed_elsewhere(next, 7);
        assert_all_are_free();
    });
}

#[test]
fn group_is_over_after_the_last_scope_of_any_of_its_stripes() {
    check(3, || {
        let group = slot::open_group().unwrap();
        let tag = scope(Some(group), 10);
        slot::clone(group);
        let other = on_other_stripe(move || {
            let tag = scope(Some(group), 5);
            slot::close(group, 1);
            slot::close(tag, 1);
            slot::freed_elsewhere(tag, 5);
        });
        slot::close(tag, 1);
        slot::close(group, 1);
        slot::freed_elsewhere(tag, 10);
        other.join().unwrap();
        assert_eq!(slot::bound().orphans, 0);
        assert_all_are_free();
    });
}

#[test]
fn stripe_that_two_threads_make_at_once_is_one() {
    check(3, || {
        let group = slot::open_group().unwrap();
        slot::clone(group);
        let other = thread::spawn(move || {
            let tag = scope(Some(group), 5);
            slot::close(group, 1);
            tag
        });
        let tag = scope(Some(group), 10);
        let tags = [tag, other.join().unwrap()];
        assert_eq!(live(group), Some(15));
        // Group, stripe, and two scopes.
        let free = slot::open(None).unwrap();
        assert_eq!(slot::open(None), None);
        for (tag, bytes) in tags.into_iter().zip([10, 5]) {
            slot::freed_elsewhere(tag, bytes);
        }
        for tag in tags.into_iter().chain([free, group]) {
            slot::close(tag, 1);
        }
        assert_all_are_free();
    });
}

#[test]
fn group_holds_what_all_of_its_stripes_do_and_did_at_most() {
    check(3, || {
        let group = slot::open_group().unwrap();
        let tag = scope(Some(group), 10);
        let other = on_other_stripe(move || scope(Some(group), 500_000));
        allocated(tag, 300_000);
        let tags = [tag, other.join().unwrap()];
        let held = slot::held(group).unwrap();
        assert_eq!((held.live, held.allocated), (800_010, 800_010));
        assert_eq!(held.peak, 800_010);
        for (tag, bytes) in tags.into_iter().zip([300_010, 500_000]) {
            slot::freed_elsewhere(tag, bytes);
            slot::close(tag, 1);
        }
        assert_eq!(live(group), Some(0));
        slot::close(group, 1);
        assert_all_are_free();
    });
}

#[test]
fn slot_that_was_freed_on_another_stripe_is_found() {
    check(3, || {
        let taken = leave(1);
        let [mine, theirs] = [slot::open(None).unwrap(), taken[0]];
        let other = on_other_stripe(move || {
            slot::close(theirs, 1);
            slot::open(None)
        });
        slot::close(mine, 1);
        let next = slot::open(None);
        let tags = [next, other.join().unwrap()];
        let slots: BTreeSet<_> = tags.iter().flatten().map(|tag| *tag as u32).collect();
        assert_eq!(slots.len(), 2);
        for tag in tags.into_iter().flatten().chain(taken.into_iter().skip(1)) {
            slot::close(tag, 1);
        }
        assert_all_are_free();
    });
}

/// The records of the sample, of which there are two.
#[cfg(feature = "profile")]
mod records {
    use super::*;
    use crate::records::{self, About, Stack, Use};

    /// A block of which everything says so many bytes.
    fn sampled(bytes: u64) -> Option<u64> {
        let empty = records::take()?;
        let about = About {
            tag: bytes,
            owner: bytes,
            groups: [bytes; 2],
            size: bytes,
            mean: bytes,
            born: bytes,
        };
        let mut stack = Stack::new();
        stack.push(bytes);
        Some(empty.keep(&about, &stack))
    }

    /// The blocks in the sample, each by all that is known of it.
    fn seen() -> Vec<u64> {
        let mut seen = Vec::new();
        records::each(|about, stack| {
            let About {
                tag,
                owner,
                groups,
                size,
                mean,
                born,
            } = about;
            let all = [tag, owner, groups[0], groups[1], size, mean, born];
            assert!(all.iter().all(|one| *one == tag), "{about:?}");
            assert_eq!(stack.frames(), [tag]);
            seen.push(tag);
        });
        seen
    }

    #[test]
    fn reader_sees_a_whole_record_or_none() {
        check(3, || {
            let first = sampled(1).unwrap();
            let reader = thread::spawn(seen);
            assert_eq!(records::forget(first), 1);
            // In the same record.
            let second = sampled(2).unwrap();
            assert_eq!(first, second);
            let seen = reader.join().unwrap();
            assert!(matches!(seen[..], [] | [1] | [2]), "{seen:?}");
            assert_eq!(records::forget(second), 2);
            assert_eq!(records::in_use().in_use, 0);
        });
    }

    #[test]
    fn blocks_of_two_threads_have_two_records_whoever_frees_them() {
        check(3, || {
            let first = sampled(1).unwrap();
            let other = thread::spawn(move || {
                assert_eq!(records::forget(first), 1);
                sampled(2)
            });
            let mine = [sampled(3), sampled(4)];
            let all = [other.join().unwrap(), mine[0], mine[1]];
            // One found none, at the least.
            let found: Vec<_> = all.into_iter().flatten().collect();
            let different: BTreeSet<_> = found.iter().collect();
            assert_eq!(different.len(), found.len());
            assert!(found.len() <= 2);
            let Use { in_use, dropped } = records::in_use();
            assert_eq!(in_use as usize, found.len());
            assert_eq!(dropped as usize, 3 - found.len());
            let mut told: Vec<_> = found.iter().map(|tag| records::forget(*tag)).collect();
            told.sort_unstable();
            assert!(told.iter().all(|bytes| [2, 3, 4].contains(bytes)));
            assert!(seen().is_empty());
            // Both are free again.
            let again = [sampled(5), sampled(6), sampled(7)].map(|tag| tag.is_some());
            assert_eq!(again, [true, true, false]);
        });
    }
    #[test]
    fn record_that_is_taken_and_freed_meanwhile_is_given_once() {
        check(3, || {
            let both = [sampled(1), sampled(2)];
            for tag in both.into_iter().flatten() {
                records::forget(tag);
            }
            let other = thread::spawn(|| {
                let [first, second] = [sampled(3), sampled(4)];
                first.map(records::forget);
                second
            });
            let mine = sampled(5);
            let second = other.join().unwrap();
            // Whatever is left over.
            let kept = [second, mine, sampled(6)];
            let kept: Vec<_> = kept.into_iter().flatten().collect();
            let different: BTreeSet<_> = kept.iter().collect();
            assert_eq!(different.len(), kept.len());
            assert_eq!(records::in_use().in_use as usize, kept.len());
        });
    }
}
