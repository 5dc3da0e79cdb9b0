//! Describes settings as a JSON Schema, for editors and for whoever checks files elsewhere.

use crate::effective::plain;
use plimsoll_core::settings::{Fields, Kind, Setting, Settings, Value};
use serde_json::{Map, json};
use std::fmt;

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
        "type": "string",
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
            any.push(json!({ "enum": words }));
            any.push(json!({ "type": "null" }));
            schema = json!({ "anyOf": any });
        }
        let value = setting.value();
        if !matches!(value, Value::Secret(_)) {
            schema["default"] = plain(&value);
        }
        let range = match kind {
            Kind::Duration(_) | Kind::Bytes(_) | Kind::CallsOrTime(..) => format!(" It is {kind}."),
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
            ],
        });
        if !*on {
            schema["default"] = "off".into();
        }
        self.add(key, about, schema);
    }

    fn require(&mut self, _: &'static str, _: bool, _: &dyn fmt::Display) {}
}

/// Times and sizes are numbers, or texts with units whose range a schema cannot tell.
fn of_kind(kind: &Kind) -> serde_json::Value {
    let time = "^\\s*([0-9.]+\\s*[a-zA-Zµ]*\\s*)+$";
    match kind {
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Integer(range) => {
            json!({ "type": "integer", "minimum": range.start(), "maximum": range.end() })
        }
        Kind::Number(range) => {
            json!({ "type": "number", "minimum": range.start(), "maximum": range.end() })
        }
        Kind::Percent => json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 100 }),
        Kind::Duration(range) => {
            let (least, most) = (range.start().as_secs_f64(), range.end().as_secs_f64());
            json!({ "anyOf": [
                { "type": "number", "minimum": least, "maximum": most },
                { "type": "string", "pattern": time },
            ] })
        }
        Kind::Bytes(range) => json!({ "anyOf": [
            { "type": "integer", "minimum": range.start(), "maximum": range.end() },
            { "type": "string", "pattern": "^\\s*[0-9.]+\\s*([kKmMgGtT]i?[bB]?|[bB]|%)?\\s*$" },
        ] }),
        Kind::CallsOrTime(calls, _) => json!({ "anyOf": [
            { "type": "integer", "minimum": calls.start(), "maximum": calls.end() },
            { "type": "string", "pattern": time },
        ] }),
        Kind::CountOrShare(range) => json!({ "anyOf": [
            { "type": "integer", "minimum": range.start(), "maximum": range.end() },
            { "type": "string", "pattern": "^\\s*[0-9.]+\\s*%\\s*$" },
        ] }),
        Kind::Choice(names) => json!({ "enum": names }),
        Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        // An address is checked by whoever listens.
        _ => json!({ "type": "string" }),
    }
}
