//! How many records all adapters keep together, and what is done when those are too many.

use crate::{AdapterMemory, MemorySummary, adapter::Shared};
use plimsoll_core::{
    ConfigError, Name, Problems, Removed,
    settings::{Kind, Setting, Value},
};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// How many records all adapters may keep together before the oldest are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RecordThreshold {
    /// Any number; each history still has its own caps.
    Off,
    /// So many, at least 1.
    Records(u64),
    /// This share of what the caps of all histories add up to, above 0 and at most 1. 0.8 is the
    /// default. Any number if one history has no cap.
    Share(f64),
}

impl Setting for RecordThreshold {
    fn kind(&self) -> Kind {
        Kind::CountOrShare(1..=u64::MAX)
    }

    fn words(&self) -> &'static [&'static str] {
        &["off"]
    }

    fn value(&self) -> Value {
        match *self {
            Self::Off => Value::Word("off"),
            Self::Records(records) => Value::Integer(records),
            // Rounded, since most shares are no binary fraction, though most percentages are.
            Self::Share(share) => Value::Share((share * 1e8).round() / 1e6),
        }
    }

    fn set(&mut self, value: Value) {
        *self = match value {
            Value::Integer(records) => Self::Records(records),
            Value::Share(percent) => Self::Share(percent / 100.0),
            _ => Self::Off,
        };
    }
}

impl Default for RecordThreshold {
    fn default() -> Self {
        Self::Share(0.8)
    }
}

/// There were too many records, and some were dropped. Shown as `12000 records of calls and transitions were
/// kept, of 10000 that may be: 100 that were too old and 3900 of the oldest were dropped, 8000 are left`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct RecordAlert {
    /// How many there were.
    pub records: u64,
    /// How many there may be.
    pub threshold: u64,
    /// How many were dropped because they were too old.
    pub expired: u64,
    /// How many were dropped because they were the oldest.
    pub trimmed: u64,
    /// How many are left.
    pub remaining: u64,
}

impl fmt::Display for RecordAlert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            records,
            threshold,
            expired,
            trimmed,
            remaining,
        } = self;
        write!(
            f,
            "{records} records of calls and transitions were kept, of {threshold} that may be: \
             {expired} that were too old and {trimmed} of the oldest were dropped, {remaining} are left"
        )
    }
}

type Callback = Arc<dyn Fn(&RecordAlert) + Send + Sync>;

/// Under load there are several alerts a second, of which the log needs one now and then.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The histories of all adapters.
///
/// No lock is held while somebody is told, and none but `crossing` while histories are looked at;
/// that one is only tried.
#[derive(Default)]
pub(crate) struct Records {
    members: RwLock<Arc<[Arc<Shared>]>>,
    threshold: Mutex<RecordThreshold>,
    /// The program's own, and that of whoever runs the service.
    callbacks: Mutex<[Option<Callback>; 2]>,
    log: Mutex<Log>,
    /// Whether there are too many, and that was told. Whoever looks holds it.
    crossing: Mutex<bool>,
    /// Records that must come before there can be too many.
    headroom: AtomicU64,
}

/// Which alerts are logged.
#[derive(Debug, Default)]
struct Log {
    last: Option<Instant>,
    /// Alerts since then that were not logged.
    left_out: u64,
}

impl Log {
    /// How many alerts were left out since the last one, if this one is to be logged.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let since = self.last.map(|last| now.saturating_duration_since(last));
        if since.is_some_and(|since| since < LOG_INTERVAL) {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Records {
    pub(crate) fn members(&self) -> Arc<[Arc<Shared>]> {
        let members = self.members.read();
        members.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_members(&self, members: Arc<[Arc<Shared>]>) {
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = members;
        // Looked at with the next batch.
        self.headroom.store(0, Relaxed);
    }

    pub(crate) fn set_threshold(&self, threshold: RecordThreshold) -> Result<(), ConfigError> {
        let mut problems = Problems::default();
        problems.check("record_threshold", &threshold.kind(), &threshold.value());
        problems.into_result()?;
        *lock(&self.threshold) = threshold;
        self.check();
        Ok(())
    }

    pub(crate) fn set_callback(&self, callback: Callback) {
        // The one before is dropped under no lock.
        let _before = lock(&self.callbacks)[0].replace(callback);
    }

    pub(crate) fn set_other_callback(&self, callback: Callback) {
        let _before = lock(&self.callbacks)[1].replace(callback);
    }

    /// So many records were added. Looks at the histories once there can be too many.
    pub(crate) fn added(&self, records: u64) {
        let less = |left: u64| Some(left.saturating_sub(records));
        // Always `Ok`. Nothing is published by it.
        let left = self.headroom.fetch_update(Relaxed, Relaxed, less);
        if left.is_ok_and(|left| left <= records) {
            self.check();
        }
    }

    /// Drops records if there are too many, and tells of it once for each time that happens.
    pub(crate) fn check(&self) {
        if let Some(alert) = self.relieve() {
            self.tell(&alert);
        }
    }

    fn relieve(&self) -> Option<RecordAlert> {
        let mut crossing = match self.crossing.try_lock() {
            Ok(crossing) => crossing,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody is at it.
            Err(TryLockError::WouldBlock) => return None,
        };
        let members = self.members();
        let Some(threshold) = self.threshold(&members) else {
            self.headroom.store(u64::MAX, Relaxed);
            *crossing = false;
            return None;
        };
        let records = count(&members);
        let mut remaining = records;
        let mut alert = None;
        if records > threshold {
            let expired = cleanup(&members).iter().map(|(_, n)| n.total()).sum();
            let trimmed = trim(&members, threshold - threshold / 5);
            remaining = count(&members);
            alert = (!*crossing).then_some(RecordAlert {
                records,
                threshold,
                expired,
                trimmed,
                remaining,
            });
        }
        *crossing = remaining > threshold;
        self.headroom.store(
            threshold.saturating_sub(remaining).saturating_add(1),
            Relaxed,
        );
        alert
    }

    fn tell(&self, alert: &RecordAlert) {
        let RecordAlert {
            records,
            threshold,
            expired,
            trimmed,
            remaining,
        } = *alert;
        // In a statement of its own: who writes the log is called under no lock.
        let admitted = lock(&self.log).admit(Instant::now());
        if let Some(left_out) = admitted {
            tracing::warn!(
                records,
                threshold,
                expired,
                trimmed,
                remaining,
                left_out,
                "the histories of adapters had too many records"
            );
        }
        #[cfg(feature = "metrics")]
        metrics::counter!("plimsoll_adapter_record_alerts_total").increment(1);
        let callbacks = lock(&self.callbacks).clone();
        for callback in callbacks.into_iter().flatten() {
            if catch_unwind(AssertUnwindSafe(|| callback(alert))).is_err() {
                tracing::error!("the callback of a record alert panicked");
            }
        }
    }

    fn threshold(&self, members: &[Arc<Shared>]) -> Option<u64> {
        // Histories are not looked at under the lock.
        let threshold = *lock(&self.threshold);
        match threshold {
            RecordThreshold::Off => None,
            RecordThreshold::Records(records) => Some(records),
            RecordThreshold::Share(share) => {
                let caps = members.iter().map(|member| max_records(member));
                let caps: u64 = caps.sum::<Option<u64>>()?;
                Some((caps as f64 * share) as u64)
            }
        }
    }

    /// What all histories hold, once those that are too many are dropped.
    pub(crate) fn summary(&self) -> MemorySummary {
        self.check();
        let members = self.members();
        let adapters: Vec<_> = members.iter().map(|member| memory_of(member)).collect();
        MemorySummary {
            calls: adapters.iter().map(|adapter| adapter.calls).sum(),
            transitions: adapters.iter().map(|adapter| adapter.transitions).sum(),
            bytes: adapters.iter().map(|adapter| adapter.bytes).sum(),
            threshold: self.threshold(&members),
            adapters,
        }
    }

    pub(crate) fn cleanup(&self) -> Vec<(Name, Removed)> {
        let removed = cleanup(&self.members());
        self.check();
        removed
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn memory_of(member: &Shared) -> AdapterMemory {
    let usage = member.breaker.history_usage();
    let queued_bytes = member.gate.queue().bytes;
    AdapterMemory {
        name: member.name,
        calls: usage.calls,
        max_calls: usage.max_calls,
        transitions: usage.transitions,
        max_transitions: usage.max_transitions,
        bytes: member.breaker.bytes() + queued_bytes,
        queued_bytes,
        last_cleanup: usage.last_sweep,
        cleanup_interval: usage.sweep_interval,
        retention: usage.retention,
    }
}

fn records(member: &Shared) -> (u64, u64) {
    let usage = member.breaker.history_usage();
    (usage.calls, usage.transitions)
}

/// `None` if there is no cap.
fn max_records(member: &Shared) -> Option<u64> {
    let usage = member.breaker.history_usage();
    if !usage.enabled {
        return Some(0);
    }
    match (usage.max_calls, usage.max_transitions) {
        (0, _) | (_, 0) => None,
        (calls, transitions) => Some(calls.saturating_add(transitions)),
    }
}

fn count(members: &[Arc<Shared>]) -> u64 {
    let records = members.iter().map(|member| records(member));
    records
        .map(|(calls, transitions)| calls + transitions)
        .sum()
}

fn cleanup(members: &[Arc<Shared>]) -> Vec<(Name, Removed)> {
    let removed = members.iter();
    removed
        .map(|member| (member.name, member.breaker.cleanup()))
        .collect()
}

/// Drops the oldest records so that about `target` are left: calls, of which each history gives up
/// the same share, and then transitions too where there are too many of them alone.
fn trim(members: &[Arc<Shared>], target: u64) -> u64 {
    let held: Vec<_> = members.iter().map(|member| records(member)).collect();
    let calls = held.iter().map(|(calls, _)| calls).sum();
    let transitions = held.iter().map(|(_, transitions)| transitions).sum();
    if calls + transitions <= target {
        return 0;
    }
    let kept_transitions = target.min(transitions);
    let kept_calls = target - kept_transitions;
    let trimmed = members.iter().zip(held).map(|(member, held)| {
        let calls = share(held.0, kept_calls, calls);
        let transitions = share(held.1, kept_transitions, transitions);
        member.breaker.trim(calls, transitions).total()
    });
    trimmed.sum()
}

/// How many of `held` are kept where `kept` of `all` are.
fn share(held: u64, kept: u64, all: u64) -> usize {
    (u128::from(held) * u128::from(kept) / u128::from(all.max(1))) as usize
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("threshold", &self.threshold)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(plimsoll_loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_alert_in_ten_seconds_is_logged_with_how_many_were_left_out() {
        let start = Instant::now();
        let mut log = Log::default();
        let mut at = |millis| log.admit(start + Duration::from_millis(millis));
        assert_eq!(at(0), Some(0));
        assert_eq!((at(1), at(5_000), at(9_999)), (None, None, None));
        assert_eq!(at(10_000), Some(3));
        assert_eq!(at(19_999), None);
        assert_eq!(at(60_000), Some(1));
        assert_eq!(at(70_000), Some(0));
    }
}
