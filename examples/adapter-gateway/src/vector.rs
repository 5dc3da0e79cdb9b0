//! A small vector database: hashed TF-IDF vectors in memory, served over HTTP
//! the way Chroma is.

use crate::{
    corpus::{Corpus, MAX_PASSAGES},
    text::{stable_hash, words},
};
use axum::{Json, Router, extract::State, routing::post};
use plimsoll::{Bounded, BoxFuture, CloseReport, Removed, Step, Totals, Usage};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;

/// Words that share a bucket count as the same word, so there are many more
/// buckets than words in a corpus.
const BUCKETS: u64 = 1 << 18;

/// How many results a query can ask for.
const MAX_RESULTS: usize = 50;

/// Non-zero components by bucket, of length 1 together.
type Vector = Vec<(u64, f32)>;

/// The vectors of a corpus.
#[derive(Debug)]
pub struct Index {
    corpus: Corpus,
    vectors: Vec<Vector>,
    /// In how many passages each bucket occurs.
    frequencies: BTreeMap<u64, u32>,
    /// Heap bytes of the texts and vectors.
    bytes: usize,
}

/// The body of `POST /api/v1/query`.
#[derive(Debug, Deserialize, Serialize)]
pub struct Query {
    /// What to look for.
    pub query: String,
    /// How many documents to give at most.
    pub n_results: usize,
}

/// The answer to a [`Query`], nearest first; the lists are of one length.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct QueryResult {
    /// The texts.
    pub documents: Vec<String>,
    /// Where each text stands.
    pub metadatas: Vec<Metadata>,
    /// Cosine distances: 0 for the same direction, 1 for nothing in common.
    pub distances: Vec<f32>,
}

/// What is known about a document.
#[derive(Debug, Deserialize, Serialize)]
pub struct Metadata {
    /// File and heading.
    pub source: String,
}

impl Index {
    /// Computes the vectors.
    #[must_use]
    pub fn new(corpus: Corpus) -> Self {
        let counts: Vec<_> = corpus.passages().iter().map(|p| count(&p.text)).collect();
        let mut frequencies = BTreeMap::new();
        for bucket in counts.iter().flat_map(BTreeMap::keys) {
            *frequencies.entry(*bucket).or_default() += 1;
        }
        let mut index = Self {
            corpus,
            vectors: Vec::new(),
            frequencies,
            bytes: 0,
        };
        index.vectors = counts.iter().map(|counts| index.weigh(counts)).collect();
        index.bytes = index.measure();
        index
    }

    fn measure(&self) -> usize {
        let texts = self.corpus.passages().iter();
        let texts: usize = texts.map(|p| p.text.capacity() + p.source.capacity()).sum();
        let vectors: usize = self.vectors.iter().map(Vec::capacity).sum();
        texts
            + size_of_val(self.corpus.passages())
            + size_of_val(&*self.vectors)
            + vectors * size_of::<(u64, f32)>()
            + self.frequencies.len() * size_of::<(u64, u32)>()
    }

    /// Finds the passages nearest to the text; those without a common word are
    /// left out. Compares with each passage in turn.
    #[must_use]
    pub fn query(&self, query: &Query) -> QueryResult {
        let wanted = self.weigh(&count(&query.query));
        let mut near: Vec<_> = self
            .vectors
            .iter()
            .zip(self.corpus.passages())
            .map(|(vector, passage)| (cosine(&wanted, vector), passage))
            .filter(|(similarity, _)| 0.0 < *similarity)
            .collect();
        near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut result = QueryResult::default();
        for (similarity, passage) in near.iter().take(query.n_results.min(MAX_RESULTS)) {
            let source = passage.source.clone();
            result.documents.push(passage.text.clone());
            result.metadatas.push(Metadata { source });
            result.distances.push(1.0 - similarity);
        }
        result
    }

    /// Weighs rare words more, and repeated words a little more.
    fn weigh(&self, counts: &BTreeMap<u64, u32>) -> Vector {
        let passages = self.corpus.passages().len() as f32;
        let mut vector: Vector = counts
            .iter()
            .filter_map(|(bucket, count)| {
                let frequency = *self.frequencies.get(bucket)? as f32;
                let rarity = (1.0 + passages / frequency).ln();
                Some((*bucket, (1.0 + (*count as f32).ln()) * rarity))
            })
            .collect();
        let length = vector.iter().map(|(_, x)| x * x).sum::<f32>().sqrt();
        for (_, x) in &mut vector {
            *x /= length;
        }
        vector
    }
}

/// What the index holds is fixed: nothing expires, nothing is expendable. Being
/// registered, it still shows up with its size next to everything else.
impl Bounded for Index {
    fn name(&self) -> &'static str {
        "vector-index"
    }

    fn usage(&self) -> Usage {
        Usage::new(self.vectors.len() as u64, self.bytes as u64)
            .with_max_entries(MAX_PASSAGES as u64)
    }

    fn totals(&self) -> Totals {
        Totals::new(self.vectors.len() as u64, Removed::NONE)
    }

    fn sweep(&self, _now: Instant, _budget: usize) -> Step {
        Step::idle()
    }

    fn close(self: Arc<Self>, _deadline: Instant) -> BoxFuture<'static, CloseReport> {
        // The vector service still has it, and frees it when it ends.
        Box::pin(async { CloseReport::default() })
    }
}

/// Serves the index until the token is cancelled and the connections are done.
pub async fn serve(listener: TcpListener, index: Arc<Index>, token: CancellationToken) {
    let app = Router::new()
        .route("/api/v1/query", post(answer))
        .with_state(index);
    let served = axum::serve(listener, app)
        .with_graceful_shutdown(token.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "vector service ended");
    }
}

async fn answer(State(index): State<Arc<Index>>, Json(query): Json<Query>) -> Json<QueryResult> {
    Json(index.query(&query))
}

fn count(text: &str) -> BTreeMap<u64, u32> {
    let mut counts = BTreeMap::new();
    for word in words(text) {
        *counts.entry(stable_hash([&*word]) % BUCKETS).or_default() += 1;
    }
    counts
}

/// The product of two vectors of length 1, walking both in the order of buckets.
fn cosine(a: &[(u64, f32)], b: &[(u64, f32)]) -> f32 {
    let mut b = b.iter().peekable();
    let mut sum = 0.0;
    for (bucket, x) in a {
        while b.next_if(|(other, _)| other < bucket).is_some() {}
        if let Some((_, y)) = b.next_if(|(other, _)| other == bucket) {
            sum += x * y;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Passage;

    fn index(texts: &[&str]) -> Index {
        let passages = texts.iter().map(|text| Passage {
            text: (*text).to_owned(),
            source: "a.md".to_owned(),
        });
        Index::new(passages.collect())
    }

    fn query(index: &Index, text: &str, n_results: usize) -> QueryResult {
        index.query(&Query {
            query: text.to_owned(),
            n_results,
        })
    }

    #[test]
    fn same_text_is_at_distance_zero_and_strangers_are_left_out() {
        let index = index(&["the drain delay", "memory limit"]);
        let result = query(&index, "The drain, delay?", 5);
        assert_eq!(result.documents, ["the drain delay"]);
        assert!(result.distances[0].abs() < 1e-6);
        assert!(query(&index, "unheard of", 5).documents.is_empty());
        assert!(query(&index, "", 5).documents.is_empty());
    }

    #[test]
    fn rare_words_weigh_more_than_common_ones() {
        let index = index(&["the cache", "the limit", "drain queue", "the queue"]);
        let result = query(&index, "the drain", 5);
        assert_eq!(result.documents[0], "drain queue");
        assert!(result.distances.is_sorted());
    }

    #[test]
    fn the_holding_tells_passages_and_bytes() {
        let index = index(&["the cache", "the limit"]);
        let usage = index.usage();
        assert_eq!(usage.entries, 2);
        assert!(usage.bytes > 2 * "the cache".len() as u64);
        assert!(index.totals().balance(usage.entries));
    }

    #[test]
    fn results_are_bounded() {
        let index = index(&["same"; 80]);
        assert_eq!(query(&index, "same", 5).documents.len(), 5);
        assert_eq!(
            query(&index, "same", usize::MAX).documents.len(),
            MAX_RESULTS
        );
    }
}
