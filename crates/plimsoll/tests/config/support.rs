use plimsoll::{
    Adapter, AdapterError, AdapterSpec, Adapters, BoxError, Config, ConfigFiles, Loaded,
    MemoryConfig, MonitorConfig, Plimsoll, RejectReason, Rejected,
    config_files::{Effective, Source},
    settings::{Fields, Settings, text},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};
use tokio::sync::Semaphore;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) type Greeters = Adapters<String, String>;

/// What an item has besides its name and its limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Kind {
    pub(crate) greeting: String,
}

impl Settings for Kind {
    fn visit(&mut self, fields: &mut dyn Fields) {
        let about = "What it says.";
        fields.setting("greeting", about, &mut text(&mut self.greeting));
    }
}

/// Makes adapters that greet. Some greetings have it do something else.
#[derive(Clone, Default)]
pub(crate) struct Maker {
    /// The names of those that were made, in order.
    pub(crate) made: Arc<Mutex<Vec<String>>>,
    /// What a greeting of `waits` waits for.
    pub(crate) gate: Gate,
    /// Runs before each is made.
    pub(crate) first: Arc<Mutex<Option<mpsc::Receiver<()>>>>,
    /// Handles that somebody keeps.
    pub(crate) keeps: Arc<Mutex<Vec<Adapter<String, String>>>>,
}

#[derive(Clone)]
pub(crate) struct Gate(pub(crate) Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

impl Maker {
    pub(crate) fn make(
        &self,
        spec: &AdapterSpec<Kind>,
    ) -> Result<Adapter<String, String>, BoxError> {
        let greeting = spec.settings.greeting.clone();
        self.made.lock().unwrap().push(spec.name.clone());
        if let Some(first) = &*self.first.lock().unwrap() {
            first.recv().unwrap();
        }
        let builder = match &*greeting {
            "nothing" => return Err("it has nothing to say".into()),
            "panic" => panic!("told to"),
            "misnamed" => Adapter::builder("somebody").config(spec.config.clone()),
            _ => spec.builder(),
        };
        let gate = self.gate.clone();
        let greet = move |name: String| {
            let (greeting, gate) = (greeting.clone(), gate.clone());
            async move {
                if greeting.starts_with("waits") {
                    gate.0.acquire().await?.forget();
                }
                Ok::<_, BoxError>(format!("{greeting} {name}"))
            }
        };
        let adapter = builder.function(greet)?;
        if spec.settings.greeting == "kept" {
            self.keeps.lock().unwrap().push(adapter.clone());
        }
        Ok(adapter)
    }

    pub(crate) fn made(&self) -> Vec<String> {
        std::mem::take(&mut self.made.lock().unwrap())
    }

    /// Has the next to be made wait until the sender sends.
    pub(crate) fn hold(&self) -> mpsc::Sender<()> {
        let (go, wait) = mpsc::channel();
        *self.first.lock().unwrap() = Some(wait);
        go
    }
}

/// A folder of one test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    pub(crate) fn config(&self, text: &str) {
        fs::write(self.path("config.yaml"), text).unwrap();
    }

    pub(crate) fn adapters(&self, text: &str) {
        fs::write(self.path("adapters.yaml"), text).unwrap();
    }

    /// The files alone, which are not watched.
    pub(crate) fn files(&self) -> ConfigFiles {
        ConfigFiles::in_folder(&self.0).no_variables().no_watch()
    }
}

/// A service whose adapters are those of a file.
pub(crate) struct Service {
    pub(crate) plimsoll: Plimsoll,
    pub(crate) adapters: Greeters,
    pub(crate) loaded: Loaded<Kind>,
    pub(crate) maker: Maker,
}

pub(crate) fn code() -> Config {
    // Where others have taken the memory of the machine, nothing is dropped for that.
    let monitor = MonitorConfig::new().shrink(false);
    let memory = MemoryConfig::new().monitor(monitor);
    Config::new().no_control().memory(memory)
}

impl Service {
    pub(crate) fn start(files: ConfigFiles) -> Self {
        Self::start_with(files, Maker::default())
    }

    pub(crate) fn start_with(files: ConfigFiles, maker: Maker) -> Self {
        let loaded = files.load_with::<Kind>(code()).unwrap();
        let plimsoll = Plimsoll::start(loaded.config()).unwrap();
        let making = maker.clone();
        let adapters = plimsoll.adapters(&loaded, move |spec| making.make(spec));
        Self {
            plimsoll,
            adapters: adapters.unwrap(),
            loaded,
            maker,
        }
    }

    /// The changes that a reload tells of.
    pub(crate) async fn reload(&self) -> Vec<String> {
        changes(&self.plimsoll).await
    }

    pub(crate) async fn refusal(&self) -> String {
        self.plimsoll.reload().await.unwrap_err().to_string()
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        let names = self.adapters.names();
        names.into_iter().map(plimsoll::Name::as_str).collect()
    }

    pub(crate) fn adapter(&self, name: &str) -> Adapter<String, String> {
        self.adapters.get(name).unwrap()
    }

    pub(crate) async fn greet(&self, name: &str) -> String {
        self.adapters.call(name, "x".into()).await.unwrap()
    }
}

pub(crate) async fn changes(plimsoll: &Plimsoll) -> Vec<String> {
    let reload = plimsoll.reload().await.unwrap();
    reload.changes.iter().map(short).collect()
}

fn short(change: &plimsoll::config_files::Change) -> String {
    let side = |value: &Option<plimsoll::settings::Value>| {
        value
            .as_ref()
            .map_or_else(|| "-".to_owned(), ToString::to_string)
    };
    let (old, new) = (side(&change.old), side(&change.new));
    let later = if change.applied { "" } else { " later" };
    format!("{} {old} -> {new}{later}", change.key)
}

/// What is shown of a setting, and where that comes from: the name of a variable, `code`, or the
/// name of a file with the line.
pub(crate) fn shown(values: &[Effective], key: &str) -> Option<(String, String)> {
    let value = values.iter().find(|value| value.key == key)?;
    let source = match &value.source {
        Source::File { file, line, .. } => {
            let name = Path::new(&**file).file_name().unwrap();
            format!("{}:{line}", name.to_string_lossy())
        }
        source => source.to_string(),
    };
    Some((value.value.to_string(), source))
}

pub(crate) fn greeter(name: &str) -> Adapter<String, String> {
    let greet = |name: String| async move { Ok::<_, BoxError>(format!("hello {name}")) };
    Adapter::builder(name).function(greet).unwrap()
}

pub(crate) fn registered(plimsoll: &Plimsoll) -> Vec<&'static str> {
    let holdings = plimsoll.registry().snapshot();
    let mut names: Vec<_> = holdings.iter().map(|held| held.name.as_str()).collect();
    // Every service has one.
    names.retain(|name| *name != "heavy-requests");
    names.sort_unstable();
    names
}

pub(crate) fn reason(error: &AdapterError) -> RejectReason {
    Rejected::find(error).unwrap().reason()
}

/// Waits until something is so. On the real clock, since nobody tells.
pub(crate) async fn until(what: impl Fn() -> bool) {
    let there = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    let longest = Duration::from_secs(60);
    tokio::time::timeout(longest, there)
        .await
        .expect("it comes in time");
}
