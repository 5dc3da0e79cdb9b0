//! The schema, against what is read.

use crate::support::{Adapter, Every, read, read_list};
use plimsoll_config::{list_schema, schema};
use plimsoll_core::settings::{Fields, Settings, integer};
use regex::Regex;
use serde_json::{Value, json};

/// Whether a schema accepts a value, as far as ours go: what they do not use is not known here.
fn accepts(schema: &Value, value: &Value) -> bool {
    let schema = schema.as_object().unwrap();
    schema.iter().all(|(word, rule)| match &**word {
        "$schema" | "title" | "description" | "default" => true,
        "type" => match rule {
            Value::Array(types) => types.iter().any(|rule| is_a(rule.as_str().unwrap(), value)),
            rule => is_a(rule.as_str().unwrap(), value),
        },
        "enum" => {
            let values = rule.as_array().unwrap();
            // JSON Schema wants them to be different.
            let twice = |(n, value)| values[..n].contains(value);
            assert!(!values.iter().enumerate().any(twice), "{values:?}");
            values.contains(value)
        }
        "anyOf" => rule
            .as_array()
            .unwrap()
            .iter()
            .any(|schema| accepts(schema, value)),
        "not" => !accepts(rule, value),
        "minimum" => value
            .as_f64()
            .is_none_or(|value| value >= rule.as_f64().unwrap()),
        "maximum" => value
            .as_f64()
            .is_none_or(|value| value <= rule.as_f64().unwrap()),
        "exclusiveMinimum" => value
            .as_f64()
            .is_none_or(|value| value > rule.as_f64().unwrap()),
        "pattern" => {
            let pattern = Regex::new(rule.as_str().unwrap()).unwrap();
            value.as_str().is_none_or(|text| pattern.is_match(text))
        }
        "items" => value
            .as_array()
            .is_none_or(|items| items.iter().all(|item| accepts(rule, item))),
        "required" => {
            let names = rule.as_array().unwrap().iter();
            let mut names = names.map(|name| name.as_str().unwrap());
            value
                .as_object()
                .is_none_or(|object| names.all(|name| object.contains_key(name)))
        }
        "properties" => value.as_object().is_none_or(|object| {
            let known = rule.as_object().unwrap();
            object
                .iter()
                .all(|(key, value)| known.get(key).is_none_or(|rule| accepts(rule, value)))
        }),
        "maxProperties" => value
            .as_object()
            .is_none_or(|object| object.len() as u64 <= rule.as_u64().unwrap()),
        "propertyNames" => value
            .as_object()
            .is_none_or(|object| object.keys().all(|key| accepts(rule, &json!(key)))),
        "additionalProperties" if rule.is_object() => {
            assert!(!schema.contains_key("properties"), "{schema:?}");
            value
                .as_object()
                .is_none_or(|object| object.values().all(|value| accepts(rule, value)))
        }
        "additionalProperties" => {
            assert_eq!(rule, &json!(false));
            let known = schema["properties"].as_object().unwrap();
            value
                .as_object()
                .is_none_or(|object| object.keys().all(|key| known.contains_key(key)))
        }
        word => panic!("{word} is not known here"),
    })
}

fn is_a(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => {
            value.is_u64()
                || value.is_i64()
                || value.as_f64().is_some_and(|value| value.fract() == 0.0)
        }
        name => panic!("{name} is not known here"),
    }
}

/// What an editor makes of the YAML: JSON is YAML too, so that one text is for both.
fn same(key: &str, value: &Value) -> (String, Value) {
    let value = json!({ key: value });
    (value.to_string(), value)
}

#[test]
fn the_schema_accepts_what_is_read_and_refuses_what_is_not() {
    let schema = schema("Everything", &mut Every::default());
    let cases: [(&str, &[Value], &[Value]); 18] = [
        (
            "flag",
            &[json!(true), json!(false), json!("true"), json!("FALSE")],
            &[json!("yes"), json!(1), json!(null), json!([]), json!("on")],
        ),
        (
            "count",
            &[json!(1), json!(1_000), json!("5"), json!(" 5 ")],
            &[
                json!(0),
                json!(1_001),
                json!(-1),
                json!("x"),
                json!(1.5),
                json!(null),
                json!("1.5"),
            ],
        ),
        (
            "most",
            &[json!(1), json!(u64::MAX), json!("unlimited"), json!(null)],
            &[json!(0), json!("off"), json!(false), json!({})],
        ),
        (
            "ratio",
            &[json!(0), json!(2.5), json!("1e0"), json!(0.25)],
            &[
                json!(-0.1),
                json!(2.6),
                json!("half"),
                json!(true),
                json!("50%"),
            ],
        ),
        (
            "rate",
            &[
                json!(0.1),
                json!(100),
                json!("50%"),
                json!("50 %"),
                json!("off"),
                json!(false),
                json!(null),
                json!("none"),
                json!("False"),
            ],
            &[
                json!(0),
                json!(101),
                json!(true),
                json!("auto"),
                json!("50%%"),
            ],
        ),
        (
            "timeout",
            &[
                json!(0.01),
                json!(86_400),
                json!("1h30m"),
                json!("1h 30m"),
                json!("30"),
                json!("1.5h"),
                json!("500µs 10ms"),
                json!("1e1"),
            ],
            &[
                json!(0),
                json!(0.009),
                json!(86_401),
                json!("soon"),
                json!("-1s"),
                json!(null),
                json!("off"),
                json!("1h30m x"),
            ],
        ),
        (
            "idle",
            &[
                json!(0),
                json!(1e18),
                json!("auto"),
                json!("never"),
                json!(null),
                json!("1d"),
            ],
            &[json!(-1), json!("off"), json!(false)],
        ),
        (
            "size",
            &[
                json!(1_024),
                json!(1_u64 << 40),
                json!("64MiB"),
                json!("64 mb"),
                json!("1.5KiB"),
                json!("64Mi"),
                json!("2048"),
            ],
            &[
                json!(1_023),
                json!("64XiB"),
                json!("64M"),
                json!(-1),
                json!("-1KiB"),
                json!(null),
                json!("40%%"),
                json!("MiB"),
            ],
        ),
        (
            "window",
            &[
                json!(1),
                json!(65_536),
                json!("1m"),
                json!("50"),
                json!(1.5),
                json!("1.5"),
            ],
            &[
                json!(0),
                json!(65_537),
                json!("x"),
                json!(0.001),
                json!(-1),
                json!(null),
            ],
        ),
        (
            "workers",
            &[
                json!(1),
                json!(512),
                json!("50%"),
                json!("1.5 %"),
                json!("8"),
            ],
            &[json!(0), json!(513), json!("%"), json!("x"), json!(null)],
        ),
        (
            "mode",
            &[json!("fast"), json!("safe")],
            &[json!("Fast"), json!(null), json!(1)],
        ),
        (
            "listen",
            &[json!("0.0.0.0:80"), json!("[::1]:80")],
            &[
                json!("localhost"),
                json!(80),
                json!(null),
                json!("1.2.3.4:x"),
            ],
        ),
        (
            "title",
            &[json!(""), json!("x"), json!(5), json!(1.5), json!(true)],
            &[json!(null), json!([]), json!({})],
        ),
        (
            "note",
            &[json!("x"), json!(null), json!("none"), json!(5)],
            &[json!([]), json!({})],
        ),
        (
            "token",
            &[json!("x"), json!(null), json!(5)],
            &[json!([]), json!({})],
        ),
        (
            "hosts",
            &[json!([]), json!(["a", 1, true]), json!("a, b"), json!(5)],
            &[json!(null), json!([null]), json!([[]]), json!({})],
        ),
        (
            "budgets",
            &[
                json!({}),
                json!({ "/a": "8MiB", "b=c": 1_024, "d": "0.1%" }),
                json!({ "x".repeat(256): 2_048 }),
                json!("/a=8MiB,/b = 1 KiB ,"),
                json!("a=b=1024"),
                json!(""),
                json!(" , "),
            ],
            &[
                json!(null),
                json!([]),
                json!(5),
                json!("a"),
                json!("a=x"),
                json!("=1KiB"),
                json!("a=1KiB,b"),
                json!({ "a": null }),
                json!({ "a": 1_023 }),
                json!({ "a": "lots" }),
                json!({ "": 1_024 }),
                json!({ "a\nb": 1_024 }),
                json!({ "x".repeat(257): 1_024 }),
                json!({ "a": {} }),
            ],
        ),
        (
            "retries",
            &[
                json!("on"),
                json!("off"),
                json!("none"),
                json!(true),
                json!(false),
                json!(null),
                json!({}),
                json!({ "attempts": 5 }),
                json!("TRUE"),
            ],
            &[
                json!("maybe"),
                json!(1),
                json!([]),
                json!({ "attempts": 0 }),
                json!({ "x": 1 }),
            ],
        ),
    ];
    for (key, good, bad) in cases {
        for value in good {
            let (yaml, value) = same(key, value);
            read(&yaml, &[]).unwrap();
            assert!(accepts(&schema, &value), "{yaml} is refused");
        }
        for value in bad {
            let (yaml, value) = same(key, value);
            assert!(read(&yaml, &[]).is_err(), "{yaml} is read");
            assert!(!accepts(&schema, &value), "{yaml} is accepted");
        }
    }
}

#[test]
fn groups_presets_and_unknown_keys_are_in_the_schema() {
    let schema = schema("Everything", &mut Every::default());
    for (value, good) in [
        (json!({}), true),
        (json!({ "profile": "small" }), true),
        (json!({ "profile": "tiny" }), false),
        (json!({ "profile": null }), false),
        (json!({ "bounds": null }), true),
        (json!({ "bounds": { "low": 5 } }), true),
        (json!({ "bounds": "on" }), false),
        (json!({ "bounds": { "lo": 5 } }), false),
        (json!({ "tuning": { "inner": { "third": 5 } } }), true),
        (json!({ "tuning": { "inner": { "third": 0 } } }), false),
        (json!({ "cuont": 5 }), false),
    ] {
        assert_eq!(read(&value.to_string(), &[]).is_ok(), good, "{value}");
        assert_eq!(accepts(&schema, &value), good, "{value}");
    }
}

#[test]
fn the_schema_of_a_list_wants_names() {
    let schema = list_schema("Adapters", "adapters", "All.", &mut Adapter::default());
    let long = "x".repeat(129);
    for (value, good) in [
        (json!({}), true),
        (json!({ "adapters": null }), true),
        (json!({ "adapters": [] }), true),
        (json!({ "adapters": [{ "name": "a-b" }] }), true),
        (json!({ "adapters": [{ "name": "a", "limit": 5 }] }), true),
        (
            json!({ "adapters": [{ "name": 5 }, { "name": true }] }),
            true,
        ),
        (json!({ "adapters": [{ "limit": 5 }] }), false),
        (json!({ "adapters": [{ "name": "" }] }), false),
        (json!({ "adapters": [{ "name": null }] }), false),
        (json!({ "adapters": [{ "name": "a.b" }] }), false),
        (json!({ "adapters": [{ "name": "a\nb" }] }), false),
        (json!({ "adapters": [{ "name": long }] }), false),
        (json!({ "adapters": ["a"] }), false),
        (json!({ "adapters": { "name": "a" } }), false),
        (json!({ "adapters": [{ "name": "a", "limits": 5 }] }), false),
        (json!({ "others": [] }), false),
    ] {
        assert_eq!(
            read_list("", &value.to_string(), &[]).is_ok(),
            good,
            "{value}"
        );
        assert_eq!(accepts(&schema, &value), good, "{value}");
    }
    assert_eq!(schema["properties"]["adapters"]["description"], "All.");
}

#[test]
fn ranges_without_an_end_have_no_maximum() {
    let schema = schema("Everything", &mut Every::default());
    let most = &schema["properties"]["most"]["anyOf"][0];
    assert_eq!(most, &json!({ "type": "integer", "minimum": 1 }));
    let idle = &schema["properties"]["idle"]["anyOf"][0];
    assert_eq!(idle, &json!({ "type": "number", "minimum": 0.0 }));
    let count = &schema["properties"]["count"]["anyOf"][0];
    let expected = json!({ "type": "integer", "minimum": 1, "maximum": 1_000 });
    assert_eq!(count, &expected);
}

#[test]
fn the_schema_says_what_settings_are_and_what_they_are_without_a_word() {
    let schema = schema("Everything", &mut Every::default());
    assert_eq!(schema["title"], "Everything");
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    let properties = &schema["properties"];
    assert_eq!(properties["flag"]["description"], "A flag.");
    assert_eq!(
        properties["timeout"]["description"],
        "A time. It is between 10ms and 1d."
    );
    for (key, default) in [
        ("count", json!(10)),
        ("rate", json!(50.0)),
        ("idle", json!("auto")),
        ("timeout", json!("30s")),
        ("retries", json!("off")),
        ("hosts", json!([])),
        ("budgets", json!({})),
    ] {
        assert_eq!(properties[key]["default"], default, "{key}");
        let value = json!({ key: default });
        assert!(accepts(&schema, &value), "the default {value} is refused");
    }
    assert!(properties["profile"].get("default").is_none());
}

#[test]
fn a_setting_that_is_a_group_in_the_schema_is_one_of_a_single_key() {
    struct One(u64);
    impl Settings for One {
        fn visit(&mut self, fields: &mut dyn Fields) {
            let one = &mut integer(&mut self.0, 0..=1);
            fields.setting("one", "The only one.", one);
        }
    }
    assert_eq!(
        schema("One", &mut One(1)),
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "One",
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "one": {
                    "description": "The only one.",
                    "default": 1,
                    "anyOf": [
                        { "type": "integer", "minimum": 0, "maximum": 1 },
                        { "type": "string", "pattern": "^\\s*[0-9]+\\s*$" },
                    ],
                },
            },
        })
    );
}
