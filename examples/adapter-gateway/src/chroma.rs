//! Vector search over HTTP, as an adapter.

use crate::{
    BoxError,
    adapters::{Adapter, Answering, Found, TOP},
    client::JsonClient,
    corpus::Passage,
    vector::{Query, QueryResult},
};
use http::Uri;
use plimsoll::breaker::CircuitBreakerConfig;
use std::net::SocketAddr;

/// The adapter `qa-vector-chroma`.
#[derive(Debug)]
pub struct Chroma {
    client: JsonClient,
    uri: Uri,
}

impl Chroma {
    /// Will ask the service at this address.
    ///
    /// # Errors
    ///
    /// Fails when the address does not make a URI.
    pub fn new(address: SocketAddr) -> Result<Self, BoxError> {
        Ok(Self {
            client: JsonClient::new(),
            uri: format!("http://{address}/api/v1/query").parse()?,
        })
    }
}

impl Adapter for Chroma {
    fn name(&self) -> &'static str {
        "qa-vector-chroma"
    }

    fn circuit(&self) -> CircuitBreakerConfig {
        CircuitBreakerConfig::network()
    }

    fn ask<'a>(&'a self, question: &'a str) -> Answering<'a> {
        Box::pin(async move {
            let query = Query {
                query: question.to_owned(),
                n_results: TOP,
            };
            let result: QueryResult = self.client.post(&self.uri, &query).await?;
            Ok(found(result))
        })
    }
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
