//! Configurations that are shown, and read again.

use crate::support::{
    Adapter, Bounds, DAY, Every, General, MILLISECOND, Mode, Pair, Retries, TIB, Tuning, good,
    read_list,
};
use plimsoll_breaker::{AfterHalfOpen, CircuitBreakerConfig, HistoryConfig, ProbeRule, Window};
use plimsoll_config::{Effective, Environment, File, Reading, Source, to_json, to_yaml};
use plimsoll_core::settings::{Kind, Settings, Value};
use proptest::prelude::*;
use serde_json::json;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

fn time(range: std::ops::RangeInclusive<Duration>) -> BoxedStrategy<Duration> {
    let nanos = range.start().as_nanos()..=range.end().as_nanos();
    let nanos = nanos.prop_map(|nanos| {
        let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        Duration::new(seconds as u64, rest as u32)
    });
    let whole = range.start().as_secs() + 1..=range.end().as_secs();
    let whole = whole.prop_map(Duration::from_secs);
    prop_oneof![nanos, whole, Just(*range.start()), Just(*range.end())].boxed()
}

/// Texts that look like anything but texts.
fn any_text() -> BoxedStrategy<String> {
    prop_oneof![
        any::<String>(),
        "[ -~\n\t\u{85}\u{a0}\u{2028}\u{feff}äß☺😀'\":#,&*!|>%@`{}\\[\\]?-]{0,40}",
        proptest::sample::select(vec![
            "",
            " ",
            "null",
            "~",
            "true",
            "off",
            "none",
            "123",
            "1e5",
            "0x1f",
            ".nan",
            "- a",
            "a: b",
            "# a",
            "a #b",
            "---",
            "...",
            "<<",
            "!!str x",
            "&a",
            "*a",
            "'",
            "\"",
            "\\",
            "a\n\nb\n",
            "\r\n",
            "\u{feff}",
            "\u{0}",
            "\u{7f}",
            "@",
            "%",
            "|",
            ">",
            "?",
            ":",
            "{}",
            "[]",
            ",",
            "\u{d7ff}\u{e000}\u{fffd}\u{10ffff}",
            "\u{2028}\u{2029}\u{85}",
        ])
        .prop_map(str::to_owned),
    ]
    .boxed()
}

/// Names of items: anything without dots and control characters.
fn name() -> BoxedStrategy<String> {
    let fits = |text: &String| {
        (1..=128).contains(&text.len()) && !text.contains(|c: char| c.is_control() || c == '.')
    };
    any_text().prop_filter("no name", fits).boxed()
}

/// Names of sizes: anything without control characters.
fn name_of_size() -> BoxedStrategy<String> {
    let fits = |text: &String| Kind::admits_name(text);
    any_text().prop_filter("no name", fits).boxed()
}

fn every() -> impl Strategy<Value = Every> {
    let numbers = (
        any::<bool>(),
        1..=1_000_u32,
        proptest::option::of(1..=u64::MAX),
        prop_oneof![0.0..=2.5, Just(0.0), Just(2.5), Just(f64::MIN_POSITIVE)],
        proptest::option::of(prop_oneof![f64::MIN_POSITIVE..=100.0, Just(100.0)]),
        1_024..=TIB,
    );
    let times = (
        time(MILLISECOND * 10..=DAY),
        proptest::option::of(time(Duration::ZERO..=Duration::MAX)),
        prop_oneof![
            (1..=65_536_u64).prop_map(Pair::Count),
            time(MILLISECOND * 10..=DAY).prop_map(Pair::Time),
        ],
        prop_oneof![
            (1..=512_u64).prop_map(Pair::Count),
            (f64::MIN_POSITIVE..=100.0).prop_map(Pair::Share),
        ],
    );
    let words = (
        prop_oneof![Just(Mode::Fast), Just(Mode::Safe)],
        any::<(IpAddr, u16)>().prop_map(SocketAddr::from),
        any_text(),
        proptest::option::of(any_text()),
        proptest::collection::vec(any_text(), 0..4),
        proptest::collection::btree_map(name_of_size(), 1_024..=TIB, 0..4),
    );
    let retries = (1..=10_u32, time(Duration::ZERO..=DAY));
    let retries = retries.prop_map(|(attempts, wait)| Retries { attempts, wait });
    let groups = (
        (0..=500_u64, 500..=1_000_u64),
        proptest::option::of(retries),
        (1..=1_000_u64, 1..=1_000_u64, 1..=1_000_u64),
    );
    (numbers, times, words, groups).prop_map(|(numbers, times, words, groups)| {
        let (flag, count, most, ratio, rate, size) = numbers;
        let (timeout, idle, window, workers) = times;
        let (mode, listen, title, note, hosts, budgets) = words;
        let ((low, high), retries, (first, second, third)) = groups;
        Every {
            flag,
            count,
            most,
            ratio,
            rate,
            timeout,
            idle,
            size,
            window,
            workers,
            mode,
            listen,
            title,
            note,
            token: None,
            hosts,
            budgets,
            bounds: Bounds { low, high },
            retries,
            login: None,
            tuning: Tuning {
                first,
                second,
                third,
            },
        }
    })
}

fn breaker() -> impl Strategy<Value = CircuitBreakerConfig> {
    let week = DAY * 7;
    let history = prop_oneof![
        Just(HistoryConfig::network()),
        Just(HistoryConfig::disabled()),
        (0..=100_000_usize, time(Duration::from_secs(1)..=week)).prop_map(|(calls, kept)| {
            HistoryConfig::local()
                .calls(calls)
                .transitions(calls / 2)
                .retention(kept)
        }),
    ];
    let opens = (
        prop_oneof![
            (1..=65_536_u32).prop_map(Window::Calls),
            time(MILLISECOND * 10..=DAY).prop_map(Window::Time),
        ],
        1..=u32::MAX,
        proptest::option::of(f64::MIN_POSITIVE..=100.0),
        proptest::option::of((time(MILLISECOND..=DAY), 0.001..=100.0)),
        proptest::option::of(1..=u32::MAX),
        proptest::option::of((time(MILLISECOND * 8..=DAY), 1..=u32::MAX)),
    );
    let stays = (
        (time(MILLISECOND..=DAY), time(DAY..=week)),
        1.0..=10.0,
        0.0..=1.0,
        (time(Duration::ZERO..=DAY), time(DAY..=week)),
        any::<bool>(),
    );
    let probes = (
        1..=1_024_u32,
        any::<bool>(),
        proptest::option::of(time(MILLISECOND..=week)),
        proptest::option::of((time(Duration::from_secs(1)..=week), any::<bool>())),
        proptest::option::of(proptest::option::of(time(MILLISECOND..=week))),
    );
    (opens, stays, probes, history).prop_map(|(opens, stays, probes, history)| {
        let (window, minimum, rate, slow, consecutive, overdue) = opens;
        let ((open_for, open_max), factor, jitter, (shortest, longest), capped) = stays;
        let (count, all, lease, half_open, dropped) = probes;
        let mut config = CircuitBreakerConfig::new()
            .window(window)
            .minimum_calls(minimum)
            .failure_rate(rate)
            .consecutive_failures(consecutive)
            .open_for(open_for)
            .open_factor(factor)
            .jitter(jitter)
            .requested_wait(shortest, longest)
            .probes(count)
            .history(history);
        if let Some((time, percent)) = slow {
            config = config.slow_calls(time, percent);
        }
        if let Some((after, calls)) = overdue {
            config = config.overdue_calls(after, calls);
        }
        if capped {
            config = config.open_max(open_max);
        }
        if all {
            config = config.probe_rule(ProbeRule::AllMustSucceed);
        }
        if let Some(lease) = lease {
            config = config.probe_lease(lease);
        }
        if let Some((after, close)) = half_open {
            let then = [AfterHalfOpen::Open, AfterHalfOpen::Close][usize::from(close)];
            config = config.half_open_timeout(after, then);
        }
        if let Some(wait) = dropped {
            config = config.dropped_fails_after(wait);
        }
        config
    })
}

/// Every value of settings that the code has.
fn values(settings: &mut dyn Settings) -> Vec<Effective> {
    let mut reading = Reading::new();
    reading.root(settings, &[], &File::empty(), &Environment::empty());
    reading.finish().unwrap()
}

proptest! {
    #[test]
    fn settings_that_are_shown_are_read_again_as_the_same(mut every in every()) {
        let yaml = to_yaml(&values(&mut every), None);
        let again = good(&yaml, &[]).0;
        prop_assert_eq!(again, every, "{}", yaml);
    }

    #[test]
    fn breakers_that_are_shown_are_read_again_as_the_same(mut config in breaker()) {
        config.validate().unwrap();
        let yaml = to_yaml(&values(&mut config), None);
        let file = File::parse("again.yaml", &yaml).unwrap();
        let mut again = CircuitBreakerConfig::new();
        let mut reading = Reading::new();
        reading.root(&mut again, &[], &file, &Environment::empty());
        let read = reading.finish();
        prop_assert!(read.is_ok(), "{}{:?}", yaml, read);
        prop_assert_eq!(again, config, "{}", yaml);
    }

    #[test]
    fn items_that_are_shown_are_read_again_whatever_their_names(
        names in proptest::collection::hash_set(name(), 0..5),
        limit in proptest::option::of(1..=100_u64),
        attempts in proptest::option::of(1..=10_u32),
    ) {
        let wait = Duration::from_secs(1);
        let retries = attempts.map(|attempts| Retries { attempts, wait });
        let bounds = Bounds { low: 1, high: 2 };
        let adapter = Adapter { limit, general: General { bounds, retries } };
        let shown = |name: &String| {
            let item = values(&mut adapter.clone()).into_iter().map(|mut value| {
                value.key = format!("adapters.{name}.{}", value.key);
                value
            });
            item.collect::<Vec<_>>()
        };
        let all: Vec<_> = names.iter().flat_map(shown).collect();
        let yaml = to_yaml(&all, Some("adapters"));
        let again = read_list("", &yaml, &[]);
        prop_assert!(again.is_ok(), "{}{:?}", yaml, again);
        let expected: Vec<_> = names.iter().map(|name| (name.clone(), adapter.clone())).collect();
        prop_assert_eq!(again.unwrap().0, expected, "{}", yaml);
    }

    #[test]
    fn nothing_that_is_read_panics(
        text in "([a-z]{0,3}|[ \n\t]{1,3}|[-?:,\\[\\]{}#&*!|>'\"%@`<~.0-9]|: |- |\n  |count|retries|&a |\\*a|\"\\\\u|\u{feff}|ä|😀){0,60}",
        variable in "(_|[A-Z]|RETRIES|COUNT|ä){0,12}",
        value in any::<String>(),
    ) {
        let name = format!("APP__{variable}");
        if let Err(error) = crate::support::read(&text, &[(&name, &value)]) {
            prop_assert!(!error.problems().is_empty());
            prop_assert!(error.problems().iter().all(|problem| !problem.to_string().contains('\n')));
        }
    }
}

#[test]
fn yaml_has_the_source_of_every_value_behind_it() {
    let yaml = "profile: large\nrate: off\nhosts: [a, 'b\"']\ntitle: 'x # y'\n\
                budgets: {/b: 8MiB, a: 1025}\n";
    let (_, values) = good(
        yaml,
        &[("APP__COUNT", "7"), ("APP__RETRIES__ATTEMPTS", "2")],
    );
    let shown = to_yaml(&values, None);
    let expected = "\
profile: large # config.yaml:1:10
flag: false # code
count: 7 # APP__COUNT
most: unlimited # code
ratio: 1 # code
rate: off # config.yaml:2:7
timeout: \"30s\" # code
idle: auto # code
size: 1048576 # code
window: 100 # code
workers: \"50%\" # code
mode: fast # code
listen: \"127.0.0.1:8080\" # code
title: \"x # y\" # config.yaml:4:8
note: none # code
token: none # code
hosts: [\"a\", \"b\\\"\"] # config.yaml:3:8
budgets: # config.yaml:5:10
  \"/b\": 8MiB
  \"a\": 1025
bounds:
  low: 10 # code
  high: 20 # code
retries:
  attempts: 2 # APP__RETRIES__ATTEMPTS
  wait: \"1s\" # code
login: off # code
tuning:
  first: 200 # config.yaml:1:10
  second: 200 # config.yaml:1:10
  inner:
    third: 200 # config.yaml:1:10
";
    assert_eq!(shown.replace("1MiB", "1048576"), expected);
}

#[test]
fn sizes_by_name_are_shown_and_read_again_however_many_and_long() {
    let name = |number: usize| format!("{number:04}{}", "\"".repeat(252));
    let most: BTreeMap<_, _> = (0..1_000).map(|number| (name(number), TIB)).collect();
    for budgets in [BTreeMap::new(), most] {
        let mut every = Every {
            budgets,
            ..Every::default()
        };
        let yaml = to_yaml(&values(&mut every), None);
        assert_eq!(good(&yaml, &[]).0, every);
    }
}

#[test]
fn sizes_by_name_are_below_their_setting_in_an_item_too() {
    let budgets = [("/b", 1_024), ("a", 1_025)];
    let mut every = Every {
        budgets: budgets.map(|(name, size)| (name.to_owned(), size)).into(),
        ..Every::default()
    };
    let mut shown = values(&mut every);
    shown.retain(|value| value.key == "budgets");
    shown[0].key = "adapters.x.budgets".to_owned();
    let expected = "\
adapters:
  - name: \"x\"
    budgets: # code
      \"/b\": 1KiB
      \"a\": 1025
";
    assert_eq!(to_yaml(&shown, Some("adapters")), expected);
}

#[test]
fn a_source_with_line_breaks_stays_in_its_comment() {
    let mut value = values(&mut Every::default()).remove(1);
    value.source = Source::File {
        file: "x\ny: 1\r\u{85}".into(),
        line: 1,
        column: 2,
    };
    let yaml = to_yaml(&[value.clone()], None);
    assert_eq!(yaml.lines().count(), 1, "{yaml}");
    assert_eq!(value.to_string().lines().count(), 1);
    File::parse("x", &yaml).unwrap();
}

#[test]
fn names_are_quoted_where_they_are_keys() {
    let mut value = values(&mut Every::default()).remove(1);
    value.key = "adapters.a b: c.count".to_owned();
    let yaml = to_yaml(&[value], None);
    assert_eq!(yaml, "adapters:\n  \"a b: c\":\n    count: 10 # code\n");
}

#[test]
fn json_has_every_value_with_its_place() {
    let variables = [("APP__COUNT", "7")];
    let yaml = "rate: 20\nhosts: [a]\ntoken: x\nbudgets: {b.c: 1.5KiB, /a: 8MiB}";
    let (_, values) = good(yaml, &variables);
    let json = to_json(&values);
    for (pointer, leaf) in [
        ("/count", json!({ "value": 7, "source": "APP__COUNT" })),
        (
            "/rate",
            json!({ "value": 20.0, "source": "config.yaml", "line": 1, "column": 7 }),
        ),
        (
            "/hosts",
            json!({ "value": ["a"], "source": "config.yaml", "line": 2, "column": 8 }),
        ),
        (
            "/token",
            json!({ "value": "***", "source": "config.yaml", "line": 3, "column": 8 }),
        ),
        (
            "/budgets",
            json!({
                "value": { "/a": "8MiB", "b.c": "1536" },
                "source": "config.yaml", "line": 4, "column": 10,
            }),
        ),
        ("/flag", json!({ "value": false, "source": "code" })),
        ("/timeout", json!({ "value": "30s", "source": "code" })),
        ("/size", json!({ "value": "1MiB", "source": "code" })),
        (
            "/tuning/inner/third",
            json!({ "value": 1, "source": "code" }),
        ),
        ("/retries", json!({ "value": "off", "source": "code" })),
    ] {
        assert_eq!(json.pointer(pointer), Some(&leaf), "{pointer}");
    }
    assert!(matches!(values[0].value, Value::Flag(false)));
}
