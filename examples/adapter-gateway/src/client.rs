//! An HTTP client that posts and receives JSON.

use crate::question::Failure;
use axum::body::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use plimsoll::{
    BoxError, HttpClient, HttpClientConfig, Name, adapter::ConfigError, breaker::judge_error,
    outcome,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{error::Error, time::SystemTime};
use tower_service::Service as _;

/// Connections are shared by all clones.
#[derive(Clone, Debug)]
pub struct JsonClient(HttpClient);

impl JsonClient {
    /// Creates a client without connections.
    ///
    /// # Errors
    ///
    /// Names each limit that is out of its range.
    pub fn new(name: impl Into<Name>, limits: HttpClientConfig) -> Result<Self, ConfigError> {
        HttpClient::new(name, limits).map(Self)
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
        let response = self.send(uri, body).await?;
        read(uri, &response)
    }

    /// Posts a value, and gives the answer whatever its status.
    ///
    /// # Errors
    ///
    /// Fails without a connection, and when the answer is too large.
    pub async fn send(&self, uri: &Uri, body: &impl Serialize) -> Result<Response<Bytes>, Failure> {
        let body = serde_json::to_vec(body).map_err(Failure::new)?;
        let request = Request::post(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .map_err(Failure::new)?;
        // A client is always ready.
        self.0.clone().call(request).await.map_err(|error| {
            let told = format!("no answer from {uri}: {}", chain(&error));
            Failure::new(told).judged(judge_error(&BoxError::from(error)))
        })
    }
}

/// Reads the value that an answer has.
///
/// # Errors
///
/// Fails with any status but 200, and when the value is not what was expected.
pub fn read<T: DeserializeOwned>(uri: &Uri, response: &Response<Bytes>) -> Result<T, Failure> {
    let status = response.status();
    if status != StatusCode::OK {
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let outcome = outcome::judge(status, retry_after, SystemTime::now());
        return Err(Failure::new(format!("{uri} answered {status}")).judged(outcome));
    }
    serde_json::from_slice(response.body())
        .map_err(|error| Failure::new(format!("unexpected answer from {uri}: {error}")))
}

/// An error with its causes, for people to read.
fn chain(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told.push_str(": ");
        told.push_str(&error.to_string());
        cause = error.source();
    }
    told
}
