//! A sample of the blocks that live: whose they are, how old, and where they were allocated.
//!
//! Off until it is [started](start). Then a byte in 512 KiB is drawn at random, and a block that is
//! hit by one is in the sample until it is freed, with its stack. Each stands for all those like it:
//! the [weights](Sample::weight_bytes) of a sample add up to what lives, on average, whatever the
//! sizes of blocks are.
//!
//! ```
//! use plimsoll_alloc::{MemoryScope, TrackingAllocator, profile};
//!
//! #[global_allocator]
//! static ALLOC: TrackingAllocator = TrackingAllocator::system();
//!
//! fn main() -> Result<(), profile::MeanOutOfRange> {
//!     profile::start(profile::Sampling::new().mean_bytes(64 << 10)?);
//!     let kept = MemoryScope::new().run(|| vec![0_u8; 16 << 20]);
//!     let profile = profile::snapshot();
//!     let largest = profile.samples.iter().max_by_key(|sample| sample.size);
//!     assert_eq!(largest.map(|sample| sample.size), Some(16 << 20));
//!     profile::stop();
//!     drop(kept);
//!     Ok(())
//! }
//! ```
//!
//! # What is in it
//!
//! Whether a block is in the sample depends on chance and on its present size, not on how it came to
//! have it: one that grows may come in by that, with the stack of whoever had it grow, and one that
//! shrinks may go. What lived before the start is not in it, but for what has grown since.
//!
//! After [`stop`] nothing new comes in but what threads are at just then. What is in the sample stays
//! until it is freed, so that a [`snapshot`] shows what was sampled while it was on and lives still.
//! When it is started again, the sample goes on; blocks that were in it under another mean, and have
//! grown since, are told as likely as the new one makes them.
//!
//! What [scopes](crate::MemoryScope) hold is counted in the same way whether there is a sample or
//! not, and there is one in every [`Mode`](crate::Mode). Where blocks are not counted, though, an
//! ended scope is not known to have been in a group for long, but for what was sampled in its time:
//! groups are those of when the block was sampled. [Charges](crate::MemoryScope::charge) are no
//! blocks, and are not in it.
//!
//! # Cost
//!
//! While it is off, none but a compare for a block that is resized. While it is on, a call more for
//! each block that is allocated, and a stack that is walked for each in the sample. There are 16 384
//! records, which take 9.6 MB once all were used, and no memory before. With 512 KiB between
//! samples that is enough for 8 GiB; where more lives, use a longer mean. A block that finds no
//! record is not in the sample, and [counted](Profile::dropped).
//!
//! # Walking a stack
//!
//! The unwinder of the platform does it, from within the allocator. It takes about 2 KiB of stack, and allocates
//! nothing. With glibc 2.35 and libgcc 12, and later ones, it takes no lock. Earlier ones take
//! that of the dynamic loader, as other libraries of C may, which `dlopen` holds while constructors of what it loads run: one
//! that waits for a thread which allocates may wait for ever while sampling is on. A child of a
//! fork should not sample there, either, and must not start or stop it if a thread of its parent was
//! at that.

use crate::{
    GroupId, local,
    records::{self, About, RECORDS, Stack, Use},
    scope,
    slot::{self, UNCOUNTED},
    tracking,
};
use std::{
    alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc},
    cell::Cell,
    fmt,
    hash::{BuildHasher, RandomState},
    hint::black_box,
    sync::{
        Mutex, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
            fence,
        },
    },
};

/// How blocks are sampled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "it has to be started"]
pub struct Sampling {
    mean: u64,
    seed: Option<u64>,
}

/// There may not be so few or so many bytes between two samples.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MeanOutOfRange {
    bytes: u64,
}

/// The sample, at a time. Blocks that are allocated or freed meanwhile are in it or not.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Profile {
    /// The blocks in the sample, in no order.
    pub samples: Vec<Sample>,
    /// Bytes from one sample to the next, on average, as [started](start) last.
    pub mean_bytes: u64,
    /// Blocks that should have been in the sample, and found no record, since the process began.
    pub dropped: u64,
}

/// A block that lives, or lived when it was read.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// Return addresses, the innermost first, 64 at the most. The first is in whoever allocates,
    /// where the platform tells which functions are the allocator's; what the compiler made part of
    /// that is named there by debug information.
    pub frames: Vec<usize>,
    /// Whether there were more frames, further out.
    pub is_cut: bool,
    /// Bytes of the block.
    pub size: u64,
    /// Bytes it stands for.
    pub weight_bytes: f64,
    /// Blocks it stands for.
    pub weight_objects: f64,
    /// When it came into the sample, by [`set_now`](crate::set_now).
    pub born: u64,
    /// The group of the outermost scope that it was allocated in, and the one nearest to it of
    /// those within: of the route and of the adapter, say.
    pub groups: [Option<GroupId>; 2],
    /// Whether its scope has ended, so that it is retained.
    pub ended: bool,
}

/// How full the records are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Blocks in the sample.
    pub in_use: u64,
    /// The most that may be.
    pub capacity: u64,
    /// As [`Profile::dropped`].
    pub dropped: u64,
    /// As [`Profile::mean_bytes`].
    pub mean_bytes: u64,
}

impl Sampling {
    const LEAST: u64 = 1 << 10;
    const MOST: u64 = 1 << 30;

    /// 512 KiB from one sample to the next, on average.
    pub const fn new() -> Self {
        Self {
            mean: 512 << 10,
            seed: None,
        }
    }

    /// So many bytes from one sample to the next, on average.
    ///
    /// # Errors
    ///
    /// With less than 1 KiB, or more than 1 GiB.
    pub const fn mean_bytes(mut self, bytes: u64) -> Result<Self, MeanOutOfRange> {
        if bytes < Self::LEAST || bytes > Self::MOST {
            return Err(MeanOutOfRange { bytes });
        }
        self.mean = bytes;
        Ok(self)
    }

    /// Has threads that begin from now on draw the same numbers each time, if they do so in the same
    /// order.
    #[cfg(feature = "test-util")]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for MeanOutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes } = self;
        write!(
            f,
            "{bytes} bytes from one sample to the next; between 1 KiB and 1 GiB may be"
        )
    }
}

impl std::error::Error for MeanOutOfRange {}

/// Bytes from one sample to the next, on average. 0 until it is known which functions are ours.
static MEAN: AtomicU64 = AtomicU64::new(0);
/// What the next thread begins its numbers with.
static SEED: AtomicU64 = AtomicU64::new(0);
/// Held while it is started or stopped, never by the allocator.
static SWITCH: Mutex<()> = Mutex::new(());

/// The functions between whoever allocates and here, by where they begin.
static OURS: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];
static OURS_LEN: AtomicUsize = AtomicUsize::new(0);

/// Has blocks sampled from now on, or in another way than before. Nothing comes of it without a
/// [`TrackingAllocator`](crate::TrackingAllocator).
pub fn start(sampling: Sampling) {
    let _one = SWITCH.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(seed) = sampling.seed {
        SEED.store(seed, Relaxed);
    }
    if MEAN.load(Relaxed) == 0 {
        if sampling.seed.is_none() {
            SEED.store(RandomState::new().hash_one(&raw const MEAN), Relaxed);
        }
        // What the unwinder and the loader do but once, they do here, outside of the allocator.
        walk(&mut Stack::new(), false);
        tracking::watch(true);
        look_for_ours();
    }
    // Pairs with the fence of `is_hit`: who draws by it knows which functions are ours.
    MEAN.store(sampling.mean, Release);
    tracking::watch(true);
}

/// Has no more blocks sampled. Those that are in the sample stay until they are freed.
pub fn stop() {
    let _one = SWITCH.lock().unwrap_or_else(PoisonError::into_inner);
    tracking::watch(false);
}

/// Whether blocks are sampled.
#[must_use]
pub fn is_sampling() -> bool {
    tracking::is_watched()
}

/// The blocks in the sample. What this itself allocates is not among them.
#[must_use]
pub fn snapshot() -> Profile {
    let Use { in_use, dropped } = records::in_use();
    let samples = quietly(|| {
        let mut samples = Vec::with_capacity(in_use as usize);
        records::each(|about, stack| samples.push(Sample::of(&about, stack)));
        samples
    });
    Profile {
        samples,
        mean_bytes: mean(),
        dropped,
    }
}

/// As started last, or as it would be without being told another.
fn mean() -> u64 {
    match MEAN.load(Relaxed) {
        0 => Sampling::new().mean,
        mean => mean,
    }
}

/// How full the records are.
#[must_use]
pub fn stats() -> Stats {
    let Use { in_use, dropped } = records::in_use();
    Stats {
        in_use: in_use.into(),
        capacity: RECORDS as u64,
        dropped,
        mean_bytes: mean(),
    }
}

impl Sample {
    fn of(about: &About, stack: &Stack) -> Self {
        // How likely it is that none of its bytes is hit: e^(-size / mean), as in the heap profiles
        // of tcmalloc and of Go. It stands for as many blocks as there are for each that is hit.
        let likely = likely(about.size, about.mean);
        let frames = stack.frames().iter().map(|frame| *frame as usize);
        Self {
            frames: frames.collect(),
            is_cut: stack.is_cut(),
            size: about.size,
            weight_bytes: about.size as f64 / likely,
            weight_objects: 1.0 / likely,
            born: about.born,
            groups: about.groups.map(GroupId::of),
            ended: slot::has_ended(about.owner),
        }
    }
}

/// How likely it is that a block of this size is in the sample.
fn likely(size: u64, mean: u64) -> f64 {
    -(-(size as f64) / mean as f64).exp_m1()
}

/// What a thread is at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Samples,
    /// Whatever it allocates is not sampled: it samples a block just now, or reads the sample.
    Quiet,
    /// It looks for the functions between it and here.
    Looks,
}

struct Sampler {
    /// Bytes to be allocated before one that is hit.
    left: Cell<u64>,
    /// What that was drawn by.
    mean: Cell<u64>,
    /// Of the numbers it draws; 0 before the first.
    numbers: Cell<u64>,
    state: Cell<State>,
}

thread_local! {
    // Constant, and without a drop, as what the thread counts is.
    static SAMPLER: Sampler = const {
        Sampler {
            left: Cell::new(u64::MAX),
            mean: Cell::new(0),
            numbers: Cell::new(0),
            state: Cell::new(State::Samples),
        }
    };
}

impl Sampler {
    /// Whether one of so many bytes is hit.
    #[inline]
    fn is_hit(&self, bytes: usize) -> bool {
        let mean = MEAN.load(Relaxed);
        if self.mean.get() != mean {
            fence(Acquire);
            self.draw(mean);
        }
        match self.left.get().checked_sub(bytes as u64) {
            Some(left) => {
                self.left.set(left);
                false
            }
            // The next one is as far from the end of this block as from anywhere: hits know nothing
            // of each other.
            None => {
                self.draw(mean);
                true
            }
        }
    }

    /// Draws how far it is to the next hit.
    #[cold]
    fn draw(&self, mean: u64) {
        self.mean.set(mean);
        let left = match mean {
            0 => u64::MAX,
            // Whole bytes before the one that is hit.
            mean => (-self.number().ln() * mean as f64) as u64,
        };
        self.left.set(left);
    }

    /// Above 0, and 1 at the most.
    fn number(&self) -> f64 {
        let mut number = self.numbers.get();
        if number == 0 {
            // The golden ratio keeps the beginnings of threads apart, and `mix` whatever follows.
            number = mix(SEED.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed)) | 1;
        }
        // xorshift64*
        number ^= number >> 12;
        number ^= number << 25;
        number ^= number >> 27;
        self.numbers.set(number);
        let bits = number.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (bits + 1) as f64 / (1_u64 << 53) as f64
    }
}

/// The end of splitmix64.
const fn mix(mut number: u64) -> u64 {
    number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// Whether a block of so many bytes, or one that grew by them, is to be [sampled](sample).
#[inline]
pub(crate) fn is_hit(bytes: usize) -> bool {
    SAMPLER.with(|sampler| sampler.is_hit(bytes))
}

/// Takes a block into the sample, if there is a record. Its tag from now on.
#[cold]
#[inline(never)]
pub(crate) fn sample(tag: u64, bytes: usize) -> u64 {
    SAMPLER.with(|sampler| {
        let state = sampler.state.replace(State::Quiet);
        let tag = match state {
            State::Quiet => tag,
            state => keep(sampler, state, tag, bytes),
        };
        sampler.state.set(state);
        tag
    })
}

#[inline(never)]
fn keep(sampler: &Sampler, state: State, tag: u64, bytes: usize) -> u64 {
    let mut stack = Stack::new();
    if state == State::Looks {
        walk(&mut stack, true);
        return tag;
    }
    let Some(empty) = records::take() else {
        return tag;
    };
    walk(&mut stack, false);
    let owner = match tag {
        UNCOUNTED => local::current(),
        tag => tag,
    };
    let (groups, outermost) = slot::groups_of(owner);
    let about = About {
        tag,
        owner: outermost,
        groups: groups.map(Option::unwrap_or_default),
        size: bytes as u64,
        mean: sampler.mean.get(),
        born: scope::now(),
    };
    empty.keep(&about, &stack)
}

/// A block in the sample is `new` bytes long from now on. Its tag from now on: one that shrinks
/// stays in the sample as often as makes it as likely there as any other of its size.
pub(crate) fn resized(tag: u64, new: usize, is_watched: bool) -> u64 {
    let (old, mean) = records::size_and_mean(tag);
    let new = new as u64;
    if new < old && SAMPLER.with(Sampler::number) > likely(new, mean) / likely(old, mean) {
        return records::forget(tag);
    }
    if new > old && !is_watched {
        // Others that grow now do not come in by that. It stays as likely as it was.
        let mean = u128::from(mean) * u128::from(new) / u128::from(old.max(1));
        records::resize(tag, new, u64::try_from(mean).unwrap_or(u64::MAX));
    } else {
        records::resize(tag, new, mean);
    }
    tag
}

/// Does `work`, of which nothing is sampled that it allocates on this thread: whoever looks at the
/// sample had better not be in it.
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    struct Quiet(State);

    impl Drop for Quiet {
        fn drop(&mut self) {
            SAMPLER.with(|sampler| sampler.state.set(self.0));
        }
    }
    let _quiet = Quiet(SAMPLER.with(|sampler| sampler.state.replace(State::Quiet)));
    work()
}

/// The stack from whoever allocates outwards. Instead, if this thread `looks`, which functions lie
/// between. Neither this nor its caller is part of others, so that they are known as ours.
#[inline(never)]
fn walk(stack: &mut Stack, looks: bool) {
    if looks {
        return learn();
    }
    let mut inside = true;
    each_frame(&mut |function, address| {
        inside = inside && is_ours(function());
        inside || stack.push(address as u64)
    });
}

fn is_ours(function: usize) -> bool {
    let len = OURS_LEN.load(Acquire);
    let mut ours = OURS.iter().take(len);
    ours.any(|ours| ours.load(Relaxed) == function)
}

/// Notes the functions from here to [`look_for_ours`]. Part of [`walk`], as all that is between.
#[inline(always)]
fn learn() {
    let end = look_for_ours as *const () as usize;
    let (mut depth, mut found) = (0_usize, false);
    each_frame(&mut |function, _| {
        found = function() == end;
        depth += usize::from(!found);
        !found
    });
    if !found {
        // The platform does not tell.
        return;
    }
    each_frame(&mut |function, _| {
        let function = function();
        let len = OURS_LEN.load(Relaxed);
        if depth > 0
            && !is_ours(function)
            && let Some(place) = OURS.get(len)
        {
            place.store(function, Relaxed);
            OURS_LEN.store(len + 1, Release);
        }
        depth = depth.saturating_sub(1);
        depth > 0
    });
}

/// Every frame, the innermost first, by where its function begins, and by where it is, until there
/// are enough. One function, whoever calls it, so that it is known as ours.
#[inline(never)]
fn each_frame(each: &mut dyn FnMut(&dyn Fn() -> usize, usize) -> bool) {
    if cfg!(all(windows, target_pointer_width = "32")) {
        // There it takes a library that has to be locked.
        return;
    }
    let frame = |frame: &backtrace::Frame| {
        let function = || frame.symbol_address().addr();
        match frame.ip().addr() {
            0 => false,
            address => each(&function, address),
        }
    };
    // SAFETY: what has to be synchronised is a library of Windows that is not used, as said above.
    unsafe { backtrace::trace_unsynchronized(frame) };
}

/// Allocates in every way there is, and finds out by which functions that comes here.
#[inline(never)]
fn look_for_ours() {
    let looks = |allocate: &dyn Fn() -> *mut u8| {
        let before = SAMPLER.with(|sampler| {
            sampler.left.set(0);
            sampler.state.replace(State::Looks)
        });
        let block = black_box(allocate());
        SAMPLER.with(|sampler| {
            sampler.state.set(before);
            sampler.draw(0);
        });
        block
    };
    let layout = |bytes| Layout::array::<u8>(black_box(bytes)).unwrap_or(Layout::new::<u64>());
    let sizes = [16, 64, 8_192, 32_768].map(layout);
    for [small, large] in [
        [sizes[0], sizes[1]],
        [sizes[1], sizes[2]],
        [sizes[2], sizes[3]],
    ] {
        for zeroed in [false, true] {
            // SAFETY: each of them has a byte at least, and is an array of bytes; a block is
            // freed once, with its last layout.
            unsafe {
                let block = looks(&|| match zeroed {
                    true => alloc_zeroed(small),
                    false => alloc(small),
                });
                if block.is_null() {
                    continue;
                }
                let grown = looks(&|| realloc(block, small, large.size()));
                match grown.is_null() {
                    true => dealloc(block, small),
                    false => dealloc(grown, large),
                }
            }
        }
    }
}
