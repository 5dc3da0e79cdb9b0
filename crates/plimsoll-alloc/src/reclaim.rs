use crate::{CountingAllocator, TrackingAllocator};
use std::alloc::System;

/// An allocator that can give free memory back to the system.
///
/// Allocators keep what was freed, for the next who asks. It takes milliseconds to give back what
/// can be, during which other threads may wait: call it from a thread of its own, after a peak or
/// before refusing work for want of memory.
///
/// ```
/// use plimsoll_alloc::{Reclaim, TrackingAllocator};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// fn main() {
///     drop(vec![vec![1_u8; 1_000]; 10_000]);
///     let reclaimed = ALLOC.reclaim();
///     assert!(reclaimed.resident_after <= reclaimed.resident_before);
/// }
/// ```
pub trait Reclaim {
    /// Gives free memory back to the system, without measuring what that did.
    fn release(&self);

    /// Has memory given back to the system as soon as it is free, where that can be had, which makes
    /// large blocks slower: for as long as it is short. Does nothing by default.
    fn set_frugal(&self, _frugal: bool) {}

    /// Gives free memory back to the system.
    ///
    /// Reads `/proc` before and after: it may block.
    fn reclaim(&self) -> Reclaimed {
        let resident_before = resident_bytes();
        self.release();
        Reclaimed {
            resident_before,
            resident_after: resident_bytes(),
        }
    }
}

/// What was given back to the system.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Reclaimed {
    /// Bytes of the process that were in memory before. None where the system does not tell, as it
    /// does on Linux.
    pub resident_before: Option<u64>,
    /// Bytes of the process that are in memory now.
    pub resident_after: Option<u64>,
}

impl Reclaimed {
    /// Bytes by which the process became smaller. None where the system does not tell. What other
    /// threads allocated and freed meanwhile is in it.
    #[must_use]
    pub fn freed(&self) -> Option<u64> {
        let (before, after) = self.resident_before.zip(self.resident_after)?;
        Some(before.saturating_sub(after))
    }
}

/// With glibc, trims all of its arenas. Does nothing elsewhere.
impl Reclaim for System {
    fn release(&self) {
        #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
        {
            use std::ffi::c_int;

            unsafe extern "C" {
                /// Of glibc since 2.0, all arenas since 2.8.
                safe fn malloc_trim(pad: usize) -> c_int;
            }
            // It takes each arena's lock in turn, and may be called by any thread.
            malloc_trim(0);
        }
    }

    /// With glibc, has blocks of 1 MiB and more mapped by themselves, rather than those of up to 32 MiB
    /// taken from arenas, which keep what was freed. Does nothing elsewhere.
    fn set_frugal(&self, _frugal: bool) {
        #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
        {
            use std::ffi::c_int;

            const TRIM_THRESHOLD: c_int = -1;
            const MMAP_THRESHOLD: c_int = -3;

            unsafe extern "C" {
                /// Of glibc since 2.0.
                safe fn mallopt(param: c_int, value: c_int) -> c_int;
            }
            // Both are words that the allocator reads whenever it needs them: other threads go by
            // either value. What there are of blocks is freed as it was allocated.
            let mmap = if _frugal { 1 << 20 } else { 32 << 20 };
            mallopt(MMAP_THRESHOLD, mmap);
            mallopt(TRIM_THRESHOLD, 2 * mmap);
        }
    }
}

/// Purges the dirty pages of all arenas.
#[cfg(feature = "jemalloc")]
impl Reclaim for tikv_jemallocator::Jemalloc {
    fn release(&self) {
        use std::ptr;

        /// `MALLCTL_ARENAS_ALL` is 4096. The thread's cache is flushed first, into an arena.
        const CONTROLS: [&std::ffi::CStr; 2] = [c"thread.tcache.flush", c"arena.4096.purge"];
        for control in CONTROLS {
            // SAFETY: the name ends with a zero; neither control reads or writes anything. They
            // fail where the cache is off, which is as good.
            unsafe {
                tikv_jemalloc_sys::mallctl(
                    control.as_ptr(),
                    ptr::null_mut(),
                    ptr::null_mut(),
                    ptr::null_mut(),
                    0,
                );
            }
        }
    }
}

/// Collects the heap of the calling thread, and what others abandoned.
#[cfg(feature = "mimalloc")]
impl Reclaim for mimalloc::MiMalloc {
    fn release(&self) {
        unsafe extern "C" {
            /// Of the library that the crate of the allocator brings.
            safe fn mi_collect(force: bool);
        }
        mi_collect(true);
    }
}

impl<A: Reclaim> Reclaim for TrackingAllocator<A> {
    fn release(&self) {
        self.inner().release();
    }

    fn set_frugal(&self, frugal: bool) {
        self.inner().set_frugal(frugal);
    }
}

impl<A: Reclaim> Reclaim for CountingAllocator<A> {
    fn release(&self) {
        self.inner().release();
    }

    fn set_frugal(&self, frugal: bool) {
        self.inner().set_frugal(frugal);
    }
}

/// Bytes of the process that are in memory. None where the system does not tell, as it does on Linux.
///
/// Reads `/proc`: it may block.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    if !cfg!(target_os = "linux") || cfg!(miri) {
        return None;
    }
    // Not `statm`, which counts pages without saying how long they are.
    parse_resident(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1_024)
}

#[cfg(all(test, not(plimsoll_loom)))]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_as_the_kernel_writes_it() {
        let status = "Name:\tx\nVmPeak:\t  9 kB\nVmRSS:\t   12345 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(parse_resident(status), Some(12_345 * 1_024));
        for odd in [
            "",
            "VmRSS:\t12 MB",
            "VmRSS:\tmany kB",
            "VmRSS: 99999999999999999 kB",
        ] {
            assert_eq!(parse_resident(odd), None, "{odd}");
        }
    }

    #[test]
    fn what_is_freed_is_known_where_both_are_and_never_negative() {
        let reclaimed = |before, after| Reclaimed {
            resident_before: before,
            resident_after: after,
        };
        assert_eq!(reclaimed(Some(30), Some(10)).freed(), Some(20));
        assert_eq!(reclaimed(Some(10), Some(30)).freed(), Some(0));
        assert_eq!(reclaimed(None, Some(30)).freed(), None);
        assert_eq!(reclaimed(Some(30), None).freed(), None);
    }
}
