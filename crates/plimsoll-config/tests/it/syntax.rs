//! YAML, good, bad and hostile.

use crate::support::{Retries, bad, good, read, told};
use plimsoll_config::File;
use std::fmt::Write as _;

#[track_caller]
fn refused(text: &str) -> Vec<String> {
    match File::parse("x", text) {
        Ok(_) => panic!("{text:.80} is read"),
        Err(error) => told(&error),
    }
}

#[test]
fn a_file_without_settings_has_none() {
    for text in [
        "",
        "\n\n",
        " ",
        "# only this",
        "---",
        "---\n...\n",
        "--- # x",
        "{}",
        "~",
        "null",
        "\u{feff}",
        "\u{feff}---\n",
        "%YAML 1.2\n---\n",
    ] {
        assert_eq!(good(text, &[]), good("", &[]), "{text:?}");
    }
}

#[test]
fn a_file_that_is_no_group_is_refused_as_a_whole() {
    let what = "but must be a group of settings";
    for (text, shown) in [
        ("[]", "a list of 0"),
        ("- a\n- b", "a list of 2"),
        // It may be a secret.
        ("text", "***"),
    ] {
        let expected = [format!("config.yaml:1:1: is {shown}, {what}")];
        assert_eq!(bad(text, &[]), expected, "{text}");
        let mut reading = plimsoll_config::Reading::new();
        let file = File::parse("config.yaml", text).unwrap();
        let none = plimsoll_config::Environment::empty();
        let mut retries = Retries::default();
        reading.group("retries", &mut retries, &file, &none);
        assert_eq!(told(&reading.finish().unwrap_err()), expected, "{text}");
    }
}

#[test]
fn places_count_lines_of_every_kind_and_characters() {
    for (text, place) in [
        ("a: 1\r\ncount: 0\r\n", "2:8"),
        ("\r\n\r\ncount: 0", "3:8"),
        ("\u{feff}count: 0", "1:8"),
        ("# ä\ncount: 0", "2:8"),
        ("{title: äöü, count: 0}", "1:21"),
        ("{title: '日本語', count: 0}", "1:23"),
        ("{title: '😀', count: 0}", "1:21"),
        ("count:\n  0", "2:3"),
        ("count: \t0", "1:9"),
        ("? count\n: 0", "2:3"),
    ] {
        let problems = bad(text, &[]);
        let last = problems.last().unwrap();
        let expected = format!("config.yaml:{place}: `count` is 0");
        assert!(last.starts_with(&expected), "{text:?}: {last}");
    }
}

#[test]
fn what_is_no_yaml_tells_where() {
    for (text, line) in [
        ("a: [1, 2", 1),
        ("a: {b", 1),
        ("a: 'x", 1),
        ("a: 1\n\tb: 2", 1),
        ("a:\n\tb: 2", 2),
        // The parser wants a space.
        ("a:\t2", 1),
        ("a: 1\n b: 2", 2),
        ("a: b: c", 1),
        ("a: \"\\q\"", 1),
        ("a: *b", 1),
        ("a: @b", 1),
        ("%FOO\n%YAML 9.9\nx", 1),
        ("a: ]", 1),
        ("- a\nb: c", 2),
    ] {
        let problems = refused(text);
        assert_eq!(problems.len(), 1, "{text:?}: {problems:?}");
        let place = problems[0].strip_prefix("x:").unwrap();
        let (at, rest) = place.split_once(':').unwrap();
        let at: u32 = at.parse().unwrap();
        // It may be found at the end only.
        assert!((line..=line + 2).contains(&at), "{text:?}: {problems:?}");
        assert!(rest.split_once(": ").unwrap().1.len() > 5, "{problems:?}");
    }
}

#[test]
fn one_file_is_one_document() {
    let expected = ["x:3:1: is a second document in the file: put everything into one"];
    assert_eq!(refused("a: 1\n...\n---\nb: 1"), expected);
    assert_eq!(refused("---\na: 1\n---\n---"), expected);
    assert_eq!(good("--- {count: 5}\n...\n# x", &[]).0.count, 5);
}

#[test]
fn keys_that_are_there_twice_are_refused_everywhere() {
    let what = "is there twice, first at";
    let problems = refused("a: 1\n'a': 2\nb: {c: 1, d: 2, c: 3}\n- : 1");
    assert_eq!(
        problems[..2],
        [
            format!("x:2:1: `a` {what} x:1:1"),
            format!("x:3:17: `c` {what} x:3:5")
        ]
    );
    assert_eq!(refused("{? , ? }").len(), 1);
    // The same key in groups of their own is another.
    assert!(File::parse("x", "a: {c: 1}\nb: {c: 1, a: 2}").is_ok());
}

#[test]
fn keys_are_texts_without_merging() {
    let expected =
        ["x:2:5: is a merge key, which YAML 1.2 does not have: use an alias or a preset"];
    assert_eq!(refused("a: &a {b: 1}\nc: {<<: *a}"), expected);
    assert!(File::parse("x", "{'<<': 1}").is_ok());
    let expected = ["x:1:3: is a list or a group where a key must be"];
    assert_eq!(refused("? [a]\n: b"), expected);
    assert_eq!(refused("? {a: b}\n: b"), expected);
    assert_eq!(good("'count': 5\n\"mode\": safe", &[]).0.count, 5);
}

#[test]
fn tags_are_refused_but_for_that_of_texts() {
    let what = "which means nothing here: leave it out";
    for (text, place, tag) in [
        ("a: !!int 5", "1:10", "tag:yaml.org,2002:int"),
        ("a: !secret x", "1:12", "!secret"),
        ("!x {a: 1}", "1:4", "!x"),
        ("a: !!seq []", "1:10", "tag:yaml.org,2002:seq"),
        (
            "a: !!python/object x",
            "1:20",
            "tag:yaml.org,2002:python/object",
        ),
    ] {
        let problems = refused(text);
        let expected = format!("has the tag {tag}, {what}");
        assert!(problems[0].ends_with(&expected), "{place} {problems:?}");
    }
    assert_eq!(
        good("note: !!str null", &[]).0.note,
        Some("null".to_owned())
    );
    assert_eq!(
        good("note: !!str none", &[]).0.note,
        Some("none".to_owned())
    );
}

#[test]
fn aliases_stand_for_what_was_before() {
    let yaml = "retries: &r {attempts: &n 5}\ncount: *n\nbounds: {low: *n}\nhosts: [&h a, *h]";
    let every = good(yaml, &[]).0;
    assert_eq!((every.count, every.bounds.low), (5, 5));
    assert_eq!(every.hosts, ["a", "a"]);
    // A later anchor of the same name counts from there.
    assert_eq!(
        good("title: &a x\nmode: &a safe\nnote: *a", &[]).0.note,
        Some("safe".to_owned())
    );
    // A problem is where it stands.
    let problems = bad(
        "retries: {attempts: &n 50}\ncount: *n\nbounds: {low: *n}\n",
        &[],
    );
    assert!(problems[0].starts_with("config.yaml:1:"), "{problems:?}");
}

#[test]
fn an_alias_is_for_nothing_that_it_is_a_part_of() {
    let what = "is an alias for something that it is itself a part of";
    for text in [
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: &a {b: [[*a]]}",
        "&a {b: *a}",
    ] {
        let problems = refused(text);
        assert!(problems[0].ends_with(what), "{text}: {problems:?}");
    }
}

#[test]
fn aliases_of_aliases_do_not_multiply() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..30 {
        let before = format!("*a{}", level - 1);
        let items = vec![before; 9].join(", ");
        writeln!(laughs, "a{level}: &a{level} [{items}]").unwrap();
    }
    let expected = "makes more than 200000 values, aliases included";
    let problems = refused(&laughs);
    assert!(problems[0].starts_with("x:6:"), "{problems:?}");
    assert!(problems[0].ends_with(expected), "{problems:?}");
}

#[test]
fn long_texts_under_aliases_do_not_multiply() {
    let text = "x".repeat(1 << 20);
    let aliases = |count: usize| {
        let aliases = vec!["*a"; count].join(", ");
        format!("a: &a {text}\nb: [{aliases}]\n")
    };
    // The keys are texts too.
    assert!(File::parse("x", &aliases(6)).is_ok());
    let problems = refused(&aliases(8));
    let what = "makes more than 8 MiB of text, aliases included";
    assert_eq!(problems.len(), 1);
    assert!(problems[0].ends_with(what), "{problems:?}");
    assert_eq!(refused(&aliases(100_000)).len(), 1);
}

#[test]
fn what_is_kept_under_anchors_does_not_multiply() {
    let items = "a,".repeat(100_000);
    let nested = |depth: usize| {
        let (open, close): (String, String) = (0..depth)
            .map(|depth| (format!("&a{depth} ["), ']'))
            .unzip();
        format!("{open}{items}{close}")
    };
    assert!(File::parse("x", &nested(1)).is_ok());
    let problems = refused(&nested(2));
    assert!(problems[0].ends_with("makes more than 200000 values under anchors"));
    assert_eq!(refused(&nested(30)).len(), 1);
}

#[test]
fn there_are_two_hundred_thousand_values_at_most() {
    // The list, its key, and what it is in are values too.
    let list = |items: usize| format!("a: [{}]", "x,".repeat(items));
    assert!(File::parse("x", &list(199_997)).is_ok());
    let problems = refused(&list(199_998));
    let what = "makes more than 200000 values, aliases included";
    assert!(problems[0].ends_with(what), "{problems:?}");
    assert_eq!(refused(&list(2_000_000)), problems);
}

#[test]
fn lists_and_groups_are_thirty_two_deep_at_most() {
    let flow = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let groups = |depth: usize| format!("{}x{}", "{a: ".repeat(depth), "}".repeat(depth));
    let block = |depth: usize| "- ".repeat(depth) + "x";
    let indented = |depth: usize| -> String {
        (0..depth)
            .map(|depth| format!("{}a:\n", " ".repeat(depth)))
            .collect()
    };
    let shapes: [&dyn Fn(usize) -> String; 4] = [&flow, &groups, &block, &indented];
    for shape in shapes {
        assert!(File::parse("x", &shape(32)).is_ok(), "{}", shape(3));
        for depth in [33, 100, 300, 1_500] {
            let problems = refused(&shape(depth));
            assert_eq!(problems.len(), 1);
            let what = "is deeper than 32 lists and groups in each other";
            assert!(problems[0].ends_with(what), "{problems:?}");
        }
    }
    for text in [
        flow(10_000),
        groups(10_000),
        block(10_000),
        "[".repeat(4 << 20),
    ] {
        assert_eq!(refused(&text).len(), 1);
    }
}

#[test]
fn very_many_keys_are_refused_one_by_one_up_to_a_hundred() {
    let keys: String = (0..99_000).map(|key| format!("key{key}: 1\n")).collect();
    let error = read(&keys, &[]).unwrap_err();
    assert_eq!((error.problems().len(), error.count()), (100, 99_000));
    let expected = "config.yaml:1:1: `key0` is not known: there are profile, flag";
    assert!(
        error.problems()[0].to_string().starts_with(expected),
        "{error}"
    );
}
