use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

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
            Self::File { file, line: 0, .. } => write_line(file, f),
            Self::File { file, line, column } => {
                write_line(file, f)?;
                write!(f, ":{line}:{column}")
            }
            Self::Variable(name) => write_line(name, f),
        }
    }
}

/// A name may hold line breaks, which would end a line of a log or a comment.
fn write_line(name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    name.chars().try_for_each(|c| match c.is_control() {
        true => write!(f, "{}", c.escape_default()),
        false => f.write_char(c),
    })
}
