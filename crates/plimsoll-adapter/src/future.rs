//! The futures of calls.

use crate::AdapterError;
use plimsoll_core::{BoxError, BoxFuture};
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

/// A call to an adapter.
///
/// # Cancel safety
///
/// Dropping it cancels the call and gives back what it has taken; see
/// [`Adapter::call`](crate::Adapter::call).
#[must_use = "a call that is not polled is not made"]
pub struct CallFuture<Res>(BoxFuture<'static, Result<Res, AdapterError>>);

/// A call to an adapter as a Tower service.
///
/// # Cancel safety
///
/// As that of [`CallFuture`].
#[must_use = "a call that is not polled is not made"]
pub struct ResponseFuture<Res>(CallFuture<Res>);

impl<Res> CallFuture<Res> {
    pub(crate) const fn new(call: BoxFuture<'static, Result<Res, AdapterError>>) -> Self {
        Self(call)
    }
}

impl<Res> ResponseFuture<Res> {
    pub(crate) const fn new(call: CallFuture<Res>) -> Self {
        Self(call)
    }
}

impl<Res> Future for CallFuture<Res> {
    type Output = Result<Res, AdapterError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<Res> Future for ResponseFuture<Res> {
    type Output = Result<Res, BoxError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(Into::into)
    }
}

impl<Res> fmt::Debug for CallFuture<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallFuture").finish_non_exhaustive()
    }
}

impl<Res> fmt::Debug for ResponseFuture<Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
