use crate::{Effective, LoadError, Source};
use plimsoll_core::settings::Value;
use std::{collections::HashMap, fmt, sync::Arc};

/// A configuration that can be looked at, and read again while the service runs.
pub trait Configuration: Send + Sync {
    /// Every setting with the value it has now.
    fn values(&self) -> Arc<[Effective]>;

    /// What was wrong the last time the files were read, since when nothing was changed. None if
    /// nothing was.
    fn problem(&self) -> Option<LoadError>;

    /// Reads the files and the environment again, and changes what can be changed while running.
    /// May block.
    ///
    /// # Errors
    ///
    /// Tells everything that is wrong. Nothing was changed then.
    fn reload(&self) -> Result<Reload, LoadError>;
}

/// What came of reading a configuration again.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Reload {
    /// Every setting that is another now, in the order of the settings.
    pub changes: Vec<Change>,
}

/// A setting that is another now.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// The setting, with the groups it is in.
    pub key: String,
    /// What it was; none if it was not there.
    pub old: Option<Value>,
    /// What it is; none if it is there no more.
    pub new: Option<Value>,
    /// Where that comes from.
    pub source: Source,
    /// Whether it counts from now on. Others do after a restart.
    pub applied: bool,
}

impl Change {
    /// A setting that is another now.
    #[must_use]
    pub const fn new(
        key: String,
        old: Option<Value>,
        new: Option<Value>,
        source: Source,
        applied: bool,
    ) -> Self {
        Self {
            key,
            old,
            new,
            source,
            applied,
        }
    }
}

impl Reload {
    /// Compares the values there were with those there are. Defaults of what came or went are left
    /// out. `live` says whether a setting counts while the service runs.
    #[must_use]
    pub fn between(old: &[Effective], new: &[Effective], live: impl Fn(&str) -> bool) -> Self {
        let before: HashMap<&str, &Value> = index(old);
        let after: HashMap<&str, &Value> = index(new);
        let changed = new.iter().filter_map(|now| {
            let old = before.get(&*now.key).copied();
            // What came with something else that is new goes without saying.
            let by_itself = old.is_some() || now.source != Source::Code;
            (by_itself && old != Some(&now.value)).then(|| Change {
                key: now.key.clone(),
                old: old.cloned(),
                new: Some(now.value.clone()),
                source: now.source.clone(),
                applied: live(&now.key),
            })
        });
        let gone = old.iter().filter(|old| old.source != Source::Code);
        let gone = gone.filter(|old| !after.contains_key(&*old.key));
        let gone = gone.map(|old| Change {
            key: old.key.clone(),
            old: Some(old.value.clone()),
            new: None,
            source: old.source.clone(),
            applied: live(&old.key),
        });
        Self {
            changes: changed.chain(gone).collect(),
        }
    }
}

fn index(values: &[Effective]) -> HashMap<&str, &Value> {
    let values = values.iter();
    values.map(|value| (&*value.key, &value.value)).collect()
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            old,
            new,
            source,
            applied,
        } = self;
        write!(f, "{key}: ")?;
        match old {
            Some(old) => write!(f, "{old}")?,
            None => f.write_str("nothing")?,
        }
        match new {
            Some(new) => write!(f, " → {new} ({source})")?,
            None => f.write_str(" → nothing")?,
        }
        match applied {
            true => Ok(()),
            false => f.write_str(", after a restart"),
        }
    }
}
