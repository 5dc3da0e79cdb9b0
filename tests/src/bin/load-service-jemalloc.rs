//! The service under load, with the tracking allocator over jemalloc.

use clap::Parser as _;
use plimsoll::TrackingAllocator;
use plimsoll_tests::{Error, service::Service};
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: TrackingAllocator<Jemalloc> = TrackingAllocator::new(Jemalloc);

fn main() -> Result<(), Error> {
    Service::parse().serve(&ALLOCATOR)
}
