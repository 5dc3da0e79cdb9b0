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
const POLICY: &str = "default-src 'none'; style-src 'sha256-1bVAZvZbJlR6cDHArLmwsRZdbX/MDWjfG+uBMbsHEUs='; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "
:root { color-scheme: light dark; --used: #2f6cb0; --fill: #b9d1ea; --line: #a15c00; --limit: #b3261e; --soft: #5c6670; --rule: #d5dbe1; --calm: #eef4fa; --warn: #fff1d9; --bad: #fde7e5; }
@media (prefers-color-scheme: dark) {
  :root { --used: #6fa8e8; --fill: #2b4766; --line: #f0a43c; --limit: #ff8a80; --soft: #a3adb8; --rule: #3a424b; --calm: #1a2530; --warn: #352709; --bad: #421a17; }
}
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 66rem; padding: 1rem; }
header, nav ul, .key, .beside { display: flex; flex-wrap: wrap; gap: 0 1rem; justify-content: space-between; }
nav ul, .key { justify-content: flex-start; list-style: none; margin: .6rem 0; padding: 0; }
.beside { align-items: flex-start; gap: 0 4rem; justify-content: flex-start; }
.beside > section { max-width: 100%; }
li { overflow-wrap: anywhere; }
h1 { font-size: 1.1rem; margin: 0; }
h2 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
header p, .x, .y, .key, figcaption, caption { color: var(--soft); margin: 0; }
.state { background: var(--calm); border-left: .5rem solid var(--soft); font-size: 1.3rem; margin: 1rem 0; overflow-wrap: anywhere; padding: .6rem .8rem; }
.state.normal { border-color: var(--used); }
.state.warning { background: var(--warn); border-color: var(--line); }
.state.critical { background: var(--bad); border-color: var(--limit); }
.wide { margin: .6rem 0; overflow-x: auto; }
table { border-collapse: collapse; }
caption { text-align: left; }
th, td { border-bottom: 1px solid var(--rule); font-variant-numeric: tabular-nums; font-weight: normal; padding: .15rem 0 .15rem 1.2rem; text-align: right; vertical-align: top; white-space: nowrap; }
thead th { color: var(--soft); vertical-align: bottom; white-space: normal; }
th:first-child { background: Canvas; left: 0; max-width: 24rem; min-width: 7rem; overflow-wrap: anywhere; padding-left: 0; position: sticky; text-align: left; white-space: normal; }
.list { min-width: 9rem; white-space: normal; }
figure { margin: .6rem 0 1.2rem; }
figcaption { margin-bottom: .5rem; }
.chart { display: grid; grid-template-columns: 1fr 5rem; }
.y { display: flex; flex-direction: column; font-size: .85rem; justify-content: space-between; line-height: 1; margin: -.4rem 0; padding-left: .4rem; }
.x { display: grid; font-size: .85rem; grid-template-columns: 1fr auto 1fr; }
.x :last-child { text-align: right; }
svg { display: block; height: 8rem; overflow: visible; width: 100%; }
figure svg { border-bottom: 1px solid var(--soft); }
svg.bar { border: 0; height: 1.6rem; }
path, rect { fill: none; vector-effect: non-scaling-stroke; }
.grid { stroke: var(--rule); }
svg .used { fill: var(--fill); stroke: var(--used); stroke-width: 1.5; }
svg .kept { stroke: var(--used); stroke-width: 1.5; }
svg .room { fill: var(--calm); stroke: var(--rule); }
svg .line { stroke: var(--line); stroke-dasharray: 6 4; stroke-width: 2; }
svg .limit { stroke: var(--limit); stroke-width: 2; }
.key li::before { border: 1.5px solid var(--used); box-sizing: border-box; content: ''; display: inline-block; height: .8em; margin-right: .4em; width: 1.4em; }
.key .used::before { background: var(--fill); }
.key .line::before, .key .limit::before { border-width: 2px 0 0; height: 0; vertical-align: .25em; }
.key .line::before { border-color: var(--line); border-style: dashed; }
.key .limit::before { border-color: var(--limit); }
@media (max-width: 40rem) {
  .state { font-size: 1.1rem; }
  th:first-child { max-width: 9rem; }
}
@media print {
  header a, nav { display: none; }
  figure, tr, .state { break-inside: avoid; }
  .state, svg, .key { print-color-adjust: exact; }
  .wide { overflow: visible; }
}
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
    sections::title(&mut html, facts);
    html.markup("</title><style>");
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
