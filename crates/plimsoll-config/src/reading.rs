use crate::{
    Effective, Environment, File, LoadError, Source,
    node::{Content, Entry, Node, as_in_a_variable},
    problem::{Problem, Problems},
    text::{self, Memory, Wrong},
};
use plimsoll_core::{
    ConfigError,
    settings::{self, Fields, Kind, Setting, Settings, Value},
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

/// The most items of a list.
const MAX_ITEMS: usize = 10_000;

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
        self.show("", settings, None, &Source::Code);
    }

    /// Reads the settings of one group of a file. Whether there are other groups that nobody knows is
    /// for [`root`](Self::root) to tell.
    pub fn group(
        &mut self,
        key: &'static str,
        settings: &mut dyn Settings,
        file: &File,
        environment: &Environment,
    ) {
        for node in [&file.root, &environment.root] {
            match node.entries() {
                None => self.no_group("", node, true),
                Some(_) => {
                    if let Some(entry) = node.get(key) {
                        self.pass(key, settings, &entry.node, &[]);
                    }
                }
            }
        }
        self.show(key, settings, None, &Source::Code);
    }

    /// The items of the list that a file has under `key`, each with a name of its own under `name`.
    /// The file has nothing else.
    ///
    /// There may be 10 000 items. A name has 1 to 128 bytes without control characters and dots.
    pub fn items<'a>(&mut self, key: &'static str, file: &'a File) -> Vec<Listed<'a>> {
        self.unknown_keys("", &file.root, &[key]);
        let listed = file.root.get(key);
        let nodes = listed.map_or(&[] as &[_], |entry| match &entry.node.content {
            Content::List(nodes) if nodes.len() > MAX_ITEMS => {
                let source = entry.node.source.clone();
                let expected = format!("a list of at most {MAX_ITEMS}");
                let problems = &mut self.problems;
                problems.value(source, key, entry.node.shown(), expected);
                &[]
            }
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
    ///
    /// Variables can change an item, but make none. None can name an item with two characters in
    /// a row that are neither letters nor digits, since those part groups.
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
        // Those of one group are in order, each once.
        let (variables, name) = (variables_of(key, environment), as_in_a_variable(item.name));
        let place = variables.binary_search_by(|variable| variable.key.cmp(&name));
        if let Some(variable) = place.ok().and_then(|place| variables.get(place)) {
            self.pass(&path, settings, &variable.node, &[]);
        }
        self.show(&path, settings, Some(general), &item.source);
    }

    /// Says which variables are about items of other names than these, or about several of them.
    pub fn other_items(&mut self, key: &'static str, names: &[&str], environment: &Environment) {
        if let Some(entry) = environment.root.get(key)
            && let Content::Scalar(scalar) = &entry.node.content
            && !scalar.is_null()
        {
            let what = "is a list, which a variable cannot give: give it in the file";
            self.problems.other(entry.node.source.clone(), key, what);
        }
        let mut meant: HashMap<String, (&str, Option<&str>)> = HashMap::new();
        for name in names {
            meant
                .entry(as_in_a_variable(name))
                .and_modify(|(_, other)| *other = Some(name))
                .or_insert((name, None));
        }
        for variable in variables_of(key, environment) {
            match meant.get(&variable.key) {
                Some((_, None)) => {}
                Some((one, Some(other))) => {
                    let what = format!("is about `{one}` and about `{other}`: rename one of them");
                    self.problems.other(variable.source.clone(), "", what);
                }
                None => {
                    let key = join(key, &variable.shown());
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
    /// Those that were given nowhere may come from the group `general`; what was not given there,
    /// either, is told of at `otherwise`.
    pub fn refused(&mut self, path: &str, general: &str, error: &ConfigError, otherwise: &Source) {
        for problem in error.problems() {
            let key = join(path, &problem.field);
            let given = self.sources.find(&key);
            let given = given.or_else(|| self.sources.find(&join(general, &problem.field)));
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

    /// Whether something is wrong with a setting, or with one of a group.
    #[must_use]
    pub fn is_wrong(&self, path: &str) -> bool {
        self.problems.any_under(path)
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
                let secret = holds_secret(settings);
                self.no_group(path, node, secret);
            }
        }
    }

    /// Says that a value is where a group of settings must be.
    fn no_group(&mut self, path: &str, node: &Node, secret: bool) {
        let source = node.source.clone();
        let value = node.shown_unless(secret);
        self.problems
            .value(source, path, value, "a group of settings");
    }

    fn unknown_keys(&mut self, path: &str, node: &Node, known: &[&'static str]) {
        let entries = node.entries().unwrap_or_default();
        for entry in entries {
            if !known.iter().any(|key| entry.is(key)) {
                let key = join(path, &entry.shown());
                let source = entry.source.clone();
                self.problems.unknown(source, key, &entry.key, known);
            }
        }
        if node.entries().is_none() {
            self.no_group(path, node, true);
        }
    }

    /// What is wrong and was given nowhere is told of at `otherwise`.
    fn show(
        &mut self,
        path: &str,
        settings: &mut dyn Settings,
        general: Option<&str>,
        otherwise: &Source,
    ) {
        let inherited = general.map(|general| join(path, general));
        let first = self.values.len();
        let mut show = Show {
            reading: self,
            path: path.to_owned(),
            inherited: inherited.as_deref(),
            general: general.unwrap_or_default(),
            otherwise,
            first,
            broken: Vec::new(),
        };
        settings.visit(&mut show);
        show.tell_broken();
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
        let groups = path.match_indices('.').map(|(end, _)| &path[..end]);
        let implied = groups.filter_map(|group| self.implied.get(group));
        let given = self.given.get(path).into_iter();
        given.chain(implied).max_by_key(|given| given.turn)
    }
}

/// Whether there is a secret among some settings, which somebody may have put in place of them.
fn holds_secret(settings: &mut dyn Settings) -> bool {
    let mut found = false;
    settings::each(settings, |_, _, setting| {
        found |= setting.kind() == Kind::Secret;
    });
    found
}

fn join(path: &str, key: &str) -> String {
    match (path, key) {
        ("", key) => key.to_owned(),
        (path, "") => path.to_owned(),
        (path, key) => format!("{path}.{key}"),
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
                let key = join(&self.path, &entry.shown());
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
        let value = node.shown_unless(secret);
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
            Err(Wrong::Parts(parts)) => {
                let path = join(&self.path, key);
                for part in parts {
                    let key = join(&path, &part.key);
                    self.reading.problems.add(Problem { key, ..part });
                }
            }
            Err(Wrong::Value(expected)) => {
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
            Content::Scalar(scalar) => {
                let text = scalar.text.trim();
                words.iter().find(|word| **word == text)
            }
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
        let turned = match &node.content {
            Content::Map(_) => Some(true),
            // As for any group, whose settings may all be commented out.
            Content::Scalar(scalar) if scalar.is_null() => return,
            Content::Scalar(scalar) => match scalar.text.trim() {
                "on" => Some(true),
                "off" | "none" => Some(false),
                text => text::flag(text),
            },
            Content::List(_) => None,
        };
        let Some(turned) = turned else {
            let secret = holds_secret(group);
            return self.wrong(node, key, "a group of settings, on or off", secret);
        };
        let path = join(&self.path, key);
        if turned && !*on {
            // It starts from its default, whatever was said of it before. That there are values is
            // said by a word alone, but goes without saying where there are settings.
            let source = match &node.content {
                Content::Map(entries) if !entries.is_empty() => &Source::Code,
                _ => &node.source,
            };
            self.reading.sources.implied(path.clone(), source);
        }
        *on = turned;
        if let Content::Map(_) = &node.content {
            self.reading.pass(&path, group, node, &[]);
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
    /// Where to look for what was given nowhere.
    otherwise: &'a Source,
    /// Where the values of this group begin.
    first: usize,
    /// Rules that do not hold, by the setting they are for.
    broken: Vec<(&'static str, String)>,
}

impl Show<'_> {
    fn find(&self, path: &str) -> Option<&Given> {
        let sources = &self.reading.sources;
        sources
            .find(path)
            .or_else(|| sources.find(&self.general_path(path)?))
    }

    /// The same setting of the general group.
    fn general_path(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(self.inherited?)?;
        Some(format!("{}{rest}", self.general))
    }

    fn add(&mut self, path: String, kind: Option<Kind>, value: Value) {
        let given = self.find(&path).cloned();
        let source = given.map_or(Source::Code, |given| given.source);
        if let Some(kind) = kind
            && !self.reading.problems.any_under(&path)
        {
            let place = match &source {
                Source::Code => self.otherwise,
                source => source,
            };
            let mut checked = plimsoll_core::Problems::default();
            checked.check(path.clone(), &kind, &value);
            if let Err(error) = checked.into_result() {
                for problem in error.problems() {
                    let (key, value) = (&*problem.field, &*problem.value);
                    let problems = &mut self.reading.problems;
                    problems.value(place.clone(), key, value, &problem.expected);
                }
            }
        }
        self.reading.values.push(Effective {
            key: path,
            value,
            source,
        });
    }

    fn enter(&mut self, key: &'static str, group: &mut dyn Settings) {
        let path = join(&self.path, key);
        let first = self.reading.values.len();
        let mut show = Show {
            reading: self.reading,
            path,
            inherited: self.inherited,
            general: self.general,
            otherwise: self.otherwise,
            first,
            broken: Vec::new(),
        };
        group.visit(&mut show);
        show.tell_broken();
    }

    /// Tells of the rules that do not hold. Only now are all values of the group known.
    fn tell_broken(mut self) {
        for (key, expected) in std::mem::take(&mut self.broken) {
            let path = join(&self.path, key);
            let values = self.reading.values[self.first..].iter();
            let mut named = values.clone().filter(|value| value.key == path);
            let Some(Effective { value, source, .. }) = named.next() else {
                continue;
            };
            if self.reading.problems.any_under(&path) {
                continue;
            }
            // What contradicts the code is better looked for where the other side was given: the
            // setting that the rule names, or else what was given last.
            let given = values.filter_map(|value| {
                let key = value.key.strip_prefix(&*self.path)?;
                let given = self.find(&value.key)?;
                let named = names(&expected, key.trim_start_matches('.'));
                (given.source != Source::Code).then_some((named, given.turn, &given.source))
            });
            let other = given.max_by_key(|(named, turn, _)| (*named, *turn));
            let source = match (source, other) {
                (Source::Code, Some((_, _, other))) => other.clone(),
                (Source::Code, None) => self.otherwise.clone(),
                (source, _) => source.clone(),
            };
            let general = self.general_path(&path);
            let problems = &mut self.reading.problems;
            // What all items have in common is told once.
            if general.is_none_or(|general| !problems.has_at(&general, &source)) {
                problems.value(source, path, value.to_string(), expected);
            }
        }
    }
}

/// Whether a rule names a setting.
fn names(rule: &str, key: &str) -> bool {
    let mut words = rule.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.any(|word| word == key)
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
        self.broken.push((key, expected.to_string()));
    }
}
