//! Allocators that know what the process holds, and for whom.
//!
//! [`TrackingAllocator`] knows for every block which [`MemoryScope`] it was allocated in, so that
//! what a request allocated, held at most, and left behind is known to the byte, wherever its blocks
//! are freed. [`CountingAllocator`] counts live bytes and calls for a whole process. It is meant for
//! tests and benchmarks: its counters are shared by all threads, which costs three atomic additions
//! a call.
//!
//! ```
//! use plimsoll_alloc::{MemoryGroup, TrackingAllocator};
//!
//! #[global_allocator]
//! static ALLOC: TrackingAllocator = TrackingAllocator::system();
//!
//! fn main() {
//!     let route = MemoryGroup::new();
//!     let request = route.scope();
//!     let answer = request.run(|| {
//!         let working = vec![0_u8; 100_000];
//!         format!("{} bytes", working.len())
//!     });
//!     assert_eq!(request.usage().live, answer.capacity() as u64);
//!     assert!(request.usage().peak > 100_000);
//!
//!     // The request is over, and somebody keeps its answer.
//!     drop(request);
//!     assert_eq!(route.retained().bytes, answer.capacity() as u64);
//! }
//! ```
//!
//! # What belongs to whom
//!
//! A block belongs to the scope that the thread was in, not to whoever has it. What grows once and
//! is used by all, such as a thread's own storage or the pages of a channel, belongs to the request
//! that made it grow. Hence *retained*, which is not *leaked*. [`untracked`] is for what is known to
//! be shared.
//!
//! Where that memory was allocated tells a sample of the blocks that live, in `profile`, with the
//! feature of that name.

#[cfg(feature = "test-util")]
pub mod bench;
mod counting;
mod future;
mod large;
mod local;
#[cfg(all(test, plimsoll_loom))]
mod loom;
mod pages;
mod placement;
#[cfg(feature = "profile")]
pub mod profile;
mod reclaim;
#[cfg(feature = "profile")]
mod records;
mod scope;
mod slot;
mod sync;
mod tracking;

pub use self::{
    counting::CountingAllocator,
    future::Scoped,
    large::{LargeBlockUsage, LargeBlocks},
    reclaim::{AllocatorFigures, Reclaim, Reclaimed, resident_bytes},
    scope::{
        Charge, Entered, GroupId, MemoryGroup, MemoryScope, MemoryUsage, OverLimit, ProcessUsage,
        Retained, WeakScope, each_retained, live_bytes, process_usage, set_now, untracked,
    },
    tracking::{Mode, TrackingAllocator, is_installed, mode, mode_switches, set_mode},
};
