//! A tower layer that lets only requests with a valid key through, for axum and tonic services alike.
//!
//! The layer takes the key's secret from the request, verifies it, and puts a [`Principal`](crate::Principal) into the
//! request's extensions. Every other request is answered here, as Keyward itself answers: a request whose content type
//! is `application/grpc` with a gRPC status that has details, all others with a JSON body. What Keyward cannot decide
//! is refused with 503 or UNAVAILABLE; nothing is let through because of a failure.
//!
//! ```no_run
//! # fn f(client: keyward_client::Client) -> Result<(), keyward_client::BuildError> {
//! use keyward_client::{KeywardLayer, layer::Route};
//!
//! let layer = KeywardLayer::builder(client, "norrix")
//!     .environment("production")
//!     .route(Route::at("/healthz").public())
//!     .route(Route::at("/api/build/*").methods(["GET", "POST"]).scope("build"))
//!     .build()?;
//! # Ok(()) }
//! ```
//!
//! With [`LayerBuilder::end_work`] requests that were let through end with their key: the service's future is dropped
//! and the request refused, or, if the response has begun, its body ends with an error, and a gRPC stream with a
//! status.
//!
//! A refusal carries the [`Error`](crate::Error) or the [`Refusal`](crate::Refusal), or the
//! [`EndReason`](crate::EndReason), as an extension of the response, for layers outside of this one that log.

mod body;
mod builder;
mod credential;
mod denial;
mod path;
mod request_id;
mod route;
mod service;
mod work;

pub use body::GuardedBody;
pub use builder::{KeywardLayer, LayerBuilder};
pub use credential::CredentialHeader;
pub use route::Route;
pub use service::KeywardService;
