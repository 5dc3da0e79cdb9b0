//! The markdown to search, cut into passages.

use crate::{
    BoxError,
    text::{clip, stable_hash},
};
use serde::Serialize;
use std::{
    fs, io, mem,
    path::{Path, PathBuf},
};

/// Longest passage, in characters.
pub const MAX_PASSAGE_CHARS: usize = 800;

// All passages stay in memory, so their number and size have limits.
const MAX_FILES: usize = 2_000;
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// The most passages a corpus has.
pub const MAX_PASSAGES: usize = 20_000;

/// A piece of text and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Passage {
    /// At most [`MAX_PASSAGE_CHARS`] characters.
    pub text: String,
    /// File and heading, such as `docs/guide/shutdown.md#drain-delay`.
    pub source: String,
}

/// All passages of a folder.
#[derive(Debug)]
pub struct Corpus {
    passages: Vec<Passage>,
}

impl Corpus {
    /// Reads `README.md` and `docs/**/*.md` below `root`.
    ///
    /// # Errors
    ///
    /// Fails when a file cannot be read, when there is no markdown, and when
    /// there is more than fits in memory comfortably.
    pub fn read(root: &Path) -> Result<Self, BoxError> {
        let mut passages = Vec::new();
        for path in markdown_files(root)? {
            let text = read_file(&path).map_err(|error| describe(&path, &error))?;
            let name = path.strip_prefix(root).unwrap_or(&path);
            passages.extend(split_markdown(&name.to_string_lossy(), &text));
            if MAX_PASSAGES < passages.len() {
                return Err(format!("more than {MAX_PASSAGES} passages").into());
            }
        }
        if passages.is_empty() {
            return Err("no markdown in README.md or docs/**/*.md".into());
        }
        Ok(Self { passages })
    }

    /// All passages, in the order of their files.
    #[must_use]
    pub fn passages(&self) -> &[Passage] {
        &self.passages
    }

    /// A value that changes with any passage.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let parts = self.passages.iter().flat_map(|p| [&*p.source, &*p.text]);
        format!("{:016x}", stable_hash(parts))
    }
}

impl FromIterator<Passage> for Corpus {
    fn from_iter<I: IntoIterator<Item = Passage>>(passages: I) -> Self {
        Self {
            passages: passages.into_iter().collect(),
        }
    }
}

/// Cuts markdown at its headings, then between paragraphs, then between words.
#[must_use]
pub fn split_markdown(file: &str, markdown: &str) -> Vec<Passage> {
    let mut passages = Vec::new();
    let mut source = file.to_owned();
    let mut title = String::new();
    let mut body = String::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        match heading(line).filter(|_| !fenced) {
            Some(next) => {
                pack(&source, &mem::take(&mut title), &body, &mut passages);
                body.clear();
                source = format!("{file}#{}", anchor(next));
                next.clone_into(&mut title);
            }
            None => {
                body.push_str(line);
                body.push('\n');
            }
        }
    }
    pack(&source, &title, &body, &mut passages);
    passages
}

fn markdown_files(root: &Path) -> Result<Vec<PathBuf>, BoxError> {
    let mut files = Vec::new();
    let readme = root.join("README.md");
    if readme.is_file() {
        files.push(readme);
    }
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(describe(&folder, &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| describe(&folder, &error))?;
            // The type of the entry itself: a linked folder could lead in a circle.
            let kind = entry
                .file_type()
                .map_err(|error| describe(&folder, &error))?;
            let path = entry.path();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|e| e == "md") {
                files.push(path);
            }
        }
        if MAX_FILES < files.len() + folders.len() {
            return Err(format!("more than {MAX_FILES} files").into());
        }
    }
    // Folders list their entries in any order, and the fingerprint must not change with it.
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> io::Result<String> {
    if MAX_FILE_BYTES < fs::metadata(path)?.len() {
        let reason = format!("larger than {MAX_FILE_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    // One stray byte should not keep the rest of the file from being found.
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn describe(path: &Path, error: &io::Error) -> BoxError {
    format!("cannot read {}: {error}", path.display()).into()
}

fn heading(line: &str) -> Option<&str> {
    let title = line.trim_start_matches('#');
    let level = line.len() - title.len();
    (1..=6).contains(&level).then_some(())?;
    title.strip_prefix(' ').map(str::trim)
}

/// The anchor that GitHub gives a heading.
fn anchor(title: &str) -> String {
    title
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .flat_map(char::to_lowercase)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Fills passages with whole paragraphs as long as they fit.
fn pack(source: &str, title: &str, body: &str, passages: &mut Vec<Passage>) {
    if body.trim().is_empty() {
        return;
    }
    let mut emit = |text: &str| {
        passages.push(Passage {
            text: text.to_owned(),
            source: source.to_owned(),
        });
    };
    // The title comes first, since it often holds the word that is asked for.
    let mut text = title.to_owned();
    for paragraph in body.split("\n\n").map(str::trim).filter(|p| !p.is_empty()) {
        let together = text.chars().count() + paragraph.chars().count() + 2;
        if !text.is_empty() && MAX_PASSAGE_CHARS < together {
            emit(&mem::take(&mut text));
        }
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(paragraph);
        while clip(&text, MAX_PASSAGE_CHARS).len() < text.len() {
            let head = clip(&text, MAX_PASSAGE_CHARS);
            // A word longer than a passage is cut between two characters.
            let end = head.rfind(char::is_whitespace).unwrap_or(head.len());
            emit(head[..end].trim_end());
            text = text[end..].trim_start().to_owned();
        }
    }
    if !text.is_empty() {
        emit(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(passages: &[Passage]) -> Vec<&str> {
        passages.iter().map(|p| &*p.source).collect()
    }

    #[test]
    fn passages_name_their_file_and_heading() {
        let markdown = "Intro.\n\n# Shutdown\n\nStops.\n\n## Drain `delay`, 2nd\n\nWaits.\n";
        let passages = split_markdown("docs/a.md", markdown);
        assert_eq!(
            sources(&passages),
            [
                "docs/a.md",
                "docs/a.md#shutdown",
                "docs/a.md#drain-delay-2nd"
            ]
        );
        assert_eq!(passages[1].text, "Shutdown\n\nStops.");
    }

    #[test]
    fn hashes_in_code_and_headings_without_text_start_no_passage() {
        let markdown = "# Empty\n## Shell\n```sh\n# a comment\nls\n```\n#hashtag\n";
        let passages = split_markdown("a.md", markdown);
        assert_eq!(sources(&passages), ["a.md#shell"]);
        assert!(passages[0].text.contains("# a comment"));
        assert!(passages[0].text.contains("#hashtag"));
    }

    #[test]
    fn paragraphs_share_a_passage_until_it_is_full() {
        let paragraph = "word ".repeat(60);
        let markdown = [&*paragraph; 4].join("\n\n");
        let passages = split_markdown("a.md", &markdown);
        assert_eq!(passages.len(), 2);
        assert_eq!(passages[0].text.matches("\n\n").count(), 1);
    }

    #[test]
    fn long_text_is_cut_between_characters_and_nothing_is_lost() {
        for text in [
            "ж".repeat(2_001),
            "🦀".repeat(1_600),
            "é à ü ".repeat(900),
            format!("{} {}", "x".repeat(799), "y".repeat(801)),
        ] {
            let passages = split_markdown("a.md", &text);
            let letters = |text: &str| text.split_whitespace().collect::<String>();
            let joined: String = passages.iter().map(|p| letters(&p.text)).collect();
            assert_eq!(joined, letters(&text));
            for passage in &passages {
                assert!(passage.text.chars().count() <= MAX_PASSAGE_CHARS);
                assert!(!passage.text.is_empty());
            }
        }
    }

    #[test]
    fn fingerprint_changes_with_text_and_with_source() {
        let corpus = |text, source| Corpus::from_iter(split_markdown(source, text)).fingerprint();
        assert_eq!(corpus("one", "a.md"), corpus("one", "a.md"));
        assert_ne!(corpus("one", "a.md"), corpus("two", "a.md"));
        assert_ne!(corpus("one", "a.md"), corpus("one", "b.md"));
    }
}
