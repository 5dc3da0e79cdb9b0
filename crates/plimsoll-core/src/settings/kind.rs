use std::{collections::BTreeMap, fmt, net::SocketAddr, ops::RangeInclusive, time::Duration};

/// What values a setting takes. Its `Display` goes on from "must be".
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// Yes or no.
    Flag,
    /// A whole number.
    Integer(RangeInclusive<u64>),
    /// A number.
    Number(RangeInclusive<f64>),
    /// A number above 0 and up to 100.
    Percent,
    /// A time.
    Duration(RangeInclusive<Duration>),
    /// A whole number of bytes.
    Bytes(RangeInclusive<u64>),
    /// A whole number of calls, or a time.
    CallsOrTime(RangeInclusive<u64>, RangeInclusive<Duration>),
    /// A whole number, or a share of something in percent, above 0 and up to 100.
    CountOrShare(RangeInclusive<u64>),
    /// One of some words.
    Choice(&'static [&'static str]),
    /// Where to listen.
    Address,
    /// Any text.
    Text,
    /// A text that is never shown.
    Secret,
    /// Several texts.
    Texts,
    /// A whole number of bytes for each of up to [`MAX_NAMES`](Self::MAX_NAMES) names.
    Sizes(RangeInclusive<u64>),
}

/// The value of a setting. Its `Display` is what a file would say.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Yes or no.
    Flag(bool),
    /// A whole number.
    Integer(u64),
    /// A number.
    Number(f64),
    /// A time.
    Duration(Duration),
    /// So many bytes.
    Bytes(u64),
    /// A share of something, in percent.
    Share(f64),
    /// One of the words that a setting takes.
    Word(&'static str),
    /// Where to listen.
    Address(SocketAddr),
    /// Any text.
    Text(String),
    /// A text that `Display` and `Debug` of the setting must not show.
    Secret(Secret),
    /// Several texts.
    Texts(Vec<String>),
    /// So many bytes for each name.
    Sizes(BTreeMap<String, u64>),
}

/// A text that is not shown.
#[derive(Clone, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs, reason = "it is a text and nothing else")]
pub struct Secret(pub String);

impl Kind {
    /// The most names of [`Sizes`](Self::Sizes).
    pub const MAX_NAMES: usize = 1_000;
    /// The longest name of [`Sizes`](Self::Sizes), in bytes.
    pub const MAX_NAME_BYTES: usize = 256;

    /// Whether a text can be a name of [`Sizes`](Self::Sizes): it has 1 to 256 bytes without control
    /// characters.
    #[must_use]
    pub fn admits_name(name: &str) -> bool {
        (1..=Self::MAX_NAME_BYTES).contains(&name.len()) && !name.contains(char::is_control)
    }

    /// Whether a value is of this kind and within its range. A word always is: a setting knows its
    /// own.
    #[must_use]
    pub fn admits(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Choice(names), Value::Word(word)) => names.contains(word),
            (_, Value::Word(_)) => true,
            (Self::Flag, Value::Flag(_))
            | (Self::Address, Value::Address(_))
            | (Self::Text, Value::Text(_))
            | (Self::Secret, Value::Secret(_))
            | (Self::Texts, Value::Texts(_)) => true,
            (
                Self::Integer(range) | Self::CallsOrTime(range, _) | Self::CountOrShare(range),
                Value::Integer(value),
            )
            | (Self::Bytes(range), Value::Bytes(value)) => range.contains(value),
            (Self::Number(range), Value::Number(value)) => range.contains(value),
            (Self::Percent, Value::Number(value))
            | (Self::CountOrShare(_), Value::Share(value)) => *value > 0.0 && *value <= 100.0,
            (Self::Duration(range) | Self::CallsOrTime(_, range), Value::Duration(value)) => {
                range.contains(value)
            }
            (Self::Sizes(range), Value::Sizes(sizes)) => {
                let mut entries = sizes.iter();
                sizes.len() <= Self::MAX_NAMES
                    && entries.all(|(name, size)| Self::admits_name(name) && range.contains(size))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("true or false"),
            Self::Integer(range) if *range.end() == u64::MAX => {
                write!(f, "at least {}", range.start())
            }
            Self::Integer(range) => write!(f, "between {} and {}", range.start(), range.end()),
            Self::Number(range) if *range.end() >= f64::MAX => {
                write!(f, "at least {}", range.start())
            }
            Self::Number(range) => write!(f, "between {} and {}", range.start(), range.end()),
            Self::Percent => f.write_str("above 0 and at most 100 percent"),
            Self::Duration(range) if *range.end() == Duration::MAX => {
                write!(f, "at least {}", Value::Duration(*range.start()))
            }
            Self::Duration(range) => {
                let (least, most) = (Value::Duration(*range.start()), *range.end());
                write!(f, "between {least} and {}", Value::Duration(most))
            }
            Self::Bytes(range) if *range.end() == u64::MAX => {
                write!(f, "at least {}", Value::Bytes(*range.start()))
            }
            Self::Bytes(range) => {
                let (least, most) = (Value::Bytes(*range.start()), Value::Bytes(*range.end()));
                write!(f, "between {least} and {most}")
            }
            Self::CallsOrTime(calls, time) => {
                let (calls, time) = (Self::Integer(calls.clone()), Self::Duration(time.clone()));
                write!(f, "{calls} calls, or {time}")
            }
            Self::CountOrShare(range) => {
                Self::Integer(range.clone()).fmt(f)?;
                f.write_str(", or a share above 0% and at most 100%")
            }
            Self::Choice(names) => write!(f, "one of {}", names.join(", ")),
            Self::Address => f.write_str("an address and a port, like 127.0.0.1:8081"),
            Self::Text | Self::Secret => f.write_str("a text"),
            Self::Texts => f.write_str("a list of texts"),
            Self::Sizes(range) => {
                let range = Self::Bytes(range.clone());
                write!(f, "a group of names, each with a size {range}")
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::Duration(value) => show_duration(*value, f),
            Self::Bytes(value) => show_bytes(*value, f),
            Self::Share(value) => write!(f, "{value}%"),
            Self::Word(value) => f.write_str(value),
            Self::Address(value) => value.fmt(f),
            Self::Text(value) => f.write_str(value),
            Self::Secret(_) => f.write_str("***"),
            Self::Texts(values) => f.write_str(&values.join(", ")),
            Self::Sizes(sizes) => {
                let mut separator = "";
                for (name, size) in sizes {
                    write!(f, "{separator}{name}={}", Self::Bytes(*size))?;
                    separator = ", ";
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `1h30m`, exactly, in units that a file may use.
fn show_duration(duration: Duration, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if duration.is_zero() {
        return f.write_str("0s");
    }
    let (mut seconds, mut nanos) = (duration.as_secs(), duration.subsec_nanos());
    for (unit, size) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if seconds >= size {
            write!(f, "{}{unit}", seconds / size)?;
            seconds %= size;
        }
    }
    for (unit, size) in [("ms", 1_000_000), ("us", 1_000), ("ns", 1)] {
        if nanos >= size {
            write!(f, "{}{unit}", nanos / size)?;
            nanos %= size;
        }
    }
    Ok(())
}

/// `64MiB` where that is exact.
fn show_bytes(bytes: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)];
    let units = units.into_iter().chain([("KiB", 1 << 10)]);
    let mut exact = units.filter(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size));
    match exact.next() {
        Some((unit, size)) => write!(f, "{}{unit}", bytes / size),
        None => write!(f, "{bytes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_exactly_in_whole_units() {
        for (duration, shown) in [
            (Duration::ZERO, "0s"),
            (Duration::from_secs(30), "30s"),
            (Duration::from_secs(5_400), "1h30m"),
            (Duration::from_secs(7 * 86_400), "7d"),
            (Duration::from_millis(1_500), "1s500ms"),
            (Duration::new(60, 1_002_003), "1m1ms2us3ns"),
        ] {
            assert_eq!(Value::Duration(duration).to_string(), shown);
        }
    }

    #[test]
    fn bytes_are_shown_in_the_largest_exact_unit() {
        for (bytes, shown) in [
            (0, "0"),
            (1_000, "1000"),
            (1_024, "1KiB"),
            (1_025, "1025"),
            (64 << 20, "64MiB"),
            (3 << 40, "3TiB"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(Value::Bytes(bytes).to_string(), shown);
        }
    }

    #[test]
    fn ranges_without_an_end_name_none() {
        for (kind, shown) in [
            (Kind::Integer(1..=u64::MAX), "at least 1"),
            (Kind::Integer(1..=9), "between 1 and 9"),
            (Kind::Number(0.5..=f64::INFINITY), "at least 0.5"),
            (Kind::Number(0.5..=f64::MAX), "at least 0.5"),
            (Kind::Number(0.0..=2.5), "between 0 and 2.5"),
            (Kind::Bytes(1_024..=u64::MAX), "at least 1KiB"),
            (Kind::Bytes(0..=1_024), "between 0 and 1KiB"),
            (
                Kind::Duration(Duration::ZERO..=Duration::MAX),
                "at least 0s",
            ),
            (
                Kind::CallsOrTime(1..=u64::MAX, Duration::ZERO..=Duration::MAX),
                "at least 1 calls, or at least 0s",
            ),
            (
                Kind::CallsOrTime(1..=9, Duration::ZERO..=Duration::from_secs(60)),
                "between 1 and 9 calls, or between 0s and 1m",
            ),
        ] {
            assert_eq!(kind.to_string(), shown);
        }
    }

    #[test]
    fn sizes_are_shown_with_their_names_in_order() {
        let sizes = [("b=c", 1_025), ("/a", 8 << 20)];
        let sizes = sizes.map(|(name, size)| (name.to_owned(), size));
        let sizes = Value::Sizes(sizes.into());
        assert_eq!(sizes.to_string(), "/a=8MiB, b=c=1025");
        assert_eq!(Value::Sizes(BTreeMap::new()).to_string(), "");
    }

    #[test]
    fn sizes_have_names_of_some_length_and_not_too_many() {
        let kind = Kind::Sizes(1..=9);
        let admits = |name: &str, size| {
            let sizes = BTreeMap::from([(name.to_owned(), size)]);
            kind.admits(&Value::Sizes(sizes))
        };
        let (longest, too_long) = ("x".repeat(256), "x".repeat(257));
        for name in ["/a", " ", "a=b", "ä", &longest] {
            assert!(admits(name, 1) && admits(name, 9), "{name}");
            assert!(!admits(name, 0) && !admits(name, 10), "{name}");
        }
        for name in ["", "a\nb", "\u{85}", &too_long] {
            assert!(!admits(name, 1), "{name:?}");
        }
        let many = |count: u32| {
            let names = (0..count).map(|name| (name.to_string(), 1));
            kind.admits(&Value::Sizes(names.collect()))
        };
        assert!(many(0) && many(1_000) && !many(1_001));
    }

    #[test]
    fn secrets_are_shown_by_nothing() {
        let secret = Value::Secret(Secret("hunter2".into()));
        assert_eq!(format!("{secret} {secret:?}"), "*** Secret(***)");
    }

    #[test]
    fn percent_admits_neither_zero_nor_nan() {
        for (percent, admitted) in [(0.0, false), (0.1, true), (100.0, true), (100.1, false)] {
            assert_eq!(Kind::Percent.admits(&Value::Number(percent)), admitted);
        }
        assert!(!Kind::Percent.admits(&Value::Number(f64::NAN)));
        assert!(!Kind::Number(0.0..=1.0).admits(&Value::Number(f64::NAN)));
    }
}
