//! CPUs: pinning to one, and what the process has used of them.

use crate::Error;
use std::{fs, io, time::Duration};

/// Pins the calling thread to the `index`-th CPU of the process.
///
/// # Errors
///
/// When there is no such CPU, or the system refuses.
pub fn pin(index: usize) -> Result<(), Error> {
    let cpu = id(index)?;
    if core_affinity::set_for_current(cpu) {
        Ok(())
    } else {
        Err(format!("cannot pin a thread to CPU {}", cpu.id).into())
    }
}

/// The number by which the system knows the `index`-th CPU of the process.
///
/// # Errors
///
/// When there is no such CPU.
pub fn number(index: usize) -> Result<usize, Error> {
    id(index).map(|cpu| cpu.id)
}

/// How many CPUs the process may use.
#[must_use]
pub fn count() -> usize {
    core_affinity::get_core_ids().map_or(0, |cpus| cpus.len())
}

fn id(index: usize) -> Result<core_affinity::CoreId, Error> {
    let cpus = core_affinity::get_core_ids().unwrap_or_default();
    let cpu = cpus.get(index).copied();
    cpu.ok_or_else(|| format!("needs {} CPUs, there are {}", index + 1, cpus.len()).into())
}

/// The CPU time that all living threads of this process have used.
///
/// # Errors
///
/// Where the kernel does not tell, or not in `/proc`.
pub fn time_used() -> io::Result<Duration> {
    time_used_by(std::process::id())
}

/// The CPU time that all living threads of a process have used.
///
/// # Errors
///
/// When there is no such process; where the kernel does not tell, or not in `/proc`.
pub fn time_used_by(process: u32) -> io::Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end in between.
        let Ok(stat) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let on_cpu = stat.split_whitespace().next();
        nanos += on_cpu.and_then(|n| n.parse().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}
