//! What texts of every kind mean, in a file and in a variable.

use crate::support::{DAY, Every, MILLISECOND, Mode, Pair, TIB, bad, good};
use plimsoll_config::{Environment, File, Reading};
use plimsoll_core::settings::{self, Fields, Secret, Settings};
use std::{collections::BTreeMap, time::Duration};

const SECOND: Duration = Duration::from_secs(1);

/// Asserts that texts are read as this, from a file, from a file in quotes, and from a variable.
#[track_caller]
fn means(key: &str, texts: &[&str], change: impl FnOnce(&mut Every)) {
    let mut expected = Every::default();
    change(&mut expected);
    for text in texts {
        let quoted = format!("{key}: '{text}'");
        for yaml in [format!("{key}: {text}"), quoted] {
            assert_eq!(good(&yaml, &[]).0, expected, "{yaml}");
        }
        let variable = format!("APP__{}", key.to_uppercase());
        let variable = good("", &[(&variable, text)]).0;
        assert_eq!(variable, expected, "{key} of a variable: {text}");
    }
}

/// Asserts that texts are refused, and with which words.
#[track_caller]
fn refused(key: &str, texts: &[&str], expected: &str) {
    for text in texts {
        let column = key.len() + 3;
        let place = format!("config.yaml:1:{column}");
        let shown = if text.is_empty() { "\"\"" } else { text };
        let what = format!("`{key}` is {shown}, but must be {expected}");
        assert_eq!(
            bad(&format!("{key}: '{text}'"), &[]),
            [format!("{place}: {what}")]
        );
        // An empty variable says nothing.
        if !text.is_empty() {
            let variable = format!("APP__{}", key.to_uppercase());
            assert_eq!(
                bad("", &[(&variable, text)]),
                [format!("{variable}: {what}")]
            );
        }
    }
}

#[test]
fn flags_are_the_booleans_of_yaml() {
    means("flag", &["true", "True", "TRUE", " true "], |every| {
        every.flag = true;
    });
    means("flag", &["false", "False", "FALSE"], |_| {});
    let others = ["yes", "no", "on", "off", "1", "0", "tRUE", "", "t", "none"];
    refused("flag", &others, "true or false");
}

#[test]
fn whole_numbers_are_digits_within_their_range() {
    means("count", &["1", "01", " 1 "], |every| every.count = 1);
    means("count", &["1000"], |every| every.count = 1_000);
    let others = [
        "0",
        "1001",
        "-1",
        "+1",
        "1.0",
        "1e2",
        "1_000",
        "0x10",
        "0o10",
        "1 0",
        "ten",
        "",
        "off",
        "none",
        "18446744073709551616",
        "99999999999999999999999999999999999999999999999999",
        "٣",
    ];
    refused("count", &others, "a whole number between 1 and 1000");
}

#[test]
fn whole_numbers_without_an_end_go_as_far_as_there_are_numbers() {
    means("most", &["18446744073709551615"], |every| {
        every.most = Some(u64::MAX);
    });
    means("most", &["unlimited"], |_| {});
    let others = ["0", "18446744073709551616", "off", "Unlimited", "auto"];
    refused("most", &others, "a whole number at least 1, or unlimited");
}

#[test]
fn numbers_may_have_fractions_and_exponents() {
    means("ratio", &["0", "0.0", "0e9", "-0"], |every| {
        every.ratio = 0.0;
    });
    means("ratio", &["2.5", "25e-1", "+2.5", "0.25E1"], |every| {
        every.ratio = 2.5;
    });
    means("ratio", &[".5", "0.5"], |every| every.ratio = 0.5);
    let others = [
        "2.51", "-0.1", ".nan", "NaN", ".inf", "inf", "infinity", "1e999", "1,5", "1.2.3", "e5",
        "", "1 ms", "50%", "0x1p3", "-", ".",
    ];
    refused("ratio", &others, "a number between 0 and 2.5");
}

#[test]
fn percentages_may_say_that_they_are() {
    means("rate", &["100", "100%", "100 %", "1e2"], |every| {
        every.rate = Some(100.0);
    });
    means("rate", &["0.1", "0.1%"], |every| every.rate = Some(0.1));
    means("rate", &["off", "none", "false", "False"], |every| {
        every.rate = None;
    });
    let others = ["0", "0%", "100.1", "-1%", "NaN", "%", "5%%", "auto", "Off"];
    let expected = "a number above 0 and at most 100 percent, or off";
    refused("rate", &others, expected);
}

#[test]
fn times_are_seconds_or_have_units() {
    for (time, texts) in [
        (SECOND * 30, &["30", "30s", "30.0", "3e1", "30 sec"][..]),
        (SECOND * 90, &["1.5m", "1m30s", "1m 30s", "90"]),
        (
            SECOND * 5_400,
            &["1h30m", "1h 30m", "1.5h", "5400", "90min"],
        ),
        (MILLISECOND * 10, &["0.01", "10ms", "10000us", "1e-2"]),
        (DAY, &["1d", "24h", "1day", "86400"]),
    ] {
        means("timeout", texts, |every| every.timeout = time);
    }
    let others = [
        "0.009",
        "9ms",
        "0",
        "86401",
        "1d1ns",
        "-1",
        "-1s",
        "30x",
        "s",
        "1h30",
        "1 30m",
        "1 0s",
        "1. 5m",
        "30S",
        "1e400",
        "1e300",
        "NaN",
        "inf",
        "",
        "off",
        "99999999999999999999s",
        "18446744073709551615d",
        "1:30",
    ];
    let expected = "a time between 10ms and 1d, in seconds or like \"30m\"";
    refused("timeout", &others, expected);
}

#[test]
fn times_without_an_end_may_have_words() {
    means("idle", &["0", "0s"], |every| {
        every.idle = Some(Duration::ZERO);
    });
    means("idle", &["213503982334601d7h15s"], |every| {
        every.idle = Some(Duration::from_secs(u64::MAX));
    });
    means("idle", &["auto", "never"], |_| {});
    let expected = "a time at least 0s, in seconds or like \"30m\", or auto or never";
    refused("idle", &["off", "none", "AUTO", "-1", "1e30"], expected);
}

#[test]
fn sizes_are_bytes_or_have_units() {
    for (size, texts) in [
        (
            64 << 20,
            &["64MiB", "64 MiB", "64mib", "67108864", "64Mi"][..],
        ),
        (64_000_000, &["64MB", "64 MB", "64mb", "64000000"]),
        (1 << 10, &["1KiB", "1k iB", "1024", "1024B"][..1]),
        (1_536, &["1.5KiB", "1536", "1536B"]),
        (TIB, &["1TiB", "1024GiB"]),
    ] {
        means("size", texts, |every| every.size = size);
    }
    let others = [
        "1023",
        "1025GiB",
        "0",
        "-1",
        "+5MiB",
        "64XiB",
        "64M",
        "64m",
        "64k",
        "MiB",
        "",
        "1e9",
        "1.2.3MiB",
        "99999999999TiB",
        "18446744073709551616",
        "0%",
        "101%",
        "NaN",
        "off",
    ];
    let expected = "a size between 1KiB and 1TiB, in bytes or like \"64MiB\" or \"40%\"";
    refused("size", &others, expected);
}

#[test]
fn calls_have_no_unit_and_times_have_one() {
    means("window", &["50"], |every| every.window = Pair::Count(50));
    for (time, texts) in [
        (SECOND * 50, &["50s", "50.0", "0m50s"][..]),
        (MILLISECOND * 1_500, &["1.5", "1.5s"]),
    ] {
        means("window", texts, |every| every.window = Pair::Time(time));
    }
    let expected = "between 1 and 65536 calls, or between 10ms and 1d";
    refused(
        "window",
        &["0", "65537", "9ms", "2d", "-1", "", "x"],
        expected,
    );
}

#[test]
fn counts_have_no_sign_and_shares_have_one() {
    means("workers", &["8"], |every| every.workers = Pair::Count(8));
    means("workers", &["8%", "8 %", "8.0%"], |every| {
        every.workers = Pair::Share(8.0);
    });
    let expected = "between 1 and 512, or a share above 0% and at most 100%";
    let others = ["0", "513", "0%", "101%", "-1%", "1.5", "%", "NaN%"];
    refused("workers", &others, expected);
}

#[test]
fn words_are_those_that_there_are() {
    means("mode", &["safe", " safe "], |every| every.mode = Mode::Safe);
    let expected = "one of fast, safe";
    refused("mode", &["Safe", "SAFE", "saf", "", "off"], expected);
}

#[test]
fn addresses_have_a_port() {
    means("listen", &["0.0.0.0:80"], |every| {
        every.listen = "0.0.0.0:80".parse().unwrap();
    });
    let v6 = [("listen", "[::1]:80"), ("listen", "[fe80::1%3]:0")];
    for (key, text) in v6 {
        let every = good(&format!("{key}: '{text}'"), &[]).0;
        assert_eq!(every.listen, text.parse().unwrap());
    }
    let others = ["localhost:80", "127.0.0.1", ":80", "1.2.3.4:65536", ""];
    let expected = "an address and a port, like 127.0.0.1:8081";
    refused("listen", &others, expected);
}

#[test]
fn texts_are_what_is_written() {
    for text in ["123", "true", "off", "0x1F", "1h", "a: b", "ä ö", "none"] {
        means(
            "title",
            &[text][usize::from(text.contains(": "))..],
            |every| {
                every.title = text.to_owned();
            },
        );
    }
    assert_eq!(good("title: ''", &[]).0.title, "");
    assert_eq!(good("title: ' a '", &[]).0.title, " a ");
    assert_eq!(good("title: |\n  a\n  b\n", &[]).0.title, "a\nb\n");
    assert_eq!(good("title: >\n  a\n  b\n", &[]).0.title, "a b\n");
    assert_eq!(good("title: \"\\u263a\\n\"", &[]).0.title, "☺\n");
    // Quotes are a part of a variable.
    assert_eq!(good("", &[("APP__TITLE", "\"a\"")]).0.title, "\"a\"");
}

#[test]
fn quotes_tell_a_text_from_a_word() {
    let text = |text: &str| Some(text.to_owned());
    for (yaml, note) in [
        ("note: none", None),
        ("note:", None),
        ("note: ~", None),
        ("note: 'none'", text("none")),
        ("note: ''", text("")),
        ("note: '~'", text("~")),
        ("note: off", text("off")),
        ("note: false", text("false")),
    ] {
        assert_eq!(good(yaml, &[]).0.note, note, "{yaml}");
    }
    let secret = |yaml| good(yaml, &[]).0.token;
    assert_eq!(secret("token: off"), Some(Secret("off".to_owned())));
    assert_eq!(secret("token: none"), None);
    assert_eq!(secret("token: ' x '"), Some(Secret(" x ".to_owned())));
}

#[test]
fn several_texts_are_a_list_or_have_commas_between() {
    let hosts = |yaml: &str, variables: &[_]| good(yaml, variables).0.hosts;
    assert_eq!(
        hosts("hosts: [a, 'b,c', 1, true]", &[]),
        ["a", "b,c", "1", "true"]
    );
    assert_eq!(hosts("hosts:\n- a\n- ''\n", &[]), ["a", ""]);
    assert_eq!(hosts("hosts: []", &[]), [] as [&str; 0]);
    assert_eq!(hosts("hosts: a, b ,,c", &[]), ["a", "b", "c"]);
    assert_eq!(hosts("hosts: [x]", &[("APP__HOSTS", "a, b,")]), ["a", "b"]);
    for (yaml, value) in [
        ("hosts: [a, [b]]", "a list of 2"),
        ("hosts: [a, {b: c}]", "a list of 2"),
        ("hosts: [a, null]", "a list of 2"),
        ("hosts: {a: b}", "a group of 1"),
        ("hosts:", "nothing"),
    ] {
        let [problem] = &bad(yaml, &[])[..] else {
            panic!("{yaml} has one problem");
        };
        let what = format!("`hosts` is {value}, but must be a list of texts");
        assert!(problem.ends_with(&what), "{problem}");
    }
}

const SIZE: &str = "a size between 1KiB and 1TiB, in bytes or like \"64MiB\" or \"40%\"";

fn budgets(yaml: &str, variables: &[(&str, &str)]) -> Vec<(String, u64)> {
    good(yaml, variables).0.budgets.into_iter().collect()
}

fn named(sizes: &[(&str, u64)]) -> Vec<(String, u64)> {
    let sizes = sizes.iter();
    sizes
        .map(|(name, size)| ((*name).to_owned(), *size))
        .collect()
}

#[test]
fn sizes_by_name_are_a_group() {
    let yaml = "budgets:\n  /demo/heavy: 8MiB\n  'a, b=c': '2048'\n  5: 1KiB\n";
    let expected = [("/demo/heavy", 8 << 20), ("5", 1_024), ("a, b=c", 2_048)];
    assert_eq!(budgets(yaml, &[]), named(&expected));
    assert_eq!(budgets("budgets: {}", &[]), []);
    let alias = "size: &s 4KiB\nbudgets: {a: *s, ' ': 1 KiB}";
    assert_eq!(budgets(alias, &[]), named(&[(" ", 1_024), ("a", 4_096)]));
    if let Some(limit) = plimsoll_config::memory_limit() {
        let share = (limit as f64 / 1_000.0) as u64;
        if (1_024..=TIB).contains(&share) {
            assert_eq!(budgets("budgets: {a: 0.1%}", &[]), named(&[("a", share)]));
        }
    }
}

#[test]
fn sizes_by_name_have_commas_between_in_a_variable() {
    for (text, expected) in [
        (
            "/demo/heavy=8MiB,/ask=512KiB",
            &[("/ask", 512 << 10), ("/demo/heavy", 8 << 20)][..],
        ),
        (" a = 1KiB ,, b = 2048 , ", &[("a", 1_024), ("b", 2_048)]),
        // A name ends at the last equals sign.
        ("/a?b=c=1KiB", &[("/a?b=c", 1_024)]),
        ("==1KiB", &[("=", 1_024)]),
        (",", &[]),
        (" ", &[]),
    ] {
        assert_eq!(
            budgets("", &[("APP__BUDGETS", text)]),
            named(expected),
            "{text}"
        );
        assert_eq!(
            budgets(&format!("budgets: '{text}'"), &[]),
            named(expected),
            "{text}"
        );
    }
    assert_eq!(budgets("budgets: ''", &[]), []);
}

#[test]
fn sizes_by_name_are_one_value_of_which_none_is_left_from_below() {
    let yaml = "budgets: {a: 1KiB, b: 2KiB}";
    let variable = |text| budgets(yaml, &[("APP__BUDGETS", text)]);
    assert_eq!(variable("b=3KiB"), named(&[("b", 3_072)]));
    assert_eq!(variable(","), []);
    // An empty one says nothing.
    assert_eq!(variable(""), named(&[("a", 1_024), ("b", 2_048)]));
}

#[test]
fn each_size_that_is_wrong_is_told_with_its_name_and_its_place() {
    let yaml = "\
budgets:
  good: 1KiB
  soon: lots
  small: 1023
  none:
  list: [1, 2]
  group: {a: 1}
  '': 5MiB
  \"a\\nb\": 6MiB
";
    let names = "for names of 1 to 256 bytes without control characters";
    assert_eq!(
        bad(yaml, &[]),
        [
            format!("config.yaml:3:9: `budgets.soon` is lots, but must be {SIZE}"),
            format!("config.yaml:4:10: `budgets.small` is 1023, but must be {SIZE}"),
            format!("config.yaml:5:7: `budgets.none` is nothing, but must be {SIZE}"),
            format!("config.yaml:6:9: `budgets.list` is a list of 2, but must be {SIZE}"),
            format!("config.yaml:7:10: `budgets.group` is a group of 1, but must be {SIZE}"),
            format!("config.yaml:8:3: `budgets` is 5MiB for \"\", but must be {names}"),
            format!("config.yaml:9:3: `budgets` is 6MiB for \"a\\nb\", but must be {names}"),
        ]
    );
    let longest = "x".repeat(256);
    assert_eq!(
        budgets(&format!("budgets: {{{longest}: 1KiB}}"), &[]).len(),
        1
    );
    let problems = bad(&format!("budgets: {{{longest}x: 1KiB}}"), &[]);
    let shown = format!("1KiB for {}…", &longest[..80]);
    assert_eq!(
        problems,
        [format!(
            "config.yaml:1:11: `budgets` is {shown}, but must be {names}"
        )]
    );
    let twice = ["config.yaml:1:20: `a` is there twice, first at config.yaml:1:11"];
    assert_eq!(bad("budgets: {a: 1KiB, a: 2KiB}", &[]), twice);
}

#[test]
fn each_size_that_is_wrong_in_a_variable_is_told_with_its_name() {
    let text = "a=1KiB,b=lots,c=1,plain,=5MiB,a=2KiB,d=";
    let names = "for names of 1 to 256 bytes without control characters";
    assert_eq!(
        bad("", &[("APP__BUDGETS", text)]),
        [
            "APP__BUDGETS: `budgets` is plain, but must be a name with a size, like name=64MiB"
                .to_owned(),
            format!("APP__BUDGETS: `budgets.b` is lots, but must be {SIZE}"),
            format!("APP__BUDGETS: `budgets.c` is 1, but must be {SIZE}"),
            format!("APP__BUDGETS: `budgets` is 5MiB for \"\", but must be {names}"),
            "APP__BUDGETS: `budgets.a` is there twice: leave one out".to_owned(),
            format!("APP__BUDGETS: `budgets.d` is nothing, but must be {SIZE}"),
        ]
    );
    let what = "is one of several sizes by name: give all of them in one variable, as \
                name=size,name=size";
    assert_eq!(
        bad(
            "",
            &[("APP__BUDGETS__A", "1KiB"), ("APP__BUDGETS__B__C", "1KiB")]
        ),
        [
            format!("APP__BUDGETS__A: `budgets.a` {what}"),
            format!("APP__BUDGETS__B__C: `budgets.b` {what}"),
        ]
    );
}

#[test]
fn what_is_no_group_of_sizes_is_refused_as_a_whole() {
    let expected = "a group of names, each with a size between 1KiB and 1TiB, like {a: 64MiB} or \
                    \"a=64MiB\"";
    for (value, shown) in [
        ("[a, b]", "a list of 2"),
        ("soon", "soon"),
        ("64MiB", "64MiB"),
        ("off", "off"),
        ("", "nothing"),
    ] {
        let place = if value.is_empty() { "1:8" } else { "1:10" };
        let problem = format!("config.yaml:{place}: `budgets` is {shown}, but must be {expected}");
        assert_eq!(bad(&format!("budgets: {value}"), &[]), [problem]);
    }
    let many = |count: u32| {
        let sizes: Vec<_> = (0..count).map(|name| format!("{name}: 1KiB")).collect();
        format!("budgets: {{{}}}", sizes.join(", "))
    };
    assert_eq!(budgets(&many(1_000), &[]).len(), 1_000);
    let what = "is a group of 1001, but must be a group of at most 1000 names";
    assert_eq!(
        bad(&many(1_001), &[]),
        [format!("config.yaml:1:10: `budgets` {what}")]
    );
}

#[test]
fn sizes_by_name_may_have_a_word_instead() {
    #[derive(Default)]
    struct Worded(Option<BTreeMap<String, u64>>);
    impl Settings for Worded {
        fn visit(&mut self, fields: &mut dyn Fields) {
            let sizes = &mut settings::sizes(&mut self.0, 1..=TIB).or(&["off"]);
            fields.setting("sizes", "Sizes, or none.", sizes);
        }
    }
    let read = |yaml: &str| {
        let mut worded = Worded(Some(BTreeMap::new()));
        let mut reading = Reading::new();
        let file = File::parse("config.yaml", yaml).unwrap();
        reading.root(&mut worded, &[], &file, &Environment::empty());
        reading.finish().unwrap();
        worded.0
    };
    assert_eq!(read("sizes: off"), None);
    assert_eq!(read("sizes:"), None);
    assert_eq!(read(""), Some(BTreeMap::new()));
    let off = BTreeMap::from([("off".to_owned(), 1)]);
    assert_eq!(read("sizes: {off: 1}"), Some(off));
}

#[test]
fn nothing_is_the_first_word_or_refused() {
    for null in ["", "~", "null", "Null", "NULL"] {
        let yaml = format!("rate: {null}\nidle: {null}\nmost: {null}");
        let every = good(&yaml, &[]).0;
        assert_eq!((every.rate, every.idle, every.most), (None, None, None));
        let variables = [("APP__RATE", null)];
        let rate = null.is_empty().then_some(20.0);
        assert_eq!(good("rate: 20", &variables).0.rate, rate);
        let keys = ["flag", "count", "timeout", "size", "mode", "title", "hosts"];
        for key in keys {
            let [problem] = &bad(&format!("{key}: {null}"), &[])[..] else {
                panic!("{key} has one problem");
            };
            assert!(problem.contains("is nothing, but must be"), "{problem}");
        }
    }
}

#[test]
fn lists_and_groups_are_no_values() {
    for key in ["flag", "count", "rate", "idle", "size", "mode", "listen"] {
        for (value, shown) in [
            ("[]", "a list of 0"),
            ("[1, 2]", "a list of 2"),
            ("{}", "a group of 0"),
            ("{a: 1}", "a group of 1"),
        ] {
            let [problem] = &bad(&format!("{key}: {value}"), &[])[..] else {
                panic!("{key} has one problem");
            };
            let what = format!("`{key}` is {shown}, but must be ");
            assert!(problem.contains(&what), "{problem}");
        }
    }
}

#[test]
fn a_share_of_the_memory_is_that_of_this_machine() {
    if let Some(limit) = plimsoll_config::memory_limit() {
        let size = (limit as f64 / 1_000.0) as u64;
        if (1_024..=TIB).contains(&size) {
            assert_eq!(good("size: 0.1%", &[]).0.size, size);
        }
    }
}
