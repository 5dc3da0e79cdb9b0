//! What large blocks that are freed may keep of the line.

use crate::{
    admission::Meter,
    monitor::{Signals, Source},
};
use plimsoll_alloc::{LargeBlockUsage, Reclaim};
use std::{
    fmt, mem,
    sync::{Arc, Mutex, PoisonError},
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
/// The room where nobody looks at what is used: that of an allocator by default.
const UNWATCHED: usize = 64 << 20;
/// The room changes by no less.
const STEP: u64 = 4 << 20;

/// Leaves to the [large blocks](plimsoll_alloc::LargeBlocks) of an allocator what the line leaves.
///
/// What they keep counts against the limit and not against the line: whoever needs room has it.
#[derive(Clone)]
pub(crate) struct Room {
    allocator: &'static (dyn Reclaim + Sync),
    seen: Arc<Mutex<Seen>>,
}

struct Seen {
    line: Option<u64>,
    others: Highest,
    lived: Highest,
    room: Option<u64>,
}

/// The highest of a number lately.
struct Highest {
    period: Duration,
    since: Option<Instant>,
    now: u64,
    before: u64,
}

/// Tells what is used, but for what is kept.
#[derive(Debug)]
pub(crate) struct ButForKept<T> {
    of: T,
    room: Option<Room>,
}

impl Room {
    /// That of an allocator, if it has one.
    pub(crate) fn of(allocator: &'static (dyn Reclaim + Sync)) -> Option<Self> {
        allocator.large_blocks()?;
        Some(Self {
            allocator,
            seen: Arc::new(Mutex::new(Seen {
                line: None,
                others: Highest::over(OTHERS_FOR),
                lived: Highest::over(LIVED_FOR),
                room: None,
            })),
        })
    }

    /// Sets the line. Without any, the room stays.
    pub(crate) fn set_line(&self, line: Option<u64>) {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .line = line;
    }

    /// Nobody looks any more.
    pub(crate) fn leave(&self) {
        self.allocator.set_room(UNWATCHED);
    }

    /// Takes what is used, and sets the room by it. How many bytes are kept.
    fn look(&self, now: Instant, used: u64) -> u64 {
        let Some(blocks) = self.allocator.large_blocks() else {
            return 0;
        };
        let room = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.look(now, used, &blocks)
        };
        if let Some(room) = room {
            self.allocator
                .set_room(usize::try_from(room).unwrap_or(usize::MAX));
        }
        // What was given back by that is seen by the next look.
        blocks.kept
    }
}

impl Seen {
    /// The room to be set, if it is another.
    fn look(&mut self, now: Instant, used: u64, blocks: &LargeBlockUsage) -> Option<u64> {
        let others = used.saturating_sub(blocks.live + blocks.kept);
        let others = self.others.of(now, others);
        let lived = self.lived.of(now, blocks.live);
        let line = self.line?;
        let left = (line - line / MARGIN).saturating_sub(others);
        let least = (line / FLOOR).min(UNWATCHED as u64);
        let room = left.min(lived.max(least)) / STEP * STEP;
        let is_new = self.room != Some(room);
        self.room = Some(room);
        is_new.then_some(room)
    }
}

impl Highest {
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

impl<T> ButForKept<T> {
    pub(crate) const fn new(of: T, room: Option<Room>) -> Self {
        Self { of, room }
    }

    fn kept(&self, used: Option<u64>) -> Option<u64> {
        let (room, used) = self.room.as_ref().zip(used)?;
        Some(room.look(Instant::now(), used))
    }
}

impl<T: Meter> Meter for ButForKept<T> {
    fn used(&mut self) -> Option<u64> {
        let used = self.of.used();
        let kept = self.kept(used).unwrap_or(0);
        used.map(|used| used.saturating_sub(kept))
    }

    fn tracked(&mut self) -> Option<u64> {
        self.of.tracked()
    }
}

impl<T: Source> Source for ButForKept<T> {
    fn sample(&mut self) -> Signals {
        let mut signals = self.of.sample();
        signals.kept_blocks = self.kept(signals.used()).or(signals.kept_blocks);
        signals
    }

    fn wait(&mut self, timeout: Duration) {
        self.of.wait(timeout);
    }

    fn waker(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        self.of.waker()
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

    const MIB: u64 = 1 << 20;

    fn blocks(live: u64, kept: u64) -> LargeBlockUsage {
        let mut blocks = LargeBlockUsage::default();
        (blocks.live, blocks.kept) = (live * MIB, kept * MIB);
        blocks
    }

    fn seen(line: Option<u64>) -> Seen {
        Seen {
            line: line.map(|line| line * MIB),
            others: Highest::over(OTHERS_FOR),
            lived: Highest::over(LIVED_FOR),
            room: None,
        }
    }

    #[test]
    fn the_room_is_what_the_line_leaves_beside_others_and_a_margin() {
        let mut seen = seen(Some(320));
        let room = seen.look(Instant::now(), 350 * MIB, &blocks(280, 30));
        // A thirty-second part of it is 10 MiB, others have 40, and it comes in steps of 4 MiB.
        assert_eq!(room, Some(268 * MIB));
    }

    #[test]
    fn others_count_for_a_while_after_they_have_gone() {
        let (mut seen, start) = (seen(Some(320)), Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        let all = blocks(310, 0);
        assert_eq!(seen.look(after(0), 410 * MIB, &all), Some(208 * MIB));
        assert_eq!(seen.look(after(900), 310 * MIB, &all), None, "the same");
        assert_eq!(seen.look(after(1_900), 310 * MIB, &all), None);
        assert_eq!(seen.look(after(2_900), 310 * MIB, &all), Some(308 * MIB));
    }

    #[test]
    fn no_more_is_kept_than_lived_lately_and_some_in_any_case() {
        let (mut seen, start) = (seen(Some(320)), Instant::now());
        let after = |secs| start + Duration::from_secs(secs);
        assert_eq!(
            seen.look(after(0), 200 * MIB, &blocks(200, 0)),
            Some(200 * MIB)
        );
        assert_eq!(seen.look(after(9), 200 * MIB, &blocks(0, 200)), None);
        assert_eq!(seen.look(after(19), 200 * MIB, &blocks(0, 200)), None);
        assert_eq!(
            seen.look(after(29), 200 * MIB, &blocks(0, 200)),
            Some(20 * MIB)
        );
        // Not a part of all the memory that a machine has.
        seen.line = Some(32 << 30);
        assert_eq!(seen.look(after(39), 0, &blocks(0, 0)), Some(64 * MIB));
    }

    #[test]
    fn without_a_line_the_room_stays() {
        assert_eq!(
            seen(None).look(Instant::now(), 350 * MIB, &blocks(280, 30)),
            None
        );
    }

    #[test]
    fn a_line_below_what_others_use_leaves_no_room() {
        let mut seen = seen(Some(100));
        assert_eq!(
            seen.look(Instant::now(), 150 * MIB, &blocks(0, 30)),
            Some(0)
        );
    }

    /// An allocator that has 100 MiB and keeps 50.
    struct Kept(AtomicUsize);

    impl Reclaim for Kept {
        fn release(&self) {}

        fn large_blocks(&self) -> Option<LargeBlockUsage> {
            Some(blocks(100, 50))
        }

        fn set_room(&self, bytes: usize) {
            self.0.store(bytes, Relaxed);
        }
    }

    struct Used(AtomicU64);

    impl Meter for Used {
        fn used(&mut self) -> Option<u64> {
            Some(self.0.load(Relaxed))
        }
    }

    impl Source for Used {
        fn sample(&mut self) -> Signals {
            Signals {
                used: self.used(),
                tracked: Some(100 * MIB),
                resident: Some(180 * MIB),
                ..Signals::default()
            }
        }
    }

    #[test]
    fn what_is_kept_is_not_used_to_the_meter_nor_to_the_monitor() {
        static KEPT: Kept = Kept(AtomicUsize::new(0));
        let room = Room::of(&KEPT).expect("it has large blocks");
        room.set_line(Some(320 * MIB));
        let mut told = ButForKept::new(Used(AtomicU64::new(200 * MIB)), Some(room));
        assert_eq!(Meter::used(&mut told), Some(150 * MIB));
        // As much as lives: the line leaves more.
        assert_eq!(KEPT.0.load(Relaxed) as u64, 100 * MIB);
        let signals = told.sample();
        assert_eq!(signals.kept_blocks, Some(50 * MIB));
        assert_eq!(signals.used(), Some(150 * MIB));
        assert_eq!(signals.unattributed(), Some(30 * MIB));
    }

    #[test]
    fn when_nobody_looks_any_more_little_is_kept() {
        static KEPT: Kept = Kept(AtomicUsize::new(usize::MAX));
        Room::of(&KEPT).expect("it has large blocks").leave();
        assert_eq!(KEPT.0.load(Relaxed), 64 << 20);
    }

    #[test]
    fn an_allocator_without_large_blocks_has_no_room() {
        assert!(Room::of(&std::alloc::System).is_none());
    }
}
