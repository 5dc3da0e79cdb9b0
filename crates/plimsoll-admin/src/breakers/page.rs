//! Which part of a history is asked for: the parameters of a request.

use crate::problem::Problem;
use axum::http::{StatusCode, Uri};
use plimsoll_breaker::{CallOutcome, CallsQuery};
use std::{borrow::Cow, ops::RangeInclusive, time::Duration};

const LIMITS: RangeInclusive<usize> = 1..=1_000;
const DEFAULT_LIMIT: usize = 100;

const NAMES: [&str; 5] = ["limit", "offset", "outcome", "slow", "within"];

/// A part of a history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    /// The calls, but for the offset and the limit.
    filter: CallsQuery,
    pub(super) offset: usize,
    pub(super) limit: usize,
}

impl Page {
    pub(super) fn parse(uri: &Uri) -> Result<Self, Problem> {
        let mut page = Self {
            filter: CallsQuery::new(),
            offset: 0,
            limit: DEFAULT_LIMIT,
        };
        let mut given = Vec::new();
        for (name, value) in parameters(uri) {
            page.take(name, value)?;
            if given.contains(&name) {
                let detail =
                    format!("`{name}` is given twice, {value:?} the last time: once will do");
                return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
            }
            // At most as many as there are names.
            given.push(name);
        }
        Ok(page)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        let wrong = |remedy: &str| wrong(name, value, remedy);
        match name {
            "limit" => {
                let limit = whole_number(value).filter(|limit| LIMITS.contains(limit));
                let (least, most) = (LIMITS.start(), LIMITS.end());
                self.limit = limit
                    .ok_or_else(|| wrong(&format!("use a whole number from {least} to {most}")))?;
            }
            "offset" => {
                let offset = whole_number(value);
                self.offset = offset.ok_or_else(|| wrong("use a whole number from 0"))?;
            }
            "outcome" => {
                let known = CallOutcome::ALL;
                let outcome = known.into_iter().find(|known| known.as_str() == value);
                let remedy = || known.map(CallOutcome::as_str).join(", ");
                let outcome = outcome.ok_or_else(|| wrong(&format!("use one of {}", remedy())))?;
                self.filter = self.filter.outcome(outcome);
            }
            "slow" => {
                let slow = value.parse().map_err(|_| wrong("use true or false"))?;
                self.filter = self.filter.slow(slow);
            }
            "within" => {
                let time = seconds(value).ok_or_else(|| wrong("use seconds, 60 or 0.5 say"))?;
                self.filter = self.filter.within(time);
            }
            _ => {
                let names = NAMES.join(", ");
                return Err(wrong(&format!("there is no such parameter, use {names}")));
            }
        }
        Ok(())
    }

    pub(super) const fn query(&self) -> CallsQuery {
        self.filter.skip(self.offset).limit(self.limit)
    }

    /// Where the next page begins, if anything is left after `shown` on this one.
    pub(super) fn next_offset(&self, shown: usize, matching: usize) -> Option<usize> {
        let next = self.offset.saturating_add(shown);
        (next < matching).then_some(next)
    }
}

/// Refuses parameters where none is known, so that none is thought to have been heeded.
pub(crate) fn no_parameters(uri: &Uri) -> Result<(), Problem> {
    match parameters(uri).next() {
        Some((name, value)) => Err(wrong(name, value, "this takes no parameters, leave it out")),
        None => Ok(()),
    }
}

/// The value of the one parameter that there may be.
pub(crate) fn only_parameter<'a>(uri: &'a Uri, known: &str) -> Result<Option<&'a str>, Problem> {
    let mut only = None;
    for (name, value) in parameters(uri) {
        if name != known {
            let remedy = format!("there is no such parameter, use {known}");
            return Err(wrong(name, value, &remedy));
        }
        if only.replace(value).is_some() {
            return Err(wrong(name, value, "it is given twice, once will do"));
        }
    }
    Ok(only)
}

/// The parameters as they are: no value that means anything here has to be encoded.
fn parameters(uri: &Uri) -> impl Iterator<Item = (&str, &str)> {
    let query = uri.query().unwrap_or_default();
    let given = query.split('&').filter(|parameter| !parameter.is_empty());
    given.map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
}

pub(crate) fn wrong(name: &str, value: &str, remedy: &str) -> Problem {
    let (name, value) = (shortened(name), shortened(value));
    let detail = format!("`{name}` is {value:?}: {remedy}");
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

/// The beginning of a text of which a client may send kilobytes, so that the remedy is found behind it.
fn shortened(text: &str) -> Cow<'_, str> {
    const CHARACTERS: usize = 100;
    match text.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

pub(crate) fn whole_number(digits: &str) -> Option<usize> {
    // `parse` would take a sign.
    let plain = digits.bytes().all(|c| c.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

fn seconds(text: &str) -> Option<Duration> {
    // `parse` would take a sign, an exponent and words.
    let plain = text.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    let seconds = text.parse().ok().filter(|_| plain)?;
    Duration::try_from_secs_f64(seconds).ok()
}
