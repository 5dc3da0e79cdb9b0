//! The lanes of those who wait: small ones and large ones, each by priority and in order of arrival.

use super::{Priority, wait::Waiter};
use std::{collections::VecDeque, ops::Range, sync::Arc};

const PRIORITIES: usize = Priority::ALL.len();
const LANES: usize = 2 * PRIORITIES;
/// How many of those who wait may be let in out of their turn. Those past that wait for it.
const MOST_UNTRIED: usize = 256;

/// Who waits. Those who do not any longer stay until they are in somebody's way.
#[derive(Default)]
pub(super) struct Lanes {
    lanes: [VecDeque<Arc<Waiter>>; LANES],
    /// Those in the lanes of whose kind nothing was known when they came.
    untried: VecDeque<Arc<Waiter>>,
    /// What all wanted when they came.
    bytes: u64,
}

/// One lane. Those before it come first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane(usize);

impl Lane {
    pub(super) const fn of(is_small: bool, priority: Priority) -> Self {
        let large = if is_small { 0 } else { PRIORITIES };
        Self(large + priority as usize)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        let all: Range<usize> = 0..LANES;
        all.map(Self)
    }

    pub(super) const fn is_for_small(self) -> bool {
        self.0 < PRIORITIES
    }
}

impl Lanes {
    /// Whether nobody comes before one that comes to this lane now.
    pub(super) fn is_clear(&self, to: Lane) -> bool {
        self.lanes[..=to.0].iter().all(VecDeque::is_empty)
    }

    pub(super) fn small_ones_wait(&self) -> bool {
        self.lanes[..PRIORITIES].iter().any(|it| !it.is_empty())
    }

    /// What those who wait wanted when they came, in bytes.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// One waits from now on, and may come out of its turn if nothing is known of its kind.
    pub(super) fn push(&mut self, waiter: &Arc<Waiter>, lane: Lane, may_be_tried: bool) {
        self.lanes[lane.0].push_back(waiter.clone());
        if may_be_tried {
            if self.untried.len() >= MOST_UNTRIED {
                self.untried.retain(|waiter| waiter.waits());
            }
            if self.untried.len() < MOST_UNTRIED {
                self.untried.push_back(waiter.clone());
            }
        }
        self.bytes += waiter.want;
    }

    /// One does not wait any longer.
    pub(super) const fn leaves(&mut self, waiter: &Waiter) {
        self.bytes = self.bytes.saturating_sub(waiter.want);
    }

    /// The first of a lane.
    pub(super) fn first(&mut self, lane: Lane) -> Option<Arc<Waiter>> {
        clear_front(&mut self.lanes[lane.0]);
        self.lanes[lane.0].front().cloned()
    }

    /// The first leaves its lane.
    pub(super) fn pop(&mut self, lane: Lane) {
        self.lanes[lane.0].pop_front();
    }

    /// The first of a lane waits in another from now on.
    pub(super) fn moves(&mut self, from: Lane, to: Lane) {
        let moves = self.lanes[from.0].pop_front();
        self.lanes[to.0].extend(moves);
    }

    /// How many may come out of their turn, with those who do not wait any longer.
    pub(super) fn untried(&self) -> usize {
        self.untried.len()
    }

    /// The next of those who may come out of their turn. It has to be [put back](Self::tries_later) if it does
    /// not, and still may.
    pub(super) fn next_untried(&mut self) -> Option<Arc<Waiter>> {
        self.untried.pop_front()
    }

    pub(super) fn tries_later(&mut self, waiter: Arc<Waiter>) {
        self.untried.push_back(waiter);
    }

    /// Those who do not wait any longer leave their lane when they come to the front, or when they are
    /// too many. They keep nobody from being tried.
    pub(super) fn forget_gone(&mut self, waiting: usize) {
        clear_front(&mut self.untried);
        for lane in Lane::all() {
            clear_front(&mut self.lanes[lane.0]);
            let lane = &mut self.lanes[lane.0];
            if lane.len() > 2 * waiting + 16 {
                lane.retain(|waiter| waiter.waits());
            }
        }
    }
}

fn clear_front(lane: &mut VecDeque<Arc<Waiter>>) {
    while lane.front().is_some_and(|waiter| !waiter.waits()) {
        lane.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{learn::Learned, ledger::Asking, permit::Hold, route::Standing};
    use plimsoll_core::Name;

    fn waiter() -> Arc<Waiter> {
        let asking = Asking {
            name: Name::from_static("it"),
            learned: &Arc::new(Learned::new()),
            class: 0,
            standing: Standing::Asks(Priority::Normal),
            key: None,
            declared: 0,
            is_counted: true,
        };
        Arc::new(Waiter::new(&asking, Priority::Normal, 1, None))
    }

    #[test]
    fn those_who_are_gone_keep_nobody_from_being_tried() {
        let (mut lanes, lane) = (Lanes::default(), Lane::of(false, Priority::Normal));
        let waiters: Vec<_> = (0..=MOST_UNTRIED).map(|_| waiter()).collect();
        for waiter in &waiters {
            lanes.push(waiter, lane, true);
        }
        assert_eq!(lanes.untried(), MOST_UNTRIED, "the last waits for its turn");
        for waiter in &waiters[..MOST_UNTRIED] {
            assert!(waiter.let_in(Hold::Nothing).is_ok());
        }
        lanes.forget_gone(1);
        assert_eq!(lanes.untried(), 0);
        let next = waiter();
        lanes.push(&next, lane, true);
        lanes.forget_gone(2);
        assert_eq!(lanes.untried(), 1);
        // Nor do those who went behind one that waits.
        let gone: Vec<_> = (1..MOST_UNTRIED).map(|_| waiter()).collect();
        for waiter in &gone {
            lanes.push(waiter, lane, true);
            assert!(waiter.let_in(Hold::Nothing).is_ok());
        }
        lanes.forget_gone(1);
        assert_eq!(lanes.untried(), MOST_UNTRIED);
        lanes.push(&waiter(), lane, true);
        assert_eq!(lanes.untried(), 2);
    }
}
