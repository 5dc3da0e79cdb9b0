//! The service under load, with the tracking allocator over jemalloc, with large blocks by ourselves.

use clap::Parser as _;
use plimsoll::{TrackingAllocator, alloc::LargeBlocks};
use plimsoll_tests::{Error, service::Service};
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: TrackingAllocator<LargeBlocks<Jemalloc>> =
    TrackingAllocator::new(LargeBlocks::new(Jemalloc));

fn main() -> Result<(), Error> {
    Service::parse().serve(&ALLOCATOR)
}
