//! Items that say how an HTTP client is connected.

use crate::support::{Folder, SECOND, code};
use plimsoll::{
    BoxError, HttpClientConfig, Plimsoll,
    settings::{Fields, Settings},
};
use std::sync::{Arc, Mutex};

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
