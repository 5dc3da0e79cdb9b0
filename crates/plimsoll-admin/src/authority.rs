//! Hosts with ports, and origins, as a browser writes them. Whatever is unusual is not read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A host and perhaps a port: what stands in `Host`, or in an origin after the scheme.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Authority {
    pub(crate) host: Host,
    pub(crate) port: Option<u16>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Host {
    Ip(IpAddr),
    /// In lower case.
    Name(String),
}

/// A scheme, a host, and a port where that is not the scheme's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Origin {
    scheme: String,
    host: Host,
    port: Option<u16>,
}

impl Authority {
    /// Reads `host` or `host:port`. User information, an empty port and an IPv6 zone are taken
    /// for malformed: no browser needs them here, and attacks do.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (ip, port) = rest.split_once(']')?;
                (Host::Ip(ip.parse::<Ipv6Addr>().ok()?.into()), port)
            }
            None => {
                let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                (Host::parse_name(name)?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(digits) => Some(parse_port(digits)?),
            None if port.is_empty() => None,
            None => return None,
        };
        Some(Self { host, port })
    }
}

impl Host {
    fn parse_name(name: &str) -> Option<Self> {
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(is_plain) {
            return None;
        }
        Some(match name.parse::<Ipv4Addr>() {
            Ok(ip) => Self::Ip(ip.into()),
            Err(_) => Self::Name(name.to_ascii_lowercase()),
        })
    }

    /// Whether no DNS server has a say in where this leads.
    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(ip) => is_loopback(*ip),
            Self::Name(name) => name == "localhost",
        }
    }
}

impl Origin {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        if scheme.is_empty() || !scheme.bytes().all(|c| c.is_ascii_alphanumeric()) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let Authority { host, port } = Authority::parse(authority)?;
        let own = match scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        Some(Self {
            scheme,
            host,
            port: port.filter(|port| Some(*port) != own),
        })
    }

    /// The origin of a page that this plain HTTP listener was asked for by `authority`.
    pub(crate) fn of(authority: Authority) -> Self {
        Self {
            scheme: "http".to_owned(),
            host: authority.host,
            port: authority.port.filter(|port| *port != 80),
        }
    }
}

/// Whether only this machine can reach `ip`, written as IPv4, IPv6, or one in the other.
pub(crate) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn parse_port(digits: &str) -> Option<u16> {
    // `parse` would take a sign.
    let plain = digits.bytes().all(|c| c.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}
