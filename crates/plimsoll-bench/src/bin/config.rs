//! Reading a configuration of many adapters: its YAML alone, all of it, and again while the
//! adapters run.

use clap::Parser;
use plimsoll::{
    Adapter, AdapterSpec, BoxError, Config, ConfigFiles, Plimsoll,
    config_files::File,
    settings::{Fields, Settings, text},
};
use plimsoll_bench::{Error, Options, Suite};
use saphyr_parser::Parser as Yaml;
use std::{fmt::Write as _, fs, hint::black_box, path::PathBuf};
use tokio::runtime::Builder;

#[derive(Parser)]
#[command(about)]
struct Args {
    /// How many adapters the file lists.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=4_000))]
    adapters: u32,
    #[command(flatten)]
    options: Options,
}

/// What an adapter has besides its limits.
#[derive(Clone, Debug, Default, PartialEq)]
struct Place {
    url: String,
}

impl Settings for Place {
    fn visit(&mut self, fields: &mut dyn Fields) {
        let about = "Where it is.";
        fields.setting("url", about, &mut text(&mut self.url));
    }
}

fn make(spec: &AdapterSpec<Place>) -> Result<Adapter<u64, u64>, BoxError> {
    Ok(spec.builder().function(async |n| Ok::<_, BoxError>(n))?)
}

/// Eleven lines for each.
fn listed(adapters: u32, timeout: u32) -> String {
    let mut listed = String::from("adapters:\n");
    for n in 0..adapters {
        // A `String` takes whatever there is.
        let _ = write!(
            listed,
            "- name: adapter-{n}
  url: http://10.0.0.1:{n}/query
  fault_tolerance:
    timeout: {timeout}ms
    max_in_flight: 32
    circuit_breaker:
      preset: network
      failure_rate: 40
      window: 200
      history:
        calls: 1000
"
        );
    }
    listed
}

fn main() -> Result<(), Error> {
    let Args { adapters, options } = Args::parse();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/bench-config");
    fs::create_dir_all(&folder)?;
    let listed = [1_000, 1_001].map(|timeout| listed(adapters, timeout));
    let file = folder.join("adapters.yaml");
    fs::write(&file, &listed[0])?;
    let files = move || ConfigFiles::in_folder(&folder).no_variables().no_watch();
    let code = || Config::new().no_control();

    let mut suite = Suite::new("Configuration", options);
    let yaml = listed[0].clone();
    suite.single("the events of its YAML", move |times| {
        for _ in 0..times {
            let events = Yaml::new_from_str(black_box(&yaml));
            assert!(events.filter(Result::is_ok).count() > 0, "it is YAML");
        }
    });
    let yaml = listed[0].clone();
    let case = suite.single("its values with their places", move |times| {
        for _ in 0..times {
            black_box(File::parse("adapters.yaml", black_box(&yaml)).is_ok());
        }
    });
    case.versus("the events of its YAML 1T");
    let load = files.clone();
    let case = suite.single("load: all of it, checked", move |times| {
        for _ in 0..times {
            let loaded = load().load_with::<Place>(code());
            assert!(black_box(loaded).is_ok(), "the file is valid");
        }
    });
    case.versus("the events of its YAML 1T");

    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let inside = runtime.enter();
    let loaded = files().load_with::<Place>(code())?;
    let plimsoll = Plimsoll::start(loaded.config())?;
    let running = plimsoll.adapters(&loaded, make)?;
    assert_eq!(running.len(), adapters as usize, "all are made");
    drop(inside);
    let mut turn = 0;
    let case = suite.single("reload: another timeout for each", move |times| {
        for _ in 0..times {
            turn += 1;
            let written = fs::write(&file, &listed[turn % 2]);
            let reload = runtime.block_on(plimsoll.reload());
            let changes = reload.map_or(0, |reload| reload.changes.len());
            assert!(written.is_ok() && changes == running.len(), "all changed");
        }
    });
    case.versus("the events of its YAML 1T");
    suite.run()
}
