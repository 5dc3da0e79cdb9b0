use plimsoll_adapter::{Adapter, AdapterBuilder, AdapterConfig};
use plimsoll_core::settings::{Fields, Settings, flag};

/// Settings of an adapter that are a program's own: what the adapter is, and where. Its keys stand
/// next to the name of the adapter in `adapters.yaml`.
pub trait AdapterSettings: Settings + Clone + Default + PartialEq + Send + Sync + 'static {}

impl<X> AdapterSettings for X where X: Settings + Clone + Default + PartialEq + Send + Sync + 'static
{}

/// What the files and variables say of one adapter. `X` are the program's own settings.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AdapterSpec<X = ()> {
    /// Its name.
    pub name: String,
    /// Whether there is to be one. A way to take an adapter out without losing its settings.
    pub enabled: bool,
    /// Its limits.
    pub config: AdapterConfig,
    /// The program's own settings of it.
    pub settings: X,
}

impl<X: Default> AdapterSpec<X> {
    pub(super) fn new(name: &str, config: AdapterConfig) -> Self {
        Self {
            name: name.to_owned(),
            enabled: true,
            config,
            settings: X::default(),
        }
    }
}

impl<X> AdapterSpec<X> {
    /// A builder with its name and its limits.
    pub fn builder(&self) -> AdapterBuilder {
        Adapter::builder(&self.name).config(self.config.clone())
    }
}

impl<X: Settings> Settings for AdapterSpec<X> {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "enabled",
            "Whether there is such an adapter.",
            &mut flag(&mut self.enabled),
        );
        self.settings.visit(fields);
        fields.group(
            "fault_tolerance",
            "Its limits, where they are other than those of all adapters in config.yaml.",
            &mut self.config,
        );
    }
}
