//! Lists of items with names.

use crate::support::{Bounds, Listing, read_list, shown, told};
use plimsoll_config::{Environment, File, Listed, Reading, Source};

#[track_caller]
fn good(config: &str, adapters: &str, variables: &[(&str, &str)]) -> Listing {
    match read_list(config, adapters, variables) {
        Ok(read) => read,
        Err(error) => panic!("{adapters:?} {variables:?}: {error}"),
    }
}

#[track_caller]
fn bad(adapters: &str, variables: &[(&str, &str)]) -> Vec<String> {
    told(&read_list("", adapters, variables).unwrap_err())
}

#[test]
fn items_keep_their_order_and_start_from_the_general_settings() {
    let config = "general: {bounds: {high: 99}}";
    let adapters = "adapters:\n- name: b\n- limit: 5\n  name: a\n  general: {bounds: {low: 11}}\n";
    let (items, values) = good(config, adapters, &[]);
    let names: Vec<_> = items.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!(items[0].1.general.bounds, Bounds { low: 10, high: 99 });
    assert_eq!(items[1].1.general.bounds, Bounds { low: 11, high: 99 });
    assert_eq!(items[1].1.limit, Some(5));
    for (key, value) in [
        ("adapters.b.general.bounds.low", "10 (code)"),
        ("adapters.b.general.bounds.high", "99 (config.yaml:1:26)"),
        ("adapters.b.limit", "off (code)"),
        ("adapters.a.limit", "5 (adapters.yaml:3:10)"),
        ("adapters.a.general.bounds.low", "11 (adapters.yaml:5:27)"),
        ("adapters.a.general.bounds.high", "99 (config.yaml:1:26)"),
    ] {
        assert_eq!(shown(&values, key), value, "{key}");
    }
}

#[test]
fn a_group_that_an_item_turns_on_itself_is_none_of_the_general_one() {
    let config = "general: {retries: {attempts: 7}}";
    let adapters = "adapters: [{name: a}, {name: b, general: {retries: off}}]";
    let (items, values) = good(config, adapters, &[]);
    let attempts = |item: usize| {
        items[item]
            .1
            .general
            .retries
            .map(|retries| retries.attempts)
    };
    assert_eq!((attempts(0), attempts(1)), (Some(7), None));
    let key = "adapters.a.general.retries.attempts";
    assert_eq!(shown(&values, key), "7 (config.yaml:1:31)");
    let key = "adapters.b.general.retries";
    assert_eq!(shown(&values, key), "off (adapters.yaml:1:52)");
    // Turned on again, it begins with what the code says.
    let variables = [("APP__ADAPTERS__B__GENERAL__RETRIES", "on")];
    let (items, values) = good(config, adapters, &variables);
    let retries = items[1].1.general.retries;
    assert_eq!(retries.map(|retries| retries.attempts), Some(3));
    let key = "adapters.b.general.retries.attempts";
    let variable = "APP__ADAPTERS__B__GENERAL__RETRIES";
    assert_eq!(shown(&values, key), format!("3 ({variable})"));
    // By a setting, the others are those of the code.
    let variables = [("APP__ADAPTERS__B__GENERAL__RETRIES__WAIT", "2s")];
    let values = good(config, adapters, &variables).1;
    assert_eq!(shown(&values, key), "3 (code)");
}

#[test]
fn a_variable_names_an_item_in_capitals_and_without_dashes() {
    let adapters = "adapters: [{name: qa-sql}, {name: 'Ünï 1'}]";
    let variables = [
        ("APP__ADAPTERS__QA_SQL__LIMIT", "5"),
        ("APP__ADAPTERS___N__1__LIMIT", "6"),
    ];
    let (items, values) = good("", adapters, &variables[..1]);
    assert_eq!(items[0].1.limit, Some(5));
    let key = "adapters.qa-sql.limit";
    assert_eq!(shown(&values, key), "5 (APP__ADAPTERS__QA_SQL__LIMIT)");
    // Two underscores part groups.
    let problems = bad(adapters, &variables[1..]);
    assert_eq!(problems.len(), 1);
}

#[test]
fn a_variable_for_no_item_tells_which_one_was_meant() {
    let adapters = "adapters: [{name: qa-sql}, {name: mail}]";
    let unknown = |name| bad(adapters, &[(name, "5")]);
    assert_eq!(
        unknown("APP__ADAPTERS__QA_SQ__LIMIT"),
        ["APP__ADAPTERS__QA_SQ__LIMIT: `adapters.qa_sq` is not known: did you mean `qa-sql`?"]
    );
    assert_eq!(
        unknown("APP__ADAPTERS__X__LIMIT"),
        ["APP__ADAPTERS__X__LIMIT: `adapters.x` is not known: there are qa-sql, mail"]
    );
    let variables = [("APP__ADAPTERS__X__LIMIT", "5")];
    let expected = ["APP__ADAPTERS__X__LIMIT: `adapters.x` is not known"];
    assert_eq!(bad("", &variables), expected);
}

#[test]
fn variables_that_cannot_tell_two_items_apart_are_refused() {
    let adapters = "adapters: [{name: qa-sql}, {name: QA_sql}, {name: mail}]";
    assert_eq!(good("", adapters, &[]).0.len(), 3);
    let expected =
        ["APP__ADAPTERS__QA_SQL__LIMIT: is about `qa-sql` and about `QA_sql`: rename one of them"];
    let variables = [("APP__ADAPTERS__QA_SQL__LIMIT", "5")];
    assert_eq!(bad(adapters, &variables), expected);
}

#[test]
fn a_variable_gives_no_list_and_no_name() {
    let expected =
        ["APP__ADAPTERS: `adapters` is a list, which a variable cannot give: give it in the file"];
    assert_eq!(
        bad("adapters: [{name: a}]", &[("APP__ADAPTERS", "a,b")]),
        expected
    );
    assert!(good("", "", &[("APP__ADAPTERS", "")]).0.is_empty());
    let problems = bad("adapters: [{name: a}]", &[("APP__ADAPTERS__A__NAME", "b")]);
    assert_eq!(
        problems,
        ["APP__ADAPTERS__A__NAME: `adapters.a.name` is not known: there are limit, general"]
    );
}

#[test]
fn items_without_a_name_of_their_own_are_refused_each_at_its_place() {
    let long = "x".repeat(129);
    let adapters = format!(
        "adapters:\n- limit: 1\n- name:\n- name: ''\n- name: a.b\n- name: \"a\\n\"\n- name: \
         {long}\n- name: [a]\n- b\n- name: twice\n- name: 'twice'\n- name: Twice\n"
    );
    let what = "but must be 1 to 128 bytes without control characters or dots";
    let shown: String = long.chars().take(80).collect();
    assert_eq!(
        bad(&adapters, &[]),
        [
            "adapters.yaml:2:3: `adapters` has an item without a name".to_owned(),
            format!("adapters.yaml:3:7: `adapters.name` is nothing, {what}"),
            format!("adapters.yaml:4:9: `adapters.name` is \"\", {what}"),
            format!("adapters.yaml:5:9: `adapters.name` is a.b, {what}"),
            format!("adapters.yaml:6:9: `adapters.name` is \"a\\n\", {what}"),
            format!("adapters.yaml:7:9: `adapters.name` is {shown}…, {what}"),
            format!("adapters.yaml:8:9: `adapters.name` is a list of 1, {what}"),
            "adapters.yaml:9:3: `adapters` is b, but must be a group of settings with a name"
                .to_owned(),
            "adapters.yaml:11:9: `adapters.twice` is listed twice, first at adapters.yaml:10:9"
                .to_owned(),
        ]
    );
    let longest = "ü".repeat(64);
    let items = good("", &format!("adapters: [{{name: {longest}}}]"), &[]).0;
    assert_eq!(items[0].0, longest);
}

#[test]
fn what_is_no_list_is_refused_and_nothing_is_an_empty_one() {
    for adapters in ["", "adapters:", "adapters: []", "adapters: ~", "# none"] {
        assert!(good("", adapters, &[]).0.is_empty(), "{adapters}");
    }
    for (adapters, shown) in [("{a: {}}", "a group of 1"), ("a", "a")] {
        let what = "but must be a list, each item with a name";
        let expected = format!("adapters.yaml:1:11: `adapters` is {shown}, {what}");
        assert_eq!(bad(&format!("adapters: {adapters}"), &[]), [expected]);
    }
    assert_eq!(
        bad("[a]", &[]),
        ["adapters.yaml:1:1: is a list of 1, but must be a group of settings"]
    );
    assert_eq!(
        bad("adaptors: []", &[]),
        ["adapters.yaml:1:1: `adaptors` is not known: did you mean `adapters`?"]
    );
}

#[test]
fn a_list_has_ten_thousand_items_and_no_more() {
    let list = |items: usize| {
        let items = (0..items).map(|item| format!("- name: a{item}\n"));
        format!("adapters:\n{}", items.collect::<String>())
    };
    let file = File::parse("adapters.yaml", &list(10_000)).unwrap();
    let mut reading = Reading::new();
    assert_eq!(reading.items("adapters", &file).len(), 10_000);
    reading.finish().unwrap();
    assert_eq!(
        bad(&list(10_001), &[]),
        ["adapters.yaml:2:3: `adapters` is a list of 10001, but must be a list of at most 10000"]
    );
}

#[test]
fn problems_of_items_name_the_item() {
    let adapters = "adapters:\n- name: a\n  limit: 0\n  limits: 5\n- name: b\n  general: on\n";
    assert_eq!(
        bad(adapters, &[("APP__ADAPTERS__B__LIMIT", "x")]),
        [
            "adapters.yaml:3:10: `adapters.a.limit` is 0, but must be a whole number between 1 and \
             100, or off",
            "adapters.yaml:4:3: `adapters.a.limits` is not known: did you mean `limit`?",
            "adapters.yaml:6:12: `adapters.b.general` is on, but must be a group of settings",
            "APP__ADAPTERS__B__LIMIT: `adapters.b.limit` is x, but must be a whole number between \
             1 and 100, or off",
        ]
    );
}

#[test]
fn an_item_of_the_code_takes_variables() {
    let variables = [("APP__ADAPTERS__MAIL__LIMIT", "5")];
    let environment = Environment::from_variables("APP", variables).unwrap();
    let mut reading = Reading::new();
    let item = Listed::in_code("mail");
    assert_eq!((item.name(), item.source()), ("mail", &Source::Code));
    let mut adapter = crate::support::Adapter::default();
    reading.item("adapters", &item, "general", &mut adapter, &environment);
    reading.other_items("adapters", &["mail"], &environment);
    assert_eq!(adapter.limit, Some(5));
    reading.finish().unwrap();
}
