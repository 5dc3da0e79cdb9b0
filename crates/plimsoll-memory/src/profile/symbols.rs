//! Functions, files and lines of addresses, as the process itself knows them.

use std::ffi::c_void;

/// A function at an address.
#[derive(Debug)]
pub(super) struct Function {
    /// As it is written in the source.
    pub(super) name: String,
    /// As the linker knows it.
    pub(super) system_name: String,
    /// Empty where it is not known, as lines are 0.
    pub(super) file: String,
    pub(super) line: u32,
}

impl Function {
    /// Whether it is part of how something is allocated: of the standard library's containers, of
    /// its allocator, or of ours.
    pub(super) fn allocates(&self) -> bool {
        const NAMES: [&str; 3] = ["__rust_alloc", "__rust_realloc", "std::alloc::"];
        // Not every one of them has a file.
        const CRATES: [&str; 2] = ["alloc::", "<alloc::"];
        let Self { name, file, .. } = self;
        file.contains("/library/alloc/src/")
            || file.contains("plimsoll-alloc") && file.ends_with("/src/tracking.rs")
            || CRATES.iter().any(|start| name.starts_with(start))
            || NAMES.iter().any(|part| name.contains(part))
    }
}

/// Calls `each` with every address and the functions there, the innermost of those that were inlined
/// first, as long as it returns true.
///
/// Whoever else symbolises by the same library waits meanwhile, for an address at a time.
pub(super) fn resolve(
    addresses: impl IntoIterator<Item = usize>,
    mut each: impl FnMut(usize, Vec<Function>) -> bool,
) {
    let _cache = Cache;
    for address in addresses {
        let mut functions = Vec::new();
        // As the return address that it is: what is looked up is the call before.
        backtrace::resolve(address as *mut c_void, |symbol| {
            let Some(name) = symbol.name() else {
                return;
            };
            let file = symbol.filename().map(|file| file.display().to_string());
            functions.push(Function {
                // Without the hash at its end.
                name: format!("{name:#}"),
                system_name: name.as_str().unwrap_or_default().to_owned(),
                file: file.unwrap_or_default(),
                line: symbol.lineno().unwrap_or_default(),
            });
        });
        if !each(address, functions) {
            return;
        }
    }
}

/// Gives back what was read of debug information.
struct Cache;

impl Drop for Cache {
    fn drop(&mut self) {
        backtrace::clear_symbol_cache();
    }
}
