//! Tells when files have changed.

use notify::{
    EventKind as Kind, RecommendedWatcher, RecursiveMode, Watcher as _, event::ModifyKind as Modify,
};
use std::{
    collections::BTreeSet,
    path::{self, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// How long files must have been left alone before a change is told of, so that an editor that
/// writes a file in pieces is done.
pub const QUIET: Duration = Duration::from_millis(100);

/// A file that never rests is told of this often.
const LONGEST: Duration = Duration::from_secs(1);

/// How often a change is told of where the system does not say that there is one.
const POLL: Duration = Duration::from_secs(5);

/// Watches the folders of some files, since editors and orchestrators put new files in the place
/// of old ones. Where a file or its folder is a link, what it leads to is not watched.
///
/// What is told of first is no change: files may have become others between being read and being
/// watched.
///
/// Where the system cannot watch them (there are too few watches, or the folder is not there), a
/// warning says so, and a change is told of every 5 seconds whether there was one or not, until
/// they can be watched.
#[derive(Debug)]
pub struct Watcher {
    folders: BTreeSet<PathBuf>,
    changed: mpsc::Receiver<()>,
    /// None where the system cannot watch.
    watcher: Option<RecommendedWatcher>,
    /// Set when a folder is watched no more, since it is another now.
    lost: Arc<AtomicBool>,
    /// There was a change that nobody was told of yet, or may have been before the watch began.
    pending: bool,
    /// When a change is told of where the system cannot watch.
    poll: Option<Instant>,
}

impl Watcher {
    /// Begins to watch.
    #[must_use]
    pub fn new<'a>(files: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut watcher = Self {
            folders: files.into_iter().map(folder).collect(),
            // Nobody sends.
            changed: mpsc::channel(1).1,
            watcher: None,
            lost: Arc::default(),
            pending: true,
            poll: None,
        };
        if let Err(error) = watcher.watch() {
            warn(&error);
        }
        watcher
    }

    /// Waits for the next change, and until the files were left alone for a tenth of a second. It
    /// may be a change of something else in the same folder. The first time, it waits for no change.
    ///
    /// # Cancel safety
    ///
    /// No change is missed if this is dropped while it waits.
    pub async fn changed(&mut self) {
        if self.watcher.is_none() {
            return self.polled().await;
        }
        if !self.pending {
            // None says that the system watches no more.
            self.pending = self.changed.recv().await.is_some();
        }
        let longest = Instant::now() + LONGEST;
        while self.pending {
            let quiet = (Instant::now() + QUIET).min(longest);
            tokio::select! {
                biased;
                () = sleep_until(quiet) => break,
                more = self.changed.recv() => if more.is_none() {
                    break;
                }
            }
        }
        self.pending = false;
        // Before anybody reads the files, so that no change comes between.
        if (self.lost.load(Ordering::Acquire) || self.changed.is_closed())
            && let Err(error) = self.watch()
        {
            warn(&error);
        }
    }

    async fn polled(&mut self) {
        let wait = if self.pending { QUIET } else { POLL };
        let next = *self.poll.get_or_insert_with(|| Instant::now() + wait);
        sleep_until(next).await;
        (self.poll, self.pending) = (None, false);
        // It was told of already if this fails.
        let _ = self.watch();
    }

    /// Begins to watch anew.
    fn watch(&mut self) -> Result<(), notify::Error> {
        self.watcher = None;
        // One that is not taken yet stands for all that come after it.
        let (tell, changed) = mpsc::channel(1);
        let lost = Arc::new(AtomicBool::new(false));
        let watcher = watch(&self.folders, tell, lost.clone())?;
        (self.changed, self.lost) = (changed, lost);
        self.watcher = Some(watcher);
        Ok(())
    }
}

fn warn(error: &notify::Error) {
    tracing::warn!(
        %error,
        every = ?POLL,
        "the configuration cannot be watched, and is read again from time to time"
    );
}

fn watch(
    folders: &BTreeSet<PathBuf>,
    tell: mpsc::Sender<()>,
    lost: Arc<AtomicBool>,
) -> Result<RecommendedWatcher, notify::Error> {
    let watched = folders.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // An error may hide anything.
        let (change, gone) = event.map_or((true, true), |event| {
            let moved = matches!(event.kind, Kind::Remove(_) | Kind::Modify(Modify::Name(_)));
            let gone = moved && event.paths.iter().any(|path| watched.contains(path));
            // That somebody read a file, which we do ourselves, is no change.
            (!event.kind.is_access(), gone)
        });
        if gone {
            lost.store(true, Ordering::Release);
        }
        if change {
            // Full: somebody will look anyway.
            let _ = tell.try_send(());
        }
    })?;
    for folder in folders {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// The folder a file is in, as events name it.
fn folder(file: &Path) -> PathBuf {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::env;
    use tokio::time::{sleep, timeout};

    /// A watcher that is told of changes by hand.
    fn by_hand() -> (mpsc::Sender<()>, Watcher) {
        let mut watcher = Watcher::new([&*env::temp_dir().join("plimsoll.yaml")]);
        let (tell, changed) = mpsc::channel(1);
        watcher.changed = changed;
        // Nobody else tells.
        watcher.watcher = Some(notify::recommended_watcher(|_| {}).unwrap());
        (tell, watcher)
    }

    async fn told_after(watcher: &mut Watcher) -> Duration {
        let start = Instant::now();
        watcher.changed().await;
        Instant::now().saturating_duration_since(start)
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_when_files_were_left_alone_for_a_tenth_of_a_second() {
        let (tell, mut watcher) = by_hand();
        tell.send(()).await.unwrap();
        assert_eq!(told_after(&mut watcher).await.as_millis(), 100);
        tokio::spawn(async move {
            for _ in 0..3 {
                tell.send(()).await.unwrap();
                sleep(Duration::from_millis(90)).await;
            }
            sleep(LONGEST * 2).await;
        });
        assert_eq!(told_after(&mut watcher).await.as_millis(), 2 * 90 + 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_begins_by_telling_once_that_files_may_have_changed() {
        let (tell, mut watcher) = by_hand();
        // However often the wait is dropped.
        for _ in 0..3 {
            let short = timeout(QUIET / 2, watcher.changed()).await;
            assert!(short.is_err(), "the files were not left alone");
        }
        assert_eq!(told_after(&mut watcher).await.as_millis(), 100);
        let long = timeout(LONGEST * 10, watcher.changed()).await;
        assert!(long.is_err(), "nothing has changed");
        tell.send(()).await.unwrap();
        assert_eq!(told_after(&mut watcher).await.as_millis(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_being_written_when_the_watch_begins_is_left_alone_first() {
        let (tell, mut watcher) = by_hand();
        tokio::spawn(async move {
            sleep(Duration::from_millis(60)).await;
            tell.send(()).await.unwrap();
            sleep(LONGEST * 2).await;
        });
        assert_eq!(told_after(&mut watcher).await.as_millis(), 60 + 100);
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_never_rest_are_told_of_every_second() {
        let (tell, mut watcher) = by_hand();
        tokio::spawn(async move {
            while tell.send(()).await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
        });
        for _ in 0..3 {
            let after = told_after(&mut watcher).await.as_millis();
            assert!((1_000..=1_050).contains(&after), "{after}ms");
        }
    }
}
