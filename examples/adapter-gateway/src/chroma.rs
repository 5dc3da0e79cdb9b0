//! Vector search over HTTP, the way Chroma serves it.

use crate::{
    BoxError,
    client::JsonClient,
    corpus::Passage,
    question::{Failure, Found, Question, TOP},
    vector::{Query, QueryResult},
};
use http::{Uri, uri::Scheme};
use plimsoll::{HttpClientConfig, Name};
use std::sync::Arc;

/// A vector service. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Chroma(Arc<Service>);

#[derive(Debug)]
struct Service {
    client: JsonClient,
    uri: Uri,
}

impl Chroma {
    /// Will ask the service at this URL, such as `http://127.0.0.1:8000`, within these limits. The
    /// name is for errors.
    ///
    /// # Errors
    ///
    /// Says what was expected, for any other URL, and names each limit that is out of its range.
    pub fn new(
        name: impl Into<Name>,
        url: &str,
        limits: HttpClientConfig,
    ) -> Result<Self, BoxError> {
        let uri = query_uri(url).ok_or_else(|| {
            format!("url `{url}` is not one to ask: write for example http://127.0.0.1:8000")
        })?;
        // In words, since an adapter is told of its own limits otherwise.
        let client = JsonClient::new(name, limits).map_err(|error| error.to_string())?;
        Ok(Self(Arc::new(Service { client, uri })))
    }

    /// Finds the passages that are nearest to the question.
    ///
    /// # Errors
    ///
    /// Fails as [`JsonClient::post`] does.
    pub async fn ask(self, question: Question) -> Result<Vec<Found>, Failure> {
        let query = Query {
            query: question.as_str().to_owned(),
            n_results: TOP,
        };
        let Service { client, uri } = &*self.0;
        let result: QueryResult = client.post(uri, &query).await?;
        Ok(found(result))
    }
}

/// Where the service at this URL is asked; none if it cannot be one.
pub(crate) fn query_uri(url: &str) -> Option<Uri> {
    let uri = format!("{}/api/v1/query", url.trim_end_matches('/')).parse();
    uri.ok()
        .filter(|uri: &Uri| uri.scheme() == Some(&Scheme::HTTP))
}

fn found(result: QueryResult) -> Vec<Found> {
    let places = result.metadatas.into_iter().zip(result.distances);
    let found = result.documents.into_iter().zip(places);
    found
        // The service was asked for no more, but it is another process's word.
        .take(TOP)
        .map(|(text, (metadata, distance))| Found {
            passage: Passage {
                text,
                source: metadata.source,
            },
            score: 1.0 - f64::from(distance),
        })
        .collect()
}
