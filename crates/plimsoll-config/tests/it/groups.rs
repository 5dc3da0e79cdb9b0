//! Groups that are there or not, presets, and where values come from.

use crate::support::{Bounds, Retries, Tuning, bad, good, shown, told};
use plimsoll_breaker::{AfterHalfOpen, CircuitBreakerConfig, HistoryConfig, ProbeRule, Window};
use plimsoll_config::{Environment, File, Reading};
use plimsoll_core::LifecycleConfig;
use std::time::Duration;

#[test]
fn later_layers_win_and_every_value_tells_where_it_comes_from() {
    let variables = [("APP__COUNT", "7"), ("APP__BOUNDS__HIGH", "30")];
    let yaml = "count: 5\nratio: 2\nbounds:\n  low: 15\n";
    let (every, values) = good(yaml, &variables);
    assert_eq!((every.count, every.ratio), (7, 2.0));
    assert_eq!(every.bounds, Bounds { low: 15, high: 30 });
    for (key, value) in [
        ("count", "7 (APP__COUNT)"),
        ("ratio", "2 (config.yaml:2:8)"),
        ("rate", "50 (code)"),
        ("bounds.low", "15 (config.yaml:4:8)"),
        ("bounds.high", "30 (APP__BOUNDS__HIGH)"),
        ("retries", "off (code)"),
    ] {
        assert_eq!(shown(&values, key), value, "{key}");
    }
    // In the order of the settings, a preset only where it is given.
    let keys: Vec<_> = values.iter().map(|value| &*value.key).collect();
    assert_eq!(keys[..3], ["flag", "count", "most"]);
    assert_eq!(keys.last(), Some(&"tuning.inner.third"));
}

#[test]
fn an_optional_group_is_turned_on_by_a_word_or_a_setting() {
    let three = Some(Retries::default());
    let five = three.map(|retries| Retries {
        attempts: 5,
        ..retries
    });
    for (yaml, retries) in [
        ("", None),
        ("retries:", None),
        ("retries: off", None),
        ("retries: none", None),
        ("retries: false", None),
        ("retries: 'False'", None),
        ("retries: on", three),
        ("retries: true", three),
        ("retries: TRUE", three),
        ("retries: {}", three),
        ("retries: {attempts: 5}", five),
    ] {
        assert_eq!(good(yaml, &[]).0.retries, retries, "{yaml}");
    }
    for (value, retries) in [
        ("on", three),
        (" true ", three),
        ("off", None),
        ("false", None),
        ("", None),
    ] {
        let variables = [("APP__RETRIES", value)];
        assert_eq!(good("", &variables).0.retries, retries, "{value:?}");
    }
    let variables = [("APP__RETRIES__ATTEMPTS", "5")];
    assert_eq!(good("", &variables).0.retries, five);
    assert_eq!(good("retries: off", &variables).0.retries, five);
}

#[test]
fn a_group_whose_settings_are_commented_out_says_nothing() {
    let five = good("retries: {attempts: 5}", &[]).0.retries;
    let variables = [("APP__RETRIES__ATTEMPTS", "5")];
    for yaml in ["retries:", "retries: ~", "retries:\n  # attempts: 7\n"] {
        assert_eq!(good(yaml, &[]).0.retries, None);
        assert_eq!(good(yaml, &variables).0.retries, five);
    }
    let (every, values) = good("retries: {attempts: 5}", &[("APP__RETRIES", "null")]);
    assert_eq!(every.retries, five);
    assert_eq!(shown(&values, "retries.attempts"), "5 (config.yaml:1:21)");
}

#[test]
fn a_variable_turns_a_group_of_a_file_off_and_leaves_it_as_it_is_when_on() {
    let yaml = "retries: {attempts: 5}";
    let (every, values) = good(yaml, &[("APP__RETRIES", "off")]);
    assert_eq!(every.retries, None);
    assert_eq!(shown(&values, "retries"), "off (APP__RETRIES)");
    let (every, values) = good(yaml, &[("APP__RETRIES", "on")]);
    assert_eq!(every.retries.map(|retries| retries.attempts), Some(5));
    assert_eq!(shown(&values, "retries.attempts"), "5 (config.yaml:1:21)");
    let (every, values) = good(yaml, &[("APP__RETRIES__WAIT", "2s")]);
    let wait = Duration::from_secs(2);
    assert_eq!(every.retries, Some(Retries { attempts: 5, wait }));
    assert_eq!(shown(&values, "retries.wait"), "2s (APP__RETRIES__WAIT)");
}

#[test]
fn what_is_neither_on_nor_off_nor_a_group_is_refused() {
    for (value, told) in [("maybe", "maybe"), ("1", "1"), ("[on]", "a list of 1")] {
        let what = "but must be a group of settings, on or off";
        let expected = format!("config.yaml:1:10: `retries` is {told}, {what}");
        assert_eq!(bad(&format!("retries: {value}"), &[]), [expected]);
    }
    let expected = "APP__BOUNDS: `bounds` is on, but must be a group of settings";
    assert_eq!(bad("", &[("APP__BOUNDS", "on")]), [expected]);
    // A group without anything in it is one.
    assert_eq!(good("bounds:", &[]), good("", &[]));
    assert_eq!(good("bounds: {}", &[]), good("", &[]));
}

#[test]
fn a_preset_sets_a_group_down_to_its_inner_groups_and_is_its_source() {
    let (every, values) = good("profile: small", &[]);
    assert_eq!(every.tuning, Tuning::all(2));
    let source = "(config.yaml:1:10)";
    assert_eq!(shown(&values, "profile"), format!("small {source}"));
    for key in ["tuning.first", "tuning.second", "tuning.inner.third"] {
        assert_eq!(shown(&values, key), format!("2 {source}"));
    }
    let (every, values) = good("", &[("APP__PROFILE", " large ")]);
    assert_eq!(every.tuning, Tuning::all(200));
    assert_eq!(shown(&values, "tuning.first"), "200 (APP__PROFILE)");
    // One that nobody gives is none.
    let none = good("", &[]).1;
    assert!(none.iter().all(|value| value.key != "profile"));
}

#[test]
fn a_setting_beats_a_preset_of_the_same_layer_wherever_it_stands() {
    for (yaml, source) in [
        ("profile: small\ntuning: {first: 9}", "(config.yaml:2:17)"),
        ("tuning: {first: 9}\nprofile: small", "(config.yaml:1:17)"),
    ] {
        let (every, values) = good(yaml, &[]);
        let expected = Tuning {
            first: 9,
            ..Tuning::all(2)
        };
        assert_eq!(every.tuning, expected);
        assert_eq!(shown(&values, "tuning.first"), format!("9 {source}"));
    }
}

#[test]
fn a_preset_of_a_later_layer_beats_the_settings_of_an_earlier_one() {
    let yaml = "tuning: {first: 9, inner: {third: 9}}";
    let (every, values) = good(yaml, &[("APP__PROFILE", "large")]);
    assert_eq!(every.tuning, Tuning::all(200));
    for key in ["tuning.first", "tuning.inner.third"] {
        assert_eq!(shown(&values, key), "200 (APP__PROFILE)");
    }
    // And a setting of a later layer a preset of an earlier one.
    let (every, values) = good("profile: small", &[("APP__TUNING__FIRST", "9")]);
    assert_eq!(every.tuning.first, 9);
    assert_eq!(shown(&values, "tuning.first"), "9 (APP__TUNING__FIRST)");
    assert_eq!(shown(&values, "tuning.second"), "2 (config.yaml:1:10)");
}

#[test]
fn a_preset_is_one_of_its_words() {
    let what = "but must be one of small, large";
    for (yaml, shown) in [
        ("profile: tiny", "tiny"),
        ("profile:", "nothing"),
        ("profile: [small]", "a list of 1"),
    ] {
        let [problem] = &bad(yaml, &[])[..] else {
            panic!("{yaml} has one problem");
        };
        let expected = format!("`profile` is {shown}, {what}");
        assert!(problem.ends_with(&expected), "{problem}");
    }
}

#[test]
fn a_contradiction_is_told_where_its_setting_was_given() {
    let expected = |place: &str, high: u64, low: u64| {
        let what = format!("but must be at least low, {low}");
        [format!("{place}: `bounds.high` is {high}, {what}")]
    };
    let yaml = "bounds:\n  low: 9\n  high: 5\n";
    assert_eq!(bad(yaml, &[]), expected("config.yaml:3:9", 5, 9));
    let yaml = "bounds: {high: 5}";
    assert_eq!(bad(yaml, &[]), expected("config.yaml:1:16", 5, 10));
    let variables = [("APP__BOUNDS__HIGH", "5")];
    assert_eq!(bad("", &variables), expected("APP__BOUNDS__HIGH", 5, 10));
}

#[test]
fn a_contradiction_with_the_code_is_told_where_the_other_side_was_given() {
    let what = "`bounds.high` is 20, but must be at least low, 25";
    let yaml = "count: 5\nbounds: {low: 25}\nratio: 1";
    assert_eq!(bad(yaml, &[]), [format!("config.yaml:2:15: {what}")]);
    let variables = [("APP__BOUNDS__LOW", "25"), ("APP__COUNT", "3")];
    let expected = [format!("APP__BOUNDS__LOW: {what}")];
    assert_eq!(bad("", &variables), expected);
    assert_eq!(bad("bounds: {low: 12}", &variables), expected);
}

#[test]
fn a_value_that_is_wrong_by_itself_contradicts_nothing() {
    // What is left of the code would do so.
    let problems = bad("bounds: {low: 35, high: 2000}", &[]);
    let what = "`bounds.high` is 2000, but must be a whole number between 0 and 1000";
    assert_eq!(problems, [format!("config.yaml:1:25: {what}")]);
}

#[test]
fn a_contradiction_is_told_at_the_setting_that_the_rule_names() {
    // Whose value comes later than the rule, and is not the last that was given.
    let yaml = "lifecycle:\n  stop_timeout: 3s\n  max_tasks: 5\n";
    let file = File::parse("config.yaml", yaml).unwrap();
    let mut reading = Reading::new();
    let mut lifecycle = LifecycleConfig::default();
    reading.group("lifecycle", &mut lifecycle, &file, &Environment::empty());
    let expected = [
        "config.yaml:2:17: `lifecycle.drain_delay` is 5s, but must be shorter than stop_timeout, 3s",
    ];
    assert_eq!(told(&reading.finish().unwrap_err()), expected);
}

#[test]
fn a_breaker_is_read_from_a_file_and_variables() {
    let second = Duration::from_secs(1);
    let yaml = "\
breaker:
  preset: low_traffic
  window: 1m
  failure_rate: 20%
  slow_calls: {longer_than: 2s}
  open_max: auto
  probe_rule: all_must_succeed
";
    let variables = [
        ("APP__BREAKER__PRESET", "network"),
        ("APP__BREAKER__WINDOW", "50"),
        ("APP__BREAKER__SLOW_CALLS__PERCENT", "80"),
        ("APP__BREAKER__HALF_OPEN_TIMEOUT", "on"),
        ("APP__BREAKER__DROPPED_FAILS_AFTER", "never"),
        ("APP__BREAKER__HISTORY__CALLS", "7"),
    ];
    let file = File::parse("config.yaml", yaml).unwrap();
    let environment = Environment::from_variables("APP", variables).unwrap();
    let mut breaker = CircuitBreakerConfig::new().consecutive_failures(9);
    let mut reading = Reading::new();
    reading.group("breaker", &mut breaker, &file, &environment);
    let values = reading.finish().unwrap();
    let expected = CircuitBreakerConfig::new()
        .consecutive_failures(9)
        .window(Window::Calls(50))
        .failure_rate(20.0)
        .slow_calls(second * 2, 80.0)
        .probe_rule(ProbeRule::AllMustSucceed)
        .half_open_timeout(second * 60, AfterHalfOpen::Open)
        .dropped_fails_after(None)
        .history(HistoryConfig::network().calls(7));
    assert_eq!(breaker, expected);
    for (key, value) in [
        ("breaker.preset", "network (APP__BREAKER__PRESET)"),
        ("breaker.consecutive_failures", "9 (code)"),
        ("breaker.slow_calls.longer_than", "2s (config.yaml:5:29)"),
        (
            "breaker.half_open_timeout.after",
            "1m (APP__BREAKER__HALF_OPEN_TIMEOUT)",
        ),
        ("breaker.history.calls", "7 (APP__BREAKER__HISTORY__CALLS)"),
        ("breaker.history.enabled", "true (APP__BREAKER__PRESET)"),
    ] {
        assert_eq!(shown(&values, key), value, "{key}");
    }
}
