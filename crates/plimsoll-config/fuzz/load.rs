//! Loads a configuration from one text, for the fuzz target and for the test of its seeds.
//!
//! The text is `config.yaml`, up to a line `>>> adapters.yaml`, and then that file, up to a line
//! `>>> environment`, and then variables, each on a line.

use plimsoll_breaker::CircuitBreakerConfig;
use plimsoll_config::{
    Effective, Environment, File, Listed, LoadError, Reading, list_schema, schema, to_json, to_yaml,
};
use plimsoll_core::{
    LifecycleConfig,
    settings::{
        self, Fields, Secret, Settings, Value, address, bytes, flag, number, percent, secret,
        sizes, text, texts,
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

/// A service as there may be one.
#[derive(Clone, Debug)]
struct Service {
    lifecycle: LifecycleConfig,
    breaker: CircuitBreakerConfig,
    server: Server,
    cache: Option<Cache>,
}

#[derive(Clone, Debug)]
struct Server {
    listen: SocketAddr,
    title: String,
    token: Option<Secret>,
    hosts: Vec<String>,
}

#[derive(Clone, Debug)]
struct Cache {
    size: u64,
    share: f64,
    factor: f64,
    eager: bool,
    budgets: BTreeMap<String, u64>,
}

#[derive(Clone, Debug)]
struct Adapter {
    breaker: CircuitBreakerConfig,
    note: Option<String>,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            lifecycle: LifecycleConfig::default(),
            breaker: CircuitBreakerConfig::new(),
            server: Server {
                listen: SocketAddr::from(([127, 0, 0, 1], 8_080)),
                title: String::new(),
                token: None,
                hosts: Vec::new(),
            },
            cache: None,
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            size: 64 << 20,
            share: 50.0,
            factor: 1.0,
            eager: false,
            budgets: BTreeMap::new(),
        }
    }
}

impl Settings for Service {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.group("lifecycle", "How it ends.", &mut self.lifecycle);
        fields.group("breaker", "What all adapters have.", &mut self.breaker);
        fields.group("server", "Where it listens.", &mut self.server);
        settings::optional(fields, "cache", "What it remembers.", &mut self.cache);
    }
}

impl Settings for Server {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting("listen", "Where.", &mut address(&mut self.listen));
        fields.setting("title", "Its title.", &mut text(&mut self.title));
        let token = &mut secret(&mut self.token).or(&["none"]);
        fields.setting("token", "What callers must know.", token);
        fields.setting("hosts", "Who may call.", &mut texts(&mut self.hosts));
    }
}

impl Settings for Cache {
    fn visit(&mut self, fields: &mut dyn Fields) {
        let size = &mut bytes(&mut self.size, 1..=u64::MAX);
        fields.setting("size", "How large.", size);
        fields.setting("share", "Of what.", &mut percent(&mut self.share));
        let factor = &mut number(&mut self.factor, 0.0..=f64::MAX);
        fields.setting("factor", "How much more.", factor);
        fields.setting("eager", "Whether at once.", &mut flag(&mut self.eager));
        let budgets = &mut sizes(&mut self.budgets, 1..=u64::MAX);
        fields.setting("budgets", "How large each.", budgets);
    }
}

impl Settings for Adapter {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.group("breaker", "Its breaker.", &mut self.breaker);
        let note = &mut text(&mut self.note).or(&["none"]);
        fields.setting("note", "What to know of it.", note);
    }
}

/// Loads a configuration, and checks what must hold whatever it is: that what is shown of it is
/// read again as the same, and that an error tells something.
pub(crate) fn load(text: &str) -> Result<Vec<Effective>, LoadError> {
    let (config, adapters, environment) = parts(text);
    let loaded = read(config, adapters, environment);
    match &loaded {
        Ok(values) => assert_same_again(values),
        Err(error) => {
            assert!(!error.problems().is_empty());
            assert!(error.problems().len() <= 100 && error.problems().len() <= error.count());
            let lines = error.to_string().lines().count();
            assert!(lines <= 102, "a problem is a line: {error}");
        }
    }
    loaded
}

fn parts(text: &str) -> (&str, &str, &str) {
    let (files, environment) = text.split_once("\n>>> environment\n").unwrap_or((text, ""));
    let (config, adapters) = files
        .split_once("\n>>> adapters.yaml\n")
        .unwrap_or((files, ""));
    (config, adapters, environment)
}

fn read(config: &str, adapters: &str, environment: &str) -> Result<Vec<Effective>, LoadError> {
    let variables = environment.lines().filter_map(|line| line.split_once('='));
    let config = File::parse("config.yaml", config);
    let adapters = File::parse("adapters.yaml", adapters);
    let environment = Environment::from_variables("PLIMSOLL", variables);
    let (config, adapters, environment) = match (config, adapters, environment) {
        (Ok(config), Ok(adapters), Ok(environment)) => (config, adapters, environment),
        (config, adapters, environment) => {
            let errors = [config.err(), adapters.err(), environment.err()];
            let error = errors.into_iter().flatten().reduce(LoadError::and);
            return Err(error.expect("one of them is an error"));
        }
    };
    let mut reading = Reading::new();
    let mut service = Service::default();
    reading.root(&mut service, &["adapters"], &config, &environment);
    let listed = reading.items("adapters", &adapters);
    for item in &listed {
        let mut adapter = Adapter {
            breaker: service.breaker.clone(),
            note: None,
        };
        reading.item("adapters", item, "breaker", &mut adapter, &environment);
        let _ = schema(item.name(), &mut adapter);
        let _ = list_schema("adapters", "adapters", "Adapters.", &mut adapter);
    }
    let names: Vec<_> = listed.iter().map(Listed::name).collect();
    reading.other_items("adapters", &names, &environment);
    reading.finish()
}

fn assert_same_again(values: &[Effective]) {
    let _ = to_json(values);
    let is_item = |value: &&Effective| value.key.starts_with("adapters.");
    let (adapters, config): (Vec<_>, Vec<_>) = values.iter().partition(is_item);
    let yaml = |values: Vec<&Effective>| {
        let values: Vec<_> = values.into_iter().cloned().collect();
        to_yaml(&values, Some("adapters"))
    };
    let (config, adapters) = (yaml(config), yaml(adapters));
    let again = match read(&config, &adapters, "") {
        Ok(again) => again,
        Err(error) => panic!("{error}\n{config}{adapters}"),
    };
    let shown = |values: &[Effective]| -> HashMap<String, Value> {
        let values = values.iter().filter(|value| {
            // It is left out where it is shown.
            !value.key.ends_with(".token")
        });
        values
            .map(|value| (value.key.clone(), value.value.clone()))
            .collect()
    };
    assert_eq!(shown(values), shown(&again), "{config}{adapters}");
}
