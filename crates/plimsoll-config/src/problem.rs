use crate::Source;
use std::{error::Error, fmt, sync::Arc};

/// A configuration that cannot be used: everything that is wrong with it.
///
/// Its `Display` is one line for one problem, and a list for several.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LoadError {
    problems: Vec<Problem>,
    /// Problems beyond those that are kept.
    more: usize,
}

/// The exit code of a program that ends because its configuration cannot be used.
pub const EXIT_CODE: u8 = 2;

/// The most problems that are told of at once.
const MOST_PROBLEMS: usize = 100;
/// The most known keys that a problem tells of.
const MOST_KNOWN: usize = 64;

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Problem {
    /// Where it is.
    pub source: Source,
    /// The setting, with the groups it is in: `fault_tolerance.timeout`. Empty for a file as a
    /// whole.
    pub key: String,
    /// What is wrong.
    pub what: What,
}

/// What is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum What {
    /// The value cannot be used.
    Value {
        /// The value; that of a secret is not told.
        value: String,
        /// What it must be.
        expected: String,
    },
    /// There is no such key.
    UnknownKey {
        /// The one that was meant, probably.
        nearest: Option<String>,
        /// Those that there are, the first 64 of them.
        known: Vec<String>,
    },
    /// Anything else, in words.
    Other(String),
}

/// Collects problems.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems {
    problems: Vec<Problem>,
    more: usize,
}

impl LoadError {
    /// A single problem, of a setting or (with no key) of something as a whole.
    #[must_use]
    pub fn new(source: Source, key: &str, what: impl fmt::Display) -> Self {
        let mut problems = Problems::default();
        problems.other(source, key, what);
        problems.into()
    }

    pub(crate) fn one(source: Source, what: impl fmt::Display) -> Self {
        Self::new(source, "", what)
    }

    /// Every problem, or the first 100 that were found, in the order of their places: files as they
    /// were read, each from its top to its bottom, then all else. Never empty.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many problems there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.problems.len() + self.more
    }

    /// Both together, since all problems are told at once.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        let mut all = Problems {
            problems: std::mem::take(&mut self.problems),
            more: self.more + other.more,
        };
        let others = other.problems.into_iter();
        others.for_each(|problem| all.add(problem));
        all.into()
    }
}

impl Problems {
    pub(crate) fn add(&mut self, problem: Problem) {
        // What several settings take from the same place is told once.
        if self.problems.contains(&problem) {
            return;
        }
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn value(
        &mut self,
        source: Source,
        key: impl Into<String>,
        value: impl Into<String>,
        expected: impl fmt::Display,
    ) {
        let (value, expected) = (value.into(), expected.to_string());
        self.add(Problem {
            source,
            key: key.into(),
            what: What::Value { value, expected },
        });
    }

    pub(crate) fn unknown(&mut self, source: Source, key: String, name: &str, known: &[&str]) {
        // No need to look for what was meant if it is not told.
        if self.problems.len() >= MOST_PROBLEMS {
            self.more += 1;
            return;
        }
        let nearest = nearest(name, known).map(str::to_owned);
        self.add(Problem {
            source,
            key,
            what: What::UnknownKey {
                nearest,
                known: known
                    .iter()
                    .take(MOST_KNOWN)
                    .map(ToString::to_string)
                    .collect(),
            },
        });
    }

    pub(crate) fn other(
        &mut self,
        source: Source,
        key: impl Into<String>,
        what: impl fmt::Display,
    ) {
        self.add(Problem {
            source,
            key: key.into(),
            what: What::Other(what.to_string()),
        });
    }

    pub(crate) fn any_under(&self, path: &str) -> bool {
        let is_under = |problem: &Problem| {
            let rest = problem.key.strip_prefix(path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.problems.iter().any(is_under)
    }

    pub(crate) fn has_at(&self, key: &str, source: &Source) -> bool {
        let mut problems = self.problems.iter();
        problems.any(|problem| problem.key == key && problem.source == *source)
    }

    pub(crate) fn into_result(self) -> Result<(), LoadError> {
        match self.problems.is_empty() {
            true => Ok(()),
            false => Err(self.into()),
        }
    }
}

impl From<Problems> for LoadError {
    fn from(Problems { mut problems, more }: Problems) -> Self {
        let mut files: Vec<Arc<str>> = Vec::new();
        for problem in &problems {
            if let Source::File { file, .. } = &problem.source
                && !files.contains(file)
            {
                files.push(file.clone());
            }
        }
        // What is said of one place stays in the order in which it was found.
        problems.sort_by_key(|problem| match &problem.source {
            Source::File { file, line, column } => {
                let file = files.iter().position(|name| name == file);
                (file.unwrap_or_default(), *line, *column)
            }
            _ => (usize::MAX, 0, 0),
        });
        Self { problems, more }
    }
}

/// How alike a key must be to be taken for what was meant, from 0 to 1.
const ALIKE: f64 = 0.8;

/// The known key that is most like this one, if one is.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // Keys are short and few; whatever is not was no slip of the hand, and would take long to
    // compare.
    if name.len() > 64 || known.len() > 1_000 {
        return None;
    }
    let name = name.to_ascii_lowercase().replace('-', "_");
    let alike = |known: &str| strsim::jaro_winkler(&name, known);
    let known = known.iter().copied().map(|known| (alike(known), known));
    let known = known.filter(|(alike, _)| *alike >= ALIKE);
    let nearest = known.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    Some(nearest.1)
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [problem] = &*self.problems
            && self.more == 0
        {
            return problem.fmt(f);
        }
        write!(f, "{} problems:", self.count())?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        if self.more > 0 {
            write!(f, "\n  and {} more", self.more)?;
        }
        Ok(())
    }
}

impl Error for LoadError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, key, what } = self;
        write!(f, "{source}: ")?;
        match what {
            What::Value { value, expected } if key.is_empty() => {
                write!(f, "is {value}, but must be {expected}")
            }
            What::Value { value, expected } => {
                write!(f, "`{key}` is {value}, but must be {expected}")
            }
            What::UnknownKey { nearest, known } => {
                write!(f, "`{key}` is not known")?;
                match nearest {
                    Some(nearest) => write!(f, ": did you mean `{nearest}`?"),
                    None if known.is_empty() => Ok(()),
                    None => {
                        write!(f, ": there are {}", known.join(", "))?;
                        match known.len() < MOST_KNOWN {
                            true => Ok(()),
                            false => f.write_str(", …"),
                        }
                    }
                }
            }
            What::Other(what) if key.is_empty() => f.write_str(what),
            What::Other(what) => write!(f, "`{key}` {what}"),
        }
    }
}
