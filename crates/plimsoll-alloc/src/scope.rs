use crate::{
    Mode, local, mode,
    slot::{self, Bound, Full, Held, ROOT},
};
use std::{
    fmt,
    marker::PhantomData,
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// What time it is, for whoever ends. The allocator has no clock.
static NOW: AtomicU64 = AtomicU64::new(0);

/// Says what time it is: any number that grows, seconds since the start, say. Scopes that end from
/// now on are retained since then.
pub fn set_now(now: u64) {
    NOW.store(now, Relaxed);
}

/// What scopes that have ended still hold.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Retained {
    /// How many scopes that have ended hold something.
    pub scopes: u64,
    /// Bytes that they hold.
    pub bytes: u64,
}

/// What the process holds besides scopes, in bytes, and how often there was no place for one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct ProcessUsage {
    /// What was allocated in no scope, and is live.
    pub unscoped: u64,
    /// What scopes hold whose place was taken.
    pub orphaned: u64,
    /// How many scopes had their place taken while they retained something.
    pub given_up: u64,
    /// How many scopes and groups found no place, and so count nothing.
    pub refused: u64,
}

/// Has everything that scopes of all groups still hold after they have ended told, as
/// [`MemoryGroup::each_retained`] does for one group: the group, when the scope ended, and its bytes.
/// O(places), for all groups together.
pub fn each_retained(mut each: impl FnMut(GroupId, u64, u64)) {
    slot::each_retained(|group, ended, bytes| {
        if let (Some(group), 1..) = (NonZeroU64::new(group), bytes) {
            each(GroupId(group), ended, bytes.unsigned_abs());
        }
    });
}

/// Everything that the process holds, in bytes: in scopes, in none, and orphans. 64 KiB may be
/// missing for each thread. O(places).
#[must_use]
pub fn live_bytes() -> u64 {
    let ProcessUsage {
        unscoped, orphaned, ..
    } = process_usage();
    unscoped + orphaned + u64::try_from(slot::scoped()).unwrap_or(0)
}

/// What the process holds besides scopes. 64 KiB may be missing for each thread.
#[must_use]
pub fn process_usage() -> ProcessUsage {
    local::flush_all();
    let root = slot::held(ROOT).unwrap_or_default();
    let Bound {
        orphans,
        given_up,
        refused,
    } = slot::bound();
    ProcessUsage {
        unscoped: u64::try_from(root.live).unwrap_or(0),
        orphaned: u64::try_from(orphans).unwrap_or(0),
        given_up,
        refused,
    }
}

/// Something that memory is allocated for: a request, say.
///
/// What a thread allocates while it is [in](Self::enter) a scope belongs to it until it is freed,
/// by whomever. Cloning a scope gives another handle to the same one, for work that goes on
/// elsewhere. A scope ends when its last handle is dropped; what is still held then is
/// [retained](MemoryGroup::retained).
///
/// # Scopes within scopes
///
/// A scope that is [within](MemoryGroup::scope_within) another one, of a call that a request makes,
/// say, has what is allocated in it counted for both, and for the groups of both. The outer one
/// does not end before it. After that, what the inner one still holds is retained by both.
///
/// # Places
///
/// There can be 65 535 scopes and groups at a time, those that have ended and retain something
/// included; a group takes [a few places](MemoryGroup), and each thread may keep one free for the
/// scope that it opens next. When there are no places left, that of a scope that ended is taken, and what it retains
/// becomes an [orphan](ProcessUsage::orphaned). If none has ended, a new scope counts nothing
/// and [says so](Self::is_counted).
///
/// # Exactness
///
/// A reading is exact in what concerns the thread that reads, and threads that are not in the scope.
/// Each of the others may have 64 KiB to tell.
pub struct MemoryScope {
    /// None where there was no place for it.
    tag: Option<NonZeroU64>,
}

/// A [`MemoryScope`] as others see it who do not keep it open.
#[derive(Clone, Copy, Debug)]
pub struct WeakScope {
    tag: Option<NonZeroU64>,
}

/// Scopes of one kind: those of a route, say. It holds what they hold, after they have ended, too.
///
/// Scopes [within](Self::scope_within) those of other groups count for it as well.
///
/// Cloning it gives another handle to the same group. It takes two places among scopes, and keeps them
/// as long as one of its scopes has one.
///
/// Threads that open scopes of one group count in up to four stripes, so that they do not wait for each
/// other. Each but the first takes another place.
#[derive(Clone)]
pub struct MemoryGroup {
    scope: MemoryScope,
}

/// Which [`MemoryGroup`] it is, while there is one: the same for all handles to it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GroupId(NonZeroU64);

#[cfg(feature = "profile")]
impl GroupId {
    /// That of a tag.
    pub(crate) fn of(tag: u64) -> Option<Self> {
        NonZeroU64::new(tag).map(Self)
    }
}

/// While it lives, what its thread allocates belongs to a scope.
///
/// Drop guards in the reverse order of their making. One that is forgotten leaves the thread in the
/// scope.
#[must_use = "the scope is left when this is dropped"]
pub struct Entered<'a> {
    before: u64,
    /// The scope cannot end meanwhile, and the guard stays on its thread.
    scope: PhantomData<(&'a MemoryScope, *const ())>,
}

/// Memory that is counted in the name of a scope and does not come from the allocator.
///
/// It may be dropped anywhere, after the scope has ended, too: until then it is retained. See
/// [`MemoryScope::charge`].
#[derive(Debug)]
#[must_use = "it is counted until this is dropped"]
pub struct Charge {
    tag: u64,
    bytes: u64,
}

/// What a scope or a group holds, in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct MemoryUsage {
    /// Allocated and not freed.
    pub live: u64,
    /// The most that was live at a time. For several threads in the scope at once, within 64 KiB for
    /// each, and a charge that one of them tried and was refused. For a group of which several threads
    /// have opened scopes, within another 64 KiB or a 64th, for each of its stripes.
    pub peak: u64,
    /// Allocated in all, without what a thread that is in the scope has allocated and freed again
    /// since it told last. A block that grows or shrinks counts as one of its new size.
    pub allocated: u64,
    /// The most that may be live, where there is a limit.
    pub limit: Option<u64>,
}

/// More is live than may be, or would be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OverLimit {
    live: u64,
    /// What was to come on top of that.
    asked: u64,
    limit: u64,
}

impl MemoryScope {
    /// A scope by itself.
    #[must_use]
    pub fn new() -> Self {
        Self::of(slot::open(None))
    }

    /// A scope within this one, and in no group of its own.
    #[must_use]
    pub fn child(&self) -> Self {
        Self::of(slot::open_within(None, self.tag.map(NonZeroU64::get)))
    }

    fn of(tag: Option<u64>) -> Self {
        Self {
            tag: tag.and_then(NonZeroU64::new),
        }
    }

    /// The scope that the thread is in, if it is in one.
    #[must_use]
    pub fn current() -> Option<Self> {
        let tag = NonZeroU64::new(local::current())?;
        // It has not ended as long as the thread is in it, unless a guard was forgotten.
        let open = slot::upgrade(tag.get(), NOW.load(Relaxed));
        // Not made where it is none: it would be dropped.
        open.then(|| Self { tag: Some(tag) })
    }

    /// Whether there was a place for it, so that what it holds is counted.
    #[must_use]
    pub const fn is_counted(&self) -> bool {
        self.tag.is_some()
    }

    /// Has the thread allocate for this scope until the guard is dropped.
    pub fn enter(&self) -> Entered<'_> {
        Entered {
            before: local::switch(self.tag()),
            scope: PhantomData,
        }
    }

    /// Runs `work` in the scope.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let _entered = self.enter();
        work()
    }

    /// What it holds.
    #[must_use]
    pub fn usage(&self) -> MemoryUsage {
        self.downgrade().usage()
    }

    /// Sets the most bytes that may be live; none by default. Nothing happens when there are more,
    /// but that [`check`](Self::check) says so. With 0 nothing may be.
    pub fn set_limit(&self, bytes: impl Into<Option<u64>>) {
        if let Some(tag) = self.tag {
            slot::set_limit(tag.get(), bytes.into());
        }
    }

    /// Counts memory that does not come from the allocator as live, until what is returned is
    /// dropped: what a C library holds, say, or a mapped file.
    ///
    /// A scope, those it is within, and their groups count 64 TiB in all at the most. Of what is
    /// beyond that, nothing is counted, and [`Charge::bytes`] says what was. Nothing is counted in [`Mode::Off`] either, nor
    /// for a scope that [is not counted](Self::is_counted). In [`Mode::Counters`] it is counted as
    /// allocated, and does not live.
    pub fn charge(&self, bytes: u64) -> Charge {
        let counted = match (self.tag, mode()) {
            (_, Mode::Off) | (None, _) => 0,
            (Some(tag), Mode::Counters) => {
                slot::allocated_only(tag.get(), bytes);
                0
            }
            (Some(tag), Mode::Precise) => {
                tell();
                slot::charge(tag.get(), bytes)
            }
        };
        Charge {
            tag: self.tag(),
            bytes: counted,
        }
    }

    /// Counts memory as [`charge`](Self::charge) does, unless more would live then than may, in this
    /// scope or in one that it is within. Of several at once, those that are let in are within the
    /// limit together; one that is refused further out may have another one refused meanwhile.
    ///
    /// # Errors
    ///
    /// When more would live than may, or more than 64 TiB. Nothing is counted then.
    pub fn try_charge(&self, bytes: u64) -> Result<Charge, OverLimit> {
        let counted = match (self.tag, mode()) {
            (_, Mode::Off) | (None, _) => 0,
            (Some(tag), Mode::Counters) => {
                slot::allocated_only(tag.get(), bytes);
                0
            }
            (Some(tag), Mode::Precise) => {
                tell();
                slot::try_charge(tag.get(), bytes).map_err(|Full { live, limit }| OverLimit {
                    live,
                    asked: bytes,
                    limit,
                })?;
                bytes
            }
        };
        Ok(Charge {
            tag: self.tag(),
            bytes: counted,
        })
    }

    /// Whether it, and those that it is within, hold no more than they may.
    ///
    /// # Errors
    ///
    /// When one of them does: the innermost.
    pub fn check(&self) -> Result<(), OverLimit> {
        tell();
        match self.tag.and_then(|tag| slot::over(tag.get())) {
            Some(Full { live, limit }) => Err(OverLimit {
                live,
                asked: 0,
                limit,
            }),
            None => Ok(()),
        }
    }

    /// The same scope for somebody who wants to know what it holds, and does not keep it open.
    #[must_use]
    pub const fn downgrade(&self) -> WeakScope {
        WeakScope { tag: self.tag }
    }

    const fn tag(&self) -> u64 {
        match self.tag {
            Some(tag) => tag.get(),
            None => ROOT,
        }
    }
}

impl WeakScope {
    /// What it [holds](MemoryScope::usage); nothing once it has ended and retains nothing, or its place
    /// was taken.
    #[must_use]
    pub fn usage(&self) -> MemoryUsage {
        tell();
        let held = self.tag.and_then(|tag| slot::held(tag.get()));
        held.unwrap_or_default().into()
    }

    /// As one word, for whoever keeps it in an atomic. 0 if the scope [is not
    /// counted](MemoryScope::is_counted).
    #[must_use]
    pub fn to_word(self) -> u64 {
        self.tag.map_or(0, NonZeroU64::get)
    }

    /// The one of a [word](Self::to_word). Any other number is one that holds nothing, or what some other
    /// scope does.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self {
            tag: NonZeroU64::new(word),
        }
    }
}

/// Has this thread tell what it has counted in the scope it is in, which may be within others.
fn tell() {
    local::flush_scope();
}

impl Default for MemoryScope {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for MemoryScope {
    fn clone(&self) -> Self {
        if let Some(tag) = self.tag {
            slot::clone(tag.get());
        }
        Self { tag: self.tag }
    }
}

impl Drop for MemoryScope {
    fn drop(&mut self) {
        if let Some(tag) = self.tag {
            slot::close(tag.get(), NOW.load(Relaxed));
        }
    }
}

impl fmt::Debug for MemoryScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryScope")
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

impl MemoryGroup {
    /// A group without scopes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            scope: MemoryScope::of(slot::open_group()),
        }
    }

    /// A scope of this group.
    #[must_use]
    pub fn scope(&self) -> MemoryScope {
        MemoryScope::of(slot::open(self.scope.tag.map(NonZeroU64::get)))
    }

    /// A scope of this group that is within another scope: what is allocated in it is counted for
    /// that one and its groups, too. The other one stays open as long as this one is.
    ///
    /// If the other one is in this group, or within a scope that is, the group counts once, and has
    /// what this one retains [told](Self::each_retained) as that one's. If the other one [is not
    /// counted](MemoryScope::is_counted), this is a [`scope`](Self::scope) as any.
    #[must_use]
    pub fn scope_within(&self, outer: &MemoryScope) -> MemoryScope {
        let [group, outer] = [self.scope.tag, outer.tag].map(|tag| tag.map(NonZeroU64::get));
        MemoryScope::of(slot::open_within(group, outer))
    }

    /// Which group it is; none if there was no place for it.
    #[must_use]
    pub fn id(&self) -> Option<GroupId> {
        self.scope.tag.map(GroupId)
    }

    /// What scopes of this group that have ended still hold: each with when it ended, by
    /// [`set_now`], and its bytes. A scope that others are within holds what they do; they are not
    /// told of besides, but for those groups that they are in. O(places).
    pub fn each_retained(&self, mut each: impl FnMut(u64, u64)) {
        let Some(own) = self.id() else {
            return;
        };
        each_retained(|group, ended, bytes| {
            if group == own {
                each(ended, bytes);
            }
        });
    }

    /// What scopes of this group that have ended still hold together. O(places).
    #[must_use]
    pub fn retained(&self) -> Retained {
        let mut retained = Retained::default();
        self.each_retained(|_, bytes| {
            retained.scopes += 1;
            retained.bytes += bytes;
        });
        retained
    }

    /// What its scopes hold, those that have ended included. It is added up from the stripes of the
    /// group, while others count on.
    #[must_use]
    pub fn usage(&self) -> MemoryUsage {
        local::flush_all();
        self.scope.usage()
    }
}

impl Default for MemoryGroup {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryGroup")
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        local::switch(self.before);
    }
}

impl fmt::Debug for Entered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entered").finish_non_exhaustive()
    }
}

impl Charge {
    /// How many bytes are counted.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        slot::freed_elsewhere(self.tag, self.bytes);
    }
}

/// Runs `work` in no scope: what it allocates belongs to the process.
pub fn untracked<T>(work: impl FnOnce() -> T) -> T {
    let _entered = Entered {
        before: local::switch(ROOT),
        scope: PhantomData,
    };
    work()
}

impl From<Held> for MemoryUsage {
    fn from(held: Held) -> Self {
        let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        Self {
            live: bytes(held.live),
            peak: bytes(held.peak.max(held.live)),
            allocated: held.allocated,
            limit: held.limit,
        }
    }
}

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { live, asked, limit } = self;
        write!(f, "{live} bytes are held, ")?;
        if *asked > 0 {
            write!(f, "{asked} more were asked for, ")?;
        }
        write!(f, "and no more than {limit} may be")
    }
}

impl std::error::Error for OverLimit {}

/// What time it is.
#[cfg(feature = "profile")]
pub(crate) fn now() -> u64 {
    NOW.load(Relaxed)
}
