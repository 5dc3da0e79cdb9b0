//! A pooled HTTP client that posts and receives JSON.

use crate::question::Failure;
use axum::body::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use plimsoll::outcome;
use serde::{Serialize, de::DeserializeOwned};
use std::time::SystemTime;

/// Largest response that is read.
const MAX_RESPONSE_BYTES: usize = 256 * 1024;

const MAX_IDLE_CONNECTIONS: usize = 8;

/// Connections are shared by all clones.
#[derive(Clone, Debug)]
pub struct JsonClient {
    inner: legacy::Client<HttpConnector, Full<Bytes>>,
}

impl JsonClient {
    /// Creates a client without connections.
    #[must_use]
    pub fn new() -> Self {
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .build_http();
        Self { inner }
    }

    /// Posts a value and reads the answer.
    ///
    /// # Errors
    ///
    /// Fails without a connection, with any status but 200, and when the answer
    /// is too large or not what was expected.
    pub async fn post<T: DeserializeOwned>(
        &self,
        uri: &Uri,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(Failure::new)?;
        let request = Request::post(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .map_err(Failure::new)?;
        let response = self
            .inner
            .request(request)
            .await
            .map_err(|error| Failure::new(format!("no answer from {uri}: {error}")))?;
        let status = response.status();
        if status != StatusCode::OK {
            let retry_after = response.headers().get(header::RETRY_AFTER);
            let outcome = outcome::judge(status, retry_after, SystemTime::now());
            return Err(Failure::new(format!("{uri} answered {status}")).judged(outcome));
        }
        let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES)
            .collect()
            .await
            .map_err(|error| Failure::new(format!("reading from {uri}: {error}")))?;
        serde_json::from_slice(&body.to_bytes())
            .map_err(|error| Failure::new(format!("unexpected answer from {uri}: {error}")))
    }
}

impl Default for JsonClient {
    fn default() -> Self {
        Self::new()
    }
}
