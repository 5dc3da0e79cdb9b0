use plimsoll_core::BoxError;
use std::task::{Context, Poll};
use tower_service::Service;

/// A closure as a service.
#[derive(Clone)]
pub(crate) struct Function<F>(pub(crate) F);

impl<F, Fut, Req, Res, E> Service<Req> for Function<F>
where
    F: Fn(Req) -> Fut,
    Fut: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Response = Res;
    type Error = E;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Fut {
        (self.0)(request)
    }
}
