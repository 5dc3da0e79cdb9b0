//! What the edge costs a request, in process, with the allocator of the system: against the bare
//! service, and against a layer of the same shape that does nothing.

use plimsoll_bench::{Error, edge_cases};

fn main() -> Result<(), Error> {
    edge_cases::run("Edge, in process")
}
