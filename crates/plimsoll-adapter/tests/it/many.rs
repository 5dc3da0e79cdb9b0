//! Several adapters at once.

use crate::support::{Downstream, SECOND, Text, assert_idle, builder, echo, timed_out};
use plimsoll_adapter::{Adapter, AdapterErrorKind, Adapters, Answers};
use plimsoll_core::RejectReason;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready, task::spawn};

fn downs(names: &[String]) -> (Adapters<String, String>, Vec<Downstream>) {
    let downs: Vec<_> = names.iter().map(|_| Downstream::default()).collect();
    let adapters = names.iter().zip(&downs);
    let adapters = adapters.map(|(name, down)| down.adapter(Adapter::builder(name.as_str())));
    (Adapters::new(adapters).unwrap(), downs)
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("n{n}")).collect()
}

fn texts(answers: &Answers<String>) -> Vec<String> {
    let answers = answers.iter();
    answers
        .map(|answer| match &answer.result {
            Ok(text) => format!("{}: {text}", answer.adapter),
            Err(error) => error.to_string(),
        })
        .collect()
}

/// Few are polled one way, many another.
const COUNTS: [usize; 4] = [1, 3, 32, 100];

#[tokio::test(start_paused = true)]
async fn answers_come_in_the_order_asked_whoever_is_first() {
    for count in COUNTS {
        let names = numbered(count);
        let (adapters, downs) = downs(&names);
        let mut all = spawn(adapters.call_all("q".into(), None));
        assert_pending!(all.poll());
        for (n, down) in downs.iter().enumerate().rev() {
            assert_eq!(down.asked(), ["q"], "all are asked at once");
            down.answer(Ok(n.to_string()));
            if n > 0 {
                assert_pending!(all.poll());
                advance(Duration::from_millis(1)).await;
            }
        }
        assert!(all.is_woken());
        let answers = assert_ready!(all.poll());
        assert!(answers.is_complete());
        assert_eq!(answers.len(), count);
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.adapter, names[n]);
            assert_eq!(answer.result.unwrap(), n.to_string());
            let behind = (count - 1 - n) as u64;
            assert_eq!(answer.elapsed, Duration::from_millis(behind));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn named_adapters_are_asked_in_the_order_of_their_names() {
    let adapters = Adapters::new(["a", "b", "c"].map(echo)).unwrap();
    let answers = adapters.call_many(["c", "a"], "q".into(), None).await;
    assert_eq!(texts(&answers), ["c: q", "a: q"]);
}

#[tokio::test(start_paused = true)]
async fn each_failure_is_named_and_typed_and_the_others_answer() {
    let adapters = Adapters::new([echo("good")]).unwrap();
    let bad = Adapter::builder("bad").function(|_| async { Text::Err("no".into()) });
    adapters.add(bad.unwrap()).unwrap();
    let hung = Adapter::builder("hung").function(|_| std::future::pending::<Text>());
    adapters.add(hung.unwrap()).unwrap();
    let broken = Adapter::builder("broken").function(|_| async { panic!("oh") as Text });
    adapters.add(broken.unwrap()).unwrap();
    let open = echo("open");
    open.breaker().force_open();
    adapters.add(open).unwrap();
    let names = ["hung", "broken", "nobody", "bad", "good", "open", "good"];
    let answers = adapters.call_many(names, "q".into(), None).await;
    let expected = [
        "adapter hung gave no answer within 2s",
        "adapter broken panicked: oh",
        "there is no adapter nobody",
        "adapter bad failed",
        "good: q",
        "adapter open refused the call",
        "adapter good was asked for twice",
    ];
    assert_eq!(texts(&answers), expected);
    let named: Vec<_> = answers.failures().map(|(name, _)| name).collect();
    assert_eq!(named, ["hung", "broken", "nobody", "bad", "open", "good"]);
    assert_eq!(
        answers.successes().collect::<Vec<_>>(),
        [("good", &"q".into())]
    );
    assert!(!answers.is_complete());
    assert_eq!(
        answers.iter().nth(4).unwrap().elapsed,
        Duration::ZERO,
        "nobody held it up"
    );
    let unknown = answers.failures().nth(2).unwrap().1;
    assert!(matches!(unknown.kind(), AdapterErrorKind::Unknown));
    assert_eq!(unknown.adapter(), "nobody");
    assert_eq!(answers.refused(), None);
    for name in ["hung", "broken", "bad", "good", "open"] {
        assert_idle(&adapters.get(name).unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn every_second_mention_of_many_is_a_duplicate() {
    let names = numbered(50);
    let adapters = Adapters::new(names.iter().map(|name| echo(name))).unwrap();
    let asked: Vec<_> = names.iter().chain(&names).collect();
    let answers = adapters.call_many(asked, "q".into(), None).await;
    for (n, answer) in answers.into_iter().enumerate() {
        match answer.result {
            Ok(_) => assert!(n < 50),
            Err(error) => {
                assert!(matches!(error.kind(), AdapterErrorKind::Duplicate));
                assert!(n >= 50);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn deadline_ends_those_who_are_not_done() {
    for count in COUNTS {
        let (adapters, downs) = downs(&numbered(count));
        let mut all = spawn(adapters.call_all("q".into(), Some(SECOND)));
        assert_pending!(all.poll());
        // What is there when it is time counts.
        advance(SECOND).await;
        downs[0].answer(Ok("there".into()));
        let answers = assert_ready!(all.poll());
        assert_eq!(answers.successes().count(), 1);
        for (n, answer) in answers.iter().enumerate() {
            match &answer.result {
                Ok(text) => assert_eq!((n, &**text), (0, "there")),
                Err(error) => assert_eq!(timed_out(error), Some(SECOND)),
            }
            assert_eq!(answer.elapsed, SECOND);
        }
        for adapter in adapters.list() {
            assert_idle(&adapter);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn caller_who_goes_cancels_all_calls() {
    for count in COUNTS {
        let (adapters, downs) = downs(&numbered(count));
        let mut all = spawn(adapters.call_all("q".into(), Some(SECOND)));
        assert_pending!(all.poll());
        drop(all);
        for (adapter, down) in adapters.list().iter().zip(&downs) {
            assert_eq!(assert_idle(adapter).cancelled, 1);
            assert!(!down.answer(Ok(String::new())));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_where_there_is_nobody() {
    let adapters = Adapters::<String, String>::new([]).unwrap();
    let answers = adapters.call_all("q".into(), Some(SECOND)).await;
    assert!(answers.is_empty() && answers.is_complete());
    assert_eq!(answers.refused(), None);
    let error = adapters.call("x", "q".into()).await.unwrap_err();
    assert!(matches!(error.kind(), AdapterErrorKind::Unknown));
}

#[tokio::test(start_paused = true)]
async fn refusal_of_all_is_that_which_ends_first() {
    let adapters = Adapters::new(["a", "b", "c"].map(echo)).unwrap();
    for (name, wait) in [("a", 9), ("b", 5), ("c", 7)] {
        let adapter = adapters.get(name).unwrap();
        adapter.breaker().open_for(wait * SECOND).unwrap();
    }
    let answers = adapters.call_all("q".into(), None).await;
    let refused = answers.refused().unwrap();
    assert_eq!(refused.source().as_str(), "b");
    assert_eq!(refused.reason(), RejectReason::CircuitOpen);
}

#[tokio::test(start_paused = true)]
async fn request_is_copied_for_all_but_the_last() {
    #[derive(Debug, Default)]
    struct Counted(u32);
    impl Clone for Counted {
        fn clone(&self) -> Self {
            Self(self.0 + 1)
        }
    }
    let adapter = |name: &str| {
        let function = |request: Counted| async move { Ok::<_, &str>(request.0) };
        Adapter::builder(name).function(function).unwrap()
    };
    let adapters = Adapters::new(["a", "b", "c"].map(adapter)).unwrap();
    let names = ["a", "x", "b", "c", "c"];
    let answers = adapters.call_many(names, Counted(0), None).await;
    let copies: Vec<_> = answers.successes().map(|(_, copies)| *copies).collect();
    assert_eq!(copies, [1, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn one_is_called_by_its_name() {
    let down = Downstream::default();
    let adapters = Adapters::new([down.adapter(builder()), echo("other")]).unwrap();
    let mut call = spawn(adapters.call("down", "q".into()));
    assert_pending!(call.poll());
    down.answer_to("q", Ok("a".into()));
    assert_eq!(assert_ready!(call.poll()).unwrap(), "a");
}

/// Uses up all that its task may do in one poll.
async fn greedy(_: String) -> Text {
    std::future::poll_fn(|cx| {
        while tokio::task::coop::poll_proceed(cx)
            .map(|did| did.made_progress())
            .is_ready()
        {}
        Poll::Pending
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn greedy_adapter_does_not_put_off_the_deadline() {
    let adapter = Adapter::builder("greedy").function(greedy).unwrap();
    let adapters = Adapters::new([adapter]).unwrap();
    let mut all = spawn(adapters.call_all("q".into(), Some(SECOND)));
    assert_pending!(all.poll());
    advance(SECOND).await;
    assert!(!assert_ready!(all.poll()).is_complete());
}

#[tokio::test(start_paused = true)]
async fn of_many_only_those_that_were_woken_are_polled() {
    let polls = Arc::new(AtomicU64::new(0));
    let wakers = Arc::new(Mutex::new(Vec::new()));
    let adapter = |name: &String| {
        let (polls, wakers) = (polls.clone(), wakers.clone());
        let function = move |_: String| {
            let (polls, wakers) = (polls.clone(), wakers.clone());
            std::future::poll_fn(move |cx| {
                polls.fetch_add(1, SeqCst);
                wakers.lock().unwrap().push(cx.waker().clone());
                Poll::<Text>::Pending
            })
        };
        let builder = Adapter::builder(name.as_str());
        builder.function(function).unwrap()
    };
    let adapters = Adapters::new(numbered(100).iter().map(adapter)).unwrap();
    let mut all = spawn(adapters.call_all("q".into(), None));
    assert_pending!(all.poll());
    assert_eq!(polls.load(SeqCst), 100);
    wakers.lock().unwrap()[42].wake_by_ref();
    assert_pending!(all.poll());
    assert_eq!(polls.load(SeqCst), 101);
}
