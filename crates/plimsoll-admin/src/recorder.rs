use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

/// 1 ms to 10 s: from a cache hit to what nobody waits for.
const SECONDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// 256 B to 1 GiB, by fours.
const BYTES: [f64; 12] = [
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
];

/// 1 to 100 000, for what is neither.
const COUNTS: [f64; 11] = [
    1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0, 100_000.0,
];

/// The recorder that this process has from here.
static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// A recorder that was not installed here serves this process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecorderInstalled(());

/// Installs a Prometheus recorder for the process, and returns its handle. Later calls return a
/// handle to the same one.
///
/// Every histogram has buckets: from 1 ms to 10 s where its name ends in `_seconds`, from 256 B
/// to 1 GiB where it ends in `_bytes`, and from 1 to 100 000 elsewhere. Without them each of its
/// series would be a summary, which takes some hundred times the memory.
///
/// The recorder has to be kept up, or it keeps every sample that a histogram was given.
/// [`Control`](crate::Control) does that.
///
/// # Errors
///
/// When a recorder was installed by other means.
pub fn install_recorder() -> Result<PrometheusHandle, RecorderInstalled> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let recorder = build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| RecorderInstalled(()))?;
    *installed = Some(handle.clone());
    Ok(handle)
}

fn build_recorder() -> PrometheusRecorder {
    let named = |suffix: &str| Matcher::Suffix(suffix.to_owned());
    PrometheusBuilder::new()
        .set_buckets(&COUNTS)
        .and_then(|builder| builder.set_buckets_for_metric(named("_seconds"), &SECONDS))
        .and_then(|builder| builder.set_buckets_for_metric(named("_bytes"), &BYTES))
        .expect("no list of buckets is empty")
        .build_recorder()
}

impl fmt::Display for RecorderInstalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "another metrics recorder is installed: pass its `PrometheusHandle` to \
             `Control::start`, or pass none and scrape it where it serves",
        )
    }
}

impl std::error::Error for RecorderInstalled {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_histogram_has_buckets_that_fit_its_name() {
        let recorder = build_recorder();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("wait_seconds").record(0.003);
            metrics::histogram!("body_bytes").record(3_000.0);
            metrics::histogram!("batch").record(20.0);
        });
        let text = recorder.handle().render();
        for line in [
            "wait_seconds_bucket{le=\"0.0025\"} 0",
            "wait_seconds_bucket{le=\"0.005\"} 1",
            "wait_seconds_bucket{le=\"10\"} 1",
            "body_bytes_bucket{le=\"1024\"} 0",
            "body_bytes_bucket{le=\"4096\"} 1",
            "batch_bucket{le=\"10\"} 0",
            "batch_bucket{le=\"30\"} 1",
        ] {
            assert!(text.lines().any(|got| got == line), "{line} in\n{text}");
        }
        assert!(
            !text.contains("quantile"),
            "a summary takes some hundred times the memory"
        );
    }
}
