#[cfg(feature = "profile")]
use crate::profile::{Groups, Profiling};
use crate::{
    authority::{Authority, Origin, is_loopback},
    guard::Guard,
    readiness::{Level, Readiness, ReadinessOnPressure},
    shared::Parts,
};
#[cfg(feature = "profile")]
use plimsoll_alloc::GroupId;
use plimsoll_breaker::Breakers;
use plimsoll_config::Configuration;
#[cfg(feature = "profile")]
use plimsoll_core::Name;
use plimsoll_core::{
    ConfigError,
    settings::{
        self, Fields, Kind, Secret, Setting, Settings, Value, address, choice, duration, flag,
        secret, texts,
    },
};
use plimsoll_http::EdgeLayer;
use plimsoll_memory::LoadLine;
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

/// Where the control listeners listen when they are told nothing else.
const DEFAULT_ADDR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);

const TOKEN_BYTES: RangeInclusive<usize> = 16..=256;

/// For how long memory may keep a service from being ready.
const MAX_UNREADY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);

/// The settings of the [control listeners](crate::Control).
///
/// They are checked by [`Control::start`](crate::Control::start). `Debug` does not show the token.
#[derive(Clone)]
#[must_use = "settings do nothing until the listeners are started with them"]
pub struct ControlConfig {
    probe: Probe,
    admin: Option<SocketAddr>,
    token: Option<Secret>,
    hosts: Vec<String>,
    origins: Vec<String>,
    publishers: Vec<Publisher>,
    breakers: Option<Breakers>,
    configuration: Option<Arc<dyn Configuration>>,
    edge: Option<EdgeLayer>,
    load_line: Option<LoadLine>,
    readiness_on_pressure: ReadinessOnPressure,
    max_unready: Duration,
    profiling: bool,
    #[cfg(feature = "profile")]
    groups: Vec<Groups>,
}

/// Writes to the recorder what is counted elsewhere.
pub(crate) type Publisher = Arc<dyn Fn() + Send + Sync>;

#[derive(Clone, Copy, Debug)]
enum Probe {
    WithAdmin,
    At(SocketAddr),
    Off,
}

/// Checked settings: what to bind, and whom to let in.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) probe: Option<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) guard: Guard,
}

impl ControlConfig {
    /// Makes the default settings: probe and admin on `127.0.0.1:8081`, without a token.
    pub fn new() -> Self {
        Self {
            probe: Probe::WithAdmin,
            admin: Some(DEFAULT_ADDR),
            token: None,
            hosts: Vec::new(),
            origins: Vec::new(),
            publishers: Vec::new(),
            breakers: None,
            configuration: None,
            edge: None,
            load_line: None,
            readiness_on_pressure: ReadinessOnPressure::Off,
            max_unready: Duration::from_secs(60),
            profiling: false,
            #[cfg(feature = "profile")]
            groups: Vec::new(),
        }
    }

    /// Sets where *probe* listens: health and metrics, for whoever can reach the address.
    ///
    /// Defaults to the address of *admin*, or to `127.0.0.1:8081` where that is off. Port 0 takes
    /// a free one.
    pub fn probe_addr(mut self, addr: SocketAddr) -> Self {
        self.probe = Probe::At(addr);
        self
    }

    /// Turns *probe* off.
    pub fn no_probe(mut self) -> Self {
        self.probe = Probe::Off;
        self
    }

    /// Sets where *admin* listens. Anywhere but on loopback it needs a [token](Self::token), and
    /// an address that *probe* does not have.
    ///
    /// Defaults to `127.0.0.1:8081`. Port 0 takes a free one.
    pub fn admin_addr(mut self, addr: SocketAddr) -> Self {
        self.admin = Some(addr);
        self
    }

    /// Turns *admin* off.
    pub fn no_admin(mut self) -> Self {
        self.admin = None;
        self
    }

    /// Sets the token that every request to *admin* has to bear. It replaces the check of `Host`.
    ///
    /// From 16 to 256 visible ASCII characters. None by default.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Secret(token.into()));
        self
    }

    /// Allows one more `Host` by which *admin* may be asked without a token, `ops.internal` or
    /// `ops.internal:8081`. Without a port, every port is allowed.
    ///
    /// Loopback addresses and `localhost` are always allowed.
    pub fn allow_host(mut self, host: impl Into<String>) -> Self {
        self.hosts.push(host.into());
        self
    }

    /// Allows one more `Origin` from which a page may ask *admin*, `https://ops.internal`.
    ///
    /// A page served through a TLS proxy has such an origin: the listener's own is plain `http`.
    /// Answers carry no CORS header, so that pages of other origins cannot read them even so.
    pub fn allow_origin(mut self, origin: impl Into<String>) -> Self {
        self.origins.push(origin.into());
        self
    }

    /// Runs `publish` before each scrape, so that what is counted elsewhere comes with it.
    ///
    /// It runs on a thread where it may block, but it has to return: there is one scrape at a time,
    /// so one that hangs ends scraping. Holdings and tasks are published without this.
    pub fn before_scrape(mut self, publish: impl Fn() + Send + Sync + 'static) -> Self {
        self.publishers.push(Arc::new(publish));
        self
    }

    /// Sets whose circuit breakers *admin* shows and operates, and whose metrics come with each
    /// scrape.
    ///
    /// None by default; `plimsoll::Plimsoll` then sets its own.
    pub fn breakers(mut self, breakers: Breakers) -> Self {
        self.breakers = Some(breakers);
        self
    }

    /// The directory that [`breakers`](Self::breakers) was given; where none was, one of its own
    /// from now on.
    pub fn breakers_or_default(&mut self) -> Breakers {
        self.breakers.get_or_insert_default().clone()
    }

    /// Sets the configuration that *admin* shows, and reads again.
    ///
    /// None by default; `plimsoll::Plimsoll` then sets its own.
    pub fn configuration(mut self, configuration: Arc<dyn Configuration>) -> Self {
        self.configuration = Some(configuration);
        self
    }

    /// Sets the [`configuration`](Self::configuration) where none was given.
    pub fn configuration_or(mut self, configuration: Arc<dyn Configuration>) -> Self {
        self.configuration.get_or_insert(configuration);
        self
    }

    /// Sets the edge whose requests *admin* shows.
    ///
    /// None by default; `plimsoll::Plimsoll` then sets its own. Its metrics are published by
    /// [`before_scrape`](Self::before_scrape).
    pub fn edge(mut self, edge: EdgeLayer) -> Self {
        self.edge = Some(edge);
        self
    }

    /// Sets the [`edge`](Self::edge) where none was given.
    pub fn edge_or(mut self, edge: EdgeLayer) -> Self {
        self.edge.get_or_insert(edge);
        self
    }

    /// Sets the memory monitor that *admin* shows, and has make room; and on whose pressure
    /// [readiness](Self::readiness_on_pressure) depends.
    ///
    /// None by default; `plimsoll::Plimsoll` then sets its own. Its metrics are published by
    /// [`before_scrape`](Self::before_scrape).
    pub fn load_line(mut self, line: LoadLine) -> Self {
        self.load_line = Some(line);
        self
    }

    /// Sets the [`load_line`](Self::load_line) where none was given.
    pub fn load_line_or(mut self, line: LoadLine) -> Self {
        self.load_line.get_or_insert(line);
        self
    }

    /// Has `/readyz` say 503 while memory is short, for `max_unready` at the most, from 1 second to an
    /// hour. After that the service is ready whatever the pressure is, until memory was not short for
    /// as long.
    ///
    /// Off by default, since all replicas of a service are short of memory at the same time when its
    /// load is too high, and refusing some requests is better than answering none. It suits a service
    /// whose replicas are filled by different causes. `/livez` never depends on memory.
    pub fn readiness_on_pressure(
        mut self,
        from: ReadinessOnPressure,
        max_unready: Duration,
    ) -> Self {
        self.readiness_on_pressure = from;
        self.max_unready = max_unready;
        self
    }

    /// Sets whether *admin* serves heap profiles, `GET /debug/pprof/heap`, and has blocks sampled for
    /// them. Needs the feature `profile`, and a
    /// [`TrackingAllocator`](plimsoll_alloc::TrackingAllocator) as the allocator of the program.
    ///
    /// Off by default: what the functions of a program are called is for its operators, and so is
    /// what sampling costs.
    pub fn profiling(mut self, profiling: bool) -> Self {
        self.profiling = profiling;
        self
    }

    /// Adds names of groups to the labels of heap profiles: what kind of groups they are, such as
    /// `"adapter"`, and who names them, which is asked for each profile, on a thread where it may
    /// block.
    ///
    /// Those of the [`edge`](Self::edge) are there without this, as `"route"`.
    #[cfg(feature = "profile")]
    pub fn groups(
        mut self,
        kind: &'static str,
        names: impl Fn() -> Vec<(GroupId, Name)> + Send + Sync + 'static,
    ) -> Self {
        self.groups.push((kind, Arc::new(names)));
        self
    }

    pub(crate) fn parts(&self) -> Parts {
        Parts {
            has_probe: self.admin.is_some() && self.admin == self.probe_addr_or_default(),
            breakers: self.breakers.clone().unwrap_or_default(),
            configuration: self.configuration.clone(),
            edge: self.edge.clone(),
            load_line: self.load_line.clone(),
            readiness: Arc::new(self.readiness()),
            #[cfg(feature = "profile")]
            profiling: Profiling {
                is_on: self.profiling,
                groups: self.groups.clone(),
            },
        }
    }

    fn readiness(&self) -> Readiness {
        let manager = self.load_line.as_ref().map(|line| line.manager().clone());
        let level = manager.map(|manager| -> Level { Box::new(move || manager.level()) });
        Readiness::new(self.readiness_on_pressure, self.max_unready, level)
    }

    pub(crate) fn publishers(&self) -> Vec<Publisher> {
        self.publishers.clone()
    }

    pub(crate) fn plan(self) -> Result<Plan, ConfigError> {
        settings::check(&self)?;
        Ok(Plan {
            probe: self.probe_addr_or_default(),
            admin: self.admin,
            guard: Guard {
                token: self.token.map(|token| token.0),
                // All can be parsed, or the check would have said so.
                hosts: parse_all(&self.hosts, Authority::parse),
                origins: parse_all(&self.origins, Origin::parse),
            },
        })
    }

    fn probe_addr_or_default(&self) -> Option<SocketAddr> {
        match self.probe {
            Probe::Off => None,
            Probe::At(addr) => Some(addr),
            Probe::WithAdmin => Some(self.admin.unwrap_or(DEFAULT_ADDR)),
        }
    }
}

impl Settings for ControlConfig {
    fn visit(&mut self, fields: &mut dyn Fields) {
        fields.setting(
            "admin_addr",
            "Where admin listens. Anywhere but on loopback it needs a token.",
            &mut address(&mut self.admin).or(&["off"]),
        );
        let reachable = |addr: SocketAddr| !is_loopback(addr.ip());
        fields.require(
            "admin_addr",
            !self.admin.is_some_and(reachable) || self.token.is_some(),
            &"on a loopback address where there is no token",
        );
        fields.setting(
            "probe_addr",
            "Where probe listens: health and metrics, for whoever can reach it; with_admin is the \
             address of admin.",
            &mut self.probe,
        );
        fields.require(
            "probe_addr",
            !self.admin.is_some_and(reachable) || self.probe_addr_or_default() != self.admin,
            &"another address than admin_addr, unless that is on loopback, or off",
        );
        fields.setting(
            "token",
            "What every request to admin has to bear: 16 to 256 visible ASCII characters.",
            &mut secret(&mut self.token).or(&["none"]),
        );
        let token = self.token.as_ref();
        if let Some(expected) = token.and_then(|token| token_must_be(&token.0)) {
            fields.require("token", false, &expected);
        }
        parsed(
            fields,
            "allow_host",
            "By which hosts admin may be asked without a token, besides loopback.",
            &mut self.hosts,
            Authority::parse,
            "ops.internal:8081",
        );
        parsed(
            fields,
            "allow_origin",
            "From which origins a page may ask admin.",
            &mut self.origins,
            Origin::parse,
            "https://ops.internal",
        );
        fields.setting(
            "readiness_on_pressure",
            "From which pressure of memory on readyz says 503.",
            &mut choice(&mut self.readiness_on_pressure),
        );
        fields.setting(
            "max_unready",
            "After which time it says that the service is ready all the same.",
            &mut duration(&mut self.max_unready, MAX_UNREADY),
        );
        fields.setting(
            "profiling",
            "Whether admin serves heap profiles, and has blocks sampled for them.",
            &mut flag(&mut self.profiling),
        );
        fields.require(
            "profiling",
            !self.profiling || cfg!(feature = "profile"),
            &"off, unless the program is built with the feature `profile`",
        );
    }
}

impl Setting for Probe {
    fn kind(&self) -> Kind {
        Kind::Address
    }

    fn words(&self) -> &'static [&'static str] {
        &["with_admin", "off"]
    }

    fn value(&self) -> Value {
        match self {
            Self::WithAdmin => Value::Word("with_admin"),
            Self::Off => Value::Word("off"),
            Self::At(addr) => Value::Address(*addr),
        }
    }

    fn set(&mut self, value: Value) {
        *self = match value {
            Value::Address(addr) => Self::At(addr),
            Value::Word("off") => Self::Off,
            _ => Self::WithAdmin,
        };
    }
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ControlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlConfig")
            .field("probe", &self.probe)
            .field("admin", &self.admin)
            .field("token", &self.token)
            .field("hosts", &self.hosts)
            .field("origins", &self.origins)
            .field("readiness_on_pressure", &self.readiness_on_pressure)
            .field("max_unready", &self.max_unready)
            .field("profiling", &self.profiling)
            .finish_non_exhaustive()
    }
}

/// What a token must be, if it is not.
fn token_must_be(token: &str) -> Option<String> {
    let (least, most) = (TOKEN_BYTES.start(), TOKEN_BYTES.end());
    let length = token.len();
    if !TOKEN_BYTES.contains(&length) {
        return Some(format!(
            "of {least} to {most} bytes, not {length}: set a random one of 32, say"
        ));
    }
    let visible = token.bytes().all(|c| c.is_ascii_graphic());
    (!visible).then(|| {
        String::from(
            "of visible ASCII characters, without spaces: see that it is read without its line end",
        )
    })
}

fn parse_all<T>(texts: &[String], parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
    texts.iter().filter_map(|text| parse(text)).collect()
}

/// Visits texts that are parsed later, and have to be like an example.
fn parsed<T>(
    fields: &mut dyn Fields,
    key: &'static str,
    about: &'static str,
    values: &mut Vec<String>,
    parse: impl Fn(&str) -> Option<T>,
    example: &str,
) {
    fields.setting(key, about, &mut texts(values));
    if let Some(wrong) = values.iter().find(|text| parse(text).is_none()) {
        let expected = format_args!("like {example:?}, which {wrong:?} is not");
        fields.require(key, false, &expected);
    }
}
