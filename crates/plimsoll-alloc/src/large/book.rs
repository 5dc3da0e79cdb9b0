//! Who has which addresses.

use super::{
    GRAIN, LargeBlockUsage,
    extents::{Extent, Extents, Pieces},
    seams::Seams,
};

#[cfg(all(test, not(plimsoll_loom)))]
mod tests;

/// No less is given back to the system at a time, if there is as much.
const LEAST_GIVEN_BACK: usize = 1 << 20;

/// The most that is kept until there is a room.
const KEPT_AT_FIRST: usize = 64 << 20;

/// What is kept, and how much.
#[derive(Debug)]
pub(super) struct Book {
    kept: Extents,
    seams: Seams,
    live: usize,
    /// What lives and is kept has to fit into that; until somebody sets it what is kept is bounded.
    room: Option<usize>,
    reused: u64,
    moved: u64,
    fresh: u64,
}

/// What a block is made of.
#[allow(
    clippy::large_enum_variant,
    reason = "it is on the stack, and nowhere else"
)]
pub(super) enum Taken {
    /// The addresses from here on, which are in memory.
    Whole(usize),
    /// These pieces, which are to be moved together, and new memory for what is missing.
    Parts(Pieces),
}

impl Book {
    pub(super) const fn new(room: Option<usize>) -> Self {
        Self {
            kept: Extents::new(),
            seams: Seams::new(),
            live: 0,
            room,
            reused: 0,
            moved: 0,
            fresh: 0,
        }
    }

    /// Takes what is there of a block. None if there are not as many addresses.
    pub(super) fn take(&mut self, len: usize) -> Option<Taken> {
        // Whoever asks for half of all addresses lives, too, until the system has refused it.
        self.live = self.live.checked_add(len)?;
        if let Some(addr) = self.kept.take(len) {
            self.reused += len as u64;
            return Some(Taken::Whole(addr));
        }
        // Nothing is moved whose seams are not known.
        let most = if self.seams.has_all() { len } else { 0 };
        let pieces = self.kept.gather(most, &self.seams);
        for piece in pieces.all() {
            // Before they are gone: somebody else may be there at once, with seams of its own.
            self.seams.clear(*piece);
        }
        Some(Taken::Parts(pieces))
    }

    /// A block was made of pieces, in that order, and of new memory for the rest.
    pub(super) fn made(&mut self, block: Extent, of: &[Extent]) {
        self.seams.add_ends(block);
        let mut end = block.addr;
        for piece in of {
            end += piece.len;
            self.seams.add(end);
        }
        let moved = end - block.addr;
        self.moved += moved as u64;
        self.fresh += (block.len - moved) as u64;
    }

    /// A piece was not moved. What has to go for it, if something has.
    pub(super) fn put_back(&mut self, piece: Extent) -> Option<Extent> {
        self.seams.add_ends(piece);
        self.keep(piece)
    }

    /// The system refused to move a piece.
    pub(super) const fn refused(&mut self) {
        self.seams.refused();
    }

    /// A block of that length could not be made.
    pub(super) const fn failed(&mut self, len: usize) {
        self.live -= len;
    }

    /// Takes what follows a block for it to grow.
    pub(super) fn grow(&mut self, block: Extent, by: usize) -> bool {
        let grows = self.kept.take_at(block.end(), by);
        if grows {
            self.live += by;
            self.reused += by as u64;
        }
        grows
    }

    /// Whether a block is a mapping by itself, so that it can be made longer.
    pub(super) fn begin_to_lengthen(&mut self, block: Extent, by: usize) -> bool {
        let next = self.seams.after(block.addr);
        let is_one = self.seams.has_all() && next.is_none_or(|seam| seam >= block.end());
        match self.live.checked_add(by) {
            Some(live) if is_one => {
                self.live = live;
                self.seams.clear(block);
                true
            }
            _ => false,
        }
    }

    /// It was made longer, and is there now.
    pub(super) fn lengthened(&mut self, block: Extent, by: usize) {
        self.seams.add_ends(block);
        self.fresh += by as u64;
    }

    pub(super) fn not_lengthened(&mut self, block: Extent, by: usize) {
        self.seams.add_ends(block);
        self.live -= by;
    }

    /// Keeps what was freed. What has to go for it, if something has.
    pub(super) fn put(&mut self, freed: Extent) -> Option<Extent> {
        self.live -= freed.len;
        self.keep(freed)
    }

    fn keep(&mut self, range: Extent) -> Option<Extent> {
        let gone = self.kept.put(range)?;
        self.seams.clear(gone);
        Some(gone)
    }

    /// What has to go for there to be room.
    pub(super) fn surplus(&mut self) -> Option<Extent> {
        let kept = self.kept.bytes();
        let over = match self.room {
            Some(room) => self.live.saturating_add(kept).saturating_sub(room),
            None => kept.saturating_sub(KEPT_AT_FIRST),
        };
        // No more than is kept, which does not overflow.
        match over.min(kept) {
            0 => None,
            over => self.give_up(over.max(LEAST_GIVEN_BACK).next_multiple_of(GRAIN)),
        }
    }

    /// Something of what is kept.
    pub(super) fn give_up(&mut self, most: usize) -> Option<Extent> {
        let gone = self.kept.give_up(most)?;
        self.seams.clear(gone);
        if self.live == 0 && self.kept.bytes() == 0 {
            self.seams.forget();
        }
        Some(gone)
    }

    pub(super) const fn set_room(&mut self, room: usize) {
        self.room = Some(room);
    }

    pub(super) const fn usage(&self) -> LargeBlockUsage {
        let room = match self.room {
            Some(room) => room,
            None => self.live.saturating_add(KEPT_AT_FIRST),
        };
        LargeBlockUsage {
            live: self.live as u64,
            kept: self.kept.bytes() as u64,
            room: room as u64,
            reused: self.reused,
            moved: self.moved,
            fresh: self.fresh,
        }
    }
}
