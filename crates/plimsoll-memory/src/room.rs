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
/// This part of the line may be kept however little of it is used.
const FLOOR: u64 = 16;
/// What others use is the most of so long, or of twice that.
const OTHERS_FOR: Duration = Duration::from_secs(1);
/// What lived is the most of so long, or of twice that: more is not kept.
const LIVED_FOR: Duration = Duration::from_secs(10);
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
        let room = left.min(lived.max(line / FLOOR)) / STEP * STEP;
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
        signals.kept = self.kept(signals.used()).or(signals.kept);
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
