//! Who may ask *admin*.

use crate::{
    authority::{Authority, Origin},
    problem::Problem,
};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::Response,
};
use std::{fmt, sync::Arc};
use subtle::ConstantTimeEq;

/// The longest body that may be announced. None is ever read.
const MAX_BODY_BYTES: u64 = 1024;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The rules by which a request is let in.
pub(crate) struct Guard {
    pub(crate) token: Option<String>,
    pub(crate) hosts: Vec<Authority>,
    pub(crate) origins: Vec<Origin>,
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    Token,
    Host,
    Origin,
    CrossSite,
    TooLong,
}

/// The middleware around every route of *admin*, its 404 and 405 included.
pub(crate) async fn guard(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    guard.check(request.method(), request.uri(), request.headers())?;
    Ok(next.run(request).await)
}

impl Guard {
    pub(crate) fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let asked = authority_of(uri, headers);
        match &self.token {
            Some(token) => check_token(token, headers)?,
            // Behind a token, a page of a rebound name is a stranger like any other.
            None => self.check_host(asked.as_ref())?,
        }
        self.check_origin(asked, headers)?;
        let from = |sites: &[&str]| {
            let mut values = headers.get_all(SEC_FETCH_SITE).iter();
            values.any(|site| sites.iter().any(|other| site == other))
        };
        // A page of another port of this host is of the same site, and sends no origin for an image.
        let is_foreign = match profiles(uri) {
            true => from(&["cross-site", "same-site"]),
            false => !method.is_safe() && from(&["cross-site"]),
        };
        if is_foreign {
            return Err(Refusal::CrossSite);
        }
        check_length(headers)
    }

    fn check_host(&self, asked: Option<&Authority>) -> Result<(), Refusal> {
        let asked = asked.ok_or(Refusal::Host)?;
        let allows = |allowed: &Authority| {
            allowed.host == asked.host && (allowed.port.is_none() || allowed.port == asked.port)
        };
        if asked.host.is_loopback() || self.hosts.iter().any(allows) {
            Ok(())
        } else {
            Err(Refusal::Host)
        }
    }

    fn check_origin(&self, asked: Option<Authority>, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(origin) = only(headers, header::ORIGIN).map_err(|Many| Refusal::Origin)? else {
            // Not from a page, or from one of the same origin that only reads.
            return Ok(());
        };
        let origin = origin
            .to_str()
            .ok()
            .and_then(Origin::parse)
            .ok_or(Refusal::Origin)?;
        if self.origins.contains(&origin) || asked.map(Origin::of) == Some(origin) {
            Ok(())
        } else {
            Err(Refusal::Origin)
        }
    }
}

// The token must not reach a log.
impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Token => Self::new(
                StatusCode::UNAUTHORIZED,
                "send `Authorization: Bearer <token>`",
            )
            .with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            Refusal::Host => Self::new(
                StatusCode::FORBIDDEN,
                "this Host is not allowed: use a loopback address or `localhost`, or allow it with `allow_host`",
            ),
            Refusal::Origin => Self::new(
                StatusCode::FORBIDDEN,
                "this Origin is not allowed: allow it with `allow_origin`",
            ),
            Refusal::CrossSite => Self::new(
                StatusCode::FORBIDDEN,
                "pages of other sites may not do this",
            ),
            Refusal::TooLong => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "no route takes a body: send none",
            ),
        }
    }
}

/// Whether so much is done for a request that a page of somebody else had better not have it done by
/// asking, though it could not read the answer.
fn profiles(uri: &Uri) -> bool {
    uri.path().starts_with("/debug/")
}

struct Many;

/// The value of a header that may be there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, Many> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Many),
    }
}

/// Whom the client thinks it is talking to. `None` if it does not say, or says it twice in
/// different ways.
fn authority_of(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let host = only(headers, header::HOST).ok()?;
    let host = host.map(|host| host.to_str().ok().and_then(Authority::parse));
    let target = uri
        .authority()
        .map(|target| Authority::parse(target.as_str()));
    match (host, target) {
        (Some(host), Some(target)) if host != target => None,
        (Some(host), _) => host,
        (None, target) => target?,
    }
}

fn check_token(token: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let presented = only(headers, header::AUTHORIZATION)
        .ok()
        .flatten()
        .and_then(|value| bearer(value.as_bytes()))
        .ok_or(Refusal::Token)?;
    // The length is no secret; how many of its bytes are right is.
    if bool::from(presented.ct_eq(token.as_bytes())) {
        Ok(())
    } else {
        Err(Refusal::Token)
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("Bearer".len())?;
    let token = rest.trim_ascii_start();
    (scheme.eq_ignore_ascii_case(b"Bearer") && token.len() < rest.len()).then_some(token)
}

fn check_length(headers: &HeaderMap) -> Result<(), Refusal> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    match announced.and_then(|digits| digits.parse::<u64>().ok()) {
        Some(bytes) if bytes > MAX_BODY_BYTES => Err(Refusal::TooLong),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
