//! The adapters of the gateway: how one is made, and those that there are by now.

use crate::{
    BoxError,
    chroma::Chroma,
    flaky::Flaky,
    question::{Found, Question, judge},
    settings::{DEMO, KindName, KindSettings},
    sql::Sql,
};
use plimsoll::{
    AdapterBuilder, AdapterSpec, Adapters, Answers, Name, adapter::ConfigError,
    config_files::Effective, settings::Value,
};
use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

/// One downstream that finds passages for questions.
pub type Adapter = plimsoll::Adapter<Question, Vec<Found>>;

/// What an adapter calls.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// Full-text search in a database file.
    Sql(Sql),
    /// Vector search over HTTP.
    Vector(Chroma),
    /// One that fails on request.
    Flaky(Flaky),
}

/// What adapters are made of.
#[derive(Clone, Debug)]
pub struct Kinds {
    /// The database that is searched.
    pub sql: Sql,
    /// Where the vector service of the demo is.
    pub demo_url: String,
    /// The downstream that fails on request.
    pub flaky: Flaky,
}

/// The adapters that can be asked. They come and go while the gateway runs.
///
/// Cloning it gives another handle to the same adapters.
#[derive(Clone)]
pub struct Known {
    all: Adapters<Question, Vec<Found>>,
    /// Tells who is asked when a request names none.
    by_default: Arc<dyn Fn() -> BTreeSet<String> + Send + Sync>,
}

impl Kinds {
    /// Makes the adapter that a file describes.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the URL, and names each limit that is out of its range.
    pub fn make(&self, spec: &AdapterSpec<KindSettings>) -> Result<Adapter, BoxError> {
        let settings = &spec.settings;
        let kind = match settings.kind {
            Some(KindName::Sql) => Kind::Sql(self.sql.clone()),
            Some(KindName::Flaky) => Kind::Flaky(self.flaky.clone()),
            Some(KindName::Http) => {
                let url = settings.url.as_deref().unwrap_or_default();
                let url = if url == DEMO { &self.demo_url } else { url };
                let limits = settings.client.clone();
                Kind::Vector(Chroma::new(spec.name.clone(), url, limits)?)
            }
            // Told of where it is read, too.
            None => return Err("it has no type".into()),
        };
        Ok(build(spec.builder(), kind)?)
    }
}

/// Builds an adapter of what it calls, with the limits it was given.
///
/// # Errors
///
/// Names each limit that is out of its range.
pub fn build(limits: AdapterBuilder, kind: Kind) -> Result<Adapter, ConfigError> {
    // So that a file can limit the bytes that wait, and have questions asked again.
    let builder = limits
        .classify(judge)
        .request_bytes(|question: &Question| question.as_str().len() as u64)
        .repeatable(|question: &Question| Some(question.clone()));
    match kind {
        Kind::Sql(sql) => builder.function(move |question| sql.clone().ask(question)),
        Kind::Vector(chroma) => builder.function(move |question| chroma.clone().ask(question)),
        Kind::Flaky(flaky) => builder.function(move |question| flaky.clone().ask(question)),
    }
}

/// The adapters that a configuration says are asked when a request names none.
#[must_use]
pub fn by_default(values: &[Effective]) -> BTreeSet<String> {
    let asked = values.iter().filter(|it| it.value == Value::Flag(true));
    let keys = asked.map(|it| {
        it.key
            .strip_prefix("adapters.")?
            .strip_suffix(".by_default")
    });
    keys.flatten().map(str::to_owned).collect()
}

impl Known {
    /// These adapters, of which those are asked by default that `by_default` names at the time.
    #[must_use]
    pub fn new(
        all: Adapters<Question, Vec<Found>>,
        by_default: impl Fn() -> BTreeSet<String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            all,
            by_default: Arc::new(by_default),
        }
    }

    /// All adapters.
    #[must_use]
    pub const fn all(&self) -> &Adapters<Question, Vec<Found>> {
        &self.all
    }

    /// The names of those that are asked when a request names none, in the order of all.
    #[must_use]
    pub fn names_by_default(&self) -> Vec<Name> {
        let by_default = (self.by_default)();
        let mut names = self.all.names();
        names.retain(|name| by_default.contains(name.as_str()));
        names
    }

    /// Puts a question to the adapters that are named, or to those that are asked by default.
    ///
    /// Each has its own limits; all together have until the `deadline`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels all calls.
    pub async fn ask(
        &self,
        names: Option<&[&str]>,
        question: Question,
        deadline: Duration,
    ) -> Answers<Vec<Found>> {
        let by_default;
        let names = match names {
            Some(names) => names,
            None => {
                by_default = self.names_by_default();
                &by_default
                    .iter()
                    .map(|name| name.as_str())
                    .collect::<Vec<_>>()
            }
        };
        self.all.call_many(names, question, Some(deadline)).await
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known")
            .field("all", &self.all)
            .finish_non_exhaustive()
    }
}
