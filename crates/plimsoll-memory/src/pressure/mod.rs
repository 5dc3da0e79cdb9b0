//! How close the process is to its line, as one number and as a level.
//!
//! A [`PressureLevel`] follows from the number by thresholds. A level begins at its threshold, and ends
//! only some way below it, so that a number that swings around one does not make a level come and go.

mod level;
mod trend;

pub use self::level::{PressureChange, PressureLevel, ScaledTrigger};
pub(crate) use self::{
    level::{Edge, Levels, Thresholds},
    trend::Trend,
};
