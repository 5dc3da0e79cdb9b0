//! The service under load, with the tracking allocator over that of the system, as most have it.

use clap::Parser as _;
use plimsoll::TrackingAllocator;
use plimsoll_tests::{Error, service::Service};

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

fn main() -> Result<(), Error> {
    Service::parse().serve(&ALLOCATOR)
}
