//! What `adapters.yaml` says of an adapter, besides its limits: what it is, and where.

use crate::chroma::query_uri;
use plimsoll::{
    HttpClientConfig,
    settings::{Choice, Fields, Kind, Setting, Settings, Value, flag, text},
};

/// The word that stands for the vector service of the demo itself, whose port is a free one.
pub const DEMO: &str = "demo";

/// What an adapter is, and where.
#[derive(Clone, Debug)]
pub struct KindSettings {
    /// What it calls. None where the file does not say, which is a mistake.
    pub kind: Option<KindName>,
    /// Where an adapter over HTTP finds its service; [`DEMO`] is the demo's own.
    pub url: Option<String>,
    /// The limits of connections and answers of an adapter over HTTP. Those of
    /// [`HttpClientConfig::new`] by default, but for 256 KiB of an answer.
    pub client: HttpClientConfig,
    /// Whether it is asked when a request names none. No by default.
    pub by_default: bool,
}

/// What an adapter calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum KindName {
    /// Full-text search in the database file.
    Sql,
    /// Vector search over HTTP.
    Http,
    /// The one that fails on request.
    Flaky,
}

impl Default for KindSettings {
    fn default() -> Self {
        Self {
            kind: None,
            url: None,
            client: HttpClientConfig::new().max_response_bytes(256 * 1024),
            by_default: false,
        }
    }
}

/// Whether both make the same adapter. When it is asked is nothing that the adapter knows, so that
/// it need not be made again for that.
impl PartialEq for KindSettings {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            kind,
            url,
            client,
            by_default: _,
        } = self;
        (kind, url, client) == (&other.kind, &other.url, &other.client)
    }
}

impl Settings for KindSettings {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "type",
            "What it calls: full-text search in the database, vector search over HTTP, or a demo \
             that fails on request.",
            &mut Type(&mut self.kind),
        );
        fields.setting(
            "url",
            "Where an adapter of type http finds its service; demo is the demo's own.",
            &mut text(&mut self.url).or(&["none"]),
        );
        match (self.kind, &self.url) {
            (Some(KindName::Http), url) => fields.require(
                "url",
                url.as_deref()
                    .is_some_and(|url| url == DEMO || query_uri(url).is_some()),
                &"a URL like http://127.0.0.1:8000, or demo, for an adapter of type http",
            ),
            (Some(_), Some(_)) => fields.require(
                "url",
                false,
                &"left out: only an adapter of type http has one",
            ),
            _ => (),
        }
        fields.setting(
            "by_default",
            "Whether it is asked when a request names no adapters.",
            &mut flag(&mut self.by_default),
        );
        fields.group(
            "client",
            "The limits of connections and answers of an adapter of type http.",
            &mut self.client,
        );
    }
}

impl Choice for KindName {
    const NAMES: &'static [&'static str] = &["sql", "http", "flaky"];

    fn name(self) -> &'static str {
        match self {
            Self::Sql => "sql",
            Self::Http => "http",
            Self::Flaky => "flaky",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Sql, Self::Http, Self::Flaky];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

/// The kind as a setting without a default: what is given nowhere is not one of the words.
struct Type<'a>(&'a mut Option<KindName>);

impl Setting for Type<'_> {
    fn kind(&self) -> Kind {
        Kind::Choice(KindName::NAMES)
    }

    fn value(&self) -> Value {
        Value::Word(self.0.map_or("none", KindName::name))
    }

    fn set(&mut self, value: Value) {
        if let Value::Word(name) = value {
            *self.0 = KindName::from_name(name);
        }
    }
}
