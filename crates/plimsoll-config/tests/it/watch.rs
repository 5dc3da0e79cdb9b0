//! Watching real files. Nothing here sleeps: a change is awaited, and its absence is a short look.

use crate::files::Folder;
use plimsoll_config::watch::{QUIET, Watcher};
use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};
use tokio::time::{Instant, timeout};

/// Much longer than anything takes, for machines that are busy.
const GENEROUS: Duration = Duration::from_secs(60);

async fn told(watcher: &mut Watcher) {
    let told = timeout(GENEROUS, watcher.changed()).await;
    assert!(told.is_ok(), "a change was not told of");
}

/// Whether no change is told of, in a time in which it would be.
async fn quiet(watcher: &mut Watcher) -> bool {
    timeout(QUIET * 4, watcher.changed()).await.is_err()
}

/// Whether it comes to rest. Where the machine is busy, the system may tell of one write in parts.
async fn rests(watcher: &mut Watcher) -> bool {
    for _ in 0..4 {
        if quiet(watcher).await {
            return true;
        }
    }
    false
}

/// A watcher that has told of what there may have been before it.
async fn watcher(path: &Path) -> Watcher {
    let mut watcher = Watcher::new([path]);
    told(&mut watcher).await;
    watcher
}

#[tokio::test]
async fn a_file_that_is_written_in_place_has_changed() {
    let folder = Folder::new("in-place");
    let path = folder.write("config.yaml", "a: 1");
    let mut watcher = watcher(&path).await;
    assert!(rests(&mut watcher).await);
    fs::write(&path, "a: 2").unwrap();
    told(&mut watcher).await;
    assert!(rests(&mut watcher).await);
    // Reading it is no change.
    fs::read(&path).unwrap();
    assert!(quiet(&mut watcher).await);
}

#[tokio::test]
async fn a_file_that_takes_the_place_of_another_has_changed() {
    let folder = Folder::new("rename");
    let path = folder.write("config.yaml", "a: 1");
    let mut watcher = watcher(&path).await;
    for text in ["a: 2", "a: 3"] {
        let new = folder.write("config.yaml.new", text);
        fs::rename(new, &path).unwrap();
        told(&mut watcher).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[tokio::test]
async fn a_folder_of_links_that_are_swapped_has_changed() {
    let folder = Folder::new("links");
    for version in ["..1", "..2", "..3"] {
        fs::create_dir(folder.path(version)).unwrap();
        fs::write(folder.path(version).join("config.yaml"), version).unwrap();
    }
    symlink("..1", folder.path("..data")).unwrap();
    let path = folder.path("config.yaml");
    symlink("..data/config.yaml", &path).unwrap();
    let mut watcher = watcher(&path).await;
    for version in ["..2", "..3"] {
        symlink(version, folder.path("..data_tmp")).unwrap();
        fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
        told(&mut watcher).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), version);
    }
}

#[tokio::test]
async fn a_file_that_goes_and_comes_back_has_changed_each_time() {
    let folder = Folder::new("again");
    let path = folder.write("config.yaml", "a: 1");
    let mut watcher = watcher(&path).await;
    fs::remove_file(&path).unwrap();
    told(&mut watcher).await;
    fs::write(&path, "a: 2").unwrap();
    told(&mut watcher).await;
    assert!(rests(&mut watcher).await);
}

#[tokio::test]
async fn quick_writes_are_one_change() {
    let folder = Folder::new("quick");
    let path = folder.write("config.yaml", "a: 1");
    let mut watcher = watcher(&path).await;
    for write in 0..50 {
        fs::write(&path, format!("a: {write}")).unwrap();
    }
    told(&mut watcher).await;
    assert!(rests(&mut watcher).await);
}

#[tokio::test]
async fn a_folder_that_is_made_again_is_watched_again() {
    let folder = Folder::new("folder");
    let inner = folder.path("inner");
    fs::create_dir(&inner).unwrap();
    let path = inner.join("config.yaml");
    fs::write(&path, "a: 1").unwrap();
    let mut watcher = watcher(&path).await;
    // Another is in its place at once.
    fs::rename(&inner, folder.path("old")).unwrap();
    fs::create_dir(&inner).unwrap();
    told(&mut watcher).await;
    assert!(rests(&mut watcher).await);
    fs::write(&path, "a: 2").unwrap();
    told(&mut watcher).await;
    // It is there again after a while only.
    fs::remove_dir_all(&inner).unwrap();
    told(&mut watcher).await;
    fs::create_dir(&inner).unwrap();
    fs::write(&path, "a: 3").unwrap();
    told(&mut watcher).await;
    assert!(rests(&mut watcher).await);
    fs::write(&path, "a: 4").unwrap();
    // Sooner than by looking every 5 seconds.
    let told = timeout(Duration::from_secs(4), watcher.changed()).await;
    assert!(told.is_ok(), "the folder is not watched again");
}

#[tokio::test]
async fn a_wait_that_is_dropped_misses_no_change() {
    let folder = Folder::new("dropped");
    let path = folder.write("config.yaml", "a: 1");
    let mut watcher = watcher(&path).await;
    fs::write(&path, "a: 2").unwrap();
    // Dropped while the file is not known to rest.
    assert!(timeout(QUIET / 2, watcher.changed()).await.is_err());
    told(&mut watcher).await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_not_there_is_looked_at_every_five_seconds() {
    let folder = Folder::new("nowhere");
    let path = folder.path("nowhere/config.yaml");
    let mut watcher = Watcher::new([&*path]);
    let start = Instant::now();
    for times in 0..4 {
        watcher.changed().await;
        let passed = Instant::now().saturating_duration_since(start);
        // The first time, there may have been a change before.
        assert_eq!(passed, QUIET + Duration::from_secs(5) * times);
    }
    // However often the wait is dropped.
    for _ in 0..4 {
        assert!(
            timeout(Duration::from_secs(1), watcher.changed())
                .await
                .is_err()
        );
    }
    assert!(
        timeout(Duration::from_secs(2), watcher.changed())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_file_without_a_folder_is_in_the_one_of_the_process() {
    // Which there is: it is watched, and nothing changes there.
    let mut watcher = watcher(Path::new("Cargo.toml")).await;
    assert!(rests(&mut watcher).await);
    assert!(!format!("{watcher:?}").contains("watcher: None"));
}
