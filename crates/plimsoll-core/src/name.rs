use std::{
    collections::HashSet,
    fmt,
    hash::{Hash, Hasher},
    sync::{LazyLock, Mutex, PoisonError},
};

/// The name of a holding, a task or a downstream: `Copy`, and free to pass around.
///
/// Text is interned for the life of the process, so that a rejection, a metric handle or a task
/// record carries its name without an allocation and without a reference count that threads
/// share. The store is bounded: at most [`Name::MAX_LEN`] bytes a name (longer text is cut on a
/// character boundary) and [`Name::MAX_COUNT`] distinct names, about 3 MiB at the very most.
/// Text past that bound becomes [`Name::OVERFLOW`] and is counted by [`Name::overflowed`].
#[derive(Clone, Copy, Eq, Ord, PartialOrd)]
pub struct Name(&'static str);

#[derive(Debug, Default)]
struct Interner {
    names: HashSet<&'static str>,
    overflowed: u64,
}

static INTERNER: LazyLock<Mutex<Interner>> = LazyLock::new(Mutex::default);

impl Name {
    /// The longest name kept, in bytes.
    pub const MAX_LEN: usize = 128;
    /// How many distinct names a process keeps.
    pub const MAX_COUNT: usize = 16_384;
    /// Stands for every name that came after the store was full.
    pub const OVERFLOW: Self = Self("__overflow__");

    /// Makes a name of static text, which needs no place in the store.
    #[must_use]
    pub const fn from_static(name: &'static str) -> Self {
        Self(name)
    }

    /// Interns `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        INTERNER
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .intern(name)
    }

    /// The text of the name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// How many times this process was given a new name when the store was full.
    #[must_use]
    pub fn overflowed() -> u64 {
        INTERNER
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .overflowed
    }
}

impl Interner {
    fn intern(&mut self, name: &str) -> Name {
        let mut end = name.len().min(Name::MAX_LEN);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let name = &name[..end];
        if let Some(known) = self.names.get(name) {
            return Name(known);
        }
        if self.names.len() >= Name::MAX_COUNT {
            self.overflowed += 1;
            return Name::OVERFLOW;
        }
        let name: &'static str = Box::leak(Box::from(name));
        self.names.insert(name);
        Name(name)
    }
}

// Static and interned names may hold the same text at two addresses, so text decides.
impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0) || self.0 == other.0
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self.0
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self::new(&name)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_text_is_kept_once() {
        let first = Name::new("qa-sql");
        let second = Name::from(String::from("qa-sql"));
        assert!(std::ptr::eq(first.as_str(), second.as_str()));
        assert_eq!(first, Name::from_static("qa-sql"));
    }

    #[test]
    fn long_text_is_cut_on_a_character_boundary() {
        let name = Name::new(&"ü".repeat(100));
        assert_eq!(name.as_str().len(), 128);
        let name = Name::new(&format!("x{}", "ü".repeat(100)));
        assert_eq!(name.as_str().len(), 127);
    }

    #[test]
    fn text_past_the_bound_becomes_the_overflow_name_and_is_counted() {
        let mut interner = Interner::default();
        for n in 0..Name::MAX_COUNT {
            assert_ne!(interner.intern(&n.to_string()), Name::OVERFLOW);
        }
        assert_eq!(interner.intern("one too many"), Name::OVERFLOW);
        assert_eq!(interner.overflowed, 1);
        assert_eq!(
            interner.intern("0").as_str(),
            "0",
            "known names still resolve"
        );
    }
}
