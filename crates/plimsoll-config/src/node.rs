use crate::Source;
use std::fmt;

/// What a file or the environment gives, before anybody knows what it means.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) source: Source,
    pub(crate) content: Content,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A text, and whether it was written without quotes, so that it may be a null.
#[derive(Clone)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) plain: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Where the key is.
    pub(crate) source: Source,
    pub(crate) node: Node,
}

/// Nobody knows yet which of them is a secret.
impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Node {
    pub(crate) const fn empty(source: Source) -> Self {
        Self {
            source,
            content: Content::Map(Vec::new()),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|entry| entry.is(key))
    }

    pub(crate) fn entries(&self) -> Option<&[Entry]> {
        match &self.content {
            Content::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// What it is, for people, unless that must not be told.
    pub(crate) fn shown_unless(&self, secret: bool) -> String {
        match &self.content {
            Content::Scalar(scalar) if secret && !scalar.is_null() => "***".to_owned(),
            _ => self.shown(),
        }
    }

    /// What it is, for people.
    pub(crate) fn shown(&self) -> String {
        match &self.content {
            Content::Scalar(scalar) if scalar.is_null() => "nothing".to_owned(),
            Content::Scalar(scalar) => clip(&scalar.text),
            Content::List(items) => format!("a list of {}", items.len()),
            Content::Map(entries) => format!("a group of {}", entries.len()),
        }
    }
}

impl Entry {
    /// The key, for people.
    pub(crate) fn shown(&self) -> String {
        match &self.source {
            Source::Variable(_) => self.key.to_ascii_lowercase(),
            _ => clip(&self.key),
        }
    }

    /// Variables are written in capitals, and have no dashes.
    pub(crate) fn is(&self, key: &str) -> bool {
        match &self.source {
            Source::Variable(_) => same_in_a_variable(&self.key, key),
            _ => self.key == key,
        }
    }
}

impl Scalar {
    /// Whether it stands for no value (YAML 1.2 §10.2.1.1).
    pub(crate) fn is_null(&self) -> bool {
        self.plain && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }
}

/// Whether a key is written like this in the name of a variable: `QA_SQL` for `qa-sql`.
pub(crate) fn same_in_a_variable(variable: &str, key: &str) -> bool {
    let (variable, key) = (variable.chars(), key.chars());
    variable
        .map(letter_of_a_variable)
        .eq(key.map(letter_of_a_variable))
}

/// How a key is written in the name of a variable.
pub(crate) fn as_in_a_variable(key: &str) -> String {
    key.chars().map(letter_of_a_variable).collect()
}

const fn letter_of_a_variable(c: char) -> char {
    match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    }
}

/// The most characters of a value that a message repeats.
const MOST_SHOWN: usize = 80;

/// A text that may come from anywhere, for a message.
pub(crate) fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(MOST_SHOWN).collect();
    if clipped.len() < text.len() {
        clipped.push('…');
    }
    let odd = clipped.is_empty() || clipped.contains(|c: char| c.is_control() || c == '\u{feff}');
    match odd {
        true => format!("{clipped:?}"),
        false => clipped,
    }
}
