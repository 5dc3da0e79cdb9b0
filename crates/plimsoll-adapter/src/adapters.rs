use crate::{
    Adapter, AdapterError, AdapterErrorKind, Answers, ConfigError, MemorySummary, RecordAlert,
    RecordThreshold,
    adapter::Shared,
    join::{Asked, join},
    records::Records,
};
use plimsoll_core::{Name, Removed};
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

/// Up to so many names are compared with each other; more are looked up.
const FEW_NAMES: usize = 32;

/// Adapters by name, called one, some or all at once.
///
/// Cloning it gives another handle to the same adapters. They can be added, removed and replaced at
/// any time; calls in flight finish on the adapter they began with.
///
/// # Calls in parallel
///
/// They run inside the task of the caller, none is spawned: dropping the future cancels them all.
/// One that is slow, fails or panics costs the others nothing. One that *blocks its thread* does,
/// as it would any other future of the task.
pub struct Adapters<Req, Res> {
    set: Arc<Set<Req, Res>>,
}

struct Set<Req, Res> {
    /// Never changed but replaced, so that who reads it holds no lock.
    table: RwLock<Arc<Table<Req, Res>>>,
    /// Held by who replaces the table.
    changes: Mutex<()>,
    records: Arc<Records>,
    #[cfg(feature = "metrics")]
    published: crate::metrics::Published,
}

struct Table<Req, Res> {
    /// In the order they were added.
    adapters: Vec<Adapter<Req, Res>>,
    index: HashMap<Name, usize>,
}

/// Another adapter has this name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DuplicateAdapter(Name);

/// No adapter has this name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnknownAdapter(String);

impl<Req, Res> Adapters<Req, Res> {
    /// Collects adapters, in this order.
    ///
    /// # Errors
    ///
    /// When two have the same name.
    pub fn new(
        adapters: impl IntoIterator<Item = Adapter<Req, Res>>,
    ) -> Result<Self, DuplicateAdapter> {
        let all = Self::default();
        all.set(adapters.into_iter().collect())?;
        Ok(all)
    }

    /// Adds an adapter. O(n).
    ///
    /// # Errors
    ///
    /// When another has its name.
    pub fn add(&self, adapter: Adapter<Req, Res>) -> Result<(), DuplicateAdapter> {
        let name = adapter.name();
        self.set.change(|all| {
            if position(all, name.as_str()).is_some() {
                return Err(DuplicateAdapter(name));
            }
            all.push(adapter);
            Ok(())
        })
    }

    /// Removes an adapter and gives it back, if there is one of that name. Its calls in flight
    /// finish. O(n).
    #[allow(clippy::must_use_candidate, reason = "most want the effect alone")]
    pub fn remove(&self, name: &str) -> Option<Adapter<Req, Res>> {
        self.set
            .change(|all| Some(all.remove(position(all, name)?)))
    }

    /// Puts an adapter in the place of the one of its name, which it gives back; adds it if there
    /// is none. Calls in flight finish on the old one. O(n).
    #[allow(clippy::must_use_candidate, reason = "most want the effect alone")]
    pub fn replace(&self, adapter: Adapter<Req, Res>) -> Option<Adapter<Req, Res>> {
        self.set
            .change(|all| match position(all, adapter.name().as_str()) {
                Some(place) => Some(std::mem::replace(&mut all[place], adapter)),
                None => {
                    all.push(adapter);
                    None
                }
            })
    }

    /// Puts these adapters, in this order, in the place of all there are, at once: whoever calls
    /// several meets either those before or these. Calls in flight finish on the adapter they began
    /// with. O(n).
    ///
    /// # Errors
    ///
    /// When two have the same name. Nothing was changed then.
    pub fn set(&self, adapters: Vec<Adapter<Req, Res>>) -> Result<(), DuplicateAdapter> {
        let mut names = HashSet::with_capacity(adapters.len());
        let mut list = adapters.iter();
        if let Some(twice) = list.find(|adapter| !names.insert(adapter.name())) {
            return Err(DuplicateAdapter(twice.name()));
        }
        self.set.change(|all| *all = adapters);
        Ok(())
    }

    /// The adapter of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Adapter<Req, Res>> {
        self.set.table().get(name).cloned()
    }

    /// All adapters, in the order they were added.
    #[must_use]
    pub fn list(&self) -> Vec<Adapter<Req, Res>> {
        self.set.table().adapters.clone()
    }

    /// All names, in the order they were added.
    #[must_use]
    pub fn names(&self) -> Vec<Name> {
        let table = self.set.table();
        table.adapters.iter().map(Adapter::name).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.set.table().adapters.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls one adapter.
    ///
    /// # Errors
    ///
    /// Says why there is no answer.
    ///
    /// # Cancel safety
    ///
    /// As that of [`Adapter::call`].
    pub async fn call(&self, name: &str, request: Req) -> Result<Res, AdapterError> {
        // In a statement of its own, so that the table is not kept during the call.
        let call = self.get(name).map(|adapter| adapter.call(request));
        match call {
            Some(call) => call.await,
            None => Err(unknown(name)),
        }
    }

    /// Drops records that are too old from the history of one adapter, now.
    ///
    /// # Errors
    ///
    /// When there is no adapter of that name.
    pub fn cleanup(&self, name: &str) -> Result<Removed, UnknownAdapter> {
        match self.get(name) {
            Some(adapter) => Ok(adapter.cleanup()),
            None => Err(UnknownAdapter(name.to_owned())),
        }
    }

    /// Drops records that are too old from the histories of all adapters, now.
    #[allow(clippy::must_use_candidate, reason = "most want the effect alone")]
    pub fn cleanup_all(&self) -> Vec<(Name, Removed)> {
        self.set.records.cleanup()
    }

    /// What all histories hold, in records and in bytes. Drops some first if there are too many,
    /// see [`record_threshold`](Self::record_threshold).
    #[must_use]
    pub fn memory_summary(&self) -> MemorySummary {
        self.set.records.summary()
    }

    /// How many records all histories may hold together. 80 % of the caps by default.
    ///
    /// When there are more, records that are too old are dropped, and then the oldest until four
    /// fifths of the threshold are left: calls, of which each history gives up the same share, and
    /// transitions only where there are too many of these alone. The
    /// [callback](Self::on_record_alert) and the counter `plimsoll_adapter_record_alerts_total`
    /// tell, once for each time that records become too many, and so does a tracing event, though
    /// not more often than every 10 seconds. That is looked at in summaries, in sweeps, and about
    /// every 64 calls of each adapter, by which much it can come late.
    ///
    /// # Errors
    ///
    /// When the threshold is out of its range; it is not changed then.
    pub fn record_threshold(&self, threshold: RecordThreshold) -> Result<(), ConfigError> {
        self.set.records.set_threshold(threshold)
    }

    /// Has `callback` called each time there are too many records, in place of the one before.
    ///
    /// It is called by whoever makes the call or the sweep with which they become too many, and
    /// must return soon.
    pub fn on_record_alert(&self, callback: impl Fn(&RecordAlert) + Send + Sync + 'static) {
        self.set.records.set_callback(Arc::new(callback));
    }

    /// As [`on_record_alert`](Self::on_record_alert), and as well as that: for whoever runs the service and
    /// tells of alerts, so that a callback of the program's own does not take its place.
    pub fn also_on_record_alert(&self, callback: impl Fn(&RecordAlert) + Send + Sync + 'static) {
        self.set.records.set_other_callback(Arc::new(callback));
    }

    /// Writes what every adapter knows to the installed `metrics` recorder. Call it before a
    /// scrape.
    ///
    /// The gauges of an adapter that was here the last time and is not any more are brought to
    /// zero. Its counters stay; another of its name goes on with them once it has counted more.
    /// Publish adapters from here or from an [`AdapterDirectory`](crate::AdapterDirectory), not
    /// from both: each brings to zero what is not its own any more.
    #[cfg(feature = "metrics")]
    pub fn publish_metrics(&self) {
        self.set.published.publish(&self.set.records.members());
    }
}

impl<Req: Clone, Res> Adapters<Req, Res> {
    /// Calls adapters in parallel, and returns what each said in the order of `names`.
    ///
    /// A name that nobody has, and one that was there before, have their own errors. Whoever has
    /// not answered by the `deadline`, counted from the first poll, timed out; what others said is
    /// there.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels all calls.
    pub async fn call_many(
        &self,
        names: impl IntoIterator<Item = impl AsRef<str>>,
        request: Req,
        deadline: Option<Duration>,
    ) -> Answers<Res> {
        let asked = self.ask(names, request);
        join(asked, deadline).await
    }

    /// Calls all adapters in parallel, and returns what each said in the order they were added.
    ///
    /// Whoever has not answered by the `deadline`, counted from the first poll, timed out; what
    /// others said is there.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels all calls.
    pub async fn call_all(&self, request: Req, deadline: Option<Duration>) -> Answers<Res> {
        let asked = {
            let table = self.set.table();
            let all = table.adapters.iter();
            let all = all.map(|adapter| (adapter.name().as_str().into(), Ok(adapter.clone())));
            calls(all.collect(), request)
        };
        join(asked, deadline).await
    }

    fn ask(
        &self,
        names: impl IntoIterator<Item = impl AsRef<str>>,
        request: Req,
    ) -> Vec<Asked<Res>> {
        let table = self.set.table();
        let mut wanted: Vec<Wanted<Req, Res>> = Vec::new();
        let mut seen = HashSet::new();
        for name in names {
            let name = name.as_ref();
            let Some(adapter) = table.get(name) else {
                wanted.push((Cow::Owned(name.to_owned()), Err(AdapterErrorKind::Unknown)));
                continue;
            };
            let known = adapter.name();
            let twice = if wanted.len() < FEW_NAMES {
                wanted.iter().any(|(before, _)| before == known.as_str())
            } else {
                if seen.is_empty() {
                    seen.extend(
                        wanted
                            .iter()
                            .filter_map(|(_, adapter)| adapter.as_ref().ok().map(Adapter::name)),
                    );
                }
                !seen.insert(known)
            };
            let adapter = match twice {
                true => Err(AdapterErrorKind::Duplicate),
                false => Ok(adapter.clone()),
            };
            wanted.push((known.as_str().into(), adapter));
        }
        drop(table);
        calls(wanted, request)
    }
}

type Wanted<Req, Res> = (
    Cow<'static, str>,
    Result<Adapter<Req, Res>, AdapterErrorKind>,
);

/// Gives the last adapter the request itself, and the others copies.
fn calls<Req: Clone, Res>(wanted: Vec<Wanted<Req, Res>>, request: Req) -> Vec<Asked<Res>> {
    let mut left = wanted.iter().filter(|(_, adapter)| adapter.is_ok()).count();
    let mut request = Some(request);
    let ask = |(name, adapter): Wanted<Req, Res>| {
        let adapter = match adapter {
            Ok(adapter) => adapter,
            Err(kind) => {
                let error = AdapterError::named(name.clone(), kind);
                return Asked::done(name, Err(error));
            }
        };
        left -= 1;
        let request = match left {
            0 => request.take(),
            _ => request.clone(),
        };
        match request {
            Some(request) => Asked::call(name, adapter.call(request)),
            // Not so: it is taken for the last one.
            None => Asked::done(name.clone(), Err(unknown(&name))),
        }
    };
    wanted.into_iter().map(ask).collect()
}

fn unknown(name: &str) -> AdapterError {
    AdapterError::named(Cow::Owned(name.to_owned()), AdapterErrorKind::Unknown)
}

fn position<Req, Res>(adapters: &[Adapter<Req, Res>], name: &str) -> Option<usize> {
    let mut adapters = adapters.iter();
    adapters.position(|adapter| adapter.name().as_str() == name)
}

impl<Req, Res> Set<Req, Res> {
    fn table(&self) -> Arc<Table<Req, Res>> {
        let table = self.table.read();
        table.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a changed table in the place of the one there is. One that is unchanged does no harm.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<Adapter<Req, Res>>) -> T) -> T {
        let changes = self.changes.lock();
        let changes = changes.unwrap_or_else(PoisonError::into_inner);
        let old = self.table();
        let mut adapters = old.adapters.clone();
        let result = change(&mut adapters);
        let new = Arc::new(Table::new(adapters));
        for adapter in old.adapters.iter().filter(|old| !new.has(old)) {
            adapter.shared().unwatch(&self.records);
        }
        for adapter in new.adapters.iter().filter(|new| !old.has(new)) {
            adapter.shared().watch(&self.records);
        }
        self.records.set_members(new.members());
        let table = self.table.write();
        *table.unwrap_or_else(PoisonError::into_inner) = new;
        drop(changes);
        // Its last adapters may go with it, and run the drop of their services: under no lock.
        drop(old);
        result
    }
}

impl<Req, Res> Table<Req, Res> {
    fn new(adapters: Vec<Adapter<Req, Res>>) -> Self {
        let index = adapters.iter().enumerate();
        let index = index.map(|(place, adapter)| (adapter.name(), place));
        Self {
            index: index.collect(),
            adapters,
        }
    }

    fn get(&self, name: &str) -> Option<&Adapter<Req, Res>> {
        self.adapters.get(*self.index.get(name)?)
    }

    /// Whether it is this very adapter, not only one of the same name.
    fn has(&self, adapter: &Adapter<Req, Res>) -> bool {
        let known = self.get(adapter.name().as_str());
        known.is_some_and(|known| Arc::ptr_eq(known.shared(), adapter.shared()))
    }

    fn members(&self) -> Arc<[Arc<Shared>]> {
        let members = self.adapters.iter();
        members.map(|adapter| adapter.shared().clone()).collect()
    }
}

impl<Req, Res> Drop for Set<Req, Res> {
    fn drop(&mut self) {
        for adapter in &self.table().adapters {
            adapter.shared().unwatch(&self.records);
        }
    }
}

/// No adapters.
impl<Req, Res> Default for Adapters<Req, Res> {
    fn default() -> Self {
        Self {
            set: Arc::new(Set {
                table: RwLock::new(Arc::new(Table::new(Vec::new()))),
                changes: Mutex::new(()),
                records: Arc::default(),
                #[cfg(feature = "metrics")]
                published: crate::metrics::Published::default(),
            }),
        }
    }
}

impl<Req, Res> Clone for Adapters<Req, Res> {
    fn clone(&self) -> Self {
        Self {
            set: self.set.clone(),
        }
    }
}

impl<Req, Res> fmt::Debug for Adapters<Req, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl DuplicateAdapter {
    pub(crate) const fn new(name: Name) -> Self {
        Self(name)
    }

    /// The name they have in common.
    #[must_use]
    pub const fn name(&self) -> Name {
        self.0
    }
}

impl UnknownAdapter {
    /// The name that was asked for.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DuplicateAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there are two adapters {}", self.0)
    }
}

impl fmt::Display for UnknownAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no adapter {}", self.0)
    }
}

impl Error for DuplicateAdapter {}
impl Error for UnknownAdapter {}
