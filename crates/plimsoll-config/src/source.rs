use std::{fmt, sync::Arc};

/// Where a value comes from.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Source {
    /// The program itself, or its defaults.
    Code,
    /// A file.
    File {
        /// The file, as it was named.
        file: Arc<str>,
        /// The line, from 1; 0 for the file as a whole.
        line: u32,
        /// The column in characters, from 1; 0 for the file as a whole.
        column: u32,
    },
    /// A variable of the environment.
    Variable(Arc<str>),
}

impl Source {
    /// The line, where it is one of a file.
    #[must_use]
    pub const fn line(&self) -> Option<u32> {
        match self {
            Self::File { line, .. } if *line > 0 => Some(*line),
            _ => None,
        }
    }

    /// The column, where it is one of a file.
    #[must_use]
    pub const fn column(&self) -> Option<u32> {
        match self {
            Self::File { column, .. } if *column > 0 => Some(*column),
            _ => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code => f.write_str("code"),
            Self::File { file, line: 0, .. } => f.write_str(file),
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Variable(name) => f.write_str(name),
        }
    }
}
