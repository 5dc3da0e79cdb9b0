//! The page of *admin* for people: how the service keeps under its line, and who holds what.
//!
//! It is one answer without scripts and without anything to be fetched besides. It has 96 KiB at the most,
//! since tables have ten rows, names are cut, and charts have a step for each point.

mod chart;
mod facts;
mod html;
mod sections;
#[cfg(test)]
mod tests;

use self::{facts::Facts, html::Html};
use crate::{
    breakers::page::{only_parameter, whole_number, wrong},
    problem::Problem,
    shared::Shared,
};
use axum::{
    Router,
    extract::State,
    http::{HeaderValue, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{ops::RangeInclusive, sync::Arc};

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/", get(page))
}

/// The content type of the page.
pub(crate) const HTML: &str = "text/html; charset=utf-8";

/// After how many seconds the page may be read again by itself.
pub(crate) const REFRESH: RangeInclusive<u64> = 1..=60;

/// Whoever gets markup into the page all the same can neither run a script nor have anything fetched,
/// and no other page can show this one within itself. The style is let in by its digest.
const POLICY: &str = "default-src 'none'; style-src 'sha256-HnLAhgGgO2BYGcvdD9j6Se/ISruiRx1DTPJafrSIG4k='; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "
:root { color-scheme: light dark; --used: #3b76b8; --kept: #9db9d6; --room: #dde3e9; --line: #a15c00; --limit: #b3261e; --soft: #5c6670; }
@media (prefers-color-scheme: dark) {
  :root { --used: #6fa8e8; --kept: #42607f; --room: #30363d; --line: #f0a43c; --limit: #ff8a80; --soft: #a3adb8; }
}
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1rem; }
header, nav ul, .key, .ends { display: flex; flex-wrap: wrap; gap: 0 1rem; justify-content: space-between; }
nav ul, .key { justify-content: flex-start; list-style: none; padding: 0; }
h1 { font-size: 1.1rem; margin: 0; }
h2 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
header p, .ends, figcaption, caption { color: var(--soft); margin: 0; }
.state { border-left: .4rem solid var(--used); font-size: 1.3rem; margin: 1rem 0; padding: .3rem .8rem; overflow-wrap: anywhere; }
.state.elevated, .state.high { border-color: var(--line); }
.state.critical { border-color: var(--limit); }
.wide { margin: .6rem 0; overflow-x: auto; }
table { border-collapse: collapse; }
caption { text-align: left; }
th, td { border-bottom: 1px solid var(--room); font-variant-numeric: tabular-nums; font-weight: normal; padding: .15rem .9rem .15rem 0; text-align: right; vertical-align: top; }
th[scope=row], th:first-child { overflow-wrap: anywhere; text-align: left; }
thead th { color: var(--soft); }
figure { margin: 1rem 0; }
svg { display: block; height: 8rem; width: 100%; }
figure svg { border-bottom: 1px solid var(--soft); }
svg.bar { height: 1.6rem; }
svg path { fill: none; vector-effect: non-scaling-stroke; }
svg .used { fill: var(--used); }
svg .kept { fill: var(--kept); }
svg .room { fill: var(--room); }
svg .line { stroke: var(--line); stroke-dasharray: 6 4; stroke-width: 2; }
svg .limit { stroke: var(--limit); stroke-width: 2; }
.key span { border-bottom: 3px solid var(--used); }
.key .kept { border-color: var(--kept); }
.key .line { border-bottom: 2px dashed var(--line); }
.key .limit { border-color: var(--limit); }
";

/// Whether the page is read again by itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Refresh {
    Off,
    /// So many seconds later.
    Every(u64),
}

async fn page(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Response, Problem> {
    let refresh = Refresh::parse(&uri)?;
    let facts = Facts::gather(&shared).await;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(HTML)),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
    ];
    Ok((headers, render(&facts, refresh)).into_response())
}

fn render(facts: &Facts, refresh: Refresh) -> String {
    let mut html = Html::default();
    html.markup(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\">",
    );
    if let Refresh::Every(seconds) = refresh {
        html.markup("<meta http-equiv=\"refresh\" content=\"");
        html.text(seconds);
        html.markup("\">");
    }
    html.markup("<title>");
    if let Some(line) = &facts.line {
        html.text(format_args!("{}: ", line.figures.level));
    }
    html.markup("Plimsoll</title><style>");
    html.markup(STYLE);
    html.markup("</style></head><body>");
    sections::write(&mut html, facts, refresh);
    html.markup("</body></html>\n");
    html.into_string()
}

impl Refresh {
    fn parse(uri: &Uri) -> Result<Self, Problem> {
        let value = match only_parameter(uri, "refresh")? {
            None => return Ok(Self::Every(5)),
            Some("off") => return Ok(Self::Off),
            Some(value) => value,
        };
        let seconds = whole_number(value).map(|seconds| seconds as u64);
        let seconds = seconds.filter(|seconds| REFRESH.contains(seconds));
        let (least, most) = (REFRESH.start(), REFRESH.end());
        let remedy = || format!("use off, or a whole number of seconds from {least} to {most}");
        let every = seconds.map(Self::Every);
        every.ok_or_else(|| wrong("refresh", value, &remedy()))
    }
}
