#[cfg(feature = "profile")]
use crate::profile::Profiling;
use crate::{ask::Asker, config::Publisher, problem::Problem, readiness::Readiness};
use axum::http::StatusCode;
use metrics_exporter_prometheus::PrometheusHandle;
use plimsoll_breaker::Breakers;
use plimsoll_config::Configuration;
use plimsoll_core::{Lifecycle, Phase, Registry};
use plimsoll_http::EdgeLayer;
use plimsoll_memory::LoadLine;
use std::{sync::Arc, time::Duration};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    time::{Instant, timeout},
};

/// How long a sweep or a reload that was asked for may take before the answer says so.
pub(crate) const SWEEP_TIMEOUT: Duration = Duration::from_secs(30);

/// The most sweeps under way that were asked for here.
pub(crate) const MAX_SWEEPS: usize = 4;

/// What a service has besides holdings and tasks, as far as it has.
#[derive(Clone, Default)]
pub(crate) struct Parts {
    /// Whether *probe* is on the address of *admin*.
    pub(crate) has_probe: bool,
    pub(crate) breakers: Breakers,
    pub(crate) configuration: Option<Arc<dyn Configuration>>,
    pub(crate) edge: Option<EdgeLayer>,
    pub(crate) load_line: Option<LoadLine>,
    pub(crate) readiness: Arc<Readiness>,
    #[cfg(feature = "profile")]
    pub(crate) profiling: Profiling,
}

/// What the routes know.
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) parts: Parts,
    pub(crate) metrics: Option<PrometheusHandle>,
    /// Run before each scrape.
    pub(crate) publishers: Vec<Publisher>,
    /// The runtime of the service, not the one that the routes run on.
    pub(crate) main: Handle,
    pub(crate) asker: Asker,
    /// Apart, so that what an operator wants done waits for no long history that another reads.
    breaker_looks: Asker,
    breaker_commands: Asker,
    pub(crate) scrapes: Arc<Semaphore>,
    sweeps: Arc<Semaphore>,
    pub(crate) reloads: Arc<Semaphore>,
    pub(crate) reclaims: Arc<Semaphore>,
    #[cfg(feature = "profile")]
    pub(crate) profiles: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new(
        registry: Registry,
        lifecycle: Lifecycle,
        parts: Parts,
        metrics: Option<PrometheusHandle>,
        publishers: Vec<Publisher>,
        main: Handle,
    ) -> Self {
        Self {
            registry,
            lifecycle,
            parts,
            metrics,
            publishers,
            main,
            asker: Asker::new(),
            breaker_looks: Asker::new(),
            breaker_commands: Asker::new(),
            scrapes: Arc::new(Semaphore::new(1)),
            sweeps: Arc::new(Semaphore::new(MAX_SWEEPS)),
            reloads: Arc::new(Semaphore::new(1)),
            reclaims: Arc::new(Semaphore::new(1)),
            #[cfg(feature = "profile")]
            profiles: Arc::new(Semaphore::new(1)),
        }
    }

    /// Empties what the recorder has collected, and reports overdue sweeps: the sweeper cannot
    /// report itself while the workers are blocked.
    pub(crate) fn keep_up(&self) {
        if let Some(metrics) = &self.metrics {
            metrics.run_upkeep();
        }
        // Each is counted and logged there.
        let _ = self.registry.check_overdue();
    }

    /// Why the service is not ready, in a word, if it is not.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        match self.lifecycle.phase() {
            Phase::Running if self.parts.readiness.is_ready(Instant::now()) => None,
            Phase::Running => Some("pressure"),
            phase => Some(phase.as_str()),
        }
    }

    /// Looks at breakers, on another thread. `None` as [`Asker::ask`] says.
    pub(crate) async fn look_at_breakers<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Breakers) -> T + Send + 'static,
    ) -> Option<T> {
        self.breaker_looks.ask(self.of_breakers(look)).await
    }

    /// Has something done to breakers, on another thread. `None` as [`Asker::ask`] says.
    pub(crate) async fn command_breakers<T: Send + 'static>(
        &self,
        command: impl FnOnce(&Breakers) -> T + Send + 'static,
    ) -> Option<T> {
        self.breaker_commands.ask(self.of_breakers(command)).await
    }

    /// Whoever looks at a breaker may be the one who tells its observers, and what they spawn
    /// belongs on the runtime of the service.
    fn of_breakers<T>(
        &self,
        question: impl FnOnce(&Breakers) -> T + Send + 'static,
    ) -> impl FnOnce() -> T + Send + 'static {
        let (breakers, main) = (self.parts.breakers.clone(), self.main.clone());
        move || {
            let _inside = main.enter();
            question(&breakers)
        }
    }

    /// Runs a sweep on the runtime of the service, whose holdings it may block.
    ///
    /// It goes on when nobody waits for it any more, and counts as under way until it has ended.
    pub(crate) async fn sweep<T: Send + 'static>(
        &self,
        sweep: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = self.sweeps.clone().try_acquire_owned().map_err(|_| {
            Problem::busy(format!(
                "{MAX_SWEEPS} sweeps are under way, and no more may be"
            ))
        })?;
        let task = self.main.spawn(async move {
            let _permit = permit;
            sweep.await
        });
        match timeout(SWEEP_TIMEOUT, task).await {
            Ok(Ok(report)) => Ok(report),
            Ok(Err(_)) => Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the sweep was dropped: the runtime of the service has ended",
            )),
            Err(_) => Err(Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                format!("the sweep takes longer than {SWEEP_TIMEOUT:?}, and goes on"),
            )),
        }
    }
}
