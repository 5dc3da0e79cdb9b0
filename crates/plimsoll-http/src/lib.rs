//! Plimsoll at the HTTP edge: one fused layer around a whole service, and a server that drains.
//!
//! - [`EdgeLayer`] follows each request from its head to the last byte of its response, and
//!   counts by endpoint what was asked, how it ended, how long it took and how much went out.
//! - [`RejectedToResponse`] turns the errors of a Tower stack into problem responses, so that
//!   axum needs no `HandleErrorLayer`.
//! - `HttpOutcome` and `GrpcOutcome` judge responses for a circuit breaker. Feature `breaker`.
//! - `HttpClient` calls other services over pooled connections, all of it within limits. Feature
//!   `client`.
//! - `Webhook` sends alerts of the memory monitor to whoever is to know of them. Feature `client`.
//! - [`Server`] accepts, caps what a connection may take before a handler runs, and drains within
//!   the deadline of a [`Lifecycle`](plimsoll_core::Lifecycle). Feature `server`, on by default.
//!
//! # Example
//!
//! ```
//! use plimsoll_http::EdgeLayer;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let edge = EdgeLayer::new();
//! let mut service = ServiceBuilder::new().layer(edge.clone()).service(service_fn(
//!     |_: http::Request<()>| async {
//!         Ok::<_, std::convert::Infallible>(http::Response::new(String::from("hello")))
//!     },
//! ));
//!
//! let response = service.ready().await.unwrap().call(http::Request::new(())).await.unwrap();
//! assert_eq!(edge.in_flight(), 1, "until the body has ended or is dropped");
//! drop(response);
//! assert_eq!(edge.in_flight(), 0);
//! # }
//! ```
//!
//! # Ordering
//!
//! The edge goes outermost, so that what other layers take counts too. With axum use
//! `Router::layer`, which sees the matched route and the fallback as well.

#[cfg(feature = "client")]
pub mod client;
pub mod edge;
#[cfg(feature = "breaker")]
pub mod grpc;
#[cfg(feature = "breaker")]
pub mod outcome;
pub mod reject;
#[cfg(feature = "server")]
pub mod server;
mod trailers;
#[cfg(feature = "client")]
pub mod webhook;

#[cfg(feature = "client")]
pub use self::client::{HttpClient, HttpClientConfig};
#[cfg(feature = "server")]
pub use self::server::{Server, ServerConfig};
#[cfg(feature = "client")]
pub use self::webhook::{Webhook, WebhookConfig};
pub use self::{
    edge::{Edge, EdgeLayer, EndpointLabel},
    reject::RejectedToResponse,
    trailers::Trailers,
};
#[cfg(feature = "breaker")]
pub use self::{grpc::GrpcOutcome, outcome::HttpOutcome};
