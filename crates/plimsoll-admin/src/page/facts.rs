//! What the page shows, and where that comes from: what the routes of the API ask, asked once.

use super::chart::Past;
use crate::{load_line::values_of, shared::Shared};
use plimsoll_breaker::{Breakers, State};
use plimsoll_core::{Name, Phase, registry::HoldingSnapshot};
use plimsoll_http::{EdgeLayer, edge::EndpointSnapshot};
use plimsoll_memory::{
    Admission, LoadLine, MemoryFigures, PressureLevel,
    admission::{AdmissionStats, RouteAdmission},
    history::Resolution,
    verdict::Verdict,
};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// The most rows of a table, and names in a line.
pub(super) const ROWS: usize = 10;

/// Everything that the page shows.
pub(super) struct Facts {
    pub(super) now: Instant,
    /// The same by the clock on the wall.
    pub(super) wall: SystemTime,
    pub(super) phase: Phase,
    pub(super) unready: Option<&'static str>,
    pub(super) tasks: usize,
    /// None where one of them does not answer.
    pub(super) breakers: Option<BreakerFacts>,
    /// None where there is no monitor.
    pub(super) line: Option<LineFacts>,
    /// None where a holding does not answer.
    pub(super) holders: Option<Holders>,
    pub(super) links: Links,
}

/// What the monitor knows.
pub(super) struct LineFacts {
    pub(super) state: String,
    /// Whether admission refuses requests.
    pub(super) is_shedding: bool,
    pub(super) figures: MemoryFigures,
    pub(super) past: [Past; 2],
    pub(super) mode: String,
    pub(super) admission: AdmissionStats,
    pub(super) leaks: Top<Verdict>,
}

/// Who holds memory.
pub(super) struct Holders {
    pub(super) holdings: Top<HoldingSnapshot>,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// How many holdings panicked when they were asked, and how many have not been swept in time.
    pub(super) panicked: usize,
    pub(super) overdue: usize,
    /// None where neither an edge nor admission knows any.
    pub(super) routes: Option<Top<Route>>,
}

/// What is known of the requests of a route. Bytes are none where nobody knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Route {
    pub(super) name: Name,
    pub(super) requests: u64,
    pub(super) in_flight: usize,
    pub(super) live: Option<u64>,
    pub(super) retained: Option<u64>,
    /// What the next one is taken to hold at most.
    pub(super) expected: Option<u64>,
    pub(super) over_budget: u64,
    /// For want of memory.
    pub(super) refused: u64,
}

/// How many circuit breakers are in each state, and which of them let not all calls pass.
#[derive(Default)]
pub(super) struct BreakerFacts {
    pub(super) counts: BTreeMap<&'static str, usize>,
    pub(super) refusing: Top<(Name, State)>,
}

/// The first rows of a table, and how many there are in all.
#[derive(Debug)]
pub(super) struct Top<T> {
    pub(super) rows: Vec<T>,
    pub(super) of: usize,
}

/// What else there is to be looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Links {
    pub(super) has_probe: bool,
    pub(super) has_metrics: bool,
    pub(super) has_monitor: bool,
    pub(super) has_edge: bool,
    pub(super) has_configuration: bool,
}

impl Facts {
    pub(super) async fn gather(shared: &Shared) -> Self {
        let (registry, edge) = (shared.registry.clone(), shared.parts.edge.clone());
        let admission = shared.parts.load_line.as_ref();
        let admission = admission.map(|line| line.admission().clone());
        // Whatever is not shown goes on the thread that asks.
        let ask = move || Holders::new(registry.snapshot(), edge.as_ref(), admission.as_ref());
        let (holders, breakers) = tokio::join!(
            shared.asker.ask(ask),
            shared.look_at_breakers(BreakerFacts::new),
        );
        let (parts, wall) = (&shared.parts, SystemTime::now());
        Self {
            now: Instant::now(),
            wall,
            phase: shared.lifecycle.phase(),
            unready: shared.unready(),
            tasks: shared.lifecycle.task_count(),
            breakers,
            line: parts
                .load_line
                .as_ref()
                .map(|line| LineFacts::new(line, wall)),
            holders,
            links: Links {
                has_probe: parts.has_probe,
                has_metrics: parts.has_probe && shared.metrics.is_some(),
                has_monitor: parts.load_line.is_some(),
                has_edge: parts.edge.is_some(),
                has_configuration: parts.configuration.is_some(),
            },
        }
    }
}

impl LineFacts {
    fn new(line: &LoadLine, wall: SystemTime) -> Self {
        let manager = line.manager();
        let config = manager.config();
        let interval = values_of(&config)["interval"].as_f64();
        let interval = interval.and_then(|time| Duration::try_from_secs_f64(time).ok());
        let interval = interval.unwrap_or_default();
        let mode = values_of(&line.admission().config()).remove("mode");
        let past = |resolution| {
            let points = line.history(resolution);
            Past::new(&points, resolution, wall, interval, |limit| {
                config.line_of(limit)
            })
        };
        Self {
            state: line.describe(),
            is_shedding: line.is_shedding(),
            figures: manager.figures(),
            past: [Resolution::Second, Resolution::HalfMinute].map(past),
            mode: mode
                .as_ref()
                .and_then(|mode| mode.as_str())
                .unwrap_or_default()
                .to_owned(),
            admission: line.admission().stats(),
            // The worst come first.
            leaks: Top::first(line.verdicts()),
        }
    }

    /// Whether an operator had better look, short of memory being at the line.
    pub(super) fn is_in_trouble(&self) -> bool {
        let is_short = self.figures.level >= PressureLevel::Elevated;
        is_short || self.is_shedding || !self.leaks.rows.is_empty()
    }
}

impl Holders {
    fn new(
        holdings: Vec<HoldingSnapshot>,
        edge: Option<&EdgeLayer>,
        admission: Option<&Admission>,
    ) -> Self {
        let usages = || holdings.iter().filter_map(|holding| holding.usage);
        let sum = |sum: u64, more: u64| sum.saturating_add(more);
        let entries = usages().map(|usage| usage.entries).fold(0, sum);
        let bytes = usages().map(|usage| usage.bytes).fold(0, sum);
        let routes = (edge.is_some() || admission.is_some()).then(|| {
            let endpoints = edge.map(EdgeLayer::snapshot).unwrap_or_default();
            let admitted = admission.map(Admission::routes).unwrap_or_default();
            routes(&endpoints, &admitted)
        });
        Self {
            entries,
            bytes,
            panicked: holdings.len() - usages().count(),
            overdue: holdings.iter().filter(|holding| holding.overdue).count(),
            holdings: Top::most(holdings, |holding| holding.usage.map(|usage| usage.bytes)),
            routes,
        }
    }
}

/// What edge and admission know of each route.
fn routes(endpoints: &[EndpointSnapshot], admitted: &[RouteAdmission]) -> Top<Route> {
    let mut routes: BTreeMap<_, _> = endpoints
        .iter()
        .map(|endpoint| (endpoint.endpoint, Route::from(endpoint)))
        .collect();
    for admitted in admitted {
        let route = routes.entry(admitted.name);
        let route = route.or_insert_with(|| Route::new(admitted.name));
        // Several layers may go by one name.
        route.expected = route.expected.max(admitted.expected);
        route.refused = route.refused.saturating_add(admitted.refused);
    }
    let routes = routes.into_values().collect();
    Top::most(routes, |route| {
        (route.retained, route.refused, route.requests)
    })
}

impl Route {
    pub(super) const fn new(name: Name) -> Self {
        Self {
            name,
            requests: 0,
            in_flight: 0,
            live: None,
            retained: None,
            expected: None,
            over_budget: 0,
            refused: 0,
        }
    }
}

impl From<&EndpointSnapshot> for Route {
    fn from(snapshot: &EndpointSnapshot) -> Self {
        let memory = &snapshot.memory;
        let exact = memory.is_exact().then_some(memory);
        Self {
            requests: memory.requests(),
            in_flight: snapshot.in_flight,
            live: exact.map(|memory| memory.live),
            retained: exact.map(|memory| memory.retained.bytes),
            over_budget: memory.over_budget,
            ..Self::new(snapshot.endpoint)
        }
    }
}

impl BreakerFacts {
    fn new(breakers: &Breakers) -> Self {
        let all = breakers.list();
        let states = all.iter().map(|breaker| (breaker.name(), breaker.state()));
        Self::of(states)
    }

    pub(super) fn of(states: impl IntoIterator<Item = (Name, State)>) -> Self {
        let mut counts = BTreeMap::new();
        let mut refusing = Vec::new();
        for (name, state) in states {
            *counts.entry(state.as_str()).or_default() += 1;
            if matches!(state, State::Open | State::HalfOpen | State::ForcedOpen) {
                refusing.push((name, state));
            }
        }
        Self {
            counts,
            refusing: Top::first(refusing),
        }
    }
}

impl<T> Top<T> {
    /// Keeps the first of them.
    pub(super) fn first(mut rows: Vec<T>) -> Self {
        let of = rows.len();
        rows.truncate(ROWS);
        rows.shrink_to_fit();
        Self { rows, of }
    }

    /// Keeps those that have most of something; of those that have as much, the first.
    pub(super) fn most<K: Ord>(mut rows: Vec<T>, of: impl Fn(&T) -> K) -> Self {
        rows.sort_by_key(|row| Reverse(of(row)));
        Self::first(rows)
    }
}

impl<T> Default for Top<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            of: 0,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use plimsoll_core::Registry;
    use plimsoll_memory::AdmissionLayer;

    impl Holders {
        pub(crate) fn of(registry: &Registry, routes: Option<Vec<Route>>) -> Self {
            let mut holders = Self::new(registry.snapshot(), None, None);
            holders.routes = routes.map(Top::first);
            holders
        }
    }

    #[test]
    fn those_that_have_most_come_first_and_all_are_counted() {
        let top = Top::most((0..25).collect(), |number| number % 20);
        assert_eq!(top.rows, [19, 18, 17, 16, 15, 14, 13, 12, 11, 10]);
        assert_eq!(top.of, 25);
        let same = Top::most(vec![("b", 1), ("a", 1)], |row| row.1);
        assert_eq!(same.rows, [("b", 1), ("a", 1)]);
    }

    #[test]
    fn routes_are_those_of_edge_and_admission_each_once() {
        let routes = |edge: Option<&EdgeLayer>, admission: Option<&Admission>| {
            let routes = Holders::new(Vec::new(), edge, admission).routes?;
            Some(
                routes
                    .rows
                    .iter()
                    .map(|route| route.name.as_str())
                    .collect(),
            )
        };
        let (edge, admission) = (EdgeLayer::new(), Admission::new());
        assert_eq!(routes(None, None), None::<Vec<_>>);
        assert_eq!(routes(Some(&edge), None), Some(Vec::new()));
        let _layers = ["b", "a", "b"].map(|name| AdmissionLayer::new(name, &admission));
        assert_eq!(routes(None, Some(&admission)), Some(vec!["a", "b"]));
    }

    #[test]
    fn breakers_that_let_not_all_calls_pass_are_named() {
        let [a, b, c] = ["a", "b", "c"].map(Name::from_static);
        let facts = BreakerFacts::of([(a, State::Closed), (b, State::Open), (c, State::Disabled)]);
        assert_eq!(facts.refusing.rows, [(b, State::Open)]);
        let counts: Vec<_> = facts.counts.into_iter().collect();
        assert_eq!(counts, [("closed", 1), ("disabled", 1), ("open", 1)]);
    }
}
