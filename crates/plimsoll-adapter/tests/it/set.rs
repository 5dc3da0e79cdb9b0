//! Adapters come and go.

use crate::support::{Downstream, builder, echo};
use plimsoll_adapter::Adapters;
use plimsoll_core::{Holding, Name};
use std::sync::Arc;
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
