//! Whether the service says that it is ready while memory is short.

use plimsoll_core::settings::Choice;
use plimsoll_memory::PressureLevel;
use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// From which level of memory pressure on the service says that it is not ready.
///
/// Every replica of a service is short of memory at the same time when its load is too high. If all of
/// them leave then, one overload has become an outage; so none does by default, and none for long.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum ReadinessOnPressure {
    /// Whatever the pressure is, the service is ready.
    #[default]
    Off,
    /// It is not from [`PressureLevel::High`] on.
    High,
    /// It is not at [`PressureLevel::Critical`].
    Critical,
}

/// Tells whether the service is ready as far as memory is concerned.
#[derive(Default)]
pub(crate) struct Readiness {
    from: ReadinessOnPressure,
    max_unready: Duration,
    level: Option<Level>,
    spell: Mutex<Spell>,
}

/// Tells the level of pressure.
pub(crate) type Level = Box<dyn Fn() -> PressureLevel + Send + Sync>;

/// A time in which the service may be unready. It begins when memory is short, and ends when memory
/// was seen not to be for as long as the service may be unready, so that it is not for longer by
/// pressure that comes and goes.
#[derive(Debug, Default)]
struct Spell {
    began: Option<Instant>,
    /// Since when memory has been seen not to be short.
    calm: Option<Instant>,
    is_unready: bool,
}

impl ReadinessOnPressure {
    fn includes(self, level: PressureLevel) -> bool {
        match self {
            Self::Off => false,
            Self::High => level >= PressureLevel::High,
            Self::Critical => level >= PressureLevel::Critical,
        }
    }
}

impl Choice for ReadinessOnPressure {
    const NAMES: &'static [&'static str] = &["off", "high", "critical"];

    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        match name {
            "off" => Some(Self::Off),
            "high" => Some(Self::High),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }
}

impl Readiness {
    /// Without a level nobody knows the pressure, and the service is ready.
    pub(crate) fn new(
        from: ReadinessOnPressure,
        max_unready: Duration,
        level: Option<Level>,
    ) -> Self {
        if from != ReadinessOnPressure::Off && level.is_none() {
            tracing::warn!(
                "`readiness_on_pressure` is {}, but there is no memory monitor: readiness does not \
                 depend on pressure",
                from.name()
            );
        }
        Self {
            from,
            max_unready,
            level,
            spell: Mutex::default(),
        }
    }

    /// Takes the time at which somebody asks.
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        let Some(level) = &self.level else {
            return true;
        };
        let level = level();
        let mut spell = self.spell.lock().unwrap_or_else(PoisonError::into_inner);
        let before = spell.is_unready;
        spell.look(now, self.from.includes(level), self.max_unready);
        match (before, spell.is_unready) {
            (false, true) => {
                let most = self.max_unready;
                tracing::warn!(%level, "not ready, since memory is short, for {most:?} at the most");
            }
            (true, false) => tracing::info!(%level, "ready again"),
            _ => {}
        }
        !spell.is_unready
    }
}

impl Spell {
    fn look(&mut self, now: Instant, is_short: bool, most: Duration) {
        let since = |then: Instant| now.saturating_duration_since(then);
        if is_short {
            self.calm = None;
            let began = *self.began.get_or_insert(now);
            self.is_unready = since(began) < most;
            return;
        }
        self.is_unready = false;
        if self.began.is_some() && since(*self.calm.get_or_insert(now)) >= most {
            *self = Self::default();
        }
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness")
            .field("from", &self.from)
            .field("max_unready", &self.max_unready)
            .field("spell", &self.spell)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PressureLevel::{Critical, Elevated, High, Normal, Unknown};

    const MOST: Duration = Duration::from_secs(60);

    /// Asks at seconds at which memory is short (`true`) or not, and says when it is ready.
    fn ready(asked: &[(u64, bool)]) -> Vec<bool> {
        let (began, mut spell) = (Instant::now(), Spell::default());
        let looks = asked.iter().map(|(second, is_short)| {
            spell.look(began + Duration::from_secs(*second), *is_short, MOST);
            !spell.is_unready
        });
        looks.collect()
    }

    #[test]
    fn it_is_unready_for_so_long_at_the_most() {
        let asked = [(0, false), (10, true), (69, true), (70, true), (900, true)];
        assert_eq!(ready(&asked), [true, false, false, true, true]);
    }

    #[test]
    fn it_is_ready_as_soon_as_memory_is_not_short() {
        let asked = [(0, true), (1, false), (2, true), (3, false)];
        assert_eq!(ready(&asked), [false, true, false, true]);
    }

    #[test]
    fn pressure_that_comes_and_goes_makes_it_unready_no_longer() {
        let flaps: Vec<_> = (0..600).map(|second| (second, second % 20 != 19)).collect();
        let unready = ready(&flaps).into_iter().filter(|ready| !ready).count();
        assert_eq!(
            unready, 57,
            "of the first minute, without three seconds of calm"
        );
    }

    #[test]
    fn after_as_long_a_calm_it_may_be_unready_again() {
        let asked = [
            (0, true),
            (80, true),
            (81, false),
            (140, false),
            (140, true),
        ];
        assert_eq!(ready(&asked), [false, true, true, true, true]);
        let asked = [
            (0, true),
            (80, true),
            (81, false),
            (141, false),
            (142, true),
        ];
        assert_eq!(ready(&asked), [false, true, true, true, false]);
    }

    #[test]
    fn nobody_who_asks_seldom_takes_that_for_a_calm() {
        let asked = [(0, true), (1_000, true), (2_000, true)];
        assert_eq!(ready(&asked), [false, true, true]);
    }

    #[test]
    fn only_the_levels_that_were_asked_for_count_and_unknown_is_none() {
        use ReadinessOnPressure as On;
        for (from, unready) in [
            (On::Off, &[][..]),
            (On::High, &[High, Critical]),
            (On::Critical, &[Critical]),
        ] {
            for level in [Unknown, Normal, Elevated, High, Critical] {
                let readiness = Readiness::new(from, MOST, Some(Box::new(move || level)));
                let is_ready = readiness.is_ready(Instant::now());
                assert_eq!(is_ready, !unready.contains(&level), "{from:?} {level}");
            }
            assert!(Readiness::new(from, MOST, None).is_ready(Instant::now()));
            assert_eq!(On::from_name(from.name()), Some(from));
        }
        assert_eq!(On::from_name("elevated"), None);
    }
}
