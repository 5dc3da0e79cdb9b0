use std::{num::NonZeroU64, sync::LazyLock, time::Duration};
use tokio::time::Instant;

/// One for all, for each would be the same.
static FAST: LazyLock<Fast> = LazyLock::new(Fast::new);

#[derive(Debug)]
struct Fast {
    clock: quanta::Clock,
    /// Nanoseconds per count, in units of 2⁻⁶⁴, where a count is shorter than a nanosecond.
    /// To scale by it takes one multiplication; the clock's own scale takes twice as long.
    scale: Option<NonZeroU64>,
}

impl Fast {
    fn new() -> Self {
        let clock = quanta::Clock::new();
        // The scale is told by how long many counts take. 2⁶² of them lose nothing to rounding.
        let nanos = clock.delta_as_nanos(0, 1 << 62);
        let scale = (nanos < 1 << 62).then_some(nanos << 2);
        Self {
            clock,
            scale: scale.and_then(NonZeroU64::new),
        }
    }

    #[inline]
    fn ticks(&self) -> u64 {
        self.nanos(self.clock.raw())
    }

    #[inline]
    fn nanos(&self, raw: u64) -> u64 {
        match self.scale {
            Some(scale) => ((u128::from(raw) * u128::from(scale.get())) >> 64) as u64,
            None => self.clock.delta_as_nanos(0, raw),
        }
    }
}

/// Stands for ever: as far ahead as Tokio's own timers look.
const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);

/// Tells time in nanoseconds, at the least cost the machine allows.
///
/// Hot paths read [`ticks`](Self::ticks) to measure durations; policy takes a
/// [`tokio::time::Instant`] instead. The source is chosen when the clock is made:
///
/// | where | source | one read |
/// |---|---|---|
/// | Tokio's clock is paused | Tokio | follows `advance` exactly |
/// | the CPU's counter is invariant | that counter, calibrated against the OS | about half of an OS read |
/// | elsewhere | the operating system's monotonic clock | one OS read |
///
/// # Accuracy
///
/// Ticks and the operating system's monotonic clock agree to 0.1 % over any span: the counter
/// is calibrated once, and time synchronisation may steer the other by up to 0.05 %. Ticks of
/// different clocks are not comparable.
///
/// The first clock of a process calibrates the counter, which takes some milliseconds (200 at
/// the most). Later ones cost less than a microsecond. A clone costs nothing. Takes 16 bytes.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    /// The CPU's counter, or the OS where it has none that is stable.
    Fast(&'static Fast),
    /// Tokio's paused clock, counted from this moment.
    Paused(Instant),
}

impl Clock {
    /// Makes a clock, which follows Tokio's if that is paused now.
    #[must_use]
    pub fn new() -> Self {
        if tokio_is_paused() {
            Self(Source::Paused(Instant::now()))
        } else {
            Self(Source::Fast(&FAST))
        }
    }

    /// Reads the clock: nanoseconds since some moment in the past, never going backwards.
    ///
    /// Subtract with [`u64::saturating_sub`].
    #[inline]
    #[must_use]
    pub fn ticks(&self) -> u64 {
        match &self.0 {
            // The counter is scaled rather than made an `Instant`, which would check for an
            // override on every read.
            Source::Fast(fast) => fast.ticks(),
            Source::Paused(origin) => paused_ticks(*origin),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// `now + wait`, which for a wait like [`Duration::MAX`] is a moment that never comes.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now + wait.min(FAR)
}

#[cold]
fn paused_ticks(origin: Instant) -> u64 {
    let since = Instant::now().saturating_duration_since(origin);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Tokio does not say whether its clock is paused, but a paused clock stands still while the
/// operating system's moves on.
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "compares Tokio's clock with the operating system's"
)]
fn tokio_is_paused() -> bool {
    let tokio = Instant::now();
    let os = std::time::Instant::now();
    while std::time::Instant::now() <= os {
        std::hint::spin_loop();
    }
    Instant::now() == tokio
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "checks the clock against the operating system's"
)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_operating_system_to_a_thousandth() {
        let clock = Clock::new();
        // The outer pair of OS reads spans more than the ticks do, the inner pair less, however
        // the thread is scheduled: only the clock itself can break the two bounds.
        let outer = std::time::Instant::now();
        let start = clock.ticks();
        let inner = std::time::Instant::now();
        while inner.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        let least = inner.elapsed().as_nanos() as f64;
        let ticks = clock.ticks().saturating_sub(start) as f64;
        let most = outer.elapsed().as_nanos() as f64;
        assert!(
            least * 0.999 <= ticks,
            "{ticks} ticks in at least {least} ns"
        );
        assert!(ticks <= most * 1.001, "{ticks} ticks in at most {most} ns");
    }

    #[test]
    fn scales_as_the_calibrated_clock_does() {
        let fast = Fast::new();
        for shift in [0, 10, 20, 32, 40, 50, 60] {
            let raw = 0x1234_5678_9abc_def0_u64 >> (60 - shift);
            let (ours, theirs) = (fast.nanos(raw), fast.clock.delta_as_nanos(0, raw));
            assert!(
                ours.abs_diff(theirs) <= 1,
                "{raw} counts: {ours} and {theirs} ns"
            );
        }
    }

    #[test]
    fn never_goes_backwards() {
        let clock = Clock::new();
        let mut last = clock.ticks();
        for _ in 0..100_000 {
            let now = clock.ticks();
            assert!(last <= now);
            last = now;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn follows_a_paused_clock_exactly() {
        let clock = Clock::new();
        let start = clock.ticks();
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(clock.ticks() - start, 3_600_000_000_000);
        assert_eq!(clock.ticks() - start, 3_600_000_000_000);
    }

    #[tokio::test]
    async fn a_running_clock_is_not_taken_for_a_paused_one() {
        for _ in 0..1_000 {
            assert!(!tokio_is_paused());
        }
        tokio::time::pause();
        assert!(tokio_is_paused());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(tokio_is_paused());
        tokio::time::resume();
        assert!(!tokio_is_paused());
    }
}
