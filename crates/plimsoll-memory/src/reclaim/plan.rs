//! Who is shrunk by how much.

use plimsoll_core::{Name, ShrinkPolicy};
use std::collections::BTreeMap;

/// A holding that may be shrunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) name: Name,
    pub(super) bytes: u64,
    pub(super) policy: ShrinkPolicy,
}

/// Candidates of one priority, the lowest first. Those that have nothing above their floor are left
/// out.
pub(super) fn by_priority(
    candidates: impl IntoIterator<Item = Candidate>,
) -> impl Iterator<Item = Vec<Candidate>> {
    let mut groups = BTreeMap::<u8, Vec<Candidate>>::new();
    for candidate in candidates {
        if candidate.bytes > candidate.policy.floor_bytes {
            let group = groups.entry(candidate.policy.priority).or_default();
            group.push(candidate);
        }
    }
    groups.into_values()
}

/// The share of each of these that is to go, so that `want` bytes do: in proportion to what each has
/// above its floor, but for no more than `most` of it.
pub(super) fn shares(group: &[Candidate], want: u64, most: f64) -> Vec<(Name, f64)> {
    let can_give = |candidate: &Candidate| {
        let above = candidate.bytes.saturating_sub(candidate.policy.floor_bytes);
        (above as f64).min(candidate.bytes as f64 * most)
    };
    let all: f64 = group.iter().map(can_give).sum();
    if all <= 0.0 {
        return Vec::new();
    }
    let part = (want as f64 / all).min(1.0);
    let share = |candidate: &Candidate| {
        let share = can_give(candidate) * part / candidate.bytes as f64;
        (candidate.name, share)
    };
    group.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &'static str, bytes: u64, priority: u8, floor: u64) -> Candidate {
        Candidate {
            name: Name::from_static(name),
            bytes,
            policy: ShrinkPolicy::new(priority, floor),
        }
    }

    #[test]
    fn lower_priorities_come_first_and_those_at_their_floor_not_at_all() {
        let groups: Vec<Vec<_>> = by_priority([
            candidate("late", 10, 200, 0),
            candidate("early", 10, 1, 0),
            candidate("at floor", 10, 1, 10),
            candidate("empty", 0, 1, 0),
            candidate("early too", 10, 1, 9),
        ])
        .map(|group| group.iter().map(|one| one.name.as_str()).collect())
        .collect();
        assert_eq!(groups, [vec!["early", "early too"], vec!["late"]]);
    }

    #[test]
    fn each_gives_in_proportion_to_what_is_above_its_floor() {
        let group = [candidate("a", 1_000, 1, 0), candidate("b", 1_000, 1, 900)];
        let shares_of = |want, most| {
            let shares = shares(&group, want, most).into_iter();
            shares.map(|(_, share)| share).collect::<Vec<_>>()
        };
        assert_eq!(shares_of(550, 1.0), [0.5, 0.05]);
        assert_eq!(shares_of(u64::MAX, 1.0), [1.0, 0.1]);
        assert_eq!(
            shares_of(u64::MAX, 0.5),
            [0.5, 0.1],
            "the coldest half at the most"
        );
        assert_eq!(shares_of(0, 1.0), [0.0, 0.0]);
        assert_eq!(shares(&[], 1, 1.0), []);
    }
}
