//! Heap profiles: what lives, by who allocated it, where, and for whom.
//!
//! They are made of what [`plimsoll_alloc::profile`] samples, in the format of
//! [pprof](https://github.com/google/pprof), so that `go tool pprof` and whatever else reads that
//! shows them. Needs the feature `profile`.
//!
//! ```
//! use plimsoll_alloc::{MemoryGroup, TrackingAllocator, profile};
//! use plimsoll_core::Name;
//! use plimsoll_memory::profile::HeapProfile;
//!
//! #[global_allocator]
//! static ALLOC: TrackingAllocator = TrackingAllocator::system();
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! profile::start(profile::Sampling::new());
//! let reports = MemoryGroup::new();
//! let kept = reports.scope().run(|| vec![0_u8; 64 << 20]);
//!
//! let route = Name::from_static("/reports");
//! let names = |group| (Some(group) == reports.id()).then_some(("route", route));
//! let heap = HeapProfile::take(names);
//! std::fs::write(std::env::temp_dir().join("heap.pb.gz"), heap.to_pprof()?)?;
//! # drop(kept);
//! # Ok(())
//! # }
//! ```
//!
//! ```sh
//! go tool pprof -top -tagroot=route heap.pb.gz
//! ```
//!
//! # What is in one
//!
//! For each stack, estimated from those of its blocks that are in the sample,
//!
//! | sample type | unit | |
//! |---|---|---|
//! | `inuse_objects` | count | blocks that live |
//! | `inuse_space` | bytes | their bytes; shown where nothing else is asked for |
//!
//! and these labels, by which samples are told apart:
//!
//! | label | value |
//! |---|---|
//! | `route`, `adapter`, or what else the names say | the names of the groups that its scope is in; none where it is in none |
//! | `state` | `retained` where its request has ended, else `live` |
//!
//! The period is the mean of bytes between two samples. Blocks that should have been in the sample
//! and found no record are told of in a comment.
//!
//! # Symbols
//!
//! Functions, files and lines are looked up in the process, as far as its images have symbols:
//! `debug = "line-tables-only"` is enough for all of them, inlined functions as well. On Linux, each
//! address has its mapping besides, with the file and its build id, so that addresses of what was
//! stripped can be looked up in the same program with its symbols, by a reader that can do that.
//!
//! # Cost
//!
//! There are 16 384 records of 64 frames at the most. A profile of them takes up to 12 MiB, and the
//! difference of two twice that. Writing one takes some 150 bytes for each place in the program that is
//! on a stack, the names of functions and files there, three times the result of up to 16 MiB, and,
//! while symbols are looked up, the debug information of one image after the other: some tens of MiB
//! for large ones, which are given back afterwards. With all records in use, 40 frames each, a small
//! program takes a profile in 11 ms, and writes it in 50 ms: half a megabyte.
//!
//! Debug information of a large one takes seconds to be read, so [`HeapProfile::take`] and
//! [`HeapProfile::to_pprof`] belong on a thread that may block. Nothing that they allocate is in the
//! sample, or belongs to a request.

mod mappings;
mod pprof;
mod symbols;

pub use plimsoll_alloc::profile::quietly;
pub use pprof::ProfileTooLarge;

use plimsoll_alloc::{GroupId, profile, untracked};
use plimsoll_core::Name;
use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// What lives, as far as it was sampled: at a time, or more of it than at an earlier time.
#[derive(Clone, Debug)]
pub struct HeapProfile {
    stacks: HashMap<Stack, Weight>,
    mean_bytes: u64,
    dropped: u64,
    /// Stacks that were longer than what is kept of one.
    cut: u64,
    taken: SystemTime,
    at: Instant,
    /// From the earlier one to this one; none at a time.
    window: Option<Duration>,
}

/// What samples are merged by.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Stack {
    /// Return addresses, the innermost first.
    frames: Vec<usize>,
    groups: [Option<(&'static str, Name)>; 2],
    retained: bool,
}

/// What the samples of one stack stand for.
#[derive(Clone, Copy, Debug, Default)]
struct Weight {
    objects: f64,
    bytes: f64,
}

impl HeapProfile {
    /// Takes what lives. `names` says what kind of group one is, which is the key of a label, and its
    /// name, which is the value: `("route", "/reports")`, say. Of what it does not know there is no
    /// label.
    ///
    /// Takes up to some tens of milliseconds: it belongs on a thread that may block.
    #[must_use]
    pub fn take(names: impl Fn(GroupId) -> Option<(&'static str, Name)>) -> Self {
        unseen(|| {
            let profile = profile::snapshot();
            let mut stacks = HashMap::<_, Weight>::with_capacity(profile.samples.len());
            let mut cut = 0;
            for sample in profile.samples {
                cut += u64::from(sample.is_cut);
                let stack = Stack {
                    frames: sample.frames,
                    groups: sample.groups.map(|group| group.and_then(&names)),
                    retained: sample.ended,
                };
                let weight = stacks.entry(stack).or_default();
                weight.objects += sample.weight_objects;
                weight.bytes += sample.weight_bytes;
            }
            Self {
                stacks,
                mean_bytes: profile.mean_bytes,
                dropped: profile.dropped,
                cut,
                taken: SystemTime::now(),
                at: Instant::now(),
                window: None,
            }
        })
    }

    /// What lives more than at an earlier time, by stack and labels. What lives less is negative, and
    /// what lives as before is not in it.
    ///
    /// A block whose request has ended in between is one `live` less, and one `retained` more.
    #[must_use]
    pub fn since(mut self, earlier: &Self) -> Self {
        unseen(|| {
            for (stack, before) in &earlier.stacks {
                match self.stacks.get_mut(stack) {
                    Some(after) => {
                        after.objects -= before.objects;
                        after.bytes -= before.bytes;
                    }
                    None => {
                        let gone = Weight {
                            objects: -before.objects,
                            bytes: -before.bytes,
                        };
                        self.stacks.insert(stack.clone(), gone);
                    }
                }
            }
            self.dropped = self.dropped.saturating_sub(earlier.dropped);
            self.window = Some(self.at.saturating_duration_since(earlier.at));
            self
        })
    }

    /// Writes it as a compressed `profile.proto`, with symbols as far as there are any.
    ///
    /// Takes up to seconds: it belongs on a thread that may block.
    ///
    /// # Errors
    ///
    /// When it would be longer than 16 MiB before it is compressed.
    pub fn to_pprof(&self) -> Result<Vec<u8>, ProfileTooLarge> {
        unseen(|| pprof::write(self))
    }
}

/// Does `work` so that nothing it allocates is in a profile, or belongs to a request.
fn unseen<T>(work: impl FnOnce() -> T) -> T {
    untracked(|| quietly(work))
}
