//! Which file is mapped where, so that addresses mean something to others.

use object::{
    Endianness, ReadCache, elf,
    read::elf::{FileHeader as _, ProgramHeader as _},
};
use std::{
    fmt::Write as _,
    fs::{self, File},
    ops::Range,
    path::Path,
};

#[cfg(target_pointer_width = "64")]
type Header = elf::FileHeader64<Endianness>;
#[cfg(not(target_pointer_width = "64"))]
type Header = elf::FileHeader32<Endianness>;

/// What a file that was replaced while it is mapped has behind its name.
const DELETED: &str = " (deleted)";

/// Part of a file, mapped to be executed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Mapping {
    pub(super) addresses: Range<usize>,
    /// Where in the file it begins.
    pub(super) offset: u64,
    /// `[vdso]`, say, where it is none.
    pub(super) file: String,
}

/// What is mapped to be executed, in the order of addresses. Nothing where the system does not say.
pub(super) fn executable() -> Vec<Mapping> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(parse).collect()
}

/// `55e0c8a6d000-55e0c8a9c000 r-xp 0000a000 fd:00 1316 /usr/bin/service`
fn parse(line: &str) -> Option<Mapping> {
    // The name comes last, and may have spaces.
    let mut fields = line.splitn(6, ' ');
    let mut next = || fields.next();
    let (start, limit) = next()?.split_once('-')?;
    let (modes, offset, _device, _inode) = (next()?, next()?, next()?, next()?);
    let number = |digits| usize::from_str_radix(digits, 16).ok();
    if !modes.contains('x') {
        return None;
    }
    Some(Mapping {
        addresses: number(start)?..number(limit)?,
        offset: u64::from_str_radix(offset, 16).ok()?,
        file: next()?.trim_start().to_owned(),
    })
}

impl Mapping {
    /// The name of its file, or of the one that was there when it was mapped.
    pub(super) fn file_name(&self) -> &str {
        self.file.strip_suffix(DELETED).unwrap_or(&self.file)
    }

    /// By which its symbols can be found elsewhere, if it has such an id and can be read.
    pub(super) fn build_id(&self) -> Option<String> {
        // The program is there under this name even where its file was replaced, by the version after
        // it, say, which has another id.
        let program = Path::new("/proc/self/exe");
        let file = match fs::read_link(program) {
            Ok(name) if name == Path::new(&self.file) => File::open(program),
            _ => File::open(&self.file),
        };
        build_id(file.ok()?)
    }
}

/// The note that the linker has left.
fn build_id(file: File) -> Option<String> {
    // Little of it is read.
    let file = ReadCache::new(file);
    let header = Header::parse(&file).ok()?;
    let endian = header.endian().ok()?;
    for part in header.program_headers(endian, &file).ok()? {
        let Some(mut notes) = part.notes(endian, &file).ok()? else {
            continue;
        };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
                let mut id = String::new();
                for byte in note.desc() {
                    let _ = write!(id, "{byte:02x}");
                }
                return Some(id);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_executed_is_a_mapping() {
        let code = "7f0a1000-7f0a3000 r-xp 0000a000 fd:00 1316       /srv/a service (deleted)";
        let mapping = parse(code).unwrap();
        assert_eq!(mapping.addresses, 0x7f0a_1000..0x7f0a_3000);
        assert_eq!(mapping.offset, 0xa000);
        assert_eq!(mapping.file, "/srv/a service (deleted)");
        assert_eq!(mapping.file_name(), "/srv/a service");
        for other in [
            "7f0a1000-7f0a3000 r--p 0000a000 fd:00 1316       /srv/a",
            "7f0a1000-7f0a3000 r-xp 00000000 00:00 0 ",
            "7f0a1000 r-xp 00000000 00:00 0 /srv/a",
            "",
        ] {
            let named = parse(other).filter(|it| !it.file.is_empty());
            assert_eq!(named, None, "{other:?}");
        }
    }

    #[test]
    fn what_is_no_image_has_no_build_id() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        assert_eq!(build_id(File::open(manifest).unwrap()), None);
    }
}
