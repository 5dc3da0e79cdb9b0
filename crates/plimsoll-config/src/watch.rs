//! Tells when files have changed.

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

/// How long files must have been left alone before a change is told of, so that an editor that
/// writes a file in pieces is done.
pub const QUIET: Duration = Duration::from_millis(100);

/// A file that never rests is told of this often.
const LONGEST: Duration = Duration::from_secs(1);

/// How often a change is told of where the system does not say that there is one.
const POLL: Duration = Duration::from_secs(5);

/// Watches the folders of some files, since editors and orchestrators put new files in the place
/// of old ones.
///
/// Where the system cannot watch them (there are too few watches, or the folder is not there), a
/// warning says so, and a change is told of every 5 seconds whether there was one or not.
#[derive(Debug)]
pub struct Watcher {
    changed: mpsc::Receiver<()>,
    /// None where the system cannot watch.
    watcher: Option<RecommendedWatcher>,
}

impl Watcher {
    /// Begins to watch.
    #[must_use]
    pub fn new<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        // One that is not taken yet stands for all that come after it.
        let (tell, changed) = mpsc::channel(1);
        let folders: BTreeSet<PathBuf> = files.into_iter().map(folder).collect();
        let watcher = watch(&folders, tell)
            .inspect_err(|error| {
                tracing::warn!(
                    %error,
                    every = ?POLL,
                    "the configuration cannot be watched, and is read again from time to time"
                );
            })
            .ok();
        Self { changed, watcher }
    }

    /// Waits for the next change, and until the files were left alone for a tenth of a second. It
    /// may be a change of something else in the same folder.
    ///
    /// # Cancel safety
    ///
    /// A change may be missed if this is dropped while it waits for the files to be left alone.
    pub async fn changed(&mut self) {
        if self.watcher.is_none() || self.changed.recv().await.is_none() {
            let mut ticks = interval(POLL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.tick().await;
            ticks.tick().await;
            return;
        }
        let longest = Instant::now() + LONGEST;
        loop {
            let quiet = (Instant::now() + QUIET).min(longest);
            tokio::select! {
                biased;
                () = sleep_until(quiet) => return,
                more = self.changed.recv() => if more.is_none() {
                    return;
                }
            }
        }
    }
}

fn watch(
    folders: &BTreeSet<PathBuf>,
    tell: mpsc::Sender<()>,
) -> Result<RecommendedWatcher, notify::Error> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // That somebody read a file, which we do ourselves, is no change. An error may hide one.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        // Full: somebody will look anyway.
        let _ = tell.try_send(());
    })?;
    for folder in folders {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// The folder a file is in.
fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
