//! A server for `memory_http`, with the tracking allocator over that of the system.

use clap::Parser;
use plimsoll_alloc::TrackingAllocator;
use plimsoll_bench::{Error, memory::Server};

#[global_allocator]
static ALLOCATOR: TrackingAllocator = TrackingAllocator::system();

fn main() -> Result<(), Error> {
    Server::parse().serve()
}
