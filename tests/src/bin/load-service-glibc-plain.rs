//! The service under load, with the tracking allocator over that of the system alone: it keeps no large
//! blocks by itself.

use clap::Parser as _;
use plimsoll::TrackingAllocator;
use plimsoll_tests::{Error, service::Service};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: TrackingAllocator<System> = TrackingAllocator::new(System);

fn main() -> Result<(), Error> {
    Service::parse().serve(&ALLOCATOR)
}
