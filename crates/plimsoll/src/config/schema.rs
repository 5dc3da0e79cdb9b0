//! The schemas of the files, for editors and for whoever checks files elsewhere.

use super::{AdapterSettings, AdapterSpec, Config, files::ADAPTERS};
use plimsoll_adapter::AdapterConfig;
use plimsoll_config::{list_schema, schema};

/// The JSON Schema (draft 2020-12) of `config.yaml`. The defaults are what the code says.
#[must_use]
pub fn config_schema(mut code: Config) -> String {
    text(&schema("config.yaml", &mut code))
}

/// The JSON Schema (draft 2020-12) of `adapters.yaml`, whose adapters have settings `X` of their
/// own.
#[must_use]
pub fn adapters_schema<X: AdapterSettings>() -> String {
    let about = "The adapters there are, in the order in which they are asked.";
    let mut spec = AdapterSpec::<X>::new("", AdapterConfig::new());
    text(&list_schema("adapters.yaml", ADAPTERS, about, &mut spec))
}

fn text(schema: &serde_json::Value) -> String {
    format!("{schema:#}\n")
}
