//! Files of the kernel, which are written anew for whoever reads them.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    path::{Path, PathBuf},
    str,
    sync::Arc,
};

/// As much of a file as is looked at. The longest, what a cgroup's memory is made of, has 4 KiB.
const LENGTH: usize = 8 << 10;

/// As much of one that lists what there is. A machine with many containers has some thousand mounts, of
/// some hundred bytes.
const LONGEST: u64 = 4 << 20;

/// As much of an odd value as is shown.
const SHOWN: usize = 60;

/// A file that is read again and again. It stays open, so that it can be read by a process that has
/// no descriptor left.
#[derive(Debug)]
pub(super) struct KernelFile {
    path: PathBuf,
    file: Option<Arc<File>>,
}

/// Why a file does not tell.
#[derive(Debug)]
pub(super) enum Fault {
    /// There is none, or nothing in it, as on other systems, or by how the kernel was made. No
    /// problem in itself.
    Absent,
    Unreadable(io::Error),
    /// What it says instead, as far as that is shown.
    Malformed(String),
}

impl KernelFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, if it was open when it was last read.
    pub(super) fn opened(&self) -> Option<Arc<File>> {
        self.file.clone()
    }

    /// Reads it, and makes something of that.
    pub(super) fn parse<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Fault> {
        let mut buffer = [0; LENGTH];
        let length = self.read(&mut buffer).map_err(Fault::of)?;
        let text = whole_lines(buffer.get(..length).unwrap_or_default());
        let parsed = str::from_utf8(text).ok().and_then(parse);
        parsed.ok_or_else(|| Fault::Malformed(shown(text)))
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(file) = &self.file
            && let Ok(length) = read_whole(file, buffer)
        {
            return Ok(length);
        }
        // Of a cgroup that was removed it tells nothing, and there may be another of that name.
        self.file = None;
        let file = Arc::new(File::open(&self.path)?);
        let length = read_whole(&file, buffer)?;
        self.file = Some(file);
        Ok(length)
    }
}

impl Fault {
    fn of(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::Unsupported => Self::Absent,
            _ if is_gone(&error) => Self::Absent,
            _ => Self::Unreadable(error),
        }
    }
}

/// Whether the cgroup of the file was removed, or its controller switched off.
#[cfg(target_os = "linux")]
fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

#[cfg(not(target_os = "linux"))]
fn is_gone(_error: &io::Error) -> bool {
    false
}

/// In one go: such a file is written whole for whoever reads it from its start.
#[cfg(unix)]
fn read_whole(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    use std::os::unix::fs::FileExt as _;

    loop {
        match file.read_at(buffer, 0) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// There are no such files on other systems.
#[cfg(not(unix))]
fn read_whole(_file: &File, _buffer: &mut [u8]) -> io::Result<usize> {
    Err(ErrorKind::Unsupported.into())
}

/// Reads a file that may be long, and is read but seldom.
pub(super) fn read_long(path: &Path) -> Result<String, Fault> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Fault::of)?;
    let read = file.take(LONGEST).read_to_end(&mut bytes);
    read.map_err(Fault::of)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Without the last line of what does not fit, which may be the half of a number.
fn whole_lines(text: &[u8]) -> &[u8] {
    if text.len() < LENGTH {
        return text;
    }
    let end = text.iter().rposition(|byte| *byte == b'\n');
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

fn shown(text: &[u8]) -> String {
    let text = text.trim_ascii();
    let start = String::from_utf8_lossy(text.get(..SHOWN).unwrap_or(text));
    match text.len() {
        0 => "nothing".to_owned(),
        1..=SHOWN => format!("{start:?}"),
        _ => format!("{start:?} and so on"),
    }
}

/// Reads a file that has but a number, or a line of them.
pub(super) fn parse_short<T>(file: &File, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let mut buffer = [0; 128];
    let length = read_whole(file, &mut buffer).ok()?;
    parse(str::from_utf8(buffer.get(..length)?).ok()?)
}

/// A number by itself.
pub(super) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// What stands behind a word at the start of a line: `12` for `inactive_file` of
/// `inactive_file 12`.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    let rest = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', ':', '\t']))?;
    Some(rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fixture::Fixture;

    #[test]
    fn file_is_read_anew_each_time_and_found_when_it_comes_later() {
        let fixture = Fixture::new();
        let mut file = KernelFile::new(fixture.path("a/number"));
        assert!(matches!(file.parse(number), Err(Fault::Absent)));
        fixture.write("a/number", "12\n");
        assert_eq!(file.parse(number).unwrap(), 12);
        fixture.write("a/number", "9\n");
        assert_eq!(file.parse(number).unwrap(), 9);
    }

    #[test]
    fn what_is_no_number_is_malformed_and_shown_in_part() {
        let fixture = Fixture::new();
        let mut file = KernelFile::new(fixture.path("number"));
        let long = "9".repeat(100);
        let long_shown = format!("\"{}\" and so on", "9".repeat(SHOWN));
        for (text, expected) in [
            ("", "nothing"),
            ("  \n", "nothing"),
            ("many\n", "\"many\""),
            ("-1\n", "\"-1\""),
            (&*long, &*long_shown),
        ] {
            fixture.write("number", text);
            let Err(Fault::Malformed(shown)) = file.parse(number) else {
                panic!("{text:?} is a number");
            };
            assert_eq!(shown, expected);
        }
        fixture.write_bytes("number", &[0xff, b'1']);
        assert!(matches!(file.parse(number), Err(Fault::Malformed(_))));
    }

    #[test]
    fn folder_is_unreadable() {
        let fixture = Fixture::new();
        fixture.write("a/b", "");
        let mut file = KernelFile::new(fixture.path("a"));
        assert!(matches!(file.parse(number), Err(Fault::Unreadable(_))));
    }

    #[test]
    fn number_that_is_cut_off_is_not_taken_for_a_whole_one() {
        let fixture = Fixture::new();
        let filler = "a".repeat(LENGTH - 3 - "key 12".len());
        fixture.write("long", &format!("b 7\n{}\nkey 12345\n", &filler[2..]));
        let mut file = KernelFile::new(fixture.path("long"));
        assert_eq!(
            file.parse(|text| number(field(text, "b")?)).unwrap(),
            7,
            "whole lines are read"
        );
        assert!(file.parse(|text| number(field(text, "key")?)).is_err());
    }

    #[test]
    fn field_is_found_by_its_whole_name() {
        let text = "total_inactive_file 9\ninactive_file_x 8\ninactive_file 7\nMemTotal:   12 kB\n";
        assert_eq!(field(text, "inactive_file"), Some("7"));
        assert_eq!(field(text, "MemTotal"), Some("12 kB"));
        assert_eq!(field(text, "active_file"), None);
    }
}
