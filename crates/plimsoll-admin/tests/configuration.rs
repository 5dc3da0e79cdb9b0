//! The routes of the configuration, over real connections.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod support;

use plimsoll_admin::{Control, ControlConfig};
use plimsoll_config::{
    Change, Configuration, Effective, Environment, File, LoadError, Reading, Reload, Source,
};
use plimsoll_core::{
    Lifecycle, LifecycleConfig, Registry,
    settings::{self, Fields, Secret, Settings, Value},
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use support::{any_port, ask, get, post};

const TOKEN: &str = "0123456789abcdef";
const CONFIG: &str = "/api/v1/config";
const RELOAD: &str = "/api/v1/config/reload";

/// A configuration that says what it is told to.
#[derive(Default)]
struct Fake {
    values: Vec<Effective>,
    problem: Option<LoadError>,
    answer: Mutex<Option<Result<Reload, LoadError>>>,
    reloads: AtomicUsize,
}

impl Configuration for Fake {
    fn values(&self) -> Arc<[Effective]> {
        self.values.clone().into()
    }

    fn problem(&self) -> Option<LoadError> {
        self.problem.clone()
    }

    fn reload(&self) -> Result<Reload, LoadError> {
        self.reloads.fetch_add(1, Relaxed);
        let answer = self.answer.lock().unwrap().clone();
        answer.unwrap_or_else(|| panic!("told to"))
    }
}

fn start(config: ControlConfig, fake: &Arc<Fake>) -> (Control, SocketAddr) {
    let config = config.admin_addr(any_port()).configuration(fake.clone());
    let control = Control::start(config, Registry::new(), Lifecycle::new(), None).unwrap();
    let addr = control.admin_addr().unwrap();
    (control, addr)
}

/// Reads a group of a file, and a variable.
fn read(text: &str, variable: &str) -> Result<Vec<Effective>, LoadError> {
    let file = File::parse("config.yaml", text)?;
    let variables = [("APP__LIFECYCLE__MAX_TASKS", variable)];
    let environment = Environment::from_variables("APP", variables)?;
    let mut reading = Reading::new();
    let mut lifecycle = LifecycleConfig::default();
    reading.group("lifecycle", &mut lifecycle, &file, &environment);
    reading.finish()
}

#[tokio::test]
async fn each_setting_is_shown_with_its_value_and_its_place() {
    let fake = Fake {
        values: read("lifecycle:\n  drain_delay: 2s\n", "500").unwrap(),
        ..Fake::default()
    };
    let (_control, addr) = start(ControlConfig::new(), &Arc::new(fake));
    assert_eq!(
        get(addr, CONFIG).json(),
        json!({
            "config": { "lifecycle": {
                "drain_delay": { "value": "2s", "source": "config.yaml", "line": 2, "column": 16 },
                "stop_timeout": { "value": "25s", "source": "code" },
                "max_tasks": { "value": 500, "source": "APP__LIFECYCLE__MAX_TASKS" },
            } },
            "problems": [],
        })
    );
}

#[tokio::test]
async fn sizes_by_name_are_an_object() {
    struct Budgets(BTreeMap<String, u64>);
    impl Settings for Budgets {
        fn visit(&mut self, fields: &mut dyn Fields) {
            let budgets = &mut settings::sizes(&mut self.0, 1..=1 << 40);
            fields.setting("budgets", "How much each may have.", budgets);
        }
    }
    let file = File::parse(
        "config.yaml",
        "budgets:\n  /demo/heavy: 8MiB\n  a.b: 1025\n",
    )
    .unwrap();
    let mut reading = Reading::new();
    let mut budgets = Budgets(BTreeMap::new());
    reading.root(&mut budgets, &[], &file, &Environment::empty());
    let fake = Fake {
        values: reading.finish().unwrap(),
        ..Fake::default()
    };
    let (_control, addr) = start(ControlConfig::new(), &Arc::new(fake));
    let budgets = json!({
        "value": { "/demo/heavy": "8MiB", "a.b": "1025" },
        "source": "config.yaml", "line": 2, "column": 3,
    });
    assert_eq!(
        get(addr, CONFIG).json()["config"],
        json!({ "budgets": budgets })
    );
}

#[tokio::test]
async fn problems_of_the_last_reload_are_shown_beside_what_counts() {
    let text = "lifecycle:\n  drain_delay: soon\n  stop_timout: 3s\n";
    let fake = Fake {
        problem: Some(read(text, "no").unwrap_err()),
        ..Fake::default()
    };
    let (_control, addr) = start(ControlConfig::new(), &Arc::new(fake));
    let shown = get(addr, CONFIG).json();
    assert_eq!(shown["config"], json!({}));
    let problems = shown["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 3, "{shown}");
    let [value, key, variable] = &problems[..] else {
        panic!("there are three");
    };
    assert_eq!(value["key"], "lifecycle.drain_delay");
    assert_eq!(
        (&value["file"], &value["line"]),
        (&json!("config.yaml"), &json!(2))
    );
    assert_eq!(
        (&value["column"], &value["value"]),
        (&json!(16), &json!("soon"))
    );
    assert!(value["expected"].as_str().unwrap().contains("a time"));
    assert_eq!(key["key"], "lifecycle.stop_timout");
    assert_eq!(
        (&key["line"], &key["nearest"]),
        (&json!(3), &json!("stop_timeout"))
    );
    assert_eq!(variable["variable"], "APP__LIFECYCLE__MAX_TASKS");
    assert_eq!(variable.get("file"), None);
}

#[tokio::test]
async fn reload_tells_what_has_changed_but_no_secret() {
    let secret = |text: &str| Some(Value::Secret(Secret(text.to_owned())));
    let file = Source::File {
        file: "config.yaml".into(),
        line: 3,
        column: 5,
    };
    let mut reload = Reload::default();
    let (old, new) = (Some(Value::Integer(5)), Some(Value::Integer(6)));
    reload.changes = vec![
        Change::new("a.b".into(), old, new, file, true),
        Change::new(
            "token".into(),
            secret("old!"),
            secret("new!"),
            Source::Code,
            false,
        ),
        Change::new(
            "gone".into(),
            Some(Value::Flag(true)),
            None,
            Source::Code,
            true,
        ),
    ];
    let fake = Arc::new(Fake::default());
    *fake.answer.lock().unwrap() = Some(Ok(reload));
    let (_control, addr) = start(ControlConfig::new(), &fake);
    let answer = post(addr, RELOAD);
    assert_eq!((answer.status, fake.reloads.load(Relaxed)), (200, 1));
    assert_eq!(
        answer.json(),
        json!({ "changes": [
            { "key": "a.b", "old": "5", "new": "6", "source": "config.yaml:3:5", "applied": true },
            { "key": "token", "old": "***", "new": "***", "source": "code", "applied": false },
            { "key": "gone", "old": "true", "new": null, "source": "code", "applied": true },
        ] })
    );
}

#[tokio::test]
async fn reload_that_is_refused_is_a_problem_with_a_member_for_each() {
    let fake = Arc::new(Fake::default());
    let (_control, addr) = start(ControlConfig::new(), &fake);
    for (text, count, detail) in [
        (
            "lifecycle:\n  drain_delay: soon\n",
            1,
            "config.yaml:2:16: `lifecycle.drain_delay` is soon",
        ),
        ("lifecycle: 5\nx: {}\n", 1, "config.yaml:1:12: "),
        (
            "lifecycle:\n  drain_delay: soon\n  a: 1\n",
            2,
            "there are 2 problems with the",
        ),
    ] {
        *fake.answer.lock().unwrap() = Some(Err(read(text, "5").unwrap_err()));
        let answer = post(addr, RELOAD);
        let told = answer.problem(422, "Unprocessable Entity");
        assert!(told.starts_with(detail), "{told}");
        let document: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let problems = document["problems"].as_array().unwrap();
        assert_eq!(problems.len(), count, "{document}");
        assert_eq!(problems[0]["file"], "config.yaml");
        assert!(
            problems[0]["message"]
                .as_str()
                .unwrap()
                .contains("config.yaml:")
        );
    }
    // One of a file as a whole has no line.
    let whole = Source::File {
        file: "config.yaml".into(),
        line: 0,
        column: 0,
    };
    let error = LoadError::new(whole, "", "is no file");
    *fake.answer.lock().unwrap() = Some(Err(error));
    let document: serde_json::Value = serde_json::from_str(&post(addr, RELOAD).body).unwrap();
    assert_eq!(document["problems"][0].get("line"), None);
    // A panic is none of the configuration's problems.
    *fake.answer.lock().unwrap() = None;
    let told = post(addr, RELOAD).problem(503, "Service Unavailable");
    assert!(told.contains("panicked"), "{told}");
    *fake.answer.lock().unwrap() = Some(Ok(Reload::default()));
    assert_eq!(post(addr, RELOAD).json(), json!({ "changes": [] }));
}

#[tokio::test]
async fn what_does_not_belong_there_is_refused_and_reloads_nothing() {
    let fake = Arc::new(Fake::default());
    let (_control, addr) = start(ControlConfig::new(), &fake);
    for (method, path, allowed) in [("GET", RELOAD, "POST"), ("POST", CONFIG, "GET,HEAD")] {
        let answer = ask(addr, method, path, "");
        answer.problem(405, "Method Not Allowed");
        assert_eq!(answer.header("allow"), Some(allowed));
    }
    for (method, path) in [("GET", CONFIG), ("POST", RELOAD)] {
        let answer = ask(addr, method, &format!("{path}?dry_run=1"), "");
        let told = answer.problem(400, "Bad Request");
        assert!(told.contains("dry_run"), "{told}");
    }
    // A page of another site, and one that does not say.
    for header in [
        "Origin: https://evil.example\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
    ] {
        assert_eq!(ask(addr, "POST", RELOAD, header).status, 403);
    }
    let (_control, addr) = start(ControlConfig::new().token(TOKEN), &fake);
    assert_eq!(post(addr, RELOAD).status, 401);
    assert_eq!(get(addr, CONFIG).status, 401);
    assert_eq!(fake.reloads.load(Relaxed), 0);
    *fake.answer.lock().unwrap() = Some(Ok(Reload::default()));
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(addr, "POST", RELOAD, &bearer).status, 200);
    let shown = ask(addr, "GET", CONFIG, &bearer);
    assert!(!shown.body.contains(TOKEN));
    assert_eq!(fake.reloads.load(Relaxed), 1);
}

#[tokio::test]
async fn service_that_shows_no_configuration_says_so() {
    let (_control, addr) = support::start(&Registry::new(), &Lifecycle::new(), None);
    for answer in [get(addr, CONFIG), post(addr, RELOAD)] {
        let told = answer.problem(404, "Not Found");
        assert!(told.contains("shows no configuration"), "{told}");
    }
}
