//! Secrets, which nothing shows.

use crate::support::{Every, good, read};
use plimsoll_config::{
    Configuration, Effective, Environment, File, LoadError, Reading, Reload, schema, to_json,
    to_yaml,
};
use plimsoll_core::settings::Secret;

const SECRET: &str = "hunter2";

#[track_caller]
fn assert_masked(text: &str) {
    assert!(!text.contains(SECRET), "{text}");
}

#[test]
fn a_secret_that_is_read_is_shown_by_nothing() {
    let yaml = format!("token: {SECRET}\nlogin: {{password: {SECRET}}}\n");
    for variables in [&[][..], &[("APP__TOKEN", SECRET)]] {
        let (mut every, values) = good(&yaml, variables);
        assert_eq!(every.token, Some(Secret(SECRET.to_owned())));
        assert_masked(&format!("{every:?}{every:#?}"));
        assert_masked(&format!("{values:?}"));
        let shown: String = values.iter().map(ToString::to_string).collect();
        assert_masked(&shown);
        assert_masked(&to_yaml(&values, None));
        assert_masked(&to_json(&values).to_string());
        assert_masked(&schema("title", &mut every).to_string());
        let reload = Reload::between(&[], &values, |_| true);
        assert_masked(&format!("{reload:?}"));
        let back = Reload::between(&values, &[], |_| true);
        for change in reload.changes.iter().chain(&back.changes) {
            assert_masked(&change.to_string());
        }
        let yaml = to_yaml(&values, None);
        assert!(yaml.contains("# token: *** # "), "{yaml}");
        assert_eq!(to_json(&values)["token"]["value"], "***");
    }
}

#[test]
fn files_variables_and_readings_show_none_of_their_values() {
    let file = File::parse("config.yaml", &format!("a: [{SECRET}, {{b: {SECRET}}}]")).unwrap();
    let environment = Environment::from_variables("APP", [("APP__A__B", SECRET)]).unwrap();
    assert_masked(&format!("{file:?}{file:#?}{environment:?}{environment:#?}"));
    let mut reading = Reading::new();
    let text = format!("token: {SECRET}\ncount: 0\ntitle: [{SECRET}]");
    let file = File::parse("config.yaml", &text).unwrap();
    reading.root(&mut Every::default(), &[], &file, &Environment::empty());
    assert_masked(&format!("{reading:?}"));
    let error = reading.finish().unwrap_err();
    assert_masked(&format!("{error}{error:?}"));
}

#[test]
fn a_secret_in_the_wrong_place_or_of_the_wrong_shape_is_not_told() {
    for yaml in [
        format!("token: [{SECRET}]"),
        format!("token: {{a: {SECRET}}}"),
        // Where a group is, of which a secret is a part.
        format!("login: {SECRET}"),
        format!("login: [{SECRET}]"),
        format!("token: {SECRET}\ntoken: {SECRET}x"),
        format!("tokn: {SECRET}"),
        format!("login: {{pasword: {SECRET}}}"),
        format!("token: !secret {SECRET}"),
        format!("token: \"{SECRET}"),
        format!("token: {SECRET}: x"),
        format!("token: {SECRET}\n  x: y"),
    ] {
        let error = read(&yaml, &[]).unwrap_err();
        assert_masked(&format!("{error}{error:?}"));
    }
    let error = read("", &[("APP__LOGIN", SECRET)]).unwrap_err();
    let what = "`login` is ***, but must be a group of settings, on or off";
    assert_eq!(error.to_string(), format!("APP__LOGIN: {what}"));
    let variables = [("APP__TOKEN", SECRET), ("APP__TOKEN__X", SECRET)];
    let error = read("", &variables).unwrap_err();
    assert_masked(&format!("{error}{error:?}"));
}

#[test]
fn a_secret_that_changed_is_told_as_a_change_alone() {
    let values = |token: &str| good(&format!("token: {token}"), &[]).1;
    let reload = Reload::between(&values("one"), &values("two"), |_| false);
    let changes: Vec<_> = reload.changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        changes,
        ["token: *** → *** (config.yaml:1:8), after a restart"]
    );
    assert_eq!(
        Reload::between(&values("one"), &values("one"), |_| true),
        Reload::default()
    );
}

#[test]
fn what_reads_again_can_be_kept_as_an_object() {
    struct Fixed(Vec<Effective>);
    impl Configuration for Fixed {
        fn values(&self) -> std::sync::Arc<[Effective]> {
            self.0.clone().into()
        }

        fn problem(&self) -> Option<LoadError> {
            None
        }

        fn reload(&self) -> Result<Reload, LoadError> {
            Ok(Reload::between(&self.0, &self.0, |_| true))
        }
    }
    let fixed: Box<dyn Configuration> = Box::new(Fixed(good("", &[]).1));
    assert_eq!(fixed.reload(), Ok(Reload::default()));
    assert_eq!((fixed.problem(), fixed.values().len()), (None, 24));
}
