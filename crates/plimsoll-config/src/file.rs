use crate::{LoadError, Source, node::Node, yaml};
use std::{
    fmt, fs,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

/// A file of settings, in YAML.
///
/// It may have 4 MiB, 32 lists and groups in each other, and, once aliases are replaced by what
/// they stand for, 200 000 values and 8 MiB of text. An empty one has no settings.
#[derive(Clone)]
pub struct File {
    pub(crate) root: Node,
    text: Arc<str>,
}

impl File {
    /// A file without settings.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            root: Node::empty(Source::Code),
            text: "".into(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is larger than it may be, or is no YAML; says where.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let name: Arc<str> = path.to_string_lossy().into();
        let text = read_text(path).map_err(|what| LoadError::one(whole(&name), what))?;
        Self::of(&name, text.into())
    }

    /// [`read`](Self::read), or a file without settings where there is none.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read), but for a file that is not there.
    pub fn read_if_present(path: &Path) -> Result<Self, LoadError> {
        // A link to nothing is there: somebody meant a file.
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::empty()),
            _ => Self::read(path),
        }
    }

    /// Reads a text as if it were the file `name`.
    ///
    /// # Errors
    ///
    /// When it is larger than it may be, or no YAML; says where.
    pub fn parse(name: &str, text: &str) -> Result<Self, LoadError> {
        Self::of(&name.into(), text.into())
    }

    fn of(name: &Arc<str>, text: Arc<str>) -> Result<Self, LoadError> {
        let root = yaml::parse(name, &text)?;
        Ok(Self { root, text })
    }

    /// Where the file has this key, if it does.
    #[must_use]
    pub fn place_of(&self, key: &str) -> Option<Source> {
        self.root.get(key).map(|entry| entry.source.clone())
    }

    /// The text, by which one can tell whether a file has changed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Without the text, which may have secrets.
impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("File");
        debug.field("root", &self.root).finish_non_exhaustive()
    }
}

fn whole(name: &Arc<str>) -> Source {
    Source::File {
        file: name.clone(),
        line: 0,
        column: 0,
    }
}

/// The text of a file, or what is wrong with it.
fn read_text(path: &Path) -> Result<String, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    // Opening a pipe would wait for whoever writes it.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("is no ordinary file".to_owned());
    }
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let mut file = file.take(yaml::MAX_BYTES + 1);
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    // Before its text is looked at, which may be cut within a character.
    if bytes.len() as u64 > yaml::MAX_BYTES {
        return Err(yaml::too_large());
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        format!("is not UTF-8 in line {}", line + 1)
    })
}
