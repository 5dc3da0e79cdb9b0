//! One request and its response.

use super::{
    HttpClientErrorKind, Shared, Trailers,
    body::{BoxBody, Outgoing, Sending, collect},
    connect::{Bounded, ConnectFailure, ConnectionHandle, IN_REQUEST},
};
use bytes::Bytes;
use http::{Request, Response, Uri, Version, header::CONTENT_LENGTH, uri::Scheme};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::client::legacy::{Client, Error as ClientError, connect::Connect};
use plimsoll_core::{RejectReason, Rejected};
use std::{
    error::Error,
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// Sends a request and waits for all of its response.
pub(super) async fn exchange<C>(
    client: &Client<Bounded<C>, Outgoing>,
    shared: &Shared,
    request: Request<BoxBody>,
) -> Result<Response<Bytes>, HttpClientErrorKind>
where
    Bounded<C>: Connect + Clone + Send + Sync + 'static,
{
    check_uri(request.uri(), shared.plain)?;
    let (response, sending) = IN_REQUEST.scope((), send(client, shared, request)).await?;
    let (mut head, body) = response.into_parts();
    // A response that is whole is not the place to go on with another protocol.
    head.extensions.remove::<OnUpgrade>();
    // A stream of HTTP/2 is reset when its body is dropped; others go on.
    let handle = head.extensions.remove::<ConnectionHandle>();
    let connection = CloseOnDrop(handle.filter(|_| head.version != Version::HTTP_2));
    let config = &shared.config;
    let collected = collect(body, config.max_response_bytes, config.max_head_bytes).await;
    if let Err(
        HttpClientErrorKind::BodyTooLarge { .. } | HttpClientErrorKind::TrailersTooLarge { .. },
    ) = &collected
    {
        shared.refused_large.fetch_add(1, Relaxed);
    }
    let (data, trailers) = collected?;
    connection.keep_if_sent(&sending);
    head.extensions.insert(Trailers(trailers));
    Ok(Response::from_parts(head, data))
}

/// Sends a request and waits for the head of its response.
async fn send<C>(
    client: &Client<Bounded<C>, Outgoing>,
    shared: &Shared,
    request: Request<BoxBody>,
) -> Result<(Response<Incoming>, Arc<Sending>), HttpClientErrorKind>
where
    Bounded<C>: Connect + Clone + Send + Sync + 'static,
{
    let rejected = || shared.rejected.load(Relaxed);
    let failed = || shared.connect_errors.load(Relaxed) + shared.connect_timeouts.load(Relaxed);
    let (rejected_before, failed_before) = (rejected(), failed());
    let (mut head, mut body) = request.into_parts();
    loop {
        let again = shared.may_share(&head.uri).then(|| head.clone());
        let announced = head.headers.get(CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok());
        let (outgoing, sending) = Outgoing::new(body, announced);
        let error = match client.request(Request::from_parts(head, outgoing)).await {
            Ok(response) => return Ok((response, sending)),
            Err(error) => error,
        };
        if !is_of_another(&error) || failed() != failed_before {
            return Err(kind_of(error));
        }
        // Requests wait for one connection of HTTP/2 together. The one that is to make it has had
        // no place for it, or was dropped, in which case hyper fails the others; but that is for
        // none of them to bear.
        if rejected() != rejected_before {
            shared.rejected.fetch_add(1, Relaxed);
            return Err(HttpClientErrorKind::Rejected(shared.rejection()));
        }
        match (again, sending.take_unread()) {
            (Some(again), Some(unread)) => (head, body) = (again, unread),
            _ => return Err(kind_of(error)),
        }
    }
}

impl Shared {
    pub(super) const fn rejection(&self) -> Rejected {
        Rejected::new(RejectReason::QueueTimeout, self.name)
    }

    /// Whether requests to `uri` may share a connection.
    fn may_share(&self, uri: &Uri) -> bool {
        self.config.http2 || uri.scheme() == Some(&Scheme::HTTPS)
    }
}

/// Whether there is no connection because that of another request did not come.
fn is_of_another(error: &ClientError) -> bool {
    error.is_connect() && connect_failure(error).is_none()
}

fn connect_failure(error: &ClientError) -> Option<&ConnectFailure> {
    error.source()?.downcast_ref()
}

fn kind_of(error: ClientError) -> HttpClientErrorKind {
    match connect_failure(&error) {
        Some(ConnectFailure::Rejected(rejected)) => HttpClientErrorKind::Rejected(*rejected),
        Some(&ConnectFailure::TimedOut(after)) => HttpClientErrorKind::ConnectTimedOut { after },
        _ if error.is_connect() => HttpClientErrorKind::Connect(error.into()),
        _ => HttpClientErrorKind::Failed(error.into()),
    }
}

fn check_uri(uri: &Uri, plain: bool) -> Result<(), HttpClientErrorKind> {
    let expected = match (uri.scheme(), uri.host()) {
        (Some(scheme), Some(_)) if plain && *scheme != Scheme::HTTP => {
            "have the scheme http, for this client has no TLS: \
            make it with `HttpClient::with_connector`"
        }
        (Some(_), Some(host)) if !host.is_empty() => return Ok(()),
        _ => "have a scheme and a host",
    };
    let scheme = uri.scheme_str().unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    Err(HttpClientErrorKind::Uri {
        value: format!("{scheme}://{host}").into(),
        expected,
    })
}

/// Closes a connection whose response nobody waits for any more.
struct CloseOnDrop(Option<ConnectionHandle>);

impl CloseOnDrop {
    /// Lets go of the connection, unless some of the request has not been sent: a server that has
    /// answered may never read the rest.
    fn keep_if_sent(mut self, sending: &Sending) {
        let is_sent = |handle: &ConnectionHandle| sending.is_read() && !handle.is_blocked();
        if self.0.as_ref().is_some_and(is_sent) {
            self.0 = None;
        }
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.close();
        }
    }
}
