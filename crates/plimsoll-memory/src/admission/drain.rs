use std::time::Duration;

/// A rate counts half as much after so long, in seconds.
const HALF_LIFE: f64 = 2.0;
const LONGEST_RETRY: f64 = 60.0;

/// How fast large requests give back what was reserved for them, in bytes per second.
#[derive(Default)]
pub(super) struct Drain {
    rate: f64,
    at: u64,
}

impl Drain {
    pub(super) fn add(&mut self, bytes: u64, now: u64) {
        // Each byte counts for as long as a rate does, so that they add up to it.
        let weight = std::f64::consts::LN_2 / HALF_LIFE;
        self.rate = self.rate_at(now) + bytes as f64 * weight;
        self.at = now;
    }

    pub(super) fn rate_at(&self, now: u64) -> f64 {
        let passed = now.saturating_sub(self.at) as f64 / 1e9;
        self.rate * (-passed / HALF_LIFE).exp2()
    }

    /// How long it takes until so many bytes are given back: between one second and a minute.
    pub(super) fn retry_after(&self, bytes: u64, now: u64) -> Duration {
        let rate = self.rate_at(now);
        // Before the first has ended nobody knows; after that, nothing being given back means to wait.
        let seconds = match self.at == 0 {
            true => 1.0,
            false => bytes as f64 / rate.max(1.0),
        };
        Duration::from_secs_f64(seconds.clamp(1.0, LONGEST_RETRY))
    }
}
