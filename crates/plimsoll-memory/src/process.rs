//! What the process holds as a whole, looked at now and then, and never for a request.

use plimsoll_alloc::{resident_bytes, set_now};
use std::{
    sync::{
        LazyLock,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// One more than the bytes that were resident; 0 if nobody has looked.
static RESIDENT: AtomicU64 = AtomicU64::new(0);
/// One more than the seconds since somebody watches; 0 if nobody does.
static NOW: AtomicU64 = AtomicU64::new(0);

/// The bytes of the process that were in memory when it was looked at last. None where nobody
/// [watches](watch), or the system does not say.
#[must_use]
#[inline]
pub fn resident() -> Option<u64> {
    RESIDENT.load(Relaxed).checked_sub(1)
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
        let resident = resident_bytes().map_or(0, |bytes| bytes.saturating_add(1));
        RESIDENT.store(resident, Relaxed);
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
