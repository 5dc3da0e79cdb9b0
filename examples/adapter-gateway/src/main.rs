//! Run with
//!
//! ```sh
//! cargo run --release -p adapter-gateway
//! ```

use adapter_gateway::{
    BoxError,
    adapters::{self, Kind, Known},
    api::{self, Gateway},
    args::Args,
    breakers::Watch,
    chroma::Chroma,
    corpus::Corpus,
    flaky::Flaky,
    load,
    sql::Sql,
    vector::{self, Index},
};
use clap::Parser as _;
use plimsoll::{Config, ControlConfig, LifecycleConfig, Phase, Plimsoll};
use std::{
    fmt,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    process,
    sync::Arc,
    time::Duration,
};
use tokio::{join, net::TcpListener, task};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing_subscriber::EnvFilter;

/// The adapter that repeats the question, and fails on request.
const ECHO: &str = "demo-flaky";

/// How much longer than the adapters a gateway under load may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// That there are too many records is told by the gateway itself, and less often.
const LOG: &str = "info,plimsoll_adapter::records=error";

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    let code = run(args).await.unwrap_or_else(|error| {
        eprintln!("adapter-gateway: {error}");
        1
    });
    // Not by returning: the runtime would wait for a handler that blocks its thread.
    process::exit(code.into());
}

async fn run(args: Args) -> Result<u8, BoxError> {
    let (listen, admin, load) = (args.listen, args.admin, args.load);
    let (deadline, flip) = (args.deadline, args.flip);
    // Nobody else sends requests while the service loads itself.
    let drain_delay = load.map_or(args.drain_delay, |_| Duration::ZERO);
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| refused("--listen", listen, error, "choose another port, or 0"))?;
    let listening = listener.local_addr()?;
    // Reading and indexing take a moment and block.
    let (sql, index) = task::spawn_blocking(move || prepare(&args)).await??;

    let config = Config::new()
        .lifecycle(LifecycleConfig::default().drain_delay(drain_delay))
        .control(ControlConfig::new().admin_addr(admin));
    let plimsoll = Plimsoll::start(config).map_err(|error| format!("--admin {admin}: {error}"))?;
    let index = plimsoll.register(index)?;
    let vector_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let chroma = Chroma::new(&format!("http://{}", vector_listener.local_addr()?))?;
    let flaky = Flaky::default();
    let known = Known::new();
    for (name, kind, by_default) in [
        ("qa-sql", Kind::Sql(sql), true),
        ("qa-vector-chroma", Kind::Vector(chroma), true),
        (ECHO, Kind::Flaky(flaky.clone()), false),
    ] {
        let adapter = adapters::build(kind.limits(name), kind)?;
        known.put(plimsoll.register_adapter(adapter)?, by_default);
    }
    let app = api::router(Gateway {
        known: known.clone(),
        flaky: flaky.clone(),
        deadline,
    });

    // The last requests still need the vector service. Tasks end after the listener has drained.
    let vector = vector::serve(vector_listener, index, plimsoll.cancellation_token());
    plimsoll.spawn("vector-service", vector)?;
    let load = match load {
        Some(duration) => {
            let watch = Watch::new(&known.all().list())?;
            let names = known.all().names();
            let names = names.iter().map(ToString::to_string).collect();
            let asker = load::Asker::new(listening, names, ECHO, deadline + PATIENCE)?;
            let faults = async move {
                if !flip.is_zero() {
                    flaky.alternate(flip).await;
                }
            };
            let driven = drive(duration, asker, faults, plimsoll.clone());
            Some((plimsoll.spawn("load", driven)?, watch))
        }
        None => None,
    };
    announce(listening, plimsoll.admin_addr())?;
    // With its state, axum puts the layer around the handlers once, not for each request.
    let app = app.layer(plimsoll.layer()).with_state(());
    let report = plimsoll.serve(listener, app).await?;
    if let Some((load, watch)) = load {
        writeln!(io::stdout(), "{}\n{watch}", load.await?)?;
    }
    writeln!(io::stdout(), "{report}")?;
    Ok(report.exit_code())
}

/// Runs the load, with `faults` beside it, until the service is told to stop, and stops it at the
/// end.
async fn drive(
    duration: Duration,
    asker: load::Asker,
    faults: impl Future<Output = ()> + Send + 'static,
    plimsoll: Plimsoll,
) -> load::Summary {
    let _faults = AbortOnDropHandle::new(task::spawn(faults));
    let ask = move |serial, question| asker.clone().ask(serial, question);
    let told = CancellationToken::new();
    let mut phase = plimsoll.lifecycle().watch_phase();
    let leaving = phase.wait_for(|phase| Phase::Leaving <= *phase);
    let (summary, _) = join!(
        async {
            let summary = load::run(duration, told.clone(), ask).await;
            plimsoll.request_stop();
            summary
        },
        async {
            let _ = leaving.await;
            told.cancel();
        },
    );
    summary
}

/// Reads the corpus and makes both kinds of index of it.
fn prepare(args: &Args) -> Result<(Sql, Arc<Index>), BoxError> {
    let docs = args.docs.display();
    let corpus = Corpus::read(&args.docs)
        .map_err(|error| refused("--docs", docs, error, "name a folder that has some"))?;
    let data = args.data.display();
    let sql = Sql::open(&args.data, &corpus).map_err(|error| {
        let error = format!("no database can be made there ({error})");
        refused("--data", data, error, "name a folder that can be written")
    })?;
    Ok((sql, Arc::new(Index::new(corpus))))
}

fn refused(
    flag: &str,
    value: impl fmt::Display,
    error: impl fmt::Display,
    remedy: &str,
) -> BoxError {
    format!("{flag} {value}: {error}; {remedy}").into()
}

fn announce(listening: SocketAddr, admin: Option<SocketAddr>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let admin = admin.map_or_else(|| String::from("nowhere"), |addr| format!("http://{addr}"));
    write!(
        out,
        r#"listening on http://{listening}
admin on {admin}
curl http://{listening}/ask -H 'content-type: application/json' -d '{{"question": "How does the service stop?"}}'
curl http://{listening}/demo/faults -H 'content-type: application/json' -d '{{"mode": "flaky"}}'
curl http://{listening}/adapters
curl {admin}/api/v1/holdings
"#
    )?;
    out.flush()
}
