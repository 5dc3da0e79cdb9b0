//! The cases of `edge` with the tracking allocator over that of the system, so that requests are
//! weighed.

use plimsoll_alloc::TrackingAllocator;
use plimsoll_bench::{Error, edge_cases};

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

fn main() -> Result<(), Error> {
    edge_cases::run("Edge, in process, tracking allocator")
}
