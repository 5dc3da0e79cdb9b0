//! What the texts of values mean.

use crate::{
    Problem,
    node::{Content, Node},
    sizes,
};
use plimsoll_core::settings::{Kind, Secret, Setting, Value};
use std::time::Duration;

/// What is wrong with a value.
#[derive(Debug, PartialEq)]
pub(crate) enum Wrong {
    /// What it must be.
    Value(String),
    /// What is wrong with parts of it, each with its place. Its key is below that of the value.
    Parts(Vec<Problem>),
}

/// Reads the value of a setting.
pub(crate) fn read(node: &Node, setting: &dyn Setting, memory: Memory) -> Result<Value, Wrong> {
    let (kind, words) = (setting.kind(), setting.words());
    let expected = || Wrong::Value(expected(&kind, words));
    let scalar = match (&node.content, &kind) {
        (Content::Scalar(scalar), _) => scalar,
        (Content::List(items), Kind::Texts) => {
            let texts = items.iter().map(|item| match &item.content {
                Content::Scalar(scalar) if !scalar.is_null() => Ok(scalar.text.clone()),
                _ => Err(expected()),
            });
            return Ok(Value::Texts(texts.collect::<Result<_, _>>()?));
        }
        (Content::Map(entries), Kind::Sizes(range)) => {
            return sizes::of_group(node, entries, range, memory).map(Value::Sizes);
        }
        (Content::List(_) | Content::Map(_), _) => return Err(expected()),
    };
    if scalar.is_null() {
        return words
            .first()
            .map(|word| Value::Word(word))
            .ok_or_else(expected);
    }
    let text = scalar.text.trim();
    let any_text = matches!(kind, Kind::Text | Kind::Secret);
    // Quotes tell a text from a word.
    if (scalar.plain || !any_text)
        && let Some(word) = words.iter().find(|word| **word == text)
    {
        return Ok(Value::Word(word));
    }
    // `off` is what people write for nothing, and what some YAML makes of it.
    if !any_text
        && (matches!(text, "off" | "none") || flag(text) == Some(false))
        && let Some(word) = words
            .first()
            .filter(|word| matches!(**word, "off" | "none"))
    {
        return Ok(Value::Word(word));
    }
    let value = match &kind {
        Kind::Flag => flag(text).map(Value::Flag),
        Kind::Integer(_) => integer(text).map(Value::Integer),
        Kind::Number(_) => number(text).map(Value::Number),
        Kind::Percent => {
            let share = text.strip_suffix('%').unwrap_or(text);
            number(share.trim_end()).map(Value::Number)
        }
        Kind::Duration(_) => duration(text).map(Value::Duration),
        Kind::Bytes(_) => match text.strip_suffix('%') {
            Some(share) => match (number(share.trim_end()), memory.limit()) {
                (Some(share), _) if !(share > 0.0 && share <= 100.0) => None,
                (Some(share), Some(limit)) => {
                    Some(Value::Bytes((limit as f64 * share / 100.0) as u64))
                }
                (Some(_), None) => {
                    let what = "a number of bytes: how much memory there may be is not known here";
                    return Err(Wrong::Value(what.to_owned()));
                }
                (None, _) => None,
            },
            None => bytes(text).map(Value::Bytes),
        },
        // Without a unit it is calls.
        Kind::CallsOrTime(..) => match integer(text) {
            Some(calls) => Some(Value::Integer(calls)),
            None => duration(text).map(Value::Duration),
        },
        Kind::CountOrShare(_) => match text.strip_suffix('%') {
            Some(share) => number(share.trim_end()).map(Value::Share),
            None => integer(text).map(Value::Integer),
        },
        Kind::Choice(names) => {
            let name = names.iter().find(|name| **name == text);
            name.map(|name| Value::Word(name))
        }
        Kind::Address => text.parse().ok().map(Value::Address),
        Kind::Text => Some(Value::Text(scalar.text.clone())),
        Kind::Secret => Some(Value::Secret(Secret(scalar.text.clone()))),
        Kind::Texts => {
            let texts = text.split(',').map(str::trim);
            let texts = texts.filter(|text| !text.is_empty()).map(str::to_owned);
            Some(Value::Texts(texts.collect()))
        }
        Kind::Sizes(range) => {
            let sizes = sizes::of_text(&node.source, text, range, memory);
            sizes.transpose()?.map(Value::Sizes)
        }
        // A kind of a later version of core.
        _ => None,
    };
    let value = value.filter(|value| kind.admits(value));
    value.ok_or_else(expected)
}

/// What a setting must be, with an example where that helps.
fn expected(kind: &Kind, words: &[&str]) -> String {
    let mut expected = match kind {
        Kind::Integer(_) => format!("a whole number {kind}"),
        Kind::Number(_) | Kind::Percent => format!("a number {kind}"),
        Kind::Duration(_) => format!("a time {kind}, in seconds or like \"30m\""),
        Kind::Bytes(_) => format!("a size {kind}, in bytes or like \"64MiB\" or \"40%\""),
        Kind::Sizes(_) => format!("{kind}, like {{a: 64MiB}} or \"a=64MiB\""),
        _ => kind.to_string(),
    };
    if !words.is_empty() {
        expected.push_str(", or ");
        expected.push_str(&words.join(" or "));
    }
    expected
}

/// The booleans of YAML 1.2.
pub(crate) fn flag(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn integer(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|c| c.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn number(text: &str) -> Option<f64> {
    let plain = |c: u8| c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'+' | b'e' | b'E');
    let plain = text.bytes().all(plain);
    plain.then(|| text.parse().ok()).flatten()
}

/// Seconds, or a number with a unit, or several.
fn duration(text: &str) -> Option<Duration> {
    match number(text) {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None => {
            // It would take `1 30m` for 130 minutes.
            let words: Vec<&str> = text.split_whitespace().collect();
            let apart = |pair: &[&str]| {
                pair[0].ends_with(|c: char| c.is_ascii_digit() || c == '.')
                    && pair[1].starts_with(|c: char| c.is_ascii_digit() || c == '.')
            };
            let number_in_pieces = words.windows(2).any(apart);
            let duration = humantime::parse_duration(text).ok();
            duration.filter(|_| !number_in_pieces)
        }
    }
}

fn bytes(text: &str) -> Option<u64> {
    match integer(text) {
        Some(bytes) => Some(bytes),
        // A sign or an exponent makes no size; and `64m` is 64 MiB to some, and 64 MB to others.
        None if !text.starts_with(|c: char| c.is_ascii_digit()) => None,
        None if !text.ends_with(['b', 'B', 'i', 'I']) => None,
        // What does not fit becomes the most that does.
        None => {
            let size = text.parse::<bytesize::ByteSize>().ok()?.0;
            (size < u64::MAX).then_some(size)
        }
    }
}

/// How much memory there may be, looked up when a share of it is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Memory {
    Found,
    #[cfg(test)]
    Given(Option<u64>),
}

impl Memory {
    fn limit(self) -> Option<u64> {
        match self {
            Self::Found => crate::limit::memory_limit(),
            #[cfg(test)]
            Self::Given(limit) => limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, node::Scalar};
    use plimsoll_core::settings;
    use std::ops::RangeInclusive;

    /// What a size between 1 KiB and 1 GiB is read as.
    fn size(text: &str, memory: Option<u64>) -> Result<Value, String> {
        size_in(1 << 10..=1 << 30, text, memory)
    }

    fn size_in(
        range: RangeInclusive<u64>,
        text: &str,
        memory: Option<u64>,
    ) -> Result<Value, String> {
        let content = Content::Scalar(Scalar {
            text: text.to_owned(),
            plain: true,
        });
        let node = Node {
            source: Source::Code,
            content,
        };
        let mut size = 0_u64;
        let setting = settings::bytes(&mut size, range);
        read(&node, &setting, Memory::Given(memory)).map_err(|wrong| match wrong {
            Wrong::Value(expected) => expected,
            Wrong::Parts(parts) => panic!("{parts:?} are no parts of a size"),
        })
    }

    #[test]
    fn a_share_of_the_memory_is_a_size() {
        let limit = Some(1_u64 << 30);
        for (text, bytes) in [
            ("100%", 1 << 30),
            ("25%", 1 << 28),
            (" 12.5 % ", 1 << 27),
            ("1e1%", (1 << 30) / 10),
        ] {
            assert_eq!(size(text, limit), Ok(Value::Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn a_share_that_is_none_or_makes_a_size_out_of_range_is_refused() {
        let expected = "a size between 1KiB and 1GiB, in bytes or like \"64MiB\" or \"40%\"";
        let limit = Some(1_u64 << 30);
        for text in ["0%", "100.1%", "-1%", "%", "x%", "1%%", "nan%", "0.00001%"] {
            assert_eq!(size(text, limit), Err(expected.to_owned()), "{text}");
        }
        assert_eq!(size("50%", Some(u64::MAX)), Err(expected.to_owned()));
        // The least there may be, and one less.
        assert_eq!(size("50%", Some(2_048)), Ok(Value::Bytes(1_024)));
        assert_eq!(size("50%", Some(2_046)), Err(expected.to_owned()));
    }

    #[test]
    fn a_size_that_no_number_is_large_enough_for_is_refused() {
        let size = |text| size_in(0..=u64::MAX, text, None);
        let most = Value::Bytes(u64::MAX);
        assert_eq!(size("18446744073709551615"), Ok(most));
        let exact = Value::Bytes(15 << 60);
        assert_eq!(size("15EiB"), Ok(exact));
        for text in ["18446744073709551616", "16EiB", "99999999999TiB", "1e30"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_of_memory_that_nobody_knows_is_refused_with_the_reason() {
        let expected = "a number of bytes: how much memory there may be is not known here";
        assert_eq!(size("50%", None), Err(expected.to_owned()));
        assert!(size("0%", None).is_err_and(|error| error != expected));
        assert_eq!(size("64KiB", None), Ok(Value::Bytes(64 << 10)));
    }
}
