//! What large blocks that are freed may keep of the line.

use crate::{
    admission::Meter,
    monitor::{Signals, Source},
};
use plimsoll_alloc::{LargeBlockUsage, Reclaim};
use std::{
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// This part of the line is left to what comes between two looks.
const MARGIN: u64 = 32;
/// This part of the line may be kept however little of it was used, but no more than where nobody looks.
const FLOOR: u64 = 16;
/// What others use is the most of so long, or of twice that.
const OTHERS_FOR: Duration = Duration::from_secs(1);
/// What lived is the most of so long, or of twice that: more is not kept.
const LIVED_FOR: Duration = Duration::from_secs(10);
/// The room where nobody looks any more at what is used.
const UNWATCHED: usize = 64 << 20;
/// The room changes by no less.
const STEP: u64 = 4 << 20;
/// While that part of the line is kept, it is looked oftener than the monitor does.
const WATCHED_PART: u64 = 64;
/// While this part of it is used or kept, so often. What is not a large block takes new pages, for which what is
/// kept has to go: 20 to 40 MB in that time.
const NEAR: f64 = 0.70;
const LOOK_NEAR: Duration = Duration::from_millis(5);
/// Further away, so often. Others in the same container may take much at once, a child process say.
const LOOK_FAR: Duration = Duration::from_millis(25);

/// Leaves to the [large blocks](plimsoll_alloc::LargeBlocks) of an allocator what the line leaves.
///
/// What they keep counts against the limit and not against the line: whoever needs room has it.
pub(crate) struct Room {
    allocator: &'static (dyn Reclaim + Sync),
    line: Option<u64>,
    others: RecentMost,
    lived: RecentMost,
}

/// The most that a number was lately.
struct RecentMost {
    period: Duration,
    since: Option<Instant>,
    now: u64,
    before: u64,
}

/// A meter that tells what is used but for what is kept. Clones are the same one.
#[derive(Clone)]
pub(crate) struct MeterWithoutKept {
    of: Arc<Mutex<dyn Meter>>,
    allocator: Option<&'static (dyn Reclaim + Sync)>,
}

/// A source that tells what is kept, and sets the room by what is used, also while it waits.
pub(crate) struct SourceWithRoom<S> {
    of: S,
    meter: MeterWithoutKept,
    room: Option<Arc<Mutex<Room>>>,
}

impl Room {
    /// That of an allocator, if it keeps large blocks.
    pub(crate) fn of(allocator: &'static (dyn Reclaim + Sync)) -> Option<Self> {
        allocator.large_blocks()?;
        Some(Self {
            allocator,
            line: None,
            others: RecentMost::over(OTHERS_FOR),
            lived: RecentMost::over(LIVED_FOR),
        })
    }

    /// Sets the line. Without any, the room stays.
    pub(crate) const fn set_line(&mut self, line: Option<u64>) {
        self.line = line;
    }

    /// Nobody looks any more.
    pub(crate) fn leave(&self) {
        self.allocator.set_room(UNWATCHED);
    }

    /// Sets the room by what is used with all that is kept. When to look again, if soon.
    fn look(&mut self, now: Instant, used: u64) -> Option<Duration> {
        let (line, blocks) = (self.line?, self.allocator.large_blocks()?);
        let room = self.left(now, used, line, &blocks);
        if room != blocks.room {
            self.allocator
                .set_room(usize::try_from(room).unwrap_or(usize::MAX));
        }
        let is_near = used as f64 > line as f64 * NEAR;
        let soon = if is_near { LOOK_NEAR } else { LOOK_FAR };
        (blocks.kept > line / WATCHED_PART).then_some(soon)
    }

    fn left(&mut self, now: Instant, used: u64, line: u64, blocks: &LargeBlockUsage) -> u64 {
        // Blocks that nobody can have live until the system has refused them.
        let others = used.saturating_sub(blocks.live.saturating_add(blocks.kept));
        let others = self.others.of(now, others);
        let lived = self.lived.of(now, blocks.live);
        let left = (line - line / MARGIN).saturating_sub(others);
        let least = (line / FLOOR).min(UNWATCHED as u64);
        left.min(lived.max(least)) / STEP * STEP
    }
}

impl RecentMost {
    const fn over(period: Duration) -> Self {
        Self {
            period,
            since: None,
            now: 0,
            before: 0,
        }
    }

    fn of(&mut self, now: Instant, value: u64) -> u64 {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        if passed >= self.period {
            self.since = Some(now);
            self.before = mem::take(&mut self.now);
            if passed >= 2 * self.period {
                self.before = 0;
            }
        }
        self.now = self.now.max(value);
        self.now.max(self.before)
    }
}

/// What is kept of what is used. Some of it may never have been touched, so that it is not in memory; but
/// what is used besides cannot be less than what is allocated.
fn kept(
    allocator: Option<&'static (dyn Reclaim + Sync)>,
    used: u64,
    tracked: impl FnOnce() -> Option<u64>,
) -> Option<u64> {
    let blocks = allocator?.large_blocks()?;
    Some(blocks.kept.min(used.saturating_sub(tracked().unwrap_or(0))))
}

impl MeterWithoutKept {
    pub(crate) fn new(
        of: impl Meter + 'static,
        allocator: Option<&'static (dyn Reclaim + Sync)>,
    ) -> Self {
        Self {
            of: Arc::new(Mutex::new(of)),
            allocator,
        }
    }

    fn meter(&self) -> MutexGuard<'_, dyn Meter + 'static> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Meter for MeterWithoutKept {
    fn used(&mut self) -> Option<u64> {
        let mut meter = self.meter();
        let used = meter.used()?;
        let kept = kept(self.allocator, used, || meter.tracked());
        Some(used - kept.unwrap_or(0))
    }

    fn tracked(&mut self) -> Option<u64> {
        self.meter().tracked()
    }
}

impl<S: Source> SourceWithRoom<S> {
    pub(crate) const fn new(
        of: S,
        meter: MeterWithoutKept,
        room: Option<Arc<Mutex<Room>>>,
    ) -> Self {
        Self { of, meter, room }
    }

    /// Sets the room by what is used. When to look again, if soon.
    fn look(&self, used: Option<u64>) -> Option<Duration> {
        let (room, used) = self.room.as_ref().zip(used)?;
        let mut room = room.lock().unwrap_or_else(PoisonError::into_inner);
        room.look(Instant::now(), used)
    }
}

impl<S: Source> Source for SourceWithRoom<S> {
    fn sample(&mut self) -> Signals {
        let mut signals = self.of.sample();
        let used = signals.used();
        self.look(used);
        let kept = used.and_then(|used| kept(self.meter.allocator, used, || signals.tracked));
        signals.kept_blocks = kept.or(signals.kept_blocks);
        signals
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        let mut left = timeout;
        while left > LOOK_NEAR && self.room.is_some() {
            let used = self.meter.meter().used();
            let Some(soon) = self.look(used).filter(|soon| *soon < left) else {
                break;
            };
            let began = Instant::now();
            if self.of.wait(soon) {
                return true;
            }
            let passed = Instant::now().saturating_duration_since(began);
            // One that does not wait must not have this go round and round.
            left = left.saturating_sub(passed.max(soon));
        }
        self.of.wait(left)
    }

    fn waker(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        self.of.waker()
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room")
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

    const MIB: u64 = 1 << 20;

    fn blocks(live: u64, kept: u64, room: u64) -> LargeBlockUsage {
        let mut blocks = LargeBlockUsage::default();
        (blocks.live, blocks.kept, blocks.room) = (live * MIB, kept * MIB, room);
        blocks
    }

    /// An allocator that has 100 MiB and keeps 50.
    struct Keeps(AtomicUsize);

    static KEEPS: Keeps = Keeps(AtomicUsize::new(0));

    impl Reclaim for Keeps {
        fn release(&self) {}

        fn large_blocks(&self) -> Option<LargeBlockUsage> {
            Some(blocks(100, 50, self.0.load(Relaxed) as u64))
        }

        fn set_room(&self, bytes: usize) {
            self.0.store(bytes, Relaxed);
        }
    }

    fn room() -> Room {
        Room::of(&KEEPS).expect("it keeps large blocks")
    }

    #[test]
    fn the_room_is_what_the_line_leaves_beside_others_and_a_margin() {
        let left = room().left(Instant::now(), 350 * MIB, 320 * MIB, &blocks(280, 30, 0));
        // A thirty-second part of it is 10 MiB, others have 40, and it comes in steps of 4 MiB.
        assert_eq!(left, 268 * MIB);
    }

    #[test]
    fn others_count_for_a_while_after_they_have_gone() {
        let (mut room, start) = (room(), Instant::now());
        let mut left = |millis, used| {
            let now = start + Duration::from_millis(millis);
            room.left(now, used * MIB, 320 * MIB, &blocks(310, 0, 0)) / MIB
        };
        assert_eq!(left(0, 410), 208);
        assert_eq!(left(900, 310), 208);
        assert_eq!(left(1_900, 310), 208);
        assert_eq!(left(2_900, 310), 308);
    }

    #[test]
    fn no_more_is_kept_than_lived_lately_and_some_in_any_case() {
        let (mut room, start) = (room(), Instant::now());
        let mut left = |secs, line, live| {
            let now = start + Duration::from_secs(secs);
            room.left(now, 200 * MIB, line, &blocks(live, 200 - live, 0)) / MIB
        };
        assert_eq!(left(0, 320 * MIB, 200), 200);
        assert_eq!(left(9, 320 * MIB, 0), 200);
        assert_eq!(left(19, 320 * MIB, 0), 200);
        assert_eq!(left(29, 320 * MIB, 0), 20);
        // Not a part of all the memory that a machine has.
        assert_eq!(left(39, 32 << 30, 0), 64);
    }

    #[test]
    fn a_line_below_what_others_use_leaves_no_room() {
        let left = room().left(Instant::now(), 150 * MIB, 100 * MIB, &blocks(0, 30, 0));
        assert_eq!(left, 0);
    }

    #[test]
    fn blocks_that_nobody_can_have_do_no_harm() {
        let mut absurd = blocks(0, 30, 0);
        absurd.live = u64::MAX;
        let left = room().left(Instant::now(), 350 * MIB, 320 * MIB, &absurd);
        assert_eq!(left, 308 * MIB);
    }

    #[test]
    fn without_a_line_the_room_stays() {
        static KEEPS: Keeps = Keeps(AtomicUsize::new(7));
        let mut room = Room::of(&KEEPS).expect("it keeps large blocks");
        assert_eq!(room.look(Instant::now(), 350 * MIB), None);
        assert_eq!(KEEPS.0.load(Relaxed), 7);
        room.leave();
        assert_eq!(KEEPS.0.load(Relaxed), 64 << 20, "little, if nobody looks");
    }

    #[test]
    fn an_allocator_without_large_blocks_has_no_room() {
        assert!(Room::of(&std::alloc::System).is_none());
    }

    /// Tells what is used, and remembers how long it was to wait. Less is used once it has waited three
    /// times.
    #[derive(Clone)]
    struct Used(Arc<AtomicU64>, Arc<Mutex<Vec<Duration>>>);

    impl Meter for Used {
        fn used(&mut self) -> Option<u64> {
            Some(self.0.load(Relaxed))
        }

        fn tracked(&mut self) -> Option<u64> {
            Some(110 * MIB)
        }
    }

    impl Source for Used {
        fn sample(&mut self) -> Signals {
            Signals {
                used: self.used(),
                tracked: self.tracked(),
                resident: Some(180 * MIB),
                ..Signals::default()
            }
        }

        fn wait(&mut self, timeout: Duration) -> bool {
            let mut waits = self.1.lock().unwrap();
            waits.push(timeout);
            if waits.len() == 3 {
                self.0.store(160 * MIB, Relaxed);
            }
            false
        }
    }

    fn told(
        used: u64,
        line: u64,
        keeps: &'static Keeps,
    ) -> (Used, MeterWithoutKept, SourceWithRoom<Used>) {
        let of = Used(Arc::new(AtomicU64::new(used * MIB)), Arc::default());
        let mut room = Room::of(keeps).expect("it keeps large blocks");
        room.set_line(Some(line * MIB));
        let meter = MeterWithoutKept::new(of.clone(), Some(keeps));
        let room = Some(Arc::new(Mutex::new(room)));
        let source = SourceWithRoom::new(of.clone(), meter.clone(), room);
        (of, meter, source)
    }

    #[test]
    fn what_is_kept_is_not_used_to_the_meter_nor_to_the_monitor() {
        static KEEPS: Keeps = Keeps(AtomicUsize::new(0));
        let (used, mut meter, mut source) = told(200, 320, &KEEPS);
        assert_eq!(meter.used(), Some(150 * MIB));
        let signals = source.sample();
        assert_eq!(signals.kept_blocks, Some(50 * MIB));
        assert_eq!(signals.used(), Some(150 * MIB));
        assert_eq!(signals.unattributed(), Some(20 * MIB));
        // As much as lives: the line leaves more.
        assert_eq!(KEEPS.0.load(Relaxed) as u64, 100 * MIB);
        // Of what is kept some was never touched: no less is used than is allocated.
        used.0.store(140 * MIB, Relaxed);
        assert_eq!(meter.used(), Some(110 * MIB));
        assert_eq!(source.sample().kept_blocks, Some(30 * MIB));
    }

    #[test]
    fn it_is_looked_oftener_while_much_is_kept_and_oftenest_near_the_line() {
        static KEEPS: Keeps = Keeps(AtomicUsize::new(0));
        let (used, _, mut source) = told(200, 240, &KEEPS);
        let all = 3 * LOOK_NEAR + 40 * LOOK_FAR;
        source.wait(all);
        let waits = used.1.lock().unwrap().clone();
        assert_eq!(waits[..3], [LOOK_NEAR; 3]);
        let [far @ .., last] = &waits[3..] else {
            panic!("{waits:?}");
        };
        assert!(!far.is_empty() && far.iter().all(|wait| *wait == LOOK_FAR));
        // It waits for the rest, and no longer: for less where it was kept from the processor.
        assert!(*last <= LOOK_FAR, "{waits:?}");
        assert!(waits.iter().sum::<Duration>() <= all, "{waits:?}");
    }

    #[test]
    fn where_little_is_kept_nobody_looks_before_the_monitor_does() {
        static KEEPS: Keeps = Keeps(AtomicUsize::new(0));
        // 50 MiB are less than a sixty-fourth part of this.
        let (used, _, mut source) = told(200, 4_000, &KEEPS);
        source.wait(Duration::from_secs(1));
        assert_eq!(*used.1.lock().unwrap(), [Duration::from_secs(1)]);
    }

    #[test]
    fn a_reason_to_look_ends_a_wait_however_late_in_a_look_it_comes() {
        /// Has a reason when all the time is over that it was to wait.
        struct Late(u32);

        impl Source for Late {
            fn sample(&mut self) -> Signals {
                Signals::default()
            }

            fn wait(&mut self, timeout: Duration) -> bool {
                self.0 += 1;
                std::thread::park_timeout(timeout.min(LOOK_NEAR));
                true
            }
        }

        static KEEPS: Keeps = Keeps(AtomicUsize::new(0));
        let (_, meter, source) = told(200, 240, &KEEPS);
        let mut late = SourceWithRoom::new(Late(0), meter, source.room.clone());
        assert!(late.wait(Duration::from_secs(1)));
        assert_eq!(late.of.0, 1);
    }
}
