//! Drives the service, and prints what came of it as one line of JSON.

use clap::Parser as _;
use plimsoll_tests::{Error, driver::Driver};

fn main() -> Result<(), Error> {
    let outcome = Driver::parse().drive()?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}
