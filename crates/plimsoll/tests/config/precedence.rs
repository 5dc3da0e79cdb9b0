//! What counts, of all that is said in different places.

use crate::support::{Folder, Service, code, greeter, shown};
use plimsoll::{Adapter, AdapterConfig, BoxError, Config, Plimsoll, config_files::Effective};
use std::time::Duration;

const VARIABLE: &str = "PLIMSOLL__FAULT_TOLERANCE__TIMEOUT";
const OF_ITEM: &str = "PLIMSOLL__ADAPTERS__QA_SQL__FAULT_TOLERANCE__TIMEOUT";
const KEY: &str = "adapters.qa-sql.fault_tolerance.timeout";

/// Who says something: each bit is a place, and gives another number of seconds.
#[derive(Clone, Copy)]
struct Said(u8);

impl Said {
    fn by(self, place: u8) -> bool {
        self.0 & (1 << place) != 0
    }

    fn files(self, folder: &Folder) -> plimsoll::ConfigFiles {
        let config = match self.by(1) {
            true => "fault_tolerance:\n  timeout: 11s\n",
            false => "fault_tolerance:\n  max_queued: 7\n",
        };
        folder.config(config);
        let item = match self.by(3) {
            true => "adapters:\n- name: qa-sql\n  fault_tolerance:\n    timeout: 13s\n",
            false => "adapters:\n- name: qa-sql\n",
        };
        folder.adapters(item);
        let variables = [(2, VARIABLE, "12s"), (4, OF_ITEM, "14s")];
        let variables = variables.into_iter().filter(|(place, ..)| self.by(*place));
        let variables = variables.map(|(_, name, value)| (name, value));
        folder.files().variables("PLIMSOLL", variables)
    }

    /// The last place that says something counts.
    fn expected(self) -> (String, String) {
        let [seconds, source] = match 7 - self.0.leading_zeros() as i32 {
            4 => ["14", OF_ITEM],
            3 => ["13", "adapters.yaml:4"],
            2 => ["12", VARIABLE],
            1 => ["11", "config.yaml:2"],
            0 => ["10", "code"],
            _ => ["2", "code"],
        };
        (format!("{seconds}s"), source.to_owned())
    }

    fn check(self, adapter: &Adapter<String, String>, values: &[Effective]) {
        let (value, source) = self.expected();
        let config = adapter.config();
        let timeout = format!("{:?}", config.values().timeout);
        assert_eq!(timeout, value, "{:05b}", self.0);
        assert_eq!(shown(values, KEY), Some((value, source)), "{:05b}", self.0);
        // What stands beside it is not lost.
        let queued = if self.by(1) { 64 } else { 7 };
        assert_eq!(config.values().max_queued, queued);
    }
}

#[tokio::test]
async fn the_last_place_counts_for_an_adapter_that_is_made_in_code() {
    let folder = Folder::new("precedence-code");
    for said in (0..32).map(Said) {
        let loaded = said.files(&folder).load(code()).unwrap();
        let plimsoll = Plimsoll::start(loaded.config()).unwrap();
        let mut builder = Adapter::builder("qa-sql");
        if said.by(0) {
            builder = builder.timeout(Duration::from_secs(10));
        }
        let adapter = builder.function(|text: String| async { Ok::<_, BoxError>(text) });
        let adapter = plimsoll.register_adapter(adapter.unwrap()).unwrap();
        said.check(&adapter, &plimsoll.configuration());
        // A reload that finds nothing new comes to the same.
        assert!(plimsoll.reload().await.unwrap().changes.is_empty());
        said.check(&adapter, &plimsoll.configuration());
    }
}

#[tokio::test]
async fn the_last_place_counts_for_an_adapter_that_is_listed() {
    let folder = Folder::new("precedence-listed");
    for said in (0..32).map(Said) {
        let mut all = AdapterConfig::new();
        if said.by(0) {
            all = all.timeout(Duration::from_secs(10));
        }
        let files = said.files(&folder);
        let loaded = files.load_with::<()>(code().adapters(all)).unwrap();
        let plimsoll = Plimsoll::start(loaded.config()).unwrap();
        let adapters = plimsoll.adapters(&loaded, |spec| {
            let function = |text: String| async { Ok::<_, BoxError>(text) };
            Ok(spec.builder().function(function)?)
        });
        let adapter = adapters.unwrap().get("qa-sql").unwrap();
        said.check(&adapter, &plimsoll.configuration());
        assert!(plimsoll.reload().await.unwrap().changes.is_empty());
        said.check(&adapter, &plimsoll.configuration());
    }
}

#[tokio::test]
async fn one_place_after_the_other_speaks_up_and_falls_silent_while_the_service_runs() {
    let folder = Folder::new("precedence-reload");
    let said = |config: &str, item: &str| {
        folder.config(config);
        folder.adapters(item);
    };
    let general = "fault_tolerance: {timeout: 11s}\n";
    let item = "adapters:\n- name: qa-sql\n  fault_tolerance: {timeout: 13s}\n";
    let silent = "adapters:\n- name: qa-sql\n";
    said("{}", silent);
    let service = Service::start(folder.files());
    let adapter = service.adapter("qa-sql");
    let coded = service.plimsoll.register_adapter(greeter("coded")).unwrap();
    let seconds = |adapter: &Adapter<String, String>| adapter.config().values().timeout.as_secs();
    for (config, list, of_item, of_coded) in [
        (general, silent, 11, 11),
        (general, item, 13, 11),
        ("{}", item, 13, 2),
        ("{}", silent, 2, 2),
    ] {
        said(config, list);
        assert!(!service.reload().await.is_empty());
        assert_eq!((seconds(&adapter), seconds(&coded)), (of_item, of_coded));
        assert!(service.adapter("qa-sql").is(&adapter), "changed in place");
    }
}

#[tokio::test]
async fn file_and_variable_count_over_the_code_for_the_service_itself() {
    let folder = Folder::new("precedence-service");
    folder.config("lifecycle: {max_tasks: 11}\n");
    let code = code().lifecycle(plimsoll::LifecycleConfig::default().max_tasks(10));
    let max_tasks = |config: Config| {
        let plimsoll = Plimsoll::start(config).unwrap();
        let shown = shown(&plimsoll.configuration(), "lifecycle.max_tasks").unwrap();
        assert_eq!(plimsoll.lifecycle().max_tasks().to_string(), shown.0);
        shown
    };
    let shown = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    assert_eq!(max_tasks(code.clone()), shown("10", "code"));
    let files = folder.files();
    let loaded = files.clone().load(code.clone()).unwrap();
    assert_eq!(max_tasks(loaded.config()), shown("11", "config.yaml:1"));
    let variable = "APP__LIFECYCLE__MAX_TASKS";
    let loaded = files.variables("APP", [(variable, "12")]).load(code);
    assert_eq!(max_tasks(loaded.unwrap().config()), shown("12", variable));
}
