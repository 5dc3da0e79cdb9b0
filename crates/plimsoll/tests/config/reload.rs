//! What a reload tells, and what it leaves for a restart.

use crate::support::{Folder, Kind, SECOND, Service, changes, code, shown};
use plimsoll::Plimsoll;
use std::sync::Arc;

#[tokio::test]
async fn settings_that_a_restart_changes_are_told_each_time_and_shown_as_they_count() {
    let folder = Folder::new("restart-only");
    folder.config("lifecycle: {max_tasks: 11}\n");
    let loaded = folder.files().load(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let before = plimsoll.configuration();
    folder.config("registry: {sweep_budget: 9}\nlifecycle: {max_tasks: 12}\n");
    let told = [
        "lifecycle.max_tasks 11 -> 12 later",
        "registry.sweep_budget 250 -> 9 later",
    ];
    for _ in 0..3 {
        assert_eq!(changes(&plimsoll).await, told);
        assert_eq!(plimsoll.configuration(), before);
        assert_eq!(plimsoll.lifecycle().max_tasks(), 11);
    }
    // One of them is taken back, at another place of the file.
    folder.config("\n\nlifecycle: {max_tasks: 11}\nregistry: {sweep_budget: 9}\n");
    assert_eq!(changes(&plimsoll).await, told[1..]);
    let place = shown(&plimsoll.configuration(), "lifecycle.max_tasks").unwrap();
    assert_eq!(place.1, "config.yaml:3");
    folder.config("lifecycle: {max_tasks: 11}\n");
    assert_eq!(changes(&plimsoll).await, [""; 0]);
    assert_eq!(plimsoll.configuration(), before);
    // Those that are not given any more.
    folder.config("{}\n");
    let told = changes(&plimsoll).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("lifecycle.max_tasks 11 -> "),
        "{told:?}"
    );
    assert!(told[0].ends_with(" later"), "{told:?}");
    assert_eq!(plimsoll.configuration(), before);
}

#[tokio::test]
async fn group_that_a_restart_turns_on_or_off_is_shown_as_it_counts() {
    let folder = Folder::new("restart-group");
    folder.config("{}\n");
    let loaded = folder.files().load(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let before = plimsoll.configuration();
    assert_eq!(shown(&before, "control").unwrap().0, "off");
    folder.config("control: {admin_addr: 127.0.0.1:0}\n");
    for _ in 0..2 {
        let told = changes(&plimsoll).await;
        assert_eq!(told, ["control.admin_addr - -> 127.0.0.1:0 later"]);
        assert_eq!(plimsoll.configuration(), before);
    }
    let on = plimsoll::ControlConfig::new().no_probe().no_admin();
    let on = plimsoll::Config::new().control(on);
    let loaded = folder.files().load(on).unwrap();
    folder.config("control: off\n");
    let values = loaded.values();
    let plimsoll = Plimsoll::start(loaded.config().no_control()).unwrap();
    for _ in 0..2 {
        let told = changes(&plimsoll).await;
        assert!(
            told.contains(&"control - -> off later".to_owned()),
            "{told:?}"
        );
        assert_eq!(plimsoll.configuration(), values);
    }
}

#[tokio::test]
async fn changes_for_a_restart_do_not_count_once_adapters_are_made() {
    let folder = Folder::new("restart-then-adapters");
    folder.config("lifecycle: {max_tasks: 11}\n");
    folder.adapters("adapters:\n- name: a\n  greeting: hi\n");
    let loaded = folder.files().load_with::<Kind>(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    folder.config("lifecycle: {max_tasks: 12}\n");
    plimsoll.reload().await.unwrap();
    let maker = crate::support::Maker::default();
    let _adapters = plimsoll
        .adapters(&loaded, move |spec| maker.make(spec))
        .unwrap();
    let values = plimsoll.configuration();
    assert_eq!(shown(&values, "lifecycle.max_tasks").unwrap().0, "11");
    assert_eq!(shown(&values, "adapters.a.greeting").unwrap().0, "hi");
    assert_eq!(
        changes(&plimsoll).await,
        ["lifecycle.max_tasks 11 -> 12 later"]
    );
}

#[tokio::test]
async fn reload_without_a_change_changes_nothing() {
    let folder = Folder::new("no-change");
    folder.config("fault_tolerance: {timeout: 3s}\n");
    folder.adapters("adapters:\n- name: a\n  greeting: hi\n");
    let service = Service::start(folder.files());
    let (adapter, before) = (service.adapter("a"), service.plimsoll.configuration());
    adapter.call("x".into()).await.unwrap();
    service.maker.made();
    for _ in 0..3 {
        assert_eq!(service.reload().await, [""; 0]);
    }
    assert!(service.adapter("a").is(&adapter));
    assert_eq!(service.maker.made(), [""; 0]);
    assert_eq!(service.plimsoll.configuration(), before);
    assert_eq!(adapter.breaker().history_usage().calls, 1);
}

#[tokio::test]
async fn service_without_files_can_be_reloaded_and_shown() {
    let plimsoll = Plimsoll::start(code()).unwrap();
    let adapter = plimsoll
        .register_adapter(crate::support::greeter("a"))
        .unwrap();
    assert_eq!(changes(&plimsoll).await, [""; 0]);
    let values = plimsoll.configuration();
    let key = "adapters.a.fault_tolerance.timeout";
    assert_eq!(shown(&values, key).unwrap(), ("2s".into(), "code".into()));
    drop(adapter);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_reloads_take_turns_and_the_last_to_read_decides() {
    let folder = Folder::new("turns");
    let list = |greeting: &str, seconds: u64| {
        folder.adapters(&format!(
            "adapters:\n- name: a\n  greeting: {greeting}\n  fault_tolerance: {{timeout: {seconds}s}}\n"
        ));
    };
    list("old", 2);
    let service = Service::start(folder.files());
    let reload = || {
        let plimsoll = service.plimsoll.clone();
        tokio::spawn(async move { plimsoll.reload().await })
    };
    service.maker.made();
    let go = service.maker.hold();
    list("new", 3);
    let first = reload();
    while service.maker.made.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    // The first is at it. The others wait, and find what is there when their turn comes.
    let others: Vec<_> = (0..8).map(|_| reload()).collect();
    tokio::task::yield_now().await;
    assert!(others.iter().all(|other| !other.is_finished()));
    list("new", 4);
    go.send(()).unwrap();
    assert_eq!(first.await.unwrap().unwrap().changes.len(), 2);
    let mut changes = 0;
    for other in others {
        changes += other.await.unwrap().unwrap().changes.len();
    }
    assert_eq!(changes, 1, "one of them found the change");
    let config = service.adapter("a").config();
    assert_eq!(config.values().timeout, 4 * SECOND);
    assert_eq!(service.maker.made(), ["a"]);
}

#[tokio::test]
async fn reload_whose_caller_is_gone_goes_on() {
    let folder = Folder::new("caller-gone");
    folder.adapters("adapters: []\n");
    let service = Service::start(folder.files());
    folder.adapters("adapters:\n- name: a\n  greeting: hi\n");
    let go = service.maker.hold();
    let plimsoll = service.plimsoll.clone();
    let call = tokio::spawn(async move { plimsoll.reload().await });
    while service.maker.made.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    // It can be looked at meanwhile.
    assert!(shown(&service.plimsoll.configuration(), "adapters.a.greeting").is_none());
    go.send(()).unwrap();
    while service.adapters.is_empty() {
        tokio::task::yield_now().await;
    }
    // Whoever is next waits for its end.
    service.plimsoll.reload().await.unwrap();
    assert!(shown(&service.plimsoll.configuration(), "adapters.a.greeting").is_some());
}

#[tokio::test]
async fn observer_that_changes_the_configuration_is_refused_and_not_locked_out() {
    let folder = Folder::new("observer");
    folder.config("{}\n");
    let loaded = folder.files().load(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let adapter = plimsoll
        .register_adapter(crate::support::greeter("a"))
        .unwrap();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (tell, inside) = (told.clone(), plimsoll.clone());
    let observer = move |_: &plimsoll::breaker::Event| {
        let other = inside.register_adapter(crate::support::greeter("other"));
        tell.lock().unwrap().push(other.is_ok());
    };
    adapter.breaker().observe(observer).unwrap();
    adapter.breaker().open().unwrap();
    assert_eq!(*told.lock().unwrap(), [true], "anywhere else it may");
    let too_many = (0..20).find_map(|_| adapter.breaker().observe(|_: &_| {}).err());
    let _: plimsoll::breaker::TooManyObservers = too_many.unwrap();
    plimsoll.reload().await.unwrap();
}

#[tokio::test]
async fn file_that_is_gone_is_missed_and_an_empty_one_is_not() {
    let folder = Folder::new("gone");
    folder.adapters("adapters:\n- name: a\n  greeting: hi\n");
    folder.config("fault_tolerance: {timeout: 7s}\n");
    let service = Service::start(folder.files());
    std::fs::remove_file(folder.path("adapters.yaml")).unwrap();
    std::fs::remove_file(folder.path("config.yaml")).unwrap();
    let refusal = service.refusal().await;
    assert!(refusal.contains("there is neither"), "{refusal}");
    folder.adapters("adapters:\n- name: a\n  greeting: hi\n");
    let refusal = service.refusal().await;
    let gone = "config.yaml: is gone: put it back, or leave an empty file for no settings";
    assert!(refusal.ends_with(gone), "{refusal}");
    assert_eq!(service.greet("a").await, "hi x");
    folder.config("");
    assert_eq!(
        service.reload().await.len(),
        2,
        "the timeout of all, and of one"
    );
}

#[tokio::test]
async fn general_limit_that_does_not_fit_an_adapter_is_told_where_it_is_given() {
    let folder = Folder::new("general-place");
    folder.adapters("adapters:\n- name: a\n  greeting: hi\n");
    folder.config("fault_tolerance:\n  timeout: 3s\n");
    let service = Service::start(folder.files());
    folder.config("fault_tolerance:\n  retry: on\n");
    let refusal = service.refusal().await;
    let told = "config.yaml:2:10: `adapters.a.fault_tolerance.retry` is set";
    assert!(refusal.contains(told), "{refusal}");
}

#[tokio::test]
async fn contradiction_of_what_adapters_have_in_common_is_told_once() {
    let folder = Folder::new("general-once");
    folder.adapters(
        "adapters:\n- name: a\n- name: b\n- name: c\n  fault_tolerance:\n    circuit_breaker: {open_max: 2s}\n",
    );
    folder.config("fault_tolerance:\n  circuit_breaker: {open_max: 1s, open_for: 10s}\n");
    let refusal = folder.files().load_with::<Kind>(code()).unwrap_err();
    let keys: Vec<_> = refusal
        .problems()
        .iter()
        .map(|problem| &*problem.key)
        .collect();
    let key = "fault_tolerance.circuit_breaker.open_max";
    assert_eq!(keys, [key, &format!("adapters.c.{key}")]);
}
