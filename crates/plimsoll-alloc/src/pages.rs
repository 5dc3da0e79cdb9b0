//! The tags of large blocks, by the page that a block begins in.
//!
//! A table of three levels over 48 bits of address, made as addresses come, and never freed. It
//! takes 8 bytes for each page of address space in use, rounded up to 16 MiB of it, and is read and
//! written without locks. An entry means nothing once its block is freed.
//!
//! Entries differ from tags in the bits of [`UNCOUNTED`], so that a block whose tag was never
//! remembered, for want of memory, is one that is not counted.

use crate::slot::UNCOUNTED;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
    sync::atomic::{
        AtomicPtr, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};

/// What a block has to be as long as, or aligned to, to be here.
pub(crate) const PAGE: usize = 1 << PAGE_BITS;

const PAGE_BITS: u32 = 12;
const LEVEL_BITS: u32 = 12;
const ENTRIES: usize = 1 << LEVEL_BITS;

type Leaf = [AtomicU64; ENTRIES];
type Middle = [AtomicPtr<Leaf>; ENTRIES];

static ROOT: [AtomicPtr<Middle>; ENTRIES] = [const { AtomicPtr::new(ptr::null_mut()) }; ENTRIES];

/// Where the tag of a block is remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry(&'static AtomicU64);

impl Entry {
    #[inline]
    pub(crate) fn set(self, tag: u64) {
        // Relaxed: whoever passes the block on to another thread publishes this with it.
        self.0.store(tag ^ UNCOUNTED, Relaxed);
    }
}

/// Where the tag of a block is to be remembered. None if there is no memory for it, or the address
/// is beyond what the table covers.
#[inline]
pub(crate) fn entry(block: *mut u8) -> Option<Entry> {
    let (top, middle, leaf) = place(block.addr() as u64)?;
    let leaves = made(&made(&ROOT[top])?[middle])?;
    Some(Entry(&leaves[leaf]))
}

/// The tag that was remembered last for a block that begins in this page; [`UNCOUNTED`] if none
/// was.
#[inline]
pub(crate) fn get(block: *mut u8) -> u64 {
    let entry = || {
        let (top, middle, leaf) = place(block.addr() as u64)?;
        let leaves = there(&there(&ROOT[top])?[middle])?;
        Some(leaves[leaf].load(Relaxed))
    };
    entry().unwrap_or(0) ^ UNCOUNTED
}

/// The entry of an address in each level.
#[inline]
const fn place(addr: u64) -> Option<(usize, usize, usize)> {
    let page = addr >> PAGE_BITS;
    if page >> (3 * LEVEL_BITS) != 0 {
        // Never so for a process of Linux that did not ask for such addresses.
        return None;
    }
    let mask = ENTRIES as u64 - 1;
    let (top, middle) = (page >> (2 * LEVEL_BITS) & mask, page >> LEVEL_BITS & mask);
    Some((top as usize, middle as usize, (page & mask) as usize))
}

#[inline]
fn there<T>(entry: &AtomicPtr<T>) -> Option<&'static T> {
    let table = entry.load(Acquire);
    // SAFETY: a table that is not null was made by `make`, zeroed, which is a valid one, and is
    // never freed; Acquire pairs with the Release that put it there.
    unsafe { table.as_ref() }
}

#[inline]
fn made<T>(entry: &AtomicPtr<T>) -> Option<&'static T> {
    there(entry).or_else(|| make(entry))
}

#[cold]
fn make<T>(entry: &AtomicPtr<T>) -> Option<&'static T> {
    let layout = Layout::new::<T>();
    // SAFETY: a table is not empty. Not through the allocator that is being tracked, which would
    // come back here.
    let table = unsafe { System.alloc_zeroed(layout) }.cast::<T>();
    if table.is_null() {
        return None;
    }
    match entry.compare_exchange(ptr::null_mut(), table, AcqRel, Acquire) {
        Ok(_) => there(entry),
        Err(_) => {
            // SAFETY: nobody has seen it; another thread was faster.
            unsafe { System.dealloc(table.cast(), layout) };
            there(entry)
        }
    }
}

#[cfg(all(test, not(plimsoll_loom)))]
mod tests {
    use super::*;

    /// An address that nothing is at: it is only looked up.
    fn block(addr: usize) -> *mut u8 {
        ptr::without_provenance_mut(addr)
    }

    fn set(addr: usize, tag: u64) -> bool {
        entry(block(addr)).map(|entry| entry.set(tag)).is_some()
    }

    #[test]
    fn tags_are_found_by_any_address_of_the_page_and_by_no_other() {
        let addrs = [0x7f12_3456_7010, 0x7f12_3456_8010, 0x5555_0000_0000];
        for (n, addr) in (1..).zip(addrs) {
            assert_eq!(get(block(addr)), UNCOUNTED);
            assert!(set(addr, n));
        }
        assert_eq!(get(block(0x7f12_3456_7ff0)), 1);
        assert_eq!(get(block(0x7f12_3456_8000)), 2);
        assert_eq!(get(block(0x7f12_3456_9000)), UNCOUNTED);
        assert_eq!(get(block(0x5555_0000_0fff)), 3);
        set(0x7f12_3456_7010, 9);
        assert_eq!(get(block(0x7f12_3456_7010)), 9);
        set(0x7f12_3456_7010, UNCOUNTED);
        assert_eq!(get(block(0x7f12_3456_7010)), UNCOUNTED);
    }

    #[test]
    fn every_bit_of_an_address_below_the_end_tells_places_apart() {
        let first = place(0x1234_5678_9000);
        for bit in PAGE_BITS..48 {
            assert_ne!(place(0x1234_5678_9000 ^ 1 << bit), first, "{bit}");
        }
        assert!(place((1 << 48) - 1).is_some());
        assert_eq!(place(1 << 48), None);
        assert_eq!(place(u64::MAX), None);
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn addresses_beyond_the_table_are_not_counted() {
        assert!(!set(1 << 48, 1));
        assert_eq!(get(block(1 << 48)), UNCOUNTED);
    }
}
