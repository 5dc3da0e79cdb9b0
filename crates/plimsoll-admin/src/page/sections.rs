//! What stands on the page, from its top to its end.

use super::{
    Refresh,
    chart::bar,
    facts::{BreakerFacts, Facts, Holders, LineFacts, Links, Route, Top},
    html::{Count, Html, Known, floor_char_boundary},
};
use crate::view::utc;
use plimsoll_core::registry::HoldingSnapshot;
use plimsoll_memory::{
    MemoryFigures, PressureLevel,
    admission::AdmissionStats,
    show::{Percent, Size, Span},
    verdict::Verdict,
};
use std::{
    fmt::Display,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// The longest sentence of state, in bytes. It has five names at the most.
const SENTENCE: usize = 1_024;

/// How much of it stands in the title. Of that, a tab shows the first words.
const TITLE: usize = 100;

/// Writes what a tab shows: how things are comes first.
pub(super) fn title(html: &mut Html, facts: &Facts) {
    if let Some(why) = facts.unready {
        html.text(format_args!("not ready: {why} – "));
    }
    if let Some(line) = &facts.line {
        let beginning = floor_char_boundary(&line.state, TITLE);
        html.text(beginning);
        html.markup(match beginning.len() < line.state.len() {
            true => "… – ",
            false => " – ",
        });
    }
    html.markup("Plimsoll");
}

/// Writes what stands in the body.
pub(super) fn write(html: &mut Html, facts: &Facts, refresh: Refresh) {
    html.markup("<header><h1>Plimsoll</h1>");
    refreshed(html, refresh, facts.wall);
    html.markup("</header><main>");
    state(html, facts);
    service(html, facts);
    if let Some(line) = &facts.line {
        leaks(html, &line.leaks, facts.now);
        memory(html, line);
        html.markup("<div class=\"beside\">");
        figures_of(html, &line.figures);
        admission(html, line);
        html.markup("</div>");
    }
    match &facts.holders {
        Some(holders) => {
            holdings(html, holders, facts.now);
            routes(html, holders.routes.as_ref());
        }
        None => html.markup(
            "<section><h2>Holdings and routes</h2><p>A holding does not answer, so nobody knows \
             now who holds what.</p></section>",
        ),
    }
    links(html, facts.links);
    html.markup("</main>");
}

fn refreshed(html: &mut Html, refresh: Refresh, wall: SystemTime) {
    // 2026-01-31T23:59:59.999Z
    let time = utc(wall);
    let (date, time) = time.split_at(10);
    html.markup("<p>");
    html.text(format_args!("{date} {} UTC. ", &time[1..9]));
    match refresh {
        Refresh::Off => html.markup("Not read again by itself."),
        Refresh::Every(seconds) => html.text(format_args!("Read again every {seconds} s.")),
    }
    html.markup(
        " <a href=\"?refresh=1\">1 s</a> <a href=\"?refresh=5\">5 s</a> \
         <a href=\"?refresh=30\">30 s</a> <a href=\"?refresh=off\">off</a></p>",
    );
}

/// The sentence, in a colour that says whether somebody should do something.
fn state(html: &mut Html, facts: &Facts) {
    let line = facts.line.as_ref();
    html.markup(match line.map(|line| line.figures.level) {
        Some(PressureLevel::Critical) => "<p class=\"state critical\">",
        _ if facts.unready.is_some() || line.is_some_and(LineFacts::is_in_trouble) => {
            "<p class=\"state warning\">"
        }
        Some(PressureLevel::Normal) => "<p class=\"state normal\">",
        _ => "<p class=\"state\">",
    });
    if let Some(why) = facts.unready {
        html.text(format_args!("not ready: {why}; "));
    }
    let none = "the service has no memory monitor";
    let sentence = line.map_or(none, |line| &line.state);
    html.text(floor_char_boundary(sentence, SENTENCE));
    html.markup("</p>");
}

fn service(html: &mut Html, facts: &Facts) {
    html.markup("<section><h2>Service</h2><ul><li>");
    match facts.unready {
        None => html.markup("Ready."),
        Some(why) => {
            html.markup("Not ready: ");
            html.text(why);
            html.markup(".");
        }
    }
    html.text(format_args!(
        " Phase: {}. Named tasks: {}.",
        facts.phase.as_str(),
        facts.tasks
    ));
    html.markup("</li><li>");
    match &facts.breakers {
        None => html.markup("A circuit breaker does not answer."),
        Some(known) => breakers(html, known),
    }
    html.markup("</li></ul></section>");
}

fn breakers(html: &mut Html, known: &BreakerFacts) {
    if known.counts.is_empty() {
        html.markup("No circuit breaker.");
        return;
    }
    html.markup("Circuit breakers:");
    for (number, (state, count)) in known.counts.iter().enumerate() {
        html.markup(if number > 0 { ", " } else { " " });
        html.text(format_args!("{count} {}", state.replace('_', " ")));
    }
    html.markup(".");
    for (name, state) in &known.refusing.rows {
        html.markup(" ");
        html.name(name.as_str());
        html.text(format_args!(": {}.", state.as_str().replace('_', " ")));
    }
    if let Some(more @ 1..) = known.refusing.of.checked_sub(known.refusing.rows.len()) {
        html.text(format_args!(" And {more} more."));
    }
}

fn memory(html: &mut Html, line: &LineFacts) {
    let figures = &line.figures;
    html.markup("<section><h2>Memory of the process</h2>");
    if let (Some(used), Some(limit)) = (figures.used, figures.limit.or(figures.line)) {
        let kept = figures.kept_blocks.unwrap_or(0);
        bar(html, used, kept, figures.line, limit);
    }
    for past in &line.past {
        past.write(html);
    }
    html.markup(
        "<ul class=\"key\"><li class=\"used\">used</li><li class=\"kept\">kept blocks</li>\
         <li class=\"line\">line, as it is set now (dashed)</li><li class=\"limit\">limit (solid)</li></ul>\
         </section>",
    );
}

fn figures_of(html: &mut Html, figures: &MemoryFigures) {
    html.markup("<section><h2>Figures</h2>");
    let about = "At the last look; – is not known";
    table(html, about, &["figure", "value", "of the limit"], |html| {
        row(html, "level", |html| {
            let (level, lasts) = (figures.level, Span(figures.level_for));
            cell(html, format_args!("{level} for {lasts}"));
            cell(html, "");
        });
        row(html, "pressure (100 % is at the line)", |html| {
            cell(html, Known(figures.pressure.value().map(Percent)));
            cell(html, "");
        });
        for (heading, bytes) in [
            ("used", figures.used),
            ("line", figures.line),
            ("limit", figures.limit),
            ("headroom", figures.headroom),
            ("kept blocks", figures.kept_blocks),
            ("tracked", figures.tracked),
            ("unattributed", figures.unattributed),
        ] {
            row(html, heading, |html| {
                cell(html, Known(bytes.map(Size)));
                let share = |(bytes, limit): (u64, u64)| Percent(bytes as f64 / limit as f64);
                let limit = figures.limit.filter(|limit| *limit > 0);
                cell(html, Known(bytes.zip(limit).map(share)));
            });
        }
    });
    html.markup("</section>");
}

fn admission(html: &mut Html, line: &LineFacts) {
    let AdmissionStats {
        running,
        waiting,
        held,
        admitted,
        waited,
        would_wait,
        would_reject,
        cancelled,
        ..
    } = line.admission;
    html.markup("<section><h2>Admission</h2>");
    let about = format_args!("Mode: {}", line.mode);
    table(html, about, &["requests", "how many"], |html| {
        let count_of = |html: &mut Html, heading, count| {
            row(html, heading, |html| cell(html, Count(count)));
        };
        count_of(html, "large, running", running as u64);
        row(html, "what these hold", |html| cell(html, Size(held)));
        for (heading, count) in [
            ("waiting", waiting as u64),
            ("let in", admitted),
            ("had to wait", waited),
            ("refused", line.admission.refused()),
            ("cancelled", cancelled),
            ("would have waited", would_wait),
            ("would have been refused", would_reject),
        ] {
            count_of(html, heading, count);
        }
    });
    html.markup("</section>");
}

fn leaks(html: &mut Html, leaks: &Top<Verdict>, now: Instant) {
    html.markup("<section><h2>Leaks</h2>");
    if leaks.rows.is_empty() {
        html.markup("<p>Nothing is seen to leak.</p></section>");
        return;
    }
    let heads = [
        "name",
        "kind",
        "grows by",
        "confidence",
        "holds",
        "limit in",
        "since",
    ];
    table_of(
        html,
        "What leaks, the worst first",
        leaks,
        &heads,
        |html, leak| {
            name_of_row(html, leak.name.as_str());
            cell(html, leak.kind.as_str());
            if leak.kind.is_in_bytes() {
                // Saturates.
                cell(html, format_args!("{:#}/s", Size(leak.slope as u64)));
            } else {
                cell(html, format_args!("{:.2}/s", leak.slope));
            }
            cell(html, Percent(leak.confidence));
            if leak.kind.is_in_bytes() {
                cell(html, Size(leak.held));
            } else {
                cell(html, Count(leak.held));
            }
            cell(html, Known(leak.time_to_limit.map(Span)));
            cell(html, Ago(now, leak.since));
        },
    );
    html.markup("</section>");
}

fn holdings(html: &mut Html, holders: &Holders, now: Instant) {
    html.markup("<section><h2>Holdings</h2>");
    if holders.holdings.rows.is_empty() {
        html.markup("<p>No holding is registered.</p></section>");
        return;
    }
    html.markup("<p>");
    let (entries, bytes) = (Count(holders.entries), Size(holders.bytes));
    html.text(format_args!("In all: {entries} entries, {bytes:#}."));
    if holders.panicked > 0 {
        html.text(format_args!(" Panicked when asked: {}.", holders.panicked));
    }
    if holders.overdue > 0 {
        html.text(format_args!(" Sweeps overdue: {}.", holders.overdue));
    }
    html.markup("</p>");
    let heads = [
        "name",
        "entries",
        "most entries",
        "bytes",
        "most bytes",
        "full",
        "last sweep",
        "removed",
    ];
    let about = "What holds most";
    table_of(html, about, &holders.holdings, &heads, |html, holding| {
        one_holding(html, holding, now);
    });
    html.markup("</section>");
}

fn one_holding(html: &mut Html, holding: &HoldingSnapshot, now: Instant) {
    let usage = holding.usage;
    name_of_row(html, holding.name.as_str());
    cell(html, Known(usage.map(|usage| Count(usage.entries))));
    let most = usage.and_then(|usage| usage.max_entries);
    cell(html, Known(most.map(Count)));
    cell(html, Known(usage.map(|usage| Size(usage.bytes))));
    let most = usage.and_then(|usage| usage.max_bytes);
    cell(html, Known(most.map(Size)));
    let full = usage.and_then(|usage| usage.utilisation());
    cell(html, Known(full.map(Percent)));
    html.markup("<td>");
    html.text(Known(holding.stats.last.map(|(at, _)| Ago(now, at))));
    html.markup(if holding.overdue { ", overdue" } else { "" });
    html.markup("</td><td class=\"list\">");
    let removed = holding.totals.map(|totals| totals.removed);
    match removed {
        Some(removed) if removed.total() > 0 => {
            for (number, (reason, count)) in removed.iter().enumerate() {
                html.markup(if number > 0 { ", " } else { "" });
                // No line ends between the two.
                html.text(format_args!("{}\u{a0}{}", reason.as_str(), Count(count)));
            }
        }
        removed => html.text(Known(removed.map(|_| 0))),
    }
    html.markup("</td>");
}

fn routes(html: &mut Html, routes: Option<&Top<Route>>) {
    html.markup("<section><h2>Routes</h2>");
    match routes {
        None => html.markup("<p>The service has no edge to be shown.</p>"),
        Some(routes) if routes.rows.is_empty() => {
            html.markup("<p>No request has come yet.</p>");
        }
        Some(routes) => {
            let heads = [
                "name",
                "requests",
                "in flight",
                "hold",
                "retain",
                "next one expected to hold",
                "over budget",
                "refused",
            ];
            let about = "Whose requests retain most after their end";
            table_of(html, about, routes, &heads, |html, route| {
                name_of_row(html, route.name.as_str());
                cell(html, Count(route.requests));
                cell(html, Count(route.in_flight as u64));
                cell(html, Known(route.live.map(Size)));
                cell(html, Known(route.retained.map(Size)));
                cell(html, Known(route.expected.map(Size)));
                cell(html, Count(route.over_budget));
                cell(html, Count(route.refused));
            });
        }
    }
    html.markup("</section>");
}

/// Relative, so that they lead to the same place from behind a proxy.
fn links(html: &mut Html, links: Links) {
    html.markup("<nav aria-label=\"For programs\"><h2>For programs</h2><ul>");
    if links.has_monitor {
        html.markup(
            "<li><a href=\"api/v1/memory/stats\">memory</a></li>\
             <li><a href=\"api/v1/memory/monitor\">monitor</a></li>\
             <li><a href=\"api/v1/memory/history?resolution=1s\">last 10 minutes</a></li>\
             <li><a href=\"api/v1/memory/history?resolution=30s\">last 6 hours</a></li>\
             <li><a href=\"api/v1/memory/history?resolution=10m\">last 48 hours</a></li>",
        );
    }
    html.markup("<li><a href=\"api/v1/memory/holdings\">holdings</a></li>");
    if links.has_edge {
        html.markup("<li><a href=\"api/v1/memory/requests\">requests</a></li>");
    }
    html.markup(
        "<li><a href=\"api/v1/tasks\">tasks</a></li>\
         <li><a href=\"api/v1/breakers\">circuit breakers</a></li>",
    );
    if links.has_configuration {
        html.markup("<li><a href=\"api/v1/config\">configuration</a></li>");
    }
    html.markup("<li><a href=\"api/v1/openapi.json\">OpenAPI</a></li>");
    if links.has_probe {
        html.markup("<li><a href=\"readyz\">readiness</a></li>");
    }
    html.markup(match links.has_metrics {
        true => "<li><a href=\"metrics\">metrics</a></li>",
        false => "<li>metrics: not on this listener</li>",
    });
    html.markup("</ul></nav>");
}

/// Writes a table of names, and in its caption how many rows there would be.
fn table_of<T>(
    html: &mut Html,
    about: &'static str,
    top: &Top<T>,
    heads: &[&'static str],
    mut one: impl FnMut(&mut Html, &T),
) {
    let about = format_args!("{about} ({} of {})", top.rows.len(), top.of);
    table(html, about, heads, |html| {
        for each in &top.rows {
            html.markup("<tr>");
            one(html, each);
            html.markup("</tr>");
        }
    });
}

/// Wide ones can be moved below their edges, and are tables to screen readers all the same.
fn table(
    html: &mut Html,
    about: impl Display,
    heads: &[&'static str],
    rows: impl FnOnce(&mut Html),
) {
    html.markup("<div class=\"wide\"><table><caption>");
    html.text(about);
    html.markup("</caption><thead><tr>");
    for head in heads {
        html.markup("<th scope=\"col\">");
        html.markup(head);
        html.markup("</th>");
    }
    html.markup("</tr></thead><tbody>");
    rows(html);
    html.markup("</tbody></table></div>");
}

fn row(html: &mut Html, heading: &'static str, cells: impl FnOnce(&mut Html)) {
    html.markup("<tr><th scope=\"row\">");
    html.markup(heading);
    html.markup("</th>");
    cells(html);
    html.markup("</tr>");
}

fn name_of_row(html: &mut Html, name: &str) {
    html.markup("<th scope=\"row\">");
    html.name(name);
    html.markup("</th>");
}

fn cell(html: &mut Html, text: impl Display) {
    html.markup("<td>");
    html.text(text);
    html.markup("</td>");
}

/// How long before a time another was.
struct Ago(Instant, Instant);

impl Display for Ago {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ago: Duration = self.0.saturating_duration_since(self.1);
        write!(f, "{} ago", Span(ago))
    }
}
