use crate::BudgetMode;
use std::time::Duration;
use tokio::time::Instant;

/// How many requests may be ended at once after some time in which none was.
const BURST: f64 = 10.0;

/// Whoever has requests under way that can be ended.
pub trait CancelLargest: Send + Sync + 'static {
    /// Ends the largest requests, as the ask says, or only counts them.
    fn cancel_largest(&self, ask: &CancelAsk) -> Cancelled;
}

/// Which requests are to be ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct CancelAsk {
    /// Those that hold fewer bytes are let be.
    pub floor: u64,
    /// Until those that are ended hold so many bytes.
    pub want: u64,
    /// No more than so many.
    pub at_most: usize,
    /// Whether they are ended, or only counted.
    pub mode: BudgetMode,
}

/// Requests that were ended, or would have been.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "a count and a sum")]
pub struct Cancelled {
    /// How many.
    pub requests: u64,
    /// Bytes that they hold.
    pub bytes: u64,
}

/// One of those from whom victims are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "a value and its weight")]
pub struct Victim {
    /// Bytes that it holds.
    pub used: u64,
    /// What these are divided by: how much it is worth, or how much it may have. One of 0 is never
    /// chosen.
    pub weight: f64,
}

impl CancelAsk {
    /// Asks for `want` bytes of those that hold no less than `floor` each, and at most so many.
    #[must_use]
    pub const fn new(floor: u64, want: u64, at_most: usize, mode: BudgetMode) -> Self {
        Self {
            floor,
            want,
            at_most,
            mode,
        }
    }
}

/// Chooses who is ended: those with the largest quotient of what they hold and their weight, among
/// those that hold no less than the floor. Returns their places in `candidates`, the largest first.
#[must_use]
pub fn choose_victims(candidates: &[Victim], ask: &CancelAsk) -> Vec<usize> {
    let mut places: Vec<_> = (0..candidates.len())
        .filter(|place| {
            let Victim { used, weight } = candidates[*place];
            used >= ask.floor.max(1) && weight > 0.0
        })
        .collect();
    let quotient = |place: &usize| candidates[*place].used as f64 / candidates[*place].weight;
    // Stable, so that of equals the first goes first.
    places.sort_by(|one, other| quotient(other).total_cmp(&quotient(one)));
    let mut enough = 0_u64;
    let chosen = places.iter().take(ask.at_most).take_while(|place| {
        let wanted = enough < ask.want;
        enough = enough.saturating_add(candidates[**place].used);
        wanted
    });
    let chosen = chosen.count();
    places.truncate(chosen);
    places
}

/// How many requests may be ended now.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    tokens: f64,
    /// When they were counted; none before the first time, when there are as many as can be.
    at: Option<Instant>,
}

impl Allowance {
    pub(super) fn at(&mut self, now: Instant, rate: f64) -> usize {
        let since = match self.at {
            Some(at) => now.saturating_duration_since(at),
            None => Duration::MAX,
        };
        self.tokens = (since.as_secs_f64().mul_add(rate, self.tokens)).clamp(0.0, BURST);
        self.at = Some(now);
        self.tokens as usize
    }

    pub(super) fn take(&mut self, requests: u64) {
        self.tokens -= requests as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn victim(used: u64, weight: f64) -> Victim {
        Victim { used, weight }
    }

    const fn ask(floor: u64, want: u64, at_most: usize) -> CancelAsk {
        CancelAsk::new(floor, want, at_most, BudgetMode::Enforce)
    }

    #[test]
    fn the_largest_by_weight_goes_and_one_without_weight_never() {
        let candidates = [
            victim(8, 1.0),
            victim(9, 3.0),
            victim(100, 0.0),
            victim(50, f64::NAN),
        ];
        assert_eq!(choose_victims(&candidates, &ask(0, 1, 10)), [0]);
        assert_eq!(choose_victims(&candidates, &ask(0, u64::MAX, 10)), [0, 1]);
        assert_eq!(choose_victims(&candidates, &ask(9, u64::MAX, 10)), [1]);
        assert_eq!(choose_victims(&[], &ask(0, 1, 1)), [0; 0]);
    }

    #[test]
    fn no_more_are_chosen_than_are_wanted_or_allowed() {
        let candidates = [
            victim(10, 1.0),
            victim(40, 1.0),
            victim(20, 1.0),
            victim(40, 1.0),
        ];
        assert_eq!(choose_victims(&candidates, &ask(1, 0, 10)), [0; 0]);
        assert_eq!(choose_victims(&candidates, &ask(1, 40, 10)), [1]);
        assert_eq!(choose_victims(&candidates, &ask(1, 41, 10)), [1, 3]);
        assert_eq!(choose_victims(&candidates, &ask(1, 500, 3)), [1, 3, 2]);
        assert_eq!(choose_victims(&candidates, &ask(1, 500, 0)), [0; 0]);
    }

    #[test]
    fn requests_are_ended_at_a_rate_with_a_burst() {
        let mut allowance = Allowance::default();
        let start = Instant::now();
        assert_eq!(allowance.at(start, 3.0), 10);
        allowance.take(10);
        assert_eq!(allowance.at(start, 3.0), 0);
        assert_eq!(allowance.at(start + Duration::from_secs(1), 3.0), 3);
        assert_eq!(
            allowance.at(start, 3.0),
            3,
            "a clock that goes back gives nothing"
        );
        assert_eq!(allowance.at(start + Duration::from_secs(86_400), 3.0), 10);
    }
}
