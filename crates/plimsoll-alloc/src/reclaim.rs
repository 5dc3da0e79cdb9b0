use crate::{CountingAllocator, LargeBlockUsage, TrackingAllocator};
use std::alloc::System;

/// An allocator that can give free memory back to the system.
///
/// Allocators keep what was freed, for the next who asks. It takes milliseconds to give back what
/// can be, during which other threads may wait: call it from a thread of its own, after a peak or
/// before refusing work for want of memory. With glibc it is tens of milliseconds for 300 MB, and a
/// fifth of a second where that is free in a million small pieces.
///
/// ```
/// use plimsoll_alloc::{Reclaim, TrackingAllocator};
///
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// fn main() {
///     drop(vec![vec![1_u8; 1_000]; 10_000]);
///     if let Some(bytes) = ALLOC.reclaim().freed() {
///         println!("gave back {bytes} bytes");
///     }
/// }
/// ```
pub trait Reclaim {
    /// Gives free memory back to the system, without measuring what that did.
    fn release(&self);

    /// Gives free memory back to the system, but for large blocks that are [kept](crate::LargeBlocks): for
    /// whoever sets their room. As [`release`](Self::release) by default.
    fn release_small(&self) {
        self.release();
    }

    /// Has memory given back to the system as soon as it is free, where that can be had, which makes
    /// large blocks slower: for as long as it is short. Does nothing by default.
    fn set_frugal(&self, _frugal: bool) {}

    /// What it has of blocks that it keeps by itself: of [`LargeBlocks`](crate::LargeBlocks). None where
    /// it has none.
    fn large_blocks(&self) -> Option<LargeBlockUsage> {
        None
    }

    /// Sets how many bytes of large blocks may live and be kept. What is kept beyond that is given back
    /// at once. Does nothing where there are none.
    fn set_room(&self, _bytes: usize) {}

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

    /// What the allocator says of itself. None where it has no such figures.
    ///
    /// | allocator | figures | takes |
    /// |---|---|---|
    /// | the system's, glibc 2.33 or later | allocated, mapped | a microsecond, and 10 ms for each 100 000 free blocks that lie apart, during which threads that allocate may wait |
    /// | the system's, otherwise | none: those of older ones wrap at 2 GiB | |
    /// | jemalloc | all | some microseconds for each of its arenas |
    /// | mimalloc | none: it counts nothing unless it is built for debugging | |
    ///
    /// Not for every sample of a monitor, therefore: now and then, and around a
    /// [reclaim](Self::reclaim). Where another allocator is preloaded in place of glibc's, the figures
    /// are still those of glibc's.
    fn figures(&self) -> Option<AllocatorFigures> {
        None
    }
}

/// What an allocator says of itself, in bytes. None is what it does not say.
///
/// What is allocated is counted by its size classes, so that it is more than what was asked for. What
/// one of these figures is above the one before it is what is free: in pages that are used in part,
/// in pages that could be given back, and what has been given back but for its addresses.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct AllocatorFigures {
    /// Allocated and not freed. Those that threads keep at hand for themselves may be part of it.
    pub allocated: u64,
    /// In pages of which some is allocated.
    pub active: Option<u64>,
    /// In pages that are in memory, with what the allocator keeps for itself.
    pub resident: Option<u64>,
    /// Got from the system. With glibc that is not less after a reclaim, which leaves the addresses.
    pub mapped: u64,
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
        glibc::trim();
    }

    /// With glibc, has blocks of 1 MiB and more mapped by themselves, rather than those of up to 32 MiB
    /// taken from arenas, which keep what was freed. Does nothing elsewhere.
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    fn set_frugal(&self, frugal: bool) {
        glibc::map_from(if frugal { 1 << 20 } else { 32 << 20 });
    }

    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    fn figures(&self) -> Option<AllocatorFigures> {
        glibc::figures()
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
mod glibc {
    use super::AllocatorFigures;
    use std::{
        ffi::{c_char, c_int, c_void},
        mem, ptr,
        sync::atomic::{AtomicPtr, Ordering::Relaxed},
    };

    /// What `mallinfo2` returns, of which each field is as long.
    #[repr(C)]
    struct Mallinfo2 {
        /// Got from the system, but for what is mapped block by block.
        arena: usize,
        _free_blocks: usize,
        _free_fast_blocks: usize,
        _mapped_blocks: usize,
        /// Mapped block by block.
        mapped: usize,
        _unused: usize,
        _free_fast: usize,
        /// Of `arena`, what is allocated.
        allocated: usize,
        _free: usize,
        _free_at_the_top: usize,
    }

    unsafe extern "C" {
        /// Of glibc since 2.0, all arenas since 2.8.
        safe fn malloc_trim(pad: usize) -> c_int;
        safe fn mallopt(param: c_int, value: c_int) -> c_int;
        fn dlsym(library: *mut c_void, symbol: *const c_char) -> *mut c_void;
    }

    pub(super) fn trim() {
        // It takes each arena's lock in turn, and may be called by any thread.
        malloc_trim(0);
    }

    /// Has blocks of so many bytes and more mapped by themselves.
    pub(super) fn map_from(bytes: c_int) {
        const TRIM_THRESHOLD: c_int = -1;
        const MMAP_THRESHOLD: c_int = -3;

        // Words that the allocator reads when it needs them, so other threads go by either value. A
        // block is freed as it was allocated, whatever they say by then.
        mallopt(MMAP_THRESHOLD, bytes);
        mallopt(TRIM_THRESHOLD, 2 * bytes);
    }

    pub(super) fn figures() -> Option<AllocatorFigures> {
        let info = mallinfo2()?();
        Some(AllocatorFigures {
            allocated: (info.allocated + info.mapped) as u64,
            active: None,
            resident: None,
            mapped: (info.arena + info.mapped) as u64,
        })
    }

    /// Looked for at run time: a program that is linked with it does not start where glibc is older
    /// than 2.33, whether it asks for figures or not. By each thread that comes before it is known, so that
    /// nobody waits for a thread that a fork has left behind.
    fn mallinfo2() -> Option<extern "C" fn() -> Mallinfo2> {
        static FOUND: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
        let mut found = FOUND.load(Relaxed);
        if found.is_null() {
            // SAFETY: the name ends with a zero; no library stands for all that are loaded.
            found = unsafe { dlsym(ptr::null_mut(), c"mallinfo2".as_ptr()) };
            FOUND.store(found, Relaxed);
        }
        if found.is_null() {
            return None;
        }
        // SAFETY: a function of that name takes nothing and returns that structure, in glibc and in the
        // allocators that stand in for it. No library is ever unloaded that has the allocator.
        Some(unsafe { mem::transmute::<*mut c_void, extern "C" fn() -> Mallinfo2>(found) })
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

    fn figures(&self) -> Option<AllocatorFigures> {
        jemalloc::refresh();
        Some(AllocatorFigures {
            allocated: jemalloc::read(c"stats.allocated")?,
            active: jemalloc::read(c"stats.active"),
            resident: jemalloc::read(c"stats.resident"),
            mapped: jemalloc::read(c"stats.mapped")?,
        })
    }
}

#[cfg(feature = "jemalloc")]
mod jemalloc {
    use std::{
        ffi::{CStr, c_void},
        ptr,
    };
    use tikv_jemalloc_sys::mallctl;

    /// Has the figures added up anew.
    pub(super) fn refresh() {
        let mut epoch = 1_u64;
        let epoch: *mut u64 = &raw mut epoch;
        // SAFETY: the name ends with a zero; this control reads a number of 8 bytes, and writes nothing
        // where there is no place for it. It fails where figures were left out of the library.
        unsafe {
            let nothing = ptr::null_mut();
            let name = c"epoch".as_ptr();
            mallctl(
                name,
                nothing,
                ptr::null_mut(),
                epoch.cast(),
                size_of::<u64>(),
            );
        }
    }

    /// One of the figures, each of which is a `size_t`.
    pub(super) fn read(name: &CStr) -> Option<u64> {
        let mut value = 0_usize;
        let mut length = size_of::<usize>();
        let place: *mut c_void = (&raw mut value).cast();
        // SAFETY: the name ends with a zero, and the control writes as many bytes as `length` says, or
        // fails.
        let failed = unsafe { mallctl(name.as_ptr(), place, &raw mut length, ptr::null_mut(), 0) };
        (failed == 0).then_some(value as u64)
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

    fn release_small(&self) {
        self.inner().release_small();
    }

    fn set_frugal(&self, frugal: bool) {
        self.inner().set_frugal(frugal);
    }

    fn large_blocks(&self) -> Option<LargeBlockUsage> {
        self.inner().large_blocks()
    }

    fn set_room(&self, bytes: usize) {
        self.inner().set_room(bytes);
    }

    fn figures(&self) -> Option<AllocatorFigures> {
        self.inner().figures()
    }
}

impl<A: Reclaim> Reclaim for CountingAllocator<A> {
    fn release(&self) {
        self.inner().release();
    }

    fn release_small(&self) {
        self.inner().release_small();
    }

    fn set_frugal(&self, frugal: bool) {
        self.inner().set_frugal(frugal);
    }

    fn large_blocks(&self) -> Option<LargeBlockUsage> {
        self.inner().large_blocks()
    }

    fn set_room(&self, bytes: usize) {
        self.inner().set_room(bytes);
    }

    fn figures(&self) -> Option<AllocatorFigures> {
        self.inner().figures()
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
    fn every_allocator_can_be_held_by_what_it_can_do() {
        static TRACKING: TrackingAllocator = TrackingAllocator::system();
        static COUNTING: CountingAllocator<TrackingAllocator> =
            CountingAllocator::new(TrackingAllocator::system());
        static NEITHER: Silent = Silent;
        struct Silent;
        impl Reclaim for Silent {
            fn release(&self) {}
        }

        let all: [&'static (dyn Reclaim + Sync); 3] = [&TRACKING, &COUNTING, &NEITHER];
        let known = all.map(|allocator| allocator.figures().is_some());
        assert_eq!(known[0], known[1]);
        assert!(!known[2]);
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
