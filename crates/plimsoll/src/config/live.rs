//! A configuration while the service runs: who goes by it, and what becomes of a change.

use super::{
    AdapterSettings, AdapterSpec, Config, ConfigFiles, FaultTolerance,
    files::{ADAPTERS, GENERAL, Sources},
};
use plimsoll_adapter::{AdapterConfig, AdapterControl};
use plimsoll_config::{
    Change, Configuration, Effective, Listed, LoadError, Reading, Reload, Source, watch::Watcher,
};
use plimsoll_core::{Lifecycle, Problems, settings::Value};
#[cfg(feature = "http")]
use plimsoll_http::EdgeLayer;
#[cfg(feature = "http")]
use plimsoll_memory::LoadLine;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::{Deref, DerefMut},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
};
use tokio::task::spawn_blocking;
use tokio_util::sync::DropGuard;

/// The configuration of a service, whatever settings its adapters have.
#[derive(Clone)]
pub(crate) struct Handle(pub(super) Arc<dyn Reloads>);

pub(crate) trait Reloads: Configuration {
    /// Has an adapter that was made in code go by the files, now and after each change.
    fn add(&self, adapter: AdapterControl) -> Result<(), LoadError>;

    /// Reads the files again if they are others than before.
    fn reload_if_changed(&self);

    /// Whether this thread may begin to change the configuration, and is not about it.
    fn may_change(&self) -> Result<(), LoadError>;

    /// The files to watch.
    fn watched(&self) -> Vec<PathBuf>;

    /// Has the edge and the monitor go by what the files say, after each change.
    #[cfg(feature = "http")]
    fn set_edge(&self, edge: EdgeLayer, line: LoadLine);

    /// Says which adapters the files and variables name that are not there.
    #[cfg(feature = "http")]
    fn warn_of_strangers(&self);
}

impl Handle {
    /// That of a service without files.
    pub(crate) fn of_code(code: Config) -> Self {
        Self(Arc::new(Live::<()>::without_files(code)))
    }

    #[cfg(feature = "admin")]
    pub(crate) fn configuration(&self) -> Arc<dyn Configuration> {
        self.0.clone()
    }

    /// Whether it is this very configuration.
    pub(super) fn is<X>(&self, live: &Arc<Live<X>>) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.0), Arc::as_ptr(live))
    }
}

impl Deref for Handle {
    type Target = dyn Reloads;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// An adapter that is to be, and where the files say so.
pub(crate) struct Placed<X> {
    pub(crate) spec: AdapterSpec<X>,
    pub(crate) source: Source,
}

/// Adapters that come and go with what the files say.
pub(crate) trait Fitted<X>: Send {
    /// Makes what has to be made so that the adapters are these, and returns what is left to do.
    /// Problems go to the reading. What was made is undone if what is left to do is dropped.
    fn prepare<'a>(
        &'a mut self,
        placed: &[Placed<X>],
        general: &FaultTolerance,
        reading: &mut Reading,
    ) -> Box<dyn FnOnce() + 'a>;

    /// Whether the service is gone whose adapters they are.
    fn is_over(&self) -> bool;
}

/// Reads the files again whenever they have changed, until the service ends or what this returns
/// is dropped.
pub(crate) fn watch(live: &Handle, lifecycle: &Lifecycle) -> DropGuard {
    let ended = lifecycle.cancellation_token().child_token();
    let guard = ended.clone().drop_guard();
    let files = live.watched();
    if files.is_empty() {
        return guard;
    }
    // So that it is there before the first reload.
    #[cfg(feature = "metrics")]
    metrics::gauge!(LAST_RELOAD_OK).set(1.0);
    let live = live.clone();
    let watching = async move {
        let mut watcher = Watcher::new(files.iter().map(PathBuf::as_path));
        loop {
            // The first time it is for what has changed since the files were loaded, and no sooner
            // than after a quiet time either: somebody may be writing them.
            watcher.changed().await;
            let live = live.clone();
            // Adapters that are made may block.
            let reloaded = spawn_blocking(move || live.reload_if_changed()).await;
            if let Err(error) = reloaded {
                tracing::error!(%error, "reading the configuration ended early");
            }
        }
    };
    let task = async move {
        // A reload that is under way goes on, since its thread cannot be ended.
        let _ = ended.run_until_cancelled(watching).await;
    };
    if let Err(error) = lifecycle.spawn("config-watch", task) {
        tracing::error!(%error, "the configuration is not watched");
    }
    guard
}

#[cfg(feature = "metrics")]
const LAST_RELOAD_OK: &str = "plimsoll_config_last_reload_ok";

/// See [`Handle`].
pub(crate) struct Live<X> {
    files: ConfigFiles,
    /// What the code says.
    code: Config,
    /// Held while the configuration is changed, which runs what others wrote: `make`, observers
    /// of breakers, the drop of services.
    state: Mutex<State<X>>,
    /// Who holds it. Taken for a moment, under `state` or alone.
    changing: Mutex<Option<ThreadId>>,
    /// Taken for a moment, under `shown` or alone.
    #[cfg(feature = "http")]
    edge: Mutex<Option<(EdgeLayer, LoadLine)>>,
    /// Never held for long.
    shown: Mutex<Shown>,
}

struct State<X> {
    sources: Sources,
    coded: Vec<Coded>,
    fitted: Option<Box<dyn Fitted<X>>>,
    /// The texts of files that were read and could not be used, so that they are told of once.
    refused: Option<[String; 2]>,
}

/// The state, in the hands of one thread.
struct Turn<'a, X> {
    state: MutexGuard<'a, State<X>>,
    changing: &'a Mutex<Option<ThreadId>>,
}

/// An adapter that was made in code.
struct Coded {
    adapter: AdapterControl,
    /// What the code says of it.
    config: AdapterConfig,
}

struct Shown {
    /// What the service was started with, as far as that does not change.
    config: Config,
    values: Arc<[Effective]>,
    problem: Option<LoadError>,
}

/// Everything that was read.
struct Read<X> {
    reading: Reading,
    config: Config,
    /// Adapters that are to be made.
    placed: Vec<Placed<X>>,
    /// What adapters that were made in code are to be like.
    told: Vec<(AdapterControl, AdapterConfig)>,
}

/// The group of settings of what requests may hold.
const MEMORY: &str = "memory";

/// Whether a setting counts while the service runs.
fn is_live(key: &str) -> bool {
    let group = key.split_once('.').map_or(key, |(group, _)| group);
    matches!(group, ADAPTERS | GENERAL | MEMORY)
}

impl<X: AdapterSettings> Live<X> {
    pub(super) fn load(files: ConfigFiles, code: Config, strict: bool) -> Result<Self, LoadError> {
        let sources = files.read()?;
        let Read {
            mut reading,
            config,
            placed,
            ..
        } = read::<X>(&code, &sources, &[]);
        if strict {
            let names: Vec<_> = placed.iter().map(|placed| &*placed.spec.name).collect();
            reading.other_items(ADAPTERS, &names, &sources.environment);
        }
        let values = reading.finish()?;
        Ok(Self::new(files, code, sources, config, values))
    }

    fn without_files(code: Config) -> Self {
        let sources = Sources::empty();
        let Read {
            reading, config, ..
        } = read::<X>(&code, &sources, &[]);
        // Whoever starts the service checks its settings and says what is wrong with them.
        let values = reading.finish().unwrap_or_default();
        Self::new(ConfigFiles::none(), code, sources, config, values)
    }

    fn new(
        files: ConfigFiles,
        code: Config,
        sources: Sources,
        config: Config,
        values: Vec<Effective>,
    ) -> Self {
        Self {
            files,
            code,
            changing: Mutex::new(None),
            state: Mutex::new(State {
                sources,
                coded: Vec::new(),
                fitted: None,
                refused: None,
            }),
            #[cfg(feature = "http")]
            edge: Mutex::default(),
            shown: Mutex::new(Shown {
                config,
                values: values.into(),
                problem: None,
            }),
        }
    }

    pub(super) fn config(&self) -> Config {
        lock(&self.shown).config.clone()
    }

    /// Has adapters come and go with what the files say, from now on.
    pub(super) fn fit(&self, mut fitted: Box<dyn Fitted<X>>) -> Result<(), LoadError> {
        let mut state = self.turn()?;
        let before = state.fitted.take_if(|fitted| fitted.is_over());
        // Its adapters may go with it.
        drop(before);
        if state.fitted.is_some() {
            let what = "the adapters of this configuration were made: call `adapters` once";
            return Err(LoadError::new(Source::Code, "", what));
        }
        let read = read(&self.code, &state.sources, &state.coded);
        let (_, values) = apply(read, Some(&mut *fitted))?;
        state.fitted = Some(fitted);
        let mut shown = lock(&self.shown);
        shown.values = counting(&shown.values, values).into();
        Ok(())
    }

    /// Has the state in hand until what this returns is dropped.
    fn turn(&self) -> Result<Turn<'_, X>, LoadError> {
        self.may_change()?;
        let state = lock(&self.state);
        *lock(&self.changing) = Some(thread::current().id());
        Ok(Turn {
            state,
            changing: &self.changing,
        })
    }

    fn change(&self, state: &mut State<X>, sources: Sources) -> Result<Reload, LoadError> {
        state.coded.retain(|coded| coded.adapter.is_alive());
        let mut read = read(&self.code, &sources, &state.coded);
        if state.fitted.is_some() {
            let names = read.names();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let environment = &sources.environment;
            read.reading.other_items(ADAPTERS, &names, environment);
        }
        let (config, mut values) = apply(read, state.fitted.as_deref_mut())?;
        state.sources = sources;
        if let Some(strangers) = state.strangers() {
            let mut shown = lock(&self.shown);
            shown.values = without(&strangers.names, &shown.values);
            values = without(&strangers.names, &values).to_vec();
            tracing::warn!("{}", strangers.error);
        }
        let mut shown = lock(&self.shown);
        shown.config.fault_tolerance = config.fault_tolerance;
        #[cfg(feature = "http")]
        {
            shown.config.memory = config.memory;
            if let Some((edge, line)) = lock(&self.edge).as_ref() {
                let memory = &shown.config.memory;
                let changed = edge.reconfigure_memory(memory);
                let changed = changed.and_then(|()| line.reconfigure(memory));
                // Whoever read it has checked it.
                if let Err(error) = changed {
                    tracing::error!(%error, "what may be held is not changed");
                }
            }
        }
        let mut reload = Reload::between(&shown.values, &values, is_live);
        let comings = comings_and_goings(&shown.values, &values);
        reload.changes.splice(0..0, comings);
        shown.values = counting(&shown.values, values).into();
        Ok(reload)
    }

    /// Reads everything again and does what it says; nothing if `is_told` says so.
    ///
    /// The files are read in turn as well, so that of two who do it at once the last one read last.
    fn read_again(
        &self,
        is_told: impl FnOnce(&State<X>, &Result<Sources, LoadError>) -> bool,
    ) -> Result<Reload, LoadError> {
        let mut state = self.turn()?;
        let sources = self.files.read();
        let sources = sources.and_then(|sources| sources.after(&state.sources, &self.files));
        if is_told(&state, &sources) {
            return Ok(Reload::default());
        }
        let texts = sources.as_ref().ok().map(Sources::texts);
        let result = sources.and_then(|sources| self.change(&mut state, sources));
        state.refused = texts.filter(|_| result.is_err());
        lock(&self.shown).problem = result.as_ref().err().cloned();
        tell(&result);
        result
    }
}

impl<X> State<X> {
    /// What the files and variables name that is not there, where adapters are made in code.
    fn strangers(&self) -> Option<Strangers> {
        if self.fitted.is_some() {
            return None;
        }
        let mut reading = Reading::new();
        let coded = self.coded.iter().map(|coded| coded.adapter.name().as_str());
        let coded: Vec<_> = coded.collect();
        reading.other_items(ADAPTERS, &coded, &self.sources.environment);
        let mut names = Vec::new();
        for item in reading.items(ADAPTERS, &self.sources.adapters) {
            if !coded.contains(&item.name()) {
                let key = format!("{ADAPTERS}.{}", item.name());
                reading.problem(item.source().clone(), key, "is no adapter of this program");
                names.push(item.name().to_owned());
            }
        }
        let error = reading.finish().err()?;
        Some(Strangers { names, error })
    }
}

/// Adapters that are listed, and are none.
struct Strangers {
    names: Vec<String>,
    error: LoadError,
}

/// All settings but those of adapters that are none.
fn without(names: &[String], values: &[Effective]) -> Arc<[Effective]> {
    let is_there = |value: &&Effective| {
        adapter_of(&value.key).is_none_or(|name| !names.iter().any(|stranger| stranger == name))
    };
    values.iter().filter(is_there).cloned().collect()
}

/// What counts after a change: of settings that a restart changes, those from before.
fn counting(old: &[Effective], new: Vec<Effective>) -> Vec<Effective> {
    let (live, fixed): (Vec<_>, Vec<_>) = new.into_iter().partition(|value| is_live(&value.key));
    let fixed: HashMap<_, _> = fixed.iter().map(|value| (&*value.key, value)).collect();
    let kept = old.iter().filter(|old| !is_live(&old.key));
    let kept = kept.map(|old| match fixed.get(&*old.key) {
        // It may stand elsewhere.
        Some(new) if new.value == old.value => (*new).clone(),
        _ => old.clone(),
    });
    kept.chain(live).collect()
}

impl<X> Deref for Turn<'_, X> {
    type Target = State<X>;

    fn deref(&self) -> &Self::Target {
        &self.state
    }
}

impl<X> DerefMut for Turn<'_, X> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.state
    }
}

impl<X> Drop for Turn<'_, X> {
    fn drop(&mut self) {
        *lock(self.changing) = None;
    }
}

impl<X> Live<X> {
    pub(super) fn shown_values(&self) -> Arc<[Effective]> {
        lock(&self.shown).values.clone()
    }
}

impl<X: AdapterSettings> Configuration for Live<X> {
    fn values(&self) -> Arc<[Effective]> {
        self.shown_values()
    }

    fn problem(&self) -> Option<LoadError> {
        lock(&self.shown).problem.clone()
    }

    fn reload(&self) -> Result<Reload, LoadError> {
        self.read_again(|_, _| false)
    }
}

impl<X: AdapterSettings> Reloads for Live<X> {
    #[cfg(feature = "http")]
    fn set_edge(&self, edge: EdgeLayer, line: LoadLine) {
        *lock(&self.edge) = Some((edge, line));
    }

    fn add(&self, adapter: AdapterControl) -> Result<(), LoadError> {
        let Some(config) = adapter.config() else {
            return Ok(());
        };
        let mut state = self.turn()?;
        state.coded.retain(|coded| coded.adapter.is_alive());
        let coded = Coded { adapter, config };
        let mut reading = Reading::new();
        let sources = &state.sources;
        // For where the settings come from that all adapters have in common.
        self.code.clone().read(&mut reading, sources);
        let items = reading.items(ADAPTERS, &sources.adapters);
        let name = coded.adapter.name();
        let item = items.into_iter().find(|item| item.name() == name.as_str());
        let item = item.unwrap_or_else(|| Listed::in_code(name.as_str()));
        let config = coded.read::<X>(&item, &mut reading, sources);
        let values = reading.finish()?;
        tell_adapter(&coded.adapter, config);
        let is_its = |value: &Effective| adapter_of(&value.key) == Some(name.as_str());
        let mut shown = lock(&self.shown);
        let others = shown.values.iter().filter(|value| !is_its(value));
        let all = others.cloned().chain(values.into_iter().filter(is_its));
        shown.values = all.collect();
        drop(shown);
        state.coded.push(coded);
        Ok(())
    }

    fn reload_if_changed(&self) {
        // What came of it is told to the log.
        let _ = self.read_again(|state, sources| {
            let problem = self.problem();
            match (sources, &state.refused) {
                (Ok(sources), Some(refused)) => sources.texts() == *refused,
                (Ok(sources), None) => problem.is_none() && sources.is_same(&state.sources),
                (Err(error), _) => problem.as_ref() == Some(error),
            }
        });
    }

    fn may_change(&self) -> Result<(), LoadError> {
        if *lock(&self.changing) != Some(thread::current().id()) {
            return Ok(());
        }
        let what = "the configuration is being changed by whoever asks for another change of it: \
                    do so once `make` has returned, and not in an observer of a circuit breaker";
        Err(LoadError::new(Source::Code, "", what))
    }

    fn watched(&self) -> Vec<PathBuf> {
        match self.files.watches() {
            true => self.files.paths().map(PathBuf::from).to_vec(),
            false => Vec::new(),
        }
    }

    #[cfg(feature = "http")]
    fn warn_of_strangers(&self) {
        let strangers = self.turn().ok().and_then(|state| state.strangers());
        if let Some(strangers) = strangers {
            let mut shown = lock(&self.shown);
            shown.values = without(&strangers.names, &shown.values);
            tracing::warn!("{}", strangers.error);
        }
    }
}

impl Config {
    /// Has it say what the files and variables do.
    fn read(&mut self, reading: &mut Reading, sources: &Sources) {
        reading.root(self, &[ADAPTERS], &sources.config, &sources.environment);
    }
}

impl Coded {
    /// What it is to be like by what the files and variables say of it, and of all adapters; and
    /// what is wrong with that.
    fn read<X: AdapterSettings>(
        &self,
        item: &Listed<'_>,
        reading: &mut Reading,
        sources: &Sources,
    ) -> AdapterConfig {
        let Sources {
            config: file,
            environment,
            ..
        } = sources;
        let mut config = self.config.clone();
        let others = &["record_threshold"];
        reading.overlay(GENERAL, &mut config, others, file, environment);
        let mut spec = AdapterSpec::<X>::new(item.name(), config);
        reading.item(ADAPTERS, item, GENERAL, &mut spec, environment);
        let path = format!("{ADAPTERS}.{}", item.name());
        if !spec.enabled {
            let mut problems = Problems::default();
            let expected = String::from("true: the program makes this adapter itself");
            problems.add("enabled", String::from("false"), expected);
            if let Err(error) = problems.into_result() {
                reading.refused(&path, "", &error, item.source());
            }
        }
        if let Err(error) = self.adapter.check(&spec.config) {
            reading.refused(&format!("{path}.{GENERAL}"), GENERAL, &error, item.source());
        }
        spec.config
    }
}

pub(crate) fn tell_adapter(adapter: &AdapterControl, config: AdapterConfig) {
    // What changed nothing is not told: it would only cost a look at every limit.
    if adapter.config().as_ref() == Some(&config) {
        return;
    }
    if let Err(error) = adapter.reconfigure(config) {
        let adapter = adapter.name();
        // Not so: it was checked.
        tracing::error!(%adapter, %error, "the adapter stays as it was");
    }
}

fn read<X: AdapterSettings>(code: &Config, sources: &Sources, coded: &[Coded]) -> Read<X> {
    let mut reading = Reading::new();
    let mut config = code.clone();
    config.read(&mut reading, sources);
    if let Some(source) = sources.config.place_of(ADAPTERS) {
        let what = "belong into adapters.yaml, next to this file";
        reading.problem(source, ADAPTERS, what);
    }
    let coded_by_name: HashMap<_, _> = coded
        .iter()
        .map(|coded| (coded.adapter.name(), coded))
        .collect();
    let items = reading.items(ADAPTERS, &sources.adapters);
    let mut placed = Vec::new();
    let mut told = HashMap::new();
    for item in &items {
        if let Some(coded) = coded_by_name.get(item.name()) {
            let config = coded.read::<X>(item, &mut reading, sources);
            told.insert(coded.adapter.name(), config);
            continue;
        }
        let general = config.fault_tolerance.adapter.clone();
        let mut spec = AdapterSpec::new(item.name(), general);
        reading.item(ADAPTERS, item, GENERAL, &mut spec, &sources.environment);
        placed.push(Placed {
            spec,
            source: item.source().clone(),
        });
    }
    let told = coded.iter().map(|coded| {
        let name = coded.adapter.name();
        let config = told.remove(&name).unwrap_or_else(|| {
            let item = Listed::in_code(name.as_str());
            coded.read::<X>(&item, &mut reading, sources)
        });
        (coded.adapter.clone(), config)
    });
    let told = told.collect();
    Read {
        reading,
        config,
        placed,
        told,
    }
}

impl<X> Read<X> {
    /// The names of all adapters.
    fn names(&self) -> Vec<String> {
        let placed = self.placed.iter().map(|placed| placed.spec.name.clone());
        let told = self
            .told
            .iter()
            .map(|(adapter, _)| adapter.name().to_string());
        placed.chain(told).collect()
    }
}

/// Does what was read, if nothing is wrong with it.
fn apply<X>(
    read: Read<X>,
    fitted: Option<&mut (dyn Fitted<X> + 'static)>,
) -> Result<(Config, Vec<Effective>), LoadError> {
    let Read {
        mut reading,
        config,
        placed,
        told,
    } = read;
    let general = &config.fault_tolerance;
    let fit = fitted.map(|fitted| fitted.prepare(&placed, general, &mut reading));
    let values = reading.finish()?;
    for (adapter, config) in told {
        tell_adapter(&adapter, config);
    }
    if let Some(fit) = fit {
        fit();
    }
    Ok((config, values))
}

/// Adapters that are there now and were not, and the other way round.
fn comings_and_goings(old: &[Effective], new: &[Effective]) -> Vec<Change> {
    let (old, new) = (adapters_of(old), adapters_of(new));
    let there = Value::Word("there");
    let come = new.iter().filter(|(name, _)| !old.contains_key(*name));
    let come = come.map(|(name, source)| (name, None, Some(there.clone()), source));
    let gone = old.iter().filter(|(name, _)| !new.contains_key(*name));
    let gone = gone.map(|(name, source)| (name, Some(there.clone()), None, source));
    let changes = come.chain(gone).map(|(name, old, new, source)| {
        let key = format!("{ADAPTERS}.{name}");
        Change::new(key, old, new, (*source).clone(), true)
    });
    changes.collect()
}

fn adapters_of(values: &[Effective]) -> BTreeMap<&str, &Source> {
    let mut adapters = BTreeMap::new();
    for value in values {
        if let Some(name) = adapter_of(&value.key) {
            // The first that was given tells where to look.
            let source = adapters.entry(name).or_insert(&value.source);
            if **source == Source::Code {
                *source = &value.source;
            }
        }
    }
    adapters
}

/// The adapter whose setting it is.
fn adapter_of(key: &str) -> Option<&str> {
    let rest = key.strip_prefix(ADAPTERS)?.strip_prefix('.')?;
    rest.split_once('.').map(|(name, _)| name)
}

/// Says what came of a reload, for whoever reads the log and the metrics.
fn tell(result: &Result<Reload, LoadError>) {
    match result {
        Ok(Reload { changes, .. }) => {
            for change in changes {
                log(change);
            }
            tracing::info!(changes = changes.len(), "configuration read");
        }
        Err(error) => tracing::error!("configuration refused, nothing was changed: {error}"),
    }
    #[cfg(feature = "metrics")]
    {
        let (label, ok) = match result {
            Ok(_) => ("ok", 1.0),
            Err(_) => ("refused", 0.0),
        };
        metrics::counter!("plimsoll_config_reloads_total", "result" => label).increment(1);
        metrics::gauge!(LAST_RELOAD_OK).set(ok);
    }
}

fn log(change: &Change) {
    let Change {
        key,
        old,
        new,
        source,
        applied,
        ..
    } = change;
    let old = old.as_ref().map(tracing::field::display);
    let new = new.as_ref().map(tracing::field::display);
    match applied {
        true => tracing::info!(key, old, new, %source, "setting changed"),
        false => tracing::warn!(key, old, new, %source, "setting changes after a restart"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<X> fmt::Debug for Live<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}
