//! Adapters that come and go with the list.

use crate::support::{Folder, Kind, Maker, SECOND, Service, code, registered, shown};
use plimsoll::{Adapter, Plimsoll, State};
use plimsoll_core::test_util::FakeHolding;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{runtime::Handle, task::JoinSet};

const TWO: &str = "adapters:\n- name: a\n  greeting: hello\n- name: b\n  greeting: good day\n";

#[tokio::test]
async fn adapters_come_and_go_with_the_file() {
    let folder = Folder::new("come-and-go");
    folder.adapters(TWO);
    let service = Service::start(folder.files());
    assert_eq!(service.greet("a").await, "hello x");
    assert_eq!(service.maker.made(), ["a", "b"]);
    service.adapter("a").breaker().force_open();
    let [a, b] = ["a", "b"].map(|name| service.adapter(name));

    folder.adapters(
        "adapters:\n\
         - name: c\n  greeting: hi\n\
         - name: a\n  greeting: hello\n  fault_tolerance:\n    timeout: 5s\n\
         - name: b\n  greeting: good evening\n",
    );
    assert_eq!(
        service.reload().await,
        [
            "adapters.c - -> there",
            "adapters.c.greeting - -> hi",
            "adapters.a.fault_tolerance.timeout 2s -> 5s",
            "adapters.b.greeting good day -> good evening",
        ]
    );
    assert_eq!(service.names(), ["c", "a", "b"]);
    assert_eq!(service.maker.made(), ["c", "b"], "`a` is the one it was");
    assert!(service.adapter("a").is(&a) && !service.adapter("b").is(&b));
    assert_eq!(a.breaker().state(), State::ForcedOpen);
    assert_eq!(a.config().values().timeout, 5 * SECOND);
    assert_eq!(service.greet("b").await, "good evening x");
    assert_eq!(registered(&service.plimsoll), ["a", "b", "c"]);

    folder.adapters("adapters:\n- name: b\n  greeting: good evening\n");
    assert_eq!(
        service.reload().await,
        [
            "adapters.a there -> -",
            "adapters.c there -> -",
            "adapters.c.greeting hi -> -",
            "adapters.a.greeting hello -> -",
            "adapters.a.fault_tolerance.timeout 5s -> -",
        ]
    );
    assert_eq!(
        (service.names(), registered(&service.plimsoll)),
        (vec!["b"], vec!["b"])
    );
    assert_eq!(service.maker.made(), [""; 0]);
}

#[tokio::test]
async fn order_alone_changes_the_order_and_nothing_else() {
    let folder = Folder::new("order");
    folder.adapters(TWO);
    let service = Service::start(folder.files());
    let [a, b] = ["a", "b"].map(|name| service.adapter(name));
    folder.adapters("adapters:\n- name: b\n  greeting: good day\n- name: a\n  greeting: hello\n");
    assert_eq!(service.reload().await, [""; 0]);
    assert_eq!(service.names(), ["b", "a"]);
    assert!(service.adapter("a").is(&a) && service.adapter("b").is(&b));
}

#[tokio::test]
async fn one_that_is_not_enabled_is_not_there_and_keeps_its_settings() {
    let folder = Folder::new("enabled");
    let list = |enabled: bool| {
        folder.adapters(&format!(
            "adapters:\n- name: a\n  greeting: hello\n  enabled: {enabled}\n"
        ));
    };
    list(false);
    let service = Service::start(folder.files());
    assert!(service.adapters.is_empty() && registered(&service.plimsoll).is_empty());
    list(true);
    assert_eq!(service.reload().await, ["adapters.a.enabled false -> true"]);
    assert_eq!(service.greet("a").await, "hello x");
    list(false);
    assert_eq!(service.reload().await, ["adapters.a.enabled true -> false"]);
    let error = service.adapters.call("a", "x".into()).await.unwrap_err();
    assert_eq!(error.kind().as_str(), "unknown");
    assert!(registered(&service.plimsoll).is_empty());
    let values = service.plimsoll.configuration();
    let greeting = shown(&values, "adapters.a.greeting").unwrap();
    assert_eq!(greeting.0, "hello");
}

#[tokio::test]
async fn calls_in_flight_and_in_line_finish_on_the_old_one_and_none_is_lost() {
    let folder = Folder::new("in-flight");
    let list = |greeting: &str, slots: usize| {
        folder.adapters(&format!(
            "adapters:\n- name: a\n  greeting: {greeting}\n  fault_tolerance:\n    \
             timeout: 60s\n    queue_timeout: 60s\n    max_in_flight: {slots}\n"
        ));
    };
    list("waits old", 2);
    let service = Service::start(folder.files());
    let old = service.adapter("a");
    let mut calls = JoinSet::new();
    for n in 0..10 {
        calls.spawn(old.call(n.to_string()));
    }
    let settled = async |in_flight: u64, queued: u64| {
        loop {
            let now = old.snapshot();
            if (now.in_flight, now.queued) == (in_flight, queued) {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    settled(2, 8).await;
    // More slots are for those who wait, in the same line.
    list("waits old", 5);
    service.reload().await;
    assert!(service.adapter("a").is(&old));
    settled(5, 5).await;
    // Another takes its place, and these stay where they are.
    list("new", 5);
    service.reload().await;
    assert!(!service.adapter("a").is(&old));
    assert_eq!(service.greet("a").await, "new x");
    settled(5, 5).await;
    // It goes altogether.
    folder.adapters("adapters: []\n");
    service.reload().await;
    assert!(service.adapters.is_empty());
    service.maker.gate.0.add_permits(10);
    let mut answers: Vec<_> = calls
        .join_all()
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    answers.sort_unstable();
    let expected: Vec<_> = (0..10).map(|n| format!("waits old {n}")).collect();
    assert_eq!(answers, expected);
    let counts = old.snapshot();
    assert_eq!((counts.succeeded, counts.rejected.total()), (10, 0));
    assert_eq!((counts.in_flight, counts.queued), (0, 0));
}

#[tokio::test]
async fn one_that_takes_the_place_of_another_has_its_name_everywhere() {
    let folder = Folder::new("replaced");
    folder.adapters("adapters:\n- name: a\n  greeting: old\n");
    let service = Service::start(folder.files());
    let old = service.adapter("a");
    old.breaker().force_open();
    folder.adapters("adapters:\n- name: a\n  greeting: new\n");
    service.reload().await;
    let new = service.adapter("a");
    let plimsoll = &service.plimsoll;
    assert_eq!(registered(plimsoll), ["a"]);
    let [shown] = &plimsoll.breakers().list()[..] else {
        panic!("there is one breaker of that name");
    };
    assert_eq!(shown.state(), State::Closed);
    shown.force_open();
    assert_eq!(new.breaker().state(), State::ForcedOpen);
    new.breaker().close();
    new.call("x".into()).await.unwrap();
    let holdings = plimsoll.registry().snapshot();
    let mut of_that_name = holdings.iter().filter(|held| held.name.as_str() == "a");
    let held = of_that_name.next().unwrap();
    assert!(of_that_name.next().is_none());
    let usage = held.usage.unwrap();
    assert_eq!(usage.entries, new.breaker().history_usage().calls + 2);
}

#[tokio::test]
async fn one_that_cannot_be_made_is_told_with_its_place_and_nothing_changes() {
    let folder = Folder::new("cannot-be-made");
    folder.adapters(TWO);
    let service = Service::start(folder.files());
    let before = service.plimsoll.configuration();
    let [a, b] = ["a", "b"].map(|name| service.adapter(name));
    for (greeting, what) in [
        ("nothing", "it has nothing to say"),
        ("panic", "it panicked"),
        ("misnamed", "it was given the name `somebody`"),
    ] {
        // One that is new, and one that takes the place of another.
        for name in ["c", "b"] {
            folder.adapters(&format!(
                "adapters:\n- name: kept\n  greeting: kept\n\
                 - name: a\n  greeting: hello\n  fault_tolerance: {{timeout: 9s}}\n\
                 - name: {name}\n  greeting: {greeting}\n"
            ));
            let told = service.refusal().await;
            let place = format!("adapters.yaml:7:9: `adapters.{name}` cannot be made: {what}");
            assert!(told.ends_with(&place), "{told}");
            assert_eq!(service.names(), ["a", "b"]);
            assert!(service.adapter("a").is(&a) && service.adapter("b").is(&b));
            assert_eq!(a.config().values().timeout, 2 * SECOND);
            // Not even one that somebody holds.
            assert_eq!(registered(&service.plimsoll), ["a", "b"]);
            assert_eq!(service.plimsoll.breakers().list().len(), 2);
            assert_eq!(service.plimsoll.configuration(), before);
        }
    }
    assert_eq!(service.maker.keeps.lock().unwrap().len(), 6);
    folder.adapters("adapters:\n- name: kept\n  greeting: kept\n");
    service.reload().await;
    assert_eq!(registered(&service.plimsoll), ["kept"]);
}

#[tokio::test]
async fn every_problem_of_a_reload_is_told_at_once() {
    let folder = Folder::new("every-problem");
    folder.adapters(TWO);
    let service = Service::start(folder.files());
    folder.config("fault_tolerance: {timeout: soon}\nservr: {}\n");
    folder.adapters(
        "adapters:\n- name: a\n  greeting: nothing\n- name: b\n  greting: x\n\
         - name: d\n  greeting: hi\n  fault_tolerance: {retry: on, max_queued_bytes: 5}\n",
    );
    let error = service.plimsoll.reload().await.unwrap_err();
    let keys: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| &*problem.key)
        .collect();
    assert_eq!(
        keys,
        [
            "fault_tolerance.timeout",
            "servr",
            "adapters.a",
            "adapters.b.greting",
            "adapters.d.fault_tolerance.retry",
            "adapters.d.fault_tolerance.max_queued_bytes",
        ]
    );
    assert_eq!(service.names(), ["a", "b"]);
}

#[tokio::test]
async fn limits_that_do_not_fit_one_that_stays_are_told_with_their_place() {
    let folder = Folder::new("stays-unfit");
    folder.adapters(TWO);
    let service = Service::start(folder.files());
    folder.adapters(
        "adapters:\n- name: a\n  greeting: hello\n  fault_tolerance: {timeout: 9s}\n\
         - name: b\n  greeting: good day\n  fault_tolerance:\n    retry: on\n",
    );
    let told = service.refusal().await;
    let place = "adapters.yaml:8:12: `adapters.b.fault_tolerance.retry` is set";
    assert!(told.contains(place), "{told}");
    let timeout = service.adapter("a").config().values().timeout;
    assert_eq!(timeout, 2 * SECOND, "nothing was changed");
}

#[tokio::test]
async fn name_that_another_holding_has_is_told_with_its_place() {
    let folder = Folder::new("name-taken");
    folder.adapters(TWO);
    let holding = FakeHolding::new("c", Duration::from_secs(60));
    let loaded = folder.files().load_with::<Kind>(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let holding = plimsoll.register(holding).unwrap();
    let maker = Maker::default();
    let make = move |spec: &_| maker.make(spec);
    folder.adapters(TWO);
    let adapters = plimsoll.adapters(&loaded, make).unwrap();
    folder.adapters(&format!("{TWO}- name: 'd'\n  greeting: kept\n- name: c\n"));
    let error = plimsoll.reload().await.unwrap_err().to_string();
    assert!(error.contains("adapters.yaml:8:9: `adapters.c`"), "{error}");
    assert!(error.contains("\"c\" is registered"), "{error}");
    assert_eq!(adapters.len(), 2);
    assert_eq!(registered(&plimsoll), ["a", "b", "c"]);
    drop(holding);
    plimsoll.reload().await.unwrap();
    assert_eq!(registered(&plimsoll), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn service_whose_adapters_cannot_be_made_at_first_has_none_and_may_try_again() {
    let folder = Folder::new("first-try");
    folder.adapters("adapters:\n- name: a\n  greeting: kept\n- name: b\n  greeting: nothing\n");
    let loaded = folder.files().load_with::<Kind>(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let maker = Maker::default();
    let make = |maker: &Maker| {
        let maker = maker.clone();
        move |spec: &_| maker.make(spec)
    };
    let error = plimsoll.adapters(&loaded, make(&maker)).unwrap_err();
    assert!(error.to_string().contains("adapters.yaml:4:9"), "{error}");
    assert!(registered(&plimsoll).is_empty());
    folder.adapters(TWO);
    plimsoll.reload().await.unwrap();
    let adapters = plimsoll.adapters(&loaded, make(&maker)).unwrap();
    assert_eq!(adapters.len(), 2);
    // Once is enough.
    let error = plimsoll.adapters(&loaded, make(&maker)).unwrap_err();
    assert!(
        error.to_string().contains("call `adapters` once"),
        "{error}"
    );
    folder.adapters("adapters:\n- name: b\n  greeting: good day\n");
    plimsoll.reload().await.unwrap();
    assert_eq!(adapters.len(), 1, "the first goes on");
}

#[tokio::test]
async fn settings_of_another_service_make_no_adapters() {
    let folder = Folder::new("of-another");
    folder.adapters(TWO);
    let service = Service::start(folder.files());
    let other = Plimsoll::start(code()).unwrap();
    let maker = service.maker.clone();
    let error = other.adapters(&service.loaded, move |spec| maker.make(spec));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("`Loaded::config`"), "{error}");
    assert_eq!(service.names(), ["a", "b"]);
}

#[tokio::test]
async fn what_makes_adapters_can_neither_reload_nor_register() {
    let folder = Folder::new("from-make");
    folder.adapters("adapters: []\n");
    let loaded = folder.files().load_with::<Kind>(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let inside = Arc::new(Mutex::new(Some(plimsoll.clone())));
    let from = inside.clone();
    let adapters = plimsoll.adapters(&loaded, move |spec| {
        let plimsoll = from.lock().unwrap().clone().unwrap();
        match &*spec.settings.greeting {
            "reload" => drop(Handle::current().block_on(plimsoll.reload())?),
            _ => drop(plimsoll.register_adapter(crate::support::greeter("other"))?),
        }
        Maker::default().make(spec)
    });
    let adapters = adapters.unwrap();
    for greeting in ["reload", "register"] {
        folder.adapters(&format!("adapters:\n- name: a\n  greeting: {greeting}\n"));
        let error = plimsoll.reload().await.unwrap_err().to_string();
        assert!(error.contains("once `make` has returned"), "{error}");
        assert!(registered(&plimsoll).is_empty());
    }
    folder.adapters("adapters: []\n");
    plimsoll.reload().await.unwrap();
    plimsoll
        .register_adapter(crate::support::greeter("other"))
        .unwrap();
    assert!(adapters.is_empty());
    inside.lock().unwrap().take();
}

#[tokio::test]
async fn general_limits_are_those_of_every_adapter_that_says_nothing() {
    let folder = Folder::new("general");
    folder.config("fault_tolerance: {timeout: 3s, record_threshold: 50}\n");
    folder.adapters(&format!("{TWO}  fault_tolerance: {{timeout: 4s}}\n"));
    let service = Service::start(folder.files());
    let timeouts = || ["a", "b"].map(|name| service.adapter(name).config().values().timeout);
    assert_eq!(timeouts(), [3 * SECOND, 4 * SECOND]);
    let threshold = || service.adapters.memory_summary().threshold;
    assert_eq!(threshold(), Some(50));
    folder.config("fault_tolerance: {timeout: 5s, record_threshold: 60}\n");
    assert_eq!(
        service.reload().await,
        [
            "fault_tolerance.timeout 3s -> 5s",
            "fault_tolerance.record_threshold 50 -> 60",
            "adapters.a.fault_tolerance.timeout 3s -> 5s",
        ]
    );
    assert_eq!(timeouts(), [5 * SECOND, 4 * SECOND]);
    assert_eq!(threshold(), Some(60));
}

#[test]
fn settings_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<plimsoll::Loaded<Kind>>();
    shared::<plimsoll::ConfigFiles>();
    shared::<Adapter<String, String>>();
    shared::<Plimsoll>();
}

#[cfg(feature = "http")]
#[tokio::test]
async fn too_many_records_are_an_alert_beside_the_callback_of_the_program() {
    use plimsoll::memory::{Alert, AlertKind, Severity};

    let folder = Folder::new("records");
    folder.config("fault_tolerance:\n  record_threshold: 10\n");
    folder.adapters(TWO);
    let service = Service::start(folder.files());
    let (tell, told) = std::sync::mpsc::channel();
    let hook = move |alert: &Alert| {
        // Others may come, by what the machine is at.
        if alert.kind == AlertKind::Records {
            tell.send((alert.severity, alert.text.clone())).unwrap();
        }
    };
    service
        .plimsoll
        .load_line()
        .alerts()
        .on_alert(hook)
        .unwrap();
    let own = Arc::new(Mutex::new(0));
    let count = own.clone();
    let callback = move |_: &_| *count.lock().unwrap() += 1;
    service.adapters.on_record_alert(callback);
    for _ in 0..12 {
        service.greet("a").await;
    }
    let left = service.adapters.memory_summary().records();
    assert!(left <= 8, "{left}");
    let (severity, text) = told.recv_timeout(SECOND * 60).unwrap();
    assert_eq!(severity, Severity::Warning);
    assert!(
        text.contains(" records of calls and transitions were kept, of 10 that may be: "),
        "{text}"
    );
    assert_eq!(*own.lock().unwrap(), 1);
}
