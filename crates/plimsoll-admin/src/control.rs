use crate::{
    config::ControlConfig,
    error::ControlError,
    serve::{Shutdown, ended, serve_listener},
    shared::Shared,
    site::Site,
    telemetry, upkeep,
};
use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use plimsoll_core::{Lifecycle, Registry};
use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};
use tokio::{
    runtime::{self, Handle},
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::timeout,
};

/// How long requests under way may take once the listeners are told to end.
const GRACE: Duration = Duration::from_secs(1);

/// How long [`Control::stop`] waits for the thread.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Four threads may be lost: to a hanging holding, to hanging observers of breakers that are looked
/// at and operated, and to a hanging log. Rendering takes a fifth, a heap profile a sixth, whoever
/// switches sampling a seventh, and whoever makes room an eighth.
const MAX_BLOCKING_THREADS: usize = 8;

/// The control listeners, on their own thread.
///
/// They are no part of a drain: they answer until [`stop`](Self::stop) is called or the value is
/// dropped, which should be the last thing that a service does.
///
/// See the [crate docs](crate).
#[derive(Debug)]
#[must_use = "dropping it ends the listeners"]
pub struct Control {
    probe_addr: Option<SocketAddr>,
    admin_addr: Option<SocketAddr>,
    /// The listeners end when this is dropped.
    shutdown: watch::Sender<()>,
    /// Disconnected by the thread at its end. In a mutex so that the whole is `Sync`.
    done: Mutex<mpsc::Receiver<()>>,
    thread: thread::JoinHandle<()>,
}

impl Control {
    /// Binds the listeners and starts their thread. With no listener, the thread still keeps up
    /// the recorder and reports overdue sweeps.
    ///
    /// Call it inside the Tokio runtime of the service: sweeps that are asked for run there.
    /// `metrics` is the recorder to render for scrapes, that of
    /// [`install_recorder`](crate::install_recorder), say. Metrics of holdings and tasks go to
    /// the global recorder, so it should be the same.
    ///
    /// # Errors
    ///
    /// When a setting is wrong, an address cannot be bound, the thread cannot be started, or the
    /// call is made outside a runtime.
    pub fn start(
        config: ControlConfig,
        registry: Registry,
        lifecycle: Lifecycle,
        metrics: Option<PrometheusHandle>,
    ) -> Result<Self, ControlError> {
        let main = Handle::try_current().map_err(|_| ControlError::NoRuntime)?;
        let publishers = config.publishers();
        let parts = config.parts();
        let plan = config.plan()?;
        let sites = Site::bind(&plan)?;
        let addr = |wanted: fn(&Site) -> bool| {
            let site = sites.iter().find(|site| wanted(site));
            site.and_then(|site| site.listener.local_addr().ok())
        };
        let (probe_addr, admin_addr) = (addr(|site| site.probe), addr(|site| site.admin));

        let shared = Arc::new(Shared::new(
            registry, lifecycle, parts, metrics, publishers, main,
        ));
        let guard = Arc::new(plan.guard);
        let sites = sites.into_iter().map(|site| {
            let router = site.router(&shared, &guard);
            (site.listener, router)
        });
        let sites = sites.collect();

        let (shutdown, ended) = watch::channel(());
        let (started_tx, started) = mpsc::sync_channel(1);
        let (done_tx, done) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("plimsoll-control".to_owned())
            .spawn(move || {
                let _done = done_tx;
                run(sites, &shared, &started_tx, ended);
            })
            .map_err(ControlError::Thread)?;
        let died = |_| Err(io::Error::other("the control thread panicked"));
        started
            .recv()
            .unwrap_or_else(died)
            .map_err(ControlError::Thread)?;
        tracing::info!(?probe_addr, ?admin_addr, "control listeners started");
        Ok(Self {
            probe_addr,
            admin_addr,
            shutdown,
            done: Mutex::new(done),
            thread,
        })
    }

    /// Where *probe* listens, with the real port; `None` if it is off.
    #[must_use]
    pub const fn probe_addr(&self) -> Option<SocketAddr> {
        self.probe_addr
    }

    /// Where *admin* listens, with the real port; `None` if it is off.
    #[must_use]
    pub const fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// Ends the listeners, lets requests under way finish for a second at the most, and waits for
    /// the thread, for 5 seconds at the most. The ports are free then.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the listeners end even if the future is dropped.
    pub async fn stop(self) {
        let Self {
            shutdown,
            done,
            thread,
            ..
        } = self;
        drop(shutdown);
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let join = move || match done.recv_timeout(STOP_TIMEOUT) {
            Err(mpsc::RecvTimeoutError::Timeout) => {
                tracing::warn!("the control thread does not end, and is left behind");
            }
            // Nothing is ever sent, so this is its end.
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                if thread.join().is_err() {
                    tracing::error!("the control thread had panicked");
                }
            }
        };
        // An error means that the runtime is ending, and nobody is left to wait.
        let _ = spawn_blocking(join).await;
    }
}

/// The thread, from its start to its end.
fn run(
    sites: Vec<(TcpListener, Router)>,
    shared: &Arc<Shared>,
    started: &mpsc::SyncSender<io::Result<()>>,
    mut shutdown: Shutdown,
) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_name("plimsoll-ask")
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        let mut serving = JoinSet::new();
        for (listener, router) in sites {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => serving.spawn(serve_listener(listener, router, shutdown.clone())),
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
        }
        if shared.metrics.is_some() {
            telemetry::describe();
        }
        let kept_up = shared.clone();
        tokio::spawn(upkeep::run(move || kept_up.keep_up()));
        let _ = started.send(Ok(()));
        ended(&mut shutdown).await;
        let all = async { while serving.join_next().await.is_some() {} };
        let _ = timeout(GRACE, all).await;
    });
    // Not dropped: that would wait for a holding that hangs.
    runtime.shutdown_background();
}
