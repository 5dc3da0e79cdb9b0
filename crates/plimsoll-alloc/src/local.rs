//! What a thread has allocated and freed since it wrote that down last.
//!
//! Two batches: one for the scope that the thread is in, written down when it leaves it, and one
//! for everything that belongs to no scope, which is left alone by that. Both are written down when
//! they pass [`BATCH`].

#[cfg(feature = "profile")]
use crate::records::{self, is_sampled};
#[cfg(not(plimsoll_loom))]
use crate::slot::STRIPES;
use crate::slot::{self, Entry, ROOT, UNCOUNTED};
use std::cell::Cell;
#[cfg(not(plimsoll_loom))]
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The most bytes by which a batch may be off.
pub(crate) const BATCH: i64 = 64 << 10;

struct Local {
    /// The tag of the scope that the thread is in.
    current: Cell<u64>,
    /// Of what belongs to no scope, and of the scope.
    batches: [Batch; 2],
    /// One more than the stripe of the thread; 0 before it is asked for.
    #[cfg(not(plimsoll_loom))]
    stripe: Cell<usize>,
    /// A free slot that the thread has for itself; 0 if it has none.
    #[cfg(not(plimsoll_loom))]
    spare: Cell<u32>,
}

/// Counts of one tag. They wrap, and only their differences mean something.
struct Batch {
    allocated: Cell<u64>,
    freed: Cell<u64>,
    /// What `allocated` was when it was written down last.
    since: Cell<u64>,
    /// The most by which `allocated` was ahead of `freed`.
    high: Cell<i64>,
    /// Past this it is written down. 0 before the first time, and once the thread ends, so that
    /// whatever comes then is written down at once.
    mark: Cell<i64>,
}

thread_local! {
    // Constant, and without a drop: it can be used by the first and by the last instruction of a
    // thread, and using it never allocates.
    static LOCAL: Local = const {
        Local {
            current: Cell::new(ROOT),
            batches: [Batch::new(0), Batch::new(BATCH)],
            #[cfg(not(plimsoll_loom))]
            stripe: Cell::new(0),
            #[cfg(not(plimsoll_loom))]
            spare: Cell::new(0),
        }
    };
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    static EXIT: Exit = const { Exit };
}

/// Writes down what is left when the thread ends.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
struct Exit;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
impl Drop for Exit {
    fn drop(&mut self) {
        LOCAL.with(|local| {
            local.flush();
            for batch in &local.batches {
                batch.mark.set(0);
            }
            #[cfg(not(plimsoll_loom))]
            if let Some(spare) = take_spare() {
                slot::put_spare(spare);
            }
        });
    }
}

impl Local {
    /// Has the rest written down when the thread ends.
    #[cold]
    fn flush_at_exit(&self) {
        let mark = &self.batches[0].mark;
        mark.set(BATCH);
        // Elsewhere the standard library keeps a list of its own, which it may be growing just
        // now, and it may abort when the allocator asks it for more. There a thread that ends does
        // not tell the last 64 KiB of what belongs to no scope.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // It is refused while the thread ends, when nothing more can be done at its end.
        if EXIT.try_with(|_| ()).is_err() {
            mark.set(0);
        }
    }

    #[inline(always)]
    const fn batch(&self, tag: u64) -> &Batch {
        &self.batches[(tag != ROOT) as usize]
    }

    #[cfg(not(plimsoll_loom))]
    #[cold]
    fn take_turn(&self) -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let stripe = NEXT.fetch_add(1, Relaxed) % STRIPES;
        self.stripe.set(stripe + 1);
        stripe
    }

    fn flush(&self) {
        self.batches[0].flush(ROOT);
        self.batches[1].flush(self.current.get());
    }
}

impl Batch {
    const fn new(mark: i64) -> Self {
        Self {
            allocated: Cell::new(0),
            freed: Cell::new(0),
            since: Cell::new(0),
            high: Cell::new(0),
            mark: Cell::new(mark),
        }
    }

    /// Whether it has to be written down.
    #[inline(always)]
    fn add(&self, bytes: usize) -> bool {
        let allocated = self.allocated.get().wrapping_add(bytes as u64);
        self.allocated.set(allocated);
        let net = allocated.wrapping_sub(self.freed.get()) as i64;
        if net <= self.high.get() {
            return false;
        }
        self.high.set(net);
        net > self.mark.get()
    }

    /// Whether it has to be written down.
    #[inline(always)]
    fn sub(&self, bytes: usize) -> bool {
        let freed = self.freed.get().wrapping_add(bytes as u64);
        self.freed.set(freed);
        freed.wrapping_sub(self.allocated.get()) as i64 > self.mark.get()
    }

    #[inline]
    fn flush(&self, tag: u64) {
        let (allocated, freed) = (self.allocated.get(), self.freed.get());
        let entry = Entry {
            net: allocated.wrapping_sub(freed) as i64,
            high: self.high.get(),
            allocated: allocated.wrapping_sub(self.since.get()),
        };
        if entry.allocated != 0 || entry.net != 0 {
            self.since.set(allocated);
            self.freed.set(allocated);
            self.high.set(0);
            slot::add(tag, entry);
        }
    }
}

/// A block of so many bytes was allocated; its tag.
#[inline(always)]
pub(crate) fn allocated(bytes: usize) -> u64 {
    LOCAL.with(|local| {
        let tag = local.current.get();
        if local.batch(tag).add(bytes) {
            flush(local, tag);
        }
        tag
    })
}

/// A block of so many bytes was allocated, and is not counted while it lives.
///
/// Not part of whoever calls it, nor does it share a way to write down with those that count what
/// lives: that makes their code longer, and them a sixth slower.
#[inline(never)]
pub(crate) fn allocated_only(bytes: usize) {
    let is_much = LOCAL.with(|local| {
        let batch = local.batch(local.current.get());
        // What lives is the difference, and stays as it is.
        for count in [&batch.allocated, &batch.freed] {
            count.set(count.get().wrapping_add(bytes as u64));
        }
        batch.allocated.get().wrapping_sub(batch.since.get()) > BATCH as u64
    });
    if is_much {
        flush_all();
    }
}

/// A block with this tag was freed.
#[inline(always)]
pub(crate) fn freed(tag: u64, bytes: usize) {
    LOCAL.with(|local| {
        if tag != local.current.get() {
            if tag != UNCOUNTED {
                freed_elsewhere(local, tag, bytes);
            }
        } else if local.batch(tag).sub(bytes) {
            flush(local, tag);
        }
    });
}

#[inline(never)]
fn freed_elsewhere(local: &Local, tag: u64, bytes: usize) {
    match tag {
        ROOT => {
            if local.batch(ROOT).sub(bytes) {
                flush(local, ROOT);
            }
        }
        UNCOUNTED => {}
        #[cfg(feature = "profile")]
        tag if is_sampled(tag) => freed(records::forget(tag), bytes),
        tag => slot::freed_elsewhere(tag, bytes as u64),
    }
}

/// A block with this tag is `new` bytes long instead of `old`.
#[inline]
pub(crate) fn resized(tag: u64, old: usize, new: usize) {
    LOCAL.with(|local| {
        if tag == local.current.get() || tag == ROOT {
            let batch = local.batch(tag);
            // Freed first: one block that grows is not two.
            let over = batch.sub(old);
            if batch.add(new) || over {
                flush(local, tag);
            }
        } else if tag != UNCOUNTED {
            let net = new as i64 - old as i64;
            let entry = Entry {
                net,
                high: net.max(0),
                allocated: new as u64,
            };
            slot::add(tag, entry);
        }
    });
}

#[cold]
#[inline(never)]
fn flush(local: &Local, tag: u64) {
    local.batch(tag).flush(tag);
    if local.batches[0].mark.get() == 0 {
        local.flush_at_exit();
    }
}

/// Writes down what the thread has counted in the name of the scope it is in, and enters another.
/// The one it was in.
#[inline]
pub(crate) fn switch(tag: u64) -> u64 {
    LOCAL.with(|local| {
        let before = local.current.get();
        if before != ROOT {
            local.batches[1].flush(before);
        }
        local.current.set(tag);
        before
    })
}

/// Bytes that this thread has allocated, whatever for. It wraps.
pub(crate) fn allocated_here() -> u64 {
    LOCAL.with(|local| {
        let allocated = local.batches.iter().map(|batch| batch.allocated.get());
        allocated.fold(0, u64::wrapping_add)
    })
}

/// The stripe that this thread is of. Threads take turns when they open or end their first scope.
#[cfg(not(plimsoll_loom))]
#[inline]
pub(crate) fn stripe() -> usize {
    LOCAL.with(|local| match local.stripe.get().checked_sub(1) {
        Some(stripe) => stripe,
        None => local.take_turn(),
    })
}

/// Keeps a free slot for the thread, if it has none and can give it back when it ends.
#[cfg(not(plimsoll_loom))]
#[inline]
pub(crate) fn keep_spare(index: u32) -> bool {
    LOCAL.with(|local| {
        // It is 0 before the thread is known to tell its end, and from then on.
        let tells =
            cfg!(all(target_os = "linux", target_env = "gnu")) && local.batches[0].mark.get() != 0;
        let keeps = tells && local.spare.get() == 0;
        if keeps {
            local.spare.set(index);
        }
        keeps
    })
}

/// Takes the slot that the thread has kept.
#[cfg(not(plimsoll_loom))]
#[inline]
pub(crate) fn take_spare() -> Option<u32> {
    LOCAL.with(|local| Some(local.spare.replace(0)).filter(|spare| *spare != 0))
}

/// The tag of the scope that the thread is in.
pub(crate) fn current() -> u64 {
    LOCAL.with(|local| local.current.get())
}

/// Writes down what this thread has counted in the scope it is in, if it is in one.
#[inline]
pub(crate) fn flush_scope() {
    LOCAL.with(|local| local.batches[1].flush(local.current.get()));
}

/// Writes down everything that this thread has counted.
pub(crate) fn flush_all() {
    LOCAL.with(Local::flush);
}
