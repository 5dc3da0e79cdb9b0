//! Problems as whoever wrote the configuration is told of them.

use crate::support::{Every, bad, place, read, told};
use plimsoll_breaker::CircuitBreakerConfig;
use plimsoll_config::{EXIT_CODE, Environment, File, LoadError, Reading, Source, What};
use plimsoll_core::settings::Settings;

#[test]
fn everything_that_is_wrong_is_told_at_once_in_the_order_of_the_places() {
    let yaml = "\
profile: tiny
cuont: 5
count: many
timeout: 90x
ratio: 3
retries: {attempts: 0, wait: -1}
bounds: {low: 30, high: 5}
tuning: {inner: {third: 0, zzz: 1}}
title: null
tokn: hunter2
";
    let error = read(yaml, &[("APP__RATE", "101"), ("APP__COUNTS", "5")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\
14 problems:
  config.yaml:1:10: `profile` is tiny, but must be one of small, large
  config.yaml:2:1: `cuont` is not known: did you mean `count`?
  config.yaml:3:8: `count` is many, but must be a whole number between 1 and 1000
  config.yaml:4:10: `timeout` is 90x, but must be a time between 10ms and 1d, in seconds or like \
         \"30m\"
  config.yaml:5:8: `ratio` is 3, but must be a number between 0 and 2.5
  config.yaml:6:21: `retries.attempts` is 0, but must be a whole number between 1 and 10
  config.yaml:6:30: `retries.wait` is -1, but must be a time between 0s and 1d, in seconds or \
         like \"30m\"
  config.yaml:7:25: `bounds.high` is 5, but must be at least low, 30
  config.yaml:8:25: `tuning.inner.third` is 0, but must be a whole number between 1 and 1000
  config.yaml:8:28: `tuning.inner.zzz` is not known: there are third
  config.yaml:9:8: `title` is nothing, but must be a text
  config.yaml:10:1: `tokn` is not known: did you mean `token`?
  APP__RATE: `rate` is 101, but must be a number above 0 and at most 100 percent, or off
  APP__COUNTS: `counts` is not known: did you mean `count`?"
    );
    assert_eq!(error.count(), 14);
    assert_eq!(EXIT_CODE, 2);
}

#[test]
fn a_single_problem_is_one_line() {
    let error = read("count: 0", &[]).unwrap_err();
    let text = "config.yaml:1:8: `count` is 0, but must be a whole number between 1 and 1000";
    assert_eq!(error.to_string(), text);
    let problem = &error.problems()[0];
    assert_eq!((&problem.source, &*problem.key), (&place(1, 8), "count"));
    let What::Value { value, expected } = &problem.what else {
        panic!("{problem:?} is about a value");
    };
    assert_eq!(value, "0");
    assert_eq!(expected, "a whole number between 1 and 1000");
}

#[test]
fn a_breaker_is_told_of_like_anything_else() {
    let yaml = "\
breaker:
  preset: lan
  window: 5ms
  failure_rate: 150%
  slow_calls: {longer_then: 1s}
  open_for: 2m
  open_max: 1m
  open_factor: 0.5
  probe_rule: majority
  dropped_fails_after: off
  history: {retention: 500ms}
  requested_wait: [1s, 2s]
";
    let file = File::parse("config.yaml", yaml).unwrap();
    let mut reading = Reading::new();
    let mut breaker = CircuitBreakerConfig::new();
    reading.group("breaker", &mut breaker, &file, &Environment::empty());
    let time = "a time between 1ms and 7d, in seconds or like \"30m\"";
    assert_eq!(
        told(&reading.finish().unwrap_err()),
        [
            "config.yaml:2:11: `breaker.preset` is lan, but must be one of high_traffic, local, \
             low_traffic, network",
            "config.yaml:3:11: `breaker.window` is 5ms, but must be between 1 and 65536 calls, or \
             between 10ms and 1d",
            "config.yaml:4:17: `breaker.failure_rate` is 150%, but must be a number above 0 and at \
             most 100 percent, or off",
            "config.yaml:5:16: `breaker.slow_calls.longer_then` is not known: did you mean \
             `longer_than`?",
            "config.yaml:7:13: `breaker.open_max` is 1m, but must be at least open_for, 2m",
            "config.yaml:8:16: `breaker.open_factor` is 0.5, but must be a number between 1 and 10",
            "config.yaml:9:15: `breaker.probe_rule` is majority, but must be one of rate, \
             all_must_succeed",
            &format!(
                "config.yaml:10:24: `breaker.dropped_fails_after` is off, but must be {time}, or \
                 auto or never"
            ),
            "config.yaml:11:24: `breaker.history.retention` is 500ms, but must be 0 or at least 1s",
            "config.yaml:12:19: `breaker.requested_wait` is a list of 2, but must be a group of \
             settings",
        ]
    );
}

#[test]
fn one_hundred_problems_are_told_and_the_others_counted() {
    let keys = |keys: usize| -> String { (0..keys).map(|key| format!("zz{key}: 1\n")).collect() };
    let error = read(&keys(100), &[]).unwrap_err();
    assert_eq!((error.problems().len(), error.count()), (100, 100));
    assert!(!error.to_string().contains("more"));
    let error = read(&keys(101), &[]).unwrap_err();
    assert_eq!((error.problems().len(), error.count()), (100, 101));
    let text = error.to_string();
    assert!(text.starts_with("101 problems:\n"), "{text}");
    assert!(text.ends_with("\n  and 1 more"), "{text}");
    assert_eq!(text.lines().count(), 102);
    // Those of values count as well.
    let error = read(&keys(100), &[("APP__COUNT", "0")]).unwrap_err();
    assert_eq!(error.count(), 101);
}

#[test]
fn errors_together_are_one_report() {
    let one = |name: &str| File::parse(name, "a: [").unwrap_err();
    let both = one("b.yaml").and(one("a.yaml"));
    assert_eq!(both.count(), 2);
    // The files come as they were read.
    let places: Vec<_> = told(&both);
    assert!(places[0].starts_with("b.yaml:"), "{places:?}");
    assert!(places[1].starts_with("a.yaml:"), "{places:?}");
    // The same problem is told once.
    assert_eq!(one("a.yaml").and(one("a.yaml")).count(), 1);
    let many = |name: &str| {
        let keys: String = (0..80).map(|key| format!("zz{key}: 1\n")).collect();
        let file = File::parse(name, &keys).unwrap();
        let mut reading = Reading::new();
        let environment = Environment::empty();
        reading.root(&mut Every::default(), &[], &file, &environment);
        reading.finish().unwrap_err()
    };
    let both = many("a.yaml").and(many("b.yaml"));
    assert_eq!((both.problems().len(), both.count()), (100, 160));
    assert_eq!(both.clone().and(both).count(), 220);
}

#[test]
fn the_nearest_key_is_told_where_one_is_near() {
    for (key, nearest) in [
        ("timeuot", Some("timeout")),
        ("Timeout", Some("timeout")),
        ("time_out", Some("timeout")),
        ("host", Some("hosts")),
        ("retry", Some("retries")),
        ("qqq", None),
        ("password", None),
        (&"timeout".repeat(20), None),
    ] {
        let error = read(&format!("{key}: 1"), &[]).unwrap_err();
        let What::UnknownKey {
            nearest: found,
            known,
        } = &error.problems()[0].what
        else {
            panic!("{key} is unknown");
        };
        assert_eq!(found.as_deref(), nearest, "{key}");
        assert!(known.contains(&"timeout".to_owned()));
        let tells_all = error
            .to_string()
            .contains(": there are profile, flag, count,");
        assert_eq!(tells_all, nearest.is_none());
    }
}

#[test]
fn problems_of_a_line_are_told_from_the_left_to_the_right() {
    let problems = bad("{zzz: 1, count: 0, yyy: 2}", &[]);
    let places: Vec<_> = problems.iter().map(|problem| &problem[..17]).collect();
    let expected = [
        "config.yaml:1:2: ",
        "config.yaml:1:17:",
        "config.yaml:1:20:",
    ];
    assert_eq!(places, expected);
}

#[test]
fn known_keys_that_are_too_many_are_not_compared() {
    let nearest = |items: usize| {
        let names: Vec<String> = (1..items).map(|item| format!("a{item}")).collect();
        let names = names.iter().map(|name| &**name).chain(["mail"]);
        let names: Vec<&str> = names.collect();
        let variables = [("APP__LIST__MAIK__X", "1")];
        let environment = Environment::from_variables("APP", variables).unwrap();
        let mut reading = Reading::new();
        reading.other_items("list", &names, &environment);
        let error = reading.finish().unwrap_err();
        error.to_string().ends_with("did you mean `mail`?")
    };
    assert!(nearest(1_000));
    assert!(!nearest(1_001));
}

#[test]
fn known_keys_that_are_too_many_are_not_all_told() {
    let unknown = |items: usize| {
        let names: Vec<String> = (0..items).map(|item| format!("a{item}")).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let variables = [("APP__LIST__ZZZ__X", "1")];
        let environment = Environment::from_variables("APP", variables).unwrap();
        let mut reading = Reading::new();
        reading.other_items("list", &names, &environment);
        reading.finish().unwrap_err()
    };
    let few = unknown(63).to_string();
    assert!(few.ends_with(", a61, a62"), "{few}");
    let many = unknown(5_000);
    let What::UnknownKey { known, .. } = &many.problems()[0].what else {
        panic!("{many} is about a key");
    };
    assert_eq!(known.len(), 64);
    assert!(many.to_string().ends_with(", a62, a63, …"), "{many}");
}

#[test]
fn keys_and_values_from_anywhere_are_cut_and_cannot_break_a_line() {
    let long = "x".repeat(1_000);
    let cut = "x".repeat(80) + "…";
    let problems = bad(&format!("count: {long}\n'{long}': 1\n"), &[]);
    let known = ": there are profile, flag";
    let expected = format!("config.yaml:1:8: `count` is {cut}, but");
    assert!(problems[0].starts_with(&expected), "{problems:?}");
    let expected = format!("config.yaml:2:1: `{cut}` is not known{known}");
    assert!(problems[1].starts_with(&expected), "{problems:?}");
    let problems = bad("count: \"1\\n2\\e[31m\"\n\"a\\nb\": 1", &[]);
    assert!(problems[0].contains("is \"1\\n2\\u{1b}[31m\", but"));
    assert!(problems[1].contains("`\"a\\nb\"` is not known"));
    let error = read("\"a\\nb\": 1\n\"a\\nb\": 2", &[]).unwrap_err();
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    let file = File::parse("a\nb.yaml", "x: [").unwrap_err();
    assert_eq!(file.to_string().lines().count(), 1, "{file}");
    assert!(
        file.to_string().starts_with("a\\nb.yaml:2:1: is no YAML: "),
        "{file}"
    );
}

#[test]
fn an_error_is_one_for_everybody() {
    fn assert_error<T: std::error::Error + Send + Sync + 'static>() {}
    assert_error::<LoadError>();
}

#[test]
fn a_problem_of_somebody_else_is_an_error_of_its_own() {
    let error = LoadError::new(place(1, 2), "a.b", "is odd");
    assert_eq!(error.to_string(), "config.yaml:1:2: `a.b` is odd");
    let error = error.and(LoadError::new(Source::Code, "", "nobody listens"));
    assert_eq!(
        error.to_string(),
        "2 problems:\n  config.yaml:1:2: `a.b` is odd\n  code: nobody listens"
    );
}

#[test]
fn what_somebody_else_finds_is_told_with_the_rest() {
    let mut reading = Reading::new();
    let file = File::parse("config.yaml", "bounds: {low: 30}").unwrap();
    let mut every = Every::default();
    reading.problem(Source::Code, "", "nobody listens");
    reading.overlay(
        "bounds",
        &mut every.bounds,
        &[],
        &file,
        &Environment::empty(),
    );
    assert_eq!(every.bounds.low, 30);
    let error = plimsoll_core::settings::check(&every).unwrap_err();
    reading.refused("", "general", &error, &place(1, 1));
    reading.problem(place(3, 1), "note", "is rude");
    assert_eq!(
        told(&reading.finish().unwrap_err()),
        [
            "config.yaml:1:1: `bounds.high` is 20, but must be at least low, 30",
            "config.yaml:3:1: `note` is rude",
            "code: nobody listens",
        ]
    );
}

#[test]
fn a_range_that_the_code_breaks_is_told_of_the_code() {
    let mut every = Every {
        count: 0,
        ..Every::default()
    };
    let mut reading = Reading::new();
    let settings: &mut dyn Settings = &mut every;
    reading.root(settings, &[], &File::empty(), &Environment::empty());
    let expected = ["code: `count` is 0, but must be between 1 and 1000"];
    assert_eq!(told(&reading.finish().unwrap_err()), expected);
}

#[test]
fn sizes_by_name_that_the_code_breaks_are_told_one_by_one() {
    let names = "for names of 1 to 256 bytes without control characters";
    let small = "`budgets./a` is 7, but must be between 1KiB and 1TiB";
    let unnamed = format!("`budgets` is 1KiB for \"\", but must be {names}");
    let broken = |broken: &[(&str, u64)]| {
        let sizes = broken
            .iter()
            .map(|(name, size)| ((*name).to_owned(), *size));
        let mut every = Every {
            budgets: sizes.collect(),
            ..Every::default()
        };
        let checked = plimsoll_core::settings::check(&every).unwrap_err();
        let mut reading = Reading::new();
        reading.root(&mut every, &[], &File::empty(), &Environment::empty());
        (checked.to_string(), told(&reading.finish().unwrap_err()))
    };
    let (checked, read) = broken(&[("", 1_024), ("/a", 7), ("/b", 1_024)]);
    assert_eq!(checked, format!("{unnamed}; {small}"));
    assert_eq!(read, [format!("code: {unnamed}"), format!("code: {small}")]);
    let names: Vec<_> = (0..1_001).map(|name| name.to_string()).collect();
    let many: Vec<_> = names.iter().map(|name| (&**name, 0)).collect();
    let (checked, read) = broken(&many);
    let what = "`budgets` is a group of 1001, but must be a group of at most 1000 names";
    assert_eq!(checked, what);
    assert_eq!(read, [format!("code: {what}")]);
}

#[test]
fn sizes_that_a_file_has_wrong_are_not_told_of_the_code_as_well() {
    let mut every = Every {
        budgets: [("a".to_owned(), 7)].into(),
        ..Every::default()
    };
    let mut reading = Reading::new();
    let file = File::parse("config.yaml", "budgets: {a: 8}").unwrap();
    reading.root(&mut every, &[], &file, &Environment::empty());
    assert!(reading.is_wrong("budgets"));
    let problems = told(&reading.finish().unwrap_err());
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("config.yaml:1:14: `budgets.a` is 8"));
}
