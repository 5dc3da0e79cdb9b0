//! Loads a configuration from anything.
#![no_main]

#[path = "../load.rs"]
mod load;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = load::load(text);
});
