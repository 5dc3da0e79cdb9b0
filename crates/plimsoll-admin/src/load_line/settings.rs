//! Settings as numbers: sizes in bytes, times in seconds.

use plimsoll_core::settings::{self, Kind, Setting, Settings};
use serde_json::{Map, Value, json};

/// The values of a group, by their keys. Words that stand for a value are told as they are.
pub(crate) fn values_of(group: &(impl Settings + Clone)) -> Map<String, Value> {
    visited(group, |_, setting| value(setting.value()))
}

/// The schema of what [`values_of`] makes of such a group.
pub(crate) fn schema_of(group: &(impl Settings + Clone)) -> Value {
    let properties = visited(group, |about, setting| {
        let mut schema = kind(&setting.kind());
        let words = setting.words();
        if !words.is_empty() {
            schema = json!({ "anyOf": [schema, { "enum": words }] });
        }
        schema["description"] = json!(about);
        schema
    });
    let required: Vec<_> = properties.keys().cloned().collect();
    json!({
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": false,
    })
}

/// No group that is shown has groups of its own.
fn visited(
    group: &(impl Settings + Clone),
    shown: impl Fn(&'static str, &dyn Setting) -> Value,
) -> Map<String, Value> {
    let mut all = Map::new();
    settings::each(&mut group.clone(), |key, about, setting| {
        all.insert(key.to_owned(), shown(about, setting));
    });
    all
}

fn value(value: settings::Value) -> Value {
    use settings::Value::{Bytes, Duration, Flag, Integer, Number, Share, Texts, Word};
    match value {
        Flag(flag) => json!(flag),
        Integer(number) | Bytes(number) => json!(number),
        Number(number) | Share(number) => json!(number),
        Duration(time) => json!(time.as_secs_f64()),
        Word(word) => json!(word),
        Texts(texts) => json!(texts),
        other => json!(other.to_string()),
    }
}

fn kind(kind: &Kind) -> Value {
    match kind {
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Integer(_) | Kind::Bytes(_) => json!({ "type": "integer" }),
        Kind::Number(_) | Kind::Percent | Kind::Duration(_) => json!({ "type": "number" }),
        Kind::Choice(names) => json!({ "enum": names }),
        Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        _ => json!({ "type": "string" }),
    }
}
