//! Files that are watched. The clock is the real one where the system has to tell, which it does when
//! it does.

use crate::support::{Folder, Greeters, Kind, Maker, SECOND, Service, code, shown, until};
use plimsoll::{ConfigFiles, Holding as _, Plimsoll, config_files::watch::QUIET};
use std::{fs, sync::Arc, time::Duration};
use tokio::time::sleep;

fn watched(folder: &Folder) -> ConfigFiles {
    ConfigFiles::in_folder(folder.path("")).no_variables()
}

fn list(greeting: &str) -> String {
    format!("adapters:\n- name: a\n  greeting: {greeting}\n")
}

fn is_made_of(service: &Service, greeting: &str) -> bool {
    let values = service.plimsoll.configuration();
    shown(&values, "adapters.a.greeting").is_some_and(|(value, _)| value == greeting)
}

#[tokio::test]
async fn files_that_are_written_replaced_and_emptied_are_taken_up() {
    let folder = Folder::new("watch");
    folder.adapters(&list("one"));
    folder.config("{}\n");
    let service = Service::start(watched(&folder));
    folder.adapters(&list("two"));
    until(|| is_made_of(&service, "two")).await;
    // As editors do.
    fs::write(folder.path("new"), list("three")).unwrap();
    fs::rename(folder.path("new"), folder.path("adapters.yaml")).unwrap();
    until(|| is_made_of(&service, "three")).await;
    folder.config("fault_tolerance: {timeout: 7s}\n");
    let timeout = |adapters: &Greeters| adapters.get("a").map(|a| a.config().values().timeout);
    until(|| timeout(&service.adapters) == Some(Duration::from_secs(7))).await;
    folder.config("");
    until(|| timeout(&service.adapters) == Some(Duration::from_secs(2))).await;
    assert_eq!(service.greet("a").await, "three x");
}

#[cfg(unix)]
#[tokio::test]
async fn folder_that_a_link_leads_to_is_taken_up_when_the_link_is_swapped() {
    let folder = Folder::new("watch-link");
    for (data, greeting) in [("v1", "one"), ("v2", "two")] {
        fs::create_dir_all(folder.path(data)).unwrap();
        fs::write(folder.path(data).join("adapters.yaml"), list(greeting)).unwrap();
    }
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, folder.path(at)).unwrap();
    link("v1", "..data");
    link("..data/adapters.yaml", "adapters.yaml");
    let service = Service::start(watched(&folder));
    assert!(is_made_of(&service, "one"));
    link("v2", "..new");
    fs::rename(folder.path("..new"), folder.path("..data")).unwrap();
    until(|| is_made_of(&service, "two")).await;
}

#[tokio::test]
async fn change_between_loading_and_watching_is_taken_up() {
    let folder = Folder::new("watch-between");
    folder.adapters(&list("one"));
    let files = watched(&folder);
    let loaded = files.load_with::<Kind>(code()).unwrap();
    folder.adapters(&list("two"));
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let maker = Maker::default();
    let adapters = plimsoll
        .adapters(&loaded, move |spec| maker.make(spec))
        .unwrap();
    let service = Service {
        plimsoll,
        adapters,
        loaded,
        maker: Maker::default(),
    };
    until(|| is_made_of(&service, "two")).await;
    assert_eq!(service.greet("a").await, "two x");
}

#[tokio::test(start_paused = true)]
async fn first_look_is_for_what_has_changed_since_files_were_loaded() {
    let folder = Folder::new("watch-first");
    folder.adapters(&list("one"));
    let service = Service::start(watched(&folder));
    // Before the task that watches has run.
    folder.adapters(&list("two"));
    sleep(QUIET / 2).await;
    assert!(is_made_of(&service, "one"));
    // The clock stands still while a file is read.
    sleep(QUIET).await;
    assert!(is_made_of(&service, "two"));
}

#[tokio::test(start_paused = true)]
async fn file_that_is_empty_when_the_watch_begins_and_whole_soon_removes_nothing() {
    let folder = Folder::new("watch-half");
    folder.adapters(&list("one"));
    let service = Service::start(watched(&folder));
    assert_eq!(service.maker.made(), ["a"]);
    let adapter = Arc::downgrade(&service.adapter("a").bounded());
    folder.adapters("");
    sleep(QUIET * 9 / 10).await;
    assert_eq!(service.names(), ["a"]);
    folder.adapters(&list("one"));
    sleep(SECOND * 2).await;
    assert_eq!(service.names(), ["a"]);
    assert_eq!(service.maker.made(), [] as [&str; 0]);
    assert!(adapter.upgrade().is_some(), "it is the same as before");
    // One that stays empty says that there is none.
    folder.adapters("");
    service.reload().await;
    assert_eq!(service.names(), [] as [&str; 0]);
}

#[tokio::test]
async fn bad_file_changes_nothing_until_it_is_mended() {
    let folder = Folder::new("watch-bad");
    folder.adapters(&list("one"));
    let service = Service::start(watched(&folder));
    service.maker.made();
    // At once, since one that is read half written is another one.
    let put = |greeting: &str| {
        fs::write(folder.path("new"), list(greeting)).unwrap();
        fs::rename(folder.path("new"), folder.path("adapters.yaml")).unwrap();
    };
    put("nothing");
    until(|| !service.maker.made.lock().unwrap().is_empty()).await;
    assert!(is_made_of(&service, "one"));
    assert_eq!(service.greet("a").await, "one x");
    put("two");
    until(|| is_made_of(&service, "two")).await;
    assert_eq!(service.maker.made(), ["a", "a"]);
}

#[tokio::test]
async fn files_that_are_not_watched_are_read_when_asked_for_alone() {
    let folder = Folder::new("watch-not");
    folder.adapters(&list("one"));
    let service = Service::start(folder.files());
    assert!(service.plimsoll.lifecycle().tasks().is_empty());
    folder.adapters(&list("two"));
    assert!(is_made_of(&service, "one"));
    service.reload().await;
    assert!(is_made_of(&service, "two"));
}
