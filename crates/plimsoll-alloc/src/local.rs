//! What a thread has allocated and freed since it wrote that down last.
//!
//! Two batches: one for the scope that the thread is in, written down when it leaves it, and one
//! for everything that belongs to no scope, which is left alone by that. Both are written down when
//! they pass [`BATCH`].

use crate::slot::{self, Entry, ROOT, UNCOUNTED};
use std::cell::Cell;

/// The most bytes by which a batch may be off.
pub(crate) const BATCH: i64 = 64 << 10;

struct Local {
    /// The tag of the scope that the thread is in.
    current: Cell<u64>,
    scope: Batch,
    root: Batch,
}

/// Counts of one tag.
struct Batch {
    net: Cell<i64>,
    /// The most that `net` has been.
    high: Cell<i64>,
    allocated: Cell<u64>,
    /// Past this it is written down. 0 before the first time, and once the thread ends, so that
    /// whatever comes then is written down at once.
    mark: Cell<i64>,
}

thread_local! {
    // Constant, and without a drop: it can be used by the first and by the last instruction of a
    // thread, and using it never allocates.
    static LOCAL: Local = const {
        Local { current: Cell::new(ROOT), scope: Batch::new(BATCH), root: Batch::new(0) }
    };
    static EXIT: Exit = const { Exit };
}

/// Writes down what is left when the thread ends.
struct Exit;

impl Drop for Exit {
    fn drop(&mut self) {
        LOCAL.with(|local| {
            local.scope.flush(local.current.get());
            local.root.flush(ROOT);
            local.scope.mark.set(0);
            local.root.mark.set(0);
        });
    }
}

impl Batch {
    const fn new(mark: i64) -> Self {
        Self {
            net: Cell::new(0),
            high: Cell::new(0),
            allocated: Cell::new(0),
            mark: Cell::new(mark),
        }
    }

    #[inline(always)]
    fn add(&self, bytes: usize) -> bool {
        let net = self.net.get() + bytes as i64;
        self.net.set(net);
        self.allocated.set(self.allocated.get() + bytes as u64);
        if net <= self.high.get() {
            return false;
        }
        self.high.set(net);
        net > self.mark.get()
    }

    #[inline(always)]
    fn sub(&self, bytes: usize) -> bool {
        let net = self.net.get() - bytes as i64;
        self.net.set(net);
        net < -self.mark.get()
    }

    #[inline]
    fn flush(&self, tag: u64) {
        let allocated = self.allocated.replace(0);
        let (net, high) = (self.net.replace(0), self.high.replace(0));
        if allocated != 0 || net != 0 {
            let entry = Entry {
                net,
                high,
                allocated,
            };
            slot::add(tag, entry);
        }
    }
}

/// A block of so many bytes was allocated; its tag.
#[inline(always)]
pub(crate) fn allocated(bytes: usize) -> u64 {
    LOCAL.with(|local| {
        let tag = local.current.get();
        let (batch, first) = match tag {
            ROOT => (&local.root, true),
            _ => (&local.scope, false),
        };
        if batch.add(bytes) {
            flush(local, first);
        }
        tag
    })
}

/// A block with this tag was freed.
#[inline(always)]
pub(crate) fn freed(tag: u64, bytes: usize) {
    LOCAL.with(|local| {
        if tag == local.current.get() || tag == ROOT {
            let (batch, root) = match tag {
                ROOT => (&local.root, true),
                _ => (&local.scope, false),
            };
            if batch.sub(bytes) {
                flush(local, root);
            }
        } else if tag != UNCOUNTED {
            slot::freed_elsewhere(tag, bytes);
        }
    });
}

/// A block with this tag is `new` bytes long instead of `old`.
#[inline]
pub(crate) fn resized(tag: u64, old: usize, new: usize) {
    LOCAL.with(|local| {
        if tag == local.current.get() || tag == ROOT {
            let (batch, root) = match tag {
                ROOT => (&local.root, true),
                _ => (&local.scope, false),
            };
            // Freed first: one block that grows is not two.
            let over = batch.sub(old);
            if batch.add(new) || over {
                flush(local, root);
            }
        } else if tag != UNCOUNTED {
            let change = Entry {
                net: new as i64 - old as i64,
                high: (new as i64 - old as i64).max(0),
                allocated: new as u64,
            };
            slot::add(tag, change);
        }
    });
}

/// A block was allocated in the name of this tag, whatever scope the thread is in.
pub(crate) fn given(tag: u64, bytes: usize) {
    resized(tag, 0, bytes);
}

#[cold]
#[inline(never)]
fn flush(local: &Local, root: bool) {
    match root {
        true => {
            local.root.flush(ROOT);
            if local.root.mark.get() == 0 {
                // Before the next line, which may allocate where the system has no list of what to
                // do at the end of a thread.
                local.root.mark.set(BATCH);
                // It is refused while the thread ends, when nothing more can be done at its end.
                if EXIT.try_with(|_| ()).is_err() {
                    local.root.mark.set(0);
                }
            }
        }
        false => local.scope.flush(local.current.get()),
    }
}

/// Writes down what the thread has counted in the name of the scope it is in, and enters another.
/// The one it was in.
#[inline]
pub(crate) fn switch(tag: u64) -> u64 {
    LOCAL.with(|local| {
        let before = local.current.get();
        if before != ROOT {
            local.scope.flush(before);
        }
        local.current.set(tag);
        before
    })
}

/// The tag of the scope that the thread is in.
pub(crate) fn current() -> u64 {
    LOCAL.with(|local| local.current.get())
}

/// Writes down everything that this thread has counted.
pub(crate) fn flush_all() {
    LOCAL.with(|local| {
        local.root.flush(ROOT);
        if local.current.get() != ROOT {
            local.scope.flush(local.current.get());
        }
    });
}
