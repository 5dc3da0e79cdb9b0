use crate::{
    api,
    config::Plan,
    error::BindError,
    guard::{self, Guard},
    probe, problem,
    shared::Shared,
};
use axum::{Router, middleware};
use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

/// One address and what it serves.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) listener: TcpListener,
    pub(crate) probe: bool,
    pub(crate) admin: bool,
}

impl Site {
    /// Binds what `plan` says: no site, one, or two.
    pub(crate) fn bind(plan: &Plan) -> Result<Vec<Self>, BindError> {
        let mut sites = Vec::new();
        if let Some(addr) = plan.admin {
            let probe = plan.probe == plan.admin;
            let listener = if probe { "probe and admin" } else { "admin" };
            sites.push(Self {
                listener: listen(listener, "admin_addr", addr)?,
                probe,
                admin: true,
            });
        }
        if let Some(addr) = plan.probe
            && plan.probe != plan.admin
        {
            sites.push(Self {
                listener: listen("probe", "probe_addr", addr)?,
                probe: true,
                admin: false,
            });
        }
        Ok(sites)
    }

    pub(crate) fn router(&self, shared: &Arc<Shared>, guard: &Arc<Guard>) -> Router {
        let mut router = if self.admin {
            let guard = middleware::from_fn_with_state(guard.clone(), guard::guard);
            api::router(shared.clone()).layer(guard)
        } else {
            Router::new().fallback(problem::not_found)
        };
        if self.probe {
            router = router.merge(probe::router(shared.clone()));
        }
        router.layer(middleware::map_response(problem::with_headers))
    }
}

fn listen(
    listener: &'static str,
    field: &'static str,
    addr: SocketAddr,
) -> Result<TcpListener, BindError> {
    let bound = TcpListener::bind(addr).and_then(|bound| {
        bound.set_nonblocking(true)?;
        Ok(bound)
    });
    bound.map_err(|source| BindError {
        listener,
        field,
        addr,
        source,
    })
}
