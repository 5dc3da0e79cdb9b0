use crate::settings::{Kind, Value};
use std::{borrow::Cow, error::Error, fmt, ops::RangeInclusive};

/// A configuration that cannot be used. Says every problem it has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError(Vec<ConfigProblem>);

/// One value that is out of its range.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ConfigProblem {
    /// The setter it was given to.
    pub field: Cow<'static, str>,
    /// The value, as text.
    pub value: String,
    /// What it must be.
    pub expected: String,
}

/// Collects what is wrong with a configuration, so that all of it is told at once.
///
/// ```
/// use plimsoll_core::{
///     Problems,
///     settings::{Kind, Value},
/// };
///
/// let mut problems = Problems::default();
/// problems.check("max_entries", &Kind::Integer(1..=100), &Value::Integer(0));
/// problems.check("max_keys", &Kind::Integer(1..=100), &Value::Integer(7));
/// let error = problems.into_result().unwrap_err();
/// assert_eq!(error.to_string(), "`max_entries` is 0, but must be between 1 and 100");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Problems(Vec<ConfigProblem>);

impl ConfigError {
    /// Every problem, in the order of the setters. Never empty.
    #[must_use]
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.0
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for problem in &self.0 {
            write!(f, "{separator}{problem}")?;
            separator = "; ";
        }
        Ok(())
    }
}

impl Error for ConfigError {}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            value,
            expected,
        } = self;
        write!(f, "`{field}` is {value}, but must be {expected}")
    }
}

impl Problems {
    /// Adds a problem. `expected` goes on from "must be".
    pub fn add(&mut self, field: impl Into<Cow<'static, str>>, value: String, expected: String) {
        self.0.push(ConfigProblem {
            field: field.into(),
            value,
            expected,
        });
    }

    /// Adds a problem if `kind` does not [admit](Kind::admits) the value. Of sizes by name, each
    /// that is wrong is told by itself, under `field.name`.
    pub fn check(&mut self, field: impl Into<Cow<'static, str>>, kind: &Kind, value: &Value) {
        let field = field.into();
        match (kind, value) {
            _ if kind.admits(value) => {}
            (Kind::Sizes(_), Value::Sizes(sizes)) if sizes.len() > Kind::MAX_NAMES => {
                let expected = format!("a group of at most {} names", Kind::MAX_NAMES);
                self.add(field, format!("a group of {}", sizes.len()), expected);
            }
            (Kind::Sizes(range), Value::Sizes(sizes)) => {
                for (name, size) in sizes {
                    self.check_size(&field, range, name, *size);
                }
            }
            _ => self.add(field, value.to_string(), kind.to_string()),
        }
    }

    fn check_size(&mut self, field: &str, range: &RangeInclusive<u64>, name: &str, size: u64) {
        let shown = Value::Bytes(size);
        if !Kind::admits_name(name) {
            let most = Kind::MAX_NAME_BYTES;
            let expected = format!("for names of 1 to {most} bytes without control characters");
            // It may be of any length.
            let name: String = name.chars().take(80).collect();
            self.add(field.to_owned(), format!("{shown} for {name:?}"), expected);
        } else {
            let kind = Kind::Bytes(range.clone());
            self.check(format!("{field}.{name}"), &kind, &shown);
        }
    }

    /// Adds the problems that another check found, if any.
    pub fn add_all(&mut self, checked: Result<(), ConfigError>) {
        if let Err(error) = checked {
            self.0.extend(error.0);
        }
    }

    /// Ends the check.
    ///
    /// # Errors
    ///
    /// When there is a problem.
    pub fn into_result(self) -> Result<(), ConfigError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(ConfigError(self.0))
        }
    }
}
