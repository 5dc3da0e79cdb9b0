//! Variables.

use crate::support::{good, told};
use plimsoll_config::Environment;
use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

fn refused(variables: &[(&str, &str)]) -> Vec<String> {
    let variables = variables.iter().copied();
    told(&Environment::from_variables("APP", variables).unwrap_err())
}

#[test]
fn variables_of_others_are_ignored() {
    let others = [
        ("APP", "x"),
        ("APP_", "x"),
        ("APP_COUNT", "0"),
        ("APPS__COUNT", "0"),
        ("app__COUNT", "0"),
        ("XAPP__COUNT", "0"),
        ("PATH", "/bin"),
    ];
    assert_eq!(good("", &others), good("", &[]));
    let name = OsString::from_vec(b"APP__\xff".to_vec());
    assert!(Environment::from_variables("APP", [(name, "x")]).is_ok());
}

#[test]
fn names_are_read_whatever_their_letters() {
    for name in ["APP__COUNT", "APP__count", "APP__Count"] {
        assert_eq!(good("", &[(name, "5")]).0.count, 5);
    }
}

#[test]
fn two_variables_for_one_setting_are_refused() {
    let expected = ["APP__count: names the same setting as APP__COUNT: leave one out"];
    assert_eq!(
        refused(&[("APP__count", "5"), ("APP__COUNT", "5")]),
        expected
    );
    let expected = ["APP__COUNT: names the same setting as APP__COUNT: leave one out"];
    assert_eq!(
        refused(&[("APP__COUNT", "5"), ("APP__COUNT", "6")]),
        expected
    );
    let names = [("APP__A__b", "5"), ("APP__a__C", "5"), ("APP__A__B", "5")];
    let expected = ["APP__A__b: names the same setting as APP__A__B: leave one out"];
    assert_eq!(refused(&names), expected);
}

#[test]
fn a_value_has_no_parts() {
    let expected = ["APP__A__B__C: is a part of APP__A__B, which is a value: leave one out"];
    // Names that come between in their order change nothing.
    let variables = [
        ("APP__A__B__C", "1"),
        ("APP__A__B", "2"),
        ("APP__A__BX", "3"),
    ];
    assert_eq!(refused(&variables), expected);
    let variables = [
        ("APP__A__B", "2"),
        ("APP__A__BX", "3"),
        ("APP__A__B__C", "1"),
    ];
    assert_eq!(refused(&variables), expected);
}

#[test]
fn names_that_name_nothing_are_refused_with_an_example() {
    let deep = format!("APP__{}", vec!["A"; 17].join("__"));
    for name in ["APP__", "APP____A", "APP__A__", "APP__A____B", &deep] {
        let what = "names no setting: write it like APP__SERVER__MAX_CONNECTIONS";
        assert_eq!(refused(&[(name, "1")]), [format!("{name}: {what}")]);
    }
    let deepest = format!("APP__{}", vec!["A"; 16].join("__"));
    assert!(Environment::from_variables("APP", [(deepest, "1")]).is_ok());
}

#[test]
fn a_value_is_utf_8_of_64_kibibytes() {
    let value = OsString::from_vec(vec![b'a', 0xff]);
    let error = Environment::from_variables("APP", [("APP__TITLE", value)]).unwrap_err();
    assert_eq!(told(&error), ["APP__TITLE: is not UTF-8"]);
    let most = "x".repeat(64 << 10);
    assert_eq!(good("", &[("APP__TITLE", &most)]).0.title, most);
    let expected = ["APP__TITLE: is longer than 64 KiB"];
    assert_eq!(refused(&[("APP__TITLE", &format!("{most}x"))]), expected);
    // Others are still looked at.
    let variables = [("APP__B", &*format!("{most}x")), ("APP____", "1")];
    assert_eq!(refused(&variables).len(), 2);
}

#[test]
fn there_are_ten_thousand_variables_at_most() {
    let variables = |count: usize| (0..count).map(|name| (format!("APP__A__B{name}"), "1"));
    assert!(Environment::from_variables("APP", variables(10_000)).is_ok());
    let error = Environment::from_variables("APP", variables(10_001)).unwrap_err();
    let expected = ["APP__…: there are more than 10000 variables APP__…"];
    assert_eq!(told(&error), expected);
}

#[test]
fn those_of_the_process_are_read() {
    // What there is depends on who runs this, but for what Cargo sets.
    assert!(Environment::read("PLIMSOLL_TEST_OF_NOTHING").is_ok());
    let error = Environment::read("CARGO").map(drop);
    assert_eq!(error, Ok(()));
}

#[test]
fn an_empty_variable_says_nothing() {
    assert_eq!(good("rate: 20", &[("APP__RATE", "")]).0.rate, Some(20.0));
    assert_eq!(good("count: 7", &[("APP__COUNT", "")]).0.count, 7);
    good("", &[("APP__NO_SUCH_THING", "")]);
}
