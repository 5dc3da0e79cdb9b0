//! Servers to be driven.

use crate::cpu;
use axum::{Router, serve::ListenerExt};
use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};
use tokio::runtime::{Builder, Runtime};

/// Makes a runtime of so many threads, each pinned to a CPU of its own, the first ones. It is the
/// caller of [`run`] that serves if there is one.
///
/// # Errors
///
/// When the system refuses.
///
/// # Panics
///
/// A thread of it does when it cannot be pinned.
pub fn runtime(workers: usize) -> io::Result<Runtime> {
    let mut builder = if workers == 1 {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    let next_cpu = AtomicUsize::new(0);
    builder
        .worker_threads(workers)
        .on_thread_start(move || {
            cpu::pin(next_cpu.fetch_add(1, Relaxed) % workers).expect("there are enough CPUs");
        })
        .enable_all()
        .build()
}

/// Runs what was spawned on a runtime of so many threads, for ever.
///
/// # Panics
///
/// When the thread cannot be pinned.
pub fn run(runtime: &Runtime, workers: usize) -> Infallible {
    if workers == 1 {
        cpu::pin(0).expect("there are enough CPUs");
    }
    runtime.block_on(std::future::pending())
}

/// Listens on loopback, within a runtime.
///
/// # Errors
///
/// When the system refuses.
pub fn listen() -> io::Result<tokio::net::TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// Serves by [`axum::serve()`], for ever.
///
/// # Panics
///
/// When axum ends.
pub async fn serve_by_axum(listener: tokio::net::TcpListener, router: Router) {
    let listener = listener.tap_io(|stream| {
        // As our server does.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router)
        .await
        .expect("axum::serve never ends");
}
