//! The circuit breakers of the adapters: one each, named like it.

use crate::adapters::Adapters;
use plimsoll::breaker::{Snapshot, State};
use plimsoll::{Plimsoll, registry::RegisterError};

/// Registers the breakers, so that they are swept, measured and shown.
///
/// # Errors
///
/// As [`Plimsoll::register_breaker`].
pub fn register(plimsoll: &Plimsoll, adapters: &Adapters) -> Result<(), RegisterError> {
    for breaker in adapters.breakers() {
        plimsoll.register_breaker(breaker.clone())?;
    }
    Ok(())
}

/// What the breakers have done since the start, in one line for people to read.
#[must_use]
pub fn summary(adapters: &Adapters) -> String {
    let breakers = adapters
        .breakers()
        .map(|breaker| describe(&breaker.snapshot()));
    format!("breakers  {}", breakers.collect::<Vec<_>>().join(", "))
}

fn describe(breaker: &Snapshot) -> String {
    let Snapshot { name, state, .. } = breaker;
    let openings = breaker.transitions.iter().filter(|t| t.to == State::Open);
    let opened: u64 = openings.map(|transition| transition.count).sum();
    let refused = breaker.totals.rejected();
    if opened == 0 && refused == 0 {
        return format!("{name} {state}");
    }
    format!("{name} {state} (opened {opened} times, refused {refused} calls)")
}
