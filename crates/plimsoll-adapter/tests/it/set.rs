//! Adapters come and go.

use crate::support::{Downstream, builder, echo};
use plimsoll_adapter::{Adapter, AdapterDirectory, Adapters, RecordThreshold};
use plimsoll_core::{Holding, Name};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use tokio_test::{assert_pending, assert_ready_ok, task::spawn};

fn names(adapters: &Adapters<String, String>) -> Vec<&'static str> {
    adapters.names().into_iter().map(Name::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn adapters_are_added_and_removed_in_order() {
    let adapters = Adapters::new([echo("a"), echo("b")]).unwrap();
    let clone = adapters.clone();
    adapters.add(echo("c")).unwrap();
    assert_eq!(names(&clone), ["a", "b", "c"]);
    assert_eq!(clone.remove("b").unwrap().name().as_str(), "b");
    assert!(clone.remove("b").is_none() && adapters.get("b").is_none());
    assert_eq!(names(&adapters), ["a", "c"]);
    assert_eq!((adapters.len(), adapters.is_empty()), (2, false));
    assert_eq!(format!("{adapters:?}"), r#"["a", "c"]"#);
}

#[tokio::test(start_paused = true)]
async fn name_is_there_once() {
    let error = Adapters::new([echo("a"), echo("b"), echo("a")]).unwrap_err();
    assert_eq!(error.name().as_str(), "a");
    let adapters = Adapters::new([echo("a")]).unwrap();
    let first = adapters.get("a").unwrap();
    let error = adapters.add(echo("a")).unwrap_err();
    assert_eq!(error.to_string(), "there are two adapters a");
    let still = adapters.get("a").unwrap();
    assert!(Arc::ptr_eq(&still.bounded(), &first.bounded()));
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_finish_on_the_adapter_they_began_with() {
    let (old, new) = (Downstream::default(), Downstream::default());
    let adapters = Adapters::new([old.adapter(builder()), echo("z")]).unwrap();
    let mut one = spawn(adapters.call("down", "one".into()));
    let mut all = spawn(adapters.call_all("all".into(), None));
    assert_pending!(one.poll());
    assert_pending!(all.poll());
    let replaced = adapters.replace(new.adapter(builder())).unwrap();
    assert_eq!(names(&adapters), ["down", "z"], "in its place");
    let mut next = spawn(adapters.call("down", "next".into()));
    assert_pending!(next.poll());
    assert_eq!((old.asked().len(), new.asked().len()), (2, 1));
    adapters.remove("down").unwrap();
    old.answer(Ok("from the old".into()));
    old.answer(Ok("from the old".into()));
    new.answer(Ok("from the new".into()));
    assert_eq!(assert_ready_ok!(one.poll()), "from the old");
    let answers = tokio_test::assert_ready!(all.poll());
    assert_eq!(
        answers.successes().next(),
        Some(("down", &"from the old".into()))
    );
    assert_eq!(assert_ready_ok!(next.poll()), "from the new");
    assert_eq!(replaced.snapshot().succeeded, 2);
}

#[tokio::test(start_paused = true)]
async fn replacing_nobody_adds() {
    let adapters = Adapters::new([echo("a")]).unwrap();
    assert!(adapters.replace(echo("b")).is_none());
    assert_eq!(names(&adapters), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn removed_adapter_is_gone_with_its_last_handle() {
    let adapters = Adapters::new([echo("a")]).unwrap();
    let held = Arc::downgrade(&adapters.get("a").unwrap().bounded());
    let call = adapters.call("a", "x".into());
    drop(call);
    adapters.remove("a");
    assert!(held.upgrade().is_none());
    let adapters = Adapters::new([echo("b")]).unwrap();
    let held = Arc::downgrade(&adapters.get("b").unwrap().bounded());
    drop(adapters);
    assert!(held.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn all_adapters_are_replaced_at_once_in_the_order_given() {
    let adapters = Adapters::new([echo("a"), echo("b"), echo("c")]).unwrap();
    let stays = adapters.get("c").unwrap();
    let gone = Arc::downgrade(&adapters.get("a").unwrap().bounded());
    adapters
        .set(vec![stays.clone(), echo("d"), echo("b")])
        .unwrap();
    assert_eq!(names(&adapters), ["c", "d", "b"]);
    let same = adapters.get("c").unwrap();
    assert!(Arc::ptr_eq(&same.bounded(), &stays.bounded()));
    assert!(adapters.get("a").is_none() && gone.upgrade().is_none());
    adapters.set(Vec::new()).unwrap();
    assert!(adapters.is_empty());
}

#[tokio::test(start_paused = true)]
async fn adapters_of_which_two_have_one_name_replace_nothing() {
    let adapters = Adapters::new([echo("a"), echo("b")]).unwrap();
    let before = adapters.get("a").unwrap();
    let error = adapters
        .set(vec![echo("a"), echo("x"), echo("x")])
        .unwrap_err();
    assert_eq!(error.name().as_str(), "x");
    assert_eq!(names(&adapters), ["a", "b"]);
    let still = adapters.get("a").unwrap();
    assert!(Arc::ptr_eq(&still.bounded(), &before.bounded()));
}

#[tokio::test(start_paused = true)]
async fn records_are_watched_of_those_that_stay_and_those_that_come_but_not_of_those_that_go() {
    let adapters = Adapters::new([echo("stays"), echo("goes")]).unwrap();
    adapters
        .record_threshold(RecordThreshold::Records(100))
        .unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let alerts = told.clone();
    adapters.on_record_alert(move |_| {
        alerts.fetch_add(1, Relaxed);
    });
    let (stays, goes) = (
        adapters.get("stays").unwrap(),
        adapters.get("goes").unwrap(),
    );
    let comes = echo("comes");
    adapters.set(vec![comes.clone(), stays.clone()]).unwrap();
    for (adapter, watched) in [(goes, false), (stays, true), (comes, true)] {
        for _ in 0..200 {
            adapter.call("x".into()).await.unwrap();
        }
        let name = adapter.name();
        assert_eq!(told.swap(0, Relaxed) > 0, watched, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn directory_knows_adapters_of_any_type_while_they_live() {
    let directory = AdapterDirectory::new();
    let text = echo("text");
    let function = |n: u64| async move { Ok::<_, std::convert::Infallible>(n) };
    let number = Adapter::builder("number").function(function).unwrap();
    directory.insert(&text).unwrap();
    directory.clone().insert(&number).unwrap();
    number.call(1).await.unwrap();
    let seen = || -> Vec<_> {
        let snapshots = directory.snapshots().into_iter();
        snapshots
            .map(|one| (one.name.as_str(), one.succeeded))
            .collect()
    };
    assert_eq!(seen(), [("number", 1), ("text", 0)]);
    assert_eq!(format!("{directory:?}"), r#"["number", "text"]"#);
    let error = directory.insert(&echo("text")).unwrap_err();
    assert_eq!(error.name().as_str(), "text");
    drop(text);
    assert_eq!(seen(), [("number", 1)]);
    let again = echo("text");
    directory.insert(&again).unwrap();
    assert!(!directory.remove(&echo("text")), "another of the name");
    assert!(directory.remove(&again) && !directory.remove(&again));
    assert_eq!(seen(), [("number", 1)]);
}
