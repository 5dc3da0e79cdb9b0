//! The end of a service.

use crate::support::{Folder, Kind, Maker, Service, code, reason, registered, until};
use plimsoll::{ConfigFiles, Holding, Plimsoll, RejectReason, StopReason};
use plimsoll_core::test_util::{alive_tasks, assert_tasks_return_to};
use std::sync::Arc;

const ONE: &str = "adapters:\n- name: a\n  greeting: hi\n";

async fn stop(plimsoll: &Plimsoll) {
    let (lifecycle, registry) = (plimsoll.lifecycle(), plimsoll.registry());
    let _ = lifecycle.stop(registry, StopReason::Terminate).await;
}

fn watched(folder: &Folder) -> ConfigFiles {
    ConfigFiles::in_folder(folder.path("")).no_variables()
}

#[tokio::test]
async fn dropping_the_service_frees_everything() {
    let folder = Folder::new("ends-dropped");
    folder.adapters(ONE);
    let start = alive_tasks();
    let service = Service::start(watched(&folder));
    let coded = service
        .plimsoll
        .register_adapter(crate::support::greeter("coded"));
    let coded = Arc::downgrade(&coded.unwrap().bounded());
    let listed = Arc::downgrade(&service.adapter("a").bounded());
    let tasks = "the sweeper, and who watches the files and the process";
    assert_eq!(alive_tasks(), start + 3, "{tasks}");
    let Service {
        plimsoll,
        adapters,
        loaded,
        maker,
    } = service;
    let made = Arc::downgrade(&maker.made);
    drop((adapters, loaded, maker));
    assert!(coded.upgrade().is_none(), "nobody held it");
    assert!(listed.upgrade().is_some());
    drop(plimsoll);
    // The first look at the files may be under way on its thread.
    until(|| listed.strong_count() == 0).await;
    // The sweeper ends once the monitor's threads have let go of the registry.
    until(|| alive_tasks() <= start).await;
    assert_eq!(made.strong_count(), 0, "what made it is gone");
}

#[tokio::test]
async fn settings_can_start_another_service_once_the_first_is_gone() {
    let folder = Folder::new("ends-again");
    folder.adapters(ONE);
    let Service {
        plimsoll,
        adapters,
        loaded,
        maker,
    } = Service::start(folder.files());
    let old = Arc::downgrade(&adapters.get("a").unwrap().bounded());
    drop((plimsoll, adapters));
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let adapters = plimsoll.adapters(&loaded, move |spec| maker.make(spec));
    assert_eq!(adapters.unwrap().len(), 1);
    assert!(old.upgrade().is_none());
    assert_eq!(registered(&plimsoll), ["a"]);
}

#[tokio::test]
async fn stop_ends_the_watch_and_closes_the_adapters() {
    let folder = Folder::new("ends-stop");
    folder.adapters(ONE);
    let start = alive_tasks();
    let service = Service::start(watched(&folder));
    let tasks = service.plimsoll.lifecycle().tasks();
    assert!(
        tasks
            .iter()
            .any(|task| task.name.as_str() == "config-watch")
    );
    stop(&service.plimsoll).await;
    assert_eq!(service.plimsoll.lifecycle().task_count(), 0);
    // The sweeper is there until the registry is gone.
    assert_tasks_return_to(start + 1).await;
    let error = service.adapters.call("a", "x".into()).await.unwrap_err();
    assert_eq!(reason(&error), RejectReason::ShuttingDown);
}

#[tokio::test]
async fn reload_of_a_service_that_has_stopped_makes_no_adapter() {
    let folder = Folder::new("ends-then-reload");
    folder.adapters(ONE);
    let service = Service::start(folder.files());
    stop(&service.plimsoll).await;
    for list in [
        "adapters:\n- name: a\n  greeting: another\n",
        "adapters:\n- name: a\n  greeting: hi\n- name: b\n",
    ] {
        folder.adapters(list);
        let told = service.refusal().await;
        assert!(told.contains("the service is stopping"), "{told}");
        assert_eq!(service.names(), ["a"]);
        let error = service.adapters.call("a", "x".into()).await.unwrap_err();
        assert_eq!(reason(&error), RejectReason::ShuttingDown);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_during_a_reload_leaves_no_adapter_that_takes_calls() {
    let folder = Folder::new("ends-during-reload");
    for (n, list) in [
        // In the place of another, and new.
        "adapters:\n- name: a\n  greeting: another\n",
        "adapters:\n- name: a\n  greeting: hi\n- name: b\n",
    ]
    .into_iter()
    .enumerate()
    {
        folder.adapters(ONE);
        let service = Service::start(folder.files());
        service.maker.made();
        let go = service.maker.hold();
        folder.adapters(list);
        let plimsoll = service.plimsoll.clone();
        let reload = tokio::spawn(async move { plimsoll.reload().await });
        while service.maker.made.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        stop(&service.plimsoll).await;
        go.send(()).unwrap();
        assert_eq!(reload.await.unwrap().is_ok(), n == 0);
        assert_eq!(service.names(), ["a"]);
        let error = service.adapters.call("a", "x".into()).await.unwrap_err();
        assert_eq!(reason(&error), RejectReason::ShuttingDown);
    }
}

#[tokio::test]
async fn adapters_of_a_service_that_is_gone_are_not_made_again() {
    let folder = Folder::new("ends-loaded");
    folder.adapters(ONE);
    let loaded = folder.files().load_with::<Kind>(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let (maker, making) = (Maker::default(), Maker::default());
    let making = Maker {
        made: maker.made.clone(),
        ..making
    };
    let adapters = plimsoll
        .adapters(&loaded, move |spec| making.make(spec))
        .unwrap();
    drop(plimsoll);
    // Another service by the same settings, whose adapters are yet to be made.
    let other = Plimsoll::start(loaded.config()).unwrap();
    maker.made();
    folder.adapters("adapters:\n- name: b\n  greeting: hi\n");
    other.reload().await.unwrap();
    assert_eq!(maker.made(), [""; 0]);
    assert_eq!(adapters.len(), 1);
}
