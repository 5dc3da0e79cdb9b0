//! Whose turn it is. One thread of the process at a time has it, and a fork has it until both processes
//! go on, so that no other thread has it in a child, where that thread does not exist.
//!
//! One for the process, since those who are called at a fork know no allocator.

use std::{
    cell::Cell,
    marker::PhantomData,
    mem::ManuallyDrop,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{Ordering::SeqCst, compiler_fence},
    },
};

static LOCK: Mutex<()> = Mutex::new(());

/// What a thread has of it.
struct Mine {
    /// How often it has the turn within its own: a handler of somebody else that runs at a fork may come
    /// here while the thread has it for the fork, and one of a signal may fork while it has it otherwise.
    depth: Cell<u32>,
    held: Cell<Option<ManuallyDrop<MutexGuard<'static, ()>>>>,
}

thread_local! {
    // Constant, and without a drop: it can be used by the first and by the last instruction of a thread,
    // and using it never allocates.
    static MINE: Mine = const {
        Mine {
            depth: Cell::new(0),
            held: Cell::new(None),
        }
    };
}

/// The turn of this thread, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(PhantomData<*const ()>);

impl Turn {
    /// Waits for it, unless the thread has it.
    pub(super) fn take() -> Self {
        at_fork::handle();
        begin();
        Self(PhantomData)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        end();
    }
}

fn begin() {
    MINE.with(|mine| {
        let depth = mine.depth.get();
        // Before it waits: a handler of a signal that forks meanwhile must not wait for this thread.
        mine.depth.set(depth + 1);
        compiler_fence(SeqCst);
        if depth == 0 {
            // Nothing panics while it is held.
            let held = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
            mine.held.set(Some(ManuallyDrop::new(held)));
        }
    });
}

fn end() {
    MINE.with(|mine| {
        // Who is told of a fork while it goes on may be told of its end alone.
        let Some(depth) = mine.depth.get().checked_sub(1) else {
            return;
        };
        if depth == 0 {
            drop(mine.held.take().map(ManuallyDrop::into_inner));
        }
        compiler_fence(SeqCst);
        mine.depth.set(depth);
    });
}

#[cfg(all(target_os = "linux", not(miri)))]
mod at_fork {
    use std::{
        ffi::c_int,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    type Handler = extern "C" fn();

    unsafe extern "C" {
        /// Of POSIX: `before` is called by the thread that forks, and the other two in the parent and in
        /// the child.
        safe fn pthread_atfork(before: Handler, in_parent: Handler, in_child: Handler) -> c_int;
    }

    extern "C" fn before() {
        super::begin();
    }

    extern "C" fn after() {
        super::end();
    }

    static IS_HANDLED: AtomicBool = AtomicBool::new(false);

    /// Has forks wait for their turn, from the first block on.
    #[inline]
    pub(super) fn handle() {
        if !IS_HANDLED.load(Relaxed) {
            register();
        }
    }

    #[cold]
    fn register() {
        // Not by who comes here again while the system's allocator is asked for the list of handlers.
        if !IS_HANDLED.swap(true, Relaxed) {
            // Without memory for it a fork does not wait, as it would without all this.
            pthread_atfork(before, after, after);
        }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod at_fork {
    /// No block is large there.
    pub(super) const fn handle() {}
}
