//! Adapters that are made in code, and go by the files.

use crate::support::{Folder, Service, changes, code, greeter, registered, shown};
use plimsoll::{
    Adapter, AdapterConfig, AdapterSetupError, Budget, Plimsoll, State, registry::RegisterError,
};
use plimsoll_core::test_util::FakeHolding;
use std::time::Duration;

fn start(folder: &Folder) -> Plimsoll {
    let loaded = folder.files().load(code()).unwrap();
    Plimsoll::start(loaded.config()).unwrap()
}

#[tokio::test]
async fn file_that_contradicts_the_code_is_refused_with_its_place_and_nothing_is_registered() {
    let folder = Folder::new("coded-contradicts");
    for (item, at, about) in [
        (
            "fault_tolerance:\n    retry: on",
            "adapters.yaml:4:",
            "retry",
        ),
        (
            "fault_tolerance:\n    max_queued_bytes: 5",
            "adapters.yaml:4:",
            "max_queued_bytes",
        ),
        ("enabled: false", "adapters.yaml:3:", "adapters.a.enabled"),
    ] {
        folder.config("{}");
        folder.adapters(&format!("adapters:\n- name: a\n  {item}\n"));
        let plimsoll = start(&folder);
        let adapter = greeter("a");
        let error = plimsoll.register_adapter(adapter.clone()).unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, AdapterSetupError::Config(_)), "{told}");
        assert!(told.contains(at) && told.contains(about), "{told}");
        assert_eq!(registered(&plimsoll), [""; 0]);
        assert!(plimsoll.breakers().list().is_empty());
        assert_eq!(adapter.config(), AdapterConfig::new());
        // Its name is free, and mended it is taken.
        folder.adapters("adapters:\n- name: a\n  fault_tolerance: {timeout: 9s}\n");
        plimsoll.reload().await.unwrap();
        let adapter = plimsoll.register_adapter(adapter).unwrap();
        assert_eq!(adapter.config().values().timeout.as_secs(), 9);
        assert_eq!(registered(&plimsoll), ["a"]);
    }
}

#[tokio::test]
async fn reload_that_contradicts_the_code_changes_nothing() {
    let folder = Folder::new("coded-reload-contradicts");
    folder.config("{}");
    folder.adapters("adapters:\n- name: a\n- name: b\n");
    let plimsoll = start(&folder);
    let [a, b] = ["a", "b"].map(|name| plimsoll.register_adapter(greeter(name)).unwrap());
    folder.adapters(
        "adapters:\n- name: a\n  fault_tolerance: {timeout: 9s}\n\
         - name: b\n  enabled: false\n",
    );
    let error = plimsoll.reload().await.unwrap_err();
    assert!(error.to_string().contains("adapters.yaml:5:"), "{error}");
    assert_eq!(a.config(), AdapterConfig::new());
    assert_eq!(b.config(), AdapterConfig::new());
    assert_eq!(registered(&plimsoll), ["a", "b"]);
}

#[tokio::test]
async fn limits_change_in_place_and_the_breaker_keeps_its_state_and_its_window() {
    let folder = Folder::new("coded-in-place");
    folder.config("{}");
    let plimsoll = start(&folder);
    let adapter = plimsoll.register_adapter(greeter("a")).unwrap();
    for _ in 0..30 {
        adapter.call("x".into()).await.unwrap();
    }
    folder.config(
        "fault_tolerance:\n  timeout: 5s\n  circuit_breaker: {failure_rate: 20, window: 200}\n",
    );
    let mut told = changes(&plimsoll).await;
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "adapters.a.fault_tolerance.circuit_breaker.failure_rate 50 -> 20",
            "adapters.a.fault_tolerance.circuit_breaker.window 100 -> 200",
            "adapters.a.fault_tolerance.timeout 2s -> 5s",
            "fault_tolerance.circuit_breaker.failure_rate 50 -> 20",
            "fault_tolerance.circuit_breaker.window 100 -> 200",
            "fault_tolerance.timeout 2s -> 5s",
        ]
    );
    assert_eq!(adapter.breaker().history_usage().calls, 30);
    assert_eq!(adapter.breaker().snapshot().window.calls, 30);
    adapter.breaker().force_open();
    folder.config("{}");
    plimsoll.reload().await.unwrap();
    assert_eq!(adapter.config(), AdapterConfig::new());
    assert_eq!(adapter.breaker().state(), State::ForcedOpen);
}

#[tokio::test]
async fn memory_budget_of_all_and_of_one_changes_in_place() {
    let folder = Folder::new("coded-budget");
    folder.config("fault_tolerance: {memory_budget: 1MiB}\n");
    folder.adapters(
        "adapters:\n- name: a\n  fault_tolerance: {memory_budget: 64KiB, on_over_budget: enforce}\n",
    );
    let plimsoll = start(&folder);
    let [a, b] = ["a", "b"].map(|name| plimsoll.register_adapter(greeter(name)).unwrap());
    let budget = |adapter: &Adapter<String, String>| adapter.memory_stats().budget;
    assert_eq!(budget(&a), Some(Budget::enforce(64 << 10)));
    assert_eq!(budget(&b), Some(Budget::observe(1 << 20)));
    folder.config("fault_tolerance: {memory_budget: off, on_over_budget: enforce}\n");
    folder.adapters("adapters:\n- name: a\n  fault_tolerance: {memory_budget: 2MiB}\n");
    let mut told = changes(&plimsoll).await;
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "adapters.a.fault_tolerance.memory_budget 64KiB -> 2MiB",
            "adapters.b.fault_tolerance.memory_budget 1MiB -> off",
            "adapters.b.fault_tolerance.on_over_budget observe -> enforce",
            "fault_tolerance.memory_budget 1MiB -> off",
            "fault_tolerance.on_over_budget observe -> enforce",
        ]
    );
    assert_eq!(budget(&a), Some(Budget::enforce(2 << 20)));
    assert_eq!(budget(&b), None);
    for (wrong, told) in [
        ("memory_budget: 0", "memory_budget"),
        ("memory_budget: much", "memory_budget"),
        ("on_over_budget: end", "on_over_budget"),
    ] {
        folder.adapters(&format!(
            "adapters:\n- name: a\n  fault_tolerance: {{{wrong}}}\n"
        ));
        let error = plimsoll.reload().await.unwrap_err().to_string();
        let place = "adapters.yaml:3:";
        assert!(error.contains(place) && error.contains(told), "{error}");
        assert_eq!(budget(&a), Some(Budget::enforce(2 << 20)));
    }
}

#[tokio::test]
async fn name_that_is_taken_is_refused_and_the_holder_keeps_it() {
    let folder = Folder::new("coded-taken");
    folder.config("{}");
    let plimsoll = start(&folder);
    let holding = FakeHolding::new("a", Duration::from_secs(60));
    let holding = plimsoll.register(holding).unwrap();
    let error = plimsoll.register_adapter(greeter("a")).unwrap_err();
    let AdapterSetupError::Register(RegisterError::Duplicate(name)) = error else {
        panic!("{error}");
    };
    assert_eq!((name.as_str(), registered(&plimsoll)), ("a", vec!["a"]));
    assert!(plimsoll.breakers().list().is_empty());
    assert!(shown(&plimsoll.configuration(), "adapters.a.enabled").is_none());
    drop(holding);
    plimsoll.register_adapter(greeter("a")).unwrap();
}

#[tokio::test]
async fn adapter_that_is_gone_leaves_its_settings_and_its_name() {
    let folder = Folder::new("coded-gone");
    folder.config("{}");
    let plimsoll = start(&folder);
    for _ in 0..2 {
        let adapter = plimsoll.register_adapter(greeter("a")).unwrap();
        assert!(shown(&plimsoll.configuration(), "adapters.a.enabled").is_some());
        drop(adapter);
    }
    folder.config("fault_tolerance: {timeout: 5s}\n");
    plimsoll.reload().await.unwrap();
    assert!(shown(&plimsoll.configuration(), "adapters.a.enabled").is_none());
}

#[tokio::test]
async fn adapters_of_the_code_and_of_the_list_live_side_by_side() {
    let folder = Folder::new("coded-and-listed");
    folder.config("{}");
    folder.adapters(
        "adapters:\n- name: listed\n  greeting: hi\n\
         - name: coded\n  fault_tolerance: {timeout: 7s}\n",
    );
    let loaded = folder
        .files()
        .load_with::<crate::support::Kind>(code())
        .unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    // Whoever is registered first has the item.
    let coded = plimsoll.register_adapter(greeter("coded")).unwrap();
    let maker = crate::support::Maker::default();
    let adapters = plimsoll
        .adapters(&loaded, move |spec| maker.make(spec))
        .unwrap();
    assert_eq!(adapters.names().len(), 1);
    assert_eq!(coded.config().values().timeout.as_secs(), 7);
    folder.adapters("adapters:\n- name: coded\n  fault_tolerance: {timeout: 8s}\n- name: late\n");
    assert_eq!(
        changes(&plimsoll).await,
        [
            "adapters.late - -> there",
            "adapters.listed there -> -",
            "adapters.coded.fault_tolerance.timeout 7s -> 8s",
            "adapters.listed.greeting hi -> -",
        ]
    );
    assert_eq!(coded.config().values().timeout.as_secs(), 8);
    assert_eq!(registered(&plimsoll), ["coded", "late"]);
}

#[tokio::test]
async fn name_of_a_listed_adapter_is_taken_for_one_that_is_made_in_code() {
    let folder = Folder::new("coded-same-name");
    folder.config("{}");
    folder.adapters("adapters:\n- name: a\n  greeting: hi\n");
    let service = Service::start(folder.files());
    let error = service.plimsoll.register_adapter(greeter("a")).unwrap_err();
    assert!(matches!(
        error,
        AdapterSetupError::Register(RegisterError::Duplicate(_))
    ));
    assert_eq!(service.greet("a").await, "hi x");
    assert_eq!(service.reload().await, [""; 0]);
    assert_eq!(registered(&service.plimsoll), ["a"]);
}

#[tokio::test]
async fn item_that_nobody_made_is_shown_until_the_service_serves_and_changes_nothing() {
    let folder = Folder::new("coded-strangers");
    folder.config("{}");
    folder.adapters("adapters:\n- name: nobody\n");
    let plimsoll = start(&folder);
    let is_shown = || shown(&plimsoll.configuration(), "adapters.nobody.enabled").is_some();
    assert!(is_shown());
    folder.adapters("adapters:\n- name: nobody\n  fault_tolerance: {timeout: 9s}\n- name: b\n");
    assert_eq!(changes(&plimsoll).await, [""; 0]);
    assert!(!is_shown());
    // It may still come.
    let late = plimsoll.register_adapter(greeter("nobody")).unwrap();
    assert!(is_shown());
    assert_eq!(late.config().values().timeout.as_secs(), 9);
}
