//! Settings from files and the environment over those of the code, with the place of every value.

mod effective;
mod environment;
mod file;
mod limit;
mod node;
mod problem;
mod reading;
mod reload;
mod schema;
mod source;
mod text;
#[cfg(feature = "watch")]
pub mod watch;
mod yaml;

pub use self::{
    effective::{Effective, to_json, to_yaml},
    environment::Environment,
    file::File,
    limit::memory_limit,
    problem::{EXIT_CODE, LoadError, Problem, What},
    reading::{Listed, Reading},
    reload::{Change, Configuration, Reload},
    schema::{list_schema, schema},
    source::Source,
};
