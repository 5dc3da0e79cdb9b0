use crate::{Entered, MemoryScope};
use std::{
    mem::ManuallyDrop,
    pin::Pin,
    task::{Context, Poll},
};

/// A future, or a stream or a body, that is polled and dropped in a scope, if it has one.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Scoped<T> {
    inner: ManuallyDrop<T>,
    scope: Option<MemoryScope>,
}

impl MemoryScope {
    /// Has a future, or anything else, polled and dropped in this scope.
    pub const fn scoped<T>(self, inner: T) -> Scoped<T> {
        Scoped {
            inner: ManuallyDrop::new(inner),
            scope: Some(self),
        }
    }
}

impl<T> Scoped<T> {
    /// Has something polled and dropped in a scope; where there is none, as it would be anyway.
    #[inline]
    pub const fn new(inner: T, scope: Option<MemoryScope>) -> Self {
        Self {
            inner: ManuallyDrop::new(inner),
            scope,
        }
    }

    /// What is inside, outside of the scope.
    #[must_use]
    #[inline]
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// What is inside, and the scope, which is left when the guard is dropped: for traits that are
    /// polled and not known here.
    #[must_use]
    #[inline]
    pub fn enter(self: Pin<&mut Self>) -> (Option<Entered<'_>>, Pin<&mut T>) {
        // SAFETY: what is inside is not moved out of what is pinned: it is only borrowed here, and
        // dropped in place; the scope is not pinned.
        let this = unsafe { self.get_unchecked_mut() };
        let entered = this.scope.as_ref().map(MemoryScope::enter);
        // SAFETY: as above.
        (entered, unsafe { Pin::new_unchecked(&mut *this.inner) })
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let (_entered, future) = self.enter();
        future.poll(cx)
    }
}

impl<T> Drop for Scoped<T> {
    #[inline]
    fn drop(&mut self) {
        let _entered = self.scope.as_ref().map(MemoryScope::enter);
        // SAFETY: it is dropped once, in place, and not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.inner) };
    }
}
