//! A service that goes by files.
#![cfg(feature = "config")]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll::{
    Adapter, AdapterSpec, BoxError, Config, ConfigFiles, Plimsoll, State,
    settings::{Fields, Settings, text},
};
use std::{fs, path::Path, time::Duration};

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
    if greeting == "nothing" {
        return Err("it has nothing to say".into());
    }
    let greet = move |name: String| {
        let greeting = greeting.clone();
        async move { Ok::<_, BoxError>(format!("{greeting} {name}")) }
    };
    Ok(spec.builder().function(greet)?)
}

fn folder(name: &str) -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn code() -> Config {
    Config::new().no_control()
}

#[tokio::test]
async fn adapters_come_and_go_with_the_file() {
    let folder = folder("come-and-go");
    let write = |text: &str| fs::write(folder.join("adapters.yaml"), text).unwrap();
    write("adapters:\n- name: a\n  greeting: hello\n- name: b\n  greeting: good day\n");
    let files = ConfigFiles::in_folder(&folder).no_variables().no_watch();
    let loaded = files.load_with::<Kind>(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let adapters = plimsoll.adapters(&loaded, make).unwrap();
    assert_eq!(adapters.call("a", "x".into()).await.unwrap(), "hello x");
    adapters.get("a").unwrap().breaker().force_open();
    let b = adapters.get("b").unwrap();

    write(
        "adapters:\n\
         - name: c\n  greeting: hi\n\
         - name: a\n  greeting: hello\n  fault_tolerance:\n    timeout: 5s\n    circuit_breaker: {preset: network}\n\
         - name: b\n  greeting: good evening\n",
    );
    let reload = plimsoll.reload().await.unwrap();
    let changes: Vec<_> = reload.changes.iter().map(ToString::to_string).collect();
    println!("{}", changes.join("\n"));
    let names: Vec<_> = adapters.names().iter().map(|name| name.as_str()).collect();
    assert_eq!(names, ["c", "a", "b"]);
    let a = adapters.get("a").unwrap();
    assert_eq!(a.breaker().state(), State::ForcedOpen);
    assert_eq!(a.config().values().timeout, Duration::from_secs(5));
    assert!(!adapters.get("b").unwrap().is(&b));
    assert_eq!(
        adapters.call("b", "x".into()).await.unwrap(),
        "good evening x"
    );
    assert_eq!(plimsoll.breakers().list().len(), 3);

    write("adapters:\n- name: a\n  greeting: nothing\n- name: d\n  greting: x\n");
    let error = plimsoll.reload().await.unwrap_err();
    println!("{error}");
    assert_eq!(adapters.len(), 3);
}
