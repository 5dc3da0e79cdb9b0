//! The book against a map of addresses, with a system that knows which mapping each of them is in.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

/// How many grains of addresses there are.
const ADDRESSES: usize = 512;
const CASES: u32 = if cfg!(miri) { 2 } else { 100 };
const STEPS: usize = if cfg!(miri) { 30 } else { 300 };

fn extent(from: usize, grains: usize) -> Extent {
    Extent {
        addr: (from + 1) * GRAIN,
        len: grains * GRAIN,
    }
}

/// The grains of a range.
fn grains(of: Extent) -> std::ops::Range<usize> {
    of.addr / GRAIN - 1..of.end() / GRAIN - 1
}

/// Who has a grain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Owner {
    Nobody,
    Kept,
    /// A block, or somebody who is about to move or unmap it.
    Taken,
}

/// What a thread is about to do, without the lock.
#[derive(Debug)]
enum Flight {
    /// Map a block, and move pieces there.
    Make(usize, Vec<Extent>),
    /// Give back what is kept, and map a block.
    MakeAnew(usize),
    /// Say what was made.
    Made(Extent, Vec<Extent>),
    Lengthen(Extent, usize),
    Lengthened(Extent, usize),
    Unmap(Extent),
}

/// What the system does when it is asked.
#[derive(Clone, Copy, Debug)]
enum System {
    Works { from_above: bool },
    MapsNothing,
    MovesNoMoreThan(usize),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc(usize),
    Free(usize),
    Resize(usize, usize),
    SetRoom(usize),
    Release,
    GoOn(usize, System),
}

fn system() -> impl Strategy<Value = System> {
    prop_oneof![
        20 => any::<bool>().prop_map(|from_above| System::Works { from_above }),
        1 => Just(System::MapsNothing),
        1 => (0..4_usize).prop_map(System::MovesNoMoreThan),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (4..60_usize).prop_map(Step::Alloc),
        5 => any::<usize>().prop_map(Step::Free),
        4 => (any::<usize>(), 4..80_usize).prop_map(|(which, len)| Step::Resize(which, len)),
        1 => (0..ADDRESSES).prop_map(Step::SetRoom),
        1 => Just(Step::Release),
        12 => (any::<usize>(), system()).prop_map(|(which, system)| Step::GoOn(which, system)),
    ]
}

struct Model {
    book: Book,
    owners: Vec<Owner>,
    /// Which mapping each grain is in.
    mappings: Vec<Option<u32>>,
    last_mapping: u32,
    blocks: Vec<Extent>,
    flights: VecDeque<Flight>,
    room: usize,
    reused: usize,
    moved: usize,
    fresh: usize,
}

impl Model {
    fn new() -> Self {
        let room = 150 * GRAIN;
        Self {
            book: Book::new(Some(room)),
            owners: vec![Owner::Nobody; ADDRESSES],
            mappings: vec![None; ADDRESSES],
            last_mapping: 0,
            blocks: Vec::new(),
            flights: VecDeque::new(),
            room,
            reused: 0,
            moved: 0,
            fresh: 0,
        }
    }

    fn run(steps: &[Step]) -> Self {
        let mut model = Self::new();
        for (n, step) in steps.iter().enumerate() {
            model.step(*step);
            // All of it takes its time.
            if n % 4 == 3 {
                model.check();
            }
        }
        model
    }

    fn step(&mut self, step: Step) {
        let which = |which: usize, of: usize| which.checked_rem(of);
        match step {
            Step::Alloc(len) => self.alloc(len * GRAIN),
            Step::Free(block) => {
                if let Some(block) = which(block, self.blocks.len()) {
                    let block = self.blocks.swap_remove(block);
                    self.put(block);
                    self.make_room();
                }
            }
            Step::Resize(block, len) => {
                if let Some(block) = which(block, self.blocks.len()) {
                    self.resize(block, len * GRAIN);
                }
            }
            Step::SetRoom(room) => {
                self.room = room * GRAIN;
                self.book.set_room(self.room);
                self.make_room();
            }
            Step::Release => self.release(),
            Step::GoOn(flight, system) => {
                if let Some(flight) = which(flight, self.flights.len()) {
                    let flight = self.flights.remove(flight).unwrap();
                    self.go_on(flight, system);
                }
            }
        }
    }

    fn alloc(&mut self, len: usize) {
        match self.book.take(len).unwrap() {
            Taken::Whole(addr) => {
                let block = Extent { addr, len };
                self.change(block, Owner::Kept, Owner::Taken);
                self.reused += len;
                self.blocks.push(block);
            }
            Taken::Parts(pieces) => {
                assert!(pieces.bytes() <= len);
                for piece in pieces.all() {
                    self.change(*piece, Owner::Kept, Owner::Taken);
                    self.assert_one_mapping(*piece);
                }
                let pieces = pieces.all().to_vec();
                self.flights.push_back(Flight::Make(len, pieces));
                self.make_room();
            }
        }
    }

    fn resize(&mut self, at: usize, len: usize) {
        let block = self.blocks[at];
        if len < block.len {
            self.blocks[at].len = len;
            self.put(Extent {
                addr: block.addr + len,
                len: block.len - len,
            });
            return self.make_room();
        }
        let by = len - block.len;
        if by == 0 {
        } else if self.book.grow(block, by) {
            let addr = block.end();
            self.change(Extent { addr, len: by }, Owner::Kept, Owner::Taken);
            self.reused += by;
            self.blocks[at].len = len;
        } else if self.book.begin_to_lengthen(block, by) {
            self.assert_one_mapping(block);
            self.blocks.swap_remove(at);
            self.flights.push_back(Flight::Lengthen(block, by));
            self.make_room();
        }
    }

    fn go_on(&mut self, flight: Flight, system: System) {
        match flight {
            Flight::Make(len, pieces) => {
                if let Some((block, moved)) = self.join(len, &pieces, system) {
                    if moved == pieces.len() {
                        return self.flights.push_back(Flight::Made(block, pieces));
                    }
                    self.unmap(block);
                    self.book.refused();
                    self.put_back(&pieces[moved..]);
                } else {
                    self.put_back(&pieces);
                }
                self.flights.push_back(Flight::MakeAnew(len));
            }
            Flight::MakeAnew(len) => {
                self.release();
                match self.map(len, system) {
                    Some(block) => self.flights.push_back(Flight::Made(block, Vec::new())),
                    None => self.book.failed(len),
                }
            }
            Flight::Made(block, of) => {
                self.book.made(block, &of);
                let moved: usize = of.iter().map(|piece| piece.len).sum();
                self.moved += moved;
                self.fresh += block.len - moved;
                self.blocks.push(block);
            }
            Flight::Lengthen(block, by) => match self.lengthen(block, by, system) {
                Some(block) => self.flights.push_back(Flight::Lengthened(block, by)),
                None => {
                    self.book.not_lengthened(block, by);
                    self.blocks.push(block);
                }
            },
            Flight::Lengthened(block, by) => {
                self.book.lengthened(block, by);
                self.fresh += by;
                self.blocks.push(block);
            }
            Flight::Unmap(gone) => self.unmap(gone),
        }
    }

    fn put(&mut self, freed: Extent) {
        self.change(freed, Owner::Taken, Owner::Kept);
        let gone = self.book.put(freed);
        self.gone(gone);
    }

    fn put_back(&mut self, pieces: &[Extent]) {
        for piece in pieces {
            self.change(*piece, Owner::Taken, Owner::Kept);
            let gone = self.book.put_back(*piece);
            self.gone(gone);
        }
    }

    fn make_room(&mut self) {
        while let Some(gone) = self.book.surplus() {
            self.gone(Some(gone));
        }
        let kept = self.count(Owner::Kept);
        assert!(kept == 0 || self.live() + kept <= self.room);
    }

    fn release(&mut self) {
        while let Some(gone) = self.book.give_up(usize::MAX) {
            self.gone(Some(gone));
        }
        assert_eq!(self.count(Owner::Kept), 0);
    }

    /// Something goes, but not at once.
    fn gone(&mut self, gone: Option<Extent>) {
        if let Some(gone) = gone {
            self.change(gone, Owner::Kept, Owner::Taken);
            self.flights.push_back(Flight::Unmap(gone));
        }
    }

    fn change(&mut self, of: Extent, from: Owner, to: Owner) {
        for owner in &mut self.owners[grains(of)] {
            assert_eq!(*owner, from, "{of:?}");
            *owner = to;
        }
    }

    fn count(&self, owner: Owner) -> usize {
        self.owners.iter().filter(|it| **it == owner).count() * GRAIN
    }

    /// Blocks, and those that are to be made.
    fn live(&self) -> usize {
        let flights = self.flights.iter().map(|flight| match flight {
            Flight::Make(len, _) | Flight::MakeAnew(len) => *len,
            Flight::Made(block, _) | Flight::Lengthened(block, _) => block.len,
            Flight::Lengthen(block, by) => block.len + by,
            Flight::Unmap(_) => 0,
        });
        let blocks = self.blocks.iter().map(|block| block.len);
        blocks.chain(flights).sum()
    }

    fn check(&self) {
        let usage = self.book.usage();
        assert_eq!(usage.live, self.live() as u64);
        assert_eq!(usage.kept, self.count(Owner::Kept) as u64);
        assert_eq!(usage.room, self.room as u64);
        let counted = [self.reused, self.moved, self.fresh];
        let counts = [usage.reused, usage.moved, usage.fresh];
        assert_eq!(counts, counted.map(|it| it as u64));
        for range in self.book.kept.checked() {
            let owners = &self.owners[grains(*range)];
            assert!(owners.iter().all(|owner| *owner == Owner::Kept));
        }
        self.check_seams();
    }

    /// None that matters is missing, and none is known of what is long gone.
    fn check_seams(&self) {
        let is_kept = |at: usize| self.owners.get(at) == Some(&Owner::Kept);
        let known = self.book.seams.known();
        let is_known = |at: usize| known.binary_search(&extent(at, 0).addr).is_ok();
        for at in 1..ADDRESSES {
            let [left, right] = [at - 1, at].map(|at| self.mappings[at]);
            if is_kept(at - 1) && is_kept(at) && left != right {
                assert!(is_known(at), "the one at {at}");
            }
        }
        if self.flights.is_empty() {
            for seam in known {
                let at = seam / GRAIN - 1;
                let right = self.mappings.get(at);
                let left = at.checked_sub(1).and_then(|at| self.mappings.get(at));
                assert!([left, right].into_iter().flatten().any(Option::is_some));
            }
        }
    }

    fn assert_one_mapping(&self, of: Extent) {
        let mappings = &self.mappings[grains(of)];
        assert!(mappings[0].is_some());
        assert!(mappings.iter().all(|it| *it == mappings[0]), "{of:?}");
    }

    // What the system does.

    fn map(&mut self, len: usize, system: System) -> Option<Extent> {
        let len = len / GRAIN;
        let mut places = (0..=ADDRESSES - len).filter(|from| {
            let mut grains = *from..from + len;
            grains.all(|at| self.mappings[at].is_none())
        });
        let from = match system {
            System::MapsNothing => None,
            System::Works { from_above: true } => places.next_back(),
            _ => places.next(),
        }?;
        let block = extent(from, len);
        self.change(block, Owner::Nobody, Owner::Taken);
        self.mark(block);
        Some(block)
    }

    fn unmap(&mut self, gone: Extent) {
        self.change(gone, Owner::Taken, Owner::Nobody);
        self.mappings[grains(gone)].fill(None);
    }

    /// Makes a range a mapping of its own.
    fn mark(&mut self, range: Extent) {
        self.last_mapping += 1;
        self.mappings[grains(range)].fill(Some(self.last_mapping));
    }

    fn join(&mut self, len: usize, of: &[Extent], system: System) -> Option<(Extent, usize)> {
        let block = self.map(len, system)?;
        let mut to = block.addr;
        for (moved, piece) in of.iter().enumerate() {
            if matches!(system, System::MovesNoMoreThan(most) if most == moved) {
                return Some((block, moved));
            }
            self.assert_one_mapping(*piece);
            self.unmap(*piece);
            self.mark(Extent {
                addr: to,
                len: piece.len,
            });
            to += piece.len;
        }
        Some((block, of.len()))
    }

    fn lengthen(&mut self, block: Extent, by: usize, system: System) -> Option<Extent> {
        if !matches!(system, System::Works { .. }) {
            return None;
        }
        self.assert_one_mapping(block);
        let more = grains(block).end..grains(block).end + by / GRAIN;
        let after = self.mappings.get(more.clone());
        let long = if after.is_some_and(|all| all.iter().all(Option::is_none)) {
            let more = extent(more.start, more.len());
            self.change(more, Owner::Nobody, Owner::Taken);
            Extent {
                addr: block.addr,
                len: block.len + by,
            }
        } else {
            let long = self.map(block.len + by, system)?;
            self.unmap(block);
            long
        };
        self.mark(long);
        Some(long)
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_schedule_keeps_who_has_what(steps in prop::collection::vec(step(), 1..STEPS)) {
        let mut model = Model::run(&steps);
        // In the end all of it is gone.
        while let Some(flight) = model.flights.pop_front() {
            model.go_on(flight, System::Works { from_above: true });
        }
        model.check();
        for block in std::mem::take(&mut model.blocks) {
            model.put(block);
        }
        model.release();
        while let Some(flight) = model.flights.pop_front() {
            model.go_on(flight, System::Works { from_above: true });
        }
        model.check();
        assert!(model.owners.iter().all(|owner| *owner == Owner::Nobody));
        assert_eq!(model.book.seams.known(), []);
    }
}

/// Blocks, each mapped by itself, with a hole behind it.
fn mapped(book: &mut Book, of: impl IntoIterator<Item = (usize, usize)>) -> Vec<Extent> {
    let each = of.into_iter().map(|(at, len)| {
        let block = extent(at, len);
        assert!(matches!(book.take(block.len), Some(Taken::Parts(none)) if none.all().is_empty()));
        book.made(block, &[]);
        block
    });
    each.collect()
}

fn pieces(taken: Option<Taken>) -> Vec<Extent> {
    match taken {
        Some(Taken::Parts(pieces)) => pieces.all().to_vec(),
        Some(Taken::Whole(addr)) => panic!("it is there as a whole, at {addr}"),
        None => panic!("it is too long"),
    }
}

#[test]
fn until_there_is_a_room_so_much_is_kept_whatever_lives() {
    let mut book = Book::new(None);
    // In two, of which the second is long enough by itself.
    let lens = [KEPT_AT_FIRST + GRAIN, 8 * KEPT_AT_FIRST];
    let mut addr = 1 << 40;
    for len in lens {
        assert!(matches!(book.take(len), Some(Taken::Parts(_))));
        book.made(Extent { addr, len }, &[]);
        addr += 1 << 32;
    }
    assert_eq!(
        book.usage().room as usize,
        book.usage().live as usize + KEPT_AT_FIRST
    );
    assert_eq!(
        book.put(Extent {
            addr: 1 << 40,
            len: lens[0]
        }),
        None
    );
    while book.surplus().is_some() {}
    let kept = book.usage().kept as usize;
    assert!(
        (KEPT_AT_FIRST - (1 << 20)..=KEPT_AT_FIRST).contains(&kept),
        "{kept}"
    );
    book.set_room(0);
    while book.surplus().is_some() {}
    assert_eq!(book.usage().kept, 0);
}

#[test]
fn what_lives_and_what_is_kept_fit_into_the_room() {
    let mut book = Book::new(Some(100 * GRAIN));
    let blocks = mapped(&mut book, [(0, 60), (100, 30), (200, 30)]);
    assert_eq!(book.surplus(), None, "nothing is kept");
    assert_eq!(book.put(blocks[0]), None);
    // As much as there is too much of, but no less than a mebibyte.
    assert_eq!(book.surplus(), Some(extent(0, 20)));
    assert_eq!(book.surplus(), None);
    book.set_room(100 * GRAIN - 1);
    assert_eq!(book.surplus(), Some(extent(20, 8)));
    assert_eq!(book.surplus(), None);
    assert_eq!(book.usage().kept, 32 * GRAIN as u64);
    // A block that grows takes room.
    assert!(book.begin_to_lengthen(blocks[1], 10 * GRAIN));
    assert_eq!(book.surplus(), Some(extent(28, 8)));
    book.set_room(usize::MAX);
    assert_eq!(book.surplus(), None);
    book.set_room(0);
    assert_eq!(book.surplus(), Some(extent(36, 24)));
    assert_eq!(book.surplus(), None);
}

#[test]
fn lengths_that_nobody_has_do_no_harm() {
    let mut book = Book::new(Some(100 * GRAIN));
    let kept = mapped(&mut book, [(0, 10)])[0];
    assert_eq!(book.put(kept), None);
    let most = usize::MAX / 2 + 1;
    assert_eq!(pieces(book.take(most)), [kept]);
    assert_eq!(book.put_back(kept), None);
    assert!(book.take(most).is_none());
    assert!(!book.begin_to_lengthen(kept, most));
    let more = most - 5 * GRAIN;
    assert_eq!(pieces(book.take(more)), [kept]);
    assert_eq!(book.put_back(kept), None);
    book.set_room(0);
    assert_eq!(book.surplus(), Some(kept));
    assert_eq!(book.surplus(), None);
    book.failed(most);
    book.failed(more);
    assert_eq!(book.usage().live, 0);
}

#[test]
fn block_is_lengthened_where_it_is_a_mapping_by_itself() {
    let mut book = Book::new(Some(usize::MAX));
    let one = mapped(&mut book, [(0, 10)])[0];
    assert!(book.begin_to_lengthen(one, GRAIN));
    book.lengthened(extent(0, 11), GRAIN);
    let usage = book.usage();
    assert_eq!((usage.live, usage.fresh), (11 << 17, 11 << 17));

    // As one is that was not made longer, and that a seam begins or ends at.
    assert!(book.begin_to_lengthen(extent(0, 11), GRAIN));
    book.not_lengthened(extent(0, 11), GRAIN);
    assert_eq!(book.usage(), usage);
    assert!(book.begin_to_lengthen(extent(2, 9), GRAIN));
    book.not_lengthened(extent(2, 9), GRAIN);

    // Two that were mapped side by side are not.
    let next = mapped(&mut book, [(11, 10)])[0];
    assert_eq!(book.put(next), None);
    assert!(book.grow(extent(0, 11), 4 * GRAIN));
    assert_eq!(book.usage().reused, 4 << 17);
    assert!(!book.begin_to_lengthen(extent(0, 15), GRAIN));
}

#[test]
fn block_of_pieces_has_a_seam_behind_each() {
    let mut book = Book::new(Some(usize::MAX));
    for block in mapped(&mut book, [(0, 10), (20, 9)]) {
        assert_eq!(book.put(block), None);
    }
    let of = pieces(book.take(30 * GRAIN));
    assert_eq!(of, [extent(0, 10), extent(20, 9)]);
    let block = extent(100, 30);
    book.made(block, &of);
    let usage = book.usage();
    assert_eq!((usage.moved, usage.fresh), (19 << 17, 30 << 17));
    assert!(!book.begin_to_lengthen(block, GRAIN));
    assert_eq!(book.put(block), None);
    let of = pieces(book.take(31 * GRAIN));
    assert_eq!(of, [extent(100, 10), extent(110, 9), extent(119, 11)]);
}

#[test]
fn nothing_is_moved_where_there_may_be_too_many_mappings() {
    let mut book = Book::new(Some(usize::MAX));
    let at = |n: usize| (10 * n, 8);
    // Two seams each, of 4 096, with 66 left.
    let blocks = mapped(&mut book, (0..2_015).map(at));
    assert!(book.begin_to_lengthen(blocks[7], GRAIN));
    book.not_lengthened(blocks[7], GRAIN);
    assert_eq!(book.put(blocks[0]), None);
    assert_eq!(pieces(book.take(9 * GRAIN)), [blocks[0]]);
    // Made anew: that leaves as many.
    book.made(extent(1 << 20, 9), &[]);

    let more = mapped(&mut book, [(1 << 21, 9)])[0];
    assert!(!book.begin_to_lengthen(blocks[7], GRAIN));
    assert_eq!(book.put(blocks[1]), None);
    assert_eq!(pieces(book.take(9 * GRAIN)), []);
    book.failed(9 * GRAIN);
    // One that is there as a whole is taken.
    assert!(matches!(book.take(8 * GRAIN), Some(Taken::Whole(_))));
    // Until there are fewer.
    assert_eq!(book.put(more), None);
    assert_eq!(book.give_up(usize::MAX), Some(more));
    assert!(book.begin_to_lengthen(blocks[7], GRAIN));
}

#[test]
fn nothing_is_moved_after_far_too_many_mappings_until_all_are_gone() {
    let mut book = Book::new(Some(usize::MAX));
    let blocks = mapped(&mut book, (0..2_049).map(|n| (10 * n, 8)));
    for block in &blocks[1..] {
        let _ = book.put(*block);
        while book.give_up(usize::MAX).is_some() {}
    }
    assert_eq!(book.put(blocks[0]), None);
    assert_eq!(pieces(book.take(9 * GRAIN)), []);
    book.failed(9 * GRAIN);
    assert_eq!(book.give_up(usize::MAX), Some(blocks[0]));

    let block = mapped(&mut book, [(0, 8)])[0];
    assert_eq!(book.put(block), None);
    assert_eq!(pieces(book.take(9 * GRAIN)), [block]);
}

#[test]
fn shortest_of_too_many_ranges_goes_with_its_seams() {
    let mut book = Book::new(Some(usize::MAX));
    let len = |n| if n == 100 { 8 } else { 9 };
    let blocks = mapped(&mut book, (0..513).map(|n| (10 * n, len(n))));
    let (last, first) = blocks.split_last().unwrap();
    for block in first {
        assert_eq!(book.put(*block), None);
    }
    assert_eq!(book.put(*last), Some(blocks[100]));
    assert_eq!(book.usage().kept, (512 * 9) << 17);
    let known = book.seams.known();
    assert!(!known.contains(&blocks[100].addr) && !known.contains(&blocks[100].end()));
    assert_eq!(known.len(), 2 * 512);
}
