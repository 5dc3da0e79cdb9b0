//! Sizes and times for people: in the sentence of state, in the log, and on the page of the admin listener.

use std::{fmt, time::Duration};

/// Bytes, in the largest unit of which there is one at least: `1.5 GiB`, `220 MiB`.
///
/// With `{:#}` there is a digit more below 100: `59.7 MiB`, for figures that are compared with each other.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a number that is shown")]
pub struct Size(pub u64);

/// Bytes per second, with its sign: `+3.0 MiB/s`.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a number that is shown")]
pub struct Rate(pub f64);

/// A time in one unit: `250 ms`, `119 s`, `14 min`, `2 h`, `2 days`.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a number that is shown")]
pub struct Span(pub Duration);

/// A share in percent, 1 being all: `91 %`.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::exhaustive_structs, reason = "a number that is shown")]
pub struct Percent(pub f64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut size = self.0 as f64;
        let mut unit = 0;
        // What would be rounded to 1024 is one of the next unit.
        while size >= 1_023.5 && unit + 1 < UNITS.len() {
            size /= 1_024.0;
            unit += 1;
        }
        let below = if f.alternate() { 99.95 } else { 9.95 };
        let digits = usize::from(unit > 0 && size < below);
        write!(f, "{size:.digits$} {}", UNITS[unit])
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0.0 { '-' } else { '+' };
        // Saturates.
        write!(f, "{sign}{}/s", Size(self.0.abs() as u64))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => write!(f, "{} ms", self.0.as_millis()),
            seconds @ 1..120 => write!(f, "{seconds} s"),
            seconds @ 120..7_200 => write!(f, "{} min", seconds / 60),
            seconds @ 7_200..172_800 => write!(f, "{} h", seconds / 3_600),
            seconds => write!(f, "{} days", seconds / 86_400),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} %", self.0 * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_rates_and_times_are_short() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (10 << 10, "10 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (512 << 20, "512 MiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), shown);
        }
        for (bytes, shown) in [
            (1_023, "1023 B"),
            (10 << 10, "10.0 KiB"),
            ((100 << 20) - 1, "100 MiB"),
        ] {
            assert_eq!(format!("{:#}", Size(bytes)), shown);
        }
        assert_eq!(Rate(3.0 * 1_048_576.0).to_string(), "+3.0 MiB/s");
        assert_eq!(Rate(-100.0).to_string(), "-100 B/s");
        for (millis, shown) in [
            (250, "250 ms"),
            (119_999, "119 s"),
            (840_000, "14 min"),
            (7_200_000, "2 h"),
            (172_800_000, "2 days"),
        ] {
            assert_eq!(Span(Duration::from_millis(millis)).to_string(), shown);
        }
        assert_eq!(Percent(0.914).to_string(), "91 %");
    }
}
