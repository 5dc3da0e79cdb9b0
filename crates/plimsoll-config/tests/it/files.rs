//! Files as they are found on a disk.

use crate::support::told;
use plimsoll_config::{File, LoadError};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{self, Command},
};

/// A folder that is removed in the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.join(format!("{name}-{}", process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The only problem of a file, without its name.
#[track_caller]
fn refused(path: &Path) -> String {
    let error: LoadError = File::read(path).unwrap_err();
    let told = told(&error);
    let [problem] = &told[..] else {
        panic!("{told:?} is not one problem");
    };
    let name = format!("{}", path.display());
    problem.strip_prefix(&name).unwrap().to_owned()
}

#[test]
fn a_file_that_is_not_there_is_empty_only_where_it_may_be_missing() {
    let folder = Folder::new("missing");
    let path = folder.path("config.yaml");
    assert_eq!(
        refused(&path),
        ": cannot be read: No such file or directory (os error 2)"
    );
    assert_eq!(File::read_if_present(&path).unwrap().text(), "");
    folder.write("config.yaml", "a: 1");
    assert_eq!(File::read_if_present(&path).unwrap().text(), "a: 1");
    // A link to nothing is there, and so is whatever a file is taken for a folder in.
    let link = folder.path("link.yaml");
    symlink(folder.path("nothing"), &link).unwrap();
    assert!(File::read_if_present(&link).is_err());
    assert!(File::read_if_present(&path.join("x")).is_err());
}

#[test]
fn what_is_no_ordinary_file_is_refused_at_once() {
    let folder = Folder::new("odd");
    assert_eq!(refused(&folder.0), ": is no ordinary file");
    assert!(File::read_if_present(&folder.0).is_err());
    // Reading a pipe that nobody writes to would wait for ever.
    let pipe = folder.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    if made.is_ok_and(|status| status.success()) {
        assert_eq!(refused(&pipe), ": is no ordinary file");
    }
    assert_eq!(refused(Path::new("/dev/zero")), ": is no ordinary file");
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let folder = Folder::new("unreadable");
    let path = folder.write("config.yaml", "a: 1");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything.
    if fs::read(&path).is_err() {
        let expected = ": cannot be read: Permission denied (os error 13)";
        assert_eq!(refused(&path), expected);
    }
    // A file of the kernel that opens, but fails to be read.
    let memory = Path::new("/proc/self/mem");
    if memory.exists() {
        let problem = refused(memory);
        assert!(problem.starts_with(": cannot be read: "), "{problem}");
    }
}

#[test]
fn a_file_is_utf_8() {
    let folder = Folder::new("utf-8");
    let path = folder.write("config.yaml", b"a: 1\nb: \xc3\x28\n");
    assert_eq!(refused(&path), ": is not UTF-8 in line 2");
    let path = folder.write("config.yaml", b"\xff\xfea\0:\0");
    assert_eq!(refused(&path), ": is not UTF-8 in line 1");
    let path = folder.write("config.yaml", "\u{feff}a: ö\n");
    assert_eq!(File::read(&path).unwrap().text(), "\u{feff}a: ö\n");
}

#[test]
fn a_file_has_four_mebibytes_and_no_more() {
    let folder = Folder::new("large");
    let most = 4 << 20;
    let comment = |bytes: usize| "#".repeat(bytes);
    let path = folder.write("config.yaml", comment(most));
    assert!(File::read(&path).is_ok());
    for text in [
        comment(most + 1),
        comment(5 << 20),
        // What comes after what is looked at must not be passed over, nor cut a character.
        format!("\u{feff}{}", comment(most)),
        format!("{}ö", comment(most)),
    ] {
        let path = folder.write("config.yaml", &text);
        assert_eq!(refused(&path), ": is larger than 4 MiB");
        let error = File::parse("x", &text).unwrap_err();
        assert_eq!(told(&error), ["x: is larger than 4 MiB"]);
    }
}

#[test]
fn a_file_tells_where_it_has_a_key() {
    let file = File::parse("x", "a: 1\n\"b\": {c: 2}\n").unwrap();
    let place = |key| file.place_of(key).map(|source| source.to_string());
    assert_eq!(place("b").as_deref(), Some("x:2:1"));
    assert_eq!((place("c"), File::empty().place_of("a")), (None, None));
}
