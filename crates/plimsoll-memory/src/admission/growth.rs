//! What large requests may still come to hold, besides what they do.

/// How much the sum of what several come to hold is above the sum of their means at the most, in
/// standard deviations. They are let in one after the other, and each is known better soon.
const DEVIATIONS: f64 = 3.0;

/// What a request may come to hold: at the most, on average, and how far from that it is as a rule.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spread {
    pub(super) most: u64,
    pub(super) mean: f64,
    pub(super) deviation: f64,
}

/// What all of them may still grow by.
///
/// Of those that hold something, each is known by what it does. Those that were let in just now are
/// only known as those before them, so not all of them are taken to be the largest there is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Growth {
    begun: u64,
    fresh: usize,
    /// Of those that are fresh: the largest, and all of them.
    most: u64,
    sum: u64,
    mean: f64,
    variance: f64,
}

impl Spread {
    /// One that holds no more than that for certain, and nothing else is known of.
    pub(super) const fn certain(most: u64) -> Self {
        Self {
            most,
            mean: most as f64,
            deviation: 0.0,
        }
    }
}

impl Spread {
    /// It is known by now to hold no more than that.
    pub(super) const fn cap(&mut self, most: u64) {
        if self.most > most {
            self.most = most;
            self.mean = self.mean.min(most as f64);
        }
    }
}

impl Growth {
    /// One has begun, and may still grow by that.
    pub(super) const fn add_begun(&mut self, bytes: u64) {
        self.begun += bytes;
    }

    /// One was let in.
    pub(super) fn add_fresh(&mut self, spread: &Spread) {
        self.fresh += 1;
        self.most = self.most.max(spread.most);
        self.sum += spread.most;
        self.mean += spread.mean;
        self.variance += spread.deviation * spread.deviation;
    }

    /// One has ended that had begun when somebody looked, and might have grown by that.
    pub(super) const fn end_begun(&mut self, bytes: u64) {
        self.begun = self.begun.saturating_sub(bytes);
    }

    /// One has ended that had not.
    pub(super) fn end_fresh(&mut self, spread: &Spread) {
        self.fresh = self.fresh.saturating_sub(1);
        if self.fresh == 0 {
            *self = Self {
                begun: self.begun,
                ..Self::default()
            };
            return;
        }
        self.sum = self.sum.saturating_sub(spread.most);
        self.mean = (self.mean - spread.mean).max(0.0);
        self.variance = (self.variance - spread.deviation * spread.deviation).max(0.0);
    }

    /// The same, and one more.
    pub(super) fn with(mut self, spread: &Spread) -> Self {
        self.add_fresh(spread);
        self
    }

    /// Of those that have begun.
    pub(super) const fn of_begun(&self) -> u64 {
        self.begun
    }

    /// Of all of them.
    pub(super) fn total(&self) -> u64 {
        // One alone may be the largest there is.
        if self.fresh <= 1 {
            return self.begun + self.sum;
        }
        let likely = (DEVIATIONS.mul_add(self.variance.sqrt(), self.mean)).ceil() as u64;
        self.begun + likely.max(self.most).min(self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Spread = Spread {
        most: 38,
        mean: 10.0,
        deviation: 10.0,
    };

    #[test]
    fn one_alone_may_be_the_largest_there_is() {
        assert_eq!(Growth::default().total(), 0);
        assert_eq!(Growth::default().with(&WIDE).total(), 38);
    }

    #[test]
    fn of_several_not_all_are() {
        let mut growth = Growth::default();
        for _ in 0..16 {
            growth.add_fresh(&WIDE);
        }
        // 16 times 10, and three deviations of 40.
        assert_eq!(growth.total(), 280);
        growth.add_begun(100);
        assert_eq!((growth.total(), growth.of_begun()), (380, 100));
    }

    #[test]
    fn what_is_certain_adds_up() {
        let growth = Growth::default().with(&Spread::certain(7));
        assert_eq!(growth.with(&Spread::certain(5)).total(), 12);
    }

    #[test]
    fn who_has_ended_grows_no_more() {
        let mut growth = Growth::default().with(&WIDE).with(&Spread::certain(50));
        growth.add_begun(3);
        growth.end_fresh(&Spread::certain(50));
        assert!(growth.total() <= 3 + 38);
        growth.end_fresh(&WIDE);
        growth.end_begun(3);
        assert_eq!(growth.total(), 0);
    }
}
