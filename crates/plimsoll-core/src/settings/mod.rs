//! What a configuration is made of, said once: its settings with their keys, kinds and ranges.
//!
//! A configuration shows its settings to whoever [visits](Settings::visit) it. One visitor checks
//! them, others read them from files and variables, show them, or describe them as a schema; none
//! of these has a list of its own.
//!
//! ```
//! use plimsoll_core::settings::{self, Fields, Settings};
//! use std::time::Duration;
//!
//! #[derive(Clone)]
//! struct CacheConfig {
//!     max_entries: usize,
//!     time_to_live: Option<Duration>,
//! }
//!
//! impl Settings for CacheConfig {
//!     fn visit(&mut self, fields: &mut dyn Fields) {
//!         let day = Duration::from_secs(86_400);
//!         let entries = &mut settings::integer(&mut self.max_entries, 1..=1_000_000);
//!         fields.setting("max_entries", "The most entries; the oldest goes first.", entries);
//!         let time = &mut settings::duration(&mut self.time_to_live, Duration::ZERO..=day).or(&["off"]);
//!         fields.setting("time_to_live", "How long an entry stays.", time);
//!     }
//! }
//!
//! let config = CacheConfig { max_entries: 0, time_to_live: None };
//! let error = settings::check(&config).unwrap_err();
//! assert_eq!(error.to_string(), "`max_entries` is 0, but must be between 1 and 1000000");
//! ```

mod kind;
mod leaf;

pub use self::{
    kind::{Kind, Secret, Value},
    leaf::{
        Choice, Holds, Leaf, address, bytes, choice, duration, flag, integer, number, percent,
        secret, sizes, text, texts,
    },
};
use crate::{ConfigError, Problems};
use std::fmt;

/// A group of settings.
pub trait Settings {
    /// Shows every setting to `fields`, in the order in which people should read them.
    fn visit(&mut self, fields: &mut dyn Fields);
}

/// Whoever visits settings.
///
/// `about` is a sentence or two for whoever writes the file, without the range, which the
/// [`Kind`] tells.
pub trait Fields {
    /// A setting under `key`, which may be changed.
    fn setting(&mut self, key: &'static str, about: &'static str, setting: &mut dyn Setting);

    /// A word under `key` that stands for values of the settings under `group`, which comes later.
    /// It is no setting itself: it is there where it is given.
    fn preset(
        &mut self,
        key: &'static str,
        about: &'static str,
        group: &'static str,
        words: &'static [&'static str],
        take: &mut dyn FnMut(&'static str),
    );

    /// Settings under `key`.
    fn group(&mut self, key: &'static str, about: &'static str, group: &mut dyn Settings);

    /// Settings under `key` that only matter while it is `on`. `false`, `off` and `none` turn it
    /// off; `true`, `on` and any setting turn it on.
    fn optional(
        &mut self,
        key: &'static str,
        about: &'static str,
        on: &mut bool,
        group: &mut dyn Settings,
    );

    /// A rule between settings. `expected` goes on from "must be" for the setting under `key`,
    /// which was visited before.
    fn require(&mut self, key: &'static str, holds: bool, expected: &dyn fmt::Display);
}

/// One setting: where its value is.
///
/// [`integer`], [`duration`] and their like make one of a field; others can be made by hand.
pub trait Setting {
    /// What values it takes.
    fn kind(&self) -> Kind;

    /// Words that it takes instead, `off` say. Null means the first.
    fn words(&self) -> &'static [&'static str] {
        &[]
    }

    /// The value that it has; one of the words where it has none.
    fn value(&self) -> Value;

    /// Takes a value, which is of its [kind](Self::kind) or one of its [words](Self::words).
    fn set(&mut self, value: Value);
}

/// Visits settings that are there or not. A group that is turned on starts from its default.
pub fn optional<T: Settings + Default>(
    fields: &mut dyn Fields,
    key: &'static str,
    about: &'static str,
    group: &mut Option<T>,
) {
    let mut on = group.is_some();
    let mut settings = group.take().unwrap_or_default();
    fields.optional(key, about, &mut on, &mut settings);
    *group = on.then_some(settings);
}

/// Checks every setting.
///
/// # Errors
///
/// Names each value that is out of its range.
pub fn check<T: Settings + Clone>(settings: &T) -> Result<(), ConfigError> {
    let mut problems = Problems::default();
    settings.clone().visit(&mut Checker {
        problems: &mut problems,
        path: Vec::new(),
        last: Vec::new(),
    });
    problems.into_result()
}

/// Calls `each` with every setting, its key and what it is for; with those of groups too, whether they
/// are on or not.
///
/// ```
/// use plimsoll_core::{LifecycleConfig, settings};
///
/// let mut keys = Vec::new();
/// settings::each(&mut LifecycleConfig::default(), |key, _, _| keys.push(key));
/// assert!(keys.contains(&"max_tasks"));
/// ```
pub fn each(
    settings: &mut dyn Settings,
    each: impl FnMut(&'static str, &'static str, &mut dyn Setting),
) {
    settings.visit(&mut Each(each));
}

/// Settings that have nothing to set.
impl Settings for () {
    fn visit(&mut self, _: &mut dyn Fields) {}
}

struct Each<F>(F);

impl<F: FnMut(&'static str, &'static str, &mut dyn Setting)> Fields for Each<F> {
    fn setting(&mut self, key: &'static str, about: &'static str, setting: &mut dyn Setting) {
        (self.0)(key, about, setting);
    }

    fn preset(
        &mut self,
        _: &'static str,
        _: &'static str,
        _: &'static str,
        _: &'static [&'static str],
        _: &mut dyn FnMut(&'static str),
    ) {
    }

    fn group(&mut self, _: &'static str, _: &'static str, group: &mut dyn Settings) {
        group.visit(self);
    }

    fn optional(
        &mut self,
        _: &'static str,
        _: &'static str,
        _: &mut bool,
        group: &mut dyn Settings,
    ) {
        group.visit(self);
    }

    fn require(&mut self, _: &'static str, _: bool, _: &dyn fmt::Display) {}
}

/// Collects what is out of its range.
struct Checker<'a> {
    problems: &'a mut Problems,
    path: Vec<&'static str>,
    /// The values of the group that is visited, for rules between them.
    last: Vec<Checked>,
}

struct Checked {
    key: &'static str,
    value: Value,
    admitted: bool,
}

impl Checker<'_> {
    fn path_to(&self, key: &str) -> String {
        let path = self.path.iter().flat_map(|part| [*part, "."]);
        path.chain([key]).collect()
    }

    fn enter(&mut self, key: &'static str, group: &mut dyn Settings) {
        self.path.push(key);
        let last = std::mem::take(&mut self.last);
        group.visit(self);
        self.last = last;
        self.path.pop();
    }
}

impl Fields for Checker<'_> {
    fn setting(&mut self, key: &'static str, _: &'static str, setting: &mut dyn Setting) {
        let (kind, value) = (setting.kind(), setting.value());
        let admitted = kind.admits(&value);
        self.problems.check(self.path_to(key), &kind, &value);
        self.last.push(Checked {
            key,
            value,
            admitted,
        });
    }

    fn preset(
        &mut self,
        _: &'static str,
        _: &'static str,
        _: &'static str,
        _: &'static [&'static str],
        _: &mut dyn FnMut(&'static str),
    ) {
    }

    fn group(&mut self, key: &'static str, _: &'static str, group: &mut dyn Settings) {
        self.enter(key, group);
    }

    fn optional(
        &mut self,
        key: &'static str,
        _: &'static str,
        on: &mut bool,
        group: &mut dyn Settings,
    ) {
        if *on {
            self.enter(key, group);
        }
    }

    fn require(&mut self, key: &'static str, holds: bool, expected: &dyn fmt::Display) {
        // One problem of a value is enough.
        if !holds
            && let Some(last) = self.last.iter_mut().find(|last| last.key == key)
            && std::mem::take(&mut last.admitted)
        {
            let value = last.value.to_string();
            let path = self.path_to(key);
            self.problems.add(path, value, expected.to_string());
        }
    }
}
