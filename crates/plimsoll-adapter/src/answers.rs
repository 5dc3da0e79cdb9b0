use crate::AdapterError;
use plimsoll_core::Rejected;
use std::{borrow::Cow, slice, time::Duration, vec};

/// What one of several adapters said.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer<Res> {
    /// The name that was asked for.
    pub adapter: Cow<'static, str>,
    /// What it said, or why it did not.
    pub result: Result<Res, AdapterError>,
    /// How long that took, the wait in line included.
    pub elapsed: Duration,
}

/// What several adapters said, in the order they were asked for.
#[derive(Debug)]
pub struct Answers<Res>(Vec<Answer<Res>>);

impl<Res> Answer<Res> {
    pub(crate) const fn new(
        adapter: Cow<'static, str>,
        result: Result<Res, AdapterError>,
        elapsed: Duration,
    ) -> Self {
        Self {
            adapter,
            result,
            elapsed,
        }
    }
}

impl<Res> Answers<Res> {
    pub(crate) const fn new(answers: Vec<Answer<Res>>) -> Self {
        Self(answers)
    }

    /// All of them, in the order they were asked for.
    pub fn iter(&self) -> slice::Iter<'_, Answer<Res>> {
        self.0.iter()
    }

    /// Those who answered, with their names.
    pub fn successes(&self) -> impl Iterator<Item = (&str, &Res)> {
        let answers = self.iter();
        answers.filter_map(|answer| Some((&*answer.adapter, answer.result.as_ref().ok()?)))
    }

    /// Those who did not, with their names.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &AdapterError)> {
        let answers = self.iter();
        answers.filter_map(|answer| Some((&*answer.adapter, answer.result.as_ref().err()?)))
    }

    /// Whether all answered.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The refusal that ends first, if there were adapters and all of them refused.
    #[must_use]
    pub fn refused(&self) -> Option<Rejected> {
        let refusals = self.iter().map(|answer| {
            let error = answer.result.as_ref().err()?;
            error.rejected().copied()
        });
        let refusals = refusals.collect::<Option<Vec<_>>>()?.into_iter();
        refusals.min_by_key(|refused| refused.retry_after().unwrap_or(Duration::MAX))
    }

    /// How many were asked for.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was asked for.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<Res> IntoIterator for Answers<Res> {
    type Item = Answer<Res>;
    type IntoIter = vec::IntoIter<Answer<Res>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, Res> IntoIterator for &'a Answers<Res> {
    type Item = &'a Answer<Res>;
    type IntoIter = slice::Iter<'a, Answer<Res>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
