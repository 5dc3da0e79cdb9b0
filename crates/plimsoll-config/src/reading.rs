use crate::{
    Effective, Environment, File, LoadError, Source,
    node::{Content, Entry, Node},
    problem::{Problem, Problems, What},
    text::{self, Memory},
};
use plimsoll_core::{
    ConfigError,
    settings::{Fields, Kind, Setting, Settings, Value},
};
use std::{collections::HashMap, fmt};

/// One look at all files and variables: reads settings, and remembers where each value came from
/// and what is wrong.
///
/// ```
/// use plimsoll_config::{Environment, File, Reading};
/// use plimsoll_core::LifecycleConfig;
///
/// # fn main() -> Result<(), plimsoll_config::LoadError> {
/// let file = File::parse("config.yaml", "lifecycle:\n  drain_delay: 2s\n")?;
/// let variables = [("APP__LIFECYCLE__MAX_TASKS", "500")];
/// let environment = Environment::from_variables("APP", variables)?;
///
/// let mut lifecycle = LifecycleConfig::default(); // what the code says
/// let mut reading = Reading::new();
/// reading.group("lifecycle", &mut lifecycle, &file, &environment);
/// let values = reading.finish()?;
/// let shown: Vec<_> = values.iter().map(ToString::to_string).collect();
/// assert_eq!(
///     shown,
///     [
///         "lifecycle.drain_delay: 2s (config.yaml:2:16)",
///         "lifecycle.stop_timeout: 25s (code)",
///         "lifecycle.max_tasks: 500 (APP__LIFECYCLE__MAX_TASKS)",
///     ]
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Reading {
    problems: Problems,
    values: Vec<Effective>,
    sources: Sources,
    memory: Memory,
}

/// Where values came from, by path. What came later counts.
#[derive(Debug, Default)]
struct Sources {
    given: HashMap<String, Given>,
    /// Groups that were set as a whole.
    implied: HashMap<String, Given>,
    next: u32,
}

#[derive(Clone, Debug)]
struct Given {
    turn: u32,
    source: Source,
    /// The word, for what is no setting but a preset.
    word: Option<&'static str>,
}

impl Default for Reading {
    fn default() -> Self {
        Self::new()
    }
}

impl Reading {
    /// Nothing was read yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            problems: Problems::default(),
            values: Vec::new(),
            sources: Sources::default(),
            memory: Memory::Found,
        }
    }

    /// Reads settings that make up a file as a whole. Keys of `others` are read by somebody else.
    pub fn root(
        &mut self,
        settings: &mut dyn Settings,
        others: &'static [&'static str],
        file: &File,
        environment: &Environment,
    ) {
        for node in [&file.root, &environment.root] {
            self.pass("", settings, node, others);
        }
        self.show("", settings, None);
    }

    /// Reads the settings of one group of a file.
    pub fn group(
        &mut self,
        key: &'static str,
        settings: &mut dyn Settings,
        file: &File,
        environment: &Environment,
    ) {
        for node in [&file.root, &environment.root] {
            if let Some(entry) = node.get(key) {
                self.pass(key, settings, &entry.node, &[]);
            }
        }
        self.show(key, settings, None);
    }

    /// The items of the list that a file has under `key`, each with a name of its own under `name`.
    /// The file has nothing else.
    pub fn items<'a>(&mut self, key: &'static str, file: &'a File) -> Vec<Listed<'a>> {
        self.unknown_keys("", &file.root, &[key]);
        let listed = file.root.get(key);
        let nodes = listed.map_or(&[] as &[_], |entry| match &entry.node.content {
            Content::List(nodes) => nodes,
            Content::Scalar(scalar) if scalar.is_null() => &[],
            _ => {
                let source = entry.node.source.clone();
                let expected = "a list, each item with a name";
                let problems = &mut self.problems;
                problems.value(source, key, entry.node.shown(), expected);
                &[]
            }
        });
        let mut before: HashMap<&str, &Source> = HashMap::new();
        let mut items = Vec::with_capacity(nodes.len());
        for node in nodes {
            let Some((name, source)) = self.name_of(key, node) else {
                continue;
            };
            if let Some(before) = before.insert(name, source) {
                let what = format!("is listed twice, first at {before}");
                let key = join(key, name);
                self.problems.other(source.clone(), key, what);
                continue;
            }
            items.push(Listed {
                name,
                source: source.clone(),
                node: Some(node),
            });
        }
        items
    }

    /// Reads the settings of an item, which begin with what the code and the general settings
    /// say. What nobody gave of the group `general` came from the group of that name which was
    /// read before.
    pub fn item(
        &mut self,
        key: &'static str,
        item: &Listed<'_>,
        general: &str,
        settings: &mut dyn Settings,
        environment: &Environment,
    ) {
        let path = join(key, item.name);
        if let Some(node) = item.node {
            self.pass(&path, settings, node, &["name"]);
        }
        for variable in variables_of(key, environment) {
            if variable.is(item.name) {
                self.pass(&path, settings, &variable.node, &[]);
            }
        }
        self.show(&path, settings, Some(general));
    }

    /// Says which variables are about items of other names than these, or about several of them.
    pub fn other_items(&mut self, key: &'static str, names: &[&str], environment: &Environment) {
        for variable in variables_of(key, environment) {
            let mut meant = names.iter().filter(|name| variable.is(name));
            match (meant.next(), meant.next()) {
                (Some(_), None) => {}
                (Some(one), Some(other)) => {
                    let what = format!("is about `{one}` and about `{other}`: rename one of them");
                    self.problems.other(variable.source.clone(), "", what);
                }
                (None, _) => {
                    let key = join(key, &variable.key);
                    let source = variable.source.clone();
                    self.problems.unknown(source, key, &variable.key, names);
                }
            }
        }
    }

    /// Has the settings of a group say what a file and the environment do, without a word about
    /// problems or values: somebody else reads the group.
    pub fn overlay(
        &mut self,
        key: &'static str,
        settings: &mut dyn Settings,
        others: &'static [&'static str],
        file: &File,
        environment: &Environment,
    ) {
        let mut unheard = Self::new();
        unheard.memory = self.memory;
        for node in [&file.root, &environment.root] {
            if let Some(entry) = node.get(key) {
                unheard.pass(key, settings, &entry.node, others);
            }
        }
    }

    /// Says what is wrong with settings under `path` which were read, by whoever checked them.
    /// What was given nowhere is told of at `otherwise`.
    pub fn refused(&mut self, path: &str, error: &ConfigError, otherwise: &Source) {
        for problem in error.problems() {
            let key = join(path, &problem.field);
            let given = self.sources.find(&key);
            let source = given.map_or(otherwise, |given| &given.source).clone();
            let value = problem.value.clone();
            self.problems.value(source, key, value, &problem.expected);
        }
    }

    /// The name of an item, which must have one.
    fn name_of<'a>(&mut self, key: &str, node: &'a Node) -> Option<(&'a str, &'a Source)> {
        let refuse = |problems: &mut Problems, source: &Source, value: String| {
            let expected = "1 to 128 bytes without control characters or dots";
            problems.value(source.clone(), format!("{key}.name"), value, expected);
        };
        let Some(entries) = node.entries() else {
            let expected = "a group of settings with a name";
            let source = node.source.clone();
            self.problems.value(source, key, node.shown(), expected);
            return None;
        };
        let Some(entry) = entries.iter().find(|entry| entry.key == "name") else {
            let what = "has an item without a name";
            self.problems.other(node.source.clone(), key, what);
            return None;
        };
        match &entry.node.content {
            Content::Scalar(name)
                if !name.is_null()
                    && (1..=128).contains(&name.text.len())
                    && !name.text.contains(|c: char| c.is_control() || c == '.') =>
            {
                Some((&name.text, &entry.node.source))
            }
            _ => {
                refuse(&mut self.problems, &entry.node.source, entry.node.shown());
                None
            }
        }
    }

    /// Says that something is wrong with an item, or with whatever came from `source`.
    pub fn problem(&mut self, source: Source, key: impl Into<String>, what: impl fmt::Display) {
        self.problems.other(source, key, what);
    }

    /// Ends the reading: every setting with its value and where that came from, in the order in
    /// which they were read.
    ///
    /// # Errors
    ///
    /// Tells everything that is wrong.
    pub fn finish(self) -> Result<Vec<Effective>, LoadError> {
        self.problems.into_result()?;
        Ok(self.values)
    }

    fn pass(
        &mut self,
        path: &str,
        settings: &mut dyn Settings,
        node: &Node,
        others: &'static [&'static str],
    ) {
        match &node.content {
            Content::Map(entries) => Pass {
                reading: self,
                path: path.to_owned(),
                entries,
                seen: others.to_vec(),
            }
            .visit(settings),
            Content::Scalar(scalar) if scalar.is_null() => {}
            _ => {
                let source = node.source.clone();
                let expected = "a group of settings";
                self.problems.value(source, path, node.shown(), expected);
            }
        }
    }

    fn unknown_keys(&mut self, path: &str, node: &Node, known: &[&'static str]) {
        let entries = node.entries().unwrap_or_default();
        for entry in entries {
            if !known.iter().any(|key| entry.is(key)) {
                let key = join(path, &entry.key);
                let source = entry.source.clone();
                self.problems.unknown(source, key, &entry.key, known);
            }
        }
        if node.entries().is_none() {
            let source = node.source.clone();
            self.problems.other(source, path, "is no group of settings");
        }
    }

    fn show(&mut self, path: &str, settings: &mut dyn Settings, general: Option<&str>) {
        let inherited = general.map(|general| join(path, general));
        settings.visit(&mut Show {
            reading: self,
            path: path.to_owned(),
            inherited: inherited.as_deref(),
            general: general.unwrap_or_default(),
            last: None,
        });
    }
}

/// An item of a list, as it was found.
#[derive(Clone, Debug)]
pub struct Listed<'a> {
    name: &'a str,
    source: Source,
    node: Option<&'a Node>,
}

impl<'a> Listed<'a> {
    /// An item that is in no list, but in the code. Variables can be about it.
    #[must_use]
    pub const fn in_code(name: &'a str) -> Self {
        Self {
            name,
            source: Source::Code,
            node: None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// Where the name is.
    #[must_use]
    pub const fn source(&self) -> &Source {
        &self.source
    }
}

fn variables_of<'a>(key: &str, environment: &'a Environment) -> &'a [Entry] {
    let variables = environment.root.get(key);
    let variables = variables.and_then(|entry| entry.node.entries());
    variables.unwrap_or_default()
}

impl Sources {
    fn given(&mut self, path: String, source: &Source, word: Option<&'static str>) {
        let turn = self.turn();
        let source = source.clone();
        self.given.insert(path, Given { turn, source, word });
    }

    fn implied(&mut self, path: String, source: &Source) {
        let turn = self.turn();
        let source = source.clone();
        let word = None;
        self.implied.insert(path, Given { turn, source, word });
    }

    fn turn(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn find(&self, path: &str) -> Option<&Given> {
        let given = self.given.get(path);
        let group = path.rsplit_once('.').map(|(group, _)| group);
        let implied = group.and_then(|group| self.implied.get(group));
        given
            .into_iter()
            .chain(implied)
            .max_by_key(|given| given.turn)
    }
}

fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

/// Reads what one file or the environment says of a group.
struct Pass<'a> {
    reading: &'a mut Reading,
    path: String,
    entries: &'a [Entry],
    seen: Vec<&'static str>,
}

impl<'a> Pass<'a> {
    fn visit(mut self, settings: &mut dyn Settings) {
        settings.visit(&mut self);
        for entry in self.entries {
            if !self.seen.iter().any(|key| entry.is(key)) {
                let key = join(&self.path, &entry.key);
                let source = entry.source.clone();
                let problems = &mut self.reading.problems;
                problems.unknown(source, key, &entry.key, &self.seen);
            }
        }
    }

    fn entry(&mut self, key: &'static str) -> Option<&'a Entry> {
        self.seen.push(key);
        self.entries.iter().find(|entry| entry.is(key))
    }

    fn wrong(&mut self, node: &Node, key: &str, expected: impl fmt::Display, secret: bool) {
        let value = match secret {
            true => "***".to_owned(),
            false => node.shown(),
        };
        let (source, key) = (node.source.clone(), join(&self.path, key));
        self.reading.problems.value(source, key, value, expected);
    }
}

impl Fields for Pass<'_> {
    fn setting(&mut self, key: &'static str, _: &'static str, setting: &mut dyn Setting) {
        let Some(Entry { node, .. }) = self.entry(key) else {
            return;
        };
        match text::read(node, setting, self.reading.memory) {
            Ok(value) => {
                setting.set(value);
                let path = join(&self.path, key);
                self.reading.sources.given(path, &node.source, None);
            }
            Err(expected) => {
                let secret = setting.kind() == Kind::Secret;
                self.wrong(node, key, expected, secret);
            }
        }
    }

    fn preset(
        &mut self,
        key: &'static str,
        _: &'static str,
        group: &'static str,
        words: &'static [&'static str],
        take: &mut dyn FnMut(&'static str),
    ) {
        let Some(Entry { node, .. }) = self.entry(key) else {
            return;
        };
        let given = match &node.content {
            Content::Scalar(scalar) => words.iter().find(|word| **word == scalar.text),
            _ => None,
        };
        let Some(word) = given else {
            return self.wrong(node, key, Kind::Choice(words), false);
        };
        take(word);
        let sources = &mut self.reading.sources;
        sources.given(join(&self.path, key), &node.source, Some(word));
        sources.implied(join(&self.path, group), &node.source);
    }

    fn group(&mut self, key: &'static str, _: &'static str, group: &mut dyn Settings) {
        if let Some(Entry { node, .. }) = self.entry(key) {
            let path = join(&self.path, key);
            self.reading.pass(&path, group, node, &[]);
        }
    }

    fn optional(
        &mut self,
        key: &'static str,
        _: &'static str,
        on: &mut bool,
        group: &mut dyn Settings,
    ) {
        let Some(Entry { node, .. }) = self.entry(key) else {
            return;
        };
        let path = join(&self.path, key);
        match &node.content {
            Content::Map(_) => {
                *on = true;
                self.reading.pass(&path, group, node, &[]);
            }
            Content::Scalar(scalar) => match &*scalar.text {
                "true" | "on" => *on = true,
                "false" | "off" | "none" => *on = false,
                _ if scalar.is_null() => *on = false,
                _ => return self.wrong(node, key, "a group of settings, on or off", false),
            },
            Content::List(_) => {
                return self.wrong(node, key, "a group of settings, on or off", false);
            }
        }
        self.reading.sources.given(path, &node.source, None);
    }

    fn require(&mut self, _: &'static str, _: bool, _: &dyn fmt::Display) {}
}

/// Shows what has come of all, and checks it.
struct Show<'a> {
    reading: &'a mut Reading,
    path: String,
    /// The group whose settings may have come from the general one.
    inherited: Option<&'a str>,
    general: &'a str,
    /// What was given last in this group, by which a contradiction is placed.
    last: Option<Given>,
}

impl Show<'_> {
    fn find(&self, path: &str) -> Option<&Given> {
        let sources = &self.reading.sources;
        sources.find(path).or_else(|| {
            let rest = path.strip_prefix(self.inherited?)?;
            sources.find(&format!("{}{rest}", self.general))
        })
    }

    fn add(&mut self, path: String, kind: Option<Kind>, value: Value) {
        let given = self.find(&path).cloned();
        if given.as_ref().map(|given| given.turn) > self.last.as_ref().map(|last| last.turn) {
            self.last.clone_from(&given);
        }
        let source = given.map_or(Source::Code, |given| given.source);
        if let Some(kind) = kind
            && !kind.admits(&value)
            && !self.reading.problems.has(&path)
        {
            let problems = &mut self.reading.problems;
            problems.value(source.clone(), &*path, value.to_string(), kind);
        }
        self.reading.values.push(Effective {
            key: path,
            value,
            source,
        });
    }

    fn enter(&mut self, key: &'static str, group: &mut dyn Settings) {
        let path = join(&self.path, key);
        let mut show = Show {
            reading: self.reading,
            path,
            inherited: self.inherited,
            general: self.general,
            last: None,
        };
        group.visit(&mut show);
    }
}

impl Fields for Show<'_> {
    fn setting(&mut self, key: &'static str, _: &'static str, setting: &mut dyn Setting) {
        let path = join(&self.path, key);
        self.add(path, Some(setting.kind()), setting.value());
    }

    fn preset(
        &mut self,
        key: &'static str,
        _: &'static str,
        _: &'static str,
        _: &'static [&'static str],
        _: &mut dyn FnMut(&'static str),
    ) {
        let path = join(&self.path, key);
        if let Some(word) = self.find(&path).and_then(|given| given.word) {
            self.add(path, None, Value::Word(word));
        }
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
        match on {
            true => self.enter(key, group),
            false => self.add(join(&self.path, key), None, Value::Word("off")),
        }
    }

    fn require(&mut self, key: &'static str, holds: bool, expected: &dyn fmt::Display) {
        if holds {
            return;
        }
        let path = join(&self.path, key);
        let value = self.reading.values.iter().rev();
        let value = value.take(64).find(|value| value.key == path);
        let Some(Effective { value, source, .. }) = value else {
            return;
        };
        if self.reading.problems.has(&path) {
            return;
        }
        // What contradicts the code is better looked for where it was given.
        let source = match (source, &self.last) {
            (Source::Code, Some(last)) => last.source.clone(),
            (source, _) => source.clone(),
        };
        let (value, expected) = (value.to_string(), expected.to_string());
        self.reading.problems.add(Problem {
            source,
            key: path,
            what: What::Value { value, expected },
        });
    }
}
