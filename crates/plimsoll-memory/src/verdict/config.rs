use plimsoll_core::{
    ConfigError,
    settings::{self, Choice, Fields, Settings, choice, integer},
};

/// How leaks are looked for.
///
/// ```
/// use plimsoll_memory::verdict::{LeakConfig, Sensitivity};
///
/// let config = LeakConfig::new().sensitivity(Sensitivity::Low).max_names(100);
/// assert!(config.validate().is_ok());
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeakConfig {
    sensitivity: Sensitivity,
    max_names: usize,
}

/// How soon growth is taken for a leak.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Sensitivity {
    /// Nothing is looked at.
    Off,
    /// Growth of at least four times as much, which goes on for minutes. Chance may look like it with a
    /// probability of 0.0005.
    Low,
    /// Growth of 1 MiB, or 4 MiB of the process, or 32 tasks or descriptors. Chance may look like it
    /// with a probability of 0.001.
    #[default]
    Normal,
    /// A quarter of that. Chance may look like it with a probability of 0.005.
    High,
}

impl LeakConfig {
    /// The defaults: normal sensitivity, and 1 000 names.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            sensitivity: Sensitivity::Normal,
            max_names: 1_000,
        }
    }

    /// How soon growth is taken for a leak. [`Sensitivity::Normal`] by default.
    #[must_use]
    pub const fn sensitivity(mut self, sensitivity: Sensitivity) -> Self {
        self.sensitivity = sensitivity;
        self
    }

    /// How many names are looked at, up to 16 384; more are counted and not looked at. 1 000 by
    /// default. Each takes about 540 bytes.
    #[must_use]
    pub const fn max_names(mut self, names: usize) -> Self {
        self.max_names = names;
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// Names each value that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        settings::check(self)
    }

    pub(super) const fn limits(&self) -> (Sensitivity, usize) {
        match self.sensitivity {
            Sensitivity::Off => (Sensitivity::Off, 0),
            sensitivity => (sensitivity, self.max_names),
        }
    }
}

impl Default for LeakConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl Settings for LeakConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "sensitivity",
            "How soon growth is taken for a leak.",
            &mut choice(&mut self.sensitivity),
        );
        fields.setting(
            "max_names",
            "The most holdings, routes and others that are looked at by name.",
            &mut integer(&mut self.max_names, 1..=16_384),
        );
    }
}

impl Choice for Sensitivity {
    const NAMES: &'static [&'static str] = &["off", "low", "normal", "high"];

    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        match name {
            "off" => Some(Self::Off),
            "low" => Some(Self::Low),
            "normal" => Some(Self::Normal),
            "high" => Some(Self::High),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_every_word_has_its_value() {
        assert!(LeakConfig::default().validate().is_ok());
        for name in Sensitivity::NAMES {
            let value = Sensitivity::from_name(name).unwrap();
            assert_eq!(value.name(), *name);
        }
        assert_eq!(Sensitivity::from_name("none"), None);
    }

    #[test]
    fn what_is_out_of_its_range_is_named() {
        let error = LeakConfig::new().max_names(0).validate().unwrap_err();
        let expected = "`max_names` is 0, but must be between 1 and 16384";
        assert_eq!(error.to_string(), expected);
        assert!(LeakConfig::new().max_names(16_385).validate().is_err());
    }
}
