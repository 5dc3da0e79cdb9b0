//! What is asked of the system.

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::*;
#[cfg(target_os = "linux")]
pub(super) use linux::*;

#[cfg(target_os = "linux")]
mod linux {
    use super::super::{GRAIN, extents::Extent};
    use rustix::{
        io::Errno,
        mm::{
            Advice, MapFlags, MremapFlags, ProtFlags, madvise, mmap_anonymous, mremap,
            mremap_fixed, munmap,
        },
    };
    use std::ptr;

    /// Maps so many bytes, which are zero. Their address.
    pub(in super::super) fn map(len: usize) -> Option<usize> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the system finds a place that nothing is at.
        let mapped = unsafe { mmap_anonymous(ptr::null_mut(), len, access, MapFlags::PRIVATE) };
        Some(mapped.ok()?.expose_provenance())
    }

    /// Gives addresses back.
    ///
    /// # Safety
    ///
    /// They were mapped here, and nobody has them.
    pub(in super::super) unsafe fn unmap(gone: Extent) {
        let addr = ptr::with_exposed_provenance_mut(gone.addr);
        // SAFETY: nobody has them, as the caller says.
        let unmapped = unsafe { munmap(addr, gone.len) };
        if unmapped.is_err() {
            // The system has as many mappings as it may have. The addresses are lost, the pages are not.
            // SAFETY: as above.
            let _ = unsafe { madvise(addr, gone.len, Advice::LinuxDontNeed) };
        }
    }

    /// Whether addresses lie in one mapping, so that the system moves all of them or none.
    ///
    /// # Safety
    ///
    /// They were mapped here, and nobody has them.
    pub(in super::super) unsafe fn is_one(range: Extent) -> bool {
        let addr = ptr::with_exposed_provenance_mut(range.addr);
        // No more than one mapping is ever made longer.
        // SAFETY: nobody has them, as the caller says, nor what comes behind them then.
        let longer = unsafe { mremap(addr, range.len, range.len + GRAIN, MremapFlags::empty()) };
        if longer.is_ok() {
            let (addr, len) = (range.end(), GRAIN);
            // SAFETY: there was nothing until now.
            unsafe { unmap(Extent { addr, len }) };
        }
        // Something is behind it, as a rule, or no more may be locked in memory.
        matches!(longer, Ok(_) | Err(Errno::NOMEM | Errno::AGAIN))
    }

    /// Moves pages to other addresses, whose own are gone then. Says whether that was done: where it was
    /// not, there may be nothing at these addresses, or what was.
    ///
    /// # Safety
    ///
    /// Both were mapped here, nobody has either, they do not overlap, and the pages lie in one mapping: since
    /// 6.17 the system moves what lies in several, but not at once, and may stop on its way.
    pub(in super::super) unsafe fn shift(from: Extent, to: usize) -> bool {
        let (at, to) = (
            ptr::with_exposed_provenance_mut(from.addr),
            ptr::with_exposed_provenance_mut(to),
        );
        // SAFETY: nobody has either, as the caller says.
        unsafe { mremap_fixed(at, from.len, from.len, MremapFlags::MAYMOVE, to) }.is_ok()
    }

    /// Makes a mapping longer, elsewhere where that has to be. Its address.
    ///
    /// # Safety
    ///
    /// It was mapped here, and belongs to the caller, who goes on with the address it has then.
    pub(in super::super) unsafe fn lengthen(mapping: Extent, len: usize) -> Option<usize> {
        let addr = ptr::with_exposed_provenance_mut(mapping.addr);
        // SAFETY: it is the caller's.
        let moved = unsafe { mremap(addr, mapping.len, len, MremapFlags::MAYMOVE) };
        Some(moved.ok()?.expose_provenance())
    }
}

/// No block is large there.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::super::extents::Extent;

    pub(in super::super) fn map(_: usize) -> Option<usize> {
        None
    }

    pub(in super::super) unsafe fn unmap(_: Extent) {}

    pub(in super::super) unsafe fn is_one(_: Extent) -> bool {
        false
    }

    pub(in super::super) unsafe fn shift(_: Extent, _: usize) -> bool {
        false
    }

    pub(in super::super) unsafe fn lengthen(_: Extent, _: usize) -> Option<usize> {
        None
    }
}
