//! What a reload tells of two readings.

use crate::support::{good, read_list};
use plimsoll_config::{Change, Effective, Reload, Source};
use plimsoll_core::settings::Value;

fn changes(old: &[Effective], new: &[Effective]) -> Vec<String> {
    let reload = Reload::between(old, new, |key| key.starts_with("bounds"));
    reload.changes.iter().map(ToString::to_string).collect()
}

#[test]
fn a_reload_tells_what_changed_in_the_order_of_the_settings() {
    let old = good("count: 5\nbounds: {low: 1}", &[]).1;
    let new = good("bounds: {low: 2}\ncount: 5\nretries: {attempts: 5}", &[]).1;
    assert_eq!(
        changes(&old, &new),
        [
            "bounds.low: 1 → 2 (config.yaml:1:15)",
            "retries.attempts: nothing → 5 (config.yaml:3:21), after a restart",
        ]
    );
}

#[test]
fn the_same_value_from_elsewhere_is_no_change() {
    let old = good("count: 5", &[]).1;
    let new = good("\n\ncount: 5", &[("APP__COUNT", "5")]).1;
    assert_eq!(Reload::between(&old, &new, |_| true), Reload::default());
    let word = good("rate: off", &[]).1;
    assert_eq!(changes(&word, &good("rate: ~", &[]).1), [] as [&str; 0]);
}

#[test]
fn a_change_says_whether_it_counts_now() {
    let old = good("bounds: {low: 1}\ncount: 5", &[]).1;
    let new = good("", &[("APP__BOUNDS__LOW", "3")]).1;
    let reload = Reload::between(&old, &new, |key| key == "bounds.low");
    let [Change { applied: false, .. }, low] = &reload.changes[..] else {
        panic!("{reload:?} is of two settings");
    };
    assert!(low.applied);
    assert_eq!(
        (&*low.key, &low.old),
        ("bounds.low", &Some(Value::Integer(1)))
    );
    assert_eq!(low.new, Some(Value::Integer(3)));
    assert_eq!(low.source, Source::Variable("APP__BOUNDS__LOW".into()));
}

#[test]
fn items_come_and_go_with_what_was_said_of_them() {
    let list = |adapters| read_list("", adapters, &[]).unwrap().1;
    let one = list("adapters: [{name: a, limit: 5}]");
    let two = list("adapters: [{name: b, limit: 6, general: {retries: on}}]");
    let changes = changes(&one, &two);
    assert_eq!(
        changes,
        [
            "adapters.b.limit: nothing → 6 (adapters.yaml:1:29), after a restart",
            "adapters.b.general.retries.attempts: nothing → 3 (adapters.yaml:1:51), after a restart",
            "adapters.b.general.retries.wait: nothing → 1s (adapters.yaml:1:51), after a restart",
            "adapters.a.limit: 5 → nothing, after a restart",
        ]
    );
}

#[test]
fn a_group_that_is_turned_on_or_off_is_a_change_however_it_is_said() {
    let off = good("", &[]).1;
    for yaml in ["retries: on", "retries: {}", "retries: {attempts: 3}"] {
        let on = good(yaml, &[]).1;
        assert!(!changes(&off, &on).is_empty(), "{yaml}");
        assert!(!changes(&on, &off).is_empty(), "{yaml}");
    }
}
