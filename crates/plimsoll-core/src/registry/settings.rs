use super::{RegistryConfig, sweeper::LEAST_WAIT};
use crate::settings::{Fields, Settings, duration, integer};
use std::time::Duration;

impl Settings for RegistryConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "idle_interval",
            "How soon a holding with nothing to sweep is asked again.",
            &mut duration(&mut self.idle_interval, LEAST_WAIT..=Duration::MAX),
        );
        fields.setting(
            "sweep_budget",
            "About how many entries one slice of a sweep drops before others have their turn.",
            &mut integer(&mut self.sweep_budget, 1..=u64::MAX),
        );
        fields.setting(
            "max_holdings",
            "How many holdings may be registered at a time.",
            &mut integer(&mut self.max_holdings, 1..=u64::MAX),
        );
    }
}
