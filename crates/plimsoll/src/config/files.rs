use super::{
    AdapterSettings, Config,
    live::{Fitted, Handle, Live},
};
use plimsoll_config::{Effective, Environment, File, LoadError, Source, to_yaml};
use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The group of settings that adapters have in common, and the key of it in `adapters.yaml`.
pub(super) const GENERAL: &str = "fault_tolerance";
/// The list in `adapters.yaml`.
pub(super) const ADAPTERS: &str = "adapters";

/// Where the settings of a service are: the files `config.yaml` and `adapters.yaml`, and variables
/// of the environment.
///
/// # Precedence
///
/// What the code says counts least, then come:
///
/// 1. `config.yaml`,
/// 2. variables such as `PLIMSOLL__SERVER__MAX_CONNECTIONS`,
/// 3. for one adapter, its item in `adapters.yaml`,
/// 4. for one adapter, variables such as `PLIMSOLL__ADAPTERS__QA_SQL__FAULT_TOLERANCE__TIMEOUT`.
///
/// What is said of one adapter counts more than what is said of all.
#[derive(Clone, Debug)]
#[must_use = "files are not read before they are loaded"]
pub struct ConfigFiles {
    config: PathBuf,
    adapters: PathBuf,
    variables: Variables,
    watch: bool,
}

#[derive(Clone)]
enum Variables {
    /// Those of the process with this prefix.
    OfProcess(String),
    Given(String, Arc<[(OsString, OsString)]>),
    None,
}

/// All files and variables, read once.
pub(super) struct Sources {
    pub(super) config: File,
    pub(super) adapters: File,
    pub(super) environment: Environment,
}

impl Sources {
    pub(super) fn empty() -> Self {
        Self {
            config: File::empty(),
            adapters: File::empty(),
            environment: Environment::empty(),
        }
    }

    pub(super) fn texts(&self) -> [String; 2] {
        [&self.config, &self.adapters].map(|file| file.text().to_owned())
    }

    /// Refuses that a file is gone which had settings before. An empty one says that there are none;
    /// one that is gone may be on its way from an editor, or its volume is.
    pub(super) fn after(self, before: &Self, files: &ConfigFiles) -> Result<Self, LoadError> {
        let files = files.paths().into_iter();
        let pairs = [
            (&before.config, &self.config),
            (&before.adapters, &self.adapters),
        ];
        let gone = files.zip(pairs).filter(|(path, (old, new))| {
            !old.text().is_empty() && new.text().is_empty() && !path.exists()
        });
        let gone = gone.map(|(path, _)| {
            let file = path.to_string_lossy().into();
            let place = Source::File {
                file,
                line: 0,
                column: 0,
            };
            let what = "is gone: put it back, or leave an empty file for no settings";
            LoadError::new(place, "", what)
        });
        match gone.reduce(LoadError::and) {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }

    /// Whether the files have the same texts.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.config.text() == other.config.text() && self.adapters.text() == other.adapters.text()
    }
}

impl ConfigFiles {
    /// `config.yaml` and `adapters.yaml` of a folder; one of them may be missing.
    pub fn in_folder(folder: impl AsRef<Path>) -> Self {
        let folder = folder.as_ref();
        Self {
            config: folder.join("config.yaml"),
            adapters: folder.join("adapters.yaml"),
            variables: Variables::OfProcess(String::from("PLIMSOLL")),
            watch: true,
        }
    }

    /// No files, only variables.
    pub(crate) fn none() -> Self {
        Self {
            config: PathBuf::new(),
            adapters: PathBuf::new(),
            variables: Variables::None,
            watch: false,
        }
    }

    /// Sets what the names of variables begin with, before two underscores. `PLIMSOLL` by default.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.variables = Variables::OfProcess(prefix.into());
        self
    }

    /// Reads these variables instead of those of the process: their names and values.
    pub fn variables(
        mut self,
        prefix: impl Into<String>,
        variables: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Self {
        let variables = variables.into_iter();
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        self.variables = Variables::Given(prefix.into(), variables.collect());
        self
    }

    /// Reads no variables.
    pub fn no_variables(mut self) -> Self {
        self.variables = Variables::None;
        self
    }

    /// Does not read the files again when they change, but only when it is asked to.
    pub fn no_watch(mut self) -> Self {
        self.watch = false;
        self
    }

    /// Reads everything over what the code says, for a service whose adapters are made in code.
    ///
    /// # Errors
    ///
    /// Tells everything that is wrong with the files and variables, each with its place.
    pub fn load(self, code: Config) -> Result<Loaded<()>, LoadError> {
        Ok(Loaded {
            live: Arc::new(Live::load(self, code, false)?),
        })
    }

    /// Reads everything over what the code says, for a service whose adapters are those that
    /// `adapters.yaml` lists. `X` are the settings of an adapter that are your own, next to its
    /// name: what it is, and where.
    ///
    /// # Errors
    ///
    /// Tells everything that is wrong with the files and variables, each with its place.
    pub fn load_with<X: AdapterSettings>(self, code: Config) -> Result<Loaded<X>, LoadError> {
        Ok(Loaded {
            live: Arc::new(Live::load(self, code, true)?),
        })
    }

    pub(super) const fn watches(&self) -> bool {
        self.watch
    }

    pub(super) fn paths(&self) -> [&Path; 2] {
        [&self.config, &self.adapters]
    }

    /// Whether there is a file.
    fn is_any(&self) -> bool {
        self.paths().iter().any(|path| path.exists())
    }

    pub(super) fn read(&self) -> Result<Sources, LoadError> {
        let paths = self.paths();
        if paths.iter().all(|path| !path.as_os_str().is_empty()) && !self.is_any() {
            let [config, adapters] = paths.map(Path::display);
            let what = format!("there is neither {config} nor {adapters}: name another folder");
            return Err(LoadError::new(Source::Code, "", what));
        }
        let file = |path: &Path| match path.as_os_str().is_empty() {
            true => Ok(File::empty()),
            false => File::read_if_present(path),
        };
        let environment = match &self.variables {
            Variables::OfProcess(prefix) => Environment::read(prefix),
            Variables::Given(prefix, variables) => {
                Environment::from_variables(prefix, variables.iter().cloned())
            }
            Variables::None => Ok(Environment::empty()),
        };
        match (file(&self.config), file(&self.adapters), environment) {
            (Ok(config), Ok(adapters), Ok(environment)) => Ok(Sources {
                config,
                adapters,
                environment,
            }),
            (config, adapters, environment) => {
                let errors = [config.err(), adapters.err(), environment.err()];
                let all = errors.into_iter().flatten().reduce(LoadError::and);
                Err(all.expect("one of them is an error in this arm"))
            }
        }
    }
}

impl Config {
    /// Reads `config.yaml` and `adapters.yaml` of a folder, and variables that begin with
    /// `PLIMSOLL__`, over the defaults. For more, see [`ConfigFiles`].
    ///
    /// What is set on it afterwards counts more than the files, but is not shown as what counts:
    /// to have the code say something before the files do, use [`ConfigFiles::load`].
    ///
    /// # Errors
    ///
    /// Tells everything that is wrong with the files and variables, each with its place.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self, LoadError> {
        let loaded = ConfigFiles::in_folder(folder).load(Self::new())?;
        Ok(loaded.config())
    }
}

/// The settings of a service as they were loaded.
#[derive(Debug)]
pub struct Loaded<X> {
    pub(super) live: Arc<Live<X>>,
}

impl<X: AdapterSettings> Loaded<X> {
    /// The settings to start the service with.
    pub fn config(&self) -> Config {
        let mut config = self.live.config();
        config.live = Some(Handle(self.live.clone()));
        config
    }

    /// Has adapters of the service that goes by `live` come and go with what the files say.
    pub(crate) fn fit(&self, live: &Handle, fitted: Box<dyn Fitted<X>>) -> Result<(), LoadError> {
        if !live.is(&self.live) {
            let what = "the service was started with other settings: start it with those of \
                        `Loaded::config`";
            return Err(LoadError::new(Source::Code, "", what));
        }
        self.live.fit(fitted)
    }

    /// Every setting with its value and where that came from.
    #[must_use]
    pub fn values(&self) -> Arc<[Effective]> {
        self.live.shown_values()
    }

    /// Every setting as YAML, with where it came from behind it. Secrets are not shown.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        to_yaml(&self.values(), Some(ADAPTERS))
    }
}

// What a variable says may be a secret.
impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfProcess(prefix) => f.debug_tuple("OfProcess").field(prefix).finish(),
            Self::Given(prefix, _) => f.debug_tuple("Given").field(prefix).finish(),
            Self::None => f.write_str("None"),
        }
    }
}

impl Default for ConfigFiles {
    /// Those of the current folder.
    fn default() -> Self {
        Self::in_folder("")
    }
}
