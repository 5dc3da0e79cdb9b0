//! Health, metrics and a holdings API, on a thread of their own.
//!
//! Two listeners, *probe* and *admin*, run on a thread with a runtime of its own. They answer
//! while every worker of the service is blocked, while memory is short, while a holding hangs,
//! and until the very end of a stop.
//!
//! | listener | route | answers |
//! |---|---|---|
//! | probe | `GET /livez` | 200 as long as the thread lives |
//! | probe | `GET /readyz` | 200 in [`Phase::Running`](plimsoll_core::Phase::Running), else 503 and the phase; or `pressure`, with [`ControlConfig::readiness_on_pressure`] |
//! | probe | `GET /metrics` | Prometheus text; one scrape at a time |
//! | admin | `GET /` | a page for people: the sentence of state, charts, and the ten that hold most |
//! | admin | `GET /api/v1/holdings` | what every holding holds, and its sweeps |
//! | admin | `POST /api/v1/holdings/{name}/sweep` | sweeps one holding now |
//! | admin | `POST /api/v1/holdings/sweep` | sweeps them all |
//! | admin | `GET /api/v1/tasks` | the phase, and the named tasks alive |
//! | admin | `GET /api/v1/breakers` | every circuit breaker of [`ControlConfig::breakers`] |
//! | admin | `GET /api/v1/breakers/{name}` | one of them, with a page of its history |
//! | admin | `POST /api/v1/breakers/{name}/{action}` | has it `open`, `close`, `force-open`, `half-open`, `reset`, `disable`, keep `metrics-only`, or do its `cleanup` |
//! | admin | `POST /api/v1/breakers/cleanup` | cleans them all up |
//! | admin | `GET /api/v1/memory/stats` | the last figures of [`ControlConfig::load_line`], what leaks, and one sentence |
//! | admin | `POST /api/v1/memory/gc` | makes room, and says what that gave |
//! | admin | `GET /api/v1/memory/monitor` | what the monitor goes by, and has done |
//! | admin | `GET /api/v1/memory/history` | what was held, with `?resolution=` of `1s`, `30s` or `10m` |
//! | admin | `GET /api/v1/memory/holdings` | the same as `/api/v1/holdings` |
//! | admin | `GET /api/v1/memory/requests` | what the requests of [`ControlConfig::edge`] allocate, hold at most and leave behind, by endpoint |
//! | admin | `GET /debug/pprof/heap` | a heap profile for pprof; with `?seconds=30` what came to be held meanwhile |
//! | admin | `GET /api/v1/memory/profile` | whether blocks are sampled for that |
//! | admin | `POST /api/v1/memory/profile/start` | has them sampled, one in 512 KiB or in `?mean_bytes=…` |
//! | admin | `POST /api/v1/memory/profile/stop` | has no more of them sampled |
//! | admin | `GET /api/v1/config` | every setting of [`ControlConfig::configuration`] with where it comes from, and what was wrong with the last reload |
//! | admin | `POST /api/v1/config/reload` | reads files and variables again; what changed, or 422 and everything that is wrong |
//! | admin | `GET /api/v1/openapi.json` | these routes and their answers, as `OpenAPI` 3.1 |
//!
//! By default one listener on `127.0.0.1:8081` serves both. Heap profiles are there with the feature
//! `profile`, where they are [turned on](ControlConfig::profiling).
//!
//! # Example
//!
//! ```
//! use plimsoll_admin::{Control, ControlConfig, install_recorder};
//! use plimsoll_core::{Lifecycle, Registry};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = Registry::new();
//! let lifecycle = Lifecycle::new();
//! let config = ControlConfig::new().admin_addr(([127, 0, 0, 1], 0).into());
//! let metrics = install_recorder()?;
//! let control = Control::start(config, registry.clone(), lifecycle.clone(), Some(metrics))?;
//! println!("admin on http://{}", control.admin_addr().expect("not turned off"));
//!
//! lifecycle.set_ready();
//! // ... serve, then stop the service, and this last.
//! control.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Security
//!
//! | rule | probe | admin |
//! |---|---|---|
//! | bound to | anything | loopback, or anything with a token |
//! | token, where one is set | not asked for | `Authorization: Bearer …` on every request |
//! | `Host`, where no token is set | not checked | a loopback address, `localhost`, or an [allowed](ControlConfig::allow_host) one, against DNS rebinding |
//! | `Origin`, where sent | not checked | the listener's own, or an [allowed](ControlConfig::allow_origin) one, against forged requests |
//! | `Sec-Fetch-Site: cross-site` | not checked | refused for `POST`, and for `/debug` |
//!
//! One address may serve both on loopback only. No answer carries a CORS header. The listeners
//! speak plain HTTP: where the token must not be read on the way, put TLS in front.
//!
//! # Limits
//!
//! Each listener takes 64 connections; more wait to be accepted. The head of a request has to
//! arrive within 5 seconds, counted from when the connection is idle, and fit 16 KiB. A body
//! announced as longer than 1 KiB is refused, and none is read. A connection ends after a minute,
//! or after three where an answer is under way. The page has 96 KiB at the most. There is one heap
//! profile at a time, of 16 MiB and for 60 seconds at the most; that takes another 30 to be written.
//!
//! A holding that does not answer within 2 seconds costs one thread, however often it is asked
//! for; the listing says 503 meanwhile, the page says so, and metrics show the figures from
//! before. The same holds for circuit breakers, whose observers are called by whoever looks at
//! them or operates them.

mod api;
mod ask;
mod authority;
mod breakers;
mod config;
mod configuration;
mod control;
mod error;
mod guard;
mod load_line;
mod memory;
mod openapi;
mod page;
mod probe;
mod problem;
#[cfg(feature = "profile")]
mod profile;
mod readiness;
mod recorder;
mod serve;
mod shared;
mod site;
mod telemetry;
#[cfg(test)]
mod tests;
mod upkeep;
mod view;

pub use self::{
    config::ControlConfig,
    control::Control,
    error::{BindError, ControlError},
    readiness::ReadinessOnPressure,
    recorder::{RecorderInstalled, install_recorder},
};
pub use metrics_exporter_prometheus::PrometheusHandle;
