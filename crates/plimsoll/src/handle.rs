#[cfg(feature = "adapter")]
use crate::AdapterSetupError;
#[cfg(feature = "config")]
use crate::config::{AdapterSettings, AdapterSpec, Loaded, fitted::Set, live};
use crate::{Config, StartError, error::Cause};
#[cfg(feature = "config")]
use plimsoll_adapter::Adapters;
#[cfg(feature = "adapter")]
use plimsoll_adapter::{Adapter, AdapterDirectory};
#[cfg(feature = "breaker")]
use plimsoll_breaker::{Breakers, CircuitBreaker, KeyedBreakers};
#[cfg(any(feature = "config", feature = "http"))]
use plimsoll_core::BoxError;
use plimsoll_core::{
    Holding, Lifecycle, Name, Registry, lifecycle::SpawnError, registry::RegisterError,
};
#[cfg(all(feature = "config", feature = "http"))]
use plimsoll_memory::{Alert, AlertKind, Severity};
use std::sync::Arc;
#[cfg(feature = "http")]
use std::time::Duration;
use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::sync::CancellationToken;
#[cfg(any(feature = "config", feature = "http"))]
use tokio_util::sync::DropGuard;
#[cfg(feature = "http")]
use {
    http::{Request, Response},
    hyper::body::Incoming,
    plimsoll_alloc::GroupId,
    plimsoll_core::StopReport,
    plimsoll_http::{EdgeLayer, Server},
    plimsoll_memory::{Held, LoadLine, MonitorGuard, RetainedByGroup, verdict::LeakKind},
    tokio::net::TcpListener,
    tower_service::Service,
};
#[cfg(feature = "admin")]
use {
    plimsoll_admin::{Control, ControlConfig},
    std::net::SocketAddr,
};
#[cfg(feature = "client")]
use {
    plimsoll_http::{Webhook, WebhookConfig},
    plimsoll_memory::Alerts,
};

/// A service kept afloat. Cloning gives another handle to the same one.
///
/// See the [crate docs](crate).
#[derive(Clone, Debug)]
pub struct Plimsoll {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    lifecycle: Lifecycle,
    #[cfg(feature = "breaker")]
    breakers: Breakers,
    #[cfg(feature = "adapter")]
    adapters: AdapterDirectory,
    #[cfg(feature = "config")]
    live: live::Handle,
    /// The files are watched until this is dropped.
    #[cfg(feature = "config")]
    _watch: DropGuard,
    #[cfg(feature = "http")]
    edge: EdgeLayer,
    #[cfg(feature = "http")]
    server: Server,
    /// The process is looked at until this is dropped.
    #[cfg(feature = "http")]
    _process: DropGuard,
    #[cfg(feature = "http")]
    line: LoadLine,
    #[cfg(feature = "client")]
    webhook: Option<Webhook>,
    /// The process is monitored until this is dropped.
    #[cfg(feature = "http")]
    _monitor: MonitorGuard,
    /// Its listeners answer until this is dropped, which is after the stop.
    #[cfg(feature = "admin")]
    control: Option<Control>,
}

impl Plimsoll {
    /// Starts what all parts share: the sweeper, and the probe and admin listeners.
    ///
    /// The service is not ready until [`serve`](Self::serve) is called, or
    /// [`Lifecycle::set_ready`] by services that serve by themselves.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, settings contradict each other, an address cannot be
    /// listened on, or there is no Tokio runtime.
    #[cfg_attr(
        not(any(feature = "admin", feature = "http")),
        expect(
            clippy::needless_pass_by_value,
            reason = "consumed with `admin` or `http`"
        )
    )]
    pub fn start(config: Config) -> Result<Self, StartError> {
        #[cfg(feature = "config")]
        let live = match &config.live {
            Some(live) => live.clone(),
            None => live::Handle::of_code(config.clone()),
        };
        let Config {
            registry,
            lifecycle,
            #[cfg(feature = "http")]
            server,
            #[cfg(feature = "http")]
            memory,
            #[cfg(feature = "http")]
            allocator,
            #[cfg(feature = "client")]
            webhook,
            #[cfg(feature = "admin")]
            control,
            ..
        } = config;
        let runtime = Handle::try_current().map_err(|_| Cause::NoRuntime)?;
        let lifecycle = Lifecycle::with_config(lifecycle).map_err(Cause::Lifecycle)?;
        let registry = Registry::with_config(registry);
        // The recorder comes first: a metric handle made before it records nothing.
        #[cfg(feature = "http")]
        let edge = EdgeLayer::new().memory(&memory).map_err(Cause::Memory)?;
        #[cfg(all(feature = "admin", feature = "http"))]
        let control = control.map(|control| {
            let published = edge.clone();
            let control = control.before_scrape(move || published.publish_metrics());
            control.edge_or(edge.clone())
        });
        #[cfg(feature = "adapter")]
        let adapters = AdapterDirectory::new();
        #[cfg(feature = "client")]
        let (webhook, alerts) = start_webhook(&runtime, webhook)?;
        #[cfg(feature = "http")]
        let (line, monitor) = {
            let builder = LoadLine::builder(&memory)
                .registry(registry.clone())
                .admission(edge.admission().clone())
                .runtime(runtime.clone())
                .tasks({
                    let lifecycle = lifecycle.clone();
                    move || lifecycle.tasks()
                })
                .in_flight({
                    let edge = edge.clone();
                    move || edge.in_flight() as u64
                })
                .holders(
                    "routes, adapters and tasks",
                    holders(
                        &edge,
                        #[cfg(feature = "adapter")]
                        &adapters,
                        &lifecycle,
                    ),
                );
            let builder = match allocator {
                Some(allocator) => builder.allocator(allocator.0),
                None => builder,
            };
            #[cfg(feature = "client")]
            let builder = builder.alerts(alerts);
            builder.start().map_err(Cause::Monitor)?
        };
        #[cfg(feature = "http")]
        {
            let alerts = line.alerts().clone();
            registry.on_overdue(move |overdue| alerts.overdue(overdue));
        }
        #[cfg(all(feature = "config", feature = "http"))]
        live.set_edge(edge.clone(), line.clone());
        #[cfg(all(feature = "admin", feature = "http"))]
        let control = control.map(|control| {
            let published = line.clone();
            let control = control.before_scrape(move || published.publish_metrics());
            control.load_line_or(line.clone())
        });
        #[cfg(all(feature = "admin", feature = "client"))]
        let control = control.map(|control| match webhook.clone() {
            Some(webhook) => control.before_scrape(move || webhook.publish_metrics()),
            None => control,
        });
        #[cfg(all(feature = "admin", feature = "adapter"))]
        let control = control.map(|control| {
            let adapters = adapters.clone();
            control.before_scrape(move || adapters.publish_metrics())
        });
        #[cfg(all(feature = "admin", feature = "adapter", feature = "profile"))]
        let control = control.map(|control| {
            let adapters = adapters.clone();
            control.groups("adapter", move || adapters.memory_groups())
        });
        #[cfg(all(feature = "admin", feature = "config"))]
        let control = control.map(|control| control.configuration_or(live.configuration()));
        #[cfg(all(feature = "admin", feature = "breaker"))]
        let mut control = control;
        #[cfg(all(feature = "admin", feature = "breaker"))]
        let breakers = control
            .as_mut()
            .map_or_else(Breakers::new, ControlConfig::breakers_or_default);
        #[cfg(all(not(feature = "admin"), feature = "breaker"))]
        let breakers = Breakers::new();
        #[cfg(feature = "admin")]
        let control = control
            .map(|control| start_control(control, &registry, &lifecycle))
            .transpose()?;
        #[cfg(feature = "http")]
        let server = Server::new(HTTP, server).map_err(Cause::Server)?;
        // Not a task of the lifecycle: it sweeps until the registry is gone, holds nothing, and
        // has nothing to end.
        runtime.spawn(registry.sweeper());
        #[cfg(feature = "http")]
        let process = watch_process(&runtime, &registry, &lifecycle, &edge);
        #[cfg(feature = "config")]
        let watch = live::watch(&live, &lifecycle);
        Ok(Self {
            inner: Arc::new(Inner {
                registry,
                lifecycle,
                #[cfg(feature = "breaker")]
                breakers,
                #[cfg(feature = "adapter")]
                adapters,
                #[cfg(feature = "config")]
                live,
                #[cfg(feature = "config")]
                _watch: watch,
                #[cfg(feature = "http")]
                edge,
                #[cfg(feature = "http")]
                server,
                #[cfg(feature = "http")]
                _process: process,
                #[cfg(feature = "http")]
                line,
                #[cfg(feature = "client")]
                webhook,
                #[cfg(feature = "http")]
                _monitor: monitor,
                #[cfg(feature = "admin")]
                control,
            }),
        })
    }

    /// Registers a holding under its own name, and gives the handle back.
    ///
    /// From now on it is swept, measured, shown, and closed at a stop; until its last handle is
    /// dropped.
    ///
    /// # Errors
    ///
    /// As [`Registry::register`].
    pub fn register<H: Holding>(&self, holding: H) -> Result<H, RegisterError> {
        self.inner.registry.register(holding)
    }

    /// Spawns a named task, which should end when [`cancellation_token`](Self::cancellation_token)
    /// is cancelled.
    ///
    /// # Errors
    ///
    /// As [`Lifecycle::spawn`].
    ///
    /// # Panics
    ///
    /// When called outside a Tokio runtime.
    #[track_caller]
    pub fn spawn<F>(
        &self,
        name: impl Into<Name>,
        future: F,
    ) -> Result<JoinHandle<F::Output>, SpawnError>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.inner.lifecycle.spawn(name, future)
    }

    /// A token that is cancelled when tasks should end, after the last request was answered.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.inner.lifecycle.cancellation_token()
    }

    /// Everything that holds memory.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// The tasks and the phases of a stop. For another server than [`serve`](Self::serve), hold a
    /// [listener's guard](Lifecycle::listener) while it runs, and call
    /// [`Lifecycle::stop_on_signal`] beside it.
    #[must_use]
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.inner.lifecycle
    }

    /// The one layer to put around a service, outermost. Every call gives the same layer.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn layer(&self) -> EdgeLayer {
        self.inner.edge.clone()
    }

    /// All that keeps the process under its line: the monitor, the admission of requests, alerts, and
    /// verdicts on what leaks.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn load_line(&self) -> &LoadLine {
        &self.inner.line
    }

    /// The webhook that alerts are sent by, for its counts; none if there is none.
    #[cfg(feature = "client")]
    #[must_use]
    pub fn webhook(&self) -> Option<&Webhook> {
        self.inner.webhook.as_ref()
    }

    /// The server that [`serve`](Self::serve) runs, for its counts.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.inner.server
    }

    /// Asks for a stop from inside the program, as SIGTERM does from outside.
    pub fn request_stop(&self) {
        self.inner.lifecycle.request_stop();
    }

    /// Serves until SIGTERM, SIGINT or [`request_stop`](Self::request_stop), then stops: drains,
    /// closes holdings, ends tasks. A second signal aborts, as
    /// [`Lifecycle::stop_on_signal`] says.
    ///
    /// Returns within the stop timeout, and half a second if a handler blocks its thread. Such a
    /// handler outlives that, and would keep the runtime from being dropped: end the process with
    /// [`std::process::exit`] and [`StopReport::exit_code`] if there may be any.
    ///
    /// # Errors
    ///
    /// When signal handlers cannot be installed. Nothing has been served then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cuts every connection off, and leaves the stop where it was.
    #[cfg(feature = "http")]
    pub async fn serve<S, B>(
        &self,
        listener: TcpListener,
        service: S,
    ) -> Result<Arc<StopReport>, BoxError>
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let Inner {
            registry,
            lifecycle,
            server,
            ..
        } = &*self.inner;
        #[cfg(feature = "config")]
        self.inner.live.warn_of_strangers();
        let mut stopping = std::pin::pin!(lifecycle.stop_on_signal(registry));
        let mut serving = std::pin::pin!(async {
            // Polled after `stopping`, which has installed the signal handlers by then.
            lifecycle.set_ready();
            server.serve(listener, service, lifecycle).await;
        });
        // The server ends while the stop goes on, never the other way round.
        let report = tokio::select! {
            biased;
            report = &mut stopping => report,
            () = &mut serving => stopping.await,
        };
        Ok(report?)
    }
}

#[cfg(feature = "breaker")]
impl Plimsoll {
    /// Registers a circuit breaker under its own name, and gives the handle back.
    ///
    /// From now on its history is swept and measured as that of any
    /// [holding](Self::register), and the admin API shows and operates it; until its last handle
    /// is dropped.
    ///
    /// # Errors
    ///
    /// As [`Registry::register`], and when one of [`breakers`](Self::breakers) has its name. It is
    /// registered in neither place then.
    pub fn register_breaker(
        &self,
        breaker: CircuitBreaker,
    ) -> Result<CircuitBreaker, RegisterError> {
        let Inner {
            registry, breakers, ..
        } = &*self.inner;
        // First, because this is what can be undone.
        let taken = breakers.insert(&breaker);
        taken.map_err(|taken| RegisterError::Duplicate(taken.name()))?;
        if let Err(error) = registry.register(breaker.clone()) {
            breakers.remove(&breaker);
            return Err(error);
        }
        Ok(breaker)
    }

    /// Registers circuit breakers by key under their own name, and gives the handle back.
    ///
    /// From now on idle keys are forgotten, and their number and the overflow are measured.
    ///
    /// # Errors
    ///
    /// As [`Registry::register`], and when keyed ones among [`breakers`](Self::breakers) have their
    /// name. They are registered in neither place then.
    pub fn register_keyed_breakers(
        &self,
        keyed: KeyedBreakers,
    ) -> Result<KeyedBreakers, RegisterError> {
        let Inner {
            registry, breakers, ..
        } = &*self.inner;
        // First, because this is what can be undone.
        let taken = breakers.insert_keyed(&keyed);
        taken.map_err(|taken| RegisterError::Duplicate(taken.name()))?;
        if let Err(error) = registry.register(keyed.clone()) {
            breakers.remove_keyed(&keyed);
            return Err(error);
        }
        Ok(keyed)
    }

    /// The circuit breakers that the admin API shows and operates, and that a scrape tells of.
    ///
    /// Those of [`ControlConfig::breakers`](plimsoll_admin::ControlConfig::breakers) where the
    /// service was started with some.
    #[must_use]
    pub fn breakers(&self) -> &Breakers {
        &self.inner.breakers
    }
}

#[cfg(feature = "adapter")]
impl Plimsoll {
    /// Registers an adapter under its own name, and gives the handle back.
    ///
    /// From now on its history is swept and measured, what it counts comes with each scrape, and
    /// the admin API shows and operates its circuit breaker; until its last handle is dropped.
    /// Where the service was started with files, what they say of an adapter of this name, and of
    /// all adapters, counts more than what the code said, now and after each change.
    ///
    /// # Errors
    ///
    /// As [`Registry::register`], when one of [`breakers`](Self::breakers) has its name, and when
    /// what the files say does not fit what the code says. It is registered nowhere then.
    pub fn register_adapter<Req, Res>(
        &self,
        adapter: Adapter<Req, Res>,
    ) -> Result<Adapter<Req, Res>, AdapterSetupError> {
        self.enlist(&adapter)?;
        #[cfg(feature = "config")]
        if let Err(error) = self.inner.live.add((&adapter).into()) {
            self.dismiss(&adapter);
            return Err(error.into());
        }
        Ok(adapter)
    }

    /// Has an adapter swept, measured and shown.
    pub(crate) fn enlist<Req, Res>(
        &self,
        adapter: &Adapter<Req, Res>,
    ) -> Result<(), RegisterError> {
        let Inner {
            registry,
            breakers,
            adapters,
            ..
        } = &*self.inner;
        // First, because this is what can be undone.
        let taken = breakers.insert(adapter.breaker());
        taken.map_err(|taken| RegisterError::Duplicate(taken.name()))?;
        if let Err(error) = registry.register(adapter.clone()) {
            breakers.remove(adapter.breaker());
            return Err(error);
        }
        if let Err(taken) = adapters.insert(adapter) {
            self.dismiss(adapter);
            return Err(RegisterError::Duplicate(taken.name()));
        }
        Ok(())
    }

    /// Undoes [`enlist`](Self::enlist), so that another can have the name.
    pub(crate) fn dismiss<Req, Res>(&self, adapter: &Adapter<Req, Res>) {
        let Inner {
            registry,
            breakers,
            adapters,
            ..
        } = &*self.inner;
        adapters.remove(adapter);
        registry.unregister(adapter);
        breakers.remove(adapter.breaker());
    }
}

#[cfg(feature = "config")]
impl Plimsoll {
    /// Makes the adapters that `adapters.yaml` lists, registers them, and has them come and go with
    /// it from now on.
    ///
    /// `make` makes one of its [builder](AdapterSpec::builder) and what it calls. It is called
    /// again for an adapter that is new, or whose settings of your own are others: calls in flight
    /// finish on the old one. One whose limits alone are others is [changed in
    /// place](Adapter::reconfigure). It may block. It must keep no handle to this service, which
    /// would never be dropped, and neither [reload](Self::reload) its configuration nor
    /// [register](Self::register_adapter) another adapter, which is an error.
    ///
    /// The adapters are held as long as the service, or `loaded`. Call it once. When their histories have too
    /// many records, that is an alert of the load line, where there is one, besides
    /// the [callback](Adapters::on_record_alert).
    ///
    /// # Errors
    ///
    /// Says which adapter could not be made or registered, and where it is listed. None is
    /// registered then. Refuses another call, and settings that this service was not started with.
    pub fn adapters<Req, Res, X, F>(
        &self,
        loaded: &Loaded<X>,
        make: F,
    ) -> Result<Adapters<Req, Res>, plimsoll_config::LoadError>
    where
        Req: 'static,
        Res: 'static,
        X: AdapterSettings,
        F: Fn(&AdapterSpec<X>) -> Result<Adapter<Req, Res>, BoxError>,
        F: Send + Sync + 'static,
    {
        let adapters = Adapters::default();
        #[cfg(feature = "http")]
        {
            let alerts = self.inner.line.alerts().clone();
            adapters.also_on_record_alert(move |records| {
                let text = records.to_string();
                alerts.raise(&Alert::new(AlertKind::Records, Severity::Warning, text));
            });
        }
        let weak = WeakPlimsoll(Arc::downgrade(&self.inner));
        let set = Set::new(weak, adapters.clone(), make);
        loaded.fit(&self.inner.live, Box::new(set))?;
        Ok(adapters)
    }

    /// Reads the files and variables again, and changes what can be changed while running: the
    /// limits of adapters, and which adapters there are. Everything else is told of, and counts
    /// after a restart.
    ///
    /// # Errors
    ///
    /// Tells everything that is wrong. Nothing was changed then. Refuses a thread that is about to
    /// change the configuration, in what makes the [adapters](Self::adapters) say.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not undo what it has begun.
    pub async fn reload(&self) -> Result<plimsoll_config::Reload, plimsoll_config::LoadError> {
        let live = self.inner.live.clone();
        // Here too: another thread would wait for this one.
        live.may_change()?;
        let reload = tokio::task::spawn_blocking(move || live.reload()).await;
        reload.unwrap_or_else(|error| {
            let what = format!("reading the configuration ended early: {error}");
            Err(plimsoll_config::LoadError::new(
                plimsoll_config::Source::Code,
                "",
                what,
            ))
        })
    }

    /// Every setting with the value it has now, and where that comes from.
    #[must_use]
    pub fn configuration(&self) -> Arc<[plimsoll_config::Effective]> {
        self.inner.live.values()
    }
}

/// A service that may be gone.
#[cfg(feature = "config")]
#[derive(Clone, Debug)]
pub(crate) struct WeakPlimsoll(std::sync::Weak<Inner>);

#[cfg(feature = "config")]
impl WeakPlimsoll {
    pub(crate) fn upgrade(&self) -> Option<Plimsoll> {
        Some(Plimsoll {
            inner: self.0.upgrade()?,
        })
    }
}

#[cfg(feature = "admin")]
impl Plimsoll {
    /// Where the admin listener is; the port is the real one where 0 was asked for.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.inner.control.as_ref()?.admin_addr()
    }

    /// Where the probe listener is; the port is the real one where 0 was asked for.
    #[must_use]
    pub fn probe_addr(&self) -> Option<SocketAddr> {
        self.inner.control.as_ref()?.probe_addr()
    }
}

/// Looks at what the process holds as a whole now and then, and has the log of heavy requests swept.
#[cfg(feature = "http")]
fn watch_process(
    runtime: &Handle,
    registry: &Registry,
    lifecycle: &Lifecycle,
    edge: &EdgeLayer,
) -> DropGuard {
    let ended = lifecycle.cancellation_token().child_token();
    let guard = ended.clone().drop_guard();
    // Not a task of the lifecycle: it holds nothing, and has nothing to end.
    runtime.spawn(async move {
        let watching = plimsoll_memory::process::watch(Duration::from_secs(1));
        ended.run_until_cancelled(watching).await;
    });
    if let Err(error) = registry.register(edge.heavy().clone()) {
        tracing::error!(%error, "the log of heavy requests is not swept");
    }
    guard
}

/// Has alerts sent, if they are to be.
#[cfg(feature = "client")]
fn start_webhook(
    runtime: &Handle,
    config: Option<WebhookConfig>,
) -> Result<(Option<Webhook>, Alerts), Cause> {
    let alerts = Alerts::new();
    let Some(config) = config else {
        return Ok((None, alerts));
    };
    let (webhook, sending) = Webhook::new(&config).map_err(Cause::Webhook)?;
    alerts.on_alert(webhook.clone()).map_err(Cause::Hook)?;
    // Not a task of the lifecycle: no stop should wait for a receiver that does not answer.
    runtime.spawn(sending);
    Ok((Some(webhook), alerts))
}

/// Has what routes and adapters retain, and how many tasks there are of each name, looked at for leaks.
#[cfg(feature = "http")]
fn holders(
    edge: &EdgeLayer,
    #[cfg(feature = "adapter")] adapters: &AdapterDirectory,
    lifecycle: &Lifecycle,
) -> impl FnMut(&mut Vec<Held>) + Send + 'static {
    let (edge, lifecycle) = (edge.clone(), lifecycle.clone());
    #[cfg(feature = "adapter")]
    let adapters = adapters.clone();
    move |told| {
        let held = |kind, name, held| Held {
            kind,
            name,
            held,
            bound: None,
        };
        // One look for all of them.
        let retained = RetainedByGroup::look();
        let mut tell = |kind, groups: Vec<(GroupId, Name)>| {
            let groups = groups.into_iter();
            told.extend(groups.map(|(group, name)| held(kind, name, retained.of(group).bytes)));
        };
        tell(LeakKind::Route, edge.memory_groups());
        #[cfg(feature = "adapter")]
        tell(LeakKind::Adapter, adapters.memory_groups());
        let tasks = lifecycle.tasks().into_iter();
        told.extend(tasks.map(|tasks| held(LeakKind::Task, tasks.name, tasks.count as u64)));
    }
}

/// The name of the service's own listener in reports and metrics.
#[cfg(feature = "http")]
const HTTP: Name = Name::from_static("http");

#[cfg(feature = "admin")]
fn start_control(
    config: ControlConfig,
    registry: &Registry,
    lifecycle: &Lifecycle,
) -> Result<Control, Cause> {
    let metrics = match plimsoll_admin::install_recorder() {
        Ok(metrics) => Some(metrics),
        Err(error) => {
            tracing::warn!(%error, "metrics are not served");
            None
        }
    };
    Control::start(config, registry.clone(), lifecycle.clone(), metrics).map_err(Cause::Control)
}

#[cfg(all(test, feature = "adapter", feature = "http"))]
mod tests;
