use super::{
    Judgement, LeakConfig, LeakKind, Sensitivity, Verdict,
    rule::{Known, Rising, Rule, goes_on, mean_slope, rise},
    series::{HORIZONS, SPAN, Series, WIDTHS, bucket},
};
use plimsoll_core::Name;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};
use tokio::time::Instant;

/// A name that was not seen for so many seconds, while others were, is forgotten.
const FORGET_AFTER: u32 = 300;

/// How sure a horizon is by itself, from the shortest on.
const WEIGHTS: [f64; HORIZONS] = [0.8, 0.9, 0.95, 1.0];

/// What one alike grows by is between these shares of what the other does.
const ALIKE: std::ops::RangeInclusive<f64> = 0.7..=1.4;

/// Looks for leaks. See the [module docs](super) for what is one.
///
/// It is pure: it goes by the times it is given, and has no clock of its own. What is told late
/// counts for its own time, unless that is too long ago to be judged. A pause leaves a gap, which is as long as it
/// was and costs nothing.
///
/// An observation takes time with the logarithm of the names, a judgement with their number, and
/// each name about 540 bytes.
#[derive(Debug)]
pub struct LeakDetector {
    sensitivity: Sensitivity,
    max_names: usize,
    /// When the first thing was seen. Times are counted in milliseconds from then on.
    began: Option<Instant>,
    /// When something was seen last, in seconds.
    seen: u32,
    /// The bucket of each horizon that was open when it was judged.
    judged: [u32; HORIZONS],
    // Boxed, since a map of large values has room for half as many again.
    names: BTreeMap<(LeakKind, Name), Box<Track>>,
    overflowed: u64,
}

#[derive(Debug)]
struct Track {
    horizons: [Series; HORIZONS],
    leaks: [Option<Leak>; HORIZONS],
    /// What was told of it last, if it leaked.
    told: Option<Leak>,
    held: u64,
    bound: Option<u64>,
    /// When it was seen last, in seconds.
    seen: u32,
    /// Since when it has grown, in seconds, if it leaks.
    since: u32,
}

/// That a name leaks, as one horizon has it. Slopes are by second.
#[derive(Clone, Copy, Debug)]
struct Leak {
    began_slope: f32,
    slope: f32,
    confidence: f32,
    /// Whether it was not confirmed when it was judged last. The second time it ends.
    is_missed: bool,
}

/// What grew over a horizon, in bytes.
#[derive(Default)]
struct Growth {
    by_kind: [f64; LeakKind::ALL.len()],
    /// Of each holding that may grow, and of them together.
    bounded: Vec<f64>,
    all_bounded: f64,
}

impl LeakDetector {
    /// Makes one that has seen nothing.
    #[must_use]
    pub const fn new(config: &LeakConfig) -> Self {
        let (sensitivity, max_names) = config.limits();
        Self {
            sensitivity,
            max_names,
            began: None,
            seen: 0,
            judged: [0; HORIZONS],
            names: BTreeMap::new(),
            overflowed: 0,
        }
    }

    /// Changes how it looks. What it has seen stays, but for names past a lower bound: with the next
    /// judgement the last go, by kind and by the alphabet.
    pub const fn reconfigure(&mut self, config: &LeakConfig) {
        (self.sensitivity, self.max_names) = config.limits();
    }

    /// How many names are looked at.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no name is looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// About how many bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        // Nodes of the map are two thirds full where names come in no order.
        let by_key = (size_of::<(LeakKind, Name)>() + size_of::<Box<Track>>()) * 3 / 2;
        (self.names.len() * (size_of::<Track>() + by_key)) as u64
    }

    /// How many observations there were of names for which there was no place.
    #[must_use]
    pub const fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Takes note of what something holds now: bytes, or how many tasks or descriptors.
    ///
    /// `bound` is the most that it can come to: of a holding in bytes, which may grow up to there; of
    /// tasks and descriptors, of which it tells the time to the limit.
    ///
    /// Tell it once a second or more often: the least is known the better, and the shortest horizon needs
    /// something in most buckets of 3 seconds. Of what goes up and down within such a bucket, once a second may
    /// see a slow beat.
    pub fn observe(
        &mut self,
        now: Instant,
        kind: LeakKind,
        name: Name,
        held: u64,
        bound: Option<u64>,
    ) {
        let now = self.millis(now);
        // What has no name of its own says nothing.
        let is_full = self.names.len() >= self.max_names || name == Name::OVERFLOW;
        let track = match self.names.entry((kind, name)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if is_full => {
                // Which is not worth a count where nothing is looked at.
                self.overflowed += u64::from(self.max_names > 0);
                return;
            }
            Entry::Vacant(entry) => entry.insert(Box::new(Track::new(now))),
        };
        self.seen = self.seen.max(seconds(now));
        track.seen = track.seen.max(seconds(now));
        track.held = held;
        track.bound = bound;
        track.advance(now);
        for (horizon, series) in track.horizons.iter_mut().enumerate() {
            series.observe(bucket(horizon, now), held as f32);
        }
    }

    /// Judges everything by what was seen so far. `headroom` is how many bytes there are to the limit
    /// of the process.
    ///
    /// Call it every second or so. Names that were not seen for five minutes are forgotten.
    pub fn judge(&mut self, now: Instant, headroom: Option<u64>) -> Judgement {
        let mut found = Judgement::default();
        let now = self.millis(now);
        let Some(began) = self.began else {
            return found;
        };
        let open = std::array::from_fn(|horizon| bucket(horizon, now));
        let judged = std::mem::replace(&mut self.judged, open);
        for horizon in (0..HORIZONS).filter(|horizon| judged[*horizon] != open[*horizon]) {
            self.judge_horizon(horizon, now);
        }
        let (seen, mut places) = (self.seen, self.max_names);
        self.names.retain(|(kind, name), track| {
            let is_there = places > 0 && seen.saturating_sub(track.seen) <= FORGET_AFTER;
            places -= usize::from(is_there);
            let leak = track.leak().filter(|_| is_there);
            let before = std::mem::replace(&mut track.told, leak);
            let verdict = |leak: Leak, is_new| Verdict {
                kind: *kind,
                name: *name,
                slope: leak.slope.into(),
                confidence: leak.confidence.into(),
                held: track.held,
                time_to_limit: track.time_to_limit(*kind, leak.slope, headroom),
                since: began + Duration::from_secs(track.since.into()),
                is_new,
            };
            match (before, leak) {
                (_, Some(leak)) => found.standing.push(verdict(leak, before.is_none())),
                (Some(before), None) => found.ended.push(verdict(before, false)),
                (None, None) => {}
            }
            is_there
        });
        found.standing.sort_by(Verdict::worst_first);
        found
    }

    fn judge_horizon(&mut self, horizon: usize, now: u64) {
        let mut growth = Growth::default();
        for ((kind, _), track) in &mut self.names {
            track.advance(now);
            let rise = rise(&track.horizons[horizon].closed()).max(0.0);
            growth.by_kind[*kind as usize] += rise;
            if *kind == LeakKind::Holding && track.is_within_bound() && rise > 0.0 {
                growth.bounded.push(rise);
                growth.all_bounded += rise;
            }
        }
        for ((kind, _), track) in &mut self.names {
            let may_grow = *kind == LeakKind::Holding && track.is_within_bound();
            match self.sensitivity.rule(*kind, horizon) {
                Some(rule) if !may_grow => track.judge(horizon, now, &rule, |rise| {
                    kind.may_be_held() && growth.explains(*kind, rise)
                }),
                _ => track.leaks[horizon] = None,
            }
        }
    }

    /// A time in milliseconds since the first one.
    fn millis(&mut self, now: Instant) -> u64 {
        let began = *self.began.get_or_insert(now);
        let since = now.saturating_duration_since(began).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

impl Sensitivity {
    /// What is a leak on a horizon; none where it is not looked at.
    fn rule(self, kind: LeakKind, horizon: usize) -> Option<Rule> {
        let (scale, most_p, shortest) = match self {
            Self::Off => return None,
            Self::Low => (4.0, 0.000_5, 1),
            Self::Normal => (1.0, 0.001, 0),
            Self::High => (0.25, 0.005, 0),
        };
        let shortest = if kind.is_exact() { shortest } else { 1 };
        if horizon < shortest {
            return None;
        }
        let least_rise = match kind {
            LeakKind::Process => 4.0 * 1_048_576.0,
            kind if kind.is_in_bytes() => 1_048_576.0,
            _ => 32.0,
        };
        // The shortest horizon is for what is nearly without noise.
        let (last_step, least_linear) = match horizon {
            0 => (0.5, 0.97),
            _ => (f64::NEG_INFINITY, 0.8),
        };
        Some(Rule {
            least_rise: least_rise * scale,
            most_p,
            keeps: if kind.is_exact() { 0.8 } else { 0.6 },
            last_step,
            least_linear,
        })
    }
}

impl Growth {
    /// Whether holdings that may grow are what grew here.
    fn explains(&self, kind: LeakKind, rise: f64) -> bool {
        let left = self.by_kind[kind as usize] - self.all_bounded;
        let alike = |held: &f64| ALIKE.contains(&(held / rise));
        left < rise / 2.0 || self.bounded.iter().any(alike)
    }
}

impl Track {
    fn new(now: u64) -> Self {
        Self {
            horizons: std::array::from_fn(|horizon| Series::new(bucket(horizon, now))),
            leaks: [None; HORIZONS],
            told: None,
            held: 0,
            bound: None,
            seen: seconds(now),
            since: 0,
        }
    }

    fn advance(&mut self, now: u64) {
        for (horizon, series) in self.horizons.iter_mut().enumerate() {
            series.advance(horizon, bucket(horizon, now));
        }
    }

    fn is_within_bound(&self) -> bool {
        self.bound.is_some_and(|bound| self.held <= bound)
    }

    /// What all horizons together say: the slope of the shortest, and what is surest.
    fn leak(&self) -> Option<Leak> {
        let leaks = self.leaks.iter().flatten().copied();
        leaks.reduce(|shortest, longer| Leak {
            confidence: shortest.confidence.max(longer.confidence),
            ..shortest
        })
    }

    fn time_to_limit(&self, kind: LeakKind, slope: f32, headroom: Option<u64>) -> Option<Duration> {
        let left = if kind.is_in_bytes() {
            headroom?
        } else {
            self.bound?.saturating_sub(self.held)
        };
        Duration::try_from_secs_f64(left as f64 / f64::from(slope)).ok()
    }

    fn judge(
        &mut self,
        horizon: usize,
        now: u64,
        rule: &Rule,
        is_explained: impl FnOnce(f64) -> bool,
    ) {
        let series = &self.horizons[horizon];
        let span = series.closed();
        let leak = |rising: Rising, began_slope: Option<f32>| {
            let slope = (rising.slope * 1_000.0 / WIDTHS[horizon] as f64) as f32;
            Leak {
                began_slope: began_slope.unwrap_or(slope),
                slope,
                confidence: (rising.confidence() * WEIGHTS[horizon]) as f32,
                is_missed: false,
            }
        };
        let Some(known) = &mut self.leaks[horizon] else {
            let longer = self.horizons.get(horizon + 1).map_or(0.0, |longer| {
                let scale = WIDTHS[horizon] as f64 / WIDTHS[horizon + 1] as f64;
                scale * mean_slope(&longer.closed())
            });
            let past = series.past();
            let known = Known {
                peak: past.peak.into(),
                fell: past.fell.into(),
                swing: series.swing().into(),
                longer,
            };
            let rising = rule.begins(&span, &known);
            let rising = rising.filter(|_| !is_explained(rise(&span)));
            if let Some(rising) = rising {
                if self.leak().is_none() {
                    let width = WIDTHS[horizon];
                    self.since = seconds((now / width).saturating_sub(SPAN as u64) * width);
                }
                self.leaks[horizon] = Some(leak(rising, None));
            }
            return;
        };
        let began = f64::from(known.began_slope) * WIDTHS[horizon] as f64 / 1_000.0;
        match goes_on(&span, began) {
            Some(rising) => *known = leak(rising, Some(known.began_slope)),
            None if known.is_missed => self.leaks[horizon] = None,
            None => known.is_missed = true,
        }
    }
}

fn seconds(millis: u64) -> u32 {
    u32::try_from(millis / 1_000).unwrap_or(u32::MAX)
}

impl Verdict {
    /// What reaches its limit first comes first, then what is surer.
    fn worst_first(&self, other: &Self) -> Ordering {
        let time = |it: &Self| it.time_to_limit.unwrap_or(Duration::MAX);
        let by_time = time(self).cmp(&time(other));
        by_time.then_with(|| other.confidence.total_cmp(&self.confidence))
    }
}
