use crate::{
    authority::{Authority, Origin, is_loopback},
    error::InvalidControl,
    guard::Guard,
};
use plimsoll_breaker::Breakers;
use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// Where the control listeners listen when they are told nothing else.
const DEFAULT_ADDR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);

const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=256;

/// The settings of the [control listeners](crate::Control).
///
/// They are checked by [`Control::start`](crate::Control::start). `Debug` does not show the token.
#[derive(Clone)]
#[must_use = "settings do nothing until the listeners are started with them"]
pub struct ControlConfig {
    probe: Probe,
    admin: Option<SocketAddr>,
    token: Option<String>,
    hosts: Vec<String>,
    origins: Vec<String>,
    publishers: Vec<Publisher>,
    breakers: Option<Breakers>,
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
        self.token = Some(token.into());
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

    /// The directory that [`breakers`](Self::breakers) was given.
    #[must_use]
    pub const fn given_breakers(&self) -> Option<&Breakers> {
        self.breakers.as_ref()
    }

    pub(crate) fn publishers(&self) -> Vec<Publisher> {
        self.publishers.clone()
    }

    pub(crate) fn plan(self) -> Result<Plan, InvalidControl> {
        let probe = match self.probe {
            Probe::Off => None,
            Probe::At(addr) => Some(addr),
            Probe::WithAdmin => Some(self.admin.unwrap_or(DEFAULT_ADDR)),
        };
        if let Some(token) = &self.token {
            check_token(token)?;
        }
        if let Some(addr) = self.admin
            && !is_loopback(addr.ip())
        {
            if self.token.is_none() {
                let problem = format!(
                    "is {addr}, which others can reach, and no `token` is set: \
                     set one, or listen on a loopback address"
                );
                return Err(invalid("admin_addr", problem));
            }
            if probe == self.admin {
                let problem = format!(
                    "is {addr}, as `admin_addr` is, which only a loopback address may be: \
                     give it another port, or turn it off with `no_probe`"
                );
                return Err(invalid("probe_addr", problem));
            }
        }
        Ok(Plan {
            probe,
            admin: self.admin,
            guard: Guard {
                token: self.token,
                hosts: parse_all(
                    self.hosts,
                    "allow_host",
                    "ops.internal:8081",
                    Authority::parse,
                )?,
                origins: parse_all(
                    self.origins,
                    "allow_origin",
                    "https://ops.internal",
                    Origin::parse,
                )?,
            },
        })
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
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("hosts", &self.hosts)
            .field("origins", &self.origins)
            .finish_non_exhaustive()
    }
}

/// Tells what is wrong with a token without telling the token.
fn check_token(token: &str) -> Result<(), InvalidControl> {
    let (least, most) = (TOKEN_BYTES.start(), TOKEN_BYTES.end());
    if !TOKEN_BYTES.contains(&token.len()) {
        let problem = format!(
            "has {} bytes and needs {least} to {most}: set a random one of 32, say",
            token.len()
        );
        return Err(invalid("token", problem));
    }
    if !token.bytes().all(|c| c.is_ascii_graphic()) {
        let problem = "has spaces, line ends or other than ASCII characters: \
                       set one of visible ASCII characters, and see that it is read without its line end";
        return Err(invalid("token", problem.to_owned()));
    }
    Ok(())
}

fn parse_all<T>(
    texts: Vec<String>,
    field: &'static str,
    example: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, InvalidControl> {
    let parse = |text: String| {
        parse(&text).ok_or_else(|| invalid(field, format!("is {text:?}: write it as {example:?}")))
    };
    texts.into_iter().map(parse).collect()
}

const fn invalid(field: &'static str, problem: String) -> InvalidControl {
    InvalidControl { field, problem }
}
