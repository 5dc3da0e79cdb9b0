//! Describes settings as a JSON Schema, for editors and for whoever checks files elsewhere.

use crate::effective::plain;
use plimsoll_core::settings::{Fields, Kind, Setting, Settings, Value};
use serde_json::{Map, json};
use std::{fmt, ops::RangeInclusive, time::Duration};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The JSON Schema (draft 2020-12) of a file with these settings. The values they have are its
/// defaults.
#[must_use]
pub fn schema(title: &str, settings: &mut dyn Settings) -> serde_json::Value {
    let mut schema = object(settings);
    schema["$schema"] = DRAFT.into();
    schema["title"] = title.into();
    schema
}

/// The JSON Schema (draft 2020-12) of a file with a list under `key`, whose items have these
/// settings and a name.
#[must_use]
pub fn list_schema(
    title: &str,
    key: &str,
    about: &str,
    item: &mut dyn Settings,
) -> serde_json::Value {
    let mut item = object(item);
    item["properties"]["name"] = json!({
        "description": "The name, by which everything else knows it. No two have the same.",
        "type": ["string", "integer", "boolean"],
        "pattern": "^[^.\\p{Cc}]{1,128}$",
    });
    item["required"] = json!(["name"]);
    json!({
        "$schema": DRAFT,
        "title": title,
        "type": "object",
        "additionalProperties": false,
        "properties": {
            key: { "description": about, "type": ["array", "null"], "items": item },
        },
    })
}

fn object(settings: &mut dyn Settings) -> serde_json::Value {
    let mut describe = Describe {
        properties: Map::new(),
    };
    settings.visit(&mut describe);
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": describe.properties,
    })
}

struct Describe {
    properties: Map<String, serde_json::Value>,
}

impl Describe {
    fn add(&mut self, key: &str, about: &str, mut schema: serde_json::Value) {
        schema["description"] = about.into();
        self.properties.insert(key.to_owned(), schema);
    }
}

impl Fields for Describe {
    fn setting(&mut self, key: &'static str, about: &'static str, setting: &mut dyn Setting) {
        let (kind, words) = (setting.kind(), setting.words());
        let mut schema = of_kind(&kind);
        if !words.is_empty() {
            let mut any = match schema.get_mut("anyOf").and_then(|any| any.as_array_mut()) {
                Some(any) => std::mem::take(any),
                None => vec![schema],
            };
            let mut all: Vec<_> = words.iter().map(|word| json!(word)).collect();
            if let Some("off" | "none") = words.first().copied() {
                all.push(json!(false));
                any.push(one_of("off|none|false|False|FALSE"));
            }
            all.push(json!(null));
            any.push(json!({ "enum": all }));
            schema = json!({ "anyOf": any });
        }
        let value = setting.value();
        if !matches!(value, Value::Secret(_)) {
            schema["default"] = plain(&value);
        }
        let range = match kind {
            Kind::Duration(_) | Kind::Bytes(_) | Kind::CallsOrTime(..) | Kind::Sizes(_) => {
                format!(" It is {kind}.")
            }
            _ => String::new(),
        };
        self.add(key, &format!("{about}{range}"), schema);
    }

    fn preset(
        &mut self,
        key: &'static str,
        about: &'static str,
        _: &'static str,
        words: &'static [&'static str],
        _: &mut dyn FnMut(&'static str),
    ) {
        self.add(key, about, json!({ "enum": words }));
    }

    fn group(&mut self, key: &'static str, about: &'static str, group: &mut dyn Settings) {
        let mut schema = object(group);
        schema["type"] = json!(["object", "null"]);
        self.add(key, about, schema);
    }

    fn optional(
        &mut self,
        key: &'static str,
        about: &'static str,
        on: &mut bool,
        group: &mut dyn Settings,
    ) {
        let mut schema = json!({
            "anyOf": [
                object(group),
                { "enum": ["on", "off", true, false, null] },
                one_of("on|true|True|TRUE|off|none|false|False|FALSE"),
            ],
        });
        if !*on {
            schema["default"] = "off".into();
        }
        self.add(key, about, schema);
    }

    fn require(&mut self, _: &'static str, _: bool, _: &dyn fmt::Display) {}
}

/// Numbers may be in quotes, since templates like to put them there. Times and sizes are numbers
/// too, or texts with units, whose range a schema cannot tell.
fn of_kind(kind: &Kind) -> serde_json::Value {
    match kind {
        Kind::Flag => {
            let boolean = json!({ "type": "boolean" });
            json!({ "anyOf": [boolean, one_of("true|True|TRUE|false|False|FALSE")] })
        }
        Kind::Integer(range) => or_text(&integer(range), DIGITS),
        Kind::Number(range) => {
            let mut number = json!({ "type": "number" });
            if range.start().is_finite() {
                number["minimum"] = json!(range.start());
            }
            if *range.end() < f64::MAX {
                number["maximum"] = json!(range.end());
            }
            or_text(&number, NUMBER)
        }
        Kind::Percent => or_text(
            &json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 100 }),
            "^\\s*[0-9.eE+-]+\\s*%?\\s*$",
        ),
        Kind::Duration(range) => {
            let mut seconds = json!({ "type": "number", "minimum": range.start().as_secs_f64() });
            if *range.end() < Duration::MAX {
                seconds["maximum"] = json!(range.end().as_secs_f64());
            }
            or_text(&seconds, TIME)
        }
        Kind::Bytes(range) => or_text(&integer(range), SIZE),
        // A time in seconds without a unit would be calls, but one with a fraction cannot be.
        Kind::CallsOrTime(calls, time) => {
            let schema = or_text(&integer(calls), TIME);
            match of_kind(&Kind::Duration(time.clone()))["anyOf"].get_mut(0) {
                Some(seconds) => {
                    seconds["not"] = json!({ "type": "integer" });
                    json!({ "anyOf": [schema, seconds] })
                }
                None => schema,
            }
        }
        Kind::CountOrShare(range) => or_text(&integer(range), "^\\s*[0-9.eE+-]+\\s*%?\\s*$"),
        Kind::Choice(names) => json!({ "enum": names }),
        Kind::Texts => json!({ "anyOf": [{ "type": "array", "items": any_text() }, any_text()] }),
        Kind::Sizes(range) => {
            let group = json!({
                "type": "object",
                "maxProperties": Kind::MAX_NAMES,
                "propertyNames": { "pattern": NAME },
                "additionalProperties": of_kind(&Kind::Bytes(range.clone())),
            });
            or_text(&group, &sizes())
        }
        // An address is checked by whoever listens.
        Kind::Address => json!({ "type": "string", "pattern": ":[0-9]+\\s*$" }),
        _ => any_text(),
    }
}

const DIGITS: &str = "^\\s*[0-9]+\\s*$";
const NUMBER: &str = "^\\s*[0-9.eE+-]+\\s*$";
const TIME: &str = "^\\s*([0-9.eE+-]+|([0-9][0-9.\\s]*[a-zA-Zµ]+\\s*)+)\\s*$";
const SIZE: &str =
    "^\\s*([0-9.]+\\s*((([kKmMgGtTpPeE][iI]?)?[bB]|[kKmMgGtTpPeE][iI])?)|[0-9.eE+-]+\\s*%)\\s*$";

/// A name of a size. Its length is in characters here, of which each has a byte at least.
const NAME: &str = "^[^\\p{Cc}]{1,256}$";

/// A text for several sizes by name.
fn sizes() -> String {
    let size = SIZE.trim_start_matches('^').trim_end_matches('$');
    let one = format!("([^,]*[^,\\s][^,]*={size}|\\s*)");
    format!("^{one}(,{one})*$")
}

fn integer(range: &RangeInclusive<u64>) -> serde_json::Value {
    let mut schema = json!({ "type": "integer", "minimum": range.start() });
    if *range.end() < u64::MAX {
        schema["maximum"] = json!(range.end());
    }
    schema
}

fn or_text(schema: &serde_json::Value, pattern: &str) -> serde_json::Value {
    json!({ "anyOf": [schema, { "type": "string", "pattern": pattern }] })
}

/// One of some words, none of which an editor should propose.
fn one_of(words: &str) -> serde_json::Value {
    json!({ "type": "string", "pattern": format!("^\\s*({words})\\s*$") })
}

/// Whatever YAML makes of a text without quotes.
fn any_text() -> serde_json::Value {
    json!({ "type": ["string", "number", "boolean"] })
}
