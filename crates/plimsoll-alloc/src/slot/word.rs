//! Tags, and the word that decides whether a slot may be used again.

/// Generations have 31 bits: the highest bit of a tag is left for others.
pub(super) const GENERATIONS: u32 = 0x7fff_ffff;

#[inline(always)]
pub(super) const fn tag(index: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | index as u64
}

#[inline(always)]
pub(super) const fn index(tag: u64) -> u32 {
    tag as u32
}

#[inline(always)]
pub(super) const fn generation(tag: u64) -> u32 {
    (tag >> 32) as u32 & GENERATIONS
}

/// Bytes held in the upper 48 bits, signed; whether the slot has ended in bit 15; the lower 15 bits
/// of its generation. These are enough to notice that the generation has changed since a look at
/// the whole of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    pub(super) const LIVE: u32 = 16;
    pub(super) const ENDED: u64 = 1 << 15;
    pub(super) const GENERATION: u64 = Self::ENDED - 1;

    /// Negative while what was freed elsewhere is known before what was allocated.
    pub(super) const fn live(self) -> i64 {
        self.0 as i64 >> Self::LIVE
    }

    pub(super) const fn plus(self, net: i64) -> Self {
        Self(self.0.wrapping_add((net as u64) << Self::LIVE))
    }

    pub(super) const fn is_of(self, tag: u64) -> bool {
        self.0 & Self::GENERATION == generation(tag) as u64 & Self::GENERATION
    }

    pub(super) const fn has_ended(self) -> bool {
        self.0 & Self::ENDED != 0
    }

    pub(super) const fn ended(self) -> Self {
        Self(self.0 | Self::ENDED)
    }

    /// Whether it has ended and nothing is held.
    pub(super) const fn is_over(self) -> bool {
        self.has_ended() && self.live() == 0
    }

    /// The next generation, which holds nothing.
    pub(super) const fn next(self) -> Self {
        Self((self.0 + 1) & Self::GENERATION)
    }
}
