//! Short words for what a value is, in JSON Schema.

use serde_json::{Map, Value, json};

/// A member of an object, and what it is.
pub(super) type Member = (&'static str, Value);

pub(super) fn text() -> Value {
    json!({ "type": "string" })
}

pub(super) fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

pub(super) fn integer() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

pub(super) fn range(least: u64, most: u64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

pub(super) fn number() -> Value {
    json!({ "type": "number" })
}

pub(super) fn flag() -> Value {
    json!({ "type": "boolean" })
}

pub(super) fn one_of(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

pub(super) fn list(items: Value) -> Value {
    made([("type", json!("array")), ("items", items)])
}

/// Numbers by name.
pub(super) fn counts() -> Value {
    json!({ "type": "object", "additionalProperties": integer() })
}

pub(super) fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

pub(super) fn or_null(schema: Value) -> Value {
    let choices = vec![schema, json!({ "type": "null" })];
    made([("anyOf", Value::Array(choices))])
}

pub(super) fn about(text: &str, mut schema: Value) -> Value {
    schema["description"] = json!(text);
    schema
}

pub(super) fn object(members: impl IntoIterator<Item = Member>) -> Value {
    object_with(members, [])
}

pub(super) fn object_with(
    members: impl IntoIterator<Item = Member>,
    optional: impl IntoIterator<Item = Member>,
) -> Value {
    let mut properties: Map<_, _> = into_map(members);
    let required: Vec<_> = properties.keys().cloned().collect();
    properties.extend(into_map(optional));
    json!({
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": false,
    })
}

pub(super) fn made(members: impl IntoIterator<Item = Member>) -> Value {
    Value::Object(into_map(members))
}

fn into_map(members: impl IntoIterator<Item = Member>) -> Map<String, Value> {
    let members = members.into_iter();
    members
        .map(|(key, schema)| (key.to_owned(), schema))
        .collect()
}
