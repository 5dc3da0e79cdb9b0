//! Settings of every kind, and short ways to read them.

use plimsoll_config::{Effective, Environment, File, Listed, LoadError, Reading, Source};
use plimsoll_core::settings::{
    self, Choice, Fields, Kind, Secret, Setting, Settings, Value, address, bytes, choice, duration,
    flag, integer, number, percent, secret, sizes, text, texts,
};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const TIB: u64 = 1 << 40;

/// A setting of every kind, and of every way to put them together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Every {
    pub(crate) flag: bool,
    pub(crate) count: u32,
    pub(crate) most: Option<u64>,
    pub(crate) ratio: f64,
    pub(crate) rate: Option<f64>,
    pub(crate) timeout: Duration,
    pub(crate) idle: Option<Duration>,
    pub(crate) size: u64,
    pub(crate) window: Pair,
    pub(crate) workers: Pair,
    pub(crate) mode: Mode,
    pub(crate) listen: SocketAddr,
    pub(crate) title: String,
    pub(crate) note: Option<String>,
    pub(crate) token: Option<Secret>,
    pub(crate) hosts: Vec<String>,
    pub(crate) budgets: BTreeMap<String, u64>,
    pub(crate) bounds: Bounds,
    pub(crate) retries: Option<Retries>,
    pub(crate) login: Option<Login>,
    pub(crate) tuning: Tuning,
}

/// What is one or the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pair {
    Count(u64),
    Time(Duration),
    Share(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    Fast,
    Safe,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    pub(crate) low: u64,
    pub(crate) high: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Retries {
    pub(crate) attempts: u32,
    pub(crate) wait: Duration,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Login {
    pub(crate) password: Option<Secret>,
}

/// Has a preset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tuning {
    pub(crate) first: u64,
    pub(crate) second: u64,
    pub(crate) third: u64,
}

impl Tuning {
    pub(crate) const fn all(value: u64) -> Self {
        Self {
            first: value,
            second: value,
            third: value,
        }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 3,
            wait: Duration::from_secs(1),
        }
    }
}

impl Default for Every {
    fn default() -> Self {
        Self {
            flag: false,
            count: 10,
            most: None,
            ratio: 1.0,
            rate: Some(50.0),
            timeout: Duration::from_secs(30),
            idle: None,
            size: 1 << 20,
            window: Pair::Count(100),
            workers: Pair::Share(50.0),
            mode: Mode::Fast,
            listen: SocketAddr::from(([127, 0, 0, 1], 8_080)),
            title: "a title".to_owned(),
            note: None,
            token: None,
            hosts: Vec::new(),
            budgets: BTreeMap::new(),
            bounds: Bounds { low: 10, high: 20 },
            retries: None,
            login: None,
            tuning: Tuning::all(1),
        }
    }
}

impl Settings for Every {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.preset(
            "profile",
            "What tuning is.",
            "tuning",
            &["small", "large"],
            &mut |word| {
                self.tuning = match word {
                    "small" => Tuning::all(2),
                    _ => Tuning::all(200),
                }
            },
        );
        fields.setting("flag", "A flag.", &mut flag(&mut self.flag));
        let count = &mut integer(&mut self.count, 1..=1_000);
        fields.setting("count", "A count.", count);
        let most = &mut integer(&mut self.most, 1..=u64::MAX).or(&["unlimited"]);
        fields.setting("most", "A count without an end.", most);
        let ratio = &mut number(&mut self.ratio, 0.0..=2.5);
        fields.setting("ratio", "A number.", ratio);
        let rate = &mut percent(&mut self.rate).or(&["off"]);
        fields.setting("rate", "A percentage.", rate);
        let timeout = &mut duration(&mut self.timeout, MILLISECOND * 10..=DAY);
        fields.setting("timeout", "A time.", timeout);
        let idle = &mut duration(&mut self.idle, Duration::ZERO..=Duration::MAX);
        let idle = &mut idle.or_words(&["auto", "never"]);
        fields.setting("idle", "A time without an end.", idle);
        let size = &mut bytes(&mut self.size, 1_024..=TIB);
        fields.setting("size", "A size.", size);
        let window = Kind::CallsOrTime(1..=65_536, MILLISECOND * 10..=DAY);
        let window = &mut Either(&mut self.window, window);
        fields.setting("window", "Calls or a time.", window);
        let workers = &mut Either(&mut self.workers, Kind::CountOrShare(1..=512));
        fields.setting("workers", "A count or a share.", workers);
        fields.setting("mode", "A word.", &mut choice(&mut self.mode));
        fields.setting("listen", "An address.", &mut address(&mut self.listen));
        fields.setting("title", "A text.", &mut text(&mut self.title));
        let note = &mut text(&mut self.note).or(&["none"]);
        fields.setting("note", "A text, or none.", note);
        let token = &mut secret(&mut self.token).or(&["none"]);
        fields.setting("token", "A secret.", token);
        fields.setting("hosts", "Texts.", &mut texts(&mut self.hosts));
        let budgets = &mut sizes(&mut self.budgets, 1_024..=TIB);
        fields.setting("budgets", "Sizes by name.", budgets);
        fields.group("bounds", "A group.", &mut self.bounds);
        settings::optional(fields, "retries", "Optional.", &mut self.retries);
        settings::optional(fields, "login", "Has a secret.", &mut self.login);
        fields.group("tuning", "Has a preset.", &mut self.tuning);
    }
}

impl Settings for Bounds {
    fn visit(&mut self, fields: &mut dyn Fields) {
        let low = &mut integer(&mut self.low, 0..=1_000);
        fields.setting("low", "The lower.", low);
        let high = &mut integer(&mut self.high, 0..=1_000);
        fields.setting("high", "The higher.", high);
        let expected = format!("at least low, {}", self.low);
        fields.require("high", self.low <= self.high, &expected);
    }
}

impl Settings for Retries {
    fn visit(&mut self, fields: &mut dyn Fields) {
        let attempts = &mut integer(&mut self.attempts, 1..=10);
        fields.setting("attempts", "How often.", attempts);
        let wait = &mut duration(&mut self.wait, Duration::ZERO..=DAY);
        fields.setting("wait", "How long between.", wait);
    }
}

impl Settings for Login {
    fn visit(&mut self, fields: &mut dyn Fields) {
        let password = &mut secret(&mut self.password).or(&["none"]);
        fields.setting("password", "A secret.", password);
    }
}

impl Settings for Tuning {
    fn visit(&mut self, fields: &mut dyn Fields) {
        let first = &mut integer(&mut self.first, 1..=1_000);
        fields.setting("first", "One.", first);
        let second = &mut integer(&mut self.second, 1..=1_000);
        fields.setting("second", "Another.", second);
        fields.group("inner", "A group of a group.", &mut Inner(&mut self.third));
    }
}

struct Inner<'a>(&'a mut u64);

impl Settings for Inner<'_> {
    fn visit(&mut self, fields: &mut dyn Fields) {
        let third = &mut integer(self.0, 1..=1_000);
        fields.setting("third", "The last.", third);
    }
}

impl Choice for Mode {
    const NAMES: &'static [&'static str] = &["fast", "safe"];

    fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Safe => "safe",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        match name {
            "fast" => Some(Self::Fast),
            "safe" => Some(Self::Safe),
            _ => None,
        }
    }
}

struct Either<'a>(&'a mut Pair, Kind);

impl Setting for Either<'_> {
    fn kind(&self) -> Kind {
        self.1.clone()
    }

    fn value(&self) -> Value {
        match *self.0 {
            Pair::Count(count) => Value::Integer(count),
            Pair::Time(time) => Value::Duration(time),
            Pair::Share(share) => Value::Share(share),
        }
    }

    fn set(&mut self, value: Value) {
        *self.0 = match value {
            Value::Integer(count) => Pair::Count(count),
            Value::Duration(time) => Pair::Time(time),
            Value::Share(share) => Pair::Share(share),
            other => panic!("{other} was never asked for"),
        };
    }
}

/// Words of which each means none.
trait OrWords: Setting + Sized {
    fn or_words(&mut self, words: &'static [&'static str]) -> Worded<'_, Self> {
        Worded(self, words)
    }
}

impl<S: Setting> OrWords for S {}

struct Worded<'a, S>(&'a mut S, &'static [&'static str]);

impl<S: Setting> Setting for Worded<'_, S> {
    fn kind(&self) -> Kind {
        self.0.kind()
    }

    fn words(&self) -> &'static [&'static str] {
        self.1
    }

    fn value(&self) -> Value {
        match self.0.value() {
            Value::Word(_) => Value::Word(self.1[0]),
            value => value,
        }
    }

    fn set(&mut self, value: Value) {
        self.0.set(value);
    }
}

/// What a file and variables make of the defaults, and every value.
pub(crate) fn read(
    yaml: &str,
    variables: &[(&str, &str)],
) -> Result<(Every, Vec<Effective>), LoadError> {
    let file = File::parse("config.yaml", yaml)?;
    let environment = Environment::from_variables("APP", variables.iter().copied())?;
    let mut every = Every::default();
    let mut reading = Reading::new();
    reading.root(&mut every, &[], &file, &environment);
    reading.finish().map(|values| (every, values))
}

/// What it makes of them, where nothing is wrong.
#[track_caller]
pub(crate) fn good(yaml: &str, variables: &[(&str, &str)]) -> (Every, Vec<Effective>) {
    match read(yaml, variables) {
        Ok(read) => read,
        Err(error) => panic!("{yaml:?} {variables:?}: {error}"),
    }
}

/// Every problem, as it is told.
#[track_caller]
pub(crate) fn bad(yaml: &str, variables: &[(&str, &str)]) -> Vec<String> {
    match read(yaml, variables) {
        Ok((every, _)) => panic!("{yaml:?} {variables:?} is read as {every:?}"),
        Err(error) => told(&error),
    }
}

pub(crate) fn told(error: &LoadError) -> Vec<String> {
    error.problems().iter().map(ToString::to_string).collect()
}

/// The value and the source of a setting, as they are shown.
#[track_caller]
pub(crate) fn shown(values: &[Effective], key: &str) -> String {
    match values.iter().find(|value| value.key == key) {
        Some(value) => format!("{} ({})", value.value, value.source),
        None => panic!("{key} is not among {values:?}"),
    }
}

/// A place in `config.yaml`.
pub(crate) fn place(line: u32, column: u32) -> Source {
    Source::File {
        file: "config.yaml".into(),
        line,
        column,
    }
}

/// An item of a list: a breaker of its own over the general one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Adapter {
    pub(crate) limit: Option<u64>,
    pub(crate) general: General,
}

/// What items take from the group `general`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct General {
    pub(crate) bounds: Bounds,
    pub(crate) retries: Option<Retries>,
}

/// A file that has the general settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Root {
    pub(crate) general: General,
}

impl Default for General {
    fn default() -> Self {
        Self {
            bounds: Bounds { low: 10, high: 20 },
            retries: None,
        }
    }
}

impl Settings for Adapter {
    fn visit(&mut self, fields: &mut dyn Fields) {
        let limit = &mut integer(&mut self.limit, 1..=100).or(&["off"]);
        fields.setting("limit", "A limit.", limit);
        fields.group("general", "What all have.", &mut self.general);
    }
}

impl Settings for General {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.group("bounds", "A group.", &mut self.bounds);
        settings::optional(fields, "retries", "Optional.", &mut self.retries);
    }
}

impl Settings for Root {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.group("general", "What all have.", &mut self.general);
    }
}

pub(crate) type Listing = (Vec<(String, Adapter)>, Vec<Effective>);

/// What two files and variables make of adapters.
pub(crate) fn read_list(
    config: &str,
    adapters: &str,
    variables: &[(&str, &str)],
) -> Result<Listing, LoadError> {
    let config = File::parse("config.yaml", config)?;
    let adapters = File::parse("adapters.yaml", adapters)?;
    let environment = Environment::from_variables("APP", variables.iter().copied())?;
    let mut reading = Reading::new();
    let mut root = Root::default();
    reading.root(&mut root, &["adapters"], &config, &environment);
    let mut items = Vec::new();
    let listed = reading.items("adapters", &adapters);
    for item in &listed {
        let mut adapter = Adapter {
            general: root.general.clone(),
            ..Adapter::default()
        };
        reading.item("adapters", item, "general", &mut adapter, &environment);
        items.push((item.name().to_owned(), adapter));
    }
    let names: Vec<_> = listed.iter().map(Listed::name).collect();
    reading.other_items("adapters", &names, &environment);
    reading.finish().map(|values| (items, values))
}
