//! A service that goes by files, seen over its admin listener.

use plimsoll::{
    Adapter, AdapterSpec, BoxError, Config, ConfigFiles, ControlConfig, Plimsoll,
    settings::{Fields, Settings, text},
};
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const TOKEN: &str = "0123456789-which-nobody-may-see";
const RELOAD: &str = "/api/v1/config/reload";

#[derive(Clone, Debug, Default, PartialEq)]
struct Kind {
    greeting: String,
}

impl Settings for Kind {
    fn visit(&mut self, fields: &mut dyn Fields) {
        let about = "What it says.";
        fields.setting("greeting", about, &mut text(&mut self.greeting));
    }
}

fn make(spec: &AdapterSpec<Kind>) -> Result<Adapter<String, String>, BoxError> {
    let greeting = spec.settings.greeting.clone();
    let greet = move |name: String| {
        let greeting = greeting.clone();
        async move { Ok::<_, BoxError>(format!("{greeting} {name}")) }
    };
    Ok(spec.builder().function(greet)?)
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

async fn request(addr: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         authorization: Bearer {TOKEN}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    assert!(!answer.contains(TOKEN), "{answer}");
    answer
}

fn json(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    serde_json::from_str(body).expect("a document")
}

/// Each change with what was, what is, and whether it counts.
fn changes(answer: &str) -> Vec<String> {
    assert_has(answer, &["HTTP/1.1 200"]);
    let answer = json(answer);
    let changes = answer["changes"].as_array().expect("a list").iter();
    let change = |change: &Value| {
        let [key, old, new, applied] = ["key", "old", "new", "applied"].map(|key| &change[key]);
        let key = key.as_str().expect("a text");
        format!("{key} {old} {new} {applied}")
    };
    changes.map(change).collect()
}

#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[tokio::test]
async fn configuration_is_shown_changed_and_refused_over_the_admin_listener() {
    let folder = folder("whole-service");
    let write = |file: &str, text: &str| fs::write(folder.join(file), text).expect("written");
    write(
        "config.yaml",
        &format!("control:\n  token: {TOKEN}\nserver:\n  max_streams: 9\n"),
    );
    write(
        "adapters.yaml",
        "adapters:\n- name: a\n  greeting: hello\n- name: b\n",
    );
    let control = ControlConfig::new().admin_addr(([127, 0, 0, 1], 0).into());
    let files = ConfigFiles::in_folder(&folder).no_variables().no_watch();
    let loaded = files
        .load_with::<Kind>(Config::new().control(control))
        .expect("valid files");
    let plimsoll = Plimsoll::start(loaded.config()).expect("a service");
    let adapters = plimsoll.adapters(&loaded, make).expect("adapters");
    let admin = plimsoll.admin_addr().expect("an admin listener");

    let shown = json(&request(admin, "GET", "/api/v1/config").await);
    let config = &shown["config"];
    assert_eq!(config["control"]["token"]["value"], "***");
    let streams = &config["server"]["max_streams"];
    assert_eq!(
        (&streams["value"], &streams["line"]),
        (&9.into(), &4.into())
    );
    assert_eq!(config["adapters"]["a"]["greeting"]["value"], "hello");
    assert_eq!(shown["problems"].as_array().map(Vec::len), Some(0));

    // The breaker of the one that is replaced is closed again, and it alone is shown.
    adapters
        .get("a")
        .expect("it is there")
        .breaker()
        .force_open();
    adapters
        .get("b")
        .expect("it is there")
        .breaker()
        .force_open();
    write(
        "adapters.yaml",
        "adapters:\n- name: a\n  greeting: hi\n- name: b\n  fault_tolerance: {timeout: 5s}\n- name: c\n",
    );
    assert_eq!(
        changes(&request(admin, "POST", RELOAD).await),
        [
            r#"adapters.c null "there" true"#,
            r#"adapters.a.greeting "hello" "hi" true"#,
            r#"adapters.b.fault_tolerance.timeout "2s" "5s" true"#,
        ]
    );
    assert_eq!(
        adapters.call("a", "x".to_owned()).await.expect("an answer"),
        "hi x"
    );
    let breakers = request(admin, "GET", "/api/v1/breakers").await;
    assert_eq!(breakers.matches(r#""name":"a""#).count(), 1, "{breakers}");
    assert_has(
        &breakers,
        &[
            r#""name":"a","state":"closed""#,
            r#""name":"b","state":"forced_open""#,
            r#""name":"c","state":"closed""#,
        ],
    );
    let holdings = request(admin, "GET", "/api/v1/holdings").await;
    assert_eq!(holdings.matches(r#""name":"a""#).count(), 1, "{holdings}");
    let scraped = request(admin, "GET", "/metrics").await;
    assert_has(
        &scraped,
        &[
            "# HELP plimsoll_config_reloads_total Times",
            "plimsoll_config_reloads_total{result=\"ok\"} 1",
            "# HELP plimsoll_config_last_reload_ok 1 if",
            "plimsoll_config_last_reload_ok 1",
            "plimsoll_adapter_calls_total{adapter=\"a\",outcome=\"succeeded\"} 1",
        ],
    );

    // Nothing of a file with a mistake counts, and it is shown until it is mended.
    write("adapters.yaml", "adapters:\n- name: a\n  greting: oh\n");
    let refused = request(admin, "POST", RELOAD).await;
    assert_has(&refused, &["HTTP/1.1 422", "application/problem+json"]);
    let problem = json(&refused)["problems"][0].clone();
    assert_eq!(problem["key"], "adapters.a.greting");
    assert_eq!(
        (&problem["line"], &problem["nearest"]),
        (&3.into(), &"greeting".into())
    );
    assert_eq!(adapters.len(), 3);
    let shown = request(admin, "GET", "/api/v1/config").await;
    assert_has(
        &shown,
        &[r#""key":"adapters.a.greting""#, r#""value":"hi""#],
    );
    let scraped = request(admin, "GET", "/metrics").await;
    assert_has(
        &scraped,
        &[
            "plimsoll_config_reloads_total{result=\"refused\"} 1",
            "plimsoll_config_last_reload_ok 0",
        ],
    );
    write("adapters.yaml", "adapters:\n- name: c\n");
    write(
        "config.yaml",
        &format!("control: {{token: {TOKEN}!}}\nserver: {{max_streams: 8}}\n"),
    );
    assert_eq!(
        changes(&request(admin, "POST", RELOAD).await),
        [
            r#"adapters.a "there" null true"#,
            r#"adapters.b "there" null true"#,
            r#"server.max_streams "9" "8" false"#,
            r#"control.token "***" "***" false"#,
            r#"adapters.a.greeting "hi" null true"#,
            r#"adapters.b.fault_tolerance.timeout "5s" null true"#,
        ]
    );
    let shown = json(&request(admin, "GET", "/api/v1/config").await);
    assert_eq!(shown["problems"].as_array().map(Vec::len), Some(0));
    assert_eq!(shown["config"]["server"]["max_streams"]["value"], 9);
    let scraped = request(admin, "GET", "/metrics").await;
    assert_has(&scraped, &["plimsoll_config_last_reload_ok 1"]);
    let in_flight = "plimsoll_adapter_max_in_flight{adapter=\"a\"} 0";
    assert_has(&scraped, &[in_flight]);
    let breakers = request(admin, "GET", "/api/v1/breakers").await;
    assert!(!breakers.contains(r#""name":"a""#), "{breakers}");
}
