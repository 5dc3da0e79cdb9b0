//! What the process held over the last days, in fixed memory.

use plimsoll_core::{Pressure, settings::Choice};
use std::{
    error::Error,
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// How finely a [`History`] is read.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Resolution {
    /// The last 10 minutes by seconds: `1s`.
    Second,
    /// The last 6 hours by half minutes: `30s`.
    HalfMinute,
    /// The last 48 hours by 10 minutes: `10m`.
    TenMinutes,
}

/// No resolution has that name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownResolution(());

/// What is recorded at a time. What is not known is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// What the process uses of its limit, in bytes: the working set.
    pub used: Option<u64>,
    /// What the allocator counts as held, in bytes.
    pub tracked: Option<u64>,
    /// What of the process is in memory, in bytes.
    pub resident: Option<u64>,
    /// The limit, in bytes.
    pub limit: Option<u64>,
    /// How close it is to the limit.
    pub pressure: Pressure,
    /// How many tasks are alive.
    pub tasks: Option<u64>,
    /// How many requests are in flight.
    pub in_flight: Option<u64>,
    /// How many requests were refused since the process began, for want of memory.
    pub refused: u64,
}

/// What a [`History`] knows of one second, half minute, or ten minutes. Bytes are whole KiB, up to 4 TiB.
///
/// Besides what is used, each is what was recorded last in that time.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct HistoryPoint {
    /// When it begins, after the history did.
    pub at: Duration,
    /// When it begins by the clock on the wall, as that goes now.
    pub time: SystemTime,
    /// What was used, in bytes.
    pub used: Option<Used>,
    /// What the allocator counted as held, in bytes.
    pub tracked: Option<u64>,
    /// What of the process was in memory, in bytes.
    pub resident: Option<u64>,
    /// The limit, in bytes.
    pub limit: Option<u64>,
    /// How close it was to the limit, in steps of a ten-thousandth.
    pub pressure: Pressure,
    /// How many tasks were alive.
    pub tasks: Option<u64>,
    /// How many requests were in flight.
    pub in_flight: Option<u64>,
    /// How many requests were refused in that time.
    pub refused: u64,
}

/// What was used over a time, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Used {
    /// The least.
    pub min: u64,
    /// The mean of what was recorded.
    pub mean: u64,
    /// The most.
    pub max: u64,
}

/// A history of what the process holds, at three [resolutions](Resolution).
///
/// It takes less than 64 KiB, all of them when it is made, and each point goes into all three, so that
/// recording takes the same time whatever there is. Where nothing was recorded there is no point; a pause
/// costs no more than forgetting what is too old.
///
/// It goes by the times it is given. One that goes back counts as the latest so far.
///
/// ```
/// use plimsoll_memory::history::{History, Point, Resolution};
/// use std::time::{Duration, SystemTime};
/// use tokio::time::Instant;
///
/// let began = Instant::now();
/// let mut history = History::new(began, SystemTime::now());
/// for (second, used) in [(0, 10 << 20), (1, 30 << 20), (31, 20 << 20)] {
///     let point = Point { used: Some(used), ..Point::default() };
///     history.record(began + Duration::from_secs(second), point);
/// }
/// let resolution: Resolution = "30s".parse().unwrap();
/// let used: Vec<_> = history.points(resolution).filter_map(|point| point.used).collect();
/// assert_eq!((used[0].min, used[0].mean, used[0].max), (10 << 20, 20 << 20, 30 << 20));
/// assert_eq!(used[1].mean, 20 << 20);
/// ```
#[derive(Clone)]
pub struct History {
    began: Instant,
    /// The clock on the wall when it began.
    wall: SystemTime,
    /// How many were refused in all, by the latest point.
    refused: Option<u64>,
    rings: [Ring; RESOLUTIONS],
}

const RESOLUTIONS: usize = Resolution::ALL.len();

/// The slots of one resolution.
#[derive(Clone)]
struct Ring {
    /// How long a slot is, in seconds.
    width: u64,
    /// The number of the newest slot, by the time since the history began.
    newest: u64,
    /// What was used in it, added up in KiB, and how often that was recorded.
    sum: u64,
    count: u64,
    /// By their number.
    slots: Box<[Slot]>,
}

/// What is known of one time, as small as it can be: 40 bytes.
#[derive(Clone, Copy)]
struct Slot {
    min: Small,
    mean: Small,
    max: Small,
    tracked: Small,
    resident: Small,
    limit: Small,
    tasks: Small,
    in_flight: Small,
    refused: u32,
    pressure: u16,
    is_there: bool,
}

/// A number up to 2^32 - 2, or none.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Small(u32);

impl Resolution {
    /// Every resolution, finest first.
    pub const ALL: [Self; 3] = [Self::Second, Self::HalfMinute, Self::TenMinutes];

    /// How long a point is.
    #[must_use]
    pub const fn width(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::HalfMinute => 30,
            Self::TenMinutes => 600,
        })
    }

    /// How many points are kept.
    #[must_use]
    pub const fn points(self) -> usize {
        match self {
            Self::Second => 600,
            Self::HalfMinute => 720,
            Self::TenMinutes => 288,
        }
    }
}

impl Choice for Resolution {
    const NAMES: &'static [&'static str] = &["1s", "30s", "10m"];

    fn name(self) -> &'static str {
        match self {
            Self::Second => "1s",
            Self::HalfMinute => "30s",
            Self::TenMinutes => "10m",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        match name {
            "1s" => Some(Self::Second),
            "30s" => Some(Self::HalfMinute),
            "10m" => Some(Self::TenMinutes),
            _ => None,
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Resolution {
    type Err = UnknownResolution;

    /// Reads `1s`, `30s` or `10m`.
    fn from_str(name: &str) -> Result<Self, UnknownResolution> {
        Self::from_name(name).ok_or(UnknownResolution(()))
    }
}

impl fmt::Display for UnknownResolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a resolution is one of {}", Resolution::NAMES.join(", "))
    }
}

impl Error for UnknownResolution {}

impl Default for Point {
    /// Nothing is known.
    fn default() -> Self {
        Self {
            used: None,
            tracked: None,
            resident: None,
            limit: None,
            pressure: Pressure::UNKNOWN,
            tasks: None,
            in_flight: None,
            refused: 0,
        }
    }
}

impl HistoryPoint {
    /// What was in memory and nobody had counted, in bytes. None where one of the two is not known.
    ///
    /// Large blocks that were [kept](crate::MemoryFigures::kept_blocks) are among it, for which a point has no
    /// place: it may be more than [`MemoryFigures::unattributed`](crate::MemoryFigures::unattributed) was.
    #[must_use]
    pub fn unattributed(&self) -> Option<u64> {
        Some(self.resident?.saturating_sub(self.tracked?))
    }
}

impl History {
    /// Makes an empty history that begins now, which is `wall` by the clock on the wall.
    #[must_use]
    pub fn new(now: Instant, wall: SystemTime) -> Self {
        Self {
            began: now,
            wall,
            refused: None,
            rings: Resolution::ALL.map(Ring::new),
        }
    }

    /// Sets the clock on the wall, by which [`HistoryPoint::time`] goes. To be told again where that may
    /// have been put right, or the machine has slept.
    pub fn set_wall(&mut self, now: Instant, wall: SystemTime) {
        let since = now.saturating_duration_since(self.began);
        self.wall = wall.checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH);
    }

    /// Records what there is now.
    pub fn record(&mut self, now: Instant, point: Point) {
        let since = now.saturating_duration_since(self.began);
        // Of the first point nobody knows when they were refused. A count that fell was begun anew.
        let before = self.refused.replace(point.refused);
        let refused = point
            .refused
            .saturating_sub(before.unwrap_or(point.refused));
        for ring in &mut self.rings {
            ring.record(since, &point, refused);
        }
    }

    /// What is known at a resolution, oldest first. The last is of a time that may not be over.
    pub fn points(&self, resolution: Resolution) -> impl Iterator<Item = HistoryPoint> + '_ {
        let ring = &self.rings[resolution as usize];
        let oldest = (ring.newest + 1).saturating_sub(ring.slots.len() as u64);
        (oldest..=ring.newest).filter_map(move |number| {
            let slot = ring.slots[ring.place(number)];
            let at = Duration::from_secs(number * ring.width);
            slot.is_there.then(|| self.point(slot, at))
        })
    }

    fn point(&self, slot: Slot, at: Duration) -> HistoryPoint {
        let used = || {
            Some(Used {
                min: slot.min.bytes()?,
                mean: slot.mean.bytes()?,
                max: slot.max.bytes()?,
            })
        };
        HistoryPoint {
            at,
            time: self.wall.checked_add(at).unwrap_or(self.wall),
            used: used(),
            tracked: slot.tracked.bytes(),
            resident: slot.resident.bytes(),
            limit: slot.limit.bytes(),
            pressure: match slot.pressure {
                u16::MAX => Pressure::UNKNOWN,
                steps => Pressure::new(f64::from(steps) / STEPS),
            },
            tasks: slot.tasks.number(),
            in_flight: slot.in_flight.number(),
            refused: slot.refused.into(),
        }
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let newest = self.points(Resolution::Second).last();
        f.debug_struct("History")
            .field("began", &self.began)
            .field("newest", &newest)
            .finish_non_exhaustive()
    }
}

/// A pressure of 1, as a slot has it.
const STEPS: f64 = 10_000.0;

impl Ring {
    fn new(resolution: Resolution) -> Self {
        Self {
            width: resolution.width().as_secs(),
            newest: 0,
            sum: 0,
            count: 0,
            slots: vec![Slot::NONE; resolution.points()].into_boxed_slice(),
        }
    }

    fn place(&self, number: u64) -> usize {
        // The remainder is less than a length.
        (number % self.slots.len() as u64) as usize
    }

    fn record(&mut self, since: Duration, point: &Point, refused: u64) {
        self.advance(since.as_secs() / self.width);
        let used = Small::of_bytes(point.used);
        if let Some(used) = used.number() {
            self.sum += used;
            self.count += 1;
        }
        let mean = Small::of(self.sum.checked_div(self.count));
        let place = self.place(self.newest);
        let slot = &mut self.slots[place];
        *slot = Slot {
            min: slot.min.or(used, u32::min),
            mean,
            max: slot.max.or(used, u32::max),
            tracked: Small::of_bytes(point.tracked),
            resident: Small::of_bytes(point.resident),
            limit: Small::of_bytes(point.limit),
            tasks: Small::of(point.tasks),
            in_flight: Small::of(point.in_flight),
            refused: u32::try_from(u64::from(slot.refused).saturating_add(refused))
                .unwrap_or(u32::MAX),
            pressure: match point.pressure.value() {
                Some(value) => (value * STEPS).round() as u16,
                None => u16::MAX,
            },
            is_there: true,
        };
    }

    /// Goes on to a slot. Those between are empty.
    fn advance(&mut self, number: u64) {
        if number <= self.newest {
            return;
        }
        let steps = (number - self.newest).min(self.slots.len() as u64);
        for skipped in number - steps + 1..=number {
            let place = self.place(skipped);
            self.slots[place] = Slot::NONE;
        }
        (self.newest, self.sum, self.count) = (number, 0, 0);
    }
}

impl Slot {
    const NONE: Self = Self {
        min: Small::NONE,
        mean: Small::NONE,
        max: Small::NONE,
        tracked: Small::NONE,
        resident: Small::NONE,
        limit: Small::NONE,
        tasks: Small::NONE,
        in_flight: Small::NONE,
        refused: 0,
        pressure: u16::MAX,
        is_there: false,
    };
}

impl Small {
    const NONE: Self = Self(u32::MAX);

    fn of(number: Option<u64>) -> Self {
        let most = u32::MAX - 1;
        number.map_or(Self::NONE, |number| {
            Self(u32::try_from(number).unwrap_or(most).min(most))
        })
    }

    fn of_bytes(bytes: Option<u64>) -> Self {
        Self::of(bytes.map(|bytes| bytes >> 10))
    }

    fn number(self) -> Option<u64> {
        (self.0 != u32::MAX).then_some(self.0.into())
    }

    fn bytes(self) -> Option<u64> {
        Some(self.number()? << 10)
    }

    /// One of two, where both are there.
    fn or(self, other: Self, choose: fn(u32, u32) -> u32) -> Self {
        match (self, other) {
            (Self::NONE, known) | (known, Self::NONE) => known,
            (Self(one), Self(another)) => Self(choose(one, another)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    struct Recording {
        history: History,
        began: Instant,
    }

    impl Recording {
        fn new() -> Self {
            let began = Instant::now();
            let history = History::new(began, SystemTime::UNIX_EPOCH);
            Self { history, began }
        }

        fn record(&mut self, millis: u64, point: Point) {
            let now = self.began + Duration::from_millis(millis);
            self.history.record(now, point);
        }

        fn points(&self, resolution: Resolution) -> Vec<HistoryPoint> {
            self.history.points(resolution).collect()
        }

        /// The seconds at which points begin.
        fn times(&self, resolution: Resolution) -> Vec<u64> {
            let points = self.history.points(resolution);
            points.map(|point| point.at.as_secs()).collect()
        }
    }

    fn used(mib: u64) -> Point {
        Point {
            used: Some(mib * MIB),
            ..Point::default()
        }
    }

    #[test]
    fn a_history_takes_less_than_64_kib_and_goes_back_two_days() {
        assert_eq!(size_of::<Slot>(), 40);
        let slots: usize = Resolution::ALL.map(Resolution::points).iter().sum();
        assert!(slots * size_of::<Slot>() + size_of::<History>() <= 64 << 10);
        let longest = Resolution::TenMinutes;
        let covered = longest.width() * (longest.points() as u32 - 1);
        assert!(covered >= Duration::from_secs(24 * 3_600));
    }

    #[test]
    fn every_resolution_knows_least_mean_and_most_of_what_is_used() {
        let mut recording = Recording::new();
        for second in 0..1_200 {
            for quarter in 0..4 {
                recording.record(second * 1_000 + quarter * 250, used(second + quarter));
            }
        }
        for (resolution, points, seconds) in [
            (Resolution::Second, 600, 1),
            (Resolution::HalfMinute, 40, 30),
            (Resolution::TenMinutes, 2, 600),
        ] {
            let all = recording.points(resolution);
            assert_eq!(all.len(), points);
            for point in all {
                let first = point.at.as_secs();
                let known = point.used.unwrap();
                assert_eq!(first % seconds, 0);
                assert_eq!(known.min, first * MIB);
                assert_eq!(known.max, (first + seconds - 1 + 3) * MIB);
                assert_eq!(known.mean, (2 * first + seconds + 2) * MIB / 2);
            }
        }
    }

    #[test]
    fn of_everything_else_the_last_is_known_and_refused_ones_are_counted() {
        let mut recording = Recording::new();
        for (second, refused) in [(0, 100), (1, 107), (29, 110), (30, 111), (31, 4), (32, 6)] {
            let point = Point {
                used: Some(10 * MIB),
                tracked: Some(second * MIB),
                resident: Some(50 * MIB),
                limit: Some(512 * MIB),
                pressure: Pressure::new(second as f64 / 100.0),
                tasks: Some(second),
                in_flight: Some(2 * second),
                refused,
            };
            recording.record(second * 1_000, point);
        }
        let [first, second] = recording.points(Resolution::HalfMinute)[..] else {
            panic!("there are two half minutes");
        };
        assert_eq!(
            (first.tracked, first.resident),
            (Some(29 * MIB), Some(50 * MIB))
        );
        assert_eq!(first.unattributed(), Some(21 * MIB));
        assert_eq!(
            (first.limit, first.pressure),
            (Some(512 * MIB), Pressure::new(0.29))
        );
        assert_eq!((first.tasks, first.in_flight), (Some(29), Some(58)));
        assert_eq!(first.refused, 10, "not those before the history");
        assert_eq!(second.refused, 1 + 2, "a count that falls was begun anew");
    }

    #[test]
    fn what_is_not_known_stays_unknown() {
        let mut recording = Recording::new();
        recording.record(0, Point::default());
        let point = recording.points(Resolution::TenMinutes)[0];
        assert_eq!((point.used, point.tracked, point.limit), (None, None, None));
        assert_eq!((point.tasks, point.in_flight), (None, None));
        assert_eq!(
            (point.pressure, point.unattributed()),
            (Pressure::UNKNOWN, None)
        );
        recording.record(100, used(3));
        let known = recording.points(Resolution::TenMinutes)[0].used.unwrap();
        assert_eq!(
            (known.min, known.mean, known.max),
            (3 * MIB, 3 * MIB, 3 * MIB)
        );
    }

    #[test]
    fn there_is_no_point_where_nothing_was_recorded() {
        let mut recording = Recording::new();
        assert_eq!(recording.times(Resolution::Second), []);
        for second in [2, 3, 7, 100] {
            recording.record(second * 1_000, used(1));
        }
        assert_eq!(recording.times(Resolution::Second), [2, 3, 7, 100]);
        assert_eq!(recording.times(Resolution::HalfMinute), [0, 90]);
        assert_eq!(recording.times(Resolution::TenMinutes), [0]);
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut recording = Recording::new();
        for second in 0..700 {
            recording.record(second * 1_000, used(1));
        }
        let seconds: Vec<_> = (100..700).collect();
        assert_eq!(recording.times(Resolution::Second), seconds);
        // What a slot held before is not added to.
        let last = recording.points(Resolution::Second)[599];
        assert_eq!(last.used.unwrap().mean, MIB);
    }

    #[test]
    fn a_jump_of_a_century_forgets_what_is_too_old() {
        let mut recording = Recording::new();
        for second in 0..100 {
            recording.record(second * 1_000, used(1));
        }
        let century = 100 * 365 * 86_400;
        recording.record(century * 1_000, used(2));
        for resolution in Resolution::ALL {
            assert_eq!(recording.times(resolution), [century]);
        }
        recording.record((century + 2) * 1_000, used(2));
        assert_eq!(recording.times(Resolution::Second), [century, century + 2]);
    }

    #[test]
    fn a_time_that_goes_back_counts_as_the_latest() {
        let mut recording = Recording::new();
        recording.record(10_000, used(1));
        recording.record(5_000, used(3));
        let [point] = recording.points(Resolution::Second)[..] else {
            panic!("there is one second");
        };
        assert_eq!(
            (point.at.as_secs(), point.used.unwrap().mean),
            (10, 2 * MIB)
        );
    }

    #[test]
    fn times_go_by_the_clock_on_the_wall_as_it_was_set_last() {
        let mut recording = Recording::new();
        recording.record(61_000, used(1));
        let time = |recording: &Recording| {
            let point = recording.points(Resolution::HalfMinute)[0];
            point.time.duration_since(SystemTime::UNIX_EPOCH).unwrap()
        };
        assert_eq!(time(&recording).as_secs(), 60);
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(3_600 + 70);
        let now = recording.began + Duration::from_secs(70);
        recording.history.set_wall(now, wall);
        assert_eq!(time(&recording).as_secs(), 3_600 + 60);
    }

    #[test]
    fn numbers_too_large_for_their_place_are_the_largest() {
        let mut recording = Recording::new();
        let point = Point {
            used: Some(u64::MAX),
            tasks: Some(u64::MAX),
            refused: 0,
            ..Point::default()
        };
        recording.record(0, point);
        let refused = u64::MAX;
        recording.record(0, Point { refused, ..point });
        let point = recording.points(Resolution::Second)[0];
        assert_eq!(point.used.unwrap().max, (u64::from(u32::MAX) - 1) << 10);
        assert_eq!(point.tasks, Some(u64::from(u32::MAX) - 1));
        assert_eq!(point.refused, u64::from(u32::MAX));
    }

    #[test]
    fn resolutions_have_names() {
        for resolution in Resolution::ALL {
            assert_eq!(resolution.to_string().parse(), Ok(resolution));
        }
        let error = "5s".parse::<Resolution>().unwrap_err();
        assert_eq!(error.to_string(), "a resolution is one of 1s, 30s, 10m");
    }
}
