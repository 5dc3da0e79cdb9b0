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

#[cfg(all(test, not(plimsoll_loom)))]
impl Extents {
    /// Those that are kept, by address. Panics where they are not as they should be.
    pub(super) fn checked(&self) -> &[Extent] {
        let all = self.all();
        assert!(all.iter().all(|it| it.len > 0));
        assert!(all.windows(2).all(|pair| pair[0].end() < pair[1].addr));
        assert_eq!(all.iter().map(|it| it.len).sum::<usize>(), self.bytes);
        all
    }
}

#[cfg(all(test, not(plimsoll_loom)))]
mod tests {
    use super::*;

    fn extent(addr: usize, len: usize) -> Extent {
        Extent { addr, len }
    }

    /// Some that have room.
    fn extents(of: impl IntoIterator<Item = (usize, usize)>) -> Extents {
        let mut extents = Extents::new();
        for (addr, len) in of {
            assert_eq!(extents.put(extent(addr, len)), None);
        }
        extents
    }

    fn assert_kept(extents: &Extents, of: &[(usize, usize)]) {
        let of: Vec<_> = of.iter().map(|(addr, len)| extent(*addr, *len)).collect();
        assert_eq!(extents.checked(), of);
    }

    fn seams(at: &[usize]) -> Seams {
        let mut seams = Seams::new();
        at.iter().for_each(|addr| seams.add(*addr));
        seams
    }

    /// As many as there may be, of 10 each, 20 apart, but for one of 5.
    fn full() -> Extents {
        extents((0..MOST).map(|n| (1_000 + 20 * n, if n == 7 { 5 } else { 10 })))
    }

    #[test]
    fn ranges_that_touch_become_one() {
        assert_kept(&extents([(10, 5), (15, 5)]), &[(10, 10)]);
        assert_kept(&extents([(15, 5), (10, 5)]), &[(10, 10)]);
        assert_kept(&extents([(10, 5), (20, 5), (15, 5)]), &[(10, 15)]);
        assert_kept(&extents([(10, 5), (21, 5), (15, 5)]), &[(10, 10), (21, 5)]);
        assert_kept(&extents([(10, 4), (20, 5), (15, 5)]), &[(10, 4), (15, 10)]);
        let apart = extents([(30, 5), (10, 5), (20, 5)]);
        assert_kept(&apart, &[(10, 5), (20, 5), (30, 5)]);
    }

    #[test]
    fn shortest_range_that_is_long_enough_is_cut_from_its_beginning() {
        let mut extents = extents([(100, 50), (200, 20), (300, 10), (400, 20)]);
        assert_eq!(extents.take(51), None);
        assert_eq!(extents.take(15), Some(200));
        assert_kept(&extents, &[(100, 50), (215, 5), (300, 10), (400, 20)]);
        assert_eq!(extents.take(10), Some(300));
        assert_kept(&extents, &[(100, 50), (215, 5), (400, 20)]);
        assert_eq!(extents.take(50), Some(100));
        assert_eq!(extents.take(21), None);
        assert_eq!(extents.bytes(), 25);
    }

    #[test]
    fn block_grows_into_what_begins_where_it_ends_and_is_long_enough() {
        let mut extents = extents([(100, 50), (200, 20)]);
        for (addr, len) in [(90, 10), (101, 10), (149, 1), (150, 1), (100, 51)] {
            assert!(!extents.take_at(addr, len), "{addr} {len}");
        }
        assert!(extents.take_at(100, 20));
        assert!(extents.take_at(200, 20));
        assert_kept(&extents, &[(120, 30)]);
    }

    #[test]
    fn longest_ranges_are_gathered_first_and_no_more_than_are_needed() {
        let mut extents = extents([(100, 20), (200, 50), (300, 30)]);
        let pieces = extents.gather(65, &Seams::new());
        assert_eq!(pieces.all(), [extent(200, 50), extent(300, 15)]);
        assert_eq!(pieces.bytes(), 65);
        assert_kept(&extents, &[(100, 20), (315, 15)]);
        assert_eq!(extents.gather(0, &Seams::new()).all(), []);
        let rest = extents.gather(100, &Seams::new());
        assert_eq!(rest.all(), [extent(100, 20), extent(315, 15)]);
        assert_kept(&extents, &[]);
    }

    #[test]
    fn no_piece_lies_across_a_seam() {
        let mut extents = extents([(100, 50), (200, 20)]);
        // Those at its ends and outside are none.
        let seams = seams(&[90, 100, 110, 125, 150, 170, 200, 220]);
        let pieces = extents.gather(60, &seams);
        let by_seams = [(100, 10), (110, 15), (125, 25), (200, 10)];
        assert_eq!(pieces.all(), by_seams.map(|(addr, len)| extent(addr, len)));
        assert_eq!(pieces.bytes(), 60);
        assert_kept(&extents, &[(210, 10)]);
    }

    #[test]
    fn no_more_than_64_pieces_are_gathered() {
        assert_eq!(MOST_PIECES, 64);
        let mut apart = extents((0..70).map(|n| (100 * n, 10)));
        let pieces = apart.gather(700, &Seams::new());
        assert_eq!((pieces.all().len(), pieces.bytes()), (64, 640));
        assert_eq!(apart.checked().len(), 6);
        // Of one range as well, of which the rest stays.
        let mut one = extents([(1_000, 700)]);
        let seams = seams(&(0..70).map(|n| 1_000 + 10 * n).collect::<Vec<_>>());
        let pieces = one.gather(700, &seams);
        assert_eq!((pieces.all().len(), pieces.bytes()), (64, 640));
        assert_kept(&one, &[(1_640, 60)]);
    }

    #[test]
    fn shortest_of_too_many_ranges_goes() {
        assert_eq!(MOST, 512);
        for (addr, at) in [(0, 0), (3_012, 100), (1 << 20, MOST - 1)] {
            let mut extents = full();
            assert_eq!(extents.put(extent(addr, 4)), Some(extent(addr, 4)));
            assert_eq!(extents.put(extent(addr, 5)), Some(extent(addr, 5)));
            assert_eq!(extents.put(extent(addr, 6)), Some(extent(1_140, 5)));
            let kept = extents.checked();
            assert_eq!(kept.len(), MOST);
            assert_eq!(kept[at], extent(addr, 6));
        }
    }

    #[test]
    fn range_that_touches_another_is_none_too_many() {
        let mut extents = full();
        assert_eq!(extents.put(extent(1_010, 1)), None);
        assert_eq!(extents.put(extent(1_019, 1)), None);
        assert_eq!(extents.put(extent(1_011, 8)), None);
        assert_eq!(extents.checked().len(), MOST - 1);
        assert_eq!(extents.put(extent(0, 1)), None);
        assert_eq!(extents.checked().len(), MOST);
    }

    #[test]
    fn shortest_range_is_given_up_first_and_no_more_than_asked_for() {
        let mut extents = extents([(100, 50), (200, 20), (300, 30)]);
        assert_eq!(extents.give_up(15), Some(extent(200, 15)));
        assert_eq!(extents.give_up(15), Some(extent(215, 5)));
        assert_eq!(extents.give_up(usize::MAX), Some(extent(300, 30)));
        assert_kept(&extents, &[(100, 50)]);
        assert_eq!(extents.give_up(usize::MAX), Some(extent(100, 50)));
        assert_eq!(extents.give_up(usize::MAX), None);
        assert_eq!(extents.bytes(), 0);
    }
}
