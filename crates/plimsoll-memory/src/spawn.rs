use futures_core::Stream;
use pin_project_lite::pin_project;
use plimsoll_alloc::{MemoryScope, Scoped};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::task::{JoinHandle, spawn_blocking as tokio_spawn_blocking};

/// Spawns a task whose memory belongs to the scope that the caller is in, if it is in one.
///
/// What `tokio::spawn` spawns belongs to nobody. The scope does not end before the task.
///
/// # Panics
///
/// When called outside of a Tokio runtime.
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(Scoped::new(future, MemoryScope::current()))
}

/// Runs work that blocks, on a thread for it. What it allocates belongs to the scope that the caller
/// is in, if it is in one.
///
/// # Panics
///
/// When called outside of a Tokio runtime.
#[track_caller]
pub fn spawn_blocking<F, T>(work: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let scope = MemoryScope::current();
    tokio_spawn_blocking(move || match scope {
        Some(scope) => scope.run(work),
        None => work(),
    })
}

pin_project! {
    /// A stream that is polled and dropped in a scope.
    #[derive(Debug)]
    #[must_use = "streams do nothing unless polled"]
    pub struct ScopedStream<S> {
        #[pin]
        inner: Scoped<S>,
    }
}

impl<S> ScopedStream<S> {
    /// Has a stream polled and dropped in a scope.
    pub const fn new(scope: MemoryScope, stream: S) -> Self {
        Self {
            inner: scope.scoped(stream),
        }
    }

    /// The same for the scope that the caller is in, if it is in one.
    pub fn in_current(stream: S) -> Self {
        Self {
            inner: Scoped::new(stream, MemoryScope::current()),
        }
    }
}

impl<S: Stream> Stream for ScopedStream<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let (_entered, stream) = self.project().inner.enter();
        stream.poll_next(cx)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.inner.inner().size_hint()
    }
}
