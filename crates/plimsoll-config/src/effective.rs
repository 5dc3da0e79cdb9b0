use crate::Source;
use plimsoll_core::settings::Value;
use serde_json::{Map, json};
use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

/// A setting with the value it has in the end.
///
/// Its `Display` is `key: value (source)`. Secrets are shown by nothing.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Effective {
    /// The setting, with the groups it is in: `server.max_connections`.
    pub key: String,
    /// The value.
    pub value: Value,
    /// Where it comes from.
    pub source: Source,
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, source } = self;
        write!(f, "{key}: {value} ({source})")
    }
}

/// The values as a tree of JSON: each is an object of its `value`, its `source`, and where that is
/// a file, the `line` and the `column`.
#[must_use]
pub fn to_json(values: &[Effective]) -> serde_json::Value {
    let mut root = Map::new();
    for Effective { key, value, source } in values {
        let mut group = &mut root;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                group.insert(part.to_owned(), leaf(value, source));
                break;
            }
            let inner = group.entry(part).or_insert_with(|| json!({}));
            let Some(inner) = inner.as_object_mut() else {
                break;
            };
            group = inner;
        }
    }
    root.into()
}

fn leaf(value: &Value, source: &Source) -> serde_json::Value {
    let mut leaf = json!({ "value": plain(value), "source": source_name(source) });
    if let (Some(line), Some(column)) = (source.line(), source.column()) {
        leaf["line"] = line.into();
        leaf["column"] = column.into();
    }
    leaf
}

fn source_name(source: &Source) -> &str {
    match source {
        Source::Code => "code",
        Source::File { file: name, .. } | Source::Variable(name) => name,
    }
}

/// A value as JSON has it: numbers are numbers, times and sizes are texts.
pub(crate) fn plain(value: &Value) -> serde_json::Value {
    match value {
        Value::Flag(value) => json!(value),
        Value::Integer(value) => json!(value),
        Value::Number(value) => json!(value),
        Value::Texts(values) => json!(values),
        Value::Sizes(sizes) => {
            let sizes = sizes.iter();
            let sizes = sizes.map(|(name, size)| (name.clone(), plain(&Value::Bytes(*size))));
            sizes.collect::<Map<_, _>>().into()
        }
        value => json!(value.to_string()),
    }
}

/// The values as YAML that says the same when it is read again, with the source of each behind it.
/// Secrets are left out.
///
/// Settings under `list` are items with a name, one after the other.
#[must_use]
pub fn to_yaml(values: &[Effective], list: Option<&str>) -> String {
    let mut out = String::new();
    let mut open: Vec<&str> = Vec::new();
    for Effective { key, value, source } in values {
        let path: Vec<&str> = key.split('.').collect();
        let Some((name, groups)) = path.split_last() else {
            continue;
        };
        let common = open.iter().zip(groups).take_while(|(a, b)| a == b).count();
        open.truncate(common);
        for (depth, group) in groups.iter().enumerate().skip(common) {
            // `write!` to a String does not fail.
            let _ = match depth {
                1 if list == groups.first().copied() => {
                    writeln!(out, "{INDENT}- name: {}", quoted(group))
                }
                depth => writeln!(out, "{}{}:", INDENT.repeat(depth), key_of(group)),
            };
            open.push(group);
        }
        let indent = INDENT.repeat(groups.len());
        let _ = match value {
            Value::Secret(_) => writeln!(out, "{indent}# {name}: *** # {source}"),
            Value::Sizes(sizes) if !sizes.is_empty() => {
                let head = writeln!(out, "{indent}{name}: # {source}");
                sizes.iter().fold(head, |before, (name, size)| {
                    let (name, size) = (quoted(name), Value::Bytes(*size));
                    before.and_then(|()| writeln!(out, "{indent}{INDENT}{name}: {size}"))
                })
            }
            value => writeln!(out, "{indent}{name}: {} # {source}", yaml(value)),
        };
    }
    out
}

const INDENT: &str = "  ";

/// A key, in quotes where it may be anything, as names of items are.
fn key_of(key: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    match key.starts_with(plain) && key.chars().all(|c| plain(c) || c.is_ascii_digit()) {
        true => key.into(),
        false => quoted(key).into(),
    }
}

fn yaml(value: &Value) -> String {
    match value {
        // A word in quotes may be a text.
        Value::Flag(_)
        | Value::Integer(_)
        | Value::Number(_)
        | Value::Bytes(_)
        | Value::Word(_) => value.to_string(),
        Value::Texts(texts) => {
            let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
            format!("[{}]", texts.join(", "))
        }
        // There are others below.
        Value::Sizes(_) => "{}".to_owned(),
        value => quoted(&value.to_string()),
    }
}

/// A text in quotes, which JSON and YAML share.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
