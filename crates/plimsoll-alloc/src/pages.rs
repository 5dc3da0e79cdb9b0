//! The tags of large blocks, by the page that a block begins in.
//!
//! A table of three levels over 48 bits of address, made as addresses come, and never freed. It
//! takes 8 bytes for each page of address space in use, rounded up to 16 MiB of it, and is read and
//! written without locks. An entry means nothing once its block is freed.

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

/// Remembers the tag of a block. False if there is no memory for that, or the address is beyond
/// what the table covers.
#[inline]
pub(crate) fn set(block: *mut u8, tag: u64) -> bool {
    let Some((top, middle, leaf)) = place(block) else {
        return false;
    };
    let Some(middles) = made(&ROOT[top]) else {
        return false;
    };
    let Some(leaves) = made(&middles[middle]) else {
        return false;
    };
    // Relaxed: whoever passes the block on to another thread publishes this with it.
    leaves[leaf].store(tag, Relaxed);
    true
}

/// The tag that was remembered last for a block that begins in this page; 0 if none was.
#[inline]
pub(crate) fn get(block: *mut u8) -> u64 {
    let Some((top, middle, leaf)) = place(block) else {
        return 0;
    };
    let Some(middles) = there(&ROOT[top]) else {
        return 0;
    };
    there(&middles[middle]).map_or(0, |leaves| leaves[leaf].load(Relaxed))
}

#[inline]
fn place(block: *mut u8) -> Option<(usize, usize, usize)> {
    let page = block.addr() >> PAGE_BITS;
    let part = |level: u32| (page >> (level * LEVEL_BITS)) & (ENTRIES - 1);
    // Never so for a process of Linux that did not ask for such addresses.
    (page >> (3 * LEVEL_BITS) == 0).then(|| (part(2), part(1), part(0)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_by_any_address_of_the_page_and_by_no_other() {
        // Addresses that nothing is at: they are only looked up.
        let block = |addr: usize| ptr::without_provenance_mut::<u8>(addr);
        for (n, addr) in [0x7f12_3456_7010, 0x7f12_3456_8010, 0x5555_0000_0000]
            .into_iter()
            .enumerate()
        {
            assert_eq!(get(block(addr)), 0);
            assert!(set(block(addr), n as u64 + 1));
        }
        assert_eq!(get(block(0x7f12_3456_7ff0)), 1);
        assert_eq!(get(block(0x7f12_3456_8000)), 2);
        assert_eq!(get(block(0x7f12_3456_9000)), 0);
        assert_eq!(get(block(0x5555_0000_0fff)), 3);
        set(block(0x7f12_3456_7010), 9);
        assert_eq!(get(block(0x7f12_3456_7010)), 9);
    }

    #[test]
    fn addresses_beyond_the_table_have_no_tag() {
        let block = ptr::without_provenance_mut::<u8>(1 << 48);
        assert!(!set(block, 1));
        assert_eq!(get(block), 0);
    }
}
