//! A server for `memory_http`, with the allocator of the system.

use clap::Parser;
use plimsoll_bench::{Error, memory::Server};

fn main() -> Result<(), Error> {
    Server::parse().serve()
}
