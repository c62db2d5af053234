//! REST on axum: a thin shim over the same use cases as gRPC, for curl and external clients.
//!
//! A request passes `server` (connections), `layers` (what every request has in common), `router` (the routes) and the
//! file of its resource. A new route is a handler in the file of its resource and a line in `router`.

mod activity;
mod api_keys;
mod client_ip;
pub(crate) mod error;
mod events;
pub(crate) mod extract;
pub(crate) mod forward_auth;
mod identity;
mod layers;
mod openapi;
mod probes;
pub(crate) mod request;
mod response;
mod router;
mod scrape;
mod self_service;
pub mod server;
pub mod startup;
mod verify;

pub use self::{
    layers::HttpHandler,
    request::Published,
    router::{Rest, Routes},
};
