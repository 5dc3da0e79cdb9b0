use crate::{AdmissionConfig, Budget, BudgetMode, HeavyLog, MonitorConfig, verdict::LeakConfig};
use plimsoll_core::{
    ConfigError, Name,
    settings::{self, Fields, Settings, bytes, choice, duration, flag, integer, sizes},
};
use std::{collections::BTreeMap, time::Duration};

const DAY: Duration = Duration::from_secs(86_400);

/// What requests may hold, and what is told of those that hold much.
///
/// ```
/// use plimsoll_memory::{BudgetMode, MemoryConfig};
///
/// let config = MemoryConfig::new()
///     .budget(64 << 20)
///     .budget_of("/reports", 512 << 20)
///     .on_over_budget(BudgetMode::Enforce);
/// assert!(config.validate().is_ok());
/// assert_eq!(config.budget_for("/reports").unwrap().bytes(), 512 << 20);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryConfig {
    budget: Option<u64>,
    budgets: BTreeMap<String, u64>,
    on_over_budget: BudgetMode,
    heavy: Option<u64>,
    heavy_kept: Duration,
    max_heavy: usize,
    headers: bool,
    monitor: MonitorConfig,
    admission: AdmissionConfig,
    leaks: LeakConfig,
}

impl MemoryConfig {
    /// The defaults: no budget, and more than 64 MiB is heavy.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            budget: None,
            budgets: BTreeMap::new(),
            on_over_budget: BudgetMode::Observe,
            heavy: Some(64 << 20),
            heavy_kept: Duration::from_secs(3_600),
            max_heavy: 1_000,
            headers: false,
            monitor: MonitorConfig::new(),
            admission: AdmissionConfig::new(),
            leaks: LeakConfig::new(),
        }
    }

    /// The limit and the line of the process, and what is done to keep it under that.
    #[must_use]
    pub fn monitor(mut self, monitor: MonitorConfig) -> Self {
        self.monitor = monitor;
        self
    }

    /// When requests are let in.
    #[must_use]
    pub fn admission(mut self, admission: AdmissionConfig) -> Self {
        self.admission = admission;
        self
    }

    /// What is taken for a leak.
    #[must_use]
    pub fn leaks(mut self, leaks: LeakConfig) -> Self {
        self.leaks = leaks;
        self
    }

    /// The most bytes that a request of a route without a budget of its own may hold, at least 1.
    /// No limit by default.
    #[must_use]
    pub fn budget(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.budget = bytes.into();
        self
    }

    /// The most bytes that a request of this route may hold, at least 1. Routes are named as the
    /// router does, `/users/{id}` say.
    #[must_use]
    pub fn budget_of(mut self, route: impl Into<String>, bytes: u64) -> Self {
        self.budgets.insert(route.into(), bytes);
        self
    }

    /// What becomes of a request that holds more. [`BudgetMode::Observe`] by default.
    #[must_use]
    pub const fn on_over_budget(mut self, mode: BudgetMode) -> Self {
        self.on_over_budget = mode;
        self
    }

    /// A request that held more bytes than that at a time comes into the log of heavy ones. 64 MiB by
    /// default; with none, no request is logged.
    #[must_use]
    pub fn heavy(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.heavy = bytes.into();
        self
    }

    /// How long a heavy request is kept in the log, from 1 second to 24 hours. An hour by default.
    #[must_use]
    pub const fn heavy_kept(mut self, time: Duration) -> Self {
        self.heavy_kept = time;
        self
    }

    /// How many heavy requests are kept, up to 100 000; the oldest goes first. 1 000 by default.
    /// Each takes 170 bytes.
    #[must_use]
    pub const fn max_heavy(mut self, requests: usize) -> Self {
        self.max_heavy = requests;
        self
    }

    /// Whether responses tell what was held, in the headers `X-Memory-Usage-MB` and
    /// `X-Memory-Delta-MB`. Off by default, since it is nobody else's business.
    #[must_use]
    pub const fn headers(mut self, headers: bool) -> Self {
        self.headers = headers;
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

    /// The budget of a route.
    #[must_use]
    pub fn budget_for(&self, route: &str) -> Option<Budget> {
        let bytes = self.budgets.get(route).copied().or(self.budget)?;
        Some(Budget::new(bytes, self.on_over_budget))
    }

    /// Routes that have a budget of their own, with its bytes.
    #[must_use]
    pub const fn budgets(&self) -> &BTreeMap<String, u64> {
        &self.budgets
    }

    /// Whether responses tell what was held.
    #[must_use]
    pub const fn has_headers(&self) -> bool {
        self.headers
    }

    /// What is done to keep the process under its line.
    #[must_use]
    pub const fn monitor_config(&self) -> &MonitorConfig {
        &self.monitor
    }

    /// When requests are let in.
    #[must_use]
    pub const fn admission_config(&self) -> &AdmissionConfig {
        &self.admission
    }

    /// What is taken for a leak.
    #[must_use]
    pub const fn leaks_config(&self) -> &LeakConfig {
        &self.leaks
    }

    /// Sets the limits of a log to what is said here.
    pub fn apply_to(&self, heavy: &HeavyLog) {
        let above = self.heavy.unwrap_or(u64::MAX);
        heavy.reconfigure(above, self.max_heavy, self.heavy_kept);
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl Settings for MemoryConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "budget",
            "The most that a request may hold, where its route has no budget of its own.",
            &mut bytes(&mut self.budget, 1..=u64::MAX).or(&["off"]),
        );
        fields.setting(
            "budgets",
            "The most that a request of a route may hold, by route as the router names it.",
            &mut sizes(&mut self.budgets, 1..=u64::MAX),
        );
        let longest = Name::MAX_LEN;
        fields.require(
            "budgets",
            self.budgets.keys().all(|route| route.len() <= longest),
            &format_args!(
                "by routes of at most {longest} bytes, which is as much as is known of one"
            ),
        );
        fields.setting(
            "on_over_budget",
            "What becomes of a request that holds more: it is counted, or ended.",
            &mut choice(&mut self.on_over_budget),
        );
        fields.setting(
            "heavy",
            "A request that held more than that at a time comes into the log of heavy ones.",
            &mut bytes(&mut self.heavy, 1..=u64::MAX).or(&["off"]),
        );
        fields.setting(
            "heavy_kept",
            "How long a heavy request is kept in the log.",
            &mut duration(&mut self.heavy_kept, Duration::from_secs(1)..=DAY),
        );
        fields.setting(
            "max_heavy",
            "The most heavy requests in the log; the oldest goes first.",
            &mut integer(&mut self.max_heavy, 0..=100_000),
        );
        fields.setting(
            "headers",
            "Whether responses tell what was held, in X-Memory-Usage-MB and X-Memory-Delta-MB.",
            &mut flag(&mut self.headers),
        );
        fields.group(
            "monitor",
            "The limit of the process, and what is done to keep it under that.",
            &mut self.monitor,
        );
        fields.group(
            "admission",
            "When requests are let in.",
            &mut self.admission,
        );
        fields.group("leaks", "What is taken for a leak.", &mut self.leaks);
    }
}
