//! Holds answers against the document of all routes, by the few keywords of JSON Schema that it has.

use serde_json::Value;

/// An `OpenAPI` document.
pub(crate) struct Document(pub(crate) Value);

impl Document {
    /// Every way to ask: the method in capitals, and the path.
    pub(crate) fn operations(&self) -> Vec<(String, String)> {
        let paths = self.0["paths"].as_object().unwrap();
        let all = paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| (method.to_uppercase(), path.clone()))
        });
        all.collect()
    }

    /// The media type of an answer, and its schema.
    pub(crate) fn answer(&self, method: &str, path: &str, status: u16) -> (&str, &Value) {
        let responses = &self.0["paths"][path][method.to_lowercase()]["responses"];
        let response = responses.get(status.to_string());
        let content = &response.unwrap_or_else(|| &responses["default"])["content"];
        let [(media, content)] = &content.as_object().unwrap().iter().collect::<Vec<_>>()[..]
        else {
            panic!("{method} {path}: {content}");
        };
        (media, &content["schema"])
    }

    /// What is wrong with a value, and where; nothing if it is as the schema says.
    pub(crate) fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.look(schema, value, "", &mut faults);
        faults
    }

    fn look(&self, schema: &Value, value: &Value, place: &str, faults: &mut Vec<String>) {
        let mut fault = |what: String| faults.push(format!("{place}: {what}"));
        for (keyword, rule) in schema.as_object().unwrap() {
            match keyword.as_str() {
                "description" => {}
                "format" => {
                    assert_eq!(rule, "date-time");
                    let text = value.as_str().unwrap_or_default();
                    if !(text.len() == 24 && text.contains('T') && text.ends_with('Z')) {
                        fault(format!("{value} is no time"));
                    }
                }
                "type" => {
                    if !is_of(value, rule.as_str().unwrap()) {
                        fault(format!("{value} is no {rule}"));
                    }
                }
                "enum" => {
                    if !rule.as_array().unwrap().contains(value) {
                        fault(format!("{value} is none of {rule}"));
                    }
                }
                "minimum" => {
                    if value.as_f64() < rule.as_f64() {
                        fault(format!("{value} is below {rule}"));
                    }
                }
                "required" => {
                    for key in rule.as_array().unwrap() {
                        if value.get(key.as_str().unwrap()).is_none() {
                            fault(format!("{key} is missing"));
                        }
                    }
                }
                "anyOf" => {
                    let mut choices = rule.as_array().unwrap().iter();
                    if !choices.any(|choice| self.faults(choice, value).is_empty()) {
                        let first = self.faults(&rule[0], value);
                        fault(format!(
                            "{value} is none of those, not even the first: {first:?}"
                        ));
                    }
                }
                "items" | "properties" | "additionalProperties" | "$ref" => {}
                unknown => panic!("{place}: nobody knows {unknown}"),
            }
        }
        if let Some(reference) = schema.get("$ref") {
            let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
            let target = self
                .0
                .pointer(pointer)
                .unwrap_or_else(|| panic!("no {pointer}"));
            self.look(target, value, place, faults);
        }
        if let (Some(items), Some(all)) = (schema.get("items"), value.as_array()) {
            for (number, item) in all.iter().enumerate() {
                self.look(items, item, &format!("{place}/{number}"), faults);
            }
        }
        for (key, member) in value.as_object().into_iter().flatten() {
            let place = format!("{place}/{key}");
            let known = schema.get("properties").and_then(|known| known.get(key));
            match known.or_else(|| schema.get("additionalProperties")) {
                Some(Value::Bool(false)) => faults.push(format!("{place}: nobody knows that")),
                Some(schema) => self.look(schema, member, &place, faults),
                None => {}
            }
        }
    }
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => panic!("nobody knows the type {kind}"),
    }
}
