//! Items that say how an HTTP client is connected, and a webhook.

use crate::support::{Folder, SECOND, code};
use plimsoll::{
    Alert, BoxError, HttpClientConfig, Plimsoll,
    memory::{AlertKind, Severity},
    settings::{Fields, Settings},
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
};

/// Settings that have those of an HTTP client in them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Remote {
    client: HttpClientConfig,
}

impl Settings for Remote {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.group("client", "How it is connected.", &mut self.client);
    }
}

#[tokio::test]
async fn settings_of_an_http_client_are_read_from_an_item() {
    let folder = Folder::new("client");
    folder.adapters(
        "adapters:\n- name: a\n  client:\n    max_connections: 3\n    max_idle_per_host: 2\n    \
         idle_timeout: 5s\n    connect_timeout: 4s\n    max_head_bytes: 16KiB\n    \
         max_response_bytes: 2MiB\n    http2: true\n",
    );
    let loaded = folder.files().load_with::<Remote>(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    let seen = Arc::new(Mutex::new(None));
    let see = seen.clone();
    let made = plimsoll.adapters(&loaded, move |spec| {
        *see.lock().unwrap() = Some(spec.settings.client.clone());
        Ok(spec
            .builder()
            .function(|n: u8| async move { Ok::<_, BoxError>(n) })?)
    });
    let _made: plimsoll::Adapters<u8, u8> = made.unwrap();
    let expected = HttpClientConfig::new()
        .max_connections(3)
        .max_idle_per_host(2)
        .idle_timeout(5 * SECOND)
        .connect_timeout(4 * SECOND)
        .max_head_bytes(16_384)
        .max_response_bytes(2 << 20)
        .http2(true);
    assert_eq!(*seen.lock().unwrap(), Some(expected));
    folder.adapters("adapters:\n- name: a\n  client: {connect_timeout: 61s, max_head_bytes: 1}\n");
    let error = plimsoll.reload().await.unwrap_err();
    let keys: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| &*problem.key)
        .collect();
    let expected = [
        "adapters.a.client.connect_timeout",
        "adapters.a.client.max_head_bytes",
    ];
    assert_eq!(keys, expected);
}

// === where alerts are sent ===

/// A receiver of alerts until the one that it leaks, and where it is. Where others have taken the memory of
/// the machine, that is told before.
fn receiver() -> (SocketAddr, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let receive = move || loop {
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = String::new();
        while !text.ends_with('}') {
            let mut part = [0; 4_096];
            let length = stream.read(&mut part).unwrap();
            assert!(length > 0, "{text}");
            text.push_str(std::str::from_utf8(&part[..length]).unwrap());
        }
        let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
        stream.write_all(answer).unwrap();
        if text.contains("it leaks") {
            break text;
        }
    };
    (addr, thread::spawn(receive))
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_sent_where_the_file_says() {
    let (addr, receiving) = receiver();
    let folder = Folder::new("webhook");
    folder.config(&format!(
        "webhook:\n  uri: http://{addr}/T0KEN\n  authorization: Bearer T0KEN\n  attempts: 1\n"
    ));
    let loaded = folder.files().load(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    for shown in [
        format!("{loaded:?}"),
        format!("{plimsoll:?}"),
        loaded.to_yaml(),
        format!("{:?}", plimsoll.configuration()),
    ] {
        assert!(!shown.contains("T0KEN"), "{shown}");
    }
    let alert = Alert::new(AlertKind::Leak, Severity::Warning, "it leaks").about("/found".into());
    plimsoll.load_line().alerts().raise(&alert);
    let told = tokio::task::spawn_blocking(|| receiving.join().unwrap()).await;
    let told = told.unwrap();
    assert!(told.starts_with("POST /T0KEN HTTP/1.1\r\n"), "{told}");
    assert!(told.contains("authorization: Bearer T0KEN\r\n"), "{told}");
    assert!(told.contains(r#""text":"it leaks""#), "{told}");
    let webhook = plimsoll.webhook().unwrap();
    let stats = webhook.stats();
    // Nobody receives what comes after it.
    assert!(stats.attempts > stats.failed, "{stats:?}");

    folder.config("webhook: off\n");
    let reload = plimsoll.reload().await.unwrap();
    let changes = reload.changes.iter();
    let mut changes = changes.filter(|change| change.key.starts_with("webhook"));
    assert!(changes.all(|change| !change.applied), "{reload:?}");
}

#[tokio::test]
async fn a_webhook_that_cannot_be_called_is_named_and_not_shown() {
    let folder = Folder::new("webhook-wrong");
    for (file, problem) in [
        ("webhook: on\n", "`webhook.uri` is ***, but must be a URI"),
        (
            "webhook: {uri: T0KEN}\n",
            "`webhook.uri` is ***, but must be a URI",
        ),
        (
            "webhook: {attempts: 3}\n",
            "`webhook.uri` is ***, but must be a URI",
        ),
        (
            "webhook: {uri: 'http://T0KEN', timeout: 0s}\n",
            "`webhook.timeout` is 0s, but must be a time between 100ms and 1m",
        ),
    ] {
        folder.config(file);
        let error = folder.files().load(code()).unwrap_err().to_string();
        assert!(
            error.contains(problem) && !error.contains("T0KEN"),
            "{error}"
        );
    }
    folder.config("webhook: {uri: 'https://T0KEN'}\n");
    let loaded = folder.files().load(code()).unwrap();
    let error = Plimsoll::start(loaded.config()).unwrap_err().to_string();
    let expected = "webhook: `uri` is ***, but must be one with the scheme http, for there is no \
                    TLS: use `with_service`";
    assert_eq!(error, expected);

    folder.config("{}\n");
    let loaded = folder.files().load(code()).unwrap();
    let plimsoll = Plimsoll::start(loaded.config()).unwrap();
    assert!(plimsoll.webhook().is_none());
    assert_eq!(plimsoll.load_line().manager().stats().hooks.hooks, 0);
}
