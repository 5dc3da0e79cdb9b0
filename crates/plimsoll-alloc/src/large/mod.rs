//! Large blocks: what is freed of them is kept for the next, within a bound.
//!
//! Whoever maps a large block for itself pays for each page of it, a microsecond and more in a virtual
//! machine. Whoever keeps what was freed, as most allocators do, ends up with much of it in pieces that
//! fit nobody, does not say how much, and gives it back when it likes.
//!
//! Here all that is freed is kept, to the byte, as far as what lives and what is kept fit into a *room*.
//! A block is the shortest range that has its length; where none has, the pages of some are moved
//! together, which takes the system a fiftieth of what new ones do. What has no room is given back
//! within the call that needs it. What is kept is therefore as good as free to whoever sets the room.

mod book;
mod extents;
mod pages;
mod seams;
mod turn;

use self::{
    book::{Book, Taken},
    extents::{Extent, Pieces},
    turn::Turn,
};
use crate::{AllocatorFigures, Reclaim};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    ops::{Deref, DerefMut},
    ptr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Blocks from here on are large.
const LARGE: usize = 512 << 10;
/// What lengths are rounded up to: a multiple of the pages of every system.
const GRAIN: usize = 128 << 10;
/// What blocks may be aligned to, as pages are everywhere.
const MOST_ALIGNED: usize = 4 << 10;

/// Wraps an allocator, and keeps large blocks for itself: those of 512 KiB and more.
///
/// Pages of such blocks are not given back to the system when they are freed, but kept for the next
/// block, as far as those that live and those that are kept fit into the [room](Self::set_room). Under a load
/// line that is what the line leaves. Until somebody sets it, 64 MiB are kept at most, whatever lives. Nothing
/// is refused for want of room; there is just nothing kept then.
///
/// ```
/// use plimsoll_alloc::{Reclaim, TrackingAllocator};
///
/// // Over large blocks, over the allocator of the system.
/// #[global_allocator]
/// static ALLOC: TrackingAllocator = TrackingAllocator::system();
///
/// fn main() {
///     drop(vec![1_u8; 10 << 20]);
///     # #[cfg(target_os = "linux")]
///     assert_eq!(ALLOC.large_blocks().map(|it| it.kept), Some(10 << 20));
///     ALLOC.release();
///     assert_eq!(ALLOC.large_blocks().map(|it| it.kept), Some(0));
/// }
/// ```
///
/// # Cost
///
/// A lock, one for the process, and a search of less than a microsecond for each large block; some system calls
/// for each piece that is moved, and one for each that is given back; and 48 KiB for who has what. Lengths are
/// rounded up to 128 KiB, of which what was never touched is not in memory. Blocks of zeros are written where
/// their pages are not new.
///
/// A room counts what lives: where more than that lives, nothing is kept, and each block is mapped and
/// unmapped.
///
/// # Use
///
/// On Linux. Elsewhere all blocks come from the allocator inside, as those do that are aligned to more than
/// 4 KiB. What it keeps is a range of addresses, some of which may never have been touched: it is not more
/// than what is kept. At most 512 ranges are kept; the shortest is given back for one more. A block is made
/// of 64 pieces at most, and new pages.
///
/// Pages are no longer moved where there are more than 4 000 mappings; where there are more than 4 096 once,
/// or the system has refused to move some eight times, not until no block lives and none is kept. It refuses
/// where a program has split mappings, by `madvise` say, and where there are as many as there may be, which costs
/// the addresses that pages were to be moved to, but no memory.
///
/// All that is kept by then is given back before an allocation fails. What is kept stays when this is dropped.
///
/// A process may fork and go on without executing another program: `fork` waits until no thread holds the
/// lock. What other threads were about to move or give back just then is lost to the child. A child that comes of
/// a bare system call may find the lock held for ever, as one does where there was no memory for the first
/// block to tell `fork` of it.
#[derive(Debug)]
pub struct LargeBlocks<A = System> {
    inner: A,
    /// Waited for by nobody, since who has it has the turn.
    book: Mutex<Book>,
}

/// Who has the book, at its turn.
struct Held<'a> {
    // Before the turn, which is given on when this is dropped.
    book: MutexGuard<'a, Book>,
    _turn: Turn,
}

/// What [`LargeBlocks`] has, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct LargeBlockUsage {
    /// Of blocks that live.
    pub live: u64,
    /// Kept for the next block.
    pub kept: u64,
    /// What both should fit into; 64 MiB more than lives until somebody sets it.
    pub room: u64,
    /// Given out of what was kept, so far.
    pub reused: u64,
    /// Given out of what was kept in several pieces, so far.
    pub moved: u64,
    /// Given out in pages of the system's, so far.
    pub fresh: u64,
}

impl LargeBlocks {
    /// Wraps the allocator of the system.
    #[must_use]
    pub const fn system() -> Self {
        Self::new(System)
    }
}

impl<A> LargeBlocks<A> {
    /// Wraps an allocator, which gets the blocks that are not large. 64 MiB are kept at most.
    #[must_use]
    pub const fn new(inner: A) -> Self {
        Self {
            inner,
            book: Mutex::new(Book::new(None)),
        }
    }

    /// Wraps an allocator, and keeps what is freed as long as no more bytes live and are kept than that.
    #[must_use]
    pub const fn with_room(inner: A, room: usize) -> Self {
        Self {
            inner,
            book: Mutex::new(Book::new(Some(room))),
        }
    }

    /// The allocator inside.
    #[must_use]
    pub const fn inner(&self) -> &A {
        &self.inner
    }

    /// What it has.
    #[must_use]
    pub fn usage(&self) -> LargeBlockUsage {
        self.book().usage()
    }

    /// Sets how many bytes may live and be kept. What is kept beyond that is given back before this
    /// returns, which takes a tenth of a second for a gigabyte.
    pub fn set_room(&self, bytes: usize) {
        self.book().set_room(bytes);
        self.make_room();
    }

    fn book(&self) -> Held<'_> {
        let turn = Turn::take();
        Held {
            // Nothing panics while it is held.
            book: self.book.lock().unwrap_or_else(PoisonError::into_inner),
            _turn: turn,
        }
    }

    /// A block, and how many bytes at its beginning may be other than zero.
    fn take(&self, len: usize) -> Option<(usize, usize)> {
        let taken = self.book().take(len)?;
        match taken {
            Taken::Whole(addr) => Some((addr, len)),
            Taken::Parts(pieces) => self.make(len, &pieces),
        }
    }

    fn make(&self, len: usize, of: &Pieces) -> Option<(usize, usize)> {
        self.make_room();
        let block = pages::map(len).map(|addr| Extent { addr, len });
        // SAFETY: nobody knows the block, and the pieces were taken from those that nobody has.
        let moved = block.map_or(0, |block| unsafe { join(block, of.all()) });
        if let Some(block) = block {
            let mut book = self.book();
            if moved == of.all().len() {
                book.made(block, of.all());
                return Some((block.addr, of.bytes()));
            }
            book.refused();
        }
        for piece in &of.all()[moved..] {
            let gone = self.book().put_back(*piece);
            if let Some(gone) = gone {
                // SAFETY: it was kept until now.
                unsafe { pages::unmap(gone) };
            }
        }
        // There may be as many mappings or addresses as there may be: not for want of these.
        self.release_kept();
        let mapped = pages::map(len);
        let mut book = self.book();
        match mapped {
            Some(addr) => book.made(Extent { addr, len }, &[]),
            None => book.failed(len),
        }
        Some((mapped?, 0))
    }

    fn give(&self, freed: Extent) {
        let gone = self.book().put(freed);
        if let Some(gone) = gone {
            // SAFETY: it was kept until now.
            unsafe { pages::unmap(gone) };
        }
        self.make_room();
    }

    /// Gives back what there is no room for.
    fn make_room(&self) {
        self.give_back(Book::surplus);
    }

    /// As long as there is something to give back, but no more than is kept now: it would take for ever while
    /// others free.
    fn give_back(&self, mut next: impl FnMut(&mut Book) -> Option<Extent>) {
        let mut left = u64::MAX;
        while left > 0 {
            let gone = {
                let mut book = self.book();
                left = left.min(book.usage().kept);
                next(&mut book)
            };
            let Some(gone) = gone else { break };
            left = left.saturating_sub(gone.len as u64);
            // Not at our turn, for it takes its time.
            // SAFETY: it was kept until now.
            unsafe { pages::unmap(gone) };
        }
    }

    /// What the allocator inside gives, which must not fail for want of what is kept.
    #[inline(always)]
    fn small(&self, allocate: impl Fn() -> *mut u8) -> *mut u8 {
        let block = allocate();
        if block.is_null() {
            return self.small_again(allocate);
        }
        block
    }

    #[cold]
    fn small_again(&self, allocate: impl Fn() -> *mut u8) -> *mut u8 {
        self.release_kept();
        allocate()
    }

    fn release_kept(&self) {
        self.give_back(|book| book.give_up(usize::MAX));
    }

    /// Makes a block longer, where it is or with its pages elsewhere. None where it has to be copied.
    fn lengthen(&self, block: Extent, len: usize) -> Option<usize> {
        let by = len - block.len;
        {
            let mut book = self.book();
            if book.grow(block, by) {
                return Some(block.addr);
            }
            if !book.begin_to_lengthen(block, by) {
                return None;
            }
        }
        self.make_room();
        // SAFETY: the block was mapped here, by itself, and is the caller's.
        let moved = unsafe { pages::lengthen(block, len) };
        let mut book = self.book();
        match moved {
            Some(addr) => book.lengthened(Extent { addr, len }, by),
            None => book.not_lengthened(block, by),
        }
        moved
    }
}

impl Deref for Held<'_> {
    type Target = Book;

    fn deref(&self) -> &Book {
        &self.book
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Book {
        &mut self.book
    }
}

impl<A: GlobalAlloc> LargeBlocks<A> {
    /// Copies a block to where one of another size is.
    ///
    /// # Safety
    ///
    /// As for [`GlobalAlloc::realloc`].
    unsafe fn copy(&self, block: *mut u8, layout: Layout, new: Layout) -> *mut u8 {
        // SAFETY: the new size is not 0, as the caller says.
        let copied = unsafe { self.alloc(new) };
        if !copied.is_null() {
            // SAFETY: both are that long, and they are two.
            unsafe { ptr::copy_nonoverlapping(block, copied, layout.size().min(new.size())) };
            // SAFETY: the caller gives it up.
            unsafe { self.dealloc(block, layout) };
        }
        copied
    }
}

/// Moves pieces to where a block is, one after another. How many; where that is not all of them, the block
/// is gone.
///
/// # Safety
///
/// Nobody has the block, nor the pieces. All of them were mapped here, and the pieces fit.
unsafe fn join(block: Extent, pieces: &[Extent]) -> usize {
    let mut to = block.addr;
    for (moved, piece) in pieces.iter().enumerate() {
        // SAFETY: nobody has it.
        let is_one = unsafe { pages::is_one(*piece) };
        // SAFETY: nobody has either, the block is none of the pieces, and the piece is of one mapping.
        if !(is_one && unsafe { pages::shift(*piece, to) }) {
            // Once it should have gone there, whether something is mapped is not known, and somebody else may
            // be there. It is left: nothing is in it.
            let left = if is_one { piece.len } else { 0 };
            for (addr, end) in [(block.addr, to), (to + left, block.end())] {
                if addr < end {
                    let len = end - addr;
                    // SAFETY: as above.
                    unsafe { pages::unmap(Extent { addr, len }) };
                }
            }
            return moved;
        }
        to += piece.len;
    }
    pieces.len()
}

/// Whether blocks of this layout are kept here: that of a block, and nothing else, says who has it.
#[inline(always)]
const fn is_large(layout: Layout) -> bool {
    cfg!(all(target_os = "linux", not(miri)))
        && layout.size() >= LARGE
        && layout.align() <= MOST_ALIGNED
}

/// How long a block is. It does not overflow: no layout is longer than half of all addresses.
const fn rounded(size: usize) -> usize {
    size.next_multiple_of(GRAIN)
}

fn pointer(addr: usize) -> *mut u8 {
    ptr::with_exposed_provenance_mut(addr)
}

// SAFETY: a large block is a range of addresses that was mapped by `pages`, that is as long as the layout
// says at least, and that the book gives to nobody else until it is put back; its address is that of a page.
// What is not large is the inner allocator's, by a function of the layout alone, which is the same when it is
// freed. Nothing here allocates or unwinds.
unsafe impl<A: GlobalAlloc> GlobalAlloc for LargeBlocks<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            let taken = self.take(rounded(layout.size()));
            return taken.map_or(ptr::null_mut(), |(addr, _)| pointer(addr));
        }
        // SAFETY: the caller keeps the contract.
        self.small(|| unsafe { self.inner.alloc(layout) })
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            let taken = self.take(rounded(layout.size()));
            return taken.map_or(ptr::null_mut(), |(addr, written)| {
                let block = pointer(addr);
                // SAFETY: the block is as long. What follows is new, and stays out of memory until then.
                unsafe { block.write_bytes(0, written.min(layout.size())) };
                block
            });
        }
        // SAFETY: the caller keeps the contract.
        self.small(|| unsafe { self.inner.alloc_zeroed(layout) })
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_large(layout) {
            let len = rounded(layout.size());
            return self.give(Extent {
                addr: block.addr(),
                len,
            });
        }
        // SAFETY: the caller keeps the contract.
        unsafe { self.inner.dealloc(block, layout) };
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller says that the new size, rounded up to the alignment, does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (is_large(layout), is_large(new)) {
            // SAFETY: the caller keeps the contract; where this fails, the block is what it was.
            (false, false) => self.small(|| unsafe { self.inner.realloc(block, layout, new_size) }),
            (true, true) => {
                let (addr, len, new_len) =
                    (block.addr(), rounded(layout.size()), rounded(new_size));
                if new_len <= len {
                    if new_len < len {
                        self.give(Extent {
                            addr: addr + new_len,
                            len: len - new_len,
                        });
                    }
                    return block;
                }
                match self.lengthen(Extent { addr, len }, new_len) {
                    Some(addr) => pointer(addr),
                    // SAFETY: as above.
                    None => unsafe { self.copy(block, layout, new) },
                }
            }
            // SAFETY: as above.
            _ => unsafe { self.copy(block, layout, new) },
        }
    }
}

impl<A: Reclaim> Reclaim for LargeBlocks<A> {
    /// Gives back all that is kept, and what the allocator inside has.
    fn release(&self) {
        self.release_kept();
        self.inner.release();
    }

    fn release_small(&self) {
        self.inner.release_small();
    }

    fn set_frugal(&self, frugal: bool) {
        self.inner.set_frugal(frugal);
    }

    fn large_blocks(&self) -> Option<LargeBlockUsage> {
        Some(self.usage())
    }

    fn set_room(&self, bytes: usize) {
        Self::set_room(self, bytes);
    }

    /// Those of the allocator inside.
    fn figures(&self) -> Option<AllocatorFigures> {
        self.inner.figures()
    }
}

#[cfg(all(test, target_os = "linux", not(miri), not(plimsoll_loom)))]
mod tests {
    use super::*;
    use rustix::mm::{Advice, madvise};
    use std::fs;

    fn mapped(grains: usize) -> Extent {
        let len = grains * GRAIN;
        let addr = pages::map(len).unwrap();
        Extent { addr, len }
    }

    fn part(of: Extent, grain: usize, grains: usize) -> Extent {
        Extent {
            addr: of.addr + grain * GRAIN,
            len: grains * GRAIN,
        }
    }

    /// Makes some of it a mapping of its own, as programs may.
    fn split(range: Extent) {
        // SAFETY: nothing forks meanwhile.
        unsafe { madvise(pointer(range.addr).cast(), range.len, Advice::LinuxDontFork) }.unwrap();
    }

    /// How many mappings begin within a range. At its beginning one may come to be part of another.
    fn begin_in(range: Extent) -> usize {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let begins = maps.lines().map(|line| line.split('-').next().unwrap());
        let begins = begins.map(|begin| usize::from_str_radix(begin, 16).unwrap());
        begins
            .filter(|it| (range.addr + 1..range.end()).contains(it))
            .count()
    }

    #[test]
    fn one_mapping_is_told_from_several_and_left_as_it_is() {
        let whole = mapped(3);
        let [first, middle, last] = [0, 1, 2].map(|grain| part(whole, grain, 1));
        // SAFETY: nobody has any of them.
        let is_one = |range| unsafe { pages::is_one(range) };
        assert!(
            [whole, first, middle, last]
                .map(is_one)
                .iter()
                .all(|is_one| *is_one)
        );
        split(middle);
        let begin = begin_in(whole);
        assert!(!is_one(whole));
        assert!(!is_one(part(whole, 0, 2)));
        assert!(
            [first, middle, last]
                .map(is_one)
                .iter()
                .all(|is_one| *is_one)
        );
        assert_eq!(begin_in(whole), begin);
        // SAFETY: nobody has it.
        unsafe { pages::unmap(whole) };
    }

    #[test]
    fn no_more_is_given_back_than_was_kept_when_that_began() {
        let blocks = LargeBlocks::with_room(System, usize::MAX);
        for grains in [4, 5] {
            assert!(blocks.book().put_back(mapped(grains)).is_none());
        }
        let mut given_back = 0;
        blocks.give_back(|book| {
            given_back += 1;
            assert!(given_back < 10, "it takes for ever");
            let gone = book.give_up(4 * GRAIN);
            // As another thread that frees a block.
            assert!(book.put_back(mapped(4)).is_none());
            gone
        });
        // Nine grains, four of them at a time at most.
        assert!((3..=9).contains(&given_back));
        assert!(blocks.usage().kept > 0);
        blocks.release_kept();
        assert_eq!(blocks.usage().kept, 0);
    }

    #[test]
    fn piece_of_several_mappings_stays_where_it_is_as_a_whole() {
        let (one, several, block) = (mapped(2), mapped(5), mapped(8));
        for range in [one, several] {
            // SAFETY: it is as long.
            unsafe { pointer(range.addr).write_bytes(7, range.len) };
        }
        split(part(several, 3, 1));
        // SAFETY: nobody has any of them, and there is room for both.
        assert_eq!(unsafe { join(block, &[one, several]) }, 1);
        // SAFETY: it is as long, and was written.
        let bytes = unsafe { std::slice::from_raw_parts(pointer(several.addr), several.len) };
        assert!(bytes.iter().all(|byte| *byte == 7));
        // SAFETY: nobody has it any more.
        unsafe { pages::unmap(several) };
    }
}
