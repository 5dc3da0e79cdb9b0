//! What is kept of freed blocks: a bounded list of ranges of addresses.

use super::seams::Seams;

/// How many ranges are kept at most. They take 16 bytes each, and a search goes over all of them: less
/// than half a microsecond, for a block that takes fifty to be written.
pub(super) const MOST: usize = 512;

/// Of how many pieces a block is made at most.
pub(super) const MOST_PIECES: usize = 64;

/// Addresses that are mapped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Extent {
    pub(super) addr: usize,
    pub(super) len: usize,
}

/// Ranges that belong to nobody, by address. No two of them touch each other.
#[derive(Debug)]
pub(super) struct Extents {
    list: [Extent; MOST],
    count: usize,
    bytes: usize,
}

/// What a block is made of that no single range has the length for.
#[derive(Debug)]
pub(super) struct Pieces {
    list: [Extent; MOST_PIECES],
    count: usize,
    bytes: usize,
}

impl Extent {
    const EMPTY: Self = Self { addr: 0, len: 0 };

    pub(super) const fn end(self) -> usize {
        self.addr + self.len
    }
}

impl Extents {
    pub(super) const fn new() -> Self {
        Self {
            list: [Extent::EMPTY; MOST],
            count: 0,
            bytes: 0,
        }
    }

    /// The sum of their lengths.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes so many bytes of the shortest range that has them. Their address.
    pub(super) fn take(&mut self, len: usize) -> Option<usize> {
        let all = self.all().iter().enumerate();
        let (at, found) = all
            .filter(|(_, it)| it.len >= len)
            .min_by_key(|(_, it)| it.len)?;
        let addr = found.addr;
        self.cut(at, len);
        Some(addr)
    }

    /// Takes so many bytes that begin at an address, if they are free.
    pub(super) fn take_at(&mut self, addr: usize, len: usize) -> bool {
        let Ok(at) = self.all().binary_search_by_key(&addr, |it| it.addr) else {
            return false;
        };
        let fits = self.list[at].len >= len;
        if fits {
            self.cut(at, len);
        }
        fits
    }

    /// Takes so many bytes in pieces that each lie between two seams, from the longest ranges first. If
    /// there are not as many, all that there are, or [`MOST_PIECES`].
    pub(super) fn gather(&mut self, len: usize, seams: &Seams) -> Pieces {
        let mut pieces = Pieces::new();
        while let Some((at, mut from)) = self.longest() {
            let whole = from.len;
            while from.len > 0 && pieces.bytes < len && pieces.count < MOST_PIECES {
                let end = seams
                    .after(from.addr)
                    .map_or(from.end(), |seam| seam.min(from.end()));
                let taken = (end - from.addr).min(len - pieces.bytes);
                pieces.push(from.addr, taken);
                from.addr += taken;
                from.len -= taken;
            }
            if from.len == whole {
                break;
            }
            self.cut(at, whole - from.len);
        }
        pieces
    }

    /// Keeps a range. Gives back one that has to go where there are too many: the shortest.
    pub(super) fn put(&mut self, new: Extent) -> Option<Extent> {
        self.bytes += new.len;
        let at = self.all().partition_point(|it| it.addr < new.addr);
        let follows = at > 0 && self.list[at - 1].end() == new.addr;
        let leads = at < self.count && new.end() == self.list[at].addr;
        match (follows, leads) {
            (true, true) => {
                self.list[at - 1].len += new.len + self.list[at].len;
                self.remove(at);
            }
            (true, false) => self.list[at - 1].len += new.len,
            (false, true) => {
                self.list[at].addr = new.addr;
                self.list[at].len += new.len;
            }
            (false, false) if self.count < MOST => self.insert(at, new),
            (false, false) => {
                let Some((gone_at, gone)) = self.shortest().filter(|(_, it)| it.len < new.len)
                else {
                    self.bytes -= new.len;
                    return Some(new);
                };
                self.cut(gone_at, gone.len);
                self.insert(at - usize::from(gone_at < at), new);
                return Some(gone);
            }
        }
        None
    }

    /// Takes what is given back to the system first, but no more than so many bytes: the shortest range,
    /// which the fewest blocks would fit into.
    pub(super) fn give_up(&mut self, most: usize) -> Option<Extent> {
        let (at, found) = self.shortest()?;
        let len = found.len.min(most);
        self.cut(at, len);
        let addr = found.addr;
        Some(Extent { addr, len })
    }

    fn all(&self) -> &[Extent] {
        &self.list[..self.count]
    }

    fn shortest(&self) -> Option<(usize, Extent)> {
        let all = self.all().iter().copied().enumerate();
        all.min_by_key(|(_, it)| it.len)
    }

    fn longest(&self) -> Option<(usize, Extent)> {
        let all = self.all().iter().copied().enumerate();
        all.max_by_key(|(_, it)| it.len)
    }

    /// Takes the first bytes of a range away.
    fn cut(&mut self, at: usize, len: usize) {
        self.bytes -= len;
        let range = &mut self.list[at];
        range.addr += len;
        range.len -= len;
        if range.len == 0 {
            self.remove(at);
        }
    }

    fn insert(&mut self, at: usize, new: Extent) {
        self.list.copy_within(at..self.count, at + 1);
        self.list[at] = new;
        self.count += 1;
    }

    fn remove(&mut self, at: usize) {
        self.list.copy_within(at + 1..self.count, at);
        self.count -= 1;
    }
}

impl Pieces {
    const fn new() -> Self {
        Self {
            list: [Extent::EMPTY; MOST_PIECES],
            count: 0,
            bytes: 0,
        }
    }

    pub(super) fn all(&self) -> &[Extent] {
        &self.list[..self.count]
    }

    /// The sum of their lengths.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn push(&mut self, addr: usize, len: usize) {
        self.list[self.count] = Extent { addr, len };
        self.count += 1;
        self.bytes += len;
    }
}
