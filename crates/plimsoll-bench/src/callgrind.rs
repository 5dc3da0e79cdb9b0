//! Instructions per operation, counted by valgrind's callgrind.
//!
//! The binary runs itself under callgrind, which collects only while [`window`] is on the stack,
//! and writes one dump each time it is left. This needs neither client requests nor `unsafe`.

use crate::{Error, Table};
use std::{
    env, fs,
    hint::black_box,
    io::ErrorKind,
    path::Path,
    process::{Command, Stdio},
};

/// How many operations are counted in a case.
pub const OPS: u64 = 5_000;

/// How many operations go before, uncounted.
pub const WARM_UP: u64 = 1_000;

/// The name of [`window`] as callgrind knows it. Its dumps do not work with patterns.
const WINDOW: &str = concat!(module_path!(), "::window");

/// Runs `ops` operations, counted if the process runs under callgrind.
#[inline(never)]
pub fn window(op: &mut dyn FnMut(u64), ops: u64) {
    op(black_box(ops));
    // Keeps the call above from becoming a jump, which would end the window early.
    black_box(());
}

/// Runs this program again under callgrind, with `args`, and returns a table of its cases.
///
/// The child writes one line for each case: its name.
///
/// # Errors
///
/// When valgrind is not installed, or the child fails.
pub fn run_child(args: &[String]) -> Result<Table, Error> {
    let dir = env::temp_dir().join(format!("plimsoll-callgrind-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let counted = count(&dir, args);
    fs::remove_dir_all(&dir)?;
    let mut table = Table::new(&["case", "instructions/op"]);
    for (case, instructions) in counted? {
        table.row([case, format!("{:.1}", instructions as f64 / OPS as f64)]);
    }
    Ok(table)
}

fn count(dir: &Path, args: &[String]) -> Result<Vec<(String, u64)>, Error> {
    let out = dir.join("out");
    let child = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--toggle-collect={WINDOW}"))
        .arg(format!("--dump-after={WINDOW}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env::current_exe()?)
        .args(args)
        .stderr(Stdio::piped())
        .output();
    let child = child.map_err(|error| match error.kind() {
        ErrorKind::NotFound => "valgrind is not installed".into(),
        _ => Error::from(error),
    })?;
    if !child.status.success() {
        return Err(String::from_utf8_lossy(&child.stderr).into());
    }
    let cases = String::from_utf8(child.stdout)?;
    let counted = cases.lines().enumerate().map(|(index, case)| {
        let dump = out.with_extension((index + 1).to_string());
        let dump = fs::read_to_string(dump).map_err(|_| "callgrind has not found the window")?;
        let total = dump.lines().find_map(|line| line.strip_prefix("totals: "));
        let total = total.ok_or("a dump of callgrind has no totals")?;
        Ok((case.to_owned(), total.trim().parse()?))
    });
    counted.collect()
}
