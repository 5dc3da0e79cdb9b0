//! What routes are said to hold, against what is kept.

use crate::{
    ALLOC,
    plan::{KINDS, Kind, is_over},
    service::Shared,
};
use plimsoll::{
    Attribution, EdgeLayer, MemoryScope,
    alloc::{Retained, live_bytes, process_usage},
    edge::EndpointSnapshot,
    memory::MemoryStats,
};
use std::{fmt::Write as _, iter};

/// Scopes and groups there can be at a time.
const PLACES: usize = 65_535;

/// How many requests were sent, by kind, and how many of them with a budget hold more.
#[derive(Clone, Copy, Default)]
pub(crate) struct Asked {
    by_kind: [u64; KINDS],
    over: u64,
}

impl Asked {
    pub(crate) fn add(&mut self, plan: &[Kind]) {
        for (n, kind) in plan.iter().enumerate() {
            self.by_kind[*kind as usize] += 1;
            self.over += u64::from(*kind == Kind::Budget && is_over(n));
        }
    }

    /// Finds every request counted once, as what it was.
    pub(crate) fn is_counted(&self, edge: &EdgeLayer) {
        for kind in Kind::all() {
            let asked = self.by_kind[kind as usize];
            let over = match kind {
                Kind::Budget => self.over,
                Kind::Over => asked,
                _ => 0,
            };
            let expected = match kind {
                Kind::Budget => vec![("GET", "2xx", asked - over), ("GET", "5xx", over)],
                _ => vec![(kind.method(), kind.class(), asked)],
            };
            let found = endpoint(edge, kind);
            let counts = found.requests.iter();
            let mut counts: Vec<_> = counts
                .map(|counts| (counts.method, counts.status, counts.requests()))
                .collect();
            counts.sort_unstable();
            assert_eq!(counts, expected, "{kind:?}");
            let cut = if kind.is_cut() { asked } else { 0 };
            assert_eq!(found.cut, cut, "{kind:?}");

            let memory = found.memory;
            assert_eq!(memory.requests(), asked, "{kind:?}");
            assert_eq!(memory.attributed(Attribution::Exact), asked, "{kind:?}");
            assert_eq!(memory.over_budget, over, "{kind:?}");
            let ended = match kind {
                Kind::Over => [0, over],
                _ => [over, 0],
            };
            assert_eq!([memory.refused, memory.cut], ended, "{kind:?}");
        }
    }
}

/// How many bytes more or less routes hold than they keep, taken together. An error, if there are
/// more of them than may be, and if what the cache has is not right to the byte: whoever puts
/// something there waits for nobody, and makes nothing grow that others use.
pub(crate) fn off(edge: &EdgeLayer, shared: &Shared, most: u64) -> Result<u64, String> {
    let mut off = 0;
    let mut wrong = false;
    let mut table = String::new();
    for kind in Kind::all() {
        let (kept, values) = shared.kept(Some(kind));
        let MemoryStats { live, retained, .. } = memory(edge, kind);
        off += live.abs_diff(kept);
        wrong |= live != retained.bytes;
        if matches!(kind, Kind::Cache | Kind::Other) {
            wrong |= (retained.bytes, retained.scopes) != (kept, values);
        }
        let _ = writeln!(
            table,
            "{kind:?}: {live} live, {retained:?}, {kept} kept in {values} values"
        );
    }
    match off <= most && !wrong {
        true => Ok(off),
        false => Err(format!("off by {off}\n{table}")),
    }
}

/// Whether the routes together are all that is held in scopes, and everything that is known to be
/// held is what so many threads have allocated, each of which may have 64 KiB to tell.
pub(crate) fn adds_up(edge: &EdgeLayer, threads: u64) -> Result<(), String> {
    let process = process_usage();
    assert_eq!(
        [process.orphaned, process.given_up, process.refused],
        [0; 3]
    );
    let (known, held) = (live_bytes(), ALLOC.live_bytes());
    let routes = edge.snapshot();
    let routes: u64 = routes.iter().map(|endpoint| endpoint.memory.live).sum();
    let unscoped = process.unscoped;
    match known == unscoped + routes && known.abs_diff(held) <= threads * (64 << 10) {
        true => Ok(()),
        false => Err(format!(
            "{held} live, {known} known: {unscoped} in no scope, {routes} in routes"
        )),
    }
}

/// Finds that routes hold nothing, and that all scopes are over, when so many threads are left.
pub(crate) fn is_empty(edge: &EdgeLayer, threads: usize) {
    for kind in Kind::all() {
        let MemoryStats { live, retained, .. } = memory(edge, kind);
        assert_eq!((live, retained), (0, Retained::default()), "{kind:?}");
    }
    // What has not ended keeps its place. So do the groups of the routes, each with one to four stripes
    // of threads, and a thread may keep one for the scope that it opens next.
    let more = iter::repeat_with(MemoryScope::new);
    let mut scopes = Vec::with_capacity(PLACES);
    scopes.extend(more.take_while(MemoryScope::is_counted));
    let taken = PLACES - scopes.len();
    let most = 5 * KINDS + threads;
    assert!((2 * KINDS..=most).contains(&taken), "{taken} are taken");
}

pub(crate) fn memory(edge: &EdgeLayer, kind: Kind) -> MemoryStats {
    endpoint(edge, kind).memory
}

fn endpoint(edge: &EdgeLayer, kind: Kind) -> EndpointSnapshot {
    let route = kind.route();
    let mut endpoints = edge.snapshot().into_iter();
    let endpoint = endpoints.find(|endpoint| endpoint.endpoint.as_str() == route);
    endpoint.expect("it was asked")
}
