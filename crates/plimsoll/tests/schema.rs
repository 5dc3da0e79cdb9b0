//! The committed schemas are those of the settings there are.
#![cfg(all(feature = "admin", feature = "config", feature = "http"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use plimsoll::{Config, ServerConfig, adapters_schema, config_schema};
use std::{env, fs, path::Path};

/// Compares a schema with the file, or writes it where `PLIMSOLL_BLESS` is set.
fn assert_committed(name: &str, schema: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema");
    let file = folder.join(name);
    if env::var_os("PLIMSOLL_BLESS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        fs::write(&file, schema).unwrap();
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == schema,
        "docs/schema/{name} is not what the settings say: \
         write it with `PLIMSOLL_BLESS=1 cargo test -p plimsoll --test schema`"
    );
}

#[test]
fn schema_of_the_service_is_committed() {
    // The default is what the machine allows.
    let server = ServerConfig::default().max_connections(4_096);
    let schema = config_schema(Config::new().server(server));
    assert_committed("config.schema.json", &schema);
}

#[test]
fn schema_of_adapters_is_committed() {
    assert_committed("adapters.schema.json", &adapters_schema::<()>());
}
