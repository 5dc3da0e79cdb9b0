use crate::MemoryScope;
use std::{
    mem::ManuallyDrop,
    pin::Pin,
    task::{Context, Poll},
};

/// A future that is polled, and dropped, in a scope.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Scoped<F> {
    future: ManuallyDrop<F>,
    scope: MemoryScope,
}

impl MemoryScope {
    /// Has a future polled, and dropped, in this scope.
    pub const fn scoped<F>(self, future: F) -> Scoped<F> {
        Scoped {
            future: ManuallyDrop::new(future),
            scope: self,
        }
    }
}

impl<F> Scoped<F> {
    /// The scope.
    #[must_use]
    pub const fn scope(&self) -> &MemoryScope {
        &self.scope
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the future is not moved out of what is pinned: it is only borrowed here, and
        // dropped in place; the scope is not pinned.
        let this = unsafe { self.get_unchecked_mut() };
        let _entered = this.scope.enter();
        // SAFETY: as above.
        unsafe { Pin::new_unchecked(&mut *this.future) }.poll(cx)
    }
}

impl<F> Drop for Scoped<F> {
    fn drop(&mut self) {
        let _entered = self.scope.enter();
        // SAFETY: it is dropped once, in place, and not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.future) };
    }
}
