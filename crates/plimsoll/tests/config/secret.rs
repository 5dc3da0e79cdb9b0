//! The token of *admin*, which nothing shows.

use crate::support::{Folder, shown};
use plimsoll::{Config, ControlConfig, Plimsoll};
use std::fmt::Debug;

const TOKENS: [&str; 4] = [
    "0123456789-of-the-code-0123456789",
    "0123456789-of-the-file-0123456789",
    "0123456789-of-a-variable-0123456789",
    "0123456789-of-another-0123456789",
];

fn assert_hidden(text: &str) {
    for token in TOKENS {
        assert!(!text.contains(token), "{text}");
    }
}

fn hidden(value: &impl Debug) {
    assert_hidden(&format!("{value:?}"));
    assert_hidden(&format!("{value:#?}"));
}

#[tokio::test]
async fn token_is_shown_by_nothing_wherever_it_was_given() {
    let folder = Folder::new("secret");
    let variable = [("PLIMSOLL__CONTROL__TOKEN", TOKENS[2])];
    let none: [(&str, &str); 0] = [];
    for variables in [&variable[..], &none[..]] {
        for file in [
            format!("control: {{token: {}}}\n", TOKENS[1]),
            "control: {}\n".to_owned(),
        ] {
            folder.config(&file);
            let control = ControlConfig::new().no_probe().no_admin().token(TOKENS[0]);
            let code = Config::new().control(control);
            let files = folder.files().variables("PLIMSOLL", variables.to_vec());
            hidden(&files);
            let loaded = files.load(code).unwrap();
            hidden(&loaded);
            hidden(&loaded.config());
            assert_hidden(&loaded.to_yaml());
            assert!(loaded.to_yaml().contains("# token: ***"));
            let plimsoll = Plimsoll::start(loaded.config()).unwrap();
            hidden(&plimsoll);
            let values = plimsoll.configuration();
            hidden(&values);
            values
                .iter()
                .for_each(|value| assert_hidden(&value.to_string()));
            assert_eq!(shown(&values, "control.token").unwrap().0, "***");

            folder.config(&format!("control: {{token: {}}}\n", TOKENS[3]));
            let reload = plimsoll.reload().await.unwrap();
            hidden(&reload);
            for change in &reload.changes {
                assert_hidden(&change.to_string());
            }
            let is_told = reload
                .changes
                .iter()
                .any(|change| change.key == "control.token");
            // A variable counts over the file.
            assert_eq!(is_told, variables.is_empty());
            hidden(&plimsoll.configuration());
        }
    }
}

#[tokio::test]
async fn token_that_cannot_be_used_is_not_told_either() {
    let folder = Folder::new("secret-wrong");
    let [short, blank] = ["tooshort", "0123456789 with blanks 0123456789"];
    for (token, file) in [
        (short, format!("control: {{token: {short}}}\n")),
        (blank, format!("control: {{token: {blank}}}\n")),
        ("of-a-list", "control: {token: [of-a-list]}\n".to_owned()),
        (
            "of-a-group",
            "control: {token: {of-a-group: of-a-group}}\n".to_owned(),
        ),
    ] {
        folder.config(&file);
        let control = ControlConfig::new().no_probe().no_admin();
        let code = Config::new().control(control);
        let error = folder.files().load(code).unwrap_err();
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(text.contains("control.token"), "{text}");
            assert!(!text.contains(token), "{text}");
        }
    }
}
