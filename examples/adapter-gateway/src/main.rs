//! Run with
//!
//! ```sh
//! cargo run --release -p adapter-gateway
//! ```

use adapter_gateway::{
    BoxError,
    adapters::{self, Kinds, Known},
    api::{self, Gateway},
    args::Args,
    breakers::Watch,
    corpus::Corpus,
    flaky::Flaky,
    load::{Asker, ConfigCopy, Drive, Reloads},
    settings::KindSettings,
    sql::Sql,
    vector::{self, Index},
};
use clap::Parser as _;
use plimsoll::{
    Config, ConfigFiles, LoadError, Loaded, Plimsoll, TrackingAllocator, alloc::live_bytes,
    config_files::EXIT_CODE,
};
use std::{
    collections::HashMap,
    env, fmt,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process,
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, task};
use tracing_subscriber::EnvFilter;

/// Knows for every block which request it was allocated for.
#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

/// The adapter that repeats the question, and fails on request.
const ECHO: &str = "demo-flaky";

/// How much longer than the adapters a gateway under load may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    let code = run(args).await.unwrap_or_else(|error| {
        eprintln!("adapter-gateway: {error}");
        if error.is::<LoadError>() {
            EXIT_CODE
        } else {
            1
        }
    });
    // Not by returning: the runtime would wait for a handler that blocks its thread.
    process::exit(code.into());
}

async fn run(args: Args) -> Result<u8, BoxError> {
    let mut loaded = load_config(&args, &args.config)?;
    if args.print_config {
        io::stdout().write_all(loaded.to_yaml().as_bytes())?;
        return Ok(0);
    }
    let copy = match args.reload_every {
        Some(_) => Some(copy_config(&args)?),
        None => None,
    };
    if let Some(copy) = &copy {
        loaded = load_config(&args, copy.folder())?;
    }
    let args = Arc::new(args);
    let (listen, deadline) = (args.listen, args.deadline);
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| refused("--listen", listen, error, "choose another port, or 0"))?;
    let listening = listener.local_addr()?;
    // Reading and indexing take a moment and block.
    let prepared = args.clone();
    let (sql, index) = task::spawn_blocking(move || prepare(&prepared)).await??;

    let plimsoll = Plimsoll::start(loaded.config()).map_err(|error| match args.admin {
        Some(admin) => format!("--admin {admin}: {error}"),
        None => error.to_string(),
    })?;
    let index = plimsoll.register(index)?;
    let vector_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let flaky = Flaky::default();
    let kinds = Kinds {
        sql,
        demo_url: format!("http://{}", vector_listener.local_addr()?),
        flaky: flaky.clone(),
    };
    let all = plimsoll.adapters(&loaded, move |spec| kinds.make(spec))?;
    let known = {
        let plimsoll = plimsoll.clone();
        Known::new(all, move || adapters::by_default(&plimsoll.configuration()))
    };
    let app = api::router(Gateway {
        known: known.clone(),
        flaky: flaky.clone(),
        deadline,
    });

    // The last requests still need the vector service. Tasks end after the listener has drained.
    let vector = vector::serve(vector_listener, index, plimsoll.cancellation_token());
    plimsoll.spawn("vector-service", vector)?;
    let load = match args.load {
        Some(duration) => {
            let watch = Watch::new(&known.all().list())?;
            let reloads = match args.reload_every.zip(copy) {
                Some((period, copy)) => {
                    let values = plimsoll.configuration();
                    let reloads = Reloads::new(plimsoll.clone(), known.clone(), copy, &values)?;
                    Some((reloads, period))
                }
                None => None,
            };
            let all = known.all().clone();
            let drive = Drive {
                plimsoll: plimsoll.clone(),
                asker: Asker::new(listening, all, ECHO, deadline + PATIENCE)?,
                known,
                duration,
                flaky,
                flip: args.flip,
                reloads,
                heap: live_bytes,
            };
            Some((plimsoll.spawn("load", drive.run())?, watch))
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

/// Reads the files, the variables, and what the command line says, which counts most.
fn load_config(args: &Args, folder: &Path) -> Result<Loaded<KindSettings>, LoadError> {
    let mut variables: HashMap<_, _> = env::vars_os().collect();
    let given = args.variables().into_iter();
    variables.extend(given.map(|(name, value)| (name.into(), value.into())));
    ConfigFiles::in_folder(folder)
        .variables("PLIMSOLL", variables)
        .load_with(Config::new().allocator(&ALLOC))
}

/// Copies the files, to be changed under load.
fn copy_config(args: &Args) -> Result<ConfigCopy, BoxError> {
    ConfigCopy::of(&args.config, &args.data).map_err(|error| {
        let error = format!("the configuration cannot be copied there ({error})");
        let data = args.data.display();
        refused("--data", data, error, "name a folder that can be written")
    })
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
curl {admin}/api/v1/config
curl -X POST {admin}/api/v1/config/reload
"#
    )?;
    out.flush()
}
