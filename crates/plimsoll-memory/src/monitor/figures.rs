use crate::{
    PressureLevel,
    show::{Percent, Rate, Size, Span},
};
use plimsoll_core::Pressure;
use std::{
    fmt::{self, Write as _},
    time::Duration,
};

/// What the monitor made of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct MemoryFigures {
    /// How close what is used is to the line: 1 is at the line.
    pub pressure: Pressure,
    /// The level, which follows the pressure.
    pub level: PressureLevel,
    /// How long the level has lasted.
    pub level_for: Duration,
    /// Bytes that count against the limit, but for those [kept](Self::kept_blocks).
    pub used: Option<u64>,
    /// How many of these the allocator has free and may give back, as far as that can be told.
    pub reclaimable: u64,
    /// The most bytes that can be used.
    pub limit: Option<u64>,
    /// The most bytes that should be used.
    pub line: Option<u64>,
    /// Bytes that may come before the line is met, those included that are free in the allocator.
    pub headroom: Option<u64>,
    /// Bytes allocated and not freed, as the tracking allocator counts them.
    pub tracked: Option<u64>,
    /// Bytes of large blocks that the allocator keeps, and gives back to whoever needs room. None where it
    /// keeps none by itself, as with [`LargeBlocks`](plimsoll_alloc::LargeBlocks).
    pub kept_blocks: Option<u64>,
    /// Bytes of the process that are in memory.
    pub resident: Option<u64>,
    /// Bytes in memory of those for whom the limit is.
    pub working_set: Option<u64>,
    /// Bytes in memory that are neither tracked nor [kept](Self::kept_blocks). A
    /// [history](crate::history::HistoryPoint::unattributed) has those that are kept among them.
    pub unattributed: Option<u64>,
    /// The share of time that some task lately waited for memory.
    pub stall: Option<f64>,
    /// Tasks that are alive.
    pub tasks: Option<u64>,
    /// Descriptors that are open.
    pub descriptors: Option<u64>,
    /// The most descriptors that may be open.
    pub max_descriptors: Option<u64>,
    /// By how many bytes a second what is used grew in the last minute.
    pub slope: Option<f64>,
    /// When the limit is met if that goes on. None where it does not grow.
    pub time_to_limit: Option<Duration>,
}

/// What others know that belongs into the [one sentence](MemoryFigures::describe).
#[derive(Clone, Copy, Debug, Default)]
#[allow(
    clippy::exhaustive_structs,
    reason = "it is made by whoever knows its parts"
)]
pub struct Known<'a> {
    /// Routes of which requests are refused: for want of memory, where none of the next two says otherwise.
    pub shedding: &'a [&'a str],
    /// How many tasks may be alive, where requests are refused since more are.
    pub max_tasks: Option<u64>,
    /// Whether requests are refused since too many descriptors are open.
    pub is_short_of_descriptors: bool,
    /// Who retains the most, and how many bytes.
    pub holds: Option<(&'a str, u64)>,
    /// How long ago that was, where it is old.
    pub held_ago: Option<Duration>,
    /// Who leaks, and how many bytes a second.
    pub leaks: Option<(&'a str, f64)>,
    /// Who does not answer when asked what they hold.
    pub silent: &'a [&'a str],
}

impl MemoryFigures {
    /// Of nothing.
    pub(crate) const UNKNOWN: Self = Self {
        pressure: Pressure::UNKNOWN,
        level: PressureLevel::Unknown,
        level_for: Duration::ZERO,
        used: None,
        reclaimable: 0,
        limit: None,
        line: None,
        headroom: None,
        tracked: None,
        kept_blocks: None,
        resident: None,
        working_set: None,
        unattributed: None,
        stall: None,
        tasks: None,
        descriptors: None,
        max_descriptors: None,
        slope: None,
        time_to_limit: None,
    };

    /// Whether more is used than the line allows: nothing new should be let in. Never where that is
    /// not known.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let over = |(used, line)| self.held_of(used) > line;
        self.used.zip(self.line).is_some_and(over)
    }

    /// What is used and cannot be given back.
    pub(crate) const fn held_of(&self, used: u64) -> u64 {
        used.saturating_sub(self.reclaimable)
    }

    /// Says in one sentence how things are.
    ///
    /// `at ease: memory 34 % of 512 MiB`, or
    /// `growing: memory 40 % of 512 MiB, limit in 2 h at +45 KiB/s, /demo/leak leaks +40 KiB/s`, or
    /// `shedding /export: memory 91 % of 512 MiB, limit in 14 min at +3.0 MiB/s, /demo/leak holds 220 MiB`, or
    /// `shedding /export: 97 % of 1024 descriptors open, memory 34 % of 512 MiB`.
    #[must_use]
    pub fn describe(&self, known: &Known<'_>) -> String {
        let mut text = String::new();
        // A `String` takes everything.
        let _ = self.write(&mut text, known);
        text
    }

    fn write(&self, f: &mut String, known: &Known<'_>) -> fmt::Result {
        match (known.shedding, self.level) {
            ([], PressureLevel::Unknown) => f.push_str("pressure unknown"),
            // Nobody is at ease who leaks.
            ([], PressureLevel::Normal) if known.leaks.is_some() => f.push_str("growing"),
            ([], PressureLevel::Normal) => f.push_str("at ease"),
            ([], level) => write!(f, "{level} pressure for {}", Span(self.level_for))?,
            (routes, _) => {
                f.push_str("shedding ");
                write_names(f, routes)?;
            }
        }
        f.push_str(": ");
        if let Some((alive, most @ 1..)) = self.tasks.zip(known.max_tasks) {
            write!(f, "{} of {most} tasks alive, ", share(alive, most))?;
        }
        if let Some((open, most @ 1..)) = self.descriptors.zip(self.max_descriptors)
            && known.is_short_of_descriptors
        {
            write!(f, "{} of {most} descriptors open, ", share(open, most))?;
        }
        match (self.used, self.limit.or(self.line)) {
            (Some(used), Some(limit @ 1..)) => {
                write!(f, "memory {} of {}", share(used, limit), Size(limit))?;
            }
            (Some(used), _) => write!(f, "memory {}, no limit known", Size(used))?,
            (None, Some(limit)) => write!(f, "memory unknown, limit {}", Size(limit))?,
            (None, None) => f.push_str("neither memory nor limit known"),
        }
        if let (Some(time), Some(slope)) = (self.time_to_limit, self.slope) {
            write!(f, ", limit in {} at {}", Span(time), Rate(slope))?;
        }
        if let Some((name, slope)) = known.leaks {
            write!(f, ", {name} leaks {}", Rate(slope))?;
        }
        match (known.holds, known.held_ago) {
            (Some((name, bytes)), None) => write!(f, ", {name} holds {}", Size(bytes))?,
            (Some((name, bytes)), Some(ago)) => {
                write!(f, ", {name} held {} {} ago", Size(bytes), Span(ago))?;
            }
            (None, _) => {}
        }
        match known.silent {
            [] => {}
            [name] => write!(f, ", {name} does not answer")?,
            names => {
                f.push_str(", ");
                write_names(f, names)?;
                f.push_str(" do not answer");
            }
        }
        Ok(())
    }
}

fn share(part: u64, of: u64) -> Percent {
    Percent(part as f64 / of as f64)
}

fn write_names(f: &mut String, names: &[&str]) -> fmt::Result {
    const MOST: usize = 3;
    f.push_str(&names[..names.len().min(MOST)].join(", "));
    match names.len().checked_sub(MOST) {
        Some(more @ 1..) => write!(f, " and {more} more"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sentence_says_how_things_are() {
        const MIB: u64 = 1 << 20;
        let mut figures = MemoryFigures::UNKNOWN;
        let none = Known::default();
        assert_eq!(
            figures.describe(&none),
            "pressure unknown: neither memory nor limit known"
        );
        figures.used = Some(174 * MIB);
        assert_eq!(
            figures.describe(&none),
            "pressure unknown: memory 174 MiB, no limit known"
        );
        figures.limit = Some(512 * MIB);
        figures.level = PressureLevel::Normal;
        assert_eq!(figures.describe(&none), "at ease: memory 34 % of 512 MiB");
        let known = Known {
            leaks: Some(("cache", 40_960.0)),
            ..none
        };
        assert_eq!(
            figures.describe(&known),
            "growing: memory 34 % of 512 MiB, cache leaks +40 KiB/s"
        );
        figures.used = Some(466 * MIB);
        figures.level = PressureLevel::High;
        figures.level_for = Duration::from_secs(7);
        assert_eq!(
            figures.describe(&none),
            "high pressure for 7 s: memory 91 % of 512 MiB"
        );
        figures.slope = Some(3.0 * MIB as f64);
        figures.time_to_limit = Some(Duration::from_secs(14 * 60 + 5));
        let known = Known {
            shedding: &["/export"],
            holds: Some(("/demo/leak", 220 * MIB)),
            ..none
        };
        assert_eq!(
            figures.describe(&known),
            "shedding /export: memory 91 % of 512 MiB, limit in 14 min at +3.0 MiB/s, \
             /demo/leak holds 220 MiB"
        );
        let known = Known {
            shedding: &["/a", "/b", "/c", "/d", "/e"],
            leaks: Some(("cache", 1_024.0)),
            ..none
        };
        figures.time_to_limit = None;
        assert_eq!(
            figures.describe(&known),
            "shedding /a, /b, /c and 2 more: memory 91 % of 512 MiB, cache leaks +1.0 KiB/s"
        );
        let known = Known {
            holds: Some(("/demo/leak", 220 * MIB)),
            held_ago: Some(Duration::from_secs(12)),
            silent: &["cache"],
            ..none
        };
        assert_eq!(
            figures.describe(&known),
            "high pressure for 7 s: memory 91 % of 512 MiB, \
             /demo/leak held 220 MiB 12 s ago, cache does not answer"
        );
        let known = Known {
            silent: &["a", "b", "c", "d", "e"],
            ..none
        };
        assert_eq!(
            figures.describe(&known),
            "high pressure for 7 s: memory 91 % of 512 MiB, a, b, c and 2 more do not answer"
        );
    }

    #[test]
    fn the_sentence_names_tasks_and_descriptors_where_requests_are_refused_for_them() {
        let mut figures = MemoryFigures {
            used: Some(40 << 20),
            limit: Some(100 << 20),
            tasks: Some(12_500),
            descriptors: Some(993),
            max_descriptors: Some(1_024),
            ..MemoryFigures::UNKNOWN
        };
        let known = Known {
            shedding: &["/x"],
            ..Known::default()
        };
        let for_tasks = Known {
            max_tasks: Some(10_000),
            ..known
        };
        let for_descriptors = Known {
            is_short_of_descriptors: true,
            ..known
        };
        let for_both = Known {
            max_tasks: Some(10_000),
            ..for_descriptors
        };
        for (known, expected) in [
            (known, ""),
            (for_tasks, "125 % of 10000 tasks alive, "),
            (for_descriptors, "97 % of 1024 descriptors open, "),
            (
                for_both,
                "125 % of 10000 tasks alive, 97 % of 1024 descriptors open, ",
            ),
        ] {
            let expected = format!("shedding /x: {expected}memory 40 % of 100 MiB");
            assert_eq!(figures.describe(&known), expected);
        }
        // What is not known any more is not told.
        (figures.tasks, figures.max_descriptors) = (None, None);
        let expected = "shedding /x: memory 40 % of 100 MiB";
        assert_eq!(figures.describe(&for_both), expected);
    }
}
