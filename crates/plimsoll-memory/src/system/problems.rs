use super::file::{Fault, KernelFile};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

/// Files that are told of at most. What a process looks at is a few dozen.
const MOST: usize = 64;

/// A file that does not tell what it should.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Problem {
    /// Which.
    pub file: PathBuf,
    /// What it says instead, or why it cannot be read.
    pub found: String,
    /// What that leads to, and what can be done.
    pub remedy: &'static str,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            found,
            remedy,
        } = self;
        write!(f, "`{}` {found}: {remedy}", file.display())
    }
}

/// What is wrong now. Each file is told of once, however often it comes and goes.
#[derive(Debug, Default)]
pub(super) struct Problems {
    now: BTreeMap<PathBuf, Problem>,
    told: BTreeSet<PathBuf>,
}

impl Problems {
    /// Reads a file that may well be missing.
    pub(super) fn read<T>(
        &mut self,
        file: &mut KernelFile,
        remedy: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let parsed = file.parse(parse);
        self.note(file.path(), remedy, parsed)
    }

    pub(super) fn note<T>(
        &mut self,
        file: &Path,
        remedy: &'static str,
        outcome: Result<T, Fault>,
    ) -> Option<T> {
        let (value, fault) = match outcome {
            Ok(value) => (Some(value), None),
            Err(fault) => (None, Some(fault)),
        };
        let found = match fault {
            None | Some(Fault::Absent) => {
                self.now.remove(file);
                return value;
            }
            Some(Fault::Unreadable(error)) => format!("cannot be read ({error})"),
            Some(Fault::Malformed(shown)) => format!("has {shown}"),
        };
        self.tell(file, found, remedy);
        value
    }

    #[cold]
    fn tell(&mut self, file: &Path, found: String, remedy: &'static str) {
        if !self.now.contains_key(file) && self.now.len() >= MOST {
            return;
        }
        let problem = Problem {
            file: file.to_owned(),
            found,
            remedy,
        };
        if self.told.len() < MOST && self.told.insert(file.to_owned()) {
            tracing::warn!("{problem}");
        }
        self.now.insert(file.to_owned(), problem);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.now.values()
    }

    /// Of files that nobody reads any more nobody will hear that they are well.
    pub(super) fn forget(&mut self) {
        self.now.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_stays_until_the_file_is_well_or_gone() {
        let mut problems = Problems::default();
        let file = Path::new("/sys/a");
        let odd = || Fault::Malformed("\"odd\"".to_owned());
        for well in [Ok(1), Err(Fault::Absent)] {
            assert_eq!(problems.note::<u64>(file, "none", Err(odd())), None);
            let shown: Vec<_> = problems.iter().map(Problem::to_string).collect();
            assert_eq!(shown, ["`/sys/a` has \"odd\": none"]);
            problems.note(file, "none", well);
            assert_eq!(problems.iter().count(), 0);
        }
    }

    #[test]
    fn there_are_64_files_at_most() {
        let mut problems = Problems::default();
        for number in 0..100 {
            let file = PathBuf::from(format!("/sys/{number}"));
            let odd = Fault::Malformed("nothing".to_owned());
            problems.note::<u64>(&file, "none", Err(odd));
        }
        assert_eq!((problems.now.len(), problems.told.len()), (MOST, MOST));
    }
}
