//! How much memory the process takes under load.

use std::{fmt, fs, time::Duration};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// By then whatever is filled once is full.
const WARM: Duration = Duration::from_secs(60);

const MIB: f64 = (1 << 20) as f64;

/// Memory at some moments, a line for each, for people to read.
#[derive(Clone, Debug)]
pub struct Memory(Vec<Sample>);

#[derive(Clone, Debug)]
struct Sample {
    after: Duration,
    /// What the system counts, where it tells.
    resident: Option<u64>,
    /// What was allocated and not freed.
    heap: u64,
}

impl Memory {
    /// Looks after a minute (or a tenth of the time, if that is less), after half of the time, and
    /// when the token is cancelled.
    pub async fn watch(duration: Duration, heap: fn() -> u64, ended: CancellationToken) -> Self {
        let start = Instant::now();
        let mut samples = Vec::new();
        for after in [WARM.min(duration / 10), duration / 2] {
            let moment = sleep_until(start + after);
            if ended.run_until_cancelled(moment).await.is_none() {
                break;
            }
            samples.push(Sample::take(start, heap));
        }
        ended.cancelled().await;
        samples.push(Sample::take(start, heap));
        Self(samples)
    }
}

impl Sample {
    fn take(start: Instant, heap: fn() -> u64) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            after: Instant::now().saturating_duration_since(start),
            resident: resident(&status),
            heap: heap(),
        }
    }
}

/// `statm` has pages, whose size it does not tell; `status` has kibibytes.
fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, sample) in self.0.iter().enumerate() {
            let line = if n == 0 { "" } else { "\n" };
            write!(f, "{line}memory    {sample}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(resident) = self.resident {
            write!(f, "{:.1} MiB resident, ", resident as f64 / MIB)?;
        }
        let (heap, after) = (self.heap as f64 / MIB, self.after.as_secs_f64());
        write!(f, "{heap:.1} MiB of heap after {after:.0} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status_where_it_is_told() {
        let status = "VmHWM:\t   12 kB\nVmRSS:\t    8 kB\nThreads:\t1\n";
        assert_eq!(resident(status), Some(8_192));
        for status in ["", "VmRSS:", "VmRSS:\t8", "VmRSS:\tmany kB"] {
            assert_eq!(resident(status), None, "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_looked_at_when_warm_halfway_and_in_the_end() {
        for (duration, ended, lines) in [(1_200, 1_200, "60 600 1200"), (20, 15, "2 10 15")] {
            let token = CancellationToken::new();
            let duration = Duration::from_secs(duration);
            let watch = Memory::watch(duration, || 3 << 19, token.clone());
            let end = async {
                tokio::time::sleep(Duration::from_secs(ended)).await;
                token.cancel();
            };
            let (memory, ()) = tokio::join!(watch, end);
            let text = memory.to_string();
            let after = text.lines().map(|line| {
                assert!(line.starts_with("memory    "), "{text}");
                let (_, after) = line.split_once("1.5 MiB of heap after ").expect("told");
                after.trim_end_matches(" s")
            });
            assert_eq!(after.collect::<Vec<_>>().join(" "), lines);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_ends_early_has_its_end() {
        let token = CancellationToken::new();
        token.cancel();
        let memory = Memory::watch(WARM, || 0, token).await;
        assert_eq!(memory.0.len(), 1);
    }
}
