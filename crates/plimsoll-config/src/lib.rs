//! Settings from files and the environment over those of the code, with the place of every value.
//!
//! [`File`] is one file in YAML, [`Environment`] the variables of a prefix, and [`Reading`] puts
//! them over [`Settings`](plimsoll_core::settings::Settings). In the end there is every value with
//! its [`Source`], or a [`LoadError`] with everything that is wrong, each [`Problem`] with its
//! place, its key, what it must be, and the key that was probably meant.
//!
//! ```
//! use plimsoll_config::{Environment, File, Reading, to_yaml};
//! use plimsoll_core::settings::{self, Fields, Settings};
//! use std::time::Duration;
//!
//! /// The settings of a cache.
//! struct Cache {
//!     max_bytes: u64,
//!     time_to_live: Option<Duration>,
//! }
//!
//! impl Settings for Cache {
//!     fn visit(&mut self, fields: &mut dyn Fields) {
//!         let bytes = &mut settings::bytes(&mut self.max_bytes, 1_024..=1 << 40);
//!         fields.setting("max_bytes", "How much it may hold.", bytes);
//!         let day = Duration::from_secs(86_400);
//!         let time = settings::duration(&mut self.time_to_live, Duration::ZERO..=day);
//!         fields.setting("time_to_live", "How long it holds it.", &mut time.or(&["off"]));
//!     }
//! }
//!
//! # fn main() -> Result<(), plimsoll_config::LoadError> {
//! let none = Environment::empty();
//! let file = File::parse("config.yaml", "cache:\n  max_bytes: 64MiB\n  time_to_live: 30m\n")?;
//! let mut cache = Cache { max_bytes: 1 << 20, time_to_live: None };
//! let mut reading = Reading::new();
//! reading.group("cache", &mut cache, &file, &none);
//! let values = reading.finish()?;
//! assert_eq!(cache.max_bytes, 64 << 20);
//! assert_eq!(
//!     to_yaml(&values, None),
//!     "\
//! cache:
//!   max_bytes: 64MiB # config.yaml:2:14
//!   time_to_live: \"30m\" # config.yaml:3:17
//! "
//! );
//!
//! let file = File::parse("config.yaml", "cache:\n  max_byte: 1GiB\n  time_to_live: 30x\n")?;
//! let mut reading = Reading::new();
//! reading.group("cache", &mut cache, &file, &none);
//! let error = reading.finish().unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "\
//! 2 problems:
//!   config.yaml:2:3: `cache.max_byte` is not known: did you mean `max_bytes`?
//!   config.yaml:3:17: `cache.time_to_live` is 30x, but must be a time between 0s and 1d, in \
//!      seconds or like \"30m\", or off"
//! );
//! # Ok(())
//! # }
//! ```
//!
//! # Which value counts
//!
//! | what says it | is beaten by |
//! |---|---|
//! | the code: a default, or what a program sets | everything below |
//! | a preset in a file | settings in the same file, wherever they stand |
//! | a setting in a file | |
//! | a preset in a variable | settings in variables |
//! | a setting in a variable | nothing |
//!
//! A preset sets all of its group: one in a variable also counts before the settings of that group
//! in a file. An item of a list begins with the general settings as they were read, so that a
//! variable for these counts less than what the file of the list says.
//!
//! # What a value may be
//!
//! | kind | like | or |
//! |---|---|---|
//! | flag | `true`, `false` | |
//! | number | `10`, `0.5`, `1e3` | whole numbers are digits only |
//! | percentage | `50`, `50%` | |
//! | time | `1.5`, in seconds | `30m`, `1h 30m`, `500ms`; `m` is minutes and `M` months |
//! | size | `1024`, in bytes | `64MiB`, `1.5GB`, or `40%` of [the memory there may be](memory_limit) |
//! | calls or a time | `100` calls | `30s`, `1.5` |
//! | count or a share | `8` | `50%` |
//! | texts | `[a, b]` | `a, b` |
//!
//! Quotes around a number, a time or a size change nothing. Around a text they tell it from a word
//! that the setting takes instead, and from nothing. Null is the first such word, and no value for
//! a setting without one. Where `off` or `none` is such a word, both are, and `false` too.
//!
//! A group that is optional is `on`, `off`, or its settings, which turn it on. A preset, and a word
//! that turns a group on, are the source of the values that come with them.
//!
//! # Limits
//!
//! | what | how much | where it ends |
//! |---|---|---|
//! | a file | 4 MiB | refused |
//! | lists and groups in each other | 32 | refused |
//! | values in a file, aliases replaced | 200 000 | refused |
//! | text in a file, aliases replaced | 8 MiB | refused |
//! | items of a list | 10 000 | refused |
//! | variables of a prefix, and each | 10 000, 64 KiB | refused |
//! | problems told of | 100 | the others are counted |
//! | a value or a key in a problem | 80 characters | cut |
//!
//! YAML is that of version 1.2 without tags, merge keys and second documents. An alias must come
//! after its anchor, and outside of it. Whatever is read takes time and memory in proportion to
//! these limits at most.
//!
//! # Settings of one's own
//!
//! Settings say what they are once, in
//! [`Settings::visit`](plimsoll_core::settings::Settings::visit). Whoever reads, checks, shows or
//! describes them visits them, and takes the order, the keys, the kinds and the ranges from there.
//!
//! - Always show the same keys, whatever the values: one that is not shown is not known.
//! - Show a preset before the group that it sets, and a rule after the setting that it is for. The
//!   text of a rule goes on from "must be"; name the other setting in it, and a contradiction is
//!   told where that was given.
//! - Text that must not be seen is a [`Secret`](plimsoll_core::settings::Secret). It is shown as
//!   `***` by everything here, and left out of [`to_yaml`].
//! - [`schema`] and [`list_schema`] make of them what editors and other checkers want. They accept
//!   whatever is read; the range of a text with a unit, and rules between settings, they cannot
//!   tell.

mod effective;
mod environment;
mod file;
mod limit;
mod node;
mod problem;
mod reading;
mod reload;
mod schema;
mod sizes;
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
