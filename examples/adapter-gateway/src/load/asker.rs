//! Puts questions to the gateway, and checks what comes back.

use super::{Said, Wrong};
use crate::{
    BoxError,
    client::{JsonClient, read},
    question::{Failure, Found, Question},
};
use http::{StatusCode, Uri};
use plimsoll::{Adapters, HttpClientConfig, Name};
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::time::timeout;

/// Puts questions to the adapters of a gateway, to learn what each made of them.
///
/// They are those there are at the time. One that goes before the gateway has looked at its name
/// has the question refused before anybody was asked: it is put again, to those there are by then.
#[derive(Clone, Debug)]
pub struct Asker {
    client: JsonClient,
    uri: Uri,
    adapters: Adapters<Question, Vec<Found>>,
    echo: String,
    patience: Duration,
}

#[derive(Deserialize)]
struct Reply {
    answers: BTreeMap<String, Answer>,
    failures: BTreeMap<String, NoAnswer>,
}

#[derive(Deserialize)]
struct Answer {
    passages: Vec<Passage>,
}

#[derive(Deserialize)]
struct Passage {
    text: String,
}

#[derive(Deserialize)]
struct NoAnswer {
    kind: String,
}

impl Asker {
    /// Will ask these adapters of the gateway that listens on this address; `echo` is the one that
    /// repeats the question. A gateway that takes longer than `patience` has lost it.
    ///
    /// # Errors
    ///
    /// Fails when the address does not make a URI.
    pub fn new(
        listening: SocketAddr,
        adapters: Adapters<Question, Vec<Found>>,
        echo: impl Into<String>,
        patience: Duration,
    ) -> Result<Self, BoxError> {
        Ok(Self {
            client: JsonClient::new("load", HttpClientConfig::new())?,
            uri: format!("http://{}/ask", reachable(listening)).parse()?,
            adapters,
            echo: echo.into(),
            patience,
        })
    }

    /// Asks once. The serial number makes the question one of a kind.
    ///
    /// # Errors
    ///
    /// Fails when not exactly one answer came from each adapter.
    pub async fn ask(self, serial: u64, question: &str) -> Result<Said, Wrong> {
        let question = format!("{question} #{serial}");
        loop {
            let names = self.adapters.names();
            let put = timeout(self.patience, self.put(&question, &names));
            let reply = put.await.unwrap_or_else(|_| {
                let patience = self.patience;
                Err(Failure::new(format!("no answer within {patience:?}")))
            });
            match reply.map_err(|failure| Wrong::Lost(failure.to_string()))? {
                Some(reply) => return self.check(&question, &names, reply),
                None if names != self.adapters.names() => (),
                None => {
                    return Err(Wrong::Lost(format!(
                        "the names for `{question}` were refused"
                    )));
                }
            }
        }
    }

    /// The reply; none where a name was refused, so that nobody was asked.
    async fn put(&self, question: &str, names: &[Name]) -> Result<Option<Reply>, Failure> {
        let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
        let body = json!({"question": question, "adapters": names});
        let response = self.client.send(&self.uri, &body).await?;
        match response.status() {
            StatusCode::UNPROCESSABLE_ENTITY => Ok(None),
            _ => read(&self.uri, &response).map(Some),
        }
    }

    fn check(&self, question: &str, names: &[Name], reply: Reply) -> Result<Said, Wrong> {
        let Reply { answers, failures } = reply;
        for adapter in names.iter().map(|name| name.as_str()) {
            match (answers.get(adapter), failures.contains_key(adapter)) {
                (None, false) => {
                    let lost = format!("{adapter} said nothing to `{question}`");
                    return Err(Wrong::Lost(lost));
                }
                (Some(_), true) => {
                    let twice = format!("{adapter} said two things to `{question}`");
                    return Err(Wrong::Doubled(twice));
                }
                (Some(answer), false) if adapter == self.echo => echoes(question, answer)?,
                _ => (),
            }
        }
        if names.len() < answers.len() + failures.len() {
            let detail = format!("adapters that were not asked answered `{question}`");
            return Err(Wrong::Doubled(detail));
        }
        let answered = answers.into_keys().map(|adapter| (adapter, None));
        let failed = failures.into_iter();
        let failed = failed.map(|(adapter, said)| (adapter, Some(said.kind)));
        Ok(answered.chain(failed).collect())
    }
}

/// The answer to another question is one too many there, and one too few here.
fn echoes(question: &str, answer: &Answer) -> Result<(), Wrong> {
    match &*answer.passages {
        [] => Err(Wrong::Lost(format!("an empty answer to `{question}`"))),
        [one] if one.text.strip_prefix("You asked: ") == Some(question) => Ok(()),
        [one, ..] => {
            let detail = format!("`{question}` was answered with `{}`", one.text);
            Err(Wrong::Doubled(detail))
        }
    }
}

/// An address to listen on may stand for all; to connect, take the local one.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => (),
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Json, Router, routing::post};
    use serde_json::Value;
    use std::{
        future,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };
    use tokio::net::TcpListener;

    /// They are named, but never called.
    fn adapters(names: &[&str]) -> Adapters<Question, Vec<Found>> {
        let adapters = names.iter().map(|name| {
            let builder = plimsoll::Adapter::builder(*name);
            builder
                .function(|_| future::pending::<Result<_, Failure>>())
                .unwrap()
        });
        Adapters::new(adapters).unwrap()
    }

    fn check(answers: &Value, failures: &Value) -> Result<Said, Wrong> {
        let listening = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let adapters = adapters(&["echo", "other"]);
        let asker = Asker::new(listening, adapters.clone(), "echo", Duration::ZERO).unwrap();
        let reply = json!({"answers": answers, "failures": failures});
        let reply = serde_json::from_value(reply).unwrap();
        asker.check("why? #7", &adapters.names(), reply)
    }

    fn echo(text: &str) -> Value {
        json!({"passages": [{"text": text}]})
    }

    #[test]
    fn one_answer_from_each_adapter_is_right() {
        let other = json!({"passages": []});
        let answers = json!({"echo": echo("You asked: why? #7"), "other": other});
        let said = check(&answers, &json!({})).unwrap();
        assert!(said.values().all(Option::is_none));
        let failures = json!({"echo": {"kind": "failed"}});
        let said = check(&json!({"other": other}), &failures).unwrap();
        assert_eq!(said["echo"].as_deref(), Some("failed"));
        assert_eq!(said["other"], None);
    }

    #[test]
    fn answers_that_are_missing_or_empty_are_lost() {
        let right = echo("You asked: why? #7");
        let empty = json!({"passages": []});
        for answers in [
            json!({"echo": right}),
            json!({"other": empty}),
            json!({"echo": empty, "other": empty}),
        ] {
            let wrong = check(&answers, &json!({})).unwrap_err();
            assert!(matches!(wrong, Wrong::Lost(_)), "{wrong:?}");
        }
    }

    #[test]
    fn answers_to_other_questions_and_those_too_many_are_doubled() {
        let right = echo("You asked: why? #7");
        let failed = json!({"kind": "failed"});
        let twice = json!({"passages": [{"text": "You asked: why? #7"}, {"text": "again"}]});
        for (answers, failures) in [
            (
                json!({"echo": echo("You asked: why? #17")}),
                json!({"other": failed}),
            ),
            (json!({"echo": echo("why? #7")}), json!({"other": failed})),
            (json!({"echo": twice}), json!({"other": failed})),
            (
                json!({"echo": right}),
                json!({"echo": failed, "other": failed}),
            ),
            (
                json!({"echo": right}),
                json!({"other": failed, "third": failed}),
            ),
        ] {
            let wrong = check(&answers, &failures).unwrap_err();
            assert!(matches!(wrong, Wrong::Doubled(_)), "{wrong:?}");
        }
    }

    /// A gateway that fails as `demo-flaky` and says what it was asked, or never answers.
    async fn gateway(answers: bool) -> SocketAddr {
        let ask = move |Json(asked): Json<Value>| async move {
            if !answers {
                future::pending::<()>().await;
            }
            let mut failures = BTreeMap::new();
            let adapters = asked["adapters"].as_array().into_iter().flatten();
            for adapter in adapters.filter_map(Value::as_str) {
                failures.insert(adapter, json!({"kind": asked["question"]}));
            }
            Json(json!({"answers": {}, "failures": failures}))
        };
        serve(Router::new().route("/ask", post(ask))).await
    }

    async fn serve(app: Router) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, app).into_future());
        address
    }

    #[tokio::test]
    async fn a_question_is_put_with_its_number_to_every_adapter() {
        let adapters = adapters(&["echo", "other"]);
        let patience = Duration::from_secs(60);
        let asker = Asker::new(gateway(true).await, adapters, "echo", patience).unwrap();
        for serial in [7, 8] {
            let said = asker.clone().ask(serial, "why?").await.unwrap();
            let expected = format!("why? #{serial}");
            for adapter in ["echo", "other"] {
                assert_eq!(said[adapter].as_deref(), Some(&*expected));
            }
        }
    }

    // A paused clock would go on while it connects.
    #[tokio::test]
    async fn a_gateway_that_does_not_answer_has_lost_the_question() {
        let patience = Duration::from_millis(200);
        let asker = Asker::new(gateway(false).await, adapters(&[]), "echo", patience).unwrap();
        let wrong = asker.ask(7, "why?").await;
        assert_eq!(wrong, Err(Wrong::Lost("no answer within 200ms".to_owned())));
    }

    /// A gateway that knows `gone` no longer, and takes it from the list once it was asked for it.
    async fn forgetful(all: Adapters<Question, Vec<Found>>, until: usize) -> SocketAddr {
        let asked = AtomicUsize::new(0);
        let asked = Arc::new(asked);
        let ask = move |Json(question): Json<Value>| {
            let names = question["adapters"].as_array().unwrap().clone();
            if asked.fetch_add(1, Ordering::Relaxed) == until {
                all.remove("gone");
            }
            async move {
                if names.iter().any(|name| name == "gone") {
                    return Err(StatusCode::UNPROCESSABLE_ENTITY);
                }
                let said = names
                    .iter()
                    .map(|name| (name.as_str().unwrap(), json!({"kind": "failed"})));
                let failures: BTreeMap<_, _> = said.collect();
                Ok(Json(json!({"answers": {}, "failures": failures})))
            }
        };
        serve(Router::new().route("/ask", post(ask))).await
    }

    #[tokio::test]
    async fn a_question_refused_since_an_adapter_is_gone_is_put_to_the_others() {
        let all = adapters(&["gone", "stays"]);
        let listening = forgetful(all.clone(), 0).await;
        let asker = Asker::new(listening, all, "echo", Duration::from_secs(60)).unwrap();
        let said = asker.ask(7, "why?").await.unwrap();
        assert_eq!(said.into_keys().collect::<Vec<_>>(), ["stays"]);
    }

    #[tokio::test]
    async fn a_question_refused_while_all_adapters_are_there_is_lost() {
        let all = adapters(&["gone", "stays"]);
        let listening = forgetful(all.clone(), usize::MAX).await;
        let asker = Asker::new(listening, all, "echo", Duration::from_secs(60)).unwrap();
        let wrong = asker.ask(7, "why?").await.unwrap_err();
        assert!(matches!(wrong, Wrong::Lost(_)), "{wrong:?}");
    }

    #[test]
    fn load_goes_to_the_local_address_of_an_unspecified_one() {
        for (listening, expected) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ] {
            assert_eq!(reachable(listening.parse().unwrap()).to_string(), expected);
        }
    }
}
