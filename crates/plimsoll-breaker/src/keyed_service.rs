use crate::{Classify, ErrorsAreFailures, KeyedBreakers, future::ResponseFuture};
use plimsoll_core::BoxError;
use std::{
    fmt, mem,
    task::{Context, Poll, ready},
};
use tower_layer::Layer;
use tower_service::Service;

/// Puts the circuit breaker of each request's key around services.
///
/// ```
/// use plimsoll_breaker::{KeyedBreakerLayer, KeyedBreakers, KeyedConfig};
/// use tower::{ServiceBuilder, service_fn};
///
/// struct Request { tenant: String }
///
/// let tenants = KeyedBreakers::new("tenants", KeyedConfig::new().max_keys(1_000))?;
/// let service = ServiceBuilder::new()
///     .layer(KeyedBreakerLayer::new(tenants, |request: &Request| &request.tenant))
///     .service(service_fn(|_: Request| async { Ok::<_, std::io::Error>(()) }));
/// # let _ = service;
/// # Ok::<(), plimsoll_breaker::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct KeyedBreakerLayer<K, C = ErrorsAreFailures> {
    breakers: KeyedBreakers,
    key: K,
    classify: C,
}

impl<K> KeyedBreakerLayer<K> {
    /// Makes a layer whose `key` tells the key of a request. It judges every error a failure, but
    /// for the refusals of Plimsoll's own layers.
    pub fn new<Req>(breakers: KeyedBreakers, key: K) -> Self
    where
        K: Fn(&Req) -> &str,
    {
        Self {
            breakers,
            key,
            classify: ErrorsAreFailures,
        }
    }
}

impl<K, C> KeyedBreakerLayer<K, C> {
    /// Judges calls by `classify`: a [`Classify`] or a closure.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> KeyedBreakerLayer<K, D> {
        KeyedBreakerLayer {
            breakers: self.breakers,
            key: self.key,
            classify,
        }
    }
}

impl<S, K: Clone, C: Clone> Layer<S> for KeyedBreakerLayer<K, C> {
    type Service = KeyedBreakerService<S, K, C>;

    fn layer(&self, inner: S) -> Self::Service {
        KeyedBreakerService {
            inner,
            ready: false,
            breakers: self.breakers.clone(),
            key: self.key.clone(),
            classify: self.classify.clone(),
        }
    }
}

impl<K, C> fmt::Debug for KeyedBreakerLayer<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedBreakerLayer")
            .field("breakers", &self.breakers)
            .finish_non_exhaustive()
    }
}

/// A service behind the circuit breaker of each request's key.
///
/// Which breaker it is is known when the call is made, so it is ready when the service inside is.
pub struct KeyedBreakerService<S, K, C = ErrorsAreFailures> {
    inner: S,
    ready: bool,
    breakers: KeyedBreakers,
    key: K,
    classify: C,
}

impl<S: Clone, K: Clone, C: Clone> Clone for KeyedBreakerService<S, K, C> {
    /// The clone is not ready, whatever this one is.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            ready: false,
            breakers: self.breakers.clone(),
            key: self.key.clone(),
            classify: self.classify.clone(),
        }
    }
}

impl<S, K, C, Req> Service<Req> for KeyedBreakerService<S, K, C>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    K: Fn(&Req) -> &str,
    C: Classify<S::Response> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.ready = false;
        ready!(self.inner.poll_ready(cx)).map_err(Into::into)?;
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    /// # Panics
    ///
    /// If `poll_ready` was not ready before.
    fn call(&mut self, request: Req) -> Self::Future {
        let was_ready = mem::replace(&mut self.ready, false);
        assert!(was_ready, "`poll_ready` must be ready before `call`");
        let breaker = self.breakers.get((self.key)(&request));
        match breaker.try_acquire() {
            Ok(permit) => {
                // Should this panic, the drop of the permit sees it.
                let call = self.inner.call(request);
                ResponseFuture::admitted(call, permit, self.classify.clone())
            }
            Err(open) => {
                // What the inner service reserved for this call is given back with it.
                let unready = self.inner.clone();
                drop(mem::replace(&mut self.inner, unready));
                ResponseFuture::refused(open, self.classify.clone())
            }
        }
    }
}

impl<S: fmt::Debug, K, C> fmt::Debug for KeyedBreakerService<S, K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedBreakerService")
            .field("inner", &self.inner)
            .field("breakers", &self.breakers)
            .finish_non_exhaustive()
    }
}
