use crate::settings::{Kind, Value};
use std::{borrow::Cow, error::Error, fmt, ops::RangeInclusive, time::Duration};

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
/// use plimsoll_core::Problems;
///
/// let mut problems = Problems::default();
/// problems.number("max_entries", 0, 1..=100);
/// problems.number("max_bytes", 7, 1..=100);
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

    /// Adds the problems that another check found, if any.
    pub fn add_all(&mut self, checked: Result<(), ConfigError>) {
        if let Err(error) = checked {
            self.0.extend(error.0);
        }
    }

    /// Adds a problem if `value` is out of its range. A NaN is out of every range.
    pub fn number<T>(&mut self, field: &'static str, value: T, range: RangeInclusive<T>)
    where
        T: Copy + PartialOrd + fmt::Display,
    {
        if !range.contains(&value) {
            let expected = format!("between {} and {}", range.start(), range.end());
            self.add(field, value.to_string(), expected);
        }
    }

    /// Adds a problem if `value` is out of its range.
    pub fn duration(
        &mut self,
        field: &'static str,
        value: Duration,
        range: RangeInclusive<Duration>,
    ) {
        if !range.contains(&value) {
            let expected = Kind::Duration(range).to_string();
            self.add(field, Value::Duration(value).to_string(), expected);
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
