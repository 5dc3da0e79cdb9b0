//! What the process holds as a whole, looked at now and then, and never for a request.

use plimsoll_alloc::{resident_bytes, set_now};
use std::{
    sync::{
        LazyLock,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// What was resident, as [`Resident`] has it.
static RESIDENT: AtomicU32 = AtomicU32::new(0);
/// One more than the seconds since somebody watches; 0 if nobody does.
static NOW: AtomicU64 = AtomicU64::new(0);

/// The bytes of the process that were in memory when it was looked at last. None where nobody
/// [watches](watch), or the system does not say.
#[must_use]
pub fn resident() -> Option<u64> {
    Resident::now().bytes()
}

/// What was resident at some time: one more than its KiB, up to 4 TiB; 0 if nobody had looked. Each
/// request has one, so it is small.
#[derive(Clone, Copy)]
pub(crate) struct Resident(u32);

impl Resident {
    #[inline]
    pub(crate) fn now() -> Self {
        Self(RESIDENT.load(Relaxed))
    }

    fn of(bytes: u64) -> Self {
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
        Self(kib.saturating_add(1))
    }

    pub(crate) fn bytes(self) -> Option<u64> {
        Some(u64::from(self.0.checked_sub(1)?) << 10)
    }
}

/// Looks at the process every `period`, and tells the allocator the time, so that it is known since
/// when something is retained. It never ends: spawn it once, where the process lives.
///
/// # Cancel safety
///
/// Nobody looks any more once it is dropped, and neither is known any longer.
pub async fn watch(period: Duration) {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let _watching = Watching;
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        let seconds = now.saturating_duration_since(*BEGAN).as_secs();
        set_now(seconds);
        // Pairs with the load of `now`: who knows the time knows that the allocator does.
        NOW.store(seconds + 1, Release);
        let Resident(word) = resident_bytes().map_or(Resident(0), Resident::of);
        RESIDENT.store(word, Relaxed);
    }
}

/// While it lives, somebody watches.
struct Watching;

impl Drop for Watching {
    fn drop(&mut self) {
        NOW.store(0, Relaxed);
        RESIDENT.store(0, Relaxed);
    }
}

/// What time it is for what is retained, in seconds; none where nobody watches.
pub(crate) fn now() -> Option<u64> {
    NOW.load(Acquire).checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_resident_is_kept_in_whole_kib_up_to_4_tib() {
        assert_eq!(Resident(0).bytes(), None);
        for (bytes, kept) in [
            (0, 0),
            (1_023, 0),
            (1_024, 1_024),
            (5 << 30, 5 << 30),
            (u64::MAX, (u64::from(u32::MAX) - 1) << 10),
        ] {
            assert_eq!(Resident::of(bytes).bytes(), Some(kept));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_watches_tells_the_time_and_what_is_resident() {
        assert_eq!((now(), resident()), (None, None));
        let watching = tokio::spawn(watch(Duration::from_secs(1)));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(now(), Some(0));
        if cfg!(target_os = "linux") {
            assert!(resident() > Some(100_000));
        }
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(now(), Some(90));
        watching.abort();
        assert!(watching.await.unwrap_err().is_cancelled());
        assert_eq!((now(), resident()), (None, None));
    }
}
