//! Waits for what the kernel or the service manager has to say, by descriptors.

use super::stall::{Bell, Woken};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fs::OFlags,
    io::{Errno, read, write},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt as _, OpenOptionsExt as _},
            net::UnixStream,
        },
    },
    path::Path,
    time::Duration,
};

pub(super) fn nonblocking(options: &mut OpenOptions) {
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
}

/// Somebody who says so when there is a stall.
#[derive(Debug)]
pub(super) struct Told {
    descriptor: OwnedFd,
    /// The kernel's file, which is never read from; otherwise what comes is thrown away.
    kernel: bool,
}

impl Told {
    /// A file of the kernel's with a trigger.
    pub(super) fn by_kernel(file: File) -> io::Result<Self> {
        Ok(Self {
            descriptor: file.into(),
            kernel: true,
        })
    }

    /// What systemd's protocol names, after it was told what to look for. In a FIFO it may hear its
    /// own words, and wake once for nothing.
    pub(super) fn open(path: &Path, words: &[u8]) -> io::Result<Self> {
        let kind = fs::metadata(path)?.file_type();
        if kind.is_socket() {
            let mut socket = UnixStream::connect(path)?;
            socket.set_nonblocking(true)?;
            socket.write_all(words)?;
            return Ok(Self {
                descriptor: socket.into(),
                kernel: false,
            });
        }
        let mut options = OpenOptions::new();
        // Who can write to a FIFO as well keeps it open when others come and go.
        let both = kind.is_fifo() || !words.is_empty();
        nonblocking(options.read(true).write(both));
        let mut file = options.open(path)?;
        if !words.is_empty() {
            file.write_all(words)?;
        }
        Ok(Self {
            descriptor: file.into(),
            kernel: kind.is_file(),
        })
    }

    /// None if it was for nothing. An error, in words, if nobody will say anything there any more.
    pub(super) fn wait(&self, bell: &Bell, left: Duration) -> Result<Option<Woken>, String> {
        let Some(event) = &bell.event else {
            return Ok(Some(bell.wait(left)));
        };
        let wanted = match self.kernel {
            true => PollFlags::PRI,
            false => PollFlags::IN,
        };
        let mut polled = [
            PollFd::new(&self.descriptor, wanted),
            PollFd::new(&event.0, PollFlags::IN),
        ];
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut polled, timeout.as_ref()) {
            Ok(0) => return Ok(Some(Woken::TimedOut)),
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        }
        let seen = polled.each_ref().map(PollFd::revents);
        if seen[0].intersects(PollFlags::ERR | PollFlags::NVAL) {
            return Err("it is out of order".to_owned());
        }
        if seen[0].contains(wanted) {
            if !self.kernel {
                self.discard()?;
            }
            return Ok(Some(Woken::Stall));
        }
        if seen[0].contains(PollFlags::HUP) {
            return Err("it was closed".to_owned());
        }
        Ok(bell.was_rung())
    }

    /// Throws away what was said. A part of it is enough: it wakes again.
    fn discard(&self) -> Result<(), String> {
        match read(&self.descriptor, &mut [0_u8; 4 << 10]) {
            Ok(0) => Err("it was closed".to_owned()),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A bell that can be waited for beside files.
#[derive(Debug)]
pub(super) struct Event(OwnedFd);

impl Event {
    pub(super) fn new() -> Option<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        event.ok().map(Self)
    }

    pub(super) fn raise(&self) {
        // It fails when it was raised 2⁶⁴ times, and nobody looked.
        let _ = write(&self.0, &1_u64.to_ne_bytes());
    }

    pub(super) fn lower(&self) {
        let _ = read(&self.0, &mut [0_u8; 8]);
    }
}
