use super::cells::BOUNDS;
use plimsoll_core::Name;
use plimsoll_memory::MemoryStats;
use std::time::Duration;

/// What was counted at one endpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointSnapshot {
    /// The label of the endpoint.
    pub endpoint: Name,
    /// Requests in flight.
    pub in_flight: usize,
    /// Responses whose body failed or was dropped before its end.
    pub cut: u64,
    /// What its requests allocate and hold.
    pub memory: MemoryStats,
    /// The requests that ended, by method and status class, as far as there were any.
    pub requests: Vec<RequestCounts>,
}

/// The requests of one method and status class that ended at an endpoint.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RequestCounts {
    /// The method, or `OTHER`.
    pub method: &'static str,
    /// The status class.
    pub status: &'static str,
    /// Bytes of response bodies.
    pub bytes: u64,
    /// How long they took, taken together.
    pub time: Duration,
    pub(super) buckets: [u64; BOUNDS.len() + 1],
}

impl EndpointSnapshot {
    pub(super) const fn new(endpoint: Name, in_flight: usize, memory: MemoryStats) -> Self {
        Self {
            endpoint,
            in_flight,
            cut: 0,
            memory,
            requests: Vec::new(),
        }
    }

    pub(super) fn counts(
        &mut self,
        method: &'static str,
        status: &'static str,
    ) -> &mut RequestCounts {
        let same = |counts: &RequestCounts| counts.method == method && counts.status == status;
        let place = self.requests.iter().position(same).unwrap_or_else(|| {
            self.requests.push(RequestCounts {
                method,
                status,
                bytes: 0,
                time: Duration::ZERO,
                buckets: [0; BOUNDS.len() + 1],
            });
            self.requests.len() - 1
        });
        &mut self.requests[place]
    }
}

impl RequestCounts {
    /// How many requests there were.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How many requests took no longer than each bound, shortest first.
    pub fn within(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let mut sum = 0;
        BOUNDS.iter().zip(&self.buckets).map(move |(bound, count)| {
            sum += count;
            (*bound, sum)
        })
    }
}
